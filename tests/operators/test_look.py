"""One look, against a real database: what is asked, what is remembered, and what a failing source does."""

from __future__ import annotations

import json
import logging
import sqlite3
from contextlib import closing
from datetime import UTC, datetime, timedelta

import pytest
from airflow.providers.common.compat.sdk import AirflowFailException, AirflowSkipException, BaseHook
from airflow.providers.common.sql.hooks.sql import DbApiHook

from airflow_amplitude_experiment.api.errors import AmplitudeRateLimited, AmplitudeServerError
from airflow_amplitude_experiment.hooks._chart import Chart
from airflow_amplitude_experiment.hooks.analytics import AmplitudeAnalyticsHook
from airflow_amplitude_experiment.operators._look import StageRun, Subject, lines, look
from airflow_amplitude_experiment.operators._queries import bound
from airflow_amplitude_experiment.rollout.guardrails import (
    ChartGuardrail,
    SampleRatioGuardrail,
    SqlGuardrail,
    ThresholdGuardrail,
    callables,
    described,
)

START = datetime(2026, 11, 22, 9, tzinfo=UTC)
HOUR, MINUTE = timedelta(hours=1), timedelta(minutes=1)
SUMS = """
SELECT variant, COUNT(*) AS n, SUM(y) AS sum, (SELECT MAX(loaded_at) FROM loads) AS as_of
FROM units WHERE seen_at >= :stage_start AND seen_at < :stage_end GROUP BY variant
"""
ERRORS = "SELECT AVG(y) AS value FROM units WHERE seen_at >= :stage_start AND seen_at < :stage_end"


class Warehouse:
    """A database in a file, the hook that asks it, and all that it was asked."""

    def __init__(self, path):
        self.path = path
        self.asked = []
        self.broken = None
        self.logs_queries = None
        self.run("CREATE TABLE units (variant TEXT, seen_at TEXT, y REAL)")
        self.run("CREATE TABLE loads (loaded_at TEXT)")

    def run(self, sql, *parameters):
        with closing(sqlite3.connect(self.path)) as connection, connection:
            connection.executemany(sql, parameters or [()])

    def saw(self, variant, units, conversions, at=START + HOUR / 2):
        seen = at.isoformat(timespec="seconds")
        self.run("INSERT INTO units VALUES (?, ?, ?)", *[(variant, seen, k < conversions) for k in range(units)])

    def loaded(self, at):
        self.run("INSERT INTO loads VALUES (?)", (at.isoformat(),))

    def hook(self, conn_id, **more):
        warehouse = self

        class Hook(DbApiHook):
            conn_name_attr = "warehouse_conn_id"
            placeholder = more.get("placeholder", "?")

            def get_conn(self):
                if warehouse.broken:
                    raise warehouse.broken
                return sqlite3.connect(warehouse.path)

            def run(self, sql, autocommit=False, parameters=None, handler=None, **options):
                warehouse.asked.append((sql, parameters))
                warehouse.logs_queries = self.log_sql
                return super().run(sql, autocommit, parameters, handler, **options)

        return Hook()


@pytest.fixture
def warehouse(tmp_path, monkeypatch):
    found = Warehouse(tmp_path / "warehouse.db")
    monkeypatch.setattr(BaseHook, "get_hook", found.hook)
    return found


@pytest.fixture
def healthy(warehouse):
    """A stage of 10 % in which both arms do alike, loaded until the end of its first hour."""
    warehouse.saw("control", 1000, 100)
    warehouse.saw("treatment", 1000, 100)
    warehouse.loaded(START + HOUR)
    return warehouse


def rate(name="rate", **more):
    return SqlGuardrail(name, **{"sql": SUMS, "conn_id": "w", "harm": "decrease", "mde": 0.05, **more})


def ratio(**more):
    return SampleRatioGuardrail(**{"sql": SUMS, "conn_id": "w", **more})


def errors(**more):
    return ThresholdGuardrail("errors", **{"sql": ERRORS, "conn_id": "w", "above": 0.2, **more})


def running(percentage=10, previous=0, start=START):
    return StageRun(percentage=percentage, previous=previous, start=start, end=None)


def closed(percentage, start, end, previous=0):
    return StageRun(percentage=percentage, previous=previous, start=start, end=end)


