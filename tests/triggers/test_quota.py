"""Waiting for the quota: when it looks, what that costs, what ends the wait, and that another triggerer can go on."""

from __future__ import annotations

import asyncio
import json
import logging
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import pytest

from airflow_amplitude_experiment.api import AmplitudeRateLimited
from airflow_amplitude_experiment.triggers import _moments
from airflow_amplitude_experiment.triggers import _quota as module
from airflow_amplitude_experiment.triggers._quota import AmplitudeQuotaTrigger
from tests.builders import connect

try:
    from airflow.sdk.serde import deserialize, serialize
except ImportError:  # Airflow 3.1
    from airflow.serialization.serde import deserialize, serialize

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
CONNECTION = "amplitude_experiment_default"


class FakeClock:
    """Time that passes only while somebody sleeps; ``at`` says what happens then."""

    def __init__(self):
        self.moment = NOW
        self.events = {}

    def now(self):
        return self.moment

    def at(self, moment, what):
        self.events[moment] = what

    async def sleep(self, seconds):
        assert 0 < seconds <= 3600
        self.moment += timedelta(seconds=seconds)
        for moment in sorted(self.events):
            if moment <= self.moment:
                self.events.pop(moment)()
        assert self.moment < NOW + timedelta(days=2), "it waits for ever"


@pytest.fixture(autouse=True)
def clock(monkeypatch):
    fake = FakeClock()
    monkeypatch.setattr(module, "now", fake.now)
    monkeypatch.setattr(module, "sleep", fake.sleep)
    for each in (_moments, module):
        monkeypatch.setattr(each, "random", SimpleNamespace(uniform=lambda low, high: low if low >= 1 else 1.0))
    monkeypatch.setattr(AmplitudeQuotaTrigger, "log", logging.getLogger("tests.trigger"))
    return fake


@pytest.fixture
def amplitude(amplitude_emulator, monkeypatch):
    """The emulator with three flags, and a connection to it."""
    connect(monkeypatch, amplitude_emulator)
    for number in range(3):
        amplitude_emulator.add_flag(f"f{number}")
    amplitude_emulator.clear_requests()
    return amplitude_emulator


def a_trigger(**options):
    look_at = (NOW + 5 * MINUTE).isoformat()
    given = {"amplitude_conn_id": CONNECTION, "project_id": None, "look_at": look_at, "failures": 1}
    return AmplitudeQuotaTrigger(**{**given, **options})


def fired(trigger):
    """Run a trigger to its end, and return the payloads of its events."""

    async def collected():
        return [event.payload async for event in trigger.run()]

    return asyncio.run(collected())


def minutes(moments):
    return [round((moment - NOW) / MINUTE, 2) for moment in moments]


@pytest.fixture
def looks(clock, monkeypatch):
    """The moments at which Amplitude was asked."""
    seen, ask = [], module._Door._ask

    async def seen_ask(door):
        seen.append(clock.moment)
        return await ask(door)

    monkeypatch.setattr(module._Door, "_ask", seen_ask)
    return seen


# --- when it looks, and what that costs --------------------------------------------------------------------


def test_it_looks_once_when_it_is_due_and_resumes_the_task(amplitude, looks):
    assert fired(a_trigger()) == [None]
    assert minutes(looks) == [5]
    (request,) = amplitude.requests()
    assert (request["method"], request["path"]) == ("GET", "/api/1/flags")
    assert request["query"] == {"limit": "1", "projectId": amplitude.project_id}


def test_while_the_quota_lasts_the_pauses_double_up_to_an_hour_with_one_request_each(amplitude, looks, clock):
    amplitude.options(requests_per_day=0)
    clock.at(NOW + timedelta(hours=5), lambda: amplitude.options(requests_per_day=None))
    assert fired(a_trigger()) == [None]
    assert minutes(looks) == [5, 15, 35, 75, 135, 195, 255, 315]


def test_at_the_latest_it_looks_in_the_first_minutes_of_the_new_day(amplitude, looks, clock):
    amplitude.options(requests_per_day=0)
    midnight = datetime(2026, 11, 23, tzinfo=UTC)
    clock.moment = midnight - 20 * MINUTE
    clock.at(midnight, lambda: amplitude.options(requests_per_day=None))
    fired(a_trigger(look_at=(clock.moment + 5 * MINUTE).isoformat(), failures=9))
    assert [moment >= midnight for moment in looks] == [False, True]
    assert looks[-1] <= midnight + 5 * MINUTE


def test_a_new_day_that_amplitude_begins_a_little_later_costs_minutes_and_no_hour(amplitude, looks, clock):
    amplitude.options(requests_per_day=0)
    midnight = datetime(2026, 11, 23, tzinfo=UTC)
    clock.at(midnight + MINUTE, lambda: amplitude.options(requests_per_day=None))
    assert fired(a_trigger()) == [None]
    assert minutes(looks)[-2:] == [720.02, 725.02]


