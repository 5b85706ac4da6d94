"""Room on the disk for large arrays that lie in files: a disk that has none for a page of a mapped file
kills the process at its first use, so all of it is taken at once."""

import os
from pathlib import Path

NO_ROOM = "it has too little room on its disk"
"""What peers hear of it."""


def take_room(file: int, size: int) -> None:
    """Make an open file this long. Raises OSError where the disk has no room for it."""
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(file, 0, size)
    else:
        os.truncate(file, size)


def no_room(folder: Path, size: int, what: str, error: OSError) -> str:
    """The error in words, and what to do."""
    return f"{folder} has no room for {size / 1e6:,.0f} MB of {what} ({error.strerror}): free some"
