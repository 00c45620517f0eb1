"""Asking a person before a raise: what the question says, who is asked, and what no approval means."""

from __future__ import annotations

import logging
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import pytest
from airflow.providers.common.compat.sdk import AirflowFailException, TaskDeferred
from airflow.providers.standard.operators import hitl
from airflow.sdk import DAG, Param

from airflow_amplitude_experiment.operators import approval as module
from airflow_amplitude_experiment.operators.approval import AmplitudeApproveRaiseOperator
from airflow_amplitude_experiment.rollout import RolloutPlan, Stage, staged_rollout
from airflow_amplitude_experiment.ui.links import URL_KEY
from tests.builders import a_context

try:
    from airflow.sdk.exceptions import TaskAwaitingInput
except ImportError:  # before Airflow 3.3
    TaskAwaitingInput = TaskDeferred

NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)
BEGIN, WATCH = "rollout.begin", "rollout.to_10.watch"
URL = "https://app.amplitude.com/experiment/acme/100001/config/7"
BEGUN = {
    "key": "new-checkout",
    "id": "7",
    "project_id": "100001",
    "environment": "production",
    "enabled": True,
    "share": 1.0,
    "fingerprint": {"stickyBucketing": False},
}
GUARDRAIL = {"name": "errors", "type": "callable", "verdict": "pass", "reason": "0.4 % of 12,000 requests"}
PASSED = {"verdict": "pass", "at": "2026-11-20T11:59:00+00:00", "reason": "all pass", "guardrails": [GUARDRAIL]}


@pytest.fixture(autouse=True)
def asked(monkeypatch, caplog):
    """Airflow's record of each question, kept here instead of sent."""
    questions = []
    monkeypatch.setattr(hitl, "upsert_hitl_detail", lambda **question: questions.append(question))
    monkeypatch.setattr(module, "now", lambda: NOW)
    monkeypatch.setattr(AmplitudeApproveRaiseOperator, "log", logging.getLogger("the task's log"))
    caplog.set_level(logging.INFO)
    return questions


def an_approval(**options):
    options = {"stage": 10, "percentage": 50, "watch": WATCH, **options}
    return AmplitudeApproveRaiseOperator(
        **{
            "task_id": "approve",
            "flag_key": "new-checkout",
            "subject": "Raise?",
            "begin": BEGIN,
            "within": timedelta(days=7),
            **options,
        }
    )


def a_run(begun=BEGUN, verdict=PASSED, url=URL):
    """The context of an approval in a run whose begin and watch left these records."""
    context = a_context(task_id="approve")
    context["task_instance"] = context["ti"]
    context["ti"].id = "0192d3a4-0000-7000-8000-000000000000"
    left = {BEGIN: begun, (BEGIN, URL_KEY): url, (WATCH, "verdict"): verdict}
    context["ti"].of_others = {name: value for name, value in left.items() if value is not None}
    return context


def question(asked, context=None, **options):
    """Ask, and return the question as a person sees it: its subject, and its body by rows."""
    operator = an_approval(**options)
    with pytest.raises((TaskDeferred, TaskAwaitingInput)):
        operator.execute(context or a_run())
    (seen,) = asked
    rows = seen["body"].split("\n\n")[0].split("\n* ")
    named = dict(row.removeprefix("* ").removeprefix("**").split(":** ", 1) for row in rows)
    return SimpleNamespace(subject=seen["subject"], body=seen["body"], rows=named, users=seen["assigned_users"])


# --- what it says ---


def test_the_question_as_a_whole(asked, caplog):
    seen = question(asked, rollback_to=1, reason="OPS-7")
    assert seen.subject == "Raise flag new-checkout (production) from 10 % to 50 %?"
    assert seen.body == (
        "* **Project:** 100001\n"
        "* **Raise:** 10 % -> 50 %\n"
        "* **Newly exposed:** 40 % of users who match no target segment\n"
        "* **Guardrails:** pass at 2026-11-20T11:59:00+00:00\n"
        "    * errors: pass: 0.4 % of 12,000 requests\n"
        "* **On a breach:** back to 1 %: users above it lose the variant\n"
        "* **Reason:** OPS-7\n"
        "* **Answer by:** 2026-11-27 12:00Z (7d). Without an answer, or on Reject, the run fails: it stays at 10 %, "
        "nothing is written\n"
        f"\n[Open in Amplitude]({URL})"
    )
    assert seen.body in caplog.text


