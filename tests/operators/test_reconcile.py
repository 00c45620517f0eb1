"""Ticks of a plan against the emulator over real HTTP: what is raised and when, what is refused, what is remembered."""

from __future__ import annotations

import json
import logging
from datetime import UTC, datetime, timedelta

import pytest
from airflow.providers.common.compat.sdk import AirflowFailException, AirflowSkipException
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from airflow_amplitude_experiment.operators import ramp as ramp_module
from airflow_amplitude_experiment.operators import reconcile as module
from airflow_amplitude_experiment.operators.reconcile import AmplitudeReconcileRolloutOperator
from airflow_amplitude_experiment.rollout import RolloutPlan, Stage
from tests.builders import FakeTaskInstance, a_context, a_segment
from tests.dags import loaded

KEY = "new-checkout"
PLAN = RolloutPlan.parse("1% 1h, 10% 1h, 50% 1h, 100%")
START = datetime(2026, 11, 20, 12, tzinfo=UTC)


class Clock:
    """Tells the time that a test sets, to the operator and to the emulator alike."""

    def __init__(self):
        self.hours = 0.0

    def __call__(self):
        return START + timedelta(hours=self.hours)


class TickInstance(FakeTaskInstance):
    """A task instance that also hands over what earlier runs left."""

    def __init__(self, left):
        super().__init__(task_id="tick")
        self.left = left

    def xcom_push(self, key, value):
        super().xcom_push(key, value)
        self.left[key] = self.xcoms[key]

    def xcom_pull(self, task_ids, key="return_value", map_indexes=None, include_prior_dates=False):
        if include_prior_dates:
            return self.left.get(key)
        return super().xcom_pull(task_ids, key, map_indexes)


@pytest.fixture(autouse=True)
def log_of_the_task(monkeypatch, caplog):
    """Airflow 3.3 writes a task's log past ``logging``, where ``caplog`` doesn't see it."""
    monkeypatch.setattr(AmplitudeReconcileRolloutOperator, "log", logging.getLogger("the task's log"))
    caplog.set_level(logging.INFO)


@pytest.fixture
def clock(monkeypatch):
    fake = Clock()
    monkeypatch.setattr(module, "now", fake)
    return fake


@pytest.fixture
def amplitude(amplitude_emulator, monkeypatch, clock):
    """The emulator with a live flag and a live experiment at 0 % since yesterday, and a connection to it."""
    monkeypatch.setattr(ramp_module, "SECONDS_BEFORE_ANOTHER_LOOK", 0.0)
    connection = amplitude_emulator.airflow_connection(requests_per_second=100)
    monkeypatch.setenv("AIRFLOW_CONN_AMPLITUDE_EXPERIMENT_DEFAULT", connection)
    monkeypatch.setattr(amplitude_emulator.world.store, "clock", clock)
    clock.hours = -24
    amplitude_emulator.add_flag(KEY, enabled=True, rolloutPercentage=0)
    amplitude_emulator.add_experiment("price", enabled=True, rolloutPercentage=0)
    clock.hours = 0
    amplitude_emulator.clear_requests()
    return amplitude_emulator


class Ticking:
    """A DAG's one task, run again and again."""

    def __init__(self, clock, **options):
        named = {} if "experiment_key" in options or "flag_id" in options else {"flag_key": KEY}
        self.clock, self.left = clock, {}
        self.options = {"plan": PLAN, "start": START, **named, **options}

    def at(self, hours, *, began=None, **options):
        """Tick so many hours after the start."""
        self.clock.hours = hours
        context = a_context()
        context["ti"] = TickInstance(self.left)
        context["dag_run"].start_date = self.clock() if began is None else START + timedelta(hours=began)
        return AmplitudeReconcileRolloutOperator(task_id="tick", **self.options, **options).execute(context)


@pytest.fixture
def ticking(amplitude, clock):
    return Ticking(clock)


def writes(emulator):
    return [request["body"] for request in emulator.requests() if request["method"] == "PATCH"]


def paths(emulator):
    return [f"{each['method']} {each['path'].rsplit('/', 1)[-1]}" for each in emulator.requests()]


