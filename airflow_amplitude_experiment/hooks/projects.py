"""In which project an object lies, and that it is the only one that can be meant (law 11)."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any, TypeVar

from airflow_amplitude_experiment.api import Call, RolloutRefused, deployments, experiments, flags, holdouts, mutexes
from airflow_amplitude_experiment.api._client import Pages

T = TypeVar("T")
Reading = Generator[Call[Any], Any, T]
CALLS: dict[str, Any] = {
    "flags": flags,
    "experiments": experiments,
    "mutexes": mutexes,
    "holdouts": holdouts,
    "deployments": deployments,
}


def listed(call: Call[Any]) -> Reading[list[Any]]:
    """Read a whole list, page by page."""
    pages: Pages[Any] = Pages(call)
    found: list[Any] = []
    while (following := pages.next_call()) is not None:
        found.extend(pages.fresh((yield following)))
    return found


def refuse_several_projects(what: str, project_ids: list[str | None]) -> None:
    """Refuse to choose between projects.

    :raises RolloutRefused: there is more than one; all are listed.
    """
    projects = sorted({str(each) for each in project_ids})
    if len(projects) > 1:
        raise RolloutRefused(
            f"{what} is found in several projects: {', '.join(projects)}. Nothing was written. "
            "Name one: project_id in the connection's extra, or project_id=… on the operator."
        )


def refuse_id_in_several_projects(what: str, kind: str, own: str | None) -> Reading[None]:
    """Refuse an id that is given without a project where the key sees several: it is easily mistyped.

    :param kind: namespace of the object's calls, such as ``"flags"``.
    :param own: the project that the object lies in.
    :raises RolloutRefused: all projects that the key sees are listed.
    """
    seen = [own]
    for calls in (deployments, *([CALLS[kind]] if kind != "deployments" else [])):
        seen += [each.project_id for each in (yield from listed(calls.list())) if each.project_id]
        refuse_several_projects(f"{what} is given without a project, and this key's scope", seen)
