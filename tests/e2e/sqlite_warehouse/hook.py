"""SQLite that reads the queries of the example DAGs, which are written for Snowflake."""

from __future__ import annotations

import re
import sqlite3
from datetime import datetime, timedelta
from typing import Any

from airflow.providers.common.sql.hooks.sql import DbApiHook

WORDS = [
    (r"%\((\w+)\)s(?:::TIMESTAMP_TZ)?", r":\1"),
    (r"DATEADD\(second, (:\w+), ([\w.]+)\)", r"later(\2, \1)"),
    (r"MIN_BY\(variant, exposed_at\)", "variant"),  # SQLite takes it from the row of the minimum
]


class SqliteWarehouseHook(DbApiHook):
    """Talks to the database file that the connection names as its host."""

    conn_name_attr = "warehouse_conn_id"
    default_conn_name = "warehouse"
    conn_type = "sqlite_warehouse"
    hook_name = "SQLite warehouse"

    def get_conn(self) -> sqlite3.Connection:
        connection = sqlite3.connect(str(self.get_connection(self.get_conn_id()).host))
        connection.create_function("later", 2, later, deterministic=True)
        return connection

    def run(self, sql: Any, *args: Any, **kwargs: Any) -> Any:
        for old, new in WORDS:
            sql = re.sub(old, new, sql)
        return super().run(sql, *args, **kwargs)


def later(when: str, seconds: float) -> str:
    return (datetime.fromisoformat(when) + timedelta(seconds=seconds)).isoformat(timespec="seconds")
