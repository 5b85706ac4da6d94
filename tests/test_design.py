"""Design matrices against scikit-learn, pandas and the dense products."""

import json
import math
from fractions import Fraction

import msgspec
import numpy as np
import pandas as pd
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from vfl.learn.binning import bin_columns
from vfl.learn.design import FRACTION_BITS, MISSING, OTHER, Design, Factor, Matrix, Relativity, Rules

HALF = 2.0 ** -(FRACTION_BITS + 1)  # the most that rounding to the grid moves a number
ALL = Rules(min_level_rows=1)  # every level is kept
TEXTS = st.sampled_from(["a", "b", "A", "", "ä", "a\u0308", "汉字", "🚗", "nan", "None", "0", "<= 1"])
SEVERAL = st.lists(TEXTS | st.none(), min_size=2, max_size=40).filter(lambda v: len(set(v)) > 1)
NUMBERS = st.floats(-1e6, 1e6) | st.integers(-5, 5).map(float)


def objects(values) -> np.ndarray:
    column = np.empty(len(values), object)
    column[:] = values
    return column


def only_factor(design: Design) -> Factor:
    assert not design.covariates
    (factor,) = design.factors
    return factor


def again(design: Design) -> Design:
    """As it comes back from a party's store."""
    text = json.dumps(msgspec.to_builtins(design, str_keys=True), allow_nan=False)
    return msgspec.convert(json.loads(text), Design)


def mixed(rows: int, seed: int = 0) -> dict[str, np.ndarray]:
    """Columns of every kind; nothing among them depends on the rest."""
    rng = np.random.default_rng(seed)
    gaps = rng.random(rows) < 0.1
    return {
        "area": objects(rng.choice(["A", "B", "C", "Ä"], rows).tolist()),
        "age": rng.integers(18, 91, rows).astype(float),
        "fuel": np.where(gaps, None, objects(rng.choice(["d", "r"], rows).tolist())),
        "power": np.where(rng.random(rows) < 0.2, np.nan, rng.gamma(3, 30, rows)),
        "density": rng.lognormal(6, 2, rows),
        "young": rng.random(rows) < 0.3,
    }


MIXED = Rules(binned=("age",), bins=5, missing="level", base={"area": "B"})


# Factors


@given(values=SEVERAL.filter(lambda v: set(v) != {None}))
def test_levels_are_one_hot_columns_of_scikit_learn(values):
    factor = only_factor(design := Design.fit({"x": objects(values)}, ALL))
    texts = [MISSING if v is None else v for v in values]
    encoder = OneHotEncoder(
        categories=[np.array(factor.levels, object)], drop=[factor.base], sparse_output=False
    )
    expected = encoder.fit_transform(objects(texts)[:, None])
    dense = design.matrix({"x": objects(values)}).dense()
    assert np.array_equal(dense, expected)
    # The same columns as pandas makes, whose order is by name.
    frame = pd.get_dummies(pd.Series(texts, dtype=object)).drop(columns=factor.base)
    assert np.array_equal(frame[list(factor.others)].to_numpy(float), dense)
    assert factor.rows == tuple(texts.count(level) for level in factor.levels)
    assert sorted(factor.levels) == sorted(set(texts))
    assert texts.count(factor.base) == max(factor.rows)
    assert design.coefficients == [("x", level) for level in factor.others]
    assert factor.codes(objects(values)).dtype == np.uint16


def test_missing_is_a_level_of_its_own_and_the_last():
    values = objects(["b", "~", None, "~", math.nan, "b", MISSING, "~"])
    factor = only_factor(Design.fit({"x": values}, ALL))
    assert factor.levels == ("b", "~", MISSING)  # by name, MISSING would be the first
    assert (factor.base, factor.rows, factor.others) == ("~", (2, 3, 3), ("b", MISSING))
    assert factor.codes(values).tolist() == [1, 0, 2, 0, 2, 1, 2, 0]


def test_the_most_frequent_level_is_the_base_the_first_among_equals():
    assert only_factor(Design.fit({"x": objects(["b", "a", "b", "a", "c"])}, ALL)).base == "a"
    assert only_factor(Design.fit({"x": objects(["b", "a", None, None])}, ALL)).base == MISSING


