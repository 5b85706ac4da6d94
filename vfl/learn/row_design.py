"""A linear model's columns made ready for few rows at a time: what design.py makes of them, bit for bit.

The same operations on the same numbers in the same order; what does not depend on the rows is made once.
"""

from collections.abc import Mapping, Sequence
from itertools import repeat

import numpy as np
from numpy.typing import NDArray

from vfl.arrays import Floats, Integers
from vfl.learn.binning import Column, Features
from vfl.learn.crossings import Crossing
from vfl.learn.curves import Curve
from vfl.learn.design import FRACTION_BITS, MISSING, Covariate, Design, Factor
from vfl.learn.factors import check_kind

_SCALE = 2.0**FRACTION_BITS


class RowDesign:
    """A design with its coefficients, in the order of the design's."""

    def __init__(self, design: Design, coefficients: Sequence[float]) -> None:
        of = dict(zip(design.coefficients, coefficients, strict=True))
        self._factors = [_RowFactor(factor, of) for factor in design.factors]
        self._covariates = _RowCovariates(design.covariates)
        self._slopes = [of[covariate.name, ""] for covariate in design.covariates]
        self._indicators = [
            (place, of[covariate.name, MISSING])
            for place, covariate in enumerate(design.covariates)
            if covariate.indicator
        ]
        self._curves = [_RowCurve(curve, of) for curve in design.curves]
        by_name = {factor.name: factor for factor in self._factors}
        self._crossings = [_RowCrossing(crossing, by_name, of) for crossing in design.crossings]

    def scores(self, features: Features, rows: int) -> Floats:
        """What the columns add to each row's score, shape (rows,).

        Raises ValueError as `Design.matrix`.
        """
        numbers, missing = self._covariates.numbers(features, rows)
        total = np.zeros(rows)
        for slope, own in zip(self._slopes, numbers, strict=True):
            total += slope * own
        curves = [curve.parts(features) for curve in self._curves]
        for terms, _ in curves:
            for term in terms:
                total += term
        for factor in self._factors:
            total += factor.parts(features)
        for crossing in self._crossings:
            total += crossing.parts(features)
        for place, coefficient in self._indicators:
            total += np.where(missing[place], coefficient, 0.0)
        for _, marks in curves:
            for mark in marks:
                total += mark
        return total

    def terms(self, features: Features, rows: int) -> dict[str, Floats]:
        """What each column adds, by its name, in the order of `LinearPart.by_column`."""
        numbers, missing = self._covariates.numbers(features, rows)
        found = {factor.name: np.zeros(rows) + factor.parts(features) for factor in self._factors}
        found |= {
            crossing.name: np.zeros(rows) + crossing.parts(features) for crossing in self._crossings
        }
        indicators = dict(self._indicators)
        for place, (name, slope) in enumerate(zip(self._covariates.names, self._slopes, strict=True)):
            term = np.zeros(rows) + slope * numbers[place]
            if place in indicators:
                term += np.where(missing[place], indicators[place], 0.0)
            found[name] = term
        for curve in self._curves:
            term = np.zeros(rows)
            for parts in curve.parts(features):
                for part in parts:
                    term += part
            found[curve.name] = term
        return found


class _RowFactor:
    """What each level of a factor adds."""

    def __init__(self, factor: Factor, coefficient_of: Mapping[tuple[str, str], float]) -> None:
        self.name, self.others = factor.name, factor.others
        by_code = [0.0, *(coefficient_of[factor.name, level] for level in factor.others)]
        code_of: dict[object, int] = dict(factor.code_of.items())
        self._edges = factor.edges
        self._rest = code_of.get(factor.rest, 0)
        self._code_of = {**code_of, None: code_of.get(MISSING, self._rest)}
        self._value_of = {level: by_code[code] for level, code in self._code_of.items()}
        self._unseen = by_code[self._rest]
        if factor.edges is not None:
            places = [code_of.get(name, self._rest) for name in factor.names]
            self._code_by_place = np.array(places, np.int64)
            self._by_place = np.array([by_code[code] for code in places])
            edges = np.array(factor.edges, np.float64)
            self._column = Column(factor.name, edges, (), has_missing=True)

    def parts(self, features: Features) -> Floats:
        """Shape (rows,)."""
        values = check_kind(self.name, features[self.name], categorical=self._edges is None)
        if self._edges is None:
            found = map(self._value_of.get, values.tolist(), repeat(self._unseen))
            return np.fromiter(found, np.float64, len(values))
        return self._by_place[self._column.codes(values)]

    def codes(self, features: Features) -> Integers:
        """The code of each row's level, shape (rows,)."""
        values = check_kind(self.name, features[self.name], categorical=self._edges is None)
        if self._edges is None:
            found = map(self._code_of.get, values.tolist(), repeat(self._rest))
            return np.fromiter(found, np.int64, len(values))
        return self._code_by_place[self._column.codes(values)]


class _RowCrossing:
    """What each pair of levels adds."""

    def __init__(
        self,
        crossing: Crossing,
        factors: Mapping[str, _RowFactor],
        coefficient_of: Mapping[tuple[str, str], float],
    ) -> None:
        self.name = crossing.name
        self._factors = [factors[name] for name in crossing.columns]
        first, second = self._factors
        by_code = [0.0, *(coefficient_of[crossing.name, level] for level in crossing.levels)]
        self._values = np.array(by_code)[crossing.table(first.others, second.others)]

    def parts(self, features: Features) -> Floats:
        """Shape (rows,)."""
        first, second = (factor.codes(features) for factor in self._factors)
        return np.asarray(self._values[first, second])


class _RowCurve:
    """What each term of a curve adds, and a missing number."""

    def __init__(self, curve: Curve, coefficient_of: Mapping[tuple[str, str], float]) -> None:
        self.name, self._curve = curve.name, curve
        self._terms = [coefficient_of[curve.name, term] for term in curve.terms]
        self._missing = [coefficient_of[curve.name, MISSING]] if curve.indicator else []

    def parts(self, features: Features) -> tuple[list[Floats], list[Floats]]:
        """Those of the terms, and that of a missing number if it has one, shape (rows,) each."""
        values = check_kind(self.name, features[self.name], categorical=False).astype(np.float64)
        numbers = self._curve.numbers(values)
        return (
            [term * own for term, own in zip(self._terms, numbers, strict=True)],
            [np.where(np.isnan(values), missing, 0.0) for missing in self._missing],
        )


class _RowCovariates:
    """The numeric columns of a design, side by side."""

    def __init__(self, covariates: Sequence[Covariate]) -> None:
        self.names = [covariate.name for covariate in covariates]

        def column(numbers: list[float]) -> Floats:
            return np.array(numbers, np.float64).reshape(-1, 1)

        self._mean = column([covariate.mean for covariate in covariates])
        self._deviation = column([covariate.deviation for covariate in covariates])
        self._fill = column([covariate.fill for covariate in covariates])

    def numbers(self, features: Features, rows: int) -> tuple[Floats, NDArray[np.bool_]]:
        """Standardised values, and which were missing, shape (covariates, rows) each."""
        x = np.empty((len(self.names), rows))
        for place, name in enumerate(self.names):
            x[place] = check_kind(name, features[name], categorical=False)
        missing = np.isnan(x)
        x = np.where(missing, self._fill, x)
        with np.errstate(over="ignore"):
            made: Floats = np.rint((x - self._mean) / self._deviation * _SCALE) / _SCALE
        finite = np.isfinite(made)
        if not finite.all():
            name = self.names[int(np.flatnonzero(~finite.all(axis=1))[0])]
            raise ValueError(f"column '{name}' holds a number too large to be used")
        return made, missing
