"""What an answer shows of an object.

The samples of lists and of details show different subsets, and versions a third one; ``fields="full"``
shows everything everywhere.
"""

from __future__ import annotations

import base64
from typing import Any, Literal

from .clock import utc_date
from .store import Deployment, Json, Store, Thing, Version

View = Literal["list", "details", "version"]

_IDENTITY = ("id", "projectId", "deployments", "key", "name", "description", "enabled")
_DELIVERY = ("evaluationMode", "bucketingKey", "bucketingSalt", "bucketingUnit", "variants", "rolloutPercentage")
_TARGETS = ("rolloutWeights", "targetSegments")
_DECISION = ("decision", "decisionReason", "rolledOutVariant")
_PERIOD = ("stickyBucketing", "startDate", "endDate", "experimentType")
_SIGNATURE = ("createdBy", "lastModifiedBy", "createdAt", "lastModifiedAt")
_FLAG = (*_IDENTITY, *_DELIVERY, *_TARGETS, "parentDependencies")
_EXPERIMENT = (*_FLAG, *_DECISION, *_PERIOD, "state")

_SUBSETS: dict[tuple[str, View], tuple[str, ...]] = {
    ("flag", "list"): (*_FLAG, *_SIGNATURE),
    ("flag", "details"): (*_FLAG, "deleted"),
    ("flag", "version"): (*_IDENTITY, *_DELIVERY, *_TARGETS),
    ("experiment", "list"): (*_EXPERIMENT, *_SIGNATURE),
    ("experiment", "details"): (*_EXPERIMENT, "deleted", "tags", "createdBy"),
    ("experiment", "version"): (*_IDENTITY, "bucketingKey", "variants", *_TARGETS, *_PERIOD),
}
_FULL_FLAG = (*_FLAG, "deleted", "tags", *_SIGNATURE)
_FULL = {"flag": _FULL_FLAG, "experiment": (*_EXPERIMENT, "exposureEvent", *_FULL_FLAG[len(_FLAG) :])}


def toggle(store: Store, thing: Thing, view: View, data: Json | None = None) -> Json:
    """Return a flag or experiment; with ``data``, as it was in one of its versions."""
    shown = thing.data if data is None else data
    full = store.options.fields == "full"
    names = _FULL[thing.kind] if full else _SUBSETS[thing.kind, view]
    return {name: _field(store, thing, shown, name) for name in names}


def _field(store: Store, thing: Thing, data: Json, name: str) -> Any:
    if name in ("id", "projectId"):
        return identifier(store, data[name])
    if name == "deployments":
        return [identifier(store, one) for one in data[name]]
    if name == "variants":
        full = store.options.fields == "full"
        return [variant(store, data, one) if full else {"key": one["key"]} for one in data[name]]
    if name == "targetSegments":
        return [with_bucketing_key(segment, data) for segment in data[name]]
    if name in ("startDate", "endDate") and data[name] is not None and store.options.dates == "date":
        return utc_date(data[name])
    if name == "parentDependencies":
        flags = {parent.id: variants for parent, variants in parents(store, thing)}
        return {"flags": flags, "operator": "all"} if flags else None
    return data[name]


def with_bucketing_key(segment: Json, data: Json) -> Json:
    """Return a segment with its bucketing key, which defaults to the object's and is in every sample."""
    return {**segment, "bucketingKey": segment.get("bucketingKey", data["bucketingKey"])}


def parents(store: Store, thing: Thing) -> list[tuple[Thing, list[str]]]:
    """Return the gates of an object: each group or flag it depends on, and the variants that let it pass."""
    groups = [one for one in store.groups.values() if one.project_id == thing.project_id]
    groups.sort(key=lambda group: (len(group.id), group.id))  # the same after a state was loaded
    found = [(group, _passing(group, thing)) for group in groups]
    for name, variants in thing.data.get("prerequisites", {}).items():
        needed = store.things.get(name) or store.by_key(thing.project_id, name)
        if needed is not None:
            found.append((needed, list(variants)))
    return [(parent, passing) for parent, passing in found if passing and not parent.deleted]


