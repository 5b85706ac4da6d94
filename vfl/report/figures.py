"""The figures of a report: arrays in, SVG out.

Text stays text, in the page's font. Colours are the page's CSS variables, so that a figure follows the
theme; series differ by marker, dash or place as well. Every function takes the figure's message in
words, which is its label for who cannot see it.
"""

import io
import math
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from xml.etree import ElementTree

import matplotlib as mpl
import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator
from numpy.typing import ArrayLike

from vfl.arrays import Floats
from vfl.report.words import RateWords
from vfl.text import shown

FactorGroups = tuple[Sequence[float], Sequence[float]]

_WIDTH, _HEIGHT, _TALL = 360, 270, 345  # units of the SVG: pixels on a phone, as wide as the page
_POINTS_PER_INCH = 72
_BELOW, _BESIDE = 16, 24  # characters of a name below an axis and beside one
_ROOM = 42  # characters that names below an axis can have together, side by side
_CORNER = 9  # below a horizontal axis, clear of the other axis's number in the corner
_FLAT = 0.05  # a range of this share of the mean fills the axis; smaller ones do not, and look flat

# What matplotlib draws with, and the variable of the page that takes its place.
_NAMES = ("ink", "muted", "grid", "ours", "theirs", "third", "fourth", "fifth", "bar", "surface")
_COLOUR = {name: f"#0000{number:02x}" for number, name in enumerate(_NAMES, start=1)}
_VARIABLES = {code: f"var(--{name})" for name, code in _COLOUR.items()}
_PARTIES = [_COLOUR[name] for name in ("ours", "theirs", "third", "fourth", "fifth")]

_Style = Mapping[str, Any]
_ACTUAL: _Style = {
    "color": _COLOUR["ink"],
    "marker": "o",
    "markersize": 5,
    "linewidth": 1.9,
    "zorder": 5,
}
_OURS: _Style = {
    "color": _COLOUR["ours"],
    "marker": "s",
    "markersize": 5,
    "markerfacecolor": _COLOUR["surface"],
    "markeredgewidth": 1.6,
    "linewidth": 1.9,
    "zorder": 4,
}
_THEIRS: _Style = {
    "color": _COLOUR["theirs"],
    "marker": "^",
    "markersize": 5.5,
    "linewidth": 1.7,
    "linestyle": (0, (4, 2)),
    "zorder": 3,
}
_RULE: _Style = {"color": _COLOUR["muted"], "linewidth": 1.1, "linestyle": (0, (1, 2)), "zorder": 2}
_BARE: _Style = {"marker": ""}

_SETTINGS: Any = {
    "svg.fonttype": "none",
    "text.parse_math": False,  # a name may hold dollars
    "font.family": "DejaVu Sans",
    "font.size": 11.5,
    "axes.labelsize": 11.5,
    "xtick.labelsize": 11,
    "ytick.labelsize": 11,
    "legend.fontsize": 11.5,
    "text.color": _COLOUR["ink"],
    "axes.labelcolor": _COLOUR["muted"],
    "xtick.color": _COLOUR["muted"],
    "ytick.color": _COLOUR["muted"],
    "axes.edgecolor": _COLOUR["grid"],
    "grid.color": _COLOUR["grid"],
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "axes.axisbelow": True,
    "axes.facecolor": "none",
    "figure.facecolor": "none",
    "legend.frameon": False,
}
_REFERENCE = re.compile(r"""(?:href="|url\()#([^")]+)""")
_DECIMALS = re.compile(r"-?\d+\.\d+")
_ATTRIBUTES = frozenset(
    (
        *("id", "d", "x", "y", "width", "height", "transform", "viewBox", "href", "clip-path"),
        *("fill", "fill-opacity", "stroke", "stroke-width", "stroke-dasharray", "stroke-dashoffset"),
        *("stroke-opacity", "opacity", "font-size", "text-anchor"),
    )
)


