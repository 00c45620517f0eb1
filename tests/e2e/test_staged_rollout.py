"""Staged rollouts on a real Airflow: what a healthy one does, what a breach does, and what nothing else may do.

All of them run at the same time, each on a flag of its own, because most of their time is waiting. The tests look at
what became of each.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest

pytestmark = pytest.mark.e2e

DAG_FILE = """
from datetime import timedelta
from pathlib import Path
from airflow.sdk import DAG, task_group
from airflow.providers.standard.operators.empty import EmptyOperator
from airflow_amplitude_experiment.rollout import RolloutPlan, Stage, staged_rollout

def errors(key):
    told = Path(__file__).with_name(f"verdict_{key}.txt")
    return told.read_text().strip() if told.exists() else "pass"

COMMON = dict(guardrails=[errors], check_every="2s", hold_for="3s", reason="a test")
SHORT = RolloutPlan.parse("10% 3s, 100% 2s")
ASKING = [Stage(10, "2s", approval=True), Stage(100, "2s")]

def a_dag(name):
    return DAG(f"staged_{name}", schedule=None, catchup=False, max_active_runs=1, is_paused_upon_creation=False,
               default_args={"retries": 1, "retry_delay": timedelta(seconds=1)})

with a_dag("healthy"):
    plan = RolloutPlan.parse("1% 2s, 10% 2s, 50% 2s, 100% 2s")
    staged_rollout(flag_key="healthy", plan=plan, **COMMON) >> EmptyOperator(task_id="announce")
with a_dag("breach"):
    staged_rollout(flag_key="breach", plan=SHORT, **COMMON) >> EmptyOperator(task_id="announce")
for name in ("doubtful", "dataless", "drift"):
    with a_dag(name):
        staged_rollout(flag_key=name, plan=SHORT, **COMMON)
for name in ("approved", "rejected", "open"):
    with a_dag(name):
        staged_rollout(flag_key=name, plan=ASKING, **COMMON)
with a_dag("mapped"):
    @task_group
    def each(flag_key):
        staged_rollout(flag_key=flag_key, plan=SHORT, **COMMON)

    each.expand(flag_key=["mapped-a", "mapped-b"])
