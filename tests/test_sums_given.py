"""The sums about a row that a host gives a guest: counted by row, over alignments, kept, refused."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from vfl.arrays import Mask
from vfl.blocks import means
from vfl.errors import ModelError, Refused
from vfl.jobs.alignments import (
    Alignment,
    count_known_rows,
    load_alignment,
    most_joined,
    save_alignment,
)
from vfl.jobs.sums_given import SumsBudget, SumsGiven
from vfl.leakage.estimate import MAX_SUMS_A_ROW
from vfl.learn.params import BoostParams
from vfl.party.keys import TableIds, all_keys
from vfl.party.policy_section import PolicySection
from vfl.party.row_sums import RowSums, RowSumsFile
from vfl.party.store import Store
from vfl.protocols.align.join import number_values

ROWS = 10_000
DEPTH_4 = 16  # equations of a tree: two for the root, two for a child of each of seven splits


def alignment(name: str = "a1", extends: str | None = None, origin: str | None = None) -> Alignment:
    rows = np.arange(ROWS, dtype=np.int64)
    return Alignment(
        name, "aa", {"insurer": "aa"}, ("trim",), "ids", rows, extends=extends, origin=origin
    )


@pytest.fixture(autouse=True)
def _no_waiting_for_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is counted is written for each level of a tree."""
    monkeypatch.setattr("os.fsync", lambda file: None)


def trees(count: int, **settings: object) -> BoostParams:
    return BoostParams.model_validate({"trees": count, "depth": 4, **settings})


FREE = 1e6


def policy(most: float) -> PolicySection:
    return PolicySection(max_sums_a_row=most, min_summed_rows=1)


USUAL = PolicySection(min_summed_rows=1)


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
            grow(budget, None if params.encryption == "lattice" else every)
    finally:
        budget.close()


def grow(budget: SumsBudget, drawn: Mask | None, depth: int = 4) -> int:
    """A tree that halves each node; returns how many nodes' sums are known by themselves in the end."""
    budget.begin_tree(drawn)
    nodes, known = [] if drawn is None else [np.flatnonzero(drawn)], 1
    for _ in range(1, depth):
        halves = [(rows[::2], rows[1::2]) for rows in nodes if len(rows) > 1]
        masks = [[np.isin(np.arange(len(drawn)), half) for half in pair] for pair in halves]
        may = budget.tell([(left, right) for left, right in masks])
        nodes = [half for pair, told in zip(halves, may, strict=True) if told for half in pair]
        known += sum(may)
    return known


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
        " rows (all add up), break rule max_sums_a_row = 0.03 of [policy]: at most 6 trees of this"
        ' depth, less depth, more rows, sums = "hidden" with a coordinator, or the host raises the rule'
        " to 0.036, knowing what that tells (docs/leakage.md)"
    )
    assert given.told == pytest.approx(12 * DEPTH_4 / ROWS)
    train(store, policy(0.03), alignment(), "second", trees(6))  # as many as it said
    # A host that did not write the rule finds it nowhere in its file.
    raised = policy(0.036)  # what it says the rule would have to be
    given.reserve(raised, "second", trees(4), 1.0).close()
    usual = given.weigh(USUAL, trees(10), 1.0).broken
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
        "the rule to 0.017, knowing what that tells (docs/leakage.md)"
    )


def test_a_table_that_sums_tell_whole_is_refused_by_default(tmp_path: Path) -> None:
    """500 rows and 50 trees: the guest would have the table (docs/leakage.md)."""
    store, small = Store(tmp_path), replace(alignment(), rows=np.arange(500))
    with pytest.raises(
        Refused, match=r"^1\.6 sums a row of 50 trees over 500 rows that train break rule"
    ):
        SumsGiven(store, small).reserve(USUAL, "open", trees(50), 1.0)
    assert told(store, small) == 0
    train(store, USUAL, small, "hidden", trees(50, sums="hidden", coordinator="notary"))
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
                budget = SumsGiven(store, on(attempt)).reserve(USUAL, job(attempt), params, 1.0, done)
            except Refused:
                continue
            try:
                for _ in range(100):
                    got += 2 * grow(budget, np.ones(len(on(attempt).rows), bool))
            except Refused:
                budget.close()
    return got / ROWS


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


