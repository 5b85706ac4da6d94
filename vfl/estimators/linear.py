"""Generalised linear models over the columns of several parties, at the optimum of all columns.

Source: Yang et al., arXiv 1911.09824, with L-BFGS across parties (`vfl.protocols.linear.fitting`).
"""

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
import pandas as pd
from sklearn.exceptions import ConvergenceWarning

from vfl.estimators.federation import STEPS, Federation, IdColumns, NormaliseSteps
from vfl.estimators.hosts import Hosts
from vfl.estimators.learner import Target, saved_by_name
from vfl.estimators.parameters import check_by_party, check_parties, validate
from vfl.estimators.saved import SavedLinear
from vfl.estimators.tasks import Classifier, Regressor
from vfl.frames.tables import Frame
from vfl.frames.warnings import warn
from vfl.learn.inference import FitSummary
from vfl.learn.losses import FAMILIES, Loss
from vfl.learn.params import GlmParams
from vfl.models.inference import column_tests, said_aliases
from vfl.models.kind import ColumnRules
from vfl.models.linear import Linear
from vfl.models.own_penalties import credible_by_fit
from vfl.models.relativities import INTERCEPT, lines, table_of
from vfl.party.linear_rules import GlmSection
from vfl.protocols.linear.scoring import GuestGlm, HostGlm, LinearPart
from vfl.simulate import GUEST, SimulationEngine, StepProgress


class _Linear(Federation):
    """What both linear models share."""

    rules: Mapping[str, Mapping[str, object]] | None
    max_iterations: int
    inference: bool
    alpha: float

    model_: GuestGlm
    halves_: Mapping[str, HostGlm]

    intercept_: float
    coef_: "dict[str, pd.Series[float]]"
    relativities_: dict[str, pd.DataFrame]
    n_iter_: int
    converged_: bool
    alpha_: float
    alphas_: pd.DataFrame | None
    variance_parameter_: float | None

    std_errors_: "dict[str, pd.Series[float]]"
    p_values_: "dict[str, pd.Series[float]]"
    confidence_intervals_: dict[str, pd.DataFrame]
    type_iii_: dict[str, pd.DataFrame]
    credible_: dict[str, dict[str, float]]
    fit_summary_: FitSummary | None

    _SETTINGS = GlmParams
    _SAVED = SavedLinear
    _LEFT_OUT = frozenset({"scores", "coordinator", "seed", "across_names", "max_leverage"})

    def _publish(self) -> None:
        self.intercept_, self.n_iter_ = self.model_.intercept, self.model_.iterations
        self.converged_ = self.model_.converged
        variance = self.model_.variance
        self.variance_parameter_ = None if variance is None else variance.value
        choice = self.model_.choice
        self.alpha_ = self.alpha if choice is None else choice.alpha
        tried = ["alpha", "deviance", "standard_error"]
        self.alphas_ = None if choice is None else pd.DataFrame(choice.tried, columns=tried)
        parties: dict[str, GuestGlm | HostGlm] = {GUEST: self.model_, **self.halves_}
        self.coef_ = {name: coefficients_of(half.part) for name, half in parties.items()}
        self.relativities_ = {
            name: relativities_of(half, self._loss, self._steps(name)) for name, half in parties.items()
        }

        if self.inference:
            self._publish_inference(parties)

    def _publish_inference(self, parties: Mapping[str, GuestGlm | HostGlm]) -> None:
        self.fit_summary_ = self.model_.summary
        self.credible_ = {name: credible_by_fit(half) for name, half in parties.items()}
        tables = {name: inferred_of(half) for name, half in parties.items()}
        self.std_errors_ = {name: table["standard_error"] for name, table in tables.items()}
        self.p_values_ = {name: table["p_value"] for name, table in tables.items()}
        self.confidence_intervals_ = {name: table[["low", "high"]] for name, table in tables.items()}
        self.type_iii_ = {name: tests_of(half) for name, half in parties.items()}

    def _steps(self, party: str) -> Mapping[str, float]:
        """How many units the relativities of this party are of, by column."""
        return validate(GlmSection, (self.rules or {}).get(party, {})).step

    def _fit(
        self, guest: Frame, hosts: Hosts, target: Target, progress: StepProgress | bool | None
    ) -> None:
        super()._fit(guest, hosts, target, progress)
        if self._instead is None:
            warn_unless_converged(self.model_, self.max_iterations)
            parties: dict[str, GuestGlm | HostGlm] = {GUEST: self.model_, **self.halves_}
            for name, half in parties.items():
                for alias in said_aliases(half):
                    warn(f"{name}: {alias}", UserWarning)

    def _kind(self) -> Linear:
        # All tables are in one place: no row is told to who does not have it.
        params = self._params(GlmParams).model_copy(update={"max_leverage": 1.0})
        return Linear(params, getattr(self, "family", "logistic"))

    def _rules(self, parties: Sequence[str]) -> dict[str, ColumnRules]:
        by_party = check_by_party("rules", self.rules)
        check_parties("rules", by_party, parties)
        return {
            party: ColumnRules(glm=validate(GlmSection, rules, f"rules of {party}: "))
            for party, rules in by_party.items()
        }


