"""From sums to verdicts: each rule of a verdict, its order among the others, and what a record holds."""

from __future__ import annotations

import json
import math
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal

import pytest

from airflow_amplitude_experiment.rollout.answers import Answer, NoData, answered, moment, refuse_fallen, single
from airflow_amplitude_experiment.rollout.guardrails import (
    ChartGuardrail,
    SampleRatioGuardrail,
    SqlGuardrail,
    ThresholdGuardrail,
)
from airflow_amplitude_experiment.rollout.statistics import Arm
from airflow_amplitude_experiment.rollout.verdicts import (
    Circumstances,
    Evidence,
    compared,
    is_final,
    limited,
    overall,
    split,
    unanswered,
)

SQL = "SELECT * FROM sums WHERE at >= %(stage_start)s AND at < %(stage_end)s"
START = datetime(2026, 11, 22, 9, tzinfo=UTC)
NOW = START + timedelta(hours=4)
COLUMNS = ["variant", "n", "sum", "as_of"]
EVEN = {"control": 1.0, "treatment": 1.0}


def a_guardrail(**more):
    return SqlGuardrail("rate", **{"sql": SQL, "conn_id": "w", "harm": "decrease", "mde": 0.02, **more})


def a_ratio_guardrail(**more):
    return SampleRatioGuardrail(sql=SQL, conn_id="w", **more)


def rate(conversions, units):
    return Arm(units, conversions)


def a_stage(treatment, control, *, percentage=10, running=True, as_of=NOW, names=("treatment", "control"), **more):
    arms = {names[1]: control, names[0]: treatment, **more}
    return Evidence(percentage, START, None if running else NOW, Answer(arms, as_of))


def a_rollout_stage(on, off, **more):
    return a_stage(on, off, names=("on", "off"), **more)


def given(*, bake_over=True, alpha=0.05, alarm="", weights=EVEN, now=NOW):
    return Circumstances(weights=weights, bake_over=bake_over, alpha=alpha, now=now, alarm=alarm)


def verdict(*stages, guardrail=None, best=None, **circumstances):
    return compared(guardrail or a_guardrail(), stages, given(**circumstances), {} if best is None else best)


WORSE = (rate(400, 5000), rate(500, 5000))
ALIKE = (rate(500, 5000), rate(500, 5000))


# --- what is computed ---


def test_the_figures_of_the_definition_are_those_of_the_record():
    found = verdict(a_stage(*WORSE))
    (numbers,) = found["comparisons"]
    assert numbers["h"] == pytest.approx(0.02, abs=1e-6)
    assert numbers["v"] == pytest.approx(3.276327633e-05, rel=1e-6)
    assert numbers["ln_e"] == pytest.approx(5.044564, abs=1e-6)
    assert numbers["e"] == pytest.approx(math.exp(5.044564), rel=1e-5)
    assert numbers["p"] == pytest.approx(math.exp(-5.044564), rel=1e-5)
    assert numbers["lower"] == pytest.approx(0.02 - 0.015968182, abs=1e-6)
    assert numbers["upper"] == pytest.approx(0.02 + 0.015968182, abs=1e-6)


def test_stages_are_strata_and_are_never_added_up():
    stages = [
        a_stage(rate(40, 500), rate(55, 500), percentage=1, running=False),
        a_stage(rate(330, 4000), rate(392, 4000)),
    ]
    (numbers,) = verdict(*stages)["comparisons"]
    assert numbers["h"] == pytest.approx(0.017045114, abs=1e-6)
    assert numbers["ln_e"] == pytest.approx(3.078631, abs=1e-6)
    assert numbers["stages"] == 2


def test_a_record_holds_all_that_its_verdict_rests_on_as_plain_json():
    found = json.loads(json.dumps(verdict(a_stage(*WORSE))))
    assert found["name"] == "rate"
    assert found["design"] == "variants"
    assert found["alpha_c"] == 0.05
    assert found["mde"] == 0.02
    assert found["as_of"] == NOW.isoformat()
    assert len(found["query"]) == 12
    (stage,) = found["stages"]
    assert stage["percentage"] == 10
    assert stage["arms"]["treatment"]["n"] == 5000
    assert stage["arms"]["treatment"]["mean"] == 0.08
    assert stage["arms"]["control"]["s"] == pytest.approx(0.3, abs=1e-3)


def test_evidence_beyond_all_numbers_is_still_json():
    found = verdict(a_stage(rate(0, 10**6), rate(500_000, 10**6)))
    assert found["verdict"] == "breach"
    assert "Infinity" not in json.dumps(found)


