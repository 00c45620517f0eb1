"""Move the rollout percentage of a flag or an experiment."""

from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from airflow_amplitude_experiment.api._checks import boolean, one_of, percent
from airflow_amplitude_experiment.api.errors import RolloutRefused

from ._assets import announce
from ._base import AmplitudeTargetOperator, given, is_known
from ._run import begun, ramped_earlier

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context

    from airflow_amplitude_experiment.hooks.guard import GuardedClient
    from airflow_amplitude_experiment.rollout.ramp import RampDecision

    from ._audit import Audit
    from ._run import Begun

AUDITED = ("stage", "approved_by", "by_hand", "guardrails", "evidence_anew", "analysis_from")
"""What of a record's facts belongs into the audit lines."""

ON_DRIFT = one_of("fail", "continue", "overwrite")
ATTEMPTS = 3
SECONDS_BEFORE_ANOTHER_LOOK = 2.0


class Order(NamedTuple):
    """What is asked for: the percentage, the only one to start from, and whether it may switch the object on.

    :param later: percentages of later stages of the same plan, at which there is nothing left to do.
    """

    to: int
    expected: int | None = None
    enable: bool = False
    later: tuple[int, ...] = ()


class Move(NamedTuple):
    """What is to be written.

    :param along: fields that are sent in the same request and move nobody.
    :param facts: what the record and the audit lines say besides.
    """

    found: Any
    decision: RampDecision
    along: dict[str, Any]
    facts: dict[str, Any]

    def line(self, kind: str) -> dict[str, Any]:
        """Return what the audit lines say of it."""
        found, decision = self.found, self.decision
        facts = {name: value for name, value in self.facts.items() if name in AUDITED and value}
        return {
            "kind": kind,
            "key": found.key,
            "id": found.id,
            "project_id": found.project_id,
            "before": decision.before,
            "after": decision.after,
            "raises": decision.raises,
            **({"segment": decision.segment} if decision.segment else {}),
            **({"switches_on": True} if decision.enables else {}),
            **facts,
        }


