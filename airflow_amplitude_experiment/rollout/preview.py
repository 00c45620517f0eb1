"""A plan as people read it before the start: a table with dates, and what each stage can show.

Apart from the plan because nothing that decides needs it. All moments are the earliest ones: a rollout that holds,
waits for a person or is ramped late moves everything that follows, and shortens nothing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from .durations import in_words
from .offsets import date, limits
from .stages import Stage

if TYPE_CHECKING:
    from .plan import RolloutPlan

# Read, variants (their payloads may have changed), write, read back; a stage that stands already is read only.
REQUESTS_OF_A_RAISE = 4
REQUESTS_OF_A_STANDING_STAGE = 1
REQUESTS_OF_A_ROLLBACK = 3

CONVERSIONS_TO_PASS = 25


@dataclass(frozen=True, slots=True)
class PreviewStage:
    """One stage with its dates, in UTC.

    :param before: the percentage it comes from; the same as its own where the rollout goes on from here.
    :param harm: the smallest harm that its watch shows in 80 of 100 rollouts, ``None`` for too little evidence.
    :param passes: whether enough is counted for a comparison to pass, or ``None`` where nothing is known of that.
    """

    percentage: int
    before: int
    reached: datetime
    watched: timedelta
    approval: bool
    harm: float | None = None
    passes: bool | None = None

    @property
    def new(self) -> int:
        """How many percent of the users are served now and were not before."""
        return self.percentage - self.before

    @property
    def until(self) -> datetime:
        """When its watch is over."""
        return self.reached + self.watched


@dataclass(frozen=True, slots=True)
class Preview:
    """What a rollout will do; ``str()`` is a table.

    :param rollback_to: the percentage of a rollback, or ``"off"``.
    """

    plan: RolloutPlan
    stages: tuple[PreviewStage, ...]
    rollback_to: int | str
    power: Power | None = None

    @property
    def requests(self) -> int:
        """Requests to Amplitude of all ramps; what ``begin`` reads, and a rollback, come on top."""
        return sum(REQUESTS_OF_A_RAISE if each.new else REQUESTS_OF_A_STANDING_STAGE for each in self.stages)

    @property
    def latest_rollback(self) -> datetime | None:
        """The last moment at which a guardrail looks, if nothing is late; ``None`` where no stage is watched."""
        return max((each.until for each in self.stages if each.watched), default=None)

    def __str__(self) -> str:
        return "\n".join([*_table(self), "", *limits(self.plan), *_what_follows(self)])


@dataclass(frozen=True, slots=True, kw_only=True)
class Power:
    """What is known of the traffic, and what the guardrails can show with it.

    :param units_per_hour: people (or what the guardrails count) who reach the feature, each hour others.
    :param rate: the share of them that converts.
    :param mde: the harm that matters, as a share.
    :param alpha: of one comparison.
    """

    units_per_hour: float
    rate: float
    mde: float | None
    design: str
    alpha: float

    @classmethod
    def of(
        cls,
        *,
        units_per_hour: float | None,
        rate: float | None,
        mde: float | str | None,
        design: str,
        alpha: float,
        comparisons: int,
    ) -> Power | None:
        """Check what was given; ``None`` where nothing is known of the traffic."""
        if design not in ("variants", "rollout"):
            raise ValueError(f"design={design!r} is neither 'variants' nor 'rollout'.")
        if units_per_hour is None and rate is None and mde is None:
            return None
        if units_per_hour is None or rate is None:
            raise ValueError(
                f"units_per_hour={units_per_hour} and rate={rate} go together: give both to see which harm each stage "
                "can show, or neither (and no mde)."
            )
        _refuse_unless(_is_number(units_per_hour) and units_per_hour > 0, "units_per_hour", units_per_hour, "over 0")
        _refuse_unless(_is_number(rate) and 0 < rate < 1, "rate", rate, "a share between 0 and 1, such as 0.1")
        _refuse_unless(_is_number(alpha) and 0 < alpha < 1, "alpha", alpha, "between 0 and 1, such as 0.05")
        whole = isinstance(comparisons, int) and not isinstance(comparisons, bool)
        _refuse_unless(whole and comparisons > 0, "comparisons", comparisons, "a whole number from 1")
        from .statistics import tau

        return cls(
            units_per_hour=units_per_hour,
            rate=rate,
            mde=None if mde is None else tau(mde, rate),
            design=design,
            alpha=alpha / comparisons / (2 if design == "rollout" else 1),
        )

    def arms(self, percentage: int, hours: float) -> tuple[float, float]:
        """Return the units of treatment and control that a stage collects in some hours."""
        units = self.units_per_hour * hours
        if self.design == "rollout":
            return units * percentage / 100, units * (100 - percentage) / 100
        return units * percentage / 200, units * percentage / 200

    def shows(self, stages: Sequence[tuple[int, float]]) -> float | None:
        """Return the smallest harm that the evidence of stages shows in 80 of 100 rollouts, or ``None``.

        :param stages: percentage and hours of each, the last one running. Stages are strata, as in the guardrails:
            their information is added, not their units.
        """
        from .statistics import smallest_harm

        arms = [(t, c) for t, c in (self.arms(*each) for each in stages) if self.enough(t, c)]
        information = math.fsum(t * c / (t + c) for t, c in arms)
        if not information:
            return None
        # Two arms of twice that size carry the same information.
        variance = self.rate * (1 - self.rate)
        return smallest_harm(variance, n_t=2 * information, n_c=2 * information, alpha_c=self.alpha)

    def enough(self, treatment: float, control: float, *, to_pass: bool = False) -> bool:
        """Whether a stage counts, or whether it alone is enough for a pass."""
        from .statistics import CONVERSIONS, UNITS_FOR_A_RATE

        smaller = min(treatment, control)
        if to_pass:
            return smaller >= UNITS_FOR_A_RATE and smaller * self.rate >= CONVERSIONS_TO_PASS
        return smaller >= UNITS_FOR_A_RATE and smaller * min(self.rate, 1 - self.rate) >= CONVERSIONS


def preview(
    plan: RolloutPlan, start: datetime, *, rollback_to: int | str | None, start_at: int | None, power: Power | None
) -> Preview:
    """Compute a plan's dates from a start in UTC; see :meth:`RolloutPlan.preview`."""
    back = "off" if rollback_to == "off" else _standing("rollback_to", rollback_to or 0)
    lowest = 0 if back == "off" else int(back)
    first = lowest if start_at is None else _standing("start_at", start_at)
    if first < lowest:
        raise ValueError(f"rollback_to={back} is above start_at={start_at}: a rollback only goes down.")
    ahead = [each for each in plan.stages if start_at is None or each.percentage >= first]
    if not ahead:
        raise ValueError(f"start_at={start_at} is above the last stage of the plan {plan}: nothing is left to do.")
    if ahead[0].percentage < first:
        raise ValueError(
            f"rollback_to={back} is above the first stage, {ahead[0].percentage} %: the plan would begin by going "
            f"down. Leave out the stages below {back} %, or state start_at."
        )
    rows: list[PreviewStage] = []
    ready, stands = start, first
    for stage in ahead:
        raised = stage.percentage > stands
        rows.append(_row(stage, stands, plan.next_opening(ready) if raised else ready))
        ready, stands = rows[-1].until, stage.percentage
    return Preview(plan, tuple(_with_power(rows, power) if power else rows), back, power)


