"""Ids from values, queries and files: what becomes an id, what is refused, and how little is read and held."""

from __future__ import annotations

import csv
import gzip
import io
import itertools
import json
import logging
import math
import sqlite3
import sys
import uuid
from collections import namedtuple
from contextlib import closing
from decimal import Decimal
from types import ModuleType, SimpleNamespace

import numpy
import pytest
from airflow.providers.common.compat.sdk import BaseHook
from airflow.providers.common.sql.hooks.sql import DbApiHook
from airflow.sdk.execution_time.lazy_sequence import LazyXComSequence
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from airflow_amplitude_experiment.operators._sources import Source, TooMany, from_path, from_sql, from_values

SECRET = "anna@example.com"
DEEP = "[" * 9_999
AWKWARD = [
    "a,b",
    'say "hi"',
    "two\nlines",
    "carriage\r\nreturn",
    "tab\tbed",
    "😀👩‍👩‍👧",
    "007",
    "x" * 1_000,
    "a'b",
    "line\u2028separator",
]


def read(values, cap=2_000, **more):
    return from_values(values, cap=cap, **more)


def ids(values, **more):
    return read(values, **more).ids


def refusal(call, *args, **more):
    with pytest.raises(ValueError, match=r"\w") as caught:
        call(*args, **{"cap": 2_000, **more})
    assert SECRET not in str(caught.value)
    return str(caught.value)


# What becomes an id


@pytest.mark.parametrize(
    ("value", "wanted"),
    [
        ("007", "007"),
        ("1.0", "1.0"),
        ("  anna\n", "anna"),
        ("a b", "a b"),
        (7, "7"),
        (0, "0"),
        (-7, "-7"),
        (7.0, "7"),
        (-0.0, "0"),
        (2.0**53 - 1, "9007199254740991"),
        (2**53 + 1, "9007199254740993"),
        (10**38 - 1, "9" * 38),
        (Decimal("7.00"), "7"),
        (Decimal("1E+3"), "1000"),
        (Decimal("9" * 38), "9" * 38),
        (numpy.int64(2**60 + 1), str(2**60 + 1)),
        (numpy.float64(7), "7"),
        (uuid.UUID(int=7), "00000000-0000-0000-0000-000000000007"),
    ],
)
def test_a_value_becomes_the_id_it_stands_for_exactly(value, wanted):
    assert ids([value, "other"]) == [wanted, "other"]


@pytest.mark.parametrize("blank", [None, "", " \t\n", math.nan, Decimal("NaN"), Decimal("sNaN"), numpy.float64("nan")])
def test_a_blank_row_is_dropped_and_counted(blank):
    assert read(["a", blank, "b"]) == Source(["a", "b"], {"blank": 1, "duplicate": 0}, 3, "the values given")


def test_duplicates_are_dropped_and_counted_however_they_are_written():
    source = read(["7", 7, 7.0, " 7 ", Decimal("7.00"), "07"])
    assert (source.ids, source.skipped) == (["7", "07"], {"blank": 0, "duplicate": 4})


def test_ids_keep_the_order_in_which_they_first_came():
    assert ids(["b", "a", "b", "c"]) == ["b", "a", "c"]


@pytest.mark.parametrize(
    ("value", "why"),
    [
        (True, "a bool"),
        (numpy.bool_(True), "a bool"),
        (b"anna@example.com", "a bytes"),
        ({1}, "a set"),
        (object(), "a object"),
        (2.0**53, "a float of 9,007,199,254,740,992 or more, which is not exact"),
        (math.inf, "not exact"),
        (Decimal("Infinity"), "more than 100 digits"),
        (10**101, "more than 100 digits"),
        (Decimal("1E+999999"), "more than 100 digits"),
        (7.5, "a number with a fraction"),
        (Decimal("0.1"), "a number with a fraction"),
        (f"{SECRET}\ud83d", "half a character"),
        ([], "0 values without names"),
    ],
)
def test_what_can_be_no_id_is_refused_by_the_number_of_its_row(value, why):
    text = refusal(from_values, ["a", "b", value])
    assert text.startswith("the values given, row 3: ")
    assert why in text


def test_texts_that_were_once_floats_are_refused_since_they_match_nobody():
    assert "'.0'" in refusal(from_values, ["1.0", "22.0"])


def test_a_source_never_shows_its_ids():
    assert SECRET not in f"{read([SECRET])!r}{read([SECRET])}"


# The cap


