"""Work over rows, spread over the machine's cores by threads: for code that runs without the lock."""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

LEAST = 4096  # fewer rows than this are not worth a thread


def spread(part: Callable[[int, int], None], rows: int) -> None:
    """Run `part(start, stop)` over all rows, a slice a core; the first slice to fail is raised."""
    slices = max(1, min(os.cpu_count() or 1, rows // LEAST))
    edges = [rows * i // slices for i in range(slices + 1)]
    if slices == 1:
        part(0, rows)
        return
    with ThreadPoolExecutor(slices, thread_name_prefix="rows") as pool:
        for _ in pool.map(part, edges[:-1], edges[1:]):
            pass
