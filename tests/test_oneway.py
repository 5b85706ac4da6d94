"""Tables by hosts' factors, over memory: against sums of the same numbers in one place."""

import itertools

import numpy as np
import pytest
from lattice_batches import small_batches
from memory import over_memory
from paillier_key import quick_key

from vfl.learn.cells import Factor, column_of, counts_of, factor_of
from vfl.learn.fixed_point import FixedPoint
from vfl.protocols.common.participant import Resources
from vfl.protocols.oneway import sums as oneway_sums
from vfl.protocols.oneway.host_cells import HostCells, cells_of_factors
from vfl.protocols.oneway.sums import HostTerms, Slots
from vfl.protocols.oneway.tables import guest_table, host_table

ROWS, LEAST = 3000, 20
RNG = np.random.default_rng(7)
AGE = np.where(RNG.random(ROWS) < 0.05, np.nan, RNG.integers(18, 80, ROWS).astype(float))
AREA = np.array(["north", "south", "east", None], object)[RNG.choice(4, ROWS, p=[0.5, 0.3, 0.15, 0.05])]
EXPOSURE = RNG.random(ROWS)
CLAIMS = RNG.poisson(0.1 * EXPOSURE).astype(float)
AMOUNTS = np.round(CLAIMS * RNG.lognormal(7, 1, ROWS), 2)
MEASURES = [FixedPoint.of(values) for values in (EXPOSURE, CLAIMS, AMOUNTS)]


def host_factor(chosen):
    column = column_of("age", AGE, 8, LEAST)
    factor = factor_of(column, AGE[chosen])
    counts = counts_of(factor.codes, len(factor.levels))
    return factor.grouped(counts, LEAST)


def cells_of(chosen):
    factor = host_factor(chosen)
    counts = counts_of(factor.codes, len(factor.levels))
    return HostCells([list(factor.levels)], factor.codes, counts, LEAST)


def run(encryption, chosen=None, group=None, cells=cells_of, counted=None):
    measures = (
        MEASURES
        if chosen is None
        else [FixedPoint(one.numbers[chosen], one.decimals) for one in MEASURES]
    )
    counts = [] if counted is None else counted

    async def guest(peers):
        return await guest_table(peers[0], chosen, measures, group, Resources())

    async def host(name, peer):
        await host_table(peer, ROWS, cells, HostTerms(encryption, 2048), counts.append, Resources())

    with quick_key(), small_batches():
        return over_memory(["bureau"], guest, host)[0]


@pytest.mark.parametrize("encryption", ["lattice", "paillier"])
@pytest.mark.parametrize("held_out", [False, True])
def test_sums_by_a_hosts_levels_are_those_of_one_table(encryption, held_out):
    chosen = RNG.random(ROWS) < 0.3 if held_out else np.ones(ROWS, bool)
    counted = []
    told = run(encryption, chosen if held_out else None, counted=counted)
    factor = host_factor(chosen)
    assert told.levels == [list(factor.levels)]
    for measure, sums in zip(MEASURES, told.sums, strict=True):
        own = measure.numbers[chosen]
        assert [one for (one,) in sums] == [
            int(own[factor.codes == i].sum()) for i in range(len(factor.levels))
        ]
    assert told.rows.sum() == chosen.sum() and told.rows.min() >= LEAST
    assert 0 < counted[0] < 0.2


def own_factor(least):
    names = ("north", "south", "east", "(missing)")
    codes = np.array([names.index(one or "(missing)") for one in AREA])
    return Factor(names, codes).grouped(counts_of(codes, 4), least)


@pytest.mark.parametrize("encryption", ["lattice", "paillier"])
def test_sums_by_factors_of_two_parties_are_those_of_one_table(encryption):
    told = run(encryption, group=own_factor)
    theirs, own = host_factor(np.ones(ROWS, bool)), own_factor(LEAST)
    assert told.own == own.levels
    withheld = 0
    for cell in range(len(theirs.levels)):
        for group in range(len(own.levels)):
            rows = (theirs.codes == cell) & (own.codes == group)
            if told.rows[cell, group] < 0:
                withheld += 1
                assert all(sums[cell][group] is None for sums in told.sums)
                continue
            assert told.rows[cell, group] == rows.sum() >= LEAST
            for measure, sums in zip(MEASURES, told.sums, strict=True):
                assert sums[cell][group] == int(measure.numbers[rows].sum())
    assert withheld


