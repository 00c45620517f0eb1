"""Waiting until an exported cohort is ready.

What a look means is pure, and shared by the trigger and by the task that waits in its own worker. The trigger only
looks: it asks for no export, which counts as one of the month's downloads, so that a triggerer may take it over at
any moment. It keeps nothing but the export's id and absolute moments.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import datetime, timedelta
from typing import Any

from airflow.providers.common.compat.sdk import AirflowNotFoundException
from airflow.triggers.base import BaseTrigger, TriggerEvent

from airflow_amplitude_experiment.api import AmplitudeError
from airflow_amplitude_experiment.hooks._analytics_reading import IN_PROGRESS

from ._events import error_event
from ._moments import LOOKUPS, PASSING, after_failure, now

FIELDS = ("request_id", "requested_at", "status", "until")

sleep = asyncio.sleep


class Wait:
    """When to look at an export, and what ends the wait. Pure but for the clock.

    :param look_at: the first look.
    :param until: the wait ends here, whatever the export is.
    :param interval: seconds between later looks.
    """

    def __init__(self, *, look_at: datetime, until: datetime, interval: float) -> None:
        self.look_at = min(look_at, until)
        self._until, self._interval = until, interval
        self.failures = 0

    @property
    def left(self) -> float:
        """Seconds until the next look."""
        return (self.look_at - now()).total_seconds()

    def over(self, status: str) -> bool:
        """Take what a look saw; say whether the wait is over: the export is not in progress, or it took too long."""
        self.failures = 0
        if status != IN_PROGRESS or now() >= self._until:
            return True
        self.look_at = min(now() + timedelta(seconds=self._interval), self._until)
        return False

    def failed(self, error: Exception) -> None:
        """Take a look that failed in passing. Once the time is up, that is what ended the wait.

        :raises Exception: the error; nobody knows how the export stands.
        """
        self.failures += 1
        if now() >= self._until:
            raise error
        self.look_at = min(after_failure(now(), self.failures, error), self._until)


class AmplitudeCohortTrigger(BaseTrigger):
    """Sleeps while an export is in progress, and fires when it is something else, or when the time is up.

    One request per look. A passing error delays the next look; one that can't heal is sent as an event, and so is one
    that hasn't passed when the time is up. Without an export it fires at ``look_at``, for a task that has to wait
    before it may ask for one.

    :param amplitude_analytics_conn_id: id of the Airflow connection.
    :param request_id: the export; ``None`` where there is none yet.
    :param requested_at: when it was asked for, ISO 8601; travels with the event.
    :param look_at: when to look first, ISO 8601.
    :param until: when the wait ends, ISO 8601.
    :param interval: seconds between looks.
    """

    def __init__(
        self,
        *,
        amplitude_analytics_conn_id: str,
        request_id: str | None,
        requested_at: str | None,
        look_at: str,
        until: str,
        interval: float,
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.amplitude_analytics_conn_id = amplitude_analytics_conn_id
        self.request_id = request_id
        self.requested_at = requested_at
        self.look_at = look_at
        self.until = until
        self.interval = interval

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Return what another triggerer needs to go on: texts and numbers, no secret."""
        names = ("amplitude_analytics_conn_id", "request_id", "requested_at", "look_at", "until", "interval")
        return f"{type(self).__module__}.{type(self).__qualname__}", {name: getattr(self, name) for name in names}

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Wait, and yield one event: how the export stands, or the error that ended the wait."""
        try:
            status = await self._wait()
            event = {
                "request_id": self.request_id,
                "requested_at": self.requested_at,
                "status": status,
                "until": self.until,
            }
        except (AmplitudeError, ValueError) as error:
            event = error_event(error)
        yield TriggerEvent(event)  # type: ignore[no-untyped-call]

    async def _wait(self) -> str | None:
        look_at, until = datetime.fromisoformat(self.look_at), datetime.fromisoformat(self.until)
        wait, connected = Wait(look_at=look_at, until=until, interval=self.interval), False
        while True:
            while (left := wait.left) > 0:
                await sleep(left)
            if self.request_id is None:
                return None
            try:
                status = await self._look(self.request_id)
            except (*PASSING, AirflowNotFoundException) as error:
                wait.failed(error)
                if isinstance(error, AirflowNotFoundException) and (not connected or wait.failures > LOOKUPS):
                    raise
                if wait.failures == 1:
                    self.log.warning(
                        "%s The wait goes on; looking again at %s.", error, f"{wait.look_at:%Y-%m-%d %H:%M:%SZ}"
                    )
            else:
                connected = True
                if wait.over(status):
                    return status

    async def _look(self, request_id: str) -> str:
        """Look once, with a client of its own: the key may change meanwhile, and no socket is held."""
        from airflow_amplitude_experiment.hooks import _cohort_request as request
        from airflow_amplitude_experiment.hooks.analytics import AmplitudeAnalyticsHook

        async with await AmplitudeAnalyticsHook(self.amplitude_analytics_conn_id).get_async_conn() as client:
            return await client.ask(request.status(request_id))
