"""Trying until it is done: how a change that takes something away from people is sent (law 10).

Each request is a job in a thread of its own, so that one that fails does not hold up the others. A job whose failure
may pass is tried every few seconds until the deadline, and from the first failure on the log says what to click in
Amplitude instead. Nothing here knows what is being switched off.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from datetime import UTC, datetime, time, timedelta
from types import TracebackType
from typing import Any, Self

SECONDS_BETWEEN_TRIES = 5.0
SECONDS_BETWEEN_REMINDERS = 300.0
SECONDS_OF_SILENCE = 5.0
"""After so long without an answer the log says what to click, although nothing has failed yet."""

MOST_AT_ONCE = 50
AFTER_MIDNIGHT = timedelta(minutes=5)


def now() -> datetime:
    """Tell the time, in UTC."""
    return datetime.now(UTC)


def pause(stop: threading.Event, seconds: float) -> None:
    """Wait, unless the task is stopped meanwhile."""
    stop.wait(seconds)


def may_pass(error: BaseException | None) -> bool:
    """Whether another try can help: no connection, 429, 5xx, or an answer that can't be read."""
    from airflow_amplitude_experiment.api import (
        AmplitudeConnectionError,
        AmplitudeRateLimited,
        AmplitudeServerError,
        AmplitudeUnexpectedAnswer,
    )

    passing = (AmplitudeConnectionError, AmplitudeRateLimited, AmplitudeServerError, AmplitudeUnexpectedAnswer)
    return isinstance(error, passing)


def deadline(started: datetime, patience: timedelta, *, limited: bool) -> datetime:
    """Return when to stop trying. The day's quota is new at 00:00 UTC, so a 429 is worth waiting for that."""
    midnight = datetime.combine(started.astimezone(UTC).date() + timedelta(days=1), time.min, UTC)
    return max(started + patience, midnight + AFTER_MIDNIGHT) if limited else started + patience


class Job:
    """One request that has to succeed.

    :param send: sends it.
    :param what: what it does, in words, for the log.
    :param by_hand: what to click in Amplitude instead.
    :param about: whatever the caller wants back with the result.
    :param writes: whether it changes something, so that the log says when it is done.
    """

    def __init__(
        self, send: Callable[[], Any], what: str, by_hand: str, about: Any = None, *, writes: bool = False
    ) -> None:
        self.send = send
        self.what = what
        self.by_hand = by_hand
        self.about = about
        self.writes = writes
        self.answer: Any = None
        self.error: BaseException | None = None
        self.told_at: datetime | None = None


class WayDown:
    """Sends jobs in parallel and tries each until it is done. Use it as a context manager.

    :param patience: how long to go on trying.
    :param log: the task's logger.
    :param stop: set by whoever wants the trying to end, and at the end of the ``with`` block.
    """

    def __init__(self, patience: timedelta, *, log: Any, stop: threading.Event) -> None:
        self._patience = patience
        self._log = log
        self._stop = stop
        self._started = now()
        self._pool = ThreadPoolExecutor(MOST_AT_ONCE, thread_name_prefix="amplitude")
        self._running: dict[Job, Future[Any]] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._pool.shutdown(wait=False, cancel_futures=True)

    def start(self, job: Job) -> Job:
        """Send a job from now on, until it is done."""
        self._running[job] = self._pool.submit(self._insist, job)
        return job

    def finished(self, jobs: Iterable[Job]) -> Iterator[Job]:
        """Yield jobs as they end, each with its ``answer`` or its ``error``, whatever that is."""
        waiting = {self._running.pop(job): job for job in jobs}
        while waiting:
            done, _ = wait(waiting, timeout=SECONDS_OF_SILENCE, return_when=FIRST_COMPLETED)
            for future in done:
                job = waiting.pop(future)
                job.error = future.exception()
                job.answer = None if job.error else future.result()
                yield job
            if not done:
                for job in waiting.values():
                    self._tell(job, f"Amplitude has not answered for {SECONDS_OF_SILENCE:g} s")

    def _insist(self, job: Job) -> Any:
        from airflow_amplitude_experiment.api import AmplitudeRateLimited, AmplitudeReadOnly

        tries = 1
        while True:
            try:
                answer = job.send()
            except AmplitudeReadOnly:
                raise
            except Exception as error:
                until = deadline(self._started, self._patience, limited=isinstance(error, AmplitudeRateLimited))
                if not may_pass(error) or now() >= until:
                    self._log.error("%s FAILED: %s By hand, now: %s", job.what, error, job.by_hand)
                    raise
                self._tell(job, f"{error} Trying again every {SECONDS_BETWEEN_TRIES:g} s until {until:%Y-%m-%d %H:%MZ}")
                pause(self._stop, SECONDS_BETWEEN_TRIES)
                if self._stop.is_set():
                    raise
                tries += 1
            else:
                if job.writes:
                    self._log.info("%s: done%s", job.what, f", at try {tries}" if tries > 1 else "")
                return answer

    def _tell(self, job: Job, why: str) -> None:
        """Say what to click, at the first failure and every few minutes."""
        if job.told_at is None or now() - job.told_at >= timedelta(seconds=SECONDS_BETWEEN_REMINDERS):
            job.told_at = now()
            self._log.error("%s is NOT done yet: %s. By hand, now: %s", job.what, why, job.by_hand)
