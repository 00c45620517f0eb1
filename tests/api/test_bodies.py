"""What the parts of a body may hold: variants, segments, exposure events, groups."""

from __future__ import annotations

import logging
from types import MappingProxyType
from typing import Any

import pytest

from airflow_amplitude_experiment.api import experiments, flags, holdouts, mutexes

from .builders import as_text, refused
from .samples import EXPOSURE, FILTER, SEGMENT
from .test_checks import body_of

CONDITION = SEGMENT["conditions"][0]


# --- variants, weights, payloads ----------------------------------------------------------------------


@pytest.mark.parametrize(
    "payload", [None, {}, [], 0, "", "text", True, 1.5, {"a": [{"b": None}]}, '{"a": 1}'], ids=repr
)
def test_a11_any_json_value_is_a_payload_and_travels_as_it_is(payload):
    assert body_of(flags.update_variant(1, "on", payload=payload), as_text()) == {"payload": payload}


def deep(levels: int) -> Any:
    value: Any = 1
    for _ in range(levels):
        value = [value]
    return value


@pytest.mark.parametrize("payload", [float("nan"), float("inf"), b"x", ..., {"a": 1j}, "\ud800"], ids=repr)
def test_what_is_no_json_is_refused(payload):
    assert "payload" in refused(lambda: flags.update_variant(1, "on", payload=payload))


@pytest.mark.parametrize("weight", [-1, 1.5, "many", None, True, float("inf")])
def test_a9_weights_are_whole_and_not_negative(weight):
    assert "rollout_weight" in refused(lambda: flags.update_variant(1, "on", rollout_weight=weight))
    text = refused(lambda: flags.create(project_id=1, key="k", rollout_weights={"on": weight}))
    assert "rollout_weights: on" in text


@pytest.mark.parametrize("weights", [[1], "on", None, 5, {"": 1}, {}], ids=repr)
def test_what_is_no_mapping_of_weights_is_refused(weights):
    assert "rollout_weights" in refused(lambda: flags.create(project_id=1, key="k", rollout_weights=weights))


def test_i9_weights_that_are_all_0_are_refused():
    assert "nobody" in refused(lambda: flags.create(project_id=1, key="k", rollout_weights={"on": 0}))
    assert "nobody" in refused(lambda: flags.update(1, target_segments=[SEGMENT | {"rolloutWeights": {"on": 0}}]))
    text = refused(lambda: experiments.set_rollout_weights(1, rollout_weights={"a": 0, "b": 0}), dialect="beta")
    assert "nobody" in text


def test_weights_of_a_variant_that_is_not_there_are_refused():
    assert "'off_2', which is not a variant" in refused(
        lambda: flags.create(project_id=1, key="k", rollout_weights={"on": 1, "off_2": 1})
    )


def test_a_variant_named_twice_is_refused():
    assert "twice" in refused(lambda: flags.create(project_id=1, key="k", variants=[{"key": "a"}, {"key": "a"}]))


@pytest.mark.parametrize(
    "variants", [[], [{}], [{"key": ""}], [{"key": 5}], ["on"], "on", [{"key": "on", "weight": 1}], None], ids=repr
)
def test_variants_have_a_key_and_no_field_that_the_api_lacks(variants):
    assert "variants" in refused(lambda: flags.create(project_id=1, key="k", variants=variants))


def test_e18_a_variant_is_never_named_off():
    assert "reserved" in refused(lambda: flags.create_variant(1, key="off"))
    assert "reserved" in refused(lambda: flags.update_variant(1, "on", key="off"))
    assert "reserved" in refused(lambda: flags.create(project_id=1, key="k", variants=[{"key": "off"}]))


@pytest.mark.parametrize("key", ["on", "treatment-2", "a_b", "3"])
def test_e18_a_usual_variant_key_is_silent(key, caplog):
    body_of(flags.create_variant(1, key=key), as_text())
    assert caplog.records == []


