"""What a decision on an experiment means: which steps are left to it, in their order, and how many people they move.

Pure. Amplitude's app does a decision with one click; of its API nobody says what the field ``decision`` does by
itself, so everything that the app does beside it is a step here. A step that stands already is none, so whoever died
between two steps goes on with what is left.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import reduce
from typing import Any, Literal

from airflow_amplitude_experiment.api import Call, RolloutRefused
from airflow_amplitude_experiment.api._checks import camel, short

from .description import Wanted, alike, differences, moment_of
from .ramp import last_change
from .segments import writable
from .traffic import shares
from .weights import moved_share

FINAL = ("rollout", "rollback")
ANEW = "To decide anew all the same: on_drift='overwrite'."


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What is asked for.

    :param variant: the winner of a rollout.
    :param reason: why, kept on the experiment; ``None`` leaves the one that is there.
    :param end_date: the new end of one that continues, as the API takes it.
    :param enable: switch a disabled experiment on.
    :param overwrite: decide anew what was decided otherwise, or was changed since.
    """

    decision: Literal["rollout", "rollback", "continue-running"]
    variant: str | None = None
    reason: str | None = None
    end_date: str | None = None
    enable: bool = False
    overwrite: bool = False

    def __str__(self) -> str:
        return {
            "rollout": f"rollout of {self.variant}",
            "rollback": "rollback",
            "continue-running": f"continue-running until {(self.end_date or '')[:10]}",
        }[self.decision]

    @property
    def fields(self) -> dict[str, Any]:
        """The decision itself, as arguments of an update."""
        said = {"decision": self.decision, **({"decision_reason": self.reason} if self.reason else {})}
        return {**said, **({"rolled_out_variant": self.variant} if self.decision == "rollout" else {})}


@dataclass(frozen=True, slots=True)
class Step:
    """One PATCH.

    :param words: what it does, for people.
    :param fields: arguments of the call.
    :param variant: the variant that it is a PATCH of; ``None`` for the experiment.
    """

    words: str
    fields: Mapping[str, Any]
    variant: str | None = None

    def __str__(self) -> str:
        return self.words

    def call(self, calls: Any, object_id: str) -> Call[Any]:
        """Return the call that does it."""
        call: Call[Any] = (
            calls.update(object_id, **self.fields)
            if self.variant is None
            else calls.update_variant(object_id, self.variant, **self.fields)
        )
        return call

    def left(self, found: Any) -> list[str]:
        """Say what of it does not stand, in words."""
        if self.variant is None:
            wanted = Wanted(kind="experiment", key=found.key, post=self.fields, patch={})
            return [str(each) for each in differences(wanted, found)]
        wanted_weight, weight = self.fields["rollout_weight"], _weights(found).get(self.variant, 0)
        return [] if weight == wanted_weight else [f"weight of {self.variant}: given {wanted_weight}, there {weight:g}"]

    def applied(self, found: Any) -> Any:
        """Return the experiment as it stands once this is done."""
        changed: dict[str, Any] = {camel(name): value for name, value in self.fields.items()}
        if self.variant is not None:
            changed = {"rolloutWeights": {**_weights(found), self.variant: self.fields["rollout_weight"]}}
        if segments := changed.get("targetSegments"):
            changed["targetSegments"] = [
                {name: value for name, value in each.items() if name != "everyone"} for each in segments
            ]
        return type(found).model_validate({**found.as_json(), **changed})


# --- which steps ------------------------------------------------------------------------------------------------------


