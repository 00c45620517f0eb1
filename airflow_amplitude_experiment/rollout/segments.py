"""Changing one target segment in a list that Amplitude replaces as a whole.

Everything else in the list is written back as it was read; what can't be written back (a cohort condition, a
field that the API's input does not name) makes the change impossible, because targeting would be lost (law 6).
"""

from __future__ import annotations

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
    segment_named(found, name)
    if getattr(found, "experiment_type", None) == "multi-arm-bandit" and found.enabled:
        raise RolloutRefused(
            f"{found.key} is a running bandit: Amplitude moves its weights itself, and writing segments back would "
            "undo that. Nothing was written. Change the segment in Amplitude."
        )
    rewritten = []
    for segment in found.target_segments:
        written = writable(found.key, segment.as_json())
        if segment.name == name:
            written["percentage"] = percentage
        rewritten.append(written)
    return rewritten


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


def _refused(key: str, segment: str | None, why: str) -> RolloutRefused:
    return RolloutRefused(
        f"{key}: segment {segment!r} {why}. All segments are replaced in one write, so its targeting would be lost. "
        "Nothing was written. Change the segment in Amplitude."
    )
