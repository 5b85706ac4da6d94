"""Jobs whose tables come from a database and from queries, and scores that go back there."""

import asyncio
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from federation import JOB, NUMERIC, Federation, write_table
from postgresql import PASSWORD, Server
from room import Room, Said

from vfl.errors import ConfigError, DataError, ModelError, PeerStopped
from vfl.jobs import batch_rows, score_places, scoring
from vfl.jobs.check_result import CheckResult
from vfl.jobs.record import verify_agreement
from vfl.jobs.scoring import Scored, ScoreOptions, score
from vfl.jobs.source_check import check_source
from vfl.jobs.table_check import check_table
from vfl.models.halves import GuestHalf, HostHalf
from vfl.models.kinds import load_half, save_half
from vfl.party import output
from vfl.party.kept_query import KeptQuery
from vfl.party.store import Store

pytest.importorskip("duckdb")

QUERY = "select plate, density * 2 as density, area, claim from data"
OWN = "select registration, cast(power as double) + 1 as power, brand from data"
ONE_TREE = {"job": JOB["job"], "secureboost": {**JOB["secureboost"], "trees": 1}}


def load(server: Server, name: str, table: dict[str, list[str]]) -> None:
    """Make a table of a database, of text and numbers with gaps."""
    from adbc_driver_postgresql import dbapi

    columns = {
        column: [(float(cell) if column in NUMERIC else cell) if cell else None for cell in cells]
        for column, cells in table.items()
    }
    with dbapi.connect(server.socket) as connection, connection.cursor() as cursor:
        cursor.adbc_ingest(name, pa.table(columns), "create")
        connection.commit()


Sources = tuple[Room, str, Server]


@pytest.fixture(scope="module")
def trained(
    tmp_path_factory: pytest.TempPathFactory, keys: Path, postgresql: Server, quick_key: None
) -> Iterator[Sources]:
    """A guest whose table is in a database, and a host with a query over its file."""
    patch = pytest.MonkeyPatch()
    room = Room(Federation(tmp_path_factory.mktemp("room"), keys, guest_listens=True))
    load(postgresql, "own_rows", room.federation.tables["insurer"])
    new = room.federation.tables["new"]
    load(postgresql, "new_rows", {**new, "claim": [""] * len(new["plate"])})
    data = room.federation.guest.settings["data"]
    del data["path"]
    data |= {"source": postgresql.socket, "table": "own_rows", "query": QUERY}
    room.federation.parties["registry"].settings["data"]["query"] = OWN
    room.patch(patch)
    room.align()
    yield room, room.train(ONE_TREE), postgresql
    patch.undo()


def run(sources: Sources, out: str, *, data: str = "new_rows", **options: Any) -> Scored:
    """Score a table of the database."""
    room, model, server = sources
    for name in room.said:
        room.said[name] = Said()
    room.asked = dict.fromkeys(room.asked, 0)
    site, said = room.site("insurer"), room.said["insurer"]
    place = f"{server.socket}#{data}"
    return asyncio.run(score(site, model, place, out, ScoreOptions(**options), wait=1, show=said))


def scores_of(path: Path) -> dict[str, list[Any]]:
    made: dict[str, list[Any]] = pq.read_table(path).to_pydict()
    return made


def test_a_query_is_kept_with_each_half(trained: Sources) -> None:
    room, model, _ = trained
    guest = load_half(Store(room.folder / "vfl-store"), model, GuestHalf)
    host = load_half(Store(room.federation.parties["registry"].folder / "vfl-store"), model, HostHalf)
    none = load_half(Store(room.federation.parties["bureau"].folder / "vfl-store"), model, HostHalf)
    assert guest.query is not None and (guest.query.text, guest.query.over) == (QUERY, "database")
    assert host.query is not None and (host.query.text, host.query.over) == (OWN, "files")
    assert none.query is None
    assert "query" not in Store(none_folder(room)).read("model", model)
    assert host.query.digest != guest.query.digest


