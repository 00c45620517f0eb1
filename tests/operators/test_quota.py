"""A 429 that lasts: which tasks wait for it and how, that waiting loses nothing and undoes nobody's stop."""

from __future__ import annotations

import copy
import json
import logging
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import pytest
from airflow.providers.common.compat.sdk import AirflowException, AirflowFailException, TaskDeferred
from hypothesis import given
from hypothesis import strategies as st

from airflow_amplitude_experiment import operators
from airflow_amplitude_experiment.api import AmplitudeRateLimited, _retry, deployments, flags
from airflow_amplitude_experiment.hooks import _analytics_errors
from airflow_amplitude_experiment.operators import _edit, _quota, _way_down
from airflow_amplitude_experiment.operators import ramp as ramp_module
from airflow_amplitude_experiment.operators._base import AmplitudeOperator
from airflow_amplitude_experiment.operators._run import begun
from airflow_amplitude_experiment.operators.begin import AmplitudeBeginRolloutOperator
from airflow_amplitude_experiment.operators.ramp_stage import AmplitudeRampStageOperator
from airflow_amplitude_experiment.operators.rollback import AmplitudeRollbackOperator
from airflow_amplitude_experiment.operators.watch import AmplitudeWatchStageOperator
from airflow_amplitude_experiment.rollout import RolloutPlan
from airflow_amplitude_experiment.triggers import _moments
from tests.builders import a_context_of_an_hour_ago, connect
from tests.dags import loaded
from tests.rollout.test_crashes import PLAN as STAGED
from tests.rollout.test_crashes import SHAPES, STAGES, a_rollout, of, percentage_in
from tests.watched import seen_requests

KEY, EXPERIMENT, GROUP = "new-checkout", "pricing", "group"
PLAN = RolloutPlan.parse("10% 1h, 50% 1h, 100% 0h")
MIDNIGHT = datetime(2026, 11, 23, tzinfo=UTC)
STAGE = {
    "plan": PLAN.as_dict(),
    "percentage": 50,
    "flag_key": KEY,
    "begin": "rollout.begin",
    "ramps": ["rollout.to_10.ramp"],
}


def a_reconcile(**options):
    start = datetime.now(UTC) - timedelta(hours=1, minutes=1)
    return operators.AmplitudeReconcileRolloutOperator(
        task_id="task", flag_key="ticked", plan=PLAN.as_dict(), start=start.isoformat(), **options
    )


TASKS = {
    "ramp": lambda: operators.AmplitudeRampRolloutOperator(task_id="task", flag_key=KEY, percentage=25),
    "stage": lambda: AmplitudeRampStageOperator(task_id="task", **STAGE),
    "begin": lambda: AmplitudeBeginRolloutOperator(task_id="task", flag_key="fresh", plan=PLAN.as_dict(), enable=True),
    "watch": lambda: AmplitudeWatchStageOperator(
        task_id="task", **{**STAGE, "ramps": ["marked by hand"]}, check_every=3600.0, hold_for=0.0
    ),
    "tick": lambda: a_reconcile(),
    "create": lambda: operators.AmplitudeCreateFlagOperator(task_id="task", key="made", name="Made", tags=["x"]),
    "create experiment": lambda: operators.AmplitudeCreateExperimentOperator(task_id="task", key="made"),
    "update": lambda: operators.AmplitudeUpdateOperator(task_id="task", flag_key=KEY, description="new"),
    "weights": lambda: operators.AmplitudeSetVariantWeightsOperator(
        task_id="task", experiment_key="fresh-test", weights={"control": 1, "treatment": 3}
    ),
    "decide": lambda: operators.AmplitudeDecideExperimentOperator(
        task_id="task", experiment_key=EXPERIMENT, decision="rollout", variant="treatment"
    ),
    "archive": lambda: operators.AmplitudeArchiveOperator(task_id="task", flag_key="fresh"),
    "sync": lambda: operators.AmplitudeSyncVariantUsersOperator(
        task_id="task", flag_key="fresh", variant="on", users=["anna", "bob"], mode="add"
    ),
    "mutex": lambda: operators.AmplitudeCreateMutexGroupOperator(
        task_id="task", key="halves", slots=[{"percentage": 50, "experiments": ["fresh-test"]}, {"percentage": 50}]
    ),
    "slot": lambda: operators.AmplitudeUpdateMutexSlotOperator(
        task_id="task", mutex_key=GROUP, slot=1, experiments=["fresh-test"]
    ),
    "deployments": lambda: operators.AmplitudeAssignDeploymentsOperator(
        task_id="task", flag_key="bare", deployments=["default"], mode="add"
    ),
    "call that writes": lambda: operators.AmplitudeApiCallOperator(
        task_id="task", call=deployments.create(project_id="100001", label="shop", type="server")
    ),
    "call that reads": lambda: operators.AmplitudeApiCallOperator(task_id="task", call=flags.get("21001")),
}


