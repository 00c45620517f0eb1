"""The two clients. They share everything but the waiting: one builds, paces, repeats and reads for both."""

from __future__ import annotations

import asyncio
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Generic, Literal, Self, TypeVar, cast
from urllib.parse import urlsplit

import httpx
from tenacity import AsyncRetrying, Retrying

from . import _answers
from ._call import Call, Dialect, Endpoint, Prepared, find_endpoint
from ._retry import Again, policy
from .errors import AmplitudeConnectionError, AmplitudeError, AmplitudeServerError, AmplitudeUnexpectedAnswer
from .models import Page

T = TypeVar("T")
HOSTS: dict[tuple[str, str], str] = {
    ("v1", "us"): "https://experiment.amplitude.com",
    ("v1", "eu"): "https://experiment.eu.amplitude.com",
    ("beta", "us"): "https://management-api.experiment.amplitude.com",
    ("beta", "eu"): "https://management-api.experiment.eu.amplitude.com",
}
PREFIX: dict[str, str] = {"v1": "/api/1", "beta": ""}
NEVER_SENT = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout, httpx.ProxyError)


class _Base(ABC):
    """What both clients are made of; see :class:`Client` for the arguments."""

    def __init__(
        self,
        api_key: str,
        *,
        region: Literal["us", "eu"] = "us",
        base_url: str | None = None,
        dialect: Dialect = "v1",
        timeout: float = 30.0,
        requests_per_second: float | None = 5,
    ) -> None:
        _refuse_wrong_settings(api_key, region, dialect, timeout)
        self.dialect: Dialect = dialect
        self.base_url = _checked_base_url(base_url) if base_url else HOSTS[dialect, region]
        self._api_key = api_key
        self._pace = Pace(requests_per_second)
        self._open(
            base_url=self.base_url + PREFIX[dialect],
            headers={"Authorization": f"Bearer {api_key}", "Accept": "application/json, text/plain"},
            timeout=timeout,
            follow_redirects=False,
        )

    @abstractmethod
    def _open(self, **options: Any) -> None:
        """Open the one HTTP client."""

    def __repr__(self) -> str:
        return f"{type(self).__name__}(base_url={self.base_url!r}, dialect={self.dialect!r})"

    @property
    def speaks_to_amplitude(self) -> bool:
        """Whether requests go to one of Amplitude's own hosts."""
        return self.base_url in HOSTS.values()

    def _exchange(self, call: Call[T]) -> _Exchange[T]:
        endpoint = find_endpoint(call.endpoint)
        return _Exchange(endpoint, endpoint.prepare(call.arguments, dialect=self.dialect), self.dialect, self._api_key)

    def _filters_here(self, call: Call[Any]) -> bool:
        """Whether filters have to be applied to all pages, because this API has none."""
        filters = {"key", "project_id", "include_archived"}
        is_page = find_endpoint(call.endpoint).answer == "page"
        return self.dialect == "beta" and is_page and bool(filters & call.arguments.keys())


class Client(_Base):
    """A client of Amplitude's Experiment Management API. Use it as a context manager, or ``close`` it.

    :param api_key: management key (not a deployment key). It stays in this object.
    :param region: ``us`` or ``eu``, the data center of the organisation.
    :param base_url: another host that speaks the same API: an emulator or a proxy.
    :param dialect: ``v1``, or ``beta`` for accounts that still use the older API.
    :param timeout: seconds to wait for a connection, and for each part of an answer.
    :param requests_per_second: pace that this client keeps; ``None`` for no pace.
    :raises ValueError: an argument that can't be right.
    """

    _http: httpx.Client

    def _open(self, **options: Any) -> None:
        self._http = httpx.Client(**options)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections. The client can't be used again."""
        self._http.close()

    def send(self, call: Call[T]) -> T:
        """Send one call and return what it promises.

        :raises ValueError: an argument that is wrong in itself; nothing was sent.
        :raises AmplitudeError: the request failed; see the tree in :mod:`.errors`.
        """
        if self._filters_here(call):
            return cast(T, Page(list(self.iterate(cast("Call[Page[Any]]", call)))))
        return self._send(call)

    def _send(self, call: Call[T]) -> T:
        exchange = self._exchange(call)
        for attempt in Retrying(**policy(), sleep=time.sleep):
            with attempt:
                time.sleep(self._pace.reserve())
                with exchange.watched():
                    response = self._http.send(exchange.request(self._http), stream=True)
                    try:
                        with exchange.answering(response):
                            response.read()
                    finally:
                        response.close()
                return exchange.read(response)
        raise AssertionError  # tenacity returns or raises

    def iterate(self, call: Call[Page[T]]) -> Iterator[T]:
        """Yield every object of a list, following its pages; each object once.

        :raises AmplitudeUnexpectedAnswer: the server repeats a cursor.
        """
        pages = Pages(call)
        while (following := pages.next_call()) is not None:
            yield from pages.fresh(self._send(following))


