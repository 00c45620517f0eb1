"""When a stage is looked at: a grid that nothing moves, and a bake that nothing shortens."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_amplitude_experiment.rollout.hours import Hours

SINCE = datetime(2026, 11, 20, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)

lengths = st.integers(1, 20_000).map(lambda seconds: timedelta(seconds=seconds))
either = st.booleans()
delays = st.lists(st.integers(0, 5_000).map(lambda seconds: timedelta(seconds=seconds)), min_size=60, max_size=60)


@st.composite
def some_hours(draw, open_end=either):
    """Hours of a stage with at most some forty looks; with an open end while an approval is open."""
    every = draw(lengths)
    if draw(open_end):
        return Hours(SINCE, None, None, every)
    until = SINCE + min(draw(lengths), every * 20)
    return Hours(SINCE, until, until + min(draw(lengths), every * 20), every)


closed_hours = some_hours(open_end=st.just(False))


def after(start, low=0, high=50_000):
    return st.integers(low, high).map(lambda seconds: start + timedelta(seconds=seconds))


def moments_of_looks(hours, delays=()):
    """Look as a watch does, each wake-up late by the next of the delays, until nothing is waited for any more."""
    delays, moment, looks = list(delays), hours.since, []
    while not looks or not hours.is_held_no_longer(moment):
        moment = hours.following(moment) + (delays.pop(0) if delays else timedelta(0))
        assert hours.is_due(looks[-1] if looks else hours.since, moment)
        looks.append(moment)
    return looks


@given(closed_hours)
def test_the_look_that_decides_is_exactly_when_the_bake_ends(hours):
    looks = moments_of_looks(hours)
    assert next(moment for moment in looks if hours.is_over(moment)) == hours.until


@given(closed_hours, delays)
def test_no_look_before_the_end_of_the_bake_decides_however_late_it_comes(hours, delays):
    for moment in moments_of_looks(hours, delays):
        assert hours.is_over(moment) is (moment >= hours.until)


@given(closed_hours)
def test_a_hold_ends_with_a_look_exactly_at_its_end(hours):
    looks = moments_of_looks(hours)
    assert looks[-1] == hours.hold_until
    assert not any(hours.is_held_no_longer(moment) for moment in looks[:-1])


@given(closed_hours)
def test_between_two_looks_there_is_never_more_than_the_agreed_wait(hours):
    looks = [hours.since, *moments_of_looks(hours)]
    assert all(later - earlier <= hours.every for earlier, later in pairwise(looks))


@given(closed_hours)
def test_between_two_looks_there_is_less_than_the_agreed_wait_only_at_the_ends(hours):
    looks = [hours.since, *moments_of_looks(hours)]
    for earlier, later in pairwise(looks):
        assert later - earlier == hours.every or later in (hours.until, hours.hold_until)


@given(some_hours(), st.data())
def test_the_next_look_is_always_later_than_now(hours, data):
    now = data.draw(after(SINCE, low=-5_000))
    assert hours.following(now) > now


@given(some_hours(), st.data())
def test_a_late_wake_up_moves_no_later_look(hours, data):
    now = data.draw(after(SINCE))
    following = hours.following(now)
    inside = data.draw(st.floats(0, 1, exclude_max=True))
    assert hours.following(now + (following - now) * inside) in (following, hours.following(following))
    ends = (hours.until, hours.hold_until)
    start = hours.until if hours.until and now >= hours.until else hours.since
    assert following in ends or (following - start) % hours.every == timedelta(0)


@given(some_hours(), st.data())
def test_a_wake_up_before_its_time_is_no_look(hours, data):
    looked_at = data.draw(after(SINCE))
    early = looked_at + (hours.following(looked_at) - looked_at) * data.draw(st.floats(0, 0.999))
    if not hours.is_held_no_longer(early):
        assert not hours.is_due(looked_at, early)


@given(some_hours(), st.data())
def test_a_look_is_due_once_its_moment_has_come_however_late(hours, data):
    looked_at = data.draw(after(SINCE))
    assert hours.is_due(looked_at, data.draw(after(hours.following(looked_at))))


def test_when_the_stage_was_just_reached_no_look_is_due():
    hours = Hours(SINCE, SINCE + 4 * HOUR, SINCE + 5 * HOUR, HOUR)
    assert not hours.is_due(SINCE, SINCE)
    assert hours.following(SINCE) == SINCE + HOUR


@pytest.mark.parametrize(
    ("now", "following"),
    [(0, 1.5), (1.4, 1.5), (1.5, 3), (2.9, 3), (3.1, 4), (4, 5.5), (5.4, 5.5), (5.5, 6), (6, 7), (6.5, 7)],
)
def test_the_grid_starts_when_the_stage_was_reached_and_anew_at_the_look_that_decides(now, following):
    hours = Hours(SINCE, SINCE + 4 * HOUR, SINCE + 6 * HOUR, 1.5 * HOUR)
    assert hours.following(SINCE + now * HOUR) == SINCE + following * HOUR


def test_after_the_end_of_a_hold_every_look_is_due():
    hours = Hours(SINCE, SINCE + 4 * HOUR, SINCE + 6 * HOUR, 1.5 * HOUR)
    now = SINCE + 6.1 * HOUR
    assert hours.is_due(now, now)


@given(some_hours(open_end=st.just(True)), st.data())
def test_while_an_approval_is_open_no_look_decides_and_nothing_runs_out(hours, data):
    now = data.draw(after(SINCE))
    assert not hours.is_over(now)
    assert not hours.is_held_no_longer(now)


def test_a_clock_that_is_behind_waits_for_the_first_look():
    hours = Hours(SINCE, SINCE + 4 * HOUR, SINCE + 5 * HOUR, HOUR)
    before = SINCE - 10 * HOUR
    assert not hours.is_due(SINCE, before)
    assert hours.following(before) == SINCE + HOUR
