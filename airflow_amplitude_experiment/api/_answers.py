"""Turning an HTTP answer into what the call promised, or into the one error that fits.

The reference leaves much open here (contradictions B1, B2, D1 to D7, C17), so each kind of answer has one
reader, and what no reader recognises is an error, never a success.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import lru_cache
from typing import Any

from pydantic import BaseModel, TypeAdapter, ValidationError

from . import models
from ._call import Dialect, Endpoint
from .errors import AmplitudeError, AmplitudeUnexpectedAnswer, cut, error_class
from .models import Page


class Unreadable(Exception):
    """An answer that isn't what the reference describes."""


def read(endpoint: Endpoint, arguments: Mapping[str, Any], content: bytes, content_type: str, dialect: Dialect) -> Any:
    """Return what a successful answer holds.

    :raises Unreadable: HTML, truncated, or of another shape than documented.
    """
    if "html" in content_type.lower() or content.lstrip()[:1] == b"<":
        raise Unreadable("an HTML page")
    return _READERS[endpoint.answer](endpoint, arguments, content, dialect)


def failure(status: int, content: bytes, headers: Mapping[str, str], **request: Any) -> AmplitudeError:
    """Return the error for a status that isn't a success. ``request`` names method, path and the like."""
    if status < 400:
        target = cut(headers.get("location", ""), 100)
        text = f"a redirect{' to ' + target if target else ''}, which is not followed, so that the key stays here"
        return AmplitudeUnexpectedAnswer(text, status=status, **request)
    text = _error_text(content) or "no text"
    return error_class(status)(text, status=status, retry_after=retry_after(headers), **request)


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Return the seconds that ``Retry-After`` asks for, given as seconds or as an HTTP date."""
    given = headers.get("retry-after", "").strip()
    if re.fullmatch(r"\d+(\.\d+)?", given):
        return float(given)
    try:
        moment = parsedate_to_datetime(given)
    except (TypeError, ValueError):
        return None
    moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return max(0.0, (moment - datetime.now(UTC)).total_seconds())


def _error_text(content: bytes) -> str:
    """Return an error body as text: its message where it is JSON, tags removed where it is HTML (D5)."""
    text = content.decode("utf-8", "replace")
    if text.lstrip().startswith("<"):
        return re.sub(r"<[^>]*>", " ", re.sub(r"(?s)<(script|style).*?</\1>", " ", text))
    try:
        body = json.loads(text)
    except ValueError:
        return text
    if isinstance(body, dict):
        for name in ("message", "error", "detail"):
            if isinstance(body.get(name), str):
                return str(body[name])
    return text


def _json(content: bytes) -> Any:
    try:
        return json.loads(content)
    except ValueError:
        raise Unreadable(f"not JSON (or cut off) after {len(content)} bytes") from None


@lru_cache
def _adapter(model: str, many: bool) -> TypeAdapter[Any]:
    cls: type[BaseModel] = getattr(models, model)
    return TypeAdapter(list[cls] if many else cls)  # type: ignore[valid-type]


def _validated(model: str, data: Any, *, many: bool) -> Any:
    try:
        return _adapter(model, many).validate_python(data)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or "the whole"
        raise Unreadable(f"not the documented shape of {model}: {where}: {first['msg']}") from None


def _object(endpoint: Endpoint, _: Mapping[str, Any], content: bytes, dialect: Dialect) -> Any:
    data = _json(content)
    if not isinstance(data, dict):
        raise Unreadable(f"a JSON {type(data).__name__} instead of an object")
    return _validated(endpoint.model, _with_payloads([data], endpoint, dialect)[0], many=False)


def _array(endpoint: Endpoint, _: Mapping[str, Any], content: bytes, dialect: Dialect) -> Any:
    data = _json(content)
    if not isinstance(data, list):
        raise Unreadable(f"a JSON {type(data).__name__} instead of an array")
    return _validated(endpoint.model, _with_payloads(data, endpoint, dialect), many=True)


def _ids(_: Endpoint, __: Mapping[str, Any], content: bytes, dialect: Dialect) -> list[str]:
    data = _json(content)
    if dialect == "beta" and isinstance(data, dict):
        lists = [value for value in data.values() if isinstance(value, list)]
        data = lists[0] if len(lists) == 1 else data
    if not isinstance(data, list) or any(isinstance(each, bool) or not isinstance(each, str | int) for each in data):
        raise Unreadable("not an array of ids")
    return [str(each) for each in data]


def _page(endpoint: Endpoint, arguments: Mapping[str, Any], content: bytes, _: Dialect) -> Page[Any]:
    data = _json(content)
    if not isinstance(data, dict) or not isinstance(data.get(endpoint.items), list):
        raise Unreadable(f"no list {endpoint.items!r} in the answer")
    marker = "version" if endpoint.model == "Version" else "id"
    elements = data[endpoint.items]
    listed = [each for each in elements if isinstance(each, dict) and marker in each]
    found = _validated(endpoint.model, listed, many=True)
    return Page(_filtered(found, endpoint, arguments), _cursor(data, elements), nothing_sent=not listed)


def _cursor(data: Mapping[str, Any], elements: list[Any]) -> str | None:
    """Return the next cursor: beside the list, or, as one sample has it, as an element of it (B1, B2)."""
    inside = [each for each in elements if isinstance(each, dict) and set(each) == {"nextCursor"}]
    cursor = data.get("nextCursor", inside[0]["nextCursor"] if inside else None)
    if isinstance(cursor, bool) or not isinstance(cursor, str | int | float | None):
        raise Unreadable("a nextCursor that is neither text nor number")
    if isinstance(cursor, float) and cursor.is_integer():
        cursor = int(cursor)
    return str(cursor) if cursor is not None and cursor != "" else None


def _filtered(found: list[Any], endpoint: Endpoint, arguments: Mapping[str, Any]) -> list[Any]:
    """Apply the filters of a list here too: whether ``key`` matches in part is not documented (B8).

    The beta has no filters at all, and a list shows ``deleted`` only sometimes (E3).
    """
    if "key" in arguments:
        found = [each for each in found if each.key == arguments["key"]]
    if "project_id" in arguments:
        wanted = str(arguments["project_id"])
        found = [each for each in found if each.project_id in (wanted, None)]
    if "include_archived" in endpoint.fields and not arguments.get("include_archived"):
        found = [each for each in found if not each.deleted]
    return found


def _created(endpoint: Endpoint, arguments: Mapping[str, Any], content: bytes, dialect: Dialect) -> Any:
    return _object(endpoint, arguments, content, dialect)


def _ok(_: Endpoint, __: Mapping[str, Any], content: bytes, ___: Dialect) -> None:
    if content.strip().strip(b'"').upper() not in (b"OK", b""):
        try:
            json.loads(content)
        except ValueError:
            raise Unreadable(f"{len(content)} bytes of text instead of OK") from None


def _anything(_: Endpoint, __: Mapping[str, Any], ___: bytes, ____: Dialect) -> None:
    """Ignore the body: the reference does not say what it is (D4)."""


def _with_payloads(data: list[Any], endpoint: Endpoint, dialect: Dialect) -> list[Any]:
    """Read the beta's payloads, which are texts that hold JSON."""
    if dialect != "beta" or endpoint.model != "Variant":
        return data
    return [{**each, "payload": _payload(each.get("payload"))} if isinstance(each, dict) else each for each in data]


def _payload(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except ValueError:
        return value


_READERS: dict[str, Callable[[Endpoint, Mapping[str, Any], bytes, Dialect], Any]] = {
    "object": _object,
    "array": _array,
    "ids": _ids,
    "page": _page,
    "created": _created,
    "ok": _ok,
    "anything": _anything,
}
