"""The few calls of Airflow's REST API that the demo and the end-to-end tests make."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import httpx

T = TypeVar("T")
FINISHED = {"success", "failed"}


class AirflowRestError(RuntimeError):
    """Airflow refused a request; the message holds what it answered."""


class AirflowRest:
    """Talks to one Airflow that needs no login (``simple_auth_manager_all_admins``).

    :param url: the api-server's address.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        # Proxies and certificates of the environment have no business here: everything is on loopback.
        self._client = httpx.Client(base_url=url, timeout=30, trust_env=False)

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def health(self) -> dict[str, str | None]:
        """Return the state of each component, all ``None`` while the api-server does not answer."""
        try:
            answer = self._client.get("/api/v2/monitor/health")
            answer.raise_for_status()
        except httpx.HTTPError:
            return {"api-server": None}
        found = {name: (state or {}).get("status") for name, state in answer.json().items()}
        return {"api-server": "healthy", **found}

    def get(self, path: str, **params: Any) -> Any:
        """Return the JSON answer of a path below ``/api/v2``."""
        return self.request("GET", path, params=params)

    def request(self, method: str, path: str, **arguments: Any) -> Any:
        """Send any request below ``/api/v2``; a token is fetched before the first one."""
        if "Authorization" not in self._client.headers:
            token = self._client.get("/auth/token").raise_for_status().json()["access_token"]
            self._client.headers["Authorization"] = f"Bearer {token}"
        for _ in range(10):
            answer = self._client.request(method, f"/api/v2{path}", **arguments)
            if answer.status_code != 500 or "Database error" not in answer.text:
                break
            time.sleep(1)  # SQLite takes one writer at a time, and the api-server waits a second only: see of_component
        if answer.is_error:
            raise AirflowRestError(f"{method} {path} -> {answer.status_code}: {answer.text[:2000]}")
        return answer.json() if answer.content else None

    def wait_for_dag(self, dag_id: str, timeout: float = 60) -> dict[str, Any]:
        """Wait until the DAG has been parsed; an import error ends the waiting at once."""

        def look() -> dict[str, Any] | None:
            found = self.get("/dags", dag_id_pattern=dag_id, limit=100)["dags"]
            for dag in found:
                if dag["dag_id"] == dag_id and not dag.get("is_stale"):
                    return dag
            errors = self.get("/importErrors")["import_errors"]
            if errors:
                text = "\n".join(f"{error['filename']}:\n{error['stack_trace']}" for error in errors)
                raise AirflowRestError(f"DAG {dag_id} is missing, and there are import errors:\n{text}")
            return None

        return wait_until(look, timeout, f"DAG {dag_id} was not parsed")

    def unpause(self, dag_id: str) -> None:
        """Let the scheduler run the DAG."""
        self.request("PATCH", f"/dags/{dag_id}", json={"is_paused": False})

    def trigger(self, dag_id: str, conf: Mapping[str, Any] | None = None, *, logical_date: str | None = None) -> str:
        """Start a run as a person would from the UI, and return its id."""
        body = {"logical_date": logical_date, "conf": dict(conf or {})}
        return str(self.request("POST", f"/dags/{dag_id}/dagRuns", json=body)["dag_run_id"])

    def run(self, dag_id: str, run_id: str) -> dict[str, Any]:
        """Return a run as it is now."""
        return self.get(f"/dags/{dag_id}/dagRuns/{run_id}")

    def wait_for_run(self, dag_id: str, run_id: str, timeout: float = 120) -> dict[str, Any]:
        """Wait until a run has ended, well or not, and return it."""

        def look() -> dict[str, Any] | None:
            found = self.run(dag_id, run_id)
            return found if found["state"] in FINISHED else None

        return wait_until(look, timeout, f"run {run_id} of {dag_id} did not end")

    def task_instances(self, dag_id: str, run_id: str) -> list[dict[str, Any]]:
        """Return the run's task instances."""
        return self.get(f"/dags/{dag_id}/dagRuns/{run_id}/taskInstances", limit=100)["task_instances"]

    def task_states(self, dag_id: str, run_id: str) -> dict[str, str | None]:
        """Return the state of each task of a run that has no mapped tasks."""
        return {task["task_id"]: task["state"] for task in self.task_instances(dag_id, run_id)}

    def xcom(self, dag_id: str, run_id: str, task_id: str, key: str = "return_value", *, map_index: int = -1) -> Any:
        """Return one XCom's value."""
        path = f"/dags/{dag_id}/dagRuns/{run_id}/taskInstances/{task_id}/xcomEntries/{key}"
        return self.get(path, map_index=map_index, deserialize=True)["value"]

    def logs(self, dag_id: str, run_id: str, task_id: str, *, try_number: int = 1, map_index: int = -1) -> str:
        """Return a task's log as lines of text, the fields of each event included."""
        path = f"/dags/{dag_id}/dagRuns/{run_id}/taskInstances/{task_id}/logs/{try_number}"
        content = self.get(path, map_index=map_index, full_content=True)["content"]
        return "\n".join(line if isinstance(line, str) else _line(line) for line in content)

    def clear(self, dag_id: str, run_id: str, task_ids: list[str] | None = None, **options: Any) -> Any:
        """Clear tasks of a run (all of them by default), so that they run again.

        It waits before: the scheduler ends where a task is cleared while it still writes down that the process has
        ended (seen on Airflow 3.1.6).
        """
        time.sleep(5)
        body: dict[str, Any] = {"dry_run": False, "dag_run_id": run_id, "only_failed": False, **options}
        if task_ids is not None:
            body["task_ids"] = task_ids
        return self.request("POST", f"/dags/{dag_id}/clearTaskInstances", json=body)


def wait_until(look: Callable[[], T | None], timeout: float, complaint: str, *, pause: float = 0.25) -> T:
    """Call ``look`` until it returns something; ``TimeoutError`` with the complaint when time is up."""
    deadline = time.monotonic() + timeout
    while True:
        found = look()
        if found is not None:
            return found
        if time.monotonic() > deadline:
            raise TimeoutError(f"{complaint} within {timeout:.0f} s")
        time.sleep(pause)


def _line(event: Mapping[str, Any]) -> str:
    rest = {name: value for name, value in event.items() if name not in {"timestamp", "event", "level"}}
    parts = [event.get("timestamp"), event.get("level"), event.get("event"), rest or None]
    return " ".join(str(part) for part in parts if part)
