"""The sums about a row that a host gives a guest: counted by row, over alignments, kept, refused."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from vfl.arrays import Mask
from vfl.errors import ModelError, Refused
from vfl.jobs.alignments import Alignment, load_alignment, save_alignment
from vfl.jobs.sums_given import SumsBudget, SumsGiven
from vfl.leakage.estimate import MAX_SUMS_A_ROW
from vfl.learn.params import BoostParams
from vfl.party.keys import TableIds, all_keys
from vfl.party.row_sums import RowSumsFile
from vfl.party.sections import PolicySection
from vfl.party.store import Store

ROWS = 10_000
DEPTH_4 = 16  # equations of a tree: two for the root, two for a child of each of seven splits


def alignment(name: str = "a1", extends: str | None = None, origin: str | None = None) -> Alignment:
    rows = np.arange(ROWS, dtype=np.int64)
    return Alignment(
        name, "aa", {"insurer": "aa"}, ("trim",), "ids", rows, extends=extends, origin=origin
    )


def trees(count: int, **settings: object) -> BoostParams:
    return BoostParams.model_validate({"trees": count, "depth": 4, **settings})


FREE = 1e6


def policy(most: float) -> PolicySection:
    return PolicySection(max_sums_a_row=most)


def train(
    store: Store,
    rule: PolicySection,
    on: Alignment,
    model: str,
    params: BoostParams,
    done: int = 0,
    until: int | None = None,
    rows: Mask | None = None,
) -> None:
    """A host's part of a job, until so many of its trees have begun: of these rows, all by default."""
    every = np.ones(len(on.rows), bool) if rows is None else rows
    budget = SumsGiven(store, on).reserve(rule, model, params, every.mean(), done)
    try:
        for _ in range(max(done, params.guest_trees), params.trees if until is None else until):
            budget.count_tree(None if params.encryption == "lattice" else every)
    finally:
        budget.close()


def told(store: Store, on: Alignment) -> float:
    return SumsGiven(store, on).told


def test_the_rule_is_what_the_measured_curve_gives() -> None:
    assert PolicySection().max_sums_a_row == MAX_SUMS_A_ROW


def test_jobs_add_up_by_the_trees_that_begin(tmp_path: Path) -> None:
    store = Store(tmp_path)
    train(store, policy(FREE), alignment(), "first", trees(10))
    assert told(store, alignment()) == pytest.approx(10 * DEPTH_4 / ROWS)
    train(Store(tmp_path), policy(FREE), alignment(), "second", trees(9), until=5)
    assert told(store, alignment()) == pytest.approx(15 * DEPTH_4 / ROWS)
    given = SumsGiven(store, alignment())
    befores = given.before("first"), given.before("second"), given.before("unknown")
    assert befores == pytest.approx((0, 10 * DEPTH_4 / ROWS, 15 * DEPTH_4 / ROWS))
    train(store, policy(FREE), alignment(), "third", trees(9, guest_trees=7))
    assert told(store, alignment()) == pytest.approx(17 * DEPTH_4 / ROWS)


def test_a_job_that_goes_on_counts_the_trees_that_it_grows_again(tmp_path: Path) -> None:
    store = Store(tmp_path)
    train(store, policy(0.03), alignment(), "killed", trees(16), until=7)
    train(store, policy(0.03), alignment(), "killed", trees(16), done=6)
    assert told(store, alignment()) == pytest.approx(17 * DEPTH_4 / ROWS)
    assert SumsGiven(store, alignment()).before("killed") == 0
    full = policy(19 * DEPTH_4 / ROWS)
    train(store, full, alignment(), "short", trees(2))
    with pytest.raises(Refused, match=r"^0\.0016 sums a row of 1 tree .* and the job goes on$"):
        SumsGiven(store, alignment()).check(full, trees(2), 1.0, done=1)
    train(store, policy(20 * DEPTH_4 / ROWS), alignment(), "short", trees(2), done=1)


@pytest.mark.parametrize("encryption", ["paillier", "lattice"])
def test_a_job_may_fill_the_rule_to_the_last_tree(tmp_path: Path, encryption: str) -> None:
    """Trees that are added up one by one come to a little more than their product."""
    store, full = Store(tmp_path), policy(30 * DEPTH_4 / ROWS)
    train(store, full, alignment(), "all", trees(30, encryption=encryption))
    with pytest.raises(Refused):
        SumsGiven(store, alignment()).reserve(full, "more", trees(1), 1.0)


