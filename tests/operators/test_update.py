"""Updating against the emulator over real HTTP: what is sent, what is refused, what it costs."""

from __future__ import annotations

import json
import logging
from datetime import UTC, datetime

import pytest
from airflow.providers.common.compat.sdk import AirflowFailException, AirflowSkipException, AssetAlias
from airflow.sdk import DAG, BaseOperator
from airflow.sdk.execution_time.context import OutletEventAccessors

from airflow_amplitude_experiment.api._call import find_endpoint
from airflow_amplitude_experiment.operators import AmplitudeUpdateOperator, _edit
from airflow_amplitude_experiment.operators._assets import WRITES
from airflow_amplitude_experiment.operators.update import FIELDS
from tests.builders import a_context, a_segment, connect
from tests.watched import Killed, dying, seen_requests

KEY = "new-checkout"
EXPERIMENT = "search-ranking"
SPLIT = {"control": 1, "treatment": 1}
BETA = a_segment(rolloutWeights=SPLIT)
STAFF = a_segment("Staff", 100, rolloutWeights=SPLIT)
LIVE = {"enabled": True, "rolloutPercentage": 25}
BANDIT = {**LIVE, "experimentType": "multi-arm-bandit"}
COHORT = {"type": "cohort", "prop": "cohort", "op": "is", "values": ["1a2b"]}


@pytest.fixture
def amplitude(amplitude_emulator, monkeypatch):
    """The emulator with a live flag and a live experiment with two segments, and a connection to it."""
    monkeypatch.setattr(_edit, "SECONDS_BEFORE_ANOTHER_LOOK", 0.0)
    monkeypatch.setattr("airflow_amplitude_experiment.api._retry._wait", lambda _: 0.0)
    # Airflow 3.3 writes a task's log past ``logging``, where ``caplog`` doesn't see it.
    monkeypatch.setattr(AmplitudeUpdateOperator, "log", logging.getLogger("tests.update"))
    connect(monkeypatch, amplitude_emulator)
    amplitude_emulator.add_flag(KEY, **LIVE, name="Old name", tags=["shop"])
    add_experiment(amplitude_emulator, EXPERIMENT, **LIVE)
    amplitude_emulator.clear_requests()
    return amplitude_emulator


def add_experiment(emulator, key, **fields):
    described = {
        "variants": [{"key": "control"}, {"key": "treatment"}],
        "rolloutWeights": SPLIT,
        "targetSegments": [BETA, STAFF],
        "endDate": "2026-12-24",
        "tags": ["search"],
    }
    return emulator.add_experiment(key, **{**described, **fields})


def update(context=None, **options):
    named = {} if {"flag_key", "flag_id", "experiment_key"} & options.keys() else {"flag_key": KEY}
    return AmplitudeUpdateOperator(task_id="update", **named, **options).execute(context or a_context())


def update_experiment(context=None, **options):
    return update(context, experiment_key=EXPERIMENT, **options)


def sent(emulator):
    return [request["method"] for request in emulator.requests()]


def patches(emulator):
    return [request["body"] for request in emulator.requests() if request["method"] != "GET"]


def segments(emulator, key=EXPERIMENT):
    return emulator.experiment(key)["targetSegments"]


# --- what is sent -------------------------------------------------------------------------------------------------


def test_only_what_differs_is_sent_in_one_request_and_read_back(amplitude, caplog):
    with caplog.at_level(logging.INFO):
        record = update(name="New name", description="One page", bucketing_key="user_id", reason="wording")
    assert sent(amplitude) == ["GET", "PATCH", "GET"]
    assert patches(amplitude) == [{"name": "New name", "description": "One page"}]
    assert (record["updated"], record["written"]) == (["description", "name"], True)
    assert (record["unverified"], record["segments_removed"], record["reshuffle"]) == ([], [], None)
    assert (record["key"], record["reason"]) == (KEY, "wording")
    assert json.loads(json.dumps(record)) == record
    own = [each.getMessage() for each in caplog.records if (each.name, each.levelname) == ("tests.update", "INFO")]
    assert [line for line in own if not line.startswith("AUDIT")] == [f"flag {KEY}: updated description, name"]


