"""The end date trigger: when it looks, what it makes of what it sees, and that it can be taken over at any moment."""

from __future__ import annotations

import asyncio
import json
import logging
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import pytest
from airflow.providers.common.compat.sdk import AirflowNotFoundException

from airflow_amplitude_experiment.api import (
    AmplitudeAuthError,
    AmplitudeConnectionError,
    AmplitudeNotFound,
    AmplitudeRateLimited,
    AmplitudeServerError,
    RolloutRefused,
    _retry,
)
from airflow_amplitude_experiment.api.models import Page
from airflow_amplitude_experiment.triggers import AmplitudeEndDateTrigger, _board, _moments, _poll
from airflow_amplitude_experiment.triggers._events import error_event, validated
from airflow_amplitude_experiment.triggers._find import find
from airflow_amplitude_experiment.triggers._moments import after_failure, next_look
from airflow_amplitude_experiment.triggers.end_date import NEEDS, end_of, verdict_on
from tests.builders import an_experiment

try:
    from airflow.sdk.serde import deserialize, serialize
except ImportError:  # Airflow 3.1
    from airflow.serialization.serde import deserialize, serialize

KEY = "new-price"
NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
HOUR = timedelta(hours=1)


class FakeClock:
    """Time that passes only while somebody sleeps; ``at`` says what happens then."""

    def __init__(self):
        self.moment = NOW
        self.sleeps = []
        self.events = {}

    def now(self):
        return self.moment

    def at(self, moment, what):
        self.events[moment] = what

    async def nap(self, seconds, changed):
        assert seconds > 0
        self.sleeps.append(seconds)
        self.moment += timedelta(seconds=seconds)
        for moment in sorted(self.events):
            if moment <= self.moment:
                self.events.pop(moment)()
        assert len(self.sleeps) < 1000


@pytest.fixture(autouse=True)
def clock(monkeypatch):
    fake = FakeClock()
    for module in (_board, _poll, _moments):
        monkeypatch.setattr(module, "now", fake.now)
    monkeypatch.setattr(_board, "nap", fake.nap)
    monkeypatch.setattr(_moments, "random", SimpleNamespace(uniform=lambda low, high: high))
    monkeypatch.setattr(_retry, "PATIENCE", -1.0)
    monkeypatch.setattr(_retry, "FIRST_WAIT", 0.0)
    monkeypatch.setattr(AmplitudeEndDateTrigger, "log", logging.getLogger("tests.trigger"))
    return fake


@pytest.fixture
def amplitude(amplitude_emulator, monkeypatch):
    """The emulator with an experiment that ends in two hours, and a connection to it."""
    amplitude_emulator.options(dates="as_sent")
    monkeypatch.setenv("AIRFLOW_CONN_AMPLITUDE_EXPERIMENT_DEFAULT", amplitude_emulator.airflow_connection())
    amplitude_emulator.add_experiment(KEY, enabled=True, endDate=(NOW + 2 * HOUR).isoformat())
    amplitude_emulator.clear_requests()
    return amplitude_emulator


def a_trigger(**options):
    fields = {
        "amplitude_conn_id": "amplitude_experiment_default",
        "object_id": "21001",
        "object_key": KEY,
        "matters_at": (NOW + 2 * HOUR).isoformat(),
        "next_look": (NOW + 30 * MINUTE).isoformat(),
        "interval": 1800,
        "on_missing": "fail",
    }
    return AmplitudeEndDateTrigger(**{**fields, **options})


def fired(trigger):
    """Run a trigger as the triggerer does, to its first event."""
    return asyncio.run(anext(trigger.run())).payload


def sent(emulator):
    return [request["path"].removeprefix("/api/1/") for request in emulator.requests()]


# --- when it looks -----------------------------------------------------------------------------------------


def test_it_looks_at_every_recheck_and_once_more_at_the_end_one_request_each(amplitude, clock):
    assert fired(a_trigger()) == {
        "key": KEY,
        "id": "21001",
        "ended_at": "2026-11-20T14:00:00+00:00",
        "looked_at": "2026-11-20T14:00:00+00:00",
    }
    assert sent(amplitude) == ["experiments/21001"] * 4
    assert clock.sleeps == [1800] * 4


def test_a_look_costs_one_request_where_no_project_is_named_either(amplitude, monkeypatch):
    value = amplitude.airflow_connection(project_id=None)
    monkeypatch.setenv("AIRFLOW_CONN_AMPLITUDE_EXPERIMENT_DEFAULT", value)
    fired(a_trigger(next_look=(NOW + 24 * HOUR).isoformat()))
    assert sent(amplitude) == ["experiments/21001"]


