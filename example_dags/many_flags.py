"""Several flags, one plan: each goes to everyone in stages of a day, and each on its own.

A flag that stops, by a breach or because somebody changed it in the app, holds up none of the others; the run is then
failed, and shows which one it was. Needs the connection ``amplitude_experiment_default`` and flags that are enabled.
"""

import os
from datetime import timedelta

from airflow.sdk import DAG, task_group

from airflow_amplitude_experiment.rollout import Stage, staged_rollout

FLAGS = ["search-suggestions", "search-spelling", "search-filters"]
DAY = os.environ.get("ROLLOUT_DAY", "1d")  # tests have shorter days
PLAN = [Stage(20, DAY), Stage(100, DAY)]

with DAG(
    dag_id="many_flags",
    description="0 % → 20 % → 100 % of several flags side by side",
    schedule=None,
    catchup=False,
    max_active_runs=1,
    # No dagrun_timeout: it would fail a rollout that waits as it should, and skip the rollback.
    default_args={"retries": 3, "retry_delay": timedelta(minutes=1), "retry_exponential_backoff": True},
    tags=["amplitude", "rollout"],
) as dag:

    @task_group
    def release(flag_key: str) -> None:
        """Roll one flag out."""
        staged_rollout(flag_key=flag_key, plan=PLAN, reason="release of the new search")

    release.expand(flag_key=FLAGS)
