"""What guardrails compute: known figures, what may change without changing an answer, and sums that can't be."""

from __future__ import annotations

import math
import statistics
from dataclasses import astuple
from decimal import Decimal

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from airflow_amplitude_experiment.rollout.statistics import (
    Arm,
    compare,
    detectable,
    expected_conversions,
    half_width,
    log_e,
    log_phi,
    p_value,
    sample_ratio,
    smallest_harm,
    tau,
    units_needed,
)


def for_all(*args, **kwargs):
    """As ``given``; how fast the machine is says nothing about a formula."""
    patient = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
    return lambda test: patient(given(*args, **kwargs)(test))


def a_rate(conversions, units):
    return Arm(units, conversions)


def a_mean(values):
    return Arm(len(values), math.fsum(values), math.fsum(value * value for value in values))


def a_ratio(pairs):
    return Arm(
        len(pairs),
        math.fsum(y for y, _ in pairs),
        math.fsum(y * y for y, _ in pairs),
        math.fsum(x for _, x in pairs),
        math.fsum(x * x for _, x in pairs),
        math.fsum(x * y for y, x in pairs),
    )


def scaled(arm, factor):
    return Arm(arm.n, factor * arm.sum, factor * factor * arm.sum_sq)


def shifted(arm, by):
    return Arm(arm.n, arm.sum + by * arm.n, arm.sum_sq + 2 * by * arm.sum + by * by * arm.n)


def expected_under_noise(of, *, v, true_harm=0.0):
    """The mean of ``of(h)`` over estimates h, normal around the true harm with variance v, by Simpson's rule."""
    steps, reach = 6_000, 30
    total = 0.0
    for step in range(steps + 1):
        z = reach * (2 * step / steps - 1)
        weight = 1 if step in (0, steps) else 4 if step % 2 else 2
        total += weight * math.exp(-z * z / 2) * of(true_harm + z * math.sqrt(v))
    return total * (2 * reach / steps) / 3 / math.sqrt(2 * math.pi)


rates = st.builds(lambda n, share: a_rate(round(n * share), n), st.integers(2_000, 50_000), st.floats(0.02, 0.98))
means = st.builds(
    lambda n, mean, spread: Arm(n, n * mean, n * (mean * mean + spread * spread)),
    st.integers(1_000, 100_000),
    st.floats(-100, 100),
    st.floats(0.5, 50),
)
variances = st.floats(1e-8, 1e3)
mdes = st.floats(1e-3, 1e2)
alphas = st.floats(1e-4, 0.5)
harms = st.floats(-50, 50)

GOLDEN = {
    "a drop that is a breach": ([((400, 5000), (500, 5000))], "decrease", 0.02, 0.05),
    "nobody converts any more": ([((0, 500), (50, 500))], "decrease", 0.02, 0.05),
    "one percent against the rest": ([((90, 1000), (9900, 99000))], "decrease", 0.02, 0.05),
    "better than control": ([((620, 5000), (500, 5000))], "decrease", 0.02, 0.05),
    "a rise": ([((130, 5000), (100, 5000))], "increase", 0.005, 0.01),
    "two stages": ([((40, 500), (55, 500)), ((330, 4000), (392, 4000))], "decrease", 0.02, 0.05),
}
ANSWERS = {  # h, V, ln E, d*
    "a drop that is a breach": (0.020000, 3.276327633e-05, 5.044564, 0.015968182),
    "nobody converts any more": (0.1, 1.901901902e-04, 17.944565, 0.040183622),
    "one percent against the rest": (0.01, 9.082918102e-05, 0.109749, 0.026507490),
    "better than control": (-0.024000, 3.978637864e-05, -2.781195, 0.017518777),
    "a rise": (0.006, 8.989298930e-06, 1.456934, 0.010578635),
    "two stages": (0.017045114, 3.668252043e-05, 3.078631, 0.016850035),
}


