"""Data into variants on a real Airflow: three nights of a sync, a beta programme, an experiment's whole life.

They happen at the same time, because each waits for most of it. Each is a function that does one thing after another
and yields what has to be true before the next; one loop drives them all, and the tests look at what became of them.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import datetime
from typing import Any

import pytest

from tests.e2e.test_laws import everything_answered, everything_written

pytestmark = pytest.mark.e2e

PATIENCE = 480.0
"""Seconds until whatever still waits has failed; on an idle machine all of it takes a sixth of that."""

MARK = "n4711"
"""Is in every id that must be nowhere to be read afterwards."""

AWKWARD = [f"{MARK},a", f'{MARK} "b"', f"{MARK}'c", f"{MARK}\nd", f"{MARK}-🦊", f"00{MARK}", MARK.ljust(1_000, "x")]
TESTERS = ["tester-1", "tester-2"]
COHORT = "b37tzqx9"

Steps = Iterator[Callable[[], Any]]


class World:
    """The shared Airflow and Amplitude, and what was seen of them on the way."""

    def __init__(self, place: Any) -> None:
        self.place = place
        self.runs: dict[str, str] = {}
        self.seen: dict[str, Any] = {}

    def trigger(self, dag_id: str) -> None:
        """Press Trigger."""
        self.runs[dag_id] = self.place.airflow.trigger(dag_id)

    def has_ended(self, dag_id: str) -> bool:
        return self.state(dag_id) in ("success", "failed")

    def state(self, dag_id: str) -> str:
        return str(self.place.airflow.run(dag_id, self.runs[dag_id])["state"])

    def states(self, dag_id: str) -> dict[str, str | None]:
        states: dict[str, str | None] = self.place.airflow.task_states(dag_id, self.runs[dag_id])
        return states

    def xcom(self, dag_id: str, task_id: str) -> Any:
        return self.place.airflow.xcom(dag_id, self.runs[dag_id], task_id)

    def asked(self, dag_id: str, task_id: str) -> Callable[[], bool]:
        """Whether a task has asked a person, and so long ago that a person could answer."""

        def look() -> bool:
            if self.states(dag_id).get(task_id) not in ("deferred", "awaiting_input"):
                return False
            # Airflow may still be ending the process that has asked.
            return time.monotonic() > self.seen.setdefault((dag_id, task_id), time.monotonic()) + 4

        return look

    def answer(self, dag_id: str, task_id: str, option: str) -> None:
        path = f"/dags/{dag_id}/dagRuns/{self.runs[dag_id]}/taskInstances/{task_id}/-1/hitlDetails"
        self.place.airflow.request("PATCH", path, json={"chosen_options": [option], "params_input": {}})

    def nights(self) -> list[dict[str, Any]]:
        """Return the runs of the sync, the oldest first."""
        answer = self.place.airflow.get("/dags/tonight_sync/dagRuns", order_by="run_after")
        return list(answer["dag_runs"])

    def night_is_over(self, number: int) -> Callable[[], bool]:
        def look() -> bool:
            runs = self.nights()
            return len(runs) >= number and all(run["state"] in ("success", "failed") for run in runs)

        return look

    def fill_table(self, ids: list[str]) -> None:
        """Put a new list into the table, and say that it is loaded, as another pipeline would."""
        with closing(sqlite3.connect(self.place.warehouse)) as database, database:
            database.execute("DELETE FROM early_access")
            database.executemany("INSERT INTO early_access VALUES (?)", [(each,) for each in ids])
        (asset,) = self.place.airflow.get("/assets", name_pattern="warehouse.early_access")["assets"]
        self.place.airflow.request("POST", "/assets/events", json={"asset_id": asset["id"]})

    def users(self) -> list[str]:
        """Return who gets the variant of the synced flag."""
        (variant,) = self.place.amplitude.flag("early-access")["variants"]
        return list(variant["users"])


def three_nights(world: World) -> Steps:
    """A load by the example's own DAG; then a user leaves and awkward ones come; then far too many."""
    world.trigger("tonight_load")
    yield world.night_is_over(1)
    world.seen["first night"] = world.users()
    world.fill_table(["user-1", *AWKWARD, "user-1", ""])
    yield world.night_is_over(2)
    world.seen["second night"] = world.users()
    world.fill_table([f"{MARK}-{number}" for number in range(2_001)])
    yield world.night_is_over(3)
    world.seen["third night"] = world.users()


