"""The main job: align, train SecureBoost, evaluate; each party a process, mutual TLS between them.

    python benchmarks/secureboost.py uniform --rows 20000 --depth 5 --trees 3
    python benchmarks/secureboost.py freMTPL2 --rows 50000 --trees 20 --depth 4
    python benchmarks/secureboost.py default_credit

Data: see benchmarks/README.md. Seconds by phase are medians over trees. LightGBM on the pooled columns
has the same trees, depth, learning rate, bins and penalty and trains on the same rows.
"""

import argparse
import json
import os
import re
import statistics
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import lightgbm
import numpy as np
import pandas as pd
from rich.console import Console
from rich.table import Table

from vfl import local
from vfl.learn.metrics import binary_metrics

DATA = Path(__file__).parent.parent.parent / "shared" / "data"


@dataclass(frozen=True)
class Split:
    """A table for each party, the guest's first, with column `id`; the guest's has `label`."""

    tables: dict[str, pd.DataFrame]
    categorical: dict[str, list[str]]


def fremtpl2(data: Path, rows: int | None, columns: int) -> Split:
    """French motor third-party liability, split as insurer, vehicle registry and claims bureau."""
    policies = pd.read_parquet(data / "freMTPL2" / "policies.parquet").head(rows)
    policies["id"] = policies["IDpol"].astype(str)
    policies["label"] = (policies["ClaimNb"] > 0).astype(int)
    policies["Exposure"] = policies["Exposure"].clip(upper=1)
    columns = {
        "insurer": ["id", "label", "Exposure", "Area", "Region", "Density"],
        "registry": ["id", "VehPower", "VehAge", "VehBrand", "VehGas"],
        "bureau": ["id", "DrivAge", "BonusMalus"],
    }
    tables = {party: policies[names].sample(frac=1, random_state=1) for party, names in columns.items()}
    return Split(
        tables,
        {"insurer": ["Area", "Region"], "registry": ["VehBrand", "VehGas"], "bureau": []},
    )


def default_credit(data: Path, rows: int | None, columns: int) -> Split:
    """UCI credit default in FATE's vertical split."""
    tables = {}
    for party, side in (("bank", "guest"), ("partner", "host")):
        table = pd.read_parquet(data / "fate" / f"default_credit_hetero_{side}.parquet").head(rows)
        table["id"] = table["id"].astype(str)
        tables[party] = table.rename(columns={"y": "label"})
    return Split(tables, {"bank": [], "partner": []})


def uniform(data: Path, rows: int | None, columns: int) -> Split:
    """Uniform columns at each of two parties: the worst case for sums by joint cells."""
    generator = np.random.default_rng(0)
    size = rows or 20_000
    ids = np.arange(size).astype(str)
    numbers = generator.random((2 * columns, size))
    label = generator.random(size) < 1 / (1 + np.exp(3 - 3 * numbers[0] - 3 * numbers[columns]))
    tables = {}
    for party, own in (("guest", numbers[:columns]), ("host", numbers[columns:])):
        tables[party] = pd.DataFrame({"id": ids} | {f"{party}{i}": c for i, c in enumerate(own)})
    tables["guest"]["label"] = label.astype(int)
    return Split(tables, {"guest": [], "host": []})


SPLITS: dict[str, Callable[[Path, int | None, int], Split]] = {
    "uniform": uniform,
    "freMTPL2": fremtpl2,
    "default_credit": default_credit,
}


