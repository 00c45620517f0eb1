"""Deciding an experiment against the emulator over real HTTP: the steps, their order, what is refused, what waits."""

from __future__ import annotations

import logging
from collections import Counter
from datetime import UTC, datetime, timedelta
from itertools import pairwise

import pytest
from airflow.providers.common.compat.sdk import AirflowFailException, AirflowSkipException
from airflow.sdk import DAG
from amplitude_experiment import User
from amplitude_experiment.local.client import LocalEvaluationClient
from amplitude_experiment.local.config import LocalEvaluationConfig

from airflow_amplitude_experiment.api import AmplitudeConnectionError, AmplitudeServerError
from airflow_amplitude_experiment.operators import (
    AmplitudeCreateExperimentOperator,
    AmplitudeDecideExperimentOperator,
    AmplitudeRampRolloutOperator,
    _edit,
)
from tests.builders import a_context as any_context
from tests.builders import a_segment, connect

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # the SDK's own libraries warn of their age
KEY = "checkout-test"
EVEN = {"control": 1, "treatment": 1}
TO_THE_WINNER = {"control": 0, "treatment": 100}
RUNNING = {
    "enabled": True,
    "rolloutPercentage": 40,
    "variants": [{"key": "control"}, {"key": "treatment"}],
    "rolloutWeights": EVEN,
    "createdAt": "2026-01-01T00:00:00.000Z",
}
LATER = (datetime.now(UTC) + timedelta(days=30)).date().isoformat()
EVEN_LATER = (datetime.now(UTC) + timedelta(days=60)).date().isoformat()


@pytest.fixture
def amplitude(amplitude_emulator, monkeypatch):
    """The emulator without experiments of ours, and a connection to it."""
    monkeypatch.setattr(_edit, "SECONDS_BEFORE_ANOTHER_LOOK", 0.0)
    monkeypatch.setattr("airflow_amplitude_experiment.api._retry._wait", lambda _: 0.0)
    # Airflow 3.3 writes a task's log past ``logging``, where ``caplog`` doesn't see it.
    monkeypatch.setattr(AmplitudeDecideExperimentOperator, "log", logging.getLogger("tests.decide"))
    connect(monkeypatch, amplitude_emulator)
    return amplitude_emulator


@pytest.fixture
def running(amplitude):
    """An experiment that runs at 40 %, half control and half treatment."""
    amplitude.add_experiment(KEY, **RUNNING)
    amplitude.clear_requests()
    return amplitude


def a_context(**options):
    """The context of a run that began a minute ago."""
    context = any_context(**options)
    context["dag_run"].run_after = context["dag_run"].start_date = datetime.now(UTC) - timedelta(minutes=1)
    return context


def started_after_that():
    """The context of a run that a person starts after all that was done so far, whenever it was due."""
    context = a_context()
    context["dag_run"].start_date = datetime.now(UTC) + timedelta(minutes=1)
    return context


def decide(decision="rollout", *, context=None, **options):
    options = {"experiment_key": KEY, **({"variant": "treatment"} if decision == "rollout" else {}), **options}
    options = {name: value for name, value in options.items() if value is not None}
    operator = AmplitudeDecideExperimentOperator(task_id="decide", decision=decision, **options)
    return operator.execute(context or a_context())


def writes(emulator):
    return [request for request in emulator.requests() if request["method"] != "GET"]


def bodies(emulator):
    return [request["body"] for request in writes(emulator)]


def served(emulator, users, **user):
    """What the vendor's SDK gives each of these users."""
    client = LocalEvaluationClient(emulator.deployment_key, LocalEvaluationConfig(server_url=emulator.url))
    client.start()
    try:
        return {
            each: str(client.evaluate_v2(User(user_id=each, device_id=each, **user), {KEY})[KEY].key) for each in users
        }
    finally:
        client.stop()


# --- rolling out -------------------------------------------------------------------------------------------------


def test_after_a_rollout_everybody_gets_the_winner_and_nobody_who_had_it_lost_it_on_the_way(running, monkeypatch):
    users = [f"user-{number}" for number in range(500)]
    seen = [served(running, users)]
    original = _edit.Edit.send

    def watched(edit, call, **facts):
        answer = original(edit, call, **facts)
        seen.append(served(running, users))
        return answer

    monkeypatch.setattr(_edit.Edit, "send", watched)
    decide(decision_reason="more orders")
    assert Counter(seen[0].values()).keys() == {"off", "control", "treatment"}
    assert set(seen[-1].values()) == {"treatment"}
    for before, after in pairwise(seen):
        assert all(after[user] == "treatment" for user in users if before[user] == "treatment")
        assert all(after[user] != "off" for user in users if before[user] != "off")


