"""Many columns screened at once, over memory: against sums of the same numbers in one place."""

import numpy as np
import pandas as pd
import pytest
from lattice_batches import small_batches
from memory import over_memory
from msgspec import structs
from paillier_key import quick_key

from vfl.errors import PeerError
from vfl.learn.cells import Factor, counts_of
from vfl.learn.fixed_point import FixedPoint
from vfl.learn.losses import LogisticLoss, PoissonLoss
from vfl.learn.screening import Everything
from vfl.protocols.common.participant import Resources
from vfl.protocols.oneway import messages, screening
from vfl.protocols.oneway.screening import (
    REST,
    HostColumn,
    Numbers,
    ScreenRules,
    guest_screen,
    host_screen,
)
from vfl.protocols.oneway.sums import HostTerms

ROWS, LEAST = 2000, 20
RNG = np.random.default_rng(9)
EXPOSURE = np.round(RNG.uniform(0.1, 1, ROWS), 3)
COLUMNS = {
    "age": RNG.integers(0, 6, ROWS),
    "brand": RNG.integers(0, 3, ROWS),
    "fuel": np.where(RNG.random(ROWS) < 0.1, -1, RNG.integers(0, 2, ROWS)),  # some rows it lacks
}
CLAIMS = RNG.poisson(EXPOSURE * np.exp(0.3 * COLUMNS["age"] - 1.5)).astype(float)
TABLES = ("age", "fuel")  # what the host gives away


def columns_of(chosen):
    found = []
    for number, (name, codes) in enumerate(COLUMNS.items(), 1):
        levels = tuple(f"{name}{i}" for i in range(codes.max() + 1))
        factor = Factor(levels, codes[chosen])
        counts = counts_of(factor.codes, len(levels))
        shown = levels if name in TABLES else None
        found.append(HostColumn(f"{number}", levels, shown, factor.codes, counts))
    return found


def run(encryption, label, exposure, loss, tells, *, chosen=None, counted=None, opened=None):
    of = np.ones(ROWS, bool) if chosen is None else chosen
    columns = columns_of if tells else lambda rows: [one for one in columns_of(rows) if one.shown]
    counts = [] if counted is None else counted
    numbers = Numbers(
        FixedPoint.of(label[of]), FixedPoint.of(exposure[of]) if (exposure != 1).any() else None
    )
    everything = Everything.of(loss, exposure[of], label[of])

    async def guest(peers):
        return await guest_screen(peers[0], chosen, numbers, everything, tells, Resources())

    async def host(name, peer):
        rules = ScreenRules(HostTerms(encryption, 2048), LEAST, tells, loss)
        return await host_screen(peer, ROWS, columns, rules, counts.append, Resources())

    with quick_key(), small_batches():
        return over_memory(["bureau"], guest, host, opened=opened)


def value(codes, label, other, exposure):
    """Information value by pandas: what happened against what it is held against."""
    frame = pd.DataFrame({"code": codes, "a": label, "b": other, "e": exposure}).groupby("code").sum()
    a, b = frame["a"] / frame["a"].sum(), frame["b"] / frame["b"].sum()
    return ((a - b) * np.log(a / b)).sum(), frame


@pytest.mark.parametrize("encryption", ["lattice", "paillier"])
def test_counts_by_all_columns_are_those_of_one_table(encryption):
    chosen, counted = RNG.random(ROWS) < 0.6, []
    found, host = run(encryption, CLAIMS, EXPOSURE, PoissonLoss(), False, chosen=chosen, counted=counted)
    assert [column.name for column in found.columns] == ["1", "3"] and found.encryption == encryption
    for column, name in zip(found.columns, TABLES, strict=True):
        codes = COLUMNS[name][chosen]
        codes = np.where(codes < 0, codes.max() + 1, codes)
        expected, frame = value(codes, CLAIMS[chosen], EXPOSURE[chosen], EXPOSURE[chosen])
        assert column.strength.information == pytest.approx(expected, rel=1e-9)
        assert [one.actual for one in column.bins] == frame["a"].tolist()
        np.testing.assert_allclose([one.exposure for one in column.bins], frame["e"], rtol=1e-12)
        assert column.rows == np.bincount(codes).tolist()
        assert (column.levels[-1] == REST) == (name == "fuel")
    # The owner is told figures, and no sum: all columns count as one table.
    assert host.tables == []
    assert [one.information for one in host.figures] == [
        one.strength.information for one in found.columns
    ]
    assert 0 < len(counted) == 1 and counted[0] < 0.1


