"""Parameters of estimators: which there are, what others call them, whether their values can be."""

import inspect
import numbers
import reprlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import wraps
from typing import ParamSpec, TypeVar

import numpy as np
from pydantic import BaseModel, ValidationError

from vfl.errors import ConfigError, UnknownParameter
from vfl.frames.features import suggest_name
from vfl.party.config_errors import describe_key

M = TypeVar("M", bound=BaseModel)
P = ParamSpec("P")
R = TypeVar("R")

_SHOWN = 60  # characters of a value in an error

# What LightGBM, XGBoost, CatBoost, scikit-learn and glum call them; of several the first that there is.
_SAME: Mapping[str, tuple[str, ...]] = {
    **dict.fromkeys(
        (
            *("n_estimators", "num_boost_round", "num_iterations", "num_trees", "num_rounds"),
            *("n_iter", "max_iter", "iterations", "nrounds", "n_trees", "rounds"),
        ),
        ("trees", "max_iterations"),
    ),
    **dict.fromkeys(("max_depth", "levels"), ("depth",)),
    **dict.fromkeys(("num_leaves", "max_leaf_nodes", "num_leaf"), ("max_leaves", "depth")),
    "max_leaves": ("depth",),
    **dict.fromkeys(("eta", "shrinkage_rate", "shrinkage", "lr"), ("learning_rate",)),
    **dict.fromkeys(
        ("lambda", "lambda_l2", "l2_regularization", "l2_leaf_reg", "reg_l2", "lambda_", "C"),
        ("reg_lambda", "alpha"),
    ),
    "reg_lambda": ("alpha",),
    **dict.fromkeys(("alpha", "lambda_l1", "l1_regularization", "reg_l1"), ("reg_alpha",)),
    **dict.fromkeys(("min_split_loss", "min_gain_to_split", "min_split_gain"), ("gamma",)),
    **dict.fromkeys(
        (
            *("min_data_in_leaf", "min_child_samples", "min_samples_leaf", "min_data"),
            *("min_samples_split", "min_rows"),
        ),
        ("min_child_rows",),
    ),
    **dict.fromkeys(
        ("min_sum_hessian_in_leaf", "min_sum_hessian", "min_hessian", "min_weight_fraction_leaf"),
        ("min_child_weight",),
    ),
    **dict.fromkeys(("bagging_fraction", "sub_row", "bagging", "max_samples"), ("subsample",)),
    **dict.fromkeys(
        ("colsample_bytree", "feature_fraction", "sub_feature", "max_features", "rsm"), ("colsample",)
    ),
    **dict.fromkeys(("max_bin", "border_count", "n_bins"), ("max_bins",)),
    "min_data_in_bin": ("min_bin_rows",),
    **dict.fromkeys(
        ("monotone_constraints", "monotonic_cst", "mc", "monotone_constraint"), ("monotone",)
    ),
    "first_tree": ("guest_trees",),
    "top_rate": ("goss_top",),
    "other_rate": ("goss_other",),
    **dict.fromkeys(
        ("early_stopping_round", "early_stopping", "n_iter_no_change", "od_wait"),
        ("early_stopping_rounds",),
    ),
    **dict.fromkeys(("validation_fraction", "test_size"), ("validation_share",)),
    **dict.fromkeys(("loss", "loss_function", "distribution"), ("objective", "family")),
    "family": ("objective",),
    "objective": ("family",),
    **dict.fromkeys(("power", "p", "tweedie_variance_power", "variance_power"), ("tweedie_power",)),
    **dict.fromkeys(("tol", "gradient_tol", "eps"), ("tolerance",)),
    **dict.fromkeys(("n_jobs", "nthread", "num_threads", "thread_count", "n_threads"), ("workers",)),
    **dict.fromkeys(("verbose", "verbosity", "verbose_eval", "silent", "show_progress"), ("progress",)),
    **dict.fromkeys(("random_seed", "bagging_seed"), ("random_state",)),
    **dict.fromkeys(("key", "keys", "on", "ids", "id_column"), ("id",)),
    **dict.fromkeys(("group", "groups", "party", "clients", "sites", "owners"), ("parties",)),
    **dict.fromkeys(("weight", "weights"), ("sample_weight",)),
    **dict.fromkeys(("init_score", "base_margin", "baseline", "offsets"), ("offset",)),
    "callbacks": ("progress",),
    "xgb_model": ("init_model",),
}

