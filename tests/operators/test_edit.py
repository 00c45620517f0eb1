"""How every operator writes to one object: the audit around a write, lost answers, reading back, what is announced."""

from __future__ import annotations

import json
import logging
from types import SimpleNamespace

import pytest
from airflow.providers.common.compat.sdk import AssetAlias
from airflow.sdk.execution_time.context import OutletEventAccessors

from airflow_amplitude_experiment.api import (
    AmplitudeConnectionError,
    AmplitudeInvalidRequest,
    AmplitudeNotConfirmed,
    AmplitudeReadOnly,
    AmplitudeServerError,
    RolloutRefused,
    flags,
)
from airflow_amplitude_experiment.hooks import AmplitudeExperimentHook
from airflow_amplitude_experiment.operators import AmplitudeUpdateOperator, _edit
from airflow_amplitude_experiment.operators._assets import WRITES
from airflow_amplitude_experiment.operators._edit import Edit
from tests.builders import a_context

KEY = "new-checkout"
FREEZE = "AIRFLOW_VAR_AMPLITUDE_EXPERIMENT_FREEZE"
LOST = AmplitudeServerError("it failed", status=503, maybe_applied=True)


@pytest.fixture
def slept(monkeypatch):
    """Return how often there was a pause; nobody waits."""
    pauses = []
    monkeypatch.setattr(_edit, "time", SimpleNamespace(sleep=pauses.append))  # not the client's own
    return pauses


@pytest.fixture
def amplitude(amplitude_emulator, monkeypatch, slept):
    """The emulator with a live flag at 10 %, and a connection to it."""
    connect(monkeypatch, amplitude_emulator)
    amplitude_emulator.add_flag(KEY, enabled=True, rolloutPercentage=10)
    amplitude_emulator.clear_requests()
    return amplitude_emulator


def connect(monkeypatch, emulator, **extra):
    connection = emulator.airflow_connection(requests_per_second=1000, environment="production", **extra)
    monkeypatch.setenv("AIRFLOW_CONN_AMPLITUDE_EXPERIMENT_DEFAULT", connection)


@pytest.fixture
def editing(amplitude, monkeypatch):
    """Return what begins an edit of the flag."""
    # Airflow 3.3 writes a task's log past ``logging``, where ``caplog`` doesn't see it.
    monkeypatch.setattr(AmplitudeUpdateOperator, "log", logging.getLogger("tests.edit"))
    clients = []

    def begin(context=None, reason="launch"):
        operator = AmplitudeUpdateOperator(task_id="edit", flag_key=KEY, name="New", reason=reason)
        clients.append(AmplitudeExperimentHook().get_conn())
        found = clients[-1].read(operator.reading(clients[-1]))
        amplitude.clear_requests()
        return Edit(operator, context or a_context(), clients[-1], kind="flag", found=found, name=f"flag {KEY}")

    yield begin
    for client in clients:
        client.close()


@pytest.fixture
def context():
    return a_context() | {"outlet_events": OutletEventAccessors()}


def announced(context):
    """Return what goes with each asset, by its address."""
    events = context["outlet_events"][AssetAlias(WRITES)].asset_alias_events
    return {event.dest_asset_key.uri: event.extra for event in events}


def raised(edit, to=25):
    return flags.update(edit.found.id, rollout_percentage=to)


def included(edit, *people):
    return flags.add_users(edit.found.id, "on", list(people))


def failing(*errors):
    """Return a step that fails with each of these errors in turn and then is done, and how often it was done."""
    left, done = list(errors), []

    def step():
        done.append(None)
        if left:
            raise left.pop(0)
        return "done"

    return step, done


def differing(*answers):
    """Return what reads back, with these differences in turn."""
    left = list(answers)
    return lambda: left.pop(0)


# --- the audit ---------------------------------------------------------------------------------------------------


