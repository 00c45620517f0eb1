"""The state trigger: what counts as wanted, that many waits share one poll, and that it can be taken over."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import pytest
from airflow.providers.common.compat.sdk import TaskDeferred

from airflow_amplitude_experiment.api import RolloutRefused, _retry
from airflow_amplitude_experiment.triggers import (
    AmplitudeEndDateTrigger,
    AmplitudeStateTrigger,
    _board,
    _moments,
    _poll,
)
from airflow_amplitude_experiment.triggers._until import Until, holds
from tests.builders import a_flag, an_experiment

try:
    from airflow.sdk.serde import deserialize, serialize
except ImportError:  # Airflow 3.1
    from airflow.serialization.serde import deserialize, serialize

NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)
MINUTE = timedelta(minutes=1)


class FakeClock:
    """Time that passes only while a poll sleeps; ``at`` says what happens then."""

    def __init__(self):
        self.moment = NOW
        self.events = {}

    def now(self):
        return self.moment

    def at(self, moment, what):
        self.events[moment] = what

    async def nap(self, seconds, changed):
        self.moment += timedelta(seconds=seconds)
        for moment in sorted(self.events):
            if moment <= self.moment:
                self.events.pop(moment)()
        await asyncio.sleep(0)


@pytest.fixture(autouse=True)
def clock(monkeypatch):
    fake = FakeClock()
    for module in (_board, _poll, _moments):
        monkeypatch.setattr(module, "now", fake.now)
    monkeypatch.setattr(_board, "nap", fake.nap)
    monkeypatch.setattr(_moments, "random", SimpleNamespace(uniform=lambda low, high: high))
    monkeypatch.setattr(_retry, "PATIENCE", -1.0)
    monkeypatch.setattr(_retry, "FIRST_WAIT", 0.0)
    return fake


@pytest.fixture
def amplitude(amplitude_emulator, monkeypatch):
    """The emulator with twenty flags, and a connection to it without a pace."""
    value = json.loads(amplitude_emulator.airflow_connection())
    value["extra"] = {**value["extra"], "requests_per_second": 100}
    monkeypatch.setenv("AIRFLOW_CONN_AMPLITUDE_EXPERIMENT_DEFAULT", json.dumps(value))
    for number in range(20):
        amplitude_emulator.add_flag(f"f{number}", enabled=True, rolloutPercentage=10)
    amplitude_emulator.clear_requests()
    return amplitude_emulator


def a_trigger(amplitude, key="f0", **options):
    return AmplitudeStateTrigger(
        **{
            "amplitude_conn_id": "amplitude_experiment_default",
            "kind": "flag",
            "object_id": amplitude.flag(key)["id"],
            "object_key": key,
            "project_id": "100001",
            "next_look": (NOW + MINUTE).isoformat(),
            "until": {"percentage": 50},
            **options,
        }
    )


async def first_of(events):
    try:
        return (await anext(events)).payload
    finally:
        await events.aclose()


def sent(emulator):
    return [request["path"].removeprefix("/api/1/") for request in emulator.requests()]


# --- waiting -----------------------------------------------------------------------------------------------


def test_it_fires_once_the_percentage_is_reached(amplitude, clock):
    clock.at(NOW + 20 * MINUTE, lambda: amplitude.change("f0", rolloutPercentage=60))
    assert asyncio.run(first_of(a_trigger(amplitude).run())) == {
        "kind": "flag",
        "key": "f0",
        "id": amplitude.flag("f0")["id"],
        "found": {"rollout_percentage": 60},
        "looked_at": "2026-11-20T12:21:00+00:00",
    }
    assert len(sent(amplitude)) == 5  # after a minute, then each five minutes, as nobody hosts the poll


def test_what_is_kept_is_plain_holds_no_secret_and_goes_on_elsewhere(amplitude, clock):
    trigger = a_trigger(amplitude, until={"enabled": False, "tags": ["a", "b"]}, interval=30.0)
    path, kept = trigger.serialize()
    assert amplitude.management_key not in json.dumps(kept)
    assert amplitude.management_key not in repr(trigger.shared_stream_key())
    again = AmplitudeStateTrigger(**deserialize(serialize(kept)))
    assert again.serialize() == (path, kept)


@pytest.mark.parametrize("kept", [{"until": {"percentage": 500}}, {"next_look": "soon"}])
def test_what_another_version_kept_and_this_one_refuses_ends_this_wait_and_not_the_triggerer(amplitude, kept):
    """Of an error in ``__init__`` Airflow's triggerer dies, and again when it is restarted."""
    event = asyncio.run(first_of(a_trigger(amplitude, **kept).run()))
    assert event["error"]["type"] == "ValueError"
    assert sent(amplitude) == []


