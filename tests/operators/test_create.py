"""Creating and adopting against the emulator over real HTTP: what is sent, what is refused, what it costs."""

from __future__ import annotations

import json
import logging
from datetime import UTC, datetime, timedelta

import pytest
from airflow.providers.common.compat.sdk import AirflowFailException, AirflowSkipException
from airflow.sdk import DAG, BaseOperator

from airflow_amplitude_experiment.api import AmplitudeConnectionError, AmplitudeServerError, AmplitudeUnexpectedAnswer
from airflow_amplitude_experiment.api._call import find_endpoint
from airflow_amplitude_experiment.hooks import lookup
from airflow_amplitude_experiment.operators import (
    AmplitudeCreateExperimentOperator,
    AmplitudeCreateFlagOperator,
    AmplitudeRampRolloutOperator,
    _creation,
)
from airflow_amplitude_experiment.operators._described import ARGUMENTS, PATCH_FIELDS, POST_FIELDS
from tests.builders import a_context_of_an_hour_ago as a_context
from tests.builders import a_segment, connect
from tests.watched import Killed, dying, seen_requests

KEY = "new-checkout"
LONG_AGO = "2020-01-01T00:00:00.000Z"
VARIANTS = [{"key": "on", "name": "On", "payload": {"color": "red"}}]
DESCRIPTION = {
    "name": "New checkout",
    "description": "One page instead of three",
    "variants": VARIANTS,
    "rollout_weights": {"on": 1},
    "target_segments": [a_segment(percentage=0)],
    "deployments": ["31"],
    "evaluation_mode": "local",
    "bucketing_key": "user_id",
}
LATER = {"enabled": True, "rollout_percentage": 5, "tags": ["shop"], "bucketing_salt": "s1"}
THERE = {  # the same in the API's words
    "name": DESCRIPTION["name"],
    "description": DESCRIPTION["description"],
    "variants": VARIANTS,
    "rolloutWeights": {"on": 1},
    "targetSegments": DESCRIPTION["target_segments"],
    "deployments": ["31"],
    "createdAt": LONG_AGO,
}
LIVE = {"enabled": True, "rolloutPercentage": 50}


@pytest.fixture
def amplitude(amplitude_emulator, monkeypatch):
    """The emulator without any flag, and a connection to it."""
    monkeypatch.setattr(_creation, "SECONDS_BEFORE_ANOTHER_LOOK", (0.0, 0.0, 0.0))
    monkeypatch.setattr("airflow_amplitude_experiment.api._retry._wait", lambda _: 0.0)
    for operator in (AmplitudeCreateFlagOperator, AmplitudeCreateExperimentOperator):
        # Airflow 3.3 writes a task's log past ``logging``, where ``caplog`` doesn't see it.
        monkeypatch.setattr(operator, "log", logging.getLogger("tests.create"))
    connect(monkeypatch, amplitude_emulator)
    return amplitude_emulator


def create(context=None, **options):
    options = {"key": KEY, **options}
    return AmplitudeCreateFlagOperator(task_id="create", **options).execute(context or a_context())


def create_experiment(context=None, **options):
    options = {"key": KEY, **options}
    return AmplitudeCreateExperimentOperator(task_id="create", **options).execute(context or a_context())


def sent(emulator):
    return [request["method"] for request in emulator.requests()]


def writes(emulator):
    return [request for request in emulator.requests() if request["method"] != "GET"]


def flags_of(emulator):
    return [flag for flag in emulator.state()["flags"] if flag["key"] == KEY]


# --- creating ----------------------------------------------------------------------------------------------------


def test_creating_costs_five_requests_and_sends_each_field_where_amplitude_takes_it(amplitude, caplog):
    context = a_context()
    with caplog.at_level(logging.INFO):
        record = create(context, **DESCRIPTION, **LATER, reason="for the shop")
    assert sent(amplitude) == ["GET", "POST", "GET", "PATCH", "GET"]
    listing, post, _, patch, _ = amplitude.requests()
    assert listing["query"]["includeArchived"] == "true"
    assert post["body"].keys() == {"projectId", "key", *(_camel(name) for name in DESCRIPTION)}
    assert patch["body"] == {"enabled": True, "rolloutPercentage": 5, "tags": ["shop"], "bucketingSalt": "s1"}
    flag = amplitude.flag(KEY)
    assert (flag["enabled"], flag["rolloutPercentage"], flag["tags"]) == (True, 5, ["shop"])
    assert flag["variants"][0]["payload"] == {"color": "red"}
    assert datetime.fromisoformat(record.pop("at")).tzinfo is not None
    assert record == {
        "kind": "flag",
        "key": KEY,
        "id": flag["id"],
        "project_id": "100001",
        "url": f"{amplitude.url}/experiment/emulator/100001/config/{flag['id']}",
        "created": True,
        "adopted": False,
        "updated": [],
        "enabled": True,
        "rollout_percentage": 5,
        "written": True,
        "reason": "for the shop",
        "environment": None,
        "dag_id": "rollout",
        "run_id": "manual__1",
        "task_id": "task",
        "map_index": -1,
        "try_number": 1,
    }
    assert json.loads(json.dumps(record)) == record
    assert context["ti"].xcoms == {"amplitude_url": record["url"]}
    own = [each.getMessage() for each in caplog.records if (each.name, each.levelname) == ("tests.create", "INFO")]
    own = [line for line in own if not line.startswith("AUDIT")]
    assert own == [f"flag {KEY}: created (id {flag['id']}, enabled, 5 %)"]


