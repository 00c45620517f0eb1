"""Roll a flag out in stages: 10 % of users, then 50 %, then everyone, a day each.

Copy this file into your DAGs folder, change the key, and press Trigger. Needs the connection
``amplitude_experiment_default`` (type Amplitude Experiment) with a management key and a project id.
While it waits it holds no worker. A task may be cleared at any time: what is done already is not done twice.
"""

import os
from datetime import timedelta

from airflow.sdk import DAG, Param

from airflow_amplitude_experiment.operators import AmplitudeCreateFlagOperator
from airflow_amplitude_experiment.rollout import Stage, staged_rollout

FLAG = "new-checkout"
DAY = os.environ.get("ROLLOUT_DAY", "1d")  # the demo's days are shorter

with DAG(
    dag_id="staged_rollout",
    description="0 % → 10 % → 50 % → 100 % of a flag in Amplitude",
    schedule=None,
    catchup=False,
    max_active_runs=1,
    # No dagrun_timeout: it would fail a rollout that waits as it should, and skip the rollback.
    default_args={"retries": 3, "retry_delay": timedelta(minutes=1), "retry_exponential_backoff": True},
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
    rollout = staged_rollout(
        flag_key=FLAG,
        plan=[Stage(10, DAY), Stage(50, DAY), Stage(100, DAY)],
        reason="staged rollout of the new checkout",
    )
    flag >> rollout
