"""Folders in which another engine puts what does not fit into memory, in files that have names.

They are gone with the work, and those of processes that were killed at the next work in the same place:
who works in one holds its lock, which the system lets go of when a process ends, however it does.
"""

import contextlib
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from vfl.blocks.disk import NO_ROOM
from vfl.errors import DataError

_PREFIX, _LOCK = "spill-", "lock"


@contextlib.contextmanager
def spill_folder(place: Path | None) -> Iterator[Path]:
    """A new folder in `place`, or where the system has temporary ones, for this account alone.

    Raises DataError where none can be made.
    """
    made: tuple[Path, int] | None = None
    if place is not None:
        try:
            made = _made(place)
        except OSError as error:
            raise DataError(f"{place} cannot be written: {error.strerror}", for_peer=NO_ROOM) from None
    if made is None:
        with tempfile.TemporaryDirectory(prefix="vfl-") as folder:
            yield Path(folder)
        return
    own, lock = made
    try:
        yield own
    finally:
        shutil.rmtree(own, ignore_errors=True)
        os.close(lock)


def _made(place: Path) -> tuple[Path, int]:
    """A new folder and its lock; what killed processes have left beside it is removed."""
    place.mkdir(mode=0o700, parents=True, exist_ok=True)
    clear_spilled(place)
    while True:
        own = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=place))
        with contextlib.suppress(FileNotFoundError):  # somebody took it for one that is left
            lock = os.open(own / _LOCK, os.O_RDWR | os.O_CREAT, 0o600)
            if _is_taken(lock) and (own / _LOCK).exists():
                return own, lock
            os.close(lock)


def _is_taken(lock: int) -> bool:
    """Whether the lock is this process's now."""
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def clear_spilled(place: Path) -> None:
    """Remove the folders in `place` in which nobody works."""
    for folder in place.glob(f"{_PREFIX}*"):
        with contextlib.suppress(OSError):
            if not (folder / _LOCK).exists():
                folder.rmdir()  # if it is empty
                continue
            lock = os.open(folder / _LOCK, os.O_RDWR | os.O_NOFOLLOW)
            try:
                if _is_taken(lock):
                    shutil.rmtree(folder, ignore_errors=True)
            finally:
                os.close(lock)


def room_of(folder: Path) -> int:
    """Bytes that a folder's disk has free for this account."""
    status = os.statvfs(folder)
    return status.f_bavail * status.f_frsize