def take(*guardrails, now=START + HOUR, stages=None, memory=None, weights=None, rendered=None, functions=None, **more):
    options = {"bake_over": True, "comparisons": 1, "alpha": 0.05, **more}
    weights = weights or {"control": 1, "treatment": 1}
    seen = look(
        rendered or described(guardrails),
        subject=Subject(kind="flag", key="new-checkout", id="1", project_id="1", segment=None, weights=weights),
        stages=stages or [running()],
        memory={} if memory is None else memory,
        now=now,
        callables=callables(guardrails) if functions is None else functions,
        log=logging.getLogger("look"),
        **options,
    )
    assert json.loads(json.dumps([seen.guardrails, seen.memory])) == [seen.guardrails, seen.memory]
    return seen


# --- what is asked ---


def test_without_guardrails_a_look_passes_and_asks_nothing(warehouse):
    seen = take()
    assert (seen.verdict, seen.reason, seen.guardrails) == ("pass", "no guardrails", [])
    assert lines(seen) == ["pass: no guardrails"]


def test_a_healthy_stage_passes_and_its_line_has_the_numbers(healthy):
    seen = take(rate())
    assert seen.verdict == "pass"
    (line,) = lines(seen)
    assert line.startswith("rate: pass: no harm was shown. treatment: harm +0 (decrease; ")
    assert "always-valid p 1" in line


def test_a_breach_is_told_with_its_numbers_once(warehouse):
    warehouse.saw("control", 1000, 100)
    warehouse.saw("treatment", 1000, 0)
    warehouse.loaded(START + HOUR)
    seen = take(rate())
    assert seen.verdict == "breach"
    (line,) = lines(seen)
    assert line.count("always-valid p") == 1
    assert line.endswith("size overstated")


def test_a_query_is_asked_for_one_stage_and_its_values_are_bound_not_written_into_it(healthy):
    sql = SUMS + "HAVING :percentage > :previous_percentage AND :window >= 0 AND :key <> variant"
    take(rate(sql=sql, window="10m"), stages=[running(25, 10)])
    ((asked, bound),) = healthy.asked
    assert "stage_start" not in asked
    assert asked.count("?") == len(bound) == 6
    assert bound == [
        "2026-11-22T09:05:00+00:00",  # the stage's start, and five minutes to settle
        "2026-11-22T10:00:00+00:00",
        25,
        10,
        600,
        "new-checkout",
    ]


def test_a_driver_that_binds_by_name_gets_the_names_that_the_query_has(healthy, monkeypatch):
    monkeypatch.setattr(BaseHook, "get_hook", lambda conn_id: healthy.hook(conn_id, placeholder="%s"))
    assert take(rate()).verdict == "pass"
    ((asked, bound),) = healthy.asked
    assert asked == SUMS
    assert set(bound) == {"stage_start", "stage_end"}


def test_percent_signs_of_the_other_style_reach_every_driver_as_they_must():
    sql = "SELECT 100 %% 7 WHERE at >= %(stage_start)s AND at < %(stage_end)s"
    values = {"stage_start": "a", "stage_end": "b", "key": "k"}
    assert bound(sql, values, "%s") == (sql, {"stage_start": "a", "stage_end": "b"})
    assert bound(sql, values, "?") == ("SELECT 100 % 7 WHERE at >= ? AND at < ?", ["a", "b"])
    colons = "SELECT 100 %% 7 WHERE at >= :stage_start AND at < :stage_end"
    assert bound(colons, values, "?")[0] == "SELECT 100 %% 7 WHERE at >= ? AND at < ?"


def test_moments_are_bound_in_utc_whatever_zone_they_came_in(healthy):
    berlin = datetime.fromisoformat("2026-11-22T10:00:00+01:00")
    take(rate(), stages=[running(start=berlin)])
    assert healthy.asked[0][1][0] == "2026-11-22T09:05:00+00:00"


def test_queries_are_not_logged_at_every_look(healthy):
    take(rate())
    assert healthy.logs_queries is False


def test_a_connection_without_sql_is_no_data(monkeypatch):
    monkeypatch.setattr(BaseHook, "get_hook", lambda conn_id: object())
    seen = take(rate())
    assert (seen.verdict, seen.reason) == ("no_data", "rate: connection 'w' has no SQL hook but a object")


def test_a_query_that_returns_every_unit_is_not_fetched(healthy):
    each = "SELECT variant, 1 AS n, y AS sum, seen_at AS as_of FROM units"
    seen = take(rate(sql=f"{each} WHERE seen_at BETWEEN :stage_start AND :stage_end"))
    assert seen.verdict == "no_data"
    assert "more than 1000 rows" in seen.reason


