"""Watching a stage: when it looks, what it lets through, what it holds, and what ends it."""

from __future__ import annotations

import json
import logging
from datetime import UTC, datetime, timedelta

import pytest
from airflow.providers.common.compat.sdk import AirflowFailException, TaskDeferred
from airflow.providers.standard.triggers.temporal import DateTimeTrigger

from airflow_amplitude_experiment.operators import watch as module
from airflow_amplitude_experiment.operators.watch import AmplitudeWatchStageOperator
from airflow_amplitude_experiment.rollout import RolloutPlan, ThresholdGuardrail
from airflow_amplitude_experiment.rollout.guardrails import callables, described
from airflow_amplitude_experiment.triggers.approval import AmplitudeApprovalTrigger
from tests.builders import a_context

SINCE = datetime(2026, 11, 20, 12, tzinfo=UTC)
PLAN = RolloutPlan.parse("1% 2h, 10% 4h, 100%")
RAMP, APPROVE = "rollout.to_10.ramp", "rollout.to_10.approve"
BEGUN = {"kind": "flag", "key": "new-checkout", "id": "7", "project_id": "100001", "weights": {"on": 1}}


class Clock:
    """Tells the time that a test sets."""

    def __init__(self):
        self.hours = 0.0

    def __call__(self):
        return SINCE + timedelta(hours=self.hours)


@pytest.fixture
def clock(monkeypatch):
    fake = Clock()
    monkeypatch.setattr(module, "now", fake)
    return fake


@pytest.fixture(autouse=True)
def log_of_the_task(monkeypatch, caplog):
    """Airflow 3.3 writes a task's log past ``logging``, where ``caplog`` doesn't see it."""
    monkeypatch.setattr(AmplitudeWatchStageOperator, "log", logging.getLogger("the task's log"))
    caplog.set_level(logging.INFO)


class Watching:
    """One watch of the stage 10 %, driven as Airflow drives it: execute, then execute_complete after each wait."""

    def __init__(self, clock, *verdicts, percentage=10, records=None, **options):
        self.clock = clock
        self.asked_at = []
        self.verdicts = list(verdicts)
        options = {"check_every": 3600.0, "hold_for": 7200.0, **options}
        guarded = [self.errors] if verdicts else []
        self.operator = AmplitudeWatchStageOperator(
            task_id="watch",
            flag_key="new-checkout",
            plan=options.pop("plan", PLAN).as_dict(),
            percentage=percentage,
            begin="rollout.begin",
            ramps=["rollout.to_1.ramp", RAMP],
            guardrails=described(guarded),
            counted=described(guarded),
            callables=callables(guarded),
            **options,
        )
        self.context = a_context(task_id="watch")
        self.instance = self.context["ti"]
        self.instance.of_others = {
            "rollout.begin": BEGUN,
            "rollout.to_1.ramp": {"stage": 1, "after": 1, "at": (SINCE - timedelta(hours=2)).isoformat()},
            RAMP: {"stage": 10, "after": 10, "at": SINCE.isoformat()},
            **(records or {}),
        }
        self.started = False

    def errors(self):
        """The guardrail: the next verdict, or the last one for ever."""
        self.asked_at.append(self.clock.hours)
        return self.verdicts.pop(0) if len(self.verdicts) > 1 else self.verdicts[0]

    def step(self):
        """Run until the task waits (its trigger) or ends (its result)."""
        go = self.operator.execute_complete if self.started else self.operator.execute
        self.started = True
        try:
            return go(self.context)
        except TaskDeferred as deferred:
            return deferred.trigger

    def until_it_ends(self, most=100):
        for _ in range(most):
            result = self.step()
            if isinstance(result, dict):
                return result
            self.clock.hours = (result.moment - SINCE).total_seconds() / 3600
        raise AssertionError("it never ends")

    @property
    def verdict(self):
        return self.instance.xcoms.get("verdict")


# --- when it looks ---


def test_it_looks_on_a_grid_from_the_ramp_on_and_last_exactly_when_the_bake_is_over(clock):
    watching = Watching(clock, "pass", check_every=5400.0)
    assert watching.until_it_ends()["verdict"] == "pass"
    assert watching.asked_at == [1.5, 3.0, 4.0]


def test_between_looks_it_is_deferred_without_a_worker_slot(clock):
    trigger = Watching(clock, "pass").step()
    assert isinstance(trigger, DateTimeTrigger)
    assert trigger.moment == SINCE + timedelta(hours=1)