def test_rare_levels_are_one_level_of_their_own():
    values = objects(["a"] * 3 + ["b"] * 30 + ["c"] * 20 + [None] * 2 + ["d"] * 19)
    factor = only_factor(design := Design.fit({"x": values}, Rules()))
    assert (factor.base, factor.levels, factor.rows) == ("b", (OTHER, "b", "c"), (3 + 19, 30, 20))
    assert dict(factor.grouped) == {"a": OTHER, "d": OTHER}
    assert (factor.joined, factor.joined_rows) == ((MISSING,), (2,))  # missing values are at the base
    assert np.bincount(factor.codes(values)).tolist() == [32, 22, 20]
    lines = design.relativities(np.log([2.0, 3.0]))
    assert [(one.level, round(one.relativity, 9), one.rows) for one in lines] == [
        *((OTHER, 2.0, 22), ("b", 1.0, 30), ("c", 3.0, 20), (MISSING, 1.0, 2))
    ]
    assert design.unseen({"x": values}) == {}
    # Levels that no row had are of the others.
    assert factor.codes(objects(["new", "b", "a"])).tolist() == [1, 0, 1]
    assert factor.unseen(objects(["new", "b", "a"])) == 1


def test_too_few_rows_for_a_level_of_their_own_join_the_smallest_and_never_the_base():
    values = objects(["a"] * 19 + ["b"] * 300 + ["c"] * 40 + ["d"] * 50)
    alone = only_factor(Design.fit({"x": values}, Rules()))
    assert (alone.levels, alone.rows) == ((OTHER, "b", "c", "d"), (19, 300, 40, 50))
    values = values[10:]
    factor = only_factor(Design.fit({"x": values}, Rules()))
    both = f"c, {OTHER}"
    assert (factor.base, factor.levels, factor.rows) == ("b", (both, "b", "d"), (49, 300, 50))
    assert factor.codes(objects(["a", "b", "c", "d", "e"])).tolist() == [1, 0, 1, 2, 1]
    # A row of which nothing is known is none of the others.
    assert factor.codes(objects([None])).tolist() == [0] and factor.unseen(objects([None])) == 1


def test_the_level_with_the_largest_exposure_is_the_base_and_levels_need_enough_of_it():
    values = objects(["a"] * 40 + ["b"] * 60 + ["c"] * 30 + ["d"] * 30)
    exposure = np.where(values == "a", 1.0, 0.2)
    factor = only_factor(Design.fit({"x": values}, Rules(), exposure))
    assert (factor.base, factor.levels) == ("a", ("a", "b", "c", "d"))
    few = only_factor(Design.fit({"x": values}, Rules(min_level_exposure=7.0), exposure))
    assert (few.levels, few.rows) == (("a", "b", OTHER), (40, 60, 60))
    with pytest.raises(ValueError, match="with 20 rows and an exposure of 30"):
        Design.fit({"x": values}, Rules(min_level_exposure=30.0), np.where(values == "a", 1.0, 0.1))


def test_a_single_rare_level():
    values = objects(["a"] * 100 + ["b"] * 19)
    assert only_factor(Design.fit({"x": values}, Rules())).others == (OTHER,)
    values = objects(["a"] * 100 + ["b"] * 9)
    with pytest.raises(ValueError, match=r"column 'x' has no level besides the base 'a' with 20 rows"):
        Design.fit({"x": values}, Rules())
    factor = only_factor(Design.fit({"x": values}, Rules(min_level_rows=9)))
    assert (factor.base, factor.others) == ("a", ("b",))


def test_a_base_by_the_rules_may_be_rare():
    values = objects(["a"] * 3 + ["b"] * 30 + ["c"] * 5)
    factor = only_factor(Design.fit({"x": values}, Rules(base={"x": "a"})))
    assert (factor.base, factor.levels, factor.rows) == ("a", ("a", f"b, {OTHER}"), (3, 35))


def test_a_base_that_does_not_exist():
    values = objects([*"fedcba", None])
    with pytest.raises(ValueError, match=r"'x' has no level 'A' .* 'a', 'b', 'c', 'd', 'e' and 2 more$"):
        Design.fit({"x": values}, Rules(base={"x": "A"}))
    with pytest.raises(ValueError, match=r"it has 'a', 'b'$"):
        Design.fit({"x": objects(["a", "b"])}, Rules(base={"x": "c"}))
    with pytest.raises(ValueError, match=r"it has '<= 1', '> 1'$"):
        Design.fit({"x": np.array([1.0, 2.0])}, Rules(("x",), min_level_rows=1, base={"x": "1"}))


