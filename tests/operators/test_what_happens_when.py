"""The rows of docs/what-happens-when.md that need days to pass, or a fault at one certain moment.

The tasks of a real rollout in a simulated Airflow against the emulator; what only a real Airflow can show is in
tests/e2e/test_what_happens_when.py.
"""

from __future__ import annotations

from contextlib import contextmanager
from datetime import datetime, timedelta
from itertools import pairwise

import pytest
from airflow.providers.common.compat.sdk import AirflowTaskTimeout
from airflow.sdk import DAG

from airflow_amplitude_experiment.api import _retry
from airflow_amplitude_experiment.rollout import RolloutPlan, staged_rollout
from tests.builders import a_segment
from tests.rollout.simulation import simulated

KEY = "new-checkout"
PLAN = "10% 2h, 50% 2h, 100% 2h"
BAKE, TWO_DAYS = timedelta(hours=2), timedelta(days=2)
A_SECOND = timedelta(seconds=1)
"""Records hold moments without their fraction of a second."""

WATCH_10, RAMP_50 = "rollout.to_10.watch", "rollout.to_50.ramp"


class Guard:
    """The guardrail; a test says what it answers, or what it raises."""

    def __init__(self):
        self.answer = "pass"
        self.asked = 0

    def __call__(self):
        self.asked += 1
        if isinstance(self.answer, BaseException):
            raise self.answer
        return self.answer


class Rollout:
    """A rollout under way, its flag, its guard, and what happens around it."""

    def __init__(self, airflow, amplitude, guard):
        self.airflow, self.amplitude, self.guard = airflow, amplitude, guard

    def until_asleep(self, task_id=WATCH_10):
        """Let it run until a task waits."""
        for _ in range(200):
            if self.airflow.instances[task_id].state == "deferred":
                return self
            assert self.airflow.step(), self.airflow.states
        raise AssertionError(f"{task_id} never waits: {self.airflow.states}")

    def finish(self):
        self.airflow.finish()
        return self

    def edit(self, **fields):
        """Change the flag as somebody does in the app."""
        self.amplitude.change(KEY, by="somebody@example.com", **fields)

    def pass_by(self, time):
        """Let time pass in which Airflow does nothing."""
        self.airflow._clock.shift(time)

    def clear_from(self, task_id):
        """Clear a task and all below it, as a person does, and let them run."""
        below = self.airflow.dag.get_task(task_id).get_flat_relative_ids(upstream=False)
        self.airflow.clear(task_id, *below)
        self.finish()

    @property
    def flag(self):
        return self.amplitude.flag(KEY)

    @property
    def stands(self):
        return self.flag["rolloutPercentage"]

    @property
    def written(self):
        return [each.body["rolloutPercentage"] for each in self.airflow.writes]

    @property
    def verdict(self):
        """What the watch at 10 % said."""
        return self.airflow.instances[WATCH_10].xcom_pull(WATCH_10, "verdict")

    @property
    def failed(self):
        return [task_id for task_id, state in self.airflow.states.items() if state == "failed"]

    @property
    def rolled_back(self):
        return {"success": True, "skipped": False}[self.airflow.states["rollback"]]


def a_dag(plan, *guards, **options):
    def errors():
        return guards[0]()

    def latency():
        return guards[1]()

    guardrails = [errors, latency][: len(guards)]
    with DAG("release", schedule=None) as dag:
        staged_rollout(
            flag_key=KEY, plan=RolloutPlan.parse(plan), guardrails=guardrails, **{"check_every": "30m", **options}
        )
    return dag


@pytest.fixture
def under_way(amplitude_emulator, monkeypatch):
    """Start rollouts of one flag at 0 %."""
    monkeypatch.setattr(_retry, "_wait", lambda state: 0.0)
    amplitude_emulator.add_flag(KEY, enabled=True, rolloutPercentage=0)

    @contextmanager
    def start(plan=PLAN, **options):
        guard = Guard()
        with simulated(a_dag(plan, guard, **options), amplitude_emulator) as airflow:
            yield Rollout(airflow, amplitude_emulator, guard)

    return start


# --- the scheduler, the triggerer or everything is down for two days ---


@pytest.mark.parametrize("steps", range(12))
def test_down_for_two_days_at_any_point_no_stage_is_skipped_and_none_shortened(under_way, steps):
    with under_way() as rollout:
        for _ in range(steps):
            rollout.airflow.step()
        rollout.pass_by(TWO_DAYS)
        rollout.finish()
        assert rollout.written == [10, 50, 100]
        assert not rollout.failed
        moments = [each.moment for each in rollout.airflow.writes]
        assert all(later - earlier > BAKE - A_SECOND for earlier, later in pairwise(moments))