def test_a_query_that_was_rendered_to_something_else_is_no_data(warehouse):
    (guardrail,) = described([rate(sql="{{ params.query }}")])
    seen = take(rendered=[{**guardrail, "sql": "SELECT 1"}])
    assert seen.verdict == "no_data"
    assert "no placeholder for stage_start" in seen.reason


def test_while_a_write_settles_nothing_is_asked(healthy):
    seen = take(rate(), now=START + 4 * MINUTE)
    assert seen.verdict == "no_data"
    assert "units count from 2026-11-22 09:05Z on" in seen.reason
    assert healthy.asked == []


def test_an_answer_without_an_arm_names_the_stage(warehouse):
    warehouse.saw("control", 1000, 100)
    warehouse.loaded(START + HOUR)
    seen = take(rate())
    assert seen.verdict == "no_data"
    assert seen.reason == "rate: stage of 10 %: no row for the arm 'treatment'; there are 'control'"


def test_alpha_is_shared_by_the_comparisons_of_the_rollout(healthy):
    assert take(rate(), alpha=0.04, comparisons=8).guardrails[0]["alpha_c"] == 0.005


# --- stages ---

SECOND = START + 2 * HOUR
TWO_STAGES = [closed(1, START, SECOND), running(10, 1, SECOND)]


def test_each_stage_is_asked_for_alone_and_all_count(healthy):
    healthy.saw("control", 1000, 100, SECOND + HOUR / 2)
    healthy.saw("treatment", 1000, 100, SECOND + HOUR / 2)
    healthy.loaded(SECOND + HOUR)
    seen = take(rate(), stages=TWO_STAGES, now=SECOND + HOUR)
    assert [stage["percentage"] for stage in seen.guardrails[0]["stages"]] == [1, 10]
    assert seen.guardrails[0]["comparisons"][0]["stages"] == 2
    assert [bound for _, bound in healthy.asked] == [
        ["2026-11-22T09:05:00+00:00", "2026-11-22T11:00:00+00:00"],
        ["2026-11-22T11:05:00+00:00", "2026-11-22T12:00:00+00:00"],
    ]


def test_a_closed_stage_is_asked_for_until_its_last_window_has_arrived_and_then_kept(healthy):
    guardrail = rate(window="1h")
    healthy.saw("control", 1000, 100, SECOND + HOUR / 2)
    healthy.saw("treatment", 1000, 100, SECOND + HOUR / 2)
    healthy.loaded(SECOND + HOUR - MINUTE)
    memory = take(guardrail, stages=TWO_STAGES, now=SECOND + HOUR).memory
    assert len(healthy.asked) == 2
    healthy.loaded(SECOND + 2 * HOUR)
    memory = take(guardrail, stages=TWO_STAGES, now=SECOND + 2 * HOUR, memory=memory).memory
    assert len(healthy.asked) == 4
    healthy.run("DELETE FROM units WHERE seen_at < ?", (SECOND.isoformat(),))
    seen = take(guardrail, stages=TWO_STAGES, now=SECOND + 3 * HOUR, memory=memory)
    assert len(healthy.asked) == 5
    assert seen.verdict == "pass"
    assert seen.guardrails[0]["stages"][0]["arms"]["control"]["n"] == 1000


def test_a_closed_stage_whose_counts_fell_is_no_data(healthy):
    memory = take(rate()).memory
    healthy.run("DELETE FROM units WHERE variant = 'control' AND y = 1", ())
    healthy.loaded(SECOND + HOUR)
    seen = take(rate(), stages=TWO_STAGES, now=SECOND + HOUR, memory=memory_of_stage(memory, 1))
    assert seen.verdict == "no_data"
    assert "closed stage of 1 % has 900 units in the arm 'control', and had 1000 before" in seen.reason


def memory_of_stage(memory, percentage):
    """What was remembered of the running stage, as if it had had another percentage."""
    return json.loads(json.dumps(memory).replace("10 % since", f"{percentage} % since"))


def test_what_another_query_answered_is_forgotten(healthy):
    memory = take(rate()).memory
    healthy.run("DELETE FROM units WHERE variant = 'control' AND y = 1", ())
    healthy.loaded(SECOND + HOUR)
    other = rate(sql=SUMS + "-- edited")
    seen = take(other, stages=TWO_STAGES, now=SECOND + HOUR, memory=memory_of_stage(memory, 1))
    assert "had 1000 before" not in seen.reason


