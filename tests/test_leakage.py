"""What parties can work out: every attack on planted cases where the truth is at hand."""

import asyncio
from collections.abc import Sequence
from itertools import combinations

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from paillier_key import KEY
from sklearn.isotonic import IsotonicRegression

from vfl.arrays import Integers, Mask
from vfl.leakage import differences, membership, residuals, scores
from vfl.leakage.chains import Chain, nested
from vfl.leakage.estimate import MAX_SUMS_A_ROW, estimate, expected, told_by_nodes
from vfl.leakage.linking import Equations, gather, link
from vfl.leakage.model_alone import model_alone, sides_from_splits
from vfl.leakage.polytope import _ordered, solve, solve_all
from vfl.leakage.reconstruction import ALL, Effort, compared, reconstruct, success
from vfl.leakage.recording import Recording, record
from vfl.leakage.shown import Order, Shown
from vfl.leakage.subsets import any_of, few, keys_of
from vfl.leakage.success import Success
from vfl.learn.binning import Binned, bin_columns
from vfl.learn.losses import loss_of
from vfl.learn.params import BoostParams
from vfl.learn.told_sums import equations_a_tree
from vfl.net.peer import MemoryPeer, together
from vfl.protocols.common.course import HostCourse
from vfl.protocols.common.participant import Participant
from vfl.protocols.common.rows import Training
from vfl.protocols.trees import lattice, paillier
from vfl.protocols.trees.grower import Growth, OwnColumns
from vfl.protocols.trees.training import guest_train, host_train


def parties(rows: int, seed: int = 0, least: int = 5) -> tuple[dict[str, Binned], Training]:
    """A guest with two columns; a host with numbers, gaps, a category, and what says nothing."""
    draw = np.random.default_rng(seed)
    own = {"age": draw.normal(size=rows), "cover": draw.normal(size=rows)}
    power, km = draw.lognormal(size=rows), draw.gamma(2, 1e4, rows)
    risk = own["age"] + np.log(power) + km / 2e4
    km[draw.random(rows) < 0.15] = np.nan
    colour = np.array([f"c{i}" for i in draw.integers(0, 4, rows)], dtype=object)
    theirs = {"power": power, "km": km, "colour": colour, "noise": draw.normal(size=rows)}
    blocks = {
        "guest": bin_columns(own, 8, 3),
        "host": bin_columns(theirs, 8, least),
    }
    label = (risk + draw.logistic(size=rows) > np.quantile(risk, 0.7)).astype(np.float64)
    every = np.ones(rows, np.bool_)
    return blocks, Training(label, np.ones(rows), every, ~every, loss_of("binary"))


def run(
    rows: int, trees: int, order: Order = "tree", seed: int = 0, **settings: object
) -> tuple[Recording, Training]:
    blocks, training = parties(rows, seed)
    known = {"min_child_rows": 5, "seed": seed, **settings}
    encryption = "lattice" if order == "fixed" else "paillier"
    params = BoostParams.model_validate({"trees": trees, "encryption": encryption, **known})
    return asyncio.run(record(blocks, training, params, order)), training


# What is shown.


@pytest.mark.parametrize("order", ["tree", "node", "fixed"])
def test_shown_sums_are_those_of_the_true_sides(order: Order) -> None:
    recording, _ = run(120, 3, order, subsample=0.8, colsample=0.5)
    shown, truth = recording.shown["host"], recording.truth["host"]
    assert len(shown.trees) == 3
    assert any(tree.splits for tree in shown.trees)
    for number, tree in enumerate(shown.trees):
        for node in tree.nodes:
            sides = truth.sides[truth.order[number, node.number]][:, node.rows]
            assert np.array_equal(sides @ tree.g[node.rows], node.gradient)
            assert np.array_equal(sides @ tree.h[node.rows], node.hessian)
        for split in tree.splits:
            side = truth.sides[truth.order[number, split.node][split.place]]
            # Where no drawn row lacks the value, missing ones follow the majority.
            drawn = split.rows & (tree.h > 0)
            assert np.array_equal(side[drawn], split.left[drawn])


