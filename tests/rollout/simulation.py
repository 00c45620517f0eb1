"""A simulated Airflow for one staged rollout: real tasks, a real client, and a worker that can be killed anywhere.

What is simulated is what decides whether writes are safe, as it was seen on Airflow 3.1.6 and 3.3.2: a task that
starts again has lost its XComs and counts one try more, one that resumes after a deferral keeps both; a worker that is
gone is noticed and its task tried again; a clear counts on the run, and moves its start where it had finished.
The clock stands still but for a moment at each request and for the waits of deferred tasks.
"""

from __future__ import annotations

import copy
import json
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any, Literal, NamedTuple

import httpx
import pytest
import time_machine
from airflow.providers.common.compat.sdk import (
    AirflowException,
    AirflowFailException,
    AirflowSkipException,
    TaskDeferred,
)

from airflow_amplitude_experiment.api import AmplitudeError
from airflow_amplitude_experiment.api._client import Client
from airflow_amplitude_experiment.emulator.app import application
from airflow_amplitude_experiment.hooks import freeze, guard
from airflow_amplitude_experiment.operators import _way_back, _way_down
from airflow_amplitude_experiment.operators import ramp as ramp_module
from airflow_amplitude_experiment.operators._base import AmplitudeOperator

START = datetime(2026, 11, 23, 8, tzinfo=UTC)
"""A Monday."""

A_REQUEST = timedelta(milliseconds=50)
UNTIL_A_RETRY = timedelta(minutes=1)
FINISHED = ("success", "failed", "skipped", "upstream_failed")
MOST_STEPS = 600

QUIET = logging.getLogger("simulated")
QUIET.disabled = True


class Killed(BaseException):
    """The worker is gone: nothing catches this, and nothing after it reaches anybody."""


class Death(NamedTuple):
    """When a worker dies: at a request of its attempt, or with its work done and not yet told to Airflow."""

    at: int
    when: Literal["before", "after"]


LAST_MOMENT = Death(-1, "after")


class Sent(NamedTuple):
    """A request that reached Amplitude."""

    task_id: str
    try_number: int
    attempt: int
    method: str
    path: str
    body: Any
    moment: datetime
    frozen: bool

    @property
    def writes(self) -> bool:
        return self.method != "GET"


class InProcess(httpx.BaseTransport):
    """The emulator without a socket: nothing in it waits, so its coroutine ends when it is stepped once."""

    def __init__(self, app: Any) -> None:
        self._app = app

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        body, told = request.read(), []

        async def receive() -> dict[str, Any]:
            return {"type": "http.request", "body": body, "more_body": False}

        async def send(message: Any) -> None:
            told.append(message)

        path, _, query = request.url.raw_path.partition(b"?")
        scope = {
            "type": "http",
            "http_version": "1.1",
            "method": request.method,
            "scheme": request.url.scheme,
            "path": request.url.path,
            "raw_path": path,
            "query_string": query,
            "root_path": "",
            "headers": [(name.lower(), value) for name, value in request.headers.raw],
            "client": ("127.0.0.1", 1),
            "server": ("127.0.0.1", 80),
            "extensions": {},
        }
        with pytest.raises(StopIteration):
            self._app(scope, receive, send).send(None)
        content = b"".join(each.get("body", b"") for each in told)
        return httpx.Response(told[0]["status"], headers=told[0]["headers"], content=content)


class Wire(httpx.BaseTransport):
    """Where every request passes, and where workers die."""

    def __init__(self, simulation: Simulation, inner: httpx.BaseTransport) -> None:
        self._simulation = simulation
        self._inner = inner

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        return self._simulation.carry(request, self._inner)


@dataclass
class Worker:
    """One attempt at a task: an ``execute``, or an ``execute_complete`` after a wait."""

    task_id: str
    try_number: int
    number: int
    dies: Death | None
    dead: bool = False
    methods: list[str] = field(default_factory=list)

    def die_at(self, when: str) -> None:
        if self.dead or self.dies == (len(self.methods) - 1, when):
            self.dead = True
            raise Killed


