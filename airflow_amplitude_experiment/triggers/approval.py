"""Waiting beside an open approval: until it is answered, or until the next look is due.

Airflow tells no task that another one has ended, so the approval's state is asked for every few seconds. That is one
small question to Airflow's own API, none to Amplitude's. That API may fail for a while, and the wait goes on. Only
where that lasts does the task come back early, to ask on a worker, where a failure is tried again as for any task.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

from airflow.sdk.exceptions import AirflowRuntimeError
from airflow.triggers.base import BaseTrigger, TriggerEvent
from asgiref.sync import sync_to_async

from airflow_amplitude_experiment.operators._run import FINISHED, SHORTEST_WAIT, state_in

SECONDS_BETWEEN_QUESTIONS = 10.0
MOST_FAILURES = 30
"""How many questions in a row may fail before the task is woken to ask itself: five minutes."""

sleep = asyncio.sleep


class AmplitudeApprovalTrigger(BaseTrigger):
    """Fire when a task of a run has ended, or at a moment, whichever comes first.

    :param dag_id, run_id, task_id, map_index: the task; -1 where it isn't mapped.
    :param until: the moment, ISO 8601 with an offset.
    """

    def __init__(self, *, dag_id: str, run_id: str, task_id: str, map_index: int, until: str) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.dag_id = dag_id
        self.run_id = run_id
        self.watched_task_id = task_id
        self.map_index = map_index
        self.until = until

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Return what another triggerer needs to go on."""
        return (
            f"{type(self).__module__}.{type(self).__qualname__}",
            {
                "dag_id": self.dag_id,
                "run_id": self.run_id,
                "task_id": self.watched_task_id,
                "map_index": self.map_index,
                "until": self.until,
            },
        )

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Wait, and yield one event; the task that resumes reads everything itself."""
        until, failures = datetime.fromisoformat(self.until), 0
        await sleep(SHORTEST_WAIT.total_seconds())
        while failures < MOST_FAILURES and (left := (until - datetime.now(UTC)).total_seconds()) > 0:
            try:
                state = await sync_to_async(self._state)()
            except AirflowRuntimeError as error:
                failures += 1
                self.log.warning(
                    "Airflow can't tell how %s is (%s in a row): %s", self.watched_task_id, failures, error
                )
            else:
                failures = 0
                if state in FINISHED:
                    yield TriggerEvent({"approval": state})  # type: ignore[no-untyped-call]
                    return
            await sleep(min(left, SECONDS_BETWEEN_QUESTIONS))
        yield TriggerEvent({"approval": None})  # type: ignore[no-untyped-call]

    def _state(self) -> str | None:
        """Ask Airflow; in a thread, because it waits for the answer."""
        from airflow.sdk.execution_time.task_runner import RuntimeTaskInstance

        answer = RuntimeTaskInstance.get_task_states(
            dag_id=self.dag_id,
            task_ids=[self.watched_task_id],
            run_ids=[self.run_id],
            map_index=self.map_index,
        )
        return state_in(answer, run_id=self.run_id, task_id=self.watched_task_id, map_index=self.map_index)
