"""Durations as people write them, and what is refused of them."""

from __future__ import annotations

from datetime import timedelta

import pendulum
import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_amplitude_experiment.rollout.durations import duration, in_words

lengths = st.timedeltas(timedelta(0), timedelta(days=3650))


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("1h", 3_600),
        ("1d", 86_400),
        ("90m", 5_400),
        ("30s", 30),
        ("1d 12h", 129_600),
        ("1d12h", 129_600),
        ("2d 3h 4m 5s", 183_845),
        (" 1h ", 3_600),
        ("0h", 0),
        ("0.5s", 0.5),
        (90, 90),
        (0.25, 0.25),
        (timedelta(minutes=5), 300),
        (pendulum.duration(hours=2), 7_200),
    ],
)
def test_a_duration_is_read_as_it_is_written(text, seconds):
    assert duration(text, "settle") == timedelta(seconds=seconds)


@given(lengths)
def test_a_duration_in_words_is_read_back_the_same(length):
    assert duration(in_words(length), "settle") == length


@pytest.mark.parametrize(
    ("length", "words"),
    [
        (timedelta(0), "0s"),
        (timedelta(hours=36), "1d 12h"),
        (timedelta(minutes=90), "1h 30m"),
        (timedelta(days=20), "20d"),
        (timedelta(seconds=1.5), "1.5s"),
        (timedelta(hours=10, seconds=10), "10h 10s"),
    ],
)
def test_a_duration_is_written_in_few_words(length, words):
    assert in_words(length) == words


@pytest.mark.parametrize(
    "given",
    ["", "h", "1", "1w", "1.5h", "1h 1d", "1h 1h", "one hour", "1h, 2h", None, True, [], float("nan"), "9" * 5000],
)
def test_what_is_no_duration_is_refused_with_an_example(given):
    with pytest.raises(ValueError, match=r"^window=.* is not a duration\. Write .*'1d 12h', '90m' or '30s'"):
        duration(given, "window")


@pytest.mark.parametrize("given", ["-1h", "-1d 12h", "- 30s", -1, -0.5, timedelta(seconds=-1)])
def test_a_negative_duration_is_refused(given):
    with pytest.raises(ValueError, match=r"^settle=.* is negative"):
        duration(given, "settle")


@pytest.mark.parametrize("given", ["3651d", "999999999d", float("inf"), 10**12, timedelta.max])
def test_a_duration_of_more_than_ten_years_is_taken_for_a_slip(given):
    with pytest.raises(ValueError, match=r"^hold_for=.* is longer than ten years\. Is the unit right\?"):
        duration(given, "hold_for")


def test_a_refusal_stays_short_whatever_was_given():
    with pytest.raises(ValueError, match="is not a duration") as refusal:
        duration("x" * 10_000, "settle")
    assert len(str(refusal.value)) < 300


def test_a_pendulum_duration_leaves_as_a_plain_one():
    assert type(duration(pendulum.duration(days=1), "settle")) is timedelta
