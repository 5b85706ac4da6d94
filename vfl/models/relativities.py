"""The coefficients of a linear model for their owner to read: relativities, and the effect of a step."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from vfl.learn.across import CrossedLevels
from vfl.learn.design import MISSING, OTHER, Covariate
from vfl.learn.losses import Link
from vfl.protocols.linear.scoring import GuestGlm, HostGlm
from vfl.text import OrderKey, level_order

INTERCEPT = "(intercept)"
COLUMNS = (
    *("column", "level", "coefficient", "per_unit", "relativity", "rows"),
    *("step", "per_step", "relativity_per_step"),
)
"""Of the relativities, in the order in which they are written; where they are known, standard errors
come after them."""
Pairs = Mapping[tuple[str, str], tuple[float, int]]
"""By a column's level and a factor's, the coefficient of the pair and its rows."""
INFERRED = ("standard_error", "p_value", "low", "high", "relativity_low", "relativity_high")
"""Of a model whose job asked for inference: low and high are of what a level, or a step, adds to the
score."""


@dataclass(frozen=True)
class Line:
    """A coefficient as `Relativity` has it, and of a numeric column the effect of a step of it.

    A unit of a column (a kilogram, a euro) may change hardly anything: a step is as many units as its
    owner says, or a standard deviation. The intercept has no rows. Under an identity link nothing is
    multiplied: there are no relativities.
    """

    column: str
    level: str
    coefficient: float
    per_unit: float | None
    relativity: float | None
    rows: int | None
    step: float | None = None  # units of the column; slopes only
    per_step: float | None = None  # what a step adds to the score
    relativity_per_step: float | None = None
    is_deviation: bool = False
    """Whether the step is the standard deviation of the rows that trained."""
    standard_error: float | None = None  # of the coefficient
    p_value: float | None = None  # that the coefficient is zero
    low: float | None = None  # of `effect`, at 95 %
    high: float | None = None

    @property
    def place(self) -> str:
        """The level, or of what step: 'per 10,000', 'per 8.214 (SD)'."""
        if self.step is None:
            return self.level
        if not self.is_deviation:
            return f"per {self.step:,}".removesuffix(".0")
        digits = 3 - math.floor(math.log10(self.step))
        short = f"{self.step:,.{max(digits, 0)}f}" if -12 <= digits <= 8 else f"{self.step:.3e}"
        return f"per {short} (SD)"

    @property
    def factor(self) -> float | None:
        """The relativity of the level, or of a step."""
        return self.relativity if self.step is None else self.relativity_per_step

    @property
    def relativity_low(self) -> float | None:
        """Of `factor`, at 95 %."""
        return self._factor_of(self.low)

    @property
    def relativity_high(self) -> float | None:
        return self._factor_of(self.high)

    def _factor_of(self, effect: float | None) -> float | None:
        if effect is None or self.factor is None:
            return None
        try:
            return math.exp(effect)
        except OverflowError:
            return math.inf

    @property
    def effect(self) -> float:
        """What the level, or a step, adds to the score."""
        return self.coefficient if self.per_step is None else self.per_step


class Inferred(NamedTuple):
    """What is inferred of a coefficient."""

    error: float
    p_value: float
    low: float
    high: float


def table_of(lines: Sequence[Line]) -> tuple[tuple[str, ...], list[tuple[str | float | None, ...]]]:
    """The columns of all lines, and the cells of each."""
    known = any(line.standard_error is not None for line in lines)
    columns: tuple[str, ...] = (*COLUMNS, "standard_error") if known else COLUMNS
    if any(line.p_value is not None for line in lines):
        columns = (*COLUMNS, *INFERRED)
    return columns, [tuple(getattr(line, name) for name in columns) for line in lines]


def lines(model: GuestGlm | HostGlm, link: Link, steps: Mapping[str, float] | None = None) -> list[Line]:
    """What a half of a model says, for its owner to read: the guest's intercept, then each column's.

    `steps` are the owner's, in units, by numeric column. Levels stand in their own order, missing last.
    """
    slopes = {one.name: one for one in model.part.design.covariates}
    own_lines = [
        Line(one.column, one.level, one.coefficient, one.per_unit, one.relativity, one.rows)
        if one.per_unit is None
        else _slope(slopes[one.column], one.coefficient, one.relativity, (steps or {}).get(one.column))
        for one in model.part.relativities()
    ]
    if isinstance(model, GuestGlm) and model.errors is not None:
        error_of = dict(zip(model.part.design.coefficients, model.errors, strict=True))
        own_lines = [
            replace(line, standard_error=error_of.get((line.column, line.level))) for line in own_lines
        ]
    inferred, constant_inferred = _inferred(model)
    own_lines = [_with(line, inferred.get((line.column, line.level))) for line in own_lines]
    design = model.part.design
    crossed = model.across if isinstance(model, HostGlm) else ()
    own_lines += _across(crossed)
    places = {line.column: place for place, line in reversed([*enumerate(own_lines)])}
    in_order: dict[str, Sequence[str]] = {
        **{one.name: one.levels for one in design.factors if one.edges is not None},
        **{one.name: one.levels for one in design.crossings},
        **{one.name: [name for name, *_ in one.lines] for one in crossed},
    }
    own_lines.sort(key=lambda line: (places[line.column], _level_key(line, in_order)))
    if isinstance(model, GuestGlm):
        with np.errstate(over="ignore"):
            factor = float(np.exp(model.intercept))
        constant = Line(INTERCEPT, "", model.intercept, None, factor, None)
        constant = replace(constant, standard_error=model.intercept_error)
        own_lines.insert(0, _with(constant, constant_inferred))
    if link == "identity":
        return [replace(line, relativity=None, relativity_per_step=None) for line in own_lines]
    return own_lines


@dataclass(frozen=True)
class CrossedTable:
    """A factor's relativities at each level of another column, with which it has pairs; under an
    identity link what its levels add."""

    column: str
    by: str
    levels: tuple[str, ...]  # of the factor, its base level first
    by_levels: tuple[str, ...]
    values: tuple[tuple[float, ...], ...]  # by level, then by the other's: of the level and the pair
    rows: tuple[tuple[int | None, ...], ...]  # of pairs at fit; None where a pair has no coefficient


def crossed_tables(model: object, by: str, link: Link) -> list[CrossedTable]:
    """The factors that have pairs with a column, an own one or the guest's as its host calls it: what
    each of their levels is worth against the base level where that column is at a level of its own.

    A pair without a coefficient is as its level is everywhere. Of another kind of model there are none.
    """
    if not isinstance(model, GuestGlm | HostGlm):
        return []
    part = model.part
    factors = {factor.name: factor for factor in part.design.factors}
    of = dict(zip(part.design.coefficients, part.coefficients, strict=True))

    def table(column: str, levels: Sequence[str], pairs: Pairs) -> CrossedTable:
        own = (factors[column].base, *factors[column].others)
        cells = [[pairs.get((at, level)) for at in levels] for level in own]
        effects = np.array(
            [
                [of.get((column, level), 0.0) + (0.0 if cell is None else cell[0]) for cell in row]
                for level, row in zip(own, cells, strict=True)
            ]
        )
        with np.errstate(over="ignore"):
            values = effects if link == "identity" else np.exp(effects)
        rows = tuple(tuple(None if cell is None else cell[1] for cell in row) for row in cells)
        return CrossedTable(column, by, own, tuple(levels), tuple(map(tuple, values.tolist())), rows)

    found = []
    for one in part.design.crossings:
        if by in one.columns:
            at = one.columns.index(by)
            cells = zip(one.cells, one.levels, one.rows, strict=True)
            pairs = {(cell[at], cell[1 - at]): (of[one.name, name], n) for cell, name, n in cells}
            found.append(table(one.columns[1 - at], (factors[by].base, *factors[by].others), pairs))
    for crossed in model.across if isinstance(model, HostGlm) else ():
        if crossed.column == by:
            parts = zip(crossed.cells, crossed.coefficients, crossed.rows, strict=True)
            pairs = {(crossed.levels[a], b): (beta, n) for (a, b), beta, n in parts}
            found.append(table(crossed.own, crossed.levels, pairs))
    return found


def _across(crossed: Sequence[CrossedLevels]) -> list[Line]:
    """The lines of cells of the guest's levels and own ones, on top of those of the two levels."""
    with np.errstate(over="ignore"):
        return [
            Line(one.name, level, coefficient, None, float(np.exp(coefficient)), rows)
            for one in crossed
            for level, coefficient, rows in one.lines
        ]