@pytest.mark.parametrize(
    ("options", "raised", "exposed"),
    [
        ({"stage": None, "watch": None}, "0 % -> 50 %", "50 %"),
        ({"stage": None, "watch": None, "rollback_to": "5"}, "5 % -> 50 %", "45 %"),
        ({"stage": None, "watch": None, "rollback_to": "off"}, "0 % -> 50 %", "50 %"),
        ({"stage": None, "watch": None, "start_at": 20, "rollback_to": 5}, "20 % -> 50 %", "30 %"),
        ({"start_at": "20"}, "20 % -> 50 %", "30 %"),
        ({"start_at": 5}, "10 % -> 50 %", "40 %"),
        ({"start_at": "None"}, "10 % -> 50 %", "40 %"),
    ],
)
def test_it_says_from_where_to_where_and_how_many_are_new(asked, options, raised, exposed):
    rows = question(asked, **options).rows
    assert rows["Raise"] == raised
    assert rows["Newly exposed"].startswith(f"{exposed} of users")


@pytest.mark.parametrize("options", [{"stage": None, "watch": None}, {"start_at": 10}])
def test_the_first_raise_of_a_disabled_object_switches_it_on(asked, options):
    rows = question(asked, a_run({**BEGUN, "enabled": False}), **options).rows
    assert rows["Raise"].endswith("% -> 50 %, and switched on")


def test_later_raises_switch_nothing_on(asked):
    assert question(asked, a_run({**BEGUN, "enabled": False})).rows["Raise"] == "10 % -> 50 %"


def test_before_the_first_raise_no_guardrail_was_looked_at(asked):
    assert question(asked, stage=None, watch=None).rows["Guardrails"] == "not looked at yet"


def test_a_watch_without_guardrails_is_one_line(asked):
    verdict = {**PASSED, "reason": "no guardrails", "guardrails": []}
    assert question(asked, a_run(verdict=verdict)).rows["Guardrails"].endswith("+00:00: no guardrails")


def test_a_watch_that_left_nothing_is_said(asked):
    seen = question(asked, a_run(verdict=None))
    assert seen.rows["Guardrails"] == "no verdict on record (marked by hand?)"


def test_with_all_records_gone_it_still_asks(asked):
    seen = question(asked, a_run(begun=None, verdict=None, url=None), project_id=100001)
    assert seen.subject == "Raise flag new-checkout from 10 % to 50 %?"
    assert seen.rows["Project"] == "100001"
    assert (
        seen.rows["On a breach"] == "back to 0 %: users above it lose the variant unless sticky bucketing keeps them in"
    )
    assert "Open in Amplitude" not in seen.body


def test_mutex_and_holdout_groups_make_the_true_share(asked):
    exposed = question(asked, a_run({**BEGUN, "share": 0.475})).rows["Newly exposed"]
    assert exposed == "40 % of users who match no target segment, which is 19 % after mutex and holdout groups"


def test_a_segment_is_named(asked):
    assert question(asked, segment="Beta testers").rows["Newly exposed"] == "40 % of users of segment Beta testers"


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({}, "back to 0 %: users above it lose the variant"),
        ({"rollback_to": "1"}, "back to 1 %: users above it lose the variant"),
        ({"rollback_to": "off"}, "it is switched off: everybody loses the variant"),
        ({"on_breach": "off", "rollback_to": 1}, "it is switched off: everybody loses the variant"),
        ({"on_breach": "hold", "rollback_to": 1}, "nothing is written, it stays at 50 % (on_breach='hold')"),
    ],
)
def test_it_says_what_a_breach_would_do(asked, options, says):
    assert question(asked, **options).rows["On a breach"] == says


def test_with_sticky_bucketing_it_says_that_lowering_keeps_people_in(asked):
    sticky = {**BEGUN, "fingerprint": {"stickyBucketing": True}}
    says = question(asked, a_run(sticky), rollback_to=1).rows["On a breach"]
    assert says == "back to 1 %, but sticky bucketing is on: lowering keeps everybody in who is in"


def test_switching_off_takes_everybody_out_also_with_sticky_bucketing(asked):
    sticky = {**BEGUN, "fingerprint": {"stickyBucketing": True}}
    assert "everybody loses" in question(asked, a_run(sticky), rollback_to="off").rows["On a breach"]


def test_a_reason_can_forge_neither_a_row_nor_a_link(asked):
    rows = question(asked, reason="fine\n* **Guardrails:** pass\n[look](http://x.example)").rows
    assert rows["Guardrails"].startswith("pass at 2026")
    assert rows["Reason"] == r"fine \* \*\*Guardrails:\*\* pass \[look](http://x.example)"


