"""Clients that keep to a connection's rules, whatever sends a call through them.

What is read and decided before a write is one generator: it yields the calls to read with and is driven by the
sync client and by the async one alike.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Iterator
from typing import Any, TypeVar

from asgiref.sync import sync_to_async

from airflow_amplitude_experiment.api import (
    AmplitudeError,
    AmplitudeNotFound,
    AmplitudeReadOnly,
    Call,
    RolloutRefused,
    deployments,
)
from airflow_amplitude_experiment.api._client import AsyncClient, Client
from airflow_amplitude_experiment.api.errors import cut
from airflow_amplitude_experiment.api.models import Page

from .freeze import Freeze
from .moves import completed, lets_in, moves, own_rises, rises_above_standing
from .projects import CALLS, listed, refuse_id_in_several_projects
from .projects import Reading as Reading
from .rules import Rules
from .write import Write, name_of

T = TypeVar("T")
log = logging.getLogger(__name__)


class GuardedClient(Client):
    """A client that refuses what its connection's rules forbid, and logs every change before it is sent."""

    def __init__(self, api_key: str, *, rules: Rules, **options: Any) -> None:
        super().__init__(api_key, **options)
        self._rules = rules
        self.told: set[str] = set()  # what the log says is being sent

    @property
    def rules(self) -> Rules:
        """The connection's rules; they can't be taken off a client."""
        return self._rules

    def send(self, call: Call[T], *, reason: str | None = None, found: Any = None, way_down: bool = False) -> T:
        """Send one call, if the rules allow it.

        :param reason: why; required for changes where the connection says so.
        :param found: the object as just read; without it the rules read it first where they need it.
        :param way_down: a kill or a rollback, which only ``read_only`` can stop. It can't go up. Where it ends at
            0 % or off and ``found`` is not given, nothing is read first: reading may be what fails.
        :raises RolloutRefused: a rule or the freeze forbids it; nothing was sent.
        :raises AirflowException: it goes up, and whether it is frozen can't be read.
        :raises AmplitudeReadOnly: the connection is read-only; what would be sent stands in the log.
        """
        if call.writes:
            freeze = Freeze() if way_down else Freeze.now()
            self.read(guard(self, call, reason=reason, found=found, way_down=way_down, freeze=freeze))
        return super().send(call)

    def iterate(self, call: Call[Page[T]]) -> Iterator[T]:
        """Yield every object of a list, following its pages; each object once."""
        _refuse_to_write(call)
        return super().iterate(call)

    def read(self, reading: Reading[T]) -> T:
        """Send the calls that a reading asks for and return what it comes to. A reading can't write."""
        answer: Any = None
        failure: AmplitudeError | None = None
        while True:
            try:
                call = reading.throw(failure) if failure else reading.send(answer)
            except StopIteration as done:
                result: T = done.value
                return result
            _refuse_to_write(call)
            try:
                answer, failure = super().send(call), None
            except AmplitudeError as error:
                failure = error


class GuardedAsyncClient(AsyncClient):
    """The same for ``async`` code."""

    def __init__(self, api_key: str, *, rules: Rules, **options: Any) -> None:
        super().__init__(api_key, **options)
        self._rules = rules
        self.told: set[str] = set()  # what the log says is being sent

    @property
    def rules(self) -> Rules:
        """The connection's rules; they can't be taken off a client."""
        return self._rules

    async def send(self, call: Call[T], *, reason: str | None = None, found: Any = None, way_down: bool = False) -> T:
        """Send one call, if the rules allow it; as :meth:`GuardedClient.send`."""
        if call.writes:
            freeze = Freeze() if way_down else await sync_to_async(Freeze.now)()
            await self.read(guard(self, call, reason=reason, found=found, way_down=way_down, freeze=freeze))
        return await super().send(call)

    def iterate(self, call: Call[Page[T]]) -> AsyncIterator[T]:
        """Yield every object of a list, following its pages; each object once."""
        _refuse_to_write(call)
        return super().iterate(call)

    async def read(self, reading: Reading[T]) -> T:
        """Send the calls that a reading asks for and return what it comes to. A reading can't write."""
        answer: Any = None
        failure: AmplitudeError | None = None
        while True:
            try:
                call = reading.throw(failure) if failure else reading.send(answer)
            except StopIteration as done:
                result: T = done.value
                return result
            _refuse_to_write(call)
            try:
                answer, failure = await super().send(call), None
            except AmplitudeError as error:
                failure = error