def test_white_space_around_a_key_from_a_form_is_no_part_of_it(amplitude):
    assert create(key=f" {KEY}\n")["key"] == KEY
    assert len(flags_of(amplitude)) == 1


def test_without_anything_for_the_second_call_there_is_none(amplitude):
    record = create(name="New checkout")
    assert sent(amplitude) == ["GET", "POST", "GET"]
    assert (record["enabled"], record["rollout_percentage"]) == (False, 0)


def test_what_a_new_object_is_anyway_needs_no_second_call(amplitude):
    create(enabled=False, rollout_percentage=0, tags=[], bucketing_unit="User")
    assert sent(amplitude) == ["GET", "POST", "GET"]


def test_what_the_api_leaves_open_is_always_sent(amplitude):
    create()
    body = writes(amplitude)[0]["body"]
    assert body["variants"] == [{"key": "on"}]
    assert (body["evaluationMode"], body["bucketingKey"]) == ("remote", "amplitude_id")


def test_an_experiment_gets_its_dates_and_its_type(amplitude):
    create_experiment(
        experiment_type="multi-arm-bandit",
        experiment_start_date="2026-12-01",
        experiment_end_date=datetime(2026, 12, 24, 18, tzinfo=UTC),
        sticky_bucketing=True,
        exposure_event={"event_type": "Seen", "filters": []},
    )
    assert sent(amplitude) == ["GET", "POST", "GET", "PATCH", "GET"]
    found = amplitude.experiment(KEY)
    assert found["experimentType"] == "multi-arm-bandit"
    assert (found["startDate"][:10], found["endDate"][:10]) == ("2026-12-01", "2026-12-24")
    assert found["stickyBucketing"] is True
    amplitude.clear_requests()
    create_experiment(experiment_start_date="2026-12-01", experiment_type="multi-arm-bandit")
    assert not writes(amplitude)


def test_a_project_must_be_named_to_create_in(amplitude, monkeypatch):
    connect(monkeypatch, amplitude, project_id=None)
    with pytest.raises(AirflowFailException, match=r"project_id=… on the operator"):
        create()
    assert not writes(amplitude)
    assert create(project_id=100001)["project_id"] == "100001"


def test_the_connection_and_the_task_must_name_the_same_project(amplitude):
    with pytest.raises(AirflowFailException, match="connection names project 100001"):
        create(project_id="200002")
    assert sent(amplitude) == []


def test_a_key_that_an_experiment_has_is_refused_by_amplitude_and_told(amplitude):
    amplitude.add_experiment(KEY)
    with pytest.raises(AirflowFailException, match="already taken"):
        create()
    assert sent(amplitude) == ["GET", "POST", "GET"]


def test_a_new_object_that_reads_otherwise_than_asked_is_not_switched_on(amplitude, monkeypatch):
    with seen_requests(monkeypatch) as seen:
        seen.after = lambda call: call == "flags.create" and amplitude.change(KEY, rolloutWeights={"on": 0})
        with pytest.raises(AirflowFailException, match=r"AmplitudeNotConfirmed.*rollout_weights: given \{'on': 1\}"):
            create(**DESCRIPTION, **LATER)
    assert amplitude.flag(KEY)["enabled"] is False


def test_the_beta_is_spoken_to_and_what_it_lacks_is_told_before_anything_is_made(amplitude, monkeypatch):
    connect(monkeypatch, amplitude, dialect="beta")
    with pytest.raises(AirflowFailException, match="beta API doesn't know 'tags'"):
        create(tags=["a"])
    assert not writes(amplitude)
    description = {name: value for name, value in DESCRIPTION.items() if name != "target_segments"}
    assert create(**description, rollout_percentage=5)["created"] is True
    assert create(**description, rollout_percentage=5)["written"] is False
    assert [request["path"] for request in writes(amplitude)] == ["/flags/new", f"/flags/{amplitude.flag(KEY)['id']}"]


# --- a create whose answer was lost -------------------------------------------------------------------------------

APPLIED = {
    "cut off after it was applied": ("cut_after", {}),
    "truncated": ("truncated", {}),
    "500 after it was applied": ("status", {"status": 500, "after": True}),
    "a gateway's 504": ("status", {"status": 504, "after": True}),
}
NOT_APPLIED = {
    "cut off before": ("cut_before", {}, AmplitudeConnectionError),
    "500 without effect": ("status", {"status": 500}, AmplitudeServerError),
    "a proxy's web page": ("html", {}, AmplitudeUnexpectedAnswer),
}