def test_the_digests_of_queries_are_signed(trained: Sources) -> None:
    room, model, _ = trained
    for name in ("insurer", "registry", "bureau"):
        party = room.federation.parties[name]
        found, agreement, words = verify_agreement(room.site(name).party, model)
        assert found == model and set(words.values()) == {"signed"}
        assert set(agreement.queries) == {"insurer", "registry"}
        kept = Store(party.folder / "vfl-store").read("model", model).get("query")
        if kept is not None:
            assert agreement.queries[name] == KeptQuery(**kept).digest.hex()
            text, over, salt = kept["text"], kept["over"], kept["salt"]
            assert KeptQuery(text + " ", over, salt).digest != KeptQuery(text, over, salt).digest
            assert KeptQuery(text, over, "00" * 32).digest != KeptQuery(text, over, salt).digest
    # Nobody else has a word of them.
    for name in ("registry", "bureau"):
        folder = room.federation.parties[name].folder
        for path in (folder / "vfl-store").rglob("*"):
            if path.is_file():
                assert QUERY.encode() not in path.read_bytes()
    store = Store(room.folder / "vfl-store")
    half = load_half(store, model, GuestHalf)
    assert half.query is not None
    try:
        save_half(store, replace(half, query=replace(half.query, text="select * from data")))
        with pytest.raises(ModelError, match=r"the query that is kept with model .* is not the one"):
            verify_agreement(room.site("insurer").party, model)
    finally:
        save_half(store, half)


def none_folder(room: Room) -> Path:
    return room.federation.parties["bureau"].folder / "vfl-store"


def test_scores_as_a_file_a_folder_and_a_table(
    trained: Sources, monkeypatch: pytest.MonkeyPatch
) -> None:
    room, _, server = trained
    monkeypatch.setattr(
        score_places,
        "write_score_parts",
        lambda folder, parts: output.write_score_parts(folder, parts, most=20),
    )
    monkeypatch.setattr("vfl.protocols.trees.scoring.ROWS", 24)
    monkeypatch.setattr(scoring, "ROWS", 24)
    done = run(trained, str(room.folder / "scores.parquet"))
    expected = scores_of(room.folder / "scores.parquet")
    assert done.rows == len(expected["plate"]) == len(room.federation.tables["new"]["plate"])
    assert expected["plate"] == sorted(room.federation.tables["new"]["plate"])

    folder = room.folder / "scores"
    assert not run(trained, f"{folder}/").replaced
    parts = sorted(path.name for path in folder.iterdir())
    assert parts[:2] == ["part-00000.parquet", "part-00001.parquet"] and len(parts) > 2
    joined = [scores_of(folder / name) for name in parts]
    assert {c: [v for one in joined for v in one[c]] for c in expected} == expected
    assert run(trained, f"{folder}/").replaced  # its own, unchanged
    (folder / "part-00000.parquet").write_bytes(b"changed")
    with pytest.raises(DataError, match="it has been changed since vfl score wrote it"):
        run(trained, f"{folder}/")
    assert run(trained, f"{folder}/", force=True).replaced
    (room.folder / "other").mkdir()
    (room.folder / "other" / "notes.txt").write_text("mine")
    for options in ({}, {"force": True}):
        with pytest.raises(DataError, match="it holds other files than scores: name a new folder, or"):
            run(trained, f"{room.folder}/other/", **options)
    assert (room.folder / "other" / "notes.txt").read_text() == "mine"
    # Nor may parts of the rows that are scored lie in it.
    (room.folder / "batch").mkdir()
    pq.write_table(pa.table({"plate": ["x"]}), room.folder / "batch" / "part-00000.parquet")
    for batch in (room.folder / "batch", room.folder / "batch" / "*.parquet"):
        with pytest.raises(DataError, match=r"batch cannot be written: .*the table of rows to score"):
            score_places.target_of(room.site("insurer").party, batch, f"{room.folder}/batch/", True)
    assert not [path for path in room.folder.iterdir() if path.suffix == ".tmp"]

    table = f"{server.socket}#scored"
    assert not run(trained, table).replaced
    rows = server.sql('select plate, probability, unknown_to from scored order by plate collate "C"')
    assert [list(column) for column in zip(*rows, strict=True)] == list(expected.values())
    with pytest.raises(
        DataError, match="scored cannot be written: there is a table of that name already"
    ):
        run(trained, table)
    server.sql("delete from scored where probability > 0.1", "grant select on scored to reader")
    assert run(trained, table, force=True).replaced
    assert server.sql("select count(*) from scored") == [(done.rows,)]
    # It is the same table, with what was granted.
    assert server.sql("select has_table_privilege('reader', 'scored', 'select')") == [(True,)]


