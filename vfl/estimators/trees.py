"""Gradient-boosted trees over the columns of several parties.

Source: SecureBoost, Cheng et al., arXiv 1901.08755 (`vfl.protocols.trees.paillier`).
"""

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np

from vfl.errors import ConfigError
from vfl.estimators.boosted import BoostedTrees
from vfl.estimators.federation import STEPS, IdColumns, NormaliseSteps
from vfl.estimators.learner import saved_by_name
from vfl.estimators.parameters import shown, validate
from vfl.estimators.tasks import Classifier, Regressor
from vfl.learn.binning import Monotone
from vfl.learn.losses import OBJECTIVES
from vfl.learn.params import MOST_CLASSES, BoostParams
from vfl.simulate import SimulationEngine


@saved_by_name
class SecureBoost(Classifier, BoostedTrees):
    """A classifier by gradient-boosted trees over the columns of several parties, for two classes or up
    to 20.

    Of three classes or more a round grows a tree for each class (LightGBM's multiclass): trees,
    guest_trees and early_stopping_rounds then count rounds.

    Numbers and bools are numeric columns; text, objects and categories are categorical; dates are
    refused. None and NaN are missing.

    Parameters
    ----------
    hosts : dict of tables by name, default=None
        the other parties' tables, rows in any order: of pandas, polars, pyarrow or whatever speaks
        Arrow, or arrays. Given here they serve fit, predict and every tool of scikit-learn; clones share
        them and nothing prints them. {} is a model of the guest alone
    id : str, int, list or dict by party, default=None
        the column or columns that name a row, the same for all parties, or by party in a dict (the guest
        is "guest"). None takes the index. Ids are never features
    normalise : list of steps, default=('nfkc', 'trim', 'upper', 'alnum')
        what makes the same id equal at all parties (`vfl.party.ids`)
    unknown_levels : float, default=0.1
        share of a batch's rows with a level that was not in training, above which scoring stops; 1:
        never
    monotone : dict of dicts, default=None
        by party, the guest being "guest", numeric columns that are "increasing" or "decreasing": how the
        score may change with a column's known values, all others being equal
    init_model : fitted model of the same kind, default=None
        a model of the same hosts and columns: fit adds its trees to that one's, whose scores it begins
        with. Clones share it, and save leaves it out, whose trees the saved model has
    engine : {'plain', 'protocol'}, default='plain'
        how the model is computed: "plain" on all columns in one place, which is fastest; "protocol" by
        the messages that the parties would send, encryption and all, over memory. The model is the same,
        bit for bit
    trees : int, default=50
        trees at most
    depth : int, default=4
        levels of splits in a tree
    max_leaves : int or None, default=None
        leaves of a tree at most, which then grows best-first, within depth; all levels if absent
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
    goss_top : float, default=0.0
        share of rows with the largest gradients that each tree keeps (GOSS); 0 is off. Hosts see which
        rows these are: with rare claims, those that claimed
    goss_other : float, default=0.0
        share of rows drawn from the others, which count for all of them
    colsample : float, default=1.0
        share of each party's columns a tree
    validation_share : float, default=0.0
        rows kept to decide when to stop
    early_stopping_rounds : int, default=0
        stop after so many trees without a better validation loss; 0 is never
    guest_trees : int, default=0
        how many of the first trees are grown from the guest's columns alone
    encryption : {'paillier', 'lattice'}, default='paillier'
        of gradients; lattice is faster by far and shows hosts less, but only for guests trusted to
        follow the protocol: one that does not can ask for sums of single rows
    key_bits : {2048, 3072, 4096}, default=2048
        modulus of the guest's key
    obfuscators : {'short', 'full'}, default='short'
        exponents of the guest's encryption; full needs no assumption, five times the work
    seed : int, default=0
        of the row and column draws, not of any key
    interaction_constraints : list of lists of parties, default=None
        groups of parties whose columns may meet on a path from the root to a leaf; all may if absent
    ordered_categories : {'guest', 'all'} or None, default=None
        whose columns of more than 4 categories are split by sets of them, in the order of their
        gradients; with all, hosts tell the guest which sums belong to one column
    cat_smooth : float, default=10.0
        of ordered_categories: what sums of hessians are increased by
    cat_l2 : float, default=10.0
        of ordered_categories: further L2 penalty on the gains of sets
    max_cat_threshold : int, default=32
        of ordered_categories: most categories of a set
    random_state : int, RandomState or None, default=None
        seed by the name that scikit-learn has for it; None leaves it to seed
    workers : int, default=1
        processes of each party for encrypted arithmetic, with engine="protocol"
    progress : bool or None, default=None
        whether fit shows a progress bar; None: at a prompt or in a notebook, when it takes more than a
        second

    Attributes
    ----------
    classes_ : array of shape (classes,)
        the classes in order; of two, scores are of the second
    feature_importances_ : array of shape (n_features_in_,)
        share of the total gain of each column of the guest's table; hosts' columns have the rest
    importance_table_ : DataFrame
        party, column, splits and gain of every party's columns that split, most gain first
    n_features_in_ : int
        columns of the guest's table, those of the id among them
    feature_names_in_ : array of shape (n_features_in_,)
        their names, where they are text
    aligned_, n_aligned_ : array of int64, int
        positions of the guest's rows that trained the model (all parties know them), their number
    model_, halves_ : object, dict of objects
        the guest's half of the model, the hosts' by name
    traffic_ : dict of int, or None
        bytes between guest and host during fit, both ways together, by host's name; None where
        nothing was sent, as by engine="plain"
    train_log_ : list
        losses (mean) and seconds after each tree (TreeDone) or iteration (IterationDone)

    Examples
    --------
    >>> model = SecureBoost(hosts={"registry": cars}, id="plate", trees=30)
    >>> cross_val_score(model, policies, claim, scoring="roc_auc")
    """

    _MOST_CLASSES = MOST_CLASSES

    def __init__(
        self,
        *,
        hosts: Mapping[str, object] | None = None,
        id: IdColumns | Mapping[str, IdColumns] = None,  # noqa: A002
        normalise: NormaliseSteps = STEPS,
        unknown_levels: float = 0.1,
        monotone: Mapping[str, Mapping[str, Monotone]] | None = None,
        init_model: object = None,
        engine: SimulationEngine = "plain",
        trees: int = 50,
        depth: int = 4,
        max_leaves: int | None = None,
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
        goss_top: float = 0.0,
        goss_other: float = 0.0,
        colsample: float = 1.0,
        validation_share: float = 0.0,
        early_stopping_rounds: int = 0,
        guest_trees: int = 0,
        encryption: Literal["paillier", "lattice"] = "paillier",
        key_bits: Literal[2048, 3072, 4096] = 2048,
        obfuscators: Literal["short", "full"] = "short",
        seed: int = 0,
        interaction_constraints: Sequence[Sequence[str]] | None = None,
        ordered_categories: Literal["guest", "all"] | None = None,
        cat_smooth: float = 10.0,
        cat_l2: float = 10.0,
        max_cat_threshold: int = 32,
        random_state: int | np.random.RandomState | np.random.Generator | None = None,
        workers: int = 1,
        progress: bool | None = None,
    ) -> None:
        self.hosts = hosts
        self.id = id
        self.normalise = normalise
        self.unknown_levels = unknown_levels
        self.monotone = monotone
        self.init_model = init_model
        self.engine = engine
        self.trees = trees
        self.depth = depth
        self.max_leaves = max_leaves
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
        self.goss_top = goss_top
        self.goss_other = goss_other
        self.colsample = colsample
        self.validation_share = validation_share
        self.early_stopping_rounds = early_stopping_rounds
        self.guest_trees = guest_trees
        self.encryption = encryption
        self.key_bits = key_bits
        self.obfuscators = obfuscators
        self.seed = seed
        self.interaction_constraints = interaction_constraints
        self.ordered_categories = ordered_categories
        self.cat_smooth = cat_smooth
        self.cat_l2 = cat_l2
        self.max_cat_threshold = max_cat_threshold
        self.random_state = random_state
        self.workers = workers
        self.progress = progress


