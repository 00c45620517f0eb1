"""The application: the paths of the APIs and of SDKs, the control path and the pages, on one state."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping
from typing import Any
from urllib.parse import unquote

from fastapi import FastAPI, Request
from starlette.exceptions import HTTPException
from starlette.responses import Response

from . import charts, cohorts, control
from .call import Call, Operation, answer, refusal
from .clock import Clock, utc_now
from .errors import ApiError, not_found
from .evaluation import flag_configs
from .front import App, Front
from .pages import page
from .routes import all_routes
from .store import Deployment, ManagementKey, Store
from .world import World


def create_app(seed: Mapping[str, Any] | None = None, *, clock: Clock = utc_now) -> App:
    """Return an ASGI application with its own state.

    :param seed: what it holds at the start and after a reset, see ``seeds``; by default one project.
    :param clock: tells the time; for tests of limits and of dates.
    """
    return application(World(seed, clock=clock))


def application(world: World) -> App:
    """Return the ASGI application that serves a world."""
    # The API's own description would answer paths that the API does not have.
    app = FastAPI(title="Amplitude emulator", openapi_url=None, docs_url=None, redoc_url=None)
    app.router.redirect_slashes = False
    for path, operations in all_routes().items():
        endpoint = _endpoint(world, operations)
        app.add_api_route(path, endpoint, methods=list(operations), response_model=None)
    app.add_api_route("/sdk/v2/flags", _sdk(world), methods=["GET"], response_model=None)
    app.add_api_route("/experiment/{rest:path}", _page(world), methods=["GET"], response_model=None)
    charts.mount(app, world)
    cohorts.mount(app, world)
    control.mount(app, world)
    app.add_exception_handler(HTTPException, _unrouted(world))
    return Front(app, world)


_Endpoint = Callable[[Request], Awaitable[Response]]


def _endpoint(world: World, operations: dict[str, Operation]) -> _Endpoint:
    async def endpoint(request: Request) -> Response:
        raw_body = await request.body()
        with world.store.lock:
            try:
                call = _accept(world, request, raw_body)
                return operations[request.method](call)
            except ApiError as error:
                return refusal(world.store, error)

    return endpoint


def _accept(world: World, request: Request, raw_body: bytes) -> Call:
    """Look at the key, count the request, and hand it on."""
    key = _management_key(world.store, request.headers.get("authorization", ""))
    query = {name: request.query_params.getlist(name) for name in request.query_params}
    path = {name: unquote(str(value)) for name, value in request.path_params.items()}
    base_url = f"{request.url.scheme}://{request.headers.get('host', 'localhost')}"
    call = Call(world.store, key, path, query, raw_body, base_url)
    world.limits.charge(_projects(call, of_deployment=request.url.path.startswith("/api/1/deployments")))
    return call


def _management_key(store: Store, header: str) -> ManagementKey:
    scheme, _, text = header.partition(" ")
    key = store.keys.get(text.strip())
    if scheme.lower() != "bearer" or key is None or key.revoked:
        raise ApiError(401, "The management key is missing, unknown or revoked.")
    return key


def _projects(call: Call, *, of_deployment: bool) -> list[str]:
    """Return the projects that a request counts against: the one it is about, else all that its key sees."""
    store, object_id = call.store, call.path.get("id", "")
    thing = store.deployments.get(object_id) if of_deployment else store.things.get(object_id)
    named = [thing.project_id] if thing is not None else [*call.query.get("projectId", ()), _project_in(call)]
    return [one for one in named if one in call.key.projects][:1] or call.key.projects


def _project_in(call: Call) -> str:
    try:
        body = json.loads(call.raw_body) if call.raw_body else None
    except (ValueError, RecursionError):
        return ""
    return str(body.get("projectId", "")) if isinstance(body, dict) else ""


def _sdk(world: World) -> _Endpoint:
    async def endpoint(request: Request) -> Response:
        with world.store.lock:
            try:
                deployment = _deployment(world.store, request.headers.get("authorization", ""))
                return answer(flag_configs(world.store, deployment))
            except ApiError as error:
                return refusal(world.store, error)

    return endpoint


def _deployment(store: Store, header: str) -> Deployment:
    scheme, _, text = header.partition(" ")
    for deployment in store.deployments.values():
        if scheme.lower() == "api-key" and deployment.key == text.strip() and not deployment.deleted:
            return deployment
    raise ApiError(401, "The deployment key is missing, unknown or archived.")


def _page(world: World) -> _Endpoint:
    async def endpoint(request: Request) -> Response:
        parts = request.url.path.split("/")
        with world.store.lock:
            thing = world.store.things.get(parts[-1])
            if len(parts) != 6 or parts[4] != "config" or thing is None or thing.project_id != parts[3]:
                return refusal(world.store, not_found("There is no such page."))
            return Response(page(world.store, thing), media_type="text/html; charset=utf-8")

    return endpoint


def _unrouted(world: World) -> Callable[[Request, Exception], Awaitable[Response]]:
    async def handler(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        return refusal(world.store, ApiError(error.status_code, str(error.detail), headers=error.headers))

    return handler
