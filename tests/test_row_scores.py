"""Trees and linear models for few rows at a time, against those for batches, bit for bit."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vfl.learn.design import Design, Rules
from vfl.learn.explain import Explainer
from vfl.learn.forest import Forest, Sides
from vfl.learn.row_design import RowDesign
from vfl.learn.row_forest import RowExplainer, RowForest, RowSides
from vfl.learn.splits import Split
from vfl.learn.tree import Branch, Tree
from vfl.protocols.linear.scoring import LinearPart
from vfl.protocols.trees.model import GuestModel

NUMBERS, NAMES = ("age", "power"), ("area", "brand")
LEVELS = ["a", "b", "c", None]


def features(rng: np.random.Generator, rows: int) -> dict[str, np.ndarray]:
    """Few distinct numbers, so that some are thresholds; missing values; levels that no split has."""
    made = {}
    for name in NUMBERS:
        made[name] = rng.choice([-1.0, -0.0, 0.0, 0.5, 1.0, 7.25, 1e300, np.nan], rows)
    for name in NAMES:
        made[name] = rng.choice(np.array([*LEVELS, "new"], object), rows)
    return made


def split(rng: np.random.Generator) -> Split:
    if rng.random() < 0.4:
        return Split(str(rng.choice(NAMES)), None, LEVELS[rng.integers(4)], True, False)
    threshold = None if rng.random() < 0.2 else float(rng.choice([-1.0, 0.0, 0.5, 1.0]))
    return Split(
        str(rng.choice(NUMBERS)), threshold, None, False, bool(rng.random() < 0.5), rng.random() < 0.3
    )


def tree(rng: np.random.Generator, splits: int, depth: int) -> Tree:
    """A tree of any shape whose branches are of any of the splits."""
    branches, leaves, covers, open_nodes = {}, {}, {0: int(rng.integers(1000, 5000))}, [0]
    while open_nodes:
        node = open_nodes.pop()
        level = (node + 1).bit_length() - 1
        if level < depth and splits and rng.random() < 0.8 and covers[node] > 10:
            record = int(rng.integers(splits))
            branches[node] = Branch(record % 2, record, f"c{record % 3}", 1.0)
            left = int(rng.integers(1, covers[node]))
            covers[2 * node + 1], covers[2 * node + 2] = left, covers[node] - left
            open_nodes += [2 * node + 1, 2 * node + 2]
        else:
            leaves[node] = float(rng.normal())
    return Tree(branches, leaves, covers)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32), rows=st.integers(0, 40), depth=st.integers(0, 6))
def test_trees_for_rows_are_those_for_batches(seed: int, rows: int, depth: int) -> None:
    rng = np.random.default_rng(seed)
    splits = [split(rng) for _ in range(rng.integers(0, 12))]
    table = features(rng, rows)
    planes = Sides(splits, table).left(slice(0, rows), rows)
    sides = RowSides(splits)
    bits = np.empty((rows, len(sides)), np.uint8)
    sides.fill(bits, table)
    assert np.array_equal(bits, np.unpackbits(planes, axis=1, count=rows).T)

    trees = [tree(rng, len(splits), depth) for _ in range(5)]

    def plane_of(branch: Branch) -> int:
        return branch.record

    of_batch = Forest(trees, 0.3, plane_of).scores(planes, rows)
    assert np.array_equal(RowForest(trees, 0.3, plane_of).scores(bits), of_batch)
    model = GuestModel(("guest", "host"), 0.3, tuple(trees), tuple(splits))
    explainer = Explainer(model, plane_of)
    quick = RowExplainer(explainer)
    expected = explainer.contributions(planes, rows)
    found = quick.contributions(bits)
    assert quick.base == explainer.base and list(found) == list(expected)
    assert all(np.array_equal(found[player], values) for player, values in expected.items())


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    rows=st.integers(0, 40),
    missing=st.sampled_from(["mean", "median", "level"]),
)
def test_linear_parts_for_rows_are_those_for_batches(seed: int, rows: int, missing: str) -> None:
    rng = np.random.default_rng(seed)
    fitted = 60
    table = {
        "age": np.where(rng.random(fitted) < 0.2, np.nan, rng.normal(40, 9, fitted)),
        "area": rng.choice(np.array(["a", "b", "c", None], object), fitted),
        "power": rng.lognormal(0, 2, fitted),
        "years": np.where(rng.random(fitted) < 0.1, np.nan, rng.normal(5, 2, fitted)),
    }
    rules = Rules(binned=("years",), bins=4, missing=missing, min_level_rows=3)  # type: ignore[arg-type]
    design = Design.fit(table, rules)
    coefficients = rng.normal(size=len(design.coefficients)).tolist()
    part, quick = LinearPart(design, tuple(coefficients)), RowDesign(design, coefficients)
    new = {
        "age": np.where(rng.random(rows) < 0.3, np.nan, rng.normal(40, 9, rows)),
        "area": rng.choice(np.array(["a", "b", "c", "new", "(missing)", None], object), rows),
        "power": rng.lognormal(0, 2, rows),
        "years": np.where(rng.random(rows) < 0.3, np.nan, rng.normal(5, 4, rows)),
    }
    expected = part.scores(new, rows)
    assert quick.scores(new, rows).tobytes() == expected.tobytes()
    for row in range(rows):
        one = {name: values[row : row + 1] for name, values in new.items()}
        assert quick.scores(one, 1)[0] == expected[row]
    terms = quick.terms(new, rows)
    assert list(terms) == list(part.by_column)
    for name, column in part.by_column.items():
        assert terms[name].tobytes() == column.scores({name: new[name]}, rows).tobytes()


def test_columns_that_changed_their_kind_and_numbers_too_large() -> None:
    split = Split("age", 1.0, None, False, False)
    for sides, values, said in (
        (RowSides([split]), np.array(["a"], object), "'age' is categorical and was numeric"),
        (RowSides([Split("age", None, "a", True, False)]), np.ones(1), "is numeric and was categorical"),
    ):
        with pytest.raises(ValueError, match=said):
            sides.fill(np.empty((1, 1), np.uint8), {"age": values})
    table = {"age": np.arange(30.0), "area": np.array(["a", "b"] * 15, object)}
    design = Design.fit(table, Rules(min_level_rows=2))
    quick = RowDesign(design, [1.0] * len(design.coefficients))
    with pytest.raises(ValueError, match="'age' holds a number too large"):
        quick.scores({"age": np.array([1e308]), "area": np.array(["a"], object)}, 1)
    for wrong in ({"age": np.array(["a"], object)}, {"area": np.ones(1)}):
        with pytest.raises(ValueError, match="in training"):
            quick.scores({"age": np.ones(1), "area": np.array(["a"], object), **wrong}, 1)
