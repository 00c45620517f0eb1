"""When a rollout may go up: hours and weekdays of a time zone, and periods in which nothing goes up.

Apart, because clocks that are put forward and back need care that the plan should not be full of. A window is read
off the wall clock: an hour that the clocks skip is never open, one that they repeat is open both times. Only raises
ask here; lowering, rollback and the kill switch go at any moment.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta, tzinfo
from functools import lru_cache
from typing import Any

from ._value import Value

Freeze = tuple[datetime, datetime]

DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
FARTHEST = timedelta(days=366)
MINUTES_OF_A_DAY = 24 * 60

_HOURS = r"(?a)(\d{1,2}):(\d{2})\s*-\s*(\d{1,2}):(\d{2})"


class Window(Value):
    """Hours of some weekdays in which a rollout may go up.

    :param days: ``"mon-thu"``, ``"mon,wed,fri"``, ``"sat-mon"``.
    :param hours: ``"09:00-16:00"``, several with commas; the first minute is in, the last is not. ``"22:00-02:00"``
        goes over midnight and belongs to the day on which it begins.
    :param timezone: an IANA name such as ``"Europe/Berlin"``.
    """

    __slots__ = ("days", "hours", "timezone")

    days: str
    hours: str
    timezone: str

    def __init__(self, days: str = "mon-sun", hours: str = "00:00-24:00", timezone: str = "UTC") -> None:
        for name, given, example in (
            ("days", days, "mon-thu"),
            ("hours", hours, "09:00-16:00"),
            ("timezone", timezone, "Europe/Berlin"),
        ):
            if not isinstance(given, str):
                raise ValueError(f"{name}={given!r} of a window is not a text, such as {example!r}.")
        _weekdays(days)
        _spans(hours)
        _zone(timezone)
        self._set(days=days, hours=hours, timezone=timezone)

    def __str__(self) -> str:
        return f"{self.days} {self.hours} {self.timezone}"

    def is_open(self, moment: datetime) -> bool:
        """Whether the wall clock of the time zone is within the window at an aware moment."""
        local = moment.astimezone(_zone(self.timezone))
        minute, days = local.hour * 60 + local.minute, _weekdays(self.days)
        today, yesterday = local.weekday() in days, (local.weekday() - 1) % 7 in days
        return any(
            (today and start <= minute < end) or (yesterday and minute < end - MINUTES_OF_A_DAY)
            for start, end in _spans(self.hours)
        )

    def next_edge(self, moment: datetime) -> datetime:
        """Return the first moment after this one at which the window may open or close.

        That is where the wall clock comes to midnight or to an edge of the hours, or is put forward or back.
        """
        zone = _zone(self.timezone)
        wall = moment.astimezone(zone).replace(tzinfo=None)
        midnight = wall.replace(hour=0, minute=0, second=0, microsecond=0)
        edges = {minute % MINUTES_OF_A_DAY for span in _spans(self.hours) for minute in span} | {MINUTES_OF_A_DAY}
        ahead = min(edge for edge in (midnight + timedelta(minutes=each) for each in edges) if edge > wall) - wall
        return _change_of_clocks(zone, after=moment, until=moment + ahead) or moment + ahead


def freeze(given: Any) -> Freeze:
    """Read a period in which nothing goes up: its first moment, and the first one after it.

    :param given: a pair of aware datetimes, or of ISO texts with an offset.
    :raises ValueError: not such a pair, or it ends before it begins.
    """
    if isinstance(given, str) or not isinstance(given, Sequence) or len(given) != 2:
        raise ValueError(
            f"freeze {given!r} is not a pair of moments, such as "
            "('2026-12-20T00:00:00+01:00', '2027-01-04T00:00:00+01:00')."
        )
    start, end = (_moment(each) for each in given)
    if end <= start:
        raise ValueError(f"the freeze from {start:%Y-%m-%d %H:%M} to {end:%Y-%m-%d %H:%M} UTC ends before it begins.")
    return start, end


def is_open(moment: datetime, *, windows: Sequence[Window], freezes: Sequence[Freeze]) -> bool:
    """Whether a rollout may go up at a moment: in one of the windows, where there are any, and in no freeze."""
    frozen = any(start <= moment < end for start, end in freezes)
    return not frozen and (not windows or any(window.is_open(moment) for window in windows))


def next_opening(moment: datetime, *, windows: Sequence[Window], freezes: Sequence[Freeze]) -> datetime:
    """Return the moment itself where a rollout may go up then, else the next one at which it may.

    :param moment: in UTC.
    :raises ValueError: there is none within 366 days.
    """
    found = first_opening(moment, until=moment + FARTHEST, windows=windows, freezes=freezes)
    if found is not None:
        return found
    within = "; ".join(str(each) for each in windows) or "at any time"
    frozen = "; ".join(f"{start:%Y-%m-%d %H:%M} to {end:%Y-%m-%d %H:%M} UTC" for start, end in freezes)
    raise ValueError(
        f"no moment within {FARTHEST.days} days after {moment:%Y-%m-%d %H:%M} UTC at which this rollout may go up. "
        f"Windows: {within}. Freezes: {frozen or 'none'}. Shorten the freezes or widen the windows."
    )


def first_opening(
    moment: datetime, *, until: datetime, windows: Sequence[Window], freezes: Sequence[Freeze]
) -> datetime | None:
    """Return the first moment from this one on at which a rollout may go up, ``None`` if it is past ``until``."""
    found = moment
    while found <= until:
        if frozen_until := max((end for start, end in freezes if start <= found < end), default=None):
            found = frozen_until
        elif is_open(found, windows=windows, freezes=()):
            return found
        else:
            found = min(window.next_edge(found) for window in windows)
    return None


def aware(moment: Any, what: str) -> datetime:
    """Return an aware moment in UTC, in which arithmetic and comparison know no change of clocks.

    :param what: the argument's name, for the refusal.
    :raises ValueError: not a datetime, or one without a time zone.
    """
    if not isinstance(moment, datetime):
        raise ValueError(f"{what}={moment!r} is not a datetime. Pass an aware one, such as {_EXAMPLE}.")
    if moment.utcoffset() is None:
        raise ValueError(f"{what}={moment!r} has no time zone. Pass an aware datetime, such as {_EXAMPLE}.")
    try:
        there = moment.astimezone(UTC)
    except OverflowError as error:
        raise ValueError(f"{what}={moment!r} is beyond what a date can say in UTC.") from error
    return datetime.combine(there.date(), there.time(), UTC)  # a plain one, also where a pendulum came in


_EXAMPLE = "datetime(2026, 11, 22, 9, tzinfo=UTC)"


def _moment(given: Any) -> datetime:
    if isinstance(given, str):
        try:
            given = datetime.fromisoformat(given)
        except ValueError as error:
            what = f"{given!r} in a freeze is not an ISO moment with an offset, such as '2026-12-20T00:00:00+01:00'."
            raise ValueError(what) from error
    return aware(given, "the moment in a freeze")


def _change_of_clocks(zone: tzinfo, *, after: datetime, until: datetime) -> datetime | None:
    """Return the moment within a span of at most a day at which the clocks are changed, if they are."""
    low, high = int(after.timestamp()), int(until.timestamp())  # clocks are changed at whole seconds

    def offset(second: int) -> timedelta | None:
        return datetime.fromtimestamp(second, zone).utcoffset()

    before = offset(low)
    if offset(high) == before:
        return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if offset(middle) == before else (low, middle)
    return datetime.fromtimestamp(high, UTC)


def _zone(name: str) -> tzinfo:
    if name == "UTC":  # a machine without time zone data knows this one too
        return UTC
    from zoneinfo import ZoneInfo

    try:
        return ZoneInfo(name)
    except (KeyError, ValueError, OSError) as error:  # an unknown name, a path, a folder of the data
        raise ValueError(
            f"timezone={name!r} of a window is not known here. Write an IANA name such as 'Europe/Berlin'; "
            "if this is one, the machine lacks time zone data: install the package tzdata."
        ) from error


@lru_cache(maxsize=256)
def _weekdays(days: str) -> frozenset[int]:
    """Read ``"mon-thu"`` or ``"mon,wed,fri"``: 0 is Monday."""
    found: set[int] = set()
    for part in days.lower().split(","):
        first, dash, last = (each.strip() for each in part.partition("-"))
        last = last if dash else first
        if first not in DAYS or last not in DAYS:
            raise ValueError(
                f"days={days!r} of a window: {part.strip()!r} is not a weekday or a span of them. "
                f"Write 'mon-thu' or 'mon,wed,fri', of {', '.join(DAYS)}."
            )
        start, length = DAYS.index(first), (DAYS.index(last) - DAYS.index(first)) % 7
        found |= {(start + each) % 7 for each in range(length + 1)}
    return frozenset(found)


@lru_cache(maxsize=256)
def _spans(hours: str) -> tuple[tuple[int, int], ...]:
    """Read ``"09:00-12:00,13:00-16:00"`` as minutes of the day; over midnight the end is beyond 24 hours."""
    return tuple(_span(part.strip(), hours) for part in hours.split(","))


def _span(part: str, hours: str) -> tuple[int, int]:
    found = re.fullmatch(_HOURS, part)
    numbers = [int(each) for each in found.groups()] if found else []
    if numbers and max(numbers[1], numbers[3]) < 60:
        start, end = numbers[0] * 60 + numbers[1], numbers[2] * 60 + numbers[3]
        if start < MINUTES_OF_A_DAY and end <= MINUTES_OF_A_DAY and start != end:
            return start, end if end > start else end + MINUTES_OF_A_DAY
    raise ValueError(
        f"hours={hours!r} of a window: {part!r} is not a span of the day. Write '09:00-16:00', several with commas; "
        "'22:00-02:00' goes over midnight, the whole day is '00:00-24:00'."
    )