@pytest.mark.parametrize("case", GOLDEN)
def test_known_comparisons_of_rates_come_out(case):
    stages, harm, mde, alpha = GOLDEN[case]
    h, v, evidence, bound = ANSWERS[case]
    found = compare([(a_rate(*treatment), a_rate(*control)) for treatment, control in stages], harm=harm)
    assert found is not None
    assert found.h == pytest.approx(h, abs=1e-9)
    assert found.v == pytest.approx(v, rel=1e-9)
    assert log_e(found.h, found.v, mde) == pytest.approx(evidence, abs=1e-6)
    assert detectable(found.v, mde, alpha) == pytest.approx(bound, abs=1e-9)


def test_a_known_comparison_of_means_comes_out():
    found = compare([(Arm(2000, 41_000, 1.9e6), Arm(2000, 42_500, 1.95e6))], harm="decrease")
    assert found is not None
    assert (found.h, found.v) == (pytest.approx(0.75, abs=1e-9), pytest.approx(0.526866092, abs=1e-9))
    assert found.control_mean == pytest.approx(21.25)
    assert log_e(found.h, found.v, 1.0) == pytest.approx(0.285704, abs=1e-6)
    assert detectable(found.v, 1.0, 0.05) == pytest.approx(2.138789512, abs=1e-9)


def test_a_known_ratio_comes_out():
    arm = Arm(1000, 120, 180, 1500, 3200, 210)
    assert (arm.mean, arm.variance) == (pytest.approx(0.08), pytest.approx(0.074243132, abs=1e-9))


@pytest.mark.parametrize(
    ("counts", "weights", "evidence"),
    [
        ((5200, 4800), (1, 1), 6.075818),
        ((520, 480), (1, 1), 0.053528),
        ((50_000, 50_500), (1, 1), -1.078733),
        ((1000, 1000, 1120), (1, 1, 1), 2.047545),
        ((1130, 98_870), (1, 99), 5.737680),
    ],
)
def test_known_sample_ratios_come_out(counts, weights, evidence):
    assert sample_ratio([(counts, weights)]) == pytest.approx(evidence, abs=1e-6)


@pytest.mark.parametrize(
    ("z", "logarithm"),
    [
        (-1e6, -5.00000000014734e11),
        (-100, -5005.5242086942051),
        (-40, -804.6084420137539),
        (-30.001, -454.35127771545876),
        (-30, -454.3212439563432),
        (-29.999, -454.29121119612387),
        (-12, -75.410673001568796),
        (-5, -15.064998393988727),
        (-1, -1.8410216450092635),
        (0, -0.6931471805599453),
        (2, -0.023012909328963488),
        (8, -6.2209605742717858e-16),
    ],
)
def test_the_normal_distribution_is_exact_far_out(z, logarithm):
    assert log_phi(z) == pytest.approx(logarithm, rel=1e-12, abs=0)


def test_what_a_stage_can_show_is_as_published():
    assert units_needed(0.1 * 0.9, 0.02, 0.05) == pytest.approx(4_950)
    assert units_needed(0.1 * 0.9, 0.005, 0.05) == pytest.approx(79_200)
    assert smallest_harm(0.1 * 0.9, 100, 9_900, 0.05) == pytest.approx(0.1, abs=1e-9)
    assert smallest_harm(0.1 * 0.9, 500, 9_500, 0.01) == pytest.approx(math.sqrt(15.6673699 * 0.09 / 475), rel=1e-8)


@for_all(treatment=rates, control=rates)
def test_the_direction_of_harm_is_the_sign_and_nothing_else(treatment, control):
    drop, rise = (compare([(treatment, control)], harm=harm) for harm in ("decrease", "increase"))
    assert drop is not None
    assert rise is not None
    assert (drop.h, drop.v, drop.control_mean) == (-rise.h, rise.v, rise.control_mean)


def test_a_lower_treatment_is_a_harm_only_where_a_decrease_is_bad():
    lower = [(a_rate(400, 5000), a_rate(500, 5000))]
    drop, rise = compare(lower, harm="decrease"), compare(lower, harm="increase")
    assert drop is not None
    assert rise is not None
    assert drop.h > 0 > rise.h


@for_all(treatment=rates, control=rates)
def test_swapping_the_arms_swaps_the_sign(treatment, control):
    one, other = compare([(treatment, control)], harm="decrease"), compare([(control, treatment)], harm="decrease")
    assert one is not None
    assert other is not None
    assert (one.h, one.v) == (pytest.approx(-other.h), pytest.approx(other.v))


