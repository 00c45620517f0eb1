"""What one tick of a plan decides: one stage at most, never early, never beyond the plan."""

from __future__ import annotations

from datetime import timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from airflow_amplitude_experiment.api import RolloutRefused
from airflow_amplitude_experiment.rollout.plan import RolloutPlan, Stage
from airflow_amplitude_experiment.rollout.tick import ahead, tick
from tests.builders import a_flag, a_segment
from tests.rollout.some_plans import moments, some_plans, utc

START = utc("2026-11-16T09:00:00")  # a Monday
PLAN = RolloutPlan.parse("1% 1h, 10% 1d, 50% 1d, 100%")


def after(**length):
    return START + timedelta(**length)


def at(percentage, now, *, since=None, plan=PLAN, base=0, **options):
    fields = {name: options.pop(name) for name in ("enabled", "deleted", "targetSegments") if name in options}
    found = a_flag(rolloutPercentage=percentage, **fields)
    return tick(found, ahead(plan, base), start=START, now=now, since=since or START, base=base, **options)


@pytest.mark.parametrize(
    ("stands", "since", "now", "to"),
    [
        (0, after(days=-9), START, 1),
        (1, START, after(minutes=59), None),
        (1, START, after(hours=1), 10),
        (1, after(minutes=1), after(hours=1), None),
        (1, after(minutes=1), after(hours=1, minutes=1), 10),
        (10, after(hours=1), after(days=1), None),
        (10, after(hours=1), after(days=1, hours=1), 50),
        (50, after(days=1, hours=1), after(days=2, hours=1), 100),
        (100, after(days=3), after(days=3), None),
        (100, after(days=3), after(days=300), None),
    ],
)
def test_it_goes_to_the_next_stage_when_the_bake_since_the_last_change_is_over(stands, since, now, to):
    assert at(stands, now, since=since).to == to


def test_it_says_when_it_may_go_on():
    assert at(1, after(minutes=5), since=after(minutes=2)).next_change == after(hours=1, minutes=2)


def test_what_somebody_raised_ahead_of_the_plan_waits_for_the_plan():
    decided = at(50, after(hours=2), since=after(days=-9))
    assert (decided.to, decided.next_change) == (None, after(days=2, hours=1))


def test_a_complete_rollout_has_nothing_left():
    decided = at(100, after(days=9))
    assert (decided.is_complete, decided.to, decided.next_change, decided.watched) == (True, None, None, False)


def test_the_last_stage_is_still_watched_while_its_bake_lasts():
    assert at(100, after(days=3), since=after(days=2, hours=1)).watched is True


@pytest.mark.parametrize(("stands", "watched"), [(0, False), (1, True), (10, True)])
def test_a_stage_is_watched_and_what_comes_before_the_first_is_not(stands, watched):
    assert at(stands, after(minutes=10)).watched is watched


@pytest.mark.parametrize("stands", [2, 7.5, 99])
def test_off_the_plan_is_refused(stands):
    with pytest.raises(RolloutRefused, match=f"stands at {stands} %, which is off the plan"):
        at(stands, after(hours=2))


@pytest.mark.parametrize("stands", [0, 10, 100])
def test_a_disabled_object_is_refused_wherever_it_stands(stands):
    with pytest.raises(RolloutRefused, match="a tick never enables"):
        at(stands, after(hours=2), enabled=False)


def test_an_archived_object_is_refused():
    with pytest.raises(RolloutRefused, match="is archived"):
        at(1, after(hours=2), deleted=True)


def test_an_object_that_does_not_show_where_it_stands_is_refused():
    with pytest.raises(RolloutRefused, match="does not show"):
        at(None, after(hours=2))


# --- behind the plan ---


@pytest.mark.parametrize(
    ("stands", "now"),
    [(0, after(days=1)), (1, after(days=3)), (10, after(days=5)), (1, after(days=300))],
)
def test_too_far_behind_is_refused_whether_or_not_its_bake_is_over(stands, now):
    for since in (after(days=-1), now - timedelta(minutes=1)):
        with pytest.raises(RolloutRefused, match=f"new start with from_percentage={stands}"):
            at(stands, now, since=since)


def test_a_refusal_says_how_late_the_next_stage_is():
    with pytest.raises(RolloutRefused, match=r"stands at 1 %, and the plan is at 100 %.*10 %, was due 2d 23h ago"):
        at(1, after(days=3))


def test_one_stage_late_goes_on_and_shortens_no_bake():
    decided = at(10, after(days=2), since=after(days=1, hours=20))
    assert (decided.to, decided.next_change) == (None, after(days=2, hours=20))
    assert at(10, after(days=2, hours=20), since=after(days=1, hours=20)).to == 50


def test_daily_ticks_carry_a_plan_of_daily_stages_to_its_end():
    """Each tick comes seconds before the bake is over, so each stage takes two of them."""
    plan, stands, since, reached = RolloutPlan.parse("1% 1d, 10% 1d, 50% 1d, 100%"), 0, START, []
    for day in range(12):
        now = after(days=day, seconds=5)
        if (to := at(stands, now, since=since, plan=plan).to) is not None:
            stands, since = to, now + timedelta(seconds=3)
            reached.append((day, to))
    assert reached == [(0, 1), (2, 10), (4, 50), (6, 100)]


# --- when nothing may go up ---


