"""The change trigger: that each change is told, by whom and from what to what, and that nothing ends it."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import pytest

from airflow_amplitude_experiment.api import _retry
from airflow_amplitude_experiment.api.models import FlagConfig, Version
from airflow_amplitude_experiment.triggers import change as module
from airflow_amplitude_experiment.triggers._moments import after_failure
from airflow_amplitude_experiment.triggers._what_changed import fields_changed, in_words
from airflow_amplitude_experiment.triggers.change import SETTLE, AmplitudeChangeTrigger, Cursor

KEY = "new-checkout"
NOON = datetime(2026, 11, 20, 12, tzinfo=UTC)
MINUTE = timedelta(minutes=1)


class StopWatchingError(BaseException):
    """Ends a trigger from outside, as a triggerer does that goes down."""


class Meanwhile:
    """What happens while a trigger sleeps between two looks; when there is no more, the triggerer goes down."""

    def __init__(self):
        self.script = []
        self.slept = []

    async def sleep(self, seconds):
        assert seconds > 0
        self.slept.append(seconds)
        assert len(self.slept) < 1000
        if seconds == SETTLE:
            return
        if not self.script:
            raise StopWatchingError
        self.script.pop(0)()

    @property
    def waits(self):
        return [seconds for seconds in self.slept if seconds != SETTLE]


class Store:
    """Airflow's state store of one asset: plain JSON, and a time at which it was written."""

    def __init__(self, meanwhile):
        self.values = {}
        self.meanwhile = meanwhile
        self.written_after = []

    async def aget(self, key, default=None):
        return json.loads(self.values[key]) if key in self.values else default

    async def aset(self, key, value):
        self.values[key] = json.dumps(value)
        self.written_after.append(len(self.meanwhile.slept))


@pytest.fixture(autouse=True)
def meanwhile(monkeypatch):
    fake = Meanwhile()
    monkeypatch.setattr(module, "sleep", fake.sleep)
    monkeypatch.setattr(module, "random", SimpleNamespace(uniform=lambda low, high: 1.0))
    monkeypatch.setattr(_retry, "PATIENCE", -1.0)
    monkeypatch.setattr(_retry, "FIRST_WAIT", 0.0)
    monkeypatch.setattr(AmplitudeChangeTrigger, "log", logging.getLogger("tests.trigger"))
    return fake


@pytest.fixture
def amplitude(amplitude_emulator, monkeypatch):
    """The emulator with a flag at 10 % and an experiment, both older than any look, and a connection to it."""
    monkeypatch.setenv(
        "AIRFLOW_CONN_AMPLITUDE_EXPERIMENT_DEFAULT", amplitude_emulator.airflow_connection(requests_per_second=1000)
    )
    amplitude_emulator.add_flag(KEY, enabled=True, rollout_percentage=10)
    amplitude_emulator.add_experiment("new-price", enabled=True)
    time.sleep(0.005)  # the dates have milliseconds
    amplitude_emulator.clear_requests()
    return amplitude_emulator


def a_trigger(store=None, **options):
    trigger = AmplitudeChangeTrigger(**{"lookback": 0, **options})
    if store is not None:
        trigger.asset_state_store = store
    return trigger


def watched(trigger, meanwhile, *script):
    """Run a trigger as the triggerer does, while things happen; return the changes of each event."""
    meanwhile.script = list(script)
    events = []

    async def watch():
        async for event in trigger.run():
            json.dumps(event.payload)
            events.append(event.payload["changes"])

    with pytest.raises(StopWatchingError):
        asyncio.run(watch())
    return events


def nothing():
    """Let one look pass."""


def sent(emulator):
    return [request["path"].removeprefix("/api/1/") for request in emulator.requests()]


def told(events):
    return [(each["key"], each["to_version"]) for changes in events for each in changes]


# --- what an event tells -----------------------------------------------------------------------------------


def test_an_event_says_what_changed_from_which_version_to_which_and_by_whom(amplitude, meanwhile):
    events = watched(a_trigger(), meanwhile, lambda: amplitude.change(KEY, by="ann@example.com", rollout_percentage=25))

    (((change,),)) = events
    at = change.pop("at")
    assert datetime.fromisoformat(at).tzinfo is not None
    assert change.pop("by")
    assert change.pop("text") == (
        f"flag {KEY}: rollout percentage 10 -> 25 (version 1 -> 2, by ann@example.com at {at})"
    )
    assert change == {
        "kind": "flag",
        "key": KEY,
        "id": amplitude.flag(KEY)["id"],
        "project_id": amplitude.project_id,
        "from_version": 1,
        "to_version": 2,
        "by_name": "ann@example.com",
        "fields": {"rollout_percentage": {"from": 10, "to": 25}},
    }


