"""What a preview shows before a rollout starts, and the tooltip that is the same at every parse."""

from __future__ import annotations

import re
import subprocess
import sys
from datetime import datetime, timedelta
from math import inf, nan, sqrt

import pytest
from hypothesis import given, settings

from airflow_amplitude_experiment.rollout.plan import RolloutPlan, Stage, Window
from tests.rollout.some_plans import moments, some_plans, utc

HOUR, DAY = timedelta(hours=1), timedelta(days=1)
NINE = utc("2026-11-23 09:00")  # a Monday
OFFICE = Window("mon-thu", "09:00-16:00", "Europe/Berlin")
CHRISTMAS = ("2026-12-20T00:00:00+01:00", "2027-01-04T00:00:00+01:00")


def a_plan(text: str = "1% 1h, 10% 1d, 50% 1d, 100%", **limits) -> RolloutPlan:
    return RolloutPlan.parse(text, **limits)


def told(preview) -> list[tuple[int, int, datetime]]:
    return [(each.before, each.percentage, each.reached) for each in preview.stages]


# --- stages ---


def test_every_stage_is_shown_with_its_dates_and_who_is_new():
    preview = a_plan().preview(NINE)
    assert told(preview) == [
        (0, 1, NINE),
        (1, 10, NINE + HOUR),
        (10, 50, NINE + HOUR + DAY),
        (50, 100, NINE + HOUR + 2 * DAY),
    ]
    assert [each.new for each in preview.stages] == [1, 9, 40, 50]
    assert [each.until - each.reached for each in preview.stages] == [HOUR, DAY, DAY, DAY]


@given(some_plans(), moments)
@settings(max_examples=50, deadline=None)
def test_a_preview_tells_what_the_plan_will_do(plan, start):
    preview = plan.preview(start)
    assert [each.reached for each in preview.stages] == plan.reached(start)
    assert [each.watched for each in preview.stages] == [each.watched for each in plan.stages]
    assert sum(each.new for each in preview.stages) == plan.percentages[-1]


def test_a_rollout_that_goes_on_leaves_out_the_stages_below_and_stands_on_its_own():
    preview = a_plan(windows=(OFFICE,)).preview(utc("2026-11-22 09:00"), start_at=10)
    assert told(preview) == [
        (10, 10, utc("2026-11-22 09:00")),  # a Sunday: nothing is raised, so no window is waited for
        (10, 50, utc("2026-11-23 09:00")),
        (50, 100, utc("2026-11-24 09:00")),
    ]
    assert preview.stages[0].new == 0


def test_a_rollout_may_go_on_between_two_stages():
    assert told(a_plan().preview(NINE, start_at=20)) == [(20, 50, NINE), (50, 100, NINE + DAY)]


def test_a_rollout_begins_where_its_rollback_would_go():
    assert told(a_plan("10% 1d, 100%").preview(NINE, rollback_to=5))[0] == (5, 10, NINE)
    assert told(a_plan("10% 1d, 100%").preview(NINE, rollback_to=10))[0] == (10, 10, NINE)
    assert told(a_plan("10% 1d, 100%").preview(NINE, rollback_to=None))[0] == (0, 10, NINE)
    assert told(a_plan("10% 1d, 100%").preview(NINE, rollback_to="off"))[0] == (0, 10, NINE)


def test_start_at_counts_more_than_where_the_rollback_would_go():
    assert told(a_plan().preview(NINE, rollback_to=5, start_at=10))[0] == (10, 10, NINE)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"start_at": 101}, "start_at=101 is not possible. Allowed is a whole percentage from 0 to 100."),
        ({"start_at": -1}, "start_at=-1 is not possible"),
        ({"start_at": 1.5}, "start_at=1.5 is not possible"),
        ({"start_at": "10"}, "start_at='10' is not possible"),
        ({"start_at": True}, "start_at=True is not possible"),
        (
            {"rollback_to": 101},
            "rollback_to=101 is not possible. Allowed is a whole percentage from 0 to 100 or 'off'.",
        ),
        ({"rollback_to": "on"}, "rollback_to='on' is not possible"),
        ({"rollback_to": 5, "start_at": 1}, "rollback_to=5 is above start_at=1: a rollback only goes down"),
        ({"rollback_to": 5}, "rollback_to=5 is above the first stage, 1 %: the plan would begin by going down."),
    ],
)
def test_a_preview_refuses_what_no_rollout_could_do(options, says):
    with pytest.raises(ValueError, match=re.escape(says)):
        a_plan().preview(NINE, **options)


