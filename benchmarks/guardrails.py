"""How often guardrails stop a harmless rollout, and how soon they find a harmful one.

Each table simulates whole rollouts that are looked at 100 times, and says beside every figure what is asked of it.
Sums are drawn and added up with numpy for all rollouts at once; evidence is asked of the package itself, and at places
drawn at random the package repeats the whole comparison from the sums. The seed is fixed: two runs print the same. In
2,000 rollouts the standard error of 5 % is half a point, that of 35 % a whole one.

Run it with ``make bench``, or on its own. ``--quick`` simulates 300 rollouts a figure and allows for three standard
errors more. The command fails where a figure is not as asked.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from airflow_amplitude_experiment.rollout.statistics import (
    CONVERSIONS,
    UNITS_FOR_A_MEAN,
    UNITS_FOR_A_RATE,
    Arm,
    compare,
    log_e,
    sample_ratio,
    units_needed,
)

Array = npt.NDArray[Any]

SEED = 20261122
LOOKS = 100
ALPHA = 0.05
ALPHA_OF_RATIO = 0.01
MDE = 0.02
RATE = 0.1
UNITS_PER_LOOK = 4_000
LENGTHS = (10, 10, 20, 20, 20, 20)
NEVER = LOOKS + 1
ONE_STAGE = [slice(0, LOOKS)]
RAMP = [slice(end - length, end) for length, end in zip(LENGTHS, np.cumsum(LENGTHS).tolist(), strict=True)]
# Values a unit may have and how often: orders per user; requests and errors per user.
ORDERS = {0: 0.70, 1: 0.20, 2: 0.06, 4: 0.03, 10: 0.01}
REQUESTS = {(1, 0): 0.45, (5, 0): 0.25, (5, 1): 0.15, (20, 0): 0.05, (20, 1): 0.05, (20, 6): 0.05}
MEAN_ORDERS = sum(value * often for value, often in ORDERS.items())
ERROR_RATE = sum(y * often for (_, y), often in REQUESTS.items()) / sum(x * of for (x, _), of in REQUESTS.items())

_log_e = np.frompyfunc(log_e, 3, 1)
_lgamma = np.frompyfunc(math.lgamma, 1, 1)


@dataclass
class Report:
    """What was found, printed as it comes, and whether all of it is as asked."""

    runs: int
    slack: float
    missed: list[str] = field(default_factory=list)

    def title(self, text: str) -> None:
        print(f"\n{text}")

    def says(self, what: str, found: str) -> None:
        print(f"  {what:<72}{found:>10}")

    def percent(self, what: str, share: float, low: float = 0.0, high: float = 100.0) -> None:
        """Print a share of the rollouts beside the percentages it has to lie between."""
        error = 100 * math.sqrt(max(share * (1 - share), 0.01) / self.runs) * self.slack
        self._judged(what, f"{100 * share:.1f} %", low - error <= 100 * share <= high + error, f"{low:g}-{high:g} %")

    def units(self, what: str, found: float, low: float, high: float) -> None:
        """Print a number of units beside those it has to lie between."""
        error = 0.03 * self.slack
        good = low * (1 - error) <= found <= high * (1 + error)
        self._judged(what, f"{found:,.0f}", good, f"{low:,}-{high:,}")

    def _judged(self, what: str, found: str, good: bool, asked: str) -> None:
        print(f"  {what:<72}{found:>10}   {'' if good else 'NOT '}within {asked}")
        if not good:
            self.missed.append(f"{what}: {found}, asked {asked}")


@dataclass(frozen=True)
class Sums:
    """The sums of one arm: a row per rollout, a column per look."""

    n: Array
    y: Array
    yy: Array | None = None
    x: Array | None = None
    xx: Array | None = None
    xy: Array | None = None

    def held_in(self, stage: slice) -> Sums:
        """What one stage holds at every look: nothing before it, its sums after it."""
        outside = np.ones(LOOKS, dtype=bool)
        outside[stage] = False
        return self._each(lambda column: np.where(outside, 0, column).cumsum(axis=1))

    def plus(self, other: Sums) -> Sums:
        return self._each(np.add, other)

    def mean(self) -> Array:
        mean: Array = self.y / (self.n if self.x is None else self.x)
        return mean

    def variance(self) -> Array:
        mean, squares = self.mean(), self.y if self.yy is None else self.yy
        variance: Array = (squares - self.y * mean) / (self.n - 1)
        if self.x is not None and self.xx is not None and self.xy is not None:
            variance = (squares - 2 * mean * self.xy + mean**2 * self.xx) / (self.n - 1) / (self.x / self.n) ** 2
        return variance

    def arm(self, run: int, look: int) -> Arm:
        sums: list[Any] = [None if column is None else column[run, look] for column in vars(self).values()]
        return Arm(*sums)

    def _each(self, change: Callable[..., Array], *others: Sums) -> Sums:
        columns = zip(vars(self).values(), *(vars(other).values() for other in others), strict=True)
        changed: list[Any] = [None if column[0] is None else change(*column) for column in columns]
        return Sums(*changed)


@dataclass(frozen=True)
class Found:
    """Harm, its variance, and the variance that a t-test takes; ``nan`` before anything can be said."""

    h: Array
    v: Array
    apart: Array


def main() -> None:
    """Print every table and fail where one is not as asked."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--quick", action="store_true", help="300 rollouts a figure instead of 2,000")
    quick = parser.parse_args().quick
    report = Report(runs=300, slack=3.0) if quick else Report(runs=2_000, slack=0.0)
    print(f"Guardrails looked at {LOOKS} times, {report.runs:,} rollouts a figure, seed {SEED}, numpy {np.__version__}")
    for number, table in enumerate(TABLES):
        table(report, np.random.default_rng([SEED, number]))
    if report.missed:
        sys.exit("\nNot as asked:\n" + "\n".join(report.missed))
    print("\nEvery figure is as asked.")


