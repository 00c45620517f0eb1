"""Every endpoint of the reference is a call, and both clients send it as the reference says."""

from __future__ import annotations

import csv
import json
import pickle
import re
from datetime import UTC, date, datetime
from enum import Enum
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft202012Validator

from airflow_amplitude_experiment.api import Call, deployments, experiments, flags, holdouts, mutexes, versions
from airflow_amplitude_experiment.api._call import ENDPOINTS, Endpoint, find_endpoint
from airflow_amplitude_experiment.api.models import Model

from .builders import a_flag, a_page, as_json, as_text, failure, refused, send
from .samples import ENCODED, KEY_PART, samples

REFERENCE = Path(__file__).parent.parent / "reference"
ROWS = list(csv.DictReader((REFERENCE / "endpoints.csv").open()))
DIALECT = {"current": "v1", "beta": "beta"}
SAMPLES = {dialect: samples(dialect) for dialect in ("v1", "beta")}
OUR_WORDS = {"id", "variant_key", "version", "user_index", "slot_index", "deployment_id"}
PARTS = {
    "{id}": "70001", "{variantKey}": ENCODED, "{versionId}": "4", "{userIndex}": "0", "{slotIndex}": "1",
    "{deploymentId}": "31",
}  # fmt: skip


def named(row: dict[str, str]) -> str:
    return f"{row['api']} {row['method']} {row['path']}"


def endpoint_of(row: dict[str, str]) -> Endpoint:
    """Find the one endpoint that a row of the reference describes."""
    find_endpoint("flags.get")
    dialect, wanted = DIALECT[row["api"]], re.sub(r"{\w+}", "{}", row["path"])
    found = []
    for endpoint in ENDPOINTS.values():
        template = f"/api/1{endpoint.path}" if dialect == "v1" else endpoint.beta
        own = dialect == "v1" and (endpoint.on_v1 or endpoint.v1_advice)
        if template and not own and (endpoint.method, re.sub(r"{\w+}", "{}", template)) == (row["method"], wanted):
            found.append(endpoint)
    assert len(found) == 1, f"{named(row)} has {len(found)} calls"
    return found[0]


def plain(value: Any) -> Any:
    if isinstance(value, Model):
        return value.as_json()
    return [plain(each) for each in value] if hasattr(value, "__iter__") and not isinstance(value, str) else value


def test_the_reference_has_57_current_and_34_beta_endpoints():
    assert [row["api"] for row in ROWS].count("current") == 57
    assert [row["api"] for row in ROWS].count("beta") == 34


@pytest.mark.parametrize("row", ROWS, ids=named)
def test_every_endpoint_is_sent_by_both_clients_as_the_reference_says(row):
    endpoint, dialect = endpoint_of(row), DIALECT[row["api"]]
    sample = SAMPLES[dialect][endpoint.name]
    path = row["path"]
    for name, value in PARTS.items():
        path = path.replace(name, value)
    if path.startswith(("/api/1/mutexes/70001", "/api/1/holdouts/70001")):
        path = path.replace("70001", "80002")
    path = path.replace("/deployments/70001", "/deployments/31") if row["group"] == "deployments" else path

    outcome = send(sample.call, sample.answer, dialect=dialect)

    assert outcome.error is None, outcome.error
    assert (outcome.only.method, outcome.only.path) == (row["method"], path)
    assert (outcome.only.query, outcome.only.body) == (sample.query, sample.body)
    assert plain(outcome.value) == sample.value


@pytest.mark.parametrize("row", ROWS, ids=named)
def test_every_documented_field_and_filter_has_an_argument_and_no_other_is_sent(row):
    endpoint, dialect = endpoint_of(row), DIALECT[row["api"]]
    top = re.sub(
        r"[\[{(][^;]*?[\]})](?=;|!|$)|\[.*?\](?=;|$)|{.*?}(?=;|$)", "", _without_nested(row["request_body_fields"])
    )
    documented = {name.rstrip("!") for name in top.split(";") if name} | set(
        filter(None, row["query_params"].split(";"))
    )
    lacking = endpoint.beta_lacks if dialect == "beta" else frozenset()
    here = endpoint.filters_here(dialect)
    ours = {"allow_local_amplitude_id", "project_id_type"}
    known = {_camel(name) for name in endpoint.fields.keys() - OUR_WORDS - lacking - here - ours - {"ids"}}
    known |= {endpoint.wrap} if endpoint.wrap else set()
    if endpoint.name == "experiments.create" and dialect == "beta":
        documented.discard("stickyBucketing")  # C14: in the first draft only; today's PATCH has it

    assert known == documented

    required = {name.rstrip("!") for name in top.split(";") if name.endswith("!")}
    needed = {_camel(name) for name in endpoint.required - OUR_WORDS - {"ids"}}
    needed |= {endpoint.wrap} if "ids" in endpoint.required else set()
    assert needed == required


