"""What a task knows of its run, and what the tasks of one staged rollout tell each other within it.

Airflow's XComs and task states, each read for the own map index only: a mapped rollout knows nothing of its siblings.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from ._base import given

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import BaseOperator, Context

BETWEEN_LOOKS_AT_A_FREEZE = timedelta(minutes=5)
SHORTEST_WAIT = timedelta(seconds=5)
"""Airflow fails a task that is resumed before its executor has reported the end of the process that deferred it."""

WAITED = "waited_for_quota"
"""Key of the XCom that a task leaves itself when it is deferred because of a 429 that lasts."""

FINISHED = ("success", "failed", "skipped", "upstream_failed", "removed")


def now() -> datetime:
    """Tell the time, in UTC."""
    return datetime.now(UTC)


class Begun(NamedTuple):
    """What of a run decides whether a task could undo somebody's stop (law 9).

    :param by_hand: a person started it.
    :param again: the run was cleared, or the task has begun before.
    :param since: how far back it looks: to when it was due, or to when it began where a person started it, because
        what they stopped before pressing Trigger is theirs to start again.
    """

    by_hand: bool
    again: bool
    since: datetime


def begun(context: Context, *, writes: bool = True) -> Begun | None:
    """Look at the task's run; ``None`` outside of one.

    :param writes: whether the task may have written before it met the quota, and so has begun before.
    """
    if (run := context.get("dag_run")) is None:
        return None
    by_hand = str(getattr(run.run_type, "value", run.run_type)) == "manual"
    cleared = bool(getattr(run, "clear_number", 0))
    since = cast(datetime, run.run_after or run.start_date)
    if by_hand and not cleared and run.start_date:
        since = max(since, run.start_date)
    return Begun(by_hand, cleared or tried_before(context, writes=writes), since)


def tried_before(context: Context, *, writes: bool = True) -> bool:
    """Whether the task has begun before, and may have written then: in an earlier try, or before it met the quota."""
    return context["ti"].try_number > 1 or (writes and bool(waited(context)))


def waited(context: Context) -> dict[str, Any]:
    """Return what a task left itself when it met the quota; Airflow keeps that until its next try."""
    return pulled(context, context["ti"].task_id, WAITED) or {}


def ramped_earlier(operator: BaseOperator, context: Context) -> list[dict[str, Any]]:
    """Return the records of the writes that this run's earlier tasks made to percentages, the oldest first."""
    writers = [
        task.task_id
        for task in operator.get_flat_relatives(upstream=True)
        if getattr(getattr(task, "operator_class", type(task)), "writes_percentage", False)
    ]
    found = context["ti"].xcom_pull(task_ids=writers) if writers else []
    records = found if isinstance(found, list) else [found]
    written = [each for each in records if isinstance(each, dict) and each.get("written")]
    return sorted(written, key=lambda record: str(record.get("at")))


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