def test_a_write_has_a_line_before_it_and_one_after_it(editing, told, amplitude, monkeypatch):
    edit, sent = editing(), []
    send = edit.client.send
    monkeypatch.setattr(
        edit.client, "send", lambda *args, **options: sent.append(len(told())) or send(*args, **options)
    )
    edit.send(raised(edit), stage="to_25")
    before, after = told()
    assert sent == [1]
    assert (before["step"], after["step"], after["outcome"]) == ("intent", "result", "accepted")
    expected = {
        "kind": "flag",
        "key": KEY,
        "id": edit.found.id,
        "project_id": "100001",
        "from": 10,
        "to": 25,
        "raises": True,
        "call": "flags.update",
        "stage": "to_25",
        "reason": "launch",
        "environment": "production",
    }
    for line in (before, after):
        assert {name: line[name] for name in expected} == expected
    assert amplitude.flag(KEY)["rolloutPercentage"] == 25


def test_the_line_after_a_write_that_failed_says_so(editing, told, amplitude):
    edit = editing()
    amplitude.fault("status", status=400, body="no", method="PATCH")
    with pytest.raises(AmplitudeInvalidRequest):
        edit.send(raised(edit))
    assert [line.get("outcome") for line in told()] == [None, "failed: AmplitudeInvalidRequest 400"]
    assert not edit.written


@pytest.mark.parametrize(("to", "goes_up"), [(25, True), (10, False), (5, False)])
def test_the_audit_says_whether_more_people_may_get_something(editing, told, to, goes_up):
    edit = editing()
    edit.send(raised(edit, to))
    assert [line["raises"] for line in told()] == [goes_up, goes_up]


def test_a_write_that_moves_no_percentage_leaves_it_where_it_stands_and_may_raise(editing, told):
    edit = editing()
    edit.send(included(edit, "person-1"), users_to_add=1)
    for line in told():
        assert (line["from"], line["to"], line["raises"], line["users_to_add"]) == (10, 10, True, 1)
    assert "person" not in json.dumps(told())


def test_what_changes_nobodys_variant_does_not_count_as_a_raise(editing, told):
    edit = editing()
    edit.send(flags.update(edit.found.id, name="New"))
    assert [line["raises"] for line in told()] == [False, False]


# --- the connection's rules --------------------------------------------------------------------------------------


def test_the_reason_goes_with_a_write(editing, amplitude, monkeypatch):
    connect(monkeypatch, amplitude, require_reason=True)
    with_one, without = editing(), editing(reason=None)
    with_one.send(raised(with_one))
    with pytest.raises(RolloutRefused, match="require_reason"):
        without.send(raised(without))


def test_what_was_read_is_not_read_again_for_the_rules(editing, amplitude, monkeypatch):
    connect(monkeypatch, amplitude, max_percentage=50, allow_keys=["new-*"])
    edit = editing()
    edit.send(raised(edit))
    assert [each["method"] for each in amplitude.requests()] == ["PATCH"]


def test_a_freeze_stops_a_write_and_the_audit_says_so(editing, told, amplitude, monkeypatch):
    monkeypatch.setenv(FREEZE, json.dumps([KEY]))
    edit = editing()
    with pytest.raises(RolloutRefused, match="freezes"):
        edit.send(raised(edit))
    assert told()[-1]["outcome"].startswith("refused: ")
    assert not amplitude.requests()


def test_a_read_only_connection_writes_nothing_and_that_is_no_error(editing, told, amplitude, monkeypatch, context):
    connect(monkeypatch, amplitude, mode="read_only")
    edit = editing(context)
    assert edit.unless_read_only(lambda: edit.send(raised(edit))) is False
    assert (edit.written, edit.record()["written"], announced(context)) == (False, False, {})
    assert told()[-1]["outcome"] == "not sent: the connection is read-only"
    assert not amplitude.requests()


def test_a_connection_that_may_write_does(editing, amplitude):
    edit = editing()
    assert edit.unless_read_only(lambda: edit.send(raised(edit))) is True
    assert (edit.written, amplitude.flag(KEY)["rolloutPercentage"]) == (True, 25)


def test_any_other_refusal_is_one(editing):
    def refuse():
        raise RolloutRefused("no")

    with pytest.raises(RolloutRefused):
        editing().unless_read_only(refuse)


# --- lost answers ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("times", [0, 1, 2])
def test_a_step_is_done_again_while_the_fate_of_a_write_is_unknown(editing, slept, caplog, times):
    step, done = failing(*[LOST] * times)
    assert editing().again_where_lost(step) == "done"
    assert (len(done), len(slept)) == (times + 1, times)
    warnings = [each.getMessage() for each in caplog.records if each.levelname == "WARNING"]
    assert len([text for text in warnings if f"Reading flag {KEY} again" in text]) == times