@pytest.mark.parametrize("encryption", ["lattice", "paillier"])
def test_where_hosts_are_told_they_know_their_tables_and_tell_a_figure(encryption):
    label, ones = (CLAIMS > 0).astype(float), np.ones(ROWS)
    seen = []

    def opened(to_host, to_guest):
        to_host.observers.append(lambda way, kind, data: seen.append((way, kind)))

    found, host = run(encryption, label, ones, LogisticLoss(), True, opened=opened)
    assert [column.name for column in found.columns] == ["1", "2", "3"]
    for column, table, (name, codes) in zip(found.columns, host.tables, COLUMNS.items(), strict=True):
        codes = np.where(codes < 0, codes.max() + 1, codes)
        expected, frame = value(codes, label, 1 - label, ones)
        assert table.strength.information == pytest.approx(expected, rel=1e-9)
        assert [one.actual for one in table.bins] == frame["a"].tolist()
        assert table.rows == np.bincount(codes).tolist()
        if name in TABLES:
            assert (column.strength, column.bins) == (table.strength, table.bins)
        else:  # a figure of four digits, and nothing else
            assert column.levels is column.bins is column.rows is column.strength.evidence is None
            assert column.strength.information == float(f"{expected:.4g}")
            assert column.cells == len(table.bins)
    assert [kind for way, kind in seen if way == "received"].count("ScreenFigures") == 1


def test_a_column_of_few_rows_or_of_longer_masks_is_refused(monkeypatch):
    """What a host says is held against the rows that there are."""
    made = messages.ScreenedColumn

    def longer(name, cells, levels, rows):
        return made(name, cells, levels, [rows[0] + ROWS, *rows[1:]])

    monkeypatch.setattr("vfl.protocols.oneway.screening.ScreenedColumn", longer)
    with pytest.raises(PeerError, match="ScreenColumns of more rows than there are"):
        run("paillier", CLAIMS, EXPOSURE, PoissonLoss(), False)
    monkeypatch.undo()
    monkeypatch.setattr("vfl.protocols.oneway.screening._short", lambda figure: float("nan"))
    with pytest.raises(PeerError, match="ScreenFigures of other columns, or of what is no number"):
        run("paillier", CLAIMS, EXPOSURE, PoissonLoss(), True)


def moved(**by):
    """What a guest says of the sums by level, moved: of `sums` by vector and cell, or of the totals."""

    def change(returned):
        def otherwise(masked, places, whole):
            for (vector, cell), more in by.get("sums", {}).items():
                masked[vector, cell] += more
            told = returned(masked, places, whole)
            more = by.get("totals", 0)
            return structs.replace(told, totals=[f"{int(total) + more}" for total in told.totals])

        return otherwise

    return change


FUEL = 9  # the first cell of the column with rows in none


@pytest.mark.parametrize(
    "lie",
    [
        moved(sums={(0, 0): 1}),
        moved(sums={(0, 0): 1, (0, 7): -1}),  # of another column
        moved(totals=-1),
    ],
)
def test_a_guest_that_tells_a_host_sums_that_do_not_add_up_is_refused(lie, monkeypatch):
    monkeypatch.setattr(screening, "_returned", lie(screening._returned))
    with pytest.raises(PeerError, match="sent ScreenSums that do not add up to what there is in all"):
        run("paillier", (CLAIMS > 0).astype(float), np.ones(ROWS), LogisticLoss(), True)


@pytest.mark.parametrize(
    "lie", [moved(), moved(sums={(0, 0): 1, (0, 1): -1}), moved(sums={(0, FUEL): 1})]
)
def test_what_adds_up_is_taken(lie, monkeypatch):
    """Also of a lie: from one level of a column to another, or to the rows that are in none."""
    monkeypatch.setattr(screening, "_returned", lie(screening._returned))
    _, host = run("paillier", (CLAIMS > 0).astype(float), np.ones(ROWS), LogisticLoss(), True)
    assert len(host.tables) == 3