def test_p_is_the_lowest_of_all_looks():
    best = {}
    first = verdict(a_stage(rate(420, 5000), rate(500, 5000)), best=best)["comparisons"][0]["p"]
    later = verdict(a_stage(*ALIKE), best=best)["comparisons"][0]
    assert later["p"] == first < 1
    assert later["ln_e"] < 0


def test_a_rise_is_harm_where_a_rise_is_bad():
    assert verdict(a_stage(*WORSE), guardrail=a_guardrail(harm="increase"))["verdict"] == "pass"
    better = a_stage(*reversed(WORSE))
    assert verdict(better)["verdict"] == "pass"
    assert verdict(better, guardrail=a_guardrail(harm="increase"))["verdict"] == "breach"


def test_either_direction_is_two_comparisons():
    found = verdict(a_stage(*WORSE), guardrail=a_guardrail(harm="either"))
    assert [each["harm"] for each in found["comparisons"]] == ["decrease", "increase"]
    assert found["verdict"] == "breach"


def test_every_treatment_arm_is_compared_and_the_harmful_one_named():
    weights = {"control": 1, "a": 1, "b": 1, "unused": 0}
    stage = a_stage(rate(500, 5000), rate(500, 5000), names=("a", "control"), b=rate(350, 5000))
    found = verdict(stage, weights=weights)
    assert [each["arm"] for each in found["comparisons"]] == ["a", "b"]
    assert found["verdict"] == "breach"
    assert found["reason"].startswith("b harms: ")


def test_a_relative_mde_follows_control():
    (numbers,) = verdict(a_stage(*ALIKE), guardrail=a_guardrail(mde="20%"))["comparisons"]
    assert numbers["tau"] == pytest.approx(0.02)


def test_a_control_that_stands_at_nothing_gives_a_relative_mde_nothing_to_refer_to():
    stage = a_stage(rate(200, 5000), rate(0, 5000))
    for pass_when in ("no_breach", "harm_ruled_out"):
        found = verdict(stage, guardrail=a_guardrail(mde="20%", harm="increase", pass_when=pass_when))
        assert found["comparisons"] == []
        assert found["verdict"] == "inconclusive"
        assert "control's mean is 0, and mde '20%' of it is nothing: state an absolute mde" in found["reason"]
    assert verdict(stage, guardrail=a_guardrail(harm="increase"))["verdict"] == "breach"


# --- the verdicts and their order ---


def test_a_breach_says_that_its_size_is_overstated():
    found = verdict(a_stage(*WORSE))
    assert found["verdict"] == "breach"
    assert found["note"] == "at least shown harmful; size overstated"
    assert "one-sided" in found["reason"]
    assert "always-valid p" in found["reason"]
    assert "alpha 0.05" in found["reason"]


def test_a_breach_does_not_wait_for_the_bake():
    assert verdict(a_stage(*WORSE), bake_over=False)["verdict"] == "breach"


def test_a_breach_counts_under_a_sample_ratio_alarm_too():
    assert verdict(a_stage(*WORSE), alarm="8:2")["verdict"] == "breach"


def test_a_harm_that_is_certain_and_too_small_to_matter_is_no_breach():
    stage = a_stage(rate(990_000, 10**7), rate(1_000_000, 10**7))
    found = verdict(stage)
    assert found["comparisons"][0]["ln_e"] > math.log(20)
    assert found["verdict"] == "pass"


def test_a_harm_of_just_half_the_mde_is_a_breach():
    assert verdict(a_stage(rate(900_000, 10**7), rate(1_000_000, 10**7)))["verdict"] == "breach"


def test_alpha_is_what_the_evidence_must_reach():
    assert verdict(a_stage(*WORSE), alpha=0.0065)["verdict"] == "breach"  # p is 0.006445
    assert verdict(a_stage(*WORSE), alpha=0.0064)["verdict"] == "pass"


def test_alpha_is_halved_where_people_who_come_back_are_counted_again():
    guardrail = a_guardrail(design="rollout", window="1h")
    stage = a_rollout_stage(*WORSE)
    found = verdict(stage, guardrail=guardrail, alpha=0.012)
    assert found["alpha_c"] == 0.006
    assert found["verdict"] == "pass"
    assert verdict(stage, guardrail=guardrail, alpha=0.013)["verdict"] == "breach"


