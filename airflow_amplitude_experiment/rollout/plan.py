"""A rollout's plan: which percentages, how long each is watched, and when it may go up.

Pure, and without Airflow: a plan is a value that computes. Two rules keep everybody safe. A bake counts from the
moment that reached its stage, so a rollout that is late stays late and no stage is shortened or skipped. Windows
and freezes hold back raises only; lowering, rollback and the kill switch never ask a plan.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from . import windows as opening
from .durations import duration, in_words
from .windows import Freeze, Window, aware, freeze

if TYPE_CHECKING:
    from .preview import Preview

NOTHING = timedelta(0)
SHORTEST_LAST_BAKE = timedelta(hours=1)
SIMPLE_STAGES = (1, 5, 10, 25, 50, 100)

_STAGE = re.compile(r"([^\s%]+)\s*%\s*(.*)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Stage:
    """One stage of a plan: a percentage, and how long it is watched before the next one.

    :param percentage: whole, 1 to 100.
    :param bake: ``"1h"``, ``"1d 12h"``, or a timedelta; the last stage of a plan may leave it out.
    :param guardrails: those of this stage alone, beside the rollout's.
    :param approval: a person is asked after this stage's watch, before the next ramp.
    """

    percentage: int
    bake: timedelta | str | None = None
    guardrails: Sequence[Any] = field(default=(), repr=False)
    approval: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "percentage", _percentage(self.percentage, "a stage"))
        if self.bake is not None:
            object.__setattr__(self, "bake", duration(self.bake, f"the bake of stage {self.percentage} %"))
        if isinstance(self.guardrails, str | Mapping) or not isinstance(self.guardrails, Iterable):
            raise ValueError(
                f"guardrails={self.guardrails!r} of stage {self.percentage} % is not a list of guardrails."
            )
        object.__setattr__(self, "guardrails", tuple(self.guardrails))
        if not isinstance(self.approval, bool):
            raise ValueError(f"approval={self.approval!r} of stage {self.percentage} % is neither True nor False.")

    @property
    def watched(self) -> timedelta:
        """How long the stage is watched; nothing where no bake is stated."""
        return self.bake if isinstance(self.bake, timedelta) else NOTHING

    def __str__(self) -> str:
        return f"{self.percentage}%" if self.bake is None else f"{self.percentage}% {in_words(self.watched)}"


@dataclass(frozen=True, slots=True, init=False)
class RolloutPlan:
    """Rising percentages, each watched for its bake, raised within windows and outside freezes only.

    Also :meth:`parse`, :meth:`simple`, :meth:`linear` and :meth:`from_yaml`; each takes windows and freezes.

    :param stages: in rising order. Each but the last states its bake. The last is watched as long as the longest
        before it, at least an hour, unless it states a bake; ``"0h"`` opts out.
    :param windows: hours in which it may go up, any of them; none means at any time.
    :param freezes: periods in which nothing goes up: pairs of aware datetimes or of ISO texts with an offset.
    """

    stages: tuple[Stage, ...]
    windows: tuple[Window, ...]
    freezes: tuple[Freeze, ...]

    def __init__(
        self, stages: Sequence[Stage], *, windows: Sequence[Window] = (), freezes: Sequence[Sequence[Any]] = ()
    ) -> None:
        object.__setattr__(self, "stages", _checked(stages))
        object.__setattr__(self, "windows", _sequence("windows", windows, Window))
        pairs = _sequence("freezes", freezes, tuple | list)  # type: ignore[arg-type]
        object.__setattr__(self, "freezes", tuple(freeze(pair) for pair in pairs))

    # --- making one ---

    @classmethod
    def parse(cls, text: str, *, windows: Sequence[Window] = (), freezes: Sequence[Sequence[Any]] = ()) -> RolloutPlan:
        """Read ``"1% 1h, 10% 1d, 50% 1d, 100%"``: percentages, each with how long it is watched."""
        if not isinstance(text, str):
            raise ValueError(f"a plan's text is needed, such as '1% 1h, 10% 1d, 100%', not {text!r}.")
        stages = [_stage(part.strip()) for part in text.split(",")] if text.strip() else []
        return cls(stages, windows=windows, freezes=freezes)

    @classmethod
    def simple(
        cls, over: str | timedelta, *, windows: Sequence[Window] = (), freezes: Sequence[Sequence[Any]] = ()
    ) -> RolloutPlan:
        """Go by 1, 5, 10, 25 and 50 to 100 %; a duration such as ``"5d"`` is split evenly over the first five."""
        whole = duration(over, "the duration of a simple plan")
        if whole / 5 <= NOTHING:
            raise ValueError(
                f"the duration of a simple plan, {over!r}, is empty. Write how long it takes, such as '5d'."
            )
        stages = [Stage(percentage, None if percentage == 100 else whole / 5) for percentage in SIMPLE_STAGES]
        return cls(stages, windows=windows, freezes=freezes)

    @classmethod
    def linear(
        cls,
        first: int,
        last: int,
        *,
        step: int,
        every: str | timedelta,
        windows: Sequence[Window] = (),
        freezes: Sequence[Sequence[Any]] = (),
    ) -> RolloutPlan:
        """Go from the first percentage to the last in equal steps; the last step may be smaller."""
        first, last = _percentage(first, "first"), _percentage(last, "last")
        step = _percentage(step, "step")
        if last < first:
            raise ValueError(f"first={first} is above last={last}: a plan only goes up. {_DOWN}")
        bake = _positive(duration(every, "every"), first)
        stages = [*(Stage(each, bake) for each in range(first, last, step)), Stage(last)]
        return cls(stages, windows=windows, freezes=freezes)

    @classmethod
    def from_yaml(cls, path: str | os.PathLike[str]) -> RolloutPlan:
        """Read a plan from a YAML file; windows and freezes may be left out.

        .. code-block:: yaml

            stages:
              - 1% 1h
              - {percentage: 10, bake: 1d, approval: true}
              - 50% 1d
              - 100%
            windows:
              - {days: mon-thu, hours: "09:00-16:00", timezone: Europe/Berlin}
            freezes:
              - ["2026-12-20T00:00:00+01:00", "2027-01-04T00:00:00+01:00"]
        """
        import yaml

        try:
            with open(path, encoding="utf-8") as file:
                return cls.from_dict(yaml.safe_load(file))
        except (ValueError, yaml.YAMLError) as error:
            raise ValueError(f"{os.fspath(path)}: {error}") from error

    @classmethod
    def of(cls, plan: RolloutPlan | Sequence[Stage]) -> RolloutPlan:
        """Return a plan as it is, or make one of stages."""
        if isinstance(plan, RolloutPlan):
            return plan
        if isinstance(plan, str):
            raise ValueError(f"plan={plan!r} is a text. Write RolloutPlan.parse({plan!r}).")
        return cls(plan)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> RolloutPlan:
        """Return the plan that :meth:`as_dict` wrote; its guardrails are not in there."""
        _refuse_others(data, "a plan", ("stages", "windows", "freezes"))
        return cls(
            [_stage(each) if isinstance(each, str) else _stage_of(each) for each in _list(data, "stages")],
            windows=[_window_of(each) for each in _list(data, "windows")],
            freezes=_list(data, "freezes"),
        )

    def as_dict(self) -> dict[str, Any]:
        """Return the plan as plain JSON, with bakes in seconds and without its guardrails."""
        return {
            "stages": [
                {"percentage": each.percentage, "bake": _seconds(each.watched), "approval": each.approval}
                for each in self.stages
            ],
            "windows": [{"days": each.days, "hours": each.hours, "timezone": each.timezone} for each in self.windows],
            "freezes": [[start.isoformat(), end.isoformat()] for start, end in self.freezes],
        }

    # --- its stages ---

    @property
    def percentages(self) -> tuple[int, ...]:
        """The percentages, rising."""
        return tuple(each.percentage for each in self.stages)

    def stage(self, percentage: int) -> Stage:
        """Return the stage of a percentage.

        :raises ValueError: the plan has none.
        """
        for each in self.stages:
            if each.percentage == percentage:
                return each
        raise ValueError(f"the plan {self} has no stage of {percentage} %.")

    def previous(self, percentage: int, first: int = 0) -> int:
        """Return the percentage of the stage before one, or ``first`` for the first of them."""
        place = self.stages.index(self.stage(percentage))
        return self.stages[place - 1].percentage if place else first

    # --- its times ---

    def at(self, start: datetime, now: datetime) -> int:
        """Return the percentage that should stand now, if all went well since the start; 0 before it."""
        now, stands = aware(now, "now"), 0
        for stage, _ in zip(self.stages, self._reached(aware(start, "start"), until=now), strict=False):
            stands = stage.percentage
        return stands

    def next_change(self, start: datetime, now: datetime) -> datetime | None:
        """Return the next moment after now at which :meth:`at` rises; ``None`` after the last."""
        now = aware(now, "now")
        return next((moment for moment in self._reached(aware(start, "start")) if moment > now), None)

    def reached(self, start: datetime) -> list[datetime]:
        """Return when each stage is reached at the earliest, in UTC."""
        return list(self._reached(aware(start, "start")))

    def is_open(self, moment: datetime) -> bool:
        """Whether the rollout may go up at a moment."""
        return opening.is_open(aware(moment, "moment"), windows=self.windows, freezes=self.freezes)

    def next_opening(self, moment: datetime) -> datetime:
        """Return, in UTC, this moment where the rollout may go up now, else the next one at which it may.

        :raises ValueError: there is none within 366 days.
        """
        return opening.next_opening(aware(moment, "moment"), windows=self.windows, freezes=self.freezes)

    def _reached(self, start: datetime, *, until: datetime | None = None) -> Iterator[datetime]:
        """Yield when each stage is reached, no further than asked for: a far freeze is no trouble to today."""
        ready = start
        for stage in self.stages:
            if until is not None and ready > until:
                return
            moment = self.next_opening(ready)
            if until is not None and moment > until:
                return
            yield moment
            ready = moment + stage.watched

    # --- showing it ---

    def preview(
        self,
        start: datetime,
        *,
        rollback_to: int | str | None = 0,
        start_at: int | None = None,
        units_per_hour: float | None = None,
        rate: float | None = None,
        mde: float | str | None = None,
        design: str = "variants",
        alpha: float = 0.05,
        comparisons: int = 1,
    ) -> Preview:
        """Compute every stage: when, from where to where, who is new, how long watched; ``str()`` of it is a table.

        :param rollback_to: a percentage or ``"off"``; ``None`` is 0.
        :param start_at: the percentage at which a rollout goes on.
        :param units_per_hour: different people (or what the guardrails count) who reach the feature in an hour.
        :param rate: the share of them that converts; with it the table says which harm each stage can show.
        :param mde: the harm that matters: points as a share (``0.01``) or relative (``"20%"``).
        :param design: ``"variants"`` compares equal variants, ``"rollout"`` those who have the flag with the others.
        :param comparisons: how many the rollout's alpha is shared by.
        """
        from .preview import Power, preview

        power = Power.of(
            units_per_hour=units_per_hour, rate=rate, mde=mde, design=design, alpha=alpha, comparisons=comparisons
        )
        return preview(self, aware(start, "start"), rollback_to=rollback_to, start_at=start_at, power=power)

    def offsets(self) -> str:
        """Return the plan in offsets from its start, one line for each stage; it says the same at every parse."""
        from .preview import offsets

        return offsets(self)

    def __str__(self) -> str:
        return ", ".join(str(each) for each in self.stages)

    def __repr__(self) -> str:
        limits = [f", {name}={value!r}" for name in ("windows", "freezes") if (value := getattr(self, name))]
        return f"RolloutPlan.parse({str(self)!r}{''.join(limits)})"


_DOWN = "Going down is the rollback's job (rollback_to), or a ramp of its own with allow_decrease=True."


def _checked(stages: Any) -> tuple[Stage, ...]:
    """Return the stages with the bake of the last one filled in, once they make sense together."""
    whole = _sequence("stages", stages, Stage)
    if not whole:
        raise ValueError("a plan without a stage. Write at least one, such as '10% 1d, 100%'.")
    for before, after in pairwise(whole):
        if before.percentage == after.percentage:
            raise ValueError(f"two stages are alike: {before.percentage} % is there twice. Leave one out.")
        if before.percentage > after.percentage:
            raise ValueError(f"falling percentages: {before.percentage} %, then {after.percentage} %. {_DOWN}")
    *others, last = whole
    for each in others:
        if each.bake is None:
            raise ValueError(
                f"stage {each.percentage} % does not say how long it is watched before the next. "
                f"Write '{each.percentage}% 1d'; only the last stage may leave it out."
            )
        _positive(each.watched, each.percentage)
    if last.approval:
        before_it = f"the stage before, {others[-1].percentage} %" if others else "a stage before it"
        raise ValueError(
            f"approval=True on the last stage, {last.percentage} %, would ask nothing: a person is asked after a "
            f"stage's watch, before the next ramp. Put it on {before_it}."
        )
    if last.bake is None:
        longest = max([each.watched for each in others] + [SHORTEST_LAST_BAKE])
        last = Stage(last.percentage, longest, last.guardrails, last.approval)
    return (*others, last)


def _positive(bake: timedelta, percentage: int) -> timedelta:
    if bake > NOTHING:
        return bake
    raise ValueError(
        f"stage {percentage} % is watched for {in_words(bake)}, which is an empty wait. Write how long it is watched "
        f"before the next stage, such as '{percentage}% 1h', or leave the stage out."
    )


def _percentage(given: Any, what: str) -> int:
    """Check a percentage of a plan, 1 to 100 and whole."""
    if isinstance(given, float):
        raise ValueError(
            f"{what} has {given} %: fractions are not possible, because Amplitude buckets people in steps of 1 %. "
            "Write a whole number from 1 to 100."
        )
    if not isinstance(given, int) or isinstance(given, bool):
        raise ValueError(f"{what} has {given!r} for a percentage. Write a whole number from 1 to 100.")
    if given > 100:
        raise ValueError(f"{what} has {given} %, which is over 100. Write a whole number from 1 to 100.")
    if given < 1:
        raise ValueError(f"{what} has {given} %, which reaches nobody. Write a whole number from 1 to 100. {_DOWN}")
    return given


def _stage(text: str) -> Stage:
    """Read one stage of a plan's text."""
    found = _STAGE.fullmatch(text.strip())
    if found is None:
        raise ValueError(f"{text!r} is not a stage of a plan. Write a percentage and a wait, such as '10% 1d'.")
    number, wait = found.groups()
    return Stage(_number(number, text), wait.strip() or None)


