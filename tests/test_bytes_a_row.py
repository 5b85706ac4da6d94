"""What a job holds in memory for each row, beside what lies in its files: arrays that Python makes."""

import asyncio
import tracemalloc
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np
import pytest
from traced import traced

from vfl.arrays import Mask
from vfl.blocks import scratch
from vfl.blocks.engine import ENGINE
from vfl.blocks.scratch import Scratch
from vfl.jobs.alignments import Alignment
from vfl.jobs.evaluation import evaluate, score_profile
from vfl.jobs.sums_given import SumsGiven
from vfl.learn.binning import bin_columns
from vfl.learn.holdout import split_by_draws
from vfl.learn.params import BoostParams
from vfl.learn.splits import Candidates
from vfl.net.peer import MemoryPeer
from vfl.party.policy_section import PolicySection
from vfl.party.store import Store
from vfl.protocols.align.join import Matched
from vfl.protocols.common.bits import pack_bits
from vfl.protocols.common.clock import as_measured
from vfl.protocols.common.course import HostCourse
from vfl.protocols.common.rows import Training
from vfl.protocols.trees.columns import Direction
from vfl.protocols.trees.questions import Answers, Asked
from vfl.protocols.trees.records import Records

ROWS = 300_000
BLOCKS = 1.5  # bytes a row that pieces of rows take at most, of which there are few

T = TypeVar("T")


@pytest.fixture(autouse=True)
def _as_of_many_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pieces are as small beside these rows as they are beside many, and all lies in files."""
    monkeypatch.setattr(scratch, "OF_A_ROW_EACH", 1)
    monkeypatch.setattr("vfl.party.store.OF_A_ROW_EACH", 1)
    monkeypatch.setattr(scratch, "_AT_ONCE", 1 << 12)
    monkeypatch.setattr("vfl.blocks.means._AT_ONCE", 1 << 12)


def taken(act: Callable[[], T]) -> tuple[T, float]:
    """What comes of it, and the bytes a row that it takes at most."""
    with traced():
        before, _ = tracemalloc.get_traced_memory()
        tracemalloc.reset_peak()
        found = act()
        return found, (tracemalloc.get_traced_memory()[1] - before) / ROWS


def test_a_host_counts_the_sums_about_rows_in_files(tmp_path: Path) -> None:
    """Over the lattice engine, a tree after the other, also after jobs about other rows."""
    policy = PolicySection(max_sums_a_row=1e6, min_summed_rows=1)
    params = BoostParams(trees=3, depth=4, encryption="lattice")
    draw, store = np.random.default_rng(0), Store(tmp_path)
    store.scratch()

    def job(kept: Alignment) -> float:
        given = SumsGiven(store, kept)
        budget = given.reserve(policy, kept.name, params, 1.0)
        for _ in range(params.trees):
            budget.begin_tree(None)
        budget.close()
        return given.told

    for number, first in enumerate((0, 0, ROWS // 2, 0)):
        rows = draw.permutation(ROWS) + first
        counted = None if number == 3 else rows.astype(np.uint64)  # None: of an older alignment
        name, parties = f"a{number}", {"guest": "aa"}
        kept = Alignment(name, "aa", parties, ("trim",), "", rows, counted_as=counted)
        told, size = taken(partial(job, kept))
        assert told > 0
        assert size < 1 + BLOCKS


def test_a_host_knows_of_a_row_its_node_and_whether_it_is_drawn(tmp_path: Path) -> None:
    draw = np.random.default_rng(1)
    features = {"a": draw.integers(0, 9, ROWS).astype(np.float64)}
    params = BoostParams(trees=1, depth=4, encryption="lattice", min_child_rows=10)
    binned = bin_columns(features, 8, 1)
    candidates = Candidates.of(binned.columns)
    order = np.arange(len(candidates))

    async def ask() -> None:
        guest, host = MemoryPeer.pair("guest", "host")
        records = Records(guest, params, str, HostCourse(), as_measured)
        answers = Answers(guest, binned, binned.codes, params, candidates, order, {"a"}, records)
        await answers.answer(Asked([0], every, every, {0: [[3]]}))
        left = np.unpackbits(np.frombuffer((await host.recv(Direction)).left, np.uint8), count=ROWS)
        below = pack_bits(left > 0), pack_bits(left == 0)
        del left
        await answers.answer(Asked([1, 2], below[0] + below[1], every, {1: [[1]], 2: [[5]]}))

    every = pack_bits(np.ones(ROWS, np.bool_))
    with ENGINE.instead(type(ENGINE.chosen)(1 << 12)):
        asyncio.run(ask())  # kernels are compiled
        _, size = taken(lambda: asyncio.run(ask()))
    assert size < 8 + BLOCKS  # 2 from level to level, codes and sides of a node, what the test has


def test_masks_scores_and_rows_held_out_lie_in_files(tmp_path: Path) -> None:
    draw, room = np.random.default_rng(2), Scratch(tmp_path)
    aligned, label = draw.permutation(ROWS), (draw.random(ROWS) < 0.3).astype(np.float64)
    score = np.round(draw.normal(size=ROWS), 2)

    def split() -> tuple[Training, Mask]:
        parts = split_by_draws([0, 1], ROWS, aligned, None, (0.2, 0.1), room)
        ones = np.broadcast_to(1.0, ROWS)
        return Training(label, ones, parts.train, parts.validation, scratch=room), parts.held_out

    (rows, held_out), size = taken(split)
    assert size < BLOCKS
    found, size = taken(lambda: evaluate(rows, held_out, aligned, None, {"both": score}))
    assert size < 0.2 * 90 + BLOCKS  # of those held out
    assert found[0]["both"]["auc"] == pytest.approx(0.5, abs=0.02)
    _, size = taken(lambda: score_profile(score, rows, held_out))
    assert size < 0.2 * 16 + BLOCKS
    _, size = taken(lambda: score_profile(score, rows, np.zeros(ROWS, np.bool_)))
    assert size < 16 + 2 * BLOCKS  # 17.5, with a little that is of no row
    matched = Matched(aligned.astype(np.int32), np.zeros(ROWS, np.int8))
    found, size = taken(lambda: matched.rows_in(room))
    assert size < BLOCKS
    assert (aligned[found] == np.arange(ROWS)).all()
