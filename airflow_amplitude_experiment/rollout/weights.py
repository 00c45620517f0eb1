"""Who moves between variants when weights or target segments change.

Pure. Amplitude cuts the allocated users into one interval a variant, in the order of the variants and as long as
their weights: a change of weights moves the borders, and everybody between an old and a new border.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from fractions import Fraction
from itertools import pairwise
from typing import Any

from .description import alike

Share = tuple[Fraction, str]


def moved_share(before: Mapping[str, float], after: Mapping[str, float], order: Sequence[str]) -> float:
    """Return the share of the allocated users, 0 to 1, who get another variant after a change of weights.

    Weights that are all 0 give nobody a variant; then everybody moves who has one before or after.

    :param before, after: weights by variant key; a variant that is not named has none.
    :param order: the keys of the variants, in Amplitude's order, which decides who sits beside whom.
    :raises ValueError: a variant that has a weight is missing from the order.
    """
    then, now = (list(_ends(weights, order)) for weights in (before, after))
    borders = sorted({Fraction(0), *(end for end, _ in then), *(end for end, _ in now)})
    moved = sum(
        (right - left for left, right in pairwise(borders) if _variant_at(left, then) != _variant_at(left, now)),
        Fraction(0),
    )
    return float(moved)


def changed_weights(before: Mapping[str, float], after: Mapping[str, int]) -> dict[str, int]:
    """Return the weights that are new, in the order in which to write them one by one.

    Those that rise come first, so that some variant has a weight at any moment.

    :param before, after: weights by variant key; a variant of ``after`` that is not in ``before`` has none there.
    """
    steps = {key: weight - before.get(key, 0) for key, weight in after.items()}
    return {key: after[key] for key in sorted(steps, key=lambda key: -steps[key]) if steps[key]}


def segments_move_users(found: Any, after: Sequence[Mapping[str, Any]]) -> bool:
    """Whether other target segments may give somebody another variant.

    They do not while the same conditions stand in the same order before the same weights and bucketing keys, nor
    where all of them, and the rest of the users, are split alike.

    :param after: the segments as they are to be, in the API's words.
    """
    was = [each.as_json() for each in found.target_segments or ()]
    pairs = list(zip(was, after, strict=False))
    same_people = len(was) == len(after) and all(_catch_alike(old, new) for old, new in pairs)
    if same_people and all(_split_alike(found, old, new) for old, new in pairs):
        return False
    rest = {"rolloutWeights": found.rollout_weights}
    return not all(_split_alike(found, rest, each) for each in (*was, *after))


def _catch_alike(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    return alike("conditions", one.get("conditions"), other.get("conditions"))


def _split_alike(found: Any, one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether two segments give a user the same variant; where one names no bucketing key, the object's counts."""
    keys = [each.get("bucketingKey") or found.bucketing_key for each in (one, other)]
    return keys[0] == keys[1] and alike("rolloutWeights", one.get("rolloutWeights"), other.get("rolloutWeights"))


def _ends(weights: Mapping[str, float], order: Sequence[str]) -> Iterator[Share]:
    """Yield where each variant's interval ends, and the variant; intervals begin at 0 or where the last one ends."""
    if missing := sorted(key for key, weight in weights.items() if weight and key not in order):
        raise ValueError(f"{missing[0]!r} has a weight, but is none of the variants {', '.join(order) or '(none)'}")
    parts = [(Fraction(weights.get(key, 0)), key) for key in order]
    total = sum((part for part, _ in parts), Fraction(0))
    end = Fraction(0)
    for part, key in parts:
        if part:
            end += part / total
            yield end, key


def _variant_at(place: Fraction, ends: Sequence[Share]) -> str | None:
    return next((key for end, key in ends if place < end), None)