def roc(curves: Mapping[str, tuple[ArrayLike, ArrayLike]], message: str) -> str:
    """ROC curves by model, ours first: (false positive rate, true positive rate)."""
    return _curves(curves, "false positive rate", "true positive rate", "chance", message)


def lorenz(curves: Mapping[str, tuple[ArrayLike, ArrayLike]], size: str, what: str, message: str) -> str:
    """Lorenz curves by model, ours first: (share of the size, share of what happened)."""
    x = f"share of {size}, lowest expected first"
    return _curves(curves, x, f"share of {what}", "no order", message)


def lift(
    ours: FactorGroups, theirs: FactorGroups, size: str, names: tuple[str, str], message: str
) -> str:
    """Lift by group of each model's own order: (share of the size, lift) of groups, lowest first."""
    with _drawing(message, _TALL) as drawing:
        axes = drawing.figure.add_subplot()
        middles, widths = _stretches(ours[0])
        axes.bar(middles, ours[1], width=widths * 0.84, color=_COLOUR["ours"], label=names[0])
        axes.plot(_stretches(theirs[0])[0], theirs[1], label=names[1], **_THEIRS)
        axes.axhline(1, **_RULE)
        _plain(axes, f"share of {size}, lowest expected first", "times the average")
        _shares(axes)
        drawing.legend(names)
    return drawing.svg


def double_lift(
    shares: Sequence[float],
    actual: Sequence[float],
    ours: Sequence[float],
    theirs: Sequence[float],
    names: tuple[str, str],
    rate: RateWords,
    message: str,
) -> str:
    """Rates by group of the ratio of two predictions; `shares` are the groups' of their sizes."""
    with _drawing(message, _TALL) as drawing:
        axes = drawing.figure.add_subplot()
        middles, _ = _stretches(shares)
        axes.plot(middles, actual, label="actual", **_ACTUAL)
        axes.plot(middles, ours, label=names[0], **_OURS)
        axes.plot(middles, theirs, label=names[1], **_THEIRS)
        _plain(axes, f"share of {rate.size}, by ratio of both", rate.name, rate.percent)
        _shares(axes)
        drawing.legend()
    return drawing.svg


def calibration(models: Mapping[str, FactorGroups], rate: str, percent: bool, message: str) -> str:
    """Groups of each model, ours first: (expected rate, actual rate)."""
    with _drawing(message, _TALL) as drawing:
        axes = drawing.figure.add_subplot()
        values = [value for groups in models.values() for side in groups for value in side]
        known = [0.0, *(value for value in values if math.isfinite(value))]
        low, high = min(known), max(known)
        margin = 0.04 * (high - low or 1.0)
        ends = (low - margin * (low < 0), high + margin)
        for (name, (expected, actual)), style in zip(models.items(), (_OURS, _THEIRS), strict=True):
            axes.plot(expected, actual, label=name, **style)
        axes.plot(ends, ends, label="exact", **_RULE)
        _plain(axes, f"expected {rate}", f"actual {rate}", percent)
        _square(axes, ends)
        axes.xaxis.set_major_locator(_ticks())
        axes.yaxis.set_major_locator(_ticks())
        axes.xaxis.set_major_formatter(_percent if percent else _short)
        drawing.legend()
    return drawing.svg


def factor(
    levels: Sequence[str],
    actual: Sequence[float],
    expected: Sequence[float],
    sizes: Sequence[float],
    size: str,
    rate: str,
    percent: bool,
    message: str,
) -> str:
    """Actual and expected rate by level of a factor, its size (exposure or rows) as bars below."""
    with _drawing(message, _TALL) as drawing:
        axes = _over_bars(drawing.figure, levels, sizes, size)
        places = range(len(levels))
        axes.plot(places, actual, label="actual", **_ACTUAL)
        axes.plot(places, expected, label="expected", **_OURS)
        _plain(axes, "", rate, percent)
        _no_flatter(axes, [*actual, *expected])
        drawing.legend()
    return drawing.svg