class LargeNodes:
    """A host that tells sums of pairs of so many rows at least."""

    def __init__(self, least: int) -> None:
        self._least = least

    least = 0  # rows of one column's candidates

    def begin_tree(self, drawn: Mask | None) -> None:
        return

    def tell(self, pairs: Sequence[tuple[Mask, Mask]]) -> list[bool]:
        return [min(int(rows.sum()) for rows in pair) >= self._least for pair in pairs]


@pytest.mark.parametrize(
    ("encryption", "least", "leaves"),
    [
        ("paillier", 1, None),
        ("paillier", 20, None),
        ("lattice", 1, None),
        ("paillier", 1, 5),
        ("lattice", 1, 5),
    ],
)
def test_a_recording_shows_what_the_protocol_shows(
    encryption: str, least: int, leaves: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Node by node the same sums, whatever their order, and the same splits; also where a host withholds
    some."""
    blocks, training = parties(60)
    settings = {"trees": 2, "depth": 3, "min_child_rows": 8, "encryption": encryption}
    settings |= {} if leaves is None else {"max_leaves": leaves}
    params = BoostParams.model_validate(settings)
    seen: list[dict[int, list[tuple[int, int]]]] = []
    module = paillier if encryption == "paillier" else lattice
    grower = module._PaillierGrower if encryption == "paillier" else module._LatticeGrower
    original = grower.sums

    async def sums(self: object, of: list[object], growth: Growth) -> None:
        await original(self, of, growth)  # type: ignore[arg-type]
        (host,) = (party for party in of if not isinstance(party, OwnColumns))
        if 0 in host.candidates:  # type: ignore[attr-defined]
            seen.append({})
        for pair in growth.frontier.pairs:
            nodes = [node for node in pair if node is not None]
            sent = np.logical_or.reduce([host.candidates[node][1] for node in nodes])  # type: ignore[attr-defined]
            for node in nodes:
                left = host.candidates[node][0].at(sent)  # type: ignore[attr-defined]
                pairs = zip(left.gradient.tolist(), left.hessian.tolist(), strict=True)
                seen[-1][node] = sorted(pairs)

    monkeypatch.setattr(grower, "sums", sums)
    at_guest, at_host = MemoryPeer.pair("guest", "host")
    key = KEY if encryption == "paillier" else None
    own = Participant("host", ["host"], bytes(16), minimum=1)

    async def both() -> object:
        guest = guest_train([at_guest], {"guest": blocks["guest"]}, training, params, key=key)
        host = host_train(
            at_host, blocks["host"], params, own, shown=str, course=HostCourse(sums=LargeNodes(least))
        )
        return (await together([guest, host]))[0]

    model, _ = asyncio.run(both())  # type: ignore[misc]
    counts = {"host": LargeNodes(least)}
    recording = asyncio.run(record(blocks, training, params, counts=counts))
    expected_ = [
        {
            node.number: sorted(
                zip(node.gradient[node.known].tolist(), node.hessian[node.known].tolist(), strict=True)
            )
            for node in tree.nodes
        }
        for tree in recording.shown["host"].trees
    ]
    assert seen == expected_
    assert [tree.leaves for tree in model.trees] == [tree.leaves for tree in recording.model.trees]
    assert any(any(values.values()) for values in seen)
    withheld = [not sums for values in seen for sums in values.values()]
    assert any(withheld) == (least > 1) and not all(withheld)


def test_a_tree_of_the_guest_alone_shows_nothing() -> None:
    recording, _ = run(100, 2, guest_trees=1)
    first, second = recording.shown["host"].trees
    assert not first.nodes
    assert not first.splits
    assert second.nodes


# Reconstruction.


def reconstructed(recording: Recording, effort: Effort = ALL) -> tuple[Success, bool]:
    """How well it went; whether what was taken for certain is right, but for one in a thousand."""
    shown, truth = recording.shown["host"], recording.truth["host"]
    found = reconstruct(shown, effort)
    true = truth.sides[compared(shown, truth)]
    sure = bool(((found.sides > 0.5) == true)[found.certain].mean() > 0.999)
    return success(found, shown, truth, about="host"), sure


@pytest.mark.parametrize("order", ["tree", "node", "fixed"])
def test_many_trees_tell_the_whole_table(order: Order) -> None:
    recording, _ = run(*((80, 12) if order == "fixed" else (200, 15)), order)
    found, sure = reconstructed(recording)
    assert found.guessing < 0.8
    assert found.success > 0.99
    assert sure


@pytest.mark.parametrize("objective", ["poisson", "squared"])
def test_labels_of_other_kinds_hide_no_more(objective: str) -> None:
    blocks, training = parties(80)
    draw = np.random.default_rng(3)
    label = draw.poisson(1 + training.label).astype(np.float64)
    every = np.ones(80, np.bool_)
    loss = loss_of("poisson" if objective == "poisson" else "squared")
    rows = Training(label, np.ones(80), every, ~every, loss)
    params = BoostParams(trees=15, min_child_rows=5)
    found, _ = reconstructed(asyncio.run(record(blocks, rows, params)))
    assert found.success > 0.99


def test_few_sums_over_many_rows_tell_little_more_than_the_model() -> None:
    recording, _ = run(2000, 3)
    shown, truth = recording.shown["host"], recording.truth["host"]
    assert shown.equations_a_row < MAX_SUMS_A_ROW
    found, _ = reconstructed(recording)
    alone = model_alone(shown, truth, compared(shown, truth))
    assert found.advantage < alone.advantage + 0.05


def test_who_is_shown_nothing_guesses() -> None:
    recording, _ = run(100, 1)
    nothing = Shown(100, "tree", ())
    truth = recording.truth["host"]
    found = success(reconstruct(nothing), nothing, truth)
    assert found.success == found.guessing
    assert found.advantage == 0
    assert model_alone(nothing, truth).advantage == 0


def test_nesting_and_integers_each_tell_more() -> None:
    recording, _ = run(500, 6)
    least, _ = reconstructed(recording, Effort(chains=False, integers=False, rounds=0))
    ordered, _ = reconstructed(recording, Effort(integers=False))
    all_, sure = reconstructed(recording)
    assert least.success < ordered.success < all_.success
    assert sure


@pytest.mark.parametrize("order", ["tree", "node", "fixed"])
def test_candidates_are_followed(order: Order) -> None:
    recording, _ = run(300, 8, order)
    shown, truth = recording.shown["host"], recording.truth["host"]
    links, true = link(shown), compared(shown, truth)
    followed = wrong = 0
    for (tree, number), place in links.place.items():
        (node,) = (node for node in shown.trees[tree].nodes if node.number == number)
        there = (place >= 0) & node.known[place]
        # Candidates may be taken for each other where they send the same rows of the node left.
        sides = truth.sides[:, node.rows]
        mine, real = truth.order[tree, number][place[there]], true[there]
        followed += len(real)
        wrong += int((sides[mine] != sides[real]).any(axis=1).sum())
    assert followed > 1000
    assert wrong < 0.01 * followed


def test_chains_are_of_one_column_each() -> None:
    recording, _ = run(500, 8)
    shown, truth = recording.shown["host"], recording.truth["host"]
    links = link(shown)
    equations = gather(shown, links)
    alone = [Chain([c]) for c in range(links.candidates)]
    for chain in alone:
        chain.reset(500)
    chains = nested(shown, links, equations, solve_all(alone, equations, links.share, 0))
    true = compared(shown, truth)
    assert len(chains) < len(true) / 2
    for chain in chains:
        of = true[chain.members]
        assert len(set(truth.column[of].tolist())) == 1
        sides = truth.sides[of]
        assert not (sides[:-1] & ~sides[1:]).any()


# Linear algebra.


def test_as_many_equations_as_rows_are_solved_exactly() -> None:
    draw = np.random.default_rng(0)
    rows = draw.normal(size=(40, 40))
    rows /= np.linalg.norm(rows, axis=1)[:, None]
    sides = draw.random(40) < 0.3
    chain = Chain([0])
    chain.reset(40)
    equations = Equations(rows, (rows @ sides)[None], np.ones((1, 40), np.bool_))
    found = solve(chain, equations, np.array([0.3]), 0)
    np.testing.assert_allclose(found[0], sides, atol=1e-5)  # the ridge, times the condition number


def test_sides_between_0_and_1_take_fewer_equations() -> None:
    draw = np.random.default_rng(1)
    rows = draw.normal(size=(70, 100))
    rows /= np.linalg.norm(rows, axis=1)[:, None]
    sides = draw.random(100) < 0.5
    chain = Chain([0])
    chain.reset(100)
    equations = Equations(rows, (rows @ sides)[None], np.ones((1, 70), np.bool_))
    least = solve(chain, equations, np.array([0.5]), 0)[0]
    boxed = solve(chain, equations, np.array([0.5]), 1000)[0]
    assert ((least > 0.5) != sides).any()
    assert np.array_equal(boxed > 0.5, sides)


@given(st.lists(st.floats(-2, 2), min_size=1, max_size=9))
def test_ordered_is_isotonic_regression(values: list[float]) -> None:
    fitted = IsotonicRegression().fit_transform(np.arange(len(values)), values)
    np.testing.assert_allclose(_ordered(np.array(values)[:, None])[:, 0], fitted, atol=1e-12)


_keys = st.lists(st.integers(-20, 20), min_size=0, max_size=8)


@given(_keys, st.sets(st.integers(0, 7)), st.integers(0, 6))
@example([1, 1, 1, 1], {0, 1, 2, 3}, 6)  # many pairs of halves, one set
@example([1, 1, 1, 1, 1, 1, 2, 3], {0, 1, 2, 3, 4, 5}, 6)
def test_few_finds_the_only_set(g: list[int], chosen: set[int], most: int) -> None:
    """Against all sets of so many, in plain integers."""
    h = [abs(value) * 7 % 11 for value in g]
    rows = sorted(i for i in chosen if i < len(g))
    total = sum(g[i] for i in rows), sum(h[i] for i in rows)
    sets = [
        s
        for size in range(most + 1)
        for s in combinations(range(len(g)), size)
        if (sum(g[i] for i in s), sum(h[i] for i in s)) == total
    ]
    keys = keys_of(np.array(g, np.int64), np.array(h, np.int64))
    found = few(keys, keys_of(np.array(total[0]), np.array(total[1]))[()], most)
    assert (found is None) if len(sets) != 1 else (found is not None and tuple(found) == sets[0])


@given(_keys, st.sets(st.integers(0, 7)))
def test_any_finds_the_only_subset(g: list[int], chosen: set[int]) -> None:
    h = [abs(value) * 7 % 11 for value in g]
    rows = sorted(i for i in chosen if i < len(g))
    total = sum(g[i] for i in rows), sum(h[i] for i in rows)
    sets = [
        s
        for size in range(len(g) + 1)
        for s in combinations(range(len(g)), size)
        if (sum(g[i] for i in s), sum(h[i] for i in s)) == total
    ]
    keys = keys_of(np.array(g, np.int64), np.array(h, np.int64))
    found = any_of(keys, keys_of(np.array(total[0]), np.array(total[1]))[()])
    assert (found is None) if len(sets) != 1 else (found is not None and tuple(found) == sets[0])


# The model alone.


def test_splits_tell_the_sides_of_their_rows_and_no_others() -> None:
    recording, _ = run(300, 6)
    shown, truth = recording.shown["host"], recording.truth["host"]
    found = sides_from_splits(shown, truth)
    for number, tree in enumerate(shown.trees):
        for split in tree.splits:
            candidate = truth.order[number, split.node][split.place]
            assert np.array_equal(found[candidate, split.rows], truth.sides[candidate, split.rows])
    told, scored = model_alone(shown, truth), model_alone(shown, truth, scored=True)
    assert 0 < told.advantage < scored.advantage <= 1


# Node membership.


def test_rows_that_share_nodes_by_label_are_told_apart() -> None:
    draw = np.random.default_rng(0)
    label = (draw.random(400) < 0.2).astype(np.float64)
    nodes = np.array([2 * label + draw.integers(0, 2, 400) for _ in range(6)]).astype(np.int64)
    assert membership.success(nodes, label).success > 0.99
    known = draw.random(400) < 0.1
    assert membership.success(nodes, label, known).success > 0.99


def test_a_graph_that_falls_apart_is_cut_where_it_does() -> None:
    """Two trees with one root split: no row of the one side shares a node with one of the other."""
    draw = np.random.default_rng(4)
    label = (draw.random(300) < 0.3).astype(np.float64)
    nodes = np.array([2 * label + draw.integers(0, 2, 300) for _ in range(2)]).astype(np.int64)
    once = membership.cluster(nodes)
    assert np.array_equal(once, membership.cluster(nodes))
    assert len(np.unique(once[1].round(6))) == 2  # the last one has the greatest value
    assert membership.success(nodes, label).success == 1


def test_nodes_drawn_at_random_tell_nothing() -> None:
    draw = np.random.default_rng(1)
    label = (draw.random(2000) < 0.2).astype(np.float64)
    nodes = draw.integers(0, 8, (10, 2000))
    assert abs(membership.success(nodes, label).advantage) < 0.1
    assert abs(membership.success(nodes, label, draw.random(2000) < 0.1).advantage) < 0.1
    assert membership.success(nodes[:0], label).success == 0.5


def test_a_training_tells_hosts_of_labels() -> None:
    recording, training = run(600, 10, depth=3)
    nodes = membership.told(recording.leaves, 3, recording.shown["host"])
    whole = recording.leaves
    assert ((nodes == whole) | (nodes == (whole - 1) // 2)).all()
    assert (nodes < whole).any()
    found = membership.success(nodes, training.label)
    assert found.success > found.guessing + 0.1


@pytest.mark.parametrize("alone", [0, 3])
def test_a_host_that_knows_which_way_its_columns_go_tells_labels_better(alone: int) -> None:
    recording, training = run(800, 6, depth=3, guest_trees=alone)
    shown, truth = recording.shown["host"], recording.truth["host"]
    itself = membership._auc(training.label > 0, recording.score)
    for nodes in (membership.told(recording.leaves, 3, shown), membership.asked(shown)):
        splits = membership.known_splits(nodes, shown, truth)
        by_nodes = membership.success(nodes, training.label)
        found = membership.success(nodes, training.label, splits=splits)
        assert found.success > by_nodes.success + 0.04
        assert found.success > itself - 0.1
        assert 0.5 < found.guessing < 0.56
        assert found.success <= told_by_nodes(6 - alone)
        # Of labels that the training did not have, it tells nothing.
        other = np.random.default_rng(2).permutation(training.label)
        assert abs(membership.success(nodes, other, splits=splits).advantage) < 0.08
        # Labels of its own add to it.
        known = np.random.default_rng(3).random(800) < 0.1
        more = membership.success(nodes, training.label, known, splits)
        assert more.success > membership.success(nodes, training.label, known).success
        assert more.success > found.success - 0.02


@pytest.mark.parametrize("lattice", [False, True])
def test_a_host_knows_the_sides_of_its_own_splits_and_of_those_above_told_nodes(lattice: bool) -> None:
    recording, _ = run(400, 4, depth=3)
    shown, truth = recording.shown["host"], recording.truth["host"]
    nodes = membership.asked(shown) if lattice else membership.told(recording.leaves, 3, shown)
    known = membership.known_splits(nodes, shown, truth)
    others = known.others.toarray()
    assert np.allclose(others.sum(axis=1), 0)
    assert np.allclose((others**2).sum(axis=1), (others != 0).sum(axis=1))
    ways = set()  # of numbers the column, of factors the level
    for number, tree in enumerate(shown.trees):
        for split in tree.splits:
            candidate = truth.order[number, split.node][split.place]
            colour = truth.column[candidate] == 2
            assert truth.level[candidate] == colour
            ways.add(("level", candidate) if colour else ("column", truth.column[candidate]))
    assert len(known.own) == len(ways)
    if lattice:
        return
    sides = []
    for tree, leaves in zip(shown.trees, recording.leaves, strict=True):
        won = {split.node for split in tree.splits}
        for node in sorted(set(range(3)) - won):  # the last splits of others are not told
            left, right = inside(leaves, 2 * node + 1), inside(leaves, 2 * node + 2)
            sides += [left.astype(np.int64) - right] if left.any() else []
    assert np.array_equal(np.sign(others), sides)


def inside(leaves: Integers, node: int) -> Mask:
    """Which rows are in a node, by the leaf of each."""
    at = leaves
    while (at > node).any():
        at = np.where(at > node, (at - 1) // 2, at)
    return at == node


def test_over_the_lattice_engine_hosts_are_told_of_fewer_nodes() -> None:
    recording, _ = run(600, 5, depth=3)
    nodes = membership.asked(recording.shown["host"])
    told = recording.leaves
    known = nodes >= 0
    assert (nodes <= told).all()
    assert (nodes < told).any()
    # Where a host's split is the last on a row's path it knows the leaf, else a node above it.
    above = told.copy()
    while (above > nodes)[known].any():
        above = np.where(above > nodes, (above - 1) // 2, above)
    assert np.array_equal(above[known], nodes[known])


def test_hosts_are_told_nothing_of_a_tree_of_the_guest_alone() -> None:
    recording, _ = run(200, 2, guest_trees=1)
    first, second = membership.told(recording.leaves, 4, recording.shown["host"])
    assert (first == -1).all()
    assert (second >= 0).all()


# Differences.


def test_sets_that_differ_by_a_row_tell_it() -> None:
    sets = np.zeros((3, 20), np.bool_)
    sets[0, :10] = sets[1, :11] = sets[2, 12:] = True
    assert differences.close(sets, 1).nonzero()[0].tolist() == [10]
    assert differences.close(sets, 8).nonzero()[0].tolist() == [10, *range(12, 20)]
    assert differences.follow(sets.astype(np.float64)).nonzero()[0].tolist() == [10]


def test_values_follow_where_the_rank_says_so() -> None:
    """A row's value follows if adding its unit vector does not raise the rank."""
    draw = np.random.default_rng(0)
    for _ in range(20):
        sets = (draw.random((8, 12)) < 0.4).astype(np.float64)
        rank = np.linalg.matrix_rank(sets)
        unit = [np.linalg.matrix_rank(np.vstack([sets, row])) == rank for row in np.eye(12)]
        assert differences.follow(sets).tolist() == unit
    values = np.array([0.0] * 9 + [1.0] * 3)
    whole = differences.success(np.eye(12), values)
    assert (whole.success, whole.guessing) == (1.0, 0.75)
    assert differences.success(np.zeros((0, 12)), values).advantage == 0


# Residuals.


def test_gradients_of_many_columns_tell_labels() -> None:
    draw = np.random.default_rng(0)
    label = draw.random(150) < 0.2
    assert residuals.success(draw.normal(size=(110, 150)), label).success == 1.0
    none = residuals.success(np.zeros((0, 150)), label)
    assert none.success == pytest.approx(none.guessing)
    few_ = residuals.success(draw.normal(size=(5, 150)), label)
    assert few_.advantage < 0.1


def test_levels_of_one_row_tell_its_label() -> None:
    label = np.arange(30) % 3 == 0
    assert residuals.success(np.eye(30), label).success == 1.0


@given(st.integers(1 << 20, 1 << 40), st.integers(1, 1 << 10), st.integers(0, 2**32))
def test_an_opened_number_tells_a_label_a_bit(high: int, part: int, seed: int) -> None:
    """Residuals are p for a zero and p - 1 for a one, both multiplied and rounded."""
    spacing = residuals.Spacing.of(2046, 52)
    label = np.random.default_rng(seed).random(spacing.rows) < 0.3
    values = [high - high * (part + 1) if one else high for one in label]
    read = residuals.read(residuals.opened(values, spacing), spacing)
    if label[:8].all() or not label[:8].any():
        assert read is None
    else:
        assert read == label.tolist()


def test_a_plaintext_holds_a_thousand_labels() -> None:
    assert residuals.labels_an_opening(2046, 52) > 1000


# Scores.


def test_equal_parts_tell_levels() -> None:
    draw = np.random.default_rng(0)
    level = draw.integers(0, 5, 500)
    known = draw.random(500) < 0.1
    parts = np.array([0.3, -0.1, 0.7, 0.2, 0.0])[level]
    assert scores.success(parts, known, level).success == 1.0
    constant = scores.success(np.zeros(500), known, level)
    assert constant.success < constant.guessing + 0.1
    with_others = np.stack([parts, draw.normal(size=500)], axis=1)
    assert constant.success < scores.success(with_others, known, level).success < 1.0


def test_a_number_is_found_as_far_as_known_rows_are_near() -> None:
    draw = np.random.default_rng(0)
    km = draw.normal(size=1000)
    bins = np.digitize(km, np.quantile(km, np.arange(1, 8) / 8))
    found = scores.success(0.4 * km - 1, draw.random(1000) < 0.2, bins)
    assert found.success > 0.95
    assert found.guessing < 0.2


# Before a job.


@pytest.mark.parametrize("order", ["tree", "fixed"])
@pytest.mark.parametrize(
    "settings",
    [{}, {"depth": 6}, {"min_child_rows": 20}, {"subsample": 0.5}, {"guest_trees": 2}],
    ids=str,
)
def test_no_job_gives_away_more_than_was_said(order: Order, settings: dict[str, object]) -> None:
    recording, _ = run(150, 4, order, **settings)
    encryption = "lattice" if order == "fixed" else "paillier"
    known = {"trees": 4, "min_child_rows": 5, "encryption": encryption, **settings}
    said = estimate(150, BoostParams.model_validate(known))
    actual = recording.shown["host"].equations_a_row
    assert 0 < actual <= said.equations_a_row


def test_an_estimate_grows_with_trees_and_falls_with_rows() -> None:
    params = BoostParams(trees=10, depth=4)
    few_, many = estimate(1000, params), estimate(100_000, params)
    assert few_.equations == many.equations == 10 * equations_a_tree(1000, params) == 160
    assert few_.beyond > many.beyond
    assert estimate(1000, params, given=1.0).beyond >= few_.beyond
    assert estimate(1000, params, "hidden").equations == 0
    assert many.joint_within(MAX_SUMS_A_ROW) == int(MAX_SUMS_A_ROW * 100_000 / 16)


def test_worth_is_a_share_and_never_falls() -> None:
    worth = [expected(x) for x in np.linspace(0, 3, 200)]
    assert worth[0] == 0
    assert worth == sorted(worth)
    assert worth[-1] <= 1