_NO_WEIGHTS = (
    "give fit a sample_weight (sklearn.utils.class_weight.compute_sample_weight makes one of class "
    "weights); what predict_proba says is then no longer the share of the classes in the data"
)
_NO_DRAWS = "a linear model draws nothing at random"
_NO_L1 = "the L1 penalty is reg_alpha of trees, and of linear models l1_ratio, a share of alpha"
_NONE: Mapping[str, str] = {
    **dict.fromkeys(
        (
            *("class_weight", "scale_pos_weight", "is_unbalance", "unbalance", "pos_bagging_fraction"),
            *("auto_class_weights", "class_weights"),
        ),
        _NO_WEIGHTS,
    ),
    **dict.fromkeys(
        ("alpha", "reg_alpha", "lambda_l1", "l1_ratio", "l1_regularization", "reg_l1", "penalty"),
        _NO_L1,
    ),
    **dict.fromkeys(("seed", "random_state"), _NO_DRAWS),
    **dict.fromkeys(
        ("subsample_freq", "bagging_freq"), "subsample draws rows anew for each tree, if it is below 1"
    ),
    **dict.fromkeys(
        ("colsample_bylevel", "colsample_bynode", "feature_fraction_bynode"),
        "colsample draws columns for each tree, not for each split",
    ),
    **dict.fromkeys(
        ("eval_set", "eval_metric", "eval_names", "metric", "early_stopping_rounds", "validation_data"),
        "the parameters validation_share and early_stopping_rounds stop by rows that are kept back",
    ),
    "warm_start": "each fit begins anew, or with the trees of a model of trees, init_model=",
    **dict.fromkeys(("init_model", "xgb_model"), "each fit begins anew"),
    **dict.fromkeys(
        ("exposure", "offset", "init_score", "base_margin"),
        "it is for counts and amounts: SecureBoostRegressor and FederatedGLM have it, over rows "
        "PooledBoostRegressor and PooledGLM",
    ),
    **dict.fromkeys(
        ("hosts", "id", "normalise"),
        "it is for columns of several parties: SecureBoost, FederatedGLM and their like have it",
    ),
    "parties": "it is for rows of several parties: PooledBoost, PooledGLM and their like have it",
    "feature_name": "columns keep their names: give a data frame",
    **dict.fromkeys(
        ("boosting_type", "boosting", "booster", "data_sample_strategy", "bootstrap_type"),
        "trees are boosted by their gradients; goss_top and goss_other draw rows by them",
    ),
    **dict.fromkeys(
        ("missing", "use_missing", "zero_as_missing"), "NaN and None are missing, and nothing else is"
    ),
    **dict.fromkeys(
        (
            *("categorical_feature", "categorical_features", "cat_features", "enable_categorical"),
            "max_cat_to_onehot",
        ),
        "text and pandas' categories are categorical, other columns are not",
    ),
    **dict.fromkeys(
        ("tree_method", "device", "device_type", "gpu_id", "task_type", "predictor", "solver"),
        "there is one way to compute a model",
    ),
}
_TWO_CLASSES = (
    "this is a classifier, for two classes; SecureBoostRegressor(objective=...) and "
    "FederatedGLM(family=...), over rows PooledBoostRegressor and PooledGLM, are for counts and amounts"
)


def check_names(kind: type, positional: Sequence[object], given: Iterable[str]) -> None:
    """Raises UnknownParameter for a parameter that an estimator's constructor does not have."""
    parameters = inspect.signature(kind.__init__).parameters  # type: ignore[misc]
    if any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values()):
        return  # a class of its own, derived from ours
    known = [*parameters][1:]
    by_position = [p for p in parameters.values() if p.kind is not inspect.Parameter.KEYWORD_ONLY]
    if len(positional) >= len(by_position) and positional:
        raise UnknownParameter(
            f"{kind.__name__} takes its parameters by name: {kind.__name__}({known[-1]}=...), ..."
        )
    for name in given:
        if name not in known:
            raise UnknownParameter(f"{kind.__name__} has no parameter {name!r}; {advice(name, known)}")


def check_arguments(method: Callable[P, R]) -> Callable[P, R]:
    """A method that raises UnknownParameter, with advice, for an argument that it does not have."""
    known = [*inspect.signature(method).parameters][1:]

    @wraps(method)
    def checked(*given: P.args, **named: P.kwargs) -> R:
        for name in named:
            if name not in known:
                raise UnknownParameter(
                    f"{method.__name__} has no argument {name!r}; {advice(name, known)}"
                )
        return method(*given, **named)

    return checked


def advice(name: str, known: Sequence[str]) -> str:
    """What to do instead of giving a parameter that does not exist."""
    for same in (name, name.lower()):
        for ours in _SAME.get(same, ()):
            if ours in known:
                return f"did you mean {ours!r}?"
        if same in ("objective", "family", "loss"):
            return _TWO_CLASSES
        if same in _NONE:
            return _NONE[same]
    return suggest_name(name, known)


def validate(model: type[M], values: Mapping[str, object], where: str = "") -> M:
    """Settings as strict as in a file, but for NumPy's numbers. Raises ConfigError naming one."""
    plain = {name: plain_value(value) for name, value in values.items()}
    try:
        return model.model_validate(plain, strict=True)
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
    if not problem["loc"]:  # a rule over several parameters
        raise ConfigError(where + str(problem["ctx"]["error"]))
    name = str(problem["loc"][0])
    if problem["type"] == "extra_forbidden":
        what = f"{where}{name}={shown(values[name])}: there is no such rule"
        raise ConfigError(f"{what}; {suggest_name(name, model.model_fields)}")
    if problem["type"] == "value_error":
        raise ConfigError(f"{where}{name}={shown(values[name])}: {problem['ctx']['error']}")
    # Of a dict: the entry.
    within = [key for key in problem["loc"][1:] if isinstance(key, str) and key in _keys(values[name])]
    words = describe_key(model, name, *within[:1])
    for in_files, in_python in (("true or false", "True or False"), ("section", "dict")):
        words = words.replace(in_files, in_python)
    of = f"{shown(within[0])} " if within else ""
    raise ConfigError(f"{where}{name}={shown(values[name])}: {of}must be {words}")


