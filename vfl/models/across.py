"""Pairs of levels of two parties in a linear model: of which columns, and what is kept of them."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from vfl.arrays import Floats
from vfl.errors import DataError
from vfl.learn.across import CrossedLevels, FittedCells, GuestLevels, OwnFactor, PairOfParties
from vfl.learn.binning import Features
from vfl.learn.design import Design
from vfl.learn.factors import Factor
from vfl.learn.params import GlmParams
from vfl.models.kind import PartyColumns
from vfl.protocols.common.chosen_words import MOST_LEVELS
from vfl.protocols.linear.fit import HostFit
from vfl.protocols.linear.plain import PlainPairs
from vfl.protocols.linear.scoring import GuestGlm, HostGlm, LinearPart
from vfl.text import counted, nearest_name

_NOT_BY_PARTS = (
    "has pairs of levels of two parties (across in [glm]), whose part of a row depends on both parties' "
    'levels, so that no directory can hold it: score it row by row, with lookup = "aligned", or train '
    "it without across"
)


def not_by_parts(model: object) -> str:
    """Why sealed directories cannot hold hosts' parts of a model; nothing if they can."""
    return _NOT_BY_PARTS if isinstance(model, GuestGlm | HostGlm) and model.across else ""


def guest_levels(
    table: str, design: Design, features: Features, params: GlmParams
) -> tuple[GuestLevels, ...]:
    """The guest's columns that hosts have pairs with, of all aligned rows. Raises DataError naming table
    and column for one without levels."""
    found = []
    for name in params.pairs.columns:
        factor = _factor(table, design, name)
        if len(factor.others) > MOST_LEVELS:
            raise DataError(
                f"{table}: column '{name}', which across in [glm] has, has more than {MOST_LEVELS} "
                "levels: group some of them",
                for_peer="a column of its own that the job's across has has too many levels",
            )
        levels = (factor.base, *factor.others)
        found.append(GuestLevels(name, levels, factor.codes(features[name])))
    return tuple(found)


def own_pairs(
    table: str, design: Design, host: str, params: GlmParams, least: int
) -> tuple[PairOfParties, ...]:
    """A host's pairs, in the job's order; `least`: rows of a cell by its own rules. Raises DataError
    naming table and column for one without levels."""
    firsts = np.cumsum([0, *(len(factor.others) for factor in design.factors)]).tolist()
    rows = {factor.name: row for row, factor in enumerate(design.factors)}
    pairs = []
    for column, name in params.pairs.with_host(host):
        factor = _factor(table, design, name)
        own = OwnFactor(rows[name], firsts[rows[name]], len(factor.others))
        pairs.append(PairOfParties(column, own, max(params.across_rows, least)))
    return tuple(pairs)


def _factor(table: str, design: Design, name: str) -> Factor:
    factors = {factor.name: factor for factor in design.factors}
    if name in factors and not factors[name].fused:
        return factors[name]
    if name in factors:
        why = "whose levels are fused: leave it out of fuse in [glm]"
    elif name in design.inputs:
        why = "which has no levels: list it under categorical in [data], or cut it into bands in [glm]"
    else:
        near = nearest_name(name, factors)
        why = "which is no feature" + (f": did you mean '{near}'?" if near else "")
    raise DataError(
        f"{table}: across in [glm] of the job has column '{name}', {why}",
        for_peer="across in [glm] of the job has a column that is none with levels at it: it is to be "
        "called as its owner calls it, not by a number",
    )


def plain_pairs(
    parties: Sequence[PartyColumns], designs: Mapping[str, Design], params: GlmParams
) -> PlainPairs | None:
    """What the job's pairs are of, by who has all tables, the guest's first. Raises as `guest_levels`
    and `own_pairs`."""
    if not params.across:
        return None
    guest, *hosts = parties
    columns = guest_levels(guest.table, designs[guest.party], guest.features, params)
    of_hosts = {
        own.party: own_pairs(
            own.table, designs[own.party], own.party, params, own.rules.glm.min_level_rows
        )
        for own in hosts
    }
    return PlainPairs(columns, of_hosts)


def named_cells(
    across: PlainPairs | None, fitted: Sequence[FittedCells], params: GlmParams
) -> tuple[FittedCells, ...]:
    """The cells of a plain fit with what their host is told of the guest's levels."""
    if across is None or not params.across_names:
        return tuple(fitted)
    return tuple(replace(one, names=across.columns[one.cells.pair.column].levels) for one in fitted)


def host_half(design: Design, params: GlmParams, names: tuple[str, str], fit: HostFit) -> HostGlm:
    """What a host keeps of a fit. names: the guest's and its own."""
    own = len(design.coefficients)
    part = LinearPart(design, tuple(fit.coefficients[:own].tolist()))
    across = _kept_cells(design, params, names, fit, fit.coefficients[own:])
    return HostGlm(part, fit.converged, fit.inference, across)


def _kept_cells(
    design: Design, params: GlmParams, names: tuple[str, str], fit: HostFit, coefficients: Floats
) -> tuple[CrossedLevels, ...]:
    guest, host = names
    others = {factor.name: factor.others for factor in design.factors}
    kept, first = [], 0
    pairs = params.pairs.with_host(host) if fit.across else []
    for (column, name), one in zip(pairs, fit.across, strict=True):
        cells, own = one.cells, others[name]
        values = coefficients[first : first + len(cells.cells)]
        first += len(values)
        numbers = tuple(f"level {number}" for number in range(cells.counts.shape[0]))
        kept.append(
            CrossedLevels(
                column,
                f"{guest}:{params.pairs.columns[column]}",
                name,
                one.names or numbers,
                tuple((level, own[code - 1]) for level, code in cells.cells),
                cells.rows,
                tuple(values.tolist()),
                cells.few,
                cells.dependent,
            )
        )
    return tuple(kept)


def said_cells(kept: Sequence[CrossedLevels]) -> list[str]:
    """What became of pairs of levels, for their owner."""
    said = []
    for one in kept:
        text = f"{one.name}: {counted(len(one.cells), 'cell')}"
        if one.few:
            text += f", {one.few:,} with too few rows rated as their two levels say"
        if one.dependent:
            text += f", {one.dependent:,} left out that the others make up"
        said.append(text)
    return said
