"""Tables in several files: folders and patterns."""

import os
from collections.abc import Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.tables import features, refused, write
from vfl.blocks.scratch import Scratch
from vfl.party.output import table_files
from vfl.party.sections import DataSection
from vfl.party.sources.parts import parts_of
from vfl.party.sources.source import Source
from vfl.party.table import Table, Wanted, read_table, read_wanted


def read(path: Path, **keys: Any) -> Table:
    section = DataSection.model_validate({"path": path, "id": "id", **keys})
    return read_table(section, role="guest", need_label=False)


def parts(folder: Path, *columns: dict[str, Any]) -> Path:
    """Parquet files part-0, part-1, ... in a folder."""
    folder.mkdir(exist_ok=True)
    for number, one in enumerate(columns):
        pq.write_table(pa.table(one), folder / f"part-{number}.parquet")
    return folder


def test_rows_come_in_the_order_of_the_files_names(tmp_path: Path) -> None:
    folder = tmp_path / "policies"
    for name, cells in {
        "b.csv": "B,2",
        "a.csv": "A,1\nAA,1.5",
        "a10.csv": "A10,3",
        "a9.csv": "A9,4",
    }.items():
        folder.mkdir(exist_ok=True)
        write(folder / name, f"id,age\n{cells}\n")
    for hidden in ("_SUCCESS", ".a.csv.crc"):
        write(folder / hidden, "x")
    for path in (folder, folder / "*.csv", tmp_path / "pol*" / "*", tmp_path / "**" / "*.csv"):
        table = read(path)
        assert table.ids == [["A", "AA", "A10", "A9", "B"]]
        assert features(table) == {"age": [1, 1.5, 3, 4, 2]}
        assert table.rows == 5


def test_a_file_of_that_name_is_no_pattern(tmp_path: Path) -> None:
    write(tmp_path / "policies[1].csv", "id,age\nA,1\n")
    write(tmp_path / "policies1.csv", "id,age\nB,2\n")
    assert read(tmp_path / "policies[1].csv").ids == [["A"]]
    assert read(tmp_path / "policies[!0].csv").ids == [["B"]]


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_parts_that_are_too_many_for_memory_lie_in_files(tmp_path: Path, kind: str) -> None:
    for name, cells in {"a": [("A", 1, "x"), ("B", 2, "y")], "b": [("C", 3, "x")]}.items():
        frame = pd.DataFrame(cells, columns=["id", "age", "zone"])
        frame.to_csv(tmp_path / f"{name}.csv", index=False)
        frame.to_parquet(tmp_path / f"{name}.parquet", index=False)
    section = DataSection.model_validate(
        {"path": tmp_path / f"*.{kind}", "id": "id", "categorical": ["zone"]}
    )
    table = read_wanted(section, Wanted("guest", False, scratch=Scratch(tmp_path, 0)))
    assert [list(cells) for cells in table.ids] == [["A", "B", "C"]]
    assert features(table) == {"age": [1, 2, 3], "zone": ["x", "y", "x"]}


def test_columns_are_known_by_their_names(tmp_path: Path) -> None:
    write(tmp_path / "a.csv", "id,age,zone\nA,1,x\n")
    write(tmp_path / "b.csv", "zone;id;age\ny;B;2\n")  # as each file is written
    table = read(tmp_path / "*.csv", categorical=["zone"])
    assert features(table) == {"age": [1, 2], "zone": ["x", "y"]}


def test_empty_parts(tmp_path: Path) -> None:
    write(tmp_path / "a.csv", "id,age\n")
    with refused("*.csv: 1 file with columns but no rows"):
        read(tmp_path / "*.csv")
    write(tmp_path / "b.csv", "id,age\nB,2\n")
    assert read(tmp_path / "*.csv").ids == [["B"]]
    write(tmp_path / "c.csv", "")
    with refused("c.csv: the file is empty"):
        read(tmp_path / "*.csv")
    folder = parts(tmp_path / "typed", {"id": pa.array([], pa.null()), "age": pa.array([], pa.string())})
    with refused("typed: 1 file with columns but no rows"):
        read(folder)
    parts(folder, {"id": pa.array([], pa.null()), "age": pa.nulls(0)}, {"id": ["B"], "age": [2]})
    assert features(read(folder)) == {"age": [2]}