def test_a_table_gets_all_rows_or_none(trained: Sources, monkeypatch: pytest.MonkeyPatch) -> None:
    room, _, server = trained
    table = f"{server.socket}#halves"
    whole = scoring.Batch.parts

    def broken(self: Any) -> Iterator[Any]:
        yield from whole(self)
        raise DataError("the store is gone")

    with monkeypatch.context() as patch:
        patch.setattr(scoring.Batch, "parts", broken)
        with pytest.raises(DataError, match="the store is gone"):
            run(trained, table)
    assert server.sql("select to_regclass('halves')::text") == [(None,)]
    done = run(trained, table)  # what was scored is kept
    assert done.resumed_from == done.rows
    server.sql("alter table halves add column mine float8")
    with pytest.raises(DataError, match=r"halves cannot be written: the table there has other columns"):
        run(trained, table, force=True)
    assert server.sql("select count(*) from halves") == [(done.rows,)]
    with monkeypatch.context() as patch:
        patch.setattr(scoring.Batch, "parts", broken)
        server.sql("alter table halves drop column mine", "delete from halves where unknown_to = ''")
        left = server.sql("select count(*) from halves")
        with pytest.raises(DataError, match="the store is gone"):
            run(trained, table, force=True)
    assert server.sql("select count(*) from halves") == left  # nor were its rows taken away
    assert room.said["insurer"].lines


def test_what_cannot_be_written_is_known_before_any_host_is_asked(
    trained: Sources, monkeypatch: pytest.MonkeyPatch
) -> None:
    room, _, server = trained
    monkeypatch.setenv("PGPASSWORD", PASSWORD)
    server.sql("grant select on new_rows, own_rows to reader", "create schema if not exists closed")
    columns = "plate text, probability {}, unknown_to text"
    server.sql(
        f"create table typed ({columns.format('numeric')})",
        f"create table wider ({columns.format('float8')}, at date)",
        f"create table real_ones ({columns.format('real')})",
        f"create table doubles ({columns.format('float8')})",
        "create view seen as select * from doubles",
        "create materialized view held as select * from doubles",
        "create table others (plate text, x float8)",
    )
    for out, said in (
        (
            f"{server.socket}#closed.a.b",
            "closed.a.b: a name has one schema before it at most",
        ),
        (f"{server.socket}#nowhere.scores", "nowhere.scores: there is no such schema"),
        (
            f"{server.socket}#typed",
            "column 'probability' of the table there holds neither text nor numbers",
        ),
        (
            f"{server.socket}#wider",
            "column 'at' of the table there holds neither text nor numbers of double",
        ),
        (f"{server.socket}#real_ones", "column 'probability' of the table there holds neither text"),
        (f"{server.socket}#others", "others cannot be written: the table there is not one of scores"),
        (
            f"{server.socket}#seen",
            "seen: it is a view, or of another kind that takes no rows: name a table",
        ),
        (
            f"{server.socket}#held",
            "held: it is a view, or of another kind that takes no rows: name a table",
        ),
        (f"{server.socket}#information_schema.tables", "the table there is not one of scores"),
        (
            f"{server.socket}&options=-c%20default_transaction_read_only%3Don#scores",
            "scores: the transaction can only read",
        ),
        (server.socket, "must end in # and the name of a table"),
        (
            f"{server.socket}#new_rows",
            "new_rows cannot be written: it is the table of rows to score",
        ),
        (
            f"{server.socket}#public.own_rows",
            "own_rows cannot be written: it is the table of insurer",
        ),
        (f"{server.url()}#scores", "scores: this user may not do that"),
        (
            "snowflake://u@a/d/s#scores",
            "in this database a table cannot be made at once: write",
        ),
        ("postgresql://127.0.0.1:1/x#scores", "the database cannot be reached: no server listens there"),
        (f"{room.folder}/scores.xlsx", "its name must end in .csv or .parquet"),
        (f"{room.folder}/new.csv/", "it is a file"),
    ):
        with pytest.raises(DataError, match=said):
            run(trained, out, force=True)
        assert room.asked == dict.fromkeys(room.asked, 0)