"""
FLAGS = ["healthy", "breach", "doubtful", "dataless", "drift", "approved", "rejected", "open", "mapped-a", "mapped-b"]


@dataclass
class Story:
    """One run, and what is done to it from outside."""

    place: Any
    name: str
    meanwhile: Callable[[Story], bool] = lambda story: True
    run_id: str = ""
    seen: dict[str, Any] = field(default_factory=dict)
    done: bool = False

    @property
    def dag_id(self) -> str:
        return f"staged_{self.name}"

    def percentage(self, key: str = "") -> Any:
        return self.place.amplitude.flag(key or self.name)["rolloutPercentage"]

    def judge(self, verdict: str) -> None:
        """Set what the guardrail says of the flag from now on."""
        (self.place.dags / f"verdict_{self.name}.txt").write_text(verdict)

    def states(self) -> dict[str, str]:
        return {
            each["task_id"] if each["map_index"] < 0 else f"{each['task_id']}[{each['map_index']}]": each["state"]
            for each in self.place.airflow.task_instances(self.dag_id, self.run_id)
        }

    def is_asked(self) -> bool:
        states = self.states()
        asked = states["rollout.to_10.approve"] in ("deferred", "awaiting_input")
        return asked and states["rollout.to_10.watch_approval"] == "deferred"

    def answer(self, option: str) -> None:
        """Answer the approval as a person would in the UI."""
        path = f"/dags/{self.dag_id}/dagRuns/{self.run_id}/taskInstances/rollout.to_10.approve/-1/hitlDetails"
        self.place.airflow.request("PATCH", path, json={"chosen_options": [option], "params_input": {}})

    def state(self) -> str:
        return str(self.place.airflow.run(self.dag_id, self.run_id)["state"])

    def writes(self, key: str = "") -> list[Any]:
        """Return what was written to the flag, in order."""
        own = self.place.amplitude.flag(key or self.name)["id"]
        requests = self.place.amplitude.requests()
        return [each["body"] for each in requests if each["method"] == "PATCH" and each["path"].endswith(f"/{own}")]

    def xcom(self, task_id: str, key: str = "return_value") -> Any:
        return self.place.airflow.xcom(self.dag_id, self.run_id, task_id, key)


def it_breaches_at_10(story: Story) -> bool:
    if story.percentage() != 10:
        return False
    story.judge("breach")
    return True


def somebody_changes_it_at_10(story: Story) -> bool:
    if story.percentage() != 10:
        return False
    story.place.amplitude.change(story.name, rolloutPercentage=17)
    return True


def it_is_answered(option: str) -> Callable[[Story], bool]:
    def answer(story: Story) -> bool:
        if not story.is_asked():
            return False
        # No person is so fast: Airflow may still be ending the process that has asked.
        if time.monotonic() < story.seen.setdefault("asked at", time.monotonic()) + 3:
            return False
        story.answer(option)
        return True

    return answer


def it_breaches_while_nobody_answers(story: Story) -> bool:
    if "asked" not in story.seen:
        if story.is_asked():
            story.seen["asked"] = True
            story.judge("breach")
        return False
    if story.percentage() != 0:
        return False
    story.seen["approval"] = story.states()["rollout.to_10.approve"]
    story.answer("Approve")
    return True


@pytest.fixture(scope="module")
def stories(_place: Any) -> dict[str, Story]:
    """Play all stories to their ends."""
    _place.amplitude.reset()
    for key in FLAGS:
        _place.amplitude.add_flag(key, enabled=True, rolloutPercentage=0)
    for key, verdict in {"doubtful": "inconclusive", "dataless": "no_data", "mapped-b": "breach"}.items():
        (_place.dags / f"verdict_{key}.txt").write_text(verdict)
    _place.amplitude.clear_requests()
    (_place.dags / "stories.py").write_text(DAG_FILE)
    told = [
        Story(_place, "healthy"),
        Story(_place, "breach", it_breaches_at_10),
        Story(_place, "doubtful"),
        Story(_place, "dataless"),
        Story(_place, "drift", somebody_changes_it_at_10),
        Story(_place, "approved", it_is_answered("Approve")),
        Story(_place, "rejected", it_is_answered("Reject")),
        Story(_place, "open", it_breaches_while_nobody_answers),
        Story(_place, "mapped"),
    ]
    for story in told:
        _place.airflow.wait_for_dag(story.dag_id)
        story.run_id = _place.airflow.trigger(story.dag_id)
    end = time.monotonic() + 300
    while waiting := [story for story in told if not story.done]:
        assert time.monotonic() < end, {story.name: story.states() for story in waiting}
        for story in waiting:
            story.done = story.meanwhile(story)
        time.sleep(0.3)
    for story in told:
        _place.airflow.wait_for_run(story.dag_id, story.run_id, timeout=300)
    return {story.name: story for story in told}


def test_a_healthy_rollout_goes_through_its_stages_and_the_task_below_it_runs(stories):
    story = stories["healthy"]
    assert story.state() == "success"
    assert story.writes() == [{"rolloutPercentage": each} for each in (1, 10, 50, 100)]
    states = story.states()
    assert states.pop("rollout.rollback") == "skipped"
    assert set(states.values()) == {"success"}


def test_a_breach_rolls_back_fails_the_run_and_holds_back_what_is_below(stories):
    story = stories["breach"]
    assert story.state() == "failed"
    assert story.writes() == [{"rolloutPercentage": 10}, {"rolloutPercentage": 0}]
    states = story.states()
    assert states["rollout.to_10.watch"] == "failed"
    assert states["rollout.rollback"] == "success"
    assert states["announce"] == "upstream_failed"
    verdict = story.xcom("rollout.to_10.watch", "verdict")
    assert (verdict["verdict"], verdict["stage"]) == ("breach", 10)
    record = story.xcom("rollout.rollback")
    assert (record["before"], record["after"], record["breach"]["stage"]) == (10, 0, 10)


@pytest.mark.parametrize(("name", "verdict"), [("doubtful", "inconclusive"), ("dataless", "no_data")])
def test_a_hold_that_runs_out_fails_the_run_and_lowers_nothing(stories, name, verdict):
    story = stories[name]
    assert story.state() == "failed"
    assert story.writes() == [{"rolloutPercentage": 10}]
    assert story.states()["rollout.rollback"] == "skipped"
    assert story.xcom("rollout.to_10.watch", "verdict")["verdict"] == verdict


def test_drift_fails_the_run_and_lowers_nothing(stories):
    story = stories["drift"]
    assert story.state() == "failed"
    assert story.writes() == [{"rolloutPercentage": 10}]
    assert story.percentage() == 17
    assert story.states()["rollout.rollback"] == "skipped"


def test_mapped_over_flags_only_the_breached_one_goes_back(stories):
    story = stories["mapped"]
    assert story.state() == "failed"
    assert (story.percentage("mapped-a"), story.percentage("mapped-b")) == (100, 0)
    states = story.states()
    assert states["each.rollout.rollback[0]"] == "skipped"
    assert states["each.rollout.rollback[1]"] == "success"


def test_an_approved_raise_goes_on_and_names_who_approved_it(stories):
    story = stories["approved"]
    assert story.state() == "success"
    assert story.percentage() == 100
    assert story.xcom("rollout.to_100.ramp")["approved_by"]


def test_a_rejected_raise_fails_the_run_where_it_stands(stories):
    story = stories["rejected"]
    assert story.state() == "failed"
    assert story.writes() == [{"rolloutPercentage": 10}]
    assert story.states()["rollout.rollback"] == "skipped"


def test_a_breach_while_an_approval_is_open_rolls_back_at_once_and_makes_the_answer_void(stories):
    story = stories["open"]
    assert story.seen["approval"] in ("deferred", "awaiting_input"), "nobody had answered when it went back"
    assert story.state() == "failed"
    assert story.writes() == [{"rolloutPercentage": 10}, {"rolloutPercentage": 0}]


def audit_lines(story: Story) -> list[dict[str, Any]]:
    """Return the audit log's lines of one run, in the order of their names."""
    paths = sorted(story.place.audit.rglob("*.json"), key=lambda path: path.name)
    lines = [json.loads(path.read_text()) for path in paths]
    return [line for line in lines if line["run_id"] == story.run_id]


