"""Mutex and holdout groups against the emulator over real HTTP: what is sent, what is refused, what it costs."""

from __future__ import annotations

import contextlib
import json
import logging
from datetime import datetime

import pytest
from airflow.providers.common.compat.sdk import AirflowFailException, AirflowSkipException, Variable
from airflow.sdk import DAG
from airflow.sdk.execution_time.context import OutletEventAccessors
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from airflow_amplitude_experiment.api import AmplitudeConnectionError, AmplitudeServerError
from airflow_amplitude_experiment.emulator import shapes
from airflow_amplitude_experiment.hooks.freeze import VARIABLE
from airflow_amplitude_experiment.hooks.guard import GuardedClient
from airflow_amplitude_experiment.operators import (
    AmplitudeCreateHoldoutGroupOperator,
    AmplitudeCreateMutexGroupOperator,
    AmplitudeUpdateHoldoutGroupOperator,
    AmplitudeUpdateMutexSlotOperator,
    _edit,
    _groups,
)
from tests.builders import a_context_of_an_hour_ago as a_context
from tests.builders import connect
from tests.watched import seen_requests

KEY = "checkout-tests"
PERSON, OTHER = "ada@example.com", "bob@example.com"
HALVES = [{"percentage": 50}, {"percentage": 50}]
OPERATORS = (
    AmplitudeCreateMutexGroupOperator,
    AmplitudeCreateHoldoutGroupOperator,
    AmplitudeUpdateMutexSlotOperator,
    AmplitudeUpdateHoldoutGroupOperator,
)


@pytest.fixture
def amplitude(amplitude_emulator, monkeypatch):
    """The emulator with three experiments: two that wait, one that runs."""
    monkeypatch.setattr(_edit, "SECONDS_BEFORE_ANOTHER_LOOK", 0.0)
    monkeypatch.setattr(_groups, "SECONDS_BEFORE_ANOTHER_LOOK", (0.0, 0.0, 0.0))
    monkeypatch.setattr("airflow_amplitude_experiment.api._retry._wait", lambda _: 0.0)
    for operator in OPERATORS:
        # Airflow 3.3 writes a task's log past ``logging``, where ``caplog`` doesn't see it.
        monkeypatch.setattr(operator, "log", logging.getLogger("tests.groups"))
    amplitude_emulator.add_experiment("pricing", evaluation_mode="remote")
    amplitude_emulator.add_experiment("shipping", evaluation_mode="remote")
    amplitude_emulator.add_experiment("running", evaluation_mode="remote", enabled=True, rollout_percentage=40)
    connect(monkeypatch, amplitude_emulator)
    return amplitude_emulator


def create(context=None, **options):
    options = {"key": KEY, "slots": HALVES, **options}
    return AmplitudeCreateMutexGroupOperator(task_id="t", **options).execute(context or a_context())


def hold_out(context=None, **options):
    options = {"key": KEY, "holdout_percentage": 5, **options}
    return AmplitudeCreateHoldoutGroupOperator(task_id="t", **options).execute(context or a_context())


def slot(context=None, **options):
    names = {} if "mutex_id" in options else {"mutex_key": KEY}
    options = {**names, "slot": 1, **options}
    return AmplitudeUpdateMutexSlotOperator(task_id="t", **options).execute(context or a_context())


def holdout(context=None, **options):
    names = {} if "holdout_id" in options else {"holdout_key": KEY}
    return AmplitudeUpdateHoldoutGroupOperator(task_id="t", **names, **options).execute(context or a_context())


def refused(act, **options):
    with pytest.raises(AirflowFailException) as refusal:
        act(**options)
    return str(refusal.value)


def sent(emulator):
    return [request["method"] for request in emulator.requests()]


def writes(emulator):
    return [request for request in emulator.requests() if request["method"] != "GET"]


def groups_of(emulator, kind="mutexes"):
    return [group for group in emulator.state()[kind] if group["key"] == KEY]


def slots_of(emulator):
    return groups_of(emulator)[0]["slots"]


def an_id(emulator, key):
    return emulator.experiment(key)["id"]


# --- creating a mutex group --------------------------------------------------------------------------------------