def test_a_changed_query_is_noticed_and_that_of_the_training_applied(trained: Sources) -> None:
    room, model, _ = trained
    before = room.folder / "before.parquet"
    run(trained, str(before))
    insurer = room.federation.guest.settings["data"]
    registry = room.federation.parties["registry"].settings["data"]
    note = f"note: model {model} was trained by a query, and [data] has another one: that of the"
    try:
        insurer["query"] = QUERY.replace("* 2", "* 3")
        registry["query"] = OWN.replace("+ 1", "+ 7")
        run(trained, str(room.folder / "after.parquet"))
        assert scores_of(room.folder / "after.parquet") == scores_of(before)
        for name in ("insurer", "registry"):
            assert room.said[name].has(note)
        assert not room.said["bureau"].has("query")
        del insurer["query"], registry["query"]
        run(trained, str(room.folder / "after.parquet"))
        assert scores_of(room.folder / "after.parquet") == scores_of(before)
        assert room.said["registry"].has("was trained by a query, and [data] has none: that of the")
        # Where the rows come from a place of another kind, no SQL of the former can be applied.
        place = {key: insurer.pop(key) for key in ("source", "table")}
        insurer["path"] = "new.csv"
        with pytest.raises(ConfigError, match=r"trained by a query over a database, and .* names files"):
            run(trained, str(room.folder / "after.parquet"))
        del insurer["path"]
        insurer |= place
    finally:
        insurer["query"], registry["query"] = QUERY, OWN
    bureau = room.federation.parties["bureau"].settings["data"]
    bureau["query"] = "select * from data"
    try:
        run(trained, str(room.folder / "after.parquet"))
        assert scores_of(room.folder / "after.parquet") == scores_of(before)
        assert room.said["bureau"].has(
            f"note: model {model} was trained without a query: that of [data]"
        )
    finally:
        del bureau["query"]


def test_rows_that_change_while_they_are_read(trained: Sources, monkeypatch: pytest.MonkeyPatch) -> None:
    room, _, server = trained
    load(server, "moving", {**room.federation.tables["new"], "claim": [""] * room.rows})
    real = batch_rows._read_ids

    def then_changed(*arguments: Any) -> Any:
        found = real(*arguments)
        server.sql("update moving set plate = 'AAAA-0' where plate = (select max(plate) from moving)")
        return found

    monkeypatch.setattr(batch_rows, "_read_ids", then_changed)
    with pytest.raises(DataError, match=r"\[data\] query has changed while it was read"):
        run(trained, str(room.folder / "moved.parquet"), data="moving")


