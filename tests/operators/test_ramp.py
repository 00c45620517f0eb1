"""The ramp against the emulator over real HTTP: what it sends, what it refuses, what it costs."""

from __future__ import annotations

import json
import logging
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import pytest
from airflow.providers.common.compat.sdk import AirflowFailException, AirflowSkipException
from airflow.sdk import DAG

from airflow_amplitude_experiment.operators import AmplitudeRampRolloutOperator, _past
from airflow_amplitude_experiment.operators import ramp as module
from tests.builders import a_context, a_flag, a_segment

KEY = "new-checkout"


@pytest.fixture
def amplitude(amplitude_emulator, monkeypatch):
    """The emulator with a live flag at 10 %, and a connection to it."""
    monkeypatch.setattr(module, "SECONDS_BEFORE_ANOTHER_LOOK", 0.0)
    connect(monkeypatch, amplitude_emulator)
    amplitude_emulator.add_flag(KEY, enabled=True, rolloutPercentage=10)
    amplitude_emulator.clear_requests()
    return amplitude_emulator


def connect(monkeypatch, emulator, **extra):
    extra = {"requests_per_second": 100, **extra}
    monkeypatch.setenv("AIRFLOW_CONN_AMPLITUDE_EXPERIMENT_DEFAULT", emulator.airflow_connection(**extra))


def ramp(to, *, context=None, **options):
    named = {} if {"flag_id", "experiment_key"} & options.keys() else {"flag_key": KEY}
    operator = AmplitudeRampRolloutOperator(task_id="ramp", percentage=to, **named, **options)
    return operator.execute(context or a_context())


def sent(emulator):
    return [request["method"] for request in emulator.requests()]


def test_a_ramp_by_key_costs_three_requests_and_moves_the_percentage_only(amplitude):
    before = amplitude.flag(KEY)
    record = ramp(25, from_percentage=10, reason="looks good")
    after = amplitude.flag(KEY)
    assert sent(amplitude) == ["GET", "PATCH", "GET"]
    assert amplitude.requests()[1]["body"] == {"rolloutPercentage": 25}
    assert record["before"] == 10
    assert record["after"] == 25
    assert record["written"] is True
    assert record["reason"] == "looks good"
    changed = {name for name in after if after[name] != before.get(name)}
    assert changed <= {"rolloutPercentage", "lastModifiedAt", "lastModifiedBy"}


def test_a_flag_that_stands_there_already_costs_one_request(amplitude):
    assert ramp(10)["written"] is False
    assert sent(amplitude) == ["GET"]


def test_a_refusal_writes_nothing_and_ends_the_task_for_good(amplitude):
    with pytest.raises(AirflowFailException, match="stands at 10 %"):
        ramp(50, from_percentage=25)
    assert "PATCH" not in sent(amplitude)
    assert amplitude.flag(KEY)["rolloutPercentage"] == 10


def test_an_unknown_key_is_told_from_an_archived_one_with_one_more_request(amplitude):
    with pytest.raises(AirflowFailException, match="there is no flag 'nope'"):
        AmplitudeRampRolloutOperator(task_id="r", flag_key="nope", percentage=5).execute(a_context())
    assert sent(amplitude) == ["GET", "GET"]
    amplitude.add_flag("old", deleted=True)
    with pytest.raises(AirflowFailException, match="archived"):
        AmplitudeRampRolloutOperator(task_id="r", flag_key="old", percentage=5).execute(a_context())


@pytest.mark.parametrize("kind", ["cut_after", "truncated"])
def test_a_write_that_was_applied_but_not_answered_is_not_sent_twice(amplitude, kind):
    amplitude.fault(kind, method="PATCH")
    record = ramp(25, from_percentage=10)
    assert sent(amplitude).count("PATCH") == 1
    assert amplitude.flag(KEY)["rolloutPercentage"] == 25
    assert (record["before"], record["after"], record["written"]) == (10, 25, True)


def test_a_write_that_was_lost_is_decided_anew_and_sent_again(amplitude):
    amplitude.fault("cut_before", method="PATCH")
    ramp(25, from_percentage=10)
    assert sent(amplitude).count("PATCH") == 2
    assert amplitude.flag(KEY)["rolloutPercentage"] == 25


