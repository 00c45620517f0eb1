"""The audit lines: what they hold, where they are kept, and what happens where they can't be."""

from __future__ import annotations

import json
import logging
import threading
from datetime import UTC, datetime
from types import SimpleNamespace

import pytest
from airflow.providers.common.compat.sdk import AirflowException, AirflowFailException, ObjectStoragePath
from airflow.sdk.log import mask_secret

from airflow_amplitude_experiment.api import experiments, flags
from airflow_amplitude_experiment.operators import (
    AmplitudeApiCallOperator,
    AmplitudeCreateFlagOperator,
    AmplitudeKillSwitchOperator,
    AmplitudeRampRolloutOperator,
    _audit,
    _kill,
    ramp,
)
from airflow_amplitude_experiment.operators._audit import Audit
from airflow_amplitude_experiment.operators._base import AmplitudeOperator
from tests.builders import a_context

SETTING = "AIRFLOW__AMPLITUDE_EXPERIMENT__AUDIT_PATH"
RAISE = {"kind": "flag", "key": "f", "id": "1", "project_id": "2", "before": 1, "after": 10, "raises": True}
LOWER = RAISE | {"before": 10, "after": 1, "raises": False}


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Nobody waits; and the log goes where ``caplog`` sees it, also on Airflow 3.3."""
    for name in ("SECONDS_TO_OPEN", "SECONDS_FOR_A_RAISE", "SECONDS_FOR_THE_REST"):
        monkeypatch.setattr(_audit, name, 2.0)
    monkeypatch.setattr(ramp, "SECONDS_BEFORE_ANOTHER_LOOK", 0)
    monkeypatch.setattr(_kill, "SECONDS_OF_LAG", 0)
    monkeypatch.setattr(AmplitudeOperator, "log", logging.getLogger("tests.audit"))


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder that the setting names, which isn't there yet."""
    folder = tmp_path / "audit" / "rollouts"
    monkeypatch.setenv(SETTING, f"file://{folder}")
    return folder


@pytest.fixture
def hanging_place(place, monkeypatch):
    """A place that does not answer."""
    release = threading.Event()
    monkeypatch.setattr(_audit, "_write_new", lambda path, content: release.wait(20))
    for name in ("SECONDS_TO_OPEN", "SECONDS_FOR_A_RAISE", "SECONDS_FOR_THE_REST"):
        monkeypatch.setattr(_audit, name, 0.1)
    yield
    release.set()


@pytest.fixture
def broken_place(tmp_path, monkeypatch):
    """A place that can't be written: a file stands where the folder should be."""
    (tmp_path / "file").write_text("")
    monkeypatch.setenv(SETTING, f"file://{tmp_path}/file/audit")


@pytest.fixture
def amplitude(amplitude_emulator, monkeypatch):
    connect(monkeypatch, amplitude_emulator)
    amplitude_emulator.add_flag("new-checkout", enabled=True, rolloutPercentage=10)
    amplitude_emulator.add_flag("search", enabled=True, rolloutPercentage=50)
    amplitude_emulator.clear_requests()
    return amplitude_emulator


def connect(monkeypatch, emulator, **extra):
    connection = emulator.airflow_connection(requests_per_second=1000, environment="production", **extra)
    monkeypatch.setenv("AIRFLOW_CONN_AMPLITUDE_EXPERIMENT_DEFAULT", connection)


def audit(context=None, **options):
    log = logging.getLogger("tests.audit")
    return Audit.of(context or a_context(), **{"environment": "production", "reason": "launch", "log": log, **options})


def kept(place):
    """Return the objects' contents, in the order of their names."""
    return [json.loads(path.read_text()) for path in sorted(place.rglob("*.json"), key=lambda path: path.name)]


def patches(emulator):
    return [request["body"] for request in emulator.requests() if request["method"] == "PATCH"]


# --- what a line holds -------------------------------------------------------------------------------------