def test_a_mutex_group_is_created_with_members_named_by_key_and_id_and_read_back(amplitude, caplog):
    shipping = an_id(amplitude, "shipping")
    amplitude.add_holdout("held", evaluation_mode="remote", holdout_percentage=5)
    slots = [
        {"percentage": 30, "experiments": ["pricing"], "individuals": [PERSON]},
        {"percentage": 70, "experiments": [int(shipping)], "holdouts": ["held"]},
    ]
    context = a_context()
    with caplog.at_level(logging.INFO):
        record = create(context, slots=slots, name="Checkout tests", reason="two tests on one page")
    (post,) = writes(amplitude)
    pricing, held = an_id(amplitude, "pricing"), amplitude.state()["holdouts"][0]["id"]
    assert post["body"] == {
        "projectId": 100001,
        "key": KEY,
        "name": "Checkout tests",
        "evaluationMode": "remote",
        "bucketingKey": "amplitude_id",
        "slots": [
            {"percentage": 30, "experiments": [int(pricing)], "individuals": [PERSON]},
            {"percentage": 70, "experiments": [int(shipping)], "holdouts": [int(held)]},
        ],
    }
    assert datetime.fromisoformat(record.pop("at")).tzinfo is not None
    group = groups_of(amplitude)[0]
    assert record == {
        "kind": "mutex group",
        "key": KEY,
        "id": group["id"],
        "project_id": "100001",
        "url": f"{amplitude.url}/experiment/emulator/100001/config/{group['id']}",
        "created": True,
        "adopted": False,
        "running": [],
        "slots": [
            {"index": 1, "percentage": 30, "experiments": [pricing], "holdouts": [], "individuals": 1},
            {"index": 2, "percentage": 70, "experiments": [shipping], "holdouts": [held], "individuals": 0},
        ],
        "written": True,
        "reason": "two tests on one page",
        "environment": None,
        "dag_id": "rollout",
        "run_id": "manual__1",
        "task_id": "task",
        "map_index": -1,
        "try_number": 1,
    }
    assert json.loads(json.dumps(record)) == record
    assert context["ti"].xcoms == {"amplitude_url": record["url"]}
    own = [each.getMessage() for each in caplog.records if (each.name, each.levelname) == ("tests.groups", "INFO")]
    assert [line for line in own if not line.startswith("AUDIT")] == [
        f"mutex group {KEY}: created (id {group['id']}, project 100001): slot 1 (30 %): 1 experiment, "
        "1 individual; slot 2 (70 %): 1 experiment, 1 holdout group"
    ]


def test_a_group_of_nobody_costs_six_requests(amplitude):
    create()
    assert sent(amplitude) == ["GET"] * 4 + ["POST", "GET"]  # groups, and three kinds that share its keys


def test_a_second_run_reads_and_writes_nothing(amplitude):
    slots = [{"percentage": 100, "experiments": ["pricing"], "individuals": [PERSON]}]
    create(slots=slots)
    amplitude.clear_requests()
    record = create(slots=slots)
    assert (record["created"], record["adopted"], record["written"]) == (False, True, False)
    assert sent(amplitude) == ["GET", "GET"]  # the groups, and the member that is named by key


def test_a_group_whose_members_run_meanwhile_is_adopted(amplitude):
    slots = [{"percentage": 100, "experiments": ["pricing"]}]
    create(slots=slots)
    amplitude.change("pricing", enabled=True, rolloutPercentage=50)
    assert create(slots=slots)["adopted"] is True
    amplitude.change("pricing", enabled=False, archive=True)
    assert create(slots=slots)["adopted"] is True


def test_a_group_that_holds_more_than_described_is_adopted(amplitude):
    create()
    slot(experiments=["pricing"], individuals=[PERSON])
    assert create()["adopted"] is True
    assert len(groups_of(amplitude)) == 1


def test_a_group_that_is_not_as_described_is_refused_and_all_of_it_is_listed(amplitude):
    create(name="Old", slots=[{"percentage": 100}])
    amplitude.clear_requests()
    slots = [{"percentage": 100, "experiments": ["pricing"], "individuals": [PERSON]}]
    text = refused(create, name="New", evaluation_mode="local", slots=slots)
    for words in (
        "name: given 'New', there 'Old'",
        "evaluation_mode: given 'local', there 'remote'",
        f"slot 1: experiment pricing (id {an_id(amplitude, 'pricing')}) not in it",
        "slot 1: 1 individual not in it",
        "AmplitudeUpdateMutexSlotOperator",
    ):
        assert words in text
    assert PERSON not in text
    assert "slots: given 50 % + 50 %, there 100 %" in refused(create)
    assert not writes(amplitude)


@pytest.mark.parametrize("kind", ["flag", "experiment", "holdout"])
def test_a_key_that_another_object_has_is_refused_before_anything_is_sent(amplitude, kind):
    getattr(amplitude, f"add_{kind}")(KEY, **({"holdout_percentage": 5} if kind == "holdout" else {}))
    text = refused(create)
    assert f"the key is taken by {kind}{' group' if kind == 'holdout' else ''} {KEY}" in text
    assert not writes(amplitude)


def test_a_key_that_an_unlisted_archived_group_has_is_told(amplitude, caplog):
    amplitude.add_mutex(KEY, slots=HALVES, deleted=True)
    assert "already taken" in refused(create)
    assert "an archived group keeps its key" in caplog.text
    assert len(groups_of(amplitude)) == 1


def test_an_archived_group_that_is_listed_is_refused(amplitude, monkeypatch):
    amplitude.add_mutex(KEY, slots=HALVES, deleted=True)
    monkeypatch.setattr("airflow_amplitude_experiment.emulator.groups._visible", _all_groups)
    assert "is archived. Nothing was written" in refused(create)
    assert "is archived. Nothing was written" in refused(slot, experiments=["pricing"])
    object_id = groups_of(amplitude)[0]["id"]
    assert "is archived" in refused(slot, mutex_id=object_id, experiments=["pricing"])
    assert not writes(amplitude)


def _all_groups(call, kind):
    return call.store.newest_first(kind)


def test_a_project_must_be_named_to_create_in(amplitude, monkeypatch):
    connect(monkeypatch, amplitude, project_id=None)
    assert "project_id=… on the operator" in refused(create)
    assert not writes(amplitude)
    assert create(project_id=100001)["project_id"] == "100001"
    assert create()["adopted"] is True  # the group's own project is enough to go on with it


