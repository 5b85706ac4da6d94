"""Tables that workers of a cluster read and hold: what comes of them, and what is said, is that of one
process."""

import errno
import gzip
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
from federation import JOB, Federation
from room import HOSTS, Room
from test_cluster import kill_one, two_workers
from test_large_tables import kept

from vfl.blocks.cluster import Cluster
from vfl.blocks.engine import ENGINE
from vfl.blocks.held_cells import HeldCells
from vfl.blocks.held_columns import HeldColumns
from vfl.blocks.held_parts import HeldParts
from vfl.blocks.scheduler import Connection
from vfl.blocks.texts import Cells
from vfl.errors import DataError
from vfl.jobs.own_table import ids_of
from vfl.learn.binning import bin_columns
from vfl.learn.drift import profiles
from vfl.learn.levels import tidy_levels
from vfl.party.sections import DataSection
from vfl.party.sources import content, dialect, held, stretches, text
from vfl.party.sources.held import how_read, prints_of
from vfl.party.sources.places import open_rows
from vfl.party.sources.stretches import Print
from vfl.party.table import Table, Wanted, examine_table, read_wanted

ROWS = 600
LINES = pa.csv.WriteOptions(quoting_style="none")


@pytest.fixture(scope="module")
def connection(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Connection]:
    yield from two_workers(tmp_path_factory.mktemp("workers"))


@pytest.fixture
def mortal(tmp_path: Path) -> Iterator[Connection]:
    """For tests that kill workers."""
    yield from two_workers(tmp_path / "workers")