def test_an_experiment_is_told_as_one(amplitude, meanwhile):
    (((change,),)) = watched(a_trigger(), meanwhile, lambda: amplitude.change("new-price", enabled=False))
    assert (change["kind"], change["fields"]) == ("experiment", {"enabled": {"from": True, "to": False}})


def test_a_new_object_is_told_with_no_version_before(amplitude, meanwhile):
    (((change,),)) = watched(a_trigger(), meanwhile, lambda: amplitude.add_flag("brand-new"))
    assert (change["from_version"], change["to_version"], change["fields"]) == (None, 1, None)
    assert change["text"].startswith("flag brand-new: is new")


def test_the_changes_of_one_look_are_one_event_the_oldest_first_each_against_the_one_before(amplitude, meanwhile):
    def edited_twice():
        amplitude.change(KEY, rollout_percentage=25)
        time.sleep(0.002)
        amplitude.change(KEY, rollout_percentage=50)

    (changes,) = watched(a_trigger(), meanwhile, edited_twice)
    assert [(each["from_version"], each["to_version"]) for each in changes] == [(1, 2), (2, 3)]
    assert [each["fields"]["rollout_percentage"] for each in changes] == [
        {"from": 10, "to": 25},
        {"from": 25, "to": 50},
    ]


def test_very_many_changes_come_in_several_events_and_all_of_them(amplitude, meanwhile, monkeypatch):
    monkeypatch.setattr(module, "PER_EVENT", 2)

    def five():
        for percentage in range(1, 6):
            amplitude.change(KEY, rollout_percentage=percentage)

    events = watched(a_trigger(), meanwhile, five)
    assert [len(changes) for changes in events] == [2, 2, 1]
    assert told(events) == [(KEY, number) for number in range(2, 7)]


def test_no_event_holds_the_id_of_a_user(amplitude, meanwhile):
    amplitude.options(fields="full")

    def aimed():
        condition = {"type": "property", "prop": "user_id", "op": "is", "values": ["person-7"]}
        segment = {"name": "person-7", "conditions": [condition], "percentage": 100, "rolloutWeights": {"on": 1}}
        amplitude.change(KEY, target_segments=[segment], description="for person-7", tags=["person-7"])

    events = watched(a_trigger(), meanwhile, aimed)
    assert "person-7" not in json.dumps(events)
    fields = events[0][0]["fields"]
    assert fields["target_segments"] == {
        "from_count": 0,
        "to_count": 1,
        "percentages": {"from": [], "to": [100]},
    }
    assert fields["description"] == {}


def test_only_fields_that_hold_no_people_are_told_with_their_values():
    before = FlagConfig.model_validate({"variants": [{"key": "on", "users": ["u1"]}], "name": "A", "odd": "u1"})
    after = FlagConfig.model_validate(
        {
            "variants": [{"key": "on", "users": ["u1", "u2"]}, {"key": "off"}],
            "name": "B",
            "odd": "u2",
            "rolloutWeights": {"on": 1},
            "decision": {"user": "u2"},
        }
    )
    assert fields_changed(before, after) == {
        "decision": {"from": None, "to": {}},
        "name": {"from": "A", "to": "B"},
        "odd": {},
        "rollout_weights": {"from": None, "to": {"on": 1}},
        "variants": {"from_count": 1, "to_count": 2, "keys": {"from": ["on"], "to": ["on", "off"]}},
    }


def test_a_change_that_versions_do_not_show_is_told_as_such(amplitude, meanwhile):
    (((change,),)) = watched(a_trigger(), meanwhile, lambda: amplitude.change("new-price", rollout_percentage=30))
    assert change["fields"] == {}
    assert "something that versions don't show" in change["text"]


def test_a_change_whose_version_before_cannot_be_read_is_told_all_the_same(amplitude, meanwhile):
    def changed():
        amplitude.change(KEY, rollout_percentage=25)
        amplitude.fault("status", status=404, path="/api/1/*/*/versions/*", times=5)

    (((change,),)) = watched(a_trigger(), meanwhile, changed)
    assert (change["to_version"], change["fields"]) == (2, None)
    assert "can't be read" in in_words(change)


