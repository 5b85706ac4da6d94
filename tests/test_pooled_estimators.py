"""The estimators over the rows of several parties, against glum, LightGBM and a table in one place."""

import json
import pickle

import lightgbm
import numpy as np
import pandas as pd
import polars as pl
import pytest
from glum import GeneralizedLinearRegressor
from pool import patients
from sklearn import config_context
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import d2_tweedie_score, log_loss, roc_auc_score
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer

import vfl
from vfl.errors import ConfigError, DataError, InputError, ModelError, UnknownParameter, VflWarning
from vfl.party.documents import canonical_json, document

ROWS = 600
TABLE = patients(ROWS, seed=5)
OWNER = np.random.default_rng(0).choice(["north", "south", "west"], ROWS, p=[0.6, 0.3, 0.1])
X = TABLE[["age", "dose", "ward"]].assign(hospital=OWNER)
DIED, VISITS, YEARS = TABLE["died"].to_numpy(), TABLE["visits"].to_numpy(), TABLE["years"].to_numpy()
OWNERS = {"north": int((OWNER == "north").sum()), "south": int((OWNER == "south").sum())}
OWNERS["west"] = ROWS - sum(OWNERS.values())

pytestmark = pytest.mark.filterwarnings("error::vfl.errors.VflWarning")


def logistic(**params) -> vfl.PooledLogisticRegression:
    return vfl.PooledLogisticRegression(**{"parties": "hospital", **params})


def trees(**params) -> vfl.PooledBoost:
    return vfl.PooledBoost(**{"parties": "hospital", "trees": 4, "depth": 3, **params})


def frequency(**params) -> vfl.PooledGLM:
    return vfl.PooledGLM(**{"parties": "hospital", "family": "poisson", **params})


@pytest.fixture(scope="module")
def deaths() -> vfl.PooledLogisticRegression:
    return logistic().fit(X, DIED)


@pytest.fixture(scope="module")
def visits() -> vfl.PooledGLM:
    return frequency().fit(X, VISITS, exposure=YEARS)


@pytest.fixture(scope="module")
def boosted() -> vfl.PooledBoost:
    return trees().fit(X, DIED)


# The model.


def matrix(model) -> np.ndarray:
    features = {name: X[name].to_numpy() for name in ("age", "dose")}
    ward = X["ward"].to_numpy().astype(object)
    return model.model_.part.design.matrix({**features, "ward": ward}, ROWS).dense()


def test_coefficients_and_their_errors_are_those_of_glum(visits):
    design = matrix(visits)
    theirs = GeneralizedLinearRegressor(family="poisson", alpha=0, gradient_tol=1e-12)
    theirs.fit(design, VISITS / YEARS, sample_weight=YEARS)
    assert np.abs(visits.coef_ - theirs.coef_).max() < 1e-8
    assert visits.intercept_ == pytest.approx(theirs.intercept_, abs=1e-8)
    mean = visits.predict(X)
    fisher = np.column_stack([np.ones(ROWS), design])
    fisher = np.linalg.inv(fisher.T @ (fisher * (mean * YEARS)[:, None]))
    errors = np.sqrt(np.diag(fisher))
    known = [visits.model_.intercept_error, *visits.standard_errors_]
    assert np.abs(np.array(known) / errors - 1).max() < 1e-6
    assert visits.converged_ and visits.dispersion_ == 1 and visits.n_iter_ > 1
    assert visits.coef_.index.equals(visits.standard_errors_.index)


def test_rules_shape_columns_as_a_job_says_them():
    """At glum's optimum of the same design; what a step is shows in relativities alone."""
    rules = {
        "binned": ["age"],
        "bins": 4,
        "missing": "level",
        "base": {"ward": "b"},
        "step": {"dose": 2},
    }
    rules["min_level_rows"] = 3
    model = frequency(rules=rules).fit(X, VISITS, exposure=YEARS)
    age, ward = model.model_.part.design.factors
    assert len(age.edges) == 3 and ward.base == "b"
    theirs = GeneralizedLinearRegressor(family="poisson", alpha=0, gradient_tol=1e-12)
    theirs.fit(matrix(model), VISITS / YEARS, sample_weight=YEARS)
    assert np.abs(model.coef_ - theirs.coef_).max() < 1e-8
    for table in (model.summary(), model.relativities_):
        assert table.set_index(["column", "level"]).loc[("dose", ""), "step"] == 2
    of_party = model.set_params(alpha=0.1).compare(X, VISITS, exposure=YEARS, cv=2)
    assert of_party["d2_alone"].notna().all()


