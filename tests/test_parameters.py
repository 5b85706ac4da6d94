"""Parameters of the estimators: which there are, how strict they are, how they are shown and copied."""

import copy
import inspect
import pickle
import pydoc
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from sklearn.base import clone, is_classifier
from sklearn.exceptions import NotFittedError
from small_tables import IDS, alone, quick, small

import vfl
from vfl.errors import ConfigError, UnknownParameter, VflError
from vfl.estimators.bar import watch
from vfl.learn.params import OF_ORDERED, UNSAID, BoostParams, GlmParams
from vfl.models.kind import AnyKind, TrainingStep
from vfl.models.linear import Linear
from vfl.models.trees import Trees
from vfl.protocols.linear.fit import IterationDone
from vfl.protocols.trees.grower import TreeDone

KINDS = (
    vfl.SecureBoost,
    vfl.SecureBoostRegressor,
    vfl.FederatedGLM,
    vfl.FederatedLogisticRegression,
    vfl.PooledBoost,
    vfl.PooledBoostRegressor,
    vfl.PooledGLM,
    vfl.PooledLogisticRegression,
)
SHARED = {
    "hosts": None,
    "id": None,
    "normalise": ("nfkc", "trim", "upper", "alnum"),
    "unknown_levels": 0.1,
    "engine": "plain",
    "workers": 1,
    "progress": None,
}
LINEAR = {**SHARED, "rules": None}
TREES = {**SHARED, "monotone": None, "init_model": None, "random_state": None}
POOLED = {
    "parties": None,
    "levels": None,
    "unknown_levels": 0.1,
    "engine": "plain",
    "progress": None,
}
POOLED_LINEAR = {**POOLED, "rules": None}
POOLED_TREES = {**POOLED, "monotone": None, "random_state": None}
ENCRYPTED = {"encryption", "key_bits", "obfuscators"}
BY_COLUMNS = {
    *("sums", "coordinator", "goss_top", "goss_other", "guest_trees"),
    *UNSAID,
    *OF_ORDERED,
    *ENCRYPTED,
}
SEVERAL = {"alphas", "folds", "one_standard_error", "theta", "profile", "dispersion"}
OWN = {"l1_on", "credibility"}
ACROSS = {"across", "across_rows", "across_names"}
HIDDEN = {
    "scores",
    "coordinator",
    "seed",
    "max_labels",
    "inference",
    "max_leverage",
    *SEVERAL,
    *OWN,
    *ENCRYPTED,
    *ACROSS,
}


def defaults(model, left_out=frozenset()) -> dict:
    return {name: f.default for name, f in model.model_fields.items() if name not in left_out}


def section(kind: type, title: str) -> dict[str, str]:
    """What a docstring in numpydoc's style says of each name in a section."""
    text = inspect.getdoc(kind).split(f"{title}\n{'-' * len(title)}\n")[1].split("\n\n")[0]
    name, found = "", {}
    for line in text.splitlines():
        if line.startswith(" "):
            found[name].append(line.strip())
        else:
            name = line.split(" : ")[0]
            found[name] = []
    return {name: " ".join(lines) for name, lines in found.items()}


