"""vfl.SecureBoost: a federation in one process, as a classifier of scikit-learn."""

import asyncio
import inspect
import pickle
import signal
import subprocess
import sys
import threading
import time
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from glum import GeneralizedLinearRegressor
from sklearn.base import clone, is_classifier, is_regressor
from sklearn.exceptions import ConvergenceWarning, NotFittedError
from sklearn.metrics import accuracy_score, d2_tweedie_score, mean_poisson_deviance, roc_auc_score

import vfl
from vfl.crypto.paillier import PrivateKey
from vfl.errors import ConfigError, DataError
from vfl.learn.binning import bin_columns
from vfl.learn.params import BoostParams
from vfl.protocols.boost import guest_train
from vfl.protocols.grower import Training

SAMPLES = Path(__file__).resolve().parents[1] / "data_samples"
IDS = {"guest": "plate", "registry": "registration", "bureau": "plate_no"}
SETTINGS = {"trees": 3, "depth": 3, "learning_rate": 0.5}


@pytest.fixture(scope="module", autouse=True)
def one_key():
    """One Paillier key for all fits: to make one and its tables takes a second or two."""
    key, asked = PrivateKey.generate(2048), []

    def generate(*args, **kwargs):
        asked.append((args, kwargs))
        return key

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(PrivateKey, "generate", generate)
        yield asked


def plate(values: pd.Series) -> pd.Series:
    return values.str.upper().str.replace("[^A-Z0-9]", "", regex=True)


@cache
def samples() -> tuple[pd.DataFrame, pd.Series, dict[str, pd.DataFrame]]:
    """2,400 policies, their label, and what the hosts know of them (and of few others)."""
    insurer = pd.read_csv(SAMPLES / "insurer" / "policies.csv").iloc[:2400]
    hosts = {}
    for name, file in (("registry", "registry/vehicles.csv"), ("bureau", "bureau/drivers.csv")):
        table = pd.read_csv(SAMPLES / file)
        ours = plate(table[IDS[name]]).isin(plate(insurer["plate"]))
        # Aligning thousands of cars that the insurer lacks would only take time.
        hosts[name] = table[ours | (np.arange(len(table)) < 200)]
    return insurer.drop(columns="claim"), insurer["claim"], hosts


@cache
def federation() -> vfl.SecureBoost:
    """Trained on the first 1,200 policies."""
    insurer, y, hosts = samples()
    return vfl.SecureBoost(**SETTINGS, id=IDS).fit(insurer[:1200], y[:1200], hosts=hosts)


def small(rows: int = 80, seed: int = 0) -> tuple[pd.DataFrame, np.ndarray, dict[str, pd.DataFrame]]:
    """Three small tables under one index, each row known to all."""
    rng = np.random.default_rng(seed)
    index = pd.Index([f"id {i}" for i in range(rows)], name="policy")
    insurer = pd.DataFrame({"age": rng.normal(size=rows)}, index)
    lender = pd.DataFrame({"debt": rng.normal(size=rows), "old": rng.random(rows) < 0.5}, index)
    registry = pd.DataFrame({"fuel": rng.choice(["gas", "coal"], rows)}, index).astype("category")
    signal = insurer["age"] + lender["debt"] + (registry["fuel"] == "coal")
    y = (signal > signal.median()).to_numpy(int)
    return insurer, y, {"lender": lender.sample(frac=1, random_state=1), "registry": registry}


def quick(**params) -> vfl.SecureBoost:
    return vfl.SecureBoost(**{"trees": 1, "depth": 2, "min_child_rows": 5, **params})


# Models.


def test_a_federation_beats_the_insurer_alone():
    insurer, y, hosts = samples()
    new, label = insurer[1200:], y[1200:]
    alone = clone(federation()).fit(insurer[:1200], y[:1200])
    p = federation().predict_proba(new, hosts=hosts)
    assert p.shape == (1200, 2)
    assert p.sum(axis=1) == pytest.approx(1)
    # The hosts' columns are worth 0.12 with all rows and many trees (data_samples/README.md). With so
    # few of both less is left; 0.02 sets it apart from none on the 95 claims of these rows.
    assert roc_auc_score(label, p[:, 1]) > roc_auc_score(label, alone.predict_proba(new)[:, 1]) + 0.02


def test_it_equals_the_oracle():
    insurer, y, hosts = samples()
    insurer, y, model = insurer[:1200], y[:1200].to_numpy(float), federation()
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
    assert np.array_equal(model.decision_function(insurer.iloc[model.aligned_], hosts), scores)


