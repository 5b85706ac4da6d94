"""The estimators over the tables of several parties: what they learn, what they tell."""

import pickle
import re
import warnings
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import sklearn
from glum import GeneralizedLinearRegressor
from pool import patients
from sklearn.base import clone, is_classifier, is_regressor
from sklearn.exceptions import ConvergenceWarning, NotFittedError
from sklearn.metrics import accuracy_score, d2_tweedie_score, mean_poisson_deviance, roc_auc_score
from small_tables import IDS, alone, claims, pooled_claims, quick, regressor, samples, small

import vfl
from vfl.errors import ConfigError, DataError, VflWarning
from vfl.estimators import federation as federation_module
from vfl.party.ids import normalise as normalise_ids


@cache
def federation() -> vfl.SecureBoost:
    """Trained on the first 1,200 policies."""
    insurer, y, hosts = samples()
    model = vfl.SecureBoost(trees=3, depth=3, learning_rate=0.5, id=IDS, hosts=hosts)
    return model.fit(insurer[:1200], y[:1200])


def test_a_federation_beats_the_insurer_alone():
    insurer, y, _ = samples()
    new, label = insurer[1200:], y[1200:]
    alone = clone(federation()).set_params(hosts={}).fit(insurer[:1200], y[:1200])
    p = federation().predict_proba(new)
    assert p.shape == (1200, 2)
    assert p.sum(axis=1) == pytest.approx(1)
    # The hosts' columns are worth 0.12 with all rows and many trees (data_samples/README.md). With so
    # few of both less is left; 0.02 sets it apart from none on the 95 claims of these rows.
    assert roc_auc_score(label, p[:, 1]) > roc_auc_score(label, alone.predict_proba(new)[:, 1]) + 0.02


def test_what_a_fitted_model_tells():
    model = federation()
    table = model.importance_table_
    assert list(table.columns) == ["party", "column", "splits", "gain"]
    assert set(table["party"]) == {"guest", "registry", "bureau"}
    assert table["gain"].is_monotonic_decreasing
    assert table["splits"].sum() == sum(len(t.branches) for t in model.model_.trees)
    assert not set(table["column"]) & set(IDS.values())
    assert model.classes_.tolist() == [0, 1]
    assert set(model.halves_) == {"registry", "bureau"}
    assert [done.tree for done in model.train_log_] == [1, 2, 3]
    losses = [done.train_loss for done in model.train_log_]
    assert losses == sorted(losses, reverse=True)
    # Of the guest's table alone, in its order, of which the id is no feature.
    columns = list(samples()[0].columns)
    assert model.feature_names_in_.tolist() == columns and model.n_features_in_ == len(columns)
    shares = dict(zip(columns, model.feature_importances_, strict=True))
    own = table[table["party"] == "guest"].set_index("column")["gain"] / table["gain"].sum()
    assert {name: share for name, share in shares.items() if share} == pytest.approx(own.to_dict())
    assert shares["plate"] == 0 < sum(shares.values()) < 1


def test_the_example_of_the_readme_runs(tmp_path, monkeypatch):
    root = Path(__file__).resolve().parents[1]
    (code,) = re.findall(r"```python\n(.*?)```", (root / "README.md").read_text(), re.DOTALL)
    fewer = code.replace('policies.csv")', 'policies.csv").head(1500)', 1)
    (tmp_path / "data_samples").symlink_to(root / "data_samples")
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    exec(fewer, names)  # noqa: S102 - our own
    assert names["auc"].mean() > names["alone"].mean()
    again = vfl.load("claim.json").predict_proba(names["new"], names["hosts"])[:, 1]
    assert np.array_equal(again, names["probability"]) and len(again) == 1000


