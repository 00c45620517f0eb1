"""From what a source answered to a verdict.

Pure: nothing is asked here, and nothing is remembered but what is handed in. Apart from the definitions, because a DAG
file needs those and never this, and from the worker's side (``operators/_look``), because every rule here is one that
a table of cases can test. A verdict comes with its record: the numbers that it rests on, as plain JSON.
"""

from __future__ import annotations

import hashlib
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Literal

from . import statistics
from .answers import Answer, NoData
from .guardrails import ChartGuardrail, Definition, SampleRatioGuardrail, SqlGuardrail, ThresholdGuardrail
from .statistics import Arm

Verdict = Literal["pass", "breach", "inconclusive", "no_data"]
Record = dict[str, Any]

VERDICTS: tuple[Verdict, ...] = ("breach", "no_data", "inconclusive", "pass")
"""From the one that decides before all others to the one that needs all guardrails."""

UNITS_FOR_A_PASS = 100
CONVERSIONS_FOR_A_PASS = 25
ALPHA_OF_A_PASS = 0.05
ALPHA_OF_A_SAMPLE_RATIO = 0.01
LEAST_OF_THE_STAGE = 0.5
"""How much of a stage, from its start to the look that decides, a source must be complete for to let it pass."""
LEAST_TOLD_AGAIN = 0.75
"""The same for a value of an earlier look, where nothing newer has come."""
OVERSTATED = "at least shown harmful; size overstated"

_NOTHING = timedelta(0)


@dataclass(frozen=True, slots=True)
class Evidence:
    """One stage and what was answered for it.

    :param start: when units began to count: the write's read-back, plus ``settle``.
    :param end: when the next write came; ``None`` while the stage runs.
    """

    percentage: int
    start: datetime
    end: datetime | None
    answer: Answer


@dataclass(frozen=True, slots=True, kw_only=True)
class Circumstances:
    """What a verdict depends on besides the evidence.

    :param weights: of the variants that are served.
    :param bake_over: whether this look decides if the rollout goes on.
    :param alpha: the rollout's alpha divided by its comparisons.
    :param now: when the look is taken.
    :param alarm: what a sample ratio guardrail has found, if it has.
    """

    weights: Mapping[str, float]
    bake_over: bool
    alpha: float
    now: datetime
    alarm: str = ""


def compared(
    guardrail: SqlGuardrail, evidence: Sequence[Evidence], given: Circumstances, best: dict[str, float]
) -> Record:
    """Return the verdict of a comparison, treatment arms against control.

    :param evidence: of each stage that has a control, in order; the last may be running.
    :param best: the highest ln E of each comparison so far; brought up to date.
    """
    control, *treatments = guardrail.arms(given.weights)
    if not treatments:
        raise NoData(f"no variant but {control!r} is served, so there is nothing to compare")
    running = next((each for each in evidence if each.end is None), None)
    alpha = given.alpha / 2 if guardrail.design == "rollout" else given.alpha
    record = _record(guardrail, evidence) | {"alpha_c": alpha, "mde": guardrail.mde, "comparisons": []}
    if running is not None:
        refuse_incomplete(running, guardrail.window)
    harmed, doubts = [], []
    for arm in treatments:
        for harm in guardrail.directions:
            pairs = [(each.answer.arms[arm], each.answer.arms[control]) for each in evidence]
            found = _comparison(guardrail, pairs, arm=arm, harm=harm, alpha=alpha, best=best)
            if found:
                record["comparisons"].append(found)
                if found["ln_e"] >= -math.log(alpha) and found["h"] >= found["tau"] / 2:
                    harmed.append(arm)
            if running is not None:
                doubts += _mde_of_nothing(guardrail, pairs, harm=harm)
                doubts += _not_ruled_out(found, arm) if guardrail.pass_when == "harm_ruled_out" else []
        if running is not None:
            doubts += _too_few(running.answer.arms[arm], running.answer.arms[control], f"{arm} and {control}")
    if harmed:
        return (
            record
            | _said("breach", f"{' and '.join(dict.fromkeys(harmed))} harms: {in_numbers(record)}")
            | {"note": OVERSTATED}
        )
    record |= _passing(guardrail, given, list(dict.fromkeys(doubts)), controlled=running is not None)
    return fresh(record, given, start=running.start, until=running.answer.as_of) if running is not None else record


