"""Ctrl-C, once: the first signal ends the demo, and no further one disturbs it while it cleans up."""

from __future__ import annotations

import os
import signal
import time
from types import FrameType

from demo.guard import descendants

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def raise_at_most_once() -> None:
    """Turn the first signal into ``KeyboardInterrupt`` and ignore the others.

    Set by hand, because a shell starts background jobs with SIGINT ignored.
    """

    def interrupt(number: int, frame: FrameType | None) -> None:
        for each in SIGNALS:
            signal.signal(each, signal.SIG_IGN)
        raise KeyboardInterrupt

    for each in SIGNALS:
        signal.signal(each, interrupt)


def end_what_is_left(timeout: float = 15) -> None:
    """End every process below this one: one that was being started when the signal came has no other owner.

    The children are guards, which end what is below them and then themselves.
    """
    deadline = time.monotonic() + timeout
    while children := descendants([os.getpid()]) - {os.getpid()}:
        _signal(children, signal.SIGTERM if time.monotonic() < deadline else signal.SIGKILL)
        time.sleep(0.05)
        _reap()


def _signal(pids: set[int], number: int) -> None:
    for pid in pids:
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            continue


def _reap() -> None:
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            continue
    except ChildProcessError:
        return
