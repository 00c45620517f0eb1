"""The rows of docs/what-happens-when.md that only a real Airflow can show.

Most of the time a rollout waits, so all rows happen at once: each is a function that does one thing after another and
yields what has to be true before the next, and one loop drives them all. Each has a flag of its own, and its run has
the flag's key as id.
"""

from __future__ import annotations

import os
import signal
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any

import httpx
import pytest

from demo.airflow_rest import AirflowRestError

pytestmark = pytest.mark.e2e

PATIENCE = 480.0
"""Seconds until whatever still waits has failed; on an idle machine all of it takes a fifth of that."""

REPORTED = 8
"""Seconds until the scheduler has surely heard of a process's end. What is cleared or deleted in the very moment in
which it writes that down is another row by then, and it ends with a StaleDataError (seen on Airflow 3.1.6)."""

BEGIN, ROLLBACK = "rollout.begin", "rollout.rollback"
RAMP_10, WATCH_10, RAMP_50, WATCH_50, RAMP_100 = (
    f"rollout.to_{each}" for each in ("10.ramp", "10.watch", "50.ramp", "50.watch", "100.ramp")
)
APPROVE = "rollout.approve"
ASLEEP = ("deferred", "awaiting_input")

HEAD = '''
import time
from datetime import datetime, timedelta
from pathlib import Path
from airflow.sdk import DAG
from airflow_amplitude_experiment.operators import AmplitudeKillSwitchOperator
from airflow_amplitude_experiment.rollout import RolloutPlan, Stage, staged_rollout

SAID = Path(__file__).parent / "said"

def errors(key):
    """Say what a test wrote down for this flag; take as long as it wants."""
    (SAID / f"{key}.asked").touch()
    while (SAID / f"{key}.slow").exists():
        time.sleep(0.1)
    told = SAID / f"{key}.verdict"
    return told.read_text() if told.exists() else "pass"

def rollout(dag_id, plan, *, key="{{ dag_run.conf['key'] }}", options=None, **more):
    settings = {"schedule": None, "catchup": False, "max_active_runs": 50, **more}
    with DAG(dag_id, default_args={"retries": 1, "retry_delay": timedelta(seconds=1)}, **settings):
        staged_rollout(
            flag_key=key, plan=plan, guardrails=[errors], start_at="{{ dag_run.conf.get('start_at', '') }}",
            **(options or {}),
        )
'''

DAGS = (
    HEAD
    + """
LONG, QUICK, ONCE = map(RolloutPlan.parse, ("10% 1h, 50% 0h", "10% 1s, 50% 0h", "10% 0h"))
rollout("when_long", LONG)
rollout("when_quick", QUICK)
rollout("when_paused_asleep", LONG, options={"check_every": "10s"})
rollout("when_paused_breach", QUICK)
rollout("when_timeout", LONG, dagrun_timeout=timedelta(seconds=60))
rollout("when_marked", RolloutPlan.parse("10% 1h, 50% 1s"))
rollout("when_single", LONG, max_active_runs=1)
rollout("when_once", ONCE)
rollout("when_asked", ONCE, options={"approve_above": 5})
rollout("when_unanswered", ONCE, options={"approve_above": 5, "approve_within": "2s"})
rollout("when_scheduled", RolloutPlan.parse("10% 25s, 50% 0h"), key="scheduled", schedule=timedelta(seconds=20),
        start_date=datetime(2026, 1, 1), max_active_runs=1)
with DAG("when_killed", schedule=None):
    AmplitudeKillSwitchOperator(task_id="kill", keys=["{{ dag_run.conf['key'] }}"])
"""
)
TRIGGERED = "long quick paused_asleep paused_breach timeout marked single once asked unanswered killed"

Steps = Iterator[Callable[[], Any]]


