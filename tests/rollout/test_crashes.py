"""A rollout whose workers die, whose tasks are cleared, and which somebody stops: what it may never do.

Every test runs the tasks of a real ``staged_rollout`` in a simulated Airflow (see ``simulation``) against the
emulator. What happens, and where, is drawn by hypothesis, the same in every run of the tests.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from functools import cache
from itertools import pairwise
from typing import Any, NamedTuple

import pytest
from airflow.sdk import DAG
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from airflow_amplitude_experiment.operators import (
    AmplitudeCreateFlagOperator,
    AmplitudeKillSwitchOperator,
    AmplitudeRampRolloutOperator,
)
from airflow_amplitude_experiment.rollout import RolloutPlan, Window, staged_rollout
from tests.builders import a_segment
from tests.rollout.simulation import LAST_MOMENT, START, Death, Sent, Simulation, simulated

KEY, SEGMENT = "new-checkout", "Beta"
STAGES = (1, 10, 50, 100)
PLAN = RolloutPlan.parse("1% 1h, 10% 2h, 50% 2h, 100%")
OFFICE = RolloutPlan.parse(
    "1% 1h, 10% 2h, 50% 2h, 100%",
    windows=(Window(days="mon-fri", hours="09:00-12:00", timezone="Europe/Berlin"),),
    freezes=((datetime(2026, 11, 24, 8, 30, tzinfo=UTC), datetime(2026, 11, 24, 10, tzinfo=UTC)),),
)
A_SECOND = timedelta(seconds=1)
"""Moments in records are cut to seconds."""


def of(examples: int) -> Any:
    return settings(
        max_examples=examples,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=list(HealthCheck),
    )


# --- what is rolled out ---


class Shape(NamedTuple):
    """What is rolled out.

    :param kind: ``segment``: of a flag.
    :param enable: the rollout may switch it on.
    :param is_on: it is on at the beginning.
    """

    kind: str = "flag"
    enable: bool = False
    is_on: bool = True

    @property
    def tells_percentages(self) -> bool:
        """Whether its versions do."""
        return self.kind != "experiment"


SHAPES = [
    Shape(kind, enable, is_on)
    for kind in ("flag", "experiment", "segment")
    for enable, is_on in ((False, True), (True, False), (True, True))
]


class Warehouse:
    """What the guardrail sees: a breach at one stage and all later ones."""

    breaks_at: int | None = None


def errors(percentage: int) -> str:
    return "breach" if Warehouse.breaks_at is not None and percentage >= Warehouse.breaks_at else "pass"


@cache
def a_dag(shape: Shape, plan: RolloutPlan, schedule: str | None, **options: Any) -> DAG:
    named = {"experiment_key": KEY} if shape.kind == "experiment" else {"flag_key": KEY}
    segment = SEGMENT if shape.kind == "segment" else None
    with DAG("release", schedule=schedule, start_date=START - timedelta(days=30), catchup=False) as dag:
        staged_rollout(
            **named,
            plan=plan,
            segment=segment,
            guardrails=[errors],
            enable=shape.enable,
            check_every="1h",
            **options,
        )
    return dag


class Rollout:
    """A rollout in a simulated Airflow, and what people do to its object."""

    def __init__(self, shape: Shape, emulator: Any, simulation: Simulation) -> None:
        self.shape, self.emulator, self.airflow = shape, emulator, simulation

    @property
    def object(self) -> dict[str, Any]:
        there = self.emulator.experiment if self.shape.kind == "experiment" else self.emulator.flag
        found: dict[str, Any] = there(KEY)
        return found

    @property
    def stands(self) -> int:
        found = self.object
        of_segment = self.shape.kind == "segment"
        return int(found["targetSegments"][0]["percentage"] if of_segment else found["rolloutPercentage"])

    @property
    def exposure(self) -> int:
        return self.stands if self.object["enabled"] else 0

    def lower(self, to: int) -> None:
        """Lower it by hand."""
        if self.shape.kind == "segment":
            self.emulator.change(KEY, targetSegments=[{**self.object["targetSegments"][0], "percentage": to}])
        else:
            self.emulator.change(KEY, rolloutPercentage=to)

    def switch_off(self) -> None:
        self.emulator.change(KEY, enabled=False)

    @property
    def percentages(self) -> list[int]:
        """What was written, in order."""
        return [percentage_in(each) for each in self.airflow.writes]

    def again(self) -> None:
        """Clear what failed and what is below it, and let it run."""
        airflow = self.airflow
        failed = [task_id for task_id, each in airflow.instances.items() if each.state in ("failed", "upstream_failed")]
        airflow.clear(*failed, "rollout.rollback")
        airflow.finish()


def percentage_in(write: Sent) -> int:
    """Return the percentage of a write that holds nothing else, but for the switch."""
    (value,) = [value for name, value in write.body.items() if name != "enabled"]
    return int(value[0]["percentage"] if isinstance(value, list) else value)


@contextmanager
def a_rollout(
    emulator: Any,
    shape: Shape = SHAPES[0],
    *,
    plan: RolloutPlan = PLAN,
    run_type: str = "manual",
    counts_clears: bool = True,
    socket: bool = False,
    **options: Any,
) -> Iterator[Rollout]:
    """Begin a rollout of an object at 0 %."""
    dag = a_dag(shape, plan, None if run_type == "manual" else "@daily", **options)
    Warehouse.breaks_at = None
    with simulated(dag, emulator, socket=socket, counts_clears=counts_clears) as simulation:
        emulator.reset()
        emulator.options(requests_per_second=None, requests_per_day=None)
        segments = {"targetSegments": [a_segment(SEGMENT, 0)]} if shape.kind == "segment" else {}
        add = emulator.add_experiment if shape.kind == "experiment" else emulator.add_flag
        add(KEY, enabled=shape.is_on, **segments)
        simulation.begin_run(run_type)
        yield Rollout(shape, emulator, simulation)


# --- what happens to it ---


class Step(NamedTuple):
    """The scheduler starts a task, whose worker may die."""

    dies: Death | None

    def happen(self, rollout: Rollout) -> None:
        rollout.airflow.step(self.dies)


class Clear(NamedTuple):
    """Somebody clears tasks, and may have deleted all XComs of the run."""

    tasks: tuple[str, ...]
    forgets: bool

    def happen(self, rollout: Rollout) -> None:
        if self.forgets:
            rollout.airflow.xcoms.clear()
        rollout.airflow.clear(*self.tasks)


class Freeze(NamedTuple):
    """Somebody sets the freeze, or takes it away."""

    frozen: bool

    def happen(self, rollout: Rollout) -> None:
        rollout.airflow.frozen = self.frozen


class NewRun(NamedTuple):
    """A run begins that nobody starts."""

    run_type: str

    def happen(self, rollout: Rollout) -> None:
        rollout.airflow.begin_run(self.run_type)


TASKS = ["begin", *(f"to_{each}.{task}" for each in STAGES for task in ("ramp", "watch")), "rollback"]
ALL = tuple(f"rollout.{task}" for task in TASKS)

shapes = st.sampled_from(SHAPES)
run_types = st.sampled_from(["manual", "scheduled"])
deaths = st.builds(Death, st.integers(0, 5), st.sampled_from(["before", "after"])) | st.just(LAST_MOMENT)
steps = st.builds(Step, st.none() | deaths)
some_tasks = st.lists(st.sampled_from(ALL), min_size=1, max_size=4, unique=True).map(tuple)
clears = st.builds(Clear, some_tasks | st.just(ALL), st.booleans())
freezes = st.builds(Freeze, st.booleans())
new_runs = st.builds(NewRun, st.sampled_from(["scheduled", "asset_triggered"]))


def many(*kinds: Any, most: int = 25) -> Any:
    """Return a strategy for what happens, most of it steps."""
    return st.lists(st.one_of(steps, steps, steps, *kinds), max_size=most)


# --- (1) again is safe ---


@pytest.mark.parametrize("shape", SHAPES)
def test_a_clean_run_writes_each_stage_once(amplitude_emulator, shape):
    with a_rollout(amplitude_emulator, shape) as rollout:
        rollout.airflow.finish()
        assert rollout.percentages == list(STAGES)
        switched_on = [each.body.get("enabled") for each in rollout.airflow.writes]
        assert switched_on == [None if shape.is_on else True, None, None, None]
        assert rollout.exposure == 100


@given(shape=shapes, events=many(), run_type=run_types)
@of(30)
def test_a_rollout_whose_workers_die_writes_what_a_clean_run_writes(amplitude_emulator, shape, events, run_type):
    """Also where a task has no try left and is cleared. Only an experiment, which doesn't tell, may be refused."""
    with a_rollout(amplitude_emulator, shape, run_type=run_type) as rollout:
        for event in events:
            event.happen(rollout)
        rollout.airflow.finish()
        rollout.again()
        assert rollout.percentages == list(STAGES)[: len(rollout.percentages)]
        if shape.tells_percentages:
            assert rollout.percentages == list(STAGES)
        assert_reached_or_refused(rollout)


