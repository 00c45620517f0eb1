"""A saved chart's numbers as a guardrail may rely on them, and the connection that leads to them."""

from __future__ import annotations

import json
import logging
import pickle
import traceback
from base64 import b64encode
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from airflow_amplitude_experiment.api import (
    AmplitudeAuthError,
    AmplitudeError,
    AmplitudeRateLimited,
    AmplitudeUnexpectedAnswer,
    flags,
)
from airflow_amplitude_experiment.api.errors import error_from_dict
from airflow_amplitude_experiment.emulator import Emulator
from airflow_amplitude_experiment.hooks import AmplitudeAnalyticsHook
from airflow_amplitude_experiment.hooks._analytics_client import AnalyticsClient
from airflow_amplitude_experiment.hooks._chart import Chart, UnknownSeries, Unreadable, checked_chart_id, read

API_KEY, SECRET = "0a1b2c3d4e5f-api-key", "9f8e7d6c5b4a-SECRET-KEY"
BASIC = b64encode(f"{API_KEY}:{SECRET}".encode()).decode()
NOON = datetime(2026, 11, 22, 12, tzinfo=UTC)
Given = Callable[..., AmplitudeAnalyticsHook]


def a_chart(*values: float | None, end: str = "2026-11-22", hours: int = 24, timezone: str = "UTC") -> Chart:
    """A chart with a value for each day (or so many hours) up to ``end``."""
    last = datetime.fromisoformat(end)
    moments = [last - timedelta(hours=hours * back) for back in reversed(range(len(values)))]
    names = [moment.date().isoformat() if hours % 24 == 0 else moment.isoformat() for moment in moments]
    return Chart("abc1234", {"treatment": list(zip(names, values, strict=True))}, timezone)


def a_csv(*rows: str, title: str = '"\tSign-ups, weekly"') -> bytes:
    """A chart as Amplitude exports it: title, description, table; a tab before each text."""
    return "\r\n".join([title, "", '"\tUniques"', "", *rows, ""]).encode()


TABLE = a_csv('"\tSegment","\t2026-11-20","\t2026-11-21"', '"\tcontrol",0.5,0.6', '"\ttreatment",0.4,')
SERIES = {
    "control": [("2026-11-20", 0.5), ("2026-11-21", 0.6)],
    "treatment": [("2026-11-20", 0.4), ("2026-11-21", None)],
}


@pytest.fixture
def given(monkeypatch: pytest.MonkeyPatch) -> Given:
    """Return a hook of any connection: a URI, or the fields of the JSON form."""

    def make(uri: str | None = None, **fields: Any) -> AmplitudeAnalyticsHook:
        form = {"conn_type": "amplitude_analytics", "login": API_KEY, "password": SECRET, **fields}
        monkeypatch.setenv("AIRFLOW_CONN_CHARTS", uri or json.dumps(form))
        return AmplitudeAnalyticsHook("charts")

    return make


@pytest.fixture
def hook(emulator: Emulator, given: Given) -> Given:
    """Return a hook that leads to the emulator, which knows our keys."""
    project = {"id": emulator.project_id, "apiKey": API_KEY, "secretKey": SECRET}
    emulator.seed({"projects": [project], "charts": [{"id": "abc1234", "series": {"treatment": {"2026-11-21": 1}}}]})
    return lambda **fields: given(**{"host": emulator.url, **fields})


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.sleep", lambda seconds: None)


# --- the newest complete value -----------------------------------------------------------------------


def test_the_day_that_is_not_over_is_left_out() -> None:
    chart = a_chart(1, 2, 3)
    assert chart.last("treatment", NOON) == 2
    assert chart.newest("treatment", NOON) == ("2026-11-21", 2)


def test_a_day_counts_from_the_moment_it_is_over() -> None:
    midnight = datetime(2026, 11, 23, tzinfo=UTC)
    assert a_chart(1, 2, 3).last("treatment", midnight - timedelta(seconds=1)) == 2
    assert a_chart(1, 2, 3).last("treatment", midnight) == 3