def test_what_a_fitted_model_tells():
    model = federation()
    table = model.feature_importances_
    assert list(table.columns) == ["party", "column", "splits", "gain"]
    assert set(table["party"]) == {"guest", "registry", "bureau"}
    assert table["gain"].is_monotonic_decreasing
    assert table["splits"].sum() == sum(len(t.branches) for t in model.model_.trees)
    assert not set(table["column"]) & set(IDS.values())
    assert model.classes_.tolist() == [0, 1]
    assert set(model.halves_) == {"registry", "bureau"}
    # A ciphertext of 512 bytes a row and tree, at the least.
    assert all(size > 3 * 512 * model.n_aligned_ for size in model.traffic_.values())
    assert set(model.traffic_) == {"registry", "bureau"}
    assert [done.tree for done in model.train_log_] == [1, 2, 3]
    losses = [done.train_loss for done in model.train_log_]
    assert losses == sorted(losses, reverse=True)


def test_the_guest_alone_trains_on_all_its_rows():
    insurer, y, _ = small()
    told = []
    model = quick(trees=3).fit(insurer, y, progress=told.append)
    assert told == model.train_log_ and len(told) == 3
    assert (model.n_aligned_, model.halves_, model.traffic_) == (80, {}, {})
    assert model.aligned_.tolist() == list(range(80))
    assert accuracy_score(y, model.predict(insurer)) == model.score(insurer, y) > 0.6


def test_rows_unknown_to_a_host_count_as_missing_there_in_input_order():
    insurer, y, hosts = small()
    hosts["lender"].loc["id 3", "debt"] = np.nan  # so that training has seen a missing value
    model = quick(depth=3, min_child_rows=1).fit(insurer, y, hosts=hosts)
    new = insurer.sample(frac=1, random_state=2)
    whole = model.decision_function(new, hosts)
    assert np.array_equal(
        whole, model.decision_function(insurer, hosts)[insurer.index.get_indexer(new.index)]
    )

    unknown = new.index[::3]
    without = {**hosts, "lender": hosts["lender"].drop(unknown)}
    blanked = {**hosts, "lender": hosts["lender"].astype({"old": "boolean"})}
    blanked["lender"].loc[unknown] = pd.NA
    scores = model.decision_function(new, without)
    assert np.array_equal(scores, model.decision_function(new, blanked))
    assert (scores != whole).any()
    nobody = {**hosts, "lender": hosts["lender"][:0]}
    assert np.isfinite(model.decision_function(new, nobody)).all()


def test_no_new_rows():
    insurer, y, hosts = small()
    model = quick().fit(insurer, y, hosts=hosts)
    assert model.predict_proba(insurer[:0], hosts).shape == (0, 2)


def test_a_guest_with_a_label_and_no_columns():
    insurer, y, hosts = small()
    model = quick(trees=2).fit(insurer[[]], y, hosts=hosts)
    assert set(model.feature_importances_["party"]) <= {"lender", "registry"}
    assert model.score(insurer[[]], y, hosts) > 0.6


def test_the_key_is_as_the_parameters_say(one_key):
    insurer, y, hosts = small()
    for obfuscators in ("short", "full"):
        quick(obfuscators=obfuscators).fit(insurer, y, hosts=hosts)
        assert one_key[-1] == ((2048,), {"full_exponents": obfuscators == "full"})


def test_weights_count():
    insurer, y, _ = small()
    weight = np.where(insurer["age"] > 0, 1.0, 3.0)
    weighted = quick().fit(insurer, y, sample_weight=weight)
    repeated = np.repeat(np.arange(80), weight.astype(int))
    same = quick(min_child_rows=1).fit(insurer.iloc[repeated], y[repeated])
    assert weighted.model_.start == pytest.approx(same.model_.start)
    assert weighted.model_.start != quick().fit(insurer, y).model_.start


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
    with pytest.raises(error, match=text):
        quick(monotone=monotone).fit(insurer, y, hosts=hosts)


def test_early_stopping_keeps_rows_apart():
    insurer, y, _ = small(400)
    y = np.random.default_rng(0).permutation(y)  # nothing to learn
    model = quick(trees=50, validation_share=0.3, early_stopping_rounds=2).fit(insurer, y)
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
        quick(trees=5000).fit(insurer, y, progress=stop)
    ended = len(seen)
    time.sleep(0.1)
    assert 3 <= ended == len(seen) < 5000


