"""Archiving and restoring against the emulator over real HTTP: what is sent, what is refused, what it costs."""

from __future__ import annotations

import json
import logging
from datetime import UTC, datetime, timedelta

import pytest
from airflow.providers.common.compat.sdk import AirflowFailException, AirflowSkipException

from airflow_amplitude_experiment.hooks import lookup
from airflow_amplitude_experiment.operators import AmplitudeArchiveOperator, _edit, _past
from tests.builders import a_context, connect
from tests.watched import Killed, dying

KEY = "new-checkout"
LIVE = {"enabled": True, "rolloutPercentage": 25}


@pytest.fixture
def amplitude(amplitude_emulator, monkeypatch):
    """The emulator with a disabled flag, and a connection to it."""
    monkeypatch.setattr(_edit, "SECONDS_BEFORE_ANOTHER_LOOK", 0.0)
    monkeypatch.setattr("airflow_amplitude_experiment.api._retry._wait", lambda _: 0.0)
    # Airflow 3.3 writes a task's log past ``logging``, where ``caplog`` doesn't see it.
    monkeypatch.setattr(AmplitudeArchiveOperator, "log", logging.getLogger("tests.archive"))
    connect(monkeypatch, amplitude_emulator)
    amplitude_emulator.add_flag(KEY)
    amplitude_emulator.clear_requests()
    return amplitude_emulator


def archive(context=None, **options):
    named = {} if {"flag_key", "flag_id", "experiment_key"} & options.keys() else {"flag_key": KEY}
    return AmplitudeArchiveOperator(task_id="archive", **named, **options).execute(context or a_context())


def restore(context=None, **options):
    return archive(context, archive=False, **options)


def is_archived(emulator):
    return emulator.flag(KEY)["deleted"]


def sent(emulator):
    return [request["method"] for request in emulator.requests()]


def patches(emulator):
    return [request["body"] for request in emulator.requests() if request["method"] != "GET"]


def test_archiving_is_one_write_that_is_read_back(amplitude, caplog):
    with caplog.at_level(logging.INFO):
        record = archive(reason="shipped")
    assert is_archived(amplitude)
    assert sent(amplitude) == ["GET", "GET", "PATCH", "GET"]  # the list does not show whether it is archived
    assert patches(amplitude) == [{"archive": True}]
    assert (record["archived"], record["written"], record["reason"]) == (True, True, "shipped")
    assert json.loads(json.dumps(record)) == record
    own = [each.getMessage() for each in caplog.records if (each.name, each.levelname) == ("tests.archive", "INFO")]
    assert [line for line in own if not line.startswith("AUDIT")] == [f"flag {KEY}: archived"]


@pytest.mark.parametrize("by_id", [False, True])
def test_an_archived_object_is_found_and_restored(amplitude, by_id):
    named = {"flag_id": amplitude.flag(KEY)["id"]} if by_id else {}
    amplitude.change(KEY, archive=True)
    record = restore(**named)
    assert not is_archived(amplitude)
    assert patches(amplitude) == [{"archive": False}]
    assert (record["archived"], record["written"]) == (False, True)


@pytest.mark.parametrize("wanted", [True, False])
def test_what_stands_as_asked_is_not_written(amplitude, caplog, wanted):
    amplitude.change(KEY, archive=wanted)
    with caplog.at_level(logging.INFO):
        assert archive(archive=wanted)["written"] is False
    assert sent(amplitude) == ["GET", "GET"]
    assert f"is {'' if wanted else 'not '}archived already, nothing to do" in caplog.text
    amplitude.clear_requests()
    assert archive(archive=wanted, flag_id=amplitude.flag(KEY)["id"])["written"] is False
    assert sent(amplitude) == ["GET"]


def test_an_enabled_object_is_archived_only_where_that_is_meant(amplitude):
    amplitude.change(KEY, **LIVE)
    with pytest.raises(AirflowFailException, match=r"is enabled at 25 %.*at once.*while_enabled=True"):
        archive()
    assert not patches(amplitude)
    assert archive(while_enabled=True)["written"] is True
    assert is_archived(amplitude)


