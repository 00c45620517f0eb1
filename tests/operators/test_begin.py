"""The begin of a rollout against the emulator over real HTTP: what it refuses, what it shows, what it costs."""

from __future__ import annotations

import json
import logging
from typing import Any

import pytest
from airflow.providers.common.compat.sdk import AirflowFailException, AirflowSkipException
from airflow.sdk import DAG

from airflow_amplitude_experiment.emulator import Emulator
from airflow_amplitude_experiment.operators.begin import AmplitudeBeginRolloutOperator
from airflow_amplitude_experiment.rollout.fingerprint import changed
from airflow_amplitude_experiment.rollout.guardrails import SqlGuardrail, described
from airflow_amplitude_experiment.rollout.plan import RolloutPlan, Window
from tests.builders import a_context, a_segment

KEY = "new-checkout"
PLAN = RolloutPlan.parse("1% 1h, 10% 1d, 50% 1d, 100%")
QUERY = "select 1 where :stage_start < :stage_end"


@pytest.fixture(autouse=True)
def logger(monkeypatch: pytest.MonkeyPatch) -> None:
    """Airflow 3.3 writes a task's log past ``logging``, where ``caplog`` doesn't see it."""
    monkeypatch.setattr(AmplitudeBeginRolloutOperator, "log", logging.getLogger("tests.begin"))


@pytest.fixture
def amplitude(amplitude_emulator: Emulator, monkeypatch: pytest.MonkeyPatch) -> Emulator:
    """The emulator with a live flag at 0 %, and a connection to it."""
    extra = {"requests_per_second": 1000, "environment": "production"}
    monkeypatch.setenv("AIRFLOW_CONN_AMPLITUDE_EXPERIMENT_DEFAULT", amplitude_emulator.airflow_connection(**extra))
    amplitude_emulator.add_flag(KEY, enabled=True, rolloutPercentage=0)
    amplitude_emulator.clear_requests()
    return amplitude_emulator


def begin(*, context: Any = None, plan: RolloutPlan = PLAN, **options: Any) -> dict[str, Any]:
    named = {} if {"flag_id", "experiment_key"} & options.keys() else {"flag_key": KEY}
    operator = AmplitudeBeginRolloutOperator(task_id="begin", plan=plan.as_dict(), **named, **options)
    record: dict[str, Any] = operator.execute(context or a_context())
    return record


def preview(**options: Any) -> str:
    context = a_context()
    begin(context=context, **options)
    text: str = context["ti"].xcoms["preview"]
    return text


def test_it_only_reads(amplitude):
    before = amplitude.flag(KEY)
    begin()
    assert {each["method"] for each in amplitude.requests()} == {"GET"}
    assert amplitude.flag(KEY) == before


def test_a_plain_flag_costs_one_read_two_more_and_two_for_each_variant(amplitude):
    begin()
    assert len(amplitude.requests()) == 5


def test_its_record_is_plain_json_that_later_tasks_can_go_by(amplitude):
    record = begin(start_at="0", rollback_to="off")
    assert json.loads(json.dumps(record)) == record
    flag = amplitude.flag(KEY)
    assert record["fingerprint"]["bucketingSalt"] == flag["bucketingSalt"]
    expected = {
        "kind": "flag",
        "key": KEY,
        "id": flag["id"],
        "project_id": amplitude.project_id,
        "environment": "production",
        "segment": None,
        "stands_at": 0,
        "enabled": True,
        "start_at": 0,
        "rollback_to": "off",
        "first": 0,
        "plan": PLAN.as_dict(),
        "weights": {"on": 1},
        "share": 1.0,
        "notes": [],
    }
    assert {name: record[name] for name in expected} == expected
    assert record.keys() - expected.keys() == {"fingerprint", "at"}


@pytest.mark.parametrize(
    ("stands", "options", "first"),
    [
        (0, {}, 0),
        (20, {"start_at": "20"}, 20),
        (5, {"rollback_to": "5"}, 5),
        (20, {"start_at": 20, "rollback_to": 5}, 20),
    ],
)
def test_what_the_first_raise_expects_is_start_at_else_rollback_to_else_0(amplitude, stands, options, first):
    amplitude.change(KEY, rolloutPercentage=stands)
    plan = RolloutPlan.parse("10% 1h, 30% 1h, 100%")
    assert begin(plan=plan, **options)["first"] == first


