"""One poll for all waits of a connection, project and kind, however many there are.

The waits of one stream stand on a :class:`Board`. A :class:`Poll` sleeps until the first of them has to be looked at,
reads whatever is cheaper, a list page by page or single objects, and tells each wait what became of it. It knows no
Airflow: who opens the client, what the time is and who drives the poll is told from outside. Waits get their news
directly and not through Airflow's broadcast, which would wake every wait for each one that ends.
"""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict
from collections.abc import Awaitable, Callable, Hashable, Iterable, Iterator
from contextlib import suppress
from datetime import datetime, timedelta
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

from airflow.providers.common.compat.sdk import AirflowNotFoundException
from airflow.sdk.exceptions import AirflowRuntimeError

from airflow_amplitude_experiment.api import (
    AmplitudeAuthError,
    AmplitudeError,
    AmplitudePermissionError,
    RolloutRefused,
)
from airflow_amplitude_experiment.operators._run import SHORTEST_WAIT

from ._events import error_event
from ._find import find, lacking
from ._moments import LOOKUPS, PASSING, SHARED, after_failure, now, spread, usual_interval
from ._verdict import Verdict

log = logging.getLogger(__name__)

PAGE = 1000
"""Objects on one page of a list, the most that Amplitude gives."""

AT_ONCE = 200
"""Waits that are told their news before the event loop gets its turn."""

PAUSE = timedelta(seconds=5)
"""Between two rounds, so that what comes due one after the other is looked at together."""

LONGEST_NAP = 3600.0
"""Seconds after which a sleeping poll looks at the clock again, which may have been set, or stood still."""


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
        self.judge = judge
        self.look_at = look_at
        self.object_id = object_id
        self.object_key = object_key
        self.needs = needs
        self.matters_at = matters_at
        self.interval = interval
        self.archived_too = archived_too
        self.not_before = now() + SHORTEST_WAIT
        self.lacked = False  # a list that held the object lacked a field that is needed
        self.lists_show_it: bool | None = None  # then the details tell whether lists never show it
        self.event: dict[str, Any] | None = None
        self.failure: BaseException | None = None
        self._said: list[str] = []
        self._nudged = asyncio.Event()

    @property
    def name(self) -> str:
        """The object, as far as it is known."""
        return self.object_id or str(self.object_key)

    @property
    def settled(self) -> bool:
        """Whether the wait is over."""
        return self.event is not None or self.failure is not None

    @property
    def due(self) -> datetime:
        """When it has to be looked at next; not at once when it joins, as others may join with it."""
        wanted = self.look_at if self.matters_at is None else min(self.look_at, self.matters_at)
        return max(wanted, self.not_before)

    @property
    def served_by_lists(self) -> bool:
        """Whether a list page can answer what is waited for, as far as is known."""
        return self.lists_show_it is not False

    def take(self, found: Any, moment: datetime) -> None:
        """Take the object as it was just read."""
        self.object_id, self.object_key = found.id, found.key
        try:
            verdict = self.judge(found, moment)
        except (RolloutRefused, ValueError) as error:
            self.settle(error_event(error))
            return
        self.matters_at = verdict.matters_at
        if verdict.said:
            self._said.append(verdict.said)
            self.nudge()
        if verdict.record is not None:
            self.settle(verdict.record)

    def settle(self, event: dict[str, Any]) -> None:
        """End the wait with what its task is to be told."""
        if not self.settled:
            self.event = event
            self.nudge()

    def fail(self, error: BaseException) -> None:
        """End the wait with an error that Airflow is to see."""
        if not self.settled:
            self.failure = error
            self.nudge()

    def nudge(self) -> None:
        """Wake whoever waits for news."""
        self._nudged.set()

    async def news(self) -> None:
        """Sleep until there may be something new."""
        await self._nudged.wait()
        self._nudged.clear()

    async def rest(self) -> None:
        """Sleep until a task may be resumed."""
        while (left := (self.not_before - now()).total_seconds()) > 0:
            await nap(left, asyncio.Event())

    def told(self) -> Iterator[str]:
        """Yield what is to be said, once."""
        said, self._said = self._said, []
        yield from said


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
        self.failures = 0
        self.lookups_failed = 0
        self.connected = False
        self.hold_until: datetime | None = None
        self.sleeps_until: datetime | None = None
        self.changed = asyncio.Event()
        self._driver: Watch | None = None

    def add(self, watch: Watch) -> None:
        """Let the poll look for this wait too. It is woken only by one that is due before it wakes by itself."""
        self.watches[watch] = None
        due = watch.due if self.hold_until is None else max(watch.due, self.hold_until)
        if self.sleeps_until is None or due < self.sleeps_until:
            self.changed.set()

    def remove(self, watch: Watch) -> None:
        """Take a wait off; if it drove the poll, another one takes over."""
        self.watches.pop(watch, None)
        if self._driver in (watch, None):
            self._driver = None
            if other := next(iter(self.watches), None):
                other.nudge()

    def drives(self, watch: Watch) -> bool:
        """Whether this wait is the one to drive the poll, where Airflow hosts none."""
        if self._driver is None:
            self._driver = watch
        return self._driver is watch

    def next_look(self) -> datetime | None:
        """Return when the first wait has to be looked at, not before a pause is over; ``None`` with no wait."""
        first = min((watch.due for watch in self.watches if not watch.settled), default=None)
        return first if first is None or self.hold_until is None else max(first, self.hold_until)

    def crowd(self, moment: datetime) -> list[Watch]:
        """Return the waits that a list page would serve now: those due, and those due before the next round."""
        open_ones = [watch for watch in self.watches if not watch.settled and watch.served_by_lists]
        due = [watch for watch in open_ones if watch.due <= moment]
        usual = usual_interval(self.requests_a_round(), SHARED)
        again = [watch.interval or usual for watch in due if watch.look_at <= moment]
        if not again:
            return due
        horizon = moment + timedelta(seconds=min(again))
        return [watch for watch in open_ones if watch.due <= moment or watch.look_at <= horizon]

    def due(self, moment: datetime) -> list[Watch]:
        """Return the waits that have to be looked at."""
        return [watch for watch in self.watches if not watch.settled and watch.due <= moment]

    def requests_a_round(self) -> int:
        """Estimate what looking at every wait once costs, the cheaper way."""
        by_list = len({watch.name for watch in self.watches if watch.served_by_lists})
        return min(by_list, self.pages or 1) + len({w.name for w in self.watches if not w.served_by_lists})


