"""One party's columns as the columns of a generalised linear model's design matrix.

A categorical column, or one cut into bins or bands, is a `Factor`: one 0/1 column for each level but the
base level. Two factors may have a `Crossing`: one 0/1 column for each pair of their levels. A numeric
column may be a `Curve`, of several terms. Any other is a `Covariate`: standardised. Both are rounded
once to multiples of 2^-FRACTION_BITS, so that scores in the clear and gradients under encryption, which
take integers, use the very same numbers. The intercept is the guest's and no part of a design.

A design is what its owner keeps to prepare new rows in the same way. Nothing of it leaves the party.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from vfl.arrays import Floats, Mask
from vfl.blocks.columns import categorical_columns
from vfl.blocks.engine import Array
from vfl.blocks.scratch import Scratch
from vfl.learn.binning import Features
from vfl.learn.crossings import Crossing, fit_crossing
from vfl.learn.curves import Curve, Shape, fit_curve
from vfl.learn.factors import LARGEST, check_kind, check_size, fit_factor, no_base, no_value, one_value
from vfl.learn.factors import Factor as Factor
from vfl.learn.factors import Rules as Rules
from vfl.learn.matrix import FRACTION_BITS as FRACTION_BITS
from vfl.learn.matrix import SCALE, Matrix, Parted
from vfl.learn.small_levels import MISSING as MISSING
from vfl.learn.small_levels import OTHER as OTHER
from vfl.learn.steps import Steps, chains_of

_AT_ONCE = 1 << 20  # rows whose numbers are made at a time
_MOST_INTEGER = 2.0**31

_NAMED = 3  # coefficients that an error names at most

# A column is dependent when the part of it that no earlier column explains has a mean square of at most
# this share of its own: 6e-5 of its spread, or two columns of which one is the other rounded. It lies
# - above the rounding of the sums: at most rows * 2^-53 of the mean square, for up to 2^25 rows;
# - above the rounding of the numbers: an exact combination with coefficients c of standardised columns
#   leaves at most 2^-25 (1 + sum |c|) a row, for sums of |c| up to 2^11;
# - below 1 / rows, which a 0/1 column leaves that differs from another in one row, up to 2^28 rows.
# Standardised columns, scaled to a unit diagonal, are the same in any unit.
_DEPENDENT = 2.0**-28


@dataclass(frozen=True)
class Covariate:
    """A numeric column x as (x - mean) / deviation, both of the values present at fit, unweighted."""

    name: str
    mean: float
    deviation: float  # of the population: divided by the rows
    fill: float  # stands for a missing x
    indicator: bool  # whether missing is a level with a coefficient of its own
    rows: int  # with a value, at fit
    missing: int  # rows without one

    def numbers(self, values: NDArray[np.generic]) -> Floats:
        """Standardised values, multiples of 2^-FRACTION_BITS, shape (rows,).

        Raises ValueError for infinite ones.
        """
        x = values.astype(np.float64)
        x[np.isnan(x)] = self.fill
        with np.errstate(over="ignore"):
            numbers: Floats = np.rint((x - self.mean) / self.deviation * SCALE) / SCALE
        if not np.isfinite(numbers).all():
            raise ValueError(f"column '{self.name}' holds a number too large to be used")
        return numbers


@dataclass(frozen=True)
class Relativity:
    """What a model says about one level, or about one numeric column; for models with a log link.

    A level's relativity is its factor on the prediction (on the odds for a logit link) against the base
    level; the base level's own is 1. A numeric column's is the factor of one unit more, and the factor
    of its missing level is against a row of what stands for a missing number. A curve has a line for
    each of some values, against its base, a crossing one for each pair, on top of the two levels' own.
    """

    column: str
    level: str  # "" for the slope of a numeric column
    coefficient: float  # a slope's is per standard deviation
    per_unit: float | None  # slopes only: coefficient per unit of the column
    relativity: float
    rows: int | None  # of the level, or with a value, at fit; None at a point of a curve


@dataclass(frozen=True)
class Design:
    """How a party's columns become columns of the design matrix; survives JSON bit for bit."""

    factors: tuple[Factor, ...]
    covariates: tuple[Covariate, ...]
    curves: tuple[Curve, ...] = ()
    crossings: tuple[Crossing, ...] = ()

    @classmethod
    def fit(cls, features: Features, rules: Rules, exposure: Floats | None = None) -> "Design":
        """Choose levels, bins, means and deviations by the rows to train on, of which `exposure` has an
        entry each; without it all have the same.

        Raises ValueError, naming the column, for one that holds no or only one value, that has too many
        levels or too few with enough rows, and for rules that do not fit the columns.
        """
        factors, covariates, curves = [], [], []
        categorical = {*categorical_columns(features)}
        rules.check_columns({name: name in categorical for name in features})
        for name, values in features.items():
            if values.dtype == object or name in rules.binned or name in rules.bands:
                factors.append(fit_factor(name, values, rules, exposure))
            elif name in rules.splines or name in rules.polynomials:
                curves.append(_curve(name, values.astype(np.float64), rules))
            elif name in rules.base:
                raise no_base(name)
            else:
                covariates.append(_covariate(name, values.astype(np.float64), rules))
        made = cls(tuple(factors), tuple(covariates), tuple(curves))
        crossings = [made._crossing(pair, features, rules, exposure) for pair in rules.interactions]
        return replace(made, crossings=tuple(crossings))

    @property
    def numeric(self) -> tuple[Covariate | Curve, ...]:
        return *self.covariates, *self.curves

    @property
    def inputs(self) -> tuple[str, ...]:
        """The columns of the table that it takes."""
        return tuple(one.name for one in (*self.factors, *self.numeric))

    @property
    def coefficients(self) -> list[tuple[str, str]]:
        """Column and level of each column of the matrix, in order; the level of a slope is ""."""
        return [
            *((factor.name, level) for factor in self.factors for level in factor.others),
            *((crossing.name, level) for crossing in self.crossings for level in crossing.levels),
            *((one.name, MISSING) for one in self.numeric if one.indicator),
            *((covariate.name, "") for covariate in self.covariates),
            *((curve.name, term) for curve in self.curves for term in curve.terms),
        ]

    @property
    def steps(self) -> Steps:
        """The columns of the matrix that are fitted by their steps."""
        chains: list[tuple[int, ...]] = []
        first = 0
        for factor in self.factors:
            if factor.fused:
                bands = factor.bands
                places = range(first, first + len(bands) - 1)
                chains += chains_of(bands.index(factor.base), places)
            first += len(factor.others)
        return Steps(tuple(chains))

    @property
    def levels(self) -> tuple[int, ...]:
        """How many columns of the matrix each row of codes makes."""
        return (
            *(len(factor.others) for factor in self.factors),
            *(len(crossing.cells) for crossing in self.crossings),
            *(1 for one in self.numeric if one.indicator),
        )

    def matrix(self, features: Features, rows: int | None = None) -> Matrix:
        """The matrix of these rows. Without any column, their number must be given.

        Raises ValueError for infinite numbers, and for a column that has become categorical or numeric.
        """
        if rows is None:
            rows = len(next(iter(features.values())))
        codes = [factor.codes(features[factor.name]) for factor in self.factors]
        codes += self._crossed([*codes])
        numbers: list[Floats] = []
        for one in self.numeric:
            values = check_kind(one.name, features[one.name], categorical=False)
            numbers += _numbers_of(one, values)
            if one.indicator:
                codes.append(np.isnan(values.astype(np.float64)).astype(np.uint16))
        return Matrix(
            np.array(codes, np.uint16).reshape(len(codes), rows),
            self.levels,
            np.array(numbers, np.float64).reshape(len(numbers), rows),
        )

    def parted(self, features: Features, training: Mask, scratch: Scratch) -> Parted | None:
        """The same of many rows, in two parts that go into `scratch`, a column at a time; None where
        `matrix` has to do: of numbers too far off for 32 bits.

        Raises as `matrix`, and DataError where there is no room.
        """
        rows = training, ~training
        counts = [int(of.sum()) for of in rows]
        codes, numbers = (
            [scratch.room((columns, count), np.dtype(kind), "columns of the model") for count in counts]
            for columns, kind in ((len(self.levels), np.uint16), (self._numbers, np.int32))
        )

        def keep(parts: Sequence[Array], place: int, values: Array) -> None:
            for part, of in zip(parts, rows, strict=True):
                part[place] = values[of]

        for place, factor in enumerate(self.factors):
            keep(codes, place, factor.codes(features[factor.name]))
        crossed = {name for crossing in self.crossings for name in crossing.columns}
        of_crossed = {
            factor.name: factor.codes(features[factor.name])
            for factor in self.factors
            if factor.name in crossed
        }
        for place, crossing in enumerate(self.crossings, start=len(self.factors)):
            of_first, of_second = (of_crossed[name] for name in crossing.columns)
            keep(codes, place, self._table(crossing)[of_first, of_second])
        indicators, own = len(self.factors) + len(self.crossings), 0
        for one in self.numeric:
            values = check_kind(one.name, features[one.name], categorical=False)
            terms = 1 if isinstance(one, Covariate) else len(one.terms)
            integers = np.empty((terms, len(values)), np.int32)
            for first in range(0, len(values), _AT_ONCE):
                part = slice(first, first + _AT_ONCE)
                scaled = np.array(_numbers_of(one, values[part])) * SCALE
                if np.abs(scaled).max(initial=0.0) >= _MOST_INTEGER:
                    return None
                integers[:, part] = scaled
            for term in integers:
                keep(numbers, own, term)
                own += 1
            if one.indicator:
                missing = np.isnan(values.astype(np.float64))
                keep(codes, indicators, missing.astype(np.uint16))
                indicators += 1
        trained, others = (
            Matrix(made, self.levels, of) for made, of in zip(codes, numbers, strict=True)
        )
        return Parted(training, (trained, others))

    @property
    def _numbers(self) -> int:
        """Columns of the matrix that are no levels."""
        return len(self.covariates) + sum(len(curve.terms) for curve in self.curves)

    def _table(self, crossing: Crossing) -> NDArray[np.uint16]:
        others = {factor.name: factor.others for factor in self.factors}
        first, second = crossing.columns
        return crossing.table(others[first], others[second])

    def _crossed(self, codes: Sequence[NDArray[np.uint16]]) -> list[NDArray[np.uint16]]:
        """Codes of the crossings, given those of the factors."""
        of = {factor.name: own for factor, own in zip(self.factors, codes, strict=True)}
        return [
            self._table(crossing)[of[crossing.columns[0]], of[crossing.columns[1]]]
            for crossing in self.crossings
        ]

    def _crossing(
        self, pair: tuple[str, str], features: Features, rules: Rules, exposure: Floats | None
    ) -> Crossing:
        factors = [factor for factor in self.factors if factor.name in pair]
        codes = {factor.name: factor.codes(features[factor.name]) for factor in factors}
        if exposure is None:
            exposure = np.ones(len(codes[pair[0]]))
        levels = {factor.name: factor.others for factor in factors}
        return fit_crossing(pair, levels, codes, exposure, rules.least)

    def size(self, rows: int) -> int:
        """Bytes of the matrix of so many rows."""
        return rows * (2 * len(self.levels) + 8 * self._numbers)

    def unseen(self, features: Features) -> dict[str, int]:
        """Rows with a level that was not seen at fit, by column, which `Factor.codes` scores."""
        found = {factor.name: factor.unseen(features[factor.name]) for factor in self.factors}
        return {name: rows for name, rows in found.items() if rows}

    def dependent(self, matrix: Matrix) -> list[tuple[str, str]]:
        """The coefficients whose columns are linear combinations of earlier ones and of the intercept,
        but for those that have a penalty whatever alpha is.

        Without them the others have full rank. Found by Cholesky's decomposition of the Gram matrix.
        """
        gram = matrix.with_intercept().gram()
        credible = {factor.name for factor in self.factors if factor.credible}
        if not credible:
            return self.dependent_by(gram, intercept=True)
        free = [at for at, (name, _) in enumerate(self.coefficients) if name not in credible]
        columns = [0, *(at + 1 for at in free)]
        found = _dependent(gram[np.ix_(columns, columns)])
        return [self.coefficients[free[column - 1]] for column in found if column]

    def dependent_by(self, gram: Floats, intercept: bool) -> list[tuple[str, str]]:
        """The same by a Gram matrix, with or without an intercept before the design's columns."""
        names, free = self.coefficients, int(intercept)
        return [names[column - free] for column in _dependent(gram) if column >= free]

    def relativities(self, coefficients: Floats) -> list[Relativity]:
        """A model's coefficients, in the order of `coefficients`, for its owner to read.

        By column; every factor's base level stands among its levels.
        """
        of = dict(zip(self.coefficients, coefficients.tolist(), strict=True))
        rows_of_table = []
        for factor in self.factors:
            for level, rows in zip(factor.levels, factor.rows, strict=True):
                b = of.get((factor.name, level), 0.0)
                rows_of_table.append(Relativity(factor.name, level, b, None, _exp(b), rows))
            for level, rows in zip(factor.joined, factor.joined_rows, strict=False):
                rows_of_table.append(Relativity(factor.name, level, 0.0, None, 1.0, rows))
        for crossing in self.crossings:
            for level, rows in zip(crossing.levels, crossing.rows, strict=True):
                b = of[crossing.name, level]
                rows_of_table.append(Relativity(crossing.name, level, b, None, _exp(b), rows))
        for covariate in self.covariates:
            b = of[covariate.name, ""]
            unit = b / covariate.deviation
            rows_of_table.append(Relativity(covariate.name, "", b, unit, _exp(unit), covariate.rows))
            if covariate.indicator:
                b = of[covariate.name, MISSING]
                rows_of_table.append(
                    Relativity(covariate.name, MISSING, b, None, _exp(b), covariate.missing)
                )
        for curve in self.curves:
            terms = np.array([of[curve.name, term] for term in curve.terms])
            for value, b in curve.effects(terms):
                level = repr(value).removesuffix(".0")
                rows_of_table.append(Relativity(curve.name, level, b, None, _exp(b), None))
            if curve.indicator:
                b = of[curve.name, MISSING]
                rows_of_table.append(Relativity(curve.name, MISSING, b, None, _exp(b), curve.missing))
        return rows_of_table


