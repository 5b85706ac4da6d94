"""Kernels: loops over many rows that numba compiles at their first call, without the interpreter's lock.

They are cached beside the sources or, where that is not allowed, in the user's cache folder; where there
is neither, each process compiles anew.
"""

from collections.abc import Callable
from typing import Any, TypeVar, cast

import numba

F = TypeVar("F", bound=Callable[..., object])


def kernel(function: F) -> F:
    """A compiled function for arrays and numbers."""
    return _compiled(function)


def inlined(function: F) -> F:
    """A function for kernels, which becomes part of each."""
    return _compiled(function, inline="always")


def _compiled(function: F, **options: Any) -> F:
    try:
        return cast(F, numba.njit(cache=True, nogil=True, **options)(function))
    except RuntimeError:  # no folder for a cache
        return cast(F, numba.njit(nogil=True, **options)(function))