@given(shape=shapes, events=many(clears), run_type=run_types, counts_clears=st.booleans())
@of(50)
def test_clearing_in_any_order_writes_no_more_than_a_clean_run(
    amplitude_emulator, shape, events, run_type, counts_clears
):
    """Also where somebody deletes the XComs of the run meanwhile."""
    with a_rollout(amplitude_emulator, shape, run_type=run_type, counts_clears=counts_clears) as rollout:
        for event in events:
            event.happen(rollout)
        rollout.airflow.finish()
        rollout.again()
        assert rollout.percentages == list(STAGES)[: len(rollout.percentages)]
        if shape.tells_percentages:
            assert rollout.percentages == list(STAGES)
        assert_reached_or_refused(rollout)


def assert_reached_or_refused(rollout: Rollout) -> None:
    """Everything was written and every task is green, or what is not written is refused, again and again."""
    if rollout.percentages == list(STAGES):
        assert set(rollout.airflow.states.values()) == {"success", "skipped"}
        assert rollout.exposure == 100
        return
    assert "failed" in rollout.airflow.states.values()
    before = rollout.percentages
    rollout.again()
    assert rollout.percentages == before


WHERE = [*(Death(at, when) for at in range(4) for when in ("before", "after")), LAST_MOMENT]


@pytest.mark.parametrize("dies", WHERE)
def test_a_ramp_that_dies_anywhere_is_repaired_by_its_next_try_over_a_real_connection(amplitude_emulator, dies):
    with a_rollout(amplitude_emulator, socket=True) as rollout:
        while (state := rollout.airflow.states["to_10.ramp"]) != "success":
            rollout.airflow.step(dies if state is None and rollout.airflow.states["to_1.watch"] == "success" else None)
        assert rollout.airflow.instances["rollout.to_10.ramp"].try_number == 2
        assert rollout.percentages == [1, 10]
        assert rollout.exposure == 10


