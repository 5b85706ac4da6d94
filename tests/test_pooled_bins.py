"""Common bins of rows that lie at several clients, against bins of all rows in one place."""

import numpy as np
import pytest
from plain_totals import with_totals

from vfl.errors import ConfigError, PeerError
from vfl.learn.binning import bin_columns
from vfl.learn.params import BoostParams
from vfl.protocols.pooled.bins import Cells, Schema, _refined, bin_rows, common_bins, keys_of
from vfl.protocols.pooled.totals import Totals

ROWS = 4000
PARAMS = BoostParams()
LEVELS = {"zone": ("a", "b", "c", "d", "never")}


def columns(rng):
    """Numbers with and without ties and gaps, and categories."""
    zone = rng.choice(np.array(["a", "b", "c", "d", "new", None], object), ROWS)
    gaps = rng.standard_cauchy(ROWS)
    gaps[rng.random(ROWS) < 0.2] = np.nan
    return {
        "normal": rng.normal(size=ROWS),
        "skewed": np.exp(3 * rng.normal(size=ROWS)),
        "gaps": gaps,
        "exposure": np.where(rng.random(ROWS) < 0.3, 1.0, rng.random(ROWS).round(2)),
        "age": 18 + rng.poisson(30, ROWS).astype(float),
        "zone": zone,
        "empty": np.full(ROWS, np.nan),
    }


TABLE = columns(np.random.default_rng(3))
SCHEMA = Schema(tuple(TABLE), LEVELS, {"age": "decreasing"})


def part(table, rows):
    return {name: values[rows] for name, values in table.items()}


def binned(tables, schema=SCHEMA, params=PARAMS, change=lambda what, total: total):
    """The common bins as each client comes to them."""
    names = [f"c{i}" for i in range(len(tables))]

    def role(adder):
        return common_bins(Totals(adder), tables[names.index(adder.name)], schema, params)

    return with_totals(names, role, change)[0]


def same(one, other):
    return (one.rows, [repr(column) for column in one.columns]) == (
        other.rows,
        [repr(column) for column in other.columns],
    )


@pytest.mark.parametrize("max_bins", [8, 32, 255])
def test_bins_are_quantiles_of_all_rows_to_one_percent(max_bins):
    (bins,) = binned([TABLE], params=BoostParams(max_bins=max_bins))
    pooled = bin_columns(TABLE, max_bins, 3).columns
    for column, expected in zip(bins.columns, pooled, strict=True):
        if column.edges is None:
            continue
        assert column.has_missing == expected.has_missing
        values = np.sort(TABLE[column.name])
        values = values[~np.isnan(values)]
        shares, of_pooled = (
            np.searchsorted(values, own.edges, "right") / max(1, len(values))
            for own in (column, expected)
        )
        assert all(np.abs(of_pooled - share).min() < 0.01 for share in shares), column.name
        if max_bins <= 32 and column.name != "age":  # whose rarest values share cells
            assert len(shares) == len(of_pooled)
            assert np.abs(shares - of_pooled).max(initial=0) < 0.01, column.name


def test_values_that_many_rows_have_get_bins_of_their_own():
    (bins,) = binned([TABLE])
    column = next(column for column in bins.columns if column.name == "exposure")
    codes = column.codes(TABLE["exposure"])
    ones = column.codes(np.ones(1))[0]
    assert ((codes == ones) == (TABLE["exposure"] == 1)).all()


def test_bins_are_the_same_however_rows_lie_at_clients():
    (expected,) = binned([TABLE])
    order = np.random.default_rng(0).permutation(ROWS)
    sorted_by_age = np.argsort(TABLE["age"])
    ways = [
        np.array_split(order, 3),
        [order[:5], order[5:5], order[5:]],  # fewer rows than bins, none
        [sorted_by_age[:1000], sorted_by_age[1000:]],
        [np.flatnonzero(np.isnan(TABLE["gaps"])), np.flatnonzero(~np.isnan(TABLE["gaps"]))],
    ]
    for way in ways:
        clients = binned([part(TABLE, rows) for rows in way])
        assert all(same(one, expected) for one in clients)
        codes = np.concatenate(
            [
                bin_rows(one.columns, part(TABLE, rows)).codes
                for one, rows in zip(clients, way, strict=True)
            ],
            axis=1,
        )
        assert (codes == bin_rows(expected.columns, TABLE).codes[:, np.concatenate(way)]).all()