@pytest.mark.parametrize(
    ("timezone", "last"),
    [("UTC", 3), ("Europe/Berlin", 3), ("America/Los_Angeles", 2), ("Etc/GMT+12", 2), ("Pacific/Kiritimati", 3)],
)
def test_a_day_is_over_when_it_is_over_in_the_projects_time_zone(timezone: str, last: float) -> None:
    assert a_chart(1, 2, 3, timezone=timezone).last("treatment", datetime(2026, 11, 23, 3, tzinfo=UTC)) == last


def test_now_may_be_given_in_any_time_zone() -> None:
    here = datetime(2026, 11, 23, 9, tzinfo=ZoneInfo("Asia/Tokyo"))  # midnight UTC
    assert a_chart(1, 2, 3).last("treatment", here) == 3
    assert a_chart(1, 2, 3).last("treatment", here - timedelta(minutes=1)) == 2


def test_the_hour_that_is_not_over_is_left_out() -> None:
    chart = a_chart(1, 2, 3, end="2026-11-22T12:00", hours=1)
    assert chart.newest("treatment", NOON + timedelta(minutes=30)) == ("2026-11-22T11:00:00", 2)
    assert chart.last("treatment", NOON + timedelta(hours=1)) == 3


def test_an_hour_may_name_its_own_time_zone() -> None:
    points: Any = [("2026-11-22T10:00:00+01:00", 1), ("2026-11-22T11:00:00+01:00", 2)]
    chart = Chart("abc1234", {"a": points}, "America/Los_Angeles")
    assert chart.last("a", NOON - timedelta(hours=1, seconds=1)) == 1
    assert chart.last("a", NOON - timedelta(hours=1)) == 2


def test_a_week_is_no_day() -> None:
    assert a_chart(1, 2, 3, end="2026-11-16", hours=7 * 24).last("treatment", NOON) == 2
    assert a_chart(1, 2, 3, end="2026-11-16", hours=7 * 24).last("treatment", NOON + timedelta(hours=12)) == 3


def test_a_month_is_over_late_rather_than_early() -> None:
    points: Any = [("2026-01-01", 1), ("2026-02-01", 2), ("2026-03-01", 3)]
    chart = Chart("abc1234", {"a": points})
    assert chart.last("a", datetime(2026, 3, 31, 23, tzinfo=UTC)) == 2
    assert chart.last("a", datetime(2026, 4, 1, tzinfo=UTC)) == 3


@pytest.mark.parametrize(("day", "over"), [("2026-03-29", 22), ("2026-10-25", 23)])
def test_a_day_of_23_or_25_hours_is_over_at_midnight(day: str, over: int) -> None:
    chart = a_chart(1, 2, end=day, timezone="Europe/Berlin")
    midnight = datetime.fromisoformat(f"{day}T{over}:00+00:00")
    assert chart.last("treatment", midnight - timedelta(seconds=1)) == 1
    assert chart.last("treatment", midnight) == 2


def test_an_empty_cell_is_no_value_and_not_that_of_the_day_before() -> None:
    assert a_chart(1, None, 3).last("treatment", NOON) is None
    assert a_chart(1, None, 3).newest("treatment", NOON) == ("2026-11-21", None)


def test_no_complete_period_is_no_value() -> None:
    assert a_chart(1, 2, end="2026-11-24").last("treatment", NOON) is None


def test_a_chart_that_ended_days_ago_says_nothing_of_today() -> None:
    chart = a_chart(1, 2, 3, end="2026-11-19")
    assert chart.last("treatment", NOON - timedelta(hours=12, seconds=1)) == 3
    assert chart.last("treatment", NOON - timedelta(hours=12)) is None


def test_the_order_of_the_periods_does_not_matter() -> None:
    points: Any = [("2026-11-22", 3), ("2026-11-20", 1), ("2026-11-21", 2)]
    assert Chart("abc1234", {"a": points}).last("a", NOON) == 2


