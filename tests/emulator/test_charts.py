"""Saved charts: who may read them, what is answered, and the limits of the Dashboard REST API."""

from __future__ import annotations

import asyncio
import base64
import csv
import io
import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest

from airflow_amplitude_experiment.emulator import Emulator

SERIES = {
    "control": {"2026-11-20": 0.5, "2026-11-21": 0.6},
    "treatment": [("2026-11-20", 4), ("2026-11-22", None)],
}


class Clock:
    def __init__(self) -> None:
        self.now = datetime(2026, 11, 22, 12, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.now

    def forward(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def charts(clock: Clock) -> Iterator[Emulator]:
    """An emulator with a chart of three days."""
    with Emulator(clock=clock) as emulator:
        emulator.add_chart("abc1234", SERIES)
        yield emulator


def keys(emulator: Emulator) -> tuple[str, str]:
    return emulator.analytics_api_key, emulator.analytics_secret_key


def get(emulator: Emulator, path: str = "/api/3/chart/abc1234/csv", **options: Any) -> httpx.Response:
    with httpx.Client(base_url=emulator.url, verify=False) as client:
        return client.get(path, **{"auth": keys(emulator), **options})


def statuses(emulator: Emulator, times: int) -> list[int]:
    return [get(emulator).status_code for _ in range(times)]


def table(text: str) -> list[list[str]]:
    rows = [[cell.strip() for cell in row] for row in csv.reader(io.StringIO(text))]
    return rows[max(index for index, row in enumerate(rows) if not row) + 1 :]


# --- what is answered --------------------------------------------------------------------------------


def test_a_chart_is_json_that_holds_a_csv_text(charts: Emulator) -> None:
    answer = get(charts)
    assert answer.headers["content-type"] == "application/json"
    text = answer.json()["data"]
    assert text.startswith("\tabc1234\r\n\r\n\tUniques\r\n\r\n")
    assert table(text) == [
        ["Segment", "2026-11-20", "2026-11-21", "2026-11-22"],
        ["control", "0.5", "0.6", ""],
        ["treatment", "4", "", ""],
    ]


def test_a_chart_is_the_csv_text_itself_or_series_in_json_on_request(charts: Emulator) -> None:
    text = get(charts).json()["data"]
    charts.options(chart_body="csv")
    assert get(charts).text == text
    assert get(charts).headers["content-type"].startswith("text/csv")
    charts.options(chart_body="json")
    assert get(charts).json()["data"] == {
        "series": [[{"value": 0.5}, {"value": 0.6}, {"value": None}], [{"value": 4}, {"value": None}, {"value": None}]],
        "seriesLabels": ["control", "treatment"],
        "xValues": ["2026-11-20", "2026-11-21", "2026-11-22"],
    }


def test_a_chart_may_be_changed_while_it_is_read(charts: Emulator) -> None:
    charts.change_chart("abc1234", series={"control": {"2026-11-20": 7}})
    assert table(get(charts).json()["data"])[1] == ["control", "7"]
    assert charts.change_chart("abc1234", conditions=4)["series"] == {"control": [["2026-11-20", 7]]}
    with pytest.raises(KeyError, match="no chart nope"):
        charts.change_chart("nope", conditions=4)


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"colour": "red"}, "unknown field colour"),
        ({"conditions": 0}, "conditions is a whole number from 1"),
        ({"conditions": True}, "conditions is a whole number from 1"),
        ({"seconds": -1}, "seconds is a number from 0"),
        ({"series": {"a": {"2026-11-20": "1"}}}, "series a has the value '1', which is no number"),
        ({"series": {"a": {"2026-11-20": True}}}, "which is no number"),
        ({"series": {"a": [1, 2]}}, "series a holds 1 instead of a period and its value"),
    ],
)
def test_a_chart_that_can_not_be_is_refused(fields: Any, says: str, charts: Emulator) -> None:
    with pytest.raises(ValueError, match=says):
        charts.add_chart("other", **{"series": SERIES, **fields})
    with pytest.raises(ValueError, match=says):
        charts.change_chart("abc1234", **fields)
    assert [one["id"] for one in charts.state()["charts"]] == ["abc1234"]


def test_an_id_is_taken_once(charts: Emulator) -> None:
    with pytest.raises(ValueError, match="abc1234 is already taken"):
        charts.add_chart("abc1234", {})


def test_the_list_of_events_shows_whether_the_keys_are_right(charts: Emulator) -> None:
    assert get(charts, "/api/2/events/list").json() == {"data": []}
    assert get(charts, "/api/2/events/list", auth=("a", "b")).status_code == 401


