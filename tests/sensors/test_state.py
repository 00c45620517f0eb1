"""The state sensor against the emulator over real HTTP: its first look, what it leaves behind, how it ends."""

from __future__ import annotations

import logging
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import pytest
from airflow.providers.common.compat.sdk import AirflowFailException, AirflowSkipException, TaskDeferred
from airflow.sdk.bases import sensor as base_sensor

from airflow_amplitude_experiment.api import AmplitudePermissionError, _retry
from airflow_amplitude_experiment.sensors import AmplitudeEndDateSensor, AmplitudeStateSensor
from airflow_amplitude_experiment.triggers import _moments
from airflow_amplitude_experiment.triggers._events import error_event
from tests.builders import a_context

NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)
KEY = "new-checkout-2"
RECORD = {"kind": "flag", "key": KEY, "id": "1", "found": {"enabled": True}, "looked_at": "2026-11-20T12:00:00+00:00"}


@pytest.fixture(autouse=True)
def clock(monkeypatch):
    """Time stands still unless a test moves it, chance has no hand in it, and the client makes one attempt."""
    clock = SimpleNamespace(moment=NOW)
    monkeypatch.setattr(_moments, "now", lambda: clock.moment)
    monkeypatch.setattr(_moments, "random", SimpleNamespace(uniform=lambda low, high: high))
    monkeypatch.setattr(_retry, "PATIENCE", -1.0)
    monkeypatch.setattr(_retry, "FIRST_WAIT", 0.0)
    monkeypatch.setattr(AmplitudeStateSensor, "log", logging.getLogger("tests.state"))
    return clock


@pytest.fixture
def amplitude(amplitude_emulator, monkeypatch):
    """The emulator with a flag at 10 %, and a connection to it."""
    monkeypatch.setenv("AIRFLOW_CONN_AMPLITUDE_EXPERIMENT_DEFAULT", amplitude_emulator.airflow_connection())
    amplitude_emulator.add_flag(KEY, enabled=True, rolloutPercentage=10)
    amplitude_emulator.clear_requests()
    return amplitude_emulator


@pytest.fixture
def naps(monkeypatch):
    """What Airflow's own poke loop sleeps."""
    slept = []
    monkeypatch.setattr(base_sensor.time, "sleep", slept.append)
    return slept


def a_sensor(**options):
    named = {} if "flag_id" in options else {"flag_key": KEY}
    until = {} if "until_callable" in options else {"until": {"percentage": 50}}
    return AmplitudeStateSensor(task_id="wait", **{**named, **until, **options})


def deferral(sensor, context=None):
    with pytest.raises(TaskDeferred) as deferred:
        sensor.execute(context or a_context())
    return deferred.value


def sent(emulator):
    return [request["path"].removeprefix("/api/1/") for request in emulator.requests()]


# --- the first look ----------------------------------------------------------------------------------------


def test_what_is_so_already_costs_one_request_and_no_triggerer(amplitude):
    amplitude.change(KEY, rolloutPercentage=50)
    assert a_sensor().execute(a_context()) == {
        "kind": "flag",
        "key": KEY,
        "id": amplitude.flag(KEY)["id"],
        "found": {"rollout_percentage": 50},
        "looked_at": "2026-11-20T12:00:00+00:00",
    }
    assert sent(amplitude) == ["flags"]


def test_it_defers_although_airflows_default_is_off_and_keeps_what_it_found(amplitude):
    deferred = deferral(a_sensor())
    assert deferred.trigger.serialize() == (
        "airflow_amplitude_experiment.triggers.state.AmplitudeStateTrigger",
        {
            "amplitude_conn_id": "amplitude_experiment_default",
            "kind": "flag",
            "next_look": (NOW + timedelta(minutes=1)).isoformat(),
            "object_id": amplitude.flag(KEY)["id"],
            "object_key": KEY,
            "project_id": "100001",
            "until": {"percentage": 50},
        },
    )
    assert deferred.timeout == timedelta(days=90)


def test_an_interval_that_was_asked_for_goes_along(amplitude):
    trigger = deferral(a_sensor(poke_interval=timedelta(seconds=30))).trigger
    assert trigger.interval == 30
    assert trigger.next_look == (NOW + timedelta(seconds=30)).isoformat()


def test_by_id_and_for_experiments_too(amplitude):
    one = amplitude.add_experiment("priced", enabled=False)
    sensor = AmplitudeStateSensor(task_id="wait", experiment_id=one["id"], until={"enabled": False})
    assert sensor.execute(a_context())["kind"] == "experiment"