def plan(found: Any, order: Order, *, now: datetime) -> tuple[Step, ...]:
    """Return the steps that are left to a decision; none where it was decided and done so already.

    :param found: the experiment as just read, with its variants and weights.
    :param now: tells whether the new end lies in the past.
    :raises RolloutRefused: it was decided otherwise, changed since, or can't be decided so; the text says what to do.
    """
    if found.deleted:
        raise _refused(found, "is archived; an archived experiment can't be decided", "Restore it in Amplitude first.")
    if order.decision == "rollout":
        _refuse_unknown_winner(found, order)
    if not _is_left(found, order):
        return ()
    _refuse_drift(found, order)
    if order.decision != "rollback" and not found.enabled and not order.enable:
        raise _refused(
            found,
            f"is disabled, so a decision {order.decision!r} would reach nobody",
            "Enable it in Amplitude, or pass enable=True to switch it on with the decision.",
        )
    if order.decision == "rollout":
        _refuse_bandit(found)
    if order.decision == "continue-running" and _day(order.end_date) < now.date():
        raise _refused(
            found, f"can't continue until {_day(order.end_date)}: that is over", "Give an end that is still to come."
        )
    return missing(found, order)


def missing(found: Any, order: Order) -> tuple[Step, ...]:
    """Return the steps that don't stand yet, whatever was decided before.

    :raises RolloutRefused: a target segment that has to be changed can't be written back.
    """
    if order.decision == "rollout":
        return tuple(_rollout(found, order))
    if not _is_left(found, order):
        return ()
    if order.decision == "rollback":
        return (Step("switch off, 0 %, and the decision", {"enabled": False, "rollout_percentage": 0, **order.fields}),)
    on = {} if found.enabled else {"enabled": True}
    words = f"{'switch on, ' if on else ''}new end date and the decision"
    return (Step(words, {**on, "end_date": order.end_date, **order.fields}),)


def _is_left(found: Any, order: Order) -> bool:
    """Whether there is anything to do."""
    if found.decision != order.decision:
        return True
    if order.decision == "rollback":
        return bool(found.enabled)
    if order.decision == "continue-running":
        return not found.enabled or not alike("end_date", order.end_date, found.end_date)
    return not _serves_all(found, order) or bool(
        found.sticky_bucketing
        or not _is_sole(_weights(found), order.variant)
        or not all(_serves_only(each, order.variant) for each in found.target_segments or ())
    )


def _rollout(found: Any, order: Order) -> Iterator[Step]:
    """Yield the steps of a rollout. The winner's share never falls on the way."""
    if found.sticky_bucketing:
        yield Step("sticky bucketing off", {"sticky_bucketing": False})
    winner, weights = str(order.variant), _weights(found)
    if not _is_sole(weights, winner):
        if weights.get(winner, 0) < 100:
            yield Step(f"weight of {winner} to 100", {"rollout_weight": 100}, winner)
        # The lightest first: that widens the others' intervals least, and so moves the fewest of the winner's users.
        for key in sorted(weights.keys() - {winner}, key=lambda each: (weights[each], each)):
            if weights[key]:
                yield Step(f"weight of {key} to 0", {"rollout_weight": 0}, key)
    if not all(_serves_only(each, winner) for each in found.target_segments or ()):
        yield Step(f"every target segment to 100 % {winner}", {"target_segments": _segments(found, winner)})
    if not _serves_all(found, order):
        on = {} if found.enabled else {"enabled": True}
        words = f"{'switch on, ' if on else ''}100 % and the decision"
        yield Step(words, {**on, "rollout_percentage": 100, **order.fields})


def _serves_all(found: Any, order: Order) -> bool:
    """Whether the last step of a rollout stands."""
    decided = (found.decision, found.rolled_out_variant) == (order.decision, order.variant)
    return bool(decided and found.enabled and found.rollout_percentage == 100)


def _serves_only(segment: Any, winner: str | None) -> bool:
    return segment.percentage == 100 and _is_sole(segment.rollout_weights or {}, winner)


def _is_sole(weights: Mapping[str, float], winner: str | None) -> bool:
    """Whether the winner is the only one that gets anybody, in whatever numbers that is written."""
    return [key for key, weight in weights.items() if weight] == [winner]


