"""Categorical columns that are split by sets of categories, in the order of their gradients."""

import asyncio

import lightgbm
import numpy as np
import pytest
import test_hidden_trees
import test_lattice_boost
from test_boost import Job, assert_same_model, make_job

from vfl.learn.binning import bin_columns
from vfl.learn.losses import loss_of
from vfl.learn.params import BoostParams
from vfl.protocols.common.rows import Training
from vfl.protocols.trees.training import guest_train

pytestmark = pytest.mark.usefixtures("quick_key", "small_batches")


def table_of(rows: int, levels: int, seed: int):
    """A category of many levels with an effect each, of other sizes, and two numbers."""
    rng = np.random.default_rng(seed)
    weights = rng.uniform(0.8, 1.2, size=levels)
    code = rng.choice(levels, rows, p=weights / weights.sum())
    effect = rng.normal(size=levels)
    numbers = rng.normal(size=(2, rows))
    score = effect[code] + numbers[0] * (code % 3 == 0) + 0.3 * numbers[1]
    label = (score + rng.logistic(size=rows) > 0).astype(float)
    return code, numbers, label


@pytest.mark.parametrize(("levels", "smooth", "leaves"), [(30, 1.0, None), (60, 1.0, 12)])
def test_same_trees_as_lightgbm(levels, smooth, leaves):
    """Its categorical_feature. min_data_per_group is made neutral; cat_smooth is also a least number of
    rows of a category there, which min_child_rows is here; cat_l2 also lowers weights of leaves there.
    It forgets the rarest category if that has less than a hundredth of the rows: here none has."""
    code, numbers, label = table_of(6000, levels, 3)
    params = BoostParams(
        trees=10,
        depth=4 if leaves is None else 8,
        max_leaves=leaves,
        reg_lambda=0.0,
        min_child_rows=int(smooth),
        min_child_weight=5.0,
        max_bins=100,
        min_bin_rows=1,
        ordered_categories="guest",
        cat_smooth=smooth,
        cat_l2=0.0,
        max_cat_threshold=16,
    )
    names = np.array([f"c{i:03}" for i in range(levels)], object)
    features = {"category": names[code], "a": numbers[0], "b": numbers[1]}
    block = bin_columns(features, params.max_bins, 1)
    assert len(block.columns[0].categories) == levels
    train = np.ones(len(label), np.bool_)
    rows = Training(label, np.ones(len(label)), train, ~train, loss_of("binary", 1.5))
    _, ours = asyncio.run(guest_train([], {"guest": block}, rows, params))
    x = np.column_stack([block.codes[0], block.codes[1], block.codes[2]]).astype(float)
    own = {"max_bin": 255, "min_data_in_bin": 1, "feature_pre_filter": False, "verbose": -1}
    data = lightgbm.Dataset(x, label, categorical_feature=[0], params={**own, "enable_bundle": False})
    settings = {
        "objective": "binary",
        "num_leaves": leaves or 2**params.depth,
        "max_depth": params.depth,
        "learning_rate": params.learning_rate,
        "lambda_l2": 0.0,
        "min_sum_hessian_in_leaf": params.min_child_weight,
        "min_data_in_leaf": params.min_child_rows,
        "min_data_per_group": 1,
        "cat_smooth": smooth,
        "cat_l2": 0.0,
        "max_cat_threshold": 16,
        "max_cat_to_onehot": 4,
        "num_threads": 1,
        "deterministic": True,
        "force_col_wise": True,
        "verbose": -1,
    }
    theirs = lightgbm.train(settings, data, params.trees).predict(x, raw_score=True)
    assert np.std(ours) > 0.2
    assert np.abs(ours - theirs).max() < 1e-5


def job_of(whose: str | None, seed: int = 3, hosts: int = 2, rows: int = 400, **others) -> Job:
    """With a category of twelve levels at each party, some of them missing."""
    given = {"trees": 3, "depth": 3, "max_bins": 16, "min_child_rows": 3, "min_bin_rows": 1, **others}
    if whose is not None:
        given |= {"ordered_categories": whose, "cat_smooth": 1.0, "cat_l2": 0.5}
    job = make_job(rows, hosts, seed, BoostParams(**given))
    rng = np.random.default_rng(seed)
    effect = np.zeros(rows)
    for party, columns in enumerate(job.features.values()):
        code = rng.integers(0, 12, rows)
        effect += rng.normal(size=12)[code]
        levels = np.array([f"level {i}" for i in range(12)], object)[code]
        levels[rng.random(rows) < 0.1] = None
        columns[f"levels{party}"] = levels
    job.rows.label[:] = effect + rng.logistic(size=rows) > 0
    return job


def sets_of(splits) -> list:
    return [split for split in splits if isinstance(split.category, tuple)]


@pytest.mark.parametrize("leaves", [None, 6])
def test_federated_equals_pooled_bit_for_bit(leaves):
    job = job_of("all", max_leaves=leaves)
    assert_same_model(job)
    *_, halves = job.federated()
    assert all(sets_of(half.splits) for half in halves)
    assert any(None in split.named for half in halves for split in sets_of(half.splits))


@pytest.mark.parametrize("encryption", ["paillier", "lattice"])
@pytest.mark.parametrize("sums", ["open", "hidden"])
def test_the_guests_own_columns_under_any_engine(encryption, sums):
    hidden = {"coordinator": "notary"} if sums == "hidden" else {}
    job = job_of("guest", encryption=encryption, sums=sums, **hidden)
    if sums == "hidden":
        test_hidden_trees.assert_same_model(job)
        model, _, halves, _ = test_hidden_trees.federated(job)
    elif encryption == "lattice":
        test_lattice_boost.assert_same_model(job)
        model, _, halves = test_lattice_boost.federated(job)
    else:
        assert_same_model(job)
        model, _, halves = job.federated()
    assert sets_of(model.splits) and not any(sets_of(half.splits) for half in halves)
