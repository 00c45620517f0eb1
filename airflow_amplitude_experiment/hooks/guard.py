"""Clients that keep to a connection's rules, whatever sends a call through them.

What is read and decided before a write is one generator: it yields the calls to read with and is driven by the
sync client and by the async one alike.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Iterator
from typing import Any, TypeVar

from airflow_amplitude_experiment.api import (
    AmplitudeError,
    AmplitudeNotFound,
    AmplitudeReadOnly,
    Call,
    RolloutRefused,
    deployments,
)
from airflow_amplitude_experiment.api._call import find_endpoint
from airflow_amplitude_experiment.api._checks import short
from airflow_amplitude_experiment.api._client import AsyncClient, Client
from airflow_amplitude_experiment.api.errors import cut
from airflow_amplitude_experiment.api.models import Page

from .moves import completed, moves, own_rises, rises_above_standing
from .projects import CALLS, listed, refuse_id_in_several_projects
from .projects import Reading as Reading
from .rules import Rules

T = TypeVar("T")
TOGGLES = ("flags", "experiments")
HIDDEN = frozenset({"payload", "exposure_event"})
"""Arguments that may hold what belongs in no log."""
log = logging.getLogger(__name__)


class GuardedClient(Client):
    """A client that refuses what its connection's rules forbid, and logs every change before it is sent."""

    def __init__(self, api_key: str, *, rules: Rules, **options: Any) -> None:
        super().__init__(api_key, **options)
        self._rules = rules

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
        :raises RolloutRefused: a rule forbids it; nothing was sent.
        :raises AmplitudeReadOnly: the connection is read-only; what would be sent stands in the log.
        """
        if call.writes:
            self.read(guard(self, call, reason=reason, found=found, way_down=way_down))
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

    @property
    def rules(self) -> Rules:
        """The connection's rules; they can't be taken off a client."""
        return self._rules

    async def send(self, call: Call[T], *, reason: str | None = None, found: Any = None, way_down: bool = False) -> T:
        """Send one call, if the rules allow it; as :meth:`GuardedClient.send`."""
        if call.writes:
            await self.read(guard(self, call, reason=reason, found=found, way_down=way_down))
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
) -> Reading[None]:
    """Check a write against the rules and log it; yields what has to be read for that."""
    rules = client.rules
    kind, function, arguments = _taken_apart(call, client)
    what = _in_words(call, arguments, found)
    blind = way_down and found is None and _ends_at_nothing(function, arguments)
    if way_down:
        _refuse_more_than_down(function, arguments, what)
    else:
        rules.check_reason(reason, what)
    if not blind:
        found = yield from _object_of(rules, kind, function, arguments, found)
        what = _in_words(call, arguments, found)
        rules.check_project(str(arguments["project_id"]) if found is None else found.project_id, what)
        yield from (_check_down if way_down else _check_rules)(rules, kind, function, arguments, found, what)
    line = f"{_shown(call)}{_where(client, found)}{f', reason: {cut(reason)}' if reason else ''}"
    if rules.mode == "read_only":
        log.info("Read-only connection, would send %s", line)
        raise AmplitudeReadOnly(f"{what}: the connection is read-only. Nothing was sent; the log says what would be.")
    log.info("Sending %s", line)


def _in_words(call: Call[Any], arguments: dict[str, Any], found: Any) -> str:
    """Say what is to be done: ``flags.update checkout-new (id 21001)``."""
    if "id" not in arguments:
        return f"{call.endpoint} {arguments.get('key') or arguments.get('label') or ''}".rstrip()
    name = getattr(found, "key", None) if call.endpoint != "deployments.update" else getattr(found, "label", None)
    return f"{call.endpoint} {name} (id {arguments['id']})" if name else f"{call.endpoint} {arguments['id']}"


def _taken_apart(call: Call[Any], client: GuardedClient | GuardedAsyncClient) -> tuple[str, str, dict[str, Any]]:
    """Return the namespace, the function and the checked arguments of a call, in v1's words."""
    endpoint = find_endpoint(call.endpoint)
    arguments = endpoint.prepare(call.arguments, dialect=client.dialect).values
    name, more = endpoint.on_v1 or (call.endpoint, {})
    kind, function = name.split(".")
    return kind, function, {**arguments, **more}