@pytest.mark.parametrize(("fault", "details"), APPLIED.values(), ids=APPLIED.keys())
def test_a_create_that_was_applied_but_not_answered_is_not_sent_twice(amplitude, fault, details):
    amplitude.fault(fault, method="POST", **details)
    record = create(**DESCRIPTION, **LATER)
    assert sent(amplitude).count("POST") == 1
    assert len(flags_of(amplitude)) == 1
    assert record["created"] is True
    assert (record["enabled"], record["rollout_percentage"]) == (True, 5)


@pytest.mark.parametrize(("fault", "details", "error"), NOT_APPLIED.values(), ids=NOT_APPLIED.keys())
def test_a_create_that_was_lost_is_looked_for_and_left_to_another_try(amplitude, fault, details, error):
    amplitude.fault(fault, method="POST", **details)
    with pytest.raises(error):
        create(**DESCRIPTION, **LATER)
    assert sent(amplitude) == ["GET", "POST", "GET", "GET", "GET"]
    record = create(a_context(try_number=2), **DESCRIPTION, **LATER)
    assert record["created"] is True
    assert len(flags_of(amplitude)) == 1


def test_a_list_that_lags_behind_is_asked_again(amplitude, monkeypatch):
    amplitude.fault("cut_after", method="POST")
    answers, find = iter([True, False, False]), _creation.Creation.find
    monkeypatch.setattr(_creation.Creation, "find", lambda self: None if next(answers, False) else find(self))
    assert create()["created"] is True
    assert sent(amplitude).count("POST") == 1


def test_an_object_that_cannot_be_read_at_once_is_read_again(amplitude):
    amplitude.fault("status", method="GET", path="/api/1/flags/*", status=404, times=2)
    assert create()["created"] is True


def test_an_object_that_another_task_made_at_the_same_moment_is_adopted(amplitude, monkeypatch):
    with seen_requests(monkeypatch) as seen:
        seen.before = lambda call: call == "flags.create" and amplitude.add_flag(KEY, **{**THERE, "createdAt": _now()})
        record = create(**DESCRIPTION, rollout_percentage=5)
    assert len(flags_of(amplitude)) == 1
    assert record["created"] is False
    assert record["adopted"] is True


def test_what_another_task_has_ramped_since_a_lost_create_is_not_set_back(amplitude, monkeypatch):
    amplitude.fault("cut_after", method="POST")
    with seen_requests(monkeypatch) as seen:
        seen.after = lambda call: call == "flags.create" and amplitude.change(KEY, **LIVE)
        record = create(**DESCRIPTION, **LATER)
    assert record["written"] is False
    assert amplitude.flag(KEY)["rolloutPercentage"] == 50


# --- the second call ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("fault", "details"), APPLIED.values(), ids=APPLIED.keys())
def test_a_second_call_that_was_applied_is_not_sent_twice(amplitude, fault, details):
    amplitude.fault(fault, method="PATCH", **details)
    assert create(**LATER)["rollout_percentage"] == 5
    assert sent(amplitude).count("PATCH") == 1


@pytest.mark.parametrize("fault", ["cut_before", "status"])
def test_a_second_call_that_was_lost_is_sent_again(amplitude, fault):
    amplitude.fault(fault, method="PATCH")
    assert create(**LATER)["rollout_percentage"] == 5
    assert sent(amplitude).count("PATCH") == 2


def test_a_second_call_that_is_lost_again_and_again_ends_the_try(amplitude):
    amplitude.fault("cut_before", method="PATCH", times=None)
    with pytest.raises(AmplitudeConnectionError):
        create(**LATER)
    assert sent(amplitude).count("PATCH") == 3


def test_what_somebody_switched_off_after_a_lost_second_call_stays_off(amplitude, monkeypatch):
    amplitude.fault("cut_after", method="PATCH")
    with seen_requests(monkeypatch) as seen:
        seen.after = lambda call: call == "flags.update" and amplitude.change(KEY, enabled=False, rolloutPercentage=0)
        with pytest.raises(AirflowFailException, match="AmplitudeNotConfirmed"):
            create(**LATER)
    assert sent(amplitude).count("PATCH") == 1
    assert amplitude.flag(KEY)["enabled"] is False


def test_a_second_call_that_has_no_effect_is_told(amplitude):
    amplitude.options(approvals="pending")
    with pytest.raises(
        AirflowFailException, match=r"AmplitudeNotConfirmed: .*enabled: given True, there False.*approval"
    ):
        create(**LATER)
    assert sent(amplitude).count("PATCH") == 1


def test_what_an_earlier_try_left_half_done_is_finished(amplitude):
    create(**DESCRIPTION)
    amplitude.clear_requests()
    record = create(**DESCRIPTION, **LATER)
    assert sent(amplitude) == ["GET", "GET", "GET", "GET", "PATCH", "GET"]  # variants, versions
    assert record["adopted"] is True
    assert record["updated"] == ["bucketing_salt", "enabled", "rollout_percentage", "tags"]
    assert (record["enabled"], record["rollout_percentage"]) == (True, 5)