@pytest.mark.parametrize("reason", [None, "", "None"])
def test_a_reason_that_was_left_out_is_said(asked, reason):
    assert question(asked, reason=reason).rows["Reason"] == "none given"


def test_in_a_mapped_group_it_speaks_of_its_own_object(asked):
    context = a_run()
    context["ti"].map_index = 2
    indexes = set()
    pull = context["ti"].xcom_pull
    context["ti"].xcom_pull = lambda **more: indexes.add(more["map_indexes"]) or pull(**more)
    question(asked, context)
    assert indexes == {2}


# --- who is asked, and when nobody is ---


def test_only_the_approvers_may_answer(asked):
    approvers = [{"id": "7", "name": "ada"}]
    assert question(asked, assigned_users=approvers).users == approvers


def test_the_form_of_a_dag_is_no_part_of_its_questions():
    """Airflow 3.1 asks for each of the DAG's params again, and refuses to parse one without a default."""
    with DAG("form", schedule=None, params={"ticket": Param(type="string")}):
        approval = an_approval()
    assert not approval.params


@pytest.mark.parametrize("start_at", [50, "50", 80])
def test_nobody_is_asked_for_a_raise_that_the_run_begins_at_or_above(asked, start_at):
    result = an_approval(start_at=start_at).execute(a_run())
    assert result == {"not_asked": f"50 % is not above start_at={start_at}"}
    assert asked == []


def test_a_start_that_is_no_percentage_fails_for_good(asked):
    with pytest.raises(AirflowFailException, match="'half', but must be a whole number"):
        an_approval(start_at="half").execute(a_run())
    assert asked == []


# --- the answer ---


def an_answer(option):
    who = {"id": "7", "name": "ada"}
    return {"chosen_options": [option], "params_input": {}, "responded_at": NOW, "responded_by_user": who}


def test_an_approval_is_recorded_with_who_gave_it():
    answer = an_approval().execute_complete(a_run(), an_answer("Approve"))
    assert answer["responded_by_user"]["name"] == "ada"


@pytest.mark.parametrize(
    ("event", "says"),
    [
        (an_answer("Reject"), "Rejected by ada"),
        ({"error": "The timeout has passed.", "error_type": "timeout"}, "No answer within 7d"),
    ],
)
def test_a_reject_or_no_answer_fails_for_good_where_it_stands_and_leaves_nothing(event, says):
    context = a_run()
    with pytest.raises(AirflowFailException, match=says) as failure:
        an_approval(retries=5).execute_complete(context, event)
    assert "flag new-checkout stays at 10 %, nothing was written. To ask again, clear this task." in str(failure.value)
    assert context["ti"].xcoms == {}


def the_limit(operator):
    return getattr(operator, "response_timeout", operator.execution_timeout)


def in_a_dag(**default_args):
    with DAG("rollouts", default_args=default_args) as dag:
        staged_rollout(
            flag_key="new-checkout", plan=RolloutPlan([Stage(10, "1d", approval=True), Stage(100)]), approve_within="3d"
        )
    return dag.get_task("rollout.to_10.approve")


@pytest.mark.parametrize("default_args", [{}, {"execution_timeout": timedelta(minutes=10), "retries": 4}])
def test_no_default_of_the_dag_shortens_the_time_for_an_answer(default_args):
    approve = in_a_dag(**default_args)
    assert the_limit(approve) == timedelta(days=3)
    assert approve.execution_timeout in (None, timedelta(days=3))
    assert approve.retries == 0


def test_the_time_for_an_answer_is_told_to_airflow(asked):
    operator = an_approval(within=timedelta(hours=2))
    with pytest.raises((TaskDeferred, TaskAwaitingInput)) as waiting:
        operator.execute(a_run())
    if TaskAwaitingInput is TaskDeferred:
        left = waiting.value.trigger.timeout_datetime - datetime.now(UTC)
        assert timedelta(hours=1, minutes=59) < left <= timedelta(hours=2)
    else:
        assert waiting.value.timeout == timedelta(hours=2)
    assert asked[0]["defaults"] is None


def test_nothing_is_asked_of_amplitude(asked, monkeypatch):
    monkeypatch.setenv("AIRFLOW_CONN_AMPLITUDE_EXPERIMENT_DEFAULT", "not a connection")
    assert question(asked).subject
