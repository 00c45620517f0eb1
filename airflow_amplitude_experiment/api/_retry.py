"""When a request is sent again, and how long to wait before.

One policy for both clients. What may be repeated is the endpoint's knowledge (:class:`._call.Endpoint`), and
whether a failure allows it the exchange's (:class:`._exchange.Exchange`); this module only counts and waits.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

from tenacity import RetryCallState, retry_if_exception, stop_after_attempt

from .errors import AmplitudeError, AmplitudeRateLimited

ATTEMPTS = 4
FIRST_WAIT = 0.5
LONGEST_WAIT = 8.0
PATIENCE = 60.0
"""Seconds of waiting in all. A 429 that lasts longer is taken for the day's quota, not the second's."""


def policy(may_go_again: Callable[[BaseException], bool], *, repeats: bool = True) -> dict[str, Any]:
    """Return the arguments for tenacity's ``Retrying`` and ``AsyncRetrying``. The last error is what is raised."""
    enough = _enough if repeats else stop_after_attempt(1)
    return {"retry": retry_if_exception(may_go_again), "wait": _wait, "stop": enough, "reraise": True}


def _error(state: RetryCallState) -> AmplitudeError:
    error = state.outcome.exception() if state.outcome else None
    assert isinstance(error, AmplitudeError)
    return error


def _wait(state: RetryCallState) -> float:
    error, failures = _error(state), state.attempt_number - 1
    if isinstance(error, AmplitudeRateLimited):
        own = min(2.0**failures, LONGEST_WAIT) * random.uniform(1, 2)
    else:
        own = min(FIRST_WAIT * 2.0**failures, LONGEST_WAIT) * random.uniform(0.5, 1)
    return max(error.retry_after, FIRST_WAIT) if error.retry_after else own  # never none: the quota is soon gone


def _enough(state: RetryCallState) -> bool:
    if state.idle_for + state.upcoming_sleep > PATIENCE:
        return True
    if isinstance(_error(state), AmplitudeRateLimited):
        return (state.seconds_since_start or 0.0) > PATIENCE
    return state.attempt_number >= ATTEMPTS