# --- who may -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "header",
    [
        {},
        {"Authorization": "Basic"},
        {"Authorization": "Basic !!!"},
        {"Authorization": "Basic /w=="},
        {"Authorization": f"Basic {base64.b64encode(b'emulator-api-key:wrong').decode()}"},
        {"Authorization": f"Bearer {base64.b64encode(b'emulator-api-key:emulator-secret-key').decode()}"},
        {"Authorization": "Bearer emulator-management-key"},
    ],
)
def test_only_the_keys_of_the_project_open_its_charts(header: dict[str, str], charts: Emulator) -> None:
    assert get(charts, auth=None, headers=header).status_code == 401


def test_the_keys_of_the_project_do_not_open_the_management_api(charts: Emulator) -> None:
    assert get(charts, "/api/1/flags").status_code == 401


def test_an_unknown_chart_and_one_of_another_project_are_404(charts: Emulator) -> None:
    charts.seed({"projects": [{"id": "2", "apiKey": "theirs", "secretKey": "their-secret"}]})
    charts.add_chart("theirs77", SERIES, project_id="2")
    assert get(charts, "/api/3/chart/nope/csv").status_code == 404
    assert get(charts, "/api/3/chart/theirs77/csv").status_code == 404
    assert get(charts, "/api/3/chart/theirs77/csv", auth=("theirs", "their-secret")).status_code == 200


def test_the_connection_for_airflow(charts: Emulator) -> None:
    assert json.loads(charts.airflow_analytics_connection(region="eu")) == {
        "conn_type": "amplitude_analytics",
        "login": "emulator-api-key",
        "password": "emulator-secret-key",
        "host": charts.url,
        "extra": {"timezone": "UTC", "region": "eu"},
    }


# --- limits ------------------------------------------------------------------------------------------


def test_a_chart_costs_its_days_times_its_conditions(charts: Emulator) -> None:
    charts.options(chart_cost_per_5_minutes=9)
    assert statuses(charts, 4) == [200, 200, 200, 429]
    charts.change_chart("abc1234", conditions=4)
    charts.options(chart_cost_per_5_minutes=9 + 12)
    assert statuses(charts, 2) == [200, 429]


def test_hours_of_one_day_cost_one_day(charts: Emulator) -> None:
    charts.add_chart("hourly77", {"a": {f"2026-11-22T{hour:02}:00": 1 for hour in range(24)}})
    charts.options(chart_cost_per_5_minutes=1)
    assert get(charts, "/api/3/chart/hourly77/csv").status_code == 200
    assert get(charts, "/api/3/chart/hourly77/csv").status_code == 429


def test_an_empty_chart_costs_something(charts: Emulator) -> None:
    charts.change_chart("abc1234", series={})
    charts.options(chart_cost_per_5_minutes=1)
    assert statuses(charts, 2) == [200, 429]


def test_the_limits_are_those_of_the_documents_unless_told_otherwise(charts: Emulator) -> None:
    options = charts.options()
    documented = (options["charts_at_once"], options["chart_cost_per_5_minutes"], options["chart_cost_per_hour"])
    assert documented == (5, 1000, 108_000)
    charts.change_chart("abc1234", conditions=333)
    assert statuses(charts, 2) == [200, 429]


def test_the_refusal_names_its_limit_and_if_wanted_when_there_is_room(charts: Emulator, clock: Clock) -> None:
    charts.options(chart_cost_per_5_minutes=6)
    get(charts)
    clock.forward(100)
    get(charts)
    refused = get(charts)
    assert refused.text == "Rate limit of cost 6 per 5 minutes exceeded by a query of cost 3."
    assert "retry-after" not in refused.headers
    charts.options(retry_after="seconds")
    assert get(charts).headers["retry-after"] == "200"
    charts.options(retry_after="date")
    assert get(charts).headers["retry-after"] == "Sun, 22 Nov 2026 12:05:00 GMT"
    clock.forward(199)
    assert statuses(charts, 1) == [429]
    clock.forward(1)
    assert statuses(charts, 2) == [200, 429]


def test_a_query_that_never_fits_is_told_the_whole_window(charts: Emulator) -> None:
    charts.options(chart_cost_per_5_minutes=2, retry_after="seconds")
    assert get(charts).headers["retry-after"] == "300"