@pytest.mark.parametrize(
    ("one", "other", "joined"),
    [
        ([1, 2], [1.5, None], [1, 2, 1.5, None]),
        (pa.array([1], pa.int8()), pa.array([2**40], pa.uint64()), [1, 2**40]),
        ([None], [3], [None, 3]),
        ([Decimal("1.5")], [Decimal("12.25")], [1.5, 12.25]),
        (pa.array([1.5], pa.float32()), [0.1], [1.5, 0.1]),
    ],
)
def test_numbers_of_several_types(tmp_path: Path, one: Any, other: Any, joined: Sequence[Any]) -> None:
    columns = [{"id": [str(i) for i in range(len(x))], "x": x} for x in (one, other)]
    got = features(read(parts(tmp_path / "t", *columns)))["x"]
    assert [None if np.isnan(value) else value for value in got] == list(joined)


def test_text_of_several_types(tmp_path: Path) -> None:
    columns = [
        {"id": ["1"], "zone": pa.array(["a"])},
        {"id": pa.array(["2"], pa.large_string()), "zone": pa.array(["b"]).dictionary_encode()},
        {"id": pa.array(["3"]).dictionary_encode(), "zone": pa.array([b"c"])},
    ]
    table = read(parts(tmp_path / "t", *columns), categorical=["zone"])
    assert table.ids == [["1", "2", "3"]]
    assert features(table) == {"zone": ["a", "b", "c"]}


def test_a_category_is_the_same_in_every_part(tmp_path: Path) -> None:
    columns = [{"id": ["1", "2"], "zone": [3, 4]}, {"id": ["3", "4"], "zone": [3.0, None]}]
    table = read(parts(tmp_path / "t", *columns), categorical=["zone"])
    assert features(table) == {"zone": ["3", "4", "3", None]}


@pytest.mark.parametrize(
    ("one", "other", "said"),
    [
        ([1], ["a"], "part-1.parquet: column 'x' holds text, but numbers in part-0.parquet: write"),
        ([Decimal("1.5")], [1.5], "part-1.parquet: column 'x' holds numbers, but decimals in part-0"),
        (
            pa.array([0], pa.timestamp("us", "UTC")),
            pa.array([0], pa.timestamp("us")),
            "part-1.parquet: column 'x' holds moments without a time zone, but moments in UTC in part-0",
        ),
        (
            [2**60 + 1],
            [1.5],
            "t: column 'x' is of types that have none in common (double, int64): write",
        ),
        ([True], [1], "part-1.parquet: column 'x' holds numbers, but values of type bool in part-0"),
    ],
)
def test_types_that_do_not_agree(tmp_path: Path, one: Any, other: Any, said: str) -> None:
    folder = parts(tmp_path / "t", {"id": ["1"], "x": one}, {"id": ["2"], "x": other})
    with refused(said):
        read(folder)


def test_columns_that_do_not_agree(tmp_path: Path) -> None:
    write(tmp_path / "a.csv", "id,age\nA,1\n")
    write(tmp_path / "b.csv", "id,alter\nB,1\n")
    with refused("b.csv: no column 'age', which a.csv has"):
        read(tmp_path / "*.csv")
    write(tmp_path / "b.csv", "id,age,zone\nB,1,2\n")
    with refused(
        "a.csv: no column 'zone', which b.csv has: write the files alike, or ignore it in [data]"
    ):
        read(tmp_path / "*.csv")
    for keys in ({"ignore": ["zone"]}, {"columns": ["age"]}):
        assert features(read(tmp_path / "*.csv", **keys)) == {"age": [1, 1]}
    folder = parts(tmp_path / "t", {"id": ["1"], "x": [1]}, {"id": ["2"], "x": [2], "y": [3]})
    assert features(read(folder, columns=["x"])) == {"x": [1, 2]}
    with refused("part-0.parquet: no column 'y', which part-1.parquet has: write the files alike"):
        read(folder)


