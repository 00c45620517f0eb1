"""Keys, scopes and projects: who may see what, 401 and 403."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from airflow_amplitude_experiment.emulator import Emulator

OTHER = "100002"


@pytest.fixture
def two_projects(emulator: Emulator) -> dict[str, str]:
    """The same keys in two projects, and a key of each kind."""
    emulator.seed(
        {
            "projects": [{"id": OTHER}],
            "keys": [
                {"key": "both", "projects": ["100001", OTHER]},
                {"key": "other-only", "projects": [OTHER], "email": "other@example.com"},
                {"key": "gone", "projects": ["100001"], "revoked": True},
            ],
            "deployments": [{"id": "40", "projectId": OTHER, "label": "theirs"}],
        }
    )
    emulator.add_flag("nav")
    emulator.add_experiment("checkout")
    return {
        "flags": emulator.add_flag("nav", project_id=OTHER)["id"],
        "experiments": emulator.add_experiment("checkout", project_id=OTHER)["id"],
        "mutexes": emulator.add_mutex("one-of", project_id=OTHER, slots=[{"percentage": 100}])["id"],
        "holdouts": emulator.add_holdout("held", project_id=OTHER, holdout_percentage=5)["id"],
    }


def get(emulator: Emulator, path: str, header: str | None) -> httpx.Response:
    return httpx.get(f"{emulator.url}{path}", headers={"Authorization": header} if header else {})


@pytest.mark.parametrize(
    "header",
    [
        None,
        "",
        "Bearer",
        "Bearer unknown",
        "Bearer gone",
        "emulator-management-key",
        "Basic emulator-management-key",
        "Api-Key emulator-management-key",
        "Bearer server-emulator-key",
    ],
)
def test_only_a_valid_management_key_opens(
    header: str | None, emulator: Emulator, two_projects: dict[str, str]
) -> None:
    answer = get(emulator, "/api/1/flags", header)
    assert answer.status_code == 401
    assert "gone" not in answer.text.replace("management key", "")


def test_the_scheme_is_written_in_any_case(emulator: Emulator) -> None:
    assert get(emulator, "/api/1/flags", "bearer emulator-management-key").status_code == 200


@pytest.mark.parametrize("part", ["", "/versions", "/variants", "/deployments", "/variants/on", "/variants/on/users"])
def test_an_object_of_another_project_is_403_and_an_unknown_one_404(
    part: str, api: httpx.Client, two_projects: dict[str, str]
) -> None:
    assert api.get(f"/api/1/flags/{two_projects['flags']}{part}").status_code == 403
    assert api.get(f"/api/1/flags/4711{part}").status_code == 404


@pytest.mark.parametrize("kind", ["flags", "experiments", "mutexes", "holdouts"])
def test_each_kind_is_guarded(kind: str, api: httpx.Client, two_projects: dict[str, str]) -> None:
    path = f"/api/1/{kind}/{two_projects[kind]}"
    assert api.get(path).status_code == 403
    assert api.patch(path, json={"name": "mine"}).status_code == 403


def test_an_id_of_another_kind_is_unknown(emulator: Emulator, api: httpx.Client) -> None:
    flag = emulator.add_flag("nav")["id"]
    assert api.get(f"/api/1/experiments/{flag}").status_code == 404


def test_creating_in_another_project_is_403(api: httpx.Client, two_projects: dict[str, str]) -> None:
    bodies: dict[str, Any] = {
        "flags": {"projectId": OTHER, "key": "x"},
        "experiments": {"projectId": OTHER, "key": "x"},
        "mutexes": {"projectId": 100002, "name": "x", "slots": [{"percentage": 100}]},
        "holdouts": {"projectId": 100002, "name": "x", "holdoutPercentage": 5},
        "deployments": {"projectId": OTHER, "label": "x", "type": "server"},
    }
    for kind, body in bodies.items():
        assert api.post(f"/api/1/{kind}", json=body).status_code == 403
    assert api.patch("/api/1/deployments/40", json={"label": "mine"}).status_code == 403


def test_lists_show_the_projects_of_the_key(emulator: Emulator, two_projects: dict[str, str]) -> None:
    def projects(key: str, path: str, name: str) -> list[str]:
        page = get(emulator, path, f"Bearer {key}").json()[name]
        return sorted({one.get("projectId") or one["flagConfig"]["projectId"] for one in page})

    for path, name in (("flags", "flags"), ("versions", "versions"), ("deployments", "deployments")):
        assert projects("emulator-management-key", f"/api/1/{path}", name) == ["100001"]
        assert projects("other-only", f"/api/1/{path}", name) == [OTHER]
        assert projects("both", f"/api/1/{path}", name) == ["100001", OTHER]
    assert projects("both", f"/api/1/flags?projectId={OTHER}", "flags") == [OTHER]
    assert len(get(emulator, "/api/1/flags?key=nav", "Bearer both").json()["flags"]) == 2
    assert projects("other-only", "/api/1/mutexes", "mutexes") == [OTHER]
    assert get(emulator, "/api/1/mutexes", "Bearer emulator-management-key").json() == {"mutexes": []}


def test_filtering_by_a_project_outside_the_scope_is_403(api: httpx.Client, two_projects: dict[str, str]) -> None:
    assert api.get(f"/api/1/flags?projectId={OTHER}").status_code == 403
    assert api.get("/api/1/flags?projectId=100001").status_code == 200


def test_members_and_deployments_of_another_project(
    emulator: Emulator, api: httpx.Client, two_projects: dict[str, str]
) -> None:
    ours = emulator.flag("nav")["id"]
    attach = f"/api/1/flags/{ours}/deployments"
    assert api.post(attach, json={"deployments": ["40"]}).status_code == 403
    assert api.post(attach, json={"deployments": ["4711"]}).status_code == 404
    mutex = {"projectId": 100001, "name": "M", "slots": [{"percentage": 100}]}
    for member, status in ((int(two_projects["experiments"]), 403), (4711, 404), (int(ours), 404)):
        slots = [{"percentage": 100, "experiments": [member]}]
        assert api.post("/api/1/mutexes", json={**mutex, "slots": slots}).status_code == status
    api.headers["Authorization"] = "Bearer both"
    assert api.post(attach, json={"deployments": ["40"]}).status_code == 400
    slots = [{"percentage": 100, "experiments": [two_projects["experiments"]]}]
    assert api.post("/api/1/mutexes", json={**mutex, "slots": slots}).status_code == 400


def test_changes_are_signed_by_the_key(emulator: Emulator, two_projects: dict[str, str]) -> None:
    path = f"{emulator.url}/api/1/flags/{two_projects['flags']}"
    httpx.patch(path, json={"enabled": True}, headers={"Authorization": "Bearer other-only"})
    changed = emulator.flag("nav", project_id=OTHER)
    assert changed["lastModifiedBy"] == "other@example.com"
    assert changed["createdBy"] == "management-key-1@example.com"
