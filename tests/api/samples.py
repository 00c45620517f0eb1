"""Every call of the API with what it must send: written by hand from the reference, not from the package."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import httpx

from airflow_amplitude_experiment.api import Call, deployments, experiments, flags, holdouts, mutexes, versions

from .builders import a_flag, a_page, a_version, as_json, as_text

KEY_PART = "a/b?c d"
ENCODED = "a%2Fb%3Fc%20d"
SEGMENT = {
    "name": "Beta testers",
    "conditions": [{"type": "property", "prop": "gp:beta", "op": "is", "values": ["true"]}],
    "percentage": 100,
    "rolloutWeights": {"control": 1, "treatment": 1},
}
FILTER = {"subprop_key": "gp:plan", "subprop_op": "is", "subprop_type": "user", "subprop_value": ["pro"]}
EXPOSURE = {"event_type": "checkout_viewed", "filters": [FILTER]}


@dataclass
class Sample:
    """A call, what it sends, what is answered and what the caller gets."""

    call: Call[Any]
    query: dict[str, str]
    body: Any
    answer: httpx.Response
    value: Any


def reads(call: Call[Any], answer: httpx.Response, value: Any, **query: str) -> Sample:
    return Sample(call, query, None, answer, value)


def writes(call: Call[Any], body: Any = None, answer: httpx.Response | None = None, value: Any = None) -> Sample:
    return Sample(call, {}, body, answer or as_text("OK"), value)


def samples(dialect: str) -> dict[str, Sample]:
    """Return a sample for every endpoint of a dialect, by the endpoint's name."""
    found: dict[str, Sample] = {}
    for kind, calls in (("experiments", experiments), ("flags", flags)):
        found |= {f"{kind}.{name}": sample for name, sample in _of_objects(kind, calls, dialect).items()}
    found |= _of_deployments(dialect)
    if dialect == "v1":
        return found | _of_groups()
    return found | _of_beta_alone()


def _of_objects(kind: str, calls: Any, dialect: str) -> dict[str, Sample]:
    v1 = dialect == "v1"
    payload = {"copy": "B"} if v1 else '{"copy": "B"}'
    variant = {"key": "treatment", "payload": payload, "rolloutWeight": 1}
    fields = {"key": "treatment-2", "name": "T2", "description": "second", "rollout_weight": 1}
    body = {"key": "treatment-2", "name": "T2", "description": "second", "rolloutWeight": 1, "payload": payload}
    listed = {"limit": "1000"}
    lists = calls.list(limit=1000)
    if v1:
        lists = calls.list(key="checkout-copy", project_id=501, include_archived=True, limit=50, cursor=3003)
        listed = {
            "key": "checkout-copy", "projectId": "501", "includeArchived": "true", "limit": "50", "cursor": "3003",
        }  # fmt: skip
    both = {
        "list": reads(lists, a_page(kind, a_flag()), [a_flag()], **listed),
        "get": reads(calls.get(70001), as_json(a_flag()), a_flag()),
        "versions": reads(calls.versions("70001"), as_json([a_version(4)]), [a_version(4)]),
        "version": reads(calls.version("70001", 4), as_json(a_version(4)), a_version(4)),
        "variants": reads(calls.variants("70001"), as_json([variant]), [{**variant, "payload": {"copy": "B"}}]),
        "variant": reads(calls.variant("70001", KEY_PART), as_json(variant), {**variant, "payload": {"copy": "B"}}),
        "users": reads(calls.users("70001", KEY_PART), as_json(["qa-1", 77]), ["qa-1", "77"]),
        "create_variant": writes(calls.create_variant("70001", **fields, payload={"copy": "B"}), body),
        "update_variant": writes(calls.update_variant("70001", KEY_PART, **fields, payload={"copy": "B"}), body),
        "delete_variant": writes(calls.delete_variant("70001", KEY_PART)),
        "add_users": writes(calls.add_users("70001", KEY_PART, ["qa-1", 77]), {"inclusions": ["qa-1", "77"]}),
        "remove_user_at": writes(calls.remove_user_at("70001", KEY_PART, 0)),
        "remove_all_users": writes(calls.remove_all_users("70001", KEY_PART)),
        "update": _update(kind, calls, dialect),
        "create": _create(kind, calls, dialect),
    }
    return both | (_of_objects_v1(calls) if v1 else {})


