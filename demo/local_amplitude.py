"""The local Amplitude of the demo: the package's emulator in a process of its own, and the questions put to it."""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Self

import httpx

from demo.airflow_settings import LOOPBACK, contained_environment
from demo.process import GuardedProcess, wait_for_line

PROJECT_ID = "100001"
MANAGEMENT_KEY = "emulator-management-key"
DEPLOYMENT_KEY = "server-emulator-key"
COMMAND = [sys.executable, "-m", "airflow_amplitude_experiment.emulator", "--host", LOOPBACK, "--port", "0"]


@dataclass(frozen=True)
class Write:
    """A percentage that somebody asked of the emulator.

    :param percentage: what was asked.
    :param at: when, in seconds since the epoch.
    """

    percentage: int
    at: float


class LocalAmplitude:
    """The emulator, running inside a ``with`` block.

    :param folder: where its log and temporary files go.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._process: GuardedProcess | None = None
        self._client = httpx.Client(timeout=10, trust_env=False)
        self.url = ""

    def __enter__(self) -> Self:
        try:
            self._start()
        except BaseException:  # a Ctrl-C too
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()
        if self._process is not None:
            self._process.stop()

    def _start(self) -> None:
        self._process = GuardedProcess(
            "emulator",
            COMMAND,
            env=contained_environment(self._folder),
            log=self._folder / "logs" / "emulator.log",
            cwd=self._folder,
        )
        line = wait_for_line(self._process, "http://", timeout=60)
        found = re.search(r"http://[\w.]+:\d+", line)
        if found is None:
            raise ValueError(f"the emulator's first line names no address: {line}")
        self.url = found.group()

    def check(self) -> None:
        """Raise if the emulator has ended."""
        if self._process is not None:
            self._process.check()

    def describe_log(self) -> str:
        """Return the end of its log."""
        return self._process.describe_log() if self._process else ""

    def airflow_connection(self) -> dict[str, Any]:
        """Return the connection with which Airflow reaches it, in Airflow's JSON form."""
        return {
            "conn_type": "amplitude_experiment",
            "host": self.url,
            "password": MANAGEMENT_KEY,
            "extra": {"project_id": PROJECT_ID, "environment": "demo"},
        }

    def deployments(self) -> list[str]:
        """Return the ids of the deployments that its SDK keys belong to."""
        state = self._client.get(f"{self.url}/_emulator/state").raise_for_status().json()
        return [deployment["id"] for deployment in state["deployments"]]

    def percentages_asked(self) -> list[Write]:
        """Return every percentage that was written so far, oldest first, from the emulator's request log."""
        answer = self._client.get(f"{self.url}/_emulator/requests").raise_for_status().json()
        requests = answer["requests"] if isinstance(answer, dict) else answer
        writes = []
        for request in requests:
            body = request.get("body")
            if request["method"] == "PATCH" and isinstance(body, dict) and "rolloutPercentage" in body:
                moment = datetime.fromisoformat(request["time"]).timestamp()
                writes.append(Write(int(body["rolloutPercentage"]), moment))
        return writes