def test_an_unknown_series_is_an_error_that_names_those_there_are() -> None:
    chart = Chart("abc1234", {"control": [], "treatment": []})
    with pytest.raises(UnknownSeries, match="abc1234 has no series 'tretment'; it has 'control', 'treatment'"):
        chart.last("tretment", NOON)
    with pytest.raises(ValueError, match="it has none yet"):
        Chart("abc1234", {}).last("treatment", NOON)


def test_a_single_period_does_not_tell_how_long_it_is() -> None:
    with pytest.raises(ValueError, match=r"shows 1 period of 'treatment'.* let it show at least two"):
        a_chart(1).last("treatment", NOON)


def test_a_chart_that_is_not_over_time_is_an_error_that_names_what_it_is_over() -> None:
    points: Any = [("Germany", 1), ("France", 2)]
    with pytest.raises(ValueError, match="abc1234 is not one over time: 'Germany' is no date"):
        Chart("abc1234", {"a": points}).last("a", NOON)


def test_now_without_a_time_zone_is_refused() -> None:
    with pytest.raises(ValueError, match="give an aware datetime"):
        a_chart(1, 2).last("treatment", NOON.replace(tzinfo=None))


# --- what Amplitude answers --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "content",
    [
        TABLE,
        b"\xef\xbb\xbf" + TABLE,
        TABLE.replace(b"\r\n", b"\n"),
        json.dumps({"data": TABLE.decode()}).encode(),
        b"\xef\xbb\xbf" + json.dumps({"data": TABLE.decode()}).encode(),
        b"Segment,2026-11-20,2026-11-21\ncontrol,0.5,0.6\ntreatment,0.4,",
        b"Date,control,treatment\n2026-11-20,0.5,0.4\n2026-11-21,0.6,\n",
        json.dumps(
            {
                "data": {
                    "series": [[0.5, 0.6], [{"value": 0.4}, {"value": None}]],
                    "seriesLabels": ["control", [1, "treatment"]],
                    "xValues": ["2026-11-20", "2026-11-21"],
                }
            }
        ).encode(),
    ],
    ids=[
        "csv",
        "byte order mark",
        "line feeds",
        "csv in json",
        "byte order mark before json",
        "bare table",
        "a row a day",
        "series in json",
    ],
)
def test_every_known_form_of_a_chart_is_read_alike(content: bytes) -> None:
    assert read(content) == SERIES


def test_a_name_may_hold_commas_quotes_and_line_breaks() -> None:
    found = read(a_csv('"",2026-11-20,2026-11-21', '"\ta, ""b""\nc",1,2'))
    assert found == {'a, "b"\nc': [("2026-11-20", 1), ("2026-11-21", 2)]}


def test_a_series_is_named_by_all_columns_before_the_first_day() -> None:
    found = read(a_csv("Event,Country,2026-11-20,2026-11-21", "Buy,DE,1,2", "Buy,FR,3,4", "All,,5,6"))
    assert list(found) == ["Buy, DE", "Buy, FR", "All"]
    assert found["Buy, FR"] == [("2026-11-20", 3), ("2026-11-21", 4)]


def test_a_column_that_is_no_period_is_left_out() -> None:
    assert read(a_csv(",2026-11-20,2026-11-21,Total", "a,1,2,3")) == {"a": [("2026-11-20", 1), ("2026-11-21", 2)]}


def test_a_description_before_the_table_is_no_part_of_it() -> None:
    content = a_csv('"\tFilter","\t2020-01-01"', '"\tx",9', '""', ",2026-11-20,2026-11-21", "a,1,2", "", "")
    assert read(content) == {"a": [("2026-11-20", 1), ("2026-11-21", 2)]}


def test_a_chart_that_is_not_over_time_is_read_as_well() -> None:
    assert read(b",Users,Share\nGermany,10,25%\n") == {"Germany": [("Users", 10), ("Share", 25)]}


