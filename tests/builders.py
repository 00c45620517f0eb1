"""Small builders that tests share."""

from __future__ import annotations

from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

from airflow_amplitude_experiment.api.models import Experiment, Flag, Version

RUN_AFTER = datetime(2026, 11, 20, 12, tzinfo=UTC)


def a_flag(**fields: Any) -> Flag:
    """A live flag at 10 %, as the API would answer it."""
    return Flag.model_validate(
        {
            "id": "21002",
            "key": "new-checkout",
            "projectId": "100001",
            "enabled": True,
            "rolloutPercentage": 10,
            "targetSegments": [],
            **fields,
        }
    )


def an_experiment(**fields: Any) -> Experiment:
    """A running experiment at 10 %."""
    return Experiment.model_validate(a_flag(variants=[{"key": "control"}, {"key": "treatment"}], **fields).as_json())


def a_segment(name: str = "Beta testers", percentage: int = 10, **fields: Any) -> dict[str, Any]:
    """A target segment with one condition."""
    return {
        "name": name,
        "conditions": [{"type": "property", "prop": "gp:beta", "op": "is", "values": ["true"]}],
        "percentage": percentage,
        "rolloutWeights": {"on": 1},
        "bucketingKey": "user_id",
        **fields,
    }


def a_version(
    number: int, hour: float, percentage: int | None = None, *, enabled: bool = True, **config: Any
) -> Version:
    """A version written so many hours after ``RUN_AFTER``."""
    shown = {"rolloutPercentage": percentage} if percentage is not None else {}
    moment = datetime.fromtimestamp(RUN_AFTER.timestamp() + hour * 3600, UTC)
    return Version.model_validate(
        {
            "version": number,
            "createdAt": moment.isoformat(),
            "createdBy": "x@example.com",
            "flagConfig": {"id": "21002", "enabled": enabled, **shown, **config},
        }
    )


class FakeTaskInstance:
    """As much of a task instance as operators use."""

    def __init__(self, try_number: int = 1) -> None:
        self.try_number = try_number
        self.xcoms: dict[str, Any] = {}
        self.of_others: dict[str, Any] = {}

    def xcom_push(self, key: str, value: Any) -> None:
        self.xcoms[key] = value

    def xcom_pull(self, task_ids: list[str]) -> list[Any]:
        return [self.of_others.get(task_id) for task_id in task_ids]


def a_context(*, try_number: int = 1, run_type: str | None = "manual", clear_number: int = 0) -> Any:
    """The context of a task; ``run_type=None`` leaves the run out."""
    context: dict[str, Any] = {"ti": FakeTaskInstance(try_number)}
    if run_type is not None:
        context["dag_run"] = SimpleNamespace(
            run_type=run_type,
            run_after=RUN_AFTER,
            start_date=RUN_AFTER,
            clear_number=clear_number,
            run_id="manual__1",
            dag_id="rollout",
            conf={},
        )
    return context
