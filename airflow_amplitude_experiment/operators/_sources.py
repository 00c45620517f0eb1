"""Where the ids of a sync come from: values, a query, a file, each read row by row and no further than the cap.

Apart from the sync, which only wants the ids: here is what differs between sources, how anything becomes an id, and
what must not be taken for one. A source may have any number of rows; what is held of it never exceeds one id more
than the cap, and a few hundred rows of the driver's. No id stands in an error or in a repr; the number of its row does.
"""

from __future__ import annotations

import ast
import csv
import json
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from functools import partial
from numbers import Integral
from typing import Any, Literal
from uuid import UUID

from airflow_amplitude_experiment.api._checks import INCLUSIONS_LIMIT
from airflow_amplitude_experiment.rollout.answers import NoData

from ._queries import sql_hook

What = Literal["user", "cohort"]

ROWS_AT_ONCE = 500
LONGEST_LINE = 1_000_000
MOST_DIGITS = 100
"""Longer than any database's whole numbers; a Decimal of a few letters can have millions of digits."""

FIRST_INEXACT = 2**53
"""From here on a float stands for several whole numbers."""

WAY_OUT: dict[What, str] = {
    "user": "The way out is a cohort: collect these people in one in Amplitude and include it with "
    "AmplitudeSyncVariantCohortsOperator, or target a segment by a property that they share.",
    "cohort": "The way out is fewer cohorts: join them into larger ones in Amplitude.",
}
FLOATED = re.compile(r"-?[0-9]+\.0")


class TooMany(ValueError):
    """A source has more ids than a variant takes; reading stopped there."""


class NotAnId(ValueError):
    """A row holds what can't be an id; the text says what instead, without repeating it."""


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
    if isinstance(values, str | bytes | Mapping) or not isinstance(values, Iterable):
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
    where = f"the query on connection {conn_id!r}"
    found: list[Source] = []

    def read(cursor: Any) -> list[Any]:
        names = [str(each[0]) for each in cursor.description or ()]
        at = _position(names, column, f"{where} returns", what)

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
    place = ObjectStoragePath(path, conn_id=conn_id) if conn_id else ObjectStoragePath(path)
    where, ending = str(place), re.search(r"\.(csv|jsonl|ndjson|parquet)(\.gz)?$", str(place).lower())
    if ending is None or ending[0] == ".parquet.gz":
        raise ValueError(f"{where} must end in .csv, .jsonl, .ndjson (each also with .gz) or .parquet")
    gathered = partial(gather, cap=cap, what=what, where=where)
    if ending[1] == "parquet":
        with place.open("rb") as file:
            return gathered(_parquet(file, column, where, what), lambda cell: cell)
    compression = "gzip" if ending[2] else None
    if ending[1] == "csv":
        with place.open("r", encoding="utf-8-sig", newline="", compression=compression) as file:
            names, rows = _csv(file, where)
            return gathered(rows, _cell(names, column, where, what))
    with place.open("r", encoding="utf-8-sig", newline="\n", compression=compression) as file:
        pick = ByName(column, what)
        source = gathered(_lines(file, where), lambda line: pick(_json(line)))
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
                f"{where}: more than {cap:,} different {what} ids (reading stopped at row {number:,}); Amplitude "
                f"includes at most {INCLUSIONS_LIMIT:,} in one variant. {WAY_OUT[what]}"
            )
        else:
            ids[found] = None
    if ids and all(map(FLOATED.fullmatch, ids)):
        raise ValueError(
            f"{where}: every {what} id is a text that ends in '.0', as whole numbers do that were once kept as "
            "floats; nobody would be matched. Write them as whole numbers or as texts."
        )
    return Source(list(ids), skipped, number, where)


def as_id(value: Any) -> str:
    """Return the id that a value stands for, exactly; an empty text where it stands for none.

    White space around a text is dropped: Amplitude would take ``" a"`` for somebody else, and nobody means that.
    Otherwise a text stays as it is (``"007"``, ``"1.0"``). A number loses a fraction of zero (7.0 and 7.00 are
    ``"7"``).

    :raises NotAnId: true or false, bytes, a list, …; a number that has a fraction, or is a float too large to be
        exact; a text with half a character.
    """
    if value is None:
        return ""
    if isinstance(value, str):
        return _sendable(value.strip())
    if isinstance(value, UUID):
        return str(value)
    if isinstance(value, float | Decimal):
        return _whole(value)
    if isinstance(value, Integral) and not isinstance(value, bool):
        return _whole(Decimal(int(value)))
    raise NotAnId(f"a {type(value).__name__}, but an id must be a text or a whole number")


class ByName:
    """Takes a column by its name from rows that bring their own names, and plain values as they are.

    Some exports leave a null out, so a row without the column is a blank one; but not every row can be.
    """

    def __init__(self, column: str | None, what: What) -> None:
        self._column = column
        self._what = what
        self._missed = self._found = False

    def __call__(self, row: Any) -> Any:
        """Return what stands in the column."""
        if isinstance(row, tuple) and (names := getattr(row, "_fields", None)):
            row = dict(zip(names, row, strict=True))
        if isinstance(row, Mapping):
            return self._of(row)
        if isinstance(row, list | tuple):
            if len(row) != 1:
                raise NotAnId(f"{len(row)} values without names; give only the {self._what} id, or rows as mappings")
            return row[0]
        return row

    def _of(self, row: Mapping[Any, Any]) -> Any:
        if self._column is not None and self._column not in row:
            alike = [name for name in row if str(name).casefold() == self._column.casefold()]
            if len(alike) > 1:
                raise NotAnId(f"columns {' and '.join(map(repr, alike))}; write the one that is meant as it stands")
            self._missed = self._missed or not alike
            self._found = self._found or bool(alike)
            return row[alike[0]] if alike else None
        if self._column is None and len(row) != 1:
            columns = ", ".join(map(str, row)) or "none"
            raise NotAnId(f"{len(row)} columns ({columns}); name the one with the {self._what} ids: column=…")
        self._found = True
        return row[next(iter(row)) if self._column is None else self._column]

    def must_have_found(self, where: str) -> None:
        """Refuse a column that no row had.

        :raises ValueError: so it was.
        """
        if self._missed and not self._found:
            raise ValueError(f"{where}: no row has a column {self._column!r}")


