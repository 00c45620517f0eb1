"""The one poll of many waits: what it reads, when, and what becomes of those who wait. No clock and no server here."""

from __future__ import annotations

import asyncio
from collections import Counter
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from types import SimpleNamespace

import pytest
from airflow.providers.common.compat.sdk import AirflowNotFoundException
from airflow.sdk.exceptions import AirflowRuntimeError

from airflow_amplitude_experiment.api import (
    AmplitudeAuthError,
    AmplitudeError,
    AmplitudeNotFound,
    AmplitudePermissionError,
    AmplitudeRateLimited,
    AmplitudeServerError,
    AmplitudeUnexpectedAnswer,
    RolloutRefused,
)
from airflow_amplitude_experiment.api.models import Page
from airflow_amplitude_experiment.triggers import _board, _moments, _poll
from airflow_amplitude_experiment.triggers._board import Board, Stream, Watch, hosting, waiting
from airflow_amplitude_experiment.triggers._moments import usual_interval
from airflow_amplitude_experiment.triggers._poll import Poll
from airflow_amplitude_experiment.triggers._verdict import Verdict
from tests.builders import an_experiment

NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)
SECOND = timedelta(seconds=1)
MINUTE = timedelta(minutes=1)
HOUR = timedelta(hours=1)
STREAM = Stream("amplitude_experiment_default", "100001", "experiment")


class FakeClock:
    """Time that passes only while the poll sleeps; ``at`` says what happens then."""

    def __init__(self):
        self.moment = NOW
        self.naps = []
        self.events = {}

    def now(self):
        return self.moment

    def at(self, moment, what):
        self.events[moment] = what

    async def nap(self, seconds, changed):
        assert seconds > 0
        self.naps.append(seconds)
        wake = self.moment + timedelta(seconds=seconds)
        for moment in sorted(self.events):
            if moment <= wake:
                self.moment = moment
                self.events.pop(moment)()
                if changed.is_set():
                    return
        self.moment = wake


@pytest.fixture(autouse=True)
def clock(monkeypatch):
    fake = FakeClock()
    for module in (_board, _poll, _moments):
        monkeypatch.setattr(module, "now", fake.now)
    monkeypatch.setattr(_board, "nap", fake.nap)
    monkeypatch.setattr(_moments, "random", SimpleNamespace(uniform=lambda low, high: high))
    return fake


class FakeAmplitude:
    """Experiments of one project in pages, read by a client that counts; ``errors`` are met first."""

    def __init__(self, clock, count, *, page=1000):
        self.clock, self.page = clock, page
        self.objects = {str(number): {"id": str(number), "key": f"e{number}"} for number in range(1, count + 1)}
        self.archived = set()
        self.not_in_lists = set()
        self.broken = set()
        self.errors = []
        self.sent = []
        self.opened = 0
        self.rules = SimpleNamespace(project_id=None)

    async def open(self):
        self.opened += 1
        return self

    async def __aenter__(self):
        return self

    async def __aexit__(self, *_):
        return None

    async def rows(self, call):
        return await self.send(call)

    async def send(self, call):
        self.sent.append((self.clock.moment, call.endpoint))
        await asyncio.sleep(0)
        if self.errors and (error := self.errors.pop(0)):
            raise error
        if call.endpoint == "experiments.get":
            return self._details(str(call.arguments["id"]))
        shown = [each for number, each in self.objects.items() if number not in self.archived]
        if "key" in call.arguments:
            return Page(self._rows(each for each in shown if each["key"] == call.arguments["key"]))
        start = int(call.arguments.get("cursor", 0))
        end = start + self.page
        return Page(self._rows(shown[start:end]), str(end) if end < len(shown) else None)

    def _rows(self, objects):
        for each in objects:
            if each["id"] in self.broken:
                raise AmplitudeUnexpectedAnswer("not the documented shape", status=200)
            yield an_experiment(**{name: value for name, value in each.items() if name not in self.not_in_lists})

    def _details(self, object_id):
        if object_id in self.broken:
            raise AmplitudeUnexpectedAnswer("not the documented shape", status=200)
        if object_id not in self.objects:
            raise AmplitudeNotFound("gone", status=404, method="GET", path=f"/api/1/experiments/{object_id}")
        return an_experiment(**self.objects[object_id], deleted=object_id in self.archived)

    async def read(self, reading):
        answer, failure = None, None
        while True:
            try:
                call = reading.throw(failure) if failure else reading.send(answer)
            except StopIteration as done:
                return done.value
            try:
                answer, failure = await self.send(call), None
            except AmplitudeError as error:
                failure = error

    def requests(self):
        return Counter(endpoint for _, endpoint in self.sent)