def test_a_raise_that_somebody_undid_meanwhile_is_not_made_again(amplitude, monkeypatch):
    """The answer of our write is lost; before we look again, on-call takes the flag down."""
    amplitude.fault("cut_after", method="PATCH")
    stops_it = SimpleNamespace(sleep=lambda _: amplitude.change(KEY, rolloutPercentage=0))
    monkeypatch.setattr(module, "time", stops_it)
    with pytest.raises(AirflowFailException, match="undo somebody's stop"):
        ramp(25)
    assert amplitude.flag(KEY)["rolloutPercentage"] == 0


@pytest.mark.parametrize(
    "context",
    [{"try_number": 2}, {"clear_number": 1}, {"run_type": "scheduled"}],
    ids=["second try", "cleared run", "scheduled first raise"],
)
def test_a_run_that_may_have_been_overtaken_reads_the_versions_first(amplitude, monkeypatch, context):
    monkeypatch.setattr(_past, "skip_in_the_past", lambda *_: None)
    ramp(25, context=a_context(**context))
    assert sent(amplitude) == ["GET", "GET", "PATCH", "GET"]
    assert amplitude.requests()[1]["path"].endswith("/versions")


def test_down_stays_down_on_a_second_try(amplitude, monkeypatch):
    ramp(50)
    ramp(5, allow_decrease=True)
    with pytest.raises(AirflowFailException, match="would undo somebody's stop"):
        ramp(50, context=a_context(try_number=2))
    assert amplitude.flag(KEY)["rolloutPercentage"] == 5


def test_enable_counts_for_the_first_write_only(amplitude):
    """Somebody switches the flag off after this run switched it on; a second try leaves it off."""
    amplitude.change(KEY, enabled=False)
    with pytest.raises(AirflowFailException, match="disabled in version"):
        ramp(25, enable=True, context=a_context(try_number=2))
    assert amplitude.flag(KEY)["enabled"] is False


def a_record(emulator, key=KEY, **fields):
    """The record of an earlier ramp of the same run."""
    kind = "flag" if key == KEY else "experiment"
    there = emulator.flag(key) if kind == "flag" else emulator.experiment(key)
    common = {"kind": kind, "id": there["id"], "written": True, "segment": None, "switched_on": False}
    return {**common, "before": 0, "after": 10, **fields}


def later(context, *records, **options):
    """Run a ramp below other ramps of the same DAG, whose records are given."""
    with DAG("chain"):
        earlier = [
            AmplitudeRampRolloutOperator(task_id=f"ramp_{number}", percentage=10, flag_key=KEY)
            for number, _ in enumerate(records)
        ]
        operator = AmplitudeRampRolloutOperator(task_id="later", **{"flag_key": KEY, **options})
        earlier >> operator
    context["ti"].of_others = {f"ramp_{number}": record for number, record in enumerate(records)}
    return operator.execute(context)


def test_a_later_ramp_of_the_same_run_does_not_enable_again_what_was_switched_off(amplitude):
    amplitude.change(KEY, enabled=False)
    switched_on = a_record(amplitude, switched_on=True)
    with pytest.raises(AirflowFailException, match="undo somebody's stop"):
        later(a_context(), switched_on, percentage=50, from_percentage=10, enable=True)
    assert amplitude.flag(KEY)["enabled"] is False


def test_a_later_ramp_without_an_expected_percentage_does_not_raise_what_was_lowered(amplitude):
    amplitude.change(KEY, rolloutPercentage=0)
    with pytest.raises(AirflowFailException, match="undo somebody's stop"):
        later(a_context(), a_record(amplitude), percentage=50)
    assert amplitude.flag(KEY)["rolloutPercentage"] == 0


@pytest.mark.parametrize("run_type", ["scheduled", "asset_triggered", "operator_triggered", "asset_materialization"])
def test_a_run_that_nobody_started_does_not_enable_what_a_person_switched_off(amplitude, monkeypatch, run_type):
    monkeypatch.setattr(_past, "skip_in_the_past", lambda *_: None)
    amplitude.change(KEY, enabled=False)
    context = a_context(run_type=run_type)
    context["dag_run"].run_after = datetime.now(UTC) + timedelta(hours=1)
    with pytest.raises(AirflowFailException, match="disabled in version"):
        ramp(50, enable=True, context=context)
    assert amplitude.flag(KEY)["enabled"] is False


def test_a_new_run_that_a_person_starts_may_enable_it_again(amplitude):
    amplitude.change(KEY, enabled=False)
    context = a_context()
    context["dag_run"].start_date = datetime.now(UTC) + timedelta(seconds=5)
    assert ramp(50, enable=True, context=context)["switched_on"] is True
    assert amplitude.flag(KEY)["enabled"] is True


