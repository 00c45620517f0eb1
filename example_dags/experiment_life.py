"""An experiment's whole life: created, described, kept apart from others, started, ended, decided, archived.

Two weeks after Trigger it asks what the results decide, and later, whether any code still asks for it. While it waits
it holds no worker. Whoever moves the end date in Amplitude moves the question.
Needs the connection ``amplitude_experiment_default`` (type Amplitude Experiment) and a mutual exclusion group
``onboarding``, evaluated locally as this experiment is (``AmplitudeCreateMutexGroupOperator`` makes one).
"""

from datetime import timedelta

from airflow.providers.standard.operators.hitl import ApprovalOperator, HITLOperator
from airflow.sdk import DAG

from airflow_amplitude_experiment import operators as amplitude
from airflow_amplitude_experiment.sensors import AmplitudeEndDateSensor

KEY = "shorter-onboarding"
ARMS = {"control": 1, "treatment": 1}
SLOT = {"mutex_key": "onboarding", "slot": 1, "experiments": [KEY]}
GERMAN = [{"type": "property", "prop": "language", "op": "is", "values": ["German"]}]

with DAG(
    dag_id="experiment_life",
    description="Create, describe, slot, start, end date → (a person) → decide → (a person) → archive",
    schedule=None,
    catchup=False,
    max_active_runs=1,
    # No dagrun_timeout: it would end the waiting, not the experiment.
    default_args={"retries": 3, "retry_delay": timedelta(minutes=1), "retry_exponential_backoff": True},
    tags=["amplitude", "experiment"],
) as dag:
    create = amplitude.AmplitudeCreateExperimentOperator(
        task_id="create",
        key=KEY,
        variants=[{"key": each} for each in ARMS],
        rollout_weights=ARMS,
        deployments=["31"],  # ids of the applications that ask for it
        bucketing_key="user_id",
        evaluation_mode="local",
        experiment_end_date="{{ (dag_run.run_after + macros.timedelta(days=14)).isoformat() }}",
    )
    describe = amplitude.AmplitudeUpdateOperator(
        task_id="describe",
        experiment_key=KEY,
        target_segments=[{"name": "German", "conditions": GERMAN, "percentage": 100, "rolloutWeights": ARMS}],
    )
    slot = amplitude.AmplitudeUpdateMutexSlotOperator(task_id="slot", **SLOT)
    start = amplitude.AmplitudeRampRolloutOperator(task_id="start", experiment_key=KEY, percentage=50, enable=True)
    end = AmplitudeEndDateSensor(task_id="end", experiment_key=KEY)
    ask = HITLOperator(task_id="ask", subject=f"What becomes of {KEY}?", options=["rollout", "rollback"])
    answer = "{{ ti.xcom_pull('ask')['chosen_options'][0] }}"
    decide = amplitude.AmplitudeDecideExperimentOperator(
        task_id="decide", experiment_key=KEY, decision=answer, variant="treatment"
    )
    # Everybody gets the winner, not only the slot's share of them, and the slot is free for the next one.
    leave = amplitude.AmplitudeUpdateMutexSlotOperator(task_id="leave", mode="remove", while_running=True, **SLOT)
    gone = ApprovalOperator(task_id="gone", subject=f"Does no code ask for {KEY} any more?")
    archive = amplitude.AmplitudeArchiveOperator(task_id="archive", experiment_key=KEY, while_enabled=True)
    create >> describe >> slot >> start >> end >> ask >> decide >> leave >> gone >> archive
