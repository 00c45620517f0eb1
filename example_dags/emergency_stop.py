"""Switch flags and experiments off, now: press Trigger, give keys or the beginning of keys, and read the table.

First a list of what would be switched off, then all of it at once; one that fails holds up none of the others. At the
end a table of what is off and what is not, in the log and as XCom of ``table``, also where the switch has failed.
"""

from datetime import timedelta
from typing import Any

from airflow.sdk import DAG, Param, task, teardown

from airflow_amplitude_experiment.operators import AmplitudeKillSwitchOperator

with DAG(
    dag_id="emergency_stop",
    description="Switch flags and experiments off in Amplitude",
    schedule=None,
    catchup=False,
    is_paused_upon_creation=False,  # at 3 a.m. nobody thinks of that
    max_active_runs=10,  # one stop does not wait for another
    # No dagrun_timeout: it would end a switch that goes on trying, and skip the table.
    default_args={"retries": 3, "retry_delay": timedelta(seconds=10), "priority_weight": 10_000},
    tags=["amplitude", "emergency"],
    params={
        "keys": Param([], type="array", items={"type": "string"}, title="Keys", description="One a line."),
        "key_prefix": Param("", type="string", title="Or all keys that begin with", description="Such as checkout-"),
        "only_list": Param(False, type="boolean", title="Only list", description="Switch nothing off: a drill."),
        "reason": Param("emergency stop", type="string", minLength=5, title="Reason"),
    },
) as dag:

    @task
    def asked(params: dict[str, Any]) -> list[dict[str, Any]]:
        """Return what the form says. Where it says nothing, the switch refuses: that would match everything."""
        return [{name: params[name]} for name in ("keys", "key_prefix") if params[name]] or [{"key_prefix": ""}]

    @teardown  # it also runs when the switch has failed, and does not make the run green
    def table(params: dict[str, Any]) -> dict[str, list[str]]:
        """Look what stands now."""
        from airflow_amplitude_experiment.api import experiments, flags
        from airflow_amplitude_experiment.hooks import AmplitudeExperimentHook

        keys, prefix = params["keys"], params["key_prefix"] or "\0"
        with AmplitudeExperimentHook().get_conn() as client:
            lists = [calls.list(project_id=client.rules.project_id) for calls in (flags, experiments)]
            on = {each.key: each.enabled is not False for call in lists for each in client.iterate(call)}
        meant = sorted(key for key in on if key in keys or key.startswith(prefix))
        rows = {"on": [key for key in meant if on[key]], "off": [key for key in meant if not on[key]]}
        rows["not found"] = [key for key in keys if key not in on]
        print("\n".join(f"{state:<10}{key}" for state in rows for key in rows[state]))
        return rows

    what, shared = asked(), {"max_objects": 50, "reason": "{{ params.reason }}"}
    hasty = {"retries": 0, "execution_timeout": timedelta(seconds=30)}  # the switch waits for no list
    listed = AmplitudeKillSwitchOperator.partial(task_id="list", dry_run=True, **hasty, **shared).expand_kwargs(what)
    switch = AmplitudeKillSwitchOperator.partial(
        task_id="switch_off", dry_run="{{ params.only_list }}", trigger_rule="all_done", **shared
    ).expand_kwargs(what)
    listed >> switch >> table()
