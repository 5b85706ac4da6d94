"""Shapley values against LightGBM and over all coalitions, partial dependence, reasons in words."""

from collections.abc import Callable, Set
from dataclasses import replace
from itertools import combinations
from math import comb

import lightgbm
import numpy as np
import pytest
from memory import over_memory
from sklearn.inspection import partial_dependence as by_scikit_learn
from sklearn.tree import DecisionTreeRegressor
from test_scoring import ALL, HALVES, MODEL, ROWS, SCORES, columns

from vfl.errors import ModelError
from vfl.learn import explain
from vfl.learn.explain import Explainer, partial_dependence, players, reasons
from vfl.learn.forest import Forest
from vfl.learn.splits import Split
from vfl.learn.tree import Branch, Tree
from vfl.protocols.common.batches import ScoredPart
from vfl.protocols.trees.model import GuestModel
from vfl.protocols.trees.scoring import guest_score, host_score

SPLITS = [MODEL.splits, *(half.splits for half in HALVES)]
FEATURES = [columns(party) for party in range(3)]
HOSTS = ("party1", "party2")
CATEGORIES = ["a", "b", "c", None]


def explained(model: GuestModel, places=(ALL, ALL)) -> ScoredPart:
    """The batch of test_scoring, explained by the protocol."""

    async def guest(peers):
        parts = guest_score(peers, model, FEATURES[0], places, ROWS, explain=True)
        return [part async for part in parts]

    def host(name, peer):
        p = HOSTS.index(name)
        return host_score(peer, HALVES[p], FEATURES[p + 1], ROWS)

    (part,), *_ = over_memory(HOSTS, guest, host, guest="party0")
    return part


def renamed(name: Callable[[int, str], str]) -> GuestModel:
    """The model with other names of the branches' columns, by party."""
    trees = [
        replace(
            tree,
            branches={n: replace(b, column=name(b.party, b.column)) for n, b in tree.branches.items()},
        )
        for tree in MODEL.trees
    ]
    return replace(MODEL, trees=tuple(trees))


# LightGBM's own values of the same trees.


def lightgbm_text(tree: Tree, number: int, column_of: dict[str, int]) -> str:
    """A tree as LightGBM's text format has it."""
    inner = {node: i for i, node in enumerate(sorted(tree.branches))}
    leaves = {node: i for i, node in enumerate(sorted(tree.leaves))}
    splits = [SPLITS[b.party][b.record] for _, b in sorted(tree.branches.items())]
    categorical = [s for s in splits if s.categorical]
    thresholds, decisions, seen = [], [], 0
    for split in splits:
        if split.categorical:
            thresholds.append(seen)
            seen += 1
            decisions.append(1)
        else:
            thresholds.append(1e300 if split.threshold is None else split.threshold)
            decisions.append(2 << 2 | 2 * split.missing_left)  # missing is NaN, and goes left or right

    def child(node: int) -> int:
        return inner[node] if node in inner else ~leaves[node]

    def line(name: str, values) -> str:
        return f"{name}=" + " ".join(repr(v) for v in values)

    lines = [
        f"Tree={number}",
        f"num_leaves={len(leaves)}",
        f"num_cat={len(categorical)}",
        line("split_feature", [column_of[split.column] for split in splits]),
        line("split_gain", [1] * len(inner)),
        line("threshold", thresholds),
        line("decision_type", decisions),
        line("left_child", [child(2 * node + 1) for node in inner]),
        line("right_child", [child(2 * node + 2) for node in inner]),
        line("leaf_value", [tree.leaves[node] for node in leaves]),
        line("leaf_weight", [1] * len(leaves)),
        line("leaf_count", [tree.covers[node] for node in leaves]),
        line("internal_value", [0] * len(inner)),
        line("internal_weight", [1] * len(inner)),
        line("internal_count", [tree.covers[node] for node in inner]),
    ]
    if categorical:
        bits = [1 << CATEGORIES.index(split.category) for split in categorical]
        lines += [line("cat_boundaries", range(len(bits) + 1)), line("cat_threshold", bits)]
    return "\n".join([*lines, "is_linear=0", "shrinkage=1", "", ""])