@pytest.mark.parametrize("dies", [*WHERE, *(Death(at, when) for at in (4, 5, 6) for when in ("before", "after"))])
def test_other_writing_tasks_that_die_anywhere_write_each_thing_once(amplitude_emulator, dies):
    with DAG("release", schedule=None) as dag:
        create = AmplitudeCreateFlagOperator(task_id="create", key=KEY, name="New", tags=["x"])
        ramp = AmplitudeRampRolloutOperator(task_id="ramp", flag_key=KEY, percentage=25, enable=True)
        create >> ramp >> AmplitudeKillSwitchOperator(task_id="kill", keys=[KEY], kind="flag")
    with simulated(dag, amplitude_emulator) as airflow:
        for task in ("create", "ramp", "kill"):
            while airflow.instances[task].state != "success":
                airflow.step(dies if airflow.instances[task].state is None else None)
        assert [each.method for each in airflow.writes].count("POST") == 1
        assert sum(each.body.get("rolloutPercentage") == 25 for each in airflow.writes) == 1
        assert sum(each.body == {"enabled": False} for each in airflow.writes) == 1
        assert amplitude_emulator.flag(KEY)["enabled"] is False


# --- (2) down stays down ---


class Stop(NamedTuple):
    """Somebody takes an object down, between two tasks or while one runs.

    Not between a ramp's read and its write: Amplitude has no write on condition, so nothing could notice.

    :param share: to which share of where it stands; ``None``: off.
    :param read_back: between a task's write and its read-back, if it writes.
    """

    share: float | None
    read_back: bool

    def happen(self, rollout: Rollout, dies: Death | None) -> bool:
        """Stop it, before the next task or while that runs, and return whether there was anything to stop."""
        if not self.read_back and self.now(rollout):
            return True
        stopped = False

        def meanwhile(methods: Sequence[str]) -> None:
            nonlocal stopped
            if self.read_back and not stopped and methods and methods[-1] == "PATCH":
                stopped = self.now(rollout)

        rollout.airflow.before_request = meanwhile
        rollout.airflow.step(dies if rollout.stands else None)
        rollout.airflow.before_request = lambda _: None
        return stopped

    def now(self, rollout: Rollout) -> bool:
        """Stop it, and return whether there was anything to stop."""
        if not rollout.object["enabled"] or (self.share is not None and not rollout.stands):
            return False
        if self.share is None:
            rollout.switch_off()
        else:
            rollout.lower(int(rollout.stands * self.share))
        return True