def test_the_winners_weight_goes_up_before_the_others_go_down_and_the_percentage_comes_last(running):
    running.change(KEY, stickyBucketing=True)
    decide(decision_reason="more orders")
    assert [request["path"].rsplit("/", 1)[-1] for request in writes(running)][1:3] == ["treatment", "control"]
    assert bodies(running) == [
        {"stickyBucketing": False},
        {"rolloutWeight": 100},
        {"rolloutWeight": 0},
        {
            "rolloutPercentage": 100,
            "decision": "rollout",
            "decisionReason": "more orders",
            "rolledOutVariant": "treatment",
        },
    ]


def test_each_step_is_read_back_before_the_next_one(running):
    decide()
    assert [request["method"] for request in running.requests()] == [
        "GET",  # the experiment
        *("GET", "GET"),  # who is included in control
        *("PATCH", "GET"),
        *("PATCH", "GET"),
        *("PATCH", "GET"),
    ]


def test_target_segments_are_rolled_out_too_and_stay_what_they_were(running):
    segment = a_segment(percentage=20, rolloutWeights=EVEN, bucketingKey="device_id")
    running.change(KEY, targetSegments=[segment])
    decide()
    assert running.experiment(KEY)["targetSegments"] == [
        {**segment, "percentage": 100, "rolloutWeights": TO_THE_WINNER}
    ]
    users = {f"device-{number}" for number in range(200)}
    assert set(served(running, users, user_properties={"beta": "true"}).values()) == {"treatment"}


def test_the_log_says_first_how_many_people_change_variant(running, caplog):
    with caplog.at_level(logging.INFO):
        record = decide()
    messages = [each.getMessage() for each in caplog.records if each.name.startswith(("tests.decide", "airflow_amp"))]
    told = [each for each in messages if "Task Runner" not in each]  # Airflow's own warning about this test
    assert told[0] == (
        f"experiment {KEY}, decision rollout of treatment: all users: 50 % of those in it change variant "
        "(control 50 % -> 0 %), 60 % newly get treatment"
    )
    assert record["people"] == [
        {
            "who": "all users",
            "before": {"control": 20, "treatment": 20},
            "after": {"treatment": 100},
            "change_variant": 50,
            "newly_get_one": 60,
            "lose_theirs": 0,
        }
    ]


def test_what_no_rollout_can_avoid_is_told_before_it(running, caplog):
    keys = ["a", "b", "c"]
    running.change(KEY, variants=[{"key": key} for key in keys], rolloutWeights=dict.fromkeys(keys, 33))
    running.change(KEY, stickyBucketing=True)
    decide(variant="b")
    assert "users who have a losing variant may keep it" in caplog.text
    assert "4.9325 % of those in it lose b between two of the writes" in caplog.text


def test_who_is_forced_into_a_losing_variant_is_counted_and_never_named(running, caplog):
    variants = [
        {"key": "control", "users": ["ann@example.com", "bob@example.com"], "cohorts": ["c1"]},
        {"key": "treatment", "users": ["eve@example.com"]},
    ]
    running.change(KEY, variants=variants)
    with caplog.at_level(logging.INFO):
        record = decide()
    assert record["included"] == {"control": {"users": 2, "cohorts": 1}}
    assert "2 users or devices and 1 cohort in control" in caplog.text
    assert "@example.com" not in caplog.text + str(record)


def test_the_record_tells_what_was_decided_and_done(running):
    record = decide(reason="test won")
    assert record["decision"] == "rollout"
    assert record["variant"] == "treatment"
    assert record["decision_reason"] == "test won"
    assert record["steps"] == ["weight of treatment to 100", "weight of control to 0", "100 % and the decision"]
    assert (record["before"], record["after"], record["enabled"], record["written"]) == (40, 100, True, True)


def test_an_experiment_that_is_rolled_out_already_costs_one_read(running):
    decide()
    running.clear_requests()
    assert decide(context=a_context(try_number=2))["written"] is False
    assert [request["method"] for request in running.requests()] == ["GET"]


