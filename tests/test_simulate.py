"""All parties in one process: the protocols' messages and all columns in one place, the same model."""

import asyncio
import signal
import threading
import time
from functools import cache

import numpy as np
import pandas as pd
import pytest
from paillier_key import KEY, quick_key
from sklearn.exceptions import ConvergenceWarning
from small_tables import IDS, alone, claims, plate, pooled_claims, quick, regressor, samples, small

import vfl
from vfl.crypto.paillier import PrivateKey
from vfl.errors import ConfigError, DataError, VflWarning
from vfl.frames.features import FrameTable
from vfl.learn.binning import bin_columns
from vfl.learn.params import BoostParams
from vfl.protocols.common.rows import Training
from vfl.protocols.trees.training import guest_train
from vfl.simulate import common_rows

SETTINGS = {"trees": 3, "depth": 3, "learning_rate": 0.5}


@pytest.fixture(scope="module", autouse=True)
def one_key():
    """One Paillier key for all fits: to make one and its tables takes a second or two."""
    asked = []

    def generate(bits, random_bits, full_exponents=False):
        asked.append((bits, full_exponents))
        return KEY

    with pytest.MonkeyPatch.context() as patch, quick_key():
        patch.setattr(PrivateKey, "generate", generate)
        yield asked


@cache
def federation(engine: str) -> vfl.SecureBoost:
    """Trained on the first 1,200 policies."""
    insurer, y, hosts = samples()
    model = vfl.SecureBoost(**SETTINGS, id=IDS, hosts=hosts, engine=engine)
    return model.fit(insurer[:1200], y[:1200])


def test_it_equals_the_oracle():
    insurer, y, hosts = samples()
    insurer, y, model = insurer[:1200], y[:1200].to_numpy(float), federation("protocol")
    # The oracle: pandas joins, everybody's columns in one place.
    tables = [insurer, hosts["registry"], hosts["bureau"]]
    keyed = [t.set_index(plate(t[k])).drop(columns=k) for t, k in zip(tables, IDS.values(), strict=True)]
    common = plate(insurer["plate"]).iloc[model.aligned_]
    params = BoostParams(**SETTINGS)
    blocks = {}
    for name, table in zip(IDS, keyed, strict=True):
        columns = {
            column: values.to_numpy(np.float64)
            if pd.api.types.is_numeric_dtype(values)
            else values.astype(object).where(values.notna(), None).to_numpy(object)
            for column, values in table.loc[common].items()
        }
        blocks[name] = bin_columns(columns, params.max_bins, params.min_bin_rows)
    label = y[model.aligned_]
    every = np.ones(len(label), bool)
    rows = Training(label, np.ones(len(label)), every, ~every)
    oracle, scores = asyncio.run(guest_train([], blocks, rows, params))

    known = set(keyed[1].index) & set(keyed[2].index)
    assert set(common) == known & set(plate(insurer["plate"]))
    assert model.n_aligned_ == len(common)
    assert [t.leaves for t in model.model_.trees] == [t.leaves for t in oracle.trees]
    assert sorted(model.model_.importance()) == sorted(oracle.importance())
    # Bit for bit, and the scores of new rows are those of training where the rows are the same.
    assert np.array_equal(model.decision_function(insurer.iloc[model.aligned_]), scores)


# Both engines.


def bare(model) -> tuple:
    """A tree model without the numbers under which parties keep their splits."""
    by_party = [model.model_.splits, *(half.splits for half in model.halves_.values())]
    trees = [
        (
            {n: (b.party, by_party[b.party][b.record], b.gain) for n, b in tree.branches.items()},
            tree.leaves,
            tree.covers,
        )
        for tree in model.model_.trees
    ]
    return model.model_.parties, model.model_.start, trees


def test_engines_make_the_same_trees_of_the_samples():
    insurer, _, _ = samples()
    plain, protocol = federation("plain"), federation("protocol")
    assert bare(plain) == bare(protocol)
    assert np.array_equal(plain.aligned_, protocol.aligned_) and (np.diff(plain.aligned_) > 0).all()
    assert np.array_equal(plain.decision_function(insurer), protocol.decision_function(insurer))
    assert plain.importance_table_.equals(protocol.importance_table_)
    assert [(d.train_loss, d.validation_loss) for d in plain.train_log_] == [
        (d.train_loss, d.validation_loss) for d in protocol.train_log_
    ]
    # A ciphertext of 512 bytes a row and tree, at the least; and no word without a message.
    assert all(size > 3 * 512 * protocol.n_aligned_ for size in protocol.traffic_.values())
    assert set(protocol.traffic_) == {"registry", "bureau"}
    assert plain.traffic_ is None