def test_a_job_beyond_the_rule_is_refused_with_what_helps_and_not_counted(tmp_path: Path) -> None:
    store = Store(tmp_path)
    train(store, policy(0.03), alignment(), "first", trees(12))
    given = SumsGiven(store, alignment())
    with pytest.raises(Refused) as refused:
        given.reserve(policy(0.03), "second", trees(10), 1.0)
    said = str(refused.value)
    assert said == refused.value.for_peer
    assert said == (
        "0.016 sums a row of 10 trees over 10,000 rows that train, after 0.0192 of earlier jobs on these"
        " rows, break rule max_sums_a_row = 0.03 of [policy]: at most 6 trees of this depth, less depth,"
        ' more rows, sums = "hidden" with a coordinator, or the host raises the rule'
    )
    assert given.told == pytest.approx(12 * DEPTH_4 / ROWS)
    train(store, policy(0.03), alignment(), "second", trees(6))  # as many as it said
    # A host that did not write the rule finds it nowhere in its file.
    usual = given.weigh(PolicySection(), trees(10), 1.0).broken
    assert usual is not None and "max_sums_a_row = 0.03 of [policy] (the default): " in usual
    hidden = trees(5000, sums="hidden", coordinator="notary")
    train(store, policy(0.03), alignment(), "third", hidden)
    assert given.told == pytest.approx(18 * DEPTH_4 / ROWS)


def test_what_is_used_up_is_not_helped_by_a_smaller_job(tmp_path: Path) -> None:
    store, rule = Store(tmp_path), policy(10 * DEPTH_4 / ROWS)
    train(store, rule, alignment(), "first", trees(10))
    said = SumsGiven(store, alignment()).weigh(rule, trees(1, depth=1), 1.0).broken
    assert said is not None and "depth" not in said
    assert said.endswith(
        ': rows that no earlier job was about, sums = "hidden" with a coordinator, or the host raises '
        "the rule"
    )


def test_a_table_that_sums_tell_whole_is_refused_by_default(tmp_path: Path) -> None:
    """500 rows and 50 trees: the guest would have the table (docs/leakage.md)."""
    store, small = Store(tmp_path), replace(alignment(), rows=np.arange(500))
    with pytest.raises(
        Refused, match=r"^1\.6 sums a row of 50 trees over 500 rows that train break rule"
    ):
        SumsGiven(store, small).reserve(PolicySection(), "open", trees(50), 1.0)
    assert told(store, small) == 0
    train(store, PolicySection(), small, "hidden", trees(50, sums="hidden", coordinator="notary"))
    assert told(store, small) == 0


# --- A guest that wants more than the rule allows. ------------------------------------------------


def most_of(store: Store, on: Callable[[int], Alignment], job: Callable[[int], str]) -> float:
    """Sums a row that a guest gets by the default rule, which has room for 18 of its trees: it starts
    jobs on the alignments and under the names that it likes, each as often as it is let."""
    got = 0
    for attempt in range(12):
        for done in (0, 1, 17):
            params = trees(1 + 17 * (attempt % 2))
            try:
                budget = SumsGiven(store, on(attempt)).reserve(
                    PolicySection(), job(attempt), params, 1.0, done
                )
            except Refused:
                continue
            try:
                for _ in range(100):
                    budget.count_tree(np.ones(len(on(attempt).rows), bool))
                    got += 1
            except Refused:
                budget.close()
    return got * DEPTH_4 / ROWS


@pytest.mark.parametrize("name", ["same", "new {}"])
def test_no_name_and_no_claim_to_go_on_lowers_a_count(tmp_path: Path, name: str) -> None:
    """Neither a smaller job under the name of a larger one, nor one with hidden sums, nor many jobs
    under a name."""
    store, given = Store(tmp_path), SumsGiven(Store(tmp_path), alignment())
    hidden = trees(1, sums="hidden", coordinator="notary")
    assert 0.028 < most_of(store, lambda _: alignment(), name.format) <= MAX_SUMS_A_ROW
    before = given.told
    for params in (hidden, trees(1, depth=1)):
        for done in (0, 1):
            given.check(policy(FREE), params, 1.0, done)
            given.reserve(policy(FREE), name.format(0), params, 1.0, done).close()
            assert given.told == before
    train(store, policy(FREE), alignment(), name.format(0), hidden)
    assert given.told == before > 0.028


def table_ids(order: Sequence[int]) -> TableIds:
    """Of a table whose rows are these vehicles, by plate and by number."""
    plates = [f"M-{one:05d}" for one in order]
    numbers = [f"VIN{one:06d}" for one in order]
    return all_keys([[plates], [numbers]], [("trim",), ("trim",)])


