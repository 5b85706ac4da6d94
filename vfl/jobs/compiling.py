"""Tells the person at a party when kernels are compiled, which nothing else would explain."""

import contextlib
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from vfl.kernels import with_compiler

if TYPE_CHECKING:
    from numba.core.event import Event


@contextlib.contextmanager
def announce_compiling(say: Callable[[str], None]) -> Iterator[None]:
    """Say so before the first kernel that is compiled in the block; those in the cache are not.

    say: may be called from any thread.
    """
    with contextlib.ExitStack() as stack:

        def listen() -> None:
            from numba.core.event import Listener, install_listener

            Listener.register(_Teller)
            stack.enter_context(install_listener("numba:compile", _Teller(say)))

        with with_compiler(listen):
            yield


class _Teller:
    """Says a line at the first kernel: a Listener of numba's, but for its import."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say, self._said = say, False

    def notify(self, event: "Event") -> None:
        """A kernel is about to be compiled, or has been."""
        if self._said or not event.is_start:
            return
        self._said = True
        if event.data["dispatcher"].stats.cache_path is None:
            self._say(
                "compiling for this machine, some 5 s, at every start: set NUMBA_CACHE_DIR to a folder "
                "that this user may write, and it is once"
            )
        else:
            self._say("compiling for this machine what was not needed before, some 5 s")