def test_a_winner_that_is_alone_already_gets_no_new_weight(running):
    running.change(KEY, rolloutWeights={"control": 0, "treatment": 1})
    decide()
    assert [body.keys() for body in bodies(running)] == [{"rolloutPercentage", "decision", "rolledOutVariant"}]


def test_weights_that_only_the_variants_show_are_read_there(running, monkeypatch):
    from airflow_amplitude_experiment.emulator import shapes

    for view in ("list", "details"):
        shown = tuple(name for name in shapes._SUBSETS["experiment", view] if name != "rolloutWeights")
        monkeypatch.setitem(shapes._SUBSETS, ("experiment", view), shown)
    decide()
    assert running.experiment(KEY)["rolloutWeights"] == TO_THE_WINNER


# --- a try that died, a write that was lost ----------------------------------------------------------------------


@pytest.mark.parametrize("died_after", range(5))
def test_a_task_that_died_between_two_steps_goes_on_with_the_next_one(running, died_after):
    running.change(KEY, stickyBucketing=True, targetSegments=[a_segment(rolloutWeights=EVEN)])
    running.fault("status", method="PATCH", status=500, times=None, skip=died_after)
    with pytest.raises((AmplitudeServerError, AirflowFailException)):
        decide()
    running.clear_faults()
    running.clear_requests()
    decide(context=a_context(try_number=2))
    assert len(writes(running)) == 5 - died_after
    experiment = running.experiment(KEY)
    assert experiment["rolloutWeights"] == TO_THE_WINNER
    assert (experiment["rolloutPercentage"], experiment["decision"]) == (100, "rollout")


@pytest.mark.parametrize("step", range(3))
@pytest.mark.parametrize("fault", ["cut_after", "truncated"])
def test_a_write_that_was_applied_but_not_answered_is_not_sent_twice(running, fault, step):
    running.fault(fault, method="PATCH", skip=step)
    record = decide()
    assert len(writes(running)) == 3
    assert record["written"] is True
    assert len(record["steps"]) == 3


def test_a_lost_answer_to_the_only_write_is_no_lost_write(running, caplog):
    running.change(KEY, rolloutWeights={"control": 0, "treatment": 1})
    running.fault("cut_after", method="PATCH")
    with caplog.at_level(logging.INFO):
        record = decide()
    assert len(writes(running)) == 1
    assert (record["written"], record["before"], record["after"]) == (True, 40, 100)
    assert caplog.text.count("newly get treatment") == 1


@pytest.mark.parametrize("step", range(3))
def test_a_write_that_was_lost_is_told_once_and_sent_again(running, caplog, step):
    running.fault("cut_before", method="PATCH", skip=step)
    with caplog.at_level(logging.INFO):
        decide()
    assert caplog.text.count("newly get treatment") == 1
    assert len(writes(running)) == 4
    assert running.experiment(KEY)["rolledOutVariant"] == "treatment"


def test_a_connection_that_stays_away_fails_the_try_and_not_the_task(running):
    running.fault("cut_before", method="PATCH", times=None)
    with pytest.raises(AmplitudeConnectionError):
        decide()


# --- waiting for an approval -------------------------------------------------------------------------------------


def test_a_step_that_did_not_take_names_the_lock_what_is_done_and_what_is_left(running):
    running.change(KEY, rolloutWeights={"control": 1, "treatment": 100})
    running.options(approvals="pending")
    with pytest.raises(AirflowFailException) as failure:
        decide()
    assert str(failure.value) == (
        f"AmplitudeNotConfirmed: experiment {KEY} is waiting in Amplitude: weight of control to 0 was accepted and did "
        "not take (weight of control: given 0, there 1). Probably it needs an approval, and locks the experiment until "
        "that is given or cancelled. Done: nothing. Left: weight of control to 0; 100 % and the decision. Approve it "
        "in Amplitude, then clear this task: it goes on from what stands."
    )
    assert len(writes(running)) == 1


def test_what_was_done_before_the_lock_is_named(running, monkeypatch):
    original = _edit.Edit.send

    def asks_for_approval_after(edit, call, **facts):
        answer = original(edit, call, **facts)
        running.options(approvals="pending")
        return answer

    monkeypatch.setattr(_edit.Edit, "send", asks_for_approval_after)
    with pytest.raises(
        AirflowFailException, match=r"Done: weight of treatment to 100. Left: weight of control to 0; 1"
    ):
        decide()


