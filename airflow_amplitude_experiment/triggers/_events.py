"""How an error travels from a trigger to its task.

A trigger that raises comes back as a bare ``TaskDeferralError``, which Airflow tries again. So an error that can't
heal is sent as an event, and one validator turns it into the same error again.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from airflow_amplitude_experiment.api import AmplitudeError, RolloutRefused
from airflow_amplitude_experiment.api.errors import cut, error_from_dict

PLAIN = {cls.__name__: cls for cls in (RolloutRefused, ValueError)}
"""Errors that hold nothing but their text."""


def error_event(error: Exception) -> dict[str, Any]:
    """Return the payload of an event that carries an error; it holds no key, as the error doesn't."""
    if isinstance(error, AmplitudeError):
        return {"error": error.as_dict()}
    name = next((name for name, cls in PLAIN.items() if isinstance(error, cls)), "ValueError")
    return {"error": {"type": name, "status": None, "path": "", "text": f"{error}"}}


def validated(event: Any, *fields: str) -> dict[str, Any]:
    """Return what a trigger reports, if it is what was waited for.

    :param event: the payload of the event, as Airflow hands it over.
    :param fields: exactly what it must hold.
    :raises AmplitudeError: the trigger sent this error.
    :raises RolloutRefused: the trigger sent this refusal.
    :raises ValueError: the trigger sent this, or something else altogether.
    """
    if isinstance(event, Mapping) and set(event) == {"error"}:
        raise _error(event["error"], event)
    if not isinstance(event, Mapping) or set(event) != set(fields):
        raise _unexpected(event)
    return dict(event)


def _error(described: Any, event: Any) -> Exception:
    try:
        if described["type"] in PLAIN:
            return PLAIN[described["type"]](described["text"])
        return error_from_dict(described)
    except (KeyError, TypeError, AttributeError):
        return _unexpected(event)


def _unexpected(event: Any) -> ValueError:
    return ValueError(f"The trigger sent an event that nobody waits for: {cut(repr(event), 200)}")
