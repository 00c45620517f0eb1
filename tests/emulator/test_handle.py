"""The emulator as an object, the pytest fixture, what importing costs, and the command line."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from airflow_amplitude_experiment.emulator import Emulator, documents

ROOT = Path(__file__).parent.parent.parent
COMMAND = [sys.executable, "-m", "airflow_amplitude_experiment.emulator"]


def test_the_handle(emulator: Emulator) -> None:
    made = emulator.add_experiment("checkout", rolloutPercentage=5, sticky_bucketing=True, end_date="2026-02-01")
    assert (made["rolloutPercentage"], made["stickyBucketing"], made["endDate"]) == (5, True, "2026-02-01")
    assert made == emulator.experiment("checkout")
    assert (made["bucketingKey"], made["evaluationMode"], made["deployments"]) == ("user_id", "local", ["31"])
    changed = emulator.change("checkout", by="p@example.com", enabled=True)
    assert (changed["lastModifiedBy"], changed["state"]) == ("p@example.com", "running")
    assert [one["enabled"] for one in emulator.versions("checkout")] == [False, True]
    assert emulator.requests() == []
    with pytest.raises(KeyError, match="no flag checkout"):
        emulator.flag("checkout")
    with pytest.raises(ValueError, match="already taken"):
        emulator.add_flag("checkout")
    with pytest.raises(ValueError, match="unknown field rolloutPercent"):
        emulator.add_flag("nav", rollout_percent=5)
    with pytest.raises(ValueError, match="has no rolloutPercent"):
        emulator.change("checkout", rollout_percent=5)


def test_an_object_that_is_handed_out_is_a_copy(emulator: Emulator) -> None:
    emulator.add_flag("nav")["variants"].clear()
    emulator.flag("nav")["rolloutWeights"].clear()
    assert emulator.flag("nav")["variants"]
    assert emulator.flag("nav")["rolloutWeights"]


def test_an_airflow_connection(emulator: Emulator) -> None:
    connection = json.loads(emulator.airflow_connection(mode="read_only"))
    assert connection == {
        "conn_type": "amplitude_experiment",
        "password": "emulator-management-key",
        "host": emulator.url,
        "extra": {"project_id": "100001", "mode": "read_only"},
    }


def test_two_at_once_and_a_port_that_is_free_again() -> None:
    with Emulator() as one, Emulator() as other:
        one.add_flag("nav")
        assert one.url != other.url
        assert other.state()["flags"] == []
    port = int(one.url.rsplit(":", 1)[1])
    with Emulator(port=port) as again:
        assert again.url == one.url


def test_ids_and_keys_are_the_same_in_every_run() -> None:
    def made() -> object:
        with Emulator() as emulator:
            emulator.seed({"deployments": [{"label": "web"}]})
            flag = emulator.add_flag("nav")
            return flag["id"], flag["bucketingSalt"], emulator.state(keys=True)["deployments"]

    assert made() == made()


def test_the_fixture_starts_fresh(tmp_path: Path) -> None:
    (tmp_path / "test_fixture.py").write_text(
        """
def test_one(amplitude_emulator):
    amplitude_emulator.add_flag("nav")
    amplitude_emulator.options(ids="number")
    amplitude_emulator.fault("refuse")


def test_two(amplitude_emulator):
    state = amplitude_emulator.state()
    assert state["flags"] == [] and state["options"] == {}
    assert amplitude_emulator.world.faults.waiting() == []
