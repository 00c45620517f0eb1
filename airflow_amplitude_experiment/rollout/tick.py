"""What one tick of a plan does to an object as it was just read: raise it by one stage, or nothing.

Pure, and it remembers nothing: where the rollout stands is read off the object, since when is the moment of its last
change, and what should be is the plan's own arithmetic. So a tick that is late, repeated or lost does no harm: a bake
counts from the last change, late and never early, and no tick goes further than the stage after the one it finds.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from airflow_amplitude_experiment.api import RolloutRefused

from .durations import in_words
from .history import percentage_of
from .plan import RolloutPlan, Stage
from .ramp import last_change
from .segments import segment_named


@dataclass(frozen=True, slots=True, kw_only=True)
class Tick:
    """What to do now.

    :param stands: the percentage as it was found.
    :param to: the percentage to raise it to; ``None`` to write nothing.
    :param why: in words.
    :param next_change: when a tick may raise it next, as far as that is known; ``None`` where nothing is left to do.
    :param watched: whether the stage it stands on is still watched.
    :param is_complete: whether it stands on the last stage.
    """

    stands: int
    to: int | None
    why: str
    next_change: datetime | None
    watched: bool
    is_complete: bool = False


def ahead(plan: RolloutPlan, base: int) -> RolloutPlan:
    """Return what of a plan is left for a rollout that begins at a percentage; a stage of just that is watched.

    :raises ValueError: nothing is left.
    """
    if base >= plan.percentages[-1]:
        raise ValueError(
            f"from_percentage={base} leaves nothing of the plan, whose last stage is {plan.percentages[-1]} %."
        )
    left = [each for each in plan.stages if each.percentage >= base]
    return RolloutPlan(left, windows=plan.windows, freezes=plan.freezes)


def tick(
    found: Any,
    plan: RolloutPlan,
    *,
    start: datetime,
    now: datetime,
    since: datetime,
    base: int = 0,
    segment: str | None = None,
    run_began: datetime | None = None,
    frozen: str | None = None,
) -> Tick:
    """Decide what a tick does, after the plan's start.

    ==============================================  ====================================================
    found                                           what happens
    ==============================================  ====================================================
    the last stage                                  done, no write
    a stage whose bake, from ``since``, is over,
    or ``base``, and the plan is as far             raise to the next stage, if a window is open
    the same, earlier                               nothing yet, and when
    a stage reached since the run began             nothing: one stage a run
    further behind than the plan at half its pace   refused
    off the plan, disabled, archived                refused
    ==============================================  ====================================================

    :param found: the flag or experiment as the API answered it.
    :param plan: what is left of it, as :func:`ahead` gives it.
    :param since: when the object was changed last.
    :param base: the percentage that is expected before the first stage.
    :param segment: the target segment whose percentage is moved, instead of that of all other users.
    :param run_began: when the run of this tick started.
    :param frozen: what of the freeze names the object.
    :raises RolloutRefused: see above; nothing is written.
    """
    stands = _standing(found, plan, base, segment)
    stages, here = plan.stages, plan.percentages.index(stands) if stands in plan.percentages else -1
    baked = since + stages[here].watched if here >= 0 else None
    if here == len(stages) - 1:
        watched = baked is not None and now < baked
        why = f"{stands} % is the last stage: the plan is complete"
        return Tick(stands=stands, to=None, why=why, next_change=None, watched=watched, is_complete=True)

    following, on_a_stage = stages[here + 1], here >= 0
    due = plan.next_opening(max(_planned(plan, start, here + 1), baked or start))

    def nothing(why: str, again: datetime | None) -> Tick:
        return Tick(stands=stands, to=None, why=why, next_change=again, watched=on_a_stage)

    if frozen is not None:
        why = f"the Airflow Variable amplitude_experiment_freeze names it ({frozen!r}), so nothing goes up"
        return nothing(why, due if due > now else None)
    _refuse_far_behind(found, plan, start, now, stands, here)
    if now < due:
        return nothing(f"{following.percentage} % is due at {due:%Y-%m-%d %H:%M:%SZ}", due)
    if on_a_stage and run_began is not None and since >= run_began:
        return nothing("it was changed since this run began, and a run goes one stage at most", due)
    if not plan.is_open(now):
        opening = plan.next_opening(now)
        return nothing(f"the plan's windows open next at {opening:%Y-%m-%d %H:%MZ}", opening)
    why = f"{following.percentage} % was due at {due:%Y-%m-%d %H:%M:%SZ}"
    return Tick(stands=stands, to=following.percentage, why=why, next_change=due, watched=on_a_stage)


def _standing(found: Any, plan: RolloutPlan, base: int, segment: str | None) -> int:
    """Return where an object stands.

    :raises RolloutRefused: off the plan, disabled or archived.
    """
    if segment is not None:
        segment_named(found, segment)
    stands = percentage_of(found, segment)
    if stands is None or found.enabled is None:
        raise _refused(found, "does not show its percentage and switch", "Look at the object in Amplitude.")
    if found.deleted:
        raise _refused(found, "is archived", "Restore it in Amplitude, and give the rollout a new start.")
    if not found.enabled:
        raise _refused(
            found,
            f"is disabled, at {stands} %, and a tick never enables",
            "If it was stopped, leave it so and pause this DAG. To go on, enable it in Amplitude and give the rollout "
            f"a new start, with from_percentage={stands}.",
        )
    if stands != base and stands not in plan.percentages:
        raise _refused(
            found,
            f"stands at {stands} %, which is off the plan: {base} %, then {plan}",
            f"Set one of them in Amplitude, or give the rollout a new start with from_percentage={stands}.",
        )
    return int(stands)


def _planned(plan: RolloutPlan, start: datetime, place: int) -> datetime:
    """Return when the plan reaches a stage at the earliest, whatever may stand against those after it."""
    first = RolloutPlan(plan.stages[: place + 1], windows=plan.windows, freezes=plan.freezes)
    return first.reached(start)[-1]


def _refuse_far_behind(found: Any, plan: RolloutPlan, start: datetime, now: datetime, stands: int, here: int) -> None:
    """Refuse to go on where whole stages were missed.

    Each stage is as late as its tick, and what is late stays late, so a sound rollout falls behind its plan. One whose
    ticks come more often than its bakes end never falls behind a plan of twice the bakes.

    :raises RolloutRefused: even that plan is further than the next stage.
    """
    patient = [Stage(each.percentage, 2 * each.watched) for each in plan.stages]
    slow = RolloutPlan(patient, windows=plan.windows, freezes=plan.freezes).at(start, now)
    if slow not in plan.percentages or plan.percentages.index(slow) <= here + 1:
        return
    late = in_words(now.replace(microsecond=0) - _planned(plan, start, here + 1).replace(microsecond=0))
    raise _refused(
        found,
        f"is too far behind its plan: it stands at {stands} %, and the plan is at {plan.at(start, now)} %; its next "
        f"stage, {plan.stages[here + 1].percentage} %, was due {late} ago, and even with twice the bakes it would be "
        f"at {slow} %. Ticks were missed, something held it, or somebody changed it",
        f"To go on from {stands} %, give the rollout a new start with from_percentage={stands}.",
    )


def _refused(found: Any, what: str, advice: str) -> RolloutRefused:
    return RolloutRefused(f"{found.key} {what}.{last_change(found)} Nothing was written. {advice}")
