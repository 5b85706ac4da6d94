"""What a host tells by tables and what it keeps to itself: counts, differences, attacks on sums."""

from pathlib import Path

import numpy as np
import pytest

from vfl.errors import ModelError, Refused
from vfl.jobs.alignments import Alignment
from vfl.jobs.sums_given import SumsGiven
from vfl.jobs.told_cells import ToldCells
from vfl.learn.cells import column_of, factor_of
from vfl.learn.params import BoostParams
from vfl.party.policy_section import PolicySection
from vfl.party.store import Store

ROWS, LEAST = 2000, 50
NUMBERS = np.arange(ROWS, dtype=np.uint64) * 7 + 3
CODES = np.arange(ROWS) * 5 // ROWS


@pytest.fixture(autouse=True)
def _no_waiting_for_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.fsync", lambda file: None)


def told(folder: Path, guest: str = "insurer") -> ToldCells:
    return ToldCells(Store(folder), guest, ["age"])


def test_the_same_table_is_told_again_and_again(tmp_path: Path) -> None:
    for _ in range(40):
        told(tmp_path).tell(NUMBERS, CODES, LEAST)


def test_a_table_that_differs_by_few_rows_is_refused(tmp_path: Path) -> None:
    told(tmp_path).tell(NUMBERS, CODES, LEAST)
    for rows in (slice(0, 1), slice(10, 59), slice(395, 405)):
        fewer = CODES.copy()
        fewer[rows] = -1
        with pytest.raises(Refused, match="fewer than 50 rows of the host"):
            told(tmp_path).tell(NUMBERS, fewer, LEAST)
    moved = CODES.copy()
    moved[399] = 1
    with pytest.raises(Refused):
        told(tmp_path).tell(NUMBERS, moved, LEAST)
    fewer[:] = np.where(np.arange(ROWS) % 2, CODES, -1)
    told(tmp_path).tell(NUMBERS, fewer, LEAST)  # a half of each level
    told(tmp_path, "another").tell(NUMBERS, moved, LEAST)  # who was told nothing


def test_rows_are_known_again_in_another_alignment(tmp_path: Path) -> None:
    told(tmp_path).tell(NUMBERS, CODES, LEAST)
    with pytest.raises(Refused):
        told(tmp_path).tell(NUMBERS[20:], CODES[20:], LEAST)
    more = np.append(NUMBERS, np.arange(30, dtype=np.uint64) + NUMBERS[-1] + 1)
    with pytest.raises(Refused):
        told(tmp_path).tell(more, np.append(CODES, np.full(30, 4)), LEAST)
    more = np.append(NUMBERS, np.arange(60, dtype=np.uint64) + NUMBERS[-1] + 1)
    told(tmp_path).tell(more, np.append(CODES, np.full(60, 4)), LEAST)


def test_a_column_stays_as_it_was_cut(tmp_path: Path) -> None:
    ages = np.random.default_rng(1).uniform(18, 80, ROWS)
    column = column_of("age", ages, 5, LEAST)
    told(tmp_path).tell(NUMBERS, factor_of(column, ages).codes, LEAST, column)
    kept = told(tmp_path).column()
    assert kept is not None and kept.edges is not None and column.edges is not None
    assert kept.edges.tolist() == column.edges.tolist()
    text = np.array(["a", "b", None] * 600, object)
    other = column_of("job", text, 5, LEAST)
    ToldCells(Store(tmp_path), "insurer", ["job"]).tell(
        NUMBERS[:1800], factor_of(other, text).codes, LEAST, other
    )
    assert ToldCells(Store(tmp_path), "insurer", ["job"]).column() == other


