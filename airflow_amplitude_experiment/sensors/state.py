"""Wait until a flag or experiment is as it is wanted."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from airflow_amplitude_experiment.operators._base import is_known

from ._wait import AmplitudeWaitSensor, how_often, seconds

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context

    from airflow_amplitude_experiment.triggers._verdict import Verdict
    from airflow_amplitude_experiment.triggers._wait import AmplitudeWaitTrigger

FIVE_MINUTES = 300.0
IN_DETAIL = {"tags": None}
"""Asks for a field that only details show, so that a function sees all there is."""


class AmplitudeStateSensor(AmplitudeWaitSensor):
    """Wait until a flag or experiment is so in Amplitude, and hold no worker slot meanwhile.

    ``until`` names fields and what they must be, all at once::

        until={"state": "running"}                        # an experiment's label
        until={"enabled": True}                           # the switch
        until={"percentage": 50}                          # 50 % or more; "== 0" or "<= 10" compare otherwise
        until={"decision": "made"}                        # any decision; or "rollout", "rollback", …
        until={"state": ["done", "decision-made"]}        # one of these
        until={"tags": "ready", "archived": False}        # any field, by the API's name or in snake_case

    It looks once at the start. Then a triggerer asks for all tasks that wait on the same connection, project and kind
    at once. A passing error (no connection, 429, 5xx) only delays the next look; an archived object ends the task,
    unless ``archived`` is waited for.

    :param experiment_key, experiment_id, flag_key, flag_id: the object; exactly one.
    :param project_id: its project, where the connection names none.
    :param until: what it must be; values are templated.
    :param until_callable: called with the object as it was just read and the task's context; the wait is over when
        it returns something true, which is then the task's result. Only with ``deferrable=False``: a function can't
        be sent to the triggerer.
    :param poke_interval: seconds or a timedelta between looks. Default: as often as 2 % of the daily quota allow for
        all that wait, at least a minute (5 minutes where Airflow is older than 3.3); without deferring 5 minutes.
        Where many wait, twenty requests a minute are the most that a triggerer sends for them, whatever is asked for.
    :param deadline: the wait ends here, whatever try it is: a datetime with a time zone, or its ISO 8601 text.
    :param deferrable: wait in the triggerer. With ``False`` the task pokes: see ``mode`` and ``poke_interval``.
    :param timeout: fail (with ``soft_fail``: skip) after so long; seconds or a timedelta. Each try has its own.
    :param amplitude_conn_id: id of the Airflow connection.
    :raises AirflowFailException: archived, no such field, or an error that another try can't heal.
    :return: a record: ``kind``, ``key``, ``id``, ``found`` (the fields waited for) and ``looked_at`` (UTC).

    Source: Management API, "Get experiment details", "Get flag details" and the lists of both.
    """

    template_fields: Sequence[str] = (
        *AmplitudeWaitSensor.template_fields,
        "experiment_key",
        "experiment_id",
        "flag_key",
        "flag_id",
        "until",
    )

    def __init__(
        self,
        *,
        experiment_key: str | None = None,
        experiment_id: str | int | None = None,
        flag_key: str | None = None,
        flag_id: str | int | None = None,
        project_id: str | int | None = None,
        until: Mapping[str, Any] | None = None,
        until_callable: Callable[[Any, Context], Any] | None = None,
        poke_interval: float | timedelta | None = None,
        deferrable: bool = True,
        **kwargs: Any,
    ) -> None:
        if (until is None) == (until_callable is None):
            raise ValueError("Give exactly one of until, until_callable")
        if until_callable is not None and deferrable:
            raise ValueError("until_callable works without deferring only: pass deferrable=False, or use until")
        self.interval = None if poke_interval is None else seconds("poke_interval", poke_interval)
        super().__init__(poke_interval=self.interval or FIVE_MINUTES, deferrable=deferrable, **kwargs)
        self.name_target(
            experiment_key=experiment_key,
            experiment_id=experiment_id,
            flag_key=flag_key,
            flag_id=flag_id,
            project_id=project_id,
        )
        self.until = until
        self.until_callable = until_callable
        if until is not None and (not isinstance(until, Mapping) or is_known(until)):
            _refuse_nonsense(until, self.kind)

    @property
    def fields(self) -> tuple[str, ...]:
        """What the record holds."""
        from airflow_amplitude_experiment.triggers.state import FIELDS

        return FIELDS

    def trigger(self, **names: Any) -> AmplitudeWaitTrigger:
        """Return the trigger that waits; for a function one that only says which object it is."""
        from airflow_amplitude_experiment.triggers.state import AmplitudeStateTrigger

        until = IN_DETAIL if self.until is None else self.until
        _refuse_nonsense(until, self.kind)
        return AmplitudeStateTrigger(interval=self.interval, until=dict(until), **names)

    def verdict_on(self, found: Any, trigger: AmplitudeWaitTrigger, context: Context) -> Verdict:
        """Say whether it is so, or let the function say."""
        from airflow_amplitude_experiment.triggers._verdict import Verdict

        if self.until_callable is None:
            return super().verdict_on(found, trigger, context)
        answer = self.until_callable(found, context)
        return Verdict({"answer": answer} if answer else None)

    def waiting_for(self, found: Any, verdict: Verdict) -> str:
        """Say what it must become."""
        from airflow_amplitude_experiment.triggers._until import Until

        what = "the function says so" if self.until is None else str(Until(self.until, self.kind))
        often = how_often(self.interval if self.deferrable else self.poke_interval)
        return f"{self.kind.capitalize()} {found.key} ({found.id}): waiting until {what}; looking again {often}"

    def report(self, record: dict[str, Any]) -> Any:
        """Say what was found."""
        if "answer" in record:
            self.log.info("The function says that the wait is over")
            return record["answer"]
        found = ", ".join(f"{name} {value}" for name, value in record["found"].items())
        self.log.info("%s %s (%s): %s", record["kind"].capitalize(), record["key"], record["id"], found)
        return record


def _refuse_nonsense(until: Any, kind: str) -> None:
    from airflow_amplitude_experiment.triggers._until import Until

    Until(until, kind)