@for_all(treatment=rates, control=rates)
def test_failures_that_rise_are_successes_that_drop(treatment, control):
    successes = compare([(treatment, control)], harm="decrease")
    failures = compare(
        [(a_rate(treatment.n - treatment.sum, treatment.n), a_rate(control.n - control.sum, control.n))],
        harm="increase",
    )
    assert successes is not None
    assert failures is not None
    assert (failures.h, failures.v) == (pytest.approx(successes.h), pytest.approx(successes.v))


@for_all(stages=st.lists(st.tuples(rates, rates), min_size=2, max_size=5), order=st.randoms(use_true_random=False))
def test_the_order_of_stages_does_not_matter(stages, order):
    mixed = order.sample(stages, len(stages))
    one, other = compare(stages, harm="decrease"), compare(mixed, harm="decrease")
    assert one is not None
    assert other is not None
    assert astuple(one) == pytest.approx(astuple(other), abs=1e-12)


@for_all(stage=st.tuples(means, means), times=st.integers(2, 6))
def test_a_stage_seen_several_times_has_the_same_harm_and_so_much_less_variance(stage, times):
    once, often = compare([stage], harm="decrease"), compare([stage] * times, harm="decrease")
    assert once is not None
    assert often is not None
    assert often.h == pytest.approx(once.h, abs=1e-9)
    assert often.v == pytest.approx(once.v / times)
    assert often.control_mean == pytest.approx(once.control_mean)
    assert (once.stages, often.stages) == (1, times)


def test_a_stage_counts_by_how_much_it_knows():
    small, large = (a_rate(50, 1000), a_rate(150, 1000)), (a_rate(10_000, 100_000), a_rate(10_000, 100_000))
    found, alone = compare([small, large], harm="decrease"), compare([small], harm="decrease")
    assert found is not None
    assert alone is not None
    assert 0 < found.h < alone.h / 50
    assert found.control_mean == pytest.approx(0.1, abs=1e-3)


def test_stages_filled_on_other_days_show_no_harm_of_their_own():
    """Everybody's rate fell from 10 to 5 % while the arm grew from 1 to 90 %: nobody was harmed by the release."""
    early, late = (a_rate(100, 1_000), a_rate(9_900, 99_000)), (a_rate(4_500, 90_000), a_rate(500, 10_000))
    found = compare([early, late], harm="decrease")
    added = compare([(a_rate(4_600, 91_000), a_rate(10_400, 109_000))], harm="decrease")
    assert found is not None
    assert added is not None
    assert found.h == pytest.approx(0, abs=1e-12)
    assert log_e(added.h, added.v, 0.02) > 100


@for_all(treatment=means, control=means, factor=st.floats(1e-3, 1e3), mde=mdes)
def test_the_unit_of_a_metric_does_not_matter(treatment, control, factor, mde):
    euros = compare([(treatment, control)], harm="decrease")
    cents = compare([(scaled(treatment, factor), scaled(control, factor))], harm="decrease")
    assert euros is not None
    assert cents is not None
    assert log_e(cents.h, cents.v, factor * mde) == pytest.approx(log_e(euros.h, euros.v, mde), rel=1e-6, abs=1e-6)
    assert detectable(cents.v, factor * mde, 0.05) == pytest.approx(factor * detectable(euros.v, mde, 0.05), rel=1e-6)


@for_all(treatment=means, control=means, by=st.floats(-100, 100))
def test_what_every_unit_gets_on_top_does_not_matter(treatment, control, by):
    one = compare([(treatment, control)], harm="decrease")
    other = compare([(shifted(treatment, by), shifted(control, by))], harm="decrease")
    assert one is not None
    assert other is not None
    assert (other.h, other.v) == (pytest.approx(one.h, abs=1e-6), pytest.approx(one.v, rel=1e-6))


@for_all(st.lists(st.floats(-1e3, 1e3).map(lambda value: round(value, 6)), min_size=2, max_size=50))
def test_mean_and_variance_are_those_of_the_units(values):
    arm = a_mean(values)
    assert arm.mean == pytest.approx(statistics.fmean(values), abs=1e-9)
    assert arm.variance == pytest.approx(statistics.variance(values), rel=1e-6, abs=1e-2)