def test_a_stage_without_guardrails_waits_once_until_its_bake_is_over(clock):
    watching = Watching(clock)
    assert watching.step().moment == SINCE + timedelta(hours=4)
    clock.hours = 4
    assert watching.step()["verdict"] == "pass"


def test_the_bake_counts_from_the_ramp_not_from_the_start_of_the_watch(clock):
    clock.hours = 3.5
    watching = Watching(clock, "pass")
    assert watching.until_it_ends()["verdict"] == "pass"
    assert watching.asked_at == [3.5, 4.0]


def test_a_watch_that_comes_after_the_bake_looks_once_and_decides(clock):
    clock.hours = 30
    watching = Watching(clock, "pass")
    assert watching.step()["looks"] == 1


def test_a_wake_up_before_its_time_looks_not_and_shortens_nothing(clock):
    watching = Watching(clock, "pass")
    watching.step()
    clock.hours = 0.99
    assert watching.step().moment == SINCE + timedelta(hours=1)
    assert watching.asked_at == []


def test_it_never_waits_so_shortly_that_airflow_resumes_it_before_it_has_ended(clock):
    watching = Watching(clock, "pass")
    clock.hours = 0.9999
    assert watching.step().moment == clock() + timedelta(seconds=5)


def test_a_wait_that_was_too_long_moves_no_later_look(clock):
    watching = Watching(clock, "pass")
    watching.step()
    clock.hours = 2.7
    assert watching.step().moment == SINCE + timedelta(hours=3)
    assert watching.asked_at == [2.7]


# --- what it lets through, and what not ---


def test_a_pass_before_the_end_of_the_bake_lets_nothing_through(clock):
    watching = Watching(clock, "pass", "pass", "pass", "inconclusive", "breach")
    with pytest.raises(AirflowFailException, match="breach"):
        watching.until_it_ends()
    assert watching.asked_at[3] == 4.0


@pytest.mark.parametrize("doubt", ["inconclusive", "no_data"])
def test_a_doubt_during_the_bake_is_no_news(clock, doubt, caplog):
    watching = Watching(clock, doubt, doubt, doubt, "pass")
    assert watching.until_it_ends()["verdict"] == "pass"
    assert "is held" not in caplog.text


@pytest.mark.parametrize("doubt", ["inconclusive", "no_data"])
def test_a_doubt_after_the_bake_holds_until_it_passes(clock, doubt, caplog):
    watching = Watching(clock, doubt, doubt, doubt, doubt, doubt, "pass")
    assert watching.until_it_ends()["verdict"] == "pass"
    assert watching.asked_at == [1, 2, 3, 4, 5, 6]
    assert f"is held: {doubt}" in caplog.text


@pytest.mark.parametrize("doubt", ["inconclusive", "no_data"])
def test_a_hold_that_runs_out_fails_where_it_stands_after_a_last_look(clock, doubt):
    watching = Watching(clock, doubt, hold_for=5400.0)
    with pytest.raises(AirflowFailException, match="held for 1h 30m") as failure:
        watching.until_it_ends()
    assert watching.asked_at[-1] == 5.5
    assert watching.verdict["verdict"] == doubt
    assert "stays at 10 %" in str(failure.value)


def test_a_breach_ends_it_at_once_with_its_verdict_pushed(clock):
    watching = Watching(clock, "pass", "breach")
    with pytest.raises(AirflowFailException, match="Guardrail breach, flag new-checkout at 10 %"):
        watching.until_it_ends()
    verdict = watching.verdict
    assert watching.asked_at == [1, 2]
    assert (verdict["verdict"], verdict["stage"], verdict["id"], verdict["looks"]) == ("breach", 10, "7", 2)
    assert datetime.fromisoformat(verdict["at"]) == SINCE + timedelta(hours=2)
    assert [each["name"] for each in verdict["guardrails"]] == ["errors"]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({}, "Task rollback takes it to 0 % now"),
        ({"rollback_to": 1}, "Task rollback takes it to 1 % now"),
        ({"rollback_to": "off"}, "Task rollback takes it off now"),
        ({"on_breach": "off"}, "Task rollback takes it off now"),
        ({"on_breach": "hold"}, "nothing is written, it stays at 10 %"),
    ],
)
def test_a_breach_says_what_follows(clock, options, says):
    with pytest.raises(AirflowFailException, match=says):
        Watching(clock, "breach", **options).until_it_ends()


def test_the_verdict_is_plain_json_and_the_result(clock):
    watching = Watching(clock, "pass")
    assert watching.until_it_ends() == watching.verdict
    assert json.loads(json.dumps(watching.verdict)) == watching.verdict