def test_after_the_approval_a_cleared_task_goes_on_with_the_steps_left(running):
    running.options(approvals="pending", approval_scope="documented")
    with pytest.raises(AirflowFailException, match="is waiting in Amplitude: weight of treatment to 100"):
        decide()
    running.options(approvals="off")
    running.change(KEY, rolloutWeights={"control": 1, "treatment": 100})  # what the approval lets through
    running.clear_requests()
    decide(context=a_context(clear_number=1))
    assert [body.get("rolloutWeight", body.get("decision")) for body in bodies(running)] == [0, "rollout"]


def test_all_that_is_left_is_named_even_where_it_is_much(running):
    keys = [f"a-rather-long-variant-{letter}" for letter in "abcdef"]
    running.change(KEY, variants=[{"key": key} for key in keys], rolloutWeights=dict.fromkeys(keys, 1))
    running.options(approvals="pending")
    with pytest.raises(AirflowFailException) as failure:
        decide(variant=keys[0])
    assert all(f"weight of {key} to 0" in str(failure.value) for key in keys[1:])
    assert "100 % and the decision" in str(failure.value)


def test_a_step_that_is_refused_for_want_of_an_approval_says_where_it_stands(running, caplog):
    running.options(approvals="reject")
    with pytest.raises(AirflowFailException, match="needs an approval"):
        decide()
    assert len(writes(running)) == 1
    assert "the step 'weight of treatment to 100' was refused. Done: nothing. Left: weight of treatment" in caplog.text


def test_a_last_step_that_undoes_an_earlier_one_is_no_success(running, monkeypatch):
    """Nobody says what the field ``decision`` does by itself."""
    original = _edit.Edit.send

    def with_side_effect(edit, call, **facts):
        answer = original(edit, call, **facts)
        if "decision" in call.arguments:
            running.change(KEY, rolloutWeights=EVEN)
        return answer

    monkeypatch.setattr(_edit.Edit, "send", with_side_effect)
    with pytest.raises(AirflowFailException, match="does not stand as asked: weight of treatment to 100"):
        decide()


# --- down stays down ---------------------------------------------------------------------------------------------


def test_a_disabled_experiment_is_not_rolled_out(running):
    running.change(KEY, enabled=False)
    with pytest.raises(AirflowFailException, match=r"is disabled.*enable=True"):
        decide()
    assert writes(running) == []


def test_enable_switches_it_on_with_the_last_step(running):
    running.change(KEY, enabled=False)
    record = decide(enable=True, context=started_after_that())
    assert bodies(running)[-1]["enabled"] is True
    assert all("enabled" not in body for body in bodies(running)[:-1])
    assert record["enabled"] is True


@pytest.mark.parametrize(
    "again", [{"try_number": 2}, {"clear_number": 1}, {}], ids=["second try", "cleared", "the same run"]
)
def test_what_somebody_disabled_since_the_run_began_is_not_switched_on(running, again):
    running.change(KEY, enabled=False)
    with pytest.raises(AirflowFailException, match=r"was disabled in version 2.*undo somebody's stop"):
        decide(enable=True, context=a_context(**again))
    assert writes(running) == []


@pytest.mark.parametrize("again", [{"try_number": 2}, {"clear_number": 1}], ids=["second try", "cleared"])
def test_what_somebody_may_have_lowered_since_is_not_raised_by_another_try(running, again):
    running.change(KEY, rolloutPercentage=5)
    with pytest.raises(AirflowFailException, match=r"somebody may have lowered it.*undo somebody's stop"):
        decide(context=a_context(**again))
    assert writes(running) == []


def test_a_segment_that_somebody_lowered_since_is_not_raised_by_another_try(running):
    running.change(KEY, targetSegments=[a_segment(percentage=50, rolloutWeights=EVEN)])
    running.change(KEY, targetSegments=[a_segment(percentage=5, rolloutWeights=EVEN)])
    with pytest.raises(AirflowFailException, match=r"target segment 'Beta testers'.*stood at 50 %"):
        decide(context=a_context(try_number=2))


