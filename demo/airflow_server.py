"""A real Airflow on this machine: api-server, scheduler, dag-processor and triggerer on SQLite.

The demo shows it and the end-to-end tests run on it. It listens on loopback only, writes below its home only,
needs no login, and is gone with all of its processes when the block is left, however it is left.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from demo.airflow_rest import AirflowRest
from demo.airflow_settings import LOOPBACK, airflow_environment, free_ports, of_component
from demo.memory import MemorySampler
from demo.process import GuardedProcess, ProcessDiedError, stop_all

# The log servers would listen on every interface, and here nobody needs them: all logs are on one disk.
COMPONENTS = {
    "api-server": ["api-server"],
    "scheduler": ["scheduler", "--skip-serve-logs"],
    "dag-processor": ["dag-processor"],
    "triggerer": ["triggerer", "--skip-serve-logs"],
}
MUST_BE_HEALTHY = ("api-server", "metadatabase", "scheduler", "dag_processor", "triggerer")


class AirflowServer(AirflowRest):
    """One Airflow, running inside a ``with`` block.

    :param home: its folder: database, logs, temporary files. Made if missing.
    :param dags_folder: where its DAG files are.
    :param connections: id of each connection and its URI or JSON form, handed over by environment.
    :param environment: further environment variables of every component.
    :param start_timeout: how many seconds the components get to become healthy.
    :param while_starting: called a few times per second with the names of what is not healthy yet.
    :param memory_roots: the process trees whose memory counts; by default only the server's own.
    """

    def __init__(
        self,
        *,
        home: Path,
        dags_folder: Path,
        connections: Mapping[str, str | Mapping[str, Any]] | None = None,
        environment: Mapping[str, str] | None = None,
        start_timeout: float = 120,
        while_starting: Callable[[str], None] = lambda waiting_for: None,
        memory_roots: Callable[[], Iterable[int]] | None = None,
    ) -> None:
        (self.port,) = free_ports(1)
        super().__init__(f"http://{LOOPBACK}:{self.port}")
        self.home = home.resolve()
        self.dags_folder = dags_folder.resolve()
        self.start_timeout = start_timeout
        self.processes: dict[str, GuardedProcess] = {}
        self._connections = dict(connections or {})
        self._environment = dict(environment or {})
        self._settings: dict[str, str] = {}
        self._while_starting = while_starting
        self._memory = MemorySampler(memory_roots or self._guards)

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:  # a Ctrl-C while starting too: nothing may stay behind
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Make the database, start every component and wait until all are healthy."""
        self.home.mkdir(parents=True, exist_ok=True)
        env = airflow_environment(
            home=self.home,
            dags_folder=self.dags_folder,
            port=self.port,
            connections=self._connections,
        )
        self._settings = env | self._environment
        self._memory.start()
        self._migrate(self._settings)
        for name in COMPONENTS:
            self.start_component(name)
        self.wait_until_healthy()

    def stop(self) -> None:
        """Stop every component and wait until their last process is gone. Safe to call twice."""
        self._memory.stop()
        stop_all(self.processes.values())
        self.close()

    def start_component(
        self,
        name: str,
        *,
        alias: str | None = None,
        options: Sequence[str] = (),
        environment: Mapping[str, str] | None = None,
    ) -> None:
        """Start a component, also once more beside the one that runs; all are stopped with the server.

        :param name: which one (``triggerer``).
        :param alias: what this process and its log are called, where the component's name is taken.
        :param options: further options of its command.
        :param environment: variables that only this process has.
        """
        settings = {**of_component(name, self._settings, home=self.home), **(environment or {})}
        self._launch(alias or name, [*COMPONENTS[name], *options], settings)

    def end_component(self, name: str, how: signal.Signals) -> None:
        """Send a component ``SIGTERM`` as an administrator would, or ``SIGKILL``, and wait until all of it is gone."""
        process = self.processes[name]
        os.kill(process.command_pid, how)
        process.wait(60)
        del self.processes[name]

    def peak_pss(self) -> int:
        """Return the highest memory of all processes together so far, in bytes (PSS; 0 where not Linux)."""
        return self._memory.peak_bytes

    def check(self) -> None:
        """Raise if a component has ended, with the end of its log."""
        for name in COMPONENTS:
            if name in self.processes:
                self.processes[name].check()

    def log_tails(self) -> str:
        """Return the end of every component's log, for a message about a failure."""
        return "\n".join(process.describe_log() for process in self.processes.values())

    def _guards(self) -> list[int]:
        return [process.pid for process in self.processes.values()]

    def _migrate(self, env: Mapping[str, str]) -> None:
        migration = self._launch("db-migrate", ["db", "migrate"], env)
        deadline = time.monotonic() + self.start_timeout
        while (status := migration.exit_code) is None and time.monotonic() < deadline:
            self._while_starting("database")
            time.sleep(0.1)
        if status != 0:
            raise ProcessDiedError(f"airflow db migrate failed ({status}).\n{migration.describe_log()}")

    def _launch(self, name: str, arguments: list[str], env: Mapping[str, str]) -> GuardedProcess:
        process = GuardedProcess(
            name,
            [sys.executable, "-m", "airflow", *arguments],
            env=env,
            log=self.home / "logs" / f"{name}.log",
            cwd=self.home,
        )
        self.processes[name] = process
        return process

    def wait_until_healthy(self) -> None:
        """Wait until every component says that it is healthy."""
        deadline = time.monotonic() + self.start_timeout
        while True:
            self.check()
            health = self.health()
            waiting_for = [name for name in MUST_BE_HEALTHY if health.get(name) != "healthy"]
            if not waiting_for:
                return
            self._while_starting(", ".join(waiting_for))
            if time.monotonic() > deadline:
                raise ProcessDiedError(
                    f"Airflow was not healthy after {self.start_timeout:.0f} s: {health}\n{self.log_tails()}"
                )
            time.sleep(0.1)
