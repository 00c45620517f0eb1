"""The kill switch against the emulator over real HTTP: what it sends, whom it does not wait for, what it says."""

from __future__ import annotations

import json
import logging
import threading
import time
from datetime import UTC, datetime, timedelta

import pytest
from airflow.providers.common.compat.sdk import AirflowException, AirflowFailException

from airflow_amplitude_experiment.api import AmplitudeServerError
from airflow_amplitude_experiment.hooks import AmplitudeExperimentHook
from airflow_amplitude_experiment.hooks.guard import GuardedClient
from airflow_amplitude_experiment.operators import AmplitudeKillSwitchOperator, _way_down
from airflow_amplitude_experiment.operators._kill import Target
from airflow_amplitude_experiment.operators._way_down import Job, WayDown, deadline
from airflow_amplitude_experiment.operators.kill import keys_in, seconds_in
from tests.builders import a_context, a_flag

HOUR = timedelta(hours=1)


class FakeClock:
    """Time that passes only while somebody pauses."""

    def __init__(self):
        self.moment = datetime(2026, 11, 20, 3, tzinfo=UTC)
        self.pauses = []
        self.meanwhile = lambda: None
        self._lock = threading.Lock()

    def now(self):
        return self.moment

    def pause(self, stop, seconds):
        with self._lock:
            self.pauses.append(seconds)
            self.moment += timedelta(seconds=seconds)
        self.meanwhile()


@pytest.fixture(autouse=True)
def clock(monkeypatch):
    """Nobody waits. The client below makes one attempt, so that every failure is a pause here."""
    fake = FakeClock()
    monkeypatch.setattr(_way_down, "now", fake.now)
    monkeypatch.setattr(_way_down, "pause", fake.pause)
    return fake


@pytest.fixture(autouse=True)
def logger(monkeypatch):
    """Airflow 3.3 writes a task's log past ``logging``, where ``caplog`` doesn't see it."""
    monkeypatch.setattr(AmplitudeKillSwitchOperator, "log", logging.getLogger("tests.kill"))


@pytest.fixture
def amplitude(amplitude_emulator, monkeypatch):
    """The emulator with two live flags, one that is off, and a running experiment."""
    connect(monkeypatch, amplitude_emulator)
    amplitude_emulator.add_flag("shop-cart", enabled=True, rolloutPercentage=50)
    amplitude_emulator.add_flag("shop-search", enabled=True, rolloutPercentage=100)
    amplitude_emulator.add_flag("shop-old", enabled=False, rolloutPercentage=20)
    amplitude_emulator.add_flag("blog-comments", enabled=True, rolloutPercentage=10)
    amplitude_emulator.add_experiment("shop-price", enabled=True, rolloutPercentage=30)
    amplitude_emulator.clear_requests()
    return amplitude_emulator


def connect(monkeypatch, emulator, *, key=None, **extra):
    connection = json.loads(emulator.airflow_connection(**extra))
    connection["password"] = key or connection["password"]
    monkeypatch.setenv("AIRFLOW_CONN_AMPLITUDE_EXPERIMENT_DEFAULT", json.dumps(connection))


def connect_to_two_projects(monkeypatch, emulator, **extra):
    """A key that sees two projects, and a connection that names none unless told."""
    emulator.seed(
        {
            "projects": [{"id": "100002", "name": "Staging"}],
            "keys": [{"key": "key-of-both", "projects": ["100001", "100002"]}],
        }
    )
    connect(monkeypatch, emulator, key="key-of-both", **{"project_id": None, **extra})


def kill(*, context=None, **options):
    return AmplitudeKillSwitchOperator(task_id="kill", **options).execute(context or a_context())


def sent(emulator):
    return [(request["method"], request["path"].removeprefix("/api/1/")) for request in emulator.requests()]


def patches(emulator):
    return [request["body"] for request in emulator.requests() if request["method"] == "PATCH"]


def is_on(emulator, key):
    return emulator.world.store.by_key("100001", key).data["enabled"]


# --- what it does ------------------------------------------------------------------------------------------


def test_a_kill_costs_one_list_per_kind_before_and_after_and_one_patch_per_object(amplitude):
    record = kill(keys=["shop-cart", "shop-search", "shop-old", "shop-price"], reason="checkout is broken")
    flags = [method for method, path in sent(amplitude) if path.startswith("flags")]
    assert flags == ["GET", "PATCH", "PATCH", "GET"]
    assert [method for method, path in sent(amplitude) if path.startswith("experiments")] == ["GET", "PATCH", "GET"]
    assert patches(amplitude) == [{"enabled": False}] * 3
    assert not any(is_on(amplitude, key) for key in ("shop-cart", "shop-search", "shop-old", "shop-price"))
    assert is_on(amplitude, "blog-comments")
    assert record["switched_off"] == ["shop-price", "shop-cart", "shop-search"]
    assert record["already_off"] == ["shop-old"]
    json.dumps(record)


