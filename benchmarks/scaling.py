"""How the cost of a tree grows with rows, columns and hosts, under Paillier and on the lattice engine.

    python benchmarks/scaling.py --figure docs/images/scaling.svg
    python benchmarks/scaling.py --rows 10000 100000 --columns 5 20 --hosts 1 --most-paillier 200000

Each cell is a job of its own (benchmarks/secureboost.py uniform): a guest and hosts, each a process,
mutual TLS between them, trees of depth 5 on uniform columns of 32 bins; then LightGBM on the pooled
columns. Rows grow at 20 columns of one host, columns and hosts at 100,000 rows; the guest has five
columns. Paillier, of one host, is left out beyond --most-paillier cells, where a tree takes minutes. The
figure's axes are logarithmic.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullLocator
from rich.console import Console
from rich.table import Table

HERE = Path(__file__).parent
HEADINGS = (
    "encryption",
    "rows",
    "columns",
    "hosts",
    "a tree, s",
    "LightGBM, s",
    "times",
    "once, s",
    "MB a tree",
    "peak MB",
)
ROWS, COLUMNS = 100_000, 20
GUEST_COLUMNS = 5
COLOURS = {"paillier": "#b4561f", "lattice": "#1f6fb4", "lightgbm": "#2f8f5b"}
NAMES = {"paillier": "Paillier", "lattice": "lattice", "lightgbm": "LightGBM, pooled"}


def main() -> None:
    """Run every job once and print their figures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, nargs="+", default=[10_000, 100_000, 1_000_000, 5_000_000])
    parser.add_argument("--columns", type=int, nargs="+", default=[5, 20, 50, 200])
    parser.add_argument("--hosts", type=int, nargs="+", default=[1, 2, 3, 5])
    parser.add_argument("--trees", type=int, default=3)
    parser.add_argument(
        "--most-paillier", type=int, default=2_000_000, help="cells (rows x columns) under Paillier"
    )
    parser.add_argument("--figure", type=Path, help="draw the growth into this file")
    parser.add_argument("--json", action="store_true", help="print the figures by name instead")
    options = parser.parse_args()
    cells = [cell(*shape, options.trees) for shape in shapes(options)]
    if options.figure is not None:
        draw(cells, options.figure)
    if options.json:
        print(json.dumps({"cells": cells}))
        return
    table = Table(title=f"seconds a tree of depth 5, medians of {options.trees} trees")
    for heading in HEADINGS:
        table.add_column(heading, justify="left" if heading == "encryption" else "right")
    for one in cells:
        table.add_row(
            one["encryption"],
            f"{one['rows']:,}",
            f"{one['columns']:,}",
            f"{one['hosts']}",
            f"{one['seconds_per_tree']:.2f}",
            f"{one['lightgbm_s_per_tree']:.4f}",
            f"{one['seconds_per_tree'] / one['lightgbm_s_per_tree']:.1f}",
            f"{one['once_s']:.1f}",
            f"{one['mb_per_tree']:.1f}",
            f"{one['guest_peak_mb']:,.0f} / {one['host_peak_mb']:,.0f}",
        )
    Console(highlight=False, width=120).print(table)


def shapes(options: argparse.Namespace) -> Iterator[tuple[str, int, int, int]]:
    """(encryption, rows, columns of each host, hosts) of each job, none of them twice."""
    grid = [(rows, COLUMNS, 1) for rows in options.rows]
    grid += [(ROWS, columns, 1) for columns in options.columns]
    grid += [(ROWS, COLUMNS, hosts) for hosts in options.hosts]
    for encryption in ("paillier", "lattice"):
        for rows, columns, hosts in dict.fromkeys(grid):
            few = rows * columns <= options.most_paillier and hosts == 1
            if encryption == "lattice" or few:
                yield encryption, rows, columns, hosts


def cell(encryption: str, rows: int, columns: int, hosts: int, trees: int) -> dict:
    """The figures of one job."""
    words = f"uniform --rows {rows} --columns {columns} --guest-columns {GUEST_COLUMNS} --hosts {hosts}"
    words += f" --depth 5 --trees {trees} --encryption {encryption} --engine ot --lightgbm --json"
    command = [sys.executable, str(HERE / "secureboost.py"), *words.split()]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    figures = json.loads(done.stdout)
    peaks = figures["peak_memory_with_workers_mb"]
    return {
        "encryption": encryption,
        "rows": rows,
        "columns": columns,
        "hosts": hosts,
        "seconds_per_tree": figures["seconds_per_tree"],
        "lightgbm_s_per_tree": figures["lightgbm_s_per_tree"],
        "once_s": figures["other_s"],
        "mb_per_tree": figures["bytes"] / trees / 1e6,
        "guest_peak_mb": peaks["guest"],
        "host_peak_mb": max(peak for party, peak in peaks.items() if party != "guest"),
    }


PANELS = {
    "rows": f"rows, {COLUMNS} columns of one host",
    "columns": f"columns of one host, {ROWS:,} rows",
    "hosts": f"hosts, {COLUMNS} columns each, {ROWS:,} rows",
}
FIXED = {"rows": ROWS, "columns": COLUMNS, "hosts": 1}


def draw(cells: list[dict], path: Path) -> None:
    """Three logarithmic panels: a tree's seconds by rows, by a host's columns and by hosts."""
    context = {"svg.fonttype": "none", "svg.hashsalt": "vfl", "font.size": 10}
    with mpl.rc_context(context | {"savefig.facecolor": "white"}):
        figure = Figure(figsize=(11, 3.8), layout="constrained")
        panels = figure.subplots(1, 3, sharey=True)
        for axes, across in zip(panels, PANELS, strict=True):
            of_panel = [
                one
                for one in cells
                if all(one[name] == value for name, value in FIXED.items() if name != across)
            ]
            draw_panel(axes, sorted(of_panel, key=lambda one: one[across]), across)
        panels[0].set_ylabel("seconds a tree of depth 5")
        handles, labels = panels[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper center", ncols=3, frameon=False)
        FigureCanvasSVG(figure).print_svg(path, metadata={"Date": None})


def draw_panel(axes: Axes, cells: list[dict], across: str) -> None:
    """A line for each encryption, and one for LightGBM."""
    lattice = [one for one in cells if one["encryption"] == "lattice"]
    paillier = [one for one in cells if one["encryption"] == "paillier"]
    lines = {
        "paillier": [(one[across], one["seconds_per_tree"]) for one in paillier],
        "lattice": [(one[across], one["seconds_per_tree"]) for one in lattice],
        "lightgbm": [(one[across], one["lightgbm_s_per_tree"]) for one in lattice],
    }
    for name, points in lines.items():
        if points:
            axes.plot(*zip(*points, strict=True), marker="o", color=COLOURS[name], label=NAMES[name])
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xticks(sorted({one[across] for one in cells}))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_xlabel(PANELS[across])


if __name__ == "__main__":
    main()
