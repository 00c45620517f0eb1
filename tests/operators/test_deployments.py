"""Which deployments serve an object, against the emulator over real HTTP: what is sent, what is refused."""

from __future__ import annotations

import contextlib
import json
import logging
from datetime import UTC, datetime, timedelta

import pytest
from airflow.providers.common.compat.sdk import AirflowFailException, AirflowSkipException, Variable
from airflow.sdk import DAG
from airflow.sdk.execution_time.context import OutletEventAccessors
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from airflow_amplitude_experiment.api import AmplitudeConnectionError
from airflow_amplitude_experiment.emulator import shapes
from airflow_amplitude_experiment.hooks.freeze import VARIABLE
from airflow_amplitude_experiment.operators import AmplitudeAssignDeploymentsOperator, _edit
from tests.builders import a_context_of_an_hour_ago as a_context
from tests.builders import connect

KEY = "new-checkout"
WEB, APP, OLD, FOREIGN = "31", "32", "33", "41"
SECRETS = {WEB: "client-web-secret", APP: "server-app-secret", OLD: "server-old-secret", FOREIGN: "server-far-secret"}
DEPLOYMENTS = [
    {"id": WEB, "projectId": "100001", "label": "web", "type": "client", "default": True},
    {"id": APP, "projectId": "100001", "label": "app", "type": "server"},
    {"id": OLD, "projectId": "100001", "label": "old", "type": "server", "deleted": True},
    {"id": FOREIGN, "projectId": "200002", "label": "far", "type": "server"},
]


@pytest.fixture
def amplitude(amplitude_emulator, monkeypatch):
    """The emulator with a flag at 10 % that the web serves."""
    monkeypatch.setattr(_edit, "SECONDS_BEFORE_ANOTHER_LOOK", 0.0)
    monkeypatch.setattr("airflow_amplitude_experiment.api._retry._wait", lambda _: 0.0)
    # Airflow 3.3 writes a task's log past ``logging``, where ``caplog`` doesn't see it.
    monkeypatch.setattr(AmplitudeAssignDeploymentsOperator, "log", logging.getLogger("tests.deployments"))
    state = amplitude_emulator.state(keys=True)
    amplitude_emulator.load_state(
        {
            **state,
            "projects": [*state["projects"], {"id": "200002"}],
            "keys": [{**state["keys"][0], "projects": ["100001", "200002"]}],
            "deployments": [{**each, "key": SECRETS[each["id"]]} for each in DEPLOYMENTS],
        }
    )
    amplitude_emulator.add_flag(KEY, enabled=True, rollout_percentage=10, deployments=[WEB])
    connect(monkeypatch, amplitude_emulator)
    return amplitude_emulator


def assign(*names, context=None, **options):
    operator = AmplitudeAssignDeploymentsOperator(task_id="t", flag_key=KEY, deployments=[*names], **options)
    return operator.execute(context or a_context())


def refused(*names, **options):
    with pytest.raises(AirflowFailException) as refusal:
        assign(*names, **options)
    return str(refusal.value)


def served_by(emulator):
    return emulator.flag(KEY)["deployments"]


def sent(emulator):
    return [f"{request['method']} {request['path'].rsplit('/flags', 1)[-1]}" for request in emulator.requests()]


def writes(emulator):
    return [request for request in emulator.requests() if request["method"] != "GET"]


# --- what is sent ------------------------------------------------------------------------------------------------


def test_a_deployment_is_added_by_its_label_in_one_request_and_read_back(amplitude, caplog):
    with caplog.at_level(logging.INFO):
        record = assign("app", reason="the app can show it")
    assert served_by(amplitude) == [WEB, APP]
    assert [request["method"] for request in amplitude.requests()] == ["GET", "GET", "POST", "GET"]
    assert writes(amplitude)[0]["body"] == {"deployments": [APP]}
    assert datetime.fromisoformat(record.pop("at")).tzinfo is not None
    assert record == {
        "kind": "flag",
        "key": KEY,
        "id": amplitude.flag(KEY)["id"],
        "project_id": "100001",
        "deployments": [WEB, APP],
        "added": [APP],
        "removed": [],
        "enabled": True,
        "written": True,
        "reason": "the app can show it",
        "environment": None,
        "dag_id": "rollout",
        "run_id": "manual__1",
        "task_id": "task",
        "map_index": -1,
        "try_number": 1,
    }
    own = [each.getMessage() for each in caplog.records if each.name == "tests.deployments"]
    assert f"flag {KEY}: added app (32); now served by web (31), app (32)" in own


