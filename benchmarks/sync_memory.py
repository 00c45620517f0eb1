"""What a sync's source costs in memory, against how many rows it has.

A query, a CSV, JSON lines and, where pyarrow is installed, Parquet: of 10,000, 100,000 and 1,000,000 rows. Each is read
in a fresh process in three ways, and before it is measured once from a source of a few rows, so that what is loaded on
first use counts for nobody:

* ``refused``: every row is somebody else, so reading stops at the first id beyond the cap of 2,000;
* ``to the end``: the rows name 2,000 people again and again, so all of them are read and nothing is refused;
* ``a list``: the obvious way, ``get_records`` or its like, with every row of the first source in a list.

``MB`` is what the process's peak grew by (``ru_maxrss``), ``traced`` the peak of what Python allocated meanwhile
(``tracemalloc``), measured in a second reading. The command fails where our traced peak is over 2 MB, at any number of
rows; Parquet's buffers fill up to half of that as a file grows, and no further.

Run it with ``make bench``, or on its own; ``--rows`` names other sizes.
"""

from __future__ import annotations

import argparse
import csv
import json
import resource
import sqlite3
import subprocess
import sys
import tracemalloc
from collections.abc import Callable
from contextlib import closing
from importlib.metadata import version
from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from typing import Any

from import_time import contained

CAP = 2_000
MOST_TRACED = 2.0
WARM_UP = 10
SOURCES = ("sql", "csv", "jsonl", "parquet")
WAYS = ("refused", "to the end", "a list")
MEGABYTE = 1_000_000
UNIT_OF_RSS = 1 if sys.platform == "darwin" else 1_024