@pytest.mark.parametrize("fault", ["status", "refuse", "html", "truncated"])
def test_amplitude_out_of_reach_makes_the_pauses_longer_and_ends_no_wait(amplitude, looks, fault):
    amplitude.fault(fault, times=3)
    assert fired(a_trigger(failures=0)) == [None]
    assert minutes(looks) == [5, 5.5, 6.5, 8.5]


def test_every_further_wait_is_one_line_with_when_it_looks_again_and_its_end_is_one_too(amplitude, caplog):
    caplog.set_level(logging.INFO, logger="tests.trigger")
    amplitude.fault("rate_limit", times=2)
    fired(a_trigger())
    *waits, end = [each.getMessage() for each in caplog.records if each.name == "tests.trigger"]
    assert len(waits) == 2
    assert waits[0].startswith("GET /api/1/flags answered 429")
    assert "looking again at 2026-11-22 12:15:00Z" in waits[0]
    assert end == "Amplitude answers again. The task starts over."


def test_the_older_api_is_asked_for_one_page_too(amplitude, monkeypatch):
    connect(monkeypatch, amplitude, dialect="beta")
    fired(a_trigger())
    assert [each["query"] for each in amplitude.requests()] == [{"limit": "1"}]


def test_the_quota_of_the_project_that_the_task_names_is_what_is_waited_for(amplitude, monkeypatch):
    amplitude.seed(
        {
            "projects": [{"id": "200002", "name": "Staging"}],
            "keys": [{"key": "key-of-both", "projects": ["100001", "200002"]}],
        }
    )
    connection = json.loads(amplitude.airflow_connection())
    connection |= {"password": "key-of-both", "extra": {}}
    monkeypatch.setenv("AIRFLOW_CONN_AMPLITUDE_EXPERIMENT_DEFAULT", json.dumps(connection))
    fired(a_trigger(project_id="200002"))
    assert amplitude.requests()[0]["query"]["projectId"] == "200002"


# --- many ----------------------------------------------------------------------------------------------------


class Crowd:
    """Many waits on one event loop whose time passes only while all of them sleep."""

    def __init__(self, clock, monkeypatch):
        self.clock, self.sleeping, self.asked = clock, [], []
        self.answer = None
        monkeypatch.setattr(module, "sleep", self.sleep)
        monkeypatch.setattr(module._Door, "_ask", self.ask)

    async def sleep(self, seconds):
        woken = asyncio.get_running_loop().create_future()
        self.sleeping.append((self.clock.moment + timedelta(seconds=seconds), id(woken), woken))
        await woken

    async def ask(self):
        self.asked.append(self.clock.moment)
        await asyncio.sleep(0)
        return self.answer() if self.answer else None

    def resumed(self, triggers):
        """Run all triggers, and return when each fired."""
        ends = {}

        async def one(number, trigger):
            await anext(trigger.run())
            ends[number] = self.clock.moment

        async def all_of_them():
            running = [asyncio.create_task(one(*each)) for each in enumerate(triggers)]
            while len(ends) < len(triggers):
                for _ in range(20):
                    await asyncio.sleep(0)
                if self.sleeping:
                    self.sleeping.sort()
                    self.clock.moment, _, woken = self.sleeping.pop(0)
                    woken.set_result(None)
            await asyncio.gather(*running)

        asyncio.run(all_of_them())
        return [ends[number] for number in range(len(triggers))]


@pytest.fixture
def crowd(clock, monkeypatch):
    return Crowd(clock, monkeypatch)


def spread_out(number):
    return (NOW + 5 * MINUTE + timedelta(seconds=0.7 * number)).isoformat()


def test_two_hundred_tasks_of_a_project_ask_at_most_three_times_a_minute_and_start_one_after_the_other(crowd):
    ends = crowd.resumed([a_trigger(look_at=spread_out(number)) for number in range(200)])
    assert len(crowd.asked) == 7
    assert all(later - earlier >= MINUTE / 3 for earlier, later in zip(crowd.asked, crowd.asked[1:], strict=False))
    assert len(set(ends)) == 200


def test_while_the_quota_lasts_they_ask_at_most_three_times_a_minute(crowd, clock):
    refusal = AmplitudeRateLimited("no", status=429, method="GET", path="/api/1/flags")
    crowd.answer = lambda: refusal if clock.moment < NOW + timedelta(hours=1) else None
    crowd.resumed([a_trigger(look_at=spread_out(number)) for number in range(200)])
    assert all(later - earlier >= MINUTE / 3 for earlier, later in zip(crowd.asked, crowd.asked[1:], strict=False))


