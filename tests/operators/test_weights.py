"""Setting weights against the emulator over real HTTP: what is sent, what is refused, how many people it moves."""

from __future__ import annotations

import json
import logging

import pytest
from airflow.providers.common.compat.sdk import AirflowFailException, AirflowSkipException
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from airflow_amplitude_experiment.operators import AmplitudeSetVariantWeightsOperator, _edit
from tests.builders import a_context, a_segment, connect
from tests.watched import Killed, dying

KEY = "search-ranking"
EVEN = {"control": 1, "treatment": 1}
WANTED = {"control": 3, "treatment": 7}
PAUSED = {"enabled": True, "rolloutPercentage": 0}
LIVE = {"enabled": True, "rolloutPercentage": 25}
BANDIT = {"experimentType": "multi-arm-bandit"}


@pytest.fixture
def amplitude(amplitude_emulator, monkeypatch):
    """The emulator with an experiment that was never enabled, 1:1, and a connection to it."""
    monkeypatch.setattr(_edit, "SECONDS_BEFORE_ANOTHER_LOOK", 0.0)
    monkeypatch.setattr("airflow_amplitude_experiment.api._retry._wait", lambda _: 0.0)
    # Airflow 3.3 writes a task's log past ``logging``, where ``caplog`` doesn't see it.
    monkeypatch.setattr(AmplitudeSetVariantWeightsOperator, "log", logging.getLogger("tests.weights"))
    connect(monkeypatch, amplitude_emulator)
    variants = [{"key": "control"}, {"key": "treatment"}]
    amplitude_emulator.add_experiment(KEY, variants=variants, rolloutWeights=EVEN)
    amplitude_emulator.clear_requests()
    return amplitude_emulator


def set_weights(weights, context=None, **options):
    operator = AmplitudeSetVariantWeightsOperator(task_id="split", experiment_key=KEY, weights=weights, **options)
    return operator.execute(context or a_context())


def stands(emulator):
    return emulator.experiment(KEY)["rolloutWeights"]


def sent(emulator):
    return [request["method"] for request in emulator.requests()]


def patches(emulator):
    return [(request["path"].rpartition("/")[2], request["body"]) for request in emulator.requests() if request["body"]]


def test_weights_are_set_one_variant_at_a_time_and_read_back(amplitude, caplog):
    with caplog.at_level(logging.INFO):
        record = set_weights(WANTED)
    assert stands(amplitude) == WANTED
    # the list, the versions, what rises first, the variants
    assert sent(amplitude) == ["GET", "GET", "PATCH", "PATCH", "GET"]
    assert patches(amplitude) == [("treatment", {"rolloutWeight": 7}), ("control", {"rolloutWeight": 3})]
    assert (record["weights_before"], record["weights"], record["written"]) == (EVEN, WANTED, True)
    assert (record["moved"], record["segments_apart"], record["reshuffle"]) == (0.2, [], None)
    assert json.loads(json.dumps(record)) == record
    line = f"experiment {KEY}: weights control 1, treatment 1 -> control 3, treatment 7; nobody was ever served"
    assert line in caplog.text


def test_weights_that_stand_cost_one_read(amplitude, caplog):
    amplitude.change(KEY, **LIVE)
    amplitude.clear_requests()
    with caplog.at_level(logging.INFO):
        record = set_weights({"treatment": 50, "control": 50})  # the same proportion
    assert sent(amplitude) == ["GET"]
    assert (record["written"], record["moved"]) == (False, 0)
    assert "weights stand as asked (control 1, treatment 1), nothing to do" in caplog.text


def test_only_what_differs_is_sent(amplitude):
    set_weights({"control": 1, "treatment": 3})
    assert patches(amplitude) == [("treatment", {"rolloutWeight": 3})]


@pytest.mark.parametrize("there", [{"enabled": False}, {}], ids=["disabled", "at 0 %"])
def test_an_object_ever_served_needs_a_word_and_nobody_to_notice(amplitude, caplog, there):
    amplitude.change(KEY, **PAUSED)
    amplitude.change(KEY, **there)
    with pytest.raises(AirflowFailException, match=r"was enabled before: 10 % of the allocated users.*reshuffle=…"):
        set_weights({"control": 3, "treatment": 2})
    assert not patches(amplitude)
    with caplog.at_level(logging.INFO):
        record = set_weights({"control": 3, "treatment": 2}, reshuffle="treatment costs too much")
    assert "of the allocated users, 10 % get another variant" in caplog.text
    assert (record["moved"], record["reshuffle"]) == (0.1, "treatment costs too much")
    assert stands(amplitude) == {"control": 3, "treatment": 2}


