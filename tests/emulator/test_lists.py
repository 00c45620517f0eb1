"""Lists, pages and filters; and every option by which the emulator answers the other way."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from airflow_amplitude_experiment.emulator import Emulator


@pytest.fixture
def five(emulator: Emulator) -> list[str]:
    return [emulator.add_flag(f"flag-{number}")["id"] for number in range(5)]


def walk(api: httpx.Client, path: str, name: str, limit: int) -> list[list[str]]:
    pages, cursor = [], None
    while True:
        query = {"limit": limit} | ({"cursor": cursor} if cursor is not None else {})
        page = api.get(path, params=query).json()
        listed = [one for one in page[name] if "key" in one]
        pages.append([one["key"] for one in listed])
        inside = [one["nextCursor"] for one in page[name] if "nextCursor" in one]
        cursor = page.get("nextCursor", inside[0] if inside else None)
        if cursor in (None, ""):
            return pages


@pytest.mark.parametrize("cursor", ["string", "integer", "opaque"])
@pytest.mark.parametrize("place", ["top", "in_array"])
@pytest.mark.parametrize("end", ["absent", "null", "empty"])
def test_paging_newest_first(
    cursor: str, place: str, end: str, emulator: Emulator, api: httpx.Client, five: list[str]
) -> None:
    emulator.options(cursor=cursor, next_cursor=place, end_of_list=end)
    pages = walk(api, "/api/1/flags", "flags", 2)
    assert pages == [["flag-4", "flag-3"], ["flag-2", "flag-1"], ["flag-0"]]
    first = api.get("/api/1/flags?limit=2").json()
    last = api.get("/api/1/flags?limit=5").json()
    element: Any = first["flags"][-1] if place == "in_array" else first
    assert isinstance(element["nextCursor"], int if cursor == "integer" else str)
    assert ("nextCursor" in first) == (place == "top")
    assert last.get("nextCursor", "absent") == {"absent": "absent", "null": None, "empty": ""}[end]


def test_a_page_past_the_end_is_empty(api: httpx.Client, five: list[str]) -> None:
    assert api.get("/api/1/flags?cursor=5").json() == {"flags": []}
    assert api.get("/api/1/flags?cursor=4000").json() == {"flags": []}


def test_a_page_without_a_limit_is_not_endless(emulator: Emulator, api: httpx.Client, five: list[str]) -> None:
    emulator.options(default_limit=2)
    assert len(api.get("/api/1/flags").json()["flags"]) == 2


@pytest.mark.parametrize("name", ["deployments", "mutexes", "holdouts", "experiments"])
def test_every_list_pages(name: str, emulator: Emulator, api: httpx.Client) -> None:
    for number in range(3):
        key = f"{name}-{number}"
        emulator.add_experiment(f"experiment-{number}")
        emulator.add_mutex(f"mutex-{number}", slots=[{"percentage": 100}])
        emulator.add_holdout(f"holdout-{number}", holdout_percentage=5)
        emulator.seed({"deployments": [{"projectId": "100001", "label": key}]})
    pages = walk(api, f"/api/1/{name}", name, 1)
    assert [len(page) for page in pages] == [1] * (4 if name == "deployments" else 3)
    assert len({page[0] for page in pages}) == len(pages)


def test_an_insert_while_paging_repeats_an_object(emulator: Emulator, api: httpx.Client, five: list[str]) -> None:
    first = api.get("/api/1/flags?limit=2").json()
    emulator.add_flag("flag-5")
    second = api.get(f"/api/1/flags?limit=2&cursor={first['nextCursor']}").json()
    assert second["flags"][0]["key"] == first["flags"][1]["key"]


def test_filters(emulator: Emulator, api: httpx.Client, five: list[str]) -> None:
    def keys(query: str) -> list[str]:
        return [one["key"] for one in api.get(f"/api/1/flags?{query}").json()["flags"]]

    assert keys("key=flag-1") == ["flag-1"]
    assert keys("key=flag") == []
    assert len(keys("projectId=100001")) == 5
    assert len(keys("unknown=1")) == 5
    emulator.options(key_filter="partial")
    assert len(keys("key=lag-")) == 5
    beta = api.get("/flags/list?key=flag-1").json()["flags"]
    assert len(beta) == 5


def test_lists_and_details_show_different_fields(emulator: Emulator, api: httpx.Client) -> None:
    paths = {
        "flags": emulator.add_flag("nav")["id"],
        "experiments": emulator.add_experiment("checkout")["id"],
    }
    signature = {"lastModifiedBy", "createdAt", "lastModifiedAt"}
    for name, number in paths.items():
        listed = set(api.get(f"/api/1/{name}").json()[name][0])
        shown = set(api.get(f"/api/1/{name}/{number}").json())
        assert signature | {"createdBy"} <= listed
        assert not {"deleted", "tags"} & listed
        assert "deleted" in shown
        assert not signature & shown
        assert ({"tags", "createdBy"} <= shown) == (name == "experiments")
        emulator.options(fields="full")
        listed = set(api.get(f"/api/1/{name}").json()[name][0])
        full = api.get(f"/api/1/{name}/{number}").json()
        assert listed == set(full) >= signature | {"deleted", "tags", "createdBy"}
        assert set(full["variants"][0]) == {"key", "name", "description", "payload", "rolloutWeight"}
        emulator.options(fields="sparse")


def test_ids_as_numbers(emulator: Emulator, api: httpx.Client) -> None:
    emulator.options(ids="number")
    made = api.post("/api/1/flags", json={"projectId": "100001", "key": "new", "deployments": ["31"]}).json()
    assert isinstance(made["id"], int)
    shown = api.get(f"/api/1/flags/{made['id']}").json()
    assert (shown["id"], shown["projectId"], shown["deployments"]) == (made["id"], 100001, [31])
    assert api.get(f"/api/1/flags/{made['id']}/versions").json()[0]["flagConfig"]["projectId"] == 100001
    assert api.get("/api/1/deployments").json()["deployments"][0]["id"] == 31
    made = api.post("/api/1/deployments", json={"projectId": "100001", "label": "x", "type": "server"}).json()
    assert isinstance(made["id"], int)


def test_an_empty_payload(emulator: Emulator, api: httpx.Client) -> None:
    path = f"/api/1/flags/{emulator.add_flag('nav')['id']}/variants/on"
    assert api.get(path).json()["payload"] == {}
    emulator.options(empty_payload="null")
    assert api.get(path).json()["payload"] is None
    emulator.options(empty_payload="missing")
    assert "payload" not in api.get(path).json()


def test_dates(emulator: Emulator, api: httpx.Client) -> None:
    path = f"/api/1/experiments/{emulator.add_experiment('checkout')['id']}"
    api.patch(path, json={"startDate": "2026-02-01", "endDate": "2026-03-01T01:30:00+02:00"})
    assert api.get(path).json()["endDate"] == "2026-02-28"
    emulator.options(dates="as_sent")
    assert api.get(path).json()["startDate"] == "2026-02-01"
    assert api.get(path).json()["endDate"] == "2026-03-01T01:30:00+02:00"


def test_the_answer_to_a_patch(emulator: Emulator, api: httpx.Client) -> None:
    path = f"/api/1/flags/{emulator.add_flag('nav')['id']}"
    for body, expected in (("text", "OK"), ("json", '{"result":"OK"}'), ("empty", "")):
        emulator.options(patch_body=body)
        answer = api.patch(path, json={"enabled": True})
        assert (answer.status_code, answer.text) == (200, expected)


def test_the_body_of_an_error(emulator: Emulator, api: httpx.Client) -> None:
    assert api.get("/api/1/flags/1").text == "There is no flag with this id."
    emulator.options(error_body="json")
    assert api.get("/api/1/flags/1").json() == {"error": {"message": "There is no flag with this id."}}
    assert api.get("/nothing").json()["error"]["message"] == "Not Found"


def test_inclusions_that_are_already_there(emulator: Emulator, api: httpx.Client) -> None:
    path = f"/api/1/flags/{emulator.add_flag('nav')['id']}/variants/on/users"
    api.post(path, json={"inclusions": ["a"]})
    assert api.post(path, json={"inclusions": ["a"]}).status_code == 200
    emulator.options(present_inclusions=403)
    assert api.post(path, json={"inclusions": ["a"]}).status_code == 403
    assert api.post(path, json={"inclusions": ["a", "b"]}).status_code == 200
    assert api.get(path).json() == ["a", "b"]


def test_approvals_that_hold_a_change_back(emulator: Emulator, api: httpx.Client) -> None:
    emulator.add_experiment("checkout")
    path = f"/api/1/experiments/{emulator.experiment('checkout')['id']}"
    emulator.options(approvals="pending")
    assert api.patch(path, json={"name": "Planned"}).status_code == 200
    assert api.patch(path, json={"enabled": True}).text == "OK"
    assert api.get(path).json()["name"] == "Planned"
    assert api.get(path).json()["enabled"] is False
    emulator.options(approvals="off")
    api.patch(path, json={"enabled": True})
    emulator.options(approvals="pending")
    before = emulator.experiment("checkout")
    assert api.patch(path, json={"rolloutPercentage": 10}).status_code == 200
    assert api.patch(f"{path}/variants/control", json={"rolloutWeight": 3}).status_code == 200
    assert emulator.experiment("checkout") == before
    emulator.options(approval_scope="documented")
    assert api.patch(path, json={"rolloutPercentage": 10}).status_code == 200
    assert api.post(f"{path}/variants/control/users", json={"inclusions": ["qa"]}).status_code == 200
    assert api.patch(path, json={"targetSegments": [], "bucketingSalt": "new"}).status_code == 200
    assert emulator.experiment("checkout")["rolloutPercentage"] == 10
    assert emulator.experiment("checkout")["bucketingSalt"] == before["bucketingSalt"]
    emulator.options(approvals="reject", approval_status=409)
    assert api.patch(path, json={"bucketingSalt": "new"}).status_code == 409
    assert api.patch(path, json={"enabled": False}).status_code == 200


@pytest.mark.parametrize(
    "changes",
    [{"ids": "float"}, {"nothing": 1}, {"noop_versions": "yes"}, {"present_inclusions": True}, {"default_limit": -1}],
)
def test_an_option_that_does_not_exist(changes: dict[str, Any], emulator: Emulator) -> None:
    before = emulator.options()
    with pytest.raises(ValueError, match="option"):
        emulator.options(**changes)
    assert emulator.options() == before
