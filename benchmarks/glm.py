"""A frequency model across three parties: align, fit, evaluate; beside glum on the pooled columns.

    python benchmarks/glm.py --rows 50000
    python benchmarks/glm.py --encryption lattice

freMTPL2, Poisson with exposure, each party a process, mutual TLS between them. Columns are prepared as
in scikit-learn's example on Tweedie regression: ages in ten bins, the logarithm of density, the rest as
it is. glum fits the same prepared columns of the same rows. Data: see benchmarks/README.md. Seconds by
phase are medians over iterations; what is done once, such as hints under lattice, is in the other
seconds.
"""

import argparse
import os
import statistics
import tempfile
import time
from pathlib import Path

import glum
import numpy as np
from parties import DATA, UNBOUND, Memory, Split, check_data, frequency, operations, set_up, tell

from vfl import local
from vfl.jobs.alignments import load_alignment
from vfl.jobs.record import load_record
from vfl.learn.losses import loss_of
from vfl.models.halves import GuestHalf, HostHalf
from vfl.models.kinds import load_half
from vfl.party.config import load_party
from vfl.party.store import Store
from vfl.party.table import read_table


def main() -> None:
    """Run the job once and print its figures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--rows", type=int)
    parser.add_argument("--alpha", type=float, default=1e-4, help="glum needs one here")
    parser.add_argument("--tolerance", type=float, default=1e-7)
    parser.add_argument("--holdout", type=float, default=0.2)
    parser.add_argument("--encryption", choices=["paillier", "lattice"], default="paillier")
    parser.add_argument("--inference", action="store_true", help="standard errors, too")
    parser.add_argument("--key-bits", type=int, default=2048)
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="processes of each party")
    parser.add_argument("--json", action="store_true", help="print the figures by name instead")
    options = parser.parse_args()
    check_data(options.data)
    split = frequency(options.data, options.rows, 0)
    with tempfile.TemporaryDirectory() as work:
        figures = measure(Path(work), split, options)
    tell(options, f"freMTPL2, {figures['rows']:,} aligned rows", figures)


def measure(work: Path, split: Split, options: argparse.Namespace) -> dict:
    """All figures, by name."""
    guest, *hosts = split.tables
    folders = {party: work / party for party in split.tables}
    extra = {
        "registry": ["[glm]", 'binned = ["VehAge"]'],
        "bureau": ["[glm]", 'binned = ["DrivAge"]'],
    }
    for host in hosts:
        extra[host] += [*UNBOUND, 'encryptions = ["paillier", "lattice"]', "inference = true"]
    set_up(folders, split, job(options), options.workers, extra=extra)
    with Memory(folders) as memory, local.serving({h: folders[h] for h in hosts}):
        aligned = local.run(folders[guest], "align", f"{guest}.toml", "--wait", "60")
        trained = local.run(folders[guest], "train", f"{guest}.toml", "job.toml")
    phases = [phase for phase in trained["phases"] if "encrypt" in phase]
    median = {name: statistics.median(p.get(name, 0.0) for p in phases) for name in phases[-1]}
    return {
        "rows": aligned["rows"],
        "align_s": aligned["seconds"],
        "fit_s": trained["seconds"],
        "seconds_per_iteration": median["whole iteration"],
        "other_s": trained["seconds"] - sum(phase["whole iteration"] for phase in phases),
        "encrypt_s": median["encrypt"],
        "host_s": max(median[host] for host in hosts),
        "decrypt_s": median["decrypt"],
        "bytes_guest_to_host": trained["bytes_sent"],
        "bytes_host_to_guest": trained["bytes_received"],
        "peak_memory_with_workers_mb": {name: peak / 1e6 for name, peak in memory.peaks.items()},
        "operations": operations(folders, trained["model"]),
        "held_out": trained["metrics"],
        **against_glum(folders, guest, trained["model"], options),
    }


def job(options: argparse.Namespace) -> str:
    """The job file."""
    return f"""[job]
name = "benchmark"
purpose = "benchmark"
model = "glm"
family = "poisson"
holdout = {options.holdout}
[glm]
alpha = {options.alpha}
tolerance = {options.tolerance}
encryption = "{options.encryption}"
key_bits = {options.key_bits}
inference = {str(options.inference).lower()}
"""


def against_glum(
    folders: dict[str, Path], guest: str, model: str, options: argparse.Namespace
) -> dict[str, float]:
    """The coefficients and the deviance beside those of a pooled fit."""
    columns, coefficients = [], []
    for party, folder in folders.items():
        settings = load_party(folder / f"{party}.toml")
        store = Store(settings.party.store)
        half = load_half(store, model, GuestHalf if party == guest else HostHalf)
        rows = load_alignment(store, store.latest("alignment")).rows
        table = read_table(settings.data, role=settings.role, need_label=party == guest)
        columns.append(half.model.part.design.matrix(table.take(rows)).dense())
        coefficients += half.model.part.coefficients
        if party == guest:
            _, evaluation = load_record(store, model)
            train = ~np.isin(rows, evaluation.rows)
            label, offset, intercept = table.label[rows], table.offset[rows], half.model.intercept
            iterations = half.model.iterations
    pooled, loss = np.hstack(columns), loss_of("poisson")
    started = time.perf_counter()
    theirs = glum.GeneralizedLinearRegressor(
        family="poisson", alpha=options.alpha, l1_ratio=0, gradient_tol=1e-10, max_iter=300
    ).fit(pooled[train], label[train], offset=offset[train])
    seconds = time.perf_counter() - started
    ours = np.array(coefficients)
    weight = np.ones(int(train.sum()))
    deviances = [
        loss.deviance(pooled[train] @ b + b0 + offset[train], label[train], weight)
        for b, b0 in ((ours, intercept), (theirs.coef_, theirs.intercept_))
    ]
    return {
        "iterations": iterations,
        "columns": len(ours),
        "glum_s": seconds,
        "greatest_coefficient_difference": float(np.abs(ours - theirs.coef_).max()),
        "greatest_relative_difference": float(np.abs(ours / theirs.coef_ - 1).max()),
        "deviance": deviances[0],
        "deviance_difference_to_glum": deviances[0] - deviances[1],
    }


if __name__ == "__main__":
    main()