def test_a_key_in_two_projects_is_refused_and_both_are_listed(amplitude, monkeypatch):
    two_projects(amplitude, monkeypatch)
    for project in ("100001", "200002"):
        amplitude.add_mutex(KEY, slots=HALVES, project_id=project)
    assert "several projects: 100001, 200002" in refused(create)
    assert create(project_id="200002")["project_id"] == "200002"


def two_projects(emulator, monkeypatch):
    emulator.seed({"projects": [{"id": "200002"}], "keys": [{"key": "both", "projects": ["100001", "200002"]}]})
    connection = json.loads(emulator.airflow_connection(project_id=None, requests_per_second=1000))
    monkeypatch.setenv("AIRFLOW_CONN_AMPLITUDE_EXPERIMENT_DEFAULT", json.dumps({**connection, "password": "both"}))


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"slots": [{"percentage": 50}]}, "sum to 50, but must sum to 100"),
        ({"slots": [{"percentage": 5}] * 21}, "21 slots given; Amplitude takes 1 to 20"),
        ({"slots": [{"percentage": 99.5}, {"percentage": 0.5}]}, "fraction"),
        ({"slots": [{"percentage": 100, "people": []}]}, "'people' is unknown"),
        ({"slots": [{"percentage": 100, "experiments": "pricing"}]}, "slot 1, experiments is 'pricing', but must be"),
        ({"slots": [{"percentage": 100, "experiments": [True]}]}, "slot 1, experiments: item 0 is True"),
        ({"slots": "half and half"}, "must be JSON"),
        ({"slots": {"percentage": 100}}, "must be a list of 1 to 20 slots"),
        ({"evaluation_mode": "edge"}, "one of 'local', 'remote'"),
        ({"evaluation_mode": "local", "bucketing_key": "amplitude_id"}, "gives everyone 'off'"),
        ({"key": " "}, "must name the mutex group"),
    ],
)
def test_what_can_be_seen_to_be_wrong_is_refused_at_parse_time(options, says):
    with pytest.raises(ValueError, match=says):
        AmplitudeCreateMutexGroupOperator(task_id="t", **{"key": KEY, "slots": HALVES, **options})


def test_a_person_in_two_slots_is_refused_at_parse_time_and_not_named():
    slots = [{"percentage": 50, "individuals": [PERSON]}, {"percentage": 50, "individuals": [PERSON]}]
    with pytest.raises(ValueError, match="a person stands in two slots") as refusal:
        AmplitudeCreateMutexGroupOperator(task_id="t", key=KEY, slots=slots)
    assert PERSON not in str(refusal.value)


def test_what_a_template_fills_in_is_checked_when_it_is_known(amplitude):
    with DAG("d", schedule=None):
        operator = AmplitudeCreateMutexGroupOperator(
            task_id="t", key="{{ key }}", slots="{{ slots | tojson }}", name="{{ name }}", while_running="{{ name }}"
        )
    operator.render_template_fields({"key": f" {KEY}\n", "slots": HALVES, "name": "None"})
    assert operator.execute(a_context())["key"] == KEY
    operator.slots = f'[{{"percentage": 100, "individuals": ["{PERSON}"'
    with pytest.raises(AirflowFailException, match="slots is a text, but must be a list") as refusal:
        operator.execute(a_context())
    assert PERSON not in str(refusal.value)


# --- who may be a member -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("act", ["create", "slot", "hold_out", "holdout"])
def test_a_running_member_is_refused_by_name_unless_that_is_meant(amplitude, act, caplog):
    put = {
        "create": lambda **more: create(slots=[{"percentage": 100, "experiments": ["running"]}], **more),
        "slot": lambda **more: (create(), slot(experiments=["running"], **more))[1],
        "hold_out": lambda **more: hold_out(experiments=["running"], **more),
        "holdout": lambda **more: (hold_out(), holdout(experiments=["running"], **more))[1],
    }[act]
    text = refused(put)
    running = f"experiment running (id {an_id(amplitude, 'running')}) is running, enabled at 40 %"
    assert running in text
    assert "while_running=True" in text
    record = put(while_running=True)
    assert record["running"] == [running]
    assert record["written"] is True
    assert f"was changed while members run, as while_running says: {running}" in caplog.text


def test_the_members_of_a_holdout_group_count_too(amplitude):
    amplitude.add_holdout("held", evaluation_mode="remote", experiments=["running"], holdout_percentage=5)
    text = refused(create, slots=[{"percentage": 100, "holdouts": ["held"]}])
    assert "experiment running" in text
    assert "a member of holdout group held" in text


def test_members_whose_list_shows_less_are_read_in_details(amplitude, monkeypatch):
    hold_out(key="held-out", experiments=["running"], while_running=True)
    create()
    iterate = GuardedClient.iterate
    hidden = {"holdouts.list": ("experiments",), "experiments.list": ("enabled", "evaluation_mode")}

    def sparse(self, call):
        for row in iterate(self, call):
            yield row.model_copy(update=dict.fromkeys(hidden.get(call.endpoint, ())))

    monkeypatch.setattr(GuardedClient, "iterate", sparse)
    assert "running, enabled at 40 %, a member of holdout group held-out" in refused(slot, holdouts=["held-out"])
    assert slot(experiments=["pricing"])["written"] is True


