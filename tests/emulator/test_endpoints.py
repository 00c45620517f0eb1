"""Every row of the list of endpoints answers as documented: method, path, kind of answer."""

from __future__ import annotations

import csv
import re
from pathlib import Path
from typing import Any

import httpx
import jsonschema
import pytest
import yaml

from airflow_amplitude_experiment.emulator import Emulator

REFERENCE = Path(__file__).parent.parent / "reference"
ROWS = list(csv.DictReader((REFERENCE / "endpoints.csv").open(encoding="utf-8")))
CURRENT_JSON = [row for row in ROWS if row["api"] == "current" and row["response_kind"] == "json"]
YAML = yaml.safe_load((REFERENCE / "management-api.yaml").read_text(encoding="utf-8"))

# One good body per operation; the beta's list and create paths have others.
SEGMENT = {
    "name": "Beta testers",
    "conditions": [{"type": "property", "prop": "gp:beta", "op": "is", "values": ["true"]}],
    "percentage": 100,
    "rolloutWeights": {"treatment": 1},
}
CREATE = {
    "projectId": "100001",
    "key": "new",
    "variants": [{"key": "a", "payload": {"x": 1}}, {"key": "b"}],
    "rolloutWeights": {"a": 1, "b": 1},
    "deployments": ["31"],
    "targetSegments": [SEGMENT],
    "evaluationMode": "remote",
}
BETA_CREATE = {**CREATE, "variants": [{"key": "a", "payload": '{"x": 1}'}], "targetSegments": SEGMENT}
BODIES: dict[str, Any] = {
    "Create variant": {"key": "c", "payload": [1, 2], "rolloutWeight": 1},
    "Edit variant": {"rolloutWeight": 3, "payload": {"x": 2}},
    "Add users": {"inclusions": ["u2", "u3"]},
    "Add cohorts": {"inclusions": ["c2"]},
    "Bulk remove": {"users": ["u1"]},
    "Add deployment": {"deployments": ["32"]},
    "Create deployment": {"deployments": ["32"]},
    "Rollout weights": {"rolloutWeights": {"control": 3, "treatment": 1}},
}


@pytest.fixture
def ids(emulator: Emulator) -> dict[str, str]:
    """One object of each kind, and what the path templates need."""
    emulator.seed({"deployments": [{"id": "32", "label": "web", "type": "client"}]})
    variants = [{"key": "control"}, {"key": "treatment", "users": ["u1", "u0"], "cohorts": ["u1"]}]
    return {
        "experiments": emulator.add_experiment("checkout", variants=variants, deployments=["31"])["id"],
        "flags": emulator.add_flag("nav", variants=variants, deployments=["31"])["id"],
        "mutexes": emulator.add_mutex("one-of", slots=[{"percentage": 50}, {"percentage": 50}])["id"],
        "holdouts": emulator.add_holdout("held", holdout_percentage=5)["id"],
        "deployments": "32",
    }


def the_path(row: dict[str, str], ids: dict[str, str]) -> str:
    collection = row["path"].removeprefix("/api/1").split("/")[1]
    values = {"id": ids.get(collection, ""), "variantKey": "treatment", "versionId": "1", "userIndex": "0"}
    values |= {"deploymentId": "31", "slotIndex": "1"}
    return row["path"].format(**values)


def the_body(row: dict[str, str]) -> Any:
    if not row["request_body_fields"]:
        return None
    if row["group"] == "mutexes":
        if row["name"] == "Create":
            return {"projectId": 100001, "name": "Group", "slots": [{"percentage": 100}]}
        return {"individuals": ["u1"]} if "Slots" in row["name"] else {"name": "Renamed"}
    if row["group"] == "holdouts":
        create = {"projectId": 100001, "name": "Group", "holdoutPercentage": 5}
        return create if row["name"] == "Create" else {"name": "Renamed"}
    if row["group"] == "deployments":
        create = {"projectId": "100001", "label": "ios", "type": "client"}
        return create if row["method"] == "POST" else {"label": "ios"}
    if row["path"].endswith(("/experiments", "/flags")):
        return CREATE
    if row["path"].endswith("/new"):
        return BETA_CREATE
    if row["name"].startswith("Edit") and "variant" not in row["name"]:
        return {"enabled": True, "rolloutPercentage": 25}
    return body_of_part(row)


def body_of_part(row: dict[str, str]) -> Any:
    name = re.sub(r"(flag|experiment)('s)? ", "", row["name"])
    body = next(body for start, body in BODIES.items() if name.startswith(start))
    beta = row["api"] == "beta" and "payload" in body
    return {**body, "payload": '{"x": 2}'} if beta else body