def stands(emulator, key=KEY):
    return emulator.flag(key)["rolloutPercentage"]


# --- going up ---


def test_ticks_carry_a_rollout_through_one_stage_at_a_time(amplitude, ticking):
    reached = [ticking.at(hours)["stage"] for hours in (0, 0.5, 1.1, 1.6, 2.2, 2.7, 3.3, 9)]
    assert reached == [1, 1, 10, 10, 50, 50, 100, 100]
    assert [body["rolloutPercentage"] for body in writes(amplitude)] == [1, 10, 50, 100]


def test_a_raise_reads_the_versions_and_the_variants_before_it_and_reads_back(amplitude, ticking):
    ticking.at(0)
    amplitude.clear_requests()
    ticking.at(1.1)
    flag = amplitude.flag(KEY)["id"]
    assert paths(amplitude) == ["GET flags", "GET versions", "GET variants", f"PATCH {flag}", f"GET {flag}"]


@pytest.mark.parametrize(("hours", "standing"), [(0.5, 1), (9, 100)])
def test_a_tick_with_nothing_to_do_costs_one_request(amplitude, ticking, hours, standing):
    amplitude.change(KEY, rolloutPercentage=standing)
    amplitude.clear_requests()
    assert ticking.at(hours)["written"] is False
    assert paths(amplitude) == ["GET flags"]


def test_a_record_says_which_stage_it_is_and_when_it_goes_on(amplitude, ticking):
    record = ticking.at(0)
    assert (record["before"], record["after"], record["stage"], record["written"]) == (0, 1, 1, True)
    assert (record["complete"], record["next_change"]) == (False, (START + timedelta(hours=1)).isoformat())
    waiting = ticking.at(0.5)
    assert (waiting["written"], waiting["next_change"]) == (False, (START + timedelta(hours=1)).isoformat())
    assert "10 % is due at 2026-11-20 13:00:00Z" in waiting["why"]


def test_a_complete_rollout_succeeds_with_a_record_that_says_so(amplitude, ticking):
    amplitude.change(KEY, rolloutPercentage=100)
    record = ticking.at(50)
    assert (record["complete"], record["next_change"], record["written"]) == (True, None, False)
    assert "the plan is complete" in record["why"]


def test_before_the_start_it_asks_nothing_and_says_when(amplitude, ticking, caplog):
    record = ticking.at(-1)
    assert record["written"] is False
    assert record["next_change"] == START.isoformat()
    assert not amplitude.requests()
    assert "the plan begins at 2026-11-20 12:00" in caplog.text


def test_any_edit_of_the_object_starts_its_bake_anew(amplitude, ticking, clock):
    ticking.at(0)
    clock.hours = 0.9
    amplitude.change(KEY, name="Another name")
    assert ticking.at(1.5)["written"] is False
    assert ticking.at(1.95)["after"] == 10


def test_a_retry_after_a_write_of_this_run_goes_no_further(amplitude, ticking):
    ticking.at(0)
    record = ticking.at(1.5, began=-0.1)
    assert record["written"] is False
    assert "a run goes one stage at most" in record["why"]


def test_an_answer_that_was_lost_is_looked_up_and_not_sent_again(amplitude, ticking):
    amplitude.fault("status", method="PATCH", after=True)
    assert ticking.at(0)["written"] is True
    assert len(writes(amplitude)) == 1


def test_a_segments_percentage_is_moved(amplitude, clock):
    clock.hours = -1
    amplitude.add_flag("beta", enabled=True, rolloutPercentage=0, targetSegments=[a_segment(percentage=0)])
    ticking = Ticking(clock, flag_key="beta", segment="Beta testers")
    assert [ticking.at(hours)["after"] for hours in (0, 1.1)] == [1, 10]
    assert amplitude.flag("beta")["targetSegments"][0]["percentage"] == 10
    assert stands(amplitude, "beta") == 0


def test_by_id_where_the_answer_does_not_tell_the_last_change_the_versions_do(amplitude, clock):
    ticking = Ticking(clock, flag_id=amplitude.flag(KEY)["id"], project_id=amplitude.flag(KEY)["projectId"])
    assert [ticking.at(hours)["after"] for hours in (0, 0.9, 1.1)] == [1, 1, 10]


