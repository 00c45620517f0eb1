"""The rollback of a staged rollout against the emulator over real HTTP: when it acts, what it sends, what it says."""

from __future__ import annotations

import json
import logging
import threading
from datetime import UTC, datetime, timedelta

import pytest
from airflow.providers.common.compat.sdk import AirflowException, AirflowFailException, AirflowSkipException

from airflow_amplitude_experiment.hooks.guard import GuardedClient
from airflow_amplitude_experiment.operators import _audit, _way_down
from airflow_amplitude_experiment.operators.rollback import AmplitudeRollbackOperator
from tests.builders import RUN_AFTER, a_context, a_segment

KEY = "new-checkout"
WATCHES = ["rollout.to_1.watch", "rollout.to_10.watch", "rollout.to_50.watch"]
MANY = {"status": {"status": 503}, "rate_limit": {}, "html": {}, "refuse": {}, "cut_before": {}, "truncated": {}}


class FakeClock:
    """Time that passes only while somebody pauses."""

    def __init__(self):
        self.moment = datetime(2026, 11, 20, 3, tzinfo=UTC)
        self.pauses = []
        self.meanwhile = lambda: None

    def now(self):
        return self.moment

    def pause(self, stop, seconds):
        self.pauses.append(seconds)
        self.moment += timedelta(seconds=seconds)
        self.meanwhile()


@pytest.fixture(autouse=True)
def clock(monkeypatch):
    """Nobody waits."""
    fake = FakeClock()
    monkeypatch.setattr(_way_down, "now", fake.now)
    monkeypatch.setattr(_way_down, "pause", fake.pause)
    return fake


@pytest.fixture(autouse=True)
def log_of_the_task(monkeypatch, caplog):
    """Airflow 3.3 writes a task's log past ``logging``, where ``caplog`` doesn't see it."""
    monkeypatch.setattr(AmplitudeRollbackOperator, "log", logging.getLogger("the task's log"))
    caplog.set_level(logging.INFO)


@pytest.fixture
def amplitude(amplitude_emulator, monkeypatch):
    """The emulator with a live flag at 50 %, and a connection to it."""
    connect(monkeypatch, amplitude_emulator)
    amplitude_emulator.add_flag(KEY, enabled=True, rolloutPercentage=50)
    amplitude_emulator.clear_requests()
    return amplitude_emulator


def connect(monkeypatch, emulator, **extra):
    monkeypatch.setenv("AIRFLOW_CONN_AMPLITUDE_EXPERIMENT_DEFAULT", emulator.airflow_connection(**extra))


def a_breach(emulator, key=KEY, **fields):
    kind = fields.get("kind", "flag")
    thing = emulator.flag(key) if kind == "flag" else emulator.experiment(key)
    names = {"kind": kind, "key": key, "id": thing["id"], "project_id": "100001", "segment": None}
    return {
        "verdict": "breach",
        "reason": "errors: +40 % harm",
        "at": (RUN_AFTER + timedelta(hours=2)).isoformat(timespec="seconds"),
        "stage": 50,
        "looks": 3,
        "guardrails": [{"name": "errors", "verdict": "breach"}],
        **names,
        **fields,
    }


def a_run(verdicts=None, states=None, **options):
    """The context of the rollback task; ``verdicts`` by watch, the last watch's breach where one is given alone."""
    context = a_context(task_id="rollout.rollback", **options)
    verdicts = {WATCHES[-1]: verdicts} if verdicts and "verdict" in verdicts else verdicts or {}
    context["ti"].of_others = {(watch, "verdict"): verdict for watch, verdict in verdicts.items()}
    context["ti"].states = dict.fromkeys(verdicts, "failed") | (states or {})
    return context


def rollback(emulator, *, context=None, breach=None, **options):
    named = {} if "experiment_key" in options else {"flag_key": KEY}
    operator = AmplitudeRollbackOperator(task_id="rollback", watches=WATCHES, **named, **options)
    return operator.execute(context or a_run(breach or a_breach(emulator)))


def sent(emulator):
    return [request["method"] for request in emulator.requests()]


def patches(emulator):
    return [request["body"] for request in emulator.requests() if request["method"] == "PATCH"]