def test_unseen_levels_are_counted():
    train = {
        "x": objects(["a", "a", "b", "b", "rare"]),
        "y": objects(["u", "v", "u", "v", "u"]),
        "z": np.array([1.0, 1.0, 2.0, 2.0, 2.0]),
    }
    design = Design.fit(train, Rules(binned=("z",), min_level_rows=2))
    new = {
        "x": objects(["a", "b", "rare", "c", None, "c"]),
        "y": objects(["v"] * 6),
        "z": np.array([-1e9, 1e9, 1.0, 2.0, np.nan, 1.5]),
    }
    matrix = design.matrix(new)
    assert matrix.codes.tolist() == [[0, 1, 1, 1, 0, 1], [1] * 6, [1, 0, 1, 0, 0, 0]]
    assert design.unseen(new) == {"x": 3, "z": 1}
    assert design.unseen(train) == {}


def test_300_levels():
    names = [f"R{i}" for i in range(300)]
    values = objects(names * 20 + ["R7"])
    factor = only_factor(design := Design.fit({"x": values}, Rules()))
    assert (factor.base, len(factor.others)) == ("R7", 299)
    matrix = design.matrix({"x": values})
    assert matrix.columns == 299 and matrix.codes.max() == 299
    assert np.array_equal(matrix.gram(), np.diag([20.0] * 299))
    assert np.array_equal(matrix.times(np.arange(1.0, 300.0)), matrix.codes[0])


def test_as_many_levels_as_a_code_can_tell():
    values = objects([f"id{i}" for i in range(65_535)])
    factor = only_factor(Design.fit({"x": values}, ALL))
    codes = factor.codes(values)
    assert np.array_equal(np.sort(codes), np.arange(65_535))
    with pytest.raises(ValueError, match="column 'x' has 65,536 levels, more than 65,535"):
        Design.fit({"x": np.append(values, "one more")}, ALL)


# Binned columns


@given(
    values=st.lists(NUMBERS | st.just(math.nan), min_size=2, max_size=60),
    bins=st.integers(2, 255),
    min_rows=st.integers(1, 4),
)
def test_bins_are_those_of_binning(values, bins, min_rows):
    features = {"x": np.array(values)}
    column = (expected := bin_columns(features, bins, min_rows)).columns[0]
    assume(column.bins > 1)
    factor = only_factor(Design.fit(features, Rules(("x",), bins, min_level_rows=min_rows)))
    assert len(factor.edges) == column.bins - 1
    # Whole levels fall together, so that one level has one bin, but for missing ones joined to the base.
    joined = factor.joined == (MISSING,)
    codes = factor.codes(features["x"]).tolist()
    pairs = set(zip(codes, expected.codes[0].tolist(), strict=True))
    pairs -= {(0, column.bins)} if joined else set()
    assert len(pairs) == len(factor.levels) == column.bins + (column.has_missing and not joined)
    assert len(set(factor.levels)) == len(factor.levels)
    # The names say which values are in the level.
    names = [MISSING if math.isnan(v) else name_of(v, factor.edges) for v in values]
    got = [[factor.base, *factor.others][code] for code in codes]
    assert got == [factor.base if name in factor.joined else name for name in names]


def name_of(value: float, edges: tuple[float, ...]) -> str:
    """The definition in words; the name's numbers, read back, are the very edges."""
    texts = [repr(edge).removesuffix(".0") for edge in edges]
    assert [float(text) for text in texts] == list(edges)
    place = sum(value > edge for edge in edges)
    if place == 0:
        return f"<= {texts[0]}"
    if place == len(edges):
        return f"> {texts[-1]}"
    return f"{texts[place - 1]} to {texts[place]}"


def test_edges_are_short_numbers_between_the_values():
    values = np.repeat([18.0, 25.0, 26.0, 33.0, 70.0, np.nan], 20)
    design = Design.fit({"age": values}, Rules(("age",)))
    factor = only_factor(design)
    # 18 | 25 is cut at 20, 25 | 26 at 25, 26 | 33 at 30, 33 | 70 at 50.
    assert factor.edges == (20.0, 25.0, 30.0, 50.0)
    assert factor.levels == ("<= 20", "20 to 25", "25 to 30", "30 to 50", "> 50", MISSING)
    assert (factor.base, factor.rows) == ("<= 20", (20,) * 6)
    edges = np.array([20.0, math.nextafter(20, 21), 25.0, 50.0, math.nextafter(50, 51), np.nan])
    assert factor.codes(edges).tolist() == [0, 1, 1, 3, 4, 5]


