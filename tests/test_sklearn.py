"""The estimators as scikit-learn's own tools use them, with hosts given once."""

import pickle

import matplotlib
import numpy as np
import pandas as pd
import pytest
import sklearn
from packaging.version import Version
from scipy.stats import loguniform, randint
from sklearn import config_context
from sklearn.base import clone, is_classifier, is_regressor
from sklearn.calibration import CalibratedClassifierCV, CalibrationDisplay
from sklearn.compose import ColumnTransformer, TransformedTargetRegressor
from sklearn.ensemble import (
    BaggingClassifier,
    StackingClassifier,
    StackingRegressor,
    VotingClassifier,
)
from sklearn.experimental import enable_halving_search_cv  # noqa: F401
from sklearn.feature_selection import RFE, SelectFromModel, SequentialFeatureSelector
from sklearn.frozen import FrozenEstimator
from sklearn.inspection import (
    DecisionBoundaryDisplay,
    partial_dependence,
    permutation_importance,
)
from sklearn.metrics import RocCurveDisplay, make_scorer, mean_poisson_deviance
from sklearn.model_selection import (
    GridSearchCV,
    GroupKFold,
    HalvingGridSearchCV,
    RandomizedSearchCV,
    TunedThresholdClassifierCV,
    cross_val_predict,
    cross_val_score,
    cross_validate,
    learning_curve,
    validation_curve,
)
from sklearn.multiclass import OneVsRestClassifier
from sklearn.multioutput import MultiOutputClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, OneHotEncoder, StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks
from small_tables import small

import vfl
from vfl.errors import DataError, InputError, VflWarning

ROWS = 240
IDS = {"guest": "policy", "lender": None, "registry": None}
PICKY = {
    "check_sample_weight_equivalence_on_dense_data": (
        "rows count as rows, not by their weight: for bins, for min_child_rows, and where the columns "
        "of a linear model are standardised"
    ),
    "check_regressors_no_decision_function": (
        "decision_function is the score on the scale of the link, for regressors, too"
    ),
}


def expected_failures(estimator) -> dict[str, str]:
    return {
        name: reason
        for name, reason in PICKY.items()
        if "regressors" not in name or is_regressor(estimator)
    }


@parametrize_with_checks(
    [
        vfl.SecureBoost(hosts={}, trees=5, min_child_rows=3, min_child_weight=0.1),
        vfl.SecureBoostRegressor(hosts={}, trees=10, min_child_rows=3),
        vfl.FederatedGLM(hosts={}, alpha=0.01),
        vfl.PooledBoost(trees=5, min_child_rows=3, min_child_weight=0.1),
        vfl.PooledGLM(alpha=0.01),
    ],
    expected_failed_checks=expected_failures,
)
def test_checks_of_scikit_learn(estimator, check):
    check(estimator)


@pytest.mark.slow  # of code that those above share
@parametrize_with_checks(
    [
        vfl.FederatedLogisticRegression(hosts={}, alpha=0.01),
        vfl.PooledBoostRegressor(trees=20, min_child_rows=3),
        vfl.PooledLogisticRegression(alpha=0.01),
    ],
    expected_failed_checks=expected_failures,
)
def test_checks_of_scikit_learn_of_others(estimator, check):
    check(estimator)


def tables() -> tuple[pd.DataFrame, np.ndarray, dict[str, pd.DataFrame]]:
    insurer, y, hosts = small(ROWS)
    kind = np.where(np.arange(ROWS) % 3, "a", "b")
    return insurer.assign(size=np.arange(ROWS) % 7, kind=kind), y, hosts


X, Y, HOSTS = tables()
RNG = np.random.default_rng(0)
COUNTS = RNG.poisson(np.where(Y, 1.5, 0.4)).astype(float)
YEARS = RNG.uniform(0.5, 1.5, ROWS)


def trees(**params) -> vfl.SecureBoost:
    return vfl.SecureBoost(
        **{"trees": 4, "depth": 3, "min_child_rows": 5, "learning_rate": 0.5, "hosts": HOSTS, **params}
    )


