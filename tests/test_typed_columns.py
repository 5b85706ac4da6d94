"""Columns with types of Arrow, in Parquet files, Arrow files (Feather) and streams."""

import datetime as dt
import math
import uuid
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet as pq
import pytest
from packaging.version import Version
from tables import features, read, refused, write

from vfl.errors import DataError

Writer = Callable[[pa.Table, Path], object]


def to_file(table: pa.Table, path: Path) -> None:
    with pa.ipc.new_file(str(path), table.schema) as file:
        file.write_table(table)


def to_stream(table: pa.Table, path: Path) -> None:
    with pa.ipc.new_stream(str(path), table.schema) as file:
        file.write_table(table)


WRITERS: dict[str, Writer] = {
    "t.parquet": pq.write_table,
    "t.feather": pyarrow.feather.write_feather,
    "t.arrow": to_file,
    "t.arrows": to_stream,
}


@pytest.fixture(params=WRITERS)
def column(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[..., Any]:
    """Reads a column by each kind of file, as numbers, names or ids."""

    def made(values: pa.Array, use: str = "numbers", **keys: Any) -> Any:
        name: str = "id" if use == "ids" else "x"
        other = pa.array([str(i) for i in range(len(values))])
        table = pa.table({"x": other.cast(pa.int64()), "id": other, name: values})
        try:
            path = write(tmp_path / request.param, lambda path: WRITERS[request.param](table, path))
            if request.param == "t.parquet":
                pq.read_table(path)  # which some versions cannot do with what they have written
        except (pa.ArrowException, OSError):
            pytest.skip("this kind of file cannot hold the type")
        names = {"categorical": ["x"]} if use == "names" else {}
        found = read(tmp_path / request.param, lambda path: None, **names, **keys)
        return found.ids[0] if use == "ids" else features(found)["x"]

    return made


def runs(values: pa.Array) -> pa.Array:
    return pa.RunEndEncodedArray.from_arrays(pa.array([1, 3], pa.int32()), values)


TEXTS = [
    pa.array(["a", "b", "b"], kind) for kind in (pa.string(), pa.large_string(), pa.string_view())
] + [
    pa.array([b"a", b"b", b"b"], kind)
    for kind in (pa.binary(), pa.large_binary(), pa.binary_view(), pa.binary(1))
]
CODED = [text.dictionary_encode() for text in TEXTS] + [
    runs(pa.array(["a", "b"])),
    runs(pa.array(["a", "b"], pa.string_view())),
    runs(pa.array([b"a", b"b"], pa.binary_view())),
    pa.ExtensionArray.from_storage(pa.json_(), pa.array(["a", "b", "b"])),
]


@pytest.mark.parametrize("text", [*TEXTS, *CODED], ids=lambda text: str(text.type)[:40])
def test_every_type_of_text(column: Callable[..., Any], text: pa.Array) -> None:
    assert column(text, "names") == ["a", "b", "b"]
    assert column(text, "ids") == ["a", "b", "b"]
    with refused("column 'x' holds text, not numbers: ", settings={"categorical": ["x"]}):
        column(text)


NAN = math.nan
LONG = Decimal("0." + "1" * 40)
NUMBERS: list[tuple[pa.Array, list[float]]] = [
    (pa.array([1, None, -3], pa.int8()), [1, NAN, -3]),
    (pa.array([1, None, 2**63], pa.uint64()), [1, NAN, 2.0**63]),
    (pa.array([np.float16(0.5), None, np.float16(-1)]), [0.5, NAN, -1]),
    (pa.array([0.5, NAN, None], pa.float32()), [0.5, NAN, NAN]),
    (pa.array([True, None, False]), [1, NAN, 0]),
    (pa.array([Decimal("1.25"), None, Decimal("-3")], pa.decimal128(9, 2)), [1.25, NAN, -3]),
    (pa.array([LONG, None, Decimal(7)], pa.decimal256(60, 45)), [float(LONG), NAN, 7]),
    (runs(pa.array([1.5, None])), [1.5, NAN, NAN]),
    (runs(pa.array([Decimal("1.5"), None])), [1.5, NAN, NAN]),
    (pa.DictionaryArray.from_arrays(pa.array([0, None, 1]), pa.array([1.5, 2.5])), [1.5, NAN, 2.5]),
    (pa.ExtensionArray.from_storage(pa.bool8(), pa.array([0, None, 1], pa.int8())), [0, NAN, 1]),
]
for _kind in ("decimal32", "decimal64"):
    if hasattr(pa, _kind):
        NUMBERS.append((pa.array([Decimal("1.25"), None], getattr(pa, _kind)(5, 2)), [1.25, NAN]))


@pytest.mark.parametrize(("values", "numbers"), NUMBERS, ids=[str(v.type)[:40] for v, _ in NUMBERS])
def test_every_type_of_number(
    column: Callable[..., Any], values: pa.Array, numbers: list[float]
) -> None:
    np.testing.assert_array_equal(column(values), numbers)


def test_decimals_are_the_nearest_floats(column: Callable[..., Any]) -> None:
    texts = [f"{i * 7919 % 100_000}.{i * 104_729 % 10**18:018}" for i in range(500)]
    values = pa.array([Decimal(text) for text in texts], pa.decimal128(38, 18))
    assert column(values) == [float(text) for text in texts]


@pytest.mark.parametrize(
    ("values", "said"),
    [
        (pa.array([1, 2], pa.duration("s")), "holds times of day or durations: turn it into a number"),
        (pa.array([1, 2], pa.time32("s")), "holds times of day or durations"),
        (pa.array([1, 2], pa.time64("ns")), "holds times of day or durations"),
        (pa.array([(1, 2, 3), None], pa.month_day_nano_interval()), "holds times of day or durations"),
        (pa.array([1, 2], pa.timestamp("ms", "Europe/Berlin")), "holds dates or times: turn it into"),
        (pa.array([1, 2], pa.date32()), 'into a number (set dates = {x = {as = "days"}} in [data])'),
        (pa.array([[1], None]), "is of type list<"),
        (pa.array([[1], None], pa.large_list(pa.int64())), "is of type large_list<"),
        (pa.array([[1], None], pa.list_(pa.int64(), 1)), "is of type fixed_size_list<"),
        (pa.array([[1], None], pa.list_view(pa.int64())), "is of type list_view<"),
        (pa.array([{"a": {"b": [1]}}, None]), "is of type struct<"),
        (pa.array([{"a" * 99: 1}, None]), "...: write it as numbers or text, or ignore it in [data]"),
        (pa.array([[("a", 1)], None], pa.map_(pa.string(), pa.int64())), "is of type map<"),
        (pa.array([b"\xff\0", b"a"]), "is of type binary: write it as numbers or text"),
        (pa.array([b"a\x01b", b"a"], pa.binary_view()), "is of type binary_view: write it as numbers"),
        (
            pa.ExtensionArray.from_storage(pa.opaque(pa.int64(), "a", "b"), pa.array([1, 2])),
            "is of type ext",
        ),
        (pa.array([None, None]), "has no value in any row: ignore it in [data]"),
        (pa.array([None, None], pa.list_(pa.int64())), "has no value in any row"),
        (pa.array([None, None], pa.string_view()), "has no value in any row"),
    ],
    ids=str,
)
def test_what_is_neither_number_nor_text(
    column: Callable[..., Any], values: pa.Array, said: str
) -> None:
    with pytest.raises(DataError) as raised:
        column(values)
    text = str(raised.value)
    assert ": column 'x' " in text and said in text and text.isprintable()


@pytest.mark.parametrize("kind", ["period", "interval"])
def test_types_of_pandas_that_arrow_may_not_know(tmp_path: Path, kind: str) -> None:
    """Without pandas' own types a period is a bare number of months."""
    values = (
        pd.period_range("2024-01", periods=3, freq="M") if kind == "period" else pd.interval_range(0, 3)
    )
    pd.DataFrame({"id": list("ABC"), "x": values}).to_parquet(tmp_path / "t.parquet")
    with refused("column 'x' is of "):
        read(tmp_path / "t.parquet", lambda path: None)
    table = pq.read_table(tmp_path / "t.parquet")
    storage = (
        table["x"].combine_chunks().storage if hasattr(table["x"].type, "storage_type") else table["x"]
    )
    mark = {b"ARROW:extension:name": f"pandas.{kind}x".encode()}  # of a type that is not known here
    fields = [table.schema.field("id"), pa.field("x", storage.type, metadata=mark)]
    unknown = pa.table([table["id"], storage], schema=pa.schema(fields))
    with refused("column 'x' is of "):
        read(tmp_path / "u.parquet", lambda path: pq.write_table(unknown, path))


def test_ids_that_are_uuids(column: Callable[..., Any]) -> None:
    ids = [uuid.UUID(int=i) for i in (1, 2**100, 3)]
    values = pa.ExtensionArray.from_storage(
        pa.uuid(), pa.array([one.bytes for one in ids], pa.binary(16))
    )
    assert column(values, "ids") == [str(one) for one in ids]
    raw = pa.array([bytes(range(240, 256)), bytes(16)], pa.binary(16))
    with refused("id column 'id' is of type fixed_size_binary[16]: write it as text"):
        column(raw, "ids")


BERLIN = pa.timestamp("s", "Europe/Berlin")


@pytest.mark.parametrize(
    ("values", "rule", "made"),
    [
        (pa.array([dt.date(2024, 1, 1), None]), {"as": "days"}, [19723, NAN]),
        (pa.array([0, None], pa.date64()), {"as": "year"}, [1970, NAN]),
        (pa.array([-1, None, 86399], pa.timestamp("s")), {"as": "days"}, [-1, NAN, 0]),
        (pa.array([1704063600, None], BERLIN), {"as": "days"}, [19723, NAN]),  # the day in Berlin
        (pa.array([1704063600, None], BERLIN), {"as": "month"}, [1, NAN]),
        (pa.array(["2024-02-29", None], pa.string_view()), {"as": "age", "at": "2027-02-28"}, [2, NAN]),
        (pa.array([20240229, None]), {"as": "age", "at": "2027-03-01"}, [3, NAN]),
        (pa.array([b"29.02.2024", None]), {"as": "year", "order": "dmy"}, [2024, NAN]),
        (pa.array(["2024-02-29", None]).dictionary_encode(), {"as": "year"}, [2024, NAN]),
    ],
)
def test_dates_become_numbers(
    column: Callable[..., Any], values: pa.Array, rule: dict[str, Any], made: list[float]
) -> None:
    np.testing.assert_array_equal(column(values, dates={"x": rule}), made)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        (pa.array([1, None], pa.timestamp("s", "Mars/Base")), "has an unknown time zone: write it"),
        (pa.array([1.5, None]), "is of type double and holds no dates: take it out of dates"),
        (pa.array([[1], None]), "holds no dates: take it out of dates"),
        (pa.array([45657, None]), "has text that is no date of order ymd in row 2"),
    ],
)
def test_what_is_no_date(column: Callable[..., Any], values: pa.Array, said: str) -> None:
    with refused(said):
        column(values, dates={"x": {"as": "days"}})