def main() -> None:
    """Measure every source in every way, print a table, and fail where memory grows with the rows."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rows", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--measure", nargs=4, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        measure(*options.measure)
        return
    sources = [source for source in SOURCES if source != "parquet" or find_spec("pyarrow")]
    with contained() as environment:
        for rows in (WARM_UP, *options.rows):
            write(Path(environment["AIRFLOW_HOME"]), rows, sources)
        print(f"Peak memory of reading ids, cap {CAP:,}, Airflow {version('apache-airflow')}; list/ours as traced")
        print(f"{'':<8}{'rows':>10}" + "".join(f"{way:>13}{'traced':>8}" for way in WAYS) + f"{'list/ours':>11}")
        found = {(source, rows): line(source, rows, environment) for source in sources for rows in sorted(options.rows)}
    judge(found)


def line(source: str, rows: int, environment: dict[str, str]) -> list[float]:
    """Measure a source in every way, print the line of the table; return the megabytes traced."""
    of_way = [measured(source, rows, way, environment) for way in WAYS]
    columns = "".join(f"{process:>10.1f} MB{traced:>8.2f}" for process, traced in of_way)
    traced = [traced for _, traced in of_way]
    print(f"{source:<8}{rows:>10,}{columns}{traced[2] / traced[1]:>10.1f}x", flush=True)
    return traced


def write(home: Path, rows: int, sources: list[str]) -> None:
    """Write each source twice: with as many people as rows, and with as many as the cap."""
    for people in ("distinct", "repeated"):
        place = home / f"{people}-{rows}"
        ids = (f"{row if people == 'distinct' else row % CAP:036x}" for row in range(rows))
        with (
            place.with_suffix(".csv").open("w", newline="") as as_csv,
            place.with_suffix(".jsonl").open("w") as as_json,
            closing(sqlite3.connect(place.with_suffix(".db"))) as connection,
            connection,
        ):
            connection.execute("CREATE TABLE users (user_id TEXT)")
            as_csv.write("user_id\n")
            while chunk := list(islice(ids, 10_000)):
                connection.executemany("INSERT INTO users VALUES (?)", [(each,) for each in chunk])
                csv.writer(as_csv).writerows([each] for each in chunk)
                as_json.writelines(f"{json.dumps({'user_id': each})}\n" for each in chunk)
    if "parquet" in sources:
        code = (
            "import sys; from pyarrow import csv, parquet; parquet.write_table(csv.read_csv(sys.argv[1]), sys.argv[2])"
        )
        for people in ("distinct", "repeated"):
            place = home / f"{people}-{rows}"
            names = [str(place.with_suffix(ending)) for ending in (".csv", ".parquet")]
            subprocess.run([sys.executable, "-c", code, *names], check=True)


def measured(source: str, rows: int, way: str, environment: dict[str, str]) -> list[float]:
    """Read a source in a fresh process: megabytes that the process grew by, megabytes traced."""
    run = subprocess.run(
        [sys.executable, __file__, "--measure", source, str(rows), way, environment["AIRFLOW_HOME"]],
        capture_output=True,
        text=True,
        env=environment,
        check=False,
    )
    if run.returncode:
        raise SystemExit(f"{source}, {rows} rows, {way}\n{run.stderr}")
    figures: list[float] = json.loads(run.stdout.rpartition("MEASURED")[2])
    return figures


def measure(source: str, rows: str, way: str, home: str) -> None:
    """In the fresh process: read a few rows, then all of them twice."""
    people = "repeated" if way == "to the end" else "distinct"
    ending = "db" if source == "sql" else source
    read = in_a_list(source) if way == "a list" else ours(source)
    read(f"{home}/{people}-{WARM_UP}.{ending}")
    path, before = f"{home}/{people}-{rows}.{ending}", peak()
    check(read(path), rows=int(rows), way=way)
    grown = peak() - before
    tracemalloc.start()
    read(path)
    print("MEASURED" + json.dumps([grown / MEGABYTE, tracemalloc.get_traced_memory()[1] / MEGABYTE]))


def check(read: int, *, rows: int, way: str) -> None:
    """Make sure that what was measured is what the table says."""
    expected = min(rows, CAP + 1) if way == "refused" else rows
    if read != expected:
        raise SystemExit(f"{read} rows read, expected {expected}")


def peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * UNIT_OF_RSS


def ours(source: str) -> Callable[[str], int]:
    """Return what reads a source as a sync does, and says how many rows it took."""
    from airflow.providers.common.compat.sdk import BaseHook

    from airflow_amplitude_experiment.operators._sources import TooMany, from_path, from_sql

    def read(path: str) -> int:
        try:
            if source != "sql":
                return from_path(path, column="user_id", cap=CAP).read
            BaseHook.get_hook = lambda conn_id: hook(path)
            return from_sql("SELECT user_id FROM users", conn_id="warehouse", cap=CAP).read
        except TooMany:
            return CAP + 1

    return read


def in_a_list(source: str) -> Callable[[str], int]:
    """Return what reads all of a source into a list, and says how many rows that were."""

    def read(path: str) -> int:
        if source == "sql":
            return len(hook(path).get_records("SELECT user_id FROM users"))
        if source == "parquet":
            from pyarrow import parquet

            return len(parquet.read_table(path).column("user_id").to_pylist())
        with open(path, newline="") as file:
            return len(list(csv.DictReader(file)) if source == "csv" else [json.loads(line) for line in file])

    return read


def hook(path: str) -> Any:
    """Return a hook of ``common.sql`` for the database in a file."""
    from airflow.providers.common.sql.hooks.sql import DbApiHook

    class Hook(DbApiHook):
        conn_name_attr = "warehouse_conn_id"

        def get_conn(self) -> sqlite3.Connection:
            return sqlite3.connect(path)

    return Hook()


def judge(found: dict[tuple[str, int], list[float]]) -> None:
    """Say how much more the most rows take than the fewest, and fail where ours take too much."""
    sources, sizes = dict.fromkeys(source for source, _ in found), sorted({rows for _, rows in found})
    print(f"Traced at {sizes[-1]:,} rows against {sizes[0]:,}, which is {sizes[-1] / sizes[0]:,.0f} times as many:")
    for source in sources:
        growth = [most / least for most, least in zip(found[source, sizes[-1]], found[source, sizes[0]], strict=True)]
        print(f"{source:<18}" + "".join(f"{way:>13}{times:>7.2f}x" for way, times in zip(WAYS, growth, strict=True)))
    most = max(traced for of_way in found.values() for traced in of_way[:2])
    print(f"Ours: {most:.2f} MB at the most, {'within' if most <= MOST_TRACED else 'OVER'} {MOST_TRACED} MB.")
    if most > MOST_TRACED:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