def test_a_running_member_does_not_leave_either(amplitude):
    create(slots=[{"percentage": 100, "experiments": ["running", "pricing"]}], while_running=True)
    amplitude.clear_requests()
    for options in ({"mode": "remove", "experiments": ["running"]}, {"mode": "replace", "experiments": []}):
        assert "experiment running" in refused(slot, **options)
    assert not writes(amplitude)
    assert slot(mode="remove", experiments=["pricing"])["removed"] == {"experiments": [an_id(amplitude, "pricing")]}


def test_an_archived_member_and_one_that_is_gone_may_leave(amplitude):
    create(slots=[{"percentage": 100, "experiments": ["pricing", "shipping"]}])
    amplitude.change("pricing", enabled=True, archive=True)
    amplitude.fault("status", method="GET", path=f"*/experiments/{an_id(amplitude, 'shipping')}", status=404)
    assert slot(mode="replace", experiments=[])["experiments"] == []


def test_members_that_cannot_be_are_refused_all_at_once(amplitude, monkeypatch):
    two_projects(amplitude, monkeypatch)
    amplitude.add_experiment("local", evaluation_mode="local")
    amplitude.add_experiment("far", project_id="200002", deployments=[])
    amplitude.change("shipping", archive=True)
    far = amplitude.experiment("far", project_id="200002")["id"]
    members = ["local", far, "shipping", "999999"]
    text = refused(create, project_id="100001", slots=[{"percentage": 100, "experiments": members}])
    for words in (
        "experiment local (id",
        "is evaluated locally, and the group remotely; a local member needs a local group",
        f"experiment far (id {far}) belongs to project 200002, not 100001",
        "is archived",
        "there is no experiment 999999",
    ):
        assert words in text
    assert not writes(amplitude)


def test_a_local_member_fits_a_local_group_and_a_remote_one_fits_either(amplitude):
    amplitude.add_experiment("local", evaluation_mode="local")
    slots = [{"percentage": 100, "experiments": ["local", "pricing"]}]
    assert len(create(slots=slots, evaluation_mode="local")["slots"][0]["experiments"]) == 2


def test_keys_that_name_nothing_are_told_all_at_once(amplitude):
    amplitude.add_flag("a-flag")
    text = refused(create, slots=[{"percentage": 100, "experiments": ["prising", "a-flag", "pricing"]}])
    assert "there is no experiment prising, a-flag in project 100001, archived ones included" in text
    assert "a flag can't be a member" in text
    assert not writes(amplitude)


def test_digits_are_an_id_and_never_a_key(amplitude):
    amplitude.add_experiment("2024")
    assert "there is no experiment 2024" in refused(create, slots=[{"percentage": 100, "experiments": ["2024"]}])


def test_a_frozen_member_gets_no_more_people(amplitude, monkeypatch):
    slots = [{"percentage": 50, "experiments": ["running"]}, {"percentage": 50}]
    create(slots=slots, while_running=True)
    monkeypatch.setattr(Variable, "get", lambda key, **_: '["running"]' if key == VARIABLE else None)
    assert "freezes running" in refused(slot, slot=2, experiments=["running"], while_running=True)
    assert slots_of(amplitude)[1]["experiments"] == []


# --- a create that does not end well -----------------------------------------------------------------------------

APPLIED = {
    "cut off after it was applied": ("cut_after", {}),
    "truncated": ("truncated", {}),
    "500 after it was applied": ("status", {"status": 500, "after": True}),
}
NOT_APPLIED = {
    "cut off before": ("cut_before", {}, AmplitudeConnectionError),
    "500 without effect": ("status", {"status": 500}, AmplitudeServerError),
}
MEMBERS = [{"percentage": 100, "experiments": ["pricing"], "individuals": [PERSON]}]


@pytest.mark.parametrize(("fault", "details"), APPLIED.values(), ids=APPLIED.keys())
def test_a_create_that_was_applied_but_not_answered_is_not_sent_twice(amplitude, fault, details):
    amplitude.fault(fault, method="POST", **details)
    record = create(slots=MEMBERS)
    assert sent(amplitude).count("POST") == 1
    assert len(groups_of(amplitude)) == 1
    assert (record["created"], record["written"]) == (True, True)


@pytest.mark.parametrize(("fault", "details", "error"), NOT_APPLIED.values(), ids=NOT_APPLIED.keys())
def test_a_create_that_was_lost_is_looked_for_and_left_to_another_try(amplitude, fault, details, error):
    amplitude.fault(fault, method="POST", **details)
    with pytest.raises(error):
        create(slots=MEMBERS)
    assert sent(amplitude)[-4:] == ["POST", "GET", "GET", "GET"]
    assert create(a_context(try_number=2), slots=MEMBERS)["created"] is True
    assert len(groups_of(amplitude)) == 1


def test_a_group_that_another_task_made_at_the_same_moment_is_adopted(amplitude, monkeypatch):
    with seen_requests(monkeypatch) as seen:
        seen.before = lambda call: (
            call == "mutexes.create"
            and amplitude.add_mutex(
                KEY, slots=[{"percentage": 100, "experiments": ["pricing"], "individuals": [PERSON]}]
            )
        )
        record = create(slots=MEMBERS)
    assert len(groups_of(amplitude)) == 1
    assert (record["created"], record["adopted"], record["written"]) == (False, True, False)


def test_a_group_that_cannot_be_read_at_once_is_read_again(amplitude):
    amplitude.fault("status", method="GET", path="/api/1/mutexes/*", status=404, times=2)
    assert create()["created"] is True