@pytest.mark.parametrize(
    ("values", "levels"),
    [
        ([-0.31, 0.39, 0.391, 1e-9], ("<= -0.2", "-0.2 to 0.2", "0.2 to 0.39", "> 0.39")),
        ([1.0, math.nextafter(1, 2), 3.0], ("<= 1", "1 to 2", "> 2")),
        ([-1.0, 0.0, 1.0], ("<= -1", "-1 to 0", "> 0")),
        ([-1e-300, -0.0, 1e300], ("<= -5e-301", "-5e-301 to 5e+299", "> 5e+299")),
        ([123456.0, 123457.0, 1e22], ("<= 123456", "123456 to 5e+21", "> 5e+21")),
    ],
)
def test_names_of_bins(values, levels):
    values = np.array(values)
    factor = only_factor(Design.fit({"x": values}, Rules(("x",), min_level_rows=1)))
    assert factor.levels == levels
    assert sorted(factor.codes(values).tolist()) == list(range(len(values)))


def test_a_binned_column_of_one_value_and_missing_ones():
    values = np.repeat([7.0, np.nan], 20)
    factor = only_factor(Design.fit({"x": values}, Rules(("x",))))
    assert (factor.levels, factor.edges) == (("(present)", MISSING), ())
    assert factor.codes(values).tolist() == [0] * 20 + [1] * 20


def test_too_few_rows_for_bins():
    with pytest.raises(ValueError, match=r"column 'x' cannot be cut into bins of 20 rows"):
        Design.fit({"x": np.arange(39.0)}, Rules(("x",)))


def test_255_bins_and_missing():
    values = np.append(np.arange(255.0), np.nan)
    factor = only_factor(Design.fit({"x": values}, Rules(("x",), 255, min_level_rows=1)))
    assert len(factor.levels) == 256
    assert factor.codes(values).tolist() == list(range(256))


# Covariates


@given(values=st.lists(NUMBERS | st.just(math.nan), min_size=2, max_size=60))
def test_numbers_are_those_of_the_standard_scaler(values):
    values = np.array(values)
    present = values[~np.isnan(values)]
    # The scaler takes a spread below its own rounding for none.
    assume(len(present) > 1 and present.std() > max(1e-6 * np.abs(present).max(), 1e-90))
    design = Design.fit({"x": values}, Rules())
    (covariate,) = design.covariates
    matrix = design.matrix({"x": values})
    expected = StandardScaler().fit_transform(values[:, None]).ravel()
    expected[np.isnan(expected)] = 0.0
    # Besides half a step of the grid, what rounding does to a mean far larger than the deviation.
    slack = 1e-14 * (1 + abs(covariate.mean) / covariate.deviation) * math.sqrt(len(values))
    assert np.abs(matrix.numbers[0] - expected).max() <= HALF + slack
    assert (covariate.rows, covariate.missing) == (len(present), len(values) - len(present))
    assert design.coefficients == [("x", "")]


@given(values=st.lists(st.floats(-1e100, 1e100), min_size=2, max_size=30))
def test_integers_are_exact_and_bounded_by_the_root_of_the_rows(values):
    assume(np.ptp(values) > 1e-90)
    matrix = Design.fit({"x": np.array(values)}, Rules()).matrix({"x": np.array(values)})
    integers = matrix.integers
    assert integers.dtype == np.int64
    for number, integer in zip(matrix.numbers[0].tolist(), integers[0].tolist(), strict=True):
        assert Fraction(number) * 2**FRACTION_BITS == integer
    largest = max(abs(integer) for integer in integers[0].tolist())
    assert matrix.bits == (largest.bit_length(),)
    assert largest <= math.sqrt(len(values)) * (1 + 1e-9) * 2**FRACTION_BITS + 1


def test_an_outlier_reaches_the_bound():
    values = np.zeros(40_000)
    values[7] = 1.0
    matrix = Design.fit({"density": values}, Rules()).matrix({"density": values})
    assert matrix.numbers[0, 7] == pytest.approx(math.sqrt(39_999))
    assert matrix.bits == (8 + FRACTION_BITS,)


