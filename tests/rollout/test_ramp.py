"""The table of law 2, row by row, and what a ramp refuses."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_amplitude_experiment.api import RolloutRefused
from airflow_amplitude_experiment.rollout.ramp import ramp
from tests.builders import a_flag, a_segment, an_experiment

percents = st.integers(0, 100)


@pytest.mark.parametrize(
    ("found", "to", "options", "patch"),
    [
        (10, 25, {}, {"rollout_percentage": 25}),
        (10, 25, {"expected": 10}, {"rollout_percentage": 25}),
        (25, 25, {"expected": 10}, None),
        (25, 25, {}, None),
        (60, 25, {"on_drift": "continue"}, None),
        (60, 25, {"on_drift": "overwrite"}, {"rollout_percentage": 25}),
        (60, 25, {"expected": 10, "on_drift": "overwrite"}, {"rollout_percentage": 25}),
        (60, 25, {"allow_decrease": True}, {"rollout_percentage": 25}),
        (60, 25, {"allow_decrease": True, "expected": 60}, {"rollout_percentage": 25}),
        (0, 0, {}, None),
        (40, 0, {"allow_decrease": True}, {"rollout_percentage": 0}),
        (60, 0, {"allow_decrease": True, "expected": 50, "on_drift": "overwrite"}, {"rollout_percentage": 0}),
        (60, 0, {"allow_decrease": True, "expected": 50, "on_drift": "continue"}, None),
    ],
)
def test_the_table_of_a_ramp(found, to, options, patch):
    decision = ramp(a_flag(rolloutPercentage=found), to, **options)
    assert (decision.patch if decision.changes else None) == patch


@pytest.mark.parametrize(
    ("found", "to", "options", "says"),
    [
        (60, 25, {}, "stands at 60 %, but this ramp goes up to 25 % only"),
        (60, 25, {"expected": 10}, "stands at 60 %, but this ramp expected 10 % or 25 %"),
        (5, 25, {"expected": 10}, "stands at 5 %"),
        (15, 25, {"expected": 10}, "stands at 15 %"),
        (15, 25, {"expected": 10, "on_drift": "continue"}, "stands at 15 %"),
        (5, 25, {"expected": 10, "on_drift": "overwrite"}, "stands at 5 %"),
        (50, 25, {"allow_decrease": True, "expected": 60}, "stands at 50 %"),
        (60, 0, {"allow_decrease": True, "expected": 50}, "stands at 60 %"),
    ],
)
def test_drift_is_refused_and_the_message_says_where_it_stands(found, to, options, says):
    with pytest.raises(RolloutRefused, match=says) as refusal:
        ramp(a_flag(rolloutPercentage=found), to, **options)
    assert "Nothing was written" in str(refusal.value)


@pytest.mark.parametrize("on_drift", ["fail", "continue", "overwrite"])
@pytest.mark.parametrize("there", [{"enabled": False}, {"deleted": True}, {"enabled": False, "rolloutPercentage": 60}])
def test_disabled_and_archived_are_refused_whatever_on_drift_says(there, on_drift):
    with pytest.raises(RolloutRefused, match=r"is disabled|is archived"):
        ramp(a_flag(**there), 25, on_drift=on_drift)


def test_who_takes_a_disabled_object_down_is_not_told_to_enable_it():
    with pytest.raises(RolloutRefused, match="off already") as refusal:
        ramp(a_flag(enabled=False, rolloutPercentage=40), 0, allow_decrease=True)
    assert "enable=True" not in str(refusal.value)


def test_an_archived_object_is_not_enabled_either():
    with pytest.raises(RolloutRefused, match="archived"):
        ramp(a_flag(deleted=True, enabled=False), 25, enable=True)


@pytest.mark.parametrize("on_drift", ["fail", "continue"])
def test_enabling_an_object_that_stands_too_high_is_refused(on_drift):
    with pytest.raises(RolloutRefused, match="stands at 60 %"):
        ramp(a_flag(enabled=False, rolloutPercentage=60), 25, enable=True, on_drift=on_drift)


def test_enable_switches_on_in_the_same_write():
    decision = ramp(a_flag(enabled=False, rolloutPercentage=0), 10, enable=True)
    assert decision.patch == {"enabled": True, "rollout_percentage": 10}


def test_enable_switches_on_an_object_that_already_has_the_percentage():
    decision = ramp(a_flag(enabled=False, rolloutPercentage=10), 10, enable=True)
    assert decision.changes
    assert decision.raises
    assert decision.patch == {"enabled": True, "rollout_percentage": 10}


def test_the_refusal_names_who_changed_it_last():
    found = a_flag(rolloutPercentage=60, lastModifiedBy="x@example.com", lastModifiedAt="2026-11-22T09:14:00.000Z")
    with pytest.raises(RolloutRefused, match=r"x@example\.com changed it last, at 2026-11-22T09:14"):
        ramp(found, 25, expected=10)


def test_a_segment_for_everyone_makes_the_percentage_mean_nothing():
    everyone = a_segment("All", 100, conditions=[])
    with pytest.raises(RolloutRefused, match="without conditions"):
        ramp(a_flag(targetSegments=[everyone]), 25)
    assert ramp(a_flag(targetSegments=[everyone], rolloutPercentage=40), 0, allow_decrease=True).changes


def test_a_sparse_answer_is_not_guessed_at():
    with pytest.raises(RolloutRefused, match="does not show"):
        ramp(a_flag(rolloutPercentage=None), 25)


def test_a_segments_percentage_is_moved_and_everything_else_written_back_as_read():
    there = [a_segment("Staff", 100), a_segment("Beta testers", 10)]
    decision = ramp(a_flag(targetSegments=there), 50, segment="Beta testers")
    assert decision.patch == {"target_segments": [there[0], {**there[1], "percentage": 50}]}


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        ({"cohorts": ["x"]}, "cohorts"),
        ({"conditions": [{"type": "cohort", "prop": "c", "op": "is", "values": ["1"]}]}, "type 'cohort'"),
        ({"conditions": [{"type": "property", "prop": "c", "op": "in space", "values": ["1"]}]}, "in space"),
        ({"conditions": [{"type": "property", "prop": "c", "op": "is", "values": [], "extra": 1}]}, "condition"),
        ({"rolloutWeights": None}, "x"),
    ],
)
def test_segments_that_cannot_be_written_back_are_never_written(damage, says):
    spoiled = a_segment("Staff", 100)
    spoiled.update(damage)
    if damage == {"rolloutWeights": None}:
        del spoiled["rolloutWeights"]
        says = "rolloutWeights"
    with pytest.raises(RolloutRefused, match=says):
        ramp(a_flag(targetSegments=[spoiled, a_segment("Beta testers", 10)]), 50, segment="Beta testers")


@pytest.mark.parametrize("names", [[], ["Other"], ["Beta testers", "Beta testers"]])
def test_a_segment_must_be_there_exactly_once(names):
    with pytest.raises(RolloutRefused, match="named 'Beta testers'"):
        ramp(a_flag(targetSegments=[a_segment(name) for name in names]), 50, segment="Beta testers")


def test_segments_of_a_running_bandit_are_left_alone():
    bandit = an_experiment(experimentType="multi-arm-bandit", targetSegments=[a_segment()])
    with pytest.raises(RolloutRefused, match="bandit"):
        ramp(bandit, 50, segment="Beta testers")


@given(percents, percents, st.none() | percents, st.booleans(), st.booleans(), st.booleans())
def test_a_ramp_only_goes_where_it_was_asked_to(found, to, expected, allow_decrease, enabled, enable):
    flag = a_flag(rolloutPercentage=found, enabled=enabled)
    try:
        decision = ramp(flag, to, expected=expected, allow_decrease=allow_decrease, enable=enable)
    except RolloutRefused:
        return
    assert decision.after == to
    assert enabled or enable
    assert allow_decrease or decision.after >= found
    assert expected is None or found in (expected, to)


@given(percents, percents, st.sampled_from(["fail", "continue", "overwrite"]))
def test_a_second_ramp_right_after_the_first_writes_nothing(found, to, on_drift):
    try:
        first = ramp(a_flag(rolloutPercentage=found), to, on_drift=on_drift)
    except RolloutRefused:
        return
    assert not ramp(a_flag(rolloutPercentage=first.after), to, on_drift=on_drift).changes
