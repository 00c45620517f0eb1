"""The file of an exported cohort, read as it comes: two million users take no more memory than two hundred.

Amplitude answers with the file, or sends on to a link of its storage that opens it to whoever holds it for a minute.
That link is a secret: it is followed without our keys, once, and stands in no log and no error.
"""

from __future__ import annotations

import csv
import io
import logging
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar
from urllib.parse import urljoin, urlsplit

import httpx
from tenacity import Retrying

from airflow_amplitude_experiment.api import AmplitudeError, AmplitudeUnexpectedAnswer
from airflow_amplitude_experiment.api._exchange import LONGEST_ERROR
from airflow_amplitude_experiment.api._retry import policy

from . import _cohort_request as request
from ._analytics_client import AnalyticsClient, AnalyticsExchange
from ._analytics_reading import Unreadable

T = TypeVar("T")
Parts = Iterator[bytes]

SLOWEST_FILE = 3600.0
"""Seconds from the first to the last byte of a file; each part has the client's timeout."""
LOUD = ("httpx", "httpcore.connection", "httpcore.http11", "httpcore.http2", "httpcore.proxy")
"""Loggers that write addresses, and the headers of answers."""


def download(client: AnalyticsClient, request_id: str, take: Callable[[Parts], T]) -> T:
    """Hand the file of a complete export over, part by part, and return what is made of it.

    :param take: is given the parts from the file's beginning, and again where an attempt broke off. It must read them
        to the end. What it raises ends the download.
    :raises AmplitudeError: the file could not be had.
    """
    exchange = _FileExchange(request.file(request_id), hide=client._hide)

    def attempt() -> T:
        time.sleep(client._pace.reserve())
        return exchange.attempt(client._http, take)

    answer: T = Retrying(**policy(exchange.may_go_again), sleep=time.sleep)(attempt)
    return answer


class Rows:
    """The rows of a cohort's file, one at a time. They begin with a line of names.

    :param parts: the bytes of the file.
    :raises Unreadable: it is no CSV with the names that Amplitude writes.
    """

    def __init__(self, parts: Parts) -> None:
        text = io.TextIOWrapper(io.BufferedReader(_Stream(parts)), encoding="utf-8-sig", newline="")
        self._rows = csv.reader(text, strict=True)
        self.names = [name.strip() for name in self._next() or ()]
        if not {"amplitude_id", "user_id"} & set(self.names):
            raise Unreadable("a file that doesn't begin with the names amplitude_id and user_id")

    def __iter__(self) -> Iterator[list[str]]:
        """Yield the users, each as its cells."""
        while (row := self._next()) is not None:
            if len(row) == len(self.names):
                yield row
            elif row:
                raise Unreadable(f"a row of {len(row)} cells in a file of {len(self.names)} columns")

    def _next(self) -> list[str] | None:
        try:
            return next(self._rows, None)
        except (csv.Error, UnicodeDecodeError):  # their texts quote the file, which is about people
            raise Unreadable("a file that is no CSV in UTF-8") from None


class _Stream(io.RawIOBase):
    """Bytes that come in parts, as a file to read from."""

    def __init__(self, parts: Parts) -> None:
        self._parts, self._left = parts, b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._left:
            if (part := next(self._parts, None)) is None:
                return 0
            self._left = part
        count = min(len(buffer), len(self._left))
        buffer[:count], self._left = self._left[:count], self._left[count:]
        return count


class _FileExchange(AnalyticsExchange[None]):
    """The request for a file on its way, over all its attempts, each with a link of its own."""

    def attempt(self, http: httpx.Client, take: Callable[[Parts], T]) -> T:
        """Ask once, and follow where it leads."""
        with self.watched(), _unlogged():
            response = http.send(self.request(http), stream=True)
        try:
            if response.status_code == 200:
                return self._taken(response, take)
            if response.has_redirect_location:
                link = urljoin(str(response.url), response.headers["location"])
            else:
                with self.answering(response):
                    for part in response.iter_bytes():
                        self.keep(part)
                raise self._failure(response)
        finally:
            response.close()
        return self._followed(link, http, take)

    def _followed(self, link: str, http: httpx.Client, take: Callable[[Parts], T]) -> T:
        from airflow.sdk.log import mask_secret

        mask_secret(link)
        if urlsplit(link).scheme not in ({"https"} if http.base_url.scheme == "https" else {"http", "https"}):
            raise self._lost("the answer leads to an address that is not encrypted, which is not followed")
        with httpx.Client(timeout=http.timeout, follow_redirects=False) as storage:
            try:
                with _unlogged():
                    response = storage.send(storage.build_request("GET", link), stream=True)
            except (httpx.TransportError, httpx.InvalidURL) as error:
                raise self._lost(f"the link to the file does not answer ({type(error).__name__})") from None
            try:
                if response.status_code != 200:
                    said = _code_in(response)
                    raise self._lost(f"the link to the file answered {response.status_code}{said}")
                return self._taken(response, take)
            finally:
                response.close()

    def _taken(self, response: httpx.Response, take: Callable[[Parts], T]) -> T:
        try:
            return take(_parts(response))
        except (httpx.TransportError, httpx.DecodingError, _TooSlow) as error:
            raise self._lost(f"the file broke off ({type(error).__name__})") from None
        except Unreadable as error:
            raise self._unreadable(error, response) from None

    def _failure(self, response: httpx.Response) -> AmplitudeError:
        """Return what an answer means that is neither a file nor a way to it."""
        try:
            self.read(response)
        except AmplitudeError as error:
            return error
        raise AssertionError("the question's reader accepts no answer")

    def _lost(self, text: str) -> AmplitudeError:
        """Return the error of an attempt that another one, with a new link, may follow."""
        raised = self._question.words[AmplitudeUnexpectedAnswer](text + ".", **self._facts())
        return self._noted(raised, repeat=True)


class _TooSlow(Exception):
    """A file that has no end."""


def _parts(response: httpx.Response) -> Parts:
    until = time.monotonic() + SLOWEST_FILE
    for part in response.iter_bytes():
        yield part
        if time.monotonic() > until:
            raise _TooSlow


def _code_in(response: httpx.Response) -> str:
    """Return the storage's code for what is wrong. The rest of its answer may repeat the signature of the link."""
    content = bytearray()
    try:
        for part in response.iter_bytes():
            content += part
            if len(content) > LONGEST_ERROR:
                break
    except (httpx.TransportError, httpx.DecodingError):
        return ""
    found = re.search(rb"<Code>([A-Za-z]{1,60})</Code>", bytes(content))
    return f" ({found[1].decode()})" if found else ""


@contextmanager
def _unlogged() -> Iterator[None]:
    """Let the HTTP libraries log nothing of what this thread does: they write whole addresses, here secret ones."""
    here = threading.get_ident()

    def others(_: logging.LogRecord) -> bool:
        return threading.get_ident() != here

    loggers = [logging.getLogger(name) for name in LOUD]
    for logger in loggers:
        logger.addFilter(others)
    try:
        yield
    finally:
        for logger in loggers:
            logger.removeFilter(others)