def test_a_scheduled_run_does_not_raise_what_was_lowered_since_it_was_due(running, monkeypatch):
    monkeypatch.setattr("airflow_amplitude_experiment.operators._past.skip_in_the_past", lambda *_: None)
    running.change(KEY, rolloutPercentage=5)
    with pytest.raises(AirflowFailException, match="undo somebody's stop"):
        decide(context=a_context(run_type="scheduled"))


def test_a_run_that_a_person_starts_rolls_out_what_was_lowered_before(running):
    running.change(KEY, rolloutPercentage=5)
    decide()
    assert running.experiment(KEY)["rolloutPercentage"] == 100


def below_a_ramp(emulator, *, segment=None, context=None, **options):
    """Decide below the tasks of the same run that created the experiment and raised it to 40 %."""
    there = {"kind": "experiment", "id": emulator.experiment(KEY)["id"], "written": True}
    with DAG("life"):
        create = AmplitudeCreateExperimentOperator(task_id="create", key=KEY)
        ramp = AmplitudeRampRolloutOperator(task_id="ramp", percentage=40, experiment_key=KEY)
        operator = AmplitudeDecideExperimentOperator(
            task_id="decide", decision="rollout", variant="treatment", experiment_key=KEY, **options
        )
        create >> ramp >> operator
    context = context or a_context()
    ramped = {"segment": segment, "before": 0, "after": 40, "switched_on": False}
    context["ti"].of_others = {
        "ramp": {**there, **ramped, "at": "2026-11-22T12:00:01.123+00:00"},
        "create": {**there, "created": True, "rollout_percentage": 0, "at": "2026-11-22T12:00:00+00:00"},
    }
    return operator.execute(context)


@pytest.mark.parametrize("again", [{}, {"try_number": 2}, {"clear_number": 1}], ids=["first try", "second", "cleared"])
def test_what_stands_where_this_run_raised_it_to_is_rolled_out(running, again):
    running.change(KEY, tags=["shop"])  # a version that shows no difference
    below_a_ramp(running, context=a_context(**again))
    assert running.experiment(KEY)["rolloutPercentage"] == 100


@pytest.mark.parametrize("names", [("ramp_a", "ramp_b"), ("ramp_b", "ramp_a")])
def test_a_lowering_that_this_run_was_asked_for_is_nobodys_stop(running, names):
    """Whatever order Airflow lists the tasks in, the newest record counts."""
    running.change(KEY, rolloutPercentage=5)
    there = {"kind": "experiment", "id": running.experiment(KEY)["id"], "written": True, "segment": None}
    with DAG("life"):
        ramps = [AmplitudeRampRolloutOperator(task_id=name, percentage=5, experiment_key=KEY) for name in sorted(names)]
        operator = AmplitudeDecideExperimentOperator(
            task_id="decide", decision="rollout", variant="treatment", experiment_key=KEY
        )
        ramps >> operator
    context = a_context()
    context["ti"].of_others = {
        names[0]: {**there, "before": 0, "after": 40, "at": "2026-11-22T12:00:00.000+00:00"},
        names[1]: {**there, "before": 40, "after": 5, "at": "2026-11-22T12:00:01.000+00:00"},
    }
    operator.execute(context)
    assert running.experiment(KEY)["rolloutPercentage"] == 100


def test_what_was_lowered_after_this_run_raised_it_stays_down(running):
    running.change(KEY, rolloutPercentage=5)
    with pytest.raises(AirflowFailException, match=r"below the 40 % that this run raised it to.*somebody@example\.com"):
        below_a_ramp(running)
    assert running.experiment(KEY)["rolloutPercentage"] == 5


def test_a_segment_that_was_lowered_after_this_run_raised_it_stays_down(running):
    running.change(KEY, targetSegments=[a_segment(percentage=5, rolloutWeights=EVEN)])
    with pytest.raises(AirflowFailException, match="target segment 'Beta testers', stands below the 40 %"):
        below_a_ramp(running, segment="Beta testers")
    assert writes(running) == []


