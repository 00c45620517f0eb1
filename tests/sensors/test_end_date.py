"""The end date sensor against the emulator over real HTTP: its first look, what it leaves behind, how it ends."""

from __future__ import annotations

import importlib.util
import logging
import textwrap
from datetime import UTC, datetime, timedelta

import pytest
from airflow.providers.common.compat.sdk import (
    AirflowFailException,
    AirflowSkipException,
    TaskDeferred,
)
from airflow.sdk.bases import sensor as base_sensor

from airflow_amplitude_experiment.api import AmplitudeNotFound, RolloutRefused, _retry
from airflow_amplitude_experiment.sensors import AmplitudeEndDateSensor
from airflow_amplitude_experiment.triggers import _board, _moments, _poll
from airflow_amplitude_experiment.triggers._events import error_event
from tests.builders import a_context

KEY = "new-price"
NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)
RECORD = {"key": KEY, "id": "1", "ended_at": "2026-11-20T00:00:00+00:00", "looked_at": "2026-11-20T12:00:00+00:00"}


@pytest.fixture(autouse=True)
def still(monkeypatch):
    """Time stands still, chance has no hand in it, and the client makes one attempt."""
    monkeypatch.setattr(_moments, "now", lambda: NOW)
    monkeypatch.setattr(_moments.random, "uniform", lambda low, high: high)
    monkeypatch.setattr(_retry, "PATIENCE", -1.0)
    monkeypatch.setattr(_retry, "FIRST_WAIT", 0.0)
    monkeypatch.setattr(AmplitudeEndDateSensor, "log", logging.getLogger("tests.end_date"))


@pytest.fixture
def amplitude(amplitude_emulator, monkeypatch):
    """The emulator with an experiment that ends in ten days, and a connection to it."""
    amplitude_emulator.options(dates="as_sent")
    monkeypatch.setenv("AIRFLOW_CONN_AMPLITUDE_EXPERIMENT_DEFAULT", amplitude_emulator.airflow_connection())
    amplitude_emulator.add_experiment(KEY, enabled=True, endDate="2026-11-30T12:00:00.000Z")
    amplitude_emulator.clear_requests()
    return amplitude_emulator


def a_sensor(**options):
    named = {} if "experiment_id" in options else {"experiment_key": KEY}
    return AmplitudeEndDateSensor(task_id="wait", **named, **options)


def deferral(sensor, context=None):
    with pytest.raises(TaskDeferred) as deferred:
        sensor.execute(context or a_context())
    return deferred.value


def sent(emulator):
    return [request["path"].removeprefix("/api/1/") for request in emulator.requests()]


# --- the first look ----------------------------------------------------------------------------------------


def test_it_defers_until_the_end_although_airflows_default_is_off(amplitude):
    deferred = deferral(a_sensor())
    path, kept = deferred.trigger.serialize()
    assert path == "airflow_amplitude_experiment.triggers.end_date.AmplitudeEndDateTrigger"
    assert kept == {
        "amplitude_conn_id": "amplitude_experiment_default",
        "next_look": (NOW + timedelta(minutes=15)).isoformat(),
        "interval": 900.0,
        "on_missing": "fail",
        "kind": "experiment",
        "project_id": "100001",
        "object_id": amplitude.experiment(KEY)["id"],
        "object_key": KEY,
        "matters_at": "2026-11-30T12:00:00+00:00",
    }
    assert deferred.timeout == timedelta(days=90)
    assert sent(amplitude) == ["experiments"]


def test_an_end_that_has_passed_costs_one_request_and_no_triggerer(amplitude):
    amplitude.change(KEY, endDate="2026-11-20T11:59:59Z")
    assert a_sensor().execute(a_context()) == {
        "key": KEY,
        "id": amplitude.experiment(KEY)["id"],
        "ended_at": "2026-11-20T11:59:59+00:00",
        "looked_at": "2026-11-20T12:00:00+00:00",
    }
    assert sent(amplitude) == ["experiments"]


@pytest.mark.parametrize(
    ("end_date", "ends_at"), [("2026-11-20", "2026-11-21T00:00:00+00:00"), ("2026-12-31", "2027-01-01T00:00:00+00:00")]
)
def test_a_date_alone_ends_with_that_day_in_utc(amplitude, end_date, ends_at):
    amplitude.options(dates="date")
    amplitude.change(KEY, endDate=end_date)
    assert deferral(a_sensor()).trigger.matters_at == ends_at


def test_a_date_alone_that_was_yesterday_has_passed(amplitude):
    amplitude.options(dates="date")
    amplitude.change(KEY, endDate="2026-11-19")
    assert a_sensor().execute(a_context())["ended_at"] == "2026-11-20T00:00:00+00:00"


def test_by_id_it_reads_the_details(amplitude):
    deferred = deferral(a_sensor(experiment_id=int(amplitude.experiment(KEY)["id"])))
    assert deferred.trigger.object_key == KEY
    assert sent(amplitude) == [f"experiments/{amplitude.experiment(KEY)['id']}"]


