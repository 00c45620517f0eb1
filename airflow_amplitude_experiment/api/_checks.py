"""What a field of a request may hold.

Each check turns what a caller gave (or what a template rendered) into what the API takes, or says what is
allowed instead. They run before anything is sent, and at parse time for values that are known then, so they
are plain functions: building pydantic models in every DAG parse would cost milliseconds each.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable, Mapping
from datetime import UTC, date, datetime
from typing import Any, NamedTuple

log = logging.getLogger(__name__)

CONDITION_OPERATORS = (
    "is",
    "is not",
    "contains",
    "does not contain",
    "less",
    "less or equal",
    "greater",
    "greater or equal",
    "set is",
    "set is not",
    "set contains",
    "set does not contain",
    "glob match",
    "glob does not match",
)
EXPOSURE_OPERATORS = tuple(operator for operator in CONDITION_OPERATORS if not operator.startswith("set "))
INCLUSIONS_LIMIT = 2000
BULK_LIMIT = 100
MOST_PER_PAGE = 1000
SLOTS_LIMIT = 20


class WrongValue(ValueError):
    """A value that a field can't hold; the text says what is allowed."""


class Check(NamedTuple):
    """Turns a given value into the one to send. ``expected`` completes "must be …"."""

    expected: str
    convert: Callable[[Any], Any]
    private: bool = False

    def __call__(self, name: str, value: Any) -> Any:
        """Return the value to send.

        :raises WrongValue: names the field, what was given and what is allowed. What people are called
            (``private``) is not repeated.
        """
        try:
            return self.convert(value)
        except WrongValue as error:
            raise WrongValue(f"{name}: {error}") from None
        except (TypeError, ValueError, KeyError, OverflowError):
            given = f"a {type(value).__name__}" if self.private else short(value)
            raise WrongValue(f"{name} is {given}, but must be {self.expected}") from None


def short(value: Any) -> str:
    """Return a repr that fits in a log line."""
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def one_of(*allowed: str) -> Check:
    """Return a check for one of a few words."""

    def convert(value: Any) -> str:
        if value not in allowed:
            raise ValueError
        return str(value)

    return Check("one of " + ", ".join(repr(word) for word in allowed), convert)


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError
    value.encode()  # half a surrogate pair can't be sent
    return value


def _name(value: Any) -> str:
    if not _text(value).strip():
        raise ValueError
    return str(value)


def _boolean(value: Any) -> bool:
    if isinstance(value, bool):
        return value
    return {"true": True, "false": False}[_text(value).strip().lower()]


def whole(value: Any) -> int:
    """Return a whole number given as int, as a float without a fraction, or as rendered digits."""
    if isinstance(value, bool):
        raise TypeError
    if isinstance(value, str):
        if not re.fullmatch(r"[+-]?[0-9]{1,18}(\.[0-9]{1,18})?", value.strip()):
            raise ValueError
        value = float(value) if "." in value else int(value)
    if value != int(value):
        raise WrongValue(
            f"{value} has a fraction; Amplitude buckets users in steps of one percent, so it must be whole"
        )
    return int(value)


def _number(low: int, high: int | None) -> Callable[[Any], int]:
    def convert(value: Any) -> int:
        number = whole(value)
        if number < low or (high is not None and number > high):
            raise ValueError
        return number

    return convert


def _identifier(value: Any) -> str:
    return _person(value).strip()


def _numeric_id(value: Any) -> int:
    digits = _identifier(value)
    if not re.fullmatch(r"[0-9]+", digits):
        raise ValueError
    return int(digits)