@pytest.mark.parametrize("again", [{"try_number": 2}, {"clear_number": 1}], ids=["second try", "cleared"])
def test_a_segment_that_somebody_took_back_to_where_this_run_raised_it_is_not_rolled_out_again(running, again):
    """The first try rolled the segment out and died; somebody lowered it to just where this run's ramp had left it."""
    running.change(KEY, targetSegments=[a_segment(percentage=40, rolloutWeights=EVEN)])
    running.change(KEY, targetSegments=[a_segment(percentage=100, rolloutWeights=TO_THE_WINNER)])
    running.change(KEY, targetSegments=[a_segment(percentage=40, rolloutWeights=EVEN)])
    with pytest.raises(AirflowFailException, match=r"target segment 'Beta testers', stood at 100 %.*somebody's stop"):
        below_a_ramp(running, segment="Beta testers", context=a_context(**again))
    assert writes(running) == []


@pytest.mark.parametrize("again", [{"try_number": 2}, {"clear_number": 1}], ids=["second try", "cleared"])
def test_a_rollout_that_somebody_took_back_to_where_this_run_raised_it_is_not_made_again(running, again):
    """The first try decided and died; somebody lowered it again, and the retry may overwrite a decision."""
    decided = {"decision": "rollout", "rolledOutVariant": "treatment"}
    running.change(KEY, tags=["shop"])  # the create's second call
    running.change(KEY, rolloutWeights=TO_THE_WINNER)
    running.change(KEY, rolloutPercentage=100, **decided)
    running.change(KEY, rolloutPercentage=40)
    with pytest.raises(AirflowFailException, match="undo somebody's stop"):
        below_a_ramp(running, context=a_context(**again), on_drift="overwrite")
    assert writes(running) == []


def test_a_rollout_that_somebody_took_back_while_its_answer_was_lost_is_not_made_again(running, monkeypatch):
    running.fault("cut_after", method="PATCH", skip=2)

    def takes_it_back(_):
        if running.experiment(KEY)["decision"]:
            running.change(KEY, rolloutPercentage=0)

    monkeypatch.setattr(_edit, "time", type("time", (), {"sleep": staticmethod(takes_it_back)}))
    with pytest.raises(AirflowFailException, match="changed since: it stands at 0 %"):
        decide()
    assert running.experiment(KEY)["rolloutPercentage"] == 0


# --- what is refused before the first write ----------------------------------------------------------------------


def test_an_unknown_winner_is_refused_with_those_there_are(running):
    with pytest.raises(AirflowFailException, match="no variant 'blue'; there are: control, treatment"):
        decide(variant="blue")
    assert writes(running) == []


def test_a_bandit_is_not_rolled_out(running):
    running.change(KEY, experimentType="multi-arm-bandit")
    with pytest.raises(AirflowFailException, match=r"is a bandit.*in Amplitude's app"):
        decide()
    assert writes(running) == []


def test_a_segment_that_cant_be_written_back_stops_the_rollout_before_its_first_step(running):
    cohort = {"type": "cohort", "prop": "userdata_cohort", "op": "set contains", "values": ["c1"]}
    running.change(KEY, stickyBucketing=True, targetSegments=[a_segment(conditions=[cohort], rolloutWeights=EVEN)])
    with pytest.raises(AirflowFailException, match=r"can't write.*Give every target segment 100 % there"):
        decide()
    assert writes(running) == []


def test_a_segment_that_cant_be_written_back_and_is_rolled_out_in_the_app_is_left_alone(running):
    cohort = {"type": "cohort", "prop": "userdata_cohort", "op": "set contains", "values": ["c1"]}
    segment = a_segment(conditions=[cohort], percentage=100, rolloutWeights=TO_THE_WINNER)
    running.change(KEY, targetSegments=[segment])
    decide()
    assert running.experiment(KEY)["decision"] == "rollout"
    assert all("targetSegments" not in body for body in bodies(running))


@pytest.mark.parametrize("rule", [{"max_percentage": 50}, {"max_step": 55}])
def test_a_rule_that_forbids_the_last_step_stops_the_first_one(running, monkeypatch, rule):
    connect(monkeypatch, running, **rule)
    with pytest.raises(AirflowFailException, match=f"refused by the connection's rule {next(iter(rule))}"):
        decide()
    assert writes(running) == []


def test_a_frozen_experiment_is_not_rolled_out_but_rolled_back(running, monkeypatch):
    monkeypatch.setenv("AIRFLOW_VAR_AMPLITUDE_EXPERIMENT_FREEZE", '["checkout-*"]')
    with pytest.raises(AirflowFailException, match="freezes"):
        decide()
    assert writes(running) == []
    decide("rollback")
    assert running.experiment(KEY)["enabled"] is False