@pytest.mark.filterwarnings("ignore::vfl.errors.VflWarning")  # the exposure is a column as well
def test_the_examples_of_the_python_page_run(tmp_path, monkeypatch):
    page = Path(__file__).resolve().parents[1] / "docs" / "python.md"
    insurer, claim, hosts = samples()
    people = patients(300)
    monkeypatch.chdir(tmp_path)
    names = {
        "vfl": vfl,
        "policies": insurer[:600],
        "claim": claim[:600],
        "claims": claim[:600],
        "paid": 700.0 * claim[:600],
        "single_claims": insurer[:600][claim[:600] > 0][["plate"]].assign(paid=700.0),
        "years": insurer["exposure"][:600],
        "weight": np.ones(600),
        "new_policies": insurer[600:700],
        "hosts": hosts,
        "both": hosts,
        "vehicles": hosts["registry"],
        "drivers": hosts["bureau"],
        "ids": IDS,
        "patients": people[["age", "dose", "ward"]].assign(hospital=np.arange(300) % 2),
        "died": people["died"],
        "visits": people["visits"],
        "days": people["years"] * 365,
    }
    with sklearn.config_context():
        for code in re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL):
            if ".save(" in code:
                names["model"].fit(names["policies"], names["claims"])
            fewer = re.sub(
                r"\b(id=(?:ids|\{))", r"trees=2, \1", code.replace("n_trials=30", "n_trials=2")
            )
            exec(fewer, names)  # noqa: S102 - our own
    assert (tmp_path / "claim.json").exists() and names["model"].n_aligned_ > 400


def test_the_guest_alone_trains_on_all_its_rows():
    insurer, y, _ = small()
    told = []
    model = alone(trees=3).fit(insurer, y, progress=told.append)
    assert told == model.train_log_ and len(told) == 3
    assert (model.n_aligned_, model.halves_, model.traffic_) == (80, {}, None)
    assert model.aligned_.tolist() == list(range(80))
    assert accuracy_score(y, model.predict(insurer)) == model.score(insurer, y) > 0.6
    assert model.feature_importances_.sum() == pytest.approx(1)


# Hosts, given once or for a call.


def test_a_model_of_the_guest_alone_has_to_be_asked_for():
    insurer, y, hosts = small()
    with pytest.raises(ConfigError, match=r"no host's table was given: give hosts=.name: table. to Sec"):
        quick().fit(insurer, y)
    ids = {"guest": None, "lender": None, "registry": None}
    with pytest.raises(
        ConfigError, match=r"was given, though id= names lender, registry: give .* hosts="
    ):
        quick(id=ids).fit(insurer, y)
    with pytest.raises(ConfigError, match="for a model of the guest alone"):
        vfl.FederatedGLM().fit(insurer, y)
    assert quick(id=ids).fit(insurer, y, hosts={}).halves_ == {}
    assert quick(id=ids, hosts={}).fit(insurer, y).model_.parties == ("guest",)
    assert quick(hosts={}).fit(insurer, y, hosts=hosts).model_.parties == ("guest", *hosts)


def test_trees_that_are_all_of_the_guest_alone_are_warned_of():
    insurer, y, hosts = small()
    with pytest.warns(VflWarning, match=r"guest_trees=2 leaves the hosts out of all 2 trees: lower it"):
        quick(trees=2, guest_trees=2).fit(insurer, y, hosts=hosts)


def test_trees_without_a_split_are_warned_of_where_they_are_many():
    insurer, y, hosts = small()
    few = {"goss_top": 0.01, "goss_other": 0.01, "learning_rate": 1.0}
    with pytest.warns(VflWarning, match=r"^3 of 4 trees have no split: fewer trees do as well$"):
        quick(trees=4, **few).fit(insurer, y, hosts=hosts)