def test_an_object_that_somebody_touched_since_its_creation_is_not_switched_on(amplitude):
    create(**DESCRIPTION)
    amplitude.change(KEY, tags=["mine"])
    assert create(**DESCRIPTION, **LATER)["written"] is False
    assert amplitude.flag(KEY)["enabled"] is False


def test_what_somebody_stopped_is_not_switched_on_again(amplitude):
    create(**DESCRIPTION, enabled=True)
    amplitude.change(KEY, enabled=False)
    assert create(**DESCRIPTION, enabled=True)["written"] is False
    assert amplitude.flag(KEY)["enabled"] is False


# --- adopting -----------------------------------------------------------------------------------------------------


def test_adopting_what_stands_as_described_writes_nothing_and_reads_little(amplitude, caplog):
    amplitude.add_flag(KEY, **THERE)
    with caplog.at_level(logging.INFO):
        record = create(**{name: value for name, value in DESCRIPTION.items() if name != "variants"})
    assert sent(amplitude) == ["GET", "GET"]  # the list does not show whether it is archived
    assert (record["adopted"], record["created"], record["written"]) == (True, False, False)
    assert record["url"].endswith(f"/config/{record['id']}")
    assert f"flag {KEY}: adopted as it is (id {record['id']}, disabled, 0 %)" in caplog.text


def test_variants_are_read_where_more_than_their_keys_is_described(amplitude):
    amplitude.add_flag(KEY, **THERE)
    create(variants=[{"key": "on"}])
    assert sent(amplitude) == ["GET", "GET"]
    amplitude.clear_requests()
    create(**DESCRIPTION)
    assert sent(amplitude) == ["GET", "GET", "GET"]


def test_where_the_list_shows_everything_one_request_is_enough(amplitude):
    amplitude.options(fields="full")
    amplitude.add_flag(KEY, **THERE)
    create(**DESCRIPTION)
    assert sent(amplitude) == ["GET"]


def test_what_differs_is_refused_and_all_of_it_is_listed(amplitude):
    amplitude.add_flag(KEY, **THERE)
    other = {"description": "Other", "evaluation_mode": "remote", "variants": [{"key": "on", "payload": 7}]}
    with pytest.raises(AirflowFailException) as refusal:
        create(**{**DESCRIPTION, **other})
    for words in (
        "description: given 'Other', there 'One page instead of three'",
        "evaluation_mode: given 'remote', there 'local'",
        "variant 'on', payload: given 7, there {'color': 'red'}",
        "Nothing was written",
        "if_exists='update'",
    ):
        assert words in str(refusal.value)
    assert not writes(amplitude)


def test_a_live_object_is_adopted_only_where_that_is_meant(amplitude):
    amplitude.add_flag(KEY, **THERE, **LIVE)
    with pytest.raises(AirflowFailException, match=r"enabled at 50 %.*adopt_live=True"):
        create(**DESCRIPTION)
    assert create(**DESCRIPTION, adopt_live=True, rollout_percentage=5)["rollout_percentage"] == 50
    assert not writes(amplitude)


def test_a_task_that_is_cleared_after_the_ramps_have_moved_on_changes_nothing(amplitude):
    create(**DESCRIPTION, **LATER)
    for to, segment in ((50, None), (60, a_segment()["name"])):
        ramp = AmplitudeRampRolloutOperator(task_id="r", flag_key=KEY, percentage=to, segment=segment)
        ramp.execute(a_context())
    before = amplitude.flag(KEY)
    amplitude.clear_requests()
    record = create(a_context(clear_number=1), **DESCRIPTION, **LATER)
    assert amplitude.flag(KEY) == before
    assert not writes(amplitude)
    assert (record["adopted"], record["rollout_percentage"]) == (True, 50)


def test_a_later_run_does_not_take_a_live_object_for_its_own(amplitude):
    create(**DESCRIPTION, **LATER)
    later = a_context()
    later["dag_run"].run_after = datetime.now(UTC) + timedelta(minutes=1)
    with pytest.raises(AirflowFailException, match="people get it now"):
        create(later, **DESCRIPTION, **LATER)


def test_fail_refuses_what_this_run_did_not_create(amplitude):
    amplitude.add_flag(KEY, **THERE)
    with pytest.raises(AirflowFailException, match="exists already"):
        create(if_exists="fail", **DESCRIPTION)
    assert sent(amplitude) == ["GET", "GET"]


@pytest.mark.parametrize(
    ("wrong", "says"),
    [({"key": " "}, "must name"), ({"experiment_end_date": datetime(2027, 1, 1)}, "without a time zone")],  # noqa: DTZ001
)
def test_what_can_be_seen_to_be_wrong_is_refused_at_parse_time(wrong, says):
    with pytest.raises(ValueError, match=says):
        AmplitudeCreateExperimentOperator(task_id="create", **{"key": KEY, **wrong})


def test_a_date_is_kept_as_text_so_that_airflow_can_store_it():
    moment = datetime(2027, 1, 1, tzinfo=UTC)
    operator = AmplitudeCreateExperimentOperator(task_id="create", key=KEY, experiment_end_date=moment)
    assert operator.experiment_end_date == "2027-01-01T00:00:00+00:00"