def test_it_goes_on_from_a_percentage_that_is_stated(amplitude, clock):
    amplitude.change(KEY, rolloutPercentage=20)
    ticking = Ticking(clock, from_percentage="20")
    assert [ticking.at(hours)["after"] for hours in (0, 1.1)] == [50, 100]


def test_a_read_only_connection_sends_nothing_and_says_what_it_would(amplitude, ticking, monkeypatch):
    connection = amplitude.airflow_connection(requests_per_second=100, mode="read_only")
    monkeypatch.setenv("AIRFLOW_CONN_AMPLITUDE_EXPERIMENT_DEFAULT", connection)
    record = ticking.at(0)
    assert (record["written"], record["after"]) == (False, 1)
    assert not writes(amplitude)


# --- what is refused ---


def refused(ticking, hours, **options):
    with pytest.raises(AirflowFailException) as failure:
        ticking.at(hours, **options)
    assert "Nothing was written" in str(failure.value)
    return str(failure.value)


@pytest.mark.parametrize("found", [2, 30])
def test_off_the_plan_it_fails_and_names_who_changed_it(amplitude, ticking, found):
    amplitude.change(KEY, by="ada@example.com", rolloutPercentage=found)
    assert "ada@example.com" in refused(ticking, 1)
    assert not writes(amplitude)


def test_too_far_behind_it_fails(amplitude, ticking):
    assert "too far behind its plan" in refused(ticking, 48)
    assert not writes(amplitude)


def test_it_never_enables(amplitude, ticking):
    amplitude.change(KEY, enabled=False)
    assert "a tick never enables" in refused(ticking, 0)
    assert not writes(amplitude)


@pytest.mark.parametrize(("lowered", "hours"), [(0, 1.5), (1, 2.5)])
def test_what_was_lowered_since_the_start_stays_down(amplitude, ticking, clock, lowered, hours):
    for each in (0, 1.1):
        ticking.at(each)
    clock.hours = 1.2
    amplitude.change(KEY, rolloutPercentage=lowered)
    assert "undo somebody's stop" in refused(ticking, hours)
    assert stands(amplitude) == lowered


@pytest.mark.parametrize(("lowered", "hours"), [(0, 1.5), (1, 2.5)])
def test_what_was_lowered_stays_down_where_versions_show_no_percentage(amplitude, clock, lowered, hours):
    ticking = Ticking(clock, experiment_key="price")
    for each in (0, 1.1):
        ticking.at(each)
    clock.hours = 1.2
    amplitude.change("price", rolloutPercentage=lowered)
    assert "may have lowered it" in refused(ticking, hours)


def test_an_experiment_is_carried_through_its_own_versions(amplitude, clock):
    ticking = Ticking(clock, experiment_key="price")
    assert [ticking.at(hours)["after"] for hours in (0, 1.1, 2.2, 3.3)] == [1, 10, 50, 100]


def test_what_was_disabled_in_between_stays_where_it_is(amplitude, ticking, clock):
    ticking.at(0)
    for clock.hours, enabled in ((0.1, False), (0.2, True)):
        amplitude.change(KEY, enabled=enabled)
    assert "was disabled in version" in refused(ticking, 1.5)


def test_a_new_start_goes_on_after_a_stop(amplitude, ticking, clock):
    for hours in (0, 1.1):
        ticking.at(hours)
    clock.hours = 1.2
    amplitude.change(KEY, rolloutPercentage=1)
    ticking.options |= {"start": START + timedelta(hours=2), "from_percentage": 1}
    assert [ticking.at(hours)["after"] for hours in (2.1, 3.1)] == [1, 10]


def test_a_stop_before_the_start_is_nobodys_stop_of_this_rollout(amplitude, ticking, clock):
    for clock.hours, percentage in ((-3, 60), (-2, 0)):
        amplitude.change(KEY, rolloutPercentage=percentage)
    assert ticking.at(0)["after"] == 1