def test_switch_and_percentage_stay_as_they_are(amplitude):
    before = amplitude.flag(KEY)
    update(name="New name")
    after = amplitude.flag(KEY)
    assert {name for name in after if after[name] != before[name]} <= {"name", "lastModifiedAt", "lastModifiedBy"}


def test_where_nothing_differs_it_costs_one_read(amplitude, caplog):
    with caplog.at_level(logging.INFO):
        record = update(name="Old name", bucketing_key="user_id")
    assert sent(amplitude) == ["GET"]
    assert (record["updated"], record["written"]) == ([], False)
    assert f"flag {KEY}: stands as asked, nothing to do" in caplog.text


def test_a_second_run_changes_nothing(amplitude):
    options = {
        "name": "Ranking",
        "add_tags": ["new"],
        "segment": "Staff",
        "segment_changes": {"name": "Employees", "conditions": BETA["conditions"]},
        "experiment_end_date": "2027-01-31",
        "clear": ["description"],
    }
    assert update_experiment(**options)["written"] is True
    stands = amplitude.experiment(EXPERIMENT)
    amplitude.clear_requests()
    assert update_experiment(**options)["written"] is False
    assert not patches(amplitude)
    assert amplitude.experiment(EXPERIMENT) == stands


SIMPLE = {
    "name": ("name", "Other", "Other"),
    "description": ("description", "Other", "Other"),
    "evaluation_mode": ("evaluationMode", "remote", "remote"),
    "bucketing_key": ("bucketingKey", "device_id", "device_id"),
    "bucketing_salt": ("bucketingSalt", "salt", "salt"),
    "bucketing_unit": ("bucketingUnit", "org id", "org id"),
    "experiment_type": ("experimentType", "multi-arm-bandit", "multi-arm-bandit"),
    "experiment_start_date": ("startDate", "2027-01-01", "2027-01-01T00:00:00.000Z"),
    "experiment_end_date": ("endDate", datetime(2027, 1, 1, 12, tzinfo=UTC), "2027-01-01T12:00:00.000Z"),
    "sticky_bucketing": ("stickyBucketing", True, True),
    "tags": ("tags", ["a"], ["a"]),
    "target_segments": ("targetSegments", [], []),
    "exposure_event": ("exposureEvent", {"event_type": "Seen", "filters": []}, {"event_type": "Seen", "filters": []}),
}


@pytest.mark.parametrize("argument", SIMPLE)
def test_every_field_can_be_changed_while_nobody_was_served(amplitude, argument):
    add_experiment(amplitude, "quiet")
    field, value, stands = SIMPLE[argument]
    record = update(experiment_key="quiet", **{argument: value})
    assert record["updated"] == [argument]
    assert [list(body) for body in patches(amplitude)] == [[field]]
    assert amplitude.experiment("quiet")[field] == stands


def test_every_documented_field_has_its_argument_or_an_operator_of_its_own():
    elsewhere = {"enabled", "rollout_percentage", "archive", "decision", "decision_reason", "rolled_out_variant"}
    for kind in ("flags", "experiments"):
        taken = find_endpoint(f"{kind}.update").fields.keys() - {"id", "allow_local_amplitude_id"} - elsewhere
        assert taken <= FIELDS.keys()
    assert {*FIELDS} == taken
    arguments = {"start_date": "experiment_start_date", "end_date": "experiment_end_date"}
    assert {arguments.get(name, name) for name in FIELDS} == SIMPLE.keys()


def test_dates_are_compared_by_their_day(amplitude):
    assert update_experiment(experiment_end_date="2026-12-24T18:00:00Z")["written"] is False