def test_what_serves_it_already_costs_one_read(amplitude):
    assert assign(WEB, 31)["written"] is False
    assert [request["method"] for request in amplitude.requests()] == ["GET"]


def test_a_deployment_is_taken_off(amplitude):
    assign(APP)
    record = assign("web", mode="remove")
    assert (served_by(amplitude), record["removed"], record["deployments"]) == ([APP], [WEB], [APP])


def test_replacing_attaches_before_it_takes_off(amplitude):
    record = assign("app", mode="replace")
    assert [request["method"] for request in writes(amplitude)] == ["POST", "DELETE"]
    assert (record["added"], record["removed"], served_by(amplitude)) == ([APP], [WEB], [APP])


def test_a_replacement_that_stands_already_writes_nothing(amplitude):
    assert assign("web", mode="replace")["written"] is False
    assert not writes(amplitude)


def test_an_experiment_has_deployments_too(amplitude):
    amplitude.add_experiment("pricing", deployments=[WEB])
    operator = AmplitudeAssignDeploymentsOperator(task_id="t", experiment_key="pricing", deployments='["app"]')
    assert operator.execute(a_context())["deployments"] == [WEB, APP]


def test_a_write_leaves_a_link_and_an_asset(amplitude):
    context = a_context() | {"outlet_events": OutletEventAccessors()}
    assign(APP, context=context)
    assert context["ti"].xcoms["amplitude_url"].endswith(amplitude.flag(KEY)["id"])
    (event,) = next(iter(context["outlet_events"]._dict.values())).asset_alias_events
    assert event.dest_asset_key.uri == f"amplitude-experiment://100001/flag/{KEY}"


# --- what is refused ---------------------------------------------------------------------------------------------


def test_the_last_deployment_of_an_enabled_object_stays_unless_told(amplitude):
    text = refused(WEB, mode="remove")
    assert "nobody would be served any more" in text
    assert "AmplitudeKillSwitchOperator" in text
    assert not writes(amplitude)
    assert assign(WEB, mode="remove", allow_empty=True)["deployments"] == []


def test_the_last_deployment_of_a_disabled_object_may_go(amplitude):
    amplitude.change(KEY, enabled=False)
    assert assign(WEB, mode="remove")["deployments"] == []


def test_an_empty_list_replaces_nothing_unless_told(amplitude):
    with pytest.raises(ValueError, match="allow_empty=True"):
        assign(mode="replace")
    operator = AmplitudeAssignDeploymentsOperator(
        task_id="t", flag_key=KEY, mode="replace", deployments="{{ params.none }}"
    )
    operator.deployments = "[]"
    with pytest.raises(AirflowFailException, match="allow_empty=True"):
        operator.execute(a_context())
    assert not amplitude.requests()
    assert assign(mode="replace", allow_empty=True)["deployments"] == []


def test_an_unknown_name_is_told_with_those_that_there_are_and_without_keys(amplitude):
    text = refused("mobile", "app")
    assert "there is no deployment mobile; in project 100001 there are" in text
    assert "web (31)" in text
    assert "app (32)" in text
    assert "far" not in text
    assert not any(secret in text for secret in SECRETS.values())


def test_a_key_that_is_given_as_a_name_is_not_repeated(amplitude, caplog):
    with caplog.at_level(logging.INFO):
        text = refused("server-0123456789abcdef0123456789abcdef")
    assert "server-012…" in text
    assert "0123456789abcdef" not in text + caplog.text


@pytest.mark.parametrize("given", ["server-0123456789abcdef", [{"id": "31", "key": "server-0123456789abcdef"}]])
def test_a_key_that_is_given_where_a_list_of_names_belongs_is_not_repeated(given):
    with pytest.raises(ValueError, match="deployments") as refusal:
        AmplitudeAssignDeploymentsOperator(task_id="t", flag_key=KEY, deployments=given)
    assert "0123456789abcdef" not in str(refusal.value)