def beta(world: World) -> Steps:
    """The cohort at once, 10 % of everyone when a person says so."""
    world.trigger("beta_programme")
    yield world.asked("beta_programme", "rollout.approve")
    world.seen["beta"] = world.place.amplitude.flag("new-editor")
    world.answer("beta_programme", "rollout.approve", "Approve")
    yield lambda: world.has_ended("beta_programme")


def life(world: World) -> Steps:
    """An experiment that ends in half a minute, is rolled out, and archived."""
    world.trigger("short_life")
    yield world.asked("short_life", "ask")
    world.seen["running"] = world.place.amplitude.experiment("shorter-onboarding")
    world.seen["slots"] = world.place.amplitude.state()["mutexes"][0]["slots"]
    world.answer("short_life", "ask", "rollout")
    yield world.asked("short_life", "gone")
    world.seen["rolled out"] = world.place.amplitude.experiment("shorter-onboarding")
    world.answer("short_life", "gone", "Approve")
    yield lambda: world.has_ended("short_life")


def add_variation(place: Any, name: str, dag_id: str, changes: dict[str, str]) -> None:
    """Add a copy of an example that differs a little, and let its DAGs run."""
    text = (place.dags / f"{name}.py").read_text()
    for old, new in changes.items():
        assert old in text
        text = text.replace(old, new)
    place.add_dag(dag_id, text)


@pytest.fixture(scope="module")
def world(_place: Any) -> World:
    """Let all of it happen."""
    amplitude = _place.amplitude
    amplitude.reset()
    amplitude.options(dates="as_sent")
    amplitude.add_flag("early-access", enabled=True, variants=[{"key": "on", "users": [*TESTERS, "of-yesterday"]}])
    amplitude.add_flag("new-editor", enabled=True, evaluationMode="remote", variants=["on"])
    amplitude.add_mutex("onboarding", slots=[{"percentage": 60}, {"percentage": 40}])
    # The load runs when it is told to, whatever time it is; the experiment ends soon.
    tonight = {'"nightly_': '"tonight_', 'schedule="0 2 * * *"': "schedule=None"}
    add_variation(_place, "nightly_sync", "tonight_sync", tonight)
    short = {'"experiment_life"': '"short_life"', "timedelta(days=14)": "timedelta(seconds=30)"}
    add_variation(_place, "experiment_life", "short_life", short)
    world = World(_place)
    for dag_id in ("tonight_load", "beta_programme"):
        _place.airflow.wait_for_dag(dag_id)
        _place.airflow.unpause(dag_id)
    stories = [story(world) for story in (three_nights, beta, life)]
    waiting = {story: next(story) for story in stories}
    end = time.monotonic() + PATIENCE
    while waiting:
        _place.airflow.check()
        assert time.monotonic() < end, {dag_id: world.states(dag_id) for dag_id in world.runs}
        for story in [story for story, is_true in waiting.items() if is_true()]:
            try:
                waiting[story] = next(story)
            except StopIteration:
                del waiting[story]
        time.sleep(0.3)
    return world


# --- nightly_sync ---


def test_a_table_reaches_the_variant_when_its_load_has_finished(world):
    assert world.state("tonight_load") == "success"
    night = world.nights()[0]
    assert (night["run_type"], night["state"]) == ("asset_triggered", "success")
    assert sorted(world.seen["first night"]) == sorted(["user-1", "user-2", *TESTERS])


