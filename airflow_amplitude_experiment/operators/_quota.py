"""What a task does about a 429 that lasts: it gives its worker slot back, and starts over once Amplitude answers.

The client has waited for a minute by then, so it isn't the limit of the second but the day's quota, or somebody who
takes all of it. Trying again would only use up the task's retries. Apart from the base of the operators, because
hardly any task ever needs it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NoReturn

from airflow_amplitude_experiment.triggers._moments import after_failure, now
from airflow_amplitude_experiment.triggers._quota import AmplitudeQuotaTrigger

from ._base import given
from ._run import SHORTEST_WAIT, WAITED, waited

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context

    from airflow_amplitude_experiment.api import AmplitudeRateLimited

    from ._base import AmplitudeOperator


def wait_for_quota(
    operator: AmplitudeOperator,
    context: Context,
    error: AmplitudeRateLimited,
    *,
    method_name: str,
    kwargs: Mapping[str, Any],
) -> NoReturn:
    """Defer the task until Amplitude answers again; how long between looks, the trigger decides.

    What was refused came to nothing, and what was sent before it stands. So the task, resumed, counts as one more
    try for everything that asks (:func:`._run.tried_before`), although Airflow counts none.

    :param error: the refusal.
    :param method_name, kwargs: what the task was resumed with last, which it is resumed with again.
    """
    moment, project = now(), given(getattr(operator, "project_id", None))
    today = f"{moment:%Y-%m-%d}"
    before = waited(context)
    times = 1 + (before["times"] if before.get("day") == today else 0)  # the quota is the day's
    again = max(after_failure(moment, times, error), moment + SHORTEST_WAIT)
    context["ti"].xcom_push(key=WAITED, value={"day": today, "times": times})
    operator.log.warning(
        "%s Nothing is lost, and no retry is used up: the task gives its slot back and starts over when Amplitude "
        "answers. It looks again at %s, then after growing pauses, and at the latest just after 00:00 UTC.",
        error,
        f"{again:%Y-%m-%d %H:%M:%SZ}",
    )
    trigger = AmplitudeQuotaTrigger(
        amplitude_conn_id=operator.amplitude_conn_id,
        project_id=None if project is None else str(project).strip(),
        look_at=again.isoformat(),
        failures=times,
        event=kwargs.get("event"),
    )
    rest = {name: value for name, value in kwargs.items() if name != "event"}
    operator.defer(trigger=trigger, method_name=method_name, kwargs=rest)
