"""The figures of a report: arrays in, SVG out.

Series differ by marker, dash or place as well as by colour. Every function takes the figure's message in
words, which is its label for who cannot see it.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator
from numpy.typing import ArrayLike

from vfl.arrays import Floats
from vfl.learn.bootstrap import Estimate
from vfl.report.svg import BELOW, COLOUR, TALL, drawing
from vfl.report.words import RateWords
from vfl.text import shown

EstimatedGroups = tuple[Sequence[float], Sequence[Estimate]]
Bands = Mapping[str, tuple[Floats, Floats, Floats] | None]
"""By curve where its intervals are, and their ends; none where they are not known."""

_BESIDE = 24  # characters of a name beside an axis
_ROOM = 42  # characters that names below an axis can have together, side by side
_CORNER = 9  # below a horizontal axis, clear of the other axis's number in the corner
_PALE = 0.16  # how much of its colour a band has
_FLAT = 0.05  # a range of this share of the mean fills the axis; smaller ones do not, and look flat

_PARTIES = [COLOUR[name] for name in ("ours", "theirs", "third", "fourth", "fifth")]

_Style = Mapping[str, Any]
_ACTUAL: _Style = {
    "color": COLOUR["ink"],
    "marker": "o",
    "markersize": 5,
    "linewidth": 1.9,
    "zorder": 5,
}
_OURS: _Style = {
    "color": COLOUR["ours"],
    "marker": "s",
    "markersize": 5,
    "markerfacecolor": COLOUR["surface"],
    "markeredgewidth": 1.6,
    "linewidth": 1.9,
    "zorder": 4,
}
_THEIRS: _Style = {
    "color": COLOUR["theirs"],
    "marker": "^",
    "markersize": 5.5,
    "linewidth": 1.7,
    "linestyle": (0, (4, 2)),
    "zorder": 3,
}
_RULE: _Style = {"color": COLOUR["muted"], "linewidth": 1.1, "linestyle": (0, (1, 2)), "zorder": 2}
_BARE: _Style = {"marker": ""}


def roc(curves: Mapping[str, tuple[ArrayLike, ArrayLike]], bands: Bands, message: str) -> str:
    """ROC curves by model, ours first: (false positive rate, true positive rate)."""
    return _curves(curves, bands, "false positive rate", "true positive rate", "chance", message)


def lorenz(
    curves: Mapping[str, tuple[ArrayLike, ArrayLike]], bands: Bands, size: str, what: str, message: str
) -> str:
    """Lorenz curves by model, ours first: (share of the size, share of what happened)."""
    x = f"share of {size}, lowest expected first"
    return _curves(curves, bands, x, f"share of {what}", "no order", message)


def lift(
    ours: EstimatedGroups, theirs: EstimatedGroups, size: str, names: tuple[str, str], message: str
) -> str:
    """Lift by group of each model's own order: (share of the size, lift) of groups, lowest first."""
    with drawing(message, TALL) as drawn:
        axes = drawn.figure.add_subplot()
        middles, widths = _stretches(ours[0])
        values, others = ([one.value for one in groups[1]] for groups in (ours, theirs))
        axes.bar(middles, values, width=widths * 0.84, color=COLOUR["bar"], label=names[0])
        _whiskers(axes, middles, ours[1])
        axes.plot(_stretches(theirs[0])[0], others, label=names[1], **_THEIRS)
        _whiskers(axes, _stretches(theirs[0])[0], theirs[1], COLOUR["theirs"])
        axes.axhline(1, **_RULE)
        _plain(axes, f"share of {size}, lowest expected first", "times the average")
        _shares(axes)
        drawn.legend(names)
    return drawn.svg