def test_it_does_not_sleep_past_the_end(amplitude, clock):
    fired(a_trigger(interval=86400, next_look=(NOW + 24 * HOUR).isoformat()))
    assert clock.sleeps == [7200]


def test_an_end_that_moved_later_is_waited_for(amplitude, clock, caplog):
    caplog.set_level(logging.INFO, "tests.trigger")
    clock.at(NOW + 2 * HOUR, lambda: amplitude.change(KEY, endDate=(NOW + 5 * HOUR).isoformat()))
    assert fired(a_trigger())["ended_at"] == "2026-11-20T17:00:00+00:00"
    assert clock.moment == NOW + 5 * HOUR
    assert [line for line in caplog.messages if "the end date moved" in line] == caplog.messages


def test_an_end_that_moved_earlier_is_seen_at_the_next_look(amplitude, clock):
    clock.at(NOW + 30 * MINUTE, lambda: amplitude.change(KEY, endDate=(NOW + 10 * MINUTE).isoformat()))
    assert fired(a_trigger())["ended_at"] == "2026-11-20T12:10:00+00:00"
    assert clock.moment == NOW + 30 * MINUTE


def test_an_end_date_that_is_removed_is_an_error(amplitude, clock):
    clock.at(NOW + HOUR, lambda: amplitude.change(KEY, endDate=None))
    event = fired(a_trigger())
    assert event["error"]["type"] == "RolloutRefused"
    assert "has no end date" in event["error"]["text"]


def test_an_end_date_that_is_removed_can_be_waited_for(amplitude, clock):
    clock.at(NOW + HOUR, lambda: amplitude.change(KEY, endDate=None))
    clock.at(NOW + 4 * HOUR, lambda: amplitude.change(KEY, endDate=(NOW + 6 * HOUR).isoformat()))
    assert fired(a_trigger(on_missing="wait"))["ended_at"] == "2026-11-20T18:00:00+00:00"


def test_an_experiment_that_is_archived_meanwhile_is_an_error(amplitude, clock):
    clock.at(NOW + HOUR, lambda: amplitude.change(KEY, archive=True))
    event = fired(a_trigger())
    assert "archived" in event["error"]["text"]
    assert clock.moment == NOW + HOUR


def test_the_log_has_no_line_per_look(amplitude, caplog):
    caplog.set_level(logging.INFO, "tests.trigger")
    fired(a_trigger())
    assert [record for record in caplog.records if record.name == "tests.trigger"] == []


# --- taking over -------------------------------------------------------------------------------------------


def test_what_is_kept_is_plain_holds_no_secret_and_survives_airflows_own_storage(amplitude):
    path, kept = a_trigger(project_id="100001").serialize()
    assert path == f"{AmplitudeEndDateTrigger.__module__}.{AmplitudeEndDateTrigger.__qualname__}"
    assert {type(value) for value in kept.values()} <= {str, int, float}
    assert amplitude.management_key not in json.dumps(kept)
    again = AmplitudeEndDateTrigger(**deserialize(serialize(kept)))
    assert again.serialize() == (path, kept)


@pytest.mark.parametrize("gone", [MINUTE, HOUR, 3 * HOUR, 100 * 24 * HOUR])
def test_a_triggerer_that_takes_over_later_ends_at_the_same_moment_or_at_once(amplitude, clock, gone):
    kept = a_trigger().serialize()[1]
    clock.moment += gone
    assert fired(AmplitudeEndDateTrigger(**kept))["ended_at"] == "2026-11-20T14:00:00+00:00"
    assert clock.moment == max(NOW + 2 * HOUR, NOW + gone + _board.SHORTEST_WAIT)


def test_it_can_be_run_again_from_the_start(amplitude, clock):
    trigger = a_trigger()
    first = fired(trigger)
    clock.moment = NOW
    assert fired(trigger) == first


def test_any_triggerer_may_run_it():
    assert getattr(AmplitudeEndDateTrigger, "supports_triggerer_queue", True) is True


# --- what goes wrong ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("fault", ["status", "rate_limit", "html", "refuse", "cut_before", "truncated"])
def test_passing_errors_never_end_the_wait_and_are_warned_of_once(amplitude, clock, caplog, fault):
    amplitude.fault(fault, times=20)
    assert fired(a_trigger())["ended_at"] == "2026-11-20T14:00:00+00:00"
    assert len(sent(amplitude)) > 20
    assert len([line for line in caplog.messages if "The wait goes on" in line]) == 1