def a_harmless_release(report: Report, rng: np.random.Generator) -> None:
    report.title("1. A harmless release, conversion 10 %, alpha 0.05: rollouts that are stopped")
    for units in (50, 200):
        found = looked_at(*arms(rng, report.runs, units=(units, units), rate=(RATE, RATE)), rng)
        who = f"{units} units per arm and look"
        z = found.h / np.sqrt(found.apart)
        report.percent(f"{who}: evidence alone", share(evidence(found) >= math.log(1 / ALPHA)), 0, 5)
        report.percent(f"{who}: guardrail", share(breach(found)), 0, 5)
        report.percent(f"{who}: the trap, a two-sided t-test at each look", share(np.abs(z) > 1.959964), 30, 40)
        report.percent(f"{who}: the trap, a one-sided t-test at each look", share(z > 1.644854), 25, 32)


def three_metrics(report: Report, rng: np.random.Generator) -> None:
    report.title("2. A harmless experiment 1:1 through 1-5-10-25-50-100 %, three metrics and the sample ratio")
    new = np.repeat(np.array((1, 5, 10, 25, 50, 100)) * UNITS_PER_LOOK // 100, LENGTHS)
    counts = rng.multinomial(np.tile(new, (report.runs, 1)), (0.5, 0.5))
    t, c = counts[..., 0], counts[..., 1]
    metrics = {
        "conversion, 10 %": (looked_at(rates(rng, t, RATE), rates(rng, c, RATE), rng, RAMP), MDE),
        "orders per user, mde 20 %": (looked_at(orders(rng, t), orders(rng, c), rng, RAMP), 0.2 * MEAN_ORDERS),
        "errors per request, mde 20 %": (looked_at(errors(rng, t), errors(rng, c), rng, RAMP, -1), 0.2 * ERROR_RATE),
    }
    stopped = {name: breach(found, mde, ALPHA / len(metrics)) for name, (found, mde) in metrics.items()}
    undivided = [evidence(found, mde) >= math.log(1 / ALPHA) for found, mde in metrics.values()]
    alarms = ratio_evidence(counts, (0.5, 0.5)) >= math.log(1 / ALPHA_OF_RATIO)
    for name, of_metric in stopped.items():
        report.percent(name, share(of_metric), 0, 5)
    report.percent("stopped by any metric", share(np.logical_or.reduce(list(stopped.values()))), 0, 5)
    report.percent("held by the sample ratio", share(alarms), 0, 1)
    report.percent(
        "the trap, evidence at an alpha not divided by the metrics", share(np.logical_or.reduce(undivided)), 5, 9
    )


def a_harmful_release(report: Report, rng: np.random.Generator) -> None:
    report.title("3. A release that takes conversion from 10 to 8 %, mde 0.02: rollouts that are stopped")
    for units, low, high in ((20, 35, 45), (50, 80, 88), (100, 98, 100)):
        found = looked_at(*arms(rng, report.runs, units=(units, units), rate=(RATE - MDE, RATE)), rng)
        at = first(breach(found))
        report.percent(f"{units} units per arm and look", float(np.mean(at <= LOOKS)), low, high)
        report.says("   units per arm at the stop, median", f"{units * np.median(at[at <= LOOKS]):,.0f}")


def a_broken_release(report: Report, rng: np.random.Generator) -> None:
    report.title("4. A release after which nobody converts any more, 5 units of the small arm per look")
    for times in (1, 9, 99):
        found = looked_at(*arms(rng, report.runs, units=(5, 5 * times), rate=(0.0, RATE)), rng)
        at = first(breach(found))
        report.percent(f"arms 1:{times}", float(np.mean(at <= LOOKS)), 100, 100)
        report.units(
            f"   units of the small arm at the stop, median, arms 1:{times}", 5 * float(np.median(at)), 105, 240
        )


def a_ramp_while_the_world_changes(report: Report, rng: np.random.Generator) -> None:
    report.title("5. A harmless flag through 1-5-10-25-50-90 % while everybody's rate falls from 10 to 8 %")
    percentages = np.repeat((0.01, 0.05, 0.10, 0.25, 0.50, 0.90), LENGTHS)
    on = rng.binomial(UNITS_PER_LOOK, percentages, (report.runs, LOOKS))
    rate = np.linspace(RATE, RATE - MDE, LOOKS)
    sums = rates(rng, on, rate), rates(rng, UNITS_PER_LOOK - on, rate)
    by_stage, added = looked_at(*sums, rng, RAMP), looked_at(*sums, rng)
    report.percent("evidence from stages as strata", share(evidence(by_stage) >= math.log(1 / ALPHA)), 0, 5)
    report.percent("guardrail of a flag (alpha halved)", share(breach(by_stage, alpha=ALPHA / 2)), 0, 5)
    report.percent(
        "the trap, evidence from arms added over the stages", share(evidence(added) >= math.log(1 / ALPHA)), 99, 100
    )


def the_sample_ratio(report: Report, rng: np.random.Generator) -> None:
    report.title("6. The sample ratio, alpha 0.01")
    bar = math.log(1 / ALPHA_OF_RATIO)
    worst = 0.0
    for shares in ((1 / 2, 1 / 2), (1 / 3, 1 / 3, 1 / 3), (9 / 10, 1 / 10), (99 / 100, 1 / 100)):
        for units in (20, 200, 5_000):
            counts = rng.multinomial(units, shares, (report.runs, LOOKS))
            worst = max(worst, share(ratio_evidence(counts, shares) >= bar))
            if shares == (1 / 2, 1 / 2) and units == 200:
                total = counts.cumsum(axis=1)
                chi = (total[..., 0] - total[..., 1]) ** 2 / total.sum(axis=2)
                trap = share(chi > 6.634897)
    report.percent("held although split as configured, worst of 12 settings", worst, 0, 1)
    report.percent("the trap, a chi-squared test at each look, 1:1", trap, 10, 12)
    at = 200.0 * first(ratio_evidence(rng.multinomial(200, (0.52, 0.48), (report.runs, LOOKS)), (0.5, 0.5)) >= bar)
    report.units("52:48 instead of 50:50, units at detection, median", float(np.median(at)), 7_000, 8_000)
    report.percent("   found by 16,000 units", float(np.mean(at <= 16_000)), 95, 100)


def the_choice_of_tau(report: Report, rng: np.random.Generator) -> None:
    report.title("7. A harmless release, other values of tau: rollouts with evidence of harm, worst of five sizes")
    found = [
        looked_at(*arms(rng, report.runs, units=(units, units), rate=(RATE, RATE)), rng)
        for units in (10, 50, 200, 1_000, 5_000)
    ]
    for factor in (0.03, 0.1, 0.3, 1, 3, 10, 30):
        worst = max(share(evidence(one, factor * MDE) >= math.log(1 / ALPHA)) for one in found)
        report.percent(f"tau = {factor:g} times the mde", worst, 0, 5)


def what_a_stage_can_show(report: Report, rng: np.random.Generator) -> None:
    report.title("8. A harm of the mde with as many units as the preview asks for: rollouts that are stopped")
    for alpha in (0.05, 0.01, 0.005):
        units = math.ceil(units_needed(RATE * (1 - RATE), MDE, alpha) / LOOKS)
        found = looked_at(*arms(rng, report.runs, units=(units, units), rate=(RATE - MDE, RATE)), rng)
        report.percent(f"alpha {alpha:g}, {units * LOOKS:,} units per arm", share(breach(found, alpha=alpha)), 77, 88)


TABLES = (
    a_harmless_release,
    three_metrics,
    a_harmful_release,
    a_broken_release,
    a_ramp_while_the_world_changes,
    the_sample_ratio,
    the_choice_of_tau,
    what_a_stage_can_show,
)


def arms(
    rng: np.random.Generator, runs: int, *, units: tuple[int, int], rate: tuple[float, float]
) -> tuple[Sums, Sums]:
    """Draw treatment and control of a 0/1 metric, with so many new units at each look."""
    treatment, control = (rates(rng, np.full((runs, LOOKS), n), of) for n, of in zip(units, rate, strict=True))
    return treatment, control


def rates(rng: np.random.Generator, n: Array, rate: float | Array) -> Sums:
    return Sums(n, rng.binomial(n, rate))


def orders(rng: np.random.Generator, n: Array) -> Sums:
    value = np.array(list(ORDERS), dtype=float)
    drawn = rng.multinomial(n, list(ORDERS.values()))
    return Sums(n, drawn @ value, drawn @ value**2)


def errors(rng: np.random.Generator, n: Array) -> Sums:
    x, y = np.array(list(REQUESTS), dtype=float).T
    drawn = rng.multinomial(n, list(REQUESTS.values()))
    return Sums(n, drawn @ y, drawn @ y**2, drawn @ x, drawn @ x**2, drawn @ (x * y))


def looked_at(
    treatment: Sums, control: Sums, rng: np.random.Generator, stages: Sequence[slice] = ONE_STAGE, sign: int = 1
) -> Found:
    """Compare at each look what each stage holds by then; ``sign`` is -1 where an increase is the harm."""
    shape = treatment.n.shape
    signal, information, apart = np.zeros(shape), np.zeros(shape), np.zeros(shape)
    held = [(treatment.held_in(stage), control.held_in(stage)) for stage in stages]
    for both in held:
        harm, weight, weight_apart = stratum(*both)
        signal += sign * harm * weight
        information += weight
        apart += weight_apart
    with np.errstate(divide="ignore", invalid="ignore"):
        found = Found(signal / information, np.where(information > 0, 1 / information, np.nan), 1 / apart)
    repeat_in_the_package(found, held, rng, sign)
    return found


def stratum(treatment: Sums, control: Sums) -> tuple[Array, Array, Array]:
    """Harm of one stage, one over its variance, and the same with arms apart; 0 where it doesn't enter."""
    both = treatment.plus(control)
    smaller = np.minimum(treatment.n, control.n)
    with np.errstate(divide="ignore", invalid="ignore"):
        apart = treatment.variance() / treatment.n + control.variance() / control.n
        pooled = both.variance() * (1 / treatment.n + 1 / control.n)
        enters = smaller >= UNITS_FOR_A_MEAN
        if treatment.yy is None:
            rarer = smaller * np.minimum(both.y, both.n - both.y) / both.n
            enters = (smaller >= UNITS_FOR_A_RATE) & (rarer >= CONVERSIONS)
        harm = np.where(enters, control.mean() - treatment.mean(), 0)
        return harm, np.where(enters, 1 / np.fmax(apart, pooled), 0), np.where(enters, 1 / apart, 0)


def repeat_in_the_package(found: Found, held: list[tuple[Sums, Sums]], rng: np.random.Generator, sign: int) -> None:
    """Refuse figures that the package does not find from the same sums."""
    for run, look in rng.integers(0, found.h.shape, (200, 2)).tolist():
        stages = [(treatment.arm(run, look), control.arm(run, look)) for treatment, control in held]
        again = compare(stages, harm="decrease" if sign > 0 else "increase")
        if again is None:
            assert math.isnan(found.v[run, look])
        else:
            assert math.isclose(again.h, found.h[run, look], rel_tol=1e-6, abs_tol=1e-12)
            assert math.isclose(again.v, found.v[run, look], rel_tol=1e-6)


def evidence(found: Found, tau: float = MDE) -> Array:
    """ln E of every look as the package has it; minus infinity where the estimate is no harm, which is never enough."""
    harmful = found.h > 0
    logs = np.full(found.h.shape, -np.inf)
    logs[harmful] = np.asarray(_log_e(found.h[harmful], found.v[harmful], tau), dtype=float)
    return logs


def breach(found: Found, mde: float = MDE, alpha: float = ALPHA) -> Array:
    """Looks at which the guardrail stops the rollout."""
    return (evidence(found, mde) >= math.log(1 / alpha)) & (found.h >= mde / 2)


def ratio_evidence(counts: Array, shares: Sequence[float], k: float = 1000.0) -> Array:
    """ln B at every look, compared with the package's at the last look of the first rollouts."""
    total, rho = counts.cumsum(axis=1), np.array(shares)
    terms = lgamma(k * rho + total) - lgamma(k * rho) - total * np.log(rho)
    logs: Array = math.lgamma(k) - lgamma(k + total.sum(axis=2)) + terms.sum(axis=2)
    for run in range(20):
        assert math.isclose(sample_ratio([(total[run, -1].tolist(), shares)]), logs[run, -1], abs_tol=1e-6)
    return logs


def lgamma(values: Array) -> Array:
    return np.asarray(_lgamma(values), dtype=float)


def share(stops: Array) -> float:
    """The share of rollouts with at least one such look."""
    return float(np.mean(stops.any(axis=1)))


def first(stops: Array) -> Array:
    """The number of the first such look of each rollout, ``NEVER`` where there is none."""
    return np.where(stops.any(axis=1), stops.argmax(axis=1) + 1, NEVER)


if __name__ == "__main__":
    main()
