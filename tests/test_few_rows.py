"""Rows without a value and of rare categories, few of a node: told by what candidates leave over."""

import asyncio
import itertools
from contextlib import closing
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from vfl.arrays import Integers
from vfl.jobs.alignments import Alignment
from vfl.jobs.sums_given import SumsGiven
from vfl.leakage.recording import record
from vfl.leakage.shown import Shown, ShownNode, ShownTree, Truth
from vfl.leakage.subsets import Few, Keys, keys_of
from vfl.learn.binning import Binned, bin_columns
from vfl.learn.losses import loss_of
from vfl.learn.params import BoostParams
from vfl.learn.splits import Candidates, histograms
from vfl.party.policy_section import PolicySection
from vfl.party.store import Store
from vfl.protocols.common.course import UNCOUNTED, SumsCount
from vfl.protocols.common.rows import Training
from vfl.protocols.trees.few_rows import FewRows

ROWS = 1500
PARAMS = BoostParams(trees=13, guest_trees=12, depth=5)
"""One joint tree, once gradients differ from row to row."""
POLICY = PolicySection(max_sums_a_row=0.05)  # one tree, of so few rows


@cache
def tables() -> tuple[dict[str, Binned], Training, set[int], set[int]]:
    """Of a guest and a host; which rows have a fuel of their own at the host, and which no mileage."""
    draw = np.random.default_rng(7)
    own = {f"g{i}": draw.normal(size=ROWS) for i in range(5)}
    rare, missing = (draw.choice(ROWS, 2, replace=False) for _ in range(2))
    fuel = np.array(["petrol", "diesel", "electric"], object)[draw.integers(0, 3, ROWS)]
    fuel[rare] = "hydrogen"
    km = draw.gamma(2, 1e4, ROWS)
    km[missing] = np.nan
    theirs = {"fuel": fuel, "km": km, "power": draw.lognormal(size=ROWS)}
    risk = own["g0"] + 0.5 * own["g1"] + np.log(theirs["power"])
    label = (risk + draw.logistic(size=ROWS) > np.quantile(risk, 0.75)).astype(np.float64)
    blocks = {
        name: bin_columns(of, PARAMS.max_bins, POLICY.min_child_rows)
        for name, of in (("guest", own), ("host", theirs))
    }
    every = np.ones(ROWS, np.bool_)
    training = Training(label, np.ones(ROWS), every, ~every, loss_of("binary"))
    return blocks, training, {*rare.tolist()}, {*missing.tolist()}


def trained(count: SumsCount) -> tuple[Shown, Truth]:
    """What a joint tree shows of a host that counts so."""
    blocks, training, *_ = tables()
    recording = asyncio.run(record(blocks, training, PARAMS, counts={"host": count}))
    return recording.shown["host"], recording.truth["host"]


def by_rules(folder: Path) -> tuple[Shown, Truth]:
    """The same of a host with a policy."""
    alignment = Alignment("a", "aa", {"insurer": "aa"}, ("trim",), "ids", np.arange(ROWS))
    with closing(SumsGiven(Store(folder), alignment).reserve(POLICY, "m", PARAMS, 1.0)) as budget:
        return trained(budget)


class Attacked:
    """A guest that follows the protocol, with what it is shown of a node and nothing else: which of its
    rows are left over by two candidates or by three, or by what two of them differ."""

    def __init__(self, tree: ShownTree, node: ShownNode) -> None:
        rows = np.flatnonzero(node.rows)
        g, h = tree.g[rows], tree.h[rows]
        self._keys: Keys = keys_of(g, h)
        self._few, self._rows = Few(self._keys, 2), rows
        self._known = np.flatnonzero(node.known)
        self._sums = keys_of(node.gradient, node.hessian)
        self._share, self._whole, self._most = node.hessian, int(h.sum()), 2 * int(h.max())

    def _named(self, total: np.uint64) -> frozenset[int]:
        found = self._few.find(total)
        return frozenset() if found is None else frozenset(self._rows[found].tolist())

    def left_over(self) -> set[frozenset[int]]:
        whole, found = self._keys.sum(dtype=np.uint64), set[frozenset[int]]()
        for count in (2, 3):
            for some in itertools.combinations(self._known.tolist(), count):
                if 0 <= self._whole - int(self._share[[*some]].sum()) <= self._most:
                    found.add(self._named(whole - self._sums[[*some]].sum(dtype=np.uint64)))
        return found - {frozenset()}

    def differing(self) -> set[frozenset[int]]:
        found = set[frozenset[int]]()
        for one, other in itertools.permutations(self._known.tolist(), 2):
            if 0 <= int(self._share[other]) - int(self._share[one]) <= self._most:
                found.add(self._named(self._sums[other] - self._sums[one]))
        return found - {frozenset()}