@pytest.fixture(autouse=True)
def small_stretches(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small tables go to workers, a few rows at a time."""
    monkeypatch.setattr(held, "WORTH", 0)
    monkeypatch.setattr(held, "_LEAST", 1 << 8)
    monkeypatch.setattr(held, "_LEAST_ROWS", 1)


def made() -> pa.Table:
    rng = np.random.default_rng(0)
    amounts, ages = rng.normal(size=ROWS), rng.integers(17, 90, ROWS)
    amounts[::7] = np.nan
    return pa.table(
        {
            "plate": [f" ab-{i:04d}" for i in range(ROWS)],
            "amount": pa.array(amounts, from_pandas=True),
            "age": ages,
            "day": [f"{1 + i % 28:02d}.03.2024" for i in range(ROWS)],
            "zone": [None if i % 11 == 0 else f"zone  {i % 5}" for i in range(ROWS)],
            "years": 0.5 + rng.random(ROWS),
            "claim": (rng.random(ROWS) < 0.3).astype(np.int64),
        }
    )


def lines_of(table: pa.Table) -> list[str]:
    """Without any quote, which would keep a file in one piece: Arrow puts the header in some."""
    sink = pa.BufferOutputStream()
    pa.csv.write_csv(table, sink, LINES)
    header, *rows = sink.getvalue().to_pybytes().decode().splitlines(keepends=True)
    return [header.replace('"', ""), *rows]


def write_lines(
    path: Path,
    *,
    end: str = "\n",
    quoted: bool = False,
    quoted_late: bool = False,
    encoding: str = "utf-8",
) -> None:
    text = "".join(lines_of(made())).replace("\n", end)
    if quoted:
        text = text.replace("zone  1", '"zone 1\nof ""many"""').replace("amount,", '"amount",', 1)
    if quoted_late:
        place = text.rindex("zone  1")
        text = text[:place] + '"zone 1\n' + "x" * 999 + '"' + text[place + len("zone  1") :]
    path.write_bytes(text.replace("zone  2", "Zürich").encode(encoding))


def write_packed(path: Path) -> None:
    path.write_bytes(gzip.compress("".join(lines_of(made())).encode()))


def write_parts(folder: Path, *, csv: bool) -> None:
    for number, (start, rows) in enumerate([(0, 211), (211, 0), (211, ROWS - 211)]):
        part = made().slice(start, rows)
        if csv:
            (folder / f"part-{number}.csv").write_text("".join(lines_of(part)))
        else:
            pq.write_table(part, folder / f"part-{number}.parquet", row_group_size=50)


def write_folders(folder: Path) -> None:
    for year in (2025, 2026):
        (folder / f"year={year}").mkdir()
        rows = made().slice(300 * (year - 2025), 300)
        pq.write_table(rows, folder / f"year={year}" / "rows.parquet", row_group_size=70)


def write_typed(path: Path) -> None:
    """Ids that are numbers, categories with a dictionary, decimals, whole numbers as categories."""
    table = made().set_column(0, "plate", pa.array(range(10_000, 10_000 + ROWS)))
    table = table.set_column(4, "zone", table["zone"].dictionary_encode())
    table = table.set_column(5, "years", table["years"].cast(pa.decimal128(20, 4), safe=False))
    pq.write_table(table, path, row_group_size=64)


def write_floats(path: Path) -> None:
    """Ids that are floats, and text of a column of numbers that has no value: these are read here."""
    ids = pa.array(np.arange(10_000.0, 10_000 + ROWS))
    pq.write_table(made().set_column(0, "plate", ids), path, row_group_size=64)


def section(path: Path, **more: Any) -> DataSection:
    given: dict[str, Any] = {
        "path": path,
        "id": ["plate"],
        "normalise": ["trim", "upper", "alnum"],
        "label": "claim",
        "exposure": "years",
        "categorical": ["zone"],
        "dates": {"day": {"as": "month", "order": "dmy"}},
    }
    return DataSection.model_validate(given | more)


def everything(table: Table, data: DataSection) -> list[Any]:
    """All that a job sees of a table."""
    ids, rows = ids_of(table, data), np.array([5, -1, 3, 599, 3])
    features = {**table.features}
    some = {**tidy_levels(table.take(rows))}
    binned = bin_columns(tidy_levels(table.take(np.arange(ROWS)[::-1])), 8, 20)
    columns = [(one.name, one.bins, one.categories, str(one.edges)) for one in binned.columns]
    return [
        [(name, values.dtype.str, values.tolist()) for name, values in features.items()],
        [(name, values.tolist()) for name, values in some.items()],
        columns,
        binned.codes.tolist(),
        profiles(table.features),
        *(None if own is None else own.tolist() for own in (table.label, table.exposure, table.offset)),
        ids.digest,
        ids.rows.tolist(),
        ids.notes,
        [list(column) for column in table.ids],
        table.warnings,
        table.rows,
        table.row_numbers([0, 210, 211, 599]),
    ]


def as_text(found: list[Any]) -> list[str]:
    """Comparable also where there are NaN."""
    return [repr(one) for one in found]


def both(connection: Connection, data: DataSection, *, repeats: bool = False) -> Table:
    """Read a table here and by workers, to the same end; the latter. repeats: whether rows share ids."""
    wanted = Wanted("guest", True)
    here = as_text(everything(read_wanted(data, wanted), data))
    with ENGINE.instead(Cluster(connection)):
        table = read_wanted(data, wanted)
        ids_of(table, data)
        found = [vars(cells) for cells in table.ids if isinstance(cells, HeldCells)]
        assert repeats or not any("column" in own for own in found)  # none has come here
        assert as_text(everything(table, data)) == here
    return table


def kinds(table: Table) -> tuple[type, type]:
    """What features and ids are: whether workers hold them."""
    return type(table.features), type(table.ids[0])


@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("rows.parquet", lambda path: pq.write_table(made(), path, row_group_size=64)),
        ("rows.parquet", write_typed),
        pytest.param("rows.csv", write_lines, marks=pytest.mark.slow),
        ("rows.csv", lambda path: write_lines(path, end="\r\n", encoding="windows-1252")),
        pytest.param("rows.csv", lambda path: write_lines(path, quoted=True), marks=pytest.mark.slow),
        ("rows.csv", lambda path: write_lines(path, quoted_late=True)),
        (
            "rows.csv.gz",
            write_packed,
        ),
        pytest.param("parquets", lambda path: write_parts(path, csv=False), marks=pytest.mark.slow),
        ("lines", lambda path: write_parts(path, csv=True)),
    ],
)
def test_workers_read_a_table(
    connection: Connection,
    tmp_path: Path,
    name: str,
    write: Callable[[Path], None],
    monkeypatch: pytest.MonkeyPatch,
):
    path = tmp_path / name
    if not path.suffix:
        path.mkdir()
    write(path)
    windows = path.suffix == ".csv" and b"Z\xfcrich" in path.read_bytes()
    for module in (content, dialect, text):
        monkeypatch.setattr(module, "HEAD", 1 << 10)  # bytes that are looked at before all others
    cuts = list[slice | None]()
    of = held.Stretch
    monkeypatch.setattr(held, "Stretch", lambda path, own, cut: cuts.append(cut) or of(path, own, cut))
    table = both(connection, section(path, encoding="windows-1252" if windows else "utf-8"))
    assert kinds(table) == (HeldColumns, HeldCells)
    whole = path.suffix == ".gz" or (path.is_file() and b'"' in path.read_bytes()[:50])
    assert whole == (len(cuts) == 1)