@saved_by_name
class SecureBoostRegressor(Regressor, BoostedTrees):
    """A regressor by gradient-boosted trees over the columns of several parties.

    Numbers and bools are numeric columns; text, objects and categories are categorical; dates are
    refused. None and NaN are missing.

    Parameters
    ----------
    objective : {'squared', 'poisson', 'gamma', 'tweedie', 'quantile'}, default='squared'
        what the label is: any number; a count, such as claims, with an exposure; an amount above zero;
        an amount that is zero in many rows; any number of which a quantile is predicted, not the mean
    hosts : dict of tables by name, default=None
        the other parties' tables, rows in any order: of pandas, polars, pyarrow or whatever speaks
        Arrow, or arrays. Given here they serve fit, predict and every tool of scikit-learn; clones share
        them and nothing prints them. {} is a model of the guest alone
    id : str, int, list or dict by party, default=None
        the column or columns that name a row, the same for all parties, or by party in a dict (the guest
        is "guest"). None takes the index. Ids are never features
    normalise : list of steps, default=('nfkc', 'trim', 'upper', 'alnum')
        what makes the same id equal at all parties (`vfl.party.ids`)
    unknown_levels : float, default=0.1
        share of a batch's rows with a level that was not in training, above which scoring stops; 1:
        never
    monotone : dict of dicts, default=None
        by party, the guest being "guest", numeric columns that are "increasing" or "decreasing": how the
        score may change with a column's known values, all others being equal
    init_model : fitted model of the same kind, default=None
        a model of the same hosts and columns: fit adds its trees to that one's, whose scores it begins
        with. Clones share it, and save leaves it out, whose trees the saved model has
    engine : {'plain', 'protocol'}, default='plain'
        how the model is computed: "plain" on all columns in one place, which is fastest; "protocol" by
        the messages that the parties would send, encryption and all, over memory. The model is the same,
        bit for bit
    trees : int, default=50
        trees at most
    depth : int, default=4
        levels of splits in a tree
    max_leaves : int or None, default=None
        leaves of a tree at most, which then grows best-first, within depth; all levels if absent
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
    quantile : float, default=None
        of quantile: the share of labels that is to lie below the prediction
    subsample : float, default=1.0
        share of rows drawn for each tree
    goss_top : float, default=0.0
        share of rows with the largest gradients that each tree keeps (GOSS); 0 is off. Hosts see which
        rows these are: with rare claims, those that claimed
    goss_other : float, default=0.0
        share of rows drawn from the others, which count for all of them
    colsample : float, default=1.0
        share of each party's columns a tree
    validation_share : float, default=0.0
        rows kept to decide when to stop
    early_stopping_rounds : int, default=0
        stop after so many trees without a better validation loss; 0 is never
    guest_trees : int, default=0
        how many of the first trees are grown from the guest's columns alone
    encryption : {'paillier', 'lattice'}, default='paillier'
        of gradients; lattice is faster by far and shows hosts less, but only for guests trusted to
        follow the protocol: one that does not can ask for sums of single rows
    key_bits : {2048, 3072, 4096}, default=2048
        modulus of the guest's key
    obfuscators : {'short', 'full'}, default='short'
        exponents of the guest's encryption; full needs no assumption, five times the work
    seed : int, default=0
        of the row and column draws, not of any key
    interaction_constraints : list of lists of parties, default=None
        groups of parties whose columns may meet on a path from the root to a leaf; all may if absent
    ordered_categories : {'guest', 'all'} or None, default=None
        whose columns of more than 4 categories are split by sets of them, in the order of their
        gradients; with all, hosts tell the guest which sums belong to one column
    cat_smooth : float, default=10.0
        of ordered_categories: what sums of hessians are increased by
    cat_l2 : float, default=10.0
        of ordered_categories: further L2 penalty on the gains of sets
    max_cat_threshold : int, default=32
        of ordered_categories: most categories of a set
    random_state : int, RandomState or None, default=None
        seed by the name that scikit-learn has for it; None leaves it to seed
    workers : int, default=1
        processes of each party for encrypted arithmetic, with engine="protocol"
    progress : bool or None, default=None
        whether fit shows a progress bar; None: at a prompt or in a notebook, when it takes more than a
        second

    Attributes
    ----------
    with_offset_ : bool
        whether it was trained with an offset
    feature_importances_ : array of shape (n_features_in_,)
        share of the total gain of each column of the guest's table; hosts' columns have the rest
    importance_table_ : DataFrame
        party, column, splits and gain of every party's columns that split, most gain first
    n_features_in_ : int
        columns of the guest's table, those of the id among them
    feature_names_in_ : array of shape (n_features_in_,)
        their names, where they are text
    aligned_, n_aligned_ : array of int64, int
        positions of the guest's rows that trained the model (all parties know them), their number
    model_, halves_ : object, dict of objects
        the guest's half of the model, the hosts' by name
    traffic_ : dict of int, or None
        bytes between guest and host during fit, both ways together, by host's name; None where
        nothing was sent, as by engine="plain"
    train_log_ : list
        losses (mean) and seconds after each tree (TreeDone) or iteration (IterationDone)

    Examples
    --------
    >>> model = SecureBoostRegressor(objective="poisson", hosts={"registry": cars}, id="plate")
    >>> model.fit(policies, claims, exposure=years).predict(new)
    """

    _NAMED, _LOSSES = "objective", OBJECTIVES
    _LEFT_OUT = BoostedTrees._LEFT_OUT - {"quantile"}

    quantile: float | None

    def _quantile_to_fit(self, name: str) -> float | None:
        quantile = validate(BoostParams, {"quantile": self.quantile}).quantile
        if name == "quantile" and quantile is None:
            raise ConfigError("objective='quantile' needs quantile=, such as 0.9")
        if name != "quantile" and quantile is not None:
            raise ConfigError(f"quantile= is for objective='quantile', not {shown(name)}")
        return quantile

    def __init__(
        self,
        *,
        objective: Literal["squared", "poisson", "gamma", "tweedie", "quantile"] = "squared",
        hosts: Mapping[str, object] | None = None,
        id: IdColumns | Mapping[str, IdColumns] = None,  # noqa: A002
        normalise: NormaliseSteps = STEPS,
        unknown_levels: float = 0.1,
        monotone: Mapping[str, Mapping[str, Monotone]] | None = None,
        init_model: object = None,
        engine: SimulationEngine = "plain",
        trees: int = 50,
        depth: int = 4,
        max_leaves: int | None = None,
        learning_rate: float = 0.2,
        max_bins: int = 32,
        min_bin_rows: int = 3,
        reg_lambda: float = 1.0,
        reg_alpha: float = 0.0,
        gamma: float = 0.0,
        min_child_weight: float = 1.0,
        min_child_rows: int = 20,
        tweedie_power: float = 1.5,
        quantile: float | None = None,
        subsample: float = 1.0,
        goss_top: float = 0.0,
        goss_other: float = 0.0,
        colsample: float = 1.0,
        validation_share: float = 0.0,
        early_stopping_rounds: int = 0,
        guest_trees: int = 0,
        encryption: Literal["paillier", "lattice"] = "paillier",
        key_bits: Literal[2048, 3072, 4096] = 2048,
        obfuscators: Literal["short", "full"] = "short",
        seed: int = 0,
        interaction_constraints: Sequence[Sequence[str]] | None = None,
        ordered_categories: Literal["guest", "all"] | None = None,
        cat_smooth: float = 10.0,
        cat_l2: float = 10.0,
        max_cat_threshold: int = 32,
        random_state: int | np.random.RandomState | np.random.Generator | None = None,
        workers: int = 1,
        progress: bool | None = None,
    ) -> None:
        self.objective = objective
        self.hosts = hosts
        self.id = id
        self.normalise = normalise
        self.unknown_levels = unknown_levels
        self.monotone = monotone
        self.init_model = init_model
        self.engine = engine
        self.trees = trees
        self.depth = depth
        self.max_leaves = max_leaves
        self.learning_rate = learning_rate
        self.max_bins = max_bins
        self.min_bin_rows = min_bin_rows
        self.reg_lambda = reg_lambda
        self.reg_alpha = reg_alpha
        self.gamma = gamma
        self.min_child_weight = min_child_weight
        self.min_child_rows = min_child_rows
        self.tweedie_power = tweedie_power
        self.quantile = quantile
        self.subsample = subsample
        self.goss_top = goss_top
        self.goss_other = goss_other
        self.colsample = colsample
        self.validation_share = validation_share
        self.early_stopping_rounds = early_stopping_rounds
        self.guest_trees = guest_trees
        self.encryption = encryption
        self.key_bits = key_bits
        self.obfuscators = obfuscators
        self.seed = seed
        self.interaction_constraints = interaction_constraints
        self.ordered_categories = ordered_categories
        self.cat_smooth = cat_smooth
        self.cat_l2 = cat_l2
        self.max_cat_threshold = max_cat_threshold
        self.random_state = random_state
        self.workers = workers
        self.progress = progress