def test_an_object_that_serves_people_is_refused_whatever_is_said(amplitude):
    amplitude.change(KEY, **LIVE)
    with pytest.raises(AirflowFailException, match=r"is enabled at 25 %: 20 % of the allocated users.*0 % first"):
        set_weights(WANTED, reshuffle="I insist")
    assert not patches(amplitude)


def test_a_running_bandit_is_refused_whatever_is_said(amplitude):
    amplitude.change(KEY, **BANDIT, **PAUSED)
    with pytest.raises(AirflowFailException, match="is a running bandit"):
        set_weights(WANTED, reshuffle="I insist")
    assert not patches(amplitude)
    amplitude.change(KEY, enabled=False)
    assert set_weights(WANTED, reshuffle="it is over")["written"] is True


def test_segments_keep_their_weights_and_are_named(amplitude, caplog):
    segments = [a_segment("QA", 100, rolloutWeights={"treatment": 1}), a_segment("Alike", rolloutWeights=WANTED)]
    amplitude.change(KEY, **PAUSED, targetSegments=segments)
    record = set_weights(WANTED, reshuffle="told")
    assert record["segments_apart"] == ["QA"]
    assert "target segments 'QA' keep weights of their own" in caplog.text
    assert amplitude.experiment(KEY)["targetSegments"] == segments


def test_that_sticky_users_stay_is_told(amplitude, caplog):
    amplitude.change(KEY, **PAUSED, stickyBucketing=True)
    set_weights(WANTED, reshuffle="told")
    assert "users who have a variant keep it" in caplog.text


@pytest.mark.parametrize(
    ("weights", "says"),
    [
        ({"control": 1, "treatment": 1, "third": 1}, "has no variant 'third'; there are: control, treatment"),
        ({"control": 1}, "the variants control, treatment, and 'treatment' is given no weight"),
    ],
)
def test_all_variants_are_named_and_no_others(amplitude, weights, says):
    with pytest.raises(AirflowFailException, match=says):
        set_weights(weights)
    assert not patches(amplitude)


@pytest.mark.parametrize(
    ("weights", "says"),
    [
        ({"control": 0, "treatment": 0}, "nobody would get any variant"),
        ({"control": -1, "treatment": 1}, "0 or more"),
        ({"control": 0.5, "treatment": 0.5}, "whole"),
        ([1, 1], "weights is"),
    ],
)
def test_what_is_known_to_be_wrong_is_told_while_the_dag_is_parsed(weights, says):
    with pytest.raises(ValueError, match=says):
        AmplitudeSetVariantWeightsOperator(task_id="split", experiment_key=KEY, weights=weights)


@pytest.mark.parametrize(("rendered", "says"), [("", "weights is empty"), ("1:1", "tojson"), ('{"a": 0}', "nobody")])
def test_what_only_rendering_shows_to_be_wrong_ends_the_task_before_any_request(amplitude, rendered, says):
    operator = AmplitudeSetVariantWeightsOperator(task_id="split", experiment_key=KEY, weights="{{ params.weights }}")
    operator.weights = rendered
    with pytest.raises(AirflowFailException, match=says):
        operator.execute(a_context())
    assert sent(amplitude) == []


def test_weights_are_templated(amplitude):
    options = {"weights": "{{ params.weights | tojson }}", "experiment_key": "{{ params.key }}"}
    operator = AmplitudeSetVariantWeightsOperator(task_id="split", **options)
    operator.render_template_fields({"params": {"weights": WANTED, "key": KEY}, "ti": None})
    assert operator.execute(a_context())["weights"] == WANTED
    each = AmplitudeSetVariantWeightsOperator(
        task_id="each", experiment_key=KEY, weights={"control": "{{ params.n }}", "treatment": 1}
    )
    each.render_template_fields({"params": {"n": 4}, "ti": None})
    assert each.execute(a_context())["weights"] == {"control": 4, "treatment": 1}


def test_an_archived_object_is_refused(amplitude):
    object_id = amplitude.experiment(KEY)["id"]
    amplitude.change(KEY, archive=True)
    operator = AmplitudeSetVariantWeightsOperator(task_id="split", experiment_id=object_id, weights=WANTED)
    with pytest.raises(AirflowFailException, match="is archived"):
        operator.execute(a_context())


