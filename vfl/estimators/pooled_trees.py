"""Gradient-boosted trees over the rows of several parties (`vfl.protocols.pooled.trees`)."""

from collections.abc import Mapping, Sequence
from typing import ClassVar, Literal

import numpy as np
import pandas as pd
from sklearn.utils.validation import check_is_fitted

from vfl.arrays import Floats
from vfl.errors import ConfigError
from vfl.estimators.boosted import shares_of, ways_of
from vfl.estimators.learner import saved_by_name
from vfl.estimators.parameters import shown
from vfl.estimators.pool import Pool, PooledClassifier, PooledRegressor
from vfl.estimators.saved import SavedTrees
from vfl.learn.binning import Monotone
from vfl.learn.losses import OBJECTIVES, Loss, QuantileLoss
from vfl.learn.params import OF_ORDERED, BoostParams
from vfl.models.kind import ColumnRules
from vfl.models.trees import Trees
from vfl.protocols.pooled.trees import POOLED
from vfl.protocols.trees.model import GuestModel
from vfl.simulate import SimulationEngine


class _Trees(Pool):
    """What both tree models share."""

    monotone: Mapping[str, Monotone] | None

    model_: GuestModel

    _SETTINGS = BoostParams
    _SAVED = SavedTrees
    _LEFT_OUT = frozenset(
        {
            *("sums", "coordinator", "goss_top", "goss_other", "guest_trees"),
            *("encryption", "key_bits", "obfuscators", "init_model", "quantile", "classes"),
            *("interaction_constraints", "max_leaves", "ordered_categories", *OF_ORDERED),
        }
    )

    def _kind(self) -> Trees:
        return Trees(self._params(BoostParams))

    def _rules(self) -> ColumnRules:
        if self.monotone is None:
            return ColumnRules()
        if not isinstance(self.monotone, Mapping):
            raise ConfigError(f"monotone must be a dict by column, not {shown(self.monotone)}")
        return ColumnRules(ways_of("monotone=", self.monotone))

    @property
    def importance_table_(self) -> pd.DataFrame:
        """The columns that split: column, splits, gain; most gain first."""
        check_is_fitted(self, "model_")
        rows = [line for _, *line in self.model_.importance()]
        return pd.DataFrame(rows, columns=["column", "splits", "gain"])

    @property
    def feature_importances_(self) -> Floats:
        """The share of the total gain of each column of the table, shape (n_features_in_,)."""
        table = self.importance_table_
        return shares_of(table, self._columns[POOLED], table["gain"].sum())


