"""A day's quota that is used up: a ramp gives its slot back until Amplitude answers, and no kill switch waits for it.

The DAG is in a hurry: its client gives up after two seconds instead of a minute, and its first look comes after six
instead of 300. What then happens is Airflow's and ours as always.
"""

from __future__ import annotations

from typing import Any

import pytest

from demo.airflow_rest import wait_until

pytestmark = pytest.mark.e2e

DAG = """
from datetime import timedelta
from airflow.sdk import DAG
from airflow_amplitude_experiment.api import _retry
from airflow_amplitude_experiment.operators import AmplitudeKillSwitchOperator, AmplitudeRampRolloutOperator, _quota

_retry.PATIENCE = 2.0
_quota.after_failure = lambda moment, failures, error: moment + timedelta(seconds=6)

with DAG("quota", schedule=None):
    AmplitudeRampRolloutOperator(task_id="ramp", flag_key="checkout-nav", percentage=50)
with DAG("quota_kill", schedule=None):
    AmplitudeKillSwitchOperator(task_id="kill", keys=["checkout-bad"], kind="flag")
"""
PATIENCE = 180.0


def test_a_ramp_waits_without_a_slot_and_a_try_until_amplitude_answers_and_a_kill_switch_does_not(place: Any) -> None:
    airflow, amplitude = place.airflow, place.amplitude
    for key in ("checkout-nav", "checkout-bad"):
        amplitude.add_flag(key, enabled=True, rolloutPercentage=10)
    place.add_dag("quota", DAG)
    airflow.wait_for_dag("quota_kill")
    airflow.unpause("quota_kill")
    amplitude.fault("rate_limit", times=None)

    ramp, kill = airflow.trigger("quota"), airflow.trigger("quota_kill")

    def deferred() -> bool | None:
        return airflow.task_states("quota", ramp)["ramp"] == "deferred" or None

    wait_until(deferred, PATIENCE, "the ramp was not deferred")
    assert airflow.task_states("quota_kill", kill)["kill"] in ("queued", "running")
    amplitude.clear_faults()

    assert airflow.wait_for_run("quota_kill", kill)["state"] == "success"
    assert airflow.wait_for_run("quota", ramp, PATIENCE)["state"] == "success"
    assert place.tries("quota", ramp) == {"ramp": 1}
    assert amplitude.flag("checkout-nav")["rolloutPercentage"] == 50
    assert not amplitude.flag("checkout-bad")["enabled"]
    assert len(place.writes()) == 2
    assert "Nothing is lost, and no retry is used up" in airflow.logs("quota", ramp, "ramp")
