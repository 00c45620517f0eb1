"""Triggers: waiting in the triggerer, where it costs no worker slot.

Names are imported when they are first used, so that a DAG file pays only for what it names.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .change import AmplitudeChangeTrigger as AmplitudeChangeTrigger
    from .cohort import AmplitudeCohortTrigger as AmplitudeCohortTrigger
    from .end_date import AmplitudeEndDateTrigger as AmplitudeEndDateTrigger
    from .state import AmplitudeStateTrigger as AmplitudeStateTrigger

_HOME = {
    "AmplitudeChangeTrigger": "change",
    "AmplitudeCohortTrigger": "cohort",
    "AmplitudeEndDateTrigger": "end_date",
    "AmplitudeStateTrigger": "state",
}
__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_HOME[name]}", __name__), name)