def test_a_closed_stage_that_was_too_short_to_settle_is_left_out(healthy):
    healthy.saw("control", 1000, 100, SECOND + HOUR / 2)
    healthy.saw("treatment", 1000, 100, SECOND + HOUR / 2)
    healthy.loaded(SECOND + HOUR)
    stages = [closed(1, SECOND - 3 * MINUTE, SECOND), running(10, 1, SECOND)]
    assert take(rate(), stages=stages, now=SECOND + HOUR).verdict == "pass"
    assert len(healthy.asked) == 1


@pytest.mark.parametrize("seen_in_the_first", [{}, {"control": 3}])
def test_a_closed_stage_that_lacks_an_arm_is_left_out_and_hides_no_harm_of_the_running_one(
    warehouse, seen_in_the_first
):
    for variant, units in seen_in_the_first.items():
        warehouse.saw(variant, units, 1, START + HOUR)
    warehouse.saw("control", 1000, 100, SECOND + HOUR / 2)
    warehouse.saw("treatment", 1000, 0, SECOND + HOUR / 2)
    warehouse.loaded(SECOND + HOUR)
    seen = take(rate(), stages=TWO_STAGES, now=SECOND + HOUR)
    assert seen.verdict == "breach"
    assert [stage["percentage"] for stage in seen.guardrails[0]["stages"]] == [10]
    (line,) = lines(seen)
    assert "left out: stage of 1 %: " in line


def test_a_closed_stage_that_lost_an_arm_it_had_is_no_data(healthy):
    memory = take(rate()).memory
    healthy.run("DELETE FROM units WHERE variant = 'control'")
    healthy.loaded(SECOND + HOUR)
    seen = take(rate(), stages=TWO_STAGES, now=SECOND + HOUR, memory=memory_of_stage(memory, 1))
    assert seen.verdict == "no_data"
    assert "stage of 1 %: no row for the arm 'control'" in seen.reason


def test_a_stage_that_ended_earlier_than_it_was_asked_for_is_asked_for_again(warehouse):
    raised_by_hand = START + 2 * HOUR
    for at in (START + HOUR, START + 3 * HOUR):
        warehouse.saw("control", 1000, 100, at)
        warehouse.saw("treatment", 1000, 100, at)
    warehouse.loaded(START + 4 * HOUR)
    memory = take(rate(), stages=[running(1)], now=START + 4 * HOUR).memory
    stages = [closed(1, START, raised_by_hand), running(10, 1, raised_by_hand)]
    seen = take(rate(), stages=stages, now=START + 4 * HOUR, memory=memory)
    assert seen.verdict == "pass"
    assert [stage["arms"]["control"]["n"] for stage in seen.guardrails[0]["stages"]] == [1000, 1000]


def test_a_stage_that_ended_before_it_had_both_arms_is_left_out_whatever_was_asked_for_too_much(healthy):
    memory = take(rate(), stages=[running(1)]).memory
    early = START + 10 * MINUTE
    seen = take(rate(), stages=[closed(1, START, early), running(10, 1, early)], memory=memory)
    assert seen.verdict == "pass"


def test_at_100_percent_of_a_flag_nobody_is_left_to_ask_about(healthy):
    guardrails = [rate(design="rollout", window="10m"), ratio(design="rollout")]
    seen = take(*guardrails, stages=[running(100)], weights={"on": 1})
    assert seen.verdict == "pass"
    assert healthy.asked == []


# --- memory ---


def test_a_breach_latches_and_is_not_looked_at_again(warehouse):
    warehouse.saw("control", 1000, 100)
    warehouse.saw("treatment", 1000, 0)
    warehouse.loaded(START + HOUR)
    first = take(rate())
    warehouse.run("DELETE FROM units")
    again = take(rate(), memory=first.memory)
    assert again.verdict == "breach"
    assert again.guardrails == first.guardrails
    assert len(warehouse.asked) == 1


def test_a_sample_ratio_alarm_latches_and_holds_every_comparison(warehouse):
    warehouse.saw("control", 1000, 100)
    warehouse.saw("treatment", 1300, 130)
    warehouse.loaded(START + HOUR)
    advancing = rate(if_inconclusive="advance")
    first = take(advancing, ratio())
    assert [each["verdict"] for each in first.guardrails] == ["inconclusive", "inconclusive"]
    assert [each["name"] for each in first.guardrails] == ["rate", "sample ratio"]
    warehouse.saw("control", 300, 30)
    again = take(advancing, ratio(), memory=first.memory)
    assert again.verdict == "inconclusive"
    assert "sample ratio guardrail has alarmed" in again.reason