def test_each_look_tells_each_guardrails_verdict(clock, caplog):
    Watching(clock, "pass", "inconclusive", "pass").until_it_ends()
    assert caplog.text.count("errors: pass") == 3
    assert caplog.text.count("errors: inconclusive") == 1


def test_a_query_that_fails_is_no_verdict_of_the_metric(clock):
    broken = ThresholdGuardrail(
        "errors", sql="select 1 where :stage_start < :stage_end", conn_id="no_such_connection", above=1
    )
    watching = Watching(clock)
    watching.operator.guardrails = watching.operator.counted = described([broken])
    clock.hours = 4
    assert isinstance(watching.step(), DateTimeTrigger)
    assert watching.instance.xcoms["looks"]["verdict"] == "inconclusive"


def test_a_watch_that_comes_late_holds_as_long_as_any_other(clock):
    """After two days without a scheduler it had not looked once."""
    clock.hours = 100
    watching = Watching(clock, "inconclusive", "inconclusive", "pass")
    assert watching.until_it_ends()["verdict"] == "pass"
    assert watching.asked_at == [100, 101, 102]


def test_a_hold_begins_anew_after_a_pass(clock, monkeypatch):
    monkeypatch.setenv("AIRFLOW_VAR_AMPLITUDE_EXPERIMENT_FREEZE", '["*"]')
    verdicts = ["pass", "pass", "pass", "inconclusive", "pass", "inconclusive", "inconclusive", "inconclusive"]
    watching = Watching(clock, *verdicts, before_a_raise=True, hold_for=7200.0)
    with pytest.raises(AirflowFailException, match="held for 2h"):
        watching.until_it_ends()
    assert watching.asked_at == [1, 2, 3, 4, 5, 6, 7, 8]


# --- while the next raise is held back ---


def windowed(opens_after):
    """The plan, frozen until so many hours after the stage was reached."""
    return RolloutPlan.parse("1% 2h, 10% 4h, 100%", freezes=[(SINCE, SINCE + timedelta(hours=opens_after))])


def test_while_windows_hold_the_next_raise_back_it_goes_on_looking(clock, caplog):
    watching = Watching(clock, "pass", before_a_raise=True, plan=windowed(6.5))
    assert watching.until_it_ends()["verdict"] == "pass"
    assert watching.asked_at == [1, 2, 3, 4, 5, 6, 6.5]
    assert caplog.text.count("watched on, because the next raise waits: the plan's windows open next at") == 1


def test_a_breach_while_the_next_raise_is_held_back_ends_it(clock):
    watching = Watching(clock, "pass", "pass", "pass", "pass", "pass", "breach", before_a_raise=True, plan=windowed(72))
    with pytest.raises(AirflowFailException, match="breach"):
        watching.until_it_ends()
    assert watching.asked_at[-1] == 6


def test_while_the_freeze_names_it_it_goes_on_looking_and_asks_every_five_minutes(clock, monkeypatch):
    monkeypatch.setenv("AIRFLOW_VAR_AMPLITUDE_EXPERIMENT_FREEZE", '["new-*"]')
    clock.hours = 4
    watching = Watching(clock, "pass", before_a_raise=True)
    for _ in range(13):
        clock.hours = (watching.step().moment - SINCE).total_seconds() / 3600
    assert watching.asked_at == [4, pytest.approx(5)]
    monkeypatch.setenv("AIRFLOW_VAR_AMPLITUDE_EXPERIMENT_FREEZE", "[]")
    assert watching.step()["verdict"] == "pass"
    assert watching.asked_at[-1] == clock.hours, "it looks once more before the raise"


@pytest.mark.parametrize("options", [{"before_a_raise": False}, {"before_a_raise": True, "plan": PLAN}])
def test_nothing_holds_a_stage_that_no_raise_follows_or_that_may_go_up(clock, options):
    options = {"plan": windowed(72), **options}
    assert Watching(clock, "pass", **options).until_it_ends()["looks"] == 4


def test_without_guardrails_there_is_nothing_to_go_on_looking_at(clock):
    clock.hours = 4
    assert Watching(clock, before_a_raise=True, plan=windowed(72)).step()["verdict"] == "pass"


# --- after the stage was passed, cleared or lost ---


def test_a_stage_below_start_at_is_not_watched(clock):
    below = {RAMP: {"stage": 10, "below_start": True, "written": False}}
    result = Watching(clock, "breach", records=below).step()
    assert (result["verdict"], result["looks"]) == ("pass", 0)


