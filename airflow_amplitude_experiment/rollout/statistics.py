"""What a guardrail computes: whether a metric got worse, whether arms have the expected sizes, what a stage can show.

Pure, with no more than ``math``, and apart from the guardrails so that every figure can be checked on its own. The test
is a one-sided mixture sequential probability ratio test: it may be looked at as often as one likes, at moments chosen
in any way, and stops a harmless rollout with at most the chosen probability. Sums per arm come in, one row of evidence
is one unit (user, device, account); nothing here knows where they come from.

*Harm* is positive wherever it appears: ``harm="decrease"`` means that a lower treatment mean is bad.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from numbers import Real
from typing import Any, Literal

Harm = Literal["decrease", "increase"]

UNITS_FOR_A_RATE = 100
UNITS_FOR_A_MEAN = 1_000
CONVERSIONS = 10
# 1e-9 is far above what adding up floats loses in a warehouse and far below any real spread.
ROUNDING = 1e-9
LOG_2 = math.log(2)
HALF_LOG_2_PI = math.log(2 * math.pi) / 2
NO_MDE = (
    "mde is {!r}; it is the smallest harm worth stopping for, above 0: a number in units of the metric (0.02) "
    "or a share of control's mean ('20%')."
)


@dataclass(frozen=True, slots=True)
class Arm:
    """The sums of one arm in one stage, as a query returns them: integers, floats or decimals.

    :param n: units.
    :param sum: Σy, the metric summed over units.
    :param sum_sq: Σy²; ``None`` for a 0/1 metric, where it is Σy itself.
    :param den_sum: Σx; this and the following two belong to ratio metrics (errors per request), Σy / Σx.
    :param den_sum_sq: Σx².
    :param num_den_sum: Σxy.
    :raises ValueError: for sums that no set of units can have.
    """

    n: int
    sum: float
    sum_sq: float | None = None
    den_sum: float | None = None
    den_sum_sq: float | None = None
    num_den_sum: float | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "n", _count("n", self.n))
        object.__setattr__(self, "sum", _number("sum", self.sum))
        for name in ("sum_sq", "den_sum", "den_sum_sq", "num_den_sum"):
            if getattr(self, name) is not None:
                object.__setattr__(self, name, _number(name, getattr(self, name)))
        if self.sum_sq is None:
            _refuse_what_is_no_rate(self)
        else:
            _refuse_impossible_squares("sum_sq", self.sum_sq, ("sum", self.sum), self.n)
        _refuse_half_a_ratio(self)

    @property
    def is_ratio(self) -> bool:
        """Whether the metric is Σy / Σx."""
        return self.den_sum is not None

    @property
    def is_rate(self) -> bool:
        """Whether every unit is 0 or 1: ``sum_sq`` is missing, or equals ``sum``."""
        return not self.is_ratio and (self.sum_sq is None or self.sum_sq == self.sum)

    @property
    def mean(self) -> float | None:
        """Σy / n, of a ratio metric Σy / Σx; ``None`` where there is nothing to divide by."""
        divisor = self.n if self.den_sum is None else self.den_sum
        return self.sum / divisor if divisor else None

    @property
    def variance(self) -> float | None:
        """The variance of one unit (of a ratio metric by the delta method); ``None`` below two units."""
        mean = self.mean
        if mean is None or self.n < 2:
            return None
        squares = _squares(self)
        if self.den_sum is None or self.den_sum_sq is None or self.num_den_sum is None:
            return _spread(squares - self.sum * mean, of=squares) / (self.n - 1)
        of_den = mean * mean * self.den_sum_sq
        residuals = _spread(squares - 2 * mean * self.num_den_sum + of_den, of=squares + of_den)
        return residuals / (self.n - 1) / (self.den_sum / self.n) ** 2


@dataclass(frozen=True, slots=True)
class Comparison:
    """One metric of one treatment arm against control, all stages together.

    :param h: the estimated harm.
    :param v: the variance of that estimate.
    :param control_mean: control's mean with the same weights per stage, which a relative ``mde`` refers to.
    :param stages: how many stages were large enough to enter.
    """

    h: float
    v: float
    control_mean: float
    stages: int


def compare(stages: Sequence[tuple[Arm, Arm]], *, harm: Harm) -> Comparison | None:
    """Estimate the harm from (treatment, control) of each stage, or return ``None`` where no stage can say anything.

    Stages are strata: arms are never added over stages, because at 1 % and at 50 % they were filled on other days.

    :param harm: the direction that is bad; for both directions make two comparisons.
    :raises ValueError: for another ``harm``, or two arms that were not counted alike.
    """
    if harm not in ("decrease", "increase"):
        raise ValueError(
            f"harm is {harm!r}; it is 'decrease' where a lower value is bad, 'increase' where a higher one is. "
            "For both, make two comparisons."
        )
    found = [stratum for treatment, control in stages if (stratum := _stratum(treatment, control)) is not None]
    if not found:
        return None
    information = math.fsum(1 / v for _, _, v in found)
    drop = math.fsum((control - treatment) / v for treatment, control, v in found) / information
    control_mean = math.fsum(control / v for _, control, v in found) / information
    return Comparison(drop if harm == "decrease" else -drop, 1 / information, control_mean, len(found))


def expected_conversions(treatment: Arm, control: Arm) -> float:
    """Conversions or non-conversions, whichever are rarer, that the smaller arm of a 0/1 metric has if both are alike.

    Expected and not observed ones: a release that breaks the checkout never gets to any number of observed ones.
    """
    together = _together(treatment, control)
    rarer = min(together.sum, together.n - together.sum)
    return min(treatment.n, control.n) * rarer / together.n if together.n else 0.0


def tau(mde: float | str, control_mean: float) -> float:
    """Return the smallest harm worth stopping for in units of the metric, which is also the τ of the test.

    :param mde: a number in units of the metric, or a share of control's mean as ``"20%"``.
    :param control_mean: of :func:`compare`. At 0 a relative ``mde`` is 0: nothing can be shown until control moves.
    :raises ValueError: for what is neither, or not positive.
    """
    if isinstance(mde, str):
        return _share(mde) * abs(control_mean)
    if isinstance(mde, bool) or not isinstance(mde, int | float) or not 0 < mde < math.inf:
        raise ValueError(NO_MDE.format(mde))
    return float(mde)


def log_e(h: float, v: float, tau: float) -> float:
    """Return ln E, the evidence that the harm is above 0: the one-sided mixture SPRT, its mixture half of N(0, τ²).

    E of a harmless rollout reaches 1/alpha with at most the probability alpha, over all looks together.
    A τ of 0 is no evidence, whatever was counted.
    """
    _positive("v", v)
    if not 0 <= tau < math.inf:
        raise ValueError(f"tau is {tau!r}; it is the mde in units of the metric, not negative and finite.")
    z = (h / math.sqrt(v)) * (tau / math.sqrt(v + tau * tau))
    return LOG_2 + _log_phi_scaled(z) - math.log1p(tau * tau / v) / 2


def p_value(log_es: Iterable[float]) -> float:
    """Return the always-valid p from ln E of every look so far; 1 before the first look."""
    return math.exp(-max(0.0, max(log_es, default=0.0)))


def detectable(v: float, tau: float, alpha: float) -> float:
    """Return d*, the estimate at which E reaches 1/alpha: the bounds of the harm are ``h - d*`` and ``h + d*``.

    :raises ValueError: for a ``v`` or ``tau`` that is not positive, an ``alpha`` that is not between 0 and 1.
    """
    _positive("tau", tau)
    needed = -math.log(_alpha(alpha))
    low, high = 0.0, math.sqrt(_positive("v", v))
    while log_e(high, v, tau) < needed:
        low, high = high, 2 * high
    while low < (middle := (low + high) / 2) < high:
        low, high = (middle, high) if log_e(middle, v, tau) < needed else (low, middle)
    return high


def half_width(v: float, tau: float, alpha: float) -> float:
    """Return half the width of the always-valid interval in both directions: for display, no verdict depends on it."""
    ratio = _positive("v", v) / _positive("tau", tau) ** 2
    return math.sqrt(v * (1 + ratio) * (math.log1p(1 / ratio) - 2 * math.log(_alpha(alpha))))


def log_phi(z: float) -> float:
    """Return ln Φ(z), the logarithm of the standard normal distribution, exact far out in the tails too."""
    if z > 0:
        return math.log1p(-math.erfc(z / math.sqrt(2)) / 2)
    return _log_phi_scaled(z) - z * z / 2


def sample_ratio(stages: Sequence[tuple[Sequence[int], Sequence[float]]], k: float = 1000.0) -> float:
    """Return ln B, the evidence that units were not split as configured: a sequential test, summed over the stages.

    The test of Lindon and Malek (arXiv 2011.03567) with the prior Dirichlet(kρ). As a guardrail it alarms at
    B ≥ 100. One unit in an arm with the share 0 is all the evidence there can be: infinity.

    :param stages: of each, the units per arm and the shares expected of them; weights serve as well, they are divided
        by their sum. Shares that changed make a new stage.
    :param k: how near to the expected shares the prior expects the true ones.
    :raises ValueError: for counts and shares that don't belong together, or negative ones.
    """
    _positive("k", k)
    return math.fsum(_log_b(counts, weights, k) for counts, weights in stages)


def smallest_harm(variance: float, n_t: float, n_c: float, alpha_c: float) -> float:
    """Return the harm that is caught in 80 % of rollouts with so many units in treatment and control.

    :param variance: of one unit; of a rate p it is p(1 - p).
    :param alpha_c: alpha divided by the number of comparisons.
    """
    information = 1 / (1 / _positive("n_t", n_t) + 1 / _positive("n_c", n_c))
    return math.sqrt(_signal(alpha_c) * _positive("variance", variance) / information)


def units_needed(variance: float, mde: float, alpha_c: float) -> float:
    """Return the units per arm, both arms alike, with which a harm of ``mde`` is caught in 80 % of rollouts."""
    return 2 * _positive("variance", variance) * _signal(alpha_c) / _positive("mde", mde) ** 2


def _stratum(treatment: Arm, control: Arm) -> tuple[float, float, float] | None:
    """Both means and the variance of their difference in one stage, or ``None`` where it is too small to enter."""
    together = _together(treatment, control)
    is_rate = treatment.is_rate and control.is_rate
    if min(treatment.n, control.n) < (UNITS_FOR_A_RATE if is_rate else UNITS_FOR_A_MEAN):
        return None
    if is_rate and expected_conversions(treatment, control) < CONVERSIONS:
        return None
    treated, untreated = treatment.mean, control.mean
    of_t, of_c, pooled = treatment.variance, control.variance, together.variance
    if treated is None or untreated is None or of_t is None or of_c is None or pooled is None:
        return None
    # Either alone stops harmless rollouts too often when one arm is small: the first for drops, the second for rises.
    v = max(of_t / treatment.n + of_c / control.n, pooled * (1 / treatment.n + 1 / control.n))
    return (treated, untreated, v) if v > 0 else None


def _together(treatment: Arm, control: Arm) -> Arm:
    """Both arms of one stage as one sample."""
    if treatment.is_ratio != control.is_ratio:
        raise ValueError("One arm has den_sum and the other has not. Return the same columns for both arms.")
    if (treatment.sum_sq is None) != (control.sum_sq is None) and not (treatment.is_rate and control.is_rate):
        raise ValueError("One arm has sum_sq and the other has not. Return it for both; only 0/1 metrics do without.")
    return Arm(
        treatment.n + control.n,
        treatment.sum + control.sum,
        _added(_squares(treatment), _squares(control)),
        _added(treatment.den_sum, control.den_sum),
        _added(treatment.den_sum_sq, control.den_sum_sq),
        _added(treatment.num_den_sum, control.num_den_sum),
    )


def _added(one: float | None, other: float | None) -> float | None:
    return None if one is None or other is None else one + other


def _squares(arm: Arm) -> float:
    return arm.sum if arm.sum_sq is None else arm.sum_sq


def _spread(residuals: float, *, of: float) -> float:
    """Squares around a mean, and 0 where so few are left that they are what adding up floats has lost."""
    return residuals if residuals > ROUNDING * of else 0.0


def _log_phi_scaled(z: float) -> float:
    """ln Φ(z) + z²/2: what stays small where ln Φ(z) and z²/2 are large and cancel."""
    if z > 0:
        return math.log1p(-math.erfc(z / math.sqrt(2)) / 2) + z * z / 2
    if z > -30:
        return math.log(math.erfc(-z / math.sqrt(2)) / 2) + z * z / 2
    inverse = 1 / (z * z)
    series = -inverse * (1 - 3 * inverse * (1 - 5 * inverse * (1 - 7 * inverse)))
    return math.log1p(series) - math.log(-z) - HALF_LOG_2_PI


def _log_b(counts: Sequence[int], weights: Sequence[float], k: float) -> float:
    """ln B of one stage."""
    if len(counts) != len(weights) or len(counts) < 2:
        raise ValueError(
            f"{len(counts)} counts and {len(weights)} shares; there is one of each per arm, two arms or more."
        )
    counted = [_count("count", count) for count in counts]
    whole = math.fsum(weights)
    if not 0 < whole < math.inf or min(weights) < 0:
        raise ValueError(f"The shares are {list(weights)!r}; none is negative and at least one is above 0.")
    total = sum(counted)
    terms = [math.lgamma(k) - math.lgamma(k + total)]
    for count, weight in zip(counted, weights, strict=True):
        share = weight / whole
        if share > 0:
            terms += [math.lgamma(k * share + count), -math.lgamma(k * share), -count * math.log(share)]
        elif count:
            return math.inf
    return math.fsum(terms)


def _signal(alpha_c: float) -> float:
    """How large harm²/variance of the estimate must be for a power of 80 %: a fit to simulations of the test."""
    return 11 + 2.9 * math.log(0.05 / _alpha(alpha_c))


def _share(mde: str) -> float:
    """Read ``"20%"``."""
    number, sign, rest = mde.strip().partition("%")
    try:
        share = float(number) / 100
    except ValueError:
        share = math.nan
    if not sign or rest or not 0 < share < math.inf:
        raise ValueError(NO_MDE.format(mde))
    return share


def _number(name: str, given: Any) -> float:
    if isinstance(given, bool) or not isinstance(given, Real | Decimal) or not math.isfinite(given):
        raise ValueError(f"{name} is {given!r}; it is a finite number. A sum over no rows is 0 (COALESCE it).")
    return float(given)


def _count(name: str, given: Any) -> int:
    number = _number(name, given)
    if number < 0 or number != int(number):
        raise ValueError(f"{name} is {given!r}; it counts units: a whole number, not negative.")
    return int(given)


def _positive(name: str, given: float) -> float:
    if not 0 < given < math.inf:
        raise ValueError(f"{name} is {given!r}; it is a finite number above 0.")
    return given


def _alpha(given: float) -> float:
    if not 0 < given < 1:
        raise ValueError(f"alpha is {given!r}; it is a probability between 0 and 1, commonly 0.05.")
    return given


def _refuse_what_is_no_rate(arm: Arm) -> None:
    if not 0 <= arm.sum <= arm.n or arm.sum != int(arm.sum):
        raise ValueError(
            f"sum is {arm.sum:g} over {arm.n} units without sum_sq, so it would be a count of units with a 1: a whole "
            "number from 0 to n. Return sum_sq, the sum of the squares, for any other metric."
        )


def _refuse_impossible_squares(name: str, squares: float, linear: tuple[str, float], n: int) -> None:
    """Σy² is at least (Σy)² / n, whatever the units are; of no units both are 0."""
    if (squares and not n) or linear[1] * linear[1] > n * squares * (1 + ROUNDING):
        raise ValueError(
            f"{name} is {squares:g} with {linear[0]} {linear[1]:g} over {n} units: the sum of the squares is at least "
            f"{linear[0]}²/n. Square each unit's own value and add those up."
        )


def _refuse_half_a_ratio(arm: Arm) -> None:
    if (arm.den_sum is None) != (arm.den_sum_sq is None) or (arm.den_sum is None) != (arm.num_den_sum is None):
        raise ValueError("A ratio metric needs den_sum, den_sum_sq and num_den_sum; any other has none of them.")
    if arm.den_sum is None or arm.den_sum_sq is None or arm.num_den_sum is None:
        return
    if arm.den_sum < 0:
        raise ValueError(f"den_sum is {arm.den_sum:g}; what a ratio is divided by (requests, orders) is not negative.")
    _refuse_impossible_squares("den_sum_sq", arm.den_sum_sq, ("den_sum", arm.den_sum), arm.n)
    if arm.num_den_sum * arm.num_den_sum > _squares(arm) * arm.den_sum_sq * (1 + ROUNDING):
        raise ValueError(
            f"num_den_sum is {arm.num_den_sum:g}; its square is at most sum_sq · den_sum_sq. Multiply each unit's own "
            "numerator and denominator and add those up."
        )