def coefficients_of(part: LinearPart) -> "pd.Series[float]":
    """The coefficients by column and level."""
    index = pd.MultiIndex.from_tuples(part.design.coefficients, names=["column", "level"])
    return pd.Series(part.coefficients, index, np.float64, name="coefficient")


def relativities_of(
    half: GuestGlm | HostGlm, loss: Loss, steps: Mapping[str, float] | None = None
) -> pd.DataFrame:
    """The coefficients of a half for its owner to read."""
    columns, cells = table_of(lines(half, loss.link, steps))
    return pd.DataFrame(cells, columns=list(columns))


def inferred_of(half: GuestGlm | HostGlm) -> pd.DataFrame:
    """What is inferred of a half's coefficients: standard_error, p_value, low and high by column and
    level; nan where nothing is."""
    beta, names, own = half.part.coefficients, half.part.design.coefficients, half.inference
    if own is not None and own.constants and isinstance(half, GuestGlm):
        beta, names = (half.intercept, *beta), [(INTERCEPT, ""), *names]
    coefficients = np.array(beta, np.float64)
    index = pd.MultiIndex.from_tuples(names, names=["column", "level"])
    table = np.full((4, len(names)), np.nan)
    if own is not None and (intervals := own.intervals(coefficients)) is not None:
        table = np.array([own.errors, own.p_values(coefficients), *intervals])
    columns = ("standard_error", "p_value", "low", "high")
    return pd.DataFrame(dict(zip(columns, table, strict=True)), index)


def tests_of(half: GuestGlm | HostGlm) -> pd.DataFrame:
    """The type III tests of a half's columns."""
    tests = column_tests(half)
    rows = [(test.statistic, test.freedom, test.of, test.p_value) for test in tests.values()]
    columns = ["statistic", "freedom", "residual_freedom", "p_value"]
    return pd.DataFrame(rows, pd.Index([*tests], name="column"), columns)


def warn_unless_converged(model: GuestGlm, max_iterations: int) -> None:
    """Warn of a fit that ended before its optimum."""
    if not model.converged:
        warn(
            f"not converged within max_iterations={max_iterations}: raise it, or alpha",
            ConvergenceWarning,
        )


