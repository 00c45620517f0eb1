"""One call on its way: the request of each attempt, and what its answer or failure means.

Nothing is sent here. Both clients go through the same exchange and differ only in how they wait.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Generic, TypeVar, cast

import httpx

from . import _answers
from ._call import Call, Dialect, find_endpoint
from .errors import (
    AmplitudeConnectionError,
    AmplitudeError,
    AmplitudeRateLimited,
    AmplitudeServerError,
    AmplitudeUnexpectedAnswer,
    error_class,
)

T = TypeVar("T")
NEVER_SENT = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout, httpx.ProxyError)
LONGEST_ANSWER = 100_000_000
LONGEST_ERROR = 20_000
"""Bytes. A longer error page is cut, a longer success is no answer of this API."""
SLOWEST_ANSWER = 120.0
"""Seconds from the status to the last byte. The client's timeout bounds each part, and parts may drip for ever."""


class Exchange(Generic[T]):
    """One call on its way, over all its attempts.

    :param prefix: path of the API on its host.
    :param hide: replaces the management key in a text.
    """

    def __init__(self, call: Call[T], *, dialect: Dialect, prefix: str, hide: Callable[[str], str]) -> None:
        self._prepared = find_endpoint(call.endpoint).prepare(call.arguments, dialect=dialect)
        self._endpoint = self._prepared.endpoint
        self._dialect = dialect
        self._path = prefix + self._prepared.path
        self._hide_key = hide
        self._writes = self._prepared.method != "GET"
        self._perhaps_applied = False
        self._content = bytearray()
        self._limit = LONGEST_ANSWER
        self._until = 0.0
        self._again: AmplitudeError | None = None

    def request(self, http: httpx.Client | httpx.AsyncClient) -> httpx.Request:
        """Build the request of one attempt. Deletes with a body keep it (C4)."""
        wanted = self._prepared
        return http.build_request(wanted.method, wanted.path, params=wanted.query or None, json=wanted.body)

    def may_go_again(self, error: BaseException) -> bool:
        """Whether this is the failure of an attempt that another one may follow."""
        return error is self._again

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Turn a lost connection into our own error, which says whether the request may have arrived."""
        try:
            yield
        except httpx.TransportError as error:
            lost = not isinstance(error, NEVER_SENT)
            self._perhaps_applied |= self._writes and lost
            text = f"{type(error).__name__}: {str(error) or 'no answer'}"
            raised = AmplitudeConnectionError(self._hidden(text), **self._facts())
            raise self._noted(raised, repeat=self._prepared.may_repeat or not lost) from self._shown(error)

    @contextmanager
    def answering(self, response: httpx.Response) -> Iterator[None]:
        """As :meth:`watched`, once a status has arrived. Where that is an error, it says enough without the rest."""
        self._content.clear()
        self._limit = LONGEST_ERROR if response.is_error else LONGEST_ANSWER
        self._until = time.monotonic() + SLOWEST_ANSWER
        try:
            yield
        except (httpx.TransportError, httpx.DecodingError, _TooLong) as error:
            if response.is_error:
                return
            self._perhaps_applied |= self._writes
            text = f"the answer broke off, could not be decoded or has no end ({type(error).__name__})"
            raised = AmplitudeUnexpectedAnswer(text, status=response.status_code, **self._facts())
            repeat = self._prepared.may_repeat and not isinstance(error, _TooLong)
            raise self._noted(raised, repeat=repeat) from self._shown(error)

    def keep(self, part: bytes) -> None:
        """Keep a part of the answer, as long as it can be one of this API."""
        self._content += part
        if len(self._content) > self._limit or time.monotonic() > self._until:
            raise _TooLong

    def read(self, response: httpx.Response) -> T:
        """Return what the answer holds, or raise what it means."""
        if response.is_success:
            answer = self._read_success(response)
            self._content.clear()
            return answer
        status = response.status_code
        if status == 404 and self._perhaps_applied and self._endpoint.repeat == "gone is done":
            return cast(T, None)
        raised = error_class(status)
        fault = raised is AmplitudeServerError
        self._perhaps_applied |= self._writes and fault
        error = raised(
            self._hidden(_answers.failure_text(status, bytes(self._content), response.headers)),
            status=status,
            retry_after=_answers.retry_after(response.headers),
            **self._facts(),
        )
        raise self._noted(error, repeat=raised is AmplitudeRateLimited or (fault and self._prepared.may_repeat))

    def _read_success(self, response: httpx.Response) -> T:
        content_type = response.headers.get("content-type", "")
        values, content = self._prepared.values, bytes(self._content)
        with self._as_documented(response.status_code):
            answer = _answers.read(self._endpoint, values, content, content_type, self._dialect)
        if isinstance(answer, _answers.Rows):
            answer = replace(answer, items=self._rows_as_documented(answer.items, response.status_code))
        return cast(T, answer)

    def _rows_as_documented(self, rows: Iterator[Any], status: int) -> Iterator[Any]:
        with self._as_documented(status):
            yield from rows

    @contextmanager
    def _as_documented(self, status: int) -> Iterator[None]:
        """Turn an answer that can't be read into our own error."""
        try:
            yield
        except _answers.Unreadable as error:
            self._perhaps_applied |= self._writes
            raise AmplitudeUnexpectedAnswer(self._hidden(str(error)), status=status, **self._facts()) from None

    def _noted(self, error: AmplitudeError, *, repeat: bool) -> AmplitudeError:
        self._again = error if repeat else None
        return error

    def _shown(self, cause: Exception) -> Exception | None:
        """Return a cause if it can stand in a traceback, which prints its text."""
        return cause if self._hidden(str(cause)) == str(cause) else None

    def _facts(self) -> dict[str, Any]:
        return {"method": self._prepared.method, "path": self._path, "maybe_applied": self._perhaps_applied}

    def _hidden(self, text: str) -> str:
        """Return a text of the server without the key, and without the people whom the request names."""
        text = self._hide_key(text)
        if people := self._endpoint.people_in(self._prepared.values):
            longest_first = sorted(people, key=len, reverse=True)
            text = re.sub(rf"(?<!\w)(?:{'|'.join(map(re.escape, longest_first))})(?!\w)", "***", text)
        return text


class _TooLong(Exception):
    """An answer longer, or slower, than any of this API."""