def double_lift(
    shares: Sequence[float],
    actual: Sequence[Estimate],
    ours: Sequence[float],
    theirs: Sequence[float],
    names: tuple[str, str],
    rate: RateWords,
    message: str,
) -> str:
    """Rates by group of the ratio of two predictions; `shares` are the groups' of their sizes."""
    with drawing(message, TALL) as drawn:
        axes = drawn.figure.add_subplot()
        middles, _ = _stretches(shares)
        axes.plot(middles, [one.value for one in actual], label="actual", **_ACTUAL)
        _whiskers(axes, middles, actual)
        axes.plot(middles, ours, label=names[0], **_OURS)
        axes.plot(middles, theirs, label=names[1], **_THEIRS)
        _plain(axes, f"share of {rate.size}, by ratio of both", rate.name, rate.percent)
        _shares(axes)
        drawn.legend()
    return drawn.svg


def calibration(models: Mapping[str, EstimatedGroups], rate: str, percent: bool, message: str) -> str:
    """Groups of each model, ours first: (expected rate, actual rate)."""
    with drawing(message, TALL) as drawn:
        axes = drawn.figure.add_subplot()
        values = [value for groups in models.values() for value in groups[0]]
        values += [value for groups in models.values() for one in groups[1] for value in one]
        known = [0.0, *(value for value in values if math.isfinite(value))]
        low, high = min(known), max(known)
        margin = 0.04 * (high - low or 1.0)
        ends = (low - margin * (low < 0), high + margin)
        for (name, (expected, actual)), style in zip(models.items(), (_OURS, _THEIRS), strict=True):
            axes.plot(expected, [one.value for one in actual], label=name, **style)
            _whiskers(axes, expected, actual, style["color"])
        axes.plot(ends, ends, label="exact", **_RULE)
        _plain(axes, f"expected {rate}", f"actual {rate}", percent)
        _square(axes, ends)
        axes.xaxis.set_major_locator(_ticks())
        axes.yaxis.set_major_locator(_ticks())
        axes.xaxis.set_major_formatter(_percent if percent else _short)
        drawn.legend()
    return drawn.svg


def factor(
    levels: Sequence[str],
    actual: Sequence[Estimate],
    expected: Sequence[float],
    sizes: Sequence[float],
    size: str,
    rate: str,
    percent: bool,
    message: str,
) -> str:
    """Actual and expected rate by level of a factor, its size (exposure or rows) as bars below."""
    with drawing(message, TALL) as drawn:
        axes = _over_bars(drawn.figure, levels, sizes, size)
        places = range(len(levels))
        axes.plot(places, [one.value for one in actual], label="actual", **_ACTUAL)
        _whiskers(axes, places, actual)
        axes.plot(places, expected, label="expected", **_OURS)
        _plain(axes, "", rate, percent)
        _no_flatter(axes, [*(one.value for one in actual), *expected])
        drawn.legend()
    return drawn.svg


def relativities(
    levels: Sequence[str], values: Sequence[float], rows: Sequence[int], name: str, message: str
) -> str:
    """Relativity (or coefficient) by level, rows as bars below."""
    with drawing(message, TALL) as drawn:
        axes = _over_bars(drawn.figure, levels, rows, "rows")
        axes.axhline(0 if name == "coefficient" else 1, **_RULE)
        axes.plot(range(len(levels)), values, **_OURS)
        _plain(axes, "", name)
        _no_flatter(axes, values)
    return drawn.svg


def bend(
    grid: Sequence[float], values: Sequence[float], missing: float | None, name: str, message: str
) -> str:
    """Relativity (or coefficient) by the value of a column that is a curve; `missing`: of a missing
    number, if it has a level."""
    with drawing(message) as drawn:
        axes = drawn.figure.add_subplot()
        axes.axhline(0 if name == "coefficient" else 1, **_RULE)
        axes.plot(grid, values, label="known", **_OURS)
        axes.xaxis.set_major_locator(_ticks())
        axes.xaxis.set_major_formatter(_short)
        if missing is not None:
            axes.axhline(missing, label="missing", **{**_THEIRS, **_BARE})
            drawn.legend()
        _plain(axes, "", name)
        _no_flatter(axes, [*values, *([] if missing is None else [missing])])
    return drawn.svg


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
    with drawing(message) as drawn:
        axes = drawn.figure.add_subplot()
        if isinstance(grid[0], str):
            axes.plot(range(len(grid)), values, **{**_OURS, "linestyle": "none"})
            _levels(axes, [str(level) for level in grid])
        else:
            axes.step(grid, values, where="post", label="known", **{**_OURS, **_BARE})
            axes.xaxis.set_major_locator(_ticks())
            axes.xaxis.set_major_formatter(_short)
            if missing is not None:
                axes.axhline(missing, label="missing", **{**_THEIRS, **_BARE})
                drawn.legend()
        _plain(axes, "", rate, percent)
        margin = 0.06 * (limits[1] - limits[0]) or 0.06 * abs(limits[0]) or 1.0
        axes.set_ylim(limits[0] - margin, limits[1] + margin)
    return drawn.svg