def _numbers_of(one: Covariate | Curve, values: NDArray[np.generic]) -> list[Floats]:
    """The columns of the matrix that a numeric column makes, beside that of missing values."""
    if isinstance(one, Covariate):
        return [one.numbers(values)]
    return [*one.numbers(values.astype(np.float64))]


def _curve(name: str, values: Floats, rules: Rules) -> Curve:
    """A spline or a polynomial."""
    plain = _covariate(name, values, rules)
    shape: Shape = "spline" if name in rules.splines else "polynomial"
    size = rules.splines[name] if shape == "spline" else rules.polynomials[name]
    base = rules.base.get(name)
    try:
        at = None if base is None else float(base)
    except ValueError:
        at = math.nan
    if at is not None and not math.isfinite(at):
        raise ValueError(f"column '{name}' is a curve: its base is a number in quotes")
    marks = plain.fill, plain.indicator, plain.missing
    return fit_curve(name, values[~np.isnan(values)], shape, size, marks, at)


def _covariate(name: str, values: Floats, rules: Rules) -> Covariate:
    present = values[~np.isnan(values)]
    missing = len(values) - len(present)
    if len(present) == 0:
        raise no_value(name)
    # By its bounds: rounding gives a column of one value a deviation above 0.
    if float(present.min()) == float(present.max()):
        raise one_value(name, missing)
    check_size(name, present)
    mean, deviation = float(present.mean()), float(present.std())
    fill = float(np.median(present)) if rules.missing == "median" else mean
    return covariate_of(name, (mean, deviation, fill), (len(present), missing), rules)