def test_an_archived_experiment_is_not_decided(running):
    experiment = running.change(KEY, archive=True)
    with pytest.raises(AirflowFailException, match="is archived"):
        decide("rollback", experiment_key=None, experiment_id=experiment["id"])


def test_a_run_of_the_past_decides_nothing(running):
    with pytest.raises(AirflowSkipException):
        decide(context=a_context(run_type="backfill"))
    assert running.requests() == []


# --- decided before ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("stands", "asked"),
    [
        ({"decision": "rollback", "decisionReason": "too slow"}, "rollout"),
        ({"decision": "rollout", "rolledOutVariant": "control"}, "rollout"),
        ({"decision": "rollout", "rolledOutVariant": "treatment"}, "rollback"),
        ({"decision": "rollout", "rolledOutVariant": "treatment"}, "continue-running"),
    ],
)
def test_another_decision_is_not_overruled_unless_told(running, stands, asked):
    running.change(KEY, **stands)
    options = {"experiment_end_date": LATER} if asked == "continue-running" else {}
    with pytest.raises(AirflowFailException, match=f"was decided already: {stands['decision']}.*on_drift='overwrite'"):
        decide(asked, **options)
    assert writes(running) == []
    assert decide(asked, on_drift="overwrite", **options)["written"] is True
    assert running.experiment(KEY)["decision"] == asked


def test_a_rollout_that_was_changed_since_is_refused_with_what_differs(running):
    decide()
    running.change(KEY, rolloutPercentage=70, rolloutWeights=EVEN)
    running.clear_requests()
    with pytest.raises(AirflowFailException, match="changed since: it stands at 70 %; weights") as failure:
        decide()
    assert "somebody@example.com changed it last" in str(failure.value)
    assert writes(running) == []


def test_a_rollback_that_was_enabled_since_is_not_switched_off_by_a_cleared_task(running):
    decide("rollback")
    running.change(KEY, enabled=True)
    with pytest.raises(AirflowFailException, match="changed since: it is enabled"):
        decide("rollback", context=a_context(clear_number=1))
    assert running.experiment(KEY)["enabled"] is True


@pytest.mark.parametrize("decision", ["rollout", "rollback"])
def test_an_experiment_that_continued_can_be_decided_later(running, decision):
    running.change(KEY, decision="continue-running", endDate=f"{LATER}T00:00:00.000Z")
    decide(decision)
    assert running.experiment(KEY)["decision"] == decision


# --- rolling back and continuing ---------------------------------------------------------------------------------


def test_a_rollback_is_one_write(running):
    record = decide("rollback", decision_reason="fewer orders", variant="treatment")
    assert bodies(running) == [
        {"enabled": False, "rolloutPercentage": 0, "decision": "rollback", "decisionReason": "fewer orders"}
    ]
    assert (record["before"], record["after"], record["enabled"], record["variant"]) == (40, 0, False, None)
    assert set(served(running, ["u1", "u2", "u3"]).values()) == {"off"}


def test_a_rollback_says_who_loses_what(running, caplog):
    running.change(KEY, targetSegments=[a_segment(percentage=20, rolloutWeights=EVEN)])
    with caplog.at_level(logging.INFO):
        decide("rollback")
    assert "target segment 'Beta testers': 20 % lose their variant (control, treatment)" in caplog.text
    assert "all other users: 40 % lose their variant (control, treatment)" in caplog.text
    assert "its target segments keep their percentages" in caplog.text


def test_a_rollback_that_stands_already_costs_one_read(running):
    decide("rollback")
    running.clear_requests()
    assert decide("rollback")["written"] is False
    assert len(running.requests()) == 1


def test_continuing_sets_the_new_end_and_moves_nobody(running, caplog):
    with caplog.at_level(logging.INFO):
        record = decide("continue-running", experiment_end_date=LATER)
    assert bodies(running) == [{"endDate": f"{LATER}T00:00:00.000Z", "decision": "continue-running"}]
    assert "all users: nobody changes" in caplog.text
    assert record["end_date"] == f"{LATER}T00:00:00.000Z"
    assert (record["before"], record["after"], record["enabled"]) == (40, 40, True)


