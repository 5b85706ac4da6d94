"""Which times the last share of all clients' rows is of, from totals of counts.

 1. All make sure that their times are of one kind, numbers or dates, and add up how many rows they have.
    Times are ordered as integers of 64 bits (bins.py). The cell in which the cut lies is all of them.
 2. All add up how many rows are in each quarter of that cell. The cut lies in the last quarter from
    whose beginning on there are as many rows as the share wants. Again with that one, in 32 rounds at
    most, until it has no more than LEAST_ROWS rows or is a single time.
 3. The cut is the beginning of the cell, or its end, where the number of rows from there on is nearer to
    the share: of two as near, the end. At least one row is before it, and one after.

Where a time has more rows than LEAST_ROWS, as a week has, the cut is that of all rows in one place
(learn/holdout.py); of finer times it is right to so many rows.

Learned by all clients: the cut, how many rows of all of them together are before and after it, and in
each quarter of the cells on the way, of which none with so few rows is cut.
"""

import asyncio
from dataclasses import replace

import numpy as np

from vfl.arrays import Floats, Mask
from vfl.errors import ConfigError, DataError
from vfl.learn.holdout import Cuts, split_at
from vfl.protocols.pooled.bins import LEAST_ROWS, ROUNDS, Cells, keys_of, numbers_of
from vfl.protocols.pooled.totals import Totals, unfit


async def common_cuts(
    totals: Totals,
    times: tuple[Floats, bool],
    draw: Floats | None,
    shares: tuple[float, float],
) -> Cuts:
    """The times from which on rows are held out, and from which on those of the rest decide when to
    stop; `shares` of each.

    times: of this client's rows, float64 (rows,), and whether they are dates. draw: of each row's group,
    where rows are split by groups as well. Raises ConfigError for times of two kinds, DataError where
    rows have one time alone.
    """
    moments, dated = times
    kinds = np.array([dated, not dated]) & bool(len(moments))
    own = np.array([len(moments)], np.int64)
    found, (rows,) = await totals.of([totals.flags(kinds), own], "kinds of times")
    if found.all():
        text = "the column of times has dates at some parties and numbers at others: write it alike"
        raise ConfigError(text, for_peer=text)
    holdout, share = shares
    cuts, every = Cuts(), np.ones(len(moments), np.bool_)
    if holdout:
        at = await _cut(totals, moments, every, (holdout, int(rows)), "held out")
        cuts = Cuts(at)
    if share:
        rest = split_at(draw, moments, cuts, holdout, 0.0).train
        (left,) = await totals.of([np.array([rest.sum()], np.int64)], "rows that are not held out")
        cuts = Cuts(
            cuts.held_out, await _cut(totals, moments, rest, (share, int(left[0])), "to stop by")
        )
    return cuts


async def _cut(
    totals: Totals, moments: Floats, among: Mask, wanted: tuple[float, int], what: str
) -> float:
    """The time from which on as many of these rows are as come nearest to a share of all clients'."""
    share, rows = wanted
    due = share * rows
    keys = await asyncio.to_thread(keys_of, moments[among])
    cell, after = Cells.whole(rows), 0  # the cell, and how many rows are after it
    for number in range(1, ROUNDS + 1):
        count = int(cell.count.sum())
        if not cell.width.any() or (count <= LEAST_ROWS and count < rows):
            break
        parts = cell.parts()
        asked = f"times {what}, round {number}"
        (counts,) = await totals.of([parts.count_in(keys)], asked)
        if (counts < 0).any() or counts.sum() > count:
            raise unfit(asked, "counts do not add up")
        on = after + np.cumsum(counts[::-1])[::-1]  # rows from the beginning of each quarter on
        quarter = max(0, int((on >= due).sum()) - 1)
        after = int(on[quarter] - counts[quarter])
        cell = replace(parts, count=counts).of(np.arange(4) == quarter)
    # Of two that are as near, the fewer rows.
    ends = [(after, cell.last + np.uint64(1)), (after + int(cell.count.sum()), cell.start)]
    fitting = [end for end in ends if 0 < end[0] < rows]
    if not fitting:
        raise DataError(
            "all rows of all parties that could be kept back by time have the same time: take time out "
            "of [job], or lower holdout or validation_share",
            for_peer="the rows of all parties have one time alone",
        )
    _, at = min(fitting, key=lambda end: abs(end[0] - due))
    return float(numbers_of(at)[0])