def test_the_weights_of_a_flag_are_set_likewise(amplitude):
    amplitude.add_flag("color", variants=[{"key": "red"}, {"key": "blue"}])
    operator = AmplitudeSetVariantWeightsOperator(task_id="split", flag_key="color", weights={"red": 1, "blue": 4})
    assert operator.execute(a_context())["written"] is True
    assert amplitude.flag("color")["rolloutWeights"] == {"red": 1, "blue": 4}


def test_where_weights_are_not_shown_the_variants_are_read(amplitude, monkeypatch):
    hidden = {"rollout_weights": None}
    reading = AmplitudeSetVariantWeightsOperator.reading

    def sparse(self, client):
        return (yield from reading(self, client)).model_copy(update=hidden)

    monkeypatch.setattr(AmplitudeSetVariantWeightsOperator, "reading", sparse)
    assert set_weights(EVEN)["written"] is False
    assert [request["path"].rpartition("/")[2] for request in amplitude.requests()] == ["experiments", "variants"]


def test_the_beta_takes_all_weights_of_an_experiment_at_once(amplitude, monkeypatch):
    connect(monkeypatch, amplitude, dialect="beta")
    set_weights(WANTED)
    assert patches(amplitude) == [("rollout-weights", {"rolloutWeights": WANTED})]
    assert stands(amplitude) == WANTED
    amplitude.add_flag("color", variants=[{"key": "red"}, {"key": "blue"}])
    operator = AmplitudeSetVariantWeightsOperator(task_id="split", flag_key="color", weights={"red": 1, "blue": 4})
    assert operator.execute(a_context())["written"] is True


@pytest.mark.parametrize("fault", ["cut_before", "cut_after", "truncated"])
@pytest.mark.parametrize("skip", [0, 1])
def test_a_write_whose_answer_was_lost_is_read_again(amplitude, fault, skip):
    amplitude.fault(fault, method="PATCH", skip=skip)
    record = set_weights(WANTED)
    assert stands(amplitude) == WANTED
    assert len(patches(amplitude)) == (3 if fault == "cut_before" else 2)
    assert (record["written"], record["weights_before"]) == (True, EVEN)


def test_a_write_without_effect_is_told(amplitude):
    amplitude.change(KEY, **PAUSED)
    amplitude.options(approvals="pending")
    with pytest.raises(AirflowFailException, match=r"AmplitudeNotConfirmed: .*given control 3, treatment 7, there"):
        set_weights(WANTED, reshuffle="told")


def test_a_read_only_connection_decides_and_sends_nothing(amplitude, monkeypatch, caplog):
    connect(monkeypatch, amplitude, mode="read_only")
    with caplog.at_level(logging.INFO):
        record = set_weights(WANTED)
    assert (record["written"], record["weights"], record["moved"]) == (False, WANTED, 0.2)
    assert "weights would go control 1, treatment 1 -> control 3, treatment 7" in caplog.text
    assert not patches(amplitude)


def test_a_backfill_writes_nothing_and_asks_nothing(amplitude):
    with pytest.raises(AirflowSkipException, match="backfill"):
        set_weights(WANTED, a_context(run_type="backfill"))
    assert sent(amplitude) == []


SOME = st.dictionaries(st.sampled_from(["a", "b", "c"]), st.integers(0, 4), min_size=3, max_size=3)
WEIGHTS = SOME.filter(lambda weights: any(weights.values()))


@given(there=WEIGHTS, wanted=WEIGHTS, step=st.integers(1, 7), when=st.sampled_from(["before", "after"]))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_wherever_a_task_died_a_second_run_ends_at_the_wanted_weights(
    amplitude, monkeypatch, there, wanted, step, when
):
    amplitude.reset()
    variants = [{"key": key} for key in there]
    amplitude.add_experiment(KEY, variants=variants, rolloutWeights=there, **PAUSED)
    with dying(monkeypatch, step, when):
        try:
            set_weights(wanted, reshuffle="a test")
        except Killed:
            assert any(stands(amplitude).values())  # some variant has a weight at any moment
    set_weights(wanted, a_context(try_number=2), reshuffle="a test")
    total, sum_wanted = sum(stands(amplitude).values()), sum(wanted.values())
    assert {key: weight / total for key, weight in stands(amplitude).items()} == pytest.approx(
        {key: weight / sum_wanted for key, weight in wanted.items()}
    )
    amplitude.clear_requests()
    assert set_weights(wanted, reshuffle="a test")["written"] is False
    assert sent(amplitude) == ["GET"]
