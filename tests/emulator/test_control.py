"""The control path, seeds and saved states, the request log, the pages; and that keys stay secret."""

from __future__ import annotations

import json
import logging
from typing import Any

import httpx
import pytest

from airflow_amplitude_experiment.emulator import Emulator, create_app

SEED: dict[str, Any] = {
    "projects": [{"id": "100002", "name": "Shop", "organization": "acme"}],
    "keys": [{"key": "shop-key", "projects": ["100002"], "email": "bot@example.com", "userId": "77"}],
    "deployments": [{"id": "50", "projectId": "100002", "label": "web", "type": "client", "key": "client-shop"}],
    "experiments": [
        {
            "projectId": "100002",
            "id": "70001",
            "key": "checkout",
            "enabled": True,
            "rolloutPercentage": 10,
            "variants": ["control", {"key": "treatment", "users": ["qa"], "rolloutWeight": 3, "payload": {"x": 1}}],
            "deployments": ["web"],
            "createdBy": "person@example.com",
            "createdAt": "2026-01-01T00:00:00Z",
            "versions": [
                {
                    "version": 7,
                    "createdAt": "2026-01-02T00:00:00Z",
                    "createdBy": "person@example.com",
                    "flagConfig": {"rolloutPercentage": 5},
                }
            ],
        }
    ],
    "mutexes": [{"projectId": "100002", "key": "one-of", "slots": [{"percentage": 100, "experiments": ["checkout"]}]}],
    "holdouts": [{"projectId": "100002", "key": "held", "holdoutPercentage": 5, "experiments": ["checkout"]}],
    "options": {"dates": "as_sent"},
}


def test_a_seed_in_the_words_of_the_api(emulator: Emulator, control: httpx.Client, api: httpx.Client) -> None:
    assert control.post("seed", json=SEED).json() == {"status": "ok"}
    api.headers["Authorization"] = "Bearer shop-key"
    shown = api.get("/api/1/experiments/70001").json()
    assert (shown["enabled"], shown["state"], shown["deployments"]) == (True, "running", ["50"])
    assert shown["rolloutWeights"] == {"control": 0, "treatment": 3}
    assert sorted(shown["parentDependencies"]["flags"].values()) == [["on"], ["slot-1"]]
    version = api.get("/api/1/experiments/70001/versions/7").json()
    assert version["createdAt"] == "2026-01-02T00:00:00.000Z"
    api.patch("/api/1/experiments/70001", json={"rolloutPercentage": 20})
    assert [one["version"] for one in api.get("/api/1/experiments/70001/versions").json()] == [8, 7]
    assert api.get("/api/1/experiments/70001/versions/8").json()["createdBy"] == "77"
    assert emulator.options()["dates"] == "as_sent"
    assert len(api.get("/api/1/deployments").json()["deployments"]) == 1


def test_a_wrong_seed_changes_nothing(emulator: Emulator, control: httpx.Client) -> None:
    before = emulator.state(keys=True)
    wrong: list[Any] = [
        [],
        {"flag": []},
        {"flags": [{"key": "a"}, {"key": "a"}]},
        {"flags": [{"key": "a", "rollout": 1}]},
        {"flags": [{"name": "no key"}]},
        {"flags": [{"key": "a", "projectId": "9"}]},
        {"flags": [{"key": "a", "deployments": ["nowhere"]}]},
        {"flags": [{"key": "a", "createdAt": "yesterday"}]},
        {"flags": [{"key": "a"}], "options": {"ids": "float"}},
        {"keys": [{"key": "***"}]},
        {"mutexes": [{"key": "m"}]},
        {"mutexes": [{"key": "m", "slots": [{"percentage": 100, "experiments": ["nobody"]}]}]},
        {"holdouts": [{"key": "h", "holdoutPercentage": 5, "experiments": [4711]}]},
        {"flags": [{"key": "a", "prerequisites": {"nobody": ["on"]}}]},
        {"flags": [{"key": "a", "prerequisites": {"b": ["on"]}}, {"key": "b", "prerequisites": {"a": ["on"]}}]},
    ]
    for document in wrong:
        answer = control.post("seed", json=document)
        assert answer.status_code == 400, document
        assert answer.json()["error"]
    assert control.post("seed", content=b"{").status_code == 400
    assert emulator.state(keys=True) == before


def test_a_saved_state_is_loaded_back_exactly(emulator: Emulator, control: httpx.Client, api: httpx.Client) -> None:
    emulator.seed(SEED)
    flag = emulator.add_flag("nav", target_segments=[])
    emulator.change("nav", by="x@example.com", enabled=True)
    saved = control.get("state?keys=true").json()
    before = api.get("/api/1/versions").text, api.get(f"/api/1/flags/{flag['id']}").text
    control.post("reset")
    assert control.get("state?keys=true").json() != saved
    assert control.put("state", json=saved).status_code == 200
    assert control.get("state?keys=true").json() == saved
    assert (api.get("/api/1/versions").text, api.get(f"/api/1/flags/{flag['id']}").text) == before
    new = api.post("/api/1/flags", json={"projectId": "100001", "key": "new"}).json()["id"]
    assert int(new) > int(flag["id"])
    with Emulator(saved) as other:
        assert other.versions("nav") == emulator.versions("nav")
        assert other.management_key == emulator.management_key


def test_a_masked_state_is_not_loaded(control: httpx.Client) -> None:
    masked = control.get("state").json()
    assert {one["key"] for one in masked["keys"] + masked["deployments"]} == {"***"}
    assert control.put("state", json=masked).status_code == 400


