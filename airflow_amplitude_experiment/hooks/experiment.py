"""The hook of connection type ``amplitude_experiment``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar, cast
from urllib.parse import urlsplit

from airflow.providers.common.compat.sdk import BaseHook

from airflow_amplitude_experiment.provider_info import CONNECTION_FIELDS, FORM_BEHAVIOUR

if TYPE_CHECKING:
    from collections.abc import Callable

    from airflow.sdk import Connection

    from airflow_amplitude_experiment.api import Call
    from airflow_amplitude_experiment.api.models import Experiment, Flag

    from .guard import GuardedAsyncClient, GuardedClient
    from .lookup import Kind

T = TypeVar("T")
C = TypeVar("C", "GuardedClient", "GuardedAsyncClient")
MASKED = "***"
LONG_KEY = 20
"""Characters of a management key of which four may be shown."""


class AmplitudeExperimentHook(BaseHook):
    """Turns an Airflow connection into a client of Amplitude's Experiment Management API.

    The connection: password = management key; host = base URL (only for an emulator or a proxy); extra =
    ``region``, ``project_id``, ``environment``, ``organization``, ``dialect``, ``timeout`` (seconds),
    ``requests_per_second``, and the platform team's rules ``mode``, ``allow_keys``, ``deny_keys``,
    ``max_percentage``, ``max_step``, ``require_reason``, which hold for every change that goes through a client
    of this hook.

    :param amplitude_conn_id: id of the Airflow connection.
    """

    conn_name_attr = "amplitude_conn_id"
    default_conn_name = "amplitude_experiment_default"
    conn_type = "amplitude_experiment"
    hook_name = "Amplitude Experiment"

    def __init__(self, amplitude_conn_id: str = default_conn_name) -> None:
        super().__init__()
        self.amplitude_conn_id = amplitude_conn_id

    def get_conn(self, *, paced: bool = True) -> GuardedClient:
        """Return a new client that keeps to the connection's rules. Use it as a context manager.

        :param paced: keep to the connection's ``requests_per_second``, and send again what failed; a kill does not
            the first and does the second itself.
        :raises ValueError: the connection is incomplete or holds a value that can't be meant.
        """
        from .guard import GuardedClient

        return _opened(GuardedClient, self.get_connection(self.amplitude_conn_id), paced=paced)

    async def get_async_conn(self, *, paced: bool = True) -> GuardedAsyncClient:
        """Return a new async client that keeps to the connection's rules; as :meth:`get_conn`."""
        from airflow.providers.common.compat.connection import get_async_connection

        from .guard import GuardedAsyncClient

        return _opened(GuardedAsyncClient, await get_async_connection(self.amplitude_conn_id), paced=paced)

    def send(self, call: Call[T], *, reason: str | None = None, found: Any = None) -> T:
        """Send one call with a client of its own.

        :param reason: why, for changes; required where the connection says so.
        :param found: the object as just read; without it the rules read it first where they need it.
        :raises RolloutRefused: a rule of the connection forbids the change.
        :raises AmplitudeReadOnly: the connection is read-only.
        :raises AmplitudeError: the request failed.
        """
        with self.get_conn() as client:
            return client.send(call, reason=reason, found=found)

    async def asend(self, call: Call[T], *, reason: str | None = None, found: Any = None) -> T:
        """Send one call from ``async`` code; as :meth:`send`."""
        async with await self.get_async_conn() as client:
            return await client.send(call, reason=reason, found=found)

    def find(self, kind: Kind, key: str, project_id: str | None = None) -> Flag | Experiment:
        """Find a flag or experiment by its key.

        :param kind: ``"flag"`` or ``"experiment"``.
        :param project_id: project to look in; default is the connection's.
        :raises AmplitudeNotFound: no such key.
        :raises RolloutRefused: it is archived, or found in several projects and none is named.
        """
        from .lookup import by_key

        with self.get_conn() as client:
            return cast("Flag | Experiment", client.read(by_key(kind, key, project_id or client.rules.project_id)))

    def test_connection(self) -> tuple[bool, str]:
        """Say which key reaches which host and projects, or precisely why it doesn't. Changes nothing."""
        from airflow_amplitude_experiment.api import AmplitudeError, RolloutRefused

        from .guard import GuardedClient
        from .probe import probe

        connection = self.get_connection(self.amplitude_conn_id)
        try:
            client = GuardedClient(**_settings(connection, paced=True))
        except ValueError as error:  # while it is being tested, Airflow gives the connection a made-up id
            return False, f"The connection can't be used: {error}"
        with client:
            where = f"{_shown_key(connection)} at {client.base_url}{_region_of(client.base_url)}"
            try:
                return True, f"{where} {client.read(probe(client))}"
            except RolloutRefused as refused:
                return False, f"{where} {refused}"
            except AmplitudeError as error:
                return False, f"{where}: {error}"

    @classmethod
    def get_ui_field_behaviour(cls) -> dict[str, Any]:
        """Return the form's labels, for Airflow before 3.2; later ones read the provider's metadata."""
        return {key.replace("-", "_"): value for key, value in FORM_BEHAVIOUR.items()}

    @classmethod
    def get_connection_form_widgets(cls) -> dict[str, Any]:
        """Return the form's fields, for Airflow before 3.2; later ones read the provider's metadata."""
        from .form import widgets

        return widgets(CONNECTION_FIELDS)