def _object_of(rules: Rules, kind: str, function: str, arguments: dict[str, Any], found: Any) -> Reading[Any]:
    """Return the object that a write changes, ``None`` where it creates one."""
    if function == "create":
        return None
    wanted = str(arguments["id"])
    if found is not None:
        if str(found.id) != wanted:
            raise ValueError(f"found is {found.key!r} with the id {found.id}, but the call changes {wanted}")
        return found
    found = yield from (_deployment(wanted) if kind == "deployments" else _details(kind, wanted))
    if rules.project_id is None:
        yield from refuse_id_in_several_projects(f"{kind} id {wanted}", kind, found.project_id)
    return found


def _details(kind: str, wanted: str) -> Reading[Any]:
    return (yield CALLS[kind].get(wanted))


def _deployment(wanted: str) -> Reading[Any]:
    for deployment in (yield from listed(deployments.list())):
        if deployment.id == wanted:
            return deployment
    raise AmplitudeNotFound(f"there is no deployment {wanted} that this key can see", method="GET", path="deployments")


def _check_rules(
    rules: Rules, kind: str, function: str, arguments: dict[str, Any], found: Any, what: str
) -> Reading[None]:
    """Refuse what the rules on keys and percentages forbid."""
    for key in _keys(kind, arguments, found):
        rules.check_key(key, what)
    if kind in TOGGLES:
        if rules.limit_percentages:
            whole = found and (yield from completed(function, CALLS[kind], found))
            rules.check_rises(own_rises(function, arguments, whole), what)
    elif rules.name_keys or rules.limit_percentages:
        for move in (yield from moves(kind, function, arguments, found)):
            behind = f"{what}, which moves the traffic of {move.found.key}"
            rules.check_key(move.found.key, behind)
            if rules.limit_percentages:
                rules.check_rises(move.rises(), behind)


def _keys(kind: str, arguments: dict[str, Any], found: Any) -> list[str | None]:
    """Return the key of the object, or what stands for it; a deployment's label before and after."""
    name = "label" if kind == "deployments" else "key"
    given = [arguments[name]] if name in arguments and (found is None or kind == "deployments") else []
    return given if found is None and given else [getattr(found, name, None), *given]


def _ends_at_nothing(function: str, arguments: dict[str, Any]) -> bool:
    """Whether a call does no more than switch off, or set 0 %."""
    rest = {name: value for name, value in arguments.items() if name != "id"}
    return function == "update" and all(
        each in (("enabled", False), ("rollout_percentage", 0)) for each in rest.items()
    )


def _refuse_more_than_down(function: str, arguments: dict[str, Any], what: str) -> None:
    fields = arguments.keys() - {"id"}
    if (
        function != "update"
        or fields - {"enabled", "rollout_percentage", "target_segments"}
        or arguments.get("enabled")
    ):
        raise ValueError(f"{what}: way_down=True is for switching off and for lower percentages, and nothing else")


def _check_down(
    rules: Rules, kind: str, function: str, arguments: dict[str, Any], found: Any, what: str
) -> Reading[None]:
    """Refuse a way down that goes up; what a connection's limits say does not matter here."""
    if not _ends_at_nothing(function, arguments):
        whole = yield from completed(function, CALLS[kind], found)
        for rise in rises_above_standing(function, arguments, whole):
            raise RolloutRefused(f"{what}: a way down never goes up, but {rise}. Nothing was sent.")


def _shown(call: Call[Any]) -> str:
    """Return a call for the log: no list of people and no content."""
    shown = (
        f"{name}=<{len(value)}>" if isinstance(value, list) else f"{name}={'<…>' if name in HIDDEN else short(value)}"
        for name, value in call.arguments.items()
    )
    return f"{call.endpoint}({', '.join(shown)})"


def _where(client: GuardedClient | GuardedAsyncClient, found: Any) -> str:
    """Name the object, the project, the environment, and a base URL that isn't Amplitude's."""
    name = getattr(found, "key", None) if not hasattr(found, "label") else found.label
    project = getattr(found, "project_id", None) or client.rules.project_id
    parts = [
        f" for {name}" if name else "",
        f" in project {project}" if project else "",
        f" [{client.rules.environment}]" if client.rules.environment else "",
        "" if client.speaks_to_amplitude else f" at {client.base_url}, which is not Amplitude",
    ]
    return "".join(parts)
