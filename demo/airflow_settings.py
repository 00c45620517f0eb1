"""The environment in which Airflow's components run: quick, quiet, on loopback, all in one folder."""

from __future__ import annotations

import json
import os
import secrets
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any

ON_PATH = Path(__file__).with_name("on_path")
LOOPBACK = "127.0.0.1"
# What a process needs to run at all. Everything else, proxies and AIRFLOW__… included, stays outside.
INHERITED = ("PATH", "LANG", "LC_ALL", "LC_CTYPE", "LD_LIBRARY_PATH", "TZ")


def free_ports(count: int) -> list[int]:
    """Return ports that nobody listens on; they are held open together so that no two are the same."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for one in sockets:
            one.bind((LOOPBACK, 0))
        return [one.getsockname()[1] for one in sockets]
    finally:
        for one in sockets:
            one.close()


def contained_environment(folder: Path) -> dict[str, str]:
    """Return an environment in which programs keep their caches and temporary files below ``folder``."""
    kept = {name: os.environ[name] for name in INHERITED if name in os.environ}
    places = {
        "HOME": folder / "home",
        "TMPDIR": folder / "tmp",
        "XDG_CACHE_HOME": folder / "cache",
        "XDG_CONFIG_HOME": folder / "config",
        "MPLCONFIGDIR": folder / "cache" / "matplotlib",
    }
    for place in places.values():
        place.mkdir(parents=True, exist_ok=True)
    return kept | {name: str(place) for name, place in places.items()} | {"PYTHONUNBUFFERED": "1"}


def airflow_environment(
    *, home: Path, dags_folder: Path, port: int, connections: Mapping[str, str | Mapping[str, Any]]
) -> dict[str, str]:
    """Return the environment of every component of one Airflow.

    Secrets are given here because each component would otherwise make up its own at a first start.
    """
    log_port, trigger_log_port, health_port = free_ports(3)
    settings: dict[str, Any] = {
        "CORE__DAGS_FOLDER": dags_folder,
        "CORE__LOAD_EXAMPLES": False,
        "CORE__EXECUTOR": "LocalExecutor",
        "CORE__MP_START_METHOD": "fork",  # Python 3.14 would start each worker with an import of Airflow
        "CORE__PARALLELISM": 3,  # as many idle workers are forked at the start; the default is 32
        "CORE__SIMPLE_AUTH_MANAGER_ALL_ADMINS": True,
        "CORE__HOSTNAME_CALLABLE": "demo_hostname.loopback",
        "CORE__EXECUTION_API_SERVER_URL": f"http://{LOOPBACK}:{port}/execution/",
        "CORE__FERNET_KEY": "",
        "DATABASE__SQL_ALCHEMY_CONN": _database(home, seconds=60),
        "API__HOST": LOOPBACK,
        "API__PORT": port,
        "API__BASE_URL": f"http://{LOOPBACK}:{port}",
        "API__WORKERS": 1,
        "API__SECRET_KEY": secrets.token_hex(16),
        "API_AUTH__JWT_SECRET": secrets.token_hex(64),
        "WORKERS__MIN_HEARTBEAT_INTERVAL": 1,  # a worker often waits so long after its task has ended; the default is 5
        "SCHEDULER__SCHEDULER_IDLE_SLEEP_TIME": 0.2,
        "SCHEDULER__JOB_HEARTBEAT_SEC": 2,
        "SCHEDULER__TRIGGER_TIMEOUT_CHECK_INTERVAL": 2,
        "SCHEDULER__ENABLE_HEALTH_CHECK": False,
        "SCHEDULER__SCHEDULER_HEALTH_CHECK_SERVER_HOST": LOOPBACK,
        "SCHEDULER__SCHEDULER_HEALTH_CHECK_SERVER_PORT": health_port,
        "DAG_PROCESSOR__PARSING_PROCESSES": 1,
        "DAG_PROCESSOR__REFRESH_INTERVAL": 1,  # a test's new DAG file is seen at once, not after 5 minutes
        "DAG_PROCESSOR__BUNDLE_REFRESH_CHECK_INTERVAL": 1,
        # The log servers are not started; nobody else's is asked either.
        "LOGGING__WORKER_LOG_SERVER_PORT": log_port,
        "LOGGING__TRIGGER_LOG_SERVER_PORT": trigger_log_port,
        "LOGGING__COLORED_CONSOLE_LOG": False,
        "USAGE_DATA_COLLECTION__ENABLED": False,
    }
    return {
        **contained_environment(home),
        "PYTHONPATH": str(ON_PATH),
        "AIRFLOW_HOME": str(home),
        "SCARF_ANALYTICS": "false",
        "DO_NOT_TRACK": "1",
        **{f"AIRFLOW__{name}": str(value) for name, value in settings.items()},
        **{f"AIRFLOW_CONN_{name.upper()}": _as_text(value) for name, value in connections.items()},
    }


def of_component(name: str, environment: Mapping[str, str], *, home: Path) -> dict[str, str]:
    """Return the environment of one component.

    The api-server waits for SQLite's one write lock a second, the others a minute. It writes a log in its event loop,
    and what it does in threads commits by way of that loop: now and then the loop waits for a lock that only it can
    release. A short wait ends that with an answer that is asked again; as long a wait elsewhere ended the scheduler.
    """
    own = {"AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": _database(home, seconds=1)} if name == "api-server" else {}
    return {**environment, **own}


def _database(home: Path, *, seconds: int) -> str:
    return f"sqlite:///{home}/airflow.db?timeout={seconds}"


def _as_text(connection: str | Mapping[str, Any]) -> str:
    return connection if isinstance(connection, str) else json.dumps(connection)
