"""Tables that a query over files makes."""

import fcntl
import os
import subprocess
import sys
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyarrow import feather

from tests.tables import features, refused, write
from vfl.blocks.scratch import Scratch
from vfl.blocks.spill import spill_folder
from vfl.errors import ConfigError
from vfl.party.config import load_party
from vfl.party.sections import DataSection
from vfl.party.sources import parquet, query
from vfl.party.sources.opening import open_source
from vfl.party.sources.parquet import Columnar
from vfl.party.sources.streamed import streamed
from vfl.party.store import Store
from vfl.party.table import Table, Wanted, read_table, read_wanted

duckdb = pytest.importorskip("duckdb")


def section(folder: Path, query: str, **keys: Any) -> DataSection:
    named = {"path": folder / "policies.csv", "id": "id", "query": query}
    return DataSection.model_validate(named | keys)


def read(folder: Path, query: str, **keys: Any) -> Table:
    return read_table(section(folder, query, **keys), role="guest", need_label=False)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Policies as text, vehicles in Parquet parts."""
    write(tmp_path / "policies.csv", "id;plate;age;zone\n007;C;30;b\n02;A;19;a\n1;B;;a\n11;A;44;b\n")
    (tmp_path / "vehicles").mkdir()
    one = {"plate": ["A", "B"], "power": pa.array([70, 90], pa.int32())}
    pq.write_table(pa.table(one), tmp_path / "vehicles" / "0.parquet")
    pq.write_table(pa.table({**one, "plate": ["C", "D"]}), tmp_path / "vehicles" / "1.parquet")
    return tmp_path


def test_a_query_joins_and_filters(folder: Path) -> None:
    table = read(
        folder,
        """
        select id, cast(age as integer) - 18 as years, power / 10 as power, zone
        from data join vehicles using (plate)
        where power < 90 -- of the small ones
        ;
        """,
        tables={"vehicles": folder / "vehicles"},
        categorical=["zone"],
    )
    assert table.ids == [["007", "02", "11"]]  # in the order of ids as text, which stay as written
    assert features(table) == {"years": [12, 1, 26], "power": [7, 7, 7], "zone": ["b", "a", "b"]}
    assert table.row_numbers([0, 2]) == [1, 3]


def test_text_is_read_as_without_a_query(folder: Path) -> None:
    write(folder / "policies.csv", 'id,age,sum\n1,3,"1.234,5"\n2,,"2,5"\n')
    table = read(folder, "select * from data", decimal=",", thousands=".")
    got = features(table)
    assert got["sum"] == [1234.5, 2.5]
    assert got["age"][0] == 3 and np.isnan(got["age"][1])
    with refused("[data] query: column 'sum' has text that is no number in row 1", "1.234"):
        read(folder, "select * from data")


def test_what_a_query_makes_has_types(folder: Path) -> None:
    query = """select id, 1.5::decimal(10, 2) d, sum(1)::hugeint s, count(*) c, true b, null n,
        date '2024-02-03' as day, timestamptz '2024-02-03 23:30:00-02' as moment, 'a'::enum('a', 'b') e
        from data group by id"""
    table = read(
        folder,
        query,
        categorical=["e"],
        ignore=["n"],
        dates={"day": {"as": "days"}, "moment": {"as": "days"}},
    )
    got = {name: values[0] for name, values in features(table).items()}
    assert got == {"d": 1.5, "s": 1, "c": 1, "b": 1, "day": 19756, "moment": 19757, "e": "a"}
    table = read(folder, "select 12::bigint * row_number() over () as id, 1 as x from data")
    assert table.ids == [["12", "24", "36", "48"]]
    with refused("[data] query: column 'l' is of type list<", "secret"):
        read(folder, "select id, ['secret'] as l from data")


def test_rows_that_are_too_many_for_memory_lie_in_a_file(folder: Path) -> None:
    query = "select id, age, zone, power from data join vehicles using (plate)"
    keys: dict[str, Any] = {"tables": {"vehicles": folder / "vehicles"}, "categorical": ["zone"]}
    expected = read(folder, query, **keys)
    scratch = Scratch(folder, 0)
    keys["path"] = folder / "policies*.csv"  # of parts as of one
    table = read_wanted(section(folder, query, **keys), Wanted("guest", False, scratch=scratch))
    assert [list(cells) for cells in table.ids] == [list(cells) for cells in expected.ids]
    assert str(features(table)) == str(features(expected))
    assert table.order == expected.order


def test_folders_and_unlike_parts(folder: Path) -> None:
    for year, power in (("2023", 1), ("2024", 2.5)):
        inner = folder / "h" / f"year={year}"
        inner.mkdir(parents=True)
        columns = {"plate": [f"P{year}"], "power": [power], **({} if power == 1 else {"new": [1]})}
        pq.write_table(pa.table(columns), inner / "0.parquet")
    keys: dict[str, Any] = {"path": folder / "h", "id": "plate"}
    table = read(folder, "select plate, power, year from data where year >= '2023'", **keys)
    assert features(table) == {"power": [1, 2.5], "year": [2023, 2024]}
    with refused(
        "there is no column 'new': year=2023/0.parquet: no column 'new', which year=2024/0.parquet has"
    ):
        read(folder, "select plate, new from data", **keys)
    alike = {**keys, "path": folder / "h" / "year=2024"}
    assert features(read(folder, "select plate, new, year from data", **alike))["year"] == [2024]


TYPED = pa.table(
    {
        "id": [f"{i:04}" for i in range(600)],
        "zone": pa.array([f"z{i % 7}" for i in range(600)]).dictionary_encode(),
        "x": [i / 4 if i % 9 else None for i in range(600)],
        "a b=1": pa.array(range(600), pa.int32()),
        "bytes": [f"b{i % 3}".encode() for i in range(600)],
    }
)
STREAMED = ("parquet", "feather", "arrow", "parts", "unlike")


def write_typed(folder: Path, kind: str) -> Path:
    """The same rows as a file of one kind, in groups and batches, or as several files."""
    path = folder / f"typed.{kind}"
    if kind == "parquet":
        pq.write_table(TYPED, path, row_group_size=100)
    elif kind in ("feather", "arrow"):
        make = pa.ipc.new_file if kind == "feather" else pa.ipc.new_stream
        with make(path, TYPED.schema) as file:
            file.write_table(TYPED, max_chunksize=100)
    else:
        for number in range(3):
            part = TYPED.slice(200 * number, 200)
            if kind == "unlike" and number == 1:
                part = part.set_column(2, "x", part["x"].cast(pa.float32()))
                part = part.set_column(1, "zone", part["zone"].cast(pa.string()))
            (path / f"n={number}").mkdir(parents=True)
            pq.write_table(part, path / f"n={number}" / "0.parquet", row_group_size=50)
    return path


@pytest.mark.parametrize("kind", STREAMED)
def test_typed_files_are_read_in_pieces(
    folder: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is asked for alone, several times in a query, by way of files where rows are many."""
    path = write_typed(folder, kind)
    asked: list[tuple[list[str], int]] = []
    before = Columnar.batches

    def batches(self: Columnar, schema: pa.Schema, groups: Any = None) -> Any:
        for batch in before(self, schema, groups):
            asked.append((schema.names, batch.num_rows))
            yield batch

    monkeypatch.setattr(Columnar, "batches", batches)
    monkeypatch.setattr(parquet, "PIECE", 64)
    keys: dict[str, Any] = {"path": path, "categorical": ["zone", "bytes"]}
    folders = {"n": [0.0] * 200 + [1.0] * 200 + [2.0] * 200} if kind in ("parts", "unlike") else {}
    data = section(folder, "select * from data", **keys)
    table = read_wanted(data, Wanted("guest", False, scratch=Scratch(folder, 0)))
    assert table.ids == [TYPED["id"].to_pylist()]
    got = features(table)
    assert str(got.pop("x")) == str([np.nan if x is None else x for x in TYPED["x"].to_pylist()])
    assert got == {
        "zone": TYPED["zone"].to_pylist(),
        "a b=1": [*range(600)],
        "bytes": [b.decode() for b in TYPED["bytes"].to_pylist()],
        **folders,
    }
    asked.clear()
    query = """select d.id, d.x, e.n as rows from data d, (select count(*) as n from data) e
        where d."a b=1" between 210 and 220 and exists (select 1 from data f where f.zone = d.zone)"""
    table = read(folder, query, path=path)
    assert table.ids == [[f"{i:04}" for i in range(210, 221)]]
    assert features(table)["rows"] == [600] * 11
    assert not any("bytes" in names for names, _ in asked)
    if kind in ("parquet", "parts", "unlike"):  # of other groups of rows the file says that none fits
        asked.clear()
        table = read(folder, 'select id, x from data where "a b=1" between 210 and 220', path=path)
        assert table.ids == [[f"{i:04}" for i in range(210, 221)]]
        assert sum(n for _, n in asked) <= 300
    if folders:
        asked.clear()
        assert read(folder, "select id, x, n from data where n = '2'", path=path).rows == 200
        assert sum(n for _, n in asked) == (400 if kind == "unlike" else 200)