def main() -> None:
    """Run the job once and print its figures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("split", choices=SPLITS)
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--rows", type=int)
    parser.add_argument("--columns", type=int, default=10, help="of each party, for uniform")
    parser.add_argument("--trees", type=int, default=20)
    parser.add_argument("--depth", type=int, default=4)
    parser.add_argument("--max-bins", type=int, default=32)
    parser.add_argument("--learning-rate", type=float, default=0.2)
    parser.add_argument("--encryption", choices=["paillier", "ou"], default="paillier")
    parser.add_argument("--key-bits", type=int, default=2048)
    parser.add_argument("--holdout", type=float, help="share held out; 0.3, and 0 for uniform")
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="processes of each party")
    parser.add_argument("--memory", type=int, default=2048, help="MB of ciphertexts in memory")
    parser.add_argument("--goss", nargs=2, type=float, default=(0.0, 0.0), metavar=("TOP", "OTHER"))
    parser.add_argument("--obfuscators", choices=["short", "full"], default="short")
    parser.add_argument("--json", action="store_true", help="print the figures by name instead")
    options = parser.parse_args()
    if options.holdout is None:
        options.holdout = 0.0 if options.split == "uniform" else 0.3
    if options.split != "uniform" and not options.data.is_dir():
        sys.exit(f"no data at {options.data}: see benchmarks/README.md")
    split = SPLITS[options.split](options.data, options.rows, options.columns)
    with tempfile.TemporaryDirectory() as work:
        figures = measure(Path(work), split, options)
    if options.json:
        print(json.dumps(figures))
    else:
        show(options.split, figures)


def measure(work: Path, split: Split, options: argparse.Namespace) -> dict:
    """All figures, by name."""
    guest, *hosts = split.tables
    folders = {party: work / party for party in split.tables}
    set_up(folders, split, options)
    with Memory(folders) as memory, local.serving({h: folders[h] for h in hosts}) as serving:
        aligned = local.run(folders[guest], "align", f"{guest}.toml", "--wait", "60")
        trained = local.run(folders[guest], "train", f"{guest}.toml", "job.toml")
    phases = trained["phases"]
    median = {phase: statistics.median(tree.get(phase, 0.0) for tree in phases) for phase in phases[-1]}
    figures = {
        "rows": aligned["rows"],
        "trees": trained["trees"],
        "align_s": aligned["seconds"],
        "train_s": trained["seconds"],
        "seconds_per_tree": median["whole tree"],
        "encrypt_s": median["encrypt"],
        "transfer_s": median["transfer"],
        "host_s": max(median[host] for host in hosts),
        "decrypt_s": median["decrypt"],
        "own_columns_s": median["own columns"],
        "bytes": sum(trained["bytes_sent"].values()) + sum(trained["bytes_received"].values()),
        "bytes_guest_to_host": trained["bytes_sent"],
        "bytes_host_to_guest": trained["bytes_received"],
        "peak_memory_mb": {
            guest: trained["peak_memory"] / 1e6,
            **{name: host.peak_memory / 1e6 for name, host in serving.items()},
        },
        "peak_memory_with_workers_mb": {name: peak / 1e6 for name, peak in memory.peaks.items()},
    }
    figures["operations_a_tree"] = {
        party: {kind: count / trained["trees"] for kind, count in sorted(counts.items())}
        for party, counts in operations(folders, trained["model"]).items()
    }
    if trained["metrics"]:
        pooled = pooled_lightgbm(folders[guest], split, trained["model"], options)
        figures["auc_alone"] = trained["metrics"][f"{guest} alone"]["auc"]
        figures["auc_federated"] = trained["metrics"]["federation"]["auc"]
        figures["auc_pooled_lightgbm"] = pooled["auc"]
    return figures


class Memory(threading.Thread):
    """Samples the memory of each party's processes, shared pages counted once (Linux's Pss)."""

    def __init__(self, folders: dict[str, Path]) -> None:
        super().__init__(daemon=True)
        self.peaks = dict.fromkeys(folders, 0)
        self._party_of = {str(folder): party for party, folder in folders.items()}
        self._done = threading.Event()

    def __enter__(self) -> "Memory":
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self.join()

    def run(self) -> None:
        """Once a second, until the job is over. A party's processes work in its folder."""
        while not self._done.wait(1.0):
            now = dict.fromkeys(self.peaks, 0)
            for process in Path("/proc").glob("[0-9]*"):
                try:
                    party = self._party_of.get(str((process / "cwd").readlink()))
                    if party is not None:
                        rollup = (process / "smaps_rollup").read_text()
                        now[party] += 1024 * int(re.search(r"^Pss: +(\d+)", rollup, re.M)[1])
                except OSError:
                    continue  # it has ended meanwhile
            self.peaks = {party: max(self.peaks[party], now[party]) for party in now}


