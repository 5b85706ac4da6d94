"""The sums about a row that a host gives its guests: counted by alignment, kept, refused."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from vfl.errors import ModelError, Refused
from vfl.jobs.alignments import Alignment, save_alignment
from vfl.jobs.sums_given import SumsBudget, SumsGiven
from vfl.leakage.estimate import MAX_SUMS_A_ROW
from vfl.learn.params import BoostParams
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
    given: SumsGiven,
    rule: PolicySection,
    on: Alignment,
    model: str,
    params: BoostParams,
    done: int = 0,
    until: int | None = None,
) -> None:
    """A host's part of a job, until so many of its trees have begun."""
    budget = given.reserve(rule, on, model, params, done)
    try:
        for _ in range(max(done, params.guest_trees), params.trees if until is None else until):
            budget.count_tree()
    finally:
        budget.close()


def test_the_rule_is_what_the_measured_curve_gives() -> None:
    assert PolicySection().max_sums_a_row == MAX_SUMS_A_ROW


def test_jobs_add_up_by_the_trees_that_begin(tmp_path: Path) -> None:
    given = SumsGiven(Store(tmp_path))
    train(given, policy(FREE), alignment(), "first", trees(10))
    assert given.on(alignment()) == pytest.approx(10 * DEPTH_4 / ROWS)
    train(SumsGiven(Store(tmp_path)), policy(FREE), alignment(), "second", trees(9), until=5)
    assert given.on(alignment()) == pytest.approx(15 * DEPTH_4 / ROWS)
    assert given.on(alignment(), but="first") == pytest.approx(5 * DEPTH_4 / ROWS)
    assert given.on(alignment("another")) == 0
    train(given, policy(FREE), alignment(), "third", trees(9, guest_trees=7))
    assert given.on(alignment()) == pytest.approx(17 * DEPTH_4 / ROWS)


def test_a_job_that_goes_on_counts_the_trees_that_it_grows_again(tmp_path: Path) -> None:
    given = SumsGiven(Store(tmp_path))
    train(given, policy(0.03), alignment(), "killed", trees(16), until=7)
    train(given, policy(0.03), alignment(), "killed", trees(16), done=6)
    assert given.on(alignment()) == pytest.approx(17 * DEPTH_4 / ROWS)
    full = policy(19 * DEPTH_4 / ROWS)
    train(given, full, alignment(), "short", trees(2))
    with pytest.raises(Refused, match=r"^0\.0016 sums a row of 1 tree .* and the job goes on$"):
        given.check(full, alignment(), trees(2), done=1)
    train(given, policy(20 * DEPTH_4 / ROWS), alignment(), "short", trees(2), done=1)


def test_a_job_may_fill_the_rule_to_the_last_tree(tmp_path: Path) -> None:
    """Trees that are added up one by one come to a little more than their product."""
    given, full = SumsGiven(Store(tmp_path)), policy(30 * DEPTH_4 / ROWS)
    train(given, full, alignment(), "all", trees(30))
    with pytest.raises(Refused):
        given.reserve(full, alignment(), "more", trees(1))


def test_a_job_beyond_the_rule_is_refused_with_what_helps_and_not_counted(tmp_path: Path) -> None:
    given = SumsGiven(Store(tmp_path))
    train(given, policy(0.03), alignment(), "first", trees(12))
    with pytest.raises(Refused) as refused:
        given.reserve(policy(0.03), alignment(), "second", trees(10))
    said = str(refused.value)
    assert said == refused.value.for_peer
    assert said == (
        "0.016 sums a row of 10 trees over 10,000 rows, after 0.0192 of earlier jobs on the alignment, "
        "break rule max_sums_a_row = 0.03 of [policy]: at most 6 trees of this depth, less depth, more "
        'rows, sums = "hidden" with a coordinator, or the host raises the rule'
    )
    assert given.on(alignment()) == pytest.approx(12 * DEPTH_4 / ROWS)
    train(given, policy(0.03), alignment(), "second", trees(6))  # as many as it said
    # A host that did not write the rule finds it nowhere in its file.
    usual = given.weigh(PolicySection(), alignment(), trees(10)).broken
    assert usual is not None and "max_sums_a_row = 0.03 of [policy] (the default): " in usual
    hidden = trees(5000, sums="hidden", coordinator="notary")
    train(given, policy(0.03), alignment(), "third", hidden)
    assert given.on(alignment()) == pytest.approx(18 * DEPTH_4 / ROWS)


def test_a_table_that_sums_tell_whole_is_refused_by_default(tmp_path: Path) -> None:
    """500 rows and 50 trees: the guest would have the table (docs/leakage.md)."""
    given, small = SumsGiven(Store(tmp_path)), replace(alignment(), rows=np.arange(500))
    with pytest.raises(Refused, match=r"^1\.6 sums a row of 50 trees over 500 rows break rule"):
        given.reserve(PolicySection(), small, "open", trees(50))
    assert given.on(small) == 0
    train(given, PolicySection(), small, "hidden", trees(50, sums="hidden", coordinator="notary"))
    assert given.on(small) == 0


# --- A guest that wants more than the rule allows. ------------------------------------------------


def most_of(given: SumsGiven, on: Callable[[int], Alignment], job: Callable[[int], str]) -> float:
    """Sums a row that a guest gets by the default rule, which has room for 18 of its trees: it starts
    jobs on the alignments and under the names that it likes, each as often as it is let."""
    got = 0
    for attempt in range(12):
        for done in (0, 1, 17):
            try:
                budget = given.reserve(
                    PolicySection(), on(attempt), job(attempt), trees(1 + 17 * (attempt % 2)), done
                )
            except Refused:
                continue
            try:
                for _ in range(100):
                    budget.count_tree()
                    got += 1
            except Refused:
                budget.close()
    return got * DEPTH_4 / ROWS


