"""One poll for all waits of a connection, project and kind, however many there are.

A :class:`Poll` sleeps until the first wait of a board has to be looked at, reads whatever is cheaper, a list page by
page or single objects, and tells each wait what became of it. It knows no Airflow but the errors of a connection that
can't be looked up: who opens the client, what the time is and who drives the poll is told from outside.
"""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict
from collections.abc import Awaitable, Callable
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Any

from airflow.providers.common.compat.sdk import AirflowNotFoundException
from airflow.sdk.exceptions import AirflowRuntimeError

from airflow_amplitude_experiment.api import (
    AmplitudeAuthError,
    AmplitudeError,
    AmplitudePermissionError,
    AmplitudeUnexpectedAnswer,
    RolloutRefused,
)

from ._board import Board, Name, Watch
from ._events import error_event
from ._find import find, lacking
from ._moments import LOOKUPS, PASSING, SHARED, after_failure, after_round, now, spread, usual_interval

if TYPE_CHECKING:
    from airflow_amplitude_experiment.hooks.guard import Reading

log = logging.getLogger(__name__)

PAGE = 1000
"""Objects on one page of a list, the most that Amplitude gives."""

AT_ONCE = 50
"""Rows that are read, and waits that are told their news, before the event loop gets its turn."""

ALONE_AT_ONCE = 20
"""Objects that are read alone in one round, those that are due the longest. The others' turn comes a minute later."""


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
        self._requests = 0
        self._budget = AT_ONCE

    async def step(self) -> None:
        """Sleep until the next look is due, a wait joins or somebody else drives; or look, where it is due."""
        wake = self.board.next_look()
        if wake > now():
            await self.board.sleep(wake)
        else:
            await self._round()

    async def _round(self) -> None:
        """Look once. Whatever goes wrong, waits either go on or learn of it; the poll itself never ends."""
        board = self.board
        board.hold_until = after_round(now(), 0)  # however this one ends, the next waits a little
        self._requests = 0
        try:
            async with await self._open_client() as client:
                board.connected, board.lookups_failed = True, 0
                await self._look(client)
            self._go_on()
        except PASSING as error:
            self._hold(error)
        except (AirflowNotFoundException, AirflowRuntimeError) as error:
            gone = isinstance(error, AirflowNotFoundException) and not board.connected
            board.lookups_failed += 1
            if gone or board.lookups_failed > LOOKUPS:
                await self._end(Watch.fail, error)
            else:
                self._hold(error)
        except (AmplitudeError, RolloutRefused, ValueError) as error:
            await self._end(Watch.settle, error_event(error))
        except Exception as error:  # noqa: BLE001 - each wait raises it to Airflow, as it would have alone
            await self._end(Watch.fail, error)
        finally:
            self._plan_next()

    def _go_on(self) -> None:
        board = self.board
        if board.failures:
            log.info("Amplitude answers again.")
        board.failures, board.hold_until = 0, after_round(now(), self._requests)

    def _hold(self, error: Exception) -> None:
        board = self.board
        new, some_were_read = not board.failures, any(not watch.unread_at for watch in self._looked)
        board.failures = 1 if some_were_read else board.failures + 1
        board.hold_until = after_failure(now(), board.failures, error)
        if new:
            log.warning("%s The wait goes on; looking again at %s.", error, f"{board.hold_until:%Y-%m-%d %H:%M:%SZ}")

    async def _end(self, how: Callable[[Watch, Any], None], what: Any) -> None:
        self.board.failures = 0
        for watch in list(self.board.watches):
            how(watch, what)
            await self._breathe()

    def _plan_next(self) -> None:
        """Set the next look of all that were looked at. One share for all keeps them together in one round."""
        moment, share, usual = now(), spread(), self._usual()
        for watch in self._looked:
            if not watch.settled:
                watch.look_again(moment + timedelta(seconds=(watch.interval or usual) * share))
        self._looked.clear()

    def _usual(self) -> float:
        return usual_interval(self.board.requests_a_round(), self._at_least)

    async def _look(self, client: Any) -> None:
        """Read what is cheaper. What no list shows (an archived object, a field that lists leave out) is read alone."""
        board, moment = self.board, now()
        project = board.stream.project_id or client.rules.project_id
        crowd, alone = board.crowd(moment, project, self._usual()), board.due(moment)
        if len({watch.name for watch in crowd}) > (board.pages or 1):
            await self._read_what_lists_show(client, {watch.name for watch in crowd}, project)
            told = set(self._looked)
            alone = [watch for watch in board.due(moment) if watch not in told]
        by_name: dict[tuple[Name, bool], list[Watch]] = defaultdict(list)
        for watch in alone:
            by_name[watch.name, watch.archived_too].append(watch)
        for watches in list(by_name.values())[:ALONE_AT_ONCE]:
            await self._read_one(client, watches, project)

    async def _read_what_lists_show(self, client: Any, missing: set[Name], project: str | None) -> None:
        """Read the list. One row that can't be read must not keep all from their turn: they are read alone then."""
        board = self.board
        try:
            await self._read_list(client, missing, project)
            board.list_unreadable = False
        except AmplitudeUnexpectedAnswer as error:
            if not board.list_unreadable:
                log.warning("%s The wait goes on; what this list would show is read object by object.", error)
            board.list_unreadable = True

    async def _read_list(self, client: Any, missing: set[Name], project: str | None) -> None:
        """Read pages until nobody is missing, or the rest is cheaper one by one."""
        from airflow_amplitude_experiment.api._pages import Pages
        from airflow_amplitude_experiment.hooks.lookup import calls_of

        board, waiting, read = self.board, self._index(project), 0
        calls: Any = calls_of(board.stream.kind)  # type: ignore[arg-type]
        pages: Pages[Any] = Pages(calls.list(limit=PAGE, **({"project_id": project} if project else {})))
        while (call := pages.next_call()) is not None:
            self._requests += 1
            for row in pages.fresh(await client.rows(call)):
                for name in (Name(row.id), Name(None, row.key)):
                    missing.discard(name)
                    for watch in waiting.get(name, ()):
                        await self._tell_listed(watch, row)
                await self._breathe()
            read += 1
            left = read if board.pages is None else max(board.pages - read, 0)
            if pages.next_call() is not None and len(missing) < max(left, 1):
                board.pages = max(board.pages or 0, read + 1)
                return
        board.pages = max(read, 1)

    def _index(self, project: str | None) -> dict[Name, list[Watch]]:
        """Find waits by what a row shows."""
        index: dict[Name, list[Watch]] = defaultdict(list)
        for watch in self.board.watches:
            if watch.on_lists(project):
                index[watch.name].append(watch)
        return index

    async def _tell_listed(self, watch: Watch, row: Any) -> None:
        """Tell a wait what a list shows, if that is enough. What wasn't set anywhere may be since the last change."""
        unknown = watch.lists_show_it is None or row.last_modified_at != watch.lacked_at
        if unknown and lacking(row, watch.needs):
            watch.lacked, watch.lacked_at, watch.lists_show_it = True, row.last_modified_at, None
        else:
            await self._tell(watch, row)

    async def _read_one(self, client: Any, watches: list[Watch], project: str | None) -> None:
        """Read one object for all who wait for it. What is wrong with this object is not the others' concern."""
        first = watches[0]
        reading = find(
            client,
            self.board.stream.kind,
            object_id=first.object_id,
            object_key=first.object_key,
            project_id=self.board.stream.project_id,
            needs=frozenset[str]().union(*(watch.needs for watch in watches)),
            archived_too=first.archived_too,
        )
        try:
            found = await client.read(self._counted(reading))
        except PASSING:
            for watch in watches:
                watch.unread_at = now()  # it may be this object alone that can't be read, so others come first
            self._looked.extend(watches)
            raise
        except AmplitudeAuthError:
            raise
        except (AmplitudeError, RolloutRefused) as error:
            if isinstance(error, AmplitudePermissionError) and project:
                raise
            event = error_event(error)
            for watch in watches:
                watch.settle(event)
            return
        for watch in watches:
            if found.deleted:
                watch.lists_show_it = False
            elif watch.lacked and watch.lists_show_it is None:
                watch.lists_show_it = bool(lacking(found, watch.needs))  # neither shows it: it is simply not set
            await self._tell(watch, found)

    def _counted(self, reading: Reading[Any]) -> Reading[Any]:
        """Count the requests of a reading, which may take several."""
        step: Callable[[], Any] = partial(next, reading)
        while True:
            try:
                call = step()
            except StopIteration as done:
                return done.value
            self._requests += 1
            try:
                step = partial(reading.send, (yield call))
            except AmplitudeError as error:
                step = partial(reading.throw, error)

    async def _tell(self, watch: Watch, found: Any) -> None:
        if watch.settled:
            return
        try:
            watch.take(found, now())
        except Exception as error:  # noqa: BLE001 - raised in its own wait; its neighbours go on
            watch.fail(error)
        self._looked.append(watch)
        await self._breathe()

    async def _breathe(self) -> None:
        """Give the event loop its turn now and then."""
        self._budget -= 1
        if self._budget <= 0:
            self._budget = AT_ONCE
            await asyncio.sleep(0)