@pytest.mark.parametrize(
    ("argument", "field", "stands"),
    [
        ("description", "description", ""),
        ("experiment_end_date", "endDate", None),
        ("exposure_event", "exposureEvent", None),
    ],
)
def test_a_field_can_be_cleared(amplitude, argument, field, stands):
    amplitude.options(fields="full")
    amplitude.change(EXPERIMENT, description="Old", exposureEvent={"event_type": "Seen", "filters": []})
    assert update_experiment(clear=[argument])["updated"] == [argument]
    assert amplitude.experiment(EXPERIMENT)[field] == stands
    amplitude.clear_requests()
    assert update_experiment(clear=[argument])["written"] is False


def test_what_amplitude_does_not_show_is_sent_and_told(amplitude, caplog):
    with caplog.at_level(logging.INFO):
        record = update_experiment(exposure_event={"event_type": "Seen", "filters": []})
    assert (record["updated"], record["unverified"]) == (["exposure_event"], ["exposure_event"])
    assert "can't be verified, as Amplitude does not show it: exposure_event" in caplog.text


# --- tags ---------------------------------------------------------------------------------------------------------


def test_tags_are_added_and_taken_away_and_the_others_stay(amplitude):
    amplitude.change(EXPERIMENT, tags=["one", "two", "three"])
    record = update_experiment(add_tags=["four", "one"], remove_tags=["two", "five"])
    assert sent(amplitude) == ["GET", "GET", "PATCH", "GET"]  # the list does not show tags
    assert patches(amplitude) == [{"tags": ["one", "three", "four"]}]
    assert record["updated"] == ["tags"]


def test_tags_that_stand_as_asked_are_not_written(amplitude):
    assert update_experiment(add_tags=["search"], remove_tags=["gone"])["written"] is False
    assert sent(amplitude) == ["GET", "GET"]


def test_tags_are_not_added_to_what_amplitude_does_not_show(amplitude):
    with pytest.raises(AirflowFailException, match=r"does not show its tags.*tags=…"):
        update(add_tags=["new"])
    assert not patches(amplitude)
    assert amplitude.flag(KEY)["tags"] == ["shop"]


@pytest.mark.parametrize("tags", [["new"], []])
def test_the_whole_list_of_tags_can_be_given_where_it_is_not_shown(amplitude, tags):
    assert update(tags=tags)["unverified"] == ["tags"]
    assert amplitude.flag(KEY)["tags"] == tags


def test_a_whole_list_of_tags_that_only_details_show_is_compared(amplitude):
    assert update_experiment(tags=["search"])["written"] is False
    assert sent(amplitude) == ["GET", "GET"]


def test_tags_in_another_order_are_the_same(amplitude):
    amplitude.options(fields="full")
    amplitude.change(KEY, tags=["a", "b"])
    assert update(tags=["b", "a"])["written"] is False


# --- target segments ----------------------------------------------------------------------------------------------

NEW_CONDITION = [{"type": "property", "prop": "gp:beta", "op": "is", "values": ["yes"]}]


def test_one_segment_changes_and_the_rest_is_written_back_as_it_was_read(amplitude):
    update_experiment(segment="Staff", segment_changes={"conditions": NEW_CONDITION})
    assert patches(amplitude) == [{"targetSegments": [BETA, {**STAFF, "conditions": NEW_CONDITION}]}]


def test_a_segments_own_bucketing_key_is_not_lost(amplitude):
    amplitude.change(EXPERIMENT, targetSegments=[{**BETA, "bucketingKey": "device_id"}, STAFF])
    update_experiment(segment="Staff", segment_changes={"name": "Employees"}, reshuffle="only the name")
    assert [each["bucketingKey"] for each in segments(amplitude)] == ["device_id", "user_id"]


def test_a_segment_can_be_renamed_without_anything_else(amplitude):
    update_experiment(segment="Staff", segment_changes={"name": "Employees"})
    assert segments(amplitude) == [BETA, {**STAFF, "name": "Employees"}]


def test_a_segment_that_an_earlier_try_renamed_is_found(amplitude):
    changes = {"name": "Employees", "conditions": NEW_CONDITION}
    amplitude.change(EXPERIMENT, targetSegments=[BETA, {**STAFF, "name": "Employees"}])
    update_experiment(segment="Staff", segment_changes=changes)
    assert segments(amplitude)[1] == {**STAFF, **changes}


