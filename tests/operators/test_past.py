"""Law 3, the past never moves the present: which runs may write, on every schedule that Airflow knows.

The runs here are made of what a real worker was handed on Airflow 3.1.6 and 3.3.2, for scheduled and backfill runs,
runs cleared while they ran, and runs cleared after they had finished. The DAGs are written as users write them, so
that the timetables are those that a worker sees: Airflow's core on 3.1, the SDK's on 3.3.
"""

from __future__ import annotations

import logging
from datetime import UTC, datetime, timedelta
from typing import Any

import pendulum
import pytest
import time_machine
from airflow.providers.common.compat.sdk import AirflowSkipException
from airflow.sdk import DAG, Asset, BaseOperator
from airflow.sdk.api.datamodels._generated import DagRun, DagRunType
from airflow.timetables.assets import AssetOrTimeSchedule as CoreAssetOrTimeSchedule
from airflow.timetables.base import DagRunInfo, Timetable
from airflow.timetables.events import EventsTimetable
from airflow.timetables.interval import CronDataIntervalTimetable as CoreCronDataIntervalTimetable
from airflow.timetables.trigger import CronTriggerTimetable as CoreCronTriggerTimetable
from airflow.timetables.trigger import MultipleCronTriggerTimetable as CoreMultipleCronTriggerTimetable
from dateutil.relativedelta import relativedelta

from airflow_amplitude_experiment.operators._past import Run, Unknown, past, skip_in_the_past, why_past

try:  # What a DAG file of Airflow 3.3 imports; on 3.1 the core's are all there is.
    from airflow.sdk import (
        AssetOrTimeSchedule,
        CronDataIntervalTimetable,
        CronPartitionTimetable,
        CronTriggerTimetable,
        DeltaDataIntervalTimetable,
        MultipleCronTriggerTimetable,
    )
except ImportError:
    from airflow.timetables.interval import DeltaDataIntervalTimetable

    AssetOrTimeSchedule = CoreAssetOrTimeSchedule
    CronDataIntervalTimetable = CoreCronDataIntervalTimetable
    CronPartitionTimetable = None
    CronTriggerTimetable = CoreCronTriggerTimetable
    MultipleCronTriggerTimetable = CoreMultipleCronTriggerTimetable

ASSET = Asset("s3://warehouse/orders")
SECOND = timedelta(seconds=1)
DAY = timedelta(days=1)


def at(text: str) -> datetime:
    """A moment as a worker gets it: ``datetime`` in UTC."""
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def a_dag(schedule: Any, **settings: Any) -> DAG:
    if schedule == "@continuous":
        settings["max_active_runs"] = 1
    with DAG("rollout_dag", schedule=schedule, **{"start_date": at("2026-01-01"), **settings}) as dag:
        BaseOperator(task_id="ramp")
    return dag


def a_run(
    run_after: datetime,
    *,
    run_type: str = "scheduled",
    interval: timedelta | None = timedelta(),
    started: datetime | None = None,
    **settings: Any,
) -> DagRun:
    """A run as ``context["dag_run"]`` holds it, started three seconds after it was due.

    :param interval: length of its data interval, ``None`` for a run without one.
    """
    fields = {
        "dag_id": "rollout_dag",
        "run_id": f"{run_type}__{run_after.isoformat()}",
        "run_type": run_type,
        "state": "running",
        "run_after": run_after,
        "logical_date": None if interval is None else run_after - interval,
        "data_interval_start": None if interval is None else run_after - interval,
        "data_interval_end": None if interval is None else run_after,
        "start_date": started or run_after + 3 * SECOND,
        "end_date": None,
        "clear_number": 0,
        "consumed_asset_events": [],
        "partition_key": None,
        **settings,
    }
    return DagRun(**{name: value for name, value in fields.items() if name in DagRun.model_fields})


def cleared_while_running(run: DagRun) -> DagRun:
    """Airflow keeps the start; 3.1 does not count the clear, 3.3 does."""
    counts = "partition_key" in DagRun.model_fields
    return run.model_copy(update={"clear_number": 1 if counts else 0})


def cleared_after_the_finish(run: DagRun, *, at: datetime) -> DagRun:
    """Airflow takes the start away, counts the clear, and gives a new start when the run leaves the queue again."""
    return run.model_copy(update={"clear_number": 1, "start_date": at})


