"""A client of the emulator for tests: an ``httpx`` client with the management key.

``verify=False``: the address is plain HTTP on this machine, and reading certificates costs 20 ms per test.
"""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest

from airflow_amplitude_experiment.emulator import Emulator


@pytest.fixture
def emulator(amplitude_emulator: Emulator) -> Emulator:
    amplitude_emulator.options(requests_per_second=None, requests_per_day=None)
    return amplitude_emulator


@pytest.fixture
def api(emulator: Emulator) -> Iterator[httpx.Client]:
    key = {"Authorization": f"Bearer {emulator.management_key}"}
    with httpx.Client(base_url=emulator.url, headers=key, verify=False) as client:
        yield client


@pytest.fixture
def control(emulator: Emulator) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=f"{emulator.url}/_emulator/", verify=False) as client:
        yield client
