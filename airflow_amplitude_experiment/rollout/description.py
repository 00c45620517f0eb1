"""What a task describes, and where an object stands otherwise.

Pure. Only what the caller described is compared; a field that was left out is nobody's business here. What is
written differently and means the same is no difference: weights 1:1 and 50:50, a date and a moment of that day,
conditions in another order.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

from airflow_amplitude_experiment.api._checks import camel, short

UNSERVED_ONLY = frozenset(
    {
        "variants",
        "rollout_weights",
        "evaluation_mode",
        "bucketing_key",
        "bucketing_salt",
        "bucketing_unit",
        "sticky_bucketing",
        "experiment_type",
        "segments.rolloutWeights",
        "segments.bucketingKey",
    }
)
"""What moves users between variants, and so may change only while nobody was ever served (law 5)."""

_WORDS = {"variants.keys": "variants", "segments.names": "target_segments, in their order"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What a task describes. Only fields that the caller gave, in the API's words, checked.

    :param post: fields that a create takes.
    :param patch: fields that only the second call takes.
    """

    kind: Literal["flag", "experiment"]
    key: str
    post: Mapping[str, Any]
    patch: Mapping[str, Any]

    def __str__(self) -> str:
        return f"{self.kind} {self.key}"


@dataclass(frozen=True, slots=True)
class Difference:
    """One thing that is described one way and stands another.

    :param name: the argument, or ``variants.<part>`` and ``segments.<part>``.
    :param of: the variant's key or the segment's name.
    :param shown: false where Amplitude's answers don't tell what is there.
    """

    name: str
    given: Any
    there: Any
    of: str = ""
    shown: bool = True

    @property
    def argument(self) -> str:
        """The argument of the operator that it belongs to."""
        whole = self.name.split(".")[0]
        return "target_segments" if whole == "segments" else whole

    @property
    def moves_users(self) -> bool:
        """Whether bringing it in line could move users between variants."""
        return self.name in UNSERVED_ONLY or self.argument in UNSERVED_ONLY

    def __str__(self) -> str:
        whole, _, part = self.name.partition(".")
        words = f"{whole.removesuffix('s')} {self.of!r}, {part}" if self.of else _WORDS.get(self.name, self.name)
        there = f"there {short(self.there)}" if self.shown else "and Amplitude does not show what is there"
        return f"{words}: given {short(self.given)}, {there}"


def differences(
    wanted: Wanted, found: Any, *, variants: Sequence[Any] | None = None, moved: bool = False
) -> list[Difference]:
    """Compare the described fields of a create with an object.

    :param found: the object as just read.
    :param variants: its variants in full, where :func:`needs_variants` asks for them.
    :param moved: ramps may have moved the percentages of its segments, so these are not compared.
    """
    there = found.as_json()
    different: list[Difference] = []
    for name, given in wanted.post.items():
        shown = camel(name) in there
        if name == "variants":
            different += _variants(given, found, variants)
        elif name == "target_segments" and shown:
            different += _segments(given, there["targetSegments"] or [], moved=moved)
        elif not shown or not alike(name, given, there[camel(name)]):
            different.append(Difference(name, given, there.get(camel(name)), shown=shown))
    return different


def needs_variants(wanted: Wanted, found: Any) -> bool:
    """Whether the variants have to be read in full: lists and details show their keys only."""
    described = {part for variant in wanted.post.get("variants", ()) for part in variant}
    shown = [variant.as_json().keys() for variant in found.variants or ()]
    return bool(described) and (found.variants is None or any(described - parts for parts in shown))


def second_call(wanted: Wanted, found: Any) -> list[Difference]:
    """Compare the fields that only the second call takes. Where tags are not shown, none are taken to be there."""
    there = found.as_json()
    different = []
    for name, given in wanted.patch.items():
        shown = camel(name) in there
        if (name == "tags" and not given and not shown) or (shown and alike(name, given, there[camel(name)])):
            continue
        different.append(Difference(name, given, there.get(camel(name)), shown=shown))
    return different