def test_columns_that_depend_on_all_their_cells_are_read_here(connection: Connection, tmp_path: Path):
    """Ids that are floats; the year of a folder's name; numbers that are categories."""
    write_floats(tmp_path / "rows.parquet")
    table = both(connection, section(tmp_path / "rows.parquet"))
    assert kinds(table) == (HeldColumns, Cells)
    (tmp_path / "folders").mkdir()
    write_folders(tmp_path / "folders")
    table = both(connection, section(tmp_path / "folders", categorical=["zone", "year"]))
    assert kinds(table) == (dict, HeldCells)


def test_ids_of_several_columns_and_keys(connection: Connection, tmp_path: Path):
    """Some empty, some repeated, some that cannot be read, and codes that look like numbers."""
    odd = {3: "", 9: "none", 20: " AB0021", 44: "1e15", 71: "17.5", 90: "4.5E+12", 200: "12.0"}
    plates = [odd.get(i, f"ab-{i:04d}") for i in range(ROWS)]
    days = ["31.12.2024" if i % 3 else "01/02/2024" for i in range(ROWS)]
    table = made().set_column(0, "plate", pa.array(plates)).append_column("born", pa.array(days))
    pq.write_table(table, tmp_path / "rows.parquet", row_group_size=64)
    how: dict[str, Any] = {
        "duplicates": "keep",
        "empty": "drop",
        "missing": ["none"],
        "ignore": ["day", "born"],
    }
    how["dates"] = {}
    data = section(tmp_path / "rows.parquet", **how)
    both(connection, data, repeats=True)
    two = {
        "id": ["plate", "born"],
        "normalise": ["trim", "upper"],
        "fallback": [{"id": ["plate"], "normalise": ["trim"]}],
    }
    both(connection, section(tmp_path / "rows.parquet", **how | two), repeats=True)


def changed(row: int, column: str, cell: str) -> Callable[[list[str]], None]:
    def change(lines: list[str]) -> None:
        cells = lines[row].rstrip("\n").split(",")
        cells[made().column_names.index(column)] = cell
        lines[row] = ",".join(cells) + "\n"

    return change


def short(lines: list[str]) -> None:
    lines[400] = "1,2\n"


def groups(lines: list[str]) -> None:
    """Each stretch by itself says nothing of whether a point stands between thousands."""
    for row in range(1, ROWS + 1):
        changed(row, "amount", "1.234" if row > 300 else "17")(lines)


