"""Walking the pages of a list without sending anything: calls are handed out, pages taken in."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Generic, TypeVar

from ._answers import Rows
from ._call import Call, find_endpoint
from .errors import AmplitudeUnexpectedAnswer
from .models import Page, Version

T = TypeVar("T")


@dataclass
class Pages(Generic[T]):
    """The pages of one list.

    :raises TypeError: a call that doesn't answer with pages.
    """

    call: Call[Page[T]]

    def __post_init__(self) -> None:
        refuse_without_pages(self.call)
        self._arguments = dict(self.call.arguments)
        if self.call.endpoint == "versions.list":
            # The feed is newest first: without an end, versions written while paging shift every page (B4).
            self._arguments.setdefault("end", datetime.now(UTC).isoformat())
        self._following: Call[Page[T]] | None = Call(self.call.endpoint, self._arguments)
        self._cursors = {str(self._arguments["cursor"])} if "cursor" in self._arguments else set()
        self._seen: set[tuple[Any, ...]] = set()
        self._path = find_endpoint(self.call.endpoint).path

    def next_call(self) -> Call[Page[T]] | None:
        """Return the call for the next page, ``None`` after the last."""
        return self._following

    def fresh(self, page: Page[T] | Rows[T]) -> Iterator[T]:
        """Yield the objects of a page that no earlier page held, and remember where to go on.

        :raises AmplitudeUnexpectedAnswer: the server repeats a cursor, so the list has no end; or an object of
            ``Rows`` is not of the documented shape.
        """
        self._go_on(None if page.nothing_sent else page.next_cursor)
        for each in page:
            marker = _identity(each)
            if marker not in self._seen:
                self._seen.add(marker)
                yield each

    def _go_on(self, cursor: str | None) -> None:
        if cursor is None:
            self._following = None
            return
        if cursor in self._cursors:
            text = f"the server repeats the cursor {cursor!r}, so the list has no end"
            raise AmplitudeUnexpectedAnswer(text, method="GET", path=self._path)
        self._cursors.add(cursor)
        self._following = Call(self.call.endpoint, {**self._arguments, "cursor": cursor})


def refuse_without_pages(call: Call[Any]) -> None:
    """Refuse a call that doesn't answer with pages; what changes something never does.

    :raises TypeError: names the call.
    """
    if find_endpoint(call.endpoint).answer != "page":
        raise TypeError(f"{call.endpoint} has no pages to follow; use send")


def _identity(item: Any) -> tuple[Any, ...]:
    """Objects are known by their id, versions by their object and their number."""
    if isinstance(item, Version):
        return item.flag_config.project_id, item.flag_config.id, item.flag_config.key, item.version
    return (item.id,)