# --- whose changes, and of what ----------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["id", "bot@example.com", " BOT@example.com "])
def test_changes_by_an_author_who_is_to_be_ignored_start_nothing(amplitude, meanwhile, name):
    ignored = amplitude.world.store.user_id("bot@example.com") if name == "id" else name
    events = watched(
        a_trigger(ignore_modified_by=[ignored]),
        meanwhile,
        lambda: amplitude.change(KEY, by="bot@example.com", rollout_percentage=25),
        lambda: amplitude.change(KEY, by="ann@example.com", rollout_percentage=50),
    )
    assert told(events) == [(KEY, 3)]
    assert events[0][0]["fields"] == {"rollout_percentage": {"from": 25, "to": 50}}


def test_an_author_is_looked_up_once(amplitude, meanwhile):
    watched(
        a_trigger(),
        meanwhile,
        lambda: amplitude.change(KEY, rollout_percentage=25),
        lambda: amplitude.change(KEY, rollout_percentage=50),
    )
    assert sent(amplitude).count("flags") == 1


def test_only_keys_that_match_are_told(amplitude, meanwhile):
    def both():
        amplitude.change(KEY, rollout_percentage=25)
        amplitude.change("new-price", enabled=False)

    assert told(watched(a_trigger(keys=["*-price"]), meanwhile, both)) == [("new-price", 2)]


def test_only_the_project_of_the_connection_is_told(amplitude, meanwhile):
    assert told(watched(a_trigger(project_id="999"), meanwhile, lambda: amplitude.change(KEY, enabled=False))) == []


# --- each at least once ------------------------------------------------------------------------------------


def test_what_was_told_is_not_told_again_by_the_looks_after(amplitude, meanwhile):
    events = watched(
        a_trigger(), meanwhile, lambda: amplitude.change(KEY, rollout_percentage=25), nothing, nothing, nothing
    )
    assert told(events) == [(KEY, 2)]


def test_what_changes_while_no_triggerer_runs_is_told_by_the_next_one(amplitude, meanwhile):
    store = Store(meanwhile)
    assert told(watched(a_trigger(store), meanwhile, lambda: amplitude.change(KEY, rollout_percentage=25))) == [
        (KEY, 2)
    ]
    amplitude.change(KEY, rollout_percentage=50)
    assert told(watched(a_trigger(store), meanwhile)) == [(KEY, 3)]


def test_a_watch_that_saw_nothing_yet_also_leaves_where_it_began(amplitude, meanwhile):
    store = Store(meanwhile)
    assert watched(a_trigger(store), meanwhile, nothing) == []
    amplitude.change(KEY, rollout_percentage=50)
    assert told(watched(a_trigger(store), meanwhile)) == [(KEY, 2)]


def test_the_cursor_is_kept_only_once_the_event_has_had_time_to_be_stored(amplitude, meanwhile):
    store = Store(meanwhile)
    watched(a_trigger(store), meanwhile, lambda: amplitude.change(KEY, rollout_percentage=25))
    begun, after = store.written_after
    assert begun == 0
    assert meanwhile.slept[after - 1] == SETTLE


def test_a_triggerer_that_dies_right_after_an_event_tells_it_again(amplitude, meanwhile):
    store, trigger = Store(meanwhile), None
    watched(a_trigger(store), meanwhile)
    amplitude.change(KEY, rollout_percentage=25)

    async def killed_at_the_event():
        stream = trigger.run()
        event = await anext(stream)
        await stream.aclose()
        return event.payload["changes"]

    for _ in range(2):
        trigger = a_trigger(store)
        assert told([asyncio.run(killed_at_the_event())]) == [(KEY, 2)]


def test_without_a_store_it_looks_back_for_so_long(amplitude, meanwhile):
    amplitude.change(KEY, rollout_percentage=25)
    assert (KEY, 2) in told(watched(a_trigger(lookback=600), meanwhile))
    time.sleep(0.005)
    assert told(watched(a_trigger(lookback=0), meanwhile)) == []


