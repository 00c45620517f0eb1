"""What a plan accepts and refuses, and that it is a value."""

from __future__ import annotations

import copy
import json
import pickle
import re
import subprocess
import sys
from datetime import timedelta

import pytest
from hypothesis import given, settings

from airflow_amplitude_experiment.rollout.plan import RolloutPlan, Stage, Window
from tests.rollout.some_plans import some_plans, utc

HOUR, DAY = timedelta(hours=1), timedelta(days=1)
FIVE_DAYS = "1% 1h, 10% 1d, 50% 1d, 100%"
OFFICE = Window("mon-thu", "09:00-16:00", "Europe/Berlin")
CHRISTMAS = ("2026-12-20T00:00:00+01:00", "2027-01-04T00:00:00+01:00")


def a_plan(text: str = FIVE_DAYS, **limits) -> RolloutPlan:
    return RolloutPlan.parse(text, **limits)


def told(plan: RolloutPlan) -> list[tuple[int, timedelta]]:
    return [(each.percentage, each.watched) for each in plan.stages]


# --- making one ---


@pytest.mark.parametrize(
    ("text", "stages"),
    [
        (FIVE_DAYS, [(1, HOUR), (10, DAY), (50, DAY), (100, DAY)]),
        ("10% 1d 12h,100%", [(10, 1.5 * DAY), (100, 1.5 * DAY)]),
        (" 5 %  90m ,\n 25%2h , 100 % ", [(5, 1.5 * HOUR), (25, 2 * HOUR), (100, 2 * HOUR)]),
        ("100%", [(100, HOUR)]),
        ("30%", [(30, HOUR)]),
    ],
)
def test_a_plan_is_read_from_a_line_of_text(text, stages):
    assert told(a_plan(text)) == stages


@pytest.mark.parametrize(
    ("text", "last"),
    [
        ("1% 2d, 10% 1h, 100%", 2 * DAY),
        ("1% 5m, 100%", HOUR),
        ("1% 1d, 100% 30m", timedelta(minutes=30)),
        ("1% 1d, 100% 0h", timedelta(0)),
    ],
)
def test_the_last_stage_is_watched_as_long_as_the_longest_before_it_unless_it_says_so(text, last):
    assert a_plan(text).stages[-1].watched == last


def test_a_simple_plan_splits_its_duration_over_the_first_five_stages():
    assert told(RolloutPlan.simple("5d")) == [(each, DAY) for each in (1, 5, 10, 25, 50, 100)]
    assert RolloutPlan.simple(timedelta(hours=10)).stages[0].watched == 2 * HOUR


@pytest.mark.parametrize(
    ("first", "last", "step", "percentages"),
    [
        (5, 100, 5, tuple(range(5, 101, 5))),
        (5, 100, 30, (5, 35, 65, 95, 100)),
        (10, 95, 40, (10, 50, 90, 95)),
        (50, 50, 10, (50,)),
        (1, 2, 100, (1, 2)),
    ],
)
def test_a_linear_plan_goes_in_equal_steps_and_ends_where_it_was_told(first, last, step, percentages):
    plan = RolloutPlan.linear(first, last, step=step, every="6h")
    assert plan.percentages == percentages
    assert {each.watched for each in plan.stages[:-1]} <= {6 * HOUR}


def test_a_plan_is_a_list_of_stages_with_bakes_as_text_or_timedelta():
    plan = RolloutPlan([Stage(10, "1d", approval=True), Stage(50, timedelta(hours=6)), Stage(100)])
    assert told(plan) == [(10, DAY), (50, 6 * HOUR), (100, DAY)]
    assert [each.approval for each in plan.stages] == [True, False, False]


def test_a_stage_keeps_its_own_guardrails():
    def errors() -> str:
        return "pass"

    plan = RolloutPlan([Stage(10, "1d"), Stage(100, guardrails=[errors])])
    assert plan.stage(100).guardrails == (errors,)
    assert "0x" not in repr(plan)


def test_where_a_plan_is_taken_a_list_of_stages_is_taken_too():
    plan = a_plan()
    assert RolloutPlan.of(plan) is plan
    assert RolloutPlan.of([Stage(10, "1d"), Stage(100)]) == a_plan("10% 1d, 100%")


def test_a_text_where_a_plan_is_taken_is_told_how_to_become_one():
    with pytest.raises(ValueError, match=r"Write RolloutPlan\.parse\('10% 1d, 100%'\)"):
        RolloutPlan.of("10% 1d, 100%")


