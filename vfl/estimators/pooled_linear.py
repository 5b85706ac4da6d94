"""Generalised linear models over the rows of several parties (`vfl.protocols.pooled.glm`)."""

from collections.abc import Mapping, Sequence
from typing import ClassVar, Literal

import numpy as np
import pandas as pd
from scipy.stats import norm
from sklearn.utils.validation import check_is_fitted

from vfl.errors import ConfigError
from vfl.estimators.learner import Target, saved_by_name
from vfl.estimators.linear import coefficients_of, relativities_of, warn_unless_converged
from vfl.estimators.parameters import plain_value, shown, validate
from vfl.estimators.pool import Pool, PooledClassifier, PooledRegressor
from vfl.estimators.saved import SavedLinear
from vfl.frames.features import suggest_name
from vfl.frames.tables import Frame
from vfl.learn.losses import FAMILIES, Loss
from vfl.learn.params import GlmParams
from vfl.models.kind import ColumnRules
from vfl.models.linear import Linear
from vfl.models.relativities import lines
from vfl.party.linear_rules import GlmSection
from vfl.protocols.linear.scoring import GuestGlm
from vfl.simulate import SimulationEngine, StepProgress


class _Linear(Pool):
    """What both linear models share."""

    rules: Mapping[str, object] | None
    max_iterations: int

    model_: GuestGlm

    intercept_: float
    coef_: "pd.Series[float]"
    standard_errors_: "pd.Series[float]"
    dispersion_: float | None
    relativities_: pd.DataFrame
    n_iter_: int
    converged_: bool

    _SETTINGS = GlmParams
    _SAVED = SavedLinear
    _LEFT_OUT = frozenset(
        {
            *("scores", "coordinator", "seed", "max_labels", "inference", "max_leverage"),
            *("encryption", "key_bits", "obfuscators"),
            *("alphas", "folds", "one_standard_error", "theta", "profile", "dispersion"),
            *("l1_on", "credibility", "across", "across_rows", "across_names"),
        }
    )

    def summary(self, confidence: float = 0.95, step: Mapping[str, float] | None = None) -> pd.DataFrame:
        """The coefficients with what is known of them, the intercept first.

        confidence: of the intervals. step: of numeric columns, how many units one is; by default as
        rules say, else a standard deviation.

        column, level; step, in units, of numeric columns; coefficient, of a level against the base
        level, or of a step; standard_error; z, their quotient, and p, how often chance makes one as far
        from 0 (of a normal distribution); low and high, the ends of the interval; relativity, what the
        level or a step multiplies the mean by (under two classes the odds), not of an identity link. A
        base level is 0, without error. Under alpha above 0 coefficients are drawn to 0: errors are those
        of the penalised estimates, and p says less than without.

        Raises NotFittedError, ConfigError.
        """
        check_is_fitted(self, "model_")
        known = lines(self.model_, self._loss.link, self._steps(step))
        level = plain_value(confidence)
        if isinstance(level, bool) or not isinstance(level, int | float) or not 0 < level < 1:
            raise ConfigError(f"confidence must be a number between 0 and 1, not {shown(confidence)}")
        deviations = {one.name: one.deviation for one in self.model_.part.design.covariates}
        sizes = [1.0 if one.step is None else one.step / deviations[one.column] for one in known]
        effect = np.array([one.effect for one in known], np.float64)
        error = np.array([one.standard_error for one in known], np.float64) * np.array(sizes)
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            z, relativity = effect / error, np.exp(effect)
        reach = norm.ppf((1 + level) / 2) * error
        columns = {
            "column": [one.column for one in known],
            "level": [one.level for one in known],
            "step": np.array([one.step for one in known], np.float64),
            "coefficient": effect,
            "standard_error": error,
            "z": z,
            "p": 2 * norm.sf(np.abs(z)),
            "low": effect - reach,
            "high": effect + reach,
        }
        table = pd.DataFrame(columns)
        return table if self._loss.link == "identity" else table.assign(relativity=relativity)

    def _steps(self, step: Mapping[str, float] | None) -> Mapping[str, float]:
        """The steps of a summary, those of the rules where it names none. Raises ConfigError."""
        own = self._rules().glm.step
        units = {**own, **validate(GlmSection, {"step": {} if step is None else step}).step}
        numeric = [one.name for one in self.model_.part.design.covariates]
        for name in units:
            if name not in numeric:
                raise ConfigError(
                    f"step= names {name!r}, which is no numeric column of the model; "
                    f"{suggest_name(name, numeric)}"
                )
        return units

    def _publish(self) -> None:
        model = self.model_
        self.intercept_, self.n_iter_ = model.intercept, model.iterations
        self.converged_, self.dispersion_ = model.converged, model.dispersion
        self.coef_ = coefficients_of(model.part)
        errors = np.full(len(self.coef_), np.nan) if model.errors is None else list(model.errors)
        self.standard_errors_ = pd.Series(errors, self.coef_.index, np.float64, name="standard_error")
        self.relativities_ = relativities_of(model, self._loss, self._rules().glm.step)

    def _fit(
        self, frame: Frame, parties: object, target: Target, progress: StepProgress | bool | None
    ) -> None:
        super()._fit(frame, parties, target, progress)
        self._steps(None)
        warn_unless_converged(self.model_, self.max_iterations)

    def _rules(self) -> ColumnRules:
        if self.rules is None:
            return ColumnRules()
        if not isinstance(self.rules, Mapping):
            raise ConfigError(f"rules must be a dict, not {shown(self.rules)}")
        return ColumnRules(glm=validate(GlmSection, self.rules, "rules: "))

    def _kind(self) -> Linear:
        return Linear(self._params(GlmParams), getattr(self, "family", "logistic"))


