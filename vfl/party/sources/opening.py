"""The source of a path, by what its file or files hold."""

import re
from pathlib import Path

from vfl.errors import DataError
from vfl.party.reading import Reading
from vfl.party.sources.content import Content, kind_of
from vfl.party.sources.excel import Excel
from vfl.party.sources.folders import file_name, folders_of
from vfl.party.sources.parquet import Ipc, Parquet
from vfl.party.sources.parts import join_parts, nowhere, parts_of
from vfl.party.sources.source import Source
from vfl.party.sources.text import Csv
from vfl.text import nearest_file

_TEXT = (".csv", ".tsv", ".tab", ".txt", ".psv", ".dat")
_BINARY = {
    ".parquet": "Parquet file",
    ".pq": "Parquet file",
    ".feather": "Feather file",
    ".arrow": "Arrow file",
    ".xlsx": "Excel workbook",
    ".xlsm": "Excel workbook",
}
_PACKED = (".gz", ".bz2", ".xz", ".zst")


def open_source(path: Path, reading: Reading) -> Source:
    """The file at `path`, or all files of a folder or pattern, its names known, its columns not yet
    read. Raises DataError."""
    try:
        parts = parts_of(path)
    except (OSError, ValueError, NotImplementedError) as error:
        raise _unreadable(path, error) from None
    if parts is None:
        return open_file(path, reading)
    opened = [open_file(part, reading, part=True) for part in parts]
    return join_parts(path, reading, opened)


def open_file(path: Path, reading: Reading, *, part: bool = False) -> Source:
    """The file at `path`; a `part` of a table may have no rows."""
    try:
        if path.exists() and not path.is_file():
            raise DataError(f"{path} is no file, but a pipe or a device: give a file")
        source = _source(Content.of(path), reading, part)
    except FileNotFoundError:
        if path.is_symlink():
            raise DataError(nowhere(path)) from None
        raise DataError(f"no file {path}{_similar(path)}") from None
    except (OSError, ValueError) as error:
        if path.is_symlink() and not path.exists():
            raise DataError(nowhere(path)) from None
        raise _unreadable(path, error) from None
    named, columns = sum(bool(name) for name in source.names), len(source.names)
    if named < columns / 2:
        raise source.error(
            f"the first row has {named} name{'' if named == 1 else 's'} for {columns} columns: if it is "
            "a title, remove it, so that the names of the columns come first"
        )
    source.take_folders(folders_of(path))
    check_names(source)
    return source


def check_names(source: Source) -> None:
    """Raises DataError for a column without a name, or with that of another one."""
    for number, name in enumerate(source.names, start=1):
        # The first may be the labels of a data frame's rows.
        if not any(c.isprintable() for c in name) and (name or number > 1):
            raise source.error(f"column {number} has no name in the header: name it or remove it")
        if source.unnamed and source.names.count(name) > 1:
            raise source.no_names()
        if source.names.count(name) > 1:
            raise source.error(f"column '{name}' comes twice in the header")


def _unreadable(path: Path, error: Exception) -> DataError:
    reason = getattr(error, "strerror", None) or "not a path"
    return DataError(f"{path} cannot be read: {reason}")


def _source(content: Content, reading: Reading, part: bool) -> Source:
    path = content.path
    suffix = Path(path.stem).suffix if path.suffix.lower() in _PACKED else path.suffix
    if not content.head:
        raise DataError(f"{file_name(path)}: the file is empty")
    kind = kind_of(content)
    if kind == "parquet":
        return Parquet(content, reading, part=part)
    if kind == "feather" or kind == "stream":
        return Ipc(content, reading, stream=kind == "stream", part=part)
    if kind == "excel":
        return Excel(content, reading)
    due = _BINARY.get(suffix.lower())
    if due is not None and not _is_lines(content.head):
        raise DataError(f"{file_name(path)}: the file is damaged or is no {due}: copy it anew")
    if suffix.lower() not in _TEXT and suffix:
        allowed = "a table must be a .csv, .parquet, .feather or .xlsx file"
        if _is_lines(content.head):
            raise DataError(f"{file_name(path)} holds text: {allowed}, so name it .csv if it is one")
        raise DataError(f"{file_name(path)} is of no known kind: {allowed}, so export it as one")
    return Csv(content, reading, part=part)


def _is_lines(head: bytes) -> bool:
    """Whether bytes are lines of text, in whatever encoding."""
    plain = head.replace(b"\0", b"")
    return bool(re.search(rb"[\r\n]", plain)) and not re.search(rb"[\x01-\x06\x0e-\x19\x7f]", plain)


def _similar(path: Path) -> str:
    if not path.parent.is_dir():
        return f": there is no folder {path.parent}"
    known = (*_TEXT, *_BINARY, *_PACKED)
    there = [p.name for p in path.parent.iterdir() if p.suffix.lower() in known]
    near = nearest_file(path.name, there)
    return f": did you mean {near}?" if near else ""