def _of_objects_v1(calls: Any) -> dict[str, Sample]:
    ids = ["1a2bc3d", 44]
    return {
        "cohorts": reads(calls.cohorts("70001", KEY_PART), as_json(["1a2bc3d"]), ["1a2bc3d"]),
        "add_cohorts": writes(calls.add_cohorts("70001", KEY_PART, ids), {"inclusions": ["1a2bc3d", "44"]}),
        "remove_users": writes(calls.remove_users("70001", KEY_PART, ["qa-1", 77]), {"users": ["qa-1", "77"]}),
        "remove_cohorts": writes(calls.remove_cohorts("70001", KEY_PART, ids), {"users": ["1a2bc3d", "44"]}),
        "deployments": reads(calls.deployments("70001"), as_json([{"id": 31}]), [{"id": "31"}]),
        "add_deployments": writes(calls.add_deployments("70001", [31, "32"]), {"deployments": ["31", "32"]}),
        "remove_deployment": writes(calls.remove_deployment("70001", 31)),
    }


def _create(kind: str, calls: Any, dialect: str) -> Sample:
    v1 = dialect == "v1"
    fields: dict[str, Any] = {
        "project_id": 501,
        "key": "checkout-copy",
        "name": "Checkout copy",
        "description": "",
        "variants": [{"key": "control"}, {"key": "treatment", "payload": {"copy": "B"}}],
        "bucketing_key": "user_id",
        "rollout_weights": {"control": 1, "treatment": 2},
        "target_segments": [SEGMENT],
        "deployments": [31],
        "evaluation_mode": "remote",
    }
    body: dict[str, Any] = {
        "projectId": "501",
        "key": "checkout-copy",
        "name": "Checkout copy",
        "description": "",
        "variants": [
            {"key": "control"},
            {"key": "treatment", "payload": {"copy": "B"} if v1 else '{"copy": "B"}'},
        ],
        "bucketingKey": "user_id",
        "rolloutWeights": {"control": 1, "treatment": 2},
        "targetSegments": [SEGMENT],
        "deployments": ["31"],
        "evaluationMode": "remote",
    }
    if kind == "experiments":
        fields["experiment_type"] = "a-b-test"
        body["experimentType"] = "a-b-test" if v1 else "hypothesis-testing"
    answer = {"id": 70001, "url": "http://app.test/70001"} if v1 else a_flag(id=70001)
    return writes(calls.create(**fields), body, as_json(answer), {**answer, "id": "70001"})


def _update(kind: str, calls: Any, dialect: str) -> Sample:
    v1 = dialect == "v1"
    fields: dict[str, Any] = {
        "name": "Checkout",
        "description": "d",
        "bucketing_key": "device_id",
        "bucketing_salt": "Qx7Lm2Za",
        "bucketing_unit": "org id",
        "evaluation_mode": "local",
        "rollout_percentage": "25",
        "enabled": True,
    }
    body: dict[str, Any] = {
        "name": "Checkout",
        "description": "d",
        "bucketingKey": "device_id",
        "bucketingSalt": "Qx7Lm2Za",
        "bucketingUnit": "org id",
        "evaluationMode": "local",
        "rolloutPercentage": 25,
        "enabled": True,
    }
    if v1:
        fields |= {"target_segments": [SEGMENT], "archive": False, "tags": ["airflow"]}
        body |= {"targetSegments": [SEGMENT], "archive": False, "tags": ["airflow"]}
    if kind == "experiments":
        fields |= {
            "experiment_type": "a-b-test",
            "sticky_bucketing": False,
            "start_date": "2026-02-01",
            "end_date": None,
            "exposure_event": EXPOSURE,
        }
        sent_filter = {"group_type": "User", **FILTER}
        if not v1:
            sent_filter |= {"group_type": "USER", "subprop_type": "USER"}
        body |= {
            "experimentType": "a-b-test" if v1 else "hypothesis-testing",
            "stickyBucketing": False,
            "startDate": "2026-02-01T00:00:00.000Z",
            "endDate": None,
            "exposureEvent": {"event_type": "checkout_viewed", "filters": [sent_filter]},
        }
    if kind == "experiments" and v1:
        decision = {"decision": "rollout", "decision_reason": "won", "rolled_out_variant": "treatment"}
        fields |= decision
        body |= {"decision": "rollout", "decisionReason": "won", "rolledOutVariant": "treatment"}
    return writes(calls.update("70001", **fields), body)


