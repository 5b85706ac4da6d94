"""How much the variance of a column's coefficients is inflated by other columns, in one place or by the
blocks of several parties.

Of one numeric column it is the VIF: 1 / (1 - R^2), where R^2 is that of the column on all others. Of
the levels of a factor it is the generalised one (Fox and Monette, JASA 87, 1992), det(R11) det(R22) /
det(R), to the power 1 / (levels less one), which is on the scale of a VIF. Both follow from the inverse
of the centred X'X alone: det(R22) / det(R) is the determinant of the columns' own block of the inverse
of R. A party that has this block of its columns needs nothing else of others.

Noise on the sums that the block comes from makes an inflation uncertain. With each party's columns at
right angles and of length 1, G all parties' products, E the noise, normal of standard deviation s on the
products of two parties, and g = G^-1 a of a column a of a party's, the inflation V = a'G^-1 a changes by
-g'Eg to first order. With p the party's part of g and q the others', the variance of that is
4 s^2 |p|^2 |q|^2, and at most 2 s^2 |q|^4 (1 - 1/k) more of k others among themselves. |p|^2 is
a'B^2 a, B the party's block of G^-1, and |q|^2 is a'(B^2 - B)a if the others' columns are at right
angles; so the party sees how uncertain it is. Of a column that one of another party's goes with alone
the standard deviation is 2 s root(V(V - 1)) of V, and 1/V, what others leave of it, is off by 2 s at
most, whatever V is.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from vfl.arrays import Floats, Integers, Mask
from vfl.blocks.columns import change_each
from vfl.learn.binning import Features
from vfl.learn.design import Design
from vfl.learn.factors import Rules
from vfl.learn.inference import Inference, Noise
from vfl.learn.leverage import standing_out
from vfl.learn.matrix import Matrix, Whole

_WITHIN = 2.0  # standard deviations of the noise, within which it is 95 times in a hundred
_BOUNDED = 4.0  # within which it nearly always is


@dataclass(frozen=True)
class Inflation:
    """Of one column. doubt: the standard deviation of the noise, by the share of `value`."""

    value: float
    doubt: float = 0.0

    @property
    def least(self) -> float:
        """Noise on 1 / value makes as large a figure of less 2.5 times in a hundred."""
        return max(1.0, self.value / (1 + _WITHIN * self.doubt))

    @property
    def most(self) -> float:
        """As `least`; infinite where others may make the column up as far as noise lets be seen."""
        return np.inf if _BOUNDED * self.doubt >= 1 else self.value / (1 - _WITHIN * self.doubt)

    @property
    def said(self) -> str:
        """To as many decimals, two at most, as noise leaves."""
        if np.isinf(self.value):
            return "no bound"
        if np.isinf(self.most):
            return f"at least {self.least:.1f}"
        within = self.most - self.value
        places = 2 if within < 0.1 else 1 if within < 1 else 0
        text = f"{self.value:.{places}f}"
        return f"{text} ± {max(within, 0.01):.{places}f}" if self.doubt else text


@dataclass(frozen=True)
class InflationDesign:
    """A party's columns as inflation is of them.

    places: of each column of the table where its columns of the matrix are. gram: their centred X'X.
    left_out: why a column is not among them, by its name. made_up: columns that the party's own others
    make up, whose inflation has no bound.
    """

    design: Design
    places: Mapping[str, list[int]]
    gram: Floats
    left_out: Mapping[str, str]
    made_up: Sequence[str]

    @classmethod
    def of(
        cls,
        features: Features,
        training: Mask,
        least: int,
        most: float = 1.0,
        about: Sequence[Integers] = (),
    ) -> tuple["InflationDesign", Whole]:
        """With the matrix of all rows, by the rows that train: numbers as they are, categories by their
        levels of `least` rows. Columns by which a row has a leverage above `most` are left out, or
        rows that have one number in `about` (`standing_out`), of all rows, too."""
        plain = Rules(missing="mean", min_level_rows=least)
        of_training = change_each(features, lambda values: values[training])
        left_out, usable = {}, []
        for name, values in of_training.items():
            try:
                alone = Design.fit({name: values}, plain)
            except ValueError as error:
                left_out[name] = str(error)
            else:
                if all(min(factor.rows) >= plain.min_level_rows for factor in alone.factors):
                    usable.append(name)
                else:
                    left_out[name] = f"column '{name}' has one level of enough rows"
        made_up: list[str] = []
        while True:
            design = Design.fit({name: of_training[name] for name in usable}, plain)
            matrix = design.matrix({name: features[name] for name in usable}, len(training))
            own = matrix.take(training)
            dependent = dict.fromkeys(name for name, _ in design.dependent(own))
            if not dependent:
                found = standing_out(own, most, about=[numbers[training] for numbers in about])
                if found is None:
                    break
                name = design.coefficients[found.place][0]
                left_out[name] = (
                    f"column '{name}' makes single rows stand out, with a leverage of "
                    f"{found.leverage:.2f} where max_leverage is {most:g}: raise min_level_rows, bring "
                    "more rows, or raise max_leverage in [screen], where hosts allow it"
                )
                usable.remove(name)
                continue
            # The last that others before it make up: without it the next may be made up no more.
            made_up.append([*dependent][-1])
            usable.remove(made_up[-1])
        return cls(design, _places(design), _centred(own), left_out, made_up), matrix

    def inflations(self, found: Inference, columns: Sequence[str]) -> dict[str, float | None]:
        """Of columns of the table, by the block of the party's coefficients; infinite where others make
        a column up, in which case nothing is known of the rest: None."""
        alone = dict.fromkeys((name for name in columns if name in self.made_up), np.inf)
        covariance = self._block(found)
        if covariance is not None:  # of noisy sums, too
            known = inflations(covariance, self.gram, self.places)
            return {name: known.get(name, alone.get(name)) for name in columns}
        aliased = dict.fromkeys(self.aliased(found), np.inf)
        return {name: aliased.get(name, alone.get(name)) for name in columns}

    def judged(self, found: Inference, columns: Sequence[str]) -> dict[str, Inflation]:
        """As `inflations`, with how uncertain they are; without those of which nothing is known."""
        covariance, doubt = self._block(found), dict[str, float]()
        if covariance is not None and found.noise is not None:
            doubt = doubts(covariance, self.gram, self.places, found.noise)
        return {
            name: Inflation(max(value, 1.0), doubt.get(name, 0.0))  # by noise it may be less
            for name, value in self.inflations(found, columns).items()
            if value is not None
        }

    def aliased(self, found: Inference) -> list[str]:
        """Columns that others make up, or that noise does not tell from such."""
        bad = {place - found.constants for alias in found.aliases for place in alias.places}
        return [name for name, own in self.places.items() if bad & {*own}]

    def alone(self) -> dict[str, float | None]:
        """As `inflations` of the party's columns without any other's."""
        found: dict[str, float | None] = dict.fromkeys(self.made_up, np.inf)
        if len(self.gram):
            found |= inflations(np.asarray(np.linalg.inv(self.gram)), self.gram, self.places)
        return found

    def inflated(
        self,
        found: Inference | None,
        dropped: Sequence[str],
        most: float,
        kept: Sequence[str] = (),
    ) -> list[str]:
        """Columns to leave out, the most inflated first, one after the other, until no other of this
        party's but those that are `kept` is inflated beyond `most`; those that are `dropped` count no
        more. `found`: the block of the party's coefficients among all parties', None for its own columns
        alone."""
        covariance = np.asarray(np.linalg.inv(self.gram)) if found is None else self._block(found)
        gone = [name for name in self.made_up if name not in dropped]
        if covariance is None or not len(self.gram):
            return gone
        places = dict(self.places)
        for name in dropped:
            if name in places:
                covariance = _without(covariance, places.pop(name))
        while True:
            known = inflations(covariance, self.gram, places)
            known = {name: one for name, one in known.items() if name not in kept}
            worst = max(known, key=lambda name: known[name], default=None)
            if worst is None or not known[worst] > most:
                return gone
            gone.append(worst)
            covariance = _without(covariance, places.pop(worst))

    def _block(self, found: Inference) -> Floats | None:
        """The inverse of all parties' X'X at this party's columns, without the intercept's."""
        if found.matrix is None:
            return None
        free = found.constants
        return found.matrix[free:, free:]


def inflations(
    covariance: Floats, gram: Floats, places: Mapping[str, Sequence[int]]
) -> dict[str, float]:
    """By column, from its block of the inverse and the centred X'X of the party's columns."""
    found = {}
    for name, own in places.items():
        at = np.ix_(own, own)
        # Of correlations, by the lengths of the columns: numbers of any unit have a determinant.
        length = np.sqrt(np.diag(gram)[own])
        of_own = np.linalg.slogdet(gram[at] / np.outer(length, length))
        of_rest = np.linalg.slogdet(covariance[at] * np.outer(length, length))
        found[name] = float(np.exp((of_own[1] + of_rest[1]) / len(own)))
    return found


def doubts(
    covariance: Floats, gram: Floats, places: Mapping[str, Sequence[int]], noise: Noise
) -> dict[str, float]:
    """By column the standard deviation of the noise in its inflation, by the share of that; as of
    `inflations`. Of a factor to first order of the sum over columns that span it."""
    square, found = covariance @ gram @ covariance, {}
    for name, own in places.items():
        at = np.ix_(own, own)
        both = np.linalg.solve(covariance[at], square[at])
        rest = both - np.eye(len(own))
        others = 2 * (1 - 1 / noise.others) * np.trace(rest @ rest)
        variance = 4 * np.trace(both @ rest) + others
        found[name] = float(noise.spread * np.sqrt(max(variance, 0.0)) / len(own))
    return found


def unbounded(covariance: Floats, gram: Floats, noise: Noise) -> tuple[int, ...]:
    """The places of columns that noise does not tell from such as others make up."""
    each = {str(place): [place] for place in range(len(gram))}
    found = doubts(covariance, gram, each, noise)
    return tuple(int(place) for place, one in found.items() if _BOUNDED * one >= 1)


def _without(covariance: Floats, places: Sequence[int]) -> Floats:
    """The inverse when some columns are left out, whose entries are zero from then on."""
    own = [*places]
    inner = np.linalg.solve(covariance[np.ix_(own, own)], covariance[own])
    reduced = covariance - covariance[:, own] @ inner
    reduced[own] = reduced[:, own] = 0.0
    return np.asarray(reduced)


def _places(design: Design) -> dict[str, list[int]]:
    found: dict[str, list[int]] = {}
    for place, (name, _) in enumerate(design.coefficients):
        found.setdefault(name, []).append(place)
    return found


def _centred(matrix: Matrix) -> Floats:
    mean = matrix.transposed_times(np.ones(matrix.rows)) / matrix.rows
    return np.asarray(matrix.gram() - matrix.rows * np.outer(mean, mean))
