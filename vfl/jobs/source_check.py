"""Where a party's rows come from, before any job: whether it is there, who could see or change it."""

from collections.abc import Iterator
from urllib.parse import parse_qs, urlsplit

from vfl.errors import VflError
from vfl.jobs.check_result import CheckLevel, CheckResult, Reporter
from vfl.party.sections import DataSection
from vfl.party.sources.database import Cursor, TablePlace, connected, quoted_table
from vfl.party.sources.parts import files_of, is_pattern, parts_of
from vfl.text import counted

_LOCAL = ("", "localhost", "127.0.0.1", "::1")


def check_source(data: DataSection, report: Reporter) -> bool:
    """Report on the database, or the files, of a table; False where they cannot be read."""
    try:
        lines = [*_of_database(data)] if data.source is not None else [*_of_files(data)]
    except VflError as error:
        report(CheckResult("FAIL", "source", f"source: {error}"))
        return False
    except OSError as error:
        text = f"source: the files cannot be looked at: {error.strerror}"
        report(CheckResult("FAIL", "source", text))
        return False
    for state, text in lines:
        report(CheckResult(state, "source", f"source: {text}"))
    return True


def _of_files(data: DataSection) -> Iterator[tuple[CheckLevel, str]]:
    """Of a folder or pattern, how many files there are."""
    for path in data.files:
        if not path.exists() and not is_pattern(path):
            return  # as the check of the table says
        if (parts := parts_of(path)) is not None:
            size = sum(part.stat().st_size for part in parts)
            yield "ok", f"{path.name}: {counted(len(parts), 'file')}, {size / 1e6:,.1f} MB"
    if data.query is not None:
        files = sum(len(files_of(path)) for path in data.files)
        yield "ok", f"a query over {counted(files, 'file')}, which is kept with each model"


def _of_database(data: DataSection) -> Iterator[tuple[CheckLevel, str]]:
    place = TablePlace.of(data)
    with connected(place, read_only=True) as (_, cursor):
        yield from _of_postgresql(place, cursor) if _is_postgresql(place) else _of_another(place)


def _is_postgresql(place: TablePlace) -> bool:
    return urlsplit(place.url).scheme in ("postgresql", "postgres")


def _of_another(place: TablePlace) -> Iterator[tuple[CheckLevel, str]]:
    yield "ok", f"{place.name}: the database can be reached"
    yield (
        "note",
        f"{place.name}: nothing here keeps a query from changing this database: give its user the right "
        "to read alone",
    )


def _of_postgresql(place: TablePlace, cursor: Cursor) -> Iterator[tuple[CheckLevel, str]]:
    version, tls, reads_only = _row(
        cursor,
        "select current_setting('server_version'), coalesce((select version from pg_stat_ssl "
        "where pid = pg_backend_pid()), ''), current_setting('transaction_read_only')",
    )
    how = f"by {tls}" if tls else "without TLS"
    only = ", in a transaction that can change nothing" if reads_only == "on" else ""
    yield "ok", f"{place.name}: PostgreSQL {str(version).partition(' ')[0]}, {how}{only}"
    parts = urlsplit(place.url)
    options = parse_qs(parts.query)
    hosts = {parts.hostname or "", *options.get("host", [])} - {""}
    away = [host for host in hosts if host not in _LOCAL and not host.startswith("/")]
    if away and not tls:
        yield "note", f"{place.name}: who sees the line can read the rows: add ?sslmode=verify-full"
    elif away and options.get("sslmode", [""])[-1] not in ("verify-full", "verify-ca"):
        yield (
            "note",
            f"{place.name}: nobody checks that this is the server: add ?sslmode=verify-full (and "
            "sslrootcert, if its authority is your own)",
        )
    if place.table is not None:
        name = quoted_table(place.table).replace("'", "''")
        (writes,) = _row(cursor, f"select has_table_privilege('{name}', 'insert, update, delete')::int")
        if writes:
            yield (
                "note",
                f"{place.name}: this user may change the table; one that can only read it is enough",
            )


def _row(cursor: Cursor, sql: str) -> tuple[object, ...]:
    cursor.execute(sql)
    return cursor.fetchone() or ()
