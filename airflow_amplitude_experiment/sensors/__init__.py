"""Sensors: waiting until something is so in Amplitude.

Names are imported when they are first used, so that a DAG file pays only for what it names.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .end_date import AmplitudeEndDateSensor as AmplitudeEndDateSensor
    from .state import AmplitudeStateSensor as AmplitudeStateSensor

_HOME = {"AmplitudeEndDateSensor": "end_date", "AmplitudeStateSensor": "state"}
__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_HOME[name]}", __name__), name)