def test_a_model_can_be_pickled():
    insurer, y, _ = small()
    model = quick().fit(insurer, y)
    again = pickle.loads(pickle.dumps(model))  # noqa: S301
    assert np.array_equal(again.decision_function(insurer), model.decision_function(insurer))


# Regressors.


def claims(rows: int = 120) -> tuple[pd.DataFrame, np.ndarray, np.ndarray, dict[str, pd.DataFrame]]:
    """Tables as of `small`, counts of claims and the years in which they happened."""
    insurer, high, hosts = small(rows)
    rng = np.random.default_rng(1)
    years = rng.uniform(0.1, 2, rows)
    return insurer, rng.poisson(years * np.where(high, 1.5, 0.3)).astype(float), years, hosts


def regressor(objective="poisson", **params) -> vfl.SecureBoostRegressor:
    settings = {"trees": 2, "depth": 2, "min_child_rows": 5, **params}
    return vfl.SecureBoostRegressor(objective=objective, **settings)


def test_claim_frequency_by_exposure():
    insurer, y, years, hosts = claims()
    model = regressor(trees=8).fit(insurer, y, hosts=hosts, exposure=years)
    rate = model.predict(insurer, hosts)
    assert rate == pytest.approx(np.exp(model.decision_function(insurer, hosts)))
    # At the start the rate is that of all claims in all years, and later too but for the penalty.
    assert np.exp(model.model_.start) == pytest.approx(y.sum() / years.sum())
    assert (rate * years).sum() == pytest.approx(y.sum(), rel=0.1)
    expected = d2_poisson(y, rate * years, y.sum() / years.sum() * years)
    assert model.score(insurer, y, hosts, exposure=years) == pytest.approx(expected)
    assert expected > 0.1
    assert not is_classifier(model) and is_regressor(model)
    # An offset of log(exposure) is the same model.
    same = regressor(trees=8).fit(insurer, y, hosts=hosts, offset=np.log(years))
    # But for rounding: two alignments have two orders, in which the scores' start is summed up.
    assert same.decision_function(insurer, hosts) == pytest.approx(
        model.decision_function(insurer, hosts), abs=1e-5
    )
    assert same.predict(insurer, hosts, offset=np.log(years)) == pytest.approx(rate * years)


def d2_poisson(label: np.ndarray, mean: np.ndarray, constant: np.ndarray) -> float:
    return 1 - mean_poisson_deviance(label, mean) / mean_poisson_deviance(label, constant)


@pytest.mark.parametrize("objective", ["gamma", "tweedie", "squared"])
def test_amounts(objective):
    insurer, y, years, hosts = claims()
    y = 1000 * (y + (objective == "gamma"))
    model = regressor(objective, tweedie_power=1.4).fit(insurer, y, hosts=hosts, sample_weight=years)
    power = {"gamma": 2, "tweedie": 1.4, "squared": 0}[objective]
    found = d2_tweedie_score(y, model.predict(insurer, hosts), power=power, sample_weight=years)
    assert model.score(insurer, y, hosts, sample_weight=years) == pytest.approx(found)
    assert 0.02 < found < 1
    alone = clone(model).fit(insurer, y, sample_weight=years)
    assert alone.score(insurer, y, sample_weight=years) < found


def pooled_claims(rows: int = 300, seed: int = 3):
    """Three small tables, a count and the years at risk."""
    insurer, _, hosts = small(rows, seed)
    rng = np.random.default_rng(seed)
    years = rng.uniform(0.2, 1.5, rows)
    registry = hosts["registry"]
    effect = 0.3 * insurer["age"] + 0.6 * (registry["fuel"] == "coal") - 0.2
    return insurer, rng.poisson(years * np.exp(effect)), hosts, years


