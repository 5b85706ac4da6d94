"""Tables of databases, read by ADBC as batches of Arrow.

Where the database can, all that is read is read in one transaction that can change nothing. The password
comes from a file, a variable or the database's own client (libpq: ~/.pgpass, PGPASSWORD, PGPASSFILE) and
is in no message. Nor are the driver's own words, which may quote a cell: an error is told apart by its
SQLSTATE, or by what can still be done with the connection.
"""

import contextlib
import importlib
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from pathlib import Path
from typing import Protocol, cast
from urllib.parse import unquote, urlsplit

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from vfl.blocks.spool import Spooled, gather
from vfl.errors import DataError
from vfl.party.id_cells import whole_text
from vfl.party.passphrase import refuse_if_others_can_read
from vfl.party.rows_from import OWN_VIEW, RowsFrom, split_url, table_parts
from vfl.party.sources.arrow import float64, mask_of
from vfl.party.sources.drivers import DRIVERS, Driver
from vfl.party.sources.query_words import changing_words
from vfl.party.sources.result import Result
from vfl.party.sources.source import printable


class Cursor(Protocol):
    """A cursor of the DB API with ADBC's calls."""

    def execute(self, sql: str) -> object: ...
    def fetchone(self) -> tuple[object, ...] | None: ...
    def fetch_record_batch(self) -> pa.RecordBatchReader: ...
    def adbc_ingest(
        self, table_name: str, data: pa.RecordBatchReader, mode: str, *, db_schema_name: str | None
    ) -> int: ...
    def close(self) -> None: ...


class Connection(Protocol):
    """A connection of the DB API."""

    def cursor(self) -> Cursor: ...
    def commit(self) -> None: ...
    def rollback(self) -> None: ...
    def close(self) -> None: ...


@dataclass(frozen=True)
class TablePlace:
    """A table of a database, or the result of a query there. `url` has no password."""

    url: str
    table: str | None
    query: str | None = None
    password_file: Path | None = None
    password_variable: str | None = None

    @classmethod
    def of(cls, data: RowsFrom) -> "TablePlace":
        """That of [data] of a party file."""
        if data.source is None:
            raise ValueError("a source is due")
        return cls(data.source, data.table, data.query, data.password_file, data.password_variable)

    @classmethod
    def parse(cls, text: str, data: RowsFrom | None) -> "TablePlace":
        """The table that an address names behind #, as in postgresql://user@host/name#policies.

        The password of [data] is that of its own database alone. Raises DataError.
        """
        try:
            parts = split_url(text)
        except ValueError as error:
            raise DataError(f"the address given {error}") from None
        table = unquote(parts.fragment)
        try:
            table_parts(table)
        except ValueError:
            raise DataError(
                "the address given must end in # and the name of a table, such as #policies"
            ) from None
        url = text.partition("#")[0]
        same = data is not None and data.source is not None and split_url(data.source)[:3] == parts[:3]
        if same and data is not None:
            return cls(url, table, None, data.password_file, data.password_variable)
        return cls(url, table)

    def with_query(self, query: str) -> "TablePlace":
        """The same table, asked by a query."""
        return replace(self, query=query)

    @property
    def name(self) -> str:
        """What messages call it."""
        return self.table if self.table is not None and self.query is None else "[data] query"

    @property
    def transactional(self) -> bool:
        """Whether a table that is made can be taken back."""
        return self.driver.read_only is not None

    def may_be(self, other: "TablePlace") -> bool:
        """Whether both could be one table, as far as their addresses tell."""
        own, its = urlsplit(self.url), urlsplit(other.url)
        if (own.hostname, own.path) != (its.hostname, its.path) or not self.table or not other.table:
            return False
        # Without a schema it is whichever the user finds it in.
        pairs = zip(reversed(table_parts(self.table)), reversed(table_parts(other.table)), strict=False)
        return all(one == another for one, another in pairs)

    @property
    def driver(self) -> Driver:
        """How it is reached."""
        return DRIVERS[urlsplit(self.url).scheme]

    def select(self, columns: str = "*") -> str:
        """Its rows, or some columns of them, in SQL."""
        own = "" if self.table is None else f"select * from {quoted_table(self.table)}"  # noqa: S608
        before, rows = "", own
        if self.query is not None:
            before = f"with {OWN_VIEW} as ({own}) " if own else ""
            rows = re.sub(r"[\s;]+\Z", "", self.query)
        return f"{before}select {columns} from (\n{rows}\n) as vfl_rows"  # noqa: S608