def _inferred(
    model: GuestGlm | HostGlm,
) -> tuple[dict[tuple[str, str], Inferred], Inferred | None]:
    """What is inferred of each coefficient, and of the intercept."""
    coefficients = np.array(model.part.coefficients, np.float64)
    names = model.part.design.coefficients
    own = model.inference
    if own is None:
        return {}, None
    if isinstance(model, GuestGlm) and own.constants:
        coefficients = np.concatenate([[model.intercept], coefficients])
        names = [(INTERCEPT, ""), *names]
    errors, p_values = own.errors, own.p_values(coefficients)
    intervals = own.intervals(coefficients)
    if errors is None or p_values is None or intervals is None:
        return {}, None
    table = np.array([errors, p_values, *intervals]).T.tolist()
    by_name = {name: Inferred(*row) for name, row in zip(names, table, strict=True)}
    return by_name, by_name.pop((INTERCEPT, ""), None)


def _with(line: Line, inferred: Inferred | None) -> Line:
    """The line with what is inferred of its coefficient."""
    if inferred is None:
        return line
    scale = 1.0
    if line.per_step is not None and line.coefficient:
        scale = line.per_step / line.coefficient
    return replace(
        line,
        standard_error=inferred.error,
        p_value=inferred.p_value,
        low=scale * inferred.low,
        high=scale * inferred.high,
    )


def _slope(column: Covariate, coefficient: float, relativity: float, step: float | None) -> Line:
    """The line of a numeric column, whose coefficient is that of a standard deviation."""
    size = column.deviation if step is None else step
    effect = coefficient if step is None else coefficient / column.deviation * step
    try:
        factor = math.exp(effect)
    except OverflowError:
        factor = math.inf
    unit = coefficient / column.deviation
    return Line(
        *(column.name, "", coefficient, unit, relativity, column.rows),
        *(size, effect, factor, step is None),
    )


def _level_key(line: Line, in_order: Mapping[str, Sequence[str]]) -> tuple[int, OrderKey]:
    """The slope of a column first, missing values last; bins and bands are in order already."""
    level = line.level
    if not level:
        return 0, ()
    if level in (OTHER, MISSING):
        return (2 if level == OTHER else 3), ()
    return 1, (in_order[line.column].index(level),) if line.column in in_order else level_order(level)
