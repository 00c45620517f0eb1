"""What counts as the object that a task describes, what may be taken over, and what an update sends."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_amplitude_experiment.api import RolloutRefused, experiments, flags
from airflow_amplitude_experiment.api.models import Experiment, Variant
from airflow_amplitude_experiment.rollout.adopt import (
    created_since,
    is_as_posted,
    is_live,
    refuse_to_take_over,
    update,
    was_served,
)
from airflow_amplitude_experiment.rollout.description import (
    Wanted,
    alike,
    differences,
    needs_variants,
    second_call,
)
from tests.builders import RUN_AFTER, a_flag, a_segment, a_version

FULL = {
    "name": "New checkout",
    "description": "One page",
    "evaluationMode": "local",
    "bucketingKey": "user_id",
    "bucketingSalt": "s1",
    "deployments": ["31"],
    "variants": [{"key": "control"}, {"key": "treatment"}],
    "rolloutWeights": {"control": 1, "treatment": 1},
    "targetSegments": [a_segment(rolloutWeights={"control": 1, "treatment": 1})],
    "tags": ["shop"],
    "deleted": False,
    "experimentType": "a-b-test",
    "stickyBucketing": False,
    "startDate": "2026-11-01",
    "endDate": None,
    "createdAt": "2026-11-20T12:00:01.000Z",
    "lastModifiedBy": "x@example.com",
    "lastModifiedAt": "2026-11-20T13:00:00.000Z",
}


def found(**fields):
    """A disabled experiment at 0 %, with every field."""
    shown = {**a_flag().as_json(), "enabled": False, "rolloutPercentage": 0, **FULL, **fields}
    return Experiment.model_validate(shown)


def wanted(later=None, **post):
    return Wanted(kind="experiment", key="new-checkout", post=post, patch=later or {})


def segment(**changes):
    return a_segment(**{"rolloutWeights": {"control": 1, "treatment": 1}, **changes})


def names(different):
    return [each.name for each in different]


SAME = {
    "nothing described": {},
    "texts": {"name": "New checkout", "description": "One page"},
    "mode and bucketing": {"evaluation_mode": "local", "bucketing_key": "user_id"},
    "weights in another proportion of the same": {"rollout_weights": {"control": 50, "treatment": 50}},
    "deployments": {"deployments": ["31"]},
    "variants by key, in another order": {"variants": [{"key": "treatment"}, {"key": "control"}]},
    "segments": {"target_segments": [segment()]},
    "type": {"experiment_type": "a-b-test"},
}


@pytest.mark.parametrize("post", SAME.values(), ids=SAME.keys())
def test_what_means_the_same_is_no_difference(post):
    assert differences(wanted(**post), found()) == []


OTHER = {
    "name": ({"name": "Old"}, ["name"]),
    "description": ({"description": ""}, ["description"]),
    "mode": ({"evaluation_mode": "remote"}, ["evaluation_mode"]),
    "bucketing": ({"bucketing_key": "device_id"}, ["bucketing_key"]),
    "weights": ({"rollout_weights": {"control": 1, "treatment": 2}}, ["rollout_weights"]),
    "a weight that is not named": ({"rollout_weights": {"control": 1}}, ["rollout_weights"]),
    "a deployment more": ({"deployments": ["31", "32"]}, ["deployments"]),
    "a deployment less": ({"deployments": []}, ["deployments"]),
    "a variant more": ({"variants": [{"key": "control"}]}, ["variants.keys"]),
    "a payload that isn't shown": (
        {"variants": [{"key": "control", "payload": 1}, {"key": "treatment"}]},
        ["variants.payload"],
    ),
    "type": ({"experiment_type": "multi-arm-bandit"}, ["experiment_type"]),
    "no segment": ({"target_segments": []}, ["segments.names"]),
    "another condition": (
        {"target_segments": [segment(conditions=[])]},
        ["segments.conditions"],
    ),
    "a segment's percentage": ({"target_segments": [segment(percentage=20)]}, ["segments.percentage"]),
    "a segment's weights": (
        {"target_segments": [segment(rolloutWeights={"control": 1})]},
        ["segments.rolloutWeights"],
    ),
    "a segment's bucketing": ({"target_segments": [segment(bucketingKey="device_id")]}, ["segments.bucketingKey"]),
    "the order of segments counts": (
        {"target_segments": [segment(name="New"), segment(percentage=5)]},
        ["segments.names", "segments.percentage"],
    ),
}


@pytest.mark.parametrize(("post", "expected"), OTHER.values(), ids=OTHER.keys())
def test_every_field_that_is_described_is_compared(post, expected):
    assert names(differences(wanted(**post), found())) == expected


def test_what_amplitude_does_not_show_is_no_match():
    (difference,) = differences(wanted(name="New checkout"), a_flag())
    assert not difference.shown
    assert "Amplitude does not show" in str(difference)


def test_a_segment_without_a_bucketing_key_says_nothing_about_it():
    described = {name: value for name, value in segment().items() if name != "bucketingKey"}
    assert differences(wanted(target_segments=[described]), found()) == []


def test_percentages_that_ramps_may_have_moved_are_not_compared():
    assert differences(wanted(target_segments=[segment(percentage=90)]), found(), moved=True) == []


def test_variants_are_compared_in_full_where_more_than_their_keys_is_described():
    described = wanted(variants=[{"key": "control"}, {"key": "treatment", "payload": {"a": 1}, "name": "T"}])
    assert needs_variants(described, found())
    full = [Variant(key="control", payload={"b": 2}), Variant(key="treatment", payload={"a": 1}, name="T")]
    assert differences(described, found(), variants=full) == []
    full[1] = Variant(key="treatment", payload={"a": True}, name="T")
    (difference,) = differences(described, found(), variants=full)
    assert (difference.name, difference.of, difference.there) == ("variants.payload", "treatment", {"a": True})


def test_variants_are_not_read_where_their_keys_say_enough():
    assert not needs_variants(wanted(name="x"), found())
    assert not needs_variants(wanted(variants=[{"key": "control"}, {"key": "treatment"}]), found())
    assert needs_variants(wanted(variants=[{"key": "control"}]), a_flag())


@pytest.mark.parametrize(("given", "there"), [({}, None), (None, {}), ({}, {})])
def test_an_empty_payload_is_none(given, there):
    assert alike("payload", given, there)


@pytest.mark.parametrize(("given", "there"), [(0, None), (False, None), ([], {}), ("", None), (1, True), ("1", 1)])
def test_a_payload_that_is_falsy_or_looks_alike_is_another_one(given, there):
    assert not alike("payload", given, there)


@pytest.mark.parametrize(
    ("given", "there", "same"),
    [
        ("2026-11-22T00:00:00.000Z", "2026-11-22", True),
        ("2026-11-22T23:30:00.000Z", "2026-11-23T00:30:00+01:00", True),
        ("2026-11-22T23:30:00.000Z", "2026-11-23", False),
        ("2026-11-22T00:00:00.000Z", None, False),
        (None, None, True),
        ("2026-11-22T00:00:00.000Z", "soon", False),
    ],
)
def test_dates_are_compared_by_their_utc_day(given, there, same):
    assert alike("start_date", given, there) is same


@given(st.dictionaries(st.sampled_from("abc"), st.integers(0, 50), min_size=1), st.integers(1, 20))
def test_weights_are_alike_if_and_only_if_their_proportions_are(weights, factor):
    scaled = {key: weight * factor for key, weight in weights.items()}
    assert alike("rollout_weights", weights, scaled)
    if any(weights.values()) and len([weight for weight in weights.values() if weight]) > 1:
        key = next(key for key in weights if weights[key])
        assert not alike("rollout_weights", {**weights, key: weights[key] * 2}, scaled)


conditions = st.lists(
    st.fixed_dictionaries(
        {
            "type": st.just("property"),
            "prop": st.sampled_from(["gp:beta", "country"]),
            "op": st.sampled_from(["is", "is not"]),
            "values": st.lists(st.sampled_from("abc"), unique=True),
        }
    ),
    max_size=3,
)


@given(conditions, st.randoms())
def test_the_order_of_conditions_and_of_their_values_does_not_matter(given, random):
    shuffled = [{**each, "values": random.sample(each["values"], len(each["values"]))} for each in given]
    random.shuffle(shuffled)
    assert alike("conditions", given, shuffled)


@pytest.mark.parametrize("old", ["hypothesis-testing", "no-harm", "a-b-test"])
def test_what_an_older_experiment_is_called_is_an_a_b_test_today(old):
    assert differences(wanted(experiment_type="a-b-test"), found(experimentType=old)) == []


def test_the_second_call_sends_only_what_differs_or_is_not_shown():
    later = {"enabled": False, "rollout_percentage": 5, "tags": ["shop"], "exposure_event": {"event_type": "x"}}
    assert names(second_call(wanted(later), found())) == ["rollout_percentage", "exposure_event"]
    assert names(second_call(wanted({"tags": []}), a_flag())) == []
    assert names(second_call(wanted({"tags": ["a"]}), a_flag())) == ["tags"]


# --- taking over -------------------------------------------------------------------------------------------------

LIVE = {"enabled": True, "rolloutPercentage": 5}


@pytest.mark.parametrize(
    ("fields", "live", "as_posted"),
    [
        ({}, False, True),
        ({"rolloutPercentage": 5}, False, False),
        ({"enabled": True, "targetSegments": []}, False, False),
        ({"enabled": True}, True, False),  # its segment stands at 10 %
        (LIVE, True, False),
        ({"enabled": None, "rolloutPercentage": None}, True, False),
    ],
)
def test_live_means_enabled_with_any_percentage_above_0(fields, live, as_posted):
    assert is_live(found(**fields)) is live
    assert is_as_posted(found(**fields)) is as_posted


@pytest.mark.parametrize(
    ("created_at", "own"),
    [
        ("2026-11-20T12:00:00.000Z", True),
        ("2026-11-20T13:00:00+01:00", True),
        ("2026-11-20T11:59:59.999Z", False),
        ("2026-11-20", True),
        ("2026-11-19", False),
        (None, None),
        ("yesterday", None),
    ],
)
def test_what_was_created_since_the_run_was_due_is_its_own(created_at, own):
    assert created_since(found(createdAt=created_at), RUN_AFTER) is own


def test_without_a_run_nothing_is_its_own():
    assert created_since(found(), None) is None
    assert created_since(found(createdAt="2026-11-20T12:00:00Z"), RUN_AFTER + timedelta(microseconds=9)) is True
    assert created_since(found(createdAt="2026-11-20T12:00:00.001Z"), RUN_AFTER + timedelta(seconds=0.5)) is False
    assert created_since(found(createdAt="2026-11-20"), datetime(2026, 11, 20, 23, tzinfo=UTC)) is True


def take_over(there, *, if_exists="adopt", adopt_live=False, own=False, **post):
    described = wanted(**post)
    different = differences(described, there)
    refuse_to_take_over(described, there, different, if_exists=if_exists, adopt_live=adopt_live, own=own)


@pytest.mark.parametrize(
    ("there", "options"),
    [
        ({}, {"name": "New checkout"}),
        (LIVE, {"adopt_live": True}),
        (LIVE, {"own": True}),
        (LIVE, {"own": True, "if_exists": "fail"}),
        ({}, {"if_exists": "update", "name": "Other"}),
    ],
)
def test_what_may_be_taken_over(there, options):
    take_over(found(**there), **options)


@pytest.mark.parametrize(
    ("there", "options", "says"),
    [
        ({}, {"name": "Other"}, "name: given 'Other', there 'New checkout'"),
        (LIVE, {}, "enabled at 5 %, so people get it now"),
        (LIVE, {}, "adopt_live=True"),
        (LIVE, {"if_exists": "update"}, "people get it now"),
        (LIVE, {"own": True, "name": "Other"}, "given 'Other'"),
        (LIVE, {"adopt_live": True, "name": "Other"}, "given 'Other'"),
        ({}, {"if_exists": "fail"}, "exists already"),
        (LIVE, {"if_exists": "fail", "adopt_live": True}, "exists already"),
        ({}, {"if_exists": "fail", "own": True, "name": "Other"}, "given 'Other'"),
    ],
)
def test_what_may_not(there, options, says):
    with pytest.raises(RolloutRefused, match=says) as refusal:
        take_over(found(**there), **options)
    assert "Nothing was written" in str(refusal.value)
    assert "id 21002, project 100001" in str(refusal.value)
    assert "x@example.com changed it last" in str(refusal.value)


def test_a_refusal_lists_everything_at_once():
    with pytest.raises(RolloutRefused) as refusal:
        take_over(found(**LIVE), name="Other", description="Two pages", evaluation_mode="remote")
    for word in ("name:", "description:", "evaluation_mode:", "people get it now", "if_exists='update'"):
        assert word in str(refusal.value)


# --- updating ----------------------------------------------------------------------------------------------------


def plan(there, *, served=False, later=None, moved=False, **post):
    described = wanted(later, **post)
    return update(described, there, differences(described, there, moved=moved), served=served)


def sent(planned):
    return [(call.endpoint.split(".")[1], call.arguments) for call in planned.calls(experiments, "21002")]


SAFE = {
    "texts": ({"name": "N", "description": "One page"}, {"name": "N"}),
    "dates": ({"later": {"start_date": "2026-11-02T00:00:00.000Z"}}, {"start_date": "2026-11-02T00:00:00.000Z"}),
    "tags are added": ({"later": {"tags": ["new", "shop"]}}, {"tags": ["shop", "new"]}),
    "conditions": (
        {"target_segments": [segment(conditions=[])]},
        {"target_segments": [segment(conditions=[], everyone=True)]},
    ),
    "a new segment, beside one that ramps have moved": (
        {"target_segments": [segment(percentage=0), segment(name="New", percentage=1)], "moved": True},
        {"target_segments": [segment(percentage=10), segment(name="New", percentage=1)]},
    ),
}


@pytest.mark.parametrize(("description", "patch"), SAFE.values(), ids=SAFE.keys())
def test_an_update_of_a_served_object_sends_in_one_patch_what_differs_and_is_safe(description, patch):
    planned = plan(found(**LIVE), served=True, **description)
    assert sent(planned) == [("update", {"id": "21002", **patch})]


def test_a_bucketing_key_that_a_segment_has_is_not_lost():
    described = {name: value for name, value in segment(conditions=[]).items() if name != "bucketingKey"}
    (call,) = sent(plan(found(), target_segments=[described]))
    assert call[1]["target_segments"][0]["bucketingKey"] == "user_id"


def test_nothing_is_sent_where_nothing_differs():
    planned = plan(found(), name="New checkout", later={"tags": ["shop"], "enabled": True, "rollout_percentage": 50})
    assert sent(planned) == []
    assert planned.arguments == ()


@pytest.mark.parametrize("there", [{}, LIVE])
def test_an_update_never_touches_the_switch_or_the_percentage(there):
    planned = plan(found(**there), name="N", later={"enabled": not there, "rollout_percentage": 77})
    assert sent(planned) == [("update", {"id": "21002", "name": "N"})]


MOVES_USERS = {
    "weights": {"rollout_weights": {"control": 1, "treatment": 3}},
    "bucketing key": {"bucketing_key": "device_id"},
    "salt": {"later": {"bucketing_salt": "s2"}},
    "sticky": {"later": {"sticky_bucketing": True}},
    "mode": {"evaluation_mode": "remote"},
    "type": {"experiment_type": "multi-arm-bandit"},
    "a new variant": {"variants": [{"key": "control"}, {"key": "treatment"}, {"key": "third"}]},
    "a segment's weights": {"target_segments": [segment(rolloutWeights={"control": 1, "treatment": 9})]},
    "a segment's bucketing": {"target_segments": [segment(bucketingKey="device_id")]},
}


@pytest.mark.parametrize("description", MOVES_USERS.values(), ids=MOVES_USERS.keys())
def test_what_moves_users_is_refused_once_anybody_was_served(description):
    with pytest.raises(RolloutRefused, match="moves users between variants"):
        plan(found(), served=True, **description)
    assert sent(plan(found(), served=False, **description))


def test_variants_that_differ_are_refused_once_anybody_was_served():
    full = [Variant(key="control"), Variant(key="treatment", payload={"a": 1})]
    described = [{"key": "control"}, {"key": "treatment", "payload": {"a": 2}}]
    with pytest.raises(RolloutRefused, match=r"variant 'treatment', payload: given \{'a': 2\}, there \{'a': 1\}"):
        update(
            wanted(variants=described),
            found(),
            differences(wanted(variants=described), found(), variants=full),
            served=True,
        )


def test_before_anybody_is_served_variants_and_weights_are_brought_in_line_one_by_one():
    full = [Variant(key="control"), Variant(key="treatment", payload={"a": 1})]
    described = wanted(
        variants=[{"key": "control"}, {"key": "treatment", "payload": {"a": 2}}, {"key": "third", "name": "3"}],
        rollout_weights={"control": 0, "treatment": 4, "third": 2},
        deployments=["31", "32"],
    )
    planned = update(described, found(), differences(described, found(), variants=full), served=False)
    assert sent(planned) == [
        ("create_variant", {"id": "21002", "key": "third", "name": "3", "rollout_weight": 2}),
        ("update_variant", {"id": "21002", "variant_key": "treatment", "rollout_weight": 4, "payload": {"a": 2}}),
        ("update_variant", {"id": "21002", "variant_key": "control", "rollout_weight": 0}),
        ("add_deployments", {"id": "21002", "ids": ["32"]}),
    ]
    assert planned.arguments == ("deployments", "rollout_weights", "variants")


TAKES_AWAY = {
    "a variant": {"variants": [{"key": "control"}]},
    "a deployment": {"deployments": ["32"]},
    "a segment": {"target_segments": [segment(name="Other")]},
}


@pytest.mark.parametrize("description", TAKES_AWAY.values(), ids=TAKES_AWAY.keys())
def test_an_update_takes_nothing_away(description):
    with pytest.raises(RolloutRefused, match="an update takes nothing away"):
        plan(found(), **description)


def test_a_segments_percentage_is_a_ramps_to_move():
    with pytest.raises(RolloutRefused, match=r"AmplitudeRampRolloutOperator\(segment=…\)"):
        plan(found(), target_segments=[segment(percentage=90)])


def test_segments_that_cannot_be_written_back_are_not_written():
    cohort = {"type": "cohort", "prop": "userdata_cohort", "op": "set contains", "values": ["c1"]}
    there = found(targetSegments=[segment(), segment(name="Cohort", conditions=[cohort])])
    described = [segment(conditions=[]), segment(name="Cohort", conditions=[cohort])]
    with pytest.raises(RolloutRefused, match="condition of type 'cohort'"):
        plan(there, target_segments=described)


def test_segments_of_a_running_bandit_are_not_written():
    there = found(**LIVE, experimentType="multi-arm-bandit")
    with pytest.raises(RolloutRefused, match="running bandit"):
        plan(there, served=True, target_segments=[segment(conditions=[])])


def test_two_segments_of_one_name_cannot_be_told_apart():
    twice = [segment(), segment()]
    with pytest.raises(RolloutRefused, match="two segments have the same name"):
        plan(found(targetSegments=twice), target_segments=[*twice, segment(name="New")])


def test_a_weight_needs_its_variant():
    with pytest.raises(RolloutRefused, match="names a variant that is neither there nor described"):
        plan(found(), rollout_weights={"control": 1, "treatment": 1, "third": 1})


def test_a_described_field_that_is_not_shown_can_not_be_updated():
    with pytest.raises(RolloutRefused, match="what isn't shown can't be compared"):
        plan(a_flag(enabled=False), name="New checkout")


def test_what_is_not_shown_is_left_alone_and_said():
    flag = a_flag(name="New checkout")
    described = Wanted(kind="flag", key="new-checkout", post={"name": "N"}, patch={"tags": ["a"]})
    planned = update(described, flag, differences(described, flag), served=True)
    assert [call.arguments for call in planned.calls(flags, "21002")] == [{"id": "21002", "name": "N"}]
    assert planned.left_alone == ("tags",)


@pytest.mark.parametrize(
    ("enabled", "versions", "served"),
    [
        (False, [False], False),
        (False, [False, True, False], True),
        (True, [False], True),
        (None, [False], True),
        (False, [None], True),
    ],
)
def test_served_means_enabled_in_any_version(enabled, versions, served):
    history = [a_version(number, number, enabled=each) for number, each in enumerate(versions, 1)]
    assert was_served(found(enabled=enabled), history) is served