def _refuse_to_write(call: Call[Any]) -> None:
    if call.writes:
        raise TypeError(f"{call.endpoint} changes something; only send() does that, within the connection's rules")


def guard(
    client: GuardedClient | GuardedAsyncClient,
    call: Call[Any],
    *,
    reason: str | None,
    found: Any,
    way_down: bool,
    freeze: Freeze,
) -> Reading[None]:
    """Check a write against the rules and the freeze, and log it; yields what has to be read for that."""
    rules, write = client.rules, Write.of(call, dialect=client.dialect)
    if way_down:
        write.refuse_more_than_down()
    else:
        rules.check_reason(reason, write.in_words(found))
    if found is not None or not (way_down and write.ends_at_nothing):
        found = yield from object_of(write, rules, found)
        rules.check_project(write.project_of(found), write.in_words(found))
        yield from (_check_down(write, found) if way_down else _check_rules(write, rules, freeze, found))
    line = f"{write.shown()}{_where(client, found)}{f', reason: {cut(reason)}' if reason else ''}"
    if rules.mode == "read_only":
        log.info("Read-only connection, would send %s", line)
        raise AmplitudeReadOnly(
            f"{write.in_words(found)}: the connection is read-only. Nothing was sent; the log says what would be."
        )
    again = way_down and line in client.told  # a way down is tried every few seconds, and told once
    client.told.add(line)
    log.log(logging.DEBUG if again else logging.INFO, "Sending %s", line)


def object_of(write: Write, rules: Rules, found: Any = None) -> Reading[Any]:
    """Return the object that a write changes, ``None`` where it creates one."""
    if write.creates:
        return None
    if found is not None:
        if str(found.id) != write.object_id:
            raise ValueError(f"found is the object with the id {found.id}, but the call changes {write.object_id}")
        return found
    found = yield from (_deployment(write.object_id) if write.kind == "deployments" else _details(write))
    if rules.project_id is None:
        what = f"{write.kind} id {write.object_id}"
        yield from refuse_id_in_several_projects(what, write.kind, found.project_id)
    return found


def _details(write: Write) -> Reading[Any]:
    return (yield CALLS[write.kind].get(write.object_id))


def _deployment(wanted: str) -> Reading[Any]:
    for deployment in (yield from listed(deployments.list())):
        if deployment.id == wanted:
            return deployment
    raise AmplitudeNotFound(f"there is no deployment {wanted} that this key can see", method="GET", path="deployments")


def _check_rules(write: Write, rules: Rules, freeze: Freeze, found: Any) -> Reading[None]:
    """Refuse what the rules on keys and percentages forbid, and what raises a frozen object."""
    what = write.in_words(found)
    keys = write.keys(found)
    for key in keys:
        rules.check_key(key, what)
    if write.is_on_toggle:
        if rules.limit_percentages or any(map(freeze.may_name, keys)):
            whole = None if found is None else (yield from completed(write, found))
            rises = list(own_rises(write.function, write.arguments, whole))
            rules.check_rises(rises, what)
            for key in keys:
                freeze.check_rises(key, [*rises, *lets_in(write.function, write.arguments, whole)], what)
    elif rules.name_keys or rules.limit_percentages or freeze.may_name_something:
        for move in (yield from moves(write, found)):
            behind = f"{what}, which moves the traffic of {move.found.key}"
            rules.check_key(move.found.key, behind)
            rises = list(move.rises())
            rules.check_rises(rises, behind)
            freeze.check_rises(move.found.key, rises, behind)


def _check_down(write: Write, found: Any) -> Reading[None]:
    """Refuse a way down that goes up; what a connection's limits say does not matter here."""
    if not write.ends_at_nothing:
        whole = yield from completed(write, found)
        for rise in rises_above_standing(write.function, write.arguments, whole):
            raise RolloutRefused(f"{write.in_words(found)}: a way down never goes up, but {rise}. Nothing was sent.")


def _where(client: GuardedClient | GuardedAsyncClient, found: Any) -> str:
    """Name the object, the project, the environment, and a base URL that isn't Amplitude's."""
    name = name_of(found)
    project = getattr(found, "project_id", None) or client.rules.project_id
    parts = [
        f" for {name}" if name else "",
        f" in project {project}" if project else "",
        f" [{client.rules.environment}]" if client.rules.environment else "",
        "" if client.speaks_to_amplitude else f" at {client.base_url}, which is not Amplitude",
    ]
    return "".join(parts)