def before_each_request(monkeypatch, do):
    """Let something happen before each request that is no part of a reading."""
    send = GuardedClient.send

    def sends(self, call, **options):
        do(call)
        return send(self, call, **options)

    monkeypatch.setattr(GuardedClient, "send", sends)


def ignore_next_patch(emulator, times=1):
    """Let Amplitude accept a write and take nothing of it, as where an approval is pending."""
    emulator.fault("status", method="PATCH", status=200, body="OK", headers={}, times=times)


# --- when it acts ---


def test_it_costs_three_requests_and_sends_nothing_but_the_percentage(amplitude):
    before = amplitude.flag(KEY)
    record = rollback(amplitude, rollback_to=5)
    assert [(each["method"], each["path"].rsplit("/", 1)[-1]) for each in amplitude.requests()] == [
        ("GET", before["id"]),
        ("PATCH", before["id"]),
        ("GET", before["id"]),
    ]
    assert patches(amplitude) == [{"rolloutPercentage": 5}]
    after = amplitude.flag(KEY)
    changed = {name for name in after if after[name] != before.get(name)}
    assert changed - {"lastModifiedAt", "lastModifiedBy"} == {"rolloutPercentage"}
    assert (record["before"], record["after"], record["enabled"], record["written"]) == (50, 5, True, True)
    assert (record["key"], record["breach"]["stage"], record["map_index"]) == (KEY, 50, -1)
    json.dumps(record)


@pytest.mark.parametrize(
    ("options", "body"),
    [
        ({}, {"rolloutPercentage": 0}),
        ({"rollback_to": "None"}, {"rolloutPercentage": 0}),
        ({"rollback_to": "10"}, {"rolloutPercentage": 10}),
        ({"rollback_to": "off"}, {"enabled": False}),
        ({"rollback_to": 10, "on_breach": "off"}, {"enabled": False}),
    ],
)
def test_where_it_goes(amplitude, options, body):
    rollback(amplitude, **options)
    assert patches(amplitude) == [body]


def test_an_experiment_is_rolled_back_like_a_flag(amplitude):
    amplitude.add_experiment("price", enabled=True, rolloutPercentage=50)
    rollback(amplitude, experiment_key="price", breach=a_breach(amplitude, "price", kind="experiment"))
    assert amplitude.experiment("price")["rolloutPercentage"] == 0


def test_of_a_segment_rollout_only_that_segments_percentage_changes(amplitude):
    segments = [a_segment("A", 50), a_segment("B", 50)]
    amplitude.change(KEY, targetSegments=segments)
    before = amplitude.flag(KEY)["targetSegments"]
    rollback(amplitude, segment="B", rollback_to=10)
    (body,) = patches(amplitude)
    assert list(body) == ["targetSegments"]
    after = amplitude.flag(KEY)
    assert after["targetSegments"] == [before[0], {**before[1], "percentage": 10}]
    assert after["rolloutPercentage"] == 50


@pytest.mark.parametrize("verdict", [None, "pass", "inconclusive", "no_data"])
def test_without_a_breach_it_skips_without_a_request(amplitude, verdict):
    verdicts = {watch: a_breach(amplitude, verdict=verdict) for watch in WATCHES} if verdict else {}
    with pytest.raises(AirflowSkipException, match="No guardrail saw a breach"):
        rollback(amplitude, context=a_run(verdicts, states=dict.fromkeys(WATCHES, "failed")))
    assert not sent(amplitude)


def test_a_breach_of_another_map_index_is_none_of_its_own(amplitude):
    context = a_run(a_breach(amplitude))
    instance = context["ti"]
    pull = instance.xcom_pull
    instance.map_index = 3
    instance.xcom_pull = lambda task_ids, key, map_indexes: pull(task_ids, key) if map_indexes == 4 else None
    with pytest.raises(AirflowSkipException):
        rollback(amplitude, context=context)
    assert not sent(amplitude)


@pytest.mark.parametrize("state", ["success", "upstream_failed", "skipped"])
def test_a_breach_counts_no_more_that_was_overruled_or_is_left_from_before_a_clear(amplitude, state):
    """Marked successful by hand; or the run was cleared and refused above it, which deletes no result further down."""
    context = a_run(a_breach(amplitude), states={WATCHES[-1]: state})
    with pytest.raises(AirflowSkipException, match=f"No breach counts .that of {WATCHES[-1]}, which is {state} now"):
        rollback(amplitude, context=context)
    assert not sent(amplitude)


