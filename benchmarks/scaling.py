"""How the cost of a tree grows with rows and columns, under Paillier and on the lattice engine.

    python benchmarks/scaling.py --figure docs/images/scaling.svg
    python benchmarks/scaling.py --rows 10000 100000 --columns 5 20 --most-paillier 200000

Each cell is a job of its own (benchmarks/secureboost.py uniform): a guest and a host, each a process,
mutual TLS between them, trees of depth 5 on uniform columns of 32 bins. Rows grow at 20 columns of the
host, columns at 100,000 rows; the guest has five. Paillier is left out beyond --most-paillier cells,
where a tree takes minutes. The figure's axes are logarithmic.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import matplotlib as mpl
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter
from rich.console import Console
from rich.table import Table

HERE = Path(__file__).parent
ROWS, COLUMNS = 100_000, 20
GUEST_COLUMNS = 5
COLOURS = {"paillier": "#b4561f", "lattice": "#1f6fb4"}
NAMES = {"paillier": "Paillier", "lattice": "lattice"}


def main() -> None:
    """Run every job once and print their figures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, nargs="+", default=[10_000, 100_000, 1_000_000, 5_000_000])
    parser.add_argument("--columns", type=int, nargs="+", default=[5, 20, 50, 200])
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
    for heading in ("encryption", "rows", "columns", "a tree, s", "once, s", "MB a tree", "peak MB"):
        table.add_column(heading, justify="left" if heading == "encryption" else "right")
    for one in cells:
        table.add_row(
            one["encryption"],
            f"{one['rows']:,}",
            f"{one['columns']:,}",
            f"{one['seconds_per_tree']:.2f}",
            f"{one['once_s']:.1f}",
            f"{one['mb_per_tree']:.1f}",
            f"{one['guest_peak_mb']:,.0f} / {one['host_peak_mb']:,.0f}",
        )
    Console(highlight=False, width=100).print(table)


def shapes(options: argparse.Namespace) -> Iterator[tuple[str, int, int]]:
    """(encryption, rows, columns of the host) of each job, none of them twice."""
    grid = [(rows, COLUMNS) for rows in options.rows] + [(ROWS, columns) for columns in options.columns]
    for encryption in NAMES:
        for rows, columns in dict.fromkeys(grid):
            if encryption == "lattice" or rows * columns <= options.most_paillier:
                yield encryption, rows, columns


def cell(encryption: str, rows: int, columns: int, trees: int) -> dict:
    """The figures of one job."""
    words = f"uniform --rows {rows} --columns {columns} --guest-columns {GUEST_COLUMNS}"
    words += f" --depth 5 --trees {trees} --encryption {encryption} --engine ot --json"
    command = [sys.executable, str(HERE / "secureboost.py"), *words.split()]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    figures = json.loads(done.stdout)
    peaks = figures["peak_memory_with_workers_mb"]
    return {
        "encryption": encryption,
        "rows": rows,
        "columns": columns,
        "seconds_per_tree": figures["seconds_per_tree"],
        "once_s": figures["other_s"],
        "mb_per_tree": figures["bytes"] / trees / 1e6,
        "guest_peak_mb": peaks["guest"],
        "host_peak_mb": peaks["host"],
    }


def draw(cells: list[dict], path: Path) -> None:
    """Two logarithmic panels: a tree's seconds by rows, and by the host's columns."""
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "vfl", "font.size": 10}):
        figure = Figure(figsize=(9, 3.6), layout="constrained")
        panels = figure.subplots(1, 2)
        for axes, across, fixed, value in (
            (panels[0], "rows", "columns", COLUMNS),
            (panels[1], "columns", "rows", ROWS),
        ):
            for encryption, name in NAMES.items():
                mine = [c for c in cells if c["encryption"] == encryption and c[fixed] == value]
                mine.sort(key=lambda c: c[across])
                if not mine:
                    continue
                places = [c[across] for c in mine]
                seconds = [c["seconds_per_tree"] for c in mine]
                axes.plot(places, seconds, marker="o", color=COLOURS[encryption])
                axes.annotate(
                    name,
                    (places[-1], seconds[-1]),
                    xytext=(-4, 8),
                    textcoords="offset points",
                    ha="right",
                    color=COLOURS[encryption],
                )
            axes.set_xscale("log")
            axes.set_yscale("log")
            axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
            axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
            axes.grid(alpha=0.3)
            axes.spines[["top", "right"]].set_visible(False)
            axes.set_xlabel(
                f"rows, {COLUMNS} columns of the host"
                if across == "rows"
                else f"columns of the host, {ROWS:,} rows"
            )
        panels[0].set_ylabel("seconds a tree of depth 5")
        FigureCanvasSVG(figure).print_svg(path, metadata={"Date": None})


if __name__ == "__main__":
    main()