def relativities(
    levels: Sequence[str], values: Sequence[float], rows: Sequence[int], name: str, message: str
) -> str:
    """Relativity (or coefficient) by level, rows as bars below."""
    with _drawing(message, _TALL) as drawing:
        axes = _over_bars(drawing.figure, levels, rows, "rows")
        axes.axhline(0 if name == "coefficient" else 1, **_RULE)
        axes.plot(range(len(levels)), values, **_OURS)
        _plain(axes, "", name)
        _no_flatter(axes, values)
    return drawing.svg


def dependence(
    grid: Sequence[float] | Sequence[str],
    values: Sequence[float],
    missing: float | None,
    limits: tuple[float, float],
    rate: str,
    percent: bool,
    message: str,
) -> str:
    """Prediction by the value of a column: steps over numbers, points over levels.

    `missing` is that of a missing number; None draws none. `limits` of the predictions are those of all
    columns, so that the columns' effects compare.
    """
    with _drawing(message) as drawing:
        axes = drawing.figure.add_subplot()
        if isinstance(grid[0], str):
            axes.plot(range(len(grid)), values, **{**_OURS, "linestyle": "none"})
            _levels(axes, [str(level) for level in grid])
        else:
            axes.step(grid, values, where="post", label="known", **{**_OURS, **_BARE})
            axes.xaxis.set_major_locator(_ticks())
            axes.xaxis.set_major_formatter(_short)
            if missing is not None:
                axes.axhline(missing, label="missing", **{**_THEIRS, **_BARE})
                drawing.legend()
        _plain(axes, "", rate, percent)
        margin = 0.06 * (limits[1] - limits[0]) or 0.06 * abs(limits[0]) or 1.0
        axes.set_ylim(limits[0] - margin, limits[1] + margin)
    return drawing.svg


def importance(
    rows: Sequence[tuple[str, str, float]], parties: Sequence[str], unit: str, message: str
) -> str:
    """Bars of (party, column, value), in the order given, coloured by party; of many, with its name."""
    many = len(parties) > len(_PARTIES)
    legend = len(parties) > 1 and not many
    with _drawing(message, height=58 + 22 * len(rows) + 36 * legend) as drawing:
        axes = drawing.figure.add_subplot()
        for place, (party, _, value) in enumerate(rows):
            colour = _PARTIES[0 if many else parties.index(party)]
            axes.barh(-place, value, color=colour, height=0.68, label=party)
        names = [f"{name} ({party})" if many else name for party, name, _ in rows]
        axes.set_yticks([-place for place in range(len(rows))])
        axes.set_yticklabels([shown(name, _BESIDE) for name in names])
        axes.set_ylim(0.6 - len(rows), 0.6)
        axes.set_xlabel(unit)
        axes.xaxis.set_major_locator(_ticks())
        axes.xaxis.set_major_formatter(_short)
        axes.tick_params(length=0)
        axes.tick_params(axis="y", labelcolor=_COLOUR["ink"])
        axes.grid(axis="x", linewidth=0.8)
        axes.spines["bottom"].set_visible(False)
        if legend:
            drawing.legend(parties)
    return drawing.svg


def bars(rows: Sequence[tuple[str, float]], unit: str, message: str) -> str:
    """Bars of (name, value), in the order given."""
    return importance([("", name, value) for name, value in rows], [""], unit, message)


def curve(lines: Mapping[str, Sequence[float]], unit: str, measure: str, message: str) -> str:
    """The loss by tree or iteration, of the rows that train first; a gradient alone on a log scale."""
    with _drawing(message) as drawing:
        axes = drawing.figure.add_subplot()
        for (name, values), style in zip(lines.items(), (_OURS, _THEIRS), strict=False):
            axes.plot(range(1, len(values) + 1), values, label=name, **{**style, **_BARE})
        _plain(axes, unit, measure)
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        if "gradient" in lines and min(lines["gradient"]) > 0:
            axes.set_yscale("log")
            axes.yaxis.set_major_locator(LogLocator(numticks=6))
            axes.yaxis.set_major_formatter(lambda value, _: f"1e{math.log10(value):.0f}")
            axes.minorticks_off()
        if len(lines) > 1:
            drawing.legend()
    return drawing.svg


