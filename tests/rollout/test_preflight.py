"""What stands against a rollout before its first write, and what is said of it."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from airflow_amplitude_experiment.api.models import Deployment, Holdout, Mutex, Variant
from airflow_amplitude_experiment.hooks.surroundings import Surroundings
from airflow_amplitude_experiment.rollout.guardrails import (
    ChartGuardrail,
    SampleRatioGuardrail,
    SqlGuardrail,
    described,
)
from airflow_amplitude_experiment.rollout.plan import RolloutPlan
from airflow_amplitude_experiment.rollout.preflight import Findings, Intent, preflight
from tests.builders import a_flag, a_segment, an_experiment

NOW = datetime(2026, 11, 22, 9, tzinfo=UTC)
PLAN = RolloutPlan.parse("1% 1h, 10% 1d, 50% 1d, 100%")
QUERY = "select 1 where :stage_start < :stage_end"
TWO = {"control": 1, "treatment": 1}


def around(**fields: Any) -> Surroundings:
    variants = [Variant.model_validate({"key": key, "rolloutWeight": 1}) for key in ("control", "treatment")]
    deployments = [Deployment.model_validate({"id": "31", "label": "web", "deleted": False})]
    return Surroundings(**{"variants": variants, "deployments": deployments, **fields})


def a_new_flag(**fields: Any) -> Any:
    return a_flag(**{"rolloutPercentage": 0, "rolloutWeights": {"on": 1}, **fields})


def a_new_experiment(**fields: Any) -> Any:
    return an_experiment(**{"rolloutPercentage": 0, "rolloutWeights": TWO, **fields})


def looked_at(found: Any, surroundings: Surroundings | None = None, **intent: Any) -> Findings:
    kind = "experiment" if type(found).__name__ == "Experiment" else "flag"
    asked = Intent(**{"kind": kind, "plan": PLAN, **intent})
    return preflight(found, surroundings or around(), asked, now=NOW)


def refused(found: Any, surroundings: Surroundings | None = None, **intent: Any) -> str:
    """Return the only refusal."""
    (refusal,) = looked_at(found, surroundings, **intent).refusals
    return refusal


def said(found: Any, surroundings: Surroundings | None = None, **intent: Any) -> str:
    findings = looked_at(found, surroundings, **intent)
    assert findings.refusals == []
    return "\n".join(findings.notes)


def a_comparison(name: str = "rate", **fields: Any) -> dict[str, Any]:
    guardrail = SqlGuardrail(name, **{"sql": QUERY, "conn_id": "dwh", "harm": "decrease", "mde": "20%", **fields})
    return described([guardrail])[0]


# --- what is refused ---


def test_a_healthy_flag_and_a_healthy_experiment_may_begin():
    assert looked_at(a_new_flag()).refusals == []
    assert looked_at(a_new_experiment()).refusals == []


@pytest.mark.parametrize(
    ("fields", "what", "way_out"),
    [
        ({"deleted": True}, "archived", "Restore it"),
        ({"enabled": False}, "disabled", "enable=True"),
        ({"rolloutWeights": {"on": 0}}, "all weights are 0", "Set the weights"),
        ({"rolloutWeights": {}}, "all weights are 0", "Set the weights"),
        ({"evaluationMode": "local", "bucketingKey": "amplitude_id"}, "nobody would get it", "user_id"),
        ({"kind": "web"}, "does not edit (405)", "in Amplitude"),
        ({"rolloutPercentage": None}, "not shown", "Look at"),
    ],
)
def test_what_can_not_go_well_is_refused_with_a_way_out(fields, what, way_out):
    refusal = refused(a_new_flag(**fields))
    assert what in refusal
    assert way_out in refusal


def test_a_disabled_object_may_begin_with_enable():
    assert "the first write switches it on" in said(a_new_flag(enabled=False), enable=True)


@pytest.mark.parametrize("mode_and_key", [("remote", "amplitude_id"), ("local", "user_id")])
def test_remote_evaluation_knows_amplitude_ids_and_local_knows_the_others(mode_and_key):
    mode, key = mode_and_key
    assert looked_at(a_new_flag(evaluationMode=mode, bucketingKey=key)).refusals == []


def test_a_segment_s_own_bucketing_key_counts_where_the_segment_is_ramped():
    segment = a_segment(percentage=0, bucketingKey="amplitude_id")
    found = a_new_flag(evaluationMode="local", bucketingKey="user_id", targetSegments=[segment])
    assert looked_at(found).refusals == []
    assert "amplitude_id" in refused(found, segment="Beta testers")


@pytest.mark.parametrize(("deleted", "told"), [(None, "no deployment"), (True, "only archived deployments")])
def test_an_object_that_no_application_asks_for_is_refused(deleted, told):
    deployments = [Deployment.model_validate({"id": "31", "deleted": deleted})] if deleted else []
    refusal = refused(a_new_flag(), around(deployments=deployments))
    assert told in refusal
    assert "Attach" in refusal


def test_deployments_that_can_not_be_asked_for_are_no_obstacle():
    assert looked_at(a_new_flag(), around(deployments=None)).refusals == []


@pytest.mark.parametrize(("enabled", "enable"), [(True, False), (False, True)])
def test_a_bandit_that_runs_or_would_run_is_refused(enabled, enable):
    found = a_new_experiment(experimentType="multi-arm-bandit", enabled=enabled)
    assert "running bandit" in refused(found, enable=enable)


def test_a_bandit_that_stays_disabled_is_refused_only_for_that():
    assert "it is disabled" in refused(a_new_experiment(experimentType="multi-arm-bandit", enabled=False))


def test_an_object_that_shows_no_segments_has_none():
    assert looked_at(a_new_flag(targetSegments=None)).refusals == []
    assert "no segment named" in refused(a_new_flag(targetSegments=None), segment="Beta")


def test_where_no_variant_is_served_nothing_is_said_of_comparing_them():
    assert "all weights are 0" in refused(a_new_flag(rolloutWeights={"on": 0}), guardrails=[a_comparison()])


def test_an_end_date_that_has_passed_is_refused_and_one_to_come_is_not():
    assert "2026-11-21" in refused(a_new_experiment(endDate="2026-11-21"))
    assert looked_at(a_new_experiment(endDate="2026-11-22")).refusals == []


def test_a_segment_that_catches_everyone_is_refused_and_named():
    refusal = refused(a_new_flag(targetSegments=[a_segment("All", conditions=[])]))
    assert "segment='All'" in refusal
    assert "would do nothing" in refusal


def test_a_segment_for_everyone_counts_only_above_the_one_that_is_ramped():
    everyone, beta = a_segment("All", conditions=[], percentage=0), a_segment("Beta", percentage=0)
    assert "'All'" in refused(a_new_flag(targetSegments=[everyone, beta]), segment="Beta")
    assert looked_at(a_new_flag(targetSegments=[beta, everyone]), segment="Beta").refusals == []
    assert looked_at(a_new_flag(targetSegments=[everyone]), segment="All").refusals == []


def test_a_segment_that_is_not_there_is_refused_and_those_there_are_named():
    refusal = refused(a_new_flag(targetSegments=[a_segment("Beta")]), segment="Beat")
    assert "no segment named 'Beat'; there are: 'Beta'" in refusal


@pytest.mark.parametrize(
    "strange", [{"conditions": [{"type": "cohort", "values": ["c1"]}]}, {"cohorts": ["c1"]}], ids=["condition", "field"]
)
def test_a_segment_s_rollout_is_refused_where_any_segment_can_not_be_written_back(strange):
    segments = [a_segment("Beta", 0), a_segment("Staff", 0, **strange)]
    assert "'Staff'" in refused(a_new_flag(targetSegments=segments), segment="Beta")
    assert looked_at(a_new_flag(targetSegments=segments)).refusals == []


def test_sticky_bucketing_asks_for_a_stated_target_of_a_rollback():
    found = a_new_experiment(stickyBucketing=True)
    assert "rollback_to='off'" in refused(found)


@pytest.mark.parametrize(
    "stated", [{"rollback_to": "off"}, {"rollback_to": 0}, {"on_breach": "off"}, {"on_breach": "hold"}]
)
def test_sticky_bucketing_with_a_stated_target_may_begin(stated):
    assert looked_at(a_new_experiment(stickyBucketing=True), **stated).refusals == []


def test_weights_that_differ_between_segments_of_an_experiment_are_refused():
    found = a_new_experiment(targetSegments=[a_segment(rolloutWeights={"control": 1, "treatment": 3})])
    refusal = refused(found)
    assert "all other users control 50 %, treatment 50 %" in refusal
    assert "segment 'Beta testers' control 25 %, treatment 75 %" in refusal


@pytest.mark.parametrize(
    "segment",
    [
        a_segment(rolloutWeights={"control": 50, "treatment": 50}),
        a_segment(rolloutWeights={"treatment": 1}, percentage=0),
    ],
    ids=["the same split in other numbers", "a segment that serves nobody"],
)
def test_weights_that_come_to_the_same_are_no_difference(segment):
    assert looked_at(a_new_experiment(targetSegments=[segment])).refusals == []


def test_weights_that_are_not_shown_are_no_difference():
    assert looked_at(a_new_experiment(rolloutWeights=None, targetSegments=[a_segment()])).refusals == []


def test_a_flag_s_segments_may_have_weights_of_their_own():
    found = a_new_flag(rolloutWeights={"a": 1, "b": 1}, targetSegments=[a_segment(rolloutWeights={"a": 1, "b": 3})])
    assert looked_at(found).refusals == []


def behind(share: int, **fields: Any) -> tuple[Any, Surroundings]:
    slots = [{"variantKey": "slot-1", "percentage": share}, {"variantKey": "slot-2", "percentage": 100 - share}]
    mutex = Mutex.model_validate({"id": "8", "name": "M", "slots": slots})
    holdout = Holdout.model_validate({"id": "9", "name": "H", "holdoutPercentage": 5})
    parents = {"flags": {"8": ["slot-1"], "9": ["on"]}, "operator": "all"}
    return a_new_flag(parentDependencies=parents, **fields), around(mutexes=[mutex], holdouts=[holdout])


def test_groups_that_let_nobody_through_are_refused():
    refusal = refused(*behind(0))
    assert "mutex group 'M' (slot-1: 0 %) and holdout group 'H' (5 % held out) let nobody through" in refusal


def test_all_findings_come_at_once():
    found = a_new_experiment(enabled=False, rolloutPercentage=30, endDate="2026-01-01", stickyBucketing=True)
    assert len(looked_at(found, around(deployments=[])).refusals) == 5


# --- where it must stand ---


@pytest.mark.parametrize(
    ("stands", "intent"),
    [
        (0, {}),
        (0, {"rollback_to": "off"}),
        (5, {"rollback_to": 5}),
        (20, {"start_at": 20}),
        (20, {"start_at": 20, "rollback_to": 5}),
        (100, {"start_at": 100}),
    ],
)
def test_a_fresh_run_begins_exactly_at_start_at_else_at_rollback_to_else_at_0(stands, intent):
    findings = looked_at(a_new_flag(rolloutPercentage=stands), **intent)
    assert findings.refusals == []


@pytest.mark.parametrize(
    ("stands", "intent", "begins"),
    [
        (1, {}, "begins at 0 %."),
        (10, {}, "begins at 0 %."),
        (30, {}, "begins at 0 %."),
        (0, {"rollback_to": 5}, "begins at 5 % (rollback_to=5)."),
        (10, {"start_at": 20}, "begins at 20 % (start_at=20)."),
        (50, {"start_at": 20}, "begins at 20 % (start_at=20)."),
    ],
)
def test_a_fresh_run_begins_nowhere_else_not_even_on_a_stage(stands, intent, begins):
    refusal = refused(a_new_flag(rolloutPercentage=stands), **intent)
    assert f"stands at {stands} %" in refusal
    assert begins in refusal


def test_the_way_on_from_another_percentage_is_start_at():
    assert "trigger a run with start_at=30" in refused(a_new_flag(rolloutPercentage=30))
    assert "start_at" not in refused(a_new_flag(), rollback_to=5)


def test_a_fresh_run_at_the_last_stage_is_complete_already():
    refusal = refused(a_new_flag(rolloutPercentage=100))
    assert "already complete" in refusal
    assert "start_at=100" in refusal


@pytest.mark.parametrize("stands", [1, 10, 50, 100])
def test_a_cleared_run_or_a_later_try_may_find_it_on_any_stage(stands):
    assert f"It stands at {stands} %" in said(a_new_flag(rolloutPercentage=stands), again=True)


@pytest.mark.parametrize(("stands", "intent"), [(30, {}), (10, {"start_at": 50})])
def test_a_cleared_run_finds_it_neither_beside_the_stages_nor_below_its_start(stands, intent):
    assert f"stands at {stands} %" in refused(a_new_flag(rolloutPercentage=stands), again=True, **intent)


def test_what_was_switched_off_on_the_way_is_not_switched_on_again_by_a_cleared_run():
    off = a_new_flag(rolloutPercentage=10, enabled=False)
    refusal = refused(off, again=True, enable=True)
    assert "enable=True does not undo that" in refusal
    assert "start_at=10" in refusal
    assert looked_at(off, enable=True, start_at=10).refusals == []


def test_on_drift_allows_what_the_ramps_can_go_on_from():
    assert "on_drift='continue'" in said(a_new_flag(rolloutPercentage=10), on_drift="continue")
    assert "on_drift='overwrite'" in said(a_new_flag(rolloutPercentage=30), on_drift="overwrite")
    assert "30 %" in refused(a_new_flag(rolloutPercentage=30), on_drift="continue")
    for on_drift in ("continue", "overwrite"):
        assert "already complete" in refused(a_new_flag(rolloutPercentage=100), on_drift=on_drift)
        assert "5 %" in refused(a_new_flag(), on_drift=on_drift, rollback_to=5)


def test_in_a_segment_s_rollout_that_segment_s_percentage_counts():
    found = a_new_flag(rolloutPercentage=40, targetSegments=[a_segment(percentage=0)])
    assert looked_at(found, segment="Beta testers").refusals == []
    other = a_new_flag(targetSegments=[a_segment(percentage=7)])
    assert "stands at 7 %" in refused(other, segment="Beta testers")


# --- how it is watched ---


def test_a_stage_that_is_over_before_a_look_could_pass_is_refused():
    refusal = refused(a_new_experiment(), guardrails=[a_comparison(window="1h")])
    assert "stage 1 % is watched for 1h" in refusal
    assert "Watch it for 1h 5m or longer" in refusal


@pytest.mark.parametrize("window", [None, "55m"])
def test_a_bake_of_settle_and_window_is_long_enough(window):
    assert looked_at(a_new_experiment(), guardrails=[a_comparison(window=window)]).refusals == []


def test_a_stage_s_own_guardrail_and_a_sample_ratio_s_settle_count_too():
    own = {
        "10": [a_comparison(window="2d")],
        "1": described([SampleRatioGuardrail(sql=QUERY, conn_id="d", settle="2h")]),
    }
    first, second = looked_at(a_new_experiment(), stage_guardrails=own).refusals
    assert "stage 1 %" in first
    assert "'sample ratio'" in first
    assert "stage 10 %" in second


def test_stages_below_start_at_and_a_last_stage_that_is_not_watched_do_not_count():
    plan = RolloutPlan.parse("1% 10m, 10% 1d, 100% 0h")
    guardrails = [a_comparison(window="1h")]
    found = a_new_experiment(rolloutPercentage=10)
    assert looked_at(found, plan=plan, start_at=10, guardrails=guardrails).refusals == []
    slow = [a_comparison(window="2d")]
    assert "stage 10 %" in refused(found, plan=plan, start_at=10, guardrails=slow)


def test_a_comparison_with_users_without_the_flag_does_not_watch_100_percent():
    plan = RolloutPlan.parse("50% 1d, 100% 1h")
    guardrails = [a_comparison(design="rollout", window="2h")]
    assert "nobody is left to compare with" in said(a_new_flag(), plan=plan, guardrails=guardrails)


def test_a_comparison_of_variants_needs_two_that_are_served():
    refusal = refused(a_new_flag(), guardrails=[a_comparison()])
    assert "design='rollout'" in refusal
    assert looked_at(a_new_flag(), guardrails=[a_comparison(design="rollout", window="10m")]).refusals == []


def test_more_requests_than_a_day_allows_are_refused():
    chart = described([ChartGuardrail("errors", chart_id="abc", above=1, series="all")])
    assert "requests a day" in refused(a_new_flag(), guardrails=chart, check_every=0.5)
    assert looked_at(a_new_flag(), guardrails=chart, check_every=60).refusals == []
    assert looked_at(a_new_flag(), guardrails=chart).refusals == []


def test_queries_to_a_warehouse_are_no_requests():
    assert looked_at(a_new_experiment(), guardrails=[a_comparison()], check_every=0.5).refusals == []


# --- what is said ---


def test_the_true_share_after_mutex_and_holdout_is_said_for_every_stage():
    text = said(*behind(50))
    assert "let 47.5 % of users through" in text
    assert "1 % here is 0.475 % of users" in text
    assert "50 % here is 23.75 % of users" in text
    assert looked_at(*behind(50)).share == 0.475


def test_what_a_stage_means_for_each_new_variant_is_said():
    assert "50 % (treatment 25 %)" in said(a_new_experiment())
    assert "Weights" not in said(a_new_flag())


def test_accounts_are_not_called_people():
    assert "'org id': percentages are of accounts" in said(a_new_flag(bucketingUnit="org id"))
    assert "accounts" not in said(a_new_flag(bucketingUnit="User"))


def test_who_is_served_already_is_said():
    found = a_new_flag(targetSegments=[a_segment()])
    text = said(found, around(users={"on": 3}, cohorts={"on": 1}))
    assert "Served already, whatever this rollout's percentage: target segment 'Beta testers' (10 %" in text
    assert "3 users or devices and 1 cohort in on" in text
    assert "rollback_to='off' takes it from them too" in text
    assert "Served as soon as it is enabled" in said(
        a_new_flag(enabled=False, targetSegments=[a_segment()]), enable=True, rollback_to="off"
    )


def test_a_rollback_that_switches_off_leaves_nobody_served():
    assert "leaves them served" not in said(a_new_flag(targetSegments=[a_segment()]), rollback_to="off")


@pytest.mark.parametrize(("mode", "told"), [("local", "don't overcome"), ("remote", "not documented")])
def test_what_inclusions_are_worth_behind_groups_is_said(mode, told):
    found, near = behind(50, evaluationMode=mode)
    text = said(found, around(users={"on": 1}, mutexes=near.mutexes, holdouts=near.holdouts))
    assert told in text


def test_a_prerequisite_is_said_and_so_is_what_the_older_api_hides():
    found = a_new_flag(parentDependencies={"flags": {"77": ["on"]}, "operator": "all"})
    assert "77 (on)" in said(found)
    assert "doesn't show" in said(found, around(groups_known=False))


def test_what_sticky_bucketing_keeps_after_a_rollback_is_said():
    found = a_new_experiment(stickyBucketing=True)
    assert "those who have a variant keep it" in said(found, rollback_to=0)
    assert "Sticky" not in said(found, rollback_to="off")


def test_holding_on_a_breach_is_said():
    assert "takes it from nobody" in said(a_new_flag(), on_breach="hold")


def test_a_settle_that_is_too_short_for_cohorts_is_said():
    near = around(cohorts={"treatment": 1})
    assert "up to 2 hours" in said(a_new_experiment(), near, guardrails=[a_comparison()])
    plan = RolloutPlan.parse("10% 1d, 100%")
    patient = [a_comparison(settle="2h")]
    assert "up to 2 hours" not in said(a_new_experiment(), near, guardrails=patient, plan=plan)


def test_nothing_special_is_said_of_a_plain_flag():
    assert looked_at(a_new_flag()).notes == []