def test_going_on_above_the_last_stage_is_refused():
    with pytest.raises(ValueError, match="start_at=60 is above the last stage of the plan 10% 1d, 50% 1d"):
        a_plan("10% 1d, 50%").preview(NINE, start_at=60)


# --- requests, rollback ---


def test_requests_are_four_for_each_raise_and_one_for_a_stage_that_stands_already():
    assert a_plan().preview(NINE).requests == 16
    assert a_plan().preview(NINE, start_at=10).requests == 9


@pytest.mark.parametrize(
    ("text", "latest"),
    [
        ("1% 1h, 10% 1d, 100%", NINE + HOUR + 2 * DAY),
        ("1% 1h, 10% 1d, 100% 0h", NINE + HOUR + DAY),
        ("100% 0h", None),
    ],
)
def test_the_latest_moment_of_a_rollback_is_the_end_of_the_last_watch(text, latest):
    assert a_plan(text).preview(NINE).latest_rollback == latest


# --- the table ---


def test_a_preview_is_a_table():
    stages = [Stage(1, "1h"), Stage(10, "1d", approval=True), Stage(50, "1d"), Stage(100, "0h")]
    plan = RolloutPlan(stages, windows=[OFFICE, Window("fri", "09:00-12:00")], freezes=[CHRISTMAS])
    assert str(plan.preview(utc("2026-11-22 09:00"))).splitlines() == [
        "reached (UTC)         from     to  newly exposed  watched  until (UTC)",
        "Mon 2026-11-23 08:00   0 %    1 %   1 % of users  1h       Mon 2026-11-23 09:00",
        "Mon 2026-11-23 09:00   1 %   10 %   9 % of users  1d       Tue 2026-11-24 09:00, then a person is asked",
        "Tue 2026-11-24 09:00  10 %   50 %  40 % of users  1d       Wed 2026-11-25 09:00",
        "Wed 2026-11-25 09:00  50 %  100 %  50 % of users  no       Wed 2026-11-25 09:00",
        "",
        "Raised only mon-thu 09:00-16:00 Europe/Berlin, or fri 09:00-12:00 UTC.",
        "Not raised from Sat 2026-12-19 23:00 to Sun 2027-01-03 23:00 UTC.",
        "Requests to Amplitude: 16 for the ramps, and 3 for a rollback.",
        "A rollback goes to 0 %. The latest moment of one is Wed 2026-11-25 09:00 UTC, if no stage has to wait.",
        "All moments are the earliest ones: what holds, waits for a person or comes late moves all that follows.",
    ]


def test_a_stage_that_stands_already_exposes_nobody():
    assert "10 %   10 %         nobody" in str(a_plan().preview(NINE, start_at=10))


def test_the_table_says_what_a_rollback_does():
    assert "A rollback goes to 5 %." in str(a_plan("10% 1d").preview(NINE, rollback_to=5))
    assert "A rollback switches it off. The latest" in str(a_plan().preview(NINE, rollback_to="off"))


def test_a_rollout_that_nobody_watches_says_that_nothing_would_call_for_a_rollback():
    assert "but no stage is watched" in str(a_plan("100% 0h").preview(NINE))


def test_a_moment_within_a_minute_is_shown_as_the_next_one_because_nothing_happens_before():
    shown = str(a_plan("100% 1h").preview(NINE + timedelta(seconds=59, microseconds=1)))
    assert "Mon 2026-11-23 09:01" in shown
    assert "Mon 2026-11-23 10:01" in shown


# --- the harm that a stage can show (golden values of the reference figures) ---


def harms(percentages_and_bakes: str, **known) -> list[float | None]:
    return [each.harm for each in a_plan(percentages_and_bakes).preview(NINE, **known).stages]


@pytest.mark.parametrize(
    ("units", "percentage", "points"),
    [
        (10_000, 1, None),
        (10_000, 10, 6.3),
        (10_000, 100, 2.0),
        (100_000, 1, 6.3),
        (100_000, 100, 0.63),
        (1_000_000, 10, 0.63),
    ],
)
def test_two_variants_show_the_harm_of_the_reference_table(units, percentage, points):
    (harm,) = harms(f"{percentage}% 1h", units_per_hour=units, rate=0.1)
    assert harm is None if points is None else harm == pytest.approx(points / 100, rel=0.01)


