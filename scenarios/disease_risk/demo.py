"""Disease risk on this machine: who dies, over columns; who comes back to hospital, over rows.

First a practice, a laboratory and a hospital that hold other columns of the same patients; a trustee
opens sums. Then four hospitals that hold the same columns of other patients; a server without data adds
up what it cannot read. Each party gets a folder of its own and is a process of its own, with mutual TLS
between them. LightGBM on pooled tables, which nobody could train in reality, says what the best possible
result would be.
"""

import argparse
import json
import sys
import time
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

import make_data
import numpy as np
import over_columns
import over_rows
import pandas as pd
from rich.console import Console
from rich.table import Table

from vfl import local
from vfl.errors import VflError
from vfl.party.config import load_party
from vfl.party.policy import widened

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLUMNS, ROWS = "columns", "rows"
_SHADES = {"alone": "#a9bbea", "federated": "#2b4fa8", "pooled": "#e08a1e"}


def main() -> None:
    """Set the parties up, run the jobs, print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument(
        "--work", type=Path, default=Path("build/demo-disease_risk"), help="folder to work in"
    )
    parser.add_argument("--patients", type=int, default=make_data.PATIENTS, help="2,500 or more")
    parser.add_argument("--stays", type=int, default=make_data.STAYS, help="of four hospitals together")
    parser.add_argument("--trees", type=int, help="instead of the job files'")
    parser.add_argument("--part", choices=[COLUMNS, ROWS], help="one of the two alone")
    parser.add_argument("--picture", type=Path, metavar="FILE", help="draw the result, as .png or .svg")
    parser.add_argument("--relay", action="store_true", help="nobody opens a port: all meet at a relay")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON as well")
    options = parser.parse_args()
    started = time.monotonic()
    work = options.work.resolve()
    set_up(work, options.patients, options.stays, options.trees)
    parts = (options.part,) if options.part else (COLUMNS, ROWS)
    found = {}
    for part in parts:
        parties, play = {
            COLUMNS: (over_columns.PARTIES, of_columns),
            ROWS: (over_rows.PARTIES, of_rows),
        }[part]
        with local.relaying(work / part, parties, step) if options.relay else nullcontext():
            found[part] = play(work / part)
    for name, table in found.items():
        show(name, table)
    Console(highlight=False).print(f"{time.monotonic() - started:.0f} s in all")
    say_files(work, parts)
    if options.picture is not None:
        draw(found, options.picture)
    if options.json:
        print(json.dumps({name: table.to_dict("index") for name, table in found.items()}))


def set_up(work: Path, patients: int, stays: int, trees: int | None) -> None:
    """A folder for each party of both parts, with its table."""
    over_columns.set_up(work / COLUMNS, trees)
    over_rows.set_up(work / ROWS, trees)
    make_data.write_tables(work, make_data.make_tables(patients, stays, make_data.SEED))


def of_columns(work: Path) -> pd.DataFrame:
    """Practice, laboratory and hospital: what the models are worth."""
    for host in over_columns.HOSTS:
        wider = ", ".join(widened(load_party(work / host / f"{host}.toml").policy))
        step(f"{host} allows more than by default, as its data are made up: {wider}")
    practice = work / "practice"
    with local.serving({party: work / party for party in over_columns.PARTIES[1:]}):
        step("The practice, the laboratory and the hospital align their patients")
        aligned = local.run(practice, "align", "practice.toml")
        step(f"{aligned['rows']:,} patients are known to all three. Trees of deaths a year")
        trees = over_columns.train(work, over_columns.TREES)
        step("A logistic model of death while whose fit nobody sees a patient's score")
        linear = over_columns.train(work, over_columns.LINEAR)
        step("The practice scores patients of whom it does not know yet")
        files = ("--data", "new_patients.csv", "--out", "scores.csv")
        local.run(practice, "score", "practice.toml", "--model", trees["model"], *files)
    local.run(practice, "report", "practice.toml", "--model", trees["model"], "--out", "report")
    return pd.DataFrame(over_columns.worth(work, trees, linear)).T


def of_rows(work: Path) -> pd.DataFrame:
    """Four hospitals: what the models are worth to each."""
    with local.serving({hospital: work / hospital for hospital in over_rows.HOSPITALS}):
        step("Four hospitals grow trees over the rows of all; the server adds up what it cannot read")
        trees = over_rows.train(work, over_rows.TREES)
        step("And fit a logistic model with standard errors")
        linear = over_rows.train(work, over_rows.LINEAR)
    step("Each hospital scores its own patients alone, with nobody else there")
    for hospital in over_rows.HOSPITALS:
        files = ("--data", "new_stays.csv", "--out", "scores.csv")
        local.run(work / hospital, "score", f"{hospital}.toml", "--model", trees["model"], *files)
    local.run(work / "coast", "report", "coast.toml", "--model", trees["model"], "--out", "report")
    table = over_rows.worth(work, trees["model"])
    of_linear = over_rows.worth(work, linear["model"])
    table["linear"] = of_linear[over_rows.FEDERATED]
    return table


def step(what: str) -> None:
    """Say what happens now."""
    Console(stderr=True, highlight=False).print(f"• {what}")


def show(part: str, found: pd.DataFrame) -> None:
    """One of the two tables."""
    title = {
        COLUMNS: "who dies, on patients held out",
        ROWS: "who comes back: AUC on own stays",
    }
    table = Table(title=title[part])
    table.add_column("model" if part == COLUMNS else "hospital")
    for name in found:
        table.add_column(str(name), justify="right")
    for name, values in found.iterrows():
        cells = [
            "" if np.isnan(value) else f"{value:,.0f}" if key == "stays" else f"{value:.3f}"
            for key, value in values.items()
        ]
        table.add_row(str(name), *cells, style="bold" if name == over_columns.ALL else "")
    Console(highlight=False).print(table)


def say_files(work: Path, parts: tuple[str, ...]) -> None:
    """Where scores and reports are."""
    for part, party in ((COLUMNS, "practice"), (ROWS, "coast")):
        if part in parts:
            page = work / part / party / "report" / "report.html"
            Console(highlight=False).print(f"a report to open in a browser: {page}", soft_wrap=True)


def draw(found: dict[str, pd.DataFrame], file: Path) -> None:
    """What the models are worth, as bars: over columns on the left, over rows on the right."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, len(found), figsize=(4.6 * len(found), 3), squeeze=False)
    for place, (part, table) in enumerate(found.items()):
        (bars_of_columns if part == COLUMNS else bars_of_rows)(axes[0, place], table)
    figure.tight_layout()
    figure.savefig(file, dpi=110)