def test_a_chart_without_data_yet_has_no_series() -> None:
    assert read(a_csv(",2026-11-20,2026-11-21")) == {}


@pytest.mark.parametrize(
    ("cell", "value"),
    [
        ("1", 1),
        ("0", 0),
        ("-1.5e3", -1500),
        ('"1,234.5"', 1234.5),
        ('"12.5%"', 12.5),
        ("", None),
        ('"\t"', None),
        ("n/a", None),
        ("NaN", None),
        ("inf", None),
        ("1e999", None),
    ],
)
def test_a_cell_is_a_finite_number_or_nothing(cell: str, value: float | None) -> None:
    assert read(a_csv(",2026-11-20,2026-11-21", f"a,{cell},2"))["a"][0] == ("2026-11-20", value)


def test_true_is_no_number() -> None:
    data = {"series": [[True, {"value": False}]], "seriesLabels": ["a"], "xValues": ["2026-11-20", "2026-11-21"]}
    assert read(json.dumps({"data": data}).encode()) == {"a": [("2026-11-20", None), ("2026-11-21", None)]}


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "CSV without a table"),
        (b"Not found", "CSV without a table"),
        (b'{"data": "a,b', "neither CSV nor JSON, or cut off"),
        (b"\xff\xfe\x00", "neither CSV nor JSON"),
        (b'{"error": "x"}', "JSON without the data of a chart"),
        (b'{"data": {"series": [[1]]}}', "JSON without the data"),
        (b'{"data": {"series": [[1]], "xValues": ["2026-11-20"]}}', "series without a label for each"),
        (b'{"data": {"series": [[1]], "xValues": [], "seriesLabels": ["a"]}}', "not one value for each period"),
        (b'{"data": {"series": [1], "xValues": [], "seriesLabels": ["a"]}}', "not one value for each period"),
        (b",2026-11-20,2026-11-21\na,1\n", "a row of 2 cells in a table of 3 columns"),
        (b",2026-11-20,2026-11-21\na,1,2\na,3,4\n", "two series of the name 'a'"),
        (b',2026-11-20,2026-11-21\n"a,1,2', "CSV that can't be read"),
        (b"{" * 100_000, "cut off"),
    ],
)
def test_what_is_no_chart_or_an_ambiguous_one_is_never_read_as_one(content: bytes, says: str) -> None:
    with pytest.raises(Unreadable, match=says):
        read(content)


# --- asking ------------------------------------------------------------------------------------------


def test_a_chart_is_one_request(hook: Given, emulator: Emulator) -> None:
    chart = hook(extra={"timezone": "Europe/Berlin"}).chart("abc1234")
    assert chart == Chart("abc1234", {"treatment": [("2026-11-21", 1)]}, "Europe/Berlin")
    assert [(each["method"], each["path"]) for each in emulator.requests()] == [("GET", "/api/3/chart/abc1234/csv")]


def test_without_a_time_zone_a_day_is_over_when_it_is_over_everywhere(hook: Given) -> None:
    chart = hook().chart("abc1234")
    assert datetime(2026, 11, 22, 11, 59, tzinfo=UTC).astimezone(ZoneInfo(chart.timezone)).day == 21
    assert datetime(2026, 11, 22, 12, tzinfo=UTC).astimezone(ZoneInfo(chart.timezone)).day == 22


@pytest.mark.parametrize("wrong", ["", " ", "a b", "a/../b", "../secrets", "a" * 65, "{{ x }}", 7, None, "ä"])
def test_a_wrong_chart_id_is_refused_before_the_first_request(wrong: Any, hook: Given, emulator: Emulator) -> None:
    with pytest.raises(ValueError, match=r"chart id is .*, but must be the last part of the chart's address"):
        hook().chart(wrong)
    assert emulator.requests() == []


