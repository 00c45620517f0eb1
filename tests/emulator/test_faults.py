"""Faults, seen by a client over a real socket."""

from __future__ import annotations

import time
from email.utils import parsedate_to_datetime

import httpx
import pytest

from airflow_amplitude_experiment.emulator import Emulator

BODY = {"rolloutPercentage": 25}


@pytest.fixture
def path(emulator: Emulator) -> str:
    return f"/api/1/flags/{emulator.add_flag('nav')['id']}"


def applied(emulator: Emulator) -> bool:
    return emulator.flag("nav")["rolloutPercentage"] == 25


def test_refuse_resets_the_connection(emulator: Emulator, api: httpx.Client, path: str) -> None:
    emulator.fault("refuse")
    with pytest.raises(httpx.ReadError):
        api.patch(path, json=BODY)
    assert not applied(emulator)
    assert api.patch(path, json=BODY).status_code == 200


@pytest.mark.parametrize("kind", ["cut_before", "cut_after"])
def test_a_connection_that_is_cut(kind: str, emulator: Emulator, api: httpx.Client, path: str) -> None:
    emulator.fault(kind)
    with pytest.raises(httpx.RemoteProtocolError, match="without sending a response"):
        api.patch(path, json=BODY)
    assert applied(emulator) == (kind == "cut_after")
    assert emulator.requests()[-1]["status"] is None
    assert emulator.requests()[-1]["fault"] == kind
    assert api.get(path).status_code == 200


@pytest.mark.parametrize("kind", ["cut_before", "cut_after"])
def test_a_create_that_is_cut(kind: str, emulator: Emulator, api: httpx.Client) -> None:
    emulator.fault(kind, method="POST", path="/api/1/flags")
    with pytest.raises(httpx.RemoteProtocolError):
        api.post("/api/1/flags", json={"projectId": "100001", "key": "new"})
    found = api.get("/api/1/flags?key=new").json()["flags"]
    assert len(found) == (kind == "cut_after")


def test_an_answer_that_comes_late(emulator: Emulator, api: httpx.Client, path: str) -> None:
    emulator.fault("late", seconds=0.6, times=2)
    with pytest.raises(httpx.ReadTimeout):
        api.patch(path, json=BODY, timeout=0.2)
    assert applied(emulator)
    start = time.monotonic()
    assert api.get(path).status_code == 200
    assert time.monotonic() - start >= 0.5


def test_an_answer_that_is_truncated(emulator: Emulator, api: httpx.Client, path: str) -> None:
    emulator.fault("truncated", times=2)
    with pytest.raises(httpx.RemoteProtocolError, match=r"incomplete|without sending complete"):
        api.get(path)
    with pytest.raises(httpx.RemoteProtocolError):
        api.patch(path, json=BODY)
    assert applied(emulator)


def test_a_web_page_instead_of_an_answer(emulator: Emulator, api: httpx.Client, path: str) -> None:
    emulator.fault("html")
    answer = api.patch(path, json=BODY)
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/html")
    assert not applied(emulator)


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("status", [500, 502, 503, 418])
def test_an_error_before_or_after(status: int, after: bool, emulator: Emulator, api: httpx.Client, path: str) -> None:
    emulator.fault("status", status=status, after=after, body={"error": "x"}, headers={"X-Y": "z"})
    answer = api.patch(path, json=BODY)
    assert (answer.status_code, answer.json(), answer.headers["x-y"]) == (status, {"error": "x"}, "z")
    assert applied(emulator) == after


def test_too_many_requests(emulator: Emulator, api: httpx.Client, path: str) -> None:
    emulator.fault("rate_limit")
    emulator.fault("rate_limit", retry_after=7)
    emulator.fault("rate_limit", retry_after_date=60)
    answers = [api.patch(path, json=BODY) for _ in range(3)]
    assert [answer.status_code for answer in answers] == [429] * 3
    assert "retry-after" not in answers[0].headers
    assert answers[1].headers["retry-after"] == "7"
    moment = parsedate_to_datetime(answers[2].headers["retry-after"])
    assert 50 < moment.timestamp() - time.time() < 70
    assert not applied(emulator)


def test_a_redirect(emulator: Emulator, api: httpx.Client, path: str) -> None:
    emulator.fault("redirect", location="http://127.0.0.1:1/elsewhere", status=307)
    answer = api.patch(path, json=BODY)
    assert (answer.status_code, answer.headers["location"]) == (307, "http://127.0.0.1:1/elsewhere")
    assert not applied(emulator)


def test_which_requests_a_fault_is_for(emulator: Emulator, api: httpx.Client, path: str) -> None:
    emulator.fault("status", status=503, method="PATCH", path="/api/1/flags/*", times=2, skip=1)
    statuses = [api.patch(path, json=BODY).status_code for _ in range(4)]
    assert statuses == [200, 503, 503, 200]
    emulator.fault("status", status=503, path="/api/1/flags/*/variants", times=None)
    assert [api.get(f"{path}/variants").status_code for _ in range(3)] == [503] * 3
    assert api.get(path).status_code == 200
    emulator.clear_faults()
    assert api.get(f"{path}/variants").status_code == 200


def test_sdks_are_spared_unless_meant(emulator: Emulator, api: httpx.Client) -> None:
    def status() -> int:
        key = {"Authorization": f"Api-Key {emulator.deployment_key}"}
        return httpx.get(f"{emulator.url}/sdk/v2/flags", headers=key).status_code

    emulator.fault("status", status=503)
    assert status() == 200
    assert api.get("/api/1/flags").status_code == 503
    emulator.fault("status", status=500, path="/sdk/*")
    assert status() == 500


def test_the_control_path_never_fails(emulator: Emulator, control: httpx.Client) -> None:
    emulator.fault("cut_before", times=None)
    assert control.get("health").json() == {"status": "ok"}


def test_a_fault_that_does_not_exist(emulator: Emulator) -> None:
    with pytest.raises(ValueError, match="unknown fault"):
        emulator.fault("earthquake")
    with pytest.raises(ValueError, match="has no seconds"):
        emulator.fault("html", seconds=1)


def test_many_cut_connections_leave_the_server_well(
    emulator: Emulator, api: httpx.Client, path: str, caplog: pytest.LogCaptureFixture
) -> None:
    for kind in ("refuse", "cut_before", "cut_after", "truncated"):
        emulator.fault(kind, times=10)
    for _ in range(40):
        with pytest.raises(httpx.TransportError):
            api.get(path)
    assert [api.get(path).status_code for _ in range(10)] == [200] * 10
    assert [one.getMessage() for one in caplog.records if one.name.startswith(("uvicorn", "asyncio"))] == []