def test_a_segment_is_not_renamed_to_the_name_of_another(amplitude):
    with pytest.raises(AirflowFailException, match="two segments named 'Staff'"):
        update_experiment(segment="Beta testers", segment_changes={"name": "Staff"})
    assert not patches(amplitude)


def test_a_segment_that_is_not_there_is_refused_with_those_there(amplitude):
    with pytest.raises(AirflowFailException, match="no segment named 'Nobody'; there are: 'Beta testers', 'Staff'"):
        update_experiment(segment="Nobody", segment_changes={"name": "x"})


def test_a_segment_may_catch_everyone_only_where_that_is_said(amplitude):
    with pytest.raises(ValueError, match="everyone"):
        update_experiment(segment="Staff", segment_changes={"conditions": []})
    update_experiment(segment="Staff", segment_changes={"conditions": [], "everyone": True})
    assert segments(amplitude)[1]["conditions"] == []
    amplitude.clear_requests()
    update_experiment(segment="Beta testers", segment_changes={"name": "Testers"})  # and is written back
    assert [each["conditions"] for each in segments(amplitude)] == [BETA["conditions"], []]


def test_parts_that_are_left_out_of_the_whole_list_stay(amplitude):
    amplitude.change(EXPERIMENT, targetSegments=[{**BETA, "percentage": 60}, STAFF])
    wanted = [{"name": "Beta testers", "conditions": NEW_CONDITION}, {"name": "Staff"}]
    update_experiment(target_segments=wanted)
    assert segments(amplitude) == [{**BETA, "percentage": 60, "conditions": NEW_CONDITION}, STAFF]
    assert update_experiment(target_segments=wanted)["written"] is False


def test_the_whole_list_brings_its_order_and_removes_what_it_does_not_name(amplitude, caplog):
    with caplog.at_level(logging.INFO):
        record = update_experiment(target_segments=[{"name": "Staff"}])
    assert segments(amplitude) == [STAFF]
    assert record["segments_removed"] == ["Beta testers"]
    assert "updated target_segments; segments removed: 'Beta testers'" in caplog.text
    update_experiment(target_segments=[{**BETA, "percentage": 0}, {"name": "Staff"}])
    assert segments(amplitude) == [{**BETA, "percentage": 0}, STAFF]
    update_experiment(target_segments=[{"name": "Staff"}, {"name": "Beta testers"}])
    assert [each["name"] for each in segments(amplitude)] == ["Staff", "Beta testers"]


@pytest.mark.parametrize(
    ("segment", "says"),
    [
        ({**BETA, "percentage": 50}, "'Beta testers' stands at 10 %, and 50 % is given"),
        ({**BETA, "percentage": 5}, "'Beta testers' stands at 10 %, and 5 % is given"),
        ({**BETA, "name": "New"}, "'New' is new, and its users would get something at once, at 10 %"),
    ],
)
def test_a_segments_percentage_is_a_ramps_to_move(amplitude, segment, says):
    with pytest.raises(AirflowFailException, match=f"{says}.*AmplitudeRampRolloutOperator"):
        update_experiment(target_segments=[segment, {"name": "Staff"}])
    assert not patches(amplitude)


def test_a_new_segment_of_a_disabled_object_may_come_with_its_percentage(amplitude):
    add_experiment(amplitude, "quiet")
    update(experiment_key="quiet", target_segments=[{**BETA, "name": "New"}])
    assert segments(amplitude, "quiet") == [{**BETA, "name": "New"}]


def test_a_new_segment_begins_at_0_percent_and_needs_its_parts(amplitude):
    new = {"name": "New", "conditions": NEW_CONDITION, "rolloutWeights": SPLIT}
    update_experiment(target_segments=[{"name": "Beta testers"}, new])
    assert segments(amplitude)[1]["percentage"] == 0
    with pytest.raises(AirflowFailException, match="'Newer' is not there, and a new one needs 'conditions'"):
        update_experiment(target_segments=[{"name": "Newer"}])


