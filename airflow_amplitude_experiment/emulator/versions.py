"""The history of one object, and the feed of all changes."""

from __future__ import annotations

from datetime import datetime

from starlette.responses import Response

from . import shapes
from .call import Call, Operation, answer
from .clock import parse_moment
from .errors import bad_request, not_found
from .store import TOGGLES, Kind, Thing, Version


def listing(kind: Kind) -> Operation:
    """``GET /flags/{id}/versions``: a bare array, the newest first."""

    def operation(call: Call) -> Response:
        thing = call.thing(kind)
        return answer([shapes.version(call.store, thing, one) for one in reversed(thing.versions)])

    return operation


def details(kind: Kind) -> Operation:
    """``GET /flags/{id}/versions/{versionId}``: the id is the number of the version."""

    def operation(call: Call) -> Response:
        thing = call.thing(kind)
        for one in thing.versions:
            if str(one.number) == call.path["versionId"]:
                return answer(shapes.version(call.store, thing, one))
        raise not_found("There is no version with this number.")

    return operation


def feed(call: Call) -> Response:
    """``GET /versions``: flags and experiments of every project of the key, from ``start`` until before ``end``."""
    start, end = _moment(call, "start"), _moment(call, "end")
    found: list[tuple[Thing, Version]] = [
        (thing, version)
        for thing in call.store.newest_first(*TOGGLES)
        if thing.project_id in call.key.projects
        for version in thing.versions
        if _within(parse_moment(version.created_at), start, end)
    ]
    found.sort(key=lambda pair: (pair[1].created_at, pair[1].order), reverse=True)
    return call.page("versions", found, lambda pair: shapes.version(call.store, *pair))


def _within(moment: datetime, start: datetime | None, end: datetime | None) -> bool:
    return (start is None or moment >= start) and (end is None or moment < end)


def _moment(call: Call, name: str) -> datetime | None:
    text = call.text(name)
    try:
        return None if text is None else parse_moment(text)
    except ValueError as error:
        raise bad_request(f"{name} is an ISO 8601 timestamp.") from error