@pytest.mark.parametrize("key", ["Treatment", "a b", "-a", "a__b", "ü"])
def test_e18_an_unusual_variant_key_only_warns(key, caplog):
    assert body_of(flags.create_variant(1, key=key), as_text()) == {"key": key}
    assert "Variant key" in caplog.text


# --- segments -----------------------------------------------------------------------------------------


def segments(**change: Any) -> Any:
    return flags.update(1, target_segments=[{**SEGMENT, **change}])


@pytest.mark.parametrize("missing", ["name", "conditions", "percentage", "rolloutWeights"])
def test_e8_a_segment_has_all_four_fields(missing):
    segment = {name: value for name, value in SEGMENT.items() if name != missing}
    assert f"field '{missing}' is missing" in refused(lambda: flags.update(1, target_segments=[segment]))


def test_e8_segments_are_an_array_and_keep_their_bucketing_key():
    assert "target_segments" in refused(lambda: flags.update(1, target_segments=SEGMENT))
    body = body_of(segments(bucketingKey="device_id"), as_text())
    assert body["targetSegments"][0]["bucketingKey"] == "device_id"


def test_a_segment_may_be_written_in_snake_case():
    snake = {
        "name": "S", "conditions": [CONDITION], "percentage": "5", "rollout_weights": {"on": "1"}, "bucketing_key": "b",
    }  # fmt: skip
    assert body_of(flags.update(1, target_segments=[MappingProxyType(snake)]), as_text())["targetSegments"] == [
        {"name": "S", "conditions": [CONDITION], "percentage": 5, "rolloutWeights": {"on": 1}, "bucketingKey": "b"}
    ]


def test_a_field_given_in_both_cases_is_refused():
    assert "given twice" in refused(lambda: segments(rollout_weights={"on": 1}))


@pytest.mark.parametrize(
    "change", [{"percentage": 101}, {"percentage": 1.5}, {"name": ""}, {"bucketingKey": None}, {"weight": 1},
               {"conditions": None}, {"rolloutWeights": []}], ids=repr,
)  # fmt: skip
def test_a_wrong_field_of_a_segment_is_named(change):
    assert f"item 0: {next(iter(change))}" in refused(lambda: segments(**change)).replace("field 'weight'", "weight")


@pytest.mark.parametrize("operator", ["is", "set contains", "glob does not match", "greater or equal"])
def test_e11_a_condition_takes_the_14_operators(operator):
    assert body_of(segments(conditions=[CONDITION | {"op": operator}]), as_text())


@pytest.mark.parametrize(
    "change", [{"op": "equals"}, {"op": "IS"}, {"values": "true"}, {"values": [1]}, {"prop": ""}, {"x": 1}]
)
def test_e11_a_wrong_condition_is_refused(change):
    assert next(iter(change)) in refused(lambda: segments(conditions=[CONDITION | change]))


def test_e9_a_condition_that_the_api_can_not_write_is_refused():
    assert "'property'" in refused(lambda: segments(conditions=[CONDITION | {"type": "cohort"}]))


def test_e10_a_segment_without_conditions_has_to_be_meant():
    assert '"everyone": True' in refused(lambda: segments(conditions=[]))
    body = body_of(segments(conditions=[], everyone=True), as_text())
    assert body["targetSegments"] == [{**SEGMENT, "conditions": []}]
    assert body_of(segments(conditions=[CONDITION | {"values": []}]), as_text())


# --- exposure events ------------------------------------------------------------------------------------


def exposure(**change: Any) -> Any:
    return experiments.update(1, exposure_event={"event_type": "e", "filters": [FILTER | change]})


@pytest.mark.parametrize("operator", ["set is", "set is not", "set contains", "set does not contain", "equals"])
def test_e11_an_exposure_filter_takes_ten_operators_without_sets(operator):
    assert "subprop_op" in refused(lambda: exposure(subprop_op=operator))


def test_e12_an_unusual_subprop_type_only_warns(caplog):
    body = body_of(exposure(subprop_type="day_time_prop"), as_text())
    assert body["exposureEvent"]["filters"][0]["subprop_type"] == "day_time_prop"
    assert "day_time_prop" in caplog.text