class World:
    """The shared Airflow and Amplitude, and what the runs of this module looked like a moment ago."""

    def __init__(self, place):
        self.place = place
        self.airflow = place.airflow
        self.said = place.dags / "said"
        self.tasks: dict[tuple[str, str], dict[str, dict[str, Any]]] = {}
        self.runs: dict[tuple[str, str], str] = {}

    def ask(self, method, path, **arguments):
        """Send a request, again where this Airflow and its small database are too busy with all that happens."""
        for _ in range(5):
            try:
                return self.airflow.request(method, path, **arguments)
            except httpx.TransportError:
                pass
            except AirflowRestError as error:
                if "atabase" not in str(error):
                    raise
            time.sleep(1)
        raise AssertionError(f"{method} {path}: Airflow is too busy")

    def look(self):
        """Read how all runs and tasks are; asked over the API that often, this Airflow would make its tasks wait."""
        found: dict[tuple[str, str], dict[str, dict[str, Any]]] = {}
        with closing(sqlite3.connect(f"file:{self.airflow.home}/airflow.db?mode=ro", uri=True)) as database:
            for dag_id, run_id, *facts in database.execute(
                "select dag_id, run_id, task_id, state, try_number from task_instance where dag_id like 'when_%'"
            ):
                task = dict(zip(("task_id", "state", "try_number"), facts, strict=True))
                found.setdefault((dag_id, run_id), {})[task["task_id"]] = task
            runs = database.execute("select dag_id, run_id, state from dag_run where dag_id like 'when_%'")
            self.runs = {(dag_id, run_id): state for dag_id, run_id, state in runs}
        self.tasks = found

    def flag(self, key, **fields):
        self.place.amplitude.add_flag(key, **{"enabled": True, "rolloutPercentage": 0, **fields})

    def start(self, dag_id, key, *, run_id=None, new=True, **conf):
        """Trigger a run for a flag, a new one unless told otherwise."""
        if new:
            self.flag(key)
        body = {"logical_date": None, "dag_run_id": run_id or key, "conf": {"key": key, **conf}}
        self.ask("POST", f"/dags/{dag_id}/dagRuns", json=body)
        return Run(self, dag_id, run_id or key, key)

    def writes(self, key):
        """Return what was written to a flag, in order."""
        end = f"/flags/{self.place.amplitude.flag(key)['id']}"
        sent = self.place.amplitude.requests()
        return [each["body"] for each in sent if each["method"] == "PATCH" and each["path"].endswith(end)]

    def pause(self, dag_id, paused=True):
        self.ask("PATCH", f"/dags/{dag_id}", json={"is_paused": paused})

    def write(self, name, text):
        (self.place.dags / f"{name}.py").write_text(text)


class Run:
    """One run on one flag."""

    def __init__(self, world, dag_id, run_id, key):
        self.world, self.dag_id, self.run_id, self.key = world, dag_id, run_id, key

    @property
    def path(self):
        return f"/dags/{self.dag_id}/dagRuns/{self.run_id}"

    @property
    def states(self):
        return {task_id: each["state"] for task_id, each in self.tasks.items()}

    @property
    def tasks(self):
        return self.world.tasks.get((self.dag_id, self.run_id), {})

    def state(self, task_id):
        return self.states.get(task_id)

    def asleep(self, task_id):
        return lambda: self.state(task_id) in ASLEEP

    def is_(self, task_id, state):
        return lambda: self.state(task_id) == state

    def ended(self):
        """Whether the run and all its tasks are over."""
        under_way = (None, "scheduled", "queued", "running", *ASLEEP)
        return self.outcome in ("success", "failed") and not any(each in under_way for each in self.states.values())

    @property
    def outcome(self):
        return self.world.runs.get((self.dag_id, self.run_id))

    # --- what a person does ---

    def mark(self, task_id, state):
        self.world.ask("PATCH", f"{self.path}/taskInstances/{task_id}", json={"new_state": state})

    def end(self, state):
        """Mark the whole run."""
        self.world.ask("PATCH", self.path, json={"state": state})

    def clear(self, *task_ids):
        body = {"dry_run": False, "dag_run_id": self.run_id, "only_failed": False}
        body |= {"task_ids": task_ids} if task_ids else {}
        self.world.ask("POST", f"/dags/{self.dag_id}/clearTaskInstances", json=body)
        self.world.look()

    def delete(self):
        self.world.ask("DELETE", self.path)

    def answer(self, option):
        path = f"{self.path}/taskInstances/{APPROVE}/-1/hitlDetails"
        self.world.ask("PATCH", path, json={"chosen_options": [option], "params_input": {}})

    def judge(self, verdict):
        (self.world.said / f"{self.key}.verdict").write_text(verdict)

    # --- what can be seen ---

    @property
    def flag(self):
        return self.world.place.amplitude.flag(self.key)

    @property
    def stands(self):
        return self.flag["rolloutPercentage"]

    @property
    def writes(self):
        return self.world.writes(self.key)

    def log(self, task_id):
        number = self.world.airflow.get(f"{self.path}/taskInstances/{task_id}")["try_number"]
        return self.world.airflow.logs(self.dag_id, self.run_id, task_id, try_number=number)

    def record(self, task_id, key="return_value"):
        return self.world.airflow.xcom(self.dag_id, self.run_id, task_id, key)


