"""State as a document: what a seed file holds, and what saving the emulator writes.

A document is JSON or YAML with these lists, all optional, in the API's own field names::

    projects:     [{id: "100001", name: Shop, organization: acme, apiKey: a, secretKey: b}]
    keys:         [{key: my-key, projects: ["100001"], email: bot@example.com, userId: "9001", revoked: false}]
    deployments:  [{id: "31", projectId: "100001", label: web, type: client, key: client-x, default: true}]
    flags:        [{key: new-nav, enabled: true, rolloutPercentage: 10, deployments: [web]}]
    experiments:  [{key: checkout, variants: [{key: control}, {key: treatment, users: [qa-1]}]}]
    mutexes:      [{key: one-of, name: One of, slots: [{percentage: 100, experiments: [checkout]}]}]
    holdouts:     [{key: held, name: Held, holdoutPercentage: 5, experiments: [checkout]}]
    charts:       [{id: abc1234, series: {control: {"2026-11-20": 0.5}, treatment: {"2026-11-20": 0.4}}}]
    cohorts:      [{id: hmzct8qe, name: Beta testers, users: [qa-1, {user_id: qa-2, plan: pro}]}]
    options:      {ids: number}

Fields that are left out get the API's defaults; ``id`` too. ``projectId`` may be left out where there is one
project. ``apiKey`` and ``secretKey`` open a project's charts and cohorts. Deployments may be named by id or label,
members of groups by id or key. A variant may be a bare key and may carry ``users``, ``cohorts`` and ``rolloutWeight``.
``kind: web`` marks an experiment that the API does not edit (405). ``prerequisites: {other-flag: ["on"]}`` makes a
flag depend on another one. A project without a default deployment gets one. ``versions`` gives a history; without
it an object has one version. The fields of a chart are those of ``Emulator.add_chart``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from copy import deepcopy
from dataclasses import asdict
from typing import Any

from . import build, charts, cohorts
from .clock import parse_moment, to_timestamp
from .store import TOGGLES, Deployment, Json, Kind, ManagementKey, ProjectKeys, Store, Thing, Version, made_up

DEFAULT_SEED: Json = {
    "projects": [
        {
            "id": "100001",
            "name": "Emulator",
            "organization": "emulator",
            "apiKey": "emulator-api-key",
            "secretKey": "emulator-secret-key",
        }
    ],
    "keys": [{"key": "emulator-management-key", "projects": ["100001"]}],
    "deployments": [
        {
            "projectId": "100001",
            "label": "default",
            "type": "server",
            "key": "server-emulator-key",
            "default": True,
        }
    ],
}
MASK = "***"


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


# In this order: holdouts name experiments, mutexes name both.
_SECTIONS: dict[str, Kind] = {
    "flags": "flag",
    "experiments": "experiment",
    "holdouts": "holdout",
    "mutexes": "mutex",
}
_TOGGLE_FIELDS = _names(
    "id projectId deployments key name description enabled evaluationMode bucketingKey bucketingSalt "
    "bucketingUnit variants rolloutPercentage rolloutWeights targetSegments deleted tags prerequisites kind "
    "createdBy lastModifiedBy createdAt lastModifiedAt versions parentDependencies"
)
_EXPERIMENT_FIELDS = _TOGGLE_FIELDS | _names(
    "decision decisionReason rolledOutVariant stickyBucketing state startDate endDate experimentType exposureEvent"
)
_GROUP_FIELDS = _names(
    "id projectId name key description evaluationMode bucketingKey bucketingSalt deleted "
    "createdBy lastModifiedBy createdAt lastModifiedAt"
)
_FIELDS: dict[Kind, frozenset[str]] = {
    "flag": _TOGGLE_FIELDS,
    "experiment": _EXPERIMENT_FIELDS,
    "mutex": _GROUP_FIELDS | {"slots"},
    "holdout": _GROUP_FIELDS
    | {"holdoutPercentage", "variantName", "experiments", "individualInclusion", "individualExclusion"},
}


def load(store: Store, document: Mapping[str, Any]) -> None:
    """Add what a document holds to the state.

    :raises ValueError: an unknown field or a reference to something that is not there.
    :raises ApiError: a key that is already taken.
    """
    known = {"projects", "keys", "deployments", "charts", "cohorts", "options", "nextIds", *_SECTIONS}
    _only(document, known, "document")
    for project in document.get("projects", []):
        _load_project(store, project)
    for given in document.get("deployments", []):
        _load_deployment(store, given)
    for project_id in store.projects:
        _ensure_default_deployment(store, project_id)
    for given in document.get("keys", []):
        _load_key(store, given)
    for section, kind in _SECTIONS.items():
        for given in document.get(section, []):
            add(store, kind, given)
    for given in document.get("charts", []):
        add_chart(store, given)
    for given in document.get("cohorts", []):
        add_cohort(store, given)
    _check_prerequisites(store)
    store.options = store.options.changed(document.get("options", {}))
    following = document.get("nextIds", {})
    store.next_id = max(store.next_id, following.get("objects", 0))
    store.next_deployment_id = max(store.next_deployment_id, following.get("deployments", 0))


def add(store: Store, kind: Kind, given: Mapping[str, Any]) -> Thing:
    """Add one object as a seed describes it."""
    _only(given, _FIELDS[kind], kind)
    described = deepcopy(dict(given))  # what the caller keeps is the caller's
    described["projectId"] = _project_of(store, given)
    if str(given.get("id")) in store.things:
        raise ValueError(f"{kind}: the id {given['id']} is already taken")
    author = next(iter(store.keys.values())).email if store.keys else "seed@example.com"
    makers = {"mutex": _described_mutex, "holdout": _described_holdout}
    data = makers.get(kind, _described_toggle)(store, kind, described, author)
    history = described.get("versions", [])
    thing = store.add(kind, data, write_version=not history)
    thing.versions += [_version(store, thing, one) for one in history]
    return thing


def add_chart(store: Store, given: Mapping[str, Any]) -> Json:
    """Add one chart as a seed describes it, and return it with every field."""
    chart = charts.make(given, _project_of(store, given))
    if chart.id in store.charts:
        raise ValueError(f"chart: the id {chart.id} is already taken")
    store.charts[chart.id] = chart
    return charts.describe(chart)


def add_cohort(store: Store, given: Mapping[str, Any]) -> Json:
    """Add one cohort as a seed describes it, and return it with every field."""
    cohort = cohorts.make(given, _project_of(store, given))
    if cohort.id in store.cohorts:
        raise ValueError(f"cohort: the id {cohort.id} is already taken")
    store.cohorts[cohort.id] = cohort
    return cohorts.describe(cohort)


def dump(store: Store, *, keys: bool) -> Json:
    """Return all state as a document; without ``keys`` every key is masked."""
    sections = {
        section: [_dump_thing(thing) for thing in store.things.values() if thing.kind == kind]
        for section, kind in _SECTIONS.items()
    }
    document = {
        "projects": [_dump_project(store, one, keys) for one in store.projects.values()],
        "keys": [_dump_key(one, keys) for one in store.keys.values()],
        "deployments": [_dump_deployment(one, keys) for one in store.deployments.values()],
        **sections,
        "charts": [charts.describe(one) for one in store.charts.values()],
        "cohorts": [cohorts.describe(one) for one in store.cohorts.values()],
        "options": store.options.differing(),
        "nextIds": {"objects": store.next_id, "deployments": store.next_deployment_id},
    }
    return deepcopy(document)


def describe(thing: Thing) -> Json:
    """Return one object with every field that the emulator keeps, without its versions."""
    return deepcopy(thing.data)


# --- loading -----------------------------------------------------------------------------------------


def _only(given: Mapping[str, Any], known: Iterable[str], what: str) -> None:
    unknown = sorted(set(given) - set(known))
    if unknown:
        raise ValueError(f"{what}: unknown field {', '.join(unknown)}")


def _load_project(store: Store, given: Mapping[str, Any]) -> None:
    _only(given, {"id", "name", "organization", "apiKey", "secretKey"}, "project")
    if MASK in (given.get("apiKey"), given.get("secretKey")):
        raise ValueError("project: a masked key can't be loaded; save the state with keys=true")
    project = {**given, "id": str(given["id"])}
    project_id = project["id"]
    made = ProjectKeys(project_id, made_up(32, "api key", project_id), made_up(32, "secret key", project_id))
    before = store.project_keys.get(project_id, made)
    api_key, secret_key = project.pop("apiKey", before.api_key), project.pop("secretKey", before.secret_key)
    store.projects[project_id] = project
    store.project_keys[project_id] = ProjectKeys(project_id, str(api_key), str(secret_key))


def _load_deployment(store: Store, given: Mapping[str, Any]) -> None:
    _only(given, {"id", "projectId", "label", "type", "key", "deleted", "default"}, "deployment")
    described = {"label": "default", **given, "projectId": _project_of(store, given)}
    if described.get("key") == MASK:
        raise ValueError("deployment: a masked key can't be loaded; save the state with keys=true")
    deployment = build.deployment(store, described)
    store.deployments[deployment.id] = deployment


def _ensure_default_deployment(store: Store, project_id: str) -> None:
    mine = [one for one in store.deployments.values() if one.project_id == project_id]
    if not mine:
        _load_deployment(store, {"projectId": project_id, "default": True})
    elif not any(one.default for one in mine):
        mine[0].default = True


def _load_key(store: Store, given: Mapping[str, Any]) -> None:
    _only(given, {"key", "projects", "email", "userId", "revoked"}, "key")
    if given["key"] == MASK:
        raise ValueError("key: a masked key can't be loaded; save the state with keys=true")
    number = len(store.keys) + 1
    store.keys[given["key"]] = ManagementKey(
        key=given["key"],
        projects=[str(one) for one in given.get("projects", list(store.projects))],
        email=given.get("email", f"management-key-{number}@example.com"),
        user_id=str(given.get("userId", 9000 + number)),
        revoked=given.get("revoked", False),
    )


def _project_of(store: Store, given: Mapping[str, Any]) -> str:
    if "projectId" in given:
        project_id = str(given["projectId"])
        if project_id not in store.projects:
            raise ValueError(f"there is no project {project_id}")
        return project_id
    if len(store.projects) != 1:
        raise ValueError("projectId is missing, and there is more than one project")
    return next(iter(store.projects))


def _described_toggle(store: Store, kind: Kind, given: Json, author: str) -> Json:
    if "variants" in given:
        given["variants"] = [{"key": one} if isinstance(one, str) else one for one in given["variants"]]
    wanted = [str(one) for one in given.get("deployments", [])]
    given["deployments"] = [_deployment_id(store, given["projectId"], one) for one in wanted]
    return build.toggle(store, kind, given, author=author)


def _deployment_id(store: Store, project_id: str, wanted: str) -> str:
    mine: list[Deployment] = [one for one in store.deployments.values() if one.project_id == project_id]
    for one in mine:
        if wanted in (one.id, one.label):
            return one.id
    raise ValueError(f"there is no deployment {wanted} in project {project_id}")


def _described_mutex(store: Store, kind: Kind, given: Json, author: str) -> Json:
    project_id = given["projectId"]
    given["slots"] = [
        {
            **slot,
            "experiments": _members(store, project_id, "experiment", slot.get("experiments", [])),
            "holdouts": _members(store, project_id, "holdout", slot.get("holdouts", [])),
        }
        for slot in given["slots"]
    ]
    return build.mutex(store, {"name": given.get("key", kind), **given}, author=author)


def _described_holdout(store: Store, kind: Kind, given: Json, author: str) -> Json:
    given["experiments"] = _members(store, given["projectId"], "experiment", given.get("experiments", []))
    return build.holdout(store, {"name": given.get("key", kind), **given}, author=author)


def _members(store: Store, project_id: str, kind: Kind, wanted: Iterable[Any]) -> list[str]:
    found = []
    for one in wanted:
        thing = store.by_key(project_id, str(one)) or store.things.get(build.as_id(one))
        if thing is None or thing.kind != kind or thing.project_id != project_id:
            raise ValueError(f"there is no {kind} {one} in project {project_id}")
        found.append(thing.id)
    return found


def _check_prerequisites(store: Store) -> None:
    """Refuse what is not there, and circles, which no SDK evaluates."""
    needs = {
        thing.id: [_prerequisite(store, thing, name) for name in thing.data["prerequisites"]]
        for thing in store.things.values()
        if thing.data.get("prerequisites")
    }
    for start in needs:
        seen, waiting = {start}, list(needs[start])
        while waiting:
            one = waiting.pop()
            if one == start:
                raise ValueError(f"{store.things[start].key}: its prerequisites depend on itself")
            if one not in seen:
                seen.add(one)
                waiting += needs.get(one, [])


def _prerequisite(store: Store, thing: Thing, name: str) -> str:
    needed = store.things.get(name) or store.by_key(thing.project_id, name)
    if needed is None or needed.kind not in TOGGLES:
        raise ValueError(f"{thing.key}: there is no prerequisite {name}")
    return needed.id


def _version(store: Store, thing: Thing, given: Mapping[str, Any]) -> Version:
    _only(given, {"version", "createdAt", "createdBy", "flagConfig", "order"}, "version")
    moment = to_timestamp(parse_moment(given["createdAt"]))
    config = {**thing.data, **given.get("flagConfig", {})}
    config["variants"] = [build.variant(one) for one in config["variants"]]
    order = given.get("order") or store.next_order()
    store.reserve_order(order)
    author = given.get("createdBy", thing.data["createdBy"])
    return Version(given["version"], moment, author, config, order)


# --- saving ------------------------------------------------------------------------------------------


def _dump_thing(thing: Thing) -> Json:
    if thing.kind not in TOGGLES:
        return dict(thing.data)
    versions = [
        {
            "version": one.number,
            "createdAt": one.created_at,
            "createdBy": one.created_by,
            "flagConfig": one.config,
            "order": one.order,
        }
        for one in thing.versions
    ]
    return {**thing.data, "versions": versions}


def _dump_project(store: Store, project: Json, keys: bool) -> Json:
    opens = store.project_keys[project["id"]]
    shown = (opens.api_key, opens.secret_key) if keys else (MASK, MASK)
    return {**project, "apiKey": shown[0], "secretKey": shown[1]}


def _dump_key(one: ManagementKey, keys: bool) -> Json:
    return {
        "key": one.key if keys else MASK,
        "projects": one.projects,
        "email": one.email,
        "userId": one.user_id,
        "revoked": one.revoked,
    }


def _dump_deployment(one: Deployment, keys: bool) -> Json:
    fields = asdict(one)
    project_id = fields.pop("project_id")
    return {**fields, "projectId": project_id, "key": one.key if keys else MASK}
