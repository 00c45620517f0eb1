"""A stage's ramp against the emulator over real HTTP: from where it starts, what it waits for, what it records."""

from __future__ import annotations

import json
import logging
from datetime import UTC, datetime, timedelta

import pytest
from airflow.providers.common.compat.sdk import AirflowFailException, TaskDeferred

from airflow_amplitude_experiment.operators import ramp as ramp_module
from airflow_amplitude_experiment.operators.ramp_stage import AmplitudeRampStageOperator
from airflow_amplitude_experiment.rollout import RolloutPlan, Window
from tests.builders import a_context, a_segment

KEY = "new-checkout"
PLAN = RolloutPlan.parse("1% 1h, 10% 1h, 50% 1h, 100%")


@pytest.fixture(autouse=True)
def log_of_the_task(monkeypatch, caplog):
    """Airflow 3.3 writes a task's log past ``logging``, where ``caplog`` doesn't see it."""
    monkeypatch.setattr(AmplitudeRampStageOperator, "log", logging.getLogger("the task's log"))
    caplog.set_level(logging.INFO)


@pytest.fixture
def amplitude(amplitude_emulator, monkeypatch):
    """The emulator with a live flag at 0 %, and a connection to it."""
    monkeypatch.setattr(ramp_module, "SECONDS_BEFORE_ANOTHER_LOOK", 0.0)
    connection = amplitude_emulator.airflow_connection(requests_per_second=100)
    monkeypatch.setenv("AIRFLOW_CONN_AMPLITUDE_EXPERIMENT_DEFAULT", connection)
    amplitude_emulator.add_flag(KEY, enabled=True, rolloutPercentage=0)
    amplitude_emulator.clear_requests()
    return amplitude_emulator


def stage(to, *, plan=PLAN, **options):
    named = {} if "experiment_key" in options else {"flag_key": options.pop("flag_key", KEY)}
    earlier = [f"rollout.to_{each}.ramp" for each in plan.percentages if each < to]
    options = {"begin": "rollout.begin", "ramps": earlier, **named, **options}
    return AmplitudeRampStageOperator(task_id="ramp", plan=plan.as_dict(), percentage=to, **options)


def run(to, *, context=None, **options):
    return stage(to, **options).execute(context or a_context())


def writes(emulator):
    return [request["body"] for request in emulator.requests() if request["method"] == "PATCH"]


def stands(emulator):
    return emulator.flag(KEY)["rolloutPercentage"]


def test_a_stage_costs_four_requests_and_records_what_it_began_with(amplitude):
    record = run(1)
    assert [(each["method"], each["path"].rsplit("/", 1)[-1]) for each in amplitude.requests()] == [
        ("GET", "flags"),
        ("GET", "variants"),
        ("PATCH", amplitude.flag(KEY)["id"]),
        ("GET", amplitude.flag(KEY)["id"]),
    ]
    assert writes(amplitude) == [{"rolloutPercentage": 1}]
    assert (record["stage"], record["expected"], record["after"], record["written"]) == (1, 0, 1, True)
    assert record["fingerprint"]["rolloutWeights"]
    assert record["fingerprint_taken_anew"] is True


@pytest.mark.parametrize(("to", "found"), [(1, 0), (10, 1), (50, 10), (100, 50)])
def test_a_stage_expects_the_percentage_of_the_stage_before(amplitude, to, found):
    amplitude.change(KEY, rolloutPercentage=found)
    assert run(to)["expected"] == found
    assert stands(amplitude) == to


@pytest.mark.parametrize("found", [0, 2, 9, 20])
def test_any_other_percentage_is_drift_and_writes_nothing(amplitude, found):
    amplitude.change(KEY, rolloutPercentage=found)
    with pytest.raises(AirflowFailException, match=f"stands at {found} %"):
        run(10)
    assert not writes(amplitude)


@pytest.mark.parametrize("found", [10, 50, 100])
def test_its_own_percentage_and_those_of_later_stages_are_done_with_one_request(amplitude, found):
    amplitude.change(KEY, rolloutPercentage=found)
    amplitude.clear_requests()
    record = run(10)
    assert record["written"] is False
    assert record["after"] == found
    assert [request["method"] for request in amplitude.requests()] == ["GET"]