def test_no_end_date_fails_for_good_unless_it_is_waited_for(amplitude):
    amplitude.change(KEY, endDate=None)
    with pytest.raises(AirflowFailException, match="has no end date"):
        a_sensor().execute(a_context())
    deferred = deferral(a_sensor(on_missing="wait"))
    assert deferred.trigger.matters_at is None
    assert "matters_at" not in deferred.trigger.serialize()[1]


@pytest.mark.parametrize("named_by", ["experiment_key", "experiment_id"])
def test_an_archived_experiment_is_an_error(amplitude, named_by):
    object_id = amplitude.experiment(KEY)["id"]
    amplitude.change(KEY, archive=True)
    names = {"experiment_key": {}, "experiment_id": {"experiment_id": object_id}}
    with pytest.raises(AirflowFailException, match="archived"):
        a_sensor(**names[named_by]).execute(a_context())


def test_an_unknown_key_is_an_error(amplitude):
    with pytest.raises(AirflowFailException, match="AmplitudeNotFound"):
        AmplitudeEndDateSensor(task_id="wait", experiment_key="nope").execute(a_context())


@pytest.mark.parametrize("status", [401, 403])
def test_what_can_not_heal_ends_the_task_at_once(amplitude, status):
    amplitude.fault("status", status=status)
    with pytest.raises(AirflowFailException, match=f"answered {status}"):
        a_sensor().execute(a_context())


@pytest.mark.parametrize(
    ("fault", "seconds"), [("status", 37.5), ("rate_limit", 375), ("html", 37.5), ("refuse", 37.5)]
)
def test_a_first_look_that_fails_for_a_passing_reason_waits_all_the_same(amplitude, caplog, fault, seconds):
    amplitude.fault(fault)
    trigger = deferral(a_sensor()).trigger
    assert (trigger.object_key, trigger.object_id) == (KEY, None)
    assert datetime.fromisoformat(trigger.next_look) - NOW == timedelta(seconds=seconds)
    assert "The wait goes on." in caplog.text


def test_soft_fail_skips_where_the_first_look_fails_for_good(amplitude):
    amplitude.change(KEY, archive=True)
    with pytest.raises(AirflowSkipException):
        a_sensor(soft_fail=True).execute(a_context())


def test_the_link_is_left_before_the_wait(amplitude):
    context = a_context()
    deferral(a_sensor(), context)
    assert amplitude.experiment(KEY)["id"] in context["ti"].xcoms["amplitude_url"]


def test_it_says_once_what_it_waits_for(amplitude, caplog):
    caplog.set_level(logging.INFO, "tests.end_date")
    deferral(a_sensor())
    (line,) = [
        each.getMessage() for each in caplog.records if each.name == "tests.end_date" and each.levelname == "INFO"
    ]
    assert line == (
        f"Experiment {KEY} ({amplitude.experiment(KEY)['id']}) ends at 2026-11-30 12:00Z; looking again every 15 min"
    )


def test_an_end_after_the_timeout_is_warned_of(amplitude, caplog):
    deferral(a_sensor(timeout=86400))
    assert "after this sensor's timeout of 1 day" in caplog.text


# --- coming back -------------------------------------------------------------------------------------------


def test_what_the_trigger_reports_is_the_result(caplog):
    caplog.set_level(logging.INFO, "tests.end_date")
    assert a_sensor().execute_complete(a_context(), RECORD) == RECORD
    assert caplog.messages == [f"Experiment {KEY} (1) ended at 2026-11-20T00:00:00+00:00"]


@pytest.mark.parametrize(
    "error", [AmplitudeNotFound("gone", status=404, method="GET", path="/x"), RolloutRefused("archived")]
)
def test_an_error_that_the_trigger_met_is_the_same_error_again(error):
    with pytest.raises(AirflowFailException) as failed:
        a_sensor().execute_complete(a_context(), error_event(error))
    assert type(failed.value.__cause__) is type(error)
    assert str(failed.value.__cause__) == str(error)


@pytest.mark.parametrize("event", [None, "success", {}, {"error": {}}, {**RECORD, "more": 1}, {"status": "ok"}])
def test_an_event_that_nobody_waits_for_is_refused(event):
    with pytest.raises(AirflowFailException, match="nobody waits for"):
        a_sensor().execute_complete(a_context(), event)


def test_a_timeout_in_the_triggerer_is_a_sensors_timeout():
    with pytest.raises(base_sensor.AirflowSensorTimeout):
        a_sensor().resume_execution("__fail__", {"error": "Trigger timeout"}, a_context())


def test_soft_fail_skips_where_the_trigger_met_an_error():
    event = error_event(RolloutRefused("archived"))
    with pytest.raises(AirflowSkipException):
        a_sensor(soft_fail=True).resume_execution("execute_complete", {"event": event}, a_context())


# --- without deferring -------------------------------------------------------------------------------------


@pytest.fixture
def naps(monkeypatch):
    """What Airflow's own poke loop sleeps."""
    slept = []
    monkeypatch.setattr(base_sensor.time, "sleep", slept.append)
    return slept


