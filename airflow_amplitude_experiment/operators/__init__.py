"""Operators: one task, one job.

Names are imported when they are first used, so that a DAG file pays only for what it names.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .api_call import AmplitudeApiCallOperator as AmplitudeApiCallOperator
    from .create import AmplitudeCreateExperimentOperator as AmplitudeCreateExperimentOperator
    from .create import AmplitudeCreateFlagOperator as AmplitudeCreateFlagOperator
    from .kill import AmplitudeKillSwitchOperator as AmplitudeKillSwitchOperator
    from .ramp import AmplitudeRampRolloutOperator as AmplitudeRampRolloutOperator
    from .reconcile import AmplitudeReconcileRolloutOperator as AmplitudeReconcileRolloutOperator

_HOME = {
    "AmplitudeApiCallOperator": "api_call",
    "AmplitudeCreateExperimentOperator": "create",
    "AmplitudeCreateFlagOperator": "create",
    "AmplitudeKillSwitchOperator": "kill",
    "AmplitudeRampRolloutOperator": "ramp",
    "AmplitudeReconcileRolloutOperator": "reconcile",
}
__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_HOME[name]}", __name__), name)
