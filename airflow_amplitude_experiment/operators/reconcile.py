"""One tick of a plan on a schedule: the rollout without a run that lives for days.

Each scheduled run looks at the object once, raises it by one stage where that is due, and ends. Nothing rests on what
an earlier tick has done: ``rollout/tick.py`` decides from the object alone. Only what makes a guardrail's answer
better or stricter is remembered from tick to tick, in an XCom, which Airflow also hands to later runs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from itertools import pairwise
from typing import TYPE_CHECKING, Any, cast

from airflow.providers.common.compat.sdk import AirflowFailException

from airflow_amplitude_experiment.api._checks import percent
from airflow_amplitude_experiment.api.errors import RolloutRefused

from ._base import AmplitudeTargetOperator, given, is_known
from ._run import now
from .ramp import AmplitudeRampRolloutOperator, Move, Order

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context

    from airflow_amplitude_experiment.hooks.guard import GuardedClient
    from airflow_amplitude_experiment.rollout.guardrails import Guardrail
    from airflow_amplitude_experiment.rollout.plan import RolloutPlan, Stage
    from airflow_amplitude_experiment.rollout.ramp import RampDecision
    from airflow_amplitude_experiment.rollout.tick import Tick

    from ._audit import Audit
    from ._look import Look, StageRun, Subject

MEMORY = "memory"
"""Key of the XCom that goes from tick to tick."""


class AmplitudeReconcileRolloutOperator(AmplitudeRampRolloutOperator):
    """Do one tick of a plan: raise the object by one stage where that is due, or nothing.

    For a DAG on a schedule, which must tick more often than the plan's shortest bake ends. A tick goes up by one
    stage at most, only from exactly the stage before, only when that stage's bake, counted from the object's
    ``lastModifiedAt``, is over (any edit of the object starts it anew: late, never early), and never further than the
    plan is. Outside the plan's windows, and while the Airflow Variable ``amplitude_experiment_freeze`` names the
    object, it writes nothing, says when it may go on, and ends well: a tick never waits.

    It fails, and writes nothing, where the object is disabled or archived, stands off the plan, is further behind than
    a plan of twice the bakes would be, was higher or disabled at any moment since ``start``, or has other fields that
    decide who gets what changed. It never enables and never lowers. To go on after any of that is a person's decision:
    a new ``start`` with ``from_percentage``. The first raise makes the refusals of a staged rollout's ``begin`` too.

    Guardrails are looked at in every tick while a stage is watched. A ``breach`` fails this tick and all later ones of
    the same ``start``, and lowers nothing: whoever watches the DAG decides (``AmplitudeKillSwitchOperator``, or a
    staged rollout, which rolls back by itself). ``inconclusive`` and ``no_data`` hold what is due: nothing is written.
    What guardrails remember goes from tick to tick in the XCom ``memory``. Where that is gone they go by the stage
    that is running alone, a breach is forgotten, and the fields are compared from then on.

    :param plan: a :class:`RolloutPlan`, a list of stages, or ``RolloutPlan.as_dict()``. One that asks for approvals is
        refused: nobody is there to ask.
    :param start: when the plan begins: an aware datetime, or an ISO text with an offset.
    :param from_percentage: what is expected before the first stage; ``None`` is 0. Stages below it are left out.
    :param segment: name of a target segment whose percentage is moved instead of that of all other users.
    :param guardrails: what every stage is watched by, besides the guardrails of its own.
    :param alpha: how probable it may be, over the whole rollout, that a harmless one is held.
    :param experiment_key, experiment_id, flag_key, flag_id: the object; exactly one.
    :param project_id: its project, where the connection names none.
    :param reason: why, for the log and the record.
    :param amplitude_conn_id: id of the Airflow connection.
    :raises AirflowFailException: refused, a breach, or an error that another try can't heal.
    :return: the record of a ramp, and ``stage`` (where it stands now), ``why``, ``next_change`` (UTC; when a tick may
        raise it next; ``None`` once complete, or where it isn't known), ``complete``, ``verdict``, ``guardrails``.
        Before ``start`` only ``written``, ``why`` and ``next_change``, without a request.

    Source: Management API, "Edit experiment" and "Edit flag" (``rolloutPercentage``, ``targetSegments``).
    """

    template_fields: Sequence[str] = (
        *AmplitudeTargetOperator.template_fields,
        "start",
        "from_percentage",
        "segment",
        "guardrails",
        "stage_guardrails",
    )
    template_ext: Sequence[str] = (".sql",)

    def __init__(
        self,
        *,
        plan: RolloutPlan | Sequence[Stage] | Mapping[str, Any],
        start: datetime | str,
        from_percentage: int | str | None = None,
        segment: str | None = None,
        guardrails: Sequence[Guardrail] = (),
        alpha: float = 0.05,
        **kwargs: Any,
    ) -> None:
        from airflow_amplitude_experiment.rollout.guardrails import callables, described
        from airflow_amplitude_experiment.rollout.plan import RolloutPlan
        from airflow_amplitude_experiment.rollout.windows import aware

        whole = RolloutPlan.from_dict(plan) if isinstance(plan, Mapping) else RolloutPlan.of(plan)
        super().__init__(
            percentage=whole.percentages[-1],
            from_percentage=from_percentage,
            segment=segment,
            allow_decrease=False,
            enable=False,
            on_drift="fail",
            **kwargs,
        )
        self.plan = whole.as_dict()
        self.start = aware(start, "start").isoformat() if isinstance(start, datetime) else start
        self.guardrails = described(guardrails)
        own = {str(each.percentage): each.guardrails for each in whole.stages if each.guardrails}
        self.stage_guardrails = {key: described(some) for key, some in own.items()}
        self.callables = callables([*guardrails, *(each for some in own.values() for each in some)])
        self.alpha = alpha
        for some in own.values():
            described([*guardrails, *some])  # refuses a name that two of them have
        self._check_plan(whole)

    def act(self, context: Context) -> dict[str, Any]:
        """Read, decide, look, write once at most, read back."""
        start = moment("start", self.start)
        if now() < start:
            why = f"the plan begins at {start:%Y-%m-%d %H:%M:%SZ}"
            self.log.info("%s: nothing to do: %s", self.target, why)
            opening = self._ahead().next_opening(start)
            return {"kind": self.kind, "written": False, "why": why, "next_change": opening.isoformat()}
        self._seen, self._has_looked = None, False
        return super().act(context)

    _tick: Tick
    _seen: Look | None = None
    _has_looked = False
    """What this tick has decided and seen. It looks at the guardrails once, even where the object is read again."""

    # --- what a ramp asks a tick ---

    def _order(self) -> Order:
        return Order(int(self.percentage), self._base())

    def _decide(self, context: Context, client: GuardedClient, found: Any, order: Order) -> RampDecision:
        from airflow_amplitude_experiment.hooks.freeze import frozen
        from airflow_amplitude_experiment.rollout.ramp import RampDecision, ramp
        from airflow_amplitude_experiment.rollout.tick import tick

        since, run = self._since(client, found), context.get("dag_run")
        segment = given(self.segment)
        try:
            due = tick(
                found,
                self._ahead(),
                start=moment("start", self.start),
                now=now(),
                since=since,
                base=self._base(),
                segment=segment,
                run_began=run.start_date if run else None,
                frozen=frozen(found.key),
            )
        except RolloutRefused as refusal:
            raise RolloutRefused(f"{refusal}{self._last_change(client, found)}") from None
        self._tick = due
        if due.watched and not self._has_looked:
            self._seen = self._look(context, client, found, since)
        self._has_looked = True
        if due.to is not None and self._seen is not None and self._seen.verdict != "pass":
            self._tick = due = replace(due, to=None, why=f"held: {self._seen.verdict}: {self._seen.reason}")
            self.log.warning("%s at %s %% is %s", self.target, due.stands, due.why)
        if due.to is None:
            return RampDecision(due.stands, due.stands, False, segment, f" ({due.why})")
        return ramp(found, due.to, expected=due.stands, segment=segment)

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
        """Refuse to raise what was higher, or disabled, at any moment since the start (law 9)."""
        from airflow_amplitude_experiment.hooks.lookup import calls_of
        from airflow_amplitude_experiment.rollout.history import stopped_since

        start = moment("start", self.start)
        versions = client.send(calls_of(self.kind).versions(found.id))
        if how := stopped_since(versions, start, found, segment=decision.segment, own=self._explained(decision)):
            raise RolloutRefused(
                f"{self.target} {how}. This rollout looks back to its start, {start:%Y-%m-%dT%H:%MZ}; a raise to "
                f"{decision.after} % would undo somebody's stop. Nothing was written. If it is meant to go on, give "
                f"it a new start, with from_percentage={decision.before}."
            )

    def _explained(self, decision: RampDecision) -> list[dict[str, Any]]:
        """Return the writes that brought it where it stands, of which versions may show no more than their number."""
        reached = [self._base(), *(each for each in self._ahead().percentages if each <= decision.before)]
        return [
            {"before": before, "after": after, "segment": decision.segment, "switched_on": False}
            for before, after in pairwise(reached)
            if before != after
        ]

    def _prepared(self, context: Context, client: GuardedClient, found: Any, decision: RampDecision) -> Move:
        """Compare what decides who gets what with what it was; before the first raise, look at all of it."""
        from airflow_amplitude_experiment.hooks.lookup import calls_of
        from airflow_amplitude_experiment.rollout.fingerprint import changed, fingerprint

        if decision.before == self._base():
            variants = self._refuse_what_begin_would(client, found)
        else:
            variants = client.send(calls_of(self.kind).variants(found.id))
        present = fingerprint(found, variants, segment=decision.segment)
        before = self._memory(context, found)["fingerprint"]
        if before and (different := changed(before, present)):
            raise RolloutRefused(
                f"{self.target} was changed since this rollout's last raise: {'; '.join(different)}."
                f"{self._last_change(client, found)} Nothing was written. Change it back; or, if it is meant so, give "
                f"the rollout a new start, with from_percentage={decision.before}."
            )
        anew = before is None and decision.before != self._base()
        if anew:
            self.log.warning("What %s began with is not on record any more; it is taken as it is now.", self.target)
        facts = {**self._facts(context, client, found), "stage": decision.after, "fingerprint": present}
        following = [each for each in self._ahead().percentages if each > decision.after]
        facts |= {"complete": not following, "next_change": None, "fingerprint_taken_anew": anew}
        if following:
            bake = self._ahead().stage(int(decision.after)).watched
            facts["next_change"] = self._ahead().next_opening(now() + bake).isoformat(timespec="seconds")
        return Move(found, decision, {}, facts)

    def _refuse_what_begin_would(self, client: GuardedClient, found: Any) -> Sequence[Any]:
        """Make the preflight of a staged rollout; return the variants, which it reads anyway.

        :raises RolloutRefused: everything that stands against the rollout.
        """
        from airflow_amplitude_experiment.hooks.surroundings import surroundings
        from airflow_amplitude_experiment.rollout.preflight import Intent, preflight

        around = client.read(surroundings(self.kind, found, dialect=client.dialect))
        intent = Intent(
            kind=self.kind,
            plan=self._ahead(),
            start_at=self._base(),
            segment=given(self.segment),
            guardrails=self.guardrails,
            stage_guardrails=self.stage_guardrails,
            on_breach="hold",
        )
        findings = preflight(found, around, intent, now=now())
        if findings.refusals:
            told = "\n".join(f"- {each}" for each in findings.refusals)
            raise RolloutRefused(f"{self.target} can't be rolled out as asked:\n{told}\nNothing was written.")
        for note in findings.notes:
            self.log.info("%s: %s", self.target, note)
        return around.variants

    def _facts(self, context: Context, client: GuardedClient, found: Any) -> dict[str, Any]:
        due, seen = self._tick, self._seen
        return {
            "stage": due.stands,
            "why": due.why,
            "next_change": due.next_change.isoformat(timespec="seconds") if due.next_change else None,
            "complete": due.is_complete,
            "verdict": seen.verdict if seen else None,
            "guardrails": seen.guardrails if seen else None,
        }

    def _report(self, context: Context, audit: Audit, move: Move, *, written: bool) -> dict[str, Any]:
        record = super()._report(context, audit, move, written=written)
        if written:
            memory = self._memory(context, move.found)
            starts = memory["starts"] | {str(move.decision.after): record["at"]}
            guardrails = self._seen.memory if self._seen else memory["guardrails"]
            seen = {"starts": starts, "guardrails": guardrails, "fingerprint": move.facts["fingerprint"]}
            context["ti"].xcom_push(key=MEMORY, value=memory | seen)
        return record

    # --- guardrails ---

    def _look(self, context: Context, client: GuardedClient, found: Any, since: datetime) -> Look | None:
        """Look at the guardrails of the stage that it stands on, where there are any.

        :raises AirflowFailException: a breach.
        """
        from airflow_amplitude_experiment.rollout.guardrails import comparisons

        from ._look import lines, look

        due, memory, log = self._tick, self._memory(context, found), cast(Any, self.log)
        guardrails = [*self.guardrails, *self.stage_guardrails.get(str(due.stands), ())]
        if not guardrails:
            return None
        counted = [*self.guardrails, *(each for some in self.stage_guardrails.values() for each in some)]
        subject = self._subject(client, found)
        seen = look(
            guardrails,
            subject=subject,
            stages=self._stages(memory["starts"], since),
            bake_over=due.to is not None,
            comparisons=comparisons(counted, list(subject.weights)),
            alpha=self.alpha,
            memory=memory["guardrails"],
            now=now(),
            callables=self.callables,
            log=log,
        )
        for line in lines(seen):
            self.log.info("%s", line)
        context["ti"].xcom_push(key=MEMORY, value=memory | {"guardrails": seen.memory})
        if seen.verdict == "breach":
            raise AirflowFailException(
                f"Guardrail breach, {self.target} at {due.stands} %: {seen.reason}. Nothing was written, and a tick "
                f"lowers nothing: it stays at {due.stands} % until somebody takes it down "
                "(AmplitudeKillSwitchOperator). To go on in spite of it, give the rollout a new start, with "
                f"from_percentage={due.stands}."
            )
        return seen

    def _subject(self, client: GuardedClient, found: Any) -> Subject:
        from airflow_amplitude_experiment.hooks.lookup import calls_of
        from airflow_amplitude_experiment.rollout.traffic import weights_of

        from ._look import Subject

        segment = given(self.segment)
        weights = weights_of(found, (), segment)
        if weights is None:
            weights = weights_of(found, client.send(calls_of(self.kind).variants(found.id)), segment)
        return Subject(
            kind=self.kind,
            key=found.key,
            id=found.id,
            project_id=found.project_id,
            segment=segment,
            weights=weights or {},
        )

    def _stages(self, starts: Mapping[str, str], since: datetime) -> list[StageRun]:
        """Return the stages whose evidence counts: those that ticks remember, and the one that is running."""
        from ._look import StageRun

        plan, stands = self._ahead(), self._tick.stands
        began = {each: datetime.fromisoformat(starts[str(each)]) for each in plan.percentages if str(each) in starts}
        began = {each: moment for each, moment in began.items() if each < stands} | {stands: began.get(stands, since)}
        runs = sorted(began.items())
        ends = [start for _, start in runs[1:]] + [None]
        return [
            StageRun(percentage=each, previous=plan.previous(each, self._base()), start=start, end=end)
            for (each, start), end in zip(runs, ends, strict=True)
        ]

    def _memory(self, context: Context, found: Any) -> dict[str, Any]:
        """Return what ticks of this start remember of this object, which may be nothing."""
        of = [self.start, self.kind, found.id, given(self.segment)]
        instance: Any = context["ti"]
        left = instance.xcom_pull(
            task_ids=self.task_id, key=MEMORY, include_prior_dates=True, map_indexes=instance.map_index
        )
        if isinstance(left, dict) and left.get("of") == of:
            return left
        return {"of": of, "starts": {}, "guardrails": {}, "fingerprint": None}

    # --- arguments ---

    def _base(self) -> int:
        value = given(self.from_percentage)
        return 0 if value is None else cast(int, percent("from_percentage", value))

    def _ahead(self) -> RolloutPlan:
        from airflow_amplitude_experiment.rollout.plan import RolloutPlan
        from airflow_amplitude_experiment.rollout.tick import ahead

        return ahead(RolloutPlan.from_dict(self.plan), self._base())

    def _since(self, client: GuardedClient, found: Any) -> datetime:
        """Return when the object was changed last; where it doesn't tell the hour, its versions do.

        :raises RolloutRefused: neither does.
        """
        from airflow_amplitude_experiment.hooks.lookup import calls_of
        from airflow_amplitude_experiment.rollout.history import written_at

        if "T" in (found.last_modified_at or ""):
            changed = datetime.fromisoformat(found.last_modified_at)
            return changed.astimezone(UTC) if changed.tzinfo else changed.replace(tzinfo=UTC)
        written = [written_at(each) for each in client.send(calls_of(self.kind).versions(found.id))]
        if known := [each for each in written if each is not None]:
            return max(known)
        raise RolloutRefused(
            f"{self.target} does not show when it was changed last, and neither do its versions, so no bake can be "
            "counted. Nothing was written. Use staged_rollout, which counts from its own writes."
        )

    def _check_plan(self, plan: RolloutPlan) -> None:
        """Check what no template fills in later.

        :raises ValueError: a plan that asks a person, a start without a time zone, nothing left of the plan.
        """
        if asking := [each.percentage for each in plan.stages if each.approval]:
            raise ValueError(
                f"stage {asking[0]} % asks for an approval, and a tick can't ask anybody. Leave approval=True out, or "
                "use staged_rollout, which waits for the answer."
            )
        if isinstance(self.alpha, bool) or not isinstance(self.alpha, int | float) or not 0 < self.alpha < 1:
            raise ValueError(f"alpha={self.alpha!r} is not a probability between 0 and 1, such as 0.05.")
        if is_known(self.start):
            moment("start", self.start)
        if is_known(self.from_percentage):
            self._ahead()


def moment(name: str, value: Any) -> datetime:
    """Read a rendered moment, in UTC.

    :raises ValueError: no ISO text, or one without an offset.
    """
    from airflow_amplitude_experiment.rollout.windows import aware

    try:
        return aware(datetime.fromisoformat(value) if isinstance(value, str) else value, name)
    except ValueError as error:
        raise ValueError(
            f"{name}={value!r} is not a moment with a time zone, such as '2026-11-22T09:00:00+01:00'."
        ) from error
