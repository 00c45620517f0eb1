"""The rows of a file of ids: CSV, JSON lines, Parquet; as they are read, never the whole file.

Apart from the sources, because each kind of file has its own ways to be broken, and a broken line must end the sync
instead of being taken for an id.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from ._source_rows import ROWS_AT_ONCE, NotAnId, What, parsed, position

LONGEST_LINE = 1_000_000
BYTES_AT_ONCE = 1 << 16


def csv_rows(
    file: Any, column: str | None, *, where: str, what: What
) -> tuple[Iterator[list[str]], Callable[[list[str]], str]]:
    """Return the rows below the first line, and what takes the column out of one."""
    if column is None:
        raise ValueError(f"{where}: name the column with the {what} ids: column=…; the first line must name it too")
    rows = _csv(file, where)
    names = next(rows, None)
    if names is None:
        raise ValueError(f"{where} is empty; its first line must name its columns")
    # The names are not repeated: in a file without a line of names they'd be ids.
    at = position([name.strip() for name in names], column, f"the first line of {where} has", what=what, shown=False)

    def pick(row: list[str]) -> str:
        if row and len(row) != len(names):
            raise NotAnId(
                f"{len(row)} cells, but the first line has {len(names)}; a comma that belongs to a cell needs quotes"
            )
        return row[at] if row else ""

    return rows, pick


def _csv(file: Any, where: str) -> Iterator[list[str]]:
    reader = csv.reader(lines(file, where), strict=True)
    try:
        yield from reader
    except csv.Error as error:
        raise ValueError(f"{where}, line {reader.line_num:,} is not CSV: {error}") from None


def line_value(line: str) -> Any:
    """Return what a line of JSON says."""
    if not line.strip():
        return None
    try:
        return parsed(line)
    except ValueError:
        raise NotAnId("not JSON; each line must be one text, number or object") from None


def lines(file: Any, where: str) -> Iterator[str]:
    """Yield line by line, none of them longer than fits: a file may be one single line."""
    number = 0
    try:
        for number, line in enumerate(iter(partial(file.readline, LONGEST_LINE), ""), 1):
            if len(line) == LONGEST_LINE:
                raise ValueError(f"{where}, line {number:,} is longer than {LONGEST_LINE:,} characters")
            yield line
    except UnicodeDecodeError:
        raise ValueError(f"{where} is not UTF-8, after line {number:,}; save it as UTF-8") from None


def parquet_cells(file: Any, column: str | None, *, where: str, what: What) -> Iterator[Any]:
    """Yield a column of a Parquet file."""
    try:
        from pyarrow import parquet, types  # type: ignore[import-not-found]
    except ImportError as error:
        raise ValueError(
            f"{where}: reading Parquet needs pyarrow, which is not installed here: pip install pyarrow "
            "(or write the ids as .csv or .jsonl)"
        ) from error

    # With a buffer of its own it reads as it goes; else a whole column of a row group at once.
    table = parquet.ParquetFile(file, buffer_size=BYTES_AT_ONCE, pre_buffer=False)
    schema = table.schema_arrow
    at = position(schema.names, column, f"{where} has", what=what)
    if types.is_floating(schema.types[at]) and not types.is_float64(schema.types[at]):
        raise ValueError(f"{where}: column {schema.names[at]!r} holds short floats, which are not exact; write texts")
    for batch in table.iter_batches(ROWS_AT_ONCE, columns=[schema.names[at]]):
        yield from batch.column(0).to_pylist()