def test_any_triggerer_may_run_it_also_one_of_a_queue(amplitude):
    assert a_trigger(amplitude).supports_triggerer_queue is True
    assert AmplitudeEndDateTrigger.supports_triggerer_queue is True


def test_a_task_of_a_queue_is_deferred_to_the_triggerers_of_that_queue(amplitude, monkeypatch):
    """Airflow's own step from a deferred task to the message that names the triggerer's queue."""
    pytest.importorskip("airflow.triggers.shared_stream", reason="triggers have no queue here")
    from airflow.sdk.execution_time import task_runner

    monkeypatch.setenv("AIRFLOW__TRIGGERER__QUEUES_ENABLED", "True")
    task = SimpleNamespace(queue="amplitude")
    instance = SimpleNamespace(task=task, dag_id="d", task_id="t", run_id="r")
    deferred = TaskDeferred(trigger=a_trigger(amplitude), method_name="execute_complete")
    message, _ = task_runner._defer_task(deferred, instance, SimpleNamespace(info=lambda *_, **__: None))
    assert message.queue == "amplitude"


@pytest.mark.parametrize("fault", ["status", "rate_limit", "html", "refuse"])
def test_passing_errors_only_delay_it(amplitude, clock, fault):
    amplitude.change("f0", rolloutPercentage=60)
    amplitude.fault(fault, times=4)
    assert asyncio.run(first_of(a_trigger(amplitude).run()))["key"] == "f0"


def test_waits_for_other_things_of_one_project_share_a_poll_and_other_kinds_do_not(amplitude):
    one, two = a_trigger(amplitude), a_trigger(amplitude, "f1", until={"enabled": False}, interval=30.0)
    assert one.shared_stream_key() == two.shared_stream_key()
    of_experiments = a_trigger(amplitude, kind="experiment")
    end = AmplitudeEndDateTrigger(
        amplitude_conn_id="amplitude_experiment_default", on_missing="fail", next_look=NOW.isoformat(),
        object_id="1", object_key="e", project_id="100001",
    )  # fmt: skip
    assert end.shared_stream_key() == of_experiments.shared_stream_key() != one.shared_stream_key()


# --- many of them ------------------------------------------------------------------------------------------


def test_without_shared_streams_one_wait_drives_the_poll_for_all_and_another_takes_over(amplitude, clock):
    """The driver's own wait ends first; each wait ends with its own news, and a page serves all."""

    async def run():
        waits = [asyncio.ensure_future(first_of(a_trigger(amplitude, f"f{number}").run())) for number in range(20)]
        clock.at(NOW + 2 * MINUTE, lambda: amplitude.change("f0", rolloutPercentage=50))
        clock.at(NOW + 30 * MINUTE, lambda: [amplitude.change(f"f{n}", rolloutPercentage=90) for n in range(1, 20)])
        return await asyncio.gather(*waits)

    events = asyncio.run(run())
    assert [event["key"] for event in events] == [f"f{number}" for number in range(20)]
    assert [event["found"]["rollout_percentage"] for event in events] == [50, *[90] * 19]
    assert set(sent(amplitude)) == {"flags"}
    assert len(sent(amplitude)) <= 8