def test_what_a_form_leaves_empty_is_left_out(amplitude):
    record = begin(start_at="None", rollback_to="", segment="None")
    assert (record["start_at"], record["rollback_to"], record["segment"]) == (None, None, None)


def test_all_refusals_come_in_one_error_that_says_nothing_was_written_and_names_the_last_change(amplitude):
    amplitude.change(KEY, by="x@example.com", rolloutPercentage=60)
    amplitude.change(KEY, by="x@example.com", enabled=False)
    with pytest.raises(AirflowFailException) as caught:
        begin()
    text = str(caught.value)
    assert text.startswith(f"RolloutRefused: flag {KEY} (id {amplitude.flag(KEY)['id']}, project 100001)")
    assert text.count("\n- ") == 2
    assert "it is disabled" in text
    assert "stands at 60 %" in text
    assert "Nothing was written. Its last change is version 3" in text
    assert "disabled" in text.splitlines()[-1]


def test_a_refusal_costs_one_request_more_and_stands_without_it(amplitude, caplog):
    amplitude.change(KEY, rolloutPercentage=60)
    amplitude.fault("status", status=403, path="*/versions")
    with pytest.raises(AirflowFailException, match="stands at 60 %"):
        begin()
    assert len(amplitude.requests()) == 6


def test_a_refusal_leaves_no_preview(amplitude):
    amplitude.change(KEY, enabled=False)
    context = a_context()
    with pytest.raises(AirflowFailException):
        begin(context=context)
    assert "preview" not in context["ti"].xcoms


def test_an_archived_object_is_refused_by_key_and_by_id(amplitude):
    amplitude.add_flag("old", deleted=True)
    with pytest.raises(AirflowFailException, match="archived"):
        AmplitudeBeginRolloutOperator(task_id="b", flag_key="old", plan=PLAN.as_dict()).execute(a_context())
    with pytest.raises(AirflowFailException, match="archived"):
        begin(flag_id=amplitude.flag("old")["id"])


def test_a_plan_that_can_not_be_carried_out_is_one_more_refusal(amplitude):
    amplitude.change(KEY, enabled=False)
    frozen = [("2026-01-01T00:00:00+00:00", "2099-01-01T00:00:00+00:00")]
    with pytest.raises(AirflowFailException) as caught:
        begin(plan=RolloutPlan.parse("1% 1h, 100%", freezes=frozen))
    assert "no moment within 366 days" in str(caught.value)
    assert "disabled" in str(caught.value)


def test_a_start_above_the_plan_is_refused(amplitude):
    amplitude.change(KEY, rolloutPercentage=60)
    with pytest.raises(AirflowFailException, match="above the last stage"):
        begin(plan=RolloutPlan.parse("1% 1h, 50%"), start_at=60)


@pytest.mark.parametrize("context", [{"try_number": 2}, {"clear_number": 1}], ids=["later try", "cleared run"])
def test_a_later_try_or_a_cleared_run_goes_on_from_a_stage(amplitude, context):
    amplitude.change(KEY, rolloutPercentage=10)
    with pytest.raises(AirflowFailException, match="stands at 10 %"):
        begin()
    made = a_context(**context)
    record = begin(context=made)
    assert (record["stands_at"], record["first"]) == (10, 0)
    assert " 0 %    1 %" not in made["ti"].xcoms["preview"]
    assert "10 %   50 %" in made["ti"].xcoms["preview"]


def test_a_run_of_the_past_is_skipped_without_a_request(amplitude):
    with pytest.raises(AirflowSkipException):
        begin(context=a_context(run_type="backfill"))
    assert amplitude.requests() == []


def test_the_preview_shows_the_whole_plan_and_is_logged(amplitude, caplog):
    caplog.set_level(logging.INFO)
    text = preview(reason="ticket 7", rollback_to="off")
    assert f"flag {KEY} (id 21001, project 100001, production): stands at 0 %, enabled." in text
    assert "Reason: ticket 7" in text
    for stage in ("0 %    1 %", "1 %   10 %", "10 %   50 %", "50 %  100 %"):
        assert stage in text
    assert "Requests to Amplitude: 16" in text
    assert "The latest moment of one is" in text
    assert text in caplog.text