@for_all(st.lists(st.tuples(st.integers(0, 20), st.integers(1, 30)), min_size=2, max_size=50))
def test_the_variance_of_a_ratio_is_that_of_its_residuals(pairs):
    arm = a_ratio(pairs)
    total = sum(x for _, x in pairs)
    ratio = sum(y for y, _ in pairs) / total
    residuals = [(y - ratio * x) / (total / len(pairs)) for y, x in pairs]
    assert arm.mean == pytest.approx(ratio)
    assert arm.variance == pytest.approx(statistics.variance(residuals), abs=1e-6)


@for_all(st.lists(st.integers(0, 20), min_size=2, max_size=50))
def test_a_ratio_per_unit_is_a_mean(values):
    mean, ratio = a_mean(values), a_ratio([(value, 1) for value in values])
    assert (ratio.mean, ratio.variance) == (pytest.approx(mean.mean), pytest.approx(mean.variance, abs=1e-9))


@for_all(units=st.integers(2, 10_000), data=st.data())
def test_squares_of_a_rate_may_be_left_out(units, data):
    conversions = data.draw(st.integers(0, units))
    short, long = Arm(units, conversions), Arm(units, conversions, conversions)
    assert short.is_rate
    assert long.is_rate
    assert (short.mean, short.variance) == (long.mean, long.variance)


def test_what_a_warehouse_returns_for_numbers_is_taken():
    decimals = Arm(Decimal(1000), Decimal("120"), Decimal("180.5"))  # type: ignore[arg-type]
    assert decimals == Arm(1000, 120.0, 180.5)
    assert isinstance(decimals.n, int)
    assert isinstance(decimals.sum, float)


def test_an_empty_arm_has_neither_mean_nor_variance():
    assert (Arm(0, 0).mean, Arm(0, 0).variance, Arm(1, 1).variance) == (None, None, None)
    assert (Arm(5, 0, 0, 0, 0, 0).mean, Arm(5, 0, 0, 0, 0, 0).variance) == (None, None)


def test_a_metric_that_never_varies_has_no_variance_from_rounding():
    assert Arm(3_000_000, 3_000_000 * 0.1, 3_000_000 * 0.01 * (1 + 1e-13)).variance == 0


@pytest.mark.parametrize(
    ("treatment", "control", "enters"),
    [
        (a_rate(50, 100), a_rate(500, 1000), True),
        (a_rate(50, 100), Arm(1000, 500, 500), True),  # squares are missing in one arm, and known
        (a_rate(50, 99), a_rate(500, 1000), False),
        (a_rate(500, 1000), a_rate(50, 99), False),
        (a_rate(10, 100), a_rate(10, 100), True),
        (a_rate(9, 100), a_rate(10, 100), False),
        (a_rate(90, 100), a_rate(90, 100), True),
        (a_rate(91, 100), a_rate(90, 100), False),
        (a_rate(0, 200), a_rate(1000, 10_000), True),  # nobody converts any more: few are observed, enough expected
        (a_rate(0, 5000), a_rate(0, 5000), False),
        (a_rate(5000, 5000), a_rate(5000, 5000), False),
        (Arm(1000, 900, 1500), Arm(1000, 900, 1500), True),
        (Arm(999, 900, 1500), Arm(5000, 4500, 7500), False),
        (Arm(5000, 4500, 7500), Arm(999, 900, 1500), False),
        (Arm(999, 0, 0), Arm(5000, 4500, 7500), False),  # an arm without any revenue is no rate because of that
        (Arm(1000, 0, 0), Arm(5000, 4500, 7500), True),
        (Arm(200, 100, 120), Arm(200, 100, 80), False),  # only added up do they look like a rate
        (Arm(1000, 500, 500, 1000, 2000, 700), Arm(1000, 500, 500, 1000, 2000, 700), True),
        (Arm(999, 500, 500, 1000, 2000, 700), Arm(1000, 500, 500, 1000, 2000, 700), False),
        (Arm(1000, 0, 0, 0, 0, 0), Arm(1000, 500, 500, 1000, 2000, 700), False),
        (Arm(1000, 3000, 9000), Arm(1000, 3000, 9000), False),  # all alike: no variance, nothing to compare with
    ],
)
def test_a_stage_enters_once_it_is_large_enough(treatment, control, enters):
    found = compare([(treatment, control)], harm="decrease")
    assert (found is not None) is enters


