"""Users and cohorts in a variant kept in step with a source, against the emulator over real HTTP."""

from __future__ import annotations

import json
import logging
import re
import sqlite3
from contextlib import closing

import pytest
from airflow.providers.common.compat.sdk import AirflowFailException, AirflowSkipException, AssetAlias, BaseHook
from airflow.providers.common.sql.hooks.sql import DbApiHook
from airflow.sdk.execution_time.context import OutletEventAccessors

from airflow_amplitude_experiment.operators import (
    AmplitudeSyncVariantCohortsOperator,
    AmplitudeSyncVariantUsersOperator,
    _edit,
)
from airflow_amplitude_experiment.operators._assets import WRITES
from tests.builders import a_context, connect

KEY = "beta"
FREEZE = "AIRFLOW_VAR_AMPLITUDE_EXPERIMENT_FREEZE"


@pytest.fixture
def amplitude(amplitude_emulator, monkeypatch):
    """The emulator with a flag of two variants, and a connection to it."""
    amplitude_emulator.options(requests_per_second=None)
    monkeypatch.setattr(_edit, "SECONDS_BEFORE_ANOTHER_LOOK", 0.0)
    monkeypatch.setattr("airflow_amplitude_experiment.api._retry._wait", lambda _: 0.0)
    for operator in (AmplitudeSyncVariantUsersOperator, AmplitudeSyncVariantCohortsOperator):
        # Airflow 3.3 writes a task's log past ``logging``, where ``caplog`` doesn't see it.
        monkeypatch.setattr(operator, "log", logging.getLogger("tests.sync"))
    connect(monkeypatch, amplitude_emulator)
    holds(amplitude_emulator, "add_flag")
    return amplitude_emulator


def holds(emulator, how="change", *, users=(), others=(), cohorts=(), other_cohorts=(), **fields):
    """Let the flag include these in ``on``, and those in ``b``."""
    variants = [
        {"key": "on", "users": list(users), "cohorts": list(cohorts)},
        {"key": "b", "users": list(others), "cohorts": list(other_cohorts)},
    ]
    getattr(emulator, how)(KEY, variants=variants, **fields)
    emulator.clear_requests()


def an_experiment_runs(emulator, **fields):
    """Let ``exp`` be a running experiment with the variants ``on`` and ``b``."""
    emulator.add_experiment("exp", **{"variants": ["on", "b"], "enabled": True, **fields})
    emulator.clear_requests()


def sync(context=None, *, of=AmplitudeSyncVariantUsersOperator, **options):
    named = {} if {"flag_id", "experiment_key"} & options.keys() else {"flag_key": KEY}
    options = {"variant": "on", "mode": "replace", **named, **options}
    return of(task_id="sync", **options).execute(context or a_context())


def sync_cohorts(**options):
    return sync(of=AmplitudeSyncVariantCohortsOperator, **options)


def refused(match, **options):
    with pytest.raises(AirflowFailException, match=match) as error:
        sync(**options)
    return str(error.value)


def people(amount, prefix="user"):
    return [f"{prefix}-{number}" for number in range(amount)]


def included(emulator, variant="on", side="users", key=KEY):
    data = emulator.flag(key) if key == KEY else emulator.experiment(key)
    (ids,) = [each[side] for each in data["variants"] if each["key"] == variant]
    return set(ids)


def sent(emulator):
    return [request["method"] for request in emulator.requests()]


def writes(emulator):
    return [request for request in emulator.requests() if request["method"] != "GET"]


def nothing_written(emulator):
    return not writes(emulator)


# --- what is sent, and what it costs -----------------------------------------------------------------------------


def test_the_difference_is_sent_in_chunks_removals_first_and_read_back(amplitude):
    stay, go, come = people(50, "stay"), people(101, "go"), people(250, "come")
    holds(amplitude, users=[*stay, *go])
    record = sync(users=[*stay, *come])
    assert sent(amplitude) == ["GET"] * 3 + ["DELETE"] * 2 + ["POST"] * 3 + ["GET"]
    assert [len(*request["body"].values()) for request in writes(amplitude)] == [100, 1, 100, 100, 50]
    assert included(amplitude) == {*stay, *come}
    assert {name: record[name] for name in ("before", "added", "removed", "after")} == {
        "before": 151,
        "added": 250,
        "removed": 101,
        "after": 300,
    }


