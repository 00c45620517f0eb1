"""Operators: one task, one job.

Names are imported when they are first used, so that a DAG file pays only for what it names.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .api_call import AmplitudeApiCallOperator as AmplitudeApiCallOperator
    from .archive import AmplitudeArchiveOperator as AmplitudeArchiveOperator
    from .create import AmplitudeCreateExperimentOperator as AmplitudeCreateExperimentOperator
    from .create import AmplitudeCreateFlagOperator as AmplitudeCreateFlagOperator
    from .decide import AmplitudeDecideExperimentOperator as AmplitudeDecideExperimentOperator
    from .deployments import AmplitudeAssignDeploymentsOperator as AmplitudeAssignDeploymentsOperator
    from .export_cohort import AmplitudeExportCohortOperator as AmplitudeExportCohortOperator
    from .groups import AmplitudeCreateHoldoutGroupOperator as AmplitudeCreateHoldoutGroupOperator
    from .groups import AmplitudeCreateMutexGroupOperator as AmplitudeCreateMutexGroupOperator
    from .groups import AmplitudeUpdateHoldoutGroupOperator as AmplitudeUpdateHoldoutGroupOperator
    from .groups import AmplitudeUpdateMutexSlotOperator as AmplitudeUpdateMutexSlotOperator
    from .kill import AmplitudeKillSwitchOperator as AmplitudeKillSwitchOperator
    from .ramp import AmplitudeRampRolloutOperator as AmplitudeRampRolloutOperator
    from .reconcile import AmplitudeReconcileRolloutOperator as AmplitudeReconcileRolloutOperator
    from .sync import AmplitudeSyncVariantCohortsOperator as AmplitudeSyncVariantCohortsOperator
    from .sync import AmplitudeSyncVariantUsersOperator as AmplitudeSyncVariantUsersOperator
    from .update import AmplitudeUpdateOperator as AmplitudeUpdateOperator
    from .weights import AmplitudeSetVariantWeightsOperator as AmplitudeSetVariantWeightsOperator

_HOME = {
    "AmplitudeApiCallOperator": "api_call",
    "AmplitudeArchiveOperator": "archive",
    "AmplitudeAssignDeploymentsOperator": "deployments",
    "AmplitudeCreateExperimentOperator": "create",
    "AmplitudeCreateFlagOperator": "create",
    "AmplitudeCreateHoldoutGroupOperator": "groups",
    "AmplitudeCreateMutexGroupOperator": "groups",
    "AmplitudeDecideExperimentOperator": "decide",
    "AmplitudeExportCohortOperator": "export_cohort",
    "AmplitudeKillSwitchOperator": "kill",
    "AmplitudeRampRolloutOperator": "ramp",
    "AmplitudeReconcileRolloutOperator": "reconcile",
    "AmplitudeSetVariantWeightsOperator": "weights",
    "AmplitudeSyncVariantCohortsOperator": "sync",
    "AmplitudeSyncVariantUsersOperator": "sync",
    "AmplitudeUpdateHoldoutGroupOperator": "groups",
    "AmplitudeUpdateMutexSlotOperator": "groups",
    "AmplitudeUpdateOperator": "update",
}
__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_HOME[name]}", __name__), name)
