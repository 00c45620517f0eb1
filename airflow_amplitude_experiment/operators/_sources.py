"""Where the ids of a sync come from: values, a query, a file, each read row by row and no further than the cap.

Apart from the sync, which only wants the ids: here is what differs between sources. A source may have any number of
rows; what is held of it is never more than one id beyond the cap and a few hundred rows of the driver's. No id stands
in an error or in a repr; the number of its row does.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from airflow_amplitude_experiment.api._checks import INCLUSIONS_LIMIT

from ._source_files import csv_rows, line_value, lines, parquet_cells
from ._source_rows import ROWS_AT_ONCE, ByName, NotAnId, What, as_id, parsed, position

WAY_OUT: dict[What, str] = {
    "user": "The way out is a cohort: collect these people in one in Amplitude and include it with "
    "AmplitudeSyncVariantCohortsOperator, or target a segment by a property that they share.",
    "cohort": "The way out is fewer cohorts: join them into larger ones in Amplitude.",
}
FLOATED = re.compile(r"-?[0-9]+\.0")


class TooMany(ValueError):
    """A source has more ids than a variant takes; reading stopped there."""


@dataclass(frozen=True)
class Source:
    """What was read."""

    ids: list[str] = field(repr=False)
    """Each once, in the order in which they came."""

    skipped: dict[str, int]
    """How many rows were ``blank`` (null, NaN, nothing but white space), how many a ``duplicate``."""

    read: int
    """How many rows there were, those skipped included."""

    where: str
    """The source in words."""


def from_values(values: Any, *, column: str | None = None, cap: int, what: What = "user") -> Source:
    """Read ids from what a caller wrote, or another task returned.

    :param values: a list, or anything else that can be gone through once: of texts, whole numbers and UUIDs, or of
        rows (mappings, named tuples, tuples of one). The result of a mapped task, as Airflow hands it on, may hold
        one list per task. A text is read as JSON or as Python writes a list, which is how templates render it.
    :param column: the name of the column, where rows have several.
    :param cap: the most different ids that are of use.
    :param what: whose ids they are, for errors.
    :raises TooMany: there are more.
    :raises ValueError: not a list, or a row that holds no id; see :func:`as_id`.
    """
    where = "the values given"
    if isinstance(values, str):
        values = _listed(values, where)
    # A data frame would go through as the names of its columns.
    if isinstance(values, str | bytes | Mapping) or not isinstance(values, Iterable) or hasattr(values, "columns"):
        raise ValueError(f"{where} must be a list of {what} ids or of rows, but are a {type(values).__name__}")
    pick = ByName(column, what)
    source = gather(_unfolded(values), pick, cap=cap, what=what, where=where)
    pick.must_have_found(where)
    return source


def from_sql(
    sql: str, *, conn_id: str, parameters: Any = None, column: str | None = None, cap: int, what: What = "user"
) -> Source:
    """Read ids from a query, through the connection's own hook (any of ``common.sql``), as the rows arrive.

    What the driver itself holds is its own affair: some (psycopg2, mysqlclient) fetch the whole answer before the
    first row can be read, so a query that may return millions should say ``LIMIT``.

    :param sql: one statement, in the words of its database.
    :param parameters: what the driver binds, as it takes it: a mapping or a sequence.
    :param column: the name of the column, where the query returns several; in any case, if only one is meant by that.
    :param conn_id, cap, what: the connection; see :func:`from_values`.
    :raises TooMany: there are more than ``cap``.
    :raises ValueError: no SQL connection, no such column, or a row that holds no id.
    """
    # Values in a DAG file are read while it is parsed; they need none of this.
    from airflow_amplitude_experiment.rollout.answers import NoData

    from ._queries import sql_hook

    where = f"the query on connection {conn_id!r}"
    found: list[Source] = []

    def read(cursor: Any) -> list[Any]:
        names = [str(each[0]) for each in cursor.description or ()]
        if not names:
            raise ValueError(f"{where} returns nothing to read; it must be a SELECT")
        at = position(names, column, f"{where} returns", what=what)

        def pick(row: Any) -> Any:
            return row[names[at]] if isinstance(row, Mapping) else row[at]

        found.append(gather(_fetched(cursor), pick, cap=cap, what=what, where=where))
        return []  # hooks turn what a handler returns into rows of their own kind

    try:
        hook = sql_hook(conn_id)
    except NoData as error:
        raise ValueError(str(error)) from error
    hook.run(sql, parameters=parameters, handler=read)
    return found[-1]


def from_path(
    path: Any, *, conn_id: str | None = None, column: str | None = None, cap: int, what: What = "user"
) -> Source:
    """Read ids from a file, wherever Airflow's ``ObjectStoragePath`` reaches: this machine, S3, GCS.

    * ``.csv`` (also ``.csv.gz``): UTF-8, commas, and a first line with the names of the columns. The column must be
      named: else a file without that line would lose its first id. Every cell is a text, and is kept as it stands.
    * ``.jsonl``, ``.ndjson`` (also ``.gz``): in each line a text, a number, or an object that has the column.
    * ``.parquet``: where pyarrow is installed; read in batches.

    :param path: a path or a URL (``s3://bucket/key``).
    :param conn_id: the Airflow connection of the store.
    :param column: the name of the column, in any case if only one is meant by that.
    :param cap, what: see :func:`from_values`.
    :raises TooMany: there are more than ``cap``.
    :raises ValueError: another kind of file, not readable as its kind, no such column, or a row that holds no id.
    :raises OSError: there is no such file, or it can't be reached; another try may help.
    """
    from airflow.providers.common.compat.sdk import ObjectStoragePath

    # A conn_id of None would hide the one in s3://conn_id@bucket/key from older releases.
    place: Any = ObjectStoragePath(path, conn_id=conn_id) if conn_id else ObjectStoragePath(path)
    where, ending = str(place), re.search(r"\.(csv|jsonl|ndjson|parquet)(\.gz)?$", str(place).lower())
    if ending is None or ending[0] == ".parquet.gz":
        raise ValueError(f"{where} must end in .csv, .jsonl, .ndjson (each also with .gz) or .parquet")
    gathered = partial(gather, cap=cap, what=what, where=where)
    if ending[1] == "parquet":
        with place.open("rb") as file:
            return gathered(parquet_cells(file, column, where=where, what=what), lambda cell: cell)
    compression = "gzip" if ending[2] else None
    if ending[1] == "csv":
        with place.open("r", encoding="utf-8-sig", newline="", compression=compression) as file:
            rows, pick_cell = csv_rows(file, column, where=where, what=what)
            return gathered(rows, pick_cell)
    with place.open("r", encoding="utf-8-sig", newline="\n", compression=compression) as file:
        pick = ByName(column, what)
        source = gathered(lines(file, where), lambda line: pick(line_value(line)))
        pick.must_have_found(where)
        return source


def gather(rows: Iterable[Any], pick: Callable[[Any], Any], *, cap: int, what: What, where: str) -> Source:
    """Take the id out of each row, until there are no more rows or there is one id too many."""
    ids: dict[str, None] = {}
    skipped = {"blank": 0, "duplicate": 0}
    number = 0
    for number, row in enumerate(rows, 1):
        try:
            found = as_id(pick(row))
        except NotAnId as error:
            raise ValueError(f"{where}, row {number:,}: {error}") from None
        if found in ids:
            skipped["duplicate"] += 1
        elif not found:
            skipped["blank"] += 1
        elif len(ids) == cap:
            raise TooMany(
                f"{where}: more than {cap:,} different {what} ids (row {number:,} has one more). {_way_out(cap, what)}"
            )
        else:
            ids[found] = None
    if ids and all(map(FLOATED.fullmatch, ids)):
        raise ValueError(
            f"{where}: every {what} id is a text that ends in '.0', as whole numbers do that were once kept as "
            "floats; nobody would be matched. Write them as whole numbers or as texts."
        )
    return Source(list(ids), skipped, number, where)


def _way_out(cap: int, what: What) -> str:
    if cap > INCLUSIONS_LIMIT:
        return f"A variant has {INCLUSIONS_LIMIT:,} at the most; is this the source that is meant?"
    return f"Amplitude includes {INCLUSIONS_LIMIT:,} in one variant at the most. {WAY_OUT[what]}"


def _listed(text: str, where: str) -> Any:
    try:
        return parsed(text)
    except ValueError:
        pass  # then it may be Python's
    try:
        return ast.literal_eval(text.strip())
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        raise ValueError(
            f"{where} are a text that is no list. From a template, write {{{{ … | tojson }}}}, or hand on the other "
            "task's output itself"
        ) from None


def _unfolded(values: Iterable[Any]) -> Iterator[Any]:
    """Yield row by row, also from the results of a mapped task, which Airflow fetches one by one."""
    of_mapped_task = isinstance(values, Sequence) and not isinstance(values, list | tuple)
    for each in values:
        if of_mapped_task and isinstance(each, list):
            yield from each
        else:
            yield each


def _fetched(cursor: Any) -> Iterator[Any]:
    while rows := cursor.fetchmany(ROWS_AT_ONCE):
        yield from rows