def asked(dag: DAG, run: DagRun) -> str | None:
    return past({"dag": dag, "dag_run": run})


class EverySixHours(Timetable):
    """A user's own timetable, as the documentation of Airflow shows how to write one; it wants a start date."""

    def next_dagrun_info(self, *, last_automated_data_interval, restriction):
        start = max(last_automated_data_interval.end, restriction.earliest)
        return DagRunInfo.interval(start, start + timedelta(hours=6))


class Broken(Timetable):
    def next_dagrun_info(self, *, last_automated_data_interval, restriction):
        raise KeyError("holidays")


class Stuck(Timetable):
    """Answers with the run that it was given."""

    def next_dagrun_info(self, *, last_automated_data_interval, restriction):
        return DagRunInfo(run_after=last_automated_data_interval.end, data_interval=last_automated_data_interval)


BERLIN = "Europe/Berlin"
EVENTS = [pendulum.parse(day) for day in ("2026-03-02", "2026-05-05", "2026-11-20")]

# (the schedule as users write it, a run of it, its data interval, when the next run is due)
SCHEDULES = {
    "cron": ("0 6 * * *", "2026-11-20T06:00", timedelta(), "2026-11-21T06:00"),
    "preset": ("@weekly", "2026-11-15T00:00", timedelta(), "2026-11-22T00:00"),
    "cron over a month's end": ("0 6 31 * *", "2026-01-31T06:00", timedelta(), "2026-03-31T06:00"),
    "cron trigger": (
        CronTriggerTimetable("0 6 * * *", timezone=BERLIN),
        "2026-11-20T05:00",
        timedelta(),
        "2026-11-21T05:00",
    ),
    "cron trigger with an interval": (
        CronTriggerTimetable("0 6 * * 1", timezone="UTC", interval=timedelta(days=7)),
        "2026-11-16T06:00",
        timedelta(days=7),
        "2026-11-23T06:00",
    ),
    "cron trigger of the core": (
        CoreCronTriggerTimetable("0 6 * * *", timezone=BERLIN),
        "2026-11-20T05:00",
        timedelta(),
        "2026-11-21T05:00",
    ),
    "cron intervals": (CronDataIntervalTimetable("@daily", timezone="UTC"), "2026-11-20", DAY, "2026-11-21"),
    "cron intervals of the core": (
        CoreCronDataIntervalTimetable("@daily", timezone="UTC"),
        "2026-11-20",
        DAY,
        "2026-11-21",
    ),
    "into summer time": (
        CronTriggerTimetable("0 6 * * *", timezone=BERLIN),
        "2026-03-28T05:00",
        timedelta(),
        "2026-03-29T04:00",
    ),
    "out of summer time": (
        CronTriggerTimetable("0 6 * * *", timezone=BERLIN),
        "2026-10-24T04:00",
        timedelta(),
        "2026-10-25T05:00",
    ),
    "intervals into summer time": (
        CronDataIntervalTimetable("0 6 * * *", timezone=BERLIN),
        "2026-03-28T05:00",
        DAY,
        "2026-03-29T04:00",
    ),
    # Airflow runs it in the second of the two.
    "an hour that there are two of": (
        CronTriggerTimetable("30 2 * * *", timezone=BERLIN),
        "2026-10-24T00:30",
        timedelta(),
        "2026-10-25T01:30",
    ),
    "an hour that there is not": (
        CronTriggerTimetable("30 2 * * *", timezone=BERLIN),
        "2026-03-28T01:30",
        timedelta(),
        "2026-03-29T01:30",
    ),
    "every hour while the clock is set back": (
        CronTriggerTimetable("0 * * * *", timezone=BERLIN),
        "2026-10-25T00:00",
        timedelta(),
        "2026-10-25T01:00",
    ),
    "several crons": (
        MultipleCronTriggerTimetable("0 6 * * *", "0 18 * * *", timezone="UTC"),
        "2026-11-20T06:00",
        timedelta(),
        "2026-11-20T18:00",
    ),
    "timedelta": (timedelta(hours=6), "2026-11-20T01:17", timedelta(), "2026-11-20T07:17"),
    "a timedelta is no calendar day": (DAY, "2026-03-28T05:00", timedelta(), "2026-03-29T05:00"),
    "relativedelta": (relativedelta(months=1), "2026-01-31T00:00", timedelta(), "2026-02-28T00:00"),
    "delta intervals": (DeltaDataIntervalTimetable(DAY), "2026-11-20T01:17", DAY, "2026-11-21T01:17"),
    "events": (EventsTimetable(EVENTS), "2026-03-02", timedelta(), "2026-05-05"),
    "assets or time": (
        AssetOrTimeSchedule(
            timetable=CronTriggerTimetable("0 6 * * *", timezone="UTC"), assets=[Asset("s3://warehouse/orders")]
        ),
        "2026-11-20T06:00",
        timedelta(),
        "2026-11-21T06:00",
    ),
    "a user's own": (EverySixHours(), "2026-11-20T06:00", timedelta(hours=6), "2026-11-20T12:00"),
    "assets or a user's own": (
        AssetOrTimeSchedule(timetable=EverySixHours(), assets=[Asset("s3://warehouse/orders")]),
        "2026-11-20T06:00",
        timedelta(hours=6),
        "2026-11-20T12:00",
    ),
}
if CronPartitionTimetable:
    SCHEDULES["partitions"] = (
        CronPartitionTimetable("0 6 * * *", timezone="UTC"),
        "2026-11-20T06:00",
        None,
        "2026-11-21T06:00",
    )