def to(*percentages):
    return [{"rolloutPercentage": each} for each in percentages]


def after(seconds):
    """Wait, where what counts is that nothing happens."""
    end = time.monotonic() + seconds
    return lambda: time.monotonic() > end


# --- all rows at once ---

SCENARIOS: dict[str, Callable[[World], Steps]] = {}


def row(steps: Callable[[World], Steps]) -> Callable[[Any], None]:
    """Make a test of a row that is driven beside all others."""
    SCENARIOS[steps.__name__] = steps

    def test(outcomes: Any) -> None:
        if error := outcomes[steps.__name__]:
            raise error

    test.__name__, test.__doc__ = steps.__name__, steps.__doc__
    return test


@pytest.fixture(scope="module")
def outcomes(_place, request):
    """Let the rows that were asked for happen, all at once; return the error of each, if any."""
    _place.amplitude.reset()
    (_place.dags / "said").mkdir(exist_ok=True)
    _place.add_dag("when_long", DAGS)
    for name in TRIGGERED.split():
        _place.airflow.wait_for_dag(f"when_{name}")
        _place.airflow.unpause(f"when_{name}")
    asked_for = {item.originalname for item in request.session.items if item.module is request.module}
    world = World(_place)
    return driven(world, {name: steps(world) for name, steps in SCENARIOS.items() if name in asked_for})


AT_ONCE = 4
"""How many rows may be before their first condition: a queue of all of them would keep each waiting for the others."""


def driven(world: World, rows: dict[str, Steps]) -> dict[str, BaseException | None]:
    """Drive all rows, each to its next condition as soon as that is so; return the error of each, if any."""
    errors: dict[str, BaseException | None] = {}
    waiting: dict[str, Callable[[], Any]] = {}
    to_start, starting = list(rows), set[str]()

    def go_on(name):
        try:
            if name not in waiting:
                waiting[name] = next(rows[name])
            elif waiting[name]():
                starting.discard(name)
                waiting[name] = next(rows[name])
        except StopIteration:
            errors[name] = None
        except Exception as error:  # noqa: BLE001  it is raised by the row's own test
            errors[name] = error
        if name in errors:
            waiting.pop(name, None)
            starting.discard(name)

    end = time.monotonic() + PATIENCE
    while (waiting or to_start) and time.monotonic() < end:
        while to_start and len(starting) < AT_ONCE:
            starting.add(name := to_start.pop(0))
            go_on(name)
        time.sleep(0.5)
        world.airflow.check()
        world.look()
        for name in list(waiting):
            go_on(name)
    for name in (*waiting, *to_start):
        errors[name] = AssertionError(f"it never happened: {where(rows[name])}")
    return errors


def where(steps: Any) -> str:
    """Say at which line a row waits, and how its tasks are."""
    told = {name: value.states for name, value in steps.gi_frame.f_locals.items() if isinstance(value, Run)}
    return f"line {steps.gi_frame.f_lineno}, {told}"


# --- the limit of a whole run ---


@row
def test_a_run_that_times_out_loses_its_guard_and_its_rollback(world):
    run = world.start("when_timeout", "timed-out")
    yield run.asleep(WATCH_10)
    yield lambda: run.outcome == "failed"
    yield after(3)
    assert run.state(WATCH_10) == "skipped"
    assert run.state(ROLLBACK) in ("skipped", None)  # nothing at all on Airflow 3.1
    assert run.writes == to(10)