def test_as_many_ids_as_the_cap_are_read():
    assert len(ids(map(str, range(2_000)))) == 2_000


def test_one_id_beyond_the_cap_is_refused_with_the_way_out():
    text = refusal(from_values, map(str, range(2_001)))
    assert "more than 2,000 different user ids (row 2,001 has one more)" in text
    assert "AmplitudeSyncVariantCohortsOperator" in text


def test_blank_and_duplicate_rows_do_not_count_towards_the_cap():
    assert ids(["a", "a", None, "b"] * 10, cap=2) == ["a", "b"]


def test_reading_stops_at_the_first_id_beyond_the_cap():
    endless = itertools.count()
    with pytest.raises(TooMany):
        from_values(endless, cap=5)
    assert next(endless) == 6


def test_too_many_cohorts_are_told_of_as_cohorts():
    text = refusal(from_values, ["c1", "c2"], cap=1, what="cohort")
    assert "more than 1 different cohort ids" in text
    assert "fewer cohorts" in text


def test_a_cap_beyond_what_a_variant_takes_asks_for_another_source_not_for_a_cohort():
    text = refusal(from_values, map(str, range(2_002)), cap=2_001)
    assert "A variant has 2,000 at the most" in text
    assert "cohort" not in text


# Values


@pytest.mark.parametrize("values", [["a", "b"], ("a", "b"), (each for each in "ab"), dict.fromkeys("ab").keys()])
def test_any_iterable_of_ids_will_do(values):
    assert ids(values) == ["a", "b"]


@pytest.mark.parametrize(
    "text", ['["a", "007", 7, 7.0]', "['a', '007', 7, 7.0]", "\n  [\n'a', '007', 7]\n", "('a', '007', 7)"]
)
def test_a_rendered_list_is_read_as_json_or_as_python_writes_it(text):
    assert ids(text) == ["a", "007", "7"]


def test_numbers_in_json_text_stay_exact():
    assert ids("[9007199254740993, 9007199254740993.0, 1e3]") == ["9007199254740993", "1000"]


@pytest.mark.parametrize(
    "text",
    [
        SECRET,
        f"{SECRET}, b",
        f'"{SECRET}"',
        f'{{"{SECRET}": 1}}',
        f"['{SECRET}'",
        DEEP,
        "-" * 99_999,
        "",
    ],
)
def test_a_text_that_is_no_list_is_refused(text):
    assert "list" in refusal(from_values, text)


@pytest.mark.parametrize("values", [{SECRET: 1}, b"anna", 7, None])
def test_what_is_no_list_is_refused(values):
    assert "must be a list" in refusal(from_values, values)


def test_rows_give_the_column_that_is_named():
    rows = [{"user_id": "a", "mail": SECRET}, {"user_id": 7, "mail": SECRET}]
    assert ids(rows, column="user_id") == ["a", "7"]


def test_rows_of_a_mapped_query_give_the_column_that_is_named():
    row = namedtuple("row", ["user_id", "mail"])
    assert ids([row("a", SECRET), row("b", SECRET)], column="USER_ID") == ["a", "b"]


def test_rows_of_one_column_need_no_name():
    assert ids([("a",), ["b"], {"user_id": "c"}]) == ["a", "b", "c"]


def test_rows_of_several_columns_are_refused():
    assert "row 1: 2 columns; name the one" in refusal(from_values, [{"user_id": "a", "mail": SECRET}])


def test_a_mapping_by_id_in_a_list_is_refused_without_its_keys():
    assert "row 1: 2 columns" in refusal(from_values, [{SECRET: "on", f"other-{SECRET}": "on"}])


def test_a_data_frame_is_no_list_of_the_names_of_its_columns():
    class DataFrame:
        """As much of one as matters: it is gone through by the names of its columns."""

        columns = ("user_id", "plan")

        def __iter__(self):
            return iter(self.columns)

    assert "must be a list of user ids or of rows, but are a DataFrame" in refusal(from_values, DataFrame())


def test_rows_of_several_values_without_names_are_refused():
    assert "row 1: 2 values without names" in refusal(from_values, [("a", SECRET)], column="user_id")


def test_a_list_of_lists_is_never_mixed_into_one():
    assert "row 1: 2 values" in refusal(from_values, [["a", SECRET], ["b", SECRET]])


def test_a_row_without_the_column_is_blank():
    assert read([{"user_id": "a"}, {"mail": "x"}], column="user_id").skipped["blank"] == 1


