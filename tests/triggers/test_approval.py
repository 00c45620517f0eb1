"""Waiting beside an approval: what ends the wait, what doesn't, and that another triggerer can go on."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from datetime import UTC, datetime, timedelta

import pytest
from airflow.sdk.exceptions import AirflowRuntimeError, ErrorType
from airflow.sdk.execution_time.comms import ErrorResponse
from airflow.sdk.execution_time.task_runner import RuntimeTaskInstance

from airflow_amplitude_experiment.operators._run import FINISHED
from airflow_amplitude_experiment.triggers import approval as module
from airflow_amplitude_experiment.triggers.approval import MOST_FAILURES, AmplitudeApprovalTrigger

try:
    from airflow.sdk.serde import deserialize, serialize
except ImportError:  # Airflow 3.1
    from airflow.serialization.serde import deserialize, serialize

NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)
APPROVE = "rollout.to_10.approve"
OPEN = ("deferred", "awaiting_input", "running", "queued", "scheduled", "up_for_retry", "restarting", None)


def a_trigger(*, map_index=-1, until=NOW + timedelta(minutes=5)):
    return AmplitudeApprovalTrigger(
        dag_id="rollouts", run_id="manual__1", task_id=APPROVE, map_index=map_index, until=until.isoformat()
    )


class Airflow:
    """Airflow as the trigger sees it: time passes only while it sleeps, and its API answers what was prepared."""

    def __init__(self):
        self.moment = NOW
        self.sleeps = []
        self.questions = []
        self.answers = ["deferred"]
        self.threads = set()

    def now(self, zone):
        return self.moment.astimezone(zone)

    async def sleep(self, seconds):
        assert seconds > 0
        self.sleeps.append(seconds)
        self.moment += timedelta(seconds=seconds)

    def states(self, **question):
        """Answer with the next of the prepared states, with the last one for ever."""
        self.questions.append(question)
        self.threads.add(threading.current_thread())
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        if isinstance(answer, dict):
            return answer
        return {} if answer is None else {"manual__1": {APPROVE: answer}}

    @property
    def waited(self):
        return (self.moment - NOW).total_seconds()


@pytest.fixture
def airflow(monkeypatch):
    fake = Airflow()

    class Clock(datetime):
        now = fake.now

    monkeypatch.setattr(module, "sleep", fake.sleep)
    monkeypatch.setattr(module, "datetime", Clock)
    monkeypatch.setattr(RuntimeTaskInstance, "get_task_states", staticmethod(fake.states))
    return fake


def fired(trigger):
    """Run a trigger to its end, and return the payloads of its events."""

    async def collected():
        return [event.payload async for event in trigger.run()]

    return asyncio.run(collected())


def a_failure():
    return AirflowRuntimeError(ErrorResponse(error=ErrorType.API_SERVER_ERROR, detail={"status_code": 503}))


@pytest.mark.parametrize("state", FINISHED)
def test_it_fires_once_as_soon_as_the_approval_has_ended_however_it_ended(airflow, state):
    airflow.answers = ["deferred", "deferred", state]
    assert fired(a_trigger()) == [{"approval": state}]
    assert airflow.waited == 25


@pytest.mark.parametrize("state", OPEN)
def test_it_waits_while_the_approval_is_open_and_fires_exactly_when_the_next_look_is_due(airflow, state):
    airflow.answers = [state]
    assert fired(a_trigger(until=NOW + timedelta(seconds=25))) == [{"approval": None}]
    assert airflow.sleeps == [5, 10, 10]


def test_of_an_approval_that_has_ended_already_it_tells_as_soon_as_airflow_can_take_it(airflow):
    airflow.answers = ["success"]
    assert fired(a_trigger()) == [{"approval": "success"}]
    assert airflow.sleeps == [5]


def test_where_the_moment_has_passed_it_fires_without_a_question(airflow):
    assert fired(a_trigger(until=NOW - timedelta(hours=1))) == [{"approval": None}]
    assert airflow.questions == []


def test_it_asks_for_the_one_task_of_the_one_run(airflow):
    airflow.answers = ["success"]
    fired(a_trigger())
    assert airflow.questions == [
        {"dag_id": "rollouts", "task_ids": [APPROVE], "run_ids": ["manual__1"], "map_index": -1}
    ]


def test_in_a_mapped_group_only_the_own_index_counts(airflow):
    siblings = {f"{APPROVE}_0": "success", f"{APPROVE}_21": "failed"}
    airflow.answers = [
        {"manual__1": {**siblings, f"{APPROVE}_2": "deferred"}},
        {"manual__1": {**siblings, f"{APPROVE}_2": "success"}},
    ]
    assert fired(a_trigger(map_index=2)) == [{"approval": "success"}]
    assert airflow.waited == 15
    assert airflow.questions[0]["map_index"] == 2


# --- while Airflow's API fails ---


def test_a_passing_failure_of_airflows_api_ends_no_wait(airflow, caplog):
    failures = [a_failure() for _ in range(MOST_FAILURES - 1)]
    airflow.answers = [*failures, "deferred", *failures, "success"]
    with caplog.at_level(logging.WARNING):
        assert fired(a_trigger(until=NOW + timedelta(days=1))) == [{"approval": "success"}]
    assert airflow.waited == 5 + (2 * MOST_FAILURES - 1) * 10


def test_a_failure_that_lasts_wakes_the_task_to_ask_itself(airflow):
    airflow.answers = [a_failure()]
    assert fired(a_trigger(until=NOW + timedelta(days=1))) == [{"approval": None}]
    assert (len(airflow.questions), airflow.waited) == (MOST_FAILURES, 305)


def test_a_failure_delays_no_look(airflow):
    airflow.answers = [a_failure()]
    assert fired(a_trigger(until=NOW + timedelta(seconds=15))) == [{"approval": None}]
    assert airflow.waited == 15


def test_an_error_of_ours_is_not_waited_out(airflow):
    airflow.answers = [KeyError("a mistake")]
    with pytest.raises(KeyError):
        fired(a_trigger())


# --- a good guest of the triggerer ---


def test_other_triggers_go_on_while_airflow_takes_its_time_to_answer(airflow, monkeypatch):
    monkeypatch.setattr(
        RuntimeTaskInstance,
        "get_task_states",
        staticmethod(lambda **_: time.sleep(0.3) or {"manual__1": {APPROVE: "success"}}),
    )

    async def beside():
        waiting = asyncio.create_task(anext(a_trigger().run()))
        beats = 0
        while not waiting.done():
            await asyncio.sleep(0.01)
            beats += 1
        return beats

    assert asyncio.run(beside()) > 5


def test_a_cancelled_wait_ends_at_once(airflow, monkeypatch):
    monkeypatch.setattr(module, "sleep", asyncio.sleep)

    async def cancelled():
        waiting = asyncio.create_task(anext(a_trigger().run()))
        await asyncio.sleep(0.1)
        waiting.cancel()
        await waiting

    with pytest.raises(asyncio.CancelledError):
        asyncio.run(cancelled())


def test_another_triggerer_goes_on_with_the_same_wait():
    trigger = a_trigger(map_index=3)
    path, arguments = trigger.serialize()
    assert path == "airflow_amplitude_experiment.triggers.approval.AmplitudeApprovalTrigger"
    again = AmplitudeApprovalTrigger(**deserialize(serialize(arguments)))
    assert again.serialize() == (path, arguments)
    assert arguments == {
        "dag_id": "rollouts",
        "run_id": "manual__1",
        "task_id": APPROVE,
        "map_index": 3,
        "until": "2026-11-20T12:05:00+00:00",
    }