def test_a_record_says_of_each_object_what_it_was_and_is(amplitude):
    record = kill(keys="shop-cart", kind="flag", reason="why")
    assert record["objects"] == [
        {
            "key": "shop-cart",
            "kind": "flag",
            "id": amplitude.flag("shop-cart")["id"],
            "project_id": "100001",
            "was_enabled": True,
            "enabled": False,
            "rollout_percentage": 50,
            "written": True,
        }
    ]
    assert (record["reason"], record["dry_run"]) == ("why", False)


def test_it_changes_nothing_but_the_switch(amplitude):
    before = amplitude.flag("shop-cart")
    kill(keys=["shop-cart"])
    after = amplitude.flag("shop-cart")
    changed = {name for name in after if after[name] != before.get(name)}
    assert changed <= {"enabled", "lastModifiedAt", "lastModifiedBy"}


def test_what_is_off_already_costs_one_list_and_no_write_and_is_said(amplitude, caplog):
    with caplog.at_level(logging.INFO):
        record = kill(keys=["shop-old"], kind="flag")
    assert sent(amplitude) == [("GET", "flags")]
    assert record["objects"][0]["written"] is False
    assert "is off already, nothing to do" in caplog.text


def test_doing_it_again_writes_nothing(amplitude):
    kill(key_prefix="shop-")
    amplitude.clear_requests()
    assert kill(key_prefix="shop-")["switched_off"] == []
    assert patches(amplitude) == []


def test_a_prefix_takes_every_object_whose_key_begins_so(amplitude):
    kill(key_prefix="shop-")
    assert not is_on(amplitude, "shop-cart")
    assert not is_on(amplitude, "shop-price")
    assert is_on(amplitude, "blog-comments")


def test_kind_narrows_what_is_meant(amplitude):
    kill(key_prefix="shop-", kind="experiment")
    assert not is_on(amplitude, "shop-price")
    assert is_on(amplitude, "shop-cart")
    assert {path for _, path in sent(amplitude) if path.endswith("s")} == {"experiments"}


def test_objects_are_switched_off_in_parallel(amplitude, monkeypatch):
    """Four requests meet: were they sent one after the other, the first would wait for ever."""
    meeting = threading.Barrier(4, timeout=10)
    send = GuardedClient.send

    def meets(self, call, **options):
        if call.writes:
            meeting.wait()
        return send(self, call, **options)

    monkeypatch.setattr(GuardedClient, "send", meets)
    kill(keys=["shop-cart", "shop-search", "blog-comments", "shop-price"])
    assert not meeting.broken


def test_the_reason_stands_in_the_log_of_every_write(amplitude, caplog):
    caplog.set_level(logging.INFO)
    kill(keys=["shop-cart", "shop-search"], reason="checkout is broken")
    lines = [line for line in caplog.messages if line.startswith("Sending flags.update")]
    assert len(lines) == 2
    assert all("reason: checkout is broken" in line for line in lines)


def test_it_is_not_paced(amplitude, monkeypatch):
    connect(monkeypatch, amplitude, requests_per_second=0.01)
    kill(key_prefix="shop-")  # paced, seven requests would take ten minutes
    assert not is_on(amplitude, "shop-cart")


@pytest.mark.parametrize(
    "context", [{"run_type": "backfill"}, {"run_type": "scheduled", "clear_number": 3}, {"try_number": 5}]
)
def test_a_run_of_the_past_kills_all_the_same(amplitude, context):
    kill(keys=["shop-cart"], context=a_context(**context))
    assert not is_on(amplitude, "shop-cart")


def test_the_platform_teams_rules_do_not_stop_it(amplitude, monkeypatch):
    rules = {"allow_keys": "other-*", "deny_keys": "shop-*", "max_percentage": 0, "max_step": 1, "require_reason": True}
    connect(monkeypatch, amplitude, **rules)
    kill(keys=["shop-cart"])
    assert not is_on(amplitude, "shop-cart")


def test_a_read_only_connection_sends_nothing_and_says_what_it_would(amplitude, monkeypatch, caplog):
    connect(monkeypatch, amplitude, mode="read_only")
    with caplog.at_level(logging.INFO):
        record = kill(keys=["shop-cart", "shop-old"])
    assert patches(amplitude) == []
    assert [request[0] for request in sent(amplitude)] == ["GET", "GET"]
    assert record["would_switch_off"] == ["shop-cart"]
    assert record["switched_off"] == []
    assert [each["written"] for each in record["objects"]] == [False, False]
    assert "would send flags.update" in caplog.text


def test_a_dry_run_says_what_it_would_do_and_sends_nothing(amplitude, caplog):
    with caplog.at_level(logging.INFO):
        record = kill(key_prefix="shop-", dry_run=True)
    assert patches(amplitude) == []
    assert record["dry_run"] is True
    assert record["would_switch_off"] == ["shop-price", "shop-cart", "shop-search"]
    assert record["already_off"] == ["shop-old"]
    assert "Dry run: would switch off flag shop-cart" in caplog.text


