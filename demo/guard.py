"""Run one command and leave nothing of it behind, whatever happens to whoever asked for it.

Airflow's components fork: executors, log servers, one process group per task. So each component runs under
a guard of its own, in a session of its own. On Linux the guard adopts every orphan below it (a "subreaper"),
and the kernel tells it when its parent dies, even by SIGKILL. It ends the component politely, then kills what
is left of its descendants, and only then ends itself: a guard that is gone means that nothing is left.

A script, not a module of the package: it is started with ``python -I -S`` and must stay small and quick.

usage: guard.py PARENT_PID GRACE_SECONDS COMMAND [ARGUMENT ...]
"""

import ctypes
import os
import signal
import sys
import time
from collections.abc import Iterable
from pathlib import Path

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36
ON_LINUX = sys.platform == "linux"
STOP = {signal.SIGTERM, signal.SIGINT, signal.SIGHUP}
WATCHED = STOP | {signal.SIGCHLD, signal.SIGALRM}


def main() -> int:
    parent, grace, command = int(sys.argv[1]), float(sys.argv[2]), sys.argv[3:]
    signal.pthread_sigmask(signal.SIG_BLOCK, WATCHED)
    if ON_LINUX:
        _prctl(PR_SET_CHILD_SUBREAPER, 1)
        _prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:  # it died before the kernel knew that we want to be told
        return 1
    child = _start(command)
    signal.setitimer(signal.ITIMER_REAL, 1.0, 1.0)
    status = _watch(child, parent)
    if status is None:
        status = _stop(child, grace)
    _kill_the_rest()
    return os.waitstatus_to_exitcode(status) % 256


def _start(command: list[str]) -> int:
    """Fork the command into a session of its own, so that a Ctrl-C in the terminal does not reach it."""
    child = os.fork()
    if child:
        return child
    try:
        os.setsid()
        if ON_LINUX:
            _prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, WATCHED)
        os.execvp(command[0], command)
    finally:
        os._exit(127)


def _watch(child: int, parent: int) -> int | None:
    """Wait until the child has ended (its status) or has to be ended (``None``)."""
    while True:
        received = signal.sigwait(WATCHED)
        status = _reap().get(child)
        if status is not None:
            return status
        if received in STOP or os.getppid() != parent:
            return None


def _stop(child: int, grace: float) -> int:
    """End the child's process group, politely for ``grace`` seconds."""
    _signal_group(child, signal.SIGTERM)
    deadline = time.monotonic() + grace
    while time.monotonic() < deadline:
        status = _reap().get(child)
        if status is not None:
            return status
        time.sleep(0.02)
    _signal_group(child, signal.SIGKILL)
    return os.waitpid(child, 0)[1]


def _kill_the_rest() -> None:
    """Kill every descendant until none is left; orphans come to us, so none can escape."""
    while True:
        for pid in descendants([os.getpid()]) - {os.getpid()}:
            try:
                os.kill(pid, signal.SIGKILL)
            except (ProcessLookupError, PermissionError):
                continue
        try:
            os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        time.sleep(0.01)


def _reap() -> dict[int, int]:
    """Collect the exit status of every child that has ended, adopted orphans included."""
    ended: dict[int, int] = {}
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return ended
        if pid == 0:
            return ended
        ended[pid] = status


def _signal_group(child: int, number: int) -> None:
    try:
        os.killpg(child, number)
    except (ProcessLookupError, PermissionError):  # not yet its own session, or gone
        try:
            os.kill(child, number)
        except ProcessLookupError:
            return


def descendants(roots: Iterable[int]) -> set[int]:
    """Return these processes and every process below them, from ``/proc``; only them where there is none."""
    parents: dict[int, int] = {}
    for entry in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = entry.read_text(errors="replace").rpartition(")")[2].split()
        except OSError:
            continue
        parents[int(entry.parent.name)] = int(fields[1])
    below = set(roots)
    while grown := {pid for pid, parent in parents.items() if parent in below} - below:
        below |= grown
    return below


def _prctl(option: int, value: int) -> None:
    ctypes.CDLL(None).prctl(option, value, 0, 0, 0)


if __name__ == "__main__":
    sys.exit(main())
