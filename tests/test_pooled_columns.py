"""Columns of a linear model whose rows lie at several clients."""

from dataclasses import replace

import numpy as np
import pytest
from clients import in_plain
from hypothesis import given, settings
from hypothesis import strategies as st
from row_parts import (
    BINNED,
    NAMES,
    OWNER,
    ROWS,
    RULES,
    SCHEMA,
    assert_as_glum,
    by_glum,
    changed,
    fitting,
    rows,
    same,
    table,
)

from vfl.errors import ConfigError, DataError
from vfl.learn.design import MISSING, OTHER, Design, Rules
from vfl.learn.params import GlmParams
from vfl.protocols.pooled.bins import Schema
from vfl.protocols.pooled.columns import pooled_design


def as_other(features):
    """The columns as of a table with the agreed levels alone."""
    agreed = {*SCHEMA.levels["zone"], None}
    zone = [value if value in agreed else OTHER for value in features["zone"]]
    return {**features, "zone": np.array(zone, object)}


@pytest.mark.parametrize("missing", ["mean", "median", "level"])
def test_columns_are_prepared_as_those_of_the_pooled_rows(missing):
    rules = replace(BINNED, missing=missing, min_level_rows=30, base={"zone": "south"})
    features = table()[0]

    def role(k):
        own = {name: values[k == OWNER] for name, values in features.items()}
        return lambda adder: pooled_design(adder, own, SCHEMA, rules)

    ends = in_plain({NAMES[k]: role(k) for k in range(3)})
    made = ends["ada"]
    assert ends["bea"] == ends["cleo"] == made
    due = Design.fit(as_other(features), rules)
    zone, age = made.factors
    assert zone == due.factors[0]
    assert set(zone.levels) == {"north", "south", "east", OTHER, MISSING}
    for ours, theirs in zip(made.covariates, due.covariates, strict=True):
        for number in ("mean", "deviation"):
            assert getattr(ours, number) == pytest.approx(getattr(theirs, number), rel=1e-14)
        close = 2.0**-22 * ours.deviation if missing == "median" else 1e-12 * ours.deviation
        middle = np.sort(features[ours.name][~np.isnan(features[ours.name])])[(ours.rows - 1) // 2]
        assert abs(ours.fill - (middle if missing == "median" else theirs.fill)) < close
        assert (ours.indicator, ours.rows, ours.missing) == (
            theirs.indicator,
            theirs.rows,
            theirs.missing,
        )
    # Ages are whole: so are the edges between them, which are quantiles.
    assert all(edge.is_integer() for edge in age.edges) and len(age.edges) == 3
    counts = np.bincount(np.searchsorted(age.edges, features["age"]), minlength=4)
    assert sorted(age.rows) == sorted(counts.tolist())
    assert np.abs(counts / ROWS - 0.25).max() < 0.04  # an age is 1.6 % of the rows
    assert age.base == age.levels[int(np.argmax(age.rows))]
    assert np.array_equal(made.matrix(features).codes, made.matrix(as_other(features)).codes)


@settings(max_examples=25)
@given(
    st.lists(st.sampled_from([0.1, 0.25, 1 / 3, 2.0, 17.5, 1e-7, 3e9]), min_size=1), st.integers(2, 6)
)
def test_edges_are_short_and_part_rows_as_long_ones_do(values, bins):
    values = np.repeat([*values, -1.0], 40)
    rules = Rules(binned=("x",), bins=bins, min_level_rows=1)
    owner = np.arange(len(values)) % 2

    def role(k):
        return lambda adder: pooled_design(adder, {"x": values[owner == k]}, Schema(("x",)), rules)

    if len(set(values.tolist())) < 2:
        return
    made = same_design(in_plain({name: role(k) for k, name in enumerate(NAMES[:2])}))
    (factor,) = made.factors
    assert all(float(f"{edge:.2e}") == edge for edge in factor.edges)  # three digits
    due = Design.fit({"x": values}, rules)
    assert np.array_equal(made.matrix({"x": values}).codes, due.matrix({"x": values}).codes)


def same_design(ends):
    assert ends["ada"] == ends["bea"]
    return ends["ada"]


def test_levels_that_were_not_agreed_on_are_one():
    features = table()[0]
    model = same(in_plain(fitting("poisson", GlmParams())))
    factor = model.part.design.factors[0]
    assert factor.base == OTHER  # here it has the most rows
    used = rows("poisson").train
    assert factor.rows[0] == sum(value in ("west", "far") for value in features["zone"][used])
    # Later ones are as well, unless they are known and were joined.
    made = replace(factor, base="north", joined=("south",), levels=("north", "east", OTHER))
    new = np.array(["mars", "south", "east", "north", OTHER], object)
    assert made.codes(new).tolist() == [2, 0, 1, 0, 2]
    assert replace(made, levels=("north", "east")).codes(new).tolist() == [0, 0, 1, 0, 0]


ONES = np.ones(ROWS)
ODD = np.where(OWNER == 0, np.inf, ONES)


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        ({"value": ONES}, "column 'value' holds one value only: leave it out"),
        ({"value": ONES * 0.1}, "column 'value' holds one value only: leave it out"),
        ({"value": ONES * np.nan}, "column 'value' holds no value: leave it out"),
        ({"value": ODD}, "column 'value' holds numbers beyond 1e.100: give it in another unit"),
        ({"age": ODD}, "column 'age' holds an infinite number"),
        ({"zone": np.array(["north"] * ROWS, object)}, "column 'zone' holds one value only"),
        ({"zone": np.array([None] * ROWS, object)}, "column 'zone' holds no value"),
        ({"age": ONES * 40}, "column 'age' cannot be cut into bins of 5 rows .min_level_rows.: do not"),
        ({"age": ONES * np.nan}, "column 'age' holds no value: leave it out"),
    ],
)
def test_columns_that_cannot_be_fitted(columns, words):
    with pytest.raises(DataError, match=f"^a linear model cannot use the columns: {words}") as raised:
        in_plain(fitting("poisson", GlmParams(), whole=changed(**columns), rules=BINNED))
    assert "column '" not in raised.value.for_peer