def lightgbm_contributions() -> tuple[dict[str, np.ndarray], np.ndarray]:
    """By column, and the base without the start."""
    names = [name for features in FEATURES for name in features]
    column_of = {name: i for i, name in enumerate(names)}
    head = [
        "tree",
        "version=v4",
        "num_class=1",
        "num_tree_per_iteration=1",
        "label_index=0",
        f"max_feature_idx={len(names) - 1}",
        "objective=regression",
        "feature_names=" + " ".join(names),
        "feature_infos=" + " ".join(["[-9:9]"] * len(names)),
        "",
        "",
    ]
    trees = [lightgbm_text(tree, number, column_of) for number, tree in enumerate(MODEL.trees)]
    text = "\n".join(head) + "".join(trees) + "end of trees\n\nparameters:\nend of parameters\n"
    booster = lightgbm.Booster(model_str=text)
    table = [
        [CATEGORIES.index(v) for v in values] if values.dtype == object else values
        for features in FEATURES
        for values in features.values()
    ]
    found = booster.predict(np.array(table, float).T, pred_contrib=True)
    return dict(zip(names, found.T, strict=False)), found[:, -1]


def test_values_by_column_are_those_of_lightgbm() -> None:
    part = explained(MODEL)
    theirs, base = lightgbm_contributions()
    kinds = {split.categorical for splits in SPLITS for split in splits}
    assert kinds == {True, False}
    ours = {name.rpartition(":")[2]: values for name, values in part.contributions.items()}
    assert {name for name, values in theirs.items() if values.any()} == set(ours)
    for name, values in ours.items():
        assert np.abs(values - theirs[name]).max() < 1e-9, name
    assert np.abs(part.base - MODEL.start - base).max() < 1e-9
    assert np.array_equal(part.scores, SCORES)
    assert np.abs(part.base + sum(part.contributions.values()) - SCORES).max() < 1e-9


def test_rows_unknown_to_a_host_are_explained_as_missing_values() -> None:
    nobody = np.full(ROWS, -1)
    part = explained(MODEL, (nobody, ALL))
    known = explained(MODEL)
    assert not np.array_equal(part.scores, SCORES)
    assert np.abs(part.base + sum(part.contributions.values()) - part.scores).max() < 1e-9
    assert part.base == known.base


# By the definition: over all coalitions of players.


def value(
    tree: Tree,
    coalition: Set[str],
    player_of: dict[tuple[int, str], str],
    left: Callable[[Branch], bool],
) -> float:
    """Path-dependent: outside the coalition both ways, weighted by covers."""

    def at(node: int) -> float:
        if node in tree.leaves:
            return tree.leaves[node]
        branch, children = tree.branches[node], (2 * node + 1, 2 * node + 2)
        if player_of[branch.party, branch.column] in coalition:
            return at(children[0 if left(branch) else 1])
        return sum(tree.covers[c] / tree.covers[node] * at(c) for c in children)

    return at(0)


def shapley(
    model: GuestModel, left: np.ndarray, plane: Callable[[Branch], int]
) -> dict[str, np.ndarray]:
    """Every player's value of every row; `left` has shape (planes, rows)."""
    player_of = players(model)
    names = sorted(set(player_of.values()))
    found = {name: np.zeros(left.shape[1]) for name in names}
    for row in range(left.shape[1]):
        went = left[:, row]
        worth = {
            frozenset(chosen): sum(
                value(tree, set(chosen), player_of, lambda b, went=went: went[plane(b)])
                for tree in model.trees
            )
            for size in range(len(names) + 1)
            for chosen in combinations(names, size)
        }
        for name in names:
            for coalition, alone in worth.items():
                if name not in coalition:
                    weight = 1 / (len(names) * comb(len(names) - 1, len(coalition)))
                    found[name][row] += weight * (worth[coalition | {name}] - alone)
    return found


def test_hosts_that_hide_names_are_one_player_each() -> None:
    hidden = renamed(lambda party, name: name if party != 1 else f"party1:{1 + ('category' in name)}")
    part, shown = explained(hidden), explained(MODEL)
    assert "party1" in part.contributions and not any("party1:" in n for n in part.contributions)
    assert {n for n in part.contributions if n.startswith("party2")} == {
        n for n in shown.contributions if n.startswith("party2")
    }
    rows = slice(0, 12)
    planes = {
        (p, r): s.goes_left(FEATURES[p])[rows] for p, own in enumerate(SPLITS) for r, s in enumerate(own)
    }
    place = {key: i for i, key in enumerate(planes)}
    expected = shapley(hidden, np.array(list(planes.values())), lambda b: place[b.party, b.record])
    assert set(part.contributions) == set(expected)
    for name, values in expected.items():
        assert np.abs(part.contributions[name][rows] - values).max() < 1e-12, name


