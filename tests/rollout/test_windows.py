"""When a rollout may go up: windows over changes of the clocks, freezes, and what is refused."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from zoneinfo import ZoneInfo

import pendulum
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from airflow_amplitude_experiment.rollout.windows import (
    DAYS,
    Window,
    aware,
    first_opening,
    freeze,
    is_open,
    next_opening,
)
from tests.rollout.some_plans import moments, some_freezes, some_windows, utc

BERLIN, NEW_YORK = "Europe/Berlin", "America/New_York"


def opening(moment: str, *windows: Window, freezes=()) -> datetime:
    return next_opening(utc(moment), windows=windows, freezes=freezes)


def stands_open(window: Window, moment: datetime) -> bool:
    """Say what a person with a wall clock says, told from texts and not from minutes."""
    start, end = window.hours.split("-")
    first, last = window.days.split("-")
    days = [*DAYS, *DAYS]
    wanted = days[days.index(first) :]
    wanted = wanted[: wanted.index(last) + 1]
    wall = moment.astimezone(ZoneInfo(window.timezone))
    clock = f"{wall:%H:%M}"
    today, yesterday = DAYS[wall.weekday()] in wanted, DAYS[wall.weekday() - 1] in wanted
    if start < end:
        return today and start <= clock < end
    return (today and clock >= start) or (yesterday and clock < end)


# --- hours and weekdays ---


@pytest.mark.parametrize(
    ("moment", "is_in"),
    [
        ("2026-11-23 07:59:59.999999", False),  # Monday, 08:59 in Berlin
        ("2026-11-23 08:00", True),
        ("2026-11-23 14:59:59.999999", True),
        ("2026-11-23 15:00", False),
        ("2026-11-26 14:00", True),  # Thursday
        ("2026-11-27 09:00", False),  # Friday
    ],
)
def test_the_first_minute_of_a_window_is_in_and_the_last_is_not(moment, is_in):
    assert Window("mon-thu", "09:00-16:00", BERLIN).is_open(utc(moment)) is is_in


@pytest.mark.parametrize(
    ("moment", "is_in"),
    [
        ("2026-11-20 21:59", False),  # Friday
        ("2026-11-20 22:00", True),
        ("2026-11-21 01:59", True),  # Saturday
        ("2026-11-21 02:00", False),
        ("2026-11-21 22:00", False),
        ("2026-11-20 01:00", False),
    ],
)
def test_a_window_over_midnight_belongs_to_the_day_on_which_it_begins(moment, is_in):
    assert Window("fri", "22:00-02:00").is_open(utc(moment)) is is_in


@pytest.mark.parametrize(
    ("days", "open_on"),
    [
        ("mon-thu", "mon tue wed thu"),
        ("sat-mon", "sat sun mon"),
        ("mon,wed,fri", "mon wed fri"),
        ("Mon, Wed - Thu", "mon wed thu"),
        ("sun", "sun"),
        ("mon-sun", "mon tue wed thu fri sat sun"),
        ("fri-thu", "mon tue wed thu fri sat sun"),
    ],
)
def test_weekdays_are_spans_and_lists(days, open_on):
    week = [utc("2026-11-23 12:00") + timedelta(days=each) for each in range(7)]
    window = Window(days)
    assert {DAYS[each.weekday()] for each in week if window.is_open(each)} == set(open_on.split())


def test_a_window_may_have_several_hours():
    window = Window("mon-fri", "09:00-12:00, 13:00-16:00")
    assert opening("2026-11-23 12:00", window) == utc("2026-11-23 13:00")
    assert opening("2026-11-23 16:00", window) == utc("2026-11-24 09:00")


def test_a_window_without_words_is_always_open():
    assert opening("2026-11-22 03:17:05.000001", Window()) == utc("2026-11-22 03:17:05.000001")


def test_any_of_several_windows_will_do():
    windows = Window("mon-thu", "09:00-16:00", BERLIN), Window("fri", "09:00-12:00", NEW_YORK)
    assert opening("2026-11-26 15:00", *windows) == utc("2026-11-27 14:00")
    assert opening("2026-11-27 17:00", *windows) == utc("2026-11-30 08:00")


# --- changes of the clocks ---


@pytest.mark.parametrize(
    ("zone", "hours", "asked", "opens"),
    [
        # Clocks are put forward: Berlin on 2026-03-29 at 01:00 UTC, New York on 2026-03-08 at 07:00 UTC.
        (BERLIN, "09:00-16:00", "2026-03-28 20:00", "2026-03-29 07:00"),
        (BERLIN, "09:00-16:00", "2026-03-27 20:00", "2026-03-28 08:00"),
        (BERLIN, "02:00-03:00", "2026-03-28 12:00", "2026-03-30 00:00"),  # that hour is skipped
        (BERLIN, "02:30-04:00", "2026-03-28 12:00", "2026-03-29 01:00"),  # half of it is
        (NEW_YORK, "09:00-16:00", "2026-03-08 01:00", "2026-03-08 13:00"),
        (NEW_YORK, "09:00-16:00", "2026-03-07 01:00", "2026-03-07 14:00"),
        (NEW_YORK, "02:00-03:00", "2026-03-07 12:00", "2026-03-09 06:00"),
        # Clocks are put back: Berlin on 2026-10-25 at 01:00 UTC, New York on 2026-11-01 at 06:00 UTC.
        (BERLIN, "09:00-16:00", "2026-10-24 20:00", "2026-10-25 08:00"),
        (BERLIN, "02:30-02:45", "2026-10-25 00:00", "2026-10-25 00:30"),
        (BERLIN, "02:30-02:45", "2026-10-25 00:45", "2026-10-25 01:30"),  # once more
        (BERLIN, "02:30-02:45", "2026-10-25 01:45", "2026-10-26 01:30"),
        (BERLIN, "01:00-02:30", "2026-10-25 00:30", "2026-10-25 01:00"),  # 03:00 becomes 02:00
        (NEW_YORK, "09:00-16:00", "2026-10-31 21:00", "2026-11-01 14:00"),
        (NEW_YORK, "01:30-01:45", "2026-11-01 05:45", "2026-11-01 06:30"),
    ],
)
def test_windows_are_read_off_the_wall_clock_when_it_changes(zone, hours, asked, opens):
    assert opening(asked, Window("mon-sun", hours, zone)) == utc(opens)


def test_an_hour_that_the_clocks_repeat_is_open_both_times():
    window = Window("sun", "02:00-03:00", BERLIN)
    assert [window.is_open(utc(f"2026-10-25 0{hour}:30")) for hour in range(4)] == [True, True, False, False]


@given(some_windows(), moments)
@settings(max_examples=200, deadline=None)
def test_a_window_is_open_exactly_when_a_person_with_a_wall_clock_says_so(window, moment):
    assert window.is_open(moment) is stands_open(window, moment)


@given(st.lists(some_windows(), max_size=2), st.lists(some_freezes(), max_size=2), moments, st.randoms())
@settings(max_examples=200, deadline=None)
def test_the_next_opening_is_open_and_nothing_before_it_is(windows, freezes, moment, random):
    def may_go_up(when: datetime) -> bool:
        frozen = any(start <= when < end for start, end in freezes)
        return not frozen and (not windows or any(stands_open(each, when) for each in windows))

    found = next_opening(moment, windows=windows, freezes=freezes)
    assert found >= moment
    assert may_go_up(found)
    assert is_open(found, windows=windows, freezes=freezes)
    earlier = [moment + (found - moment) * random.random() for _ in range(50)]
    quarters = [moment + timedelta(minutes=15 * each) for each in range(int((found - moment) / timedelta(minutes=15)))]
    just_before = [found - timedelta(microseconds=1)]
    assert not [each for each in earlier + quarters + just_before if moment <= each < found and may_go_up(each)]


# --- freezes ---


def test_nothing_goes_up_in_a_freeze_and_its_end_is_open_again():
    frozen = [freeze(("2026-12-20T00:00:00+01:00", "2027-01-04T00:00:00+01:00"))]
    assert opening("2026-12-19 22:59", freezes=frozen) == utc("2026-12-19 22:59")
    assert opening("2026-12-19 23:00", freezes=frozen) == utc("2027-01-03 23:00")
    assert opening("2027-01-03 23:00", freezes=frozen) == utc("2027-01-03 23:00")
    assert not is_open(utc("2026-12-19 23:00"), windows=(), freezes=frozen)
    assert is_open(utc("2027-01-03 23:00"), windows=(), freezes=frozen)


def test_a_window_that_opens_in_a_freeze_waits_for_the_first_opening_after_it():
    frozen = [freeze(("2026-12-20T00:00:00Z", "2027-01-02T00:00:00Z"))]
    assert opening("2026-12-18 20:00", Window("mon-fri", "09:00-16:00"), freezes=frozen) == utc("2027-01-04 09:00")


def test_freezes_that_touch_or_overlap_are_one():
    frozen = [
        freeze(("2026-12-24T00:00:00Z", "2026-12-27T00:00:00Z")),
        freeze(("2026-12-20T00:00:00Z", "2026-12-24T00:00:00Z")),
    ]
    assert opening("2026-12-21 00:00", freezes=frozen) == utc("2026-12-27 00:00")


def test_a_freeze_without_an_end_in_sight_is_refused_by_who_asks_for_the_opening():
    frozen = [freeze(("2026-12-20T00:00:00Z", "9999-12-31T00:00:00Z"))]
    with pytest.raises(
        ValueError, match=r"no moment within 366 days after 2026-12-21 00:00 UTC .*mon 09:00-10:00 UTC"
    ) as refusal:
        opening("2026-12-21 00:00", Window("mon", "09:00-10:00"), freezes=frozen)
    assert "2026-12-20 00:00 to 9999-12-31 00:00 UTC" in str(refusal.value)
    assert "Shorten the freezes or widen the windows" in str(refusal.value)


def test_nobody_is_told_of_an_opening_past_the_moment_asked_for():
    asked = {"windows": [Window("mon", "09:00-10:00")], "freezes": ()}
    assert first_opening(utc("2026-11-22 09:00"), until=utc("2026-11-23 08:59"), **asked) is None
    assert first_opening(utc("2026-11-22 09:00"), until=utc("2026-11-23 09:00"), **asked) == utc("2026-11-23 09:00")


@pytest.mark.parametrize(
    "given", ["2026-12-20", ("2026-12-20T00:00:00Z",), None, 7, {"start": 1, "end": 2}, ("a", "b", "c")]
)
def test_a_freeze_is_a_pair_of_moments(given):
    with pytest.raises(ValueError, match=r"^freeze .* is not a pair of moments, such as"):
        freeze(given)


@pytest.mark.parametrize("end", ["2026-12-20T00:00:00Z", "2026-12-19T00:00:00Z", "2026-12-20T00:30:00+01:00"])
def test_a_freeze_that_ends_before_it_begins_is_refused(end):
    with pytest.raises(ValueError, match="ends before it begins"):
        freeze(("2026-12-20T00:00:00Z", end))


@pytest.mark.parametrize("given", ["2026-12-20T00:00:00", "2026-12-20", datetime(2026, 12, 20)])  # noqa: DTZ001
def test_a_freeze_without_a_time_zone_is_refused(given):
    with pytest.raises(ValueError, match="has no time zone"):
        freeze((given, "2027-01-04T00:00:00Z"))


def test_a_freeze_that_is_no_date_is_refused():
    with pytest.raises(ValueError, match="'Christmas' in a freeze is not an ISO moment with an offset"):
        freeze(("Christmas", "2027-01-04T00:00:00Z"))


# --- what a window refuses ---


@pytest.mark.parametrize("days", ["", "monday", "mon-", "-mon", "mon;tue", "mon,,tue", "1-5", "weekdays"])
def test_what_is_no_weekday_is_refused_with_all_of_them(days):
    with pytest.raises(
        ValueError, match=r"is not a weekday or a span of them\. .* of mon, tue, wed, thu, fri, sat, sun"
    ):
        Window(days)


@pytest.mark.parametrize(
    "hours",
    [
        "",
        "9-16",
        "09:00",
        "09:00-09:00",
        "24:00-01:00",
        "09:00-24:01",
        "09:60-11:00",
        "09:00-25:00",
        "a-b",
        "09:00-16:00,",
    ],
)
def test_what_is_no_span_of_hours_is_refused_with_an_example(hours):
    with pytest.raises(ValueError, match=r"is not a span of the day\. Write '09:00-16:00'"):
        Window(hours=hours)


@pytest.mark.parametrize("zone", ["", "Berlin", "CEST+1", "../etc/passwd", "/etc/localtime", "Europe"])
def test_an_unknown_time_zone_is_refused_with_what_to_do(zone):
    with pytest.raises(ValueError, match=r"is not known here\. Write an IANA name such as 'Europe/Berlin'"):
        Window(timezone=zone)


@pytest.mark.parametrize("wrong", [{"days": 1}, {"hours": None}, {"timezone": UTC}])
def test_what_is_no_text_is_refused_with_an_example(wrong):
    with pytest.raises(ValueError, match="of a window is not a text, such as '"):
        Window(**wrong)


# --- moments ---


def test_a_moment_without_a_time_zone_is_refused_with_an_example():
    with pytest.raises(ValueError, match=r"^now=.* has no time zone\. Pass an aware datetime, such as datetime\("):
        aware(datetime(2026, 11, 22), "now")  # noqa: DTZ001


@pytest.mark.parametrize("given", ["2026-11-22T09:00:00Z", None, 1763802000, datetime(2026, 11, 22, tzinfo=UTC).date()])
def test_what_is_no_datetime_is_refused(given):
    with pytest.raises(ValueError, match=r"^start=.* is not a datetime\."):
        aware(given, "start")


def test_a_moment_that_utc_has_no_date_for_is_refused():
    with pytest.raises(ValueError, match="is beyond what a date can say in UTC"):
        aware(datetime.max.replace(tzinfo=timezone(timedelta(hours=-5))), "start")


def test_a_pendulum_leaves_as_a_plain_datetime_in_utc():
    found = aware(pendulum.datetime(2026, 10, 25, 2, 30, tz=BERLIN), "start")
    assert type(found) is datetime
    assert found.tzinfo is UTC