@pytest.fixture(autouse=True)
def no_patience(monkeypatch):
    """The client's minute is over at once, and nobody waits between two looks of a task."""
    monkeypatch.setattr(_retry, "PATIENCE", 0.0)
    monkeypatch.setattr(ramp_module, "SECONDS_BEFORE_ANOTHER_LOOK", 0.0)
    monkeypatch.setattr(_edit, "SECONDS_BEFORE_ANOTHER_LOOK", 0.0)
    monkeypatch.setattr(AmplitudeOperator, "log", logging.getLogger("tests.task"))


def fill(emulator):
    """Put there what the tasks work on, and nothing else."""
    emulator.reset()
    emulator.options(requests_per_second=None, requests_per_day=None)
    emulator.add_flag(KEY, enabled=True, rollout_percentage=10)
    emulator.add_flag("fresh")
    weighted = {"variants": ["control", "treatment"], "rollout_weights": {"control": 1, "treatment": 1}}
    emulator.add_flag("ticked", enabled=True)
    emulator.add_flag("bare", deployments=[])
    emulator.add_experiment("fresh-test", evaluation_mode="remote", **weighted)
    emulator.add_experiment(EXPERIMENT, enabled=True, rollout_percentage=40, **weighted)
    emulator.add_mutex(GROUP, slots=[{"percentage": 50}, {"percentage": 50}])
    emulator.clear_requests()
    return emulator


@pytest.fixture
def amplitude(amplitude_emulator, monkeypatch):
    connect(monkeypatch, amplitude_emulator)
    return fill(amplitude_emulator)


def a_context(**options):
    context = a_context_of_an_hour_ago(**options)
    reached = {"stage": 10, "after": 10, "at": (datetime.now(UTC) - timedelta(minutes=50)).isoformat()}
    context["ti"].of_others = {"rollout.to_10.ramp": reached}
    return context


def go(operator, context, resumed=None):
    """Start a task, or resume it as Airflow does, in a new process; return its result, or how it is deferred."""
    operator = copy.copy(operator)
    try:
        if resumed is None:
            return operator.execute(context)
        kwargs = {"event": getattr(resumed.trigger, "event", None), **(resumed.kwargs or {})}
        return operator.resume_execution(resumed.method_name, kwargs, context)
    except TaskDeferred as deferred:
        return deferred


def waits_for_quota(result):
    return isinstance(result, TaskDeferred) and isinstance(result.trigger, _quota.AmplitudeQuotaTrigger)


def to_its_end(operator, context, most=20):
    """Resume a task as often as it waits for the quota; return how often that was."""
    result, waits = go(operator, context), 0
    while waits_for_quota(result):
        waits += 1
        assert waits < most, "it waits for ever"
        result = go(operator, context, result)
    return waits


def there(emulator):
    """What is in Amplitude, without moments and what is drawn at random."""
    hidden = {"createdAt", "lastModifiedAt", "bucketingSalt", "startDate", "endDate"}

    def cleaned(value):
        if isinstance(value, dict):
            return {name: cleaned(each) for name, each in value.items() if name not in hidden}
        return [cleaned(each) for each in value] if isinstance(value, list) else value

    return cleaned(emulator.state())


def writes(emulator):
    return [
        (each["method"], each["path"], json.dumps(each["body"]))
        for each in emulator.requests()
        if each["method"] != "GET" and each["status"] < 300
    ]


@contextmanager
def refusing(monkeypatch, emulator, *refused):
    """Let Amplitude answer those requests, counted from 0 over the whole task, with 429."""
    counted = iter(range(10_000))

    def refuse(endpoint):
        if next(counted) in refused:
            emulator.fault("rate_limit")

    with seen_requests(monkeypatch) as seen:
        seen.before = refuse
        yield


# --- every task waits, and does what it would have done ------------------------------------------------------


