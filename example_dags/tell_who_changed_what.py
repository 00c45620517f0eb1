"""Somebody edits a flag or an experiment in Amplitude's app, and a Slack channel reads what and who.

The asset is watched by a trigger, one request a minute for however many objects. Airflow may hand a run several events,
and a change may come twice: the first task goes through all of them, and drops what is the same version of the same
object. Needs the connections ``amplitude_experiment_default`` and ``slack``, and a triggerer without ``--queues``.
"""

from datetime import timedelta
from html import escape
from typing import Any

from airflow.providers.slack.operators.slack import SlackAPIPostOperator
from airflow.sdk import DAG, Asset, AssetWatcher, task

from airflow_amplitude_experiment.triggers import AmplitudeChangeTrigger

CHANGES = Asset(
    "amplitude_changes",
    watchers=[
        AssetWatcher(
            name="amplitude_versions",
            trigger=AmplitudeChangeTrigger(
                ignore_modified_by=[],  # the name that your own key writes under: docs/changes.md shows how to find it
            ),
        )
    ],
)
IN_ONE_MESSAGE = 20

with DAG(
    dag_id="tell_who_changed_what",
    description="Tell a Slack channel who changed what in Amplitude",
    schedule=[CHANGES],
    catchup=False,
    max_active_runs=16,  # with 1, Airflow holds back what changes while a run is under way: docs/changes.md
    # No dagrun_timeout: it would drop what a run has to tell while Slack is down.
    default_args={"retries": 5, "retry_delay": timedelta(minutes=1), "retry_exponential_backoff": True},
    tags=["amplitude", "watch"],
) as dag:

    @task
    def messages(triggering_asset_events: Any) -> list[str]:
        """Return each change once, the oldest first, as texts for Slack."""
        changes: dict[tuple[str, str, int], dict[str, Any]] = {}
        for event in triggering_asset_events[CHANGES]:
            for change in event.extra.get("payload", {}).get("changes", ()):  # none in one created by hand
                changes[change["project_id"], change["id"], change["to_version"]] = change
        ordered = sorted(changes.values(), key=lambda change: change["at"] or "")
        lines = [escape(change["text"], quote=False) for change in ordered]  # Slack would take <!here> for a mention
        return ["\n".join(lines[at : at + IN_ONE_MESSAGE]) for at in range(0, len(lines), IN_ONE_MESSAGE)]

    tell = SlackAPIPostOperator.partial(task_id="tell", slack_conn_id="slack", channel="#experiments")
    tell.expand(text=messages())