@pytest.mark.parametrize(
    "settings",
    [
        {"subsample": 0.6, "colsample": 0.5, "seed": 3},
        {"goss_top": 0.3, "goss_other": 0.3, "trees": 4, "learning_rate": 0.9},
        {"validation_share": 0.3, "early_stopping_rounds": 1, "trees": 6, "learning_rate": 0.9},
        {"guest_trees": 2},
        {"encryption": "lattice", "subsample": 0.7, "depth": 3},
        {"encryption": "lattice", "monotone": {"lender": {"debt": "decreasing"}}},
    ],
)
def test_engines_make_the_same_trees_whatever_is_drawn(settings):
    insurer, y, hosts = small(150)
    hosts["lender"] = hosts["lender"].drop(index=["id 3", "id 7"])
    weight = np.random.default_rng(5).integers(0, 3, 150)
    models = [
        quick(**{"trees": 3, "hosts": hosts, "engine": engine, **settings}).fit(
            insurer, y, sample_weight=weight
        )
        for engine in ("plain", "protocol")
    ]
    assert bare(models[0]) == bare(models[1])
    scores = [model.decision_function(insurer) for model in models]
    assert np.array_equal(*scores) and len(np.unique(scores[0])) > 1


@pytest.mark.parametrize("encryption", ["paillier", "lattice"])
def test_engines_make_the_same_linear_model(encryption):
    insurer, y, hosts, years = pooled_claims(160)
    rules = {"lender": {"binned": ["debt"], "bins": 3}, "registry": {"base": {"fuel": "gas"}}}
    models = [
        vfl.FederatedGLM(
            family="poisson", hosts=hosts, encryption=encryption, engine=engine, rules=rules
        ).fit(insurer, y, exposure=years)
        for engine in ("plain", "protocol")
    ]
    assert models[0].model_ == models[1].model_
    assert models[0].halves_ == models[1].halves_
    assert np.array_equal(*(model.predict(insurer) for model in models))
    assert models[0].traffic_ is None and set(models[1].traffic_) == {"lender", "registry"}


def test_the_protocol_of_a_guest_alone_sends_nothing():
    insurer, y, _ = small()
    assert alone(engine="protocol").fit(insurer, y).traffic_ is None


def test_the_key_is_as_the_parameters_say(one_key):
    insurer, y, hosts = small()
    for obfuscators in ("short", "full"):
        quick(obfuscators=obfuscators, engine="protocol").fit(insurer, y, hosts=hosts)
        assert one_key[-1] == (2048, obfuscators == "full")
    asked = len(one_key)
    quick().fit(insurer, y, hosts=hosts)
    assert len(one_key) == asked  # nobody to hide from


def test_two_workers_train_the_same_model():
    insurer, y, years, hosts = claims()
    one, two = (
        regressor(workers=n, trees=1, engine="protocol").fit(insurer, y, hosts=hosts, exposure=years)
        for n in (1, 2)
    )
    assert np.array_equal(one.predict(insurer, hosts), two.predict(insurer, hosts))


def test_an_engine_that_is_none():
    insurer, y, _ = small()
    for engine in ("fast", None, 1):
        with pytest.raises(ConfigError, match='engine must be "plain" or "protocol", not '):
            alone(engine=engine).fit(insurer, y)


def test_common_rows_are_in_the_order_of_the_first_table():
    def table(name: str, ids: list[bytes]) -> FrameTable:
        return FrameTable(name, ids, np.arange(len(ids)), 1, {}, len(ids))

    tables = [table("a", [b"4", b"1", b"2"]), table("b", [b"2", b"9", b"4"]), table("c", [b"4", b"2"])]
    assert [rows.tolist() for rows in common_rows(tables)] == [[0, 2], [2, 0], [0, 1]]
    nothing = common_rows([*tables, table("d", [])])
    assert [len(rows) for rows in nothing] == [0, 0, 0, 0]


# Constraints, stopping, interrupts.


