"""What a DAG file may say of guardrails, and what is refused before anything runs."""

from __future__ import annotations

import functools
import json
import subprocess
import sys
from datetime import timedelta

import pytest

from airflow_amplitude_experiment.rollout._stated import placeholders
from airflow_amplitude_experiment.rollout.guardrails import (
    ChartGuardrail,
    SampleRatioGuardrail,
    SqlGuardrail,
    ThresholdGuardrail,
    callables,
    comparisons,
    defined,
    described,
    refuse_design,
)
from airflow_amplitude_experiment.rollout.statistics import tau

SQL = "SELECT variant, n, sum, as_of FROM sums WHERE at >= %(stage_start)s AND at < %(stage_end)s"


def sql_guardrail(name="checkout rate", **more):
    return SqlGuardrail(name, **{"sql": SQL, "conn_id": "warehouse", "harm": "decrease", "mde": 0.02, **more})


def sample_ratio(**more):
    return SampleRatioGuardrail(**{"sql": SQL, "conn_id": "warehouse", **more})


def threshold(**more):
    return ThresholdGuardrail("errors", **{"sql": SQL, "conn_id": "warehouse", "above": 0.02, **more})


def chart(**more):
    return ChartGuardrail("latency", **{"chart_id": "abc123", "above": 1.1, "series": "p95", **more})


def latency_is_low(percentage):
    return "pass"


def test_what_is_not_stated_is_what_the_design_says():
    found = sql_guardrail()
    assert (found.design, found.control, found.pass_when, found.if_inconclusive) == (
        "variants",
        "control",
        "no_breach",
        "hold",
    )
    assert (found.settle, found.window, found.errors_tolerated) == (timedelta(minutes=5), None, 4)
    assert sample_ratio().name == "sample ratio"
    assert threshold().for_looks == chart().for_looks == 3
    assert chart().conn_id == "amplitude_analytics_default"


@pytest.mark.parametrize("name", ["harm", "mde", "sql", "conn_id"])
def test_what_would_be_a_guess_has_no_default(name):
    given = {"sql": SQL, "conn_id": "warehouse", "harm": "decrease", "mde": 0.02}
    del given[name]
    with pytest.raises(TypeError, match=name):
        SqlGuardrail("x", **given)


