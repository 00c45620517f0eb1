"""Turning an HTTP answer into what the call promised, or into the one error that fits.

The reference leaves much open here (contradictions B1, B2, D1 to D7, C17), so each kind of answer has one
reader, and what no reader recognises is an error, never a success.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import lru_cache
from typing import Any, Generic, TypeVar

from pydantic import BaseModel, TypeAdapter, ValidationError
from pydantic_core import from_json

from . import _beta, models
from ._call import Dialect, Endpoint
from .errors import cut

T = TypeVar("T")
A_DAY = 86_400.0
LONGEST_CURSOR = 1000


class Unreadable(Exception):
    """An answer that isn't what the reference describes."""


@dataclass(frozen=True, slots=True)
class Rows(Generic[T]):
    """One page of a list whose objects are read one by one, as they are taken; they can be taken once.

    A page of 1,000 takes some 20 ms to read whole, in which an event loop would do nothing else.
    """

    items: Iterator[T]
    next_cursor: str | None
    nothing_sent: bool

    def __iter__(self) -> Iterator[T]:
        return self.items


def read(endpoint: Endpoint, arguments: Mapping[str, Any], content: bytes, content_type: str, dialect: Dialect) -> Any:
    """Return what a successful answer holds.

    :raises Unreadable: HTML, truncated, or of another shape than documented.
    """
    if "html" in content_type.lower() or content.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"<"):
        raise Unreadable("an HTML page")
    return _READERS[endpoint.answer](endpoint, arguments, content, dialect)


