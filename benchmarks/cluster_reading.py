"""What a party's own process takes to read a table, make its ids and choose bins, with two workers.

    python benchmarks/cluster_reading.py
    python benchmarks/cluster_reading.py --before /path/to/another/checkout

Text ids, 20 columns of numbers and a label, as one CSV file without quotes and as four Parquet parts;
the rows are binned in another order than the table's, as an alignment has them. Processor seconds of the
party's process, in which the scheduler runs as well, and the most memory that it holds above what it
holds before. Both checkouts must come to the same ids and codes.
"""

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
from memory import _status
from rich.console import Console
from rich.table import Table

from vfl.blocks.cluster import Cluster
from vfl.blocks.engine import ENGINE
from vfl.blocks.local_cluster import local_cluster
from vfl.blocks.scheduler import Connection
from vfl.blocks.scratch import Scratch
from vfl.jobs.own_table import ids_of
from vfl.learn.binning import bin_columns
from vfl.learn.levels import tidy_levels
from vfl.party.sections import DataSection
from vfl.party.table import Wanted, read_wanted

T = TypeVar("T")


def main() -> None:
    """Write tables and measure; with --inside be the party's process."""
    if sys.argv[1:2] == ["--inside"]:
        inside(Path(sys.argv[2]), Path(sys.argv[3]))
        return
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--columns", type=int, default=20)
    parser.add_argument("--before", type=Path, help="another checkout, measured in turns with this one")
    parser.add_argument("--json", action="store_true", help="print the figures by name instead")
    options = parser.parse_args()
    everything: dict[str, dict[str, dict]] = {}
    shown = Table("table", "checkout", "step", "processor s", "MB")
    trees = [*([options.before] if options.before else []), Path(__file__).parents[1]]
    with tempfile.TemporaryDirectory() as work:
        write(Path(work), options.rows, options.columns)
        for table in ("table.csv", "parts/*.parquet"):
            made = set()
            for tree in trees:
                figures = measure(Path(work), table, tree)
                made.add(figures.pop("made"))
                everything.setdefault(table, {})[str(tree)] = figures
                for step, (seconds, memory) in figures.items():
                    shown.add_row(table, str(tree), step, f"{seconds:.2f}", f"{memory:,.0f}")
            if len(made) > 1:
                sys.exit(f"{table}: the checkouts come to different ids or codes")
    if options.json:
        print(json.dumps(everything))
    else:
        Console().print(shown)


def write(work: Path, rows: int, columns: int) -> None:
    """The same table as one file of lines and as four parts."""
    rng = np.random.default_rng(0)
    made: dict[str, object] = {"id": [f"ab {i:09d}" for i in range(rows)]}
    made |= {f"x{i}": rng.random(rows).round(6) for i in range(columns)}
    table = pa.table({**made, "y": (rng.random(rows) < 0.1).astype(np.int64)})
    pa.csv.write_csv(table, work / "table.csv", pa.csv.WriteOptions(quoting_style="none"))
    (work / "parts").mkdir()
    for part in range(4):
        own = table.slice(part * rows // 4, (part + 1) * rows // 4 - part * rows // 4)
        pq.write_table(own, work / "parts" / f"{part}.parquet", row_group_size=1 << 17)


def measure(work: Path, table: str, tree: Path) -> dict:
    """The figures of a checkout."""
    own = [sys.executable, __file__, "--inside", str(work), table]
    paths = os.pathsep.join([str(tree), str(Path(__file__).parent)])
    done = subprocess.run(
        own, env={**os.environ, "PYTHONPATH": paths}, check=True, capture_output=True, text=True
    )
    return dict(json.loads(done.stdout.splitlines()[-1]))


def inside(work: Path, table: Path) -> None:
    """Read, make ids, choose bins, and print what each has taken."""
    figures: dict[str, object] = {}
    scratch, base = Scratch(work / "scratch"), 0

    def step(name: str, do: Callable[[], T]) -> T:
        Path("/proc/self/clear_refs").write_text("5")
        began = time.process_time()
        made = do()
        figures[name] = time.process_time() - began, (_status("VmHWM") - base) / 1e6
        return made

    data = DataSection.model_validate(
        {"path": work / table, "id": ["id"], "normalise": ["trim", "upper", "alnum"], "label": "y"}
    )
    with local_cluster(2, 2 << 30, work / "workers") as access:
        connection = Connection(access)
        base = _status("VmRSS")
        with ENGINE.instead(Cluster(connection, scratch)):
            wanted = Wanted("guest", True, scratch=scratch)
            read = step("reading", lambda: read_wanted(data, wanted))
            ids = step("ids", lambda: ids_of(read, data, scratch))
            rows = np.random.default_rng(0).permutation(read.rows)
            read = replace(read, ids=[])
            features = tidy_levels(read.take(rows))
            binned = step("bins", lambda: bin_columns(features, 32, 20, {}, scratch.codes))
        connection.close()
    figures["made"] = ids.digest + hashlib.sha256(binned.codes.tobytes()).hexdigest()
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
