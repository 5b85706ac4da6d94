"""One party's columns as the columns of a generalised linear model's design matrix.

A categorical or binned column is a `Factor`: one 0/1 column for each level but the base level. Another
numeric column is a `Covariate`: standardised, and rounded once to multiples of 2^-FRACTION_BITS, so that
scores in the clear and gradients under encryption, which take integers, use the very same numbers. The
intercept is the guest's and no part of a design.

A design is what its owner keeps to prepare new rows in the same way. Nothing of it leaves the party.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from vfl.arrays import Floats, Integers
from vfl.learn.binning import Column, Features, bin_columns
from vfl.text import counted

FRACTION_BITS = 24
MISSING = "(missing)"
"""The level of missing values. A category of this very text means the same."""
OTHER = "(any other)"
"""Where several parties have agreed on a column's levels, the level of all other categories."""

_SCALE = 2.0**FRACTION_BITS
_MOST_LEVELS = 65_535  # codes are uint16; more levels are those of an id

_NAMED = 3  # coefficients that an error names at most

_LARGEST = 1e100  # squares of such numbers, and of their inverses, can still be summed

# A column is dependent when the part of it that no earlier column explains has a mean square of at most
# this share of its own: 6e-5 of its spread, or two columns of which one is the other rounded. It lies
# - above the rounding of the sums: at most rows * 2^-53 of the mean square, for up to 2^25 rows;
# - above the rounding of the numbers: an exact combination with coefficients c of standardised columns
#   leaves at most 2^-25 (1 + sum |c|) a row, for sums of |c| up to 2^11;
# - below 1 / rows, which a 0/1 column leaves that differs from another in one row, up to 2^28 rows.
# Standardised columns, scaled to a unit diagonal, are the same in any unit.
_DEPENDENT = 2.0**-28


@dataclass(frozen=True)
class Rules:
    """A party's own choice of how its columns are prepared. Raises ValueError for an impossible one."""

    binned: tuple[str, ...] = ()  # numeric columns cut at quantiles into levels
    bins: int = 10  # of a binned column at most, missing not counted; 2 to 255
    missing: Literal["mean", "median", "level"] = "mean"  # of numeric columns that are not binned
    base: Mapping[str, str] = field(default_factory=dict)  # level by column; else the most frequent
    min_level_rows: int = 20  # levels with fewer rows are joined to the base level

    def __post_init__(self) -> None:
        if not 2 <= self.bins <= 255:
            raise ValueError("bins is 2 to 255")
        if self.min_level_rows < 1:
            raise ValueError("min_level_rows is 1 at least")


@dataclass(frozen=True)
class Factor:
    """A categorical or binned column: its levels against a base level."""

    name: str
    base: str
    levels: tuple[str, ...]  # by name or by edge, missing last; the base level is one of them
    rows: tuple[int, ...]  # of each level at fit; the base level's include the joined ones
    joined: tuple[str, ...]  # levels seen at fit with too few rows
    edges: tuple[float, ...] | None  # of bins, each with its upper edge; None for categories

    @property
    def others(self) -> tuple[str, ...]:
        """The levels that have a coefficient."""
        return tuple(level for level in self.levels if level != self.base)

    def codes(self, values: NDArray[np.generic]) -> NDArray[np.uint16]:
        """The level of each value, shape (rows,): k is the k-th of `others`, counted from 1.

        0 is the base level, and any that is joined or was not seen at fit; unless levels were agreed on:
        one that was not seen is OTHER then.
        """
        code_of = dict.fromkeys((self.base, *self.joined), 0)
        code_of |= {level: k for k, level in enumerate(self.others, start=1)}
        unseen = code_of.get(OTHER, 0)
        places, names = named_levels(self.name, values, self.edges)
        return np.array([code_of.get(name, unseen) for name in names], np.uint16)[places]

    def unseen(self, values: NDArray[np.generic]) -> int:
        """How many values are of a level (missing is one) that no row had at fit."""
        seen = {*self.levels, *self.joined}
        places, names = named_levels(self.name, values, self.edges)
        return int(np.array([name not in seen for name in names], np.bool_)[places].sum())


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
            numbers: Floats = np.rint((x - self.mean) / self.deviation * _SCALE) / _SCALE
        if not np.isfinite(numbers).all():
            raise ValueError(f"column '{self.name}' holds a number too large to be used")
        return numbers


@dataclass(frozen=True)
class Relativity:
    """What a model says about one level, or about one numeric column; for models with a log link.

    A level's relativity is its factor on the prediction (on the odds for a logit link) against the base
    level; the base level's own is 1. A numeric column's is the factor of one unit more, and the factor
    of its missing level is against a row of the column's mean.
    """

    column: str
    level: str  # "" for the slope of a numeric column
    coefficient: float  # a slope's is per standard deviation
    per_unit: float | None  # slopes only: coefficient per unit of the column
    relativity: float
    rows: int  # of the level, or with a value, at fit