@pytest.mark.parametrize(
    ("missing", "fill", "coefficients"),
    [
        ("mean", 4.0, [("x", "")]),
        ("median", 2.5, [("x", "")]),
        ("level", 4.0, [("x", MISSING), ("x", "")]),
    ],
)
def test_missing_numbers(missing, fill, coefficients):
    values = np.array([1.0, 2.0, np.nan, 3.0, 10.0, np.nan])
    design = Design.fit({"x": values}, Rules(missing=missing, min_level_rows=2))
    assert design.coefficients == coefficients
    matrix = design.matrix({"x": values})
    expected = (np.where(np.isnan(values), fill, values) - 4.0) / math.sqrt(12.5)
    assert np.abs(matrix.numbers[0] - expected).max() <= HALF
    assert matrix.codes.tolist() == ([[0, 0, 1, 0, 0, 1]] if missing == "level" else [])
    assert np.isnan(values).sum() == 2  # the caller's array is left as it was


def test_few_missing_numbers_have_no_level():
    values = np.append(np.arange(30.0), np.nan)
    design = Design.fit({"x": values}, Rules(missing="level"))
    assert design.coefficients == [("x", "")]
    assert design.matrix({"x": values}).numbers[0, -1] == 0.0


def test_new_rows_may_be_larger_than_any_seen():
    design = Design.fit({"x": np.array([-1.0, 1.0])}, Rules())
    matrix = design.matrix({"x": np.array([2.0**38, np.nan, -(2.0**38)])})
    assert matrix.integers.tolist() == [[2**62, 0, -(2**62)]]
    assert matrix.bits == (63,)
    larger = design.matrix({"x": np.array([2.0**39])})
    assert larger.times(np.array([0.5])).tolist() == [2.0**38]
    with pytest.raises(ValueError, match="too large for 64 bits"):
        _ = larger.integers
    for value in (np.inf, 1e308):
        with pytest.raises(ValueError, match="column 'x' holds a number too large"):
            design.matrix({"x": np.array([0.0, value])})


def test_bools_and_integers_are_numbers():
    features = {"b": np.array([True, False]), "i": np.array([3, 1])}
    assert Design.fit(features, Rules()).matrix(features).numbers.tolist() == [[1, -1], [1, -1]]
    binned = Design.fit(features, Rules(("b", "i"), min_level_rows=1))
    assert binned.matrix(features).codes.tolist() == [[1, 0], [1, 0]]


# What is refused


@pytest.mark.parametrize(
    ("values", "rules", "reason"),
    [
        (np.full(50, np.nan), Rules(), "holds no value: leave it out"),
        (np.full(50, np.nan), Rules(("x",)), "holds no value: leave it out"),
        (objects([None] * 50), Rules(), "holds no value: leave it out"),
        (np.array([], float), Rules(), "holds no value: leave it out"),
        (objects([]), Rules(), "holds no value: leave it out"),
        (np.full(50, 0.1), Rules(), "holds one value only: leave it out"),
        (np.full(50, 0.1), Rules(("x",)), "holds one value only: leave it out"),
        (objects(["a"] * 50), Rules(), "holds one value only: leave it out"),
        (np.repeat([0.1, np.nan], 50), Rules(missing="level"), "holds one value only besides missing"),
        (np.array([0.0, np.inf] * 50), Rules(), "holds numbers beyond 1e.100"),
        (np.array([0.0, -1e101] * 50), Rules(), "holds numbers beyond 1e.100"),
        (np.array([0.0, np.inf] * 50), Rules(("x",)), "holds an infinite number"),
        (np.array([0.0, 1e-120] * 50), Rules(), "spreads over too little"),
        (objects(["a", "b"] * 50), Rules(("x",)), "is categorical: only numbers are cut"),
        (np.array([0.0, 1.0] * 50), Rules(base={"x": "0"}), "is numeric and not binned"),
    ],
)
def test_columns_refused(values, rules, reason):
    good = np.arange(len(values), dtype=float)
    with pytest.raises(ValueError, match=f"^column 'x' {reason}"):
        Design.fit({"good": good, "x": values} if len(values) else {"x": values}, rules)


@pytest.mark.parametrize("rules", [Rules(("y",)), Rules(base={"y": "a"})])
def test_rules_for_a_column_that_is_not_there(rules):
    with pytest.raises(ValueError, match="there is no column 'y'"):
        Design.fit({"x": objects(["a", "b"] * 20)}, rules)