def test_a_new_group_that_reads_otherwise_than_asked_is_told(amplitude, monkeypatch):
    monkeypatch.setattr("airflow_amplitude_experiment.emulator.build.ids", lambda values: [])
    assert "AmplitudeNotConfirmed" in (text := refused(create, slots=MEMBERS))
    assert "slot 1: experiment pricing" in text


def test_a_refusal_by_amplitude_names_no_person(amplitude, monkeypatch, caplog):
    amplitude.fault("status", method="POST", status=400, body=f"individuals: {PERSON} is not allowed")
    with caplog.at_level(logging.DEBUG):
        text = refused(create, slots=MEMBERS)
    assert "is not allowed" in text
    assert PERSON not in text + caplog.text


# --- the slot of a mutex group -----------------------------------------------------------------------------------


def test_a_member_is_put_into_a_slot_by_its_whole_list_and_read_back(amplitude, caplog):
    create(slots=[{"percentage": 40, "experiments": ["pricing"], "individuals": [PERSON]}, {"percentage": 60}])
    amplitude.clear_requests()
    context = a_context() | {"outlet_events": OutletEventAccessors()}
    with caplog.at_level(logging.INFO):
        record = slot(context, experiments=["shipping"])
    pricing, shipping = an_id(amplitude, "pricing"), an_id(amplitude, "shipping")
    (patch,) = writes(amplitude)
    assert patch["path"].endswith("/slots/1")
    assert patch["body"] == {"experiments": [int(pricing), int(shipping)]}
    assert sent(amplitude) == ["GET", "GET", "PATCH", "GET"]
    shown = ("slot", "percentage", "experiments", "holdouts", "individuals", "added", "removed", "written", "running")
    assert {name: record[name] for name in shown} == {
        "slot": 1,
        "percentage": 40,
        "experiments": [pricing, shipping],
        "holdouts": [],
        "individuals": 1,
        "added": {"experiments": [shipping]},
        "removed": {},
        "written": True,
        "running": [],
    }
    assert (
        f"mutex group {KEY}: added experiment shipping (id {shipping}); now slot 1 (40 %): 2 experiments, 1 individual"
        in caplog.text
    )
    assert context["ti"].xcoms["amplitude_url"].endswith(record["id"])
    (event,) = next(iter(context["outlet_events"]._dict.values())).asset_alias_events
    assert event.dest_asset_key.uri == f"amplitude-experiment://100001/mutex%20group/{KEY}"


def test_what_stands_already_costs_reads_only(amplitude):
    create(slots=[{"percentage": 100, "experiments": ["running"], "individuals": [PERSON]}], while_running=True)
    amplitude.clear_requests()
    for mode in ("add", "replace"):
        assert slot(mode=mode, experiments=["running"], individuals=[PERSON])["written"] is False
    assert slot(mode="remove", experiments=["pricing"], individuals=[OTHER])["written"] is False
    assert slot(experiments=[an_id(amplitude, "running")])["written"] is False
    assert sent(amplitude) == ["GET"] * 7  # each the groups, and each key that is named


def test_a_list_is_replaced_and_the_others_stay(amplitude):
    create(slots=[{"percentage": 100, "experiments": ["pricing"], "individuals": [PERSON]}])
    record = slot(mode="replace", experiments=["shipping"])
    (kept,) = slots_of(amplitude)
    assert kept["experiments"] == [an_id(amplitude, "shipping")]
    assert kept["individuals"] == [PERSON]
    assert record["removed"] == {"experiments": [an_id(amplitude, "pricing")]}


def test_people_are_counted_and_never_named(amplitude, caplog):
    create()
    with caplog.at_level(logging.DEBUG):
        record = slot(individuals=[PERSON, OTHER, PERSON])
        slot(mode="remove", individuals=[OTHER])
    assert slots_of(amplitude)[0]["individuals"] == [PERSON]
    assert (record["individuals"], record["added"]) == (2, {"individuals": 2})
    assert "added 2 individuals" in caplog.text
    assert PERSON not in json.dumps(record) + _above_debug(caplog)
    assert OTHER not in json.dumps(record) + _above_debug(caplog)


def _above_debug(caplog):
    return "\n".join(each.getMessage() for each in caplog.records if each.levelno > logging.DEBUG)


def test_a_member_of_several_slots_gets_the_people_of_all_of_them_and_that_is_told(amplitude, caplog):
    create(slots=[{"percentage": 30, "experiments": ["pricing"]}, {"percentage": 20}, {"percentage": 50}])
    with caplog.at_level(logging.INFO):
        slot(slot=2, experiments=["pricing"])
    name = f"experiment pricing (id {an_id(amplitude, 'pricing')})"
    assert f"{name} is in slots 1, 2: 50 % of people" in caplog.text


def test_a_person_does_not_stand_in_two_slots(amplitude):
    create(slots=[{"percentage": 50, "individuals": [PERSON]}, {"percentage": 50}])
    text = refused(slot, slot=2, individuals=[PERSON, OTHER])
    assert "slot 1 holds 1 individual of those given" in text
    assert PERSON not in text
    assert slots_of(amplitude)[1]["individuals"] == []


