"""Waiting until an experiment's end date has passed.

The pure part says what an experiment, as it was just read, means for the wait; the sensor's first look and the
trigger's later ones share it. The trigger keeps nothing but absolute moments, so a triggerer that takes it over goes
on where the other one stopped.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from datetime import UTC, datetime, time, timedelta
from typing import TYPE_CHECKING, Any

from airflow.providers.common.compat.sdk import AirflowNotFoundException
from airflow.triggers.base import BaseTrigger, TriggerEvent

from airflow_amplitude_experiment.api import (
    AmplitudeConnectionError,
    AmplitudeError,
    AmplitudeRateLimited,
    AmplitudeServerError,
    AmplitudeUnexpectedAnswer,
    RolloutRefused,
    experiments,
)

from ._events import error_event

if TYPE_CHECKING:
    from airflow_amplitude_experiment.api.models import Experiment
    from airflow_amplitude_experiment.hooks.guard import Reading

PASSING = (AmplitudeConnectionError, AmplitudeRateLimited, AmplitudeServerError, AmplitudeUnexpectedAnswer)
"""Errors that may pass. They never end a wait by themselves."""

LOOKUPS = 5
"""How often in a row a connection that was there may not be found, before that is believed."""

FIELDS = ("key", "id", "ended_at", "looked_at")

sleep = asyncio.sleep


def now() -> datetime:
    """Tell the time, in UTC."""
    return datetime.now(UTC)


def find(client: Any, *, experiment_id: str | None, experiment_key: str | None, project_id: str | None) -> Reading[Any]:
    """Read the experiment with its end date; by its id alone once id and key are both known.

    :raises RolloutRefused: it is archived, or its project isn't the one that is named.
    :raises AmplitudeNotFound: there is no such experiment.
    """
    from airflow_amplitude_experiment.hooks.lookup import by_id, by_key
    from airflow_amplitude_experiment.operators._base import project_named

    if experiment_id and experiment_key:
        return (yield experiments.get(experiment_id))
    project = project_named(project_id, client.rules.project_id)
    if experiment_id:
        return (yield from by_id("experiment", experiment_id, project))
    found = yield from by_key("experiment", str(experiment_key), project)
    return found if found.has("end_date") else (yield experiments.get(found.id))


def end_of(found: Experiment, on_missing: str) -> datetime | None:
    """Return when an experiment ends, ``None`` where it has no end date and that is to be waited for.

    :raises RolloutRefused: it will never end: archived, no end date, or one that is no date.
    """
    what = f"Experiment {found.key} ({found.id})"
    if found.deleted:
        raise RolloutRefused(f"{what} is archived, so its end is not waited for. Restore it, or drop this task.")
    try:
        ends_at = found.ends_at
    except ValueError as error:
        raise RolloutRefused(f"{what} has the end date {found.end_date!r}, which is no date.") from error
    if ends_at is None and on_missing == "fail":
        raise RolloutRefused(
            f"{what} has no end date. Set one in Amplitude, or pass on_missing='wait' to wait until there is one."
        )
    return ends_at


def ended(found: Experiment, ends_at: datetime | None, moment: datetime) -> dict[str, Any] | None:
    """Return the record of an experiment whose end has passed, ``None`` where it has not."""
    if ends_at is None or ends_at > moment:
        return None
    return {
        "key": found.key,
        "id": found.id,
        "ended_at": ends_at.isoformat(),
        "looked_at": moment.isoformat(timespec="seconds"),
    }


def waiting_for(found: Experiment, ends_at: datetime | None, interval: float) -> str:
    """Say what is waited for, and how often it is looked at."""
    ends = f"ends at {ends_at:%Y-%m-%d %H:%MZ}" if ends_at else "has no end date yet"
    often = f"{interval / 60:g} min" if interval >= 60 else f"{interval:g} s"
    return f"Experiment {found.key} ({found.id}) {ends}; looking again every {often}"


def next_look(moment: datetime, recheck: float) -> datetime:
    """Return when to look again; a little early, each time another little, so that waits don't look as one."""
    return moment + timedelta(seconds=recheck * random.uniform(0.9, 1.0))