def test_monotone_columns_of_guest_and_host():
    insurer, y, hosts = small(200)
    y = np.random.default_rng(1).permuted(y)  # noise, which a tree follows up and down
    ways = {"guest": {"age": "decreasing"}, "lender": {"debt": "increasing"}}
    steps = np.linspace(-3, 3, 20)
    index = pd.Index([f"{i} at {step}" for i in insurer.index[:20] for step in range(20)])

    def repeated(table: pd.DataFrame, **changed: np.ndarray) -> pd.DataFrame:
        return (
            table.loc[insurer.index[:20]]
            .iloc[np.repeat(range(20), 20)]
            .set_index(index)
            .assign(**changed)
        )

    def changes(monotone) -> list[np.ndarray]:
        """Of the scores of 20 rows from step to step, by age and by debt."""
        model = quick(trees=4, depth=3, monotone=monotone).fit(insurer, y, hosts=hosts)
        others = {name: repeated(table) for name, table in hosts.items()}
        by_age = model.decision_function(repeated(insurer, age=np.tile(steps, 20)), others)
        others["lender"] = repeated(hosts["lender"], debt=np.tile(steps, 20))
        by_debt = model.decision_function(repeated(insurer), others)
        return [np.diff(scores.reshape(20, 20), axis=1) for scores in (by_age, by_debt)]

    age, debt = changes(None)
    assert (age > 0).any() and (debt < 0).any()
    age, debt = changes(ways)
    assert (age <= 0).all() and (age < 0).any()
    assert (debt >= 0).all() and (debt > 0).any()


@pytest.mark.parametrize(
    ("monotone", "error", "text"),
    [
        (
            {"lendr": {}},
            ConfigError,
            "monotone= names 'lendr', which is no party; did you mean 'lender'",
        ),
        ({"guest": {"age": "up"}}, ConfigError, 'guest: \'age\' must be "increasing" or "decreasing"'),
        ({"guest": {"age": 1}}, ConfigError, 'must be "increasing" or "decreasing", not 1'),
        ({"guest": "age"}, ConfigError, "monotone of guest must be a dict, not 'age'"),
        (["age"], ConfigError, "monotone must be a dict by party, not "),
        (
            {"guest": {"aeg": "increasing"}},
            DataError,
            "guest: monotone= names 'aeg', which is no column; d",
        ),
        (
            {"registry": {"fuel": "increasing"}},
            DataError,
            "registry: monotone=: column 'fuel' is categor",
        ),
    ],
)
def test_constraints_that_cannot_be(monotone, error, text):
    insurer, y, hosts = small()
    for engine in ("plain", "protocol"):
        with pytest.raises(error, match=text):
            quick(monotone=monotone, engine=engine, encryption="lattice").fit(insurer, y, hosts=hosts)


def test_early_stopping_keeps_rows_apart():
    insurer, y, _ = small(400)
    y = np.random.default_rng(0).permutation(y)  # nothing to learn
    model = alone(trees=50, validation_share=0.3, early_stopping_rounds=2).fit(insurer, y)
    assert len(model.train_log_) < 50
    assert all(done.validation_loss is not None for done in model.train_log_)


def test_inside_a_running_event_loop():
    insurer, y, hosts = small()

    async def notebook():
        return quick().fit(insurer, y, hosts=hosts).predict(insurer, hosts)

    predicted = asyncio.run(notebook())
    assert np.array_equal(predicted, quick().fit(insurer, y, hosts=hosts).predict(insurer, hosts))


def test_an_interrupt_ends_the_work_in_the_thread_too():
    insurer, y, _ = small()
    seen = []

    def stop(done):
        seen.append(done.tree)
        if done.tree == 3:
            signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        alone(trees=5000).fit(insurer, y, progress=stop)
    ended = len(seen)
    time.sleep(0.1)
    assert 3 <= ended == len(seen) < 5000


# What trains nothing.