def test_levels_are_kept_apart_by_their_rows_at_all_clients():
    tables = [part(TABLE, slice(0, 100)), part(TABLE, slice(100, None))]
    agreed = np.array([v if v in LEVELS["zone"] or v is None else "~" for v in TABLE["zone"]], object)
    for max_bins in (3, 32):
        column = binned(tables, params=BoostParams(max_bins=max_bins))[1].columns[5]
        (pooled,) = bin_columns({"zone": agreed[agreed != "~"]}, max_bins, 3).columns
        assert column.categories == pooled.categories
        assert column.has_missing
    unknown = [SCHEMA.unknown_levels(table)["zone"] for table in tables]
    assert sum(unknown) == (TABLE["zone"] == "new").sum()
    assert set(column.codes(np.array(["new", "never"], object))) == {len(column.categories)}


def test_edges_lie_between_numbers_next_to_each_other():
    numbers = [-np.inf, -1.0, np.nextafter(-1.0, 0), -5e-324, -0.0, 5e-324, 1.0, 1e308, 1.7e308, np.inf]
    table = {"x": np.repeat(numbers, 50)}
    (bins,) = binned([table], Schema(("x",)))
    codes = bin_rows(bins.columns, table).codes[0]
    assert (codes == np.repeat(np.arange(10), 50)).all()
    assert bins.columns[0].codes(np.zeros(1)) == bins.columns[0].codes(np.array([-0.0]))


def test_zero_is_above_few_numbers_below_it():
    numbers = np.repeat([-1.0, 0.0, 1.0], [8, 500, 500])  # the first ones share a cell up to zero
    (bins,) = binned([{"x": numbers}], Schema(("x",)))
    assert (bin_rows(bins.columns, {"x": numbers}).codes[0] == numbers + 1).all()


def test_no_cell_of_few_rows_is_cut():
    values = np.append(np.random.default_rng(1).normal(size=3000), [1e6, 1e300])
    keys = {"x": keys_of(values)}

    async def role(adder):
        return await _refined(Totals(adder), keys, {"x": len(values)}, 32)

    (cells,), totals = with_totals(["a"], role)
    own: Cells = cells["x"]
    assert own.count.sum() == len(values)
    assert (own.count <= max(10, 3002 / 256)).all()
    assert (own.start[1:] > own.last[:-1]).all()
    # The two numbers far from others: of each all learn less than its power of two.
    assert own.count[-2:].tolist() == [1, 1]
    assert (own.width[-2:] >= 52).all()
    assert len(totals) < 64


def test_few_rows_are_binned_as_well():
    for rows in (0, 1, 7):
        tables = [part(TABLE, slice(0, rows)), part(TABLE, slice(0, 0))]
        bins = binned(tables)[0]
        assert bins.rows == rows
        assert all(c.bins == 1 for c in bins.columns if c.edges is not None)


HOSTILE = {
    "another length": ("rows", lambda total: total[1:]),
    "fewer rows than lack a value": ("rows", lambda total: np.append(-1, total[1:])),
    "negative missing": ("rows", lambda total: np.concatenate([total[:2], [-3], total[3:]])),
    "too many of a level": ("rows", lambda total: np.append(total[:-1], 10**6)),
    "negative of a level": ("rows", lambda total: np.append(total[:-1], -1)),
    "cells that do not add up": ("round 3", lambda total: total + 1),
    "negative cells": ("round 1", lambda total: total + np.resize([-1, 1], len(total))),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_totals_that_cannot_be_are_refused(name):
    where, change = HOSTILE[name]

    def told(what, total):
        return change(total) if where in what else total

    with pytest.raises(PeerError, match="the server or another client broke the protocol") as error:
        binned([TABLE, TABLE], change=told)
    assert "\n" not in str(error.value)


def test_tables_and_settings_that_differ_are_named():
    def fails(tables, schema=SCHEMA):
        with pytest.raises(ConfigError) as error:
            binned(tables, schema)
        return str(error.value)

    without = {name: values for name, values in TABLE.items() if name != "age"}
    assert fails([TABLE, without]) == "column 'age' of the job is not in the table"
    text = {**TABLE, "age": TABLE["zone"]}
    assert "column 'age' holds categories" in fails([TABLE, text])
    number = {**TABLE, "zone": TABLE["age"]}
    assert "column 'zone' holds numbers" in fails([TABLE, number])
    assert "column 'age' of the job has a rule" in fails([TABLE], Schema(("gaps",), {"age": ("1",)}))
    assert fails([TABLE], Schema(())) == "the job names no column to train on"
    constrained = Schema(tuple(TABLE), LEVELS, {"zone": "increasing"})
    assert "column 'zone' is categorical" in fails([TABLE], constrained)

    def role(adder):
        schema = SCHEMA if adder.name == "a" else Schema(tuple(TABLE), {"zone": ("a", "b")})
        return common_bins(Totals(adder), TABLE, schema, BoostParams())

    with pytest.raises(ConfigError, match="the clients' columns, levels or settings"):
        with_totals(["a", "b"], role)