def test_what_due_tasks_learn_at_the_same_moment_costs_one_request(crowd):
    crowd.resumed([a_trigger() for _ in range(200)])
    assert len(crowd.asked) == 1


def test_other_projects_and_connections_are_asked_for_themselves(crowd):
    crowd.resumed([a_trigger(), a_trigger(project_id="200002"), a_trigger(amplitude_conn_id="another")])
    assert len(crowd.asked) == 3


def test_a_triggerer_that_comes_back_late_lets_tasks_start_one_after_the_other(crowd, clock, monkeypatch):
    numbers = iter(range(1, 1000))
    monkeypatch.setattr(module, "random", SimpleNamespace(uniform=lambda low, high: low + next(numbers) % 11))
    clock.moment = NOW + timedelta(hours=3)
    ends = crowd.resumed([a_trigger() for _ in range(22)])
    assert len(set(ends)) == 11
    assert min(ends) >= clock.now() - MINUTE
    assert all(timedelta(seconds=5) <= end - (NOW + timedelta(hours=3)) <= MINUTE for end in ends)


def test_a_wait_that_is_cancelled_while_it_asks_leaves_the_asking_to_the_next(amplitude, monkeypatch):
    asking = []

    async def cut_off():
        door = module._door(CONNECTION, None)
        ask = door._ask

        async def slow():
            asking.append(1)
            if len(asking) == 1:
                await asyncio.Event().wait()
            return await ask()

        monkeypatch.setattr(door, "_ask", slow)
        first = asyncio.create_task(anext(a_trigger().run()))
        while not asking:
            await asyncio.sleep(0)
        second = asyncio.create_task(anext(a_trigger().run()))
        await asyncio.sleep(0)
        first.cancel()
        await asyncio.wait_for(second, 10)
        assert first.cancelled() or await asyncio.gather(first, return_exceptions=True)

    asyncio.run(cut_off())
    assert len(asking) == 2


# --- what the task has to meet itself --------------------------------------------------------------------------


@pytest.mark.parametrize("status", [400, 401, 403, 404])
def test_what_can_not_heal_resumes_the_task_at_once_so_that_it_fails_with_the_reason(amplitude, looks, status, caplog):
    amplitude.fault("status", status=status, body="because", times=None)
    assert fired(a_trigger()) == [None]
    assert minutes(looks) == [5]
    assert "because" in caplog.text


def test_a_connection_that_is_gone_or_wrong_resumes_the_task_too(monkeypatch, amplitude, caplog):
    assert fired(a_trigger(amplitude_conn_id="nowhere")) == [None]
    monkeypatch.setenv("AIRFLOW_CONN_BROKEN", '{"conn_type": "amplitude_experiment"}')
    assert fired(a_trigger(amplitude_conn_id="broken")) == [None]
    assert "no management key" in caplog.text


# --- Airflow ----------------------------------------------------------------------------------------------------


def again(trigger):
    """Return the trigger as another triggerer builds it from what Airflow stored."""
    path, kwargs = trigger.serialize()
    assert path == "airflow_amplitude_experiment.triggers._quota.AmplitudeQuotaTrigger"
    return AmplitudeQuotaTrigger(**deserialize(serialize(kwargs)))


@pytest.mark.parametrize("event", [None, {"approval": "success"}, NOW])
def test_another_triggerer_goes_on_with_the_same_wait_and_the_task_gets_the_event_it_had(amplitude, event):
    trigger = a_trigger(event=event, project_id="100001", failures=3)
    assert again(trigger).serialize() == trigger.serialize()
    assert fired(again(trigger)) == [event]


def test_no_task_is_resumed_before_airflow_can_take_it(amplitude, clock):
    fired(a_trigger(look_at=NOW.isoformat()))
    assert clock.moment >= NOW + timedelta(seconds=5)


def test_it_also_runs_on_a_triggerer_of_a_queue():
    assert getattr(a_trigger(), "supports_triggerer_queue", True)


def test_no_key_is_in_what_is_stored_or_logged(amplitude, caplog):
    caplog.set_level(logging.DEBUG)
    amplitude.fault("status", status=429, body=f"slow down, {amplitude.management_key}")
    amplitude.fault("status", status=401, body=f"unknown {amplitude.management_key}")
    trigger = a_trigger()
    shown = f"{trigger.serialize()}{fired(trigger)}{vars(trigger)}{caplog.text}"
    assert "slow down" in shown
    assert amplitude.management_key not in shown


def test_the_event_loop_goes_on_while_amplitude_takes_its_time(amplitude):
    amplitude.fault("late", seconds=0.3)

    async def beside():
        waiting = asyncio.create_task(anext(a_trigger().run()))
        beats = 0
        while not waiting.done():
            await asyncio.sleep(0.01)
            beats += 1
        return beats

    assert asyncio.run(beside()) > 5
