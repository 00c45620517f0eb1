"""The Variable that stops every raise at once: what it stops, what it lets through, and what it does when it is wrong.

The Variable is given by environment, as Airflow allows; it is read anew at every write.
"""

from __future__ import annotations

import asyncio
import json
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.providers.common.compat.sdk import AirflowException
from airflow.sdk.exceptions import ErrorType
from airflow.sdk.execution_time import task_runner
from airflow.sdk.execution_time.comms import ErrorResponse, VariableResult

from airflow_amplitude_experiment.api import RolloutRefused, deployments, experiments, flags, holdouts, mutexes
from airflow_amplitude_experiment.hooks import freeze as freeze_module
from airflow_amplitude_experiment.hooks.freeze import Freeze, frozen

NAME = "AIRFLOW_VAR_AMPLITUDE_EXPERIMENT_FREEZE"
SEGMENT = {
    "name": "s",
    "conditions": [{"type": "property", "prop": "a", "op": "is", "values": ["b"]}],
    "percentage": 50,
}


@pytest.fixture
def freeze(monkeypatch):
    """Set the Variable."""

    def set_to(*globs, text=None):
        monkeypatch.setenv(NAME, text if text is not None else json.dumps(globs))

    return set_to


@pytest.fixture
def ask_the_supervisor(monkeypatch):
    """Be a task: Airflow's supervisor answers this, or raises it."""

    def answer_with(answer):
        def send(message):
            if isinstance(answer, Exception):
                raise answer
            return answer

        monkeypatch.setattr(task_runner, "SUPERVISOR_COMMS", SimpleNamespace(send=send), raising=False)

    return answer_with


def refused(hook, call, **options: Any) -> str:
    with hook.get_conn() as client, pytest.raises(RolloutRefused, match=r"amplitude_experiment_freeze") as error:
        client.send(call, **options)
    return str(error.value)


# --- the value ---------------------------------------------------------------------------------------------


def test_without_the_variable_nothing_is_frozen():
    assert frozen("checkout-flag") is None


@pytest.mark.parametrize(
    ("globs", "glob"),
    [
        (["*"], "*"),
        (["billing-*", "checkout-*"], "checkout-*"),
        (["checkout-flag"], "checkout-flag"),
        ([" checkout-flag "], "checkout-flag"),
        (["billing-*"], None),
        (["Checkout-*"], None),
        ([], None),
    ],
)
def test_a_key_is_frozen_by_the_glob_that_matches(freeze, globs, glob):
    freeze(*globs)
    assert frozen("checkout-flag") == glob


def test_an_object_without_a_key_could_be_any(freeze):
    freeze("billing-*")
    assert frozen(None) == "billing-*"


@pytest.mark.parametrize(
    "text", ["*", "checkout-*", '"*"', '{"*": true}', "[1]", '["a", null]', '[""]', "true", "", "["]
)
def test_a_value_that_is_no_list_of_globs_freezes_everything_and_says_what_is_wrong(freeze, text):
    freeze(text=text)
    assert "is not a JSON list of globs of keys" in frozen("checkout-flag")


def test_a_change_of_the_variable_counts_at_once(freeze):
    freeze("*")
    assert frozen("checkout-flag")
    freeze()
    assert frozen("checkout-flag") is None


# --- a Variable that can't be read -------------------------------------------------------------------------


def test_a_variable_that_is_not_there_is_no_freeze_in_a_task_either(ask_the_supervisor):
    ask_the_supervisor(ErrorResponse(error=ErrorType.VARIABLE_NOT_FOUND))
    assert frozen("checkout-flag") is None


def test_a_variable_of_airflows_database_is_read_in_a_task(ask_the_supervisor):
    ask_the_supervisor(VariableResult(key="amplitude_experiment_freeze", value='["checkout-*"]'))
    assert frozen("checkout-flag") == "checkout-*"


