"""What the tasks of one staged rollout tell each other within a run.

Airflow's XComs and task states, each read for the own map index only: a mapped rollout knows nothing of its siblings.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from ._base import given

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context

BETWEEN_LOOKS_AT_A_FREEZE = timedelta(minutes=5)
SHORTEST_WAIT = timedelta(seconds=5)
"""Airflow fails a task that is resumed before its executor has reported the end of the process that deferred it."""

FINISHED = ("success", "failed", "skipped", "upstream_failed", "removed")


def now() -> datetime:
    """Tell the time, in UTC."""
    return datetime.now(UTC)


def pulled(context: Context, task_id: str | None, key: str = "return_value") -> Any:
    """Return what a task of this run and map index left, or ``None``."""
    if task_id is None:
        return None
    instance: Any = context["ti"]
    return instance.xcom_pull(task_ids=task_id, key=key, map_indexes=instance.map_index)


def newest(context: Context, task_ids: Sequence[str], field: str) -> Any:
    """Return a field of the newest record that holds it, of tasks that are named in their order."""
    for task_id in reversed(task_ids):
        record = pulled(context, task_id)
        if isinstance(record, Mapping) and record.get(field):
            return record[field]
    return None


def state_of(context: Context, task_id: str) -> str | None:
    """Return the state of a task of this run and map index."""
    instance: Any = context["ti"]
    return state_in(
        instance.get_task_states(
            dag_id=instance.dag_id,
            task_ids=[task_id],
            run_ids=[instance.run_id],
            map_index=instance.map_index,
        ),
        run_id=instance.run_id,
        task_id=task_id,
        map_index=instance.map_index,
    )


def state_in(states: Mapping[str, Any], *, run_id: str, task_id: str, map_index: int) -> str | None:
    """Find one task's state in Airflow's answer, which names a mapped task with its index."""
    of_run = states.get(run_id) or {}
    state = of_run.get(task_id if map_index < 0 else f"{task_id}_{map_index}")
    return None if state is None else str(getattr(state, "value", state))


def starting_percentage(value: Any) -> int | None:
    """Return ``start_at`` or ``rollback_to`` as a percentage: ``"off"`` is 0, what was left out is ``None``.

    :raises ValueError: it is neither a whole percentage nor ``"off"``.
    """
    from airflow_amplitude_experiment.api._checks import percent

    if (value := given(value)) is None:
        return None
    if is_off(value):
        return 0
    wanted: int = percent("a percentage to start at or to go back to", value)
    return wanted


def is_off(value: Any) -> bool:
    """Whether ``rollback_to`` means the switch and not a percentage."""
    return isinstance(value, str) and value.strip().lower() == "off"


def moment_of_change(found: Any) -> datetime:
    """Return since when an object stands as it does: late rather than early, so that no wait is cut short.

    A date without a time could be up to a day too early, and so counts as now.
    """
    text = found.last_modified_at or ""
    if "T" not in text:
        return now()
    moment = datetime.fromisoformat(text)
    return moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC)
