"""The two clients. They share everything but the waiting: one builds, paces, repeats and reads for both."""

from __future__ import annotations

import asyncio
import math
import os
import ssl
import threading
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import contextmanager
from functools import cache
from types import TracebackType
from typing import Any, Literal, Self, TypeVar, cast
from urllib.parse import urlsplit

import httpx
from tenacity import AsyncRetrying, Retrying

from ._answers import Rows
from ._call import Call, Dialect, find_endpoint
from ._exchange import Exchange
from ._pages import Pages as Pages
from ._pages import refuse_without_pages
from ._retry import policy
from .models import Page

T = TypeVar("T")
HOSTS: dict[tuple[str, str], str] = {
    ("v1", "us"): "https://experiment.amplitude.com",
    ("v1", "eu"): "https://experiment.eu.amplitude.com",
    ("beta", "us"): "https://management-api.experiment.amplitude.com",
    ("beta", "eu"): "https://management-api.experiment.eu.amplitude.com",
}
IN_ONE_TURN = 100
"""Objects that are read before the event loop gets its turn: some 2 ms."""
MOST_PLACES = 1000
"""Requests of a pace whose answers are remembered; above it, those of a part of the second."""
PREFIX: dict[str, str] = {"v1": "/api/1", "beta": ""}


class _Base(ABC):
    """What both clients are made of; see :class:`Client` for the arguments."""

    _repeats = True
    """Whether a request that failed is sent again. A kill's client leaves that to the kill, which says why it tries."""

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
        self._pace = Pace(requests_per_second)
        # The key stays in this function and in httpx's headers, which show it to nobody either.
        self._hide = lambda text: text.replace(api_key, "***")
        try:
            self._open(
                base_url=self.base_url + PREFIX[dialect],
                headers={"Authorization": f"Bearer {api_key}", "Accept": "application/json, text/plain"},
                timeout=timeout,
                follow_redirects=False,
                verify=_certificates(os.environ.get("SSL_CERT_FILE"), os.environ.get("SSL_CERT_DIR")),
            )
        except (httpx.InvalidURL, ImportError, OSError, ValueError) as error:
            raise ValueError(f"base_url, or this machine's proxy or TLS settings, can't be used: {error}") from error

    @abstractmethod
    def _open(self, **options: Any) -> None:
        """Open the one HTTP client."""

    def __repr__(self) -> str:
        return f"{type(self).__name__}(base_url={self.base_url!r}, dialect={self.dialect!r})"

    @property
    def speaks_to_amplitude(self) -> bool:
        """Whether requests go to one of Amplitude's own hosts."""
        return self.base_url in HOSTS.values()

    def _exchange(self, call: Call[T]) -> Exchange[T]:
        return Exchange(call, dialect=self.dialect, prefix=PREFIX[self.dialect], hide=self._hide)

    def _filters_here(self, call: Call[Any]) -> bool:
        """Whether filters have to be applied to all pages, because this API has none."""
        return bool(find_endpoint(call.endpoint).filters_here(self.dialect) & call.arguments.keys())