@pytest.mark.parametrize("strange", [{"conditions": [COHORT]}, {"color": "red"}], ids=["cohort", "unknown field"])
def test_a_list_that_cannot_be_written_back_is_not_written(amplitude, strange):
    amplitude.change(EXPERIMENT, targetSegments=[BETA, {**STAFF, **strange}])
    with pytest.raises(AirflowFailException, match="its targeting would be lost"):
        update_experiment(segment="Beta testers", segment_changes={"name": "Testers"})
    with pytest.raises(AirflowFailException, match="its targeting would be lost"):
        update_experiment(target_segments=[{"name": "Beta testers"}])
    assert not patches(amplitude)
    assert update_experiment(segment="Beta testers", segment_changes={"name": "Beta testers"})["written"] is False


# --- law 5 --------------------------------------------------------------------------------------------------------

MOVING = {
    "bucketing_key": {"bucketing_key": "device_id"},
    "bucketing_salt": {"bucketing_salt": "other"},
    "bucketing_unit": {"bucketing_unit": "org id"},
    "evaluation_mode": {"evaluation_mode": "remote"},
    "sticky_bucketing": {"sticky_bucketing": True},
    "experiment_type": {"experiment_type": "multi-arm-bandit"},
    "weights of a segment": {"segment": "Staff", "segment_changes": {"rolloutWeights": {"control": 1}}},
    "bucketing key of a segment": {"segment": "Staff", "segment_changes": {"bucketingKey": "device_id"}},
    "renamed, with other weights": {
        "segment": "Staff",
        "segment_changes": {"name": "Employees", "rolloutWeights": {"control": 1}},
    },
    "a new segment with other weights": {
        "target_segments": [
            {"name": "New", "conditions": NEW_CONDITION, "rolloutWeights": {"treatment": 1}},
            {"name": "Beta testers"},
            {"name": "Staff"},
        ]
    },
}


@pytest.mark.parametrize("asked", MOVING.values(), ids=MOVING.keys())
@pytest.mark.parametrize("on_now", [True, False])
def test_what_moves_users_of_an_object_ever_served_needs_a_word(amplitude, asked, on_now):
    if not on_now:
        amplitude.change(EXPERIMENT, enabled=False)
    with pytest.raises(AirflowFailException, match=r"moves users between variants: .*reshuffle=…"):
        update_experiment(**asked)
    assert not patches(amplitude)
    record = update_experiment(**asked, reshuffle="nobody has seen it")
    assert (record["written"], record["reshuffle"]) == (True, "nobody has seen it")


@pytest.mark.parametrize("asked", MOVING.values(), ids=MOVING.keys())
def test_what_moves_users_of_a_running_bandit_is_refused_whatever_is_said(amplitude, asked):
    add_experiment(amplitude, "bandit", **BANDIT)
    asked = {**asked, "experiment_type": "a-b-test"} if "experiment_type" in asked else asked
    with pytest.raises(AirflowFailException, match="is a running bandit"):
        update(experiment_key="bandit", **asked, reshuffle="I insist")
    assert not patches(amplitude)


def test_a_running_bandit_can_be_renamed_and_tagged(amplitude):
    add_experiment(amplitude, "bandit", **BANDIT)
    assert update(experiment_key="bandit", name="Bandit", add_tags=["b"])["updated"] == ["name", "tags"]


def test_versions_are_read_only_where_that_decides(amplitude):
    add_experiment(amplitude, "quiet")
    update(experiment_key="quiet", bucketing_salt="other")
    assert [request["path"].endswith("/versions") for request in amplitude.requests()] == [False, True, False, False]
    amplitude.clear_requests()
    update_experiment(name="Live", bucketing_salt=amplitude.experiment(EXPERIMENT)["bucketingSalt"])
    assert sent(amplitude) == ["GET", "PATCH", "GET"]