def test_a_charts_address_is_told_apart_from_its_id() -> None:
    with pytest.raises(ValueError, match="'vkdc4w6s' may be meant"):
        checked_chart_id("https://app.amplitude.com/analytics/acme/chart/vkdc4w6s?source=x")
    assert checked_chart_id(" vkdc4w6s\n") == "vkdc4w6s"


@pytest.mark.parametrize(
    "send",
    [
        lambda client: client.send(flags.update("1", enabled=True)),
        lambda client: client.send(flags.list(project_id="1")),
        lambda client: list(client.iterate(flags.list())),
    ],
    ids=["write", "filtered list", "pages"],
)
def test_a_call_of_the_management_api_is_not_sent_with_these_keys(send: Any, emulator: Emulator) -> None:
    with (
        AnalyticsClient(API_KEY, SECRET, base_url=emulator.url) as client,
        pytest.raises(TypeError, match="send it with AmplitudeExperimentHook"),
    ):
        send(client)
    assert emulator.requests() == []


# --- errors ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "kind", "says"),
    [
        (400, "AmplitudeInvalidRequest", "Check the chart's id"),
        (401, "AmplitudeAuthError", r"API key \(login\) and secret key \(password\)"),
        (403, "AmplitudePermissionError", "keys are those of the project that owns the chart"),
        (404, "AmplitudeNotFound", "Check the chart's id"),
        (429, "AmplitudeRateLimited", "5 requests at once .* 1,000 in five minutes and 108,000 in an hour"),
        (500, "AmplitudeServerError", "try again later"),
    ],
)
@pytest.mark.usefixtures("at_once")
def test_every_error_says_what_to_do_about_a_chart(
    status: int, kind: str, says: str, hook: Given, emulator: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("airflow_amplitude_experiment.api._retry.PATIENCE", 0)
    emulator.fault("status", status=status, body="because", times=None)
    with pytest.raises(AmplitudeError, match=says) as error:
        hook().chart("abc1234")
    assert kind in [cls.__name__ for cls in type(error.value).__mro__]
    assert f"GET /api/3/chart/abc1234/csv answered {status}: because" in str(error.value)
    assert "management key is" not in str(error.value)
    assert "100 requests a second" not in str(error.value)
    assert error.value.maybe_applied is False


@pytest.mark.parametrize(("retry_after", "wait"), [(None, "in five minutes"), (240, "in 240 seconds")])
def test_a_rate_limit_says_when_to_try_again(
    retry_after: int | None, wait: str, hook: Given, emulator: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("airflow_amplitude_experiment.api._retry.PATIENCE", 0)
    emulator.fault("rate_limit", retry_after=retry_after, times=None)
    with pytest.raises(AmplitudeRateLimited, match=f"Try again {wait}") as error:
        hook().chart("abc1234")
    assert error.value.retry_after == retry_after


def test_an_error_travels_as_the_one_that_everybody_knows() -> None:
    from airflow_amplitude_experiment.hooks._analytics_errors import with_own_advice

    error = with_own_advice(AmplitudeRateLimited("slow", status=429, method="GET", path="/p", retry_after=7))
    for again in (error_from_dict(error.as_dict()), pickle.loads(pickle.dumps(error))):
        assert type(again) is AmplitudeRateLimited
        assert (again.text, again.status, again.path, again.retry_after) == ("slow", 429, "/p", 7)


def test_an_answer_that_holds_no_chart_is_an_error_and_no_empty_chart(hook: Given, emulator: Emulator) -> None:
    emulator.fault("html")
    with pytest.raises(AmplitudeUnexpectedAnswer, match="an HTML page"):
        hook().chart("abc1234")
    emulator.fault("status", status=200, body="Sorry.")
    with pytest.raises(AmplitudeUnexpectedAnswer, match=r"CSV without a table\. This is not how Amplitude answers"):
        hook().chart("abc1234")


# --- the connection ----------------------------------------------------------------------------------


def client_of(hook: AmplitudeAnalyticsHook) -> tuple[AnalyticsClient, str]:
    from airflow_amplitude_experiment.hooks.analytics import _timezone

    return hook.get_conn(), _timezone(hook.get_connection("charts"))


@pytest.mark.parametrize(
    ("fields", "base_url"),
    [
        ({}, "https://amplitude.com"),
        ({"extra": {"region": "eu"}}, "https://analytics.eu.amplitude.com"),
        ({"host": "http://127.0.0.1:8765", "extra": {"region": "eu"}}, "http://127.0.0.1:8765"),
        ({"host": "127.0.0.1", "port": 8765, "schema": "http"}, "http://127.0.0.1:8765"),
        ({"uri": f"amplitude-analytics://{API_KEY}:{SECRET}@?region=eu"}, "https://analytics.eu.amplitude.com"),
    ],
)
def test_a_connection_leads_to_its_region_or_host(fields: Any, base_url: str, given: Given) -> None:
    client, timezone = client_of(given(**fields))
    with client:
        assert client.base_url == base_url
        assert client.speaks_to_amplitude is base_url.endswith("amplitude.com")
        assert client._http.headers["authorization"] == f"Basic {BASIC}"
        assert str(client._http.base_url).rstrip("/") == base_url
    assert timezone == "Etc/GMT+12"


def test_what_the_form_sends_for_fields_that_are_left_empty(given: Given) -> None:
    client, timezone = client_of(given(host="", extra={"region": "", "timezone": " ", "timeout": None}))
    with client:
        assert (client.base_url, timezone, client._http.timeout.read) == ("https://amplitude.com", "Etc/GMT+12", 30)
    client, timezone = client_of(given(extra={"timezone": " Asia/Tokyo ", "timeout": "7"}))
    with client:
        assert (timezone, client._http.timeout.read) == ("Asia/Tokyo", 7)


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"login": None}, r"the API key \(login\) is empty"),
        ({"login": "a key"}, r"API key \(login\) .* holds white space"),
        ({"login": "a:key"}, "holds a colon"),
        ({"password": ""}, r"the secret key \(password\) is empty"),
        ({"password": "a sécret"}, r"secret key \(password\) .* characters that no key has"),
        ({"password": "***"}, "masked key"),
        ({"host": "ftp://x"}, "base_url is 'ftp://x'"),
        ({"extra": {"region": "mars"}}, "region is 'mars'"),
        ({"extra": {"timezone": "Mars/Base"}}, "timezone is 'Mars/Base', but must be a name like 'Europe/Berlin'"),
        ({"extra": {"timezone": "../etc"}}, "timezone is '../etc'"),
        ({"extra": {"timezone": ["UTC"]}}, "timezone is .* must be a text"),
        ({"extra": {"timeout": "soon"}}, "timeout is 'soon'"),
        ({"extra": {"timeout": 0}}, "timeout is 0.0"),
    ],
)
def test_what_is_wrong_is_said_with_the_name_of_the_connection_and_without_its_keys(
    fields: Any, says: str, given: Given
) -> None:
    hook = given(**fields)
    with pytest.raises(ValueError, match=says) as error:
        hook.chart("abc1234")
    assert str(error.value).startswith("Connection 'charts': ")
    for key in (API_KEY, SECRET, "a key", "a sécret"):
        assert key not in "".join(traceback.format_exception(error.value)).partition("ValueError")[2]
    good, text = hook.test_connection()
    assert not good
    assert text.startswith("The connection can't be used: ")