@pytest.mark.parametrize("kind", TASKS)
def test_wherever_a_task_meets_the_quota_it_goes_on_to_what_an_undisturbed_one_does(amplitude, monkeypatch, kind):
    to_its_end(TASKS[kind](), a_context())
    wanted, sent, count = there(amplitude), writes(amplitude), len(amplitude.requests())
    assert count
    for at in range(count):
        fill(amplitude)
        with refusing(monkeypatch, amplitude, at):
            waits = to_its_end(TASKS[kind](), a_context())
        assert [each["status"] for each in amplitude.requests()].count(429) == 1
        assert waits == 1 or kind == "call that writes"  # whose read-back is no more than a courtesy
        assert there(amplitude) == wanted
        assert writes(amplitude) == sent


@pytest.mark.parametrize("kind", TASKS)
def test_a_task_that_meets_it_first_of_all_waits_without_a_slot_and_writes_nothing(amplitude, kind):
    amplitude.options(requests_per_day=0)
    before = there(amplitude)
    assert waits_for_quota(go(TASKS[kind](), a_context()))
    assert there(amplitude) == before
    assert writes(amplitude) == []


def test_every_operator_is_tested_here_or_never_waits():
    """A new operator has to say which."""
    public = {name for name in operators.__all__ if issubclass(getattr(operators, name), AmplitudeOperator)}
    tested = {type(build()).__name__ for build in TASKS.values()}
    alike = {
        "AmplitudeSyncVariantCohortsOperator",  # as that of users
        "AmplitudeCreateHoldoutGroupOperator",  # as those of mutex groups
        "AmplitudeUpdateHoldoutGroupOperator",
    }
    assert public <= tested | alike | {"AmplitudeKillSwitchOperator"}


# --- how it waits ----------------------------------------------------------------------------------------------


@pytest.fixture
def moment(monkeypatch):
    """The time as deferring tells it, without chance."""
    clock = SimpleNamespace(now=datetime(2026, 11, 22, 12, tzinfo=UTC))
    monkeypatch.setattr(_quota, "now", lambda: clock.now)
    monkeypatch.setattr(_moments, "random", SimpleNamespace(uniform=lambda low, high: low if low >= 1 else 1.0))
    return clock


def pause(deferred, moment):
    return datetime.fromisoformat(deferred.trigger.look_at) - moment.now


def test_each_time_a_task_meets_the_quota_again_it_waits_longer_up_to_an_hour(amplitude, moment):
    amplitude.options(requests_per_day=0)
    context, result, pauses = a_context(), None, []
    for _ in range(6):
        result = go(TASKS["ramp"](), context, result)
        pauses.append(pause(result, moment) / timedelta(minutes=1))
    assert pauses == [5, 10, 20, 40, 60, 60]


def test_a_new_day_begins_with_a_short_wait(amplitude, moment):
    amplitude.options(requests_per_day=0)
    context, result = a_context(), None
    for _ in range(4):
        result = go(TASKS["ramp"](), context, result)
    moment.now += timedelta(days=1)
    assert pause(go(TASKS["ramp"](), context, result), moment) == timedelta(minutes=5)


def test_no_wait_is_longer_than_until_five_minutes_after_midnight(amplitude, moment):
    amplitude.options(requests_per_day=0)
    moment.now = MIDNIGHT - timedelta(minutes=2)
    assert timedelta(0) < pause(go(TASKS["ramp"](), a_context()), moment) <= timedelta(minutes=7)


def test_a_task_is_never_resumed_before_airflow_can_take_it(amplitude, moment):
    amplitude.options(requests_per_day=0)
    moment.now = MIDNIGHT - timedelta(seconds=1)
    assert pause(go(TASKS["ramp"](), a_context()), moment) >= timedelta(seconds=5)


def test_the_log_says_what_was_refused_that_nothing_is_lost_and_when_it_looks_again(amplitude, moment, caplog):
    amplitude.options(requests_per_day=0)
    go(TASKS["ramp"](), a_context())
    (line,) = [each.getMessage() for each in caplog.records if "429" in each.getMessage()]
    for words in (
        "GET /api/1/flags answered 429",
        "Nothing is lost, and no retry is used up",
        "looks again at 2026-11-22 12:05:00Z",
        "at the latest just after 00:00 UTC",
    ):
        assert words in line


def test_airflow_ends_no_such_wait_by_a_time_limit_of_ours(amplitude):
    amplitude.options(requests_per_day=0)
    assert go(TASKS["ramp"](), a_context()).timeout is None


@pytest.mark.parametrize("project", ["100001", " 100001 ", 100001])
def test_it_looks_at_the_project_that_the_task_names(amplitude, project):
    amplitude.options(requests_per_day=0)
    ramp = operators.AmplitudeRampRolloutOperator(task_id="task", flag_key=KEY, percentage=25, project_id=project)
    assert go(ramp, a_context()).trigger.project_id == "100001"
    assert go(TASKS["ramp"](), a_context()).trigger.project_id is None