def test_who_a_segment_catches_may_change_where_all_are_split_alike(amplitude):
    assert update_experiment(segment="Staff", segment_changes={"conditions": NEW_CONDITION})["written"] is True
    amplitude.change(EXPERIMENT, targetSegments=[BETA, {**STAFF, "rolloutWeights": {"treatment": 1}}])
    with pytest.raises(AirflowFailException, match="split by other weights"):
        update_experiment(segment="Staff", segment_changes={"conditions": STAFF["conditions"] + NEW_CONDITION})


@pytest.mark.parametrize(
    ("there", "asked"),
    [
        ({"bucketingKey": "amplitude_id", "evaluationMode": "remote"}, {"evaluation_mode": "local"}),
        ({"bucketingKey": "user_id", "evaluationMode": "local"}, {"bucketing_key": "amplitude_id"}),
    ],
)
def test_local_evaluation_by_amplitude_id_is_refused_also_where_half_of_it_is_there(amplitude, there, asked):
    add_experiment(amplitude, "quiet", **there)
    with pytest.raises(AirflowFailException, match="gives everyone 'off'"):
        update(experiment_key="quiet", **asked)
    assert not patches(amplitude)


# --- what can go wrong --------------------------------------------------------------------------------------------


def test_an_archived_object_is_refused(amplitude):
    amplitude.add_flag("old", deleted=True)
    with pytest.raises(AirflowFailException, match="is archived"):
        update(flag_key="old", name="x")
    with pytest.raises(AirflowFailException, match="is archived"):
        update(flag_id=amplitude.flag("old")["id"], name="x")
    assert not patches(amplitude)


def test_an_object_that_the_api_cannot_edit_is_told(amplitude):
    add_experiment(amplitude, "page", kind="web")
    with pytest.raises(AirflowFailException, match="AmplitudeNotEditable"):
        update(experiment_key="page", name="x")


@pytest.mark.parametrize("fault", ["cut_after", "truncated"])
def test_a_write_that_was_applied_but_not_answered_is_not_sent_twice(amplitude, fault):
    amplitude.fault(fault, method="PATCH")
    record = update_experiment(segment="Staff", segment_changes={"name": "Employees"}, add_tags=["a"])
    assert len(patches(amplitude)) == 1
    assert (record["updated"], record["written"]) == (["tags", "target_segments"], True)


def test_a_write_that_was_lost_is_decided_anew(amplitude):
    amplitude.fault("cut_before", method="PATCH")
    asked = {"segment": "Staff", "segment_changes": {"name": "Employees"}}
    assert update_experiment(**asked)["written"] is True
    assert len(patches(amplitude)) == 2
    assert segments(amplitude)[1]["name"] == "Employees"


@pytest.mark.parametrize("fault", ["cut_before", "cut_after"])
def test_what_somebody_added_while_an_answer_was_lost_is_not_lost(amplitude, monkeypatch, fault):
    def somebody(call):
        if call == "experiments.update" and not done:
            done.append(amplitude.change(EXPERIMENT, tags=[*amplitude.experiment(EXPERIMENT)["tags"], "theirs"]))

    done = []
    amplitude.fault(fault, method="PATCH")
    with seen_requests(monkeypatch) as seen:
        seen.after = somebody
        # a list of segments is never repeated blindly, so the task itself looks again
        asked = {"segment": "Staff", "segment_changes": {"name": "Employees"}}
        record = update_experiment(add_tags=["ours"], **asked)
    assert {*amplitude.experiment(EXPERIMENT)["tags"]} == {"search", "theirs", "ours"}
    assert (record["updated"], record["written"]) == (["tags", "target_segments"], True)


@pytest.mark.parametrize("asked", [{"name": "x"}, {"segment": "Staff", "segment_changes": {"name": "x"}}], ids=str)
def test_a_write_without_effect_is_told_and_not_repeated(amplitude, asked):
    amplitude.options(approvals="pending")
    with pytest.raises(AirflowFailException, match=r"AmplitudeNotConfirmed.*does not stand as asked.*approval"):
        update_experiment(**asked)
    assert len(patches(amplitude)) == 1