def test_hosts_of_the_constructor_serve_all_calls():
    insurer, y, hosts = small()
    once = quick(trees=3, hosts=hosts).fit(insurer, y)
    each = quick(trees=3).fit(insurer, y, hosts=hosts)
    assert np.array_equal(once.predict_proba(insurer), each.predict_proba(insurer, hosts))
    assert once.score(insurer, y) == each.score(insurer, y, hosts)
    # Those of a call take their place; a model of fewer hosts leaves the others out.
    others = {name: table[:40] for name, table in hosts.items()}
    assert np.array_equal(
        once.decision_function(insurer, others), each.decision_function(insurer, others)
    )
    lender = quick(hosts=hosts).fit(insurer, y, hosts={"lender": hosts["lender"]})
    assert lender.model_.parties == ("guest", "lender")
    assert (
        lender.predict(insurer).tolist() == lender.predict(insurer, {"lender": hosts["lender"]}).tolist()
    )
    guest = quick(hosts=hosts).fit(insurer, y, hosts={})
    assert guest.predict(insurer).tolist() == guest.predict(insurer, {}).tolist()


def test_hosts_ids_are_normalised_once_as_long_as_they_stay(monkeypatch):
    insurer, y, hosts = small()
    asked: list[str] = []

    def normalise(columns, rule, duplicates, where, **options):
        asked.append(where)
        return normalise_ids(columns, rule, duplicates, where, **options)

    monkeypatch.setattr(federation_module, "normalise_ids", normalise)
    hosts["lender"] = hosts["lender"].reset_index(names="who")
    model = quick(hosts=hosts, id={"guest": None, "lender": "who", "registry": None})
    clone(model).fit(insurer[::2], y[::2]).predict(insurer)
    clone(model).fit(insurer[1::2], y[1::2])
    assert asked.count("lender") == asked.count("registry") == 1 and asked.count("guest") == 3
    # A table that is changed where it lies is seen, as is another rule.
    hosts["lender"].loc[hosts["lender"]["who"] == "id 3", "who"] = "nobody"
    assert 3 not in clone(model).fit(insurer, y).aligned_
    assert asked.count("lender") == 2 and asked.count("registry") == 1
    model.set_params(normalise=["trim"]).fit(insurer, y)
    assert asked.count("lender") == 3 and asked.count("registry") == 2
    again = pickle.loads(pickle.dumps(model))  # noqa: S301 - our own
    assert again.fit(insurer, y).n_aligned_ == 79 and asked.count("registry") == 3


def test_tables_are_not_changed_by_a_fit():
    insurer, y, hosts = small()
    before = {name: table.copy() for name, table in {"guest": insurer, **hosts}.items()}
    quick(hosts=hosts).fit(insurer, y).predict(insurer)
    for name, table in {"guest": insurer, **hosts}.items():
        pd.testing.assert_frame_equal(table, before[name])


def test_a_host_that_knows_no_row_is_warned_of():
    insurer, y, hosts = small()
    model = quick(hosts=hosts).fit(insurer, y)
    strangers = hosts["lender"].set_axis([f"other {i}" for i in range(80)])
    with pytest.warns(VflWarning, match="lender knows none of the 80 rows to score") as warned:
        scores = model.decision_function(insurer, {**hosts, "lender": strangers})
    assert [w.filename for w in warned] == [__file__]
    assert np.array_equal(scores, model.decision_function(insurer, {**hosts, "lender": strangers[:0]}))
    with pytest.warns(VflWarning, match="lender knows 30 of the 80 rows .* as missing in all others: "):
        model.predict(insurer, {**hosts, "lender": hosts["lender"][:30]})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.predict(insurer, {**hosts, "lender": hosts["lender"][:50]})


