"""What a DAG file pays for naming our operators, beside what it pays for those of others.

Airflow parses every DAG file again and again, and each task imports its file anew, so what an import costs beyond
``airflow.sdk`` is paid thousands of times a day. Each measurement is a fresh process; the cases take turns, so that
whatever else the machine does is spread over all of them. Bytecode is cached first, as on every installed Airflow.

The budget is 5 ms on a machine that imports ``airflow.sdk`` itself in 965 ms; ``scaled`` is what a case would take
there, by how long ``airflow.sdk`` took in the same process. It is held by what a DAG file names: an operator, sensors,
a rollout, the calls. ``every operator`` is the stress case, which no DAG file is: ``import *`` of all of them at once.
Peers are asked for their operators and sensors.

Run it with ``make bench``, or on its own; ``--rounds`` says how many processes each case gets.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from statistics import median

CACHE = Path(__file__).resolve().parent.parent / ".cache"
BUDGET = 5.0
SDK = 965.0
OURS = "airflow-provider-amplitude-experiment"

BASE = "from airflow.sdk import DAG, BaseHook, BaseOperator, BaseSensorOperator, task"
WHAT_A_DAG_FILE_NAMES = ("one operator", "every sensor", "rollout", "api flags")
CASES: dict[str, tuple[str, str]] = {
    "one operator": (OURS, "from airflow_amplitude_experiment.operators import AmplitudeRampRolloutOperator"),
    "every sensor": (OURS, "from airflow_amplitude_experiment.sensors import *"),
    "rollout": (OURS, "from airflow_amplitude_experiment.rollout import *"),
    "api flags": (OURS, "from airflow_amplitude_experiment.api import flags"),
    "every operator": (OURS, "from airflow_amplitude_experiment.operators import *"),
    "openfeature": (
        "airflow-provider-openfeature",
        "from openfeature_airflow.sensors import feature_flag",
    ),
    "airbyte": (
        "apache-airflow-providers-airbyte",
        "from airflow.providers.airbyte.operators import airbyte\n"
        "from airflow.providers.airbyte.sensors import airbyte as sensors",
    ),
    "slack": (
        "apache-airflow-providers-slack",
        "from airflow.providers.slack.operators import slack, slack_webhook",
    ),
    "http": (
        "apache-airflow-providers-http",
        "from airflow.providers.http.operators import http\nfrom airflow.providers.http.sensors import http as sensors",
    ),
    "databricks": (
        "apache-airflow-providers-databricks",
        "from airflow.providers.databricks.operators import databricks\n"
        "from airflow.providers.databricks.sensors import databricks as sensors",
    ),
}
MEASURE = """
import json, sys, time
began = time.perf_counter()
{base}
known, wall, cpu = set(sys.modules), time.perf_counter(), time.process_time()
{case}
found = time.perf_counter() - wall, time.process_time() - cpu, wall - began
print("MEASURED" + json.dumps([*(seconds * 1000 for seconds in found), len(set(sys.modules) - known)]))
"""


def main() -> None:
    """Measure every case that is installed and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    cases = {name: code for name, (_, code) in CASES.items() if find_spec(code.split()[1].partition(".")[0])}
    with contained() as environment:
        for code in cases.values():
            _measured(code, environment)  # writes the bytecode
        found: dict[str, list[list[float]]] = {name: [] for name in cases}
        for _ in range(rounds):
            for name, code in cases.items():
                found[name].append(_measured(code, environment))
    _print({name: [median(column) for column in zip(*rows, strict=True)] for name, rows in found.items()}, rounds)


@contextmanager
def contained() -> Iterator[dict[str, str]]:
    """Yield an environment in which Airflow keeps everything in a folder that is removed afterwards."""
    CACHE.mkdir(exist_ok=True)
    home = Path(tempfile.mkdtemp(prefix="bench-", dir=CACHE))
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("AIRFLOW", "PYTHON"))}
    try:
        yield {
            **kept,
            "AIRFLOW_HOME": str(home),
            "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
            "AIRFLOW__USAGE_DATA_COLLECTION__ENABLED": "False",
            "PYTHONPYCACHEPREFIX": str(home / "bytecode"),
        }
    finally:
        shutil.rmtree(home, ignore_errors=True)


def machine() -> str:
    """Return what the machine is, and how busy."""
    load = os.getloadavg()[0]
    return f"Python {platform.python_version()}, {platform.machine()}, {os.cpu_count()} cores, load {load:.1f}"


def _measured(code: str, environment: dict[str, str]) -> list[float]:
    """Import once in a fresh process: ms, those of the processor, those of airflow.sdk, new modules, ms scaled."""
    run = subprocess.run(
        [sys.executable, "-c", MEASURE.format(base=BASE, case=code)],
        capture_output=True,
        text=True,
        env=environment,
        cwd=environment["AIRFLOW_HOME"],
        check=False,
    )
    if run.returncode:
        raise SystemExit(f"{code}\n{run.stderr}")
    wall, cpu, sdk, modules = json.loads(run.stdout.rpartition("MEASURED")[2])
    return [wall, cpu, sdk, modules, wall / sdk * SDK]


def _print(medians: dict[str, list[float]], rounds: int) -> None:
    sdk = median(row[2] for row in medians.values())
    print(f"Import beyond airflow.sdk ({sdk:.0f} ms itself), medians of {rounds} fresh processes.")
    print(f"Airflow {version('apache-airflow')}, {machine()}.\n")
    print("| | ms | CPU ms | modules | ms scaled | release |\n| --- | ---: | ---: | ---: | ---: | --- |")
    for name, (wall, cpu, _, modules, scaled) in medians.items():
        release = f"{CASES[name][0]} {version(CASES[name][0])}"
        print(f"| {name} | {wall:.1f} | {cpu:.1f} | {modules:.0f} | {scaled:.1f} | {release} |")
    most = max(WHAT_A_DAG_FILE_NAMES, key=lambda name: medians[name][-1])
    for name in (most, "every operator"):
        scaled = medians[name][-1]
        print(f"\n{name}: {scaled:.1f} ms, {'within' if scaled <= BUDGET else 'OVER'} the budget of {BUDGET:g} ms.")


if __name__ == "__main__":
    main()
