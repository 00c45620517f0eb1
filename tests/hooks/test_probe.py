"""What the button "Test" says, and ``airflow connections test``."""

from __future__ import annotations

from typing import Any

import pytest

TWO = {
    "projects": [{"id": "200001", "name": "Shop"}, {"id": "200002", "name": "App"}],
    "keys": [{"key": "a-key-that-sees-both-a1b2", "projects": ["200001", "200002"]}],
}
BOTH = "a-key-that-sees-both-a1b2"


@pytest.fixture
def test_of(emulator: Any, given: Any) -> Any:
    emulator.seed(TWO)

    def run(password: str | None = BOTH, *, host: str | None = None, **extra: Any) -> tuple[bool, str]:
        hook = given(password=password, host=host or emulator.url, extra={"requests_per_second": 10_000, **extra})
        answer: tuple[bool, str] = hook.test_connection()
        assert not password or password not in answer[1]
        return answer

    return run


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.sleep", lambda seconds: None)


def test_it_says_which_key_where_and_what_it_sees(test_of: Any, emulator: Any) -> None:
    good, text = test_of(project_id="200001", mode="read_only")
    assert good
    assert text.startswith(f"The management key that ends in …a1b2 at {emulator.url} sees project 200001.")
    assert "not Amplitude itself" in text
    assert "read-only" in text
    assert {each["method"] for each in emulator.requests()} == {"GET"}


def test_a_short_key_is_not_shown_at_all(test_of: Any, emulator: Any) -> None:
    emulator.seed({"keys": [{"key": "short-key", "projects": ["200001"]}]})
    good, text = test_of("short-key")
    assert good
    assert "-key" not in text.replace("management key", "")


def test_without_a_project_it_lists_them_and_asks_for_one(test_of: Any) -> None:
    good, text = test_of()
    assert good
    assert "sees projects 200001, 200002 and the connection names none. Name one of them" in text


def test_a_project_out_of_sight_is_told_with_those_in_sight(test_of: Any) -> None:
    good, text = test_of(project_id="999")
    assert not good
    assert "sees projects 200001, 200002, and not project 999" in text


def test_a_project_that_only_shows_in_its_flags_is_found(test_of: Any, emulator: Any) -> None:
    emulator.seed({"flags": [{"key": "f", "projectId": "200001"}]})
    emulator.world.store.deployments.clear()
    assert test_of(project_id="200001")[0]
    good, text = test_of(project_id="200002")
    assert not good
    assert "sees no project with a deployment, and not project 200002" in text


@pytest.mark.parametrize("status", [401, 429, 503])
@pytest.mark.usefixtures("at_once")
def test_a_failure_while_looking_for_the_project_is_no_verdict_on_it(status: int, test_of: Any, emulator: Any) -> None:
    emulator.fault("status", status=status, path="*/flags", times=None)
    good, text = test_of(project_id="999")
    assert not good
    assert f"answered {status}" in text
    assert "not project" not in text


def test_a_wrong_key_is_told_with_a_hint_at_the_region(test_of: Any, emulator: Any) -> None:
    good, text = test_of("a-key-that-nobody-ever-made")
    assert not good
    assert f"ends in …made at {emulator.url}: GET /api/1/deployments answered 401" in text
    assert "its region: a key of the EU data center is unknown in the US one" in text


@pytest.mark.parametrize("region", ["us", "eu"])
def test_the_region_is_named_where_amplitude_itself_is_asked(
    region: str, given: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from airflow_amplitude_experiment.api import AmplitudeAuthError
    from airflow_amplitude_experiment.hooks.guard import GuardedClient

    def refuse(*_: Any) -> None:
        raise AmplitudeAuthError("unknown", status=401, method="GET", path="/api/1/deployments")

    monkeypatch.setattr(GuardedClient, "read", refuse)
    _, text = given(extra={"region": region}).test_connection()
    host = {"us": "https://experiment.amplitude.com", "eu": "https://experiment.eu.amplitude.com"}[region]
    assert f"The management key at {host} (data region {region}): GET /api/1/deployments answered 401" in text


@pytest.mark.parametrize(
    ("fault", "says"),
    [
        ({"kind": "status", "status": 403, "body": "Forbidden"}, "answered 403: Forbidden"),
        ({"kind": "html"}, "check the base URL and any proxy"),
        ({"kind": "redirect"}, "answered 302"),
        ({"kind": "status", "status": 503}, "answered 503"),
        ({"kind": "cut_before"}, "Check the network"),
        ({"kind": "truncated"}, "broke off"),
    ],
)
@pytest.mark.usefixtures("at_once")
def test_every_other_failure_is_told_with_the_host(fault: Any, says: str, test_of: Any, emulator: Any) -> None:
    emulator.fault(**fault, times=None)
    good, text = test_of()
    assert not good
    assert text.startswith(f"The management key that ends in …a1b2 at {emulator.url}")
    assert says in text


@pytest.mark.usefixtures("at_once")
def test_nobody_listening_is_told_with_the_host(test_of: Any) -> None:
    good, text = test_of(host="http://127.0.0.1:9")
    assert not good
    assert "at http://127.0.0.1:9: GET /api/1/deployments: ConnectError" in text


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"password": ""}, "it has no management key"),
        ({"region": "mars"}, "region is 'mars'"),
        ({"mode": "readonly"}, "mode is 'readonly'"),
        ({"host": "nonsense://x"}, "base_url is 'nonsense://x'"),
    ],
)
def test_a_connection_that_can_not_be_used_is_told_without_asking_anybody(
    fields: Any, says: str, test_of: Any, emulator: Any
) -> None:
    good, text = test_of(**fields)
    assert not good
    assert text.startswith("The connection can't be used: ")
    assert says in text
    assert emulator.requests() == []