def test_a_store_that_fails_ends_nothing_and_is_told(amplitude, meanwhile, caplog):
    store = Store(meanwhile)

    async def broken(key, value):
        raise ValueError("no API server")

    store.aset = broken
    changes = [lambda: amplitude.change(KEY, rollout_percentage=25), nothing]
    assert told(watched(a_trigger(store), meanwhile, *changes)) == [(KEY, 2)]
    assert "keeps no cursor" in caplog.text


def test_each_of_several_watched_assets_keeps_the_cursor(amplitude, meanwhile):
    one, two = Store(meanwhile), Store(meanwhile)
    both = SimpleNamespace(_by_name={"one": one, "two": two}, _by_uri={})
    watched(a_trigger(both), meanwhile, lambda: amplitude.change(KEY, rollout_percentage=25))
    assert one.values == two.values != {}


def test_two_watchers_of_one_asset_keep_their_own_cursors(amplitude, meanwhile):
    store = Store(meanwhile)
    watched(a_trigger(store), meanwhile, lambda: amplitude.change(KEY, rollout_percentage=25))
    watched(a_trigger(store, keys=["new-*"]), meanwhile)
    assert len(store.values) == 2


def a_version(number=1, at=NOON, key=KEY):
    config = {"id": "1", "projectId": "2", "key": key}
    return Version.model_validate({"version": number, "createdAt": at and at.isoformat(), "flagConfig": config})


def test_a_change_that_shows_up_late_is_still_asked_for():
    cursor = Cursor(NOON).after([a_version(7)])
    late = a_version(6, NOON - MINUTE)
    assert cursor.start <= NOON - MINUTE
    assert cursor.fresh([late, a_version(7)]) == [late]


def test_the_cursor_forgets_what_no_look_asks_for_any_more_and_survives_a_restart():
    cursor = Cursor(NOON).after([a_version(1), a_version(2, NOON + MINUTE)]).after([a_version(3, NOON + 10 * MINUTE)])
    assert list(cursor.seen) == ["2/1/3"]
    again = Cursor.from_json(json.loads(json.dumps(cursor.as_json())))
    assert (again.since, again.seen) == (cursor.since, cursor.seen)


@pytest.mark.parametrize("value", [None, "2026", {}, {"since": "x", "seen": {}}, {"since": "2026-11-20", "seen": {}}])
def test_a_store_that_holds_something_else_counts_as_empty(value):
    assert Cursor.from_json(value) is None


def test_a_version_without_a_date_is_told_once():
    undated = a_version(5, at=None)
    cursor = Cursor(NOON)
    assert cursor.fresh([undated]) == [undated]
    assert cursor.after([undated]).fresh([undated]) == []


def test_a_thousand_changes_at_once_are_not_told_again_and_again_and_fit_the_store():
    many = [a_version(number) for number in range(1, 1001)]
    cursor = Cursor(NOON).after(many)
    assert cursor.fresh(many) == []
    assert len(json.dumps(cursor.as_json())) < 64_000


# --- nothing ends it ---------------------------------------------------------------------------------------


def test_a_refused_key_ends_nothing_is_said_with_the_reason_and_counts_once_mended(amplitude, meanwhile, caplog):
    caplog.set_level(logging.INFO)

    def refused():
        amplitude.change(KEY, rollout_percentage=25)
        amplitude.fault("status", status=401, path="/api/1/versions", times=3)

    events = watched(a_trigger(), meanwhile, refused, nothing, nothing, nothing)

    assert told(events) == [(KEY, 2)]
    errors = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert len(errors) == 3
    assert "AmplitudeAuthError" in errors[0].getMessage()
    assert "management key" in errors[0].getMessage()
    assert "after 3 failures" in caplog.text
    assert amplitude.management_key not in caplog.text


@pytest.mark.parametrize("status", [403, 429, 500, 503])
def test_waits_grow_while_amplitude_refuses_or_fails_and_end_when_it_answers(amplitude, meanwhile, monkeypatch, status):
    def at_noon(moment, failures, error):  # a 429 near midnight is another matter
        return moment + (after_failure(NOON, failures, error) - NOON)

    monkeypatch.setattr(module, "after_failure", at_noon)

    def failing():
        amplitude.fault("status", status=status, path="/api/1/versions", times=4)
        amplitude.change(KEY, rollout_percentage=25)

    events = watched(a_trigger(interval=20), meanwhile, failing, nothing, nothing, nothing, nothing)

    usual, *failed, last = meanwhile.waits
    assert (usual, last) == (20, 20)
    assert len(failed) == 4
    assert failed[-1] > 2 * failed[0] > failed[0] > 20
    assert told(events) == [(KEY, 2)]


