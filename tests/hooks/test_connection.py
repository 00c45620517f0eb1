"""An Airflow connection, in each of its forms, becomes a client; what is wrong in it is said by name."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from airflow_amplitude_experiment.hooks import AmplitudeExperimentHook
from airflow_amplitude_experiment.hooks.rules import Rules

KEY = "a-management-key"


@pytest.mark.parametrize(
    ("uri", "base_url"),
    [
        (f"amplitude-experiment://:{KEY}@", "https://experiment.amplitude.com"),
        (f"amplitude-experiment://:{KEY}@?region=eu", "https://experiment.eu.amplitude.com"),
        (
            f"amplitude-experiment://:{KEY}@?region=eu&dialect=beta",
            "https://management-api.experiment.eu.amplitude.com",
        ),
        (f"amplitude-experiment://:{KEY}@proxy.local", "https://proxy.local"),
        (f"amplitude-experiment://:{KEY}@proxy.local:8443", "https://proxy.local:8443"),
        (f"amplitude-experiment://:{KEY}@127.0.0.1:8765/http", "http://127.0.0.1:8765"),
        (f"amplitude-experiment://http://:{KEY}@127.0.0.1:8765", "http://127.0.0.1:8765"),
        (f"amplitude-experiment://:{KEY}@http%3A%2F%2F127.0.0.1%3A8765", "http://127.0.0.1:8765"),
    ],
)
def test_a_connection_uri(uri: str, base_url: str, given: Any) -> None:
    with given(uri).get_conn() as client:
        assert client.base_url == base_url


@pytest.mark.parametrize(
    ("fields", "base_url"),
    [
        ({}, "https://experiment.amplitude.com"),
        ({"host": ""}, "https://experiment.amplitude.com"),
        ({"host": "  "}, "https://experiment.amplitude.com"),
        ({"host": "https://experiment.amplitude.com/api/1/"}, "https://experiment.amplitude.com"),
        ({"host": "http://127.0.0.1:8765"}, "http://127.0.0.1:8765"),
        ({"host": "http://127.0.0.1", "port": 8765}, "http://127.0.0.1:8765"),
        ({"host": "http://127.0.0.1:1", "port": 8765}, "http://127.0.0.1:1"),
        ({"host": "127.0.0.1", "port": 8765, "schema": "http"}, "http://127.0.0.1:8765"),
        ({"host": "https://proxy.local/amplitude/"}, "https://proxy.local/amplitude"),
        ({"host": "proxy.local/amplitude", "port": 8443}, "https://proxy.local:8443/amplitude"),
    ],
)
async def test_a_connection_in_json(fields: Any, base_url: str, given: Any) -> None:
    hook = given(**fields)
    with hook.get_conn() as client:
        assert client.base_url == base_url
    async with await hook.get_async_conn() as later:
        assert later.base_url == base_url


def test_what_the_form_sends_for_fields_that_are_left_empty(given: Any) -> None:
    nothing = {"project_id": None, "environment": "", "allow_keys": " ", "max_percentage": None, "max_step": ""}
    usual = {"region": "us", "mode": "write", "require_reason": False, "dialect": "v1", "timeout": 30}
    with given(extra={**nothing, **usual, "requests_per_second": ""}).get_conn() as client:
        assert client.rules == Rules()


def test_settings_given_as_texts_by_a_uri(given: Any) -> None:
    extra = (
        "mode=read_only&allow_keys=checkout-*,search-*&max_percentage=50&max_step=10&require_reason=true&project_id=1"
    )
    with given(f"amplitude-experiment://:{KEY}@?{extra}&timeout=2.5&requests_per_second=50").get_conn() as client:
        assert client.rules == Rules(
            mode="read_only",
            allow_keys=("checkout-*", "search-*"),
            max_percentage=50,
            max_step=10,
            require_reason=True,
            project_id="1",
        )


def test_ids_and_limits_given_as_numbers(given: Any) -> None:
    with given(extra={"project_id": 100001, "max_percentage": 0, "max_step": 10.0}).get_conn() as client:
        assert client.rules == Rules(project_id="100001", max_percentage=0, max_step=10)


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"password": None}, "no management key; put it into the field Management API key"),
        ({"password": "  "}, "no management key"),
        ({"password": "***"}, "masked key"),
        ({"password": "a key"}, "holds white space"),
        ({"host": "ftp://x"}, "base_url is 'ftp://x'"),
        ({"host": "https://a:b@x"}, "must not hold a user"),
        ({"host": "https://x:port"}, "port|Port"),
        ({"extra": {"region": "mars"}}, "region is 'mars', but must be 'us' or 'eu'"),
        ({"extra": {"dialect": "v2"}}, "dialect is 'v2'"),
        ({"extra": {"timeout": "soon"}}, "timeout is 'soon', but must be a number"),
        ({"extra": {"timeout": 0}}, "timeout is 0.0"),
        ({"extra": {"timeout": True}}, "timeout is True"),
        ({"extra": {"requests_per_second": "nan"}}, "requests_per_second is nan"),
        ({"extra": {"requests_per_second": -1}}, "requests_per_second is -1.0"),
        ({"extra": {"mode": "read-only"}}, "mode is 'read-only', but must be one of 'write', 'read_only'"),
        ({"extra": {"max_percentage": 101}}, "max_percentage is 101, but must be a whole number from 0 to 100"),
        ({"extra": {"max_percentage": "25%"}}, "max_percentage is '25%'"),
        ({"extra": {"max_percentage": 0.25}}, "0.25 has a fraction"),
        ({"extra": {"max_step": True}}, "max_step is True"),
        ({"extra": {"require_reason": "yes"}}, "require_reason is 'yes', but must be true or false"),
        ({"extra": {"require_reason": 1}}, "require_reason is 1"),
        ({"extra": {"allow_keys": []}}, "allow_keys holds no glob"),
        ({"extra": {"allow_keys": ","}}, "allow_keys holds no glob"),
        ({"extra": {"allow_keys": ["a", 1]}}, "allow_keys must be globs"),
        ({"extra": {"deny_keys": {"a": 1}}}, "deny_keys must be globs"),
        ({"extra": {"deny_keys": '["billing-*"'}}, "deny_keys starts like a JSON list and is none"),
        ({"extra": {"project_id": ["1"]}}, "project_id is .* must be a text"),
        ({"extra": {"environment": True}}, "environment is True"),
        # a rule that is misspelt or can't be read would protect nobody
        ({"extra": {"max_percent": 10}}, "'max_percent' is unknown; 'max_percentage' may be meant"),
        ({"extra": {"allowed_keys": "x"}}, "'allowed_keys' is unknown; 'allow_keys' may be meant"),
        ({"extra": {"maxPercentage": 10}}, "'maxPercentage' is unknown; 'max_percentage' may be meant"),
        ({"extra": {"Mode": "read_only"}}, "'Mode' is unknown; 'mode' may be meant"),
        ({"extra": {"require-reason": True}}, "'require-reason' is unknown; 'require_reason' may be meant"),
    ],
)
async def test_what_is_wrong_is_said_with_the_name_of_the_connection(fields: Any, says: str, given: Any) -> None:
    hook = given(**fields)
    with pytest.raises(ValueError, match=says) as error:
        hook.get_conn()
    assert str(error.value).startswith("Connection 'amplitude': ")
    assert KEY not in str(error.value)
    with pytest.raises(ValueError, match=says):
        await hook.get_async_conn()


@pytest.mark.parametrize(
    ("extra", "says"),
    [
        ('{"mode": "read_only"', "its extra is not JSON"),
        ('["read_only"]', "must be a JSON object, not a list"),
    ],
)
def test_an_extra_that_can_not_be_read_is_an_error_and_not_an_absence_of_rules(
    extra: str, says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Airflow 3.3 hands such a connection over, and reads its extra as empty; 3.1 does not find it at all."""
    connection = SimpleNamespace(conn_id="amplitude", password=KEY, host="", schema=None, port=None, extra=extra)
    monkeypatch.setattr(AmplitudeExperimentHook, "get_connection", lambda *_: connection)
    with pytest.raises(ValueError, match=f"Connection 'amplitude': .*{says}"):
        AmplitudeExperimentHook("amplitude").get_conn()


def test_other_notes_in_the_extra_are_nobodys_business(given: Any) -> None:
    with given(extra={"owner": "growth", "runbook": "https://wiki/x"}).get_conn() as client:
        assert client.rules == Rules()


def test_a_list_of_globs_may_hold_a_bracket(given: Any) -> None:
    with given(extra={"deny_keys": "[ab]-*, c"}).get_conn() as client:
        assert client.rules.deny_keys == ("[ab]-*", "c")


def test_the_default_connection_is_named_as_airflow_expects() -> None:
    assert AmplitudeExperimentHook().amplitude_conn_id == "amplitude_experiment_default"
    assert AmplitudeExperimentHook.conn_type == "amplitude_experiment"


def test_a_kill_is_not_paced(connect: Any) -> None:
    hook = connect(requests_per_second=5)
    with hook.get_conn() as paced, hook.get_conn(paced=False) as unpaced:
        assert paced._pace._interval == pytest.approx(0.2)
        assert unpaced._pace._interval == 0