def _number(text: str, stage: str) -> int:
    if re.fullmatch(r"[+-]?\d{1,9}", text, re.ASCII):
        return int(text)
    if re.fullmatch(r"[+-]?\d*[.,]\d+|\d+/\d+", text, re.ASCII):
        return _percentage(float("nan"), f"stage {stage!r}") if "/" in text else _percentage(float(text), stage)
    raise ValueError(f"{stage!r} is not a stage of a plan: {text!r} is no whole number. Write it like '10% 1d'.")


def _stage_of(data: Any) -> Stage:
    _refuse_others(data, "a stage", ("percentage", "bake", "approval"))
    if "percentage" not in data:
        raise ValueError(f"stage {dict(data)!r} has no percentage.")
    return Stage(data["percentage"], data.get("bake"), approval=data.get("approval", False))


def _window_of(data: Any) -> Window:
    _refuse_others(data, "a window", ("days", "hours", "timezone"))
    return Window(**data)


def _refuse_others(data: Any, what: str, allowed: Sequence[str]) -> None:
    if not isinstance(data, Mapping):
        raise ValueError(f"{what} must be a mapping with {', '.join(allowed)}, not {data!r}.")
    if others := [str(each) for each in data if each not in allowed]:
        raise ValueError(f"{what} has no {', '.join(others)}. Allowed are {', '.join(allowed)}.")


def _list(data: Mapping[str, Any], name: str) -> list[Any]:
    value = data.get(name)
    if not isinstance(value, list | None):
        raise ValueError(f"{name} must be a list, not {value!r}.")
    return value or []


def _sequence(name: str, given: Any, kind: type) -> tuple[Any, ...]:
    """Check a list argument, in which a single thing is the usual slip."""
    if not isinstance(given, list | tuple):
        raise ValueError(f"{name} must be a list or a tuple, not {given!r}.")
    for each in given:
        if not isinstance(each, kind):
            raise ValueError(f"{name} holds {each!r}, which does not belong there.")
    return tuple(given)


def _seconds(length: timedelta) -> int | float:
    seconds = length.total_seconds()
    return int(seconds) if seconds.is_integer() else seconds
