"""How Amplitude's analytics are asked: the Management API's transport, with another key, host and advice.

Pace, retries, answers without an end and the hiding of keys are those of :mod:`..api`; nothing is sent here by other
means. What is asked is data, a :class:`Question`; the sync and the async client differ only in how they wait. It is
apart from the hook so that only a task that asks loads the clients.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, Literal, NoReturn, TypeVar, cast

import httpx

from airflow_amplitude_experiment.api import (
    AmplitudeError,
    AmplitudeRateLimited,
    AmplitudeUnexpectedAnswer,
    Call,
    deployments,
)
from airflow_amplitude_experiment.api._call import Endpoint
from airflow_amplitude_experiment.api._client import AsyncClient, Client, _Base
from airflow_amplitude_experiment.api._exchange import Exchange

from ._analytics_errors import CHART, Words, with_own_advice
from ._analytics_reading import Unreadable

T = TypeVar("T")

HOSTS = {"us": "https://amplitude.com", "eu": "https://analytics.eu.amplitude.com"}


@dataclass(frozen=True, slots=True)
class Question(Generic[T]):
    """One request to the analytics, not yet sent. ``T`` is what it returns.

    :param endpoint: where it goes; its fields are checked before anything is sent.
    :param reader: turns the body of a success into what is promised, or raises :class:`Unreadable`.
    :param arguments: what stands in the path.
    :param query: what stands behind it.
    :param words: the advice in its errors.
    :param counts: it uses up a quota, so that it is not sent again unless it can't have arrived.
    """

    endpoint: Endpoint
    reader: Callable[[bytes], T]
    arguments: dict[str, Any] = field(default_factory=dict)
    query: Mapping[str, str | list[str]] = field(default_factory=dict)
    words: Words = field(default_factory=lambda: CHART)
    counts: bool = False


class _Analytics(_Base):
    """What both clients of the analytics share.

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

    def __repr__(self) -> str:
        return f"{type(self).__name__}(base_url={self.base_url!r})"

    @property
    def speaks_to_amplitude(self) -> bool:
        """Whether requests go to one of Amplitude's own hosts."""
        return self.base_url in HOSTS.values()

    def _opened_with(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """Return the options of the HTTP client, with what the analytics want in place of a management key."""
        basic = options["headers"]["Authorization"].replace("Bearer", "Basic", 1)
        accept = "text/csv, application/json, text/plain"
        headers = {"Authorization": basic, "Accept": accept}
        return {**options, "base_url": self.base_url, "headers": headers}

    def _exchange(self, call: Any) -> Any:
        if not isinstance(call, Question):
            _refuse_other_keys(call)
        return AnalyticsExchange(call, hide=self._hide)

    def _filters_here(self, call: Any) -> bool:
        return False


class AnalyticsClient(_Analytics, Client):
    """A client of Amplitude's analytics. It reads charts and cohorts and changes nothing; see :class:`_Analytics`."""

    def _open(self, **options: Any) -> None:
        Client._open(self, **self._opened_with(options))

    def ask(self, question: Question[T]) -> T:
        """Send a question and return what it promises.

        :raises ValueError: an argument that is wrong in itself; nothing was sent.
        :raises AmplitudeError: the request failed.
        """
        return self._send(cast("Call[T]", question))


class AsyncAnalyticsClient(_Analytics, AsyncClient):
    """The same for ``async`` code."""

    def _open(self, **options: Any) -> None:
        AsyncClient._open(self, **self._opened_with(options))

    async def ask(self, question: Question[T]) -> T:
        """Send a question and return what it promises; raises as :meth:`AnalyticsClient.ask`."""
        return await self._send(cast("Call[T]", question))


class AnalyticsExchange(Exchange[T]):
    """One question on its way, over all its attempts.

    :param hide: replaces the keys in a text.
    """

    def __init__(self, question: Question[T], *, hide: Callable[[str], str]) -> None:
        # The exchange looks up the endpoints of the Management API, among which these don't belong; so it starts
        # with any one that reads, and this request takes its place.
        super().__init__(cast("Call[T]", deployments.list()), dialect="v1", prefix="", hide=hide)
        prepared = question.endpoint.prepare(question.arguments, dialect="v1")
        query = cast("dict[str, str]", {**prepared.query, **question.query})  # a list repeats its name
        self._prepared = prepared._replace(query=query, may_repeat=not question.counts)
        self._endpoint, self._path = question.endpoint, prepared.path
        self._question = question

    def _read_success(self, response: httpx.Response) -> T:
        super()._read_success(response)  # a web page is no answer
        try:
            return self._question.reader(bytes(self._content))
        except Unreadable as error:
            raise self._unreadable(error, response) from None

    def _unreadable(self, error: Unreadable, response: httpx.Response) -> AmplitudeError:
        raised = self._question.words[AmplitudeUnexpectedAnswer]
        return raised(self._hidden(f"{error}."), status=response.status_code, **self._facts())

    def _noted(self, error: AmplitudeError, *, repeat: bool) -> AmplitudeError:
        spared = self._question.counts and isinstance(error, AmplitudeRateLimited)
        return super()._noted(with_own_advice(error, self._question.words), repeat=repeat and not spared)


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


def _refuse_other_keys(call: Any) -> NoReturn:
    raise TypeError(f"{call!r} is a call of the Management API; send it with AmplitudeExperimentHook")


def _without(secrets: tuple[str, ...], text: str) -> str:
    for secret in secrets:
        text = text.replace(secret, "***")
    return text
