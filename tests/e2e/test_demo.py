"""The demo as a newcomer runs it: it ends well, and Ctrl-C at any moment leaves nothing behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytestmark = pytest.mark.e2e

CHECKOUT = Path(__file__).parents[2]
HOME = f"{CHECKOUT}/.demo/"


def demo() -> subprocess.Popen[str]:
    """Start the demo as a shell would: in a process group that gets the Ctrl-C."""
    return subprocess.Popen(
        [sys.executable, "-m", "demo"],
        cwd=CHECKOUT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def left_behind() -> list[str]:
    """Return the command lines of processes that the demo started and that still run."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            environment = (process / "environ").read_bytes().decode(errors="replace")
            command = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if HOME in environment and command.strip():
            found.append(command)
    return found


def test_the_demo_takes_a_flag_to_everyone_and_measures_each_stage():
    process = demo()
    try:
        output, _ = process.communicate(timeout=300)
    finally:
        process.kill()
    assert process.returncode == 0, output[-4000:]
    table = [line for line in output.splitlines() if line.count("│") == 4]
    asked = [line.split("│")[1].strip() for line in table[1:]]
    assert asked == ["0 %", "10 %", "50 %", "100 %"]
    assert (CHECKOUT / ".demo" / "rollout.png").stat().st_size > 5_000
    for what in ("Install time", "Run time", "Peak memory"):
        assert what in output
    assert left_behind() == []


@pytest.mark.parametrize("moment", ["at once", "while Airflow starts", "when the rollout runs"])
def test_ctrl_c_leaves_no_process_behind(moment):
    process = demo()
    try:
        assert process.stdout is not None
        if moment == "at once":
            time.sleep(0.5)
        else:
            awaited = "Amplitude (emulator)" if moment == "while Airflow starts" else "Airflow     "
            while awaited not in (line := process.stdout.readline()):
                assert line, "the demo ended by itself"
            time.sleep(3)
        os.killpg(process.pid, signal.SIGINT)
        output, _ = process.communicate(timeout=30)
    finally:
        process.kill()
    assert process.returncode in (130, -signal.SIGINT), output[-2000:]
    assert "Traceback" not in output
    assert left_behind() == []