@saved_by_name
class PooledBoost(PooledClassifier, _Trees):
    """A classifier by gradient-boosted trees over the rows of several parties.

    Numbers and bools are numeric columns; text, objects and categories are categorical; dates are
    refused. None and NaN are missing.

    Parameters
    ----------
    parties : str, int or None, default=None
        the column that says whose each row is, which is no feature; or give fit a name for each row.
        None: all rows are of one party. The model is the same however the rows lie, but for rows that
        are drawn and, of linear models, rounding
    levels : dict of lists, default=None
        of categorical columns, the levels that the parties agree on, all others being one; a column of
        numbers that is listed is categorical. None, or a column that is not listed: all that the rows
        have
    unknown_levels : float, default=0.1
        share of a batch's rows with a level that was not in training, above which scoring stops; 1:
        never
    monotone : dict, default=None
        numeric columns that are "increasing" or "decreasing": how the score may change with a column's
        known values, all others being equal
    engine : {'plain', 'protocol'}, default='plain'
        how the model is computed: "plain" by totals in the clear, which is fastest; "protocol" by the
        messages that the parties and their server would send, masks and all, over memory. The model is
        the same, bit for bit
    trees : int, default=50
        trees at most
    depth : int, default=4
        levels of splits in a tree
    learning_rate : float, default=0.2
        shrinkage of each tree
    max_bins : int, default=32
        bins of a column, missing not counted
    min_bin_rows : int, default=3
        least number of rows of a bin
    reg_lambda : float, default=1.0
        L2 penalty on leaf weights
    reg_alpha : float, default=0.0
        L1 penalty on leaf weights
    gamma : float, default=0.0
        least gain of a split
    min_child_weight : float, default=1.0
        least hessian sum of a child
    min_child_rows : int, default=20
        least number of rows of a child
    tweedie_power : float, default=1.5
        of tweedie: variance grows with mean^power; 1 is poisson, 2 gamma
    subsample : float, default=1.0
        share of rows drawn for each tree
    colsample : float, default=1.0
        share of each party's columns a tree
    validation_share : float, default=0.0
        rows kept to decide when to stop
    early_stopping_rounds : int, default=0
        stop after so many trees without a better validation loss; 0 is never
    seed : int, default=0
        of the row and column draws, not of any key
    random_state : int, RandomState or None, default=None
        seed by the name that scikit-learn has for it; None leaves it to seed
    progress : bool or None, default=None
        whether fit shows a progress bar; None: at a prompt or in a notebook, when it takes more than a
        second

    Attributes
    ----------
    classes_ : array of shape (2,)
        the two classes in order; probabilities and scores are of the second
    feature_importances_ : array of shape (n_features_in_,)
        share of the total gain of each column of the table
    importance_table_ : DataFrame
        column, splits and gain of the columns that split, most gain first
    parties_ : Series
        how many rows of each party the model was trained on
    n_features_in_ : int
        columns of the table, that of the parties among them
    feature_names_in_ : array of shape (n_features_in_,)
        their names, where they are text
    model_ : object
        the model, as each party would keep it
    traffic_ : dict of int, or None
        bytes between server and party during fit, both ways together, by party; None where nothing was
        sent, as by engine="plain"
    train_log_ : list
        losses (mean) and seconds after each tree (TreeDone) or iteration (IterationDone)

    Examples
    --------
    >>> model = PooledBoost(parties="hospital", trees=30)
    >>> cross_val_score(model, patients, died, scoring="roc_auc")
    """

    def __init__(
        self,
        *,
        parties: str | int | None = None,
        levels: Mapping[str, Sequence[object]] | None = None,
        unknown_levels: float = 0.1,
        monotone: Mapping[str, Monotone] | None = None,
        engine: SimulationEngine = "plain",
        trees: int = 50,
        depth: int = 4,
        learning_rate: float = 0.2,
        max_bins: int = 32,
        min_bin_rows: int = 3,
        reg_lambda: float = 1.0,
        reg_alpha: float = 0.0,
        gamma: float = 0.0,
        min_child_weight: float = 1.0,
        min_child_rows: int = 20,
        tweedie_power: float = 1.5,
        subsample: float = 1.0,
        colsample: float = 1.0,
        validation_share: float = 0.0,
        early_stopping_rounds: int = 0,
        seed: int = 0,
        random_state: int | np.random.RandomState | np.random.Generator | None = None,
        progress: bool | None = None,
    ) -> None:
        self.parties = parties
        self.levels = levels
        self.unknown_levels = unknown_levels
        self.monotone = monotone
        self.engine = engine
        self.trees = trees
        self.depth = depth
        self.learning_rate = learning_rate
        self.max_bins = max_bins
        self.min_bin_rows = min_bin_rows
        self.reg_lambda = reg_lambda
        self.reg_alpha = reg_alpha
        self.gamma = gamma
        self.min_child_weight = min_child_weight
        self.min_child_rows = min_child_rows
        self.tweedie_power = tweedie_power
        self.subsample = subsample
        self.colsample = colsample
        self.validation_share = validation_share
        self.early_stopping_rounds = early_stopping_rounds
        self.seed = seed
        self.random_state = random_state
        self.progress = progress


