"""Amplitude's Experiment Management API as typed Python.

A call is data: the functions of ``experiments``, ``flags``, ``mutexes``, ``holdouts``, ``deployments`` and
``versions`` return a :class:`Call`, and a client sends it::

    from airflow_amplitude_experiment.api import Client, flags

    with Client(key) as client:
        for flag in client.iterate(flags.list(project_id="100001")):
            print(flag.key, flag.rollout_percentage)

Names are imported when they are first used: a DAG file that names a call loads neither httpx's client nor the
models.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ._call import Call as Call
    from ._client import AsyncClient as AsyncClient
    from ._client import Client as Client
    from .errors import AmplitudeAuthError as AmplitudeAuthError
    from .errors import AmplitudeConnectionError as AmplitudeConnectionError
    from .errors import AmplitudeError as AmplitudeError
    from .errors import AmplitudeInvalidRequest as AmplitudeInvalidRequest
    from .errors import AmplitudeNotConfirmed as AmplitudeNotConfirmed
    from .errors import AmplitudeNotEditable as AmplitudeNotEditable
    from .errors import AmplitudeNotFound as AmplitudeNotFound
    from .errors import AmplitudePermissionError as AmplitudePermissionError
    from .errors import AmplitudeRateLimited as AmplitudeRateLimited
    from .errors import AmplitudeReadOnly as AmplitudeReadOnly
    from .errors import AmplitudeServerError as AmplitudeServerError
    from .errors import AmplitudeUnexpectedAnswer as AmplitudeUnexpectedAnswer
    from .errors import RolloutRefused as RolloutRefused
    from .groups import deployments as deployments
    from .groups import holdouts as holdouts
    from .groups import mutexes as mutexes
    from .groups import versions as versions
    from .objects import experiments as experiments
    from .objects import flags as flags

_ERRORS = (
    "AmplitudeAuthError",
    "AmplitudeConnectionError",
    "AmplitudeError",
    "AmplitudeInvalidRequest",
    "AmplitudeNotConfirmed",
    "AmplitudeNotEditable",
    "AmplitudeNotFound",
    "AmplitudePermissionError",
    "AmplitudeRateLimited",
    "AmplitudeReadOnly",
    "AmplitudeServerError",
    "AmplitudeUnexpectedAnswer",
    "RolloutRefused",
)
_HOME = {
    "AsyncClient": "_client",
    "Call": "_call",
    "Client": "_client",
    "deployments": "groups",
    "experiments": "objects",
    "flags": "objects",
    "holdouts": "groups",
    "mutexes": "groups",
    "versions": "groups",
    **dict.fromkeys(_ERRORS, "errors"),
}
__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f".{_HOME[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME})