# --- pausing ---


@row
def test_while_the_dag_is_paused_the_guards_sleep_and_the_breach_is_found_after(world):
    run = world.start("when_paused_asleep", "paused-asleep")
    yield run.asleep(WATCH_10)
    world.pause(run.dag_id)
    yield run.asleep(WATCH_10)
    run.judge("breach")
    yield run.is_(WATCH_10, "scheduled")
    yield after(5)
    assert run.state(WATCH_10) == "scheduled"
    assert (run.outcome, run.stands) == ("running", 10)
    world.pause(run.dag_id, paused=False)
    yield run.ended
    assert run.outcome == "failed"
    assert run.writes == to(10, 0)


@row
def test_a_breach_found_while_the_dag_is_paused_is_rolled_back_only_when_it_is_unpaused(world):
    slow = world.said / "paused-breach.slow"
    slow.touch()
    run = world.start("when_paused_breach", "paused-breach")
    yield (world.said / "paused-breach.asked").exists
    world.pause(run.dag_id)
    run.judge("breach")
    slow.unlink()
    yield run.is_(WATCH_10, "failed")
    yield after(6)
    assert run.state(ROLLBACK) is None
    assert run.stands == 10
    world.pause(run.dag_id, paused=False)
    yield run.ended
    assert run.outcome == "failed"
    assert run.writes == to(10, 0)


# --- marking ---


@row
def test_a_ramp_marked_failed_stops_nothing_and_a_watch_marked_successful_ends_the_bake_which_is_recorded(world):
    run = world.start("when_long", "hurried")
    yield run.asleep(WATCH_10)
    run.mark(RAMP_10, "failed")
    yield after(3)
    assert (run.outcome, run.state(WATCH_10)) == ("running", "deferred")
    run.mark(WATCH_10, "success")
    yield run.ended
    assert run.outcome == "success"
    assert run.writes == to(10, 50)
    assert "marked successful by hand" in run.record(RAMP_50)["by_hand"]
    assert "This ramp follows a decision by hand" in run.log(RAMP_50)


@row
def test_a_refused_ramp_marked_successful_writes_nothing_and_what_is_below_it_goes_on_from_what_stands(world):
    run = world.start("when_marked", "ramp-success")
    yield run.asleep(WATCH_10)
    world.place.amplitude.change(run.key, rolloutPercentage=30)
    run.mark(WATCH_10, "success")
    yield run.ended
    assert (run.outcome, run.state(RAMP_50), run.state(ROLLBACK)) == ("failed", "failed", "skipped")
    assert "stands at 30 %, but this ramp to 50 % expected 10 % or 50 %" in run.log(RAMP_50)
    run.mark(RAMP_50, "success")
    yield run.is_(WATCH_50, "success")
    yield run.ended
    assert run.outcome == "success"
    assert run.writes == to(10)
    assert run.stands == 30
    assert "left no record (marked by hand?)" in run.log(WATCH_50)


# --- clearing and deleting ---


@row
def test_a_cleared_stage_of_a_finished_rollout_writes_nothing_and_a_cleared_run_raises_nothing_that_was_lowered(world):
    run = world.start("when_quick", "cleared")
    yield run.ended
    assert run.writes == to(10, 50)
    yield after(REPORTED)
    run.clear(RAMP_10, WATCH_10)
    yield run.ended
    assert run.outcome == "success", run.states
    assert run.writes == to(10, 50)
    assert "on a later one" in run.log(RAMP_10)
    assert "which is watched there" in run.log(WATCH_10)
    world.place.amplitude.change(run.key, rolloutPercentage=0, by="oncall@example.com")
    yield after(REPORTED)
    run.clear()
    yield run.ended
    assert run.outcome == "failed"
    assert (run.writes, run.stands) == (to(10, 50), 0)
    assert "would undo somebody's stop" in run.log(RAMP_10)


