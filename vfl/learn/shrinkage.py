"""A penalty on levels that is the same whatever their base: towards the mean of each factor.

What a factor adds to scores is known up to a constant, which the intercept takes up. Penalised is how
far each level, the base level among them, lies from the factor's mean, weighted by the rows or the
exposure of its levels: for effects b, of which the base level's is 0, and shares w of the levels,

    sum over levels l of (b_l - sum_k w_k b_k)^2.

A level of few rows is so drawn to what the factor says on average, as credibility has it, and a table of
relativities against another base level is the same model. Of two factors with an interaction, f(i, j) is
what they and it add together: its means by one factor's level, with the other's shares, are the main
effects, each penalised about its mean, and what is left of f(i, j) is penalised as it is. Where every
pair of levels has a coefficient that, too, is the same in any base. Numbers have no base: their
coefficients are penalised themselves, and so is that of a missing number.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from vfl.arrays import Floats
from vfl.blocks.engine import ENGINE
from vfl.learn.crossings import Crossing
from vfl.learn.design import Design
from vfl.learn.matrix import Matrix
from vfl.learn.newton import times


def level_sizes(design: Design, matrix: Matrix, exposure: Floats | None) -> dict[str, Floats]:
    """The rows of a matrix, or their exposure, of each factor's base level and of its other levels in
    order."""
    codes = ENGINE.gather(matrix.codes)
    return {
        factor.name: np.bincount(own, exposure, len(factor.others) + 1).astype(np.float64)
        for factor, own in zip(design.factors, codes, strict=False)
    }


def stored_sizes(design: Design) -> dict[str, Floats]:
    """The same of the rows that a design was fitted to."""
    found = {}
    for factor in design.factors:
        rows = dict(zip(factor.levels, factor.rows, strict=True))
        base = rows[factor.base] + sum(factor.joined_rows)
        found[factor.name] = np.array([base, *(rows[level] for level in factor.others)], np.float64)
    return found


def towards_means(design: Design, sizes: Mapping[str, Floats]) -> Floats:
    """The matrix P of which beta' P beta is penalised, shape (columns, columns), given the size of each
    factor's levels, the base level's first.

    By sums and products of single numbers in order: the same, bit for bit, on every machine.
    """
    shares = {name: _shares(of) for name, of in sizes.items()}
    pairs = design.coefficients
    columns = {name: [at for at, (own, _) in enumerate(pairs) if own == name] for name, _ in pairs}
    levels = sum(design.levels) - sum(one.indicator for one in design.numeric)
    form = np.diag((np.arange(len(pairs)) >= levels).astype(np.float64))
    crossed = {one.name: _cells(design, one) for one in design.crossings}

    def penalise(deviations: Floats, of: Sequence[int]) -> None:
        form[np.ix_(of, of)] += times(deviations.T, deviations)

    for factor in design.factors:
        own = columns[factor.name]
        parts = [np.vstack([np.zeros(len(own)), np.eye(len(own))])]
        for crossing in design.crossings:
            if factor.name in crossing.columns:
                axis = crossing.columns.index(factor.name)
                other = shares[crossing.columns[1 - axis]]
                parts.append(_mean(crossed[crossing.name], other, 1 - axis))
                own = own + columns[crossing.name]
        effects = np.hstack(parts)
        penalise(effects - _mean(effects, shares[factor.name], 0), own)
    for crossing in design.crossings:
        first, second = (shares[name] for name in crossing.columns)
        cells = crossed[crossing.name]
        cells = cells - _mean(cells, first, 0)
        cells = cells - _mean(cells, second, 1)[:, np.newaxis]
        penalise(cells.reshape(-1, cells.shape[2]), columns[crossing.name])
    return form


def _shares(sizes: Floats) -> Floats:
    """What part of the whole each level is; of a whole of nothing, as by no exposure, equal parts."""
    total = np.cumsum(sizes)[-1]
    return sizes / total if total > 0 else np.full(len(sizes), 1 / len(sizes))


def _mean(effects: Floats, shares: Floats, axis: int) -> Floats:
    """The mean of effects over the levels along an axis, summed in order."""
    moved = np.moveaxis(effects, axis, 0)
    total = np.zeros(moved.shape[1:])
    for share, own in zip(shares.tolist(), moved, strict=True):
        total += share * own
    return total


def _cells(design: Design, crossing: Crossing) -> Floats:
    """Which coefficient of a crossing each pair of levels has, shape (levels of the first factor, of the
    second, coefficients), base levels first."""
    others = {factor.name: factor.others for factor in design.factors}
    table = crossing.table(*(others[name] for name in crossing.columns))
    return np.asarray(table[:, :, np.newaxis] == np.arange(1, len(crossing.cells) + 1)).astype(
        np.float64
    )
