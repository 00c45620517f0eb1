"""The hook's client against the emulator: two independent readings of the Dashboard REST API."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any

import pytest

from airflow_amplitude_experiment.api import (
    AmplitudeConnectionError,
    AmplitudeError,
    AmplitudeNotFound,
    AmplitudeRateLimited,
    AmplitudeServerError,
    AmplitudeUnexpectedAnswer,
    _retry,
)
from airflow_amplitude_experiment.emulator import Emulator
from airflow_amplitude_experiment.hooks import AmplitudeAnalyticsHook
from airflow_amplitude_experiment.hooks._chart import Chart

SERIES: dict[str, Any] = {
    "control": {"2026-11-20": 0.5, "2026-11-21": 0.625, "2026-11-22": 0.1},
    'treatment, "new"': {"2026-11-20": 4, "2026-11-21": None, "2026-11-22": -1e-9},
}
READ = {label: list(points.items()) for label, points in SERIES.items()}
NOW = datetime(2026, 11, 22, 8, tzinfo=UTC)


@pytest.fixture
def chart(emulator: Emulator, monkeypatch: pytest.MonkeyPatch) -> Callable[[], Chart]:
    """Read the one chart, as a task would."""
    emulator.add_chart("abc1234", SERIES, title="Sign-ups, weekly")
    monkeypatch.setenv("AIRFLOW_CONN_CHARTS", emulator.airflow_analytics_connection())
    return lambda: AmplitudeAnalyticsHook("charts").chart("abc1234")


def asked(emulator: Emulator) -> list[int | None]:
    return [entry["status"] for entry in emulator.requests()]


@pytest.mark.parametrize("body", ["json_csv", "csv", "json"])
def test_every_form_of_answer_is_the_same_chart(body: str, chart: Any, emulator: Emulator) -> None:
    emulator.options(chart_body=body)
    found = chart()
    assert found.series == READ
    assert found.last("control", NOW) == 0.625
    assert found.last('treatment, "new"', NOW) is None
    assert asked(emulator) == [200]


@pytest.mark.parametrize("body", ["json_csv", "csv", "json"])
def test_a_chart_without_data_has_no_series(body: str, chart: Any, emulator: Emulator) -> None:
    emulator.options(chart_body=body)
    emulator.change_chart("abc1234", series={"a": {"2026-11-20": 1, "2026-11-21": 2}})
    assert list(chart().series) == ["a"]
    emulator.change_chart("abc1234", series={"a": {"2026-11-20": None, "2026-11-21": None}})
    assert chart().last("a", NOW) is None


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        ({"kind": "refuse"}, AmplitudeConnectionError),
        ({"kind": "cut_before"}, AmplitudeConnectionError),
        ({"kind": "truncated"}, AmplitudeUnexpectedAnswer),
        ({"kind": "status", "status": 503}, AmplitudeServerError),
    ],
)
def test_what_passes_is_asked_again_and_what_lasts_is_an_error(
    fault: Any, error: type[AmplitudeError], chart: Any, emulator: Emulator
) -> None:
    emulator.fault(**fault, times=3)
    assert chart().series == READ
    assert len(asked(emulator)) == 4
    emulator.fault(**fault, times=None)
    with pytest.raises(error):
        chart()
    assert len(asked(emulator)) == 8


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        ({"kind": "html"}, AmplitudeUnexpectedAnswer),
        ({"kind": "redirect"}, AmplitudeUnexpectedAnswer),
        ({"kind": "status", "status": 404}, AmplitudeNotFound),
    ],
)
def test_what_does_not_pass_is_asked_once(
    fault: Any, error: type[AmplitudeError], chart: Any, emulator: Emulator
) -> None:
    emulator.fault(**fault, times=None)
    with pytest.raises(error):
        chart()
    assert len(asked(emulator)) == 1


def test_a_rate_limit_that_passes_is_waited_for(chart: Any, emulator: Emulator) -> None:
    emulator.fault("rate_limit", times=2)
    assert chart().series == READ
    assert asked(emulator) == [429, 429, 200]


def test_a_cost_that_is_used_up_is_a_rate_limit_that_names_the_limit_and_the_wait(
    chart: Any, emulator: Emulator
) -> None:
    emulator.options(chart_cost_per_5_minutes=3, retry_after="seconds")
    chart()
    with pytest.raises(AmplitudeRateLimited, match="Rate limit of cost 3 per 5 minutes exceeded") as error:
        chart()
    assert 290 < (error.value.retry_after or 0) <= 300
    assert f"Try again in {error.value.retry_after:.0f} seconds" in str(error.value)
    assert asked(emulator) == [200, 429]  # the wait is longer than a task should hold its slot


def test_a_cost_that_is_used_up_without_a_word_on_the_wait_ends_after_a_minute(
    chart: Any, emulator: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_retry, "PATIENCE", 0.01)
    emulator.options(chart_cost_per_5_minutes=2)
    with pytest.raises(AmplitudeRateLimited, match="Try again in five minutes"):
        chart()


def test_ten_at_once_get_through_although_five_are_allowed(chart: Any, emulator: Emulator) -> None:
    emulator.change_chart("abc1234", seconds=0.5)  # so that all ten are under way at once, however busy the machine
    with ThreadPoolExecutor(10) as pool:
        found = [answer.result() for answer in [pool.submit(chart) for _ in range(10)]]
    assert [each.series for each in found] == [READ] * 10
    assert asked(emulator).count(200) == 10
    assert 429 in asked(emulator)


def test_the_test_of_the_connection_knows_good_keys_from_bad_ones(
    chart: Any, emulator: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert AmplitudeAnalyticsHook("charts").test_connection()[0]
    monkeypatch.setenv(
        "AIRFLOW_CONN_CHARTS", emulator.airflow_analytics_connection().replace("emulator-secret", "wrong")
    )
    good, text = AmplitudeAnalyticsHook("charts").test_connection()
    assert not good
    assert "answered 401" in text