def test_a_driver_that_is_cancelled_hands_the_poll_over(amplitude, clock):
    async def run():
        first = asyncio.ensure_future(first_of(a_trigger(amplitude, "f0").run()))
        await asyncio.sleep(0)
        second = asyncio.ensure_future(first_of(a_trigger(amplitude, "f1").run()))
        await asyncio.sleep(0)
        first.cancel()
        amplitude.change("f1", rolloutPercentage=50)
        return await asyncio.wait_for(second, 60)

    assert asyncio.run(run())["key"] == "f1"


def test_airflows_shared_stream_hosts_one_poll_for_all(amplitude, clock):
    shared_stream = pytest.importorskip("airflow.triggers.shared_stream")
    triggers = [a_trigger(amplitude, f"f{number}") for number in range(20)]

    async def wait(manager, number, trigger):
        key = trigger.shared_stream_key()
        stream = manager.subscribe(trigger_id=number, trigger=trigger, key=key)
        try:
            return await first_of(trigger.filter_shared_stream(stream))
        finally:
            await manager.unsubscribe(number, key)

    async def run():
        manager = shared_stream.SharedStreamManager(log=shared_stream.log)
        clock.at(NOW + 10 * MINUTE, lambda: [amplitude.change(f"f{n}", rolloutPercentage=90) for n in range(20)])
        events = await asyncio.gather(*(wait(manager, number, each) for number, each in enumerate(triggers)))
        assert not _board._BOARDS[asyncio.get_running_loop()]
        return events

    assert [event["key"] for event in asyncio.run(run())] == [f"f{number}" for number in range(20)]
    assert sent(amplitude) == ["flags"] * 10  # one a minute


def test_a_poll_whose_waits_have_all_ended_sends_nothing_more_and_is_forgotten(amplitude, clock):
    amplitude.change("f0", rolloutPercentage=60)

    async def run():
        for _ in range(2):
            await first_of(a_trigger(amplitude).run())
            assert not _board._BOARDS[asyncio.get_running_loop()]
        left = asyncio.ensure_future(first_of(a_trigger(amplitude, "f1").run()))
        await asyncio.sleep(0)
        left.cancel()
        await asyncio.wait([left])
        assert not _board._BOARDS[asyncio.get_running_loop()]

    asyncio.run(run())
    assert len(sent(amplitude)) == 2


@pytest.mark.parametrize("failure", [RuntimeError("Airflow's own"), asyncio.CancelledError()])
def test_waits_outlive_airflows_host_of_the_poll(amplitude, clock, monkeypatch, failure):
    """Airflow fails the streams of all who wait, or, where its host is cancelled, tells nobody."""
    shared_stream = pytest.importorskip("airflow.triggers.shared_stream")
    triggers = [a_trigger(amplitude, f"f{number}") for number in range(5)]
    step, failing = _poll.Poll.step, [failure]

    async def failing_once(self):
        if failing:
            raise failing.pop()
        await step(self)

    async def wait(manager, number, trigger):
        stream = manager.subscribe(trigger_id=number, trigger=trigger, key=trigger.shared_stream_key())
        return await first_of(trigger.filter_shared_stream(stream))

    async def run():
        manager = shared_stream.SharedStreamManager(log=shared_stream.log)
        waits = [asyncio.ensure_future(wait(manager, number, each)) for number, each in enumerate(triggers)]
        await asyncio.sleep(0)
        monkeypatch.setattr(_poll.Poll, "step", failing_once)
        for number in range(5):
            amplitude.change(f"f{number}", rolloutPercentage=90)
        return await asyncio.wait_for(asyncio.gather(*waits), 60)

    assert [event["key"] for event in asyncio.run(run())] == [f"f{number}" for number in range(5)]
    assert not failing