@pytest.mark.parametrize(
    "make",
    [
        lambda **limits: RolloutPlan([Stage(10)], **limits),
        lambda **limits: RolloutPlan.parse("10%", **limits),
        lambda **limits: RolloutPlan.simple("5d", **limits),
        lambda **limits: RolloutPlan.linear(5, 10, step=5, every="6h", **limits),
    ],
)
def test_every_way_to_a_plan_takes_windows_and_freezes(make):
    plan = make(windows=(OFFICE,), freezes=(CHRISTMAS,))
    assert plan.windows == (OFFICE,)
    assert plan.freezes == ((utc("2026-12-19 23:00"), utc("2027-01-03 23:00")),)


# --- yaml ---


def yaml_file(folder, text: str):
    path = folder / "plan.yaml"
    path.write_text(text)
    return path


def test_a_plan_is_read_from_yaml(tmp_path):
    path = yaml_file(
        tmp_path,
        """
        stages:
          - 1% 1h
          - {percentage: 10, bake: 1d, approval: true}
          - percentage: 50
            bake: 1d 12h
          - 100%
        windows:
          - {days: mon-thu, hours: 09:00-16:00, timezone: Europe/Berlin}
        freezes:
          - ["2026-12-20T00:00:00+01:00", "2027-01-04T00:00:00+01:00"]
          - [2027-04-02T00:00:00Z, 2027-04-06T00:00:00Z]
        """,
    )
    bakes = [Stage(1, "1h"), Stage(10, "1d", approval=True), Stage(50, "1d 12h"), Stage(100)]
    easter = (utc("2027-04-02"), utc("2027-04-06"))
    assert RolloutPlan.from_yaml(path) == RolloutPlan(bakes, windows=[OFFICE], freezes=[CHRISTMAS, easter])
    assert RolloutPlan.from_yaml(str(path)) == RolloutPlan.from_yaml(path)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "a plan must be a mapping with stages, windows, freezes, not None"),
        ("- 1% 1h", "a plan must be a mapping"),
        ("stages: 1% 1h", "stages must be a list, not '1% 1h'"),
        ("stages: []", "a plan without a stage"),
        ("windows: []", "a plan without a stage"),
        ("stages: [10]", "a stage must be a mapping with percentage, bake, approval, not 10"),
        ("stages: [{bake: 1h}]", "has no percentage"),
        ("stages: [{percentage: 10, wait: 1h}]", "a stage has no wait. Allowed are percentage, bake, approval"),
        ("stages: [1.5% 1h, 100%]", "fractions are not possible"),
        ("stages: [{percentage: 1.5}]", "fractions are not possible"),
        ("stages: [{percentage: 10, bake: 24}, 100%]", "the bake of stage 10 %=24 has no unit. Write '24d', '24h'"),
        ("stages: [{percentage: 10, bake: 1d, approval: maybe}, 100%]", "approval='maybe' of stage 10 % is neither"),
        ("stages: [100%]\nwindow: []", "a plan has no window. Allowed are stages, windows, freezes"),
        ("stages: [100%]\nwindows: [mon-thu]", "a window must be a mapping with days, hours, timezone"),
        ("stages: [100%]\nwindows: [{zone: UTC}]", "a window has no zone"),
        ("stages: [100%]\nfreezes: [2026-12-20T00:00:00Z]", "is not a pair of moments"),
        ("stages: [100%]\nfreezes: [[2026-12-20, 2026-12-27]]", "is not a datetime"),
        ("stages: [100%", "while parsing"),
    ],
)
def test_what_a_yaml_file_may_not_say_is_refused_with_its_name(tmp_path, text, says):
    with pytest.raises(ValueError, match=rf"(?s)plan\.yaml: .*{re.escape(says)}"):
        RolloutPlan.from_yaml(yaml_file(tmp_path, text))


