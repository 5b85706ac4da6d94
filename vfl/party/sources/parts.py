"""A table in several files: a folder of parts, or those that a pattern such as policies/*.parquet names.

The parts are all text, or all of typed columns, and have the same columns. Their rows follow each other
in the order of the files' paths, name by name as text: part-10 comes before part-9.
"""

import bisect
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from vfl.errors import DataError
from vfl.party.reading import Reading
from vfl.party.rows import RowNumbers
from vfl.party.sources.arrow import is_text
from vfl.party.sources.excel import Excel
from vfl.party.sources.folders import is_named
from vfl.party.sources.parquet import Columnar, Parquet
from vfl.party.sources.source import Source, TableError
from vfl.party.sources.text import TextColumns
from vfl.text import counted

_MAGIC = "*?["


def is_pattern(path: Path) -> bool:
    """Whether a path stands for files that its signs match, and is no file itself."""
    return any(sign in str(path) for sign in _MAGIC) and not path.exists()


def parts_of(path: Path) -> list[Path] | None:
    """The files of a folder or pattern, in the order of their rows; None for a path of one file.

    What begins with a dot or an underscore is none of them, nor what lies in such a folder, as programs
    that write parts mark them. Raises DataError where there is no file, where a folder is among them,
    and for a table of a format that keeps files of earlier versions.
    """
    if is_pattern(path):
        folder, pattern = _split(path)
        found = [part for part in folder.glob(pattern) if _is_part(part, folder)]
        if pattern.endswith("**"):
            found = [part for part in found if part.is_file()]
        if not found:
            raise DataError(f"no file matches {path}")
    elif path.is_dir():
        folder = path
        found = list(_below(path))
        if not found:
            raise DataError(f"{path} is a folder without files")
    else:
        return None
    if led := next((part for part in sorted(found) if part.is_symlink() and not part.exists()), None):
        raise DataError(nowhere(led))
    for above in {folder, *(part.parent for part in found)}:
        if versions := next((name for name in _VERSIONS if (above / name).is_dir()), None):
            raise DataError(
                f"{above} is a {_VERSIONS[versions]} table, of which some files are of earlier "
                "versions: export it as Parquet"
            )
    if inner := sorted(part.name for part in found if part.is_dir()):
        raise DataError(
            f"{path} has folders in it ({inner[0]}): name the files by a pattern, such as "
            f"{path.name if path == folder else folder.name}/**/*.parquet"
        )
    return sorted(found, key=lambda part: part.parts)


def _below(folder: Path) -> Iterator[Path]:
    """What lies in a folder; in place of a folder such as year=2026 what lies in that."""
    for path in folder.iterdir():
        if not _is_part(path, folder):
            continue
        if is_named(path) and path.is_dir() and not path.is_symlink():
            yield from _below(path)
        else:
            yield path


def nowhere(path: Path) -> str:
    """What is said of a symbolic link to a file that is not there."""
    return f"{path} is a symbolic link that leads to no file: mend it or remove it"


def files_of(path: Path) -> list[Path]:
    """All files that are read for a path: itself where it is one. Raises DataError and OSError."""
    parts = parts_of(path)
    return [path] if parts is None else parts


def _split(pattern: Path) -> tuple[Path, str]:
    """The folder above a pattern's first sign, and the pattern in it."""
    parts = pattern.parts
    first = next(i for i, part in enumerate(parts) if any(sign in part for sign in _MAGIC))
    return Path(*parts[:first]), str(Path(*parts[first:]))


_VERSIONS = {"_delta_log": "Delta", ".hoodie": "Hudi"}
"""Folders by which formats keep versions of a table, beside files of which not all are of the newest."""


def _is_part(path: Path, folder: Path) -> bool:
    return not any(name.startswith((".", "_")) for name in path.relative_to(folder).parts)