@pytest.mark.parametrize(("status", "name"), [(401, "AmplitudeAuthError"), (403, "AmplitudePermissionError")])
def test_a_refused_key_ends_all_with_the_reason(amplitude, clock, status, name):
    amplitude.fault("status", status=status, times=None)

    async def run():
        return await asyncio.gather(*(first_of(a_trigger(amplitude, f"f{number}").run()) for number in range(5)))

    events = asyncio.run(run())
    assert [event["error"]["type"] for event in events] == [name] * 5
    assert len(sent(amplitude)) == 1


# --- what counts as wanted ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("until", "fields", "so"),
    [
        ({"state": "running"}, {"state": "running"}, True),
        ({"state": "running"}, {"state": "planning"}, False),
        ({"state": "running"}, {}, False),
        ({"state": ["done", "running"]}, {"state": "running"}, True),
        ({"enabled": True}, {"enabled": True}, True),
        ({"enabled": "true"}, {"enabled": True}, True),
        ({"enabled": "False"}, {"enabled": True}, False),
        ({"percentage": 50}, {"rolloutPercentage": 50}, True),
        ({"percentage": "50"}, {"rolloutPercentage": 75}, True),
        ({"rolloutPercentage": 50}, {"rolloutPercentage": 49}, False),
        ({"percentage": "== 0"}, {"rolloutPercentage": 0}, True),
        ({"percentage": "<= 10"}, {"rolloutPercentage": 11}, False),
        ({"decision": "made"}, {"decision": "rollback"}, True),
        ({"decision": "made"}, {"decision": None}, False),
        ({"decision": "made"}, {}, False),
        ({"decision": "rollout"}, {"decision": None}, False),
        ({"decision": None}, {"decision": None}, True),
        ({"decision": "None"}, {"decision": None}, True),
        ({"tags": "ready"}, {"tags": ["beta", "ready"]}, True),
        ({"tags": "ready"}, {"tags": []}, False),
        ({"archived": True}, {"deleted": True}, True),
        ({"archived": False}, {}, True),
        ({"somethingNew": 3}, {"somethingNew": 3}, True),
        ({"something_new": "3"}, {"somethingNew": 3}, True),
        ({"state": "running", "enabled": False}, {"state": "running", "enabled": True}, False),
    ],
)
def test_what_counts_as_wanted(until, fields, so):
    verdict = Until(until, "experiment").judge(an_experiment(**fields), NOW)
    assert (verdict.record is not None) is so
    assert verdict.matters_at is None


def test_an_archived_object_is_refused_unless_that_is_waited_for():
    with pytest.raises(RolloutRefused, match="is archived"):
        Until({"enabled": True}, "flag").judge(a_flag(deleted=True), NOW)
    assert Until({"archived": True}, "flag").judge(a_flag(deleted=True), NOW).record


def test_a_field_that_amplitude_does_not_show_is_refused_and_not_waited_for_for_ever():
    with pytest.raises(RolloutRefused, match="no field 'percent_of_users'"):
        Until({"percent_of_users": 3}, "flag").judge(a_flag(), NOW)


@pytest.mark.parametrize(
    ("until", "kind", "text"),
    [
        ({}, "flag", "at least one field"),
        ("running", "flag", "at least one field"),
        ({"state": "running"}, "flag", "which flags don't have"),
        ({"percentage": 0}, "flag", "== 0"),
        ({"percentage": 101}, "flag", "1 to 100"),
        ({"percentage": "half"}, "flag", "1 to 100"),
        ({"percentage": True}, "flag", "1 to 100"),
        ({"enabled": {"a": 1}}, "flag", "must be text"),
        ({1: 2}, "flag", "a field's name is a text"),
        ({"tags": []}, "experiment", "names no value"),
        ({"percentage": ">= 10", "rolloutPercentage": "<= 50"}, "flag", "more than once"),
    ],
)
def test_what_can_not_be_meant_is_refused(until, kind, text):
    with pytest.raises(ValueError, match=text):
        Until(until, kind)


def test_a_text_that_is_no_number_is_never_nothing():
    assert not holds(None, "rollout")
    assert not holds(True, "yes")