REFUSED = {
    "no name": (lambda: sql_guardrail(""), "must be a text of one line"),
    "a name of two lines": (lambda: sql_guardrail("a\nb"), "must be a text of one line"),
    "a long name": (lambda: sql_guardrail("x" * 101), "at most 100 characters"),
    "no query": (lambda: sql_guardrail(sql=" "), "sql=' ' must be a text"),
    "no connection": (lambda: sql_guardrail(conn_id=None), "conn_id=None must be a text"),
    "a query without its stage": (
        lambda: sql_guardrail(sql="SELECT 1"),
        "no placeholder for stage_start and stage_end",
    ),
    "a query without its end": (lambda: sql_guardrail(sql="SELECT :stage_start"), "no placeholder for stage_end"),
    "a placeholder in a text": (
        lambda: sql_guardrail(sql="SELECT ':stage_start', %(stage_end)s"),
        "no placeholder for stage_start",
    ),
    "two styles": (lambda: sql_guardrail(sql="SELECT %(stage_start)s, :stage_end"), "mixes placeholders"),
    "an unknown harm": (lambda: sql_guardrail(harm="worse"), "harm='worse' is unknown; use 'decrease' or 'increase'"),
    "an unknown design": (lambda: sql_guardrail(design="flag"), "use 'variants' or 'rollout'"),
    "an unknown pass": (lambda: sql_guardrail(pass_when="ok"), "use 'no_breach' or 'harm_ruled_out'"),
    "an unknown answer": (lambda: sql_guardrail(if_inconclusive=True), "use 'hold' or 'advance'"),
    "an mde of nothing": (lambda: sql_guardrail(mde=0), "above 0"),
    "an mde in words": (lambda: sql_guardrail(mde="a lot"), "above 0"),
    "a negative share": (lambda: sql_guardrail(mde="-5%"), "above 0"),
    "no control": (lambda: sql_guardrail(control=""), "control='' must be a text"),
    "a rollout without window": (lambda: sql_guardrail(design="rollout"), "needs window"),
    "an empty window": (lambda: sql_guardrail(window="0s"), "window='0s' is empty"),
    "a window in words": (lambda: sql_guardrail(window="a while"), "window of guardrail 'checkout rate'='a while'"),
    "a negative settle": (lambda: threshold(settle=-1), "is negative"),
    "errors tolerated in halves": (lambda: sample_ratio(errors_tolerated=0.5), "a whole number, 0 or more"),
    "a sample ratio by guess": (lambda: sample_ratio(design="flag"), "use 'variants' or 'rollout'"),
    "no limit": (lambda: threshold(above=None), "exactly one limit"),
    "two limits": (lambda: threshold(below=0.01), "exactly one limit"),
    "a limit in words": (lambda: threshold(above="2%"), "must be a finite number"),
    "no finite limit": (lambda: chart(above=float("nan")), "must be a finite number"),
    "no look": (lambda: threshold(for_looks=0), "for_looks=0 must be a whole number, 1 or more"),
    "no chart": (lambda: chart(chart_id=""), "chart_id='' must be a text"),
    "no series": (lambda: chart(series=None), "exactly one of series"),
    "series and ratio": (lambda: chart(ratio=("a", "b")), "exactly one of series"),
    "half a ratio": (lambda: chart(series=None, ratio=("a",)), "two labels of series"),
    "a ratio in one text": (lambda: chart(series=None, ratio="ab"), "two labels of series"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_can_not_be_meant_is_refused_when_it_is_written(case):
    make, says = REFUSED[case]
    with pytest.raises(ValueError, match=says.replace("(", r"\(")):
        make()


@pytest.mark.parametrize("sql", ["queries/checkout.sql", "{{ params.query }}", "{% include 'checkout.sql' %}"])
def test_a_query_that_is_rendered_later_is_checked_later(sql):
    found = sql_guardrail(sql=sql).as_dict()
    with pytest.raises(ValueError, match="no placeholder"):
        defined({**found, "sql": "SELECT 1"})


MDES = [0.02, 1, "20%", " 2.5 % ", 0, -1, True, None, "20", "%", "0%", "20%%", "nan%", "inf%", [1], float("nan")]


@pytest.mark.parametrize("mde", MDES)
def test_an_mde_is_accepted_where_the_statistics_can_read_it(mde):
    def accepted(read):
        try:
            read()
        except ValueError:
            return False
        return True

    assert accepted(lambda: sql_guardrail(mde=mde)) is accepted(lambda: tau(mde, 1.0))


def test_a_guardrail_can_not_be_changed():
    with pytest.raises(AttributeError, match="can't be changed"):
        sql_guardrail().mde = 1


EACH = [
    sql_guardrail(),
    sql_guardrail("b", design="rollout", window="1d 12h", harm="either", mde="20%", settle=7200),
    sample_ratio(),
    threshold(),
    chart(),
    chart(series=None, ratio=("treatment", "control")),
]


@pytest.mark.parametrize("guardrail", EACH, ids=lambda each: f"{each.type} {each.name}")
def test_a_guardrail_reaches_its_task_as_plain_json_and_is_the_same_there(guardrail):
    assert defined(json.loads(json.dumps(guardrail.as_dict()))) == guardrail


def test_a_guardrail_of_a_type_that_is_not_known_is_refused():
    with pytest.raises(ValueError, match="unknown type 'guess'"):
        defined({"type": "guess", "name": "x"})


def test_a_function_is_a_guardrail_under_its_own_name():
    assert described([latency_is_low]) == [{"type": "callable", "name": "latency_is_low"}]
    assert callables([sql_guardrail(), latency_is_low]) == {"latency_is_low": latency_is_low}


@pytest.mark.parametrize("given", [lambda: "pass", functools.partial(latency_is_low, 1)], ids=["lambda", "partial"])
def test_a_function_without_a_name_of_its_own_is_refused(given):
    with pytest.raises(ValueError, match="without a name of its own"):
        described([given])


@pytest.mark.parametrize("given", ["SELECT 1", None, SqlGuardrail, {"type": "sql"}])
def test_what_is_no_guardrail_is_refused(given):
    with pytest.raises(ValueError, match="is not a guardrail"):
        described([given])


def test_two_guardrails_of_one_name_are_refused():
    with pytest.raises(ValueError, match="two guardrails are named 'checkout rate'"):
        described([sql_guardrail(), sql_guardrail(mde=0.01)])


@pytest.mark.parametrize(
    ("guardrails", "arms", "expected"),
    [
        ([], ["control", "treatment"], 1),
        ([sample_ratio(), threshold(), chart(), latency_is_low], ["control", "treatment"], 1),
        ([sql_guardrail()], ["control", "treatment"], 1),
        ([sql_guardrail()], ["control", "a", "b"], 2),
        ([sql_guardrail(harm="either")], ["control", "a", "b"], 4),
        ([sql_guardrail(), sql_guardrail("b", harm="either")], ["control", "a", "b"], 6),
        ([sql_guardrail(design="rollout", window="1h")], ["a", "b", "c"], 1),
        ([sql_guardrail(control="a")], ["a", "b"], 1),
    ],
)
def test_metrics_arms_and_directions_share_alpha(guardrails, arms, expected):
    assert comparisons(described(guardrails), arms) == expected


def test_a_guardrail_that_watches_several_stages_counts_once():
    same = described([sql_guardrail()])
    assert comparisons([*same, *same], ["control", "treatment"]) == 1


ONE, TWO = {"on": 1}, {"control": 1, "treatment": 1}


@pytest.mark.parametrize("guardrail", [sql_guardrail(), sample_ratio()], ids=["comparison", "sample ratio"])
def test_comparing_variants_of_a_flag_with_one_variant_is_refused_with_the_way_out(guardrail):
    (finding,) = refuse_design(described([guardrail]), ONE)
    assert "one variant, 'on', is served" in finding
    assert "design='rollout'" in finding
    assert "serve two variants 1:1" in finding


def test_a_variant_of_weight_zero_is_nobody_to_compare_with():
    (finding,) = refuse_design(described([sql_guardrail()]), {"control": 0, "treatment": 1})
    assert "one variant, 'treatment'" in finding


def test_a_control_that_is_not_served_is_refused():
    (finding,) = refuse_design(described([sql_guardrail(control="old")]), TWO)
    assert "control='old', which is not served; served are control, treatment" in finding


def test_a_design_that_fits_is_not_refused():
    guardrails = [sql_guardrail(), sample_ratio(), threshold(), chart(), latency_is_low]
    assert refuse_design(described(guardrails), TWO) == []
    alone = [sql_guardrail(design="rollout", window="1h"), sample_ratio(design="rollout"), threshold()]
    assert refuse_design(described(alone), ONE) == []


@pytest.mark.parametrize(
    ("sql", "expected"),
    [
        ("at >= %(stage_start)s", ["%(stage_start)s"]),
        ("at >= :stage_start AND flag = :key", [":stage_start", ":key"]),
        ("at::stage_start", []),
        ("payload:key = 1 AND x['a']:key", []),
        ("':key' -- :key\n /* :key */ , 'it''s :key'", []),
        (":percentages", []),
    ],
)
def test_placeholders_are_told_from_what_only_looks_like_them(sql, expected):
    assert [each.group() for each in placeholders(sql)] == expected


def test_a_dag_file_that_states_guardrails_loads_nothing_that_asks_or_judges():
    package = "airflow_amplitude_experiment"
    names = "api.models", "rollout.statistics", "rollout.verdicts", "operators._look"
    heavy = [f"{package}.{each}" for each in names]
    script = f"import sys, {package}.rollout.guardrails; print([each for each in {heavy!r} if each in sys.modules])"
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert found.stdout.strip().splitlines()[-1] == "[]"