@pytest.mark.parametrize("schema", [True, False])
def test_old_timestamps_beyond_the_range_of_nanoseconds(tmp_path: Path, schema: bool) -> None:
    """As Spark and Impala write them: 9999-12-31 must not come back as 1816."""
    days = [dt.datetime(1200, 1, 1, 0, 0, 59), dt.datetime(9999, 12, 31, 23, 59), None]
    table = pa.table({"id": list("ABC"), "x": pa.array(days, pa.timestamp("us"))})
    if Version(pa.__version__) < Version("23"):
        pytest.skip("earlier versions write other times, though they read these")
    found = read(
        tmp_path / "t.parquet",
        lambda path: pq.write_table(
            table, path, use_deprecated_int96_timestamps=True, store_schema=schema
        ),
        dates={"x": {"as": "year"}},
    )
    np.testing.assert_array_equal(found.features["x"], [1200, 9999, NAN])


@pytest.mark.parametrize("name", WRITERS)
def test_damaged_files(tmp_path: Path, name: str) -> None:
    table = pa.table({"id": [f"A{i}" for i in range(500)], "x": np.arange(500.0)})
    whole = write(tmp_path / name, lambda path: WRITERS[name](table, path)).read_bytes()
    generator = np.random.default_rng(1)
    outcomes = set()
    for _ in range(60):
        changed = bytearray(whole)
        start = int(generator.integers(8, len(whole) - 20))
        changed[start : start + 12] = generator.bytes(12)
        try:
            read(tmp_path / name, bytes(changed))
            outcomes.add("read")  # values may have changed, which no format but Parquet can tell
        except Exception as error:
            assert type(error).__name__ in ("TableError", "DataError"), error
            outcomes.add("refused")
    assert "refused" in outcomes
    for cut in (20, len(whole) // 2, len(whole) - 9):
        with refused(f"{name}: the file is damaged"):
            read(tmp_path / name, whole[:cut])


def test_encrypted_parquet_and_parts_that_cannot_be_read(tmp_path: Path) -> None:
    with refused("t.arrow: the file has columns but no rows"):
        empty = pa.table({"id": pa.array([], pa.string()), "x": pa.array([], pa.int64())})
        read(tmp_path / "t.arrow", lambda path: to_file(empty, path))
    with refused("t.feather: no column 'id' (named by id): the columns are x"):
        read(tmp_path / "t.feather", lambda path: to_file(pa.table({"x": [1]}), path))


def test_text_that_is_not_utf8(tmp_path: Path) -> None:
    """Parquet's own mark of text says nothing about its bytes."""
    raw = pa.array([b"K\xf6ln", b"Ulm"])
    text = pa.Array.from_buffers(pa.string(), 2, raw.buffers())
    table = pa.table({"id": ["A", "B"], "x": text})
    with refused("column 'x' has text that is not UTF-8 or is damaged: write it anew"):
        read(tmp_path / "t.parquet", lambda path: pq.write_table(table, path), categorical=["x"])
    table = pa.table({"id": text, "x": [1, 2]})
    with refused("column 'id' has text that is not UTF-8 or is damaged: write it anew"):
        read(tmp_path / "t.parquet", lambda path: pq.write_table(table, path))
