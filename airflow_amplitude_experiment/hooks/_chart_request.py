"""How the Dashboard REST API is asked: the Management API's transport, with another key, host and advice.

Pace, retries, answers without an end and the hiding of keys are those of :mod:`..api`; nothing is sent here by other
means. It is apart from the hook so that only a task that reads a chart loads the client.
"""

from __future__ import annotations

import json
import time
from base64 import b64encode
from collections.abc import Callable
from typing import Any, Literal, NoReturn, TypeVar, cast

import httpx
from tenacity import Retrying

from airflow_amplitude_experiment.api import AmplitudeError, Call, deployments, errors
from airflow_amplitude_experiment.api._call import Endpoint
from airflow_amplitude_experiment.api._checks import Check
from airflow_amplitude_experiment.api._client import Client
from airflow_amplitude_experiment.api._exchange import Exchange
from airflow_amplitude_experiment.api._retry import policy

from ._chart import Chart, Unreadable, checked_chart_id, read

T = TypeVar("T")

HOSTS = {"us": "https://amplitude.com", "eu": "https://analytics.eu.amplitude.com"}
_CHART_ID = Check("a chart's id", checked_chart_id)
CHART = Endpoint("charts.csv", "GET", "/api/3/chart/{chart_id}/csv", "anything", fields={"chart_id": _CHART_ID})
EVENTS = Endpoint("events.list", "GET", "/api/2/events/list", "anything")


class AnalyticsClient(Client):
    """A client of the Dashboard REST API. It reads charts and sends nothing else.

    :param api_key: API key of the project.
    :param secret_key: secret key of the project. It is shown nowhere.
    :param region: ``us`` or ``eu``, the data center of the organisation.
    :param base_url: another host that speaks the same API: an emulator or a proxy.
    :param timeout: seconds to wait for a connection, and for each part of an answer.
    :raises ValueError: an argument that can't be right.
    """

    def __init__(
        self,
        api_key: str,
        secret_key: str,
        *,
        region: Literal["us", "eu"] = "us",
        base_url: str | None = None,
        timeout: float = 30.0,
    ) -> None:
        refuse_wrong_keys(api_key, secret_key)
        basic = basic_of(api_key, secret_key)
        super().__init__(basic, region=region, base_url=base_url or HOSTS.get(region), timeout=timeout)
        self._hide = lambda text: _without((basic, secret_key, api_key), text)

    def _open(self, **options: Any) -> None:
        headers = options["headers"]
        basic = headers["Authorization"].replace("Bearer", "Basic", 1)
        accept = "text/csv, application/json, text/plain"
        headers = {**headers, "Authorization": basic, "Accept": accept}
        super()._open(**{**options, "base_url": self.base_url, "headers": headers})

    def __repr__(self) -> str:
        return f"{type(self).__name__}(base_url={self.base_url!r})"

    @property
    def speaks_to_amplitude(self) -> bool:
        """Whether requests go to one of Amplitude's own hosts."""
        return self.base_url in HOSTS.values()

    def _exchange(self, call: Any) -> NoReturn:
        """Refuse a call of the Management API, which other keys open on another host."""
        raise TypeError(f"{call!r} is a call of the Management API; send it with AmplitudeExperimentHook")

    def chart(self, chart_id: str, *, timezone: str) -> Chart:
        """Return what a saved chart shows.

        :param timezone: the project's time zone, which the answer doesn't tell.
        :raises ValueError: a chart id that can't be one; nothing was sent.
        :raises AmplitudeError: the request failed.
        """
        series = self._ask(CHART, {"chart_id": chart_id}, read)
        return Chart(checked_chart_id(chart_id), series, timezone)

    def knock(self) -> None:
        """Ask for the list of events, the cheapest request that shows whether the keys are right.

        :raises AmplitudeError: the request failed.
        """
        self._ask(EVENTS, {}, _any_json)

    def _ask(self, endpoint: Endpoint, arguments: dict[str, Any], reader: Callable[[bytes], T]) -> T:
        exchange = AnalyticsExchange(endpoint, arguments, reader=reader, hide=self._hide)
        answer: T = Retrying(**policy(exchange.may_go_again), sleep=time.sleep)(self._attempt, exchange)
        return answer


