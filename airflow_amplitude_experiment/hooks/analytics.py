"""The hook of connection type ``amplitude_analytics``: saved charts and behavioral cohorts of a project."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from airflow.providers.common.compat.sdk import BaseHook

from airflow_amplitude_experiment.provider_info import ANALYTICS_FIELDS, ANALYTICS_FORM_BEHAVIOUR

if TYPE_CHECKING:
    from airflow.sdk import Connection

    from ._analytics_client import AnalyticsClient, AsyncAnalyticsClient
    from ._chart import Chart
    from ._cohort_request import Usage

T = TypeVar("T")
C = TypeVar("C")


class AmplitudeAnalyticsHook(BaseHook):
    """Reads saved charts and behavioral cohorts of an Amplitude project. It changes nothing.

    The connection: login = API key of the project; password = its secret key; host = base URL (only for an emulator
    or a proxy); extra = ``region``, ``timezone`` (the project's, in which charts write their days; without it a day
    counts as over when it is over everywhere on earth) and ``timeout`` (seconds). A management key opens nothing here.

    :param amplitude_analytics_conn_id: id of the Airflow connection.
    """

    conn_name_attr = "amplitude_analytics_conn_id"
    default_conn_name = "amplitude_analytics_default"
    conn_type = "amplitude_analytics"
    hook_name = "Amplitude Analytics"

    def __init__(self, amplitude_analytics_conn_id: str = default_conn_name) -> None:
        super().__init__()
        self.amplitude_analytics_conn_id = amplitude_analytics_conn_id

    def get_conn(self) -> AnalyticsClient:
        """Return a new client. Use it as a context manager.

        :raises ValueError: a connection that can't be used; nothing was sent.
        """
        from ._analytics_client import AnalyticsClient

        return _named(AnalyticsClient, self.get_connection(self.amplitude_analytics_conn_id))

    async def get_async_conn(self) -> AsyncAnalyticsClient:
        """Return a new async client; as :meth:`get_conn`."""
        from airflow.providers.common.compat.connection import get_async_connection

        from ._analytics_client import AsyncAnalyticsClient

        return _named(AsyncAnalyticsClient, await get_async_connection(self.amplitude_analytics_conn_id))

    def chart(self, chart_id: str) -> Chart:
        """Return what a saved chart shows now.

        :param chart_id: the last part of the chart's address in Amplitude.
        :raises ValueError: an id that can't be one, or a connection that can't be used; nothing was sent.
        :raises AmplitudeNotFound: there is no such chart in the project.
        :raises AmplitudeRateLimited: too much was asked of the project; says of what, and when to try again.
        :raises AmplitudeError: the request failed otherwise.
        """
        from . import _chart_request as request
        from ._analytics_client import AnalyticsClient
        from ._chart import Chart, checked_chart_id

        wanted = checked_chart_id(chart_id)
        connection = self.get_connection(self.amplitude_analytics_conn_id)
        with _named(AnalyticsClient, connection) as client:
            return Chart(wanted, client.ask(request.chart(wanted)), _timezone(connection))

    def cohorts(self) -> list[dict[str, Any]]:
        """Return the project's discoverable cohorts: of each its ``id``, ``name`` and ``size`` as last computed.

        :raises AmplitudeError: the request failed.

        Source: Behavioral Cohorts API, "Get all cohorts".
        """
        from . import _cohort_request as request

        with self.get_conn() as client:
            return client.ask(request.listed())

    def cohort_usage(self) -> Usage:
        """Return how many of the month's cohort downloads are used up, of how many, and until when.

        :raises AmplitudeError: the request failed.

        Source: Behavioral Cohorts API, "Get usage".
        """
        from . import _cohort_request as request

        with self.get_conn() as client:
            return client.ask(request.usage())

    def request_cohort(self, cohort_id: str, *, props: bool | Sequence[str] = False) -> str:
        """Ask for an export of a cohort, and return the export's id. It counts as one of the month's downloads.

        It is sent once: no answer and a refusal are for the caller, who knows whether another one may be spent.

        :param cohort_id: the last part of the cohort's address in Amplitude.
        :param props: with all properties of each user, or with those of these names.
        :raises ValueError: an id that can't be one, or a connection that can't be used; nothing was sent.
        :raises AmplitudeRateLimited: one of the limits; the text says which, and when to try again.
        :raises AmplitudeError: the request failed otherwise.

        Source: Behavioral Cohorts API, "Get one cohort".
        """
        from . import _cohort_request as request
        from ._analytics_reading import checked_id

        with self.get_conn() as client:
            return client.ask(request.export(checked_id("cohort", cohort_id), props=props))

    def cohort_status(self, request_id: str) -> str:
        """Return how far an export is: ``JOB INPROGRESS``, ``JOB COMPLETED``, or what is not documented.

        :raises AmplitudeNotFound: there is no such export (any more).
        :raises AmplitudeError: the request failed otherwise.

        Source: Behavioral Cohorts API, "Get request status".
        """
        from . import _cohort_request as request

        with self.get_conn() as client:
            return client.ask(request.status(request_id))

    def download_cohort(self, request_id: str, take: Callable[[Iterator[bytes]], T]) -> T:
        """Download the file of a complete export as it comes: CSV with the columns ``amplitude_id`` and ``user_id``.

        It costs no further download of the month, and can be repeated for 7 days. Amplitude's redirect to its storage
        is followed without our keys.

        :param take: is given the parts of the file, reads them to the end, and returns what they come to. It is
            called again from the beginning where an attempt breaks off. What it raises ends the download.
        :raises AmplitudeError: the file could not be had.

        Source: Behavioral Cohorts API, "Download file".
        """
        from ._cohort_file import download

        with self.get_conn() as client:
            return download(client, request_id, take)

    def test_connection(self) -> tuple[bool, str]:
        """Say whether the keys open the project's analytics, or precisely why not. Changes nothing."""
        from airflow_amplitude_experiment.api import AmplitudeError

        from . import _chart_request as request
        from ._analytics_client import AnalyticsClient
        from ._chart import LAST_ZONE

        connection = self.get_connection(self.amplitude_analytics_conn_id)
        try:
            client, timezone = _opened(AnalyticsClient, connection), _timezone(connection)
        except ValueError as error:  # while it is being tested, Airflow gives the connection a made-up id
            return False, f"The connection can't be used: {error}"
        with client:
            try:
                client.ask(request.knock())
            except AmplitudeError as error:
                return False, f"The keys at {client.base_url}: {error}"
            said = [f"The keys open a project's analytics at {client.base_url}."]
            if timezone == LAST_ZONE:
                said.append("The connection names no time zone, so a chart's day counts once it is over everywhere.")
            else:
                said.append(f"Days of charts are taken for days in {timezone}.")
            if not client.speaks_to_amplitude:
                said.append("This is not Amplitude itself but the base URL of the connection.")
            return True, " ".join(said)

    @classmethod
    def get_ui_field_behaviour(cls) -> dict[str, Any]:
        """Return the form's labels, for Airflow before 3.2; later ones read the provider's metadata."""
        return {key.replace("-", "_"): value for key, value in ANALYTICS_FORM_BEHAVIOUR.items()}

    @classmethod
    def get_connection_form_widgets(cls) -> dict[str, Any]:
        """Return the form's fields, for Airflow before 3.2; later ones read the provider's metadata."""
        from .form import widgets

        return widgets(ANALYTICS_FIELDS)