def join_parts(path: Path, reading: Reading, parts: Sequence[Source]) -> Source:
    """The table that all the files of `path` are. Raises DataError where they are not alike."""
    if book := next((part for part in parts if isinstance(part, Excel)), None):
        raise DataError(
            f"{path} has an Excel workbook ({book.called}), which is a table by itself: save parts "
            "as CSV, or name one file"
        )
    typed = [part for part in parts if isinstance(part, Columnar)]
    texts = [part for part in parts if isinstance(part, TextColumns)]
    if typed and texts:
        raise DataError(
            f"{path} has text and typed files ({texts[0].called}, {typed[0].called}): name one "
            "kind by a pattern, such as *.parquet"
        )
    return TypedParts(path, reading, typed) if typed else TextParts(path, reading, texts)


def _join_names(source: Source, parts: Sequence[Source]) -> None:
    """Give a source the columns of all parts, and those that some part does not have as `lacking`.

    Raises DataError where a part has no names.
    """
    having: dict[str, Source] = {}
    for part in parts:
        for name in part.names:
            having.setdefault(name, part)
    lacking: dict[str, TableError] = {}
    for part in parts:
        absent = having.keys() - {*part.names}
        if absent and (bare := next((one for one in (parts[0], part) if one.unnamed), None)):
            raise bare.error(
                "the first row seems to hold cells, so write the names of the columns above it, as in "
                "the other files"
            )
        for name in absent - lacking.keys():
            lacking[name] = part.error(
                f"no column '{name}', which {having[name].called} has: write the files alike, or "
                "ignore it in [data] if it is of no use"
            )
    source.names, source.lacking = list(having), lacking


class _Rows:
    """Which rows of the table are which of a part."""

    def __init__(self, parts: Sequence[Source]) -> None:
        self._numbers = [(part.called, part.row_numbers) for part in parts]
        self._starts = list(itertools.accumulate((part.rows for part in parts), initial=0))

    def __call__(self, places: Sequence[int]) -> list[int | str]:
        """As `RowNumbers`: '17 of part-3.csv'."""
        found: list[int | str] = []
        which = [bisect.bisect_right(self._starts, place) - 1 for place in places]
        for part, own in itertools.groupby(zip(which, places, strict=True), lambda pair: pair[0]):
            name, numbers = self._numbers[part]
            start = self._starts[part]
            rows = numbers([place - start for _, place in own])
            found += [f"{row} of {name}" for row in rows]
        return found


def _read(source: Source, parts: Sequence[Source], names: list[str]) -> RowNumbers:
    """Read columns of all parts; what numbers their rows."""
    known = sum(part.rows for part in parts if isinstance(part, Parquet))
    size = sum(part.path.stat().st_size for part in parts if part.path.exists())
    scratch = source.scratch
    if scratch.takes(size):  # each part may be small
        scratch = replace(scratch, in_memory=0)
    for part in parts:
        part.shown, part.scratch, part.beside = source.shown, scratch, known
        part.read(names)
    source.notes += [note for part in parts for note in part.notes]
    return _numbered(source, parts)


def _numbered(source: Source, parts: Sequence[Source]) -> RowNumbers:
    """Count the rows of all parts; what numbers them."""
    source.rows = sum(part.rows for part in parts)
    if not source.rows:
        raise source.error(f"{counted(len(parts), 'file')} with columns but no rows")
    return _Rows(parts)


@dataclass(frozen=True)
class _Joined:
    """The columns of all parts, joined when they are asked for."""

    parts: Sequence[Source]

    def __getitem__(self, name: str) -> pa.ChunkedArray:
        chunks = [chunk for part in self.parts for chunk in part.table[name].chunks]
        return pa.chunked_array(chunks, pa.string())


class TextParts(TextColumns):
    """Text files that are one table."""

    def __init__(self, path: Path, reading: Reading, parts: Sequence[Source]) -> None:
        super().__init__(path, reading)
        first = parts[0]
        _join_names(self, parts)
        self.doubt, self.unnamed = first.doubt, first.unnamed
        self.parts = parts

    def _read(self, names: list[str]) -> None:
        self._row_numbers = _read(self, self.parts, names)
        self.table = _Joined(self.parts)

    def number_rows(self, rows: Sequence[int]) -> None:
        """Say how many rows the parts have, where these were read elsewhere. Raises DataError where
        there is none."""
        for part, own in zip(self.parts, rows, strict=True):
            part.rows = own
        self._row_numbers = _numbered(self, self.parts)

    @property
    def lies_in_file(self) -> bool:
        return all(part.lies_in_file for part in self.parts)

    def release(self) -> None:
        for part in self.parts:
            part.release()

    @property
    def row_numbers(self) -> RowNumbers:
        return self._row_numbers