def test_two_factors_of_a_host_are_the_same_the_other_way_round():
    """Which cells are withheld must not hang on which factor comes first."""
    rng = np.random.default_rng(3)
    rows = 4000
    factors = [
        Factor(
            tuple(f"{name}{i}" for i in range(size)), rng.choice(size, rows, p=rng.dirichlet([1] * size))
        )
        for name, size in (("a", 5), ("b", 4))
    ]
    own = np.arange(rows)
    cells = cells_of_factors(factors, own, 50, 50)
    turned = cells.turned
    assert 0 < turned.count == cells.count < 20
    assert turned.levels == cells.levels[::-1] and turned.least == 50
    assert (turned.rows.reshape(4, 5) == cells.rows.reshape(5, 4).T).all()
    # Each row is in the cell of its levels, among those that are told.
    place = np.flatnonzero(turned.rows >= 0)
    told = turned.codes >= 0
    assert (place[turned.codes[told]] == (factors[1].codes * 5 + factors[0].codes)[told]).all()
    assert (told == (cells.codes >= 0)).all()
    again = turned.turned
    assert (again.codes == cells.codes).all() and (again.rows == cells.rows).all()


@pytest.mark.parametrize("encryption", ["lattice", "paillier"])
def test_numbers_that_name_rows_tell_their_levels(encryption):
    """What the rule of sums does not see: how long a row's number is. A guest that follows the protocol,
    with a power of two added to the number of each of forty rows, which in others has no digit of zero,
    reads the level of the forty from its sum, which counts as a few sums about every row."""
    each, counted = 40, []
    common, made = (1 << each) // 3, []
    for vector in range(10):
        numbers = np.full(ROWS, common)
        numbers[vector * each : (vector + 1) * each] += 1 << np.arange(each - 1, -1, -1)
        made.append(FixedPoint(numbers, 0))

    async def guest(peers):
        return await guest_table(peers[0], None, made, None, Resources())

    async def host(name, peer):
        terms = HostTerms(encryption, 2048)
        await host_table(peer, ROWS, cells_of, terms, counted.append, Resources())

    with quick_key(), small_batches():
        told = over_memory(["bureau"], guest, host)[0]
    found = np.full(len(made) * each, -1)
    for vector, sums in enumerate(told.sums):
        for level, (total,) in enumerate(sums):
            bits = total - common * int(told.rows[level, 0])
            own = [row for row in range(each) if bits >> (each - 1 - row) & 1]
            found[[vector * each + row for row in own]] = level
    assert (found == host_factor(np.ones(ROWS, bool)).codes[: len(found)]).all()
    # A row's level for about a tenth of what the rule allows, 0.03 sums about a row.
    assert counted[0] * ROWS < 4 * len(made)


def test_a_guest_reads_no_longer_numbers_than_it_said(monkeypatch):
    """Under a key the guest can encrypt longer numbers than it has a right to: 2^i for row i would tell
    the level of some two thousand rows at once, and count as one sum."""
    most, row, found = 1900, itertools.count(), np.full(1900, -1)

    def side_by_side(bits, *columns):
        return [1 << i if (i := next(row)) < most else 0 for _ in columns[0]]

    def unpack(slots, plaintexts, count):
        for level, one in enumerate(plaintexts):
            found[[i for i in range(most) if one - slots.bias >> i & 1]] = level
        return np.full((count, len(plaintexts)), slots.bias)

    monkeypatch.setattr(oneway_sums, "side_by_side", side_by_side)
    monkeypatch.setattr(Slots, "unpack", unpack)
    run("paillier")
    codes = host_factor(np.ones(ROWS, bool)).codes[:most]
    # As good as guessed, but for as many rows as a number has bits.
    assert (found == codes).mean() < np.bincount(codes).max() / most + 0.1