def test_a_ramp_that_wrote_nothing_counts_from_the_objects_last_change(amplitude):
    amplitude.change(KEY, rolloutPercentage=10)
    changed = datetime.fromisoformat(amplitude.flag(KEY)["lastModifiedAt"])
    assert datetime.fromisoformat(run(10)["at"]) == changed


@pytest.mark.parametrize(("base", "found"), [(None, 0), ("off", 0), (0, 0), (5, 5), ("5", 5)])
def test_the_first_stage_expects_where_a_rollback_would_lead(amplitude, base, found):
    amplitude.change(KEY, rolloutPercentage=found)
    plan = RolloutPlan.parse("10% 1h, 100%")
    assert run(10, plan=plan, rollback_to=base)["expected"] == found


def test_stages_below_start_at_succeed_without_a_request(amplitude):
    record = run(10, start_at="20")
    assert record == {"kind": "flag", "stage": 10, "below_start": True, "written": False}
    assert not amplitude.requests()


@pytest.mark.parametrize(("start_at", "first"), [(20, 50), ("10", 10), (49, 50)])
def test_the_first_stage_from_start_at_on_expects_it(amplitude, start_at, first):
    amplitude.change(KEY, rolloutPercentage=int(start_at))
    assert run(first, start_at=start_at)["expected"] == int(start_at)
    assert stands(amplitude) == first


@pytest.mark.parametrize("wrong", ["soon", 101, 7.5, True, "-1"])
def test_a_start_that_cannot_be_meant_is_refused_before_the_first_request(amplitude, wrong):
    with pytest.raises(AirflowFailException, match="start at or to go back to"):
        run(10, start_at=wrong)
    assert not amplitude.requests()


def test_enable_counts_for_the_first_write_of_the_rollout_only(amplitude):
    amplitude.add_flag("new-search", enabled=False, rolloutPercentage=0)
    run(1, flag_key="new-search", enable=True)
    assert amplitude.flag("new-search")["enabled"] is True
    amplitude.change("new-search", enabled=False)
    with pytest.raises(AirflowFailException, match="disabled"):
        run(10, flag_key="new-search", enable=True)
    assert len(writes(amplitude)) == 1


def test_enable_counts_for_the_first_stage_after_start_at(amplitude):
    amplitude.add_flag("new-search", enabled=False, rolloutPercentage=20)
    run(50, flag_key="new-search", enable=True, start_at=20)
    assert amplitude.flag("new-search")["enabled"] is True


def the_run_so_far(found, **more):
    """A context in which ``begin`` has left the fingerprint of the flag as it was found."""
    context = a_context()
    context["ti"].of_others = {"rollout.begin": {"fingerprint": found}, **more}
    return context


@pytest.fixture
def begun(amplitude):
    """The flag's fingerprint at the beginning; it stands at 1 % then."""
    found = run(1)["fingerprint"]
    amplitude.clear_requests()
    return found


def test_a_changed_weight_fails_the_ramp_and_names_who_did_it(amplitude, begun):
    amplitude.change(KEY, rolloutWeights={"on": 3})
    with pytest.raises(AirflowFailException, match="was changed since this rollout began: rolloutWeights") as failure:
        run(10, context=the_run_so_far(begun))
    assert "Its last change is version" in str(failure.value)
    assert not writes(amplitude)


@pytest.mark.parametrize("fields", [{"name": "Another name"}, {"tags": ["a"]}, {"description": "words"}])
def test_names_tags_and_words_are_no_drift(amplitude, begun, fields):
    amplitude.change(KEY, **fields)
    assert run(10, context=the_run_so_far(begun))["written"] is True


def test_overwrite_does_not_overwrite_other_fields_either(amplitude, begun):
    amplitude.change(KEY, rolloutWeights={"on": 3})
    with pytest.raises(AirflowFailException, match="was changed since"):
        run(10, context=the_run_so_far(begun), on_drift="overwrite")


def test_continue_takes_a_change_as_new_and_starts_the_evidence_anew(amplitude, begun, caplog):
    amplitude.change(KEY, rolloutWeights={"on": 3})
    record = run(10, context=the_run_so_far(begun), on_drift="continue")
    assert record["written"] is True
    assert record["evidence_anew"].startswith("rolloutWeights")
    assert record["fingerprint"]["rolloutWeights"] == {"on": 3}
    assert "on_drift='continue'" in caplog.text


