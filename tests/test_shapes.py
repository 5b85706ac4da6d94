"""Trees of depth 1 and 2 as sums of shapes: the exact score, LightGBM's, tables, edits, a host's own."""

import asyncio
from collections.abc import Mapping
from dataclasses import replace

import lightgbm
import numpy as np
import pandas as pd
import pytest
from sklearn.base import clone
from small_tables import samples
from test_lightgbm import EXACT, design, features
from test_lightgbm import samples as joined

import vfl
from vfl.errors import ModelError
from vfl.learn.binning import bin_columns
from vfl.learn.losses import LogisticLoss
from vfl.learn.splits import Split
from vfl.models.shapes import (
    Shape,
    ShapeEdit,
    additive,
    centred,
    edited,
    shape_lines,
    shapes_of,
)
from vfl.protocols.common.rows import Training
from vfl.protocols.trees.model import GuestModel
from vfl.protocols.trees.training import guest_train

HERE = {"guest": ("age", "area"), "registry": ("power", "fuel"), "bureau": ("record",)}


def tables(rows: int = 600) -> dict[str, dict[str, np.ndarray]]:
    """Columns of three parties with gaps, numbers and levels, and the guest's label."""
    rng = np.random.default_rng(8)

    def gaps(values: np.ndarray, empty: object) -> np.ndarray:
        values[rng.random(rows) < 0.1] = empty
        return values

    age, power, record = rng.normal(size=(3, rows))
    area = rng.choice(["north", "south", "west"], rows).astype(object)
    fuel = rng.choice(["gas", "coal"], rows).astype(object)
    risk = age * (area == "north") + power * record + 0.5 * (fuel == "gas") - np.abs(record)
    label = (risk + rng.normal(size=rows) > 0).astype(float)
    return {
        "guest": {"age": gaps(age, np.nan), "area": gaps(area, None)},
        "registry": {"power": gaps(power, np.nan), "fuel": gaps(fuel, None)},
        "bureau": {"record": gaps(record, np.nan)},
        "label": {"label": label},
    }


def trained(depth: int, found: Mapping[str, dict[str, np.ndarray]]) -> tuple[GuestModel, np.ndarray]:
    """A model of all parties' columns, whose splits are all in one place, and every row's score."""
    params = EXACT.model_copy(
        update={
            "depth": depth,
            "trees": 40,
            "min_child_weight": 1.0,
            "subsample": 0.8,
            "reg_lambda": 1.0,
        }
    )
    label = found["label"]["label"]
    train = np.arange(len(label)) % 5 > 0
    rows = Training(label, np.ones(len(label)), train, np.zeros_like(train), LogisticLoss())
    blocks = {name: bin_columns(found[name], 16, 3) for name in HERE}
    return asyncio.run(guest_train([], blocks, rows, params))


@pytest.mark.parametrize("depth", [1, 2])
def test_the_shapes_add_up_to_the_score_of_every_row(depth: int) -> None:
    found = tables()
    model, score = trained(depth, found)
    every = {name: values for party in HERE for name, values in found[party].items()}
    sum_ = additive(model)
    assert {owner for owner, _ in sum_.parts} == {0, 1, 2}
    assert depth == 2 or all(owner == root for owner, root in sum_.parts)
    parts = {owners: centred(steps, model.splits, every) for owners, steps in sum_.parts.items()}
    assert np.abs(sum_.centre + sum(parts.values()) - score).max() < 1e-12
    # By tables: each party's shapes and pairs of its own, looked up by value.
    total = np.full(len(score), sum_.centre)
    for place, party in enumerate(HERE):
        own = shapes_of(sum_.own(place), model.splits)
        assert {one.column for one in own.shapes} <= set(HERE[party])
        looked_up = sum(one.values[places(one, every[one.column])] for one in own.shapes)
        for pair in own.pairs:
            at = [places(one, every[one.column]) for one in (pair.first, pair.second)]
            looked_up = looked_up + pair.values[at[0], at[1]]
        assert np.abs(looked_up - parts[place, place]).max() < 1e-12
        total += looked_up
    total += sum(parts[owners] for owners in parts if owners[0] != owners[1])
    assert np.abs(total - score).max() < 1e-12
    if depth == 2:
        assert any(owner != root for owner, root in parts)
        assert any(shapes_of(sum_.own(place), model.splits).pairs for place in range(3))