def test_a_line_says_what_who_why_when_and_where_from(told):
    context = a_context(try_number=2, task_id="rollout.to_10.ramp")
    context["ti"].map_index = 3
    context["dag_run"].triggering_user_name = "ada"
    audit(context).intent(**RAISE, approved_by="grace", guardrails=[{"name": "g", "p": 0.2}])
    (line,) = told()
    assert datetime.now(UTC).timestamp() - datetime.fromisoformat(line.pop("at")).timestamp() < 5
    assert line == {
        "step": "intent",
        "kind": "flag",
        "key": "f",
        "id": "1",
        "project_id": "2",
        "from": 1,
        "to": 10,
        "raises": True,
        "approved_by": "grace",
        "guardrails": [{"name": "g", "p": 0.2}],
        "reason": "launch",
        "run_type": "manual",
        "triggered_by": "ada",
        "environment": "production",
        "dag_id": "rollout",
        "run_id": "manual__1",
        "task_id": "rollout.to_10.ramp",
        "map_index": 3,
        "try_number": 2,
    }


def test_the_moment_is_in_utc(told):
    audit().intent(**RAISE)
    assert told()[0]["at"].endswith("+00:00")


def test_a_result_says_what_became_of_it(told):
    audit().result(**RAISE, outcome="written")
    assert (told()[0]["step"], told()[0]["outcome"]) == ("result", "written")


def test_a_run_type_is_a_plain_text(told):
    context = a_context()
    context["dag_run"].run_type = SimpleNamespace(value="scheduled")
    audit(context).intent(**RAISE)
    assert told()[0]["run_type"] == "scheduled"


def test_a_reason_of_several_lines_stays_one_line(caplog):
    caplog.set_level(logging.INFO)
    audit(reason="one\nAUDIT {}").intent(**RAISE)
    assert [each.getMessage().count("\n") for each in caplog.records] == [0]


def test_what_is_no_json_is_written_as_a_text(told):
    audit().intent(**RAISE, at_stage=datetime(2026, 1, 1, tzinfo=UTC))
    assert told()[0]["at_stage"] == "2026-01-01 00:00:00+00:00"


def test_a_task_outside_a_run_has_lines_too(place):
    audit(a_context(run_type=None)).result(**RAISE, outcome="written")
    assert kept(place)[0]["run_type"] is None


def test_facts_for_a_record_say_where_from():
    assert audit().facts() == {
        "environment": "production",
        "dag_id": "rollout",
        "run_id": "manual__1",
        "task_id": "task",
        "map_index": -1,
        "try_number": 1,
    }


# --- where the lines are kept ------------------------------------------------------------------------------


def test_without_the_setting_lines_are_in_the_log_only(told, monkeypatch):
    monkeypatch.setattr(_audit, "_opened", lambda place: pytest.fail("opened"))
    audit().intent(**RAISE)
    audit().result(**RAISE, outcome="written")
    assert len(told()) == 2


def test_an_empty_setting_is_none(monkeypatch):
    monkeypatch.setenv(SETTING, "")
    audit().intent(**RAISE)


def test_each_line_is_one_object_and_equal_to_the_logs(place, told):
    log = audit()
    log.intent(**RAISE)
    log.result(**RAISE, outcome="written")
    assert kept(place) == told()
    assert [line["step"] for line in kept(place)] == ["intent", "result"]


def test_a_raise_is_kept_before_it_is_sent(place):
    audit().intent(**RAISE)
    assert len(kept(place)) == 1


def test_names_say_where_from_and_sort_by_time(place):
    context = a_context(task_id="rollout.to_10.ramp", try_number=4)
    context["dag_run"].run_id = context["ti"].run_id = "scheduled__2026-11-22T00:00:00+00:00/x"
    log = audit(context)
    for number in range(12):
        log.result(**RAISE, outcome=str(number))
    names = [path.name for path in place.rglob("*.json")]
    assert [line["outcome"] for line in kept(place)] == [str(number) for number in range(12)]
    assert len(set(names)) == 12
    part = "_rollout_scheduled__2026-11-22T00_00_00_00_00_x_rollout.to_10.ramp_-1_4_result_"
    assert all(part in name for name in names)


def test_names_of_the_longest_ids_still_fit_into_a_file_system(place):
    context = a_context(task_id="t" * 250)
    context["ti"].dag_id = context["ti"].run_id = "ö" * 250
    audit(context).intent(**RAISE)
    assert [len(path.name.encode()) < 255 for path in place.rglob("*.json")] == [True]