class AsyncClient(_Base):
    """The same as :class:`Client`, with the same arguments, for ``async`` code."""

    _http: httpx.AsyncClient

    def _open(self, **options: Any) -> None:
        self._http = httpx.AsyncClient(**options)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections. The client can't be used again."""
        await self._http.aclose()

    async def send(self, call: Call[T]) -> T:
        """Send one call and return what it promises; raises as :meth:`Client.send`."""
        if self._filters_here(call):
            pages = cast("Call[Page[Any]]", call)
            return cast(T, Page([each async for each in self.iterate(pages)]))
        return await self._send(call)

    async def _send(self, call: Call[T]) -> T:
        exchange = self._exchange(call)
        async for attempt in AsyncRetrying(**policy(), sleep=asyncio.sleep):
            with attempt:
                await asyncio.sleep(self._pace.reserve())
                with exchange.watched():
                    response = await self._http.send(exchange.request(self._http), stream=True)
                    try:
                        with exchange.answering(response):
                            await response.aread()
                    finally:
                        await response.aclose()
                return exchange.read(response)
        raise AssertionError  # tenacity returns or raises

    async def iterate(self, call: Call[Page[T]]) -> AsyncIterator[T]:
        """Yield every object of a list, following its pages; each object once."""
        pages = Pages(call)
        while (following := pages.next_call()) is not None:
            for each in pages.fresh(await self._send(following)):
                yield each


class _Exchange(Generic[T]):
    """One call on its way: the request of each attempt, and what its answer or failure means."""

    def __init__(self, endpoint: Endpoint, prepared: Prepared, dialect: Dialect, api_key: str) -> None:
        self._endpoint = endpoint
        self._prepared = prepared
        self._dialect = dialect
        self._path = PREFIX[dialect] + prepared.path
        self._api_key = api_key
        self._writes = prepared.method != "GET"
        self._perhaps_applied = False

    def request(self, http: httpx.Client | httpx.AsyncClient) -> httpx.Request:
        """Build the request of one attempt. Deletes with a body keep it (C4)."""
        wanted = self._prepared
        return http.build_request(wanted.method, wanted.path, params=wanted.query or None, json=wanted.body)

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Turn a lost connection into our own error, or into another attempt where that is safe."""
        try:
            yield
        except NEVER_SENT as error:
            self._fail(self._connection_error(error, lost=False), repeat=True, cause=error)
        except httpx.TransportError as error:
            self._fail(self._connection_error(error, lost=True), repeat=self._prepared.may_repeat, cause=error)

    @contextmanager
    def answering(self, response: httpx.Response) -> Iterator[None]:
        """As :meth:`watched`, once a status has arrived: what is lost then is a truncated answer."""
        try:
            yield
        except (httpx.TransportError, httpx.DecodingError) as error:
            self._perhaps_applied |= self._writes
            truncated = AmplitudeUnexpectedAnswer(
                f"the answer broke off or could not be decoded ({type(error).__name__})",
                status=response.status_code,
                **self._facts(),
            )
            self._fail(truncated, repeat=self._prepared.may_repeat, cause=error)

    def read(self, response: httpx.Response) -> T:
        """Return what the answer holds, or raise what it means."""
        status = response.status_code
        if 200 <= status < 300:
            return self._read_success(response)
        if status == 404 and self._perhaps_applied and self._endpoint.repeat == "gone is done":
            return None  # type: ignore[return-value]
        if status >= 500 and status != 501:
            self._perhaps_applied |= self._writes
        error = _answers.failure(status, self._without_key(response.content), response.headers, **self._facts())
        if isinstance(error, AmplitudeServerError):
            self._fail(error, repeat=self._prepared.may_repeat)
        if status == 429:
            self._fail(error, repeat=True)
        raise error

    def _read_success(self, response: httpx.Response) -> T:
        content_type = response.headers.get("content-type", "")
        try:
            value: T = _answers.read(
                self._endpoint, self._prepared.values, response.content, content_type, self._dialect
            )
        except _answers.Unreadable as error:
            self._perhaps_applied |= self._writes
            raise AmplitudeUnexpectedAnswer(str(error), status=response.status_code, **self._facts()) from None
        return value

    def _connection_error(self, error: httpx.TransportError, *, lost: bool) -> AmplitudeConnectionError:
        self._perhaps_applied |= self._writes and lost
        text = self._without_key(str(error).encode()).decode() or "no answer"
        return AmplitudeConnectionError(f"{type(error).__name__}: {text}", **self._facts())

    def _facts(self) -> dict[str, Any]:
        return {"method": self._prepared.method, "path": self._path, "maybe_applied": self._perhaps_applied}

    def _without_key(self, content: bytes) -> bytes:
        return content.replace(self._api_key.encode(), b"***")

    def _fail(self, error: AmplitudeError, *, repeat: bool, cause: Exception | None = None) -> None:
        error.__cause__ = cause
        if repeat:
            raise Again(error)
        raise error from cause


@dataclass
class Pages(Generic[T]):
    """Walks the pages of a list without sending anything: hands out calls, takes pages in."""

    call: Call[Page[T]]

    def __post_init__(self) -> None:
        arguments = {"limit": 1000, **self.call.arguments}
        if self.call.endpoint == "versions.list":
            # The feed is newest first: without an end, versions written while paging shift every page (B4).
            arguments.setdefault("end", datetime.now(UTC).isoformat())
        self._following: Call[Page[T]] | None = Call(self.call.endpoint, arguments)
        self._cursors: set[str] = set()
        self._seen: set[tuple[Any, ...]] = set()

    def next_call(self) -> Call[Page[T]] | None:
        """Return the call for the next page, ``None`` after the last."""
        return self._following

    def fresh(self, page: Page[T]) -> Iterator[T]:
        """Yield the objects of a page that no earlier page held, and remember where to go on."""
        assert self._following is not None
        cursor = None if page.nothing_sent else page.next_cursor
        if cursor is not None and cursor in self._cursors:
            raise AmplitudeUnexpectedAnswer(
                f"the server repeats the cursor {cursor!r}, so the list has no end",
                method="GET",
                path=self.call.endpoint,
            )
        if cursor is not None:
            self._cursors.add(cursor)
        more = cursor is not None
        self._following = Call(self.call.endpoint, {**self._following.arguments, "cursor": cursor}) if more else None
        for each in page.items:
            marker = _identity(each)
            if marker not in self._seen:
                self._seen.add(marker)
                yield each


def _identity(item: Any) -> tuple[Any, ...]:
    """Objects are known by their id, versions by their object's id and their number."""
    return (item.flag_config.id, item.version) if hasattr(item, "flag_config") else (item.id,)