def random_model(depth: int, columns: int, trees: int = 2) -> GuestModel:
    """Trees in which paths end early and meet the same columns again."""
    rng = np.random.default_rng([depth, columns])
    made, splits = [], 0
    for _ in range(trees):
        branches, leaves, covers, nodes = {}, {}, {0: 10**6}, [0]
        for node in nodes:
            if node + 1 < 1 << depth and (node < 3 or rng.random() < 0.9):
                column = int(rng.integers(columns))
                branches[node] = Branch(column % 3, splits, f"c{column}", 1.0)
                splits += 1
                left = int(covers[node] * rng.uniform(0.1, 0.9))
                covers |= {2 * node + 1: left, 2 * node + 2: covers[node] - left}
                nodes += [2 * node + 1, 2 * node + 2]
            else:
                leaves[node] = float(rng.normal())
        made.append(Tree(branches, leaves, covers))
    made.append(Tree({}, {0: 0.25}, {0: 7}))
    return GuestModel(("g", "h", "i"), 0.5, tuple(made), ())


@pytest.mark.parametrize(
    ("depth", "columns", "bits", "kept"),
    [(1, 1, 10, 1 << 25), (4, 5, 10, 0), (4, 5, 2, 1 << 25), (5, 6, 4, 1 << 25), (7, 3, 7, 0)],
)
def test_values_are_those_over_all_coalitions(monkeypatch, depth, columns, bits, kept) -> None:
    monkeypatch.setattr(explain, "_BITS", bits)
    monkeypatch.setattr(explain, "_KEPT", kept)
    model = random_model(depth, columns)
    count = sum(len(tree.branches) for tree in model.trees)
    left = np.random.default_rng(1).random((count, 11)) < 0.5
    planes = np.packbits(left, axis=1)
    explainer = Explainer(model, lambda branch: branch.record)
    for _ in range(2):  # with tables made before, the second time
        found = explainer.contributions(planes, 11)
    expected = shapley(model, left, lambda branch: branch.record)
    assert set(found) == set(expected)
    for name, values in expected.items():
        assert np.abs(found[name] - values).max() < 1e-12, name
    scores = Forest(model.trees, model.start, lambda branch: branch.record).scores(planes, 11)
    assert np.abs(explainer.base + sum(found.values()) - scores).max() < 1e-12


def test_ten_levels_add_up() -> None:
    model = random_model(10, 24, trees=1)
    planes = np.random.default_rng(1).integers(0, 256, (len(model.trees[0].branches), 40), np.uint8)
    explainer = Explainer(model, lambda branch: branch.record)
    found = explainer.contributions(planes, 320)
    scores = Forest(model.trees, model.start, lambda branch: branch.record).scores(planes, 320)
    assert np.abs(explainer.base + sum(found.values()) - scores).max() < 1e-11


def one_split_each(*names: tuple[int, str]) -> GuestModel:
    trees = [
        Tree({0: Branch(party, 0, name, 1.0)}, {1: 0.0, 2: 1.0}, {0: 2, 1: 1, 2: 1})
        for party, name in names
    ]
    return GuestModel(("insurer", "registry", "bureau"), 0.0, tuple(trees), ())


def test_players_go_by_names_that_are_theirs_alone() -> None:
    model = one_split_each(
        (0, "Area"), (0, "registry"), (0, "bureau:1"), (0, "bureau:Fuel"), (1, "Fuel"), (2, "bureau:7")
    )
    assert players(model) == {
        (0, "Area"): "Area",
        (0, "registry"): "insurer:registry",
        (0, "bureau:1"): "bureau:1",
        (0, "bureau:Fuel"): "bureau:Fuel",
        (1, "Fuel"): "registry:Fuel",
        (2, "bureau:7"): "bureau",
    }
    # One column that looks like a number makes the whole host a block.
    model = one_split_each((0, "registry:Fuel"), (1, "Fuel"), (2, "Age"), (2, "bureau:12"))
    assert list(players(model).values()) == [
        "registry:Fuel",
        "bureau",
        "bureau",
        "insurer:registry:Fuel",
    ]


@pytest.mark.parametrize(
    ("covers", "message"),
    [
        ({}, "an earlier version"),
        ({0: 3, 1: 1}, "an earlier version"),
        ({0: 4, 1: 1, 2: 2}, "damaged"),
        ({0: 0, 1: 0, 2: 0}, "damaged"),
    ],
)
def test_a_model_without_covers_is_refused(covers, message) -> None:
    model = one_split_each((0, "Area"))
    model = replace(model, trees=(replace(model.trees[0], covers=covers),))
    with pytest.raises(ModelError, match=message):
        Explainer(model, lambda branch: 0)
    with pytest.raises(ModelError, match=message):
        partial_dependence(model, "Area", np.array([1.0]))