def test_a_run_that_nobody_started_may_enable_what_was_never_on(amplitude, monkeypatch):
    monkeypatch.setattr(_past, "skip_in_the_past", lambda *_: None)
    amplitude.add_flag("new", enabled=False)
    operator = AmplitudeRampRolloutOperator(task_id="r", flag_key="new", percentage=10, enable=True)
    assert operator.execute(a_context(run_type="scheduled"))["switched_on"] is True


def test_what_an_earlier_ramp_found_done_already_proves_nothing_for_a_later_one(amplitude, monkeypatch):
    """A scheduled run: to_10 had nothing to do because on-call lowered the flag to 10 %, so to_50 looks itself."""
    monkeypatch.setattr(_past, "skip_in_the_past", lambda *_: None)
    amplitude.change(KEY, rolloutPercentage=50)
    amplitude.change(KEY, rolloutPercentage=10)
    idle = a_record(amplitude, before=10, after=10, written=False)
    with pytest.raises(AirflowFailException, match="stood at 50 %"):
        later(a_context(run_type="scheduled"), idle, percentage=50, from_percentage=10)


def test_an_earlier_ramp_of_another_object_proves_nothing(amplitude, monkeypatch):
    monkeypatch.setattr(_past, "skip_in_the_past", lambda *_: None)
    amplitude.change(KEY, rolloutPercentage=80)
    amplitude.change(KEY, rolloutPercentage=0)
    of_another = a_record(amplitude, id="4711")
    with pytest.raises(AirflowFailException, match="stood at 80 %"):
        later(a_context(run_type="scheduled"), of_another, percentage=50, from_percentage=0)


def test_a_mapped_ramp_upstream_explains_its_writes_too(amplitude):
    amplitude.add_experiment("checkout", enabled=True, rolloutPercentage=0)
    amplitude.change("checkout", rolloutPercentage=10)
    with DAG("chain"):
        mapped = AmplitudeRampRolloutOperator.partial(task_id="mapped", percentage=10).expand(flag_key=["a", "b"])
        operator = AmplitudeRampRolloutOperator(task_id="r", experiment_key="checkout", percentage=50)
        mapped >> operator
    context = a_context(try_number=2)
    context["ti"].of_others = {"mapped": a_record(amplitude, "checkout")}
    assert operator.execute(context)["written"] is True


def test_a_segment_that_was_lowered_is_not_raised_by_a_second_try(amplitude):
    amplitude.add_flag("segmented", enabled=True, targetSegments=[a_segment("Beta", 80)])
    amplitude.change("segmented", targetSegments=[a_segment("Beta", 0)])
    operator = AmplitudeRampRolloutOperator(task_id="r", flag_key="segmented", segment="Beta", percentage=50)
    with pytest.raises(AirflowFailException, match="stood at 80 %"):
        operator.execute(a_context(try_number=2))


def test_an_ordinary_second_try_in_a_chain_goes_on(amplitude):
    """A run that lowered the flag itself and then ramps it: its own lowering is nobody's stop."""
    amplitude.change(KEY, rolloutPercentage=0)
    own = a_record(amplitude, before=10, after=0)
    assert later(a_context(try_number=2), own, percentage=5, from_percentage=0)["written"] is True


def test_a_second_try_of_an_experiments_ramp_counts_what_its_own_run_wrote(amplitude):
    amplitude.add_experiment("checkout", enabled=True, rolloutPercentage=0)
    amplitude.change("checkout", rolloutPercentage=10)
    own = a_record(amplitude, "checkout")
    options = {"flag_key": None, "experiment_key": "checkout", "percentage": 50, "from_percentage": 10}
    assert later(a_context(try_number=2), own, **options)["written"] is True
    amplitude.change("checkout", rolloutPercentage=10)
    with pytest.raises(AirflowFailException, match="where this run explains 1"):
        later(a_context(try_number=2), own, **options)


def a_chain_below(emulator, *changes, context=None):
    """Ramp an experiment to 50 % from anything lower, in a run that raised it to 10 % and changed more of it since."""
    emulator.add_experiment("checkout", enabled=True, rolloutPercentage=0)
    emulator.change("checkout", rolloutPercentage=10)
    own = a_record(emulator, "checkout")
    for change in changes:
        emulator.change("checkout", **change)
    return later(context or a_context(), own, flag_key=None, experiment_key="checkout", percentage=50)