def running(found, moment):
    if found.deleted:
        raise RolloutRefused(f"{found.key} is archived")
    return Verdict({"id": found.id, "at": moment.isoformat()} if found.state == "running" else None)


def never(found, moment):
    return Verdict()


def at(end):
    return lambda found, moment: Verdict({"id": found.id}) if moment >= end else Verdict(matters_at=end)


def a_watch(number=1, judge=running, **options):
    options = {"object_id": str(number), "object_key": f"e{number}", "look_at": NOW + MINUTE, **options}
    return Watch(judge, **options)


def polled(amplitude, watches, *, until=HOUR, at_least=60.0, stream=STREAM):
    """Let a poll run for so long, or until every wait is over; return its board."""

    async def run():
        board = Board(stream)
        for watch in watches:
            board.add(watch)
        poll = Poll(board, amplitude.open, at_least=at_least)
        while amplitude.clock.moment < NOW + until and not all(watch.settled for watch in watches):
            await poll.step()
        return board

    return asyncio.run(run())


# --- what it reads -----------------------------------------------------------------------------------------


def test_a_thousand_waits_cost_one_page_a_minute(clock):
    amplitude = FakeAmplitude(clock, 1000)
    polled(amplitude, [a_watch(number, never) for number in range(1, 1001)], until=10 * MINUTE)
    assert amplitude.requests() == {"experiments.list": 9}


def test_ten_thousand_waits_keep_within_two_percent_of_the_daily_quota(clock):
    amplitude = FakeAmplitude(clock, 10_000)
    polled(amplitude, [a_watch(number, never) for number in range(1, 10_001)], until=HOUR)
    assert amplitude.requests() == {"experiments.list": 80}  # ten pages each 8 minutes, the first after one
    assert len(amplitude.sent) * 24 <= 2000


def test_one_wait_among_many_objects_is_read_alone(clock):
    amplitude = FakeAmplitude(clock, 5000)
    polled(amplitude, [a_watch(4711, never)], until=5 * MINUTE)
    assert amplitude.requests() == {"experiments.get": 4}


def test_pages_that_cost_more_than_they_tell_are_not_read_on_nor_again(clock):
    amplitude = FakeAmplitude(clock, 3000, page=10)
    polled(amplitude, [a_watch(number, never) for number in (2990, 2991, 2992)], until=10 * MINUTE)
    assert amplitude.requests()["experiments.list"] == 4
    assert amplitude.requests()["experiments.get"] == 3 * 4  # singly, and so each 144 seconds


def test_two_waits_for_one_object_cost_one_request(clock):
    amplitude = FakeAmplitude(clock, 5000)
    polled(amplitude, [a_watch(7, never), a_watch(7, never)], until=90 * SECOND)
    assert amplitude.requests() == {"experiments.get": 1}


def test_waits_that_are_due_at_different_seconds_come_together_in_one_round(clock):
    amplitude = FakeAmplitude(clock, 100)
    watches = [a_watch(number, never, look_at=NOW + MINUTE + number * SECOND) for number in range(1, 41)]
    polled(amplitude, watches, until=10 * MINUTE)
    assert amplitude.requests() == {"experiments.list": 9}