@pytest.mark.parametrize(
    ("kind", "own", "settings"),
    [
        (
            vfl.SecureBoost,
            TREES,
            defaults(BoostParams, {"sums", "coordinator", "init_model", "quantile", "classes"}),
        ),
        (
            vfl.SecureBoostRegressor,
            {**TREES, "objective": "squared"},
            defaults(BoostParams, {"sums", "coordinator", "init_model", "classes"}),
        ),
        (
            vfl.FederatedGLM,
            {**LINEAR, "family": "gaussian"},
            defaults(GlmParams, {"scores", "coordinator", "seed", "across_names", "max_leverage"}),
        ),
        (
            vfl.FederatedLogisticRegression,
            LINEAR,
            defaults(GlmParams, {"scores", "coordinator", "seed", "across_names", "max_leverage"}),
        ),
        (vfl.PooledBoost, POOLED_TREES, defaults(BoostParams, BY_COLUMNS)),
        (
            vfl.PooledBoostRegressor,
            {**POOLED_TREES, "objective": "squared"},
            defaults(BoostParams, BY_COLUMNS),
        ),
        (vfl.PooledGLM, {**POOLED_LINEAR, "family": "gaussian"}, defaults(GlmParams, HIDDEN)),
        (vfl.PooledLogisticRegression, POOLED_LINEAR, defaults(GlmParams, HIDDEN)),
    ],
)
def test_constructors_are_written_out_and_agree_with_the_settings(kind, own, settings):
    signature = inspect.signature(kind)
    shown = {name: parameter.default for name, parameter in signature.parameters.items()}
    assert shown == {**own, **settings}
    assert kind().get_params() == shown
    assert all(p.kind is inspect.Parameter.KEYWORD_ONLY for p in signature.parameters.values())
    # Not made up at run time: an editor reads the same in the source.
    source = inspect.getsource(kind.__init__)
    assert all(f"        {name}: " in source and f"self.{name} = {name}" in source for name in shown)
    model = BoostParams if "trees" in settings else GlmParams
    for name, field in ((name, model.model_fields[name]) for name in settings):
        written = signature.parameters[name].annotation
        assert written == field.annotation, name
    documented = section(kind, "Parameters")
    assert list(documented) == list(shown)
    assert all(documented.values())
    for name in settings:
        assert documented[name] == " ".join(model.model_fields[name].description.split())
    for name, parameter in signature.parameters.items():
        (line,) = [line for line in kind.__doc__.splitlines() if line.startswith(f"    {name} : ")]
        assert line.endswith(f"default={parameter.default!r}"), line


@pytest.mark.parametrize("kind", KINDS)
def test_help_is_readable(kind):
    text = pydoc.plain(pydoc.render_doc(kind))
    assert "trees: int = 50" in text or "alpha: float = 0.0" in text
    assert "Parameters" in text and "Attributes" in text
    for method in (kind.fit, kind.predict, kind.score, kind.decision_function, kind.save, kind.load):
        assert method.__doc__
    other = "parties" if "Pooled" in kind.__name__ else "hosts"
    assert [*inspect.signature(kind.fit).parameters][:4] == ["self", "X", "y", other]


# Names.


