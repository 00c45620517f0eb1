"""Take a rollout back whose own guardrail saw a breach.

One task at the end of a staged rollout. It runs after every stage, as a teardown, and does nothing unless a watch
of its own map index has left a breach (law 10: only a rollout whose own guard saw a breach rolls back). Then it goes
down like the kill switch: unpaced, tried every few seconds, never upwards.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from airflow.providers.common.compat.sdk import AirflowSkipException

from ._base import AmplitudeTargetOperator, given
from ._run import is_off, pulled, starting_percentage, state_of

if TYPE_CHECKING:
    import threading

    from airflow.providers.common.compat.sdk import Context

    from airflow_amplitude_experiment.hooks.guard import GuardedClient, Reading


class AmplitudeRollbackOperator(AmplitudeTargetOperator):
    """Lower or switch off an object after a breach, and nothing else.

    Acts only on a verdict ``breach`` that a watch of this run and map index pushed and that nobody has marked
    successful since; else it skips. What somebody lowered further meanwhile stays as it is. Tried every few seconds
    until ``rollback_deadline``; while Amplitude answers 429, at least until five minutes after the next 00:00 UTC.

    Costs three requests: read, PATCH, read back. Where the read fails and the target is ``off`` or 0 %, the PATCH is
    sent without it.

    :param watches: task ids of the watches, in order.
    :param rollback_to: a percentage; ``"off"``; ``None`` is 0.
    :param on_breach: ``rollback`` or ``off``.
    :param segment: name of the target segment that was ramped, if any.
    :param rollback_deadline: seconds.
    :raises AirflowSkipException: there was no breach, or the run belongs to the past.
    :raises AirflowFailException: it is not down for a reason that another try can't heal.
    :raises AirflowException: it is not down at the deadline for a reason that may pass.
    :return: a record: as that of a ramp, and ``breach`` (``stage``, ``at``, ``reason``, ``guardrails``).

    Source: Management API, "Edit experiment" and "Edit flag" (``enabled``, ``rolloutPercentage``, ``targetSegments``).
    """

    template_fields: Sequence[str] = (
        *AmplitudeTargetOperator.template_fields,
        "rollback_to",
        "segment",
    )
    ui_color = "#ffd9d2"
    writes_objects = True
    defers = False

    def __init__(
        self,
        *,
        watches: Sequence[str],
        rollback_to: int | str | None = None,
        on_breach: str = "rollback",
        segment: str | None = None,
        rollback_deadline: float = 3600.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.watches = list(watches)
        self.rollback_to = rollback_to
        self.on_breach = on_breach
        self.segment = segment
        self.rollback_deadline = rollback_deadline
        self._stop: threading.Event | None = None

    def act(self, context: Context) -> dict[str, Any]:
        """Go down where a breach was seen; else skip."""
        import threading

        from ._assets import announce
        from ._audit import Audit
        from ._way_back import Goal, WayBack

        breach = self._breach(context)
        self._skip_what_is_past(context, breach)
        goal = Goal(
            kind=self.kind,
            percentage=None if self._is_off else starting_percentage(self.rollback_to) or 0,
            segment=given(self.segment),
            patience=timedelta(seconds=self.rollback_deadline),
            reason=f"guardrail breach at {breach['stage']} %: {breach['reason']}",
        )
        self._stop = threading.Event()
        with self.hook.get_conn(paced=False) as client:
            audit = Audit.of(context, environment=client.rules.environment, reason=goal.reason, log=self.log)
            way_back = WayBack(
                client, goal, breach, what=self._words(breach), audit=audit, log=self.log, stop=self._stop
            )
            try:
                outcome = way_back.go(lambda: self._reading(client, breach))
            finally:
                if way_back.found is not None:
                    self.leave_link(context, client, way_back.found)
        record = {**outcome, "reason": goal.reason, "breach": breach, **audit.facts()}
        if record["written"]:
            announce(context, record)
        return record

    def on_kill(self) -> None:
        """Stop trying where somebody stops the task."""
        if self._stop is not None:
            self._stop.set()

    @property
    def _is_off(self) -> bool:
        return self.on_breach == "off" or is_off(self.rollback_to)

    def _breach(self, context: Context) -> dict[str, Any]:
        """Return the breach that a watch left.

        :raises AirflowSkipException: there is none, or it counts no more: a person has marked its watch successful
            since, or it is of an earlier time: a cleared watch keeps what it left until it starts again.
        """
        void = []
        for watch in reversed(self.watches):
            verdict = pulled(context, watch, "verdict")
            if not isinstance(verdict, Mapping) or verdict.get("verdict") != "breach":
                continue
            if (state := state_of(context, watch)) in ("success", "upstream_failed", "skipped"):
                void.append(f"that of {watch}, which is {state} now")
                continue
            self.log.error("%s saw a breach at %s %%: %s", watch, verdict["stage"], verdict["reason"])
            return dict(verdict)
        why = f"No breach counts ({', '.join(void)})" if void else "No guardrail saw a breach"
        raise AirflowSkipException(f"{why}, so nothing is rolled back.")

    def _words(self, breach: Mapping[str, Any]) -> str:
        """Name the object as a person finds it: ``flag new-checkout (id 21002)``."""
        name = f"{self.kind} {breach['key']}" if breach.get("key") else self.target
        return f"{name} (id {breach['id']})" if breach.get("id") else name

    def _skip_what_is_past(self, context: Context, breach: Mapping[str, Any]) -> None:
        """Skip a run of the past, unless its breach was seen since the run last started."""
        from ._past import skip_in_the_past

        run = context.get("dag_run")
        started = getattr(run, "start_date", None)
        if started is None or datetime.fromisoformat(breach["at"]) < started.replace(microsecond=0):
            skip_in_the_past(context, self.log)

    def _reading(self, client: GuardedClient, breach: Mapping[str, Any]) -> Reading[Any]:
        """Read the object that was watched, by its id where that is on record."""
        from airflow_amplitude_experiment.hooks.lookup import by_id

        if not breach.get("id"):
            return self.reading(client)
        return by_id(self.kind, breach["id"], breach.get("project_id"))