def test_an_object_that_no_list_shows_is_read_alone(clock):
    amplitude = FakeAmplitude(clock, 50)
    amplitude.archived.add("3")
    watches = [a_watch(number) for number in range(1, 11)]
    polled(amplitude, watches, until=90 * SECOND)
    assert amplitude.requests() == {"experiments.list": 1, "experiments.get": 1}
    assert [watch.settled for watch in watches] == [number == 3 for number in range(1, 11)]
    assert "archived" in watches[2].event["error"]["text"]


def test_a_field_that_lists_leave_out_is_read_in_details(clock):
    amplitude = FakeAmplitude(clock, 50)
    amplitude.not_in_lists = {"state"}
    amplitude.objects["2"]["state"] = "running"
    for number in (1, 3):
        amplitude.objects[str(number)]["state"] = "planning"
    watches = [a_watch(number, needs=frozenset({"state"})) for number in (1, 2, 3)]
    polled(amplitude, watches, until=200 * SECOND)
    assert [watch.settled for watch in watches] == [False, True, False]
    assert amplitude.requests() == {"experiments.list": 1, "experiments.get": 3 + 2}


def test_a_field_that_details_leave_out_too_is_simply_not_set_and_lists_go_on(clock):
    amplitude = FakeAmplitude(clock, 50)
    watches = [a_watch(number, needs=frozenset({"state"})) for number in (1, 2, 3)]
    polled(amplitude, watches, until=4 * MINUTE)
    assert amplitude.requests() == {"experiments.list": 3, "experiments.get": 3}


def test_a_field_that_lists_never_show_and_details_only_once_it_is_set_is_not_waited_for_for_ever(clock):
    amplitude = FakeAmplitude(clock, 50)
    amplitude.not_in_lists = {"state"}
    changed = {"state": "running", "lastModifiedAt": "2026-11-20T12:10:00Z"}
    clock.at(NOW + 10 * MINUTE, lambda: amplitude.objects["2"].update(changed))
    watches = [a_watch(number, needs=frozenset({"state"})) for number in (1, 2, 3)]
    polled(amplitude, watches, until=14 * MINUTE)
    assert [watch.settled for watch in watches] == [False, True, False]
    assert amplitude.requests()["experiments.get"] == 3 + 1


def test_a_key_that_reads_like_another_objects_id_is_not_taken_for_it(clock):
    amplitude = FakeAmplitude(clock, 50)
    amplitude.objects["7"]["key"] = "8"
    amplitude.objects["7"]["state"] = "running"
    by_key, by_id = a_watch(object_id=None, object_key="8"), a_watch(8)
    polled(amplitude, [by_key, by_id, a_watch(9)], until=90 * SECOND)
    assert by_key.event["id"] == "7"
    assert not by_id.settled


def test_no_list_is_read_for_keys_that_may_be_any_projects(clock):
    amplitude = FakeAmplitude(clock, 50)
    watches = [a_watch(number, never, object_id=None) for number in (1, 2, 3)]
    polled(amplitude, watches, until=90 * SECOND, stream=STREAM._replace(project_id=None))
    assert amplitude.requests() == {"experiments.list": 3}  # each asks for its key
    assert [watch.object_id for watch in watches] == ["1", "2", "3"]


def test_objects_that_are_read_alone_take_turns_twenty_in_a_round(clock):
    amplitude = FakeAmplitude(clock, 50)
    amplitude.archived = set(amplitude.objects)
    watches = [a_watch(number) for number in range(1, 51)]
    polled(amplitude, watches, until=90 * SECOND)
    assert sum(watch.settled for watch in watches) == _poll.ALONE_AT_ONCE
    polled(amplitude, watches, until=10 * MINUTE)
    assert all(watch.settled for watch in watches)


def test_waits_for_archived_objects_keep_within_two_percent_of_the_daily_quota_too(clock):
    amplitude = FakeAmplitude(clock, 100)
    amplitude.archived = set(amplitude.objects)
    polled(amplitude, [a_watch(number, never, archived_too=True) for number in range(1, 101)], until=24 * HOUR)
    assert len(amplitude.sent) <= 2200  # and what it took to find out that no list shows them