def test_fail_goes_on_with_what_this_run_created(amplitude):
    create(if_exists="fail", **DESCRIPTION, **LATER)
    with pytest.raises(AirflowFailException, match="exists already"):
        create(if_exists="fail", **DESCRIPTION, **LATER)
    assert create(a_context(try_number=2), if_exists="fail", **DESCRIPTION, **LATER)["written"] is False


def test_a_live_object_that_somebody_made_since_this_run_was_due_is_not_this_runs_own(amplitude):
    amplitude.add_flag(KEY, **{**THERE, **LIVE})
    with pytest.raises(AirflowFailException, match="adopt_live"):
        create(a_context(), **DESCRIPTION)


@pytest.mark.parametrize("if_exists", ["adopt", "update", "fail"])
def test_an_archived_object_is_refused(amplitude, if_exists):
    amplitude.add_flag(KEY, **THERE, deleted=True)
    with pytest.raises(AirflowFailException, match=r"is archived. Nothing was written. Restore it in Amplitude"):
        create(if_exists=if_exists, adopt_live=True)
    assert not writes(amplitude)


def test_a_key_in_several_projects_is_refused_and_both_are_listed(amplitude, monkeypatch):
    amplitude.seed({"projects": [{"id": "200002"}], "keys": [{"key": "both", "projects": ["100001", "200002"]}]})
    for project in ("100001", "200002"):
        amplitude.add_flag(KEY, projectId=project, deployments=[])
    connection = json.loads(amplitude.airflow_connection(project_id=None))
    monkeypatch.setenv("AIRFLOW_CONN_AMPLITUDE_EXPERIMENT_DEFAULT", json.dumps({**connection, "password": "both"}))
    with pytest.raises(AirflowFailException, match="several projects: 100001, 200002"):
        create()
    assert create(project_id="200002")["project_id"] == "200002"


@pytest.mark.parametrize(
    "options",
    [
        {"fields": "full"},
        {"ids": "number"},
        {"dates": "as_sent"},
        {"key_filter": "partial"},
        {"empty_payload": "missing"},
        {"empty_payload": "null"},
        {"end_of_list": "null", "patch_body": "json"},
    ],
    ids=str,
)
def test_however_amplitude_answers_a_second_run_writes_nothing(amplitude, options):
    amplitude.options(**options)
    amplitude.add_flag(f"{KEY}-2")
    bare = {**DESCRIPTION, "variants": [{"key": "on", "payload": {}}]}
    assert create(**bare, **LATER)["created"] is True
    amplitude.clear_requests()
    record = create(a_context(try_number=2), **bare, **LATER)
    assert (record["key"], record["adopted"], record["id"]) == (KEY, True, amplitude.flag(KEY)["id"])
    assert not writes(amplitude)


@pytest.mark.parametrize("there", [{}, None], ids=["found", "just created"])
def test_an_object_of_another_project_is_not_written_to(amplitude, monkeypatch, there):
    """The list was asked for one project; what came back is looked at all the same."""
    if there is not None:
        amplitude.add_flag(KEY, **THERE)
    read = _creation.Creation._read
    elsewhere = {"project_id": "200002"}
    monkeypatch.setattr(_creation.Creation, "_read", lambda *args: read(*args).model_copy(update=elsewhere))
    for module in (lookup, _creation):
        monkeypatch.setattr(module, "merged", lambda row, details: row.model_copy(update=elsewhere))
    with pytest.raises(AirflowFailException, match="belongs to project 200002, not 100001"):
        create(**LATER)
    assert "PATCH" not in sent(amplitude)


def test_a_key_that_is_there_twice_is_refused(amplitude, monkeypatch):
    amplitude.add_flag(KEY, **THERE)
    monkeypatch.setattr(lookup, "listed", listed_twice)
    with pytest.raises(AirflowFailException, match="is there 2 times"):
        create()


def listed_twice(call):
    rows = list((yield call))
    return [*rows, *rows]


# --- updating -----------------------------------------------------------------------------------------------------


def update(context=None, **options):
    return create(context, if_exists="update", **{**DESCRIPTION, **options})


def test_an_update_sends_only_what_differs_and_reads_back(amplitude, caplog):
    amplitude.add_flag(KEY, **THERE, **LIVE)
    with caplog.at_level(logging.INFO):
        record = update(name="Newer", rollout_percentage=5, enabled=False, adopt_live=True)
    (patch,) = writes(amplitude)
    assert patch["body"] == {"name": "Newer"}
    assert (record["adopted"], record["updated"], record["written"]) == (True, ["name"], True)
    assert (record["enabled"], record["rollout_percentage"]) == (True, 50)
    assert f"flag {KEY}: updated name (id {record['id']}, enabled, 50 %)" in caplog.text


def test_an_update_with_nothing_to_do_writes_nothing(amplitude):
    amplitude.add_flag(KEY, **THERE)
    amplitude.change(KEY, tags=["touched"])
    assert update(enabled=True)["written"] is False
    assert not writes(amplitude)