def test_an_earlier_breach_counts_although_a_later_one_was_marked_successful(amplitude):
    verdicts = {WATCHES[0]: a_breach(amplitude, stage=1), WATCHES[2]: a_breach(amplitude)}
    record = rollback(amplitude, context=a_run(verdicts, states={WATCHES[2]: "success"}))
    assert record["breach"]["stage"] == 1


def test_a_backfill_rolls_nothing_back_on_an_old_breach(amplitude):
    old = a_breach(amplitude, at=(RUN_AFTER - timedelta(hours=1)).isoformat())
    with pytest.raises(AirflowSkipException, match="backfill"):
        rollback(amplitude, context=a_run(old, run_type="backfill"))
    assert not sent(amplitude)


@pytest.mark.parametrize("seconds", [0, 1])
def test_a_breach_that_was_seen_since_the_run_started_counts_in_any_run(amplitude, seconds):
    breach = a_breach(amplitude, at=(RUN_AFTER + timedelta(seconds=seconds)).isoformat(timespec="seconds"))
    rollback(amplitude, context=a_run(breach, run_type="backfill"))
    assert patches(amplitude)


def test_a_breach_in_the_very_second_in_which_the_run_started_counts(amplitude):
    context = a_run(a_breach(amplitude, at=RUN_AFTER.isoformat(timespec="seconds")), run_type="backfill")
    context["dag_run"].start_date = RUN_AFTER + timedelta(microseconds=700_000)
    rollback(amplitude, context=context)
    assert patches(amplitude)


# --- never upwards ---


@pytest.mark.parametrize(
    ("stands", "said"),
    [
        ({"rolloutPercentage": 10}, "stands at 10 % already"),
        ({"rolloutPercentage": 3}, "stands at 3 % already"),
        ({"enabled": False}, "is off, at 50 % already"),
        ({"deleted": True}, "is archived already"),
    ],
)
@pytest.mark.parametrize("segment", [False, True])
def test_what_is_down_already_is_left_with_one_request_and_said(amplitude, caplog, stands, said, segment):
    breach = a_breach(amplitude)
    if segment and "rolloutPercentage" in stands:
        stands = {"targetSegments": [a_segment("B", stands["rolloutPercentage"])]}
    elif segment:
        stands = {**stands, "targetSegments": [a_segment("B", 50)]}
    amplitude.change(KEY, **stands)
    amplitude.clear_requests()
    record = rollback(amplitude, rollback_to=10, segment="B" if segment else None, breach=breach)
    assert sent(amplitude) == ["GET"]
    assert record["written"] is False
    assert said in caplog.text


@pytest.mark.parametrize("change", [{"rolloutPercentage": 2}, {"enabled": False}])
def test_what_somebody_lowers_while_it_is_tried_again_is_not_raised(amplitude, clock, caplog, change):
    """A percentage that was down at the first try is up at the next."""
    amplitude.fault("status", method="PATCH", status=503, times=3)
    clock.meanwhile = lambda: amplitude.change(KEY, **change) if len(clock.pauses) == 1 else None
    record = rollback(amplitude, rollback_to=10)
    assert len(patches(amplitude)) == 1
    assert record["written"] is False
    assert change.items() <= amplitude.flag(KEY).items()
    assert "changes nothing" in caplog.text


def test_segments_that_somebody_edits_while_it_is_tried_again_are_kept(amplitude, clock):
    amplitude.change(KEY, targetSegments=[a_segment("A", 50), a_segment("B", 50)])
    amplitude.fault("status", method="PATCH", status=503, times=1)
    edited = [a_segment("A", 20), a_segment("B", 50)]
    clock.meanwhile = lambda: amplitude.change(KEY, targetSegments=edited)
    rollback(amplitude, segment="B", rollback_to=10)
    assert [each["percentage"] for each in amplitude.flag(KEY)["targetSegments"]] == [20, 10]