def test_an_object_is_never_overwritten(place, monkeypatch):
    monkeypatch.setattr(Audit, "_name", lambda *_: "same.json")
    audit().intent(**RAISE)
    with pytest.raises(AirflowException, match="FileExistsError"):
        audit().intent(**RAISE, stage=2)
    assert "stage" not in kept(place)[0]


def test_a_store_that_can_not_refuse_to_overwrite_is_written_all_the_same(place, monkeypatch):
    original = ObjectStoragePath.open

    def only_plain(self, mode="r", **options):
        if "x" in mode:
            raise NotImplementedError
        return original(self, mode, **options)

    monkeypatch.setattr(ObjectStoragePath, "open", only_plain)
    audit().intent(**RAISE)
    assert len(kept(place)) == 1


def test_a_secret_that_airflow_knows_is_masked_in_the_object_as_in_the_log(place):
    mask_secret("the-management-key")
    audit(reason="because the-management-key says so").intent(**RAISE)
    assert kept(place)[0]["reason"] == "because *** says so"


# --- a place that can't be written -------------------------------------------------------------------------


@pytest.mark.parametrize("trouble", ["broken_place", "hanging_place"])
def test_what_goes_up_fails_before_it_is_sent_and_may_be_tried_again(trouble, request):
    request.getfixturevalue(trouble)
    with pytest.raises(AirflowException, match="can't be written, so nothing goes up") as error:
        audit().intent(**RAISE)
    assert not isinstance(error.value, AirflowFailException)


def test_a_place_of_an_unknown_kind_stops_raises_too(monkeypatch):
    monkeypatch.setenv(SETTING, "nonsense://bucket/audit")
    with pytest.raises(AirflowException, match="nonsense"):
        audit().intent(**RAISE)


@pytest.mark.parametrize("trouble", ["broken_place", "hanging_place"])
def test_what_goes_down_goes_on_and_the_log_has_both_lines_and_a_warning(trouble, request, told, caplog):
    request.getfixturevalue(trouble)
    log = audit()
    log.intent(**LOWER)
    log.result(**LOWER, outcome="written")
    assert [line["step"] for line in told()] == ["intent", "result"]
    (warning,) = [each.getMessage() for each in caplog.records if each.levelname == "WARNING"]
    assert "could not be kept" in warning


def test_what_goes_down_does_not_wait_for_the_place_before_it_is_sent(hanging_place, monkeypatch):
    monkeypatch.setattr(_audit, "SECONDS_FOR_A_RAISE", 30)
    monkeypatch.setattr(_audit, "SECONDS_FOR_THE_REST", 30)
    before = datetime.now(UTC)
    audit().intent(**LOWER)
    assert (datetime.now(UTC) - before).total_seconds() < 5


def test_a_raise_that_was_made_does_not_fail_for_its_result(place, monkeypatch, caplog):
    log = audit()
    log.intent(**RAISE)
    monkeypatch.setattr(_audit, "_write_new", lambda *_: (_ for _ in ()).throw(OSError("full")))
    log.result(**RAISE, outcome="written")
    assert "OSError: full" in caplog.text


# --- the operators -----------------------------------------------------------------------------------------


def test_a_ramp_leaves_its_two_lines_and_a_record_with_where_it_came_from(amplitude, place):
    operator = AmplitudeRampRolloutOperator(task_id="r", flag_key="new-checkout", percentage=25, reason="launch")
    record = operator.execute(a_context())
    lines = kept(place)
    shown = [(line["step"], line["from"], line["to"], line["raises"], line.get("outcome")) for line in lines]
    assert shown == [("intent", 10, 25, True, None), ("result", 10, 25, True, "written")]
    assert {record[name] for name in ("environment", "dag_id", "run_id")} == {"production", "rollout", "manual__1"}


def test_a_ramp_that_writes_nothing_leaves_no_line(amplitude, place):
    AmplitudeRampRolloutOperator(task_id="r", flag_key="new-checkout", percentage=10).execute(a_context())
    assert kept(place) == []


