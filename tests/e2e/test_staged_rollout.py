"""Staged rollouts on a real Airflow: what a healthy one does, what a breach does, and what nothing else may do."""

from __future__ import annotations

import time

import pytest

pytestmark = pytest.mark.e2e

DAG_FILE = """
from datetime import timedelta
from pathlib import Path
from airflow.sdk import DAG, task, task_group
from airflow.providers.standard.operators.empty import EmptyOperator
from airflow_amplitude_experiment.rollout import RolloutPlan, Stage, staged_rollout

def errors(key):
    told = Path(__file__).with_name(f"verdict_{{key}}.txt")
    return told.read_text().strip() if told.exists() else "pass"

COMMON = dict(guardrails=[errors], check_every="2s", hold_for="4s", reason="a test")
with DAG("{dag_id}", schedule=None, catchup=False, max_active_runs=1,
         default_args={{"retries": 1, "retry_delay": timedelta(seconds=1)}}):
{body}
"""

ONE = '    staged_rollout(flag_key="new-checkout", plan=RolloutPlan.parse("1% 3s, 10% 3s, 50% 3s, 100% 3s"), **COMMON)'


def add(place, dag_id, body):
    place.add_dag(dag_id, DAG_FILE.format(dag_id=dag_id, body=body))


def judge(place, verdict, key="new-checkout"):
    """Set what the guardrail says of an object from now on."""
    (place.dags / f"verdict_{key}.txt").write_text(verdict)


@pytest.fixture(autouse=True)
def healthy(place):
    """Every guardrail passes unless a test says otherwise."""
    for path in place.dags.glob("verdict_*.txt"):
        path.unlink()
    place.amplitude.add_flag("new-checkout", enabled=True, rolloutPercentage=0)
    place.amplitude.clear_requests()


def states(place, dag_id, run_id):
    return {
        (each["task_id"] if each["map_index"] < 0 else f"{each['task_id']}[{each['map_index']}]"): each["state"]
        for each in place.airflow.task_instances(dag_id, run_id)
    }


def wait_until(condition, seconds=60.0):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if found := condition():
            return found
        time.sleep(0.3)
    raise AssertionError("it never happened")


def percentage(place, key="new-checkout"):
    return place.amplitude.flag(key)["rolloutPercentage"]


def test_a_healthy_rollout_goes_through_its_stages_and_the_task_below_it_runs(place):
    add(place, "staged_healthy", ONE.rstrip() + ' >> EmptyOperator(task_id="announce")')
    run_id, state = place.run("staged_healthy")
    assert state == "success"
    assert place.writes() == [{"rolloutPercentage": each} for each in (1, 10, 50, 100)]
    found = states(place, "staged_healthy", run_id)
    assert found.pop("rollout.rollback") == "skipped"
    assert set(found.values()) == {"success"}


def test_a_breach_rolls_back_fails_the_run_and_holds_back_what_is_below(place):
    add(place, "staged_breach", ONE.rstrip() + ' >> EmptyOperator(task_id="announce")')
    run_id = place.airflow.trigger("staged_breach", None)
    wait_until(lambda: percentage(place) == 10)
    judge(place, "breach")
    assert place.airflow.wait_for_run("staged_breach", run_id)["state"] == "failed"
    assert place.writes() == [{"rolloutPercentage": each} for each in (1, 10, 0)]
    found = states(place, "staged_breach", run_id)
    assert found["rollout.to_10.watch"] == "failed"
    assert found["rollout.rollback"] == "success"
    assert found["announce"] == "upstream_failed"
    verdict = place.airflow.xcom("staged_breach", run_id, "rollout.to_10.watch", "verdict")
    assert (verdict["verdict"], verdict["stage"]) == ("breach", 10)
    record = place.airflow.xcom("staged_breach", run_id, "rollout.rollback", "return_value")
    assert (record["before"], record["after"], record["breach"]["stage"]) == (10, 0, 10)


