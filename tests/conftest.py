"""What holds for every test: an Airflow of its own, and nobody to talk to but this machine.

Airflow reads its settings when it is first imported, so they are set here at import, before any test module.
Airflow's ``unit_test_mode`` is not used: it changes what is tested.
"""

from __future__ import annotations

import atexit
import ipaddress
import os
import shutil
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from xdist.scheduler import LoadScopeScheduling

CACHE = Path(__file__).resolve().parent.parent / ".cache"


def _give_airflow_a_home() -> Path:
    """Make a folder for this process alone, and drop what the developer's own shell says about Airflow."""
    for name in [name for name in os.environ if name.startswith("AIRFLOW_")]:
        del os.environ[name]
    CACHE.mkdir(exist_ok=True)
    home = Path(tempfile.mkdtemp(prefix="airflow-", dir=CACHE))
    atexit.register(shutil.rmtree, home, ignore_errors=True)
    (home / "dags").mkdir()
    os.environ |= {
        "AIRFLOW_HOME": str(home),
        "AIRFLOW__CORE__DAGS_FOLDER": str(home / "dags"),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{home / 'airflow.db'}",
        "AIRFLOW__USAGE_DATA_COLLECTION__ENABLED": "False",
        "SCARF_ANALYTICS": "false",
    }
    return home


AIRFLOW_HOME = _give_airflow_a_home()


class _EndToEndTogether(LoadScopeScheduling):
    """Gives the end-to-end tests to one process: they share one Airflow, and two are too much for a small machine."""

    def _split_scope(self, nodeid: str) -> str:
        return "end to end" if nodeid.startswith("tests/e2e/") else nodeid


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> LoadScopeScheduling:
    """Tell pytest-xdist how to share out the tests, where they run in several processes."""
    return _EndToEndTogether(config, log)


@pytest.fixture(scope="session")
def airflow_home() -> Path:
    """Airflow's home in this test session; DAG files go to its folder ``dags``."""
    return AIRFLOW_HOME


@pytest.fixture(scope="session")
def airflow_db(airflow_home: Path) -> Path:
    """The metadata database, made when the first test asks for it (about three seconds); its home."""
    from airflow.utils.db import initdb

    initdb()
    return airflow_home


class OutsideCallError(RuntimeError):
    """A test tried to leave this machine.

    Not an ``OSError``, which the code under test might take for an ordinary lost connection.
    """


def _stays_here(host: Any) -> bool:
    """Whether a host as the ``socket`` module takes it (name, address, bytes, ``None``) is this machine."""
    name = host.decode() if isinstance(host, bytes) else host
    if name in (None, "", "localhost", socket.gethostname()):
        return True
    try:
        address = ipaddress.ip_address(name.split("%")[0])
    except ValueError:
        return False
    return address.is_loopback or address.is_unspecified


@pytest.fixture(scope="session", autouse=True)
def nobody_outside() -> Iterator[None]:
    """Let no test of this process connect, send or even resolve a name beyond the loopback interface."""

    def guarded(original: Any, position: int) -> Any:
        def call(self: socket.socket, *args: Any) -> Any:
            address = args[position]
            if self.family in (socket.AF_INET, socket.AF_INET6) and not _stays_here(address[0]):
                raise OutsideCallError(f"a test tried to reach {address!r}")
            return original(self, *args)

        return call

    def resolve(host: Any, *args: Any, **kwargs: Any) -> Any:
        if not _stays_here(host):
            raise OutsideCallError(f"a test tried to look up {host!r}")
        return getaddrinfo(host, *args, **kwargs)

    getaddrinfo = socket.getaddrinfo
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", guarded(socket.socket.connect, 0))
        patch.setattr(socket.socket, "connect_ex", guarded(socket.socket.connect_ex, 0))
        patch.setattr(socket.socket, "sendto", guarded(socket.socket.sendto, -1))
        patch.setattr(socket, "getaddrinfo", resolve)
        yield