def split(guardrail: SampleRatioGuardrail, evidence: Sequence[Evidence], given: Circumstances) -> Record:
    """Return the verdict on the sizes of the arms. An alarm is ``inconclusive`` and has the entry ``alarm``.

    :param evidence: of each stage in which every arm can have units.
    :raises NoData: there is nothing to judge.
    """
    arms = guardrail.arms(given.weights)
    if len(arms) < 2:
        raise NoData(f"one arm only is served, {', '.join(arms)}, so there is no ratio")
    running = next((each for each in evidence if each.end is None), None)
    if running is not None:
        refuse_incomplete(running, None)
    log_b = statistics.sample_ratio(_counts_and_shares(guardrail, evidence, arms, given.weights))
    alarms_at = -math.log(ALPHA_OF_A_SAMPLE_RATIO)
    shown = f"(ln B {log_b:.3g}, alarm at {alarms_at:.3g})"
    record = _record(guardrail, evidence) | {
        "ln_b": min(log_b, sys.float_info.max),  # a unit where nobody can be is infinite evidence, no number of JSON
        "alpha_c": ALPHA_OF_A_SAMPLE_RATIO,
    }
    if log_b < alarms_at:
        verdict = _said("pass", f"the arms have the sizes they should have {shown}")
        record |= verdict if given.bake_over else _said("inconclusive", f"the bake is not over {shown}")
        return fresh(record, given, start=running.start, until=running.answer.as_of) if running is not None else record
    alarm = f"the arms do not have the sizes they should have {shown}: {_sizes(record)}"
    if guardrail.design == "rollout" and len(evidence) > 1:
        alarm += "; from the second stage on this can be harm itself: people who do not come back"
    return record | _said("inconclusive", alarm) | {"alarm": alarm}


def limited(guardrail: ThresholdGuardrail | ChartGuardrail, value: float, *, when: str, before: int) -> Record:
    """Return the verdict on one new value.

    :param when: which time it is of, in words.
    :param before: how many values before it were beyond the limit without a break.
    """
    limit = guardrail.above if guardrail.above is not None else guardrail.below
    beyond = value > guardrail.above if guardrail.above is not None else value < (guardrail.below or 0)
    in_a_row = before + 1 if beyond else 0
    side = "above" if guardrail.above is not None else "below"
    record = _record(guardrail, ()) | {"value": value, "limit": {side: limit}, "in_a_row": in_a_row, "when": when}
    shown = f"{value:.6g} {when}"
    if not beyond:
        return record | _said("pass", f"{shown}, not {side} {limit:.6g}")
    counted = f"{shown} is {side} {limit:.6g}, {in_a_row} of {guardrail.for_looks} in a row"
    return record | _said("breach" if in_a_row >= guardrail.for_looks else "inconclusive", counted)


def unanswered(guardrail: Mapping[str, Any], verdict: Verdict, reason: str) -> Record:
    """Return the record of a guardrail that has no numbers to show."""
    return {"name": guardrail["name"], "type": guardrail["type"], **_said(verdict, reason)}


def overall(records: Sequence[Record]) -> tuple[Verdict, str]:
    """Return the verdict of all guardrails together, and why: the worst of them."""
    if not records:
        return "pass", "no guardrails"
    verdict = next(each for each in VERDICTS if any(record["verdict"] == each for record in records))
    return verdict, "; ".join(f"{each['name']}: {each['reason']}" for each in records if each["verdict"] == verdict)


