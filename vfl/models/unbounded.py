"""Levels that tell the label without error: without a penalty their best coefficient is infinite.

A level without any claim is one, or in a model of a 0/1 label a level whose rows are all 0 or all 1. The
owner of the column is told its name and the level's; peers hear no more than whose columns they are.
"""

from collections.abc import Sequence

import numpy as np

from vfl.blocks.engine import ENGINE
from vfl.errors import PeerStopped
from vfl.learn.across import CrossedLevels
from vfl.learn.design import MISSING, Design
from vfl.learn.losses import Link, LogisticLoss
from vfl.learn.matrix import Whole
from vfl.protocols.common.rows import Training
from vfl.protocols.linear.start import SeparableLabel

_FAR = 8.0  # a relativity of 3,000 against the level that most rows have, or a 3,000th
_NAMED = 3  # levels that a line names at most

HELP = (
    "join such a level to another (group or min_level_rows in [glm]), list its column under credible in "
    "[glm] for a job with credibility = true, or set the job's alpha above 0"
)

Names = list[tuple[str, str]]


def unbounded_levels(design: Design, coefficients: Sequence[float], link: Link, alpha: float) -> Names:
    """Columns and levels whose coefficients have run away from those of the column's other levels; of a
    numeric column the level is "". None under an identity link and under a penalty."""
    if alpha > 0 or link == "identity":
        return []
    of = dict(zip(design.coefficients, coefficients, strict=True))
    found: Names = []
    for factor in design.factors:
        values = [of.pop((factor.name, level), 0.0) for level in factor.levels]
        most = values[int(np.argmax(factor.rows))]
        found += [
            (factor.name, level)
            for level, value in zip(factor.levels, values, strict=True)
            if abs(value - most) > _FAR
        ]
    curves = {curve.name for curve in design.curves}
    far = [key for key, value in of.items() if abs(value) > _FAR]
    far = [(name, "" if name in curves and level != MISSING else level) for name, level in far]
    return [*dict.fromkeys(found + far)]


def unbounded_cells(cells: Sequence[CrossedLevels], link: Link, alpha: float) -> Names:
    """The same of pairs of the guest's levels and own ones, each by the pair's name and the cell's."""
    if alpha > 0 or link == "identity":
        return []
    return [(one.name, level) for one in cells for level, value, _ in one.lines if abs(value) > _FAR]


def same_label_levels(design: Design, matrix: Whole, rows: Training) -> Names:
    """Levels of the guest's columns whose rows that train have no label above 0, or in a model of a 0/1
    label the same one."""
    weighted = rows.weight[rows.train] > 0
    codes = ENGINE.gather(matrix.take(rows.train).codes)[:, weighted]
    label = rows.label[rows.train][weighted]
    found: Names = []
    factors = [(one.name, [one.base, *one.others]) for one in design.factors]
    pairs = [(one.name, ["", *one.levels]) for one in design.crossings]
    for own, (name, levels) in zip(codes, [*factors, *pairs], strict=False):
        counts = np.bincount(own, minlength=len(levels))
        above = np.bincount(own[label > 0], minlength=len(levels))
        same = above == 0
        if isinstance(rows.loss, LogisticLoss):
            same |= above == counts
        found += [(name, level) for level, yes in zip(levels, same & (counts > 0), strict=True) if yes]
    return [(name, level) for name, level in found if level]


def say(names: Names) -> str:
    """Columns and levels in a line for their owner."""
    told = [f"column '{column}'" + (f" at level '{level}'" if level else "") for column, level in names]
    if len(told) > _NAMED:
        told = [*told[:_NAMED], f"{len(told) - _NAMED:,} more"]
    tells = "tells" if len(told) == 1 else "tell"
    return f"{', '.join(told)} {tells} the label without error (no claim at all, say)"


def name_own_levels(error: SeparableLabel, names: Names) -> SeparableLabel:
    """The error of a fit without a finite optimum, with the guest's own levels."""
    if not names:
        return SeparableLabel(
            f"{error} (no level of this party's own columns does: a host is told the names of its own)",
            for_peer=error.for_peer,
        )
    return SeparableLabel(
        f"the label is separable: {say(names)}, so that its best coefficient is infinite: set alpha "
        "above 0 in [glm], or join levels (group or min_level_rows), or list the column under "
        "credible in [glm] for a job with credibility = true",
        for_peer="columns of the guest's own separate the label without error: the job needs alpha "
        "above 0",
    )


def name_host_levels(error: PeerStopped, names: Names) -> PeerStopped:
    """What a peer said when it ended the fit, with this party's own levels."""
    if not names:
        return error
    told = PeerStopped(
        f"{error}; of this party's own columns {say(names)}: {HELP}",
        for_peer=error.for_peer,
        passing=error.passing,
    )
    told.until_tomorrow = error.until_tomorrow
    return told