def test_a_read_only_connection_decides_and_sends_nothing(amplitude, monkeypatch, caplog):
    connect(monkeypatch, amplitude, mode="read_only")
    with caplog.at_level(logging.INFO):
        record = update(name="New name")
    assert (record["updated"], record["written"]) == (["name"], False)
    assert f"flag {KEY}: would be updated: name (read-only, not sent)" in caplog.text
    assert sent(amplitude) == ["GET"]


@pytest.mark.parametrize(
    ("rules", "says"), [({"deny_keys": "new-*"}, "deny_keys"), ({"require_reason": True}, "reason")]
)
def test_the_connections_rules_hold(amplitude, monkeypatch, rules, says):
    connect(monkeypatch, amplitude, **rules)
    with pytest.raises(AirflowFailException, match=says):
        update(name="New name")
    assert not patches(amplitude)


def test_a_frozen_object_can_be_renamed_and_its_segments_do_not_grow(amplitude, monkeypatch):
    monkeypatch.setenv("AIRFLOW_VAR_AMPLITUDE_EXPERIMENT_FREEZE", '["*"]')
    assert update_experiment(name="Frozen")["written"] is True
    with pytest.raises(AirflowFailException, match="amplitude_experiment_freeze"):
        update_experiment(segment="Staff", segment_changes={"conditions": [], "everyone": True})


def test_a_backfill_writes_nothing_and_asks_nothing(amplitude):
    with pytest.raises(AirflowSkipException, match="backfill"):
        update(a_context(run_type="backfill"), name="x")
    assert sent(amplitude) == []


def test_what_was_written_is_announced_as_an_asset(amplitude):
    announced = []
    for _ in range(2):
        context = a_context() | {"outlet_events": OutletEventAccessors()}
        update(context, name="New name")
        events = context["outlet_events"][AssetAlias(WRITES)].asset_alias_events
        announced.append([event.dest_asset_key.uri for event in events])
    assert announced == [[f"amplitude-experiment://100001/flag/{KEY}"], []]


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_task_that_died_at_any_request_ends_in_the_same_state_when_it_is_run_again(amplitude, monkeypatch, when):
    asked = {
        "name": "Ranking",
        "add_tags": ["new"],
        "remove_tags": ["search"],
        "segment": "Staff",
        "segment_changes": {"name": "Employees", "conditions": NEW_CONDITION},
        "bucketing_salt": "other",
        "reshuffle": "a test",
    }

    there = amplitude.state(keys=True)
    update_experiment(**asked)
    once, requests = standing(amplitude), len(amplitude.requests())
    for step in range(1, requests + 1):
        amplitude.load_state(there)
        with dying(monkeypatch, step, when), pytest.raises(Killed):
            update_experiment(**asked)
        update_experiment(a_context(try_number=2), **asked)
        assert standing(amplitude) == once, f"killed {when} request {step}"


# --- what a DAG file may say --------------------------------------------------------------------------------------


def test_everything_is_templated(amplitude):
    operator = AmplitudeUpdateOperator(
        task_id="update",
        experiment_key="{{ params.key }}",
        name="{{ params.name }}",
        description="{{ params.nothing }}",
        add_tags="{{ params.tags | tojson }}",
        segment="{{ params.segment }}",
        segment_changes={"name": "{{ params.segment }} 2"},
        sticky_bucketing="{{ params.sticky }}",
        clear="{{ params.gone | tojson }}",
        reshuffle="{{ params.why }}",
    )
    params = {
        "key": EXPERIMENT,
        "name": "Ranking",
        "nothing": None,
        "tags": ["a"],
        "segment": "Staff",
        "sticky": True,
        "gone": ["experiment_end_date"],
        "why": "told",
    }
    operator.render_template_fields({"params": params, "ti": None})
    record = operator.execute(a_context())
    assert record["updated"] == ["experiment_end_date", "name", "sticky_bucketing", "tags", "target_segments"]
    found = amplitude.experiment(EXPERIMENT)
    assert (found["name"], found["endDate"], found["tags"]) == ("Ranking", None, ["search", "a"])
    assert found["targetSegments"][1]["name"] == "Staff 2"


