"""Every rule holds for every call that writes, whatever sends it."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from airflow_amplitude_experiment.api import AmplitudeReadOnly, Call, RolloutRefused
from airflow_amplitude_experiment.api._call import ENDPOINTS, find_endpoint
from airflow_amplitude_experiment.hooks import AmplitudeExperimentHook

find_endpoint("flags.get")  # its import fills the table
WRITING = sorted(name for name, each in ENDPOINTS.items() if each.method != "GET")


def arguments_of(name: str, shop: SimpleNamespace) -> dict[str, Any]:
    """Arguments with which a call succeeds, by endpoint."""
    kind, function = name.split(".")
    ids = {"flags": shop.flag, "experiments": shop.experiment, "mutexes": shop.mutex, "holdouts": shop.holdout}
    one = {"id": ids.get(kind, shop.deployment)}
    variant = {**one, "variant_key": "on" if kind == "flags" else "treatment"}
    if function == "create":
        return {
            "flags": {"project_id": shop.project, "key": "checkout-new"},
            "experiments": {"project_id": shop.project, "key": "checkout-new"},
            "mutexes": {"project_id": shop.project, "name": "m", "key": "checkout-new", "slots": [{"percentage": 100}]},
            "holdouts": {"project_id": shop.project, "name": "h", "key": "checkout-new", "holdout_percentage": 5},
            "deployments": {"project_id": shop.project, "label": "checkout-web", "type": "server"},
        }[kind]
    return {
        "update": {**one, "label": "checkout-web"} if kind == "deployments" else {**one, "name": "New name"},
        "update_slot": {**one, "slot_index": 1, "individuals": ["u9"]},
        "activate": one,
        "deactivate": one,
        "set_rollout_weights": {**one, "rollout_weights": {"control": 1, "treatment": 1}},
        "create_variant": {**one, "key": "more", "rollout_weight": 0},
        "update_variant": {**variant, "description": "d"},
        "delete_variant": variant,
        "add_users": {**variant, "ids": ["u2"]},
        "remove_users": {**variant, "ids": ["u1"]},
        "remove_user_at": {**variant, "user_index": 0},
        "remove_all_users": variant,
        "add_cohorts": {**variant, "ids": ["c2"]},
        "remove_cohorts": {**variant, "ids": ["c1"]},
        "add_deployments": {**one, "ids": [shop.deployment]},
        "remove_deployment": {**one, "deployment_id": shop.attached},
    }[function]


def dialect_of(name: str) -> str:
    return "beta" if ENDPOINTS[name].v1_advice else "v1"


def test_there_is_a_case_for_every_endpoint_that_writes() -> None:
    assert len(WRITING) == 36


@pytest.mark.parametrize("name", WRITING)
def test_without_rules_every_call_goes_through(name: str, connect: Any, shop: Any, writes: Any, lines: Any) -> None:
    call: Call[Any] = Call(name, arguments_of(name, shop))
    connect(dialect=dialect_of(name)).send(call)
    assert len(writes()) == 1
    assert len([line for line in lines() if line.startswith(f"Sending {name}(")]) == 1


RULES: dict[str, dict[str, Any]] = {
    "read_only": {"mode": "read_only"},
    "allow_keys": {"allow_keys": "search-*"},
    "deny_keys": {"deny_keys": "*"},
    "require_reason": {"require_reason": True},
    "project": {"project_id": "100009"},
}


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("name", WRITING)
def test_every_rule_stops_every_call(name: str, rule: str, connect: Any, shop: Any, writes: Any) -> None:
    call: Call[Any] = Call(name, arguments_of(name, shop))
    with pytest.raises(RolloutRefused, match=rule.replace("read_only", "read-only")):
        connect(dialect=dialect_of(name), **RULES[rule]).send(call)
    assert writes() == []


def by_hook(hook: AmplitudeExperimentHook, call: Call[Any]) -> None:
    hook.send(call)


def by_hook_later(hook: AmplitudeExperimentHook, call: Call[Any]) -> None:
    asyncio.run(hook.asend(call))


def by_client(hook: AmplitudeExperimentHook, call: Call[Any]) -> None:
    with hook.get_conn() as client:
        client.send(call)


def by_async_client(hook: AmplitudeExperimentHook, call: Call[Any]) -> None:
    async def send() -> None:
        async with await hook.get_async_conn() as client:
            await client.send(call)

    asyncio.run(send())


@pytest.mark.parametrize("sender", [by_hook, by_hook_later, by_client, by_async_client])
@pytest.mark.parametrize("name", WRITING)
def test_a_rule_stops_a_call_whatever_sends_it(name: str, sender: Any, connect: Any, shop: Any, writes: Any) -> None:
    call: Call[Any] = Call(name, arguments_of(name, shop))
    with pytest.raises(RolloutRefused, match="deny_keys"):
        sender(connect(dialect=dialect_of(name), deny_keys="*"), call)
    assert writes() == []


@pytest.mark.parametrize("sender", [by_hook, by_hook_later, by_client, by_async_client])
@pytest.mark.parametrize("name", WRITING)
def test_read_only_logs_what_it_would_send(
    name: str, sender: Any, connect: Any, shop: Any, writes: Any, lines: Any
) -> None:
    call: Call[Any] = Call(name, arguments_of(name, shop))
    with pytest.raises(AmplitudeReadOnly, match="Nothing was sent"):
        sender(connect(dialect=dialect_of(name), mode="read_only"), call)
    assert [line for line in lines() if f"would send {name}(" in line]
    assert writes() == []


@pytest.mark.parametrize("name", ["flags.update", "experiments.create", "mutexes.update_slot"])
def test_with_a_reason_the_call_goes_through(name: str, connect: Any, shop: Any, writes: Any, lines: Any) -> None:
    connect(require_reason="true").send(Call(name, arguments_of(name, shop)), reason="launch")
    assert len(writes()) == 1
    assert lines()[-1].endswith("reason: launch")


@pytest.mark.parametrize("reason", [None, "", "  \n"])
def test_an_empty_reason_is_none(reason: str | None, connect: Any, shop: Any) -> None:
    with pytest.raises(RolloutRefused, match="require_reason"):
        connect(require_reason=True).send(Call("flags.update", arguments_of("flags.update", shop)), reason=reason)


@pytest.mark.parametrize(
    ("rules", "goes"),
    [
        ({"allow_keys": "checkout-*"}, True),
        ({"allow_keys": ["search-*", "checkout-flag"]}, True),
        ({"allow_keys": '["checkout-?lag"]'}, True),
        ({"allow_keys": "search-*\ncheckout-*"}, True),
        ({"allow_keys": "Checkout-*"}, False),
        ({"allow_keys": "checkout"}, False),
        ({"deny_keys": "billing-*"}, True),
        ({"deny_keys": "*-flag"}, False),
        ({"allow_keys": "checkout-*", "deny_keys": "checkout-flag"}, False),
    ],
)
def test_keys_are_matched_as_globs_and_a_denial_wins(
    rules: dict[str, Any], goes: bool, connect: Any, shop: Any, writes: Any
) -> None:
    call: Call[Any] = Call("flags.update", {"id": shop.flag, "name": "New name"})
    if goes:
        connect(**rules).send(call)
    else:
        with pytest.raises(RolloutRefused, match="_keys: 'checkout-flag'"):
            connect(**rules).send(call)
    assert len(writes()) == goes


def test_an_error_of_a_rule_says_what_and_why_and_what_to_do(connect: Any, shop: Any) -> None:
    with pytest.raises(RolloutRefused) as refused:
        connect(max_step=25).send(Call("flags.update", {"id": shop.flag, "rollout_percentage": 60}))
    text = str(refused.value)
    assert text.startswith("flags.update checkout-flag (id ")
    assert "rule max_step: the rollout would rise from 10 % to 60 %, more than 25 points. Nothing was sent." in text
    assert "extra of the Airflow connection" in text


def test_the_object_as_just_read_spares_a_request(connect: Any, shop: Any, emulator: Any) -> None:
    with connect(max_step=25).get_conn() as client:
        found = client.send(Call("flags.get", {"id": shop.flag}))
        emulator.clear_requests()
        client.send(Call("flags.update", {"id": shop.flag, "rollout_percentage": 20}), found=found)
    assert [each["method"] for each in emulator.requests()] == ["PATCH"]


def test_another_object_can_not_stand_in_for_the_one_that_is_changed(connect: Any, shop: Any, writes: Any) -> None:
    with connect(allow_keys="checkout-*").get_conn() as client:
        allowed = client.send(Call("experiments.get", {"id": shop.experiment}))
        with pytest.raises(ValueError, match=f"with the id {shop.experiment}, but the call changes {shop.other}"):
            client.send(Call("experiments.update", {"id": shop.other, "rollout_percentage": 20}), found=allowed)
    assert writes() == []


def test_the_rules_can_not_be_taken_off_a_client(connect: Any) -> None:
    with connect(mode="read_only").get_conn() as client, pytest.raises(AttributeError):
        client.rules = None