# --- what it refuses ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({}, "exactly one of keys, key_prefix"),
        ({"keys": ["a"], "key_prefix": "b"}, "exactly one of keys, key_prefix"),
        ({"key_prefix": ""}, "key_prefix is empty"),
        ({"key_prefix": "  "}, "key_prefix is empty"),
        ({"keys": []}, "every key must be named"),
        ({"keys": ["a", ""]}, "every key must be named"),
        ({"keys": ["a"], "kind": "mutex"}, "kind is 'mutex'"),
        ({"keys": ["a"], "max_objects": 0}, "max_objects is 0"),
        ({"keys": ["a"], "rollback_deadline": "soon"}, "rollback_deadline is 'soon'"),
    ],
)
def test_what_can_not_be_meant_is_refused_when_the_dag_is_parsed(options, text):
    with pytest.raises(ValueError, match=text):
        AmplitudeKillSwitchOperator(task_id="kill", **options)


@pytest.mark.parametrize("rendered", ["", "None", " "])
def test_a_prefix_that_renders_to_nothing_switches_nothing_off(amplitude, rendered):
    operator = AmplitudeKillSwitchOperator(task_id="kill", key_prefix="{{ params.prefix }}")
    operator.key_prefix = rendered
    with pytest.raises(AirflowFailException, match="key_prefix is empty"):
        operator.execute(a_context())
    assert sent(amplitude) == []


def test_more_objects_than_allowed_are_refused_before_any_write_and_listed(amplitude):
    with pytest.raises(AirflowFailException, match="more than max_objects=3") as refused:
        kill(key_prefix="shop-", max_objects=3)
    assert patches(amplitude) == []
    for key in ("flag shop-cart", "flag shop-search", "flag shop-old", "experiment shop-price"):
        assert key in str(refused.value)


def test_as_many_objects_as_allowed_are_switched_off(amplitude):
    assert len(kill(key_prefix="shop-", max_objects=4)["switched_off"]) == 3


def test_more_keys_than_allowed_are_refused_before_any_write(amplitude):
    with pytest.raises(AirflowFailException, match="max_objects=1"):
        kill(keys=["shop-cart", "shop-price"], max_objects=1)
    assert patches(amplitude) == []


def test_a_key_in_two_projects_is_refused_with_both_listed(amplitude, monkeypatch):
    connect_to_two_projects(monkeypatch, amplitude)
    amplitude.add_flag("shop-cart", projectId="100002", enabled=True)
    with pytest.raises(AirflowFailException, match="100001, 100002"):
        kill(keys=["shop-cart", "shop-search"])
    with pytest.raises(AirflowFailException, match="100001, 100002"):
        kill(key_prefix="shop-")
    assert patches(amplitude) == []


@pytest.mark.parametrize("named_by", ["operator", "connection"])
def test_naming_the_project_decides_between_two(amplitude, monkeypatch, named_by):
    connect_to_two_projects(monkeypatch, amplitude, **({"project_id": "100002"} if named_by == "connection" else {}))
    amplitude.add_flag("shop-cart", projectId="100002", enabled=True)
    kill(keys=["shop-cart"], **({"project_id": "100002"} if named_by == "operator" else {}))
    assert is_on(amplitude, "shop-cart")
    assert amplitude.flag("shop-cart", project_id="100002")["enabled"] is False


def test_another_project_than_the_connections_is_refused(amplitude):
    with pytest.raises(AirflowFailException, match="the connection names project 100001"):
        kill(keys=["shop-cart"], project_id="100002")
    assert sent(amplitude) == []


def test_keys_that_are_not_found_fail_the_task_after_the_others_are_off(amplitude):
    with pytest.raises(AirflowFailException) as failed:
        kill(keys=["shop-cart", "shop-old", "nope"])
    assert not is_on(amplitude, "shop-cart")
    assert "Not found among the flags and experiments of project 100001: nope" in str(failed.value)
    assert "Switched off: shop-cart. Already off: shop-old." in str(failed.value)


def test_a_prefix_that_matches_nothing_is_not_a_success(amplitude):
    with pytest.raises(AirflowFailException, match="typo-…"):
        kill(key_prefix="typo-")


# --- what goes wrong ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["GET", "PATCH"])
@pytest.mark.parametrize(
    ("fault", "details"),
    [
        ("status", {"status": 503}),
        ("rate_limit", {}),
        ("html", {}),
        ("refuse", {}),
        ("cut_before", {}),
        ("cut_after", {}),
        ("truncated", {}),
    ],
)
def test_what_may_pass_is_tried_every_few_seconds(amplitude, clock, caplog, method, fault, details):
    amplitude.fault(fault, method=method, times=3, **details)
    record = kill(keys=["shop-cart"], kind="flag")
    assert not is_on(amplitude, "shop-cart")
    assert record["switched_off"] == ["shop-cart"]
    assert clock.pauses
    assert set(clock.pauses) == {5.0}