class Instance:
    """A task instance, as operators see it."""

    dag_id = "release"
    map_index = -1

    def __init__(self, simulation: Simulation, task_id: str) -> None:
        self._simulation = simulation
        self.task_id = task_id
        self.run_id: str = simulation.run.run_id
        self.try_number = 0
        self.tries_left = 0
        self.state: str | None = None
        self.waits: TaskDeferred | None = None

    def xcom_push(self, key: str, value: Any) -> None:
        if not self._simulation.worker.dead:
            self._simulation.xcoms[self.task_id, key] = json.dumps(value)

    def xcom_pull(self, task_ids: Any, key: str = "return_value", map_indexes: Any = None) -> Any:
        if isinstance(task_ids, list):
            return [self.xcom_pull(each, key) for each in task_ids]
        return json.loads(self._simulation.xcoms.get((task_ids, key), "null"))

    def get_task_states(self, *, task_ids: list[str], **_: Any) -> dict[str, Any]:
        states = {each: self._simulation.instances[each].state for each in task_ids}
        return {self.run_id: {each: state for each, state in states.items() if state}}


class Simulation:
    """One run of a DAG on an Airflow that can lose its workers.

    :param dag: a DAG with a staged rollout and nothing else.
    :param counts_clears: whether a clear of a running run is counted on it, as Airflow 3.3 does.
    """

    def __init__(
        self, dag: Any, emulator: Any, clock: Any, *, run_type: str = "manual", counts_clears: bool = True
    ) -> None:
        self.dag = dag
        self._in_order = dag.topological_sort()
        self.emulator = emulator
        self.counts_clears = counts_clears
        self._clock = clock
        self.sent: list[Sent] = []
        self.before_request: Callable[[Sequence[str]], None] = lambda _: None
        self.frozen = False
        self.attempts = 0
        self.worker = Worker("", 0, 0, None)
        self.begin_run(run_type)

    # --- the run ---

    def begin_run(self, run_type: str) -> None:
        """Start a run now, on what is there in Amplitude."""
        now = self.now
        self.run = SimpleNamespace(
            run_type=run_type,
            run_id=f"{run_type}__{now.isoformat()}",
            dag_id="release",
            run_after=now,
            start_date=now + timedelta(seconds=1),
            logical_date=now,
            data_interval_start=now,
            data_interval_end=now,
            partition_date=None,
            partition_key=None,
            clear_number=0,
            conf={},
        )
        self._clock.shift(2)
        self.xcoms: dict[tuple[str, str], str] = {}
        self.instances = {task.task_id: Instance(self, task.task_id) for task in self.dag.tasks}
        for instance in self.instances.values():
            instance.tries_left = 4

    @property
    def now(self) -> datetime:
        return datetime.now(UTC)

    @property
    def is_finished(self) -> bool:
        return all(each.state in FINISHED for each in self.instances.values())

    @property
    def states(self) -> dict[str, str | None]:
        return {task_id.removeprefix("rollout."): each.state for task_id, each in self.instances.items()}

    @property
    def writes(self) -> list[Sent]:
        return [each for each in self.sent if each.writes]

    def clear(self, *task_ids: str) -> None:
        """Clear tasks, as a person does in the UI."""
        if self.is_finished:
            self.run.clear_number += 1
            self.run.start_date = self.now
        elif self.counts_clears:
            self.run.clear_number += 1
        for task_id in task_ids:
            instance = self.instances[task_id]
            instance.state, instance.waits, instance.tries_left = None, None, 4

    # --- the scheduler ---

    def finish(self, deaths: Iterator[Death | None] | None = None) -> None:
        """Let the scheduler run what can run until nothing can."""
        for _ in range(MOST_STEPS):
            if not self.step(next(deaths, None) if deaths else None):
                return
        raise AssertionError(f"it never ends: {self.states}")

    def step(self, dies: Death | None = None) -> bool:
        """Start or resume one task; ``False`` where nothing is left to do."""
        for task in self._in_order:
            if self.instances[task.task_id].state in (None, "up_for_retry") and self._is_ready(task):
                self.attempt(task.task_id, dies)
                return True
        waiting = [each for each in self.instances.values() if each.state == "deferred"]
        if not waiting:
            return False
        first = min(waiting, key=_fires_at)
        self._clock.move_to(max(self.now, _fires_at(first)))
        self.attempt(first.task_id, dies)
        return True

    def _is_ready(self, task: Any) -> bool:
        above = [self.instances[each].state for each in task.upstream_task_ids]
        if any(state not in FINISHED for state in above):
            return False
        if task.is_teardown or all(state == "success" for state in above):
            return True
        self.instances[task.task_id].state = "skipped" if "skipped" in above else "upstream_failed"
        return False

    # --- the worker ---

    def attempt(self, task_id: str, dies: Death | None = None) -> None:
        """Let one worker start or resume a task, and die where it is told to."""
        instance = self.instances[task_id]
        resumed, instance.waits = instance.waits, None
        if resumed is None:
            instance.try_number += 1
            self.xcoms = {key: value for key, value in self.xcoms.items() if key[0] != task_id}
        self.attempts += 1
        self.worker = worker = Worker(task_id, instance.try_number, self.attempts, dies)
        operator = copy.copy(self.dag.get_task(task_id))  # a worker has read the DAG file anew
        context = {"ti": instance, "dag_run": self.run, "dag": self.dag, "task": operator}
        instance.state = "running"
        try:
            if resumed is None:
                result = operator.execute(context)
            else:
                result = getattr(operator, resumed.method_name)(context, None, **(resumed.kwargs or {}))
            state = "success"
        except TaskDeferred as deferred:
            state, result = "deferred", deferred
        except AirflowSkipException:
            state = "skipped"
        except AirflowFailException:
            state = "failed"
        except (AirflowException, AmplitudeError, Killed):
            state = "up_for_retry"
        if worker.dead or dies == LAST_MOMENT:
            worker.dead, state = True, "up_for_retry"
        if state == "up_for_retry":
            self._clock.shift(UNTIL_A_RETRY)
            instance.tries_left -= 1
            state = state if instance.tries_left else "failed"
        elif state == "success":
            self.xcoms[task_id, "return_value"] = json.dumps(result)
        elif state == "deferred":
            instance.waits = result
        instance.state = state

    def carry(self, request: httpx.Request, inner: httpx.BaseTransport) -> httpx.Response:
        """Take one request to Amplitude and its answer back, if the worker lives."""
        worker = self.worker
        if worker.dead:
            raise Killed
        self.before_request(worker.methods)
        worker.methods.append(request.method)
        worker.die_at("before")
        self._clock.shift(A_REQUEST)
        body = json.loads(request.content) if request.content else None
        path = request.url.path
        facts = (worker.task_id, worker.try_number, worker.number)
        self.sent.append(Sent(*facts, request.method, path, body, self.now, self.frozen))
        response = inner.handle_request(request)
        response.read()
        worker.die_at("after")
        return response