@pytest.mark.parametrize(
    ("kind", "name", "text"),
    [
        (vfl.SecureBoost, "treees", "no parameter 'treees'; did you mean 'trees'?"),
        (
            vfl.SecureBoost,
            "xyz",
            "no parameter 'xyz'; there are hosts, id, normalise, unknown_levels, monotone, ",
        ),
        (vfl.FederatedGLM, "alhpa", "FederatedGLM has no parameter 'alhpa'; did you mean 'alpha'?"),
        (vfl.SecureBoost, "first_tree", "did you mean 'guest_trees'"),
        (vfl.SecureBoost, "n_estimators", "did you mean 'trees'"),
        (vfl.SecureBoost, "num_boost_round", "did you mean 'trees'"),
        (vfl.SecureBoost, "iterations", "did you mean 'trees'"),
        (vfl.FederatedGLM, "max_iter", "did you mean 'max_iterations'"),
        (vfl.SecureBoost, "max_depth", "did you mean 'depth'"),
        (vfl.SecureBoost, "num_leaves", "did you mean 'max_leaves'"),
        (vfl.SecureBoost, "eta", "did you mean 'learning_rate'"),
        (vfl.SecureBoost, "lambda_l2", "did you mean 'reg_lambda'"),
        (vfl.FederatedGLM, "reg_lambda", "did you mean 'alpha'"),
        (vfl.FederatedLogisticRegression, "C", "did you mean 'alpha'"),
        (vfl.SecureBoost, "lambda_l1", "did you mean 'reg_alpha'"),
        (vfl.SecureBoost, "alpha", "did you mean 'reg_alpha'"),
        (vfl.FederatedGLM, "reg_alpha", "of linear models l1_ratio, a share of alpha"),
        (vfl.SecureBoost, "l1_ratio", "the L1 penalty is reg_alpha of trees"),
        (vfl.SecureBoost, "min_child_samples", "did you mean 'min_child_rows'"),
        (vfl.SecureBoost, "min_data_in_leaf", "did you mean 'min_child_rows'"),
        (vfl.SecureBoost, "min_samples_leaf", "did you mean 'min_child_rows'"),
        (vfl.SecureBoost, "min_sum_hessian_in_leaf", "did you mean 'min_child_weight'"),
        (vfl.SecureBoost, "min_split_gain", "did you mean 'gamma'"),
        (vfl.SecureBoost, "bagging_fraction", "did you mean 'subsample'"),
        (vfl.SecureBoost, "subsample_freq", "subsample draws rows anew for each tree"),
        (vfl.SecureBoost, "colsample_bytree", "did you mean 'colsample'"),
        (vfl.SecureBoost, "colsample_bylevel", "colsample draws columns for each tree"),
        (vfl.SecureBoost, "feature_fraction", "did you mean 'colsample'"),
        (vfl.SecureBoost, "max_bin", "did you mean 'max_bins'"),
        (vfl.SecureBoost, "monotone_constraints", "did you mean 'monotone'"),
        (vfl.SecureBoost, "monotonic_cst", "did you mean 'monotone'"),
        (vfl.SecureBoost, "top_rate", "did you mean 'goss_top'"),
        (vfl.SecureBoost, "n_iter_no_change", "did you mean 'early_stopping_rounds'"),
        (vfl.SecureBoost, "validation_fraction", "did you mean 'validation_share'"),
        (vfl.SecureBoost, "n_jobs", "did you mean 'workers'"),
        (vfl.FederatedGLM, "verbose", "did you mean 'progress'"),
        (vfl.FederatedGLM, "random_state", "a linear model draws nothing at random"),
        (vfl.SecureBoost, "class_weight", "give fit a sample_weight"),
        (vfl.SecureBoost, "scale_pos_weight", "give fit a sample_weight"),
        (vfl.SecureBoost, "objective", "this is a classifier, for two classes; SecureBoostRegressor"),
        (vfl.FederatedLogisticRegression, "family", "this is a classifier, for two classes"),
        (vfl.FederatedGLM, "objective", "did you mean 'family'"),
        (vfl.SecureBoostRegressor, "family", "did you mean 'objective'"),
        (vfl.SecureBoostRegressor, "loss", "did you mean 'objective'"),
        (vfl.FederatedGLM, "tol", "did you mean 'tolerance'"),
        (vfl.FederatedGLM, "solver", "there is one way to compute a model"),
        (vfl.SecureBoost, "categorical_feature", "text and pandas' categories are categorical"),
        (vfl.SecureBoost, "eval_set", "validation_share and early_stopping_rounds stop"),
        (
            vfl.SecureBoost,
            "warm_start",
            "each fit begins anew, or with the trees of a model of trees, init_model=",
        ),
        (vfl.SecureBoost, "boosting_type", "trees are boosted by their gradients"),
        (vfl.SecureBoost, "missing", "NaN and None are missing"),
    ],
)
def test_parameters_of_other_libraries_lead_to_ours(kind, name, text):
    with pytest.raises(UnknownParameter, match=rf"{kind.__name__} has no parameter '{name}'") as caught:
        kind(**{name: 1})
    assert text in str(caught.value)
    assert isinstance(caught.value, TypeError) and isinstance(caught.value, VflError)


def test_parameters_are_given_by_name():
    with pytest.raises(
        UnknownParameter, match=r"SecureBoost takes its parameters by name: SecureBoost\("
    ):
        vfl.SecureBoost(100)
    with pytest.raises(ValueError, match="Invalid parameter 'dept'"):
        vfl.SecureBoost().set_params(dept=3)


def test_a_class_of_its_own_may_have_parameters_of_its_own():
    class Claims(vfl.SecureBoost):
        def __init__(self, label="claim", **others):
            super().__init__(**others)
            self.label = label

    assert Claims(trees=3).trees == 3 and Claims("loss").label == "loss"


# Values.