"""
    )
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(tmp_path)]
    run = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert "2 passed" in run.stdout, run.stdout


@pytest.mark.parametrize("module", ["emulator", "emulator.pytest_plugin", "emulator.__main__"])
def test_importing_loads_no_framework(module: str) -> None:
    heavy = "('fastapi', 'starlette', 'uvicorn', 'pydantic', 'jsonschema', 'airflow')"
    code = f"import sys, airflow_amplitude_experiment.{module}; print([one for one in {heavy} if one in sys.modules])"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert run.stdout.strip() == "[]"


# --- the command line --------------------------------------------------------------------------------


class Running:
    """The command in a process of its own."""

    def __init__(self, *arguments: str) -> None:
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        self.process = subprocess.Popen([*COMMAND, "--port", "0", *arguments], text=True, cwd=ROOT, **pipes)  # type: ignore[call-overload]
        self.line = self.process.stdout.readline()
        self.url = self.line.split()[-1]
        self.api = httpx.Client(base_url=self.url, headers={"Authorization": "Bearer emulator-management-key"})

    def stop(self, number: int = signal.SIGTERM) -> tuple[int, str, str]:
        self.process.send_signal(number)
        out, err = self.process.communicate(timeout=20)
        self.api.close()
        return self.process.returncode, out, err


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_command_runs_until_it_is_told_to_stop(number: int) -> None:
    running = Running()
    assert running.line == f"Amplitude emulator is ready at {running.url}\n"
    assert running.url.startswith("http://127.0.0.1:")
    assert running.api.get("/api/1/flags").json() == {"flags": []}
    assert running.stop(number) == (0, "", "")
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", int(running.url.rsplit(":", 1)[1]))) != 0


def test_a_seed_a_state_and_a_log_of_requests(tmp_path: Path) -> None:
    seed = tmp_path / "seed.yaml"
    seed.write_text(
        "projects: [{id: '100001'}]\n"
        "keys: [{key: emulator-management-key}]\n"
        "flags: [{key: nav, enabled: true, rolloutPercentage: 10}]\n"
    )
    state = tmp_path / "state.json"
    arguments = ("--seed", str(seed), "--state", str(state), "--log-requests")
    running = Running(*arguments)
    (flag,) = running.api.get("/api/1/flags?key=nav").json()["flags"]
    assert flag["rolloutPercentage"] == 10
    running.api.patch(f"/api/1/flags/{flag['id']}", json={"rolloutPercentage": 50})
    running.api.get("/api/1/flags/emulator-management-key")
    code, _, err = running.stop()
    assert code == 0
    assert [line.split()[1:] for line in err.splitlines()] == [
        ["GET", "/api/1/flags", "200"],
        ["PATCH", f"/api/1/flags/{flag['id']}", "200"],
        ["GET", "/api/1/flags/***", "404"],
    ]
    assert state.stat().st_mode & 0o777 == 0o600
    assert [path.name for path in tmp_path.iterdir() if "state" in path.name] == ["state.json"]
    running = Running(*arguments)
    assert running.api.get(f"/api/1/flags/{flag['id']}").json()["rolloutPercentage"] == 50
    assert len(running.api.get(f"/api/1/flags/{flag['id']}/versions").json()) == 2
    running.stop()


def test_yaml_reads_on_as_a_variant_and_a_date_as_a_text(tmp_path: Path) -> None:
    path = tmp_path / "seed.yaml"
    path.write_text("a: [on, off, yes, true, false, 2026-02-01, 2026-02-01T10:00:00Z, 5, 0.5, null]\non: 1\n")
    assert documents.read(path) == {
        "a": ["on", "off", "yes", True, False, "2026-02-01", "2026-02-01T10:00:00Z", 5, 0.5, None],
        "on": 1,
    }


def test_what_the_command_can_not_do(tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text("flags: [{name: no key}]")
    (tmp_path / "broken.yaml").write_text("a: [")
    for arguments in (
        ["--seed", str(wrong)],
        ["--seed", str(tmp_path / "broken.yaml")],
        ["--seed", str(tmp_path / "missing.json")],
        ["--port", "x"],
    ):
        run = subprocess.run(
            [*COMMAND, "--port", "0", *arguments], capture_output=True, text=True, cwd=ROOT, check=False
        )
        assert run.returncode == 2
        assert run.stderr
        assert "Traceback" not in run.stderr


def test_a_port_that_is_taken(emulator: Emulator) -> None:
    port = emulator.url.rsplit(":", 1)[1]
    run = subprocess.run([*COMMAND, "--port", port], capture_output=True, text=True, cwd=ROOT, check=False)
    assert run.returncode == 2
    assert "in use" in run.stderr


def test_the_script_that_is_installed() -> None:
    script = Path(sys.executable).parent / "amplitude-emulator"
    if not script.exists():
        pytest.skip("the package is not installed here")
    run = subprocess.run([str(script), "--help"], capture_output=True, text=True, check=True, env={**os.environ})
    assert "--seed" in run.stdout