def refuse_incomplete(running: Evidence, window: Any) -> None:
    """Refuse an answer from before the first outcomes of the running stage could be known.

    :raises NoData: ``as_of`` lies before the stage's start plus the window.
    """
    earliest = running.start + (window or _NOTHING)
    if running.answer.as_of < earliest:
        raise NoData(
            f"the source is complete up to {_at(running.answer.as_of)}; first numbers of the stage of "
            f"{running.percentage} % are there at {_at(earliest)}"
        )


def fresh(
    record: Record, given: Circumstances, *, start: datetime, until: datetime, least: float = LEAST_OF_THE_STAGE
) -> Record:
    """Return a record, and where it would pass the stage on a source that went silent early in it, ``no_data``.

    :param start: when units of the running stage began to count.
    :param until: how far the source is complete.
    :param least: the share of the time from ``start`` to now that this must reach.
    """
    needed = start + least * (given.now - start)
    if record["verdict"] != "pass" or not given.bake_over or until >= needed:
        return record
    silent = f"the source is complete up to {_at(until)} only; at this look a pass needs {_at(needed)} or later"
    return record | _said("no_data", silent)


def is_final(evidence: Evidence, window: timedelta | None) -> bool:
    """Whether a stage's answer can't change any more: it is closed, and every outcome that counts has arrived."""
    return evidence.end is not None and evidence.answer.as_of >= evidence.end + (window or _NOTHING)


def query_hash(sql: str) -> str:
    """Return what tells one query from another in a record."""
    return hashlib.sha256(sql.encode()).hexdigest()[:12]


# --- helpers ---


def _comparison(
    guardrail: SqlGuardrail,
    pairs: Sequence[tuple[Arm, Arm]],
    *,
    arm: str,
    harm: Literal["decrease", "increase"],
    alpha: float,
    best: dict[str, float],
) -> Record | None:
    """Return the numbers of one comparison, or ``None`` where nothing can be computed yet."""
    try:
        found = statistics.compare(pairs, harm=harm)
    except ValueError as error:  # arms that were not counted alike
        raise NoData(str(error)) from error
    if found is None or (tau := statistics.tau(guardrail.mde, found.control_mean)) <= 0:
        return None
    log_e = statistics.log_e(found.h, found.v, tau)
    name = f"{arm} {harm}"
    best[name] = max(log_e, best.get(name, log_e))
    return {
        "arm": arm,
        "harm": harm,
        "h": found.h,
        "v": found.v,
        "control_mean": found.control_mean,
        "stages": found.stages,
        "tau": tau,
        "ln_e": log_e,
        "e": math.exp(min(log_e, 700.0)),  # beyond that it is no number of JSON
        "p": statistics.p_value([best[name]]),
        "lower": found.h - statistics.detectable(found.v, tau, alpha),
        "upper": found.h + statistics.detectable(found.v, tau, ALPHA_OF_A_PASS),
    }


def _counts_and_shares(
    guardrail: SampleRatioGuardrail, evidence: Sequence[Evidence], arms: Sequence[str], weights: Mapping[str, float]
) -> list[tuple[list[int], list[float]]]:
    """Return what was counted and what is expected: of constant weights in one sum, of percentages stage by stage."""
    counts = [[each.answer.arms[arm].n for arm in arms] for each in evidence]
    if guardrail.design == "rollout":
        shares = [[float(each.percentage), 100.0 - each.percentage] for each in evidence]
        return list(zip(counts, shares, strict=True))
    together = [sum(column) for column in zip(*counts, strict=True)] or [0] * len(arms)
    return [(together, [weights[arm] for arm in arms])]


def _too_few(treatment: Arm, control: Arm, names: str) -> list[str]:
    """Say why the running stage alone is too small to pass on.

    :param names: of both arms, in this order.
    """
    smaller = min(treatment.n, control.n)
    sizes = f"too few units in this stage: {names} have {treatment.n:,} and {control.n:,}"
    if smaller < UNITS_FOR_A_PASS:
        return [f"{sizes}, at least {UNITS_FOR_A_PASS} are needed"]
    if treatment.is_rate and control.is_rate:
        expected = statistics.expected_conversions(treatment, control)
        if expected < CONVERSIONS_FOR_A_PASS:
            return [f"{sizes}; {expected:.3g} conversions are expected, {CONVERSIONS_FOR_A_PASS} are needed"]
    elif smaller < statistics.UNITS_FOR_A_MEAN:
        return [f"{sizes}, at least {statistics.UNITS_FOR_A_MEAN:,} are needed"]
    return []