def test_an_archived_deployment_is_not_added(amplitude):
    assert "old (33) is archived" in refused("old")
    assert not writes(amplitude)


def test_a_deployment_of_another_project_is_not_added(amplitude):
    assert "far (41) belongs to project 200002, not 100001" in refused(FOREIGN)
    assert "there is no deployment far" in refused("far")
    assert not writes(amplitude)


def test_a_label_that_two_have_must_be_given_by_id(amplitude):
    amplitude.seed({"deployments": [{"id": "34", "projectId": "100001", "label": "app"}]})
    assert "2 deployments have the label app. Nothing was written. Name one: app (34), app (32)" in refused("app")


def test_a_label_belongs_to_the_live_one_of_two(amplitude):
    amplitude.seed({"deployments": [{"id": "34", "projectId": "100001", "label": "old"}]})
    assert assign("old")["added"] == ["34"]


def test_a_frozen_object_is_shown_to_no_other_application(amplitude, monkeypatch):
    monkeypatch.setattr(Variable, "get", lambda key, **_: json.dumps([KEY]) if key == VARIABLE else None)
    assert "freezes new-checkout" in refused(APP)
    assert assign(APP, mode="remove")["written"] is False
    assert not writes(amplitude)


def test_a_limit_of_the_connection_holds_for_another_applications_users(amplitude, monkeypatch):
    connect(monkeypatch, amplitude, max_step=5)
    assert "max_step" in refused(APP)
    assert not writes(amplitude)


def test_a_read_only_connection_says_what_would_be(amplitude, monkeypatch, caplog):
    connect(monkeypatch, amplitude, mode="read_only")
    with caplog.at_level(logging.INFO):
        record = assign("app", mode="replace")
    assert (record["written"], record["added"], record["removed"]) == (False, [APP], [WEB])
    assert record["deployments"] == [WEB]
    assert not writes(amplitude)
    assert "would be changed (read-only, not sent): added app (32), removed web (31)" in caplog.text


def test_a_run_of_the_past_is_skipped(amplitude):
    with pytest.raises(AirflowSkipException):
        assign(APP, context=a_context(run_type="backfill"))
    assert not amplitude.requests()


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"mode": "set"}, "mode is 'set'"),
        ({"deployments": "web"}, "must be JSON"),
        ({"deployments": [True]}, "item 0"),
        ({"allow_empty": "perhaps"}, "true or false"),
    ],
)
def test_what_can_be_seen_to_be_wrong_is_refused_at_parse_time(options, says):
    with pytest.raises(ValueError, match=says):
        AmplitudeAssignDeploymentsOperator(task_id="t", **{"flag_key": KEY, "deployments": [WEB], **options})


def test_what_a_template_fills_in_is_checked_when_it_is_known(amplitude):
    with DAG("d", schedule=None):
        operator = AmplitudeAssignDeploymentsOperator(
            task_id="t", flag_key=KEY, deployments=["{{ which }}"], mode="{{ how }}", allow_empty="{{ may }}"
        )
    operator.render_template_fields({"which": "app", "how": "None", "may": "None"})
    assert operator.execute(a_context())["added"] == [APP]


# --- again -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fault", ["cut_after", "cut_before"])
@pytest.mark.parametrize("method", ["POST", "DELETE"])
def test_whatever_answer_is_lost_the_end_is_the_same(amplitude, method, fault):
    amplitude.fault(fault, method=method)
    record = assign("app", mode="replace")
    assert (served_by(amplitude), record["deployments"], record["written"]) == ([APP], [APP], True)


def test_an_answer_that_was_lost_after_it_was_applied_is_not_sent_twice(amplitude):
    amplitude.fault("cut_after", method="POST")
    record = assign(APP)
    assert (record["deployments"], record["written"]) == ([WEB, APP], True)
    assert len(writes(amplitude)) == 1