@saved_by_name
class PooledGLM(PooledRegressor, _Linear):
    """A regressor by a generalised linear model over the rows of several parties.

    Numbers and bools are numeric columns; text, objects and categories are categorical; dates are
    refused. None and NaN are missing.

    Parameters
    ----------
    family : {'gaussian', 'poisson', 'gamma', 'tweedie'}, default='gaussian'
        what the label is: any number; a count, such as claims, with an exposure; an amount above zero;
        an amount that is zero in many rows The link is the identity for gaussian, else the logarithm
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
    rules : dict, default=None
        what a job over rows would say of columns under [glm]: binned, bins, missing, bands,
        group, base, min_level_rows, step
    engine : {'plain', 'protocol'}, default='plain'
        how the model is computed: "plain" by totals in the clear, which is fastest; "protocol" by the
        messages that the parties and their server would send, masks and all, over memory. The model is
        the same, bit for bit
    alpha : float, default=0.0
        L2 penalty: alpha / 2 times the sum of squares
    l1_ratio : float, default=0.0
        share of alpha, or of each of alphas, that is on the sum of magnitudes in place of half the sum
        of squares, so that coefficients become exactly zero; 1 is the lasso
    shrink_to : {'base', 'mean'}, default='base'
        what alpha draws levels to: the base level, or the mean of the factor's levels, weighted by its
        owner's rows or exposure, so that no base level matters
    tweedie_power : float, default=1.5
        of tweedie: variance grows with mean^power; 1 is poisson, 2 gamma
    fit_intercept : bool, default=True
        whether the model has a constant
    max_iterations : int, default=100
        steps at most
    tolerance : float, default=1e-06
        length of the gradient, in the label's unit, at which to stop
    progress : bool or None, default=None
        whether fit shows a progress bar; None: at a prompt or in a notebook, when it takes more than a
        second

    Attributes
    ----------
    with_offset_ : bool
        whether it was trained with an offset
    intercept_ : float
        the constant, on the scale of the link
    coef_ : Series
        coefficients by column and level; a slope's level is "", and it is per standard deviation
    standard_errors_ : Series
        theirs, NaN where no row is left to tell the dispersion
    dispersion_ : float or None
        Pearson's; 1 for two classes and counts
    relativities_ : DataFrame
        column, level, coefficient, per_unit, relativity, rows, step, per_step, relativity_per_step,
        standard_error, with the intercept first
    n_iter_ : int
        iterations made
    converged_ : bool
        whether the fit converged within max_iterations; one that has not warns and is kept
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
    >>> model = PooledGLM(family="poisson", parties="insurer")
    >>> model.fit(policies, claims, exposure=years).summary()
    """

    _NAMED = "family"
    _LOSSES: ClassVar[Mapping[str, type[Loss]]] = {
        name: loss for name, loss in FAMILIES.items() if name != "negative_binomial"
    }

    def __init__(
        self,
        *,
        family: Literal["gaussian", "poisson", "gamma", "tweedie"] = "gaussian",
        parties: str | int | None = None,
        levels: Mapping[str, Sequence[object]] | None = None,
        unknown_levels: float = 0.1,
        rules: Mapping[str, object] | None = None,
        engine: SimulationEngine = "plain",
        alpha: float = 0.0,
        l1_ratio: float = 0.0,
        shrink_to: Literal["base", "mean"] = "base",
        tweedie_power: float = 1.5,
        fit_intercept: bool = True,
        max_iterations: int = 100,
        tolerance: float = 1e-06,
        progress: bool | None = None,
    ) -> None:
        self.family = family
        self.parties = parties
        self.levels = levels
        self.unknown_levels = unknown_levels
        self.rules = rules
        self.engine = engine
        self.alpha = alpha
        self.l1_ratio = l1_ratio
        self.shrink_to = shrink_to
        self.tweedie_power = tweedie_power
        self.fit_intercept = fit_intercept
        self.max_iterations = max_iterations
        self.tolerance = tolerance
        self.progress = progress


