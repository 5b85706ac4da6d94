"""Trees of several classes: LightGBM's multiclass, whoever has the columns, whatever they are under.

That federated training equals pooled training for any settings, under both encryptions, is in
test_boost.py and test_lattice_boost.py, of whose objectives this is one.
"""

import asyncio
import contextlib
import dataclasses
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import test_lattice_boost
from pydantic import ValidationError
from quotes import made, online
from scipy.special import softmax
from sklearn.metrics import (
    accuracy_score,
    confusion_matrix,
    log_loss,
    precision_score,
    recall_score,
    roc_auc_score,
)
from test_boost import make_job, resolved
from test_lightgbm import EXACT, features, lightgbm_scores, samples

from vfl import SecureBoost, load
from vfl.errors import InputError, ModelError, PeerError
from vfl.leakage.estimate import estimate
from vfl.learn.binning import bin_columns
from vfl.learn.class_metrics import by_class, class_metrics, confusion, share_loss
from vfl.learn.losses import BadLabel, MulticlassLoss, loss_of
from vfl.learn.params import BoostParams
from vfl.models.kind import OwnScores, PartyColumns
from vfl.models.kinds import score_from_parts
from vfl.models.parts import OwnColumns
from vfl.models.trees import Trees
from vfl.net.peer import MemoryPeer
from vfl.party.config import Job
from vfl.party.policy import broken_by_job
from vfl.party.policy_section import PolicySection
from vfl.party.sections import DataSection
from vfl.protocols.common.checkpoints import Checkpoints
from vfl.protocols.common.clock import as_measured
from vfl.protocols.common.course import GuestCourse, HostCourse
from vfl.protocols.common.rows import Training
from vfl.protocols.trees.paillier_messages import TreeStart
from vfl.protocols.trees.quantisation import lattice_shape
from vfl.protocols.trees.records import Records
from vfl.protocols.trees.training import guest_train

SMALL = BoostParams(trees=3, depth=2, max_bins=8, min_child_rows=5)


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
        job = make_job(100, 1, 3, params, objective="multiclass")
        expected, scores = job.oracle()
        by_lattice = encryption == "lattice"
        model, found, halves = test_lattice_boost.federated(job) if by_lattice else job.federated()
        assert resolved(model, halves) == resolved(expected, [])
        assert np.array_equal(found, scores) and found.shape == (100, 3)
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


def test_a_host_takes_part_in_no_more_trees_than_all_rounds_have():
    _, own = MemoryPeer.pair("guest", "host")
    records = Records(
        own, SMALL.model_copy(update={"classes": 3, "guest_trees": 1}), str, HostCourse(), as_measured
    )
    for tree, admitted in ((2, False), (3, True), (8, True), (9, False)):
        with contextlib.nullcontext() if admitted else pytest.raises(PeerError, match="out of turn"):
            records.begin(tree, TreeStart)


@pytest.mark.parametrize("done", range(1, 9))
def test_a_training_goes_on_within_a_round(done):
    stopping = {"validation_share": 0.2, "early_stopping_rounds": 9}  # which keeps the best so far
    params = SMALL.model_copy(update={"subsample": 0.7, **stopping})
    job = make_job(150, 0, 3, params, objective="multiclass")
    states = []
    whole = GuestCourse(checkpoints=Checkpoints(write=states.append))
    expected = asyncio.run(guest_train([], job.blocks, job.rows, job.params, course=whole))
    last = next(state for state in states if state.done == done)
    assert (last.round_score is None) == (done % 3 == 0)
    again = GuestCourse(checkpoints=Checkpoints(last))
    found = asyncio.run(guest_train([], job.blocks, job.rows, job.params, course=again))
    assert found[0] == expected[0] and np.array_equal(found[1], expected[1])


# Scoring.