@pytest.mark.parametrize("name", ["same", "new {}"])
def test_no_name_and_no_claim_to_go_on_lowers_a_count(tmp_path: Path, name: str) -> None:
    """Neither a smaller job under the name of a larger one, nor one with hidden sums, nor many jobs
    under a name."""
    given, before = SumsGiven(Store(tmp_path)), 0.0
    hidden = trees(1, sums="hidden", coordinator="notary")
    assert 0.028 < most_of(given, lambda _: alignment(), name.format) <= MAX_SUMS_A_ROW
    for params in (hidden, trees(1, depth=1)):
        before = given.on(alignment())
        for done in (0, 1):
            given.check(policy(FREE), alignment(), params, done)
            given.reserve(policy(FREE), alignment(), name.format(0), params, done).close()
            assert given.on(alignment()) == before
    train(given, policy(FREE), alignment(), name.format(0), hidden)
    assert given.on(alignment()) == before > 0.028


@pytest.mark.parametrize("newest_first", [True, False])
@pytest.mark.parametrize("siblings", [True, False])
def test_alignments_that_extend_one_another_share_a_count(
    tmp_path: Path, newest_first: bool, siblings: bool
) -> None:
    """Whichever is trained on first, and whether each extends the last or all the first one."""
    store = Store(tmp_path)
    line = [alignment("a0")]
    for number in range(1, 5):
        before = "a0" if siblings else f"a{number - 1}"
        line.append(alignment(f"a{number}", before, "a0"))
    for one in line:
        save_alignment(store, one)
    order = line[::-1] if newest_first else line
    got = most_of(SumsGiven(store), lambda attempt: order[attempt % 5], "job {}".format)
    assert 0.028 < got <= MAX_SUMS_A_ROW
    store.remove("alignment", "a1")
    store.remove("alignment", "a0")
    for one in line[2:]:
        assert SumsGiven(store).on(one) == pytest.approx(got)


def test_alignments_kept_without_an_origin_share_a_count_too(tmp_path: Path) -> None:
    store = Store(tmp_path)
    line = [alignment("a1"), alignment("a2", "a1"), alignment("a3", "a2"), alignment("b", "a1")]
    for one in (*line, alignment("c")):
        save_alignment(store, one)
    kept = {"a1": {"x": 0.1}, "a2": {"x": 0.2, "y": 0.3}, "b": {"z": 0.4}, "c": {"x": 9.0}}
    (tmp_path / "sums.json").write_text(json.dumps(kept))
    for one in line:
        assert SumsGiven(store).on(one) == pytest.approx(1.0)
        assert SumsGiven(store).on(one, but="x") == pytest.approx(0.7)
    train(SumsGiven(store), policy(FREE), line[1], "new", trees(1))
    assert SumsGiven(store).on(line[3]) == pytest.approx(1.0 + DEPTH_4 / ROWS)
    assert SumsGiven(store).on(alignment("c")) == 9.0


@pytest.mark.parametrize("unknown", [0, 98_000])
@pytest.mark.parametrize("times", [1, 5])
def test_sums_are_shared_by_the_different_rows_that_the_host_has(
    tmp_path: Path, unknown: int, times: int
) -> None:
    """Not by rows of the guest that it does not know (left join), or several that are one of its own."""
    given = SumsGiven(Store(tmp_path))
    rows = np.concatenate([np.repeat(np.arange(2000), times), np.full(unknown, -1)])
    joined = replace(alignment(), rows=rows)
    with pytest.raises(Refused, match=r"^0\.4 sums a row of 50 trees over 2,000 rows break rule"):
        given.reserve(PolicySection(), joined, "m", trees(50))
    train(given, PolicySection(), joined, "m", trees(3))
    assert given.on(joined) == pytest.approx(3 * DEPTH_4 / 2000)


def test_jobs_at_the_same_time_do_not_share_what_is_left(tmp_path: Path) -> None:
    given = SumsGiven(Store(tmp_path))
    first = given.reserve(policy(0.03), alignment(), "first", trees(12))
    with pytest.raises(Refused, match=r"after 0\.0192 of earlier jobs"):
        SumsGiven(Store(tmp_path)).reserve(policy(0.03), alignment(), "second", trees(10))
    first.count_tree()
    first.close()
    assert given.on(alignment()) == pytest.approx(DEPTH_4 / ROWS)
    train(given, policy(0.03), alignment(), "second", trees(17))


def test_a_tree_is_refused_that_another_process_has_left_no_room_for(tmp_path: Path) -> None:
    given = SumsGiven(Store(tmp_path))
    budget = given.reserve(policy(0.03), alignment(), "first", trees(12))
    (tmp_path / "sums.json").write_text(json.dumps({"a1": {"second": 0.028}}))
    budget.count_tree()
    with pytest.raises(
        Refused, match=r"^a further tree breaks rule max_sums_a_row = 0\.03 of \[policy\]"
    ):
        budget.count_tree()
    budget.close()
    assert given.on(alignment()) == pytest.approx(0.028 + DEPTH_4 / ROWS)


def test_a_job_has_no_more_trees_than_it_said(tmp_path: Path) -> None:
    budget: SumsBudget = SumsGiven(Store(tmp_path)).reserve(policy(FREE), alignment(), "m", trees(2))
    budget.count_tree()
    budget.count_tree()
    with pytest.raises(Refused):
        budget.count_tree()
    budget.close()


def test_a_count_that_was_damaged_is_named(tmp_path: Path) -> None:
    (tmp_path / "sums.json").write_text("{")
    with pytest.raises(ModelError, match=r"sums\.json is damaged"):
        SumsGiven(Store(tmp_path)).reserve(policy(1.0), alignment(), "first", trees(1))