@pytest.mark.parametrize(
    ("rules", "text"),
    [
        (["age"], "rules must be a dict, not"),
        ({"bin": ["age"]}, "rules: bin=.*there is no such rule; did you mean"),
        ({"bins": 1}, "rules: bins=1: must be a whole number from 2 to 255"),
        ({"binned": ["agee"]}, "no column 'agee'"),
        ({"binned": ["ward"]}, "column 'ward' is categorical: only numbers are cut"),
        ({"base": {"ward": "cellar"}}, "ward"),
        ({"step": {"agee": 2}}, "step= names 'agee', which is no numeric column"),
    ],
)
def test_rules_that_cannot_be(rules, text):
    with pytest.raises((InputError, ConfigError), match=text):
        frequency(rules=rules).fit(X, VISITS)


def test_a_summary_says_what_is_known_of_coefficients(visits):
    table = visits.summary()
    assert [*table.columns] == [
        *("column", "level", "step", "coefficient", "standard_error"),
        *("z", "p", "low", "high", "relativity"),
    ]
    assert table.iloc[0][["column", "level"]].tolist() == ["(intercept)", ""]
    assert table["coefficient"].iloc[0] == visits.intercept_
    base = table[table["coefficient"] == 0]
    assert base["level"].tolist() == ["a"] and base["standard_error"].isna().all()
    known = table.set_index(["column", "level"]).loc[("age", "")]
    assert known["coefficient"] == visits.coef_["age", ""]
    assert known["standard_error"] == visits.standard_errors_["age", ""]
    assert known["z"] == known["coefficient"] / known["standard_error"] > 3
    assert 0 < known["p"] < 0.003
    assert known["high"] - known["low"] == pytest.approx(2 * 1.959964 * known["standard_error"])
    assert known["relativity"] == np.exp(known["coefficient"])
    wider = visits.summary(confidence=0.99)
    assert (wider["high"] - table["high"]).dropna().min() > 0
    relativities = visits.relativities_.set_index(["column", "level"])["relativity_per_step"]
    assert relativities["age", ""] == pytest.approx(known["relativity"])
    assert known["step"] == pytest.approx(X["age"].std(), rel=0.01)
    decade = visits.summary(step={"age": 10}).set_index(["column", "level"]).loc[("age", "")]
    assert decade["coefficient"] == pytest.approx(known["coefficient"] / known["step"] * 10)
    assert decade[["step", "z", "p"]].tolist() == pytest.approx([10, known["z"], known["p"]])
    for step, text in (
        ({"agee": 10}, "step= names 'agee', which is no numeric column .* did you mean 'age'"),
        ({"ward": 10}, "step= names 'ward', which is no numeric column"),
        ({"age": 0}, "step="),
        (10, "step=10: must be"),
    ):
        with pytest.raises(ConfigError, match=text):
            visits.summary(step=step)
    for confidence in (0, 1, "much", True):
        with pytest.raises(ConfigError, match="confidence must be a number between 0 and 1"):
            visits.summary(confidence=confidence)
    amounts = vfl.PooledGLM(parties="hospital").fit(X, VISITS)
    assert "relativity" not in amounts.summary()


