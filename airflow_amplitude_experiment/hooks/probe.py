"""What "Test" on a connection finds out, without changing anything."""

from __future__ import annotations

from airflow_amplitude_experiment.api import RolloutRefused, deployments, flags

from .guard import GuardedAsyncClient, GuardedClient, Reading, listed


def probe(client: GuardedClient | GuardedAsyncClient) -> Reading[str]:
    """Read a little and say in a sentence what the connection reaches.

    :raises RolloutRefused: the project that the connection names is out of the key's sight.
    """
    seen = sorted({each.project_id for each in (yield from listed(deployments.list())) if each.project_id})
    project = client.rules.project_id
    if project is not None:
        yield flags.list(project_id=project, limit=1)
    if project is not None and seen and project not in seen:
        raise RolloutRefused(
            f"The management key works at {client.base_url}, but it sees project {', '.join(seen)} and not "
            f"{project}, which the connection names. Correct the project id, or use that project's key."
        )
    scope = f"project {project}" if project else f"project {', '.join(seen) or '(none with a deployment)'}"
    notes = [f"The management key works at {client.base_url} and sees {scope}."]
    if project is None and len(seen) > 1:
        notes.append("Name one project in the connection, so that a key found in two can't be mistaken.")
    if not client.speaks_to_amplitude:
        notes.append("This is not Amplitude itself but the base URL of the connection.")
    if client.rules.mode == "read_only":
        notes.append("The connection is read-only.")
    return " ".join(notes)
