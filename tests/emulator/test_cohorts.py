"""Behavioral cohorts: the list, the three steps of an export, the link to the file, and the limits."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest

from airflow_amplitude_experiment.emulator import Emulator


class Clock:
    def __init__(self) -> None:
        self.now = datetime(2026, 11, 22, 12, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.now

    def forward(self, **span: float) -> None:
        self.now += timedelta(**span)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(scope="module")
def running() -> Iterator[Emulator]:
    with Emulator() as emulator:
        yield emulator


@pytest.fixture
def amplitude(clock: Clock, running: Emulator) -> Emulator:
    """An emulator with a cohort of two users, one of whom is known by a device only."""
    emulator = running
    emulator.reset()
    emulator.world.store.clock = clock
    emulator.add_cohort("hmzct8qe", ["qa,1", {"amplitude_id": "7", "plan": "pro", "city": "Bonn"}], name="Beta")
    return emulator


def get(emulator: Emulator, path: str, *, auth: Any = "keys", **options: Any) -> httpx.Response:
    keys = (emulator.analytics_api_key, emulator.analytics_secret_key)
    with httpx.Client(base_url=emulator.url, verify=False) as client:
        return client.get(path, auth=keys if auth == "keys" else auth, **options)


def ask(emulator: Emulator, cohort_id: str = "hmzct8qe", **params: Any) -> httpx.Response:
    return get(emulator, f"/api/5/cohorts/request/{cohort_id}", params=params)


def exported(emulator: Emulator, **params: Any) -> str:
    """Export the cohort up to the point where its file can be had."""
    request_id = str(ask(emulator, **params).json()["request_id"])
    while get(emulator, f"/api/5/cohorts/request-status/{request_id}").status_code == 202:
        pass
    return f"/api/5/cohorts/request/{request_id}/file"


def rows(text: str) -> list[list[str]]:
    return list(csv.reader(io.StringIO(text)))


# --- the list and the three steps --------------------------------------------------------------------


def test_the_list_tells_of_each_cohort_its_name_and_size(amplitude: Emulator) -> None:
    (cohort,) = get(amplitude, "/api/3/cohorts").json()["cohorts"]
    assert (cohort["id"], cohort["name"], cohort["size"], cohort["appId"]) == ("hmzct8qe", "Beta", 2, 100001)


def test_an_export_is_in_progress_before_it_is_complete(amplitude: Emulator) -> None:
    asked = ask(amplitude)
    assert asked.status_code == 202
    assert asked.json()["cohort_id"] == "hmzct8qe"
    path = f"/api/5/cohorts/request-status/{asked.json()['request_id']}"
    looks = [get(amplitude, path) for _ in range(3)]
    assert [each.status_code for each in looks] == [202, 200, 200]
    assert [each.json()["async_status"] for each in looks] == ["JOB INPROGRESS", "JOB COMPLETED", "JOB COMPLETED"]


def test_an_export_takes_as_long_as_the_clock_says(amplitude: Emulator, clock: Clock) -> None:
    amplitude.options(cohort_looks=0, cohort_seconds=90)
    path = f"/api/5/cohorts/request-status/{ask(amplitude).json()['request_id']}"
    assert get(amplitude, path).status_code == 202
    clock.forward(seconds=90)
    assert get(amplitude, path).status_code == 200


def test_the_file_of_a_small_cohort_is_the_answer(amplitude: Emulator) -> None:
    answer = get(amplitude, exported(amplitude))
    assert answer.status_code == 200
    assert rows(answer.text) == [["amplitude_id", "user_id"], ["356893815359", "qa,1"], ["7", ""]]
    assert answer.text.startswith('"amplitude_id","user_id"\n')


def test_properties_are_columns_where_they_are_asked_for(amplitude: Emulator) -> None:
    every = rows(get(amplitude, exported(amplitude, props=1)).text)
    assert every == [
        ["amplitude_id", "user_id", "plan", "city"],
        ["356893815359", "qa,1", "", ""],
        ["7", "", "pro", "Bonn"],
    ]
    some = rows(get(amplitude, exported(amplitude, props=1, propKeys=["city", "none"])).text)
    assert some[0] == ["amplitude_id", "user_id", "city"]


def test_an_export_holds_the_users_of_when_it_was_asked_for(amplitude: Emulator) -> None:
    path = exported(amplitude)
    amplitude.world.store.cohorts["hmzct8qe"].users.clear()
    assert len(rows(get(amplitude, path).text)) == 3


def test_a_file_is_not_there_before_the_export_is_complete(amplitude: Emulator) -> None:
    request_id = ask(amplitude).json()["request_id"]
    assert get(amplitude, f"/api/5/cohorts/request/{request_id}/file").status_code == 400


def test_an_export_is_there_for_seven_days(amplitude: Emulator, clock: Clock) -> None:
    path = exported(amplitude)
    clock.forward(days=7)
    assert get(amplitude, path).status_code == 200
    clock.forward(seconds=1)
    assert get(amplitude, path).status_code == 404


@pytest.mark.parametrize("path", ["request/nope", "request-status/nope", "request/nope/file"])
def test_what_is_unknown_is_not_found(path: str, amplitude: Emulator) -> None:
    assert get(amplitude, f"/api/5/cohorts/{path}").status_code == 404


@pytest.mark.parametrize("path", ["3/cohorts", "3/cohorts/usage", "5/cohorts/request/hmzct8qe"])
def test_other_keys_open_nothing(path: str, amplitude: Emulator) -> None:
    assert get(amplitude, f"/api/{path}", auth=("a", "b")).status_code == 401
    assert get(amplitude, f"/api/{path}", auth=None).status_code == 401


def test_cohorts_of_another_project_are_not_there(amplitude: Emulator) -> None:
    amplitude.seed({"projects": [{"id": "2"}], "cohorts": [{"id": "theirs", "projectId": "2"}]})
    assert ask(amplitude, "theirs").status_code == 404
    assert [one["id"] for one in get(amplitude, "/api/3/cohorts").json()["cohorts"]] == ["hmzct8qe"]


# --- the link of a large cohort ----------------------------------------------------------------------


@pytest.fixture
def link(amplitude: Emulator) -> str:
    """The link to a file that is too large to be the answer."""
    amplitude.options(cohort_inline=1)
    answer = get(amplitude, exported(amplitude))
    assert answer.status_code == 302
    return answer.headers["location"]


def test_a_link_opens_the_file_without_keys(link: str, amplitude: Emulator) -> None:
    answer = get(amplitude, link, auth=None)
    assert (answer.status_code, len(rows(answer.text))) == (200, 3)


def test_a_link_refuses_a_request_with_keys_as_the_storage_does(link: str, amplitude: Emulator) -> None:
    answer = get(amplitude, link)
    assert answer.status_code == 400
    assert "<Code>InvalidArgument</Code>" in answer.text


def test_a_link_is_good_for_a_minute_and_the_next_one_again(link: str, amplitude: Emulator, clock: Clock) -> None:
    clock.forward(seconds=61)
    assert "<Code>AccessDenied</Code>" in get(amplitude, link, auth=None).text
    path = next(each["path"] for each in amplitude.requests() if each["path"].endswith("/file"))
    again = get(amplitude, path).headers["location"]
    assert again != link
    assert get(amplitude, again, auth=None).status_code == 200


def test_a_link_with_another_signature_opens_nothing(link: str, amplitude: Emulator) -> None:
    assert get(amplitude, f"{link}x", auth=None).status_code == 403


def test_the_request_log_holds_no_signature(link: str, amplitude: Emulator) -> None:
    get(amplitude, link, auth=None)
    assert link.rpartition("=")[2] not in str(amplitude.requests())


# --- limits ------------------------------------------------------------------------------------------


def refused(answer: httpx.Response) -> str:
    assert answer.status_code == 429
    return answer.text


def test_the_months_downloads(amplitude: Emulator, clock: Clock) -> None:
    amplitude.options(cohort_downloads=1, cohort_looks=0, retry_after="seconds")
    exported(amplitude)
    answer = ask(amplitude)
    assert refused(answer) == "Monthly limit of 1 cohort downloads exceeded."
    usage = get(amplitude, "/api/3/cohorts/usage").json()["rest_download"]
    assert usage == {"limit": 1, "usage": 1, "resets_at": "2026-12-01T00:00:00.000Z"}
    clock.forward(seconds=int(answer.headers["retry-after"]))
    assert clock.now == datetime(2026, 12, 1, tzinfo=UTC)
    assert ask(amplitude).status_code == 202


def test_the_requests_of_ten_minutes(amplitude: Emulator, clock: Clock) -> None:
    amplitude.options(cohort_requests=2, cohort_looks=0)
    exported(amplitude)
    clock.forward(minutes=4)
    exported(amplitude)
    assert refused(ask(amplitude)) == "Rate limit of 2 cohort requests per 10 minutes exceeded."
    clock.forward(minutes=6)
    assert ask(amplitude).status_code == 202


def test_four_exports_side_by_side_within_a_minute(amplitude: Emulator, clock: Clock) -> None:
    assert [ask(amplitude).status_code for _ in range(4)] == [202] * 4
    assert refused(ask(amplitude)) == "Limit of 4 parallel cohort requests per minute exceeded."
    clock.forward(seconds=60)
    assert ask(amplitude).status_code == 202


def test_requests_at_once_are_counted_with_those_for_charts(amplitude: Emulator) -> None:
    amplitude.options(charts_at_once=0)
    assert refused(get(amplitude, "/api/3/cohorts")) == "Concurrent limit of 0 requests exceeded."


def test_what_is_refused_does_not_count(amplitude: Emulator) -> None:
    [ask(amplitude) for _ in range(9)]
    assert get(amplitude, "/api/3/cohorts/usage").json()["rest_download"]["usage"] == 4


# --- state -------------------------------------------------------------------------------------------


def test_cohorts_are_part_of_the_state(amplitude: Emulator) -> None:
    saved = amplitude.state(keys=True)
    assert saved["cohorts"][0]["users"][1] == {"amplitude_id": "7", "user_id": "", "plan": "pro", "city": "Bonn"}
    amplitude.reset()
    assert get(amplitude, "/api/3/cohorts").json() == {"cohorts": []}
    amplitude.load_state(saved)
    assert len(rows(get(amplitude, exported(amplitude)).text)) == 3


def test_a_reset_forgets_exports_and_what_was_counted(amplitude: Emulator) -> None:
    path = exported(amplitude)
    saved = amplitude.state(keys=True)
    amplitude.reset()
    amplitude.load_state(saved)
    assert get(amplitude, path).status_code == 404
    assert get(amplitude, "/api/3/cohorts/usage").json()["rest_download"]["usage"] == 0


@pytest.mark.parametrize("fields", [{"users": [7]}, {"members": []}])
def test_a_cohort_that_can_not_be_is_refused(fields: Any, amplitude: Emulator) -> None:
    with pytest.raises(ValueError, match="cohort: "):
        amplitude.seed({"cohorts": [{"id": "c", **fields}]})


def test_an_id_is_taken_once(amplitude: Emulator) -> None:
    with pytest.raises(ValueError, match="already taken"):
        amplitude.add_cohort("hmzct8qe", [])