def test_a_slot_with_cohorts_is_left_alone(amplitude):
    amplitude.add_mutex(KEY, slots=[{"percentage": 100, "cohorts": ["c1"]}])
    assert "it holds 1 cohort(s), which the API shows and can't write" in refused(slot, experiments=["pricing"])
    assert slot(mode="remove", experiments=["pricing"])["written"] is False
    assert not writes(amplitude)


def test_a_slot_is_named_by_its_own_index(amplitude):
    create()
    assert f"mutex group {KEY}, slot 3: there is no slot 3. Nothing was written. Its slots: 1 (50 %), 2 (50 %)" in (
        refused(slot, slot=3, experiments=["pricing"])
    )
    assert refused(slot, slot=0, experiments=["pricing"])


def test_where_a_list_shows_less_the_details_are_read(amplitude, monkeypatch):
    create(slots=[{"percentage": 100, "individuals": [PERSON]}])
    iterate = GuardedClient.iterate

    def sparse(self, call):
        for row in iterate(self, call):
            yield row.model_copy(update={"slots": None}) if call.endpoint == "mutexes.list" else row

    monkeypatch.setattr(GuardedClient, "iterate", sparse)
    assert slot(experiments=["pricing"])["individuals"] == 1


def test_a_group_is_found_by_id_too(amplitude):
    object_id = create()["id"]
    assert slot(mutex_id=int(object_id), experiments=["pricing"])["id"] == object_id
    assert "answered 404" in refused(slot, mutex_id="999999", experiments=["pricing"])


def test_a_group_that_is_not_there_is_told(amplitude):
    assert f"there is no mutex group {KEY} in project 100001" in refused(slot, experiments=["pricing"])


def test_an_id_of_another_project_or_of_an_unnamed_one_is_refused(amplitude, monkeypatch):
    two_projects(amplitude, monkeypatch)
    amplitude.add_experiment("far", project_id="200002", deployments=[])
    amplitude.add_mutex(KEY, slots=HALVES)
    object_id = groups_of(amplitude)[0]["id"]
    text = refused(slot, mutex_id=object_id, project_id="200002", experiments=["pricing"])
    assert "belongs to project 100001, not 200002" in text
    assert "100001, 200002" in refused(slot, mutex_id=object_id, experiments=["pricing"])
    assert not writes(amplitude)


def test_where_amplitude_appends_what_should_go_is_told_to_be_there_still(amplitude):
    create(slots=[{"percentage": 100, "experiments": ["pricing"], "individuals": [PERSON]}])
    amplitude.options(slot_lists="append")
    assert slot(experiments=["shipping"])["written"] is True
    text = refused(slot, mode="remove", experiments=["pricing"], individuals=[PERSON])
    assert "AmplitudeNotConfirmed" in text
    assert f"it still holds experiment pricing (id {an_id(amplitude, 'pricing')})" in text
    assert "it still holds 1 individual" in text


def test_what_is_lost_beside_the_change_is_told(amplitude, monkeypatch):
    create(slots=[{"percentage": 100, "individuals": [PERSON]}])
    with seen_requests(monkeypatch) as seen:
        seen.after = lambda call: call == "mutexes.update_slot" and _without_people(amplitude)
        text = refused(slot, experiments=["pricing"])
    assert "it lacks 1 individual" in text


def _without_people(emulator):
    (thing,) = [each for each in emulator.world.store.things.values() if each.key == KEY]
    thing.data["slots"][0]["individuals"] = []


@pytest.mark.parametrize("fault", ["cut_after", "cut_before"])
def test_a_change_whose_answer_is_lost_is_done_once_in_the_end(amplitude, fault):
    create()
    amplitude.fault(fault, method="PATCH")
    assert slot(experiments=["pricing"])["experiments"] == [an_id(amplitude, "pricing")]


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    before=st.sets(st.sampled_from(["pricing", "shipping", "returns"])),
    named=st.lists(st.sampled_from(["pricing", "shipping", "returns"])),
    people=st.tuples(st.sets(st.sampled_from("abc")), st.lists(st.sampled_from("abc"))),
    mode=st.sampled_from(["add", "remove", "replace"]),
    crash=st.sampled_from(["cut_after", "cut_before", None]),
)
def test_whoever_is_there_and_wherever_a_task_dies_the_slot_ends_as_wanted(
    amplitude, before, named, people, mode, crash
):
    amplitude.reset()
    ids = {
        key: amplitude.add_experiment(key, evaluation_mode="remote")["id"] for key in ("pricing", "shipping", "returns")
    }
    amplitude.add_mutex(
        KEY, slots=[{"percentage": 100, "experiments": sorted(before), "individuals": sorted(people[0])}]
    )
    asked = {"mode": mode, "experiments": named, "individuals": people[1]}
    if crash:
        amplitude.fault(crash, method="PATCH", times=None)
        with contextlib.suppress(AmplitudeConnectionError):
            slot(**asked)
        amplitude.clear_faults()
    slot(**asked)
    wanted = {
        "add": lambda there, given: there | given,
        "remove": lambda there, given: there - given,
        "replace": lambda there, given: given,
    }[mode]
    (stands,) = slots_of(amplitude)
    assert sorted(stands["experiments"]) == sorted(ids[key] for key in wanted(before, set(named)))
    assert sorted(stands["individuals"]) == sorted(wanted(people[0], set(people[1])))
    amplitude.clear_requests()
    assert slot(**asked)["written"] is False
    assert not writes(amplitude)


