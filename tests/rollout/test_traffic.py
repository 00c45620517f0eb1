"""How many people a percentage is, behind groups and weights."""

from __future__ import annotations

from typing import Any

import pytest

from airflow_amplitude_experiment.api.models import Holdout, Mutex
from airflow_amplitude_experiment.rollout import traffic
from tests.builders import a_flag, a_segment


def behind(**parents: list[str]) -> Any:
    flags = {name.removeprefix("id"): variants for name, variants in parents.items()}
    return a_flag(parentDependencies={"flags": flags, "operator": "all"})


def a_mutex(number: str = "1", *percentages: int, holdout_in: int = -1) -> Mutex:
    slots = [
        {
            "variantKey": f"slot-{place}",
            "percentage": percentage,
            "holdouts": [900] if place - 1 == holdout_in else [],
        }
        for place, percentage in enumerate(percentages or (50, 50), 1)
    ]
    return Mutex.model_validate({"id": number, "name": f"M{number}", "slots": slots})


def a_holdout(number: str = "900", percentage: int = 5) -> Holdout:
    return Holdout.model_validate({"id": number, "name": "H", "holdoutPercentage": percentage, "variantName": "on"})


def let_through(found: Any, mutexes: Any = (), holdouts: Any = ()) -> float:
    return traffic.share_of(traffic.gates(found, mutexes, holdouts))


def test_without_groups_a_percentage_is_of_all_users():
    assert let_through(a_flag(), [a_mutex()], [a_holdout()]) == 1


def test_a_slot_lets_its_percentage_through_and_a_holdout_all_but_its_own():
    found = behind(id1=["slot-1"], id900=["on"])
    assert let_through(found, [a_mutex()], [a_holdout()]) == 0.475
    assert traffic.of_all(50, 0.475) == "50 % here is 23.75 % of users"


def test_several_slots_of_one_group_add_up_and_several_groups_multiply():
    assert let_through(behind(id1=["slot-1", "slot-3"]), [a_mutex("1", 20, 50, 30)]) == 0.5
    assert let_through(behind(id1=["slot-1"], id2=["slot-2"]), [a_mutex("1"), a_mutex("2")]) == 0.25


def test_two_holdouts_of_5_percent_leave_90_25_percent():
    found = behind(id900=["on"], id901=["on"])
    assert let_through(found, (), [a_holdout(), a_holdout("901")]) == 0.9025


def test_a_holdout_that_sits_in_a_slot_lets_only_that_slot_s_users_through():
    assert let_through(behind(id900=["on"]), [a_mutex(holdout_in=0)], [a_holdout()]) == 0.475


def test_one_slot_that_both_ask_for_counts_once_and_two_different_ones_let_nobody_through():
    holdout_in_slot_1 = [a_mutex(holdout_in=0)]
    assert let_through(behind(id1=["slot-1"], id900=["on"]), holdout_in_slot_1, [a_holdout()]) == 0.475
    assert let_through(behind(id1=["slot-2"], id900=["on"]), holdout_in_slot_1, [a_holdout()]) == 0


def test_a_gate_says_what_it_is():
    names = [each.name for each in traffic.gates(behind(id1=["slot-1"], id900=["on"]), [a_mutex()], [a_holdout()])]
    assert names == ["mutex group 'M1' (slot-1: 50 %)", "holdout group 'H' (5 % held out)"]


def test_what_is_no_group_is_a_prerequisite():
    assert traffic.prerequisites(behind(id1=["slot-1"], id7=["on"]), [a_mutex()], []) == {"7": ["on"]}


@pytest.mark.parametrize(
    ("weights", "told"),
    [
        ({"control": 1, "treatment": 1}, "50 % (treatment 25 %)"),
        ({"control": 50, "treatment": 50}, "50 % (treatment 25 %)"),
        ({"control": 2, "a": 1, "b": 1}, "50 % (a 12.5 %, b 12.5 %)"),
        ({"a": 1, "b": 3}, "50 % (a 12.5 %, b 37.5 %)"),
        ({"on": 1}, "50 %"),
        ({"on": 1, "other": 0}, "50 %"),
        ({"control": 1, "a": 1, "b": 1}, "50 % (a 16.6667 %, b 16.6667 %)"),
    ],
)
def test_a_percentage_is_split_over_the_variants_by_weight(weights, told):
    assert traffic.in_variants(50, weights) == told


def test_weights_are_those_of_the_scope_that_is_moved():
    found = a_flag(rolloutWeights={"on": 1}, targetSegments=[a_segment(rolloutWeights={"on": 7})])
    assert traffic.weights_of(found, [], None) == {"on": 1}
    assert traffic.weights_of(found, [], "Beta testers") == {"on": 7}
    assert traffic.weights_of(a_flag(), [], None) is None


def test_included_people_are_counted_and_not_named():
    assert traffic.included({"on": 1, "b": 0}, {"on": 2, "b": 0}) == ["1 user or device and 2 cohorts in on"]
    assert traffic.included({"on": 0}, {}) == []


def test_others_who_are_served_are_the_segments_and_in_a_segment_s_rollout_the_rest():
    segments = [a_segment("A", 10), a_segment("B", 0), a_segment("C", 5)]
    found = a_flag(rolloutPercentage=20, targetSegments=segments)
    beside = list(traffic.served_beside(found, None))
    assert beside == ["target segment 'A' (10 % of its users)", "target segment 'C' (5 % of its users)"]
    assert list(traffic.served_beside(found, "A")) == [
        "target segment 'C' (5 % of its users)",
        "all other users (20 %)",
    ]
