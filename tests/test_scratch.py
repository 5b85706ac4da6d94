"""Columns of a table that lie in a file of the job are those that lie in memory."""

import dataclasses
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vfl.blocks import scratch
from vfl.blocks.columns import MadeColumns
from vfl.blocks.scratch import Scratch, release_pages
from vfl.blocks.spool import Spooled
from vfl.errors import DataError
from vfl.learn.binning import bin_columns
from vfl.learn.drift import profiles
from vfl.learn.forest import Sides
from vfl.learn.levels import levels_of, match_levels, tidy_levels
from vfl.learn.splits import Split
from vfl.party.sections import DataSection
from vfl.party.sources import parquet
from vfl.party.table import Table, Wanted, read_table, read_wanted
from vfl.protocols.common.rows import Training

ROWS = 500


@pytest.fixture(scope="module")
def section(tmp_path_factory: pytest.TempPathFactory) -> DataSection:
    path = tmp_path_factory.mktemp("table") / "table.csv"
    rng = np.random.default_rng(3)
    frame = pd.DataFrame(
        {
            "id": np.repeat(np.arange(ROWS // 2), 2).astype(str),
            "few": rng.integers(0, 5, ROWS),
            "many": rng.normal(size=ROWS),
            "gaps": np.where(rng.random(ROWS) < 0.3, np.nan, rng.random(ROWS)),
            "zone": rng.choice(["a ", "b", "B", "é", "", "c  d"], ROWS),
        }
    )
    frame.to_csv(path, index=False)
    return DataSection(path=path, id=("id",), categorical=("zone",))


@pytest.fixture
def tables(section: DataSection, tmp_path: Path) -> tuple[Table, Table]:
    """The table in memory, and in a file."""
    small = read_table(section, role="host", need_label=False)
    large = read_wanted(section, Wanted("host", False, scratch=Scratch(tmp_path, 0)))
    assert isinstance(large.features, MadeColumns) and not isinstance(small.features, MadeColumns)
    return small, large


def assert_same(one: Table, other: Table) -> None:
    assert list(one.features) == list(other.features)
    for name, values in one.features.items():
        assert values.dtype == other.features[name].dtype
        np.testing.assert_array_equal(values, other.features[name])


def test_columns_in_a_file_are_those_in_memory(tables: tuple[Table, Table], tmp_path: Path):
    small, large = tables
    assert_same(small, large)
    (note,) = large.warnings[len(small.warnings) :]
    assert large.warnings[:-1] == small.warnings
    assert note == f"table.csv: while a job runs its columns take 0 MB of {tmp_path}"
    assert "nothing" not in large.features and len(large.features) == 4
    with pytest.raises(KeyError):
        large.features["nothing"]
    assert not list(tmp_path.iterdir())  # the file has no name: it goes with the process


def test_what_somebody_writes_to_a_column_stays_with_them(tables: tuple[Table, Table]):
    _, large = tables
    mine = large.features["many"]
    mine[:] = 7
    assert (large.features["many"] != 7).all()


@pytest.mark.parametrize("rows", [slice(3, 40), np.array([9, -1, 0, 499, -1]), np.array([4, 4, 1])])
def test_rows_are_taken_alike(tables: tuple[Table, Table], rows: slice | np.ndarray):
    small, large = tables
    assert_same(*(dataclasses.replace(table, features=table.take(rows)) for table in (small, large)))


def test_rows_with_the_same_id_become_one_alike(tables: tuple[Table, Table]):
    group = np.repeat(np.arange(0, ROWS, 2), 2)
    assert_same(*(table.aggregate(group, "mean", {"zone": "mode"}) for table in tables))


def test_bins_levels_and_profiles_are_the_same(tables: tuple[Table, Table], tmp_path: Path):
    small, large = (tidy_levels(table.features) for table in tables)
    one = bin_columns(small, 8, 5)
    other = bin_columns(large, 8, 5, room=Scratch(tmp_path, 0).codes)
    assert [column.name for column in one.columns] == [column.name for column in other.columns]
    for left, right in zip(one.columns, other.columns, strict=True):
        np.testing.assert_array_equal(left.edges, right.edges)
        assert left.categories == right.categories
    np.testing.assert_array_equal(one.codes, other.codes)
    assert levels_of(small) == levels_of(large)
    assert profiles(small) == profiles(large)
    known = {"zone": dataclasses.replace(levels_of(small)["zone"], names=("a", "b"))}
    for left, right in zip(match_levels(small, known), match_levels(large, known), strict=True):
        assert list(left) == list(right)
        for name in left:
            np.testing.assert_array_equal(left[name], right[name])


def test_a_disk_without_room_is_said_before_a_column_is_written(
    section: DataSection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def full(file: int, size: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("vfl.blocks.scratch.take_room", full)
    with pytest.raises(DataError, match=r"has no room for 0 MB of columns of the table .*: free some"):
        read_wanted(section, Wanted("host", False, scratch=Scratch(tmp_path, 0)))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("in_file", [False, True])
def test_rows_that_are_stored_are_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, in_file: bool
):
    monkeypatch.setattr(scratch, "OF_A_ROW_EACH", 0 if in_file else 10**6)
    plain = np.random.default_rng(1).integers(0, 256, (100, 10), np.uint8)
    stored = scratch.StoredRows(100, 10, tmp_path, "numbers")
    assert (stored._file is not None) == in_file
    for first, stop in ((40, 100), (0, 7), (7, 40), (3, 3)):
        stored.write(first, plain[first:stop])
    for first, stop in ((0, 100), (6, 41), (99, 100), (5, 5)):
        np.testing.assert_array_equal(stored.read(first, stop), plain[first:stop])
    assert not list(tmp_path.iterdir())


NUMBERS = st.sampled_from([-np.inf, -1.0, -0.0, 0.0, 0.5, np.nextafter(0.5, 1), 7.0, np.inf])
SPLITS = st.builds(
    Split,
    column=st.just("x"),
    threshold=st.none() | NUMBERS,
    category=st.none(),
    categorical=st.just(False),
    missing_left=st.booleans(),
    above=st.booleans(),
)


@given(st.lists(NUMBERS | st.just(np.nan), max_size=20), st.lists(SPLITS, min_size=1, max_size=9))
def test_splits_send_rows_of_a_file_as_those_in_memory(numbers: list[float], splits: list[Split]):
    splits = [dataclasses.replace(s, above=s.above and s.threshold is not None) for s in splits]
    values = np.array(numbers)
    held = Sides(splits, {"x": values})
    made = Sides(splits, MadeColumns(["x"], lambda name: values))
    for rows, count in ((slice(0, len(values)), len(values)), (np.arange(len(values))[::-2], None)):
        size = len(values[rows]) if count is None else count
        np.testing.assert_array_equal(held.left(rows, size), made.left(rows, size))
    told = np.array(
        [np.unpackbits(plane, count=len(values)) for plane in made.left(slice(None), len(values))]
    )
    np.testing.assert_array_equal(told, [split.goes_left({"x": values}) for split in splits])


def batches() -> list[pa.RecordBatch]:
    texts = [[f"{i}-{j}" if (i + j) % 3 else None for j in range(5)] for i in range(4)]
    return [pa.record_batch({"a": text, "b": list(range(5))}) for text in texts]


def test_a_table_that_is_spooled_is_the_one_that_was_read(tmp_path: Path):
    reader = pa.RecordBatchReader.from_batches(batches()[0].schema, batches())
    table, whole = Spooled(tmp_path, reader), pa.Table.from_batches(batches())
    assert not list(tmp_path.iterdir())
    assert (table.schema, table.num_rows) == (whole.schema, 20)
    first = table["a"]
    assert table["b"].equals(whole["b"]) and first.equals(whole["a"]) and table["a"].equals(first)


def test_a_disk_that_is_full_while_a_table_is_spooled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    class Full:
        def write_batch(self, batch: pa.RecordBatch) -> None:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr("pyarrow.ipc.new_file", lambda file, schema: Full())
    reader = pa.RecordBatchReader.from_batches(batches()[0].schema, batches())
    with pytest.raises(DataError, match=r"no room for 0 MB of a table \(No space left on device\)"):
        Spooled(tmp_path, reader)
    assert not list(tmp_path.iterdir())


def test_parquet_is_read_column_by_column_where_it_is_large(
    section: DataSection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    path = tmp_path / "table.parquet"
    pd.read_csv(section.path, dtype={"id": str}).to_parquet(path, index=False, row_group_size=70)
    of_parquet = section.model_copy(update={"path": path})
    whole = read_table(of_parquet, role="host", need_label=False)
    read = []
    given = parquet.Parquet._columns
    monkeypatch.setattr(
        parquet.Parquet, "_columns", lambda self, names: read.append(names) or given(self, names)
    )
    monkeypatch.setattr(parquet, "IN_MEMORY", 0)
    large = read_wanted(of_parquet, Wanted("host", False, scratch=Scratch(tmp_path, 0)))
    assert_same(whole, large)
    assert large.ids == whole.ids
    assert sorted(read) == [["few"], ["gaps"], ["id"], ["many"], ["zone"]]


def test_pages_of_a_file_are_release_pages_and_come_back(tmp_path: Path):
    codes = Scratch(tmp_path, in_memory=0).codes(2, 5000)
    codes[:] = np.arange(10_000).reshape(2, 5000) % 251
    release_pages(codes[1:])
    assert codes.ravel().tolist() == [i % 251 for i in range(10_000)]
    file = tmp_path / "numbers"
    np.arange(5000).tofile(file)
    private = np.asarray(np.memmap(file, np.int64, "c"))
    private[7] = -1
    release_pages(private)
    release_pages(np.zeros(3))
    assert private[6:9].tolist() == [6, -1, 8]


def test_rows_that_are_stored_are_the_same(tmp_path: Path):
    """Labels, weights and offsets of a training in files, but for those that are one for all rows."""
    rng = np.random.default_rng(0)
    label, train = rng.integers(0, 2, 5000).astype(np.float64), rng.random(5000) < 0.8
    rows = Training(label, np.broadcast_to(1.0, 5000), train, ~train, offset=rng.normal(size=5000))
    assert rows.stored(Scratch()).label is label
    stored = rows.stored(Scratch(tmp_path, in_memory=0))
    assert stored.weight is rows.weight and stored.offset is not None
    assert stored.label is not label and stored.label.tolist() == label.tolist()
    assert stored.offset.tolist() == rows.offset.tolist()
    score = rng.normal(size=5000)
    assert stored.mean_loss(score, train) == rows.mean_loss(score, train)
    assert stored.start()[0] == rows.start()[0]  # once its pages are gone
    assert not [*tmp_path.iterdir()]
