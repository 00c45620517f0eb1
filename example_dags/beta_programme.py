"""A feature goes to a beta cohort first, and when a person says that the beta went well, to 10 % of everyone.

The cohort is kept in Amplitude and named here by its id: nobody is copied, so it may have more than 2,000 users and
stays current. Its members get the variant within an hour or two. The next step is yours: raise the last stage below.

Needs an enabled flag at 0 % that is evaluated remotely or by a server's SDK (in browsers and apps local evaluation has
no cohorts), and the connection ``amplitude_experiment_default`` (type Amplitude Experiment) with a management key.
"""

import os
from datetime import timedelta

from airflow.sdk import DAG

from airflow_amplitude_experiment.operators import AmplitudeSyncVariantCohortsOperator
from airflow_amplitude_experiment.rollout import Stage, staged_rollout

FLAG = "new-editor"
COHORT = "b37tzqx9"  # the end of its address in Amplitude
DAY = os.environ.get("ROLLOUT_DAY", "1d")  # tests have shorter days

with DAG(
    dag_id="beta_programme",
    description="A beta cohort → (a person approves) → 10 % of everyone",
    schedule=None,
    catchup=False,
    max_active_runs=1,
    # No dagrun_timeout: it would fail a rollout that waits as it should, and skip the rollback.
    default_args={"retries": 3, "retry_delay": timedelta(minutes=1), "retry_exponential_backoff": True},
    tags=["amplitude", "rollout"],
) as dag:
    beta = AmplitudeSyncVariantCohortsOperator(
        task_id="beta",
        flag_key=FLAG,
        variant="on",
        cohorts=[COHORT],
        mode="replace",  # these cohorts and no others; "add" leaves what is there
        reason="beta of the new editor",
    )
    rollout = staged_rollout(
        flag_key=FLAG,
        plan=[Stage(10, DAY)],
        approve_above=0,  # the beta lasts until somebody answers
        approve_within="60d",
        reason="the beta of the new editor went well",
    )
    beta >> rollout
