"""Law 9: what was taken down since a run began is noticed."""

from __future__ import annotations

import pytest

from airflow_amplitude_experiment.rollout.history import last_change, stopped_since
from tests.builders import RUN_AFTER, a_flag, a_segment, a_version, an_experiment


def stopped(*versions, found=None, **options):
    return stopped_since(versions, RUN_AFTER, found or a_flag(rolloutPercentage=10), **options)


def a_ramp(before, after, **fields):
    """The record of a ramp of this run."""
    return {"before": before, "after": after, "segment": None, "switched_on": False, "written": True, **fields}


def test_a_flag_that_only_rose_was_not_stopped():
    assert stopped(a_version(1, -5, 0), a_version(2, 1, 5), a_version(3, 2, 10)) is None


def test_a_percentage_that_was_higher_since_the_run_began_is_a_stop():
    how = stopped(a_version(1, -5, 0), a_version(2, 1, 50), a_version(3, 2, 10))
    assert how is not None
    assert "stood at 50 % in version 2 (by x@example.com at " in how


def test_the_version_in_force_when_the_run_began_counts():
    assert "50 %" in (stopped(a_version(1, -5, 50), a_version(2, 2, 10)) or "")


def test_what_was_higher_before_the_run_began_does_not_count():
    assert stopped(a_version(1, -5, 90), a_version(2, -1, 10)) is None


def test_switching_off_since_the_run_began_is_a_stop():
    how = stopped(a_version(1, -5, 10), a_version(2, 1, 10, enabled=False))
    assert how is not None
    assert "disabled in version 2" in how


def test_an_object_that_was_never_on_was_not_switched_off():
    assert stopped(a_version(1, 1, 0, enabled=False), a_version(2, 2, 10)) is None
    assert stopped(a_version(1, -9, 0, enabled=False), found=a_flag(enabled=False, rolloutPercentage=0)) is None


def test_off_and_on_again_is_still_a_stop():
    assert stopped(a_version(1, -1, 10), a_version(2, 1, 10, enabled=False), a_version(3, 2, 10))


@pytest.mark.parametrize(("explained", "is_stop"), [(0, True), (1, True), (2, False), (3, False)])
def test_versions_without_a_percentage_must_be_explained_by_this_runs_own_writes(explained, is_stop):
    history = [a_version(1, -1), a_version(2, 1), a_version(3, 2)]
    assert bool(stopped(*history, found=an_experiment(), own=[a_ramp(0, 10)] * explained)) is is_stop


@pytest.mark.parametrize(
    "record",
    [
        a_ramp(0, 10, switched_on=True),
        a_ramp(0, 10, segment="Beta testers"),
        a_ramp(10, 10),
        {"created": True, "enabled": True},
        {"adopted": True, "updated": []},
    ],
)
def test_a_write_that_shows_in_the_versions_explains_no_other(record):
    assert stopped(a_version(1, -1), a_version(2, 1), found=an_experiment(), own=[record])


def test_what_an_update_of_a_live_experiment_wrote_unseen_is_explained():
    record = {"adopted": True, "updated": ["tags"], "enabled": True}
    assert stopped(a_version(1, -1), a_version(2, 1), found=an_experiment(), own=[record]) is None


def test_what_was_changed_while_it_was_off_took_nothing_from_anybody():
    """A create's second call, tags, who is included: all before the run switches it on."""
    history = [a_version(1, 1, enabled=False), a_version(2, 2, enabled=False), a_version(3, 3, enabled=False)]
    assert stopped(*history, found=an_experiment(enabled=False)) is None
    assert stopped(*history, a_version(4, 4), found=an_experiment()) is None


@pytest.mark.parametrize("record", [{"created": True, "enabled": False}, {"updated": ["tags"], "enabled": False}])
def test_what_was_written_while_it_was_off_hides_no_lowering_later(record):
    history = [a_version(1, 1, enabled=False), a_version(2, 2, enabled=False), a_version(3, 3), a_version(4, 4)]
    assert "somebody may have lowered it" in (stopped(*history, found=an_experiment(), own=[record]) or "")


def test_a_lowering_that_this_run_was_asked_for_is_not_somebodys_stop():
    history = [a_version(1, -5, 50), a_version(2, 1, 0), a_version(3, 2, 10)]
    assert stopped(*history) is not None
    assert stopped(*history, own=[a_ramp(50, 0)]) is None
    assert stopped(*history, a_version(4, 3, 80), a_version(5, 4, 10), own=[a_ramp(50, 0)]) is not None


def test_a_switch_off_before_the_run_counts_where_nobody_started_the_run():
    history = [a_version(1, -9, 10), a_version(2, -5, 10, enabled=False)]
    found = a_flag(enabled=False)
    assert stopped(*history, found=found) is None
    assert "disabled in version 2" in (stopped(*history, found=found, ever_switched_off=True) or "")


@pytest.mark.parametrize("found", [a_flag, an_experiment])
def test_a_segment_that_was_lowered_is_a_stop(found):
    stands = found(targetSegments=[a_segment("Beta", 0)])
    was = a_version(1, -1, targetSegments=[a_segment("Beta", 80)])
    now = a_version(2, 1, targetSegments=[a_segment("Beta", 0)])
    assert "stood at 80 %" in (stopped(was, now, found=stands, segment="Beta") or "")
    assert stopped(was, now, found=stands, segment="Other") is None


@pytest.mark.parametrize(
    ("versions", "says"),
    [
        (
            (a_version(1, 0, 10), a_version(2, 1, 60)),
            "version 2 (by x@example.com at 2026-11-20T13:00:00+00:00): 10 % -> 60 %.",
        ),
        ((a_version(1, 0, 10), a_version(2, 1, 10, enabled=False)), ": disabled."),
        ((a_version(1, 0),), "Its last change is version 1 (by"),
        ((), ""),
    ],
)
def test_the_last_change_is_put_into_words(versions, says):
    assert says in last_change(versions)
    assert bool(says) is bool(last_change(versions))


def test_a_visible_change_of_an_experiment_is_not_taken_for_one_of_the_percentage():
    assert stopped(a_version(1, -1, name="a"), a_version(2, 1, name="b"), found=an_experiment()) is None


def test_versions_come_in_any_order():
    assert stopped(a_version(3, 2, 10), a_version(1, -5, 0), a_version(2, 1, 50))


def test_an_object_without_versions_was_not_stopped():
    assert stopped() is None