def test_from_the_first_failure_on_the_log_says_what_to_click(amplitude, monkeypatch, clock, caplog):
    connect(monkeypatch, amplitude, organization="acme")
    flag_id = amplitude.flag("shop-cart")["id"]
    said_at = []
    clock.meanwhile = lambda: said_at.append("switch Active off" in caplog.text)
    amplitude.fault("status", method="PATCH", status=500, times=2)
    kill(keys=["shop-cart"], kind="flag")
    assert said_at == [True, True]
    (line,) = [each for each in caplog.messages if "NOT done yet" in each]
    assert "Switching off flag shop-cart" in line
    assert f"/experiment/acme/100001/config/{flag_id} (project 100001, flag shop-cart)" in line
    assert "until 2026-11-20 04:00Z" in line


def test_while_the_list_can_not_be_read_the_log_says_what_to_look_for(amplitude, caplog):
    amplitude.fault("status", method="GET", status=500, times=1)
    kill(keys=["shop-cart"], kind="flag")
    (line,) = [each for each in caplog.messages if "NOT done yet" in each]
    assert "find flag shop-cart in project 100001, and switch Active off" in line


def test_a_request_that_hangs_is_spoken_of_before_it_fails(amplitude, monkeypatch, caplog):
    monkeypatch.setattr(_way_down, "SECONDS_OF_SILENCE", 0.05)
    amplitude.fault("late", method="PATCH", seconds=0.5)
    kill(keys=["shop-cart"], kind="flag")
    assert any("has not answered" in line and "switch Active off" in line for line in caplog.messages)


def test_reminders_come_every_few_minutes_and_not_at_every_try(amplitude, clock, caplog):
    amplitude.fault("status", method="PATCH", status=500, times=130)
    kill(keys=["shop-cart"], kind="flag")
    assert len(clock.pauses) == 130
    assert len([line for line in caplog.messages if "NOT done yet" in line]) == 3  # at 0, 5 and 10 minutes


def test_trying_ends_at_the_deadline_and_may_be_started_again(amplitude, clock):
    amplitude.fault("status", method="PATCH", status=500, times=None)
    with pytest.raises(AirflowException, match="flag shop-cart is still on, at 50 %") as failed:
        kill(keys=["shop-cart"], kind="flag", rollback_deadline="10m")
    assert not isinstance(failed.value, AirflowFailException)
    assert sum(clock.pauses) == 600
    assert "switch Active off" in str(failed.value)


def test_where_nothing_can_be_read_until_the_deadline_the_error_says_what_to_look_for(amplitude, clock):
    amplitude.fault("status", status=500, times=None)
    with pytest.raises(AirflowException) as failed:
        kill(keys=["shop-cart"], rollback_deadline="1m")
    assert not isinstance(failed.value, AirflowFailException)
    assert "find flag or experiment shop-cart in project 100001, and switch Active off" in str(failed.value)
    assert "nothing is known of shop-cart" in str(failed.value)


def test_a_429_is_waited_for_until_after_midnight(amplitude, clock):
    amplitude.fault("rate_limit", method="PATCH", times=None)
    clock.moment = datetime(2026, 11, 20, 22, 50, tzinfo=UTC)
    with pytest.raises(AirflowException):
        kill(keys=["shop-cart"], kind="flag", rollback_deadline="10m")
    assert clock.moment == datetime(2026, 11, 21, 0, 5, tzinfo=UTC)


@pytest.mark.parametrize("status", [401, 403, 404, 405])
def test_an_object_that_is_refused_does_not_stop_the_others(amplitude, clock, status):
    refused = amplitude.flag("shop-cart")["id"]
    amplitude.fault("status", method="PATCH", path=f"*/flags/{refused}", status=status, times=None)
    with pytest.raises(AirflowFailException) as failed:
        kill(keys=["shop-cart", "shop-search", "shop-price"])
    assert not is_on(amplitude, "shop-search")
    assert not is_on(amplitude, "shop-price")
    assert clock.pauses == []
    text = str(failed.value)
    assert "flag shop-cart is still on, at 50 %" in text
    assert f"answered {status}" in text
    assert f"config/{refused} (project 100001, flag shop-cart) and switch Active off" in text
    assert "Switched off: shop-price, shop-search." in text


def test_an_object_that_fails_for_long_does_not_hold_up_the_others(amplitude, clock):
    """While one is tried again and again, the others are off already."""
    slow = amplitude.flag("shop-cart")["id"]
    amplitude.fault("status", method="PATCH", path=f"*/flags/{slow}", status=500, times=20)
    kill(keys=["shop-cart", "shop-search"], kind="flag")
    paths = [path for method, path in sent(amplitude) if method == "PATCH"]
    assert len(paths) == 22
    assert f"flags/{amplitude.flag('shop-search')['id']}" in paths[:10]


def test_keys_of_one_kind_are_off_although_the_other_kinds_list_fails(amplitude, clock):
    """With the project named and few keys, nothing in the second list could forbid the first kill."""
    seen = []
    clock.meanwhile = lambda: seen.append(is_on(amplitude, "shop-cart"))
    amplitude.fault("status", method="GET", path="*/experiments", status=500, times=30)
    kill(keys=["shop-cart", "shop-price"])
    assert seen[-1] is False  # the experiments could still not be read then
    assert not is_on(amplitude, "shop-price")