def test_an_experiment_that_was_edited_while_it_was_off_is_switched_on(amplitude):
    """A run that created it, and set its tags and who is included, before its first ramp."""
    amplitude.add_experiment("checkout", enabled=False, rolloutPercentage=0)
    for tags in (["a"], ["b"], ["c"]):
        amplitude.change("checkout", tags=tags)
    operator = AmplitudeRampRolloutOperator(task_id="r", experiment_key="checkout", percentage=10, enable=True)
    assert operator.execute(a_context())["switched_on"] is True


def test_an_experiment_that_stands_where_an_earlier_ramp_left_it_is_raised_whatever_else_was_edited(amplitude):
    """Such as the users who are included, whose versions show no difference either."""
    assert a_chain_below(amplitude, {"tags": ["a"]}, {"tags": ["b"]})["written"] is True


def test_an_experiment_that_stands_below_where_an_earlier_ramp_left_it_stays_there(amplitude):
    with pytest.raises(AirflowFailException, match="stands below the 10 % that this run raised it to"):
        a_chain_below(amplitude, {"rolloutPercentage": 5})


def test_an_experiment_that_was_switched_off_and_on_since_an_earlier_ramp_is_not_raised(amplitude):
    with pytest.raises(AirflowFailException, match="was disabled in version"):
        a_chain_below(amplitude, {"enabled": False}, {"enabled": True})


@pytest.mark.parametrize("again", [{"try_number": 2}, {"clear_number": 1}], ids=["second try", "cleared"])
def test_what_somebody_took_back_to_where_an_earlier_ramp_left_it_is_not_raised_again(amplitude, again):
    """The first try raised it to 50 % and died."""
    with pytest.raises(AirflowFailException, match="somebody may have lowered it"):
        a_chain_below(amplitude, {"rolloutPercentage": 50}, {"rolloutPercentage": 10}, context=a_context(**again))


def test_a_stop_before_somebody_pressed_trigger_does_not_refuse_the_retries_of_that_run(amplitude):
    """On Airflow 3.1 a run by hand may be dated long before it was started."""
    amplitude.change(KEY, rolloutPercentage=50)
    amplitude.change(KEY, rolloutPercentage=0)
    context = a_context(try_number=2)
    context["dag_run"].start_date = datetime.now(UTC) + timedelta(seconds=5)
    assert ramp(25, context=context)["written"] is True


def test_a_refusal_names_the_last_change(amplitude):
    amplitude.change(KEY, rolloutPercentage=60, by="x@example.com")
    with pytest.raises(AirflowFailException, match=r"10 % -> 60 %"):
        ramp(25, flag_id=amplitude.flag(KEY)["id"])
    assert sent(amplitude)[-1] == "GET"
    assert amplitude.requests()[-1]["path"].endswith("/versions")


def test_a_refusal_stands_where_the_last_change_cannot_be_read(amplitude):
    amplitude.fault("status", path="*/versions", status=403)
    with pytest.raises(AirflowFailException, match="stands at 10 %"):
        ramp(50, from_percentage=25)


@pytest.mark.parametrize("name", ["enable", "allow_decrease"])
def test_a_text_is_no_yes(amplitude, name):
    with pytest.raises(ValueError, match=name):
        AmplitudeRampRolloutOperator(task_id="r", flag_key=KEY, percentage=5, **{name: "perhaps"})
    amplitude.change(KEY, enabled=False)
    with pytest.raises(AirflowFailException, match="is disabled"):
        ramp(80, enable="false", context=a_context())
    operator = AmplitudeRampRolloutOperator(task_id="r", flag_key=KEY, percentage=5, **{name: "{{ params.x }}"})
    setattr(operator, name, "perhaps")
    with pytest.raises(AirflowFailException, match=name):
        operator.execute(a_context())


def test_a_write_that_does_not_take_is_an_error_and_not_repeated(amplitude):
    amplitude.options(approvals="pending", approval_scope="live")
    with pytest.raises(AirflowFailException, match="approval may be pending"):
        ramp(25)
    assert sent(amplitude).count("PATCH") == 1


def test_a_read_only_connection_decides_and_sends_nothing(amplitude, monkeypatch, caplog):
    connect(monkeypatch, amplitude, mode="read_only", environment="production")
    caplog.set_level(logging.INFO)
    record = ramp(25)
    assert record["written"] is False
    assert record["after"] == 25
    assert sent(amplitude) == ["GET"]
    assert amplitude.flag(KEY)["rolloutPercentage"] == 10


