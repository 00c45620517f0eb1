"""The task group of a staged rollout: its tasks, their order, their defaults, and what is refused at parse time."""

from __future__ import annotations

import json
from datetime import timedelta

import pytest
from airflow.sdk import DAG, TaskGroup, task_group

from airflow_amplitude_experiment.rollout import RolloutPlan, SqlGuardrail, Stage, staged_rollout

PLAN = RolloutPlan.parse("1% 1h, 10% 1d, 50% 2d, 100%")
QUERY = "select * from sums where at between %(stage_start)s and %(stage_end)s"


def errors(**options):
    return SqlGuardrail("errors", **{"sql": QUERY, "conn_id": "dwh", "harm": "increase", "mde": 0.01, **options})


def a_dag(plan=PLAN, *, default_args=None, **options):
    """A DAG that holds one staged rollout."""
    with DAG("release", schedule=None, default_args=default_args or {}) as dag:
        staged_rollout(**{"flag_key": "new-checkout", "plan": plan, **options})
    return dag


def upstream(dag, task_id):
    return sorted(dag.get_task(f"rollout.{task_id}").upstream_task_ids)


def test_each_stage_is_a_ramp_and_a_watch_named_by_its_percentage():
    assert a_dag().task_ids == [
        "rollout.begin",
        "rollout.to_1.ramp",
        "rollout.to_1.watch",
        "rollout.to_10.ramp",
        "rollout.to_10.watch",
        "rollout.to_50.ramp",
        "rollout.to_50.watch",
        "rollout.to_100.ramp",
        "rollout.to_100.watch",
        "rollout.rollback",
    ]


def test_each_task_follows_the_one_before():
    dag = a_dag()
    assert upstream(dag, "to_1.ramp") == ["rollout.begin"]
    assert upstream(dag, "to_1.watch") == ["rollout.to_1.ramp"]
    assert upstream(dag, "to_10.ramp") == ["rollout.to_1.watch"]


def test_the_rollback_is_a_teardown_below_every_ramp_and_watch():
    dag = a_dag()
    rollback = dag.get_task("rollout.rollback")
    assert rollback.is_teardown
    assert set(rollback.upstream_task_ids) == set(dag.task_ids) - {"rollout.begin", "rollout.rollback"}


def test_what_follows_the_group_waits_for_the_last_watch_and_not_for_the_rollback():
    from airflow.providers.standard.operators.empty import EmptyOperator

    with DAG("release", schedule=None) as dag:
        staged_rollout(flag_key="new-checkout", plan=PLAN) >> EmptyOperator(task_id="announce")
    assert sorted(dag.get_task("announce").upstream_task_ids) == ["rollout.to_100.watch"]


def test_a_last_stage_that_opts_out_is_not_watched():
    dag = a_dag(RolloutPlan.parse("10% 1h, 100% 0h"))
    assert "rollout.to_100.watch" not in dag.task_ids
    assert upstream(dag, "rollback") == ["rollout.to_10.ramp", "rollout.to_10.watch", "rollout.to_100.ramp"]


def test_with_hold_there_is_no_rollback():
    assert "rollout.rollback" not in a_dag(on_breach="hold").task_ids


def test_a_list_of_stages_is_a_plan():
    assert "rollout.to_5.ramp" in a_dag([Stage(5, "1h"), Stage(100)]).task_ids


# --- approvals ---


def test_an_approval_stands_beside_a_watch_before_the_next_ramp():
    dag = a_dag([Stage(10, "1d", approval=True), Stage(100)])
    assert upstream(dag, "to_10.approve") == ["rollout.to_10.watch"]
    assert upstream(dag, "to_10.watch_approval") == ["rollout.to_10.watch"]
    assert upstream(dag, "to_100.ramp") == ["rollout.to_10.approve", "rollout.to_10.watch_approval"]


def test_an_open_approval_does_not_hold_up_the_rollback():
    dag = a_dag([Stage(10, "1d", approval=True), Stage(100)])
    assert "rollout.to_10.approve" not in upstream(dag, "rollback")
    assert "rollout.to_10.watch_approval" in upstream(dag, "rollback")


def test_approve_above_asks_before_every_raise_above():
    asked = [each for each in a_dag(approve_above=10).task_ids if each.endswith("approve")]
    assert asked == ["rollout.to_10.approve", "rollout.to_50.approve"]


def test_a_first_stage_above_it_is_asked_for_after_begin():
    dag = a_dag(RolloutPlan.parse("50% 1h, 100%"), approve_above=25)
    assert upstream(dag, "approve") == ["rollout.begin"]
    assert upstream(dag, "to_50.ramp") == ["rollout.approve"]


def test_an_approval_has_no_second_try_no_default_and_fails_on_reject():
    approve = a_dag(approve_above=49, default_args={"retries": 5}).get_task("rollout.to_10.approve")
    assert (approve.retries, approve.defaults, approve.fail_on_reject) == (0, None, True)


