"""What runs a job from the command line."""

import asyncio
import contextlib
import signal
import threading
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from typing import TYPE_CHECKING, TypeVar

from vfl.blocks.heap import keep_freed
from vfl.errors import ConfigError, VflError
from vfl.terminal.streams import stderr
from vfl.terminal.usage import COMPUTING, ENDING

if TYPE_CHECKING:
    from vfl.jobs.connect import Site
    from vfl.jobs.show import Show
    from vfl.party.config import Party

T = TypeVar("T")
_Calls = SimpleQueue[Callable[[], None] | None]


def need_role(role: str, needed: str, path: Path) -> None:
    if role != needed:
        raise ConfigError(f"{path.name} is the party file of a {role}, the command takes a {needed}'s")


def open_party(path: Path) -> "Party":
    """A party file, whose name the log has from now on. Raises ConfigError."""
    from vfl.party.config import load_party

    settings = load_party(path)
    stderr.name_party(settings.name)
    return settings


@contextlib.contextmanager
def open_site(settings: "Party", show: "Show") -> "Iterator[Site]":
    """A party of which a job begins, with its keys. Its jobs are traced where OTEL_* says so.

    Raises IdentityError and ConfigError.
    """
    from vfl.jobs.connect import Site
    from vfl.monitor.tracing import tracing

    site = Site.open(settings)
    site.warn_of_ending(show)
    with tracing(site, show):
        yield site


def run(work: Coroutine[object, None, T]) -> T:
    """Run to the end; SIGTERM and SIGHUP end it like Ctrl-C, so that peers are told."""

    # Not returned by the task: asyncio would make a text of it, for nobody, where it gives the handler
    # of Ctrl-C back.
    results: list[T] = []

    async def supervised() -> None:
        asyncio.get_running_loop().set_default_executor(_Threads())
        task = asyncio.current_task()
        if task is not None:
            for number in ENDING:
                with contextlib.suppress(NotImplementedError):  # on Windows
                    if signal.getsignal(number) is not signal.SIG_IGN:
                        asyncio.get_running_loop().add_signal_handler(number, task.cancel)
        results.append(await work)

    keep_freed()
    try:
        asyncio.run(supervised())
    except asyncio.CancelledError:
        raise KeyboardInterrupt from None
    except BaseExceptionGroup as failures:
        first = failures.exceptions[0]
        if isinstance(first, VflError):
            raise first from None
        raise
    return results[0]


class _Threads(ThreadPoolExecutor):
    """As many threads as there are calls at once, for which nobody waits when a job is interrupted.

    One that has no call stays for the next: beside others that compute a new thread takes a twentieth of
    a second to begin, for which who starts it waits.
    """

    def __init__(self) -> None:
        super().__init__()
        self._idle: list[_Calls] = []  # of threads that have none
        self._is_over = False

    def submit(self, call: Callable[..., T], /, *arguments: object, **named: object) -> Future[T]:
        outcome: Future[T] = Future()
        outcome.set_running_or_notify_cancel()
        try:
            calls = self._idle.pop()
        except IndexError:
            calls = SimpleQueue()
            threading.Thread(target=self._work, args=(calls,), daemon=True).start()
        calls.put(partial(_settle, outcome, partial(call, *arguments, **named)))
        return outcome

    def _work(self, calls: "_Calls") -> None:
        own = threading.current_thread()
        idle = own.name
        while (compute := calls.get()) is not None:
            own.name = COMPUTING
            compute()
            del compute  # and all it has made
            own.name = idle
            self._idle.append(calls)
            if self._is_over:
                self._end_idle()

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        self._is_over = True
        self._end_idle()
        super().shutdown(wait, cancel_futures=cancel_futures)

    def _end_idle(self) -> None:
        with contextlib.suppress(IndexError):
            while True:
                self._idle.pop().put(None)


def _settle(outcome: "Future[T]", call: Callable[[], T]) -> None:
    try:
        outcome.set_result(call())
    except BaseException as error:
        outcome.set_exception(error)
