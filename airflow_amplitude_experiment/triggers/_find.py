"""Reading the one object that is waited for, with every field that the wait asks for.

Lists and details show different fields, so a reading says which it needs. It is a generator like every other
reading, for the sensor's client and for the trigger's alike.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from airflow_amplitude_experiment.hooks.guard import Reading

ONLY_IN_LISTS = frozenset({"created_by", "last_modified_by", "created_at", "last_modified_at"})
"""What details may leave out (E3)."""


def find(
    client: Any,
    kind: Any,
    *,
    object_id: str | None,
    object_key: str | None,
    project_id: str | None,
    needs: frozenset[str] = frozenset(),
    archived_too: bool = False,
) -> Reading[Any]:
    """Read the object; by its id alone once id and key are both known, as its project was looked at before.

    :param needs: fields, in snake_case, that the answer must show if Amplitude shows them anywhere.
    :param archived_too: find it by its key also where it is archived.
    :raises RolloutRefused: it is archived, or its project isn't the one that is named.
    :raises AmplitudeNotFound: there is no such object.
    """
    from airflow_amplitude_experiment.hooks.lookup import by_id, by_key, by_key_archived_too, calls_of, merged
    from airflow_amplitude_experiment.hooks.projects import listed
    from airflow_amplitude_experiment.operators._base import project_named

    calls = calls_of(kind)
    project = project_named(project_id, client.rules.project_id)
    if not object_id:
        by = by_key_archived_too if archived_too else by_key
        found = yield from by(kind, str(object_key), project)
        return merged(found, (yield calls.get(found.id))) if lacking(found, needs) else found
    found = (yield calls.get(object_id)) if object_key else (yield from by_id(kind, object_id, project))
    if lacking(found, needs) & ONLY_IN_LISTS:
        filters = {"project_id": found.project_id} if found.project_id else {}
        rows = yield from listed(calls.list(key=found.key, include_archived=True, **filters))
        found = next((merged(row, found) for row in rows if row.id == found.id), found)
    return found


def lacking(found: Any, needs: frozenset[str]) -> frozenset[str]:
    """Return the needed fields that an answer doesn't hold. Whether it is archived a list shows by holding it."""
    return needs.difference(found.model_fields_set, {"deleted"})