RAISING = {
    "ramp": lambda _: AmplitudeRampRolloutOperator(task_id="r", flag_key="new-checkout", percentage=25),
    "create": lambda _: AmplitudeCreateFlagOperator(
        task_id="c",
        key="new",
        target_segments=[
            {"name": "all", "conditions": [], "everyone": True, "percentage": 5, "rolloutWeights": {"on": 1}}
        ],
        rollout_weights={"on": 1},
    ),
    "finish": lambda _: AmplitudeCreateFlagOperator(task_id="c", key="half", rollout_percentage=5),
    "call": lambda emulator: AmplitudeApiCallOperator(
        task_id="a",
        call=flags.update(emulator.flag("new-checkout")["id"], rollout_percentage=20),
        unguarded="a test",
    ),
    "users": lambda emulator: AmplitudeApiCallOperator(
        task_id="a", call=flags.add_users(emulator.flag("new-checkout")["id"], "on", ["u"]), unguarded="a test"
    ),
}


@pytest.mark.parametrize("what", RAISING)
def test_where_the_audit_place_is_broken_nothing_goes_up(amplitude, broken_place, what):
    amplitude.add_flag("half", enabled=False, rolloutPercentage=0)
    amplitude.clear_requests()
    with pytest.raises(AirflowException, match="nothing goes up") as error:
        RAISING[what](amplitude).execute(a_context())
    assert not isinstance(error.value, AirflowFailException)
    assert {request["method"] for request in amplitude.requests()} == {"GET"}


LOWERING = {
    "ramp": lambda _: AmplitudeRampRolloutOperator(
        task_id="r", flag_key="new-checkout", percentage=5, allow_decrease=True
    ),
    "kill": lambda _: AmplitudeKillSwitchOperator(task_id="k", kind="flag", keys=["new-checkout"]),
    "call": lambda emulator: AmplitudeApiCallOperator(
        task_id="a", call=flags.update(emulator.flag("new-checkout")["id"], enabled=False), unguarded="a test"
    ),
}


@pytest.mark.parametrize("what", LOWERING)
@pytest.mark.parametrize("trouble", ["broken_place", "hanging_place"])
def test_where_the_audit_place_is_broken_the_way_down_goes_on(amplitude, trouble, what, request):
    request.getfixturevalue(trouble)
    LOWERING[what](amplitude).execute(a_context())
    assert len(patches(amplitude)) == 1


def test_a_kill_leaves_two_lines_for_each_object_and_none_for_what_was_off(amplitude, place):
    amplitude.add_flag("off", enabled=False)
    operator = AmplitudeKillSwitchOperator(task_id="k", kind="flag", keys=["new-checkout", "search", "off"])
    record = operator.execute(a_context())
    lines = [(line["key"], line["step"], line["enabled"], line.get("outcome")) for line in kept(place)]
    switch = {"from": True, "to": False}
    assert sorted(lines, key=str) == [
        ("new-checkout", "intent", switch, None),
        ("new-checkout", "result", switch, "written"),
        ("search", "intent", switch, None),
        ("search", "result", switch, "written"),
    ]
    assert (record["run_id"], record["environment"]) == ("manual__1", "production")


def test_a_kill_that_has_to_go_to_0_percent_says_so(amplitude, place):
    amplitude.options(approvals="pending", approval_scope="live")
    with pytest.raises(AirflowException):
        AmplitudeKillSwitchOperator(task_id="k", kind="flag", keys=["new-checkout"]).execute(a_context())
    steps = [(line["step"], line["to"], "enabled" in line) for line in kept(place)]
    assert steps == [("intent", 10, True), ("result", 10, True), ("intent", 0, False), ("result", 0, False)]
    assert all(line["outcome"].startswith("failed: ") for line in kept(place) if line["step"] == "result")


def test_a_dry_kill_leaves_no_line(amplitude, place):
    AmplitudeKillSwitchOperator(task_id="k", kind="flag", keys=["search"], dry_run=True).execute(a_context())
    assert kept(place) == []