@pytest.mark.parametrize("encryption", ["paillier", "lattice"])
def test_a_linear_model_is_that_of_the_pooled_columns(encryption):
    insurer, claims, hosts, years = pooled_claims()
    model = vfl.FederatedGLM(
        family="poisson",
        tolerance=1e-9,
        encryption=encryption,
        rules={"registry": {"base": {"fuel": "gas"}}},
    )
    seen = []
    model.fit(insurer, claims, hosts=hosts, exposure=years, progress=seen.append)
    assert model.converged_ and model.n_iter_ == len(seen) - 1 == len(model.train_log_) - 1
    lender = hosts["lender"].loc[insurer.index]

    def standard(values: pd.Series) -> np.ndarray:
        values = values.to_numpy(float)
        return (values - values.mean()) / values.std()

    columns = np.column_stack(
        [
            standard(insurer["age"]),
            standard(lender["debt"]),
            standard(lender["old"]),
            hosts["registry"]["fuel"] == "coal",
        ]
    )
    pooled = GeneralizedLinearRegressor(family="poisson", alpha=0, gradient_tol=1e-10, max_iter=500).fit(
        columns, claims, offset=np.log(years)
    )
    assert list(model.coef_) == ["guest", "lender", "registry"]
    assert model.coef_["lender"].index.tolist() == [("debt", ""), ("old", "")]
    assert model.coef_["registry"].index.tolist() == [("fuel", "coal")]
    assert pd.concat(model.coef_).to_numpy() == pytest.approx(pooled.coef_, abs=1e-6)
    assert model.intercept_ == pytest.approx(pooled.intercept_, abs=1e-6)
    assert model.predict(insurer, hosts) == pytest.approx(pooled.predict(columns), rel=1e-6)
    assert model.score(insurer, claims, hosts, exposure=years) == pytest.approx(
        model.model_.explained, abs=1e-9
    )
    table = model.relativities_["registry"]
    assert list(table.columns) == ["column", "level", "coefficient", "per_unit", "relativity", "rows"]
    assert table["relativity"].tolist() == pytest.approx([np.exp(pooled.coef_[3]), 1.0])
    assert model.relativities_["guest"]["column"].tolist() == ["(intercept)", "age"]
    assert sum(model.traffic_.values()) > 0
    # A row that a host does not know: its factors at their base, its numbers at their mean.
    nobody = {name: table[:0] for name, table in hosts.items()}
    age = standard(insurer["age"]) * model.coef_["guest"].iloc[0]
    assert model.predict(insurer, nobody) == pytest.approx(np.exp(model.intercept_ + age), rel=1e-5)
    again = pickle.loads(pickle.dumps(model))  # noqa: S301 - our own
    assert np.array_equal(again.predict(insurer, hosts), model.predict(insurer, hosts))


def test_a_linear_model_of_a_0_1_label():
    insurer, y, hosts = small(200)
    model = vfl.FederatedLogisticRegression(alpha=0.1).fit(insurer, y, hosts=hosts)
    assert is_classifier(model) and list(model.classes_) == [0, 1]
    p = model.predict_proba(insurer, hosts)
    assert p.sum(axis=1) == pytest.approx(1)
    assert roc_auc_score(y, p[:, 1]) > 0.9
    assert model.score(insurer, y, hosts) > 0.8
    alone = clone(model).fit(insurer, y)
    assert list(alone.coef_) == ["guest"]
    assert roc_auc_score(y, alone.predict_proba(insurer)[:, 1]) < 0.9


def test_a_linear_model_of_any_number_has_no_relativities():
    insurer, _, hosts, _ = pooled_claims()
    y = insurer["age"] * 2 + 1 + (hosts["registry"]["fuel"] == "coal")
    model = vfl.FederatedGLM().fit(insurer, y, hosts={"registry": hosts["registry"]})
    assert is_regressor(model)
    assert model.score(insurer, y, {"registry": hosts["registry"]}) == pytest.approx(1)
    assert model.relativities_["registry"]["relativity"].isna().all()


def test_a_linear_model_without_columns_of_the_guest():
    insurer, y, hosts = small()
    model = vfl.FederatedLogisticRegression(alpha=0.1).fit(insurer[[]], y, hosts=hosts)
    assert model.coef_["guest"].empty
    assert model.relativities_["guest"]["column"].tolist() == ["(intercept)"]


def test_a_fit_that_ends_too_early_is_warned_of_where_it_was_asked_for():
    insurer, claims, hosts, _ = pooled_claims()
    model = vfl.FederatedGLM(family="poisson", max_iterations=1)
    with pytest.warns(
        ConvergenceWarning, match="not converged within max_iterations=1: raise it"
    ) as caught:
        model.fit(insurer, claims, hosts=hosts)
    assert caught[0].filename == __file__
    assert not model.converged_ and model.n_iter_ == 1


