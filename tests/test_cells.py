"""Levels, cells that are withheld, what follows from two tables, whole numbers and intervals."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog
from scipy.stats import chi2

from vfl.learn import cells
from vfl.learn.actual_expected import LEVEL, count_interval, total_interval
from vfl.learn.cells import (
    Factor,
    column_of,
    counts_of,
    factor_of,
    grouped_values,
    tells_of_fewer,
    withhold,
)
from vfl.learn.fixed_point import BITS, FixedPoint, joined

# --- Whole numbers. ---------------------------------------------------------------------------------

REALS = st.floats(-1e12, 1e12, allow_subnormal=False)


@given(st.lists(REALS, min_size=1, max_size=20), st.integers(1, 50))
def test_digits_add_up_to_the_numbers(values, bits):
    fixed = FixedPoint.of(np.array(values))
    assert abs(fixed.numbers).max() < 1 << BITS
    digits = fixed.digits(bits)
    assert all((abs(one) < 1 << bits).all() for one in digits)
    assert joined([int(one.sum()) for one in digits], bits) == sum(fixed.numbers.tolist())
    assert (
        fixed.real(1) / 2 * 1.001
        >= np.abs(
            [fixed.real(int(one)) - value for one, value in zip(fixed.numbers, values, strict=True)]
        ).max()
    )


@given(st.lists(st.integers(-(10**9), 10**9), min_size=1), st.sampled_from([1, 10, 100]))
def test_amounts_of_money_stay_what_they_are(cents, unit):
    values = np.array(cents) / unit
    fixed = FixedPoint.of(values)
    assert [fixed.real(int(one)) for one in fixed.numbers] == values.tolist()
    assert fixed.real(sum(fixed.numbers.tolist())) == sum(cents) / unit


# --- Levels. ----------------------------------------------------------------------------------------


@given(st.lists(st.integers(0, 40), min_size=1, max_size=12), st.integers(1, 60))
def test_grouped_levels_have_enough_rows(counts, minimum):
    codes = np.repeat(np.arange(len(counts)), counts)
    factor = Factor(tuple(f"l{i}" for i in range(len(counts))), codes)
    if sum(counts) < minimum:
        with pytest.raises(ValueError):
            factor.grouped(np.array(counts), minimum)
        return
    grouped = factor.grouped(np.array(counts), minimum)
    found = counts_of(grouped.codes, len(grouped.levels))
    assert found.min() >= minimum and found.sum() == sum(counts)
    kept = [i for i, count in enumerate(counts) if count >= minimum]
    assert len(grouped.levels) in (len(kept), len(kept) + 1)


def test_a_row_of_its_owner_counts_once():
    codes, own = np.array([0, 0, 0, 1, 1, -1]), np.array([5, 5, 6, 7, -1, 8])
    assert counts_of(codes, 2, own).tolist() == [2, 1]
    assert counts_of(codes, 2).tolist() == [3, 2]


def test_numbers_are_cut_at_edges_of_few_digits():
    rng = np.random.default_rng(1)
    ages = np.append(rng.integers(18, 80, 3000).astype(float), np.full(90, np.nan))
    factor = factor_of(column_of("age", ages, 5, 50), ages)
    assert factor.levels[-1] == "(missing)"
    assert all("." not in name for name in factor.levels)
    incomes = rng.lognormal(10, 1, 3000)
    column = column_of("income", incomes, 5, 50)
    assert not np.isin(column.edges, incomes).any()
    assert all(len(f"{edge:g}") <= 6 for edge in column.edges)


def test_a_level_of_one_number_is_called_by_it():
    power = np.repeat([4.0, 5.0, 7.0], 60)
    assert factor_of(column_of("power", power, 10, 50), power).levels == ("4", "5", "7", "(missing)")


def test_bands_and_groups_are_their_owners():
    ages = np.array([18.0, 20, 21, 24, 25, 64, 65, 90, np.nan])
    factor = factor_of(column_of("age", ages, 10, 1, (21.0, 25.0, 65.0)), ages)
    assert factor.levels == ("< 21", "21-24", "25-64", "65+", "(missing)")
    assert factor.codes.tolist() == [0, 0, 1, 1, 2, 2, 3, 3, 4]
    jobs = np.array(["nurse", "clerk", "doctor", None, "farmer"], object)
    health = {"health": ("nurse", "doctor")}
    assert grouped_values(jobs, health).tolist() == ["health", "clerk", "health", None, "farmer"]
    rest = health | {"other jobs": ("*",)}
    found = grouped_values(jobs, rest).tolist()
    assert found == ["health", "other jobs", "health", None, "other jobs"]
    assert grouped_values(ages, health) is ages


# --- Cells that are withheld. -----------------------------------------------------------------------

COUNTS = st.integers(2, 5).flatmap(
    lambda rows: st.integers(2, 5).flatmap(
        lambda columns: st.lists(
            st.lists(
                st.one_of(st.integers(0, 12), st.integers(10, 300)), min_size=columns, max_size=columns
            ),
            min_size=rows,
            max_size=rows,
        )
    )
)


def margins(shape):
    """The sums of each row and column, as equations of all cells."""
    rows, columns = shape
    cells = np.arange(rows * columns).reshape(shape)
    return np.array(
        [np.isin(cells, one).ravel() for one in (*cells, *cells.T)],
        float,
    )


@settings(max_examples=60)
@given(COUNTS)
def test_no_withheld_cell_follows_from_margins(counts):
    """By linear programming: each may have as many rows as the rule wants of a cell."""
    counts, minimum = np.array(counts), 10
    withheld = withhold(counts, minimum)
    if withheld is None:
        return
    assert (withheld | (counts >= minimum)).all()
    free = np.flatnonzero(withheld.ravel())
    if not len(free):
        return
    equations = margins(counts.shape)[:, free]
    known = equations @ counts.ravel()[free]
    for place in range(len(free)):
        goal = np.zeros(len(free))
        goal[place] = -1
        most = -linprog(goal, A_eq=equations, b_eq=known, method="highs").fun
        assert most >= minimum - 1e-6


@settings(max_examples=60)
@given(COUNTS)
def test_sums_that_follow_are_about_enough_rows(counts):
    """Every sum along a cut: of rows that are added and columns that are taken away."""
    counts, minimum = np.array(counts), 10
    withheld = withhold(counts, minimum)
    if withheld is None or not withheld.any():
        return
    free = np.flatnonzero(withheld.ravel())
    equations = margins(counts.shape)[:, free]
    rows = counts.ravel()[free]
    for signs in itertools.product((0, 1), repeat=len(equations)):
        weights = np.array(signs) * np.where(np.arange(len(signs)) < len(counts), 1, -1)
        follows = weights @ equations
        if follows.any():
            assert rows[follows != 0].sum() >= minimum


def test_where_nothing_helps_no_table_is_told():
    assert withhold(np.array([[5, 100]]), 10) is None
    assert withhold(np.array([[5, 100], [100, 100]]), 10) is None
    assert not withhold(np.array([[10, 100], [100, 100]]), 10).any()
    assert withhold(np.array([[0, 100, 90], [100, 100, 80]]), 10).tolist() == [[True, False, True]] * 2


def test_a_row_of_small_cells_is_withheld_with_another():
    counts = np.array([[4, 5, 6], [60, 70, 80], [90, 90, 90]])
    assert withhold(counts, 10).tolist() == [[True] * 3, [True] * 3, [False] * 3]


# --- What follows from two tables. ------------------------------------------------------------------


def fewest(first, second):
    """By trial of small numbers for every cell."""
    own = [range(first.max() + 1), range(second.max() + 1)]
    values = [(-1, 0, 1)] * (len(own[0]) + len(own[1]))
    found = len(first) + 1
    for each in itertools.product(*values):
        one, two = np.array([*each[: len(own[0])], 0]), np.array([*each[len(own[0]) :], 0])
        rows = np.count_nonzero(one[first] + two[second])
        if rows:
            found = min(found, rows)
    return found


CODES = st.lists(st.tuples(st.integers(-1, 2), st.integers(-1, 2)), min_size=1, max_size=12)


@settings(max_examples=60)
@given(CODES)
def test_the_least_difference_is_that_of_all_combinations(codes):
    first, second = np.array(codes).T
    if first.max() < 0 or second.max() < 0:
        return
    least = fewest(first, second)
    for minimum in (1, 2, least - 1, least, least + 1, 2 * least, 50):
        assert tells_of_fewer(first, second, minimum) == (least < minimum)


def test_the_same_table_again_tells_nothing_about_fewer_rows():
    codes = np.repeat([0, 1, 2, -1], [30, 20, 40, 5])
    assert not tells_of_fewer(codes, codes, 20) and tells_of_fewer(codes, codes, 21)
    moved = codes.copy()
    moved[:3] = 1
    assert not tells_of_fewer(codes, moved, 3) and tells_of_fewer(codes, moved, 4)
    fewer = codes.copy()
    fewer[:4] = -1
    assert not tells_of_fewer(codes, fewer, 4) and tells_of_fewer(codes, fewer, 5)


def test_tables_of_many_cells_are_compared_without_a_wait(monkeypatch) -> None:
    """A guest that asks for two tables by two factors of fifty levels each, about other rows, would have
    a host look for the least cut of five thousand nodes: minutes in which it does nothing else."""
    cut = []
    monkeypatch.setattr(cells, "_least_cut", lambda weight: cut.append(len(weight)) or (10**9, []))
    codes = np.repeat(np.arange(2600), 120)
    fewer = np.where(np.arange(len(codes)) % 120 < 60, codes, -1)
    assert not tells_of_fewer(codes, fewer, 60) and tells_of_fewer(codes, fewer, 61) and not cut
    for count in (2600, 150):
        codes = np.repeat(np.arange(count), 80)
        halves = (codes + (np.arange(len(codes)) % 80 < 40)) % count
        # No two cells have enough rows in common to be one, so that only a cut would say.
        assert tells_of_fewer(codes, halves, 60) == (count == 2600)
    assert cut == [300]


# --- Intervals. -------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [0, 1, 7, 250])
def test_the_interval_of_a_count_is_garwoods(count):
    low, high = count_interval(count)
    assert high == pytest.approx(chi2.ppf(0.975, 2 * count + 2) / 2)
    if count:
        assert low == pytest.approx(chi2.ppf(0.025, 2 * count) / 2)
    else:
        assert low == 0


@pytest.mark.parametrize(
    ("sizes", "claims", "least"),
    [
        ("ones", 3, 0.95),
        ("ones", 60, 0.95),
        ("gamma", 20, 0.93),
        ("gamma", 200, 0.94),
        ("lognormal", 50, 0.88),
        ("lognormal", 1000, 0.93),
    ],
)
def test_intervals_hold_what_was_to_be_expected(sizes, claims, least):
    """Over 4,000 draws: of counts at least as often as they say, of amounts nearly so; where single
    claims are very large, less often the fewer claims there are."""
    rng = np.random.default_rng(3)
    draw = {
        "ones": lambda n: np.ones(n),
        "gamma": lambda n: rng.gamma(2, 0.5, n),
        "lognormal": lambda n: rng.lognormal(-0.5, 1, n),
    }[sizes]
    held = 0
    for _ in range(4000):
        amounts = draw(rng.poisson(claims))
        total = float(amounts.sum())
        if sizes == "ones":
            low, high = count_interval(total)
        else:
            low, high = total_interval(total, float((amounts**2).sum()))
        held += low <= claims <= high
    assert least <= held / 4000 <= (1 if sizes == "ones" else 0.97)
    assert LEVEL == 0.95
