"""Waiting, in the triggerer, until Amplitude answers a project's requests again.

For tasks that met a 429 which lasted. Each look is one small read; tasks of one connection and project share it,
and each looks at a moment of its own, so that they neither ask nor start over as one. Apart from the waits for an
object, because nothing is looked for here but an answer.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from datetime import datetime, timedelta
from typing import Any
from weakref import WeakKeyDictionary

from airflow.sdk.exceptions import AirflowRuntimeError
from airflow.triggers.base import BaseTrigger, TriggerEvent

from airflow_amplitude_experiment.operators._run import SHORTEST_WAIT

from ._moments import PASSING, after_failure, now

SHARED_FOR = timedelta(seconds=20)
"""How long one look counts for all tasks of a connection and project; shorter than any pause between two of a task."""

LONGEST_NAP = 3600.0
"""Seconds after which a sleeping wait looks at the clock again, which may have been set, or stood still."""

GOES_ON = (*PASSING, AirflowRuntimeError)
"""What a look may meet without an end to the wait: Amplitude doesn't answer, or Airflow's own API doesn't."""

sleep = asyncio.sleep


class AmplitudeQuotaTrigger(BaseTrigger):
    """Sleeps while Amplitude refuses requests for their number, and resumes the task once it answers.

    The task then does its job from the start, as in another try. Whatever else a look meets, such as a revoked key,
    resumes the task too, so that it fails with the reason itself. A passing error only makes the pauses longer.

    :param amplitude_conn_id: id of the Airflow connection.
    :param project_id: the project whose quota it is; ``None`` for the connection's.
    :param look_at: when to look first, ISO 8601.
    :param failures: how often in a row the task was refused already, for the length of the pauses.
    :param event: what the method that goes on is to be given.
    """

    def __init__(
        self,
        *,
        amplitude_conn_id: str,
        project_id: str | None,
        look_at: str,
        failures: int,
        event: Any = None,
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.amplitude_conn_id = amplitude_conn_id
        self.project_id = project_id
        self.look_at = look_at
        self.failures = failures
        self.event = event

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Return what another triggerer needs to go on: absolute moments, no secret."""
        names = ("amplitude_conn_id", "project_id", "look_at", "failures", "event")
        return f"{type(self).__module__}.{type(self).__qualname__}", {name: getattr(self, name) for name in names}

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Wait, and yield one event: what the task was to be given before it met the quota."""
        failures, day = self.failures, now().date()
        # A triggerer that comes back with hundreds of waits, all due, lets their tasks start one after the other.
        soonest = now() + SHORTEST_WAIT * random.uniform(1, 12)
        look_at = max(datetime.fromisoformat(self.look_at), soonest)
        while True:
            while (left := (look_at - now()).total_seconds()) > 0:
                await sleep(min(left, LONGEST_NAP))
            error = await _door(self.amplitude_conn_id, self.project_id).look()
            if not isinstance(error, GOES_ON):
                break
            moment = now()
            failures, day = (failures + 1 if moment.date() == day else 1), moment.date()  # the quota is the day's
            look_at = after_failure(moment, failures, error)
            self.log.info("%s Still waiting; looking again at %s.", error, f"{look_at:%Y-%m-%d %H:%M:%SZ}")
        if error is None:
            self.log.info("Amplitude answers again. The task starts over.")
        else:
            self.log.warning("%s: %s The task goes on, to meet that itself.", type(error).__name__, error)
        yield TriggerEvent(self.event)  # type: ignore[no-untyped-call]


class _Door:
    """Whether one project can be reached through one connection, asked once for all who want to know."""

    def __init__(self, amplitude_conn_id: str, project_id: str | None) -> None:
        self._amplitude_conn_id = amplitude_conn_id
        self._project_id = project_id
        self._asking = asyncio.Lock()
        self._asked_at: datetime | None = None
        self._met: Exception | None = None

    async def look(self) -> Exception | None:
        """Return what a request meets now, or met a moment ago: an error, or ``None`` for an answer."""
        async with self._asking:
            if self._asked_at is None or not self._asked_at <= now() < self._asked_at + SHARED_FOR:
                self._met = await self._ask()
                self._asked_at = now()
            return self._met

    async def _ask(self) -> Exception | None:
        from airflow_amplitude_experiment.api import flags
        from airflow_amplitude_experiment.hooks.experiment import AmplitudeExperimentHook

        hook = AmplitudeExperimentHook(self._amplitude_conn_id)
        try:
            async with await hook.get_async_conn(paced=False) as client:  # one request: the waiting is done here
                # The older API has no filter by project; there the client would read every page to apply it.
                project = None if client.dialect == "beta" else self._project_id or client.rules.project_id
                await client.send(flags.list(limit=1, project_id=project) if project else flags.list(limit=1))
        except Exception as error:  # noqa: BLE001 - the task meets it too, and says what it is
            return error.with_traceback(None)
        return None


_DOORS: WeakKeyDictionary[asyncio.AbstractEventLoop, dict[tuple[str, str | None], _Door]] = WeakKeyDictionary()


def _door(amplitude_conn_id: str, project_id: str | None) -> _Door:
    """Return the one door to a project in this process; each event loop has its own."""
    doors = _DOORS.setdefault(asyncio.get_running_loop(), {})
    return doors.setdefault((amplitude_conn_id, project_id), _Door(amplitude_conn_id, project_id))