def test_tables_that_are_not_of_the_schema():
    for columns, words in (
        (
            {"value": np.array(["a"] * ROWS, object)},
            "column 'value' holds categories, the job has it as",
        ),
        ({"zone": ONES}, "column 'zone' holds numbers, the job has it as categories"),
    ):
        with pytest.raises(ConfigError, match=words):
            in_plain(fitting("poisson", GlmParams(), whole=changed(**columns)))
    with pytest.raises(ConfigError, match="names no column to train on"):
        in_plain(fitting("poisson", GlmParams(), schema=Schema(())))


def test_rules_that_do_not_fit_the_columns():
    for rules, words in (
        (replace(RULES, binned=("zone",)), "'zone' is categorical: only numbers are cut into bins"),
        (replace(RULES, binned=("valu",)), "there is no column 'valu'"),
        (replace(RULES, base={"value": "x"}), "'value' is numeric and not binned"),
        (replace(RULES, base={"zone": "mars"}), "'zone' has no level 'mars' to be the base"),
    ):
        with pytest.raises(DataError, match=words):
            in_plain(fitting("poisson", GlmParams(), rules=rules))


def test_a_column_that_is_a_combination_of_others_is_named():
    features = table()[0]
    power = np.nan_to_num(features["power"])
    whole = changed(power=power, value=3 * power - 7)
    with pytest.raises(
        DataError, match=r"^over the rows of all clients column 'value' is a linear comb"
    ):
        in_plain(fitting("poisson", GlmParams(), whole=whole))
    # A penalty makes it one; and what is a combination at one client alone is none.
    assert same(in_plain(fitting("poisson", GlmParams(alpha=0.01), whole=whole))).converged
    own = np.where(OWNER == 0, 3 * power - 7, features["value"])
    model = same(
        in_plain(fitting("poisson", params := GlmParams(), whole=changed(power=power, value=own)))
    )
    assert_as_glum(model, by_glum(model, "poisson", params, whole=changed(power=power, value=own))[0])