def test_an_archived_flag_is_an_error_unless_that_is_waited_for(amplitude):
    amplitude.change(KEY, archive=True)
    with pytest.raises(AirflowFailException, match="archived"):
        a_sensor().execute(a_context())
    assert a_sensor(until={"archived": True}).execute(a_context())["found"] == {"deleted": True}


def test_a_field_that_only_details_show_is_found_by_key_too(amplitude):
    amplitude.add_experiment("tagged", enabled=True, tags=["ready"])
    sensor = AmplitudeStateSensor(task_id="wait", experiment_key="tagged", until={"tags": "ready"})
    assert sensor.execute(a_context())["found"] == {"tags": ["ready"]}


def test_a_field_that_only_lists_show_is_found_by_id_too(amplitude):
    amplitude.change(KEY, by="release@example.com", rolloutPercentage=20)
    found = amplitude.flag(KEY)
    sensor = a_sensor(flag_id=found["id"], until={"last_modified_by": "release@example.com"})
    assert sensor.execute(a_context())["key"] == KEY


@pytest.mark.parametrize("status", [401, 403])
def test_what_can_not_heal_ends_the_task_at_once(amplitude, status):
    amplitude.fault("status", status=status)
    with pytest.raises(AirflowFailException, match=f"answered {status}"):
        a_sensor().execute(a_context())


def test_a_passing_error_at_the_first_look_waits_all_the_same(amplitude, caplog):
    amplitude.fault("rate_limit")
    trigger = deferral(a_sensor()).trigger
    assert (trigger.object_key, trigger.object_id) == (KEY, None)
    assert trigger.next_look == (NOW + timedelta(seconds=375)).isoformat()
    assert "The wait goes on." in caplog.text


def test_it_says_once_what_it_waits_for(amplitude, caplog):
    caplog.set_level(logging.INFO, "tests.state")
    deferral(a_sensor(until={"percentage": 50, "enabled": True}, poke_interval=120))
    assert caplog.messages[-1] == (
        f"Flag {KEY} ({amplitude.flag(KEY)['id']}): waiting until rollout_percentage is 50 or more, enabled is True; "
        "looking again every 2 min"
    )


# --- coming back -------------------------------------------------------------------------------------------


def test_what_the_trigger_reports_is_the_result():
    assert a_sensor().execute_complete(a_context(), RECORD) == RECORD


def test_an_error_that_the_trigger_met_is_the_same_error_again():
    error = AmplitudePermissionError("no", status=403, method="GET", path="/x")
    with pytest.raises(AirflowFailException) as failed:
        a_sensor().execute_complete(a_context(), error_event(error))
    assert type(failed.value.__cause__) is AmplitudePermissionError
    assert str(failed.value.__cause__) == str(error)


def test_a_timeout_in_the_triggerer_is_a_sensors_timeout_that_says_whose_and_soft_fail_skips():
    with pytest.raises(base_sensor.AirflowSensorTimeout, match=f"^Flag {KEY}: .* the timeout is 1:00:00$"):
        a_sensor(timeout=3600).resume_execution("__fail__", {"error": "Trigger timeout"}, a_context())
    with pytest.raises(AirflowSkipException):
        a_sensor(soft_fail=True).resume_execution("__fail__", {"error": "Trigger timeout"}, a_context())


# --- deadlines ---------------------------------------------------------------------------------------------


def test_a_retry_does_not_restart_the_clock_of_a_deadline(amplitude, clock):
    sensor = a_sensor(deadline=NOW + timedelta(hours=3))
    assert deferral(sensor).timeout == timedelta(hours=3)
    clock.moment += timedelta(hours=2)
    assert deferral(sensor, a_context(try_number=2)).timeout == timedelta(hours=1)


def test_the_timeout_is_each_trys_own_as_with_airflows_sensors(amplitude, clock):
    sensor = a_sensor(timeout=3600)
    assert deferral(sensor).timeout == timedelta(hours=1)
    clock.moment += timedelta(hours=2)
    assert deferral(sensor, a_context(try_number=2)).timeout == timedelta(hours=1)


def test_after_the_deadline_it_looks_once_more_and_then_times_out(amplitude):
    late = {"deadline": (NOW - timedelta(seconds=1)).isoformat()}
    with pytest.raises(base_sensor.AirflowSensorTimeout, match="the deadline was 2026-11-20 11:59:59"):
        a_sensor(**late).execute(a_context())
    with pytest.raises(AirflowSkipException):
        a_sensor(**late, soft_fail=True).execute(a_context())
    amplitude.change(KEY, rolloutPercentage=50)
    assert a_sensor(**late).execute(a_context())["key"] == KEY


