"""Curves as SVG, drawn at once: figures of reports take too long for a page that changes each second."""

import math
from collections.abc import Mapping, Sequence

from markupsafe import Markup, escape

_WIDTH, _HEIGHT = 360, 200
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 10, 12, 28
_COLOURS = ("ours", "theirs", "third", "fourth", "fifth")
_DASHES = ("", "6 3", "2 3", "9 3 2 3", "1 4")
_TICKS = 4

Series = Sequence[float | None]


def curves(series: Mapping[str, Series], label: str, below: str) -> Markup:
    """Lines by name over the number of the step, which differ by colour and by dash.

    label: in words, what the figure is; below: what the steps are.
    """
    known = {
        name: [(step, value) for step, value in enumerate(values, 1) if _is_number(value)]
        for name, values in series.items()
    }
    points = [point for line in known.values() for point in line]
    if not points:
        return Markup("")
    steps = max(2, *(step for step, _ in points))
    values = [value for _, value in points if value is not None]
    low, high = min(values), max(values)
    if high - low < 1e-12:
        low, high = low - 0.5, high + 0.5

    def x(step: float) -> float:
        return _LEFT + (step - 1) / (steps - 1) * (_WIDTH - _LEFT - _RIGHT)

    def y(value: float) -> float:
        return _TOP + (high - value) / (high - low) * (_HEIGHT - _TOP - _BOTTOM)

    parts = [
        f'<svg class="chart" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{escape(label)}">'
    ]
    for tick in range(_TICKS + 1):
        value = low + (high - low) * tick / _TICKS
        parts.append(
            f'<line x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y(value):.1f}" y2="{y(value):.1f}" '
            'stroke="var(--grid)"/>'
            f'<text x="{_LEFT - 6}" y="{y(value) + 4:.1f}" text-anchor="end" font-size="11" '
            f'fill="var(--muted)">{value:.4g}</text>'
        )
    for step, anchor in ((1, "start"), (steps, "end")):
        parts.append(
            f'<text x="{x(step):.1f}" y="{_HEIGHT - 8}" text-anchor="{anchor}" font-size="11" '
            f'fill="var(--muted)">{step:,}</text>'
        )
    parts.append(
        f'<text x="{(_LEFT + _WIDTH) / 2}" y="{_HEIGHT - 8}" text-anchor="middle" font-size="11" '
        f'fill="var(--muted)">{escape(below)}</text>'
    )
    for place, line in enumerate(known.values()):
        if not line:
            continue  # it keeps its colour for other figures
        colour, dash = _COLOURS[place % len(_COLOURS)], _DASHES[place % len(_DASHES)]
        drawn = " ".join(f"{x(step):.1f},{y(value):.1f}" for step, value in line if value is not None)
        dashed = f' stroke-dasharray="{dash}"' if dash else ""
        parts.append(
            f'<polyline points="{drawn}" fill="none" stroke="var(--{colour})" stroke-width="2"{dashed}/>'
        )
        if len(line) == 1 and line[0][1] is not None:
            only = f'cx="{x(line[0][0]):.1f}" cy="{y(line[0][1]):.1f}"'
            parts.append(f'<circle {only} r="3" fill="var(--{colour})"/>')
    parts.append("</svg>")
    return Markup("".join(parts))  # noqa: S704 - numbers, and what was escaped


def legend(series: Mapping[str, Series]) -> list[tuple[str, Markup]]:
    """The name of each line that `curves` draws, and what it looks like."""
    found = []
    for place, (name, values) in enumerate(series.items()):
        if not any(_is_number(value) for value in values):
            continue
        colour, dash = _COLOURS[place % len(_COLOURS)], _DASHES[place % len(_DASHES)]
        dashed = f' stroke-dasharray="{dash}"' if dash else ""
        line = (
            '<svg class="key" viewBox="0 0 28 8" aria-hidden="true"><line x1="0" x2="28" y1="4" y2="4" '
            f'stroke="var(--{colour})" stroke-width="2.5"{dashed}/></svg>'
        )
        found.append((name, Markup(line)))  # noqa: S704 - constants
    return found


def _is_number(value: float | None) -> bool:
    return value is not None and math.isfinite(value)
