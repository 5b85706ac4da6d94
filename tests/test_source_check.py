"""What `vfl doctor` says of the place of a table."""

from pathlib import Path
from typing import Any

import pytest
from commands import command
from postgresql import PASSWORD, Server

from tests.tables import write
from vfl.blocks.spool import Spooled
from vfl.jobs.source_check import check_source
from vfl.party.sections import DataSection


def check(**keys: Any) -> list[str]:
    """The lines of the check, and whether it is fine."""
    found = []
    data = DataSection.model_validate({"id": "plate", **keys})
    fine = check_source(data, lambda result: found.append(result.line))
    assert fine == (not any(line.startswith("FAIL") for line in found))
    return found


def test_files(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write(tmp_path / f"{name}.csv", "plate,x\nA,1\n")
    assert check(path=tmp_path / "a.csv") == []
    assert check(path=tmp_path / "gone.csv") == []  # as the check of the table says
    assert check(path=tmp_path / "*.csv") == ["ok    source: *.csv: 2 files, 0.0 MB"]
    (line,) = check(path=tmp_path / "*.parquet")
    assert line.startswith("FAIL  source: no file matches ")
    tables = {"more": tmp_path / "*.csv"}
    assert check(path=tmp_path / "a.csv", query="select * from data", tables=tables) == [
        "ok    source: *.csv: 2 files, 0.0 MB",
        "ok    source: a query over 3 files, which is kept with each model",
    ]


def test_a_database(postgresql: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    postgresql.sql(
        "create table checked (plate text, x integer)",
        "create table written (plate text, x integer)",
        "grant select on checked, written to reader",
        "grant insert on written to reader",
    )
    monkeypatch.setenv("DATABASE_PASSWORD", PASSWORD)
    keys = {"source": postgresql.url(), "password_variable": "DATABASE_PASSWORD"}
    (line,) = check(**keys, table="checked")
    assert line.startswith("ok    source: checked: PostgreSQL ")
    assert line.endswith("by TLSv1.3, in a transaction that can change nothing")
    lines = check(**keys, table="written")
    assert lines[1:] == [
        "note  source: written: this user may change the table; one that can only read it is enough"
    ]
    (line,) = check(**keys, table="nothing")
    assert line == ("FAIL  source: nothing: there is no such table")
    (line,) = check(**keys | {"source": postgresql.url(options="?sslmode=disable")}, table="checked")
    assert "without TLS" in line
    monkeypatch.setenv("DATABASE_PASSWORD", "wrong")
    (line,) = check(**keys, table="checked")
    assert line == (
        "FAIL  source: checked: the database cannot be reached: the password is wrong, or there is none"
    )


@pytest.mark.parametrize(
    ("options", "tls", "said"),
    [
        ("", "", "who sees the line can read the rows: add ?sslmode=verify-full"),
        (
            "?sslmode=require",
            "TLSv1.3",
            "nobody checks that this is the server: add ?sslmode=",
        ),
        ("?sslmode=verify-full", "TLSv1.3", None),
    ],
)
def test_a_server_elsewhere(
    monkeypatch: pytest.MonkeyPatch, options: str, tls: str, said: str | None
) -> None:
    from contextlib import contextmanager

    from vfl.jobs import source_check

    class Answers:
        def execute(self, sql: str) -> None: ...

        def fetchone(self) -> tuple[str, ...]:
            return ("15.4 (Debian)", tls, "on")

    @contextmanager
    def connected(place: object, *, read_only: bool) -> Any:
        yield None, Answers()

    monkeypatch.setattr(source_check, "connected", connected)
    lines = check(source=f"postgresql://u@db.example/x{options}", query="select 1")
    assert lines[0].startswith("ok    source: [data] query: PostgreSQL 15.4, ")
    assert len(lines) == (1 if said is None else 2)
    assert said is None or said in lines[1]
    lines = check(source="snowflake://u@a/d/s", table="t")
    assert lines[0] == "ok    source: t: the database can be reached"
    assert "give its user the right to read alone" in lines[1]


def test_large_tables_are_looked_at_by_way_of_the_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where there is one: to look at a table makes none."""
    (tmp_path / "bureau.toml").write_text(
        """
        [party]
        name = "bureau"
        role = "host"
        identity = "keys/bureau"
        [data]
        path = "drivers.csv"
        id = "plate"
        [peers.insurer]
        certificate = "peers/insurer.pem"
        address = "127.0.0.1:1"
        """
    )
    (tmp_path / "drivers.csv").write_text("plate,age\nA,30\nB,40\n")
    used: list[Path] = []
    before = Spooled.__init__

    def spooled(self: Spooled, folder: Path, reader: Any) -> None:
        used.append(folder)
        before(self, folder, reader)

    monkeypatch.setattr(Spooled, "__init__", spooled)
    monkeypatch.setattr("vfl.blocks.scratch.IN_MEMORY", 0)
    looks = (("doctor", "bureau.toml", "--wait", "0"), ("align", "--dry-run", "bureau.toml"))
    for look in looks:
        assert "drivers.csv" in command(*look, folder=tmp_path).out
    assert not used and not (tmp_path / "vfl-store").exists()
    (tmp_path / "vfl-store").mkdir(mode=0o700)
    for look in looks:
        used.clear()
        assert "drivers.csv" in command(*look, folder=tmp_path).out
        assert {*used} == {tmp_path / "vfl-store" / "scratch"}
    assert not [*(tmp_path / "vfl-store" / "scratch").iterdir()]