def test_an_update_of_a_live_object_must_be_meant(amplitude):
    amplitude.add_flag(KEY, **THERE, **LIVE)
    with pytest.raises(AirflowFailException, match="adopt_live=True"):
        update(name="Newer")
    assert not writes(amplitude)


def test_an_update_does_not_move_users_of_an_object_that_was_ever_enabled(amplitude):
    amplitude.add_flag(KEY, **THERE)
    amplitude.change(KEY, enabled=True)
    amplitude.change(KEY, enabled=False)
    with pytest.raises(AirflowFailException) as refusal:
        update(bucketing_key="device_id", bucketing_salt="other", name="Newer")
    assert "bucketing_key: given 'device_id', there 'user_id' (it was enabled before" in str(refusal.value)
    assert "bucketing_salt" in str(refusal.value)
    assert not writes(amplitude)


def test_an_update_brings_an_object_in_line_that_nobody_was_served(amplitude):
    amplitude.add_flag(KEY, **{**THERE, "deployments": []})
    variants = [{"key": "on", "payload": {"color": "blue"}}, {"key": "big", "payload": 2}]
    options = {
        "variants": variants,
        "rollout_weights": {"on": 1, "big": 3},
        "bucketing_key": "device_id",
        "tags": ["shop"],
        "target_segments": [{**a_segment(percentage=0), "conditions": [], "everyone": True}],
    }
    record = update(**options)
    flag = amplitude.flag(KEY)
    assert {each["key"]: each.get("payload") for each in flag["variants"]} == {"on": {"color": "blue"}, "big": 2}
    assert flag["rolloutWeights"] == {"on": 1, "big": 3}
    assert (flag["bucketingKey"], flag["deployments"]) == ("device_id", ["31"])
    assert flag["targetSegments"][0]["conditions"] == []
    assert sent(amplitude).count("PATCH") == 2  # the variant, and one for all other fields
    expected = ["bucketing_key", "deployments", "rollout_weights", "target_segments", "variants"]
    assert record["updated"] == expected
    amplitude.clear_requests()
    assert update(**options)["written"] is False
    assert not writes(amplitude)


def test_tags_are_added_where_they_are_shown_and_left_alone_where_not(amplitude, caplog):
    amplitude.add_flag(KEY, **THERE, tags=["old"])
    amplitude.change(KEY, name=THERE["name"] + "!")
    with caplog.at_level(logging.INFO):
        update(name="Newer", tags=["new"])
    assert amplitude.flag(KEY)["tags"] == ["old"]
    assert "left alone, as Amplitude does not show it: tags" in caplog.text
    amplitude.options(fields="full")
    update(name="Newer", tags=["new"])
    assert amplitude.flag(KEY)["tags"] == ["old", "new"]


@pytest.mark.parametrize("fault", ["cut_after", "cut_before"])
def test_an_update_that_was_lost_is_decided_anew(amplitude, fault):
    amplitude.add_flag(KEY, **THERE)
    amplitude.fault(fault, method="POST", path="*/variants")
    record = update(name="Newer", variants=[*VARIANTS, {"key": "big"}])
    assert (record["updated"], record["written"]) == (["name", "variants"], True)
    assert len(amplitude.flag(KEY)["variants"]) == 2
    assert sent(amplitude).count("POST") == (1 if fault == "cut_after" else 2)


def test_an_update_without_effect_is_told(amplitude):
    amplitude.add_flag(KEY, **THERE, **LIVE)
    amplitude.options(approvals="pending")
    with pytest.raises(AirflowFailException, match=r"AmplitudeNotConfirmed: .*name: given 'Newer'"):
        update(name="Newer", adopt_live=True)


# --- read-only, rules, the past -----------------------------------------------------------------------------------


READ_ONLY = {
    "create": (None, LATER, "would be created, and then set enabled, rollout_percentage, tags, bucketing_salt"),
    "finish": ({}, LATER, "would be finished with enabled, rollout_percentage, tags, bucketing_salt"),
    "update": ({"name": "Old", **LIVE}, {}, "would be updated: name"),
    "nothing": (LIVE, {}, "stands as described"),
}


@pytest.mark.parametrize(("there", "later", "says"), READ_ONLY.values(), ids=READ_ONLY.keys())
def test_a_read_only_connection_decides_and_sends_nothing(amplitude, monkeypatch, caplog, there, later, says):
    connect(monkeypatch, amplitude, mode="read_only")
    if there is not None:
        amplitude.add_flag(KEY, **{**THERE, **there})
    with caplog.at_level(logging.INFO):
        record = update(**later, adopt_live=True)
    assert f"flag {KEY}: {says}" in caplog.text
    assert ("Read-only connection, would send flags." in caplog.text) is (says != "stands as described")
    assert (record["written"], record["created"], record["updated"]) == (False, False, [])
    assert not writes(amplitude)


def test_the_connections_rules_hold_for_both_calls(amplitude, monkeypatch):
    connect(monkeypatch, amplitude, deny_keys="new-*")
    with pytest.raises(AirflowFailException, match="deny_keys"):
        create()
    assert not writes(amplitude)
    connect(monkeypatch, amplitude, require_reason=True)
    with pytest.raises(AirflowFailException, match="require_reason"):
        create()
    assert not writes(amplitude)
    assert create(reason="because")["created"] is True


