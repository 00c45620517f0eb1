"""``GET /sdk/v2/flags``: the flag configurations that Amplitude's own SDK downloads and evaluates.

The SDK loads them with a strict schema, so nothing may be added to their shape. Segments are tried in
order: what the object depends on, individual inclusions, target segments, all other users.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from fractions import Fraction
from math import ceil
from typing import Any

from .shapes import parents
from .store import Deployment, Json, Store, Thing

_WHOLE = 42_949_673  # hash // 100 lies in [0, this)
_FLAG_TYPES = {
    "flag": "release",
    "experiment": "experiment",
    "mutex": "mutual-exclusion-group",
    "holdout": "holdout-group",
}
_GLOBS = {"glob match": "regex match", "glob does not match": "regex does not match"}
_NEVER = {"selector": ["context", "user", "user_id"], "op": "never", "values": []}


def flag_configs(store: Store, deployment: Deployment) -> list[Json]:
    """Return what a deployment is served: its objects, and undeployed whatever these depend on."""
    deployed = {
        thing.id: thing
        for thing in store.things.values()
        if not thing.deleted and deployment.id in thing.data.get("deployments", ())
    }
    served = dict(deployed)
    waiting = list(deployed.values())
    while waiting:
        for parent, _ in parents(store, waiting.pop()):
            if parent.id not in served:
                served[parent.id] = parent
                waiting.append(parent)
    return [_config(store, thing, deployed=thing.id in deployed) for thing in served.values()]


def _config(store: Store, thing: Thing, *, deployed: bool) -> Json:
    gates = parents(store, thing)
    metadata: Json = {
        "deployed": deployed,
        "evaluationMode": thing.data["evaluationMode"],
        "flagType": _FLAG_TYPES[thing.kind],
        "flagVersion": len(thing.versions) or 1,
    }
    if thing.kind == "experiment":
        metadata["experimentKey"] = "exp-1"
    config: Json = {
        "key": thing.key,
        "variants": _variants(thing),
        "segments": _segments(store, thing, gates),
        "metadata": metadata,
    }
    return {**config, "dependencies": [parent.key for parent, _ in gates]} if gates else config


def _variants(thing: Thing) -> Json:
    found: Json = {"off": {"key": "off", "metadata": {"default": True}}}
    if thing.kind == "mutex":
        keys = [slot["variantKey"] for slot in thing.data["slots"]]
        return {**found, **{key: {"key": key, "value": key} for key in keys}}
    if thing.kind == "holdout":
        return {**found, **{key: {"key": key, "value": key} for key in ("holdout", "on")}}
    for one in thing.data["variants"]:
        # "off" is reserved: a variant of that name would turn everybody's default into a treatment.
        if one["key"] != "off":
            payload = {"payload": one["payload"]} if one.get("payload") is not None else {}
            found[one["key"]] = {"key": one["key"], "value": one["key"], **payload}
    return found


def _segments(store: Store, thing: Thing, gates: list[tuple[Thing, list[str]]]) -> list[Json]:
    data = thing.data
    stub = data["evaluationMode"] == "remote" and store.options.remote_flags == "stub"
    if not data.get("enabled", True) or stub:
        return [_segment("default", "off")]
    gated = [_segment("flag-dependencies", "off", conditions=[[_gate(*gate)] for gate in gates])]
    rest = {"mutex": _of_mutex, "holdout": _of_holdout}.get(thing.kind, _of_toggle)(data)
    return [*(gated if gates else []), *rest]


def _gate(parent: Thing, passing: list[str]) -> Json:
    return {"selector": ["result", parent.key, "key"], "op": "is not", "values": passing}


def _of_toggle(data: Json) -> list[Json]:
    included = [_inclusion(one["key"], one["users"], one["cohorts"]) for one in data["variants"]]
    order = [one["key"] for one in data["variants"]]
    targets = [
        _segment(
            one["name"],
            "off",
            conditions=[[_condition(condition) for condition in one["conditions"]]],
            bucket=_bucket(data, order, one["rolloutWeights"], one["percentage"], one.get("bucketingKey")),
        )
        for one in data["targetSegments"]
    ]
    everyone = _bucket(data, order, data["rolloutWeights"], data["rolloutPercentage"])
    return [*filter(None, included), *targets, _segment("All Other Users", "off", bucket=everyone)]


def _of_mutex(data: Json) -> list[Json]:
    included = [_inclusion(slot["variantKey"], slot["individuals"], slot["cohorts"]) for slot in data["slots"]]
    weights = {slot["variantKey"]: slot["percentage"] for slot in data["slots"]}
    everyone = _bucket(data, list(weights), weights, 100)
    return [*filter(None, included), _segment("default", "off", bucket=everyone)]


def _of_holdout(data: Json) -> list[Json]:
    included = [
        _inclusion("holdout", data["individualInclusion"], ()),
        _inclusion("on", data["individualExclusion"], ()),
    ]
    weights = {"holdout": data["holdoutPercentage"], "on": 100 - data["holdoutPercentage"]}
    everyone = _bucket(data, list(weights), weights, 100)
    return [*filter(None, included), _segment("default", "off", bucket=everyone)]


def _segment(name: str, variant: str, *, conditions: Any = None, bucket: Json | None = None) -> Json:
    segment: Json = {"metadata": {"segmentName": name}, "variant": variant}
    if conditions and conditions[0]:
        segment["conditions"] = conditions
    return {**segment, "bucket": bucket} if bucket else segment


def _inclusion(variant: str, users: Iterable[object], cohorts: Iterable[object]) -> Json | None:
    people, groups = [str(one) for one in users], [str(one) for one in cohorts]
    any_of = []
    if people:
        any_of += [[_is_in("user_id", people)], [_is_in("device_id", people)]]
    if groups:
        any_of.append([{**_is_in("cohort_ids", groups), "op": "set contains any"}])
    return _segment("individual-inclusions", variant, conditions=any_of) if any_of else None


def _is_in(attribute: str, values: list[str]) -> Json:
    return {"selector": ["context", "user", attribute], "op": "is", "values": values}


def _bucket(
    data: Json,
    order: list[str],
    weights: Mapping[str, float],
    percentage: float,
    bucketing_key: str | None = None,
) -> Json:
    unit = data.get("bucketingUnit", "User")
    key = bucketing_key or data["bucketingKey"]
    selector = ["context", "groups", unit, "group_name"] if unit not in ("User", "") else _property(key)
    # Buckets are whole percents: a fraction lets the next one in.
    allocation = {"range": [0, ceil(percentage)], "distributions": _distributions(order, weights)}
    return {"selector": selector, "salt": data["bucketingSalt"], "allocations": [allocation]}


def _distributions(order: list[str], weights: Mapping[str, float]) -> list[Json]:
    shares = [(key, Fraction(weights.get(key, 0))) for key in order]
    total, reached, found = sum(share for _, share in shares), Fraction(0), []
    for key, share in shares:
        if share:
            start, reached = reached, reached + share
            bounds = [int(_WHOLE * start / total), int(_WHOLE * reached / total)]
            found.append({"variant": key, "range": bounds})
    return found


def _property(name: str) -> list[str]:
    if name.startswith("gp:"):
        return ["context", "user", "user_properties", name.removeprefix("gp:")]
    return ["context", "user", name]


def _condition(condition: Json) -> Json:
    values = [str(value) for value in condition.get("values", [])]
    if condition.get("type") == "cohort":
        return {**_is_in("cohort_ids", values), "op": "set contains any"}
    if condition.get("type") != "property":
        return _NEVER
    operator = condition["op"]
    if operator in _GLOBS:
        operator, values = _GLOBS[operator], [_regex(value) for value in values]
    return {"selector": _property(condition["prop"]), "op": operator, "values": values}


def _regex(glob: str) -> str:
    """Translate a glob into a regular expression that the SDKs of all languages read alike."""
    parts = {"*": r"[\s\S]*", "?": r"[\s\S]"}
    escaped = {char: "\\" + char for char in r"\.+^$()[]{}|"}
    return "^" + "".join({**parts, **escaped}.get(char, char) for char in glob) + "$"