@pytest.mark.parametrize("answer", [ErrorResponse(error=ErrorType.API_SERVER_ERROR), OSError("gone")])
def test_a_variable_that_can_not_be_read_lets_a_task_try_again(ask_the_supervisor, answer):
    """Airflow itself takes this for a Variable that is not there."""
    ask_the_supervisor(answer)
    with pytest.raises(AirflowException, match="can't be read, so nothing goes up now"):
        frozen("checkout-flag")


@pytest.mark.parametrize("answer", [ErrorResponse(error=ErrorType.API_SERVER_ERROR), OSError("gone")])
def test_while_it_can_not_be_read_nothing_goes_up_and_everything_goes_down(
    connect, shop, writes, ask_the_supervisor, answer
):
    ask_the_supervisor(answer)
    with connect().get_conn() as client:
        with pytest.raises(AirflowException, match="can't be read"):
            client.send(flags.update(shop.flag, rollout_percentage=11))
        assert writes() == []
        client.send(flags.update(shop.flag, rollout_percentage=9))
        client.send(flags.update(shop.flag, name="n"))
        client.send(flags.update(shop.flag, enabled=False), way_down=True)
    assert len(writes()) == 3


# --- what is stopped ---------------------------------------------------------------------------------------


def raises(shop):
    """Calls that give more people something, by what they do."""
    return {
        "a higher percentage": flags.update(shop.flag, rollout_percentage=11),
        "an experiment's percentage": experiments.update(shop.experiment, rollout_percentage=11),
        "a segment": flags.update(shop.flag, target_segments=[{**SEGMENT, "rolloutWeights": {"on": 1}}]),
        "a decision": experiments.update(shop.experiment, decision="rollout"),
        "a variant's weight": experiments.update_variant(shop.experiment, "treatment", rollout_weight=9),
        "included people": flags.add_users(shop.flag, "on", ["u2"]),
        "included cohorts": flags.add_cohorts(shop.flag, "on", ["c2"]),
        "a deployment": flags.add_deployments(shop.flag, [shop.deployment]),
        "a mutex slot": mutexes.update_slot(shop.mutex, 1, experiments=[]),
        "a smaller holdout": holdouts.update(shop.holdout, experiments=[]),
        "a new flag's segment": flags.create(
            project_id=shop.project, key="new", target_segments=[{**SEGMENT, "rolloutWeights": {"on": 1}}]
        ),
    }


@pytest.mark.parametrize(
    "what",
    raises(SimpleNamespace(**dict.fromkeys(("flag", "experiment", "mutex", "holdout", "deployment", "project"), "1"))),
)
def test_a_freeze_stops(connect, shop, writes, freeze, what):
    freeze("*")
    assert "Nothing was sent" in refused(connect(), raises(shop)[what])
    assert writes() == []


def test_a_freeze_stops_a_switch_on_even_at_0_percent_because_included_users_would_get_it(
    connect, shop, emulator, freeze
):
    off = emulator.add_flag("checkout-off", enabled=False, rollout_percentage=0)
    freeze("checkout-*")
    assert "would be switched on" in refused(connect(), flags.update(off["id"], enabled=True))


def test_a_freeze_stops_restoring_an_archived_deployment_that_serves_a_frozen_flag(connect, shop, emulator, freeze):
    with connect().get_conn() as client:
        client.send(deployments.update(shop.attached, archive=True))
    freeze("checkout-flag")
    assert "checkout-flag" in refused(connect(), deployments.update(shop.attached, archive=False))


def test_a_freeze_stops_async_writes_too(connect, shop, writes, freeze):
    freeze("checkout-*")

    async def send() -> None:
        async with await connect().get_async_conn() as client:
            await client.send(flags.update(shop.flag, rollout_percentage=11))

    with pytest.raises(RolloutRefused, match="amplitude_experiment_freeze"):
        asyncio.run(send())
    assert writes() == []