def counts(**params) -> vfl.SecureBoostRegressor:
    settings = {"trees": 4, "depth": 3, "min_child_rows": 5, "hosts": HOSTS, **params}
    return vfl.SecureBoostRegressor(objective="poisson", **settings)


# Validation and search.


def test_cross_validation_with_hosts():
    alone, together = (cross_val_score(trees(hosts=hosts), X, Y).mean() for hosts in ({}, HOSTS))
    assert together > alone + 0.1  # most of the label is in the hosts' columns
    for scoring in ("roc_auc", "neg_log_loss", "f1", "neg_brier_score"):
        assert np.isfinite(cross_val_score(trees(), X, Y, scoring=scoring)).all()
    p = cross_val_predict(trees(), X, Y, method="predict_proba")
    assert p.shape == (ROWS, 2) and ((p[:, 1] > 0.5) == Y).mean() == pytest.approx(together)
    folds = cross_val_score(trees(), X, Y, cv=GroupKFold(3), groups=np.arange(ROWS) % 20)
    assert np.isfinite(folds).all()


def test_a_fold_without_hosts_is_an_error_and_no_model():
    with pytest.raises(ValueError, match=r"All the 5 fits failed.*\n(.|\n)*no host's table was given"):
        cross_val_score(trees(hosts=None), X, Y)


@pytest.mark.slow
def test_folds_in_processes_of_their_own():
    one = cross_val_score(trees(), X, Y, cv=2)
    assert cross_val_score(trees(), X, Y, cv=2, n_jobs=2).tolist() == one.tolist()


def test_searches():
    grid = GridSearchCV(trees(), {"depth": [1, 3], "learning_rate": [0.01, 0.5]}, cv=3).fit(X, Y)
    assert grid.best_params_ == {"depth": 3, "learning_rate": 0.5}
    assert grid.score(X, Y) > 0.8 and grid.best_estimator_.hosts is grid.estimator.hosts
    drawn = {"learning_rate": loguniform(0.01, 1), "trees": randint(2, 6)}
    search = RandomizedSearchCV(trees(), drawn, n_iter=3, cv=2, random_state=0).fit(X, Y)
    assert np.isfinite(search.cv_results_["mean_test_score"]).all()
    for resource in ({"resource": "trees", "min_resources": 2, "max_resources": 8}, {}):
        halving = HalvingGridSearchCV(trees(), {"depth": [1, 3]}, cv=2, random_state=0, **resource)
        assert halving.fit(X, Y).predict(X).shape == (ROWS,)
    with pytest.raises(ValueError, match="depth=11: must be a whole number from 1 to 10"):
        GridSearchCV(trees(), {"depth": [11]}, cv=2, error_score="raise").fit(X, Y)


def test_which_host_is_worth_it():
    lender = {"lender": HOSTS["lender"]}
    grid = {"hosts": [vfl.Hosts({}), vfl.Hosts(lender), vfl.Hosts(HOSTS)]}
    search = GridSearchCV(trees(), grid, cv=3, error_score="raise").fit(X, Y)
    nobody, one, both = search.cv_results_["mean_test_score"]
    assert nobody < one < both
    assert search.best_params_["hosts"] is grid["hosts"][2]
    assert "id 3" not in repr(search) + str(search.cv_results_) + search._repr_html_()


def test_curves():
    _, _, scores = learning_curve(trees(), X, Y, cv=3, train_sizes=[0.5, 1.0])
    assert np.isfinite(scores).all()
    _, scores = validation_curve(trees(), X, Y, param_name="depth", param_range=[1, 3], cv=3)
    assert scores[0].mean() < scores[1].mean()


# Pipelines.


def scaled(**options) -> ColumnTransformer:
    return ColumnTransformer([("scale", StandardScaler(), ["age"])], remainder="passthrough", **options)


