"""Wait until an experiment's end date has passed."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Literal

from ._wait import AmplitudeWaitSensor, how_often, seconds

if TYPE_CHECKING:
    from airflow_amplitude_experiment.triggers._verdict import Verdict
    from airflow_amplitude_experiment.triggers._wait import AmplitudeWaitTrigger


class AmplitudeEndDateSensor(AmplitudeWaitSensor):
    """Wait until an experiment's end date has passed, and hold no worker slot meanwhile.

    The date is looked at once at the start, then every ``recheck``, because people move dates, and once more when it
    has come. A date without a time ends with that day in UTC. An end date ends nothing in Amplitude: what is to
    happen then is for the tasks that follow. However many such tasks wait, a triggerer asks for all of them at once.

    An experiment that is archived, or that has no end date (``on_missing``), ends the task at once. A passing error
    (no connection, 429, 5xx) only delays the next look.

    :param experiment_key, experiment_id: the experiment; exactly one.
    :param project_id: its project, where the connection names none.
    :param recheck: how often to look whether the date was moved; seconds or a timedelta.
    :param on_missing: what to do where there is no end date, now or later: ``fail``, or ``wait`` for one.
    :param deadline: the wait ends here, whatever try it is: a datetime with a time zone, or its ISO 8601 text.
    :param deferrable: wait in the triggerer. With ``False`` the task pokes: see ``mode`` and ``poke_interval``.
    :param timeout: fail (with ``soft_fail``: skip) after so long; seconds or a timedelta. Each try has its own.
    :param poke_interval: how often to look without deferring; default is ``recheck``.
    :param amplitude_conn_id: id of the Airflow connection.
    :raises AirflowFailException: archived, no end date, or an error that another try can't heal.
    :return: a record: ``key``, ``id``, ``ended_at`` and ``looked_at`` (UTC).

    Source: Management API, "Get experiment details" (``endDate``).
    """

    template_fields: Sequence[str] = (
        *AmplitudeWaitSensor.template_fields,
        "experiment_key",
        "experiment_id",
        "on_missing",
    )

    def __init__(
        self,
        *,
        experiment_key: str | None = None,
        experiment_id: str | int | None = None,
        project_id: str | int | None = None,
        recheck: float | timedelta = timedelta(minutes=15),
        on_missing: Literal["fail", "wait"] | str = "fail",
        poke_interval: float | timedelta | None = None,
        **kwargs: Any,
    ) -> None:
        if (experiment_key is None) == (experiment_id is None):
            raise ValueError("Give exactly one of experiment_key, experiment_id")
        interval = seconds("recheck", recheck)
        super().__init__(poke_interval=interval if poke_interval is None else poke_interval, **kwargs)
        self.name_target(experiment_key=experiment_key, experiment_id=experiment_id, project_id=project_id)
        self.recheck = interval
        self.on_missing = on_missing
        if isinstance(on_missing, str) and "{{" not in on_missing and "{%" not in on_missing:
            self._check_on_missing()

    @property
    def fields(self) -> tuple[str, ...]:
        """What the record holds."""
        from airflow_amplitude_experiment.triggers.end_date import FIELDS

        return FIELDS

    def trigger(self, **names: Any) -> AmplitudeWaitTrigger:
        """Return the trigger that waits for the end date."""
        from airflow_amplitude_experiment.triggers.end_date import AmplitudeEndDateTrigger

        self._check_on_missing()
        return AmplitudeEndDateTrigger(interval=self.recheck, on_missing=self.on_missing, **names)

    def waiting_for(self, found: Any, verdict: Verdict) -> str:
        """Say when the end is."""
        ends = f"ends at {verdict.matters_at:%Y-%m-%d %H:%MZ}" if verdict.matters_at else "has no end date yet"
        often = how_often(self.recheck if self.deferrable else self.poke_interval)
        return f"Experiment {found.key} ({found.id}) {ends}; looking again {often}"

    def report(self, record: dict[str, Any]) -> dict[str, Any]:
        """Say when it ended."""
        self.log.info("Experiment %s (%s) ended at %s", record["key"], record["id"], record["ended_at"])
        return record

    def _check_on_missing(self) -> None:
        from airflow_amplitude_experiment.api._checks import one_of

        one_of("fail", "wait")("on_missing", self.on_missing)