def density(nodes: Sequence[Mask], within: Mask) -> float:
    """Sums a row of a set of rows that are of rows of the set alone: two of each node in it."""
    return 2 * sum(not (node & ~within).any() for node in nodes) / max(1, within.sum())


def skewed_tree(
    budget: SumsBudget, drawn: Mask, groups: Mask, draw: np.random.Generator, depth: int = 5
) -> list[Mask]:
    """A tree that parts a group of rows from the others, and then parts of any size; the nodes whose
    sums are known in the end, each of which is known by itself."""
    budget.begin_tree(drawn)
    open_, known = [drawn], []
    for level in range(depth):
        pairs = []
        for node in open_:
            part = groups if level == 0 else draw.random(len(drawn)) < draw.choice([0.1, 0.5])
            pairs.append((node, (node & part, node & ~part)))
        may = budget.tell([pair for _, pair in pairs]) if level + 1 < depth else [False] * len(pairs)
        known += [node for (node, _), told in zip(pairs, may, strict=True) if not told]
        open_ = [child for (_, pair), told in zip(pairs, may, strict=True) if told for child in pair]
        open_ = [child for child in open_ if child.any()]
    return known


def test_no_set_of_rows_has_more_sums_a_row_than_the_rule(tmp_path: Path) -> None:
    """Whatever rows jobs are of, and however trees part them: of small groups again and again. Unions of
    nodes are looked at, the densest first; others have no more."""
    store, draw = Store(tmp_path), np.random.default_rng(2)
    rows, rule, nodes = 400, 0.5, list[Mask]()
    each = trees(1, min_child_rows=1, depth=5)
    group = np.arange(rows) < 30
    for number in range(14):
        which = draw.random(rows) < draw.choice([0.3, 0.7, 1.0])
        which[:2] = True
        own_rows = np.flatnonzero(which)
        counted_as = own_rows.astype(np.uint64) * 7 + 3
        on = replace(alignment(f"a{number}"), rows=own_rows, counted_as=counted_as)
        train_rows = draw.random(len(own_rows)) < draw.choice([0.6, 1.0])
        train_rows[:2] = True
        for _ in range(4):
            try:
                budget = SumsGiven(store, on).reserve(policy(rule), f"m{len(nodes)}", each, 1.0)
            except Refused:
                break
            try:
                found = skewed_tree(budget, train_rows, group[own_rows], draw)
            except Refused:
                break
            finally:
                budget.close()
            for one in found:
                whole = np.zeros(rows, bool)
                whole[own_rows[one]] = True
                nodes.append(whole)
    assert len(nodes) > 60
    densest = sorted(nodes, key=lambda node: node.sum())
    worst = max(density(nodes, node) for node in nodes)
    for first in range(0, len(densest), 5):
        some = densest[first : first + 10]
        for choice in range(1, 1 << len(some)):
            union = np.any([one for i, one in enumerate(some) if choice >> i & 1], axis=0)
            worst = max(worst, density(nodes, union))
    worst = max(worst, density(nodes, group), density(nodes, np.ones(rows, bool)))
    assert 0.3 < worst <= rule * (1 + 1e-9)


def test_a_small_group_that_many_trees_part_from_the_others_is_told_no_more(tmp_path: Path) -> None:
    """Sixty of ten thousand rows, in each of 18 trees: a guest had 0.4 sums a row of them."""
    given, group = SumsGiven(Store(tmp_path), alignment()), np.arange(ROWS) < 60
    budget = given.reserve(USUAL, "m", trees(18), 1.0)
    for _ in range(18):
        budget.begin_tree(np.ones(ROWS, bool))
        assert budget.tell([(group, ~group)]) == [False]  # a node of less than 67 rows breaks the rule
    assert given.told == pytest.approx(18 * 2 / ROWS)
    budget.close()
    larger = np.arange(ROWS) < 500
    again = given.reserve(USUAL, "again", trees(10), 1.0)
    told = []
    for _ in range(10):
        again.begin_tree(np.ones(ROWS, bool))
        told += again.tell([(larger, ~larger)])
    assert told == [True] * 6 + [False] * 4  # two more of 500 rows each time, 0.004 a row
    assert given.told <= MAX_SUMS_A_ROW * (1 + 1e-9)
    again.close()


