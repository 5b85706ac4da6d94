"""Kernels: loops over many rows that numba compiles at their first call, without the interpreter's lock.

They are cached beside the sources or, where that is not allowed, in the user's cache folder; where there
is neither, each process compiles anew. numba takes a second to import, for which no command has to wait
that calls no kernel: it is imported at the first call of one.
"""

import contextlib
import functools
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any, TypeVar, cast

F = TypeVar("F", bound=Callable[..., object])

_ONE_BY_ONE = threading.RLock()
_awaiting: list[Callable[[], None]] = []


def kernel(function: F) -> F:
    """A compiled function for arrays and numbers."""
    return cast(F, _Kernel(function))


def inlined(function: F) -> F:
    """A function for kernels, which becomes part of each."""
    return cast(F, _Kernel(function, inline="always"))


def is_compiled(function: Callable[..., object]) -> bool:
    """Whether a kernel, or another one beside it, has been called before, so that a call costs its loop
    alone."""
    return not isinstance(function, _Kernel) or function.is_compiled


@contextlib.contextmanager
def with_compiler(call: Callable[[], None]) -> Iterator[None]:
    """Call this once numba is imported: now, or in the block, in the first kernel's thread."""
    if "numba" in sys.modules:
        call()
        yield
        return
    _awaiting.append(call)
    try:
        yield
    finally:
        with _ONE_BY_ONE:
            if call in _awaiting:
                _awaiting.remove(call)


class _Kernel:
    """A function that becomes numba's at its first call, or with the first kernel that calls it."""

    def __init__(self, function: Callable[..., object], **options: Any) -> None:
        functools.update_wrapper(self, function)
        self._function, self._options = function, options
        self._compiled: Callable[..., object] | None = None

    def __call__(self, *arguments: object) -> object:
        return (self._compiled or self.compiled())(*arguments)

    @property
    def is_compiled(self) -> bool:
        return self._compiled is not None

    def compiled(self) -> Callable[..., object]:
        """What numba makes of it."""
        with _ONE_BY_ONE:
            if self._compiled is None:
                self._compiled = _compiled(self._function, **self._options)
                # numba knows only its own functions among those that a kernel calls.
                known = self._function.__globals__
                for name, value in list(known.items()):
                    if isinstance(value, _Kernel):
                        known[name] = value.compiled()
        return self._compiled


def _compiled(function: Callable[..., object], **options: Any) -> Callable[..., object]:
    import numba

    while _awaiting:
        _awaiting.pop()()
    try:
        return cast(Callable[..., object], numba.njit(cache=True, nogil=True, **options)(function))
    except RuntimeError:  # no folder for a cache
        return cast(Callable[..., object], numba.njit(nogil=True, **options)(function))