def test_what_would_serve_people_at_once_is_restored_only_where_that_is_meant(amplitude):
    amplitude.change(KEY, **LIVE)
    amplitude.change(KEY, archive=True)
    with pytest.raises(AirflowFailException, match=r"restored, it serves people at once.*while_enabled=True"):
        restore()
    assert is_archived(amplitude)
    assert restore(while_enabled=True)["written"] is True


@pytest.mark.parametrize("run_type", ["scheduled", "asset_triggered"])
def test_a_run_that_nobody_started_does_not_restore_what_serves_people(amplitude, monkeypatch, run_type):
    monkeypatch.setattr(_past, "skip_in_the_past", lambda *_: None)
    amplitude.change(KEY, **LIVE)
    amplitude.change(KEY, archive=True)
    with pytest.raises(AirflowFailException, match=r"nobody started this run.*trigger a new run by hand"):
        restore(a_context(run_type=run_type), while_enabled=True)
    assert is_archived(amplitude)
    amplitude.change(KEY, enabled=False)
    assert restore(a_context(run_type=run_type))["written"] is True


@pytest.mark.parametrize("again", [{"try_number": 2}, {"clear_number": 1}])
def test_what_somebody_archived_again_is_not_restored_by_the_same_run(amplitude, again):
    amplitude.change(KEY, **LIVE)
    amplitude.change(KEY, archive=True)
    restore(while_enabled=True)
    amplitude.change(KEY, archive=True)  # somebody stops it
    with pytest.raises(AirflowFailException, match="somebody changed it since this run began"):
        restore(a_context(**again), while_enabled=True)
    assert is_archived(amplitude)


def test_a_second_try_restores_what_nobody_touched_since(amplitude):
    amplitude.change(KEY, **LIVE)
    amplitude.change(KEY, archive=True)
    context = a_context(try_number=2)
    context["dag_run"].start_date = datetime.now(UTC) + timedelta(seconds=5)
    assert restore(context, while_enabled=True)["written"] is True


def test_what_somebody_archived_while_our_answer_was_lost_stays_archived(amplitude, monkeypatch):
    amplitude.change(KEY, **LIVE)
    amplitude.change(KEY, archive=True)
    monkeypatch.setattr(_edit.time, "sleep", lambda _: amplitude.change(KEY, archive=True))
    amplitude.fault("cut_after", method="PATCH")
    with pytest.raises(AirflowFailException, match="somebody changed it since this run began"):
        restore(while_enabled=True)
    assert is_archived(amplitude)


def test_what_others_depend_on_is_refused_by_amplitude_and_told(amplitude):
    amplitude.add_flag("child", prerequisites={KEY: ["on"]})
    with pytest.raises(AirflowFailException, match="Other flags depend on this one"):
        archive()
    assert not is_archived(amplitude)


def test_an_experiment_is_archived_and_restored_likewise(amplitude):
    amplitude.add_experiment("search")
    assert archive(experiment_key="search")["kind"] == "experiment"
    assert amplitude.experiment("search")["deleted"]
    restore(experiment_key="search")
    assert not amplitude.experiment("search")["deleted"]


def test_an_unknown_key_is_told(amplitude):
    with pytest.raises(AirflowFailException, match="there is no flag 'nope'"):
        archive(flag_key="nope")


def test_the_one_that_is_not_archived_is_meant_and_two_of_them_are_refused(amplitude, monkeypatch):
    """Keys are unique in a project, but nobody says that an archived object keeps its own (E23)."""

    def with_twin(call):
        rows = list((yield call))
        return [row.model_copy(update=twin) for twin in twins for row in rows]

    monkeypatch.setattr(lookup, "merged", lambda row, details: row.model_copy(update={"enabled": False}))
    monkeypatch.setattr(lookup, "listed", with_twin)
    twins = [{"id": "1", "deleted": True}, {"deleted": False}]
    record = archive()
    assert record["id"] == amplitude.flag(KEY)["id"]
    twins = [{"id": "1", "deleted": True}, {"id": "2", "deleted": True}]
    with pytest.raises(AirflowFailException, match=r"is there 2 times: ids 1, 2.*flag_id=…"):
        restore()