@pytest.mark.parametrize(
    ("params", "text"),
    [
        ({"family": "logistic"}, "family='logistic': there are poisson, gamma, tweedie, gaussian"),
        ({"alpha": -1}, "alpha=-1: "),
        ({"encryption": "ou"}, "encryption='ou': .*must be"),
        (
            {"rules": {"registri": {}}},
            "rules= names 'registri', which is no party; did you mean 'regist",
        ),
        ({"rules": {"registry": {"bin": ["a"]}}}, "rules of registry: bin=.*"),
        ({"rules": {"registry": {"bins": 1}}}, "rules of registry: bins=1: "),
    ],
)
def test_settings_of_a_linear_model_that_cannot_be(params, text):
    insurer, claims, hosts, _ = pooled_claims()
    with pytest.raises(ConfigError, match=text):
        vfl.FederatedGLM(**params).fit(insurer, claims, hosts=hosts)


def test_columns_of_a_linear_model_that_cannot_be():
    insurer, claims, hosts, _ = pooled_claims()
    for rules, text in (
        ({"registry": {"binned": ("fuel",)}}, "registry: column 'fuel' is categorical"),
        ({"registry": {"base": {"fuel": "wood"}}}, "registry: column 'fuel' has no level 'wood'"),
        ({"guest": {"binned": ["years"]}}, "guest: there is no column 'years'"),
    ):
        with pytest.raises(DataError, match=text):
            vfl.FederatedGLM(family="poisson", rules=rules).fit(insurer, claims, hosts=hosts)
    lender = hosts["lender"].assign(twice=lambda t: 2 * t["debt"])
    with pytest.raises(DataError, match="lender: column 'twice' is a linear combination of other"):
        vfl.FederatedGLM(family="poisson").fit(insurer, claims, hosts={"lender": lender})


def test_parameters_of_linear_models():
    for kind, named in ((vfl.FederatedGLM, {"family"}), (vfl.FederatedLogisticRegression, set())):
        assert set(kind().get_params()) == named | {
            *("id", "normalise", "workers", "rules", "alpha", "tweedie_power", "fit_intercept"),
            *("max_iterations", "tolerance", "encryption", "key_bits", "obfuscators"),
        }
        assert "L2 penalty" in kind.__doc__ and "Bins" not in kind.__doc__
        assert clone(kind(alpha=0.5)).alpha == 0.5
        with pytest.raises(TypeError, match=f"{kind.__name__} has no parameter 'alhpa'; did you mean"):
            kind(alhpa=1)


def test_two_workers_train_the_same_model():
    insurer, y, years, hosts = claims()
    one, two = (
        regressor(workers=n, trees=1).fit(insurer, y, hosts=hosts, exposure=years) for n in (1, 2)
    )
    # But for rounding: two alignments have two orders, in which the scores' start is summed up.
    assert one.predict(insurer, hosts) == pytest.approx(two.predict(insurer, hosts), abs=1e-5)


@pytest.mark.parametrize(
    ("objective", "given", "error", "text"),
    [
        ("poisson", {"exposure": np.zeros(120)}, DataError, "exposure must be positive .* in 120 rows"),
        ("poisson", {"exposure": np.ones(9)}, DataError, "exposure has 9 values for 120 rows"),
        ("poisson", {"offset": np.full(120, np.inf)}, DataError, "offset has 120 infinite numbers"),
        ("poisson", {"offset": np.full(120, np.nan)}, DataError, "offset is missing in 120 rows"),
        ("poisson", {"y": -np.ones(120)}, DataError, "y must not be negative but is in 120 rows"),
        ("gamma", {}, DataError, r"y must be above 0 but is not in \d+ rows: leave out"),
        ("gamma", {"exposure": np.ones(120)}, ConfigError, "exposure= is for counts .poisson.: an am"),
        ("tweedie", {"exposure": np.ones(120)}, ConfigError, "divide the amount by the exposure"),
        ("binary", {}, ConfigError, "objective='binary': there are poisson, gamma, tweedie, squared"),
        ("deviance", {}, ConfigError, "objective='deviance': there are poisson, gamma"),
    ],
)
def test_what_a_regressor_cannot_use_is_said(objective, given, error, text):
    insurer, y, _, _ = claims()
    with pytest.raises(error, match=text):
        regressor(objective).fit(**{"insurer": insurer, "y": y, **given})


