"""The cohort trigger: when it looks, what ends the wait, and that it asks for no export whatever happens to it."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import ssl
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import pytest
from airflow.providers.common.compat.sdk import AirflowNotFoundException

from airflow_amplitude_experiment.api import AmplitudeAuthError, AmplitudeNotFound, AmplitudeServerError, _retry
from airflow_amplitude_experiment.triggers import _moments
from airflow_amplitude_experiment.triggers import cohort as module
from airflow_amplitude_experiment.triggers._events import validated
from airflow_amplitude_experiment.triggers.cohort import FIELDS, AmplitudeCohortTrigger

try:
    from airflow.sdk.serde import deserialize, serialize
except ImportError:  # Airflow 3.1
    from airflow.serialization.serde import deserialize, serialize

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
AT = "2026-11-22T11:59:00+00:00"


class FakeClock:
    """Time that passes only while somebody sleeps."""

    def __init__(self):
        self.moment = NOW
        self.sleeps = []

    def now(self):
        return self.moment

    async def sleep(self, seconds):
        assert seconds > 0
        self.sleeps.append(seconds)
        self.moment += timedelta(seconds=seconds)
        assert len(self.sleeps) < 1000


@pytest.fixture(autouse=True)
def clock(monkeypatch):
    fake = FakeClock()
    monkeypatch.setattr(module, "now", fake.now)
    monkeypatch.setattr(module, "sleep", fake.sleep)
    monkeypatch.setattr(_moments, "random", SimpleNamespace(uniform=lambda low, high: 1.0))
    monkeypatch.setattr(_retry, "PATIENCE", -1.0)
    monkeypatch.setattr(_retry, "FIRST_WAIT", 0.0)
    monkeypatch.setattr(AmplitudeCohortTrigger, "log", logging.getLogger("tests.trigger"))
    return fake


@pytest.fixture
def amplitude(amplitude_emulator, monkeypatch):
    """The emulator with a cohort, and a connection to it."""
    monkeypatch.setenv("AIRFLOW_CONN_AMPLITUDE_ANALYTICS_DEFAULT", amplitude_emulator.airflow_analytics_connection())
    amplitude_emulator.add_cohort("hmzct8qe", ["anna"])
    return amplitude_emulator


@pytest.fixture
def export(amplitude):
    """The id of an export that Amplitude was asked for."""
    from airflow_amplitude_experiment.hooks import AmplitudeAnalyticsHook

    request_id = AmplitudeAnalyticsHook().request_cohort("hmzct8qe")
    amplitude.clear_requests()
    return request_id


def a_trigger(request_id, **options):
    fields = {
        "amplitude_analytics_conn_id": "amplitude_analytics_default",
        "request_id": request_id,
        "requested_at": AT,
        "look_at": (NOW + MINUTE).isoformat(),
        "until": (NOW + 60 * MINUTE).isoformat(),
        "interval": 30,
    }
    return AmplitudeCohortTrigger(**{**fields, **options})


def fired(trigger):
    """Run a trigger as the triggerer does, to its first event."""
    return asyncio.run(anext(trigger.run())).payload


def sent(emulator):
    return [request["path"].removeprefix("/api/5/cohorts/") for request in emulator.requests()]


def told(request_id, status):
    return {"request_id": request_id, "requested_at": AT, "status": status, "until": (NOW + 60 * MINUTE).isoformat()}


# --- when it looks ---------------------------------------------------------------------------------------


def test_it_looks_at_every_interval_until_the_export_is_complete(amplitude, export, clock):
    amplitude.options(cohort_looks=2)
    assert fired(a_trigger(export)) == told(export, "JOB COMPLETED")
    assert sent(amplitude) == [f"request-status/{export}"] * 3
    assert clock.sleeps == [60, 30, 30]


def test_it_gives_up_when_the_time_is_up_and_says_how_the_export_stands(amplitude, export, clock):
    amplitude.options(cohort_looks=1000)
    assert fired(a_trigger(export, interval=600)) == told(export, "JOB INPROGRESS")
    assert clock.moment == NOW + 60 * MINUTE
    assert len(sent(amplitude)) == 7


def test_a_status_that_nobody_documents_ends_the_wait(amplitude, export):
    amplitude.fault("status", status=200, body={"async_status": "JOB FAILED"})
    assert fired(a_trigger(export)) == told(export, "JOB FAILED")


def test_without_an_export_it_only_waits(amplitude, clock):
    assert fired(a_trigger(None, requested_at=None)) == {**told(None, None), "requested_at": None}
    assert clock.sleeps == [60]
    assert sent(amplitude) == []


# --- what goes wrong -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fault", "waits"),
    [({"kind": "status", "status": 503}, 30), ({"kind": "html"}, 30), ({"kind": "rate_limit"}, 300)],
)
def test_what_passes_delays_the_next_look_and_is_said_once(fault, waits, amplitude, export, clock, caplog):
    amplitude.fault(**fault, times=2)
    assert fired(a_trigger(export)) == told(export, "JOB COMPLETED")
    assert clock.sleeps[:3] == [60, waits, 2 * waits]
    assert sum("The wait goes on" in each.getMessage() for each in caplog.records) == 1


def test_what_has_not_passed_in_time_is_what_ended_the_wait(amplitude, export, clock):
    amplitude.fault("status", status=503, body="because", times=None)
    with pytest.raises(AmplitudeServerError, match="because"):
        validated(fired(a_trigger(export)), *FIELDS)
    assert clock.moment == NOW + 60 * MINUTE


def test_a_look_opens_a_client_without_reading_certificates_again(amplitude, export, monkeypatch):
    fired(a_trigger(export))
    monkeypatch.setattr(ssl.SSLContext, "load_verify_locations", None)  # the 50 ms for which others would wait
    assert fired(a_trigger(export)) == told(export, "JOB COMPLETED")


@pytest.mark.parametrize(("status", "error"), [(401, AmplitudeAuthError), (404, AmplitudeNotFound)])
def test_what_can_not_heal_travels_as_an_error(status, error, amplitude, export):
    amplitude.fault("status", status=status, body="because")
    event = json.loads(json.dumps(fired(a_trigger(export))))
    with pytest.raises(error, match="because"):
        validated(event, *FIELDS)


def test_a_connection_that_is_not_there_fails_the_wait(export):
    with pytest.raises(AirflowNotFoundException):
        fired(a_trigger(export, amplitude_analytics_conn_id="nowhere"))


def test_no_key_is_in_what_is_stored_sent_or_logged(amplitude, export, caplog):
    caplog.set_level(logging.INFO)
    amplitude.fault("status", status=401, body=f"unknown {amplitude.analytics_secret_key}")
    trigger = a_trigger(export)
    shown = f"{trigger.serialize()}{fired(trigger)}{vars(trigger)}{caplog.text}"
    assert amplitude.analytics_secret_key not in shown


# --- another triggerer takes over ------------------------------------------------------------------------


def again(trigger):
    """Return the trigger as another triggerer builds it from what Airflow stored."""
    path, kwargs = trigger.serialize()
    assert path == "airflow_amplitude_experiment.triggers.cohort.AmplitudeCohortTrigger"
    return AmplitudeCohortTrigger(**deserialize(serialize(kwargs)))


def test_it_is_the_same_after_a_restart_at_any_moment(amplitude, export, clock):
    amplitude.options(cohort_looks=1)
    trigger = a_trigger(export)

    async def interrupted():
        running = asyncio.ensure_future(anext(trigger.run()))
        await asyncio.sleep(0.05)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)

    asyncio.run(interrupted())
    assert fired(again(trigger)) == told(export, "JOB COMPLETED")
    assert again(trigger).serialize() == trigger.serialize()


def test_nothing_that_happens_to_a_trigger_asks_for_another_export(amplitude, export):
    for fault in ("refuse", "cut_after", "truncated", "html", "rate_limit"):
        amplitude.fault(fault)
        fired(again(a_trigger(export)))
    assert {path.partition("/")[0] for path in sent(amplitude)} == {"request-status"}


KILLED = """
import asyncio, sys
from airflow_amplitude_experiment.triggers.cohort import AmplitudeCohortTrigger
from datetime import UTC, datetime, timedelta
soon = datetime.now(UTC)
trigger = AmplitudeCohortTrigger(
    amplitude_analytics_conn_id="amplitude_analytics_default", request_id=sys.argv[1], requested_at=None,
    look_at=soon.isoformat(), until=(soon + timedelta(hours=1)).isoformat(), interval=0.01,
)
print("waiting", flush=True)
asyncio.run(anext(trigger.run()))
"""


def test_a_triggerer_that_is_killed_leaves_nothing_that_another_one_needs(amplitude, export):
    amplitude.options(cohort_looks=1_000_000)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(
        [sys.executable, "-c", KILLED, export], env=environment, stdout=subprocess.PIPE, text=True
    ) as triggerer:
        lines = iter(triggerer.stdout.readline, "")
        assert any("waiting" in line for line in lines)
        while not sent(amplitude):
            assert triggerer.poll() is None
        triggerer.send_signal(signal.SIGKILL)
    amplitude.options(cohort_looks=0)
    assert fired(again(a_trigger(export)))["status"] == "JOB COMPLETED"
    assert not any(path.startswith("request/") for path in sent(amplitude))