def quoted(name: str) -> str:
    """A name for SQL, just as it is spelt."""
    return '"' + name.replace('"', '""') + '"'


def quoted_table(name: str) -> str:
    """The name of a table, with its schema if it names one."""
    return ".".join(map(quoted, table_parts(name)))


@contextlib.contextmanager
def connected(place: TablePlace, *, read_only: bool) -> Iterator[tuple[Connection, Cursor]]:
    """A connection and a cursor, in a transaction that ends with it and is rolled back unless committed.

    Raises DataError, of one line without cells, for whatever goes wrong within.
    """
    driver = place.driver
    try:
        module = importlib.import_module(f"{driver.module}.dbapi")
    except ModuleNotFoundError:
        raise DataError(
            f"{place.name}: the driver of this database is not installed: pip install "
            f"'vfl[{driver.extra}]'"
        ) from None
    try:
        address, options = driver.arguments(place.url, _password(place))
    except ValueError as error:
        raise DataError(f"{place.name}: the address of the database {error}") from None
    connection: Connection | None = None
    with contextlib.ExitStack() as ends:
        try:
            connection = cast(Connection, module.connect(address, **options))
            ends.callback(_close, connection)
            cursor = connection.cursor()
            ends.callback(_close, cursor)
            if read_only and driver.read_only is not None:
                cursor.execute(driver.read_only)
            yield connection, cursor
        except DataError:
            raise
        except Exception as error:
            # ADBC's errors, and OSError from within a stream of batches.
            if not isinstance(error, module.Error | OSError | pa.ArrowException):
                raise
            raise _fault(place, connection, error) from None


def _close(what: Connection | Cursor) -> None:
    with contextlib.suppress(Exception):  # of a connection that is gone
        what.close()