def test_pipelines_keep_ids_in_the_index_or_in_a_column():
    expected = cross_val_score(trees(), X, Y)
    by_index = make_pipeline(scaled(verbose_feature_names_out=False), trees())
    by_index.set_output(transform="pandas")
    assert np.array_equal(cross_val_score(by_index, X, Y), expected)
    table = X.reset_index()
    by_column = make_pipeline(scaled(), trees(id={**IDS, "guest": "remainder__policy"}))
    by_column.set_output(transform="pandas")
    assert np.array_equal(cross_val_score(by_column, table, Y), expected)
    polars = pytest.importorskip("polars")
    by_column.set_output(transform="polars")
    assert np.array_equal(cross_val_score(by_column, polars.from_pandas(table), Y), expected)
    by_column.set_output(transform="pandas")
    fitted = by_column.fit(table, Y)[-1]
    assert fitted.feature_names_in_.tolist()[:2] == ["scale__age", "remainder__policy"]
    # An array has neither; its columns are known by their number.
    by_number = make_pipeline(scaled(), trees(id={**IDS, "guest": 1}))
    assert np.array_equal(cross_val_score(by_number, table, Y), expected)
    grid = GridSearchCV(by_index, {"secureboost__depth": [1, 3]}, cv=2).fit(X, Y)
    assert grid.best_params_ == {"secureboost__depth": 3}


def test_pipelines_that_lose_the_ids():
    for transformer, params, text in (
        (scaled(), {}, "guest: the table has no index in which ids could be: name the column with id="),
        (scaled(), {"id": IDS}, r"no column 'policy' .*set_output\(transform=\"pandas\"\)"),
        (
            scaled().set_output(transform="pandas"),
            {"id": IDS},
            "no column 'policy' .* did you mean 'remainder__policy'",
        ),
        (OneHotEncoder(), {}, "guest: a sparse matrix was passed, but dense data is required"),
    ):
        with pytest.raises(InputError, match=text):
            make_pipeline(transformer, trees(**params)).fit(X.reset_index(), Y)


def test_text_and_html_of_pipelines_and_searches_hold_no_table():
    pipeline = make_pipeline(FunctionTransformer(), trees())
    search = GridSearchCV(pipeline, {"secureboost__depth": [1, 2]}, cv=2).fit(X, Y)
    for one in (pipeline, search, search.best_estimator_):
        for text in (repr(one), one._repr_html_()):
            assert "id 3" not in text and len(text) < 200_000


# Metadata.


def test_metadata_without_routing():
    weighted = cross_val_score(trees(), X, Y, params={"sample_weight": YEARS})
    rated = cross_val_score(counts(), X, COUNTS, params={"exposure": YEARS})
    assert np.isfinite([*weighted, *rated]).all()
    fold = np.arange(ROWS) % 2 == 0
    model = counts().fit(X[fold], COUNTS[fold], exposure=YEARS[fold])
    split = [(np.flatnonzero(fold), np.flatnonzero(~fold))]
    (score,) = cross_val_score(counts(), X, COUNTS, params={"exposure": YEARS}, cv=split)
    assert score == model.score(X[~fold], COUNTS[~fold])  # exposure reaches fit alone


def test_metadata_with_routing():
    fold = np.arange(ROWS) % 2 == 0
    split = [(np.flatnonzero(fold), np.flatnonzero(~fold))]
    model = counts().fit(X[fold], COUNTS[fold], exposure=YEARS[fold], sample_weight=YEARS[fold])
    with config_context(enable_metadata_routing=True):
        asking = counts().set_fit_request(exposure=True, sample_weight=True)
        asking.set_score_request(exposure=True, sample_weight=True)
        given = {"exposure": YEARS, "sample_weight": YEARS}
        (score,) = cross_val_score(asking, X, COUNTS, params=given, cv=split)
        assert score == model.score(
            X[~fold], COUNTS[~fold], exposure=YEARS[~fold], sample_weight=YEARS[~fold]
        )
        pipeline = make_pipeline(FunctionTransformer(feature_names_out="one-to-one"), asking)
        search = GridSearchCV(pipeline, {"secureboostregressor__depth": [1, 3]}, cv=2)
        if Version(sklearn.__version__) >= Version("1.8"):  # whose pipelines pass metadata on to a score
            assert np.isfinite(search.fit(X, COUNTS, **given).best_score_)
        scorer = make_scorer(mean_poisson_deviance, greater_is_better=False)
        scorer.set_score_request(sample_weight=True)
        asking.set_fit_request(exposure=True, sample_weight=False)
        found = cross_validate(asking, X, COUNTS, params=given, scoring=scorer, cv=split)
        assert np.isfinite(found["test_score"]).all()
        # Hosts of a call are metadata as well, for who does not want them as a parameter.
        late = trees(hosts=None).set_fit_request(hosts=True).set_score_request(hosts=True)
        scores = cross_val_score(late, X, Y, params={"hosts": HOSTS})
        assert np.array_equal(scores, cross_val_score(trees(), X, Y))
        with pytest.raises(TypeError, match="progress"):
            asking.set_fit_request(progress=True)


