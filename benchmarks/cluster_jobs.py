"""A whole job of a guest and a host on two machines, each with a cluster: for `cluster.py --job`.

The machines are network namespaces with a line between them, so this needs root. Rows are known to both
parties, as no alignment is measured. All processes share this machine's cores and disk.
"""

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import memory
from memory import GUEST, HOST, Machine

PLACES = {GUEST: "10.77.1.1", HOST: "10.77.1.2"}
PORT = 8786
_FILES = {"ca-file": "tls_ca_file", "cert": "tls_worker_cert", "key": "tls_worker_key"}
_PATIENCE = 120.0  # seconds for workers to be there


def run(given: argparse.Namespace) -> None:
    """Train and score with each number of workers a party, and print the figures."""
    options = argparse.Namespace(
        rows=given.rows,
        columns=given.columns - given.guest_columns,
        guest_columns=given.guest_columns,
        trees=given.trees,
        depth=given.depth,
        max_bins=32,
        engine="vole",
        known=True,
        skip_score=False,
        only_align=False,
        workers=None,
        csv=False,
        glm=False,
        in_files=False,
    )
    with tempfile.TemporaryDirectory(dir=given.folder) as folder:
        work, found = Path(folder), []
        memory.set_up(work, options)
        for workers in given.workers:
            with two_machines(work, workers, given.worker_memory) as (machines, schedulers):
                figures = memory.run_jobs(work, options, machines)
                peaks = {party: memory.peak_of(pid) / 1e6 for party, pid in schedulers.items()}
            found.append({"workers": workers, "scheduler_mb": peaks, **figures})
            print(f"{workers} workers a party: done", file=sys.stderr)
    if given.json:
        print(json.dumps({"rows": given.rows, "columns": given.columns, "runs": found}))
    else:
        show(given, found)


@contextlib.contextmanager
def two_machines(
    work: Path, workers: int, limit: int
) -> Iterator[tuple[dict[str, Machine], dict[str, int]]]:
    """A namespace of each party with so many workers of so many MB each, and its scheduler's process."""
    machines, schedulers = {}, {}
    with contextlib.ExitStack() as ends:
        for party in PLACES:
            ends.callback(lambda name: subprocess.run(["ip", "netns", "del", name]), f"vfl-{party}")
            _ip(f"netns add vfl-{party}")
            _ip(f"-n vfl-{party} link set lo up")
        _ip(f"link add vflj0 netns vfl-{GUEST} type veth peer name vflj1 netns vfl-{HOST}")
        for (party, address), device in zip(PLACES.items(), ("vflj0", "vflj1"), strict=True):
            _ip(f"-n vfl-{party} addr add {address}/24 dev {device}")
            _ip(f"-n vfl-{party} link set {device} up")
        for party, address in PLACES.items():
            prefix = ("ip", "netns", "exec", f"vfl-{party}")
            machine = Machine(prefix, address)
            if workers:
                made = ends.enter_context(_cluster(work / party, machine, workers, limit))
                machine, schedulers[party] = made
            machines[party] = machine
        yield machines, schedulers


@contextlib.contextmanager
def _cluster(folder: Path, machine: Machine, workers: int, limit: int) -> Iterator[tuple[Machine, int]]:
    """A scheduler and workers on a machine, as people start them; the machine as its party has it."""
    from distributed import Security

    made = Security.temporary()
    paths = {name: folder / f"cluster-{name}.pem" for name in _FILES}
    for name, path in paths.items():
        path.touch(mode=0o600)
        path.write_text(getattr(made, _FILES[name]))
    tls = [f"--tls-{name}={path}" for name, path in paths.items()]
    address = f"tls://{machine.address}:{PORT}"
    python = [*machine.prefix, sys.executable, "-m"]
    scheduler = ["distributed.cli.dask_scheduler", f"--host={machine.address}", "--no-dashboard", *tls]
    worker = ["distributed.cli.dask_worker", address, "--nthreads=1", f"--memory-limit={limit}MB", *tls]
    worker += [f"--nworkers={workers}", "--no-dashboard", f"--local-directory={folder}"]
    # As docs/operations.md advises for workers.
    kept = {"MALLOC_TRIM_THRESHOLD_": f"{1 << 28}", "MALLOC_MMAP_THRESHOLD_": f"{1 << 27}"}
    started: list[subprocess.Popen[bytes]] = []
    with (folder / "cluster.log").open("wb") as log, contextlib.ExitStack() as ends:
        for what in (scheduler, worker):
            process = subprocess.Popen(
                [*python, *what], stdout=log, stderr=log, env={**os.environ, **kept}
            )
            started.append(process)
            ends.callback(process.wait)
            ends.callback(process.terminate)
        files = [str(path) for path in paths.values()]
        subprocess.run(
            [*machine.prefix, sys.executable, __file__, address, str(workers), *files], check=True
        )
        keys = ("cluster_ca", "cluster_certificate", "cluster_key")
        lines = [f'cluster = "{address}"', *(f'{k} = "{f}"' for k, f in zip(keys, files, strict=True))]
        yield Machine(machine.prefix, machine.address, tuple(lines), started[1].pid), started[0].pid


def _ip(words: str) -> None:
    subprocess.run(["ip", *words.split()], check=True)


def wait_for_workers(address: str, workers: int, files: list[str]) -> None:
    """Wait until a scheduler has so many workers."""
    from vfl.blocks.scheduler import Access, Connection
    from vfl.errors import ConfigError

    access, deadline = Access(address, *map(Path, files)), time.monotonic() + _PATIENCE
    while time.monotonic() < deadline:
        with contextlib.suppress(ConfigError), contextlib.closing(Connection(access)) as connection:
            if len(connection.workers) == workers:
                return
        time.sleep(0.2)
    raise SystemExit(f"no {workers} workers at {address}: see cluster.log")


def show(given: argparse.Namespace, found: list[Mapping[str, dict]]) -> None:
    """A table with a line a number of workers and job."""
    print(
        f"{given.rows:,} rows x {given.columns} columns ({given.guest_columns} of the guest), "
        f"{given.trees} trees of depth {given.depth}, {os.cpu_count()} cores"
    )
    print(f"{'workers':>7} | {'job':>5} | {'s':>7} | {'of one process':>14} | MB of guest, its largest")
    print(f"{'':>7} | {'':>5} | {'':>7} | {'':>14} | worker, host, its largest worker; disk")
    alone = next((one for one in found if not one["workers"]), None)
    for one in found:
        for job in ("train", "score"):
            own = one[job]
            ratio = f"{own['seconds'] / alone[job]['seconds']:.2f}" if alone else ""
            sizes = [
                *(own[GUEST]["peak_mb"], own["largest_worker_mb"][GUEST]),
                *(own[HOST]["peak_mb"], own["largest_worker_mb"][HOST]),
            ]
            cells = ", ".join(f"{size:,.0f}" for size in sizes)
            row = f"{one['workers']:>7} | {job:>5} | {own['seconds']:7.1f} | {ratio:>14} | {cells}"
            print(f"{row}; {own['disk_mb']:,.0f}")
        schedulers = ", ".join(f"{size:,.0f}" for size in one["scheduler_mb"].values())
        if schedulers:
            print(f"{'':>7} | schedulers: {schedulers} MB")


if __name__ == "__main__":
    wait_for_workers(sys.argv[1], int(sys.argv[2]), sys.argv[3:])