@row
def test_a_run_marked_failed_and_deleted_leaves_the_flag_where_it_stands_and_a_new_one_goes_on_with_start_at(world):
    run = world.start("when_long", "deleted")
    yield run.asleep(WATCH_10)
    with pytest.raises(AirflowRestError, match="409"):
        run.delete()
    run.end("failed")
    yield run.ended
    assert (run.state(WATCH_10), run.state(ROLLBACK)) == ("failed", "skipped"), run.states
    yield after(REPORTED)
    run.delete()
    assert run.stands == 10
    again = world.start("when_quick", "deleted", run_id="deleted-again", new=False)
    yield again.ended
    assert again.state(BEGIN) == "failed"
    assert "To go on from 10 %, trigger a run with start_at=10" in again.log(BEGIN)
    further = world.start("when_quick", "deleted", run_id="deleted-further", new=False, start_at=10)
    yield further.ended
    assert further.outcome == "success"
    assert run.writes == to(10, 50)


@row
def test_a_run_marked_successful_ends_at_once_and_raises_nothing(world):
    run = world.start("when_long", "run-success")
    yield run.asleep(WATCH_10)
    run.end("success")
    yield run.ended
    yield after(3)
    assert run.outcome == "success"
    assert run.state(ROLLBACK) == "skipped"
    assert run.writes == to(10)


# --- Airflow's own troubles ---


@row
def test_a_worker_killed_after_its_write_writes_no_second_time(world):
    world.flag("worker-killed")
    path = f"*/flags/{world.place.amplitude.flag('worker-killed')['id']}"
    world.place.amplitude.fault("late", method="PATCH", path=path, seconds=8)
    run = world.start("when_long", "worker-killed", new=False)
    yield lambda: run.writes
    pid = world.airflow.get(f"{run.path}/taskInstances/{RAMP_10}")["pid"]
    os.kill(pid, signal.SIGKILL)
    yield run.asleep(WATCH_10)
    assert run.tasks[RAMP_10]["try_number"] == 2
    assert "stands at 10 %, nothing to do" in run.log(RAMP_10)


# --- other people ---


@row
def test_after_the_kill_switch_no_ramp_of_the_run_goes_up_not_even_when_it_is_on_again(world):
    run = world.start("when_long", "killed")
    yield run.asleep(WATCH_10)
    kill = world.start("when_killed", "killed", new=False)
    yield kill.ended
    assert kill.outcome == "success"
    assert run.flag["enabled"] is False
    run.mark(WATCH_10, "success")
    yield run.ended
    assert (run.outcome, run.state(RAMP_50), run.state(ROLLBACK)) == ("failed", "failed", "skipped")
    assert "is disabled, at 10 %" in run.log(RAMP_50)
    world.place.amplitude.change(run.key, enabled=True)
    yield after(REPORTED)
    run.clear(RAMP_50)
    yield run.ended
    assert run.state(RAMP_50) == "failed"
    assert "was disabled in version" in run.log(RAMP_50)
    assert run.stands == 10


@row
def test_a_second_run_on_one_flag_waits_in_the_queue_or_is_refused_by_its_begin(world):
    run = world.start("when_single", "twice")
    second = world.start("when_single", "twice", run_id="twice-queued", new=False)
    yield run.asleep(WATCH_10)
    other = world.start("when_quick", "twice", run_id="twice-other-dag", new=False)
    yield other.ended
    assert (other.outcome, second.outcome) == ("failed", "queued")
    assert "stands at 10 %, but this rollout begins at 0 %" in other.log(BEGIN)
    run.mark(WATCH_10, "failed")
    yield run.ended
    assert (run.outcome, run.state(ROLLBACK)) == ("failed", "skipped")
    yield second.ended
    assert "To go on from 10 %, trigger a run with start_at=10" in second.log(BEGIN)
    assert run.writes == to(10)


@row
def test_while_the_freeze_names_a_flag_its_ramp_waits_and_clearing_it_afterwards_goes_on_at_once(world):
    world.ask("POST", "/variables", json={"key": "amplitude_experiment_freeze", "value": '["frozen-*"]'})
    try:
        run = world.start("when_once", "frozen-flag")
        yield run.asleep(RAMP_10)
        assert run.writes == []
        assert "amplitude_experiment_freeze names it" in run.log(RAMP_10)
    finally:
        world.ask("DELETE", "/variables/amplitude_experiment_freeze")
    yield after(REPORTED)
    run.clear(RAMP_10)
    yield run.ended
    assert run.outcome == "success"
    assert run.writes == to(10)


