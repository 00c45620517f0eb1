"""What the emulator was asked, for tests to look at. No key is ever in it."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any
from urllib.parse import parse_qs

Entry = dict[str, Any]
_LONGEST = 10_000


class RequestLog:
    """The last requests, the oldest first."""

    def __init__(self, secrets: Callable[[], Iterable[str]]) -> None:
        self._secrets = secrets
        self._entries: deque[Entry] = deque(maxlen=_LONGEST)
        self.listener: Callable[[Entry], None] | None = None

    def open(self, *, method: str, path: str, query: str, body: bytes, time: str) -> Entry:
        """Note a request; its ``status`` is filled in just before the answer leaves."""
        text = self._clean(body.decode("utf-8", "replace"))
        entry: Entry = {
            "method": method,
            "path": self._clean(path),
            "query": _query(self._clean(query)),
            "body": _as_json(text),
            "status": None,
            "time": time,
            "fault": None,
        }
        self._entries.append(entry)
        return entry

    def close(self, entry: Entry) -> None:
        """Say that a request is over; a ``status`` of ``None``: it was never answered."""
        if self.listener is not None:
            self.listener(entry)

    def entries(self, *, sdk: bool = False) -> list[Entry]:
        """Return the requests to the Management API, with ``sdk`` also those of SDKs."""
        return [dict(one) for one in list(self._entries) if sdk or not one["path"].startswith("/sdk")]

    def clear(self) -> None:
        """Forget all requests."""
        self._entries.clear()

    def _clean(self, text: str) -> str:
        for secret in self._secrets():
            text = text.replace(secret, "***")
        return text


def _query(text: str) -> dict[str, str | list[str]]:
    given = parse_qs(text, keep_blank_values=True)
    return {name: values[0] if len(values) == 1 else values for name, values in given.items()}


def _as_json(text: str) -> Any:
    if not text:
        return None
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text[:1000]