def test_a_create_leaves_two_lines_for_each_of_its_calls(amplitude, place):
    operator = AmplitudeCreateFlagOperator(task_id="c", key="new", enabled=True, rollout_percentage=5, reason="launch")
    operator.execute(a_context())
    lines = [(line["call"], line["step"], line["from"], line["to"], line["raises"]) for line in kept(place)]
    assert lines == [
        ("flags.create", "intent", 0, 0, False),
        ("flags.create", "result", 0, 0, False),
        ("flags.update", "intent", 0, 5, True),
        ("flags.update", "result", 0, 5, True),
    ]
    assert kept(place)[2]["enabled"] == {"from": False, "to": True}


def test_adopting_leaves_no_line(amplitude, place):
    AmplitudeCreateFlagOperator(task_id="c", key="search", adopt_live=True).execute(a_context())
    assert kept(place) == []


def test_a_call_says_which_one_and_names_nobody(amplitude, place, told):
    call = flags.add_users(amplitude.flag("search")["id"], "on", ["ada@example.com"])
    AmplitudeApiCallOperator(task_id="a", call=call, unguarded="testers").execute(a_context())
    intent, result = kept(place)
    assert (intent["kind"], intent["key"], intent["unguarded"], intent["raises"]) == ("flag", "search", "testers", True)
    assert intent["call"].startswith("flags.add_users(")
    assert result["outcome"] == "accepted"
    assert "ada@example.com" not in json.dumps([*told(), *kept(place)])


def test_a_call_that_fails_says_how_and_nothing_of_the_answer(amplitude, place):
    amplitude.fault("status", method="PATCH", status=400)
    call = flags.update(amplitude.flag("search")["id"], name="x")
    with pytest.raises(AirflowFailException):
        AmplitudeApiCallOperator(task_id="a", call=call, unguarded="a test").execute(a_context())
    assert kept(place)[1]["outcome"] == "failed: AmplitudeInvalidRequest 400"


def test_a_read_leaves_no_line(amplitude, place):
    AmplitudeApiCallOperator(task_id="a", call=flags.get(amplitude.flag("search")["id"])).execute(a_context())
    AmplitudeApiCallOperator(task_id="a", call=experiments.list()).execute(a_context())
    assert kept(place) == []


@pytest.mark.parametrize("what", [*RAISING, "kill"])
def test_a_read_only_connection_says_that_nothing_was_sent(amplitude, place, monkeypatch, what):
    amplitude.add_flag("half", enabled=False, rolloutPercentage=0)
    connect(monkeypatch, amplitude, mode="read_only")
    (RAISING | LOWERING)[what](amplitude).execute(a_context())
    assert {line["outcome"] for line in kept(place) if line["step"] == "result"} == {
        "not sent: the connection is read-only"
    }


def test_what_a_rule_refuses_is_in_the_audit_too(amplitude, place, monkeypatch):
    connect(monkeypatch, amplitude, max_percentage=20)
    with pytest.raises(AirflowFailException):
        RAISING["ramp"](amplitude).execute(a_context())
    assert "max_percentage" in kept(place)[1]["outcome"]


def test_a_rollout_can_be_told_from_the_audit_alone(amplitude, place):
    for to in (20, 50, 100):
        context = a_context(task_id=f"to_{to}")
        context["dag_run"].triggering_user_name = "ada"
        AmplitudeRampRolloutOperator(
            task_id=f"to_{to}", flag_key="new-checkout", percentage=to, reason="launch"
        ).execute(context)
    AmplitudeKillSwitchOperator(task_id="kill", kind="flag", keys=["new-checkout"], reason="it broke").execute(
        a_context(task_id="kill")
    )
    lines = [line for line in kept(place) if line.get("outcome") == "written"]
    story = [(line["from"], line["to"], line["triggered_by"], line["reason"], line["task_id"]) for line in lines]
    assert story == [
        (10, 20, "ada", "launch", "to_20"),
        (20, 50, "ada", "launch", "to_50"),
        (50, 100, "ada", "launch", "to_100"),
        (100, 100, None, "it broke", "kill"),
    ]
    assert lines[-1]["enabled"]["to"] is False
    moments = [line["at"] for line in lines]
    assert moments == sorted(moments)