def test_columns_of_few_values_make_the_trees_of_one_table():
    """Bins are then the same; only the constant may differ in its last bits."""
    few = X.assign(age=X["age"].round(-1), dose=X["dose"].round().clip(upper=9))
    few["ward"] = few["ward"].replace("attic", "a")
    ours = trees(min_bin_rows=1).fit(few, DIED)
    alone = vfl.SecureBoost(hosts={}, trees=4, depth=3, min_bin_rows=1)
    theirs = alone.fit(few.drop(columns="hospital"), DIED)
    assert np.abs(ours.decision_function(few) - theirs.decision_function(few)).max() < 1e-6


def test_trees_tell_rows_apart_as_those_of_lightgbm():
    train = np.arange(ROWS) % 3 > 0
    ours = trees(trees=20).fit(X[train], DIED[train])
    same = {"n_estimators": 20, "max_depth": 3, "learning_rate": 0.2, "reg_lambda": 1, "max_bin": 32}
    theirs = lightgbm.LGBMClassifier(**same, min_child_weight=1, n_jobs=1, verbose=-1)
    own = X.drop(columns="hospital").astype({"ward": "category"})
    theirs.fit(own[train], DIED[train])
    found = [
        roc_auc_score(DIED[~train], model.predict_proba(table[~train])[:, 1])
        for model, table in ((ours, X), (theirs, own))
    ]
    assert found[0] > 0.6 and abs(found[0] - found[1]) < 0.03  # other bins, other splits of categories
    assert ours.score(X[~train], DIED[~train]) == (ours.predict(X[~train]) == DIED[~train]).mean()


def test_the_model_is_the_same_however_rows_lie(deaths, boosted):
    other = np.random.default_rng(9).integers(0, 5, ROWS)
    again = trees().fit(X.drop(columns="hospital"), DIED, parties=other)
    assert again.model_ == boosted.model_
    assert again.parties_.index.tolist() == ["0", "1", "2", "3", "4"]
    in_one = logistic(parties=None).fit(X.drop(columns="hospital"), DIED)
    assert in_one.parties_.to_dict() == {"all": ROWS}
    assert np.abs(in_one.coef_ - deaths.coef_).max() < 1e-12


DRAWN = {"subsample": 0.6, "colsample": 0.7, "validation_share": 0.3, "early_stopping_rounds": 2}


@pytest.mark.parametrize(
    "made",
    [
        lambda: logistic(alpha=0.01),
        lambda: trees(seed=3, **DRAWN),
        lambda: vfl.PooledBoostRegressor(parties="hospital", trees=3, objective="tweedie"),
    ],
)
def test_the_protocol_makes_the_same_model_to_the_last_bit(made):
    plain = made().fit(X, DIED)
    apart = clone(plain).set_params(engine="protocol").fit(X, DIED)
    assert apart.model_ == plain.model_
    assert plain.traffic_ is None
    assert set(apart.traffic_) == set(OWNERS) and min(apart.traffic_.values()) > 10_000
    assert len(apart.train_log_) == len(plain.train_log_) > 1


def test_an_offset_is_added_to_scores():
    shift = np.log(YEARS)
    model = frequency().fit(X, VISITS, offset=shift)
    assert model.with_offset_
    rated = frequency().fit(X, VISITS, exposure=YEARS)
    assert np.array_equal(model.predict(X, offset=shift), np.exp(rated.decision_function(X) + shift))
    with pytest.raises(ConfigError, match="the model was trained with an offset"):
        model.predict(X)


def test_scores_are_those_of_scikit_learn(visits, deaths):
    plain = frequency().fit(X, VISITS)
    expected = d2_tweedie_score(VISITS, plain.predict(X), power=1)
    assert plain.score(X, VISITS) == pytest.approx(expected)
    rates = d2_tweedie_score(VISITS / YEARS, visits.predict(X), sample_weight=YEARS, power=1)
    assert visits.score(X, VISITS, exposure=YEARS) == pytest.approx(rates)
    assert (visits.predict(X) * YEARS).sum() == pytest.approx(VISITS.sum())
    p = deaths.predict_proba(X)
    assert np.array_equal(p.sum(axis=1), np.ones(ROWS)) and deaths.classes_.tolist() == [0, 1]
    theirs = LogisticRegression(C=np.inf, tol=1e-10, max_iter=1000).fit(matrix(deaths), DIED)
    assert log_loss(DIED, p) == pytest.approx(log_loss(DIED, theirs.predict_proba(matrix(deaths))))


