"""Tables of a PostgreSQL server."""

import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from postgresql import PASSWORD, Server

from tests.tables import features, refused
from vfl.blocks.scratch import Scratch
from vfl.party.sections import DataSection
from vfl.party.sources import database
from vfl.party.sources.database import TablePlace, connected
from vfl.party.sources.drivers import DRIVERS
from vfl.party.table import Table, Wanted, read_table, read_wanted


@pytest.fixture(scope="module")
def server(postgresql: Server) -> Iterator[Server]:
    postgresql.sql(
        """create table policies (plate text primary key, age integer, premium numeric(10, 2),
            zone varchar(5), paid boolean, since date, seen timestamptz, "Power" real, big bigint,
            code uuid, exact numeric)""",
        """insert into policies values
            ('Ä-007', 30, 1234.50, 'b', true, '2024-02-03', '2024-02-03 23:30:00-02', 1.5,
             9007199254740993, '550e8400-e29b-41d4-a716-446655440000', 0.1),
            ('o''Neil "x"', null, null, null, null, null, null, null, null, null, null),
            ('007', 19, 0.10, 'a', false, '1969-12-31', '2024-01-01 00:00:00+00', -0.25, -1,
             '550e8400-e29b-41d4-a716-446655440001', 'NaN')""",
        "create schema sales",
        "create view sales.young as select plate, age from policies where age < 20",
        "create table hidden (plate text, age integer)",
        "grant usage on schema sales to reader",
        "grant select on policies, sales.young to reader",
    )
    yield postgresql


