"""Work spread over the machine's cores by threads: for code that runs without the interpreter's lock."""

import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import TypeVar

LEAST = 4096  # fewer rows than this are not worth a thread, if a row takes less than a microsecond

T = TypeVar("T")
R = TypeVar("R")


def spread(part: Callable[[int, int], None], rows: int, least: int = LEAST) -> None:
    """Run `part(start, stop)` over all rows, a slice a core; the first slice to fail is raised.

    No slice has fewer rows than `least`.
    """
    slices = max(1, min(os.cpu_count() or 1, rows // least))
    edges = [rows * i // slices for i in range(slices + 1)]
    if slices == 1:
        part(0, rows)
        return
    with ThreadPoolExecutor(slices, thread_name_prefix="rows") as pool:
        for _ in pool.map(part, edges[:-1], edges[1:]):
            pass


def each(work: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
    """Results of `work` on each item, in order. Not to be called from within such work."""
    return _pool().map(work, items)


@lru_cache(maxsize=1)
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(os.cpu_count() or 1, thread_name_prefix="each")