def test_after_the_third_answer_that_is_lost_the_task_fails(editing, slept):
    step, done = failing(*[LOST] * 9)
    with pytest.raises(AmplitudeServerError):
        editing().again_where_lost(step)
    assert (len(done), len(slept)) == (3, 2)


@pytest.mark.parametrize(
    "error",
    [
        AmplitudeConnectionError("refused"),
        AmplitudeServerError("it failed", status=503),
        AmplitudeInvalidRequest("no", status=400),
        AmplitudeReadOnly("read-only"),
        ValueError("wrong"),
    ],
)
def test_what_surely_did_not_arrive_is_not_done_again(editing, slept, error):
    step, done = failing(error)
    with pytest.raises(type(error)):
        editing().again_where_lost(step)
    assert (len(done), slept) == (1, [])


@pytest.mark.parametrize("kind", ["cut_after", "cut_before"])
def test_a_write_whose_answer_is_lost_ends_as_asked(editing, amplitude, kind):
    edit = editing()
    amplitude.fault(kind, method="POST")

    def step():
        there = edit.client.send(flags.users(edit.found.id, "on"))
        if "person-1" not in there:
            edit.send(included(edit, "person-1"))

    edit.again_where_lost(step)
    assert amplitude.flag(KEY)["variants"][0]["users"] == ["person-1"]


# --- reading back ------------------------------------------------------------------------------------------------


def test_what_stands_as_asked_is_read_back_once(editing, slept):
    editing().confirm(differing([]))
    assert slept == []


def test_what_differs_is_read_back_once_more_after_a_moment(editing, slept):
    editing().confirm(differing(["it stands at 10 %"], []))
    assert slept == [_edit.SECONDS_BEFORE_ANOTHER_LOOK]


def test_what_still_differs_is_an_error_that_names_it_and_a_pending_approval(editing):
    with pytest.raises(AmplitudeNotConfirmed) as error:
        editing().confirm(differing(["old"], ["it stands at 10 %", "it is off"], []))
    text = str(error.value)
    assert f"flag {KEY} was written, but does not stand as asked: it stands at 10 %; it is off." in text
    assert "approval may be pending" in text
    assert "old" not in text


def test_reading_again_keeps_what_only_the_first_answer_showed(editing, amplitude):
    edit = editing()
    edit.found = edit.found.model_copy(update={"last_modified_by": "ada", "rollout_percentage": 99})
    amplitude.change(KEY, rolloutPercentage=40)
    assert edit.read() is edit.found
    assert (edit.found.last_modified_by, edit.found.rollout_percentage) == ("ada", 40)


# --- what is reported --------------------------------------------------------------------------------------------


def test_a_record_says_what_where_why_and_where_from(editing):
    edit = editing(a_context(try_number=2, task_id="edit"))
    record = edit.record(variant="on")
    assert record.pop("at").endswith("+00:00")
    assert record == {
        "kind": "flag",
        "key": KEY,
        "id": edit.found.id,
        "project_id": "100001",
        "variant": "on",
        "written": False,
        "reason": "launch",
        "environment": "production",
        "dag_id": "rollout",
        "run_id": "manual__1",
        "task_id": "edit",
        "map_index": -1,
        "try_number": 2,
    }


def test_a_write_is_announced_with_percentages_from_before_it_and_now(editing, context):
    edit = editing(context)
    edit.send(raised(edit))
    assert announced(context) == {}
    edit.read()
    edit.record()
    extra = {"from": 10, "to": 25, "enabled": True, "run": "manual__1"}
    assert announced(context) == {f"amplitude-experiment://100001/flag/{KEY}": extra}


def test_an_announcement_tells_percentages_where_the_record_counts_people(editing, context):
    edit = editing(context)
    edit.send(included(edit, "person-1", "person-2"))
    record = edit.record(before=151, added=2, after=153)
    assert (record["before"], record["after"]) == (151, 153)
    (extra,) = announced(context).values()
    assert (extra["from"], extra["to"]) == (10, 10)


def test_where_nothing_was_written_nothing_is_announced(editing, context):
    assert editing(context).record(before=1, after=1)["written"] is False
    assert announced(context) == {}
