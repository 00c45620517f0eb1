"""Which steps a decision comes to, and how many people they move; nothing is read or sent here."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_amplitude_experiment.api import RolloutRefused, experiments
from airflow_amplitude_experiment.api.models import Experiment
from airflow_amplitude_experiment.rollout.decision import Order, losing_for_a_moment, missing, plan, shifts
from tests.builders import a_segment, an_experiment

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)
KEYS = ("a", "b", "c")
ROLLOUT = Order(decision="rollout", variant="b")
ROLLBACK = Order(decision="rollback")


def found(**fields):
    """A running experiment with three variants at 10 %."""
    fields = {"rolloutWeights": dict.fromkeys(KEYS, 1), **fields}
    return an_experiment(**fields).model_copy(
        update={"variants": Experiment.model_validate({"id": "1", "key": "k", "variants": variants()}).variants}
    )


def variants():
    return [{"key": key} for key in KEYS]


def done(there, steps):
    for step in steps:
        there = step.applied(there)
    return there


def steps(there, order=ROLLOUT):
    return [str(step) for step in plan(there, order, now=NOW)]


weights = st.dictionaries(st.sampled_from(KEYS), st.integers(0, 300), min_size=1).filter(
    lambda each: any(each.values())
)
percent = st.integers(0, 100)


@st.composite
def experiments_of_any_kind(draw):
    segments = [
        a_segment(f"segment {number}", draw(percent), rolloutWeights=draw(weights))
        for number in range(draw(st.integers(0, 2)))
    ]
    return found(
        rolloutPercentage=draw(percent),
        rolloutWeights=draw(weights),
        targetSegments=segments,
        stickyBucketing=draw(st.sampled_from([True, False, None])),
    )


def splits(there):
    """The weights of all other users and of each segment."""
    return [there.rollout_weights, *(each.rollout_weights for each in there.target_segments)]


@given(experiments_of_any_kind(), st.sampled_from(KEYS))
def test_wherever_a_rollout_starts_and_dies_it_ends_with_the_winner_alone(there, winner):
    order = Order(decision="rollout", variant=winner)
    whole = plan(there, order, now=NOW)
    for died_after in range(len(whole) + 1):
        halfway = done(there, whole[:died_after])
        rest = missing(halfway, order)
        assert [str(step) for step in rest] == [str(step) for step in whole[died_after:]]
        end = done(halfway, rest)
        assert all([key for key, weight in split.items() if weight] == [winner] for split in splits(end))
        assert {end.rollout_percentage, *(each.percentage for each in end.target_segments)} == {100}
        assert not end.sticky_bucketing
        assert plan(end, order, now=NOW) == ()


@given(experiments_of_any_kind(), st.sampled_from(KEYS))
def test_no_step_of_a_rollout_lowers_the_winners_share(there, winner):
    for step in plan(there, Order(decision="rollout", variant=winner), now=NOW):
        after = step.applied(there)
        for before, now in zip(shares(there), shares(after), strict=True):
            assert now.get(winner, 0) >= before.get(winner, 0)
        there = after


def shares(there):
    """Of the users of each scope, the share that gets each variant by its weight."""
    return [{key: weight / sum(split.values()) for key, weight in split.items()} for split in splits(there)]


@given(experiments_of_any_kind())
def test_every_step_is_a_call_that_the_api_takes(there):
    from airflow_amplitude_experiment.hooks.write import Write

    for step in plan(there, ROLLOUT, now=NOW):
        Write.of(step.call(experiments, there.id), dialect="v1")


@given(experiments_of_any_kind())
def test_a_step_is_left_until_it_is_done(there):
    for step in plan(there, ROLLOUT, now=NOW):
        assert step.left(there)
        there = step.applied(there)
        assert step.left(there) == []


def test_a_weight_above_100_is_not_brought_down():
    assert steps(found(rolloutWeights={"a": 500, "b": 500})) == ["weight of a to 0", "100 % and the decision"]


def test_the_lightest_loser_goes_first():
    assert steps(found(rolloutWeights={"a": 30, "b": 60, "c": 10}))[1:3] == ["weight of c to 0", "weight of a to 0"]


@pytest.mark.parametrize(
    ("winner", "percent"), [("b", 4.9325), ("a", 0), ("c", 0)], ids=["between two losers", "before them", "after them"]
)
def test_losers_on_both_sides_of_the_winner_take_some_of_its_users_for_a_moment(winner, percent):
    """Weights 33:100:33, then 0:100:33: the winner ends at 133/166, then at 100/133."""
    there = found(rolloutWeights=dict.fromkeys(KEYS, 33))
    order = Order(decision="rollout", variant=winner)
    assert losing_for_a_moment(there, plan(there, order, now=NOW), winner) == percent


def test_a_decision_of_the_app_is_recognised():
    there = found(
        rolloutPercentage=100, rolloutWeights={"a": 0, "b": 100, "c": 0}, decision="rollout", rolledOutVariant="b"
    )
    assert steps(there) == []


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"enabled": False}, "it is disabled"),
        ({"rolloutPercentage": 40}, "it stands at 40 %"),
        ({"stickyBucketing": True}, "sticky bucketing is on"),
        ({"rolloutWeights": {"a": 1, "b": 100}}, "weights {'a': 1, 'b': 100}"),
        ({"targetSegments": [a_segment(percentage=5)]}, "target segment 'Beta testers' at 5 %"),
    ],
)
def test_what_was_changed_after_a_rollout_is_named_and_refused(fields, told):
    stands = {"rolloutPercentage": 100, "rolloutWeights": {"b": 100}, "decision": "rollout", "rolledOutVariant": "b"}
    with pytest.raises(RolloutRefused, match="changed since") as refusal:
        plan(found(**{**stands, **fields}), ROLLOUT, now=NOW)
    assert told in str(refusal.value)


def test_a_rollback_stands_where_it_was_decided_and_is_off():
    assert steps(found(enabled=False, decision="rollback"), ROLLBACK) == []
    assert steps(found(enabled=False), ROLLBACK) == ["switch off, 0 %, and the decision"]


def test_a_rollback_of_what_was_rolled_out_before_is_told_apart_by_the_decision_alone():
    """Amplitude keeps the variant that was rolled out before."""
    there = found(enabled=False, decision="rollback", rolledOutVariant="b")
    assert steps(there, ROLLBACK) == []


@pytest.mark.parametrize("day", ["2026-11-22", "2026-11-23"])
def test_the_end_may_be_today_or_later(day):
    assert steps(found(), Order(decision="continue-running", end_date=day)) == ["new end date and the decision"]


def test_an_end_of_yesterday_is_refused():
    with pytest.raises(RolloutRefused, match="that is over"):
        plan(found(), Order(decision="continue-running", end_date="2026-11-21"), now=NOW)


# --- how many people ---------------------------------------------------------------------------------------------


def told(there, order=ROLLOUT):
    return [str(each) for each in shifts(there, plan(there, order, now=NOW))]


def test_a_rollout_from_three_even_variants_moves_two_thirds_of_those_in_it():
    assert told(found()) == [
        "all users: 66.6667 % of those in it change variant (a 33.3333 % -> 0 %, c 33.3333 % -> 0 %), 90 % newly get b"
    ]


def test_at_0_percent_nobody_changes_variant():
    assert told(found(rolloutPercentage=0)) == ["all users: 100 % newly get b"]


def test_a_disabled_experiment_has_nobody_in_it():
    assert told(found(enabled=False), Order(decision="rollout", variant="b", enable=True)) == [
        "all users: 100 % newly get b"
    ]


def test_segments_are_counted_apart_from_all_other_users():
    there = found(targetSegments=[a_segment(percentage=100, rolloutWeights={"b": 1})], rolloutPercentage=0)
    assert told(there) == ["target segment 'Beta testers': nobody changes", "all other users: 100 % newly get b"]


def test_a_rollback_takes_the_variant_from_all():
    there = found(targetSegments=[a_segment(percentage=20, rolloutWeights={"b": 1})], rolloutPercentage=30)
    assert told(there, ROLLBACK) == [
        "target segment 'Beta testers': 20 % lose their variant (b)",
        "all other users: 30 % lose their variant (a, b, c)",
    ]


def test_starting_again_what_was_stopped_is_told():
    order = Order(decision="continue-running", end_date="2026-12-01", enable=True)
    assert told(found(enabled=False, rolloutWeights={"a": 1}), order) == ["all users: 10 % newly get a"]