@pytest.mark.parametrize(
    ("rules", "says"),
    [
        ({"max_percentage": 20}, "max_percentage"),
        ({"max_step": 5}, "max_step"),
        ({"deny_keys": "new-*"}, "deny_keys"),
        ({"allow_keys": "search-*"}, "allow_keys"),
        ({"require_reason": True}, "require_reason"),
    ],
)
def test_the_connections_rules_hold_without_another_read(amplitude, monkeypatch, rules, says):
    connect(monkeypatch, amplitude, **rules)
    with pytest.raises(AirflowFailException, match=says):
        ramp(25)
    assert sent(amplitude) == ["GET"]


def test_the_link_is_left_before_anything_can_fail(amplitude):
    context = a_context()
    with pytest.raises(AirflowFailException):
        ramp(50, from_percentage=25, context=context)
    assert amplitude.flag(KEY)["id"] in context["ti"].xcoms["amplitude_url"]


def test_a_segments_percentage_is_moved(amplitude):
    amplitude.add_flag("segmented", enabled=True, targetSegments=[a_segment("Staff", 100), a_segment("Beta", 10)])
    AmplitudeRampRolloutOperator(task_id="r", flag_key="segmented", percentage=60, segment="Beta").execute(a_context())
    assert [each["percentage"] for each in amplitude.flag("segmented")["targetSegments"]] == [100, 60]
    assert amplitude.flag("segmented")["rolloutPercentage"] == 0


def test_what_a_dag_states_for_all_its_tasks_reaches_each_of_them():
    stated = {"amplitude_conn_id": "eu", "project_id": "1", "reason": "launch", "flag_key": KEY, "retries": 7}
    with DAG("releases", schedule=None, default_args={**stated, "on_drift": "continue"}):
        operator = AmplitudeRampRolloutOperator(task_id="ramp", percentage=10, reason="its own")
    assert {name: getattr(operator, name) for name in stated} == {**stated, "reason": "its own"}
    assert operator.on_drift == "continue"


@pytest.mark.parametrize("names", [{}, {"flag_key": "a", "experiment_key": "b"}, {"flag_key": "a", "flag_id": "1"}])
def test_exactly_one_name_is_asked_for_at_parse_time(names):
    with pytest.raises(ValueError, match="exactly one"):
        AmplitudeRampRolloutOperator(task_id="r", percentage=5, **names)


@pytest.mark.parametrize("name", ["flag_key", "experiment_id"])
def test_an_empty_name_is_refused_at_parse_time(name):
    with pytest.raises(ValueError, match="is empty"):
        AmplitudeRampRolloutOperator(task_id="r", percentage=5, **{name: " "})


@pytest.mark.parametrize("wrong", [101, -1, 12.5, "ten", True, None, "101"])
def test_a_percentage_that_is_known_is_checked_at_parse_time(wrong):
    with pytest.raises(ValueError, match="percentage"):
        AmplitudeRampRolloutOperator(task_id="r", percentage=wrong, flag_key=KEY)


def test_a_templated_percentage_is_checked_before_the_first_request(amplitude):
    operator = AmplitudeRampRolloutOperator(task_id="r", percentage="{{ params.p }}", flag_key=KEY)
    operator.percentage = "250"
    with pytest.raises(AirflowFailException, match="percentage is '250'"):
        operator.execute(a_context())
    assert sent(amplitude) == []


def test_a_key_left_out_of_the_form_is_refused_before_the_first_request(amplitude):
    operator = AmplitudeRampRolloutOperator(task_id="r", percentage=5, flag_key="{{ params.key }}")
    operator.flag_key = "None"
    with pytest.raises(AirflowFailException, match="empty text"):
        operator.execute(a_context())
    assert sent(amplitude) == []


def test_a_key_in_two_projects_is_refused_with_both_listed(amplitude, monkeypatch):
    two_projects(amplitude, monkeypatch)
    with pytest.raises(AirflowFailException, match="100001, 200002"):
        ramp(25)
    assert "PATCH" not in sent(amplitude)
    ramp(25, project_id="200002")
    assert amplitude.flag(KEY, project_id="200002")["rolloutPercentage"] == 25
    assert amplitude.flag(KEY)["rolloutPercentage"] == 10


