"""What can go wrong between us and Amplitude.

::

    AmplitudeError
    ├── AmplitudeAuthError          401: the management key is unknown or revoked
    ├── AmplitudePermissionError    403: the key has no access to this project
    ├── AmplitudeInvalidRequest     400 and every other 4xx
    ├── AmplitudeNotFound           404
    ├── AmplitudeNotEditable        405, 501: web experiments, guides and surveys
    ├── AmplitudeRateLimited        429
    ├── AmplitudeServerError        5xx
    ├── AmplitudeConnectionError    no answer arrived
    ├── AmplitudeUnexpectedAnswer   HTML, truncated, or not the documented shape
    └── AmplitudeNotConfirmed       accepted, but reading back shows something else
    RolloutRefused                  we decided not to send anything
    └── AmplitudeReadOnly           the connection is read-only

Every :class:`AmplitudeError` carries the request it belongs to. No text holds the management key.
"""

from __future__ import annotations

from typing import Any, ClassVar

TEXT_LIMIT = 500


class AmplitudeError(Exception):
    """A request to Amplitude's Management API that did not end well.

    :param text: what the server answered, or what happened; cut to 500 characters and free of keys.
    :param status: HTTP status, ``None`` where no answer arrived.
    :param method: HTTP method of the request.
    :param path: path of the request, percent-encoded, without host and query.
    :param maybe_applied: the request may have taken effect although it did not end well. Read before
        writing again.
    :param retry_after: seconds that the server asks to wait, where it says so.
    """

    advice: ClassVar[str] = ""

    def __init__(
        self,
        text: str,
        *,
        status: int | None = None,
        method: str = "",
        path: str = "",
        maybe_applied: bool = False,
        retry_after: float | None = None,
    ) -> None:
        self.text = cut(text)
        self.status = status
        self.method = method
        self.path = path
        self.maybe_applied = maybe_applied
        self.retry_after = retry_after
        super().__init__(self._message())

    def __reduce__(self) -> tuple[Any, ...]:
        return error_from_dict, (self.as_dict(),)

    def as_dict(self) -> dict[str, Any]:
        """Return the error as plain JSON values, to travel in a trigger event."""
        return {
            "type": type(self).__name__,
            "text": self.text,
            "status": self.status,
            "method": self.method,
            "path": self.path,
            "maybe_applied": self.maybe_applied,
            "retry_after": self.retry_after,
        }

    def _message(self) -> str:
        request = f"{self.method} {self.path}".strip()
        what = f"{request} answered {self.status}" if self.status is not None else request
        parts = [f"{what}: {self.text}" if what else self.text, self.advice]
        if self.maybe_applied:
            parts.append("The change may have been applied: read the object before writing again.")
        return " ".join(part for part in parts if part)


class AmplitudeAuthError(AmplitudeError):
    """401: the management key is unknown or revoked, or belongs to the other region."""

    advice = (
        "Check the management key in the Airflow connection, and its region: "
        "a key of the EU data center is unknown in the US one."
    )


class AmplitudePermissionError(AmplitudeError):
    """403: the management key has no access to this project."""

    advice = "Check that the management key may see this project (Amplitude: Experiment > Management API)."


class AmplitudeInvalidRequest(AmplitudeError):
    """400 or another 4xx: Amplitude calls the request wrong. Sending it again does not help."""

    advice = "Amplitude refused the request as it is; correct it before trying again."


class AmplitudeNotFound(AmplitudeError):
    """404: no such object, variant or position. Ids, not keys, are what the paths take."""

    advice = "Check the id, its project and the region."


class AmplitudeNotEditable(AmplitudeError):
    """405 or 501: this kind of object can't be edited by the API (web experiments, guides and surveys)."""

    advice = "Objects of this kind can only be edited in Amplitude's app."


class AmplitudeRateLimited(AmplitudeError):
    """429: over 100 requests in a second or 100,000 in a UTC day, counted per project."""

    advice = (
        "The project's limit is 100 requests a second and 100,000 a day (until 00:00 UTC); if it lasts longer "
        "than a minute the day's quota is used up."
    )


class AmplitudeServerError(AmplitudeError):
    """5xx: Amplitude failed. ``maybe_applied`` says whether a write may have taken effect."""

    advice = "Amplitude failed to answer; try again later."


class AmplitudeConnectionError(AmplitudeError):
    """No answer arrived. ``maybe_applied`` says whether the request may have reached Amplitude."""

    advice = "Check the network, the proxy and the base URL."


class AmplitudeUnexpectedAnswer(AmplitudeError):
    """An answer that isn't what the API documents: HTML, truncated, or of another shape."""

    advice = "This does not look like Amplitude's API; check the base URL and any proxy in between."


class AmplitudeNotConfirmed(AmplitudeError):
    """Amplitude accepted a write, and reading the object back shows something else."""

    advice = (
        "An approval may be pending in Amplitude, or somebody changed the object at the same moment. "
        "Look at the object in Amplitude; the write is not repeated."
    )


class RolloutRefused(Exception):
    """We decided not to write. Nothing was sent. The text says what was asked, what is there, what to do."""


class AmplitudeReadOnly(RolloutRefused):
    """The connection is read-only: the call was decided and logged, and not sent."""


_BY_NAME: dict[str, type[AmplitudeError]] = {
    cls.__name__: cls
    for cls in (
        AmplitudeError,
        AmplitudeAuthError,
        AmplitudePermissionError,
        AmplitudeInvalidRequest,
        AmplitudeNotFound,
        AmplitudeNotEditable,
        AmplitudeRateLimited,
        AmplitudeServerError,
        AmplitudeConnectionError,
        AmplitudeUnexpectedAnswer,
        AmplitudeNotConfirmed,
    )
}


def error_class(status: int) -> type[AmplitudeError]:
    """Return the error class of an HTTP status that isn't a success."""
    if status < 400:
        return AmplitudeUnexpectedAnswer
    by_status: dict[int, type[AmplitudeError]] = {
        401: AmplitudeAuthError,
        403: AmplitudePermissionError,
        404: AmplitudeNotFound,
        405: AmplitudeNotEditable,
        429: AmplitudeRateLimited,
        501: AmplitudeNotEditable,
    }
    return by_status.get(status, AmplitudeServerError if status >= 500 else AmplitudeInvalidRequest)


def error_from_dict(data: dict[str, Any]) -> AmplitudeError:
    """Build the error that :meth:`AmplitudeError.as_dict` described."""
    facts = dict(data)
    return _BY_NAME[facts.pop("type")](facts.pop("text"), **facts)


def cut(text: str, limit: int = TEXT_LIMIT) -> str:
    """Return the text on one line, without control characters, in at most ``limit`` characters."""
    flat = " ".join("".join(each if each.isprintable() else " " for each in text).split())
    if len(flat) <= limit:
        return flat
    note = f" [cut, {len(flat)} characters]"
    return flat[: limit - len(note)] + note