@pytest.mark.parametrize("key", [None, 5])
def test_e13_subprop_key_is_a_text(key):
    assert "subprop_key" in refused(lambda: exposure(subprop_key=key))


def test_e14_the_group_type_is_user_where_none_is_given():
    assert body_of(exposure(), as_text())["exposureEvent"]["filters"][0]["group_type"] == "User"
    assert body_of(exposure(group_type="org"), as_text())["exposureEvent"]["filters"][0]["group_type"] == "org"


def test_e4_no_exposure_event_means_amplitude_s_own():
    assert body_of(experiments.update(1, exposure_event=None), as_text()) == {"exposureEvent": None}


@pytest.mark.parametrize(
    "event", [{}, {"event_type": "e"}, {"event_type": "", "filters": []}, EXPOSURE | {"x": 1}, "e"], ids=repr
)
def test_an_exposure_event_has_a_type_and_filters(event):
    assert "exposure_event" in refused(lambda: experiments.update(1, exposure_event=event))


# --- what a create says out loud ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("calls", "variants"), [(flags, ["on"]), (experiments, ["control", "treatment"])], ids=["flag", "experiment"]
)
def test_e22_e15_e17_a_create_names_variants_weights_mode_and_bucketing(calls, variants):
    assert body_of(calls.create(project_id=501, key="k")) == {
        "projectId": "501",
        "key": "k",
        "variants": [{"key": key} for key in variants],
        "rolloutWeights": dict.fromkeys(variants, 1),
        "evaluationMode": "remote",
        "bucketingKey": "amplitude_id",
    }


def test_e15_local_evaluation_buckets_by_user_id_unless_told():
    assert body_of(flags.create(project_id=1, key="k", evaluation_mode="local"))["bucketingKey"] == "user_id"


LOCAL = {"evaluation_mode": "local", "bucketing_key": "amplitude_id"}


@pytest.mark.parametrize(
    "make",
    [
        lambda **more: flags.create(project_id=1, key="k", **LOCAL, **more),
        lambda **more: flags.update(1, **LOCAL, **more),
        lambda **more: experiments.update(1, **LOCAL, **more),
        lambda **more: mutexes.create(project_id=1, name="m", slots=[{"percentage": 100}], **LOCAL, **more),
        lambda **more: holdouts.create(project_id=1, name="h", holdout_percentage=5, **LOCAL, **more),
    ],
)
def test_e15_local_evaluation_by_amplitude_id_has_to_be_forced(make):
    assert "allow_local_amplitude_id=True" in refused(make)
    body = body_of(make(allow_local_amplitude_id=True))
    assert body["bucketingKey"] == "amplitude_id"
    assert "allowLocalAmplitudeId" not in body


@pytest.mark.parametrize("key", ["with space", "a/b", "🎉", "UPPER"])
def test_a_key_of_any_characters_is_created_as_it_is(key):
    assert body_of(flags.create(project_id=1, key=key))["key"] == key


@pytest.mark.parametrize("key", ["", "  ", None, 2024])
def test_a_key_is_a_text_that_is_not_empty(key):
    assert "key" in refused(lambda: flags.create(project_id=1, key=key))


# --- mutex and holdout groups -----------------------------------------------------------------------------


def a_mutex(*slots: Any, **fields: Any) -> Any:
    return mutexes.create(**{"project_id": 501, "name": "M", "slots": list(slots)} | fields)


def a_holdout(**fields: Any) -> Any:
    return holdouts.create(**{"project_id": 501, "name": "H", "holdout_percentage": 5} | fields)


@pytest.mark.parametrize("shares", [[100], [1, 99], [5] * 20, ["50", 50.0]])
def test_f1_slots_sum_to_100(shares):
    assert body_of(a_mutex(*({"percentage": share} for share in shares)))


@pytest.mark.parametrize("shares", [[99], [50, 51], [0, 100], [101, -1], [50.5, 49.5], [5] * 19])
def test_f1_slots_that_do_not_sum_to_100_are_refused(shares):
    assert "slot" in refused(lambda: a_mutex(*({"percentage": share} for share in shares)))


