"""The link from a task to its object in Amplitude's app."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from airflow.providers.common.compat.sdk import BaseOperatorLink, XCom

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context
    from airflow.sdk import BaseOperator
    from airflow.sdk.types import TaskInstanceKey

URL_KEY = "amplitude_url"
"""XCom under which a task leaves the address, before it waits for anything."""

APPS = {
    "https://experiment.eu.amplitude.com": "https://app.eu.amplitude.com",
    "https://management-api.experiment.eu.amplitude.com": "https://app.eu.amplitude.com",
    "https://experiment.amplitude.com": "https://app.amplitude.com",
    "https://management-api.experiment.amplitude.com": "https://app.amplitude.com",
}


class OpenInAmplitudeLink(BaseOperatorLink):
    """Opens the flag or experiment that the task works on."""

    name = "Open in Amplitude"

    @property
    def xcom_key(self) -> str:
        """XCom under which Airflow keeps the link for the UI."""
        return "_link_open_in_amplitude"

    def get_link(self, operator: BaseOperator, *, ti_key: TaskInstanceKey) -> str:
        """Return the address that the task left, or nothing where it failed before it knew one."""
        return XCom.get_value(key=URL_KEY, ti_key=ti_key) or ""


def leave_link(context: Context, client: Any, found: Any, url: str | None = None) -> str:
    """Leave an object's address for the link: what its create answered, or else what leads to an object of its id."""
    if not url or not url.startswith(("https://", "http://")):
        url = object_url(client.base_url, client.rules.organization, found)
    context["ti"].xcom_push(key=URL_KEY, value=url)
    return url


def object_url(base_url: str, organization: str | None, found: Any) -> str:
    """Return the address of a flag or experiment in the app.

    Amplitude's app needs the organization's URL name, which the API doesn't tell; without it the link leads to
    the app's start page of Experiment.
    """
    app = APPS.get(base_url, base_url)
    if base_url in APPS and not organization:
        return f"{app}/experiment"
    parts = (organization or "-", found.project_id, "config", found.id)
    return f"{app}/experiment/{'/'.join(quote(str(part), safe='') for part in parts)}"