def failure_text(status: int, content: bytes, headers: Mapping[str, str]) -> str:
    """Return what an answer says that isn't a success."""
    if status < 400:
        target = cut(headers.get("location", "another place"), 100)
        return f"a redirect to {target}, which is not followed, so that the key stays here"
    return _error_text(content).strip() or "no text"


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Return the seconds that ``Retry-After`` asks for, given as seconds or as an HTTP date; at most a day."""
    given = headers.get("retry-after", "").strip()
    if re.fullmatch(r"[0-9]+(\.[0-9]+)?", given):
        return min(float(given), A_DAY)
    try:
        moment = parsedate_to_datetime(given)
        moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
        seconds = (moment - datetime.now(UTC)).total_seconds()
    except (TypeError, ValueError, IndexError, OverflowError):  # what email.utils raises for odd texts
        return None
    return min(max(0.0, seconds), A_DAY)


def _error_text(content: bytes) -> str:
    """Return an error body as text: its message where it is JSON, tags removed where it is HTML (D5)."""
    text = content.decode("utf-8", "replace")
    if text.lstrip().startswith("<"):
        return re.sub(r"(?s)<(script|style)\b.*?(</\1>|$)|<[^>]*(>|$)", " ", text)
    try:
        body = json.loads(text)
    except (ValueError, RecursionError):
        return text
    if isinstance(body, dict):
        for name in ("message", "error", "detail"):
            if isinstance(body.get(name), str):
                return str(body[name])
    return json.dumps(body, ensure_ascii=False)


def _json(content: bytes) -> Any:
    try:
        return from_json(content)  # takes two thirds of the time of json.loads
    except ValueError:
        pass  # json.loads takes more: a mark of byte order, half a surrogate pair, deeper nesting
    try:
        return json.loads(content)
    except (ValueError, RecursionError):
        raise Unreadable(f"{len(content)} bytes that are not JSON, or cut off") from None


@lru_cache
def _adapter(model: str, many: bool) -> TypeAdapter[Any]:
    cls: type[BaseModel] = getattr(models, model)
    return TypeAdapter(list[cls] if many else cls)  # type: ignore[valid-type]


def _validated(model: str, data: Any, *, many: bool) -> Any:
    try:
        return _adapter(model, many).validate_python(data)
    except ValidationError as error:
        raise _of_another_shape(model, error) from None


def _of_another_shape(model: str, error: ValidationError, *above: int) -> Unreadable:
    first = error.errors(include_input=False, include_url=False)[0]
    where = ".".join(str(part) for part in (*above, *first["loc"])) or "the whole"
    return Unreadable(f"not the documented shape of {model}: {where}: {first['msg']}")


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


def _page(endpoint: Endpoint, arguments: Mapping[str, Any], content: bytes, _: Dialect) -> Rows[Any]:
    data = _json(content)
    if not isinstance(data, dict) or not isinstance(data.get(endpoint.items), list):
        raise Unreadable(f"no list {endpoint.items!r} in the answer")
    marker = "version" if endpoint.model == "Version" else "id"
    elements = data[endpoint.items]
    listed = [each for each in elements if isinstance(each, dict) and marker in each]
    rows = _one_by_one(endpoint.model, listed)
    for wanted in _filters(endpoint, arguments):
        rows = filter(wanted, rows)
    return Rows(rows, _cursor(data, elements), nothing_sent=not listed)


def _one_by_one(model: str, listed: list[dict[str, Any]]) -> Iterator[Any]:
    read = _adapter(model, many=False).validator.validate_python
    for place, data in enumerate(listed):
        try:
            yield read(data)
        except ValidationError as error:
            raise _of_another_shape(model, error, place) from None


def _cursor(data: Mapping[str, Any], elements: list[Any]) -> str | None:
    """Return the next cursor: beside the list, or, as one sample has it, as an element of it (B1, B2)."""
    inside = [each for each in elements if isinstance(each, dict) and set(each) == {"nextCursor"}]
    cursor = data.get("nextCursor", inside[0]["nextCursor"] if inside else None)
    if isinstance(cursor, bool) or not isinstance(cursor, str | int | float | None):
        raise Unreadable("a nextCursor that is neither text nor number")
    if isinstance(cursor, float) and cursor.is_integer():
        cursor = int(cursor)
    text = "" if cursor is None else str(cursor)
    if len(text) > LONGEST_CURSOR or not text.isprintable() or (text and not text.strip()):
        raise Unreadable(f"a nextCursor of {len(text)} characters that can't be sent back")
    return text or None


def _filters(endpoint: Endpoint, arguments: Mapping[str, Any]) -> list[Callable[[Any], bool]]:
    """Return the filters of a list, to apply here too: whether ``key`` matches in part is not documented (B8).

    Some lists have no filters at all (B9, B11, the beta), and a list shows ``deleted`` only sometimes (E3).
    """
    filters: list[Callable[[Any], bool]] = []
    if "key" in arguments:
        filters.append(lambda row: row.key == arguments["key"])
    if "project_id" in arguments:
        own = (arguments["project_id"], None)
        filters.append(lambda row: getattr(row, "flag_config", row).project_id in own)
    shown_by_default = "include_archived" in endpoint.local  # as the API does where it has no such filter
    if "include_archived" in endpoint.fields and not arguments.get("include_archived", shown_by_default):
        filters.append(lambda row: not row.deleted)
    return filters


def _ok(_: Endpoint, __: Mapping[str, Any], content: bytes, dialect: Dialect) -> None:
    """Accept OK, and an object that tells of no error; what the beta answers here is not documented."""
    if dialect == "beta" or content.strip().strip(b'"').upper() in (b"OK", b""):
        return
    try:
        data = _json(content)
    except Unreadable:
        raise Unreadable(f"{len(content)} bytes of text instead of OK") from None
    if not isinstance(data, dict) or data.keys() & {"error", "errors"}:
        raise Unreadable("JSON instead of OK")


def _anything(_: Endpoint, __: Mapping[str, Any], ___: bytes, ____: Dialect) -> None:
    """Ignore the body: the reference does not say what it is (D4)."""


def _with_payloads(data: list[Any], endpoint: Endpoint, dialect: Dialect) -> list[Any]:
    """Read the beta's payloads, which are texts that hold JSON."""
    if dialect != "beta" or endpoint.model != "Variant":
        return data
    return [{**each, "payload": _beta.payload(each["payload"])} if _has_payload(each) else each for each in data]


def _has_payload(variant: Any) -> bool:
    return isinstance(variant, dict) and "payload" in variant


_READERS: dict[str, Callable[[Endpoint, Mapping[str, Any], bytes, Dialect], Any]] = {
    "object": _object,
    "array": _array,
    "ids": _ids,
    "page": _page,
    "ok": _ok,
    "anything": _anything,
}
