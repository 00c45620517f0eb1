"""A process that runs under a guard, writes to a log file, and is stopped with all of its descendants."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

GUARD = Path(__file__).with_name("guard.py")


class ProcessDiedError(RuntimeError):
    """A process ended that should be running; the message ends with the last lines of its log."""


class GuardedProcess:
    """One command under ``guard.py``.

    :param name: what people call it (``scheduler``).
    :param command: the command and its arguments.
    :param env: its whole environment; nothing is inherited.
    :param log: the file that receives what it prints.
    :param cwd: the folder that it starts in.
    :param grace: how many seconds it gets between the polite signal and the last one.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        *,
        env: Mapping[str, str],
        log: Path,
        cwd: Path,
        grace: float = 3.0,
    ) -> None:
        self.name = name
        self.log = log
        self.grace = grace
        log.parent.mkdir(parents=True, exist_ok=True)
        guard = [sys.executable, "-I", "-S", str(GUARD), str(os.getpid()), str(grace)]
        with log.open("wb") as output:
            self._guard = subprocess.Popen(
                [*guard, *command],
                env=dict(env),
                cwd=cwd,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        """The guard's process id; the command and its descendants are below it."""
        return self._guard.pid

    @property
    def command_pid(self) -> int:
        """The command's own process id, for a signal that its descendants don't get (Linux only)."""
        return int(Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()[0])

    @property
    def exit_code(self) -> int | None:
        """``None`` while the command runs."""
        return self._guard.poll()

    def tail(self, lines: int = 25) -> str:
        """Return the last lines of the log, for an error message."""
        try:
            text = self.log.read_text(errors="replace")
        except FileNotFoundError:
            return ""
        return "\n".join(text.splitlines()[-lines:])

    def check(self) -> None:
        """Raise :class:`ProcessDiedError` if the command has ended."""
        if self.exit_code is not None:
            raise ProcessDiedError(f"{self.name} ended with status {self.exit_code}.\n{self.describe_log()}")

    def describe_log(self) -> str:
        """Return the log's path and its last lines."""
        return f"--- the end of {self.log} ---\n{self.tail() or '(empty)'}"

    def wait(self, timeout: float) -> int:
        """Wait for the command to end on its own and return its exit status."""
        return self._guard.wait(timeout)

    def ask_to_stop(self) -> None:
        """Start stopping; returns at once."""
        if self.exit_code is None:
            self._guard.terminate()

    def stop(self) -> None:
        """Stop the command and every descendant, and wait until the last one is gone."""
        self.ask_to_stop()
        try:
            self._guard.wait(self.grace + 10)
        except subprocess.TimeoutExpired:
            self._guard.kill()
            self._guard.wait()


def stop_all(processes: Iterable[GuardedProcess]) -> None:
    """Stop several processes at the same time."""
    started = list(processes)
    for process in started:
        process.ask_to_stop()
    for process in started:
        process.stop()


def wait_for_line(process: GuardedProcess, containing: str, timeout: float) -> str:
    """Wait for a line of the process's log that contains ``containing``, and return it."""
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        for line in process.log.read_text(errors="replace").splitlines():
            if containing in line:
                return line
        process.check()
        time.sleep(0.05)
    raise ProcessDiedError(f"{process.name} printed no {containing!r} in {timeout:.0f} s.\n{process.describe_log()}")
