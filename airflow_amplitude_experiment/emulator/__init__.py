"""A local server that speaks Amplitude's Experiment Management API.

For the demo, for this package's own tests, and for the tests of those who use it. It is written from the
published reference alone and imports nothing else of this package, so that the client and the server are
two independent readings of the same documents. ``Emulator`` starts it in this process, ``create_app`` gives
the bare ASGI application, ``python -m airflow_amplitude_experiment.emulator`` starts it from a shell.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .app import create_app
    from .handle import Emulator

__all__ = ["Emulator", "create_app"]

_HOMES = {"Emulator": "handle", "create_app": "app"}


def __getattr__(name: str) -> Any:
    # FastAPI takes half a second to import; whoever only imports the package does not pay for it.
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f".{_HOMES[name]}", __name__), name)