def test_nothing_is_removed_by_its_position(amplitude):
    holds(amplitude, users=people(150))
    sync(users=people(1))
    assert not [each for each in writes(amplitude) if re.search(r"/users/", each["path"])]


def test_where_nothing_differs_each_variant_is_read_once_and_nothing_is_sent(amplitude):
    holds(amplitude, users=["a", "b"])
    record = sync(users=["b", "a"])
    assert sent(amplitude) == ["GET"] * 3
    assert (record["written"], record["added"], record["removed"], record["after"]) == (False, 0, 0, 2)


@pytest.mark.parametrize("options", [{"check_other_variants": False}, {"mode": "remove", "users": ["z"]}])
def test_the_other_variants_are_read_only_where_they_matter(amplitude, options):
    holds(amplitude, users=["a"])
    sync(**{"users": ["a"], **options})
    assert sent(amplitude) == ["GET"] * 2


def test_by_id_it_costs_the_same(amplitude):
    holds(amplitude, users=["a"])
    sync(flag_id=amplitude.flag(KEY)["id"], users=["a"])
    assert sent(amplitude) == ["GET"] * 3


def test_the_first_500_of_another_run_are_not_sent_again(amplitude):
    holds(amplitude, users=people(500))
    sync(users=people(600))
    assert sent(amplitude) == ["GET"] * 3 + ["POST"] + ["GET"]


def test_a_variant_that_is_full_can_be_exchanged_without_passing_the_cap(amplitude):
    holds(amplitude, users=people(2000, "old"))
    record = sync(users=people(2000, "new"))
    assert {request["status"] for request in amplitude.requests()} == {200}
    assert (record["added"], record["removed"], included(amplitude)) == (2000, 2000, set(people(2000, "new")))


def test_adding_takes_nobody_out_and_removing_lets_nobody_in(amplitude):
    holds(amplitude, users=["a", "b"])
    sync(mode="add", users=["b", "c"])
    assert included(amplitude) == {"a", "b", "c"}
    sync(mode="remove", users=["c", "d"])
    assert included(amplitude) == {"a", "b"}


def test_testers_stay_and_are_not_added(amplitude):
    holds(amplitude, users=["tester", "gone"])
    record = sync(users=["new"], keep=["tester", "absent"])
    assert included(amplitude) == {"tester", "new"}
    assert record["kept"] == 1


@pytest.mark.parametrize("operator", [AmplitudeSyncVariantUsersOperator, AmplitudeSyncVariantCohortsOperator])
@pytest.mark.parametrize("nothing", [None, "None", ""])
def test_testers_that_a_task_or_a_form_did_not_name_are_not_removed(amplitude, operator, nothing):
    holds(amplitude, users=["tester"], cohorts=["tester"])
    options = {"flag_key": KEY, "variant": "on", "mode": "replace", operator.side: ["new"]}
    task = operator(task_id="sync", keep="{{ testers }}", **options)
    task.render_template_fields({"testers": nothing})
    with pytest.raises(AirflowFailException, match="keep rendered to nothing"):
        task.execute(a_context())
    assert not amplitude.requests()


@pytest.mark.parametrize("nobody", [None, [], "[]", "{{ [] }}"])
def test_that_nobody_is_kept_can_be_said(amplitude, nobody):
    holds(amplitude, users=["gone"])
    options = {"flag_key": KEY, "variant": "on", "mode": "replace", "users": ["new"]}
    task = AmplitudeSyncVariantUsersOperator(task_id="sync", keep=nobody, **options)
    task.render_template_fields({})
    assert task.execute(a_context())["removed"] == 1


def test_the_record_counts_and_names_nobody(amplitude):
    holds(amplitude, users=["gone"])
    context = a_context()
    record = sync(context, users=["person-1", "person-1", " ", None, 7], reason="nightly")
    assert record["skipped"] == {"blank": 2, "duplicate": 1}
    assert (record["read"], record["source"], record["variant"], record["mode"]) == (
        5,
        "the values given",
        "on",
        "replace",
    )
    assert (record["reason"], record["written"], record["into_running_experiment"]) == ("nightly", True, False)
    assert json.loads(json.dumps(record)) == record
    assert "person" not in json.dumps([record, context["ti"].xcoms])
    assert included(amplitude) == {"person-1", "7"}


