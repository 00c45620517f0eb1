"""Mutual exclusion groups, slots and holdouts."""

from __future__ import annotations

import httpx
import pytest

from airflow_amplitude_experiment.emulator import Emulator


@pytest.fixture
def members(emulator: Emulator) -> tuple[str, str]:
    return emulator.add_experiment("a")["id"], emulator.add_experiment("b")["id"]


@pytest.fixture
def mutex(api: httpx.Client, members: tuple[str, str]) -> str:
    slots = [{"percentage": 50, "experiments": [int(members[0])], "individuals": ["qa"]}, {"percentage": 50}]
    body = {"projectId": 100001, "name": "One of", "key": "one-of", "evaluationMode": "local", "slots": slots}
    return f"/api/1/mutexes/{api.post('/api/1/mutexes', json=body).json()['id']}"


def dependencies(api: httpx.Client, member: str) -> object:
    return api.get(f"/api/1/experiments/{member}").json()["parentDependencies"]


def test_a_mutex_as_the_samples_show_it(api: httpx.Client, mutex: str, members: tuple[str, str]) -> None:
    shown = api.get(mutex).json()
    number = mutex.rsplit("/", 1)[1]
    assert shown == {
        "id": number,
        "projectId": "100001",
        "name": "One of",
        "key": "one-of",
        "description": None,
        "evaluationMode": "local",
        "bucketingKey": "amplitude_id",
        "bucketingSalt": shown["bucketingSalt"],
        "slots": [
            {
                "name": "SLOT 1",
                "index": 1,
                "variantKey": "slot-1",
                "percentage": 50,
                "experiments": [int(members[0])],
                "holdouts": [],
                "individuals": ["qa"],
                "cohorts": [],
            },
            {
                "name": "SLOT 2",
                "index": 2,
                "variantKey": "slot-2",
                "percentage": 50,
                "experiments": [],
                "holdouts": [],
                "individuals": [],
                "cohorts": [],
            },
        ],
    }
    assert api.get("/api/1/mutexes").json() == {"mutexes": [shown]}


def test_members_show_the_slots_that_let_them_pass(api: httpx.Client, mutex: str, members: tuple[str, str]) -> None:
    number = mutex.rsplit("/", 1)[1]
    assert dependencies(api, members[0]) == {"flags": {number: ["slot-1"]}, "operator": "all"}
    assert dependencies(api, members[1]) is None
    api.patch(f"{mutex}/slots/2", json={"experiments": [members[0], members[1]]})
    assert dependencies(api, members[0]) == {"flags": {number: ["slot-1", "slot-2"]}, "operator": "all"}
    assert dependencies(api, members[1]) == {"flags": {number: ["slot-2"]}, "operator": "all"}


def test_a_slot_patch_replaces_the_lists_it_names(api: httpx.Client, mutex: str, members: tuple[str, str]) -> None:
    assert api.patch(f"{mutex}/slots/1", json={"experiments": [int(members[1])]}).text == "OK"
    slot = api.get(mutex).json()["slots"][0]
    assert (slot["experiments"], slot["individuals"], slot["percentage"]) == ([int(members[1])], ["qa"], 50)
    for index in ("0", "3", "-1", "99999999999999999999"):
        assert api.patch(f"{mutex}/slots/{index}", json={"individuals": []}).status_code == 404


def test_archiving_a_mutex_frees_its_members(api: httpx.Client, mutex: str, members: tuple[str, str]) -> None:
    api.patch(mutex, json={"archive": True, "name": "ignored"})
    assert dependencies(api, members[0]) is None
    assert api.get("/api/1/mutexes").json() == {"mutexes": []}
    shown = api.get(mutex).json()
    assert (shown["deleted"], shown["name"]) == (True, "One of")
    api.patch(mutex, json={"archive": False, "name": "Again"})
    assert api.get(mutex).json()["name"] == "Again"
    assert dependencies(api, members[0]) is not None


def test_a_holdout_and_its_members(emulator: Emulator, api: httpx.Client, members: tuple[str, str]) -> None:
    body = {
        "projectId": "100001",
        "name": "Q1",
        "key": "q1",
        "holdoutPercentage": 5,
        "evaluationMode": "local",
        "experiments": [int(members[0])],
        "individualInclusion": ["in"],
        "individualExclusion": ["out"],
    }
    number = api.post("/api/1/holdouts", json=body).json()["id"]
    path = f"/api/1/holdouts/{number}"
    shown = api.get(path).json()
    assert {**body, "id": number, "variantName": "on", "deleted": False}.items() <= shown.items()
    assert (shown["createdBy"], shown["lastModifiedBy"]) == ("9001", "9001")
    assert dependencies(api, members[0]) == {"flags": {number: ["on"]}, "operator": "all"}
    api.patch(path, json={"experiments": [members[1]], "individualInclusion": []})
    assert (dependencies(api, members[0]), dependencies(api, members[1]) is None) == (None, False)
    assert api.get(path).json()["individualInclusion"] == []
    assert api.get(path).json()["individualExclusion"] == ["out"]
    api.patch(path, json={"archive": True})
    assert dependencies(api, members[1]) is None
    assert api.get(path).json()["deleted"] is True
    assert api.get("/api/1/holdouts").json() == {"holdouts": []}


def test_a_group_without_a_key_gets_one(api: httpx.Client) -> None:
    body = {"projectId": 100001, "name": "Same", "slots": [{"percentage": 100}]}
    first, second = (api.post("/api/1/mutexes", json=body).json()["id"] for _ in range(2))
    keys = {api.get(f"/api/1/mutexes/{one}").json()["key"] for one in (first, second)}
    assert len(keys) == 2


def test_a_local_member_needs_a_local_group(emulator: Emulator, api: httpx.Client, members: tuple[str, str]) -> None:
    remote = emulator.add_experiment("remote", evaluation_mode="remote")["id"]
    for mode, member, status in (("remote", members[0], 400), ("local", remote, 200), ("remote", remote, 200)):
        body = {"projectId": 100001, "name": "H", "holdoutPercentage": 5, "evaluationMode": mode}
        assert api.post("/api/1/holdouts", json={**body, "experiments": [member]}).status_code == status


def test_groups_write_no_versions(api: httpx.Client, mutex: str) -> None:
    api.patch(mutex, json={"name": "New"})
    keys = {one["flagConfig"]["key"] for one in api.get("/api/1/versions").json()["versions"]}
    assert keys == {"a", "b"}


def test_members_as_texts(emulator: Emulator, api: httpx.Client, mutex: str, members: tuple[str, str]) -> None:
    emulator.options(member_ids="string")
    assert api.get(mutex).json()["slots"][0]["experiments"] == [members[0]]
    emulator.options(ids="number")
    assert api.get(mutex).json()["slots"][0]["experiments"] == [int(members[0])]


def test_a_slot_patch_that_appends(emulator: Emulator, api: httpx.Client, mutex: str, members: tuple[str, str]) -> None:
    emulator.options(slot_lists="append")
    api.patch(f"{mutex}/slots/1", json={"experiments": [int(members[1])], "individuals": ["qa", "qa-2"]})
    slot = api.get(mutex).json()["slots"][0]
    assert slot["experiments"] == [int(one) for one in members]
    assert slot["individuals"] == ["qa", "qa-2"]
