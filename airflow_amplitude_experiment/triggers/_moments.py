"""When to look again: after a failure, after a look, and how often by default. Pure but for chance.

Waits look a little early, each round by another share, so that they don't look as one to Amplitude; and a failure
makes the pause longer, never the wait fail.
"""

from __future__ import annotations

import random
from datetime import UTC, datetime, time, timedelta

from airflow_amplitude_experiment.api import (
    AmplitudeConnectionError,
    AmplitudeRateLimited,
    AmplitudeServerError,
    AmplitudeUnexpectedAnswer,
)

PASSING = (AmplitudeConnectionError, AmplitudeRateLimited, AmplitudeServerError, AmplitudeUnexpectedAnswer)
"""Errors that may pass. They never end a wait by themselves."""

LOOKUPS = 5
"""How often in a row a connection that was there may not be found, before that is believed."""

SHARED, ALONE = 60.0, 300.0
"""Seconds between two rounds at the least, where nobody asked for less: of a poll that Airflow hosts for all waits
of a triggerer, and of one that a wait drives itself."""

PAUSE = 5.0
"""Seconds between two rounds at the least, so that what comes due one after the other is looked at together."""

PER_REQUEST = 3.0
"""Seconds that pass for each request of a round before the next one: twenty a minute, whatever was asked for."""

EARLIEST = 0.9
"""The share of an interval after which the next look may come at the earliest."""

DAILY_REQUESTS = 100_000 * 0.02
"""What the waits of one stream may take of a project's requests in a day."""


def now() -> datetime:
    """Tell the time, in UTC."""
    return datetime.now(UTC)


def usual_interval(requests: int, at_least: float) -> float:
    """Return the seconds between two rounds of so many requests that keep within 2 % of the daily quota."""
    return max(at_least, 86_400 * requests / DAILY_REQUESTS / EARLIEST)


def spread() -> float:
    """Return the share of an interval after which to look: a little early, each time another little."""
    return random.uniform(EARLIEST, 1.0)


def next_look(moment: datetime, recheck: float) -> datetime:
    """Return when to look again after a look."""
    return moment + timedelta(seconds=recheck * spread())


def after_round(moment: datetime, requests: int) -> datetime:
    """Return when the next round may begin, after one of so many requests."""
    return moment + timedelta(seconds=max(PAUSE, PER_REQUEST * requests))


def after_failure(moment: datetime, failures: int, error: Exception) -> datetime:
    """Return when to look again after so many failures in a row.

    A 429 that outlasts the client's own patience is the day's quota: 5 minutes doubling to an hour, and at the
    latest within 5 minutes of the next 00:00 UTC. Anything else: half a minute doubling to a quarter of an hour.
    """
    limited = isinstance(error, AmplitudeRateLimited)
    first, longest = (300, 3600) if limited else (30, 900)
    own = min(first * 2 ** min(failures - 1, 10), longest) * random.uniform(0.75, 1.25)
    asked = min(getattr(error, "retry_after", None) or 0, 3600)
    again = moment + timedelta(seconds=max(own, asked))
    if not limited:
        return again
    midnight = datetime.combine(moment.date() + timedelta(days=1), time.min, UTC)
    return min(again, midnight + timedelta(seconds=random.uniform(1, 300)))