def test_a_cleared_watch_passes_where_the_object_stands_on_a_later_stage(clock):
    passed = {RAMP: {"stage": 10, "after": 100, "at": SINCE.isoformat()}}
    assert Watching(clock, "breach", records=passed).step()["verdict"] == "pass"


@pytest.mark.parametrize(("stands", "ends_at_once"), [(10, False), (100, True), (0, False)])
def test_without_the_ramps_record_the_object_is_read(clock, amplitude_emulator, monkeypatch, stands, ends_at_once):
    connection = amplitude_emulator.airflow_connection(requests_per_second=100)
    monkeypatch.setenv("AIRFLOW_CONN_AMPLITUDE_EXPERIMENT_DEFAULT", connection)
    amplitude_emulator.add_flag("new-checkout", enabled=True, rolloutPercentage=stands)
    changed = datetime.fromisoformat(amplitude_emulator.flag("new-checkout")["lastModifiedAt"])
    watching = Watching(clock, "pass", records={RAMP: None})
    clock.hours = (changed - SINCE).total_seconds() / 3600
    result = watching.step()
    assert isinstance(result, dict) is ends_at_once
    if not ends_at_once:
        assert result.moment == changed + timedelta(hours=1)
    assert {request["method"] for request in amplitude_emulator.requests()} == {"GET"}


def test_with_the_records_gone_it_reads_what_the_guardrails_need(clock, amplitude_emulator, monkeypatch):
    connection = amplitude_emulator.airflow_connection(requests_per_second=100)
    monkeypatch.setenv("AIRFLOW_CONN_AMPLITUDE_EXPERIMENT_DEFAULT", connection)
    amplitude_emulator.add_flag("new-checkout", enabled=True, rolloutPercentage=10)
    watching = Watching(clock, "pass", records={"rollout.begin": None})
    assert watching.until_it_ends()["verdict"] == "pass"


def test_what_the_guardrails_remember_goes_from_look_to_look_and_stage_to_stage(clock, monkeypatch):
    given = []

    def remembering(guardrails, *, memory, **more):
        from airflow_amplitude_experiment.operators._look import Look

        given.append(dict(memory))
        return Look(verdict="pass", reason="fine", guardrails=[], memory={"looks": memory.get("looks", 0) + 1})

    monkeypatch.setattr("airflow_amplitude_experiment.operators._look.look", remembering)
    before = {("rollout.to_1.watch", "looks"): {"memory": {"looks": 5}}}
    Watching(clock, "pass", watches=["rollout.to_1.watch"], records=before).until_it_ends()
    assert given == [{"looks": 5}, {"looks": 6}, {"looks": 7}, {"looks": 8}]


def stages_seen(clock, monkeypatch, **options):
    """Return the stages that one look was given."""
    seen = []

    def looking(guardrails, *, stages, memory, **more):
        from airflow_amplitude_experiment.operators._look import Look

        seen.append((list(stages), memory))
        return Look(verdict="pass", reason="fine", guardrails=[], memory={})

    monkeypatch.setattr("airflow_amplitude_experiment.operators._look.look", looking)
    clock.hours = 4
    Watching(clock, "pass", **options).step()
    ((stages, memory),) = seen
    return [(each.percentage, each.previous, each.start, each.end) for each in stages], memory


def test_the_evidence_of_earlier_stages_counts_until_the_next_write(clock, monkeypatch):
    stages, _ = stages_seen(clock, monkeypatch)
    assert stages == [(1, 0, SINCE - timedelta(hours=2), SINCE), (10, 1, SINCE, None)]


def test_a_stage_below_start_at_gives_no_evidence(clock, monkeypatch):
    below = {"rollout.to_1.ramp": {"stage": 1, "below_start": True}}
    stages, _ = stages_seen(clock, monkeypatch, records=below, start_at=5)
    assert stages == [(10, 5, SINCE, None)]


def test_after_a_change_that_was_taken_on_the_evidence_starts_anew(clock, monkeypatch):
    anew = {
        RAMP: {"stage": 10, "after": 10, "at": SINCE.isoformat(), "evidence_anew": "weights"},
        ("rollout.to_1.watch", "looks"): {"memory": {"looks": 5}},
    }
    stages, memory = stages_seen(clock, monkeypatch, records=anew, watches=["rollout.to_1.watch"])
    assert stages == [(10, 1, SINCE, None)]
    assert memory == {}


# --- beside an approval ---


