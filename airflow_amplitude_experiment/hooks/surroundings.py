"""Reading what stands around an object and decides who gets it: variants, deployments, inclusions, gates.

For the preflight of a rollout, which asks once. Each request is made only where the object's own answer leaves the
question open: no group is listed for an object without dependencies, no deployment for one that names none.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from airflow_amplitude_experiment.api import holdouts, mutexes

from .lookup import Kind, calls_of
from .projects import Reading, listed


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """What stands around an object, as it was read.

    :param variants: with payloads and weights.
    :param deployments: those that it is attached to; ``None`` where they can't be asked for.
    :param users, cohorts: how many are included in each variant.
    :param mutexes, holdouts: all groups of the project that may be its gates, or a gate of its gates.
    :param groups_known: whether the groups could be asked for.
    """

    variants: Sequence[Any]
    deployments: Sequence[Any] | None = None
    users: Mapping[str, int] = field(default_factory=dict)
    cohorts: Mapping[str, int] = field(default_factory=dict)
    mutexes: Sequence[Any] = ()
    holdouts: Sequence[Any] = ()
    groups_known: bool = True


def surroundings(kind: Kind, found: Any, *, dialect: str = "v1") -> Reading[Surroundings]:
    """Read what stands around an object.

    Two requests and two for each variant, and where it has dependencies one or two more. The older API shows neither
    deployments nor cohorts nor groups.

    :param found: the flag or experiment as it was just read.
    :param dialect: ``v1`` or ``beta``, as the client speaks it.
    """
    calls, current = calls_of(kind), dialect != "beta"
    variants = yield calls.variants(found.id)
    deployments: Sequence[Any] | None = () if found.deployments == [] else None
    if current and deployments is None:
        deployments = yield calls.deployments(found.id)
    users: dict[str, int] = {}
    cohorts: dict[str, int] = {}
    for each in variants:
        users[each.key] = len((yield calls.users(found.id, each.key)))
        if current:
            cohorts[each.key] = len((yield calls.cohorts(found.id, each.key)))
    parents = set((found.parent_dependencies.flags if found.parent_dependencies else None) or ())
    exclusive: list[Any] = []
    held_out: list[Any] = []
    if parents and current:
        exclusive = yield from _groups(mutexes, found)
        if parents - {each.id for each in exclusive}:
            held_out = yield from _groups(holdouts, found)
    return Surroundings(
        variants=variants,
        deployments=deployments,
        users=users,
        cohorts=cohorts,
        mutexes=exclusive,
        holdouts=held_out,
        groups_known=current,
    )


def _groups(calls: Any, found: Any) -> Reading[list[Any]]:
    """List the groups of the object's project; there is no call that finds one by its member."""
    project = {"project_id": found.project_id} if found.project_id else {}
    groups = yield from listed(calls.list(**project))
    return [each for each in groups if not each.deleted]
