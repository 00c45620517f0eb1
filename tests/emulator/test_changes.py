"""What a change does: fields, versions, variants, inclusions, archive."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import quote

import httpx
import pytest

from airflow_amplitude_experiment.emulator import Emulator


@pytest.fixture
def flag(emulator: Emulator) -> str:
    return f"/api/1/flags/{emulator.add_flag('nav')['id']}"


@pytest.fixture
def experiment(emulator: Emulator) -> str:
    return f"/api/1/experiments/{emulator.add_experiment('checkout')['id']}"


def test_what_a_create_leaves(api: httpx.Client) -> None:
    made = api.post("/api/1/experiments", json={"projectId": "100001", "key": "new"}).json()
    assert api.get(f"/api/1/experiments/{made['id']}").json() == {
        "id": made["id"],
        "projectId": "100001",
        "deployments": [],
        "key": "new",
        "name": "new",
        "description": "",
        "enabled": False,
        "evaluationMode": "remote",
        "bucketingKey": "amplitude_id",
        "bucketingSalt": "qnv5wiHQ",
        "bucketingUnit": "User",
        "variants": [{"key": "control"}, {"key": "treatment"}],
        "rolloutPercentage": 0,
        "rolloutWeights": {"control": 1, "treatment": 1},
        "targetSegments": [],
        "parentDependencies": None,
        "decision": None,
        "decisionReason": None,
        "rolledOutVariant": None,
        "stickyBucketing": False,
        "startDate": None,
        "endDate": None,
        "experimentType": "a-b-test",
        "state": "planning",
        "deleted": False,
        "tags": [],
        "createdBy": "management-key-1@example.com",
    }


def test_a_patch_changes_its_fields_and_no_others(api: httpx.Client, experiment: str) -> None:
    before = api.get(experiment).json()
    change = {"name": "N", "rolloutPercentage": 25, "stickyBucketing": True, "decision": "rollback", "tags": ["a"]}
    assert api.patch(experiment, json=change).text == "OK"
    assert api.get(experiment).json() == {**before, **change}


def test_the_state_follows_the_switch(api: httpx.Client, experiment: str) -> None:
    for enabled, state in ((True, "running"), (False, "planning"), (True, "running")):
        api.patch(experiment, json={"enabled": enabled})
        assert api.get(experiment).json()["state"] == state
    api.patch(experiment, json={"decision": "rollout", "decisionReason": "won", "rolledOutVariant": "treatment"})
    assert api.get(experiment).json()["state"] == "running"
    assert api.get(experiment).json()["rolloutPercentage"] == 0


def test_activate_deactivate_and_weights_of_the_beta(api: httpx.Client, experiment: str) -> None:
    beta = experiment.removeprefix("/api/1")
    assert api.post(f"{beta}/activate").text == "OK"
    assert api.get(experiment).json()["enabled"] is True
    api.post(f"{beta}/deactivate")
    assert api.get(experiment).json()["enabled"] is False
    api.post(f"{beta}/rollout-weights", json={"rolloutWeights": {"treatment": 3}})
    assert api.get(experiment).json()["rolloutWeights"] == {"control": 0, "treatment": 3}


def test_every_change_writes_a_version(api: httpx.Client, flag: str) -> None:
    writes: list[tuple[str, str, Any]] = [
        ("PATCH", "", {"enabled": True}),
        ("PATCH", "", {"rolloutPercentage": 10, "name": "N"}),
        ("POST", "/variants", {"key": "x"}),
        ("PATCH", "/variants/x", {"rolloutWeight": 2}),
        ("POST", "/variants/x/users", {"inclusions": ["u", "v"]}),
        ("DELETE", "/variants/x/users/0", None),
        ("DELETE", "/variants/x/bulk-delete-users", {"users": ["v"]}),
        ("POST", "/variants/x/cohorts", {"inclusions": ["c"]}),
        ("DELETE", "/variants/x/bulk-delete-cohorts", {"users": ["c"]}),
        ("DELETE", "/variants/x", None),
        ("DELETE", "/deployments/31", None),
        ("POST", "/deployments", {"deployments": ["31"]}),
        ("PATCH", "", {"archive": True}),
    ]
    for number, (method, part, body) in enumerate(writes, start=2):
        assert api.request(method, flag + part, json=body).text == "OK"
        versions = api.get(f"{flag}/versions").json()
        assert [one["version"] for one in versions] == list(range(number, 0, -1))
    assert api.get(f"{flag}/versions/3").json()["flagConfig"]["rolloutPercentage"] == 10
    assert api.get(f"{flag}/versions/1").json()["flagConfig"]["enabled"] is False
    assert api.get(f"{flag}/versions/99").status_code == 404


def test_a_change_of_nothing_writes_no_version(emulator: Emulator, api: httpx.Client, flag: str) -> None:
    before = emulator.flag("nav")
    api.patch(flag, json={"enabled": False, "rolloutPercentage": 0, "targetSegments": []})
    api.post(f"{flag}/deployments", json={"deployments": ["31"]})
    api.request("DELETE", f"{flag}/variants/on/bulk-delete-users", json={"users": ["nobody"]})
    api.delete(f"{flag}/variants/on/users")
    assert emulator.flag("nav") == before
    assert len(emulator.versions("nav")) == 1
    emulator.options(noop_versions=True)
    api.patch(flag, json={"enabled": False})
    assert len(emulator.versions("nav")) == 2


def test_writing_back_the_segments_that_were_read_is_no_change(
    emulator: Emulator, api: httpx.Client, flag: str
) -> None:
    segment = {"name": "All", "conditions": [], "percentage": 5, "rolloutWeights": {"on": 1}}
    api.patch(flag, json={"targetSegments": [segment]})
    read = api.get(flag).json()["targetSegments"]
    assert read == [{**segment, "bucketingKey": "user_id"}]
    api.patch(flag, json={"targetSegments": read})
    assert len(emulator.versions("nav")) == 2


def test_what_a_version_shows(emulator: Emulator, api: httpx.Client, flag: str, experiment: str) -> None:
    of_flag = api.get(f"{flag}/versions/1").json()
    assert set(of_flag) == {"createdAt", "createdBy", "version", "flagConfig"}
    assert of_flag["createdBy"] == "9001"
    delivery = {"evaluationMode", "bucketingSalt", "bucketingUnit", "rolloutPercentage"}
    period = {"stickyBucketing", "startDate", "endDate", "experimentType"}
    assert delivery <= set(of_flag["flagConfig"])
    assert not period & set(of_flag["flagConfig"])
    of_experiment = api.get(f"{experiment}/versions/1").json()["flagConfig"]
    assert period <= set(of_experiment)
    assert not (delivery | {"state"}) & set(of_experiment)
    emulator.options(fields="full", version_author="email")
    full = api.get(f"{experiment}/versions/1").json()
    assert (delivery | period | {"state"}) <= set(full["flagConfig"])
    assert full["createdBy"] == "management-key-1@example.com"


def test_the_feed_of_all_versions(emulator: Emulator, api: httpx.Client) -> None:
    moment = datetime(2026, 2, 1, tzinfo=UTC)
    emulator.world.store.clock = lambda: moment
    try:
        emulator.add_flag("a")
        moment += timedelta(minutes=1)
        emulator.add_experiment("b")
        moment += timedelta(minutes=1)
        emulator.change("a", enabled=True)
        emulator.change("b", enabled=True)
    finally:
        emulator.world.store.clock = lambda: datetime.now(UTC)

    def feed(query: str = "") -> list[tuple[str, int]]:
        found = api.get(f"/api/1/versions?limit=1000&{query}").json()["versions"]
        return [(one["flagConfig"]["key"], one["version"]) for one in found]

    assert feed() == [("b", 2), ("a", 2), ("b", 1), ("a", 1)]
    assert feed("start=2026-02-01T00:01:00Z") == [("b", 2), ("a", 2), ("b", 1)]
    assert feed("end=2026-02-01T00:01:00.000Z") == [("a", 1)]
    assert feed("start=2026-02-01T01:01:00%2B01:00&end=2026-02-01T00:02:00Z") == [("b", 1)]
    first = api.get("/api/1/versions?limit=3").json()
    assert first["nextCursor"] == "3"
    assert "nextCursor" not in api.get("/api/1/versions?limit=3&cursor=3").json()


def test_archive_and_restore(emulator: Emulator, api: httpx.Client, flag: str) -> None:
    api.patch(flag, json={"archive": True, "name": "Old"})
    assert api.get(flag).json()["deleted"] is True
    assert api.get(flag).json()["name"] == "Old"
    assert api.get("/api/1/flags").json()["flags"] == []
    assert [one["key"] for one in api.get("/api/1/flags?includeArchived=true").json()["flags"]] == ["nav"]
    assert api.get("/flags/list").json()["flags"] == []
    api.patch(flag, json={"archive": False})
    assert api.get("/api/1/flags?includeArchived=false").json()["flags"][0]["key"] == "nav"


def test_a_web_experiment_is_not_edited(emulator: Emulator, api: httpx.Client) -> None:
    web = emulator.add_experiment("page", kind="web")
    path = f"/api/1/experiments/{web['id']}"
    assert api.patch(path, json={"enabled": True}).status_code == 405
    assert api.patch(path.removeprefix("/api/1"), json={"enabled": True}).status_code == 405
    assert api.post(path.removeprefix("/api/1") + "/activate").status_code == 405
    assert api.get(path).status_code == 200
    assert emulator.experiment("page") == web


# --- variants and inclusions -------------------------------------------------------------------------


def test_the_life_of_a_variant(api: httpx.Client, flag: str) -> None:
    assert api.get(f"{flag}/variants").json() == [
        {"key": "on", "name": "", "description": "", "payload": {}, "rolloutWeight": 1}
    ]
    body = {"key": "x", "name": "X", "description": "D", "payload": {"a": 1}, "rolloutWeight": 3}
    api.post(f"{flag}/variants", json=body)
    assert api.get(f"{flag}/variants/x").json() == body
    api.patch(f"{flag}/variants/x", json={"payload": [1]})
    assert api.get(f"{flag}/variants/x").json() == {**body, "payload": [1]}
    assert api.get(flag).json()["rolloutWeights"] == {"on": 1, "x": 3}
    api.delete(f"{flag}/variants/x")
    assert api.get(f"{flag}/variants/x").status_code == 404
    assert api.get(flag).json()["rolloutWeights"] == {"on": 1}
    assert api.delete(f"{flag}/variants/x").status_code == 404


def test_renaming_a_variant_takes_everything_along(emulator: Emulator, api: httpx.Client, flag: str) -> None:
    segment = {"name": "S", "conditions": [], "percentage": 5, "rolloutWeights": {"on": 2}}
    api.patch(flag, json={"targetSegments": [segment]})
    api.post(f"{flag}/variants/on/users", json={"inclusions": ["u"]})
    api.patch(f"{flag}/variants/on", json={"key": "yes", "rolloutWeight": 5})
    assert api.get(f"{flag}/variants/on").status_code == 404
    assert api.get(f"{flag}/variants/yes/users").json() == ["u"]
    now = emulator.flag("nav")
    assert now["rolloutWeights"] == {"yes": 5}
    assert now["targetSegments"][0]["rolloutWeights"] == {"yes": 2}
    api.delete(f"{flag}/variants/yes")
    assert emulator.flag("nav")["targetSegments"][0]["rolloutWeights"] == {}


def test_inclusions_are_an_ordered_set(api: httpx.Client, flag: str) -> None:
    users = f"{flag}/variants/on/users"
    api.post(users, json={"inclusions": ["a", "b", "a"]})
    api.post(users, json={"inclusions": ["b", "c", "d"]})
    assert api.get(users).json() == ["a", "b", "c", "d"]
    api.delete(f"{users}/1")
    assert api.get(users).json() == ["a", "c", "d"]
    assert api.delete(f"{users}/3").status_code == 404
    assert api.delete(f"{users}/99999999999").status_code == 404
    api.request("DELETE", f"{flag}/variants/on/bulk-delete-users", json={"users": ["d", "nobody"]})
    assert api.get(users).json() == ["a", "c"]
    assert api.delete(users).text == "OK"
    assert api.get(users).json() == []
    assert api.get(f"{flag}/variants/nothing/users").status_code == 404


def test_cohorts_are_apart_from_users(api: httpx.Client, flag: str) -> None:
    cohorts = f"{flag}/variants/on/cohorts"
    api.post(cohorts, json={"inclusions": ["c1", "c2"]})
    api.request("DELETE", f"{flag}/variants/on/bulk-delete-cohorts", json={"users": ["c1"]})
    assert api.get(cohorts).json() == ["c2"]
    assert api.get(f"{flag}/variants/on/users").json() == []


@pytest.mark.parametrize("key", ["a/b?c", "a b", "%2F", "..", "ü/é#&=+", "🎉", "a%20b", "//", "users"])
def test_a_key_of_any_characters_stays_one_part_of_the_path(key: str, api: httpx.Client, flag: str) -> None:
    api.post(f"{flag}/variants", json={"key": key})
    path = f"{flag}/variants/{quote(key, safe='').replace('..', '%2E%2E')}"
    assert api.get(path).json()["key"] == key
    assert api.post(f"{path}/users", json={"inclusions": ["u"]}).text == "OK"
    assert api.get(f"{path}/users").json() == ["u"]
    assert api.get(f"{flag}/variants/on/users").json() == []
    assert api.delete(path).text == "OK"


def test_a_slash_in_an_id_reaches_nothing_else(api: httpx.Client, flag: str) -> None:
    number = flag.rsplit("/", 1)[1]
    assert api.get(f"/api/1/flags/{number}%2Fvariants").status_code == 404


# --- deployments -------------------------------------------------------------------------------------


def test_deployments_are_made_attached_and_archived(emulator: Emulator, api: httpx.Client, flag: str) -> None:
    made = api.post("/api/1/deployments", json={"projectId": "100001", "label": "web", "type": "client"}).json()
    assert set(made) == {"id"}
    assert api.post(f"{flag}/deployments", json={"deployments": [made["id"]]}).text == "OK"
    assert api.get(flag).json()["deployments"] == ["31", made["id"]]
    shown = api.get(f"{flag}/deployments").json()
    assert shown[1]["key"].startswith("client-")
    assert set(shown[1]) == {"id", "projectId", "label", "key", "deleted"}
    api.patch(f"/api/1/deployments/{made['id']}", json={"archive": True, "label": "old"})
    listed = api.get("/api/1/deployments").json()["deployments"]
    assert [(one["label"], one["deleted"]) for one in listed] == [("old", True), ("default", False)]
    assert api.get("/deployments/list").json()["deployments"] == listed
    assert api.delete(f"{flag}/deployments/{made['id']}").text == "OK"
    assert api.delete(f"{flag}/deployments/{made['id']}").status_code == 404
    emulator.options(fields="full")
    assert api.get("/api/1/deployments").json()["deployments"][0]["type"] == "client"


def test_a_prerequisite_is_kept_while_others_need_it(emulator: Emulator, api: httpx.Client, flag: str) -> None:
    child = emulator.add_flag("child", prerequisites={"nav": ["on"]})
    number = flag.rsplit("/", 1)[1]
    shown = api.get(f"/api/1/flags/{child['id']}").json()["parentDependencies"]
    assert shown == {"flags": {number: ["on"]}, "operator": "all"}
    assert api.patch(flag, json={"archive": True}).status_code == 400
    assert api.delete(f"{flag}/variants/on").status_code == 400
    assert api.patch(f"{flag}/variants/on", json={"key": "yes"}).status_code == 400
    api.patch(f"/api/1/flags/{child['id']}", json={"archive": True})
    assert api.patch(flag, json={"archive": True}).status_code == 200
