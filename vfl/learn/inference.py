"""How sure the coefficients of a linear model are, from the information of all columns at its optimum.

With w the expected second derivative of each row's loss by its score (times the row's weight), X the
columns of all parties, the intercept among them, and A = X'WX + alpha (sum of weights) P, where P has
the penalty's squares (ones on the diagonal of all but the intercept, if levels are not drawn to their
means), coefficients have the covariance phi A^-1. Without a penalty that is the
inverse of Fisher's information, as R's summary.glm, statsmodels and glum have it. With one it is the
Bayesian covariance (Wahba 1983; Vp of R's mgcv): the penalty is a normal prior around zero, and
intervals cover the true coefficients on average over them; the spread of the penalised estimates alone,
which leaves their bias out, would be too short.

phi, the dispersion, is 1 for Poisson, negative binomial and logistic models, unless the job estimates
it as well (quasi-Poisson), else Pearson's statistic over the degrees of
freedom of the residuals; then tests are by Student's t and Fisher's F in place of the normal and chi
squared. Type III tests are Wald's, of all coefficients of a column together.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from vfl.arrays import Floats
from vfl.blocks.engine import ENGINE
from vfl.learn.leverage import StandingOut
from vfl.learn.likelihood import negative_binomial_likelihood
from vfl.learn.losses import Loss, NegativeBinomialLoss
from vfl.learn.matrix import Matrix

ALIASED = 2.0**-28
"""A direction of a party's columns is aliased if the others' leave less than this share of its length,
weighted: what Design.dependent takes for nothing within a party."""
LEVEL = 0.95  # of confidence intervals
_LOADED = 1e-4  # of the largest share that a column has in an aliased direction, to be named


@dataclass(frozen=True)
class JointTest:
    """A test of some coefficients together: chi squared, or Fisher's F where `of` is known."""

    statistic: float
    freedom: int
    of: int | None
    p_value: float

    @classmethod
    def by(cls, square: float, freedom: int, of: int | None) -> "JointTest":
        """Of a sum of squares in units of the dispersion."""
        from scipy.stats import chi2, f

        if of is None:
            return cls(square, freedom, None, float(chi2.sf(square, freedom)))
        return cls(square / freedom, freedom, of, float(f.sf(square / freedom, freedom, of)))


@dataclass(frozen=True)
class Alias:
    """A combination of a party's columns that others' columns make up as well."""

    places: tuple[int, ...]  # of the party's own columns that are in it
    parties: tuple[str, ...]  # whose columns make it up as well


@dataclass(frozen=True)
class Noise:
    """What was added to sums that a covariance comes from: with all columns of a party at right angles
    and of length 1, normal numbers on the products of two parties' columns. spread: their largest
    standard deviation; others: how many other parties there are."""

    spread: float
    others: int


