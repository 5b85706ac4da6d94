"""Tables of a server of Flight SQL."""

import warnings
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from commands import command

from tests.tables import features, refused
from vfl.blocks.scratch import Scratch
from vfl.party.sections import DataSection
from vfl.party.sources.database import TablePlace
from vfl.party.sources.drivers import DRIVERS
from vfl.party.table import Table, Wanted, read_table, read_wanted

pytest.importorskip("adbc_driver_flightsql")
duckdb = pytest.importorskip("duckdb")

from flight_sql import PASSWORD, USER, Server, serving  # noqa: E402


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    connection = duckdb.connect()
    rows = pa.table(
        {
            "plate": ["b", "a", None],
            "age": pa.array([30, None, 19], pa.int16()),
            "premium": [Decimal("1234.50"), Decimal("0.10"), None],
            "zone": pa.array(["x", None, "y"]).dictionary_encode(),
            "paid": [True, False, None],
            "since": pa.array([19756, -1, None], pa.date32()),
            "seen": pa.array([0, None, 1_700_000_000], pa.timestamp("s", "UTC")),
            "rate": pa.array([0.5, np.nan, None], pa.float32()),
            "big": pa.array([2**63, 1, None], pa.uint64()),
        }
    )
    connection.execute("create schema sales")
    connection.execute("create table sales.policies as select * from rows")
    connection.execute("create table many as select 'P' || range as plate, range as x from range(9000)")
    assert rows.num_rows == 3
    with serving(connection) as made:
        yield made


@pytest.fixture(autouse=True)
def password(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_PASSWORD", PASSWORD)
    monkeypatch.setenv("WRONG", "secret")


def section(server: Server, **keys: Any) -> DataSection:
    named = {"source": server.address, "id": "plate", "password_variable": "DATABASE_PASSWORD"}
    return DataSection.model_validate(named | keys)


def read(server: Server, **keys: Any) -> Table:
    return read_table(section(server, **keys), role="guest", need_label=False)


def test_types_and_nulls(server: Server) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        table = read(
            server,
            table="sales.policies",
            query="select * from data where plate is not null",
            categorical=["zone"],
            dates={"since": {"as": "days"}, "seen": {"as": "days"}},
        )
    assert table.ids == [["a", "b"]]
    assert str(features(table)) == str(
        {
            "age": [np.nan, 30.0],
            "premium": [0.1, 1234.5],
            "zone": [None, "x"],
            "paid": [0.0, 1.0],
            "since": [-1.0, 19756.0],
            "seen": [np.nan, 0.0],
            "rate": [np.nan, 0.5],
            "big": [1.0, 2.0**63],
        }
    )


def test_batches_lie_in_a_file_where_they_are_many(server: Server, tmp_path: Path) -> None:
    data = section(server, table="many")
    expected = read(server, table="many")
    table = read_wanted(data, Wanted("guest", False, scratch=Scratch(tmp_path, 0)))
    assert table.rows == 9000 and table.order == expected.order
    assert [*table.ids[0]] == [*expected.ids[0]] == sorted(f"P{i}" for i in range(9000))
    assert features(table) == features(expected)


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"table": "nothing"}, "nothing: there is no such table"),
        ({"query": "select plate, secret from many"}, "[data] query: there is no such column"),
        ({"query": "selec 'secret'"}, "[data] query: the query is no SQL that the database knows"),
        ({"query": "select plate::int as plate from many"}, "a value does not fit the type that it is"),
        (
            {"query": "select plate from many where x < 0", "columns": ["plate"], "id": "x"},
            "no column 'x'",
        ),
        ({"query": "select plate, [x] as l from many"}, "[data] query: column 'l' is of type list<"),
        (
            {"table": "many", "password_variable": "WRONG"},
            "many: the database cannot be reached: the password or token is wrong, or there is none",
        ),
        (
            {"table": "many", "password_variable": None},
            "the password or token is wrong, or there is none",
        ),
        ({"table": "many", "source": "grpc://reader@127.0.0.1:1"}, "no server listens there"),
        ({"table": "many", "source": "grpc://reader@name.invalid:1"}, "there is no such host"),
        (
            {"table": "many", "source": "+tls"},
            "no TLS connection can be made (grpc is without, grpc+tls",
        ),
        (
            {"table": "many", "source": "?sslmode=require"},
            "the address of the database has an option that",
        ),
        (
            {"table": "many", "source": "?tls_root_certs=/none"},
            "a file under tls_root_certs that cannot be",
        ),
    ],
)
def test_what_cannot_be_read(server: Server, keys: dict[str, Any], said: str) -> None:
    keys = dict(keys)
    if keys.get("source") == "+tls":
        keys["source"] = server.address.replace("grpc:", "grpc+tls:")
    elif keys.get("source", "").startswith("?"):
        keys["source"] = server.address + keys["source"]
    with refused(said, "secret", "P0", PASSWORD, PASSWORD[:8]):
        read(server, **keys)


def test_a_server_that_fails_in_the_middle(server: Server) -> None:
    def fail(number: int) -> None:
        if number == 2:
            raise pa.flight.FlightServerError("secret")

    server.between = fail
    try:
        with refused("many: ", "secret"):
            read(server, table="many")
    finally:
        server.between = lambda number: None


def test_a_token_in_place_of_a_user(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOKEN", server.passwords.token)
    keys = {"source": server.address.replace(f"{USER}@", ""), "password_variable": "TOKEN"}
    assert read(server, table="many", **keys).rows == 9000
    assert server.passwords.tried[-1] == f"Bearer {server.passwords.token}"


def test_options_of_an_address(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text("a certificate")
    url = f"grpc+tls://u@h:1?tls_root_certs={tmp_path}/ca.pem&header.Database=motor&query_timeout=60"
    assert DRIVERS["grpc+tls"].arguments(url, "pw") == (
        "grpc+tls://h:1",
        {
            "autocommit": True,
            "db_kwargs": {
                "username": "u",
                "password": "pw",
                "adbc.flight.sql.client_option.tls_root_certs": "a certificate",
                "adbc.flight.sql.rpc.call_header.database": "motor",
                "adbc.flight.sql.rpc.timeout_seconds.query": "60",
            },
        },
    )
    for key in ("header.authorization", "header.api-key", "token", "header.cookie"):
        with refused("has a password, which belongs into no", "hidden"):
            TablePlace.parse(f"grpc://u@h:1?{key}=hidden#t", None)


def test_doctor_says_what_nobody_prevents(server: Server, tmp_path: Path) -> None:
    (tmp_path / "bureau.toml").write_text(
        f"""
        [party]
        name = "bureau"
        role = "host"
        identity = "keys/bureau"
        [data]
        source = "{server.address}"
        table = "many"
        id = "plate"
        password_variable = "DATABASE_PASSWORD"
        [peers.insurer]
        certificate = "peers/insurer.pem"
        address = "127.0.0.1:1"
        """
    )
    done = command("doctor", "bureau.toml", "--wait", "0", folder=tmp_path)
    lines = [line for line in done.out.splitlines() if "many" in line]
    assert lines[0] == "ok    source: many: the database can be reached"
    assert "nothing here keeps a query from changing this database" in lines[1]
    assert lines[2].startswith("ok    table: many, 9,000 rows, 9,000 distinct ids")
    assert PASSWORD not in done.out + done.err and "Warning" not in done.err
    done = command("align", "--dry-run", "bureau.toml", folder=tmp_path)
    assert done.out.startswith("many: 9,000 rows") and not done.err