@pytest.fixture(autouse=True)
def password(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_PASSWORD", PASSWORD)
    monkeypatch.delenv("PGPASSWORD", raising=False)


def section(server: Server, **keys: Any) -> DataSection:
    named = {"source": server.url(), "id": "plate", "password_variable": "DATABASE_PASSWORD"}
    return DataSection.model_validate(named | keys)


def read(server: Server, **keys: Any) -> Table:
    return read_table(section(server, **keys), role="guest", need_label=False)


def test_types_and_nulls(server: Server) -> None:
    table = read(
        server,
        table="policies",
        categorical=["zone", "code"],
        dates={"since": {"as": "days"}, "seen": {"as": "days"}},
    )
    assert table.ids == [["007", 'o\'Neil "x"', "Ä-007"]]  # by code points
    got = {name: values.tolist() for name, values in table.features.items()}
    assert got["zone"] == ["a", None, "b"]
    assert got["code"][0] == "550e8400-e29b-41d4-a716-446655440001"
    numbers = {name: [values[0], values[2]] for name, values in got.items()}
    assert numbers["age"] == [19, 30]
    assert numbers["premium"] == [0.1, 1234.5]
    assert numbers["paid"] == [0, 1]
    assert numbers["since"] == [-1, 19756]
    assert numbers["seen"] == [19723, 19757]  # of the day in UTC
    assert numbers["Power"] == [-0.25, 1.5]
    assert numbers["big"] == [-1, 2**53]
    assert np.isnan(got["exact"][0]) and got["exact"][2] == 0.1
    assert all(np.isnan(got[name][1]) for name in ("age", "premium", "paid", "since", "seen", "exact"))


def test_rows_that_are_too_many_for_memory_lie_in_a_file(server: Server, tmp_path: Path) -> None:
    keys: dict[str, Any] = {"table": "policies", "categorical": ["zone", "code"]}
    keys["ignore"] = ["since", "seen"]
    expected = read(server, **keys)
    wanted = Wanted("guest", False, scratch=Scratch(tmp_path, 0))
    table = read_wanted(section(server, **keys), wanted)
    assert [list(cells) for cells in table.ids] == [list(cells) for cells in expected.ids]
    assert str(features(table)) == str(features(expected))


def test_a_view_and_its_schema(server: Server) -> None:
    table = read(server, table="sales.young")
    assert table.ids == [["007"]]
    assert table.path.name == "sales.young"


def test_ids_of_other_types(server: Server) -> None:
    server.sql(
        "create table keys (i bigint, n numeric(12, 0), m numeric(12, 2), d date, u uuid, b boolean)",
        "insert into keys values (12, 13, 14.00, '2024-02-03', "
        "'550e8400-e29b-41d4-a716-446655440000', true)",
        "grant select on keys to reader",
    )
    for name, text in (("i", "12"), ("n", "13"), ("m", "14"), ("d", "2024-02-03")):
        ids = section(server, table="keys", id=name, columns=["i"] if name != "i" else ["n"])
        assert read_table(ids, role="guest", need_label=False).ids == [[text]]
    server.sql("update keys set m = 14.25")
    with refused("keys: id column 'm' has a number that is not whole in row 1", "14.25"):
        read(server, table="keys", id="m", columns=["i"])


def test_types_of_postgresql_alone(server: Server) -> None:
    server.sql(
        "create extension if not exists citext",
        "create type mood as enum ('happy', 'sad')",
        "create domain positive as numeric check (value > 0)",
        "create table own (plate citext, m mood, p positive, c char(5),"
        ' r int4range, "a ""b"" % $1" int)',
        "insert into own values ('aB', 'sad', 1.5, 'x y', '[1,2)', 1)",
        "grant select on own to reader",
    )
    names = ["m", "c", "p", 'a "b" % $1']
    table = read(server, table="own", columns=names, categorical=["m", "c"])
    assert table.ids == [["aB"]]
    assert features(table) == {"m": ["sad"], "c": ["x y"], "p": [1.5], 'a "b" % $1': [1]}
    with refused("own: column 'r' is of a type of the database's own: cast it to text or a number"):
        read(server, table="own", columns=["r"])
    query = "select plate, upper(r) as r from own -- of 100 % $1 ?"
    assert features(read(server, query=query)) == {"r": [2]}


def test_names_with_points_and_quotes(server: Server) -> None:
    server.sql(
        'create schema "a""b"',
        'create table "a""b"."t.x" (plate text, "Größe ""x""" int)',
        """insert into "a""b"."t.x" values ('a', 7)""",
        'grant usage on schema "a""b" to reader',
        'grant select on "a""b"."t.x" to reader',
    )
    assert features(read(server, table='"a""b"."t.x"')) == {'Größe "x"': [7]}
    named = "postgresql://u@db/x#"
    own = TablePlace.parse(f'{named}s."t.x"', None)
    assert own.may_be(TablePlace.parse(f'{named}"t.x"', None))
    assert not own.may_be(TablePlace.parse(f"{named}t.x", None))
    assert TablePlace.parse("postgresql:///?service=a#t", None).url == "postgresql:///?service=a"


def test_a_query_that_is_another_at_each_run_is_noted(server: Server) -> None:
    for query, said in (
        ("select plate, random() as x from policies", "random makes other rows or values whenever"),
        ("select plate, age from policies tablesample system (100)", "a sample makes other rows or"),
        ("select plate, extract(year from now()) as x from policies", "now makes other values on an"),
        ("select plate, current_date - since as x from policies", "current_date makes other values on"),
        ("select plate, age from policies tablesample system (100) repeatable (1)", ""),
        ("select plate, age as \"now()\" from policies where 'random()' <> '' -- now()", ""),
    ):
        notes = [note for note in read(server, query=query).warnings if " makes other " in note]
        assert len(notes) == bool(said)
        assert all(note.startswith(f"[data] query: {said}") for note in notes)


def test_a_query_over_a_table_and_over_several(server: Server) -> None:
    query = "select plate, age * 2 as twice\nfrom data where age is not null;\n"
    table = read(server, table="policies", query=query)
    assert table.ids == [["007", "Ä-007"]]
    assert features(table) == {"twice": [38, 60]}
    query = "with y as (table sales.young) select p.plate, p.age from policies p join y using (plate)"
    assert features(read(server, query=query)) == {"age": [19]}
    # Text in a column of numbers is read as the party file says.
    query = "select plate, '1.234,5' as sum from data"
    table = read(server, table="sales.young", query=query, decimal=",", thousands=".")
    assert features(table) == {"sum": [1234.5]}


def test_a_batch_of_another_table(server: Server) -> None:
    server.sql(
        "create table if not exists batch (plate text, age integer)",
        "insert into batch values ('n2', 7), ('n1', 8)",
        "grant select on batch to reader",
    )
    query = "select plate, age * 2 as twice from data"
    data = section(server, table="policies", query=query)
    place = TablePlace.parse(server.url() + "#batch", data)
    assert place.password_variable == "DATABASE_PASSWORD"  # noqa: S105
    wanted = Wanted("guest", False, path=place, expect=["twice"])
    table = read_wanted(data, wanted)
    assert table.ids == [["n1", "n2"]]
    assert features(table) == {"twice": [16, 14]}
    own = section(server, query="select plate, age from policies")
    with refused(
        "[data] query names its tables itself, so that it says nothing of a batch: write it over"
    ):
        read_wanted(own, wanted)
    with refused("new.csv: [data] query is for tables of the database: put the batch there and name it"):
        read_wanted(data, Wanted("guest", False, path=Path("new.csv"), expect=["twice"]))


def test_a_table_of_a_database_in_place_of_a_file(server: Server, tmp_path: Path) -> None:
    (tmp_path / "p.csv").write_text("plate,age\nA,1\n")
    keys: dict[str, Any] = {"path": tmp_path / "p.csv", "id": "plate"}
    place = TablePlace.parse(f"{server.socket}#sales.young", None)
    wanted = Wanted("guest", False, path=place, expect=["age"])
    table = read_wanted(DataSection.model_validate(keys), wanted)
    assert features(table) == {"age": [19]}
    pytest.importorskip("duckdb")
    query = "select plate, age + 1 as age from data"
    table = read_wanted(DataSection.model_validate(keys | {"query": query}), wanted)
    assert features(table) == {"age": [20]}


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        (
            {"table": "nothing"},
            "nothing: there is no such table",
        ),
        ({"table": "public.nothing"}, "public.nothing: there is no such table"),
        ({"table": "hidden"}, "hidden: this user may not do that: the owner of the table grants it"),
        (
            {"table": "policies", "columns": ["ages"]},
            "policies: no column 'ages' (named by columns): did",
        ),
        ({"query": "select plate, ages from policies"}, "[data] query: there is no such column (ages)"),
        ({"query": "selec plate"}, "[data] query: the query is no SQL that the database knows"),
        (
            {"query": "select foo(age) from policies"},
            "[data] query: the query calls a function that is n",
        ),
        (
            {"query": "select plate, (plate || 'secret')::int from policies"},
            "[data] query: a value does",
        ),
        (
            {"query": "select plate, 1 / (age - 19) as x from policies"},
            "[data] query: the query divides by zero",
        ),
        ({"query": "select plate from policies where age > 100"}, "[data] query: there are no rows"),
        (
            {"query": "select plate, pg_sleep(9) from policies", "options": "statement_timeout%3D50"},
            "by its",
        ),
        (
            {"query": "insert into policies values ('x') returning plate"},
            "[data] query: the query is no SQL",
        ),
        ({"query": "delete from policies"}, "[data] query: the query is no SQL"),
        (
            {"query": "select nextval('counter') as plate"},
            "the transaction can only read, and the query",
        ),
        ({"query": "select 1) as x; drop table policies; --"}, "[data] query: "),
        (
            {"query": "select plate, age::text::money as m from policies"},
            "'m' is of type money: cast it",
        ),
        ({"query": "select plate, array[age] as l from policies"}, "column 'l' is of type list<"),
        (
            {"query": "select plate, '10.0.0.1'::inet as i from policies"},
            "column 'i' is of a type inet of the database's own",
        ),
        (
            {"query": "select plate, date 'infinity' as d from policies"},
            "column 'd' has an infinite date",
        ),
        (
            {"query": "select plate, timestamptz '-infinity' as d from policies"},
            "column 'd' has an infinite date in row 1 (and 2 more rows): correct it",
        ),
        ({"query": "select plate, now() - now() as i from policies"}, "column 'i'"),
        (
            {"query": "select plate, row(1, 2) as x from policies"},
            "a column holds whole rows (a record)",
        ),
        ({"query": "select plate, sum(age) from policies"}, "neither in group by nor in an aggregate"),
        (
            {"query": "select plate, 1 / 0 as x from policies"},
            "divides by zero: nullif(divisor, 0) makes",
        ),
        ({"query": "select plate, age / (age - age) as x from policies"}, "the query divides by zero"),
        (
            {"query": "select plate, (select big from policies) as x from policies"},
            "a subquery that stands for a single value has several rows",
        ),
        ({"query": "select plate from policies where age = $1"}, "has a parameter ($1), which nothing"),
        (
            {"query": 'select plate, age from policies where plate = "007"'},
            "there is no column of a name that stands in double quotes: text takes single ones",
        ),
        (
            {"query": "with x as (delete from policies returning plate) select plate from x"},
            "the transaction can only read, and the query would change something",
        ),
        ({"table": "nowhere.policies"}, "nowhere.policies: there is no such table"),
        ({"table": "a.b.policies"}, "a.b.policies: a name has one schema before it at most"),
        (
            {"table": "by_column"},
            "by_column: this user may not do that: the owner of the table grants it, or a query names",
        ),
        (
            {"query": "select plate, 1 as a, 2 as a from policies"},
            "[data] query: column 'a' comes twice",
        ),
        ({"query": "select plate, 1 from policies"}, ""),
    ],
)
def test_what_cannot_be_read(server: Server, keys: dict[str, Any], said: str) -> None:
    server.sql("create sequence if not exists counter", "grant usage on counter to reader")
    server.sql(
        "create table if not exists by_column (plate text, age integer, salary integer)",
        "grant select (plate, age) on by_column to reader",
    )
    keys = dict(keys)
    if options := keys.pop("options", None):
        keys["source"] = server.url(options=f"?options=-c%20{options}")
    if not said:
        read(server, **keys)
        return
    with refused(said, "secret", "007"):
        read(server, dates={}, **keys)
    assert server.sql("select count(*) from policies") == [(3,)]


