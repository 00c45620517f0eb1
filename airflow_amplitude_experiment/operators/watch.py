"""Watch one stage of a staged rollout: its bake and its guardrails, in one deferred task.

The looks lie on a grid that starts when the stage was reached, so nothing that is late, retried or cleared makes a
bake shorter or a look more frequent. Between two looks the task is deferred and holds no worker slot.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, NamedTuple

from airflow.providers.common.compat.sdk import AirflowFailException

from airflow_amplitude_experiment.rollout.durations import in_words
from airflow_amplitude_experiment.rollout.hours import Hours

from ._base import AmplitudeTargetOperator, given
from ._run import (
    BETWEEN_LOOKS_AT_A_FREEZE,
    FINISHED,
    SHORTEST_WAIT,
    is_off,
    moment_of_change,
    newest,
    now,
    pulled,
    starting_percentage,
    state_of,
)

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context

    from ._look import StageRun, Subject

A_YEAR = timedelta(days=365)
NAMED = ("key", "id", "project_id")


class Held(NamedTuple):
    """Why a raise may not be made yet, and when to ask again."""

    why: str
    until: datetime


class AmplitudeWatchStageOperator(AmplitudeTargetOperator):
    """Watch a stage of a plan until its bake is over, and let the rollout go on only where the last look is ``pass``.

    Looks at the guardrails every ``check_every`` and once more exactly when the bake is over; deferred between. A
    ``breach`` ends the task at once. ``inconclusive`` and ``no_data`` hold: looks go on until they pass or ``hold_for``
    has run out. With ``approve`` it watches while a person is asked, for as long as that takes, and looks once more
    after the answer. Marked successful by hand, the next ramp follows, and records so.

    Writes nothing, and asks Amplitude only where the ramp's record is gone.

    :param plan: the plan as ``RolloutPlan.as_dict()`` gives it.
    :param percentage: the stage's percentage.
    :param start_at, rollback_to, segment, on_breach: as in ``staged_rollout``.
    :param begin: task id of the rollout's ``begin``.
    :param ramps: task ids of the ramps up to this stage's own, in order.
    :param watches: task ids of the watches before this one, in order.
    :param approve: task id of the approval beside which it watches, if any.
    :param before_a_raise: a ramp follows directly. Where the plan's windows or the Airflow Variable
        ``amplitude_experiment_freeze`` hold that back, the watch goes on until it may go up, and looks once more then.
    :param guardrails: those of this stage and of the whole rollout, as ``described`` gives them.
    :param counted: all guardrails of the rollout, which share ``alpha``.
    :param callables: the Python callables among the guardrails, by name.
    :param alpha: how probable it may be that a harmless rollout is stopped.
    :param check_every: seconds between looks.
    :param hold_for: seconds.
    :raises AirflowFailException: a breach, or a hold that ran out.
    :return: the verdict, also in the XCom ``verdict``: ``verdict``, ``reason``, ``at`` (UTC), ``stage``, ``looks`` (how
        many), ``guardrails`` (numbers of the last look), ``kind``, ``key``, ``id``, ``project_id``, ``segment``.
    """

    template_fields: Sequence[str] = (
        *AmplitudeTargetOperator.template_fields,
        "start_at",
        "rollback_to",
        "segment",
        "guardrails",
    )
    template_ext: Sequence[str] = (".sql",)
    ui_color = "#e3f1d5"

    def __init__(
        self,
        *,
        plan: Mapping[str, Any],
        percentage: int,
        start_at: int | str | None = None,
        rollback_to: int | str | None = None,
        segment: str | None = None,
        on_breach: str = "rollback",
        begin: str,
        ramps: Sequence[str],
        watches: Sequence[str] = (),
        approve: str | None = None,
        before_a_raise: bool = False,
        guardrails: Sequence[Mapping[str, Any]] = (),
        counted: Sequence[Mapping[str, Any]] = (),
        callables: Mapping[str, Callable[..., Any]] | None = None,
        alpha: float = 0.05,
        check_every: float,
        hold_for: float,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.plan = dict(plan)
        self.percentage = percentage
        self.start_at = start_at
        self.rollback_to = rollback_to
        self.segment = segment
        self.on_breach = on_breach
        self.begin = begin
        self.ramps = list(ramps)
        self.watches = list(watches)
        self.approve = approve
        self.before_a_raise = before_a_raise
        self.guardrails = list(guardrails)
        self.counted = list(counted)
        self.callables = dict(callables or {})
        self.alpha = alpha
        self.check_every = check_every
        self.hold_for = hold_for

    def act(self, context: Context) -> dict[str, Any]:
        """Look where a look is due, then decide or wait."""
        moment = now()
        looks = pulled(context, self.task_id, "looks")
        if looks is None:
            since, passed_by = self._reached(context, moment)
            if passed_by:
                nothing = {"verdict": "pass", "reason": passed_by, "count": 0, "guardrails": []}
                return self._leave(context, nothing, moment)
            looks = self._begun(context, since)
        due = False
        if self.approve and not looks["answered_at"] and (state := state_of(context, self.approve)) in FINISHED:
            if state != "success":
                return self._leave(context, {**looks, "reason": f"the approval ended as {state}"}, moment)
            looks["answered_at"], due = moment.isoformat(), True
        hours = self._hours(looks)
        held = self._raise_is_held(context, moment) if hours.is_over(moment) else None
        due = due or bool(looks["raise_held"] and not held)
        if due or hours.is_due(datetime.fromisoformat(looks["looked_at"]), moment):
            looks = self._look(context, looks, hours, moment)
        return self._decide(context, looks, hours, held, moment)

    def _decide(
        self, context: Context, looks: dict[str, Any], hours: Hours, held: Held | None, moment: datetime
    ) -> dict[str, Any]:
        """End the task, or wait for the next look."""
        passed = looks["verdict"] == "pass"
        if passed and hours.is_over(moment) and not held:
            return self._leave(context, looks, moment)
        looks = {
            **looks,
            "held_since": None if passed or not hours.is_over(moment) else looks["held_since"] or moment.isoformat(),
        }
        if held and held.why != looks["raise_held"]:
            self.log.info(
                "%s at %s %%: watched on, because the next raise waits: %s", self.target, self._stands, held.why
            )
        looks["raise_held"] = held.why if held else None
        context["ti"].xcom_push(key="looks", value=looks)
        hours = self._hours(looks)
        if looks["verdict"] == "breach" or (hours.is_over(moment) and not passed):
            self._fail_or_hold(context, looks, hours, moment)
        self._wait(context, looks, min([hours.following(moment), *([held.until] if held else [])]))
        raise AssertionError  # deferring left this function

    # --- when ---

    def _reached(self, context: Context, moment: datetime) -> tuple[datetime, str | None]:
        """Return when the stage was reached, or why there is nothing to watch."""
        record = pulled(context, self.ramps[-1])
        if isinstance(record, Mapping):
            if record.get("below_start"):
                start = self._stands
                asked_for_more = self.approve and self._next > start
                below = f"stage {self.percentage} % is below start_at={start}; nothing to watch"
                return moment, None if asked_for_more else below
            return datetime.fromisoformat(record["at"]), self._later(record["after"])
        from airflow_amplitude_experiment.rollout.history import percentage_of

        with self.hook.get_conn() as client:
            found = client.read(self.reading(client))
        stands, since = percentage_of(found, given(self.segment)), moment_of_change(found)
        self.log.warning(
            "Task %s left no record (marked by hand?). %s stands at %s %% since %s; its bake counts from there.",
            self.ramps[-1],
            self.target,
            stands,
            f"{since:%Y-%m-%d %H:%MZ}",
        )
        return since, self._later(stands)

    @property
    def _next(self) -> int:
        """The percentage of the next stage; 0 after the last."""
        return next((each["percentage"] for each in self.plan["stages"] if each["percentage"] > self.percentage), 0)

    @property
    def _stands(self) -> int:
        """The percentage that is watched: the stage's, or ``start_at`` between two stages while a person is asked."""
        return max(self.percentage, starting_percentage(self.start_at) or 0)

    def _later(self, stands: Any) -> str | None:
        later = [each["percentage"] for each in self.plan["stages"] if each["percentage"] > self.percentage]
        return f"{self.target} stands at {stands} %, a later stage, which is watched there" if stands in later else None

    def _begun(self, context: Context, since: datetime) -> dict[str, Any]:
        """Return what is known before the first look, and say what is going to happen."""
        before = pulled(context, self.watches[-1], "verdict") if self.watches and self.approve else None
        looks = {
            "since": since.isoformat(),
            "looked_at": (before or {}).get("at") or since.isoformat(),
            "answered_at": None,
            "held_since": None,
            "raise_held": None,
            "count": 0,
            "verdict": "pass" if self.approve else "inconclusive",
            "reason": "not looked at yet",
            "guardrails": (before or {}).get("guardrails") or [],
            "memory": self._remembered(context),
        }
        hours = self._hours(looks)
        names = ", ".join(each["name"] for each in self.guardrails) or "none"
        until = f"until {hours.until:%Y-%m-%d %H:%MZ}" if hours.until else f"until {self.approve} is answered"
        often = f", every {in_words(hours.every)}" if self.guardrails else ""
        self.log.info("%s at %s %%: watched %s%s. Guardrails: %s", self.target, self._stands, until, often, names)
        return looks

    def _remembered(self, context: Context) -> dict[str, Any]:
        """Return what the guardrails remember of earlier stages, unless their evidence starts anew."""
        own = pulled(context, self.ramps[-1])
        if isinstance(own, Mapping) and own.get("evidence_anew"):
            return {}
        for task_id in reversed(self.watches):
            if looks := pulled(context, task_id, "looks"):
                return dict(looks["memory"])
        return {}

    def _hours(self, looks: Mapping[str, Any]) -> Hours:
        since = datetime.fromisoformat(looks["since"])
        bake = next(each["bake"] for each in self.plan["stages"] if each["percentage"] == self.percentage)
        until: datetime | None = since + timedelta(seconds=bake)
        if self.approve:
            until = datetime.fromisoformat(looks["answered_at"]) if looks["answered_at"] else None
        held_since = datetime.fromisoformat(looks["held_since"]) if looks["held_since"] else None
        return Hours(
            since,
            until,
            held_since + timedelta(seconds=self.hold_for) if held_since else None,
            timedelta(seconds=self.check_every) if self.guardrails else A_YEAR,
        )

    def _raise_is_held(self, context: Context, moment: datetime) -> Held | None:
        """Say why the next ramp may not go up now, where its guards had better stay awake until it may."""
        if not (self.before_a_raise and self.guardrails):
            return None
        from airflow_amplitude_experiment.hooks.freeze import VARIABLE, Freeze
        from airflow_amplitude_experiment.rollout.plan import RolloutPlan

        opening = RolloutPlan.from_dict(self.plan).next_opening(moment)
        if opening > moment:
            return Held(f"the plan's windows open next at {opening:%Y-%m-%d %H:%MZ}", opening)
        if Freeze.now().may_name(newest(context, [self.begin, *self.ramps], "key")):
            return Held(f"the Airflow Variable {VARIABLE} names it", moment + BETWEEN_LOOKS_AT_A_FREEZE)
        return None

    # --- looking ---

    def _look(self, context: Context, looks: Mapping[str, Any], hours: Hours, moment: datetime) -> dict[str, Any]:
        from airflow_amplitude_experiment.rollout.guardrails import comparisons

        from ._look import lines, look

        log: Any = self.log
        subject = self._subject(context)
        seen = look(
            self.guardrails,
            subject=subject,
            stages=self._stages(context, hours.since),
            bake_over=hours.is_over(moment),
            comparisons=comparisons(self.counted, [arm for arm, weight in subject.weights.items() if weight]),
            alpha=self.alpha,
            memory=looks["memory"],
            now=moment,
            callables=self.callables,
            log=log,
        )
        for line in lines(seen):
            self.log.info("%s", line)
        return {
            **looks,
            "looked_at": moment.isoformat(),
            "count": looks["count"] + 1,
            "verdict": seen.verdict,
            "reason": seen.reason,
            "guardrails": seen.guardrails,
            "memory": seen.memory,
        }

    def _subject(self, context: Context) -> Subject:
        """Return what is watched, from the records of the run, else as it is now."""
        from ._look import Subject

        known = {name: newest(context, [self.begin, *self.ramps], name) for name in (*NAMED, "weights")}
        if not all(known.values()):
            known = self._read()
        return Subject(kind=self.kind, **known, segment=given(self.segment))

    def _read(self) -> dict[str, Any]:
        from airflow_amplitude_experiment.hooks.lookup import calls_of
        from airflow_amplitude_experiment.rollout.traffic import weights_of

        with self.hook.get_conn() as client:
            found = client.read(self.reading(client))
            variants = client.send(calls_of(self.kind).variants(found.id))
        weights = weights_of(found, variants, given(self.segment)) or {}
        return {"key": found.key, "id": found.id, "project_id": found.project_id, "weights": weights}

    def _stages(self, context: Context, since: datetime) -> list[StageRun]:
        """Return the stages whose evidence counts, each until the next write; the last one is running."""
        from ._look import StageRun

        runs: list[tuple[int, int, datetime]] = []
        for task_id in self.ramps[:-1]:
            record = pulled(context, task_id)
            if not isinstance(record, Mapping) or record.get("below_start"):
                continue
            if record.get("evidence_anew"):
                runs.clear()
            runs.append((record["stage"], self._stage_before(record["stage"]), datetime.fromisoformat(record["at"])))
        own = pulled(context, self.ramps[-1])
        if isinstance(own, Mapping) and own.get("evidence_anew"):
            runs.clear()
        runs.append((self._stands, self._stage_before(self._stands), since))
        ends = [start for _, _, start in runs[1:]] + [None]
        return [
            StageRun(percentage=percentage, previous=previous, start=start, end=end)
            for (percentage, previous, start), end in zip(runs, ends, strict=True)
        ]

    def _stage_before(self, percentage: int) -> int:
        """Return the percentage from which a stage was reached; a rollout that goes on at one began below it."""
        base, start = starting_percentage(self.rollback_to) or 0, starting_percentage(self.start_at)
        before = [each["percentage"] for each in self.plan["stages"] if each["percentage"] < percentage]
        came_from = before[-1] if before else base
        return max(came_from, start) if start is not None and start < percentage else came_from

    # --- deciding ---

    def _fail_or_hold(self, context: Context, looks: Mapping[str, Any], hours: Hours, moment: datetime) -> None:
        """End the task on a breach or where nothing is waited for any more; else say that the rollout holds.

        :raises AirflowFailException: the task is over.
        """
        stage = f"{self.target} at {self._stands} %"
        if looks["verdict"] == "breach":
            self._push_verdict(context, looks, moment)
            raise AirflowFailException(f"Guardrail breach, {stage}: {looks['reason']}. {self._what_follows()}")
        if hours.is_held_no_longer(moment):
            self._push_verdict(context, looks, moment)
            raise AirflowFailException(
                f"{stage} was held for {in_words(timedelta(seconds=self.hold_for))} after its bake and is still "
                f"{looks['verdict']}: {looks['reason']}. Nothing was written; it stays at {self._stands} %. "
                "To go on anyway, mark this task as success; to look again, clear it."
            )
        self.log.warning(
            "%s is held: %s: %s. Looking again until %s",
            stage,
            looks["verdict"],
            looks["reason"],
            f"{hours.hold_until:%Y-%m-%d %H:%MZ}",
        )

    def _what_follows(self) -> str:
        void = f" The question in {self.approve} is void: answer Reject, which ends this run." if self.approve else ""
        if self.on_breach == "hold":
            return f"on_breach='hold': nothing is written, it stays at {self._stands} %.{void}"
        off = self.on_breach == "off" or is_off(self.rollback_to)
        back = "off" if off else f"to {starting_percentage(self.rollback_to) or 0} %"
        return f"Task rollback takes it {back} now.{void}"

    def _leave(self, context: Context, looks: Mapping[str, Any], moment: datetime) -> dict[str, Any]:
        """End well, with the verdict."""
        verdict = self._push_verdict(context, looks, moment)
        self.log.info("%s at %s %%: %s: %s", self.target, self._stands, verdict["verdict"], verdict["reason"])
        return verdict

    def _push_verdict(self, context: Context, looks: Mapping[str, Any], moment: datetime) -> dict[str, Any]:
        names = {name: newest(context, [self.begin, *self.ramps], name) for name in NAMED}
        verdict = {
            "verdict": looks["verdict"],
            "reason": looks["reason"],
            "at": moment.isoformat(timespec="seconds"),
            "stage": self._stands,
            "looks": looks["count"],
            "guardrails": looks["guardrails"],
            "kind": self.kind,
            **names,
            "segment": given(self.segment),
        }
        context["ti"].xcom_push(key="verdict", value=verdict)
        return verdict

    def _wait(self, context: Context, looks: Mapping[str, Any], following: datetime) -> None:
        """Defer until the next look, or until a person has answered; late rather than too soon for Airflow."""
        following = max(following, now() + SHORTEST_WAIT)
        if self.approve and not looks["answered_at"]:
            from airflow_amplitude_experiment.triggers.approval import AmplitudeApprovalTrigger

            instance: Any = context["ti"]
            trigger: Any = AmplitudeApprovalTrigger(
                dag_id=instance.dag_id,
                run_id=instance.run_id,
                task_id=self.approve,
                map_index=instance.map_index,
                until=following.isoformat(),
            )
        else:
            from airflow.providers.standard.triggers.temporal import DateTimeTrigger

            trigger = DateTimeTrigger(following)
        self.defer(trigger=trigger, method_name="execute_complete")