def test_the_end_date_sensor_keeps_a_deadline_too_and_warns_where_the_end_is_later(amplitude, caplog, monkeypatch):
    monkeypatch.setattr(AmplitudeEndDateSensor, "log", logging.getLogger("tests.state"))
    amplitude.options(dates="as_sent")
    amplitude.add_experiment("ending", enabled=True, endDate=(NOW + timedelta(days=2)).isoformat())
    sensor = AmplitudeEndDateSensor(task_id="wait", experiment_key="ending", deadline=NOW + timedelta(days=1))
    assert deferral(sensor).timeout == timedelta(days=1)
    assert "after this sensor's deadline" in caplog.text


@pytest.mark.parametrize("deadline", ["soon", "2026-11-20T12:00:00"])
def test_a_deadline_that_is_no_moment_or_has_no_zone_is_refused(deadline):
    with pytest.raises(ValueError, match="must be a moment with its time zone"):
        a_sensor(deadline=deadline)


def test_a_deadline_left_out_of_a_form_is_none(amplitude):
    sensor = a_sensor(deadline="{{ params.deadline }}")
    sensor.deadline = "None"
    assert deferral(sensor).timeout == timedelta(days=90)


# --- without deferring -------------------------------------------------------------------------------------


def test_poke_mode_looks_until_it_is_so(amplitude, monkeypatch):
    def nap(seconds):
        if seconds == 60:
            amplitude.change(KEY, rolloutPercentage=50)

    monkeypatch.setattr(base_sensor.time, "sleep", nap)
    assert a_sensor(deferrable=False, poke_interval=60).execute(a_context())["found"] == {"rollout_percentage": 50}
    assert sent(amplitude) == ["flags", "flags"]


def test_reschedule_mode_gives_the_slot_back(amplitude):
    context = a_context()
    context["ti"].get_first_reschedule_date = lambda _: None
    with pytest.raises(base_sensor.AirflowRescheduleException):
        a_sensor(deferrable=False, mode="reschedule").execute(context)


def test_a_function_sees_the_whole_object_and_its_answer_is_the_result(amplitude, monkeypatch):
    amplitude.add_experiment("tagged", enabled=True, tags=["ready"])

    def ready(found, context):
        return {"tags": found.tags, "by": found.last_modified_by is not None, "run": context["dag_run"].run_id}

    sensor = AmplitudeStateSensor(task_id="wait", experiment_key="tagged", until_callable=ready, deferrable=False)
    assert sensor.execute(a_context()) == {"tags": ["ready"], "by": True, "run": "manual__1"}


def test_a_function_that_says_no_is_asked_again(amplitude, naps):
    answers = iter([None, 0, "yes"])
    sensor = a_sensor(until_callable=lambda found, context: next(answers), deferrable=False, poke_interval=7)
    assert sensor.execute(a_context()) == "yes"
    assert [nap for nap in naps if nap == 7] == [7, 7]


def test_an_error_of_the_function_arrives_as_itself(amplitude):
    def wrong(found, context):
        raise ValueError("mine")

    with pytest.raises(ValueError, match="mine"):
        a_sensor(until_callable=wrong, deferrable=False).execute(a_context())


# --- as it is written --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"until": None}, "exactly one of until, until_callable"),
        ({"until": {"enabled": True}, "until_callable": print}, "exactly one of until, until_callable"),
        ({"until_callable": print}, "deferrable=False"),
        ({"until": {"state": "running"}}, "which flags don't have"),
        ({"until": {"percentage": 0}}, "== 0"),
        ({"until": "enabled"}, "at least one field"),
        ({"poke_interval": 0}, "poke_interval is 0"),
        ({"poke_interval": timedelta.max}, "at most 365 days"),
        ({"poke_interval": float("nan")}, "poke_interval is nan"),
        ({"experiment_key": "e"}, "exactly one of"),
    ],
)
def test_what_can_not_be_meant_is_refused_when_the_dag_is_parsed(options, text):
    with pytest.raises(ValueError, match=text):
        a_sensor(**options)


def test_a_template_is_checked_once_it_is_rendered(amplitude):
    sensor = a_sensor(until={"percentage": "{{ params.percentage }}"})
    sensor.until = {"percentage": "most"}
    with pytest.raises(AirflowFailException, match="1 to 100"):
        sensor.execute(a_context())
