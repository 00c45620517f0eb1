"""The hook of connection type ``amplitude_analytics``: saved charts, through the Dashboard REST API."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow.providers.common.compat.sdk import BaseHook

from airflow_amplitude_experiment.provider_info import ANALYTICS_FIELDS, ANALYTICS_FORM_BEHAVIOUR

if TYPE_CHECKING:
    from airflow.sdk import Connection

    from ._chart import Chart
    from ._chart_request import AnalyticsClient


class AmplitudeAnalyticsHook(BaseHook):
    """Reads saved charts of an Amplitude project. It changes nothing.

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

    def chart(self, chart_id: str) -> Chart:
        """Return what a saved chart shows now.

        :param chart_id: the last part of the chart's address in Amplitude.
        :raises ValueError: an id that can't be one, or a connection that can't be used; nothing was sent.
        :raises AmplitudeNotFound: there is no such chart in the project.
        :raises AmplitudeRateLimited: too much was asked of the project; says of what, and when to try again.
        :raises AmplitudeError: the request failed otherwise.
        """
        from ._chart import checked_chart_id

        wanted = checked_chart_id(chart_id)
        connection = self.get_connection(self.amplitude_analytics_conn_id)
        try:
            client, timezone = _opened(connection)
        except ValueError as error:
            raise ValueError(f"Connection {connection.conn_id!r}: {error}") from None
        with client:
            return client.chart(wanted, timezone=timezone)

    def test_connection(self) -> tuple[bool, str]:
        """Say whether the keys open the project's analytics, or precisely why not. Changes nothing."""
        from airflow_amplitude_experiment.api import AmplitudeError

        from ._chart import LAST_ZONE

        try:
            client, timezone = _opened(self.get_connection(self.amplitude_analytics_conn_id))
        except ValueError as error:  # while it is being tested, Airflow gives the connection a made-up id
            return False, f"The connection can't be used: {error}"
        with client:
            try:
                client.knock()
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


def _opened(connection: Connection) -> tuple[AnalyticsClient, str]:
    """Return a client for this connection, and the time zone of the charts.

    :raises ValueError: the connection is incomplete or holds a value that can't be meant.
    """
    from ._chart import LAST_ZONE, checked_zone
    from ._chart_request import AnalyticsClient
    from .experiment import _base_url
    from .extra import given_in, number, parsed, text

    extra = parsed(connection.extra)
    timezone = text("timezone", extra["timezone"]) if given_in(extra, "timezone") else LAST_ZONE
    checked_zone(timezone)
    client = AnalyticsClient(
        *_keys(connection),
        region=extra.get("region") or "us",
        base_url=_base_url(connection),
        timeout=number(extra, "timeout", 30.0),
    )
    return client, timezone


def _keys(connection: Connection) -> tuple[str, str]:
    """Return the two keys without the white space that came along when they were pasted."""
    from airflow.sdk.log import mask_secret

    from ._chart_request import basic_of, refuse_wrong_keys
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