def test_what_a_fitted_model_tells(boosted, deaths):
    assert boosted.parties_.to_dict() == deaths.parties_.to_dict() == OWNERS
    assert boosted.parties_.index.name == "party"
    assert boosted.feature_names_in_.tolist() == [*X] and boosted.n_features_in_ == 4
    shares = dict(zip(X, boosted.feature_importances_, strict=True))
    assert shares["hospital"] == 0 and sum(shares.values()) == pytest.approx(1)
    assert [*boosted.importance_table_] == ["column", "splits", "gain"]
    seen = []
    again = clone(boosted).fit(X, DIED, progress=seen.append)
    assert [step.tree for step in seen] == [1, 2, 3, 4]
    assert [step.train_loss for step in again.train_log_] == [step.train_loss for step in seen]


# Whose each row is.


@pytest.mark.parametrize(
    ("table", "parties", "given"),
    [
        (X, None, OWNER),
        (X.drop(columns="hospital"), None, [f"{name} " for name in OWNER]),
        (X.set_index("hospital"), "hospital", None),
        (pl.from_pandas(X), "hospital", None),
        (X.assign(owner=OWNER).drop(columns="hospital"), "hospital", "owner"),
        (X.astype({"hospital": "category"}), "hospital", None),
    ],
)
def test_parties_are_a_column_or_a_name_for_each_row(table, parties, given, deaths):
    leave_out = parties is None and "hospital" in table
    table = table.drop(columns="hospital") if leave_out else table
    model = logistic(parties=parties).fit(table, DIED, parties=given)
    assert model.parties_.to_dict() == OWNERS
    assert np.array_equal(model.decision_function(table), deaths.decision_function(X))


def test_a_column_of_an_array_is_known_by_its_number():
    array = X[["age", "hospital", "dose"]].to_numpy()
    model = logistic(parties=1).fit(array, DIED)
    assert model.parties_.to_dict() == OWNERS and model.coef_.index.tolist() == [("x0", ""), ("x2", "")]
    assert model.predict(array).shape == (ROWS,)


def test_the_column_of_the_constructor_is_no_feature_where_fit_is_told_otherwise():
    other = np.where(np.arange(ROWS) % 2, "east", "west")
    model = logistic().fit(X, DIED, parties=other)
    assert list(model.parties_.index) == ["east", "west"]
    assert "hospital" not in model.coef_.index.get_level_values("column")


def test_names_given_apart_are_no_feature_of_the_table():
    with pytest.warns(VflWarning, match="column 'hospital' is given as parties: it is no feature"):
        model = logistic(parties=None).fit(X, DIED, parties=X["hospital"])
    assert "hospital" not in model.coef_.index.get_level_values("column")


@pytest.mark.parametrize(
    ("parties", "error", "text"),
    [
        ("hospitl", DataError, "no column 'hospitl' (named by parties); did you mean 'hospital'?"),
        (True, ConfigError, "parties must be the name of a column, or a name for each row, not True"),
        (OWNER[:3], DataError, "parties has 3 values for 600 rows"),
        (X["hospital"][::-1], DataError, "parties has the rows in another order than the table"),
        (np.where(OWNER == "west", None, OWNER), DataError, "parties is missing in"),
        (np.where(OWNER == "west", " ", OWNER), DataError, "parties has an empty name"),
        (np.arange(ROWS), DataError, "parties= has 600 names, over 64: give the column that says whose"),
    ],
)
def test_parties_that_cannot_be(parties, error, text):
    with pytest.raises(error) as caught:
        logistic().fit(X, DIED, parties=parties)
    assert text in str(caught.value) and isinstance(caught.value, ValueError)


def test_what_one_party_cannot_do():
    alone = X.drop(columns="hospital")
    with pytest.raises(ConfigError, match=r"for the rows of 2 parties at the least: .* parties="):
        logistic(parties=None, engine="protocol").fit(alone, DIED)
    with pytest.raises(ConfigError, match="there is one party, and nothing to compare"):
        logistic(parties=None).compare(alone, DIED)


