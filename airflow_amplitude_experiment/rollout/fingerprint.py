"""What decides who gets what of an object, as plain JSON that two tasks of a rollout can compare.

Pure. The percentage that the rollout moves is left out, and so is what moves nobody: names, tags, dates, owners.
Payloads and conditions may hold people's ids, so only a digest of them is kept; that they changed is all there is to
say. A field that an answer does not show is left out too, because a list, details and the older API show different
ones, and what can't be seen is no change.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from typing import Any

PLAIN = ("evaluationMode", "bucketingKey", "bucketingSalt", "bucketingUnit", "stickyBucketing")
DIGITS = 12


def fingerprint(found: Any, variants: Iterable[Any], *, segment: str | None = None) -> dict[str, Any]:
    """Return what decides who gets what of an object, under the API's own field names.

    :param found: the flag or experiment as the API answered it.
    :param variants: its variants as the variants call answers them, with payloads and weights.
    :param segment: the target segment whose percentage the rollout moves; ``None`` for that of all other users.
    """
    shown = found.as_json()
    variants = list(variants)
    kept: dict[str, Any] = {name: shown[name] for name in PLAIN if name in shown}
    if kept.get("stickyBucketing", True) is None:
        kept["stickyBucketing"] = False
    if "deployments" in shown:
        kept["deployments"] = sorted(found.deployments)
    if "parentDependencies" in shown:
        kept["parentDependencies"] = _parents(found.parent_dependencies)
    kept["variants"] = {each.key: _digest(each.value) for each in sorted(variants, key=lambda each: str(each.key))}
    kept["rolloutWeights"] = _weights(found, variants)
    if "targetSegments" in shown:
        kept["targetSegments"] = [_segment(each, found, moved=segment) for each in found.target_segments or ()]
    if segment is not None and "rolloutPercentage" in shown:
        kept["rolloutPercentage"] = found.rollout_percentage
    return kept


def changed(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """Say what differs between two fingerprints: ``rolloutWeights: {"on": 1} -> {"on": 2}``; empty where nothing does.

    A field that only one of them holds was not shown to the other, and is not compared.
    """
    told: list[str] = []
    for name in sorted(before.keys() & after.keys()):
        old, new = before[name], after[name]
        if old == new:
            continue
        if name == "variants":
            told += _changed_variants(old, new)
        elif name == "targetSegments":
            told += _changed_segments(old, new)
        else:
            told.append(f"{name}: {_text(old)} -> {_text(new)}")
    return told


def _weights(found: Any, variants: Iterable[Any]) -> dict[str, Any]:
    """Return the weights of all other users; where the object does not show them, the variants do."""
    if found.rollout_weights is not None:
        return {key: found.rollout_weights[key] for key in sorted(found.rollout_weights)}
    return {each.key: each.rollout_weight for each in sorted(variants, key=lambda each: str(each.key))}


def _parents(dependencies: Any) -> dict[str, Any]:
    flags = (dependencies.flags if dependencies is not None else None) or {}
    parents = {key: sorted(flags[key]) for key in sorted(flags)}
    return {"flags": parents, "operator": dependencies.operator} if parents else {}


def _segment(segment: Any, found: Any, *, moved: str | None) -> dict[str, Any]:
    """Return a segment; all of it that is not named here, its conditions above all, as one digest."""
    shown = segment.as_json()
    conditions = sorted(_canonical(each) for each in shown.pop("conditions", None) or ())
    kept = {
        "name": shown.pop("name", None),
        "rolloutWeights": shown.pop("rolloutWeights", None) or {},
        "bucketingKey": shown.pop("bucketingKey", None) or found.bucketing_key,
    }
    percentage = shown.pop("percentage", None)
    if segment.name != moved or moved is None:
        kept["percentage"] = percentage
    return {**kept, "conditions": _digest({"conditions": conditions, **shown})}


def _changed_variants(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    told = [f"variants: {_text(sorted(old))} -> {_text(sorted(new))}"] if old.keys() != new.keys() else []
    payloads = [key for key in sorted(old.keys() & new.keys()) if old[key] != new[key]]
    return told + [f"payload of variant {key!r}: changed" for key in payloads]


def _changed_segments(old: list[dict[str, Any]], new: list[dict[str, Any]]) -> list[str]:
    names = [[each["name"] for each in side] for side in (old, new)]
    if names[0] != names[1]:
        return [f"targetSegments: {_text(names[0])} -> {_text(names[1])}"]
    told = []
    for before, after in zip(old, new, strict=True):
        for name in sorted(before.keys() & after.keys()):
            if before[name] != after[name]:
                what = "changed" if name == "conditions" else f"{_text(before[name])} -> {_text(after[name])}"
                told.append(f"{name} of segment {before['name']!r}: {what}")
    return told


def _digest(value: Any) -> str | None:
    if value is None:
        return None
    return hashlib.sha256(_canonical(value).encode()).hexdigest()[:DIGITS]


def _canonical(value: Any) -> str:
    return json.dumps(value, sort_keys=True, ensure_ascii=False, default=str)


def _text(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)
