"""Small builders that tests share."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from airflow_amplitude_experiment.api.models import Experiment, Flag, Version

if TYPE_CHECKING:
    from airflow_amplitude_experiment.emulator import Emulator

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
    """As much of a task instance as operators use.

    ``of_others`` holds what other tasks left: by task id their result, by (task id, key) anything else.
    """

    dag_id = "rollout"
    run_id = "manual__1"

    def __init__(self, try_number: int = 1, task_id: str = "task") -> None:
        self.try_number = try_number
        self.task_id = task_id
        self.map_index = -1
        self.xcoms: dict[str, Any] = {}
        self.of_others: dict[Any, Any] = {}
        self.states: dict[str, str] = {}

    def xcom_push(self, key: str, value: Any) -> None:
        self.xcoms[key] = json.loads(json.dumps(value))

    def xcom_pull(self, task_ids: str | list[str], key: str = "return_value", **_: Any) -> Any:
        if isinstance(task_ids, list):
            return [self.xcom_pull(task_id, key) for task_id in task_ids]
        if task_ids == self.task_id and key in self.xcoms:
            return self.xcoms[key]
        return self.of_others.get(task_ids if key == "return_value" else (task_ids, key))

    def get_task_states(self, *, task_ids: list[str], **_: Any) -> dict[str, dict[str, str]]:
        return {self.run_id: {each: self.states[each] for each in task_ids if each in self.states}}


def a_context(
    *, try_number: int = 1, run_type: str | None = "manual", clear_number: int = 0, task_id: str = "task"
) -> Any:
    """The context of a task; ``run_type=None`` leaves the run out."""
    context: dict[str, Any] = {"ti": FakeTaskInstance(try_number, task_id)}
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


def a_context_of_an_hour_ago(**options: Any) -> dict[str, Any]:
    """The context of a run that was due, and began, an hour ago."""
    context = a_context(**options)
    if "dag_run" in context:
        context["dag_run"].run_after = context["dag_run"].start_date = datetime.now(UTC) - timedelta(hours=1)
    return context


def connect(monkeypatch: pytest.MonkeyPatch, emulator: Emulator, **extra: Any) -> None:
    """Let the default connection lead to an emulator, at a pace that no test waits for."""
    connection = emulator.airflow_connection(**{"requests_per_second": 1000, **extra})
    monkeypatch.setenv("AIRFLOW_CONN_AMPLITUDE_EXPERIMENT_DEFAULT", connection)