@saved_by_name
class PooledLogisticRegression(PooledClassifier, _Linear):
    """A logistic regression over the rows of several parties.

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
    rules : dict, default=None
        what a job over rows would say of columns under [glm]: binned, bins, missing, bands,
        group, base, min_level_rows, step
    engine : {'plain', 'protocol'}, default='plain'
        how the model is computed: "plain" by totals in the clear, which is fastest; "protocol" by the
        messages that the parties and their server would send, masks and all, over memory. The model is
        the same, bit for bit
    alpha : float, default=0.0
        L2 penalty: alpha / 2 times the sum of squares
    l1_ratio : float, default=0.0
        share of alpha, or of each of alphas, that is on the sum of magnitudes in place of half the sum
        of squares, so that coefficients become exactly zero; 1 is the lasso
    shrink_to : {'base', 'mean'}, default='base'
        what alpha draws levels to: the base level, or the mean of the factor's levels, weighted by its
        owner's rows or exposure, so that no base level matters
    tweedie_power : float, default=1.5
        of tweedie: variance grows with mean^power; 1 is poisson, 2 gamma
    fit_intercept : bool, default=True
        whether the model has a constant
    max_iterations : int, default=100
        steps at most
    tolerance : float, default=1e-06
        length of the gradient, in the label's unit, at which to stop
    progress : bool or None, default=None
        whether fit shows a progress bar; None: at a prompt or in a notebook, when it takes more than a
        second

    Attributes
    ----------
    classes_ : array of shape (2,)
        the two classes in order; probabilities and scores are of the second
    intercept_ : float
        the constant, on the scale of the link
    coef_ : Series
        coefficients by column and level; a slope's level is "", and it is per standard deviation
    standard_errors_ : Series
        theirs, NaN where no row is left to tell the dispersion
    dispersion_ : float or None
        Pearson's; 1 for two classes and counts
    relativities_ : DataFrame
        column, level, coefficient, per_unit, relativity, rows, step, per_step, relativity_per_step,
        standard_error, with the intercept first
    n_iter_ : int
        iterations made
    converged_ : bool
        whether the fit converged within max_iterations; one that has not warns and is kept
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
    >>> model = PooledLogisticRegression(parties="hospital")
    >>> model.fit(patients, died).summary()
    """

    def __init__(
        self,
        *,
        parties: str | int | None = None,
        levels: Mapping[str, Sequence[object]] | None = None,
        unknown_levels: float = 0.1,
        rules: Mapping[str, object] | None = None,
        engine: SimulationEngine = "plain",
        alpha: float = 0.0,
        l1_ratio: float = 0.0,
        shrink_to: Literal["base", "mean"] = "base",
        tweedie_power: float = 1.5,
        fit_intercept: bool = True,
        max_iterations: int = 100,
        tolerance: float = 1e-06,
        progress: bool | None = None,
    ) -> None:
        self.parties = parties
        self.levels = levels
        self.unknown_levels = unknown_levels
        self.rules = rules
        self.engine = engine
        self.alpha = alpha
        self.l1_ratio = l1_ratio
        self.shrink_to = shrink_to
        self.tweedie_power = tweedie_power
        self.fit_intercept = fit_intercept
        self.max_iterations = max_iterations
        self.tolerance = tolerance
        self.progress = progress
