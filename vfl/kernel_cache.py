"""The folder in which numba keeps compiled kernels, when something is wrong with it.

What numba keeps there it loads as it stands, and an error in doing so becomes one of whoever calls the
kernel. But a disk may be full, a folder may be taken away or turned read-only, and a machine that loses
power may leave files that are cut off or hold zeros. Here each file tells whether it is what was
written, for this source, those that it imports and these types of arguments; what is not, is compiled
anew and written again.
Where nothing can be written, a process goes on with what it has compiled itself.
"""

import contextlib
import hashlib
import logging
import pickle
import re
import sys
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from types import FunctionType
from typing import Any, Protocol

_LOG = logging.getLogger(__name__)
_IMPORT = re.compile(r"^from ([\w.]+) import ([^(\n]+|\([^)]*\))", re.MULTILINE)
_told: list[Callable[[str], None]] = []


class Cached(Protocol):
    """numba's function, as it is kept."""

    _cache: Any
    py_func: FunctionType


class _Spoilt(Exception):
    """A file that does not hold what its index says."""


def guard(made: Cached) -> None:
    """Have a function of numba's compiled anew where its cache cannot be read, and go on where it cannot
    be written."""
    cache, files = made._cache, made._cache._cache_file
    # numba looks at the function's own file alone, and machine code has in it what others' kernels do.
    files._source_stamp = files._source_stamp, _of_imports(made.py_func.__module__)
    cache._cache_file = _Checked(files)
    load, save = cache.load_overload, cache.save_overload

    def load_guarded(signature: object, context: object) -> object:
        try:
            return load(signature, context)
        # A pickle that is cut off or wrong raises whatever it likes, and so does numba in reading it.
        except Exception as error:
            _note("cannot be read and is compiled anew", made, error)
            _given_up(cache, cache.flush)
            return None

    def save_guarded(signature: object, result: object) -> None:
        _given_up(cache, lambda: save(signature, result))

    cache.load_overload, cache.save_overload = load_guarded, save_guarded


def holds_any(made: Cached) -> bool:
    """Whether the folder has anything of a function as it is now, which guard may have been told of or
    not."""
    files = getattr(made._cache, "_cache_file", None)
    try:
        return isinstance(files, _Checked) and files.holds_any()
    except Exception:  # as in reading an entry; then it is compiled anew
        return False


@contextlib.contextmanager
def telling_unkept(tell: Callable[[str], None]) -> Iterator[None]:
    """Call this for every function that cannot be written in the block, with the folder and the reason:
    `/srv/cache: No space left on device`. In whichever thread it was compiled."""
    _told.append(tell)
    try:
        yield
    finally:
        _told.remove(tell)


def _given_up(cache: Any, write: Callable[[], None]) -> None:
    """Write, and nothing more for this process once that fails."""
    try:
        write()
    except OSError as error:
        _note("cannot be written", cache, error)
        cache.disable()
        for tell in [*_told]:
            tell(f"{cache.cache_path}: {error.strerror or type(error).__name__}")


def _note(what: str, of: object, error: Exception) -> None:
    _LOG.debug("the compiled %r %s: %s", of, what, type(error).__name__)


class _Checked:
    """numba's index and files, of which each says for which source and types it is, and its digest.

    numba names a file in the index before it is written, and takes names of older sources again: a
    process that ends in between would leave older machine code under the newer name.
    """

    def __init__(self, files: Any) -> None:
        self._files = files
        self.flush = files.flush

    def holds_any(self) -> bool:
        """Whether the index names an entry of this source. Raises what reading it raises."""
        return bool(self._files._load_index())

    def load(self, key: object) -> object:
        """The entry, None if there is none. Raises _Spoilt, or what reading it raises."""
        found = self._files.load(key)
        if found is None:
            return None
        stamp, of, digest, data = found
        if stamp != self._files._source_stamp or of != key or digest != _digest(data):
            raise _Spoilt
        return pickle.loads(data)  # noqa: S301 - as numba does: who can write here can have code run

    def save(self, key: object, entry: object) -> None:
        """Write an entry."""
        data = self._files._dump(entry)
        self._files.save(key, (self._files._source_stamp, key, _digest(data), data))


@cache
def _of_imports(name: str) -> bytes:
    """The digest of all sources of its package that a module imports when it is imported itself."""
    known: dict[str, bytes] = {}
    awaiting = [name]
    while awaiting:
        one = awaiting.pop()
        if one not in known and one.split(".")[0] == name.split(".")[0] and (text := _source(one)):
            known[one] = _digest(text)
            awaiting += _imported(text.decode())
    return _digest(b"".join(digest for _, digest in sorted(known.items())))


def _source(name: str) -> bytes:
    """Of a module that is imported; none, of what is no module or has no file."""
    file = getattr(sys.modules.get(name), "__file__", None)
    path = Path(file or "")
    return path.read_bytes() if path.suffix == ".py" and path.is_file() else b""


def _imported(text: str) -> Iterator[str]:
    """What a source names in its imports: modules, and what may be one in them."""
    for package, names in _IMPORT.findall(text):
        yield package
        yield from (f"{package}.{one}" for one in re.findall(r"\w+", names))


def _digest(data: bytes) -> bytes:
    return hashlib.blake2b(data, digest_size=16).digest()