def test_an_alarm_of_an_earlier_stage_holds_where_its_guardrail_watches_no_more(warehouse):
    warehouse.saw("control", 1000, 100)
    warehouse.saw("treatment", 1300, 130)
    warehouse.loaded(START + HOUR)
    memory = take(ratio()).memory
    assert take(rate(), memory=memory).verdict == "inconclusive"


def test_without_memory_everything_starts_anew(warehouse):
    warehouse.saw("control", 1000, 100)
    warehouse.saw("treatment", 1300, 130)
    warehouse.loaded(START + HOUR)
    take(ratio())
    assert take(rate()).verdict == "pass"


def test_the_memory_that_was_handed_in_is_not_changed(healthy):
    memory = {"rate": {"errors": 2}}
    assert take(rate(), memory=memory).memory != memory
    assert memory == {"rate": {"errors": 2}}


# --- sources that went silent ---

DAY = timedelta(days=1)


@pytest.mark.parametrize("guardrail", [rate(), rate(if_inconclusive="advance"), ratio()])
def test_a_source_that_is_complete_for_less_than_half_of_the_stage_lets_nothing_pass(healthy, guardrail):
    healthy.run("DELETE FROM loads")
    healthy.loaded(START + 12 * HOUR)
    assert take(guardrail, now=START + 23 * HOUR).verdict == "pass"
    seen = take(guardrail, now=START + DAY)
    assert seen.verdict == "no_data"
    assert "complete up to 2026-11-22 21:00Z only" in seen.reason
    assert "2026-11-22 21:02Z" in seen.reason  # half of the time since the write has settled


def test_until_the_look_that_decides_a_silent_source_is_not_judged(healthy):
    assert take(rate(), now=START + DAY, bake_over=False).verdict == "inconclusive"


def test_a_silent_source_hides_no_breach(warehouse):
    warehouse.saw("control", 1000, 100)
    warehouse.saw("treatment", 1000, 0)
    warehouse.loaded(START + HOUR)
    assert take(rate(), now=START + DAY).verdict == "breach"


