"""The requests of a rollback: read, lower, read back; each tried until it is done.

It is apart from the operator because a DAG file that names a staged rollout needs none of it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any

from airflow.providers.common.compat.sdk import AirflowException, AirflowFailException

from ._way_down import SECONDS_OF_SILENCE, Job, Stopped, WayDown, aside, may_pass, sentence

if TYPE_CHECKING:
    from airflow_amplitude_experiment.hooks.guard import GuardedClient, Reading
    from airflow_amplitude_experiment.hooks.lookup import Kind

    from ._audit import Audit

SECONDS_OF_LAG = 2.0
"""A read may lag behind a write. What still stands higher is read once more after so long."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Goal:
    """Where a rollout goes back to.

    :param percentage: of all users, or of ``segment``; ``None`` for off.
    """

    kind: Kind
    percentage: int | None
    segment: str | None
    patience: timedelta
    reason: str

    @property
    def is_nothing(self) -> bool:
        """Whether it can be sent without a read: off, or 0 % of all users."""
        return self.percentage is None or (self.percentage == 0 and self.segment is None)

    def is_reached(self, found: Any) -> bool:
        """Whether an object is down, or further: somebody may have gone lower."""
        if found.deleted or found.enabled is False:
            return True
        stands = self.stands(found)
        return self.percentage is not None and stands is not None and stands <= self.percentage

    def stands(self, found: Any) -> int | float | None:
        """Return the percentage of an object that this rollout moves."""
        from airflow_amplitude_experiment.rollout.history import percentage_of

        return percentage_of(found, self.segment)

    def fields(self, found: Any) -> dict[str, Any]:
        """Return what to send."""
        from airflow_amplitude_experiment.rollout.segments import with_percentage

        if self.percentage is None:
            return {"enabled": False}
        if self.segment is not None:
            return {"target_segments": with_percentage(found, self.segment, self.percentage)}
        return {"rollout_percentage": self.percentage}

    def __str__(self) -> str:
        if self.percentage is None:
            return "off"
        return f"{self.percentage} %{f' of segment {self.segment}' if self.segment else ''}"


