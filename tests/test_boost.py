"""Federated SecureBoost against the plaintext oracle, an exhaustive search and LightGBM."""

import asyncio
import dataclasses
from dataclasses import dataclass, field
from functools import partial

import msgspec
import numpy as np
import pytest
import walk
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from memory import over_memory
from paillier_key import KEY

from vfl.crypto.workers import Machine
from vfl.errors import ConfigError, PeerError, Refused
from vfl.learn.binning import Binned, Monotone, bin_columns
from vfl.learn.losses import OBJECTIVES, BadLabel, SquaredLoss, loss_of
from vfl.learn.params import BoostParams
from vfl.learn.splits import Split
from vfl.net.peer import MemoryPeer
from vfl.protocols.common.bits import pack_bits
from vfl.protocols.common.clock import as_measured
from vfl.protocols.common.course import GuestCourse, HostCourse
from vfl.protocols.common.key import Key
from vfl.protocols.common.participant import Participant, Resources
from vfl.protocols.common.rows import Training
from vfl.protocols.trees import paillier as boost
from vfl.protocols.trees.draws import draw_rows, sizes_of
from vfl.protocols.trees.grower import Pooled
from vfl.protocols.trees.model import GuestModel, HostModel
from vfl.protocols.trees.paillier_messages import CandidateSums, Gradients, TreeStart, check_candidates
from vfl.protocols.trees.quantisation import Quantisation, packing_of
from vfl.protocols.trees.records import Records
from vfl.protocols.trees.training import guest_train, host_train

pytestmark = pytest.mark.usefixtures("quick_key")


@dataclass
class Job:
    """Aligned columns by party, the guest's first, and the guest's rows."""

    features: dict[str, dict[str, np.ndarray]]
    rows: Training
    params: BoostParams
    monotone: dict[str, Monotone] = field(default_factory=dict)

    @property
    def blocks(self) -> dict[str, Binned]:
        return {
            name: bin_columns(columns, self.params.max_bins, self.params.min_bin_rows, self.monotone)
            for name, columns in self.features.items()
        }

    def oracle(self):
        """The guest alone with everybody's columns."""
        return asyncio.run(guest_train([], self.blocks, self.rows, self.params))

    def federated(self, workers=1):
        """(guest's half, scores, hosts' halves) over memory."""
        guest_name, *host_names = self.blocks
        resources = Resources(Machine(workers))

        def guest(peers):
            own = {guest_name: self.blocks[guest_name]}
            return guest_train(peers, own, self.rows, self.params, key=KEY, resources=resources)

        def host(name, peer):
            own = Participant(name, resources=resources)
            return host_train(peer, self.blocks[name], self.params, own, shown=str)

        (model, scores), *halves = over_memory(host_names, guest, host, guest=guest_name)
        return model, scores, halves


def make_job(
    rows: int,
    hosts: int,
    seed: int,
    params: BoostParams,
    missing: float = 0.1,
    objective: str = "binary",
    with_offset: bool = False,
) -> Job:
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
    weight = rng.uniform(0.5, 2, rows)
    if objective != "binary":
        label = labels(objective, signal - signal.mean(), rng)
    if objective == "multiclass":
        params, with_offset = params.model_copy(update={"classes": 3}), False
    return Job(
        features,
        Training(
            label,
            weight,
            ~validation & ~held,
            validation & ~held,
            loss_of(objective, params.tweedie_power, classes=params.classes),
            np.log(rng.uniform(0.01, 2, rows)) if with_offset else None,
        ),
        params,
    )