def test_waits_also_grow_where_the_feed_answers_and_the_versions_before_do_not(amplitude, meanwhile):
    def failing():
        amplitude.fault("status", status=503, path="/api/1/flags/*/versions/*", times=3)
        amplitude.change(KEY, rollout_percentage=25)

    events = watched(a_trigger(interval=20), meanwhile, failing, nothing, nothing, nothing)
    assert meanwhile.waits[3] > meanwhile.waits[1] > 20
    assert told(events) == [(KEY, 2)]


def test_an_object_whose_versions_amplitude_cannot_show_holds_back_no_other_change_for_ever(amplitude, meanwhile):
    def failing():
        amplitude.fault("status", status=500, path="/api/1/flags/*/versions/*", times=None)
        amplitude.change(KEY, rollout_percentage=25)
        amplitude.change("new-price", enabled=False)

    (changes,) = watched(a_trigger(), meanwhile, failing, *[nothing] * 6)
    assert {each["key"]: each["fields"] for each in changes} == {
        KEY: None,
        "new-price": {"enabled": {"from": True, "to": False}},
    }


def test_a_version_before_that_is_not_of_the_documented_shape_holds_back_nothing(amplitude, meanwhile, caplog):
    def changed():
        amplitude.fault("html", path="/api/1/flags/*/versions/*", times=None)
        amplitude.change(KEY, rollout_percentage=25)

    (((change,),)) = watched(a_trigger(), meanwhile, changed)
    assert (change["to_version"], change["fields"]) == (2, None)
    assert "told without what can't be read" in caplog.text


def test_a_connection_that_is_not_there_yet_is_waited_for(amplitude, meanwhile, monkeypatch, caplog):
    name = "AIRFLOW_CONN_AMPLITUDE_EXPERIMENT_DEFAULT"
    value = amplitude.airflow_connection()
    monkeypatch.setenv(name, "")
    monkeypatch.delenv(name)

    def mended():
        monkeypatch.setenv(name, value)

    store = Store(meanwhile)
    change = lambda: amplitude.change(KEY, rollout_percentage=25)  # noqa: E731
    assert told(watched(a_trigger(store), meanwhile, mended, change)) == [(KEY, 2)]
    assert "through connection amplitude_experiment_default" in caplog.text


def test_an_error_that_nobody_thought_of_does_not_make_airflow_restart_it_in_a_hurry(amplitude, meanwhile, monkeypatch):
    async def mistake(*_):
        raise KeyError("x")

    monkeypatch.setattr(AmplitudeChangeTrigger, "_look", mistake)
    meanwhile.script = [nothing]
    with pytest.raises(KeyError):
        asyncio.run(anext(a_trigger().run()))
    assert meanwhile.waits == [300]


# --- what Airflow is handed --------------------------------------------------------------------------------


def test_another_triggerer_goes_on_with_the_same_arguments_and_no_secret(amplitude):
    trigger = a_trigger(keys=["b", "a"], ignore_modified_by=["9001"], interval=timedelta(minutes=2), project_id=7)
    path, arguments = trigger.serialize()
    assert path == f"{module.__name__}.AmplitudeChangeTrigger"
    assert AmplitudeChangeTrigger(**arguments).serialize() == (path, arguments)
    assert json.loads(json.dumps(arguments)) == arguments
    assert amplitude.management_key not in json.dumps(arguments)
    assert (arguments["keys"], arguments["interval"]) == (["a", "b"], 120.0)


def test_airflow_knows_the_trigger_of_a_watcher_again_at_the_next_parse():
    def watcher():
        return AmplitudeChangeTrigger(keys=["b", "a"], ignore_modified_by=("x",))

    assert watcher().hash(*watcher().serialize()) == watcher().hash(*watcher().serialize())


@pytest.mark.parametrize(
    "options",
    [
        {"keys": "checkout-*"},
        {"keys": None},
        {"ignore_modified_by": "bot@example.com"},
        {"ignore_modified_by": [""]},
        {"interval": 1},
        {"interval": True},
        {"lookback": -1},
        {"lookback": float("inf")},
    ],
)
def test_an_argument_that_cannot_be_meant_is_refused_at_parse_time(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        AmplitudeChangeTrigger(**options)
