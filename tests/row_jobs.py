"""Trees over rows of several clients, and the same rows in one place."""

import asyncio
from dataclasses import dataclass, field

import numpy as np
import pytest
from plain_totals import with_totals

from vfl.learn.binning import Monotone
from vfl.learn.losses import loss_of
from vfl.learn.params import BoostParams
from vfl.protocols.common.checkpoints import Checkpoints
from vfl.protocols.common.course import GuestCourse
from vfl.protocols.common.rows import Training
from vfl.protocols.pooled.bins import Schema, bin_rows, common_bins
from vfl.protocols.pooled.totals import Totals
from vfl.protocols.pooled.trees import POOLED, draw_own_rows, grow_client
from vfl.protocols.trees.grower import Pooled

OBJECTIVES = ["binary", "poisson", "gamma", "tweedie", "squared"]
LEVELS = ("a", "b", "c")


@dataclass
class Job:
    """All rows in one place, and which of them each client has."""

    features: dict[str, np.ndarray]
    rows: Training
    params: BoostParams
    clients: dict[str, np.ndarray]
    monotone: dict[str, Monotone] = field(default_factory=dict)

    @property
    def schema(self) -> Schema:
        levels = {"category": LEVELS} if "category" in self.features else {}
        return Schema(tuple(self.features), levels, self.monotone)

    def features_of(self, name: str) -> dict[str, np.ndarray]:
        return {column: values[self.clients[name]] for column, values in self.features.items()}

    def rows_of(self, name: str) -> Training:
        own, rows = self.clients[name], self.rows
        offset = None if rows.offset is None else rows.offset[own]
        arrays = (rows.label, rows.weight, rows.train, rows.validation)
        return Training(*(values[own] for values in arrays), rows.loss, offset)

    def role(self, adder, **course):
        name = adder.name
        own = self.features_of(name), self.rows_of(name)
        return grow_client(adder, *own, self.schema, self.params, **course)

    def federated(self, progress=lambda done: None):
        """The model, which is the same at all clients, and the score of every row. `progress`: of the
        last client."""
        *_, last = self.clients

        def role(adder):
            course = GuestCourse(progress) if adder.name == last else GuestCourse()
            return self.role(adder, course=course)

        outcomes, _ = with_totals([*self.clients], role)
        score = np.full(len(self.rows.label), np.nan)
        for (_, own), name in zip(outcomes, self.clients, strict=True):
            score[self.clients[name]] = own
        assert all(model == outcomes[0][0] for model, _ in outcomes)
        return outcomes[0][0], score

    def oracle(self, start: float, progress):
        """The guest alone with all rows, in the clients' bins, with their constant and draws."""

        def bins(adder):
            return common_bins(Totals(adder), self.features, self.schema, self.params)

        (common,), _ = with_totals(["all"], bins)
        block = bin_rows(common.columns, self.features)
        grower = _Oracle({POOLED: block}, self.rows, self.params)
        grower.job, grower.constant = self, start
        return asyncio.run(grower.train(progress, Checkpoints()))


class _Oracle(Pooled):
    """All rows in one place; each client's are drawn as it draws them."""

    job: Job
    constant: float

    def start(self):
        offset = 0.0 if self.rows.offset is None else self.rows.offset
        return self.constant, self.constant + np.zeros(len(self.rows.label)) + offset

    def draw(self, train, number, size):
        drawn = np.zeros(len(train), np.bool_)
        for name, own in self.job.clients.items():
            drawn[own] = draw_own_rows(train[own], self.params, number, name)
        return drawn, np.ones(len(train))


def make_job(seed: int, rows: int, objective: str, params: BoostParams, clients: int = 3) -> Job:
    """Numbers, ties and categories with missing values; rows at clients by chance or by a number."""
    rng = np.random.default_rng(seed)
    number, ties = rng.normal(size=rows), rng.integers(0, 6, rows).astype(float)
    category = rng.choice(np.array([*LEVELS, "unknown", None], object), rows)
    signal = number + 0.5 * (ties > 3) + (category == "b")
    number[rng.random(rows) < 0.1] = np.nan
    features = {"number": number, "ties": ties, "category": category, "noise": rng.random(rows)}
    loss = loss_of(objective, params.tweedie_power)
    held = rng.random(rows) < 0.1
    validation = ~held & (rng.random(rows) < params.validation_share)
    order = rng.permutation(rows) if seed % 2 else np.argsort(features["noise"])
    parts = np.split(order, np.sort(rng.integers(0, rows, clients - 1)))  # some may be empty
    offset = np.log(rng.uniform(0.05, 2, rows)) if seed % 3 else None
    training = Training(
        labels(objective, signal, rng),
        rng.uniform(0.5, 2, rows),
        ~validation & ~held,
        validation,
        loss,
        offset,
    )
    return Job(features, training, params, {f"c{i}": np.sort(own) for i, own in enumerate(parts)})


def labels(objective, signal, rng):
    if objective == "binary":
        return (signal + rng.logistic(size=len(signal)) > 0.5).astype(float)
    if objective == "squared":
        return 1000 * (signal + rng.normal(size=len(signal)))
    mean = np.exp(0.5 * np.clip(signal, -3, 3))
    if objective == "gamma":
        return rng.gamma(2, mean) + 1e-3
    return rng.poisson(mean) * (1.0 if objective == "poisson" else rng.gamma(2, 1, len(signal)))


def check(job: Job) -> None:
    steps, expected_steps = [], []
    model, score = job.federated(steps.append)
    expected, expected_score = job.oracle(model.start, expected_steps.append)
    assert model == expected
    assert (score == expected_score).all()
    for step, due in zip(steps, expected_steps, strict=True):
        assert (step.tree, step.of, step.obstacle) == (due.tree, due.of, due.obstacle)
        assert step.train_loss == pytest.approx(due.train_loss, rel=1e-9)
        assert step.validation_loss == (
            None if due.validation_loss is None else pytest.approx(due.validation_loss, rel=1e-9)
        )
    offset = 0.0 if job.rows.offset is None else job.rows.offset
    assert model.start == pytest.approx(job.rows.start()[0], rel=1e-9, abs=1e-9)
    goes = np.zeros(len(score), np.int64)
    # The model scores rows as it did in training.
    for tree in model.trees[:1]:
        for node in sorted(tree.branches):
            inside = goes == node
            split = model.splits[tree.branches[node].record]
            left = split.goes_left({name: values[inside] for name, values in job.features.items()})
            goes[inside] = 2 * node + np.where(left, 1, 2)
        if len(model.trees) == 1:
            assert (score == offset + model.start + tree.weights()[goes]).all()


def uneven(objective: str = "binary", **settings: float) -> Job:
    """A client without a row in half of the nodes, one of one class alone, one with a column all
    missing, one with fewer rows than there are bins, and one without rows."""
    params = BoostParams(trees=3, depth=4, min_child_rows=4, **settings)
    job = make_job(1, 500, objective, params, 2)
    number, label = job.features["number"], job.rows.label
    few = np.arange(6)
    rest = np.arange(6, 500)
    low = rest[number[rest] < -0.5]
    rest = np.setdiff1d(rest, low)
    ones = rest[label[rest] == 1][:80]
    rest = np.setdiff1d(rest, ones)
    empty = rest[:100]
    job.features["ties"][empty] = np.nan
    rest = rest[100:]
    job.clients = {"few": few, "low": low, "ones": ones, "empty": empty, "none": rest[:0], "rest": rest}
    return job