def test_those_come_first_who_are_due_the_longest():
    board = Board(STREAM)
    watches = [a_watch(number, look_at=NOW + number * MINUTE) for number in (3, 1, 2, 60)]
    for watch in watches:
        board.add(watch)
    assert board.due(NOW + 10 * MINUTE) == [watches[1], watches[2], watches[0]]


# --- when it looks -----------------------------------------------------------------------------------------


def test_it_sleeps_until_the_next_moment_that_can_matter(clock):
    amplitude = FakeAmplitude(clock, 5)
    end = NOW + 47 * MINUTE
    watch = a_watch(1, at(end), look_at=NOW + 24 * HOUR, matters_at=end)
    polled(amplitude, [watch])
    assert watch.event == {"id": "1"}
    assert [moment for moment, _ in amplitude.sent] == [end]
    assert len(clock.naps) == 1


def test_ends_at_one_moment_are_looked_at_together(clock):
    amplitude = FakeAmplitude(clock, 200)
    end = NOW + 30 * MINUTE
    watches = [a_watch(number, at(end), look_at=NOW + 24 * HOUR, matters_at=end) for number in range(1, 201)]
    polled(amplitude, watches)
    assert all(watch.settled for watch in watches)
    assert amplitude.requests() == {"experiments.list": 1}


def test_a_wait_that_joins_is_looked_at_although_the_poll_was_going_to_sleep_longer(clock):
    amplitude = FakeAmplitude(clock, 5)

    async def run():
        board = Board(STREAM)
        board.add(a_watch(1, never, look_at=NOW + HOUR))
        late = a_watch(2, look_at=NOW + MINUTE)
        clock.at(NOW + 30 * SECOND, lambda: board.add(late))
        amplitude.objects["2"]["state"] = "running"
        poll = Poll(board, amplitude.open)
        while not late.settled:
            await poll.step()
        return late

    assert asyncio.run(run()).event == {"id": "2", "at": (NOW + MINUTE).isoformat()}


def test_waits_that_join_wake_a_sleeping_poll_only_if_they_are_due_before_it_wakes(clock):
    """Ten thousand join one by one after a restart; looking through all for each of them would take minutes."""
    amplitude = FakeAmplitude(clock, 5)

    async def woken_by(look_at):
        board = Board(STREAM)
        board.add(a_watch(1, never, look_at=NOW + HOUR))
        clock.at(NOW + 30 * SECOND, lambda: board.add(a_watch(2, never, look_at=look_at)))
        await Poll(board, amplitude.open).step()
        return clock.moment < NOW + HOUR

    assert asyncio.run(woken_by(NOW + MINUTE))
    clock.moment = NOW
    assert not asyncio.run(woken_by(NOW + 2 * HOUR))


def test_after_a_restart_with_everything_due_there_is_one_round_for_all(clock):
    amplitude = FakeAmplitude(clock, 300)
    watches = [a_watch(number, look_at=NOW - HOUR) for number in range(1, 301)]
    polled(amplitude, watches, until=30 * SECOND)
    assert amplitude.requests() == {"experiments.list": 1}


def test_an_interval_that_was_asked_for_is_kept(clock):
    amplitude = FakeAmplitude(clock, 5)
    polled(amplitude, [a_watch(1, never, interval=600.0)], until=61 * MINUTE)
    assert amplitude.requests() == {"experiments.get": 6}


@pytest.mark.parametrize("interval", [1.0, 30.0])
def test_twenty_requests_a_minute_are_the_most_whatever_was_asked_for(clock, interval):
    amplitude = FakeAmplitude(clock, 1000, page=100)
    often = [a_watch(number, never, interval=interval) for number in range(1, 801)]
    ends = [NOW + number * 2 * SECOND for number in range(200)]
    ending = [
        a_watch(801 + number, at(end), look_at=NOW + 24 * HOUR, matters_at=end, interval=900.0)
        for number, end in enumerate(ends)
    ]
    polled(amplitude, often + ending, until=10 * MINUTE)
    assert all(watch.settled for watch in ending)
    assert len(amplitude.sent) <= 20 * 10 + 20  # those of the last round count for the minute after it


