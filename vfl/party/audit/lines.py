"""The lines of a ledger: a folder, a file of one, or a copy made for a peer."""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from vfl.errors import DataError
from vfl.party.ledger import (
    ParsedLine,
    decode,
    lock_of,
    months,
)
from vfl.party.locks import still


class LedgerLine(NamedTuple):
    path: Path
    number: int  # in the file
    data: bytes  # with its end

    @property
    def place(self) -> str:
        return f"{self.path.name}:{self.number}"


def files_of(ledger: Path) -> list[Path]:
    """The files of a ledger, by month. Raises DataError where there is none."""
    try:
        files = months(ledger) if ledger.is_dir() else [ledger] if ledger.exists() else []
    except OSError as error:
        raise _unreadable(ledger, error) from None
    if not files:
        raise DataError(f"there is no ledger in {ledger}")
    return files


def lines_of(ledger: Path) -> Iterator[LedgerLine]:
    """All lines as they are now: none that a process is about to write is seen half."""
    with still(lock_of(ledger)):
        files = [(path, _size(path)) for path in files_of(ledger)]
    for path, size in files:
        try:
            with path.open("rb") as file:
                number = 0
                while (rest := size - file.tell()) > 0:
                    number += 1
                    yield LedgerLine(path, number, file.readline(rest))
        except OSError as error:
            raise _unreadable(path, error) from None


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError as error:
        raise _unreadable(path, error) from None


def entries_of(ledger: Path) -> Iterator[tuple[LedgerLine, ParsedLine]]:
    """Lines that can be read; an unfinished last one is left out. Raises DataError for any other."""
    for line in lines_of(ledger):
        if not line.data.endswith(b"\n"):
            continue
        try:
            yield line, decode(line.data[:-1])
        except ValueError:
            raise DataError(f"{line.place} is no entry of a ledger: see `vfl ledger verify`") from None


def _unreadable(path: Path, error: OSError) -> DataError:
    return DataError(f"{path} cannot be read: {error.strerror}")