def test_a_stage_too_small_changes_nothing():
    large, small = (a_rate(400, 5000), a_rate(500, 5000)), (a_rate(0, 20), a_rate(20, 20))
    assert compare([small, large, (Arm(0, 0), Arm(0, 0))], harm="decrease") == compare([large], harm="decrease")


def test_no_stage_is_no_comparison():
    assert compare([], harm="decrease") is None


def test_the_variance_is_the_larger_of_the_two_ways():
    """Of the arms apart for a rise in a small arm, of both as one sample for a drop: there the other is too small."""
    apart, pooled = (
        lambda t, c: t.variance / t.n + c.variance / c.n,
        lambda t, c: Arm(t.n + c.n, t.sum + c.sum).variance * (1 / t.n + 1 / c.n),
    )
    risen, fallen, control = a_rate(150, 1000), a_rate(50, 1000), a_rate(9_900, 99_000)
    for arm, larger, smaller in ((risen, apart, pooled), (fallen, pooled, apart)):
        found = compare([(arm, control)], harm="decrease")
        assert found is not None
        assert found.v == pytest.approx(larger(arm, control))
        assert larger(arm, control) > smaller(arm, control)


def test_the_variance_of_ratios_is_that_of_all_units_where_it_is_larger():
    fewer = [(0, 1), (0, 4), (1, 2)] * 500
    many = [(0, 1), (1, 4), (3, 2)] * 5_000
    found, both = compare([(a_ratio(fewer), a_ratio(many))], harm="decrease"), a_ratio([*fewer, *many])
    assert found is not None
    assert both.variance is not None
    assert found.v == pytest.approx(both.variance * (1 / len(fewer) + 1 / len(many)), rel=1e-9)


def test_the_rarer_outcome_is_what_is_expected_in_the_smaller_arm():
    assert expected_conversions(a_rate(0, 100), a_rate(110, 1000)) == pytest.approx(10)
    assert expected_conversions(a_rate(1000, 1000), a_rate(90, 100)) == pytest.approx(100 * 10 / 1100)
    assert expected_conversions(Arm(0, 0), Arm(0, 0)) == 0


@for_all(h=harms, v=variances, mde=mdes, more=st.floats(1e-6, 10))
def test_more_harm_is_more_evidence(h, v, mde, more):
    assert log_e(h + more, v, mde) >= log_e(h, v, mde)


@for_all(v=variances, mde=mdes)
def test_no_harm_at_all_is_evidence_against_harm(v, mde):
    assert log_e(0, v, mde) == pytest.approx(-math.log1p(mde * mde / v) / 2)
    assert log_e(0, v, mde) < 0
    assert log_e(-mde, v, mde) < log_e(0, v, mde)


@pytest.mark.parametrize(("v", "mde"), [(1e-4, 0.02), (1e-4, 0.001), (1e-4, 0.03), (4.0, 1.0)])
def test_the_evidence_is_1_on_average_where_there_is_no_harm(v, mde):
    assert expected_under_noise(lambda h: math.exp(log_e(h, v, mde)), v=v) == pytest.approx(1, rel=1e-9)


@pytest.mark.parametrize("true_harm", [-0.001, -0.01, -0.05])
def test_the_evidence_is_less_on_average_where_the_release_is_better(true_harm):
    assert expected_under_noise(lambda h: math.exp(log_e(h, 1e-4, 0.02)), v=1e-4, true_harm=true_harm) < 1


@pytest.mark.parametrize("so_far", [-0.02, 0.0, 0.015, 0.04])
def test_another_look_gains_no_evidence_on_average(so_far):
    """What makes it safe to look as often as one likes: as many units again leave E where it stands, on average."""
    v = 1e-4
    after = expected_under_noise(lambda h: math.exp(log_e((so_far + h) / 2, v / 2, 0.02)), v=v)
    assert after == pytest.approx(math.exp(log_e(so_far, v, 0.02)), rel=1e-9)


