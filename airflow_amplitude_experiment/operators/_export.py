"""What becomes of an exported cohort's file, and what a task remembers of an export that it asked for.

Apart from the operator, because only a task that runs needs it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from airflow.providers.common.compat.sdk import ObjectStoragePath

from airflow_amplitude_experiment.hooks._cohort_file import Parts, Rows

from ._cohort_order import Asked, Order

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context

REUSED_FOR = timedelta(days=1)
"""How old an export may be that an earlier try asked for: Amplitude keeps it for 7 days, and a cohort moves on."""
MEMORY = "amplitude_cohort_export"


# --- the file --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Taken:
    """What a file held."""

    users: int
    """How many there were."""

    without_user_id: int
    """How many of them have no user id: Amplitude knows them by a device only."""

    names: list[str]
    """The columns."""

    ids: list[str] | None = field(default=None, repr=False)
    """Each once, where they go to XCom."""


class TooManyForXCom(ValueError):
    """The cohort is too large for XCom."""


def too_many(order: Order, found: str) -> TooManyForXCom:
    """Return the refusal of a cohort that is too large for XCom, with the way out."""
    return TooManyForXCom(
        f"Cohort {order.cohort_id} has {found} users, and at most max_in_xcom={order.max_in_xcom:,} go into XCom, "
        "which is a row of Airflow's database. Give path=… to write them to a file instead; "
        "AmplitudeSyncVariantUsersOperator reads it with path=… and column='user_id'. For a variant, including the "
        "cohort itself (AmplitudeSyncVariantCohortsOperator) copies nobody."
    )


def to_list(order: Order) -> Callable[[Parts], Taken]:
    """Return what makes a list of ids of a file, and stops reading where there are too many.

    :raises TooManyForXCom: there are.
    """

    def take(parts: Parts) -> Taken:
        rows = Rows(parts)
        if order.column not in rows.names:
            raise ValueError(
                f"column={order.column!r} is not in the file, which has {', '.join(map(repr, rows.names))}; a property "
                "has to be named in props too"
            )
        place, counted = rows.names.index(order.column), _Count(rows)
        ids: dict[str, None] = {}
        for row in counted:
            if row[place].strip():
                ids[row[place]] = None
            if len(ids) > order.max_in_xcom:
                raise too_many(order, f"more than {order.max_in_xcom:,}")
        return counted.taken(list(ids))

    return take


def to_file(order: Order, asked: Asked) -> Callable[[Parts], Taken]:
    """Return what writes a file to its path, whole or not at all.

    It is written beside its place under another name, read through on the way, and moved when it is complete: a
    rename on a disk, a copy inside the store and a delete on an object store, where an object appears as a whole. So
    whoever reads the path finds the file before or the file after. The other name holds the export's id: a process
    that is killed leaves it there, and the next try with the same export writes over it.
    """
    target = opened(order)
    beside = target.parent / f".{target.name}.{asked.request_id}.part"

    def take(parts: Parts) -> Taken:
        try:
            with beside.open("wb") as file:  # type: ignore[no-untyped-call]
                counted = _Count(Rows(_copied(parts, file)))
                for _ in counted:
                    pass
            target.fs.mv(beside.path, target.path)
        except BaseException:
            with suppress(OSError):
                target.fs.rm_file(beside.path)
            raise
        return counted.taken()

    return take


def opened(order: Order) -> ObjectStoragePath:
    """Return the place of the file, with its connection found; the folder is made where that is a disk's.

    :raises ValueError: no such scheme.
    """
    assert order.path is not None
    target = ObjectStoragePath(order.path, conn_id=order.path_conn_id)
    store = target.fs  # looks up the connection and the store's own library
    if target.protocol in ("", "file", "local"):
        store.makedirs(target.parent.path, exist_ok=True)
    return target


class _Count:
    """Goes through the users of a file once, and counts them."""

    def __init__(self, rows: Rows) -> None:
        self._rows = rows
        self._place = rows.names.index("user_id") if "user_id" in rows.names else None
        self._users = self._without = 0

    def __iter__(self) -> Iterator[list[str]]:
        for row in self._rows:
            self._users += 1
            self._without += self._place is None or not row[self._place].strip()
            yield row

    def taken(self, ids: list[str] | None = None) -> Taken:
        return Taken(self._users, self._without, self._rows.names, ids)


def _copied(parts: Parts, file: Any) -> Parts:
    for part in parts:
        file.write(part)
        yield part


def missing(order: Order, taken: Taken) -> list[str]:
    """Return the properties that were asked for by name and are no column of the file."""
    return [] if isinstance(order.props, bool) else [name for name in order.props if name not in taken.names]


# --- the memory ------------------------------------------------------------------------------------------


class Memory:
    """What a task that is tried again remembers. Airflow keeps it from 3.3 on; before, there is nothing to remember."""

    def __init__(self, context: Context) -> None:
        self._store: Any = context.get("task_state_store")

    def recall(self, order: Order, now: datetime) -> Asked | None:
        """Return an export that an earlier try asked for, of the same, and not long ago."""
        kept = self._store.get(MEMORY) if self._store is not None else None
        if not isinstance(kept, Mapping) or kept.get("of") != _of(order):
            return None
        asked = Asked(kept["request_id"], kept["requested_at"])
        return asked if now - datetime.fromisoformat(asked.requested_at) < REUSED_FOR else None

    def keep(self, order: Order, asked: Asked) -> None:
        """Remember an export for a later try."""
        if self._store is not None:
            self._store.set(MEMORY, {"of": _of(order), **asked._asdict()})

    def forget(self) -> None:
        """Forget it: it was used, or is of no use."""
        if self._store is not None:
            self._store.delete(MEMORY)


def _of(order: Order) -> list[Any]:
    return [order.cohort_id, order.props]