def test_a_segment_that_is_gone_fails_with_what_to_click(amplitude):
    with pytest.raises(AirflowFailException, match=r"no segment named 'B'.*By hand: open .*of segment B"):
        rollback(amplitude, segment="B")
    assert not patches(amplitude)


# --- reading that fails ---


@pytest.mark.parametrize("fault", MANY)
@pytest.mark.parametrize("options", [{}, {"rollback_to": "off"}])
def test_where_the_read_fails_it_goes_to_nothing_without(amplitude, clock, caplog, fault, options):
    amplitude.fault(fault, method="GET", times=1, **MANY[fault])
    rollback(amplitude, **options)
    assert sent(amplitude)[-2:] == ["PATCH", "GET"]
    assert clock.pauses == []
    assert "could not be read (" in caplog.text
    assert "By hand, now: open " in caplog.text


@pytest.mark.parametrize("options", [{}, {"rollback_to": "off"}])
def test_where_the_read_hangs_it_goes_to_nothing_without(amplitude, monkeypatch, caplog, options):
    monkeypatch.setattr(_way_down, "SECONDS_OF_SILENCE", 0.1)
    amplitude.fault("late", method="GET", seconds=1.0)
    record = rollback(amplitude, **options)
    assert len(patches(amplitude)) == 1
    assert record["written"] is True
    assert record["before"] is None
    assert "no answer" in caplog.text


@pytest.mark.parametrize(("options", "segment"), [({"rollback_to": 10}, False), ({"rollback_to": 0}, True)])
@pytest.mark.parametrize("fault", MANY)
def test_a_percentage_or_a_segment_is_never_sent_without_a_read(amplitude, clock, options, segment, fault):
    amplitude.change(KEY, targetSegments=[a_segment("B", 50)])
    amplitude.clear_requests()
    amplitude.fault(fault, method="GET", times=4, **MANY[fault])
    clock.meanwhile = lambda: patches(amplitude) == [] or pytest.fail("sent blindly")
    rollback(amplitude, segment="B" if segment else None, **options)
    assert len(clock.pauses) == 4
    assert sent(amplitude)[-3:] == ["GET", "PATCH", "GET"]


def test_an_unknown_id_is_looked_up_by_key(amplitude):
    rollback(amplitude, breach=a_breach(amplitude, key=KEY, id=None, project_id=None))
    assert amplitude.requests()[0]["path"].endswith("/flags")
    assert patches(amplitude) == [{"rolloutPercentage": 0}]


def test_a_breach_without_names_still_says_which_object_it_is(amplitude, caplog):
    breach = {**a_breach(amplitude), "id": None, "key": None, "project_id": None}
    record = rollback(amplitude, breach=breach)
    assert (record["key"], record["id"]) == (KEY, amplitude.flag(KEY)["id"])
    assert "flag None" not in caplog.text


@pytest.mark.parametrize("options", [{}, {"rollback_to": 10}])
def test_an_object_of_another_project_is_refused(amplitude, monkeypatch, options):
    connect(monkeypatch, amplitude, project_id="100002")
    amplitude.fault("status", method="GET", status=503, times=None)
    with pytest.raises(AirflowFailException, match=r"project 100001, but the connection names project 100002.*By hand"):
        rollback(amplitude, **options)
    assert not patches(amplitude)


def test_an_id_that_leads_to_another_project_than_was_watched_is_refused(amplitude, monkeypatch):
    connect(monkeypatch, amplitude, project_id=None)
    with pytest.raises(AirflowFailException, match=r"belongs to project 100001, not 100002.*By hand"):
        rollback(amplitude, breach=a_breach(amplitude, project_id="100002"))
    assert not patches(amplitude)


# --- writing that fails ---


@pytest.mark.parametrize("fault", [*MANY, "cut_after"])
@pytest.mark.parametrize("method", ["PATCH", "GET"])
def test_what_may_pass_is_tried_every_few_seconds_and_the_log_says_what_to_click(
    amplitude, clock, caplog, fault, method
):
    said = []
    clock.meanwhile = lambda: said.append("By hand, now: open " in caplog.text)
    amplitude.fault(fault, method=method, times=3, **MANY.get(fault, {}))
    rollback(amplitude, rollback_to=10)
    assert amplitude.flag(KEY)["rolloutPercentage"] == 10
    assert set(clock.pauses) == {5.0}
    assert all(said)
    assert "set its rollout to 10 %" in caplog.text


