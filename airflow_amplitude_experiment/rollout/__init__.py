"""Staged rollouts: plans, guardrails, and the task group that carries them out.

Names are imported when they are first used, so that a DAG file pays only for what it names.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from airflow_amplitude_experiment.api.errors import RolloutRefused as RolloutRefused

if TYPE_CHECKING:
    from .group import staged_rollout as staged_rollout
    from .guardrails import ChartGuardrail as ChartGuardrail
    from .guardrails import SampleRatioGuardrail as SampleRatioGuardrail
    from .guardrails import SqlGuardrail as SqlGuardrail
    from .guardrails import ThresholdGuardrail as ThresholdGuardrail
    from .plan import RolloutPlan as RolloutPlan
    from .plan import Stage as Stage
    from .windows import Window as Window

_HOME = {
    "ChartGuardrail": "guardrails",
    "RolloutPlan": "plan",
    "SampleRatioGuardrail": "guardrails",
    "SqlGuardrail": "guardrails",
    "Stage": "plan",
    "ThresholdGuardrail": "guardrails",
    "Window": "windows",
    "staged_rollout": "group",
}
__all__ = sorted([*_HOME, "RolloutRefused"])


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_HOME[name]}", __name__), name)