def test_a_whole_rollout_who_and_why_can_be_told_from_the_audit_log_alone(stories):
    told = audit_lines(stories["breach"])
    steps = [(line["step"], line["from"], line["to"], line.get("outcome"), line["reason"][:16]) for line in told]
    assert steps == [
        ("intent", 0, 10, None, "a test"),
        ("result", 0, 10, "written", "a test"),
        ("intent", 10, 0, None, "guardrail breach"),
        ("result", 10, 0, "written", "guardrail breach"),
    ]
    assert {line["key"] for line in told} == {"breach"}
    assert {line["task_id"] for line in told} == {"rollout.to_10.ramp", "rollout.rollback"}
    assert told[-1]["guardrails"][0]["name"] == "errors"
    assert all(line["triggered_by"] for line in told)


def test_the_audit_log_names_who_approved_a_raise(stories):
    (line,) = [line for line in audit_lines(stories["approved"]) if line["to"] == 100 and line["step"] == "result"]
    assert line["approved_by"] == stories["approved"].xcom("rollout.to_100.ramp")["approved_by"]


def test_a_raise_that_was_never_made_is_in_no_audit_line(stories):
    for name in ("rejected", "doubtful", "dataless", "drift"):
        assert {line["to"] for line in audit_lines(stories[name])} == {10}