def test_the_preview_says_what_a_rollback_would_do(amplitude):
    assert "A rollback goes to 0 %" in preview()
    assert "A rollback switches it off" in preview(rollback_to="off")
    assert "A rollback switches it off" in preview(on_breach="off")


def test_windows_stand_in_the_preview(amplitude):
    windows = [Window(days="mon-thu", hours="09:00-16:00", timezone="Europe/Berlin")]
    assert "mon-thu 09:00-16:00 Europe/Berlin" in preview(plan=RolloutPlan.parse("1% 1h, 100%", windows=windows))


def test_behind_a_mutex_slot_and_a_holdout_the_true_share_is_told_and_recorded(amplitude):
    amplitude.add_experiment("pricing", enabled=True, variants=[{"key": "control"}, {"key": "treatment"}])
    amplitude.add_mutex("m", name="M", slots=[{"percentage": 50, "experiments": ["pricing"]}, {"percentage": 50}])
    amplitude.add_holdout("h", name="H", holdout_percentage=5, experiments=["pricing"])
    context = a_context()
    record = begin(experiment_key="pricing", context=context)
    text = context["ti"].xcoms["preview"]
    assert record["share"] == 0.475
    assert "- Mutex group 'M' (slot-1: 50 %) and holdout group 'H' (5 % held out)" in text
    assert "50 % here is 23.75 % of users" in text
    assert "50 % (treatment 25 %)" in text


def test_with_the_traffic_each_stage_shows_its_smallest_harm_of_those_who_get_through(amplitude):
    amplitude.add_experiment("pricing", enabled=True, variants=[{"key": "control"}, {"key": "treatment"}])
    sql = SqlGuardrail("rate", sql=QUERY, conn_id="dwh", harm="decrease", mde="20%")
    options = {"guardrails": described([sql]), "units_per_hour": 10_000, "rate": 0.1}
    text = preview(experiment_key="pricing", **options)
    assert "smallest harm shown" in text
    assert "each hour brings 10000 others" in text
    assert "A harm of 2.0 points (mde)" in text
    amplitude.add_mutex("m", name="M", slots=[{"percentage": 50, "experiments": ["pricing"]}, {"percentage": 50}])
    assert "each hour brings 5000 others" in preview(experiment_key="pricing", **options)


def test_without_the_traffic_the_preview_says_where_to_see_what_a_stage_can_show(amplitude):
    amplitude.add_experiment("pricing", enabled=True, variants=[{"key": "control"}, {"key": "treatment"}])
    sql = SqlGuardrail("rate", sql=QUERY, conn_id="dwh", harm="decrease", mde="20%")
    assert "depends on the traffic" in preview(experiment_key="pricing", guardrails=described([sql]))
    assert "depends on the traffic" not in preview()


def test_what_the_connection_s_rules_will_stop_is_said_before_the_first_write(amplitude, monkeypatch):
    extra = {"requests_per_second": 1000, "max_percentage": 50, "max_step": 20, "require_reason": True}
    monkeypatch.setenv("AIRFLOW_CONN_AMPLITUDE_EXPERIMENT_DEFAULT", amplitude.airflow_connection(**extra))
    assert begin()["notes"] == [
        "The connection's rule max_step=20 will refuse the step from 10 to 50 %.",
        "The connection's rule max_percentage=50 will refuse stage 100 %.",
        "The connection's rule max_step=20 will refuse the step from 50 to 100 %.",
        "The connection's rule require_reason will refuse every raise: no reason is given.",
    ]
    assert len(begin(reason="ticket 7")["notes"]) == 3


def test_groups_that_let_nobody_through_are_the_only_refusal_also_with_the_traffic_known(amplitude):
    amplitude.add_experiment("pricing", enabled=True)
    amplitude.add_mutex("m", name="M", slots=[{"percentage": 0, "experiments": ["pricing"]}, {"percentage": 100}])
    with pytest.raises(AirflowFailException, match="lets nobody through") as caught:
        begin(experiment_key="pricing", units_per_hour=1000, rate=0.1)
    assert str(caught.value).count("\n- ") == 1