# --- refusals ---


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (
            "50% 1d, 10% 1d, 100%",
            "falling percentages: 50 %, then 10 %. Going down is the rollback's job (rollback_to)",
        ),
        ("10% 1d, 20% 1d, 10%", "falling percentages: 20 %, then 10 %"),
        ("11% 1d, 10%", "falling percentages: 11 %, then 10 %"),
        ("10% 1d, 10% 2d, 100%", "two stages are alike: 10 % is there twice. Leave one out."),
        ("10% 1d, 101%", "has 101 %, which is over 100. Write a whole number from 1 to 100."),
        ("1000000000000%", "which is over 100"),
        ("0.5% 1h, 100%", "has 0.5 %: fractions are not possible, because Amplitude buckets people in steps of 1 %"),
        (".5% 1h, 100%", "fractions are not possible"),
        ("10.% 1h, 100%", "fractions are not possible"),
        ("10.0% 1h, 100%", "fractions are not possible"),
        ("1/3% 1h, 100%", "has 1/3 %: fractions are not possible"),
        ("0% 1h, 100%", "has 0 %, which reaches nobody"),
        ("-10% 1h, 100%", "has -10 %, which reaches nobody"),
        ("10% -1h, 100%", "the bake of stage 10 %='-1h' is negative"),
        ("10% 0h, 100%", "stage 10 % is watched for 0s, which is an empty wait. Write how long it is watched"),
        ("10%, 100%", "stage 10 % does not say how long it is watched before the next. Write '10% 1d'"),
        ("10% soon, 100%", "the bake of stage 10 %='soon' is not a duration"),
        ("10% 1d 100%", "the bake of stage 10 %='1d 100%' is not a duration"),
        ("", "a plan without a stage. Write at least one"),
        ("  ", "a plan without a stage"),
        ("10% 1d, 100%,", "'' is not a stage of a plan"),
        ("10 1d, 100%", "'10 1d' is not a stage of a plan. Write a percentage and a wait, such as '10% 1d'."),
        ("ten% 1d", "'ten' is no whole number"),
        ("1e1% 1d", "'1e1' is no whole number"),
        ("１０% 1d", "is no whole number"),
    ],
)
def test_a_text_that_is_no_plan_is_refused_with_what_to_write(text, says):
    with pytest.raises(ValueError, match=re.escape(says)):
        a_plan(text)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: RolloutPlan([]), "a plan without a stage"),
        (lambda: RolloutPlan(()), "a plan without a stage"),
        (lambda: RolloutPlan(Stage(10)), "stages must be a list or a tuple, not Stage("),
        (lambda: RolloutPlan([10, 100]), "stages holds 10, which does not belong there"),
        (lambda: RolloutPlan([Stage(10)], windows=OFFICE), "windows must be a list or a tuple, not Window("),
        (lambda: RolloutPlan([Stage(10)], windows=["mon-thu"]), "windows holds 'mon-thu'"),
        (lambda: RolloutPlan([Stage(10)], freezes=CHRISTMAS), "is not a pair of moments"),
        (lambda: RolloutPlan([Stage(10)], freezes="Christmas"), "freezes must be a list or a tuple"),
        (lambda: RolloutPlan([Stage(10, "0h"), Stage(20)]), "which is an empty wait"),
        (lambda: RolloutPlan([Stage(10, timedelta(0)), Stage(20)]), "which is an empty wait"),
        (lambda: RolloutPlan([Stage(10, timedelta(-1)), Stage(20)]), "is negative"),
        (lambda: Stage(10, 24), "the bake of stage 10 %=24 has no unit. Write '24d', '24h' or '24m'."),
        (lambda: Stage(10, True), "is not a duration"),
        (lambda: Stage(0), "a stage has 0 %, which reaches nobody"),
        (lambda: Stage(101), "a stage has 101 %, which is over 100"),
        (lambda: Stage(0.5), "a stage has 0.5 %: fractions are not possible"),
        (lambda: Stage(10.0), "steps of 1 %"),
        (lambda: Stage("10"), "a stage has '10' for a percentage. Write a whole number"),
        (lambda: Stage(True), "a stage has True for a percentage"),
        (lambda: Stage(None), "a stage has None for a percentage"),
        (lambda: Stage(10, guardrails="errors"), "guardrails='errors' of stage 10 % is not a list of guardrails"),
        (lambda: Stage(10, guardrails=len), "is not a list of guardrails"),
        (lambda: Stage(10, guardrails={"type": "sql"}), "is not a list of guardrails"),
        (lambda: Stage(10, approval="yes"), "approval='yes' of stage 10 % is neither True nor False"),
        (lambda: RolloutPlan([Stage(10, "1d"), Stage(50, approval=True)]), "Put it on the stage before, 10 %."),
        (lambda: RolloutPlan([Stage(50, approval=True)]), "on the last stage, 50 %, would ask nothing"),
        (lambda: RolloutPlan.parse(10), "a plan's text is needed"),
        (lambda: RolloutPlan.parse(["10% 1d"]), "a plan's text is needed"),
        (lambda: RolloutPlan.simple("0d"), "which is an empty wait"),
        (lambda: RolloutPlan.simple("-5d"), "the duration of a simple plan='-5d' is negative"),
        (lambda: RolloutPlan.simple(5), "the duration of a simple plan=5 has no unit. Write '5d'"),
        (lambda: RolloutPlan.simple("a week"), "the duration of a simple plan='a week' is not a duration"),
        (lambda: RolloutPlan.linear(50, 10, step=5, every="6h"), "falling percentages: first=50 is above last=10"),
        (lambda: RolloutPlan.linear(5, 101, step=5, every="6h"), "last has 101 %, which is over 100"),
        (lambda: RolloutPlan.linear(0, 100, step=5, every="6h"), "first has 0 %, which reaches nobody"),
        (lambda: RolloutPlan.linear(5, 100, step=0, every="6h"), "step has 0 %"),
        (lambda: RolloutPlan.linear(5, 100, step=-5, every="6h"), "step has -5 %"),
        (lambda: RolloutPlan.linear(5, 100, step=2.5, every="6h"), "step has 2.5 %: fractions are not possible"),
        (lambda: RolloutPlan.linear(5, 100, step=5, every="0h"), "which is an empty wait"),
        (lambda: RolloutPlan.linear(5, 100, step=5, every=6), "every=6 has no unit"),
        (lambda: RolloutPlan.from_dict(None), "a plan must be a mapping"),
        (lambda: RolloutPlan.from_dict({"stages": [{"percentage": 10, "bake": -1}]}), "is negative"),
        (lambda: RolloutPlan.from_dict({"stages": [{"percentage": 10, "bake": True}]}), "=True is not a duration"),
    ],
)
def test_what_makes_no_plan_is_refused_when_it_is_written(make, says):
    with pytest.raises(ValueError, match=re.escape(says)):
        make()