def _without_nested(fields: str) -> str:
    flat, depth = "", 0
    for each in fields:
        depth += each in "[{("
        flat += each if depth == 0 else ""
        depth -= each in "]})"
    return flat


def _camel(name: str) -> str:
    head, *tail = name.split("_")
    return head + "".join(part.capitalize() for part in tail)


def operations() -> dict[str, dict[str, Any]]:
    paths = REFERENCE_YAML["paths"]
    return {f"{method.upper()} {path}": each for path, found in paths.items() for method, each in found.items()}


REFERENCE_YAML = yaml.safe_load((REFERENCE / "management-api.yaml").read_text())
OPERATIONS = operations()


@pytest.mark.parametrize("name", sorted(SAMPLES["v1"]))
def test_every_body_fits_the_schema_of_the_reference(name):
    sample, endpoint = SAMPLES["v1"][name], find_endpoint(name)
    template = re.sub(r"{(\w+)}", lambda part: "{" + _camel(part[1]) + "}", endpoint.path).replace(
        "{version}", "{versionId}"
    )
    described = OPERATIONS[f"{endpoint.method} {template}"].get("requestBody")
    assert (described is None) == (sample.body is None)
    if described:
        reference = described["content"]["application/json"]["schema"]["$ref"]
        validator = Draft202012Validator({"$ref": reference, "components": REFERENCE_YAML["components"]})
        validator.validate(send(sample.call, sample.answer).only.body)


def test_every_call_goes_with_the_key_and_asks_for_json_or_text():
    import respx

    from .builders import KEY, a_client

    with respx.mock() as router, a_client() as client:
        route = router.get("http://amplitude.test/api/1/flags/1").respond(json=a_flag())
        client.send(flags.get(1))
    headers = route.calls.last.request.headers
    assert headers["authorization"] == f"Bearer {KEY}"
    assert headers["accept"] == "application/json, text/plain"


# --- what the beta lacks ---------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(SAMPLES["v1"].keys() - SAMPLES["beta"].keys()))
def test_a_call_that_the_beta_lacks_is_refused_before_anything_is_sent(name):
    assert "beta" in refused(lambda: SAMPLES["v1"][name].call, dialect="beta")


@pytest.mark.parametrize(
    "fields",
    [{"target_segments": []}, {"archive": True}, {"tags": []}, {"decision": "rollout"}, {"decision_reason": "x"},
     {"rolled_out_variant": "x"}, {"experiment_type": "multi-arm-bandit"}],
    ids=lambda fields: next(iter(fields)),
)  # fmt: skip
def test_a_field_or_value_that_the_beta_lacks_is_refused(fields):
    assert "beta" in refused(lambda: experiments.update(1, **fields), dialect="beta")


@pytest.mark.parametrize(
    "change",
    [{"bucketingKey": "user_id"}, {"conditions": [{"type": "property", "prop": "p", "op": "set is", "values": []}]}],
)
def test_a_segment_that_the_beta_can_not_say_is_refused(change):
    from .samples import SEGMENT

    text = refused(lambda: flags.create(project_id=1, key="k", target_segments=[SEGMENT | change]), dialect="beta")
    assert text.startswith("flags.create: the beta API doesn't know")


def test_an_exposure_filter_of_a_group_is_refused_by_the_beta():
    from .samples import FILTER

    event = {"event_type": "e", "filters": [FILTER | {"group_type": "org"}]}
    assert "group_type" in refused(lambda: experiments.update(1, exposure_event=event), dialect="beta")


def test_activate_and_deactivate_are_the_patch_of_enabled_on_v1():
    on, off = send(experiments.activate(5), as_text()).only, send(experiments.deactivate(5), as_text()).only
    assert (str(on), on.body) == ("PATCH /api/1/experiments/5", {"enabled": True})
    assert (str(off), off.body) == ("PATCH /api/1/experiments/5", {"enabled": False})


def test_set_rollout_weights_on_v1_names_what_to_use_instead():
    text = refused(lambda: experiments.set_rollout_weights(5, rollout_weights={"on": 1}))
    assert "update_variant" in text


