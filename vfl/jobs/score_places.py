"""Where a batch comes from and where its scores go: files, folders of parts, tables of databases."""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import pyarrow as pa

from vfl.errors import DataError
from vfl.party.config import Party
from vfl.party.output import (
    PLAIN,
    OutputPlace,
    ScoreColumns,
    TextForm,
    check_scores,
    columns_of,
    scores_table,
    table_files,
    write_score_parts,
    write_scores,
)
from vfl.party.rows_from import is_url, table_parts
from vfl.party.sections import DataSection
from vfl.party.sources.arrow import is_text
from vfl.party.sources.database import (
    Connection,
    Cursor,
    NoSuchTable,
    TablePlace,
    connected,
    quoted_table,
)
from vfl.party.sources.places import Place
from vfl.text import in_words

_PART = re.compile(r"part-[0-9]{5,}\.parquet")


def place_of(given: Path | str, data: DataSection) -> Place:
    """Where a batch is, by what a person named. Raises DataError for an address that is none."""
    if isinstance(given, str) and is_url(given):
        return TablePlace.parse(given, data)
    return Path(given)


def text_of(place: Place) -> str:
    """What `place_of` makes the same place of, whatever folder it is called in."""
    return f"{place.url}#{place.table}" if isinstance(place, TablePlace) else str(place.absolute())


class Target(Protocol):
    """Where scores go."""

    @property
    def name(self) -> str:
        """What messages, and parts that are kept, call it."""
        ...

    def check(self) -> bool:
        """Whether something there is replaced. Raises DataError where nothing may be written."""
        ...

    def clean(self) -> None:
        """Remove what killed processes have left; for who knows that no other one writes now."""
        ...

    def write(self, parts: Iterable[ScoreColumns]) -> dict[str, int]:
        """Write all rows or nothing; in how many cells text was escaped, by column. Raises DataError."""
        ...


def target_of(party: Party, batch: Place, given: Path | str, force: bool) -> Target:
    """Where the scores go. Raises DataError where they cannot be written or must not."""
    if isinstance(given, str) and is_url(given):
        place = TablePlace.parse(given, party.data)
        own = None if party.data.source is None else TablePlace.of(party.data)
        for other, what in ((batch, "the table of rows to score"), (own, f"the table of {party.name}")):
            if isinstance(other, TablePlace) and place.may_be(other):
                raise DataError(f"{place.name} cannot be written: it is {what}: name another one")
        if not place.transactional:
            raise DataError(
                f"{place.name} cannot be written: in this database a table cannot be made at once: "
                "write the scores into a Parquet file, and load that"
            )
        table = _Table(place, force)
        table.probe()
        return table
    parts = isinstance(given, str) and given.endswith("/")
    out, ids, form = Path(given), len(party.data.id_columns), TextForm.of(party.data)
    kind = ".parquet" if parts else out.suffix

    def is_former(path: Path) -> bool:
        files = sorted(path.iterdir()) if path.is_dir() else [path]
        return all(
            any(_are_scores(columns_of(file, kind, sign), ids) for sign in (",", form.separator))
            for file in files
        )

    if parts:
        _check_folder(out)
    else:
        check_scores(out)
    reads = {} if isinstance(batch, TablePlace) else table_files(batch, "the table of rows to score")
    output = OutputPlace.of(out, "score", party=party, reads=reads, is_former=is_former, force=force)
    return _Parts(output) if parts else _File(output, kind, form)


def _check_folder(out: Path) -> None:
    """Raises DataError for a file, and for a folder that holds anything but parts."""
    why = ""
    try:
        if out.is_file():
            why = "it is a file, and a name with / at its end is a folder's"
        elif out.is_dir() and not all(_PART.fullmatch(path.name) for path in out.iterdir()):
            why = "it holds other files than scores: name a new folder, or empty this one"
    except OSError as error:
        why = error.strerror or "it cannot be looked at"
    if why:
        raise DataError(f"{out} cannot be written: {why}")


def _are_scores(columns: list[str], ids: int) -> bool:
    rest = columns[ids:]
    return bool(columns) and rest[:1] in (["probability"], ["prediction"]) and "unknown_to" in rest


@dataclass(frozen=True)
class _File:
    """A file, CSV or Parquet by its name."""

    place: OutputPlace
    kind: str
    form: TextForm = PLAIN

    @property
    def name(self) -> str:
        return str(self.place.given)

    def check(self) -> bool:
        return self.place.check()

    def clean(self) -> None:
        self.place.clean()

    def write(self, parts: Iterable[ScoreColumns]) -> dict[str, int]:
        with self.place.writing() as file:
            return write_scores(file, self.kind, parts, self.form)


