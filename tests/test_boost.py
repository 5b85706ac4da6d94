"""Federated SecureBoost against the plaintext oracle, an exhaustive search and LightGBM."""

import asyncio
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vfl.crypto.paillier import PrivateKey
from vfl.learn.binning import Binned, bin_columns
from vfl.learn.params import BoostParams
from vfl.learn.splits import Split
from vfl.net.peer import MemoryPeer, together
from vfl.protocols.boost import GuestModel, HostModel, Training, guest_train, host_train

KEY = PrivateKey.generate(2048)


@dataclass
class Job:
    """Aligned columns by party, the guest's first, and the guest's rows."""

    features: dict[str, dict[str, np.ndarray]]
    rows: Training
    params: BoostParams

    @property
    def blocks(self) -> dict[str, Binned]:
        return {
            name: bin_columns(columns, self.params.max_bins, self.params.min_bin_rows)
            for name, columns in self.features.items()
        }

    def oracle(self):
        """The guest alone with everybody's columns."""
        return asyncio.run(guest_train([], self.blocks, self.rows, self.params))

    def federated(self, workers=1):
        """(guest's half, scores, hosts' halves) over memory."""
        guest_name, *host_names = self.blocks

        async def run():
            pairs = [MemoryPeer.pair(guest_name, host) for host in host_names]
            guest = guest_train(
                [ours for ours, _ in pairs],
                {guest_name: self.blocks[guest_name]},
                self.rows,
                self.params,
                KEY,
                workers,
            )
            hosts = [
                host_train(theirs, self.blocks[name], self.params, name=name, shown=str, workers=workers)
                for name, (_, theirs) in zip(host_names, pairs, strict=True)
            ]
            (model, scores), *halves = await together([guest, *hosts])
            return model, scores, halves

        return asyncio.run(run())


def make_job(rows: int, hosts: int, seed: int, params: BoostParams, missing: float = 0.1) -> Job:
    """Numbers, rounded numbers and categories with missing values, spread over the parties."""
    rng = np.random.default_rng(seed)
    features, signal = {}, np.zeros(rows)
    for party in range(hosts + 1):
        number, rounded = rng.normal(size=rows), rng.integers(0, 6, rows).astype(float)
        category = rng.choice(np.array(["a", "b", "c", "d"], object), rows, p=[0.5, 0.3, 0.15, 0.05])
        signal += number + 0.5 * (rounded > 3) + (category == "b")
        number[rng.random(rows) < missing] = np.nan
        category[rng.random(rows) < missing] = None
        columns = {"number": number, "rounded": rounded, "category": category}
        features[f"party{party}"] = {f"{k}{party}": v for k, v in columns.items()}
    label = (signal + rng.logistic(size=rows) > np.median(signal)).astype(float)
    validation = rng.random(rows) < params.validation_share
    held = rng.random(rows) < 0.1
    return Job(
        features,
        Training(label, rng.uniform(0.5, 2, rows), ~validation & ~held, validation & ~held),
        params,
    )


def resolved(model: GuestModel, halves: list[HostModel]):
    """The trees with every branch replaced by its split, whoever keeps it."""
    own = len(model.parties) - len(halves)
    return [
        (
            {
                node: (
                    model.splits[b.record] if b.party < own else halves[b.party - own].splits[b.record],
                    b.gain,
                )
                for node, b in sorted(tree.branches.items())
            },
            tree.leaves,
        )
        for tree in model.trees
    ]


def assert_same_model(job: Job, workers: int = 1) -> None:
    expected, expected_scores = job.oracle()
    model, scores, halves = job.federated(workers)
    assert resolved(model, halves) == resolved(expected, [])
    assert np.array_equal(scores, expected_scores)
    assert model.start == expected.start


@pytest.mark.parametrize("hosts", [1, 2, 3])
def test_federated_equals_pooled_bit_for_bit(hosts):
    params = BoostParams(trees=3, depth=3, max_bins=8, min_child_rows=5, key_bits=2048)
    assert_same_model(make_job(150, hosts, seed=hosts, params=params))


def test_federated_equals_pooled_in_a_pool_of_processes():
    params = BoostParams(trees=2, depth=3, max_bins=8, min_child_rows=5)
    assert_same_model(make_job(5000, 2, seed=4, params=params), workers=2)


@settings(max_examples=8, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    rows=st.integers(20, 120),
    hosts=st.integers(1, 3),
    seed=st.integers(0, 2**32),
    depth=st.integers(1, 4),
    max_bins=st.integers(2, 12),
    min_child_rows=st.integers(1, 10),
    reg_lambda=st.sampled_from([0.0, 1.0]),
    gamma=st.sampled_from([0.0, 0.5]),
    subsample=st.sampled_from([0.5, 1.0]),
    colsample=st.sampled_from([0.4, 1.0]),
    first_tree=st.sampled_from(["joint", "guest"]),
    stopping=st.sampled_from([0, 1]),
    missing=st.sampled_from([0.0, 0.3]),
)
def test_federated_equals_pooled_for_any_settings(rows, hosts, seed, stopping, missing, **settings_):
    params = BoostParams(
        trees=2,
        early_stopping_rounds=stopping,
        validation_share=0.3 if stopping else 0.0,
        min_bin_rows=1,
        **settings_,
    )
    job = make_job(rows, hosts, seed, params, missing)
    if len(set(job.rows.label[job.rows.train])) == 2:
        assert_same_model(job)


def goes_left(split: Split, value: object) -> bool:
    """One row of the definition in words, apart from the vectorised code."""
    if split.categorical:
        return value == split.category
    if np.isnan(value):
        return split.missing_left
    return split.threshold is None or value <= split.threshold


def test_scores_are_those_of_the_splits_on_raw_values():
    params = BoostParams(trees=2, depth=3, max_bins=8, min_child_rows=5)
    job = make_job(200, 1, 5, params)
    model, scores = job.oracle()
    columns = {k: v for block in job.features.values() for k, v in block.items()}
    for row in range(200):
        score = model.start
        for tree in model.trees:
            node = 0
            while node in tree.branches:
                split = model.splits[tree.branches[node].record]
                node = 2 * node + (1 if goes_left(split, columns[split.column][row]) else 2)
            score += tree.leaves[node]
        assert score == scores[row]


def test_first_split_is_that_of_an_exhaustive_search():
    params = BoostParams(trees=1, depth=1, max_bins=255, min_bin_rows=1, min_child_rows=7)
    job = make_job(60, 1, 11, params)
    rows = job.rows
    model, _ = job.oracle()
    p = 1 / (1 + np.exp(-model.start))
    g = ((p - rows.label) * rows.weight)[rows.train]
    h = (p * (1 - p) * rows.weight)[rows.train]

    def score(mask):
        return g[mask].sum() ** 2 / (h[mask].sum() + params.reg_lambda)

    def gain(left):
        if min(left.sum(), (~left).sum()) < 7 or min(h[left].sum(), h[~left].sum()) < 1:
            return -np.inf
        return 0.5 * (score(left) + score(~left) - score(np.ones_like(left)))

    best = -np.inf
    for block in job.features.values():
        for name, column in block.items():
            values = column[rows.train]
            if name.startswith("category"):
                lefts = [np.array([v == c for v in values]) for c in set(values)]
            else:
                present = ~np.isnan(values)
                cuts = [values <= v for v in values[present]]
                lefts = [*cuts, *[c | ~present for c in cuts]]
            best = max(best, *(gain(left) for left in lefts))
    assert model.trees[0].branches[0].gain == pytest.approx(best, rel=1e-6)