@pytest.mark.parametrize(("units", "percentage", "points"), [(10_000, 1, 10.0), (10_000, 10, 3.3), (100_000, 10, 1.05)])
def test_a_flag_against_nothing_shows_the_harm_of_the_reference_table(units, percentage, points):
    """The table is for alpha 0.05 of one comparison; ``design="rollout"`` halves what it is given."""
    (harm,) = harms(f"{percentage}% 1h", units_per_hour=units, rate=0.1, design="rollout", alpha=0.1)
    assert harm == pytest.approx(points / 100, rel=0.02)


def test_a_stage_shows_what_it_shows_with_the_evidence_of_the_stages_before():
    one, two = harms("20% 2h, 40% 1h", units_per_hour=10_000, rate=0.1)
    information = 2_000 / 2 + 2_000 / 2  # two hours of 1,000 and one hour of 2,000 units in each arm
    assert one == pytest.approx(sqrt(11 * 0.09 / 1_000))
    assert two == pytest.approx(sqrt(11 * 0.09 / information))


def test_stages_of_a_flag_are_strata_and_never_one_heap():
    _, two = harms("10% 1h, 50% 1h", units_per_hour=10_000, rate=0.1, design="rollout", alpha=0.1)
    information = 1_000 * 9_000 / 10_000 + 5_000 * 5_000 / 10_000
    assert two == pytest.approx(sqrt(11 * 0.09 / information))


def test_evidence_is_counted_until_the_next_write_also_while_a_window_is_waited_for():
    plan = a_plan("50% 1h, 100% 1h", windows=[Window("mon-sun", "09:00-09:30")])
    _, last = plan.preview(NINE, units_per_hour=1_000, rate=0.1).stages
    waited, running = 24 * 1_000 * 0.5 / 2, 1 * 1_000 * 1.0 / 2  # units in each arm
    assert last.harm == pytest.approx(sqrt(11 * 0.09 / ((waited + running) / 2)))


def test_more_comparisons_and_the_design_of_a_flag_share_the_alpha():
    known = {"units_per_hour": 10_000, "rate": 0.1}
    (alone,) = harms("50% 1h", **known)
    (shared,) = harms("50% 1h", **known, comparisons=5)
    (stricter,) = harms("50% 1h", **known, alpha=0.01)
    assert shared == pytest.approx(stricter)
    assert shared > alone
    (flag,) = harms("50% 1h", **known, design="rollout", alpha=0.05)
    (other,) = harms("50% 1h", **known, design="rollout", alpha=0.1, comparisons=2)
    assert flag == pytest.approx(other)


@pytest.mark.parametrize(
    ("rate", "units", "counts"),
    [
        (0.5, 199, False),  # 100 units in each arm are needed
        (0.5, 200, True),
        (0.05, 399, False),  # and 10 conversions
        (0.05, 400, True),
        (0.95, 399, False),  # and 10 who do not convert
        (0.95, 400, True),
    ],
)
def test_a_stage_counts_from_as_many_units_as_a_comparison_needs(rate, units, counts):
    (harm,) = harms("100% 1h", units_per_hour=units, rate=rate)
    assert (harm is not None) is counts


@pytest.mark.parametrize(
    ("rate", "units", "passes"), [(0.1, 499, False), (0.1, 500, True), (0.9, 199, False), (0.9, 200, True)]
)
def test_a_stage_without_enough_for_a_pass_is_named_because_the_rollout_would_hold_there(rate, units, passes):
    preview = a_plan("100% 1h").preview(NINE, units_per_hour=units, rate=rate)
    assert preview.stages[0].passes is passes
    assert ("Too little is counted for a pass in: 100 % (100 units and 25 conversions" in str(preview)) is not passes


def test_a_stage_that_nobody_watches_shows_no_harm_and_holds_nothing():
    preview = a_plan("50% 1h, 100% 0h").preview(NINE, units_per_hour=10_000, rate=0.1)
    assert (preview.stages[1].harm, preview.stages[1].passes) == (None, None)
    assert "Too little" not in str(preview)
    assert str(preview).splitlines()[2].endswith("not watched")


def test_at_100_percent_a_flag_has_nobody_to_compare_with():
    preview = a_plan("50% 1h, 100%").preview(NINE, units_per_hour=10_000, rate=0.1, design="rollout")
    assert [each.passes for each in preview.stages] == [True, None]
    assert str(preview).splitlines()[2].endswith("thresholds only")
    assert "At 100 % nobody is left to compare with: thresholds only. To go on comparing, end at 95 %." in str(preview)
    assert "At 100 %" not in str(a_plan("50% 1h, 95%").preview(NINE, units_per_hour=10_000, rate=0.1, design="rollout"))
    assert "At 100 %" not in str(a_plan("50% 1h, 100%").preview(NINE, units_per_hour=10_000, rate=0.1))