@dataclass(frozen=True)
class Inference:
    """What a party knows of its own coefficients; of the guest's an intercept is the first."""

    covariance: tuple[float, ...] | None  # its upper triangle, row by row; None where any are aliased
    freedom: int | None = None  # of the residuals, where the dispersion was estimated from them
    aliases: tuple[Alias, ...] = ()
    constants: int = 0  # coefficients before those of columns: the guest's intercept
    standing_out: StandingOut | None = None  # why nothing was inferred: by which column rows do
    noise: Noise | None = None  # of the covariance; then `aliases` are what cannot be told from it

    @classmethod
    def of(cls, covariance: Floats, freedom: int | None) -> "Inference":
        """Of the whole covariance."""
        upper = covariance[np.triu_indices(len(covariance))]
        return cls(tuple(upper.tolist()), freedom)

    @property
    def matrix(self) -> Floats | None:
        """The covariance, shape (columns, columns); None where it is not known."""
        if self.covariance is None:
            return None
        size = (math.isqrt(8 * len(self.covariance) + 1) - 1) // 2
        full = np.zeros((size, size))
        full[np.triu_indices(size)] = self.covariance
        return np.asarray(full + np.triu(full, 1).T)

    @property
    def errors(self) -> Floats | None:
        """Standard errors, shape (columns,)."""
        return None if self.matrix is None else np.sqrt(np.maximum(np.diag(self.matrix), 0.0))

    def p_values(self, coefficients: Floats) -> Floats | None:
        """Of each coefficient, that it is zero; shape (columns,)."""
        from scipy.stats import norm, t

        if (errors := self.errors) is None:
            return None
        with np.errstate(divide="ignore", invalid="ignore"):
            size = np.abs(coefficients) / errors
        tail = norm.sf(size) if self.freedom is None else t.sf(size, self.freedom)
        return np.asarray(2 * tail)

    def intervals(self, coefficients: Floats, level: float = LEVEL) -> Floats | None:
        """Lower and upper ends, shape (2, columns)."""
        from scipy.stats import norm, t

        if (errors := self.errors) is None:
            return None
        tail = (1 - level) / 2
        reach = float(norm.isf(tail) if self.freedom is None else t.isf(tail, self.freedom)) * errors
        return np.array([coefficients - reach, coefficients + reach])

    def together(self, coefficients: Floats, places: Sequence[int]) -> JointTest | None:
        """Wald's test that all coefficients at these places are zero."""
        if self.matrix is None or not places:
            return None
        own, some = coefficients[list(places)], self.matrix[np.ix_(places, places)]
        length = np.sqrt(np.maximum(np.diag(some), 0.0))
        if not (length > 0).all():
            return None
        scaled = own / length
        square = float(scaled @ np.linalg.solve(some / np.outer(length, length), scaled))
        return JointTest.by(square, len(places), self.freedom)


@dataclass(frozen=True)
class FitSummary:
    """What the guest knows of a fit as a whole; sums over the rows that train."""

    rows: int  # with a weight above 0
    parameters: int  # of all parties, the intercept among them
    deviance: float
    null_deviance: float | None
    pearson: float
    dispersion: float  # that standard errors are of
    estimated: bool  # from Pearson's statistic
    log_likelihood: float | None  # None where it has no closed form (Tweedie), or under a penalty
    likelihood_parameters: int
    against_constant: JointTest | None  # likelihood ratio, of all columns
    against_own: JointTest | None  # likelihood ratio, of all hosts' columns beside the guest's

    @property
    def freedom(self) -> int:
        """Of the residuals."""
        return self.rows - self.parameters

    @property
    def residuals(self) -> int | None:
        """The freedom of the residuals where the dispersion was estimated from them."""
        return self.freedom if self.estimated else None

    @property
    def deviance_dispersion(self) -> float | None:
        return self.deviance / self.freedom if self.freedom > 0 else None

    @property
    def pearson_dispersion(self) -> float | None:
        return self.pearson / self.freedom if self.freedom > 0 else None

    @property
    def aic(self) -> float | None:
        """As R has it."""
        if self.log_likelihood is None:
            return None
        return 2 * (self.likelihood_parameters - self.log_likelihood)

    @property
    def bic(self) -> float | None:
        """As R has it."""
        if self.log_likelihood is None:
            return None
        return math.log(self.rows) * self.likelihood_parameters - 2 * self.log_likelihood