def test_twenty_requests_a_minute_are_the_most_also_where_an_object_takes_two(clock):
    amplitude = FakeAmplitude(clock, 100, page=1)
    needs = frozenset({"last_modified_by"})  # details leave it out, and the list is asked for each key
    polled(amplitude, [a_watch(number, never, needs=needs, interval=5.0) for number in range(1, 11)], until=HOUR)
    assert len(amplitude.sent) <= 59 * 20 + 20


def test_few_waits_are_looked_at_as_often_as_they_ask_beside_many_that_do_not(clock):
    amplitude = FakeAmplitude(clock, 1000, page=100)
    seldom = [a_watch(number, never, interval=3600.0, look_at=NOW + HOUR) for number in range(1, 1000)]
    polled(amplitude, [*seldom, a_watch(1000, never, interval=10.0)], until=10 * MINUTE)
    assert amplitude.requests() == {"experiments.get": 54}


@pytest.mark.parametrize(("requests", "at_least", "interval"), [(1, 60, 60), (1, 300, 300), (10, 60, 480)])
def test_the_usual_interval_grows_with_what_a_round_costs(requests, at_least, interval):
    assert usual_interval(requests, at_least) == pytest.approx(interval)


# --- what goes wrong ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [AmplitudeServerError("down", status=503), AmplitudeRateLimited("slow", status=429)])
def test_passing_errors_pause_the_poll_ever_longer_and_fail_nobody(clock, error):
    amplitude = FakeAmplitude(clock, 50)
    amplitude.errors = [error] * 3
    amplitude.objects["1"]["state"] = "running"
    watches = [a_watch(number) for number in range(1, 11)]
    polled(amplitude, watches)
    gaps = [after - before for (before, _), (after, _) in pairwise(amplitude.sent)]
    assert gaps[0] < gaps[1] < gaps[2]
    assert [watch.settled for watch in watches] == [True, *[False] * 9]


def test_a_wait_that_joins_during_a_pause_does_not_shorten_it(clock):
    amplitude = FakeAmplitude(clock, 50)
    amplitude.errors = [AmplitudeRateLimited("slow", status=429)]
    watches = [a_watch(1, never), a_watch(2, never, look_at=NOW + 90 * SECOND)]
    polled(amplitude, watches, until=5 * MINUTE)
    assert len(amplitude.sent) == 1


@pytest.mark.parametrize(
    "error", [AmplitudeAuthError("no", status=401, method="GET", path="/x"), AmplitudePermissionError("no", status=403)]
)
@pytest.mark.parametrize("count", [1, 10])
def test_a_key_that_is_refused_ends_all_waits_with_the_reason_at_once(clock, error, count):
    amplitude = FakeAmplitude(clock, 50)
    amplitude.errors = [error]
    watches = [a_watch(number) for number in range(1, count + 1)] + [a_watch(50, look_at=NOW + 24 * HOUR)]
    polled(amplitude, watches)
    assert [watch.event for watch in watches] == [{"error": error.as_dict()}] * (count + 1)
    assert len(amplitude.sent) == 1


def test_an_object_that_is_gone_ends_only_those_who_wait_for_it(clock):
    amplitude = FakeAmplitude(clock, 5)
    watches = [a_watch(99), a_watch(1, look_at=NOW + 2 * MINUTE)]
    polled(amplitude, watches, until=3 * MINUTE)
    assert watches[0].event["error"]["type"] == "AmplitudeNotFound"
    assert not watches[1].settled