@pytest.mark.parametrize(
    ("params", "text"),
    [
        ({"trees": True}, "trees=True: must be a whole number from 1 to 5000"),
        ({"trees": "5"}, "trees='5': must be a whole number from 1 to 5000"),
        ({"trees": 5.0}, r"trees=5\.0: must be a whole number from 1 to 5000"),
        ({"trees": 5.5}, r"trees=5\.5: must be a whole number"),
        ({"trees": float("nan")}, "trees=nan: must be a whole number"),
        ({"trees": None}, "trees=None: must be a whole number"),
        ({"trees": [3]}, r"trees=\[3\]: must be a whole number"),
        ({"trees": 0}, "trees=0: must be a whole number from 1 to 5000"),
        ({"depth": np.int64(11)}, r"depth=.*11.*: must be a whole number from 1 to 10"),
        ({"learning_rate": True}, "learning_rate=True: must be a number above 0 and of at most 1"),
        ({"learning_rate": "0.1"}, "learning_rate='0.1': must be a number above 0"),
        ({"learning_rate": float("nan")}, "learning_rate=nan: must be a number above 0"),
        ({"reg_lambda": float("inf")}, "reg_lambda=inf: must be a number of at least 0"),
        ({"subsample": 1.5}, r"subsample=1\.5: must be a number above 0 and of at most 1"),
        ({"guest_trees": "all"}, "guest_trees='all': must be a whole number from 0 to 5000"),
        ({"guest_trees": 60}, "guest_trees = 60 is more than trees = "),
        ({"encryption": "rsa"}, 'encryption=\'rsa\': must be "paillier" or "lattice"'),
        ({"key_bits": "2048"}, "key_bits='2048': must be 2048, 3072 or 4096"),
        ({"seed": -1}, "seed=-1: must be a whole number of at least 0"),
        ({"workers": 0}, "workers must be a whole number of at least 1, not 0"),
        ({"workers": True}, "workers must be a whole number of at least 1, not True"),
        ({"workers": 1.0}, "workers must be a whole number"),
        ({"progress": "yes"}, "progress must be True, False, None or a function, not 'yes'"),
        (
            {"random_state": "7"},
            "random_state must be None, a whole number of at least 0 or a generator",
        ),
        ({"random_state": -1}, "random_state must be None, a whole number of at least 0"),
        ({"random_state": True}, "random_state must be None, a whole number"),
        ({"random_state": 3, "seed": 4}, "random_state and seed mean the same: give one of them"),
        ({"early_stopping_rounds": 3}, "early_stopping_rounds needs a validation_share above 0"),
        ({"goss_top": 0.3}, "goss_top and goss_other belong together"),
    ],
)
def test_values_are_as_strict_as_in_a_file(params, text):
    insurer, y, hosts = small()
    with pytest.raises(ConfigError, match=text) as caught:
        quick(hosts=hosts, **params).fit(insurer, y)
    assert isinstance(caught.value, ValueError)


@pytest.mark.parametrize(
    ("params", "text"),
    [
        ({"fit_intercept": 1}, "fit_intercept=1: must be True or False"),
        ({"alpha": "0"}, "alpha='0': must be a number of at least 0"),
        ({"max_iterations": 10.0}, r"max_iterations=10\.0: must be a whole number"),
        (
            {"family": None},
            "family=None: there are poisson, negative_binomial, gamma, tweedie, gaussian",
        ),
        ({"tweedie_power": 2}, r"tweedie_power=2: must be a number from 1\.001 to 1\.999"),
        ({"tweedie_power": 1 + 1e-15}, r"must be a number from 1\.001 to 1\.999"),
    ],
)
def test_values_of_linear_models_are_as_strict(params, text):
    insurer, y, hosts = small()
    with pytest.raises(ConfigError, match=text):
        vfl.FederatedGLM(hosts=hosts, **params).fit(insurer, y)


ODD = (None, "x", -1, 0.5, [1, "a"], {"guest": {"age": 1}}, np.array([1, 2]), pd.NA, pd.Series([1.0]))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", [vfl.SecureBoostRegressor, vfl.FederatedLogisticRegression])
def test_whatever_a_parameter_is_an_error_is_ours(kind):
    insurer, y, hosts = small()
    quick = {"trees": 1, "depth": 1} if hasattr(kind(), "trees") else {"max_iterations": 1}
    failed = 0
    for name in kind().get_params():
        for value in ODD:
            model = kind(**{"hosts": hosts, **quick, name: value})
            assert kind.__name__ in repr(model)
            try:
                model.fit(insurer, y).predict(insurer)
            except VflError as error:
                failed += 1
                assert isinstance(error, ValueError) and "\n" not in str(error)
    assert failed > 5 * len(kind().get_params())