def test_keys_that_were_pasted_with_white_space(hook: Given) -> None:
    assert hook(login=f" {API_KEY}\n", password=f"{SECRET} ").chart("abc1234").series


def test_the_default_connection_is_named_as_airflow_expects() -> None:
    assert AmplitudeAnalyticsHook().amplitude_analytics_conn_id == "amplitude_analytics_default"
    assert AmplitudeAnalyticsHook.conn_type == "amplitude_analytics"


# --- the button "Test" -------------------------------------------------------------------------------


def test_the_test_says_where_the_keys_lead_and_asks_for_no_chart(hook: Given, emulator: Emulator) -> None:
    good, text = hook(extra={"timezone": "Europe/Berlin"}).test_connection()
    assert good
    assert text.startswith(f"The keys open a project's analytics at {emulator.url}. Days of charts are taken for days")
    assert "in Europe/Berlin" in text
    assert "not Amplitude itself" in text
    assert [each["path"] for each in emulator.requests()] == ["/api/2/events/list"]


def test_the_test_says_what_a_missing_time_zone_means(hook: Given) -> None:
    good, text = hook().test_connection()
    assert good
    assert "names no time zone, so a chart's day counts once it is over everywhere" in text


@pytest.mark.parametrize(
    ("fault", "says"),
    [
        ({"kind": "status", "status": 401}, "answered 401"),
        ({"kind": "status", "status": 403}, "its plan has this API"),
        ({"kind": "html"}, "an HTML page"),
        ({"kind": "status", "status": 200, "body": "Welcome"}, "not JSON"),
        ({"kind": "redirect"}, "answered 302"),
        ({"kind": "cut_before"}, "Check the network"),
    ],
)
@pytest.mark.usefixtures("at_once")
def test_a_test_that_fails_says_why(fault: Any, says: str, hook: Given, emulator: Emulator) -> None:
    emulator.fault(**fault, times=None)
    good, text = hook().test_connection()
    assert not good
    assert text.startswith(f"The keys at {emulator.url}: GET /api/2/events/list")
    assert says in text