def loss_ratios(shares: Sequence[float], values: Sequence[Estimate], size: str, message: str) -> str:
    """Loss ratios by group, by that of all; `shares` are the groups' of their sizes."""
    with drawing(message, TALL) as drawn:
        axes = drawn.figure.add_subplot()
        middles, widths = _stretches(shares)
        axes.bar(middles, [one.value for one in values], width=widths * 0.84, color=COLOUR["bar"])
        _whiskers(axes, middles, values)
        axes.axhline(1, **_RULE)
        _plain(axes, f"share of {size}, by new / present premium", "loss ratio, 1 is that of all")
        _shares(axes)
    return drawn.svg


def kept(lines: Mapping[str, tuple[Sequence[float], Sequence[Estimate]]], message: str) -> str:
    """Loss ratios of the best parts of the premium by model, ours first: (share kept, loss ratio)."""
    with drawing(message, TALL) as drawn:
        axes = drawn.figure.add_subplot()
        for (name, (shares, values)), style in zip(lines.items(), (_OURS, _THEIRS), strict=False):
            axes.plot(shares, [one.value for one in values], label=name, **style)
            _whiskers(axes, shares, values, style["color"])
        axes.axhline(1, **_RULE)
        _plain(axes, "share of the present premium that is kept", "loss ratio, 1 is that of all")
        _shares(axes)
        drawn.legend()
    return drawn.svg


def changes(names: Sequence[str], shares: Sequence[Estimate], size: str, message: str) -> str:
    """A histogram of new by old premiums."""
    with drawing(message, TALL) as drawn:
        axes = drawn.figure.add_subplot()
        axes.bar(range(len(names)), [one.value for one in shares], color=COLOUR["bar"], width=0.84)
        _whiskers(axes, range(len(names)), shares)
        _plain(axes, "", f"share of {size}", percent=True)
        _levels(axes, names)
    return drawn.svg


def by_level(
    levels: Sequence[str],
    values: Sequence[Estimate],
    sizes: Sequence[float],
    size: str,
    name: str,
    message: str,
) -> str:
    """A ratio by level with its interval, the levels' sizes as bars below."""
    with drawing(message, TALL) as drawn:
        axes = _over_bars(drawn.figure, levels, sizes, size)
        axes.axhline(1, **_RULE)
        places = range(len(levels))
        axes.plot(places, [one.value for one in values], **{**_OURS, "linestyle": "none"})
        _whiskers(axes, places, values, COLOUR["ours"])
        _plain(axes, "", name)
        _no_flatter(axes, [v for one in values for v in one if math.isfinite(v)] or [1.0])
    return drawn.svg


def residuals(normal: Floats, actual: Floats, band: tuple[Floats, Floats], message: str) -> str:
    """Quantiles of residuals against those of the standard normal distribution."""
    with drawing(message, TALL) as drawn:
        axes = drawn.figure.add_subplot()
        axes.fill_between(normal, *band, color=COLOUR["ours"], alpha=_PALE, linewidth=0)
        axes.plot(normal, actual, label="residuals", **{**_OURS, **_BARE})
        known = [*normal.tolist(), *actual.tolist(), *band[0].tolist(), *band[1].tolist()]
        ends = (min(known) - 0.1, max(known) + 0.1)
        axes.plot(ends, ends, label="normal", **_RULE)
        _plain(axes, "normal", "residual")
        _square(axes, ends)
        axes.xaxis.set_major_locator(_ticks())
        axes.yaxis.set_major_locator(_ticks())
        drawn.legend()
    return drawn.svg