def test_an_end_that_comes_while_amplitude_is_down_is_not_announced_unseen(amplitude, clock):
    amplitude.fault("status", times=None)
    clock.at(NOW + 3 * HOUR, amplitude.clear_faults)
    assert fired(a_trigger())["looked_at"] >= "2026-11-20T15:00:00+00:00"


@pytest.mark.parametrize(("status", "name"), [(401, "AmplitudeAuthError"), (403, "AmplitudePermissionError")])
def test_what_can_not_heal_is_sent_at_once(amplitude, clock, status, name):
    amplitude.fault("status", status=status)
    event = fired(a_trigger())
    assert event["error"]["type"] == name
    assert event["error"]["status"] == status
    assert event["error"]["path"] == "/api/1/experiments/21001"
    assert amplitude.management_key not in json.dumps(event)
    assert len(sent(amplitude)) == 1


def test_an_experiment_that_is_gone_is_sent_as_an_error(amplitude):
    assert fired(a_trigger(object_id="999"))["error"]["type"] == "AmplitudeNotFound"


def test_a_connection_that_is_wrong_in_itself_is_sent_as_an_error(amplitude, monkeypatch):
    connection = json.loads(amplitude.airflow_connection()) | {"password": ""}
    monkeypatch.setenv("AIRFLOW_CONN_AMPLITUDE_EXPERIMENT_DEFAULT", json.dumps(connection))
    event = fired(a_trigger())
    assert event["error"]["type"] == "ValueError"
    assert "has no management key" in event["error"]["text"]


def test_a_key_that_is_exchanged_during_the_wait_is_used_at_the_next_look(amplitude, clock, monkeypatch):
    def exchange():
        amplitude.seed({"keys": [{"key": "new-key", "projects": ["100001"]}]})
        amplitude.world.store.keys.pop(amplitude.management_key)
        monkeypatch.setenv("AIRFLOW_CONN_AMPLITUDE_EXPERIMENT_DEFAULT", amplitude.airflow_connection())

    clock.at(NOW + HOUR, exchange)
    assert fired(a_trigger())["key"] == KEY


def test_a_connection_that_can_not_be_looked_up_for_a_moment_does_not_end_the_wait(amplitude, clock, monkeypatch):
    value = amplitude.airflow_connection()
    name = "AIRFLOW_CONN_AMPLITUDE_EXPERIMENT_DEFAULT"
    clock.at(NOW + HOUR, lambda: monkeypatch.delenv(name))
    clock.at(NOW + HOUR + 2 * MINUTE, lambda: monkeypatch.setenv(name, value))
    assert fired(a_trigger())["key"] == KEY


def test_a_connection_that_does_not_exist_ends_the_wait(amplitude, clock, monkeypatch):
    monkeypatch.delenv("AIRFLOW_CONN_AMPLITUDE_EXPERIMENT_DEFAULT")
    with pytest.raises(AirflowNotFoundException):
        fired(a_trigger())
    assert clock.moment == NOW + 30 * MINUTE


def test_a_connection_that_is_deleted_during_the_wait_ends_it(amplitude, clock, monkeypatch):
    clock.at(NOW + HOUR, lambda: monkeypatch.delenv("AIRFLOW_CONN_AMPLITUDE_EXPERIMENT_DEFAULT"))
    with pytest.raises(AirflowNotFoundException):
        fired(a_trigger())
    assert clock.moment < NOW + 2 * HOUR


# --- a first look that the sensor could not make -----------------------------------------------------------


@pytest.mark.parametrize("named_by", [{"object_id": None}, {"object_key": None}])
def test_with_one_name_it_finds_the_experiment_first_and_then_reads_it_by_id(amplitude, caplog, named_by):
    caplog.set_level(logging.INFO, "tests.trigger")
    fired(a_trigger(matters_at=None, **named_by))
    assert set(sent(amplitude)[1:]) == {"experiments/21001"}
    assert [line for line in caplog.messages if line.startswith("Experiment")] == [
        f"Experiment {KEY} (21001): the end date is 2026-11-20T14:00:00+00:00"
    ]


@pytest.mark.parametrize(
    ("listed", "asks"), [({}, True), ({"endDate": None}, False), ({"endDate": "2026-11-20"}, False)]
)
def test_a_list_that_does_not_show_the_end_date_is_not_taken_for_none(listed, asks):
    client = SimpleNamespace(rules=SimpleNamespace(project_id="100001"))
    reading = find(client, "experiment", object_id=None, object_key=KEY, project_id=None, needs=NEEDS)
    assert next(reading).endpoint == "experiments.list"
    page = Page([an_experiment(**listed)])
    if asks:
        assert reading.send(page).endpoint == "experiments.get"
    else:
        with pytest.raises(StopIteration):
            reading.send(page)


