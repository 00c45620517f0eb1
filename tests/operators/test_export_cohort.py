"""Exporting a cohort against the emulator over real HTTP: what is asked, what is written, and what each ending says."""

from __future__ import annotations

import asyncio
import csv
import inspect
import json
import logging
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace

import pytest
from airflow.providers.common.compat.sdk import AirflowFailException, ObjectStoragePath, TaskDeferred
from airflow.sdk.io import attach

from airflow_amplitude_experiment.api import AmplitudeError, AmplitudeServerError, _retry
from airflow_amplitude_experiment.hooks import AmplitudeAnalyticsHook
from airflow_amplitude_experiment.operators import AmplitudeExportCohortOperator, _export
from airflow_amplitude_experiment.operators import export_cohort as module
from airflow_amplitude_experiment.operators._cohort_order import Asked, Order
from airflow_amplitude_experiment.operators._run import SHORTEST_WAIT
from airflow_amplitude_experiment.triggers import cohort as trigger_module
from airflow_amplitude_experiment.triggers._events import error_event
from tests.builders import a_context
from tests.dags import loaded

COHORT_ID = "hmzct8qe"
NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)
PEOPLE = ["anna", "ben", 'c,"q"\n', "😀", "007"]


class Time:
    """Time that passes only while somebody sleeps."""

    def __init__(self):
        self.moment = NOW
        self.sleeps = []

    def now(self):
        return self.moment

    def sleep(self, seconds):
        assert seconds >= 0
        self.sleeps.append(seconds)
        self.moment += timedelta(seconds=seconds)

    async def asleep(self, seconds):
        self.sleep(seconds)


class Store:
    """The state of a task as Airflow keeps it over its tries, from 3.3 on."""

    def __init__(self):
        self.kept = {}

    def get(self, key, default=None):
        return json.loads(self.kept[key]) if key in self.kept else default

    def set(self, key, value, **_):
        self.kept[key] = json.dumps(value)

    def delete(self, key):
        self.kept.pop(key, None)


@pytest.fixture(autouse=True)
def clock(monkeypatch):
    fake = Time()
    monkeypatch.setattr(module, "now", fake.now)
    monkeypatch.setattr(module, "time", SimpleNamespace(sleep=fake.sleep))
    monkeypatch.setattr(module, "random", SimpleNamespace(uniform=lambda low, high: low))
    monkeypatch.setattr(trigger_module, "now", fake.now)
    monkeypatch.setattr(trigger_module, "sleep", fake.asleep)
    monkeypatch.setattr(_retry, "PATIENCE", -1.0)
    monkeypatch.setattr(_retry, "FIRST_WAIT", 0.0)
    monkeypatch.setattr(AmplitudeExportCohortOperator, "log", logging.getLogger("tests.export"))
    return fake


@pytest.fixture
def amplitude(amplitude_emulator, monkeypatch):
    """The emulator with a cohort of five and one whom only a device names, and a connection to it."""
    monkeypatch.setenv("AIRFLOW_CONN_AMPLITUDE_ANALYTICS_DEFAULT", amplitude_emulator.airflow_analytics_connection())
    amplitude_emulator.add_cohort(COHORT_ID, [*PEOPLE, {"plan": "pro"}], name="Beta")
    return amplitude_emulator


def an_export(**options):
    return AmplitudeExportCohortOperator(task_id="export", **{"cohort_id": COHORT_ID, **options})


def deferral(operator, context=None):
    with pytest.raises(TaskDeferred) as deferred:
        operator.execute(context or a_context())
    return deferred.value


def resumed(operator, deferred, context=None):
    """Run the trigger to its event, and resume the task with it as Airflow does."""
    event = json.loads(json.dumps(asyncio.run(anext(deferred.trigger.run())).payload))
    return getattr(operator, deferred.method_name)(context or a_context(), event)


def exported(operator, context=None):
    """Run a deferrable task over its one wait."""
    context = context or a_context()
    return resumed(operator, deferral(operator, context), context)


def ids_of(operator):
    """Run a task without a path, and return the ids that it leaves beside its record."""
    context = a_context()
    record = exported(operator, context)
    assert "anna" not in str(record)
    return context["ti"].xcoms["ids"]


def remembering(store):
    return {**a_context(), "task_state_store": store}


def asked(emulator):
    """How many exports Amplitude was asked for."""
    return sum(
        "/cohorts/request/" in each["path"] and not each["path"].endswith("/file") for each in emulator.requests()
    )


