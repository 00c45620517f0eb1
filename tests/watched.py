"""Looking over the client's shoulder: what happens right before and after each of its requests."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Literal

import pytest

from airflow_amplitude_experiment.hooks.guard import GuardedClient


class Killed(BaseException):
    """The worker died."""


class Seen:
    """What to do before and after each request, which is told by its endpoint's name."""

    before: Callable[[str], None] = staticmethod(lambda endpoint: None)
    after: Callable[[str], None] = staticmethod(lambda endpoint: None)


@contextmanager
def seen_requests(monkeypatch: pytest.MonkeyPatch) -> Iterator[Seen]:
    """Let a test do something right before or after a request."""
    seen, original = Seen(), GuardedClient._send

    def send(self: GuardedClient, call: Any) -> Any:
        seen.before(call.endpoint)
        try:
            return original(self, call)
        finally:
            seen.after(call.endpoint)

    with monkeypatch.context() as patch:
        patch.setattr(GuardedClient, "_send", send)
        yield seen


@contextmanager
def dying(monkeypatch: pytest.MonkeyPatch, step: int, when: Literal["before", "after"]) -> Iterator[None]:
    """Let the worker die before or after its request of this number, counted from 1."""
    left = step

    def die(endpoint: str) -> None:
        nonlocal left
        left -= 1
        if left == 0:
            raise Killed

    with seen_requests(monkeypatch) as seen:
        setattr(seen, when, die)
        yield