@pytest.mark.parametrize("wrong", [{"bins": 1}, {"bins": 256}, {"min_level_rows": 0}])
def test_impossible_rules(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Rules(**wrong)


def test_a_column_of_another_kind_than_in_training():
    text, numbers = objects(["a", "b"] * 20), np.array([0.0, 1.0] * 20)
    as_text, as_numbers = Design.fit({"x": text}, Rules()), Design.fit({"x": numbers}, Rules())
    binned = Design.fit({"x": numbers}, Rules(("x",)))
    with pytest.raises(ValueError, match="column 'x' is numeric here but was categorical"):
        as_text.matrix({"x": numbers})
    for design in (as_numbers, binned):
        with pytest.raises(ValueError, match="column 'x' is categorical here but was numeric"):
            design.matrix({"x": text})


# Matrices


def matrices() -> st.SearchStrategy[tuple[Matrix, int]]:
    """Any matrix, levels without a row and rows of base levels only among them; and a seed."""

    @st.composite
    def build(draw):
        rows = draw(st.integers(0, 30))
        levels = tuple(draw(st.lists(st.integers(1, 5), max_size=4)))
        rng = np.random.default_rng(seed := draw(st.integers(0, 2**32)))
        codes = [rng.integers(0, most + 1, rows) for most in levels]
        numbers = np.rint(rng.normal(0, 3, (draw(st.integers(0, 3)), rows)) * 2**24) / 2**24
        return Matrix(np.array(codes, np.uint16).reshape(len(levels), rows), levels, numbers), seed

    return build()


@given(matrices())
def test_products_are_those_of_the_dense_matrix(made):
    matrix, seed = made
    rng = np.random.default_rng(seed + 1)
    dense = matrix.dense()
    assert dense.shape == (matrix.rows, matrix.columns)
    beta, r = rng.normal(size=matrix.columns), rng.normal(size=matrix.rows)
    # Sums of at most 30 terms of magnitude below 1e3, in another order.
    close = {"rtol": 1e-12, "atol": 1e-11}
    np.testing.assert_allclose(matrix.times(beta), dense @ beta, **close)
    np.testing.assert_allclose(matrix.transposed_times(r), dense.T @ r, **close)
    for weight in (None, rng.exponential(size=matrix.rows)):
        gram = matrix.gram(weight)
        weighted = dense if weight is None else dense * weight[:, None]
        np.testing.assert_allclose(gram, weighted.T @ dense, **close)
        assert np.array_equal(gram, gram.T)


def test_sums_of_counts_and_integers_are_exact():
    features = mixed(5000)
    matrix = Design.fit(features, MIXED).matrix(features)
    r = np.random.default_rng(3).integers(-(2**30), 2**30, matrix.rows)
    part = sum(matrix.levels)
    dense = matrix.dense()[:, :part].astype(np.int64)
    assert np.array_equal(matrix.transposed_times(r.astype(float))[:part], dense.T @ r)
    assert np.array_equal(matrix.gram()[:part, :part], dense.T @ dense)


def test_columns_of_every_kind():
    features = mixed(5000)
    design = Design.fit(features, MIXED)
    assert [factor.name for factor in design.factors] == ["area", "age", "fuel"]
    assert [covariate.name for covariate in design.covariates] == ["power", "density", "young"]
    matrix = design.matrix(features)
    dense = pd.DataFrame(matrix.dense(), columns=pd.MultiIndex.from_tuples(design.coefficients))
    assert matrix.columns == len(design.coefficients) == 3 + 4 + 2 + 1 + 3
    assert np.array_equal(dense["area", "Ä"], features["area"] == "Ä")
    assert np.array_equal(dense["fuel", MISSING], features["fuel"] == np.array(None))
    assert np.array_equal(dense["power", MISSING], np.isnan(features["power"]))
    assert not dense["power", ""][np.isnan(features["power"])].any()
    for name in ("density", "young"):
        expected = StandardScaler().fit_transform(features[name].astype(float)[:, None]).ravel()
        np.testing.assert_allclose(dense[name, ""], expected, rtol=0, atol=1.01 * HALF)
    last = design.factors[1].edges[-1]
    assert np.array_equal(dense["age", f"> {last:g}"], features["age"] > last)
    assert design.dependent(matrix) == []


def test_rows_in_parts_are_the_rows_of_the_whole():
    features = mixed(1000)
    design = Design.fit(features, MIXED)
    whole = design.matrix(features)
    for rows in (slice(0, 1), slice(100, 900), np.array([5, 3, 5]), slice(0, 0)):
        part = design.matrix({name: values[rows] for name, values in features.items()})
        assert np.array_equal(part.codes, whole.codes[:, rows])
        assert np.array_equal(part.numbers, whole.numbers[:, rows])
        assert part.levels == whole.levels


def test_no_columns_at_all():
    design = Design.fit({}, Rules())
    matrix = design.matrix({}, rows=3)
    assert (matrix.rows, matrix.columns, design.coefficients) == (3, 0, [])
    assert matrix.times(np.array([])).tolist() == [0, 0, 0]
    assert matrix.transposed_times(np.ones(3)).shape == (0,)
    assert matrix.gram().shape == (0, 0) and matrix.dense().shape == (3, 0)
    assert (matrix.bits, matrix.integers.shape) == ((), (0, 3))
    assert (design.dependent(matrix), design.relativities(np.array([]))) == ([], [])
    assert design.unseen({}) == {}


# Dependent columns


def dependent(features, rules: Rules = ALL) -> list[tuple[str, str]]:
    design = Design.fit(features, rules)
    matrix = design.matrix(features)
    found = design.dependent(matrix)
    # LAPACK agrees on the rank; its tolerance is on lengths, ours on their squares.
    x = np.hstack([np.ones((matrix.rows, 1)), matrix.dense()])
    x /= np.linalg.norm(x, axis=0)
    triangle = np.linalg.svd(x, compute_uv=False)
    assert (triangle < 1e-6).sum() == len(found)
    return found


def numbers(seed: int, rows: int = 2000) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=rows)