@dataclass(frozen=True)
class Matrix:
    """The design matrix X of some rows, without storing its zeros.

    Its columns: each factor's levels, by their codes 1, 2, ... (code 0 is in none), then the numbers.
    """

    codes: NDArray[np.uint16]  # shape (factors, rows), indicators of missing values after the factors
    levels: tuple[int, ...]  # columns of each factor: the largest code it can have
    numbers: Floats  # shape (covariates, rows), multiples of 2^-FRACTION_BITS

    @property
    def rows(self) -> int:
        return int(self.codes.shape[1])

    @property
    def columns(self) -> int:
        return sum(self.levels) + len(self.numbers)

    @property
    def integers(self) -> Integers:
        """`numbers` times 2^FRACTION_BITS, exactly.

        Raises ValueError for numbers of 2^39 deviations or more; those of the rows of the fit are at
        most the square root of their count.
        """
        if max(self.bits, default=0) > 63:
            raise ValueError("a standardised number is too large for 64 bits")
        return (self.numbers * _SCALE).astype(np.int64)

    @property
    def bits(self) -> tuple[int, ...]:
        """Bits of the largest magnitude among each covariate's integers."""
        largest = np.abs(self.numbers).max(axis=1, initial=0.0) * _SCALE
        return tuple(int(number).bit_length() for number in largest.tolist())

    def times(self, beta: Floats) -> Floats:
        """X beta, shape (rows,), of coefficients of shape (columns,).

        A row's is the same, bit for bit, whatever rows are beside it: BLAS does not promise that.
        """
        total = np.zeros(self.rows)
        for coefficient, numbers in zip(beta[sum(self.levels) :], self.numbers, strict=True):
            total += coefficient * numbers
        for codes, part in zip(self.codes, self._parts(), strict=True):
            total += np.concatenate([[0.0], beta[part]])[codes]
        return total

    def transposed_times(self, r: Floats) -> Floats:
        """X^T r, shape (columns,), of one number a row."""
        sums = [
            np.bincount(codes, r, minlength=levels + 1)[1:]
            for codes, levels in zip(self.codes, self.levels, strict=True)
        ]
        return np.concatenate([*sums, self.numbers @ r])

    def gram(self, weight: Floats | None = None) -> Floats:
        """X^T W X, shape (columns, columns) and symmetric, of a weight a row (1 without)."""
        gram = np.zeros((self.columns, self.columns))
        parts = self._parts()
        for i, own in enumerate(parts):
            sizes = np.bincount(self.codes[i], weight, minlength=self.levels[i] + 1)[1:]
            gram[own, own] = np.diag(sizes)
            for j, other in enumerate(parts[:i]):
                shape = (self.levels[i] + 1, self.levels[j] + 1)
                cell = self.codes[i].astype(np.int64) * shape[1] + self.codes[j]
                both = np.bincount(cell, weight, minlength=shape[0] * shape[1]).reshape(shape)[1:, 1:]
                gram[own, other], gram[other, own] = both, both.T
        for at, numbers in enumerate(self.numbers, start=sum(self.levels)):
            weighted = numbers if weight is None else numbers * weight
            gram[at] = gram[:, at] = self.transposed_times(weighted)
        return gram

    def with_intercept(self) -> "Matrix":
        """The matrix with a column of ones before all others."""
        ones = np.ones((1, self.rows), np.uint16)
        return replace(self, codes=np.vstack([ones, self.codes]), levels=(1, *self.levels))

    def take(self, rows: NDArray[np.bool_]) -> "Matrix":
        """The matrix of some of the rows."""
        return Matrix(self.codes[:, rows], self.levels, self.numbers[:, rows])

    def dense(self) -> Floats:
        """X itself, shape (rows, columns): for tests."""
        levels = [
            codes[:, None] == np.arange(1, levels + 1)
            for codes, levels in zip(self.codes, self.levels, strict=True)
        ]
        return np.hstack([*levels, self.numbers.T]).astype(np.float64)

    def _parts(self) -> list[slice]:
        """Which columns are those of each factor."""
        ends = np.cumsum(self.levels, dtype=np.int64).tolist()
        return [slice(end - size, end) for end, size in zip(ends, self.levels, strict=True)]