_BOARDS: WeakKeyDictionary[asyncio.AbstractEventLoop, dict[Hashable, Board]] = WeakKeyDictionary()


def board_of(stream: Stream) -> Board:
    """Return the stream's board in this process; each event loop has its own."""
    boards = _BOARDS.setdefault(asyncio.get_running_loop(), {})
    return boards.setdefault(stream.key, Board(stream))


async def nap(seconds: float, changed: asyncio.Event) -> None:
    """Sleep, or until something changed."""
    with suppress(TimeoutError):
        async with asyncio.timeout(min(seconds, LONGEST_NAP)):
            await changed.wait()


class Poll:
    """Looks for the waits of a board, step by step; it keeps nothing that the board doesn't hold.

    :param board: the waits.
    :param open_client: opens a client for one round: in the weeks of a wait the key may change, and no socket is held.
    :param at_least: seconds between two rounds at the least, for waits that don't say.
    """

    def __init__(self, board: Board, open_client: Callable[[], Awaitable[Any]], *, at_least: float = SHARED) -> None:
        self.board = board
        self._open_client = open_client
        self._at_least = at_least
        self._looked: list[Watch] = []
        self._budget = AT_ONCE

    async def step(self) -> None:
        """Sleep until the next look is due or a wait joins; or look, where it is due."""
        board = self.board
        board.changed.clear()
        wake = board.next_look()
        left = LONGEST_NAP if wake is None else (wake - now()).total_seconds()
        board.sleeps_until = wake if left > 0 else None
        if left > 0:
            await nap(left, board.changed)
        else:
            await self._round()

    async def _round(self) -> None:
        """Look once. Whatever goes wrong, waits either go on or learn of it; the poll itself never ends."""
        board = self.board
        try:
            async with await self._open_client() as client:
                board.connected, board.lookups_failed = True, 0
                await self._look(client)
            board.failures, board.hold_until = 0, now() + PAUSE
        except PASSING as error:
            self._hold(error)
        except (AirflowNotFoundException, AirflowRuntimeError) as error:
            gone = isinstance(error, AirflowNotFoundException) and not board.connected
            board.lookups_failed += 1
            if gone or board.lookups_failed > LOOKUPS:
                failure = error
                self._end(board.watches, lambda watch: watch.fail(failure))
            else:
                self._hold(error)
        except (AmplitudeError, RolloutRefused, ValueError) as error:
            event = error_event(error)
            self._end(board.watches, lambda watch: watch.settle(event))
        except Exception as error:  # noqa: BLE001 - each wait raises it to Airflow, as it would have alone
            mistake = error
            self._end(board.watches, lambda watch: watch.fail(mistake))
        finally:
            self._plan_next()

    def _hold(self, error: Exception) -> None:
        board = self.board
        board.failures += 1
        board.hold_until = after_failure(now(), board.failures, error)
        if board.failures == 1:
            log.warning("%s The wait goes on; looking again at %s.", error, f"{board.hold_until:%Y-%m-%d %H:%M:%SZ}")

    def _end(self, watches: Iterable[Watch], how: Callable[[Watch], None]) -> None:
        self.board.failures, self.board.hold_until = 0, None
        for watch in list(watches):
            how(watch)

    def _plan_next(self) -> None:
        """Set the next look of all that were looked at. One share for all keeps them together in one round."""
        moment, share = now(), spread()
        usual = usual_interval(self.board.requests_a_round(), self._at_least)
        for watch in self._looked:
            watch.look_at = moment + timedelta(seconds=(watch.interval or usual) * share)
        self._looked.clear()

    async def _look(self, client: Any) -> None:
        """Read what is cheaper. What no list shows (an archived object, a field that lists leave out) is read alone."""
        board, moment = self.board, now()
        project = board.stream.project_id or client.rules.project_id
        crowd, alone = board.crowd(moment), board.due(moment)
        if len({watch.name for watch in crowd}) > (board.pages or 1):
            seen = await self._read_list(client, crowd, project)
            alone = [watch for watch in board.due(moment) if watch not in seen]
        by_name: dict[tuple[str, bool], list[Watch]] = defaultdict(list)
        for watch in alone:
            by_name[watch.name, watch.archived_too].append(watch)
        for watches in by_name.values():
            await self._read_one(client, watches, project)

    async def _read_list(self, client: Any, crowd: list[Watch], project: str | None) -> set[Watch]:
        """Read pages until all are seen, or the rest is cheaper one by one; return who was told the news."""
        from airflow_amplitude_experiment.api._pages import Pages
        from airflow_amplitude_experiment.hooks.lookup import calls_of

        by_name, seen, read = self._index(project), set[Watch](), 0
        missing = {watch.name for watch in crowd}
        calls: Any = calls_of(self.board.stream.kind)  # type: ignore[arg-type]
        pages: Pages[Any] = Pages(calls.list(limit=PAGE, **({"project_id": project} if project else {})))
        while (call := pages.next_call()) is not None:
            for row in pages.fresh(await client.send(call)):
                for name in (row.id, row.key):
                    missing.discard(name)
                    for watch in by_name.get(name, ()):
                        if await self._tell_listed(watch, row):
                            seen.add(watch)
            read += 1
            left = read if self.board.pages is None else max(self.board.pages - read, 0)
            if pages.next_call() is not None and len(missing) < max(left, 1):
                self.board.pages = max(self.board.pages or 0, read + 1)
                return seen
        self.board.pages = max(read, 1)
        return seen

    def _index(self, project: str | None) -> dict[str, list[Watch]]:
        """Find waits by what a row shows; by key only where one project is read, as keys are its own."""
        index: dict[str, list[Watch]] = defaultdict(list)
        for watch in self.board.watches:
            if watch.served_by_lists and (watch.object_id or project):
                index[watch.name].append(watch)
        return index

    async def _tell_listed(self, watch: Watch, row: Any) -> bool:
        """Tell a wait what a list shows; say whether that was enough."""
        if watch.lists_show_it is None and lacking(row, watch.needs):
            watch.lacked = True
            return False
        await self._tell(watch, row)
        return True

    async def _read_one(self, client: Any, watches: list[Watch], project: str | None) -> None:
        """Read one object for all who wait for it. What is wrong with this object is not the others' concern."""
        first = watches[0]
        needs = frozenset[str]().union(*(watch.needs for watch in watches))
        reading = find(
            client,
            self.board.stream.kind,
            object_id=first.object_id,
            object_key=first.object_key,
            project_id=self.board.stream.project_id,
            needs=needs,
            archived_too=first.archived_too,
        )
        try:
            found = await client.read(reading)
        except (*PASSING, AmplitudeAuthError):
            raise
        except (AmplitudeError, RolloutRefused) as error:
            if isinstance(error, AmplitudePermissionError) and project:
                raise
            event = error_event(error)
            for watch in watches:
                watch.settle(event)
            return
        for watch in watches:
            if watch.lacked and watch.lists_show_it is None:
                watch.lists_show_it = bool(lacking(found, watch.needs))  # neither shows it: it is simply not set
            await self._tell(watch, found)

    async def _tell(self, watch: Watch, found: Any) -> None:
        moment = now()
        if watch.settled:
            return
        try:
            watch.take(found, moment)
        except Exception as error:  # noqa: BLE001 - raised in its own wait; its neighbours go on
            watch.fail(error)
        self._looked.append(watch)
        self._budget -= 1
        if self._budget <= 0:
            self._budget = AT_ONCE
            await asyncio.sleep(0)