def test_a_broken_release_is_found_without_a_single_conversion():
    assert verdict(a_stage(rate(0, 200), rate(20, 200)))["verdict"] == "breach"


def test_no_look_passes_before_the_bake_is_over():
    found = verdict(a_stage(*ALIKE), bake_over=False)
    assert (found["verdict"], found["reason"]) == ("inconclusive", "the bake is not over")


def test_a_sample_ratio_alarm_turns_a_pass_into_inconclusive():
    found = verdict(a_stage(*ALIKE), alarm="8:2")
    assert found["verdict"] == "inconclusive"
    assert "sample ratio guardrail has alarmed" in found["reason"]


@pytest.mark.parametrize(
    ("treatment", "control", "expected"),
    [
        (rate(50, 99), rate(500, 1000), "inconclusive"),
        (rate(50, 100), rate(500, 1000), "pass"),
        (rate(24, 1000), rate(24, 1000), "inconclusive"),
        (rate(25, 1000), rate(25, 1000), "pass"),
        (rate(976, 1000), rate(976, 1000), "inconclusive"),
        (Arm(999, 999, 2000), Arm(5000, 5000, 10_000), "inconclusive"),
        (Arm(1000, 1000, 2000), Arm(5000, 5000, 10_000), "pass"),
    ],
)
def test_the_running_stage_alone_must_be_large_enough_to_pass(treatment, control, expected):
    before = a_stage(rate(5000, 50_000), rate(5000, 50_000), percentage=1, running=False)
    stages = [a_stage(treatment, control)] if treatment.sum_sq else [before, a_stage(treatment, control)]
    found = verdict(*stages)
    assert found["verdict"] == expected
    assert ("too few units" in found["reason"]) == (expected == "inconclusive")


def test_harm_of_the_mde_must_be_ruled_out_where_that_is_asked_for():
    guardrail = a_guardrail(pass_when="harm_ruled_out")
    assert verdict(a_stage(rate(100, 1000), rate(100, 1000)))["verdict"] == "pass"
    found = verdict(a_stage(rate(100, 1000), rate(100, 1000)), guardrail=guardrail)
    assert found["verdict"] == "inconclusive"
    assert "harm of treatment is not ruled out: at most" in found["reason"]
    found = verdict(a_stage(rate(2000, 20_000), rate(2000, 20_000)), guardrail=guardrail)
    assert (found["verdict"], found["reason"]) == ("pass", "harm of the mde is ruled out")


def test_the_bound_of_a_pass_is_not_divided_among_comparisons():
    guardrail = a_guardrail(pass_when="harm_ruled_out")
    stage = a_stage(rate(800, 8000), rate(800, 8000))
    bounds = {verdict(stage, guardrail=guardrail, alpha=alpha)["comparisons"][0]["upper"] for alpha in (0.05, 0.001)}
    assert len(bounds) == 1


ADVANCE = {"if_inconclusive": "advance"}


def test_advance_lets_a_rollout_go_on_with_too_few_units():
    found = verdict(a_stage(rate(5, 50), rate(5, 50)), guardrail=a_guardrail(**ADVANCE))
    assert found["verdict"] == "pass"
    assert found["reason"].startswith("if_inconclusive='advance' lets it pass: too few units")


def test_advance_lets_a_rollout_go_on_where_harm_is_not_ruled_out():
    guardrail = a_guardrail(**ADVANCE, pass_when="harm_ruled_out")
    assert verdict(a_stage(rate(100, 1000), rate(100, 1000)), guardrail=guardrail)["verdict"] == "pass"


@pytest.mark.parametrize("against", [{"bake_over": False}, {"alarm": "8:2"}])
def test_advance_counts_neither_before_the_bake_is_over_nor_under_an_alarm(against):
    stage = a_stage(rate(5, 50), rate(5, 50))
    assert verdict(stage, guardrail=a_guardrail(**ADVANCE), **against)["verdict"] == "inconclusive"


def test_advance_never_covers_a_breach_or_missing_data():
    assert verdict(a_stage(*WORSE), guardrail=a_guardrail(**ADVANCE))["verdict"] == "breach"
    with pytest.raises(NoData):
        verdict(a_stage(*ALIKE, as_of=START - timedelta(seconds=1)), guardrail=a_guardrail(**ADVANCE))