@pytest.mark.parametrize("begun_at", [0, 2, 4, 13, 22])
def test_a_warehouse_that_is_loaded_once_a_day_holds_a_stage_of_a_day_until_the_next_load_at_most(warehouse, begun_at):
    start = START.replace(hour=begun_at)
    for hour in range(48):
        warehouse.saw("control", 100, 10, start + hour * HOUR)
        warehouse.saw("treatment", 100, 10, start + hour * HOUR)
    midnight, stages = START.replace(hour=0), [running(start=start)]
    memory, verdicts = {}, []
    for now in (start + (24 + hour) * HOUR for hour in range(25)):
        warehouse.run("DELETE FROM loads")
        warehouse.loaded(midnight + (now - midnight - 3 * HOUR) // DAY * DAY)  # at three, until midnight
        seen = take(rate(), stages=stages, now=now, memory=memory)
        memory = seen.memory
        verdicts.append(seen.verdict)
    assert "pass" in verdicts
    assert set(verdicts[: verdicts.index("pass")]) <= {"no_data"}


def test_a_line_says_how_far_the_source_is_complete(healthy):
    assert all("source complete up to 2026-11-22 10:00Z" in line for line in lines(take(rate(), ratio())))


LAGGING = (
    "SELECT COALESCE(AVG(y), 0) AS value, (SELECT MAX(loaded_at) FROM loads) AS as_of "
    "FROM units WHERE seen_at >= :stage_start AND seen_at < :stage_end"
)


def test_a_value_that_is_told_again_passes_only_from_the_last_quarter_of_the_stage(warehouse):
    guardrail, until = errors(sql=LAGGING), START + 8 * HOUR
    warehouse.loaded(until)
    memory = take(guardrail, now=until, bake_over=False).memory
    assert take(guardrail, now=START + 10 * HOUR, memory=memory).verdict == "pass"
    assert take(guardrail, now=START + 11 * HOUR, memory=memory, bake_over=False).verdict == "pass"
    seen = take(guardrail, now=START + 11 * HOUR, memory=memory)
    assert seen.verdict == "no_data"
    assert "complete up to 2026-11-22 17:00Z only" in seen.reason
    warehouse.loaded(until + HOUR)
    assert take(guardrail, now=START + 11 * HOUR, memory=seen.memory).verdict == "pass"


def test_a_source_that_lags_and_still_moves_passes_from_the_middle_of_the_stage_on(warehouse):
    guardrail = errors(sql=LAGGING)
    warehouse.loaded(START + 4 * HOUR)
    assert take(guardrail, now=START + 9 * HOUR).verdict == "no_data"
    warehouse.loaded(START + 5 * HOUR)
    assert take(guardrail, now=START + 9 * HOUR).verdict == "pass"


def test_a_value_beyond_the_limit_counts_however_old_it_is(warehouse):
    warehouse.saw("treatment", 10, 5, START + HOUR / 2)
    warehouse.loaded(START + HOUR)
    guardrail = errors(sql=LAGGING, for_looks=2)
    first = take(guardrail, now=START + DAY)
    assert first.verdict == "inconclusive"
    assert take(guardrail, now=START + DAY, memory=first.memory).verdict == "inconclusive"
    assert take(errors(sql=LAGGING, for_looks=1), now=START + DAY).verdict == "breach"


# --- sources that fail ---


def test_a_source_that_fails_holds_and_after_too_many_times_in_a_row_is_no_data(healthy):
    healthy.broken = sqlite3.OperationalError("warehouse is suspended")
    memory, verdicts = {}, []
    for _ in range(6):
        seen = take(rate(if_inconclusive="advance"), memory=memory)
        memory = seen.memory
        verdicts.append(seen.verdict)
    assert verdicts == ["inconclusive"] * 4 + ["no_data"] * 2
    assert "OperationalError; see the log), 6 in a row, tolerated 4" in seen.reason
    healthy.broken = None
    assert take(rate(), memory=memory).verdict == "pass"


def test_one_answer_between_them_forgets_the_failures(healthy):
    memory = {}
    for broken in (True, True, False, True):
        healthy.broken = sqlite3.OperationalError("x") if broken else None
        memory = take(rate(errors_tolerated=2), memory=memory).memory
    assert memory["rate"]["errors"] == 1


def test_what_a_source_said_is_in_the_log_and_not_in_the_record(healthy, caplog):
    healthy.broken = sqlite3.OperationalError("no user u-4711")
    seen = take(rate())
    assert "u-4711" in caplog.text
    assert "u-4711" not in json.dumps(seen.guardrails) + json.dumps(seen.memory) + seen.reason


def test_a_breach_elsewhere_is_found_while_one_source_fails(healthy):
    healthy.broken = sqlite3.OperationalError("x")

    def orders_fell():
        return "breach"

    seen = take(rate(), orders_fell)
    assert seen.verdict == "breach"
    assert seen.reason == "orders_fell: orders_fell() says so"


# --- thresholds ---


def test_each_value_is_of_a_time_of_its_own(warehouse):
    memory = {}
    for look_at in (START + 15 * MINUTE, START + 30 * MINUTE, START + 45 * MINUTE):
        warehouse.saw("treatment", 10, 5, look_at - MINUTE)
        seen = take(errors(), now=look_at, memory=memory)
        memory = seen.memory
    assert [bound for _, bound in warehouse.asked] == [
        ["2026-11-22T09:05:00+00:00", "2026-11-22T09:15:00+00:00"],
        ["2026-11-22T09:15:00+00:00", "2026-11-22T09:30:00+00:00"],
        ["2026-11-22T09:30:00+00:00", "2026-11-22T09:45:00+00:00"],
    ]
    assert seen.verdict == "breach"
    assert "0.5 from 2026-11-22 09:30 to 2026-11-22 09:45Z is above 0.2, 3 of 3 in a row" in seen.reason


def test_a_source_that_lags_is_asked_again_for_what_it_had_not_yet(warehouse):
    guardrail = errors(sql=ERRORS.replace("AS value", "AS value, (SELECT MAX(loaded_at) FROM loads) AS as_of"))
    warehouse.saw("treatment", 10, 5, START + 10 * MINUTE)
    warehouse.loaded(START + 20 * MINUTE)
    memory = take(guardrail, now=START + 30 * MINUTE).memory
    assert memory["errors"]["in_a_row"] == 1
    seen = take(guardrail, now=START + 40 * MINUTE, memory=memory)
    assert (seen.verdict, warehouse.asked[-1][1][0]) == ("no_data", "2026-11-22T09:20:00+00:00")
    warehouse.saw("treatment", 10, 5, START + 30 * MINUTE)
    seen = take(guardrail, now=START + 40 * MINUTE, memory=seen.memory)
    assert (seen.verdict, seen.memory["errors"]["in_a_row"]) == ("inconclusive", 1)  # nothing newer than 09:20
    warehouse.loaded(START + 40 * MINUTE)
    assert take(guardrail, now=START + 45 * MINUTE, memory=seen.memory).memory["errors"]["in_a_row"] == 2


def test_two_looks_at_one_moment_count_once(warehouse):
    warehouse.saw("treatment", 10, 5)
    first = take(errors())
    again = take(errors(), memory=first.memory)
    assert again.guardrails == first.guardrails
    assert len(warehouse.asked) == 1


def test_values_in_a_row_go_on_over_stages_and_a_pass_needs_one_of_its_own_stage(warehouse):
    warehouse.saw("treatment", 10, 5)
    memory = take(errors()).memory
    second = [closed(10, START, START + HOUR), running(50, 10, START + HOUR)]
    seen = take(errors(), stages=second, now=START + HOUR + MINUTE, memory=memory)
    assert seen.verdict == "no_data"
    warehouse.saw("treatment", 10, 5, START + 2 * HOUR - MINUTE)
    seen = take(errors(), stages=second, now=START + 2 * HOUR, memory=memory)
    assert seen.guardrails[0]["in_a_row"] == 2


# --- charts ---


def chart(**more):
    given = {"chart_id": "abc", "series": "p95", "above": 300, **more}
    return ChartGuardrail("latency", **given)


@pytest.fixture
def charts(monkeypatch):
    """A chart by the hour, as a dict of its series; an exception in its place is raised."""
    found = {"p95": [("2026-11-22T08:00:00", 200), ("2026-11-22T09:00:00", 400), ("2026-11-22T10:00:00", 1)]}

    def answered(self, chart_id):
        if isinstance(found.get("error"), Exception):
            raise found["error"]
        return Chart(chart_id, {label: points for label, points in found.items() if label != "error"}, "UTC")

    monkeypatch.setattr(AmplitudeAnalyticsHook, "chart", answered)
    return found


LATER = START + 90 * MINUTE


def test_the_newest_complete_value_of_a_chart_counts_once(charts):
    first = take(chart(), now=LATER)
    assert first.guardrails[0]["value"] == 400
    assert first.verdict == "inconclusive"
    again = take(chart(), now=LATER + MINUTE, memory=first.memory)
    assert again.guardrails == first.guardrails
    charts["p95"] += [("2026-11-22T11:00:00", 500)]
    seen = take(chart(), now=START + 3 * HOUR, memory=again.memory)
    assert (seen.guardrails[0]["value"], seen.guardrails[0]["in_a_row"]) == (500, 2)


def test_a_ratio_of_two_series_is_treatment_over_control(charts):
    charts["control"] = [(x, 200) for x, _ in charts["p95"]]
    seen = take(chart(series=None, ratio=("p95", "control"), above=1.5, for_looks=1), now=LATER)
    assert (seen.verdict, seen.guardrails[0]["value"]) == ("breach", 2.0)


@pytest.mark.parametrize(
    ("control", "says"),
    [
        (0, "'control' is 0 in 2026-11-22T09:00:00"),
        (None, "no complete value for p95 and control"),
    ],
)
def test_a_ratio_without_a_control_is_no_data(charts, control, says):
    charts["control"] = [(x, control) for x, _ in charts["p95"]]
    seen = take(chart(series=None, ratio=("p95", "control")), now=LATER)
    assert seen.verdict == "no_data"
    assert says in seen.reason


def test_a_value_from_before_the_stage_is_no_evidence(charts):
    charts["p95"] = [("2026-11-20", 400), ("2026-11-21", 400), ("2026-11-22", 400)]
    seen = take(chart(), now=LATER)
    assert seen.verdict == "no_data"
    assert "of 2026-11-21, is from before this stage" in seen.reason
    charts["p95"] += [("2026-11-23", 400)]
    assert take(chart(), now=START + timedelta(days=1)).verdict == "inconclusive"


@pytest.mark.parametrize("value", [200, 400])
def test_a_value_from_before_the_running_stage_neither_passes_nor_breaches_it(charts, value):
    charts["p95"] = [("2026-11-20", value), ("2026-11-21", value), ("2026-11-22", value)]
    stages = [closed(1, START - timedelta(days=2), START), running(50, 1)]
    seen = take(chart(for_looks=1), now=LATER, stages=stages)
    assert seen.verdict == "no_data"
    assert "of 2026-11-21, is from before this stage" in seen.reason
    charts["p95"] += [("2026-11-23", value)]
    assert take(chart(for_looks=1), now=START + timedelta(days=1), stages=stages).verdict in ("pass", "breach")


def test_an_hour_that_was_over_before_the_stage_began_is_no_evidence_either(charts):
    assert take(chart(for_looks=1), now=START + 70 * MINUTE).verdict == "breach"
    late = [running(start=START + 65 * MINUTE)]
    assert take(chart(for_looks=1), now=START + 70 * MINUTE, stages=late).verdict == "no_data"


def test_a_chart_without_the_series_is_no_data(charts):
    seen = take(chart(series="p99"), now=LATER)
    assert seen.verdict == "no_data"
    assert "no series 'p99'; it has 'p95'" in seen.reason


def test_waiting_for_the_quota_is_no_failure_however_long_it_lasts(charts):
    charts["error"] = AmplitudeRateLimited("wait", status=429, method="GET", path="/chart")
    memory = {}
    for _ in range(6):
        seen = take(chart(), now=LATER, memory=memory)
        memory = seen.memory
    assert seen.verdict == "inconclusive"


def test_a_chart_that_can_not_be_read_is_a_failing_source(charts):
    charts["error"] = AmplitudeServerError("oops", status=500, method="GET", path="/chart")
    seen = take(chart(errors_tolerated=0), now=LATER)
    assert seen.verdict == "no_data"
    assert "AmplitudeServerError" in seen.reason


# --- callables ---


@pytest.mark.parametrize("said", ["pass", "breach", "inconclusive", "no_data"])
def test_a_function_says_its_verdict(said):
    def checked():
        return said

    assert take(checked).verdict == said


def test_a_function_is_given_what_it_asks_for_by_name():
    seen = {}

    def some(percentage, key):
        seen["some"] = (percentage, key)
        return "pass"

    def everything(**offered):
        seen["all"] = offered
        return "pass"

    take(some, everything, stages=[running(25, 10)])
    assert seen["some"] == (25, "new-checkout")
    assert seen["all"] == {
        "stage_start": START,
        "stage_end": START + HOUR,
        "percentage": 25,
        "previous_percentage": 10,
        "key": "new-checkout",
    }


@pytest.mark.parametrize("returned", [None, True, "ok", "PASS", ["pass"]])
def test_a_function_that_returns_anything_else_never_passes(returned):
    def checked():
        return returned

    seen = take(checked)
    assert seen.verdict == "no_data"
    assert "one of 'breach', 'no_data', 'inconclusive', 'pass'" in seen.reason


def test_a_function_that_raises_is_a_failing_source():
    def checked():
        raise RuntimeError("x")

    memory, verdicts = {}, []
    for _ in range(5):
        seen = take(checked, memory=memory)
        memory = seen.memory
        verdicts.append(seen.verdict)
    assert verdicts == ["inconclusive"] * 4 + ["no_data"]


@pytest.mark.parametrize("ending", [AirflowFailException, AirflowSkipException])
def test_a_function_may_end_the_task_itself(ending):
    def checked():
        raise ending("enough")

    with pytest.raises(ending):
        take(checked)


@pytest.mark.parametrize("ending", [AirflowFailException, AirflowSkipException])
@pytest.mark.parametrize("first", ["found", "ends"])
def test_a_function_that_ends_the_task_throws_no_breach_away(ending, first):
    def ends():
        raise ending("enough")

    def found():
        return "breach"

    seen = take(*([found, ends] if first == "found" else [ends, found]))
    assert (seen.verdict, seen.reason) == ("breach", "found: found() says so")
    (ended,) = [each for each in seen.guardrails if each["name"] == "ends"]
    assert (ended["verdict"], ended["reason"]) == ("inconclusive", f"it ended the task itself ({ending.__name__})")


def test_a_breach_of_before_outlasts_a_function_that_ends_the_task():
    def ends():
        raise AirflowFailException("enough")

    def found():
        return "breach"

    memory = take(found).memory
    assert take(ends, found, memory=memory).verdict == "breach"


def test_all_are_asked_before_a_function_ends_the_task():
    asked = []

    def ends():
        raise AirflowFailException("enough")

    def other():
        asked.append("other")
        return "pass"

    with pytest.raises(AirflowFailException, match="enough"):
        take(ends, other)
    assert asked == ["other"]


def test_a_breach_of_a_function_latches_too():
    answers = iter(["breach", "pass"])

    def checked():
        return next(answers)

    first = take(checked)
    assert take(checked, memory=first.memory).verdict == "breach"


def test_a_function_that_the_dag_has_no_more_is_no_data():
    def checked():
        return "pass"

    assert take(checked, functions={}).verdict == "no_data"