def test_a_429_from_the_breach_on_is_over_in_the_first_seconds_of_the_new_day(amplitude, clock):
    clock.moment = datetime(2026, 11, 20, 22, tzinfo=UTC)
    amplitude.fault("rate_limit", times=None)
    midnight = datetime(2026, 11, 21, tzinfo=UTC)
    clock.meanwhile = lambda: amplitude.clear_faults() if clock.moment >= midnight else None
    rollback(amplitude, rollback_to=10, rollback_deadline=600.0)
    assert amplitude.flag(KEY)["rolloutPercentage"] == 10
    assert timedelta(0) <= clock.moment - midnight <= timedelta(seconds=5)


def test_a_429_that_lasts_is_tried_until_five_minutes_after_midnight(amplitude, clock):
    clock.moment = datetime(2026, 11, 20, 22, 50, tzinfo=UTC)
    amplitude.fault("rate_limit", times=None)
    with pytest.raises(AirflowException, match="By hand") as failed:
        rollback(amplitude, rollback_deadline=600.0)
    assert not isinstance(failed.value, AirflowFailException)
    assert clock.moment == datetime(2026, 11, 21, 0, 5, tzinfo=UTC)


@pytest.mark.parametrize("options", [{}, {"rollback_to": 10}])
def test_at_the_deadline_it_fails_so_that_it_is_tried_again(amplitude, clock, options):
    amplitude.fault("status", status=503, times=None)
    with pytest.raises(AirflowException, match="By hand: open ") as failed:
        rollback(amplitude, rollback_deadline=600.0, **options)
    assert not isinstance(failed.value, AirflowFailException)
    assert sum(clock.pauses) == 600


@pytest.mark.parametrize("status", [400, 401, 403, 404, 405])
def test_what_can_not_heal_ends_it_at_once_with_what_to_click(amplitude, clock, status):
    amplitude.fault("status", method="PATCH", status=status, times=None)
    with pytest.raises(AirflowFailException, match=rf"answered {status}.*By hand: open "):
        rollback(amplitude)
    assert clock.pauses == []


@pytest.mark.parametrize("options", [{"rollback_to": 10}, {}])
def test_what_was_accepted_and_not_taken_fails_with_what_to_click(amplitude, clock, options):
    ignore_next_patch(amplitude)
    context = a_run(a_breach(amplitude))
    with pytest.raises(AirflowFailException, match=r"still enabled, at 50 %; an approval may be .*By hand: open "):
        rollback(amplitude, context=context, **options)
    assert len(patches(amplitude)) == 1
    assert clock.pauses == [2.0]


@pytest.mark.parametrize("times", [1, 2])
def test_what_can_not_be_switched_off_is_taken_to_zero_and_still_fails(amplitude, times):
    ignore_next_patch(amplitude, times)
    stands = 0 if times == 1 else 50
    with pytest.raises(AirflowFailException, match=rf"still enabled, at {stands} %.*switch Active off"):
        rollback(amplitude, rollback_to="off")
    assert patches(amplitude) == [{"enabled": False}, {"rolloutPercentage": 0}]
    assert amplitude.flag(KEY)["rolloutPercentage"] == stands


def test_what_can_not_be_switched_off_at_zero_is_left_there(amplitude):
    amplitude.change(KEY, rolloutPercentage=0)
    ignore_next_patch(amplitude)
    with pytest.raises(AirflowFailException, match="still enabled, at 0 %"):
        rollback(amplitude, rollback_to="off")
    assert patches(amplitude) == [{"enabled": False}]


def test_a_refused_way_to_zero_does_not_hide_that_it_is_still_on(amplitude):
    ignore_next_patch(amplitude)
    amplitude.fault("status", method="PATCH", status=403)
    with pytest.raises(AirflowFailException, match="still enabled, at 50 %"):
        rollback(amplitude, rollback_to="off")