def test_nothing_is_known_before_one_window_of_the_stage_has_arrived():
    guardrail = a_guardrail(window="1h")
    with pytest.raises(NoData, match=r"complete up to 2026-11-22 09:59Z.*10 % are there at 2026-11-22 10:00Z"):
        verdict(a_stage(*WORSE, as_of=START + timedelta(minutes=59)), guardrail=guardrail)
    assert verdict(a_stage(*WORSE, as_of=START + timedelta(hours=1)), guardrail=guardrail)["verdict"] == "breach"


def test_at_100_percent_the_stages_before_still_count_and_nothing_else_can():
    guardrail = a_guardrail(design="rollout", window="1h", pass_when="harm_ruled_out")
    found = verdict(a_rollout_stage(*ALIKE, running=False), guardrail=guardrail)
    assert (found["verdict"], found["reason"]) == (
        "pass",
        "no control at 100 %: this stage is watched by thresholds only",
    )
    assert verdict(a_rollout_stage(*WORSE, running=False), guardrail=guardrail)["verdict"] == "breach"
    assert verdict(guardrail=guardrail)["verdict"] == "pass"


def test_without_a_treatment_arm_nothing_passes():
    with pytest.raises(NoData, match="nothing to compare"):
        verdict(a_stage(*ALIKE), weights={"control": 1})


def test_arms_that_were_not_counted_alike_are_no_data():
    with pytest.raises(NoData, match="sum_sq"):
        verdict(a_stage(Arm(2000, 4000, 10_000), Arm(2000, 1000)))


@pytest.mark.parametrize(("hours", "expected"), [(1.9, "no_data"), (2, "pass")])
def test_a_pass_needs_a_source_that_is_complete_beyond_the_middle_of_the_stage(hours, expected):
    as_of = START + timedelta(hours=hours)
    assert verdict(a_stage(*ALIKE, as_of=as_of))["verdict"] == expected
    assert sizes(a_stage(units(500), units(500), as_of=as_of))["verdict"] == expected
    assert verdict(a_stage(*WORSE, as_of=as_of))["verdict"] == "breach"


# --- sample ratio ---


def sizes(*stages, guardrail=None, **circumstances):
    return split(guardrail or a_ratio_guardrail(), stages, given(**circumstances))


def units(n):
    return Arm(n, 0)


@pytest.mark.parametrize(
    ("counts", "log_b", "expected"),
    [
        ((5200, 4800), 6.075818, "inconclusive"),
        ((520, 480), 0.053528, "pass"),
        ((50_000, 50_500), -1.078733, "pass"),
    ],
)
def test_arms_of_the_wrong_size_hold(counts, log_b, expected):
    found = sizes(a_stage(*map(units, counts)))
    assert found["ln_b"] == pytest.approx(log_b, abs=1e-6)
    assert found["verdict"] == expected
    assert ("alarm" in found) == (expected != "pass")


def test_shares_are_the_weights():
    assert sizes(a_stage(units(7500), units(2500)), weights={"control": 1, "treatment": 3})["verdict"] == "pass"
    assert "alarm" in sizes(a_stage(units(5000), units(5000)), weights={"control": 1, "treatment": 3})


def test_counts_of_variants_are_summed_over_stages():
    halves = [a_stage(units(2600), units(2400), running=False), a_stage(units(2600), units(2400))]
    assert sizes(*halves)["ln_b"] == pytest.approx(6.075818, abs=1e-6)


def test_a_rollout_is_judged_stage_by_stage_at_its_own_percentage():
    guardrail = a_ratio_guardrail(design="rollout")
    stages = [
        a_rollout_stage(units(100), units(9900), percentage=1, running=False),
        a_rollout_stage(units(5000), units(5000), percentage=50),
    ]
    assert sizes(*stages, guardrail=guardrail)["verdict"] == "pass"
    found = sizes(a_rollout_stage(units(1130), units(98_870), percentage=1), guardrail=guardrail)
    assert found["ln_b"] == pytest.approx(5.737680, abs=1e-6)
    assert "can be harm itself" not in found["alarm"]


def test_an_alarm_from_the_second_stage_on_says_that_it_can_be_harm():
    stages = [
        a_rollout_stage(units(100), units(9900), percentage=1, running=False),
        a_rollout_stage(units(4700), units(5300), percentage=50),
    ]
    assert "people who do not come back" in sizes(*stages, guardrail=a_ratio_guardrail(design="rollout"))["alarm"]


def test_the_sample_ratio_passes_after_the_bake_and_knows_nothing_at_100_percent():
    assert sizes(a_stage(units(500), units(500)), bake_over=False)["verdict"] == "inconclusive"
    assert sizes(guardrail=a_ratio_guardrail(design="rollout"))["verdict"] == "pass"


