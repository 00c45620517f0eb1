"""Roll a flag out in stages: 10 % of users, then 50 %, then everyone, a day apart.

Copy this file into your DAGs folder, change the key, and press Trigger. Needs the connection
``amplitude_experiment_default`` (type Amplitude Experiment) with a management key and a project id.
While it waits it holds no worker. Run it again at any time: what is done already is not done twice.
"""

import os
from datetime import timedelta

from airflow.providers.standard.sensors.time_delta import WaitSensor
from airflow.sdk import DAG, Param, chain

from airflow_amplitude_experiment.operators import AmplitudeCreateFlagOperator, AmplitudeRampRolloutOperator

FLAG = "new-checkout"
STAGE_WAIT = timedelta(seconds=float(os.environ.get("STAGE_WAIT_SECONDS", "86400")))

with DAG(
    dag_id="staged_rollout",
    description="0 % → 10 % → 50 % → 100 % of a flag in Amplitude",
    schedule=None,
    catchup=False,
    max_active_runs=1,
    default_args={"retries": 3, "retry_delay": timedelta(minutes=1)},
    tags=["amplitude", "rollout"],
    params={"deployments": Param(type="array", minItems=1, title="Deployments", description="Ids, one a line.")},
) as dag:
    flag = AmplitudeCreateFlagOperator(
        task_id="flag",
        key=FLAG,
        name="New checkout",
        variants=[{"key": "on"}],
        deployments="{{ params.deployments | tojson }}",  # without one nobody is served
        bucketing_key="user_id",
        evaluation_mode="local",
        enabled=True,
        adopt_live=True,
    )

    def stage(percentage: int, before: int) -> AmplitudeRampRolloutOperator:
        """Move the flag from one percentage to the next."""
        return AmplitudeRampRolloutOperator(
            task_id=f"to_{percentage}",
            flag_key=FLAG,
            percentage=percentage,
            from_percentage=before,
            on_drift="continue",  # already further: leave it, and go on
            reason="staged rollout of the new checkout",
        )

    def wait(percentage: int) -> WaitSensor:
        """Give the stage time; the triggerer waits, not a worker."""
        return WaitSensor(task_id=f"watch_{percentage}", time_to_wait=STAGE_WAIT, deferrable=True)

    chain(flag, stage(10, before=0), wait(10), stage(50, before=10), wait(50), stage(100, before=50))
