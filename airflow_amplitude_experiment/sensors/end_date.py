"""Wait until an experiment's end date has passed."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Literal

from airflow.providers.common.compat.sdk import BaseSensorOperator, PokeReturnValue

from airflow_amplitude_experiment.operators._base import DEFAULT_CONNECTION, TargetMixin, ending_what_cannot_heal

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context

NINETY_DAYS = timedelta(days=90)


class AmplitudeEndDateSensor(TargetMixin, BaseSensorOperator):
    """Wait until an experiment's end date has passed, and hold no worker slot meanwhile.

    The date is looked at once at the start, then every ``recheck``, because people move dates, and once more when it
    has come. A date without a time ends with that day in UTC. An end date ends nothing in Amplitude: what is to
    happen then is for the tasks that follow.

    An experiment that is archived, or that has no end date (``on_missing``), ends the task at once. A passing error
    (no connection, 429, 5xx) only delays the next look.

    :param experiment_key, experiment_id: the experiment; exactly one.
    :param project_id: its project, where the connection names none.
    :param recheck: how often to look whether the date was moved; seconds or a timedelta. One request each.
    :param on_missing: what to do where there is no end date, now or later: ``fail``, or ``wait`` for one.
    :param deferrable: wait in the triggerer. With ``False`` the task pokes: see ``mode`` and ``poke_interval``.
    :param timeout: fail (with ``soft_fail``: skip) after so long; seconds or a timedelta.
    :param poke_interval: how often to look without deferring; default is ``recheck``.
    :param amplitude_conn_id: id of the Airflow connection.
    :raises AirflowFailException: archived, no end date, or an error that another try can't heal.
    :return: a record: ``key``, ``id``, ``ended_at`` and ``looked_at`` (UTC).

    Source: Management API, "Get experiment details" (``endDate``).
    """

    template_fields: Sequence[str] = (
        "experiment_key",
        "experiment_id",
        "project_id",
        "on_missing",
        "amplitude_conn_id",
    )
    ui_color = "#d5e4ff"

    def __init__(
        self,
        *,
        experiment_key: str | None = None,
        experiment_id: str | int | None = None,
        project_id: str | int | None = None,
        recheck: float | timedelta = timedelta(minutes=15),
        on_missing: Literal["fail", "wait"] | str = "fail",
        deferrable: bool = True,
        timeout: float | timedelta = NINETY_DAYS,
        poke_interval: float | timedelta | None = None,
        amplitude_conn_id: str = DEFAULT_CONNECTION,
        **kwargs: Any,
    ) -> None:
        if (experiment_key is None) == (experiment_id is None):
            raise ValueError("Give exactly one of experiment_key, experiment_id")
        interval = _seconds(recheck)
        super().__init__(timeout=timeout, poke_interval=interval if poke_interval is None else poke_interval, **kwargs)
        self.name_target(experiment_key=experiment_key, experiment_id=experiment_id, project_id=project_id)
        self.recheck = interval
        self.on_missing = on_missing
        self.deferrable = deferrable
        self.amplitude_conn_id = amplitude_conn_id
        self._said = False
        self._warned = False
        if isinstance(on_missing, str) and "{{" not in on_missing and "{%" not in on_missing:
            self._check_on_missing()

    def poke(self, context: Context) -> PokeReturnValue:
        """Look once; where the end has not passed, leave the wait to the triggerer unless ``deferrable=False``.

        Airflow's own ``execute`` calls this, and applies ``soft_fail`` and its like to the first look too.
        """
        from airflow_amplitude_experiment.triggers.end_date import PASSING, after_failure, end_of, ended, next_look, now

        try:
            with ending_what_cannot_heal():
                self._check_on_missing()
                found = self._look(context)
                ends_at = end_of(found, self.on_missing)
        except PASSING as error:
            self._say_failure(error)
            found, ends_at, again = None, None, after_failure(now(), 1, error)
        else:
            moment = now()
            if record := ended(found, ends_at, moment):
                return PokeReturnValue(is_done=True, xcom_value=self._report(record))
            self._say_start(context, found, ends_at, moment)
            again = next_look(moment, self.recheck)
        if self.deferrable:
            self._leave_to_triggerer(found, ends_at, again)
        return PokeReturnValue(is_done=False)

    def execute_complete(self, context: Context, event: Any) -> dict[str, Any]:
        """Take what the trigger reports, or fail with the error that it met."""
        from airflow_amplitude_experiment.triggers._events import validated
        from airflow_amplitude_experiment.triggers.end_date import FIELDS

        with ending_what_cannot_heal():
            return self._report(validated(event, *FIELDS))

    def _look(self, context: Context) -> Any:
        from airflow_amplitude_experiment.hooks.experiment import AmplitudeExperimentHook
        from airflow_amplitude_experiment.triggers.end_date import find

        with AmplitudeExperimentHook(self.amplitude_conn_id).get_conn() as client:
            found = client.read(find(client, **self._names()))
            self.leave_link(context, client, found)
            return found

    def _leave_to_triggerer(self, found: Any, ends_at: datetime | None, again: datetime) -> None:
        """Defer. What was found goes along, so that each later look costs one request."""
        from airflow_amplitude_experiment.triggers.end_date import AmplitudeEndDateTrigger

        names = self._names()
        if found is not None:
            names |= {"experiment_id": found.id, "experiment_key": found.key}
        self.defer(
            trigger=AmplitudeEndDateTrigger(
                amplitude_conn_id=self.amplitude_conn_id,
                next_look=again.isoformat(),
                recheck=self.recheck,
                on_missing=self.on_missing,
                ends_at=ends_at.isoformat() if ends_at else None,
                **names,
            ),
            method_name="execute_complete",
            timeout=timedelta(seconds=self.timeout),
        )

    def _names(self) -> dict[str, str | None]:
        name = "experiment_key" if self.experiment_key is not None else "experiment_id"
        project = str(self.project_id).strip() if self.project_id not in (None, "", "None") else None
        return {"experiment_key": None, "experiment_id": None, "project_id": project, name: self._name()}

    def _say_start(self, context: Context, found: Any, ends_at: datetime | None, moment: datetime) -> None:
        """Say once what is waited for: a sensor that is rescheduled starts as a new process each time."""
        from airflow_amplitude_experiment.triggers.end_date import waiting_for

        self._warned = False
        if self._said or (not self.deferrable and self.reschedule and context["ti"].get_first_reschedule_date(context)):
            return
        self._said = True
        self.log.info(waiting_for(found, ends_at, self.recheck if self.deferrable else self.poke_interval))
        if ends_at and ends_at > moment + timedelta(seconds=self.timeout):
            self.log.warning("That is after this sensor's timeout of %s", timedelta(seconds=self.timeout))

    def _say_failure(self, error: Exception) -> None:
        if not self._warned:
            self.log.warning("%s The wait goes on.", error)
        self._warned = True

    def _report(self, record: dict[str, Any]) -> dict[str, Any]:
        self.log.info("Experiment %s (%s) ended at %s", record["key"], record["id"], record["ended_at"])
        return record

    def _check_on_missing(self) -> None:
        from airflow_amplitude_experiment.api._checks import one_of

        one_of("fail", "wait")("on_missing", self.on_missing)


def _seconds(recheck: Any) -> float:
    """Return the interval in seconds.

    :raises ValueError: it is no time, or less than a second.
    """
    seconds = recheck.total_seconds() if isinstance(recheck, timedelta) else recheck
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or seconds < 1:
        raise ValueError(f"recheck is {recheck!r}, but must be seconds or a timedelta, at least one second")
    return float(seconds)