def test_no_cell_of_a_table_is_in_an_error():
    insurer, y, hosts = small()
    secret = pd.DataFrame({"secret": [31337.0] * 80})
    for params in (
        *({name: secret} for name in ("trees", "id", "normalise", "monotone", "engine", "workers")),
        {"monotone": {"guest": secret}},
        {"seed": [secret]},
        {"id": {"guest": secret, "lender": None, "registry": None}},
        {"random_state": secret["secret"]},
    ):
        with pytest.raises(ConfigError) as caught:
            quick(hosts=hosts, **params).fit(insurer, y)
        assert "31337" not in str(caught.value) and "<" in str(caught.value)


def test_a_long_value_is_cut_short():
    insurer, y, hosts = small()
    with pytest.raises(ConfigError) as caught:
        quick(hosts=hosts, trees=list(range(1000))).fit(insurer, y)
    assert len(str(caught.value)) < 150


def test_numbers_of_numpy_are_numbers():
    insurer, y, _ = small()
    model = alone(trees=np.int64(2), learning_rate=np.float64(0.5), workers=np.int8(1)).fit(insurer, y)
    assert len(model.train_log_) == 2
    model = alone(trees=np.array(3), learning_rate=np.float32(0.5)).fit(insurer, y)
    assert len(model.train_log_) == 3
    linear = vfl.FederatedGLM(hosts={}, fit_intercept=np.bool_(False), alpha=np.float64(0.1))
    assert linear.fit(insurer, y).intercept_ == 0.0


def test_random_state_is_the_seed():
    insurer, y, _ = small(200)
    drawn = {"subsample": 0.5, "trees": 3}

    def scores(**params) -> np.ndarray:
        return alone(**drawn, **params).fit(insurer, y).decision_function(insurer)

    assert np.array_equal(scores(random_state=7), scores(seed=7))
    assert np.array_equal(scores(), scores(random_state=0)) and np.array_equal(scores(), scores())
    assert not np.array_equal(scores(random_state=7), scores())
    for generator in (np.random.RandomState, np.random.default_rng):
        assert np.array_equal(scores(random_state=generator(1)), scores(random_state=generator(1)))
        same = generator(1)
        assert not np.array_equal(scores(random_state=same), scores(random_state=same))


# Copies, text.


def test_clone_set_params_and_repr():
    model = vfl.SecureBoost(trees=7, id=IDS)
    assert is_classifier(model)
    assert clone(model).get_params() == model.get_params()
    insurer, y, _ = small()
    assert not hasattr(clone(alone().fit(insurer, y)), "model_")
    assert repr(vfl.SecureBoost(trees=7, depth=4)) == "SecureBoost(trees=7)"
    assert repr(model.set_params(id=None, depth=2)) == "SecureBoost(depth=2, trees=7)"
    assert "SecureBoost" in model._repr_html_()


class Counted(dict):
    """Hosts' tables that count how often somebody copies, compares or prints one."""

    def __init__(self, tables: dict[str, pd.DataFrame]) -> None:
        self.done: list[str] = []
        super().__init__({name: self.watched(table) for name, table in tables.items()})

    def watched(self, table: pd.DataFrame) -> pd.DataFrame:
        done = self.done

        class Watched(pd.DataFrame):
            @property
            def _constructor(self):
                return pd.DataFrame

            def __deepcopy__(self, memo=None):
                done.append("copied")
                return super().__deepcopy__(memo)

            def __repr__(self):
                done.append("printed")
                return super().__repr__()

            def __eq__(self, other):
                done.append("compared")
                return super().__eq__(other)

            __hash__ = None

        return Watched(table)


def test_tables_of_hosts_are_shared_and_never_printed_or_compared():
    insurer, y, hosts = small()
    tables = Counted(hosts)
    model = quick(hosts=tables).fit(insurer, y)
    again = clone(clone(model))
    assert all(again.hosts[name] is model.hosts[name] is tables[name] for name in hosts)
    assert copy.deepcopy(model).hosts is copy.copy(model).hosts is model.hosts
    texts = [repr(model), str(again), model._repr_html_(), repr(model.get_params())]
    assert model.set_params(trees=2).get_params()["hosts"] is model.hosts
    assert model.hosts == model.hosts and model.hosts != clone(quick(hosts=hosts)).hosts
    assert {model.hosts} == {again.hosts}
    assert tables.done == []
    assert "'lender': <Watched, 80 rows, 2 columns>" in texts[0]
    assert all(len(text) < 100_000 and "id 3" not in text for text in texts)
    # Whoever sets it.
    assert list(model.set_params(hosts=hosts).hosts) == list(hosts)
    assert repr(quick(hosts={"x": object()}).hosts) == "{'x': <object>}"
    assert repr(vfl.SecureBoost(hosts={})) == "SecureBoost(hosts={})"