def test_the_beta_gets_payloads_as_texts_and_its_own_experiment_type():
    call = experiments.create(
        project_id=1,
        key="k",
        experiment_type="a-b-test",
        variants=[{"key": "a", "payload": "ä"}, {"key": "b", "payload": None}],
    )
    body = send(call, as_json({"id": "1"}), dialect="beta").only.body
    assert [variant["payload"] for variant in body["variants"]] == ['"ä"', "null"]
    assert body["experimentType"] == "hypothesis-testing"


@pytest.mark.parametrize(
    ("sent", "read"),
    [('{"a": 1}', {"a": 1}), ("3", 3), ("not json", "not json"), ("[" * 5000, "[" * 5000), ({"a": 1}, {"a": 1})],
)
def test_the_beta_s_payload_texts_are_read_as_what_they_hold(sent, read):
    outcome = send(flags.variant(1, "on"), as_json({"key": "on", "payload": sent}), dialect="beta")
    assert outcome.value.payload == read
    assert not send(flags.variant(1, "on"), as_json({"key": "on"}), dialect="beta").value.has("payload")


def test_the_beta_applies_filters_here_over_all_pages():
    pages = [
        a_page("flags", a_flag(id=1, key="other"), a_flag(id=2, projectId=9), cursor=2),
        a_page("flags", a_flag(id=3), a_flag(id=4, deleted=True), a_flag(id=3)),
    ]
    call = flags.list(key="checkout-copy", project_id=501)

    outcome = send(call, *pages, dialect="beta")

    assert [flag.id for flag in outcome.value] == ["3"]
    assert outcome.value.next_cursor is None
    assert [request.query for request in outcome.sent] == [{"limit": "1000"}, {"limit": "1000", "cursor": "2"}]
    archived = send(flags.list(include_archived=True), *pages, dialect="beta")
    assert [flag.id for flag in archived.value] == ["1", "2", "3", "4"]


# --- path parts ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "encoded"),
    [("a/b?c", "a%2Fb%3Fc"), ("with space", "with%20space"), ("50%", "50%25"), ("%2F", "%252F"), ("a#b", "a%23b"),
     ("🎉", "%F0%9F%8E%89"), ("ü", "%C3%BC"), ("a\\b", "a%5Cb"), ("a;b=c&d+e", "a%3Bb%3Dc%26d%2Be"), ("...", "..."),
     ("../users", "..%2Fusers"), ("a\nb", "a%0Ab"), ("a:b@c", "a%3Ab%40c"), ("~-_.", "~-_.")],
)  # fmt: skip
def test_a_key_in_a_path_reaches_no_other_endpoint(key, encoded):
    outcome = send(flags.delete_variant(1, key), as_text())
    assert outcome.only.path == f"/api/1/flags/1/variants/{encoded}"


@pytest.mark.parametrize("part", [".", "..", "", "  ", "x" * 2001, "\ud83d"])
def test_a_part_that_would_lead_elsewhere_is_refused(part):
    refused(lambda: flags.variant(1, part))
    refused(lambda: flags.get(part))


@pytest.mark.parametrize("wrong", [None, True, 1.5, [], {}, b"1"])
def test_an_id_is_a_text_or_a_whole_number(wrong):
    assert "id" in refused(lambda: flags.get(wrong))


def test_an_id_may_be_a_number_and_loses_the_spaces_around_it():
    assert send(flags.get(7), as_json(a_flag())).only.path == "/api/1/flags/7"
    assert send(flags.get(" 7 "), as_json(a_flag())).only.path == "/api/1/flags/7"


def test_a_filter_with_odd_characters_stays_one_filter():
    outcome = send(flags.list(key="a&projectId=9 #ü", cursor="x&limit=1"), a_page("flags"))
    assert outcome.only.query == {"key": "a&projectId=9 #ü", "limit": "1000", "cursor": "x&limit=1"}


# --- a call is data --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["flags.update", "mutexes.create"])
def test_a_call_survives_pickling_and_compares_by_what_it_holds(name):
    call = SAMPLES["v1"][name].call
    assert pickle.loads(pickle.dumps(call)) == call
    assert Call(call.endpoint, json.loads(json.dumps(call.arguments))) == call


def test_a_call_keeps_its_own_arguments():
    users = ["a"]
    call = flags.add_users(1, "on", users)
    users.append("b")
    assert call.arguments["ids"] == ["a"]


