"""Who buys next week: a brand and three holders of other columns, with a trustee that opens sums.

Each party gets a folder of its own and is a process of its own, with mutual TLS between them. The brand
trains with each holder, and with all, on the same rows and tries the models on later weeks; then on
households that no model has seen; then fits a linear model. LightGBM on the pooled columns, which no
party could train in reality, says what the best possible result would be.
"""

import argparse
import json
import re
import sys
import time
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

import lightgbm
import make_data
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

if TYPE_CHECKING:
    from matplotlib.axes import Axes

HERE = Path(__file__).parent
HOSTS = ("social", "eshop", "retailer")
TABLES = {"eshop": "orders.csv", "retailer": "baskets.csv", "social": "people.csv"}
PARTIES = ("brand", *HOSTS, "trustee")
LATER, NEW = "later weeks", "new households"
ALONE, ALL, LINEAR, POOLED = "brand alone", "all", "all, linear model", "LightGBM, pooled columns"
KEY = ["household", "week"]
_NAMES = {"social": "social platform", "eshop": "e-shop"}


def main() -> None:
    """Set the parties up, run the jobs, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("build/demo-retail"), help="folder to work in")
    parser.add_argument(
        "--households", type=int, default=360, help="360 or more, of which a third is known"
    )
    parser.add_argument(
        "--weeks", type=int, default=18, help="12 or more, else the platform has too few rows"
    )
    parser.add_argument("--trees", type=int, help="instead of the job files'")
    parser.add_argument("--picture", type=Path, metavar="FILE", help="draw the result, as .png or .svg")
    parser.add_argument("--relay", action="store_true", help="nobody opens a port: all meet at a relay")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON as well")
    options = parser.parse_args()
    started = time.monotonic()
    work = options.work.resolve()
    set_up(work, options.households, options.weeks, options.trees)
    for host in HOSTS:
        wider = ", ".join(widened(load_party(work / host / f"{host}.toml").policy))
        step(f"{host} allows more than by default, as its data are made up: {wider}")
    brand, done = work / "brand", []
    auc: dict[str, dict[str, float]] = {}
    with local.relaying(work, PARTIES, step) if options.relay else nullcontext():
        with local.serving({"trustee": work / "trustee"}):
            for host in HOSTS:
                step(f"The brand aligns and trains {with_words(host)} alone")
                aligned, trained = with_one(work, host)
                auc[with_words(host)] = {LATER: trained["metrics"]["federation"]["auc"]}
                done += [aligned, trained]
        with local.serving({party: work / party for party in PARTIES[1:]}):
            step("It aligns with all three and trains with them; the trustee opens sums")
            aligned = local.run(brand, "align", "brand.toml", "--name", "all")
            rows, known = aligned["rows"], aligned["known"]["social"]
            step(
                f"All {rows:,} rows of the brand take part; the social platform knows {known:,} of them"
            )
            later = local.run(brand, "train", "brand.toml", "next-week.toml")
            step("The same, tried on households that train nothing")
            new = local.run(brand, "train", "brand.toml", "new-households.toml")
            step("A linear model while whose fit nobody sees a row's score")
            linear = local.run(brand, "train", "brand.toml", "next-week-linear.toml")
            step("The brand scores its households for the week that comes, which has no label")
            scored = local.run(
                brand,
                *("score", "brand.toml", "--model", later["model"]),
                *("--data", "next_week.csv", "--out", "scores.csv"),
            )
            done += [aligned, later, new, linear, scored]
    local.run(brand, "report", "brand.toml", "--model", later["model"], "--out", "report")
    best = pooled(work)
    auc = {
        ALONE: {},
        **auc,
        ALL: {},
        LINEAR: {LATER: linear["metrics"]["federation"]["auc"]},
        POOLED: {},
    }
    for what, result in ((LATER, later), (NEW, new)):
        auc[ALONE][what] = result["metrics"][ALONE]["auc"]
        auc[ALL][what] = result["metrics"]["federation"]["auc"]
        auc[POOLED][what] = auc_of_lightgbm(best, brand, result["model"])
    sent = local.bytes_sent("brand", HOSTS, done)
    seconds = time.monotonic() - started
    show(auc, sent, seconds, scored["rows"], brand)
    if options.picture is not None:
        draw(auc, options.picture)
    if options.json:
        print(json.dumps({"auc": auc, "bytes_sent": sent, "seconds": seconds}))


def set_up(work: Path, households: int, weeks: int, trees: int | None) -> None:
    """A folder for each party: table, party file, keys, and the others' certificates."""
    local.lay_out(HERE, work, PARTIES)
    make_data.write_tables(work, make_data.make_tables(households, weeks, seed=2027))
    if trees is not None:
        for job in ("next-week", "new-households"):
            local.set_trees(work / "brand" / f"{job}.toml", trees)