@pytest.mark.parametrize("extends", [True, False])
def test_a_new_alignment_of_the_same_rows_has_what_is_left(tmp_path: Path, extends: bool) -> None:
    """Also of a table that is written anew in another order, and when earlier alignments are removed."""
    store, draw = Store(tmp_path), np.random.default_rng(1)
    file = RowSumsFile(store, "insurer")
    aligned = []
    for number in range(5):
        table = draw.permutation(ROWS)
        rows = draw.permutation(ROWS)
        own = file.identify(table_ids(table), rows)
        aligned.append(
            replace(
                alignment(f"a{number}", "a0" if extends and number else None),
                rows=rows,
                counted_as=own,
            )
        )
        save_alignment(store, aligned[-1])
    kept = load_alignment(store, "a4")
    assert kept.counted_as is not None and (kept.counted_as == aligned[-1].counted_as).all()
    got = most_of(store, lambda attempt: aligned[attempt % 5], "job {}".format)
    assert 0.028 < got <= MAX_SUMS_A_ROW
    store.remove("alignment", "a0")
    assert [told(store, one) for one in aligned] == pytest.approx([got] * 5)
    other = replace(aligned[1], parties={"bank": "aa"})
    assert told(store, other) == 0  # another guest was told nothing


def test_alignments_kept_without_numbers_of_rows_share_a_count_if_they_extend_one_another(
    tmp_path: Path,
) -> None:
    store = Store(tmp_path)
    line = [alignment("a1"), alignment("a2", "a1"), alignment("a3", "a2"), alignment("b", "a1")]
    for one in (*line, alignment("c")):
        save_alignment(store, one)
    train(store, policy(FREE), line[1], "new", trees(1))
    assert [told(store, one) for one in line] == pytest.approx([DEPTH_4 / ROWS] * 4)
    assert told(store, alignment("c")) == 0


def density(jobs: Sequence[tuple[Mask, float]], within: Mask) -> float:
    """Sums a row of those of whose rows all are within a set."""
    return sum(sums for rows, sums in jobs if not (rows & ~within).any()) / max(1, within.sum())


@pytest.mark.parametrize("encryption", ["paillier", "lattice"])
def test_no_set_of_rows_has_more_sums_a_row_than_the_rule(tmp_path: Path, encryption: str) -> None:
    """Whatever rows jobs are of: all sets that are unions of those of jobs are looked at."""
    store, draw = Store(tmp_path), np.random.default_rng(2)
    rows = 400
    jobs: list[tuple[Mask, float]] = []
    each = trees(1, encryption=encryption, min_child_rows=1)
    for number in range(14):
        shares = draw.choice([0.03, 0.1, 0.5, 1.0])
        which = draw.random(rows) < shares
        which[draw.integers(rows)] = True
        on = replace(alignment(f"a{number}"), rows=np.flatnonzero(which))
        own = replace(on, counted_as=np.flatnonzero(which).astype(np.uint64) * 7 + 3)
        train_rows = draw.random(len(own.rows)) < draw.choice([0.2, 1.0])
        train_rows[0] = True
        chosen = np.zeros(rows, bool)
        chosen[own.rows[train_rows]] = True
        try:
            while True:
                train(store, policy(0.5), own, f"m{len(jobs)}", each, rows=train_rows)
                jobs.append((chosen, DEPTH_4))
        except Refused:
            pass
    assert len(jobs) > 8
    sets = {rows_.tobytes(): rows_ for rows_, _ in jobs}
    some = [*sets.values()][:10]
    worst = 0.0
    for choice in range(1, 1 << len(some)):
        union = np.any([one for i, one in enumerate(some) if choice >> i & 1], axis=0)
        worst = max(worst, density(jobs, union))
    assert 0.2 < worst <= 0.5 * (1 + 1e-9)