def after_failure(moment: datetime, failures: int, error: Exception) -> datetime:
    """Return when to look again after so many failures in a row.

    A 429 that outlasts the client's own patience is the day's quota: 5 minutes doubling to an hour, and at the
    latest within 5 minutes of the next 00:00 UTC. Anything else: half a minute doubling to a quarter of an hour.
    """
    limited = isinstance(error, AmplitudeRateLimited)
    first, longest = (300, 3600) if limited else (30, 900)
    own = min(first * 2 ** min(failures - 1, 10), longest) * random.uniform(0.75, 1.25)
    asked = min(getattr(error, "retry_after", None) or 0, 3600)
    again = moment + timedelta(seconds=max(own, asked))
    if not limited:
        return again
    midnight = datetime.combine(moment.date() + timedelta(days=1), time.min, UTC)
    return min(again, midnight + timedelta(seconds=random.uniform(1, 300)))


class AmplitudeEndDateTrigger(BaseTrigger):
    """Sleeps until an experiment's end date, looks again meanwhile because people move dates, and once at the end.

    One request per look once the experiment's id and key are both known; with only one of them, the first look finds
    it. A passing error delays the next look and never ends the wait; one that can't heal is sent as an event.

    :param experiment_id: the experiment's id.
    :param experiment_key: its key.
    :param project_id: its project, for the first look.
    :param ends_at: when it ends as far as is known, ISO 8601; ``None`` where it has no end date.
    :param next_look: when to look at it again at the latest, ISO 8601.
    :param recheck: seconds between later looks.
    :param on_missing: ``fail`` or ``wait``, where the end date is missing.
    :param amplitude_conn_id: id of the Airflow connection.
    """

    def __init__(
        self,
        *,
        amplitude_conn_id: str,
        next_look: str,
        recheck: float,
        on_missing: str,
        experiment_id: str | None = None,
        experiment_key: str | None = None,
        project_id: str | None = None,
        ends_at: str | None = None,
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.amplitude_conn_id = amplitude_conn_id
        self.next_look = next_look
        self.recheck = recheck
        self.on_missing = on_missing
        self.experiment_id = experiment_id
        self.experiment_key = experiment_key
        self.project_id = project_id
        self.ends_at = ends_at

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Return what another triggerer needs to go on: texts and numbers, no secret."""
        names = ("amplitude_conn_id", "next_look", "recheck", "on_missing")
        maybe = ("experiment_id", "experiment_key", "project_id", "ends_at")
        values = {name: getattr(self, name) for name in (*names, *maybe)}
        return (
            f"{type(self).__module__}.{type(self).__qualname__}",
            {name: value for name, value in values.items() if value is not None},
        )

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Wait, and yield one event: the record, or the error that ended the wait."""
        try:
            event = await self._wait()
        except (AmplitudeError, RolloutRefused, ValueError) as error:
            event = error_event(error)
        yield TriggerEvent(event)  # type: ignore[no-untyped-call]

    async def _wait(self) -> dict[str, Any]:
        ends_at = datetime.fromisoformat(self.ends_at) if self.ends_at else None
        wake = _earlier(ends_at, datetime.fromisoformat(self.next_look))
        failures, connected = 0, False
        while True:
            while (left := (wake - now()).total_seconds()) > 0:
                await sleep(left)
            try:
                found = await self._look()
            except (*PASSING, AirflowNotFoundException) as error:
                failures += 1
                if isinstance(error, AirflowNotFoundException) and (not connected or failures > LOOKUPS):
                    raise
                wake = after_failure(now(), failures, error)
                if failures == 1:
                    self.log.warning("%s The wait goes on; looking again at %s.", error, f"{wake:%Y-%m-%d %H:%M:%SZ}")
                continue
            failures, connected = 0, True
            before, ends_at = ends_at, end_of(found, self.on_missing)
            if record := ended(found, ends_at, now()):
                return record
            if not (self.experiment_id and self.experiment_key):
                self.log.info(waiting_for(found, ends_at, self.recheck))
            elif ends_at != before:
                self.log.info("Experiment %s: the end date moved from %s to %s", found.key, before, ends_at)
            self.experiment_id, self.experiment_key = found.id, found.key
            wake = _earlier(ends_at, next_look(now(), self.recheck))

    async def _look(self) -> Any:
        """Look once, with a client of its own: in the weeks of a wait the key may change, and no socket is held."""
        from airflow_amplitude_experiment.hooks.experiment import AmplitudeExperimentHook

        names = {"experiment_id": self.experiment_id, "experiment_key": self.experiment_key}
        async with await AmplitudeExperimentHook(self.amplitude_conn_id).get_async_conn() as client:
            return await client.read(find(client, **names, project_id=self.project_id))


def _earlier(ends_at: datetime | None, look: datetime) -> datetime:
    return look if ends_at is None else min(ends_at, look)