def test_rows_of_weight_zero_are_as_good_as_none():
    weight = np.where(OWNER == "west", 0.0, 1.0)
    some = X[OWNER != "west"]
    model = trees().fit(X, DIED, sample_weight=weight)
    assert model.model_ == trees().fit(some, DIED[OWNER != "west"]).model_
    assert list(model.parties_.index) == ["north", "south"]


def test_a_party_may_lack_a_column_or_a_class():
    gaps = X.assign(age=X["age"].where(OWNER != "west"), ward=X["ward"].where(OWNER != "south", None))
    label = np.where(OWNER == "west", 0, DIED)
    for model in (logistic(alpha=0.01), trees()):
        apart = clone(model).set_params(engine="protocol").fit(gaps, label)
        assert apart.model_ == model.fit(gaps, label).model_


# Levels.


def test_levels_are_those_of_all_rows_by_default_or_as_given(deaths):
    attic = ("ward", "attic")
    assert deaths.coef_.index.isin([attic]).sum() == 0  # too few rows: joined
    with pytest.warns(VflWarning, match="rows have a level of 'ward' that levels= does not name"):
        agreed = logistic(levels={"ward": ["c", "b", "a"]}).fit(X, DIED)
    new = X.assign(ward="cellar")
    assert np.isfinite(agreed.decision_function(new)).all()  # as any other that was not agreed on
    with pytest.raises(DataError, match="pooled: column 'ward' has a level that was not in training"):
        deaths.decision_function(new)


def test_agreed_levels_train_as_they_are_scored():
    """A spelling of one counts as this one in both, what is none of them as one more level."""
    levels = {"ward": ["a", "b", "c", "attic"]}
    spelled = X.assign(ward=[w.upper() if i % 3 and w else w for i, w in enumerate(X["ward"])])
    model = logistic(levels=levels).fit(spelled, DIED)
    assert model.model_ == logistic(levels=levels).fit(X, DIED).model_
    assert np.array_equal(model.decision_function(spelled), model.decision_function(X))


def test_numbers_with_levels_are_categories(deaths):
    zone = np.arange(ROWS) % 3
    table = X.assign(zone=zone)
    model = logistic(levels={"zone": [0, 1, 2]}).fit(table, DIED)
    levels = model.coef_.loc["zone"].index
    assert set(levels) < {"0", "1", "2"} and len(levels) == 2
    scores = model.decision_function(table)
    assert logistic(levels={"zone": [0.0, 1.0, 2.0]}).fit(table, DIED).model_ == model.model_
    for same in (zone.astype(float), zone.astype(str), pd.Categorical(zone)):
        assert np.array_equal(model.decision_function(X.assign(zone=same)), scores)


@pytest.mark.parametrize(
    ("params", "text"),
    [
        ({"levels": ["a"]}, "levels must be a dict by column"),
        (
            {"levels": {"wrd": ["a"]}},
            "levels= names 'wrd', which is no column to train on; did you",
        ),
        (
            {"levels": {"hospital": ["north"]}},
            "levels= names 'hospital', which is no column",
        ),
        ({"levels": {"ward": "abc"}}, "levels= of 'ward' must be a list of different levels, not 'abc'"),
        ({"levels": {"ward": ["a", "a "]}}, "levels= of 'ward' must be a list of different levels"),
        ({"levels": {"ward": []}}, "levels= of 'ward' must be a list of different levels"),
        ({"monotone": ["age"]}, "monotone must be a dict by column"),
        ({"monotone": {"age": "up"}}, 'monotone=: \'age\' must be "increasing" or "decreasing"'),
        ({"monotone": {"ag": "increasing"}}, "monotone= names 'ag', which is no column; did you mean"),
        ({"monotone": {"ward": "increasing"}}, "column 'ward' is categorical: it cannot be increasing"),
        ({"validation_share": 0.999, "seed": 1}, "validation_share=0.999 leaves none of the 600 rows"),
        ({"engine": "fast"}, 'engine must be "plain" or "protocol"'),
        ({"unknown_levels": 2}, "unknown_levels must be a number from 0 to 1"),
    ],
)
def test_parameters_that_cannot_be(params, text):
    with pytest.raises((InputError, ConfigError)) as caught:
        trees(**params).fit(X, DIED)
    assert text in str(caught.value)