def test_a_column_that_no_row_has_is_refused_rather_than_empty():
    assert "no row has a column 'userid'" in refusal(from_values, [{"user_id": "a"}], column="userid")


def test_a_column_that_two_names_could_mean_is_refused():
    assert "columns 'ID' and 'Id'" in refusal(from_values, [{"ID": "a", "Id": "b"}], column="id")


def test_the_exact_name_of_a_column_wins_over_others_in_another_case():
    assert ids([{"ID": "a", "id": "b"}], column="id") == ["b"]


class Mapped(LazyXComSequence):
    """What Airflow hands on from a mapped task, with the answers of Airflow's server."""

    def __init__(self, *results):
        super().__init__(xcom_arg=None, ti=None)
        self.results = results

    def __len__(self):
        return len(self.results)

    def __getitem__(self, key):
        return self.results[key]


def test_a_mapped_task_hands_on_one_id_each():
    assert ids(Mapped("a", "b", None)) == ["a", "b"]


def test_a_mapped_task_hands_on_a_list_each():
    assert read(Mapped(["a", "b"], [], ["b", "c"])) == Source(
        ["a", "b", "c"], {"blank": 0, "duplicate": 1}, 4, "the values given"
    )


# A query


class Warehouse:
    """A database in a file, its hook, and how many rows were fetched."""

    def __init__(self, path):
        self.path = path
        self.fetched = 0
        self.hooks = []

    def holds(self, rows, columns="user_id"):
        with closing(sqlite3.connect(self.path)) as connection, connection:
            connection.execute(f"CREATE TABLE users ({columns})")
            marks = ", ".join("?" * (columns.count(",") + 1))
            connection.executemany(f"INSERT INTO users VALUES ({marks})", rows)

    def hook(self, conn_id):
        warehouse = self

        class Cursor(sqlite3.Cursor):
            def fetchmany(self, size=1):
                rows = super().fetchmany(size)
                warehouse.fetched += len(rows)
                return rows

        class Connection(sqlite3.Connection):
            def cursor(self):
                return super().cursor(Cursor)

        class Hook(DbApiHook):
            conn_name_attr = "warehouse_conn_id"

            def get_conn(self):
                return sqlite3.connect(warehouse.path, factory=Connection)

            def _make_common_data_structure(self, result):
                assert isinstance(result, list)  # Databricks refuses anything else
                return [tuple(row) for row in result]

        self.hooks.append(Hook())
        return self.hooks[-1]


@pytest.fixture
def warehouse(tmp_path, monkeypatch):
    found = Warehouse(tmp_path / "warehouse.db")
    monkeypatch.setattr(BaseHook, "get_hook", found.hook)
    return found


def query(sql="SELECT * FROM users", cap=2_000, **more):
    return from_sql(sql, conn_id="warehouse", cap=cap, **more)


def test_a_query_gives_its_rows(warehouse):
    warehouse.holds([("007",), (7,), (7.0,), (None,), ("",)])
    assert query() == Source(["007", "7"], {"blank": 2, "duplicate": 1}, 5, "the query on connection 'warehouse'")


def test_a_query_takes_parameters(warehouse):
    warehouse.holds([("a", 1), ("b", 2)], "user_id, plan")
    sql = "SELECT user_id FROM users WHERE plan = "
    assert query(f"{sql}:plan", parameters={"plan": 2}).ids == ["b"]
    assert query(f"{sql}?", parameters=[1]).ids == ["a"]


def test_what_a_query_binds_stands_in_no_log(warehouse, caplog):
    warehouse.holds([(SECRET,)])
    with caplog.at_level(logging.INFO):
        query("SELECT user_id FROM users WHERE user_id = ?", parameters=[SECRET])
    assert SECRET not in caplog.text


def test_no_more_rows_are_fetched_than_it_takes_to_pass_the_cap(warehouse):
    warehouse.holds((str(number),) for number in range(20_000))
    with pytest.raises(TooMany, match=r"row 2,001 "):
        query()
    assert warehouse.fetched <= 2_500


@pytest.mark.parametrize("column", ["user_id", "USER_ID"])
def test_a_query_of_several_columns_gives_the_one_that_is_named(warehouse, column):
    warehouse.holds([(SECRET, "a")], "mail, User_Id") if column == "USER_ID" else warehouse.holds(
        [(SECRET, "a")], "mail, user_id"
    )
    assert query(column=column).ids == ["a"]