def _opened(kind: Callable[..., C], connection: Connection, *, paced: bool) -> C:
    """Open a client for this connection; whatever is wrong with it, the error names the connection."""
    try:
        client = kind(**_settings(connection, paced=paced))
    except ValueError as error:
        raise ValueError(f"Connection {connection.conn_id!r}: {error}") from error
    client._repeats = paced
    return client


def _settings(connection: Connection, *, paced: bool) -> dict[str, Any]:
    """Return the arguments of a client for this connection."""
    from .extra import for_way_down, number, parsed
    from .rules import Rules

    extra = parsed(connection.extra)
    if not paced:
        extra = for_way_down(extra)
    pace = number(extra, "requests_per_second", 5.0)
    return {
        "api_key": _management_key(connection),
        "region": extra.get("region") or "us",
        "base_url": _base_url(connection),
        "dialect": extra.get("dialect") or "v1",
        "timeout": number(extra, "timeout", 30.0),
        "requests_per_second": pace if paced else None,
        "rules": Rules.from_extra(extra),
    }


def _management_key(connection: Connection) -> str:
    """Return the key without the white space that came along when it was pasted."""
    from airflow.sdk.log import mask_secret

    key = (connection.password or "").strip()
    if not key:
        raise ValueError("it has no management key; put it into the field Management API key (password)")
    if key == MASKED:
        raise ValueError(
            "Airflow handed over the masked key (***) instead of the key, as version 3.1 does when a saved connection "
            "is tested from the list. Run instead: airflow connections test <connection id>"
        )
    if key != connection.password:
        mask_secret(key)  # Airflow itself hides the text as it was pasted
    return key


def _shown_key(connection: Connection) -> str:
    """Name the connection's key by its end, where that tells nothing of it."""
    key = _management_key(connection)
    return f"The management key that ends in …{key[-4:]}" if len(key) >= LONG_KEY else "The management key"


def _region_of(base_url: str) -> str:
    from airflow_amplitude_experiment.api._client import HOSTS

    regions = [region for (_, region), host in HOSTS.items() if host == base_url]
    return f" (data region {regions[0]})" if regions else ""


def _base_url(connection: Connection) -> str | None:
    """Return the base URL, put together again where a connection URI or the form took it apart."""
    host = (connection.host or "").strip()
    if not host:
        return None
    if "://" not in host:
        scheme = connection.schema if connection.schema in ("http", "https") else "https"
        host = f"{scheme}://{host}"
    parts = urlsplit(host)
    if connection.port and parts.port is None:
        parts = parts._replace(netloc=f"{parts.netloc}:{connection.port}")
    return parts.geturl()
