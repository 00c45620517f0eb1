"""The emulator for the contract tests: without its rate limits, and with waits that take no time."""

from __future__ import annotations

import pytest

from airflow_amplitude_experiment.api import _retry
from airflow_amplitude_experiment.emulator import Emulator


@pytest.fixture
def emulator(amplitude_emulator: Emulator) -> Emulator:
    amplitude_emulator.options(requests_per_second=None, requests_per_day=None)
    return amplitude_emulator


@pytest.fixture(params=["sync", "async"])
def way(request: pytest.FixtureRequest) -> str:
    """Which of the two clients."""
    return str(request.param)


@pytest.fixture(autouse=True)
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_retry, "FIRST_WAIT", 0.002)
    monkeypatch.setattr(_retry, "LONGEST_WAIT", 0.002)