def test_as_many_as_are_remembered(tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    for _ in range(32):
        told(tmp_path).tell(NUMBERS, np.where(rng.random(ROWS) < 0.5, CODES, -1), LEAST)
    with pytest.raises(Refused, match="32 different tables by this factor were told"):
        told(tmp_path).tell(NUMBERS, np.where(rng.random(ROWS) < 0.5, CODES, -1), LEAST)


def test_what_is_damaged_is_said(tmp_path: Path) -> None:
    told(tmp_path).tell(NUMBERS, CODES, LEAST)
    (document,) = (tmp_path / "cells").glob("*.json")
    document.write_text(document.read_text().replace("edges", "hedges").replace('"cut"', '"cat"'))
    with pytest.raises(ModelError):
        told(tmp_path).column()


# --- The count of sums. -----------------------------------------------------------------------------


def given(folder: Path) -> SumsGiven:
    rows = np.arange(ROWS, dtype=np.int64)
    return SumsGiven(Store(folder), Alignment("a1", "aa", {"insurer": "aa"}, ("trim",), "ids", rows))


def test_sums_of_tables_are_counted_with_those_of_trees(tmp_path: Path) -> None:
    policy, every = PolicySection(max_sums_a_row=0.03, min_summed_rows=1), np.ones(ROWS, bool)
    given(tmp_path).tell(policy, every, 0.012)
    assert given(tmp_path).told == pytest.approx(0.012)
    half = every.copy()
    half[:1000] = False
    given(tmp_path).tell(policy, half, 0.012)
    assert given(tmp_path).told == pytest.approx(0.024)
    with pytest.raises(Refused, match=r"0\.012 sums about a row, after 0\.024 of earlier jobs"):
        given(tmp_path).tell(policy, every, 0.012)
    assert given(tmp_path).told == pytest.approx(0.024)
    given(tmp_path).tell(policy, ~half, 0.012)
    # A tree of depth 4 tells 16 sums, 0.008 a row.
    trees = BoostParams(trees=1, depth=4, encryption="lattice")
    with pytest.raises(Refused):
        given(tmp_path).check(policy, trees, 1.0)
    other = given(tmp_path / "other")
    budget = other.reserve(policy, "m", BoostParams(trees=3, depth=4, encryption="lattice"), 1.0)
    with pytest.raises(Refused):
        other.tell(policy, every, 0.01)  # what runs beside it has its part reserved
    budget.close()
    other.tell(policy, every, 0.01)


# --- Attacks. ---------------------------------------------------------------------------------------


def attacked(claims: int, levels: int, seed: int) -> tuple[float, float]:
    """How often a guest is right about the level of a row with a claim, from the sums of amounts by
    level, and how often by guessing.

    For each level it looks for the set of claims whose amounts, in cents, add up to what it was told,
    by sums met in the middle: of few claims it finds the one there is.
    """
    rng = np.random.default_rng(seed)
    amounts = np.rint(100 * rng.lognormal(9, 1, claims)).astype(np.int64)
    level = rng.integers(0, levels, claims)
    half = claims // 2
    sums = []
    for part in (amounts[:half], amounts[half:]):
        masks = (np.arange(1 << len(part))[:, np.newaxis] >> np.arange(len(part))) & 1
        sums.append(masks @ part)
    order = np.argsort(sums[1])
    ascending = sums[1][order]
    guess = np.zeros(claims, np.int64)
    for one in range(levels):
        wanted = int(amounts[level == one].sum()) - sums[0]
        at = np.searchsorted(ascending, wanted)
        hit = np.flatnonzero((at < len(order)) & (ascending[np.minimum(at, len(order) - 1)] == wanted))
        if len(hit) == 1:
            whole = int(hit[0]) | int(order[at[hit[0]]]) << half
            guess[[bool(whole >> i & 1) for i in range(claims)]] = one
    return float((guess == level).mean()), float(np.bincount(level).max() / claims)


def test_few_large_numbers_tell_the_levels_of_their_rows_and_are_refused(tmp_path: Path) -> None:
    """Of 16 claims among 2,000 rows a table of amounts tells every one; the rule of sums refuses it, as
    it counts a sum of amounts about the rows that have some."""
    found = [attacked(16, 4, seed) for seed in range(3)]
    assert min(right for right, _ in found) > 0.9 > max(guessed for _, guessed in found)
    policy, every = PolicySection(), np.ones(ROWS, bool)
    with pytest.raises(Refused, match="max_sums_a_row"):
        given(tmp_path).tell(policy, every, 1 / 16)
    given(tmp_path).tell(policy, every, 1 / 40)  # so many would do for one sum


def test_the_difference_of_two_tables_tells_no_row(tmp_path: Path) -> None:
    """A guest asks about all rows, then about all but one. By the difference it would know the row's
    level in every case; it is told the first table alone, and guesses."""
    rng = np.random.default_rng(5)
    right = 0
    for trial in range(20):
        store, codes = tmp_path / str(trial), rng.integers(0, 4, ROWS)
        told(store).tell(NUMBERS, codes, LEAST)
        first, row = np.bincount(codes, minlength=4), int(rng.integers(ROWS))
        without = codes.copy()
        without[row] = -1
        try:
            told(store).tell(NUMBERS, without, LEAST)
            second = np.bincount(without[without >= 0], minlength=4)
            guess = int((first - second).argmax())
        except Refused:
            guess = int(first.argmax())
        right += guess == codes[row]
    assert right <= 12  # chance alone: 5 of 20; never so many in a thousand runs


def test_three_tables_tell_a_row_and_as_many_as_are_remembered_fifteen(
    tmp_path: Path,
) -> None:
    """Of some rows, of all others with one of these, and of all: each two differ by many rows, and the
    first two less the third are one row. As many tables as are told make fifteen rows known."""
    rng = np.random.default_rng(6)
    codes, every = rng.integers(0, 4, ROWS), np.ones(ROWS, bool)

    def table(rows: np.ndarray) -> np.ndarray:
        told(tmp_path).tell(NUMBERS, np.where(rows, codes, -1), LEAST)
        return np.bincount(codes[rows], minlength=4)

    whole, known = table(every), {}
    with pytest.raises(Refused, match="as many as are remembered"):
        for row in range(ROWS):
            some = rng.random(ROWS) < 0.5
            some[row], others = True, ~some
            others[row] = True
            both = table(some) + table(others)
            known[row] = int((both - whole).argmax())
    assert known == {row: int(codes[row]) for row in range(15)}