def _row(stage: Stage, before: int, reached: datetime) -> PreviewStage:
    return PreviewStage(stage.percentage, before, reached, stage.watched, stage.approval)


def _with_power(rows: Sequence[PreviewStage], power: Power) -> list[PreviewStage]:
    """Add to each stage what it shows with the evidence of the stages before, which count until the next write."""
    found: list[PreviewStage] = []
    closed: list[tuple[int, float]] = []
    for place, row in enumerate(rows):
        running = (row.percentage, row.watched / timedelta(hours=1))
        compares = bool(row.watched) and not _without_control(row, power)
        found.append(
            PreviewStage(
                row.percentage,
                row.before,
                row.reached,
                row.watched,
                row.approval,
                harm=power.shows([*closed, running]) if compares else None,
                passes=power.enough(*power.arms(*running), to_pass=True) if compares else None,
            )
        )
        if place + 1 < len(rows):
            closed.append((row.percentage, (rows[place + 1].reached - row.reached) / timedelta(hours=1)))
    return found


def _without_control(row: PreviewStage, power: Power) -> bool:
    return power.design == "rollout" and row.percentage == 100


def _table(shown: Preview) -> list[str]:
    """Return the stages as lines of aligned columns."""
    heads = ["reached (UTC)", "from", "to", "newly exposed", "watched", "until (UTC)"]
    rows = [
        [
            date(each.reached),
            f"{each.before} %",
            f"{each.percentage} %",
            f"{each.new} % of users" if each.new else "nobody",
            in_words(each.watched) if each.watched else "no",
            date(each.until) + (", then a person is asked" if each.approval else ""),
        ]
        for each in shown.stages
    ]
    if shown.power:
        heads.append("smallest harm shown")
        for cells, each in zip(rows, shown.stages, strict=True):
            cells.append(_harm(each, shown.power))
    widths = [max(len(cells[column]) for cells in [heads, *rows]) for column in range(len(heads))]
    numbers = {"from", "to", "newly exposed"}
    return [
        "  ".join(
            cell.rjust(width) if head in numbers else cell.ljust(width)
            for head, cell, width in zip(heads, cells, widths, strict=True)
        ).rstrip()
        for cells in [heads, *rows]
    ]


