"""Finding the one object that a task means, in the one project that it may mean.

Like the guard, a lookup is a generator that yields the calls to read with, for both clients.
"""

from __future__ import annotations

from typing import Any, Literal

from airflow_amplitude_experiment.api import AmplitudeNotFound, RolloutRefused, experiments, flags

from .projects import Reading, listed, refuse_id_in_several_projects
from .projects import refuse_several_projects as refuse_several_projects

Kind = Literal["flag", "experiment"]


def calls_of(kind: Kind) -> Any:
    """Return the namespace of calls for this kind of object."""
    return {"flag": flags, "experiment": experiments}[kind]


def by_key(kind: Kind, key: str, project_id: str | None) -> Reading[Any]:
    """Find a flag or experiment by its key, as the list shows it (with who changed it last).

    :raises AmplitudeNotFound: no such key.
    :raises RolloutRefused: the object is archived, or the key exists in several projects and none is named.
    """
    calls = calls_of(kind)
    filters = {"key": key} | ({"project_id": project_id} if project_id else {})
    found = yield from listed(calls.list(**filters))
    if not found:
        archived = yield from listed(calls.list(**filters, include_archived=True))
        raise _absence(kind, key, project_id, archived)
    refuse_several_projects(f"{kind} {key}", [each.project_id for each in found])
    return found[0]


def by_key_archived_too(kind: Kind, key: str, project_id: str | None) -> Reading[Any]:
    """Find a flag or experiment by its key, also where it is archived; one that is not comes first.

    :raises AmplitudeNotFound: no such key.
    :raises RolloutRefused: it exists in several projects and none is named, or more than once.
    """
    found = yield from all_of_key(kind, key, project_id)
    if not found:
        raise _absence(kind, key, project_id, [])
    present = [each for each in found if not each.deleted] or found
    if len(present) > 1:
        ids = ", ".join(each.id for each in present)
        raise RolloutRefused(
            f"{kind} {key} is there {len(present)} times: ids {ids}. Nothing was written. Name one: {kind}_id=…."
        )
    return present[0]


def all_of_key(kind: Kind, key: str, project_id: str | None) -> Reading[list[Any]]:
    """Find every flag or experiment of a key, archived ones included, each with what lists may leave out.

    :raises RolloutRefused: the key exists in several projects and none is named.
    """
    calls = calls_of(kind)
    filters = {"key": key, "include_archived": True} | ({"project_id": project_id} if project_id else {})
    rows = yield from listed(calls.list(**filters))
    refuse_several_projects(f"{kind} {key}", [each.project_id for each in rows])
    found = []
    for row in rows:
        shown = row.deleted, row.enabled, row.rollout_percentage, row.target_segments
        found.append(merged(row, (yield calls.get(row.id))) if None in shown else row)
    return found


def the_one_there(what: str, found: list[Any]) -> Any:
    """Return the one object of a key that is not archived; ``None`` where the key is free.

    :param found: every object of the key, archived ones included.
    :raises RolloutRefused: it is archived, or there is more than one.
    """
    present = [each for each in found if not each.deleted]
    if len(present) == 1 or not found:
        return present[0] if present else None
    how, advice = "is archived", "Restore it in Amplitude, or use another key."
    if present:
        how, advice = f"is there {len(present)} times", "Archive all but one in Amplitude."
    where = f"id {', '.join(each.id for each in found)}, project {found[0].project_id}"
    raise RolloutRefused(f"{what} ({where}) {how}. Nothing was written. {advice}")


def merged(row: Any, details: Any) -> Any:
    """Return the fields of both answers: a list shows who changed an object, details whether it is archived."""
    return type(row).model_validate({**row.as_json(), **details.as_json()})


def by_id(kind: Kind, object_id: str, project_id: str | None) -> Reading[Any]:
    """Read a flag or experiment by its id, in details.

    Without a project to compare with, the key must see one project only: an id is easily mistyped into another's.

    :raises RolloutRefused: the id belongs to another project, or the key sees several and none is named.
    """
    found = yield calls_of(kind).get(object_id)
    if project_id is None:
        yield from refuse_id_in_several_projects(f"{kind} id {object_id}", f"{kind}s", found.project_id)
    elif found.project_id != project_id:
        raise RolloutRefused(
            f"{kind} {object_id} ({found.key}) belongs to project {found.project_id}, not {project_id}. "
            "Nothing was written. Correct the id or the project."
        )
    return found


def _absence(kind: Kind, key: str, project_id: str | None, archived: list[Any]) -> Exception:
    where = f" in project {project_id}" if project_id else ""
    if archived:
        return RolloutRefused(
            f"{kind} {key}{where} is archived. Nothing was written. Restore it in Amplitude, or use another key."
        )
    other = "experiment" if kind == "flag" else "flag"
    return AmplitudeNotFound(
        f"there is no {kind} {key!r}{where}, archived ones included. If it is an {other}, name it by {other}_key=….",
        method="GET",
        path=f"/{kind}s",
    )