def test_no_key_is_in_what_airflow_stores(amplitude, caplog):
    caplog.set_level(logging.DEBUG)
    amplitude.fault("status", status=429, body=f"slow down, {amplitude.management_key}")
    context = a_context()
    deferred = go(TASKS["ramp"](), context)
    assert "slow down" in caplog.text
    shown = f"{deferred.trigger.serialize()}{deferred.kwargs}{context['ti'].xcoms}{caplog.text}"
    assert amplitude.management_key not in shown


DAG_FILE = """
from airflow.sdk import DAG
from airflow_amplitude_experiment.operators import AmplitudeRampRolloutOperator

with DAG("waits_for_quota", schedule=None, default_args={"retries": 0}) as dag:
    AmplitudeRampRolloutOperator.partial(task_id="ramp", flag_key="new-checkout").expand(percentage=[25])
"""


def test_a_run_of_dag_test_waits_too_and_goes_on_without_a_retry(amplitude, monkeypatch, airflow_db):
    from airflow_amplitude_experiment.triggers import _quota as trigger_module

    clock = SimpleNamespace(ahead=timedelta(0))

    async def pass_by(seconds):
        clock.ahead += timedelta(seconds=seconds)
        amplitude.options(requests_per_day=None)

    monkeypatch.setattr(trigger_module, "now", lambda: datetime.now(UTC) + clock.ahead)
    monkeypatch.setattr(trigger_module, "sleep", pass_by)
    amplitude.options(requests_per_day=1)  # the flag is read, and can't be written
    run = loaded(airflow_db, "waits_for_quota", DAG_FILE).test()
    (task,) = run.get_task_instances()
    assert str(run.state) == "success"
    assert (task.state, task.try_number) == ("success", 1)
    assert clock.ahead > timedelta(minutes=1)
    assert amplitude.flag(KEY)["rolloutPercentage"] == 25
    answered = [each for each in amplitude.requests() if each["status"] < 300 and each["query"].get("limit") != "1"]
    assert [each["method"] for each in answered[-4:]] == ["GET", "GET", "PATCH", "GET"]
    assert answered[-3]["path"].endswith("/versions")  # as in a second try: did somebody stop it meanwhile?
    assert len(writes(amplitude)) == 1


# --- a task that had waited for something else ---------------------------------------------------------------


class Waits(AmplitudeOperator):
    """Waits for something first, as operators of a rollout do, and asks Amplitude afterwards."""

    def act(self, context):
        raise AssertionError("it is resumed with another method")

    def go_on(self, context, event, held):
        self.execute_complete(context, {"event": event, "held": held})

    def execute_complete(self, context, event=None):
        self.told = event
        return super().execute_complete(context)


def test_what_it_had_waited_for_is_told_again_to_the_same_method(monkeypatch):
    told = []

    def act(self, context):
        told.append(self.told)
        if len(told) < 3:
            raise AmplitudeRateLimited("no", status=429, method="GET", path="/api/1/flags")
        return "done"

    monkeypatch.setattr(Waits, "act", act)
    context = a_context()
    first = SimpleNamespace(
        trigger=SimpleNamespace(event={"approval": "success"}), method_name="go_on", kwargs={"held": "a freeze"}
    )
    second = go(Waits(task_id="task"), context, first)
    third = go(Waits(task_id="task"), context, second)
    assert (second.method_name, second.kwargs, second.trigger.event) == (
        "go_on",
        {"held": "a freeze"},
        {"approval": "success"},
    )
    assert (third.method_name, third.kwargs, third.trigger.event) == ("go_on", second.kwargs, second.trigger.event)
    go(Waits(task_id="task"), context, third)
    assert told == [{"event": {"approval": "success"}, "held": "a freeze"}] * 3


def test_a_failed_trigger_is_still_a_failure_that_airflow_tries_again(amplitude):
    with pytest.raises(AirflowException, match="unforeseen"):
        TASKS["ramp"]().resume_execution("__fail__", {"error": "unforeseen"}, a_context())


def test_a_worker_that_runs_a_task_again_does_not_remember_the_wait_before(amplitude):
    """As in ``dag.test()``, where all tries of a task share one operator."""
    operator, context = TASKS["ramp"](), a_context()
    operator.resume_execution("execute_complete", {"event": "an old one"}, context)
    amplitude.options(requests_per_day=0)
    with pytest.raises(TaskDeferred) as deferred:
        operator.execute(context)
    assert deferred.value.trigger.event is None