@pytest.mark.parametrize(
    "options",
    [
        {"key_prefix": "shop-"},
        {"keys": ["shop-cart", "shop-price"], "max_objects": 3},
        {"keys": ["shop-cart", "shop-price"], "connection": "names no project"},
    ],
)
def test_what_one_list_shows_is_off_while_the_other_kinds_list_fails(amplitude, clock, monkeypatch, options):
    if options.pop("connection", None):
        connect(monkeypatch, amplitude, project_id=None)
    off_meanwhile = []
    clock.meanwhile = lambda: off_meanwhile.append(comes_true(lambda: not is_on(amplitude, "shop-cart")))
    amplitude.fault("status", method="GET", path="*/experiments", status=500, times=2)
    record = kill(**options)
    assert off_meanwhile == [True, True]
    assert not is_on(amplitude, "shop-price")
    assert "shop-price" in record["switched_off"]


@pytest.mark.parametrize(
    ("options", "patience"), [({"key_prefix": "shop-"}, 0.2), ({"keys": ["shop-cart", "shop-price"]}, 15.0)]
)
def test_what_one_list_shows_is_off_while_the_other_is_slow(amplitude, monkeypatch, options, patience):
    """A few keys of a project that is named do not wait for the other list at all."""
    monkeypatch.setattr(_way_down, "SECONDS_FOR_ALL", patience)
    amplitude.fault("late", method="GET", path="*/experiments", seconds=1.0)
    kill(**options)
    requests = [(method, path.split("/")[0]) for method, path in sent(amplitude)]
    read_back = len(requests) - 1 - requests[::-1].index(("GET", "flags"))
    assert read_back < requests.index(("PATCH", "experiments"))


def test_what_a_list_shows_later_does_not_wait_for_a_change_that_fails(amplitude, clock):
    off_meanwhile = []
    clock.meanwhile = lambda: off_meanwhile.append(comes_true(lambda: not is_on(amplitude, "shop-price")))
    amplitude.fault("late", method="GET", path="*/experiments", seconds=0.3)
    amplitude.fault("status", method="PATCH", path="*/flags/*", status=500, times=1)
    kill(keys=["shop-cart", "shop-price"])
    assert off_meanwhile == [True]


def test_lists_that_answer_in_time_are_judged_together(amplitude, monkeypatch):
    amplitude.fault("late", method="GET", path="*/experiments", seconds=0.5)
    with pytest.raises(AirflowFailException, match=r"4 objects match .* max_objects=3"):
        kill(key_prefix="shop-", max_objects=3)
    assert patches(amplitude) == []


def test_a_list_that_comes_late_never_makes_it_more_objects_than_allowed(amplitude, clock):
    clock.meanwhile = lambda: comes_true(lambda: not is_on(amplitude, "shop-cart"))
    amplitude.fault("status", method="GET", path="*/experiments", status=500, times=2)
    with pytest.raises(AirflowFailException) as failed:
        kill(key_prefix="shop-", max_objects=3)
    assert is_on(amplitude, "shop-price")
    assert not is_on(amplitude, "shop-search")
    text = str(failed.value)
    assert "The experiments were left alone: 4 objects match" in text
    assert "Nothing was written" not in text
    assert "Switched off: shop-cart, shop-search." in text


def test_a_list_that_comes_late_and_shows_a_key_in_another_project_is_left_alone(amplitude, clock, monkeypatch):
    connect_to_two_projects(monkeypatch, amplitude)
    amplitude.add_experiment("shop-cart", projectId="100002", enabled=True)
    clock.meanwhile = lambda: comes_true(lambda: not amplitude.flag("shop-cart", project_id="100001")["enabled"])
    amplitude.fault("status", method="GET", path="*/experiments", status=500, times=2)
    with pytest.raises(AirflowFailException, match="left alone: shop-cart is found in several projects: 100001, 1000"):
        kill(keys=["shop-cart"])
    assert amplitude.experiment("shop-cart", project_id="100002")["enabled"] is True
    assert amplitude.flag("shop-cart", project_id="100001")["enabled"] is False


def test_what_one_list_alone_shows_too_much_of_is_refused_at_once(amplitude, clock):
    amplitude.fault("status", method="GET", path="*/experiments", status=500, times=None)
    clock.meanwhile = lambda: time.sleep(0.05)
    with pytest.raises(AirflowFailException, match=r"3 objects match .* max_objects=2"):
        kill(key_prefix="shop-", max_objects=2)
    assert patches(amplitude) == []
    assert clock.moment < datetime(2026, 11, 20, 4, tzinfo=UTC)