def _of_deployments(dialect: str) -> dict[str, Sample]:
    one = {"id": 31, "projectId": 501, "label": "web", "key": "client-xxxx", "deleted": False}
    seen = {**one, "id": "31", "projectId": "501"}
    listing = reads(deployments.list(limit=10), a_page("deployments", one), [seen], limit="10")
    if dialect == "beta":
        return {"deployments.list": listing}
    new = {"projectId": "501", "label": "web_2", "type": "client"}
    create = deployments.create(project_id=501, label="web_2", type="client")
    return {
        "deployments.list": listing,
        "deployments.create": writes(create, new, as_json({"id": 31}), {"id": "31"}),
        "deployments.update": writes(
            deployments.update(31, label="web", archive=True), {"label": "web", "archive": True}
        ),
        "versions.list": reads(
            versions.list(start="2026-01-01", end="2026-02-01T12:00:00+02:00", limit=3, cursor=3000),
            a_page("versions", a_version(4), cursor=3003),
            [a_version(4)],
            start="2026-01-01T00:00:00.000Z", end="2026-02-01T10:00:00.000Z", limit="3", cursor="3000",
        ),
    }  # fmt: skip


def _of_groups() -> dict[str, Sample]:
    group = {"id": 80002, "projectId": 501, "name": "Checkout", "key": "checkout-group"}
    seen = {**group, "id": "80002", "projectId": "501"}
    common: dict[str, Any] = {
        "project_id": "501",
        "name": "Checkout",
        "key": "checkout-group",
        "description": "",
        "evaluation_mode": "remote",
        "bucketing_key": "user_id",
    }
    sent = {
        "projectId": 501,
        "name": "Checkout",
        "key": "checkout-group",
        "description": "",
        "evaluationMode": "remote",
        "bucketingKey": "user_id",
    }
    slots = [
        {"percentage": 60, "experiments": ["70001"], "holdouts": [90003], "individuals": ["qa-1"]},
        {"percentage": 40},
    ]
    sent_slots = [{**slots[0], "experiments": [70001]}, {"percentage": 40}]
    members = {"experiments": ["70001"], "individual_inclusion": ["in-1"], "individual_exclusion": [77]}
    sent_members = {"experiments": [70001], "individualInclusion": ["in-1"], "individualExclusion": ["77"]}
    created = {"id": 80002, "url": "https://app.test/80002"}
    made = {**created, "id": "80002"}
    return {
        "mutexes.list": reads(mutexes.list(cursor="9"), a_page("mutexes", group), [seen], limit="1000", cursor="9"),
        "mutexes.get": reads(mutexes.get(80002), as_json(group), seen),
        "mutexes.create": writes(
            mutexes.create(**common, bucketing_salt="Ab12", slots=slots),
            {**sent, "bucketingSalt": "Ab12", "slots": sent_slots}, as_json(created), made,
        ),
        "mutexes.update": writes(mutexes.update(80002, name="N", description="d"), {"name": "N", "description": "d"}),
        "mutexes.update_slot": writes(
            mutexes.update_slot(80002, 1, experiments=["70001"], holdouts=[], individuals=["qa-1"]),
            {"experiments": [70001], "holdouts": [], "individuals": ["qa-1"]},
        ),
        "holdouts.list": reads(holdouts.list(), a_page("holdouts", group), [seen], limit="1000"),
        "holdouts.get": reads(holdouts.get("80002"), as_json(group), seen),
        "holdouts.create": writes(
            holdouts.create(**common, holdout_percentage=5, **members),
            {**sent, "holdoutPercentage": 5, **sent_members}, as_json(created), made,
        ),
        "holdouts.update": writes(
            holdouts.update(80002, name="N", description="d", archive=True, **members),
            {"name": "N", "description": "d", "archive": True, **sent_members},
        ),
    }  # fmt: skip


def _of_beta_alone() -> dict[str, Sample]:
    weights = {"control": 1, "treatment": 2}
    return {
        "experiments.activate": writes(experiments.activate("70001")),
        "experiments.deactivate": writes(experiments.deactivate("70001")),
        "experiments.set_rollout_weights": writes(
            experiments.set_rollout_weights("70001", rollout_weights=weights), {"rolloutWeights": weights}
        ),
    }