# Partial dependence.


def test_partial_dependence_is_scikit_learns_recursion() -> None:
    rng = np.random.default_rng(0)
    x = rng.integers(0, 20, (400, 3)).astype(float)
    y = np.sin(x[:, 0]) + x[:, 1] * (x[:, 2] > 9) + rng.normal(size=400)
    theirs = DecisionTreeRegressor(max_depth=6, min_samples_leaf=5, random_state=0).fit(x, y)
    inner = theirs.tree_
    branches, leaves, covers, splits, nodes = {}, {}, {}, [], [(0, 0)]
    for node, number in nodes:
        covers[node] = int(inner.n_node_samples[number])
        if inner.children_left[number] < 0:
            leaves[node] = float(inner.value[number].item())
            continue
        column = int(inner.feature[number])
        # Two columns are the guest's, one is a host's, whose splits the guest does not have.
        branches[node] = Branch(int(column == 2), len(splits) if column < 2 else 0, f"c{column}", 1.0)
        if column < 2:
            splits.append(Split(f"c{column}", float(inner.threshold[number]), None, False, True))
        nodes += [
            (2 * node + 1, int(inner.children_left[number])),
            (2 * node + 2, int(inner.children_right[number])),
        ]
    model = GuestModel(("g", "h"), 0.25, (Tree(branches, leaves, covers),), tuple(splits))
    for column in (0, 1):
        expected = by_scikit_learn(theirs, x, [column], method="recursion", grid_resolution=50)
        ours = partial_dependence(model, f"c{column}", expected["grid_values"][0])
        assert np.abs(ours - 0.25 - expected["average"][0]).max() < 1e-12


def test_partial_dependence_of_missing_values_and_categories() -> None:
    splits = (*MODEL.splits, Split("category0", None, None, True, False))
    tree = Tree({0: Branch(0, len(splits) - 1, "category0", 1.0)}, {1: 1.0, 2: 3.0}, {0: 4, 1: 1, 2: 3})
    model = replace(MODEL, splits=splits, trees=(*MODEL.trees, tree))
    player_of = players(model)
    for column, grid in (
        ("number0", np.array([-1.0, 0.0, np.nan, 1.0])),
        ("category0", np.array(["a", "b", None, "unheard of"], object)),
    ):

        def at(row: dict[str, np.ndarray], alone: frozenset[str]) -> float:
            def left(branch: Branch) -> bool:
                return bool(splits[branch.record].goes_left(row)[0])

            return model.start + sum(value(t, alone, player_of, left) for t in model.trees)

        expected = [at({column: grid[i : i + 1]}, frozenset({column})) for i in range(len(grid))]
        found = partial_dependence(model, column, grid)
        assert np.abs(found - expected).max() < 1e-12 and len(np.unique(found)) > 1
    base = Explainer(MODEL, lambda branch: 0).base
    assert np.abs(partial_dependence(MODEL, "unused", np.array([0.0, 1.0])) - base).max() < 1e-12
    with pytest.raises(ValueError, match="'category0' and the grid"):
        partial_dependence(model, "category0", np.array([1.0]))


# Words.

PARTS = {
    "BonusMalus": np.array([np.log(1.31), 0.0, -0.002, 30.0]),
    "registry": np.array([np.log(0.88), np.log(2.5), 0.001, -1.0]),
    "bureau:Age": np.array([np.log(1.04), -0.4, 0.004, -40.0]),
    "Area": np.array([0.01, 0.5, -0.003, 0.0]),
}


def test_reasons_in_words() -> None:
    assert reasons(PARTS, "log") == [
        "BonusMalus +31 %; registry -12 %; bureau:Age +4 %",
        "registry +150 %; Area +65 %; bureau:Age -33 %",
        "",
        "bureau:Age -100 %; BonusMalus +999,999 %; registry -63 %",
    ]
    assert reasons(PARTS, "logit", top=1)[:3] == ["BonusMalus +31 % odds", "registry +150 % odds", ""]
    assert reasons(PARTS, "identity", top=2) == [
        "BonusMalus +0.27; registry -0.128",
        "registry +0.916; Area +0.5",
        "bureau:Age +0.004; Area -0.003",
        "bureau:Age -40; BonusMalus +30",
    ]
    large = {"Sum": np.array([12_345.6, -0.000012345])}
    assert reasons(large, "identity") == ["Sum +12,300", "Sum -1.23e-05"]
    assert reasons({"Area": np.array([])}, "log") == []
