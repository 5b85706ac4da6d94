"""Categorical columns that are split by sets of categories, in the order of their gradients."""

import asyncio
import dataclasses
import datetime as dt

import lightgbm
import msgspec
import numpy as np
import pandas as pd
import pytest
import test_hidden_trees
import test_lattice_boost
from test_boost import Job, assert_same_model, make_job

import vfl
from vfl.errors import PeerError
from vfl.learn.binning import bin_columns
from vfl.learn.forest import Sides, missing_left
from vfl.learn.losses import loss_of
from vfl.learn.ordered_categories import CategoryOrder
from vfl.learn.params import BoostParams
from vfl.learn.quantiser import Scales
from vfl.learn.row_forest import RowSides
from vfl.learn.splits import Split
from vfl.learn.tree import Sums
from vfl.models.dependence import dependence_on
from vfl.net.peer import MemoryPeer
from vfl.party.config import Job as JobFile
from vfl.party.policy import broken_by_job
from vfl.party.policy_section import PolicySection
from vfl.protocols.common.rows import Training
from vfl.protocols.trees.category_sets import ColumnGroups, SetWinners
from vfl.protocols.trees.columns import Direction
from vfl.protocols.trees.paillier_messages import Winners
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


def job_of(whose: str | None, seed: int = 3, hosts: int = 1, rows: int = 300, **others) -> Job:
    """With a category of twelve levels at each party, some of them missing."""
    given = {"trees": 2, "depth": 3, "max_bins": 16, "min_child_rows": 3, "min_bin_rows": 1, **others}
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
    job = job_of("all", hosts=2, max_leaves=leaves)
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


def test_sets_against_all_cuts_of_a_plain_loop():
    """At most half of the categories that may be taken, from either end of their order."""
    params = BoostParams(ordered_categories="guest", cat_smooth=2.0, cat_l2=3.0, min_child_weight=0.0)
    gradient = np.array([5, -8, 3, 3, 9, 1, -8, 4], np.int64)
    hessian = np.array([10, 10, 6, 6, 12, 9, 10, 0], np.int64)
    valid = np.array([1, 1, 1, 1, 1, 0, 1, 1], bool)
    order = CategoryOrder([np.arange(8)], params)
    node = Sums(np.array(40), np.array(100))
    found = order.sets(Sums(gradient, hessian), node, valid, Scales(1.0, 1.0))
    # 1 and 6 tie, and 2 and 3; of the six that are left three go left at most.
    assert found.members == sorted([(1, 6), (4,), (0, 4)])
    for members, gain in zip(found.members, found.gains, strict=True):
        g, h = gradient[[*members]].sum(), hessian[[*members]].sum()
        sides = g**2 / (h + 1 + 3), (40 - g) ** 2 / (100 - h + 1 + 3)
        due = 0.5 * (sum(sides) - 40**2 / 101)
        assert gain == (pytest.approx(due) if due > 0 else -np.inf)
    assert (found.gains > 0).any()
    assert order.single(9).tolist() == [True] * 8 + [False]
    assert not CategoryOrder([np.arange(4)], params)  # one against the rest


