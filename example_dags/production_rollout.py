"""An experiment goes to everyone in five stages over five days, watched by the warehouse, and tells Slack if it stops.

The first breach of a guardrail takes it back to 0 %, without anybody. Too few units or late data hold it where it
stands, and so does a person who does not approve of the step to half of all users. Nothing goes up again by itself.

Needs an enabled experiment with the variants ``control`` and ``treatment``, 1:1, and three connections:
``amplitude_experiment_default``, ``warehouse`` (the queries beside this file are Snowflake's) and ``slack``.
"""

import os
from datetime import timedelta

from airflow.providers.slack.notifications.slack import SlackNotifier
from airflow.sdk import DAG

from airflow_amplitude_experiment.rollout import SampleRatioGuardrail, SqlGuardrail, Stage, staged_rollout

DAY = os.environ.get("ROLLOUT_DAY", "1d")  # tests have shorter days
HOUR = os.environ.get("ROLLOUT_HOUR", "1h")
SETTLE = os.environ.get("ROLLOUT_SETTLE", "5m")  # until every server has the new percentage

stopped = SlackNotifier(
    slack_conn_id="slack",
    channel="#checkout-releases",
    text="*{{ dag.dag_id }}* stopped at `{{ ti.task_id }}`: {{ exception }}\n{{ ti.log_url }}",
)

with DAG(
    dag_id="production_rollout",
    description="1 % → 5 % → 25 % → (a person approves) → 50 % → 100 %, a day each, with guardrails",
    schedule=None,
    catchup=False,
    max_active_runs=1,
    # No dagrun_timeout: it would fail a rollout that waits as it should, and skip the rollback.
    default_args={"retries": 3, "retry_delay": timedelta(minutes=1), "on_failure_callback": stopped},
    tags=["amplitude", "rollout"],
) as dag:
    rate, units = "sql/checkout_rate.sql", "sql/units.sql"
    warehouse = {"conn_id": "warehouse", "settle": SETTLE}
    staged_rollout(
        experiment_key="checkout-redesign",
        plan=[Stage(1, DAY), Stage(5, DAY), Stage(25, DAY, approval=True), Stage(50, DAY), Stage(100, DAY)],
        guardrails=[
            SqlGuardrail("checkout rate", sql=rate, harm="decrease", mde="10%", window=HOUR, **warehouse),
            SampleRatioGuardrail(sql=units, **warehouse),
        ],
        rollback_to=0,
        reason="five-day rollout of the redesigned checkout",
    )