def test_what_went_wrong_meanwhile_is_found_by_the_late_look_and_rolled_back(under_way):
    with under_way() as rollout:
        rollout.until_asleep()
        rollout.guard.answer, rollout.guard.asked = "breach", 0
        rollout.pass_by(TWO_DAYS)
        rollout.finish()
        assert rollout.guard.asked == 1
        assert rollout.written == [10, 0]
        assert rollout.failed == ["to_10.watch"]


def test_a_watch_whose_worker_died_begins_anew_and_its_bake_ends_when_it_would_have(under_way):
    with under_way() as rollout:
        rollout.until_asleep()
        rollout.pass_by(timedelta(minutes=90))
        rollout.airflow.clear(WATCH_10)
        rollout.finish()
        first, second, _ = [each.moment for each in rollout.airflow.writes]
        assert BAKE - A_SECOND < second - first < BAKE + A_SECOND


# --- somebody edits in the app ---

WEIGHTS = {"variants": [{"key": "on", "rolloutWeight": 1}, {"key": "late", "rolloutWeight": 1}]}


@pytest.mark.parametrize(
    "edit",
    [
        {"rolloutPercentage": 20},
        {"rolloutPercentage": 5},
        {"rolloutPercentage": 0},
        {"enabled": False},
        WEIGHTS,
        {"bucketingKey": "device_id"},
        {"targetSegments": [a_segment()]},
        {"archive": True},
    ],
    ids=str,
)
def test_an_edit_that_decides_who_gets_what_is_left_as_it_is_and_the_next_ramp_fails(under_way, edit):
    with under_way() as rollout:
        rollout.until_asleep()
        rollout.edit(**edit)
        edited = rollout.flag
        rollout.finish()
        assert rollout.failed == ["to_50.ramp"]
        assert rollout.written == [10]
        assert rollout.rolled_back is False
        assert rollout.flag == edited


@pytest.mark.parametrize("edit", [{"name": "Checkout 2"}, {"description": "words"}, {"tags": ["q4"]}], ids=str)
def test_names_words_and_tags_are_nobodys_business(under_way, edit):
    with under_way() as rollout:
        rollout.until_asleep()
        rollout.edit(**edit)
        rollout.finish()
        assert rollout.written == [10, 50, 100]
        assert not rollout.failed


def test_an_edit_is_noticed_by_the_next_ramp_not_by_a_watch(under_way):
    with under_way() as rollout:
        rollout.until_asleep()
        asked = len(rollout.airflow.sent)
        rollout.edit(rolloutPercentage=20)
        rollout.until_asleep()
        while rollout.airflow.states["to_10.watch"] != "success":
            rollout.airflow.step()
        assert len(rollout.airflow.sent) == asked
        rollout.finish()
        assert rollout.failed == ["to_50.ramp"]


@pytest.mark.parametrize("on_drift", ["continue", "overwrite"])
def test_a_percentage_between_two_stages_is_refused_whatever_on_drift_says(under_way, on_drift):
    with under_way(on_drift=on_drift) as rollout:
        rollout.until_asleep()
        rollout.edit(rolloutPercentage=20)
        rollout.finish()
        assert (rollout.failed, rollout.written) == (["to_50.ramp"], [10])


@pytest.mark.parametrize(
    ("on_drift", "failed", "written"),
    [
        ("fail", ["to_50.ramp"], [10]),
        ("continue", ["to_100.ramp"], [10]),
        ("overwrite", [], [10, 50, 100]),
    ],
)
def test_a_percentage_above_the_next_stage_goes_by_on_drift(under_way, on_drift, failed, written):
    with under_way(on_drift=on_drift) as rollout:
        rollout.until_asleep()
        rollout.edit(rolloutPercentage=70)
        rollout.finish()
        assert (rollout.failed, rollout.written) == (failed, written)


def test_after_an_edit_in_the_last_stage_the_run_still_ends_well(under_way):
    with under_way() as rollout:
        rollout.until_asleep("rollout.to_100.watch")
        rollout.edit(rolloutPercentage=30)
        rollout.finish()
        assert not rollout.failed
        assert rollout.stands == 30


def test_a_percentage_set_to_a_later_stage_by_hand_counts_as_that_stage(under_way):
    with under_way() as rollout:
        rollout.until_asleep()
        rollout.edit(rolloutPercentage=100)
        by_hand = datetime.fromisoformat(rollout.flag["lastModifiedAt"])
        rollout.finish()
        assert rollout.written == [10]
        assert not rollout.failed
        assert rollout.airflow.now - by_hand > BAKE - A_SECOND