def test_a_call_s_arguments_are_plain():
    class Mode(str, Enum):  # noqa: UP042  its str() is its name
        LOCAL = "local"

    call = experiments.update(
        1,
        end_date=datetime(2026, 1, 2, 3, tzinfo=UTC),
        start_date=date(2026, 1, 1),
        tags={"b", "a"},
        evaluation_mode=Mode.LOCAL,
    )
    assert call.arguments == {
        "id": 1, "end_date": "2026-01-02T03:00:00+00:00", "start_date": "2026-01-01", "tags": ["a", "b"],
        "evaluation_mode": "local",
    }  # fmt: skip
    assert send(call, as_text()).only.body["evaluationMode"] == "local"


def test_a_segment_as_it_was_read_can_be_written_back():
    from airflow_amplitude_experiment.api.models import Flag

    from .samples import SEGMENT

    read = Flag.model_validate(a_flag(targetSegments=[SEGMENT | {"percentage": 50.0, "bucketingKey": "device_id"}]))
    body = send(flags.update(1, target_segments=read.target_segments), as_text()).only.body
    assert body == {"targetSegments": [SEGMENT | {"percentage": 50, "bucketingKey": "device_id"}]}


def test_a_moment_without_a_time_zone_is_refused_when_the_call_is_made():
    with pytest.raises(ValueError, match="time zone"):
        experiments.update(1, end_date=datetime(2026, 1, 1))  # noqa: DTZ001


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: flags.update(1, percentage=5), "takes no argument 'percentage'; it takes id, name"),
        (lambda: flags.create(key="k"), "needs the argument 'project_id'"),
        (lambda: Call("flags.get", {}), "needs the argument 'id'"),
        (lambda: Call("flags.nope", {}), "There is no endpoint 'flags.nope'; known: "),
        (lambda: flags.update(1), "nothing to change; give at least one of name"),
        (lambda: deployments.update(1), "nothing to change; give at least one of label, archive"),
        (lambda: mutexes.update(1), "nothing to change; give at least one of name, description, archive"),
    ],
)
def test_a_call_that_can_not_be_meant_says_what_is_possible(make, says):
    assert says in refused(make)


def test_flags_do_not_take_what_only_experiments_have():
    with pytest.raises(TypeError, match="sticky_bucketing"):
        flags.update(1, sticky_bucketing=True)


@pytest.mark.parametrize("name", sorted(SAMPLES["v1"] | SAMPLES["beta"]))
def test_the_repr_of_a_call_shows_no_list_and_stays_short(name):
    call = (SAMPLES["v1"] | SAMPLES["beta"])[name].call
    text = repr(call)
    assert text.startswith(f"{name}(")
    assert "qa-1" not in text
    assert "in-1" not in text


def test_every_write_says_so_and_no_read_does():
    calls = {name: sample.call for dialect in SAMPLES.values() for name, sample in dialect.items()}
    for name, call in calls.items():
        assert call.writes == (find_endpoint(name).method != "GET")
    assert {name for name, call in calls.items() if not call.writes} == {
        *(f"{kind}.{function}" for kind in ("flags", "experiments") for function in
          ("list", "get", "versions", "version", "variants", "variant", "users", "cohorts", "deployments")),
        "mutexes.list", "mutexes.get", "holdouts.list", "holdouts.get", "deployments.list", "versions.list",
    }  # fmt: skip


def test_only_calls_that_can_change_what_people_get_reach_people():
    find_endpoint("flags.get")
    harmless = {
        name for name, endpoint in ENDPOINTS.items() if endpoint.reach == "nothing" and endpoint.method != "GET"
    }
    assert harmless == {"flags.create", "experiments.create", "deployments.create"}
    assert all(endpoint.reach == "nothing" for endpoint in ENDPOINTS.values() if endpoint.method == "GET")


def test_iterate_on_a_call_without_pages_says_so():
    error = failure(flags.get(1), as_json(a_flag()), pages=True)
    assert isinstance(error, TypeError)
    assert "flags.get has no pages" in str(error)


def test_a_namespace_is_named_in_its_repr():
    assert [repr(each) for each in (experiments, flags, mutexes, holdouts, deployments, versions)] == [
        "experiments", "flags", "mutexes", "holdouts", "deployments", "versions",
    ]  # fmt: skip


def test_a_variant_key_is_positional_and_encoded_once():
    assert send(flags.users(1, KEY_PART), as_json([])).only.path.endswith(f"/variants/{ENCODED}/users")
