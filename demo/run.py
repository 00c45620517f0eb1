"""The demo from start to end: emulator, Airflow, one rollout, and what it came to."""

from __future__ import annotations

import fcntl
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from demo.airflow_rest import AirflowRestError
from demo.airflow_server import AirflowServer
from demo.airflow_settings import contained_environment
from demo.local_amplitude import LocalAmplitude
from demo.picture import draw
from demo.process import ProcessDiedError
from demo.rollout import RolloutNotConfirmedError, RolloutWatch, Stage
from demo.terminal import Screen, table

CHECKOUT = Path(__file__).resolve().parent.parent
DAG_ID = "staged_rollout"
FLAG_KEY = "new-checkout"
CONNECTION_ID = "amplitude_experiment_default"
DAY = "2s"  # how long each stage is watched
BUDGET = 90.0  # seconds from the last healthy component to 100 %


class DemoFailedError(RuntimeError):
    """The demo did not show what it promises."""


def run() -> int:
    """Run the demo and return the exit status."""
    folder = Path(os.environ.get("DEMO_FOLDER") or CHECKOUT / ".demo").resolve()
    screen = Screen()
    try:
        with _only_one(folder):
            _contain(folder)
            _demonstrate(folder, screen)
    except (DemoFailedError, RolloutNotConfirmedError, ProcessDiedError, AirflowRestError, TimeoutError) as error:
        screen.line(f"\nThe demo failed: {error}")
        return 1
    return 0


def _demonstrate(folder: Path, screen: Screen) -> None:
    screen.status("starting the emulator of Amplitude's API")
    with LocalAmplitude(folder / "emulator") as amplitude:
        screen.line(f"Amplitude (emulator)   {amplitude.url}")
        screen.status("starting Airflow")
        started = time.time()
        with _airflow(folder, amplitude, screen) as airflow:
            healthy_at = time.time()
            screen.line(f"Airflow                {airflow.url}   healthy in {healthy_at - started:.1f} s")
            screen.line()
            try:
                stages, run_id = _roll_out(amplitude, airflow, healthy_at, screen)
            except (RolloutNotConfirmedError, TimeoutError) as error:
                logs = f"{airflow.log_tails()}\n{amplitude.describe_log()}"
                raise DemoFailedError(f"{error}\n{logs}") from error
            _report(stages, folder, airflow, screen)
            if os.environ.get("KEEP") == "1":
                _keep(amplitude, airflow, run_id, screen)


def _airflow(folder: Path, amplitude: LocalAmplitude, screen: Screen) -> AirflowServer:
    return AirflowServer(
        home=folder / "airflow",
        dags_folder=CHECKOUT / "example_dags",
        connections={CONNECTION_ID: amplitude.airflow_connection()},
        environment={"ROLLOUT_DAY": DAY},
        while_starting=lambda waiting_for: screen.status(f"starting Airflow: {waiting_for}"),
        memory_roots=lambda: [os.getpid()],
    )


def _roll_out(
    amplitude: LocalAmplitude, airflow: AirflowServer, healthy_at: float, screen: Screen
) -> tuple[list[Stage], str]:
    """Trigger the rollout, show each stage when it is confirmed, and wait for the end of the run."""
    watch = RolloutWatch(amplitude, airflow, FLAG_KEY, healthy_at)
    stages = [watch.before()]
    screen.stage(stages[0])
    airflow.wait_for_dag(DAG_ID)
    airflow.unpause(DAG_ID)
    run_id = airflow.trigger(DAG_ID, {"deployments": amplitude.deployments()})

    def meanwhile() -> None:
        airflow.check()
        amplitude.check()
        screen.status(f"{FLAG_KEY} at {stages[-1].asked} %, waiting for the next stage")

    for stage in watch.stages(DAG_ID, run_id, timeout=2 * BUDGET, meanwhile=meanwhile):
        stages.append(stage)
        screen.stage(stage)
        if complaint := stage.complaint():
            raise RolloutNotConfirmedError(complaint)
    screen.status("waiting for the end of the run")
    state = airflow.wait_for_run(DAG_ID, run_id)["state"]
    if state != "success":
        raise RolloutNotConfirmedError(f"run {run_id} ended as {state}")
    return stages, run_id


def _report(stages: list[Stage], folder: Path, airflow: AirflowServer, screen: Screen) -> None:
    picture = folder / "rollout.png"
    run_time = stages[-1].measured_at
    screen.status("drawing the picture")
    draw(stages, FLAG_KEY, picture)
    screen.line(f"\n{table(stages)}\n")
    screen.line(f"Picture       {_shortest(picture)}")
    install = os.environ.get("DEMO_INSTALL_SECONDS")
    screen.line(f"Install time  {f'{install} s' if install else 'not measured (make demo measures it)'}")
    screen.line(f"Run time      {run_time:.1f} s from the last healthy component to 100 % (budget {BUDGET:.0f} s)")
    screen.line(f"Peak memory   {airflow.peak_pss() / 2**20:.0f} MiB (PSS of all processes)")
    if run_time > BUDGET:
        raise DemoFailedError(f"100 % was confirmed after {run_time:.0f} s, {BUDGET:.0f} s are allowed")


def _keep(amplitude: LocalAmplitude, airflow: AirflowServer, run_id: str, screen: Screen) -> None:
    """Leave everything running until Ctrl-C."""
    screen.line(f"\nAirflow UI    {airflow.url}/dags/{DAG_ID}/runs/{run_id}")
    screen.line(f"Emulator      {amplitude.url}/")
    screen.line("Ctrl-C stops everything.")
    while True:
        airflow.check()
        amplitude.check()
        time.sleep(1)


@contextmanager
def _only_one(folder: Path) -> Iterator[None]:
    """Refuse to run twice at the same time in one folder."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise DemoFailedError(f"another demo is running in {folder}; stop it with Ctrl-C first") from error
        yield


def _contain(folder: Path) -> None:
    """Drop what an earlier demo left, and keep this process's own caches and temporary files in the folder."""
    for part in ("airflow", "emulator"):
        shutil.rmtree(folder / part, ignore_errors=True)
    os.environ.update(contained_environment(folder / "demo"))


def _shortest(path: Path) -> str:
    """Return the path as seen from where the demo was started."""
    return os.path.relpath(path) if path.is_relative_to(Path.cwd()) else str(path)