def test_a_run_of_the_past_reads_and_writes_nothing(amplitude):
    with pytest.raises(AirflowSkipException):
        sync(a_context(run_type="backfill"), path="/there/is/no/such.csv", column="id")
    assert not amplitude.requests()


def test_the_audit_says_how_many_and_not_who(amplitude, caplog):
    with caplog.at_level(logging.INFO):
        sync(users=["person-1", "person-2"])
    lines = [each.getMessage() for each in caplog.records if each.getMessage().startswith("AUDIT")]
    intent = json.loads(lines[0].removeprefix("AUDIT "))
    assert (intent["call"], intent["variant"], intent["users_to_add"], intent["raises"]) == (
        "flags.add_users",
        "on",
        2,
        True,
    )
    assert "person" not in caplog.text


def test_one_line_says_what_was_done(amplitude, caplog):
    holds(amplitude, users=["a"])
    with caplog.at_level(logging.INFO):
        sync(users=["b", "b", ""])
    own = [each.getMessage() for each in caplog.records if (each.name, each.levelname) == ("tests.sync", "INFO")]
    assert [line for line in own if not line.startswith("AUDIT")] == [
        "flag beta, variant 'on', users: 1 before, 1 added, 1 removed, 1 after, written and read back. "
        "Mode replace, from the values given: 3 rows, 1 blank, 1 duplicate."
    ]


# --- the source --------------------------------------------------------------------------------------------------


def test_a_query_is_asked_through_its_connection(amplitude, monkeypatch, tmp_path):
    database = tmp_path / "warehouse.db"
    with closing(sqlite3.connect(database)) as connection, connection:
        connection.execute("CREATE TABLE users (id, plan)")
        connection.executemany("INSERT INTO users VALUES (?, ?)", [("007", "pro"), (8, "pro"), (9, "free")])

    class Hook(DbApiHook):
        conn_name_attr = "warehouse_conn_id"

        def get_conn(self):
            return sqlite3.connect(database)

    monkeypatch.setattr(BaseHook, "get_hook", lambda conn_id, **_: Hook())
    sql = "SELECT id FROM users WHERE plan = ?"
    record = sync(sql=sql, conn_id="warehouse", parameters=["pro"])
    assert included(amplitude) == {"007", "8"}
    assert "'warehouse'" in record["source"]


def test_a_file_is_read_by_its_column(amplitude, tmp_path):
    file = tmp_path / "users.csv"
    file.write_text("id,plan\n007,pro\n8,free\n")
    sync(path=str(file), column="id")
    assert included(amplitude) == {"007", "8"}


def test_a_source_that_fails_costs_no_request(amplitude, tmp_path):
    with pytest.raises(FileNotFoundError):
        sync(path=str(tmp_path / "none.csv"), column="id")
    assert not amplitude.requests()


def test_2001_ids_are_refused_before_the_first_request_and_the_way_out_is_named(amplitude, tmp_path):
    file = tmp_path / "users.jsonl"
    file.write_text("\n".join(f'"{each}"' for each in people(2001)))
    refused("AmplitudeSyncVariantCohortsOperator", path=str(file))
    assert not amplitude.requests()


def test_more_than_2000_may_be_removed_from_those_who_are_there(amplitude, tmp_path):
    holds(amplitude, users=["user-5", "stays"])
    file = tmp_path / "users.jsonl"
    file.write_text("\n".join(f'"{each}"' for each in people(5000)))
    sync(path=str(file), mode="remove")
    assert included(amplitude) == {"stays"}


@pytest.mark.parametrize("nobody", [[], ["", None, " "], "[]"])
def test_an_empty_source_empties_nothing_unless_told(amplitude, nobody):
    holds(amplitude, users=["a"])
    refused("allow_empty=True", users=nobody)
    assert not amplitude.requests()
    sync(users=nobody, allow_empty=True)
    assert included(amplitude) == set()


@pytest.mark.parametrize("mode", ["add", "remove"])
def test_an_empty_source_is_nothing_to_add_or_remove(amplitude, mode):
    holds(amplitude, users=["a"])
    assert sync(users=[], mode=mode)["written"] is False


