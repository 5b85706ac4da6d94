"""The sums about a row that a host gives its guests: counted by alignment, kept, refused."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from vfl.errors import ModelError, Refused
from vfl.jobs.alignments import Alignment, save_alignment
from vfl.jobs.sums_given import SumsGiven
from vfl.leakage.estimate import MAX_SUMS_A_ROW
from vfl.learn.params import BoostParams
from vfl.party.sections import PolicySection
from vfl.party.store import Store

ROWS = 10_000
DEPTH_4 = 16  # equations of a tree: two for the root, two for a child of each of seven splits


def alignment(name: str = "a1", extends: str | None = None) -> Alignment:
    rows = np.arange(ROWS, dtype=np.int64)
    return Alignment(name, "aa", {"insurer": "aa"}, ("trim",), "ids", rows, extends=extends)


def trees(count: int, **settings: object) -> BoostParams:
    return BoostParams.model_validate({"trees": count, "depth": 4, **settings})


FREE = 1e6


def policy(most: float) -> PolicySection:
    return PolicySection(max_sums_a_row=most)


def test_the_rule_is_what_the_measured_curve_gives() -> None:
    assert PolicySection().max_sums_a_row == MAX_SUMS_A_ROW


def test_jobs_add_up_and_one_that_goes_on_counts_once(tmp_path: Path) -> None:
    given = SumsGiven(Store(tmp_path))
    for _ in range(2):
        given.count(policy(FREE), alignment(), "first", trees(10))
    assert given.on(alignment()) == pytest.approx(10 * DEPTH_4 / ROWS)
    SumsGiven(Store(tmp_path)).count(policy(FREE), alignment(), "second", trees(5))
    assert given.on(alignment()) == pytest.approx(15 * DEPTH_4 / ROWS)
    assert given.on(alignment(), but="first") == pytest.approx(5 * DEPTH_4 / ROWS)
    assert given.on(alignment("another")) == 0


def test_a_job_beyond_the_rule_is_refused_with_what_helps_and_not_counted(tmp_path: Path) -> None:
    given = SumsGiven(Store(tmp_path))
    given.count(policy(0.03), alignment(), "first", trees(12))
    with pytest.raises(Refused) as refused:
        given.count(policy(0.03), alignment(), "second", trees(10))
    said = str(refused.value)
    assert said == refused.value.for_peer
    assert said == (
        "0.016 sums a row of 10 trees over 10,000 rows, after 0.0192 of earlier jobs on the alignment, "
        "break rule max_sums_a_row = 0.03 of [policy]: at most 6 trees of this depth, less depth, more "
        'rows, sums = "hidden" with a coordinator, or the host raises the rule'
    )
    assert given.on(alignment()) == pytest.approx(12 * DEPTH_4 / ROWS)
    given.count(policy(0.03), alignment(), "second", trees(6))  # as many as it said
    # A host that did not write the rule finds it nowhere in its file.
    usual = given.weigh(PolicySection(), alignment(), trees(10)).broken
    assert usual is not None and "max_sums_a_row = 0.03 of [policy] (the default): " in usual
    hidden = trees(5000, sums="hidden", coordinator="notary")
    given.count(policy(0.03), alignment(), "third", hidden)


def test_a_table_that_sums_tell_whole_is_refused_by_default(tmp_path: Path) -> None:
    """500 rows and 50 trees: the guest would have the table (docs/leakage.md)."""
    given, small = SumsGiven(Store(tmp_path)), replace(alignment(), rows=np.arange(500))
    with pytest.raises(Refused, match=r"^1\.6 sums a row of 50 trees over 500 rows break rule"):
        given.count(PolicySection(), small, "open", trees(50))
    assert given.on(small) == 0
    given.count(PolicySection(), small, "hidden", trees(50, sums="hidden", coordinator="notary"))
    assert given.on(small) == 0


def test_an_extended_alignment_keeps_the_count(tmp_path: Path) -> None:
    store = Store(tmp_path)
    given = SumsGiven(store)
    save_alignment(store, alignment())
    given.count(policy(FREE), alignment(), "first", trees(12))
    longer = alignment("a2", extends="a1")
    save_alignment(store, longer)
    assert given.on(alignment("a3", extends="a2")) == given.on(longer) == given.on(alignment()) > 0


def test_a_count_that_was_damaged_is_named(tmp_path: Path) -> None:
    (tmp_path / "sums.json").write_text("{")
    with pytest.raises(ModelError, match=r"sums\.json is damaged"):
        SumsGiven(Store(tmp_path)).count(policy(1.0), alignment(), "first", trees(1))
