"""Behavioral cohorts: the list, and an export in its three steps, with the keys of a project's charts.

``GET /api/5/cohorts/request/{id}`` begins an export, ``…/request-status/{request_id}`` tells whether it is done, and
``…/request/{request_id}/file`` answers with the users as CSV, or, for a large cohort, sends on to a link that opens the
file to whoever holds it for a minute. As the storage behind Amplitude does, that link refuses a request that also
carries an ``Authorization`` header. How a 429 words its limit is documented nowhere; here it names the number.
"""

from __future__ import annotations

import csv
import io
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from math import ceil
from typing import TYPE_CHECKING, Any

from fastapi import FastAPI, Request
from starlette.responses import Response

from .call import answer, refusal
from .charts import keys_in, wait_headers
from .clock import to_timestamp
from .errors import ApiError, bad_request, not_found
from .store import Cohort, Json, Store, made_up

if TYPE_CHECKING:
    from .world import World

FIELDS = frozenset({"id", "projectId", "name", "description", "users"})
SIDE_BY_SIDE = 4
LINK_SECONDS = 60
EXPORT_DAYS = 7
FIRST_AMPLITUDE_ID = 356_893_815_359


def mount(app: FastAPI, world: World) -> None:
    """Add the paths of the Behavioral Cohorts API that are served here, and that of its links."""
    for path, operation in _OPERATIONS.items():
        app.add_api_route(path, _endpoint(world, operation), methods=["GET"], response_model=None)
    app.add_api_route("/cohort-files/{request_id}", _link(world), methods=["GET"], response_model=None)


@dataclass
class Export:
    """An export: the users as they were when it was asked for, and how often somebody looked whether it is done."""

    id: str
    cohort: Cohort
    columns: list[str]
    users: list[Json]
    begun: datetime
    looks: int = 0
    links: dict[str, datetime] = field(default_factory=dict)


class Exports:
    """The exports that were asked for, and the limits on asking."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.clear()

    def clear(self) -> None:
        """Forget all exports, and what was counted."""
        self.all: dict[str, Export] = {}
        self._months: Counter[tuple[str, str]] = Counter()
        self._asked: dict[str, deque[datetime]] = {}

    def begin(self, cohort: Cohort, columns: Iterable[str]) -> Export:
        """Begin an export, and count it.

        :raises ApiError: 429 beyond a limit; then nothing is counted.
        """
        now, options = self._store.clock().astimezone(UTC), self._store.options
        asked = self._asked.setdefault(cohort.project_id, deque())
        while asked and asked[0] <= now - timedelta(minutes=10):
            asked.popleft()
        if options.cohort_downloads is not None and self.used(cohort.project_id) >= options.cohort_downloads:
            self._refuse(f"Monthly limit of {options.cohort_downloads} cohort downloads exceeded.", next_month(now))
        if options.cohort_requests is not None and len(asked) >= options.cohort_requests:
            text = f"Rate limit of {options.cohort_requests} cohort requests per 10 minutes exceeded."
            self._refuse(text, (asked[0] if asked else now) + timedelta(minutes=10))
        recent = [each for each in self._open(cohort.project_id) if each.begun > now - timedelta(minutes=1)]
        if len(recent) >= SIDE_BY_SIDE:
            text = f"Limit of {SIDE_BY_SIDE} parallel cohort requests per minute exceeded."
            self._refuse(text, recent[0].begun + timedelta(minutes=1))
        asked.append(now)
        self._months[cohort.project_id, f"{now:%Y-%m}"] += 1
        export_id = made_up(12, "export", cohort.id, str(len(self.all)))
        names = ["amplitude_id", "user_id", *columns]
        self.all[export_id] = Export(export_id, cohort, names, list(cohort.users), now)
        return self.all[export_id]

    def used(self, project_id: str) -> int:
        """Return how many downloads of this month are used up."""
        return self._months[project_id, f"{self._store.clock().astimezone(UTC):%Y-%m}"]

    def find(self, export_id: str, project_id: str) -> Export:
        """Return an export of a project.

        :raises ApiError: 404, also for one that is too old.
        """
        export = self.all.get(export_id)
        oldest = self._store.clock() - timedelta(days=EXPORT_DAYS)
        if export is None or export.cohort.project_id != project_id or export.begun < oldest:
            raise not_found("There is no such request in this project.")
        return export

    def done(self, export: Export) -> bool:
        """Say whether an export is complete: looked at often enough, and old enough."""
        options = self._store.options
        age = (self._store.clock() - export.begun).total_seconds()
        return export.looks > options.cohort_looks and age >= options.cohort_seconds

    def new_link(self, export: Export) -> str:
        """Return the signature of a new link to the file."""
        signature = made_up(32, "link", export.id, str(len(export.links)))
        export.links[signature] = self._store.clock() + timedelta(seconds=LINK_SECONDS)
        return signature

    def _open(self, project_id: str) -> list[Export]:
        return [each for each in self.all.values() if each.cohort.project_id == project_id and not self.done(each)]

    def _refuse(self, text: str, until: datetime) -> None:
        seconds = ceil((until - self._store.clock()).total_seconds())
        raise ApiError(429, text, headers=wait_headers(self._store, max(1, seconds)))


def next_month(moment: datetime) -> datetime:
    """Return when the month's downloads are counted anew."""
    first = moment.astimezone(UTC).replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    return (first + timedelta(days=32)).replace(day=1)


