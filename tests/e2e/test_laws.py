"""What only a real Airflow can show: where secrets end up, what past runs do, who waits where."""

from __future__ import annotations

import base64
import json
import time
from datetime import UTC, datetime, timedelta

import pytest

from demo.airflow_rest import AirflowRestError
from tests.e2e.conftest import DEPLOYMENT_KEY, MANAGEMENT_KEY

pytestmark = pytest.mark.e2e

IMPORTS = """
from datetime import datetime, timedelta
from airflow.sdk import DAG
from airflow_amplitude_experiment.api import deployments, flags
from airflow_amplitude_experiment.operators import (
    AmplitudeApiCallOperator, AmplitudeCreateFlagOperator, AmplitudeKillSwitchOperator, AmplitudeRampRolloutOperator,
)
from airflow_amplitude_experiment.sensors import AmplitudeEndDateSensor
"""

EVERYTHING = f"""{IMPORTS}
with DAG("secrets", schedule=None, default_args={{"retries": 0}}):
    AmplitudeApiCallOperator(task_id="deployments", call=deployments.list())
    AmplitudeApiCallOperator(task_id="flags", call=flags.list())
    AmplitudeCreateFlagOperator(task_id="create", key="made-here", enabled=True, deployments=["31"])
    AmplitudeRampRolloutOperator(task_id="ramp", flag_key="new-checkout", percentage=50, reason="a test")
    AmplitudeRampRolloutOperator(task_id="refused", flag_key="new-checkout", percentage=5)
    AmplitudeRampRolloutOperator(task_id="unknown", flag_key="nope", percentage=5)
    AmplitudeRampRolloutOperator(
        task_id="wrong_key", flag_key="new-checkout", percentage=50, amplitude_conn_id="amplitude_wrong_key")
    AmplitudeKillSwitchOperator(task_id="kill", keys=["to-be-killed"])
    AmplitudeEndDateSensor(task_id="wait", experiment_key="ending", recheck=2)
    AmplitudeApiCallOperator(
        task_id="people", unguarded="a test",
        call=flags.add_users("{{{{ params.flag_id }}}}", "on", ["p-4711@example.com"]))
"""

CAUGHT_UP = f"""{IMPORTS}
with DAG("caught_up", schedule="@daily", start_date=datetime({{year}}, {{month}}, {{day}}), catchup=True):
    AmplitudeRampRolloutOperator(task_id="ramp", flag_key="new-checkout", percentage=25)
"""

SCHEDULED = f"""{IMPORTS}
with DAG("plain", schedule=None, default_args={{"retries": 2, "retry_delay": timedelta(seconds=1)}}):
    AmplitudeRampRolloutOperator(task_id="ramp", flag_key="new-checkout", percentage=25)
"""


def everything_written(place):
    """Yield (where, bytes) of every file below Airflow's home: logs, database, temporary files."""
    for path in place.airflow.home.rglob("*"):
        if path.is_file():
            yield str(path.relative_to(place.airflow.home)), path.read_bytes()


def everything_answered(place, dag_id, run_id):
    """Yield (where, text) of what the REST API shows of a run."""
    base = f"/dags/{dag_id}/dagRuns/{run_id}"
    for path in (f"/dags/{dag_id}/details", base, f"{base}/taskInstances", "/connections", "/config"):
        try:
            yield path, json.dumps(place.airflow.get(path))
        except AirflowRestError as error:  # Airflow may be told not to show its configuration
            yield path, str(error)
    for task in place.airflow.task_instances(dag_id, run_id):
        one = f"{base}/taskInstances/{task['task_id']}"
        yield one, json.dumps(place.airflow.get(one))
        for number in range(1, task["try_number"] + 1):
            yield f"{one} log", place.airflow.logs(dag_id, run_id, task["task_id"], try_number=number)
        for entry in place.airflow.get(f"{one}/xcomEntries")["xcom_entries"]:
            yield f"{one} xcom", json.dumps(place.airflow.xcom(dag_id, run_id, task["task_id"], entry["key"]))


def test_no_key_is_in_any_log_rendered_field_xcom_or_answer(place):
    """Law 8, on a DAG whose tasks succeed, are refused, fail and wait."""
    amplitude = place.amplitude
    amplitude.add_flag("new-checkout", enabled=True, rolloutPercentage=10)
    amplitude.add_flag("to-be-killed", enabled=True, rolloutPercentage=10)
    end = datetime.now(UTC) + timedelta(seconds=25)
    amplitude.options(dates="as_sent")
    amplitude.add_experiment("ending", enabled=True, endDate=end.isoformat())
    text = EVERYTHING.replace('"secrets", schedule=None,', '"secrets", schedule=None, params={"flag_id": "1"},')
    place.add_dag("secrets", text)
    run_id, state = place.run("secrets", {"flag_id": amplitude.flag("new-checkout")["id"]})
    states = place.airflow.task_states("secrets", run_id)
    failing = {"refused", "unknown", "wrong_key"}
    assert {name for name, each in states.items() if each != "success"} == failing, states
    assert state == "failed"
    assert amplitude.flag("to-be-killed")["enabled"] is False

    secrets = [MANAGEMENT_KEY, DEPLOYMENT_KEY, "mgmt-a-key-that-nobody-knows"]
    secrets += [base64.b64encode(each.encode()).decode().rstrip("=") for each in secrets]
    shown = list(everything_answered(place, "secrets", run_id))
    assert any("log" in where and "10 % -> 50 %" in text for where, text in shown)
    for where, text in shown:
        assert [each for each in secrets if each in text] == [], where
    files = list(everything_written(place))
    assert any(where.endswith(".log") for where, _ in files)
    for where, content in files:
        assert [each for each in secrets if each.encode() in content] == [], where
    for where, content in files:
        if ".log" in where:
            assert b"p-4711@example.com" not in content, where


