"""The task group of a staged rollout: from a plan to tasks.

``begin`` looks before the first write. Each stage is a ``ramp`` and a ``watch``; where a person is asked, an
``approve`` with a ``watch_approval`` beside it follows. ``rollback`` runs after all of them and acts on a breach only.
Ids come from the percentages, never from positions: a plan that is edited while a run is under way skips nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Literal

from .durations import duration
from .guardrails import callables, described
from .plan import RolloutPlan, Stage

if TYPE_CHECKING:
    from airflow.sdk import TaskGroup

    from .guardrails import Guardrail

OFTEN, SELDOM = timedelta(minutes=5), timedelta(hours=1)
SHORTEST_HOLD = timedelta(hours=1)
DEFAULT_SETTLE = timedelta(minutes=5)

PATIENT: Mapping[str, Any] = {
    "retries": 3,
    "retry_delay": timedelta(minutes=1),
    "retry_exponential_backoff": True,
    "max_retry_delay": timedelta(minutes=15),
}
"""How the group's tasks are tried again, unless the DAG says otherwise: Airflow's own default is not at all."""

IN_ORDER = "all_success"
"""A DAG whose tasks run whatever became of those before would raise after a breach, a refusal or a Reject."""

URGENT: Mapping[str, Any] = {
    "retries": 60,
    "retry_delay": timedelta(seconds=10),
    "retry_exponential_backoff": False,
    "max_retry_delay": None,
    "execution_timeout": None,
    "end_date": None,
    "depends_on_past": False,
    "wait_for_downstream": False,
    "pool": "default_pool",
    "pool_slots": 1,
    "max_active_tis_per_dag": None,
    "max_active_tis_per_dagrun": None,
    "priority_weight": 10_000,
    "weight_rule": "absolute",
}
"""How the rollback is run: no default of a DAG, no pool and no queue of other tasks may stand in its way (law 10)."""


def staged_rollout(
    *,
    plan: RolloutPlan | Sequence[Stage],
    experiment_key: Any = None,
    experiment_id: Any = None,
    flag_key: Any = None,
    flag_id: Any = None,
    project_id: Any = None,
    group_id: str = "rollout",
    start_at: int | str | None = None,
    rollback_to: int | str | None = None,
    segment: str | None = None,
    guardrails: Sequence[Guardrail] = (),
    alpha: float = 0.05,
    on_breach: Literal["rollback", "off", "hold"] = "rollback",
    on_drift: Literal["fail", "continue", "overwrite"] | str = "fail",
    enable: bool | str = False,
    check_every: timedelta | str | float | None = None,
    hold_for: timedelta | str | float | None = None,
    approve_above: int | None = None,
    approvers: Sequence[str | Mapping[str, str]] = (),
    approve_within: timedelta | str | float = "7d",
    mark_start_date: bool = False,
    rollback_deadline: timedelta | str | float = "1h",
    units_per_hour: float | None = None,
    rate: float | None = None,
    reason: str | None = None,
    amplitude_conn_id: str = "amplitude_experiment_default",
) -> TaskGroup:
    """Roll a flag or an experiment out in stages, each watched before the next; return the task group.

    Put it into a DAG, or into a ``@task_group`` that is expanded over several objects.

    :param plan: a :class:`RolloutPlan`, or a list of stages.
    :param experiment_key, experiment_id, flag_key, flag_id: the object; exactly one.
    :param project_id: its project, where the connection names none.
    :param start_at: the percentage from which this run goes on; stages below it succeed without a request.
    :param rollback_to: where a breach takes it back to, and where it has to stand at the beginning: a percentage,
        or ``"off"``; ``None`` is 0. It must be stated where sticky bucketing is on.
    :param segment: name of a target segment whose percentage is ramped instead of that of all other users.
    :param guardrails: what every stage is watched by, besides the guardrails of its own.
    :param alpha: how probable it may be, over the whole rollout, that a harmless one is stopped.
    :param on_breach: ``rollback`` (to ``rollback_to``), ``off``, or ``hold`` (nothing is written).
    :param on_drift: ``fail``, ``continue`` or ``overwrite``, where somebody changed the object meanwhile.
    :param enable: switch the object on with the first write.
    :param check_every: how long between two looks; default a twelfth of the bake, from 5 minutes to 1 hour.
    :param hold_for: how long a stage is held after its bake until it passes; default as long as the bake, at least
        1 hour.
    :param approve_above: ask a person before every raise above this percentage.
    :param approvers: who may answer: user ids, or ``{"id": …, "name": …}``; nobody in particular by default.
    :param approve_within: how long to wait for an answer; without one the run fails, and stays where it stands.
    :param mark_start_date: write when the last stage can be analysed as the experiment's ``startDate``.
    :param rollback_deadline: how long a rollback is tried.
    :param units_per_hour, rate: expected traffic and the share of it that converts; with them ``begin`` says which harm
        each stage can show, as in :meth:`RolloutPlan.preview`.
    :param reason: why, for logs, records and the question to the approvers.
    :param amplitude_conn_id: id of the Airflow connection.
    :raises ValueError: an argument can't be meant.

    ``start_at``, ``rollback_to``, ``segment``, ``on_drift``, ``enable`` and ``reason`` may be templates.
    Durations are texts such as ``"1d 12h"``, timedeltas or seconds.
    """
    return _Rollout(
        plan=RolloutPlan.of(plan),
        guardrails=tuple(guardrails),
        target={
            "experiment_key": experiment_key,
            "experiment_id": experiment_id,
            "flag_key": flag_key,
            "flag_id": flag_id,
            "project_id": project_id,
            "segment": segment,
            "reason": reason,
            "amplitude_conn_id": amplitude_conn_id,
        },
        bounds={"start_at": start_at, "rollback_to": rollback_to},
        alpha=_share(alpha),
        on_breach=_word("on_breach", on_breach, ("rollback", "off", "hold")),
        on_drift=on_drift,
        enable=enable,
        check_every=None if check_every is None else _positive(check_every, "check_every"),
        hold_for=None if hold_for is None else _positive(hold_for, "hold_for"),
        approve_above=approve_above,
        approvers=[_approver(each) for each in approvers],
        approve_within=_positive(approve_within, "approve_within"),
        mark_start_date=mark_start_date,
        rollback_deadline=_positive(rollback_deadline, "rollback_deadline"),
        traffic={"units_per_hour": units_per_hour, "rate": rate},
    ).group(group_id)


class _Rollout:
    """What one call of :func:`staged_rollout` asks for, checked.

    What several tasks are told is made once and shared: no task changes it, and a DAG file is read again and again. (No
    dataclass: one of this size takes two milliseconds of each parse to define.)
    """

    plan: RolloutPlan
    guardrails: tuple[Guardrail, ...]
    target: dict[str, Any]
    bounds: dict[str, Any]
    alpha: float
    on_breach: str
    on_drift: str
    enable: bool | str
    check_every: timedelta | None
    hold_for: timedelta | None
    approve_above: int | None
    approvers: list[dict[str, str]]
    approve_within: timedelta
    mark_start_date: bool
    rollback_deadline: timedelta
    traffic: dict[str, Any]

    def __init__(self, **asked: Any) -> None:
        vars(self).update(asked)
        self._told_plan = self.plan.as_dict()
        self._everywhere = described(self.guardrails)
        self._watched_by = {
            stage.percentage: described([*self.guardrails, *stage.guardrails]) if stage.guardrails else self._everywhere
            for stage in self.plan.stages
        }
        self._counted = self._all_guardrails()
        self._settle = self._longest_settle().total_seconds()

    def group(self, group_id: str) -> TaskGroup:
        """Build the tasks."""
        from airflow.sdk import TaskGroup

        from airflow_amplitude_experiment.operators.rollback import AmplitudeRollbackOperator

        self._check_bounds()
        group = TaskGroup(group_id=group_id, tooltip=self.plan.offsets())
        group.default_args = {**PATIENT, **group.dag.default_args, **group.default_args}
        with group:
            tasks = _Tasks(self._begin())
            if self._asks_before(self.plan.stages[0]):
                self._ask(tasks, None, self.plan.stages[0])
            for number, stage in enumerate(self.plan.stages):
                with TaskGroup(group_id=f"to_{stage.percentage}"):
                    self._stage(tasks, stage, number)
            if self.on_breach != "hold":
                rollback = AmplitudeRollbackOperator(
                    task_id="rollback",
                    watches=[watch.task_id for watch in tasks.watches],
                    rollback_to=self.bounds["rollback_to"],
                    on_breach=self.on_breach,
                    rollback_deadline=self.rollback_deadline.total_seconds(),
                    **self.target,
                    **URGENT,
                )
                [*tasks.ramps, *tasks.watches] >> rollback.as_teardown()
        return group

    def _begin(self) -> Any:
        from airflow_amplitude_experiment.operators.begin import AmplitudeBeginRolloutOperator

        return AmplitudeBeginRolloutOperator(
            task_id="begin",
            trigger_rule=IN_ORDER,
            plan=self._told_plan,
            enable=self.enable,
            guardrails=self._everywhere,
            stage_guardrails={
                str(stage.percentage): described(stage.guardrails) for stage in self.plan.stages if stage.guardrails
            },
            alpha=self.alpha,
            check_every=self.check_every.total_seconds() if self.check_every else None,
            on_breach=self.on_breach,
            on_drift=self.on_drift,
            **self.traffic,
            **self.bounds,
            **self.target,
        )

    def _stage(self, tasks: _Tasks, stage: Stage, number: int) -> None:
        """Add one stage: its ramp, its watch, and the question before the next one."""
        from airflow_amplitude_experiment.operators.ramp_stage import AmplitudeRampStageOperator

        ramp = AmplitudeRampStageOperator(
            task_id="ramp",
            trigger_rule=IN_ORDER,
            plan=self._told_plan,
            percentage=stage.percentage,
            enable=self.enable,
            on_drift=self.on_drift,
            begin=tasks.begin.task_id,
            ramps=[each.task_id for each in tasks.ramps],
            gates=[each.task_id for each in tasks.gates],
            approve=tasks.approve.task_id if tasks.approve else None,
            mark_start_date=self.mark_start_date,
            settle=self._settle,
            **self.bounds,
            **self.target,
        )
        tasks.follow(ramp)
        tasks.ramps.append(ramp)
        tasks.gates, tasks.approve = [], None
        following = next(iter(self.plan.stages[number + 1 :]), None)
        asks = following is not None and (stage.approval or self._asks_before(following))
        if stage.watched:
            self._watch(tasks, stage, before_a_raise=following is not None and not asks)
        if following is not None and asks:
            self._ask(tasks, stage, following)

    def _watch(self, tasks: _Tasks, stage: Stage, *, before_a_raise: bool, approve: Any = None) -> None:
        from airflow_amplitude_experiment.operators.watch import AmplitudeWatchStageOperator

        every = self.check_every or min(stage.watched, max(OFTEN, min(SELDOM, stage.watched / 12)))
        hold_for = self.hold_for or max(stage.watched, SHORTEST_HOLD)
        watch = AmplitudeWatchStageOperator(
            task_id="watch_approval" if approve else "watch",
            trigger_rule=IN_ORDER,
            plan=self._told_plan,
            percentage=stage.percentage,
            on_breach=self.on_breach,
            begin=tasks.begin.task_id,
            ramps=[each.task_id for each in tasks.ramps],
            watches=[each.task_id for each in tasks.watches],
            approve=approve.task_id if approve else None,
            before_a_raise=before_a_raise,
            guardrails=self._watched_by[stage.percentage],
            counted=self._counted,
            callables=callables([*self.guardrails, *stage.guardrails]),
            alpha=self.alpha,
            check_every=every.total_seconds(),
            hold_for=hold_for.total_seconds(),
            **self.bounds,
            **self.target,
        )
        if approve is None:
            tasks.follow(watch)
        tasks.watches.append(watch)
        tasks.gates = [*tasks.gates, watch] if approve else [watch]

    def _ask(self, tasks: _Tasks, stage: Stage | None, following: Stage) -> None:
        """Add the question before a raise, and the watch beside it."""
        from airflow_amplitude_experiment.operators.approval import AmplitudeApproveRaiseOperator

        asked = AmplitudeApproveRaiseOperator(
            task_id="approve",
            trigger_rule=IN_ORDER,
            stage=stage.percentage if stage else None,
            percentage=following.percentage,
            subject=f"Raise to {following.percentage} %?",
            on_breach=self.on_breach,
            begin=tasks.begin.task_id,
            watch=tasks.watches[-1].task_id if tasks.watches else None,
            within=self.approve_within,
            assigned_users=self.approvers or None,
            retries=0,
            **self.bounds,
            **{name: value for name, value in self.target.items() if name != "amplitude_conn_id"},
        )
        before = tasks.last
        tasks.follow(asked)
        tasks.approve = asked
        if stage is not None:
            self._watch(tasks, stage, before_a_raise=True, approve=asked)
            before >> tasks.watches[-1]
            tasks.last = [asked, tasks.watches[-1]]

    def _all_guardrails(self) -> list[dict[str, Any]]:
        """Return all guardrails of the rollout; one that several stages share counts once."""
        whole = list(self._everywhere)
        for stage in self.plan.stages:
            whole += [each for each in described(stage.guardrails) if each not in whole]
        names = [each["name"] for each in whole]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(
                f"different guardrails are named {', '.join(map(repr, twice))}. What a guardrail remembers is kept "
                "under its name from stage to stage: give each another one."
            )
        return whole

    def _longest_settle(self) -> timedelta:
        """Return how long after its write a stage's numbers can't be trusted yet."""
        stated = [duration(each["settle"], "settle") for each in self._counted if "settle" in each]
        return max(stated, default=DEFAULT_SETTLE)

    def _asks_before(self, stage: Stage) -> bool:
        return self.approve_above is not None and stage.percentage > self.approve_above

    def _check_bounds(self) -> None:
        """Check what no template fills in later.

        :raises ValueError: a percentage that can't be meant, or one to go back to that the plan is not above.
        """
        from airflow_amplitude_experiment.api._checks import percent
        from airflow_amplitude_experiment.operators._base import is_known
        from airflow_amplitude_experiment.operators._run import starting_percentage

        if self.approve_above is not None:
            percent("approve_above", self.approve_above)
        known = {name: starting_percentage(value) for name, value in self.bounds.items() if is_known(value)}
        first, last = self.plan.percentages[0], self.plan.percentages[-1]
        base, start = known.get("rollback_to"), known.get("start_at")
        if base is not None and base >= first and self.bounds["start_at"] is None:
            raise ValueError(
                f"rollback_to={base} is not below the plan's first stage, {first} %. A rollout begins where it goes "
                f"back to; leave out the stages up to {base} %, or pass start_at."
            )
        if start is not None and start >= last:
            raise ValueError(f"start_at={start} leaves nothing of the plan, whose last stage is {last} %.")
        if start is not None and base is not None and base > start:
            raise ValueError(f"rollback_to={base} is above start_at={start}; a rollback only goes down.")


class _Tasks:
    """The tasks of a group as far as it is built.

    :param last: what the next task follows.
    :param gates: the watches that the next ramp follows, whose verdicts it records.
    :param approve: the approval that the next ramp follows, if any.
    """

    def __init__(self, begin: Any) -> None:
        self.begin = begin
        self.last = [begin]
        self.ramps: list[Any] = []
        self.watches: list[Any] = []
        self.gates: list[Any] = []
        self.approve: Any = None

    def follow(self, task: Any) -> None:
        """Put a task behind what there is."""
        self.last >> task
        self.last = [task]


def _positive(given: Any, what: str) -> timedelta:
    length = duration(given, what)
    if length <= timedelta(0):
        raise ValueError(f"{what}={given!r} must be longer than nothing, such as '1h'.")
    return length


def _share(alpha: Any) -> float:
    if isinstance(alpha, bool) or not isinstance(alpha, int | float) or not 0 < alpha < 1:
        raise ValueError(f"alpha={alpha!r} is not a probability between 0 and 1, such as 0.05.")
    return float(alpha)


def _word(name: str, given: Any, allowed: Sequence[str]) -> str:
    if given not in allowed:
        raise ValueError(f"{name}={given!r} is none of {', '.join(map(repr, allowed))}.")
    return str(given)


def _approver(given: Any) -> dict[str, str]:
    """Return a user as Airflow's approvals name one."""
    if isinstance(given, str) and given.strip():
        return {"id": given, "name": given}
    if isinstance(given, Mapping) and given.get("id"):
        return {"id": str(given["id"]), "name": str(given.get("name") or given["id"])}
    raise ValueError(f"approvers: {given!r} is no user. Write a user's id, or {{'id': '7', 'name': 'ada'}}.")