def test_nodes_of_few_rows_are_not_told(tmp_path: Path) -> None:
    """Neighbouring candidates of a node of a hundred rows differ by three, which sums name."""
    given = SumsGiven(Store(tmp_path), alignment())
    budget = given.reserve(PolicySection(max_sums_a_row=FREE), "m", trees(2), 1.0)
    budget.begin_tree(np.ones(ROWS, bool))
    groups = [np.arange(ROWS) < size for size in (299, 300, 9701)]
    assert [budget.tell([(group, ~group)]) for group in groups] == [[False], [True], [False]]
    with pytest.raises(
        Refused, match=r"^a tree of 299 rows breaks rule min_summed_rows = 300 of \[policy\]"
    ):
        budget.begin_tree(groups[0])
    budget.close()


def test_over_the_lattice_engine_draws_may_be_the_same_each_time(tmp_path: Path) -> None:
    """A host does not see them there: a twentieth of the rows has twenty times as many sums a row."""
    given = SumsGiven(Store(tmp_path), alignment())
    few = trees(18, encryption="lattice", subsample=0.05)
    with pytest.raises(Refused, match=r"^0\.576 sums a row of 18 trees over 500 rows"):
        given.check(USUAL, few, 1.0)
    goss = trees(18, encryption="lattice", goss_top=0.05, goss_other=0.05, learning_rate=1.0)
    with pytest.raises(Refused, match=r"over 1,000 rows that train break"):
        given.check(USUAL, goss, 1.0)
    assert given.weigh(USUAL, trees(18, subsample=0.05), 1.0).broken is None


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
        train(store, USUAL, alignment(), "some", params, rows=tenth)
    few = params.model_copy(update={"trees": 1})
    train(store, USUAL, alignment(), "few", few, rows=tenth)
    assert told(store, alignment()) == pytest.approx(DEPTH_4 / (ROWS // 10))


def test_a_guest_that_trains_on_fewer_rows_than_it_said_is_found_out_in_the_first_tree(
    tmp_path: Path,
) -> None:
    tenth, given = np.arange(ROWS) < ROWS // 10, SumsGiven(Store(tmp_path), alignment())
    budget = given.reserve(USUAL, "m", trees(18), 1.0)
    with pytest.raises(Refused, match=r"^18 further trees would break rule max_sums_a_row") as refused:
        budget.begin_tree(tenth)
    assert "(all add up): at most 1 tree of this depth, less depth" in str(refused.value)
    assert "the host raises the rule to 0.288, knowing what" in str(refused.value)
    assert given.told == 0
    # Of rows that are drawn for each tree it is only known afterwards: as far as there is room.
    budget.close()
    drawn = given.reserve(USUAL, "drawn", trees(18, subsample=0.1), 1.0)
    assert [grow(drawn, tenth) for _ in range(4)] == [8, 4, 2, 1]
    with pytest.raises(Refused, match=r"^a further tree breaks rule max_sums_a_row"):
        drawn.begin_tree(tenth)
    assert given.told <= MAX_SUMS_A_ROW * (1 + 1e-9)
    for start in range(1, 10):  # others than before
        assert grow(drawn, np.roll(tenth, start * ROWS // 10)) == 8
    drawn.close()


def test_what_a_refusal_says_helps_does(tmp_path: Path) -> None:
    """Rows that train a second time, whose rest is held out: known only as the first tree begins."""
    store, most = Store(tmp_path), np.arange(ROWS) < 8000
    train(store, USUAL, alignment(), "first", trees(10), rows=most)
    with pytest.raises(Refused) as refused:
        train(store, USUAL, alignment(), "second", trees(6), rows=most)
    said = str(refused.value)
    assert said.startswith("6 further trees would break") and " after 0.02 sums a row" in said
    assert "or the host raises the rule to 0.032, knowing what that tells" in said
    assert "at most 5 trees of this depth" in said
    train(Store(tmp_path), policy(0.032), alignment(), "third", trees(6), rows=most)
    again = Store(tmp_path / "again")
    train(again, USUAL, alignment(), "first", trees(10), rows=most)
    train(again, USUAL, alignment(), "second", trees(5), rows=most)


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
        SumsGiven(store, joined).reserve(USUAL, "m", trees(50), 1.0)
    train(store, USUAL, joined, "m", trees(3), until=1)
    if times == 1:
        assert told(store, joined) == pytest.approx(DEPTH_4 / 2000)
    else:  # where a row may be in several nodes, those of parents count as well
        assert DEPTH_4 / 2000 < told(store, joined) < 2 * DEPTH_4 / 2000


def test_jobs_at_the_same_time_do_not_share_what_is_left(tmp_path: Path) -> None:
    store, every = Store(tmp_path), np.ones(ROWS, bool)
    first = SumsGiven(store, alignment()).reserve(policy(0.03), "first", trees(12), 1.0)
    with pytest.raises(Refused, match=r"after 0\.0192 of earlier jobs"):
        SumsGiven(Store(tmp_path), alignment()).reserve(policy(0.03), "second", trees(10), 1.0)
    grow(first, every)
    first.close()
    assert told(store, alignment()) == pytest.approx(DEPTH_4 / ROWS)
    train(store, policy(0.03), alignment(), "second", trees(17))


def test_a_tree_is_refused_that_another_process_has_left_no_room_for(tmp_path: Path) -> None:
    store, every = Store(tmp_path), np.ones(ROWS, bool)
    budget = SumsGiven(store, alignment()).reserve(policy(0.03), "first", trees(2), 1.0)
    grow(budget, every)
    given = SumsGiven(store, alignment())
    with given.file.in_turn():  # as another process does, which knows of no reservation here
        sums = given.file.read()
        given.file.write(sums.with_told(given.places(sums), np.full(ROWS, 0.029)))
    with pytest.raises(
        Refused, match=r"^a further tree breaks rule max_sums_a_row = 0\.03 of \[policy\]"
    ):
        grow(budget, every)
    budget.close()
    assert given.told == pytest.approx(0.029)


def test_a_job_has_no_more_trees_than_it_said(tmp_path: Path) -> None:
    given = SumsGiven(Store(tmp_path), alignment())
    budget: SumsBudget = given.reserve(policy(FREE), "m", trees(2), 1.0)
    budget.begin_tree(None)
    budget.begin_tree(None)
    with pytest.raises(Refused):
        budget.begin_tree(None)
    budget.close()


@pytest.mark.parametrize("what", ["insurer.json", "array"])
def test_a_count_that_was_damaged_is_named(tmp_path: Path, what: str) -> None:
    train(Store(tmp_path), policy(1.0), alignment(), "first", trees(1))
    folder = tmp_path / "sums"
    path = folder / what if what != "array" else next(folder.glob("*.npy"))
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(ModelError, match=r"insurer\.json is damaged .*: bring it back from a copy"):
        SumsGiven(Store(tmp_path), alignment()).reserve(policy(1.0), "second", trees(1), 1.0)


def test_what_a_killed_job_was_writing_is_gone_with_the_next_count(tmp_path: Path) -> None:
    """Else each kill would leave a file as large as all rows."""
    store, rows = Store(tmp_path), np.arange(3, dtype=np.uint64)
    file, other = RowSumsFile(store, "insurer"), RowSumsFile(store, "insurer.2")
    other.write(RowSums("k" * 64, {}, rows, np.full(3, 0.25)))
    file.write(RowSums("k" * 64, {}, rows, np.full(3, 0.25)))
    folder = file.path.parent
    left = [f".insurer.{'0' * 16}.npy.0a1b2c3d.tmp", ".insurer.json.0a1b2c3d.tmp"]
    others = ".insurer.2.json.0a1b2c3d.tmp"
    for name in [*left, others]:
        (folder / name).write_bytes(b"unfinished")
    file.write(RowSums("k" * 64, {}, rows, np.full(3, 0.5)))
    assert [path.name for path in folder.glob(".*")] == [others]
    assert RowSumsFile(store, "insurer").read().told.tolist() == [0.5] * 3


def test_counts_that_another_job_writes_anew_are_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It takes away the arrays that the document named before, which this one is about to open."""
    store, rows = Store(tmp_path), np.arange(3, dtype=np.uint64)
    RowSumsFile(store, "insurer").write(RowSums("k" * 64, {}, rows, np.full(3, 0.25)))
    read_array = store.read_array
    writes = [RowSums("k" * 64, {}, rows[:2], np.full(2, told)) for told in (0.5, 0.75)]

    def beside(*arguments: Any) -> NDArray[Any]:
        if writes:
            other = RowSumsFile(Store(tmp_path), "insurer")
            with other.in_turn():
                other.write(writes.pop(0))
        return read_array(*arguments)

    monkeypatch.setattr(store, "read_array", beside)
    assert RowSumsFile(store, "insurer").read().told.tolist() == [0.75, 0.75]
    next(tmp_path.glob("**/insurer.*.npy")).unlink()
    with pytest.raises(ModelError, match="is damaged"):
        RowSumsFile(store, "insurer").read()


@given(st.lists(st.integers(0, 30), max_size=12, unique=True), st.lists(st.integers(0, 30), max_size=12))
def test_rows_are_found_among_known_ones(known: list[int], asked: list[int]):
    rows, wanted = np.array(known, np.uint64), np.array(asked, np.uint64)
    for own in (rows, np.sort(rows)):
        sums = RowSums("", {}, own, np.arange(1.0, 1 + len(own)))
        told = {int(row): float(value) for row, value in zip(own, sums.told, strict=True)}
        places = sums.places(wanted)
        assert sums.of(places).tolist() == [told.get(row, 0.0) for row in asked]
        assert sums.lacks(places) == any(row not in told for row in asked)
        more = sums.with_rows(wanted)
        assert sorted(more.rows.tolist()) == sorted({*known, *asked}) and not more.lacks(
            more.places(wanted)
        )
        assert more.of(more.places(wanted)).tolist() == sums.of(places).tolist()
        once = np.unique(wanted)
        after = more.with_told(more.places(once), np.full(len(once), 9.0))
        expected = told | dict.fromkeys(asked, 9.0)
        assert dict(zip(after.rows.tolist(), after.told.tolist(), strict=True)) == expected


@given(st.lists(st.integers(-1, 40), max_size=20), st.booleans())
def test_rows_are_numbered_as_they_come(values: list[int], far: bool):
    own = np.array(values, np.int64) * (10**6 if far else 1)
    numbers, first = number_values(own)
    order = list(dict.fromkeys(value for value in own.tolist() if value >= 0))
    assert numbers.tolist() == [order.index(v) if v >= 0 else -1 for v in own.tolist()]
    assert first.tolist() == [own.tolist().index(value) for value in order]
    assert count_known_rows(own) == len(order)


@pytest.mark.parametrize("encryption", ["paillier", "lattice"])
def test_a_search_of_many_trainings_is_reserved_in_one_pass_each(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, encryption: str
) -> None:
    """A guest that asks for hundreds of trainings at once does not keep its host busy: sums that are
    reserved about the same rows are added up, not one after the other for each further training."""
    given, added = SumsGiven(Store(tmp_path), alignment()), list[float]()
    add = SumsGiven.add

    def counted(own: SumsGiven, told: NDArray[np.float64], sums: float, even: bool) -> Any:
        added.append(sums)
        return add(own, told, sums, even)

    monkeypatch.setattr(SumsGiven, "add", counted)
    one = trees(1, encryption=encryption)
    budgets = [given.reserve(policy(FREE), f"m{n}", one, 1.0) for n in range(40)]
    assert len(added) <= 2 * len(budgets)
    weighed = given.weigh(policy(FREE), one, 1.0)
    assert weighed.before == pytest.approx(40 * DEPTH_4 / ROWS)
    with pytest.raises(Refused, match="max_sums_a_row"):
        given.reserve(policy(40.5 * DEPTH_4 / ROWS), "more", one, 1.0)
    for budget in budgets:
        budget.close()
    assert given.weigh(policy(FREE), one, 1.0).before == 0.0


def test_rows_are_counted_piece_by_piece(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    rows = rng.integers(-1, 300, 1000)
    monkeypatch.setattr(means, "_AT_ONCE", 64)
    assert count_known_rows(rows) == len({*rows.tolist()} - {-1})
    assert most_joined(rows) == np.bincount(rows[rows >= 0]).max()
    for few in (np.full(5, -1), np.empty(0, np.int64)):
        assert count_known_rows(few) == 0 and most_joined(few) == 1
