"""The times that a plan computes: no stage is shortened, and nothing goes up outside a window or in a freeze."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pendulum
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from airflow_amplitude_experiment.rollout.plan import RolloutPlan, Window
from tests.rollout.some_plans import moments, some_plans, utc

HOUR, DAY = timedelta(hours=1), timedelta(days=1)
NINE = utc("2026-11-23 09:00")  # a Monday
OFFICE = Window("mon-thu", "09:00-16:00", "Europe/Berlin")
CHRISTMAS = ("2026-12-20T00:00:00+01:00", "2027-01-04T00:00:00+01:00")


def a_plan(text: str = "1% 1h, 10% 1d, 50% 1d, 100%", **limits) -> RolloutPlan:
    return RolloutPlan.parse(text, **limits)


@pytest.mark.parametrize(
    ("after", "stands", "next_change"),
    [
        (timedelta(microseconds=-1), 0, timedelta(0)),
        (timedelta(0), 1, HOUR),
        (HOUR - timedelta(microseconds=1), 1, HOUR),
        (HOUR, 10, HOUR + DAY),
        (HOUR + DAY, 50, HOUR + 2 * DAY),
        (HOUR + 2 * DAY, 100, None),
        (400 * DAY, 100, None),
    ],
)
def test_a_plan_says_where_it_should_stand_and_when_that_changes(after, stands, next_change):
    assert a_plan().at(NINE, NINE + after) == stands
    assert a_plan().next_change(NINE, NINE + after) == (None if next_change is None else NINE + next_change)


def test_a_stage_is_reached_when_the_bake_before_it_is_over_and_a_window_is_open():
    plan = a_plan("1% 1h, 10% 1d, 50% 2d, 100%", windows=(OFFICE,))
    thursday = utc("2026-11-26 14:30")  # 15:30 in Berlin
    assert plan.reached(thursday) == [
        thursday,
        utc("2026-11-30 08:00"),  # its bake was over at 16:30, past the window: Monday
        utc("2026-12-01 08:00"),
        utc("2026-12-03 08:00"),
    ]


def test_a_bake_counts_from_when_its_stage_was_reached_so_that_waiting_for_a_window_shortens_none():
    plan = a_plan("10% 3h, 50% 3h, 100%", windows=(Window("mon-sun", "09:00-10:00"),))
    assert plan.reached(NINE) == [NINE, NINE + DAY, NINE + 2 * DAY]


def test_the_first_stage_waits_for_a_window_too():
    plan = a_plan(windows=(OFFICE,))
    sunday = utc("2026-11-22 09:00")
    assert plan.at(sunday, sunday + 22 * HOUR) == 0
    assert plan.next_change(sunday, sunday) == utc("2026-11-23 08:00")


def test_a_freeze_holds_a_stage_back_until_its_end():
    plan = a_plan("10% 1d, 100%", freezes=(CHRISTMAS,))
    start = utc("2026-12-19 12:00")
    assert plan.reached(start) == [start, utc("2027-01-03 23:00")]
    assert plan.at(start, utc("2026-12-31 12:00")) == 10


@pytest.mark.parametrize(
    ("zone", "start", "day_after"),
    [
        ("Europe/Berlin", "2026-03-28T10:00", "2026-03-29T11:00"),
        ("Europe/Berlin", "2026-10-24T10:00", "2026-10-25T09:00"),
        ("America/New_York", "2026-03-07T10:00", "2026-03-08T11:00"),
        ("America/New_York", "2026-10-31T10:00", "2026-11-01T09:00"),
    ],
)
def test_a_day_is_24_hours_also_when_the_clocks_change(zone, start, day_after):
    start, then = (datetime.fromisoformat(each).replace(tzinfo=ZoneInfo(zone)) for each in (start, day_after))
    plan = a_plan("10% 1d, 100%")
    assert plan.reached(start) == [start.astimezone(UTC), then.astimezone(UTC)]
    assert plan.at(start, then) == 100
    assert plan.at(start, then - timedelta(seconds=1)) == 10


@pytest.mark.parametrize(
    ("saturday", "sunday"),
    [("2026-03-28 08:30", "2026-03-29 08:30"), ("2026-10-24 07:30", "2026-10-25 08:00")],
)
def test_a_window_over_a_change_of_the_clocks_shortens_no_bake(saturday, sunday):
    """09:30 in Berlin plus 24 hours: 10:30 the next day in spring; 08:30 in autumn, when it waits for 09:00."""
    plan = a_plan("10% 1d, 100%", windows=(Window("mon-sun", "09:00-16:00", "Europe/Berlin"),))
    assert plan.reached(utc(saturday)) == [utc(saturday), utc(sunday)]


def test_a_freeze_without_an_end_still_tells_where_the_plan_stands():
    plan = a_plan("10% 1d, 100%", freezes=[(NINE + HOUR, datetime(9999, 12, 31, tzinfo=UTC))])
    assert plan.at(NINE, NINE + 400 * DAY) == 10
    assert plan.next_change(NINE, NINE - HOUR) == NINE
    with pytest.raises(ValueError, match="no moment within 366 days"):
        plan.next_change(NINE, NINE)


def test_all_moments_come_back_in_utc_whatever_zone_came_in():
    start = pendulum.datetime(2026, 11, 23, 10, tz="Europe/Berlin")
    plan = a_plan(windows=(OFFICE,))
    moments = [*plan.reached(start), plan.next_change(start, start), plan.next_opening(start)]
    assert all(type(each) is datetime and each.tzinfo is UTC for each in moments)
    assert plan.reached(start)[0] == start


@pytest.mark.parametrize(
    "ask",
    [
        lambda plan, naive: plan.at(naive, NINE),
        lambda plan, naive: plan.at(NINE, naive),
        lambda plan, naive: plan.next_change(naive, NINE),
        lambda plan, naive: plan.next_change(NINE, naive),
        lambda plan, naive: plan.reached(naive),
        lambda plan, naive: plan.is_open(naive),
        lambda plan, naive: plan.next_opening(naive),
        lambda plan, naive: plan.preview(naive),
    ],
)
def test_a_moment_without_a_time_zone_is_refused_everywhere(ask):
    with pytest.raises(ValueError, match=r"has no time zone\. Pass an aware datetime"):
        ask(a_plan(), datetime(2026, 11, 23, 9))  # noqa: DTZ001


# --- what holds for every plan ---


@given(some_plans(), moments)
@settings(max_examples=150, deadline=None)
def test_no_stage_is_shortened_and_none_is_reached_outside_a_window_or_in_a_freeze(plan, start):
    reached = plan.reached(start)
    assert len(reached) == len(plan.stages)
    assert reached[0] >= start
    assert all(plan.is_open(each) for each in reached)
    for before, after, stage in zip(reached, reached[1:], plan.stages, strict=False):
        assert after - before >= stage.watched
        assert after == plan.next_opening(before + stage.watched)


@given(some_plans(), moments, st.lists(st.timedeltas(timedelta(days=-2), timedelta(days=40)), min_size=2, max_size=10))
@settings(max_examples=150, deadline=None)
def test_where_a_plan_stands_never_falls(plan, start, offsets):
    stands = [plan.at(start, start + each) for each in sorted(offsets)]
    assert stands == sorted(stands)
    assert set(stands) <= {0, *plan.percentages}


@given(some_plans(), moments)
@settings(max_examples=150, deadline=None)
def test_at_next_change_and_reached_tell_the_same_story(plan, start):
    reached = plan.reached(start)
    assert plan.at(start, reached[0] - timedelta(microseconds=1)) == 0
    for place, (moment, percentage) in enumerate(zip(reached, plan.percentages, strict=True)):
        assert plan.at(start, moment) == percentage
        assert plan.at(start, moment - timedelta(microseconds=1)) == plan.previous(percentage)
        assert plan.next_change(start, moment - timedelta(microseconds=1)) == moment
        assert plan.next_change(start, moment) == (reached[place + 1] if place + 1 < len(reached) else None)


@given(some_plans(), moments, st.timedeltas(timedelta(days=-2), timedelta(days=40)))
@settings(max_examples=150, deadline=None)
def test_nothing_changes_before_the_next_change(plan, start, offset):
    now = start + offset
    change = plan.next_change(start, now)
    if change is None:
        assert plan.at(start, now) == plan.percentages[-1]
    else:
        assert change > now
        assert plan.at(start, change - timedelta(microseconds=1)) == plan.at(start, now) < plan.at(start, change)


@given(some_plans(), moments)
@settings(max_examples=100, deadline=None)
def test_a_later_start_reaches_no_stage_earlier(plan, start):
    later = plan.reached(start + HOUR)
    assert all(one <= other for one, other in zip(plan.reached(start), later, strict=True))