@saved_by_name
class FederatedGLM(Regressor, _Linear):
    """A regressor by a generalised linear model over the columns of several parties.

    Numbers and bools are numeric columns; text, objects and categories are categorical; dates are
    refused. None and NaN are missing.

    Parameters
    ----------
    family : {'gaussian', 'poisson', 'negative_binomial', 'gamma', 'tweedie'}, default='gaussian'
        what the label is: any number; a count, such as claims, with an exposure; a count that varies
        more, of which theta says how much; an amount above zero;
        an amount that is zero in many rows The link is the identity for gaussian, else the logarithm
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
    rules : dict of dicts, default=None
        by party, the guest being "guest", what its party file would say under [glm]: binned, bins,
        missing, bands, splines, polynomials, group, interactions, base, min_level_rows,
        min_level_exposure (the guest's), fuse, credible, step
    engine : {'plain', 'protocol'}, default='plain'
        how the model is computed: "plain" on all columns in one place, which is fastest; "protocol" by
        the messages that the parties would send, encryption and all, over memory. The model is the same,
        bit for bit
    alpha : float, default=0.0
        L2 penalty: alpha / 2 times the sum of squares
    l1_ratio : float, default=0.0
        share of alpha, or of each of alphas, that is on the sum of magnitudes in place of half the sum
        of squares, so that coefficients become exactly zero; 1 is the lasso
    shrink_to : {'base', 'mean'}, default='base'
        what alpha draws levels to: the base level, or the mean of the factor's levels, weighted by its
        owner's rows or exposure, so that no base level matters
    l1_on : {'all', 'steps'}, default='all'
        what l1_ratio's share is on: all coefficients, or only the steps between bands that their owners
        fuse; the others have the squares alone, times 1 - l1_ratio
    credibility : bool, default=False
        whether levels of columns that owners list under credible in [glm] of their party files are drawn
        to their column's mean by that, in place of alpha
    alphas : sequence of float, default=()
        penalties in place of alpha, of which the one of least deviance on rows left out of fits, by
        folds, is taken
    folds : int, default=5
        parts of the rows that train, for alphas
    one_standard_error : bool, default=False
        whether to take the greatest of alphas whose deviance is within a standard error of the least
    tweedie_power : float, default=1.5
        of tweedie: variance grows with mean^power; 1 is poisson, 2 gamma
    theta : float, default=1.0
        of negative_binomial: variance is mean + theta mean^2; 0 would be poisson
    profile : bool, default=False
        whether tweedie_power, or theta, is the one of the greatest likelihood, found by further fits;
        what is given is where the search begins and what deviances are by
    dispersion : {'family', 'pearson'}, default='family'
        what standard errors are by: the family's, 1 of logistic, poisson and negative_binomial, or
        Pearson's of those, too (quasi-Poisson)
    across : sequence of pairs of str, default=()
        pairs of a guest's column and a host's, such as area and bureau:age, of which each pair of levels
        has a coefficient, too, which the host owns
    across_rows : int, default=50
        least rows that train of such a pair of levels
    fit_intercept : bool, default=True
        whether the model has a constant
    max_iterations : int, default=100
        steps at most
    tolerance : float, default=1e-06
        length of the gradient, in the label's unit, at which to stop
    max_labels : float or None, default=None
        share of the labels of rows that train which a host that cheats may read at most: the fit ends
        before an iteration that could tell it more
    inference : bool, default=False
        whether each party gets standard errors, intervals and tests of its own coefficients, from all
        parties' columns; by sums over lattices, whatever the encryption
    encryption : {'paillier', 'lattice'}, default='paillier'
        of residuals; lattice is faster by far, but only among parties trusted to follow the protocol: a
        host that does not can read up to some 2,000 labels a number and iteration, where it is 60 under
        paillier; a guest that does not can learn a host's columns
    key_bits : {2048, 3072, 4096}, default=2048
        modulus of the guest's key
    obfuscators : {'short', 'full'}, default='short'
        exponents of the guest's encryption; full needs no assumption, five times the work
    workers : int, default=1
        processes of each party for encrypted arithmetic, with engine="protocol"
    progress : bool or None, default=None
        whether fit shows a progress bar; None: at a prompt or in a notebook, when it takes more than a
        second

    Attributes
    ----------
    with_offset_ : bool
        whether it was trained with an offset
    intercept_ : float
        the constant, on the scale of the link
    coef_ : dict of Series, by party
        coefficients by column and level; a slope's level is "", and it is per standard deviation
    relativities_ : dict of DataFrames, by party
        column, level, coefficient, per_unit, relativity, rows, step, per_step, relativity_per_step; the
        guest's with the intercept first
    std_errors_, p_values_ : dict of Series, by party
        with inference, of each coefficient by column and level, the guest's with the intercept; nan
        where columns of several parties make up the same (a warning names them)
    confidence_intervals_ : dict of DataFrames, by party
        with inference: low and high of each, at 95 %
    type_iii_ : dict of DataFrames, by party
        with inference, of each column Wald's test that all its coefficients are zero: statistic (chi
        squared, or F where residual_freedom is known), freedom, residual_freedom, p_value
    credible_ : dict of dicts, by party
        with inference and credibility, by column under credible the k that the fit says; fit again with
        it until it stays. Of counts and probabilities alone
    fit_summary_ : object
        with inference: deviances, dispersions, likelihood, AIC, BIC and likelihood ratio tests
    alpha_ : float
        the penalty: alpha, or the one of alphas that was chosen
    alphas_ : DataFrame or None
        of alphas, from the greatest to the least: alpha, the mean deviance of rows left out and its
        standard_error over folds
    variance_parameter_ : float or None
        with profile: tweedie_power or theta, of the greatest likelihood
    n_iter_ : int
        iterations made
    converged_ : bool
        whether the fit converged within max_iterations; one that has not warns and is kept
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
    >>> model = FederatedGLM(family="poisson", hosts={"registry": cars}, id="plate")
    >>> model.fit(policies, claims, exposure=years).relativities_["registry"]
    """

    _NAMED, _LOSSES = "family", FAMILIES

    def __init__(
        self,
        *,
        family: Literal["gaussian", "poisson", "negative_binomial", "gamma", "tweedie"] = "gaussian",
        hosts: Mapping[str, object] | None = None,
        id: IdColumns | Mapping[str, IdColumns] = None,  # noqa: A002
        normalise: NormaliseSteps = STEPS,
        unknown_levels: float = 0.1,
        rules: Mapping[str, Mapping[str, object]] | None = None,
        engine: SimulationEngine = "plain",
        alpha: float = 0.0,
        l1_ratio: float = 0.0,
        shrink_to: Literal["base", "mean"] = "base",
        l1_on: Literal["all", "steps"] = "all",
        credibility: bool = False,
        alphas: tuple[float, ...] = (),
        folds: int = 5,
        one_standard_error: bool = False,
        tweedie_power: float = 1.5,
        theta: float = 1.0,
        profile: bool = False,
        dispersion: Literal["family", "pearson"] = "family",
        across: tuple[tuple[str, str], ...] = (),
        across_rows: int = 50,
        fit_intercept: bool = True,
        max_iterations: int = 100,
        tolerance: float = 1e-06,
        max_labels: float | None = None,
        inference: bool = False,
        encryption: Literal["paillier", "lattice"] = "paillier",
        key_bits: Literal[2048, 3072, 4096] = 2048,
        obfuscators: Literal["short", "full"] = "short",
        workers: int = 1,
        progress: bool | None = None,
    ) -> None:
        self.family = family
        self.hosts = hosts
        self.id = id
        self.normalise = normalise
        self.unknown_levels = unknown_levels
        self.rules = rules
        self.engine = engine
        self.alpha = alpha
        self.l1_ratio = l1_ratio
        self.shrink_to = shrink_to
        self.l1_on = l1_on
        self.credibility = credibility
        self.alphas = alphas
        self.folds = folds
        self.one_standard_error = one_standard_error
        self.tweedie_power = tweedie_power
        self.theta = theta
        self.profile = profile
        self.dispersion = dispersion
        self.across = across
        self.across_rows = across_rows
        self.fit_intercept = fit_intercept
        self.max_iterations = max_iterations
        self.tolerance = tolerance
        self.max_labels = max_labels
        self.inference = inference
        self.encryption = encryption
        self.key_bits = key_bits
        self.obfuscators = obfuscators
        self.workers = workers
        self.progress = progress


