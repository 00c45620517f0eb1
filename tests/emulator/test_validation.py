"""What is refused with 400, and what is not."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from airflow_amplitude_experiment.emulator import Emulator

CREATE = {"projectId": "100001", "key": "new"}
SEGMENT = {
    "name": "Some",
    "conditions": [{"type": "property", "prop": "country", "op": "is", "values": ["Germany"]}],
    "percentage": 50,
    "rolloutWeights": {"on": 1},
}
CONDITION = SEGMENT["conditions"][0]  # type: ignore[index]
EXPOSURE = {
    "event_type": "_active",
    "filters": [{"subprop_key": None, "subprop_op": "is", "subprop_type": "day_time_prop", "subprop_value": ["1"]}],
}


def without(body: dict[str, Any], *names: str) -> dict[str, Any]:
    return {name: value for name, value in body.items() if name not in names}


GOOD: list[tuple[str, str, Any]] = [
    ("PATCH", "flags/{flag}", {"rolloutPercentage": 0}),
    ("PATCH", "flags/{flag}", {"rolloutPercentage": 100}),
    ("PATCH", "flags/{flag}", {"rolloutPercentage": 12.5}),
    ("PATCH", "flags/{flag}", {"targetSegments": []}),
    ("PATCH", "flags/{flag}", {"targetSegments": [{**SEGMENT, "bucketingKey": "user_id"}]}),
    ("PATCH", "flags/{flag}", {"targetSegments": [{**SEGMENT, "conditions": []}]}),
    ("PATCH", "flags/{flag}", {"tags": []}),
    ("PATCH", "experiments/{experiment}", {"endDate": None}),
    ("PATCH", "experiments/{experiment}", {"startDate": "2026-02-01", "endDate": "2026-02-01T10:26:00.996Z"}),
    ("PATCH", "experiments/{experiment}", {"exposureEvent": None}),
    ("PATCH", "experiments/{experiment}", {"exposureEvent": EXPOSURE}),
    ("PATCH", "experiments/{experiment}", {"decision": "rollout", "rolledOutVariant": "treatment"}),
    ("PATCH", "experiments/{experiment}", {"experimentType": "multi-arm-bandit"}),
    ("POST", "flags", CREATE),
    ("POST", "flags", {**CREATE, "variants": [{"key": "a", "payload": None}], "rolloutWeights": {"a": 0.5}}),
    ("POST", "flags/{flag}/variants", {"key": "x", "payload": "text"}),
    ("POST", "flags/{flag}/variants/on/users", {"inclusions": [f"u{number}" for number in range(2000)]}),
    ("DELETE", "flags/{flag}/variants/on/bulk-delete-users", {"users": ["nobody"] * 100}),
    ("POST", "mutexes", {"projectId": 100001, "name": "M", "slots": [{"percentage": 5}] * 20}),
    ("POST", "mutexes", {"projectId": "100001", "name": "M", "slots": [{"percentage": 100.0}]}),
    ("POST", "mutexes", {"projectId": 100001.0, "name": "M", "slots": [{"percentage": 100}]}),
    ("POST", "holdouts", {"projectId": 100001, "name": "H", "holdoutPercentage": 99}),
    ("POST", "deployments", {"projectId": "100001", "label": "My_label-1", "type": "client"}),
]

BAD: list[tuple[str, str, Any]] = [
    # closed bodies, at least one field, the fields that can't be edited
    ("PATCH", "flags/{flag}", {}),
    ("PATCH", "flags/{flag}", []),
    ("PATCH", "flags/{flag}", None),
    ("PATCH", "flags/{flag}", {"enable": True}),
    *(("PATCH", "flags/{flag}", {name: "x"}) for name in ("key", "projectId", "id", "state", "createdBy")),
    *(("PATCH", "flags/{flag}", {name: []}) for name in ("variants", "deployments")),
    ("PATCH", "flags/{flag}", {"rolloutWeights": {"on": 1}}),
    ("PATCH", "flags/{flag}", {"stickyBucketing": True}),
    ("PATCH", "flags/{flag}", {"decision": "rollout"}),
    ("PATCH", "experiments/{experiment}", {"rolloutWeights": {"control": 1}}),
    ("POST", "flags", {**CREATE, "enabled": True}),
    ("POST", "flags", {**CREATE, "rolloutPercentage": 5}),
    ("POST", "flags", {**CREATE, "tags": []}),
    ("POST", "flags", {**CREATE, "experimentType": "a-b-test"}),
    ("POST", "experiments", {**CREATE, "stickyBucketing": True}),
    # types and ranges
    ("PATCH", "flags/{flag}", {"enabled": "true"}),
    ("PATCH", "flags/{flag}", {"enabled": 1}),
    ("PATCH", "flags/{flag}", {"enabled": None}),
    ("PATCH", "flags/{flag}", {"rolloutPercentage": -1}),
    ("PATCH", "flags/{flag}", {"rolloutPercentage": 100.5}),
    ("PATCH", "flags/{flag}", {"rolloutPercentage": "50"}),
    ("PATCH", "flags/{flag}", {"rolloutPercentage": True}),
    ("PATCH", "flags/{flag}", {"evaluationMode": "Local"}),
    ("PATCH", "flags/{flag}", {"tags": "airflow"}),
    ("PATCH", "flags/{flag}", {"tags": [1]}),
    ("POST", "flags", {**CREATE, "projectId": 100001}),
    ("POST", "flags", {**CREATE, "key": ""}),
    ("POST", "flags", without(CREATE, "key")),
    ("POST", "flags", without(CREATE, "projectId")),
    ("POST", "flags", {**CREATE, "variants": [{"name": "no key"}]}),
    ("POST", "flags", {**CREATE, "variants": [{"key": "a", "rolloutWeight": 1}]}),
    ("POST", "flags", {**CREATE, "variants": [{"key": "a"}, {"key": "a"}]}),
    ("POST", "flags", {**CREATE, "rolloutWeights": {"on": -1}}),
    ("POST", "flags", {**CREATE, "deployments": [31]}),
    ("POST", "experiments", {**CREATE, "experimentType": "hypothesis-testing"}),
    # segments
    ("PATCH", "flags/{flag}", {"targetSegments": SEGMENT}),
    *(("PATCH", "flags/{flag}", {"targetSegments": [without(SEGMENT, name)]}) for name in SEGMENT),
    ("PATCH", "flags/{flag}", {"targetSegments": [{**SEGMENT, "extra": 1}]}),
    ("PATCH", "flags/{flag}", {"targetSegments": [{**SEGMENT, "percentage": 101}]}),
    *(
        ("PATCH", "flags/{flag}", {"targetSegments": [{**SEGMENT, "conditions": [{**CONDITION, **change}]}]})
        for change in (
            {"op": "equals"},
            {"op": "set contains any"},
            {"type": "cohort"},
            {"values": "Germany"},
            {"values": [1]},
            {"prop": None},
            {"extra": 1},
        )
    ),
    # the life of an experiment
    ("PATCH", "experiments/{experiment}", {"startDate": None}),
    ("PATCH", "experiments/{experiment}", {"endDate": "next week"}),
    ("PATCH", "experiments/{experiment}", {"endDate": "2026-13-01"}),
    ("PATCH", "experiments/{experiment}", {"endDate": ""}),
    ("PATCH", "experiments/{experiment}", {"decision": "ship"}),
    ("PATCH", "experiments/{experiment}", {"experimentType": "no-harm"}),
    ("PATCH", "experiments/{experiment}", {"state": "running"}),
    ("PATCH", "experiments/{experiment}", {"exposureEvent": {"event_type": "x"}}),
    (
        "PATCH",
        "experiments/{experiment}",
        {"exposureEvent": {"event_type": "x", "filters": [{**EXPOSURE["filters"][0], "subprop_op": "set is"}]}},  # type: ignore[dict-item]
    ),
    # variants and inclusions
    ("POST", "flags/{flag}/variants", {"key": "on"}),
    ("POST", "flags/{flag}/variants", {"name": "x"}),
    ("POST", "flags/{flag}/variants", {"key": "x", "rolloutWeight": -1}),
    ("PATCH", "flags/{flag}/variants/on", {}),
    ("PATCH", "flags/{flag}/variants/on", {"weight": 1}),
    ("PATCH", "experiments/{experiment}/variants/control", {"key": "treatment"}),
    ("POST", "flags/{flag}/variants/on/users", {"inclusions": []}),
    ("POST", "flags/{flag}/variants/on/users", {"inclusions": "qa-1,qa-2"}),
    ("POST", "flags/{flag}/variants/on/users", {"users": ["qa"]}),
    ("POST", "flags/{flag}/variants/on/users", {"inclusions": [f"u{number}" for number in range(2001)]}),
    ("POST", "flags/{flag}/variants/on/cohorts", {"inclusions": []}),
    ("DELETE", "flags/{flag}/variants/on/bulk-delete-users", {"users": ["u"] * 101}),
    ("DELETE", "flags/{flag}/variants/on/bulk-delete-users", {"users": []}),
    ("DELETE", "flags/{flag}/variants/on/bulk-delete-users", {"inclusions": ["u"]}),
    ("DELETE", "flags/{flag}/variants/on/bulk-delete-cohorts", {"cohorts": ["c"]}),
    ("DELETE", "flags/{flag}/variants/on/users/first", None),
    ("DELETE", "flags/{flag}/variants/on/users/-1", None),
    # groups and deployments
    ("POST", "mutexes", {"projectId": 100001, "name": "M", "slots": []}),
    ("POST", "mutexes", {"projectId": 100001, "name": "M", "slots": [{"percentage": 99}]}),
    ("POST", "mutexes", {"projectId": 100001, "name": "M", "slots": [{"percentage": 60}, {"percentage": 60}]}),
    ("POST", "mutexes", {"projectId": 100001, "name": "M", "slots": [{"percentage": 0}, {"percentage": 100}]}),
    ("POST", "mutexes", {"projectId": 100001, "name": "M", "slots": [{"percentage": 99.5}, {"percentage": 0.5}]}),
    ("POST", "mutexes", {"projectId": 100001, "name": "M", "slots": [*[{"percentage": 1}] * 20, {"percentage": 80}]}),
    ("POST", "mutexes", {"projectId": "shop", "name": "M", "slots": [{"percentage": 100}]}),
    ("POST", "mutexes", {"projectId": 100001, "slots": [{"percentage": 100}]}),
    ("PATCH", "mutexes/{mutex}", {"slots": []}),
    ("PATCH", "mutexes/{mutex}", {}),
    ("PATCH", "mutexes/{mutex}/slots/1", {"percentage": 50}),
    ("PATCH", "mutexes/{mutex}/slots/1", {"cohorts": []}),
    ("PATCH", "mutexes/{mutex}/slots/first", {"individuals": []}),
    ("POST", "holdouts", {"projectId": 100001, "name": "H", "holdoutPercentage": 0}),
    ("POST", "holdouts", {"projectId": 100001, "name": "H", "holdoutPercentage": 100}),
    ("POST", "holdouts", {"projectId": 100001, "name": "H", "holdoutPercentage": 5, "bucketingSalt": "x"}),
    ("POST", "holdouts", {"projectId": 100001, "name": "H"}),
    ("PATCH", "holdouts/{holdout}", {"holdoutPercentage": 6}),
    ("PATCH", "holdouts/{holdout}", {"key": "x"}),
    ("POST", "deployments", {"projectId": "100001", "label": "my label", "type": "client"}),
    ("POST", "deployments", {"projectId": "100001", "label": "label\n", "type": "client"}),
    ("POST", "deployments", {"projectId": "100001", "label": "", "type": "client"}),
    ("POST", "deployments", {"projectId": "100001", "label": "x", "type": "mobile"}),
    ("POST", "deployments", {"projectId": "100001", "label": "x"}),
    ("PATCH", "deployments/31", {}),
    ("PATCH", "deployments/31", {"type": "client"}),
    ("POST", "flags/{flag}/deployments", {"deployments": []}),
    ("POST", "flags/{flag}/deployments", {"deployments": [31]}),
]

BETA_BAD: list[tuple[str, str, Any]] = [
    ("POST", "experiments/new", {**CREATE, "experimentType": "a-b-test"}),
    ("POST", "experiments/new", {**CREATE, "variants": [{"key": "a", "payload": {"x": 1}}]}),
    ("PATCH", "experiments/{experiment}", {"archive": True}),
    ("PATCH", "experiments/{experiment}", {"targetSegments": []}),
    ("PATCH", "experiments/{experiment}", {"decision": "rollout"}),
    ("PATCH", "flags/{flag}", {"tags": []}),
    ("POST", "flags/{flag}/variants", {"key": "x", "payload": {}}),
    ("POST", "experiments/{experiment}/rollout-weights", {}),
    ("POST", "experiments/{experiment}/rollout-weights", {"rolloutWeights": {"control": -1}}),
]


@pytest.fixture
def ids(emulator: Emulator) -> dict[str, str]:
    return {
        "flag": emulator.add_flag("nav")["id"],
        "experiment": emulator.add_experiment("checkout")["id"],
        "mutex": emulator.add_mutex("one-of", slots=[{"percentage": 100}])["id"],
        "holdout": emulator.add_holdout("held", holdout_percentage=5)["id"],
    }


def name_of(case: tuple[str, str, Any]) -> str:
    return f"{case[0]} {case[1]} {str(case[2])[:60]}"


@pytest.mark.parametrize("case", GOOD, ids=name_of)
def test_a_body_that_fits(case: tuple[str, str, Any], api: httpx.Client, ids: dict[str, str]) -> None:
    answer = api.request(case[0], f"/api/1/{case[1].format(**ids)}", json=case[2])
    assert answer.status_code == 200, answer.text


@pytest.mark.parametrize("case", BAD, ids=name_of)
def test_a_body_that_does_not_fit_changes_nothing(
    case: tuple[str, str, Any], emulator: Emulator, api: httpx.Client, ids: dict[str, str]
) -> None:
    before = emulator.state()
    answer = api.request(case[0], f"/api/1/{case[1].format(**ids)}", json=case[2])
    assert answer.status_code == 400, answer.text
    assert answer.text
    assert emulator.state() == before


@pytest.mark.parametrize("case", BETA_BAD, ids=name_of)
def test_the_beta_lacks_newer_fields(case: tuple[str, str, Any], api: httpx.Client, ids: dict[str, str]) -> None:
    assert api.request(case[0], f"/{case[1].format(**ids)}", json=case[2]).status_code == 400


@pytest.mark.parametrize(
    "raw", [b"", b"{", b"[1", b"{'enabled': true}", b"\xff", b'{"rolloutPercentage": NaN}', b"[" * 100_000, b"1e999"]
)
def test_a_body_that_is_no_json(raw: bytes, api: httpx.Client, ids: dict[str, str]) -> None:
    assert api.patch(f"/api/1/flags/{ids['flag']}", content=raw).status_code == 400


def test_a_json_body_needs_no_content_type(api: httpx.Client, ids: dict[str, str]) -> None:
    path = f"/api/1/flags/{ids['flag']}"
    assert api.patch(path, content=b'{"enabled": true}').status_code == 200
    assert api.get(path).json()["enabled"] is True


def test_any_text_comes_back_as_it_was_sent(api: httpx.Client, ids: dict[str, str]) -> None:
    text = 'quote " <script> \u0000 \U0001f600 \u202e'
    path = f"/api/1/flags/{ids['flag']}"
    api.patch(path, json={"description": text})
    assert api.get(path).json()["description"] == text
    lonely = b'{"description": "\\ud83d"}'
    assert api.patch(path, content=lonely).status_code == 200
    assert api.get(path).json()["description"] == "\ud83d"


@pytest.mark.parametrize(
    "query", ["limit=0", "limit=-1", "limit=x", "limit=1.5", "limit=", "limit=1&limit=2", "cursor=x"]
)
@pytest.mark.parametrize("collection", ["flags", "experiments", "deployments", "versions", "mutexes", "holdouts"])
def test_pages_that_make_no_sense(query: str, collection: str, api: httpx.Client) -> None:
    assert api.get(f"/api/1/{collection}?{query}").status_code == 400


@pytest.mark.parametrize("query", ["includeArchived=1", "includeArchived=True", "includeArchived="])
def test_a_boolean_is_true_or_false(query: str, api: httpx.Client) -> None:
    assert api.get(f"/api/1/flags?{query}").status_code == 400


@pytest.mark.parametrize("query", ["start=yesterday", "end=2026-02-30T00:00:00Z"])
def test_a_moment_is_iso_8601(query: str, api: httpx.Client) -> None:
    assert api.get(f"/api/1/versions?{query}").status_code == 400


def test_more_than_1000_per_page_is_capped_not_refused(emulator: Emulator, api: httpx.Client) -> None:
    for number in range(1001):
        emulator.add_flag(f"flag-{number}")
    for limit in ("1001", "99999999999999999999"):
        page = api.get(f"/api/1/flags?limit={limit}").json()
        assert len(page["flags"]) == 1000
        assert page["nextCursor"] == "1000"


def test_2001_inclusions_are_refused_whole(api: httpx.Client, ids: dict[str, str]) -> None:
    path = f"/api/1/flags/{ids['flag']}/variants/on/users"
    assert api.post(path, json={"inclusions": [f"u{number}" for number in range(1999)]}).status_code == 200
    assert api.post(path, json={"inclusions": ["u0", "a", "b"]}).status_code == 400
    assert api.post(path, json={"inclusions": ["u0", "a", "a"]}).status_code == 200
    assert len(api.get(path).json()) == 2000


@pytest.mark.parametrize("kind", ["flags", "experiments", "mutexes", "holdouts"])
@pytest.mark.parametrize("taken", ["nav", "checkout", "one-of", "held"])
def test_a_key_is_unique_over_all_four_kinds(kind: str, taken: str, api: httpx.Client, ids: dict[str, str]) -> None:
    more = {"mutexes": {"slots": [{"percentage": 100}]}, "holdouts": {"holdoutPercentage": 5}}.get(kind, {})
    project: Any = 100001 if more else "100001"
    body = {"projectId": project, "key": taken, "name": "Again", **more}
    assert api.post(f"/api/1/{kind}", json=body).status_code == 400
    api.patch(f"/api/1/flags/{ids['flag']}", json={"archive": True})
    assert api.post(f"/api/1/{kind}", json=body).status_code == 400
