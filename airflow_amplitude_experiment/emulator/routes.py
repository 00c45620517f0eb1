"""Every path of the API with its operations: 57 of the current API, 34 of the beta, on one state.

The beta lives on another host; here both are on one port and differ by the prefix ``/api/1``.
"""

from __future__ import annotations

from . import deployments, groups, schemas, toggles, variants, versions
from .call import Operation
from .schemas import Schema
from .store import Kind

Routes = dict[str, dict[str, Operation]]

_CREATE: dict[Kind, Schema] = {"flag": schemas.FLAG_CREATE, "experiment": schemas.EXPERIMENT_CREATE}
_PATCH: dict[Kind, Schema] = {"flag": schemas.FLAG_PATCH, "experiment": schemas.EXPERIMENT_PATCH}
_BETA_CREATE: dict[Kind, Schema] = {
    "flag": schemas.BETA_FLAG_CREATE,
    "experiment": schemas.BETA_EXPERIMENT_CREATE,
}
_BETA_PATCH: dict[Kind, Schema] = {
    "flag": schemas.BETA_FLAG_PATCH,
    "experiment": schemas.BETA_EXPERIMENT_PATCH,
}


def all_routes() -> Routes:
    """Return every path; where two match, the first that has the method answers."""
    current = {**_toggles("flag"), **_toggles("experiment"), **_deployments(), **_groups()}
    current["/versions"] = {"GET": versions.feed}
    beta = {**_beta_toggles("flag"), **_beta_toggles("experiment"), **_beta_only()}
    return {**{f"/api/1{path}": operations for path, operations in current.items()}, **beta}


def _toggles(kind: Kind) -> Routes:
    all_of, one = f"/{toggles.plural(kind)}", f"/{toggles.plural(kind)}/{{id}}"
    variant = f"{one}/variants/{{variantKey}}"
    return {
        all_of: {"GET": toggles.listing(kind), "POST": toggles.creating(kind, _CREATE[kind])},
        one: {"GET": toggles.details(kind), "PATCH": toggles.updating(kind, _PATCH[kind])},
        f"{one}/versions": {"GET": versions.listing(kind)},
        f"{one}/versions/{{versionId}}": {"GET": versions.details(kind)},
        f"{one}/deployments": {
            "GET": toggles.attached(kind),
            "POST": toggles.attaching(kind, schemas.DEPLOYMENT_ATTACH),
        },
        f"{one}/deployments/{{deploymentId}}": {"DELETE": toggles.detaching(kind)},
        f"{one}/variants": {
            "GET": variants.listing(kind),
            "POST": variants.creating(kind, schemas.VARIANT_CREATE),
        },
        variant: {
            "GET": variants.details(kind),
            "PATCH": variants.updating(kind, schemas.VARIANT_PATCH),
            "DELETE": variants.deleting(kind),
        },
        f"{variant}/users": _users(kind),
        f"{variant}/users/{{userIndex}}": {"DELETE": variants.excluding_one(kind)},
        f"{variant}/cohorts": {
            "GET": variants.included(kind, "cohorts"),
            "POST": variants.including(kind, "cohorts"),
        },
        f"{variant}/bulk-delete-users": {"DELETE": variants.excluding(kind, "users")},
        f"{variant}/bulk-delete-cohorts": {"DELETE": variants.excluding(kind, "cohorts")},
    }


def _users(kind: Kind) -> dict[str, Operation]:
    return {
        "GET": variants.included(kind, "users"),
        "POST": variants.including(kind, "users"),
        "DELETE": variants.excluding_all(kind),
    }


def _deployments() -> Routes:
    return {
        "/deployments": {"GET": deployments.list_deployments, "POST": deployments.create_deployment},
        "/deployments/{id}": {"PATCH": deployments.update_deployment},
    }


def _groups() -> Routes:
    return {
        "/mutexes": {"GET": groups.list_mutexes, "POST": groups.create_mutex},
        "/mutexes/{id}": {"GET": groups.get_mutex, "PATCH": groups.update_mutex},
        "/mutexes/{id}/slots/{slotIndex}": {"PATCH": groups.update_slot},
        "/holdouts": {"GET": groups.list_holdouts, "POST": groups.create_holdout},
        "/holdouts/{id}": {"GET": groups.get_holdout, "PATCH": groups.update_holdout},
    }


def _beta_toggles(kind: Kind) -> Routes:
    all_of, one = f"/{toggles.plural(kind)}", f"/{toggles.plural(kind)}/{{id}}"
    variant = f"{one}/variants/{{variantKey}}"
    return {
        f"{all_of}/list": {"GET": toggles.beta_listing(kind)},
        f"{all_of}/new": {"POST": toggles.beta_creating(kind, _BETA_CREATE[kind])},
        one: {"GET": toggles.details(kind), "PATCH": toggles.updating(kind, _BETA_PATCH[kind], beta=True)},
        f"{one}/versions": {"GET": versions.listing(kind)},
        f"{one}/versions/{{versionId}}": {"GET": versions.details(kind)},
        f"{one}/variants": {
            "GET": variants.listing(kind),
            "POST": variants.creating(kind, schemas.BETA_VARIANT_CREATE, beta=True),
        },
        variant: {
            "GET": variants.details(kind),
            "PATCH": variants.updating(kind, schemas.BETA_VARIANT_PATCH, beta=True),
            "DELETE": variants.deleting(kind),
        },
        f"{variant}/users": _users(kind),
        f"{variant}/users/{{userIndex}}": {"DELETE": variants.excluding_one(kind)},
    }


def _beta_only() -> Routes:
    return {
        "/deployments/list": {"GET": deployments.list_deployments},
        "/experiments/{id}/activate": {"POST": toggles.switching(True)},
        "/experiments/{id}/deactivate": {"POST": toggles.switching(False)},
        "/experiments/{id}/rollout-weights": {"POST": toggles.rollout_weights(schemas.BETA_ROLLOUT_WEIGHTS)},
    }
