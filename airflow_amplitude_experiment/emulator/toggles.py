"""Flags and experiments: list, read, create, edit. They share one data model, so one set of operations."""

from __future__ import annotations

from starlette.responses import Response

from . import build, shapes
from .bodies import read_json
from .call import Call, Operation, answer, ok, patched
from .errors import ApiError, bad_request
from .schemas import Schema
from .store import Deployment, Json, Kind, Store, Thing

_PLURAL: dict[Kind, str] = {
    "flag": "flags",
    "experiment": "experiments",
    "mutex": "mutexes",
    "holdout": "holdouts",
}


def plural(kind: Kind) -> str:
    """Return the word that paths and lists use."""
    return _PLURAL[kind]


def listing(kind: Kind) -> Operation:
    """``GET /flags``: the newest first, archived ones only on request."""

    def operation(call: Call) -> Response:
        key, project_id = call.text("key"), call.text("projectId")
        archived = call.flag("includeArchived")
        if project_id is not None:
            call.store.require_project(project_id, call.key)
        things = [
            thing
            for thing in call.store.newest_first(kind)
            if thing.project_id in call.key.projects
            and (project_id is None or thing.project_id == project_id)
            and (archived or not thing.deleted)
            and (key is None or _matches(call.store, thing, key))
        ]
        return call.page(plural(kind), things, lambda thing: shapes.toggle(call.store, thing, "list"))

    return operation


def beta_listing(kind: Kind) -> Operation:
    """``GET /flags/list``: as the current list, without its filters."""

    def operation(call: Call) -> Response:
        things = [
            thing
            for thing in call.store.newest_first(kind)
            if thing.project_id in call.key.projects and not thing.deleted
        ]
        return call.page(plural(kind), things, lambda thing: shapes.toggle(call.store, thing, "list"))

    return operation


def _matches(store: Store, thing: Thing, key: str) -> bool:
    return key in thing.key if store.options.key_filter == "partial" else key == thing.key


def details(kind: Kind) -> Operation:
    """``GET /flags/{id}``."""

    def operation(call: Call) -> Response:
        return answer(shapes.toggle(call.store, call.thing(kind), "details"))

    return operation


def creating(kind: Kind, schema: Schema) -> Operation:
    """``POST /flags``: answers the id and a link."""

    def operation(call: Call) -> Response:
        thing = create(call, kind, call.body(schema))
        return answer({"id": shapes.identifier(call.store, thing.id), "url": web_link(call, thing)})

    return operation


def beta_creating(kind: Kind, schema: Schema) -> Operation:
    """``POST /flags/new``: answers the object, as the beta did."""

    def operation(call: Call) -> Response:
        thing = create(call, kind, _from_beta(call.body(schema)))
        return answer(shapes.toggle(call.store, thing, "details"))

    return operation


def create(call: Call, kind: Kind, body: Json) -> Thing:
    """Keep a new flag or experiment."""
    store = call.store
    store.require_project(body["projectId"], call.key)
    variants = [one["key"] for one in body.get("variants", [])]
    if len(set(variants)) != len(variants):
        raise bad_request("variants: two of them have the same key.")
    if store.by_key(body["projectId"], body["key"]) is not None:
        raise bad_request("key: it is already taken in this project.")
    for one in body.get("deployments", []):
        deployment_of(call, one, body["projectId"])
    return store.add(kind, build.toggle(store, kind, body, author=call.key.email))


def web_link(call: Call, thing: Thing) -> str:
    """Return the address of the page that a person would open; here the emulator serves it."""
    organization = call.store.projects.get(thing.project_id, {}).get("organization", "emulator")
    return f"{call.base_url}/experiment/{organization}/{thing.project_id}/config/{thing.id}"


def updating(kind: Kind, schema: Schema, *, beta: bool = False) -> Operation:
    """``PATCH /flags/{id}``."""

    def operation(call: Call) -> Response:
        thing = call.thing(kind)
        _require_editable(thing)
        body = call.body(schema)
        update(call.store, thing, body, author=call.key.email)
        return ok() if beta else patched(call.store)

    return operation


def _require_editable(thing: Thing) -> None:
    if thing.data["kind"] != "feature":
        raise ApiError(405, f"A {thing.data['kind']} experiment can't be edited through the API.")