@pytest.mark.parametrize("count", [2, 30])
def test_an_object_that_can_not_be_read_keeps_no_other_from_its_turn(clock, caplog, count):
    """Neither where objects are read alone, nor where a page holds it."""
    amplitude = FakeAmplitude(clock, 50)
    amplitude.broken = {"1"}
    watches = [a_watch(number) for number in range(1, count + 1)]
    for number in range(2, count + 1):
        amplitude.objects[str(number)]["state"] = "running"
    polled(amplitude, watches, until=20 * MINUTE)
    assert [watch.settled for watch in watches] == [False] + [True] * (count - 1)
    assert caplog.text.count("read object by object") == 1


@pytest.mark.parametrize("count", [1, 3])
def test_objects_that_can_not_be_read_at_their_end_keep_no_other_from_its_turn(clock, count):
    amplitude = FakeAmplitude(clock, 50)
    ended = [a_watch(number, at(NOW + MINUTE), matters_at=NOW + MINUTE) for number in range(1, count + 1)]
    other = a_watch(50)
    amplitude.broken = {watch.object_id for watch in ended}
    clock.at(NOW + 10 * MINUTE, lambda: amplitude.objects["50"].update(state="running"))
    polled(amplitude, [*ended, other], until=30 * MINUTE)
    assert other.settled
    amplitude.broken = {"1"}
    polled(amplitude, ended, until=2 * HOUR)
    assert [watch.settled for watch in ended] == [False] + [True] * (count - 1)


def test_without_a_project_one_objects_403_is_its_own(clock):
    amplitude = FakeAmplitude(clock, 5)
    amplitude.errors = [AmplitudePermissionError("no", status=403)]
    watches = [a_watch(1), a_watch(2, look_at=NOW + 2 * HOUR)]
    polled(amplitude, watches, until=90 * SECOND, stream=STREAM._replace(project_id=None))
    assert [watch.settled for watch in watches] == [True, False]


def test_a_mistake_in_judging_one_object_does_not_end_the_others(clock):
    def wrong(found, moment):
        raise KeyError("ours")

    amplitude = FakeAmplitude(clock, 5)
    amplitude.objects["2"]["state"] = "running"
    watches = [a_watch(1, wrong), a_watch(2)]
    polled(amplitude, watches, until=3 * MINUTE)
    assert isinstance(watches[0].failure, KeyError)
    assert watches[1].event["id"] == "2"


@pytest.mark.parametrize("error", [AirflowNotFoundException("no such connection"), OSError("ours")])
def test_a_connection_that_is_not_there_is_airflows_error_for_all(clock, error):
    async def fails():
        raise error

    amplitude = SimpleNamespace(clock=clock, open=fails)
    watches = [a_watch(1), a_watch(2)]
    polled(amplitude, watches)
    assert [watch.failure for watch in watches] == [error, error]


def test_an_airflow_that_can_not_tell_the_connection_for_a_while_ends_no_wait(clock, monkeypatch):
    amplitude = FakeAmplitude(clock, 5)
    amplitude.objects["1"]["state"] = "running"
    failing = [AirflowRuntimeError.__new__(AirflowRuntimeError) for _ in range(3)]
    opened = amplitude.open

    async def sometimes():
        if failing:
            raise failing.pop()
        return await opened()

    amplitude.open = sometimes
    watch = a_watch(1)
    polled(amplitude, [watch])
    assert watch.event["id"] == "1"


def test_the_poll_outlives_whatever_it_meets(clock):
    amplitude = FakeAmplitude(clock, 5)
    amplitude.errors = [RuntimeError("ours"), None]
    amplitude.objects["1"]["state"] = "running"

    async def run():
        board, first = Board(STREAM), a_watch(1)
        board.add(first)
        poll = Poll(board, amplitude.open)
        while not first.settled:
            await poll.step()
        board.remove(first)
        second = a_watch(1)
        board.add(second)
        while not second.settled:
            await poll.step()
        return first, second

    first, second = asyncio.run(run())
    assert isinstance(first.failure, RuntimeError)
    assert second.event["id"] == "1"