def _person(value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise TypeError
    return _name(str(value))


def list_of(item: Check, *, least: int = 0, most: int | None = None) -> Check:
    """Return a check for a list of things that each pass ``item``."""

    def convert(value: Any) -> list[Any]:
        if not isinstance(value, list):
            raise TypeError
        if len(value) < least or (most is not None and len(value) > most):
            raise WrongValue(f"{len(value)} given, but at least {least} and at most {most or 'any number'} are allowed")
        return [item(f"item {index}", each) for index, each in enumerate(value)]

    bound = f" ({least} to {most})" if most else ""
    return Check(f"a list{bound}, each {item.expected}", convert, item.private)


def _weights(value: Any) -> dict[str, int]:
    if not isinstance(value, Mapping):
        raise TypeError
    weights = {name("variant key", key): weight(str(key), given) for key, given in value.items()}
    if not any(weights.values()):
        raise WrongValue(f"{short(value)} gives every variant the weight 0; nobody would get any variant")
    return weights


def timestamp(value: Any) -> str:
    """Return an ISO 8601 date or date-time as a UTC timestamp, as Amplitude's samples write it."""
    text = _text(value).strip()
    if re.fullmatch(r"\d{4}-\d\d-\d\d", text):
        moment = datetime.combine(date.fromisoformat(text), datetime.min.time(), UTC)
    else:
        moment = datetime.fromisoformat(text)
        if moment.tzinfo is None:
            raise WrongValue(f"{text!r} has no time zone; write {text}Z for UTC")
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _date_or_none(value: Any) -> str | None:
    return None if value is None else timestamp(value)


def _json(value: Any) -> Any:
    try:
        json.dumps(value, allow_nan=False, ensure_ascii=False).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise WrongValue(f"can't be written as JSON: {error}") from None
    return value


def _variant_key(value: Any) -> str:
    key = _name(value)
    if key == "off":
        raise WrongValue("'off' is reserved by Amplitude for users without a variant; use another name")
    if not re.fullmatch(r"[a-z0-9]+([-_][a-z0-9]+)*", key):
        log.warning("Variant key %r is not lower-case kebab or snake case, as Amplitude advises.", key)
    return key


def _label(value: Any) -> str:
    if not re.fullmatch(r"[A-Za-z0-9_-]+", _text(value)):
        raise ValueError
    return str(value)


def _holdout_percentage(value: Any) -> int:
    percentage = _number(1, 99)(value)
    if percentage > 10:
        log.warning("A holdout of %d %% is large; Amplitude advises 1 to 10 %%.", percentage)
    return percentage


def _archive_only(value: Any) -> bool:
    if not _boolean(value):
        raise ValueError
    return True


def _only(fields: Mapping[str, Check], required: tuple[str, ...] = ()) -> Callable[[Any], dict[str, Any]]:
    """Return a converter for an object with exactly these fields, given in snake_case or camelCase."""

    def convert(value: Any) -> dict[str, Any]:
        if not isinstance(value, Mapping):
            raise TypeError
        found: dict[str, Any] = {}
        for given, content in value.items():
            name = given if given in fields else camel(str(given))
            if name not in fields:
                raise WrongValue(f"field {given!r} is unknown; allowed: {', '.join(fields)}")
            if name in found:
                raise WrongValue(f"field {name!r} is given twice")
            found[name] = fields[name](str(given), content)
        if missing := [name for name in required if name not in found]:
            raise WrongValue(f"field {missing[0]!r} is missing")
        return found

    return convert


def _segment(*required: str) -> Callable[[Any], dict[str, Any]]:
    """Return what reads a segment, or those of its parts that are given."""
    read = _only(_SEGMENT_FIELDS, required)

    def convert(value: Any) -> dict[str, Any]:
        segment = read(value)
        everyone = segment.pop("everyone", False)
        if segment.get("conditions") == [] and not everyone:
            name = f" {segment['name']!r}" if "name" in segment else ""
            raise WrongValue(
                f"segment{name} has no conditions and would catch every user; "
                'add "everyone": True to it if that is meant'
            )
        return segment

    return convert


def _exposure_event(value: Any) -> dict[str, Any] | None:
    return None if value is None else _EXPOSURE_EVENT(value)


def _exposure_filter(value: Any) -> dict[str, Any]:
    found = _EXPOSURE_FILTER(value)
    if found["subprop_type"] not in ("event", "user", "group"):
        log.warning("Exposure filter subprop_type %r is not one of event, user, group.", found["subprop_type"])
    return {"group_type": "User", **found}


def _slots(value: Any) -> list[dict[str, Any]]:
    if not isinstance(value, list):
        raise TypeError
    if not 1 <= len(value) <= SLOTS_LIMIT:
        raise WrongValue(f"{len(value)} slots given; Amplitude takes 1 to {SLOTS_LIMIT}")
    slots = [slot(f"slot {index}", each) for index, each in enumerate(value, 1)]
    total = sum(each["percentage"] for each in slots)
    if total != 100:
        raise WrongValue(f"percentages sum to {total}, but must sum to 100; add an empty slot for the rest")
    people = [person for each in slots for person in each.get("individuals", ())]
    if len(people) != len(set(people)):
        raise WrongValue("a person stands in two slots; only the first would count")
    return slots


def refuse_local_amplitude_id(values: dict[str, Any]) -> dict[str, Any]:
    """Refuse local evaluation by Amplitude id, which local evaluation can't resolve (E15)."""
    allowed = values.pop("allow_local_amplitude_id", False)
    if not allowed and (values.get("evaluation_mode"), values.get("bucketing_key")) == (
        "local",
        "amplitude_id",
    ):
        raise WrongValue(
            "evaluation_mode 'local' with bucketing_key 'amplitude_id' gives everyone 'off', because local "
            "evaluation can't resolve Amplitude ids; bucket by user_id or device_id, "
            "or pass allow_local_amplitude_id=True"
        )
    return values


def camel(name: str) -> str:
    """Return ``rollout_percentage`` as ``rolloutPercentage``."""
    head, *tail = name.split("_")
    return head + "".join(part.capitalize() for part in tail)


text = Check("a text", _text)
name = Check("a text that is not empty", _name)
boolean = Check("true or false", _boolean)
percent = Check("a whole number from 0 to 100", _number(0, 100))
page_size = Check("a whole number from 1 to 1000", _number(1, MOST_PER_PAGE))
weight = Check("a whole number of 0 or more", _number(0, None))
weights = Check("a mapping of variant key to a whole number of 0 or more", _weights)
identifier = Check("an id (text or whole number)", _identifier)
numeric_id = Check("a numeric id", _numeric_id)
index = Check("a position, counted from 0", _number(0, None))
date_text = Check("an ISO 8601 date, or date and time with a time zone", timestamp)
date_or_none = Check("an ISO 8601 date, or date and time with a time zone, or None", _date_or_none)
payload = Check("a JSON value", _json)
variant_key = Check("a variant key", _variant_key)
evaluation_mode = one_of("local", "remote")
experiment_type = one_of("a-b-test", "multi-arm-bandit")
decision = one_of("rollout", "rollback", "continue-running")
deployment_type = one_of("client", "server")
label = Check("letters, digits, '_' and '-' only", _label)
tags = list_of(text)
identifiers = list_of(identifier)
attached = list_of(identifier, least=1)
numeric_ids = list_of(numeric_id)
person = Check("a user or device id (text or whole number, not empty)", _person, private=True)
people = list_of(person, least=1, most=INCLUSIONS_LIMIT)
people_removed = list_of(person, least=1, most=BULK_LIMIT)
people_listed = list_of(person)
cohorts = list_of(identifier, least=1)
cohorts_removed = list_of(identifier, least=1, most=BULK_LIMIT)

_condition = Check(
    "a condition {type, prop, op, values}",
    _only(
        {
            "type": one_of("property"),
            "prop": name,
            "op": one_of(*CONDITION_OPERATORS),
            "values": list_of(text),
        },
        ("type", "prop", "op", "values"),
    ),
)
_SEGMENT_FIELDS = {
    "name": name,
    "conditions": list_of(_condition),
    "percentage": percent,
    "rolloutWeights": weights,
    "bucketingKey": name,
    "everyone": boolean,
}
segments = list_of(
    Check(
        "a segment {name, conditions, percentage, rolloutWeights}",
        _segment("name", "conditions", "percentage", "rolloutWeights"),
    )
)
segments_in_part = list_of(Check("a segment {name, conditions, percentage, rolloutWeights}", _segment("name")))
segment_changes = Check("what changes in a segment {name, conditions, rolloutWeights, bucketingKey}", _segment())
variants = list_of(
    Check(
        "a variant {key, name, description, payload}",
        _only({"key": variant_key, "payload": payload, "name": text, "description": text}, ("key",)),
    ),
    least=1,
)
_EXPOSURE_FILTER = _only(
    {
        "group_type": text,
        "subprop_key": text,
        "subprop_op": one_of(*EXPOSURE_OPERATORS),
        "subprop_type": text,
        "subprop_value": list_of(text),
    },
    ("subprop_key", "subprop_op", "subprop_type", "subprop_value"),
)
_EXPOSURE_EVENT = _only(
    {
        "event_type": name,
        "filters": list_of(Check("a filter {subprop_key, subprop_op, subprop_type, subprop_value}", _exposure_filter)),
    },
    ("event_type", "filters"),
)
exposure_event = Check("an exposure event {event_type, filters}, or None", _exposure_event)
slot = Check(
    private=True,
    expected="a slot {percentage, experiments, holdouts, individuals}",
    convert=_only(
        {
            "percentage": Check("a whole number from 1 to 100", _number(1, 100)),
            "experiments": numeric_ids,
            "holdouts": numeric_ids,
            "individuals": people_listed,
        },
        ("percentage",),
    ),
)
slots = Check("a list of 1 to 20 slots whose percentages sum to 100", _slots, private=True)
holdout_percentage = Check("a whole number from 1 to 99", _holdout_percentage)
archive_only = Check("True: whether the API can restore a holdout group is contradictory", _archive_only)