@for_all(v=variances, mde=mdes, alpha=alphas)
def test_the_bound_is_where_the_evidence_suffices(v, mde, alpha):
    bound = detectable(v, mde, alpha)
    assert log_e(bound, v, mde) == pytest.approx(math.log(1 / alpha), rel=1e-9)
    assert log_e(bound, v, mde) >= -math.log(alpha)


@for_all(v=variances, mde=mdes, alpha=alphas, factor=st.floats(1.01, 100))
def test_more_units_and_a_larger_alpha_show_smaller_harm(v, mde, alpha, factor):
    assert detectable(v / factor, mde, alpha) < detectable(v, mde, alpha)
    assert detectable(v, mde, alpha / factor) > detectable(v, mde, alpha)


@for_all(v=variances, mde=mdes, alpha=alphas)
def test_both_directions_are_wider_than_one(v, mde, alpha):
    width = half_width(v, mde, alpha)
    two_sided = width**2 * mde**2 / (2 * v * (v + mde**2)) - math.log1p(mde**2 / v) / 2
    assert two_sided == pytest.approx(math.log(1 / alpha), rel=1e-9)
    assert width > detectable(v, mde, alpha)


@pytest.mark.parametrize("h", [-1e9, -1e3, -1.0, 1.0, 1e3, 1e9])
@pytest.mark.parametrize("v", [1e-12, 1e-4, 1e6])
def test_the_evidence_is_finite_however_clear_the_case(h, v):
    assert math.isfinite(log_e(h, v, 0.02))


def test_no_smallest_harm_is_no_evidence():
    assert log_e(5.0, 1e-4, 0.0) == 0


@for_all(st.lists(st.floats(-1e4, 1e4), max_size=20), st.floats(-1e4, 1e4))
def test_the_p_of_all_looks_never_rises(looks, another):
    before, after = p_value(looks), p_value([*looks, another])
    assert 0 <= after <= before <= 1
    assert after == p_value([another, *looks])


def test_the_p_of_one_look_is_the_inverse_of_its_evidence():
    assert p_value([math.log(40)]) == pytest.approx(1 / 40)
    assert p_value([-3.0]) == 1
    assert p_value([]) == 1


@pytest.mark.parametrize(
    ("mde", "control_mean", "found"),
    [(0.02, 0.1, 0.02), (2, 0.1, 2.0), ("20%", 0.1, 0.02), (" 0.5 % ", 40, 0.2), ("150%", -2, 3.0), ("20%", 0, 0.0)],
)
def test_the_smallest_harm_is_a_number_or_a_share_of_control(mde, control_mean, found):
    assert tau(mde, control_mean) == pytest.approx(found)


@pytest.mark.parametrize(
    "mde",
    [
        0,
        -0.02,
        math.nan,
        math.inf,
        True,
        None,
        "0.02",
        "",
        "%",
        "0%",
        "-20%",
        "nan%",
        "inf%",
        "20%%",
        "a fifth",
        "20% up",
    ],
)
def test_any_other_smallest_harm_is_refused(mde):
    with pytest.raises(ValueError, match=r"mde is .*'20%'"):
        tau(mde, 0.1)


counts = st.lists(st.integers(0, 20_000), min_size=2, max_size=4)


@for_all(counts=counts, data=st.data(), factor=st.floats(0.01, 100))
def test_weights_are_shares_of_their_sum(counts, data, factor):
    weights = data.draw(st.lists(st.integers(1, 99), min_size=len(counts), max_size=len(counts)))
    one, other = sample_ratio([(counts, weights)]), sample_ratio([(counts, [factor * weight for weight in weights])])
    assert one == pytest.approx(other, rel=1e-6, abs=1e-6)


@for_all(counts=counts, data=st.data())
def test_the_order_of_arms_does_not_matter(counts, data):
    weights = data.draw(st.lists(st.integers(1, 99), min_size=len(counts), max_size=len(counts)))
    backwards = sample_ratio([(counts[::-1], weights[::-1])])
    assert sample_ratio([(counts, weights)]) == pytest.approx(backwards, rel=1e-6, abs=1e-6)


