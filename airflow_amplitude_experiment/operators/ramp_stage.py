"""One stage of a staged rollout: the ramp that knows its plan.

What it adds to a ramp is all that a rollout has and a single write hasn't: the percentage to start from follows from
the plan, windows and freezes make it wait, the other fields that decide who gets what must be those that the rollout
began with, and its record says which decision it follows. It is put into a DAG by ``staged_rollout``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from airflow_amplitude_experiment.api._checks import boolean, percent
from airflow_amplitude_experiment.api.errors import RolloutRefused

from ._base import AmplitudeTargetOperator, given
from ._run import (
    BETWEEN_LOOKS_AT_A_FREEZE,
    SHORTEST_WAIT,
    moment_of_change,
    newest,
    pulled,
    starting_percentage,
    tried_before,
)
from .ramp import ON_DRIFT, AmplitudeRampRolloutOperator, Move, Order

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context

    from airflow_amplitude_experiment.hooks.guard import GuardedClient
    from airflow_amplitude_experiment.rollout.ramp import RampDecision


class AmplitudeRampStageOperator(AmplitudeRampRolloutOperator):
    """Move an object from one stage of a plan to the next, and nothing else.

    Expects the percentage of the stage before (``start_at``, or ``rollback_to``, where there is none) and accepts its
    own and those of later stages as done. Waits, deferred, for the plan's windows and while the Airflow Variable
    ``amplitude_experiment_freeze`` names the object. A stage below ``start_at`` succeeds without a request.

    :param plan: the plan as ``RolloutPlan.as_dict()`` gives it.
    :param percentage: the stage's percentage.
    :param start_at, rollback_to, segment, enable, on_drift: as in ``staged_rollout``.
    :param begin: task id of the rollout's ``begin``.
    :param ramps: task ids of the earlier stages' ramps, in order.
    :param gates: task ids of the watches that this ramp follows, in order.
    :param approve: task id of the approval that this ramp follows, if any.
    :param mark_start_date: set ``startDate`` of an experiment to ``analysis_from`` in the last stage's write.
    :param settle: seconds after the last stage's write from which its numbers can be analysed.
    :return: the record of a ramp (``at``: when the object reached its percentage), and ``stage``, ``expected``,
        ``fingerprint``, ``weights``, ``fingerprint_taken_anew``, ``evidence_anew``, ``by_hand``, ``approved_by``,
        ``guardrails`` (numbers of the last look), ``analysis_from`` (of an experiment's last stage).

    Source: Management API, "Edit experiment" and "Edit flag" (``rolloutPercentage``, ``targetSegments``).
    """

    template_fields: Sequence[str] = (
        *AmplitudeTargetOperator.template_fields,
        "start_at",
        "rollback_to",
        "segment",
        "enable",
        "on_drift",
    )

    from_percentage: int | str | None = None
    allow_decrease: bool | str = False
    """What a single ramp can be told; that of a stage follows from the plan."""

    def __init__(
        self,
        *,
        plan: Mapping[str, Any],
        percentage: int,
        start_at: int | str | None = None,
        rollback_to: int | str | None = None,
        segment: str | None = None,
        enable: bool | str = False,
        on_drift: str = "fail",
        begin: str,
        ramps: Sequence[str] = (),
        gates: Sequence[str] = (),
        approve: str | None = None,
        mark_start_date: bool = False,
        settle: float = 300.0,
        **kwargs: Any,
    ) -> None:
        # Not by way of the ramp: Airflow merges the DAG's default_args in every __init__ on the way, for every task.
        AmplitudeTargetOperator.__init__(self, **kwargs)
        self.percentage = percentage
        self.segment = segment
        self.enable = enable
        self.on_drift = on_drift
        self._check_what_is_known()
        self.plan = dict(plan)
        self.start_at = start_at
        self.rollback_to = rollback_to
        self.begin = begin
        self.ramps = list(ramps)
        self.gates = list(gates)
        self.approve = approve
        self.mark_start_date = mark_start_date
        self.settle = settle

    def act(self, context: Context) -> dict[str, Any]:
        """Wait for a window, read, decide, write, read back."""
        start = starting_percentage(self.start_at)
        if start is not None and int(self.percentage) < start:
            self.log.info("Stage %s %% is below start_at=%s: nothing to do, no request", self.percentage, start)
            return {"kind": self.kind, "stage": self.percentage, "below_start": True, "written": False}
        return super().act(context)

    def execute_complete(self, context: Context, event: Any = None, held: str = "") -> Any:
        """Look again whether a raise is allowed now, and go on."""
        self._held = held
        return self.execute(context)

    _held = ""
    """Why this task was deferred last, so that a wait is told once and not at every look."""

    def _order(self) -> Order:
        from airflow_amplitude_experiment.rollout.plan import RolloutPlan

        ON_DRIFT("on_drift", self.on_drift)
        to = percent("percentage", self.percentage)
        start, base = starting_percentage(self.start_at), starting_percentage(self.rollback_to)
        plan = RolloutPlan.from_dict(self.plan)
        before = plan.previous(to, -1)
        first = before < (start or 0)  # no stage before this one belongs to this rollout
        expected = (start if start is not None else base or 0) if first or before == -1 else before
        later = tuple(each for each in plan.percentages if each > to)
        return Order(to, expected, boolean("enable", self.enable) and (first or before == -1), later)

    def _prepared(self, context: Context, client: GuardedClient, found: Any, decision: RampDecision) -> Move:
        if decision.raises:
            self._wait_where_raises_must(found)
        facts = {**self._decision(context, found), **self._compared(context, client, found)}
        del facts["at"]  # the record's own moment is that of the write
        analysis_from = self._analysis_from(datetime.now(UTC))
        along = {"start_date": analysis_from.replace("+00:00", "Z")} if analysis_from and self.mark_start_date else {}
        return Move(found, decision, along, {**facts, "analysis_from": analysis_from})

    def _facts(self, context: Context, client: GuardedClient, found: Any) -> dict[str, Any]:
        """Say of a ramp that writes nothing what it may have found out in a try that died after its write."""
        decision = self._decision(context, found)
        if self.on_drift == "continue" and tried_before(context):
            return {**decision, **self._compared(context, client, found)}
        return decision

    def _decision(self, context: Context, found: Any) -> dict[str, Any]:
        """Say which stage this is, since when the object stands there, and which decision the stage follows."""
        verdicts = {gate: pulled(context, gate, "verdict") or {} for gate in self.gates}
        by_hand = [
            f"{gate} was marked successful by hand: {_said(verdict)}"
            for gate, verdict in verdicts.items()
            if verdict.get("verdict") != "pass"
        ]
        if by_hand:
            self.log.warning("This ramp follows a decision by hand: %s", "; ".join(by_hand))
        since = moment_of_change(found)
        return {
            "stage": self.percentage,
            "expected": self._order().expected,
            "at": since.isoformat(timespec="milliseconds"),
            "by_hand": "; ".join(by_hand) or None,
            "approved_by": self._approver(context),
            "guardrails": next((each["guardrails"] for each in reversed(verdicts.values()) if each), None),
            "analysis_from": self._analysis_from(since),
        }

    def _approver(self, context: Context) -> str | None:
        """Say who approved this raise, where somebody was asked."""
        if self.approve is None:
            return None
        answer = pulled(context, self.approve)
        if not isinstance(answer, Mapping):
            return f"nobody: task {self.approve} was marked successful by hand"
        if answer.get("not_asked"):
            return None
        who = answer.get("responded_by_user")
        return str((who or {}).get("name") or (who or {}).get("id") or "somebody, whom Airflow did not name")

    def _compared(self, context: Context, client: GuardedClient, found: Any) -> dict[str, Any]:
        """Compare what decides who gets what with what the rollout began with.

        :raises RolloutRefused: it was changed since, and ``on_drift`` is not ``continue``.
        """
        from airflow_amplitude_experiment.hooks.lookup import calls_of
        from airflow_amplitude_experiment.rollout.fingerprint import changed, fingerprint
        from airflow_amplitude_experiment.rollout.traffic import weights_of

        variants = client.send(calls_of(self.kind).variants(found.id))
        now = fingerprint(found, variants, segment=given(self.segment))
        before = newest(context, [self.begin, *self.ramps], "fingerprint")
        different = changed(before, now) if before is not None else []
        if before is None:
            self.log.warning("What %s began with is not on record any more; it is taken as it is now.", self.target)
        if different and self.on_drift != "continue":
            raise RolloutRefused(
                f"{self.target} was changed since this rollout began: {'; '.join(different)}."
                f"{self._last_change(client, found)} Nothing was written. Change it back and clear this task; or, if "
                "it is meant so, start a new run with start_at (or use on_drift='continue', which starts the "
                "guardrails' evidence anew)."
            )
        if different:
            self.log.warning(
                "%s was changed since this rollout began, and on_drift='continue': %s",
                self.target,
                "; ".join(different),
            )
        return {
            "fingerprint": now,
            "weights": weights_of(found, variants, given(self.segment)),
            "fingerprint_taken_anew": before is None,
            "evidence_anew": "; ".join(different) or None,
        }

    def _wait_where_raises_must(self, found: Any) -> None:
        """Defer while a freeze or the plan's windows allow no raise."""
        from airflow_amplitude_experiment.hooks.freeze import frozen
        from airflow_amplitude_experiment.rollout.plan import RolloutPlan

        now = datetime.now(UTC)
        opening = RolloutPlan.from_dict(self.plan).next_opening(now)
        if glob := frozen(found.key):
            held = (
                f"the Airflow Variable amplitude_experiment_freeze names it ({glob!r}); looking again every 5 minutes"
            )
            self._defer_until(max(now + BETWEEN_LOOKS_AT_A_FREEZE, opening), held)
        if opening > now:
            self._defer_until(opening, f"the plan's windows open next at {opening.astimezone(UTC):%Y-%m-%d %H:%MZ}")

    def _defer_until(self, moment: datetime, held: str) -> None:
        from airflow.providers.standard.triggers.temporal import DateTimeTrigger

        if held != self._held:
            self.log.info("%s is not raised to %s %% now: %s", self.target, self.percentage, held)
        moment = max(moment, datetime.now(UTC) + SHORTEST_WAIT)
        self.defer(trigger=DateTimeTrigger(moment), method_name="execute_complete", kwargs={"held": held})

    def _analysis_from(self, reached: datetime) -> str | None:
        """Return from when an experiment that reached its last stage can be analysed; ``None`` before that stage."""
        from airflow_amplitude_experiment.rollout.plan import RolloutPlan

        if self.kind != "experiment" or self.percentage != RolloutPlan.from_dict(self.plan).percentages[-1]:
            return None
        return (reached + timedelta(seconds=self.settle)).isoformat(timespec="seconds")


def _said(verdict: Mapping[str, Any]) -> str:
    return f"its verdict is {verdict['verdict']}" if verdict else "it left no verdict"