# Ensembles, calibration, thresholds.


def linear() -> vfl.FederatedLogisticRegression:
    return vfl.FederatedLogisticRegression(hosts=HOSTS, alpha=0.1)


@pytest.mark.parametrize(
    "made",
    [
        lambda: VotingClassifier([("a", trees()), ("b", linear())], voting="soft"),
        lambda: VotingClassifier([("a", trees()), ("b", linear())]),
        lambda: StackingClassifier([("a", trees()), ("b", linear())], cv=2),
        lambda: CalibratedClassifierCV(trees(), cv=2),
        lambda: CalibratedClassifierCV(trees(), cv=2, method="isotonic"),
        lambda: TunedThresholdClassifierCV(trees(), cv=2),
        lambda: OneVsRestClassifier(trees()),
    ],
)
def test_ensembles_of_classifiers(made):
    label = np.where(Y == 1, "yes", "no")
    model = made().fit(X, label)
    assert is_classifier(model) and (model.predict(X) == label).mean() > 0.8


def test_more_classes_and_labels_than_two():
    three = np.digitize(X["age"], [-0.5, 0.5])
    assert (OneVsRestClassifier(trees()).fit(X, three).predict(X) == three).mean() > 0.8
    both = np.column_stack([Y, 1 - Y])
    assert (MultiOutputClassifier(trees()).fit(X, both).predict(X) == both).mean() > 0.8


def test_ensembles_of_regressors():
    stacked = StackingRegressor([("a", counts()), ("b", vfl.FederatedGLM(hosts=HOSTS))], cv=2)
    assert stacked.fit(X, COUNTS).score(X, COUNTS) > 0
    logged = TransformedTargetRegressor(
        vfl.SecureBoostRegressor(hosts=HOSTS, trees=5), func=np.log1p, inverse_func=np.expm1
    )
    assert logged.fit(X, COUNTS).score(X, COUNTS) > 0


def test_bags_draw_rows_by_weights_of_zero_and_more():
    bags = BaggingClassifier(trees(id={**IDS, "guest": 0}), n_estimators=3, random_state=0)
    assert bags.fit(X.reset_index(), Y).score(X.reset_index(), Y) > 0.8
    # Seeds are drawn for each, by scikit-learn's name.
    assert len({model.random_state for model in bags.estimators_}) == 3


def test_a_frozen_model_is_calibrated_as_it_is():
    model = trees().fit(X, Y)
    calibrated = CalibratedClassifierCV(FrozenEstimator(model)).fit(X, Y)
    assert (calibrated.predict(X) == Y).mean() > 0.8
    assert clone(FrozenEstimator(model)).estimator is model


# Importances and dependence.


def test_importances_of_the_guests_columns():
    model = trees().fit(X, Y)
    importance = permutation_importance(model, X, Y, n_repeats=3, random_state=0).importances_mean
    assert importance.argmax() == model.feature_importances_.argmax() == 0
    assert importance[2] == 0  # the category tells nothing
    # To permute ids is to permute everything that hosts know.
    table = X.reset_index()
    found = permutation_importance(trees(id=IDS).fit(table, Y), table, Y, n_repeats=3, random_state=0)
    assert found.importances_mean[0] > 0.05
    chosen = SelectFromModel(trees(), threshold=-np.inf, max_features=1).fit(X, Y)
    assert chosen.get_feature_names_out().tolist() == ["age"]
    numbers = X[["age", "size"]]
    assert RFE(trees(hosts={}), n_features_to_select=1).fit(numbers, Y).ranking_.tolist() == [1, 2]
    forward = SequentialFeatureSelector(trees(hosts={}), n_features_to_select=1, cv=2)
    assert forward.fit(numbers, Y).get_support().tolist() == [True, False]