def test_new_rows_have_room_that_old_ones_have_not(tmp_path: Path) -> None:
    """Half of the rows are new: as much more as they have room for."""
    store, rule = Store(tmp_path), policy(20 * DEPTH_4 / ROWS)
    old, both = alignment("old"), alignment("both")
    old = replace(old, counted_as=np.arange(ROWS, dtype=np.uint64))
    both = replace(both, counted_as=np.arange(ROWS // 2, ROWS // 2 + ROWS, dtype=np.uint64))
    train(store, rule, old, "first", trees(20))
    with pytest.raises(Refused, match="at most 10 trees of this depth"):
        SumsGiven(store, both).reserve(rule, "second", trees(11), 1.0)
    train(store, rule, both, "second", trees(10))
    assert told(store, old) == told(store, both) == pytest.approx(20 * DEPTH_4 / ROWS)


@pytest.mark.parametrize("encryption", ["paillier", "lattice"])
def test_rows_that_do_not_train_share_nothing(tmp_path: Path, encryption: str) -> None:
    """A guest that holds nine tenths out gets as many sums over a tenth of the rows."""
    store, tenth = Store(tmp_path), np.arange(ROWS) < ROWS // 10
    params = trees(18, encryption=encryption)
    with pytest.raises(
        Refused, match=r"^0\.288 sums a row of 18 trees over 1,000 rows that train break"
    ):
        train(store, PolicySection(), alignment(), "some", params, rows=tenth)
    few = params.model_copy(update={"trees": 1})
    train(store, PolicySection(), alignment(), "few", few, rows=tenth)
    assert told(store, alignment()) == pytest.approx(DEPTH_4 / (ROWS // 10))


def test_a_guest_that_trains_on_fewer_rows_than_it_said_is_found_out_in_the_first_tree(
    tmp_path: Path,
) -> None:
    tenth, given = np.arange(ROWS) < ROWS // 10, SumsGiven(Store(tmp_path), alignment())
    budget = given.reserve(PolicySection(), "m", trees(18), 1.0)
    with pytest.raises(Refused, match=r"^18 further trees would break rule max_sums_a_row"):
        budget.count_tree(tenth)
    assert given.told == 0
    # Of rows that are drawn for each tree it is only known afterwards: as far as there is room.
    budget.close()
    drawn = given.reserve(PolicySection(), "drawn", trees(18, subsample=0.1), 1.0)
    drawn.count_tree(tenth)
    with pytest.raises(Refused, match=r"^a further tree breaks rule max_sums_a_row"):
        drawn.count_tree(tenth)
    for start in range(1, 10):  # others than before
        drawn.count_tree(np.roll(tenth, start * ROWS // 10))
    drawn.close()


@pytest.mark.parametrize("unknown", [0, 98_000])
@pytest.mark.parametrize("times", [1, 5])
def test_sums_are_shared_by_the_different_rows_that_the_host_has(
    tmp_path: Path, unknown: int, times: int
) -> None:
    """Not by rows of the guest that it does not know (left join), or several that are one of its own."""
    store = Store(tmp_path)
    rows = np.concatenate([np.repeat(np.arange(2000), times), np.full(unknown, -1)])
    joined = replace(alignment(), rows=rows)
    with pytest.raises(Refused, match=r"^0\.4 sums a row of 50 trees over 2,000 rows that train break"):
        SumsGiven(store, joined).reserve(PolicySection(), "m", trees(50), 1.0)
    train(store, PolicySection(), joined, "m", trees(3))
    assert told(store, joined) == pytest.approx(3 * DEPTH_4 / 2000)


def test_jobs_at_the_same_time_do_not_share_what_is_left(tmp_path: Path) -> None:
    store, every = Store(tmp_path), np.ones(ROWS, bool)
    first = SumsGiven(store, alignment()).reserve(policy(0.03), "first", trees(12), 1.0)
    with pytest.raises(Refused, match=r"after 0\.0192 of earlier jobs"):
        SumsGiven(Store(tmp_path), alignment()).reserve(policy(0.03), "second", trees(10), 1.0)
    first.count_tree(every)
    first.close()
    assert told(store, alignment()) == pytest.approx(DEPTH_4 / ROWS)
    train(store, policy(0.03), alignment(), "second", trees(17))


def test_a_tree_is_refused_that_another_process_has_left_no_room_for(tmp_path: Path) -> None:
    store, every = Store(tmp_path), np.ones(ROWS, bool)
    budget = SumsGiven(store, alignment()).reserve(policy(0.03), "first", trees(2), 1.0)
    budget.count_tree(every)
    given = SumsGiven(store, alignment())
    with given.file.in_turn():  # as another process does, which knows of no reservation here
        sums = given.file.read()
        given.file.write(sums.with_told(given.places(sums), np.full(ROWS, 0.029)))
    with pytest.raises(
        Refused, match=r"^a further tree breaks rule max_sums_a_row = 0\.03 of \[policy\]"
    ):
        budget.count_tree(every)
    budget.close()
    assert given.told == pytest.approx(0.029)


def test_a_job_has_no_more_trees_than_it_said(tmp_path: Path) -> None:
    given = SumsGiven(Store(tmp_path), alignment())
    budget: SumsBudget = given.reserve(policy(FREE), "m", trees(2), 1.0)
    budget.count_tree()
    budget.count_tree()
    with pytest.raises(Refused):
        budget.count_tree()
    budget.close()


@pytest.mark.parametrize("what", ["insurer.json", "array"])
def test_a_count_that_was_damaged_is_named(tmp_path: Path, what: str) -> None:
    train(Store(tmp_path), policy(1.0), alignment(), "first", trees(1))
    folder = tmp_path / "sums"
    path = folder / what if what != "array" else next(folder.glob("*.npy"))
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(ModelError, match=r"insurer\.json is damaged .*: bring it back from a copy"):
        SumsGiven(Store(tmp_path), alignment()).reserve(policy(1.0), "second", trees(1), 1.0)