@pytest.mark.parametrize("csv", [True, False])
@pytest.mark.parametrize(
    ("change", "said"),
    [
        (changed(455, "age", "old"), "column 'age' has text that is no number in row"),
        (changed(455, "amount", "inf"), "column 'amount' has an infinite number in row"),
        (changed(7, "claim", ""), "label 'claim' is missing in 1 row (row"),
        (changed(599, "years", "-1"), "exposure 'years' must be positive but is not in row"),
        (changed(322, "day", "2024-13-01"), "has text that is no date of order dmy in row"),
        (short, "row 401 has 2 cells, the header 7"),
        (groups, "has a point before three digits or none"),
    ],
)
def test_what_is_wrong_is_said_in_the_same_words(
    connection: Connection, tmp_path: Path, change: Callable[[list[str]], None], said: str, csv: bool
):
    """Also by the part in which it is."""
    lines = lines_of(made())
    change(lines)
    path = tmp_path / "rows.csv"
    if csv:
        path.write_text("".join(lines))
    else:
        path = tmp_path / "parts"
        path.mkdir()
        (path / "a.csv").write_text("".join(lines[:201]))
        (path / "b.csv").write_text("".join([lines[0], *lines[201:]]))
        said = said.replace("row 401", "row 201")
    found = []
    for engine in (ENGINE.chosen, Cluster(connection)):
        with ENGINE.instead(engine):
            table, faults = examine_table(section(path), Wanted("guest", True), 3)
            found.append([*map(str, faults), *(table.warnings if table else ())])
    assert found[0] == found[1]
    told = " ".join(found[0])
    assert said.partition(" in row")[0] in told
    assert csv or "row" not in said or re.search(r"[ab]\.csv", told)


def test_ids_that_cannot_be_used_are_named(connection: Connection, tmp_path: Path):
    lines = lines_of(made())
    changed(500, "plate", "AB 0003")(lines)
    (tmp_path / "rows.csv").write_text("".join(lines))
    data = section(tmp_path / "rows.csv")
    texts = []
    for engine in (ENGINE.chosen, Cluster(connection)):
        with ENGINE.instead(engine), pytest.raises(DataError) as refused:
            ids_of(read_wanted(data, Wanted("guest", True)), data)
        texts.append(str(refused.value))
    assert texts[0] == texts[1] and "1 row repeats the id of an earlier row (row 501)" in texts[0]


