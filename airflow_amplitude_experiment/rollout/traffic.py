"""How many people a percentage is: what gates, weights, segments and inclusions make of it.

Pure. The percentage that Amplitude shows is a share of those who get as far as the bucketing. Mutex and holdout groups
let only some of all users get there, and the weights split what is left over the variants.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

from .history import percentage_of
from .segments import segment_named


@dataclass(frozen=True, slots=True)
class Gate:
    """A group that lets a part of all users through.

    :param name: with what it does, in words.
    :param share: of all users, 0 to 1.
    """

    name: str
    share: float


def gates(found: Any, mutexes: Sequence[Any], holdouts: Sequence[Any]) -> list[Gate]:
    """Return the mutex and holdout groups before an object, those before its holdouts included.

    :param mutexes, holdouts: groups of its project.
    """
    needed = _parents(found)
    held = [each for each in holdouts if each.id in needed]
    let_through: list[Gate] = []
    for group in mutexes:
        if (slots := _open_slots(group, needed.get(group.id), held)) is not None:
            percentage = sum(slot.percentage or 0 for slot in slots)
            where = ", ".join(str(slot.variant_key) for slot in slots) or "no slot"
            let_through.append(Gate(f"mutex group {_name(group)} ({where}: {percentage:g} %)", percentage / 100))
    for group in held:
        percentage = group.holdout_percentage or 0
        let_through.append(Gate(f"holdout group {_name(group)} ({percentage:g} % held out)", 1 - percentage / 100))
    return let_through


def prerequisites(found: Any, mutexes: Sequence[Any], holdouts: Sequence[Any]) -> dict[str, list[str]]:
    """Return what an object depends on that is none of these groups: the ids, and the variants that let it pass."""
    groups = {each.id for each in (*mutexes, *holdouts)}
    return {each: variants for each, variants in sorted(_parents(found).items()) if each not in groups}


def share_of(gates: Sequence[Gate]) -> float:
    """Return the share of all users that several gates let through; each has a salt of its own."""
    return round(prod(each.share for each in gates), 12)


def weights_of(found: Any, variants: Sequence[Any], segment: str | None) -> dict[str, int | float] | None:
    """Return the weights by which all other users, or a segment's, are split; ``None`` where none is shown."""
    shown = found.rollout_weights if segment is None else segment_named(found, segment).rollout_weights
    if shown is None:
        shown = {each.key: each.rollout_weight for each in variants if each.rollout_weight is not None} or None
    return None if shown is None else dict(sorted(shown.items()))


def shares(weights: Mapping[str, float]) -> dict[str, float]:
    """Return the share of each variant that is served; equal splits come out equal, whatever they are written in."""
    total = sum(weights.values())
    return {key: round(weight / total, 9) for key, weight in sorted(weights.items()) if weight} if total else {}


def in_variants(percentage: float, weights: Mapping[str, float], *, control: str = "control") -> str:
    """Say what a percentage is for those who get something new: ``50 % (treatment 25 %)``."""
    split = shares(weights)
    if len(split) < 2:
        return f"{percentage:g} %"
    new = [f"{key} {_rounded(percentage * share)} %" for key, share in split.items() if key != control]
    return f"{percentage:g} % ({', '.join(new)})"


def of_all(percentage: float, share: float) -> str:
    """Say what a percentage behind gates is: ``50 % here is 23.75 % of users``."""
    return f"{percentage:g} % here is {_rounded(percentage * share)} % of users"


def served_beside(found: Any, segment: str | None) -> Iterator[str]:
    """Say who is served apart from the percentage that a rollout moves."""
    for each in found.target_segments or ():
        if each.name != segment and each.percentage:
            yield f"target segment {each.name!r} ({each.percentage} % of its users)"
    rest = percentage_of(found, None)
    if segment is not None and rest:
        yield f"all other users ({rest} %)"


def included(users: Mapping[str, int], cohorts: Mapping[str, int]) -> list[str]:
    """Say how many are included in each variant, and never who."""
    told = []
    for key in sorted(users.keys() | cohorts.keys()):
        counts = [_count(users.get(key, 0), "user or device"), _count(cohorts.get(key, 0), "cohort")]
        if any(counts):
            told.append(f"{' and '.join(filter(None, counts))} in {key}")
    return told


def _open_slots(group: Any, own: Sequence[str] | None, held: Sequence[Any]) -> list[Any] | None:
    """Return the slots of a mutex group whose users get to the object; ``None`` where the group is no gate of it.

    :param own: the slots that the object itself depends on, if any.
    :param held: the holdouts that it depends on; one may sit in a slot, and then only that slot's users pass it.
    """
    slots = group.slots or ()
    seats = [{slot.variant_key for slot in slots if each.id in (slot.holdouts or ())} for each in held]
    conditions = [*([set(own)] if own is not None else []), *filter(None, seats)]
    if not conditions:
        return None
    return [slot for slot in slots if all(slot.variant_key in each for each in conditions)]


def _parents(found: Any) -> dict[str, list[str]]:
    return (found.parent_dependencies.flags if found.parent_dependencies else None) or {}


def _name(group: Any) -> str:
    return repr(group.name or group.key or group.id)


def _count(number: int, what: str) -> str:
    if not number:
        return ""
    plural = {"user or device": "users or devices", "cohort": "cohorts"}[what]
    return f"{number} {what if number == 1 else plural}"


def _rounded(percentage: float) -> str:
    return f"{percentage:.6g}"