stops = st.builds(Stop, st.none() | st.floats(0, 0.99), st.booleans())


@given(
    shape=shapes,
    before=many(clears, most=20),
    stop=stops,
    dies=st.none() | deaths,
    after=many(clears, new_runs, most=15),
    run_type=run_types,
    counts_clears=st.booleans(),
)
@of(80)
def test_what_somebody_took_down_stays_down(
    amplitude_emulator, shape, before, stop, dies, after, run_type, counts_clears
):
    """Whatever is tried again, cleared or scheduled afterwards, with and without XComs."""
    with a_rollout(amplitude_emulator, shape, run_type=run_type, counts_clears=counts_clears) as rollout:
        for event in before:
            event.happen(rollout)
        while not (stopped := stop.happen(rollout, dies)) and not rollout.airflow.is_finished:
            pass
        if not (stopped or stop.now(rollout)):
            return
        left_at, writes = rollout.exposure, len(rollout.percentages)
        for event in after:
            event.happen(rollout)
            assert rollout.exposure <= left_at
        rollout.airflow.finish()
        for event in [Clear(ALL, forgets=False), Clear(ALL, forgets=True), NewRun("scheduled")]:
            event.happen(rollout)
            rollout.airflow.finish()
        assert rollout.percentages[writes:] == []
        assert rollout.exposure == left_at


@pytest.mark.parametrize("run_type", ["scheduled", "asset_triggered"])
@pytest.mark.parametrize("shape", SHAPES)
def test_a_run_that_nobody_starts_does_not_begin_again_what_was_taken_back_to_its_beginning(
    amplitude_emulator, shape, run_type
):
    with a_rollout(amplitude_emulator, shape) as rollout:
        rollout.airflow.finish()
        rollout.lower(0)
        rollout.airflow.begin_run(run_type)
        rollout.airflow.finish()
        assert rollout.exposure == 0
        assert rollout.airflow.states["to_1.ramp"] == "failed"


# --- (3) only upwards in order, only after the bake, only when it may ---


