"""What the triggers of waiting tasks share: what they keep, and how they come by their news.

Where Airflow offers shared streams (3.3), it hosts one poll for all waits of a connection, project and kind in a
triggerer. Elsewhere it calls ``run()`` of each, and one of them drives the same poll for the others; when it leaves,
the next takes over, and so it is where Airflow's host is gone or not there yet. Either way a task learns the same, and
a triggerer that starts anew finds all it needs in what was kept: absolute moments, texts and numbers.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import AsyncIterator, Hashable
from datetime import datetime
from typing import Any

from airflow.triggers.base import BaseEventTrigger, TriggerEvent

from ._board import Board, Stream, Watch, hosting, waiting
from ._events import error_event
from ._moments import ALONE, SHARED
from ._poll import Poll
from ._verdict import Verdict


class AmplitudeWaitTrigger(BaseEventTrigger):
    """Base of the triggers that wait for something of a flag or experiment, and fire once.

    :param amplitude_conn_id: id of the Airflow connection.
    :param kind: ``flag`` or ``experiment``.
    :param next_look: when to look at it again at the latest, ISO 8601.
    :param object_id, object_key: the object; the first look finds the one that is missing.
    :param project_id: its project.
    :param interval: seconds between later looks; ``None`` for as often as a small share of the quota allows.
    :param matters_at: when it may be over although nobody changes the object, ISO 8601.
    """

    supports_triggerer_queue = True  # Airflow's default for event triggers would keep a queue's triggerer from it

    def __init__(
        self,
        *,
        amplitude_conn_id: str,
        kind: str,
        next_look: str,
        object_id: str | None = None,
        object_key: str | None = None,
        project_id: str | None = None,
        interval: float | None = None,
        matters_at: str | None = None,
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.amplitude_conn_id = amplitude_conn_id
        self.kind = kind
        self.next_look = next_look
        self.object_id = object_id
        self.object_key = object_key
        self.project_id = project_id
        self.interval = interval
        self.matters_at = matters_at

    @abstractmethod
    def condition(self) -> dict[str, Any]:
        """Return what is waited for, as the arguments that this kind of trigger has beside the others."""

    @abstractmethod
    def judge(self, found: Any, moment: datetime) -> Verdict:
        """Say what the object, as it was just read, means for the wait.

        :raises RolloutRefused: it will never be over.
        """

    @property
    def needs(self) -> frozenset[str]:
        """Fields, in snake_case, that :meth:`judge` reads."""
        return frozenset()

    @property
    def archived_too(self) -> bool:
        """Whether an archived object can be waited for."""
        return False

    @property
    def stream(self) -> Stream:
        """What its poll reads."""
        return Stream(self.amplitude_conn_id, self.project_id, self.kind)

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Return what another triggerer needs to go on: texts and numbers, no secret."""
        names = ("amplitude_conn_id", "kind", "next_look", "object_id", "object_key", "project_id", "interval")
        values = {name: getattr(self, name) for name in (*names, "matters_at")} | self.condition()
        kept = {name: value for name, value in values.items() if value is not None}
        return f"{type(self).__module__}.{type(self).__qualname__}", kept

    def shared_stream_key(self) -> Hashable:
        """Name the poll that this wait shares. It holds no secret."""
        return self.stream.key

    @classmethod
    async def open_shared_stream(cls, kwargs: dict[str, Any]) -> AsyncIterator[Any]:
        """Poll for all waits of the stream, for ever. They get their news from the board, so nothing is yielded."""
        with hosting(cls(**kwargs).stream) as board:
            poll = _poll(board, at_least=SHARED)
            while True:
                await poll.step()
        yield

    def filter_shared_stream(self, shared_stream: AsyncIterator[Any]) -> AsyncIterator[TriggerEvent]:
        """Wait beside the poll that Airflow hosts, and yield one event."""
        return self._wait(at_least=SHARED)

    def run(self) -> AsyncIterator[TriggerEvent]:
        """Wait without Airflow's help, and yield one event: the record, or the error that ended the wait."""
        return self._wait(at_least=ALONE)

    async def _wait(self, *, at_least: float) -> AsyncIterator[TriggerEvent]:
        try:
            watch = self._watch()
        except ValueError as error:  # what was kept can't be meant, as another version of this package may say
            yield TriggerEvent(error_event(error))  # type: ignore[no-untyped-call]
            return
        with waiting(self.stream, watch) as board:
            while not watch.settled:
                if board.drives(watch):
                    await _poll(board, at_least=at_least).step()
                else:
                    await watch.news()
                for text in watch.told():
                    self.log.info(text)
        await watch.rest()
        if watch.failure:
            raise watch.failure.with_traceback(None)  # it may be raised in thousands of waits
        yield TriggerEvent(watch.event)  # type: ignore[no-untyped-call]

    def _watch(self) -> Watch:
        return Watch(
            self.judge,
            datetime.fromisoformat(self.next_look),
            object_id=self.object_id,
            object_key=self.object_key,
            needs=self.needs,
            matters_at=datetime.fromisoformat(self.matters_at) if self.matters_at else None,
            interval=self.interval,
            archived_too=self.archived_too,
        )


def _poll(board: Board, *, at_least: float) -> Poll:
    from airflow_amplitude_experiment.hooks.experiment import AmplitudeExperimentHook

    hook = AmplitudeExperimentHook(board.stream.amplitude_conn_id)
    return Poll(board, hook.get_async_conn, at_least=at_least)
