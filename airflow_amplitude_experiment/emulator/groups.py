"""Mutual exclusion groups with their slots, and holdout groups."""

from __future__ import annotations

import re
from collections.abc import Iterable

from starlette.responses import Response

from . import build, shapes
from .call import Call, answer, patched
from .errors import bad_request, not_found
from .schemas import HOLDOUT_CREATE, HOLDOUT_PATCH, MUTEX_CREATE, MUTEX_PATCH, SLOT_PATCH
from .store import Json, Kind, Thing
from .toggles import web_link


def _visible(call: Call, kind: Kind) -> list[Thing]:
    things = call.store.newest_first(kind)
    return [thing for thing in things if thing.project_id in call.key.projects and not thing.deleted]


def list_mutexes(call: Call) -> Response:
    """``GET /mutexes``."""
    return call.page("mutexes", _visible(call, "mutex"), lambda thing: shapes.mutex(call.store, thing))


def get_mutex(call: Call) -> Response:
    """``GET /mutexes/{id}``."""
    return answer(shapes.mutex(call.store, call.thing("mutex")))


def create_mutex(call: Call) -> Response:
    """``POST /mutexes``: the slots are fixed from here on and share all traffic."""
    body = call.body(MUTEX_CREATE)
    _require_new(call, body)
    if sum(slot["percentage"] for slot in body["slots"]) != 100:
        raise bad_request("slots: their percentages must total 100.")
    for slot in body["slots"]:
        _require_members(call, body, slot)
    thing = call.store.add("mutex", build.mutex(call.store, body, author=call.key.email))
    return _created(call, thing)


def update_mutex(call: Call) -> Response:
    """``PATCH /mutexes/{id}``: archiving ignores every other field of the call."""
    thing = call.thing("mutex")
    body = call.body(MUTEX_PATCH)
    _update_group(call, thing, {"archive": True} if body.get("archive") else body)
    return patched(call.store)


def update_slot(call: Call) -> Response:
    """``PATCH /mutexes/{id}/slots/{slotIndex}``: a list that is given replaces the one that was there."""
    thing = call.thing("mutex")
    index = call.path["slotIndex"]
    if not re.fullmatch(r"-?[0-9]+", index):
        raise bad_request("slotIndex is a whole number.")
    if len(index) > 9 or not 1 <= int(index) <= len(thing.data["slots"]):
        raise not_found("There is no slot with this index.")
    body = call.body(SLOT_PATCH)
    _require_members(call, thing.data, body)
    with call.store.edit(thing, call.key.email) as draft:
        slot = draft["slots"][int(index) - 1]
        for side, given in body.items():
            kept = slot[side] if call.store.options.slot_lists == "append" else []
            wanted = given if side == "individuals" else build.ids(given)
            slot[side] = build.unique([*kept, *wanted])
    return patched(call.store)


def list_holdouts(call: Call) -> Response:
    """``GET /holdouts``."""
    return call.page("holdouts", _visible(call, "holdout"), lambda thing: shapes.holdout(call.store, thing))


def get_holdout(call: Call) -> Response:
    """``GET /holdouts/{id}``."""
    return answer(shapes.holdout(call.store, call.thing("holdout")))


def create_holdout(call: Call) -> Response:
    """``POST /holdouts``: the percentage is fixed from here on."""
    body = call.body(HOLDOUT_CREATE)
    _require_new(call, body)
    _require_members(call, body, body)
    thing = call.store.add("holdout", build.holdout(call.store, body, author=call.key.email))
    return _created(call, thing)


def update_holdout(call: Call) -> Response:
    """``PATCH /holdouts/{id}``."""
    thing = call.thing("holdout")
    body = call.body(HOLDOUT_PATCH)
    _require_members(call, thing.data, body)
    _update_group(call, thing, body)
    return patched(call.store)


def _update_group(call: Call, thing: Thing, body: Json) -> None:
    with call.store.edit(thing, call.key.email) as draft:
        for name, value in body.items():
            if name == "archive":
                draft["deleted"] = value
            else:
                draft[name] = build.ids(value) if name == "experiments" else value


def _require_new(call: Call, body: Json) -> None:
    project_id = build.as_id(body["projectId"])
    call.store.require_project(project_id, call.key)
    if "key" in body and call.store.by_key(project_id, body["key"]) is not None:
        raise bad_request("key: it is already taken in this project.")


def _require_members(call: Call, group: Json, members: Json) -> None:
    _require(call, "experiment", group, members.get("experiments", ()))
    _require(call, "holdout", group, members.get("holdouts", ()))


def _require(call: Call, kind: Kind, group: Json, ids: Iterable[object]) -> None:
    for one in ids:
        member = call.store.find(kind, build.as_id(one), call.key)
        if member.project_id != build.as_id(group["projectId"]):
            raise bad_request(f"{kind}s: a member belongs to another project.")
        local = member.data["evaluationMode"] == "local"
        if local and group.get("evaluationMode", "remote") != "local":
            raise bad_request(f"{kind}s: a member that is evaluated locally needs a local group.")


def _created(call: Call, thing: Thing) -> Response:
    return answer({"id": shapes.identifier(call.store, thing.id), "url": web_link(call, thing)})