class TypedParts(Columnar):
    """Parquet or Arrow files that are one table."""

    def __init__(self, path: Path, reading: Reading, parts: Sequence[Columnar]) -> None:
        super().__init__(path, reading)
        _join_names(self, parts)
        self.indexed = frozenset[str]().union(*(part.indexed for part in parts))
        self.parts: Sequence[Columnar] = parts

    def is_of_folders(self, name: str) -> bool:
        return any(name in part.folders for part in self.parts)

    def _read(self, names: list[str]) -> None:
        self._row_numbers = _read(self, self.parts, names)

    def number_rows(self, rows: Sequence[int]) -> None:
        """Say how many rows the parts have, where these were read elsewhere. Raises DataError where
        there is none."""
        for part, own in zip(self.parts, rows, strict=True):
            part.rows = own
        self._row_numbers = _numbered(self, self.parts)

    @property
    def row_numbers(self) -> RowNumbers:
        return self._row_numbers

    def plain_type(self, name: str) -> pa.DataType:
        return self._common_type(name, [part.plain_type(name) for part in self.parts])

    def in_pieces(self, name: str) -> Iterator[pa.ChunkedArray] | None:
        kinds = {part.schema.field(name).type for part in self.parts if name not in part.folders}
        found = [part.in_pieces(name) for part in self.parts]
        pieces = [one for one in found if one is not None]
        if len(kinds) > 1 or len(pieces) < len(found):
            return None
        return itertools.chain.from_iterable(pieces)

    def plain(self, name: str) -> pa.ChunkedArray:
        columns = [part.plain(name) for part in self.parts]
        kinds = [column.type for column in columns]
        kind = self._common_type(name, kinds)
        try:
            chunks = [chunk for column in columns for chunk in pc.cast(column, kind).chunks]
        except pa.ArrowException:
            raise self._unlike(name, kinds) from None
        return pa.chunked_array(chunks, kind)

    def _common_type(self, name: str, kinds: Sequence[pa.DataType]) -> pa.DataType:
        """The type of a column of all parts. Raises DataError where theirs have none in common."""
        known: tuple[str, Source] | None = None
        for part, kind in zip(self.parts, kinds, strict=True):
            if pa.types.is_null(kind):  # a column without any value
                continue
            sort = _sort_of(kind)
            if known is None:
                known = sort, part
            elif sort != known[0]:
                raise part.error(
                    f"column '{name}' holds {sort}, but {known[0]} in {known[1].called}: write the "
                    "parts anew with one type"
                )
        schemas = [pa.schema([("", kind)]) for kind in kinds]
        try:
            return pa.unify_schemas(schemas, promote_options="permissive").field(0).type
        except pa.ArrowException:
            raise self._unlike(name, kinds) from None

    def _unlike(self, name: str, kinds: Iterable[pa.DataType]) -> TableError:
        types = ", ".join(sorted({str(kind) for kind in kinds}))
        return self.error(
            f"column '{name}' is of types that have none in common ({types}): write the parts anew with "
            "one type"
        )


_SORTS: Sequence[tuple[str, Callable[[pa.DataType], bool]]] = (
    ("text", is_text),
    ("numbers", lambda kind: pa.types.is_integer(kind) or pa.types.is_floating(kind)),
    ("decimals", pa.types.is_decimal),
    ("days", pa.types.is_date),
)


def _sort_of(kind: pa.DataType) -> str:
    """What a column holds, in words: columns of one sort can be joined."""
    if pa.types.is_timestamp(kind):
        return "moments without a time zone" if kind.tz is None else f"moments in {kind.tz}"
    return next((sort for sort, test in _SORTS if test(kind)), f"values of type {kind}")