@pytest.fixture(params=SCHEDULES.values(), ids=SCHEDULES)
def scheduled(request) -> tuple[DAG, datetime, timedelta | None, datetime]:
    schedule, due, interval, next_due = request.param
    return a_dag(schedule), at(due), interval, at(next_due)


def test_a_scheduled_run_that_starts_before_the_next_one_is_due_may_write(scheduled):
    dag, due, interval, next_due = scheduled
    assert asked(dag, a_run(due, interval=interval)) is None
    assert asked(dag, a_run(due, interval=interval, started=next_due - SECOND)) is None


def test_a_scheduled_run_that_starts_when_the_next_one_is_due_is_past(scheduled):
    dag, due, interval, next_due = scheduled
    reason = asked(dag, a_run(due, interval=interval, started=next_due))
    assert reason is not None
    assert f"when the run of {next_due:%Y-%m-%d %H:%M} UTC was already due" in reason


def test_it_stays_current_however_long_it_lasts(scheduled):
    dag, due, interval, next_due = scheduled
    with time_machine.travel(next_due + timedelta(days=90)):
        assert asked(dag, a_run(due, interval=interval)) is None


def test_it_stays_current_when_cleared_while_it_runs(scheduled):
    dag, due, interval, next_due = scheduled
    with time_machine.travel(next_due + timedelta(days=90)):
        assert asked(dag, cleared_while_running(a_run(due, interval=interval))) is None


def test_cleared_after_its_finish_it_is_past_once_the_next_one_was_due(scheduled):
    dag, due, interval, next_due = scheduled
    reason = asked(dag, cleared_after_the_finish(a_run(due, interval=interval), at=next_due + SECOND))
    assert reason is not None
    assert "was already due" in reason


def test_cleared_after_its_finish_it_may_write_while_it_is_the_latest():
    failed = a_run(at("2026-11-20T06:00"))
    assert asked(a_dag("0 6 * * *"), cleared_after_the_finish(failed, at=at("2026-11-20T09:00"))) is None


def test_a_backfill_never_writes_not_even_of_the_latest_interval():
    for due in ("2026-03-01", "2026-11-21"):
        reason = asked(a_dag("@daily"), a_run(at(due), run_type="backfill"))
        assert reason is not None
        assert "is a backfill" in reason


def test_of_a_late_catch_up_only_the_newest_run_writes():
    dag = a_dag("@hourly", catchup=True)
    outage_ends = at("2026-11-20T09:20")
    runs = [a_run(at(f"2026-11-20T0{hour}:00"), started=outage_ends) for hour in range(10)]
    assert [asked(dag, run) is None for run in runs] == [False] * 9 + [True]


@pytest.mark.parametrize("schedule", ["0 6 1 * *", CronTriggerTimetable("0 6 1 * *", timezone="UTC")])
@pytest.mark.parametrize("catchup", [True, False])
def test_the_latest_interval_of_a_dag_unpaused_in_mid_month_is_current(schedule, catchup):
    """With ``catchup=False`` the scheduler makes the latest interval, which may have been due for weeks."""
    run = a_run(at("2026-11-01T06:00"), started=at("2026-11-20T12:00"))
    assert asked(a_dag(schedule, catchup=catchup), run) is None


