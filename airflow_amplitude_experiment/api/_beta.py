"""The words of the older API, where they differ from today's: what is sent to it, and what it answers.

Payloads are texts that hold JSON, experiment types have old names, and some values exist in v1 only.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from ._checks import WrongValue

EXPERIMENT_TYPES = {"a-b-test": "hypothesis-testing"}


def body(today: Mapping[str, Any]) -> dict[str, Any]:
    """Say a request's body in the beta's words.

    :raises WrongValue: something that the beta can't say.
    """
    old = dict(today)
    if "payload" in old:
        old["payload"] = json.dumps(old["payload"], ensure_ascii=False)
    if "variants" in old:
        old["variants"] = [body(variant) for variant in old["variants"]]
    if "experimentType" in old:
        if old["experimentType"] not in EXPERIMENT_TYPES:
            raise _unknown(f"experiment_type={old['experimentType']!r}")
        old["experimentType"] = EXPERIMENT_TYPES[old["experimentType"]]
    for segment in old.get("targetSegments", ()):
        _refuse_new_words(segment)
    if old.get("exposureEvent"):
        event = old["exposureEvent"]
        old["exposureEvent"] = {**event, "filters": [_filter(each) for each in event["filters"]]}
    return old


def payload(value: Any) -> Any:
    """Read a payload that the beta sent as a text."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        return value


def _refuse_new_words(segment: Mapping[str, Any]) -> None:
    if "bucketingKey" in segment:
        raise _unknown("a segment's bucketing_key")
    for condition in segment["conditions"]:
        if condition["op"].startswith("set "):
            raise _unknown(f"the operator {condition['op']!r}")


def _filter(today: Mapping[str, Any]) -> dict[str, Any]:
    if today["group_type"] != "User":
        raise _unknown(f"group_type={today['group_type']!r}")
    return {**today, "group_type": "USER", "subprop_type": today["subprop_type"].upper()}


def _unknown(what: str) -> WrongValue:
    return WrongValue(f"the beta API doesn't know {what}; use dialect='v1'")