def _keys(value: object) -> list[object]:
    return [*value] if isinstance(value, Mapping) else []


def plain_value(value: object) -> object:
    """NumPy's numbers, as parameter searches hand them over, as Python's."""
    if isinstance(value, np.generic) or (isinstance(value, np.ndarray) and value.ndim == 0):
        return value.item()
    return value


def plain_parameters(parameters: Mapping[str, object]) -> dict[str, object]:
    """What a file can hold of them: no tables of hosts, no model that a fit begins with, no generators,
    which have no value to keep."""
    plain = {}
    for name, value in parameters.items():
        if name not in ("hosts", "init_model"):
            generator = isinstance(value, np.random.RandomState | np.random.Generator)
            plain[name] = None if generator else _of_json(value)
    return plain


def _of_json(value: object) -> object:
    value = plain_value(value)
    if isinstance(value, Mapping):
        return {str(key): _of_json(one) for key, one in value.items()}
    if isinstance(value, list | tuple | np.ndarray):
        return [_of_json(one) for one in value]
    return value


class _Short(reprlib.Repr):
    """Values for an error: a few of many, and of tables and the like no more than what they are."""

    def repr_instance(self, x: object, level: int) -> str:
        plain = x is None or isinstance(x, bool | float | complex | bytes | np.generic)
        return repr(x)[:_SHOWN] if plain else f"<{type(x).__name__}>"


_short = _Short()
_short.maxstring = _short.maxlong = _SHOWN


def shown(value: object) -> str:
    """A value of a parameter for an error; never the cells of a table."""
    text = " ".join(_short.repr(value).split())
    return text if len(text) <= _SHOWN else text[:_SHOWN] + "..."


def check_whole(name: str, value: object, least: int) -> int:
    """Raises ConfigError for anything but a whole number of at least so much."""
    value = plain_value(value)
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise ConfigError(f"{name} must be a whole number of at least {least}, not {shown(value)}")
    return value


def check_above(name: str, value: object, least: float, *, equal: bool = False) -> float:
    """Raises ConfigError for anything but a number above `least`, or `equal` to it."""
    value = plain_value(value)
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise ConfigError(f"{name} must be a number, not {shown(value)}")
    if not (value > least or (equal and value == least)):
        most = "of at least" if equal else "above"
        raise ConfigError(f"{name} must be a number {most} {least:g}, not {shown(value)}")
    return float(value)


def check_share(name: str, value: object) -> float:
    """Raises ConfigError for anything but a number from 0 to 1."""
    value = plain_value(value)
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 <= value <= 1:
        raise ConfigError(f"{name} must be a number from 0 to 1, not {shown(value)}")
    return value


def check_steps(normalise: object) -> None:
    """Raises ConfigError for what is no list of steps, or one such list for each column of the id."""
    lists = (list, tuple)
    if isinstance(normalise, lists):
        parts = [part if isinstance(part, lists) else [part] for part in normalise]
        if all(isinstance(step, str) for part in parts for step in part):
            return
    raise ConfigError(
        "normalise must be a list of steps, or one such list for each column of the id, not "
        f"{shown(normalise)}"
    )


def check_by_party(name: str, value: object) -> dict[str, dict[str, object]]:
    """A parameter that has a dict for each party. Raises ConfigError."""
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise ConfigError(f"{name} must be a dict by party, not {shown(value)}")
    for party, own in value.items():
        if not isinstance(own, Mapping):
            raise ConfigError(f"{name} of {party} must be a dict, not {shown(own)}")
    return {str(party): dict(own) for party, own in value.items()}


def check_parties(name: str, by_party: Iterable[str], parties: Sequence[str]) -> None:
    """Raises ConfigError for a party that is none."""
    for party in by_party:
        if party not in parties:
            raise ConfigError(
                f"{name}= names {party!r}, which is no party; {suggest_name(party, parties)}"
            )


def choose_seed(random_state: object, seed: object, default: object) -> object:
    """The seed: scikit-learn's name for it if that is given. Raises ConfigError where both are."""
    if random_state is None:
        return seed
    if seed != default:
        raise ConfigError("random_state and seed mean the same: give one of them")
    if isinstance(random_state, np.random.RandomState):
        return int(random_state.randint(np.iinfo(np.int32).max))
    if isinstance(random_state, np.random.Generator):
        return int(random_state.integers(np.iinfo(np.int32).max))
    if (
        not isinstance(random_state, numbers.Integral)
        or isinstance(random_state, bool)
        or random_state < 0
    ):
        raise ConfigError(
            "random_state must be None, a whole number of at least 0 or a generator of NumPy's, not "
            f"{shown(random_state)}"
        )
    return int(random_state)