@dataclass(frozen=True)
class FittedRows:
    """The rows that train at the optimum; arrays of shape (rows,)."""

    loss: Loss
    label: Floats
    weight: Floats
    score: Floats

    @property
    def information(self) -> Floats:
        """The expected second derivative of each row's loss by its score."""
        return np.asarray(self.loss.information(self.score, self.weight))

    @property
    def pearson(self) -> float:
        """Pearson's statistic."""
        gradient, _ = self.loss.gradients(self.score, self.label, self.weight)
        information = self.information
        some = information > 0
        return math.fsum((np.square(gradient[some]) / information[some]).tolist())

    @property
    def deviance(self) -> float:
        return self.loss.deviance(self.score, self.label, self.weight) * float(self.weight.sum())

    def summary(
        self,
        parameters: int,
        before: Sequence[tuple[float, int] | None],
        penalised: bool,
        *,
        quasi: bool = False,
        profiled: bool = False,
    ) -> FitSummary | None:
        """All that is known of the fit; None where there are no more rows than parameters.

        `before`: the deviance, and the parameters, of the constant alone and of the guest's own columns.
        quasi: whether the dispersion is Pearson's whatever the family; there is no likelihood then.
        profiled: whether the parameter of the variance was estimated, too.
        """
        rows = int((self.weight > 0).sum())
        freedom = rows - parameters
        if freedom <= 0:
            return None
        pearson, deviance = self.pearson, self.deviance
        fixed = has_fixed_dispersion(self.loss) and not quasi
        dispersion = 1.0 if fixed else pearson / freedom
        of = None if fixed else freedom

        def ratio(smaller: tuple[float, int] | None) -> JointTest | None:
            if smaller is None or penalised or not dispersion > 0 or smaller[1] >= parameters:
                return None
            return JointTest.by(
                max(smaller[0] - deviance, 0.0) / dispersion, parameters - smaller[1], of
            )

        constant, own = before
        likelihood = None if penalised or quasi else self._log_likelihood(deviance, rows)
        return FitSummary(
            rows,
            parameters,
            deviance,
            None if constant is None else constant[0],
            pearson,
            dispersion,
            not fixed,
            likelihood,
            parameters + int(not fixed) + int(profiled),
            ratio(constant),
            ratio(own),
        )

    def _log_likelihood(self, deviance: float, rows: int) -> float | None:
        """As R's logLik of a glm has it."""
        from scipy.special import gammaln

        y, w, power = self.label, self.weight, self.loss.power
        some = w > 0
        y, w = y[some], w[some]
        if power is None:
            return -self.loss.mean(self.score, self.label, self.weight) * float(self.weight.sum())
        mean = self.loss.predict(self.score)[some]
        if isinstance(self.loss, NegativeBinomialLoss):
            return negative_binomial_likelihood(y, mean, w, self.loss.theta)
        if power == 1:
            return float((w * (y * np.log(mean) - mean - gammaln(y + 1))).sum())
        if power == 0:
            constant = rows * (math.log(2 * math.pi * deviance / rows) + 1)
            return float(np.log(w).sum() - constant) / 2 if deviance > 0 else None
        if power == 2 and deviance > 0:
            total = float(w.sum())
            shape = total / deviance
            each = shape * np.log(shape * y / mean) - shape * y / mean - np.log(y) - gammaln(shape)
            return float((w * each).sum())
        return None


def joint_information(matrices: Sequence[Matrix], weight: Floats, intercept: bool) -> Floats:
    """X'WX of the columns of all matrices, side by side; the intercept first, if there is one."""
    first, *others = matrices
    parties = [first.with_intercept() if intercept else first, *others]
    joint = Matrix(
        np.concatenate([np.asarray(ENGINE.gather(own.codes)) for own in parties]),
        tuple(size for own in parties for size in own.levels),
        np.concatenate([own.floats for own in parties]),
    )
    levels = np.cumsum([0, *(sum(own.levels) for own in parties)]).tolist()
    numbers = np.cumsum([levels[-1], *(own.numbers.shape[0] for own in parties)]).tolist()
    order = [
        place
        for k in range(len(parties))
        for place in (*range(levels[k], levels[k + 1]), *range(numbers[k], numbers[k + 1]))
    ]
    return np.asarray(joint.gram(weight)[np.ix_(order, order)])


def has_fixed_dispersion(loss: Loss) -> bool:
    """Whether the dispersion is 1: of Poisson, negative binomial and logistic models."""
    return loss.power is None or loss.power == 1