@dataclass(frozen=True)
class Design:
    """How a party's columns become columns of the design matrix; survives JSON bit for bit."""

    factors: tuple[Factor, ...]
    covariates: tuple[Covariate, ...]

    @classmethod
    def fit(cls, features: Features, rules: Rules) -> "Design":
        """Choose levels, bins, means and deviations by the rows to train on.

        Raises ValueError, naming the column, for one that holds no or only one value, that has too many
        levels or too few with enough rows, and for rules that do not fit the columns.
        """
        for name in (*rules.binned, *rules.base):
            if name not in features:
                raise ValueError(f"there is no column '{name}', for which binned or base has a rule")
        for name in rules.binned:
            if features[name].dtype == object:
                raise ValueError(f"column '{name}' is categorical: only numbers are cut into bins")
        factors, covariates = [], []
        for name, values in features.items():
            if values.dtype == object or name in rules.binned:
                factors.append(_factor(name, values, rules))
            elif name in rules.base:
                raise ValueError(f"column '{name}' is numeric and not binned: it has no base level")
            else:
                covariates.append(_covariate(name, values.astype(np.float64), rules))
        return cls(tuple(factors), tuple(covariates))

    @property
    def coefficients(self) -> list[tuple[str, str]]:
        """Column and level of each column of the matrix, in order; the level of a slope is ""."""
        return [
            *((factor.name, level) for factor in self.factors for level in factor.others),
            *((covariate.name, MISSING) for covariate in self.covariates if covariate.indicator),
            *((covariate.name, "") for covariate in self.covariates),
        ]

    def matrix(self, features: Features, rows: int | None = None) -> Matrix:
        """The matrix of these rows. Without any column, their number must be given.

        Raises ValueError for infinite numbers, and for a column that has become categorical or numeric.
        """
        if rows is None:
            rows = len(next(iter(features.values())))
        codes = [factor.codes(features[factor.name]) for factor in self.factors]
        levels = [len(factor.others) for factor in self.factors]
        numbers = []
        for covariate in self.covariates:
            values = _checked(covariate.name, features[covariate.name], categorical=False)
            numbers.append(covariate.numbers(values))
            if covariate.indicator:
                codes.append(np.isnan(values.astype(np.float64)).astype(np.uint16))
                levels.append(1)
        return Matrix(
            np.array(codes, np.uint16).reshape(len(codes), rows),
            tuple(levels),
            np.array(numbers, np.float64).reshape(len(numbers), rows),
        )

    def unseen(self, features: Features) -> dict[str, int]:
        """Rows with a level that was not seen at fit, by column; they are scored as the base level."""
        found = {factor.name: factor.unseen(features[factor.name]) for factor in self.factors}
        return {name: rows for name, rows in found.items() if rows}

    def dependent(self, matrix: Matrix) -> list[tuple[str, str]]:
        """The coefficients whose columns are linear combinations of earlier ones and of the intercept.

        Without them the others have full rank. Found by Cholesky's decomposition of the Gram matrix.
        """
        return self.dependent_by(matrix.with_intercept().gram(), intercept=True)

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
        for covariate in self.covariates:
            b = of[covariate.name, ""]
            unit = b / covariate.deviation
            rows_of_table.append(Relativity(covariate.name, "", b, unit, _exp(unit), covariate.rows))
            if covariate.indicator:
                b = of[covariate.name, MISSING]
                rows_of_table.append(
                    Relativity(covariate.name, MISSING, b, None, _exp(b), covariate.missing)
                )
        return rows_of_table


def _factor(name: str, values: NDArray[np.generic], rules: Rules) -> Factor:
    edges = None if values.dtype == object else _edges(name, values.astype(np.float64), rules)
    places, names = named_levels(name, values, edges)
    counts = np.bincount(places, minlength=len(names)).tolist()
    return factor_of(name, dict(zip(names, counts, strict=True)), edges, rules)


def factor_of(
    name: str, counts: Mapping[str, int], edges: tuple[float, ...] | None, rules: Rules
) -> Factor:
    """The factor of a column, given how many of the rows to train on are of each level, in the order in
    which ties for the base level are decided. Raises ValueError as `Design.fit`."""
    rows = {level: n for level, n in counts.items() if n}
    if MISSING in rows:
        rows[MISSING] = rows.pop(MISSING)  # the last to be shown
    if rows.keys() <= {MISSING}:
        raise no_value(name)
    if len(rows) == 1:
        raise one_value(name, 0)
    if len(rows) > _MOST_LEVELS:
        raise ValueError(
            f"column '{name}' has {len(rows):,} levels, more than {_MOST_LEVELS:,}: if it is an id, "
            "leave it out (ignore)"
        )
    base = rules.base.get(name, max(rows, key=rows.__getitem__))
    if base not in rows:
        more = f" and {len(rows) - 5:,} more" if len(rows) > 5 else ""
        known = ", ".join(f"'{level}'" for level in list(rows)[:5])
        raise ValueError(f"column '{name}' has no level '{base}' to be the base: it has {known}{more}")
    kept = {level: n for level, n in rows.items() if level == base or n >= rules.min_level_rows}
    if len(kept) == 1:
        raise ValueError(
            f"column '{name}' has no level besides the base '{base}' with "
            f"{counted(rules.min_level_rows, 'row')} (min_level_rows): leave it out (ignore)"
        )
    kept[base] = sum(rows.values()) - sum(n for level, n in kept.items() if level != base)
    joined = tuple(level for level in rows if level not in kept)
    return Factor(name, base, tuple(kept), tuple(kept.values()), joined, edges)


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
    if deviation < 1 / _LARGEST:
        raise ValueError(f"column '{name}' spreads over too little: give it in another unit")
    indicator = rules.missing == "level" and missing >= rules.min_level_rows
    return Covariate(name, mean, deviation, fill, indicator, present, missing)