# --- what doesn't wait -----------------------------------------------------------------------------------------


def kill(**options):
    return operators.AmplitudeKillSwitchOperator(task_id="kill", keys=[KEY], kind="flag", **options)


def rollback(**options):
    return AmplitudeRollbackOperator(task_id="rollback", flag_key=KEY, watches=["watch"], **options)


def after_a_breach(emulator):
    context = a_context()
    breach = {
        "verdict": "breach",
        "reason": "errors",
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "stage": 10,
        "guardrails": [],
        "kind": "flag",
        "key": KEY,
        "id": emulator.flag(KEY)["id"],
        "project_id": "100001",
        "segment": None,
    }
    context["ti"].of_others[("watch", "verdict")] = breach
    context["ti"].states["watch"] = "failed"
    return context


@pytest.fixture
def way_down(monkeypatch):
    """Time that passes only between two tries of the way down."""
    clock = SimpleNamespace(now=MIDNIGHT - timedelta(minutes=2), pauses=[])

    def pass_by(stop, seconds):
        clock.pauses.append(seconds)
        clock.now += timedelta(seconds=seconds)

    monkeypatch.setattr(_way_down, "now", lambda: clock.now)
    monkeypatch.setattr(_way_down, "pause", pass_by)
    return clock


@pytest.mark.parametrize("build", [kill, rollback])
def test_the_way_down_never_waits_for_the_quota_but_tries_every_few_seconds(amplitude, way_down, build):
    amplitude.fault("rate_limit", times=50, retry_after=3600)
    build().execute(after_a_breach(amplitude))
    found = amplitude.flag(KEY)
    assert not found["enabled"] or found["rolloutPercentage"] == 0
    assert max(way_down.pauses) <= _way_down.LONGEST_RETRY_AFTER


def test_a_call_without_guards_fails_rather_than_to_go_out_hours_later_whatever_people_stopped(amplitude):
    call = flags.update(amplitude.flag(KEY)["id"], enabled=True, rollout_percentage=50)
    amplitude.options(requests_per_day=0)
    with pytest.raises(AmplitudeRateLimited):
        operators.AmplitudeApiCallOperator(task_id="task", call=call, unguarded="a test").execute(a_context())
    assert writes(amplitude) == []


@pytest.mark.parametrize("build", [kill, rollback])
def test_the_way_down_that_is_refused_beyond_its_deadline_fails_and_is_not_deferred(amplitude, way_down, build):
    amplitude.options(requests_per_day=0)
    with pytest.raises((AirflowException, AmplitudeRateLimited)) as failure:
        build(rollback_deadline=60.0).execute(after_a_breach(amplitude))
    assert not isinstance(failure.value, AirflowFailException)
    assert way_down.now >= MIDNIGHT + timedelta(minutes=5)


@pytest.mark.parametrize("build", [kill, rollback])
def test_not_even_a_429_that_slips_through_defers_the_way_down(amplitude, monkeypatch, build):
    def act(self, context):
        raise AmplitudeRateLimited("no", status=429, method="GET", path="/api/1/flags")

    monkeypatch.setattr(type(build()), "act", act)
    with pytest.raises(AmplitudeRateLimited):
        build().execute(after_a_breach(amplitude))


@pytest.mark.parametrize("error", ["ChartRateLimited", "CohortRateLimited"])
def test_another_api_of_amplitude_has_limits_of_its_own(amplitude, monkeypatch, error):
    refusal = getattr(_analytics_errors, error)("wait", status=429, method="GET", path="/api/3/chart")

    def act(self, context):
        raise refusal

    monkeypatch.setattr(operators.AmplitudeRampRolloutOperator, "act", act)
    with pytest.raises(AmplitudeRateLimited):
        TASKS["ramp"]().execute(a_context())


@pytest.mark.parametrize("status", [400, 401, 403, 404])
def test_what_can_not_heal_ends_a_resumed_task_for_good(amplitude, status):
    amplitude.fault("rate_limit")
    context = a_context()
    deferred = go(TASKS["ramp"](), context)
    amplitude.fault("status", status=status, body="because", times=None)
    with pytest.raises(AirflowFailException, match="because"):
        go(TASKS["ramp"](), context, deferred)


# --- the laws hold over the wait -------------------------------------------------------------------------------