def test_partial_dependence_and_displays():
    matplotlib.use("Agg")
    numbers = X.astype({"size": float})
    model = trees().fit(numbers, Y)
    (curve,) = partial_dependence(model, numbers, ["age"], grid_resolution=5)["average"]
    assert (np.diff(curve) >= 0).all() and np.ptp(curve) > 0.2
    assert partial_dependence(model, X, ["kind"], categorical_features=["kind"])["average"].shape == (
        1,
        2,
    )
    assert RocCurveDisplay.from_estimator(model, numbers, Y).roc_auc > 0.9
    assert CalibrationDisplay.from_estimator(model, numbers, Y).prob_true.max() > 0.8
    own = numbers[["age", "size"]]
    shown = DecisionBoundaryDisplay.from_estimator(trees(hosts={}).fit(own, Y), own, grid_resolution=4)
    assert shown.response.shape == (4, 4)


# What wrappers of other libraries were reported for.


def test_columns_go_by_name_and_models_leave_tables_alone():
    model = trees().fit(X, Y)
    before = X.copy()
    assert np.array_equal(model.predict_proba(X[["kind", "size", "age"]]), model.predict_proba(X))
    strange = X.assign(kind=pd.Categorical(["c"] * ROWS))
    given = strange.copy()
    with pytest.raises(DataError, match=r"column 'kind' has a level .* in 240 of 240 rows"):
        model.predict_proba(strange)
    model.set_params(unknown_levels=1)
    assert np.isfinite(model.predict_proba(strange)).all()  # a level that nobody saw
    pd.testing.assert_frame_equal(strange, given)
    pd.testing.assert_frame_equal(X, before)
    with pytest.raises(DataError, match=r"guest: column 'size' is of type (str|object), not of numbers"):
        model.predict(X.assign(size="large"))


def test_one_row_is_scored_as_among_others():
    for model in (trees(), linear(), vfl.FederatedGLM(hosts=HOSTS)):
        model.fit(X, Y)
        assert [model.decision_function(X[i : i + 1])[0] for i in range(5)] == list(
            model.decision_function(X)[:5]
        )


def test_names_of_any_signs():
    odd = X.rename(columns={"age": '{"a": [1, 2]}', "size": "größe, in m²\n"})
    model = trees().fit(odd, Y)
    assert model.feature_names_in_.tolist() == ['{"a": [1, 2]}', "größe, in m²\n", "kind"]
    assert np.array_equal(model.predict_proba(odd), trees().fit(X, Y).predict_proba(X))


def test_a_derived_class_is_cloned_as_itself():
    class Claims(vfl.SecureBoost):
        def __init__(self, *, depth=2, hosts=None):
            super().__init__(depth=depth, hosts=hosts, trees=3)

    model = Claims(hosts=HOSTS).fit(X, Y)
    again = clone(model)
    assert type(again) is Claims and again.get_params() == {"depth": 2, "hosts": model.hosts}
    assert np.array_equal(again.fit(X, Y).predict_proba(X), model.predict_proba(X))


def test_weights_that_sum_up_to_one_are_warned_of():
    with pytest.warns(VflWarning, match="min_child_weight=1 allows no split of 240 rows: lower"):
        trees().fit(X, Y, sample_weight=np.full(ROWS, 1 / ROWS))


def test_models_survive_a_pickle_and_a_second_fit():
    model = trees().fit(X, Y)
    scores = pickle.loads(pickle.dumps(model)).decision_function(X)  # noqa: S301 - our own
    assert np.array_equal(scores, model.decision_function(X))
    assert np.array_equal(model.fit(X, Y).decision_function(X), scores)
