"""The pace and the pool against the real limit of the API: 100 requests a second, 100,000 a day."""

from __future__ import annotations

import asyncio
import math
import random
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import pytest
from airflow.providers.common.compat.sdk import TaskDeferred

from airflow_amplitude_experiment.api import _client, _retry, flags
from airflow_amplitude_experiment.api._client import AsyncClient, Client, Pace
from airflow_amplitude_experiment.emulator import Emulator
from airflow_amplitude_experiment.operators import AmplitudeRampRolloutOperator, _quota
from airflow_amplitude_experiment.triggers import _quota as trigger_module
from tests.builders import a_context_of_an_hour_ago, connect

LIMIT = 100
PACE = 5
SLOTS = LIMIT // PACE
"""What docs/limits.md tells people to give a project's pool."""

ROUNDS = 4
"""Seconds that a client is busy for at its full pace."""


@pytest.fixture
def limited(emulator):
    """Amplitude with its limit of the second."""
    emulator.options(requests_per_second=LIMIT)
    emulator.add_flag("nav")
    return emulator


def busy(emulator, way, *, pace, requests, until=lambda: False):
    """Let as many clients as the pool has slots start in the same moment, each with so many requests to make."""
    options = {"base_url": emulator.url, "requests_per_second": pace}
    together = threading.Barrier(SLOTS)

    def ask(_):
        with Client(emulator.management_key, **options) as client:
            together.wait()
            for _ in range(requests):
                if not until():
                    client.send(flags.list(limit=1))

    async def ask_async():
        async with AsyncClient(emulator.management_key, **options) as client:
            for _ in range(requests):
                if not until():
                    await client.send(flags.list(limit=1))

    async def all_at_once():
        await asyncio.gather(*(ask_async() for _ in range(SLOTS)))

    if way == "async":
        asyncio.run(all_at_once())
    else:
        with ThreadPoolExecutor(SLOTS) as threads:
            list(threads.map(ask, range(SLOTS)))
    return [each["status"] for each in emulator.requests()]


def test_tasks_in_the_pool_of_a_project_never_meet_its_limit_of_the_second(limited, way):
    statuses = busy(limited, way, pace=PACE, requests=ROUNDS * PACE)
    assert statuses == [200] * (ROUNDS * LIMIT)


def test_the_same_tasks_without_a_pace_do_meet_it(limited):
    refused = threading.Event()
    limited.world.log.listener = lambda entry: refused.set() if entry["status"] == 429 else None
    busy(limited, "sync", pace=None, requests=100 * LIMIT, until=refused.is_set)
    assert refused.is_set()


@pytest.mark.parametrize("pace", [0.5, 1, 2.5, PACE, 20, LIMIT, 2000])
@pytest.mark.parametrize("lag", [0.0, 0.05, 0.5, 3.0])
def test_no_second_holds_more_requests_than_the_pace_however_late_single_ones_arrive(monkeypatch, pace, lag):
    chance, clock, arrived = random.Random(pace), SimpleNamespace(now=1000.0), []
    monkeypatch.setattr(_client, "time", SimpleNamespace(monotonic=lambda: clock.now))
    kept = Pace(pace)
    for _ in range(1000):
        clock.now += kept.reserve()
        with kept.answered():
            clock.now += chance.uniform(0, lag)
            arrived.append(clock.now)
            clock.now += chance.uniform(0, lag)
    assert all(later - earlier > 1 - 1e-6 for earlier, later in zip(arrived, arrived[math.ceil(pace) :], strict=False))


def test_a_lag_costs_a_client_no_more_than_its_share_of_a_second(monkeypatch):
    clock = SimpleNamespace(now=1000.0)
    monkeypatch.setattr(_client, "time", SimpleNamespace(monotonic=lambda: clock.now))
    kept = Pace(PACE)
    for _ in range(100):
        clock.now += kept.reserve()
        with kept.answered():
            clock.now += 0.1
    assert clock.now - 1000.0 == pytest.approx(20 * 1.1, abs=1.0)


# --- the quota of the day ---------------------------------------------------------------------------


class Clock:
    """The time of Amplitude and of the triggerer; it passes only while a trigger sleeps."""

    def __init__(self):
        self.moment = datetime.now(UTC).replace(hour=20, minute=0)

    def __call__(self):
        return self.moment

    async def sleep(self, seconds):
        self.moment += timedelta(seconds=seconds)


@pytest.fixture
def clock(monkeypatch):
    monkeypatch.setattr(_retry, "PATIENCE", 0.0)
    fake = Clock()
    monkeypatch.setattr(_quota, "now", fake)
    monkeypatch.setattr(trigger_module, "now", fake)
    monkeypatch.setattr(trigger_module, "sleep", fake.sleep)
    return fake


@pytest.mark.parametrize("retry_after", ["none", "seconds", "date"])
@pytest.mark.parametrize("left", [0, 1, 2])
def test_a_task_that_uses_up_the_days_quota_goes_on_in_the_first_minutes_of_the_next_day(
    monkeypatch, clock, left, retry_after
):
    with Emulator(clock=clock) as emulator:
        connect(monkeypatch, emulator)
        emulator.add_flag("nav", enabled=True, rollout_percentage=10)
        emulator.options(requests_per_second=None, requests_per_day=left, retry_after=retry_after)
        ramp = AmplitudeRampRolloutOperator(task_id="ramp", flag_key="nav", percentage=25)
        context, began = a_context_of_an_hour_ago(), clock()

        with pytest.raises(TaskDeferred) as deferred:
            ramp.execute(context)
        spent = len(emulator.requests())
        emulator.options(requests_per_day=100)  # of the next day too
        monkeypatch.setattr(emulator.world.limits, "_days", {"100001": (began.date().isoformat(), 100)})
        event = asyncio.run(anext(deferred.value.trigger.run()))

        assert clock().date() == began.date() + timedelta(days=1)
        assert (clock().hour, clock().minute < 6) == (0, True)
        assert len(emulator.requests()) - spent <= 9
        ramp.resume_execution(deferred.value.method_name, {"event": event.payload}, context)
        assert emulator.flag("nav")["rolloutPercentage"] == 25
        sent = [each["method"] for each in emulator.requests() if each["status"] == 200]
        assert sent.count("PATCH") == 1
