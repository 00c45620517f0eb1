"""One request to the API, after its key was accepted: what operations read their input from."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from starlette.responses import PlainTextResponse, Response

from . import shapes
from .bodies import check, read_json
from .errors import ApiError, bad_request
from .schemas import Schema
from .store import Json, Kind, ManagementKey, Store, Thing

LARGEST_PAGE = 1000


@dataclass
class Call:
    """A request by the holder of a management key."""

    store: Store
    key: ManagementKey
    path: Mapping[str, str]
    query: Mapping[str, Sequence[str]]
    raw_body: bytes
    base_url: str

    def body(self, schema: Schema) -> Json:
        """Return the JSON body.

        :raises ApiError: 400 if it is no JSON or does not fit the schema.
        """
        return check(read_json(self.raw_body), schema)

    def thing(self, kind: Kind) -> Thing:
        """Return the object that the path names."""
        return self.store.find(kind, self.path["id"], self.key)

    def text(self, name: str) -> str | None:
        """Return a query parameter.

        :raises ApiError: 400 if it is given twice.
        """
        values = self.query.get(name, ())
        if len(values) > 1:
            raise bad_request(f"{name} is given more than once.")
        return values[0] if values else None

    def flag(self, name: str) -> bool:
        """Return a query parameter that is ``true`` or ``false``."""
        text = self.text(name)
        if text not in (None, "true", "false"):
            raise bad_request(f"{name} is true or false.")
        return text == "true"

    def page(self, name: str, things: Sequence[Any], show: Callable[[Any], Json]) -> Response:
        """Answer one page of a list; the cursor is an offset."""
        text = self.text("cursor")
        try:
            start = 0 if text is None else shapes.read_cursor(text)
        except ValueError as error:
            raise bad_request("cursor is not one that this server gave.") from error
        end = start + self._limit()
        shown = [show(one) for one in things[start:end]]
        return answer(shapes.page(self.store, name, shown, end if end < len(things) else None))

    def _limit(self) -> int:
        text = self.text("limit")
        if text is None:
            return max(1, self.store.options.default_limit)
        digits = text.removeprefix("+")
        if not (digits.isascii() and digits.isdigit()) or not digits.strip("0"):
            raise bad_request("limit is a whole number from 1 to 1000.")
        # The documents promise a cap, not a refusal, for more than 1000.
        return LARGEST_PAGE if len(digits.lstrip("0")) > 4 else min(int(digits), LARGEST_PAGE)


Operation = Callable[[Call], Response]


def answer(content: Any, *, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """Answer with JSON. ASCII only, so that no text whatever can fail to be encoded."""
    body = json.dumps(content, separators=(",", ":"))
    return Response(body, status, media_type="application/json", headers=dict(headers or {}))


def ok() -> Response:
    """Answer as most writes do: the text ``OK``."""
    return PlainTextResponse("OK")


def patched(store: Store) -> Response:
    """Answer a PATCH whose body the documents leave open."""
    if store.options.patch_body == "empty":
        return Response(status_code=200)
    return answer({"result": "OK"}) if store.options.patch_body == "json" else ok()


def refusal(store: Store, error: ApiError) -> Response:
    """Answer with an error; the shape of its body is documented nowhere."""
    if store.options.error_body == "json":
        return answer({"error": {"message": error.message}}, status=error.status, headers=error.headers)
    text = error.message.encode("utf-8", "replace")
    return PlainTextResponse(text, error.status, headers=error.headers)