@pytest.mark.parametrize("verdict", ["inconclusive", "no_data"])
def test_a_hold_that_runs_out_fails_the_run_and_lowers_nothing(place, verdict):
    add(place, f"staged_{verdict}", ONE)
    judge(place, verdict)
    run_id, state = place.run(f"staged_{verdict}")
    assert state == "failed"
    assert place.writes() == [{"rolloutPercentage": 1}]
    assert states(place, f"staged_{verdict}", run_id)["rollout.rollback"] == "skipped"


def test_drift_fails_the_run_and_lowers_nothing(place):
    add(place, "staged_drift", ONE)
    run_id = place.airflow.trigger("staged_drift", None)
    wait_until(lambda: percentage(place) == 1)
    place.amplitude.change("new-checkout", rolloutPercentage=7)
    assert place.airflow.wait_for_run("staged_drift", run_id)["state"] == "failed"
    assert place.writes() == [{"rolloutPercentage": 1}]
    assert percentage(place) == 7
    assert states(place, "staged_drift", run_id)["rollout.rollback"] == "skipped"


def test_mapped_over_flags_only_the_breached_one_goes_back(place):
    place.amplitude.add_flag("other", enabled=True, rolloutPercentage=0)
    judge(place, "breach", "other")
    body = """
    @task_group
    def each(flag_key):
        staged_rollout(flag_key=flag_key, plan=RolloutPlan.parse("10% 3s, 100% 3s"), **COMMON)

    each.expand(flag_key=["new-checkout", "other"])
"""
    add(place, "staged_mapped", body)
    run_id, state = place.run("staged_mapped")
    assert state == "failed"
    assert (percentage(place), percentage(place, "other")) == (100, 0)
    found = states(place, "staged_mapped", run_id)
    assert found["each.rollout.rollback[0]"] == "skipped"
    assert found["each.rollout.rollback[1]"] == "success"


APPROVAL = """
    staged_rollout(flag_key="new-checkout", plan=[Stage(10, "2s", approval=True), Stage(100, "2s")], **COMMON)
"""


def answer(place, dag_id, run_id, option):
    """Answer the approval as a person would in the UI."""
    path = f"/dags/{dag_id}/dagRuns/{run_id}/taskInstances/rollout.to_10.approve/-1/hitlDetails"
    place.airflow.request("PATCH", path, json={"chosen_options": [option], "params_input": {}})


def asked(place, dag_id, run_id):
    wait_until(lambda: states(place, dag_id, run_id).get("rollout.to_10.approve") in ("deferred", "awaiting_input"))
    wait_until(lambda: states(place, dag_id, run_id).get("rollout.to_10.watch_approval") == "deferred")


def test_an_approved_raise_goes_on_and_names_who_approved_it(place):
    add(place, "staged_approved", APPROVAL)
    run_id = place.airflow.trigger("staged_approved", None)
    asked(place, "staged_approved", run_id)
    answer(place, "staged_approved", run_id, "Approve")
    assert place.airflow.wait_for_run("staged_approved", run_id)["state"] == "success"
    assert percentage(place) == 100
    record = place.airflow.xcom("staged_approved", run_id, "rollout.to_100.ramp", "return_value")
    assert record["approved_by"]


def test_a_rejected_raise_fails_the_run_where_it_stands(place):
    add(place, "staged_rejected", APPROVAL)
    run_id = place.airflow.trigger("staged_rejected", None)
    asked(place, "staged_rejected", run_id)
    answer(place, "staged_rejected", run_id, "Reject")
    assert place.airflow.wait_for_run("staged_rejected", run_id)["state"] == "failed"
    assert place.writes() == [{"rolloutPercentage": 10}]
    assert states(place, "staged_rejected", run_id)["rollout.rollback"] == "skipped"


def test_a_breach_while_an_approval_is_open_rolls_back_at_once(place):
    add(place, "staged_open", APPROVAL)
    run_id = place.airflow.trigger("staged_open", None)
    asked(place, "staged_open", run_id)
    judge(place, "breach")
    wait_until(lambda: percentage(place) == 0)
    found = states(place, "staged_open", run_id)
    assert found["rollout.to_10.approve"] in ("deferred", "awaiting_input")
    answer(place, "staged_open", run_id, "Approve")
    assert place.airflow.wait_for_run("staged_open", run_id)["state"] == "failed"
    assert percentage(place) == 0
