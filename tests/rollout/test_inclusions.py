"""What a sync decides: who is added, who is removed, what is refused. Nothing is asked and nothing is sent here."""

from __future__ import annotations

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from airflow_amplitude_experiment.api import RolloutRefused
from airflow_amplitude_experiment.rollout import inclusions
from airflow_amplitude_experiment.rollout.inclusions import MAX_CHANGE, Change, difference
from tests.builders import a_flag, an_experiment

ids = st.lists(st.sampled_from([f"user {number}" for number in range(12)]), unique=True)
modes = st.sampled_from(["replace", "add", "remove"])


def a_change(add=0, remove=0, before=0):
    return Change(
        tuple(f"new {each}" for each in range(add)), tuple(f"old {each}" for each in range(remove)), before, 0
    )


@pytest.mark.parametrize(
    ("mode", "keep", "add", "remove", "kept"),
    [
        ("replace", [], ["c"], ["a"], 0),
        ("add", [], ["c"], [], 0),
        ("remove", [], [], ["b"], 0),
        ("replace", ["a", "z"], ["c"], [], 1),
        ("remove", ["b"], [], [], 1),
        ("add", ["a", "z"], ["c"], [], 0),
    ],
)
def test_each_mode_sends_its_difference_and_keeps_the_testers(mode, keep, add, remove, kept):
    change = difference(["a", "b"], ["b", "c"], mode=mode, keep=keep)
    assert (list(change.add), list(change.remove), change.kept) == (add, remove, kept)
    assert (change.before, change.after) == (2, 2 + len(add) - len(remove))


@given(present=ids, wanted=ids, keep=ids, mode=modes)
def test_what_is_sent_leads_to_what_is_wanted_and_a_second_time_to_nothing(present, wanted, keep, mode):
    change = difference(present, wanted, mode=mode, keep=keep)
    now = (set(present) - set(change.remove)) | set(change.add)
    assert (
        now
        == {
            "replace": set(wanted) | (set(present) & set(keep)),
            "add": set(present) | set(wanted),
            "remove": set(present) - (set(wanted) - set(keep)),
        }[mode]
    )
    assert len(now) == change.after
    assert difference(sorted(now), wanted, mode=mode, keep=keep).size == 0


@given(present=ids, wanted=ids, keep=ids, mode=modes, done=st.integers(0, 30), percent=st.integers(0, 100))
def test_a_share_that_lets_a_change_through_lets_through_what_a_crash_left_of_it(
    present, wanted, keep, mode, done, percent
):
    limit = MAX_CHANGE("max_change", f"{percent}%")
    change = difference(present, wanted, mode=mode, keep=keep)
    assume(change.size <= limit.allowed(change.before))
    removed, added = change.remove[:done], change.add[: max(0, done - len(change.remove))]
    rest = difference([*(set(present) - set(removed)), *added], wanted, mode=mode, keep=keep)
    inclusions.refuse_large_change("it", rest, limit, noun="user")


def test_an_id_that_is_there_twice_counts_once_and_a_blank_one_is_left_alone():
    change = difference(["a", "a", "", " "], ["b"], mode="replace")
    assert (change.before, change.remove, change.after) == (1, ("a",), 1)


def test_ids_stand_in_no_repr():
    assert "secret" not in f"{Change(('secret',), ('secret',), 1, 0)!r} {Change(('secret',), ('secret',), 1, 0)}"


@pytest.mark.parametrize(
    ("given_limit", "before", "allowed"),
    [
        (0, 10, 0),
        (250, 10, 250),
        ("250", 0, 250),
        ("10%", 45, 4),
        (" 2.3 % ", 1000, 23),
        ("100%", 7, 7),
        ("10%", 0, 0),
    ],
)
def test_a_limit_is_a_count_or_a_share_of_those_who_were_there(given_limit, before, allowed):
    assert MAX_CHANGE("max_change", given_limit).allowed(before) == allowed


@pytest.mark.parametrize("wrong", [True, 0.1, -1, "-1", "101%", "1.5", "ten", "", "10%%", None])
def test_a_limit_that_can_not_be_meant_is_refused_with_what_is_allowed(wrong):
    with pytest.raises(ValueError, match=r"max_change is .* '10%'"):
        MAX_CHANGE("max_change", wrong)


def test_a_change_above_the_limit_is_refused_with_the_counts():
    limit = MAX_CHANGE("max_change", "10%")
    inclusions.refuse_large_change("it", a_change(add=2, remove=2, before=40), limit, noun="user")
    with pytest.raises(RolloutRefused, match=r"5 users would change .*3 added, 2 removed.*max_change=10% allows 4"):
        inclusions.refuse_large_change("it", a_change(add=3, remove=2, before=40), limit, noun="user")


def test_the_first_fill_is_limited_by_a_count_and_no_share_of_anything():
    inclusions.refuse_large_change("it", a_change(add=500), MAX_CHANGE("max_change", 500), noun="user")
    with pytest.raises(RolloutRefused, match="no share: fill the variant once"):
        inclusions.refuse_large_change("it", a_change(add=500), MAX_CHANGE("max_change", "100%"), noun="user")


def test_2000_fit_one_more_does_not_and_the_way_out_is_named():
    inclusions.refuse_above_cap("it", a_change(add=100, remove=50, before=1950))
    with pytest.raises(RolloutRefused, match=r"2,001 users .*AmplitudeSyncVariantCohortsOperator"):
        inclusions.refuse_above_cap("it", a_change(add=101, remove=50, before=1950))


def test_nobody_is_kept_from_leaving_a_variant_that_is_too_full():
    inclusions.refuse_above_cap("it", a_change(remove=50, before=2500))


def test_whoever_is_in_another_variant_is_counted_for_each_and_not_named():
    others = {"b": ["u1", "u2", "x"], "c": ["u2"], "d": ["y"]}
    with pytest.raises(RolloutRefused, match=r"2 in 'b', 1 in 'c'") as refused:
        inclusions.refuse_elsewhere("it", ["u1", "u2", "u3"], others, noun="user")
    assert "u1" not in str(refused.value)
    inclusions.refuse_elsewhere("it", ["u3"], others, noun="user")


@pytest.mark.parametrize(
    ("found", "kind", "variants", "running"),
    [
        (an_experiment(), "experiment", ["control", "treatment"], True),
        (an_experiment(), "experiment", ["control"], False),
        (an_experiment(enabled=False), "experiment", ["control", "treatment"], False),
        (an_experiment(deleted=True), "experiment", ["control", "treatment"], False),
        (a_flag(), "flag", ["on", "b"], False),
    ],
)
def test_an_enabled_experiment_that_compares_variants_is_running(found, kind, variants, running):
    assert inclusions.is_running_experiment(kind, found, variants) is running


@pytest.mark.parametrize(
    ("given_id", "is_readable"),
    [
        ("a@b.co", True),
        ("first.last+tag@mail.example.com", True),
        ("a@b", False),
        ("@b.co", False),
        ("device-7", False),
    ],
)
def test_an_e_mail_address_is_recognised(given_id, is_readable):
    assert inclusions.readable([given_id]) == int(is_readable)


@pytest.mark.parametrize(("amount", "sizes"), [(0, []), (1, [1]), (100, [100]), (101, [100, 1]), (250, [100, 100, 50])])
def test_no_request_names_more_than_a_hundred(amount, sizes):
    chunks = list(inclusions.in_chunks([str(each) for each in range(amount)]))
    assert [len(each) for each in chunks] == sizes
    assert [each for chunk in chunks for each in chunk] == [str(each) for each in range(amount)]