@dataclass
class _Drawing:
    figure: Figure
    svg: str = ""  # once it is done

    def legend(self, order: Sequence[str] = ()) -> None:
        """Above all axes; one entry a name, those of `order` in this order."""
        (axes, *_) = self.figure.axes
        found: dict[str, Artist] = {}
        for handle, name in zip(*axes.get_legend_handles_labels(), strict=True):
            found.setdefault(name, handle)
        names = [name for name in order or found if name in found]
        handles = [found[name] for name in names]
        self.figure.legend(
            handles,
            [shown(name, _BELOW) for name in names],
            loc="outside upper left",
            ncols=3,
            handlelength=1.9,
            columnspacing=1.1,
            handletextpad=0.5,
            borderaxespad=0.1,
        )


@contextmanager
def _drawing(message: str, height: float = _HEIGHT) -> Iterator[_Drawing]:
    """A figure to draw into; its SVG is there at the end."""
    # A salt of its own makes the ids of a figure differ from those of the page's other ones.
    with mpl.rc_context({**_SETTINGS, "svg.hashsalt": message}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from", UserWarning)  # the page has others
        drawing = _Drawing(
            Figure((_WIDTH / _POINTS_PER_INCH, height / _POINTS_PER_INCH), layout="constrained")
        )
        yield drawing
        text = io.StringIO()
        # Not savefig, which draws twice.
        FigureCanvasSVG(drawing.figure).print_svg(text, metadata={"Date": None})  # type: ignore[no-untyped-call]
    drawing.svg = _for_page(text.getvalue(), message)


def _for_page(text: str, message: str) -> str:
    """matplotlib's SVG as an element of the page: presentation attributes in place of styles, which the
    page's policy forbids, the theme's colours, and no id but those referred to."""
    root = ElementTree.fromstring(text)  # noqa: S314 - made by matplotlib a moment ago
    message = shown(message)
    _tidy(root, set(_REFERENCE.findall(text)))
    root.attrib = {
        "viewBox": root.attrib["viewBox"],
        "role": "img",
        "aria-label": message,
        "class": "chart",
    }
    return ElementTree.tostring(root, encoding="unicode")


def _tidy(element: ElementTree.Element, referred: set[str]) -> None:
    element.tag = element.tag.rpartition("}")[2]
    attributes = {name.rpartition("}")[2]: value for name, value in element.attrib.items()}
    for part in attributes.pop("style", "").split(";"):
        name, _, value = (piece.strip() for piece in part.partition(":"))
        if name == "font":
            name, value = "font-size", next(word for word in value.split() if word.endswith("px"))
        attributes[name] = value
    if attributes.get("id") not in referred:
        attributes.pop("id", None)
    if attributes.get("transform", "").startswith("rotate(-0 "):
        del attributes["transform"]
    element.attrib = {
        name: _attribute(name, value) for name, value in attributes.items() if name in _ATTRIBUTES
    }
    if element.tag != "text":
        element.text = None
    element.tail = None
    for child in list(element):
        _tidy(child, referred)
        unseen = child.tag == "path" and child.get("fill") == "none" and child.get("stroke") is None
        empty = child.tag in ("g", "defs") and not len(child)
        if unseen or empty or child.tag in ("metadata", "style"):
            element.remove(child)


def _attribute(name: str, value: str) -> str:
    if name in ("d", "x", "y", "transform"):
        return _DECIMALS.sub(lambda found: f"{float(found[0]):.2f}".rstrip("0").rstrip("."), value)
    return _VARIABLES.get(value, value.removesuffix("px"))


def _curves(
    curves: Mapping[str, tuple[ArrayLike, ArrayLike]], x: str, y: str, diagonal: str, message: str
) -> str:
    with _drawing(message, _TALL) as drawing:
        axes = drawing.figure.add_subplot()
        for (name, points), style in zip(curves.items(), (_OURS, _THEIRS), strict=True):
            axes.plot(*points, label=name, **{**style, **_BARE})
        axes.plot([0, 1], [0, 1], label=diagonal, **_RULE)
        _plain(axes, x, y, percent=True)
        _square(axes, (0, 1))
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_ticks([0, 0.25, 0.5, 0.75, 1])
        axes.xaxis.set_major_formatter(_percent)
        drawing.legend()
    return drawing.svg


def _square(axes: Axes, ends: tuple[float, float]) -> None:
    axes.set_xlim(*ends)
    axes.set_ylim(*ends)
    axes.set_aspect("equal")
    axes.tick_params(axis="x", pad=_CORNER)
    axes.grid(axis="x", linewidth=0.8)


def _stretches(shares: Sequence[float]) -> tuple[Floats, Floats]:
    """Where groups one after the other have their middles, and how wide they are."""
    widths = np.array(shares)
    return np.cumsum(widths) - widths / 2, widths


def _shares(axes: Axes) -> None:
    """The horizontal axis is of shares of all."""
    axes.set_xlim(0, 1)
    axes.tick_params(axis="x", pad=_CORNER)
    axes.set_xticks([0, 0.2, 0.4, 0.6, 0.8, 1])
    axes.xaxis.set_major_formatter(_percent)


def _over_bars(figure: Figure, levels: Sequence[str], sizes: Sequence[float], unit: str) -> Axes:
    """Axes above bars of the levels' sizes, whose names are below both."""
    above: Axes
    below: Axes
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(3.2, 1))
    below.bar(range(len(levels)), sizes, color=_COLOUR["bar"], width=0.72)
    _plain(below, "", unit)
    below.yaxis.set_major_locator(_ticks(2))
    _levels(below, levels)
    above.tick_params(labelbottom=False)
    figure.align_ylabels([above, below])
    return above