def places(shape: Shape, values: np.ndarray) -> np.ndarray:
    """Where the values of a column are in its table."""
    if shape.edges is None:
        named = {level: place for place, level in enumerate(shape.levels)}
        return np.array([named.get(value, len(shape.levels) - 2) for value in values])
    known = np.searchsorted(shape.edges, values.astype(float))
    return np.where(np.isnan(values.astype(float)), len(shape.edges) + 1, known)


def test_shapes_are_centred_on_the_rows_that_trained() -> None:
    found = tables()
    params = {"depth": 1, "trees": 10, "min_child_rows": 1, "reg_lambda": 0.0}
    label = found["label"]["label"]
    every = np.ones(len(label), np.bool_)
    rows = Training(label, np.ones(len(label)), every, ~every, LogisticLoss())
    blocks = {name: bin_columns(found[name], 16, 3) for name in HERE}
    model, score = asyncio.run(guest_train([], blocks, rows, EXACT.model_copy(update=params)))
    sum_ = additive(model)
    assert sum_.centre == pytest.approx(score.mean(), abs=1e-12)
    for place, party in enumerate(HERE):
        for one in shapes_of(sum_.own(place), model.splits).shapes:
            at = places(one, found[party][one.column])
            assert one.values[at].mean() == pytest.approx(0, abs=1e-12)


def test_lightgbm_has_the_same_shapes_at_depth_one() -> None:
    """Its contributions (TreeSHAP) of trees of one split are what each column adds, centred as ours."""
    frame, label = joined()
    block = bin_columns(features(frame), EXACT.max_bins, EXACT.min_bin_rows)
    params = EXACT.model_copy(update={"depth": 1})
    every = np.ones(len(label), np.bool_)
    rows = Training(label, np.ones(len(label)), every, ~every, LogisticLoss())
    model, score = asyncio.run(guest_train([], {"guest": block}, rows, params))
    x = design(block)
    data = lightgbm.Dataset(
        x,
        label,
        params={
            "max_bin": params.max_bins + 2,
            "min_data_in_bin": 1,
            "bin_construct_sample_cnt": len(label),
            "feature_pre_filter": False,
            "enable_bundle": False,
            "verbose": -1,
        },
    )
    booster = lightgbm.train(
        {
            "objective": "binary",
            "num_leaves": 2,
            "max_depth": 1,
            "learning_rate": params.learning_rate,
            "lambda_l2": 0.0,
            "min_sum_hessian_in_leaf": params.min_child_weight,
            "min_data_in_leaf": 1,
            "num_threads": 1,
            "deterministic": True,
            "force_col_wise": True,
            "verbose": -1,
        },
        data,
        params.trees,
    )
    theirs = booster.predict(x, pred_contrib=True)
    sum_ = additive(model)
    # float32 gradients: 50 trees add up some 1e-8 each.
    assert np.abs(sum_.centre - theirs[:, -1]).max() < 1e-5
    assert np.abs(score - theirs.sum(axis=1)).max() < 1e-5
    ours = {one.column: one for one in shapes_of(sum_.own(0), model.splits).shapes}
    assert len(ours) >= 4
    first = 0
    for column in block.columns:
        width = 1 if column.edges is not None else len(column.categories) + column.has_missing
        contribution = theirs[:, first : first + width].sum(axis=1)
        first += width
        shape = ours.get(column.name)
        added = 0.0 if shape is None else shape.values[places(shape, features(frame)[column.name])]
        assert np.abs(contribution - added).max() < 1e-5, column.name