def test_changed_weights_fail_the_next_raise(amplitude, ticking, clock):
    ticking.at(0)
    clock.hours = 0.1
    amplitude.change(KEY, rolloutWeights={"on": 3})
    assert "changed since this rollout's last raise: rolloutWeights" in refused(ticking, 1.5)


def test_where_the_memory_is_gone_the_fields_are_taken_anew_and_the_record_says_so(amplitude, ticking):
    assert ticking.at(0)["fingerprint_taken_anew"] is False
    ticking.left.clear()
    assert ticking.at(1.1)["fingerprint_taken_anew"] is True


def test_the_first_raise_makes_the_refusals_of_a_staged_rollout(amplitude, clock):
    clock.hours = -1
    amplitude.add_flag("nowhere", enabled=True, rolloutPercentage=0, deployments=[])
    assert "it has no deployment" in refused(Ticking(clock, flag_key="nowhere"), 0)
    assert not writes(amplitude)


def test_a_run_of_the_past_is_skipped(amplitude, ticking):
    context = a_context(run_type="backfill")
    with pytest.raises(AirflowSkipException):
        AmplitudeReconcileRolloutOperator(task_id="tick", **ticking.options).execute(context)
    assert not amplitude.requests()


# --- windows and freezes ---


def test_a_freeze_of_the_plan_ends_the_tick_well_and_says_when(amplitude, clock):
    plan = RolloutPlan.parse("1% 1h, 100%", freezes=[(START, START + timedelta(hours=5))])
    record = Ticking(clock, plan=plan).at(1)
    assert (record["written"], record["next_change"]) == (False, (START + timedelta(hours=5)).isoformat())


def test_the_freeze_variable_ends_the_tick_well_and_is_named(amplitude, ticking, monkeypatch):
    monkeypatch.setenv("AIRFLOW_VAR_AMPLITUDE_EXPERIMENT_FREEZE", json.dumps(["new-*"]))
    record = ticking.at(0)
    assert record["written"] is False
    assert "amplitude_experiment_freeze" in record["why"]
    assert not writes(amplitude)


# --- guardrails ---


class Errors:
    """A guardrail that says what a test wants."""

    __name__ = "errors"

    def __init__(self, verdict):
        self.verdict, self.asked = verdict, []

    def __call__(self, percentage, stage_start):
        self.asked.append((percentage, stage_start))
        return self.verdict


@pytest.fixture
def errors():
    return Errors("pass")


@pytest.fixture
def guarded(amplitude, clock, errors):
    return Ticking(clock, guardrails=[errors])


def test_a_guardrail_is_looked_at_in_each_tick_while_a_stage_is_watched(guarded, errors):
    for hours in (0, 0.5, 1.1, 1.6, 2.2, 3.3, 3.9, 9):
        guarded.at(hours)
    assert [percentage for percentage, _ in errors.asked] == [1, 1, 10, 10, 50, 100]


@pytest.mark.parametrize("verdict", ["inconclusive", "no_data"])
def test_what_is_not_a_pass_holds_the_raise_and_ends_well(amplitude, guarded, errors, verdict):
    guarded.at(0)
    errors.verdict = verdict
    record = guarded.at(1.1)
    assert (record["written"], record["after"], record["verdict"]) == (False, 1, verdict)
    assert f"held: {verdict}" in record["why"]
    errors.verdict = "pass"
    assert guarded.at(1.3)["after"] == 10


@pytest.mark.parametrize("hours", [0.5, 1.1])
def test_a_breach_fails_the_tick_and_writes_nothing_neither_up_nor_down(amplitude, guarded, errors, hours):
    guarded.at(0)
    amplitude.clear_requests()
    errors.verdict = "breach"
    assert "Guardrail breach, flag new-checkout at 1 %" in refused(guarded, hours)
    assert not writes(amplitude)
    assert stands(amplitude) == 1


def test_a_breach_is_not_forgotten_by_later_ticks(amplitude, guarded, errors):
    guarded.at(0)
    errors.verdict = "breach"
    refused(guarded, 0.5)
    errors.verdict = "pass"
    assert "Guardrail breach" in refused(guarded, 1.1)
    assert stands(amplitude) == 1