def _passing(group: Thing, member: Thing) -> list[str]:
    if group.kind == "mutex":
        side = "holdouts" if member.kind == "holdout" else "experiments"
        return [slot["variantKey"] for slot in group.data["slots"] if member.id in slot[side]]
    return [group.data["variantName"]] if member.id in group.data["experiments"] else []


def variant(store: Store, data: Json, one: Json) -> Json:
    """Return one variant of an object."""
    shown: Json = {"key": one["key"], "name": one["name"], "description": one["description"]}
    if "payload" in one:
        shown["payload"] = one["payload"]
    elif store.options.empty_payload != "missing":
        shown["payload"] = {} if store.options.empty_payload == "object" else None
    shown["rolloutWeight"] = data["rolloutWeights"].get(one["key"])
    return shown


def version(store: Store, thing: Thing, one: Version) -> Json:
    """Return one version; the samples print a user id where other answers print an e-mail address."""
    author = one.created_by if store.options.version_author == "email" else store.user_id(one.created_by)
    return {
        "createdAt": one.created_at,
        "createdBy": author,
        "version": one.number,
        "flagConfig": toggle(store, thing, "version", one.config),
    }


def deployment(store: Store, one: Deployment) -> Json:
    """Return a deployment; its type is in no documented answer."""
    shown: Json = {
        "id": identifier(store, one.id),
        "projectId": identifier(store, one.project_id),
        "label": one.label,
        "key": one.key,
        "deleted": one.deleted,
    }
    return {**shown, "type": one.type} if store.options.fields == "full" else shown


def mutex(store: Store, thing: Thing) -> Json:
    """Return a mutual exclusion group; ``deleted`` is in no sample, so it only shows when there is need."""
    names = ("id", "projectId", "name", "key", "description", "evaluationMode", "bucketingKey", "bucketingSalt")
    shown = {name: _field(store, thing, thing.data, name) for name in names}
    shown["slots"] = [
        {**slot, **{side: [member(store, one) for one in slot[side]] for side in ("experiments", "holdouts")}}
        for slot in thing.data["slots"]
    ]
    if thing.deleted or store.options.fields == "full":
        shown["deleted"] = thing.deleted
    return shown


def holdout(store: Store, thing: Thing) -> Json:
    """Return a holdout group."""
    author, editor = thing.data["createdBy"], thing.data["lastModifiedBy"]
    return {
        **thing.data,
        "id": identifier(store, thing.id),
        "projectId": identifier(store, thing.project_id),
        "experiments": [member(store, one) for one in thing.data["experiments"]],
        "createdBy": store.user_id(author),
        "lastModifiedBy": store.user_id(editor),
    }


def identifier(store: Store, value: str) -> str | int:
    """Return an id as text, or as a number where that was asked for."""
    return int(value) if store.options.ids == "number" and value.isascii() and value.isdigit() else value


def member(store: Store, value: str) -> str | int:
    """Return the id of a member of a group; the samples print numbers."""
    as_text = store.options.member_ids == "string" and store.options.ids == "string"
    return value if as_text or not (value.isascii() and value.isdigit()) else int(value)


def page(store: Store, name: str, shown: list[Json], following: int | None) -> Json:
    """Return one page of a list, with the cursor of the next one if there is one."""
    options = store.options
    if following is None:
        ends: dict[str, Json] = {"absent": {}, "null": {"nextCursor": None}, "empty": {"nextCursor": ""}}
        return {name: shown, **ends[options.end_of_list]}
    kinds = {"string": str(following), "integer": following, "opaque": _opaque(following)}
    cursor = {"nextCursor": kinds[options.cursor]}
    return {name: [*shown, cursor]} if options.next_cursor == "in_array" else {name: shown, **cursor}


def _opaque(offset: int) -> str:
    return "c" + base64.urlsafe_b64encode(f"offset:{offset}".encode()).decode().rstrip("=")


def read_cursor(text: str) -> int:
    """Return the offset that a cursor stands for.

    :raises ValueError: it is no cursor of ours.
    """
    if text.startswith("c"):
        padded = text[1:] + "=" * (-len(text[1:]) % 4)
        text = base64.urlsafe_b64decode(padded.encode("ascii")).decode("ascii").removeprefix("offset:")
    if not (text.isascii() and text.isdigit() and len(text) < 16):
        raise ValueError("not a cursor")
    return int(text)
