"""What Airflow keeps of a sync in its database: on a real run nobody is named there, however the ids are given."""

from __future__ import annotations

import sqlite3
from contextlib import closing

from airflow.providers.standard.operators.empty import EmptyOperator
from airflow.sdk import DAG

from airflow_amplitude_experiment.operators import AmplitudeSyncVariantUsersOperator
from airflow_amplitude_experiment.operators.sync import Unseen
from tests.dags import loaded

DAG_FILE = """
from airflow.sdk import DAG, task
from airflow.providers.standard.operators.empty import EmptyOperator
from airflow.sdk import DAG

from airflow_amplitude_experiment.operators import AmplitudeSyncVariantUsersOperator

Sync = AmplitudeSyncVariantUsersOperator
common = {"variant": "on", "mode": "replace", "check_other_variants": False}

with DAG("unseen", schedule=None):

    @task
    def people():
        return ["pimper" "nel-1", "pimper" "nel-{{ reversed }}"]

    @task
    def testers():
        return ["pimper" "nel-tester"]

    @task
    def groups():
        return [["pimper" "nel-3", "pimper" "nel-{{ reversed }}"]]

    chosen, kept = people(), testers()
    Sync(task_id="output", flag_key="output", users=chosen, keep=kept, **common)
    Sync.partial(task_id="flags", users=chosen, keep=kept, **common).expand(flag_key=["mapped_1", "mapped_2"])
    Sync.partial(task_id="lists", flag_key="lists", **common).expand(users=groups())
    text = "{{ ti.xcom_pull(task_ids='people') | tojson }}"
    Sync(task_id="text", flag_key="text", users=text, **common).set_upstream(chosen)
"""
KEYS = ["output", "mapped_1", "mapped_2", "lists", "text"]


def test_ids_are_in_no_table_but_the_xcoms_of_the_tasks_that_returned_them(airflow_db, amplitude_emulator, monkeypatch):
    amplitude_emulator.options(requests_per_second=None)
    connection = amplitude_emulator.airflow_connection(requests_per_second=1000)
    monkeypatch.setenv("AIRFLOW_CONN_AMPLITUDE_EXPERIMENT_DEFAULT", connection)
    for key in KEYS:
        amplitude_emulator.add_flag(key, variants=[{"key": "on", "users": ["pimpernel-tester", "pimpernel-gone"]}])
    run = loaded(airflow_db, "unseen", DAG_FILE).test()
    assert run.state == "success"
    included = {key: set(amplitude_emulator.flag(key)["variants"][0]["users"]) for key in KEYS}
    both = {"pimpernel-1", "pimpernel-{{ reversed }}"}
    assert included == {
        "output": {*both, "pimpernel-tester"},
        "mapped_1": {*both, "pimpernel-tester"},
        "mapped_2": {*both, "pimpernel-tester"},
        "lists": {"pimpernel-3", "pimpernel-{{ reversed }}"},
        "text": both,
    }
    tables = everything(airflow_db)
    assert {name for name, text in tables.items() if "pimpernel" in text} == {"xcom"}
    assert tables["rendered_task_instance_fields"].count("<ids, not shown>") >= 8
    assert own_xcoms_name_nobody(airflow_db)


def everything(airflow_db):
    """Return the whole text of every table of Airflow's database."""
    with closing(sqlite3.connect(airflow_db / "airflow.db")) as database:
        names = [name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        return {name: repr(database.execute(f'SELECT * FROM "{name}"').fetchall()) for name in names}


def own_xcoms_name_nobody(airflow_db):
    with closing(sqlite3.connect(airflow_db / "airflow.db")) as database:
        rows = database.execute("SELECT value FROM xcom WHERE task_id IN ('output', 'flags', 'lists', 'text')")
        texts = [str(value) for (value,) in rows]
    return texts and not [text for text in texts if "pimpernel" in text]


def test_what_hides_ids_shows_none_of_them():
    hidden = Unseen(["pimpernel"])
    assert "pimpernel" not in f"{hidden} {hidden!r} {hidden.serialize()}"


def test_only_the_fields_with_ids_are_hidden():
    operator = AmplitudeSyncVariantUsersOperator(
        task_id="sync", flag_key="{{ key }}", variant="{{ key }}", users=["{{ key }}"], mode="add", keep="{{ keep }}"
    )
    operator.render_template_fields({"key": "k", "keep": "['t']"})
    shown = {field: getattr(operator, field) for field in operator.template_fields}
    assert {field for field, value in shown.items() if isinstance(value, Unseen)} == {"users", "keep"}
    assert (shown["flag_key"], shown["variant"], shown["users"].value) == ("k", "k", ["k"])


def test_a_task_whose_output_is_used_comes_first_also_where_the_sync_is_mapped():
    common = {"variant": "on", "mode": "replace"}
    with DAG("order"):
        chosen, kept = EmptyOperator(task_id="chosen"), EmptyOperator(task_id="kept")
        options = {"users": chosen.output, "keep": kept.output, **common}
        plain = AmplitudeSyncVariantUsersOperator(task_id="plain", flag_key="f", **options)
        mapped = AmplitudeSyncVariantUsersOperator.partial(task_id="mapped", **options).expand(flag_key=["f", "g"])
    assert plain.upstream_task_ids == {"chosen", "kept"}
    assert mapped.upstream_task_ids == {"chosen", "kept"}