def test_then_it_refuses_another_project_as_the_sensor_would(amplitude):
    event = fired(a_trigger(object_key=None, matters_at=None, project_id="100002"))
    assert event["error"]["type"] == "ValueError"
    assert "the connection names project 100001" in event["error"]["text"]


# --- the pure parts ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("end_date", "ends_at"),
    [
        ("2026-11-20", "2026-11-21T00:00:00+00:00"),
        ("2026-12-31", "2027-01-01T00:00:00+00:00"),
        ("2026-11-20T15:00:00.000Z", "2026-11-20T15:00:00+00:00"),
        ("2026-11-20T15:00:00+02:00", "2026-11-20T13:00:00+00:00"),
        ("2026-11-20T15:00:00", "2026-11-20T15:00:00+00:00"),
    ],
)
def test_when_an_experiment_ends(end_date, ends_at):
    found = end_of(an_experiment(endDate=end_date), "fail")
    assert found is not None
    assert found.isoformat() == ends_at


@pytest.mark.parametrize(
    ("fields", "on_missing", "text"),
    [
        ({"endDate": None}, "fail", "has no end date"),
        ({}, "fail", "has no end date"),
        ({"endDate": "soon"}, "wait", "which is no date"),
        ({"endDate": "2026-11-20", "deleted": True}, "wait", "is archived"),
    ],
)
def test_what_will_never_end_is_refused(fields, on_missing, text):
    with pytest.raises(RolloutRefused, match=text):
        end_of(an_experiment(**fields), on_missing)


@pytest.mark.parametrize(("seconds", "over"), [(-1, True), (0, True), (1, False)])
def test_an_end_has_passed_from_its_moment_on(seconds, over):
    verdict = verdict_on(an_experiment(endDate=(NOW + timedelta(seconds=seconds)).isoformat()), "fail", NOW)
    assert (verdict.record is not None, verdict.matters_at is None) == (over, over)


@pytest.mark.parametrize(
    ("failures", "error", "after"),
    [
        (1, AmplitudeServerError("x"), 37.5 / 60),
        (2, AmplitudeServerError("x"), 75 / 60),
        (50, AmplitudeConnectionError("x"), 18.75),
        (10_000, AmplitudeServerError("x", retry_after=7), 18.75),
        (1, AmplitudeServerError("x", retry_after=120), 2),
        (1, AmplitudeServerError("x", retry_after=1e9), 60),
        (1, AmplitudeRateLimited("x"), 6.25),
        (2, AmplitudeRateLimited("x"), 12.5),
        (99, AmplitudeRateLimited("x"), 75),
    ],
)
def test_waits_grow_after_failures(failures, error, after):
    assert after_failure(NOW, failures, error) == NOW + after * MINUTE


def test_after_a_429_it_looks_again_soon_after_midnight():
    late = datetime(2026, 11, 20, 23, 50, tzinfo=UTC)
    assert after_failure(late, 9, AmplitudeRateLimited("x")) == datetime(2026, 11, 21, 0, 5, tzinfo=UTC)


def test_waits_do_not_look_as_one(monkeypatch):
    import random

    monkeypatch.setattr(_moments, "random", random)
    looks = {next_look(NOW, 900) for _ in range(20)}
    assert len(looks) > 10
    assert all(NOW + 13 * MINUTE < look <= NOW + 15 * MINUTE for look in looks)


@pytest.mark.parametrize(
    "error",
    [
        AmplitudeAuthError("revoked", status=401, method="GET", path="/api/1/experiments/1"),
        AmplitudeNotFound("gone", status=404),
        RolloutRefused("archived"),
        ValueError("no key"),
    ],
)
def test_an_error_goes_through_an_event_and_comes_out_the_same(error):
    event = json.loads(json.dumps(error_event(error)))
    with pytest.raises(type(error)) as raised:
        validated(event, "key")
    assert type(raised.value) is type(error)
    assert str(raised.value) == str(error)


@pytest.mark.parametrize(
    "event",
    [None, "success", [], {}, {"key": 1, "more": 2}, {"error": None}, {"error": {"type": "OSError", "text": "x"}}],
)
def test_other_events_are_refused(event):
    with pytest.raises(ValueError, match="nobody waits for"):
        validated(event, "key")


def test_an_event_as_expected_is_handed_on():
    assert validated({"key": 1}, "key") == {"key": 1}
