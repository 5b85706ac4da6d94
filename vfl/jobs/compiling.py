"""Tells the person at a party when kernels are compiled, which nothing else would explain."""

import contextlib
import os
import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from vfl.kernel_cache import telling_unkept
from vfl.kernels import with_compiler

if TYPE_CHECKING:
    from numba.core.event import Event


@contextlib.contextmanager
def announce_compiling(say: Callable[[str], None], takes: str = "some 5 s") -> Iterator[None]:
    """Say so before the first kernel that is compiled in the block; those in the cache are not. And when
    one cannot be kept there.

    say: may be called from any thread.
    takes: for how long a core is at work, as a rule.
    """
    teller = _Teller(say, takes)
    with telling_unkept(teller.tell_unkept), _heard_by(teller, "numba:compile"):
        yield


@contextlib.contextmanager
def noting_kernels() -> Iterator["Readied"]:
    """Tells whether a time that is measured in the block has that of kernels in it."""
    readied = Readied()
    # numba's lock is taken by who is about to compile or to load one, and by nobody else.
    with _heard_by(readied, "numba:compiler_lock"):
        yield readied


class Readied:
    """Whether any kernel had to be compiled, or to be loaded from the cache, or numba to be imported,
    since this began: a Listener of numba's, but for its import."""

    def __init__(self) -> None:
        self._began_with_numba, self._heard = "numba" in sys.modules, False

    @property
    def any(self) -> bool:
        return self._heard or (not self._began_with_numba and "numba" in sys.modules)

    def notify(self, event: "Event") -> None:
        """A kernel is about to be readied, or has been."""
        self._heard = True


@contextlib.contextmanager
def _heard_by(listener: "Readied | _Teller", event: str) -> Iterator[None]:
    """Have a listener hear of an event of numba's, once that is imported."""
    with contextlib.ExitStack() as stack:

        def listen() -> None:
            from numba.core.event import Listener, install_listener

            Listener.register(type(listener))
            stack.enter_context(install_listener(event, listener))

        with with_compiler(listen):
            yield


def how_to_keep(reason: str | None = None) -> str:
    """What to do that compiled kernels are kept for other processes.

    reason: folder and error where one could not be written, None where there is no folder at all.
    """
    if reason is not None:
        return f"{reason}: make room there, or set NUMBA_CACHE_DIR to a folder that this user may write"
    if os.environ.get("NUMBA_CACHE_DIR"):
        return "this user may not write the folder that NUMBA_CACHE_DIR names: set it to another one"
    return "set NUMBA_CACHE_DIR to a folder that this user may write"


class _Teller:
    """Says a line at the first kernel: a Listener of numba's, but for its import."""

    def __init__(self, say: Callable[[str], None], takes: str) -> None:
        self._say, self._takes = say, takes
        self._said = self._said_unkept = False

    def notify(self, event: "Event") -> None:
        """A kernel is about to be compiled, or has been."""
        if self._said or not event.is_start:
            return
        self._said = True
        if event.data["dispatcher"].stats.cache_path is None:
            self._say(f"compiling for this machine, {self._takes}, at every start anew: {how_to_keep()}")
        else:
            self._say(f"compiling for this machine what was not needed before, {self._takes}")

    def tell_unkept(self, reason: str) -> None:
        """One could not be written."""
        if not self._said_unkept:
            self._said_unkept = True
            self._say(f"what is compiled cannot be kept for the next start: {how_to_keep(reason)}")