def test_an_id_without_a_project_is_refused_where_the_key_sees_several(amplitude, monkeypatch):
    two_projects(amplitude, monkeypatch)
    flag_id = amplitude.flag(KEY)["id"]
    with pytest.raises(AirflowFailException, match="100001, 200002"):
        ramp(25, flag_id=flag_id)
    assert "PATCH" not in sent(amplitude)
    ramp(25, flag_id=flag_id, project_id=100001)
    assert amplitude.flag(KEY)["rolloutPercentage"] == 25


def test_an_id_of_another_project_is_refused(amplitude, monkeypatch):
    two_projects(amplitude, monkeypatch)
    with pytest.raises(AirflowFailException, match="belongs to project 100001, not 200002"):
        ramp(25, flag_id=amplitude.flag(KEY)["id"], project_id="200002")
    assert "PATCH" not in sent(amplitude)


def test_an_id_without_a_project_is_enough_where_the_key_sees_one_project(amplitude, monkeypatch):
    connect(monkeypatch, amplitude, project_id=None)
    assert ramp(25, flag_id=amplitude.flag(KEY)["id"])["written"] is True


def test_a_list_that_shows_too_little_is_completed_by_the_details(monkeypatch, respx_mock):
    monkeypatch.setenv(
        "AIRFLOW_CONN_AMPLITUDE_EXPERIMENT_DEFAULT", '{"conn_type": "amplitude", "password": "some-key"}'
    )
    api = "https://experiment.amplitude.com/api/1/flags"
    thin = {"id": 7, "key": KEY, "lastModifiedBy": "x@example.com", "lastModifiedAt": "2026-11-22T09:14:00.000Z"}
    respx_mock.get(api).respond(json={"flags": [thin]})
    respx_mock.get(f"{api}/7").respond(json=a_flag(rolloutPercentage=60, id="7").as_json())
    respx_mock.get(f"{api}/7/versions").respond(json=[])
    with pytest.raises(AirflowFailException, match=r"stands at 60 %.*x@example\.com changed it last"):
        ramp(25)


def test_a_percentage_that_took_while_the_switch_did_not_is_an_error(monkeypatch, respx_mock):
    """An approval may hold back the start and let the percentage through."""
    monkeypatch.setattr(module, "SECONDS_BEFORE_ANOTHER_LOOK", 0.0)
    monkeypatch.setenv("AIRFLOW_CONN_AMPLITUDE_EXPERIMENT_DEFAULT", '{"conn_type": "x", "password": "some-key"}')
    api = "https://experiment.amplitude.com/api/1/flags"
    respx_mock.get(api).respond(json={"flags": [a_flag(enabled=False, rolloutPercentage=0, id="7").as_json()]})
    respx_mock.patch(f"{api}/7").respond(text="OK")
    respx_mock.get(f"{api}/7/versions").respond(json=[])
    respx_mock.get(f"{api}/7").respond(json=a_flag(enabled=False, rolloutPercentage=25, id="7").as_json())
    with pytest.raises(AirflowFailException, match="stands at 25 % and is disabled now"):
        ramp(25, enable=True)


def test_another_project_than_the_connections_is_refused_before_the_first_request(amplitude):
    with pytest.raises(AirflowFailException, match="the connection names project 100001"):
        ramp(25, project_id="200002")
    assert sent(amplitude) == []


def test_an_experiment_is_ramped_by_the_same_rules(amplitude):
    amplitude.add_experiment("checkout", enabled=True, rolloutPercentage=5)
    record = AmplitudeRampRolloutOperator(task_id="r", experiment_key="checkout", percentage=20).execute(a_context())
    assert record["kind"] == "experiment"
    assert amplitude.experiment("checkout")["rolloutPercentage"] == 20


def test_a_backfill_writes_nothing(amplitude):
    with pytest.raises(AirflowSkipException, match="backfill"):
        ramp(25, context=a_context(run_type="backfill"))
    assert sent(amplitude) == []


def two_projects(emulator, monkeypatch):
    emulator.seed(
        {
            "projects": [{"id": "200002", "name": "Other"}],
            "keys": [{"key": "key-of-two-projects", "projects": ["100001", "200002"]}],
        }
    )
    emulator.add_flag(KEY, projectId="200002", enabled=True, rolloutPercentage=10)
    connection = json.loads(emulator.airflow_connection(requests_per_second=100, project_id=None))
    connection["password"] = "key-of-two-projects"
    monkeypatch.setenv("AIRFLOW_CONN_AMPLITUDE_EXPERIMENT_DEFAULT", json.dumps(connection))
    emulator.clear_requests()