def test_an_object_that_fails_for_long_does_not_keep_the_others_from_zero(amplitude, clock):
    slow = amplitude.flag("shop-cart")["id"]
    keep_on(amplitude, "shop-search")
    amplitude.fault("status", method="PATCH", path=f"*/flags/{slow}", status=500, times=2)
    seen = []

    def at_zero():
        return amplitude.flag("shop-search")["rolloutPercentage"] == 0

    clock.meanwhile = lambda: seen.append(clock.pauses[-1] != 5.0 or comes_true(at_zero))
    with pytest.raises(AirflowFailException, match="shop-search is still on, at 0 %"):
        kill(keys=["shop-cart", "shop-search"], kind="flag")
    assert all(seen)


def test_a_list_that_is_refused_does_not_stop_the_other_kind(amplitude):
    amplitude.fault("status", method="GET", path="*/experiments", status=403, times=None)
    with pytest.raises(AirflowFailException, match="The experiments could not be read"):
        kill(key_prefix="shop-")
    assert not is_on(amplitude, "shop-cart")


def test_what_stays_on_is_taken_to_zero_and_the_log_says_what_to_click(amplitude):
    """Amplitude accepts the change and shows the object as enabled, as where an approval is pending."""
    amplitude.change("shop-price", stickyBucketing=True)
    keep_on(amplitude, "shop-price")
    with pytest.raises(AirflowFailException) as failed:
        kill(keys=["shop-price"], kind="experiment")
    assert patches(amplitude) == [{"enabled": False}, {"rolloutPercentage": 0}]
    assert amplitude.experiment("shop-price")["rolloutPercentage"] == 0
    text = str(failed.value)
    assert "experiment shop-price is still on, at 0 %" in text
    assert "sticky bucketing" in text
    assert "an approval may be pending" in text
    assert "switch Active off" in text


def test_what_stays_on_at_zero_is_left_there(amplitude):
    amplitude.change("shop-cart", rolloutPercentage=0)
    keep_on(amplitude, "shop-cart")
    with pytest.raises(AirflowFailException, match="is still on, at 0 %"):
        kill(keys=["shop-cart"], kind="flag")
    assert patches(amplitude) == [{"enabled": False}]


def keep_on(emulator, key):
    """Let the emulator's answer to ``enabled: false`` be OK and nothing else."""
    thing_id = emulator.world.store.by_key("100001", key).id
    emulator.fault("status", method="PATCH", path=f"*/{thing_id}", status=200, body="OK", headers={})


def test_what_somebody_else_switched_off_meanwhile_is_a_success(amplitude, monkeypatch):
    amplitude.fault("status", method="PATCH", status=403)
    take = amplitude.world.faults.take

    def somebody_is_faster(method, path):
        if method == "PATCH":
            amplitude.change("shop-cart", enabled=False)
        return take(method, path)

    monkeypatch.setattr(amplitude.world.faults, "take", somebody_is_faster)
    record = kill(keys=["shop-cart"], kind="flag")
    assert record["objects"][0]["enabled"] is False
    assert record["objects"][0]["written"] is False


def test_the_key_is_in_no_line_of_the_log_and_in_no_error(amplitude, caplog):
    amplitude.fault("status", method="PATCH", status=403, times=None)
    with caplog.at_level(logging.DEBUG), pytest.raises(AirflowFailException) as failed:
        kill(key_prefix="shop-", reason="test")
    assert amplitude.management_key not in caplog.text + str(failed.value)


def test_stopping_the_task_ends_the_trying(amplitude, clock, monkeypatch):
    amplitude.fault("status", method="PATCH", status=500, times=None)
    operator = AmplitudeKillSwitchOperator(task_id="kill", keys=["shop-cart"], kind="flag")
    clock.meanwhile = lambda: operator.on_kill() if len(clock.pauses) == 3 else None
    with pytest.raises(AirflowException):
        operator.execute(a_context())
    assert len(clock.pauses) <= 5


# --- what hangs, lags or is stopped ------------------------------------------------------------------------


@pytest.mark.parametrize("what", ["flags.list", "flags.update", "flags.list again"])
def test_an_answer_without_an_end_is_not_waited_for_beyond_the_deadline(amplitude, clock, monkeypatch, what):
    threads, over, asked = [], threading.Event(), []

    def hangs(call):
        asked.append(call.endpoint)
        if call.endpoint + (" again" if asked.count("flags.list") > 1 else "") == what:
            threads.append(threading.current_thread())
            clock.moment += timedelta(hours=2)
            over.wait(4)

    before_each_request(monkeypatch, hangs)
    try:
        if what == "flags.list again":
            assert kill(keys=["shop-cart"], kind="flag", rollback_deadline="5s")["switched_off"] == ["shop-cart"]
        else:
            with pytest.raises(AirflowException, match="no answer, or none that ends, until the deadline") as failed:
                kill(keys=["shop-cart"], kind="flag", rollback_deadline="5s")
            assert not isinstance(failed.value, AirflowFailException)
        assert [thread.is_alive() and thread.daemon for thread in threads] == [True]
    finally:
        over.set()