def test_wrong_keys_are_told_with_a_hint_at_the_region(hook: Given) -> None:
    good, text = hook(password="another-secret-key").test_connection()
    assert not good
    assert "its region: a project of the EU data center is unknown in the US one" in text


# --- the keys are nowhere (law 8) --------------------------------------------------------------------


@pytest.mark.parametrize(
    "fault",
    [
        {"kind": "status", "status": 401, "body": f"unknown {API_KEY}:{SECRET}"},
        {"kind": "status", "status": 400, "body": f"Basic {BASIC}"},
        {"kind": "status", "status": 200, "body": f",2026-11-20\n{SECRET},1\n{SECRET},2\n"},
        {"kind": "redirect", "location": f"https://x/?key={BASIC}"},
    ],
)
def test_no_key_is_in_an_error_a_traceback_or_a_log(
    fault: Any, hook: Given, emulator: Emulator, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    emulator.fault(**fault, times=None)
    with pytest.raises(AmplitudeError) as error:
        hook().chart("abc1234")
    shown = "".join(traceback.format_exception(error.value)) + str(error.value.as_dict()) + caplog.text
    for key in (API_KEY, SECRET, BASIC):
        assert key not in shown


def test_no_key_is_in_a_repr() -> None:
    with AnalyticsClient(API_KEY, SECRET) as client:
        for each in (client, client.__dict__, client._http.headers):
            for key in (API_KEY, SECRET, BASIC):
                assert key not in f"{each!r} {each}"


def test_airflow_masks_the_secret_key_and_what_is_sent_of_it(hook: Given) -> None:
    from airflow.sdk._shared.secrets_masker import redact

    hook(password=f" {SECRET}\n").chart("abc1234")
    assert redact(f"Authorization: Basic {BASIC}") == "Authorization: Basic ***"
    assert redact(f"secret={SECRET}") == "secret=***"


def test_a_hook_keeps_neither_the_connection_nor_the_client(hook: Given) -> None:
    used = hook()
    before = set(vars(used))
    used.chart("abc1234")
    assert set(vars(used)) == before
    assert SECRET not in repr(vars(used))


def test_a_wrong_secret_key_opens_nothing(hook: Given) -> None:
    with pytest.raises(AmplitudeAuthError):
        hook(password="another-secret-key").chart("abc1234")