@pytest.mark.parametrize("count", [0, 21])
def test_a_mutex_has_1_to_20_slots(count):
    assert f"{count} slots given; Amplitude takes 1 to 20" in refused(lambda: a_mutex(*[{"percentage": 5}] * count))


@pytest.mark.parametrize(
    "slot", [{}, {"percentage": 100, "cohorts": []}, {"percentage": 100, "experiments": ["x"]}, 100, None], ids=repr
)
def test_a_wrong_slot_is_named(slot):
    assert "slot 1" in refused(lambda: a_mutex(slot))


@pytest.mark.parametrize("wrong", ["x", "1.0", 1.5, None, True, "", -1])
def test_a3_members_are_numbers(wrong):
    assert "experiments" in refused(lambda: mutexes.update_slot(1, 1, experiments=[wrong]))
    assert body_of(mutexes.update_slot(1, 1, experiments=["7", 8]), as_text()) == {"experiments": [7, 8]}


def test_a4_individuals_are_sent_as_texts():
    assert body_of(mutexes.update_slot(1, 1, individuals=[7, "a"]), as_text()) == {"individuals": ["7", "a"]}


def test_a2_a_group_s_project_is_a_number_and_switchable_to_text():
    assert body_of(a_mutex({"percentage": 100}, project_id="501"))["projectId"] == 501
    assert body_of(a_holdout(project_id="501", project_id_type="string"))["projectId"] == "501"
    assert "project_id" in refused(lambda: a_holdout(project_id="main"))
    assert "project_id_type" in refused(lambda: a_holdout(project_id_type="text"))


def test_f4_archiving_a_mutex_stands_alone():
    assert "archive stands alone" in refused(lambda: mutexes.update(1, archive=True, name="n"))
    assert body_of(mutexes.update(1, archive=True), as_text()) == {"archive": True}


def test_f5_a_holdout_is_archived_and_not_restored():
    assert body_of(holdouts.update(1, archive=True), as_text()) == {"archive": True}
    assert "archive" in refused(lambda: holdouts.update(1, archive=False))


def test_f7_a_holdout_takes_no_bucketing_salt():
    with pytest.raises(TypeError, match="bucketing_salt"):
        a_holdout(bucketing_salt="x")


@pytest.mark.parametrize("share", [0, 100, -1, 1.5, None, "much"])
def test_f8_a_holdout_keeps_out_1_to_99_percent(share):
    assert "holdout_percentage" in refused(lambda: a_holdout(holdout_percentage=share))


@pytest.mark.parametrize(("share", "warnings"), [(1, 0), (10, 0), (11, 1), (99, 1)])
def test_f8_more_than_10_percent_warns(share, warnings, caplog):
    with caplog.at_level(logging.WARNING):
        assert body_of(a_holdout(holdout_percentage=share))["holdoutPercentage"] == share
    assert ("advises 1 to 10" in caplog.text) is bool(warnings)


def test_f8_the_share_of_a_holdout_or_slot_can_not_be_changed():
    with pytest.raises(TypeError, match="holdout_percentage"):
        holdouts.update(1, holdout_percentage=7)
    with pytest.raises(TypeError, match="percentage"):
        mutexes.update_slot(1, 1, percentage=7)


def test_f10_nobody_stands_in_two_slots_or_is_both_held_out_and_not():
    text = refused(
        lambda: a_mutex({"percentage": 50, "individuals": ["alice", 7]}, {"percentage": 50, "individuals": ["7"]})
    )
    assert "two slots" in text
    for make in (a_holdout, lambda **both: holdouts.update(1, **both)):
        text = refused(lambda make=make: make(individual_inclusion=["alice"], individual_exclusion=["alice"]))
        assert "individual_exclusion" in text
        assert "alice" not in text


def test_a_deeply_nested_payload_travels_whole():
    assert body_of(flags.update_variant(1, "on", payload=deep(200)), as_text())["payload"] == deep(200)