class AnalyticsExchange(Exchange[T]):
    """One request of the Dashboard REST API on its way, over all its attempts.

    :param reader: turns the body of a success into what is promised.
    :param hide: replaces the keys in a text.
    """

    def __init__(
        self, endpoint: Endpoint, arguments: dict[str, Any], *, reader: Callable[[bytes], T], hide: Callable[[str], str]
    ) -> None:
        # The exchange looks up the endpoints of the Management API, among which these don't belong; so it starts
        # with any one that reads, and this request takes its place.
        super().__init__(cast("Call[T]", deployments.list()), dialect="v1", prefix="", hide=hide)
        self._prepared = endpoint.prepare(arguments, dialect="v1")
        self._endpoint, self._path, self._reader = endpoint, self._prepared.path, reader

    def _read_success(self, response: httpx.Response) -> T:
        super()._read_success(response)  # a web page is no answer
        try:
            return self._reader(bytes(self._content))
        except Unreadable as error:
            text = self._hidden(f"{error}.")
            raise AnalyticsUnexpectedAnswer(text, status=response.status_code, **self._facts()) from None

    def _noted(self, error: AmplitudeError, *, repeat: bool) -> AmplitudeError:
        return super()._noted(with_own_advice(error), repeat=repeat)


def refuse_wrong_keys(api_key: str, secret_key: str) -> None:
    """Refuse keys that can't be sent, without showing them.

    :raises ValueError: says which of the two, and where it belongs.
    """
    for name, key in (("API key (login)", api_key), ("secret key (password)", secret_key)):
        if not key or not all("!" <= character <= "~" for character in key):
            raise ValueError(f"the {name} is empty, or holds white space or characters that no key has")
    if ":" in api_key:
        raise ValueError("the API key (login) holds a colon, which no API key has; the secret key is the password")


def basic_of(api_key: str, secret_key: str) -> str:
    """Return the two keys as the header of a request carries them."""
    return b64encode(f"{api_key}:{secret_key}".encode()).decode()


def _without(secrets: tuple[str, ...], text: str) -> str:
    for secret in secrets:
        text = text.replace(secret, "***")
    return text


def _any_json(content: bytes) -> None:
    try:
        json.loads(content)
    except (ValueError, RecursionError):
        raise Unreadable(f"{len(content)} bytes that are not JSON, or cut off") from None


# --- the same errors, with the advice that fits this API -------------------------------------------------


class _Advised(AmplitudeError):
    """An error of the tree with other advice. It travels as the one that everybody knows, its last base."""

    def as_dict(self) -> dict[str, Any]:
        return {**super().as_dict(), "type": type(self).__bases__[-1].__name__}


class AnalyticsRateLimited(_Advised, errors.AmplitudeRateLimited):
    """429: too many requests at once, or the project's cost is used up. It is no statement on the chart."""

    advice = (
        "The limits of the Dashboard REST API are per project: 5 requests at once (cohort downloads included), and a "
        "cost of 1,000 in five minutes and 108,000 in an hour, where a chart costs its days × its conditions."
    )

    def _message(self) -> str:
        wait = "five minutes" if self.retry_after is None else f"{self.retry_after:.0f} seconds"
        return f"{super()._message()} Try again in {wait}, or let the chart cover fewer days."


class AnalyticsAuthError(_Advised, errors.AmplitudeAuthError):
    """401: the keys are unknown, or belong to the other region."""

    advice = (
        "Check the project's API key (login) and secret key (password) in the Airflow connection, and its region: "
        "a project of the EU data center is unknown in the US one. A management key opens another API."
    )


class AnalyticsPermissionError(_Advised, errors.AmplitudePermissionError):
    """403: the keys do not open this."""

    advice = "Check that the keys are those of the project that owns the chart, and that its plan has this API."


class AnalyticsNotFound(_Advised, errors.AmplitudeNotFound):
    """404: no such chart."""

    advice = (
        "Check the chart's id (the last part of its address in Amplitude), that the chart is saved and belongs to the "
        "project of these keys, and the region."
    )


class AnalyticsInvalidRequest(_Advised, errors.AmplitudeInvalidRequest):
    """400 or another 4xx: the chart can't be had this way."""

    advice = f"Sending it again does not help. {AnalyticsNotFound.advice}"


class AnalyticsUnexpectedAnswer(_Advised, errors.AmplitudeUnexpectedAnswer):
    """An answer that holds no chart that can be read."""

    advice = "This is not how Amplitude answers for a chart; check the chart, the base URL and any proxy in between."


_OWN: dict[type[AmplitudeError], type[AmplitudeError]] = {
    errors.AmplitudeRateLimited: AnalyticsRateLimited,
    errors.AmplitudeAuthError: AnalyticsAuthError,
    errors.AmplitudePermissionError: AnalyticsPermissionError,
    errors.AmplitudeNotFound: AnalyticsNotFound,
    errors.AmplitudeInvalidRequest: AnalyticsInvalidRequest,
    errors.AmplitudeUnexpectedAnswer: AnalyticsUnexpectedAnswer,
}


def with_own_advice(error: AmplitudeError) -> AmplitudeError:
    """Return the same error with the advice that fits this API."""
    own = _OWN.get(type(error))
    if own is None:
        return error
    facts = error.as_dict()
    del facts["type"]
    return own(**facts)