class AmplitudeRampRolloutOperator(AmplitudeTargetOperator):
    """Move the rollout percentage of one flag or experiment, and nothing else.

    Reads the object, decides, writes once, and reads back. An object that already stands at the percentage costs
    one read. Going up keeps everyone in who is in. A run of the past is skipped. What somebody lowered or disabled
    since the run began is not raised or enabled again by a retry, a cleared task, a later ramp of the same run or a
    run that nobody started by hand; where that is in question the versions are read first, one request more.

    :param percentage: wanted percentage of users who match no target segment, whole, 0 to 100.
    :param from_percentage: the only percentage to start from; ``None`` for anything lower.
    :param segment: name of a target segment whose percentage is moved instead.
    :param allow_decrease: permit going down, which takes the variant away from users who have it.
    :param enable: switch a disabled object on in the same write, if it is the first one of the rollout.
    :param on_drift: what to do where the object stands above ``percentage``: ``fail``, ``continue`` (write
        nothing) or ``overwrite`` (write the percentage). Disabled, archived or lower than expected always fails.
    :param experiment_key, experiment_id, flag_key, flag_id: the object; exactly one.
    :param project_id: its project, where the connection names none.
    :param reason: why, for the log and the record.
    :param amplitude_conn_id: id of the Airflow connection.
    :raises AirflowFailException: refused, or an error that another try can't heal.
    :return: a record: ``kind``, ``key``, ``id``, ``project_id``, ``segment``, ``before``, ``after``, ``enabled``,
        ``switched_on``, ``written``, ``at`` (UTC), ``reason``, and where it came from: ``environment``, ``dag_id``,
        ``run_id``, ``task_id``, ``map_index``, ``try_number``. With a read-only connection ``after`` is what would
        have been written.

    Source: Management API, "Edit experiment" and "Edit flag" (``rolloutPercentage``, ``targetSegments``).
    """

    template_fields: Sequence[str] = (
        *AmplitudeTargetOperator.template_fields,
        "percentage",
        "from_percentage",
        "segment",
        "allow_decrease",
        "enable",
        "on_drift",
    )

    writes_percentage = True
    writes_objects = True

    def __init__(
        self,
        *,
        percentage: int | str,
        from_percentage: int | str | None = None,
        segment: str | None = None,
        allow_decrease: bool | str = False,
        enable: bool | str = False,
        on_drift: Literal["fail", "continue", "overwrite"] | str = "fail",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.percentage = percentage
        self.from_percentage = from_percentage
        self.segment = segment
        self.allow_decrease = allow_decrease
        self.enable = enable
        self.on_drift = on_drift
        self._check_what_is_known()

    def act(self, context: Context) -> dict[str, Any]:
        """Read, decide, write, read back."""
        from ._past import skip_in_the_past

        skip_in_the_past(context, self.log)
        order = self._order()
        with self.hook.get_conn() as client:
            return self._ramp(context, client, order)

    def _ramp(self, context: Context, client: GuardedClient, order: Order) -> dict[str, Any]:
        from airflow_amplitude_experiment.api import AmplitudeError, AmplitudeReadOnly

        from ._audit import Audit, failure

        audit = Audit.of(context, environment=client.rules.environment, reason=self.reason, log=self.log)
        lost: Move | None = None
        for attempt in range(1, ATTEMPTS + 1):
            found = client.read(self.reading(client))
            self.leave_link(context, client, found)
            decision = self._decide(context, client, found, order)
            if not decision.changes:
                if lost is not None:
                    return self._done(context, audit, lost)
                return self._report(
                    context, audit, Move(found, decision, {}, self._facts(context, client, found)), written=False
                )
            if decision.raises:
                self._refuse_what_was_stopped(context, client, order, found, decision, again=attempt > 1)
            move = self._prepared(context, client, found, decision)
            audit.intent(**move.line(self.kind))
            try:
                self._send(client, move)
            except AmplitudeReadOnly as refusal:
                audit.result(**move.line(self.kind), outcome=failure(refusal))
                return self._report(context, audit, move, written=False)
            except (AmplitudeError, RolloutRefused) as error:
                if getattr(error, "maybe_applied", False) and attempt < ATTEMPTS:
                    self.log.warning("%s Reading %s again.", error, self.target)
                    time.sleep(SECONDS_BEFORE_ANOTHER_LOOK)
                    lost = move
                    continue
                audit.result(**move.line(self.kind), outcome=failure(error))
                raise
            return self._done(context, audit, move)
        raise AssertionError  # the last attempt returns or raises

    def _send(self, client: GuardedClient, move: Move) -> None:
        """Write once and read back.

        :raises AmplitudeNotConfirmed: reading back shows something else.
        """
        from airflow_amplitude_experiment.hooks.lookup import calls_of

        call = calls_of(self.kind).update(move.found.id, **move.decision.patch, **move.along)
        client.send(call, reason=self.reason, found=move.found)
        self._confirm(client, move.found, move.decision)

    def _done(self, context: Context, audit: Audit, move: Move) -> dict[str, Any]:
        """Report a write that was read back."""
        audit.result(**move.line(self.kind), outcome="written")
        record = self._report(context, audit, move, written=True)
        announce(context, record)
        return record

    def _prepared(self, context: Context, client: GuardedClient, found: Any, decision: RampDecision) -> Move:
        """Complete a decision before it is sent; a stage of a rollout has more to look at here."""
        return Move(found, decision, {}, {})

    def _facts(self, context: Context, client: GuardedClient, found: Any) -> dict[str, Any]:
        """Return what the record of a ramp that writes nothing says besides."""
        return {}

    def _decide(self, context: Context, client: GuardedClient, found: Any, order: Order) -> RampDecision:
        """Decide what to write; a tick of a plan looks at more than the object here."""
        from airflow_amplitude_experiment.rollout.ramp import ramp

        try:
            decision = ramp(
                found,
                order.to,
                expected=order.expected,
                segment=given(self.segment),
                later=order.later,
                allow_decrease=boolean("allow_decrease", self.allow_decrease),
                enable=order.enable,
                on_drift=self.on_drift,  # type: ignore[arg-type]  # checked after rendering
            )
        except RolloutRefused as refusal:
            raise RolloutRefused(f"{refusal}{self._last_change(client, found)}") from None
        if decision.after < decision.before and getattr(found, "sticky_bucketing", False):
            self.log.warning(
                "%s has sticky bucketing: users who have a variant keep it below %s %%. "
                "Only disabling it (AmplitudeKillSwitchOperator) takes it from them.",
                self.target,
                decision.after,
            )
        return decision

    def _last_change(self, client: GuardedClient, found: Any) -> str:
        """Say what was changed last, by whom and when: it is what a person asks first after a refusal."""
        from airflow_amplitude_experiment.api import AmplitudeError
        from airflow_amplitude_experiment.hooks.lookup import calls_of
        from airflow_amplitude_experiment.rollout.history import last_change

        try:
            return last_change(client.send(calls_of(self.kind).versions(found.id)))
        except AmplitudeError as error:
            self.log.warning("The refusal can't name the last change: %s", error)
            return ""

    def _refuse_what_was_stopped(
        self,
        context: Context,
        client: GuardedClient,
        order: Order,
        found: Any,
        decision: RampDecision,
        *,
        again: bool,
    ) -> None:
        """Refuse to raise what a person or a guard took down (law 9), wherever that may have happened."""
        from airflow_amplitude_experiment.hooks.lookup import calls_of
        from airflow_amplitude_experiment.rollout.history import stopped_since

        if (run := begun(context)) is None:
            return
        again = again or run.again
        if run.by_hand and order.expected is not None and not (again or decision.enables):
            return
        mine = self.kind, found.id
        own = [each for each in ramped_earlier(self, context) if (each.get("kind"), each.get("id")) == mine]
        ramped = any("after" in record for record in own)
        unproven = not (run.by_hand or ramped) or (ramped and order.expected is None)
        if not (again or decision.enables or unproven):
            return
        left_at = [each["after"] for each in own if "after" in each and each.get("segment") == decision.segment]
        if left_at and order.expected is None and decision.before < left_at[-1]:
            raise self._stopped(f"stands below the {left_at[-1]} % that this run raised it to", run, order)
        how = stopped_since(
            client.send(calls_of(self.kind).versions(found.id)),
            run.since,
            found,
            segment=decision.segment,
            own=own,
            ever_switched_off=decision.enables and not run.by_hand,
            ever_lowered=not (run.by_hand or ramped),
            # Where a ramp of this run left it nobody took it down, unless an earlier try has raised it from there.
            unseen=again or decision.enables or not left_at,
        )
        if how:
            raise self._stopped(how, run, order)

    def _stopped(self, how: str, run: Begun, order: Order) -> RolloutRefused:
        """Return the refusal to undo somebody's stop."""
        return RolloutRefused(
            f"{self.target} {how}. This run looks back to {run.since:%Y-%m-%dT%H:%MZ}; its ramp to {order.to} % "
            "would undo somebody's stop. Nothing was written. To go on, trigger a new run by hand."
        )

    def _confirm(self, client: GuardedClient, found: Any, decision: RampDecision) -> None:
        """Read back, once more after a moment where it differs, and fail where it still does (law 1)."""
        from airflow_amplitude_experiment.api import AmplitudeNotConfirmed
        from airflow_amplitude_experiment.hooks.lookup import calls_of
        from airflow_amplitude_experiment.rollout.history import percentage_of

        for wait in (0.0, SECONDS_BEFORE_ANOTHER_LOOK):
            time.sleep(wait)
            now = client.send(calls_of(self.kind).get(found.id))
            stands = percentage_of(now, decision.segment)
            is_on = found.enabled if now.enabled is None else now.enabled
            if stands == decision.after and is_on:
                return
        raise AmplitudeNotConfirmed(
            f"{self.target}: asked for {decision.after} %, found {decision.before} % before; it stands at {stands} % "
            f"and is {'enabled' if is_on else 'disabled'} now."
        )

    def _report(self, context: Context, audit: Audit, move: Move, *, written: bool) -> dict[str, Any]:
        found, decision = move.found, move.decision
        would = " (read-only, not sent)" if decision.changes and not written else ""
        self.log.info("%s: %s%s", self.target, decision, would)
        return {
            "kind": self.kind,
            "key": found.key,
            "id": found.id,
            "project_id": found.project_id,
            "segment": decision.segment,
            "before": decision.before,
            "after": decision.after,
            "enabled": bool(found.enabled or (decision.enables and written)),
            "switched_on": decision.enables and written,
            "written": written,
            "at": datetime.now(UTC).isoformat(timespec="milliseconds"),  # a bake counts from it, and must not be short
            "reason": self.reason,
            **audit.facts(),
            **move.facts,
        }

    def _order(self) -> Order:
        """Return what is asked for, once templates are rendered."""
        ON_DRIFT("on_drift", self.on_drift)
        expected = given(self.from_percentage)
        return Order(
            percent("percentage", self.percentage),
            None if expected is None else percent("from_percentage", expected),
            boolean("enable", self.enable),
        )

    def _check_what_is_known(self) -> None:
        """Check the values that no template fills in later, while the DAG is parsed."""
        if is_known(self.percentage):
            percent("percentage", self.percentage)
        if self.from_percentage is not None and is_known(self.from_percentage):
            percent("from_percentage", self.from_percentage)
        for name, check in (("allow_decrease", boolean), ("enable", boolean), ("on_drift", ON_DRIFT)):
            if is_known(value := getattr(self, name)):
                check(name, value)
