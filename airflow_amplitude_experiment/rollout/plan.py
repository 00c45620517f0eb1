"""A rollout's plan: which percentages, how long each is watched, and when it may go up.

Pure, and without Airflow: a plan is a value that computes. Two rules keep everybody safe. A bake counts from the
moment that reached its stage, so a rollout that is late stays late and no stage is shortened or skipped. Windows
and freezes hold back raises only; lowering, rollback and the kill switch never ask a plan.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from . import windows as opening
from ._value import Value
from .durations import duration
from .stages import Stage as Stage
from .stages import complete, percentage_of_plan, refuse_others, stage_from_mapping, stage_from_text, stated, wait
from .windows import Freeze, aware, freeze
from .windows import Window as Window

if TYPE_CHECKING:
    from .preview import Preview

SIMPLE_STAGES = (1, 5, 10, 25, 50, 100)


class RolloutPlan(Value):
    """Rising percentages, each watched for its bake, raised within windows and outside freezes only.

    Also :meth:`parse`, :meth:`simple`, :meth:`linear` and :meth:`from_yaml`; each takes windows and freezes.

    :param stages: in rising order. Each but the last states its bake. The last is watched as long as the longest
        before it, at least an hour, unless it states a bake; ``"0h"`` opts out.
    :param windows: hours in which it may go up, any of them; none means at any time.
    :param freezes: periods in which nothing goes up: pairs of aware datetimes or of ISO texts with an offset.
    """

    __slots__ = ("freezes", "stages", "windows")

    stages: tuple[Stage, ...]
    windows: tuple[Window, ...]
    freezes: tuple[Freeze, ...]

    def __init__(
        self, stages: Sequence[Stage], *, windows: Sequence[Window] = (), freezes: Sequence[Sequence[Any]] = ()
    ) -> None:
        self._set(
            stages=complete(_all("stages", stages, Stage)),
            windows=_all("windows", windows, Window),
            freezes=tuple(freeze(pair) for pair in _all("freezes", freezes, object)),
        )

    # --- making one ---

    @classmethod
    def parse(cls, text: str, *, windows: Sequence[Window] = (), freezes: Sequence[Sequence[Any]] = ()) -> RolloutPlan:
        """Read ``"1% 1h, 10% 1d, 50% 1d, 100%"``: percentages, each with how long it is watched."""
        if not isinstance(text, str):
            raise ValueError(f"a plan's text is needed, such as '1% 1h, 10% 1d, 100%', not {text!r}.")
        stages = [stage_from_text(part) for part in text.split(",")] if text.strip() else []
        return cls(stages, windows=windows, freezes=freezes)

    @classmethod
    def simple(
        cls, over: str | timedelta, *, windows: Sequence[Window] = (), freezes: Sequence[Sequence[Any]] = ()
    ) -> RolloutPlan:
        """Go by 1, 5, 10, 25 and 50 to 100 %; a duration such as ``"5d"`` is split evenly over the first five."""
        *watched, last = SIMPLE_STAGES
        bake = wait(stated(over, "the duration of a simple plan") / len(watched), watched[0])
        return cls([*(Stage(each, bake) for each in watched), Stage(last)], windows=windows, freezes=freezes)

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
        for name, given in (("first", first), ("last", last), ("step", step)):
            percentage_of_plan(given, name)
        if last < first:
            raise ValueError(f"falling percentages: first={first} is above last={last}. A plan only goes up.")
        bake = wait(stated(every, "every"), first)
        stages = [*(Stage(each, bake) for each in range(first, last, step)), Stage(last)]
        return cls(stages, windows=windows, freezes=freezes)

    @classmethod
    def from_yaml(cls, path: str | os.PathLike[str]) -> RolloutPlan:
        """Read a plan from a YAML file; windows and freezes may be left out.

        A DAG file names it beside itself: ``Path(__file__).with_name("plan.yaml")``.

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
                return cls._read(yaml.safe_load(file))
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
        if not isinstance(data, Mapping):
            return cls._read(data)
        return cls._read({**data, "stages": [_timed(each) for each in _list(data, "stages")]})

    @classmethod
    def _read(cls, data: Any) -> RolloutPlan:
        refuse_others(data, "a plan", ("stages", "windows", "freezes"))
        return cls(
            [
                stage_from_text(each) if isinstance(each, str) else stage_from_mapping(each)
                for each in _list(data, "stages")
            ],
            windows=[_window(each) for each in _list(data, "windows")],
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
        ready, stands = aware(start, "start"), 0
        for stage in self.stages:
            moment = opening.first_opening(ready, until=aware(now, "now"), windows=self.windows, freezes=self.freezes)
            if moment is None:
                break
            ready, stands = moment + stage.watched, stage.percentage
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

    def _reached(self, start: datetime) -> Iterator[datetime]:
        """Yield one after the other, so that a freeze without an end troubles no stage before it."""
        ready = start
        for stage in self.stages:
            moment = self.next_opening(ready)
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
        from .offsets import offsets

        return offsets(self)

    def __str__(self) -> str:
        return ", ".join(str(each) for each in self.stages)

    def __repr__(self) -> str:
        limits = [f", {name}={value!r}" for name in ("windows", "freezes") if (value := getattr(self, name))]
        return f"RolloutPlan({list(self.stages)!r}{''.join(limits)})"


def _window(data: Any) -> Window:
    refuse_others(data, "a window", ("days", "hours", "timezone"))
    return Window(**data)


def _timed(stage: Any) -> Any:
    """Give a stage's number the unit that :meth:`RolloutPlan.as_dict` wrote it in."""
    number = stage.get("bake") if isinstance(stage, Mapping) else None
    if not isinstance(number, int | float) or isinstance(number, bool):
        return stage
    return {**stage, "bake": duration(number, "the bake of a stage in seconds")}


def _list(data: Mapping[str, Any], name: str) -> list[Any]:
    value = data.get(name)
    if not isinstance(value, list | None):
        raise ValueError(f"{name} must be a list, not {value!r}.")
    return value or []


def _all(name: str, given: Any, kind: type | tuple[type, ...]) -> tuple[Any, ...]:
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