def steps(emulator):
    parts = [each["path"].removeprefix("/api/").split("/") for each in emulator.requests()]
    return ["file" if each[-1] == "file" else each[2] if len(each) > 2 else "list" for each in parts]


def users_in(path):
    with open(path, newline="", encoding="utf-8") as file:
        return [row["user_id"] for row in csv.DictReader(file)]


# --- to a file -------------------------------------------------------------------------------------------


def test_a_cohort_becomes_a_file_and_the_record_names_nobody(amplitude, tmp_path):
    path = f"file://{tmp_path}/out/beta.csv"
    record = exported(an_export(path=path))
    assert users_in(tmp_path / "out" / "beta.csv") == [*PEOPLE, ""]
    assert record == {
        "cohort_id": COHORT_ID,
        "request_id": record["request_id"],
        "requested_at": "2026-11-22T12:00:00+00:00",
        "users": 6,
        "without_user_id": 1,
        "path": path,
    }
    assert steps(amplitude) == ["request", "request-status", "request-status", "file"]


def test_the_wait_holds_no_slot_and_looks_at_the_interval(amplitude, clock, tmp_path):
    deferred = deferral(an_export(path=f"{tmp_path}/a.csv", poll_interval="1m", timeout="3h"))
    assert deferred.timeout == timedelta(hours=3, minutes=10)
    assert datetime.fromisoformat(deferred.trigger.look_at) == NOW + timedelta(minutes=1)
    assert datetime.fromisoformat(deferred.trigger.until) == NOW + timedelta(hours=3)
    assert steps(amplitude) == ["request"]


def test_without_a_triggerer_the_task_waits_on_its_worker(amplitude, clock, tmp_path):
    record = an_export(path=f"{tmp_path}/a.csv", deferrable=False).execute(a_context())
    assert record["users"] == 6
    assert clock.sleeps == [30, 30]


def test_a_large_cohort_comes_over_the_link(amplitude, tmp_path):
    amplitude.options(cohort_inline=0)
    exported(an_export(path=f"{tmp_path}/a.csv"))
    assert users_in(tmp_path / "a.csv") == [*PEOPLE, ""]
    assert [each["status"] for each in amplitude.requests()] == [202, 202, 200, 302, 200]


def test_properties_are_columns_and_one_that_is_not_there_is_told(amplitude, tmp_path, caplog):
    exported(an_export(path=f"{tmp_path}/a.csv", props=["plan", "none"]))
    assert (tmp_path / "a.csv").read_text().startswith('"amplitude_id","user_id","plan"\n')
    assert "no column for the properties none" in caplog.text


def test_the_file_before_is_replaced_as_a_whole_or_not_at_all(amplitude, tmp_path):
    target = tmp_path / "a.csv"
    target.write_text("before")
    amplitude.fault("truncated", path="*/file", times=None)
    with pytest.raises(AmplitudeError):
        exported(an_export(path=str(target)))
    assert [each.name for each in tmp_path.iterdir()] == ["a.csv"]
    assert target.read_text() == "before"
    amplitude.clear_faults()
    exported(an_export(path=str(target)))
    assert users_in(target) == [*PEOPLE, ""]
    assert [each.name for each in tmp_path.iterdir()] == ["a.csv"]


def test_a_reader_never_sees_half_a_file(amplitude, tmp_path, monkeypatch):
    target, seen = tmp_path / "a.csv", []
    target.write_text("before")
    original = _export._copied

    def watched(parts, file):
        for part in original(parts, file):
            seen.append(target.read_text())
            yield part

    monkeypatch.setattr(_export, "_copied", watched)
    exported(an_export(path=str(target)))
    assert set(seen) == {"before"}


def test_a_web_page_is_not_written(amplitude, tmp_path):
    amplitude.fault("html", path="*/file", times=None)
    with pytest.raises(AmplitudeError, match="names amplitude_id and user_id"):
        exported(an_export(path=f"{tmp_path}/a.csv"))
    assert list(tmp_path.iterdir()) == []