def test_a_monotone_column_is_one():
    model = trees(monotone={"dose": "increasing"}, trees=10).fit(X, DIED)
    grid = X[:1].loc[[0] * 40].assign(dose=np.linspace(0, 8, 40))
    assert (np.diff(model.decision_function(grid)) >= 0).all()


@pytest.mark.parametrize(
    ("made", "text"),
    [
        (lambda: vfl.PooledGLM(hosts={}), "it is for columns of several parties: SecureBoost"),
        (lambda: vfl.PooledBoost(group="a"), "did you mean 'parties'?"),
        (lambda: vfl.SecureBoost(parties="a"), "it is for rows of several parties: PooledBoost"),
        (
            lambda: logistic().fit(X, DIED, exposure=YEARS),
            "over rows PooledBoostRegressor",
        ),
    ],
)
def test_names_of_others_lead_to_ours(made, text):
    with pytest.raises(UnknownParameter) as caught:
        made()
    assert text in str(caught.value)


def test_what_cannot_be_fitted_is_said_in_words_of_tables():
    with pytest.raises(InputError, match="over the rows of all parties column 'more' is a linear comb"):
        logistic().fit(X.assign(more=X["dose"] * 2), DIED)
    with pytest.raises(InputError, match="pooled: no column is left to use as a feature"):
        logistic().fit(X[["hospital"]], DIED)
    with pytest.warns(ConvergenceWarning, match="not converged within max_iterations=1"):
        logistic(max_iterations=1).fit(X, DIED)
    with pytest.warns(VflWarning, match="all rows get the same score: min_child_rows=400"):
        trees(min_child_rows=400).fit(X, DIED)
    with pytest.raises(ConfigError, match=r"estimators over columns .*, not PooledLogisticRegression"):
        vfl.leakage.measure(logistic(), X, DIED)


# Each party alone.


def test_each_party_is_told_what_the_federation_is_worth_to_it():
    model = trees(depth=2)
    table = model.compare(X, DIED, cv=2)
    told = ["auc_alone", "auc_federated", "log_loss_alone", "log_loss_federated"]
    assert [*table] == ["rows", *told, "gain", "gain_error"]
    assert table["rows"].to_dict() == OWNERS and table.index.name == "party"
    assert np.allclose(table["gain"], table["log_loss_alone"] - table["log_loss_federated"])
    west = table.loc["west"]
    assert west["gain"] > 0 and west["gain_error"] > 0 and west["auc_federated"] > 0.6
    assert not hasattr(model, "model_")
    pd.testing.assert_frame_equal(trees(depth=2).compare(X, DIED, cv=2), table)
    with pytest.raises(ConfigError, match="cv must be a whole number of at least 2, not 1"):
        model.compare(X, DIED, cv=1)


def test_comparisons_are_on_rows_that_neither_model_was_trained_on():
    """Each row is left out by itself, once more by hand."""
    rows, owner = np.arange(16), np.where(np.arange(16) % 2, "a", "b")
    table, label = X[["dose"]].iloc[rows], VISITS[rows] + 1.0
    model = vfl.PooledGLM(family="gaussian")
    found = model.compare(table, label, parties=owner, cv=len(rows))
    errors = np.empty((2, len(rows)))
    for one in rows:
        rest = rows != one
        for place, train in enumerate((rest & (owner == owner[one]), rest)):
            fitted = clone(model).fit(table[train], label[train])
            errors[place, one] = (fitted.predict(table.iloc[[one]])[0] - label[one]) ** 2
    for name in ("a", "b"):
        alone, federated = errors[:, owner == name]
        of = found.loc[name]
        assert of["deviance_alone"] == pytest.approx(alone.mean(), rel=1e-4)  # by L-BFGS
        assert of["deviance_federated"] == pytest.approx(federated.mean())
        assert of["gain"] == pytest.approx((alone - federated).mean(), rel=1e-3)
        spread = (alone - federated).std() / np.sqrt(len(alone))
        assert of["gain_error"] == pytest.approx(spread, rel=1e-3)
    assert {*found} >= {"rows", "gini_alone", "gini_federated", "d2_alone", "d2_federated"}


