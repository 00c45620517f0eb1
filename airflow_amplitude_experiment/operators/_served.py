"""Whether anybody was ever served an object, which decides what of it may still change (law 5)."""

from __future__ import annotations

from typing import Any

from airflow_amplitude_experiment.hooks.guard import GuardedClient
from airflow_amplitude_experiment.rollout.adopt import was_served


def ever_served(client: GuardedClient, calls: Any, found: Any) -> bool:
    """Whether an object is enabled, or was in any of its versions, which are read only where it is off now.

    :param calls: the namespace of the object's kind.
    """
    return found.enabled is not False or was_served(found, client.send(calls.versions(found.id)))
