"""Files that appear whole or not at all, and their folders, readable by their owner only."""

import contextlib
import errno
import os
import re
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from vfl.errors import DataError

FOR_PEER = "it could not write a file of its own (its log has the details)"
"""What a peer may hear of a file that cannot be written."""

TAIL = 1 << 16  # bytes of a file's end that are read first
_PREFIX = 100  # bytes of a file's name that its unfinished one begins with


@contextmanager
def replacing(path: Path, mode: int = 0o600) -> Iterator[BinaryIO]:
    """A file to write to, which takes the place of `path` once it is complete and on disk.

    On any failure nothing is left behind and an older file stays as it was. Raises
    DataError when the file cannot be written.
    """
    try:
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=_unfinished(path), suffix=".tmp")
    except OSError as error:
        raise unwritable(f"{path} cannot be written", error) from None
    unfinished = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            unfinished.chmod(mode)
            yield file
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(path)
        _sync_folder(path.parent)
    except OSError as error:
        raise unwritable(f"{path} cannot be written", error) from None
    finally:
        unfinished.unlink(missing_ok=True)


class NotReadSoon:
    """What is written to a file leaves the system's memory as soon as it is on disk.

    A file that grows and is not read takes ever more pages of that memory otherwise, each of which the
    system has to find and clear: four times the processor's time that writing takes where the same few
    pages go round (600 MB to ext4 on Linux).
    """

    _STEP = 1 << 23  # bytes after which the system is told
    _BACK = 4 * _STEP  # what was not yet on disk the times before

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._written = self._told = 0

    def write(self, data: bytes | memoryview) -> int:
        """Write all of it, to the system: what a process holds back itself is gone when it is killed."""
        size = self._file.write(data)
        self._file.flush()
        self._written += size
        if self._written >= self._told + self._STEP and hasattr(os, "posix_fadvise"):
            start, self._told = max(0, self._told - self._BACK), self._written
            # Linux begins to write down what is not on disk, and lets go of what is. It does not wait.
            with contextlib.suppress(OSError):  # advice that a file system does not take
                os.posix_fadvise(self._file.fileno(), start, 0, os.POSIX_FADV_DONTNEED)
        return size


@contextmanager
def rewriting(path: Path) -> Iterator[BinaryIO]:
    """As `replacing`, of a file that is there and a person's own: with its mode and owner, where it lies
    if `path` is a link to it. Raises DataError; then it stays as it was."""
    refuse_fixed(path)
    file = path.resolve()
    with replacing(file) as new:
        found = file.stat()
        os.fchown(new.fileno(), found.st_uid, found.st_gid)
        os.fchmod(new.fileno(), stat.S_IMODE(found.st_mode))
        yield new


def refuse_fixed(path: Path, instead: str = "") -> None:
    """Raises DataError for a person's own file that is not to be changed: it is read-only, or would not
    stay its owner's. `instead`: what else they can do, in words."""
    try:
        found, folder = path.stat(), path.resolve().parent
    except OSError as error:
        raise unwritable(f"{path} cannot be changed", error) from None
    mode, account = stat.S_IMODE(found.st_mode), os.geteuid()
    if not mode & 0o222:  # root could write it all the same
        why, mend = f"it is read-only (mode {mode:03o})", f"run chmod u+w {path}"
    elif not (os.access(path, os.W_OK) and os.access(folder, os.W_OK | os.X_OK)):
        why, mend = "this account may not write it", "run this under its owner's account"
    elif account and (found.st_uid, found.st_gid) not in {
        (account, group) for group in (os.getegid(), *os.getgroups())
    }:
        why, mend = "it is another account's or group's", "run this under its owner's account"
    else:
        return
    mend = f"{mend}, or {instead}" if instead else mend
    raise DataError(f"{path} stays as it was: {why}; {mend}", for_peer=FOR_PEER)


@contextmanager
def replacing_folder(folder: Path) -> Iterator[Path]:
    """A folder to write files into, which takes the place of `folder` once all are complete and on disk.

    On any failure nothing is left behind and an older folder stays as it was. Readable by its owner
    alone. Raises DataError when it cannot be written.
    """
    made: list[Path] = []
    try:
        for _ in range(2):  # the new one, and where an old one goes
            folder_made = tempfile.mkdtemp(dir=folder.parent, prefix=_unfinished(folder), suffix=".tmp")
            made.append(Path(folder_made))
        new, old = made
        yield new
        for path in new.iterdir():
            with path.open("rb") as file:
                os.fsync(file.fileno())
        if folder.exists():
            folder.replace(old)
        try:
            new.replace(folder)
        except OSError:
            if not folder.exists() and any(old.iterdir()):
                old.replace(folder)
            raise
        _sync_folder(folder.parent)
    except OSError as error:
        raise unwritable(f"{folder} cannot be written", error) from None
    finally:
        for path in made:
            shutil.rmtree(path, ignore_errors=True)


def remove_unfinished(path: Path) -> None:
    """Remove what `replacing` and `replacing_folder` of this path left in processes that were killed.

    Only for who knows that no process writes to the path now.
    """
    unfinished = re.compile(re.escape(_unfinished(path)) + r"[^.]{8}\.tmp")  # as mkstemp names it
    for found in path.parent.iterdir():
        if not unfinished.fullmatch(found.name):
            continue
        if found.is_dir():
            shutil.rmtree(found, ignore_errors=True)
        else:
            found.unlink(missing_ok=True)


def _unfinished(path: Path) -> str:
    """How the name of an unfinished file begins: never longer than a file system takes."""
    start = os.fsencode(path.name)[:_PREFIX].decode("utf-8", "ignore")
    return f".{start}."


def make_folder(folder: Path) -> None:
    """Make a folder for this account alone, if need be. Raises DataError when it cannot be made."""
    try:
        make_folders(folder)
    except OSError as error:
        raise unwritable(f"{folder} cannot be made", error) from None


def make_folders(*folders: Path) -> None:
    """Make folders, as the owner's own and on disk. Raises OSError."""
    # One by one: the mode goes to the last folder only.
    for folder in folders:
        try:
            folder.mkdir(mode=0o700, parents=True)
        except FileExistsError:
            if not folder.is_dir():
                raise NotADirectoryError(errno.ENOTDIR, no_folder(folder)) from None
        else:
            _sync_folder(folder.parent)


def no_folder(path: Path) -> str:
    """Why a path is no folder, in words."""
    if path.is_symlink() and not path.exists():
        return f"it is a link to {path.readlink()}, which is not there: is it mounted?"
    return "a file of that name is in the way: move it, or set store in [party]"


def _sync_folder(folder: Path) -> None:
    """A rename survives a power cut only once its folder is on disk too."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno != errno.EINVAL:  # some network file systems cannot sync a folder
            raise
    finally:
        os.close(handle)


def unwritable(what: str, error: OSError) -> DataError:
    """The error for a file that cannot be written, made or locked, with the system's reason."""
    return DataError(f"{what}: {reason(error)}", for_peer=FOR_PEER)


def reason(error: Exception) -> str:
    """Why a file cannot be read or written, in the system's words."""
    return getattr(error, "strerror", None) or "it is not whole"


def last_line(path: Path) -> tuple[bytes, bytes]:
    """(the last whole line without its end, what stands after it)."""
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        length = 0
        while True:
            length = min(size, max(TAIL, 2 * length))
            file.seek(size - length)
            tail = file.read(length)
            whole, newline, rest = tail.rpartition(b"\n")
            first = whole.rfind(b"\n")
            if length == size or (newline and first >= 0):
                return whole[first + 1 :], rest