def test_an_hour_has_its_own_limit(charts: Emulator, clock: Clock) -> None:
    charts.options(chart_cost_per_hour=6)
    assert statuses(charts, 3) == [200, 200, 429]
    clock.forward(3599)
    assert get(charts).text == "Rate limit of cost 6 per 60 minutes exceeded by a query of cost 3."
    clock.forward(1)
    assert statuses(charts, 1) == [200]


def test_a_refusal_and_an_unknown_chart_cost_nothing(charts: Emulator) -> None:
    charts.options(chart_cost_per_5_minutes=3)
    get(charts, "/api/3/chart/nope/csv")
    get(charts, auth=("a", "b"))
    charts.options(charts_at_once=0)
    assert statuses(charts, 1) == [429]
    charts.options(charts_at_once=None)
    assert statuses(charts, 2) == [200, 429]


def test_projects_have_their_own_cost(charts: Emulator) -> None:
    charts.seed({"projects": [{"id": "2", "apiKey": "theirs", "secretKey": "their-secret"}]})
    charts.add_chart("theirs77", SERIES, project_id="2")
    charts.options(chart_cost_per_5_minutes=3)
    assert statuses(charts, 2) == [200, 429]
    assert get(charts, "/api/3/chart/theirs77/csv", auth=("theirs", "their-secret")).status_code == 200


async def test_five_at_once_and_the_sixth_is_refused(charts: Emulator) -> None:
    charts.change_chart("abc1234", seconds=0.3)
    async with httpx.AsyncClient(base_url=charts.url, auth=keys(charts), verify=False) as client:
        answers = await asyncio.gather(*(client.get("/api/3/chart/abc1234/csv") for _ in range(7)))
        assert sorted(answer.status_code for answer in answers) == [200] * 5 + [429] * 2
        assert "Concurrent limit of 5 requests exceeded." in {answer.text for answer in answers}
        charts.change_chart("abc1234", seconds=0)
        assert (await client.get("/api/3/chart/abc1234/csv")).status_code == 200


def test_charts_do_not_count_against_the_management_api_and_the_other_way_round(charts: Emulator) -> None:
    charts.options(requests_per_second=1, chart_cost_per_5_minutes=6)
    key = {"auth": None, "headers": {"Authorization": f"Bearer {charts.management_key}"}}
    assert statuses(charts, 3) == [200, 200, 429]
    assert [get(charts, "/api/1/flags", **key).status_code for _ in range(2)] == [200, 429]


# --- state, log, reset -------------------------------------------------------------------------------


def test_charts_and_keys_are_part_of_the_state(charts: Emulator) -> None:
    saved = json.loads(json.dumps(charts.state(keys=True)))
    with Emulator() as other:
        other.load_state(saved)
        assert keys(other) == keys(charts)
        assert get(other).json() == get(charts).json()
        assert other.state(keys=True) == saved


def test_keys_are_masked_in_the_state_and_in_the_log(charts: Emulator) -> None:
    for key in keys(charts):
        get(charts, f"/api/3/chart/{key}/csv")
        assert key not in json.dumps(charts.state())
        assert key not in json.dumps(charts.requests())
    assert charts.requests()[0]["path"] == "/api/3/chart/***/csv"
    with pytest.raises(ValueError, match="project: a masked key can't be loaded"):
        charts.load_state(charts.state())


def test_every_project_has_keys_that_stay_the_same() -> None:
    def made() -> Any:
        with Emulator() as emulator:
            emulator.seed({"projects": [{"id": "2"}]})
            return emulator.state(keys=True)["projects"]

    first, second = made()
    assert made() == [first, second]
    assert {first["apiKey"], first["secretKey"]}.isdisjoint({second["apiKey"], second["secretKey"]})


def test_naming_a_project_again_keeps_its_keys(charts: Emulator) -> None:
    charts.seed({"projects": [{"id": charts.project_id, "name": "Shop"}]})
    assert keys(charts) == ("emulator-api-key", "emulator-secret-key")


def test_a_reset_forgets_charts_and_what_was_spent(charts: Emulator) -> None:
    charts.options(chart_cost_per_5_minutes=3)
    assert statuses(charts, 2) == [200, 429]
    charts.reset()
    assert statuses(charts, 1) == [404]
    charts.add_chart("abc1234", SERIES)
    charts.options(chart_cost_per_5_minutes=3)
    assert statuses(charts, 2) == [200, 429]


def test_faults_meet_charts_too(charts: Emulator) -> None:
    charts.fault("status", status=503, path="/api/3/*")
    assert statuses(charts, 2) == [503, 200]