@pytest.mark.parametrize("step", ["POST", "DELETE"])
def test_what_a_crash_left_half_done_a_rerun_completes(amplitude, step):
    amplitude.fault("status", method=step, times=None, status=500)
    with pytest.raises(Exception, match="500"):
        assign("app", mode="replace")
    amplitude.clear_faults()
    assert assign("app", mode="replace", context=a_context(try_number=2))["deployments"] == [APP]
    amplitude.clear_requests()
    assert assign("app", mode="replace", context=a_context(try_number=3))["written"] is False
    assert not writes(amplitude)


@pytest.mark.parametrize("again", [{"try_number": 2}, {"clear_number": 1}], ids=["retried", "cleared"])
def test_what_somebody_took_off_since_is_not_added_again(amplitude, again):
    assign(APP)
    operator = AmplitudeAssignDeploymentsOperator(task_id="x", flag_key=KEY, deployments=[APP], mode="remove")
    operator.execute(a_context())
    assert "app (32) was taken off in version" in refused(APP, context=a_context(**again))
    assert served_by(amplitude) == [WEB]
    assert assign(APP)["added"] == [APP]


def test_what_was_taken_off_before_somebody_pressed_trigger_does_not_refuse_the_retries_of_that_run(amplitude):
    assign(APP)
    assign(APP, mode="remove")
    later = a_context(try_number=2)
    later["dag_run"].start_date = datetime.now(UTC) + timedelta(seconds=1)
    assert assign(APP, context=later)["added"] == [APP]


def test_what_was_taken_off_before_this_run_began_is_no_obstacle(amplitude):
    assign(APP)
    assign(APP, mode="remove")
    later = a_context(try_number=2)
    later["dag_run"].run_after = datetime.now(UTC) + timedelta(seconds=1)
    assert assign(APP, context=later)["added"] == [APP]


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    before=st.sets(st.sampled_from([WEB, APP, "35", "36"])),
    named=st.lists(st.sampled_from([WEB, "app", "35", "thirty-six"])),
    mode=st.sampled_from(["add", "remove", "replace"]),
    crash=st.sampled_from(["cut_after", "cut_before", None]),
    skip=st.integers(0, 3),
)
def test_wherever_a_task_dies_its_rerun_ends_with_exactly_the_wanted_set(amplitude, before, named, mode, crash, skip):
    for each, label in (("35", "thirty-five"), ("36", "thirty-six")):
        if each not in amplitude.world.store.deployments:
            amplitude.seed({"deployments": [{"id": each, "projectId": "100001", "label": label}]})
    amplitude.change(KEY, deployments=sorted(before))
    amplitude.clear_requests()
    amplitude.clear_faults()
    if crash:
        for method in ("POST", "DELETE"):
            amplitude.fault(crash, method=method, skip=skip, times=None)
        with contextlib.suppress(AmplitudeConnectionError):
            assign(*named, mode=mode, allow_empty=True)
        amplitude.clear_faults()
    assign(*named, mode=mode, allow_empty=True)
    ids = {{"app": APP, "thirty-six": "36"}.get(name, name) for name in named}
    wanted = {"add": before | ids, "remove": before - ids, "replace": ids}[mode]
    assert sorted(served_by(amplitude)) == sorted(wanted)
    amplitude.clear_requests()
    assert assign(*named, mode=mode, allow_empty=True)["written"] is False
    assert not writes(amplitude)


def test_deployments_that_an_object_does_not_show_are_asked_for(amplitude, monkeypatch):
    for shown in ("list", "details"):
        fields = shapes._SUBSETS["flag", shown]
        monkeypatch.setitem(shapes._SUBSETS, ("flag", shown), tuple(each for each in fields if each != "deployments"))
    assert assign("app")["deployments"] == [WEB, APP]
    assert len(writes(amplitude)) == 1


def test_a_write_without_effect_is_told(amplitude, monkeypatch):
    monkeypatch.setattr("airflow_amplitude_experiment.emulator.build.unique", lambda values: list(values)[:1])
    assert "AmplitudeNotConfirmed" in (text := refused(APP))
    assert "it lacks app (32)" in text


def test_no_key_of_a_deployment_stands_in_log_record_or_error(amplitude, caplog):
    with caplog.at_level(logging.DEBUG):
        record = assign("app", mode="replace")
        texts = json.dumps(record) + refused("mobile")
    assert not any(secret in texts + caplog.text for secret in SECRETS.values())
