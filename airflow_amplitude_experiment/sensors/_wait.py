"""What the sensors share: the first look, the choice between triggerer and poking, and how a wait ends."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from airflow.providers.common.compat.sdk import (
    AirflowSensorTimeout,
    AirflowSkipException,
    BaseSensorOperator,
    PokeReturnValue,
)

from airflow_amplitude_experiment.operators._base import DEFAULT_CONNECTION, TargetMixin, ending_what_cannot_heal, given

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context

    from airflow_amplitude_experiment.triggers._verdict import Verdict
    from airflow_amplitude_experiment.triggers._wait import AmplitudeWaitTrigger

NINETY_DAYS = timedelta(days=90)
A_YEAR = 365 * 86_400.0


class AmplitudeWaitSensor(TargetMixin, BaseSensorOperator):
    """Base of the sensors that wait for something of one flag or experiment.

    :param deadline: the wait ends here, whatever try it is: a datetime with a time zone, or its ISO 8601 text.
    :param deferrable: wait in the triggerer. With ``False`` the task pokes: see ``mode`` and ``poke_interval``.
    :param timeout: fail (with ``soft_fail``: skip) after so long; seconds or a timedelta. Each try has its own.
    :param amplitude_conn_id: id of the Airflow connection.
    """

    template_fields: Sequence[str] = ("project_id", "deadline", "amplitude_conn_id")
    ui_color = "#d5e4ff"

    def __init__(
        self,
        *,
        deadline: datetime | str | None = None,
        deferrable: bool = True,
        timeout: float | timedelta = NINETY_DAYS,
        amplitude_conn_id: str = DEFAULT_CONNECTION,
        **kwargs: Any,
    ) -> None:
        super().__init__(timeout=timeout, **kwargs)
        self.deadline = deadline.isoformat() if isinstance(deadline, datetime) else deadline
        self.deferrable = deferrable
        self.amplitude_conn_id = amplitude_conn_id
        self._said = False
        self._warned = False
        if isinstance(self.deadline, str) and "{{" not in self.deadline and "{%" not in self.deadline:
            self._ends_by()

    @abstractmethod
    def trigger(self, **names: Any) -> AmplitudeWaitTrigger:
        """Return the trigger that waits; what it looks for and what it makes of it hold for the first look too.

        :raises ValueError: an argument that can't be meant, once templates are rendered.
        """

    @abstractmethod
    def waiting_for(self, found: Any, verdict: Verdict) -> str:
        """Say what is waited for."""

    @abstractmethod
    def report(self, record: dict[str, Any]) -> dict[str, Any]:
        """Say how the wait ended, and return the result of the task."""

    @property
    @abstractmethod
    def fields(self) -> tuple[str, ...]:
        """What the record holds."""

    def poke(self, context: Context) -> PokeReturnValue:
        """Look once; where the wait is not over, leave it to the triggerer unless ``deferrable=False``.

        Airflow's own ``execute`` calls this, and applies ``soft_fail`` and its like to the first look too.
        """
        from airflow_amplitude_experiment.triggers._moments import PASSING, after_failure, next_look, now
        from airflow_amplitude_experiment.triggers._verdict import Verdict

        found, verdict = None, Verdict()
        with ending_what_cannot_heal():
            ends_by, trigger = self._ends_by(), self._trigger()
        try:
            with ending_what_cannot_heal():
                found = self._look(context, trigger)
            verdict = self.verdict_on(found, trigger, context)
        except PASSING as error:
            self._say_failure(error)
            again = after_failure(now(), 1, error)
        else:
            if verdict.record is not None:
                return PokeReturnValue(is_done=True, xcom_value=self.report(verdict.record))
            again = next_look(now(), trigger.interval or 60.0)
        if ends_by and now() >= ends_by:
            raise AirflowSensorTimeout(self._time_is_up())
        if found is not None:
            self._say_start(context, found, verdict, ends_by)
        if self.deferrable:
            self._leave_to_triggerer(trigger, found, verdict, again, ends_by)
        return PokeReturnValue(is_done=False)

    def verdict_on(self, found: Any, trigger: AmplitudeWaitTrigger, context: Context) -> Verdict:
        """Say what the object means for the wait."""
        from airflow_amplitude_experiment.triggers._moments import now

        with ending_what_cannot_heal():
            return trigger.judge(found, now())

    def execute_complete(self, context: Context, event: Any) -> dict[str, Any]:
        """Take what the trigger reports, or fail with the error that it met."""
        from airflow_amplitude_experiment.triggers._events import validated

        with ending_what_cannot_heal():
            return self.report(validated(event, *self.fields))

    def resume_execution(self, next_method: str, next_kwargs: dict[str, Any] | None, context: Context) -> Any:
        """Go on as Airflow's sensors do, but say whose time was up; before 3.3 they also forget ``soft_fail`` then."""
        try:
            return super().resume_execution(next_method, next_kwargs, context)
        except AirflowSensorTimeout as error:
            if self.soft_fail:
                raise AirflowSkipException("Skipping due to soft_fail is set to True.") from error
            raise AirflowSensorTimeout(self._time_is_up()) from error

    def _time_is_up(self) -> str:
        from airflow_amplitude_experiment.triggers._moments import now

        ends_by = self._ends_by()
        passed = ends_by is not None and now() >= ends_by
        limit = f"the deadline was {ends_by}" if passed else f"the timeout is {timedelta(seconds=self.timeout)}"
        return f"{self.kind.capitalize()} {self._name()}: not over at {now():%Y-%m-%d %H:%M:%SZ}, and {limit}"

    def _trigger(self) -> AmplitudeWaitTrigger:
        by_key = self.flag_key is not None or self.experiment_key is not None
        return self.trigger(
            amplitude_conn_id=self.amplitude_conn_id,
            kind=self.kind,
            next_look="",
            project_id=str(self.project_id).strip() if given(self.project_id) is not None else None,
            **{"object_key" if by_key else "object_id": self._name()},
        )

    def _look(self, context: Context, trigger: AmplitudeWaitTrigger) -> Any:
        from airflow_amplitude_experiment.hooks.experiment import AmplitudeExperimentHook
        from airflow_amplitude_experiment.triggers._find import find

        with AmplitudeExperimentHook(self.amplitude_conn_id).get_conn() as client:
            reading = find(
                client,
                trigger.kind,
                object_id=trigger.object_id,
                object_key=trigger.object_key,
                project_id=trigger.project_id,
                needs=trigger.needs,
                archived_too=trigger.archived_too,
            )
            found = client.read(reading)
            self.leave_link(context, client, found)
            return found

    def _leave_to_triggerer(
        self, trigger: AmplitudeWaitTrigger, found: Any, verdict: Verdict, again: datetime, ends_by: datetime | None
    ) -> None:
        """Defer. What was found goes along, so that a later look costs one request at the most."""
        from airflow_amplitude_experiment.triggers._moments import now

        trigger.next_look = again.isoformat()
        trigger.matters_at = verdict.matters_at.isoformat() if verdict.matters_at else None
        if found is not None:
            trigger.object_id, trigger.object_key = found.id, found.key
            trigger.project_id = found.project_id or trigger.project_id
        timeout = timedelta(seconds=self.timeout)
        self.defer(
            trigger=trigger,
            method_name="execute_complete",
            timeout=min(timeout, ends_by - now()) if ends_by else timeout,
        )

    def _say_start(self, context: Context, found: Any, verdict: Verdict, ends_by: datetime | None) -> None:
        """Say once what is waited for: a sensor that is rescheduled starts as a new process each time."""
        from airflow_amplitude_experiment.triggers._moments import now

        self._warned = False
        if self._said or (not self.deferrable and self.reschedule and context["ti"].get_first_reschedule_date(context)):
            return
        self._said = True
        self.log.info(self.waiting_for(found, verdict))
        if verdict.matters_at and verdict.matters_at > now() + timedelta(seconds=self.timeout):
            self.log.warning("That is after this sensor's timeout of %s", timedelta(seconds=self.timeout))
        if verdict.matters_at and ends_by and verdict.matters_at > ends_by:
            self.log.warning("That is after this sensor's deadline of %s", ends_by.isoformat())

    def _say_failure(self, error: Exception) -> None:
        if not self._warned:
            self.log.warning("%s The wait goes on.", error)
        self._warned = True

    def _ends_by(self) -> datetime | None:
        """Return the deadline as a moment.

        :raises ValueError: it is no moment, or has no time zone.
        """
        if given(self.deadline) is None:
            return None
        try:
            moment = datetime.fromisoformat(str(self.deadline).strip())
        except ValueError:
            moment = None
        if moment is None or moment.tzinfo is None:
            raise ValueError(
                f"deadline is {self.deadline!r}, but must be a moment with its time zone, such as 2026-01-31T18:00:00Z"
            )
        return moment.astimezone(UTC)


def seconds(name: str, interval: Any) -> float:
    """Return an interval in seconds.

    :raises ValueError: it is no time, less than a second, or so long that the next look would be beyond all dates.
    """
    found = interval.total_seconds() if isinstance(interval, timedelta) else interval
    if isinstance(found, bool) or not isinstance(found, int | float) or not 1 <= found <= A_YEAR:
        raise ValueError(
            f"{name} is {interval!r}, but must be seconds or a timedelta, at least one second and at most 365 days"
        )
    return float(found)


def how_often(interval: float | None) -> str:
    """Say how often it is looked at."""
    if interval is None:
        return "as often as 2 % of the daily quota allows"
    return f"every {interval / 60:g} min" if interval >= 60 else f"every {interval:g} s"