def test_a_regressor_predicts_with_an_offset_where_it_was_trained_with_one():
    insurer, y, _, _ = claims()
    with pytest.raises(NotFittedError):
        regressor().predict(insurer)
    model = regressor().fit(insurer, y)
    with pytest.raises(ConfigError, match="trained with no offset: give predict and score the same"):
        model.predict(insurer, offset=np.zeros(120))
    model = regressor().fit(insurer, y, offset=np.zeros(120))
    with pytest.raises(ConfigError, match="trained with an offset: give"):
        model.predict(insurer)


# Ids.


def test_ids_are_cleaned_and_may_lie_in_columns_levels_or_the_index():
    insurer, y, hosts = small()
    wanted = quick().fit(insurer, y, hosts=hosts).decision_function(insurer, hosts)
    lender, registry = hosts["lender"], hosts["registry"]
    written = {
        "lender": lender.reset_index(names="who").assign(who=lambda t: t["who"].str.upper() + " "),
        "registry": registry.set_axis(registry.index.str.replace(" ", "-")),
    }
    ids = {"guest": "policy", "lender": ["who"], "registry": None, "elsewhere": "no matter"}
    model = quick(id=ids).fit(insurer, y, hosts=written)
    assert np.array_equal(model.decision_function(insurer, written), wanted)
    assert model.feature_importances_["column"].isin(["age", "debt", "old", "fuel"]).all()


def test_whole_numbers_and_text_are_the_same_ids():
    insurer, y, hosts = small()
    insurer.index = pd.Index(range(100, 180), name="number")
    named = {f"id {i}": f"{100 + i}" for i in range(80)}
    model = quick().fit(insurer, y, hosts={n: t.rename(index=named) for n, t in hosts.items()})
    assert model.n_aligned_ == 80