def beside(clock, *verdicts, **options):
    """A watch beside an open approval, an hour after the watch before it passed at the end of its bake."""
    clock.hours = 4
    at_the_end = {("rollout.to_10.watch", "verdict"): {"verdict": "pass", "at": clock().isoformat(), "guardrails": []}}
    watching = Watching(
        clock, *verdicts, approve=APPROVE, watches=["rollout.to_10.watch"], records=at_the_end, **options
    )
    watching.instance.states[APPROVE] = "deferred"
    return watching


def test_it_goes_on_looking_while_the_approval_is_open(clock):
    watching = beside(clock, "pass")
    for hour in range(5, 30):
        trigger = watching.step()
        assert isinstance(trigger, AmplitudeApprovalTrigger)
        assert datetime.fromisoformat(trigger.until) == SINCE + timedelta(hours=hour)
        clock.hours = hour
    assert watching.asked_at == list(range(5, 29))


def test_it_looks_once_more_after_the_answer(clock):
    watching = beside(clock, "pass")
    watching.step()
    clock.hours = 4.2
    watching.instance.states[APPROVE] = "success"
    assert watching.step()["verdict"] == "pass"
    assert watching.asked_at == [4.2]


def test_a_breach_while_the_approval_is_open_ends_it(clock):
    watching = beside(clock, "breach")
    watching.step()
    clock.hours = 5
    with pytest.raises(AirflowFailException, match="breach"):
        watching.step()
    assert watching.verdict["verdict"] == "breach"


def test_a_breach_at_the_look_after_the_answer_makes_it_void(clock):
    watching = beside(clock, "breach")
    watching.instance.states[APPROVE] = "success"
    with pytest.raises(AirflowFailException, match="breach"):
        watching.step()


def test_a_doubt_after_the_answer_holds_from_there(clock):
    watching = beside(clock, "no_data", "no_data", "pass")
    watching.instance.states[APPROVE] = "success"
    clock.hours = 6
    trigger = watching.step()
    assert isinstance(trigger, DateTimeTrigger)
    assert trigger.moment == SINCE + timedelta(hours=7)
    assert watching.until_it_ends()["verdict"] == "pass"


@pytest.mark.parametrize("state", ["failed", "skipped", "upstream_failed"])
def test_an_approval_that_ended_otherwise_ends_the_watch_quietly(clock, state):
    watching = beside(clock, "breach")
    watching.instance.states[APPROVE] = state
    assert watching.step()["reason"] == f"the approval ended as {state}"
    assert watching.asked_at == []


def test_between_two_stages_a_person_is_asked_and_the_start_is_watched_meanwhile(clock, monkeypatch):
    """A run with start_at=20 is asked before its first raise, to 100 %."""
    below = {RAMP: {"stage": 10, "below_start": True}, "rollout.to_1.ramp": {"stage": 1, "below_start": True}}
    watching = Watching(clock, "breach", approve=APPROVE, records=below, start_at=20, before_a_raise=True)
    watching.instance.states[APPROVE] = "deferred"
    assert isinstance(watching.step(), AmplitudeApprovalTrigger)
    clock.hours = 1
    with pytest.raises(AirflowFailException, match="at 20 %"):
        watching.step()
    assert watching.verdict["stage"] == 20


def test_where_the_run_begins_at_the_next_stage_nothing_is_watched_beside_the_question(clock):
    below = {RAMP: {"stage": 10, "below_start": True}}
    watching = Watching(clock, "breach", approve=APPROVE, records=below, start_at=100)
    assert watching.step()["looks"] == 0


def test_a_breach_beside_an_open_question_says_that_the_question_is_void(clock):
    watching = beside(clock, "breach")
    watching.step()
    clock.hours = 5
    with pytest.raises(AirflowFailException, match=r"question in rollout\.to_10\.approve is void: answer Reject"):
        watching.step()


def test_an_answer_outside_the_windows_is_watched_until_they_open(clock):
    watching = beside(clock, "pass", before_a_raise=True, plan=windowed(8.5))
    watching.instance.states[APPROVE] = "success"
    assert isinstance(watching.step(), DateTimeTrigger)
    assert watching.until_it_ends()["verdict"] == "pass"
    assert watching.asked_at == [4, 5, 6, 7, 8, 8.5]


def test_without_guardrails_it_waits_for_the_answer_only(clock):
    watching = beside(clock)
    assert isinstance(watching.step(), AmplitudeApprovalTrigger)
    watching.instance.states[APPROVE] = "success"
    clock.hours = 100
    assert watching.step()["verdict"] == "pass"
