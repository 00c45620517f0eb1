"""Target segments are replaced as a whole, so a change of one must leave all others as they were read."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_amplitude_experiment.api import RolloutRefused
from airflow_amplitude_experiment.api._checks import CONDITION_OPERATORS
from airflow_amplitude_experiment.rollout.segments import percentages_to_move, rewritten, with_changes
from airflow_amplitude_experiment.rollout.weights import segments_move_users
from tests.builders import a_flag, a_segment, an_experiment

CONDITION = {"type": "property", "prop": "gp:plan", "op": "is", "values": ["pro"]}
CONDITIONS = st.lists(
    st.fixed_dictionaries(
        {
            "type": st.just("property"),
            "prop": st.text(min_size=1),
            "op": st.sampled_from(CONDITION_OPERATORS),
            "values": st.lists(st.text(), max_size=3),
        }
    ),
    max_size=3,
)
PARTS = {
    "conditions": CONDITIONS,
    "percentage": st.integers(0, 100),
    "rolloutWeights": st.dictionaries(st.sampled_from(["control", "treatment"]), st.integers(1, 9), min_size=1),
}
SEGMENT = st.fixed_dictionaries({"name": st.text(min_size=1), **PARTS}, optional={"bucketingKey": st.text(min_size=1)})
SEGMENTS = st.lists(SEGMENT, min_size=1, max_size=4, unique_by=lambda segment: segment["name"])
CHANGES = st.fixed_dictionaries({}, optional={name: PARTS[name] for name in ("conditions", "rolloutWeights")})


def without_a_word_for_everyone(segment):
    """The API's own words: a list is written with ``everyone``, which our checks take out again."""
    return {name: value for name, value in segment.items() if name != "everyone"}


@given(SEGMENTS, CHANGES, st.data())
def test_what_is_not_changed_is_written_back_as_it_was_read(there, changes, data):
    at = data.draw(st.integers(0, len(there) - 1))
    written = with_changes(a_flag(targetSegments=there), there[at]["name"], changes)
    expected = [{**each, **changes} if position == at else each for position, each in enumerate(there)]
    assert [without_a_word_for_everyone(each) for each in written] == expected
    assert all(each.get("everyone", False) is not bool(each["conditions"]) for each in written)


@given(SEGMENTS, st.data())
def test_naming_segments_is_enough_to_keep_them_in_any_order(there, data):
    wanted = data.draw(st.permutations(there))
    written = rewritten(a_flag(targetSegments=there), [{"name": each["name"]} for each in wanted])
    assert [without_a_word_for_everyone(each) for each in written] == wanted


@given(SEGMENTS, st.integers(0, 100))
def test_no_list_moves_a_percentage(there, percentage):
    found = a_flag(targetSegments=there)
    wanted = [{**each, "percentage": percentage} for each in there]
    assert [each["percentage"] for each in rewritten(found, wanted)] == [each["percentage"] for each in there]
    moved = [each["name"] for each in there if each["percentage"] != percentage]
    assert len(list(percentages_to_move(found, wanted))) == len(moved)


@pytest.mark.parametrize("twice", ["there", "wanted"])
def test_two_segments_of_one_name_are_refused(twice):
    there = [a_segment()] * (2 if twice == "there" else 1)
    with pytest.raises(RolloutRefused, match="can't be told apart"):
        rewritten(a_flag(targetSegments=there), [a_segment()] * (2 if twice == "wanted" else 1))


EVEN = {"control": 1, "treatment": 1}
MINE = {"treatment": 1}
LIKE_THE_REST = a_segment("Beta", rolloutWeights=EVEN)
APART = a_segment("QA", rolloutWeights=MINE)
NOBODY_MOVES = {
    "nothing changes": ([LIKE_THE_REST, APART], [LIKE_THE_REST, APART]),
    "a name": ([APART], [{**APART, "name": "Testers"}]),
    "a percentage": ([APART], [{**APART, "percentage": 0}]),
    "weights in the same proportion": (
        [LIKE_THE_REST],
        [{**LIKE_THE_REST, "rolloutWeights": dict.fromkeys(EVEN, 5)}],
    ),
    "conditions, all split alike": ([LIKE_THE_REST], [{**LIKE_THE_REST, "conditions": [CONDITION]}]),
    "one more, split alike": ([], [LIKE_THE_REST]),
    "one less, split alike": ([LIKE_THE_REST], []),
    "the key that it has anyway": ([LIKE_THE_REST], [{**LIKE_THE_REST, "bucketingKey": None}]),
}
SOMEBODY_MOVES = {
    "weights": ([LIKE_THE_REST], [{**LIKE_THE_REST, "rolloutWeights": MINE}]),
    "a bucketing key": ([LIKE_THE_REST], [{**LIKE_THE_REST, "bucketingKey": "device_id"}]),
    "one more, split otherwise": ([], [APART]),
    "one less, split otherwise": ([APART], []),
    "other conditions, split otherwise": ([APART], [{**APART, "conditions": [CONDITION]}]),
    "another order": ([LIKE_THE_REST, APART], [APART, {**LIKE_THE_REST, "conditions": [CONDITION]}]),
}


@pytest.mark.parametrize(
    ("before", "after", "moves"),
    [(*lists, moves) for cases, moves in ((NOBODY_MOVES, False), (SOMEBODY_MOVES, True)) for lists in cases.values()],
    ids=[*NOBODY_MOVES, *SOMEBODY_MOVES],
)
def test_who_moves_between_variants_when_segments_change(before, after, moves):
    found = an_experiment(targetSegments=before, rolloutWeights=EVEN, bucketingKey="user_id")
    assert segments_move_users(found, after) is moves


def test_weights_that_are_not_shown_may_be_others():
    assert segments_move_users(an_experiment(bucketingKey="user_id"), [LIKE_THE_REST])
