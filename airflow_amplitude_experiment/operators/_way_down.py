"""Trying until it is done: how a change that takes something away from people is sent (law 10).

Each request is a job in a thread of its own, so that one that fails or hangs does not hold up the others. A job whose
failure may pass is tried every few seconds until the deadline, and from the first failure on the log says what to
click in Amplitude instead. Nothing here knows what is being switched off.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, wait
from datetime import UTC, datetime, time, timedelta
from time import monotonic
from types import TracebackType
from typing import Any, Self

SECONDS_BETWEEN_TRIES = 5.0
LONGEST_RETRY_AFTER = 15.0
"""Amplitude may ask for a later try, and the day's quota for hours; a kill asks again sooner."""

SECONDS_BETWEEN_REMINDERS = 300.0
SECONDS_OF_SILENCE = 5.0
"""After so long without an answer the log says what to click, although nothing has failed yet."""

SECONDS_FOR_ALL = 15.0
"""So long a job that is done waits for others that have not failed yet."""

GRACE = timedelta(seconds=10)
"""What is under way at the deadline may take so long to end."""

SECONDS_BETWEEN_LOOKS = 0.1
MOST_AT_ONCE = 50
AFTER_MIDNIGHT = timedelta(minutes=5)


class Stopped(Exception):
    """Somebody stops the task; nothing more is sent."""

    def __init__(self) -> None:
        super().__init__("the task was stopped.")


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


def sentence(error: BaseException) -> str:
    """Return what went wrong, as a sentence. That a write may have arrived is no news: this one can be repeated."""
    from airflow_amplitude_experiment.api import AmplitudeError
    from airflow_amplitude_experiment.api.errors import error_from_dict

    if isinstance(error, AmplitudeError):
        error = error_from_dict({**error.as_dict(), "maybe_applied": False})
    return f"{error}".rstrip(". ") + "."


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
        self.until: datetime
        self.failed = False
        self.asked_at: float | None = None
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
        self._slots = threading.Semaphore(MOST_AT_ONCE)
        self._running: dict[Job, Future[Any]] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()

    def start(self, job: Job) -> Job:
        """Send a job from now on, until it is done."""
        job.until = max(now(), self._started + self._patience)
        self._running[job] = aside(self._insist, job)
        return job

    def rest(self, seconds: float) -> None:
        """Wait, unless the task is stopped meanwhile."""
        pause(self._stop, seconds)

    def finished(self, jobs: Iterable[Job]) -> Iterator[Job]:
        """Yield jobs as they end, each with its ``answer`` or its ``error``, whatever that is."""
        for group in self.in_groups(jobs, at_once=True):
            yield from group

    def in_groups(self, jobs: Iterable[Job], *, at_once: bool = False) -> Iterator[list[Job]]:
        """Yield all jobs when all have ended; but where one fails or is slow, what has ended without it.

        :param at_once: do not wait for the others at all.
        """
        waiting = {self._running.pop(job): job for job in jobs}
        patient_until = monotonic() + (0.0 if at_once else SECONDS_FOR_ALL)
        ended: list[Job] = []
        while waiting:
            done, _ = wait(waiting, timeout=SECONDS_BETWEEN_LOOKS, return_when=FIRST_COMPLETED)
            for future, job in list(waiting.items()):
                if future in done or self._is_overdue(job):
                    ended.append(_ended(job, future))
                    del waiting[future]
            apart = monotonic() >= patient_until or any(job.failed for job in waiting.values())
            if ended and (apart or not waiting):
                yield ended
                ended = []

    def _is_overdue(self, job: Job) -> bool:
        """Whether to wait no longer for a job; tells of one that is silent."""
        asked_at = job.asked_at
        if asked_at is not None and monotonic() - asked_at >= SECONDS_OF_SILENCE:
            self._tell(job, f"Amplitude has not answered for {SECONDS_OF_SILENCE:g} s.")
        return now() >= job.until + GRACE

    def _insist(self, job: Job) -> Any:
        from airflow_amplitude_experiment.api import AmplitudeRateLimited, AmplitudeReadOnly

        tries = 1
        while not self._stop.is_set():
            try:
                answer = self._sent(job)
            except AmplitudeReadOnly:
                raise
            except Exception as error:
                if self._stop.is_set():
                    raise
                until = deadline(self._started, self._patience, limited=isinstance(error, AmplitudeRateLimited))
                job.until = max(now(), until)
                if not may_pass(error) or now() >= until:
                    self._log.error("%s FAILED: %s By hand, now: %s", job.what, sentence(error), job.by_hand)
                    raise
                again = f"Trying again every few seconds until {until:%Y-%m-%d %H:%MZ}."
                self._tell(job, f"{sentence(error)} {again}", failed=True)
                asked: float = getattr(error, "retry_after", None) or 0.0
                self.rest(max(SECONDS_BETWEEN_TRIES, min(asked, LONGEST_RETRY_AFTER)))
                tries += 1
            else:
                if job.writes:
                    self._log.info("%s: done%s", job.what, f", at try {tries}" if tries > 1 else "")
                return answer
        raise Stopped

    def _sent(self, job: Job) -> Any:
        job.asked_at = monotonic()
        try:
            with self._slots:
                return job.send()
        finally:
            job.asked_at = None

    def _tell(self, job: Job, why: str, *, failed: bool = False) -> None:
        """Say what to click: at the first silence, at the first failure and every few minutes."""
        due = job.told_at is None or now() - job.told_at >= timedelta(seconds=SECONDS_BETWEEN_REMINDERS)
        if due or failed > job.failed:
            job.told_at = now()
            self._log.error("%s is NOT done yet: %s By hand, now: %s", job.what, why, job.by_hand)
        job.failed |= failed


def _ended(job: Job, future: Future[Any]) -> Job:
    """Keep what became of a job. One without an end can't be stopped, but nobody waits for it either."""
    from airflow_amplitude_experiment.api import AmplitudeConnectionError

    if future.done():
        job.error = future.exception()
        job.answer = None if job.error else future.result()
    else:
        job.error = AmplitudeConnectionError(f"no answer, or none that ends, until the deadline ({job.until:%H:%MZ}).")
    return job


def aside(do: Callable[..., Any], *given: Any) -> Future[Any]:
    """Call a function in a thread that does not keep the process alive, as those of an executor do."""
    future: Future[Any] = Future()

    def run() -> None:
        try:
            future.set_result(do(*given))
        except BaseException as error:  # noqa: BLE001  it is raised where somebody asks for the result
            future.set_exception(error)

    threading.Thread(target=run, name="amplitude", daemon=True).start()
    return future