@pytest.mark.parametrize("seed", range(4))
def test_categories_of_equal_sums_do_not_depend_on_the_order_of_the_wire(seed):
    """Labels that are those of pairs of levels, each with the same rows."""
    job = job_of("all", seed, hosts=1, rows=360, trees=1)
    code = np.arange(360) % 12
    job.features["party1"] = {"levels": np.array([f"l{i}" for i in range(12)], object)[code]}
    job.rows.label[:] = (code // 2 + np.arange(360) // 12) % 3 == 0
    job.rows.weight[:] = 1.0
    job.rows.train[:] = True
    job = dataclasses.replace(job, features={"party0": {}, "party1": job.features["party1"]})
    assert_same_model(job)


SPLITS = [
    Split("c", None, ("a", None), True, False),
    Split("c", None, ("b", "d", "a"), True, False),
    Split("c", None, "b", True, False),
    Split("c", None, None, True, False),
    Split("e", None, ("b", "x"), True, False),
]


def test_everything_that_scores_says_the_same_of_sets():
    values = np.array(["a", "b", None, "d", "never seen", "x"], object)
    columns = {"c": values, "e": values[::-1].copy()}
    expected = np.array([split.goes_left(columns) for split in SPLITS])
    assert expected[0].tolist() == [True, False, True, False, False, False]
    planes = Sides(SPLITS, columns).left(slice(None), 6)
    assert np.array_equal(np.unpackbits(planes, axis=1, count=6).astype(bool), expected)
    bits = np.zeros((6, len(SPLITS)), np.uint8)
    RowSides(SPLITS).fill(bits, columns)
    assert np.array_equal(bits.T.astype(bool), expected)
    assert missing_left(SPLITS).tolist() == [True, False, False, True, False]
    for split in SPLITS:
        kept = msgspec.json.decode(msgspec.json.encode(split), type=Split)
        assert kept == split and hash(kept) == hash(split)


def changed(monkeypatch: pytest.MonkeyPatch, kind, change) -> None:
    async def send(peer, message, send=MemoryPeer.send):
        await send(peer, change(message) if isinstance(message, kind) else message)

    monkeypatch.setattr(MemoryPeer, "send", send)


def named(members):
    """Winners that name these sets, in the first node of each message."""

    def change(message: SetWinners) -> SetWinners:
        node = next(iter(message.candidates))
        return SetWinners({node: []}, {node: {0: members}})

    return change


@pytest.mark.parametrize(
    ("kind", "change", "said"),
    [
        (SetWinners, named([10**6]), "SetWinners of a candidate that was not offered"),
        (SetWinners, named([-1]), "SetWinners of a candidate that was not offered"),
        (SetWinners, named([0, 0]), "no set of one column"),
        (SetWinners, named([*range(30)]), "no set of one column"),
        (SetWinners, lambda m: SetWinners({n: [] for n in m.candidates}, {}), "not offered"),
        (SetWinners, lambda m: Winners(m.candidates), "Winners where SetWinners"),
        (ColumnGroups, lambda m: ColumnGroups([[0, 1, 2, 3, 3]]), "name a candidate twice"),
        (ColumnGroups, lambda m: ColumnGroups([[-1, 1, 2, 3, 4]]), "name a candidate twice"),
        (ColumnGroups, lambda m: ColumnGroups([[0, 1, 2, 3, 10**6]]), "none of a category"),
    ],
)
def test_lies_about_sets_are_refused(kind, change, said, monkeypatch):
    job = job_of("all", hosts=1, trees=1)
    changed(monkeypatch, kind, change)
    with pytest.raises(PeerError, match=said):
        job.federated()


def test_rows_that_are_not_those_of_the_set_are_refused(monkeypatch):
    job = job_of("all", hosts=1, trees=1)
    job.features["party0"].clear()
    changed(
        monkeypatch,
        Direction,
        lambda m: msgspec.structs.replace(m, left=bytes([m.left[0] ^ 0b11]) + m.left[1:]),
    )
    with pytest.raises(PeerError, match="a Direction whose rows do not add up to its sums"):
        job.federated()


def test_hosts_tell_of_columns_where_the_job_says_so_alone(monkeypatch):
    sent = []

    async def send(peer, message, send=MemoryPeer.send):
        sent.append(message)
        await send(peer, message)

    monkeypatch.setattr(MemoryPeer, "send", send)
    told = {}
    for whose in (None, "guest", "all"):
        sent.clear()
        job_of(whose, hosts=1, trees=2).federated()
        told[whose] = [m for m in sent if isinstance(m, ColumnGroups | SetWinners | Winners)]
    assert all(isinstance(m, Winners) for whose in (None, "guest") for m in told[whose])
    groups = [m.groups for m in told["all"] if isinstance(m, ColumnGroups)]
    # The levels and a missing one; the other column has four and a missing one. In another order.
    assert [sorted(map(len, one)) for one in groups] == [[5, 13], [5, 13]]
    assert groups[0] != groups[1]
    assert not any(isinstance(m, Winners) for m in told["all"])


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"sums": "hidden", "coordinator": "notary"}, 'is for sums = "open": nobody who opens hidden'),
        ({"encryption": "lattice"}, 'is for encryption = "paillier": over the lattice engine'),
        ({"ordered_categories": None, "cat_l2": 1.0}, "cat_l2 is for ordered_categories"),
    ],
)
def test_settings_that_cannot_be(settings, said):
    with pytest.raises(ValueError, match=said):
        BoostParams.model_validate({"ordered_categories": "all", **settings})


def test_a_host_has_to_allow_it():
    base = {"name": "a", "purpose": "p", "model": "secureboost", "objective": "binary"}
    for whose, broken in (("all", True), ("guest", False), (None, False)):
        settings = {} if whose is None else {"ordered_categories": whose}
        job = JobFile.model_validate({"job": base, "secureboost": settings})
        assert JobFile.from_canonical(job.canonical) == job
        assert (b"cat_l2" in job.canonical) == (whose is not None)
        found = broken_by_job(PolicySection(), job, "insurer", dt.date(2026, 1, 1))
        assert any("category_groups" in one for one in found) == broken
        allowed = PolicySection(category_groups=True)
        assert not broken_by_job(allowed, job, "insurer", dt.date(2026, 1, 1))


def test_estimators_have_it_and_score_with_it():
    rng = np.random.default_rng(1)
    index = [f"id{i}" for i in range(600)]
    code = rng.integers(0, 20, (2, 600))
    label = np.sin(code[0]) + np.cos(3 * code[1]) + rng.normal(size=600) > 0
    names = np.array([f"l{i}" for i in range(20)], object)
    own = pd.DataFrame({"a": names[code[0]]}, index)
    hosts = {"x": pd.DataFrame({"b": names[code[1]]}, index)}
    given = {"hosts": hosts, "trees": 2, "ordered_categories": "all", "min_child_rows": 5}
    plain = vfl.SecureBoost(**given).fit(own, label)
    protocol = vfl.SecureBoost(**given, engine="protocol").fit(own, label)
    scores = plain.decision_function(own)
    assert np.array_equal(scores, protocol.decision_function(own))
    assert sets_of(plain.model_.splits) and sets_of(plain.halves_["x"].splits)
    single = vfl.SecureBoost(**given | {"ordered_categories": None}).fit(own, label)
    assert plain.score(own, label) > single.score(own, label)
    dependence, _ = dependence_on(plain.model_, ["a"], {"a": own["a"].to_numpy(object)})
    named = {name for split in plain.model_.splits for name in split.named}
    assert {*named} <= {*dependence["a"].grid} and len(named) > 5
