"""What a request may hold. Nothing is sent for what it may not."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from airflow_amplitude_experiment.api import deployments, experiments, flags, mutexes, versions

from .builders import as_json, as_text, refused, send
from .samples import SEGMENT

CREATED = as_json({"id": 1})
CONDITION = SEGMENT["conditions"][0]
NOT_TEXTS = [None, 5, True, [], {}, b"x", "\ud800"]


def body_of(call: Any, answer: Any = None) -> Any:
    outcome = send(call, answer or CREATED)
    assert outcome.error is None, outcome.error
    return outcome.only.body


# --- percentages -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "sent"), [(0, 0), (100, 100), ("25", 25), (25.0, 25), ("25.0", 25), (" 7 ", 7), ("+5", 5), ("007", 7)]
)
def test_a_percentage_is_whole_however_it_is_written(given, sent):
    assert body_of(flags.update(1, rollout_percentage=given), as_text()) == {"rolloutPercentage": sent}


@pytest.mark.parametrize(
    "given",
    [-1, 101, "101", 0.5, "12.5", "", "ten", None, True, [], {}, "1e1", "1_0", "٢٥", "0x10", float("nan"),
     float("inf"), float("-inf"), 10**400, "9" * 5000, "nan", "25%", "--5", b"25"],
    ids=lambda given: repr(given)[:12],
)  # fmt: skip
def test_what_is_no_whole_percentage_is_refused(given):
    text = refused(lambda: flags.update(1, rollout_percentage=given))
    assert text.startswith("flags.update: rollout_percentage")
    assert len(text) < 250


def test_a_fraction_is_refused_with_the_reason():
    assert "steps of one percent" in refused(lambda: flags.update(1, rollout_percentage=12.5))


# --- texts -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("given", NOT_TEXTS, ids=repr)
@pytest.mark.parametrize("field", ["name", "description", "bucketing_key", "bucketing_salt", "bucketing_unit"])
def test_a_text_is_a_text_and_neither_a_number_nor_nothing(field, given):
    assert field in refused(lambda: flags.update(1, **{field: given}))


def test_a_description_may_be_empty_and_a_bucketing_key_not():
    assert body_of(flags.update(1, name="", description=""), as_text()) == {"name": "", "description": ""}
    refused(lambda: flags.update(1, bucketing_key=" "))


def test_unicode_goes_over_the_wire_as_it_is():
    assert body_of(flags.update(1, name="Käse 🎉 \u202e"), as_text()) == {"name": "Käse 🎉 \u202e"}


@pytest.mark.parametrize(("given", "sent"), [(True, True), (False, False), ("true", True), (" False ", False)])
def test_a_switch_is_true_or_false_also_as_a_rendered_text(given, sent):
    assert body_of(flags.update(1, enabled=given), as_text()) == {"enabled": sent}


@pytest.mark.parametrize("given", [None, 1, 0, "yes", "", "1", [], "truee"])
def test_nothing_else_is_a_switch(given):
    assert "true or false" in refused(lambda: flags.update(1, enabled=given))


# --- dates -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "sent"),
    [
        ("2026-07-31", "2026-07-31T00:00:00.000Z"),
        ("2026-07-31T10:26:00.996Z", "2026-07-31T10:26:00.996Z"),
        ("2026-07-31T10:26:00+02:00", "2026-07-31T08:26:00.000Z"),
        (datetime(2026, 7, 31, 10, tzinfo=UTC), "2026-07-31T10:00:00.000Z"),
        (datetime(2026, 7, 31, tzinfo=UTC).date(), "2026-07-31T00:00:00.000Z"),
    ],
)
def test_e5_dates_are_sent_as_utc_timestamps(given, sent):
    body = body_of(experiments.update(1, start_date=given, end_date=given), as_text())
    assert body == {"startDate": sent, "endDate": sent}


@pytest.mark.parametrize(
    "given", ["", "soon", "2026-13-01", "2026-02-30", "31.07.2026", "2026-07-31T10:26", 20260731, True, [],
              "0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00"]
)  # fmt: skip
def test_what_is_no_moment_is_refused(given):
    assert "end_date" in refused(lambda: experiments.update(1, end_date=given))
    assert "start" in refused(lambda: versions.list(start=given))


def test_e5_an_end_date_may_be_taken_away_and_a_start_date_not():
    assert body_of(experiments.update(1, end_date=None), as_text()) == {"endDate": None}
    assert "start_date" in refused(lambda: experiments.update(1, start_date=None))


# --- words -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "wrong"),
    [
        (lambda word: flags.update(1, evaluation_mode=word), "Local"),
        (lambda word: experiments.update(1, experiment_type=word), "hypothesis-testing"),
        (lambda word: experiments.update(1, decision=word), "make-decision"),
        (lambda word: deployments.create(project_id=1, label="x", type=word), "web"),
    ],
)
def test_a_word_that_the_api_does_not_have_is_refused_with_those_it_has(make, wrong):
    for given in (wrong, None, "", 1):
        assert "must be one of" in refused(lambda given=given: make(given))


@pytest.mark.parametrize("label", ["web", "web_2-B"])
def test_a_label_of_letters_digits_dash_and_underscore(label):
    assert body_of(deployments.update(1, label=label), as_text())["label"] == label


@pytest.mark.parametrize("label", ["", "a b", "a/b", "ü", "a\n", None, "web\u0000"])
def test_any_other_label_is_refused(label):
    assert "label" in refused(lambda: deployments.update(1, label=label))


# --- lists of people, cohorts, deployments -----------------------------------------------------------


@pytest.mark.parametrize("calls", [flags, experiments], ids=repr)
def test_2000_inclusions_go_in_one_call_and_2001_do_not(calls):
    ids = [f"user-{number}" for number in range(2001)]
    assert len(body_of(calls.add_users(1, "on", ids[:2000]), as_text())["inclusions"]) == 2000
    text = refused(lambda: calls.add_users(1, "on", ids))
    assert "2001 given" in text
    assert "user-" not in text.replace("user_", "")


@pytest.mark.parametrize("name", ["remove_users", "remove_cohorts"])
def test_100_are_removed_in_one_call_and_101_are_not(name):
    remove = getattr(flags, name)
    assert len(body_of(remove(1, "on", list(range(100))), as_text())["users"]) == 100
    assert "101 given" in refused(lambda: remove(1, "on", list(range(101))))


@pytest.mark.parametrize("name", ["add_users", "add_cohorts", "remove_users", "remove_cohorts"])
def test_a_list_of_nobody_is_refused(name):
    assert "at least 1" in refused(lambda: getattr(flags, name)(1, "on", []))
    assert "at least 1" in refused(lambda: flags.add_deployments(1, []))


@pytest.mark.parametrize(
    "wrong", ["alice@example.com", {"ids": 1}, None, 5, [None], [""], [" "], [True], [1.5], [["a"]]], ids=repr
)
@pytest.mark.parametrize("name", ["add_users", "add_cohorts", "remove_users", "remove_cohorts"])
def test_what_is_no_list_of_ids_is_refused_and_people_are_not_repeated(name, wrong):
    text = refused(lambda: getattr(flags, name)(1, "on", wrong))
    assert "ids" in text
    if name.endswith("users"):
        assert "alice" not in text


def test_ids_of_people_keep_every_character():
    ids = [" spaced ", "ü🎉", "a,b", '"quoted"', 0]
    assert body_of(flags.add_users(1, "on", ids), as_text())["inclusions"] == [*ids[:4], "0"]


def test_a_tuple_and_a_set_are_lists_too():
    assert body_of(flags.add_users(1, "on", ("b", "a")), as_text())["inclusions"] == ["b", "a"]
    assert body_of(flags.add_users(1, "on", {"b", "a"}), as_text())["inclusions"] == ["a", "b"]


@pytest.mark.parametrize("index", [-1, 1.5, "first", None, True, ""])
def test_a_position_is_a_whole_number_from_0(index):
    assert "user_index" in refused(lambda: flags.remove_user_at(1, "on", index))
    assert "slot_index" in refused(lambda: mutexes.update_slot(1, index, experiments=[]))