@saved_by_name
class PooledBoostRegressor(PooledRegressor, _Trees):
    """A regressor by gradient-boosted trees over the rows of several parties.

    Numbers and bools are numeric columns; text, objects and categories are categorical; dates are
    refused. None and NaN are missing.

    Parameters
    ----------
    objective : {'squared', 'poisson', 'gamma', 'tweedie'}, default='squared'
        what the label is: any number; a count, such as claims, with an exposure; an amount above zero;
        an amount that is zero in many rows
    parties : str, int or None, default=None
        the column that says whose each row is, which is no feature; or give fit a name for each row.
        None: all rows are of one party. The model is the same however the rows lie, but for rows that
        are drawn and, of linear models, rounding
    levels : dict of lists, default=None
        of categorical columns, the levels that the parties agree on, all others being one; a column of
        numbers that is listed is categorical. None, or a column that is not listed: all that the rows
        have
    unknown_levels : float, default=0.1
        share of a batch's rows with a level that was not in training, above which scoring stops; 1:
        never
    monotone : dict, default=None
        numeric columns that are "increasing" or "decreasing": how the score may change with a column's
        known values, all others being equal
    engine : {'plain', 'protocol'}, default='plain'
        how the model is computed: "plain" by totals in the clear, which is fastest; "protocol" by the
        messages that the parties and their server would send, masks and all, over memory. The model is
        the same, bit for bit
    trees : int, default=50
        trees at most
    depth : int, default=4
        levels of splits in a tree
    learning_rate : float, default=0.2
        shrinkage of each tree
    max_bins : int, default=32
        bins of a column, missing not counted
    min_bin_rows : int, default=3
        least number of rows of a bin
    reg_lambda : float, default=1.0
        L2 penalty on leaf weights
    reg_alpha : float, default=0.0
        L1 penalty on leaf weights
    gamma : float, default=0.0
        least gain of a split
    min_child_weight : float, default=1.0
        least hessian sum of a child
    min_child_rows : int, default=20
        least number of rows of a child
    tweedie_power : float, default=1.5
        of tweedie: variance grows with mean^power; 1 is poisson, 2 gamma
    subsample : float, default=1.0
        share of rows drawn for each tree
    colsample : float, default=1.0
        share of each party's columns a tree
    validation_share : float, default=0.0
        rows kept to decide when to stop
    early_stopping_rounds : int, default=0
        stop after so many trees without a better validation loss; 0 is never
    seed : int, default=0
        of the row and column draws, not of any key
    random_state : int, RandomState or None, default=None
        seed by the name that scikit-learn has for it; None leaves it to seed
    progress : bool or None, default=None
        whether fit shows a progress bar; None: at a prompt or in a notebook, when it takes more than a
        second

    Attributes
    ----------
    with_offset_ : bool
        whether it was trained with an offset
    feature_importances_ : array of shape (n_features_in_,)
        share of the total gain of each column of the table
    importance_table_ : DataFrame
        column, splits and gain of the columns that split, most gain first
    parties_ : Series
        how many rows of each party the model was trained on
    n_features_in_ : int
        columns of the table, that of the parties among them
    feature_names_in_ : array of shape (n_features_in_,)
        their names, where they are text
    model_ : object
        the model, as each party would keep it
    traffic_ : dict of int, or None
        bytes between server and party during fit, both ways together, by party; None where nothing was
        sent, as by engine="plain"
    train_log_ : list
        losses (mean) and seconds after each tree (TreeDone) or iteration (IterationDone)

    Examples
    --------
    >>> model = PooledBoostRegressor(objective="poisson", parties="insurer")
    >>> model.fit(policies, claims, exposure=years).predict(new)
    """

    _NAMED = "objective"
    _LOSSES: ClassVar[Mapping[str, type[Loss]]] = {
        name: kind for name, kind in OBJECTIVES.items() if kind is not QuantileLoss
    }

    def __init__(
        self,
        *,
        objective: Literal["squared", "poisson", "gamma", "tweedie"] = "squared",
        parties: str | int | None = None,
        levels: Mapping[str, Sequence[object]] | None = None,
        unknown_levels: float = 0.1,
        monotone: Mapping[str, Monotone] | None = None,
        engine: SimulationEngine = "plain",
        trees: int = 50,
        depth: int = 4,
        learning_rate: float = 0.2,
        max_bins: int = 32,
        min_bin_rows: int = 3,
        reg_lambda: float = 1.0,
        reg_alpha: float = 0.0,
        gamma: float = 0.0,
        min_child_weight: float = 1.0,
        min_child_rows: int = 20,
        tweedie_power: float = 1.5,
        subsample: float = 1.0,
        colsample: float = 1.0,
        validation_share: float = 0.0,
        early_stopping_rounds: int = 0,
        seed: int = 0,
        random_state: int | np.random.RandomState | np.random.Generator | None = None,
        progress: bool | None = None,
    ) -> None:
        self.objective = objective
        self.parties = parties
        self.levels = levels
        self.unknown_levels = unknown_levels
        self.monotone = monotone
        self.engine = engine
        self.trees = trees
        self.depth = depth
        self.learning_rate = learning_rate
        self.max_bins = max_bins
        self.min_bin_rows = min_bin_rows
        self.reg_lambda = reg_lambda
        self.reg_alpha = reg_alpha
        self.gamma = gamma
        self.min_child_weight = min_child_weight
        self.min_child_rows = min_child_rows
        self.tweedie_power = tweedie_power
        self.subsample = subsample
        self.colsample = colsample
        self.validation_share = validation_share
        self.early_stopping_rounds = early_stopping_rounds
        self.seed = seed
        self.random_state = random_state
        self.progress = progress