def test_reads_that_lag_behind_are_no_alarm(amplitude, clock, monkeypatch):
    real, first = GuardedClient.iterate, []

    def stale(self, call):
        first.append(list(real(self, call)))
        return iter(first[0])

    monkeypatch.setattr(GuardedClient, "iterate", stale)
    record = kill(keys=["shop-cart"], kind="flag")
    assert patches(amplitude) == [{"enabled": False}]
    assert record["objects"][0]["enabled"] is False
    assert clock.pauses == [2.0]


def test_reads_that_lag_behind_after_going_to_zero_are_read_again(amplitude, monkeypatch):
    real, found, sent_zero = GuardedClient.send, [], []

    def stale(self, call, **options):
        answer = real(self, call, **options)
        if call.arguments.get("rollout_percentage") == 0:
            sent_zero.append(call)
        elif not call.writes:
            found.append(answer)
            return found[-2] if sent_zero and not sent_zero.pop().arguments.get("enabled") else answer
        return answer

    monkeypatch.setattr(GuardedClient, "send", stale)
    keep_on(amplitude, "shop-cart")
    with pytest.raises(AirflowFailException, match="flag shop-cart is still on, at 0 %"):
        kill(keys=["shop-cart"], kind="flag")


@pytest.mark.parametrize("status", [200, 500, 403])
def test_after_a_stop_nothing_more_is_sent_or_promised(amplitude, monkeypatch, caplog, status):
    operator = AmplitudeKillSwitchOperator(task_id="kill", keys=["shop-cart"], kind="flag")
    amplitude.fault("status", method="PATCH", status=status, body="OK", headers={})
    before_each_request(monkeypatch, lambda call: operator.on_kill() if call.writes else None)
    with pytest.raises(AirflowException, match="flag shop-cart may still be on") as failed:
        operator.execute(a_context())
    assert isinstance(failed.value, AirflowFailException) is (status == 403)
    assert [method for method, _ in sent(amplitude)] == ["GET", "PATCH"]
    assert "Trying again" not in caplog.text
    assert "taking it from" not in caplog.text


def test_a_stop_while_the_list_is_read_switches_nothing_off(amplitude, monkeypatch):
    operator = AmplitudeKillSwitchOperator(task_id="kill", keys=["shop-cart"], kind="flag")
    before_each_request(monkeypatch, lambda call: operator.on_kill())
    with pytest.raises(AirflowException, match="the task was stopped"):
        operator.execute(a_context())
    assert patches(amplitude) == []


def test_a_stop_between_two_steps_ends_the_task_so_that_it_may_be_started_again(amplitude, monkeypatch, caplog):
    operator = AmplitudeKillSwitchOperator(task_id="kill", keys=["shop-cart"], kind="flag")
    asked = []

    def stops_at_the_read_back(call):
        asked.append(call.endpoint)
        if asked.count("flags.list") == 2:
            operator.on_kill()

    before_each_request(monkeypatch, stops_at_the_read_back)
    keep_on(amplitude, "shop-cart")
    with pytest.raises(AirflowException, match="still on, at 50 %: the task was stopped") as failed:
        operator.execute(a_context())
    assert not isinstance(failed.value, AirflowFailException)
    assert "taking it from" not in caplog.text
    assert patches(amplitude) == [{"enabled": False}]


def test_a_first_failure_is_told_although_silence_was_told_already(clock, monkeypatch, caplog):
    monkeypatch.setattr(_way_down, "SECONDS_OF_SILENCE", 0.05)
    tries = []

    def slow_and_then_down():
        tries.append(1)
        if len(tries) == 1:
            time.sleep(0.5)
            raise AmplitudeServerError("down", status=503)

    with WayDown(HOUR, log=logging.getLogger("tests.kill"), stop=threading.Event()) as way:
        list(way.finished([way.start(Job(slow_and_then_down, "Switching off", "click"))]))
    silence, failure = [line for line in caplog.messages if "NOT done yet" in line]
    assert "has not answered for" in silence
    assert "answered 503: down" in failure


@pytest.mark.parametrize(("asked", "waits"), [("1", 5.0), ("12", 12.0), ("3600", 15.0)])
def test_amplitude_may_ask_for_a_later_try_within_bounds(amplitude, clock, asked, waits):
    amplitude.fault("status", method="PATCH", status=429, headers={"Retry-After": asked}, body="slow down")
    kill(keys=["shop-cart"], kind="flag")
    assert clock.pauses == [waits]


@pytest.mark.parametrize("fault", ["cut_after", "truncated"])
def test_nobody_is_told_to_read_before_switching_off_again(amplitude, caplog, fault):
    amplitude.fault(fault, method="PATCH", times=None)
    kill(keys=["shop-cart"], kind="flag", rollback_deadline="10s")  # it was applied, as the list shows
    assert "NOT done yet" in caplog.text
    assert "before writing again" not in caplog.text
    assert ".." not in caplog.text


