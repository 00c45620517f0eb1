"""How queries reach a warehouse: through the connection's own SQL hook, with every value bound.

Apart from a look, because here is all that differs between drivers: how they name what is bound, and what they
return. A connection is opened at its first query of a look.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from airflow.providers.common.compat.sdk import BaseHook

from airflow_amplitude_experiment.rollout._stated import placeholders
from airflow_amplitude_experiment.rollout.answers import NoData

MOST_ROWS = 1_000
"""A query answers with one row per arm; more than this is not fetched."""


class Queries:
    """The connections of one look."""

    def __init__(self) -> None:
        self._hooks: dict[str, Any] = {}

    def run(self, sql: str, *, conn_id: str, values: Mapping[str, Any]) -> tuple[list[str], list[Sequence[Any]]]:
        """Run a query with its parameters bound by the driver; return the names of its columns, and its rows.

        :raises NoData: the connection has no SQL hook, or the query returns far more than sums.
        """
        hook = self._hook(conn_id)
        text, parameters = bound(sql, values, hook.placeholder)
        rows = hook.run(text, parameters=parameters, handler=lambda cursor: cursor.fetchmany(MOST_ROWS + 1))
        if len(rows) > MOST_ROWS:
            raise NoData(f"more than {MOST_ROWS} rows; the query must return sums, one row per arm")
        return [str(column[0]) for column in hook.last_description or ()], list(rows)

    def _hook(self, conn_id: str) -> Any:
        if conn_id not in self._hooks:
            self._hooks[conn_id] = sql_hook(conn_id)
        return self._hooks[conn_id]


def sql_hook(conn_id: str) -> Any:
    """Return the connection's own SQL hook, told not to log what it runs.

    The same statement at every look says nothing (the record has its hash), and what is bound may be ids of people.

    :raises NoData: it has none.
    """
    from airflow.providers.common.sql.hooks.sql import DbApiHook

    hook = BaseHook.get_hook(conn_id)
    if not isinstance(hook, DbApiHook):
        raise NoData(f"connection {conn_id!r} has no SQL hook but a {type(hook).__name__}")
    hook.log_sql = False
    return hook


def bound(sql: str, values: Mapping[str, Any], placeholder: str) -> tuple[str, dict[str, Any] | list[Any]]:
    """Return a query and its parameters as a driver takes them: by name, or by position where it knows only ``?``."""
    found = placeholders(sql)
    names = [match.group(match.lastgroup or 0) for match in found]
    if placeholder != "?":
        return sql, {name: values[name] for name in names}
    parts, end = [], 0
    for match in found:
        parts.append(sql[end : match.start()])
        end = match.end()
    text = "?".join([*parts, sql[end:]])
    doubled = any(match.lastgroup == "percent" for match in found)
    return text.replace("%%", "%") if doubled else text, [values[name] for name in names]