def test_a_query_of_several_columns_is_refused_with_their_names(warehouse):
    warehouse.holds([(SECRET, "a")], "mail, user_id")
    assert "returns 2 columns: mail, user_id; name the one with the user ids" in refusal(
        from_sql, "SELECT * FROM users", conn_id="warehouse"
    )


def test_a_query_without_the_column_is_refused_with_the_names_it_has(warehouse):
    warehouse.holds([(SECRET, "a")], "mail, user_id")
    text = refusal(from_sql, "SELECT * FROM users", conn_id="warehouse", column="uid")
    assert "mail, user_id; none of them is called 'uid'" in text


def test_a_column_in_another_case_is_refused_where_it_could_be_two(warehouse):
    warehouse.holds([("a", "b")], "one, two")
    sql = 'SELECT one AS "Id", two AS "ID" FROM users'
    assert "2 of them are called 'id'" in refusal(from_sql, sql, conn_id="warehouse", column="id")
    assert query(sql, column="ID").ids == ["b"]


def test_a_row_of_a_query_that_holds_no_id_is_refused_by_its_number(warehouse):
    warehouse.holds([("a",), (SECRET.encode(),)])
    assert "'warehouse', row 2: a bytes" in refusal(from_sql, "SELECT * FROM users", conn_id="warehouse")


def test_a_statement_that_returns_nothing_is_refused(warehouse):
    warehouse.holds([])
    assert "must be a SELECT" in refusal(from_sql, "DELETE FROM users", conn_id="warehouse")


def test_a_query_without_rows_is_an_empty_source(warehouse):
    warehouse.holds([])
    assert query().ids == []


def test_a_connection_without_sql_is_refused(monkeypatch):
    monkeypatch.setattr(BaseHook, "get_hook", lambda conn_id: BaseHook())
    assert "connection 'slack' has no SQL hook" in refusal(from_sql, "SELECT 1", conn_id="slack")


def test_rows_that_a_cursor_returns_as_mappings_are_read(monkeypatch):
    rows = iter([[{"mail": SECRET, "user_id": "a"}], []])
    cursor = SimpleNamespace(description=[("mail",), ("user_id",)], fetchmany=lambda size: next(rows))
    hook = type(
        "Hook", (DbApiHook,), {"conn_name_attr": "x", "run": lambda self, sql, handler, parameters: handler(cursor)}
    )
    monkeypatch.setattr(BaseHook, "get_hook", lambda conn_id: hook())
    assert query(column="user_id").ids == ["a"]


# A file


def written(folder, name, text, encoding="utf-8"):
    data = text.encode(encoding)
    (folder / name).write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    return str(folder / name)


def file(path, column=None, cap=2_000, **more):
    return from_path(path, column=column, cap=cap, **more)


def as_csv(wanted, **how):
    text = io.StringIO()
    csv.writer(text, **how).writerows([["plan", "user_id"], *(("pro", each) for each in wanted)])
    return text.getvalue()


def as_json_lines(wanted, **how):
    return "".join(f"{json.dumps({'user_id': each}, **how)}\n" for each in wanted)


