"""A cluster of processes on this machine, for as long as a command runs."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from vfl.blocks.scheduler import Access, distributed, with_settings

_OWN = "127.0.0.1:0"
_SETTINGS: dict[str, object] = {
    # A terminal's Ctrl-C reaches all its processes: workers end with the command, which says so alone.
    "distributed.worker.preload": ["import signal; signal.signal(signal.SIGINT, signal.SIG_IGN)"],
    "distributed.scheduler.http.routes": [],
    "distributed.worker.http.routes": [],
    # Blocks come and go: memory that is given back for each would have to be cleared each time.
    "distributed.nanny.pre-spawn-environ": {
        "MALLOC_TRIM_THRESHOLD_": 1 << 28,
        "MALLOC_MMAP_THRESHOLD_": 1 << 25,  # glibc takes no more
        "OMP_NUM_THREADS": 1,
        "OPENBLAS_NUM_THREADS": 1,
        "NUMBA_NUM_THREADS": 1,
    },
}
_THREADS = 1  # of a worker: a process has one lock of its interpreter


def memory_here() -> int:
    """Bytes that all processes of this machine, or of its container, may take."""
    return int(distributed().system.MEMORY_LIMIT)


@contextlib.contextmanager
def local_cluster(workers: int, memory: int, folder: Path) -> Iterator[Access]:
    """A scheduler in this process and so many workers with so many bytes each, which speak TLS with
    certificates that nobody else has; what does not fit into their memory lies in `folder`."""
    dask = distributed()
    with with_settings(_SETTINGS):
        cluster = dask.LocalCluster(
            n_workers=workers,
            threads_per_worker=_THREADS,
            processes=True,
            memory_limit=memory,
            host="127.0.0.1",
            protocol="tls://",
            security=dask.Security.temporary(),
            scheduler_kwargs={"dashboard": False},
            dashboard_address=_OWN,
            worker_dashboard_address=_OWN,
            local_directory=str(folder),
            silence_logs=50,
        )
    try:
        yield Access(cluster.scheduler_address, security=cluster.security)
    finally:
        cluster.close(timeout=60)
