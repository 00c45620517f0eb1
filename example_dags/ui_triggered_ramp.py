"""A release manager ramps a flag from the Airflow UI: press Trigger, fill in the form.

What the form may do is up to the connection, not to this file: give ``amplitude_release_desk`` a management key,
a project id and, as an example, ``allow_keys = checkout-*, search-*``, ``max_step = 25`` and ``require_reason``.
A ramp that the rules forbid fails at once and says which rule.
"""

from datetime import timedelta

from airflow.sdk import DAG, Param

from airflow_amplitude_experiment.operators import AmplitudeRampRolloutOperator

with DAG(
    dag_id="ui_triggered_ramp",
    description="Set the rollout percentage of one flag, by hand, with a reason",
    schedule=None,
    catchup=False,
    max_active_runs=1,
    # No dagrun_timeout: it would fail a ramp that waits for the next day's quota of requests.
    default_args={"retries": 2, "retry_delay": timedelta(seconds=30)},
    tags=["amplitude", "release desk"],
    params={
        "flag_key": Param(
            "checkout-express",
            type="string",
            title="Flag",
            description="The flag's key in Amplitude.",
            examples=["checkout-express", "checkout-gift-cards", "search-ranking"],
            pattern=r"^\S+$",
        ),
        "percentage": Param(
            5, type="integer", minimum=0, maximum=100, title="Percentage", description="Share of all users, 0 to 100."
        ),
        "when_higher": Param(
            "fail",
            enum=["fail", "continue", "overwrite"],
            title="If the flag stands higher already",
            description="fail: do nothing and say so. continue: leave it. overwrite: go down to the percentage.",
        ),
        "reason": Param(type="string", minLength=10, title="Reason", description="Why, for the log. Required."),
    },
) as dag:
    AmplitudeRampRolloutOperator(
        task_id="ramp",
        flag_key="{{ params.flag_key }}",
        percentage="{{ params.percentage }}",
        on_drift="{{ params.when_higher }}",
        reason="{{ params.reason }}",
        amplitude_conn_id="amplitude_release_desk",
    )
