"""What else the example DAGs talk to, on this machine: a warehouse with customers in it, and a Slack that listens."""

from __future__ import annotations

import json
import shutil
import sqlite3
import threading
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self

A_SECOND = timedelta(seconds=1)
UNITS_A_SECOND = 100
"""How many units reach each arm in a second."""


def install_warehouse(folder: Path) -> None:
    """Install the tests' own provider into a folder, as Airflow finds one: by the metadata of a distribution."""
    shutil.copytree(Path(__file__).with_name("sqlite_warehouse"), folder / "sqlite_warehouse")
    about = folder / "airflow_provider_sqlite_warehouse-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: airflow-provider-sqlite-warehouse\nVersion: 1.0\n")
    entry = "provider = sqlite_warehouse:get_provider_info\n"
    (about / "entry_points.txt").write_text(f"[apache_airflow_provider]\n{entry}")


def fill_warehouse(path: Path, rates: Mapping[str, Mapping[str, float]], *, seconds: int) -> None:
    """Write the exposures, orders and requests of some seconds to come; a query sees what has happened by then.

    :param rates: of each experiment's arms, the share of units that order.
    """
    path.unlink(missing_ok=True)
    start = datetime.now(UTC).replace(microsecond=0)
    units = [
        (
            f"{key}-{second}-{number}-{arm}",
            key,
            arm,
            (start + second * A_SECOND).isoformat(),
            number < rate * UNITS_A_SECOND,
        )
        for key, arms in rates.items()
        for arm, rate in arms.items()
        for second in range(seconds)
        for number in range(UNITS_A_SECOND)
    ]
    connection = sqlite3.connect(path)
    with connection:
        connection.executescript(
            "CREATE TABLE exposures (user_id, flag_key, variant, exposed_at);"
            "CREATE TABLE orders (user_id, ordered_at);"
            "CREATE TABLE requests (ts, is_error);"
            "CREATE VIEW loads AS SELECT column1 AS source, strftime('%Y-%m-%dT%H:%M:%S+00:00', 'now') AS"
            " complete_until FROM (VALUES ('exposures'), ('orders'));"
        )
        connection.executemany("INSERT INTO exposures VALUES (?, ?, ?, ?)", [each[:4] for each in units])
        connection.executemany("INSERT INTO orders VALUES (?, ?)", [(each[0], each[3]) for each in units if each[4]])
        moments = [((start + second * A_SECOND).isoformat(), 0) for second in range(seconds)]
        connection.executemany("INSERT INTO requests VALUES (?, ?)", moments)
        connection.executescript(
            "CREATE INDEX by_time ON exposures (flag_key, exposed_at); CREATE INDEX by_user ON orders (user_id);"
        )
    connection.close()


class Slack:
    """Takes messages as Slack does, and keeps them, while inside its ``with`` block."""

    def __init__(self) -> None:
        self.messages: list[dict[str, Any]] = []
        slack = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                slack.messages.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
                answer = b'{"ok": true}'
                self.send_response(200)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            def log_message(self, *_: Any) -> None:
                """Say nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/"

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, name="slack", daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