def test_approvers_are_users_as_airflow_names_them():
    dag = a_dag(approve_above=49, approvers=["7", {"id": "8", "name": "ada"}])
    assert dag.get_task("rollout.to_10.approve").assigned_users == [
        {"id": "7", "name": "7"},
        {"id": "8", "name": "ada"},
    ]


def test_the_ramp_after_an_approval_knows_both_its_watches():
    dag = a_dag(approve_above=49)
    ramp = dag.get_task("rollout.to_50.ramp")
    assert ramp.gates == ["rollout.to_10.watch", "rollout.to_10.watch_approval"]
    assert ramp.approve == "rollout.to_10.approve"
    assert dag.get_task("rollout.to_100.ramp").approve == "rollout.to_50.approve"
    assert dag.get_task("rollout.to_10.ramp").approve is None


# --- how the tasks are run ---


def test_tasks_are_tried_again_unless_the_dag_says_otherwise():
    assert a_dag().get_task("rollout.to_1.ramp").retries == 3
    assert a_dag().get_task("rollout.to_1.ramp").retry_exponential_backoff
    assert a_dag(default_args={"retries": 0}).get_task("rollout.to_1.ramp").retries == 0


def test_a_group_around_it_may_say_otherwise_too():
    with DAG("release", schedule=None), TaskGroup("outer", default_args={"retries": 7}):
        group = staged_rollout(flag_key="new-checkout", plan=PLAN)
    assert group.children["outer.rollout.begin"].retries == 7


def test_no_default_of_a_dag_stands_in_the_way_of_a_rollback():
    slow = {
        "pool": "amplitude",
        "retries": 0,
        "depends_on_past": True,
        "execution_timeout": timedelta(seconds=1),
        "priority_weight": 1,
        "pool_slots": 200,
        "max_active_tis_per_dag": 1,
        "max_active_tis_per_dagrun": 1,
        "trigger_rule": "all_success",
    }
    rollback = a_dag(default_args=slow).get_task("rollout.rollback")
    assert rollback.pool == "default_pool"
    assert rollback.depends_on_past is False
    assert rollback.execution_timeout is None
    assert rollback.retries >= 30
    assert rollback.retry_delay <= timedelta(seconds=30)
    assert rollback.priority_weight > 100
    assert rollback.pool_slots == 1
    assert rollback.max_active_tis_per_dag is None
    assert rollback.max_active_tis_per_dagrun is None
    assert rollback.trigger_rule == "all_done_setup_success"


@pytest.mark.parametrize("rule", ["all_done", "always", "none_failed"])
def test_no_default_of_a_dag_lets_a_stage_follow_what_failed(rule):
    dag = a_dag(default_args={"trigger_rule": rule}, approve_above=25)
    rules = {task.task_id: task.trigger_rule for task in dag.tasks if task.task_id != "rollout.rollback"}
    assert set(rules.values()) == {"all_success"}


def test_the_watch_that_a_ramp_follows_knows_it():
    """It goes on watching while a window or the freeze holds that ramp back."""
    dag = a_dag(approve_above=25)
    before = {task.task_id: task.before_a_raise for task in dag.tasks if "watch" in task.task_id}
    assert before == {
        "rollout.to_1.watch": True,
        "rollout.to_10.watch": False,
        "rollout.to_10.watch_approval": True,
        "rollout.to_50.watch": False,
        "rollout.to_50.watch_approval": True,
        "rollout.to_100.watch": False,
    }


@pytest.mark.parametrize(
    ("bake", "seconds"),
    [("30s", 30), ("2m", 120), ("30m", 300), ("1h", 300), ("6h", 1800), ("1d", 3600), ("30d", 3600)],
)
def test_it_looks_a_dozen_times_between_every_5_minutes_and_every_hour(bake, seconds):
    watch = a_dag(RolloutPlan.parse(f"10% {bake}, 100%")).get_task("rollout.to_10.watch")
    assert watch.check_every == seconds


@pytest.mark.parametrize(("bake", "seconds"), [("5m", 3600), ("1d", 86400)])
def test_a_hold_lasts_as_long_as_the_bake_and_at_least_an_hour(bake, seconds):
    assert a_dag(RolloutPlan.parse(f"10% {bake}, 100%")).get_task("rollout.to_10.watch").hold_for == seconds


def test_both_can_be_stated():
    watch = a_dag(check_every="10m", hold_for="12h").get_task("rollout.to_10.watch")
    assert (watch.check_every, watch.hold_for) == (600, 43200)


def test_guardrails_of_the_rollout_and_of_a_stage_are_watched_and_counted_together():
    own = SqlGuardrail("latency", sql=QUERY, conn_id="dwh", harm="increase", mde=1)
    dag = a_dag([Stage(10, "1d", guardrails=[own]), Stage(100)], guardrails=[errors()])
    names = [each["name"] for each in dag.get_task("rollout.to_10.watch").guardrails]
    later = [each["name"] for each in dag.get_task("rollout.to_100.watch").guardrails]
    assert (names, later) == (["errors", "latency"], ["errors"])
    assert len(dag.get_task("rollout.to_100.watch").counted) == 2