def test_the_next_night_a_user_less_leaves_and_ids_arrive_as_they_stand(world):
    assert world.nights()[1]["state"] == "success"
    assert sorted(world.seen["second night"]) == sorted(["user-1", *AWKWARD, *TESTERS])
    record = world.place.airflow.xcom("tonight_sync", world.nights()[1]["dag_run_id"], "sync")
    counted = {name: record[name] for name in ("before", "added", "removed", "after", "skipped")}
    assert counted == {
        "before": 4,
        "added": len(AWKWARD),
        "removed": 1,
        "after": 3 + len(AWKWARD),
        "skipped": {"blank": 1, "duplicate": 1},
    }


def test_a_table_that_is_too_large_is_refused_at_once_with_the_way_out_and_nobody_leaves(world):
    night = world.nights()[2]
    assert night["state"] == "failed"
    assert world.place.tries("tonight_sync", night["dag_run_id"]) == {"sync": 1}
    log = world.place.airflow.logs("tonight_sync", night["dag_run_id"], "sync")
    assert "more than" in log
    assert "AmplitudeSyncVariantCohortsOperator" in log
    assert world.seen["third night"] == world.seen["second night"]


def test_no_id_of_a_user_is_in_any_log_rendered_field_xcom_answer_or_audit_line(world):
    for night in world.nights():
        shown = list(everything_answered(world.place, "tonight_sync", night["dag_run_id"]))
        assert any(where.endswith("log") for where, _ in shown)
        assert [where for where, text in shown if MARK in text] == []
    assert [where for where, content in everything_written(world.place) if MARK.encode() in content] == []
    audit = [path.read_text() for path in world.place.audit.rglob("*.json")]
    assert any("early-access" in line for line in audit)
    assert [line for line in audit if MARK in line] == []


# --- beta_programme ---


def test_a_beta_cohort_has_the_variant_while_nobody_else_has(world):
    (variant,) = world.seen["beta"]["variants"]
    assert (variant["cohorts"], world.seen["beta"]["rolloutPercentage"]) == ([COHORT], 0)


def test_a_beta_that_went_well_goes_to_ten_percent_of_everyone_and_keeps_its_cohort(world):
    assert world.state("beta_programme") == "success"
    flag = world.place.amplitude.flag("new-editor")
    assert (flag["variants"][0]["cohorts"], flag["rolloutPercentage"]) == ([COHORT], 10)
    assert world.xcom("beta_programme", "rollout.to_10.ramp")["approved_by"]


# --- experiment_life ---


def test_an_experiment_runs_in_its_slot_with_its_variants_and_its_segment(world):
    running = world.seen["running"]
    assert [each["key"] for each in running["variants"]] == ["control", "treatment"]
    assert [each["name"] for each in running["targetSegments"]] == ["German"]
    assert (running["enabled"], running["rolloutPercentage"], running["decision"]) == (True, 50, None)
    assert [slot["experiments"] for slot in world.seen["slots"]] == [[running["id"]], []]


def test_nobody_is_asked_for_a_decision_before_the_end_date(world):
    ended = datetime.fromisoformat(world.xcom("short_life", "end")["ended_at"])
    tasks = world.place.airflow.task_instances("short_life", world.runs["short_life"])
    (asked,) = [datetime.fromisoformat(each["start_date"]) for each in tasks if each["task_id"] == "ask"]
    assert asked >= ended


def test_a_decision_to_roll_out_gives_everybody_the_winner(world):
    rolled_out = world.seen["rolled out"]
    assert (rolled_out["decision"], rolled_out["rolledOutVariant"]) == ("rollout", "treatment")
    assert (rolled_out["enabled"], rolled_out["rolloutPercentage"]) == (True, 100)
    weights = rolled_out["rolloutWeights"]
    assert weights["control"] == 0
    assert weights["treatment"] > 0


def test_the_life_of_an_experiment_ends_outside_its_slot_and_in_the_archive(world):
    assert world.state("short_life") == "success"
    assert world.place.amplitude.experiment("shorter-onboarding")["deleted"] is True
    assert [slot["experiments"] for slot in world.place.amplitude.state()["mutexes"][0]["slots"]] == [[], []]