def test_only_the_current_run_of_a_late_schedule_writes(place):
    """Law 3: a DAG that catches up on three days moves the flag once, in its newest run."""
    place.amplitude.add_flag("new-checkout", enabled=True, rolloutPercentage=10)
    start = datetime.now(UTC) - timedelta(days=3)
    text = CAUGHT_UP.format(year=start.year, month=start.month, day=start.day)
    place.add_dag("caught_up", text)
    runs = finished_runs(place, "caught_up", at_least=3)
    states = [place.airflow.task_states("caught_up", run["dag_run_id"])["ramp"] for run in runs]
    assert states[-1] == "success"
    assert set(states[:-1]) == {"skipped"}
    assert place.writes() == [{"rolloutPercentage": 25}]
    log = place.airflow.logs("caught_up", runs[0]["dag_run_id"], "ramp")
    assert "Skipping task" in log

    place.amplitude.change("new-checkout", rolloutPercentage=10)
    place.amplitude.clear_requests()
    first = runs[0]["dag_run_id"]
    place.airflow.clear("caught_up", first)
    place.airflow.wait_for_run("caught_up", first)
    assert place.airflow.task_states("caught_up", first) == {"ramp": "skipped"}
    assert place.writes() == []


def finished_runs(place, dag_id, *, at_least):
    deadline = time.monotonic() + 90
    while time.monotonic() < deadline:
        runs = place.airflow.get(f"/dags/{dag_id}/dagRuns", order_by="run_after")["dag_runs"]
        if len(runs) >= at_least and all(run["state"] in ("success", "failed") for run in runs):
            return runs
        time.sleep(0.5)
    raise AssertionError([(run["dag_run_id"], run["state"]) for run in runs])


def test_a_cleared_task_does_not_raise_what_somebody_lowered(place):
    """Law 9, by the book: the run raised the flag, on-call took it down, somebody clears the task."""
    place.amplitude.add_flag("new-checkout", enabled=True, rolloutPercentage=10)
    place.add_dag("plain", SCHEDULED)
    run_id, state = place.run("plain")
    assert state == "success"
    place.amplitude.change("new-checkout", rolloutPercentage=0, by="oncall@example.com")
    place.amplitude.clear_requests()
    place.airflow.clear("plain", run_id)
    assert place.airflow.wait_for_run("plain", run_id)["state"] == "failed"
    assert place.writes() == []
    assert place.amplitude.flag("new-checkout")["rolloutPercentage"] == 0
    number = place.tries("plain", run_id)["ramp"]
    assert number == 2
    assert "would undo somebody's stop" in place.airflow.logs("plain", run_id, "ramp", try_number=number)


def test_a_passing_fault_is_tried_again_by_airflow_and_ends_well(place):
    """Amplitude answers 500 until the client gives up; the next try of the task succeeds, once."""
    place.amplitude.add_flag("new-checkout", enabled=True, rolloutPercentage=10)
    place.add_dag("plain", SCHEDULED)
    place.amplitude.fault("status", method="GET", times=4, status=500)
    run_id, state = place.run("plain")
    assert state == "success"
    assert place.tries("plain", run_id) == {"ramp": 2}
    assert place.writes() == [{"rolloutPercentage": 25}]
    assert place.amplitude.flag("new-checkout")["rolloutPercentage"] == 25


def test_a_wait_for_an_end_date_holds_no_worker_and_notices_that_the_date_moved(place):
    """Law 7: the task is deferred while it waits; the date is moved nearer, and it ends soon after."""
    place.amplitude.options(dates="as_sent")
    later = datetime.now(UTC) + timedelta(days=2)
    place.amplitude.add_experiment("ending", enabled=True, endDate=later.isoformat())
    text = f"{IMPORTS}\nwith DAG('ends', schedule=None):\n"
    place.add_dag("ends", f"{text}    AmplitudeEndDateSensor(task_id='wait', experiment_key='ending', recheck=2)\n")
    run_id = place.airflow.trigger("ends")
    deadline = time.monotonic() + 60
    while place.airflow.task_states("ends", run_id).get("wait") != "deferred":
        assert time.monotonic() < deadline, place.airflow.task_states("ends", run_id)
        time.sleep(0.2)
    place.amplitude.change("ending", endDate=datetime.now(UTC).isoformat())
    assert place.airflow.wait_for_run("ends", run_id, timeout=180)["state"] == "success"
    assert place.airflow.xcom("ends", run_id, "wait")["key"] == "ending"
