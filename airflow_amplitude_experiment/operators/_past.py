"""Whether a task instance belongs to the past, and so may not write (law 3: the past never moves the present).

One question, asked by every writing task before anything else. It is apart from the operators because the answer
must be the same for all of them, and because it depends on Airflow in ways that differ between releases: a worker
holds the timetable of ``airflow.sdk`` from 3.2 on, which knows its cron expression but not when it is next due.

What Airflow hands a task, run on 3.1.6 and 3.3.2:

=========================  ====================================  =====================  ================
the run                    ``start_date``                        ``clear_number``       ``run_after``
=========================  ====================================  =====================  ================
first start                when it left the queue                0                      of its interval
cleared while running      kept                                  3.1: 0; 3.3: 1 more    kept
cleared after the finish   when it left the queue again          1 more                 kept
set back to queued         when it left the queue again          kept                   kept
=========================  ====================================  =====================  ================

So the start tells a run that is still going from one that was brought back; the clear number alone does not. On
3.3 the two can't be told apart for a run that first started more than ``MAX_AGE`` late (a monthly schedule unpaused
in mid-month) and is cleared while it runs: it counts as brought back.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context

MAX_AGE = timedelta(days=7)
"""How long after its ``run_after`` a run that had finished may still be cleared and write."""

START_WITHOUT_TIMETABLE = timedelta(hours=1)
"""How late a scheduled run may start where its timetable can't say when the next one is due."""

log = logging.getLogger(__name__)


def skip_in_the_past(context: Context, log: Any = log, *, max_age: timedelta = MAX_AGE) -> None:
    """Skip this task if its run belongs to the past. Airflow logs the reason of a skip itself.

    :param context: the context of the running task.
    :param log: the task's logger; it is told if the timetable could not be asked.
    :param max_age: how long after its ``run_after`` a run that had finished may be cleared and still write.
    :raises AirflowSkipException: the run belongs to the past.
    """
    from airflow.providers.common.compat.sdk import AirflowSkipException

    if reason := past(context, log, max_age=max_age):
        raise AirflowSkipException(reason)


def past(context: Context, log: Any = log, *, max_age: timedelta = MAX_AGE) -> str | None:
    """Say why this task's run belongs to the past and may not write, or ``None`` where it may.

    A context without a run (``execute({})`` in somebody's unit test) is nobody's past.

    :param context: the context of the running task.
    :param log: the task's logger; it is told if the timetable could not be asked.
    :param max_age: how long after its ``run_after`` a run that had finished may be cleared and still write.
    """
    if (dag_run := context.get("dag_run")) is None:
        return None
    run = Run.read(dag_run)
    newer: datetime | Unknown | None = None
    if run.run_type == "scheduled":
        newer = newer_run_due(context["dag"], dag_run)
    reason = why_past(run, newer=newer, max_age=max_age)
    if reason is None and isinstance(newer, Unknown):
        log.warning("When the run after %s is due is not known: %s. It started in time.", run.run_id, newer.why)
    return reason


@dataclass(frozen=True, kw_only=True)
class Run:
    """What decides, of one DAG run.

    :param run_type: ``scheduled``, ``backfill``, ``manual``, ``asset_triggered``, …
    :param run_after: when the run was due.
    :param start_date: when it last left the queue; a clear of a finished run moves it.
    :param clear_number: how often it was cleared, as far as Airflow counts that.
    """

    dag_id: str
    run_id: str
    run_type: str
    run_after: datetime
    start_date: datetime
    clear_number: int = 0

    @classmethod
    def read(cls, dag_run: Any) -> Run:
        """Take it from a task's ``dag_run``; a run that has no start yet starts now."""
        return cls(
            dag_id=dag_run.dag_id,
            run_id=dag_run.run_id,
            run_type=str(getattr(dag_run.run_type, "value", dag_run.run_type)),
            run_after=dag_run.run_after,
            start_date=dag_run.start_date or datetime.now(UTC),
            clear_number=getattr(dag_run, "clear_number", None) or 0,
        )


@dataclass(frozen=True)
class Unknown:
    """The timetable could not say when the next run is due.

    :param why: what it did instead.
    """

    why: str


def why_past(run: Run, *, newer: datetime | Unknown | None = None, max_age: timedelta = MAX_AGE) -> str | None:
    """Decide law 3 for a run, given when the run after it is due.

    Pure. Where ``newer`` is :class:`Unknown`, a scheduled run may write only if it started within
    ``START_WITHOUT_TIMETABLE`` of being due. On a healthy Airflow every run does, so that a timetable that fails
    here blocks nothing; a late catch-up and a run brought back from last month do not, so that it lets nothing
    old through either. A run refused by that rule can be triggered by hand.

    :param run: the run whose task asks.
    :param newer: when the next run of its schedule is due; ``None`` if there is none, or the run has no schedule.
    :param max_age: how long after its ``run_after`` a run that had finished may be cleared and still write.
    """
    if run.run_type == "backfill":
        return _told(run, "is a backfill: it replays the past, and may not change what users get today.")
    if run.run_type == "scheduled" and (reason := _superseded(run, newer)):
        return _told(run, reason)
    if run.clear_number and run.start_date - run.run_after > max_age:
        return _told(
            run,
            f"was due at {_moment(run.run_after)}, has been cleared since, and last started at "
            f"{_moment(run.start_date)}, more than {_length(max_age)} after it was due.",
        )
    return None


