"""Work spread over the machine's cores by threads: for code that runs without the interpreter's lock."""

import os
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from functools import lru_cache
from itertools import islice, pairwise
from typing import Protocol, TypeVar

_SPARE = 5  # by how much threads are nicer whose work nobody waits for yet
LEAST = 4096  # fewer rows than this are not worth a thread, if a row takes less than a microsecond

T = TypeVar("T")
R = TypeVar("R")
Done = TypeVar("Done", covariant=True)


class Begun(Protocol[Done]):
    """Work that was begun."""

    def result(self) -> Done:
        """Wait for its end. Raises what it raises."""

    def cancel(self) -> object:
        """Let it be, if it has not been taken up yet."""


def spread(part: Callable[[int, int], None], rows: int, least: int = LEAST) -> None:
    """Run `part(start, stop)` over all rows, a slice a core; the first slice to fail is raised.

    No slice has fewer rows than `least`.
    """
    most = rows // least
    slices = min(_cores(), most) if most > 1 else 1
    if slices == 1:
        part(0, rows)
        return
    edges = [rows * i // slices for i in range(slices + 1)]
    begun = [_slices().submit(part, *edge) for edge in pairwise(edges[1:])]
    # Here goes the first slice, and each that no thread has taken up by then: so who calls this from a
    # thread of these, or of a process that was forked, does not wait for threads that there are not.
    errors = _failed(part, edges[0], edges[1])
    for future, edge in zip(begun, pairwise(edges[1:]), strict=True):
        if future.cancel():
            errors += _failed(part, *edge)
        elif (error := future.exception()) is not None:
            errors.append(error)
    if errors:
        raise errors[0]


def _failed(part: Callable[[int, int], None], start: int, stop: int) -> list[BaseException]:
    """What a slice raises, if anything: others are to end before it is raised."""
    try:
        part(start, stop)
    except BaseException as error:
        return [error]
    return []


def each(work: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
    """Results of `work` on each item, in order, few ahead of who takes them. Not to be
    called from within such work."""
    return _taken(work, iter(items), deque())


def _taken(work: Callable[[T], R], items: Iterator[T], ahead: "deque[Future[R]]") -> Iterator[R]:
    try:
        while True:
            pool = _spare_pool() if _OWN.is_spare else _pool()
            for item in islice(items, 2 * _cores() - len(ahead)):
                ahead.append(pool.submit(work, item))
            if not ahead:
                return
            yield ahead.popleft().result()
    finally:
        for future in ahead:
            future.cancel()


def begin(work: Callable[..., R], *arguments: object) -> Begun[R]:
    """Begin `work(*arguments)` beside all else, `each` included."""
    return _beside().submit(work, *arguments)


@lru_cache(maxsize=1)
def spare_time() -> Executor:
    """Does what it gets beside all else, one after the other, with what `each` does for it: where the
    system has priorities of threads (Linux), on cores that other work of any process leaves alone, or
    nearly so."""
    return ThreadPoolExecutor(1, thread_name_prefix="spare", initializer=_make_way)


class _Own(threading.local):
    """Of each thread, whether what it does may wait."""

    is_spare = False


_OWN = _Own()


def _make_way() -> None:
    _OWN.is_spare = True
    if sys.platform == "linux":  # elsewhere a thread has no priority of its own
        # The first thread's has the process's own number; that of who starts one may be lowered itself.
        nice = os.getpriority(os.PRIO_PROCESS, os.getpid()) + _SPARE
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), min(nice, 19))


@lru_cache(maxsize=1)
def _slices() -> ThreadPoolExecutor:
    # A thread that is new costs a tenth of a millisecond, and its memory more.
    return ThreadPoolExecutor(_cores(), thread_name_prefix="rows")


@lru_cache(maxsize=1)
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(_cores(), thread_name_prefix="each")


@lru_cache(maxsize=1)
def _beside() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(_cores() + 1, thread_name_prefix="begun")  # one may wait for memory


@lru_cache(maxsize=1)
def _spare_pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(_cores(), thread_name_prefix="spare each", initializer=_make_way)


def _cores() -> int:
    return os.cpu_count() or 1


def _without_threads() -> None:
    """In a process that was forked: threads were not, so that nobody would take up what pools get."""
    for pool in (_slices, _pool, _beside, spare_time, _spare_pool):
        pool.cache_clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_without_threads)