@contextmanager
def simulated(dag: Any, emulator: Any, *, socket: bool = False, **options: Any) -> Iterator[Simulation]:
    """Run a DAG's tasks against the emulator, in this process or over a real socket; nobody waits."""
    with pytest.MonkeyPatch.context() as patch, time_machine.travel(START, tick=False) as clock:
        simulation = Simulation(dag, emulator, clock, **options)
        inner = httpx.HTTPTransport() if socket else InProcess(application_of(emulator))
        wire = Wire(simulation, inner)
        connection = emulator.airflow_connection(requests_per_second=100_000)
        patch.setenv("AIRFLOW_CONN_AMPLITUDE_EXPERIMENT_DEFAULT", connection)
        patch.setattr(
            Client,
            "_open",
            lambda self, **settings: setattr(self, "_http", httpx.Client(transport=wire, trust_env=False, **settings)),
        )
        patch.setattr(AmplitudeOperator, "log", QUIET)
        patch.setattr(guard, "log", QUIET)
        patch.setattr(ramp_module, "SECONDS_BEFORE_ANOTHER_LOOK", 0.0)
        patch.setattr(_way_back, "SECONDS_OF_LAG", 0.0)
        patch.setattr(_way_down, "pause", lambda *_: None)
        patch.setattr(freeze, "_value", lambda: '["*"]' if simulation.frozen else None)
        yield simulation


def _fires_at(instance: Instance) -> datetime:
    """Return when a deferred task is resumed; one that waits for the quota, at the first look."""
    trigger: Any = instance.waits.trigger  # type: ignore[union-attr]
    moment: datetime = getattr(trigger, "moment", None) or datetime.fromisoformat(trigger.look_at)
    return moment


_applications: dict[int, Any] = {}


def application_of(emulator: Any) -> Any:
    """Return the emulator's application, built once for all examples."""
    if id(emulator) not in _applications:
        _applications[id(emulator)] = application(emulator.world)
    return _applications[id(emulator)]
