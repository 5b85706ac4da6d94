"""The main job: align, train SecureBoost, evaluate; each party a process, mutual TLS between them.

    python benchmarks/secureboost.py uniform --rows 20000 --depth 5 --trees 3
    python benchmarks/secureboost.py freMTPL2 --rows 50000 --trees 20 --depth 4
    python benchmarks/secureboost.py default_credit
    python benchmarks/secureboost.py uniform --rows 20000 --depth 5 --trees 3 --hidden
    python benchmarks/secureboost.py uniform --rows 1000000 --columns 20 --encryption lattice --lightgbm
    python benchmarks/secureboost.py uniform --encryption lattice --timeline timeline.svg

Data: see benchmarks/README.md. Seconds by phase are medians over trees; what is done once, such as
hints under lattice, is in the other seconds. `--timeline` draws two trees (timeline.py). LightGBM on the
pooled columns has the same trees, depth, learning rate, bins and penalty and trains on the same rows.
"""

import argparse
import os
import statistics
import tempfile
import time
from contextlib import ExitStack
from itertools import pairwise
from pathlib import Path

import lightgbm
import pandas as pd
from parties import DATA, SPLITS, UNBOUND, Memory, Split, chosen, operations, set_up, tell
from timeline import draw, watching
from timeline import figures as figures_of

from vfl import local
from vfl.jobs.record import load_record
from vfl.learn.metrics import binary_metrics
from vfl.party.store import Store


def main() -> None:
    """Run the job once and print its figures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("split", choices=SPLITS)
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--rows", type=int)
    parser.add_argument("--columns", type=int, default=10, help="of each party, for uniform")
    parser.add_argument("--hosts", type=int, default=1, help="for uniform")
    parser.add_argument("--guest-columns", type=int, help="of the guest, if it has fewer")
    parser.add_argument(
        "--engine", choices=["ecdh", "ot", "vole"], default="ecdh", help="of the alignment"
    )
    parser.add_argument("--trees", type=int, default=20)
    parser.add_argument("--depth", type=int, default=4)
    parser.add_argument("--max-bins", type=int, default=32)
    parser.add_argument("--learning-rate", type=float, default=0.2)
    parser.add_argument("--encryption", choices=["paillier", "lattice"], default="paillier")
    parser.add_argument("--hidden", action="store_true", help="a coordinator opens the sums")
    parser.add_argument("--key-bits", type=int, default=2048)
    parser.add_argument("--holdout", type=float, help="share held out; 0.3, and 0 for uniform")
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="processes of each party")
    parser.add_argument("--memory", type=int, default=2048, help="MB of ciphertexts in memory")
    parser.add_argument("--goss", nargs=2, type=float, default=(0.0, 0.0), metavar=("TOP", "OTHER"))
    parser.add_argument("--obfuscators", choices=["short", "full"], default="short")
    parser.add_argument(
        "--lightgbm", action="store_true", help="seconds of a tree on the pooled columns, and the ratio"
    )
    parser.add_argument(
        "--timeline",
        type=Path,
        metavar="FILE",
        help="draw what each party does when into it (.svg, .png)",
    )
    parser.add_argument("--json", action="store_true", help="print the figures by name instead")
    options = parser.parse_args()
    if options.holdout is None:
        options.holdout = 0.0 if options.split == "uniform" else 0.3
    split = chosen(options)
    if options.guest_columns is not None:
        split = split.narrowed(next(iter(split.tables)), options.guest_columns)
    with tempfile.TemporaryDirectory() as work:
        figures = measure(Path(work), split, options)
    tell(
        options, f"{options.split}, {figures['rows']:,} aligned rows, {figures['trees']} trees", figures
    )


def measure(work: Path, split: Split, options: argparse.Namespace) -> dict:
    """All figures, by name."""
    guest, *hosts = split.tables
    umpire = ["umpire"] if options.hidden else []
    folders = {party: work / party for party in (*split.tables, *umpire)}
    extra = {host: [*UNBOUND, f'encryptions = ["{options.encryption}"]'] for host in hosts}
    extra[guest] = ["[align]", f'engine = "{options.engine}"']
    set_up(folders, split, job(options), options.workers, options.memory, extra)
    with ExitStack() as stack:
        watch = stack.enter_context(watching(folders)) if options.timeline else None
        memory = stack.enter_context(Memory(folders))
        serving = stack.enter_context(
            local.serving({party: folders[party] for party in (*hosts, *umpire)})
        )
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
        "other_s": trained["seconds"] - sum(tree["whole tree"] for tree in phases),
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
    if watch is not None:
        figures["timeline"] = figures_of(watch)
        draw(watch, options.timeline, f"{options.split}, {aligned['rows']:,} rows, {options.encryption}")
    figures["operations_a_tree"] = {
        party: {kind: count / trained["trees"] for kind, count in sorted(counts.items())}
        for party, counts in operations(folders, trained["model"]).items()
    }
    if options.lightgbm:
        figures["lightgbm_s_per_tree"] = seconds_of_lightgbm(split, options)
        figures["times_lightgbm"] = figures["seconds_per_tree"] / figures["lightgbm_s_per_tree"]
    if trained["metrics"]:
        pooled = pooled_lightgbm(folders[guest], split, trained["model"], options)
        figures["auc_alone"] = trained["metrics"][f"{guest} alone"]["auc"]
        figures["auc_federated"] = trained["metrics"]["federation"]["auc"]
        figures["auc_pooled_lightgbm"] = pooled["auc"]
    return figures


LIGHTGBM_TREES = 20  # that are timed at least
HIDDEN = 'sums = "hidden"\ncoordinator = "umpire"\n'


def job(options: argparse.Namespace) -> str:
    """The job file."""
    return f"""[job]
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
{HIDDEN if options.hidden else ""}key_bits = {options.key_bits}
obfuscators = "{options.obfuscators}"
goss_top = {options.goss[0]}
goss_other = {options.goss[1]}
"""


def pooled(split: Split) -> tuple[pd.DataFrame, pd.Series]:
    """Everybody's columns of the rows that all have, and the labels."""
    guest, *hosts = split.tables
    columns = split.tables[guest].set_index("id")
    for host in hosts:
        theirs = split.tables[host].set_index("id").add_prefix(f"{host} ")
        columns = columns.join(theirs, how="inner")
    label = columns.pop("label")
    for name in columns.select_dtypes(exclude="number"):
        columns[name] = columns[name].astype("category")
    return columns, label