def test_the_table_shows_the_harm_of_each_stage_and_from_which_one_the_mde_is_found():
    shown = str(a_plan().preview(NINE, units_per_hour=1_000, rate=0.1, mde="20%"))
    assert [re.split(r"\s{2,}", line)[-1] for line in shown.splitlines()[:5]] == [
        "smallest harm shown",
        "none, too few units",
        "4.1 points",
        "1.7 points",
        "1.0 points",
    ]
    assert "between two equal variants, if each hour brings 1000 others" in shown
    assert "alpha 0.05 for one comparison" in shown
    assert "A harm of 2.0 points (mde) is found from stage 50 % on." in shown


def test_an_mde_that_no_stage_can_show_is_told():
    shown = str(a_plan().preview(NINE, units_per_hour=1_000, rate=0.1, mde=0.005))
    assert "No stage can show a harm of 0.5 points (mde). Watch longer, or state a larger one." in shown


def test_without_traffic_nothing_is_said_of_harm():
    preview = a_plan().preview(NINE)
    assert preview.power is None
    assert "harm" not in str(preview)


@pytest.mark.parametrize(
    ("known", "says"),
    [
        ({"units_per_hour": 100}, "units_per_hour=100 and rate=None go together"),
        ({"rate": 0.1}, "units_per_hour=None and rate=0.1 go together"),
        ({"mde": 0.1}, "go together: give both"),
        ({"units_per_hour": 0, "rate": 0.1}, "units_per_hour=0 is not possible. Allowed is over 0."),
        ({"units_per_hour": inf, "rate": 0.1}, "units_per_hour=inf is not possible"),
        ({"units_per_hour": "100", "rate": 0.1}, "units_per_hour='100' is not possible"),
        ({"units_per_hour": 100, "rate": 0}, "rate=0 is not possible"),
        ({"units_per_hour": 100, "rate": 1}, "rate=1 is not possible"),
        ({"units_per_hour": 100, "rate": nan}, "rate=nan is not possible"),
        ({"units_per_hour": 100, "rate": 10}, "a share between 0 and 1, such as 0.1"),
        ({"units_per_hour": 100, "rate": 0.1, "alpha": 0}, "alpha=0 is not possible"),
        ({"units_per_hour": 100, "rate": 0.1, "alpha": 5}, "alpha=5 is not possible"),
        ({"units_per_hour": 100, "rate": 0.1, "comparisons": 0}, "comparisons=0 is not possible"),
        ({"units_per_hour": 100, "rate": 0.1, "comparisons": 1.5}, "comparisons=1.5 is not possible"),
        ({"units_per_hour": 100, "rate": 0.1, "mde": "a lot"}, "mde"),
        ({"design": "both"}, "design='both' is neither 'variants' nor 'rollout'"),
    ],
)
def test_traffic_that_can_not_be_is_refused(known, says):
    with pytest.raises(ValueError, match=re.escape(says)):
        a_plan().preview(NINE, **known)


# --- the tooltip ---


def test_the_tooltip_tells_the_plan_in_offsets():
    stages = [Stage(1, "1h"), Stage(10, "1d", approval=True), Stage(50, "1d 12h"), Stage(100, "0h")]
    plan = RolloutPlan(stages, windows=[OFFICE], freezes=[CHRISTMAS])
    assert plan.offsets().splitlines() == [
        "+0h 0 % -> 1 %, watched 1h",
        "+1h 1 % -> 10 %, watched 1d, then a person is asked",
        "+1d 1h 10 % -> 50 %, watched 1d 12h",
        "+2d 13h 50 % -> 100 %, not watched",
        "Raised only mon-thu 09:00-16:00 Europe/Berlin.",
        "Not raised from Sat 2026-12-19 23:00 to Sun 2027-01-03 23:00 UTC.",
    ]


def test_the_tooltip_is_the_same_at_every_parse():
    code = (
        "from airflow_amplitude_experiment.rollout.plan import RolloutPlan, Stage, Window;"
        "stages = [Stage(10, '1d', guardrails=[print]), Stage(100)];"
        "print(RolloutPlan(stages, windows=[Window('sat-mon,wed')]).offsets())"
    )
    runs = [subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True) for _ in range(3)]
    assert len({each.stdout for each in runs}) == 1
    assert "Raised only sat-mon,wed 00:00-24:00 UTC." in runs[0].stdout
