"""Somebody edits a flag or an experiment in Amplitude's app; the channel reads what and who.

Nothing is polled by this DAG: its asset is watched by a trigger, one request a minute for however many objects. The
task goes through all events that started its run, because Airflow may give a run several, and drops what it was told
before: a change may come twice, and is known by its object and version.
"""

from typing import Any

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

with DAG(
    dag_id="tell_who_changed_what",
    description="Tell a channel who changed what in Amplitude",
    schedule=[CHANGES],
    catchup=False,
    max_active_runs=16,  # with 1, Airflow holds back what changes while a run is under way: docs/changes.md
    # No dagrun_timeout: it would drop what a run has to tell while the channel is down.
    tags=["amplitude", "watch"],
) as dag:

    @task(retries=3)
    def tell(triggering_asset_events: Any) -> list[str]:
        """Tell each change once, the oldest first."""
        changes: dict[tuple[str, str, int], dict[str, Any]] = {}
        for event in triggering_asset_events[CHANGES]:
            for change in event.extra["payload"]["changes"]:
                changes[change["project_id"], change["id"], change["to_version"]] = change
        lines = [change["text"] for change in sorted(changes.values(), key=lambda change: change["at"] or "")]
        for line in lines:
            print(line)  # or SlackWebhookHook(slack_webhook_conn_id="…").send(text=line)
        return lines

    tell()