def test_a_model_can_be_pickled_with_its_hosts():
    insurer, y, hosts = small()
    model = quick(hosts=hosts).fit(insurer, y)
    again = pickle.loads(pickle.dumps(model))  # noqa: S301 - our own
    assert np.array_equal(again.decision_function(insurer), model.decision_function(insurer))
    assert list(again.hosts) == list(hosts)


def test_not_fitted():
    insurer, y, hosts = small()
    for method in ("predict", "predict_proba", "decision_function"):
        with pytest.raises(NotFittedError):
            getattr(quick(), method)(insurer, hosts)
    for kind in KINDS:
        with pytest.raises(NotFittedError):
            (kind() if "Pooled" in kind.__name__ else kind(hosts={})).score(insurer, y)
        with pytest.raises(NotFittedError):
            kind().save("never")
    with pytest.raises(NotFittedError):
        _ = quick().feature_importances_


def test_a_fit_that_fails_leaves_nothing_behind():
    insurer, y, _ = small()
    model = alone().fit(insurer, y)
    before = model.decision_function(insurer)
    with pytest.raises(ConfigError):
        model.set_params(trees=0).fit(insurer, y)
    assert np.array_equal(model.decision_function(insurer), before)
    model = alone(trees=0)
    with pytest.raises(ConfigError):
        model.fit(insurer, y)
    with pytest.raises(NotFittedError):
        model.predict(insurer)


# Progress.


def steps(kind: type[AnyKind]) -> list[TrainingStep]:
    if kind is Trees:
        return [TreeDone(1, 2, 0.5, None, {}), TreeDone(2, 2, 0.4, 0.45, {})]
    return [IterationDone(3, 10, 0.1, 0.2, 1e-3, {})]


def test_a_bar_is_shown_if_it_is_asked_for(capsys, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TTY_INTERACTIVE", "1")
    for asked, default in ((True, None), (None, True)):
        for kind, news in ((Trees, "loss 0.4000, validation 0.4500"), (Linear, "gradient 1.0e-03")):
            with watch(asked, default, "SecureBoost", kind) as told:
                for step in steps(kind):
                    told(step)
            shown = capsys.readouterr()
            assert "SecureBoost" in shown.err and news in shown.err and shown.out == ""
    insurer, y, _ = small()
    alone(progress=True).fit(insurer, y)
    assert "SecureBoost" in capsys.readouterr().err


def test_no_bar_is_shown_where_nobody_looks_on(capsys, monkeypatch):
    insurer, y, _ = small()
    alone().fit(insurer, y)
    alone(progress=False).fit(insurer, y)
    alone(progress=True).fit(insurer, y, progress=False)
    with watch(None, None, "x", Trees) as told:
        assert [told(step) for step in steps(Trees)] == [None] * 2
    # At a prompt there is one, once it takes a while.
    monkeypatch.setattr(sys, "ps1", ">>> ", raising=False)
    monkeypatch.setenv("FORCE_COLOR", "1")
    alone().fit(insurer, y)
    assert capsys.readouterr() == ("", "")
    monkeypatch.setattr("vfl.estimators.bar._PATIENCE", 0.0)
    alone().fit(insurer, y)
    assert "SecureBoost" in capsys.readouterr().err


# The package.


def test_importing_the_package_imports_nothing_heavy():
    code = (
        "import sys, vfl\n"
        "heavy = {'pandas', 'numpy', 'sklearn', 'numba', 'pyarrow', 'scipy'} & {*sys.modules}\n"
        "assert not heavy, heavy\n"
        "print(vfl.SecureBoost, dir(vfl), vfl.load)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "vfl.estimators.trees.SecureBoost" in done.stdout, done.stderr
    assert "'SecureBoost'" in done.stdout
    with pytest.raises(AttributeError, match="'vfl' has no attribute 'SecureBost'"):
        _ = vfl.SecureBost