def test_the_error_of_the_task_reads_like_sentences(amplitude):
    amplitude.fault("status", method="PATCH", status=500, times=None)
    amplitude.fault("status", method="GET", path="*/experiments", status=500, times=None)
    with pytest.raises(AirflowException) as failed:
        kill(keys=["shop-cart"], rollback_deadline="10s")
    assert ".." not in str(failed.value)
    assert "before writing again" not in str(failed.value)
    assert "try again later. By hand: open " in str(failed.value)


@pytest.mark.parametrize(
    "extra",
    [
        {"max_percentage": "fifty"},
        {"deny_keys": 7},
        {"max_percent": 10},
        {"require_reason": "maybe"},
        {"timeout": "long"},
        {"requests_per_second": "fast"},
    ],
)
def test_a_rule_that_can_not_be_read_is_a_warning_and_stops_only_others(amplitude, monkeypatch, caplog, extra):
    connect(monkeypatch, amplitude, **extra)
    kill(keys=["shop-cart"], kind="flag")
    assert not is_on(amplitude, "shop-cart")
    (line,) = [each for each in caplog.messages if "goes on without" in each]
    assert next(iter(extra)) in line
    with pytest.raises(ValueError, match=next(iter(extra))):
        AmplitudeExperimentHook().get_conn()


@pytest.mark.parametrize(
    "extra", [{"mode": "readonly"}, {"Mode": "read_only"}, {"project_ids": "1"}, {"project_id": [1]}, {"regoin": "eu"}]
)
def test_where_mode_or_project_can_not_be_read_nothing_is_sent(amplitude, monkeypatch, extra):
    connect(monkeypatch, amplitude, **extra)
    with pytest.raises(AirflowFailException, match=next(iter(extra))):
        kill(keys=["shop-cart"], kind="flag")
    assert sent(amplitude) == []


def before_each_request(monkeypatch, do):
    """Let something happen in the thread of each request, before it is sent."""
    send, iterate = GuardedClient.send, GuardedClient.iterate

    def sends(self, call, **options):
        do(call)
        return send(self, call, **options)

    def iterates(self, call):
        do(call)
        return iterate(self, call)

    monkeypatch.setattr(GuardedClient, "send", sends)
    monkeypatch.setattr(GuardedClient, "iterate", iterates)


def comes_true(happens):
    """Whether something happens soon, while the caller waits."""
    patience = time.monotonic() + 3
    while not happens() and time.monotonic() < patience:
        time.sleep(0.01)
    return happens()


# --- the pure parts ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("started", "limited", "until"),
    [
        ("2026-11-20T03:00", False, "2026-11-20T04:00"),
        ("2026-11-20T03:00", True, "2026-11-21T00:05"),
        ("2026-11-20T23:58", True, "2026-11-21T00:58"),
        ("2026-11-20T23:58", False, "2026-11-21T00:58"),
    ],
)
def test_the_deadline(started, limited, until):
    found = deadline(datetime.fromisoformat(started).replace(tzinfo=UTC), HOUR, limited=limited)
    assert found == datetime.fromisoformat(until).replace(tzinfo=UTC)


@pytest.mark.parametrize(
    ("was", "now", "still_on"),
    [
        ({"enabled": True}, {"enabled": False}, False),
        ({"enabled": True}, {"enabled": True}, True),
        ({"enabled": None}, {"enabled": True}, True),
        ({"enabled": None}, None, True),
        ({"enabled": True}, None, True),
        ({"enabled": True}, {"enabled": None}, True),
        ({"enabled": True}, {"enabled": True, "deleted": True}, False),
        ({"enabled": False}, None, False),
    ],
)
def test_what_is_not_known_to_be_off_counts_as_on_and_what_is_archived_reaches_nobody(was, now, still_on):
    target = Target("flag", a_flag(**was), now=now and a_flag(**now))
    assert target.still_on is still_on


@pytest.mark.parametrize(
    ("given", "seconds"),
    [("30m", 1800), ("1h", 3600), ("90s", 90), ("2 d", 172800), ("45", 45), (45, 45), (1.5, 1.5), ("0.5h", 1800)],
)
def test_a_duration(given, seconds):
    assert seconds_in(given) == seconds


@pytest.mark.parametrize("given", ["", "0", 0, -1, "1w", "h", True, None, "1h30m"])
def test_what_is_no_duration(given):
    with pytest.raises(ValueError, match="rollback_deadline"):
        seconds_in(given)


@pytest.mark.parametrize(
    ("given", "keys"),
    [
        (["a", "b", "a"], ("a", "b")),
        (("a", 7), ("a", "7")),
        ("a", ("a",)),
        ("a, b\nc", ("a", "b", "c")),
        ("['a', 'b c/ü']", ("a", "b c/ü")),
        ('["a"]', ("a",)),
    ],
)
def test_keys_as_a_list_and_as_a_template_renders_them(given, keys):
    assert keys_in(given) == keys


def test_a_timedelta_is_kept_as_plain_seconds():
    operator = AmplitudeKillSwitchOperator(task_id="kill", keys=["a"], rollback_deadline=timedelta(minutes=30))
    assert operator.rollback_deadline == 1800