def test_an_alarm_does_not_wait_for_the_bake():
    assert "alarm" in sizes(a_stage(units(5200), units(4800)), bake_over=False)


def test_a_unit_where_nobody_can_be_is_all_the_evidence_there_is_and_still_json():
    found = sizes(a_rollout_stage(units(500), units(1), percentage=100), guardrail=a_ratio_guardrail(design="rollout"))
    assert "alarm" in found
    assert "ln B inf" in found["reason"]
    assert json.loads(json.dumps(found, allow_nan=False)) == found


def test_one_arm_is_no_ratio():
    with pytest.raises(NoData, match="there is no ratio"):
        sizes(weights={"on": 1})


def test_the_sample_ratio_needs_numbers_of_this_stage():
    with pytest.raises(NoData, match="complete up to"):
        sizes(a_stage(units(500), units(500), as_of=START - timedelta(seconds=1)))


# --- thresholds ---


def test_a_limit_must_be_passed_in_several_looks_in_a_row():
    guardrail = ThresholdGuardrail("errors", sql=SQL, conn_id="w", above=0.02)
    seen, in_a_row = [], 0
    for value in (0.03, 0.03, 0.02, 0.03, 0.03, 0.03):
        record = limited(guardrail, value, when="now", before=in_a_row)
        in_a_row = record["in_a_row"]
        seen.append(record["verdict"])
    assert seen == ["inconclusive", "inconclusive", "pass", "inconclusive", "inconclusive", "breach"]


def test_a_limit_from_below_and_a_value_right_at_it():
    guardrail = ChartGuardrail("orders", chart_id="abc", series="Orders", below=100, for_looks=1)
    assert limited(guardrail, 100, when="today", before=0)["verdict"] == "pass"
    record = limited(guardrail, 99.5, when="today", before=0)
    assert (record["verdict"], record["reason"]) == ("breach", "99.5 today is below 100, 1 of 1 in a row")


# --- all together ---


def record(name, verdict):
    return unanswered({"name": name, "type": "callable"}, verdict, f"because of {name}")


@pytest.mark.parametrize(
    ("verdicts", "expected", "reason"),
    [
        (["pass", "breach", "no_data", "inconclusive"], "breach", "1: because of 1"),
        (["pass", "no_data", "inconclusive"], "no_data", "1: because of 1"),
        (["inconclusive", "pass"], "inconclusive", "0: because of 0"),
        (["breach", "breach"], "breach", "0: because of 0; 1: because of 1"),
        (["pass", "pass"], "pass", "0: because of 0; 1: because of 1"),
        ([], "pass", "no guardrails"),
    ],
)
def test_the_worst_verdict_decides_and_names_whose_it_is(verdicts, expected, reason):
    assert overall([record(str(place), each) for place, each in enumerate(verdicts)]) == (expected, reason)


# --- what an answer must hold ---


def rows(*arms, as_of=NOW):
    return [(name, n, total, as_of) for name, n, total in arms]


BOTH = ("control", 5000, 500), ("treatment", 5000, 400)


def read(columns=COLUMNS, given=None, **more):
    return answered(columns, rows(*BOTH) if given is None else given, arms=("control", "treatment"), now=NOW, **more)


def test_rows_are_read_by_name_in_any_case_and_order():
    given = [(NOW, "500", Decimal("5000"), "control"), (NOW, 400.0, 5000.0, "treatment")]
    found = read(["AS_OF", "SUM", "N", "Variant"], given)
    assert found == read()
    assert isinstance(found.arms["control"].n, int)


def test_rows_of_arms_that_nobody_asked_for_are_left_aside():
    assert set(read(given=rows(*BOTH, ("off", 9, 9))).arms) == {"control", "treatment"}