def test_nothing_can_be_written_in_a_reading_transaction(server: Server) -> None:
    server.sql("grant insert on hidden to reader")
    place = TablePlace.of(section(server, table="policies"))
    one = pa.table({"plate": ["x"], "age": [1]})
    with (
        refused("policies: the transaction can only read, and the query would change something"),
        connected(place, read_only=True) as (_, cursor),
    ):
        cursor.adbc_ingest("hidden", one.to_reader(), "append", db_schema_name=None)
    assert server.sql("select count(*) from hidden") == [(0,)]
    with connected(place, read_only=True) as (_, cursor):
        cursor.execute("select current_setting('transaction_read_only')")
        assert cursor.fetchone() == ("on",)
        cursor.execute("select current_setting('transaction_isolation')")
        assert cursor.fetchone() == ("repeatable read",)


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"source": "user=nobody"}, "the password is wrong, or there is none"),
        ({"source": "name=nothing"}, "there is no such database"),
        ({"source": "port=1"}, "no server listens there"),
        ({"source": "host=name.invalid"}, "there is no such host"),
        ({"source": "options=?hst=1"}, "its address has an option that is none"),
        ({"source": "options=?service=none"}, "there is no such service"),
        ({"source": "options=?options=-c%20foo%3D1"}, "something that is not to be had there"),
        (
            {"source": "options=?target_session_attrs=standby"},
            "is not of the kind that its address asks",
        ),
        (
            {"source": "options=?sslmode=verify-full&sslrootcert=/none"},
            "no TLS connection as its address",
        ),
        ({"password_variable": None}, "the password is wrong, or there is none"),
        (
            {"password_variable": "NOT_SET"},
            "the variable NOT_SET with the database's password is not set",
        ),
    ],
)
def test_a_server_that_cannot_be_reached(server: Server, keys: dict[str, Any], said: str) -> None:
    keys = dict(keys)
    if "source" in keys:
        what, _, value = keys["source"].partition("=")
        keys["source"] = {
            "user": server.url(user=value),
            "name": server.url(name=value),
            "port": server.url().replace(f":{server.port}/", ":1/"),
            "host": server.url().replace("127.0.0.1", value),
            "options": server.url(options=value),
        }[what]
    with refused(said, PASSWORD, PASSWORD[:8]):
        read(server, table="policies", **keys)