def test_a_read_that_lags_behind_is_read_once_more(amplitude, monkeypatch, clock):
    before, read = amplitude.flag(KEY), []
    send = GuardedClient.send

    def stale(self, call, **options):
        answer = send(self, call, **options)
        if not call.writes:
            read.append(answer)
            if len(read) == 1:
                return answer.model_copy(update={"rollout_percentage": before["rolloutPercentage"]})
        return answer

    monkeypatch.setattr(GuardedClient, "send", stale)
    assert rollback(amplitude)["after"] == 0
    assert clock.pauses == [2.0]


# --- what does not stop it, and what does ---


def test_the_platform_teams_rules_the_freeze_and_the_pace_do_not_stop_it(amplitude, monkeypatch):
    rules = {"allow_keys": "other-*", "deny_keys": "*", "max_percentage": 0, "max_step": 1, "require_reason": True}
    connect(monkeypatch, amplitude, **rules, requests_per_second=0.001)
    monkeypatch.setenv("AIRFLOW_VAR_AMPLITUDE_EXPERIMENT_FREEZE", '["*"]')
    rollback(amplitude, rollback_to=10)
    assert amplitude.flag(KEY)["rolloutPercentage"] == 10


def test_an_audit_place_that_can_not_be_written_does_not_stop_it(amplitude, monkeypatch, tmp_path, caplog):
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("AIRFLOW__AMPLITUDE_EXPERIMENT__AUDIT_PATH", f"file://{tmp_path / 'file' / 'audit'}")
    rollback(amplitude)
    assert amplitude.flag(KEY)["rolloutPercentage"] == 0
    assert "could not be kept" in caplog.text


@pytest.mark.parametrize("blind", [False, True])
def test_a_read_only_connection_sends_nothing_and_says_so_loudly(amplitude, monkeypatch, caplog, blind):
    connect(monkeypatch, amplitude, mode="read_only")
    if blind:
        amplitude.fault("status", method="GET", status=503, times=None)
    record = rollback(amplitude)
    assert not patches(amplitude)
    assert record["written"] is False
    assert any(each.levelname == "ERROR" and "NOT rolled back" in each.message for each in caplog.records)
    assert "By hand, if that is meant: open " in caplog.text


@pytest.mark.parametrize(
    ("options", "warned"), [({}, True), ({"rollback_to": 10}, True), ({"rollback_to": "off"}, False)]
)
def test_where_lowering_keeps_people_in_it_says_so(amplitude, caplog, options, warned):
    amplitude.add_experiment("price", enabled=True, rolloutPercentage=50, stickyBucketing=True)
    rollback(amplitude, experiment_key="price", breach=a_breach(amplitude, "price", kind="experiment"), **options)
    assert ("sticky bucketing: users who have a variant keep it" in caplog.text) is warned


def test_stopping_the_task_ends_the_trying_and_it_may_be_started_again(amplitude, clock):
    amplitude.fault("status", method="PATCH", status=503, times=None)
    operator = AmplitudeRollbackOperator(task_id="rollback", watches=WATCHES, flag_key=KEY)
    clock.meanwhile = lambda: operator.on_kill() if len(clock.pauses) == 3 else None
    with pytest.raises(AirflowException) as failed:
        operator.execute(a_run(a_breach(amplitude)))
    assert not isinstance(failed.value, AirflowFailException)
    assert len(clock.pauses) == 3


def test_a_stop_before_the_write_sends_none_and_it_may_be_started_again(amplitude, monkeypatch):
    operator = AmplitudeRollbackOperator(task_id="rollback", watches=WATCHES, flag_key=KEY)
    intent = _audit.Audit.intent
    monkeypatch.setattr(_audit.Audit, "intent", lambda *given, **line: (operator.on_kill(), intent(*given, **line)))
    with pytest.raises(AirflowException, match="the task was stopped") as failed:
        operator.execute(a_run(a_breach(amplitude)))
    assert not isinstance(failed.value, AirflowFailException)
    assert not patches(amplitude)


class Died(BaseException):
    """The worker is gone."""


