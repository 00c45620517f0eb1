"""Reading a connection's extra, which arrives as JSON, as texts of a URI, or as the form sends it.

Nothing is guessed: an extra that can't be read, a value that can't be meant and a misspelt rule are errors,
because a rule that is misread protects nobody.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterable, Mapping
from difflib import get_close_matches
from typing import Any

from airflow_amplitude_experiment.api._checks import Check, boolean, one_of, percent

log = logging.getLogger(__name__)


def parsed(extra: str | None) -> dict[str, Any]:
    """Return the extra as a mapping.

    Airflow's own reading answers ``{}`` where the text is no JSON, and every rule in it would be gone.

    :raises ValueError: it is no JSON object.
    """
    if not (extra or "").strip():
        return {}
    try:
        found = json.loads(extra or "")
    except ValueError as error:
        raise ValueError(f"its extra is not JSON ({error}), so its rules can't be read") from None
    if not isinstance(found, dict):
        raise ValueError(f"its extra must be a JSON object, not a {type(found).__name__}")
    return found


def given_in(extra: Mapping[str, Any], name: str) -> bool:
    """Whether the extra says something; the form sends null or an empty text for a field that is left empty."""
    value = extra.get(name)
    return value is not None and not (isinstance(value, str) and not value.strip())


def refuse_misspelt(extra: Iterable[str]) -> None:
    """Refuse a field that looks like a rule and isn't one.

    :raises ValueError: names the rule that may be meant.
    """
    for given in extra:
        if (meant := _field_meant(given)) not in (given, None):
            raise ValueError(f"extra field {given!r} is unknown; {meant!r} may be meant")


def _field_meant(given: str) -> str | None:
    plain = str(given).lower().replace("-", "_").strip()
    return given if given in FIELDS else next(iter(get_close_matches(plain, FIELDS, n=1, cutoff=0.8)), None)


def for_way_down(extra: Mapping[str, Any]) -> dict[str, Any]:
    """Return what can be read of an extra, and warn of the rest: only a few fields may hold up a kill.

    :raises ValueError: one of those few is misspelt or can't be read.
    """
    kept = {}
    for name, value in extra.items():
        try:
            refuse_misspelt([name])
            if name in RULES and given_in(extra, name):
                RULES[name](name, value)
            elif name in NUMBERS:
                number(extra, name, 1.0)
        except ValueError as error:
            if _field_meant(name) in NEEDED_ON_THE_WAY_DOWN:
                raise
            log.warning("The connection's %s; a way down does not need it and goes on without", error)
        else:
            kept[name] = value
    return kept


def number(extra: Mapping[str, Any], name: str, default: float) -> float:
    """Read a number, where the form may leave it empty."""
    if not given_in(extra, name):
        return default
    value = extra[name]
    try:
        if isinstance(value, bool):
            raise TypeError
        return float(value)
    except (TypeError, ValueError):
        raise ValueError(f"extra field {name} is {value!r}, but must be a number") from None


def text(name: str, value: Any) -> str:
    """Read a text; an id may be given as a number."""
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise ValueError(f"extra field {name} is {value!r}, but must be a text")
    return str(value).strip()


def globs(name: str, value: Any) -> tuple[str, ...]:
    """Read globs given as a list, as JSON, or separated by commas or line breaks."""
    if isinstance(value, str):
        value = _list_in(name, value)
    if not isinstance(value, list) or not all(isinstance(glob, str) for glob in value):
        raise ValueError(f"extra field {name} must be globs, separated by commas or as a JSON list")
    found = tuple(glob.strip() for glob in value if glob.strip())
    if not found:
        raise ValueError(f"extra field {name} holds no glob; leave it out where nothing is restricted")
    return found


def _list_in(name: str, value: str) -> Any:
    if value.strip().startswith("[") and ('"' in value or value.strip() == "[]"):  # else a glob such as [ab]-*
        try:
            return json.loads(value)
        except ValueError as error:
            raise ValueError(f"extra field {name} starts like a JSON list and is none: {error}") from None
    return value.replace("\n", ",").split(",")


def _checked(check: Check) -> Callable[[str, Any], Any]:
    return lambda name, value: check(f"extra field {name}", value.strip() if isinstance(value, str) else value)


RULES: dict[str, Callable[[str, Any], Any]] = {
    "mode": _checked(one_of("write", "read_only")),
    "allow_keys": globs,
    "deny_keys": globs,
    "max_percentage": _checked(percent),
    "max_step": _checked(percent),
    "require_reason": _checked(boolean),
    "project_id": text,
    "environment": text,
    "organization": text,
}
"""What travels with a client, and how each is read."""

NUMBERS = ("timeout", "requests_per_second")
FIELDS = frozenset({*RULES, *NUMBERS, "region", "dialect"})
NEEDED_ON_THE_WAY_DOWN = frozenset({"mode", "project_id", "region", "dialect"})