def test_a_new_start_forgets_a_breach(amplitude, guarded, errors):
    guarded.at(0)
    errors.verdict = "breach"
    refused(guarded, 0.5)
    errors.verdict = "pass"
    guarded.options |= {"start": START + timedelta(hours=1), "from_percentage": 1}
    assert guarded.at(1.1)["verdict"] == "pass"
    assert guarded.at(2.1)["after"] == 10


def test_a_stages_own_guardrail_watches_that_stage_alone(amplitude, clock, errors):
    plan = [Stage(1, "1h"), Stage(10, "1h", guardrails=[errors]), Stage(100)]
    ticking = Ticking(clock, plan=plan)
    for hours in (0, 1.1, 2.2, 3):
        ticking.at(hours)
    assert [percentage for percentage, _ in errors.asked] == [10]


def test_a_stage_counts_from_the_write_that_reached_it_whatever_was_edited_since(amplitude, guarded, errors, clock):
    record = guarded.at(0)
    clock.hours = 0.2
    amplitude.change(KEY, name="Another name")
    guarded.at(0.5)
    assert errors.asked[-1] == (1, datetime.fromisoformat(record["at"]))


def test_closed_stages_stay_in_evidence_and_the_running_one_follows_them(amplitude, guarded, monkeypatch):
    from airflow_amplitude_experiment.operators import _look

    seen = []

    def passing(*_, stages, bake_over, **__):
        seen.append((stages, bake_over))
        return _look.Look(verdict="pass", reason="", guardrails=[], memory={"some": 1})

    monkeypatch.setattr(_look, "look", passing)
    for hours in (0, 1.1, 1.6):
        guarded.at(hours)
    assert [decides for _, decides in seen] == [True, False], "only a look before a raise decides"
    (first, second), _ = seen[-1]
    assert (first.percentage, first.previous, second.percentage, second.previous) == (1, 0, 10, 1)
    assert (first.end, second.end) == (second.start, None)
    assert guarded.left["memory"]["guardrails"] == {"some": 1}


def test_a_write_whose_answer_was_lost_is_reported_before_its_stage_is_looked_at(amplitude, guarded, errors):
    errors.verdict = "breach"
    amplitude.fault("status", method="PATCH", after=True)
    assert guarded.at(0)["written"] is True
    assert not errors.asked
    assert "Guardrail breach" in refused(guarded, 0.2)


# --- arguments ---


def tick(**options):
    return AmplitudeReconcileRolloutOperator(
        **{"task_id": "tick", "flag_key": KEY, "plan": PLAN, "start": START, **options}
    )


def test_a_plan_that_asks_for_an_approval_is_refused():
    with pytest.raises(ValueError, match="asks for an approval"):
        tick(plan=[Stage(1, "1h", approval=True), Stage(100)])


@pytest.mark.parametrize("start", ["2026-11-22T09:00:00", START.replace(tzinfo=None), "soon", None, 7])
def test_a_start_without_a_time_zone_is_refused(start):
    with pytest.raises(ValueError, match="start="):
        tick(start=start)


@pytest.mark.parametrize("start", ["2026-11-20T13:00:00+01:00", "2026-11-20T12:00:00Z", "2026-11-20T12:00:00+00:00"])
def test_a_start_may_be_an_iso_text_with_an_offset(amplitude, clock, start):
    assert Ticking(clock, start=start).at(0)["after"] == 1


def test_a_template_that_renders_a_start_without_a_time_zone_fails_the_task(amplitude, clock):
    operator = tick(start="{{ params.start }}")
    operator.start = "2026-11-20 12:00"
    with pytest.raises(AirflowFailException, match="time zone"):
        operator.execute(a_context())


@pytest.mark.parametrize("option", ["enable", "allow_decrease", "on_drift", "percentage"])
def test_what_a_tick_never_does_can_not_be_asked_for(option):
    with pytest.raises(TypeError, match=option):
        tick(**{option: True})