def _levels(axes: Axes, levels: Sequence[str]) -> None:
    """Names below an axis, upright where they would meet."""
    names = [shown(level, _BELOW) for level in levels]
    upright = max(map(len, names)) * len(names) > _ROOM
    axes.set_xticks(range(len(names)), names, rotation=90 if upright else 0)
    axes.set_xlim(-0.6, len(levels) - 0.4)


def _plain(axes: Axes, x: str, y: str, percent: bool = False) -> None:
    """Names and numbers of the axes, horizontal lines."""
    axes.set_xlabel(x)
    axes.set_ylabel(shown(y, 2 * _BESIDE))
    axes.grid(axis="y", linewidth=0.8)
    axes.tick_params(length=0, pad=5)
    axes.yaxis.set_major_locator(_ticks())
    axes.yaxis.set_major_formatter(_percent if percent else _short)


def _no_flatter(axes: Axes, values: Sequence[float]) -> None:
    """What hardly changes shall not fill the height."""
    low, high = axes.get_ylim()
    least = _FLAT * abs(float(np.mean(values)))
    if high - low < least < math.inf:
        middle = (low + high) / 2
        axes.set_ylim(middle - least / 2, middle + least / 2)


def _ticks(most: int = 6) -> MaxNLocator:
    return MaxNLocator(most, steps=[1, 2, 2.5, 5, 10])


@FuncFormatter
def _percent(value: float, _: int | None) -> str:
    return f"{100 * value:.4g} %".replace("-", "−")


@FuncFormatter
def _short(value: float, _: int | None) -> str:
    """12000 as 12k, 0.15 as it is."""
    for size, least, letter in ((1e9, 1e9, "bn"), (1e6, 1e6, "m"), (1e3, 1e4, "k")):
        if abs(value) >= least:
            return f"{value / size:.4g}{letter}".replace("-", "−")
    return f"{value:.4g}".replace("-", "−")