def test_workers_that_see_other_files_are_done_without(
    connection: Connection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Another size, other content of the same size, no file: this process reads."""
    path = tmp_path / "rows.parquet"
    pq.write_table(made(), path, row_group_size=64)
    known = Print.of(path)
    for other, why in (
        (Print(known.size + 1, known.digest), "another size"),
        (Print(known.size, bytes(32)), "other content"),
    ):
        assert stretches.why_unseen(path, other) == why
        monkeypatch.setattr(held, "prints_of", lambda source, own=other: [(path, own)])
        assert kinds(both(connection, section(path))) == (dict, Cells)
    assert stretches.why_unseen(tmp_path / "none.parquet", known) == "No such file or directory"


def test_a_disk_that_fails_a_worker_is_left_to_this_process(tmp_path: Path, monkeypatch):
    """As one on the network does in the middle of a file."""
    path = tmp_path / "rows.csv"
    write_lines(path)
    columns = stretches.Columns(["plate"], ["age"], ["zone"])
    reading = section(path)
    stretch = stretches.Stretch(path, Print.of(path), slice(0, 999))
    found = stretches.read_stretch(reading, columns, stretch)
    assert found.facts.rows and found.facts.plain and not found.facts.unseen

    def fail(*_: Any) -> bytes:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(text._Stretch, "read", fail)
    assert stretches.read_stretch(reading, columns, stretch).facts.unseen == "Input/output error"


def test_a_file_that_is_gone_is_said_as_ever(connection: Connection, tmp_path: Path, monkeypatch):
    path = tmp_path / "rows.parquet"
    pq.write_table(made(), path)

    def gone(source: Any) -> list[Any]:
        path.unlink()
        return prints_of(source)

    monkeypatch.setattr(held, "prints_of", gone)
    with ENGINE.instead(Cluster(connection)), pytest.raises(DataError) as refused:
        read_wanted(section(path), Wanted("guest", True))
    assert str(refused.value) == "rows.parquet: the file has changed while it was read: start again"


def test_a_small_table_is_read_here(connection: Connection, tmp_path: Path, monkeypatch):
    monkeypatch.setattr(held, "WORTH", 32 << 20)
    write_lines(tmp_path / "rows.csv")
    assert kinds(both(connection, section(tmp_path / "rows.csv"))) == (dict, Cells)


def test_a_table_that_workers_have_no_room_for_is_read_here(
    connection: Connection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """They would have it on their disks, and each use of a column would bring it back."""
    write_parts(tmp_path, csv=False)
    data = section(tmp_path / "*.parquet")
    source = open_rows(data, None, data.id_columns)
    assert how_read(source, connection.ask_all, connection.room).by_workers
    monkeypatch.setattr("vfl.blocks.scheduler._FOR_TABLES", 1e-6)
    assert 0 < connection.room < 1e5
    found = how_read(source, connection.ask_all, connection.room)
    assert not found.by_workers and "its columns take some 0.0 GB, and workers keep" in found.words
    assert kinds(both(connection, data)) == (dict, Cells)


@pytest.mark.slow
def test_a_worker_is_killed_while_it_reads(
    mortal: Connection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    write_parts(tmp_path, csv=True)
    each, killed = HeldParts.each, list[str]()

    def kill_and_go_on(parts: HeldParts, *given: Any) -> Any:
        found = each(parts, *given)
        first = [next(found)]
        if not killed:  # all parts are begun
            killed.append(kill_one(mortal))
        return iter([*first, *found])

    monkeypatch.setattr(HeldParts, "each", kill_and_go_on)
    data = section(tmp_path / "*.csv")
    assert kinds(both(mortal, data)) == (HeldColumns, HeldCells) and killed


def change_one_place(path: Path) -> None:
    """In the middle of a file, where a print does not look; it stays as large as it was."""
    data = path.read_bytes()
    place = data.index(b",17,", len(data) // 4 + (1 << 13))
    path.write_bytes(data[:place] + b",18," + data[place + 4 :])


def test_what_is_read_again_is_of_the_same_file(connection: Connection, tmp_path: Path):
    """What is lost is read again, unless the file has changed since: as this process sees it, or, where
    it sees nothing, a worker."""
    path = tmp_path / "rows.csv"
    header, *rows = lines_of(made())
    path.write_text("".join([header, *(rows * 20)]))
    data, wanted = section(path, duplicates="keep"), Wanted("guest", True)
    with ENGINE.instead(Cluster(connection)):
        table = read_wanted(data, wanted)
        assert isinstance(table.features, HeldColumns)
        ages = table.features["age"].tolist()
        parts = table.features._about.parts
        parts.cluster.epoch += 1  # as after the loss of all
        assert table.features["age"].tolist() == ages
        known = Print.of(path)
        change_one_place(path)
        assert Print.of(path) == known
        parts.cluster.epoch += 1
        with pytest.raises(DataError) as refused:
            _ = table.features["age"]
        assert str(refused.value) == "rows.csv: the file has changed while it was read: start again"
        path.write_text("".join([header, *rows]))
        parts._check = lambda: None  # a copy that only workers have
        with pytest.raises(DataError) as refused:
            _ = table.features["age"]
    assert str(refused.value) == (
        "rows.csv: a worker of the cluster finds the file gone, or changed since it was read: start "
        "again"
    )


@pytest.mark.slow
def test_jobs_come_to_the_same(connection: Connection, tmp_path: Path, keys: Path):
    """The models of all parties, the figures and the scores of a batch; all tables read by workers."""
    room = Room(Federation(tmp_path, keys, guest_listens=True, kind="parquet"))
    for name in HOSTS:
        policy = room.federation.parties[name].settings.setdefault("policy", {})
        policy["encryptions"] = ["lattice"]
    job = {**JOB, "secureboost": {**JOB["secureboost"], "encryption": "lattice", "trees": 2}}
    read = list[type]()
    with pytest.MonkeyPatch.context() as patch:
        room.patch(patch)
        aligned = room.align().alignment
        first = room.train(job)
        room.score(first, out="first.csv")
        patch.setattr(ENGINE, "chosen", Cluster(connection))
        given = held.hold_columns

        def noted(*arguments: Any) -> Any:
            found = given(*arguments)
            read.append(type(found))
            return found

        patch.setattr("vfl.party.table.hold_columns", noted)
        again = room.align().alignment
        assert again.ids == aligned.ids
        second = room.train(job, alignment=aligned.name)
        room.score(second, out="second.csv")
    assert len(read) >= 9 and set(read) == {held.HeldTable}
    assert kept(room, first) == kept(room, second)
    folder = room.federation.guest.folder
    assert (folder / "first.csv").read_bytes() == (folder / "second.csv").read_bytes()