@given(shape=shapes, events=many(clears, freezes, most=40), plan=st.sampled_from([PLAN, OFFICE]))
@of(40)
def test_a_raise_follows_the_stage_before_after_its_bake_in_a_window_and_outside_a_freeze(
    amplitude_emulator, shape, events, plan
):
    with a_rollout(amplitude_emulator, shape, plan=plan) as rollout:
        for event in events:
            event.happen(rollout)
        rollout.airflow.frozen = False
        rollout.airflow.finish()
        writes = rollout.airflow.writes
        assert rollout.percentages == list(STAGES)[: len(writes)]
        for each in writes:
            assert plan.is_open(each.moment)
            assert not each.frozen
        for earlier, later in pairwise(writes):
            assert later.moment - earlier.moment >= plan.stage(percentage_in(earlier)).watched - A_SECOND


@given(shape=shapes, raised=st.integers(0, 3), dies=st.lists(st.none() | deaths, min_size=8, max_size=8))
@of(15)
def test_nothing_is_raised_while_a_freeze_is_set(amplitude_emulator, shape, raised, dies):
    with a_rollout(amplitude_emulator, shape) as rollout:
        while len(rollout.percentages) < raised:
            rollout.airflow.step()
        Freeze(True).happen(rollout)
        for each in dies:
            rollout.airflow.step(each)
        assert len(rollout.percentages) == raised
        Freeze(False).happen(rollout)
        rollout.airflow.finish()
        rollout.again()
        assert rollout.percentages[: raised + 1] == list(STAGES)[: raised + 1]


# --- (4) a breach ---


@given(
    shape=shapes,
    breaks_at=st.sampled_from(STAGES),
    events=many(most=30),
    on_breach=st.sampled_from(["rollback", "off"]),
    after=many(clears, new_runs, most=10),
    passes=st.booleans(),
)
@of(50)
def test_a_breach_leads_to_one_rollback_and_never_up_again(
    amplitude_emulator, shape, breaks_at, events, on_breach, after, passes
):
    with a_rollout(amplitude_emulator, shape, on_breach=on_breach) as rollout:
        Warehouse.breaks_at = breaks_at
        for event in events:
            event.happen(rollout)
        rollout.airflow.finish()
        if rollout.airflow.states[f"to_{breaks_at}.watch"] != "failed" or rollout.exposure:
            rollout.again()  # a task had no try left before it came to that
        raised = [each for each in STAGES if each <= breaks_at]
        assert rollout.exposure == 0
        assert rollout.object["enabled"] is (on_breach == "rollback")
        Warehouse.breaks_at = None if passes else breaks_at
        writes = len(rollout.airflow.writes)
        for event in [*after, Clear(ALL, forgets=False), NewRun("scheduled")]:
            event.happen(rollout)
            rollout.airflow.finish()
            assert rollout.exposure == 0
        assert len(rollout.airflow.writes) == writes == len(raised) + 1


# --- (5) what it costs ---


@given(shape=shapes, events=many(clears), run_type=run_types)
@of(20)
def test_no_task_sends_more_requests_than_it_may(amplitude_emulator, shape, events, run_type):
    with a_rollout(amplitude_emulator, shape, run_type=run_type) as rollout:
        Warehouse.breaks_at = 50
        for event in events:
            event.happen(rollout)
        rollout.airflow.finish()
        for attempt, count in Counter(each.attempt for each in rollout.airflow.sent).items():
            worker = next(each for each in rollout.airflow.sent if each.attempt == attempt)
            assert count <= allowed(worker, run_type)


def allowed(worker: Sent, run_type: str) -> int:
    task = worker.task_id.rsplit(".", 1)[-1]
    if task == "ramp":  # read, variants, PATCH, read back; versions of one that may be overtaken; one for a refusal
        return 4 + (worker.try_number > 1 or run_type != "manual") + 1
    # A watch asks only where the run's records are gone: since when, and by which weights.
    return {"begin": 9, "watch": 3, "rollback": 3}[task]