def alike(name: str, given: Any, there: Any) -> bool:
    """Whether two values of a field mean the same."""
    meaning = _MEANING.get(name, _itself)
    return bool(meaning(given) == meaning(there))


def moment_of(text: Any) -> datetime | None:
    """Read a date or moment as the API writes it, in UTC; ``None`` where it is neither."""
    try:
        moment = datetime.fromisoformat(text)
    except (TypeError, ValueError):
        return None
    return moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC)


def _variants(given: Sequence[Mapping[str, Any]], found: Any, full: Sequence[Any] | None) -> list[Difference]:
    keys, present = [variant["key"] for variant in given], full if full is not None else found.variants
    if present is None:
        return [Difference("variants.keys", keys, None, shown=False)]
    there = {variant.key: variant.as_json() for variant in present}
    different = [] if set(keys) == set(there) else [Difference("variants.keys", keys, list(there))]
    for variant in given:
        old = there.get(variant["key"])
        for part in ("name", "description", "payload"):
            if old is None or part not in variant:
                continue
            shown = full is not None or part in old
            if not shown or not alike(part, variant[part], old.get(part)):
                different.append(Difference(f"variants.{part}", variant[part], old.get(part), variant["key"], shown))
    return different


def _segments(
    given: Sequence[Mapping[str, Any]], there: Sequence[Mapping[str, Any]], *, moved: bool
) -> list[Difference]:
    names, standing = [each["name"] for each in given], [each.get("name") for each in there]
    different = [] if names == standing else [Difference("segments.names", names, standing)]
    by_name = {each.get("name"): each for each in there}
    counterparts = there if names == standing else [by_name.get(name, {}) for name in names]
    for segment, old in zip(given, counterparts, strict=True):
        for part in ("conditions", "percentage", "rolloutWeights", "bucketingKey"):
            if not old or part not in segment or (part == "percentage" and moved):
                continue
            if not alike(part, segment[part], old.get(part)):
                different.append(Difference(f"segments.{part}", segment[part], old.get(part), segment["name"]))
    return different


def _itself(value: Any) -> Any:
    return value


def _text(value: Any) -> Any:
    return value or ""


def _shares(weights: Mapping[str, Any] | None) -> dict[str, float]:
    """Return what weights mean: the share of each variant that gets any traffic."""
    total = sum((weights or {}).values())
    return {key: round(weight / total, 9) for key, weight in (weights or {}).items() if weight}


def _payload(value: Any) -> str:
    """Return a payload to compare; ``{}`` and null both mean none (A11), and true is not 1."""
    return "none" if value is None or value == {} else f"json {json.dumps(value, sort_keys=True)}"


def _conditions(conditions: Sequence[Mapping[str, Any]] | None) -> list[str]:
    """Return conditions to compare. All of them must hold, and each for any of its values: no order matters."""
    ordered = [{**each, "values": sorted(map(str, each.get("values") or ()))} for each in conditions or ()]
    return sorted(json.dumps(each, sort_keys=True) for each in ordered)


def _day(text: Any) -> Any:
    """Return the UTC day of a date or moment (E5); what can't be read is compared as it is."""
    return moment.date() if (moment := moment_of(text)) else text


def _texts(values: Any) -> set[str]:
    return {str(each) for each in values or ()}


_MEANING: dict[str, Callable[[Any], Any]] = {
    "name": _text,
    "description": _text,
    "payload": _payload,
    "rollout_weights": _shares,
    "rolloutWeights": _shares,
    "conditions": _conditions,
    "deployments": _texts,
    "tags": _texts,
    "evaluation_mode": lambda value: str(value).lower(),
    # What older objects hold is an A/B test today (E1).
    "experiment_type": lambda value: "a-b-test" if value in ("hypothesis-testing", "no-harm") else value,
    "start_date": _day,
    "end_date": _day,
}
