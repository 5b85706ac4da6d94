"""A penalty on levels that is the same whatever their base: towards the mean of each factor.

What a factor adds to scores is known up to a constant, which the intercept takes up. Penalised is how
far each level, the base level among them, lies from the factor's mean, weighted by the rows or the
exposure of its levels: for effects b, of which the base level's is 0, and shares w of the levels,

    sum over levels l of (b_l - sum_k w_k b_k)^2.

A level of few rows is so drawn to what the factor says on average, as credibility has it, and a table of
relativities against another base level is the same model. Bands that are fused (steps.py) are drawn to
their neighbours instead, a missing value to the mean of all.

A factor may be credible instead: with k of it, and u_l how far level l is from their plain mean,

    k / 2 sum over levels l of u_l^2

is added to the negative log-likelihood (dispersion 1) of the rows that train, whatever the penalty of
the others: levels are effects drawn from a normal distribution of variance 1 / k, of which this is the
most likely draw. The mean has no penalty, the constant takes it up: it is the collective's, to which
levels count by their credibility, as in Buehlmann and Straub's model, which it is for normal labels. To
first order a level with n expected claims (under an identity link: rows) is drawn to it by the
credibility n / (n + k): with exposure E, and the collective's frequency m, by E / (E + K), K = k / m.

Of two factors with an interaction, f(i, j) is
what they and it add together: its means by one factor's level, with the other's shares, are the main
effects, each penalised about its mean, and what is left of f(i, j) is penalised as it is. Where every
pair of levels has a coefficient that, too, is the same in any base. Numbers have no base: their
coefficients are penalised themselves, and so is that of a missing number.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from vfl.arrays import Floats
from vfl.blocks.engine import ENGINE
from vfl.learn.crossings import Crossing
from vfl.learn.design import MISSING, Design
from vfl.learn.matrix import Matrix, Penalty
from vfl.learn.newton import times
from vfl.learn.steps import squares_of_steps


def penalty_of(
    design: Design, sizes: Mapping[str, Floats] | None, rows: int, *, by_steps: bool
) -> Penalty:
    """How a party's own columns are penalised, where `rows` train.

    sizes: as `towards_means`, or None where levels are drawn to the base. `by_steps`: whether columns
    that are fused are fitted by their steps, as under an l1_ratio.
    """
    penalty = Penalty()
    fused = any(factor.fused for factor in design.factors)
    credible = any(factor.credible for factor in design.factors)
    if sizes is not None or credible or (fused and not by_steps):
        form = np.eye(len(design.coefficients)) if sizes is None else towards_means(design, sizes)
        penalty = Penalty(_with_own(design, form, sizes))
    if credible:
        penalty = replace(penalty, credible=_credible(design, rows))
    return replace(penalty, steps=design.steps) if by_steps else penalty


def _with_own(design: Design, form: Floats, sizes: Mapping[str, Floats] | None) -> Floats:
    """The form with neighbours drawn together where levels are fused, and nothing for credible ones."""
    chains, found, first = design.steps.chains, form.copy(), 0
    for factor in design.factors:
        own = range(first, first + len(factor.others))
        first = own.stop
        if not (factor.fused or factor.credible):
            continue
        found[own.start : own.stop] = found[:, own.start : own.stop] = 0.0
        if not factor.fused:
            continue
        found += squares_of_steps(len(form), [chain for chain in chains if chain[0] in own])
        if MISSING in factor.others:
            apart = np.zeros(len(form))
            apart[own.stop - 1] = 1.0
            if sizes is not None:
                apart[own.start : own.stop] -= _shares(sizes[factor.name])[1:]
            found += np.outer(apart, apart)
    return found


def _credible(design: Design, rows: int) -> Floats:
    """The form of the penalty on credible factors, in units of the mean loss."""
    found, first = np.zeros((len(design.coefficients),) * 2), 0
    for factor in design.factors:
        own = slice(first, first + len(factor.others))
        first = own.stop
        if factor.credible:
            count = own.stop - own.start
            about = np.eye(count) - np.full((count, count), 1 / (count + 1))
            found[own, own] = factor.credible / rows * about
    return found


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