def test_a_guardrail_that_two_stages_share_counts_once():
    dag = a_dag([Stage(10, "1d", guardrails=[errors()]), Stage(50, "1d", guardrails=[errors()]), Stage(100)])
    assert len(dag.get_task("rollout.to_10.watch").counted) == 1


def test_different_guardrails_of_one_name_are_refused():
    with pytest.raises(ValueError, match="different guardrails are named 'errors'"):
        a_dag([Stage(10, "1d", guardrails=[errors()]), Stage(50, "1d", guardrails=[errors(mde=0.5)]), Stage(100)])


def test_the_file_of_a_query_is_read_and_rendered_for_every_stage_that_it_watches(tmp_path):
    (tmp_path / "errors.sql").write_text(f"{QUERY} and {{{{ params.shop }}}}")
    with DAG("release", schedule=None, template_searchpath=[str(tmp_path)], params={"shop": "uk"}) as dag:
        staged_rollout(flag_key="new-checkout", plan=PLAN, guardrails=[errors(sql="errors.sql")])
    dag.resolve_template_files()  # as Airflow does at every parse
    for watch in (dag.get_task(f"rollout.to_{percentage}.watch") for percentage in PLAN.percentages):
        watch.render_template_fields({"params": {"shop": "uk"}})
        assert [each["sql"] for each in watch.guardrails] == [f"{QUERY} and uk"]


def test_an_experiment_can_be_analysed_after_the_longest_settling():
    dag = a_dag(
        guardrails=[
            errors(settle="5m"),
            SqlGuardrail("x", sql=QUERY, conn_id="d", harm="increase", mde=1, settle="20m"),
        ]
    )
    assert dag.get_task("rollout.to_100.ramp").settle == 1200
    assert a_dag().get_task("rollout.to_100.ramp").settle == 300


def test_the_tooltip_shows_the_plan_in_offsets():
    assert a_dag().task_group.children["rollout"].tooltip == PLAN.offsets()


def test_two_parses_give_the_same_serialized_dag():
    try:
        from airflow.serialization.serialized_objects import DagSerialization
    except ImportError:  # Airflow 3.1
        from airflow.serialization.serialized_objects import SerializedDAG as DagSerialization

    def guard() -> str:
        return "pass"

    def written():
        dag = a_dag(guardrails=[errors(), guard], approve_above=25, approvers=["7"])
        return json.dumps(DagSerialization.to_dict(dag), sort_keys=True)

    assert written() == written()


def test_it_can_be_mapped_over_several_objects():
    with DAG("release", schedule=None) as dag:

        @task_group
        def one(flag_key):
            staged_rollout(flag_key=flag_key, plan=PLAN)

        one.expand(flag_key=["a", "b"])
    assert "one.rollout.to_10.watch" in dag.task_ids


# --- refused at parse time ---


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"plan": "10% 1h, 100%"}, "RolloutPlan.parse"),
        ({"flag_key": None}, "exactly one"),
        ({"experiment_key": "x"}, "exactly one"),
        ({"alpha": 5}, "alpha=5"),
        ({"alpha": 0}, "alpha=0"),
        ({"on_breach": "panic"}, "on_breach='panic'"),
        ({"on_drift": "ignore"}, "on_drift"),
        ({"check_every": "0s"}, "check_every='0s'"),
        ({"hold_for": "-1h"}, "hold_for"),
        ({"rollback_deadline": "soon"}, "rollback_deadline='soon'"),
        ({"approve_within": 0}, "approve_within=0"),
        ({"approve_above": 101}, "approve_above"),
        ({"approvers": [""]}, "approvers"),
        ({"rollback_to": 1}, "rollback_to=1 is not below"),
        ({"rollback_to": "of"}, "go back to"),
        ({"start_at": 100}, "start_at=100 leaves nothing"),
        ({"start_at": 10, "rollback_to": 20}, "rollback_to=20 is above start_at=10"),
        ({"guardrails": ["errors"]}, "errors"),
        ({"guardrails": [errors(), errors()]}, "two guardrails"),
    ],
)
def test_what_cannot_be_meant_is_refused_while_the_dag_is_parsed(options, says):
    with pytest.raises((ValueError, TypeError), match=says):
        a_dag(**options)


@pytest.mark.parametrize("name", ["start_at", "rollback_to", "segment", "on_drift", "reason", "enable"])
def test_templates_are_left_for_later(name):
    a_dag(**{name: "{{ params.x }}"})


def test_a_rollout_may_begin_above_its_first_stage_where_start_at_says_so():
    a_dag(start_at=20, rollback_to=10)