@pytest.mark.parametrize(
    ("hosts", "text"),
    [
        (small()[2]["lender"], "hosts= must be a dict of tables by the host's name, not DataFrame"),
        ([small()[2]["lender"]], "hosts= must be a dict of tables by the host's name, not list"),
        ("lender", "hosts= must be a dict of tables by the host's name, not str"),
        ({1: small()[2]["lender"]}, "a host needs a name, other than 'guest'"),
        ({"": small()[2]["lender"]}, "a host needs a name"),
        ({"guest": small()[2]["lender"]}, "a host needs a name, other than 'guest'"),
    ],
)
def test_hosts_that_cannot_be(hosts, text):
    insurer, y, _ = small()
    with pytest.raises(ConfigError, match=text):
        quick(hosts=hosts).fit(insurer, y)
    with pytest.raises(ConfigError, match=text):
        quick().fit(insurer, y, hosts=hosts)
    with pytest.raises(ConfigError, match=text):
        quick(hosts=small()[2]).fit(insurer, y).predict(insurer, hosts)


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


def test_a_batch_may_have_several_rows_of_one_id():
    insurer, y, hosts = small()
    for engine in ("plain", "protocol"):
        model = quick(hosts=hosts, encryption="lattice", engine=engine).fit(insurer, y)
        twice = pd.concat([insurer, insurer[::-1]])
        scores = model.decision_function(insurer)
        assert np.array_equal(model.decision_function(twice), [*scores, *scores[::-1]])
    with pytest.raises(DataError, match="guest: 80 rows have the id of an earlier row"):
        quick(hosts=hosts).fit(twice, [*y, *y[::-1]])


def test_no_new_rows():
    insurer, y, hosts = small()
    model = quick().fit(insurer, y, hosts=hosts)
    assert model.predict_proba(insurer[:0], hosts).shape == (0, 2)


def test_a_guest_with_a_label_and_no_columns():
    insurer, y, hosts = small()
    model = quick(trees=2).fit(insurer[[]], y, hosts=hosts)
    assert set(model.importance_table_["party"]) <= {"lender", "registry"}
    assert model.score(insurer[[]], y, hosts) > 0.6


def test_weights_count():
    insurer, y, _ = small()
    weight = np.where(insurer["age"] > 0, 1.0, 3.0)
    weighted = alone().fit(insurer, y, sample_weight=weight)
    repeated = np.repeat(np.arange(80), weight.astype(int))
    same = alone(min_child_rows=1).fit(insurer.iloc[repeated], y[repeated])
    assert weighted.model_.start == pytest.approx(same.model_.start)
    assert weighted.model_.start != alone().fit(insurer, y).model_.start


@pytest.mark.parametrize("engine", ["plain", "protocol"])
def test_a_row_of_weight_zero_is_as_good_as_none(engine):
    insurer, y, hosts = small()
    weight = np.where(np.arange(80) % 5, 1.0, 0.0)
    kept = weight > 0
    settings = {"hosts": hosts, "encryption": "lattice", "engine": engine, "subsample": 0.7, "trees": 2}
    model = quick(**settings).fit(insurer, y, sample_weight=weight)
    fewer = quick(**settings).fit(insurer[kept], y[kept])
    assert np.array_equal(model.decision_function(insurer), fewer.decision_function(insurer))
    assert model.aligned_.tolist() == np.flatnonzero(kept).tolist()
    years = np.linspace(0.5, 1.5, 80)
    counts = np.arange(80) % 3
    linear = vfl.FederatedGLM(family="poisson", hosts=hosts, encryption="lattice", engine=engine)
    linear.fit(insurer, counts, sample_weight=weight, exposure=years)
    again = clone(linear).fit(insurer[kept], counts[kept], exposure=years[kept])
    assert linear.model_ == again.model_
    assert linear.score(insurer, counts, sample_weight=weight, exposure=years) == again.score(
        insurer[kept], counts[kept], exposure=years[kept]
    )


def test_a_model_can_be_pickled():
    insurer, y, _ = small()
    model = alone().fit(insurer, y)
    again = pickle.loads(pickle.dumps(model))  # noqa: S301
    assert np.array_equal(again.decision_function(insurer), model.decision_function(insurer))