NO_NEWER_RUN = {
    "@once": "@once",
    "@continuous": "@continuous",
    "none": None,
    "asset": [ASSET],
    "asset condition": ASSET | Asset("s3://warehouse/users"),
    "assets or @continuous": "assets or @continuous",
    "last event": EventsTimetable(EVENTS[:1]),
}


@pytest.fixture(params=NO_NEWER_RUN.values(), ids=NO_NEWER_RUN)
def never_superseded(request) -> DAG:
    if request.param == "assets or @continuous":
        continuous = a_dag("@continuous").timetable
        return a_dag(AssetOrTimeSchedule(timetable=continuous, assets=[ASSET]), max_active_runs=1)
    return a_dag(request.param)


def test_no_newer_run_is_ever_due(never_superseded):
    due = at("2026-03-02")
    assert asked(never_superseded, a_run(due)) is None
    assert asked(never_superseded, a_run(due, started=due + timedelta(days=200))) is None
    assert asked(never_superseded, cleared_after_the_finish(a_run(due), at=due + timedelta(days=6))) is None


def test_without_a_newer_run_its_age_still_ends_what_a_clear_may_do(never_superseded):
    due = at("2026-03-02")
    reason = asked(never_superseded, cleared_after_the_finish(a_run(due), at=due + timedelta(days=7, seconds=1)))
    assert reason is not None
    assert "more than 7 days after it was due" in reason


def test_a_worker_whose_clock_is_behind_takes_no_continuous_run_for_past():
    """``@continuous`` says "now" for its next run; a start by a faster clock would be later than that."""
    now = at("2026-11-20T06:00")
    with time_machine.travel(now, tick=False):
        assert asked(a_dag("@continuous"), a_run(now - SECOND, started=now + 5 * SECOND)) is None


def test_the_last_run_before_the_end_date_is_not_superseded():
    dag = a_dag("@daily", end_date=at("2026-11-20T12:00"))
    assert asked(dag, a_run(at("2026-11-20"), started=at("2026-11-25"))) is None
    assert asked(dag, a_run(at("2026-11-19"), started=at("2026-11-25"))) is not None


def test_end_dates_of_all_tasks_end_the_schedule_as_well():
    with DAG("rollout_dag", schedule="@daily", start_date=at("2026-01-01")) as dag:
        BaseOperator(task_id="ramp", end_date=at("2026-11-20T12:00"))
    assert asked(dag, a_run(at("2026-11-20"), started=at("2026-11-25"))) is None


def test_a_mapped_task_is_no_obstacle():
    with DAG("rollout_dag", schedule="@daily", start_date=at("2026-01-01")) as dag:
        BaseOperator.partial(task_id="ramp").expand(doc=["a", "b"])
    assert asked(dag, a_run(at("2026-11-20"), started=at("2026-11-21"))) is not None


@pytest.mark.parametrize("schedule", ["@daily", CronDataIntervalTimetable("@daily", timezone="UTC"), EverySixHours()])
def test_a_start_date_moved_ahead_makes_no_old_run_current(schedule):
    dag = a_dag(schedule, start_date=at("2026-12-24"))
    assert asked(dag, a_run(at("2026-11-20"), interval=DAY, started=at("2026-11-25"))) is not None


@pytest.mark.parametrize("run_type", ["manual", "asset_triggered", "operator_triggered", "asset_materialization"])
class TestRunsThatNoScheduleMade:
    """Somebody, or an event, wanted this run now."""

    def a_run(self, run_type: str, *, days: float, clear_number: int = 0) -> Run:
        due = at("2026-11-01T12:00")
        return Run(
            dag_id="rollout_dag",
            run_id="r",
            run_type=run_type,
            run_after=due,
            start_date=due + timedelta(days=days),
            clear_number=clear_number,
        )

    def test_are_not_past_however_late_they_start(self, run_type):
        assert why_past(self.a_run(run_type, days=400)) is None

    def test_may_write_when_cleared_within_seven_days(self, run_type):
        assert why_past(self.a_run(run_type, days=7, clear_number=1)) is None

    def test_may_not_when_cleared_later(self, run_type):
        reason = why_past(self.a_run(run_type, days=7.1, clear_number=1))
        assert reason is not None
        assert "has been cleared since" in reason

    def test_are_not_asked_for_their_schedule(self, run_type):
        if run_type not in {known.value for known in DagRunType}:
            pytest.skip("this Airflow has no such runs")
        run = a_run(at("2026-11-01T12:00"), run_type=run_type, interval=None, started=at("2026-11-20"))
        assert asked(a_dag("@daily"), run) is None
        assert asked(a_dag(Broken()), run) is None