@pytest.mark.parametrize("rule", [{"max_percentage": 4}, {"max_step": 4}], ids=str)
def test_what_a_rule_forbids_in_the_second_call_is_refused_before_the_first(amplitude, monkeypatch, rule):
    connect(monkeypatch, amplitude, **rule)
    with pytest.raises(AirflowFailException, match=next(iter(rule))):
        create(**DESCRIPTION, **LATER)
    assert not writes(amplitude)
    assert create(**DESCRIPTION, **{**LATER, "rollout_percentage": 4})["rollout_percentage"] == 4


def test_a_backfill_writes_nothing_and_asks_nothing(amplitude):
    with pytest.raises(AirflowSkipException, match="backfill"):
        create(a_context(run_type="backfill"), **DESCRIPTION)
    assert sent(amplitude) == []


def test_the_key_stands_in_no_log(amplitude, caplog):
    with caplog.at_level(logging.DEBUG):
        create(**DESCRIPTION, **LATER)
        amplitude.fault("status", method="GET", status=401)
        with pytest.raises(AirflowFailException) as error:
            create()
    assert amplitude.management_key not in caplog.text + repr(error.value)


# --- dying anywhere -----------------------------------------------------------------------------------------------


SCENES = {
    "create": (None, {**DESCRIPTION, **LATER}),
    "create without a second call": (None, DESCRIPTION),
    "create or fail": (None, {**DESCRIPTION, **LATER, "if_exists": "fail"}),
    "finish": ({}, {**DESCRIPTION, "rollout_percentage": 5}),
    "adopt": (LIVE, {**DESCRIPTION, **LATER, "adopt_live": True}),
    "update": (
        {"name": "Old", "deployments": []},
        {
            **DESCRIPTION,
            "if_exists": "update",
            "variants": [{"key": "on", "payload": 2}, {"key": "big"}],
            "rollout_weights": {"on": 1, "big": 3},
        },
    ),
}


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize(("there", "options"), SCENES.values(), ids=SCENES.keys())
def test_a_task_that_died_at_any_request_ends_in_the_same_state_when_it_is_run_again(
    amplitude, monkeypatch, there, options, when
):
    def prepare():
        amplitude.reset()
        if there is not None:
            amplitude.add_flag(KEY, **{**THERE, **there})
        amplitude.clear_requests()

    prepare()
    create(**options)
    once, requests = standing(amplitude), len(amplitude.requests())
    for step in range(1, requests + 1):
        prepare()
        with dying(monkeypatch, step, when), pytest.raises(Killed):
            create(**options)
        create(a_context(try_number=2), **options)
        assert standing(amplitude) == once, f"killed {when} request {step}"
        assert len(flags_of(amplitude)) == 1
        assert sum(request["path"].endswith("/flags") for request in writes(amplitude)) == (there is None)


def standing(emulator):
    """The flag as it stands, without when and in how many steps it got there."""
    return {name: value for name, value in emulator.flag(KEY).items() if not name.endswith("At")}


# --- what a DAG file may say --------------------------------------------------------------------------------------


def rendered(operator, **params):
    operator.render_template_fields({"params": params, "ti": None})
    return operator