def test_a_percentage_that_was_lowered_and_set_back_in_the_app_is_gone_on_from_where_the_ramp_is_cleared(under_way):
    with under_way() as rollout:
        rollout.until_asleep()
        rollout.edit(rolloutPercentage=5)
        rollout.finish()
        rollout.edit(rolloutPercentage=10)
        rollout.clear_from(RAMP_50)
        assert rollout.written == [10, 50, 100]


def test_a_flag_that_was_disabled_is_not_gone_on_from_although_it_is_on_again(under_way):
    with under_way() as rollout:
        rollout.until_asleep()
        rollout.edit(enabled=False)
        rollout.finish()
        rollout.edit(enabled=True)
        rollout.clear_from(RAMP_50)
        assert (rollout.failed, rollout.written) == (["to_50.ramp"], [10])


def test_what_is_gone_down_is_left_by_a_rollback(under_way):
    with under_way() as rollout:
        rollout.until_asleep()
        rollout.edit(enabled=False)
        rollout.guard.answer = "breach"
        rollout.finish()
        assert rollout.written == [10]
        assert rollout.airflow.states["rollback"] == "success"
        assert rollout.stands == 10


# --- the plan is edited while a run is under way ---


def edited(rollout, plan):
    """Put another plan into the DAG file; the run goes on with it."""
    rollout.airflow.dag = a_dag(plan, rollout.guard)


def test_a_bake_made_longer_while_it_is_watched_is_watched_for_longer(under_way):
    with under_way() as rollout:
        rollout.until_asleep()
        edited(rollout, "10% 5h, 50% 2h, 100% 2h")
        rollout.finish()
        first, second, _ = [each.moment for each in rollout.airflow.writes]
        assert abs(second - first - timedelta(hours=5)) < A_SECOND


def test_a_bake_made_shorter_while_it_is_watched_ends_at_the_next_look(under_way):
    with under_way(check_every="90m") as rollout:
        rollout.until_asleep()
        edited(rollout, "10% 30m, 50% 2h, 100% 2h")
        rollout.finish()
        first, second, _ = [each.moment for each in rollout.airflow.writes]
        assert abs(second - first - timedelta(minutes=90)) < A_SECOND


def test_a_guardrail_that_is_added_is_asked_at_the_next_look(under_way):
    with under_way() as rollout:
        rollout.until_asleep()
        new = Guard()
        rollout.airflow.dag = a_dag(PLAN, rollout.guard, new)
        rollout.airflow.step()
        assert new.asked == 1


# --- two runs on one flag ---


def test_two_runs_that_began_at_the_same_moment_write_each_stage_once(under_way, amplitude_emulator):
    with under_way() as rollout:
        one = rollout.airflow
        one.step()
        assert one.states["begin"] == "success"
        with simulated(a_dag(PLAN, rollout.guard), amplitude_emulator) as other:
            other.finish()
            assert [each.body["rolloutPercentage"] for each in other.writes] == [10, 50, 100]
        one.finish()
        assert one.writes == []
        assert not rollout.failed


# --- the freeze ---


def test_while_it_is_frozen_nothing_goes_up_and_guards_go_on_and_it_is_noticed_within_5_minutes_when_it_ends(under_way):
    with under_way() as rollout:
        rollout.until_asleep()
        rollout.airflow.frozen = True
        for _ in range(100):
            rollout.airflow.step()
        assert rollout.guard.asked > 10
        assert rollout.written == [10]
        rollout.airflow.frozen = False
        thawed = rollout.airflow.now
        rollout.finish()
        assert rollout.written == [10, 50, 100]
        assert rollout.airflow.writes[1].moment - thawed <= timedelta(minutes=5) + A_SECOND


def test_a_breach_long_after_the_bake_while_it_is_frozen_is_rolled_back(under_way):
    with under_way() as rollout:
        rollout.until_asleep()
        rollout.airflow.frozen = True
        for _ in range(100):
            rollout.airflow.step()
        rollout.guard.answer = "breach"
        rollout.finish()
        assert rollout.written == [10, 0]


def test_a_breach_while_it_is_frozen_is_rolled_back(under_way):
    with under_way() as rollout:
        rollout.until_asleep()
        rollout.airflow.frozen = True
        rollout.guard.answer = "breach"
        rollout.finish()
        assert rollout.written == [10, 0]


# --- Amplitude is down, or its quota is used up ---


def test_amplitude_down_during_a_ramp_is_tried_again_and_written_once(under_way):
    with under_way() as rollout:
        rollout.airflow.step()
        rollout.amplitude.fault("status", status=503, times=8)
        rollout.finish()
        assert rollout.airflow.instances["rollout.to_10.ramp"].try_number == 3
        assert rollout.written.count(50) == 1
        assert rollout.stands == 100