def labels(objective: str, signal: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Counts, amounts (with many zeros under tweedie) or numbers that grow with the signal."""
    if objective in ("squared", "quantile"):
        return 1000 * (signal + rng.normal(size=len(signal)))
    if objective == "multiclass":
        return np.digitize(signal + rng.logistic(size=len(signal)), [-0.7, 1.0]).astype(float)
    counts = rng.poisson(np.exp(signal / 2 - 1)).astype(float)
    amounts = rng.gamma(2, 500 * np.exp(signal / 4))
    return {"poisson": counts, "gamma": amounts, "tweedie": counts * amounts}[objective]


def usable(job: Job) -> bool:
    """Whether the rows that train have a label to learn from."""
    try:
        job.rows.loss.check(job.rows.label[job.rows.train])
    except BadLabel:
        return False
    return bool(job.rows.train.any())


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
            tree.covers,
        )
        for tree in model.trees
    ]


def assert_same_model(job: Job, workers: int = 1) -> None:
    expected, expected_scores = job.oracle()
    model, scores, halves = job.federated(workers)
    assert resolved(model, halves) == resolved(expected, [])
    assert np.array_equal(scores, expected_scores)
    assert (model.start, model.class_starts) == (expected.start, expected.class_starts)


@pytest.mark.parametrize("hosts", [1, 2, 3])
def test_federated_equals_pooled_bit_for_bit(hosts):
    params = BoostParams(trees=3, depth=3, max_bins=8, min_child_rows=5, key_bits=2048)
    assert_same_model(make_job(150, hosts, seed=hosts, params=params))


@pytest.mark.parametrize(
    ("node", "sums", "why"),
    [
        (0, "beyond", "out of bounds"),
        (0, "none", "a wrong number"),
        (1, "beyond", "of another node"),
    ],
)
def test_a_host_is_told_which_check_its_sums_failed(node, sums, why):
    job = make_job(60, 1, 1, BoostParams(trees=1, depth=1))

    async def hostile(guest: MemoryPeer) -> None:
        await guest.recv(Key), await guest.recv(TreeStart)
        rows = KEY.public.parse((await guest.recv(Gradients)).ciphertexts)
        beyond = KEY.public.pack(rows[[0, 1]], 200, 2)  # in the slots of no sum
        yes, no = (pack_bits(np.array([bit])) for bit in (True, False))
        sent = beyond.tobytes() if sums == "beyond" else b""
        await guest.send(CandidateSums(node, 1, yes, no, sent, 0.0, b""))

    async def both() -> None:
        to_host, to_guest = MemoryPeer.pair("party0", "party1")
        own = {"party0": job.blocks["party0"]}
        training = guest_train([to_host], own, job.rows, job.params, key=KEY)
        await asyncio.gather(asyncio.create_task(hostile(to_guest)), training)

    with pytest.raises(PeerError) as caught:
        asyncio.run(both())
    assert "CandidateSums" in str(caught.value)
    assert why in str(caught.value) and why in caught.value.for_peer


def test_the_lattice_engine_has_no_key():
    job = make_job(50, 1, 1, BoostParams(trees=1, depth=1, encryption="lattice"))
    with pytest.raises(ValueError, match="a key where encryption = 'lattice'"):
        asyncio.run(guest_train([], job.blocks, job.rows, job.params, key=KEY))


def test_federated_equals_pooled_in_a_pool_of_processes():
    params = BoostParams(trees=2, depth=3, max_bins=8, min_child_rows=5)
    assert_same_model(make_job(5000, 2, seed=4, params=params), workers=2)


@pytest.mark.parametrize(
    "objective", ["poisson", "gamma", "tweedie", "squared", "quantile", "multiclass"]
)
def test_federated_equals_pooled_for_every_objective(objective):
    params = BoostParams(trees=2, depth=3, max_bins=8, min_child_rows=5)
    assert_same_model(make_job(150, 2, 7, params, objective=objective, with_offset=True))


def parties_that_split(model):
    """By tree, the parties that won a split in it."""
    return [{branch.party for branch in tree.branches.values()} for tree in model.trees]


@pytest.mark.parametrize("alone", [0, 2, 3])
def test_the_first_trees_are_of_the_guest_alone(alone):
    params = BoostParams(trees=3, depth=2, max_bins=8, min_child_rows=5, guest_trees=alone)
    job = make_job(150, 2, 5, params)
    assert_same_model(job)
    model, _ = job.oracle()
    won = parties_that_split(model)
    assert all(won) and all(parties == {0} for parties in won[:alone])
    assert all(parties & {1, 2} for parties in won[alone:])
    own = dataclasses.replace(job, features=dict(list(job.features.items())[:1]))
    assert resolved(own.oracle()[0], [])[:alone] == resolved(model, [])[:alone]


def test_a_guest_without_columns_has_first_trees_without_splits():
    params = BoostParams(trees=3, depth=2, max_bins=8, min_child_rows=5, guest_trees=2)
    job = make_job(150, 1, 5, params)
    job.features["party0"].clear()
    assert_same_model(job)
    assert parties_that_split(job.oracle()[0]) == [set(), set(), {1}]


def test_training_does_not_stop_early_before_hosts_come_in():
    params = BoostParams(trees=9, depth=2, max_bins=8, min_child_rows=5, guest_trees=6)
    stopping = {"validation_share": 0.5, "early_stopping_rounds": 1, "learning_rate": 1.0}
    job = make_job(150, 1, 5, params.model_copy(update=stopping))
    job.features["party0"] = {"noise": np.random.default_rng(1).normal(size=150)}
    seen = []
    asyncio.run(guest_train([], job.blocks, job.rows, job.params, course=GuestCourse(seen.append)))
    losses = [done.validation_loss for done in seen]
    best = int(np.argmin(losses[:6])) + 1
    assert best < 5, "it would have stopped"
    assert len(seen) > 6
    assert_same_model(job)


def test_a_host_takes_no_part_in_a_tree_of_the_guest_alone():
    _, own = MemoryPeer.pair("guest", "host")
    records = Records(own, BoostParams(trees=4, guest_trees=2), str, HostCourse(), as_measured)
    for tree in (0, 1, 4):
        with pytest.raises(PeerError, match="a TreeStart out of turn"):
            records.begin(tree, TreeStart)
    records.begin(2, TreeStart)


def test_kept_settings_from_before_guest_trees():
    kept = BoostParams(trees=7).model_dump()
    del kept["guest_trees"]
    assert BoostParams.of_stored(kept | {"first_tree": "guest"}) == BoostParams(trees=7, guest_trees=1)
    assert BoostParams.of_stored(kept | {"first_tree": "joint"}) == BoostParams(trees=7)
    assert BoostParams.of_stored(BoostParams(guest_trees=9).model_dump()).guest_trees == 9


def test_federated_equals_pooled_under_goss():
    params = BoostParams(
        trees=4, depth=2, max_bins=8, min_child_rows=2, goss_top=0.2, goss_other=0.1, learning_rate=0.9
    )
    assert_same_model(make_job(200, 1, 7, params, objective="poisson", with_offset=True))


@settings(max_examples=10, suppress_health_check=list(HealthCheck))
@given(
    rows=st.integers(20, 120),
    hosts=st.integers(1, 3),
    seed=st.integers(0, 2**32),
    depth=st.integers(1, 4),
    max_bins=st.integers(2, 12),
    min_child_rows=st.integers(1, 10),
    reg_lambda=st.sampled_from([0.0, 1.0]),
    gamma=st.sampled_from([0.0, 0.5]),
    draw=st.sampled_from([{}, {"subsample": 0.5}, {"goss_top": 0.3, "goss_other": 0.2}]),
    objective=st.sampled_from(list(OBJECTIVES)),
    with_offset=st.booleans(),
    learning_rate=st.sampled_from([0.2, 1.0]),
    colsample=st.sampled_from([0.4, 1.0]),
    guest_trees=st.integers(0, 2),
    stopping=st.sampled_from([0, 1]),
    missing=st.sampled_from([0.0, 0.3]),
    monotone=st.one_of(
        st.just({}),
        st.dictionaries(
            st.sampled_from(["number0", "rounded0", "number1", "rounded1", "number2"]),
            st.sampled_from(["increasing", "decreasing"]),
        ),
    ),
)
def test_federated_equals_pooled_for_any_settings(
    rows, hosts, seed, stopping, missing, draw, objective, with_offset, monotone, **settings_
):
    params = BoostParams(
        trees=2,
        early_stopping_rounds=stopping,
        validation_share=0.3 if stopping else 0.0,
        min_bin_rows=1,
        **settings_,
        **draw,
    )
    job = make_job(rows, hosts, seed, params, missing, objective, with_offset)
    if usable(job):
        assert_same_model(dataclasses.replace(job, monotone=monotone))


MONOTONE = {
    "number0": "increasing",
    "rounded0": "decreasing",
    "rounded1": "decreasing",
    "number2": "increasing",
}


def test_federated_equals_pooled_under_monotone_constraints():
    params = BoostParams(
        trees=4, depth=3, max_bins=12, min_child_rows=3, learning_rate=0.9, goss_top=0.2, goss_other=0.2
    )
    job = dataclasses.replace(make_job(250, 2, 8, params, objective="poisson"), monotone=MONOTONE)
    assert_same_model(job)
    assert resolved(job.oracle()[0], []) != resolved(
        dataclasses.replace(job, monotone={}).oracle()[0], []
    )


def by_value(job: Job, column: str, model: GuestModel) -> np.ndarray:
    """Scores of the first 60 rows were the column each of the values the model parts, ascending: shape
    (values, 60)."""
    columns = {k: v[:60] for block in job.features.values() for k, v in block.items()}
    cuts = [s.threshold for s in model.splits if s.column == column and s.threshold is not None]
    values = sorted({-1e9, *cuts, *np.nextafter(cuts, 1e9)})
    changed = {name: np.tile(cells, len(values)) for name, cells in columns.items()}
    changed[column] = np.repeat(values, 60)
    score = np.full(60 * len(values), model.start)
    for tree in model.trees:
        score += walk.scores(tree, len(score), lambda b: model.splits[b.record].goes_left(changed))
    return score.reshape(len(values), 60)


@pytest.mark.parametrize("draw", [{}, {"goss_top": 0.2, "goss_other": 0.2}])
@pytest.mark.parametrize("objective", ["binary", "poisson", "squared"])
@pytest.mark.parametrize("missing", [0.0, 0.3])
def test_scores_are_in_the_order_of_monotone_columns(draw, objective, missing):
    """Exactly, also below splits of other columns and parties and with values missing, and it is the
    constraints' doing."""
    params = BoostParams(
        trees=12, depth=5, max_bins=24, min_child_rows=2, learning_rate=0.3, min_child_weight=0.0, **draw
    )
    job = make_job(400, 2, 9, params, missing, objective)
    for monotone in ({}, MONOTONE):
        model, _ = dataclasses.replace(job, monotone=monotone).oracle()
        steps = {
            column: np.diff(by_value(job, column, model), axis=0) * (1 if way == "increasing" else -1)
            for column, way in MONOTONE.items()
        }
        if monotone:
            assert all((step >= 0).all() for step in steps.values())
            assert (steps["number0"] > 0).any() and (steps["number2"] > 0).any()
        else:
            assert all((step < 0).any() for step in steps.values())


def test_the_guest_learns_of_constraints_where_there_are_some_alone(monkeypatch):
    sent = []

    async def send(peer, message, send=MemoryPeer.send):
        sent.append(message)
        await send(peer, message)

    monkeypatch.setattr(MemoryPeer, "send", send)
    params = BoostParams(trees=1, depth=2, max_bins=8, min_child_rows=2)
    job = make_job(120, 1, 3, params)
    told = []
    for monotone in (
        {},
        {"number0": "increasing"},
        {"number1": "increasing"},
        {"number1": "decreasing"},
    ):
        sent.clear()
        dataclasses.replace(job, monotone=monotone).federated()
        sums = [m for m in sent if isinstance(m, boost.CandidateSums)]
        assert all(m.ordered == b"" for m in sums if m.node > 0)
        told.append(sums[0].ordered)
    nothing, of_the_guest, *both = [np.unpackbits(np.frombuffer(bits, np.uint8)).sum() for bits in told]
    assert nothing == of_the_guest == 0
    # Each edge of the eight bins, with missing values left and right; the same either way.
    assert both == [14, 14]


@pytest.mark.parametrize("wrong", ["length", "below the root"])
def test_constraints_that_a_host_cannot_have(monkeypatch, wrong):
    async def send(peer, message, send=MemoryPeer.send):
        if isinstance(message, boost.CandidateSums) and (message.node > 0 or wrong == "length"):
            bits = b"" if message.node else b"\0"
            message = msgspec.structs.replace(message, ordered=bits if wrong == "length" else b"\0")
        await send(peer, message)

    monkeypatch.setattr(MemoryPeer, "send", send)
    job = make_job(120, 1, 3, BoostParams(trees=1, depth=2, max_bins=8, min_child_rows=2))
    why = {"length": "a wrong number of bits", "below the root": "constraints below the root"}[wrong]
    with pytest.raises(PeerError, match=f"CandidateSums with {why}"):
        job.federated()


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


@pytest.mark.parametrize("draw", [{}, {"subsample": 0.5}, {"goss_top": 0.2, "goss_other": 0.2}])
def test_covers_count_the_drawn_rows_of_every_node(draw):
    params = BoostParams(trees=3, depth=3, max_bins=8, min_child_rows=5, learning_rate=0.9, **draw)
    job = make_job(200, 0, 6, params)
    model, _ = job.oracle()
    columns = job.features["party0"]
    score = np.full(200, model.start)
    for number, tree in enumerate(model.trees):
        gradient, hessian = job.rows.loss.damped_gradients(score, job.rows.label, job.rows.weight)
        drawn, _ = draw_rows(job.rows.train, params, number, partial(sizes_of, gradient, hessian))
        counts = dict.fromkeys([*tree.branches, *tree.leaves], 0)
        for row in np.flatnonzero(drawn).tolist():
            node = 0
            counts[node] += 1
            while node in tree.branches:
                split = model.splits[tree.branches[node].record]
                node = 2 * node + (1 if goes_left(split, columns[split.column][row]) else 2)
                counts[node] += 1
        assert tree.covers == counts
        score += walk.scores(tree, 200, lambda branch: model.splits[branch.record].goes_left(columns))


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


def test_an_offset_is_what_exposure_is_in_a_poisson_model():
    """Twice the exposure at half the rate; and a rate with the exposure as weight has the same trees."""
    params = BoostParams(trees=3, depth=3, max_bins=8, min_child_rows=5)
    job = make_job(300, 0, 3, params, objective="poisson", with_offset=True)
    model, score = job.oracle()
    rows, exposure = job.rows, np.exp(job.rows.offset)
    doubled = dataclasses.replace(job, rows=dataclasses.replace(rows, offset=rows.offset + np.log(2)))
    other, score_of_other = doubled.oracle()
    assert other.start == pytest.approx(model.start - np.log(2))
    assert score_of_other == pytest.approx(score)
    rates = Training(
        rows.label / exposure, rows.weight * exposure, rows.train, rows.validation, rows.loss
    )
    rated, score_of_rates = dataclasses.replace(job, rows=rates).oracle()
    assert [set(t.branches) for t in rated.trees] == [set(t.branches) for t in model.trees]
    # The same sums but for the rounding of gradients to 24 bits of their largest.
    assert score_of_rates + rows.offset == pytest.approx(score, abs=1e-6)


def test_scores_that_grow_without_bounds_are_an_error():
    """Far above a label gamma's hessian is next to nothing, and Newton's step without a penalty huge."""
    params = BoostParams(depth=1, learning_rate=1, reg_lambda=0, min_child_weight=0, min_child_rows=1)
    job = make_job(40, 1, 3, params, objective="gamma")
    small = job.features["party1"]["rounded1"] > 3
    job = dataclasses.replace(job, rows=dataclasses.replace(job.rows, label=np.where(small, 1.0, 1e6)))
    with pytest.raises(ConfigError, match=r"training diverges, .*: lower the learning_rate") as raised:
        job.federated()
    assert raised.value.for_peer == "its training diverges, the job needs other settings"
    dataclasses.replace(job, params=params.model_copy(update={"reg_lambda": 1.0})).oracle()


def test_gradients_that_are_all_zero_make_trees_of_one_leaf():
    job = make_job(60, 1, 3, BoostParams(trees=2, depth=2), objective="squared")
    job = dataclasses.replace(job, rows=dataclasses.replace(job.rows, label=np.full(60, 2.0)))
    assert_same_model(job)
    model, score = job.oracle()
    assert (score == 2.0).all()
    assert all(tree.leaves == {0: 0.0} for tree in model.trees)


@given(
    seed=st.integers(0, 2**32),
    rows=st.integers(2, 60),
    top=st.floats(0.01, 0.6),
    other=st.floats(0.01, 0.4),
    tree=st.integers(0, 6),
)
def test_goss_against_a_plain_loop(seed, rows, top, other, tree):
    rng = np.random.default_rng(seed)
    params = BoostParams(goss_top=top, goss_other=other, seed=seed % 1000, learning_rate=0.3)
    train = rng.random(rows) < 0.8
    train[0] = True
    gradient, hessian = rng.integers(-3, 4, rows) / 2, rng.integers(0, 3, rows) / 2  # ties abound
    mask, counts_for = draw_rows(train, params, tree, partial(sizes_of, gradient, hessian))
    assert not (mask & ~train).any()
    assert (counts_for[~mask] == 1).all()
    if tree < 3:  # 1 / 0.3
        assert np.array_equal(mask, train) and (counts_for == 1).all()
        return
    order = sorted(np.flatnonzero(train).tolist(), key=lambda i: (-abs(gradient[i] * hessian[i]), i))
    count = max(1, round(top * len(order)))
    kept, rest = order[:count], order[count:]
    drawn = sorted(set(np.flatnonzero(mask).tolist()) - set(kept))
    assert mask[kept].all() and (counts_for[kept] == 1).all()
    assert set(drawn) <= set(rest)
    assert len(drawn) == min(len(rest), max(1, round(other * len(order))))
    # The drawn ones stand for all that were left out: (1 - a) / b but for whole rows.
    if drawn:
        assert counts_for[drawn] == pytest.approx([len(rest) / len(drawn)] * len(drawn))
    again = draw_rows(train, params, tree, partial(sizes_of, gradient, hessian))
    assert np.array_equal(again[0], mask) and np.array_equal(again[1], counts_for)


def test_goss_draws_others_in_another_tree_and_by_another_seed():
    train, gradient = np.ones(400, bool), np.random.default_rng(0).normal(size=400)
    masks = [
        draw_rows(
            train, BoostParams(goss_top=0.1, goss_other=0.2, seed=seed), tree, lambda: np.abs(gradient)
        )[0]
        for seed, tree in ((0, 5), (0, 6), (1, 5))
    ]
    assert [mask.sum() for mask in masks] == [120, 120, 120]
    largest = np.argsort(-np.abs(gradient))[:40]
    assert all(mask[largest].all() for mask in masks)
    for a, b in ((0, 1), (0, 2)):
        assert (masks[a] & masks[b]).sum() < 70  # 40 and, of 80, a share of 80 / 360


@given(
    gradient=st.lists(st.floats(-1e90, 1e90), min_size=1, max_size=20),
    share=st.floats(1e-9, 1),
    counts=st.floats(1, 1e9),
    rows=st.sampled_from([1, 1000, 2**24]),
)
def test_drawn_rows_keep_the_bounds_of_packing(gradient, share, counts, rows):
    """Whatever a drawn row counts for, its plaintext and sums of any rows stay within the layout."""
    g = np.array(gradient)
    n = len(g)
    guest = Pooled(
        {"guest": bin_columns({}, 2, 1)},
        Training(g, np.ones(n), np.ones(n, bool), np.zeros(n, bool), SquaredLoss()),
        BoostParams(),
    )
    layout = packing_of(max(rows, n), BoostParams())
    guest.quantisation = Quantisation(layout.row_bits)
    active = np.arange(n) % 3 < 2
    counts_for = np.where(active, counts, np.inf)  # of rows that are not drawn nothing matters
    g_int, h_int = guest.quantise(np.stack([g, np.abs(g) * share]), active, counts_for)
    assert (g_int[~active] == 0).all() and (h_int[~active] == 0).all()
    assert np.abs(g_int).max() <= 2**layout.row_bits and h_int.min() >= 0
    layout.pair(g_int, h_int)  # raises beyond bounds
    # To half a unit, where the largest has at least a quarter of the bits' range.
    exact = (g * np.where(active, counts, 0))[active]
    assert np.abs(g_int[active] / guest.scales.gradient - exact).max() <= 0.5 / guest.scales.gradient
    if np.abs(exact).max() > 1e-200:
        assert np.abs(g_int).max() >= 2 ** (layout.row_bits - 1) - 1


def test_more_candidates_than_a_message_holds_are_refused_before_the_first_tree() -> None:
    packing = packing_of(1_000_000, BoostParams())
    check_candidates(600_000, packing, KEY.public.width)
    with pytest.raises(Refused, match=r"^900,000 split candidates of a node are more than the 675,840 "):
        check_candidates(900_000, packing, KEY.public.width)
