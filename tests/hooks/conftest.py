"""Connections to the emulator, given as Airflow gets them, and everything that a call may need to be there."""

from __future__ import annotations

import json
import logging
import ssl
from collections.abc import Callable, Iterator
from functools import cache
from types import SimpleNamespace
from typing import Any

import pytest

from airflow_amplitude_experiment.emulator import Emulator
from airflow_amplitude_experiment.hooks import AmplitudeExperimentHook

Connect = Callable[..., AmplitudeExperimentHook]
FAST = {"requests_per_second": 10_000}


@pytest.fixture(scope="session", autouse=True)
def read_certificates_once() -> Iterator[None]:
    """The emulator speaks plain HTTP, and reading certificates costs 20 ms a client."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ssl, "create_default_context", cache(ssl.create_default_context))
        yield


@pytest.fixture
def emulator(amplitude_emulator: Emulator) -> Emulator:
    amplitude_emulator.options(requests_per_second=None, requests_per_day=None)
    return amplitude_emulator


@pytest.fixture
def connect(emulator: Emulator, monkeypatch: pytest.MonkeyPatch) -> Connect:
    """Return a hook of a connection to the emulator with this extra; ``project_id=None`` leaves the project out."""

    def make(**extra: Any) -> AmplitudeExperimentHook:
        monkeypatch.setenv("AIRFLOW_CONN_AMPLITUDE", emulator.airflow_connection(**{**FAST, **extra}))
        return AmplitudeExperimentHook("amplitude")

    return make


@pytest.fixture
def given(monkeypatch: pytest.MonkeyPatch) -> Callable[..., AmplitudeExperimentHook]:
    """Return a hook of any connection: a URI, or the fields of the JSON form."""

    def make(uri: str | None = None, **fields: Any) -> AmplitudeExperimentHook:
        value = uri or json.dumps({"conn_type": "amplitude_experiment", "password": "a-management-key", **fields})
        monkeypatch.setenv("AIRFLOW_CONN_AMPLITUDE", value)
        return AmplitudeExperimentHook("amplitude")

    return make


@pytest.fixture
def shop(emulator: Emulator) -> SimpleNamespace:
    """A flag, two experiments, a mutex group, a holdout group and two deployments."""
    on = {"enabled": True, "rollout_percentage": 10}
    flag = emulator.add_flag("checkout-flag", variants=[{"key": "on", "users": ["u1"], "cohorts": ["c1"]}], **on)
    experiment = emulator.add_experiment(
        "checkout-test",
        variants=[{"key": "control"}, {"key": "treatment", "users": ["u1"], "cohorts": ["c1"]}],
        **on,
    )
    other = emulator.add_experiment("billing-test", **on)
    emulator.seed({"deployments": [{"id": "77", "projectId": emulator.project_id, "label": "web", "key": "client-x"}]})
    mutex = emulator.add_mutex(
        "checkout-mutex", name="m", slots=[{"percentage": 20, "experiments": [experiment["id"]]}, {"percentage": 80}]
    )
    holdout = emulator.add_holdout("checkout-holdout", name="h", holdout_percentage=5, experiments=[other["id"]])
    return SimpleNamespace(
        project=emulator.project_id,
        flag=flag["id"],
        experiment=experiment["id"],
        other=other["id"],
        mutex=mutex["id"],
        holdout=holdout["id"],
        deployment="77",
        attached=emulator.flag("checkout-flag")["deployments"][0],
    )


@pytest.fixture
def writes(emulator: Emulator) -> Callable[[], list[str]]:
    """Return the requests so far that change something, as ``PATCH /path``."""
    return lambda: [f"{each['method']} {each['path']}" for each in emulator.requests() if each["method"] != "GET"]


@pytest.fixture
def lines(caplog: pytest.LogCaptureFixture) -> Callable[[], list[str]]:
    """Return what the guard has logged for everybody to see."""
    caplog.set_level(logging.INFO)
    return lambda: [each.getMessage() for each in caplog.records if each.name.endswith(".guard")]
