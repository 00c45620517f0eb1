"""The key is nowhere, and people are in no log above DEBUG (law 8)."""

from __future__ import annotations

import logging
import traceback
from typing import Any

import pytest

from airflow_amplitude_experiment.api import (
    AmplitudeError,
    Call,
    RolloutRefused,
    experiments,
    flags,
    holdouts,
    mutexes,
)

KEY = "mgmt-0123456789-abcdefghij-SECRET"
PERSON = "jane.doe@example.com"


@pytest.fixture
def hook(emulator: Any, given: Any) -> Any:
    emulator.seed({"keys": [{"key": KEY, "projects": [emulator.project_id]}]})

    def make(key: str = KEY, **extra: Any) -> Any:
        return given(password=key, host=emulator.url, extra={"requests_per_second": 10_000, **extra})

    return make


def test_the_key_is_in_no_repr(hook: Any) -> None:
    with hook().get_conn() as client:
        for each in (hook(), client, client.rules, client.__dict__, client._pace):
            assert KEY not in f"{each!r} {each}"
        assert KEY not in repr(vars(hook()))


async def test_the_key_is_in_no_repr_of_the_async_client(hook: Any) -> None:
    async with await hook().get_async_conn() as client:
        assert KEY not in f"{client!r} {client.__dict__!r}"


@pytest.mark.parametrize(
    "fault",
    [
        {"kind": "status", "status": 401, "body": f"unknown key {KEY}"},
        {"kind": "status", "status": 400, "body": f"Bearer {KEY}"},
        {"kind": "redirect", "location": f"https://x/?key={KEY}"},
        {"kind": "html"},
    ],
)
def test_the_key_is_in_no_error_and_no_traceback(fault: Any, hook: Any, emulator: Any) -> None:
    emulator.fault(**fault, times=None)
    with pytest.raises(AmplitudeError) as error:
        hook().send(flags.list())
    assert KEY not in "".join(traceback.format_exception(error.value))
    assert KEY not in str(error.value.as_dict())


@pytest.mark.parametrize("extra", [{"mode": KEY}, {"max_step": 1000}, {"region": "mars"}])
def test_an_error_about_the_connection_does_not_show_its_key(extra: Any, hook: Any) -> None:
    with pytest.raises(ValueError, match="Connection 'amplitude'") as error:
        hook(**{**extra, "mode": extra.get("mode") and "nonsense"}).get_conn()
    assert KEY not in "".join(traceback.format_exception(error.value))


def test_airflow_masks_the_key_in_logs_also_where_it_was_pasted_with_white_space(hook: Any) -> None:
    from airflow.sdk._shared.secrets_masker import redact

    for key, pasted in ((KEY, KEY), ("another-key-9876543210", " another-key-9876543210\n")):
        hook(pasted).get_conn().close()
        assert redact(f"Authorization: Bearer {key}") == "Authorization: Bearer ***"


def test_a_hook_keeps_neither_the_connection_nor_the_client(hook: Any) -> None:
    used = hook()
    before = set(vars(used))
    used.get_conn().close()
    assert set(vars(used)) == before


def every_line(caplog: pytest.LogCaptureFixture) -> str:
    return "\n".join(f"{each.getMessage()} {each.args}" for each in caplog.records if each.levelno > logging.DEBUG)


CALLS: dict[str, Any] = {
    "users": lambda shop: flags.add_users(shop.flag, "on", [PERSON]),
    "one user": lambda shop: flags.remove_users(shop.flag, "on", ["u1"]),
    "payload": lambda shop: flags.update_variant(shop.flag, "on", payload=PERSON),
    "payload with fields": lambda shop: flags.update_variant(shop.flag, "on", payload={"who": {"mail": PERSON}}),
    "new variant": lambda shop: flags.create_variant(shop.flag, key="new", rollout_weight=0, payload={"a": PERSON}),
    "slot": lambda shop: mutexes.update_slot(shop.mutex, 1, individuals=[PERSON]),
    "held out": lambda shop: holdouts.update(shop.holdout, individual_inclusion=[PERSON]),
    "slots": lambda shop: mutexes.create(
        project_id=shop.project, name="m", slots=[{"percentage": 100, "individuals": [PERSON]}]
    ),
    "segment": lambda shop: flags.update(
        shop.flag,
        target_segments=[
            {
                "name": "one",
                "conditions": [{"type": "property", "prop": "user_id", "op": "is", "values": [PERSON]}],
                "percentage": 10,
                "rolloutWeights": {"on": 1},
            }
        ],
    ),
    "exposure": lambda shop: experiments.update(
        shop.experiment,
        exposure_event={
            "event_type": "seen",
            "filters": [
                {"subprop_key": "user_id", "subprop_op": "is", "subprop_type": "user", "subprop_value": [PERSON]}
            ],
        },
    ),
    "variants": lambda shop: flags.create(
        project_id=shop.project, key="new", variants=[{"key": "on", "payload": {"who": PERSON}}]
    ),
}


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("mode", ["write", "read_only"])
def test_the_log_of_a_write_names_no_person_and_no_key(
    name: str, mode: str, hook: Any, shop: Any, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    call: Call[Any] = CALLS[name](shop)
    try:
        hook(mode=mode).send(call, reason="because")
    except RolloutRefused:
        assert mode == "read_only"
    lines = every_line(caplog)
    assert call.endpoint in lines
    assert PERSON not in lines
    assert "'u1'" not in lines
    assert KEY not in caplog.text


def test_the_line_of_a_write_says_what_whose_and_where(hook: Any, shop: Any, emulator: Any, lines: Any) -> None:
    hook(environment="staging").send(flags.update(shop.flag, rollout_percentage=20), reason="go\nINFO forged")
    assert lines() == [
        f"Sending flags.update(id='{shop.flag}', rollout_percentage=20) for checkout-flag in project 100001 [staging] "
        f"at {emulator.url}, which is not Amplitude, reason: go INFO forged"
    ]


def test_amplitudes_own_host_is_not_mentioned() -> None:
    from airflow_amplitude_experiment.hooks.guard import GuardedClient, _where
    from airflow_amplitude_experiment.hooks.rules import Rules

    with GuardedClient("a-key", rules=Rules(project_id="7")) as client:
        assert _where(client, None) == " in project 7"


def test_a_call_costs_one_line_and_a_read_none(hook: Any, shop: Any, lines: Any) -> None:
    with hook().get_conn() as client:
        client.send(flags.get(shop.flag))
        client.send(flags.update(shop.flag, name="n"))
    assert len(lines()) == 1