def named(shown: Shown, least: int) -> tuple[set[int], set[int]]:
    """The rows that the attack names, of nodes of so many rows: by what is left over, and by what two
    candidates differ by."""
    left, differing = set[int](), set[int]()
    with np.errstate(over="ignore"):
        for tree in shown.trees:
            for node in tree.nodes:
                if node.known.any() and int(node.rows.sum()) >= least:
                    attack = Attacked(tree, node)
                    left |= {row for one in attack.left_over() for row in one}
                    differing |= {row for one in attack.differing() for row in one}
    return left, differing


def test_few_rows_that_are_left_over_are_named_and_the_default_rules_end_it(tmp_path: Path) -> None:
    """Rows of a rare category, and rows without a value: of 1,500 rows guessing finds 2 in 750. From one
    tree, of nodes that are told by default, the guest names them and no other; with rules none."""
    _, _, rare, missing = tables()
    shown, _ = trained(UNCOUNTED)
    left, differing = named(shown, POLICY.min_summed_rows)
    assert left == rare and differing == missing
    shown, truth = by_rules(tmp_path)
    assert shown.trees[-1].nodes[0].known.sum() > 30  # sums are told
    left, differing = named(shown, POLICY.min_summed_rows)
    assert not left | differing
    # Of the columns a category is still told, and a threshold with missing values on one side.
    node = shown.trees[-1].nodes[0]
    places = truth.order[len(shown.trees) - 1, 0]
    assert {*truth.column[places[node.known]].tolist()} == {0, 1, 2}


@pytest.mark.parametrize("least", [0, 1, 4, 20])
def test_what_follows_within_a_column_is_of_many_rows_or_none(least: int) -> None:
    """In either node of a pair, and below what was left out above."""
    draw, rows = np.random.default_rng(1), 300
    kind = np.array([f"k{i}" for i in draw.choice(8, rows, p=np.arange(8, 0, -1) ** 2 / 204)], object)
    number = np.round(draw.normal(size=rows), 1)
    number[draw.random(rows) < 0.03] = np.nan
    binned = bin_columns({"kind": kind, "number": number}, 12, 2)
    own = Candidates.of(binned.columns)
    few, seen = FewRows(own, least), 0
    pairs: list[list[tuple[int, int | None]]] = [[(0, None)], [(1, 2)], [(4, 3), (5, 6)]]
    node = np.zeros(rows, np.int64)
    for level in pairs:
        nodes = [one for pair in level for one in pair if one is not None]
        if nodes != [0]:
            node = 2 * node + 1 + (draw.random(rows) < 0.6)
        counts = {one: histograms(binned, own, np.where(node == one, 0, -1), 1)[0] for one in nodes}
        valid = {one: own.valid(counts[one][np.newaxis], 4)[0] for one in nodes}
        before = {one: mask.copy() for one, mask in valid.items()}
        few.leave_out(level, counts, valid)
        for pair in level:
            both = [one for one in pair if one is not None]
            told = few.told(both[0])
            assert all((valid[one] <= (before[one] & told)).all() for one in both)
            if least <= 1:
                assert all((valid[one] == before[one]).all() for one in both)
            if both[0]:
                assert not (told & ~few.told((both[0] - 1) // 2)).any()
            for one in both:
                seen += 1
                for what in followed(own, told, counts[one]):
                    assert what == 0 or what >= least
    assert seen == 7


def followed(own: Candidates, told: np.ndarray, cells: Integers) -> list[int]:
    """Rows of a node that are left over by told categories, and that have no value where it is told with
    and without them."""
    kinds = np.flatnonzero(told & (own.column == 0))
    found = [int(cells[: own.columns[0].bins + 1].sum() - cells[own.cell[kinds]].sum())]
    if (told & own.missing_left).any():
        found.append(int(cells[own.missing_cells[1]]))
    return found