class Pace:
    """Spreads requests evenly: at most so many a second, none in a burst. Safe between threads.

    :param requests_per_second: ``None`` for no limit.
    :raises ValueError: not more than 0.
    """

    def __init__(self, requests_per_second: float | None) -> None:
        if requests_per_second is not None and requests_per_second <= 0:
            raise ValueError(f"requests_per_second is {requests_per_second}, but must be more than 0")
        self._interval = 1 / requests_per_second if requests_per_second else 0.0
        self._next = 0.0
        self._lock = threading.Lock()

    def reserve(self) -> float:
        """Take the next place and return the seconds to wait for it."""
        with self._lock:
            now = time.monotonic()
            place = max(now, self._next)
            self._next = place + self._interval
            return place - now


def _refuse_wrong_settings(api_key: str, region: str, dialect: str, timeout: float) -> None:
    if not isinstance(api_key, str) or not api_key or not api_key.isascii() or api_key != "".join(api_key.split()):
        raise ValueError("The management key is empty, or holds white space or characters that no key has")
    if region not in ("us", "eu"):
        raise ValueError(f"region is {region!r}, but must be 'us' or 'eu'")
    if dialect not in PREFIX:
        raise ValueError(f"dialect is {dialect!r}, but must be 'v1' or 'beta'")
    if timeout <= 0:
        raise ValueError(f"timeout is {timeout}, but must be more than 0 seconds")


def _checked_base_url(base_url: str) -> str:
    parts = urlsplit(base_url.strip())
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(f"base_url is {base_url!r}, but must be like https://host or http://127.0.0.1:8765")
    if parts.username or parts.password or parts.query or parts.fragment:
        raise ValueError("base_url must not hold a user, a password, a query or a fragment")
    return f"{parts.scheme}://{parts.netloc}{parts.path}".rstrip("/").removesuffix("/api/1")