def _what_follows(shown: Preview) -> list[str]:
    """Return what the table can't say: requests, the rollback, and what the figures mean."""
    back = "switches it off" if shown.rollback_to == "off" else f"goes to {shown.rollback_to} %"
    last = shown.latest_rollback
    lines = [
        f"Requests to Amplitude: {shown.requests} for the ramps, and {REQUESTS_OF_A_ROLLBACK} for a rollback.",
        f"A rollback {back}. The latest moment of one is {date(last)} UTC, if no stage has to wait."
        if last
        else f"A rollback {back}, but no stage is watched: no guardrail would call for one.",
        "All moments are the earliest ones: what holds, waits for a person or comes late moves all that follows.",
    ]
    return lines + (_about_power(shown.stages, shown.power) if shown.power else [])


def _about_power(stages: Sequence[PreviewStage], power: Power) -> list[str]:
    arms = "users with the flag and users without it" if power.design == "rollout" else "two equal variants"
    from .statistics import UNITS_FOR_A_RATE

    lines = [
        f"Smallest harm: found in 80 of 100 rollouts by the end of the watch, between {arms}, if each hour brings "
        f"{power.units_per_hour:g} others who reach the feature and {power.rate:.3g} of them convert; "
        f"alpha {power.alpha:.3g} for one comparison."
    ]
    if power.mde is not None:
        first = next((each for each in stages if each.harm is not None and each.harm <= power.mde), None)
        lines.append(
            f"A harm of {_points(power.mde)} (mde) is found from stage {first.percentage} % on."
            if first
            else f"No stage can show a harm of {_points(power.mde)} (mde). Watch longer, or state a larger one."
        )
    if few := ", ".join(f"{each.percentage} %" for each in stages if each.passes is False):
        lines.append(
            f"Too little is counted for a pass in: {few} ({UNITS_FOR_A_RATE} units and {CONVERSIONS_TO_PASS} "
            "conversions in each arm are needed). The rollout holds there, unless the guardrail says "
            "if_inconclusive='advance'."
        )
    if any(_without_control(each, power) for each in stages):
        lines.append("At 100 % nobody is left to compare with: thresholds only. To go on comparing, end at 95 %.")
    return lines


def _harm(stage: PreviewStage, power: Power) -> str:
    if _without_control(stage, power):
        return "thresholds only"
    if not stage.watched:
        return "none, not watched"
    return "none, too few units" if stage.harm is None else _points(stage.harm)


def _points(harm: float) -> str:
    points = harm * 100
    return f"{points:.1f} points" if points >= 1 else f"{points:.2g} points"


def _standing(name: str, given: Any) -> int:
    whole = isinstance(given, int) and not isinstance(given, bool)
    allowed = "a whole percentage from 0 to 100" + (" or 'off'" if name == "rollback_to" else "")
    _refuse_unless(whole and 0 <= given <= 100, name, given, allowed)
    return int(given)


def _is_number(given: Any) -> bool:
    return isinstance(given, int | float) and not isinstance(given, bool) and math.isfinite(given)


def _refuse_unless(right: bool, name: str, given: Any, allowed: str) -> None:
    if not right:
        raise ValueError(f"{name}={given!r} is not possible. Allowed is {allowed}.")