def covariate_of(
    name: str, numbers: tuple[float, float, float], rows: tuple[int, int], rules: Rules
) -> Covariate:
    """The covariate of a column, given mean, deviation and what stands for a missing number, and how
    many rows have a number and how many none. Raises ValueError as `Design.fit`."""
    (mean, deviation, fill), (present, missing) = numbers, rows
    if deviation < 1 / LARGEST:
        raise ValueError(f"column '{name}' spreads over too little: give it in another unit")
    indicator = rules.missing == "level" and missing >= rules.min_level_rows
    return Covariate(name, mean, deviation, fill, indicator, present, missing)


def _dependent(gram: Floats) -> list[int]:
    """Columns that depend on earlier ones, by Cholesky's decomposition in order, leaving them out.

    The pivot of a column is the squared length of its part that is orthogonal to those before, here
    relative to its own squared length (Higham, Accuracy and Stability of Numerical Algorithms, 10.3).
    """
    length = np.sqrt(np.diag(gram))
    length[length == 0] = 1.0  # a column of zeros keeps the pivot 0
    scaled = gram / length / length[:, None]
    root = np.zeros_like(scaled)
    dependent, rank = [], 0
    for j in range(len(scaled)):
        rest = scaled[j:, j] - root[j:, :rank] @ root[j, :rank]
        if rest[0] <= _DEPENDENT:
            dependent.append(j)
        else:
            root[j:, rank] = rest / math.sqrt(rest[0])
            rank += 1
    return dependent


def named(coefficient: tuple[str, str]) -> str:
    """What to say of a coefficient's column, by column and level."""
    column, level = coefficient
    return f"column '{column}'" + (f" at level '{level}'" if level else "")


def listed(coefficients: Sequence[tuple[str, str]]) -> str:
    """What to say of coefficients whose columns are linear combinations, by column and level."""
    names = [named(one) for one in coefficients[:_NAMED]]
    if len(coefficients) > _NAMED:
        names.append(f"{len(coefficients) - _NAMED:,} more")
    *first, last = names
    if not first:
        return f"{last} is a linear combination"
    return f"{', '.join(first)} and {last} are linear combinations"


def _exp(x: float) -> float:
    """exp(x), infinite where it is too large."""
    with np.errstate(over="ignore"):
        return float(np.exp(x))