def test_the_newest_fingerprint_counts_so_that_a_change_is_told_once(amplitude, begun):
    amplitude.change(KEY, rolloutWeights={"on": 3})
    first = run(10, context=the_run_so_far(begun), on_drift="continue")
    record = run(50, context=the_run_so_far(begun, **{"rollout.to_10.ramp": first}))
    assert record["evidence_anew"] is None


def test_a_change_that_was_taken_on_is_still_on_record_after_the_worker_died(amplitude, begun):
    amplitude.change(KEY, rolloutWeights={"on": 3}, rolloutPercentage=10)  # the write was made, its record was not
    context = the_run_so_far(begun)
    context["ti"].try_number = 2
    record = run(10, context=context, on_drift="continue")
    assert record["written"] is False
    assert record["evidence_anew"].startswith("rolloutWeights")


def test_a_fingerprint_that_is_gone_is_taken_anew_and_the_record_says_so(amplitude, begun, caplog):
    record = run(10)
    assert record["fingerprint_taken_anew"] is True
    assert "not on record any more" in caplog.text


# --- waiting for a raise ---


def a_plan_that_opens(opening):
    closed = (datetime(2026, 1, 1, tzinfo=UTC), opening)
    return RolloutPlan.parse("1% 1h, 10% 1h, 50% 1h, 100%", freezes=[closed])


def test_outside_the_windows_it_defers_to_the_next_opening_and_writes_nothing(amplitude, caplog):
    opening = datetime.now(UTC).replace(microsecond=0) + timedelta(hours=5)
    with pytest.raises(TaskDeferred) as deferred:
        run(1, plan=a_plan_that_opens(opening))
    assert deferred.value.trigger.moment == opening
    assert deferred.value.method_name == "execute_complete"
    assert not writes(amplitude)
    assert f"windows open next at {opening:%Y-%m-%d %H:%M}Z" in caplog.text


def test_when_the_window_opens_it_goes_on_as_if_it_had_just_started(amplitude):
    record = stage(1).execute_complete(a_context(), event=None, held="the plan's windows")
    assert record["written"] is True


def test_a_wait_is_told_once(amplitude, monkeypatch, caplog):
    monkeypatch.setenv("AIRFLOW_VAR_AMPLITUDE_EXPERIMENT_FREEZE", json.dumps([KEY]))
    with pytest.raises(TaskDeferred) as deferred:
        run(1)
    assert caplog.text.count("is not raised to 1 % now") == 1
    with pytest.raises(TaskDeferred):
        stage(1).execute_complete(a_context(), event=None, **deferred.value.kwargs)
    assert caplog.text.count("is not raised to 1 % now") == 1


def test_while_the_freeze_names_it_it_looks_again_every_five_minutes(amplitude, monkeypatch, caplog):
    monkeypatch.setenv("AIRFLOW_VAR_AMPLITUDE_EXPERIMENT_FREEZE", '["new-*"]')
    with pytest.raises(TaskDeferred) as deferred:
        run(1)
    left = deferred.value.trigger.moment - datetime.now(UTC)
    assert timedelta(minutes=4) < left <= timedelta(minutes=5)
    assert "amplitude_experiment_freeze" in caplog.text
    assert not writes(amplitude)


def test_a_freeze_of_other_objects_holds_nothing_up(amplitude, monkeypatch):
    monkeypatch.setenv("AIRFLOW_VAR_AMPLITUDE_EXPERIMENT_FREEZE", '["old-*"]')
    assert run(1)["written"] is True


def test_a_stage_that_has_nothing_to_write_waits_for_no_window(amplitude):
    amplitude.change(KEY, rolloutPercentage=1)
    assert run(1, plan=a_plan_that_opens(datetime.now(UTC) + timedelta(hours=5)))["written"] is False


def test_a_window_in_a_time_zone_is_waited_for(amplitude):
    tomorrow = (datetime.now(UTC) + timedelta(days=1)).strftime("%a").lower()
    plan = RolloutPlan.parse("1% 1h, 100%", windows=[Window(days=tomorrow, hours="00:00-24:00")])
    with pytest.raises(TaskDeferred) as deferred:
        run(1, plan=plan)
    midnight = (datetime.now(UTC) + timedelta(days=1)).replace(hour=0, minute=0, second=0, microsecond=0)
    assert deferred.value.trigger.moment == midnight


