"""The deployments of projects."""

from __future__ import annotations

from dataclasses import replace

from starlette.responses import Response

from . import build, shapes
from .call import Call, answer, ok
from .schemas import DEPLOYMENT_CREATE, DEPLOYMENT_PATCH
from .store import Deployment


def list_deployments(call: Call) -> Response:
    """``GET /deployments``: archived ones are listed too."""
    mine = [one for one in call.store.deployments.values() if one.project_id in call.key.projects]
    return call.page("deployments", mine[::-1], lambda one: shapes.deployment(call.store, one))


def create_deployment(call: Call) -> Response:
    """``POST /deployments``: a label may be taken twice."""
    body = call.body(DEPLOYMENT_CREATE)
    call.store.require_project(body["projectId"], call.key)
    deployment = build.deployment(call.store, body)
    call.store.deployments[deployment.id] = deployment
    return answer({"id": shapes.identifier(call.store, deployment.id)})


def update_deployment(call: Call) -> Response:
    """``PATCH /deployments/{id}``."""
    found = call.store.find_deployment(call.path["id"], call.key)
    body = call.body(DEPLOYMENT_PATCH)
    changed: Deployment = replace(
        found, label=body.get("label", found.label), deleted=body.get("archive", found.deleted)
    )
    call.store.deployments[found.id] = changed
    return ok()
