"""Moments in time as the API writes and reads them, and the clock that tests may replace."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime

Clock = Callable[[], datetime]


def utc_now() -> datetime:
    """Return the present moment."""
    return datetime.now(UTC)


def to_timestamp(moment: datetime) -> str:
    """Write a moment as the samples do: UTC, milliseconds, ``Z``."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.") + f"{moment.microsecond // 1000:03d}Z"


def parse_moment(text: str) -> datetime:
    """Read an ISO 8601 date or timestamp; without an offset it is UTC.

    :raises ValueError: the text is neither.
    """
    try:
        moment = datetime.fromisoformat(text)
        return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    except OverflowError as error:
        raise ValueError(f"{text!r} is outside the calendar") from error


def utc_date(text: str) -> str:
    """Return the UTC day of a date or timestamp."""
    return parse_moment(text).date().isoformat()