def _superseded(run: Run, newer: datetime | Unknown | None) -> str | None:
    """Say why a scheduled run started too late, or ``None`` if it started in time."""
    started = f"was due at {_moment(run.run_after)} and last started at {_moment(run.start_date)}"
    if isinstance(newer, datetime) and run.start_date >= newer:
        return f"{started}, when the run of {_moment(newer)} was already due."
    if isinstance(newer, Unknown) and run.start_date - run.run_after > START_WITHOUT_TIMETABLE:
        return (
            f"{started}, more than {_length(START_WITHOUT_TIMETABLE)} after it was due. Whether a newer run was "
            f"due by then is not known: {newer.why}."
        )
    return None


def newer_run_due(dag: Any, dag_run: Any) -> datetime | Unknown | None:
    """Ask the timetable of ``dag`` when the scheduled run that follows ``dag_run`` is due.

    The timetable is asked the scheduler's own question in the scheduler's own code, as if every interval were
    wanted: ``catchup=False`` would have it answer with the latest interval by the clock, not with the next.
    ``None`` where no run follows: ``@once``, the last event, beyond the DAG's end date. For ``@continuous`` too:
    its next run comes into being when this one ends, so nothing newer is due while it runs.

    No database is needed, and none is within reach of a worker.

    :param dag: the DAG as the worker has it.
    :param dag_run: a scheduled run of it.
    """
    name = type(dag.timetable).__name__
    try:
        from airflow.timetables.simple import ContinuousTimetable

        timetable = _core_timetable(dag.timetable)
        if isinstance(timetable, ContinuousTimetable):
            return None
        if (info := _next_run(timetable, dag, dag_run)) is None:
            return None
        due: datetime = info.run_after
        if due > dag_run.run_after:
            return due
    except Exception as error:  # noqa: BLE001 - a user's own timetable may raise anything, and must not end the task
        return Unknown(f"{name} failed ({type(error).__name__}: {error})")
    return Unknown(f"{name} said {_moment(due)}, which is not later than this run")


def _core_timetable(timetable: Any) -> Any:
    """Return the timetable that can count, from the one that a DAG file names.

    Up to 3.1 they are the same. Later a DAG file's is of ``airflow.sdk``, and Airflow itself serializes and reads
    it back where the SDK needs an answer (``DAG.test``); so do we. A user's own is registered by a plugin and is
    of Airflow's core on every release.
    """
    if type(timetable).__name__ == "AssetOrTimeSchedule":
        timetable = timetable.timetable  # assets make no run newer; they need not survive the round trip
    if hasattr(timetable, "next_dagrun_info"):
        return timetable
    from airflow.serialization.encoders import coerce_to_core_timetable

    return coerce_to_core_timetable(timetable)


def _next_run(timetable: Any, dag: Any, dag_run: Any) -> Any:
    """Ask a core timetable for the run after ``dag_run``; it answers with a ``DagRunInfo`` or ``None``."""
    from airflow.timetables.base import DagRunInfo, DataInterval

    run_after = _core_moment(dag_run.run_after)
    interval = None
    if dag_run.data_interval_start and dag_run.data_interval_end:
        interval = DataInterval(_core_moment(dag_run.data_interval_start), _core_moment(dag_run.data_interval_end))
    restriction = _restriction(dag, no_later_than=run_after)
    # What a partitioned schedule needs besides (3.2): its runs have no interval.
    partition = {
        name: getattr(dag_run, name) for name in ("partition_date", "partition_key") if name in DagRunInfo._fields
    }
    if hasattr(timetable, "next_dagrun_info_v2"):
        last = DagRunInfo(run_after=run_after, data_interval=interval, **partition)
        return timetable.next_dagrun_info_v2(last_dagrun_info=last, restriction=restriction)
    return timetable.next_dagrun_info(
        last_automated_data_interval=interval or DataInterval.exact(run_after), restriction=restriction
    )


def _restriction(dag: Any, *, no_later_than: datetime) -> Any:
    """Bound the schedule as the scheduler does, by the dates of the DAG and of its tasks.

    A start date that was moved beyond this run since would hide the runs between; it is taken as the run's own.
    """
    from airflow.timetables.base import TimeRestriction

    starts = [date for date in (dag.start_date, *(task.start_date for task in dag.tasks)) if date]
    ends = [task.end_date for task in dag.tasks if task.end_date]
    latest = dag.end_date
    if ends and len(ends) == len(dag.tasks):
        latest = max([*ends, latest] if latest else ends)
    return TimeRestriction(
        earliest=_core_moment(min(*starts, no_later_than)) if starts else None,
        latest=_core_moment(latest) if latest else None,
        catchup=True,
    )


def _core_moment(moment: datetime) -> Any:
    """Return what timetables count with: pendulum's type, in UTC as the scheduler reads it from the database."""
    import pendulum

    return pendulum.instance(moment).in_timezone("UTC")


def _told(run: Run, reason: str) -> str:
    """Complete a reason: which run, what became of the write, and the way on."""
    return (
        f"Run {run.run_id} of {run.dag_id} {reason} This task wrote nothing to Amplitude. "
        f"To act on what is there now, trigger a new run of {run.dag_id}; clearing this one again changes nothing."
    )


def _moment(moment: datetime) -> str:
    """``2026-11-22 09:14 UTC``, with seconds where they tell something."""
    utc = moment.astimezone(UTC)
    return f"{utc:%Y-%m-%d %H:%M:%S} UTC" if utc.second else f"{utc:%Y-%m-%d %H:%M} UTC"


def _length(length: timedelta) -> str:
    """``7 days``, ``1 hour``."""
    for unit, seconds in (("day", 86_400), ("hour", 3_600), ("minute", 60)):
        count, rest = divmod(length.total_seconds(), seconds)
        if count and not rest:
            return f"{count:.0f} {unit}{'' if count == 1 else 's'}"
    return str(length)