@pytest.mark.parametrize("nothing", ["None", "", " "])
def test_a_task_that_returned_nothing_is_no_empty_list(amplitude, nothing):
    operator = AmplitudeSyncVariantUsersOperator(
        task_id="sync", flag_key=KEY, variant="on", users="{{ x }}", mode="replace", allow_empty=True
    )
    operator.users = nothing
    with pytest.raises(AirflowFailException, match="rendered to nothing"):
        operator.execute(a_context())
    assert not amplitude.requests()


# --- what is refused ---------------------------------------------------------------------------------------------


def test_a_variant_that_is_not_there_is_refused_with_those_that_are(amplitude):
    assert "'on', 'b'" in refused("no variant 'onn'", variant="onn", users=["a"])
    assert nothing_written(amplitude)


@pytest.mark.parametrize("mode", ["replace", "add"])
def test_whoever_is_in_another_variant_is_refused_with_its_name_and_a_count(amplitude, mode):
    holds(amplitude, others=["person-1", "person-2", "x"])
    text = refused("2 in 'b'", mode=mode, users=["person-1", "person-2", "person-3"])
    assert "person" not in text
    assert nothing_written(amplitude)
    sync(mode=mode, users=["person-1"], check_other_variants=False)
    assert included(amplitude) == {"person-1"}


def test_a_running_experiment_is_left_alone_unless_told_and_the_record_says_so(amplitude):
    an_experiment_runs(amplitude)
    refused("not randomised", experiment_key="exp", users=["a"])
    assert nothing_written(amplitude)
    record = sync(experiment_key="exp", users=["a"], into_running_experiment=True)
    assert record["into_running_experiment"] is True
    assert included(amplitude, key="exp") == {"a"}


def test_a_sync_of_before_the_start_can_be_cleared_while_the_experiment_runs(amplitude):
    an_experiment_runs(amplitude, variants=[{"key": "on", "users": ["a"]}, {"key": "b"}])
    assert sync(experiment_key="exp", users=["a"])["written"] is False


def test_an_experiment_that_has_not_started_is_synced(amplitude):
    an_experiment_runs(amplitude, enabled=False)
    assert sync(experiment_key="exp", users=["a"])["into_running_experiment"] is False


def test_a_live_flag_with_two_variants_is_synced(amplitude):
    holds(amplitude, enabled=True)
    assert sync(users=["a"])["written"] is True


def test_those_who_are_there_count_for_the_cap(amplitude):
    holds(amplitude, users=people(1950))
    refused(r"would hold 2,001 users .*cohort", mode="add", users=people(51, "new"))
    assert nothing_written(amplitude)
    sync(mode="add", users=people(50, "new"))
    assert len(included(amplitude)) == 2000


def test_testers_that_stay_count_for_the_cap(amplitude):
    holds(amplitude, users=["tester"])
    refused("2,001", users=people(2000), keep=["tester"])
    assert nothing_written(amplitude)


@pytest.mark.parametrize(("limit", "fits"), [(3, True), (2, False), ("30%", True), ("29%", False), ("{{ 3 }}", None)])
def test_a_change_above_max_change_is_refused(amplitude, limit, fits):
    holds(amplitude, users=people(10))
    options = {"users": [*people(9), "new-1", "new-2"], "max_change": limit}
    if fits is None:
        operator = AmplitudeSyncVariantUsersOperator(
            task_id="sync", flag_key=KEY, variant="on", mode="replace", **options
        )
        operator.render_template_fields({})
        assert operator.execute(a_context())["written"]
    elif fits:
        assert sync(**options)["written"]
    else:
        refused(r"3 users would change .*2 added, 1 removed", **options)
        assert nothing_written(amplitude)


def client_deployment(emulator, kind="client", **fields):
    given = {"id": "77", "projectId": "100001", "label": "web", "type": kind, "key": f"{kind}-web"}
    emulator.seed({"deployments": [given]})
    holds(emulator, deployments=["77"], **fields)


ADDRESS = "person-1@example.com"


def test_addresses_that_every_client_can_read_are_refused_unless_told(amplitude):
    client_deployment(amplitude)
    text = refused(r"1 of the 2 ids .*\(web\)", users=[ADDRESS, "x"])
    assert "person" not in text
    assert nothing_written(amplitude)
    sync(users=[ADDRESS], allow_readable_ids=True)
    assert included(amplitude) == {ADDRESS}