@pytest.mark.parametrize("kind", STREAMED)
def test_a_damaged_file_is_named(folder: Path, kind: str) -> None:
    path = write_typed(folder, kind)
    file = path / "n=1" / "0.parquet" if path.is_dir() else path
    whole = bytearray(file.read_bytes())
    start = len(whole) // 2 if kind in ("feather", "arrow") else 20
    whole[start : start + 600] = bytes(600)
    file.write_bytes(whole)
    with refused(f"{file.name}: the file is damaged"):
        read(folder, "select * from data", path=path)


CONDITIONS = (
    "zone = 'z3'",
    "bytes in ('b1', 'b2') and x is not null",
    "x is null",
    "x > 3 and x < 5.5 or zone = 'z1'",
    "day between date '2024-02-01' and date '2024-02-09'",
    "moment > timestamptz '1970-01-10 00:00:00+00'",
    "sum < 1.3::double or sum = 12.25",
    """ "a b=1" = 5 or starts_with(id, '000') """,
    "id in (select id from {0} where x > 100)",
    "not even and time > time '00:00:20'",
    "pair.a > 590",
    "false",
)


@pytest.mark.parametrize("kind", ["parquet", "feather", "unlike"])
def test_conditions_hold_as_for_a_table_in_memory(
    folder: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever of them DuckDB hands down to who reads the files."""
    n = range(600)
    table = TYPED
    for name, values in {
        "day": pa.array([19700 + i for i in n], pa.date32()),
        "moment": pa.array([3600 * i for i in n], pa.timestamp("s", "Europe/Berlin")),
        "sum": pa.array([Decimal(i) / 4 for i in n]),
        "even": pa.array([i % 2 == 0 for i in n]),
        "time": pa.array([100 * i for i in n], pa.time32("ms")),
        "pair": pa.array([{"a": i} for i in n]),
    }.items():
        table = table.append_column(name, values)
    monkeypatch.setattr(sys.modules[__name__], "TYPED", table)
    source = open_source(write_typed(folder, kind), section(folder, "select 1"))
    assert isinstance(source, Columnar)
    connection = duckdb.connect()
    connection.execute("set timezone = 'UTC'")
    connection.register("files", streamed(source, source.names, []))
    source.read(source.names)
    connection.register("memory", pa.table({name: source.plain(name) for name in source.names}))
    for condition in CONDITIONS:
        for asked in ("*", "id, x", "count(*)", "zone, count(*), sum(x)"):
            group = "group by zone" if asked.startswith("zone") else ""
            files, memory = (
                connection.sql(f"select {asked} from {of} where {condition.format(of)} {group}")  # noqa: S608
                for of in ("files", "memory")
            )
            assert sorted(map(str, files.fetchall())) == sorted(map(str, memory.fetchall())), condition


def test_types_that_duckdb_does_not_know(folder: Path) -> None:
    columns = {
        "id": ["a", "b"],
        "half": pa.array([0.5, None], pa.float16()),
        "long": pa.array([Decimal("1234567890.125"), None], pa.decimal256(60, 3)),
        "halves": pa.array([[0.5], None], pa.list_(pa.float16())),
    }
    path = folder / "t.feather"
    feather.write_feather(pa.table(columns), path)
    got = features(read(folder, "select * from data", path=path))
    assert str(got) == "{'half': [0.5, nan], 'long': [1234567890.125, nan]}"
    with refused(
        "there is no column 'halves': t.feather: column 'halves' is of a type that a query cannot"
    ):
        read(folder, "select id, len(halves) as n from data", path=path)


def test_types_without_one_in_common(folder: Path) -> None:
    (folder / "u").mkdir()
    pq.write_table(pa.table({"id": ["a"], "x": [2**60 + 1]}), folder / "u" / "0.parquet")
    pq.write_table(pa.table({"id": ["b"], "x": [0.5]}), folder / "u" / "1.parquet")
    with refused(
        "0.parquet: column 'x' is of a type, int64, that has none in common with that of other"
    ):
        read(folder, "select * from data", path=folder / "u")
    pq.write_table(pa.table({"id": ["b"], "x": ["y"]}), folder / "u" / "1.parquet")
    with refused("1.parquet: column 'x' holds text, but numbers in 0.parquet"):
        read(folder, "select * from data", path=folder / "u")


def test_any_file_may_be_asked(folder: Path) -> None:
    columns = {"id": pa.array(["x", "y"]).dictionary_encode(), "v": [Decimal("1.25"), None]}
    pq.write_table(pa.table(columns), folder / "p.parquet")
    write(folder / "z.csv", "id,w\nx,1\n")
    tables = {"p": folder / "p.parquet", "z": folder / "*.csv"}
    (folder / "policies.csv").rename(folder / "policies.txt")
    table = read(
        folder,
        "select p.id, p.v, z.w from p left join z using (id) where exists (select 1 from data)",
        tables=tables,
        path=folder / "policies.txt",
    )
    assert table.ids == [["x", "y"]]
    assert features(table)["v"][0] == 1.25
    assert str(features(table)["w"]) == "[1.0, nan]"


def test_a_batch_takes_the_place_of_the_tables_own_rows(folder: Path) -> None:
    data = section(
        folder,
        "select id, power from data join vehicles using (plate)",
        tables={"vehicles": folder / "vehicles"},
    )
    batch = write(folder / "new.csv", "id,plate\nn2,D\nn1,A\n")
    wanted = Wanted("guest", False, path=batch, expect=["power"])
    table = read_wanted(data, wanted)
    assert table.ids == [["n1", "n2"]]
    assert features(table) == {"power": [70, 90]}
    # Read again without its ids, rows are in the same order.
    again = read_wanted(
        data.model_copy(update={"id": ()}),
        Wanted("guest", False, path=batch, expect=["power"], order=["id"]),
    )
    assert features(again) == features(table)
    assert again.order == table.order != b""
    write(batch, "id,plate\nn2,D\nn3,A\n")
    assert read_wanted(data, wanted).order != table.order


def test_rows_of_a_batch_that_a_query_leaves_out_are_counted(folder: Path) -> None:
    query = "select id, power from data join vehicles using (plate)"
    batch = write(folder / "new.csv", "id,plate\nn1,A\nn2,D\nn3,nowhere\n")
    left = {}
    for condition in ("", " where power < 80"):
        data = section(folder, query + condition, tables={"vehicles": folder / "vehicles"})
        table = read_wanted(data, Wanted("guest", False, path=batch, expect=["power"]))
        left[condition] = table.left_out
    assert left == {"": 1, " where power < 80": 2}
    own = read(folder, f"{query} where power < 80", tables={"vehicles": folder / "vehicles"})
    assert own.left_out == 0  # of the table of a training that is what the query is for


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ('select d.id, d."claim" from data d', "[data] query: there is no column 'claim'; new.csv, who"),
        ("select id, claim from data", "[data] query: there is no column 'claim'; new.csv, whose rows"),
        ('select id, "claim" from data', "[data] query: line 1, character 12, has a name in double qu"),
    ],
)
def test_a_batch_lacks_what_the_query_reads(folder: Path, query: str, said: str) -> None:
    """As the label of rows to score: an empty column does."""
    write(folder / "old.csv", "id,age,claim\n1,30,1\n")
    data = section(folder, query, path=folder / "old.csv")
    batch = write(folder / "new.csv", "id,age\nn1,40\n")
    wanted = Wanted("guest", False, path=batch, expect=[])
    for words in (said, "also one for training alone such as the label (empty where it is not known)"):
        with refused(words):
            read_wanted(data, wanted)
    write(batch, "id,age,claim\nn1,40,\n")
    assert read_wanted(data, wanted).ids == [["n1"]]


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("select * frm data", "[data] query: line 1 is no SQL that DuckDB knows"),
        ("selec", "[data] query: line 1 is no SQL"),
        ("select id,\nalter from data", "[data] query: there is no column 'alter'"),
        ("select data.alter from data", "[data] query: there is no column 'alter'"),
        ("select id from policies", "[data] query: there is no table 'policies': a query has data"),
        ("select p.id from data", "[data] query: there is no table 'p': a query has data"),
        ("select id,\nfoo(age) from data", "[data] query: DuckDB knows no function 'foo'"),
        ("select id,\n\ncast(zone || 'secret' as int) from data", "[data] query: it turns a value"),
        ("select id, exp(1000 * length(id)) x, cast(300 as tinyint) from data", "turns a value"),
        ("select id, id + 1 from data where zone", "[data] query: "),
        ("select id, age, age from data", "[data] query: column 'age' comes twice: leave one out, or"),
        ("select d.*, v.* from data d join vehicles v using (plate)", "column 'plate' comes twice"),
        ("select id, 1 as Age, age from data", "columns 'Age' and 'age' differ in case alone, which a"),
        ("select id, avg(age) from data group by id", "avg takes no values of such types: cast(column"),
        ("select id, zone + age from data", "[data] query: + takes no values of such types"),
        ("select id, age from data group by id", "column 'age' is neither in group by nor in an aggr"),
        (
            "select id, sum(sum(1)) from data group by id",
            "[data] query: one aggregate is inside another",
        ),
        ("select id from data where id = ?", "it has a parameter (? or $1), which nothing fills in"),
        ("select id from data where id = $x", "it has a parameter (? or $1), which nothing fills in"),
        ("select id, 1 // 0 as x from data", "it divides by zero: nullif(divisor, 0) makes the value"),
        (
            "select id, (select id from data) from data",
            "that stands for a single value has several rows",
        ),
        ("select id from data join vehicles using (id)", "column 'id' is not on both sides of the join"),
        ("select * exclude (alter) from data", "[data] query: there is no column 'alter'"),
        (
            'select id from data where id = "secret"',
            "[data] query: line 1, character 32, has a name in double quotes that is not there: text",
        ),
        (
            'select id,\n  "age", "aeg" from data',
            "[data] query: line 2, character 10, has a name in double quotes that is not there",
        ),
        ('select d."aeg" from data d', "[data] query: there is no column 'aeg'"),
        (
            "select id, 170141183460469231731687303715884105727::hugeint as x from data",
            "column 'x' has a number of more digits than its type, decimal128(38, 0), has: make it",
        ),
        ("select id, date 'infinity' as x from data", "column 'x' has an infinite date in row 1 (and 3"),
        (
            "select id, timestamptz '-infinity' as x from data",
            "column 'x' has an infinite date in row 1",
        ),
        ("select id from data where id = 'none'", "[data] query: there are no rows"),
        ("select a.id from data a, data b where id = '1'", "column 'id' is in several tables: say of"),
        ("select 1; select 2", "[data] query: it must be one select"),
        ("", "[data] query"),
        ("create table x as select 1", "[data] query: it must be one select"),
        ("copy data to 'out.csv'", "[data] query: it must be one select"),
        ("attach 'x.db'", "[data] query: it must be one select"),
        ("set memory_limit = '9GB'", "[data] query: it must be one select"),
        ("install httpfs", "[data] query: it must be one select"),
    ],
)
def test_a_query_that_cannot_be(folder: Path, query: str, said: str) -> None:
    if not query:
        with pytest.raises(ValueError, match="query"):
            section(folder, query)
        return
    with refused(said, "secret", "none'"):
        read(folder, query, tables={"vehicles": folder / "vehicles"})


def test_what_goes_wrong_among_the_rows(folder: Path) -> None:
    """Where batches have come already."""
    (folder / "big.txt").write_text("id,n\n1,1\n")
    late = "case when range < 250000 then '1' else 'secret' end"
    for value, said in (
        (f"cast({late} as integer)", "it turns a value into a type that cannot hold it"),
        (f"strptime({late}, '%d')::varchar", "it gives a function a value that it cannot take"),
        ("(range + 250000)::usmallint * 0", "it turns a value into a type that cannot hold it"),
        ("3::tinyint * (range // 5000)::tinyint", "it makes a number that is too large for its type"),
    ):
        query = f"select range as id, {value} as x from data, range(300000)"  # noqa: S608
        with refused(f"[data] query: {said}", "secret"):
            read(folder, query, path=folder / "big.txt")


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("select id, random() as x from data", "random makes other rows or values whenever"),
        ("select id, 1 as x from data using sample 100%", "a sample makes other rows or values"),
        (
            "select id, 1 as x from (select * from data using sample 4 rows) order by uuid()",
            "a sample and uuid make other rows",
        ),
        (
            "with a as (select id, now() as x from data) select id, hour(x) as x from a",
            "now makes other",
        ),
        (
            "select id, year(current_date) as x from data",
            "current_date makes other values on another day",
        ),
        ("select id, 1 as x from data using sample 100% (bernoulli, 3)", ""),
        (
            "select id, hash(id) % 9 as x, age(date '2024-01-01', date '2023-01-01')::text y from data",
            "",
        ),
        ("select id, today as x from (select id, age as today from data)", ""),
    ],
)
def test_what_is_another_whenever_it_is_read_is_noted(folder: Path, query: str, said: str) -> None:
    table = read(folder, query, ignore=["y"] if "::text y" in query else None)
    notes = [note for note in table.warnings if "whenever" in note or "another day" in note]
    assert len(notes) == bool(said)
    assert all(said in note for note in notes)


@pytest.mark.parametrize(
    "read_it",
    [
        "read_csv('{}')",
        "read_text('{}')",
        "read_blob('{}')",
        "read_parquet('{}')",
        "sniff_csv('{}')",
        "glob('{}')",
        "read_csv('https://example.com/x.csv')",
        "'{}'",
        "parquet_metadata('{}')",
        "secrets",  # a variable of Python's
    ],
)
def test_a_query_reads_nothing_else(folder: Path, read_it: str) -> None:
    secrets = pa.table({"id": ["1"]})
    assert secrets.num_rows == 1
    path = write(folder / "other.csv", "id,x\n1,2\n")
    with refused("[data] query: "):
        read(folder, f"select * from data, {read_it.format(path)}")  # noqa: S608
    with refused("[data] query: "):
        read(folder, "select id, getenv('HOME') from data")


def test_memory_is_bounded(folder: Path) -> None:
    (folder / "big.txt").write_text("id,n\n1,1\n")
    with refused("[data] query: it takes more than 64 MB: raise query_memory in [data]"):
        read(folder, "select list(md5(range::varchar)) as id from range(3000000)", query_memory=64)


SORTED = "select md5(range::varchar) || range as id, 1 as x from data, range(1000000) order by id"


def test_what_does_not_fit_into_memory_lies_in_scratch(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "big.txt").write_text("id,n\n1,1\n")
    scratch = folder / "store" / "scratch"
    left, held = scratch / "spill-left", scratch / "spill-held"
    for path in (left, held):
        path.mkdir(parents=True)
        (path / "duckdb_temp_0.tmp").write_text("secret")
        (path / "lock").touch()
    seen: dict[str, int] = {}
    before = query.gather

    def look(scratch_of_job: Scratch, reader: pa.RecordBatchReader) -> Any:
        def batches() -> Iterator[pa.RecordBatch]:
            for batch in reader:
                for path in () if seen else scratch.glob("spill-*/*"):
                    if path.parent not in (left, held):
                        assert path.parent.stat().st_mode & 0o077 == 0
                        seen[path.name] = path.stat().st_size
                yield batch

        return before(scratch_of_job, pa.RecordBatchReader.from_batches(reader.schema, batches()))

    monkeypatch.setattr(query, "gather", look)
    lock = os.open(held / "lock", os.O_RDWR)
    fcntl.flock(lock, fcntl.LOCK_EX)
    keys: dict[str, Any] = {"path": folder / "big.txt", "query_memory": 64}
    wanted = Wanted("guest", False, scratch=Scratch(scratch, 0))
    assert read_wanted(section(folder, SORTED, **keys), wanted).rows == 1_000_000
    assert sum(seen.values()) > 1e6
    assert [*scratch.iterdir()] == [held]
    with refused("[data] query: it takes more than 5 MB of the disk of ", "secret"):
        read_wanted(section(folder, SORTED, **keys, query_disk=5), wanted)
    assert [*scratch.iterdir()] == [held]
    os.close(lock)
    with Store(scratch.parent).in_use():
        assert not [*scratch.iterdir()]


def test_what_a_killed_process_has_left_is_removed(tmp_path: Path) -> None:
    program = """if True:
        import os, pathlib, signal
        from vfl.blocks.spill import spill_folder
        with spill_folder(pathlib.Path("scratch")) as folder:
            (folder / "file").write_text("x")
            os.kill(os.getpid(), signal.SIGKILL)"""
    killed = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, check=False)
    scratch = tmp_path / "scratch"
    assert killed.returncode < 0 and len([*scratch.glob("spill-*/file")]) == 1
    (scratch / "spill-empty").mkdir()
    with spill_folder(scratch) as one, spill_folder(scratch) as other:
        assert {*scratch.iterdir()} == {one, other}
    assert not [*scratch.iterdir()]
    scratch.rmdir()
    scratch.write_text("no folder")
    with refused("scratch cannot be written"), spill_folder(scratch):
        pass


def test_rows_of_one_id_stay_as_the_query_orders_them(folder: Path) -> None:
    table = read(folder, "select zone as id, age from data where age is not null order by age desc")
    assert table.ids == [["a", "b", "b"]]
    assert features(table) == {"age": [19, 44, 30]}


def test_a_file_without_names_shows_no_cell(folder: Path) -> None:
    for first in ("K7,3,k7", "K7,3,x"):
        write(folder / "policies.csv", f"{first}\nK8,4,y\nK9,3,z\n")
        with refused("the first row seems to hold cells", "K7", "k7"):
            read(folder, "select * from data")


def test_columns_that_differ_in_case(folder: Path) -> None:
    write(folder / "policies.csv", "id,age,Age\n1,2,3\n")
    with refused("policies.csv: columns 'age' and 'Age' differ in case alone, which a query does not"):
        read(folder, "select * from data")


def test_notes_on_files_are_kept(folder: Path) -> None:
    write(folder / "policies.csv", "id,name,age\n1,M\ufffdller,2\n2,x,3\n")
    table = read(folder, "select id, age from data")
    assert table.warnings == [
        "policies.csv: letters were lost or changed by an earlier conversion: export it anew"
    ]


def test_without_duckdb(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "duckdb", None)
    with refused(
        "[data] query over files needs DuckDB, which is not installed: pip install 'vfl[duckdb]'"
    ):
        read(folder, "select * from data")


PARTY = """
[party]
name = "bureau"
role = "host"
identity = "keys/bureau"

[data]
id = "plate"
{}

[peers.insurer]
certificate = "peers/insurer.pem"
address = "127.0.0.1:7443"
"""


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ("", "[data] path is missing: name a file, a folder or a pattern, or a database under source"),
        ('path = "a.csv"\nsource = "postgresql://db/x"\ntable = "t"', "[data] path and source exclude"),
        ('path = "a.csv"\ntable = "t"', "[data] table goes with source, which names a database"),
        ('path = "a.csv"\npassword_variable = "X"', "[data] password_variable goes with source"),
        ('source = "postgresql://db/x"', "[data] source needs a table, or a query"),
        ('source = "mysql://db/x"\ntable = "t"', "[data] source must be the address of a database: one"),
        (
            'source = "postgresql://u:hidden@db/x"\ntable = "t"',
            "[data] source has a password, which bel",
        ),
        ('source = "postgresql://u@db/x?password=hidden"\ntable = "t"', "[data] source has a password"),
        ('source = "postgresql://u%3Ahidden@db/x"\ntable = "t"', "[data] source has a password"),
        (
            'source = "postgresql://u@db/x?sslpassword=hidden"\ntable = "t"',
            "[data] source has a password",
        ),
        ('source = "postgresql://db/x#t"\ntable = "t"', "[data] source names a table behind #"),
        (
            'source = "postgresql://[db/x"\ntable = "t"',
            "[data] source must be the address of a database",
        ),
        ('source = "postgresql://db/x y"\ntable = "t"', "[data] source must be one line without blanks"),
        ('source = "postgresql://db/x"\ntable = "a..b"', "[data] table must be the name of a table"),
        ('source = "postgresql://db/x"\ntable = \'a"b\'', "[data] table must be the name of a table"),
        ('path = "a.csv"\ntables = {v = "v.csv"}', "[data] tables goes with a query over files"),
        (
            'path = "a.csv"\nquery = "select 1"\ntables = {data = "v.csv"}',
            "[data] tables has data, which stands for the rows of path",
        ),
        (
            'path = "a.csv"\nquery = "select 1"\ntables = {"V 1" = "v.csv"}',
            "[data] tables has a name that is none",
        ),
        (
            'source = "postgresql://db/x"\ntable = "t"\npassword_file = "p"\npassword_variable = "P"',
            "[data] password_file and password_variable exclude each other",
        ),
        ('path = "a.csv"\nquery = "select 1"\nquery_memory = 1', "[data] query_memory must be"),
    ],
)
def test_keys_that_cannot_be(tmp_path: Path, lines: str, said: str) -> None:
    (tmp_path / "bureau.toml").write_text(PARTY.format(lines))
    with pytest.raises(ConfigError) as raised:
        load_party(tmp_path / "bureau.toml")
    assert said in str(raised.value), str(raised.value)
    assert "hidden" not in str(raised.value)
    assert str(raised.value).isprintable()
