"""The example DAGs, run by a real scheduler and triggerer."""

from __future__ import annotations

import pytest

from demo.airflow_rest import AirflowRestError

pytestmark = pytest.mark.e2e


def test_a_staged_rollout_reaches_everyone_and_running_it_again_writes_nothing(place):
    place.airflow.wait_for_dag("staged_rollout")
    place.airflow.unpause("staged_rollout")
    run_id, state = place.run("staged_rollout", {"deployments": ["31"]})
    assert state == "success", place.airflow.task_states("staged_rollout", run_id)
    asked = [body["rolloutPercentage"] for body in place.writes() if "rolloutPercentage" in body]
    assert asked == [10, 50, 100]
    assert place.amplitude.flag("new-checkout")["deployments"] == ["31"]
    assert place.airflow.xcom("staged_rollout", run_id, "to_50")["before"] == 10

    place.amplitude.clear_requests()
    run_id, state = place.run("staged_rollout", {"deployments": ["31"]})
    assert state == "success", place.airflow.task_states("staged_rollout", run_id)
    assert place.writes() == []


def test_a_task_links_to_its_flag_in_amplitude(place):
    place.amplitude.add_flag("checkout-express", enabled=True)
    run_id, state = ramped(place, flag_key="checkout-express", percentage=5)
    assert state == "success"
    path = f"/dags/ui_triggered_ramp/dagRuns/{run_id}/taskInstances/ramp/links"
    link = place.airflow.get(path)["extra_links"]["Open in Amplitude"]
    flag_id = place.amplitude.flag("checkout-express")["id"]
    assert link == f"{place.amplitude.url}/experiment/acme/100001/config/{flag_id}"


def ramped(place, **conf):
    place.airflow.wait_for_dag("ui_triggered_ramp")
    place.airflow.unpause("ui_triggered_ramp")
    return place.run("ui_triggered_ramp", {"reason": "looks good to the release desk", **conf})


def test_a_release_manager_ramps_from_the_form(place):
    place.amplitude.add_flag("checkout-express", enabled=True, rolloutPercentage=10)
    run_id, state = ramped(place, flag_key="checkout-express", percentage=30)
    assert state == "success"
    assert place.amplitude.flag("checkout-express")["rolloutPercentage"] == 30
    log = place.airflow.logs("ui_triggered_ramp", run_id, "ramp")
    assert "flag checkout-express: 10 % -> 30 %" in log
    assert "looks good to the release desk" in log
    assert "[end to end]" in log


@pytest.mark.parametrize(
    ("conf", "says"),
    [
        ({"flag_key": "checkout-express", "percentage": 60}, "max_step"),
        ({"flag_key": "billing", "percentage": 20}, "allow_keys"),
        ({"flag_key": "checkout-express", "percentage": 5}, "stands at 10 %"),
    ],
)
def test_what_the_connection_forbids_fails_at_once_and_says_why(place, conf, says):
    place.amplitude.add_flag("checkout-express", enabled=True, rolloutPercentage=10)
    place.amplitude.add_flag("billing", enabled=True, rolloutPercentage=10)
    run_id, state = ramped(place, **conf)
    assert state == "failed"
    assert place.tries("ui_triggered_ramp", run_id) == {"ramp": 1}
    assert says in place.airflow.logs("ui_triggered_ramp", run_id, "ramp")
    assert place.writes() == []


@pytest.mark.parametrize(
    "wrong", [{"percentage": 101}, {"percentage": 2.5}, {"reason": "why"}, {"when_higher": "perhaps"}]
)
def test_the_form_refuses_what_cannot_be_meant(place, wrong):
    place.airflow.wait_for_dag("ui_triggered_ramp")
    with pytest.raises(AirflowRestError, match=r"-> (400|422)"):
        place.airflow.trigger("ui_triggered_ramp", {"reason": "a good reason", **wrong})
