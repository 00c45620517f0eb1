"""Clients that keep to a connection's rules, whatever sends a call through them.

What is read and decided before a write is one generator: it yields the calls to read with and is driven by the
sync client and by the async one alike.
"""

from __future__ import annotations

import logging
from collections.abc import Generator, Iterable
from typing import Any, TypeVar

from airflow_amplitude_experiment.api import (
    AmplitudeNotFound,
    AmplitudeReadOnly,
    Call,
    deployments,
    experiments,
    flags,
    holdouts,
    mutexes,
)
from airflow_amplitude_experiment.api._call import find_endpoint
from airflow_amplitude_experiment.api._client import AsyncClient, Client, Pages

from .rules import Rules

T = TypeVar("T")
Reading = Generator[Call[Any], Any, T]
log = logging.getLogger(__name__)


class GuardedClient(Client):
    """A client that refuses what its connection's rules forbid, and logs every change before it is sent."""

    def __init__(self, api_key: str, *, rules: Rules, **options: Any) -> None:
        super().__init__(api_key, **options)
        self.rules = rules

    def send(self, call: Call[T], *, reason: str | None = None, found: Any = None, way_down: bool = False) -> T:
        """Send one call, if the rules allow it.

        :param reason: why; required for changes where the connection says so.
        :param found: the object as just read; without it the rules read it first where they need it.
        :param way_down: a kill or a rollback, which only ``read_only`` can stop.
        :raises RolloutRefused: a rule forbids it; nothing was sent.
        :raises AmplitudeReadOnly: the connection is read-only; what would be sent stands in the log.
        """
        if call.writes:
            self.read(guard(self, call, reason=reason, found=found, way_down=way_down))
        return super().send(call)

    def read(self, reading: Reading[T]) -> T:
        """Send the calls that a reading asks for and return what it comes to."""
        answer: Any = None
        while True:
            try:
                call = reading.send(answer)
            except StopIteration as done:
                result: T = done.value
                return result
            answer = super().send(call)


class GuardedAsyncClient(AsyncClient):
    """The same for ``async`` code."""

    def __init__(self, api_key: str, *, rules: Rules, **options: Any) -> None:
        super().__init__(api_key, **options)
        self.rules = rules

    async def send(self, call: Call[T], *, reason: str | None = None, found: Any = None, way_down: bool = False) -> T:
        """Send one call, if the rules allow it; as :meth:`GuardedClient.send`."""
        if call.writes:
            await self.read(guard(self, call, reason=reason, found=found, way_down=way_down))
        return await super().send(call)

    async def read(self, reading: Reading[T]) -> T:
        """Send the calls that a reading asks for and return what it comes to."""
        answer: Any = None
        while True:
            try:
                call = reading.send(answer)
            except StopIteration as done:
                result: T = done.value
                return result
            answer = await super().send(call)


def guard(
    client: GuardedClient | GuardedAsyncClient,
    call: Call[Any],
    *,
    reason: str | None,
    found: Any,
    way_down: bool,
) -> Reading[None]:
    """Check a write against the rules and log it; yields what has to be read for that."""
    rules, endpoint = client.rules, find_endpoint(call.endpoint)
    arguments = endpoint.prepare(call.arguments, dialect=client.dialect).values
    what = f"{call.endpoint} {arguments.get('key') or arguments.get('id') or ''}".rstrip()
    if not way_down:
        rules.check_reason(reason, what)
    if rules.need_the_object:
        object_ = found if found is not None else (yield from _object_of(call))
        yield from _check_object(rules, call, arguments, object_, what, way_down)
    line = f"{call!r}{_where(client)}{f', reason: {reason}' if reason else ''}"
    if rules.mode == "read_only":
        log.info("Read-only connection, would send %s", line)
        raise AmplitudeReadOnly(f"{what}: the connection is read-only. Nothing was sent; the log says what would be.")
    log.info("Sending %s", line)


def _check_object(
    rules: Rules, call: Call[Any], arguments: dict[str, Any], found: Any, what: str, way_down: bool
) -> Reading[None]:
    creates = found is None
    key = arguments.get("key") if creates else getattr(found, "key", None)
    if call.endpoint.startswith("deployments."):
        key = arguments["label"] if creates else found.label
    rules.check_project(str(arguments["project_id"]) if creates else found.project_id, what)
    if way_down:
        return
    rules.check_key(key, what)
    if call.endpoint.split(".")[0] in ("flags", "experiments"):
        rules.check_percentages(found, _as_update(call, arguments), what)
    if rules.name_keys:
        for member in _members(call, arguments, found):
            experiment = yield experiments.get(member)
            rules.check_key(experiment.key, f"{what}, member {experiment.key}")


def _as_update(call: Call[Any], arguments: dict[str, Any]) -> dict[str, Any]:
    twin = find_endpoint(call.endpoint).on_v1
    return {**arguments, **twin[1]} if twin else arguments


def _object_of(call: Call[Any]) -> Reading[Any]:
    """Read the object that a write changes; ``None`` where it creates one."""
    kind, function = call.endpoint.split(".")
    if function == "create":
        return None
    if kind == "deployments":
        return (yield from _deployment(str(call.arguments["id"])))
    namespaces: dict[str, Any] = {"flags": flags, "experiments": experiments, "mutexes": mutexes, "holdouts": holdouts}
    return (yield namespaces[kind].get(call.arguments["id"]))


def _deployment(wanted: str) -> Reading[Any]:
    for deployment in (yield from listed(deployments.list())):
        if deployment.id == wanted:
            return deployment
    raise AmplitudeNotFound(f"there is no deployment {wanted} that this key can see", method="GET", path="deployments")


def listed(call: Call[Any]) -> Reading[list[Any]]:
    """Read a whole list, page by page."""
    pages: Pages[Any] = Pages(call)
    found: list[Any] = []
    while (following := pages.next_call()) is not None:
        found.extend(pages.fresh((yield following)))
    return found


def _members(call: Call[Any], arguments: dict[str, Any], found: Any) -> Iterable[str]:
    """Return the experiments that join or leave a group by this call: their traffic changes too."""
    if call.endpoint.split(".")[0] not in ("mutexes", "holdouts"):
        return ()
    wanted = {str(each) for each in arguments.get("experiments", ())}
    wanted |= {str(each) for slot in arguments.get("slots", ()) for each in slot.get("experiments", ())}
    present: set[str] = set()
    if found is not None and call.endpoint == "holdouts.update" and "experiments" in arguments:
        present = set(found.experiments or ())
    if found is not None and call.endpoint == "mutexes.update_slot" and "experiments" in arguments:
        slots = [slot for slot in found.slots or () if slot.index == arguments["slot_index"]]
        present = {each for slot in slots for each in slot.experiments or ()}
    return sorted(wanted ^ present)


def _where(client: GuardedClient | GuardedAsyncClient) -> str:
    """Name the environment, and a base URL that isn't Amplitude's."""
    environment = f" [{client.rules.environment}]" if client.rules.environment else ""
    project = f" in project {client.rules.project_id}" if client.rules.project_id else ""
    host = "" if client.speaks_to_amplitude else f" at {client.base_url}, which is not Amplitude"
    return f"{environment}{project}{host}"