def check_size(name: str, present: Floats) -> None:
    """Raises ValueError for numbers that are too large to be used."""
    if not np.abs(present).max(initial=0.0) <= _LARGEST:
        raise ValueError(f"column '{name}' holds numbers beyond {_LARGEST:g}: give it in another unit")


def no_bins(name: str, rules: Rules) -> ValueError:
    return ValueError(
        f"column '{name}' cannot be cut into bins of {counted(rules.min_level_rows, 'row')} "
        "(min_level_rows): do not bin it, or leave it out (ignore)"
    )


def no_value(name: str) -> ValueError:
    return ValueError(f"column '{name}' holds no value: leave it out (ignore)")


def one_value(name: str, missing: int) -> ValueError:
    besides = " besides missing ones" if missing else ""
    return ValueError(f"column '{name}' holds one value only{besides}: leave it out (ignore)")


def _edges(name: str, values: Floats, rules: Rules) -> tuple[float, ...]:
    """Upper edges of all bins but the last, each a short number between the values it parts."""
    if np.isinf(values).any():
        raise ValueError(f"column '{name}' holds an infinite number")
    binned = bin_columns({name: values}, rules.bins, rules.min_level_rows)
    column, codes = binned.columns[0], binned.codes[0]
    lowest, highest = np.full(column.bins + 1, np.inf), np.full(column.bins + 1, -np.inf)
    np.fmin.at(lowest, codes, values)
    np.fmax.at(highest, codes, values)
    if column.bins == 1 and lowest[0] < highest[0]:
        raise no_bins(name, rules)
    assert column.edges is not None  # noqa: S101 - numbers have edges
    gaps = zip(highest.tolist(), column.edges.tolist(), lowest[1:].tolist(), strict=False)
    return tuple(short_edge(low, middle, high) for low, middle, high in gaps)


def short_edge(low: float, middle: float, high: float) -> float:
    """A number of few digits, whole if possible, at least `low` and below `high`, as `middle` is."""
    tried = [float(f"{x:.{digits}e}") for digits in range(17) for x in (middle, low)]
    fitting = [x for x in tried if low <= x < high]
    return next((x for x in fitting if x.is_integer()), fitting[0]) + 0.0  # never -0.0


def named_levels(
    name: str, values: NDArray[np.generic], edges: tuple[float, ...] | None
) -> tuple[Integers, list[str]]:
    """Names of levels, and the place of each value's among them, shape (rows,)."""
    if edges is not None:
        numbers = _checked(name, values, categorical=False)
        column = Column(name, np.array(edges, np.float64), (), has_missing=True)
        return column.codes(numbers).astype(np.int64), [*_bin_names(edges), MISSING]
    objects = _checked(name, values, categorical=True)
    missing = (objects == np.array(None)) | (objects != objects)  # None, or NaN
    texts: list[str] = np.where(missing, MISSING, objects).tolist()
    names = sorted(set(texts))
    place_of = {level: place for place, level in enumerate(names)}
    return np.fromiter(map(place_of.__getitem__, texts), np.int64, len(texts)), names


def _bin_names(edges: tuple[float, ...]) -> list[str]:
    """A bin holds its upper edge and not its lower one; Python's repr tells any two edges apart."""
    if not edges:
        return ["(present)"]
    numbers = [repr(edge).removesuffix(".0") for edge in edges]
    between = [f"{low} to {high}" for low, high in pairwise(numbers)]
    return [f"<= {numbers[0]}", *between, f"> {numbers[-1]}"]


def _checked(name: str, values: NDArray[np.generic], categorical: bool) -> NDArray[np.generic]:
    """The values, if they are of the kind that they were at fit."""
    if (values.dtype == object) != categorical:
        kinds = ("numeric", "categorical") if categorical else ("categorical", "numeric")
        raise ValueError(f"column '{name}' is {kinds[0]} here but was {kinds[1]} in training")
    return values


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


def listed(coefficients: Sequence[tuple[str, str]]) -> str:
    """What to say of coefficients whose columns are linear combinations, by column and level."""
    names = [
        f"column '{column}'" + (f" at level '{level}'" if level else "")
        for column, level in coefficients[:_NAMED]
    ]
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
