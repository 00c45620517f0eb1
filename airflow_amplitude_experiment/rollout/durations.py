"""Durations as people write them: ``"1h"``, ``"1d 12h"``, ``"90m"``, ``"30s"``.

Apart, because plans, guardrails and operators all take them and must read them alike. A duration is a length of
time, never a calendar distance: one day is 24 hours, also over a change of the clocks.
"""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Any

LONGEST = timedelta(days=3650)

_WORDS = r"(?a)(?:(\d{1,9})d\s*)?(?:(\d{1,9})h\s*)?(?:(\d{1,9})m\s*)?(?:(\d{1,9}(?:\.\d{1,6})?)s)?"


def duration(given: str | timedelta | float, what: str) -> timedelta:
    """Read a duration: a text such as ``"1d 12h"``, a ``timedelta``, or a number of seconds.

    Zero is a duration; who needs a positive one checks that.

    :param what: the argument's name, for the refusal.
    :raises ValueError: not a duration, negative, or longer than ten years.
    """
    try:
        length = _read(given)
    except OverflowError:
        length = timedelta.max
    if length is None:
        raise ValueError(
            f"{what}={_short(given)} is not a duration. Write whole days, hours, minutes and seconds, the longest "
            "first, such as '1d 12h', '90m' or '30s' ('1d' is 24 hours; 1.5 hours are '90m')."
        )
    if length < timedelta(0):
        raise ValueError(f"{what}={_short(given)} is negative. A duration is 0 or more, such as '1h'.")
    if length > LONGEST:
        raise ValueError(f"{what}={_short(given)} is longer than ten years. Is the unit right?")
    return length


def in_words(length: timedelta) -> str:
    """Write a duration as :func:`duration` reads it: ``"1d 12h"``; nothing is ``"0s"``."""
    hours, rest = divmod(length - timedelta(days=length.days), timedelta(hours=1))
    minutes, rest = divmod(rest, timedelta(minutes=1))
    seconds = f"{rest.seconds}.{rest.microseconds:06}".rstrip("0") if rest.microseconds else str(rest.seconds)
    parts = [(str(length.days), "d"), (str(hours), "h"), (str(minutes), "m"), (seconds, "s")]
    return " ".join(number + unit for number, unit in parts if number != "0") or "0s"


def _read(given: Any) -> timedelta | None:
    """Return the length, also a negative one, or ``None`` where this is no duration."""
    if isinstance(given, timedelta):
        return timedelta(seconds=given.total_seconds())  # a plain one, also where a pendulum came in
    if isinstance(given, bool):
        return None
    if isinstance(given, int | float):
        return None if given != given else timedelta(seconds=given)
    if not isinstance(given, str):
        return None
    text = given.strip()
    sign = -1 if text.startswith("-") else 1
    found = re.fullmatch(_WORDS, text.removeprefix("-").lstrip())
    if found is None or not any(found.groups()):
        return None
    days, hours, minutes, seconds = (
        float(each or 0) if "." in (each or "") else int(each or 0) for each in found.groups()
    )
    return sign * timedelta(days=days, hours=hours, minutes=minutes, seconds=seconds)


def _short(given: Any) -> str:
    text = repr(given)
    return text if len(text) <= 60 else text[:57] + "..."