@pytest.mark.parametrize("name", ["u.csv", "u.csv.gz", "U.CSV"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_awkward_ids_survive_csv(tmp_path, name, encoding):
    assert file(written(tmp_path, name, as_csv(AWKWARD), encoding), "user_id").ids == AWKWARD


@pytest.mark.parametrize("name", ["u.jsonl", "u.ndjson", "u.jsonl.gz"])
@pytest.mark.parametrize("ascii_only", [True, False])
def test_awkward_ids_survive_json_lines(tmp_path, name, ascii_only):
    assert file(written(tmp_path, name, as_json_lines(AWKWARD, ensure_ascii=ascii_only)), "user_id").ids == AWKWARD


TEXTS = st.lists(
    st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=40).filter(
        lambda text: text == text.strip()
    ),
    unique=True,
    max_size=20,
).filter(lambda texts: not texts or any(text.rpartition(".")[2] != "0" for text in texts))


# Before Python 3.13 a lone carriage return is quoted only where it is part of the line's end.
@given(wanted=TEXTS, how=st.sampled_from([(csv.QUOTE_MINIMAL, "\r\n"), (csv.QUOTE_ALL, "\r\n"), (csv.QUOTE_ALL, "\n")]))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_ids_survive_csv(tmp_path, wanted, how):
    text = as_csv(wanted, quoting=how[0], lineterminator=how[1])
    assert file(written(tmp_path, "u.csv", text), "user_id").ids == wanted


@given(wanted=TEXTS, ascii_only=st.booleans())
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_ids_survive_json_lines(tmp_path, wanted, ascii_only):
    text = as_json_lines(wanted, ensure_ascii=ascii_only)
    assert file(written(tmp_path, "u.jsonl", text), "user_id").ids == wanted


@given(wanted=TEXTS)
def test_any_ids_survive_a_template(wanted):
    assert ids(json.dumps(wanted)) == ids(repr(wanted)) == wanted


@given(numbers=st.lists(st.integers(), unique=True))
def test_any_whole_numbers_survive_json_lines_and_values(numbers):
    assert ids(numbers) == ids(json.dumps(numbers)) == [str(number) for number in numbers]


def test_lines_of_json_may_be_texts_numbers_or_objects(tmp_path):
    path = written(tmp_path, "u.jsonl", '"007"\n9007199254740993\n7.0\r\n\n{"User_Id": "a", "x": 1}\nnull\n{"x": 1}')
    assert file(path, "user_id") == Source(["007", "9007199254740993", "7", "a"], {"blank": 3, "duplicate": 0}, 7, path)


def test_cells_of_a_csv_are_texts_as_they_stand(tmp_path):
    assert file(written(tmp_path, "u.csv", " id \n007\n 7 \n1e3\n\n9007199254740993\n"), "id").ids == [
        "007",
        "7",
        "1e3",
        "9007199254740993",
    ]


@pytest.mark.parametrize(("name", "text"), [("u.csv", "user_id\na\n"), ("u.jsonl", '{"user_id": "a"}\n')])
def test_the_mark_that_some_programs_put_before_a_file_is_no_part_of_it(tmp_path, name, text):
    assert file(written(tmp_path, name, text, "utf-8-sig"), "user_id").ids == ["a"]


@pytest.mark.parametrize("ending", ["csv", "jsonl"])
def test_a_file_is_read_no_further_than_the_cap(tmp_path, ending):
    many = [str(number) for number in range(2_001)]
    text = as_csv(many) if ending == "csv" else as_json_lines(many)
    # Far beyond what a reader takes in at a time stands what would fail, if it were read.
    path = tmp_path / f"u.{ending}"
    path.write_bytes(text.encode() + b"\n" * 100_000 + b"\xff")
    with pytest.raises(TooMany):
        file(path, "user_id")


def test_a_path_may_be_a_url_with_a_connection(tmp_path, monkeypatch):
    opened = []
    monkeypatch.setattr(
        "airflow.sdk.io.path.attach", lambda protocol, conn_id=None, **_: opened.append(conn_id) or local()
    )

    def local():
        import fsspec

        return SimpleNamespace(fs=fsspec.filesystem("file"))

    path = written(tmp_path, "u.csv", "id\na\n")
    assert file(f"file://{path}", "id", conn_id="store").ids == ["a"]
    assert set(opened) == {"store"}


def test_a_csv_needs_the_name_of_its_column_or_could_lose_its_first_id(tmp_path):
    assert "name the column" in refusal(from_path, written(tmp_path, "u.csv", f"{SECRET}\nb\n"))


def test_a_csv_without_a_line_of_names_is_refused_without_repeating_it(tmp_path):
    text = refusal(from_path, written(tmp_path, "u.csv", f"{SECRET},1\nb,2\n"), column="user_id")
    assert "has 2 columns; none of them is called 'user_id'" in text


def test_an_empty_csv_is_refused(tmp_path):
    assert "is empty" in refusal(from_path, written(tmp_path, "u.csv", ""), column="user_id")


def test_a_csv_with_nothing_below_its_names_is_an_empty_source(tmp_path):
    assert file(written(tmp_path, "u.csv", "user_id\n"), "user_id").read == 0


@pytest.mark.parametrize("row", [f"a,{SECRET}", f"a,{SECRET},c,d"])
def test_a_row_of_csv_with_other_cells_than_the_first_line_is_refused(tmp_path, row):
    path = written(tmp_path, "u.csv", f"user_id,x,y\na,b,c\n{row}\n")
    assert "row 2: " in refusal(from_path, path, column="user_id")


@pytest.mark.parametrize("broken", [f'"{SECRET}', f'"{SECRET}"x'])
def test_a_csv_with_broken_quotes_is_refused_by_its_line(tmp_path, broken):
    path = written(tmp_path, "u.csv", f"user_id\na\n{broken}\n")
    assert "is not CSV" in refusal(from_path, path, column="user_id")


@pytest.mark.parametrize(
    "broken", [SECRET, f'{{"user_id": "{SECRET}"', f'"{SECRET}" "b"', "9" * 9_999, "1e99999999999999999999", DEEP]
)
def test_a_line_that_is_no_json_is_refused_by_its_number(tmp_path, broken):
    path = written(tmp_path, "u.jsonl", f'"a"\n{broken}\n')
    assert "row 2: not JSON" in refusal(from_path, path)


def test_a_file_of_one_endless_line_is_refused_before_it_is_held(tmp_path):
    path = written(tmp_path, "u.jsonl", json.dumps([SECRET] * 100_000))
    assert "line 1 is longer than 1,000,000 characters" in refusal(from_path, path)


@pytest.mark.parametrize("name", ["u.csv", "u.jsonl"])
def test_a_file_in_another_encoding_is_refused(tmp_path, name):
    path = written(tmp_path, name, 'user_id\n"Zoë"\n', "utf-16")
    assert "is not UTF-8" in refusal(from_path, path, column="user_id")


@pytest.mark.parametrize("name", ["u.xlsx", "u", "u.parquet.gz", "csv"])
def test_a_file_of_another_kind_is_refused_with_the_kinds_there_are(name):
    assert ".csv, .jsonl, .ndjson" in refusal(from_path, f"/data/{name}")


def test_a_file_that_is_not_there_may_come_later(tmp_path):
    with pytest.raises(FileNotFoundError):
        file(str(tmp_path / "u.csv"), "user_id")


def test_a_column_that_no_line_has_is_refused(tmp_path):
    path = written(tmp_path, "u.jsonl", '{"user_id": "a"}\n')
    assert "no row has a column 'uid'" in refusal(from_path, path, column="uid")


# Parquet


def test_parquet_without_pyarrow_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    assert "pip install pyarrow" in refusal(from_path, written(tmp_path, "u.parquet", "PAR1"), column="user_id")


class Table:
    """What the reader asks of pyarrow, where pyarrow is not installed."""

    def __init__(self, columns, kind="string"):
        self.columns = columns
        self.schema_arrow = SimpleNamespace(names=list(columns), types=[kind for _ in columns])
        self.taken = 0

    def iter_batches(self, size, columns):
        rows = self.columns[columns[0]]
        for start in range(0, len(rows), size):
            self.taken += 1
            yield SimpleNamespace(
                column=lambda at, part=rows[start : start + size]: SimpleNamespace(to_pylist=lambda: part)
            )


@pytest.fixture
def parquet(tmp_path, monkeypatch):
    def holds(columns, kind="string"):
        table = Table(columns, kind)

        def opened(file, *, buffer_size, pre_buffer):
            assert buffer_size
            assert not pre_buffer, "pyarrow would read a row group's whole column"
            return table

        pyarrow = ModuleType("pyarrow")
        pyarrow.parquet = SimpleNamespace(ParquetFile=opened)
        pyarrow.types = SimpleNamespace(
            is_floating=lambda kind: kind in ("float", "double"), is_float64=lambda kind: kind == "double"
        )
        monkeypatch.setitem(sys.modules, "pyarrow", pyarrow)
        return table, written(tmp_path, "u.parquet", "PAR1")

    return holds


def test_a_column_of_parquet_is_read_in_batches_up_to_the_cap(parquet):
    table, path = parquet({"mail": [], "user_id": list(range(100_000))})
    assert "row 2,001 has one more" in refusal(from_path, path, column="USER_ID")
    assert table.taken == 5


def test_parquet_of_several_columns_is_refused_with_their_names(parquet):
    _, path = parquet({"mail": [], "user_id": []})
    assert "has 2 columns: mail, user_id" in refusal(from_path, path)


@pytest.mark.parametrize(("kind", "refused"), [("float", True), ("double", False)])
def test_short_floats_of_parquet_are_refused(parquet, kind, refused):
    _, path = parquet({"user_id": [1.0]}, kind)
    if refused:
        assert "short floats" in refusal(from_path, path)
    else:
        assert file(path).ids == ["1"]


def test_parquet_as_pyarrow_writes_it(tmp_path):
    pyarrow = pytest.importorskip("pyarrow", reason="pyarrow is optional; benchmarks/sync_memory.py runs with it")
    from pyarrow import parquet

    table = pyarrow.table({"mail": ["x"] * len(AWKWARD), "user_id": AWKWARD})
    parquet.write_table(table, tmp_path / "u.parquet")
    assert file(str(tmp_path / "u.parquet"), "user_id").ids == AWKWARD