@for_all(
    st.lists(st.tuples(st.tuples(st.integers(0, 9999), st.integers(0, 9999)), st.tuples(*[st.integers(1, 99)] * 2)))
)
def test_evidence_of_stages_adds_up(stages):
    assert sample_ratio(stages) == pytest.approx(sum(sample_ratio([stage]) for stage in stages), abs=1e-6)


@for_all(weights=st.tuples(st.integers(1, 99), st.integers(1, 99)), hundreds=st.integers(1, 1000))
def test_units_split_as_expected_are_evidence_against_an_alarm(weights, hundreds):
    assert sample_ratio([([weight * hundreds for weight in weights], weights)]) < 0


@for_all(share=st.floats(0.01, 0.99), units=st.integers(0, 60))
def test_the_evidence_of_a_right_split_is_1_on_average(share, units):
    expected = math.fsum(
        math.comb(units, count)
        * share**count
        * (1 - share) ** (units - count)
        * math.exp(sample_ratio([((count, units - count), (share, 1 - share))]))
        for count in range(units + 1)
    )
    assert expected == pytest.approx(1, rel=1e-6)


@for_all(expected=st.integers(1000, 50_000), more=st.integers(50, 5_000))
def test_the_further_from_the_expected_split_the_more_evidence(expected, more):
    counts = (expected + more, expected - min(more, expected))
    nearer = (expected + more // 2, expected - min(more, expected) // 2)
    assert sample_ratio([(counts, (1, 1))]) > sample_ratio([(nearer, (1, 1))])


def test_a_ramped_flag_is_judged_stage_by_stage():
    stages = [((100, 9_900), (1, 99)), ((1_000, 9_000), (10, 90)), ((5_000, 5_000), (50, 50))]
    assert sample_ratio(stages) < 0
    assert sample_ratio([((6_100, 23_900), (50, 50))]) > 1_000


def test_a_unit_in_an_arm_that_gets_nobody_is_an_alarm():
    assert sample_ratio([((500, 500, 1), (1, 1, 0))]) == math.inf
    assert sample_ratio([((520, 480, 0), (1, 1, 0))]) == pytest.approx(0.053528, abs=1e-6)


def test_a_sample_ratio_without_units_says_nothing():
    assert sample_ratio([]) == 0
    assert sample_ratio([((0, 0), (1, 1))]) == pytest.approx(0)


@for_all(variance=st.floats(1e-4, 1e4), mde=mdes, alpha=alphas)
def test_units_needed_are_those_that_show_the_smallest_harm(variance, mde, alpha):
    units = units_needed(variance, mde, alpha)
    assert smallest_harm(variance, units, units, alpha) == pytest.approx(mde)


@for_all(n_t=st.integers(1, 10**7), n_c=st.integers(1, 10**7), comparisons=st.integers(2, 20))
def test_more_units_show_less_harm_and_more_comparisons_only_more(n_t, n_c, comparisons):
    once = smallest_harm(0.09, n_t, n_c, 0.05)
    assert smallest_harm(0.09, 2 * n_t, n_c, 0.05) < once
    assert smallest_harm(0.09, n_t, n_c, 0.05 / comparisons) > once
    assert smallest_harm(0.09, n_c, n_t, 0.05) == pytest.approx(once)


@pytest.mark.parametrize(
    ("sums", "words"),
    [
        ((-1, 0), "n is -1"),
        ((1.5, 1), "n is 1.5"),
        ((True, 1), "n is True"),
        (("100", 1), "n is '100'"),
        ((100, None), "sum is None.*COALESCE"),
        ((100, math.nan), "sum is nan"),
        ((100, Decimal("Infinity")), "sum is Decimal"),
        ((100, 5, math.inf), "sum_sq is inf"),
        ((100, 101), "101 over 100 units without sum_sq.*Return sum_sq"),
        ((100, -1), "-1 over 100 units without sum_sq"),
        ((100, 10.5), "10.5 over 100 units without sum_sq"),
        ((0, 3), "3 over 0 units"),
        ((100, 10, 0.99), "sum_sq is 0.99 with sum 10 over 100 units"),
        ((100, 0, -1), "sum_sq is -1"),
        ((0, 0, 5), "sum_sq is 5 with sum 0 over 0 units"),
        ((100, 10, 10, 50), "den_sum, den_sum_sq and num_den_sum"),
        ((100, 10, 10, None, 50), "den_sum, den_sum_sq and num_den_sum"),
        ((100, 10, 10, 50, 50), "den_sum, den_sum_sq and num_den_sum"),
        ((100, 10, 10, None, None, 5), "den_sum, den_sum_sq and num_den_sum"),
        ((100, 10, 10, -50, 50, 5), "den_sum is -50"),
        ((100, 10, 10, 50, 24, 5), "den_sum_sq is 24 with den_sum 50 over 100 units"),
        ((100, 10, 10, 50, 50, 23), "num_den_sum is 23; its square"),
    ],
)
def test_sums_that_no_units_can_have_are_refused(sums, words):
    with pytest.raises(ValueError, match=words):
        Arm(*sums)


def test_sums_that_lost_a_little_to_rounding_are_taken():
    assert Arm(3, 0.3, 0.03 * (1 - 1e-12)).variance == 0


@pytest.mark.parametrize(
    ("treatment", "control", "words"),
    [
        (Arm(2000, 10, 10), Arm(2000, 10, 10, 50, 50, 5), "has den_sum and the other has not"),
        (Arm(2000, 10, 10, 50, 50, 5), Arm(2000, 10, 10), "has den_sum and the other has not"),
        (Arm(2000, 10, 20), Arm(2000, 10), "has sum_sq and the other has not"),
        (Arm(2000, 10), Arm(2000, 10, 20), "has sum_sq and the other has not"),
    ],
)
def test_arms_counted_in_two_ways_are_refused(treatment, control, words):
    with pytest.raises(ValueError, match=words):
        compare([(treatment, control)], harm="decrease")


@pytest.mark.parametrize("harm", ["either", "drop", "", None])
def test_a_direction_of_harm_has_to_be_said(harm):
    with pytest.raises(ValueError, match=r"'decrease' .* 'increase'"):
        compare([], harm=harm)


@pytest.mark.parametrize(
    ("counts", "weights", "words"),
    [
        ((1, 2), (1, 1, 1), "2 counts and 3 shares"),
        ((1,), (1,), "1 counts and 1 shares"),
        ((-1, 2), (1, 1), "count is -1"),
        ((1.5, 2), (1, 1), "count is 1.5"),
        ((1, 2), (0, 0), "The shares are"),
        ((1, 2), (2, -1), "The shares are"),
        ((1, 2), (math.nan, 1), "The shares are"),
    ],
)
def test_counts_and_shares_that_cannot_be_are_refused(counts, weights, words):
    with pytest.raises(ValueError, match=words):
        sample_ratio([(counts, weights)])


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: log_e(0.1, 0, 0.02), "v is 0"),
        (lambda: log_e(0.1, math.nan, 0.02), "v is nan"),
        (lambda: log_e(0.1, 1e-4, -0.02), "tau is -0.02"),
        (lambda: detectable(0, 0.02, 0.05), "v is 0"),
        (lambda: detectable(1e-4, 0, 0.05), "tau is 0"),
        (lambda: detectable(1e-4, 0.02, 0), "alpha is 0"),
        (lambda: half_width(0, 0.02, 0.05), "v is 0"),
        (lambda: half_width(1e-4, 0, 0.05), "tau is 0"),
        (lambda: half_width(1e-4, 0.02, 5), "alpha is 5"),
        (lambda: smallest_harm(0, 100, 100, 0.05), "variance is 0"),
        (lambda: smallest_harm(0.09, 0, 100, 0.05), "n_t is 0"),
        (lambda: smallest_harm(0.09, 100, -1, 0.05), "n_c is -1"),
        (lambda: smallest_harm(0.09, 100, 100, 1), "alpha is 1"),
        (lambda: units_needed(0, 0.02, 0.05), "variance is 0"),
        (lambda: units_needed(0.09, 0, 0.05), "mde is 0"),
        (lambda: sample_ratio([((1, 1), (1, 1))], k=0), "k is 0"),
    ],
)
def test_figures_without_a_meaning_are_refused(call, words):
    with pytest.raises(ValueError, match=words):
        call()
