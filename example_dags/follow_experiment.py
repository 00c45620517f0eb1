"""Slack hears what becomes of an experiment in Amplitude: that it has begun, what was decided, what is left to do.

Press Trigger for each experiment once it is planned; what people do in the app is all that a run waits for. There may
be thousands of runs: while they wait they hold no worker, and a triggerer asks Amplitude for all of them at once.
Without a decision 90 days after Trigger the run fails and tells why; a retry or a cleared task does not move that day.
Needs the connections ``amplitude_experiment_default`` and ``slack``.
"""

from datetime import timedelta

from airflow.providers.slack.notifications.slack import SlackNotifier
from airflow.providers.slack.operators.slack import SlackAPIPostOperator
from airflow.sdk import DAG, Param

from airflow_amplitude_experiment.sensors import AmplitudeStateSensor

SLACK = {"slack_conn_id": "slack", "channel": "#experiments"}
MISSED = "Experiment `{{ params.experiment }}` is not *{{ ti.task_id }}*: {{ exception }}"
WAIT = {"experiment_key": "{{ params.experiment }}", "on_failure_callback": SlackNotifier(text=MISSED, **SLACK)}
LAST_DAY = "{{ (dag_run.run_after + macros.timedelta(days=90)).isoformat() }}"

with DAG(
    dag_id="follow_experiment",
    description="Running → decided → archived, each told to Slack",
    schedule=None,
    catchup=False,
    max_active_runs=1_000,  # 16 are Airflow's default; a triggerer takes 1,000 waits unless it is told otherwise
    # No dagrun_timeout: the sensors say themselves how long is too long.
    default_args={"retries": 3, "retry_delay": timedelta(minutes=1), "retry_exponential_backoff": True},
    tags=["amplitude", "experiment"],
    params={"experiment": Param(type="string", title="Experiment", description="Its key.", pattern=r"^\S+$")},
) as dag:
    running = AmplitudeStateSensor(
        task_id="running", until={"enabled": True, "percentage": 1}, deadline=LAST_DAY, **WAIT
    )
    began = SlackAPIPostOperator(task_id="began", text="`{{ params.experiment }}` has users.", **SLACK)
    decided = AmplitudeStateSensor(
        task_id="decided", until={"decision": ["rollout", "rollback"]}, deadline=LAST_DAY, **WAIT
    )
    clean_up = SlackAPIPostOperator(
        task_id="clean_up",
        text="`{{ params.experiment }}` is decided: *{{ ti.xcom_pull('decided')['found']['decision'] }}*. "
        "Please take what is left of it out of the code, and archive it within a month.",
        **SLACK,
    )
    archived = AmplitudeStateSensor(task_id="archived", until={"archived": True}, timeout=timedelta(days=30), **WAIT)
    running >> began >> decided >> clean_up >> archived
