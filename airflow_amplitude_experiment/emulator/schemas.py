"""The request bodies that the API takes, in JSON Schema. They are closed: an unknown field is a 400."""

from __future__ import annotations

from typing import Any

Schema = dict[str, Any]

STRING: Schema = {"type": "string"}
BOOLEAN: Schema = {"type": "boolean"}
STRINGS: Schema = {"type": "array", "items": STRING}
KEY: Schema = {"type": "string", "minLength": 1}
PERCENT: Schema = {"type": "number", "minimum": 0, "maximum": 100}
WEIGHT: Schema = {"type": "number", "minimum": 0}
WEIGHTS: Schema = {"type": "object", "additionalProperties": WEIGHT}
ANY: Schema = {}
EVALUATION_MODE: Schema = {"type": "string", "enum": ["local", "remote"]}
EXPERIMENT_TYPE: Schema = {"type": "string", "enum": ["a-b-test", "multi-arm-bandit"]}
NUMERIC_ID: Schema = {"type": ["integer", "string"], "pattern": r"^[0-9]+\Z"}
NUMERIC_IDS: Schema = {"type": "array", "items": NUMERIC_ID}
LABEL: Schema = {"type": "string", "pattern": r"^[A-Za-z0-9_-]+\Z"}
MOMENT: Schema = {"type": "string", "format": "moment"}

_SCALAR_OPERATORS = [
    "is",
    "is not",
    "contains",
    "does not contain",
    "less",
    "less or equal",
    "greater",
    "greater or equal",
    "glob match",
    "glob does not match",
]
_SET_OPERATORS = ["set is", "set is not", "set contains", "set does not contain"]


def closed(properties: dict[str, Schema], *, required: str = "", at_least_one: bool = False) -> Schema:
    """Describe an object that takes these fields and no others."""
    schema: Schema = {
        "type": "object",
        "properties": properties,
        "required": required.split(),
        "additionalProperties": False,
    }
    return {**schema, "minProperties": 1} if at_least_one else schema


def _condition(operators: list[str]) -> Schema:
    fields = {"type": {"const": "property"}, "prop": STRING, "op": {"enum": operators}, "values": STRINGS}
    return closed(fields, required="type prop op values")


def _segment(operators: list[str]) -> dict[str, Schema]:
    return {
        "name": STRING,
        "conditions": {"type": "array", "items": _condition(operators)},
        "percentage": PERCENT,
        "rolloutWeights": WEIGHTS,
    }


SEGMENTS: Schema = {
    "type": "array",
    "items": closed(
        {**_segment(_SCALAR_OPERATORS + _SET_OPERATORS), "bucketingKey": STRING},
        required="name conditions percentage rolloutWeights",
    ),
}
EXPOSURE_FILTER = closed(
    {
        "group_type": {"type": ["string", "null"]},
        "subprop_key": {"type": ["string", "null"]},
        "subprop_op": {"enum": _SCALAR_OPERATORS},
        "subprop_type": STRING,
        "subprop_value": STRINGS,
    },
    required="subprop_key subprop_op subprop_type subprop_value",
)
EXPOSURE_EVENT: Schema = {
    "oneOf": [
        closed(
            {"event_type": STRING, "filters": {"type": "array", "items": EXPOSURE_FILTER}},
            required="event_type filters",
        ),
        {"type": "null"},
    ]
}


def _variant(payload: Schema) -> dict[str, Schema]:
    return {"key": KEY, "name": STRING, "description": STRING, "payload": payload}


def _create(payload: Schema, segments: Schema) -> dict[str, Schema]:
    return {
        "projectId": STRING,
        "key": KEY,
        "name": STRING,
        "description": STRING,
        "variants": {"type": "array", "items": closed(_variant(payload), required="key")},
        "bucketingKey": STRING,
        "rolloutWeights": WEIGHTS,
        "targetSegments": segments,
        "deployments": STRINGS,
        "evaluationMode": EVALUATION_MODE,
    }


FLAG_CREATE = closed(_create(ANY, SEGMENTS), required="projectId key")
EXPERIMENT_CREATE = closed({**_create(ANY, SEGMENTS), "experimentType": EXPERIMENT_TYPE}, required="projectId key")

