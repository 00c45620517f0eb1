"""The requests of a rollback: read, lower, read back; each tried until it is done.

It is apart from the operator because a DAG file that names a staged rollout needs none of it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from airflow.providers.common.compat.sdk import AirflowException, AirflowFailException

from . import _way_down
from ._way_down import Job, WayDown, aside, may_pass, sentence

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

    def is_passed(self, found: Any) -> bool:
        """Whether an object is further down than this."""
        stands = self.stands(found)
        return self.is_reached(found) and (found.deleted or found.enabled is False or stands != self.percentage)

    def fields(self, found: Any) -> dict[str, Any]:
        """Return what to send: nothing but the switch, or one percentage.

        :raises RolloutRefused: the segment is not there, or the segments can't be written back.
        """
        from airflow_amplitude_experiment.rollout.segments import with_percentage

        if self.percentage is None:
            return {"enabled": False}
        if self.segment is not None:
            return {"target_segments": with_percentage(found, self.segment, self.percentage)}
        return {"rollout_percentage": self.percentage}

    @property
    def words(self) -> str:
        """How something is taken there: ``off``, ``to 0 %``."""
        return "off" if self.percentage is None else f"to {self}"

    def __str__(self) -> str:
        if self.percentage is None:
            return "off"
        return f"{self.percentage} %{f' of segment {self.segment}' if self.segment else ''}"


class WayBack:
    """One rollback, from the first read to the report.

    :param what: the object in words, such as ``flag new-checkout``.
    :param breach: the verdict that a watch left; ``key``, ``id`` and ``project_id`` may be unknown in it.
    """

    def __init__(
        self,
        client: GuardedClient,
        goal: Goal,
        breach: Mapping[str, Any],
        *,
        what: str,
        audit: Audit,
        log: Any,
        stop: threading.Event,
    ) -> None:
        self._client = client
        self._goal = goal
        self._breach = breach
        self._what = what
        self._audit = audit
        self._log = log
        self._stop = stop
        self._seen: Any = None
        self._left_alone = False
        self.found: Any = None

    def go(self, reading: Callable[[], Reading[Any]]) -> dict[str, Any]:
        """Go down and return what became of it.

        :param reading: how the object is read first.
        :raises AirflowFailException: it is not down for a reason that another try can't heal.
        :raises AirflowException: it is not down for a reason that may pass.
        """
        self._refuse_another_project()
        with WayDown(self._goal.patience, log=self._log, stop=self._stop) as way:
            self.found = self._seen = self._read(way, reading)
            if self.found is not None and self._goal.is_reached(self.found):
                self._say_it_is_down(self.found)
                return self._outcome(self.found, written=False)
            now = self._lower(way, self._goal)
            if now is not None and not self._goal.is_reached(now):
                raise AirflowFailException(self._not_taken(self._other_way_down(way, now)))
        written = now is not None and not self._left_alone
        if written:
            self._log.info("%s is rolled back %s, read back.", self._what, self._goal.words)
            self._say_who_stays_in(now)
        return self._outcome(now if now is not None else self.found, written=written)

    # --- the steps ---

    def _refuse_another_project(self) -> None:
        """Refuse where the connection names another project than the one that was watched: no read may tell later.

        :raises AirflowFailException: it does.
        """
        named, watched = self._client.rules.project_id, self._breach.get("project_id")
        if named and watched and named != watched:
            raise AirflowFailException(
                f"{self._what} was watched in project {watched}, but the connection names project {named} now. "
                f"Nothing was written. By hand: {self._by_hand}."
            )

    def _read(self, way: WayDown, reading: Callable[[], Reading[Any]]) -> Any:
        """Read the object; where that fails or is slow and nothing has to be known of it, go on without."""
        from airflow_amplitude_experiment.api import AmplitudeError, RolloutRefused

        if not (self._goal.is_nothing and self._breach.get("id")):
            return self._insist(way, Job(lambda: self._client.read(reading()), f"Reading {self._what}", self._by_hand))
        try:
            return aside(self._client.read, reading()).result(timeout=_way_down.SECONDS_OF_SILENCE)
        except RolloutRefused as refusal:
            raise AirflowFailException(f"{sentence(refusal)} By hand, if it is meant: {self._by_hand}.") from refusal
        except (AmplitudeError, TimeoutError) as error:
            self._log.error(
                "%s could not be read (%s); taking it %s without that. By hand, now: %s",
                self._what,
                "no answer" if isinstance(error, TimeoutError) else sentence(error).rstrip("."),
                self._goal.words,
                self._by_hand,
            )
            return None

    def _lower(self, way: WayDown, goal: Goal) -> Any:
        """Send one change and read it back. Return what is there now; nothing where the connection is read-only."""
        line = self._line(goal)
        self._audit.intent(**line)
        try:
            sent = self._send(way, goal)
            now = self._read_back(way, goal) if sent else None
        except AirflowException as error:
            self._audit.result(**line, outcome=f"failed: {error}")
            raise
        if not sent:
            outcome = "not sent: the connection is read-only"
        elif not goal.is_reached(now):
            outcome = "failed: accepted, but not taken"
        else:
            outcome = "left as it is: somebody went lower" if self._left_alone else "written"
        self._audit.result(**line, outcome=outcome)
        return now

    def _send(self, way: WayDown, goal: Goal) -> bool:
        """Send a change until it is accepted. Return whether it was: a read-only connection sends nothing."""
        from airflow_amplitude_experiment.api import AmplitudeReadOnly

        tries = 0

        def change() -> None:
            nonlocal tries
            tries += 1
            if tries == 1 or goal.is_nothing or not self._is_down_by_now(goal):
                self._change(goal)

        try:
            self._insist(way, Job(change, f"Taking {self._what} {goal.words}", self._by_hand, writes=True))
        except AmplitudeReadOnly as refusal:
            self._log.error("NOT rolled back: %s By hand, if that is meant: %s", refusal, self._by_hand)
            return False
        return True

    def _is_down_by_now(self, goal: Goal) -> bool:
        """Look again before another try: a percentage that was down is one up where somebody went lower since."""
        self._seen = self._get()
        if not goal.is_reached(self._seen):
            return False
        if goal.is_passed(self._seen):
            self._left_alone = True
            self._say_it_is_down(self._seen)
        return True

    def _change(self, goal: Goal) -> None:
        from airflow_amplitude_experiment.hooks.lookup import calls_of

        self._client.send(
            calls_of(goal.kind).update(self._id, **goal.fields(self._seen)),
            reason=goal.reason,
            found=self._seen,
            way_down=True,
        )

    def _read_back(self, way: WayDown, goal: Goal) -> Any:
        """Read back, once more after a moment where it is not down yet (law 1)."""
        now = self._insist(way, Job(self._get, f"Reading {self._what} back", self._by_hand))
        if not goal.is_reached(now):
            way.rest(SECONDS_OF_LAG)
            now = self._insist(way, Job(self._get, f"Reading {self._what} back", self._by_hand))
        return now

    def _other_way_down(self, way: WayDown, now: Any) -> Any:
        """Take what can't be switched off to 0 %, as the kill switch does. Return what is there now."""
        if self._goal.percentage is not None or self._goal.stands(now) in (0, None):
            return now
        self._log.error("%s still shows as enabled; taking it to 0 %%. By hand, now: %s", self._what, self._by_hand)
        self._seen = now
        try:
            return self._lower(way, replace(self._goal, percentage=0)) or now
        except AirflowException:  # the log has it; what counts is that it is still on
            return now

    def _insist(self, way: WayDown, job: Job) -> Any:
        """Send a job until it is done.

        :raises AirflowFailException: it failed for a reason that another try can't heal.
        :raises AirflowException: it is not done at the deadline, or the task was stopped.
        :raises AmplitudeReadOnly: the connection is read-only.
        """
        from airflow_amplitude_experiment.api import AmplitudeError, AmplitudeReadOnly, RolloutRefused

        (done,) = way.finished([way.start(job)])
        if done.error is None:
            return done.answer
        if isinstance(done.error, AmplitudeReadOnly):
            raise done.error
        for_good = isinstance(done.error, AmplitudeError | RolloutRefused) and not may_pass(done.error)
        raised = AirflowFailException if for_good else AirflowException
        raise raised(f"{job.what} failed: {sentence(done.error)} By hand: {self._by_hand}.") from done.error

    def _get(self) -> Any:
        from airflow_amplitude_experiment.hooks.lookup import calls_of

        return self._client.send(calls_of(self._goal.kind).get(self._id))

    # --- what became of it ---

    @property
    def _id(self) -> Any:
        return self.found.id if self.found is not None else self._breach["id"]

    @property
    def _by_hand(self) -> str:
        """What to click in Amplitude."""
        from airflow_amplitude_experiment.ui.links import APPS, object_url

        click = "switch Active off" if self._goal.percentage is None else f"set its rollout to {self._goal}"
        if self.found is None:
            app = f"{APPS.get(self._client.base_url, self._client.base_url)}/experiment"
            return f"open {app}, find {self._what} and {click}"
        url = object_url(self._client.base_url, self._client.rules.organization, self.found)
        return f"open {url} ({self._what}) and {click}"

    def _line(self, goal: Goal) -> dict[str, Any]:
        """Return what the audit lines say."""
        before = goal.stands(self._seen) if self._seen is not None else None
        switch = {"enabled": {"from": getattr(self._seen, "enabled", None), "to": False}}
        return {
            **self._names(self._seen),
            "before": before,
            "after": before if goal.percentage is None else goal.percentage,
            "raises": False,
            **({"segment": goal.segment} if goal.segment else {}),
            **(switch if goal.percentage is None else {}),
            "stage": self._breach["stage"],
            "guardrails": self._breach["guardrails"],
        }

    def _names(self, shown: Any) -> dict[str, Any]:
        known = {name: self._breach.get(name) for name in ("key", "id", "project_id")}
        return {"kind": self._goal.kind} | {name: value or getattr(shown, name, None) for name, value in known.items()}

    def _not_taken(self, now: Any) -> str:
        return (
            f"{self._what} was taken {self._goal.words}, and Amplitude accepted that, but it is still enabled, at "
            f"{self._goal.stands(now)} %; an approval may be pending there. By hand: {self._by_hand}."
        )

    def _say_it_is_down(self, found: Any) -> None:
        if found.deleted:
            how = "is archived"
        elif found.enabled is False:
            how = f"is off, at {self._goal.stands(found)} %"
        else:
            how = f"stands at {self._goal.stands(found)} %"
        self._log.warning("%s %s already; the rollback to %s changes nothing.", self._what, how, self._goal)

    def _say_who_stays_in(self, now: Any) -> None:
        if self._goal.percentage is not None and getattr(now, "sticky_bucketing", None):
            self._log.warning(
                "%s has sticky bucketing: users who have a variant keep it, also at %s. Only switching it off takes it "
                "from them: run the kill switch, or switch Active off in Amplitude.",
                self._what,
                self._goal,
            )

    def _outcome(self, now: Any, *, written: bool) -> dict[str, Any]:
        """Return the record; where nothing could be read and nothing was sent, nothing is known."""
        return {
            **self._names(now),
            "segment": self._goal.segment,
            "before": self._goal.stands(self.found) if self.found is not None else None,
            "after": self._goal.stands(now) if now is not None else None,
            "enabled": getattr(now, "enabled", None),
            "written": written,
            "at": datetime.now(UTC).isoformat(timespec="seconds"),
        }
