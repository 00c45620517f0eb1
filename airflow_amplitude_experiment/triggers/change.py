"""Changes made in Amplitude as events that start DAGs.

The trigger belongs to an ``AssetWatcher``. It reads the feed of versions, in which Amplitude notes every change of a
flag or experiment with its author, and fires with the changes of one look together.

Each change is told at least once. The cursor moves along the *server's* dates only, goes a little back each time for
what shows up late, and is kept (where Airflow has a store for it) some seconds after the event, so that a triggerer
that is killed in between tells twice rather than never. Nothing ends the trigger: Airflow starts a watcher that raises
again within a second, for ever and with no wait in between, so every error waits here instead.
"""

from __future__ import annotations

import asyncio
import hashlib
import random
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

from airflow.providers.common.compat.sdk import AirflowException
from airflow.sdk.exceptions import AirflowRuntimeError
from airflow.triggers.base import BaseEventTrigger, TriggerEvent

from airflow_amplitude_experiment.api import (
    AmplitudeError,
    AmplitudeRateLimited,
    AmplitudeUnexpectedAnswer,
    RolloutRefused,
    experiments,
    flags,
    versions,
)
from airflow_amplitude_experiment.rollout import history

from ._moments import PASSING, after_failure, now
from ._what_changed import describe, kind_of

if TYPE_CHECKING:
    from airflow_amplitude_experiment.api.models import FlagConfig, Version
    from airflow_amplitude_experiment.hooks.guard import GuardedAsyncClient

OVERLAP = timedelta(minutes=2)
"""How far each look goes back behind the newest change that was seen, for those that show up late."""

SETTLE = 10.0
"""Seconds from an event until its changes count as told: the triggerer writes events to the database meanwhile."""

PER_EVENT = 50
"""Versions that one event tells at most. It is a row of Airflow's database, and a line of the triggerer's log."""

MOST_REMEMBERED = 500
"""Versions of the overlap that are kept for a restart. Airflow's store is made for values up to 64 KB."""

SHORTEST_INTERVAL = 10.0
AFTER_A_MISTAKE = 300.0
"""Seconds before an error that nobody thought of is handed to Airflow. A restart a second eats the day's quota."""

DETAILS_TRIED = 5
"""Failures in a row after which a change is told without the details that Amplitude fails to give: a quarter of an
hour. One object whose versions it can't show would else hold back the changes of all others for ever."""

WAITING = (AmplitudeError, RolloutRefused, ValueError, AirflowException, AirflowRuntimeError)
"""Everything that is waited for: a network, a key that somebody will mend, Airflow's own API."""

CALLS: dict[str, Any] = {"flag": flags, "experiment": experiments}

sleep = asyncio.sleep


class Cursor:
    """How far the feed has been told. Immutable; all its dates are Amplitude's.

    :param since: the newest change that was seen.
    :param seen: the versions of the overlap that were told, each with its date.
    """

    def __init__(self, since: datetime, seen: Mapping[str, str] | None = None) -> None:
        self.since = since
        self.seen = dict(seen or {})

    @classmethod
    def looking_back(cls, lookback: float) -> Cursor:
        """Return where to begin when nothing is known."""
        return cls(now() - timedelta(seconds=lookback) + OVERLAP)

    @classmethod
    def from_json(cls, value: Any) -> Cursor | None:
        """Read what :meth:`as_json` wrote; anything else is no cursor."""
        try:
            since = datetime.fromisoformat(value["since"])
            return cls(since, value["seen"]) if since.tzinfo else None
        except (KeyError, TypeError, ValueError):
            return None

    def as_json(self) -> dict[str, Any]:
        """Return plain values, for Airflow's store; of very many versions the newest."""
        newest = sorted(self.seen.items(), key=lambda each: each[1])[-MOST_REMEMBERED:]
        return {"since": self.since.isoformat(), "seen": dict(newest)}

    @property
    def start(self) -> datetime:
        """The first moment that the next look asks for."""
        return self.since - OVERLAP

    def fresh(self, found: Iterable[Version]) -> list[Version]:
        """Return the versions that were not told yet, the oldest first."""
        return sorted((each for each in found if identity(each) not in self.seen), key=_position)

    def after(self, told: Iterable[Version]) -> Cursor:
        """Return the cursor once these versions are told."""
        dated = {identity(each): written_at(each) for each in told}
        since = max([self.since, *(date for date in dated.values() if date)])
        seen = {**self.seen, **{name: date.isoformat() if date else "" for name, date in dated.items()}}
        start = since - OVERLAP
        return Cursor(since, {name: at for name, at in seen.items() if not at or datetime.fromisoformat(at) >= start})