def partitioned(folder: Path, kind: str, *more: str) -> Path:
    """A folder year=2023/month=01/... of parts of one row."""
    for year, month in ((2023, "01"), (2023, "12"), (2024, "01")):
        inner = folder / f"year={year}" / f"month={month}"
        inner.mkdir(parents=True)
        frame = pd.DataFrame({"id": [f"{year}-{month}"], "age": [year - 2000]})
        if kind == "csv":
            frame.to_csv(inner / "part-0.csv", index=False)
        else:
            frame.to_parquet(inner / "part-0.parquet", index=False)
    return folder


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_names_of_folders_are_columns(tmp_path: Path, kind: str) -> None:
    folder = partitioned(tmp_path / "h", kind)
    for path in (folder, folder / "**" / f"*.{kind}", folder / "year=*" / "month=*" / "*"):
        table = read(path, categorical=["month"])
        assert features(table) == {
            "age": [23, 23, 24],
            "year": [2023, 2023, 2024],
            "month": ["01", "12", "01"],
        }
    # The same of part of them, and of a single one.
    for path in (folder / "year=2024", folder / "year=2024" / "month=01" / f"part-0.{kind}"):
        assert features(read(path)) == {"age": [24], "year": [2024], "month": [1]}
    # Ids as written; what the party file says of text holds for them, too.
    assert read(folder, id=["year", "month"], columns=["age"]).ids[1] == ["01", "12", "01"]
    dates = {"month": {"as": "month", "order": "ymd"}}
    for month, day in (("01", "2023-01-31"), ("12", "2023-12-31")):
        (folder / "year=2023" / f"month={month}").rename(folder / "year=2023" / f"month={day}")
    assert features(read(folder / "year=2023", dates=dates))["month"] == [1, 12]
    (folder / "year=2023" / "month=2023-01-31").rename(folder / "year=2023" / "month=a%3Db")
    (folder / "year=2024").rename(folder / "year=__HIVE_DEFAULT_PARTITION__")
    table = read(folder, categorical=["year", "month"])
    assert features(table)["year"] == ["2023", "2023", None]
    assert set(features(table)["month"]) == {"2023-12-31", "a=b", "01"}
    with refused("h: column 'month' has text that is no number in row 2 of year=2023/month=2023-12-31/"):
        read(folder, categorical=["year"])


def test_what_names_of_folders_are_not(tmp_path: Path) -> None:
    folder = partitioned(tmp_path / "h", "csv")
    # A column of the file itself stays.
    write(folder / "year=2024" / "month=01" / "part-0.csv", "id,age,month\nx,24,7\n")
    table = read(folder / "year=2024")
    assert features(table) == {"age": [24], "month": [7], "year": [2024]}
    write(folder / "stray.csv", "id,age\ny,1\n")
    with refused("stray.csv: no column 'year', which year=2023/month=01/part-0.csv has"):
        read(folder)
    (folder / "stray.csv").unlink()
    (folder / "year=2024" / "old").mkdir()
    with refused("h has folders in it (old): name the files by a pattern"):
        read(folder)
    (folder / "year=2024" / "old").rmdir()
    (folder / "year=2024" / "month=up").symlink_to("..")
    with refused("h has folders in it (month=up): name the files by a pattern"):
        read(folder)


def test_links_to_no_file(tmp_path: Path) -> None:
    folder = parts(tmp_path / "t", {"id": ["1"], "x": [1]})
    (folder / "part-1.parquet").symlink_to(folder / "part-0.parquet")
    assert read(folder).rows == 2
    for name in ("gone", "part-2.parquet"):  # to nothing, and to itself
        (folder / "part-2.parquet").symlink_to(name)
        for path in (folder, folder / "*.parquet", folder / "part-2.parquet"):
            with refused(
                "t/part-2.parquet is a symbolic link that leads to no file: mend it or remove it"
            ):
                read(path)
        (folder / "part-2.parquet").unlink()