def _named(kind: Callable[..., C], connection: Connection) -> C:
    """Open a client for this connection; whatever is wrong with it, the error names the connection."""
    try:
        return _opened(kind, connection)
    except ValueError as error:
        raise ValueError(f"Connection {connection.conn_id!r}: {error}") from None


def _opened(kind: Callable[..., C], connection: Connection) -> C:
    """Open a client for this connection.

    :raises ValueError: the connection is incomplete or holds a value that can't be meant.
    """
    from .experiment import _base_url
    from .extra import number, parsed

    extra = parsed(connection.extra)
    _timezone(connection)
    return kind(
        *_keys(connection),
        region=extra.get("region") or "us",
        base_url=_base_url(connection),
        timeout=number(extra, "timeout", 30.0),
    )


def _timezone(connection: Connection) -> str:
    """Return the time zone of the project's charts.

    :raises ValueError: it is none.
    """
    from ._chart import LAST_ZONE, checked_zone
    from .extra import given_in, parsed, text

    extra = parsed(connection.extra)
    timezone = text("timezone", extra["timezone"]) if given_in(extra, "timezone") else LAST_ZONE
    checked_zone(timezone)
    return timezone


def _keys(connection: Connection) -> tuple[str, str]:
    """Return the two keys without the white space that came along when they were pasted."""
    from airflow.sdk.log import mask_secret

    from ._analytics_client import basic_of, refuse_wrong_keys
    from .experiment import MASKED

    api_key, secret_key = (connection.login or "").strip(), (connection.password or "").strip()
    if secret_key == MASKED:
        raise ValueError(
            "Airflow handed over the masked key (***) instead of the key, as version 3.1 does when a saved connection "
            "is tested from the list. Run instead: airflow connections test <connection id>"
        )
    refuse_wrong_keys(api_key, secret_key)
    for secret in (secret_key, basic_of(api_key, secret_key)):
        mask_secret(secret)  # Airflow itself hides the password as it was pasted, and not what is made of it
    return api_key, secret_key
