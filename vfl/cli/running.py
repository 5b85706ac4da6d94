"""What runs a job from the command line."""

import asyncio
import contextlib
import signal
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from vfl.errors import ConfigError, VflError
from vfl.terminal.usage import COMPUTING, ENDING

T = TypeVar("T")


def need_role(role: str, needed: str, path: Path) -> None:
    if role != needed:
        raise ConfigError(f"{path.name} is the party file of a {role}, the command takes a {needed}'s")


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
    """A thread for each call, for which nobody waits when a job is interrupted."""

    def submit(self, call: Callable[..., T], /, *arguments: object, **named: object) -> Future[T]:
        outcome: Future[T] = Future()

        def compute() -> None:
            try:
                outcome.set_result(call(*arguments, **named))
            except BaseException as error:
                outcome.set_exception(error)

        outcome.set_running_or_notify_cancel()
        threading.Thread(target=compute, name=COMPUTING, daemon=True).start()
        return outcome