@pytest.mark.parametrize(
    ("kind", "mode", "requests"), [("server", "local", 1), ("client", "remote", 0)], ids=["server", "remote"]
)
def test_addresses_that_stay_on_servers_are_included(amplitude, kind, mode, requests):
    client_deployment(amplitude, kind, evaluation_mode=mode)
    sync(users=[ADDRESS])
    asked = [each for each in amplitude.requests() if each["path"] == "/api/1/deployments"]
    assert (included(amplitude), len(asked)) == ({ADDRESS}, requests)


def test_deployments_are_read_only_where_an_id_to_add_looks_like_an_address(amplitude):
    client_deployment(amplitude, users=[ADDRESS])
    sync(users=[ADDRESS, "x"])
    assert sent(amplitude) == ["GET"] * 3 + ["POST", "GET"]


# --- the connection's rules --------------------------------------------------------------------------------------


def test_a_freeze_stops_who_comes_and_not_who_goes(amplitude, monkeypatch):
    holds(amplitude, users=["a", "b"])
    monkeypatch.setenv(FREEZE, json.dumps([KEY]))
    refused("freezes beta", users=["a", "new"])
    refused("freezes beta", mode="add", users=["new"])
    assert nothing_written(amplitude)
    sync(users=["a"])
    assert included(amplitude) == {"a"}


def test_a_rule_on_keys_stops_both(amplitude, monkeypatch):
    holds(amplitude, users=["a", "b"])
    connect(monkeypatch, amplitude, deny_keys=[KEY])
    for mode, users in (("add", ["new"]), ("remove", ["a"])):
        refused("deny_keys", mode=mode, users=users)
    assert nothing_written(amplitude)


def test_testers_are_let_in_below_max_percentage_but_a_cohort_is_everybody(amplitude, monkeypatch):
    holds(amplitude, cohorts=["old"])
    connect(monkeypatch, amplitude, max_percentage=50)
    assert sync(users=["a"])["written"]
    amplitude.clear_requests()
    with pytest.raises(AirflowFailException, match="max_percentage"):
        sync_cohorts(cohorts=["new"])
    assert nothing_written(amplitude)


def test_a_read_only_connection_tells_every_request_and_sends_none(amplitude, monkeypatch, caplog):
    holds(amplitude, users=people(101, "old"))
    connect(monkeypatch, amplitude, mode="read_only")
    with caplog.at_level(logging.INFO):
        record = sync(users=people(150))
    assert nothing_written(amplitude)
    assert (record["written"], record["added"], record["removed"], record["after"]) == (False, 150, 101, 150)
    assert caplog.text.count("would send flags.remove_users") == 2
    assert caplog.text.count("would send flags.add_users") == 2
    assert "would be written (read-only, not sent)" in caplog.text


# --- what Amplitude answers --------------------------------------------------------------------------------------


def test_a_403_for_ids_that_are_all_there_is_a_success(amplitude):
    """The answer is of contradictions D3; that they are there since the list was read is somebody else's work."""
    amplitude.fault("status", status=403, body="Not Modified", after=True, method="POST")
    record = sync(users=["a", "b"])
    assert (record["after"], record["written"]) == (2, True)
    assert sent(amplitude) == ["GET"] * 3 + ["POST", "GET", "GET"]


def test_a_403_for_ids_that_are_missing_is_what_it_says(amplitude):
    amplitude.fault("status", status=403, body="No access.", method="POST")
    refused("AmplitudePermissionError", users=["a", "b"])


def test_a_refused_removal_of_ids_that_are_gone_is_a_success(amplitude):
    holds(amplitude, users=["a", "b"])
    amplitude.fault("status", status=400, body="nothing to remove", after=True, method="DELETE")
    assert sync(users=["a"])["removed"] == 1


def test_an_accepted_request_that_does_not_show_is_not_confirmed(amplitude):
    amplitude.fault("status", status=200, body="OK", method="POST")
    refused("2 users are missing in variant 'on'", users=["a", "b"])


def test_a_lost_answer_costs_one_read_and_only_what_is_missing_is_sent_again(amplitude):
    amplitude.fault("cut_after", method="POST")
    sync(users=people(150))
    assert sent(amplitude) == ["GET"] * 3 + ["POST", "GET", "POST", "GET"]
    assert len(included(amplitude)) == 150


