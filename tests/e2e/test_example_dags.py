"""The example DAGs, run by a real scheduler and triggerer.

The rollouts run at the same time, because most of their time is waiting. Whenever a percentage has moved, Amplitude's
own SDK fetches what it would serve, and the tests look who that is.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from math import sqrt
from typing import Any

import pytest
from amplitude_experiment import LocalEvaluationClient, LocalEvaluationConfig, User

from demo.airflow_rest import AirflowRestError
from tests.e2e.conftest import DEPLOYMENT_KEY
from tests.e2e.surroundings import fill_warehouse

pytestmark = pytest.mark.e2e

USERS = 1_000
SECONDS_BETWEEN_TICKS = timedelta(seconds=8)

SEARCH = ["search-suggestions", "search-spelling", "search-filters"]
ORDERS = {
    "checkout-redesign": {"control": 0.5, "treatment": 0.5},
    "checkout-broken": {"control": 0.5, "treatment": 0.1},
}
STAGES = {
    "new-checkout": [10, 50, 100],
    "checkout-redesign": [1, 5, 25, 50, 100],
    "checkout-broken": [1, 0],
    **{key: [20, 100] for key in SEARCH},
    "new-search": [10, 100],
}


@dataclass
class Served:
    """What the SDK had fetched when a percentage had moved."""

    percentage: int
    client: LocalEvaluationClient

    def to(self, key: str) -> dict[int, str]:
        """Return the users who are in, each with the variant."""
        found = {number: self.client.evaluate_v2(User(user_id=f"user-{number}"), {key}) for number in range(USERS)}
        variants = {number: each[key] for number, each in found.items() if key in each}
        return {number: each.key for number, each in variants.items() if not (each.metadata or {}).get("default")}


@dataclass
class Watched:
    """Runs of the example DAGs, and what the SDK served meanwhile."""

    place: Any
    runs: dict[str, str] = field(default_factory=dict)
    stages: dict[str, list[Served]] = field(default_factory=lambda: {key: [] for key in STAGES})
    objects: dict[str, dict[str, Any]] = field(default_factory=dict)
    requests: list[dict[str, Any]] = field(default_factory=list)
    ticks: list[str] = field(default_factory=list)
    was_asked: float = 0.0
    answered: bool = False

    def start(self, name: str, conf: Mapping[str, Any] | None = None) -> None:
        """Trigger a DAG as a person would; the emergency stop is not paused."""
        dag_id = self.dag_id(name)
        self.place.airflow.wait_for_dag(dag_id)
        if dag_id != "emergency_stop":
            self.place.airflow.unpause(dag_id)
        self.runs[name] = self.place.airflow.trigger(dag_id, conf)

    def look(self) -> None:
        """Let the SDK fetch what is served where a percentage has moved."""
        state = self.place.amplitude.state()
        self.objects = {each["key"]: each for each in (*state["flags"], *state["experiments"])}
        self.requests = self.place.amplitude.requests()
        for key, seen in self.stages.items():
            percentage = self.objects.get(key, {}).get("rolloutPercentage", 0)
            if percentage != (seen[-1].percentage if seen else 0):
                seen.append(Served(percentage, self._fetched()))

    def _fetched(self) -> LocalEvaluationClient:
        client = LocalEvaluationClient(DEPLOYMENT_KEY, LocalEvaluationConfig(server_url=self.place.amplitude.url))
        client.start()
        client.stop()
        return client

    def follow(self, then: Mapping[str, Callable[[], None]]) -> None:
        """Look on until all runs have ended, approve what a person is asked, and do what follows after each run."""
        end, following = time.monotonic() + 400, dict(then)
        self.look()
        while any([waiting := self.waiting(), not self.has_ticked_to_the_end()]):
            assert time.monotonic() < end, {name: self.tasks(name) for name in waiting}
            for name in [name for name in following if name not in waiting]:
                following.pop(name)()
            for _ in range(5):
                self.look()
                time.sleep(0.1)
            if "production_rollout" in waiting:
                self._approve()
        self.look()

    def waiting(self) -> list[str]:
        return [name for name in self.runs if self.state(name) not in ("success", "failed")]

    def has_ticked_to_the_end(self) -> bool:
        """Tick again, some seconds after the last tick has ended well, until the plan is complete."""
        runs = self.place.airflow.get("/dags/reconcile_soon/dagRuns", order_by="run_after")["dag_runs"]
        self.ticks = [each["dag_run_id"] for each in runs]
        if any(each["state"] == "failed" for each in runs) or self.objects["new-search"]["rolloutPercentage"] == 100:
            return all(each["state"] in ("failed", "success") for each in runs)
        quiet = datetime.now(UTC) - SECONDS_BETWEEN_TICKS
        if runs and all(each["end_date"] and datetime.fromisoformat(each["end_date"]) < quiet for each in runs):
            self.place.airflow.trigger("reconcile_soon")
        return False

    def _approve(self) -> None:
        """Answer as a person would: not in the very moment in which the question is asked."""
        states = {each["task_id"]: each["state"] for each in self.tasks("production_rollout")}
        asked = states["rollout.to_25.approve"] in ("deferred", "awaiting_input")
        # Airflow may still be ending the process that has asked.
        if self.was_asked and not self.answered and time.monotonic() > self.was_asked + 4:
            run = f"/dags/production_rollout/dagRuns/{self.runs['production_rollout']}"
            path = f"{run}/taskInstances/rollout.to_25.approve/-1/hitlDetails"
            self.place.airflow.request("PATCH", path, json={"chosen_options": ["Approve"], "params_input": {}})
            self.answered = True
        if asked and states["rollout.to_25.watch_approval"] == "deferred":
            self.was_asked = self.was_asked or time.monotonic()

    def dag_id(self, name: str) -> str:
        return {"again": "staged_rollout", "drill": "emergency_stop", "stop": "emergency_stop"}.get(name, name)

    def state(self, name: str) -> str:
        return str(self.place.airflow.run(self.dag_id(name), self.runs[name])["state"])

    def tasks(self, name: str, task_id: str = "") -> list[dict[str, Any]]:
        """Return the task instances of a run, or those of one task."""
        every = self.place.airflow.task_instances(self.dag_id(name), self.runs[name])
        return [each for each in every if task_id in ("", each["task_id"])]

    def xcom(self, name: str, task_id: str, key: str = "return_value", *, map_index: int = -1) -> Any:
        return self.place.airflow.xcom(self.dag_id(name), self.runs[name], task_id, key, map_index=map_index)

    def log(self, name: str, task_id: str) -> str:
        return str(self.place.airflow.logs(self.dag_id(name), self.runs[name], task_id))

    def asked(self, key: str) -> list[int]:
        """Return the percentages that were written to an object, in order."""
        own = [each for each in self.requests if each["path"].endswith(f"/{self.objects[key]['id']}")]
        return [each["body"]["rolloutPercentage"] for each in own if "rolloutPercentage" in (each["body"] or {})]


def begin_to_tick(place: Any) -> None:
    """Run a copy of the reconcile example whose plan begins now, is short, and has no office hours."""
    text = (place.dags / "reconcile_rollout.py").read_text()
    for old, new in [
        ('"reconcile_rollout"', '"reconcile_soon"'),
        (r"START = .*", f'START = datetime.fromisoformat("{datetime.now(UTC).isoformat()}")'),
        (r"start_date=START", "start_date=START - timedelta(hours=2)"),  # so that the cron has been due
        (r'"1% 2h.*"', '"10% 25s, 100% 25s"'),
        (r"windows=.*", ""),
        (r"above=0.02,", 'above=0.02, settle="1s",'),
    ]:
        text, times = re.subn(old, new, text)
        assert times == 1, old
    place.add_dag("reconcile_soon", text)


@pytest.fixture(scope="module")
def watched(_place: Any) -> Watched:
    """Run the examples all at once, and follow them to their ends."""
    amplitude = _place.amplitude
    amplitude.reset()
    _place.slack.messages.clear()
    for key in ORDERS:
        amplitude.add_experiment(key, enabled=True, rolloutPercentage=0, deployments=["31"])
    for key in [*SEARCH, "new-search", "legacy-banner", "legacy-footer", "legacy-popup", "billing"]:
        amplitude.add_flag(key, enabled=True, rolloutPercentage=0 if "search" in key else 100)
    amplitude.fault("status", method="PATCH", path=f"*/{amplitude.flag('legacy-footer')['id']}", status=403, times=None)
    fill_warehouse(_place.warehouse, ORDERS, seconds=420)
    text = (_place.dags / "production_rollout.py").read_text()
    broken = text.replace('"production_rollout"', '"broken_rollout"').replace("checkout-redesign", "checkout-broken")
    (_place.dags / "broken_rollout.py").write_text(broken)
    amplitude.clear_requests()
    begin_to_tick(_place)
    watched = Watched(_place)
    watched.start("production_rollout")
    watched.start("staged_rollout", {"deployments": ["31"]})
    watched.start("many_flags")
    watched.start("broken_rollout")
    watched.start("drill", {"key_prefix": "legacy-", "only_list": True})
    stop = {"keys": ["billing", "no-such-flag"], "key_prefix": "legacy-"}
    watched.follow(
        then={
            "drill": lambda: watched.start("stop", stop),
            "staged_rollout": lambda: watched.start("again", {"deployments": ["31"]}),
        }
    )
    return watched


# --- staged_rollout ---


def test_a_staged_rollout_creates_its_flag_and_takes_it_to_everyone(watched):
    assert watched.state("staged_rollout") == "success"
    assert watched.asked("new-checkout") == [10, 50, 100]
    assert watched.objects["new-checkout"]["deployments"] == ["31"]
    assert watched.xcom("staged_rollout", "rollout.to_50.ramp")["before"] == 10


def test_a_second_run_of_a_finished_rollout_is_refused_and_writes_nothing(watched):
    assert watched.state("again") == "failed"
    assert "already complete" in watched.log("again", "rollout.begin")
    assert watched.asked("new-checkout") == [10, 50, 100]


def tolerance(percentage: int) -> float:
    """Return four standard deviations, in points."""
    return 4 * sqrt(percentage * (100 - percentage) / USERS)


@pytest.mark.parametrize("key", [key for key in STAGES if key != "checkout-broken"])
def test_the_sdk_confirms_each_stage_and_nobody_who_was_in_falls_out_or_changes(watched, key):
    assert [each.percentage for each in watched.stages[key]] == STAGES[key]
    before: dict[int, str] = {}
    for stage in watched.stages[key]:
        served = stage.to(key)
        assert 100 * len(served) / USERS == pytest.approx(stage.percentage, abs=tolerance(stage.percentage))
        assert before.items() <= served.items()
        before = served


# --- production_rollout ---


def test_a_production_rollout_asks_a_person_once_and_takes_everyone_in(watched):
    assert watched.state("production_rollout") == "success"
    assert watched.asked("checkout-redesign") == [1, 5, 25, 50, 100]
    approved = {
        percentage: bool(watched.xcom("production_rollout", f"rollout.to_{percentage}.ramp").get("approved_by"))
        for percentage in STAGES["checkout-redesign"]
    }
    assert approved == {1: False, 5: False, 25: False, 50: True, 100: False}


def test_each_stage_of_a_production_rollout_is_judged_by_the_warehouse(watched):
    for percentage in STAGES["checkout-redesign"]:
        verdict = watched.xcom("production_rollout", f"rollout.to_{percentage}.watch", "verdict")
        judged = {each["name"]: each["verdict"] for each in verdict["guardrails"]}
        assert judged == {"checkout rate": "pass", "sample ratio": "pass"}


def test_a_breach_takes_a_production_rollout_back_and_tells_slack_once(watched):
    assert watched.state("broken_rollout") == "failed"
    assert watched.asked("checkout-broken") == [1, 0]
    assert watched.stages["checkout-broken"][-1].to("checkout-broken") == {}
    (message,) = [each for each in watched.place.slack.messages if each["channel"] == "#checkout-releases"]
    assert "*broken_rollout* stopped at `rollout.to_1.watch`: Guardrail breach" in message["text"]
    assert "checkout rate" in message["text"]


# --- reconcile_rollout ---


def test_a_reconcile_rollout_goes_one_stage_a_tick_and_no_sooner_than_its_bake_is_over(watched):
    records = [watched.place.airflow.xcom("reconcile_soon", run_id, "tick") for run_id in watched.ticks]
    written = [each for each in records if each["written"]]
    assert [each["after"] for each in written] == watched.asked("new-search") == [10, 100]
    first, second = (datetime.fromisoformat(each["at"]) for each in written)
    assert second - first >= timedelta(seconds=25)  # on all but the slowest machines a tick comes too early before
    assert watched.ticks[0].startswith("scheduled__")


# --- many_flags ---


def test_many_flags_go_through_the_same_plan_each_on_its_own(watched):
    assert watched.state("many_flags") == "success"
    assert {key: watched.asked(key) for key in SEARCH} == {key: [20, 100] for key in SEARCH}


# --- emergency_stop ---


def test_a_drill_lists_and_switches_nothing_off(watched):
    assert watched.state("drill") == "success"
    legacy = ["legacy-banner", "legacy-footer", "legacy-popup"]
    assert watched.xcom("drill", "table") == {"on": legacy, "off": [], "not found": []}
    assert watched.xcom("drill", "switch_off", map_index=0)["would_switch_off"] == legacy


def test_an_emergency_stop_tries_everything_and_tells_what_is_still_on(watched):
    assert watched.state("stop") == "failed"
    off = ["billing", "legacy-banner", "legacy-popup"]
    assert watched.xcom("stop", "table") == {"on": ["legacy-footer"], "off": off, "not found": ["no-such-flag"]}
    assert sorted(key for key, each in watched.objects.items() if not each["enabled"]) == off
    table = watched.log("stop", "table")
    for row in ("on        legacy-footer", "off       billing", "not found no-such-flag"):
        assert row in table


def test_an_emergency_stop_lists_before_it_switches(watched):
    listed, switched = (watched.tasks("stop", name) for name in ("list", "switch_off"))
    assert max(each["end_date"] for each in listed) < min(each["start_date"] for each in switched)
    assert watched.xcom("stop", "list", map_index=1)["would_switch_off"] == [
        "legacy-banner",
        "legacy-footer",
        "legacy-popup",
    ]


# --- ui_triggered_ramp ---


def test_a_task_links_to_its_flag_in_amplitude(place):
    place.amplitude.add_flag("checkout-express", enabled=True)
    run_id, state = ramped(place, flag_key="checkout-express", percentage=5)
    assert state == "success"
    path = f"/dags/ui_triggered_ramp/dagRuns/{run_id}/taskInstances/ramp/links"
    link = place.airflow.get(path)["extra_links"]["Open in Amplitude"]
    flag_id = place.amplitude.flag("checkout-express")["id"]
    assert link == f"{place.amplitude.url}/experiment/acme/100001/config/{flag_id}"


def ramped(place, **conf):
    place.airflow.wait_for_dag("ui_triggered_ramp")
    place.airflow.unpause("ui_triggered_ramp")
    return place.run("ui_triggered_ramp", {"reason": "looks good to the release desk", **conf})


def test_a_release_manager_ramps_from_the_form(place):
    place.amplitude.add_flag("checkout-express", enabled=True, rolloutPercentage=10)
    run_id, state = ramped(place, flag_key="checkout-express", percentage=30)
    assert state == "success"
    assert place.amplitude.flag("checkout-express")["rolloutPercentage"] == 30
    log = place.airflow.logs("ui_triggered_ramp", run_id, "ramp")
    assert "flag checkout-express: 10 % -> 30 %" in log
    assert "looks good to the release desk" in log
    assert "[end to end]" in log


@pytest.mark.parametrize(
    ("conf", "says"),
    [
        ({"flag_key": "checkout-express", "percentage": 60}, "max_step"),
        ({"flag_key": "billing", "percentage": 20}, "allow_keys"),
        ({"flag_key": "checkout-express", "percentage": 5}, "stands at 10 %"),
    ],
)
def test_what_the_connection_forbids_fails_at_once_and_says_why(place, conf, says):
    place.amplitude.add_flag("checkout-express", enabled=True, rolloutPercentage=10)
    place.amplitude.add_flag("billing", enabled=True, rolloutPercentage=10)
    run_id, state = ramped(place, **conf)
    assert state == "failed"
    assert place.tries("ui_triggered_ramp", run_id) == {"ramp": 1}
    assert says in place.airflow.logs("ui_triggered_ramp", run_id, "ramp")
    assert place.writes() == []


@pytest.mark.parametrize(
    "wrong", [{"percentage": 101}, {"percentage": 2.5}, {"reason": "why"}, {"when_higher": "perhaps"}]
)
def test_the_form_refuses_what_cannot_be_meant(place, wrong):
    place.airflow.wait_for_dag("ui_triggered_ramp")
    with pytest.raises(AirflowRestError, match=r"-> (400|422)"):
        place.airflow.trigger("ui_triggered_ramp", {"reason": "a good reason", **wrong})
