"""Changing target segments in a list that Amplitude replaces as a whole.

Everything else in the list is written back as it was read; what can't be written back (a cohort condition, a
field that the API's input does not name) makes the change impossible, because targeting would be lost (law 6).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from airflow_amplitude_experiment.api import RolloutRefused
from airflow_amplitude_experiment.api._checks import CONDITION_OPERATORS

SEGMENT_FIELDS = frozenset({"name", "conditions", "percentage", "rolloutWeights", "bucketingKey"})
NEEDED_FIELDS = SEGMENT_FIELDS - {"bucketingKey"}
CONDITION_FIELDS = frozenset({"type", "prop", "op", "values"})


def segment_named(found: Any, name: str) -> Any:
    """Return the one segment of this name.

    :raises RolloutRefused: there is none, or more than one.
    """
    names = [each.name for each in found.target_segments or ()]
    if names.count(name) != 1:
        present = ", ".join(repr(each) for each in names) or "none"
        amount = "more than one segment" if name in names else "no segment"
        raise RolloutRefused(f"{found.key} has {amount} named {name!r}; there are: {present}. Nothing was written.")
    return found.target_segments[names.index(name)]


def with_percentage(found: Any, name: str, percentage: int) -> list[dict[str, Any]]:
    """Return all segments as the API takes them, with one percentage changed.

    :raises RolloutRefused: something in the list can't be written back.
    """
    return with_changes(found, name, {"percentage": percentage})


def with_changes(found: Any, name: str, changes: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return all segments as the API takes them, with some parts of one changed.

    :param changes: in the API's words.
    :raises RolloutRefused: there is no such segment, or something in the list can't be written back.
    """
    segment_named(found, name)
    refuse_running_bandit(found)
    there = [writable(found.key, each.as_json()) for each in found.target_segments]
    written = [_changed(found.key, each, changes) if each["name"] == name else each for each in there]
    _refuse_twins(found.key, written)
    return written


def rewritten(found: Any, wanted: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return a whole list of wanted segments as the API takes it.

    A part that is not given stays as it is there. So does the percentage even where it is given: ramps move it.

    :param wanted: segments in the API's words; one that is not there yet begins at 0 % where that is left out.
    :raises RolloutRefused: something in the list can't be written back, or a new segment lacks a part.
    """
    refuse_running_bandit(found)
    _refuse_twins(found.key, wanted)
    _refuse_twins(found.key, [each.as_json() for each in found.target_segments or ()])
    there = {each.name: writable(found.key, each.as_json()) for each in found.target_segments or ()}
    written = []
    for segment in wanted:
        old = there.get(segment["name"])
        given = segment if old is None else {part: segment[part] for part in segment if part != "percentage"}
        written.append(_changed(found.key, old or {"percentage": 0}, given))
    return written


def percentages_to_move(found: Any, wanted: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Say which percentages a list of wanted segments would move, which only a ramp does.

    :param wanted: as for :func:`rewritten`.
    """
    there = {each.name: each.percentage for each in found.target_segments or ()}
    for segment in wanted:
        given, name = segment.get("percentage"), segment["name"]
        if name in there and given is not None and given != there[name]:
            yield f"segment {name!r} stands at {there[name]} %, and {given} % is given"
        elif name not in there and given and found.enabled is not False:
            yield f"segment {name!r} is new, and its users would get something at once, at {given} %"


def refuse_running_bandit(found: Any) -> None:
    """Refuse to write segments of a running bandit.

    :raises RolloutRefused: it is one.
    """
    if is_running_bandit(found):
        raise RolloutRefused(
            f"{found.key} is a running bandit: Amplitude moves its weights itself, and writing segments back would "
            "undo that. Nothing was written. Change the segment in Amplitude."
        )


def is_running_bandit(found: Any) -> bool:
    """Whether Amplitude itself moves the weights now."""
    return getattr(found, "experiment_type", None) == "multi-arm-bandit" and found.enabled is not False


def writable(key: str, segment: dict[str, Any]) -> dict[str, Any]:
    """Return a segment as the API takes it back.

    :raises RolloutRefused: it holds something that can't be written.
    """
    name = segment.get("name")
    segment = {field: value for field, value in segment.items() if not (field == "bucketingKey" and value is None)}
    if strange := sorted(segment.keys() - SEGMENT_FIELDS):
        raise _refused(key, name, f"has the field {strange[0]!r}, which the API does not take back")
    if missing := sorted(NEEDED_FIELDS - segment.keys()):
        raise _refused(key, name, f"was read without {missing[0]!r}, which the API needs back")
    for condition in segment["conditions"]:
        if condition.keys() != CONDITION_FIELDS or condition["type"] != "property":
            raise _refused(key, name, f"has a condition of type {condition.get('type')!r}, which the API can't write")
        if condition["op"] not in CONDITION_OPERATORS:
            raise _refused(key, name, f"has a condition with the operator {condition['op']!r}, which is not documented")
    return segment if segment["conditions"] else {**segment, "everyone": True}


def _refuse_twins(key: str, segments: Sequence[Mapping[str, Any]]) -> None:
    names = [each.get("name") for each in segments]
    if twins := sorted({str(name) for name in names if names.count(name) > 1}):
        raise RolloutRefused(
            f"{key}: two segments named {twins[0]!r} can't be told apart. Nothing was written. "
            "Name them differently, in Amplitude where they are there already."
        )


def _changed(key: str, old: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """Return a segment with the given parts instead of the old ones."""
    segment = {**old, **given}
    segment.pop("everyone", None)
    if missing := sorted(NEEDED_FIELDS - segment.keys()):
        raise RolloutRefused(
            f"{key}: segment {segment.get('name')!r} is not there, and a new one needs {missing[0]!r}. "
            "Nothing was written. Give it, or correct the name."
        )
    return segment if segment["conditions"] else {**segment, "everyone": True}


def _refused(key: str, segment: str | None, why: str) -> RolloutRefused:
    return RolloutRefused(
        f"{key}: segment {segment!r} {why}. All segments are replaced in one write, so its targeting would be lost. "
        "Nothing was written. Change the segment in Amplitude."
    )
