"""The queries and functions of ``docs/guardrails.md``, run: buckets against Amplitude's SDK, queries on known data."""

from __future__ import annotations

import json
import re
import shutil
import sqlite3
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from amplitude_experiment import User
from amplitude_experiment.evaluation.murmur3 import hash32x86
from amplitude_experiment.local.client import LocalEvaluationClient
from amplitude_experiment.local.config import LocalEvaluationConfig

from airflow_amplitude_experiment.rollout.answers import answered
from airflow_amplitude_experiment.rollout.guardrails import SqlGuardrail

# The SDK's own libraries warn of their own age.
pytestmark = pytest.mark.filterwarnings("ignore")

PAGE = (Path(__file__).parents[2] / "docs" / "guardrails.md").read_text()
SALT = "Qx7Lm2Za"
START = datetime(2026, 11, 22, 9, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
UNITS = [*(f"user-{k}" for k in range(3000)), *("xyzäöü日本🙂"[:k] for k in range(1, 11)), "a" * 1001]


def block(name):
    """A block of the page by what stands after its opening fence."""
    (found,) = re.findall(rf"^```sql {name}\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)
    return found


# --- the bucket ---


def of_the_sdk(unit):
    return hash32x86(f"{SALT}/{unit}") % 100


def in_snowflake():
    source = re.search(r"\$\$(.*)\$\$", block("snowflake bucket"), re.DOTALL)[1]
    names = {}
    exec(source, names)
    return names["bucket"]


def in_bigquery(salt, units):
    body = re.search(r'r"""(.*)"""', block("bigquery bucket"), re.DOTALL)[1]
    given = json.dumps([salt, units])
    script = f"const f = (salt, unit) => {{{body}}}; const [salt, units] = {given};"
    script += "console.log(JSON.stringify(units.map((unit) => f(salt, unit))));"
    found = subprocess.run(["node", "-"], input=script, capture_output=True, text=True, check=True)
    return json.loads(found.stdout)


needs_node = pytest.mark.skipif(
    shutil.which("node") is None, reason="BigQuery's functions are JavaScript; no node here"
)


def test_the_bucket_in_snowflake_is_that_of_the_sdk():
    bucket = in_snowflake()
    assert [bucket(SALT, unit) for unit in UNITS] == [of_the_sdk(unit) for unit in UNITS]


@needs_node
def test_the_bucket_in_bigquery_is_that_of_the_sdk():
    assert in_bigquery(SALT, UNITS) == [of_the_sdk(unit) for unit in UNITS]


def test_a_unit_without_a_value_has_no_bucket():
    assert [in_snowflake()(SALT, unit) for unit in (None, "")] == [None, None]


@needs_node
def test_a_unit_without_a_value_has_no_bucket_in_bigquery_either():
    assert in_bigquery(SALT, [None, ""]) == [None, None]


def test_who_is_below_the_percentage_is_who_gets_the_flag(amplitude_emulator):
    amplitude_emulator.add_flag("nav", enabled=True, rolloutPercentage=37, bucketingSalt=SALT)
    client = LocalEvaluationClient(
        amplitude_emulator.deployment_key, LocalEvaluationConfig(server_url=amplitude_emulator.url)
    )
    client.start()
    try:
        served = {unit: client.evaluate_v2(User(user_id=unit), {"nav"})["nav"].key for unit in UNITS}
    finally:
        client.stop()
    bucket = in_snowflake()
    assert served == {unit: "on" if bucket(SALT, unit) < 37 else "off" for unit in UNITS}
    assert set(served.values()) == {"on", "off"}


# --- the queries ---

KEY, WINDOW, PERCENTAGE = "new-checkout", 600, 40
QUERIES = ["snowflake variants", "snowflake rollout", "bigquery variants", "bigquery rollout"]


def at(minutes):
    return (START + minutes * MINUTE).isoformat(timespec="seconds")


def in_sqlite(sql):
    """A query of the page with the words of its dialect replaced by those of SQLite."""
    replaced = [
        (r"%\((\w+)\)s(?:::TIMESTAMP_TZ)?", r":\1"),
        (r"TIMESTAMP\((:\w+)\)", r"\1"),
        (r"DATEADD\(second, (:\w+), ([\w.]+)\)", r"later(\2, \1)"),
        (r"TIMESTAMP_ADD\(([\w.]+), INTERVAL (:\w+) SECOND\)", r"later(\1, \2)"),
        (r"MIN_BY\(variant, exposed_at\)", "variant"),  # SQLite takes it from the row of the minimum
        (r"\bshop\.", ""),
    ]
    for old, new in replaced:
        sql = re.sub(old, new, sql)
    return sql


@pytest.fixture
def warehouse():
    connection = sqlite3.connect(":memory:")
    connection.create_function("amplitude_bucket", 2, lambda _, unit: of_the_sdk(unit))
    connection.create_function(
        "later",
        2,
        lambda when, by: (datetime.fromisoformat(when) + timedelta(seconds=by)).isoformat(timespec="seconds"),
    )
    connection.executescript(
        "CREATE TABLE exposures (user_id, flag_key, variant, exposed_at);"
        "CREATE TABLE evaluations (user_id, flag_key, evaluated_at);"
        "CREATE TABLE orders (user_id, ordered_at);"
        "CREATE TABLE loads (source, complete_until);"
    )
    sources = [("exposures", at(70)), ("evaluations", at(70)), ("orders", at(65))]
    connection.executemany("INSERT INTO loads VALUES (?, ?)", sources)
    yield connection
    connection.close()


def reaches_the_code(connection, user, minutes, variant="treatment", key=KEY):
    connection.execute("INSERT INTO exposures VALUES (?, ?, ?, ?)", (user, key, variant, at(minutes)))
    connection.execute("INSERT INTO evaluations VALUES (?, ?, ?)", (user, key, at(minutes)))


def orders(connection, user, minutes):
    connection.execute("INSERT INTO orders VALUES (?, ?)", (user, at(minutes)))


def ask(connection, name):
    """The arms as (n, sum), for the stage from 09:05 to 10:00 and ten minutes for an outcome."""
    values = {"stage_start": at(5), "stage_end": at(60), "window": WINDOW, "key": KEY, "percentage": PERCENTAGE}
    cursor = connection.execute(in_sqlite(block(name)), values)
    columns, rows = [each[0] for each in cursor.description], cursor.fetchall()
    arms = sorted(row[columns.index("variant")] for row in rows)
    found = answered(columns, rows, arms=arms, now=START + 120 * MINUTE) if rows else None
    return {arm: (sums.n, sums.sum) for arm, sums in found.arms.items()} if found else {}, found and found.as_of


ON = next(unit for unit in UNITS if of_the_sdk(unit) == PERCENTAGE - 1)
OFF = next(unit for unit in UNITS if of_the_sdk(unit) == PERCENTAGE)


def arm_of(name, user):
    return {ON: "on", OFF: "off"}[user] if name.endswith("rollout") else {ON: "treatment", OFF: "control"}[user]


@pytest.mark.parametrize("name", QUERIES)
def test_a_documented_query_can_be_given_to_a_guardrail(name):
    design = name.split()[1]
    SqlGuardrail("rate", sql=block(name), conn_id="w", harm="decrease", mde="10%", design=design, window="10m")
    values = dict.fromkeys(("stage_start", "stage_end", "percentage", "window", "key"), "x")
    assert block(name) % values  # no percent sign that a driver would stumble over


@pytest.mark.parametrize("name", QUERIES)
def test_a_documented_query_counts_each_unit_once_with_what_it_did_in_its_window(name, warehouse):
    for user, variant in ((ON, "treatment"), (OFF, "control")):
        reaches_the_code(warehouse, user, 10, variant)
        reaches_the_code(warehouse, user, 30, variant)
    orders(warehouse, ON, 12)
    orders(warehouse, ON, 13)
    arms, as_of = ask(warehouse, name)
    assert arms == {arm_of(name, ON): (1, 1), arm_of(name, OFF): (1, 0)}
    assert as_of == START + 65 * MINUTE  # the source that lags most


@pytest.mark.parametrize("name", QUERIES)
@pytest.mark.parametrize(("minutes", "counts"), [(9.99, 0), (10, 1), (19.99, 1), (20, 0)])
def test_only_outcomes_within_the_window_count(name, minutes, counts, warehouse):
    reaches_the_code(warehouse, ON, 10)
    orders(warehouse, ON, minutes)
    assert ask(warehouse, name)[0] == {arm_of(name, ON): (1, counts)}


@pytest.mark.parametrize("name", QUERIES)
@pytest.mark.parametrize(("minutes", "counted"), [(4.99, False), (5, True), (55, True), (55.02, False), (60, False)])
def test_only_units_of_this_stage_with_a_whole_window_count(name, minutes, counted, warehouse):
    reaches_the_code(warehouse, ON, minutes)
    assert bool(ask(warehouse, name)[0]) is counted


@pytest.mark.parametrize("name", QUERIES)
def test_another_flag_does_not_count(name, warehouse):
    reaches_the_code(warehouse, ON, 10, key="other")
    assert ask(warehouse, name)[0] == {}


@pytest.mark.parametrize("name", ["snowflake variants", "bigquery variants"])
def test_a_unit_counts_in_the_stage_and_the_variant_of_its_first_exposure(name, warehouse):
    reaches_the_code(warehouse, ON, 2)
    reaches_the_code(warehouse, ON, 10)
    reaches_the_code(warehouse, OFF, 20, "treatment")
    reaches_the_code(warehouse, OFF, 10, "control")
    assert ask(warehouse, name)[0] == {"control": (1, 0)}


@pytest.mark.parametrize("name", ["snowflake rollout", "bigquery rollout"])
def test_a_unit_that_came_before_counts_again_in_this_stage(name, warehouse):
    reaches_the_code(warehouse, ON, 2)
    reaches_the_code(warehouse, ON, 10)
    orders(warehouse, ON, 3)
    assert ask(warehouse, name)[0] == {"on": (1, 0)}