def _password(place: TablePlace) -> str | None:
    """The password that the party file says where to find; None where it says nothing of one."""
    if (name := place.password_variable) is not None:
        if not os.environ.get(name):
            raise DataError(f"{place.name}: the variable {name} with the database's password is not set")
        return os.environ[name]
    path = place.password_file
    if path is None:
        return None
    try:
        refuse_if_others_can_read(path, "password file")
        text = path.read_text().partition("\n")[0].removesuffix("\r")
    except OSError as error:
        raise DataError(f"{path} (password_file) cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise DataError(f"{path} (password_file) is not UTF-8") from None
    if not text:
        raise DataError(f"{path} (password_file) is empty: its first line is the password")
    return text


# What libpq says where there is no SQLSTATE yet; a server may say the rest in a language of its own.
_REFUSED = (
    (r"password authentication failed|no password supplied", "the password is wrong, or there is none"),
    (r"database \".*\" does not exist", "there is no such database"),
    (r"role \".*\" does not exist", "there is no such user"),
    (
        r"no pg_hba.conf entry",
        "the server lets this user in from elsewhere, or by TLS, alone (pg_hba.conf)",
    ),
    (r"\(Unauthenticated|UNAUTHENTICATED", "the password or token is wrong, or there is none"),
    (r"could not translate host name|produced zero addresses|no such host", "there is no such host"),
    (r"[Cc]onnection refused|No such file", "no server listens there"),
    (r"definition of service", "there is no such service (pg_service.conf)"),
    (
        r"hot standby|session is (not )?read-only|primary",
        "the server is not of the kind that its address asks for (target_session_attrs)",
    ),
    (
        r"unrecognized configuration parameter|invalid value for parameter|not compiled in"
        r"|authentication method requirement|channel binding",
        "its address asks for something that is not to be had there (options, require_auth, ...)",
    ),
    (r"timeout expired|timed out|i/o timeout|[Dd]eadline ?[Ee]xceeded", "no answer in time"),
    (
        r"transport: authentication handshake|tls: |x509: ",
        "no TLS connection can be made (grpc is without, grpc+tls with it; tls_root_certs names the "
        "file of an authority of your own)",
    ),
    (
        r"certificate|SSL|TLS",
        "no TLS connection as its address asks for can be made (sslmode, sslrootcert)",
    ),
    (
        r"URI|invalid connection option|invalid (sslmode|port)",
        "its address has an option that is none",
    ),
    (
        r"too many (clients|connections)|remaining connection slots",
        "the server has too many connections",
    ),
)
_STATES = (
    ("42P01", "there is no such table"),
    ("42703", "there is no such column"),
    ("42501", "this user may not do that: the owner of the table grants it"),
    ("42601", "the query is no SQL that the database knows"),
    ("42883", "the query calls a function that is not there for such types"),
    ("42P07", "there is a table of that name already"),
    ("42803", "a column is neither in group by nor in an aggregate such as max()"),
    ("42P02", "the query has a parameter ($1), which nothing fills in: write the value itself"),
    ("42701", "a column comes twice: name it otherwise, as in age as age_then"),
    ("42702", "a column is in several tables: say of which, as in data.age"),
    ("3F", "there is no such schema"),
    ("42809", "it is a view, or of another kind that takes no rows: name a table"),
    ("55000", "what is named there takes no rows: name a table"),
    ("22012", "the query divides by zero: nullif(divisor, 0) makes the value missing"),
    ("21", "a subquery that stands for a single value has several rows"),
    ("57014", "the statement was cancelled, by its timeout or by a person"),
    ("55P03", "a lock was not had in time"),
    ("25006", "the transaction can only read, and the query would change something"),
    ("40001", "the rows were changed meanwhile: start again"),
    ("0A", "the query asks for something that the database cannot do there"),
    ("53", "the server has no room left"),
    ("22", "a value does not fit the type that it is turned into"),
    ("23", "a row breaks a rule of the table"),
    ("42", "the query does not fit the tables, columns or types of the database"),
    ("28", "this user is not let in"),
    ("57P", "the server is shutting down"),
    ("08", "the connection was lost"),
)

# Of errors that come among the rows there is the text alone.
_STREAMED = (
    (r"read-only transaction", dict(_STATES)["25006"]),
    (r"statement timeout|canceling statement", dict(_STATES)["57014"]),
    (r"division by zero", dict(_STATES)["22012"]),
    (r"invalid input syntax|out of range|invalid value", dict(_STATES)["22"]),
    (r"more than one row returned by a subquery", dict(_STATES)["21"]),
    (
        r"ReadRecord failed|nested record",
        "a column holds whole rows (a record): name its fields, or cast it to text in a query",
    ),
)
# Databases that have no SQLSTATE say a status (of gRPC), or nothing but words of their own.
_SAID = (
    (r"(?i)\btable\b.*(not found|does not exist)|no such table", "there is no such table"),
    (r"(?i)\b(column|field)\b.*(not found|does not exist)", "there is no such column"),
    (r"(?i)syntax error|parser? error|SQL error: Parser", dict(_STATES)["42601"]),
    (r"(?i)(conversion|cast) error|could not (convert|cast)|cannot cast", dict(_STATES)["22"]),
)
_STATUSES = {
    "NOT_FOUND": "there is no such table, column or function",
    "INVALID_ARGUMENT": "the query does not fit the tables, columns or types of the database",
    "UNAUTHENTICATED": "this user is not let in any more",
    "UNAUTHORIZED": dict(_STATES)["42501"],
    "NOT_IMPLEMENTED": dict(_STATES)["0A"],
    "TIMEOUT": "there was no answer in time",
    "CANCELLED": dict(_STATES)["57014"],
}
_UNABLE = (
    (r"cross-database references", "a name has one schema before it at most"),
    (r"data-modifying statement", dict(_STATES)["25006"]),
)


def _fault(place: TablePlace, connection: Connection | None, error: Exception) -> DataError:
    """The one line about an error of the driver."""
    text, state = str(error), getattr(error, "sqlstate", None) or ""
    if connection is None:
        why = next((words for pattern, words in _REFUSED if re.search(pattern, text)), None)
        why = why or "the connection was refused (the server's log says why)"
        return DataError(printable(f"{place.name}: the database cannot be reached: {why}"))
    why = next((words for code, words in _STATES if state.startswith(code)), None)
    if state.startswith("0A"):
        why = next((words for pattern, words in _UNABLE if re.search(pattern, text)), why)
    if why is None and not _answers(connection):
        why = "the connection was lost: run the command again"
    elif why is None:
        known = (*_STREAMED, *_SAID)
        why = next((words for pattern, words in known if re.search(pattern, text)), None)
    if why is None:
        status = getattr(getattr(error, "status_code", None), "name", "")
        why = _STATUSES.get(status)
    if why is None:
        why = f"the database could not go on{f' ({state})' if state else ''}: its log says why"
    named = re.search(r'(?:relation|column|function) (?:"([\w.]+)"|([\w.]+))', text)
    name = named and (named[1] or named[2])
    if name and state == "42703" and f'"{name}"' in (place.query or ""):  # it may be a cell
        why = "there is no column of a name that stands in double quotes: text takes single ones"
    elif name and state.startswith("42") and name != place.table:
        why = f"{why} ({name})"
    kind = _KINDS.get(state, DataError)
    return kind(printable(f"{place.name}: {why}"))


def _answers(connection: Connection) -> bool:
    """Whether the server is still there, whatever it said."""
    with contextlib.suppress(Exception):  # of one that has no transactions
        connection.rollback()
    try:
        cursor = connection.cursor()
        cursor.execute("select 1")
        return cursor.fetchone() is not None
    except Exception:
        return False


class NoSuchTable(DataError):
    """There is no such table in the database."""


class NotAllowed(DataError):
    """The user may not do that."""


_KINDS: Mapping[str, type[DataError]] = {
    "42P01": NoSuchTable,
    "42S02": NoSuchTable,
    "42501": NotAllowed,
}


class Database(Result):
    """A table of a database, or what a query makes there."""

    def __init__(self, place: TablePlace, data: RowsFrom, order: Sequence[str]) -> None:
        super().__init__(Path(place.name), data, order)
        self._place = place
        try:
            with connected(place, read_only=True) as (_, cursor):
                cursor.execute(f"{place.select()} limit 0")
                schema = cursor.fetch_record_batch().schema
        except NotAllowed as error:
            if place.query is not None:
                raise
            raise DataError(f"{error}, or a query names the columns that it may read") from None
        if place.query is not None:
            self.notes += [f"{place.name}: {said}" for said in changing_words(place.query)]
        self.names = list(schema.names)
        self.check_result_names()
        # What PostgreSQL calls the types, where it is one.
        self._types = {one.name: (one.metadata or {}).get(_TYPE, b"").decode() for one in schema}

    def fetch(self, names: Sequence[str]) -> pa.Table | Spooled:
        for name in names:
            if self._types[name] == "money":  # handed over without its decimal point
                raise self.error(f"column '{name}' is of type money: cast it to numeric in a query")
        with connected(self._place, read_only=True) as (_, cursor):
            cursor.execute(self._place.select(", ".join(map(quoted, names))))
            return gather(self.scratch, cursor.fetch_record_batch())

    def plain(self, name: str) -> pa.ChunkedArray:
        if self._types[name] == "numeric":
            chunks = [getattr(chunk, "storage", chunk) for chunk in self.table[name].chunks]
            return pa.chunked_array(chunks, pa.string())
        column = self._own_type(name) if _is_opaque(self.table[name].type) else super().plain(name)
        if self._types[name] == "bpchar":  # filled up with blanks that say nothing
            column = pc.utf8_rtrim(column, " ")
        least = _LEAST.get(self._types[name])
        if least is not None:
            ticks = column.cast(pa.int32() if pa.types.is_date32(column.type) else pa.int64())
            infinite = mask_of(pc.less(ticks, least))
            if infinite.any():
                raise self.error(
                    f"column '{name}' has an infinite date {self.in_rows(infinite)}: correct it"
                )
        return column

    def _own_type(self, name: str) -> pa.ChunkedArray:
        """A column of a type that Arrow does not know."""
        kind = self._types[name]
        if kind != "citext":
            known = "" if kind.startswith("unnamed") else f" {kind}"
            raise self.error(
                f"column '{name}' is of a type{known} of the database's own: cast it to text or a "
                "number in a query"
            )
        chunks = [chunk.storage.cast(pa.large_string()) for chunk in self.table[name].chunks]
        return pa.chunked_array(chunks, pa.large_string())

    def ids(self, name: str) -> Sequence[str | None]:
        if self._types[name] != "numeric":
            return super().ids(name)
        return self.as_whole_numbers(name, self.plain(name), lambda text: whole_text(Decimal(str(text))))

    def _numbers(self, name: str, what: str, advice: str, feature: bool) -> NDArray[np.float64]:
        if self._types[name] == "numeric":  # written with a point, whatever the party file says of text
            return float64(self.plain(name))
        return super()._numbers(name, what, advice, feature)


def _is_opaque(kind: pa.DataType) -> bool:
    return getattr(kind, "extension_name", "") == "arrow.opaque"


_TYPE = b"POSTGRESQL:type"
_LEAST = {
    "date": -3_000_000,
    "timestamp": -300_000_000_000_000_000,
    "timestamptz": -300_000_000_000_000_000,
}
"""Before the first days and microseconds that PostgreSQL has: its infinities come out as less."""
