"""Whose traffic a call moves, and how: the object that it names, or the members of a group or a deployment.

An object in a mutex slot or under a holdout gets to its users only where the group lets them pass, so a change
of the group changes what its members' users get.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from airflow_amplitude_experiment.api import RolloutRefused, experiments, flags, holdouts

from .audience import Rise, audiences, created, rises, scaled, serves, standing
from .projects import CALLS, Reading, listed
from .write import Write

VARIANT_CALLS = frozenset({"create_variant", "update_variant", "delete_variant", "set_rollout_weights"})
OUTSIDE = 100.0
"""Percent of users that get to an object which is in no group."""
Member = tuple[str, str]
"""``experiments`` or ``holdouts``, and the id."""


@dataclass(frozen=True, slots=True)
class Slot:
    """The members of a group that share one part of all users. A holdout group is one slot with the rest."""

    percentage: float
    members: set[Member]
    index: int | None = None


@dataclass(frozen=True, slots=True)
class Move:
    """One object whose traffic a call moves.

    :param share: percent of all users that a group lets pass to it, before and after.
    """

    found: Any
    share: tuple[float, float]

    def rises(self) -> Iterator[Rise]:
        """Yield what goes up for the object's users."""
        if serves(self.found):
            before, after = (scaled(standing(self.found), share) for share in self.share)
            yield from rises(before, after)


def own_rises(function: str, arguments: Mapping[str, Any], found: Any) -> Iterator[Rise]:
    """Yield what goes up by a call on one flag or experiment; ``found`` is ``None`` where it creates one."""
    if found is None:
        after = created(arguments)
        return rises(scaled(after, 0), after)
    return rises(*audiences(function, arguments, found))


def lets_in(function: str, arguments: Mapping[str, Any], found: Any) -> Iterator[str]:
    """Yield how a call gives somebody a variant without moving a percentage.

    The rules on percentages leave this alone, so that testers can be let in below ``max_percentage``: who is named
    one by one is no share of all users. ``deny_keys`` and ``read_only`` stop it. A freeze stops it as well.
    """
    if function == "add_users":
        yield f"{len(arguments['ids'])} more people would be included"
    if function == "update" and found is not None and not serves(found):
        enabled = arguments.get("enabled", bool(found.enabled))
        if enabled and not arguments.get("archive", bool(found.deleted)):
            yield "it would be switched on, also for the users included in it"


def may_raise(write: Write, found: Any) -> bool:
    """Whether more people may get something by a call; yes where what was read does not tell.

    :param found: the object that it changes, ``None`` where it creates one.
    """
    if not write.is_on_toggle:
        return True
    if write.function in VARIANT_CALLS and not found.rollout_weights:
        return True
    try:
        rises = (*own_rises(write.function, write.arguments, found), *lets_in(write.function, write.arguments, found))
    except RolloutRefused:  # not every percentage is shown
        return not write.ends_at_nothing
    return bool(rises)


def rises_above_standing(function: str, arguments: Mapping[str, Any], found: Any) -> Iterator[Rise]:
    """Yield what a call sets higher than it stands now, whether or not the object is switched on."""
    return rises(standing(found), audiences(function, arguments, found)[1])


def completed(write: Write, found: Any) -> Reading[Any]:
    """Return the object with all that its limits need, read again where a list shows less."""
    calls = CALLS[write.kind]
    if any(each is None for each in (found.enabled, found.rollout_percentage, found.target_segments)):
        details = yield calls.get(found.id)
        found = type(found).model_validate({**found.as_json(), **details.as_json()})
    if write.function in VARIANT_CALLS and not found.rollout_weights:
        variants = yield calls.variants(found.id)
        weights = {each.key: each.rollout_weight or 0 for each in variants}
        found = type(found).model_validate({**found.as_json(), "rolloutWeights": weights})
    return found


def moves(write: Write, found: Any) -> Reading[list[Move]]:
    """Return the objects behind a group or a deployment whose traffic a call on it moves."""
    if write.kind == "deployments":
        return (yield from _behind_deployment(write.arguments, found))
    slots = _slots(write.kind, found)
    archived = bool(found is not None and found.deleted)
    before = {} if archived else _shares(slots)
    after = {} if write.arguments.get("archive", archived) else _shares(_slots_after(write, slots))
    moved: list[Move] = []
    for member in sorted(before.keys() | after.keys()):
        if before.get(member) != after.get(member):
            share = before.get(member, OUTSIDE), after.get(member, OUTSIDE)
            for experiment in (yield from _experiments_of(member)):
                moved.append(Move((yield experiments.get(experiment)), share))
    return moved


def _behind_deployment(arguments: Mapping[str, Any], found: Any) -> Reading[list[Move]]:
    """Archiving a deployment takes everything away that it serves; restoring it brings everything back."""
    if found is None or arguments.get("archive") in (None, bool(found.deleted)):
        return []
    share = (100.0, 0.0) if arguments["archive"] else (0.0, 100.0)
    objects = []
    for kind in (flags, experiments):
        objects += yield from listed(kind.list())
    return [Move(each, share) for each in objects if each.deployments is None or found.id in each.deployments]


def _slots(kind: str, group: Any) -> list[Slot]:
    """Return a group as it was read; one that is not there yet holds nobody."""
    if group is None:
        return []
    if kind == "holdouts":
        return [Slot(100 - (group.holdout_percentage or 0), _named(group.experiments))]
    return [
        Slot(each.percentage or 0, _named(each.experiments, each.holdouts), each.index) for each in group.slots or ()
    ]


def _slots_after(write: Write, slots: list[Slot]) -> list[Slot]:
    """Return a group as it is after a call."""
    arguments = write.arguments
    if "slots" in arguments:
        given = arguments["slots"]
        return [Slot(each["percentage"], _named(each.get("experiments"), each.get("holdouts"))) for each in given]
    if write.creates:
        return [Slot(100 - arguments["holdout_percentage"], _named(arguments.get("experiments")))]
    if "slot_index" in arguments:
        return [_with_members(each, arguments) if each.index == arguments["slot_index"] else each for each in slots]
    return [_with_members(each, arguments) for each in slots]


def _with_members(slot: Slot, arguments: Mapping[str, Any]) -> Slot:
    """Return the slot with the lists that a call gives; one that it leaves out stays."""
    members = {member for member in slot.members if member[0] not in arguments}
    return replace(slot, members=members | _named(arguments.get("experiments"), arguments.get("holdouts")))


def _named(experiments: Iterable[Any] | None, holdouts: Iterable[Any] | None = ()) -> set[Member]:
    return {("experiments", str(each)) for each in experiments or ()} | {
        ("holdouts", str(each)) for each in holdouts or ()
    }


def _shares(slots: list[Slot]) -> dict[Member, float]:
    """Return what share of all users gets to each member; one in several slots gets the users of all of them."""
    shares: dict[Member, float] = {}
    for slot in slots:
        for member in slot.members:
            shares[member] = shares.get(member, 0) + slot.percentage
    return shares


def _experiments_of(member: Member) -> Reading[list[str]]:
    """A slot may hold a holdout group, and with it that group's members."""
    kind, member_id = member
    if kind == "experiments":
        return [member_id]
    holdout = yield holdouts.get(member_id)
    return list(holdout.experiments or ())