class WayBack:
    """One rollback, from the first read to the report."""

    def __init__(
        self,
        client: GuardedClient,
        goal: Goal,
        breach: Mapping[str, Any],
        *,
        audit: Audit,
        log: Any,
        stop: threading.Event,
    ) -> None:
        self._client = client
        self._goal = goal
        self._breach = breach
        self._audit = audit
        self._log = log
        self._stop = stop
        self.found: Any = None

    @property
    def _what(self) -> str:
        return f"{self._goal.kind} {self._breach['key'] or self._breach['id']}"

    def go(self, reading: Callable[[], Reading[Any]]) -> dict[str, Any]:
        """Go down and return what became of it.

        :param reading: how the object is read first.

        :raises AirflowFailException: it is not down for a reason that another try can't heal.
        :raises AirflowException: it is not down for a reason that may pass.
        """
        with WayDown(self._goal.patience, log=self._log, stop=self._stop) as way:
            self.found = self._read(way, reading)
            if self.found is not None and self._goal.is_reached(self.found):
                return self._leave_as_it_is()
            intent = self._line()
            self._audit.intent(**intent)
            try:
                written = self._send(way)
                now = self._read_back(way) if written else None
            except (AirflowException, Stopped) as error:
                self._audit.result(**intent, outcome=f"failed: {error}")
                raise
        self._audit.result(**intent, outcome="written" if written else "not sent: the connection is read-only")
        return self._outcome(now, written=written)

    # --- the requests ---

    def _read(self, way: WayDown, reading: Callable[[], Reading[Any]]) -> Any:
        """Read the object; where that fails or is slow and nothing has to be known of it, go on without."""
        try:
            return aside(self._client.read, reading()).result(timeout=SECONDS_OF_SILENCE)
        except Exception as error:
            why = "no answer" if isinstance(error, TimeoutError) else sentence(error)
            if not (isinstance(error, TimeoutError) or may_pass(error)):
                raise AirflowFailException(
                    f"{self._what} could not be read: {why} By hand: {self._by_hand}."
                ) from error
            if self._goal.is_nothing and self._breach["id"]:
                self._log.error("%s could not be read (%s); taking it %s without that.", self._what, why, self._words)
                return None
        return self._insist(way, Job(lambda: self._client.read(reading()), f"Reading {self._what}", self._by_hand))

    def _get(self) -> Any:
        from airflow_amplitude_experiment.hooks.lookup import calls_of

        object_id = self.found.id if self.found is not None else self._breach["id"]
        return self._client.send(calls_of(self._goal.kind).get(object_id))

    def _send(self, way: WayDown) -> bool:
        """Lower it. Return whether that was sent: a read-only connection sends nothing."""
        from airflow_amplitude_experiment.api import AmplitudeReadOnly
        from airflow_amplitude_experiment.hooks.lookup import calls_of

        object_id = self.found.id if self.found is not None else self._breach["id"]
        send = partial(
            self._client.send,
            calls_of(self._goal.kind).update(object_id, **self._goal.fields(self.found)),
            reason=self._goal.reason,
            found=self.found,
            way_down=True,
        )
        try:
            self._insist(way, Job(send, f"Taking {self._what} {self._words}", self._by_hand, writes=True))
        except AmplitudeReadOnly as refusal:
            self._log.error("NOT rolled back: %s By hand, if that is meant: %s", refusal, self._by_hand)
            return False
        return True

    def _read_back(self, way: WayDown) -> Any:
        """Read back, once more after a moment where it is not down yet (law 1).

        :raises AirflowFailException: it is still up.
        """
        for wait in (0.0, SECONDS_OF_LAG):
            way.rest(wait)
            now = self._insist(way, Job(self._get, f"Reading {self._what} back", self._by_hand))
            if self._goal.is_reached(now):
                return now
        raise AirflowFailException(
            f"{self._what} was taken {self._words}, and Amplitude accepted that, but it stands at "
            f"{self._goal.stands(now)} % and is {'enabled' if now.enabled else 'disabled'}; an approval may be pending "
            f"there. By hand: {self._by_hand}."
        )

    def _insist(self, way: WayDown, job: Job) -> Any:
        """Send a job until it is done.

        :raises AirflowFailException: it failed for a reason that another try can't heal.
        :raises AirflowException: it is not done at the deadline.
        :raises AmplitudeReadOnly: the connection is read-only.
        """
        from airflow_amplitude_experiment.api import AmplitudeReadOnly

        (done,) = way.finished([way.start(job)])
        if done.error is None:
            return done.answer
        if isinstance(done.error, AmplitudeReadOnly):
            raise done.error
        raised = AirflowException if may_pass(done.error) else AirflowFailException
        raise raised(f"{job.what} failed: {sentence(done.error)} By hand: {self._by_hand}.") from done.error

    # --- what became of it ---

    @property
    def _words(self) -> str:
        return "off" if self._goal.percentage is None else f"to {self._goal}"

    @property
    def _by_hand(self) -> str:
        """What to click in Amplitude."""
        from airflow_amplitude_experiment.ui.links import APPS, object_url

        click = "switch Active off" if self._goal.percentage is None else f"set its rollout to {self._goal}"
        if self.found is None:
            app = f"{APPS.get(self._client.base_url, self._client.base_url)}/experiment"
            return f"open {app}, find {self._what} (id {self._breach['id']}) and {click}"
        url = object_url(self._client.base_url, self._client.rules.organization, self.found)
        return f"open {url} ({self._what}) and {click}"

    def _line(self) -> dict[str, Any]:
        """Return what the audit lines say."""
        return {
            "kind": self._goal.kind,
            "key": self._breach["key"],
            "id": self._breach["id"],
            "project_id": self._breach["project_id"],
            "before": self._goal.stands(self.found) if self.found is not None else None,
            "after": self._goal.percentage,
            "raises": False,
            **({"segment": self._goal.segment} if self._goal.segment else {}),
            **({"switches_off": True} if self._goal.percentage is None else {}),
            "stage": self._breach["stage"],
            "guardrails": self._breach["guardrails"],
        }

    def _leave_as_it_is(self) -> dict[str, Any]:
        """Say that there is nothing to take down."""
        found = self.found
        if found.deleted:
            how = "is archived"
        elif found.enabled is False:
            how = f"is off, at {self._goal.stands(found)} %"
        else:
            how = f"stands at {self._goal.stands(found)} %"
        self._log.warning("%s %s already; the rollback to %s changes nothing.", self._what, how, self._goal)
        return self._outcome(found, written=False)

    def _outcome(self, now: Any, *, written: bool) -> dict[str, Any]:
        before, after = self.found, now if now is not None else self.found
        if written:
            self._log.info("%s is rolled back %s, read back.", self._what, self._words)
        return {
            "kind": self._goal.kind,
            "key": self._breach["key"] or after.key,
            "id": self._breach["id"] or after.id,
            "project_id": self._breach["project_id"] or after.project_id,
            "segment": self._goal.segment,
            "before": self._goal.stands(before) if before is not None else None,
            "after": self._goal.stands(after),
            "enabled": after.enabled,
            "written": written,
            "at": datetime.now(UTC).isoformat(timespec="seconds"),
        }