@saved_by_name
class FederatedLogisticRegression(Classifier, _Linear):
    """A logistic regression over the columns of several parties.

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
    rules : dict of dicts, default=None
        by party, the guest being "guest", what its party file would say under [glm]: binned, bins,
        missing, bands, splines, polynomials, group, interactions, base, min_level_rows,
        min_level_exposure (the guest's), fuse, credible, step
    engine : {'plain', 'protocol'}, default='plain'
        how the model is computed: "plain" on all columns in one place, which is fastest; "protocol" by
        the messages that the parties would send, encryption and all, over memory. The model is the same,
        bit for bit
    alpha : float, default=0.0
        L2 penalty: alpha / 2 times the sum of squares
    l1_ratio : float, default=0.0
        share of alpha, or of each of alphas, that is on the sum of magnitudes in place of half the sum
        of squares, so that coefficients become exactly zero; 1 is the lasso
    shrink_to : {'base', 'mean'}, default='base'
        what alpha draws levels to: the base level, or the mean of the factor's levels, weighted by its
        owner's rows or exposure, so that no base level matters
    l1_on : {'all', 'steps'}, default='all'
        what l1_ratio's share is on: all coefficients, or only the steps between bands that their owners
        fuse; the others have the squares alone, times 1 - l1_ratio
    credibility : bool, default=False
        whether levels of columns that owners list under credible in [glm] of their party files are drawn
        to their column's mean by that, in place of alpha
    alphas : sequence of float, default=()
        penalties in place of alpha, of which the one of least deviance on rows left out of fits, by
        folds, is taken
    folds : int, default=5
        parts of the rows that train, for alphas
    one_standard_error : bool, default=False
        whether to take the greatest of alphas whose deviance is within a standard error of the least
    tweedie_power : float, default=1.5
        of tweedie: variance grows with mean^power; 1 is poisson, 2 gamma
    theta : float, default=1.0
        of negative_binomial: variance is mean + theta mean^2; 0 would be poisson
    profile : bool, default=False
        whether tweedie_power, or theta, is the one of the greatest likelihood, found by further fits;
        what is given is where the search begins and what deviances are by
    dispersion : {'family', 'pearson'}, default='family'
        what standard errors are by: the family's, 1 of logistic, poisson and negative_binomial, or
        Pearson's of those, too (quasi-Poisson)
    across : sequence of pairs of str, default=()
        pairs of a guest's column and a host's, such as area and bureau:age, of which each pair of levels
        has a coefficient, too, which the host owns
    across_rows : int, default=50
        least rows that train of such a pair of levels
    fit_intercept : bool, default=True
        whether the model has a constant
    max_iterations : int, default=100
        steps at most
    tolerance : float, default=1e-06
        length of the gradient, in the label's unit, at which to stop
    max_labels : float or None, default=None
        share of the labels of rows that train which a host that cheats may read at most: the fit ends
        before an iteration that could tell it more
    inference : bool, default=False
        whether each party gets standard errors, intervals and tests of its own coefficients, from all
        parties' columns; by sums over lattices, whatever the encryption
    encryption : {'paillier', 'lattice'}, default='paillier'
        of residuals; lattice is faster by far, but only among parties trusted to follow the protocol: a
        host that does not can read up to some 2,000 labels a number and iteration, where it is 60 under
        paillier; a guest that does not can learn a host's columns
    key_bits : {2048, 3072, 4096}, default=2048
        modulus of the guest's key
    obfuscators : {'short', 'full'}, default='short'
        exponents of the guest's encryption; full needs no assumption, five times the work
    workers : int, default=1
        processes of each party for encrypted arithmetic, with engine="protocol"
    progress : bool or None, default=None
        whether fit shows a progress bar; None: at a prompt or in a notebook, when it takes more than a
        second

    Attributes
    ----------
    classes_ : array of shape (2,)
        the two classes in order; probabilities and scores are of the second
    intercept_ : float
        the constant, on the scale of the link
    coef_ : dict of Series, by party
        coefficients by column and level; a slope's level is "", and it is per standard deviation
    relativities_ : dict of DataFrames, by party
        column, level, coefficient, per_unit, relativity, rows, step, per_step, relativity_per_step; the
        guest's with the intercept first
    std_errors_, p_values_ : dict of Series, by party
        with inference, of each coefficient by column and level, the guest's with the intercept; nan
        where columns of several parties make up the same (a warning names them)
    confidence_intervals_ : dict of DataFrames, by party
        with inference: low and high of each, at 95 %
    type_iii_ : dict of DataFrames, by party
        with inference, of each column Wald's test that all its coefficients are zero: statistic (chi
        squared, or F where residual_freedom is known), freedom, residual_freedom, p_value
    credible_ : dict of dicts, by party
        with inference and credibility, by column under credible the k that the fit says; fit again with
        it until it stays. Of counts and probabilities alone
    fit_summary_ : object
        with inference: deviances, dispersions, likelihood, AIC, BIC and likelihood ratio tests
    alpha_ : float
        the penalty: alpha, or the one of alphas that was chosen
    alphas_ : DataFrame or None
        of alphas, from the greatest to the least: alpha, the mean deviance of rows left out and its
        standard_error over folds
    variance_parameter_ : float or None
        with profile: tweedie_power or theta, of the greatest likelihood
    n_iter_ : int
        iterations made
    converged_ : bool
        whether the fit converged within max_iterations; one that has not warns and is kept
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
    >>> model = FederatedLogisticRegression(hosts={"registry": cars}, id="plate", alpha=0.01)
    >>> model.fit(policies, claim).predict_proba(new)[:, 1]
    """

    def __init__(
        self,
        *,
        hosts: Mapping[str, object] | None = None,
        id: IdColumns | Mapping[str, IdColumns] = None,  # noqa: A002
        normalise: NormaliseSteps = STEPS,
        unknown_levels: float = 0.1,
        rules: Mapping[str, Mapping[str, object]] | None = None,
        engine: SimulationEngine = "plain",
        alpha: float = 0.0,
        l1_ratio: float = 0.0,
        shrink_to: Literal["base", "mean"] = "base",
        l1_on: Literal["all", "steps"] = "all",
        credibility: bool = False,
        alphas: tuple[float, ...] = (),
        folds: int = 5,
        one_standard_error: bool = False,
        tweedie_power: float = 1.5,
        theta: float = 1.0,
        profile: bool = False,
        dispersion: Literal["family", "pearson"] = "family",
        across: tuple[tuple[str, str], ...] = (),
        across_rows: int = 50,
        fit_intercept: bool = True,
        max_iterations: int = 100,
        tolerance: float = 1e-06,
        max_labels: float | None = None,
        inference: bool = False,
        encryption: Literal["paillier", "lattice"] = "paillier",
        key_bits: Literal[2048, 3072, 4096] = 2048,
        obfuscators: Literal["short", "full"] = "short",
        workers: int = 1,
        progress: bool | None = None,
    ) -> None:
        self.hosts = hosts
        self.id = id
        self.normalise = normalise
        self.unknown_levels = unknown_levels
        self.rules = rules
        self.engine = engine
        self.alpha = alpha
        self.l1_ratio = l1_ratio
        self.shrink_to = shrink_to
        self.l1_on = l1_on
        self.credibility = credibility
        self.alphas = alphas
        self.folds = folds
        self.one_standard_error = one_standard_error
        self.tweedie_power = tweedie_power
        self.theta = theta
        self.profile = profile
        self.dispersion = dispersion
        self.across = across
        self.across_rows = across_rows
        self.fit_intercept = fit_intercept
        self.max_iterations = max_iterations
        self.tolerance = tolerance
        self.max_labels = max_labels
        self.inference = inference
        self.encryption = encryption
        self.key_bits = key_bits
        self.obfuscators = obfuscators
        self.workers = workers
        self.progress = progress
