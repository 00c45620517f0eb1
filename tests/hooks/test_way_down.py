"""A kill and a rollback pass every rule but read_only, and go nowhere but down."""

from __future__ import annotations

from typing import Any

import pytest

from airflow_amplitude_experiment.api import AmplitudeReadOnly, RolloutRefused, experiments, flags

STRICT = {"allow_keys": "search-*", "deny_keys": "*", "max_percentage": 0, "max_step": 1, "require_reason": True}


@pytest.fixture
def flag(emulator: Any) -> str:
    return str(emulator.add_flag("checkout-flag", enabled=True, rollout_percentage=60)["id"])


@pytest.mark.parametrize(
    "fields",
    [{"enabled": False}, {"rollout_percentage": 0}, {"rollout_percentage": 30}, {"enabled": "false"}],
)
@pytest.mark.parametrize("read_before", [True, False])
def test_no_rule_stops_a_way_down(fields: Any, read_before: bool, connect: Any, flag: str, writes: Any) -> None:
    with connect(**STRICT).get_conn(paced=False) as client:
        found = client.send(flags.get(flag)) if read_before else None
        client.send(flags.update(flag, **fields), found=found, way_down=True)
    assert len(writes()) == 1


async def test_no_rule_stops_it_in_async_code(connect: Any, flag: str, writes: Any) -> None:
    async with await connect(**STRICT).get_async_conn(paced=False) as client:
        await client.send(flags.update(flag, enabled=False), way_down=True)
    assert len(writes()) == 1


def test_read_only_stops_it(connect: Any, flag: str, writes: Any, lines: Any) -> None:
    with connect(mode="read_only").get_conn() as client, pytest.raises(AmplitudeReadOnly):
        client.send(flags.update(flag, enabled=False), way_down=True)
    assert writes() == []
    assert "would send flags.update" in lines()[-1]


@pytest.mark.parametrize("fields", [{"enabled": False}, {"rollout_percentage": 0}])
def test_where_nothing_can_be_read_off_and_0_percent_are_sent_all_the_same(
    fields: Any, connect: Any, flag: str, emulator: Any
) -> None:
    emulator.fault("status", method="GET", times=None)
    emulator.clear_requests()
    with connect(**STRICT).get_conn(paced=False) as client:
        client.send(flags.update(flag, **fields), way_down=True)
    assert [each["method"] for each in emulator.requests()] == ["PATCH"]


@pytest.mark.parametrize("enabled", [True, False])
def test_a_way_down_that_goes_up_is_refused(enabled: bool, connect: Any, flag: str, emulator: Any, writes: Any) -> None:
    emulator.change("checkout-flag", enabled=enabled)
    with connect().get_conn() as client:
        found = client.send(flags.get(flag))
        for given in (found, None):
            with pytest.raises(RolloutRefused, match="a way down never goes up, but the rollout would rise from 60 %"):
                client.send(flags.update(flag, rollout_percentage=61), found=given, way_down=True)
    assert writes() == []


def test_a_rollback_may_lower_an_object_that_is_off(connect: Any, flag: str, emulator: Any, writes: Any) -> None:
    emulator.change("checkout-flag", enabled=False)
    with connect(**STRICT).get_conn() as client:
        client.send(flags.update(flag, rollout_percentage=10), way_down=True)
    assert len(writes()) == 1


@pytest.mark.parametrize(
    "call",
    [
        lambda flag: flags.update(flag, enabled=True),
        lambda flag: flags.update(flag, enabled=False, archive=True),
        lambda flag: flags.update(flag, rollout_percentage=0, bucketing_salt="x"),
        lambda flag: flags.delete_variant(flag, "on"),
        lambda flag: experiments.activate(flag),
        lambda flag: flags.add_users(flag, "on", ["u"]),
    ],
)
def test_a_way_down_changes_the_switch_and_the_percentage_and_nothing_else(
    call: Any, connect: Any, flag: str, writes: Any
) -> None:
    with connect().get_conn() as client, pytest.raises(ValueError, match="way_down=True is for switching off"):
        client.send(call(flag), way_down=True)
    assert writes() == []


def test_the_betas_own_call_is_a_way_down_too(connect: Any, emulator: Any, writes: Any) -> None:
    found = emulator.add_experiment("checkout-test", enabled=True, rollout_percentage=60)
    for dialect in ("v1", "beta"):
        with connect(dialect=dialect, **STRICT).get_conn() as client:
            client.send(experiments.deactivate(found["id"]), way_down=True)
    assert len(writes()) == 2


def test_another_project_is_refused_on_the_way_down_too(connect: Any, flag: str, writes: Any) -> None:
    with connect(project_id="999").get_conn() as client:
        found = client.send(flags.get(flag))
        with pytest.raises(RolloutRefused, match="belongs to project 100001, but the connection names project 999"):
            client.send(flags.update(flag, enabled=False), found=found, way_down=True)
    assert writes() == []
