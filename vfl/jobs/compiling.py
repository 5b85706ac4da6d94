"""Tells the person at a party when kernels are compiled, which nothing else would explain."""

import contextlib
from collections.abc import Callable, Iterator

from numba.core import event


@contextlib.contextmanager
def announce_compiling(say: Callable[[str], None]) -> Iterator[None]:
    """Say so before the first kernel that is compiled in the block; those in the cache are not.

    say: may be called from any thread.
    """
    with event.install_listener("numba:compile", _Teller(say)):
        yield


class _Teller(event.Listener):
    """Says a line at the first kernel."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say, self._said = say, False

    def on_start(self, event: event.Event) -> None:
        """A kernel is about to be compiled."""
        if self._said:
            return
        self._said = True
        if event.data["dispatcher"].stats.cache_path is None:
            self._say(
                "compiling for this machine, some 10 s, at every start: set NUMBA_CACHE_DIR to a folder "
                "that this user may write, and it is once"
            )
        else:
            self._say("compiling for this machine what was not needed before, some 10 s")

    def on_end(self, event: event.Event) -> None:
        """A kernel is compiled."""