def test_a_manual_run_for_an_old_date_is_current():
    """Airflow 3.1 gives such a run the old date for its ``run_after`` too; 3.3 gives it the moment of the click."""
    run = a_run(at("2026-03-01"), run_type="manual", started=at("2026-11-20"))
    assert asked(a_dag("@daily"), run) is None
    assert asked(a_dag("@daily"), cleared_while_running(run.model_copy(update={"run_after": run.start_date}))) is None


@pytest.mark.parametrize(
    ("timetable", "why"),
    [
        (Broken(), "Broken failed (KeyError: 'holidays')"),
        (Stuck(), "Stuck said 2026-11-20 06:00 UTC, which is not later than this run"),
    ],
)
class TestATimetableThatCannotSayWhenTheNextRunIsDue:
    """It must neither block each run of its DAG nor let an old one through."""

    due = at("2026-11-20T06:00")

    def test_blocks_no_run_that_started_in_time(self, timetable, why, caplog):
        with caplog.at_level(logging.WARNING):
            assert asked(a_dag(timetable), a_run(self.due, started=self.due + timedelta(minutes=59))) is None
        assert why in caplog.text

    def test_lets_no_late_run_through(self, timetable, why):
        reason = asked(a_dag(timetable), a_run(self.due, started=self.due + timedelta(minutes=61)))
        assert reason is not None
        assert "more than 1 hour after it was due" in reason
        assert why in reason

    def test_lets_no_old_run_through_that_was_cleared(self, timetable, why):
        assert asked(a_dag(timetable), cleared_after_the_finish(a_run(self.due), at=self.due + DAY)) is not None

    def test_says_nothing_of_backfills_and_clicks(self, timetable, why, caplog):
        assert asked(a_dag(timetable), a_run(self.due, run_type="manual", started=self.due + 3 * DAY)) is None
        assert "backfill" in (asked(a_dag(timetable), a_run(self.due, run_type="backfill")) or "")
        assert not caplog.records


def test_max_age_can_be_set():
    run = Run(
        dag_id="d",
        run_id="r",
        run_type="manual",
        run_after=at("2026-11-20"),
        start_date=at("2026-11-22"),
        clear_number=1,
    )
    assert why_past(run, max_age=timedelta(days=3)) is None
    assert "more than 1 day after" in (why_past(run, max_age=DAY) or "")


def test_unknown_is_the_end_of_no_run_without_a_schedule():
    run = Run(dag_id="d", run_id="r", run_type="manual", run_after=at("2026-11-20"), start_date=at("2026-11-22"))
    assert why_past(run, newer=Unknown("why")) is None


def test_the_reason_says_which_run_why_and_what_to_do():
    run = a_run(at("2026-11-20T06:00"), started=at("2026-11-22T03:14:07"))
    with pytest.raises(AirflowSkipException) as skipped:
        skip_in_the_past({"dag": a_dag("0 6 * * *"), "dag_run": run})
    assert str(skipped.value) == (
        "Run scheduled__2026-11-20T06:00:00+00:00 of rollout_dag was due at 2026-11-20 06:00 UTC and last started "
        "at 2026-11-22 03:14:07 UTC, when the run of 2026-11-21 06:00 UTC was already due. This task wrote nothing "
        "to Amplitude. To act on what is there now, trigger a new run of rollout_dag; clearing this one again "
        "changes nothing."
    )


def test_a_current_run_goes_on():
    skip_in_the_past({"dag": a_dag("@daily"), "dag_run": a_run(at("2026-11-20"))})


def test_a_context_without_a_run_is_nobodys_past():
    assert past({}) is None


def test_no_timetable_is_asked_of_the_database(monkeypatch):
    """A worker has none: Airflow points it to nowhere."""
    from airflow import settings

    monkeypatch.setattr(settings, "Session", None)
    monkeypatch.setattr(settings, "engine", None)
    assert asked(a_dag("@daily"), a_run(at("2026-11-20"), started=at("2026-11-21"))) is not None