def test_a_duplicate_column():
    x, y = numbers(0), numbers(1)
    assert dependent({"x": x, "y": y, "again": x}) == [("again", "")]
    assert dependent({"x": x, "y": y, "miles": 5 - x / 1.609}) == [("miles", "")]
    assert dependent({"x": x, "y": y, "again": x + 1e-3 * numbers(2)}) == []


def test_a_sum_of_two_others():
    x, y, z = numbers(0), 30 * numbers(1), numbers(2)
    assert dependent({"x": x, "y": y, "z": z, "both": x + y}) == [("both", "")]
    assert dependent({"both": x + y, "z": z, "y": y, "x": x}) == [("x", "")]
    assert dependent({"x": x, "y": y, "both": x + y, "more": x - y + z, "z": z}) == [
        ("both", ""),
        ("z", ""),
    ]
    # Premiums of two years and their small change: the grid's rounding is a larger part of it.
    assert dependent({"now": y, "before": y + x / 10, "change": x / 10}) == [("change", "")]


@pytest.mark.parametrize("unit", [1e-9, 1e9])
def test_units_do_not_matter(unit):
    x, y, z = unit * numbers(0), numbers(1) / unit, numbers(2)
    assert dependent({"x": x, "y": y, "z": z}) == []
    assert dependent({"x": x, "y": y, "z": z, "both": x / unit + y * unit}) == [("both", "")]
    assert dependent({"x": x, "y": y, "both": x / unit + y * unit + 1e-3 * z}) == []


def test_an_offset_does_not_matter():
    year = 2000 + 5 * numbers(0)
    assert dependent({"year": year, "x": numbers(1)}) == []
    assert dependent({"year": year, "x": numbers(1), "age": 2024 - year}) == [("age", "")]


def test_factors_that_coincide():
    rng = np.random.default_rng(0)
    region = rng.choice(["n", "s", "w"], 500)
    other = {"n": "1", "s": "2", "w": "3"}
    features = {"region": objects(region.tolist()), "zone": objects([other[r] for r in region])}
    rules = Rules(base={"region": "n", "zone": "3"})
    assert dependent(features, rules) == [("zone", "1"), ("zone", "2")]
    # Another zone in one row tells two of its levels apart, and the third is still a region.
    features["zone"][0] = "1" if features["zone"][0] != "1" else "2"
    assert len(dependent(features, rules)) == 1