# Regressors.


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
    assert np.array_equal(
        same.decision_function(insurer, hosts), model.decision_function(insurer, hosts)
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
    alone = clone(model).fit(insurer, y, hosts={}, sample_weight=years)
    assert alone.score(insurer, y, sample_weight=years) < found


def test_scores_of_batches_in_which_nothing_varies():
    insurer, y, years, hosts = claims()
    model = regressor(hosts=hosts).fit(insurer, y, exposure=years)
    none = np.zeros(120)  # of rare claims a fold may have none
    assert model.score(insurer, none, exposure=years) == 0.0
    assert model.score(insurer[:1], y[:1] + 1) == 0.0
    for labels, text in ((-y - 1, "y must not be negative"), (y * np.nan, "y is missing in 120 rows")):
        with pytest.raises(DataError, match=text):
            model.score(insurer, labels)
    with pytest.raises(DataError, match="guest: the table has no row to score"):
        model.score(insurer[:0], y[:0])


@pytest.mark.parametrize(
    ("objective", "given", "error", "text"),
    [
        ("poisson", {"exposure": 0}, DataError, "exposure must be positive but is not in 120 rows"),
        ("poisson", {"exposure": "long"}, DataError, "exposure must have one value a row, not be str"),
        ("poisson", {"exposure": np.zeros(120)}, DataError, "exposure must be positive .* in 120 rows"),
        ("poisson", {"exposure": np.ones(9)}, DataError, "exposure has 9 values for 120 rows"),
        ("poisson", {"offset": np.full(120, np.inf)}, DataError, "offset has 120 infinite numbers"),
        ("poisson", {"offset": np.full(120, np.nan)}, DataError, "offset is missing in 120 rows"),
        ("poisson", {"y": -np.ones(120)}, DataError, "y must not be negative but is in 120 rows"),
        ("gamma", {}, DataError, r"y must be above 0 but is not in \d+ rows: leave out"),
        ("gamma", {"exposure": np.ones(120)}, ConfigError, "exposure= is for counts .poisson.: an am"),
        ("tweedie", {"exposure": np.ones(120)}, ConfigError, "divide the amount by the exposure"),
        (["poisson"], {}, ConfigError, r"objective=\['poisson'\]: there are poisson, gamma"),
        ("binary", {}, ConfigError, "objective='binary': there are poisson, gamma, tweedie, squared"),
        ("deviance", {}, ConfigError, "objective='deviance': there are poisson, gamma"),
    ],
)
def test_what_a_regressor_cannot_use_is_said(objective, given, error, text):
    insurer, y, _, _ = claims()
    with pytest.raises(error, match=text):
        regressor(objective, hosts={}).fit(**{"X": insurer, "y": y, **given})


def test_a_regressor_predicts_with_an_offset_where_it_was_trained_with_one():
    insurer, y, _, _ = claims()
    with pytest.raises(NotFittedError):
        regressor().predict(insurer)
    model = regressor(hosts={}).fit(insurer, y)
    with pytest.raises(ConfigError, match="trained with no offset: give predict and score the same"):
        model.predict(insurer, offset=np.zeros(120))
    model = regressor(hosts={}).fit(insurer, y, offset=np.zeros(120))
    with pytest.raises(ConfigError, match="trained with an offset: give"):
        model.predict(insurer)


# Linear models.


@pytest.mark.parametrize("encryption", ["paillier", "lattice"])
def test_a_linear_model_is_that_of_the_pooled_columns(encryption):
    insurer, claims, hosts, years = pooled_claims()
    model = vfl.FederatedGLM(
        family="poisson",
        tolerance=1e-9,
        encryption=encryption,
        engine="protocol",
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
    assert list(table.columns) == [
        *("column", "level", "coefficient", "per_unit", "relativity", "rows"),
        *("step", "per_step", "relativity_per_step"),
    ]
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
    alone = clone(model).fit(insurer, y, hosts={})
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
        (
            {"family": "logistic"},
            "family='logistic': there are poisson, negative_binomial, gamma, tweedie, gaussian",
        ),
        ({"alpha": -1}, "alpha=-1: "),
        ({"encryption": "ou"}, "encryption='ou': .*must be"),
        (
            {"rules": {"registri": {}}},
            "rules= names 'registri', which is no party; did you mean 'regist",
        ),
        ({"rules": {"registry": {"bin": ["a"]}}}, "rules of registry: bin=.*"),
        (
            {"rules": {"registry": {"bins": 1}}},
            "rules of registry: bins=1: must be a whole number from 2 t",
        ),
        (
            {"rules": {"registry": {"bins": True}}},
            "rules of registry: bins=True: must be a whole number",
        ),
        ({"rules": {"registry": {"base": "gas"}}}, "rules of registry: base='gas': must be a dict"),
        ({"rules": {"registry": ["fuel"]}}, r"rules of registry must be a dict, not \['fuel'\]"),
        ({"rules": "binned"}, "rules must be a dict by party, not 'binned'"),
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
    # In words of parameters, for there is no party file here.
    with pytest.raises(DataError, match=r"holds one value only: leave it out$"):
        vfl.FederatedGLM(family="poisson", hosts=hosts).fit(insurer.assign(age=1), claims)
    lender = hosts["lender"].assign(twice=lambda t: 2 * t["debt"])
    with pytest.raises(DataError, match="lender: column 'twice' is a linear combination of other"):
        vfl.FederatedGLM(family="poisson").fit(insurer, claims, hosts={"lender": lender})


def test_too_many_columns_of_a_host_for_its_rows():
    insurer, y, hosts = small(12)
    for engine in ("plain", "protocol"):
        model = vfl.FederatedLogisticRegression(alpha=1, engine=engine, encryption="lattice")
        lender = hosts["lender"].assign(a=hosts["lender"]["debt"] ** 2)
        with pytest.raises(DataError, match="lender has 3 columns to fit 12 rows with"):
            model.fit(insurer, y, hosts={"lender": lender})


@pytest.mark.parametrize("family", ["poisson", "logistic"])
def test_a_level_without_any_claim_is_told(family):
    """Of so few rows that the loss hardly feels how far its coefficient goes; a penalty holds it."""
    rng = np.random.default_rng(0)
    zone = np.where(np.arange(20_000) < 40, "none", "some")
    age = rng.normal(size=len(zone))
    claims = rng.poisson(0.1 * np.exp(0.3 * age)) * (zone == "some")
    X = pd.DataFrame({"zone": zone, "age": age})
    kind = vfl.FederatedLogisticRegression
    model = kind(hosts={}) if family == "logistic" else vfl.FederatedGLM(family=family, hosts={})
    y = np.minimum(claims, 1) if family == "logistic" else claims
    with pytest.warns(
        VflWarning, match=r"'zone' at level 'none' tells the label without error.*set alpha above 0"
    ):
        model.fit(X, y)
    assert model.coef_["guest"]["zone", "none"] < -15
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.set_params(alpha=0.001).fit(X, y)
        model.set_params(alpha=0.0).fit(X[zone == "some"].drop(columns="zone"), y[zone == "some"])


def test_an_exposure_that_is_given_as_offset_is_told():
    rng = np.random.default_rng(0)
    X = pd.DataFrame({"age": rng.normal(size=200)})
    days = rng.integers(1, 366, 200).astype(float)
    claims = rng.poisson(days / 365)
    model = vfl.FederatedGLM(family="poisson", hosts={})
    with pytest.warns(VflWarning, match="over a billion times others: give exposure=, or its logarithm"):
        model.fit(X, claims, offset=days)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        by_offset = model.fit(X, claims, offset=np.log(days)).intercept_
        assert model.fit(X, claims, exposure=days).intercept_ == by_offset
        vfl.FederatedGLM(hosts={}).fit(X, claims, offset=days)  # which has no factor