def update(store: Store, thing: Thing, body: Json, *, author: str) -> None:
    """Apply the fields of a PATCH, all or none."""
    if body.get("archive"):
        refuse_while_needed(store, thing)
    with store.edit(thing, author) as draft:
        for name, value in body.items():
            if name == "archive":
                draft["deleted"] = value
            elif name == "targetSegments":
                # Filled in, so that writing back what was read is no change.
                filled = [shapes.with_bucketing_key(segment, draft) for segment in value]
                kept = [shapes.with_bucketing_key(segment, draft) for segment in draft[name]]
                draft[name] = value if filled != kept else draft[name]
            else:
                draft[name] = value
        if thing.kind == "experiment" and draft["enabled"] != thing.data["enabled"]:
            draft["state"] = "running" if draft["enabled"] else "planning"


def refuse_while_needed(store: Store, thing: Thing) -> None:
    """Refuse to take away what others have as their prerequisite."""
    for other in store.things.values():
        wanted = other.data.get("prerequisites", ())
        if other.project_id == thing.project_id and not other.deleted and {thing.id, thing.key} & set(wanted):
            raise bad_request("Other flags depend on this one.")


def switching(enabled: bool) -> Operation:
    """``POST /experiments/{id}/activate`` and ``/deactivate`` of the beta."""

    def operation(call: Call) -> Response:
        thing = call.thing("experiment")
        _require_editable(thing)
        update(call.store, thing, {"enabled": enabled}, author=call.key.email)
        return ok()

    return operation


def rollout_weights(schema: Schema) -> Operation:
    """``POST /experiments/{id}/rollout-weights`` of the beta: the whole map at once."""

    def operation(call: Call) -> Response:
        thing = call.thing("experiment")
        weights = call.body(schema)["rolloutWeights"]
        with call.store.edit(thing, call.key.email) as draft:
            draft["rolloutWeights"] = {**{one["key"]: 0 for one in draft["variants"]}, **weights}
        return ok()

    return operation


def _from_beta(body: Json) -> Json:
    segments = body.get("targetSegments", [])
    defaults = {"name": "", "conditions": [], "percentage": 0, "rolloutWeights": {}}
    listed = segments if isinstance(segments, list) else [segments]
    now = {**body, "targetSegments": [{**defaults, **segment} for segment in listed]}
    if "variants" in body:
        now["variants"] = [payload_from_beta(one) for one in body["variants"]]
    return now


def payload_from_beta(body: Json) -> Json:
    """Decode a payload of the beta, a text that holds JSON; one that holds none is kept as a text."""
    if "payload" not in body:
        return body
    try:
        return {**body, "payload": read_json(body["payload"].encode("utf-8", "surrogatepass"))}
    except ApiError:
        return body


# --- the deployments of one object -------------------------------------------------------------------


def deployment_of(call: Call, deployment_id: str, project_id: str) -> Deployment:
    """Return a deployment that an object of this project may be attached to."""
    deployment = call.store.find_deployment(deployment_id, call.key)
    if deployment.project_id != project_id:
        raise bad_request("deployments: it belongs to another project.")
    return deployment


def attached(kind: Kind) -> Operation:
    """``GET /flags/{id}/deployments``."""

    def operation(call: Call) -> Response:
        store, thing = call.store, call.thing(kind)
        return answer([shapes.deployment(store, store.deployments[one]) for one in thing.data["deployments"]])

    return operation


def attaching(kind: Kind, schema: Schema) -> Operation:
    """``POST /flags/{id}/deployments``."""

    def operation(call: Call) -> Response:
        thing = call.thing(kind)
        wanted = call.body(schema)["deployments"]
        for one in wanted:
            deployment_of(call, one, thing.project_id)
        with call.store.edit(thing, call.key.email) as draft:
            draft["deployments"] = build.unique([*draft["deployments"], *wanted])
        return ok()

    return operation


def detaching(kind: Kind) -> Operation:
    """``DELETE /flags/{id}/deployments/{deploymentId}``."""

    def operation(call: Call) -> Response:
        thing, deployment_id = call.thing(kind), call.path["deploymentId"]
        if deployment_id not in thing.data["deployments"]:
            raise ApiError(404, "The deployment is not attached.")
        with call.store.edit(thing, call.key.email) as draft:
            draft["deployments"].remove(deployment_id)
        return ok()

    return operation