def with_words(host: str) -> str:
    """The model of the brand and one holder, in words."""
    return f"with the {_NAMES.get(host, host)}"


def with_one(work: Path, host: str) -> tuple[dict, dict]:
    """The alignment with one host alone, and the trees trained on it."""
    brand, name = work / "brand", f"with-{host}"
    (brand / f"{name}.toml").write_text(without(brand / "brand.toml", set(HOSTS) - {host}))
    with local.serving({host: work / host}):
        aligned = local.run(brand, "align", f"{name}.toml", "--name", name)
        on = ("--alignment", aligned["alignment"])
        return aligned, local.run(brand, "train", f"{name}.toml", "next-week.toml", *on)


def without(file: Path, peers: set[str]) -> str:
    """A party file without the sections of some peers."""
    sections = re.split(r"(?m)^(?=\[)", file.read_text())
    return "".join(
        one for one in sections if not one.startswith(tuple(f"[peers.{name}]" for name in peers))
    )


def card(household: pd.Series) -> pd.Series:
    """The number of a loyalty card, however it is written."""
    return household.astype(str).str.replace(r"[^0-9]", "", regex=True)


def pooled(work: Path) -> pd.DataFrame:
    """All parties' columns in one table, in the order of the brand's rows."""
    table = pd.read_csv(work / "brand" / "weeks.csv")
    table["household"] = card(table["household"])
    for host, file in TABLES.items():
        other = pd.read_csv(work / host / file)
        other["household"] = card(other["household"])
        table = table.merge(other, how="left", on=KEY)
    return table.astype(dict.fromkeys(table.select_dtypes(exclude="number"), "category"))


def auc_of_lightgbm(table: pd.DataFrame, brand: Path, model: str) -> float:
    """LightGBM's on the pooled columns, tried on the rows that a model held out."""
    _, evaluation = load_record(Store(brand / "vfl-store"), model)
    train = ~table.index.isin(evaluation.rows)
    columns, label = table.drop(columns=[*KEY, "buys"]), table["buys"]
    best = lightgbm.LGBMClassifier(
        n_estimators=80, learning_rate=0.08, num_leaves=8, min_child_samples=20, verbose=-1, n_jobs=2
    )
    best.fit(columns[train], label[train])
    probability = best.predict_proba(columns[~train])[:, 1]
    return binary_metrics(label[~train].to_numpy(), probability)["auc"]


def step(what: str) -> None:
    """Say what happens now."""
    Console(stderr=True, highlight=False).print(f"• {what}")


def show(
    auc: Mapping[str, Mapping[str, float]],
    sent: Mapping[str, int],
    seconds: float,
    scored: int,
    brand: Path,
) -> None:
    """The one table."""
    console = Console(highlight=False)
    table = Table(title="who buys next week: AUC")
    table.add_column("model")
    for what in (LATER, NEW):
        table.add_column(f"on {what}", justify="right")
    for name, of in auc.items():
        cells = [f"{of[what]:.3f}" if what in of else "" for what in (LATER, NEW)]
        table.add_row(name, *cells, style="bold" if name == ALL else "")
    console.print(table)
    console.print(f"{seconds:.0f} s in all")
    console.print(
        "bytes sent: " + ", ".join(f"{party} {count / 1e6:.1f} MB" for party, count in sent.items())
    )
    console.print(f"{scored:,} households scored: {brand / 'scores.csv'}", soft_wrap=True)
    console.print(f"a report to open in a browser: {brand / 'report' / 'report.html'}", soft_wrap=True)


def draw(auc: Mapping[str, Mapping[str, float]], file: Path) -> None:
    """The AUC of each model on later weeks, as bars."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 3))
    bars(axes, auc)
    figure.tight_layout()
    figure.savefig(file, dpi=110)


def bars(axes: "Axes", auc: Mapping[str, Mapping[str, float]]) -> None:
    """Bars of the AUC on later weeks, the best at the bottom."""
    names = [name for name, of in auc.items() if LATER in of]
    values = [auc[name][LATER] for name in names]
    shades = {ALONE: "#a9bbea", ALL: "#2b4fa8", LINEAR: "#2b4fa8", POOLED: "#e08a1e"}
    drawn = axes.barh(names, [value - 0.5 for value in values], left=0.5, height=0.7)
    for bar, name, value in zip(drawn, names, values, strict=True):
        bar.set_color(shades.get(name, "#6d89cf"))
        axes.text(value + 0.003, bar.get_y() + bar.get_height() / 2, f"{value:.3f}", va="center")
    axes.invert_yaxis()
    axes.set_xlim(0.5, max(values) + 0.04)
    axes.set_xlabel("AUC on later weeks (0.5: chance)")
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    axes.set_title("Who buys next week", loc="left")


if __name__ == "__main__":
    try:
        main()
    except VflError as error:
        sys.exit(f"{error}; the others' logs are */serve.log in the folder of --work")
