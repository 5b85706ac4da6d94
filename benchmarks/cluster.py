"""A guest's trees over rows that lie with the workers of a cluster, beside those of one process.

    python benchmarks/cluster.py --rows 1000000 --workers 1 2
    python benchmarks/cluster.py --rows 1000000 --workers 2 --namespaces  # as root: another machine
    python benchmarks/cluster.py --rows 1000000 --workers --before ../earlier  # one process: ratio
    python benchmarks/cluster.py --job --rows 1000000 --workers 0 1 2 4  # as root: a guest and a host

The table is made on the spot, in Parquet parts; trees are of the guest's own columns, so that what is
measured is rows: bins, gradients, histograms, directions, scores. All come to the same model. With --job
it is a whole job, trained and scored, of a guest and a host that are two machines (network namespaces)
with a cluster each, over the lattice engine: seconds and peak memory of each process; 0: no cluster.
"""

import argparse
import contextlib
import hashlib
import itertools
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

PART = 1 << 20  # rows of a file
NAMESPACE, PLACES = "vfl-workers", ("10.77.0.1", "10.77.0.2")


def main() -> None:
    given = arguments()
    if given.child:
        child(json.loads(given.child))
        return
    if given.job:
        import cluster_jobs  # of this checkout alone

        cluster_jobs.run(given)
        return
    with contextlib.ExitStack() as ends:
        folder = Path(given.folder or ends.enter_context(tempfile.TemporaryDirectory()))
        make_table(folder / "table", given.rows, given.columns)
        runs = []
        for turn in range(given.turns):
            if given.before:
                runs.append(run(given, folder, "before", tree=given.before))
            runs.append(run(given, folder, "one process"))
            for workers in given.workers:
                runs.append(run(given, folder, f"{workers} workers", workers))
            if turn == 0 and len({one["model"] for one in runs}) > 1:
                raise SystemExit("the models differ")
    report(given, runs)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--columns", type=int, default=20)
    parser.add_argument("--trees", type=int, default=3)
    parser.add_argument("--depth", type=int, default=5)
    parser.add_argument("--workers", type=int, nargs="*", default=[1, 2], help="clusters, by workers")
    parser.add_argument("--worker-memory", type=int, default=3000, help="MB of each worker")
    parser.add_argument("--turns", type=int, default=1, help="of all runs one after the other")
    parser.add_argument("--namespaces", action="store_true", help="workers in a network namespace")
    parser.add_argument("--before", type=Path, help="another checkout, whose one process is run too")
    parser.add_argument("--folder", help="where the table is kept; a temporary one by default")
    parser.add_argument("--job", action="store_true", help="a whole job on two machines")
    parser.add_argument("--guest-columns", type=int, default=5, help="of --job, of all columns")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    return parser.parse_args()