@pytest.mark.parametrize(
    ("params", "text"),
    [
        ({"min_child_rows": 60}, "min_child_rows=60 allows no split of 80 rows: lower min_child_rows"),
        ({"min_child_weight": 50.0}, "min_child_weight=50 allows no split of 80 rows"),
        ({"gamma": 1e6}, "gamma=1e.06 allows no split of 80 rows: lower gamma"),
        ({"min_bin_rows": 50}, "min_bin_rows=50 allows no split of 80 rows"),
        ({"reg_lambda": 1e300}, "reg_lambda=1e.300 allows no split"),
        (
            {"subsample": 0.05},
            "min_child_rows=5 and subsample=0.05 allow no split of 80 rows: lower min_child_rows or rai",
        ),
        (
            {"min_child_rows": 60, "gamma": 1e6},
            "min_child_rows=60 and gamma=1e.06 allow no split of 80 rows: lower min_child_rows and low",
        ),
        (
            {"min_child_rows": 60, "gamma": 1e6, "min_child_weight": 50},
            "min_child_rows=60 and min_child_weight=50 and gamma=1e.06 allow no split",
        ),
        ({"learning_rate": 1e-300}, "learning_rate=1e-300 is so small that no score changes: raise it"),
    ],
)
@pytest.mark.parametrize("objective", ["binary", "poisson"])
def test_trees_that_never_split_are_warned_of(params, text, objective):
    insurer, y, hosts = small()
    settings = {"depth": 2, "trees": 2, "min_child_rows": 5, "min_child_weight": 0.1, **params}
    kind = vfl.SecureBoost
    if objective == "poisson":
        kind, settings["objective"] = vfl.SecureBoostRegressor, objective
    with pytest.warns(VflWarning, match=f"all rows get the same score: {text}") as warned:
        model = kind(hosts=hosts, **settings).fit(insurer, y)
    assert warned[0].filename == __file__
    assert np.ptp(model.decision_function(insurer)) < 1e-200
    assert model.feature_importances_.tolist() == [0.0] or "learning_rate" in text


def test_trees_of_no_use_are_warned_of():
    insurer, y, _ = small()
    with pytest.warns(VflWarning, match="no column tells the 80 rows to train on apart by their lab"):
        alone().fit(insurer.assign(age=1.0), y)
    with pytest.warns(VflWarning, match="guest_trees=1 allows no split.*lower guest_trees"):
        quick(guest_trees=1).fit(insurer[[]], y, hosts=small()[2])


@pytest.mark.parametrize("kind", [vfl.SecureBoostRegressor, vfl.FederatedGLM])
def test_a_constant_label_is_warned_of(kind):
    insurer, _, hosts = small()
    for value in (0.0, 3.5):
        y = np.full(80, value)
        with pytest.warns(VflWarning, match="y is the same in all 80 rows to train on"):
            model = kind(hosts=hosts).fit(insurer, y)
        assert (model.predict(insurer) == value).all()
        assert model.score(insurer, y) == 1.0 and model.score(insurer, y + 1) == 0.0


def test_linear_models_that_tell_nothing_are_warned_of():
    insurer, y, hosts, _ = pooled_claims()
    model = vfl.FederatedGLM(family="poisson", hosts=hosts, alpha=1e300, max_iterations=2)
    with (
        pytest.warns(ConvergenceWarning, match="not converged within max_iterations=2"),
        pytest.warns(VflWarning, match="same score: alpha=1e.300 keeps all coefficients at 0: lower it"),
    ):
        model.fit(insurer, y)


@pytest.mark.parametrize("engine", ["plain", "protocol"])
def test_shares_that_leave_no_row(engine):
    insurer, y, hosts = small(10)
    for params, text in (
        ({"validation_share": 0.999}, "validation_share=0.999 leaves none of the 10 aligned rows to tr"),
        (
            {"validation_share": 1e-9, "early_stopping_rounds": 3},
            "validation_share=1e-09 keeps none of the 10 aligned rows for early_stopping_rounds to",
        ),
    ):
        with pytest.raises(ConfigError, match=text):
            quick(engine=engine, **params).fit(insurer, y, hosts=hosts)
        with pytest.raises(ConfigError, match=text):
            regressor("gamma", engine=engine, **params).fit(insurer, y + 1, hosts=hosts)
    kept = np.random.default_rng([0, 1]).random(10) < 0.5  # as drawn by the seed
    y = np.where(kept, 1, np.arange(10) % 2)
    with pytest.raises(DataError, match=r"rows to stop by, y has only one class.*validation_share=0.5"):
        quick(validation_share=0.5, early_stopping_rounds=1).fit(insurer, y, hosts=hosts)


def test_one_common_row():
    insurer, y, _, hosts = claims()
    one = {"lender": hosts["lender"].loc[["id 5"]]}
    with pytest.warns(VflWarning, match="there is one row to train on"):
        model = regressor("squared").fit(insurer, y, hosts=one)
    assert model.predict(insurer, one) == pytest.approx(y[5])
