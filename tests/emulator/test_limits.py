"""Rate limits, with a clock that tests move."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import httpx
import pytest

from airflow_amplitude_experiment.emulator import Emulator


class Clock:
    def __init__(self) -> None:
        self.now = datetime(2026, 2, 1, 23, 59, 50, 250_000, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.now

    def forward(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def limited(clock: Clock) -> Iterator[Emulator]:
    with Emulator(clock=clock) as emulator:
        emulator.seed(
            {
                "projects": [{"id": "2"}],
                "keys": [{"key": "second", "projects": ["2"]}, {"key": "both", "projects": ["100001", "2"]}],
            }
        )
        yield emulator


def asks(emulator: Emulator, key: str = "", times: int = 1, path: str = "/api/1/flags") -> list[httpx.Response]:
    header = {"Authorization": f"Bearer {key or emulator.management_key}"}
    with httpx.Client(base_url=emulator.url, headers=header, verify=False) as client:
        return [client.get(path) for _ in range(times)]


def statuses(answers: list[httpx.Response]) -> list[int]:
    return [answer.status_code for answer in answers]


def test_100_per_second_is_the_default(limited: Emulator, clock: Clock) -> None:
    assert statuses(asks(limited, times=101)) == [200] * 100 + [429]
    clock.forward(0.7)
    assert statuses(asks(limited)) == [429]
    clock.forward(0.1)
    assert statuses(asks(limited)) == [200]


def test_a_project_has_its_own_count(limited: Emulator, clock: Clock) -> None:
    limited.options(requests_per_second=2)
    asks(limited, times=3)
    assert statuses(asks(limited, "second", 3)) == [200, 200, 429]
    clock.forward(1)
    assert statuses(asks(limited, "both", 3)) == [200, 200, 429]
    assert statuses(asks(limited)) == [429]


def test_a_request_counts_for_the_project_it_is_about(limited: Emulator) -> None:
    limited.options(requests_per_second=1)
    flag = limited.add_flag("nav")["id"]
    assert statuses(asks(limited, "both", 2, f"/api/1/flags/{flag}")) == [200, 429]
    assert statuses(asks(limited, "both", 2, "/api/1/flags?projectId=2")) == [200, 429]


def test_the_day_ends_at_midnight_utc(limited: Emulator, clock: Clock) -> None:
    limited.options(requests_per_day=3)
    assert statuses(asks(limited, times=4)) == [200, 200, 200, 429]
    clock.forward(9)
    assert statuses(asks(limited)) == [429]
    clock.forward(1)
    assert statuses(asks(limited)) == [200]


def test_retry_after_if_wanted(limited: Emulator, clock: Clock) -> None:
    limited.options(requests_per_day=1)
    asks(limited)
    assert "retry-after" not in asks(limited)[0].headers
    limited.options(retry_after="seconds")
    assert asks(limited)[0].headers["retry-after"] == "10"
    limited.options(retry_after="date")
    assert asks(limited)[0].headers["retry-after"] == "Mon, 02 Feb 2026 00:00:00 GMT"


def test_refused_requests_and_wrong_keys_do_not_count(limited: Emulator, clock: Clock) -> None:
    limited.options(requests_per_second=1, requests_per_day=2)
    assert statuses(asks(limited, "wrong", 3)) == [401] * 3
    assert statuses(asks(limited, times=5)) == [200, *[429] * 4]
    clock.forward(1)
    assert statuses(asks(limited)) == [200]


def test_no_limits_on_request_and_none_for_sdks(limited: Emulator) -> None:
    limited.options(requests_per_second=None, requests_per_day=None)
    assert statuses(asks(limited, times=150)) == [200] * 150
    limited.options(requests_per_second=0)
    key = {"Authorization": f"Api-Key {limited.deployment_key}"}
    assert httpx.get(f"{limited.url}/sdk/v2/flags", headers=key).status_code == 200