@pytest.mark.parametrize("kind", ["csv", "parquet", "feather"])
def test_a_file_that_grows_while_it_is_read(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a row that is half there the numbers would be wrong."""
    frame = pd.DataFrame({"id": ["A", "B"], "age": [1, 2]})
    path = tmp_path / f"t.{kind}"
    path.write_bytes(frame.to_csv(index=False).encode()) if kind == "csv" else getattr(
        frame, f"to_{kind}"
    )(path)
    before = Source.read

    def growing(self: Source, names: list[str]) -> None:
        with path.open("ab") as file:
            file.write(b"C,3")
        before(self, names)

    monkeypatch.setattr(Source, "read", growing)
    with refused(f"t.{kind}: the file has changed while it was read: start again"):
        read(path)


def test_kinds_that_do_not_agree(tmp_path: Path) -> None:
    folder = parts(tmp_path / "t", {"id": ["1"], "x": [1]})
    write(folder / "more.csv", "id,x\n2,2\n")
    with refused("t has text and typed files (more.csv, part-0.parquet): name one kind by a pattern"):
        read(folder)
    assert read(folder / "*.parquet").rows == 1
    (folder / "more.csv").unlink()
    pd.DataFrame({"id": ["1"], "x": [1]}).to_excel(folder / "book.xlsx", index=False)
    with refused("t has an Excel workbook (book.xlsx), which is a table by itself"):
        read(folder)


def test_errors_name_file_and_row(tmp_path: Path) -> None:
    write(tmp_path / "a.csv", "id,age,zone\nA,1,x\nAA,2,x\n")
    write(tmp_path / "b.csv", "id,age,zone\nB,3,x\n\nBB,secret,x\n")
    with refused("*.csv: column 'age' has text that is no number in row 4 of b.csv", "secret"):
        read(tmp_path / "*.csv", ignore=["zone"])
    write(tmp_path / "b.csv", "id,age,zone\nB,3,x\nA,4,x\n")
    section = DataSection.model_validate(
        {"path": tmp_path / "*.csv", "id": "id", "label": "age", "ignore": ["zone"]}
    )
    table = read_table(section, role="guest", need_label=True)
    assert table.row_numbers([0, 1, 2, 3]) == ["2 of a.csv", "3 of a.csv", "2 of b.csv", "3 of b.csv"]
    folder = parts(tmp_path / "t", {"id": ["1"], "x": [1.0]}, {"id": ["2", "3"], "x": [1.0, np.inf]})
    with refused("t: column 'x' has an infinite number in row 3 of part-1.parquet: correct it"):
        read(folder)


def test_files_of_other_programs_are_left_out_or_refused(tmp_path: Path) -> None:
    folder = parts(tmp_path / "t", {"id": ["1"], "x": [1]})
    parts(folder / "_temporary", {"id": ["2"], "x": [2]})
    parts(folder / ".ipynb_checkpoints", {"id": ["3"], "x": [3]})
    for path in (folder, folder / "*", folder / "**" / "*.parquet", tmp_path / "**" / "*.parquet"):
        assert read(path).ids == [["1"]]
    (folder / "_delta_log").mkdir()
    for path in (folder, folder / "*.parquet", tmp_path / "**" / "*.parquet"):
        with refused("t is a Delta table, of which some files are of earlier versions: export it"):
            read(path)
    (folder / "_delta_log").rmdir()
    (folder / ".hoodie").mkdir()
    with refused("t is a Hudi table"):
        read(folder)


def test_a_pattern_that_matches_folders(tmp_path: Path) -> None:
    parts(tmp_path / "a.parquet", {"id": ["1"], "x": [1]})
    pq.write_table(pa.table({"id": ["2"], "x": [2]}), tmp_path / "b.parquet")
    with refused("*.parquet has folders in it (a.parquet): name the files by a pattern"):
        read(tmp_path / "*.parquet")
    assert read(tmp_path / "*" / "*.parquet").ids == [["1"]]


def test_a_part_without_a_header_shows_no_cell(tmp_path: Path) -> None:
    write(tmp_path / "a.csv", "id,age\nA,1\n")
    write(tmp_path / "b.csv", "SECRET-7,1.5\nSECRET-8,2\n")
    with refused("b.csv: the first row seems to hold cells", "SECRET"):
        read(tmp_path / "*.csv")
    (tmp_path / "b.csv").rename(tmp_path / "0.csv")
    with refused("0.csv: the first row seems to hold cells", "SECRET"):
        read(tmp_path / "*.csv")


def test_what_is_no_table(tmp_path: Path) -> None:
    with refused("no file matches"):
        read(tmp_path / "*.parquet")
    (tmp_path / "empty").mkdir()
    with refused("empty is a folder without files"):
        read(tmp_path / "empty")
    folder = parts(tmp_path / "t", {"id": ["1"], "x": [1]})
    write(folder / "part-1.parquet", (folder / "part-0.parquet").read_bytes()[:60])
    with refused("part-1.parquet: the file is damaged or is no Parquet file"):
        read(folder)
    os.mkfifo(tmp_path / "pipe.csv")
    with refused("pipe.csv is no file, but a pipe or a device"):
        read(tmp_path / "pipe.csv")
    assert parts_of(tmp_path / "pipe.csv") is None


def test_no_command_writes_over_a_part(tmp_path: Path) -> None:
    folder = parts(tmp_path / "t", {"id": ["1"], "x": [1]})
    known = table_files(folder, "the table")
    assert known == {folder: "the table", folder / "part-0.parquet": "a file of the table"}
    assert table_files(tmp_path / "gone" / "*.csv", "it") == {tmp_path / "gone" / "*.csv": "it"}


@settings(max_examples=25)
@given(st.lists(st.lists(st.integers(-(2**53), 2**53), max_size=4), min_size=1, max_size=5))
def test_parts_are_the_table_that_they_were_cut_from(
    tmp_path_factory: pytest.TempPathFactory, cut: list[list[int]]
) -> None:
    folder = tmp_path_factory.mktemp("cut")
    rows = [value for part in cut for value in part]
    if not rows:
        return
    start = 0
    for number, part in enumerate(cut):
        ids = [f"{start + i:03}" for i in range(len(part))]
        start += len(part)
        one = {"id": pa.array(ids, pa.string()), "x": pa.array(part, pa.int64())}
        pq.write_table(pa.table(one), folder / f"{number}.parquet")
        text = "".join(f"{i},{x}\n" for i, x in zip(ids, part, strict=True))
        write(folder / f"{number}.csv", "id,x\n" + text)
    for kind in ("csv", "parquet"):
        table = read(folder / f"*.{kind}")
        assert table.ids == [[f"{i:03}" for i in range(len(rows))]]
        assert features(table) == {"x": rows}


@pytest.mark.parametrize("kind", [pa.float64(), pa.decimal128(9, 1)])
def test_ids_that_are_numbers_are_made_piece_by_piece(
    tmp_path: Path, kind: pa.DataType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vfl.party.sources.parquet.PIECE", 2)
    one = {"id": pa.array([Decimal("7.0"), None, Decimal("30.0")]).cast(kind), "x": [1, 2, 3]}
    other = {"id": pa.array([Decimal("400.0"), Decimal("5.0")]).cast(kind), "x": [4, 5]}
    folder = parts(tmp_path / "t", one, other)
    assert read(folder).ids == [["7", None, "30", "400", "5"]]
    parts(folder, one, {**other, "id": pa.array([Decimal("400.0"), Decimal("5.5")]).cast(kind)})
    with refused("t: id column 'id' has a number that is not whole in row 3 of part-1.parquet", "5.5"):
        read(folder)