def test_the_refusal_names_the_variable_the_glob_the_rise_and_the_way_out(connect, shop, freeze):
    freeze("checkout-*")
    text = refused(connect(), flags.update(shop.flag, rollout_percentage=11))
    for part in ("checkout-flag", "(checkout-*)", "would rise from 10 % to 11 %", "take it out of the Variable"):
        assert part in text


# --- what goes on ------------------------------------------------------------------------------------------


def test_a_freeze_stops_only_what_it_names(connect, shop, writes, freeze):
    freeze("billing-*")
    with connect().get_conn() as client:
        client.send(flags.update(shop.flag, rollout_percentage=11))
    assert len(writes()) == 1


@pytest.mark.parametrize(
    "fields",
    [{"rollout_percentage": 9}, {"rollout_percentage": 0}, {"enabled": False}, {"name": "n"}, {"archive": True}],
)
def test_going_down_and_what_moves_nobody_goes_on(connect, shop, writes, freeze, fields):
    freeze("*")
    with connect().get_conn() as client:
        client.send(flags.update(shop.flag, **fields))
    assert len(writes()) == 1


def test_taking_people_out_goes_on(connect, shop, writes, freeze):
    freeze("*")
    with connect().get_conn() as client:
        client.send(flags.remove_users(shop.flag, "on", ["u1"]))
        client.send(flags.remove_all_users(shop.flag, "on"))
        client.send(flags.remove_cohorts(shop.flag, "on", ["c1"]))
        client.send(flags.remove_deployment(shop.flag, shop.attached))
    assert len(writes()) == 4


@pytest.fixture
def asked(monkeypatch):
    """How often the Variable was read."""
    times = []
    monkeypatch.setattr(freeze_module, "_value", lambda: times.append(1))
    return times


def test_a_way_down_does_not_even_ask(connect, shop, writes, asked):
    with connect().get_conn() as client:
        client.send(flags.update(shop.flag, rollout_percentage=5), way_down=True)
        client.send(flags.update(shop.flag, enabled=False), way_down=True)
    assert len(writes()) == 2
    assert asked == []


def test_reading_does_not_ask(connect, shop, asked):
    with connect().get_conn() as client:
        client.send(flags.get(shop.flag))
    assert asked == []


def test_a_write_asks_once_and_costs_no_request_more(connect, shop, emulator, asked):
    emulator.clear_requests()
    with connect().get_conn() as client:
        found = client.send(flags.get(shop.flag))
        client.send(flags.update(shop.flag, rollout_percentage=11), found=found)
    assert asked == [1]
    assert [each["method"] for each in emulator.requests()] == ["GET", "PATCH"]


def test_what_would_rise_is_not_computed_where_nothing_matches():
    def rises():
        raise AssertionError("looked at")
        yield

    Freeze(("billing-*",)).check_rises("checkout-flag", rises(), "flags.update")


# --- people who are named one by one -----------------------------------------------------------------------


def test_included_people_are_no_percentage_and_pass_the_limits_on_percentages(connect, shop, writes):
    with connect(max_percentage=50, max_step=10).get_conn() as client:
        client.send(flags.add_users(shop.flag, "on", ["tester"]))
    assert len(writes()) == 1


# --- the log of a way down ---------------------------------------------------------------------------------


def test_a_way_down_that_is_repeated_is_told_once(connect, shop, lines):
    with connect().get_conn() as client:
        for _ in range(3):
            client.send(flags.update(shop.flag, enabled=False), way_down=True)
        client.send(flags.update(shop.flag, rollout_percentage=0), way_down=True)
    assert len([line for line in lines() if line.startswith("Sending")]) == 2


def test_any_other_write_is_told_each_time(connect, shop, lines):
    with connect().get_conn() as client:
        for _ in range(2):
            client.send(flags.update(shop.flag, name="n"))
    assert len([line for line in lines() if line.startswith("Sending")]) == 2