@dataclass(frozen=True)
class _Parts(_File):
    """A folder of Parquet files."""

    kind: str = ".parquet"

    def check(self) -> bool:
        _check_folder(self.place.place)
        return super().check()

    def write(self, parts: Iterable[ScoreColumns]) -> dict[str, int]:
        with self.place.writing_folder() as folder:
            write_score_parts(folder, parts)
        return {}


@dataclass(frozen=True)
class _Table:
    """A table of a database, made anew; with `force` the rows of one that is there are replaced."""

    place: TablePlace
    force: bool

    @property
    def name(self) -> str:
        return f"{self.place.url}#{self.place.table}"

    @property
    def _sql(self) -> str:
        return quoted_table(self.place.table or "")

    def check(self) -> bool:
        return self._checked() is not None

    def _checked(self) -> pa.Schema | None:
        """The columns of a table whose rows may be replaced; None without one. Raises DataError."""
        there = self._schema()
        if there is None:
            return None
        if not self.force:
            raise DataError(
                f"{self.place.name} cannot be written: there is a table of that name already: name "
                "another one, or give --force to replace its rows"
            )
        if "unknown_to" not in there.names or not {"probability", "prediction"} & {*there.names}:
            raise DataError(
                f"{self.place.name} cannot be written: the table there is not one of scores: name "
                "another one, or drop it"
            )
        for one in there:
            if not is_text(one.type) and one.type != pa.float64():
                raise DataError(
                    f"{self.place.name} cannot be written: column '{one.name}' of the table there holds "
                    "neither text nor numbers of double precision, as scores have them: name another "
                    "one, or drop it"
                )
        return there

    def probe(self) -> None:
        """Raise DataError now if nothing could be written later; all is rolled back."""
        there = self._checked()
        with connected(self.place, read_only=False) as (connection, cursor):
            if there is None:
                cursor.execute(f"create table {self._sql} (probe integer)")
            else:
                cursor.execute(f"delete from {self._sql} where 1 = 0")  # noqa: S608
                plain = pa.schema([(one.name, one.type) for one in there])
                self._ingest(cursor, pa.RecordBatchReader.from_batches(plain, []), "append")
            connection.rollback()

    def clean(self) -> None:
        """A transaction leaves nothing."""

    def write(self, parts: Iterable[ScoreColumns]) -> dict[str, int]:
        checked = self._checked()
        there = None if checked is None else list(checked.names)
        rest = _Batches(parts)
        try:
            with connected(self.place, read_only=False) as (connection, cursor):
                self._insert(connection, cursor, rest, there)
        except Exception:
            if rest.error is not None:  # which the driver has seen as one of its own
                raise rest.error from None
            raise
        return {}

    def _insert(
        self, connection: Connection, cursor: Cursor, rest: "_Batches", there: list[str] | None
    ) -> None:
        schema, mode = rest.schema, "create"
        if there is not None:
            if set(there) != set(schema.names):
                lacking = sorted(set(there) ^ set(schema.names))
                raise DataError(
                    f"{self.place.name} cannot be written: the table there has other columns "
                    f"({in_words(lacking[:5])}): name another one, or drop it"
                )
            cursor.execute(f"delete from {self._sql}")  # noqa: S608
            mode = "append"
        self._ingest(cursor, pa.RecordBatchReader.from_batches(schema, rest), mode)
        if rest.error is not None:
            raise rest.error
        connection.commit()

    def _ingest(self, cursor: Cursor, reader: pa.RecordBatchReader, mode: str) -> None:
        *schemas, table = table_parts(self.place.table or "")
        cursor.adbc_ingest(table, reader, mode, db_schema_name=schemas[-1] if schemas else None)

    def _schema(self) -> pa.Schema | None:
        """The columns of the table; None if there is none."""
        try:
            with connected(self.place, read_only=True) as (_, cursor):
                cursor.execute(f"select * from {self._sql} limit 0")  # noqa: S608
                return cursor.fetch_record_batch().schema
        except NoSuchTable:
            return None


class _Batches:
    """Parts of scores as batches of Arrow; what goes wrong while they are made is `error`."""

    def __init__(self, parts: Iterable[ScoreColumns]) -> None:
        self._parts = iter(parts)
        self._first = scores_table(next(self._parts))
        self.schema: pa.Schema = self._first.schema
        self.error: Exception | None = None

    def __iter__(self) -> Iterator[pa.RecordBatch]:
        try:
            yield from self._first.to_batches()
            for columns in self._parts:
                yield from scores_table(columns).to_batches()
        except Exception as error:
            self.error = error
            raise
