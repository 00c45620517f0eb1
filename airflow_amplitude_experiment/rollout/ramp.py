"""What a ramp means for an object as it was just read.

Pure: nothing is asked, nothing is sent. The expected percentage is computed from the arguments, never remembered,
because Airflow forgets a task's results when it starts again and Amplitude's objects carry no version.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, Literal

from airflow_amplitude_experiment.api import RolloutRefused

from .segments import segment_named, with_percentage

OnDrift = Literal["fail", "continue", "overwrite"]


@dataclass(frozen=True, slots=True)
class RampDecision:
    """What to do: nothing, or one PATCH that goes from ``before`` to ``after`` percent."""

    before: int | float
    after: int | float
    enables: bool = False
    segment: str | None = None
    note: str = ""
    segments: tuple[dict[str, Any], ...] | None = None

    @property
    def changes(self) -> bool:
        """Whether anything has to be written."""
        return self.before != self.after or self.enables

    @property
    def raises(self) -> bool:
        """Whether more people are reached than before."""
        return self.after > self.before or self.enables

    @property
    def patch(self) -> dict[str, Any]:
        """The arguments of the one update that does it."""
        fields: dict[str, Any] = {"enabled": True} if self.enables else {}
        if self.segments is not None:
            return {**fields, "target_segments": list(self.segments)}
        return {**fields, "rollout_percentage": self.after}

    def __str__(self) -> str:
        scope = f"segment {self.segment}: " if self.segment else ""
        if not self.changes:
            return f"{scope}stands at {self.before} %, nothing to do{self.note}"
        return f"{scope}{self.before} % -> {self.after} %{', enabled' if self.enables else ''}{self.note}"


def ramp(
    found: Any,
    to: int,
    *,
    expected: int | None = None,
    segment: str | None = None,
    later: Collection[int] = (),
    allow_decrease: bool = False,
    enable: bool = False,
    on_drift: OnDrift = "fail",
) -> RampDecision:
    """Decide what a ramp to ``to`` percent means for an object as it was just read.

    ======================  ==========================================================================
    found                   what happens
    ======================  ==========================================================================
    the target              done, no write
    ``expected``            write; without ``expected``, anything lower is expected
    one of ``later``        done, no write: an earlier task was cleared
    above the target        drift: refused; ``continue`` writes nothing, ``overwrite`` writes the target
    disabled                refused, unless ``enable``
    archived, lower, else   refused, whatever ``on_drift`` says
    ======================  ==========================================================================

    :param found: the flag or experiment as the API answered it.
    :param to: the wanted percentage, 0 to 100, of users who match no segment (or of ``segment``).
    :param expected: the only percentage to start from; ``None`` for anything lower.
    :param segment: move this target segment's percentage instead of that of all other users.
    :param later: percentages of the later stages of the same plan.
    :param allow_decrease: permit going down, which takes the variant away from users who have it.
    :param enable: switch a disabled object on in the same write.
    :raises RolloutRefused: with what was asked, what is there and what to do.
    """
    before = _standing(found, segment)
    if before in later and found.enabled and not found.deleted:
        return RampDecision(before, before, False, segment, f" (past the {to} % of this stage, on a later one)")
    decision = _decide(found, before, to, expected, allow_decrease, enable, on_drift, segment)
    if decision.changes and segment is not None:
        rewritten = with_percentage(found, segment, to)
        return RampDecision(decision.before, to, decision.enables, segment, decision.note, tuple(rewritten))
    return decision


def _decide(
    found: Any,
    before: int | float,
    to: int,
    expected: int | None,
    allow_decrease: bool,
    enable: bool,
    on_drift: OnDrift,
    segment: str | None,
) -> RampDecision:
    if found.deleted:
        raise _refused(found, f"is archived; it can't be ramped to {to} %", "Restore it in Amplitude first.")
    switched_off = not found.enabled
    if switched_off and not enable:
        advice = "Enable it in Amplitude, or pass enable=True to switch it on with the first write of a rollout."
        raise _refused(
            found,
            f"is disabled, at {before} %; a ramp to {to} % would reach nobody",
            advice if to > before else "It is off already, so nobody has to lose anything.",
        )
    if before == to:
        return RampDecision(before, to, switched_off, segment, segments=None)
    unexpected = expected is not None and before != expected
    if before > to and (not allow_decrease or (unexpected and on_drift != "fail")):
        return _above(found, before, to, expected, switched_off, on_drift, segment)
    if unexpected:
        raise _refused(
            found,
            f"stands at {before} %, but this ramp to {to} % expected {expected} % or {to} %",
            f"To go back to the plan, set {expected} % in Amplitude and clear this task. To go on from {before} %, "
            f"start a run whose DAG expects it: from_percentage={before}, or none to accept any lower percentage.",
        )
    if to > 0 and segment is None:
        _refuse_segment_for_everyone(found, to)
    return RampDecision(before, to, switched_off, segment)


def _above(
    found: Any,
    before: int | float,
    to: int,
    expected: int | None,
    switched_off: bool,
    on_drift: OnDrift,
    segment: str | None,
) -> RampDecision:
    if on_drift == "continue" and not switched_off:
        return RampDecision(before, before, False, segment, f" (above the {to} % asked for; on_drift='continue')")
    if on_drift == "overwrite":
        return RampDecision(before, to, switched_off, segment, " (set back; on_drift='overwrite')")
    wanted = f"expected {expected} % or {to} %" if expected is not None else f"goes up to {to} % only"
    raise _refused(
        found,
        f"stands at {before} %, but this ramp {wanted}",
        f"If {before} % is right, mark this task as success. To go down to {to} %, pass allow_decrease=True: users "
        "above it lose their variant.",
    )


def _standing(found: Any, segment: str | None) -> int | float:
    """Return the percentage that the ramp would move."""
    value = found.rollout_percentage if segment is None else segment_named(found, segment).percentage
    if value is None or found.enabled is None:
        raise _refused(found, "does not show its percentage and switch", "Look at the object in Amplitude.")
    number: int | float = value
    return number


def _refuse_segment_for_everyone(found: Any, to: int) -> None:
    for each in found.target_segments or ():
        if not each.conditions:
            raise _refused(
                found,
                f"has a target segment {each.name!r} without conditions: it catches every user at "
                f"{each.percentage} %, and {to} % of the users who match no segment would be {to} % of nobody",
                f"Ramp that segment instead (segment={each.name!r}), or remove it in Amplitude.",
            )


def _refused(found: Any, what: str, advice: str) -> RolloutRefused:
    return RolloutRefused(f"{found.key} {what}.{last_change(found)} Nothing was written. {advice}")


def last_change(found: Any) -> str:
    """Say who changed an object last, and when, where the API told."""
    if not found.last_modified_at:
        return ""
    who = found.last_modified_by or "Somebody"
    return f" {who} changed it last, at {found.last_modified_at}."
