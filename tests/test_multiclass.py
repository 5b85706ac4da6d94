"""Trees of several classes: LightGBM's multiclass, whoever has the columns, whatever they are under.

That federated training equals pooled training for any settings, under both encryptions, is in
test_boost.py and test_lattice_boost.py, of whose objectives this is one.
"""

import asyncio

import numpy as np
import pandas as pd
import pytest
import test_lattice_boost
from scipy.special import softmax
from sklearn.metrics import log_loss
from test_boost import make_job, resolved
from test_lightgbm import EXACT, features, lightgbm_scores, samples

from vfl import SecureBoost, load
from vfl.errors import InputError
from vfl.learn.binning import bin_columns
from vfl.learn.losses import BadLabel, MulticlassLoss, loss_of
from vfl.learn.params import BoostParams
from vfl.protocols.common.checkpoints import Checkpoints
from vfl.protocols.common.course import GuestCourse
from vfl.protocols.common.rows import Training
from vfl.protocols.trees.training import guest_train

SMALL = BoostParams(trees=3, depth=3, max_bins=8, min_child_rows=5)


# The loss.


def rows_of(count: int, classes: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Scores, labels and weights."""
    rng = np.random.default_rng(classes)
    label = rng.permutation(np.arange(count) % classes).astype(float)
    return rng.normal(0, 3, (count, classes)), label, rng.uniform(0.1, 5, count)


@pytest.mark.parametrize("classes", [3, 7, 20])
def test_the_loss_is_scikit_learns(classes):
    loss, (score, label, weight) = MulticlassLoss(classes), rows_of(200, classes)
    assert np.allclose(loss.predict(score), softmax(score, axis=1), rtol=1e-13, atol=0)
    expected = log_loss(label, softmax(score, axis=1), sample_weight=weight)
    assert loss.mean(score, label, weight) == pytest.approx(expected, rel=1e-12)
    assert np.isfinite(loss.half_deviance(score * 1e4, label)).all()


def test_gradients_are_differences_of_the_loss():
    loss, (score, label, weight) = MulticlassLoss(4), rows_of(60, 4)
    gradient, hessian = loss.gradients(score, label, weight)
    step = 1e-4
    for number in range(4):
        move = step * (np.arange(4) == number)
        up, here, down = (loss.losses(score + by, label, weight) for by in (move, 0 * move, -move))
        # A central difference is off by some step^2; rounding adds 1e-16 / step^2 of a loss of 100.
        assert np.abs((up - down) / (2 * step) - gradient[:, number]).max() < 1e-7 * 60
        assert np.abs((up - 2 * here + down) / step**2 - hessian[:, number]).max() < 1e-5
    damped = loss.damped_gradients(score, label, weight)
    assert np.array_equal(damped[0], gradient) and np.allclose(damped[1], hessian * 4 / 3)


def test_scores_start_as_the_shares_of_the_classes():
    loss, (_, label, weight) = MulticlassLoss(3), rows_of(90, 3)
    shares = np.exp(loss.class_starts(label, weight))
    assert np.allclose(shares, [weight[label == k].sum() / weight.sum() for k in range(3)])
    assert shares.sum() == pytest.approx(1)


def test_labels_that_are_none():
    loss = MulticlassLoss(3)
    loss.check(np.array([0.0, 2, 1, 1]))
    loss.check_held_out(np.array([0.0, 2]))
    with pytest.raises(BadLabel, match="has no row of 1 of its 3 classes"):
        loss.check(np.array([0.0, 2, 2]))
    for strange in (-1.0, 3.0, 0.5, np.nan, np.inf):
        with pytest.raises(BadLabel, match="must be one of 3 classes but is not in 1 row"):
            loss.check_held_out(np.array([0.0, 1, strange]))


# Training.


def of_claims(classes: int) -> tuple[pd.DataFrame, np.ndarray]:
    """The sample's policies, and a class of each that depends on the columns."""
    frame, claim = samples()
    rng = np.random.default_rng(1)
    power = frame["power_kw"].fillna(80).to_numpy()
    signal = claim + power / 60 + rng.logistic(0, 0.7, len(claim))
    return frame, np.digitize(signal, np.quantile(signal, np.arange(1, classes) / classes)).astype(float)


@pytest.mark.parametrize("classes", [3, 5])
def test_same_trees_as_lightgbm(classes):
    """Where it takes no short cuts (test_lightgbm.py). float32 gradients: measured 3e-8."""
    frame, label = of_claims(classes)
    params = EXACT.model_copy(update={"classes": classes, "trees": 12})
    block = bin_columns(features(frame), params.max_bins, params.min_bin_rows)
    train = np.random.default_rng(0).random(len(label)) >= 0.25
    loss = loss_of("multiclass", classes=classes)
    rows = Training(label, np.ones(len(label)), train, np.zeros_like(train), loss)
    model, ours = asyncio.run(guest_train([], {"guest": block}, rows, params))
    theirs = lightgbm_scores(block, label, train, params, "multiclass", others={"num_class": classes})
    assert len(model.trees) == 12 * classes and ours.shape == (len(label), classes)
    assert np.abs(ours - theirs)[train].max() < 1e-6


@pytest.mark.parametrize(
    "others",
    [
        {"subsample": 0.5, "colsample": 0.5},
        {"goss_top": 0.3, "goss_other": 0.2, "learning_rate": 1.0},
        {"guest_trees": 1},
        {"validation_share": 0.3, "early_stopping_rounds": 1, "trees": 8, "learning_rate": 1.0},
    ],
)
def test_federated_equals_pooled_by_rounds(others):
    for encryption in ("paillier", "lattice"):
        params = SMALL.model_copy(update={**others, "encryption": encryption})
        job = make_job(150, 2, 3, params, objective="multiclass")
        expected, scores = job.oracle()
        by_lattice = encryption == "lattice"
        model, found, halves = test_lattice_boost.federated(job) if by_lattice else job.federated()
        assert resolved(model, halves) == resolved(expected, [])
        assert np.array_equal(found, scores) and found.shape == (150, 3)
        if "guest_trees" in others:
            parties = [{b.party for b in tree.branches.values()} for tree in model.trees]
            assert all(of == {0} for of in parties[:3]) and all(of - {0} for of in parties[3:])
        if "early_stopping_rounds" in others:
            assert len(model.trees) % 3 == 0 and len(model.trees) < 24


@pytest.mark.usefixtures("small_batches")
def test_rows_are_drawn_once_a_round_and_columns_for_each_tree():
    params = SMALL.model_copy(update={"subsample": 0.5})
    model, _ = make_job(150, 1, 3, params, objective="multiclass").oracle()
    covers = [tree.covers[0] for tree in model.trees]
    assert len(set(covers)) == 1  # as many
    left = [tree.covers.get(1) for tree in model.trees]
    assert len(set(left)) > 1  # of other splits


@pytest.mark.parametrize("done", range(1, 9))
def test_a_training_goes_on_within_a_round(done):
    params = SMALL.model_copy(update={"subsample": 0.7, "validation_share": 0.2})
    job = make_job(150, 0, 3, params, objective="multiclass")
    states = []
    whole = GuestCourse(checkpoints=Checkpoints(write=states.append))
    expected = asyncio.run(guest_train([], job.blocks, job.rows, job.params, course=whole))
    last = next(state for state in states if state.done == done)
    assert (last.round_score is None) == (done % 3 == 0)
    again = GuestCourse(checkpoints=Checkpoints(last))
    found = asyncio.run(guest_train([], job.blocks, job.rows, job.params, course=again))
    assert found[0] == expected[0] and np.array_equal(found[1], expected[1])


# Estimators.


def tables(rows: int = 400):
    """A guest's table, a host's, and a class of each row."""
    rng = np.random.default_rng(0)
    ids = np.arange(rows).astype(str)
    guest = pd.DataFrame({"id": ids, "x": rng.normal(size=rows)})
    host = pd.DataFrame({"id": ids, "z": rng.normal(size=rows), "c": rng.choice(["u", "v"], rows)})
    signal = guest.x + host.z + rng.normal(size=rows) / 2
    return guest, host, np.array(["low", "middle", "high"], object)[np.digitize(signal, [-0.8, 0.8])]


@pytest.mark.usefixtures("small_batches")
@pytest.mark.parametrize("encryption", ["paillier", "lattice"])
def test_an_estimator_of_several_classes(encryption, tmp_path):
    guest, host, y = tables()
    given = {"hosts": {"h": host}, "id": "id", "trees": 3, "depth": 2, "encryption": encryption}
    plain = SecureBoost(**given).fit(guest, y)
    apart = SecureBoost(**given, engine="protocol").fit(guest, y)
    found = plain.predict_proba(guest)
    assert plain.classes_.tolist() == ["high", "low", "middle"] and found.shape == (400, 3)
    assert np.allclose(found.sum(axis=1), 1)
    assert np.array_equal(found, apart.predict_proba(guest))
    assert np.array_equal(plain.predict(guest), plain.classes_[found.argmax(axis=1)])
    assert plain.score(guest, y) > 0.6 and len(plain.model_.trees) == 9
    empty = host.iloc[:0]
    assert plain.predict_proba(guest.iloc[:5], hosts={"h": empty}).shape == (5, 3)
    assert plain.predict_proba(guest.iloc[:0]).shape == (0, 3)
    plain.save(tmp_path / "model")
    again = load(tmp_path / "model")
    again.hosts = {"h": host}
    assert np.array_equal(again.predict_proba(guest), found)
    assert again.classes_.tolist() == plain.classes_.tolist()


def test_labels_that_an_estimator_refuses():
    guest, host, y = tables()
    model = SecureBoost(hosts={"h": host}, id="id", trees=1)
    many = np.arange(400) % 21
    with pytest.raises(InputError, match="y has 21 classes: SecureBoost takes 2 to 20 classes"):
        model.fit(guest, many)
    with pytest.raises(InputError, match="y has only one class"):
        model.fit(guest, np.zeros(400, int))
    with pytest.raises(InputError, match="y is missing in 1 row"):
        model.fit(guest, np.where(np.arange(400) == 3, None, y))
    rare = np.where(np.arange(400) == 3, "rare", y)
    fewer = host[host["id"] != "3"]
    with pytest.raises(InputError, match="has no row of 1 of its 4 classes"):
        model.fit(guest, rare, hosts={"h": fewer})


def test_what_several_classes_do_not_have():
    guest, host, y = tables()
    model = SecureBoost(hosts={"h": host}, id="id", trees=1).fit(guest, y)
    with pytest.raises(ValueError, match="oneway is for two classes"):
        model.oneway(guest, y, by="h:c")
    with pytest.raises(ValueError, match="worth is not for three classes or more"):
        model.worth(guest, y)
    with pytest.raises(ValueError, match="init_model is not for several classes"):
        SecureBoost(hosts={"h": host}, id="id", trees=1, init_model=model).fit(guest, y)
