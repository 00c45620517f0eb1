"""Where a rollout goes back to: what counts as down, and what is sent."""

from __future__ import annotations

from datetime import timedelta

import pytest

from airflow_amplitude_experiment.api import RolloutRefused
from airflow_amplitude_experiment.operators._way_back import Goal
from tests.builders import a_flag, a_segment


def a_goal(percentage, segment=None):
    return Goal(kind="flag", percentage=percentage, segment=segment, patience=timedelta(hours=1), reason="breach")


@pytest.mark.parametrize(
    ("to", "found", "reached", "passed"),
    [
        (10, {"rolloutPercentage": 11}, False, False),
        (10, {"rolloutPercentage": 10}, True, False),
        (10, {"rolloutPercentage": 9}, True, True),
        (10, {"rolloutPercentage": None}, False, False),
        (10, {"rolloutPercentage": 50, "enabled": False}, True, True),
        (10, {"rolloutPercentage": 50, "enabled": None}, False, False),
        (10, {"rolloutPercentage": 50, "deleted": True}, True, True),
        (None, {"rolloutPercentage": 0}, False, False),
        (None, {"enabled": None}, False, False),
        (None, {"enabled": False}, True, True),
        (None, {"deleted": True}, True, True),
    ],
)
def test_what_counts_as_down(to, found, reached, passed):
    flag = a_flag(**found)
    assert a_goal(to).is_reached(flag) is reached
    assert a_goal(to).is_passed(flag) is passed


@pytest.mark.parametrize(("stands", "reached"), [(10, True), (11, False)])
def test_of_a_segment_rollout_the_segment_counts(stands, reached):
    flag = a_flag(rolloutPercentage=100, targetSegments=[a_segment("B", stands)])
    assert a_goal(10, "B").is_reached(flag) is reached


@pytest.mark.parametrize(
    ("to", "segment", "nothing"), [(None, "B", True), (0, None, True), (0, "B", False), (1, None, False)]
)
def test_only_off_and_zero_of_all_users_need_no_read(to, segment, nothing):
    assert a_goal(to, segment).is_nothing is nothing


@pytest.mark.parametrize(("to", "fields"), [(None, {"enabled": False}), (7, {"rollout_percentage": 7})])
def test_nothing_but_the_switch_or_the_percentage_is_sent(to, fields):
    assert a_goal(to).fields(a_flag()) == fields


def test_a_segment_that_can_not_be_written_back_is_refused():
    flag = a_flag(targetSegments=[a_segment("B", 50, cohorts=["x"])])
    with pytest.raises(RolloutRefused, match="cohorts"):
        a_goal(10, "B").fields(flag)


@pytest.mark.parametrize(
    ("to", "segment", "words"), [(None, None, "off"), (0, None, "to 0 %"), (5, "B", "to 5 % of segment B")]
)
def test_a_goal_in_words(to, segment, words):
    assert a_goal(to, segment).words == words
