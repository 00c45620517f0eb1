"""A stage of a plan, how one is read from text and data, and what a list of them must be to make a plan.

Apart from the plan, which computes with stages that are right already. A refusal says what was given, what is
allowed and what to write instead, because it is all that a DAG file's author sees of a plan that was not accepted.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import timedelta
from itertools import pairwise
from typing import Any

from ._value import Value
from .durations import duration, in_words

NOTHING = timedelta(0)
SHORTEST_LAST_BAKE = timedelta(hours=1)

_STAGE = r"(?s)([^\s%]+)\s*%\s*(.*)"
_FRACTION = r"(?a)[+-]?\d*\.\d+|[+-]?\d+\.|\d+/\d+"
_WHOLE = r"(?a)[+-]?\d{1,100}"
_DOWN = "Going down is the rollback's job (rollback_to), or a ramp of its own with allow_decrease=True."


class Stage(Value):
    """One stage of a plan: a percentage, and how long it is watched before the next one.

    :param percentage: whole, 1 to 100.
    :param bake: ``"1h"``, ``"1d 12h"``, or a timedelta; the last stage of a plan may leave it out.
    :param guardrails: those of this stage alone, beside the rollout's.
    :param approval: a person is asked after this stage's watch, before the next ramp.
    """

    __slots__ = ("approval", "bake", "guardrails", "percentage")

    percentage: int
    bake: timedelta | None
    guardrails: tuple[Any, ...]
    approval: bool

    def __init__(
        self,
        percentage: int,
        bake: timedelta | str | None = None,
        guardrails: Sequence[Any] = (),
        approval: bool = False,
    ) -> None:
        percentage_of_plan(percentage, "a stage")
        if isinstance(guardrails, str | Mapping) or not isinstance(guardrails, Iterable):
            raise ValueError(f"guardrails={guardrails!r} of stage {percentage} % is not a list of guardrails.")
        if not isinstance(approval, bool):
            raise ValueError(f"approval={approval!r} of stage {percentage} % is neither True nor False.")
        length = None if bake is None else stated(bake, f"the bake of stage {percentage} %")
        self._set(percentage=percentage, bake=length, guardrails=tuple(guardrails), approval=approval)

    @property
    def watched(self) -> timedelta:
        """How long the stage is watched; nothing where no bake is stated."""
        return NOTHING if self.bake is None else self.bake

    def __str__(self) -> str:
        return f"{self.percentage}%" if self.bake is None else f"{self.percentage}% {in_words(self.bake)}"

    def __repr__(self) -> str:
        """Leave guardrails out: the address of a function differs between two parses."""
        bake = "" if self.bake is None else f", {in_words(self.bake)!r}"
        return f"Stage({self.percentage}{bake}{', approval=True' if self.approval else ''})"


def complete(stages: Sequence[Stage]) -> tuple[Stage, ...]:
    """Return a plan's stages with the bake of the last one filled in.

    :raises ValueError: there is none, they do not rise, or one but the last does not say how long it is watched.
    """
    if not stages:
        raise ValueError("a plan without a stage. Write at least one, such as '10% 1d, 100%'.")
    for before, after in pairwise(stages):
        if before.percentage > after.percentage:
            raise ValueError(f"falling percentages: {before.percentage} %, then {after.percentage} %. {_DOWN}")
        if before.percentage == after.percentage:
            raise ValueError(f"two stages are alike: {before.percentage} % is there twice. Leave one out.")
    *others, last = stages
    for each in others:
        if each.bake is None:
            raise ValueError(
                f"stage {each.percentage} % does not say how long it is watched before the next. "
                f"Write '{each.percentage}% 1d'; only the last stage may leave it out."
            )
        wait(each.watched, each.percentage)
    if last.approval:
        before_it = f"the stage before, {others[-1].percentage} %" if others else "a stage before it"
        raise ValueError(
            f"approval=True on the last stage, {last.percentage} %, would ask nothing: a person is asked after a "
            f"stage's watch, before the next ramp. Put it on {before_it}."
        )
    if last.bake is None:
        longest = max([each.watched for each in others] + [SHORTEST_LAST_BAKE])
        last = Stage(last.percentage, longest, last.guardrails)
    return (*others, last)


def stage_from_text(text: str) -> Stage:
    """Read ``"10% 1d"``, or ``"100%"``."""
    found = re.fullmatch(_STAGE, text.strip())
    if found is None:
        raise ValueError(f"{text!r} is not a stage of a plan. Write a percentage and a wait, such as '10% 1d'.")
    number, bake = found.groups()
    if re.fullmatch(_FRACTION, number):
        raise _fraction(number, f"stage {text!r}")
    if not re.fullmatch(_WHOLE, number):
        raise ValueError(f"{text!r} is not a stage of a plan: {number!r} is no whole number. Write it like '10% 1d'.")
    return Stage(percentage_of_plan(int(number), f"stage {text!r}"), bake.strip() or None)


def stage_from_mapping(data: Any) -> Stage:
    """Read ``{"percentage": 10, "bake": "1d", "approval": True}``."""
    refuse_others(data, "a stage", ("percentage", "bake", "approval"))
    if "percentage" not in data:
        raise ValueError(f"stage {dict(data)!r} has no percentage.")
    return Stage(data["percentage"], data.get("bake"), approval=data.get("approval", False))


def refuse_others(data: Any, what: str, allowed: Sequence[str]) -> None:
    """Refuse what is not a mapping, and names that it may not have."""
    if not isinstance(data, Mapping):
        raise ValueError(f"{what} must be a mapping with {', '.join(allowed)}, not {data!r}.")
    if others := [str(each) for each in data if each not in allowed]:
        raise ValueError(f"{what} has no {', '.join(others)}. Allowed are {', '.join(allowed)}.")


def percentage_of_plan(given: Any, what: str) -> int:
    """Check a percentage of a plan, 1 to 100 and whole."""
    if isinstance(given, float):
        raise _fraction(given, what)
    if not isinstance(given, int) or isinstance(given, bool):
        raise ValueError(f"{what} has {given!r} for a percentage. Write a whole number from 1 to 100.")
    if given > 100:
        raise ValueError(f"{what} has {given} %, which is over 100. Write a whole number from 1 to 100.")
    if given < 1:
        raise ValueError(f"{what} has {given} %, which reaches nobody. Write a whole number from 1 to 100. {_DOWN}")
    return given


def wait(bake: timedelta, percentage: int) -> timedelta:
    """Check the wait between a stage and the next one, which may not be empty."""
    if bake > NOTHING:
        return bake
    raise ValueError(
        f"stage {percentage} % is watched for {in_words(bake)}, which is an empty wait. Write how long it is watched "
        f"before the next stage, such as '{percentage}% 1h', or leave the stage out."
    )


def stated(given: Any, what: str) -> timedelta:
    """Read a duration that somebody writes into a plan: with its unit, because ``5`` may be meant as days."""
    if isinstance(given, int | float) and not isinstance(given, bool):
        raise ValueError(f"{what}={given!r} has no unit. Write '{given}d', '{given}h' or '{given}m'.")
    return duration(given, what)


def _fraction(given: Any, what: str) -> ValueError:
    return ValueError(
        f"{what} has {given} %: fractions are not possible, because Amplitude buckets people in steps of 1 %. "
        "Write a whole number from 1 to 100."
    )