# --- a plan is a value ---


@given(some_plans())
@settings(deadline=None)
def test_a_plan_goes_through_json_and_back_unchanged(plan):
    assert RolloutPlan.from_dict(json.loads(json.dumps(plan.as_dict()))) == plan


@given(some_plans())
@settings(deadline=None)
def test_the_text_of_a_plan_is_read_back_as_the_same_stages(plan):
    assert told(RolloutPlan.parse(str(plan))) == told(plan)


def test_the_dictionary_of_a_plan_is_plain_and_leaves_guardrails_out():
    plan = RolloutPlan(
        [Stage(10, "1d", guardrails=[len], approval=True), Stage(100, "0h")], windows=[OFFICE], freezes=[CHRISTMAS]
    )
    assert plan.as_dict() == {
        "stages": [
            {"percentage": 10, "bake": 86_400, "approval": True},
            {"percentage": 100, "bake": 0, "approval": False},
        ],
        "windows": [{"days": "mon-thu", "hours": "09:00-16:00", "timezone": "Europe/Berlin"}],
        "freezes": [["2026-12-19T23:00:00+00:00", "2027-01-03T23:00:00+00:00"]],
    }


def test_a_plan_shows_its_stages_in_one_line():
    assert str(a_plan()) == "1% 1h, 10% 1d, 50% 1d, 100% 1d"


def test_plans_that_say_the_same_are_equal_and_can_be_keys():
    assert a_plan("10% 24h, 100%") == a_plan("10% 1d, 100% 1d") != a_plan("10% 1d, 100% 2d")
    assert len({a_plan("10% 24h, 100%"), a_plan("10% 1d, 100%")}) == 1


def test_a_plan_can_not_be_changed():
    for value, name in ((a_plan(), "stages"), (Stage(10), "percentage"), (OFFICE, "hours")):
        with pytest.raises(AttributeError, match=rf"\.{name} can't be changed. Make another"):
            setattr(value, name, None)
        with pytest.raises(AttributeError, match="can't be changed"):
            delattr(value, name)


def test_a_plan_can_be_copied_and_sent_to_another_process():
    plan = a_plan(windows=(OFFICE,), freezes=(CHRISTMAS,))
    assert pickle.loads(pickle.dumps(plan)) == copy.deepcopy(plan) == plan


# --- its stages ---


def test_a_stage_is_found_by_its_percentage():
    assert a_plan().percentages == (1, 10, 50, 100)
    assert a_plan().stage(10) == Stage(10, "1d")


def test_the_stage_before_the_first_is_where_the_rollout_begins():
    plan = a_plan()
    assert [plan.previous(each) for each in plan.percentages] == [0, 1, 10, 50]
    assert plan.previous(1, 5) == 5


@pytest.mark.parametrize("ask", [RolloutPlan.stage, RolloutPlan.previous])
def test_a_percentage_that_is_no_stage_is_refused_with_the_plan(ask):
    with pytest.raises(ValueError, match=r"the plan 1% 1h, 10% 1d, 50% 1d, 100% 1d has no stage of 25 %\."):
        ask(a_plan(), 25)


# --- what it costs ---


def test_importing_a_plan_loads_neither_yaml_nor_time_zones_nor_anything_of_airflow():
    code = "import sys; import airflow_amplitude_experiment.rollout.plan; print(*sys.modules)"
    modules = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    heavy = {"yaml", "zoneinfo", "airflow", "pydantic", "httpx", "pendulum"}
    assert not heavy & set(modules)
    ours = {each.rpartition(".")[2] for each in modules if each.startswith("airflow_amplitude_experiment.rollout.")}
    assert ours == {"plan", "stages", "windows", "durations", "_value"}