@pytest.mark.parametrize("fault", ["cut_before", "cut_after", "truncated"])
def test_a_write_whose_answer_was_lost_is_read_again(amplitude, fault):
    amplitude.fault(fault, method="PATCH")
    assert archive()["written"] is True
    assert is_archived(amplitude)


def test_a_write_without_effect_is_told(amplitude):
    amplitude.change(KEY, **LIVE)
    amplitude.options(approvals="pending")
    with pytest.raises(AirflowFailException, match=r"AmplitudeNotConfirmed: .*it is not archived"):
        archive(while_enabled=True)


def test_a_read_only_connection_decides_and_sends_nothing(amplitude, monkeypatch, caplog):
    connect(monkeypatch, amplitude, mode="read_only")
    with caplog.at_level(logging.INFO):
        record = archive()
    assert (record["archived"], record["written"]) == (True, False)
    assert f"flag {KEY}: would be archived (read-only, not sent)" in caplog.text
    assert not patches(amplitude)


@pytest.mark.parametrize("rule", [{"max_percentage": 20}, {"max_step": 20}], ids=str)
def test_the_connections_limits_hold_for_what_serves_people_once_restored(amplitude, monkeypatch, rule):
    connect(monkeypatch, amplitude, **rule)
    amplitude.change(KEY, **LIVE)
    amplitude.change(KEY, archive=True)
    with pytest.raises(AirflowFailException, match=next(iter(rule))):
        restore(while_enabled=True)
    assert is_archived(amplitude)


def test_a_frozen_object_can_be_archived_and_not_be_restored(amplitude, monkeypatch):
    monkeypatch.setenv("AIRFLOW_VAR_AMPLITUDE_EXPERIMENT_FREEZE", '["*"]')
    amplitude.change(KEY, **LIVE)
    assert archive(while_enabled=True)["written"] is True
    with pytest.raises(AirflowFailException, match="amplitude_experiment_freeze"):
        restore(while_enabled=True)


def test_a_backfill_writes_nothing_and_asks_nothing(amplitude):
    with pytest.raises(AirflowSkipException, match="backfill"):
        archive(a_context(run_type="backfill"))
    assert sent(amplitude) == []


def test_the_beta_lacks_it_and_nothing_is_sent(amplitude, monkeypatch):
    connect(monkeypatch, amplitude, dialect="beta")
    with pytest.raises(AirflowFailException, match="beta API doesn't know 'archive'"):
        archive()
    assert not patches(amplitude)


def test_arguments_are_templated(amplitude):
    options = {"archive": "{{ params.archive }}", "while_enabled": "{{ params.live }}", "flag_key": "{{ params.key }}"}
    operator = AmplitudeArchiveOperator(task_id="archive", **options)
    amplitude.change(KEY, **LIVE)
    params = {"archive": True, "live": True, "key": KEY}
    operator.render_template_fields({"params": params, "ti": None})
    assert operator.execute(a_context())["archived"] is True


@pytest.mark.parametrize("name", ["archive", "while_enabled"])
def test_a_text_is_no_yes(amplitude, name):
    with pytest.raises(ValueError, match=name):
        AmplitudeArchiveOperator(task_id="archive", flag_key=KEY, **{name: "perhaps"})
    operator = AmplitudeArchiveOperator(task_id="archive", flag_key=KEY)
    setattr(operator, name, "perhaps")
    with pytest.raises(AirflowFailException, match=name):
        operator.execute(a_context())
    assert sent(amplitude) == []


@pytest.mark.parametrize("wanted", [True, False])
@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("step", [1, 2, 3, 4])
def test_wherever_a_task_died_a_second_run_ends_in_the_same_state(amplitude, monkeypatch, wanted, when, step):
    amplitude.change(KEY, archive=not wanted)
    with dying(monkeypatch, step, when), pytest.raises(Killed):
        archive(archive=wanted)
    archive(a_context(try_number=2), archive=wanted)
    assert is_archived(amplitude) is wanted