def test_a_resumed_task_counts_as_another_try_although_airflow_counts_none(amplitude):
    context = a_context()
    assert begun(context).again is False
    amplitude.fault("rate_limit")
    go(TASKS["ramp"](), context)
    assert begun(context).again is True
    assert context["ti"].try_number == 1


def test_only_the_task_itself_counts_as_another_try(amplitude):
    amplitude.fault("rate_limit")
    context = a_context()
    go(TASKS["ramp"](), context)
    other = a_context(task_id="other")
    other["ti"].of_others = {("task", key): value for key, value in context["ti"].xcoms.items()}
    assert begun(other).again is False


@pytest.mark.parametrize("stop", [{"rolloutPercentage": 10}, {"rolloutPercentage": 0}, {"enabled": False}])
def test_what_somebody_took_down_during_the_wait_stays_down(amplitude, monkeypatch, stop):
    """The raise was written and its read-back refused; before the task goes on, on-call takes the flag down."""
    context = a_context()
    with refusing(monkeypatch, amplitude, 2):
        deferred = go(TASKS["ramp"](), context)
    assert amplitude.flag(KEY)["rolloutPercentage"] == 25
    amplitude.change(KEY, **stop)
    with pytest.raises(AirflowFailException):
        go(TASKS["ramp"](), context, deferred)
    assert {name: amplitude.flag(KEY)[name] for name in stop} == stop


def test_a_flag_that_somebody_else_made_during_the_wait_is_not_taken_for_the_tasks_own(amplitude, monkeypatch):
    context = a_context()
    amplitude.fault("rate_limit")
    deferred = go(TASKS["create"](), context)
    amplitude.add_flag("made", name="Another", enabled=True, rollout_percentage=50)
    with pytest.raises(AirflowFailException):
        go(TASKS["create"](), context, deferred)
    assert amplitude.flag("made")["name"] == "Another"


def test_what_somebody_raised_while_a_rollout_waited_to_begin_is_refused_as_without_a_wait(amplitude):
    context = a_context()
    amplitude.fault("rate_limit")
    deferred = go(TASKS["begin"](), context)
    amplitude.change("fresh", enabled=True, rolloutPercentage=50)
    for resumed, began in ((deferred, context), (None, a_context())):
        with pytest.raises(AirflowFailException, match="50 %"):
            go(TASKS["begin"](), began, resumed)


shapes = st.sampled_from(SHAPES)
refusals = st.lists(st.integers(0, 30), max_size=8).map(set)


def run_through(rollout, refused, meanwhile=lambda: False):
    """Run a whole rollout, of whose requests some are refused; ``meanwhile`` says when to stop looking."""

    def refuse(methods):
        if len(rollout.airflow.sent) in refused:
            rollout.emulator.fault("rate_limit")

    rollout.airflow.before_request = refuse
    while rollout.airflow.step() and not meanwhile():
        pass


@given(shape=shapes, refused=refusals)
@of(25)
def test_a_rollout_whose_requests_are_refused_writes_what_a_clean_one_writes(amplitude_emulator, shape, refused):
    with a_rollout(amplitude_emulator, shape, plan=STAGED) as rollout:
        run_through(rollout, refused)
        assert all(each.try_number <= 1 for each in rollout.airflow.instances.values())
        written = [
            percentage_in(each)
            for number, each in enumerate(rollout.airflow.sent)
            if each.writes and number not in refused
        ]
        assert written == list(STAGES)[: len(written)]
        if shape.tells_percentages:
            assert written == list(STAGES)
            assert set(rollout.airflow.states.values()) == {"success", "skipped"}
            assert rollout.exposure == 100


@given(shape=shapes, refused=refusals.filter(bool), share=st.none() | st.floats(0, 0.99))
@of(40)
def test_what_is_taken_down_while_a_task_of_a_rollout_waits_stays_down(amplitude_emulator, shape, refused, share):
    with a_rollout(amplitude_emulator, shape, plan=STAGED) as rollout:

        def waits():
            deferred = [each.waits for each in rollout.airflow.instances.values() if each.state == "deferred"]
            return any(map(waits_for_quota, deferred)) and rollout.exposure > 0

        run_through(rollout, refused, meanwhile=waits)
        if not waits():
            return
        if share is None:
            rollout.switch_off()
        else:
            rollout.lower(int(rollout.stands * share))
        left_at, written = rollout.exposure, len(rollout.percentages)
        rollout.airflow.finish()
        rollout.again()
        assert rollout.exposure == left_at
        assert len(rollout.percentages) == written