def test_what_a_lost_answer_wrote_counts_as_written_and_is_announced(amplitude):
    amplitude.fault("cut_after", method="POST")
    context = a_context() | {"outlet_events": OutletEventAccessors()}
    record = sync(context, users=["a", "b"])
    assert len(writes(amplitude)) == 1
    assert (record["added"], record["written"]) == (2, True)
    (event,) = context["outlet_events"][AssetAlias(WRITES)].asset_alias_events
    assert event.dest_asset_key.uri == "amplitude-experiment://100001/flag/beta"


# --- nobody is named (law 8) -------------------------------------------------------------------------------------


NASTY = 'pers"on, 1\n\U0001f600'


@pytest.mark.parametrize("body", [NASTY, json.dumps({"message": NASTY}), json.dumps(NASTY)[1:9], "pers"])
@pytest.mark.parametrize(
    ("method", "status"), [("POST", 400), ("POST", 403), ("POST", 500), ("DELETE", 400), ("GET", 400)]
)
def test_an_error_that_repeats_ids_is_told_without_them(amplitude, caplog, body, method, status):
    holds(amplitude, users=["pers 0"])
    amplitude.fault("status", status=status, body=body, method=method, times=None, path="*users")
    with caplog.at_level(logging.INFO), pytest.raises(Exception, match=str(status)) as error:
        sync(users=[NASTY])
    chain, texts = error.value, []
    while chain is not None:
        texts.append(str(chain))
        chain = chain.__cause__ or (None if chain.__suppress_context__ else chain.__context__)
    assert "pers" not in " ".join([*texts, caplog.text])


def test_amplitudes_own_text_stands_in_the_log_at_debug(amplitude, caplog):
    amplitude.fault("status", status=400, body="too many of them", method="POST")
    with caplog.at_level(logging.DEBUG):
        refused("level DEBUG", users=["a"])
    assert [each.levelname for each in caplog.records if "too many of them" in each.getMessage()] == ["DEBUG"]


def test_what_can_be_no_id_is_refused_by_its_row_and_not_repeated(amplitude):
    with pytest.raises(ValueError, match="row 2") as error:
        sync(users=["person-1", 3.25])
    assert not re.search("person|3.25", str(error.value))


# --- arguments ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({}, "exactly one of users, sql, path; given: none"),
        ({"users": ["a"], "path": "x.csv"}, "given: users, path"),
        ({"sql": "select 1"}, "conn_id"),
        ({"users": ["a"], "conn_id": "x"}, "only beside sql"),
        ({"users": ["a"], "parameters": [1]}, "only beside sql"),
        ({"users": ["a"], "path_conn_id": "x"}, "only beside path"),
        ({"users": ["a"], "mode": "sync"}, "mode is 'sync'"),
        ({"users": ["a"], "variant": " "}, "variant"),
        ({"users": ["a"], "max_change": 0.1}, "max_change"),
        ({"users": ["a"], "allow_empty": "maybe"}, "allow_empty"),
        ({"users": [True]}, "row 1: a bool"),
        ({"users": people(2001)}, "2,000"),
        ({"users": ["a"], "keep": [1.5]}, "keep: .*row 1"),
        ({"users": ["a"], "keep": ""}, "keep"),
        ({"sql": " ", "conn_id": "x"}, "sql"),
        ({"sql": "select 1", "conn_id": ""}, "conn_id"),
        ({"path": ""}, "path"),
    ],
)
def test_what_can_not_be_meant_is_refused_while_the_dag_is_parsed(options, match):
    with pytest.raises(ValueError, match=match):
        AmplitudeSyncVariantUsersOperator(
            task_id="sync", **{"flag_key": KEY, "variant": "on", "mode": "replace", **options}
        )


def test_rows_are_looked_at_when_their_column_is_known():
    common = {"task_id": "sync", "flag_key": KEY, "variant": "on", "mode": "replace"}
    AmplitudeSyncVariantUsersOperator(users=[{"id": "a"}], column="{{ params.column }}", **common)
    with pytest.raises(ValueError, match="no row has a column 'uid'"):
        AmplitudeSyncVariantUsersOperator(users=[{"id": "a"}], column="uid", **common)