# --- the plan is edited while a run is under way ---

EDITED = 'rollout("when_{name}", RolloutPlan.parse("{plan}"), options={options})'


def edited(world, name, plan, **options):
    world.write(f"when_{name}", HEAD + EDITED.format(name=name, plan=plan, options=options))


def parsed(world, name, *, has=None, lacks=None):
    """Whether Airflow has read the edited file."""

    def look():
        try:
            tasks = world.airflow.get(f"/dags/when_{name}/tasks")["tasks"]
        except AirflowRestError:
            return False
        ids = {each["task_id"] for each in tasks}
        return (has is None or has in ids) and lacks not in ids

    return look


@row
def test_stages_ahead_that_are_added_and_removed_are_so_for_the_run_under_way(world):
    edited(world, "edited", "10% 1h, 50% 1h, 100% 0h")
    yield parsed(world, "edited", has=RAMP_50)
    world.pause("when_edited", paused=False)
    run = world.start("when_edited", "edited")
    yield run.asleep(WATCH_10)
    edited(world, "edited", "10% 1h, 25% 1s, 100% 0h")
    yield parsed(world, "edited", has="rollout.to_25.ramp", lacks=RAMP_50)
    run.mark(WATCH_10, "success")
    yield lambda: run.state(RAMP_100) == "success"
    yield run.ended
    assert run.outcome == "success"
    assert run.writes == to(10, 25, 100)


@row
def test_a_stage_that_is_removed_while_the_flag_stands_on_it_stops_the_run_there(world):
    edited(world, "removed_here", "10% 1s, 50% 1h, 100% 0h")
    yield parsed(world, "removed_here", has=RAMP_50)
    world.pause("when_removed_here", paused=False)
    run = world.start("when_removed_here", "removed-here")
    yield run.asleep(WATCH_50)
    edited(world, "removed_here", "10% 1s, 100% 0h")
    yield parsed(world, "removed_here", lacks=RAMP_50)
    yield run.ended
    assert run.outcome == "failed"
    assert run.writes == to(10, 50)
    assert "stands at 50 %, but this ramp to 100 % expected 10 % or 100 %" in run.log(RAMP_100)


@row
def test_a_group_that_is_renamed_is_begun_anew_in_the_same_run_and_refused_because_the_flag_is_under_way(world):
    edited(world, "renamed", "10% 1h, 100% 0h")
    yield parsed(world, "renamed", has=RAMP_10)
    world.pause("when_renamed", paused=False)
    run = world.start("when_renamed", "renamed")
    yield run.asleep(WATCH_10)
    edited(world, "renamed", "10% 1h, 100% 0h", group_id="release")
    yield parsed(world, "renamed", has="release.begin", lacks=BEGIN)
    yield run.ended
    assert run.outcome == "failed"
    assert (run.state("release.begin"), run.state(WATCH_10)) == ("failed", "removed")
    assert run.writes == to(10)


# --- approvals ---


@row
def test_a_question_that_nobody_answers_ends_the_run_where_it_stands(world):
    run = world.start("when_unanswered", "unanswered")
    yield run.ended
    assert run.outcome == "failed"
    assert (run.state(APPROVE), run.state(ROLLBACK)) == ("failed", "skipped")
    assert run.writes == []


@row
def test_a_question_marked_successful_counts_as_approved_by_nobody_and_is_recorded_so(world):
    run = world.start("when_asked", "marked-approval")
    yield run.asleep(APPROVE)
    run.mark(APPROVE, "success")
    yield run.is_(RAMP_10, "success")
    assert run.writes == to(10)
    assert run.record(RAMP_10)["approved_by"] == f"nobody: task {APPROVE} was marked successful by hand"


# --- schedules ---


@row
def test_a_schedule_that_is_shorter_than_a_stage_finishes_its_rollout(world):
    world.flag("scheduled")
    world.pause("when_scheduled", paused=False)
    yield lambda: world.place.amplitude.flag("scheduled")["rolloutPercentage"] == 50
    world.pause("when_scheduled")
    assert world.writes("scheduled") == to(10, 50)