class AmplitudeChangeTrigger(BaseEventTrigger):
    """Fires when flags or experiments were changed in Amplitude; for an ``AssetWatcher``.

    One request per look, for however many objects; where something changed, one more per change for the version
    before, and one for the name of an author who is not known yet. An event holds ``{"changes": [...]}``, the oldest
    first, each with ``kind``, ``key``, ``id``, ``project_id``, ``from_version`` (``None``: it was created),
    ``to_version``, ``by``, ``by_name``, ``at``, ``fields`` (``None`` where the version before can't be read) and
    ``text``. No user ids: see :mod:`._what_changed`.

    A change may be told twice; key it by ``project_id``, ``id`` and ``to_version``.

    :param amplitude_conn_id: id of the Airflow connection. It is looked up at each look, so a new key counts at once.
    :param project_id: changes of this project only; default is the connection's, and without one all that the key
        sees.
    :param keys: only objects whose keys match one of these patterns, such as ``checkout-*``.
    :param ignore_modified_by: authors whose changes are not told: what ``by`` or ``by_name`` of an event shows.
    :param interval: seconds (or a timedelta) between looks, at least 10; 60 are 1,440 requests a day.
    :param lookback: how far back to begin where Airflow keeps no cursor (before 3.3, and the first time): seconds or
        a timedelta.

    Source: Management API, "Version endpoints" (list versions).
    """

    def __init__(
        self,
        *,
        amplitude_conn_id: str = "amplitude_experiment_default",
        project_id: str | int | None = None,
        keys: Sequence[str] = (),
        ignore_modified_by: Sequence[str] = (),
        interval: float | timedelta = 60.0,
        lookback: float | timedelta = 600.0,
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.amplitude_conn_id = amplitude_conn_id
        self.project_id = None if project_id is None else str(project_id)
        self.keys = _texts("keys", keys)
        self.ignore_modified_by = _texts("ignore_modified_by", ignore_modified_by)
        self.interval = _seconds("interval", interval, SHORTEST_INTERVAL)
        self.lookback = _seconds("lookback", lookback, 0.0)
        self._names: dict[str, str] = {}
        self._failures = 0

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Return what a triggerer needs: texts and numbers, no secret, the same at each parse of the DAG file."""
        names = ("amplitude_conn_id", "project_id", "keys", "ignore_modified_by", "interval", "lookback")
        return f"{type(self).__module__}.{type(self).__qualname__}", {name: getattr(self, name) for name in names}

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Look for ever, and yield an event for the changes of each look that saw some."""
        cursor = None
        while True:
            try:
                if cursor is None:
                    cursor = await self._begin()
                found = await self._look(cursor)
                fresh = cursor.fresh(found)
                for first in range(0, len(fresh), PER_EVENT):
                    part = fresh[first : first + PER_EVENT]
                    if changes := await self._changes(part, found):
                        yield TriggerEvent({"changes": changes})  # type: ignore[no-untyped-call]
                        await sleep(SETTLE)
                    cursor = cursor.after(part)
                    await self._keep(cursor)
                self._recovered()
                wait = self.interval * random.uniform(0.9, 1.1)
            except WAITING as error:
                wait = self._failed(error)
            except Exception:  # a mistake of ours: Airflow starts it again at once, so the pause is here
                self.log.exception("The watch of changes in Amplitude ends, and starts anew in %g s", AFTER_A_MISTAKE)
                await sleep(AFTER_A_MISTAKE)
                raise
            await sleep(wait)

    # --- looking ---------------------------------------------------------------------------------------------

    async def _look(self, cursor: Cursor) -> list[Version]:
        """Read the feed, with a client of its own: the key may change between looks, and no socket is held.

        The feed is read over all projects and filtered here, so that the cursor also moves on where others work.
        """
        async with await self._client() as client:
            return [each async for each in client.iterate(versions.list(start=_text(cursor.start)))]

    async def _client(self) -> GuardedAsyncClient:
        from airflow_amplitude_experiment.hooks.experiment import AmplitudeExperimentHook

        return await AmplitudeExperimentHook(self.amplitude_conn_id).get_async_conn()

    async def _changes(self, fresh: Sequence[Version], found: Sequence[Version]) -> list[dict[str, Any]]:
        """Return what is to be told of some new versions."""
        known = {identity(each): each.flag_config for each in found}
        changes = []
        async with await self._client() as client:
            project = self.project_id or client.rules.project_id
            for version in (each for each in fresh if self._is_meant(each, project)):
                name = await self._name(client, version, known)
                if not self._is_ignored(name):
                    kind, before = await self._before(client, version, known)
                    changes.append(describe(version, before, kind=kind, at=_at(version), by_name=name))
        if left_out := len(fresh) - len(changes):
            self.log.info("%s new versions in Amplitude, %s of them ignored or not meant", len(fresh), left_out)
        return changes

    def _is_meant(self, version: Version, project_id: str | None) -> bool:
        config = version.flag_config
        if project_id and config.project_id and config.project_id != project_id:
            return False
        if self._is_ignored(version.created_by):
            return False
        return not self.keys or any(fnmatchcase(config.key or "", pattern) for pattern in self.keys)

    def _is_ignored(self, author: str | None) -> bool:
        return (author or "").strip().casefold() in {each.casefold() for each in self.ignore_modified_by}

    async def _name(self, client: GuardedAsyncClient, version: Version, known: Mapping[str, FlagConfig]) -> str | None:
        """Return an author's name. Versions show an id (A12), and lists the name of who changed an object last."""
        author, config = version.created_by, version.flag_config
        if not author or "@" in author:
            return author
        if author not in self._names and config.key and _identity(config, version.version + 1) not in known:
            filters = {"project_id": config.project_id} if config.project_id else {}
            with self._forgiving():
                async for each in client.iterate(CALLS[kind_of(config)].list(key=config.key, **filters)):
                    if each.id == config.id and each.last_modified_by and _same_moment(each, version):
                        self._names[author] = each.last_modified_by
        return self._names.get(author)

    async def _before(
        self, client: GuardedAsyncClient, version: Version, known: Mapping[str, FlagConfig]
    ) -> tuple[str, FlagConfig | None]:
        """Return an object's kind and how it was a version before; one request where the feed didn't hold that."""
        config, number = version.flag_config, version.version - 1
        kind = kind_of(config)
        if number < 1 or not config.id:
            return kind, None
        if held := known.get(_identity(config, number)):
            return kind, held
        for each in sorted(CALLS, key=lambda name: name != kind):  # what it looks like first
            with self._forgiving():
                return each, (await client.send(CALLS[each].version(config.id, str(number)))).flag_config
        return kind, None

    @contextmanager
    def _forgiving(self) -> Iterator[None]:
        """Do without what can't be read. A passing error is waited for like any other, but not for ever."""
        try:
            yield
        except PASSING as error:
            lasts = self._failures >= DETAILS_TRIED and not isinstance(error, AmplitudeRateLimited)
            if not (lasts or isinstance(error, AmplitudeUnexpectedAnswer)):
                raise
            self.log.warning("A change in Amplitude is told without what can't be read of it: %s", error)
        except AmplitudeError:
            pass

    # --- the cursor ------------------------------------------------------------------------------------------

    async def _begin(self) -> Cursor:
        """Return where an earlier triggerer stopped, or where to begin."""
        kept = [Cursor.from_json(await store.aget(self._store_key)) for store in self._stores()]
        found = [cursor for cursor in kept if cursor]
        cursor = min(found, key=lambda each: each.since) if found else Cursor.looking_back(self.lookback)
        self.log.info(
            "Watching changes in Amplitude through connection %s since %s%s",
            self.amplitude_conn_id,
            _text(cursor.start),
            "" if found else f" ({self.lookback:g} s ago; no earlier watch has left a cursor)",
        )
        if not found:
            await self._keep(cursor)
        return cursor

    async def _keep(self, cursor: Cursor) -> None:
        """Keep the cursor where Airflow can. What fails here may tell a change twice, and nothing else."""
        try:
            for store in self._stores():
                await store.aset(self._store_key, cursor.as_json())
        except WAITING as error:
            self.log.warning("Airflow keeps no cursor: %s. A restart would tell some changes again.", error)

    def _stores(self) -> list[Any]:
        """Return the state stores of the watched assets; none before Airflow 3.3, and outside of a triggerer."""
        stores = getattr(self, "asset_state_store", None)
        if stores is None:
            return []
        # Of several assets Airflow wants to be told which; a trigger isn't told which there are.
        return [each for name in ("_by_name", "_by_uri") for each in getattr(stores, name, {}).values()] or [stores]

    @property
    def _store_key(self) -> str:
        """What tells apart the cursors of two watchers of one asset."""
        what = repr((self.amplitude_conn_id, self.project_id, self.keys))
        return f"amplitude_changes_{hashlib.sha256(what.encode()).hexdigest()[:16]}"

    # --- failing ---------------------------------------------------------------------------------------------

    def _failed(self, error: Exception) -> float:
        """Say what is wrong and how long it waits; louder for what only a person can mend."""
        self._failures += 1
        moment = now()
        again = after_failure(moment, self._failures, error)
        say = self.log.warning if isinstance(error, PASSING) else self.log.error
        say(
            "Changes in Amplitude can't be read through connection %s (%s in a row): %s: %s Looking again at %s; what "
            "changed meanwhile is told then.",
            self.amplitude_conn_id,
            self._failures,
            type(error).__name__,
            error,
            _text(again),
        )
        return (again - moment).total_seconds()

    def _recovered(self) -> None:
        if self._failures:
            self.log.info("Changes in Amplitude can be read again, after %s failures", self._failures)
        self._failures = 0


def identity(version: Version) -> str:
    """Return what tells one version from all others."""
    return _identity(version.flag_config, version.version)


def _identity(config: FlagConfig, number: int) -> str:
    return f"{config.project_id}/{config.id or config.key}/{number}"


def written_at(version: Version) -> datetime | None:
    """Return when a version was written, in UTC; ``None`` where the API doesn't say so, or not in a way to read."""
    try:
        return history.written_at(version)
    except ValueError:
        return None


def _position(version: Version) -> tuple[datetime, int]:
    return written_at(version) or datetime.max.replace(tzinfo=UTC), version.version


def _same_moment(found: Any, version: Version) -> bool:
    """Whether an object was changed last by this version."""
    at = written_at(version)
    try:
        last = datetime.fromisoformat(found.last_modified_at or "")
    except ValueError:
        return False
    return at is not None and last.tzinfo is not None and abs(last - at) <= timedelta(seconds=1)


def _at(version: Version) -> str | None:
    moment = written_at(version)
    return None if moment is None else _text(moment)


def _text(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _texts(name: str, values: Any) -> list[str]:
    """Return a list of texts, sorted: Airflow knows a watcher's trigger by its arguments.

    :raises ValueError: one text, where every letter would count, or something that is no text.
    """
    listed = isinstance(values, Iterable) and not isinstance(values, str)
    if not listed or not all(isinstance(each, str | int) and str(each).strip() for each in values):
        raise ValueError(f"{name} is {values!r}, but must be a list of texts")
    return sorted({str(each).strip() for each in values})


def _seconds(name: str, value: Any, least: float) -> float:
    """Return a duration in seconds.

    :raises ValueError: it is none, or too short.
    """
    seconds = value.total_seconds() if isinstance(value, timedelta) else value
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not least <= seconds < float("inf"):
        raise ValueError(f"{name} is {value!r}, but must be seconds or a timedelta, at least {least:g} seconds")
    return float(seconds)