# --- which decision it follows ---


def following(verdict, **more):
    context = a_context()
    context["ti"].of_others = {("rollout.to_1.watch", "verdict"): verdict, **more}
    return context


def test_a_ramp_after_a_pass_records_the_guardrails_numbers(amplitude):
    amplitude.change(KEY, rolloutPercentage=1)
    passed = {"verdict": "pass", "guardrails": [{"name": "errors", "p": 0.4}]}
    record = run(10, gates=["rollout.to_1.watch"], context=following(passed))
    assert record["guardrails"] == [{"name": "errors", "p": 0.4}]
    assert record["by_hand"] is None


@pytest.mark.parametrize(
    ("verdict", "said"),
    [(None, "it left no verdict"), ({"verdict": "inconclusive", "guardrails": []}, "its verdict is inconclusive")],
)
def test_a_ramp_after_a_watch_marked_successful_says_and_records_it(amplitude, caplog, verdict, said):
    amplitude.change(KEY, rolloutPercentage=1)
    record = run(10, gates=["rollout.to_1.watch"], context=following(verdict))
    assert record["by_hand"] == f"rollout.to_1.watch was marked successful by hand: {said}"
    assert "follows a decision by hand" in caplog.text
    assert '"by_hand"' in caplog.text, "the audit lines hold it"


@pytest.mark.parametrize(
    ("answer", "approver"),
    [
        ({"chosen_options": ["Approve"], "responded_by_user": {"id": "7", "name": "ada"}}, "ada"),
        ({"chosen_options": ["Approve"], "responded_by_user": {"id": "7", "name": None}}, "7"),
        ({"chosen_options": ["Approve"], "responded_by_user": None}, "somebody, whom Airflow did not name"),
        ({"not_asked": "10 % is not above start_at=20"}, None),
        (None, "nobody: task rollout.to_1.approve was marked successful by hand"),
    ],
)
def test_a_ramp_records_who_approved_it(amplitude, answer, approver):
    amplitude.change(KEY, rolloutPercentage=1)
    context = a_context()
    context["ti"].of_others = {"rollout.to_1.approve": answer}
    assert run(10, approve="rollout.to_1.approve", context=context)["approved_by"] == approver


# --- segments and experiments ---


def test_a_segments_percentage_is_ramped(amplitude):
    amplitude.add_flag("beta", enabled=True, rolloutPercentage=0, targetSegments=[a_segment(percentage=1)])
    record = run(10, flag_key="beta", segment="Beta testers")
    assert (record["before"], record["after"], record["segment"]) == (1, 10, "Beta testers")
    assert amplitude.flag("beta")["targetSegments"][0]["percentage"] == 10


def test_the_last_stage_of_an_experiment_says_from_when_its_numbers_count(amplitude):
    amplitude.add_experiment("price", enabled=True, rolloutPercentage=50)
    record = run(100, experiment_key="price", settle=600)
    analysis_from = datetime.fromisoformat(record["analysis_from"])
    assert timedelta(seconds=590) < analysis_from - datetime.fromisoformat(record["at"]) <= timedelta(seconds=600)
    assert writes(amplitude) == [{"rolloutPercentage": 100}]


def test_the_start_date_is_marked_in_the_same_write(amplitude):
    amplitude.add_experiment("price", enabled=True, rolloutPercentage=50)
    record = run(100, experiment_key="price", mark_start_date=True)
    (body,) = writes(amplitude)
    assert body["rolloutPercentage"] == 100
    assert datetime.fromisoformat(body["startDate"]) == datetime.fromisoformat(record["analysis_from"])


@pytest.mark.parametrize("to", [1, 10, 50])
def test_no_earlier_stage_marks_a_start_date(amplitude, to):
    amplitude.add_experiment("price", enabled=True, rolloutPercentage=PLAN.previous(to))
    assert run(to, experiment_key="price", mark_start_date=True)["analysis_from"] is None
    assert writes(amplitude) == [{"rolloutPercentage": to}]