def test_scores_by_parts_are_those_of_the_batch():
    """What sealed directories hold."""
    job = make_job(150, 2, 3, SMALL, objective="multiclass")
    parties = [PartyColumns(name, name, own) for name, own in job.features.items()]
    fitted = asyncio.run(Trees(job.params).train_pooled(parties, job.rows, lambda step: None))
    model, every = fitted.model, slice(0, 150)
    parts = {}
    for party in parties[1:]:
        packer = Trees.packer(fitted.halves[party.party], party.features, OwnScores(np.empty(0)), False)
        parts[party.party] = packer.layout, [row.tobytes() for row in packer.pack(every)]
    own = OwnColumns("rows", parties[0].features, 150)
    found = score_from_parts(model, own, parts)
    assert np.array_equal(found.scores, fitted.score) and found.contributions is None
    with pytest.raises(ModelError, match="a model of several classes cannot explain scores yet"):
        score_from_parts(model, own, parts, explain=True)


def test_a_model_of_classes_is_not_served(tmp_path: Path):
    service, _, _ = online(tmp_path, [made(label="multiclass")])
    with pytest.raises(ModelError, match="tells several classes apart, and vfl online answers with one"):
        asyncio.run(service.begin())


def test_a_half_that_no_training_could_have_made():
    model, _ = make_job(60, 0, 3, SMALL, objective="multiclass").oracle()
    Trees.check_half(model)
    with pytest.raises(ValueError, match="its last round of trees is not whole"):
        Trees.check_half(dataclasses.replace(model, trees=model.trees[:-1]))


# Measures.


def test_measures_are_scikit_learns():
    rng = np.random.default_rng(0)
    label, weight = rng.integers(0, 4, 500).astype(float), rng.uniform(0.1, 3, 500)
    own = 2 * (label[:, np.newaxis] == np.arange(4))
    probability = softmax(rng.normal(size=(500, 4)) + own, axis=1)
    found = class_metrics(label, probability, weight)
    assert found["log_loss"] == pytest.approx(log_loss(label, probability, sample_weight=weight))
    likeliest = probability.argmax(axis=1)
    assert found["accuracy"] == pytest.approx(accuracy_score(label, likeliest, sample_weight=weight))
    aucs = roc_auc_score(label, probability, sample_weight=weight, multi_class="ovr", average="macro")
    assert found["auc_ovr"] == pytest.approx(aucs, abs=1e-3)  # curves of 500 points at most
    assert np.array_equal(confusion(label, probability), confusion_matrix(label, likeliest))
    told = by_class(label, probability, weight)
    recall = recall_score(label, likeliest, sample_weight=weight, average=None)
    precision = precision_score(label, likeliest, sample_weight=weight, average=None)
    assert [one.recall for one in told] == pytest.approx([*recall])
    assert [one.precision for one in told] == pytest.approx([*precision])
    assert sum(one.rows for one in told) == 500
    assert sum(one.share for one in told) == pytest.approx(sum(one.expected for one in told))
    shares = np.array([weight[label == k].sum() for k in range(4)]) / weight.sum()
    constant = np.broadcast_to(shares, (500, 4))
    expected = log_loss(label, constant, sample_weight=weight)
    assert share_loss(label, weight, 4) == pytest.approx(expected)


# Job files.


def job_of(settings: dict[str, Any] | None = None, **said: Any) -> dict[str, Any]:
    own = {"name": "a", "purpose": "p", "model": "secureboost", "objective": "multiclass", **said}
    return {"job": own, "secureboost": settings if settings is not None else {"classes": 3}}


@pytest.mark.parametrize(
    ("job", "line"),
    [
        (job_of({}), 'objective = "multiclass" needs classes in \\[secureboost\\]: how many'),
        (job_of({"classes": 2}), "greater than or equal to 3"),
        (job_of({"classes": 21}), "less than or equal to 20"),
        (job_of(objective="binary"), 'classes is for objective = "multiclass": remove the line'),
        (job_of(exposure=True), "exposure is for counts"),
        (job_of(offset=True), "offset is for one score a row"),
        (job_of({"classes": 3, "init_model": "a-1"}), "init_model is not for several classes"),
        (
            job_of({}, partition="rows") | {"columns": {"x": {"type": "number"}}},
            'objective = "multiclass" is not for partition = "rows"',
        ),
        (
            job_of(partition="rows") | {"columns": {"x": {"type": "number"}}},
            'classes is not for partition = "rows"',
        ),
    ],
)
def test_settings_that_do_not_go_together(job: dict[str, Any], line: str):
    with pytest.raises(ValidationError, match=line):
        Job.model_validate(job)