def test_what_ends_all_waits_gives_the_event_loop_its_turn_between_them(clock):
    """Airflow has work with each wait that ends, and a thousand in one turn would block its loop for long."""
    amplitude = FakeAmplitude(clock, 5)
    amplitude.errors = [AmplitudeAuthError("no", status=401, method="GET", path="/x")]
    watches = [a_watch(number) for number in range(1, 1001)]
    ended = []

    async def run():
        board = Board(STREAM)
        for watch in watches:
            board.add(watch)
        poll = Poll(board, amplitude.open)
        await poll.step()
        last = asyncio.ensure_future(poll.step())
        while not last.done():
            await asyncio.sleep(0)
            ended.append(sum(watch.settled for watch in watches))

    asyncio.run(run())
    assert ended[-1] == 1000
    assert max(after - before for before, after in pairwise(ended)) <= _poll.AT_ONCE


def test_a_poll_that_is_stopped_in_the_middle_of_a_read_is_not_taken_up_at_once_by_the_next(clock):
    """A thousand waits that are cancelled one after the other would send a request each."""
    amplitude = FakeAmplitude(clock, 5)

    async def run():
        board = Board(STREAM)
        board.add(a_watch(1, never))
        await Poll(board, amplitude.open).step()
        stopped = asyncio.ensure_future(Poll(board, amplitude.open).step())
        await asyncio.sleep(0)
        stopped.cancel()
        await asyncio.wait([stopped])
        await Poll(board, amplitude.open).step()

    asyncio.run(run())
    assert len(amplitude.sent) == 1
    assert clock.moment > NOW + MINUTE


# --- who looks ---------------------------------------------------------------------------------------------


def test_where_the_host_of_the_poll_is_gone_a_wait_drives_it(clock):
    async def run():
        first, second = a_watch(1), a_watch(2)
        with waiting(STREAM, first) as board, waiting(STREAM, second):
            with hosting(STREAM):
                assert not board.drives(first)
            assert board.drives(first)
            assert not board.drives(second)
            await asyncio.wait_for(first.news(), 60)

    asyncio.run(run())


def test_a_host_that_comes_late_takes_the_poll_over_from_a_wait_that_sleeps(clock, monkeypatch):
    amplitude = FakeAmplitude(clock, 5)
    monkeypatch.undo()

    async def run():
        watch = Watch(never, datetime.now(UTC) + HOUR, object_id="1")
        with waiting(STREAM, watch) as board:
            assert board.drives(watch)
            sleeping = asyncio.ensure_future(Poll(board, amplitude.open).step())
            await asyncio.sleep(0)
            with hosting(STREAM):
                await asyncio.wait_for(sleeping, 60)
                assert not board.drives(watch)

    asyncio.run(run())


def test_a_board_is_forgotten_once_nobody_waits_or_drives(clock):
    async def run():
        with waiting(STREAM, a_watch(1)) as first, waiting(STREAM, a_watch(2)) as again:
            assert again is first
        with waiting(STREAM, a_watch(1)) as anew:
            assert anew is not first
        with hosting(STREAM) as hosted, waiting(STREAM, a_watch(1)) as with_host:
            assert with_host is hosted

    asyncio.run(run())


@pytest.mark.parametrize("count", [2, 1000])
def test_a_round_gives_the_event_loop_its_turn_between_the_waits_and_the_rows_of_a_page(clock, count):
    amplitude = FakeAmplitude(clock, 1000)
    turns = 0

    async def run():
        nonlocal turns
        board = Board(STREAM)
        for number in range(1, count + 1):
            board.add(a_watch(number, never))
        poll = Poll(board, amplitude.open)
        await poll.step()
        round_of_all = asyncio.ensure_future(poll.step())
        while not round_of_all.done():
            await asyncio.sleep(0)
            turns += 1

    asyncio.run(run())
    assert turns >= 1000 / _poll.AT_ONCE