def test_everything_but_objects_is_templated(amplitude):
    operator = AmplitudeCreateExperimentOperator(
        task_id="create",
        key="{{ params.key }}",
        variants=[{"key": "control"}, {"key": "treatment", "payload": {"color": "{{ params.color }}"}}],
        rollout_weights="{{ params.weights | tojson }}",
        rollout_percentage="{{ params.percentage }}",
        enabled="{{ params.enabled }}",
        description="{{ params.description }}",
        experiment_end_date="{{ params.end }}",
        if_exists="{{ params.if_exists }}",
        adopt_live="{{ params.adopt_live }}",
    )
    rendered(
        operator,
        key=KEY,
        color="red",
        weights={"control": 1, "treatment": 3},
        percentage=5,
        enabled=True,
        description=None,
        end="",
        if_exists="fail",
        adopt_live=False,
    ).execute(a_context())
    found = amplitude.experiment(KEY)
    assert found["variants"][1]["payload"] == {"color": "red"}
    assert found["rolloutWeights"] == {"control": 1, "treatment": 3}
    assert (found["enabled"], found["rolloutPercentage"], found["endDate"]) == (True, 5, None)
    assert "description" not in writes(amplitude)[0]["body"]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"rollout_percentage": "fifty"}, "rollout_percentage is 'fifty'"),
        ({"enabled": "perhaps"}, "enabled is 'perhaps'"),
        ({"variants": "{{ params.variants }}"}, "variants is a text, .* tojson"),
        ({"if_exists": "overwrite"}, "if_exists is 'overwrite'"),
        ({"key": ""}, "named by an empty text"),
        ({"variants": [{"key": "on"}, {"key": "on"}]}, "twice"),
    ],
)
def test_what_only_rendering_shows_to_be_wrong_ends_the_task_before_any_request(amplitude, options, says):
    params = {name: f"{{{{ params.{name} }}}}" for name, value in options.items() if isinstance(value, str)}
    operator = AmplitudeCreateFlagOperator(task_id="create", **{"key": KEY, **options, **params})
    values = {name: VARIANTS if name == "variants" else options[name] for name in params}
    with pytest.raises(AirflowFailException, match=says):
        rendered(operator, **values).execute(a_context())
    assert sent(amplitude) == []


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"rollout_percentage": 101}, "rollout_percentage is 101, but must be a whole number from 0 to 100"),
        ({"rollout_percentage": 2.5}, "whole"),
        ({"variants": [{"key": "off"}]}, "reserved"),
        ({"variants": [{"id": 1}]}, "unknown"),
        ({"target_segments": [{**a_segment(), "conditions": []}]}, "everyone"),
        ({"rollout_weights": {"on": -1}}, "0 or more"),
        ({"evaluation_mode": "Remote"}, "evaluation_mode is 'Remote'"),
        ({"evaluation_mode": "local", "bucketing_key": "amplitude_id"}, "can't resolve Amplitude ids"),
        ({"if_exists": "replace"}, "if_exists is 'replace'"),
        ({"experiment_type": "ab"}, "experiment_type is 'ab'"),
        ({"experiment_start_date": "tomorrow"}, "experiment_start_date"),
        ({"start_date": "2026-12-01"}, "experiment_start_date"),
    ],
)
def test_what_is_known_to_be_wrong_is_told_while_the_dag_is_parsed(options, says):
    with pytest.raises(ValueError, match=says):
        AmplitudeCreateExperimentOperator(task_id="create", key=KEY, **options)


def test_results_of_other_tasks_are_waited_for():
    class Upstream(BaseOperator):
        pass

    with DAG("d", schedule=None) as dag:
        upstream = Upstream(task_id="up")
        AmplitudeCreateFlagOperator(
            task_id="create", key=KEY, rollout_percentage=upstream.output, variants=[{"key": upstream.output["k"]}]
        )
    assert dag.get_task("create").upstream_task_ids == {"up"}


def test_the_start_of_a_dag_is_not_the_start_of_an_experiment():
    with DAG("d", schedule=None, default_args={"start_date": datetime(2026, 1, 1, tzinfo=UTC), "project_id": "1"}):
        operator = AmplitudeCreateExperimentOperator(task_id="create", key=KEY)
    assert operator.experiment_start_date is None
    assert operator.project_id == "1"


@pytest.mark.parametrize("kind", ["flag", "experiment"])
def test_every_field_that_the_api_takes_has_its_argument_and_its_check(kind):
    operator = {"flag": AmplitudeCreateFlagOperator, "experiment": AmplitudeCreateExperimentOperator}[kind]
    taken = {}
    for function, fields in (("create", POST_FIELDS), ("update", PATCH_FIELDS)):
        theirs = find_endpoint(f"{kind}s.{function}").fields
        taken |= {name: theirs[name] for name in fields if name in theirs}
        assert all(fields[name] is theirs[name] for name in fields if name in theirs)
    assert {ARGUMENTS[name] for name in taken} <= set(operator.template_fields)
    not_ours = {"project_id", "key", "id", "archive", "decision", "decision_reason", "rolled_out_variant"}
    both = find_endpoint(f"{kind}s.create").fields.keys() | find_endpoint(f"{kind}s.update").fields.keys()
    assert both - not_ours - {"allow_local_amplitude_id"} == taken.keys()


def test_a_ramp_can_explain_what_a_create_wrote():
    with DAG("d", schedule=None):
        create = AmplitudeCreateFlagOperator(task_id="create", key=KEY)
        ramp = AmplitudeRampRolloutOperator(task_id="ramp", flag_key=KEY, percentage=5)
        create >> ramp
    assert (create.writes_percentage, create.kind) == (True, "flag")
    assert AmplitudeCreateExperimentOperator(task_id="c", key=KEY).kind == "experiment"


# --- helpers ------------------------------------------------------------------------------------------------------


def _camel(name):
    head, *rest = name.split("_")
    return head + "".join(part.capitalize() for part in rest)


def _now():
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


@pytest.mark.parametrize("later", [{"rollout_percentage": 5}, {"enabled": True}])
def test_a_frozen_key_is_not_even_created_where_its_second_call_would_go_up(amplitude, monkeypatch, later):
    monkeypatch.setenv("AIRFLOW_VAR_AMPLITUDE_EXPERIMENT_FREEZE", '["*"]')
    with pytest.raises(AirflowFailException, match="amplitude_experiment_freeze"):
        create(**later)
    assert sent(amplitude) == ["GET"]


def test_a_frozen_key_can_be_created_where_nobody_gets_anything(amplitude, monkeypatch):
    monkeypatch.setenv("AIRFLOW_VAR_AMPLITUDE_EXPERIMENT_FREEZE", '["*"]')
    assert create(name="New checkout")["created"]