def test_ids_of_several_columns():
    insurer, y, hosts = small()
    both = pd.MultiIndex.from_arrays([np.arange(80) // 9, np.arange(80) % 9], names=["a", "b"])
    insurer = insurer.set_axis(both)
    lender = hosts["lender"].sort_index(key=lambda i: i.str[3:].astype(int)).set_axis(both)
    split = lender.reset_index()
    model = quick(id={"guest": None, "lender": ["a", "b"]})
    assert model.fit(insurer, y, hosts={"lender": split}).n_aligned_ == 80
    with pytest.raises(ConfigError, match="as many columns at each party: guest has 2, lender has 1"):
        quick(id={"guest": None, "lender": "a"}).fit(insurer, y, hosts={"lender": split[::9]})


def test_row_numbers_as_ids_are_warned_of():
    insurer, y, hosts = small()
    hosts = {"registry": hosts["registry"].reset_index(drop=True)}
    with pytest.warns(UserWarning, match="its ids are the row numbers") as warned:
        quick().fit(insurer.reset_index(drop=True), y, hosts=hosts)
    assert {str(w.message).split(":")[0] for w in warned} == {"guest", "registry"}
    assert {w.filename for w in warned} == {__file__}


def changed(name: str) -> dict:
    """Arguments of fit, one of them spoilt."""
    insurer, y, hosts = small()
    lender, empty = hosts["lender"], ["", *insurer.index[1:]]
    twice = pd.concat([lender, lender[:2]])
    spoilt = {
        "no id in common": {"hosts": {"lender": lender.set_axis(lender.index + "x")}},
        "host's id twice": {"hosts": {"lender": twice}},
        "guest's id empty": {"insurer": insurer.set_axis(empty)},
        "id of decimals": {"insurer": insurer.set_axis(np.arange(80) + 0.5)},
        "id column missing": {"id": "polcy"},
        "party without id": {"id": {"guest": None, "lendr": None}},
        "host called guest": {"hosts": {"guest": lender}},
        "date": {"insurer": insurer.assign(since=pd.Timestamp("2024-01-01"))},
        "date object": {"insurer": insurer.assign(since=pd.Timestamp("2024-01-01").date())},
        "time span": {"insurer": insurer.assign(age=pd.Timedelta("1D"))},
        "complex": {"insurer": insurer.assign(age=1j)},
        "infinite": {"hosts": {"lender": lender.assign(debt=np.inf)}},
        "column without values": {"hosts": {"lender": lender.assign(debt=np.nan)}},
        "host without columns": {"hosts": {"lender": lender[[]]}},
        "column twice": {"insurer": pd.concat([insurer, insurer], axis=1)},
        "no table": {"insurer": insurer.to_numpy()},
        "y short": {"y": y[:-1]},
        "y of text": {"y": np.where(y == 1, "yes", "no")},
        "y of 1 and 2": {"y": y + 1},
        "y with gaps": {"y": np.where(insurer["age"] > 1, np.nan, y)},
        "y of one class": {"y": y * 0},
        "y of two columns": {"y": np.column_stack([y, y])},
        "y in another order": {"y": pd.Series(y, insurer.index)[::-1]},
        "weight zero": {"sample_weight": np.arange(80)},
        "weight missing": {"sample_weight": np.where(y == 1, 1, np.nan)},
        "one class aligned": {"hosts": {"lender": lender.loc[insurer.index[y == 1]]}},
        "two draws": {"goss_top": 0.2, "goss_other": 0.1, "subsample": 0.5},
        "no workers": {"workers": 0},
        "too deep": {"depth": 11},
        "rule unknown": {"normalise": ["upper", "trimm"]},
        "no such key": {"key_bits": 1024},
    }
    return {"insurer": insurer, "y": y, "hosts": {"lender": lender}, **spoilt[name]}


@pytest.mark.parametrize(
    ("name", "error", "text"),
    [
        ("no id in common", DataError, "no id is common to all parties"),
        (
            "host's id twice",
            DataError,
            "lender: 2 rows have the id of an earlier .*positions 80, 81",
        ),
        ("guest's id empty", DataError, "guest: 1 row has no id once normalised .*positions 0"),
        ("id of decimals", DataError, "guest: the index holds a number that is not whole"),
        ("id column missing", DataError, "guest: no column 'polcy' .*there is age"),
        ("party without id", ConfigError, "id= says nothing of 'lender'; did you mean 'lendr'"),
        ("host called guest", ConfigError, "a host needs a name, other than 'guest'"),
        ("date", DataError, "guest: column 'since' holds dates or times: turn it into a number"),
        ("date object", DataError, "guest: column 'since' holds dates or times"),
        ("time span", DataError, "guest: column 'age' holds dates or times"),
        ("complex", DataError, "guest: column 'age' is of type complex128, not of numbers"),
        ("infinite", DataError, "lender: column 'debt' has 80 infinite numbers"),
        ("column without values", DataError, "lender: column 'debt' has no value in any row"),
        ("host without columns", DataError, "lender: no column is left"),
        ("column twice", DataError, "guest: column names must be plain and each must come once"),
        ("no table", DataError, "guest: a table must be a pandas DataFrame, not ndarray"),
        ("y short", DataError, "y has 79 values for 80 rows"),
        ("y of text", DataError, "y is of type .*, not of numbers"),
        ("y of 1 and 2", DataError, r"y must be 0 or 1 but is something else in 40 rows: correct it"),
        ("y with gaps", DataError, r"y is missing in \d+ rows"),
        ("y of one class", DataError, "y has only one class"),
        ("y of two columns", DataError, "y must have one value a row, not 2 dimensions"),
        ("y in another order", DataError, "y has the rows in another order than the table"),
        ("weight zero", DataError, "sample_weight must be positive but is not in 1 rows"),
        ("weight missing", DataError, "sample_weight is missing in 40 rows"),
        ("one class aligned", DataError, "in the 40 aligned rows to train on, y has only one class"),
        ("two draws", ConfigError, "^subsample and goss_top both draw rows"),
        ("no workers", ConfigError, "^workers must be a whole number of at least 1"),
        ("too deep", ConfigError, "depth=11: .*less than or equal to 10"),
        ("rule unknown", ConfigError, "unknown step 'trimm'.*did you mean 'trim'"),
        ("no such key", ConfigError, "key_bits=1024: .*2048, 3072 or 4096"),
    ],
)
def test_what_cannot_be_used_is_said(name, error, text):
    arguments = changed(name)
    given = ("insurer", "y", "hosts", "sample_weight")
    model = quick(**{k: v for k, v in arguments.items() if k not in given})
    with pytest.raises(error, match=text):
        model.fit(**{k: v for k, v in arguments.items() if k in given})
    with pytest.raises(NotFittedError):
        model.predict(arguments["insurer"])


def test_prediction_wants_the_parties_and_columns_of_training():
    insurer, y, hosts = small()
    model = quick().fit(insurer, y, hosts=hosts)
    with pytest.raises(ConfigError, match="trained with lender, registry, but hosts= has no hosts"):
        model.predict(insurer)
    with pytest.raises(ConfigError, match="but hosts= has lender:"):
        model.predict(insurer, {"lender": hosts["lender"]})
    renamed = hosts["lender"].rename(columns={"debt": "dept"})
    with pytest.raises(DataError, match=r"lender: no column 'debt', .*did you mean 'dept'"):
        model.predict(insurer, {**hosts, "lender": renamed})
    text = hosts["lender"].assign(debt="much")
    with pytest.raises(DataError, match=r"lender: column 'debt' is of type .*, not of numbers"):
        model.predict(insurer, {**hosts, "lender": text})


def test_columns_keep_their_kind_and_others_are_ignored():
    insurer, _, _ = small()
    coded = pd.Series([1.0, 2.0, 3.0, None] * 20, insurer.index, dtype=object)
    insurer = insurer.assign(code=coded, nullable=pd.array([1, None] * 40, dtype="Int64"))
    y = (coded == 2.0).to_numpy(int)
    model = quick().fit(insurer, y)
    assert model.feature_importances_["column"].tolist()[0] == "code"
    numeric = insurer.assign(code=coded.astype(float), more="of no use")[::-1]
    assert np.array_equal(model.decision_function(numeric)[::-1], model.decision_function(insurer))
    texts = insurer.assign(code=coded.map({1.0: "1", 2.0: "2", 3.0: "3"}))
    assert np.array_equal(model.decision_function(texts), model.decision_function(insurer))


def test_an_id_among_the_features_is_found_out():
    rows = 10_001
    frame = pd.DataFrame({"vin": [f"V{i}" for i in range(rows)]})
    with pytest.raises(DataError, match="column 'vin' has 10,001 categories, over 10,000: it looks"):
        quick().fit(frame, np.arange(rows) % 2)


# scikit-learn's habits.


def test_parameters_are_those_of_boost_params():
    signature = inspect.signature(vfl.SecureBoost)
    defaults = {name: field.default for name, field in BoostParams.model_fields.items()}
    shown = {name: p.default for name, p in signature.parameters.items()}
    own = {"id": None, "normalise": ("nfkc", "trim", "upper", "alnum"), "workers": 1, "monotone": None}
    assert shown == {**own, **defaults}
    assert vfl.SecureBoost().get_params() == shown
    regressor = inspect.signature(vfl.SecureBoostRegressor)
    shown = {name: p.default for name, p in regressor.parameters.items()}
    assert shown == {"objective": "squared", **own, **defaults}
    assert vfl.SecureBoostRegressor().get_params() == shown
    for name in (*own, *defaults):
        assert f"- {name}: " in vfl.SecureBoost.__doc__
        assert f"- {name}: " in vfl.SecureBoostRegressor.__doc__


def test_clone_set_params_and_repr():
    model = vfl.SecureBoost(trees=7, id=IDS)
    assert is_classifier(model)
    assert clone(model).get_params() == model.get_params()
    assert not hasattr(clone(federation()), "model_")
    assert repr(vfl.SecureBoost(trees=7, depth=4)) == "SecureBoost(trees=7)"
    assert repr(model.set_params(id=None, depth=2)) == "SecureBoost(depth=2, trees=7)"
    assert "SecureBoost" in model._repr_html_()
    with pytest.raises(ValueError, match="Invalid parameter 'dept'"):
        model.set_params(dept=3)


def test_misspelt_parameters():
    with pytest.raises(TypeError, match="no parameter 'treees'; did you mean 'trees'"):
        vfl.SecureBoost(treees=3)
    with pytest.raises(
        TypeError, match="no parameter 'xyz'; there are monotone, id, normalise, workers, t"
    ):
        vfl.SecureBoost(xyz=3)


def test_numbers_of_numpy_are_numbers():
    insurer, y, _ = small()
    model = quick(trees=np.int64(2), learning_rate=np.float64(0.5)).fit(insurer, y)
    assert len(model.train_log_) == 2


def test_not_fitted():
    insurer, _, hosts = small()
    for method in ("predict", "predict_proba", "decision_function"):
        with pytest.raises(NotFittedError):
            getattr(quick(), method)(insurer, hosts)


def test_importing_the_package_imports_no_pandas():
    code = "import sys, vfl; assert 'pandas' not in sys.modules; print(vfl.SecureBoost, dir(vfl))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "vfl.simulate.SecureBoost" in done.stdout, done.stderr
    assert "'SecureBoost'" in done.stdout
    with pytest.raises(AttributeError, match="'vfl' has no attribute 'SecureBost'"):
        _ = vfl.SecureBost