def test_where_passwords_may_be(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "password"
    keys: dict[str, Any] = {"table": "sales.young", "password_variable": None, "password_file": file}
    with refused("password (password_file) cannot be read: No such file"):
        read(server, **keys)
    file.write_text(PASSWORD + "\nanother line\n")
    file.chmod(0o644)
    with pytest.raises(Exception, match=r"others can read the password file .* run chmod 600"):
        read(server, **keys)
    file.chmod(0o600)
    assert read(server, **keys).rows == 1
    file.write_text("")
    with refused("password (password_file) is empty: its first line is the password"):
        read(server, **keys)
    file.write_text("wrong")
    with refused("sales.young: the database cannot be reached: the password is wrong", "wrong\n"):
        read(server, **keys)
    del keys["password_file"]
    monkeypatch.setenv("PGPASSWORD", PASSWORD)
    assert read(server, **keys).rows == 1
    monkeypatch.delenv("PGPASSWORD")
    escaped = PASSWORD.replace("\\", "\\\\").replace(":", "\\:")
    file.write_text(f"127.0.0.1:{server.port}:*:reader:{escaped}\n")
    monkeypatch.setenv("PGPASSFILE", str(file))
    assert read(server, **keys).rows == 1


def test_tls_as_the_address_asks_for_it(server: Server) -> None:
    verified = f"?sslmode=verify-full&sslrootcert={server.certificate}"
    query = "select 'x' as plate, ssl::int as used from pg_stat_ssl where pid = pg_backend_pid()"
    table = read(server, source=server.url(options=verified), query=query)
    assert features(table) == {"used": [1]}
    table = read(server, source=server.url(options="?sslmode=disable"), query=query)
    assert features(table) == {"used": [0]}
    elsewhere = server.url(options=verified).replace("127.0.0.1", "localhost")
    with refused(
        "[data] query: the database cannot be reached: no TLS connection as its address asks for"
    ):
        read(server, source=elsewhere, query=query)


def test_a_server_that_is_killed_in_the_middle(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """The server ends the session among the rows, as when it is stopped or crashes."""
    made = section(
        server, query="select i::text as plate, repeat('x', 1000) as t from generate_series(1, 60000) i"
    )
    first = threading.Event()

    class Killing:
        def __init__(self, reader: pa.RecordBatchReader) -> None:
            self._reader, self.schema = reader, reader.schema

        def __iter__(self) -> Iterator[pa.RecordBatch]:
            for number, batch in enumerate(self._reader):
                yield batch
                if not number:
                    server.sql(
                        "select pg_terminate_backend(pid) from pg_stat_activity where usename = 'reader'"
                    )
                    first.set()

    original = database.connected

    def killing(place: TablePlace, *, read_only: bool) -> Any:
        manager = original(place, read_only=read_only)

        class Manager:
            def __enter__(self) -> Any:
                connection, cursor = manager.__enter__()

                class Wrapped:
                    def execute(self, sql: str) -> object:
                        return cursor.execute(sql)

                    def fetch_record_batch(self) -> Any:
                        return Killing(cursor.fetch_record_batch())

                return connection, Wrapped()

            def __exit__(self, *error: Any) -> Any:
                return manager.__exit__(*error)

        return Manager()

    monkeypatch.setattr(database, "connected", killing)
    with refused("[data] query: the connection was lost: run the command again"):
        read_table(made, role="guest", need_label=False)
    assert first.is_set()


MANY = """
import resource, sys
from vfl.party.sections import DataSection
from vfl.party.sources.database import TablePlace, connected
from vfl.party.table import read_table
data = DataSection.model_validate({"source": sys.argv[1], "id": "plate", "query": sys.argv[2]})
place = TablePlace.of(data)
def stream(end):
    with connected(place, read_only=True) as (_, cursor):
        cursor.execute(place.select() + end)
        return sum(batch.num_rows for batch in cursor.fetch_record_batch())
stream(" limit 1000")
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
rows = stream("")
print(rows, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
table = read_table(data, role="guest", need_label=False)
print(table.rows, table.ids[0][0], table.ids[0][-1], sum(table.features["x"]))
"""


@pytest.mark.slow
def test_a_million_rows_in_bounded_memory(server: Server) -> None:
    """Rows of 300 MB pass through in batches; what is kept of them is the columns that are used."""
    query = (
        "select lpad(i::text, 7, '0') as plate, i % 10 as x, repeat('0', 300) as y "
        "from generate_series(1000000, 1, -1) i"
    )
    done = subprocess.run(
        [sys.executable, "-c", MANY, server.socket, query], capture_output=True, text=True, check=True
    )
    streamed, read_it = done.stdout.splitlines()
    rows, kilobytes = map(int, streamed.split())
    assert rows == 1_000_000
    assert kilobytes < 100_000
    assert read_it == "1000000 0000001 1000000 4500000.0"


def test_a_driver_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    for source, extra in (
        ("snowflake://user@account/db/schema?warehouse=w", "snowflake"),
        ("grpc+tls://user@host:31337", "flightsql"),
        ("postgresql://user@host/db", "postgresql"),
    ):
        name = DRIVERS[source.partition("://")[0]].module
        monkeypatch.setitem(sys.modules, name, None)
        monkeypatch.setitem(sys.modules, f"{name}.dbapi", None)
        data = DataSection.model_validate({"source": source, "id": "plate", "table": "policies"})
        with refused(
            f"policies: the driver of this database is not installed: pip install 'vfl[{extra}]'"
        ):
            read_table(data, role="guest", need_label=False)


def test_other_databases_get_their_password_apart() -> None:
    url = "snowflake://u%40x@acc/db/public?warehouse=w&client_timeout=60s"
    assert DRIVERS["snowflake"].arguments(url, "pw") == (
        None,
        {
            "db_kwargs": {
                "username": "u@x",
                "password": "pw",
                "adbc.snowflake.sql.account": "acc",
                "adbc.snowflake.sql.db": "db",
                "adbc.snowflake.sql.schema": "public",
                "adbc.snowflake.sql.warehouse": "w",
                "adbc.snowflake.sql.client_option.client_timeout": "60s",
            }
        },
    )
    assert DRIVERS["grpc+tls"].arguments("grpc+tls://u%40x@h:1/", "pw") == (
        "grpc+tls://h:1/",
        {"db_kwargs": {"username": "u@x", "password": "pw"}, "autocommit": True},
    )
    assert DRIVERS["postgres"].arguments("postgres://u@h/d?connect_timeout=3", None) == (
        "postgresql://u@h/d?connect_timeout=3",
        {},
    )


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("postgresql://db/x", "the address given must end in # and the name of a table"),
        ("postgresql://db/x#", "the address given must end in # and the name of a table"),
        (
            "postgresql://u:hidden@db/x#t",
            "the address given has a password, which belongs into no",
        ),
        ("mysql://db/x#t", "the address given must be the address of a database: one of"),
    ],
)
def test_an_address_on_the_command_line(text: str, said: str) -> None:
    with refused(said, "hidden"):
        TablePlace.parse(text, None)
