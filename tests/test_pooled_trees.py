"""Trees over rows of several clients against the guest alone with all rows, bit for bit."""

import asyncio
from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from plain_totals import with_totals

from vfl.learn.binning import Monotone
from vfl.learn.losses import BadLabel, loss_of
from vfl.learn.params import BoostParams
from vfl.protocols.common.checkpoints import Checkpoints
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
        return Schema(tuple(self.features), {"category": LEVELS}, self.monotone)

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

    def federated(self, **course):
        """The model, which is the same at all clients, and the score of every row."""
        outcomes, _ = with_totals([*self.clients], lambda adder: self.role(adder, **course))
        score = np.full(len(self.rows.label), np.nan)
        for (_, own), name in zip(outcomes, self.clients, strict=True):
            score[self.clients[name]] = own
        assert all(model == outcomes[0][0] for model, _ in outcomes)
        return outcomes[0][0], score

    def oracle(self, start: float):
        """The guest alone with all rows, in the clients' bins, with their constant and draws."""

        def bins(adder):
            return common_bins(Totals(adder), self.features, self.schema, self.params)

        (common,), _ = with_totals(["all"], bins)
        block = bin_rows(common.columns, self.features)
        grower = _Oracle({POOLED: block}, self.rows, self.params)
        grower.job, grower.constant = self, start
        return asyncio.run(grower.train(lambda _: None, Checkpoints()))


class _Oracle(Pooled):
    """All rows in one place; each client's are drawn as it draws them."""

    job: Job
    constant: float

    def start(self):
        offset = 0.0 if self.rows.offset is None else self.rows.offset
        return self.constant, self.constant + np.zeros(len(self.rows.label)) + offset

    def draw(self, train, number, gradient, hessian):
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
    model, score = job.federated()
    expected, expected_score = job.oracle(model.start)
    assert model == expected
    assert (score == expected_score).all()
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


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_every_objective_is_as_with_all_rows_in_one_place(objective):
    for seed in (1, 2):
        params = BoostParams(trees=4, depth=3, min_child_rows=5)
        check(make_job(seed, 400, objective, params))


settings_of_trees = st.fixed_dictionaries(
    {
        "trees": st.integers(1, 3),
        "depth": st.integers(1, 4),
        "max_bins": st.sampled_from([2, 5, 32]),
        "min_child_rows": st.sampled_from([1, 5, 40]),
        "min_bin_rows": st.sampled_from([1, 10]),
        "reg_lambda": st.sampled_from([0.0, 1.0]),
        "gamma": st.sampled_from([0.0, 0.5]),
        "min_child_weight": st.sampled_from([0.0, 2.0]),
        "subsample": st.sampled_from([1.0, 0.6]),
        "colsample": st.sampled_from([1.0, 0.5]),
        "validation_share": st.sampled_from([0.0, 0.3]),
        "seed": st.integers(0, 3),
    }
)


@settings(max_examples=40, suppress_health_check=[HealthCheck.too_slow])
@given(
    settings_of_trees,
    st.integers(0, 1000),
    st.sampled_from([1, 30, 200]),
    st.sampled_from(OBJECTIVES),
    st.integers(1, 5),
    st.sampled_from([None, "increasing", "decreasing"]),
)
def test_any_settings_are_as_with_all_rows_in_one_place(options, seed, rows, objective, clients, order):
    if options["validation_share"]:
        options = options | {"early_stopping_rounds": 1}
    job = make_job(seed, rows, objective, BoostParams(**options), clients)
    if order is not None:
        job.monotone = {"number": order}
    try:
        job.rows.loss.check(job.rows.label[job.rows.train])
    except BadLabel:
        return
    if job.rows.train.any():
        check(job)