def inferences(
    information: Floats,
    parties: Mapping[str, int],
    penalty: Floats,
    dispersion: float,
    freedom: int | None,
) -> dict[str, Inference]:
    """What each party is to know of its own coefficients.

    `information` is X'WX of all parties' columns in their order, of so many columns each, `penalty` what
    the penalty adds to it, `freedom` that of the residuals where the dispersion was estimated.
    """
    matrix = information + penalty
    ends = np.cumsum([0, *parties.values()]).tolist()
    parts = [slice(a, b) for a, b in pairwise(ends)]
    lengths = [np.sqrt(np.diag(matrix)[part]) for part in parts]
    backs = [
        np.linalg.inv(np.linalg.cholesky(matrix[part, part] / np.outer(own, own))).T / own[:, None]
        for part, own in zip(parts, lengths, strict=True)
    ]
    white = np.block(
        [
            [back.T @ matrix[a, b] @ other for b, other in zip(parts, backs, strict=True)]
            for a, back in zip(parts, backs, strict=True)
        ]
    )
    aliased = aliased_parts(white, [*parties.values()])
    if aliased is not None:
        back_again = [back @ own for back, own in zip(backs, aliased, strict=True)]
        loads = [np.abs(own) * of[:, None] for own, of in zip(back_again, lengths, strict=True)]
        return {
            name: Inference(None, freedom, tuple(own))
            for name, own in zip(parties, aliases_of(loads, [*parties]), strict=True)
        }
    inverse = dispersion * np.linalg.inv(white)
    return {
        name: Inference.of(back @ inverse[part, part] @ back.T, freedom)
        for name, part, back in zip(parties, parts, backs, strict=True)
    }


def aliased_parts(white: Floats, sizes: Sequence[int]) -> list[Floats] | None:
    """Each party's part, shape (its columns, directions), of the directions in which columns of several
    parties are aliased; None where there are none.

    `white` is the information in coordinates in which each party's own part of it is the identity: what
    is left are the correlations between parties. Each party's directions are tried in turn against those
    of the parties before it, by the share that these leave of it.
    """
    ends = np.cumsum([0, *sizes]).tolist()
    found, kept = [], np.eye(ends[1])  # directions, in all coordinates so far, that stand alone
    for start, end in pairwise(ends[1:]):
        grown = np.vstack([kept, np.zeros((end - start, kept.shape[1]))])
        before = grown.T @ white[:end, :end] @ grown
        across = grown.T @ white[:end, start:end]
        solved = np.linalg.solve(before, across)
        shares, vectors = np.linalg.eigh(np.eye(end - start) - across.T @ solved)
        for share, vector in zip(shares, vectors.T, strict=True):
            direction = -(grown @ solved @ vector)
            direction[start:end] += vector
            if share <= ALIASED:
                found.append(np.concatenate([direction, np.zeros(ends[-1] - end)]))
        alone = np.zeros((end, int((shares > ALIASED).sum())))
        alone[start:end] = vectors[:, shares > ALIASED]
        kept = np.hstack([grown, alone])
    if not found:
        return None
    directions = np.array(found).T
    return [directions[a:b] for a, b in pairwise(ends)]


def aliases_of(loads: Sequence[Floats], names: Sequence[str]) -> list[list[Alias]]:
    """Of each party the combinations of its columns that are aliased, by how much each of its columns
    weighs in them, shape (columns, directions)."""
    told: list[list[Alias]] = [[] for _ in names]
    for k in range(loads[0].shape[1]):
        least = _LOADED * max(float(load[:, k].max(initial=0.0)) for load in loads)
        places = [tuple(np.flatnonzero(load[:, k] > least).tolist()) for load in loads]
        for own, name, at in zip(told, names, places, strict=True):
            others = [other for other, its in zip(names, places, strict=True) if its and other != name]
            if at:
                own.append(Alias(at, tuple(others)))
    return told
