"""The kill switch against the emulator over real HTTP: what it sends, whom it does not wait for, what it says."""

from __future__ import annotations

import json
import logging
import threading
from datetime import UTC, datetime, timedelta

import pytest
from airflow.providers.common.compat.sdk import AirflowException, AirflowFailException

from airflow_amplitude_experiment.api import _retry
from airflow_amplitude_experiment.operators import AmplitudeKillSwitchOperator, _way_down
from airflow_amplitude_experiment.operators._kill import Target
from airflow_amplitude_experiment.operators._way_down import deadline
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
    """Nobody waits: neither the operator nor the client below it."""
    fake = FakeClock()
    monkeypatch.setattr(_way_down, "now", fake.now)
    monkeypatch.setattr(_way_down, "pause", fake.pause)
    monkeypatch.setattr(_retry, "FIRST_WAIT", 0.0)
    monkeypatch.setattr(_retry, "PATIENCE", -1.0)  # one attempt: what the client repeats itself is tested there
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
    requests = sent(amplitude)
    assert sorted(requests[:2]) == [("GET", "experiments"), ("GET", "flags")]
    assert sorted(requests[-2:]) == [("GET", "experiments"), ("GET", "flags")]
    assert [method for method, _ in requests[2:-2]] == ["PATCH"] * 3
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
    from airflow_amplitude_experiment.hooks.guard import GuardedClient

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


def test_a_prefix_is_not_acted_on_before_both_lists_are_read(amplitude, clock):
    """How many match is only known then."""
    seen = []
    clock.meanwhile = lambda: seen.append(is_on(amplitude, "shop-cart"))
    amplitude.fault("status", method="GET", path="*/experiments", status=500, times=5)
    with pytest.raises(AirflowFailException, match="max_objects=3"):
        kill(key_prefix="shop-", max_objects=3)
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
