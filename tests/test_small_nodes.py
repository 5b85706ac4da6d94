"""What the sums of small nodes of a single tree tell of a host's column, and what its rules leave."""

import asyncio
from contextlib import closing
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from vfl.errors import Refused
from vfl.jobs.alignments import Alignment
from vfl.jobs.sums_given import SumsGiven
from vfl.leakage.model_alone import model_alone
from vfl.leakage.reconstruction import Reconstruction, compared, success
from vfl.leakage.recording import record
from vfl.leakage.shown import Shown, Truth, of_large_nodes
from vfl.leakage.small_nodes import small_nodes
from vfl.learn.binning import Binned, bin_columns
from vfl.learn.losses import loss_of
from vfl.learn.params import BoostParams
from vfl.party.policy_section import PolicySection
from vfl.party.store import Store
from vfl.protocols.common.course import UNCOUNTED, SumsCount
from vfl.protocols.common.rows import Training

ROWS = 1081
PARAMS = BoostParams(trees=11, guest_trees=10, depth=5)
QUIET = [1]


@cache
def tables() -> tuple[dict[str, Binned], Training]:
    """Of a guest, and of a host whose second column the label does not depend on."""
    draw = np.random.default_rng(3)
    own = {f"g{i}": draw.normal(size=ROWS) for i in range(4)}
    theirs = {"power": draw.lognormal(size=ROWS), "quiet": draw.normal(size=ROWS)}
    risk = own["g0"] + 0.5 * own["g1"] + np.log(theirs["power"])
    label = (risk + draw.logistic(size=ROWS) > np.quantile(risk, 0.75)).astype(np.float64)
    blocks = {
        name: bin_columns(of, PARAMS.max_bins, PARAMS.min_child_rows)
        for name, of in (("guest", own), ("host", theirs))
    }
    every = np.ones(ROWS, np.bool_)
    return blocks, Training(label, np.ones(ROWS), every, ~every, loss_of("binary"))


@cache
def trained(count: SumsCount = UNCOUNTED) -> tuple[Shown, Truth]:
    """What one joint tree shows of a host that counts so."""
    recording = asyncio.run(record(*tables(), PARAMS, counts={"host": count}))
    return recording.shown["host"], recording.truth["host"]


def by_rules(folder: Path, policy: PolicySection) -> tuple[Shown, Truth]:
    """The same of a host with these rules."""
    alignment = Alignment("a", "aa", {"insurer": "aa"}, ("trim",), "ids", np.arange(ROWS))
    with closing(SumsGiven(Store(folder), alignment).reserve(policy, "m", PARAMS, 1.0)) as budget:
        return trained(budget)


def attacked(shown: Shown, truth: Truth) -> tuple[Reconstruction, float, float]:
    """What sums of small nodes tell; of what guessing misses of the quiet column they and the model
    alone."""
    found, true = small_nodes(shown), compared(shown, truth)
    quiet = true[np.isin(truth.column[true], QUIET)]
    alone = model_alone(shown, truth, quiet).advantage
    return found, success(found, shown, truth, QUIET).advantage, alone


def test_small_nodes_of_one_tree_tell_a_column_and_the_default_rules_end_it(tmp_path: Path) -> None:
    shown, truth = trained()
    found, told, alone = attacked(shown, truth)
    sides = truth.sides[compared(shown, truth)]
    assert told > alone + 0.15
    assert ((found.sides > 0.5) == sides)[found.certain].mean() > 0.999
    assert max(map(len, found.chains)) > 20
    for chain in found.chains:  # of thresholds of one column, in order
        assert not (sides[list(chain)][:-1] & ~sides[list(chain)][1:]).any()

    shown, truth = by_rules(tmp_path, PolicySection())
    found, told, alone = attacked(shown, truth)
    assert shown.trees[-1].nodes[0].known.any()  # of the root sums are told
    assert told <= max(alone, 0.0) + 0.005
    assert all(len(chain) == 1 for chain in found.chains)


def test_nodes_that_are_withheld_have_no_sums_and_no_split_of_the_host(tmp_path: Path) -> None:
    everything, _ = trained()
    shown, _ = by_rules(tmp_path, PolicySection(min_summed_rows=150))
    (*_, all_), (*_, tree) = everything.trees, shown.trees
    assert min(int(node.rows.sum()) for node in all_.nodes if node.known.any()) < 150
    told = {node.number for node in tree.nodes if node.known.any()}
    few = {node.number for node in tree.nodes if node.rows.sum() < 150}
    assert few and 0 < len(told) < len(all_.nodes)
    for node in tree.nodes:
        sibling = node.number + 1 if node.number % 2 else node.number - 1
        if node.number and ({node.number, sibling} & few or (node.number - 1) // 2 not in told):
            assert node.number not in told
    assert {split.node for split in tree.splits} <= told


def test_large_nodes_alone_are_those_whose_pairs_and_parents_are() -> None:
    shown, _ = trained()
    (*_, whole), (*_, tree) = shown.trees, of_large_nodes(shown, 150).trees
    rows = {node.number: int(node.rows.sum()) for node in whole.nodes}
    kept = {node.number for node in tree.nodes}
    assert 0 in kept and 0 < len(kept) < len(rows)
    for number in rows:
        if number:
            pair = 2 * ((number - 1) // 2) + 1
            large = min(rows[pair], rows[pair + 1]) >= 150
            assert (number in kept) == (large and (number - 1) // 2 in kept)
    assert of_large_nodes(shown, 1).trees[-1].nodes == whole.nodes
    assert not of_large_nodes(shown, ROWS + 1).trees[-1].nodes


def test_a_tree_that_is_refused_shows_nothing(tmp_path: Path) -> None:
    with pytest.raises(Refused, match="breaks rule min_summed_rows = 2000"):
        by_rules(tmp_path, PolicySection(min_summed_rows=2000))


def test_who_is_shown_no_sums_guesses() -> None:
    _, truth = trained()
    nothing = Shown(ROWS, "tree", ())
    found = success(small_nodes(nothing), nothing, truth, QUIET)
    assert found.success == found.guessing
