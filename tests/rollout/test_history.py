"""Law 9: what was taken down since a run began is noticed."""

from __future__ import annotations

import pytest

from airflow_amplitude_experiment.rollout.history import stopped_since
from tests.builders import RUN_AFTER, a_flag, a_version, an_experiment


def stopped(*versions, found=None, explained=0):
    return stopped_since(versions, RUN_AFTER, found or a_flag(rolloutPercentage=10), explained=explained)


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
    assert bool(stopped(*history, found=an_experiment(), explained=explained)) is is_stop


def test_a_visible_change_of_an_experiment_is_not_taken_for_one_of_the_percentage():
    assert stopped(a_version(1, -1, name="a"), a_version(2, 1, name="b"), found=an_experiment()) is None


def test_versions_come_in_any_order():
    assert stopped(a_version(3, 2, 10), a_version(1, -5, 0), a_version(2, 1, 50))


def test_an_object_without_versions_was_not_stopped():
    assert stopped() is None