def test_an_object_store_is_written_beside_and_moved(amplitude, tmp_path):
    from fsspec.implementations.memory import MemoryFileSystem

    attach("memory", conn_id="store", fs=MemoryFileSystem())
    path = ObjectStoragePath("memory://bucket/a.csv", conn_id="store")
    order = Order(COHORT_ID, False, "memory://bucket/a.csv", "store", "user_id", 1)
    take = _export.to_file(order, Asked("r1", NOW.isoformat()))
    with pytest.raises(ZeroDivisionError):
        take(part if part else 1 // 0 for part in (b'"amplitude_id","user_id"\n', b""))
    assert path.fs.find("bucket") == []
    assert take(iter([b'"amplitude_id","user_id"\n"1","anna"\n'])).users == 1
    assert [each.rpartition("/")[2] for each in path.fs.find("bucket")] == ["a.csv"]


def test_a_path_that_can_not_be_written_is_known_before_an_export_is_spent(amplitude, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="file"):
        an_export(path=f"{tmp_path}/file/a.csv").execute(a_context())
    with pytest.raises(AirflowFailException, match="nowhere"):
        an_export(path="nowhere://bucket/a.csv").execute(a_context())
    assert asked(amplitude) == 0


# --- into XCom -------------------------------------------------------------------------------------------


def test_without_a_path_the_ids_are_returned_each_once_and_exactly(amplitude):
    amplitude.add_cohort("twice", ["anna", "anna", "007", " "])
    assert ids_of(an_export()) == PEOPLE
    assert ids_of(an_export(cohort_id="twice")) == ["anna", "007"]
    record = exported(an_export(cohort_id="twice"))
    assert (record["users"], record["without_user_id"]) == (4, 1)


def test_another_column_may_be_returned(amplitude):
    assert ids_of(an_export(column="plan", props=True)) == ["pro"]
    with pytest.raises(AirflowFailException, match="column='city' is not in the file, which has 'amplitude_id'"):
        exported(an_export(column="city"))


def test_what_is_too_large_is_refused_before_an_export_is_spent(amplitude):
    with pytest.raises(AirflowFailException, match=r"has 6 users, .* max_in_xcom=5 .* Give path"):
        an_export(max_in_xcom=5).execute(a_context())
    assert steps(amplitude) == ["list"]


def test_a_cohort_that_grew_is_refused_while_it_arrives(amplitude):
    operator = an_export(max_in_xcom=4)
    amplitude.fault("status", path="/api/3/cohorts", status=200, body={"cohorts": []})
    with pytest.raises(AirflowFailException, match="has more than 4 users"):
        exported(operator)


def test_a_list_that_can_not_be_had_stands_in_no_exports_way(amplitude):
    amplitude.fault("status", path="/api/3/cohorts", status=403)
    assert ids_of(an_export()) == PEOPLE


def test_reading_stops_at_the_first_id_too_many():
    order = Order(COHORT_ID, False, None, None, "user_id", 10)
    read = []

    def parts():
        yield b'"amplitude_id","user_id"\n'
        for each in range(1_000_000):
            read.append(each)
            yield b'"1","user-%d"\n' % each

    with pytest.raises(_export.TooManyForXCom):
        _export.to_list(order)(parts())
    assert len(read) < 1000


def test_no_id_is_in_a_log_or_in_a_repr(amplitude, caplog):
    caplog.set_level(logging.INFO)
    operator = an_export()
    assert ids_of(operator)[0] == "anna"
    assert "6 users (1 without a user id) into XCom" in caplog.text
    taken = _export.Taken(1, 0, ["user_id"], ["anna"])
    assert "anna" not in f"{caplog.text}{taken!r}{vars(operator)}"


# --- an export is asked for once -------------------------------------------------------------------------


def test_a_task_that_is_tried_again_goes_on_with_its_export(amplitude, tmp_path):
    store = Store()
    operator = an_export(path=f"{tmp_path}/a.csv")
    first = deferral(operator, remembering(store))
    second = deferral(operator, remembering(store))  # the try before was lost while it waited
    assert second.trigger.request_id == first.trigger.request_id
    assert resumed(operator, second, remembering(store))["users"] == 6
    assert asked(amplitude) == 1


def test_one_whose_export_has_become_ready_takes_the_file_at_once(amplitude, tmp_path):
    store = Store()
    operator = an_export(path=f"{tmp_path}/a.csv")
    deferral(operator, remembering(store))
    amplitude.options(cohort_looks=0)
    assert operator.execute(remembering(store))["users"] == 6
    assert asked(amplitude) == 1


def test_one_whose_download_failed_takes_it_from_the_same_export(amplitude, tmp_path):
    store = Store()
    operator = an_export(path=f"{tmp_path}/a.csv")
    amplitude.fault("status", path="*/file", status=500, times=4)
    with pytest.raises(AmplitudeError):
        exported(operator, remembering(store))
    amplitude.clear_faults()
    assert operator.execute(remembering(store))["users"] == 6
    assert asked(amplitude) == 1


def test_a_task_that_succeeded_and_is_cleared_asks_anew(amplitude, tmp_path):
    store = Store()
    for _ in range(2):
        exported(an_export(path=f"{tmp_path}/a.csv"), remembering(store))
    assert store.kept == {}
    assert asked(amplitude) == 2


def test_an_export_of_yesterday_is_not_used(amplitude, clock, tmp_path):
    store = Store()
    operator = an_export(path=f"{tmp_path}/a.csv")
    deferral(operator, remembering(store))
    clock.moment += timedelta(days=1)
    deferral(operator, remembering(store))
    assert asked(amplitude) == 2


@pytest.mark.parametrize("change", [{"cohort_id": "other"}, {"props": True}])
def test_neither_is_one_of_something_else(change, amplitude, tmp_path):
    amplitude.add_cohort("other", ["zoe"])
    store = Store()
    deferral(an_export(path=f"{tmp_path}/a.csv"), remembering(store))
    deferral(an_export(path=f"{tmp_path}/a.csv", **change), remembering(store))
    assert asked(amplitude) == 2


def test_an_export_that_amplitude_forgot_is_asked_for_anew(amplitude, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    store = Store()
    operator = an_export(path=f"{tmp_path}/a.csv")
    deferral(operator, remembering(store))
    amplitude.world.exports.clear()
    assert exported(operator, remembering(store))["users"] == 6
    assert "of an earlier try is gone" in caplog.text


def test_so_is_one_that_the_connections_new_keys_do_not_open(amplitude, tmp_path):
    store = Store()
    operator = an_export(path=f"{tmp_path}/a.csv")
    deferral(operator, remembering(store))
    amplitude.fault("status", path="*/request-status/*", status=403)
    assert exported(operator, remembering(store))["users"] == 6
    assert asked(amplitude) == 2


def test_before_airflow_3_3_each_try_asks_anew(amplitude, tmp_path):
    operator = an_export(path=f"{tmp_path}/a.csv")
    deferral(operator, a_context())
    deferral(operator, a_context())
    assert asked(amplitude) == 2


# --- limits ----------------------------------------------------------------------------------------------


def test_the_limit_of_the_month_ends_the_task_at_once(amplitude, tmp_path):
    amplitude.options(cohort_downloads=0)
    with pytest.raises(AirflowFailException, match=r"Monthly limit of 0 .* first of next month"):
        an_export(path=f"{tmp_path}/a.csv").execute(a_context())
    assert asked(amplitude) == 1


def test_so_it_does_where_only_the_count_tells(amplitude, tmp_path):
    amplitude.options(cohort_downloads=0)
    amplitude.fault("rate_limit", path="*/request/*")
    with pytest.raises(AirflowFailException, match=r"0 of 0 cohort downloads of this month .* costs no download"):
        an_export(path=f"{tmp_path}/a.csv").execute(a_context())
    assert steps(amplitude) == ["request", "usage"]


def test_a_limit_of_minutes_is_waited_for_without_a_slot(amplitude, clock, tmp_path, caplog):
    amplitude.options(cohort_requests=0)
    operator = an_export(path=f"{tmp_path}/a.csv")
    deferred = deferral(operator)
    assert deferred.trigger.request_id is None
    assert datetime.fromisoformat(deferred.trigger.look_at) == NOW + timedelta(minutes=10)
    assert "At most 60 exports of a project in 10 minutes. Try again in 10 min. Asking again at" in caplog.text
    amplitude.options(cohort_requests=60)
    with pytest.raises(TaskDeferred) as again:
        resumed(operator, deferred)
    assert clock.moment == NOW + timedelta(minutes=10)
    assert datetime.fromisoformat(again.value.trigger.until) == NOW + timedelta(hours=2)  # of the task, not of the wait
    assert resumed(operator, again.value)["users"] == 6


def test_or_on_the_worker(amplitude, clock, tmp_path):
    amplitude.fault("status", status=429, body="Limit of 4 parallel cohort requests per minute.", path="*/request/*")
    assert an_export(path=f"{tmp_path}/a.csv", deferrable=False).execute(a_context())["users"] == 6
    assert clock.sleeps == [60, 30, 30]


def test_a_limit_that_outlasts_the_timeout_is_the_error(amplitude, clock, tmp_path):
    amplitude.options(cohort_requests=0)
    with pytest.raises(AmplitudeError, match="At most 60 exports"):
        an_export(path=f"{tmp_path}/a.csv", timeout="25m", deferrable=False).execute(a_context())
    assert clock.sleeps == [600, 600]


def test_a_429_without_a_word_is_waited_for_where_downloads_are_left(amplitude, clock, tmp_path):
    amplitude.fault("rate_limit", path="*/request/*")
    deferred = deferral(an_export(path=f"{tmp_path}/a.csv"))
    assert datetime.fromisoformat(deferred.trigger.look_at) == NOW + timedelta(minutes=10)


# --- other endings ---------------------------------------------------------------------------------------


def test_an_export_that_takes_too_long_is_a_timeout_that_another_try_goes_on_with(amplitude, tmp_path):
    amplitude.options(cohort_looks=10_000)
    store = Store()
    operator = an_export(path=f"{tmp_path}/a.csv", timeout="10m")
    with pytest.raises(TimeoutError, match="still in progress after 10m"):
        exported(operator, remembering(store))
    amplitude.options(cohort_looks=0)
    assert operator.execute(remembering(store))["users"] == 6
    assert asked(amplitude) == 1


@pytest.mark.parametrize("deferrable", [True, False])
def test_a_wait_in_which_nobody_answered_is_no_slow_export(deferrable, amplitude, clock, tmp_path):
    amplitude.fault("status", path="*/request-status/*", status=503, body="because", times=None)
    operator = an_export(path=f"{tmp_path}/a.csv", deferrable=deferrable)
    with pytest.raises(AmplitudeServerError, match="because"):
        exported(operator) if deferrable else operator.execute(a_context())
    assert clock.moment == NOW + timedelta(hours=2)


def test_a_look_that_fails_in_passing_is_no_end_of_a_try(amplitude, tmp_path):
    store = Store()
    operator = an_export(path=f"{tmp_path}/a.csv")
    first = deferral(operator, remembering(store))
    amplitude.fault("status", path="*/request-status/*", status=503, times=4)
    assert deferral(operator, remembering(store)).trigger.request_id == first.trigger.request_id


def test_no_export_is_spent_once_the_time_is_up(amplitude, clock, tmp_path):
    amplitude.options(cohort_requests=0)
    operator = an_export(path=f"{tmp_path}/a.csv")
    deferred = deferral(operator)
    amplitude.options(cohort_requests=60)
    clock.moment += timedelta(hours=2)  # in which no triggerer ran
    with pytest.raises(TimeoutError, match="nothing was spent"):
        resumed(operator, deferred)
    assert asked(amplitude) == 1  # which was refused


def test_no_task_is_resumed_before_its_process_has_ended(amplitude, clock, tmp_path, monkeypatch):
    operator = an_export(path=f"{tmp_path}/a.csv", timeout="5s")
    ask = AmplitudeAnalyticsHook.request_cohort

    def slowly(hook, cohort_id, **options):
        clock.moment += timedelta(seconds=4)
        return ask(hook, cohort_id, **options)

    monkeypatch.setattr(AmplitudeAnalyticsHook, "request_cohort", slowly)
    deferred, before = deferral(operator), clock.moment
    asyncio.run(anext(deferred.trigger.run()))
    assert clock.moment - before == SHORTEST_WAIT


def test_an_export_that_failed_is_told_and_not_used_again(amplitude, tmp_path):
    store = Store()
    amplitude.fault("status", path="*/request-status/*", status=200, body={"async_status": "JOB FAILED"})
    with pytest.raises(AmplitudeError, match=r"ended as 'JOB FAILED'\. Another try asks for another export"):
        exported(an_export(path=f"{tmp_path}/a.csv"), remembering(store))
    assert store.kept == {}


@pytest.mark.parametrize(("status", "says"), [(401, "secret key"), (403, "owns the cohort"), (404, "cohort's id")])
def test_what_can_not_heal_ends_the_task(status, says, amplitude, tmp_path):
    amplitude.fault("status", path="*/request/*", status=status)
    with pytest.raises(AirflowFailException, match=says):
        an_export(path=f"{tmp_path}/a.csv").execute(a_context())


def test_an_error_of_the_trigger_speaks_of_cohorts(amplitude, tmp_path):
    amplitude.fault("status", path="*/request-status/*", status=404)
    with pytest.raises(AirflowFailException, match="cohort is discoverable"):
        exported(an_export(path=f"{tmp_path}/a.csv"))


@pytest.mark.parametrize("event", [None, {}, {"status": "JOB COMPLETED"}, error_event(ValueError("because"))])
def test_an_event_that_nobody_waits_for_is_refused(event, amplitude, tmp_path):
    with pytest.raises(AirflowFailException, match=r"nobody waits for|because"):
        an_export(path=f"{tmp_path}/a.csv").execute_complete(a_context(), event)


# --- arguments -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"cohort_id": "a b"}, "cohort id is 'a b'"),
        ({"path": "s3://bucket/a.parquet"}, "must end in .csv"),
        ({"path_conn_id": "aws"}, "path_conn_id is given without path"),
        ({"props": "plan"}, "true, false or a list of names"),
        ({"props": [""]}, "props"),
        ({"props": ["None"]}, "props"),
        ({"path": ""}, "names no file"),
        ({"max_in_xcom": 0}, "from 1 to 100000"),
        ({"max_in_xcom": 10**6}, "from 1 to 100000"),
        ({"column": ""}, "column"),
        ({"column": "None"}, "column"),
        ({"poll_interval": "1s"}, "poll_interval is 1s, but must be at least 5s"),
        ({"timeout": "soon"}, "timeout='soon' is not a duration"),
    ],
)
def test_what_can_not_be_meant_is_refused_while_the_dag_is_parsed(options, says):
    with pytest.raises(ValueError, match=says):
        an_export(**options)