def test_amplitude_down_for_longer_than_a_ramp_tries_fails_the_run_where_it_stands(under_way):
    with under_way() as rollout:
        rollout.until_asleep()
        rollout.amplitude.fault("status", status=503, times=None)
        rollout.finish()
        assert (rollout.failed, rollout.stands, rollout.rolled_back) == (["to_50.ramp"], 10, False)
        rollout.amplitude.clear_faults()
        rollout.clear_from(RAMP_50)
        assert rollout.stands == 100
        assert not rollout.failed


def test_a_days_quota_used_up_during_a_ramp_is_waited_for_and_uses_up_no_try(under_way, monkeypatch):
    monkeypatch.setattr(_retry, "PATIENCE", 0.0)
    with under_way() as rollout:
        rollout.until_asleep()
        rollout.amplitude.fault("rate_limit", times=None)
        while rollout.airflow.states["to_50.ramp"] != "deferred":
            rollout.airflow.step()
        assert (rollout.failed, rollout.stands, rollout.written) == ([], 10, [10])
        rollout.amplitude.clear_faults()
        rollout.finish()
        assert rollout.airflow.instances["rollout.to_50.ramp"].try_number == 1
        assert (rollout.failed, rollout.stands, rollout.rolled_back) == ([], 100, False)


def test_amplitude_down_while_a_stage_is_watched_is_not_even_noticed(under_way):
    with under_way() as rollout:
        rollout.until_asleep()
        rollout.amplitude.fault("status", status=503, times=None)
        while rollout.airflow.states["to_10.watch"] != "success":
            rollout.airflow.step()
        rollout.amplitude.clear_faults()
        rollout.finish()
        assert rollout.written == [10, 50, 100]


# --- a warehouse that does not answer ---


def test_a_source_that_fails_during_the_bake_and_is_back_at_its_end_holds_nothing_up(under_way):
    with under_way() as rollout:
        rollout.until_asleep()
        rollout.guard.answer = ConnectionError("the warehouse")
        for _ in range(3):
            rollout.airflow.step()
        assert rollout.guard.asked == 3
        rollout.guard.answer = "pass"
        rollout.finish()
        assert rollout.written == [10, 50, 100]


def test_a_source_that_does_not_come_back_holds_the_stage_and_then_fails_the_run_where_it_stands(under_way):
    with under_way(hold_for="3h") as rollout:
        rollout.until_asleep()
        rollout.guard.answer = ConnectionError("the warehouse")
        rollout.finish()
        assert (rollout.failed, rollout.written, rollout.rolled_back) == (["to_10.watch"], [10], False)
        assert rollout.verdict["verdict"] == "no_data"
        held = rollout.airflow.now - rollout.airflow.writes[0].moment
        assert abs(held - timedelta(hours=5)) < A_SECOND


def test_a_query_cut_by_execution_timeout_is_no_verdict(under_way):
    with under_way() as rollout:
        rollout.until_asleep()
        rollout.guard.answer = AirflowTaskTimeout("Timeout")
        with pytest.raises(AirflowTaskTimeout):
            rollout.airflow.step()
        assert rollout.verdict is None


# --- the audit log can't be written ---


def test_without_the_audit_log_nothing_goes_up_and_a_breach_still_goes_down(under_way, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("not a folder")
    with under_way() as rollout:
        rollout.until_asleep()
        monkeypatch.setenv("AIRFLOW__AMPLITUDE_EXPERIMENT__AUDIT_PATH", f"file://{tmp_path}/file/audit")
        rollout.finish()
        assert (rollout.failed, rollout.written, rollout.rolled_back) == (["to_50.ramp"], [10], False)
        rollout.guard.answer = "breach"
        rollout.airflow.clear(WATCH_10, "rollout.rollback")
        rollout.finish()
        assert rollout.written == [10, 0]


# --- a breach ---


def test_a_breach_marked_successful_is_a_breach_again_at_the_first_look_of_the_next_stage(under_way):
    with under_way(on_breach="hold") as rollout:
        rollout.until_asleep()
        rollout.guard.answer = "breach"
        rollout.finish()
        assert (rollout.failed, rollout.written) == (["to_10.watch"], [10])
        rollout.guard.answer = "pass"
        rollout.airflow.instances[WATCH_10].state = "success"
        rollout.clear_from(RAMP_50)
        assert (rollout.failed, rollout.written) == (["to_50.watch"], [10, 50])


# --- the past ---


def test_a_backfill_over_ten_past_days_writes_nothing_and_asks_nothing(under_way):
    with under_way() as rollout:
        for _ in range(10):
            rollout.airflow.begin_run("backfill")
            rollout.finish()
            assert set(rollout.airflow.states.values()) == {"skipped"}
        assert rollout.airflow.sent == []