def mean_residuals(shares: Sequence[float], means: Sequence[Estimate], size: str, message: str) -> str:
    """Means of residuals by group of predictions; `shares` are the groups' of their sizes."""
    with drawing(message, TALL) as drawn:
        axes = drawn.figure.add_subplot()
        middles, _ = _stretches(shares)
        axes.plot(middles, [one.value for one in means], **{**_OURS, "linestyle": "none"})
        _whiskers(axes, middles, means, COLOUR["ours"])
        axes.axhline(0, **_RULE)
        _plain(axes, f"share of {size}, lowest expected first", "mean residual")
        _shares(axes)
    return drawn.svg


def importance(
    rows: Sequence[tuple[str, str, float]], parties: Sequence[str], unit: str, message: str
) -> str:
    """Bars of (party, column, value), in the order given, coloured by party; of many, with its name."""
    many = len(parties) > len(_PARTIES)
    legend = len(parties) > 1 and not many
    with drawing(message, height=58 + 22 * len(rows) + 36 * legend) as drawn:
        axes = drawn.figure.add_subplot()
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
        axes.tick_params(axis="y", labelcolor=COLOUR["ink"])
        axes.grid(axis="x", linewidth=0.8)
        axes.spines["bottom"].set_visible(False)
        if legend:
            drawn.legend(parties)
    return drawn.svg


def bars(rows: Sequence[tuple[str, float]], unit: str, message: str) -> str:
    """Bars of (name, value), in the order given."""
    return importance([("", name, value) for name, value in rows], [""], unit, message)


def curve(lines: Mapping[str, Sequence[float]], unit: str, measure: str, message: str) -> str:
    """The loss by tree or iteration, of the rows that train first; a gradient alone on a log scale."""
    with drawing(message) as drawn:
        axes = drawn.figure.add_subplot()
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
            drawn.legend()
    return drawn.svg


def _curves(
    curves: Mapping[str, tuple[ArrayLike, ArrayLike]],
    bands: Bands,
    x: str,
    y: str,
    diagonal: str,
    message: str,
) -> str:
    with drawing(message, TALL) as drawn:
        axes = drawn.figure.add_subplot()
        for (name, points), style in zip(curves.items(), (_OURS, _THEIRS), strict=True):
            axes.plot(*points, label=name, **{**style, **_BARE})
            if (band := bands.get(name)) is not None:
                axes.fill_between(*band, color=style["color"], alpha=_PALE, linewidth=0)
        axes.plot([0, 1], [0, 1], label=diagonal, **_RULE)
        _plain(axes, x, y, percent=True)
        _square(axes, (0, 1))
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_ticks([0, 0.25, 0.5, 0.75, 1])
        axes.xaxis.set_major_formatter(_percent)
        drawn.legend()
    return drawn.svg


def _whiskers(
    axes: Axes, places: Iterable[float], values: Sequence[Estimate], colour: str = COLOUR["ink"]
) -> None:
    """Intervals as upright lines, of the values that have one."""
    for place, one in zip(places, values, strict=True):
        if one.known:
            axes.plot([place] * 2, [one.low, one.high], color=colour, linewidth=1.2, zorder=3)


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
    below.bar(range(len(levels)), sizes, color=COLOUR["bar"], width=0.72)
    _plain(below, "", unit)
    below.yaxis.set_major_locator(_ticks(2))
    _levels(below, levels)
    above.tick_params(labelbottom=False)
    figure.align_ylabels([above, below])
    return above


def _levels(axes: Axes, levels: Sequence[str]) -> None:
    """Names below an axis, upright where they would meet."""
    names = [shown(level, BELOW) for level in levels]
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