def test_templates_are_checked_once_they_are_rendered(amplitude, tmp_path):
    operator = an_export(cohort_id="{{ x }}", path="{{ y }}", props="{{ z }}", max_in_xcom="{{ n }}")
    operator.cohort_id, operator.path, operator.props, operator.max_in_xcom = (
        COHORT_ID,
        f"{tmp_path}/a.csv",
        "True",
        "9",
    )
    assert exported(operator)["users"] == 6
    operator.path = f"{tmp_path}/a.txt"
    with pytest.raises(AirflowFailException, match=r"must end in \.csv"):
        operator.execute(a_context())


@pytest.mark.parametrize("rendered", ["", " ", "None", None])
def test_a_path_that_renders_to_nothing_does_not_send_ids_to_xcom(rendered, amplitude):
    operator = an_export(path="{{ params.path }}")
    operator.path = rendered
    with pytest.raises(AirflowFailException, match="names no file"):
        operator.execute(a_context())
    assert amplitude.requests() == []


def test_every_argument_that_can_be_a_template_is_one():
    parameters = set(inspect.signature(AmplitudeExportCohortOperator.__init__).parameters)
    fixed = {"self", "kwargs", "deferrable", "poll_interval", "timeout"}
    assert set(AmplitudeExportCohortOperator.template_fields) == parameters - fixed


# --- in Airflow ------------------------------------------------------------------------------------------

DAG_FILE = """
from airflow.sdk import DAG, task
from airflow_amplitude_experiment.operators import AmplitudeExportCohortOperator

with DAG("exporting", schedule=None) as dag:
    to_file = AmplitudeExportCohortOperator(task_id="to_file", cohort_id="hmzct8qe", path="{path}", poll_interval=5)
    to_xcom = AmplitudeExportCohortOperator(task_id="to_xcom", cohort_id="hmzct8qe", poll_interval=5)

    @task
    def read(ids):
        assert ids[0] == "anna"
        return len(ids)

    read(to_xcom.output["ids"])
    to_file >> to_xcom
"""


def test_a_whole_run_waits_in_triggers_and_hands_on(airflow_db, amplitude, clock, tmp_path):
    text = DAG_FILE.replace("{path}", str(Path(tmp_path) / "a.csv"))
    run = loaded(airflow_db, "exporting", text).test()
    assert str(run.state) == "success"
    assert users_in(tmp_path / "a.csv") == [*PEOPLE, ""]
    found = {each.task_id: each for each in run.get_task_instances()}
    assert found["read"].xcom_pull(task_ids="read") == 5
    assert asked(amplitude) == 2