def test_what_a_crash_left_behind_a_rerun_completes(amplitude):
    create()
    amplitude.fault("status", method="GET", path="*/mutexes/*", status=500, times=None)
    with pytest.raises(AmplitudeServerError):
        slot(experiments=["pricing"])
    amplitude.clear_faults()
    amplitude.clear_requests()
    record = slot(a_context(try_number=2), experiments=["pricing"])
    assert record["experiments"] == [an_id(amplitude, "pricing")]
    assert not writes(amplitude)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({}, "at least one of experiments, holdouts, individuals"),
        ({"experiments": ["a"], "mutex_id": "1"}, "given: both"),
        ({"experiments": ["a"], "mutex_key": None}, "given: none"),
        ({"experiments": ["a"], "slot": "one"}, "slot is 'one', but must be the index of a slot"),
        ({"experiments": ["a"], "mode": "set"}, "one of 'add', 'remove', 'replace'"),
        ({"individuals": "[" + PERSON}, "individuals is a text, but must be a list"),
    ],
)
def test_what_is_wrong_with_a_slot_is_refused_at_parse_time(options, says):
    with pytest.raises(ValueError, match=says) as refusal:
        AmplitudeUpdateMutexSlotOperator(task_id="t", **{"mutex_key": KEY, "slot": 1, **options})
    assert PERSON not in str(refusal.value)


def test_a_slots_templates_are_rendered_first(amplitude):
    create()
    with DAG("d", schedule=None):
        operator = AmplitudeUpdateMutexSlotOperator(
            task_id="t", mutex_key="{{ key }}", slot="{{ one }}", experiments=["{{ who }}"], mode="{{ none }}"
        )
    operator.render_template_fields({"key": KEY, "one": 2, "who": "pricing", "none": None})
    assert operator.execute(a_context())["slot"] == 2


# --- holdout groups ----------------------------------------------------------------------------------------------


def test_a_holdout_group_is_created_and_read_back(amplitude, caplog):
    people = {"individual_inclusion": [PERSON], "individual_exclusion": [OTHER]}
    with caplog.at_level(logging.INFO):
        record = hold_out(experiments=["pricing"], description="Q4", **people)
    (post,) = writes(amplitude)
    assert post["body"] == {
        "projectId": 100001,
        "key": KEY,
        "name": KEY,
        "description": "Q4",
        "holdoutPercentage": 5,
        "evaluationMode": "remote",
        "bucketingKey": "amplitude_id",
        "experiments": [int(an_id(amplitude, "pricing"))],
        "individualInclusion": [PERSON],
        "individualExclusion": [OTHER],
    }
    shown = ("holdout_percentage", "experiments", "individual_inclusion", "individual_exclusion", "created")
    assert [record[name] for name in shown] == [5, [an_id(amplitude, "pricing")], 1, 1, True]
    assert "5 % held out: 1 experiment, 1 person always held out, 1 person never held out" in caplog.text
    assert PERSON not in json.dumps(record) + _above_debug(caplog)
    amplitude.clear_requests()
    assert hold_out(experiments=["pricing"], description="Q4", **people)["adopted"] is True
    assert not writes(amplitude)


def test_a_percentage_is_fixed_for_ever(amplitude):
    hold_out()
    assert "holdout_percentage: given 6, there 5" in refused(hold_out, holdout_percentage=6)


def test_a_large_holdout_is_warned_of(amplitude, caplog):
    hold_out(holdout_percentage=11)
    assert "A holdout of 11 % is large" in caplog.text


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"holdout_percentage": 0}, "from 1 to 99"),
        ({"holdout_percentage": 100}, "from 1 to 99"),
        ({"holdout_percentage": None}, "holdout_percentage is missing"),
        ({"experiments": [{}]}, "item 0"),
    ],
)
def test_what_is_wrong_with_a_holdout_is_refused_at_parse_time(options, says):
    with pytest.raises(ValueError, match=says):
        AmplitudeCreateHoldoutGroupOperator(task_id="t", **{"key": KEY, "holdout_percentage": 5, **options})


def test_nobody_is_held_out_always_and_never(amplitude):
    text = refused(hold_out, individual_inclusion=[PERSON], individual_exclusion=[PERSON])
    assert "1 ids stand in individual_inclusion and in individual_exclusion" in text
    assert not amplitude.requests()
    hold_out(individual_inclusion=[PERSON])
    text = refused(holdout, individual_exclusion=[PERSON, OTHER])
    assert "1 of the people would be held out always and never at once" in text
    assert PERSON not in text


def test_a_holdout_groups_members_and_texts_change_in_one_request(amplitude, caplog):
    hold_out(experiments=["pricing"], individual_inclusion=[PERSON])
    amplitude.clear_requests()
    with caplog.at_level(logging.INFO):
        record = holdout(mode="replace", experiments=["shipping"], name="Q1", description="Less")
    (patch,) = writes(amplitude)
    assert patch["body"] == {"experiments": [int(an_id(amplitude, "shipping"))], "name": "Q1", "description": "Less"}
    (group,) = groups_of(amplitude, "holdouts")
    assert (group["name"], group["individualInclusion"]) == ("Q1", [PERSON])
    assert record["updated"] == ["description", "name"]
    assert record["removed"] == {"experiments": [an_id(amplitude, "pricing")]}
    assert "changed name" in caplog.text
    amplitude.clear_requests()
    assert holdout(mode="replace", experiments=["shipping"], name="Q1")["written"] is False
    assert not writes(amplitude)


