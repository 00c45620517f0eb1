"""What one version of a flag or experiment changed against the one before, as it may travel in an event.

Pure, and apart from the trigger because of what it must not tell: an event is logged by Airflow, kept in its database
and sent to a channel. So only fields whose values can't be people are told with old and new value. Of all others the
name is told, and how many there were and are: conditions of a segment, descriptions and whole variants may hold the ids
of users.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from airflow_amplitude_experiment.api.errors import cut

if TYPE_CHECKING:
    from airflow_amplitude_experiment.api.models import FlagConfig, Version

TOLD = frozenset(
    {"name", "enabled", "rolloutPercentage", "rolloutWeights", "decision", "rolledOutVariant", "state", "deleted"}
    | {"evaluationMode", "bucketingKey", "bucketingUnit", "stickyBucketing", "startDate", "endDate", "experimentType"}
)
"""Fields that are told with their values: switches, numbers, names and dates."""

SEGMENTS, VARIANTS = "targetSegments", "variants"
UNTOLD = frozenset({"id", "key", "projectId", "createdBy", "createdAt", "lastModifiedBy", "lastModifiedAt"})
EXPERIMENT = frozenset({"experimentType", "stickyBucketing", "startDate", "endDate", "state", "decision"})
"""Fields that experiments have and flags don't; the feed itself doesn't say which of the two an object is."""

VALUE_LIMIT = 200


def kind_of(config: FlagConfig) -> str:
    """Say whether a version is one of a flag or of an experiment, by the fields that it shows."""
    return "experiment" if EXPERIMENT & config.as_json().keys() else "flag"


def fields_changed(before: FlagConfig, after: FlagConfig) -> dict[str, dict[str, Any]]:
    """Return what is different, by the field's name as our calls spell it.

    A field is told as ``{"from": 10, "to": 25}``; one whose value could hold people as
    ``{"from_count": 2, "to_count": 3}``, or ``{}`` where there is nothing to count. Percentages of target segments and
    keys of variants are told beside the counts. A missing field is the same as an empty one.
    """
    from pydantic.alias_generators import to_snake

    old, new = before.as_json(), after.as_json()
    fields = sorted((old.keys() | new.keys()) - UNTOLD)
    changed = [field for field in fields if old.get(field) != new.get(field) and (old.get(field) or new.get(field))]
    return {to_snake(cut(field, 50)): _change(field, old.get(field), new.get(field)) for field in changed}


def in_words(change: Mapping[str, Any]) -> str:
    """Return one change as a sentence, for a log or a channel."""
    who = change["by_name"] or change["by"] or "somebody"
    since = f"version {change['from_version']} -> {change['to_version']}" if change["from_version"] else "created"
    return f"{change['kind']} {change['key']}: {_fields_in_words(change)} ({since}, by {who} at {change['at']})"


def _fields_in_words(change: Mapping[str, Any]) -> str:
    if change["from_version"] is None:
        return "is new"
    if change["fields"] is None:
        return "changed; the version before can't be read"
    if not change["fields"]:
        return "changed in something that versions don't show (users, payloads, an experiment's percentage, …)"
    return ", ".join(_field_in_words(name, each) for name, each in change["fields"].items())


def _field_in_words(name: str, change: Mapping[str, Any]) -> str:
    words = name.replace("_", " ")
    if "from" in change:
        return f"{words} {_shown(change['from'])} -> {_shown(change['to'])}"
    if change.get("from_count") != change.get("to_count"):
        return f"{words} {change['from_count']} -> {change['to_count']}"
    return f"{words} changed"


def _shown(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key}: {each}" for key, each in value.items()) or "none"
    if isinstance(value, bool):
        return "on" if value else "off"
    return "none" if value is None else str(value)


def _change(field: str, old: Any, new: Any) -> dict[str, Any]:
    if field in TOLD:
        return {"from": _told(old), "to": _told(new)}
    counts: dict[str, Any] = {}
    if all(each is None or isinstance(each, list | dict) for each in (old, new)):
        counts = {"from_count": len(old or ()), "to_count": len(new or ())}
    if field == SEGMENTS:
        counts |= {"percentages": {"from": _percentages(old), "to": _percentages(new)}}
    if field == VARIANTS:
        counts |= {"keys": {"from": _keys(old), "to": _keys(new)}}
    return counts


def _told(value: Any) -> Any:
    """Return a value of a told field; whatever is not a switch, a number or a text is left out."""
    if isinstance(value, str):
        return cut(value, VALUE_LIMIT)
    if isinstance(value, Mapping):
        return {cut(str(key), VALUE_LIMIT): each for key, each in value.items() if isinstance(each, int | float)}
    return value if value is None or isinstance(value, int | float) else None


def _percentages(segments: Any) -> list[Any]:
    """Return the percentages of target segments, in their order: numbers, no names and no conditions."""
    return [each.get("percentage") for each in segments or () if isinstance(each, Mapping)]


def _keys(variants: Any) -> list[str]:
    return [cut(str(each.get("key")), VALUE_LIMIT) for each in variants or () if isinstance(each, Mapping)]


def describe(
    version: Version, before: FlagConfig | None, *, kind: str, at: str | None, by_name: str | None
) -> dict[str, Any]:
    """Return one change as the event tells it: plain values only.

    :param version: the version that was written.
    :param before: the object as it was in the version before, ``None`` where there is none or it can't be read.
    :param kind: ``flag`` or ``experiment``.
    :param at: when it was written.
    :param by_name: who wrote it, as a person would say it, where that is known.
    """
    config, number = version.flag_config, version.version
    change: dict[str, Any] = {
        "kind": kind,
        "key": config.key,
        "id": config.id,
        "project_id": config.project_id,
        "from_version": number - 1 if number > 1 else None,
        "to_version": number,
        "by": version.created_by,
        "by_name": by_name,
        "at": at,
        "fields": fields_changed(before, config) if before else None,
    }
    return {**change, "text": in_words(change)}
