"""What counts as a change of who gets what, and what does not."""

from __future__ import annotations

import json
from typing import Any

import pytest

from airflow_amplitude_experiment.api.models import Variant
from airflow_amplitude_experiment.rollout.fingerprint import changed, fingerprint
from tests.builders import a_flag, a_segment, an_experiment

DELIVERY: dict[str, Any] = {
    "evaluationMode": "remote",
    "bucketingKey": "user_id",
    "bucketingSalt": "salt",
    "bucketingUnit": "User",
    "deployments": ["12", "11"],
    "rolloutWeights": {"on": 1},
    "parentDependencies": {"flags": {"9": ["slot-1"]}, "operator": "all"},
}


def variants(**payloads: Any) -> list[Variant]:
    keys = payloads or {"on": None}
    return [Variant.model_validate({"key": key, "payload": value, "rolloutWeight": 1}) for key, value in keys.items()]


def taken(flag: Any = None, payloads: Any = None, **fields: Any) -> dict[str, Any]:
    return fingerprint(flag or a_flag(**{**DELIVERY, **fields}), variants(**(payloads or {})))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("evaluationMode", "local"),
        ("bucketingKey", "device_id"),
        ("bucketingSalt", "other"),
        ("bucketingUnit", "account"),
        ("deployments", ["11"]),
        ("rolloutWeights", {"on": 2}),
        ("parentDependencies", {"flags": {"9": ["slot-2"]}, "operator": "all"}),
        ("parentDependencies", None),
        ("targetSegments", [a_segment()]),
    ],
)
def test_a_field_that_decides_who_gets_what_is_a_change_that_names_it(field, value):
    (told,) = changed(taken(), taken(**{field: value}))
    assert told.startswith(f"{field}: ")
    assert " -> " in told


def test_turning_sticky_bucketing_on_is_a_change():
    off, on = (fingerprint(an_experiment(stickyBucketing=each), variants()) for each in (False, True))
    assert changed(off, on) == ["stickyBucketing: false -> true"]


def test_a_change_shows_what_was_and_what_is():
    assert changed(taken(), taken(rolloutWeights={"on": 2})) == ['rolloutWeights: {"on": 1} -> {"on": 2}']


def test_variants_that_came_or_went_are_a_change():
    assert changed(taken(), taken(payloads={"on": None, "new": None})) == ['variants: ["on"] -> ["new", "on"]']


def test_a_payload_is_a_change_that_does_not_show_what_is_in_it():
    before, after = taken(payloads={"on": {"to": "x@example.com"}}), taken(payloads={"on": {"to": "y@example.com"}})
    assert changed(before, after) == ["payload of variant 'on': changed"]
    assert "example.com" not in json.dumps([before, after])


def test_an_empty_payload_and_none_are_alike():
    assert not changed(taken(payloads={"on": {}}), taken(payloads={"on": None}))


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"percentage": 20}, "percentage of segment 'Beta testers': 10 -> 20"),
        ({"rolloutWeights": {"on": 3}}, 'rolloutWeights of segment \'Beta testers\': {"on": 1} -> {"on": 3}'),
        ({"bucketingKey": "device_id"}, 'bucketingKey of segment \'Beta testers\': "user_id" -> "device_id"'),
        ({"conditions": []}, "conditions of segment 'Beta testers': changed"),
        ({"cohorts": ["c1"]}, "conditions of segment 'Beta testers': changed"),
    ],
)
def test_whatever_changes_in_a_segment_is_named(fields, told):
    assert changed(taken(targetSegments=[a_segment()]), taken(targetSegments=[a_segment(**fields)])) == [told]


def test_the_order_of_segments_decides_and_so_is_a_change():
    first, second = a_segment("A"), a_segment("B")
    assert changed(taken(targetSegments=[first, second]), taken(targetSegments=[second, first]))


def test_the_conditions_of_a_segment_are_not_readable_in_it():
    conditions = [{"type": "property", "prop": "user_id", "op": "is", "values": ["x@example.com"]}]
    assert "example.com" not in json.dumps(taken(targetSegments=[a_segment(conditions=conditions)]))


def test_a_segment_without_a_bucketing_key_of_its_own_has_the_object_s():
    assert not changed(
        taken(targetSegments=[a_segment(bucketingKey=None)]), taken(targetSegments=[a_segment(bucketingKey="user_id")])
    )


def test_the_percentage_that_the_rollout_moves_is_no_change():
    assert not changed(taken(rolloutPercentage=1), taken(rolloutPercentage=50))


def test_a_segment_s_rollout_leaves_out_that_segment_s_percentage_and_no_other_s():
    def of(beta: int, staff: int, rest: int) -> dict[str, Any]:
        segments = [a_segment("Beta", beta), a_segment("Staff", staff)]
        return fingerprint(a_flag(targetSegments=segments, rolloutPercentage=rest), variants(), segment="Beta")

    assert not changed(of(1, 5, 0), of(50, 5, 0))
    assert changed(of(1, 5, 0), of(1, 6, 0)) == ["percentage of segment 'Staff': 5 -> 6"]
    assert changed(of(1, 5, 0), of(1, 5, 7)) == ["rolloutPercentage: 0 -> 7"]


@pytest.mark.parametrize(
    "fields",
    [
        {"name": "New"},
        {"tags": ["x"]},
        {"lastModifiedBy": "y"},
        {"endDate": "2027-01-01"},
        {"deployments": ["11", "12"]},
    ],
)
def test_what_moves_nobody_is_no_change(fields):
    assert not changed(taken(), taken(**fields))


def test_what_an_answer_does_not_show_is_no_change():
    sparse = fingerprint(a_flag(), variants())
    assert not changed(sparse, taken())
    assert not changed(taken(), sparse)


def test_no_dependencies_and_an_empty_set_of_them_are_alike():
    assert not changed(taken(parentDependencies=None), taken(parentDependencies={"flags": {}, "operator": "all"}))


def test_it_is_plain_json_and_the_same_each_time():
    one = taken(targetSegments=[a_segment()], payloads={"b": 1, "a": [1]})
    assert json.loads(json.dumps(one)) == one
    assert json.dumps(one) == json.dumps(taken(targetSegments=[a_segment()], payloads={"a": [1], "b": 1}))
