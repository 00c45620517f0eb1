"""When a request is sent again, and how long to wait before.

One policy for both clients. What may be repeated is the endpoint's knowledge (:class:`._call.Endpoint`); an
attempt that failed says in its error whether it may be, and this module only counts and waits.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any, NoReturn

from tenacity import RetryCallState, retry_if_exception

from .errors import AmplitudeError, AmplitudeRateLimited

if TYPE_CHECKING:
    from tenacity.retry import RetryBaseT

ATTEMPTS = 4
FIRST_WAIT = 0.5
LONGEST_WAIT = 8.0
PATIENCE = 60.0
"""Seconds of waiting in all. A 429 that lasts longer is taken for the day's quota, not the second's."""


class Again(Exception):
    """An attempt failed in a way that allows another. ``error`` is what the caller gets if there is none."""

    def __init__(self, error: AmplitudeError) -> None:
        super().__init__(str(error))
        self.error = error


def policy() -> dict[str, Any]:
    """Return the arguments for tenacity's ``Retrying`` and ``AsyncRetrying``."""
    return {"retry": _worth_it, "wait": _wait, "stop": _enough, "retry_error_callback": _give_up}


_worth_it: RetryBaseT = retry_if_exception(lambda error: isinstance(error, Again))


def _error(state: RetryCallState) -> AmplitudeError:
    failed = state.outcome.exception() if state.outcome else None
    assert isinstance(failed, Again)
    return failed.error


def _wait(state: RetryCallState) -> float:
    error, failures = _error(state), state.attempt_number - 1
    if error.retry_after is not None:
        return error.retry_after
    if isinstance(error, AmplitudeRateLimited):
        return min(2.0**failures, LONGEST_WAIT) * random.uniform(1, 2)
    return min(FIRST_WAIT * 2.0**failures, LONGEST_WAIT) * random.uniform(0.5, 1)


def _enough(state: RetryCallState) -> bool:
    out_of_patience = state.idle_for + state.upcoming_sleep > PATIENCE
    is_fault = not isinstance(_error(state), AmplitudeRateLimited)
    return out_of_patience or (is_fault and state.attempt_number >= ATTEMPTS)


def _give_up(state: RetryCallState) -> NoReturn:
    raise _error(state) from _error(state).__cause__