def test_edits_move_the_score_where_they_say() -> None:
    found = tables()
    model, score = trained(1, found)
    own = found["guest"]
    splits = {split.column for split in model.splits}
    assert {"age", "area"} <= splits
    edits = [
        ShapeEdit("age", 0.5, above=0.25, up_to=1.0),
        ShapeEdit("age", -0.125, up_to=-1.0),
        ShapeEdit("age", 2.0, above=1.5),
        ShapeEdit("age", 0.25, missing=True),
        ShapeEdit("area", 0.75, level="west"),
        ShapeEdit("area", -1.0, missing=True),
    ]
    new = edited(model, edits, own)
    new.check()
    age, area = own["age"], own["area"]
    moved = np.zeros(len(score))
    moved += 0.5 * ((age > 0.25) & (age <= 1.0)) - 0.125 * (age <= -1.0) + 2.0 * (age > 1.5)
    moved += 0.25 * np.isnan(age) + 0.75 * (area == "west") - 1.0 * np.array([a is None for a in area])
    every = {name: values for party in HERE for name, values in found[party].items()}
    sum_ = additive(new)
    total = sum_.centre + sum(centred(steps, new.splits, every) for steps in sum_.parts.values())
    assert np.abs(total - score - moved).max() < 1e-12
    assert [split.column for split in new.splits[len(model.splits) :]] == ["age"] * 5 + ["area"] * 2
    # Without rows to count, nothing is centred: the sum is the same.
    plain = additive(edited(model, edits, None))
    total = plain.centre + sum(centred(steps, new.splits, every) for steps in plain.parts.values())
    assert np.abs(total - score - moved).max() < 1e-12
    with pytest.raises(KeyError):
        edited(model, [ShapeEdit("power_kw", 1.0, up_to=1.0)], own)


def test_deeper_trees_are_no_shapes() -> None:
    model, _ = trained(3, tables())
    with pytest.raises(ModelError, match="train with depth = 1 or depth = 2"):
        additive(model)


def test_several_classes_are_no_shapes() -> None:
    model, _ = trained(1, tables())
    with pytest.raises(ModelError, match="tells several classes apart"):
        additive(replace(model, class_starts=(0.0, 0.0, 0.0)))


def test_what_a_place_adds_may_be_of_any_size() -> None:
    """Where models add, in the label's unit: a factor that no float has is infinite."""
    shape = Shape("power", np.array([1.0]), (), np.array([-5000.0, 709.0, 5000.0]))
    assert [line[-1] for line in shape_lines(shape)] == [0.0, np.exp(709.0), np.inf]


def test_shapes_of_an_estimator_add_up() -> None:
    insurer, label, hosts = samples()
    ids = {"guest": "plate", "registry": "registration", "bureau": "plate_no"}
    model = vfl.SecureBoost(hosts=hosts, id=ids, trees=12, depth=1, min_child_rows=20).fit(
        insurer, label
    )
    assert not hasattr(clone(model).set_params(depth=3, trees=2).fit(insurer, label), "shapes_")
    table = model.shapes_
    assert set(table["party"]) == {"guest", "registry", "bureau"}
    columns = {name: tuple(part["column"].unique()) for name, part in table.groupby("party")}
    used = {(party, column) for party, column, *_ in model.model_.importance()}
    assert {(party, column) for party in columns for column in columns[party]} == used
    explained = model.model_.start + sum(
        tree.leaves[node] * tree.covers[node] / tree.covers[0]
        for tree in model.model_.trees
        for node in (1, 2)
    )
    assert table.attrs["centre"] == pytest.approx(explained, abs=1e-12)
    assert isinstance(table["value"].iloc[0], float) and pd.notna(table["value"]).all()
    assert isinstance(model.halves_["bureau"].splits[0], Split)