def test_a_hosts_query_that_fails_tells_the_guest_nothing_of_it(trained: Sources) -> None:
    room, _, _ = trained
    registry = room.federation.parties["registry"].settings["data"]
    store = Store(room.federation.parties["registry"].folder / "vfl-store")
    assert store.names("model")
    registry["tables"] = {"more": "gone.csv"}
    try:
        with pytest.raises(PeerStopped) as raised:
            run(trained, str(room.folder / "after.parquet"))
        assert "gone" not in str(raised.value) and "query" not in str(raised.value)
        assert any("no file" in text for text in room.heard["registry"])
    finally:
        del registry["tables"]


def test_the_doctor_reads_such_tables(trained: Sources) -> None:
    room, _, server = trained
    lines: dict[str, list[str]] = {}
    for name in ("insurer", "registry"):
        found: list[CheckResult] = []
        party = room.site(name).party
        assert check_source(party.data, found.append)
        assert check_table(party, found.append)
        lines[name] = [result.line for result in found]
    tables = room.federation.tables
    rows = {name: len(next(iter(tables[name].values()))) for name in lines}
    assert lines["insurer"][0].startswith("ok    source: [data] query: PostgreSQL ")
    assert any(f"table: [data] query, {rows['insurer']} rows" in line for line in lines["insurer"])
    assert lines["registry"][0] == "ok    source: a query over 1 file, which is kept with each model"
    assert any(f"table: [data] query, {rows['registry']} rows" in line for line in lines["registry"])
    server.sql("alter table own_rows rename column density to dense")
    try:
        found = []
        assert not check_table(room.site("insurer").party, found.append)
        assert found[0].line == "FAIL  table: [data] query: there is no such column (density)"
    finally:
        server.sql("alter table own_rows rename column dense to density")


def test_unknown_values_are_null(trained: Sources) -> None:
    room, _, server = trained
    table = f"{server.socket}#with_nulls"
    target = score_places.target_of(room.site("insurer").party, Path("new.csv"), table, False)
    target.write([{"plate": ["a", None], "score": np.array([np.nan, 0.1])}])
    assert server.sql("select plate, score from with_nulls order by plate") == [("a", None), (None, 0.1)]


def test_a_host_with_a_query_over_parts_in_every_task(
    tmp_path: Path, keys: Path, monkeypatch: pytest.MonkeyPatch, quick_key: None
) -> None:
    """Its rows come in parts by year, of which one is added later; all is as with one plain file."""
    room = Room(Federation(tmp_path, keys, guest_listens=True))
    room.patch(monkeypatch)
    registry = room.federation.parties["registry"]
    whole = room.federation.tables["registry"]
    rows = len(whole["registration"])

    def part(year: int, first: int, last: int) -> None:
        path = registry.folder / "vehicles" / f"year={year}" / "0.csv"
        path.parent.mkdir(parents=True)
        cells = {column: values[first:last] for column, values in whole.items()}
        write_table(path, {"seen": [f"{year}"] * (last - first), **cells})

    def results(more: Callable[[], None]) -> list[Any]:
        """Of all tasks, the second alignment an extended one."""
        found: list[Any] = []
        found.append(room.align().known)
        more()
        extended = room.align(extend="")
        found += [extended.known, extended.alignment.ids]
        found.append(room.align(join="left").known)
        model = room.train(ONE_TREE, alignment=extended.alignment.name)
        room.score(model, out=f"{model}.csv")
        found.append((room.folder / f"{model}.csv").read_text())
        return found

    data, plain = registry.settings["data"], registry.settings["data"].copy()
    part(2025, 0, rows // 2)
    part(2026, rows // 2, rows - 20)
    data |= {
        "path": "vehicles",
        "query": "select * exclude (seen, year) from data where year::int >= 2025 and year = seen",
    }

    by_query = results(lambda: part(2027, rows - 20, rows))
    data.clear()
    data |= plain
    short = {column: values[: rows - 20] for column, values in whole.items()}
    write_table(registry.folder / data["path"], short)
    assert results(lambda: write_table(registry.folder / data["path"], whole)) == by_query