def settings_of_lightgbm(options: argparse.Namespace) -> dict[str, float]:
    """Those of the job, as far as there are such."""
    return {
        "num_leaves": 2**options.depth,
        "max_depth": options.depth,
        "learning_rate": options.learning_rate,
        "max_bin": options.max_bins,
        "reg_lambda": 1.0,
        "min_child_samples": 20,
        "min_child_weight": 1.0,
        "verbose": -1,
    }


def seconds_of_lightgbm(split: Split, options: argparse.Namespace) -> float:
    """Seconds of a tree on everybody's columns, on all rows and all cores: the median of what each took.
    The columns are in bins before."""
    columns, label = pooled(split)
    settings = settings_of_lightgbm(options) | {"objective": "binary", "num_threads": os.cpu_count()}
    data = lightgbm.Dataset(columns, label, params=settings).construct()
    ended = [time.perf_counter()]

    def note(_: object) -> None:
        ended.append(time.perf_counter())

    lightgbm.train(settings, data, num_boost_round=max(options.trees, LIGHTGBM_TREES), callbacks=[note])
    return statistics.median(later - earlier for earlier, later in pairwise(ended))


def pooled_lightgbm(
    folder: Path, split: Split, model: str, options: argparse.Namespace
) -> dict[str, float]:
    """LightGBM on everybody's columns, on the same training and held-out rows."""
    _, evaluation = load_record(Store(folder / "vfl-store"), model)
    guest = next(iter(split.tables))
    held_out = split.tables[guest]["id"].iloc[evaluation.rows]
    columns, label = pooled(split)
    train = ~columns.index.isin(held_out)
    classifier = lightgbm.LGBMClassifier(n_estimators=options.trees, **settings_of_lightgbm(options))
    classifier.fit(columns[train], label[train])
    return binary_metrics(label[~train].to_numpy(), classifier.predict_proba(columns[~train])[:, 1])


if __name__ == "__main__":
    main()