@pytest.mark.parametrize(
    ("columns", "given", "says"),
    [
        (COLUMNS, [], "no row"),
        (COLUMNS, rows(BOTH[0]), "no row for the arm 'treatment'; there are 'control'"),
        (COLUMNS, rows(*BOTH, BOTH[0]), "two rows for the arm 'control'"),
        (["variant", "n", "total", "as_of"], rows(*BOTH), "no column sum; it returns variant, n, total, as_of"),
        (COLUMNS[:3], [each[:3] for each in rows(*BOTH)], "no column as_of"),
        (COLUMNS, rows(*BOTH, as_of=None), "as_of is None"),
        (COLUMNS, rows(*BOTH, as_of="yesterday"), "as_of is 'yesterday', which is not an ISO moment"),
        (COLUMNS, rows(*BOTH, as_of=1.8e15), "in seconds since 1970"),
        (COLUMNS, rows(BOTH[0], ("treatment", 5000, None)), "sum is None, which is no number"),
        (COLUMNS, rows(BOTH[0], ("treatment", "many", 1)), "n is 'many', which is no number"),
        (COLUMNS, rows(BOTH[0], ("treatment", 5000, float("nan"))), "which is no finite number"),
        (COLUMNS, rows(BOTH[0], ("treatment", 5000, 6000)), "arm 'treatment': sum is 6000"),
        (COLUMNS, rows(BOTH[0], ("treatment", 0.5, 0)), "arm 'treatment': n is 0.5"),
    ],
)
def test_an_answer_that_can_not_be_judged_says_what_is_missing(columns, given, says):
    with pytest.raises(NoData, match=says):
        read(columns, given)


def test_the_sample_ratio_needs_no_sums():
    given = [("control", 5, NOW), ("treatment", 6, NOW)]
    assert read(["variant", "n", "as_of"], given, needs=("n",)).arms["treatment"].n == 6


def test_the_oldest_row_says_how_far_the_source_is_complete_and_never_the_future():
    old = NOW - timedelta(hours=1)
    assert read(given=[*rows(BOTH[0]), *rows(BOTH[1], as_of=old)]).as_of == old
    assert read(given=rows(*BOTH, as_of=NOW + timedelta(days=1))).as_of == NOW


@pytest.mark.parametrize(
    "given",
    [
        datetime(2026, 11, 22, 13, tzinfo=UTC),
        NOW.replace(tzinfo=None),
        datetime.fromisoformat("2026-11-22T14:00+01:00"),
        "2026-11-22T13:00:00Z",
        " 2026-11-22 13:00:00 ",
        1795352400.0,
        Decimal("1795352400"),
    ],
)
def test_moments_are_read_as_drivers_deliver_them(given):
    assert moment(given, "as_of") == NOW


def test_a_day_is_its_first_moment():
    assert moment(date(2026, 11, 22), "as_of") == datetime(2026, 11, 22, tzinfo=UTC)


def test_a_ratio_metric_is_read_whole():
    columns = ["variant", "n", "sum", "sum_sq", "den_sum", "den_sum_sq", "num_den_sum", "as_of"]
    sums = 1000, 120, 180, 1500, 3200, 210
    found = read(columns, [("control", *sums, NOW), ("treatment", *sums, NOW)]).arms["control"]
    assert found.mean == pytest.approx(0.08)
    assert found.variance == pytest.approx(0.074243132, abs=1e-6)


def test_an_answer_is_remembered_as_it_was():
    found = read()
    assert Answer.from_dict(json.loads(json.dumps(found.as_dict()))) == found


def test_counts_of_a_closed_stage_may_not_fall_by_more_than_a_hundredth():
    before = read()
    refuse_fallen(before, read(given=rows(("control", 4950, 500), BOTH[1])), 10)
    with pytest.raises(NoData, match="closed stage of 10 % has 4949 units in the arm 'control', and had 5000"):
        refuse_fallen(before, read(given=rows(("control", 4949, 500), BOTH[1])), 10)


def test_a_stage_is_final_when_the_last_window_has_arrived():
    closed = a_stage(*ALIKE, running=False, as_of=NOW + timedelta(hours=1))
    assert is_final(closed, timedelta(hours=1))
    assert not is_final(closed, timedelta(hours=1, seconds=1))
    assert not is_final(a_stage(*ALIKE), None)


def test_a_threshold_reads_one_value_and_until_when_it_holds():
    assert single(["VALUE"], [(0.5,)], now=NOW) == (0.5, NOW)
    old = NOW - timedelta(hours=1)
    assert single(["value", "as_of"], [("0.5", old)], now=NOW) == (0.5, old)


@pytest.mark.parametrize(
    ("columns", "given", "says"),
    [
        (["value"], [], "no row"),
        (["rate"], [(1,)], "no column value"),
        (["value"], [(1,), (2,)], "2 rows"),
        (["value"], [(None,)], "value is NULL"),
        (["value"], [("many",)], "no number"),
    ],
)
def test_a_threshold_without_a_value_is_no_data(columns, given, says):
    with pytest.raises(NoData, match=says):
        single(columns, given, now=NOW)
