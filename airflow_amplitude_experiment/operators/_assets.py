"""Airflow assets: what this package changed in Amplitude, for DAGs that run after it.

An operator can't name at parse time what it will write, so it states one alias as its outlet, and adds the concrete
asset to the alias's event once the write was read back. A task that wrote nothing so announces nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from airflow.providers.common.compat.sdk import Asset, AssetAlias

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context

SCHEME = "amplitude-experiment"
WRITES = "amplitude-experiment-writes"
"""Name of the alias that a DAG can be scheduled on: every write of this package."""


def with_alias(outlets: Any) -> list[Any]:
    """Return a task's outlets with the alias in them, once."""
    given = [] if outlets is None else [*outlets] if isinstance(outlets, Iterable) else [outlets]
    if any(isinstance(each, AssetAlias) and each.name == WRITES for each in given):
        return given
    return [*given, AssetAlias(WRITES)]


def asset_uri(project_id: str | None, kind: str, key: str) -> str:
    """Return the asset's address: ``amplitude-experiment://100001/flag/new-checkout``.

    Every part is percent-encoded: Airflow cuts an address at a ``?`` or a ``#``.
    """
    return f"{SCHEME}://{quote(project_id or '-', safe='')}/{quote(kind, safe='')}/{quote(key, safe='')}"


def announce(context: Context, record: Mapping[str, Any]) -> None:
    """Add the object of a record to the alias's event. Call it after the write was read back, and only then."""
    events: Any = context.get("outlet_events")
    if events is None:  # a task that is executed by hand has none
        return
    extra = {
        "from": record.get("before"),
        "to": record.get("after"),
        "enabled": record.get("enabled"),
        "run": record.get("run_id"),
    }
    asset = Asset(uri=asset_uri(record["project_id"], record["kind"], record["key"]))
    events[AssetAlias(WRITES)].add(asset, extra={name: value for name, value in extra.items() if value is not None})