def _whole(number: float | Decimal) -> str:
    if isinstance(number, float):
        if math.isnan(number):
            return ""
        if abs(number) >= FIRST_INEXACT:
            raise NotAnId(f"a float of {FIRST_INEXACT:,} or more, which is not exact; read the column as text")
        number = Decimal(number)
    if number.is_nan():
        return ""
    if not number.is_finite() or number.adjusted() > MOST_DIGITS:
        raise NotAnId(f"a number of more than {MOST_DIGITS} digits; read the column as text")
    if number != int(number):
        raise NotAnId("a number with a fraction, but an id must be a text or a whole number")
    return str(int(number))


def _sendable(text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise NotAnId("a text with half a character (a lone surrogate), which can't be sent") from None
    return text


def _position(names: Sequence[str], column: str | None, subject: str, what: What, shown: bool = True) -> int:
    """Return where the column stands: by its exact name, else in any case if that means only one."""
    listed = f": {', '.join(names)}" if shown and names else ""
    if column is None:
        if len(names) == 1:
            return 0
        raise ValueError(f"{subject} {len(names)} columns{listed}; name the one with the {what} ids: column=…")
    exact = [at for at, name in enumerate(names) if name == column]
    alike = exact or [at for at, name in enumerate(names) if name.casefold() == column.casefold()]
    if len(alike) != 1:
        problem = "none of them is" if not alike else f"{len(alike)} of them are"
        raise ValueError(f"{subject} {len(names)} columns{listed}; {problem} called {column!r}")
    return alike[0]


def _listed(text: str, where: str) -> Any:
    try:
        return _parsed(text)
    except ValueError:
        pass
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


def _parsed(text: str) -> Any:
    return json.loads(text, parse_float=Decimal)


def _json(line: str) -> Any:
    if not line.strip():
        return None
    try:
        return _parsed(line)
    except (ValueError, RecursionError):
        raise NotAnId("not JSON; each line must be one text, number or object") from None


def _lines(file: Any, where: str) -> Iterator[str]:
    """Yield line by line, none of them longer than fits: a file may be one single line."""
    number = 0
    try:
        for number, line in enumerate(iter(partial(file.readline, LONGEST_LINE), ""), 1):
            if len(line) == LONGEST_LINE:
                raise ValueError(f"{where}, line {number:,} is longer than {LONGEST_LINE:,} characters")
            yield line
    except UnicodeDecodeError:
        raise ValueError(f"{where} is not UTF-8, after line {number:,}; save it as UTF-8") from None


def _csv(file: Any, where: str) -> tuple[list[str], Iterator[list[str]]]:
    """Return the names of the columns, and the rows below."""
    reader = csv.reader(_lines(file, where), strict=True)

    def rows() -> Iterator[list[str]]:
        try:
            yield from reader
        except csv.Error as error:
            raise ValueError(f"{where}, line {reader.line_num:,} is not CSV: {error}") from None

    below = rows()
    names = next(below, None)
    if names is None:
        raise ValueError(f"{where} is empty; its first line must name its columns")
    return [name.strip() for name in names], below


def _cell(names: list[str], column: str | None, where: str, what: What) -> Callable[[list[str]], str]:
    if column is None:
        raise ValueError(f"{where}: name the column with the {what} ids: column=…; its first line must name it too")
    # Names are not repeated: in a file without a line of names they'd be ids.
    at = _position(names, column, f"{where} has a first line of", what, shown=False)

    def pick(row: list[str]) -> str:
        if row and len(row) != len(names):
            raise NotAnId(
                f"{len(row)} cells, but the first line has {len(names)}; a comma that belongs to a cell needs quotes"
            )
        return row[at] if row else ""

    return pick


def _parquet(file: Any, column: str | None, where: str, what: What) -> Iterator[Any]:
    try:
        from pyarrow import parquet, types
    except ImportError as error:
        raise ValueError(
            f"{where}: reading Parquet needs pyarrow, which is not installed here: pip install pyarrow "
            "(or write the ids as .csv or .jsonl)"
        ) from error

    # With a buffer it reads as it goes; without, a whole column of a row group at once.
    table = parquet.ParquetFile(file, buffer_size=LONGEST_LINE)
    schema = table.schema_arrow
    at = _position(schema.names, column, f"{where} has", what)
    if types.is_floating(schema.types[at]) and not types.is_float64(schema.types[at]):
        raise ValueError(f"{where}: column {schema.names[at]!r} holds short floats, which are not exact; write texts")
    for batch in table.iter_batches(ROWS_AT_ONCE, columns=[schema.names[at]]):
        yield from batch.column(0).to_pylist()
