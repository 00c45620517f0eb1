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