class Client(_Base):
    """A client of Amplitude's Experiment Management API. Use it as a context manager, or ``close`` it.

    :param api_key: management key (not a deployment key). It is shown nowhere.
    :param region: ``us`` or ``eu``, the data center of the organisation.
    :param base_url: another host that speaks the same API: an emulator or a proxy. A path in it is kept.
    :param dialect: ``v1``, or ``beta`` for accounts that still use the older API.
    :param timeout: seconds to wait for a connection, and for each part of an answer.
    :param requests_per_second: pace that this client keeps; ``None`` for no pace.
    :raises ValueError: an argument that can't be right, or proxy or TLS settings that can't be used.
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
        answer = self._send(call)
        if isinstance(answer, Rows):
            return cast(T, Page(list(answer), answer.next_cursor, answer.nothing_sent))
        return answer

    def _send(self, call: Call[T]) -> T:
        exchange = self._exchange(call)
        answer: T = Retrying(**policy(exchange.may_go_again, repeats=self._repeats), sleep=time.sleep)(
            self._attempt, exchange
        )
        return answer

    def _attempt(self, exchange: Exchange[T]) -> T:
        wait = self._pace.reserve()
        with self._pace.answered(), exchange.watched():
            if wait:  # also none at all would cost up to a millisecond, on a busy machine
                time.sleep(wait)
            response = self._http.send(exchange.request(self._http), stream=True)
            try:
                with exchange.answering(response):
                    for part in response.iter_bytes():
                        exchange.keep(part)
            finally:
                response.close()
        return exchange.read(response)

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
        answer = await self._send(call)
        if isinstance(answer, Rows):
            rows = [each async for each in _in_turns(answer)]
            return cast(T, Page(rows, answer.next_cursor, answer.nothing_sent))
        return answer

    async def _send(self, call: Call[T]) -> T:
        exchange = self._exchange(call)
        answer: T = await AsyncRetrying(**policy(exchange.may_go_again, repeats=self._repeats), sleep=asyncio.sleep)(
            self._attempt, exchange
        )
        return answer

    async def _attempt(self, exchange: Exchange[T]) -> T:
        wait = self._pace.reserve()
        with self._pace.answered(), exchange.watched():
            if wait:
                await asyncio.sleep(wait)
            response = await self._http.send(exchange.request(self._http), stream=True)
            try:
                with exchange.answering(response):
                    async for part in response.aiter_bytes():
                        exchange.keep(part)
            finally:
                await response.aclose()
        return exchange.read(response)

    async def iterate(self, call: Call[Page[T]]) -> AsyncIterator[T]:
        """Yield every object of a list, following its pages; each object once."""
        pages = Pages(call)
        while (following := pages.next_call()) is not None:
            async for each in _in_turns(pages.fresh(await self.rows(following))):
                yield each

    async def rows(self, call: Call[Page[T]]) -> Rows[T]:
        """Send the call of one page and return it with its objects still to be read.

        Reading a whole page takes some 20 ms. Who reads it where others wait gives them their turn in between::

            for number, row in enumerate(pages.fresh(await client.rows(call))):
                if number % 100 == 0:
                    await asyncio.sleep(0)

        :raises TypeError: a call that doesn't answer with pages.
        """
        refuse_without_pages(call)
        return cast("Rows[T]", await self._send(call))


async def _in_turns(rows: Iterable[T]) -> AsyncIterator[T]:
    """Yield what takes its time to read, and let the event loop turn in between."""
    for number, row in enumerate(rows):
        if number % IN_ONE_TURN == 0:
            await asyncio.sleep(0)
        yield row


@cache
def _certificates(file: str | None, folder: str | None) -> ssl.SSLContext:
    """Return whom clients trust, for these values of the environment, which httpx looks at itself.

    Read once: it takes 20 to 50 ms for each client, in which a triggerer would do nothing else.
    """
    return httpx.create_ssl_context()


class Pace:
    """Spreads requests evenly: at most so many a second, none in a burst. Safe between threads.

    Amplitude counts a request when it arrives, which is some time between its start and its answer. So a place is
    free again a second after the *answer*: however late single ones arrive, no second holds more than it may. Of
    requests that are under way together only the starts are spread.

    :param requests_per_second: ``None`` for no limit.
    :raises ValueError: not more than 0.
    """

    def __init__(self, requests_per_second: float | None) -> None:
        if requests_per_second is not None:
            _refuse_unless_positive("requests_per_second", requests_per_second)
        self._interval = 1 / requests_per_second if requests_per_second else 0.0
        places = math.ceil(min(requests_per_second or 1, MOST_PLACES))
        self._round = places * self._interval
        self._free = deque([0.0] * places, maxlen=places)
        self._next = 0.0
        self._lock = threading.Lock()

    def reserve(self) -> float:
        """Take the next place and return the seconds to wait for it."""
        with self._lock:
            now = time.monotonic()
            place = max(now, self._next, self._free.popleft() if self._free else now)
            self._next = place + self._interval
            return place - now

    @contextmanager
    def answered(self) -> Iterator[None]:
        """Give the place back for the next round, once its request has come to an end, or was given up before."""
        try:
            yield
        finally:
            with self._lock:
                self._free.append(time.monotonic() + self._round)


def _refuse_wrong_settings(api_key: str, region: str, dialect: str, timeout: float) -> None:
    if not isinstance(api_key, str) or not api_key or not all("!" <= character <= "~" for character in api_key):
        raise ValueError("The management key is empty, or holds white space or characters that no key has")
    if region not in ("us", "eu"):
        raise ValueError(f"region is {region!r}, but must be 'us' or 'eu'")
    if dialect not in PREFIX:
        raise ValueError(f"dialect is {dialect!r}, but must be 'v1' or 'beta'")
    _refuse_unless_positive("timeout", timeout)


def _refuse_unless_positive(name: str, value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value <= 0:
        raise ValueError(f"{name} is {value!r}, but must be a number of more than 0")


def _checked_base_url(base_url: str) -> str:
    """Return the URL without what the client adds itself."""
    if "@" in base_url or "?" in base_url or "#" in base_url:
        raise ValueError("base_url must not hold a user, a password, a query or a fragment")
    try:
        parts = urlsplit(base_url.strip())
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        usable = False
    if not usable or len(base_url.split()) != 1:
        raise ValueError(f"base_url is {base_url!r}, but must be like https://host or http://127.0.0.1:8765")
    host = parts.netloc.lower().removesuffix(":443" if parts.scheme == "https" else ":80")
    return f"{parts.scheme}://{host}{parts.path}".rstrip("/").removesuffix("/api/1").rstrip("/")