WRONG = {
    "nothing at all": ({}, "nothing to change is given"),
    "only a word": ({"reshuffle": "x"}, "nothing to change is given"),
    "both kinds of tags": ({"tags": ["a"], "add_tags": ["b"]}, "tags is the whole list"),
    "both kinds of segments": (
        {"target_segments": [], "segment": "a", "segment_changes": {"name": "b"}},
        "target_segments is the whole list",
    ),
    "a segment without changes": ({"segment": "a"}, "give both"),
    "changes without a segment": ({"segment_changes": {"name": "a"}}, "give both"),
    "a segment's percentage": ({"segment": "a", "segment_changes": {"percentage": 5}}, "AmplitudeRampRolloutOperator"),
    "an unknown part": ({"segment": "a", "segment_changes": {"color": 1}}, "unknown"),
    "a segment without a name": ({"target_segments": [{"conditions": []}]}, "name"),
    "cleared and given": ({"description": "a", "clear": ["description"]}, "to be cleared"),
    "what cannot be cleared": ({"clear": ["name"]}, "clear"),
    "a task's date": ({"name": "a", "start_date": "2026-12-01"}, "experiment_start_date"),
    "a moment without zone": ({"experiment_end_date": datetime(2027, 1, 1)}, "without a time zone"),  # noqa: DTZ001
    "a mode": ({"evaluation_mode": "Remote"}, "evaluation_mode is 'Remote'"),
    "added and removed": ({"add_tags": ["a"], "remove_tags": ["a"]}, "'a'"),
    "local by Amplitude id": ({"evaluation_mode": "local", "bucketing_key": "amplitude_id"}, "can't resolve"),
}


@pytest.mark.parametrize(("options", "says"), WRONG.values(), ids=WRONG.keys())
def test_what_is_known_to_be_wrong_is_told_while_the_dag_is_parsed(options, says):
    with pytest.raises(ValueError, match=says):
        AmplitudeUpdateOperator(task_id="update", experiment_key="e", **options)


@pytest.mark.parametrize(
    "options",
    [{"sticky_bucketing": False}, {"experiment_type": "a-b-test"}, {"clear": ["experiment_end_date"]}],
    ids=str,
)
def test_a_flag_has_no_fields_of_an_experiment(options):
    with pytest.raises(ValueError, match="is a field of experiments"):
        AmplitudeUpdateOperator(task_id="update", flag_key="f", **options)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"sticky_bucketing": "perhaps"}, "sticky_bucketing is 'perhaps'"),
        ({"target_segments": "Staff"}, "tojson"),
        ({"segment": "", "segment_changes": {"name": "a"}}, "give both"),
        ({"clear": '["name"]'}, "clear"),
        ({"description": "a", "clear": '["description"]'}, "to be cleared"),
    ],
)
def test_what_only_rendering_shows_to_be_wrong_ends_the_task_before_any_request(amplitude, options, says):
    operator = AmplitudeUpdateOperator(task_id="update", experiment_key=EXPERIMENT, name="x")
    for name, value in options.items():
        setattr(operator, name, value)
    with pytest.raises(AirflowFailException, match=says):
        operator.execute(a_context())
    assert sent(amplitude) == []


def test_results_of_other_tasks_are_waited_for():
    class Upstream(BaseOperator):
        pass

    with DAG("d", schedule=None) as dag:
        upstream = Upstream(task_id="up")
        AmplitudeUpdateOperator(
            task_id="update", flag_key=KEY, tags=upstream.output, clear=upstream.output, target_segments=upstream.output
        )
    assert dag.get_task("update").upstream_task_ids == {"up"}


# --- helpers ------------------------------------------------------------------------------------------------------


def standing(emulator):
    """The experiment as it stands, without when and in how many steps it got there."""
    return {name: value for name, value in emulator.experiment(EXPERIMENT).items() if not name.endswith("At")}