def test_a_set_has_the_same_order_at_every_parse():
    ids = {"d", "a", "c", "b"}
    users = AmplitudeSyncVariantUsersOperator(
        task_id="users", flag_key=KEY, variant="on", mode="add", users=ids, keep=frozenset(ids)
    )
    cohorts = AmplitudeSyncVariantCohortsOperator(
        task_id="cohorts", flag_key=KEY, variant="on", mode="add", cohorts=ids
    )
    assert users.users == users.keep == cohorts.cohorts == ["a", "b", "c", "d"]


def test_there_is_no_default_mode():
    with pytest.raises(TypeError, match="mode"):
        AmplitudeSyncVariantUsersOperator(task_id="sync", flag_key=KEY, variant="on", users=["a"])


FORM = {
    "flag_key": KEY,
    "variant": " on ",
    "mode": "replace",
    "users": '["a", 7]',
    "column": "None",
    "keep": '["tester"]',
    "max_change": "3",
    "allow_empty": "False",
    "check_other_variants": "true",
    "into_running_experiment": "",
    "allow_readable_ids": "None",
}


def filled_in(**form):
    templates = {name: f"{{{{ params.{name} }}}}" for name in FORM}
    operator = AmplitudeSyncVariantUsersOperator(task_id="sync", **templates)
    operator.render_template_fields({"params": {**FORM, **form}})
    return operator


def test_every_argument_can_come_from_a_form_as_a_text(amplitude):
    holds(amplitude, users=["tester", "gone"])
    assert filled_in().execute(a_context())["written"]
    assert included(amplitude) == {"a", "7", "tester"}


@pytest.mark.parametrize(("name", "value"), [("mode", "sync"), ("variant", ""), ("max_change", "x"), ("keep", "a, b")])
def test_what_a_form_can_not_mean_is_refused_before_the_first_request(amplitude, name, value):
    with pytest.raises(AirflowFailException, match=name):
        filled_in(**{name: value}).execute(a_context())
    assert not amplitude.requests()


# --- cohorts -----------------------------------------------------------------------------------------------------


def test_cohorts_are_synced_in_the_same_way(amplitude):
    holds(amplitude, cohorts=["gone", "stays", "pinned"], users=["somebody"])
    record = sync_cohorts(cohorts=["stays", "new"], keep=["pinned"])
    assert included(amplitude, side="cohorts") == {"stays", "new", "pinned"}
    assert included(amplitude) == {"somebody"}
    assert sent(amplitude) == ["GET"] * 3 + ["DELETE", "POST", "GET"]
    assert (record["before"], record["added"], record["removed"], record["after"]) == (3, 1, 1, 3)


def test_cohorts_that_are_there_cost_reads_only(amplitude):
    holds(amplitude, cohorts=["a"])
    assert sync_cohorts(cohorts=["a"])["written"] is False
    assert sent(amplitude) == ["GET"] * 3


def test_a_cohort_of_another_variant_is_refused(amplitude):
    holds(amplitude, other_cohorts=["c1"], others=["c2"])
    with pytest.raises(AirflowFailException, match="1 in 'b'"):
        sync_cohorts(cohorts=["c1", "c2"])
    assert nothing_written(amplitude)


def test_a_running_experiment_takes_no_cohort_unless_told(amplitude):
    an_experiment_runs(amplitude)
    with pytest.raises(AirflowFailException, match="not randomised"):
        sync_cohorts(experiment_key="exp", cohorts=["a"])
    assert sync_cohorts(experiment_key="exp", cohorts=["a"], into_running_experiment=True)["into_running_experiment"]


def test_an_empty_list_of_cohorts_is_refused_too():
    with pytest.raises(AirflowFailException, match="allow_empty=True"):
        sync_cohorts(cohorts=[])


def test_a_freeze_stops_cohorts(amplitude, monkeypatch):
    monkeypatch.setenv(FREEZE, json.dumps([KEY]))
    with pytest.raises(AirflowFailException, match="freezes"):
        sync_cohorts(cohorts=["a"])


def test_cohort_ids_may_look_like_anything_and_are_shown_in_errors(amplitude):
    amplitude.fault("status", status=400, body="cohort c1 does not exist", method="POST")
    with pytest.raises(AirflowFailException, match="cohort c1 does not exist"):
        sync_cohorts(cohorts=["c1"])