def test_a_list_that_amplitude_does_not_show_is_not_written(amplitude, monkeypatch):
    hold_out(individual_inclusion=[PERSON])
    shown = shapes.holdout
    monkeypatch.setattr(
        shapes,
        "holdout",
        lambda *given: {name: value for name, value in shown(*given).items() if name != "individualInclusion"},
    )
    amplitude.clear_requests()
    assert "Amplitude does not show its individual_inclusion" in refused(holdout, individual_inclusion=[OTHER])
    assert not writes(amplitude)
    assert holdout(experiments=["pricing"])["written"] is True


def test_a_holdout_group_is_found_by_id_too(amplitude):
    object_id = hold_out()["id"]
    assert holdout(holdout_id=object_id, experiments=["pricing"])["id"] == object_id


def test_an_update_of_nothing_is_refused(amplitude):
    with pytest.raises(ValueError, match="give at least one of experiments, individual_inclusion"):
        holdout()
    with DAG("d", schedule=None):
        operator = AmplitudeUpdateHoldoutGroupOperator(task_id="t", holdout_key=KEY, experiments="{{ none }}")
    operator.render_template_fields({"none": None})
    with pytest.raises(AirflowFailException, match="Nothing is to be changed"):
        operator.execute(a_context())
    assert not amplitude.requests()


# --- what holds for all ------------------------------------------------------------------------------------------

ACTS = {"create": create, "hold_out": hold_out}


@pytest.mark.parametrize("act", ACTS)
def test_a_read_only_connection_says_what_would_be_created(amplitude, monkeypatch, caplog, act):
    connect(monkeypatch, amplitude, mode="read_only")
    with caplog.at_level(logging.INFO):
        record = ACTS[act]()
    assert (record["key"], record["project_id"], record["created"], record["written"]) == (KEY, "100001", False, False)
    assert "would be created (read-only, not sent)" in caplog.text
    assert not writes(amplitude)


def test_a_read_only_connection_says_what_would_be_changed(amplitude, monkeypatch, caplog):
    create()
    hold_out(key="held")
    amplitude.clear_requests()
    connect(monkeypatch, amplitude, mode="read_only")
    with caplog.at_level(logging.INFO):
        record = slot(experiments=["pricing"])
    assert (record["written"], record["experiments"]) == (False, [])
    assert record["added"] == {"experiments": [an_id(amplitude, "pricing")]}
    assert "would be changed (read-only, not sent): added experiment pricing" in caplog.text
    assert not writes(amplitude)


@pytest.mark.parametrize("operator", OPERATORS)
def test_a_run_of_the_past_is_skipped(amplitude, operator):
    names = {
        AmplitudeCreateMutexGroupOperator: {"key": KEY, "slots": HALVES},
        AmplitudeCreateHoldoutGroupOperator: {"key": KEY, "holdout_percentage": 5},
        AmplitudeUpdateMutexSlotOperator: {"mutex_key": KEY, "slot": 1, "experiments": ["pricing"]},
        AmplitudeUpdateHoldoutGroupOperator: {"holdout_key": KEY, "experiments": ["pricing"]},
    }
    with pytest.raises(AirflowSkipException):
        operator(task_id="t", **names[operator]).execute(a_context(run_type="backfill"))
    assert not amplitude.requests()


def test_a_rule_of_the_connection_stops_a_create_and_a_change(amplitude, monkeypatch):
    connect(monkeypatch, amplitude, require_reason=True)
    assert "require_reason" in refused(create)
    create(reason="the platform team asked")
    assert "require_reason" in refused(slot, experiments=["pricing"])


def test_every_write_leaves_an_audit_line_before_and_after_it(amplitude, caplog):
    with caplog.at_level(logging.INFO):
        create(slots=MEMBERS)
        slot(experiments=["shipping"], individuals=[OTHER])
    lines = [each.getMessage() for each in caplog.records if each.getMessage().startswith("AUDIT")]
    said = [json.loads(line.removeprefix("AUDIT ")) for line in lines]
    assert [(each["step"], each["call"]) for each in said] == [
        ("intent", "mutexes.create"),
        ("result", "mutexes.create"),
        ("intent", "mutexes.update_slot"),
        ("result", "mutexes.update_slot"),
    ]
    assert said[2]["added"] == {"experiments": [an_id(amplitude, "shipping")], "individuals": 1}
    assert (said[2]["kind"], said[2]["key"], said[2]["slot"]) == ("mutex group", KEY, 1)
    assert not any(person in line for line in lines for person in (PERSON, OTHER))


@pytest.mark.parametrize(
    "options",
    [{"fields": "full"}, {"ids": "number"}, {"member_ids": "string"}, {"end_of_list": "null", "patch_body": "json"},
     {"default_limit": 1}],
    ids=str,
)  # fmt: skip
def test_however_amplitude_answers_a_second_run_writes_nothing(amplitude, options):
    amplitude.options(**options)
    amplitude.add_mutex(f"{KEY}-2", slots=HALVES)
    for _ in range(2):
        create(slots=MEMBERS)
        slot(experiments=["shipping"])
        hold_out(key="held", experiments=["pricing"])
    assert [request["method"] for request in writes(amplitude)] == ["POST", "PATCH", "POST"]