def _segments(found: Any, winner: str) -> list[dict[str, Any]]:
    """Return all target segments as the API takes them back, each of them all for the winner."""
    alone = {**dict.fromkeys(_keys(found), 0), winner: 100}
    try:
        readable = [writable(found.key, each.as_json()) for each in found.target_segments]
    except RolloutRefused as refusal:
        raise RolloutRefused(
            f"{refusal} Give every target segment 100 % there, with the weight 100 for {winner} and 0 for all others; "
            "then clear this task: it does the rest."
        ) from None
    return [{**each, "percentage": 100, "rolloutWeights": alone} for each in readable]


# --- what is refused --------------------------------------------------------------------------------------------------


def _refuse_unknown_winner(found: Any, order: Order) -> None:
    if order.variant not in _keys(found):
        raise RolloutRefused(
            f"{found.key} has no variant {order.variant!r}; there are: {', '.join(_keys(found))}. Nothing was written."
        )


def _refuse_drift(found: Any, order: Order) -> None:
    """Refuse to undo another decision, or what somebody changed after this very one."""
    stands = found.decision or None
    if order.overwrite or stands is None or (stands == "continue-running" and order.decision in FINAL):
        return
    if stands != order.decision or (stands == "rollout" and found.rolled_out_variant != order.variant):
        winner = f" of {found.rolled_out_variant}" if found.rolled_out_variant and stands == "rollout" else ""
        why = f" ({short(found.decision_reason)})" if found.decision_reason else ""
        raise _refused(found, f"was decided already: {stands}{winner}{why}; asked for: {order}", ANEW)
    if order.decision == "continue-running":
        if found.end_date and _day(found.end_date) > _day(order.end_date):
            raise _refused(found, f"continues until {_day(found.end_date)} already, later than asked for", ANEW)
        return
    raise _refused(
        found, f"was decided so already ({order}) and changed since: {'; '.join(_deviations(found, order))}", ANEW
    )


def _deviations(found: Any, order: Order) -> Iterator[str]:
    """Say in what an experiment differs from what its decision made of it."""
    if order.decision == "rollback":
        yield "it is enabled"
        return
    if not found.enabled:
        yield "it is disabled"
    if found.rollout_percentage != 100:
        yield f"it stands at {found.rollout_percentage} %"
    if found.sticky_bucketing:
        yield "sticky bucketing is on"
    if not _is_sole(_weights(found), order.variant):
        yield f"weights {short(_weights(found))}"
    for each in found.target_segments or ():
        if not _serves_only(each, order.variant):
            yield f"target segment {each.name!r} at {each.percentage} %, weights {short(each.rollout_weights)}"


def _refuse_bandit(found: Any) -> None:
    if found.experiment_type == "multi-arm-bandit":
        raise _refused(
            found,
            "is a bandit: as long as it is enabled Amplitude sets its weights itself, and would undo a rollout",
            "Roll it out in Amplitude's app, then clear this task: it finds the decision there.",
        )


def _refused(found: Any, what: str, advice: str) -> RolloutRefused:
    return RolloutRefused(f"{found.key} {what}.{last_change(found)} Nothing was written. {advice}")


# --- how many people --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Shift:
    """What becomes of the users of a target segment, or of all other users. In percent.

    :param before, after: of these users, by variant.
    :param changing: of those who have a variant and keep one, who get another.
    :param joining, leaving: of these users, who get their first variant, and who lose theirs.
    """

    who: str
    before: dict[str, float]
    after: dict[str, float]
    changing: float
    joining: float
    leaving: float

    def __str__(self) -> str:
        told = []
        if self.changing:
            told.append(f"{self.changing:g} % of those in it change variant ({', '.join(self._losses())})")
        if self.joining:
            told.append(f"{self.joining:g} % newly get {' or '.join(self.after)}")
        if self.leaving:
            told.append(f"{self.leaving:g} % lose their variant ({', '.join(self.before)})")
        return f"{self.who}: {', '.join(told) or 'nobody changes'}"

    def as_json(self) -> dict[str, Any]:
        """Return it for the record."""
        return {
            "who": self.who,
            "before": self.before,
            "after": self.after,
            "change_variant": self.changing,
            "newly_get_one": self.joining,
            "lose_theirs": self.leaving,
        }

    def _losses(self) -> Iterator[str]:
        """Yield the split of those in it, where a variant loses."""
        then, now = (sum(side.values()) or 1 for side in (self.before, self.after))
        for key, share in self.before.items():
            before, after = (round(100 * part, 4) for part in (share / then, self.after.get(key, 0) / now))
            if after < before:
                yield f"{key} {before:g} % -> {after:g} %"