def call(row: dict[str, str], api: httpx.Client, ids: dict[str, str]) -> httpx.Response:
    return api.request(row["method"], the_path(row, ids), json=the_body(row))


def name_of(row: dict[str, str]) -> str:
    return f"{row['method']} {row['path']}"


def test_the_list_has_all_91_endpoints() -> None:
    assert len(ROWS) == 91
    assert [row["api"] for row in ROWS].count("beta") == 34


@pytest.mark.parametrize("row", ROWS, ids=name_of)
def test_every_endpoint_answers_as_documented(row: dict[str, str], api: httpx.Client, ids: dict[str, str]) -> None:
    answer = call(row, api, ids)
    assert answer.status_code == 200, answer.text
    kind = answer.headers["content-type"].split(";")[0]
    if row["response_kind"] == "json":
        assert kind == "application/json"
    else:
        assert (kind, answer.text) == ("text/plain", "OK")


@pytest.mark.parametrize("row", ROWS, ids=name_of)
def test_every_endpoint_wants_a_key(row: dict[str, str], api: httpx.Client, ids: dict[str, str]) -> None:
    api.headers["Authorization"] = "Bearer another"
    assert call(row, api, ids).status_code == 401
    del api.headers["Authorization"]
    assert call(row, api, ids).status_code == 401


@pytest.mark.parametrize("row", [row for row in ROWS if "{id}" in row["path"]], ids=name_of)
def test_every_endpoint_of_an_object_knows_only_its_own_objects(
    row: dict[str, str], api: httpx.Client, ids: dict[str, str]
) -> None:
    nobody = dict.fromkeys(ids, "987654321")
    assert call(row, api, nobody).status_code == 404


@pytest.mark.parametrize("row", CURRENT_JSON, ids=name_of)
@pytest.mark.parametrize("fields", ["sparse", "full"])
@pytest.mark.parametrize("kind", ["string", "number"])
def test_every_json_answer_fits_the_reference(
    row: dict[str, str], fields: str, kind: str, emulator: Emulator, api: httpx.Client, ids: dict[str, str]
) -> None:
    emulator.options(fields=fields, ids=kind, default_limit=1)
    answer = call(row, api, ids)
    operation = YAML["paths"][row["path"].removeprefix("/api/1")][row["method"].lower()]
    schema = operation["responses"]["200"]["content"]["application/json"]["schema"]
    jsonschema.validate(answer.json(), {**schema, "components": YAML["components"]})
    example = YAML["components"]["schemas"].get(schema.get("$ref", "").split("/")[-1], {}).get("examples")
    if fields == "full" and row["name"] == "Get details" and example:
        assert set(example[0]) <= set(answer.json())


def test_create_answers_an_id_and_a_link_to_a_page(api: httpx.Client, emulator: Emulator) -> None:
    created = api.post("/api/1/flags", json=CREATE).json()
    assert set(created) == {"id", "url"}
    assert created["url"] == f"{emulator.url}/experiment/emulator/100001/config/{created['id']}"
    page = httpx.get(created["url"])
    assert page.status_code == 200
    assert page.headers["content-type"] == "text/html; charset=utf-8"


def test_the_beta_create_answers_the_object(api: httpx.Client) -> None:
    created = api.post("/experiments/new", json={**BETA_CREATE, "experimentType": "no-harm"}).json()
    assert created["key"] == "new"
    assert created["experimentType"] == "no-harm"
    assert api.get(f"/api/1/experiments/{created['id']}/variants/a").json()["payload"] == {"x": 1}


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/", 404),
        ("GET", "/api/1", 404),
        ("GET", "/api/1/nothing", 404),
        ("GET", "/api/2/flags", 404),
        ("GET", "/api/1/flags/", 404),
        ("GET", "/openapi.json", 404),
        ("GET", "/docs", 404),
        ("PUT", "/api/1/flags", 405),
        ("HEAD", "/api/1/flags", 405),
        ("DELETE", "/api/1/flags/21001", 405),
        ("GET", "/experiments", 404),
        ("POST", "/experiments/list", 405),
        ("GET", "/experiments/21001/deployments", 404),
    ],
)
def test_unknown_paths_and_methods(method: str, path: str, status: int, api: httpx.Client) -> None:
    answer = api.request(method, path)
    assert answer.status_code == status
    assert ("allow" in answer.headers) == (status == 405)
