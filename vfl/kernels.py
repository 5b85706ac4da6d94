"""Kernels: loops over many rows that numba compiles at their first call, without the interpreter's lock.

They are cached beside the sources or, where that is not allowed, in the user's cache folder; where there
is neither, each process compiles anew. Of several processes that need the same kernel at once, one
compiles it, and the others take it from the cache. numba takes a second to import, for which no command
has to wait that calls no kernel: it is imported at the first call of one.
"""

import contextlib
import fcntl
import functools
import gc
import os
import sys
import threading
import time
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol, TypeVar, cast

from vfl.kernel_cache import guard, holds_any

F = TypeVar("F", bound=Callable[..., object])

_ONE_BY_ONE = threading.RLock()
_IMPATIENT = threading.Event()  # a process did not get done: it was stopped, or its machine is far away
_PATIENCE = 60.0  # seconds for another process that compiles the same kernel, which takes a few
_PAUSE = 0.02  # seconds between two looks whether it has
_awaiting: list[Callable[[], None]] = []
_is_collector_off = False  # while something is compiled


def kernel(function: F) -> F:
    """A compiled function for arrays and numbers."""
    return cast(F, _Kernel(function))


def inlined(function: F) -> F:
    """A function for kernels, which becomes part of each."""
    return cast(F, _Kernel(function, inline="always"))


def instruction(make: Callable[[], object]) -> Any:
    """What `make` returns, an intrinsic of numba's, as a function for kernels; made with the first of
    them, as numba is imported no sooner."""
    return _Instruction(make)


def features() -> frozenset[str]:
    """What the processor has that kernels are compiled for, by LLVM's names after a +; none where they
    are not compiled. NUMBA_CPU_NAME may name less than the processor at hand."""
    import numba
    from numba.core.registry import cpu_target

    if cast(Any, numba.config).DISABLE_JIT:
        return frozenset()
    _, _, found = cpu_target.target_context.codegen().magic_tuple()
    return frozenset(found.split(","))


def is_compiled(function: Callable[..., object]) -> bool:
    """Whether a kernel, or another one beside it, has been called before, so that a call costs its loop
    alone."""
    return not isinstance(function, _Kernel) or function.is_compiled


def is_at_hand(function: Callable[..., object]) -> bool:
    """Whether a call compiles nothing: it was called before, here or in a process that kept what was
    compiled."""
    if not isinstance(function, _Kernel):
        return True
    made = cast(Any, function.compiled())
    return bool(made.overloads) or holds_any(made)


def is_kept(function: Callable[..., object]) -> bool:
    """Whether there is a folder in which what a kernel is compiled to is kept for other processes."""
    return cast(Any, cast(_Kernel, function).compiled()).stats.cache_path is not None


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
                made: dict[_Kernel, Callable[..., object]] = {}
                self._make(made)
                # Not before each knows all that it calls: from now on other threads call it as well.
                for one, compiled in made.items():
                    one._compiled = compiled
            return cast(Callable[..., object], self._compiled)

    def _make(self, made: dict["_Kernel", Callable[..., object]]) -> None:
        """Put numba's functions of it and of the kernels that it may call into `made`."""
        known = dict(self._function.__globals__)
        made[self] = _compiled(_with_globals(self._function, known), **self._options)
        # numba knows only its own functions among those that a kernel calls.
        for name, value in known.items():
            if isinstance(value, _Kernel):
                if value._compiled is None and value not in made:
                    value._make(made)
                known[name] = value._compiled or made[value]


class _Instruction(_Kernel):
    """An intrinsic, which is numba's from the start."""

    def _make(self, made: dict[_Kernel, Callable[..., object]]) -> None:
        made[self] = cast(Callable[..., object], self._function())


def _with_globals(function: Callable[..., object], known: dict[str, object]) -> Callable[..., object]:
    """The function with other globals, so that its module's stay as they are for everybody else."""
    copied = types.FunctionType(
        function.__code__, known, function.__name__, function.__defaults__, function.__closure__
    )
    copied.__kwdefaults__ = function.__kwdefaults__
    return functools.update_wrapper(copied, function)


def _compiled(function: Callable[..., object], **options: Any) -> Callable[..., object]:
    import numba

    # Python calls them, and kernels do: nothing else, as C would.
    options |= {"nogil": True, "no_cfunc_wrapper": True}
    while _awaiting:
        _awaiting.pop()()
    try:
        made = cast(Any, numba.njit)(cache=True, **options)(function)
    except RuntimeError:  # no folder for a cache
        return cast(Callable[..., object], cast(Any, numba.njit)(**options)(function))
    folder = made.stats.cache_path
    if folder is not None:
        guard(made)
        path = Path(folder, f"{function.__module__}.{function.__name__}.lock")
        _compile_in_turn(cast(_Compiler, made), path)
    return cast(Callable[..., object], made)


class _Compiler(Protocol):
    """numba's function, as it is made for types of arguments."""

    compile: Callable[[object], object]


def _compile_in_turn(made: _Compiler, path: Path) -> None:
    """Have it compiled, or taken from the cache, while no other process does the same."""
    from numba.core.compiler_lock import global_compiler_lock
    from numba.core.types import unliteral

    compile_now = made.compile

    def compile_in_turn(signature: object) -> object:
        # Not once for each number that stands in a call of it.
        if isinstance(signature, tuple):
            signature = tuple(cast(Any, unliteral)(kind) for kind in signature)
        # numba's own lock first: a thread that compiles what calls this kernel has that one when it asks
        # for the file's, and whoever had the file's would wait for it.
        with global_compiler_lock, _alone(path), _uncollected():
            return compile_now(signature)

    made.compile = compile_in_turn


@contextlib.contextmanager
def _uncollected() -> Iterator[None]:
    """Without the collector of garbage: a compiler makes so much of it that a tenth of its time would go
    into looking through all that the process has."""
    global _is_collector_off
    if not gc.isenabled():
        yield
        return
    _is_collector_off = True
    gc.disable()
    try:
        yield
    finally:
        _collect_again()


def _collect_again() -> None:
    global _is_collector_off
    if _is_collector_off:
        _is_collector_off = False
        gc.enable()


if hasattr(os, "register_at_fork"):
    # The thread that compiles is not in the process that another one forks meanwhile.
    os.register_at_fork(after_in_child=_collect_again)


@contextlib.contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Hold the lock of a file, after whoever has it, if it can be had: it saves work and no more."""
    try:
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError:
        yield
        return
    deadline = time.monotonic() + _PATIENCE
    try:
        while not _lock(handle):
            if _IMPATIENT.is_set() or time.monotonic() >= deadline:
                _IMPATIENT.set()  # not for as long again at each further kernel
                break
            time.sleep(_PAUSE)
        yield
    finally:
        with contextlib.suppress(OSError):
            fcntl.flock(handle, fcntl.LOCK_UN)  # for what this process has forked meanwhile as well
        os.close(handle)


def _lock(handle: int) -> bool:
    """Whether there is nothing to wait for: the lock is held, or cannot be by anybody."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return True
    return True
