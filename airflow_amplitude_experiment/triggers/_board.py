"""The waits of one stream: who waits for what, when somebody has to look, and who does the looking.

Each wait is a :class:`Watch` on the :class:`Board` of its stream. Waits get their news from here and not through
Airflow's broadcast, which would wake every wait for each one that ends. The poll is driven by Airflow where it hosts
shared streams, and by one of the waits where it doesn't, or where its host is gone. Ten thousand watches are looked
through in a millisecond or two, as what counts is kept in plain attributes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

from airflow_amplitude_experiment.api import RolloutRefused
from airflow_amplitude_experiment.operators._run import SHORTEST_WAIT

from ._events import error_event
from ._moments import now
from ._verdict import Verdict

LONGEST_NAP = 3600.0
"""Seconds after which a sleeping poll looks at the clock again, which may have been set, or stood still."""

NEVER = datetime.max.replace(tzinfo=UTC)
LONG_AGO = datetime.min.replace(tzinfo=UTC)


class Name(NamedTuple):
    """What an object is known by. Apart, because one object's key may read like another one's id."""

    object_id: str | None
    object_key: str | None = None


class Watch:
    """One wait, as its poll sees it.

    :param judge: what an object means for it, at a moment; raises ``RolloutRefused`` where it will never be over.
    :param look_at: when to look at the latest.
    :param object_id, object_key: the object; one may be unknown until the first look.
    :param needs: fields, in snake_case, that the judge reads.
    :param matters_at: the next moment at which it may be over by itself, as far as is known.
    :param interval: seconds between looks; ``None`` for as often as the quota allows.
    :param archived_too: an archived object is no error.
    """

    __slots__ = (
        "_judge",
        "_matters_at",
        "_nudged",
        "_said",
        "_sleeper",
        "archived_too",
        "due",
        "event",
        "failure",
        "interval",
        "lacked",
        "lacked_at",
        "lists_show_it",
        "look_at",
        "name",
        "needs",
        "not_before",
        "object_id",
        "object_key",
        "unread_at",
    )

    def __init__(
        self,
        judge: Callable[[Any, datetime], Verdict],
        look_at: datetime,
        *,
        object_id: str | None = None,
        object_key: str | None = None,
        needs: frozenset[str] = frozenset(),
        matters_at: datetime | None = None,
        interval: float | None = None,
        archived_too: bool = False,
    ) -> None:
        self._judge = judge
        self._matters_at = matters_at
        self.needs = needs
        self.interval = interval
        self.archived_too = archived_too
        self.lacked = False  # a list that held the object lacked a field that is needed
        self.lacked_at: str | None = None  # when that object had been changed last
        self.unread_at: datetime | None = None  # when reading it alone failed, if that was the last try
        self.lists_show_it: bool | None = None  # then the details tell whether lists never show it
        self.event: dict[str, Any] | None = None
        self.failure: BaseException | None = None
        self._said: list[str] | None = None
        self._nudged = False
        self._sleeper: asyncio.Future[None] | None = None
        self.not_before = now() + SHORTEST_WAIT
        self._know(object_id, object_key)
        self.look_again(look_at)

    @property
    def settled(self) -> bool:
        """Whether the wait is over."""
        return self.event is not None or self.failure is not None

    def on_lists(self, project: str | None) -> bool:
        """Whether a list may show what is waited for; by a key only where one project is read, as keys are its own."""
        return self.lists_show_it is not False and (self.object_id is not None or project is not None)

    def look_again(self, at: datetime) -> None:
        """Set when to look at the latest; not at once when it joins, as others may join with it."""
        self.look_at = at
        wanted = at if self._matters_at is None else min(at, self._matters_at)
        self.due = max(wanted, self.not_before)

    def take(self, found: Any, moment: datetime) -> None:
        """Take the object as it was just read."""
        self.unread_at = None
        self._know(found.id, found.key)
        try:
            verdict = self._judge(found, moment)
        except (RolloutRefused, ValueError) as error:
            self.settle(error_event(error))
            return
        self._matters_at = verdict.matters_at
        if verdict.said:
            self._said = [*(self._said or ()), verdict.said]
            self.nudge()
        if verdict.record is not None:
            self.settle(verdict.record)

    def settle(self, event: dict[str, Any]) -> None:
        """End the wait with what its task is to be told."""
        if not self.settled:
            self.event = event
            self._end()

    def fail(self, error: BaseException) -> None:
        """End the wait with an error that Airflow is to see."""
        if not self.settled:
            self.failure = error
            self._end()

    def nudge(self) -> None:
        """Wake whoever waits for news."""
        self._nudged = True
        if self._sleeper and not self._sleeper.done():
            self._sleeper.set_result(None)

    async def news(self) -> None:
        """Sleep until there may be something new."""
        if not self._nudged:
            self._sleeper = asyncio.get_running_loop().create_future()
            await self._sleeper
        self._nudged = False

    async def rest(self) -> None:
        """Sleep until a task may be resumed."""
        while (left := (self.not_before - now()).total_seconds()) > 0:
            await nap(left, asyncio.Event())

    def told(self) -> list[str]:
        """Return what is to be said, once."""
        said, self._said = self._said, None
        return said or []

    def _know(self, object_id: str | None, object_key: str | None) -> None:
        self.object_id, self.object_key = object_id, object_key
        self.name = Name(object_id) if object_id else Name(None, object_key)

    def _end(self) -> None:
        self.look_at = self.due = NEVER
        self.nudge()


class Stream(NamedTuple):
    """What one poll reads. It holds no secret, and equal ones share a poll."""

    amplitude_conn_id: str
    project_id: str | None
    kind: str

    @property
    def key(self) -> Hashable:
        """The stream as plain text, for Airflow."""
        return ("amplitude_experiment", self.amplitude_conn_id, self.project_id or "", self.kind)


class Board:
    """The waits of one stream, and what their poll has learnt."""

    def __init__(self, stream: Stream) -> None:
        self.stream = stream
        self.watches: dict[Watch, None] = {}
        self.pages: int | None = None
        self.list_unreadable = False
        self.failures = 0
        self.lookups_failed = 0
        self.connected = False
        self.hold_until: datetime | None = None
        self._sleeps_until: datetime | None = None
        self._changed = asyncio.Event()
        self._driver: object = None

    def add(self, watch: Watch) -> None:
        """Let the poll look for this wait too. It is woken only by one that is due before it wakes by itself."""
        self.watches[watch] = None
        if self._sleeps_until is None or self._held(watch.due) < self._sleeps_until:
            self._changed.set()

    def remove(self, watch: Watch) -> None:
        """Take a wait off; if it drove the poll, another one takes over."""
        self.watches.pop(watch, None)
        self.leave(watch)

    def drives(self, one: object) -> bool:
        """Whether this wait is the one to drive the poll, which it is where nobody else does."""
        if self._driver is None:
            self._driver = one
        return self._driver is one

    def take_over(self, host: object) -> None:
        """Drive the poll from now on, in the place of a wait that does."""
        self._driver = host
        self._changed.set()

    def leave(self, driver: object) -> None:
        """Drive the poll no more; the next wait takes over."""
        if self._driver in (driver, None):
            self._driver = None
            if other := next(iter(self.watches), None):
                other.nudge()

    @property
    def deserted(self) -> bool:
        """Whether nobody waits or drives."""
        return not self.watches and self._driver is None

    def next_look(self) -> datetime:
        """Return when the first wait has to be looked at, not before a pause is over."""
        return self._held(min((watch.due for watch in self.watches), default=NEVER))

    async def sleep(self, until: datetime) -> None:
        """Sleep until then, or until a wait joins that is due before, or somebody else drives."""
        self._changed.clear()
        self._sleeps_until = until
        try:
            await nap((until - now()).total_seconds(), self._changed)
        finally:
            self._sleeps_until = None

    def due(self, moment: datetime) -> list[Watch]:
        """Return the waits that have to be looked at, the longest due first; what could not be read comes last."""
        due = (watch for watch in self.watches if watch.due <= moment)
        return sorted(due, key=lambda watch: (watch.unread_at or LONG_AGO, watch.due))

    def crowd(self, moment: datetime, project: str | None, usual: float) -> list[Watch]:
        """Return the waits that a list page would serve now: those due, and those due before the next round.

        :param project: the one that is read, if it is one.
        :param usual: seconds between looks for waits that don't say.
        """
        listed = [watch for watch in self.watches if watch.on_lists(project)]
        due = [watch for watch in listed if watch.due <= moment]
        again = [watch.interval or usual for watch in due if watch.look_at <= moment]
        if not again:
            return due
        horizon = moment + timedelta(seconds=min(again))
        return [watch for watch in listed if watch.due <= moment or watch.look_at <= horizon]

    def requests_a_round(self) -> int:
        """Estimate what looking at every wait once costs, the cheaper way."""
        listed: set[Name] = set()
        alone: set[Name] = set()
        for watch in self.watches:
            if not watch.settled:
                (alone if watch.lists_show_it is False else listed).add(watch.name)
        return min(len(listed), self.pages or 1) + len(alone)

    def _held(self, moment: datetime) -> datetime:
        return moment if self.hold_until is None else max(moment, self.hold_until)


async def nap(seconds: float, changed: asyncio.Event) -> None:
    """Sleep, or until something changed."""
    with suppress(TimeoutError):
        async with asyncio.timeout(min(seconds, LONGEST_NAP)):
            await changed.wait()


_BOARDS: WeakKeyDictionary[asyncio.AbstractEventLoop, dict[Hashable, Board]] = WeakKeyDictionary()


@contextmanager
def waiting(stream: Stream, watch: Watch) -> Iterator[Board]:
    """Let a wait stand on its stream's board in this process; each event loop has its own."""
    with _kept(stream) as board:
        board.add(watch)
        try:
            yield board
        finally:
            board.remove(watch)


@contextmanager
def hosting(stream: Stream) -> Iterator[Board]:
    """Drive the poll of a stream in the place of its waits, which go on by themselves when this ends, however."""
    with _kept(stream) as board:
        host = object()
        board.take_over(host)
        try:
            yield board
        finally:
            board.leave(host)


@contextmanager
def _kept(stream: Stream) -> Iterator[Board]:
    """Find the stream's board, and forget it when nobody needs it any more."""
    boards = _BOARDS.setdefault(asyncio.get_running_loop(), {})
    board = boards.setdefault(stream.key, Board(stream))
    try:
        yield board
    finally:
        if board.deserted and boards.get(stream.key) is board:
            del boards[stream.key]
