"""How many people a change of weights moves: the figures of the reference, and what holds for all weights."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_amplitude_experiment.rollout.weights import moved_share

AB = ("a", "b")
ABC = ("a", "b", "c")
WEIGHTS = st.lists(st.integers(0, 5), min_size=3, max_size=3).map(lambda them: dict(zip(ABC, them, strict=True)))


@pytest.mark.parametrize(
    ("before", "after", "moved"),
    [
        ((1, 1), (3, 2), 0.10),
        ((1, 1, 1), (2, 1, 1), 0.25),
        ((1, 1), (3, 7), 0.20),  # straight to it ...
        ((1, 1), (3, 1), 0.25),  # ... or through here
        ((3, 1), (3, 7), 0.45),  # ... and on
        ((1, 1), (0, 1), 0.50),
        ((1, 1), (1, 0), 0.50),
        ((1, 0), (0, 1), 1.00),
    ],
)
def test_the_share_is_that_of_the_reference(before: tuple[int, ...], after: tuple[int, ...], moved: float) -> None:
    order = ABC[: len(before)]
    assert moved_share(dict(zip(order, before, strict=True)), dict(zip(order, after, strict=True)), order) == moved


@given(WEIGHTS, st.integers(1, 7))
def test_the_same_proportion_moves_nobody(weights: dict[str, int], times: int) -> None:
    assert moved_share(weights, {key: weight * times for key, weight in weights.items()}, ABC) == 0


@given(WEIGHTS, WEIGHTS)
def test_the_way_back_moves_as_many(before: dict[str, int], after: dict[str, int]) -> None:
    assert moved_share(before, after, ABC) == moved_share(after, before, ABC)


@given(WEIGHTS, WEIGHTS)
def test_it_is_the_share_of_single_users_who_change(before: dict[str, int], after: dict[str, int]) -> None:
    people = (sum(before.values()) or 1) * (sum(after.values()) or 1)  # so many that no border cuts one in two

    def variants(weights: dict[str, int]) -> list[str | None]:
        total = sum(weights.values())
        return [key for key in ABC for _ in range(weights[key] * people // total)] if total else [None] * people

    changes = Counter(then != now for then, now in zip(variants(before), variants(after), strict=True))
    assert moved_share(before, after, ABC) == pytest.approx(changes[True] / people)


def test_the_order_of_the_variants_decides_who_moves() -> None:
    before, after = {"a": 1, "b": 1, "c": 1}, {"a": 2, "b": 1, "c": 1}
    assert moved_share(before, after, ("a", "b", "c")) != moved_share(before, after, ("b", "a", "c"))


def test_a_variant_that_is_not_named_has_no_weight() -> None:
    assert moved_share({"a": 1, "b": 1}, {"a": 1}, AB) == moved_share({"a": 1, "b": 1}, {"a": 1, "b": 0}, AB)


def test_without_any_weight_nobody_has_a_variant_and_everybody_moves_once_there_is_one() -> None:
    assert moved_share({"a": 0, "b": 0}, {"a": 1, "b": 1}, AB) == 1
    assert moved_share({"a": 0}, {}, AB) == 0


def test_a_weight_for_an_unknown_variant_is_refused() -> None:
    with pytest.raises(ValueError, match="'c' has a weight, but is none of the variants a, b"):
        moved_share({"a": 1}, {"c": 1}, AB)