def make_table(folder: Path, rows: int, columns: int) -> None:
    """Numbers of some hundred values each, and a label that depends on a few of them."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq

    folder.mkdir(parents=True, exist_ok=True)
    for number, start in enumerate(range(0, rows, PART)):
        path = folder / f"part-{number:05d}.parquet"
        if path.exists():
            continue
        count, rng = min(PART, rows - start), np.random.default_rng([number, columns])
        made = {f"c{i}": rng.integers(0, 100 + i, count).astype(np.float64) for i in range(columns)}
        signal = made["c0"] / 100 - (made["c1"] > 60) + 0.5 * (made[f"c{columns - 1}"] > 30) - 1.5
        made["y"] = (rng.logistic(size=count) < signal).astype(np.float64)
        pq.write_table(pa.table(made), path)


def run(
    given: argparse.Namespace, folder: Path, name: str, workers: int = 0, tree: Path | None = None
) -> dict[str, Any]:
    """Train in a process of its own; what it says of itself."""
    own = Path(__file__).resolve().parents[1]
    told = {
        "folder": str(folder),
        "rows": given.rows,
        "columns": given.columns,
        "trees": given.trees,
        "depth": given.depth,
        "workers": workers,
        "memory": given.worker_memory << 20,
    }
    with contextlib.ExitStack() as ends:
        if workers and given.namespaces:
            told["access"] = ends.enter_context(other_machine(folder, workers, given.worker_memory))
        done = subprocess.run(
            [sys.executable, __file__, "--child", json.dumps(told)],
            check=True,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": str(tree.resolve() if tree else own)},
        )
    return {"run": name, **json.loads(done.stdout.splitlines()[-1])}


@contextlib.contextmanager
def other_machine(folder: Path, workers: int, memory: int) -> Iterator[list[str]]:
    """A scheduler here and workers in a network namespace, as people start them."""
    from distributed import Security

    made = Security.temporary()
    files = {"ca-file": "tls_ca_file", "cert": "tls_worker_cert", "key": "tls_worker_key"}
    paths = [folder / f"{name}.pem" for name in files]
    for path, name in zip(paths, files.values(), strict=True):
        path.touch(mode=0o600)
        path.write_text(getattr(made, name))
    tls = [f"--tls-{name}={path}" for name, path in zip(files, paths, strict=True)]
    address = f"tls://{PLACES[0]}:8786"
    command = [sys.executable, "-m"]
    inside = ["ip", "netns", "exec", NAMESPACE]
    started: list[subprocess.Popen[bytes]] = []
    with (folder / "cluster.log").open("wb") as log, contextlib.ExitStack() as ends:
        ends.callback(lambda: [subprocess.run(["ip", "netns", "del", NAMESPACE], check=False)])
        for line in (
            f"ip netns add {NAMESPACE}",
            f"ip link add vflw0 type veth peer name vflw1 netns {NAMESPACE}",
            f"ip addr add {PLACES[0]}/24 dev vflw0",
            "ip link set vflw0 up",
            f"ip -n {NAMESPACE} addr add {PLACES[1]}/24 dev vflw1",
            f"ip -n {NAMESPACE} link set vflw1 up",
            f"ip -n {NAMESPACE} link set lo up",
        ):
            subprocess.run(line.split(), check=True)
        scheduler = ["distributed.cli.dask_scheduler", f"--host={PLACES[0]}", "--no-dashboard", *tls]
        worker = ["distributed.cli.dask_worker", address, "--nthreads=1", f"--memory-limit={memory}MB"]
        worker += [f"--nworkers={workers}", "--no-dashboard", f"--local-directory={folder}", *tls]
        # As docs/operations.md advises for workers.
        kept = {"MALLOC_TRIM_THRESHOLD_": f"{1 << 28}", "MALLOC_MMAP_THRESHOLD_": f"{1 << 27}"}
        for what in ([*command, *scheduler], [*inside, *command, *worker]):
            started.append(subprocess.Popen(what, stdout=log, stderr=log, env={**os.environ, **kept}))
            ends.callback(started[-1].wait)
            ends.callback(started[-1].terminate)
        yield [address, *map(str, paths)]


def child(told: dict[str, Any]) -> None:
    """Train, and print what it took as one line of JSON."""
    import asyncio

    import numpy as np
    import pyarrow.parquet as pq

    from vfl.blocks.columns import MadeColumns
    from vfl.blocks.scratch import Scratch
    from vfl.jobs.memory import peak_memory, release_memory
    from vfl.learn.binning import bin_columns
    from vfl.learn.params import BoostParams
    from vfl.protocols.common.checkpoints import Checkpoints
    from vfl.protocols.common.rows import Training
    from vfl.protocols.trees.grower import Pooled, TreeDone

    folder, rows = Path(told["folder"]), told["rows"]
    parts = sorted((folder / "table").glob("*.parquet"))[: -(-rows // PART)]

    def column(name: str) -> Any:
        values = np.empty(rows)
        for number, part in enumerate(parts):
            values[number * PART :][:PART] = pq.read_table(part, columns=[name])[name].to_numpy()[:rows]
        return values

    begun = time.perf_counter()
    scratch = Scratch(folder / "scratch")
    features = MadeColumns([f"c{i}" for i in range(told["columns"])], column)
    binned = bin_columns(features, 64, 100, {}, room=scratch.codes)
    label, train = column("y"), np.ones(rows, np.bool_)
    training = Training(label, np.ones(rows), train, np.zeros(rows, np.bool_))
    release_memory()
    prepared = time.perf_counter() - begun
    params = BoostParams(trees=told["trees"], depth=told["depth"], min_child_rows=100)
    seconds: list[float] = []
    processor: list[float] = []

    def progress(step: TreeDone) -> None:
        seconds.append(step.seconds["whole tree"])
        processor.append(time.process_time())
        print(f"tree {step.tree}: {seconds[-1]:.2f} s", file=sys.stderr)

    with contextlib.ExitStack() as ends:
        engine = ends.enter_context(cluster(told)) if told["workers"] else None
        begun = time.perf_counter()
        grower = Pooled({"guest": binned}, training, params)
        model, score = asyncio.run(grower.train(progress, Checkpoints()))
        whole = time.perf_counter() - begun
        workers = [] if engine is None else [*engine.client.run(peak_memory).values()]
    digest = hashlib.sha256(repr(model).encode() + np.asarray(score).tobytes()).hexdigest()
    of_trees = [after - before for before, after in itertools.pairwise(processor)]
    found = {"prepared": prepared, "trees": seconds, "training": whole, "model": digest}
    found["processor"] = of_trees
    print(json.dumps({**found, "party": peak_memory(), "workers": workers}))


@contextlib.contextmanager
def cluster(told: dict[str, Any]) -> Iterator[Any]:
    """The engine of the run: a cluster that was started, or processes of this machine."""
    from vfl.blocks.cluster import Cluster
    from vfl.blocks.engine import ENGINE
    from vfl.blocks.local_cluster import local_cluster
    from vfl.blocks.scheduler import Access, Connection
    from vfl.blocks.scratch import Scratch
    from vfl.errors import ConfigError

    folder = Path(told["folder"])
    with contextlib.ExitStack() as ends:
        if "access" in told:
            address, *files = told["access"]
            access = Access(address, *map(Path, files))
        else:
            access = ends.enter_context(local_cluster(told["workers"], told["memory"], folder))
        connection = None
        while connection is None:
            try:
                connection = Connection(access)
            except ConfigError:  # it has just been started
                time.sleep(0.2)
        while len(connection.workers) < told["workers"]:
            time.sleep(0.2)
            connection.look()
        ends.callback(connection.close)
        with ENGINE.instead(Cluster(connection, Scratch(folder / "scratch"))):
            yield connection


def report(given: argparse.Namespace, runs: list[dict[str, Any]]) -> None:
    names = list(dict.fromkeys(one["run"] for one in runs))
    rows = []
    for name in names:
        own = [one for one in runs if one["run"] == name]
        # Of the first tree compiling is a part, and rows are sent to workers before it.
        tree = statistics.median(s for one in own for s in (one["trees"][1:] or one["trees"]))
        rows.append(
            {
                "run": name,
                "prepared": statistics.median(one["prepared"] for one in own),
                "first tree": statistics.median(one["trees"][0] for one in own),
                "tree": tree,
                "processor": statistics.median(s for one in own for s in one["processor"] or [0.0]),
                "training": statistics.median(one["training"] for one in own),
                "party MB": max(one["party"] for one in own) / 1e6,
                "worker MB": max(max(one["workers"], default=0) for one in own) / 1e6,
            }
        )
    if given.json:
        print(json.dumps({"rows": given.rows, "columns": given.columns, "runs": rows}))
        return
    print(f"{given.rows:,} rows x {given.columns} columns, depth {given.depth}, {os.cpu_count()} cores")
    keys = list(rows[0])
    print(" | ".join(f"{key:>12}" for key in keys))
    for row in rows:
        cells = [f"{v:12.2f}" if isinstance(v, float) else f"{v:>12}" for v in row.values()]
        print(" | ".join(cells))
    base = next(row for row in rows if row["run"] == "one process")
    for row in rows:
        if row is not base:
            of = {key: row[key] / base[key] for key in ("tree", "processor") if base[key]}
            words = ", ".join(f"{ratio:.3f} ({key})" for key, ratio in of.items())
            print(f"{row['run']}: {words} of one process's")


if __name__ == "__main__":
    if shutil.which("ip") is None and {"--namespaces", "--job"} & {*sys.argv}:
        raise SystemExit("--namespaces and --job need ip (iproute2)")
    main()