def test_a_job_of_classes():
    job = Job.model_validate(job_of())
    assert job.loss == MulticlassLoss(3)
    assert (job.secureboost.round, job.secureboost.most_trees) == (3, 150)
    assert b"classes" not in Job.model_validate(job_of({}, objective="squared")).canonical
    data = DataSection.model_validate({"path": "t.csv", "id": "i", "label": "c", "offset": "o"})
    assert job.uses(data) == {}


def test_rules_and_budgets_count_the_trees_of_all_classes():
    job = Job.model_validate(job_of({"classes": 3, "trees": 2}))
    policy = PolicySection.model_validate({"max_trees": 5})
    (line,) = broken_by_job(policy, job, None, date(2026, 1, 1))
    assert "6 trees (trees = 2, each of which is of 3 classes) break rule max_trees = 5" in line
    one, three = BoostParams(trees=2), job.secureboost
    assert estimate(1000, three).equations == 3 * estimate(1000, one).equations
    assert estimate(1000, three, done=5).joint == 1
    assert lattice_shape(1000, three).vectors == 3 * lattice_shape(1000, one).vectors


# Estimators.


def tables(rows: int = 400):
    """A guest's table, a host's, and a class of each row."""
    rng = np.random.default_rng(0)
    ids = np.arange(rows).astype(str)
    guest = pd.DataFrame({"id": ids, "x": rng.normal(size=rows)})
    host = pd.DataFrame({"id": ids, "z": rng.normal(size=rows), "c": rng.choice(["u", "v"], rows)})
    signal = guest.x + host.z + rng.normal(size=rows) / 2
    return guest, host, np.array(["low", "middle", "high"], object)[np.digitize(signal, [-0.8, 0.8])]


@pytest.mark.usefixtures("small_batches", "quick_key")
@pytest.mark.parametrize("encryption", ["paillier", "lattice"])
def test_an_estimator_of_several_classes(encryption, tmp_path):
    guest, host, y = tables(200)
    given = {"hosts": {"h": host}, "id": "id", "trees": 3, "depth": 2, "encryption": encryption}
    plain = SecureBoost(**given).fit(guest, y)
    apart = SecureBoost(**given, engine="protocol").fit(guest, y)
    found = plain.predict_proba(guest)
    assert plain.classes_.tolist() == ["high", "low", "middle"] and found.shape == (200, 3)
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


@pytest.mark.parametrize(
    "settings",
    [{"max_leaves": 4}, {"max_leaves": 5, "ordered_categories": "all"}],
    ids=["best-first", "best-first, ordered categories"],
)
def test_classes_with_other_ways_to_grow(settings):
    rng = np.random.default_rng(0)
    number, letters = rng.normal(size=300), rng.choice(np.array(list("abcdefgh")), 300)
    guest = pd.DataFrame({"number": number, "letter": letters})
    host = pd.DataFrame({"zone": rng.choice(np.array(list("pqrstuv")), 300), "size": number**2})
    label = np.select([number + (letters < "d") > 0.8, host["zone"] < "r"], ["big", "small"], "none")
    models = [
        SecureBoost(hosts={"host": host}, trees=2, min_child_rows=10, engine=engine, **settings)
        for engine in ("plain", "protocol")
    ]
    plain, federated = (model.fit(guest, label).predict_proba(guest) for model in models)
    np.testing.assert_array_equal(plain, federated)
    assert plain.shape == (300, 3) and len(models[0].model_.trees) == 6


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
