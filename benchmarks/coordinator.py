"""A logistic model with hidden scores: guest, host and coordinator; beside exact pooled models.

    python benchmarks/coordinator.py

FATE's split of the Wisconsin breast cancer data, each party a process, mutual TLS between them. The loss
is the second-order approximation, so that coefficients differ from the exact ones: how far is printed,
and how far the federated ones are from those of the approximation itself, fitted to the pooled columns
in the clear. scikit-learn fits the same prepared columns of the same rows exactly. Data: see
benchmarks/README.md.
"""

import argparse
import json
import os
import tempfile
from pathlib import Path

import numpy as np
from parties import DATA, UNBOUND, Split, breast, set_up, show
from scipy.special import expit, logit
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from vfl import local
from vfl.jobs.alignments import load_alignment
from vfl.jobs.record import load_record
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
    parser.add_argument("--alpha", type=float, default=0.01)
    parser.add_argument("--tolerance", type=float, default=1e-7)
    parser.add_argument("--holdout", type=float, default=0.3)
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="processes of each party")
    parser.add_argument("--json", action="store_true", help="print the figures by name instead")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as work:
        figures = measure(Path(work), breast(options.data, None, 0), options)
    if options.json:
        print(json.dumps(figures))
    else:
        show(f"breast cancer, {figures['rows']:,} aligned rows", figures)


def measure(work: Path, split: Split, options: argparse.Namespace) -> dict:
    """All figures, by name."""
    folders = {party: work / party for party in ("guest", "host", "coordinator")}
    set_up(folders, split, job(options), options.workers, extra={"host": UNBOUND})
    with local.serving({party: folders[party] for party in ("host", "coordinator")}):
        aligned = local.run(folders["guest"], "align", "guest.toml", "--wait", "60")
        trained = local.run(folders["guest"], "train", "guest.toml", "job.toml")
    return {
        "rows": aligned["rows"],
        "fit_s": trained["seconds"],
        "iterations": trained["iterations"],
        "auc_alone": trained["metrics"]["guest alone"]["auc"],
        "auc_federated": trained["metrics"]["federation"]["auc"],
        **against_pooled(folders, trained["model"], options),
    }


def job(options: argparse.Namespace) -> str:
    """The job file."""
    return f"""[job]
name = "benchmark"
purpose = "benchmark"
model = "glm"
family = "logistic"
holdout = {options.holdout}
[glm]
scores = "hidden"
coordinator = "coordinator"
alpha = {options.alpha}
tolerance = {options.tolerance}
"""


def against_pooled(
    folders: dict[str, Path], model: str, options: argparse.Namespace
) -> dict[str, float]:
    """AUC and coefficients beside those of models of the pooled columns."""
    columns, coefficients = [], []
    for party, role in (("guest", GuestHalf), ("host", HostHalf)):
        settings = load_party(folders[party] / f"{party}.toml")
        store = Store(settings.party.store)
        half = load_half(store, model, role)
        rows = load_alignment(store, store.latest("alignment")).rows
        table = read_table(settings.data, role=settings.role, need_label=party == "guest")
        columns.append(half.model.part.design.matrix(table.take(rows)).dense())
        coefficients += half.model.part.coefficients
        if party == "guest":
            _, evaluation = load_record(store, model)
            train = ~np.isin(rows, evaluation.rows)
            label, coefficients = table.label[rows], [half.model.intercept, *coefficients]
    pooled, ours = np.hstack(columns), np.array(coefficients)
    exact = LogisticRegression(C=1 / (options.alpha * train.sum()), tol=1e-10, max_iter=10_000)
    exact.fit(pooled[train], label[train])
    theirs = np.concatenate([exact.intercept_, exact.coef_[0]])
    # The least of the mean of (p - y) s + p (1 - p) (s - s0)^2 / 2 over rows, and the penalty.
    at = round(4 * logit(label[train].mean())) / 4
    share, curvature = expit(at), expit(at) * expit(-at)
    X = np.column_stack([np.ones(train.sum()), pooled[train]])
    penalty = options.alpha * np.diag([0.0, *np.ones(pooled.shape[1])])
    target = label[train] - share + curvature * at
    taylor = np.linalg.solve(curvature * X.T @ X / len(X) + penalty, X.T @ target / len(X))
    held_out = exact.decision_function(pooled[~train])
    return {
        "auc_pooled_exact": float(roc_auc_score(label[~train], held_out)),
        "coefficients_to_taylor": float(np.abs(ours - taylor).max()),
        "coefficients_to_exact": float(np.abs(ours - theirs).max()),
        "greatest_exact_coefficient": float(np.abs(theirs).max()),
    }


if __name__ == "__main__":
    main()