# --- cohorts -----------------------------------------------------------------------------------------


def make(given: Mapping[str, Any], project_id: str) -> Cohort:
    """Return a cohort as a seed describes it.

    :raises ValueError: a field that no cohort has, or a user that is none.
    """
    if unknown := sorted(set(given) - FIELDS):
        raise ValueError(f"cohort: unknown field {', '.join(unknown)}")
    users = [_user(one, number) for number, one in enumerate(given.get("users", []))]
    cohort_id = str(given["id"])
    name = str(given.get("name", cohort_id))
    return Cohort(cohort_id, project_id, name, str(given.get("description", "")), users)


def describe(cohort: Cohort) -> Json:
    """Return a cohort as a seed describes it."""
    return {
        "id": cohort.id,
        "projectId": cohort.project_id,
        "name": cohort.name,
        "description": cohort.description,
        "users": [dict(one) for one in cohort.users],
    }


def _user(given: Any, number: int) -> Json:
    named = {"user_id": given} if isinstance(given, str) else given
    if not isinstance(named, Mapping):
        raise ValueError(f"cohort: a user is a user id or an object, not {given!r}")
    return {"amplitude_id": str(FIRST_AMPLITUDE_ID + number), "user_id": "", **named}


def _shown(cohort: Cohort, now: datetime) -> Json:
    seconds = int(now.timestamp())
    return {
        "appId": int(cohort.project_id) if cohort.project_id.isdigit() else 0,
        "archived": False,
        "definition": {},
        "description": cohort.description,
        "finished": True,
        "id": cohort.id,
        "name": cohort.name,
        "owners": [],
        "viewers": [],
        "published": True,
        "size": len(cohort.users),
        "lastMod": seconds,
        "createdAt": seconds,
        "lastComputed": seconds,
        "hidden": False,
        "metadata": [],
        "view_count": 0,
        "popularity": 0,
    }


def _as_csv(export: Export) -> str:
    sheet = io.StringIO()
    lines = csv.writer(sheet, quoting=csv.QUOTE_ALL, lineterminator="\n")
    lines.writerow(export.columns)
    lines.writerows([[one.get(name, "") for name in export.columns] for one in export.users])
    return sheet.getvalue()


# --- requests ----------------------------------------------------------------------------------------

_Endpoint = Callable[[Request], Awaitable[Response]]
_Operation = Callable[["World", Request, str], Response]