def test_outside_the_windows_it_waits_and_says_when_they_open():
    plan = RolloutPlan.parse("1% 1h, 10% 1d, 100%", freezes=[(after(hours=2), after(hours=5))])
    decided = at(1, after(hours=3), since=START, plan=plan)
    assert (decided.to, decided.next_change) == (None, after(hours=5))


def test_a_bake_that_ends_in_a_closed_window_is_due_when_it_opens():
    plan = RolloutPlan.parse("1% 1h, 10% 1d, 100%", freezes=[(after(minutes=30), after(hours=5))])
    assert at(1, after(minutes=40), since=START, plan=plan).next_change == after(hours=5)


def test_while_it_is_frozen_it_writes_nothing_and_does_not_complain_that_it_is_late():
    decided = at(1, after(days=9), frozen="new-*")
    assert decided.to is None
    assert "amplitude_experiment_freeze" in decided.why


@pytest.mark.parametrize("enabled", [True, False])
def test_a_freeze_hides_no_stop(enabled):
    with pytest.raises(RolloutRefused):
        at(3 if enabled else 1, after(hours=2), enabled=enabled, frozen="*")


# --- one stage a run ---


def test_a_run_that_reached_a_stage_goes_no_further_however_short_the_bake():
    plan = RolloutPlan.parse("1% 1m, 10% 1h, 100%")
    began = after(minutes=5)
    assert at(1, after(minutes=20), since=after(minutes=6), plan=plan, run_began=began).to is None
    assert at(1, after(minutes=20), since=after(minutes=4), plan=plan, run_began=began).to == 10


def test_the_first_stage_needs_no_bake_however_new_the_object_is():
    assert at(0, START, since=START, run_began=after(minutes=-1)).to == 1


# --- where it begins ---


@pytest.mark.parametrize(("base", "first"), [(0, 1), (20, 50), (50, 50), (99, 100)])
def test_stages_below_the_percentage_it_begins_at_are_left_out(base, first):
    assert ahead(PLAN, base).percentages[0] == first


def test_a_rollout_that_begins_on_a_stage_watches_it_from_the_start_on():
    assert at(10, after(hours=23), since=after(days=-9), base=10).to is None
    assert at(10, after(days=1), since=after(days=-9), base=10).to == 50


@pytest.mark.parametrize("base", [100, 101])
def test_nothing_left_of_a_plan_is_refused(base):
    with pytest.raises(ValueError, match="leaves nothing of the plan"):
        ahead(PLAN, base)


def test_a_base_that_is_no_stage_counts_only_where_it_was_stated():
    assert at(20, START, base=20).to == 50
    with pytest.raises(RolloutRefused, match="off the plan: 20 %"):
        at(0, START, base=20)


def test_a_segments_percentage_is_what_counts():
    segments = [a_segment(percentage=1)]
    assert at(73, after(hours=1), segment="Beta testers", targetSegments=segments).to == 10
    with pytest.raises(RolloutRefused, match="no segment named 'Gamma'"):
        at(1, after(hours=1), segment="Gamma", targetSegments=segments)


# --- whatever the ticks ---


def unasked(plan):
    """The plan without approvals, which a tick has none of."""
    stages = [Stage(each.percentage, each.bake) for each in plan.stages]
    return RolloutPlan(stages, windows=plan.windows, freezes=plan.freezes)


@settings(max_examples=300, deadline=None)
@given(
    plan=some_plans(),
    start=moments,
    waits=st.lists(st.timedeltas(timedelta(0), timedelta(days=2)), max_size=25),
    delay=st.timedeltas(timedelta(0), timedelta(minutes=5)),
    edits=st.sets(st.integers(0, 24), max_size=3),
)
def test_whenever_it_ticks_no_stage_is_early_skipped_or_taken_twice(plan, start, waits, delay, edits):
    plan, stands, since, now, reached = unasked(plan), 0, start - timedelta(days=1), start, {}
    for number, wait in enumerate(waits):
        now += wait
        if number in edits:
            since = now
        found = a_flag(rolloutPercentage=stands)
        try:
            decided = tick(found, plan, start=start, now=now, since=since, run_began=now)
        except (RolloutRefused, ValueError):  # too far behind, or a plan that can never go up again
            continue
        if decided.to is None:
            assert decided.is_complete or decided.next_change is not None
            continue
        assert decided.to == next(each for each in plan.percentages if each > stands), "from the stage before only"
        assert decided.to not in reached
        assert decided.to <= plan.at(start, now)
        assert plan.is_open(now)
        if stands:
            assert now - since >= plan.stage(stands).watched
            assert now - reached[stands] >= plan.stage(stands).watched
        stands, since = decided.to, now + delay
        reached[stands] = since


@settings(max_examples=200, deadline=None)
@given(plan=some_plans(), start=moments, share=st.floats(0.01, 0.99), phase=st.floats(0, 1))
def test_ticks_that_come_more_often_than_bakes_end_carry_every_plan_through(plan, start, share, phase):
    plan = RolloutPlan(unasked(plan).stages)  # at any hour: a window may be shorter than ticks are apart
    every = min((each.watched for each in plan.stages[:-1]), default=timedelta(hours=1)) * share
    if every < timedelta(seconds=1):
        return
    stands, since, now = 0, start, start + every * phase
    for _ in range(400):
        decided = tick(a_flag(rolloutPercentage=stands), plan, start=start, now=now, since=since)
        if decided.is_complete:
            break
        if decided.to is not None:
            stands, since = decided.to, now
        ready = decided.next_change or now
        now += every * max(1, (ready - now) // every)
    assert stands == plan.percentages[-1]