def bars_of_columns(axes: "Axes", table: pd.DataFrame) -> None:
    """The deviance of deaths a year that each model explains."""
    values = table[over_columns.RATE]
    drawn = axes.barh([*values.index], values, height=0.6, color=[*_SHADES.values()])
    for bar, value in zip(drawn, values, strict=True):
        axes.text(value + 0.004, bar.get_y() + bar.get_height() / 2, f"{value:.3f}", va="center")
    axes.invert_yaxis()
    axes.set_xlim(0, max(values) * 1.2)
    axes.set_xlabel("deviance explained")
    axes.set_title("Deaths a year: other columns", loc="left")
    _without_frame(axes)


def bars_of_rows(axes: "Axes", table: pd.DataFrame) -> None:
    """The AUC of each hospital, alone, federated and pooled."""
    for place, (model, shade) in enumerate(_SHADES.items()):
        at = [number + (place - 1) * 0.27 for number in range(len(table))]
        axes.bar(at, table[model] - 0.5, width=0.25, bottom=0.5, color=shade, label=model)
    axes.set_xticks(range(len(table)), [*table.index])
    axes.set_ylim(0.5, float(table[[*_SHADES]].to_numpy().max()) + 0.06)
    axes.set_ylabel("AUC (0.5: chance)")
    axes.legend(frameon=False, ncols=3, loc="upper right", fontsize="small")
    axes.set_title("Who comes back: other rows", loc="left")
    _without_frame(axes)


def _without_frame(axes: "Axes") -> None:
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


if __name__ == "__main__":
    try:
        main()
    except VflError as error:
        sys.exit(f"{error}; the others' logs are */*/serve.log in the folder of --work")
