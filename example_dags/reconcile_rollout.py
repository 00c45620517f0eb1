"""Keep a flag on its plan: each hour one look, and one stage up where that is due.

For those who would rather have many short runs than one that lives for days. Set ``START``, change the key, and unpause
the DAG. Needs the connection ``amplitude_experiment_default`` (type Amplitude Experiment) with a management key and a
project id. A tick that is late or missing makes a stage longer, never shorter. Lowered or disabled by anybody, the
flag stays so: every later tick fails and says how to go on. Pause the DAG when the plan is complete.
"""

from datetime import datetime, timedelta
from zoneinfo import ZoneInfo

from airflow.sdk import DAG

from airflow_amplitude_experiment.operators import AmplitudeReconcileRolloutOperator
from airflow_amplitude_experiment.rollout import RolloutPlan, ThresholdGuardrail, Window

BERLIN = "Europe/Berlin"
START = datetime(2026, 11, 23, 9, tzinfo=ZoneInfo(BERLIN))

with DAG(
    dag_id="reconcile_rollout",
    description="1 % → 10 % → 50 % → 100 % of a flag, a tick each hour",
    schedule="5 * * * *",  # more often than the shortest stage, 2 hours
    start_date=START,
    catchup=False,
    max_active_runs=1,
    default_args={"retries": 2, "retry_delay": timedelta(minutes=2), "execution_timeout": timedelta(minutes=20)},
    # No dagrun_timeout: it would end a run without letting its task say what it wrote; execution_timeout ends a query.
    tags=["amplitude", "rollout"],
) as dag:
    AmplitudeReconcileRolloutOperator(
        task_id="tick",
        flag_key="new-search",
        plan=RolloutPlan.parse(
            "1% 2h, 10% 1d, 50% 1d, 100%",
            windows=[Window(days="mon-thu", hours="09:00-16:00", timezone=BERLIN)],
        ),
        start=START,
        guardrails=[
            ThresholdGuardrail(
                "errors",
                sql="""
                    SELECT avg(is_error) AS value, max(ts) AS as_of FROM requests
                    WHERE ts >= %(stage_start)s AND ts < %(stage_end)s
                """,
                conn_id="warehouse",
                above=0.02,
            )
        ],
        reason="rollout of the new search",
    )