def test_faults_requests_and_options_over_http(emulator: Emulator, control: httpx.Client, api: httpx.Client) -> None:
    control.post("faults", json=[{"kind": "status", "status": 503}, {"kind": "html", "times": 2}])
    assert [one["kind"] for one in control.get("faults").json()["faults"]] == ["status", "html"]
    assert api.get("/api/1/flags").status_code == 503
    assert control.delete("faults").json() == {"faults": []}
    assert api.get("/api/1/flags?limit=5&key=a%20b").status_code == 200
    assert control.post("faults", json={"kind": "x"}).status_code == 400
    logged = control.get("requests").json()["requests"]
    assert [(one["path"], one["status"], one["fault"]) for one in logged] == [
        ("/api/1/flags", 503, "status"),
        ("/api/1/flags", 200, None),
    ]
    assert logged[1]["query"] == {"limit": "5", "key": "a b"}
    assert control.delete("requests").json() == {"requests": []}
    assert control.get("requests").json() == {"requests": []}
    assert control.patch("options", json={"ids": "number"}).json()["ids"] == "number"
    assert control.get("options").json()["ids"] == "number"
    assert control.patch("options", json={"ids": "x"}).status_code == 400
    assert control.post("reset").status_code == 200
    assert control.get("options").json()["ids"] == "string"
    assert control.get("nothing").status_code == 404
    assert control.get("reset").status_code == 405


def test_the_log_shows_bodies_and_sdks_on_request(emulator: Emulator, api: httpx.Client) -> None:
    api.post("/api/1/flags", json={"projectId": "100001", "key": "new"})
    api.patch("/api/1/flags/1/variants/a%2Fb", content=b"no json")
    httpx.get(f"{emulator.url}/sdk/v2/flags", headers={"Authorization": f"Api-Key {emulator.deployment_key}"})
    first, second = emulator.requests()
    assert first["method"] == "POST"
    assert first["body"] == {"projectId": "100001", "key": "new"}
    assert first["time"].endswith("Z")
    assert (second["path"], second["body"], second["status"]) == ("/api/1/flags/1/variants/a%2Fb", "no json", 404)
    assert [one["path"] for one in emulator.requests(sdk=True)][2:] == ["/sdk/v2/flags"]
    emulator.clear_requests()
    assert emulator.requests(sdk=True) == []


def test_keys_are_in_no_log_and_no_answer(
    emulator: Emulator,
    api: httpx.Client,
    control: httpx.Client,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    caplog.set_level(logging.DEBUG)
    keys = (emulator.management_key, emulator.deployment_key)
    flag = emulator.add_flag("nav")["id"]
    for key in keys:
        api.get(f"/api/1/flags/{key}?key={key}")
        api.patch(f"/api/1/flags/{flag}", json={"description": key})
        api.get("/api/1/flags", headers={"Authorization": f"Basic {key}"})
    emulator.fault("cut_after")
    with pytest.raises(httpx.HTTPError):
        api.get("/api/1/flags")
    pages = [control.get(path).text for path in ("requests?sdk=true", "options", "faults", "health")]
    own = "".join(one.getMessage() for one in caplog.records if not one.name.startswith(("httpx", "httpcore")))
    out = capfd.readouterr()
    for key in keys:
        assert key not in "".join(pages)
        assert key not in json.dumps(emulator.requests())
        assert key not in own + out.out + out.err


def test_the_control_path_is_for_this_machine(emulator: Emulator, control: httpx.Client) -> None:
    assert control.get("state", headers={"Origin": "https://evil.example"}).status_code == 403
    assert control.get("state", headers={"Origin": "http://127.0.0.1:9"}).status_code == 200


async def test_the_control_path_refuses_other_machines() -> None:
    app = create_app()
    for client, status in (("192.0.2.1", 403), ("127.0.0.1", 200), ("::1", 200)):
        transport = httpx.ASGITransport(app=app, client=(client, 5))  # type: ignore[arg-type]
        async with httpx.AsyncClient(transport=transport, base_url="http://emulator") as http:
            assert (await http.get("/_emulator/health")).status_code == status


async def test_the_bare_application_without_a_socket() -> None:
    transport = httpx.ASGITransport(app=create_app())  # type: ignore[arg-type]
    key = {"Authorization": "Bearer emulator-management-key"}
    async with httpx.AsyncClient(transport=transport, base_url="http://emulator", headers=key) as http:
        made = (await http.post("/api/1/flags", json={"projectId": "100001", "key": "new"})).json()
        assert made["url"].startswith("http://emulator/experiment/")
        await http.post("/_emulator/faults", json={"kind": "cut_after"})
        with pytest.raises(ConnectionResetError):
            await http.patch(f"/api/1/flags/{made['id']}", json={"enabled": True})
        assert (await http.get(f"/api/1/flags/{made['id']}")).json()["enabled"] is True


def test_a_page_escapes_everything(emulator: Emulator, api: httpx.Client) -> None:
    evil = '<script>alert("x")</script>'
    body = {"projectId": "100001", "key": evil, "name": evil, "variants": [{"key": evil}]}
    made = api.post("/api/1/flags", json=body).json()
    api.patch(f"/api/1/flags/{made['id']}", json={"enabled": True, "rolloutPercentage": 12})
    page = httpx.get(made["url"])
    assert "<script>" not in page.text
    assert "&lt;script&gt;" in page.text
    assert "12 %" in page.text
    assert emulator.management_key not in page.text
    assert httpx.get(made["url"] + "0").status_code == 404
    assert httpx.get(made["url"].replace("100001", "100002")).status_code == 404


def test_pages_of_groups(emulator: Emulator) -> None:
    for one in (
        emulator.add_mutex("one-of", slots=[{"percentage": 100}]),
        emulator.add_holdout("held", holdout_percentage=5),
    ):
        page = httpx.get(f"{emulator.url}/experiment/emulator/100001/config/{one['id']}")
        assert page.status_code == 200
        assert one["key"] in page.text
