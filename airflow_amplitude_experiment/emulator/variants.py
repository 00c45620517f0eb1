"""The variants of a flag or experiment, and the users and cohorts that are forced into one."""

from __future__ import annotations

from typing import Literal

from starlette.responses import Response

from . import build, shapes
from .call import Call, Operation, answer, ok
from .errors import ApiError, bad_request, not_found
from .schemas import BULK_REMOVE, COHORT_INCLUSIONS, MOST_INCLUSIONS, USER_INCLUSIONS, Schema
from .store import Json, Kind
from .toggles import payload_from_beta, refuse_while_needed

Included = Literal["users", "cohorts"]


def _variant(data: Json, call: Call) -> Json:
    for one in data["variants"]:
        if one["key"] == call.path["variantKey"]:
            found: Json = one
            return found
    raise not_found("There is no variant with this key.")


def listing(kind: Kind) -> Operation:
    """``GET /flags/{id}/variants``: a bare array."""

    def operation(call: Call) -> Response:
        data = call.thing(kind).data
        return answer([shapes.variant(call.store, data, one) for one in data["variants"]])

    return operation


def details(kind: Kind) -> Operation:
    """``GET /flags/{id}/variants/{variantKey}``."""

    def operation(call: Call) -> Response:
        data = call.thing(kind).data
        return answer(shapes.variant(call.store, data, _variant(data, call)))

    return operation


def creating(kind: Kind, schema: Schema, *, beta: bool = False) -> Operation:
    """``POST /flags/{id}/variants``; without a weight the variant gets no traffic."""

    def operation(call: Call) -> Response:
        thing = call.thing(kind)
        body = payload_from_beta(call.body(schema)) if beta else call.body(schema)
        if any(one["key"] == body["key"] for one in thing.data["variants"]):
            raise bad_request("key: there is already a variant with this key.")
        with call.store.edit(thing, call.key.email) as draft:
            draft["variants"].append(build.variant(body))
            draft["rolloutWeights"][body["key"]] = body.get("rolloutWeight", 0)
        return ok()

    return operation


def updating(kind: Kind, schema: Schema, *, beta: bool = False) -> Operation:
    """``PATCH /flags/{id}/variants/{variantKey}``; a new key takes weights and inclusions along."""

    def operation(call: Call) -> Response:
        thing = call.thing(kind)
        old = _variant(thing.data, call)["key"]
        body = payload_from_beta(call.body(schema)) if beta else call.body(schema)
        new = body.get("key", old)
        if new != old:
            refuse_while_needed(call.store, thing)
            if any(one["key"] == new for one in thing.data["variants"]):
                raise bad_request("key: there is already a variant with this key.")
        with call.store.edit(thing, call.key.email) as draft:
            _variant(draft, call).update({k: v for k, v in body.items() if k != "rolloutWeight"})
            _move_weights(draft, old, new)
            if "rolloutWeight" in body:
                draft["rolloutWeights"][new] = body["rolloutWeight"]
        return ok()

    return operation


def _move_weights(data: Json, old: str, new: str | None) -> None:
    """Give the weights of a variant to its new key, or drop them."""
    for owner in (data, *data["targetSegments"]):
        renamed = {old: new}
        owner["rolloutWeights"] = {
            renamed.get(key, key): weight
            for key, weight in owner["rolloutWeights"].items()
            if renamed.get(key, key) is not None
        }


def deleting(kind: Kind) -> Operation:
    """``DELETE /flags/{id}/variants/{variantKey}``; its weights go with it."""

    def operation(call: Call) -> Response:
        thing = call.thing(kind)
        gone = _variant(thing.data, call)["key"]
        refuse_while_needed(call.store, thing)
        with call.store.edit(thing, call.key.email) as draft:
            draft["variants"] = [one for one in draft["variants"] if one["key"] != gone]
            _move_weights(draft, gone, None)
        return ok()

    return operation


def included(kind: Kind, side: Included) -> Operation:
    """``GET …/users`` and ``…/cohorts``: a bare array of ids."""

    def operation(call: Call) -> Response:
        return answer(_variant(call.thing(kind).data, call)[side])

    return operation


def including(kind: Kind, side: Included) -> Operation:
    """``POST …/users`` and ``…/cohorts``: adds to the set."""

    def operation(call: Call) -> Response:
        thing = call.thing(kind)
        present = _variant(thing.data, call)[side]
        body = call.body(USER_INCLUSIONS if side == "users" else COHORT_INCLUSIONS)
        together = build.unique([*present, *body["inclusions"]])
        if side == "users" and len(together) > MOST_INCLUSIONS:
            raise bad_request(f"inclusions: a variant holds at most {MOST_INCLUSIONS}.")
        if len(together) == len(present) and call.store.options.present_inclusions == 403:
            raise ApiError(403, "Not Modified")
        with call.store.edit(thing, call.key.email) as draft:
            _variant(draft, call)[side] = together
        return ok()

    return operation


def excluding(kind: Kind, side: Included) -> Operation:
    """``DELETE …/bulk-delete-users`` and ``…/bulk-delete-cohorts``, which both take the field ``users``."""

    def operation(call: Call) -> Response:
        thing = call.thing(kind)
        _variant(thing.data, call)
        gone = set(call.body(BULK_REMOVE)["users"])
        with call.store.edit(thing, call.key.email) as draft:
            chosen = _variant(draft, call)
            chosen[side] = [one for one in chosen[side] if one not in gone]
        return ok()

    return operation


def excluding_all(kind: Kind) -> Operation:
    """``DELETE …/users``: ends empty."""

    def operation(call: Call) -> Response:
        thing = call.thing(kind)
        _variant(thing.data, call)
        with call.store.edit(thing, call.key.email) as draft:
            _variant(draft, call)["users"] = []
        return ok()

    return operation


def excluding_one(kind: Kind) -> Operation:
    """``DELETE …/users/{userIndex}``: by position, counted from zero."""

    def operation(call: Call) -> Response:
        thing = call.thing(kind)
        users, index = _variant(thing.data, call)["users"], call.path["userIndex"]
        if not (index.isascii() and index.isdigit()):
            raise bad_request("userIndex is a position, counted from zero.")
        if len(index) > 9 or int(index) >= len(users):
            raise not_found("There is no inclusion at this position.")
        with call.store.edit(thing, call.key.email) as draft:
            del _variant(draft, call)["users"][int(index)]
        return ok()

    return operation