def operations(folders: dict[str, Path], model: str) -> dict[str, dict[str, int]]:
    """Operations on ciphertexts of each party by kind, from its own record of the run."""
    records = {
        party: folder / "vfl-store" / "runs" / f"{model}.json" for party, folder in folders.items()
    }
    return {
        party: json.loads(record.read_text())["body"]["operations"] for party, record in records.items()
    }


def set_up(folders: dict[str, Path], split: Split, options: argparse.Namespace) -> None:
    """Each party's folder: table, party file, keys; the guest's job file."""
    guest = next(iter(folders))
    port = local.free_port()
    for party, folder in folders.items():
        folder.mkdir()
        split.tables[party].to_parquet(folder / "table.parquet")
        role = "guest" if party == guest else "host"
        lines = ["[party]", f'name = "{party}"', f'role = "{role}"', f'identity = "keys/{party}"']
        lines += [f"workers = {options.workers}", f"memory = {options.memory}"]
        lines += [f'listen = "127.0.0.1:{port}"'] * (party == guest)
        lines += ["[data]", 'path = "table.parquet"', 'id = "id"']
        lines += [f"categorical = {json.dumps(split.categorical[party])}"]
        lines += ['label = "label"'] * (party == guest)
        for other in set(folders) - {party}:
            lines += [f"[peers.{other}]", f'certificate = "peers/{other}.pem"']
            lines += [f'address = "127.0.0.1:{port}"'] * (other == guest)
        (folder / f"{party}.toml").write_text("\n".join(lines))
    local.exchange_keys(folders)
    (folders[guest] / "job.toml").write_text(
        f"""[job]
name = "benchmark"
purpose = "benchmark"
model = "secureboost"
objective = "binary"
holdout = {options.holdout}
[secureboost]
trees = {options.trees}
depth = {options.depth}
max_bins = {options.max_bins}
learning_rate = {options.learning_rate}
encryption = "{options.encryption}"
key_bits = {options.key_bits}
obfuscators = "{options.obfuscators}"
goss_top = {options.goss[0]}
goss_other = {options.goss[1]}
"""
    )


def pooled_lightgbm(
    folder: Path, split: Split, model: str, options: argparse.Namespace
) -> dict[str, float]:
    """LightGBM on everybody's columns, on the same training and held-out rows."""
    runs = folder / "vfl-store" / "runs"
    body = json.loads((runs / f"{model}.json").read_text())["body"]
    guest, *hosts = split.tables
    held_out = split.tables[guest]["id"].iloc[np.load(runs / body["held_out_rows"]["file"])]
    columns = split.tables[guest].set_index("id")
    for host in hosts:
        theirs = split.tables[host].set_index("id").add_prefix(f"{host} ")
        columns = columns.join(theirs, how="inner")
    label = columns.pop("label")
    for name in columns.select_dtypes(exclude="number"):
        columns[name] = columns[name].astype("category")
    train = ~columns.index.isin(held_out)
    classifier = lightgbm.LGBMClassifier(
        n_estimators=options.trees,
        num_leaves=2**options.depth,
        max_depth=options.depth,
        learning_rate=options.learning_rate,
        max_bin=options.max_bins,
        reg_lambda=1.0,
        min_child_samples=20,
        min_child_weight=1.0,
        verbose=-1,
    )
    classifier.fit(columns[train], label[train])
    return binary_metrics(label[~train].to_numpy(), classifier.predict_proba(columns[~train])[:, 1])


def show(name: str, figures: dict) -> None:
    """The figures as a table."""
    table = Table(title=f"{name}, {figures['rows']:,} aligned rows, {figures['trees']} trees")
    table.add_column("figure")
    table.add_column("value", justify="right")
    for key, value in figures.items():
        for part, number in flat(value):
            shown = f"{number:,}" if isinstance(number, int) else f"{number:,.4f}"
            table.add_row(f"{key} {part}".strip(), shown)
    Console().print(table)


def flat(value: object) -> Iterator[tuple[str, float]]:
    """The numbers in nested tables, each with its keys joined."""
    if not isinstance(value, dict):
        yield "", value
        return
    for key, inner in value.items():
        for rest, number in flat(inner):
            yield f"{key} {rest}".strip(), number


if __name__ == "__main__":
    main()