_PATCH: dict[str, Schema] = {
    "name": STRING,
    "description": STRING,
    "bucketingKey": STRING,
    "bucketingSalt": STRING,
    "bucketingUnit": STRING,
    "evaluationMode": EVALUATION_MODE,
    "rolloutPercentage": PERCENT,
    "enabled": BOOLEAN,
}
_PATCH_NOW: dict[str, Schema] = {"targetSegments": SEGMENTS, "archive": BOOLEAN, "tags": STRINGS}
_PATCH_EXPERIMENT: dict[str, Schema] = {
    "stickyBucketing": BOOLEAN,
    "startDate": MOMENT,
    "endDate": {"type": ["string", "null"], "format": "moment"},
    "exposureEvent": EXPOSURE_EVENT,
}
FLAG_PATCH = closed({**_PATCH, **_PATCH_NOW}, at_least_one=True)
EXPERIMENT_PATCH = closed(
    {
        **_PATCH,
        **_PATCH_NOW,
        **_PATCH_EXPERIMENT,
        "experimentType": EXPERIMENT_TYPE,
        "decision": {"type": "string", "enum": ["rollout", "rollback", "continue-running"]},
        "decisionReason": STRING,
        "rolledOutVariant": STRING,
    },
    at_least_one=True,
)

VARIANT_CREATE = closed({**_variant(ANY), "rolloutWeight": WEIGHT}, required="key")
VARIANT_PATCH = closed({**_variant(ANY), "rolloutWeight": WEIGHT}, at_least_one=True)


def _list_of_strings(name: str, maximum: int | None = None) -> Schema:
    items: Schema = {**STRINGS, "minItems": 1}
    return closed({name: items if maximum is None else {**items, "maxItems": maximum}}, required=name)


MOST_INCLUSIONS = 2000
USER_INCLUSIONS = _list_of_strings("inclusions", MOST_INCLUSIONS)
COHORT_INCLUSIONS = _list_of_strings("inclusions")
BULK_REMOVE = _list_of_strings("users", 100)
DEPLOYMENT_ATTACH = _list_of_strings("deployments")

DEPLOYMENT_CREATE = closed(
    {"projectId": STRING, "label": LABEL, "type": {"enum": ["client", "server"]}},
    required="projectId label type",
)
DEPLOYMENT_PATCH = closed({"label": LABEL, "archive": BOOLEAN}, at_least_one=True)

_MEMBERS: dict[str, Schema] = {"experiments": NUMERIC_IDS, "holdouts": NUMERIC_IDS, "individuals": STRINGS}
_GROUP: dict[str, Schema] = {
    "projectId": NUMERIC_ID,
    "name": STRING,
    "key": KEY,
    "description": STRING,
    "evaluationMode": EVALUATION_MODE,
    "bucketingKey": STRING,
}
_SLOT = closed({"percentage": {"type": "integer", "minimum": 1, "maximum": 100}, **_MEMBERS}, required="percentage")
MUTEX_CREATE = closed(
    {
        **_GROUP,
        "bucketingSalt": STRING,
        "slots": {"type": "array", "items": _SLOT, "minItems": 1, "maxItems": 20},
    },
    required="projectId name slots",
)
MUTEX_PATCH = closed({"name": STRING, "description": STRING, "archive": BOOLEAN}, at_least_one=True)
SLOT_PATCH = closed(_MEMBERS, at_least_one=True)

_HELD: dict[str, Schema] = {
    "experiments": NUMERIC_IDS,
    "individualInclusion": STRINGS,
    "individualExclusion": STRINGS,
}
HOLDOUT_CREATE = closed(
    {**_GROUP, **_HELD, "holdoutPercentage": {"type": "integer", "minimum": 1, "maximum": 99}},
    required="projectId name holdoutPercentage",
)
HOLDOUT_PATCH = closed({"name": STRING, "description": STRING, **_HELD, "archive": BOOLEAN}, at_least_one=True)

# The beta: payloads are strings that hold JSON, segments may be one object with optional fields, and
# experiments have other types.
_BETA_SEGMENT = closed(_segment(_SCALAR_OPERATORS))
_BETA_SEGMENTS: Schema = {"oneOf": [_BETA_SEGMENT, {"type": "array", "items": _BETA_SEGMENT}]}
_BETA_TYPE: Schema = {"type": "string", "enum": ["hypothesis-testing", "no-harm"]}
BETA_FLAG_CREATE = closed(_create(STRING, _BETA_SEGMENTS), required="projectId key")
BETA_EXPERIMENT_CREATE = closed(
    {**_create(STRING, _BETA_SEGMENTS), "experimentType": _BETA_TYPE, "stickyBucketing": BOOLEAN},
    required="projectId key",
)
BETA_FLAG_PATCH = closed(_PATCH, at_least_one=True)
BETA_EXPERIMENT_PATCH = closed({**_PATCH, **_PATCH_EXPERIMENT, "experimentType": _BETA_TYPE}, at_least_one=True)
BETA_VARIANT_CREATE = closed({**_variant(STRING), "rolloutWeight": WEIGHT}, required="key")
BETA_VARIANT_PATCH = closed({**_variant(STRING), "rolloutWeight": WEIGHT}, at_least_one=True)
BETA_ROLLOUT_WEIGHTS = closed({"rolloutWeights": WEIGHTS}, required="rolloutWeights")
