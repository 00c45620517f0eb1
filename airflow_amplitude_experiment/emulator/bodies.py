"""Reading a request body: from bytes to JSON that fits a schema, or a 400 that says why not."""

from __future__ import annotations

import json
import math
from typing import Any

from jsonschema import Draft202012Validator, FormatChecker  # type: ignore[import-untyped]

from .clock import parse_moment
from .errors import bad_request
from .schemas import Schema

_FORMATS = FormatChecker(formats=())
_VALIDATORS: dict[int, Any] = {}


def _is_moment(value: object) -> bool:
    return not isinstance(value, str) or parse_moment(value) is not None


_FORMATS.checks("moment", raises=ValueError)(_is_moment)


def read_json(raw: bytes) -> Any:
    """Parse a body strictly: UTF-8, one JSON value, every number finite.

    :raises ApiError: 400 where it is not.
    """
    try:
        return json.loads(raw.decode("utf-8"), parse_constant=_refuse, parse_float=_finite)
    except (ValueError, RecursionError) as error:
        raise bad_request("The body is not valid JSON.") from error


def check(body: Any, schema: Schema) -> dict[str, Any]:
    """Return the body if it fits the schema.

    :raises ApiError: 400 that names the first field that does not fit.
    """
    validator = _VALIDATORS.get(id(schema))
    if validator is None:
        validator = _VALIDATORS[id(schema)] = Draft202012Validator(schema, format_checker=_FORMATS)
    problem = next(validator.iter_errors(body), None)
    if problem is not None:
        where = ".".join(str(part) for part in problem.absolute_path) or "body"
        raise bad_request(f"{where}: {problem.message[:300]}")
    checked: dict[str, Any] = body
    return checked


def _refuse(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text} is too large")
    return number
