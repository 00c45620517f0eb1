"""The control path ``/_emulator/…``: for tests and demos, without a key, on loopback only.

=======================  ===========================================================================
``GET health``           answers once the server is up
``POST reset``           back to the seed; requests, faults and options are forgotten
``POST seed``            adds a document (see ``seeds``)
``GET`` / ``PUT state``  the whole state as such a document; keys are masked unless ``?keys=true``
``POST faults``          one fault or a list of them (see ``faults``); ``GET`` lists, ``DELETE`` clears
``GET requests``         what was asked, the oldest first; ``?sdk=true`` adds SDKs; ``DELETE`` clears
``PATCH options``        how to answer where the sources differ (see ``options``); ``GET`` shows them
=======================  ===========================================================================
"""

from __future__ import annotations

import ipaddress
from collections.abc import Awaitable, Callable, Mapping
from typing import Any
from urllib.parse import urlsplit

from fastapi import FastAPI, Request
from starlette.responses import Response

from .bodies import read_json
from .call import answer
from .errors import ApiError
from .faults import Fault
from .world import World

_Action = Callable[[World, Mapping[str, str], Any], Any]


def mount(app: FastAPI, world: World) -> None:
    """Add the control path to the application."""
    for path, actions in _ACTIONS.items():
        app.add_api_route(f"/_emulator/{path}", _endpoint(world, actions), methods=list(actions), response_model=None)


def _endpoint(world: World, actions: dict[str, _Action]) -> Callable[[Request], Awaitable[Response]]:
    async def endpoint(request: Request) -> Response:
        if not _is_local(request):
            return answer({"error": "The control path is open to this machine only."}, status=403)
        raw = await request.body()
        try:
            with world.store.lock:
                body = read_json(raw) if raw else None
                return answer(actions[request.method](world, request.query_params, body))
        except ApiError as error:
            return answer({"error": error.message}, status=error.status)
        except (ValueError, TypeError) as error:
            return answer({"error": str(error)}, status=400)

    return endpoint


def _is_local(request: Request) -> bool:
    # A web page in a browser on this machine is not "this machine": it announces itself with an Origin.
    origin = request.headers.get("origin")
    names = [request.client.host if request.client else "", urlsplit(origin).hostname if origin else None]
    return all(_is_loopback(name) for name in names if name is not None)


def _is_loopback(name: str) -> bool:
    try:
        return name == "localhost" or ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def _mapping(body: Any) -> Mapping[str, Any]:
    if not isinstance(body, Mapping):
        raise ValueError("the body is a JSON object")
    return body


def _health(world: World, query: Mapping[str, str], body: Any) -> Any:
    return {"status": "ok"}


def _reset(world: World, query: Mapping[str, str], body: Any) -> Any:
    world.reset()
    return {"status": "ok"}


def _seed(world: World, query: Mapping[str, str], body: Any) -> Any:
    world.seed(_mapping(body))
    return {"status": "ok"}


def _get_state(world: World, query: Mapping[str, str], body: Any) -> Any:
    return world.state(keys=query.get("keys") == "true")


def _put_state(world: World, query: Mapping[str, str], body: Any) -> Any:
    world.replace(_mapping(body))
    return {"status": "ok"}


def _get_faults(world: World, query: Mapping[str, str], body: Any) -> Any:
    return {"faults": world.faults.waiting()}


def _post_faults(world: World, query: Mapping[str, str], body: Any) -> Any:
    faults = [Fault.parse(_mapping(one)) for one in (body if isinstance(body, list) else [body])]
    for fault in faults:
        world.faults.add(fault)
    return {"faults": world.faults.waiting()}


def _delete_faults(world: World, query: Mapping[str, str], body: Any) -> Any:
    world.faults.clear()
    return {"faults": []}


def _get_requests(world: World, query: Mapping[str, str], body: Any) -> Any:
    return {"requests": world.log.entries(sdk=query.get("sdk") == "true")}


def _delete_requests(world: World, query: Mapping[str, str], body: Any) -> Any:
    world.log.clear()
    return {"requests": []}


def _get_options(world: World, query: Mapping[str, str], body: Any) -> Any:
    return world.store.options.as_dict()


def _patch_options(world: World, query: Mapping[str, str], body: Any) -> Any:
    world.store.options = world.store.options.changed(_mapping(body))
    return world.store.options.as_dict()


_ACTIONS: dict[str, dict[str, _Action]] = {
    "health": {"GET": _health},
    "reset": {"POST": _reset},
    "seed": {"POST": _seed},
    "state": {"GET": _get_state, "PUT": _put_state},
    "faults": {"GET": _get_faults, "POST": _post_faults, "DELETE": _delete_faults},
    "requests": {"GET": _get_requests, "DELETE": _delete_requests},
    "options": {"GET": _get_options, "PATCH": _patch_options},
}