def test_poke_mode_looks_at_every_recheck_until_the_end(amplitude, monkeypatch, naps, caplog):
    caplog.set_level(logging.INFO, "tests.end_date")
    monkeypatch.setattr(_moments, "now", lambda: NOW if sum(naps) < 120 else datetime(2026, 12, 1, tzinfo=UTC))
    record = a_sensor(deferrable=False, recheck=60).execute(a_context())
    assert record["ended_at"] == "2026-11-30T12:00:00+00:00"
    assert [nap for nap in naps if nap] == [60, 60]
    assert sent(amplitude) == ["experiments"] * 3
    assert len([line for line in caplog.messages if "looking again every 1 min" in line]) == 1


def test_poke_mode_outlasts_passing_errors_and_warns_once(amplitude, monkeypatch, naps, caplog):
    amplitude.fault("status", status=500, times=3)
    amplitude.change(KEY, endDate="2026-11-01")
    assert a_sensor(deferrable=False).execute(a_context())["key"] == KEY
    assert len([line for line in caplog.messages if "The wait goes on." in line]) == 1


def test_reschedule_mode_gives_the_slot_back(amplitude):
    context = a_context()
    context["ti"].get_first_reschedule_date = lambda _: None
    with pytest.raises(base_sensor.AirflowRescheduleException):
        a_sensor(deferrable=False, mode="reschedule").execute(context)


# --- as it is written --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({}, "exactly one of experiment_key, experiment_id"),
        ({"experiment_key": "a", "experiment_id": "1"}, "exactly one of experiment_key, experiment_id"),
        ({"experiment_key": "a", "on_missing": "skip"}, "on_missing is 'skip'"),
        ({"experiment_key": "a", "recheck": 0}, "recheck is 0"),
        ({"experiment_key": "a", "recheck": True}, "recheck is True"),
        ({"experiment_key": "a", "recheck": timedelta(milliseconds=1)}, "recheck is"),
    ],
)
def test_what_can_not_be_meant_is_refused_when_the_dag_is_parsed(options, text):
    with pytest.raises(ValueError, match=text):
        AmplitudeEndDateSensor(task_id="wait", **options)


def test_intervals_are_kept_as_plain_seconds():
    sensor = a_sensor(recheck=timedelta(hours=1), timeout=timedelta(days=2))
    assert (sensor.recheck, sensor.poke_interval, sensor.timeout) == (3600.0, 3600.0, 172800.0)


def test_a_template_of_on_missing_is_checked_once_it_is_rendered(amplitude):
    sensor = a_sensor(on_missing="{{ params.on_missing }}")
    sensor.on_missing = "perhaps"
    with pytest.raises(AirflowFailException, match="on_missing is 'perhaps'"):
        sensor.execute(a_context())


# --- in Airflow --------------------------------------------------------------------------------------------

DAG_FILE = """
from airflow.sdk import DAG
from airflow_amplitude_experiment.sensors import AmplitudeEndDateSensor

with DAG("wait_for_the_end", schedule=None) as dag:
    AmplitudeEndDateSensor(task_id="wait", experiment_key="{key}", retries=3)
"""


@pytest.fixture
def in_airflow(airflow_db, monkeypatch):
    """Run a DAG as ``dag.test()`` does, the trigger included; a sleep takes no time but on the trigger's clock."""
    clock = [NOW]

    async def nap(seconds, changed):
        clock[0] += timedelta(seconds=seconds)

    for module in (_board, _poll, _moments):
        monkeypatch.setattr(module, "now", lambda: clock[0])
    monkeypatch.setattr(_board, "nap", nap)

    def run():
        file = airflow_db / "dags" / "wait_for_the_end.py"
        file.write_text(textwrap.dedent(DAG_FILE.format(key=KEY)))
        spec = importlib.util.spec_from_file_location("wait_for_the_end", file)
        parsed = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(parsed)
        return parsed.dag.test()

    return run


def test_a_whole_run_waits_in_a_trigger_and_ends(amplitude, in_airflow):
    amplitude.change(KEY, endDate="2026-11-20T12:40:00Z")
    run = in_airflow()
    assert str(run.state) == "success"
    (task,) = run.get_task_instances()
    object_id = amplitude.experiment(KEY)["id"]
    assert task.xcom_pull(task_ids="wait") == {
        "key": KEY,
        "id": object_id,
        "ended_at": "2026-11-20T12:40:00+00:00",
        "looked_at": "2026-11-20T12:40:00+00:00",
    }
    assert sent(amplitude) == ["experiments", *[f"experiments/{object_id}"] * 3]  # at 12:15, 12:30 and the end


def test_a_whole_run_fails_at_once_with_the_error_that_the_trigger_met(amplitude, in_airflow):
    amplitude.fault("status", status=403, skip=1, times=None)
    run = in_airflow()
    assert str(run.state) == "failed"
    (task,) = run.get_task_instances()
    assert task.try_number == 1
    assert len(sent(amplitude)) == 2
