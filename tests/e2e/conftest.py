"""One real Airflow for all end-to-end tests: scheduler, triggerer and the rest, over real HTTP to the emulator."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from airflow_amplitude_experiment.emulator import Emulator
from demo.airflow_server import AirflowServer
from demo.airflow_settings import ON_PATH
from tests.e2e.surroundings import Slack, install_warehouse

EXAMPLES = Path(__file__).parents[2] / "example_dags"
MANAGEMENT_KEY = "mgmt-7c1f0a9d5e3b4826-never-to-be-seen"
DEPLOYMENT_KEY = "server-92ab44d07e61c35f-never-to-be-seen"
SEED = {
    "projects": [{"id": "100001", "name": "Shop", "organization": "acme"}],
    "keys": [{"key": MANAGEMENT_KEY, "projects": ["100001"]}],
    "deployments": [
        {"id": "31", "projectId": "100001", "label": "shop", "type": "server", "key": DEPLOYMENT_KEY, "default": True}
    ],
}
DESK_RULES = {"allow_keys": "checkout-*", "max_step": 25, "require_reason": True}


@dataclass
class Place:
    """Where end-to-end tests happen: an Airflow, its DAGs folder, all that it talks to, and the audit log."""

    airflow: AirflowServer
    amplitude: Emulator
    dags: Path
    audit: Path
    warehouse: Path
    slack: Slack

    def add_dag(self, dag_id: str, text: str) -> None:
        """Write a DAG file, wait until it is parsed, and let it run."""
        (self.dags / f"{dag_id}.py").write_text(text)
        self.airflow.wait_for_dag(dag_id)
        self.airflow.unpause(dag_id)

    def run(self, dag_id: str, conf: dict[str, Any] | None = None) -> tuple[str, str]:
        """Trigger a DAG as a person would, wait for the end of the run, and return its id and state."""
        run_id = self.airflow.trigger(dag_id, conf)
        return run_id, str(self.airflow.wait_for_run(dag_id, run_id)["state"])

    def tries(self, dag_id: str, run_id: str) -> dict[str, int]:
        """Return how often each task of a run was tried."""
        return {task["task_id"]: task["try_number"] for task in self.airflow.task_instances(dag_id, run_id)}

    def writes(self) -> list[Any]:
        """Return the bodies of all writes so far."""
        return [each["body"] for each in self.amplitude.requests() if each["method"] != "GET"]


@pytest.fixture(scope="session")
def _place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    folder = tmp_path_factory.mktemp("e2e")
    dags, warehouse = folder / "dags", folder / "warehouse.db"
    shutil.copytree(EXAMPLES, dags)
    install_warehouse(folder / "on_path")
    with Emulator(SEED) as amplitude, Slack() as slack:
        connection = json.loads(amplitude.airflow_connection(environment="end to end", organization="acme"))
        connections = {
            "amplitude_experiment_default": connection,
            "amplitude_release_desk": {**connection, "extra": {**connection["extra"], **DESK_RULES}},
            "amplitude_wrong_key": {**connection, "password": "mgmt-a-key-that-nobody-knows"},
            "warehouse": {"conn_type": "sqlite_warehouse", "host": str(warehouse)},
            "slack": {"conn_type": "slack", "password": "xoxb-of-no-slack", "extra": {"base_url": slack.url}},
        }
        server = AirflowServer(
            home=folder / "airflow",
            dags_folder=dags,
            connections=connections,
            environment={
                # A triggerer that is silent for so long is taken for dead; the default is 30 s.
                "AIRFLOW__TRIGGERER__TRIGGERER_HEALTH_CHECK_THRESHOLD": "10",
                "AIRFLOW__TRIGGERER__JOB_HEARTBEAT_SEC": "2",
                "ROLLOUT_DAY": "3s",
                "ROLLOUT_HOUR": "1s",
                "ROLLOUT_SETTLE": "1s",
                "PYTHONPATH": os.pathsep.join([str(ON_PATH), str(folder / "on_path")]),
                "AIRFLOW__AMPLITUDE_EXPERIMENT__AUDIT_PATH": (folder / "audit").as_uri(),
            },
        )
        with server as airflow:
            yield Place(airflow, amplitude, dags, folder / "audit", warehouse, slack)


@pytest.fixture
def place(_place: Place) -> Place:
    """The shared Airflow with an Amplitude in its first state."""
    _place.amplitude.reset()
    return _place