def _not_ruled_out(found: Record | None, arm: str) -> list[str]:
    if found is None:
        return [f"harm of {arm} is not ruled out: nothing can be computed yet"]
    if found["upper"] < found["tau"]:
        return []
    return [f"harm of {arm} is not ruled out: at most {found['upper']:+.4g}, mde {found['tau']:.4g}"]


def _mde_of_nothing(
    guardrail: SqlGuardrail, pairs: Sequence[tuple[Arm, Arm]], *, harm: Literal["decrease", "increase"]
) -> list[str]:
    """Say that a relative mde can't be computed: no harm could be shown, however large it is."""
    found = statistics.compare(pairs, harm=harm)
    if found is None or statistics.tau(guardrail.mde, found.control_mean) > 0:
        return []
    return [f"control's mean is 0, and mde {guardrail.mde!r} of it is nothing: state an absolute mde"]


def _passing(guardrail: SqlGuardrail, given: Circumstances, doubts: Sequence[str], *, controlled: bool) -> Record:
    """Return what follows where no harm was shown."""
    firm = ["the bake is not over"] if not given.bake_over else []
    if given.alarm:
        firm.append("the sample ratio guardrail has alarmed")
    if firm or (doubts and guardrail.if_inconclusive == "hold"):
        return _said("inconclusive", "; ".join([*firm, *doubts]))
    if doubts:
        return _said("pass", f"if_inconclusive='advance' lets it pass: {'; '.join(doubts)}")
    if not controlled:
        return _said("pass", "no control at 100 %: this stage is watched by thresholds only")
    if guardrail.pass_when == "harm_ruled_out":
        return _said("pass", "harm of the mde is ruled out")
    return _said("pass", "no harm was shown")


def _record(guardrail: Definition, evidence: Sequence[Evidence]) -> Record:
    record: Record = {"name": guardrail.name, "type": guardrail.type}
    if isinstance(guardrail, SqlGuardrail | SampleRatioGuardrail):
        record["design"] = guardrail.design
        record["stages"] = [
            {"percentage": each.percentage, "arms": {name: _shown(arm) for name, arm in each.answer.arms.items()}}
            for each in evidence
        ]
        record["as_of"] = evidence[-1].answer.as_of.isoformat() if evidence else None
    if not isinstance(guardrail, ChartGuardrail):
        record["query"] = query_hash(guardrail.sql)
    return record


def _shown(arm: Arm) -> dict[str, Any]:
    variance = arm.variance
    return {"n": arm.n, "mean": arm.mean, "s": None if variance is None else math.sqrt(variance)}


def in_numbers(record: Record) -> str:
    """Return the comparisons of a record in words."""
    return "; ".join(
        f"{each['arm']}: harm {each['h']:+.4g} ({each['harm']}; {each['lower']:+.4g} to {each['upper']:+.4g}; control "
        f"{each['control_mean']:.4g}, mde {each['tau']:.4g}), always-valid p {each['p']:.2g}, "
        f"alpha {record['alpha_c']:.3g}, one-sided"
        for each in record["comparisons"]
    )


def _sizes(record: Record) -> str:
    """Return the units per arm of each stage in words."""
    return "; ".join(
        f"{stage['percentage']} %: " + ", ".join(f"{name} {arm['n']:,}" for name, arm in stage["arms"].items())
        for stage in record["stages"]
    )


def _said(verdict: Verdict, reason: str) -> Record:
    return {"verdict": verdict, "reason": reason}


def _at(when: datetime) -> str:
    return f"{when:%Y-%m-%d %H:%MZ}"
