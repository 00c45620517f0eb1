"""Small builders for tests of the API client: a server that says what it is told, and both clients against it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
import respx

from airflow_amplitude_experiment.api import AsyncClient, Call, Client, _client, _retry

KEY = "mgmt-0a1b2c3d4e5f-KEEP-ME-SECRET"
BASE = "http://amplitude.test"
Answer = httpx.Response | Exception | Callable[[httpx.Request], httpx.Response]


def as_json(data: Any, status: int = 200, **headers: str) -> httpx.Response:
    return httpx.Response(status, content=json.dumps(data), headers={"content-type": "application/json", **headers})


def as_text(
    text: str | bytes = "OK", status: int = 200, content_type: str = "text/plain", **headers: str
) -> httpx.Response:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return httpx.Response(status, content=text, headers={"content-type": content_type, **named})


def a_flag(**fields: Any) -> dict[str, Any]:
    return {"id": "70001", "key": "checkout-copy", "projectId": "501"} | fields


def a_page(kind: str, *items: dict[str, Any], cursor: Any = None) -> httpx.Response:
    return as_json({kind: list(items)} | ({} if cursor is None else {"nextCursor": cursor}))


def a_version(number: int, of: str = "70001", **config: Any) -> dict[str, Any]:
    return {"version": number, "flagConfig": {"id": of, "projectId": "501"} | config}


@dataclass
class Sent:
    """One request as it went over the wire."""

    method: str
    path: str
    query: dict[str, str]
    body: Any
    headers: dict[str, str]

    @classmethod
    def of(cls, request: httpx.Request) -> Sent:
        return cls(
            method=request.method,
            path=request.url.raw_path.decode().split("?")[0],
            query=dict(request.url.params),
            body=json.loads(request.content) if request.content else None,
            headers={name: value for name, value in request.headers.items() if name in ("accept", "content-type")},
        )

    def __str__(self) -> str:
        return f"{self.method} {self.path}"


@dataclass
class Outcome:
    """What came of a call: a value or an error, and what was sent for it."""

    value: Any = None
    error: BaseException | None = None
    sent: list[Sent] = field(default_factory=list)
    slept: list[float] = field(default_factory=list)

    @property
    def only(self) -> Sent:
        assert len(self.sent) == 1, self.sent
        return self.sent[0]


@contextmanager
def a_server(*answers: Answer) -> Iterator[list[Sent]]:
    """Answer one after the other, the last one from then on; give the requests."""
    sent: list[Sent] = []

    def answer(request: httpx.Request) -> httpx.Response:
        sent.append(Sent.of(request))
        said = answers[min(len(sent), len(answers)) - 1]
        if isinstance(said, Exception):
            raise said
        if isinstance(said, httpx.Response):
            return httpx.Response(said.status_code, headers=said.headers, content=said.content)
        return said(request)

    with respx.mock(assert_all_called=False, using="httpx") as router:
        router.route().mock(side_effect=answer)
        yield sent


@dataclass
class Waiting:
    """Stands in for ``time`` and ``asyncio`` in the client: sleeping moves the clock and takes no time."""

    now: float = 1000.0
    slept: list[float] = field(default_factory=list)

    def sleep(self, seconds: float) -> None:
        if seconds:
            self.slept.append(seconds)
        self.now += seconds

    async def asleep(self, seconds: float) -> None:
        self.sleep(seconds)

    @classmethod
    def installed(cls, patch: pytest.MonkeyPatch) -> Waiting:
        clock = cls()
        patch.setattr(_client, "time", SimpleNamespace(sleep=clock.sleep, monotonic=lambda: clock.now))
        patch.setattr(_client, "asyncio", SimpleNamespace(sleep=clock.asleep))
        patch.setattr(_retry, "random", SimpleNamespace(uniform=lambda low, high: high))
        return clock


def a_client(**options: Any) -> Client:
    return Client(KEY, **({"base_url": BASE, "requests_per_second": None} | options))


def an_async_client(**options: Any) -> AsyncClient:
    return AsyncClient(KEY, **({"base_url": BASE, "requests_per_second": None} | options))


def by_sync(call: Call[Any], *answers: Answer, pages: bool = False, **options: Any) -> Outcome:
    """Send a call with the sync client."""
    outcome = Outcome()
    with pytest.MonkeyPatch.context() as patch, a_server(*answers) as outcome.sent, a_client(**options) as client:
        outcome.slept = Waiting.installed(patch).slept
        try:
            outcome.value = list(client.iterate(call)) if pages else client.send(call)
        except Exception as error:  # noqa: BLE001  it is what the test looks at
            outcome.error = error
    return outcome


def by_async(call: Call[Any], *answers: Answer, pages: bool = False, **options: Any) -> Outcome:
    """Send a call with the async client."""

    async def send() -> Any:
        async with an_async_client(**options) as client:
            return [each async for each in client.iterate(call)] if pages else await client.send(call)

    outcome = Outcome()
    with pytest.MonkeyPatch.context() as patch, a_server(*answers) as outcome.sent:
        outcome.slept = Waiting.installed(patch).slept
        try:
            outcome.value = asyncio.run(send())
        except Exception as error:  # noqa: BLE001  it is what the test looks at
            outcome.error = error
    return outcome


def send(call: Call[Any], *answers: Answer, pages: bool = False, **options: Any) -> Outcome:
    """Send a call with both clients, see that they do the same, and return what they did."""
    first = by_sync(call, *answers, pages=pages, **options)
    second = by_async(call, *answers, pages=pages, **options)
    assert _comparable(first) == _comparable(second)
    return first


def failure(call: Call[Any], *answers: Answer, **options: Any) -> Any:
    """Return the error in which a call ends, for both clients."""
    outcome = send(call, *answers, **options)
    assert outcome.error is not None, f"no error, but {outcome.value!r}"
    return outcome.error


def refused(make: Callable[[], Call[Any]], **options: Any) -> str:
    """Return the text with which a wrong call is refused, and see that nothing is sent for it."""
    try:
        call = make()
    except (ValueError, TypeError) as error:
        return str(error)
    outcome = send(call, as_text(), **options)
    assert outcome.sent == [], "a request was sent"
    assert type(outcome.error) is ValueError, repr(outcome.error)
    return str(outcome.error)


def _comparable(outcome: Outcome) -> Any:
    error = outcome.error
    facts = error.as_dict() if hasattr(error, "as_dict") else repr(error)
    return outcome.value, type(error), facts, outcome.sent, outcome.slept