def test_a_factor_nested_in_another_and_indicators_that_coincide():
    rng = np.random.default_rng(0)
    town = rng.choice(["a1", "a2", "b1"], 300)
    features = {"town": objects(town.tolist()), "county": objects([t[0] for t in town])}
    assert [name for name, _ in dependent(features)] == ["county"]
    gap = rng.random(300) < 0.5
    x, y = np.where(gap, np.nan, numbers(0, 300)), np.where(gap, np.nan, numbers(1, 300))
    assert dependent({"x": x, "y": y}, Rules(missing="level")) == [("y", MISSING)]
    assert dependent({"x": x, "gap": gap.astype(float)}, Rules(missing="level")) == [("gap", "")]


def test_one_row_among_many_tells_columns_apart():
    rows = 1_000_000
    x = np.random.default_rng(0).random(rows) < 0.5
    y = x.copy()
    y[17] = ~y[17]
    features = {"x": x, "y": y, "z": x}
    design = Design.fit(features, Rules())
    assert design.dependent(design.matrix(features)) == [("z", "")]


def test_levels_without_a_row_in_this_matrix_are_dependent():
    design = Design.fit({"x": objects(["a", "b", "c"] * 20), "y": numbers(0, 60)}, Rules())
    few = design.matrix({"x": objects(["a", "b", "b", "a"]), "y": numbers(1, 4)})
    assert design.dependent(few) == [("x", "c")]


@given(matrices())
def test_the_others_have_full_rank(made):
    matrix, _ = made
    x = np.hstack([np.ones((matrix.rows, 1)), matrix.dense()])
    names = [str(i) for i in range(matrix.columns)]
    design = Design((Factor("x", "base", ("base", *names), (0,) * (len(names) + 1), (), None),), ())
    found = {int(level) for _, level in design.dependent(matrix)}
    kept = [0, *(i + 1 for i in range(matrix.columns) if i not in found)]
    if matrix.rows:
        assert np.linalg.matrix_rank(x[:, kept]) == len(kept) == np.linalg.matrix_rank(x)


# What the owner keeps and reads


def test_a_design_survives_its_document():
    features = mixed(3000)
    design = Design.fit(features, MIXED)
    assert again(design) == design
    new = mixed(100, seed=9)
    one, other = design.matrix(new), again(design).matrix(new)
    assert np.array_equal(one.codes, other.codes) and np.array_equal(one.numbers, other.numbers)
    assert again(Design((), ())) == Design((), ())


def test_rules_survive_their_document():
    text = json.dumps(msgspec.to_builtins(MIXED, str_keys=True))
    assert msgspec.convert(json.loads(text), Rules) == MIXED


def test_relativities():
    features = {
        "fuel": objects(["d"] * 30 + ["r"] * 50 + [None] * 20 + ["x"] * 5),
        "age": np.concatenate([np.repeat([20.0, 40.0], 40), np.full(25, np.nan)]),
        "power": np.concatenate([np.repeat([0.0, 8.0], 40), np.full(25, np.nan)]),
    }
    design = Design.fit(features, Rules(("age",), missing="level", base={"age": "> 30"}))
    assert design.coefficients == [
        ("fuel", f"d, {OTHER}"),
        ("fuel", MISSING),
        ("age", "<= 30"),
        ("age", MISSING),
        ("power", MISSING),
        ("power", ""),
    ]
    beta = np.log([2.0, 3.0, 5.0, 7.0, 11.0, 1.5**4])
    found = design.relativities(beta)
    for one, relativity in zip(found, [2, 1, 3, 5, 1, 7, 1.5, 11], strict=True):
        assert one.relativity == pytest.approx(relativity)
        assert one.coefficient == pytest.approx(math.log(relativity ** (4 if one.per_unit else 1)))
    assert [(one.column, one.level, one.rows) for one in found] == [
        ("fuel", f"d, {OTHER}", 35),
        ("fuel", "r", 50),
        ("fuel", MISSING, 20),
        ("age", "<= 30", 40),
        ("age", "> 30", 40),
        ("age", MISSING, 25),
        ("power", "", 80),
        ("power", MISSING, 25),
    ]
    assert found[1] == Relativity("fuel", "r", 0.0, None, 1.0, 50)
    assert found[6].per_unit == pytest.approx(math.log(1.5))
    with pytest.raises(ValueError, match="zip"):
        design.relativities(beta[:-1])


def test_the_relativity_of_a_tiny_unit_may_be_infinite():
    design = Design.fit({"x": np.array([0.0, 2e-9])}, Rules())
    (one,) = design.relativities(np.array([1.0]))
    assert (one.coefficient, one.relativity) == (1.0, math.inf)
    assert one.per_unit == pytest.approx(1e9)
