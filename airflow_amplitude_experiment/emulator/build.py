"""Making complete objects from what a create call or a seed gives, with the defaults of the API.

Where the API is silent the defaults are those of the app: a flag has the variant ``on``, an experiment has
``control`` and ``treatment``, and variants without weights share traffic equally.
"""

from __future__ import annotations

from typing import Any

from .clock import parse_moment, to_timestamp
from .store import Deployment, Json, Kind, Store, made_up

_DEFAULT_VARIANTS = {"flag": ["on"], "experiment": ["control", "treatment"]}


def toggle(store: Store, kind: Kind, given: Json, *, author: str) -> Json:
    """Return a complete flag or experiment."""
    object_id = str(given.get("id") or store.new_id())
    variants = [variant(one) for one in given.get("variants", [{"key": k} for k in _DEFAULT_VARIANTS[kind]])]
    mode = given.get("evaluationMode", "remote")
    data: Json = {
        "id": object_id,
        "projectId": as_id(given["projectId"]),
        "deployments": ids(given.get("deployments", [])),
        "key": given["key"],
        "name": given.get("name", given["key"]),
        "description": given.get("description", ""),
        "enabled": given.get("enabled", False),
        "evaluationMode": mode,
        "bucketingKey": given.get("bucketingKey", "device_id" if mode == "local" else "amplitude_id"),
        "bucketingSalt": given.get("bucketingSalt", made_up(8, "salt", object_id)),
        "bucketingUnit": given.get("bucketingUnit", "User"),
        "variants": variants,
        "rolloutPercentage": given.get("rolloutPercentage", 0),
        "rolloutWeights": _weights(variants, given),
        "targetSegments": given.get("targetSegments", []),
        "deleted": given.get("deleted", False),
        "tags": given.get("tags", []),
        "prerequisites": given.get("prerequisites", {}),
        "kind": given.get("kind", "feature"),
    }
    if kind == "experiment":
        data.update(_lifecycle(given, enabled=data["enabled"]))
    return {**data, **_signature(store, given, author)}


def variant(given: Json) -> Json:
    """Return a complete variant; its weight is kept in the object's ``rolloutWeights``."""
    complete: Json = {
        "key": given["key"],
        "name": given.get("name", ""),
        "description": given.get("description", ""),
        "users": unique(given.get("users", [])),
        "cohorts": unique(given.get("cohorts", [])),
    }
    if "payload" in given:
        complete["payload"] = given["payload"]
    return complete


def mutex(store: Store, given: Json, *, author: str) -> Json:
    """Return a complete mutual exclusion group."""
    group = _group(store, "mutex", given, author)
    group["slots"] = [_slot(number, one) for number, one in enumerate(given["slots"], start=1)]
    return group


def holdout(store: Store, given: Json, *, author: str) -> Json:
    """Return a complete holdout group."""
    group = _group(store, "holdout", given, author)
    group.update(
        holdoutPercentage=given["holdoutPercentage"],
        variantName="on",
        experiments=ids(given.get("experiments", [])),
        individualInclusion=list(given.get("individualInclusion", [])),
        individualExclusion=list(given.get("individualExclusion", [])),
    )
    return group


def deployment(store: Store, given: Json) -> Deployment:
    """Return a complete deployment with a key of its kind."""
    deployment_id = str(given.get("id") or store.new_deployment_id())
    kind = given.get("type", "server")
    return Deployment(
        id=deployment_id,
        project_id=as_id(given["projectId"]),
        label=given["label"],
        type=kind,
        key=given.get("key") or f"{kind}-{made_up(32, 'deployment', deployment_id)}",
        deleted=given.get("deleted", False),
        default=given.get("default", False),
    )


def ids(values: Any) -> list[str]:
    """Return ids, which may come as numbers, as texts, each once."""
    return unique(as_id(one) for one in values)


def as_id(value: Any) -> str:
    """Return an id as text; ``70001.0`` is a whole number in JSON too."""
    return str(int(value)) if isinstance(value, float) else str(value)


def unique(values: Any) -> list[Any]:
    """Return the values in order, each once."""
    return list(dict.fromkeys(values))


def _weights(variants: list[Json], given: Json) -> dict[str, Any]:
    keys = [variant["key"] for variant in variants]
    stated = given.get("rolloutWeights")
    if stated is None:
        stated = {one["key"]: one["rolloutWeight"] for one in given.get("variants", []) if "rolloutWeight" in one}
        return {key: stated.get(key, 0 if stated else 1) for key in keys}
    return {**dict.fromkeys(keys, 0), **stated}


def _lifecycle(given: Json, *, enabled: bool) -> Json:
    return {
        "decision": given.get("decision"),
        "decisionReason": given.get("decisionReason"),
        "rolledOutVariant": given.get("rolledOutVariant"),
        "stickyBucketing": given.get("stickyBucketing", False),
        "state": given.get("state", "running" if enabled else "planning"),
        "startDate": given.get("startDate"),
        "endDate": given.get("endDate"),
        "experimentType": given.get("experimentType", "a-b-test"),
        "exposureEvent": given.get("exposureEvent"),
    }


def _group(store: Store, kind: Kind, given: Json, author: str) -> Json:
    object_id = str(given.get("id") or store.new_id())
    project_id = as_id(given["projectId"])
    return {
        "id": object_id,
        "projectId": project_id,
        "name": given["name"],
        "key": given.get("key") or _free_key(store, kind, project_id, object_id),
        "description": given.get("description"),
        "evaluationMode": given.get("evaluationMode", "remote"),
        "bucketingKey": given.get("bucketingKey", "amplitude_id"),
        "bucketingSalt": given.get("bucketingSalt", made_up(8, "salt", object_id)),
        "deleted": given.get("deleted", False),
        **_signature(store, given, author),
    }


def _free_key(store: Store, kind: Kind, project_id: str, object_id: str) -> str:
    key = f"{kind}-{object_id}"
    while store.by_key(project_id, key) is not None:
        key += "-1"
    return key


def _slot(number: int, given: Json) -> Json:
    return {
        "name": given.get("name", f"SLOT {number}"),
        "index": number,
        "variantKey": f"slot-{number}",
        "percentage": given["percentage"],
        "experiments": ids(given.get("experiments", [])),
        "holdouts": ids(given.get("holdouts", [])),
        "individuals": list(given.get("individuals", [])),
        "cohorts": list(given.get("cohorts", [])),
    }


def _signature(store: Store, given: Json, author: str) -> Json:
    now = to_timestamp(store.clock())
    created_by = given.get("createdBy", author)
    created_at = _timestamp(given.get("createdAt", now))
    return {
        "createdBy": created_by,
        "lastModifiedBy": given.get("lastModifiedBy", created_by),
        "createdAt": created_at,
        "lastModifiedAt": _timestamp(given.get("lastModifiedAt", created_at)),
    }


def _timestamp(text: str) -> str:
    return to_timestamp(parse_moment(text))