def test_a_party_that_cannot_train_alone_is_named():
    label = np.where(OWNER == "west", 0, DIED)
    with pytest.warns(VflWarning, match="no model of west's rows alone to compare with: y has only one"):
        table = trees(trees=2).compare(X, label, cv=2)
    assert table.loc["west"][["log_loss_alone", "gain", "gain_error"]].isna().all()
    assert table.loc["west", "log_loss_federated"] > 0 and table.loc["north"].notna().all()


# With scikit-learn, and files.


def test_tools_of_scikit_learn_know_whose_rows_are(boosted):
    by_column = cross_val_score(trees(), X, DIED, cv=2)
    apart = X.drop(columns="hospital")
    given = {"parties": OWNER}
    assert np.array_equal(
        cross_val_score(trees(parties=None), apart, DIED, cv=2, params=given), by_column
    )
    with config_context(enable_metadata_routing=True):
        pipeline = make_pipeline(FunctionTransformer(), trees(parties=None))
        assert np.array_equal(cross_val_score(pipeline, apart, DIED, cv=2, params=given), by_column)
    grid = GridSearchCV(trees(), {"trees": [1, 4]}, cv=2, scoring="neg_log_loss").fit(X, DIED)
    assert grid.best_params_ == {"trees": 4} and grid.best_estimator_.model_ == boosted.model_


@pytest.fixture(params=["deaths", "visits", "boosted", "levels"])
def fitted(request):
    if request.param == "levels":
        table = X.assign(ward=X["ward"].replace("attic", "a"))
        model = vfl.PooledBoostRegressor(
            parties="hospital", trees=2, levels={"ward": ("a", "b", "c")}, monotone={"age": "increasing"}
        )
        return model.fit(table, VISITS, offset=YEARS)
    return request.getfixturevalue(request.param)


def test_a_loaded_model_is_the_saved_one(fitted, tmp_path):
    fitted.save(tmp_path / "model.json")
    again = vfl.load(tmp_path / "model.json")
    assert type(again) is type(fitted) and again.model_ == fitted.model_
    assert json.dumps(again.get_params()) == json.dumps(fitted.get_params())
    pd.testing.assert_series_equal(again.parties_, fitted.parties_)
    table = X[X["ward"] != "attic"]
    scores = fitted.decision_function(table)
    for one in (again, pickle.loads(pickle.dumps(fitted))):  # noqa: S301 - our own
        assert np.array_equal(one.decision_function(table), scores)
    for name in ("traffic_", "train_log_", "n_features_in_", "with_offset_"):
        assert getattr(again, name, None) == getattr(fitted, name, None)
    if hasattr(fitted, "summary"):
        pd.testing.assert_frame_equal(again.summary(), fitted.summary())
    with pytest.raises(ModelError, match=f"holds a {type(fitted).__name__}, where a SecureBoost is due"):
        vfl.SecureBoost.load(tmp_path / "model.json")


@pytest.mark.parametrize("parties", [{}, {"north": 0}])
def test_a_file_without_the_rows_of_parties_is_damaged(boosted, parties, tmp_path):
    path = tmp_path / "model.json"
    boosted.save(path)
    body = json.loads(path.read_bytes())["body"]
    body["parties"] = parties
    path.write_bytes(document("vfl/estimator", 1, canonical_json(body)))
    with pytest.raises(ModelError, match="is damaged: it does not have the rows of every party"):
        vfl.load(path)
