"""What "Test" on a connection finds out, without changing anything."""

from __future__ import annotations

from airflow_amplitude_experiment.api import AmplitudeError, RolloutRefused, deployments, flags

from .guard import GuardedAsyncClient, GuardedClient
from .projects import Reading, listed


def probe(client: GuardedClient | GuardedAsyncClient) -> Reading[str]:
    """Read a little and say what the connection reaches.

    :raises RolloutRefused: the project that the connection names is out of the key's sight.
    """
    seen = sorted({each.project_id for each in (yield from listed(deployments.list())) if each.project_id})
    project = client.rules.project_id
    if project is not None and project not in seen:
        yield from _find_project(project, seen)
    sees = f"project {project}" if project else f"{_projects(seen)} and the connection names none"
    notes = [f"sees {sees}."]
    if project is None and len(seen) > 1:
        notes.append("Name one of them in the connection, so that a key found in two can't be mistaken.")
    if not client.speaks_to_amplitude:
        notes.append("This is not Amplitude itself but the base URL of the connection.")
    if client.rules.mode == "read_only":
        notes.append("The connection is read-only.")
    return " ".join(notes)


def _find_project(project: str, seen: list[str]) -> Reading[None]:
    """Look for a project that has no deployment, so that the list of deployments does not show it."""
    try:
        objects = yield flags.list(project_id=project, limit=1)
    except AmplitudeError as error:
        if error.status in (401, 429) or error.status is None or error.status >= 500:
            raise
        objects = ()
    if not len(objects):
        raise RolloutRefused(
            f"sees {_projects(seen)}, and not project {project}, which the connection names. "
            "Correct the project id, or use a key of that project."
        )


def _projects(seen: list[str]) -> str:
    return f"project{'s' if len(seen) > 1 else ''} {', '.join(seen)}" if seen else "no project with a deployment"