@pytest.mark.parametrize("base", [100, 101, -1, "many"])
def test_a_percentage_to_begin_at_that_leaves_nothing_is_refused(base):
    with pytest.raises(ValueError, match="from_percentage"):
        tick(from_percentage=base)


@pytest.mark.parametrize("alpha", [0, 1, True, "0.05"])
def test_an_alpha_that_is_no_probability_is_refused(alpha):
    with pytest.raises(ValueError, match="alpha"):
        tick(alpha=alpha)


def test_two_guardrails_of_one_name_are_refused(errors):
    with pytest.raises(ValueError, match="two guardrails are named 'errors'"):
        tick(plan=[Stage(1, "1h", guardrails=[errors]), Stage(100)], guardrails=[errors])


@pytest.mark.parametrize("plan", [PLAN, list(PLAN.stages), PLAN.as_dict()])
def test_a_plan_is_kept_as_plain_json(plan):
    assert json.loads(json.dumps(tick(plan=plan).plan)) == PLAN.as_dict()


# --- whenever it ticks ---


@settings(max_examples=10, deadline=None, suppress_health_check=list(HealthCheck))
@given(waits=st.lists(st.floats(0.01, 1.9), min_size=3, max_size=12), retried=st.sets(st.integers(0, 11), max_size=4))
@example(waits=[1.0, 1.0, 1.0, 0.99609375], retried={3})  # due between the first try and the second
def test_whenever_it_ticks_no_stage_is_early_skipped_twice_or_ahead(amplitude, clock, waits, retried):
    clock.hours = -1
    key = f"flag-{len(amplitude.requests())}-{abs(hash((tuple(waits), tuple(retried))))}"
    amplitude.add_flag(key, enabled=True, rolloutPercentage=0)
    amplitude.clear_requests()
    ticking, hours, reached, refusals = Ticking(clock, flag_key=key), 0.0, {}, 0
    for number, wait in enumerate(waits):
        hours += wait
        began, wrote = hours, False
        for again in range(1 + (number in retried)):
            before = stands(amplitude, key)
            try:
                ticking.at(hours + again * 0.005, began=began)
            except AirflowFailException:  # too far behind
                refusals += 1
            after = stands(amplitude, key)
            if after == before:
                continue
            assert after == next(each for each in PLAN.percentages if each > before)
            assert after <= PLAN.at(START, clock())
            assert before == 0 or clock() - reached[before] >= PLAN.stage(before).watched
            assert not wrote, "a retry of a tick that wrote"
            assert after not in reached
            wrote = True
            reached[after] = clock()
    assert [body["rolloutPercentage"] for body in writes(amplitude)] == list(reached)
    assert refusals or reached[1]


# --- in Airflow ---

DAG_FILE = """
from datetime import UTC, datetime, timedelta
from airflow.sdk import DAG
from airflow_amplitude_experiment.operators.reconcile import AmplitudeReconcileRolloutOperator
from airflow_amplitude_experiment.rollout import RolloutPlan

def errors(percentage):
    return "breach" if percentage == 10 else "pass"

with DAG("ticking", schedule=None, params={"start": "", "key": "x"}) as dag:
    AmplitudeReconcileRolloutOperator(
        task_id="tick", flag_key="{{ params.key }}", plan=RolloutPlan.parse("1% 1h, 10% 1h, 100% 1h"),
        start="{{ params.start }}", guardrails=[errors],
    )
"""


def test_in_airflow_runs_follow_each_other_and_remember(airflow_db, amplitude, clock):
    dag = loaded(airflow_db, "ticking", DAG_FILE)
    states, memories = [], []
    for clock.hours in (0, 1.1, 2.2):
        run = dag.test(run_conf={"key": KEY, "start": START.isoformat()}, logical_date=clock())
        states.append((run.state, stands(amplitude)))
        (instance,) = run.get_task_instances()
        memories.append(instance.xcom_pull(task_ids="tick", key="memory", run_id=run.run_id))
    assert states == [("success", 1), ("success", 10), ("failed", 10)]
    assert sorted(memories[2]["starts"]) == ["1", "10"]
    assert memories[2]["guardrails"]["errors"]["latched"]