def _endpoint(world: World, operation: _Operation) -> _Endpoint:
    async def endpoint(request: Request) -> Response:
        store, limits = world.store, world.chart_limits
        with store.lock:
            try:
                project_id = keys_in(store, request.headers.get("authorization", "")).project_id
                limits.begin(project_id, 0)
                try:
                    return operation(world, request, project_id)
                finally:
                    limits.end(project_id)
            except ApiError as error:
                return refusal(store, error)

    return endpoint


def _list(world: World, request: Request, project_id: str) -> Response:
    now = world.store.clock()
    mine = [one for one in world.store.cohorts.values() if one.project_id == project_id]
    return answer({"cohorts": [_shown(one, now) for one in mine]})


def _usage(world: World, request: Request, project_id: str) -> Response:
    limit, now = world.store.options.cohort_downloads, world.store.clock()
    used = {"limit": limit, "usage": world.exports.used(project_id), "resets_at": to_timestamp(next_month(now))}
    return answer({"rest_download": used})


def _request(world: World, request: Request, project_id: str) -> Response:
    cohort = world.store.cohorts.get(str(request.path_params["cohort_id"]))
    if cohort is None or cohort.project_id != project_id:
        raise not_found("There is no such cohort in this project.")
    wanted = request.query_params.getlist("propKeys")
    if request.query_params.get("props", "0") not in ("0", "1"):
        raise bad_request("props is 0 or 1.")
    held = list(dict.fromkeys(name for one in cohort.users for name in one))
    every = [name for name in held if name not in ("amplitude_id", "user_id")]
    columns = (
        [name for name in every if name in wanted or not wanted] if request.query_params.get("props") == "1" else []
    )
    export = world.exports.begin(cohort, columns)
    return answer({"request_id": export.id, "cohort_id": cohort.id}, status=202)


def _status(world: World, request: Request, project_id: str) -> Response:
    export = world.exports.find(str(request.path_params["request_id"]), project_id)
    export.looks += 1
    done = world.exports.done(export)
    said = "JOB COMPLETED" if done else "JOB INPROGRESS"
    told = {"request_id": export.id, "cohort_id": export.cohort.id, "async_status": said}
    return answer(told, status=200 if done else 202)


def _file(world: World, request: Request, project_id: str) -> Response:
    export = world.exports.find(str(request.path_params["request_id"]), project_id)
    if not world.exports.done(export):
        raise bad_request("The request is not complete yet.")
    if len(export.users) <= world.store.options.cohort_inline:
        return Response(_as_csv(export), media_type="text/csv; charset=utf-8")
    host = f"{request.url.scheme}://{request.headers.get('host', 'localhost')}"
    signed = f"X-Amz-Expires={LINK_SECONDS}&X-Amz-Signature={world.exports.new_link(export)}"
    return Response(status_code=302, headers={"Location": f"{host}/cohort-files/{export.id}?{signed}"})


def _link(world: World) -> _Endpoint:
    async def endpoint(request: Request) -> Response:
        with world.store.lock:
            if "authorization" in request.headers:
                return _storage_error(400, "InvalidArgument", "Only one auth mechanism allowed")
            export = world.exports.all.get(str(request.path_params["request_id"]))
            until = export.links.get(request.query_params.get("X-Amz-Signature", "")) if export else None
            if export is None or until is None:
                return _storage_error(403, "SignatureDoesNotMatch", f"The signature of {request.url.query} is wrong")
            if world.store.clock() > until:
                return _storage_error(403, "AccessDenied", "Request has expired")
            return Response(_as_csv(export), media_type="text/csv; charset=utf-8")

    return endpoint


def _storage_error(status: int, code: str, text: str) -> Response:
    body = f'<?xml version="1.0" encoding="UTF-8"?>\n<Error><Code>{code}</Code><Message>{text}</Message></Error>'
    return Response(body, status, media_type="application/xml")


_OPERATIONS: dict[str, _Operation] = {
    "/api/3/cohorts": _list,
    "/api/3/cohorts/usage": _usage,
    "/api/5/cohorts/request/{cohort_id}": _request,
    "/api/5/cohorts/request-status/{request_id}": _status,
    "/api/5/cohorts/request/{request_id}/file": _file,
}
