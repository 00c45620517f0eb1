"""Watch one rollout from outside: what was asked of Amplitude, and what its SDK then measures."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from demo.airflow_server import AirflowServer
from demo.local_amplitude import DEPLOYMENT_KEY, LocalAmplitude, Write
from demo.measure import USERS, Measurement, measure

TOLERANCE = 1.5  # points; three standard deviations at 10,000 users and 50 %


class RolloutNotConfirmedError(RuntimeError):
    """The rollout did not do what it says; the message names the stage."""


@dataclass(frozen=True)
class Stage:
    """One percentage that was asked, and what the SDK measured.

    :param name: the task that asked, or ``before``.
    :param asked: the percentage that was asked.
    :param asked_at: when, in seconds since Airflow was healthy.
    :param measured: the share of users who have the variant, in percent.
    :param measured_at: when that was known.
    :param lost: how many users had the variant one stage earlier and have it no more.
    """

    name: str
    asked: int
    asked_at: float
    measured: float
    measured_at: float
    lost: int

    @property
    def difference(self) -> float:
        """Points between what was measured and what was asked."""
        return self.measured - self.asked

    def complaint(self) -> str | None:
        """Say what is wrong with the stage, if anything is."""
        if abs(self.difference) > TOLERANCE:
            return f"{self.name}: {self.asked} % was asked, the SDK measured {self.measured:.2f} %"
        if self.lost:
            return f"{self.name}: {self.lost} of {USERS} users had the variant and lost it"
        return None


class RolloutWatch:
    """Follows one run of the rollout DAG until the flag stands at 100 %.

    :param amplitude: where the percentages are written.
    :param airflow: where the run is.
    :param flag_key: the flag that is rolled out.
    :param healthy_at: ``time.time()`` when Airflow had become healthy; seconds count from here.
    """

    def __init__(self, amplitude: LocalAmplitude, airflow: AirflowServer, flag_key: str, healthy_at: float) -> None:
        self._amplitude = amplitude
        self._airflow = airflow
        self._flag_key = flag_key
        self._healthy_at = healthy_at
        self._before = Measurement(frozenset())

    def before(self) -> Stage:
        """Measure while nobody has asked for anything: the flag may not exist yet."""
        return self._confirm("before", Write(0, time.time()))

    def stages(self, dag_id: str, run_id: str, *, timeout: float, meanwhile: Callable[[], None]) -> Iterator[Stage]:
        """Yield each stage when it is confirmed, and end after 100 % and the end of the run.

        :param meanwhile: called a few times per second, to show that something is going on.
        """
        deadline = time.monotonic() + timeout
        seen = 0
        while True:
            writes = self._amplitude.percentages_asked()
            for write in writes[seen:]:
                yield self._confirm(self._task_of(write, dag_id, run_id), write)
            seen = len(writes)
            state = self._airflow.run(dag_id, run_id)["state"]
            if state == "failed":
                raise RolloutNotConfirmedError(f"run {run_id} failed\n{self._failed_logs(dag_id, run_id)}")
            if writes and writes[-1].percentage == 100:
                return
            if state == "success":
                raise RolloutNotConfirmedError(f"run {run_id} ended at {writes[-1:] or 'no percentage'}")
            if time.monotonic() > deadline:
                states = self._airflow.task_states(dag_id, run_id)
                raise RolloutNotConfirmedError(f"100 % was not reached in {timeout:.0f} s: {states}")
            meanwhile()
            time.sleep(0.15)

    def _confirm(self, name: str, write: Write) -> Stage:
        now = measure(self._amplitude.url, DEPLOYMENT_KEY, self._flag_key)
        stage = Stage(
            name=name,
            asked=write.percentage,
            asked_at=write.at - self._healthy_at,
            measured=now.percent,
            measured_at=time.time() - self._healthy_at,
            lost=len(self._before.having - now.having),
        )
        self._before = now
        return stage

    def _task_of(self, write: Write, dag_id: str, run_id: str) -> str:
        """Return the task that sent a write, without its group: the one that had started last at that moment."""
        started: list[dict[str, Any]] = [
            task
            for task in self._airflow.task_instances(dag_id, run_id)
            if task["start_date"] and _epoch(task["start_date"]) <= write.at
        ]
        if not started:
            return "somebody else"
        latest = max(started, key=lambda task: _epoch(task["start_date"]))
        return str(latest["task_id"]).removeprefix("rollout.")

    def _failed_logs(self, dag_id: str, run_id: str) -> str:
        """Return the end of each failed task's log."""
        texts = []
        for task in self._airflow.task_instances(dag_id, run_id):
            if task["state"] == "failed":
                log = self._airflow.logs(dag_id, run_id, task["task_id"], try_number=task["try_number"])
                texts.append(f"--- the end of the log of {task['task_id']} ---\n" + _last_lines(log, 25))
        return "\n".join(texts)


def _last_lines(text: str, count: int) -> str:
    return "\n".join(line[:400] for line in text.splitlines()[-count:])


def _epoch(moment: str) -> float:
    return datetime.fromisoformat(moment).timestamp()