@pytest.mark.parametrize("options", [{}, {"rollback_to": 10}, {"rollback_to": "off"}])
@pytest.mark.parametrize("survived", [0, 1, 2, 3])
def test_killed_between_any_two_requests_and_run_again_it_ends_the_same(amplitude, monkeypatch, options, survived):
    requests = []
    send, read = GuardedClient.send, GuardedClient.read

    def dies(way):
        def do(self, *given, **more):
            if threading.current_thread().name == "amplitude" and (given[0] is not None) and counts(given[0]):
                if len(requests) == survived:
                    raise Died
                requests.append(given[0])
            return way(self, *given, **more)

        return do

    def counts(what):
        return hasattr(what, "endpoint") or getattr(what, "__name__", "") == "by_id"

    with monkeypatch.context() as patch:
        patch.setattr(GuardedClient, "send", dies(send))
        patch.setattr(GuardedClient, "read", dies(read))
        if survived < 3:
            with pytest.raises((Died, AirflowException)):
                rollback(amplitude, **options)
        else:
            rollback(amplitude, **options)
    amplitude.clear_requests()
    rollback(amplitude, **options)
    assert len(patches(amplitude)) == (1 if survived < 2 else 0)
    flag = amplitude.flag(KEY)
    assert (flag["enabled"], flag["rolloutPercentage"]) == {
        0: (True, 0),
        10: (True, 10),
        "off": (False, 50),
    }[options.get("rollback_to", 0)]


# --- what it leaves ---


def audit_lines(caplog):
    return [json.loads(line.removeprefix("AUDIT ")) for line in caplog.messages if line.startswith("AUDIT ")]


@pytest.mark.parametrize(("options", "to"), [({"rollback_to": 10}, 10), ({"rollback_to": "off"}, 50)])
def test_it_leaves_an_intent_before_and_a_result_after_the_read_back(amplitude, caplog, options, to):
    rollback(amplitude, **options)
    intent, result = audit_lines(caplog)
    assert (intent["step"], intent["from"], intent["to"], intent["raises"]) == ("intent", 50, to, False)
    assert (result["step"], result["outcome"], result["stage"]) == ("result", "written", 50)
    assert result["guardrails"] == [{"name": "errors", "verdict": "breach"}]
    assert "guardrail breach at 50 %" in result["reason"]
    assert result.get("enabled") == ({"from": True, "to": False} if to == 50 else None)


def test_a_write_that_was_not_taken_is_no_written_result_and_no_event(amplitude, caplog):
    ignore_next_patch(amplitude)
    context = a_run(a_breach(amplitude)) | {"outlet_events": Events()}
    with pytest.raises(AirflowFailException):
        rollback(amplitude, context=context)
    assert audit_lines(caplog)[-1]["outcome"] == "failed: accepted, but not taken"
    assert context["outlet_events"].added == []


class Events:
    """As much of Airflow's outlet events as is used."""

    def __init__(self):
        self.added = []

    def __getitem__(self, alias):
        return self

    def add(self, asset, extra):
        self.added.append((asset.uri, extra))


def test_the_asset_event_comes_with_the_write_and_only_with_it(amplitude):
    context = a_run(a_breach(amplitude)) | {"outlet_events": Events()}
    rollback(amplitude, context=context)
    rollback(amplitude, context=context)
    ((uri, extra),) = context["outlet_events"].added
    assert uri == "amplitude-experiment://100001/flag/new-checkout"
    assert (extra["from"], extra["to"]) == (50, 0)


@pytest.mark.parametrize("status", [200, 403])
def test_the_link_is_there_also_where_it_fails(amplitude, status):
    amplitude.fault("status", method="PATCH", status=status, body="OK", headers={})
    context = a_run(a_breach(amplitude))
    with pytest.raises(AirflowFailException):
        rollback(amplitude, context=context)
    assert context["ti"].xcoms["amplitude_url"].endswith(amplitude.flag(KEY)["id"])


@pytest.mark.parametrize("status", [403, 503])
def test_the_key_is_nowhere(amplitude, caplog, status):
    caplog.set_level(logging.DEBUG)
    amplitude.fault("status", method="PATCH", status=status, body=f"no {amplitude.management_key}", headers={}, times=9)
    context = a_run(a_breach(amplitude))
    left = ""
    try:
        left = json.dumps(rollback(amplitude, context=context))
    except AirflowFailException as error:
        left = str(error)
    assert amplitude.management_key not in caplog.text + left + json.dumps(context["ti"].xcoms)