def test_continuing_again_until_the_same_day_writes_nothing(running):
    decide("continue-running", experiment_end_date=LATER)
    running.clear_requests()
    assert decide("continue-running", experiment_end_date=f"{LATER}T12:00:00+00:00")["written"] is False
    assert len(running.requests()) == 1


def test_an_end_can_be_put_off_again_and_not_back(running):
    decide("continue-running", experiment_end_date=LATER)
    decide("continue-running", experiment_end_date=EVEN_LATER)
    with pytest.raises(AirflowFailException, match=f"continues until {EVEN_LATER} already, later than asked for"):
        decide("continue-running", experiment_end_date=LATER)


def test_an_experiment_does_not_continue_into_the_past(running):
    with pytest.raises(AirflowFailException, match="that is over"):
        decide("continue-running", experiment_end_date="2020-01-01")
    assert writes(running) == []


def test_a_stopped_experiment_continues_only_if_it_may_be_started_again(running):
    running.change(KEY, enabled=False)
    with pytest.raises(AirflowFailException, match="is disabled"):
        decide("continue-running", experiment_end_date=LATER)
    decide("continue-running", experiment_end_date=LATER, enable=True, context=started_after_that())
    assert running.experiment(KEY)["enabled"] is True


# --- read-only connections, arguments ----------------------------------------------------------------------------


def test_a_read_only_connection_says_every_step_and_sends_none(running, monkeypatch, caplog):
    connect(monkeypatch, running, mode="read_only")
    running.change(KEY, stickyBucketing=True)
    with caplog.at_level(logging.INFO):
        record = decide()
    assert writes(running) == []
    steps = ["sticky bucketing off", "weight of treatment to 100", "weight of control to 0", "100 % and the decision"]
    assert record["steps"] == steps
    assert (record["written"], record["before"], record["after"]) == (False, 40, 100)
    assert f"would take the steps: {'; '.join(steps)} (read-only, not sent)" in caplog.text
    assert caplog.text.count("Read-only connection, would send") == 4


def test_every_argument_can_be_a_template(running):
    with DAG("decides"):
        operator = AmplitudeDecideExperimentOperator(
            task_id="decide",
            decision="{{ params.decision }}",
            variant="{{ params.variant }}",
            decision_reason="{{ params.why }}",
            experiment_end_date="{{ params.end }}",
            enable="{{ params.enable }}",
            on_drift="{{ params.drift }}",
            experiment_key="{{ params.key }}",
        )
    context = a_context()
    context["params"] = {
        "decision": "rollout",
        "variant": "treatment",
        "why": "won",
        "end": None,
        "enable": False,
        "drift": "fail",
        "key": KEY,
    }
    operator.render_template_fields(context)
    assert operator.execute(context)["decision_reason"] == "won"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"decision": "ship it"}, "'rollout', 'rollback', 'continue-running'"),
        ({"decision": "rollout"}, "needs the key of the winner"),
        ({"decision": "rollout", "variant": "off"}, "is no variant.*'rollback'"),
        ({"decision": "continue-running"}, "needs its new end"),
        ({"decision": "continue-running", "experiment_end_date": "soon"}, "ISO 8601"),
        ({"decision": "continue-running", "experiment_end_date": datetime(2030, 1, 1)}, "without a time zone"),  # noqa: DTZ001
        ({"decision": "rollback", "on_drift": "continue"}, "'fail', 'overwrite'"),
        ({"decision": "rollback", "enable": "perhaps"}, "true or false"),
        ({"decision": "rollback", "flag_key": "nav"}, "a flag has no decision"),
        ({"decision": "continue-running", "end_date": "2030-01-01"}, "experiment_end_date"),
    ],
)
def test_what_is_known_to_be_wrong_fails_the_dag_file_and_not_the_run(arguments, message):
    named = {} if "flag_key" in arguments else {"experiment_key": KEY}
    with pytest.raises(ValueError, match=message):
        AmplitudeDecideExperimentOperator(task_id="decide", **named, **arguments)


def test_what_a_form_left_out_is_missing_before_the_first_request(running):
    with pytest.raises(AirflowFailException, match="needs the key of the winner"):
        decide(variant="None")
    assert running.requests() == []


def test_the_older_api_has_no_decisions_and_gets_no_half_of_one(running, monkeypatch):
    connect(monkeypatch, running, dialect="beta")
    with pytest.raises(AirflowFailException, match="beta"):
        decide()
    assert writes(running) == []