def shifts(found: Any, steps: Sequence[Step]) -> list[Shift]:
    """Return how many people several steps move, the target segments first; see :func:`moved_share`."""
    after = reduce(lambda stands, step: step.applied(stands), steps, found)
    return [_shift(found, *each) for each in zip(_scopes(found), _scopes(after), strict=True)]


def losing_for_a_moment(found: Any, steps: Sequence[Step], winner: str) -> float:
    """Return how many percent of all other users that are in it get the winner, lose it, and get it again.

    Amplitude takes one weight at a time. With losers on both sides of the winner the interval of one widens when the
    other goes, until it goes too.
    """
    lost, after = 0.0, found
    for step in steps:
        start, end = _interval(after, winner)
        after = step.applied(after)
        new_start, new_end = _interval(after, winner)
        lost += max(new_start - start, 0) + max(end - new_end, 0) if end > start else 0
    return round(100 * lost, 4)


def _interval(found: Any, winner: str) -> tuple[float, float]:
    """Return where the users of a variant begin and end, among those in it in the order of their variants."""
    weights = _weights(found)
    total, order = sum(weights.values()) or 1, _order(found, weights)
    start = sum(weights.get(key, 0) for key in order[: order.index(winner)])
    return start / total, (start + weights.get(winner, 0)) / total


Scope = tuple[str, float, Mapping[str, float]]


def _scopes(found: Any) -> list[Scope]:
    """Return the segments and all other users, each with its percentage and weights; off is 0 % of everybody."""
    on = 1 if found.enabled else 0
    scopes = [
        (f"target segment {each.name!r}", on * (each.percentage or 0), each.rollout_weights or {})
        for each in found.target_segments or ()
    ]
    who = "all other users" if scopes else "all users"
    return [*scopes, (who, on * (found.rollout_percentage or 0), _weights(found))]


def _shift(found: Any, then: Scope, now: Scope) -> Shift:
    (who, share, weights), (_, new_share, new_weights) = then, now
    staying = min(share, new_share)
    moved = moved_share(weights, new_weights, _order(found, {**weights, **new_weights})) if staying else 0.0
    return Shift(
        who,
        _split(share, weights),
        _split(new_share, new_weights),
        round(100 * moved, 4),
        round(max(new_share - share, 0), 4),
        round(max(share - new_share, 0), 4),
    )


def _order(found: Any, weights: Mapping[str, float]) -> list[str]:
    """Return the variants in Amplitude's order; a weight of none of them is left over from an older one."""
    return [*_keys(found), *sorted(weights.keys() - {*_keys(found)})]


def _split(percentage: float, weights: Mapping[str, float]) -> dict[str, float]:
    split = {key: round(percentage * share, 4) for key, share in shares(weights).items()}
    return {key: share for key, share in split.items() if share}


def _weights(found: Any) -> dict[str, float]:
    return dict(found.rollout_weights or {})


def _keys(found: Any) -> list[str]:
    return [each.key for each in found.variants or ()]


def _day(text: str | None) -> Any:
    """Return the UTC day of a date or moment, which is all that Amplitude shows of it (E5)."""
    moment = moment_of(text)
    if moment is None:
        raise RolloutRefused(f"the end date {text!r} can't be read. Nothing was written. Correct it in Amplitude.")
    return moment.date()
