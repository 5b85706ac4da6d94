"""The whole job on this machine: three companies, three processes, mutual TLS between them.

Each company gets a folder of its own with its table, its party file and its keys; only certificates
are exchanged. Then the insurer's commands run as they would in three terminals, and one table shows
what the federation adds. LightGBM on the pooled columns, which no company could train in reality, says
what the best possible result would be.
"""

import argparse
import json
import shutil
import sys
import time
from contextlib import nullcontext
from pathlib import Path

import lightgbm
import pandas as pd
from rich.console import Console
from rich.table import Table

from vfl import local
from vfl.errors import VflError
from vfl.jobs.record import load_record
from vfl.learn.metrics import binary_metrics
from vfl.party.config import load_party
from vfl.party.policy import widened
from vfl.party.store import Store

HERE = Path(__file__).parent
SAMPLES = HERE.parent.parent / "data_samples"
TABLES = {"insurer": "policies.csv", "registry": "vehicles.csv", "bureau": "drivers.csv"}
HOSTS = ("registry", "bureau")


def main() -> None:
    """Set the three companies up, run the job, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("build/demo"), help="folder to work in")
    parser.add_argument("--policies", type=int, help="use only so many of the insurer's policies")
    parser.add_argument("--trees", type=int, help="instead of the job file's")
    parser.add_argument("--relay", action="store_true", help="nobody opens a port: all meet at a relay")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON as well")
    options = parser.parse_args()
    started = time.monotonic()
    work = options.work.resolve()
    set_up(work, options.policies, options.trees)
    for host in HOSTS:
        wider = ", ".join(widened(load_party(work / host / f"{host}.toml").policy))
        step(f"{host} allows more than by default, as its data are made up: {wider}")
    meeting = local.relaying(work, [*TABLES], step) if options.relay else nullcontext()
    with meeting, local.serving({host: work / host for host in HOSTS}):
        insurer = work / "insurer"
        step("The parties align their ids by private set intersection")
        aligned = local.run(insurer, "align", "insurer.toml")
        step(f"{aligned['rows']:,} policies are known to all three. They train SecureBoost together")
        trained = local.run(insurer, "train", "insurer.toml", "claim-probability.toml")
        step("The insurer scores new policies, which have no label")
        scored = local.run(
            insurer,
            *("score", "insurer.toml", "--model", "claim-probability"),
            *("--data", "new_policies.csv", "--out", "scores.csv"),
        )
    local.run(insurer, "report", "insurer.toml", "--model", trained["model"], "--out", "report")
    metrics = trained["metrics"]
    metrics["LightGBM, pooled columns"] = pooled(work, trained)
    sent = local.bytes_sent("insurer", HOSTS, [aligned, trained, scored])
    seconds = time.monotonic() - started
    show(metrics, trained, scored, sent, seconds, insurer / "scores.csv")
    if options.json:
        print(json.dumps({"metrics": metrics, "bytes_sent": sent, "seconds": seconds}))


def set_up(work: Path, policies: int | None, trees: int | None) -> None:
    """A folder for each company: table, party file, keys, and the others' certificates."""
    local.lay_out(HERE, work, [*TABLES])
    for party in TABLES:
        shutil.copytree(SAMPLES / party, work / party, dirs_exist_ok=True)
    if policies is not None:
        table = work / "insurer" / TABLES["insurer"]
        lines = table.read_text().splitlines(keepends=True)
        table.write_text("".join(lines[: policies + 1]))
    if trees is not None:
        local.set_trees(work / "insurer" / "claim-probability.toml", trees)


def pooled(work: Path, trained: dict) -> dict[str, float]:
    """LightGBM on the columns of all three, for the same policies held out."""
    _, evaluation = load_record(Store(work / "insurer" / "vfl-store"), trained["model"])
    frames = {party: pd.read_csv(work / party / file) for party, file in TABLES.items()}
    for frame in frames.values():
        frame.index = frame.pop(frame.columns[0]).str.upper().str.replace(r"[^0-9A-Z]", "", regex=True)
    insurer = frames["insurer"]
    held_out_ids = insurer.index[evaluation.rows]
    columns = insurer.join(frames["registry"], how="inner").join(frames["bureau"], how="inner")
    label = columns.pop("claim")
    for name in columns.select_dtypes(exclude="number"):
        columns[name] = columns[name].astype("category")
    train = ~columns.index.isin(held_out_ids)
    model = lightgbm.LGBMClassifier(
        n_estimators=80, learning_rate=0.05, num_leaves=8, min_child_samples=20, verbose=-1, n_jobs=2
    )
    model.fit(columns[train], label[train])
    probability = model.predict_proba(columns[~train])[:, 1]
    return binary_metrics(label[~train].to_numpy(), probability)


def step(what: str) -> None:
    """Say what happens now."""
    Console(stderr=True, highlight=False).print(f"• {what}")


def show(
    metrics: dict[str, dict[str, float]],
    trained: dict,
    scored: dict,
    sent: dict[str, int],
    seconds: float,
    scores: Path,
) -> None:
    """The one table."""
    console = Console(highlight=False)
    table = Table(title=f"claim probability on {trained['rows']['held out']:,} held-out policies")
    table.add_column("model")
    table.add_column("AUC", justify="right")
    table.add_column("log loss", justify="right")
    for name, values in metrics.items():
        style = "bold" if name == "federation" else ""
        table.add_row(name, f"{values['auc']:.3f}", f"{values['log_loss']:.4f}", style=style)
    console.print(table)
    parties = ", ".join(f"{party} {count / 1e6:.1f} MB" for party, count in sent.items())
    console.print(f"{trained['trees']} trees in {trained['seconds']:.0f} s; {seconds:.0f} s in all")
    console.print(f"bytes sent: {parties}")
    console.print(f"{scored['rows']:,} new policies scored: {scores}", soft_wrap=True)
    page = scores.parent / "report" / "report.html"
    console.print(f"a report to open in a browser: {page}", soft_wrap=True)


if __name__ == "__main__":
    try:
        main()
    except VflError as error:
        sys.exit(f"{error}; the hosts' logs are */serve.log in the folder of --work")