def test_the_rollout_s_alpha_is_shared_by_all_comparisons(amplitude):
    amplitude.add_experiment("pricing", enabled=True, variants=[{"key": "control"}, {"key": "treatment"}])
    common = {"sql": QUERY, "conn_id": "dwh", "mde": "20%"}
    two = described([SqlGuardrail("a", harm="either", **common), SqlGuardrail("b", harm="increase", **common)])
    later = {"10": described([SqlGuardrail("c", harm="increase", **common)])}
    text = preview(
        experiment_key="pricing", guardrails=two, stage_guardrails=later, alpha=0.1, units_per_hour=10_000, rate=0.1
    )
    assert "alpha 0.025 for one comparison" in text


def test_guardrails_of_a_stage_are_checked_too(amplitude):
    sql = SqlGuardrail("rate", sql=QUERY, conn_id="dwh", harm="decrease", mde="20%")
    with pytest.raises(AirflowFailException, match="guardrail 'rate' compares variants"):
        begin(stage_guardrails={"10": described([sql])})


def test_a_segment_s_rollout_stands_where_the_segment_stands(amplitude):
    segments = [a_segment("Beta", 0, rolloutWeights={"on": 3})]
    amplitude.change(KEY, rolloutPercentage=40, targetSegments=segments)
    record = begin(segment="Beta")
    assert (record["segment"], record["stands_at"], record["weights"]) == ("Beta", 0, {"on": 3})
    assert record["fingerprint"]["rolloutPercentage"] == 40
    assert "percentage" not in record["fingerprint"]["targetSegments"][0]
    assert "all other users (40 %)" in record["notes"][0]


def test_a_disabled_flag_may_begin_with_enable_also_as_a_form_gives_it(amplitude):
    amplitude.change(KEY, enabled=False)
    assert begin(enable="True")["enabled"] is False


def test_a_user_sync_is_no_change_of_the_fingerprint_and_new_weights_are(amplitude):
    before = begin()["fingerprint"]
    amplitude.change(KEY, name="Another name", tags=["x"])
    assert changed(before, begin()["fingerprint"]) == []
    amplitude.change(KEY, rolloutWeights={"on": 2})
    assert changed(before, begin()["fingerprint"]) == ['rolloutWeights: {"on": 1} -> {"on": 2}']


def test_no_included_person_stands_in_a_log_a_record_or_the_preview(amplitude, caplog):
    caplog.set_level(logging.INFO)
    amplitude.change(KEY, variants=[{"key": "on", "users": ["person-17"]}])
    context = a_context()
    record = begin(context=context)
    assert "1 user or device in on" in caplog.text
    assert "person-17" not in caplog.text + json.dumps(record) + json.dumps(context["ti"].xcoms)


def test_a_read_only_connection_may_begin(amplitude, monkeypatch):
    extra = {"requests_per_second": 1000, "mode": "read_only"}
    monkeypatch.setenv("AIRFLOW_CONN_AMPLITUDE_EXPERIMENT_DEFAULT", amplitude.airflow_connection(**extra))
    record = begin()
    assert record["stands_at"] == 0
    assert record["notes"] == ["The connection is read-only: nothing will be written."]


@pytest.mark.parametrize(
    "wrong",
    [{"on_breach": "panic"}, {"on_drift": "ignore"}, {"start_at": 101}, {"rollback_to": "down"}, {"start_at": 12.5}],
)
def test_a_value_that_is_wrong_in_itself_is_refused_while_the_dag_is_parsed(wrong):
    with pytest.raises(ValueError, match=str(next(iter(wrong.values())))):
        AmplitudeBeginRolloutOperator(task_id="begin", flag_key=KEY, plan=PLAN.as_dict(), **wrong)


def test_templates_are_checked_after_rendering(amplitude):
    operator = AmplitudeBeginRolloutOperator(
        task_id="begin", flag_key=KEY, plan=PLAN.as_dict(), start_at="{{ params.start }}", on_drift="{{ params.drift }}"
    )
    operator.start_at, operator.on_drift = "0", "never"
    with pytest.raises(AirflowFailException, match="on_drift"):
        operator.execute(a_context())


def test_what_a_form_sets_is_a_template_field():
    fields = {"flag_key", "project_id", "start_at", "rollback_to", "segment", "enable", "on_drift", "reason"}
    assert fields <= set(AmplitudeBeginRolloutOperator.template_fields)


def test_it_is_no_writer(amplitude):
    with DAG("d"):
        operator = AmplitudeBeginRolloutOperator(task_id="begin", flag_key=KEY, plan=PLAN.as_dict())
    assert not operator.writes_percentage
    assert not getattr(operator, "writes_objects", False)
