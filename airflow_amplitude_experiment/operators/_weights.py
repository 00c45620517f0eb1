"""What a task does that sets weights: compare, refuse, write one variant after the other, read back.

Apart from the operator because it is loaded when a task runs, not when a DAG is parsed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from airflow_amplitude_experiment.api import Call, RolloutRefused
from airflow_amplitude_experiment.rollout.description import alike
from airflow_amplitude_experiment.rollout.ramp import last_change
from airflow_amplitude_experiment.rollout.segments import is_running_bandit
from airflow_amplitude_experiment.rollout.weights import changed_weights, moved_share

from ._edit import Edit
from ._served import ever_served


class Order(NamedTuple):
    """What is asked for: the weight of each variant, and why users may move between them."""

    weights: dict[str, int]
    reshuffle: str | None = None


class SetWeights:
    """One task's dealings with the weights of one object."""

    def __init__(self, edit: Edit, order: Order) -> None:
        self._edit = edit
        self._order = order
        self._before: dict[str, float] | None = None
        self._moved = 0.0
        self._served = True
        self._tried = False

    def run(self) -> dict[str, Any]:
        """Write, read back, report.

        :raises RolloutRefused: what stands against it, and what to do.
        :raises AmplitudeNotConfirmed: reading back shows other weights.
        """
        edit, order = self._edit, self._order
        sent = edit.unless_read_only(lambda: edit.again_where_lost(self._write))
        if sent and self._tried:
            edit.confirm(self._left)
            edit.written = True  # also where the answer was lost, and reading again found it done
        before = self._before or {}
        edit.log.info("%s: %s", edit.name, self._in_words(before, sent=sent))
        return edit.record(
            weights_before=before,
            weights={key: order.weights[key] for key in before},
            moved=self._moved,
            segments_apart=self._segments_apart(),
            reshuffle=order.reshuffle,
        )

    def _write(self) -> None:
        """Decide on what was read last, and send it."""
        if self._tried:
            self._edit.read()
        if self._edit.found.deleted:
            raise self._refused("is archived.", "Restore it first, or use another key.")
        stands = self._standing()
        if self._before is None:
            self._before = stands
            self._moved = moved_share(stands, self._order.weights, list(stands))
        if alike("rollout_weights", self._order.weights, stands):
            return
        self._refuse_while_it_serves()
        self._tell_of_what_stays()
        self._tried = True
        why = {"reshuffle": self._order.reshuffle} if self._order.reshuffle else {}
        for call in self._calls(stands):
            self._edit.send(call, weights_before=stands, weights=self._order.weights, **why)

    def _standing(self) -> dict[str, float]:
        """Return the weights that stand, in the order of the variants.

        :raises RolloutRefused: not all variants are named, or others.
        """
        found, given = self._edit.found, self._order.weights
        if found.variants is None or found.rollout_weights is None:
            stands = self._read_variants()
        else:
            stands = {each.key: found.rollout_weights.get(each.key, 0) for each in found.variants}
        there = ", ".join(stands) or "none"
        if strangers := sorted(given.keys() - stands.keys()):
            raise self._refused(f"has no variant {strangers[0]!r}; there are: {there}.", "Correct the key.")
        if missing := [key for key in stands if key not in given]:
            raise self._refused(
                f"has the variants {there}, and {missing[0]!r} is given no weight.",
                "Name every variant; the weight 0 gives one nobody.",
            )
        return stands

    def _read_variants(self) -> dict[str, float]:
        variants = self._edit.client.send(self._edit.calls.variants(self._edit.found.id))
        return {each.key: each.rollout_weight or 0 for each in variants}

    def _refuse_while_it_serves(self) -> None:
        """Refuse to move users who are served, or were and nobody said that they may (law 5)."""
        edit, found = self._edit, self._edit.found
        moved = f"{_percent(self._moved)} of the allocated users would get another variant"
        if is_running_bandit(found):
            raise self._refused("is a running bandit: Amplitude moves its weights itself.", "Disable it first.")
        self._served = ever_served(edit.client, edit.calls, found)
        if not self._served:
            return
        if not self._order.reshuffle:
            what, advice = f"was enabled before: {moved}.", "If that is meant, say why (reshuffle=…)"
            raise self._refused(what, f"{advice}, while it is disabled or at 0 %.")
        if found.enabled is not False and found.rollout_percentage != 0:
            raise self._refused(
                f"is enabled at {found.rollout_percentage} %: {moved}, and more for a moment, because Amplitude takes "
                "one weight at a time.",
                "Disable it or go down to 0 % first.",
            )

    def _tell_of_what_stays(self) -> None:
        """Say who does not move although others do."""
        edit, found = self._edit, self._edit.found
        if found.enabled is not False and getattr(found, "sticky_bucketing", False):
            edit.log.warning(
                "%s has sticky bucketing: users who have a variant keep it, beside the new weights.", edit.name
            )
        if apart := self._segments_apart():
            edit.log.warning(
                "%s: target segments %s keep weights of their own, which AmplitudeUpdateOperator(segment=…) changes.",
                edit.name,
                ", ".join(map(repr, apart)),
            )

    def _segments_apart(self) -> list[str]:
        """Return the target segments that are split otherwise than is asked for."""
        segments = self._edit.found.target_segments or ()
        return [
            each.name for each in segments if not alike("rolloutWeights", self._order.weights, each.rollout_weights)
        ]

    def _calls(self, stands: Mapping[str, float]) -> Iterator[Call[Any]]:
        """Yield what sets the weights: one call of the beta, or else one for each variant that differs."""
        calls, object_id, weights = self._edit.calls, self._edit.found.id, self._order.weights
        if self._edit.client.dialect == "beta" and self._edit.kind == "experiment":
            yield calls.set_rollout_weights(object_id, rollout_weights=weights)
            return
        for key, weight in changed_weights(stands, weights).items():
            yield calls.update_variant(object_id, key, rollout_weight=weight)

    def _left(self) -> list[str]:
        """Read the variants back, and say what does not stand as asked."""
        stands = self._read_variants()
        same = alike("rollout_weights", self._order.weights, stands)
        return [] if same else [f"weights: given {_in_words(self._order.weights)}, there {_in_words(stands)}"]

    def _in_words(self, before: Mapping[str, float], *, sent: bool) -> str:
        if not self._tried and sent:
            return f"weights stand as asked ({_in_words(before)}), nothing to do"
        change = f"{_in_words(before)} -> {_in_words({key: self._order.weights[key] for key in before})}"
        moved = f"of the allocated users, {_percent(self._moved)} get another variant"
        moved = moved if self._served else "nobody was ever served"
        return f"weights {change}; {moved}" if sent else f"weights would go {change}; {moved} (read-only, not sent)"

    def _refused(self, what: str, advice: str) -> RolloutRefused:
        found = self._edit.found
        where = f"id {found.id}, project {found.project_id}"
        done = "Some weights may be written already." if self._tried else "Nothing was written."
        return RolloutRefused(f"{self._edit.name} ({where}) {what}{last_change(found)} {done} {advice}")


def _in_words(weights: Mapping[str, float]) -> str:
    return ", ".join(f"{key} {weight:g}" for key, weight in weights.items())


def _percent(share: float) -> str:
    return f"{share * 100:.6g} %"
