"""Strategies and small builders for plans, shared by the tests of windows, plans and previews."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from hypothesis import strategies as st

from airflow_amplitude_experiment.rollout.plan import RolloutPlan, Stage
from airflow_amplitude_experiment.rollout.windows import DAYS, Freeze, Window, freeze

ZONES = ("UTC", "Europe/Berlin", "America/New_York", "Asia/Kolkata", "Australia/Lord_Howe", "Africa/Casablanca")


def utc(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def _days_from(text: str, days: int) -> st.SearchStrategy[datetime]:
    return st.timedeltas(timedelta(0), timedelta(days=days)).map(lambda each: utc(text) + each)


# Around both changes of the clocks of 2026 in Europe and America.
moments = st.one_of(_days_from("2026-03-05", 32), _days_from("2026-10-01", 35))


@st.composite
def some_windows(draw: Any) -> Window:
    first, last = draw(st.sampled_from(DAYS)), draw(st.sampled_from(DAYS))
    start = draw(st.integers(0, 95)) * 15
    end = start + draw(st.integers(1, 95)) * 15
    end = end if end <= 1440 else end - 1440
    hours = f"{start // 60:02}:{start % 60:02}-{end // 60:02}:{end % 60:02}"
    return Window(f"{first}-{last}", hours, draw(st.sampled_from(ZONES)))


@st.composite
def some_freezes(draw: Any) -> Freeze:
    start = draw(moments)
    return freeze((start, start + draw(st.timedeltas(timedelta(seconds=1), timedelta(days=20)))))


@st.composite
def some_plans(draw: Any) -> RolloutPlan:
    percentages = sorted(draw(st.sets(st.integers(1, 100), min_size=1, max_size=5)))
    bakes = st.timedeltas(timedelta(microseconds=1), timedelta(days=3))
    asked = st.booleans()
    *before, last = percentages
    stages = [Stage(each, draw(bakes), approval=draw(asked)) for each in before]
    stages.append(Stage(last, draw(st.one_of(st.none(), st.just("0h"), bakes))))
    windows = draw(st.lists(some_windows(), max_size=2))
    return RolloutPlan(stages, windows=windows, freezes=draw(st.lists(some_freezes(), max_size=2)))
