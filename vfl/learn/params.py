"""The settings of models, each with its one default."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    field_validator,
    model_validator,
)

from vfl.learn.pairs import PairsOfJob

NO_OU = '"ou" (Okamoto-Uchiyama) was taken out in this version: it needs trust in both directions'


def _not_ou(value: object) -> object:
    """Raises ValueError for an encryption that earlier versions had."""
    if isinstance(value, str) and value == "ou":
        raise ValueError(f'must be "paillier" or "lattice": {NO_OU}')
    return value


def _groups(value: Sequence[Sequence[str]] | None) -> Sequence[Sequence[str]] | None:
    """Raises ValueError for a group of nobody, or one that names a party twice."""
    if value is None:
        return None
    if not value or not all(value):
        raise ValueError("must be a list of groups of parties, none of them empty")
    for group in value:
        if len({*group}) < len(group):
            raise ValueError("names a party twice in a group")
    return tuple(tuple(group) for group in value)


Encryption = Annotated[Literal["paillier", "lattice"], BeforeValidator(_not_ou)]
KeyBits = Literal[2048, 3072, 4096]
Obfuscators = Literal["short", "full"]

# What both kinds of model have. Near 1 and 2 the terms of Tweedie's deviance cancel: it has about
# 1e-16 / |power - 1| of its digits wrong, and nothing in it tells it from the loss at 1 or 2.
_TWEEDIE_POWER: float = Field(
    1.5,
    ge=1.001,
    le=1.999,
    description="of tweedie: variance grows with mean^power; 1 is poisson, 2 gamma",
)
_KEY_BITS: KeyBits = Field(2048, description="modulus of the guest's key")
_OBFUSCATORS: Obfuscators = Field(
    "short",
    description="exponents of the guest's encryption; full needs no assumption, five times the work",
)
MAX_LEVERAGE = 0.2
"""What jobs have and hosts allow by default: no sum tells of a row more than one of five rows does."""
_MAX_LEVERAGE: float = Field(
    MAX_LEVERAGE,
    gt=0,
    le=1,
    description="with inference: how far a row may stand out by a party's columns, as its leverage; by "
    "others there is none. 1 is without a bound",
)
_SEED: int = Field(0, ge=0, lt=2**63, description="of the row and column draws, not of any key")

PROFILE_FITS = 10
"""Fits at most by which the parameter of a variance is found."""


MOST_CLASSES = 20
"""Of a label of several classes."""

UNSAID = (
    *("init_model", "interaction_constraints", "quantile", "classes"),
    *("max_leaves", "ordered_categories"),
)
"""Settings of trees that are no part of a job that says nothing of them."""
OF_ORDERED = ("cat_smooth", "cat_l2", "max_cat_threshold")
"""Settings of categories that are ordered, no part of a job without."""


class BoostParams(BaseModel):
    """Settings of gradient-boosted trees, named as in XGBoost and scikit-learn.

    Source of gain, leaf weight and regularisation: Chen and Guestrin, KDD 2016, section 2; of
    goss_top and goss_other: Ke et al., NeurIPS 2017, section 3.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    trees: int = Field(50, ge=1, le=5000, description="trees at most")
    depth: int = Field(4, ge=1, le=10, description="levels of splits in a tree")
    max_leaves: int | None = Field(
        None,
        ge=2,
        le=1024,
        description="leaves of a tree at most, which then grows best-first, within depth; all levels "
        "if absent",
    )
    learning_rate: float = Field(0.2, gt=0, le=1, description="shrinkage of each tree")
    max_bins: int = Field(32, ge=2, le=255, description="bins of a column, missing not counted")
    min_bin_rows: int = Field(3, ge=1, description="least number of rows of a bin")
    reg_lambda: float = Field(1.0, ge=0, description="L2 penalty on leaf weights")
    reg_alpha: float = Field(0.0, ge=0, description="L1 penalty on leaf weights")
    gamma: float = Field(0.0, ge=0, description="least gain of a split")
    min_child_weight: float = Field(1.0, ge=0, description="least hessian sum of a child")
    min_child_rows: int = Field(20, ge=1, description="least number of rows of a child")
    tweedie_power: float = _TWEEDIE_POWER
    quantile: float | None = Field(
        None,
        gt=0,
        lt=1,
        description="of quantile: the share of labels that is to lie below the prediction",
    )
    classes: int | None = Field(
        None,
        ge=3,
        le=MOST_CLASSES,
        description="of multiclass: how many classes the label has. Each round grows a tree for each "
        "class: trees, guest_trees and early_stopping_rounds count rounds",
    )
    subsample: float = Field(1.0, gt=0, le=1, description="share of rows drawn for each tree")
    goss_top: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="share of rows with the largest gradients that each tree keeps (GOSS); 0 is off. "
        "Hosts see which rows these are: with rare claims, those that claimed",
    )
    goss_other: float = Field(
        0.0, ge=0, lt=1, description="share of rows drawn from the others, which count for all of them"
    )
    colsample: float = Field(1.0, gt=0, le=1, description="share of each party's columns a tree")
    validation_share: float = Field(0.0, ge=0, lt=1, description="rows kept to decide when to stop")
    early_stopping_rounds: int = Field(
        0, ge=0, description="stop after so many trees without a better validation loss; 0 is never"
    )
    sums: Literal["open", "hidden"] = Field(
        "open",
        description="who sees the sums of hosts' candidates: the guest, or a coordinator without data",
    )
    coordinator: str | None = Field(
        None,
        pattern=r"^[a-z][a-z0-9-]{0,31}$",
        description="name of the party that opens the sums when they are hidden",
    )
    guest_trees: int = Field(
        0,
        ge=0,
        le=5000,
        description="how many of the first trees are grown from the guest's columns alone",
    )
    encryption: Encryption = Field(
        "paillier",
        description="of gradients; lattice is faster by far and shows hosts less, but only for guests "
        "trusted to follow the protocol: one that does not can ask for sums of single rows",
    )
    key_bits: KeyBits = _KEY_BITS
    obfuscators: Obfuscators = _OBFUSCATORS
    seed: int = _SEED
    init_model: str | None = Field(
        None,
        pattern=r"^[a-z0-9][a-z0-9._-]{0,63}$",
        description="full name of a kept model of the same parties, to which the trees are added",
    )
    interaction_constraints: Annotated[Sequence[Sequence[str]] | None, AfterValidator(_groups)] = Field(
        None,
        description="groups of parties whose columns may meet on a path from the root to a leaf; all "
        "may if absent",
    )

    ordered_categories: Literal["guest", "all"] | None = Field(
        None,
        description="whose columns of more than 4 categories are split by sets of them, in the order of "
        "their gradients; with all, hosts tell the guest which sums belong to one column",
    )
    cat_smooth: float = Field(
        10.0, ge=0, description="of ordered_categories: what sums of hessians are increased by"
    )
    cat_l2: float = Field(
        10.0, ge=0, description="of ordered_categories: further L2 penalty on the gains of sets"
    )
    max_cat_threshold: int = Field(
        32, ge=1, le=255, description="of ordered_categories: most categories of a set"
    )

    @property
    def round(self) -> int:
        """How many trees grow from the same gradients: one, or one of each class."""
        return self.classes or 1

    @property
    def most_trees(self) -> int:
        """How many trees all rounds have at most."""
        return self.trees * self.round

    @property
    def first_joint(self) -> int:
        """The number of the first tree of all parties' columns."""
        return self.guest_trees * self.round

    @property
    def unsaid(self) -> set[str]:
        """The keys that are no part of a job that says nothing of them."""
        unsaid = {name for name in UNSAID if getattr(self, name) is None}
        if self.ordered_categories is None:
            unsaid |= {*OF_ORDERED}
        return unsaid if self.reg_alpha else {*unsaid, "reg_alpha"}

    @classmethod
    def of_stored(cls, settings: Mapping[str, object]) -> "BoostParams":
        """The settings of a kept job. Raises ValueError for what no version of vfl kept."""
        kept = dict(settings)
        if "first_tree" in kept:  # before guest_trees
            kept["guest_trees"] = int(kept.pop("first_tree") == "guest")
        return cls.model_validate(kept)

    @model_validator(mode="before")
    @classmethod
    def _no_first_tree(cls, values: object) -> object:
        if isinstance(values, Mapping) and "first_tree" in values:
            instead = "write guest_trees = 1 in its place"
            if values["first_tree"] != "guest":
                instead = "remove it, all trees are joint by default"
            raise ValueError(f"first_tree is no setting any more: {instead}")
        return values

    @model_validator(mode="after")
    def _fits_together(self) -> "BoostParams":
        if self.guest_trees > self.trees:
            raise ValueError(
                f"guest_trees = {self.guest_trees} is more than trees = {self.trees}: lower it, the "
                "hosts' columns come in after it"
            )
        if self.early_stopping_rounds and not self.validation_share:
            raise ValueError("early_stopping_rounds needs a validation_share above 0")
        if bool(self.goss_top) != bool(self.goss_other):
            raise ValueError("goss_top and goss_other belong together: set both above 0, or none")
        if self.goss_top + self.goss_other > 1:
            raise ValueError("goss_top and goss_other are shares of the same rows: together at most 1")
        if self.goss_top and self.subsample < 1:
            raise ValueError("subsample and goss_top both draw rows: keep one of them")
        if (self.sums == "hidden") != (self.coordinator is not None):
            raise ValueError('sums = "hidden" and coordinator go together: give both or neither')
        if self.classes and self.init_model is not None:
            raise ValueError("init_model is not for several classes (multiclass): leave it out")
        return self

    @property
    def idle(self) -> str | None:
        """What to say of a max_leaves that no tree can reach; None where that is not so."""
        if self.max_leaves is None or self.max_leaves <= 1 << self.depth:
            return None
        return (
            f"max_leaves = {self.max_leaves} changes nothing: a tree of depth = {self.depth} has at "
            f"most {1 << self.depth} leaves; raise depth, or leave it out"
        )

    @model_validator(mode="after")
    def _ordered(self) -> "BoostParams":
        of_ordered = (name for name in OF_ORDERED if getattr(self, name) != _default(self, name))
        if self.ordered_categories is None and (name := next(of_ordered, None)) is not None:
            raise ValueError(f"{name} is for ordered_categories: set that, or remove it")
        if self.ordered_categories != "all":
            return self
        if self.sums == "hidden":
            raise ValueError(
                'ordered_categories = "all" is for sums = "open": nobody who opens hidden sums may know '
                'which of them belong to one column; write "guest"'
            )
        if self.encryption == "lattice":
            raise ValueError(
                'ordered_categories = "all" is for encryption = "paillier": over the lattice engine '
                'nobody knows which categories have enough rows in a node; write "guest"'
            )
        return self


def _default(params: BaseModel, name: str) -> object:
    return type(params).model_fields[name].default


class GlmParams(BaseModel):
    """Settings of a generalised linear model, named as in glum."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    alpha: float = Field(0.0, ge=0, description="L2 penalty: alpha / 2 times the sum of squares")
    l1_ratio: float = Field(
        0.0,
        ge=0,
        le=1,
        description="share of alpha, or of each of alphas, that is on the sum of magnitudes in place of "
        "half the sum of squares, so that coefficients become exactly zero; 1 is the lasso",
    )
    shrink_to: Literal["base", "mean"] = Field(
        "base",
        description="what alpha draws levels to: the base level, or the mean of the factor's levels, "
        "weighted by its owner's rows or exposure, so that no base level matters",
    )
    l1_on: Literal["all", "steps"] = Field(
        "all",
        description="what l1_ratio's share is on: all coefficients, or only the steps between bands "
        "that their owners fuse; the others have the squares alone, times 1 - l1_ratio",
    )
    credibility: bool = Field(
        False,
        description="whether levels of columns that owners list under credible in [glm] of their party "
        "files are drawn to their column's mean by that, in place of alpha",
    )
    alphas: tuple[float, ...] = Field(
        (),
        max_length=50,
        description="penalties in place of alpha, of which the one of least deviance on rows left out "
        "of fits, by folds, is taken",
    )
    folds: int = Field(5, ge=2, le=20, description="parts of the rows that train, for alphas")
    one_standard_error: bool = Field(
        False,
        description="whether to take the greatest of alphas whose deviance is within a standard error "
        "of the least",
    )
    tweedie_power: float = _TWEEDIE_POWER
    theta: float = Field(
        1.0,
        gt=0,
        le=1e6,
        description="of negative_binomial: variance is mean + theta mean^2; 0 would be poisson",
    )
    profile: bool = Field(
        False,
        description="whether tweedie_power, or theta, is the one of the greatest likelihood, found by "
        "further fits; what is given is where the search begins and what deviances are by",
    )
    dispersion: Literal["family", "pearson"] = Field(
        "family",
        description="what standard errors are by: the family's, 1 of logistic, poisson and "
        "negative_binomial, or Pearson's of those, too (quasi-Poisson)",
    )
    across: tuple[tuple[str, str], ...] = Field(
        (),
        max_length=20,
        description="pairs of a guest's column and a host's, such as area and bureau:age, of which each "
        "pair of levels has a coefficient, too, which the host owns",
    )
    across_rows: int = Field(50, ge=1, description="least rows that train of such a pair of levels")
    across_names: bool = Field(
        False,
        description="whether a host is told the names of the levels of the guest's columns in across, "
        "else their numbers",
    )
    fit_intercept: bool = Field(True, description="whether the model has a constant")
    max_iterations: int = Field(100, ge=1, le=10_000, description="steps at most")
    tolerance: float = Field(
        1e-6, gt=0, description="length of the gradient, in the label's unit, at which to stop"
    )
    max_labels: float | None = Field(
        None,
        gt=0,
        description="share of the labels of rows that train which a host that cheats may read at most: "
        "the fit ends before an iteration that could tell it more",
    )
    inference: bool = Field(
        False,
        description="whether each party gets standard errors, intervals and tests of its own "
        "coefficients, from all parties' columns; by sums over lattices, whatever the encryption",
    )
    max_leverage: float = _MAX_LEVERAGE
    scores: Literal["guest", "hidden"] = Field(
        "guest", description="who sees hosts' parts of a row's score in training: the guest, or nobody"
    )
    coordinator: str | None = Field(
        None,
        pattern=r"^[a-z][a-z0-9-]{0,31}$",
        description="name of the party that holds the key when scores are hidden",
    )
    encryption: Encryption = Field(
        "paillier",
        description="of residuals; lattice is faster by far, but only among parties trusted to follow "
        "the protocol: a host that does not can read up to some 2,000 labels a number and iteration, "
        "where it is 60 under paillier; a guest that does not can learn a host's columns",
    )
    key_bits: KeyBits = _KEY_BITS
    obfuscators: Obfuscators = _OBFUSCATORS
    seed: int = _SEED

    @property
    def path(self) -> tuple[float, ...]:
        """The penalties to choose from, the greatest first."""
        return tuple(sorted({*self.alphas}, reverse=True))

    @property
    def least_alpha(self) -> float:
        """The least penalty that a fit may have."""
        return min(self.alphas, default=self.alpha)

    @property
    def idle(self) -> None:
        """What to say of settings without effect: there are none."""

    @property
    def penalty_unit(self) -> float:
        """What the penalty on a direction is told in units of: with penalties beside alpha's in that of
        the loss."""
        return 1.0 if self.credibility else self.alpha

    @property
    def fits(self) -> int:
        """How many fits there are, the one that is kept among them."""
        return 1 + self.folds * len(self.path) + PROFILE_FITS * self.profile

    @property
    def several(self) -> bool:
        """Whether there is more than one fit."""
        return bool(self.alphas) or self.profile

    @property
    def iterations(self) -> int:
        """How many steps all fits have at most."""
        return self.fits * self.max_iterations

    @property
    def pairs(self) -> PairsOfJob:
        """The pairs of columns of two parties."""
        return PairsOfJob(self.across)

    @property
    def gradients(self) -> int:
        """How many gradients all fits have at most."""
        return self.fits * (self.max_iterations + 1)

    @field_validator("across", mode="before")
    @classmethod
    def _pairs_of_lists(cls, values: object) -> object:
        whole = isinstance(values, list | tuple) and all(
            isinstance(pair, list | tuple) and [*map(type, pair)] == [str, str] for pair in values
        )
        if not whole or not isinstance(values, list | tuple):
            raise ValueError('must be a list of pairs such as ["area", "bureau:age"]')
        return tuple(map(tuple, values))

    @field_validator("alphas", mode="before")
    @classmethod
    def _alphas_of_a_list(cls, values: object) -> object:
        return tuple(values) if isinstance(values, list) else values

    @model_validator(mode="after")
    def _of_one_penalty(self) -> "GlmParams":
        if any(alpha <= 0 for alpha in self.alphas):
            raise ValueError("alphas must be above 0")
        if self.alphas and self.alpha:
            raise ValueError("alphas are in place of alpha: leave one of them out")
        if self.alphas and self.scores == "hidden":
            raise ValueError('alphas are for scores = "guest", who compares them: write alpha')
        if self.one_standard_error and not self.alphas:
            raise ValueError("one_standard_error is for alphas: name the penalties to choose from")
        if self.profile and self.scores == "hidden":
            raise ValueError('profile is for scores = "guest", who knows the likelihood: remove it')
        return self

    @model_validator(mode="after")
    def _of_magnitudes(self) -> "GlmParams":
        if self.l1_on == "steps" and not 0 < self.l1_ratio < 1:
            raise ValueError(
                'l1_on = "steps" needs an l1_ratio above 0 and below 1: what is left of alpha is the '
                "other coefficients' penalty"
            )
        if not self.l1_ratio:
            return self
        if not self.alpha and not self.alphas:
            raise ValueError("l1_ratio is a share of alpha: set alpha, or alphas, above 0")
        if self.shrink_to == "mean" and self.l1_on == "all":
            raise ValueError(
                'l1_ratio is for shrink_to = "base": about the mean of its levels no coefficient of a '
                'factor is zero by itself, leave one of them out or set l1_on = "steps"'
            )
        if self.inference:
            raise ValueError(
                "inference is for l1_ratio = 0: coefficients that a penalty sets to zero have no "
                "standard error, leave one of them out"
            )
        if self.scores == "hidden":
            raise ValueError(
                'l1_ratio is for scores = "guest", who finds steps that end at zeros: leave it out'
            )
        return self

    @model_validator(mode="after")
    def _across(self) -> "GlmParams":
        for pair in self.across:
            party, colon, column = pair[1].partition(":")
            if not (pair[0] and party and colon and column):
                raise ValueError(
                    "across has pairs of a column of the guest's and one of a host's after the "
                    'party\'s name: ["area", "bureau:age"]'
                )
        if len({*self.across}) < len(self.across):
            raise ValueError("across has a pair twice: leave one of them out")
        # Its sums by one pair less those by the other would be of fewer rows than across_rows.
        if (both := self.pairs.overlapping) is not None:
            raise ValueError(
                f"across has column '{both[0]}' in two pairs with columns of {both[1]}, which together "
                "tell of fewer rows than across_rows: leave one of them out"
            )
        refused = {
            'scores = "hidden"': self.scores == "hidden",
            "inference": self.inference,
            "l1_ratio": bool(self.l1_ratio),
            'shrink_to = "mean"': self.shrink_to == "mean",
            "credibility": self.credibility,
            # Pairs have enough rows in all folds together, a single fold's may have few.
            "alphas, whose folds may have few rows of a pair": bool(self.alphas),
        }
        if self.across and any(refused.values()):
            one = next(name for name, given in refused.items() if given)
            raise ValueError(f"across does not go with {one}: leave one of them out")
        if not self.across and (self.across_names or self.across_rows != 50):
            raise ValueError("across_rows and across_names are for across: name pairs, or remove them")
        return self

    @model_validator(mode="after")
    def _credible(self) -> "GlmParams":
        if self.credibility and self.scores == "hidden":
            raise ValueError(
                'credibility is for scores = "guest": with hidden scores alpha is the one penalty'
            )
        if self.credibility and not self.fit_intercept:
            raise ValueError(
                "credibility needs fit_intercept: without a constant the base level matters, too"
            )
        return self

    @model_validator(mode="after")
    def _coordinated(self) -> "GlmParams":
        if self.shrink_to == "mean" and not self.fit_intercept:
            raise ValueError(
                'shrink_to = "mean" needs fit_intercept: without a constant the base level matters, too'
            )
        if (self.scores == "hidden") != (self.coordinator is not None):
            raise ValueError('scores = "hidden" and coordinator go together: give both or neither')
        if self.scores == "hidden" and self.max_labels is not None:
            raise ValueError(
                'max_labels is for scores = "guest": else the coordinator opens what hosts send'
            )
        if self.inference and self.scores == "hidden":
            raise ValueError(
                'inference is for scores = "guest": with hidden scores nobody knows the rows\' weights '
                "in it, remove it"
            )
        if self.scores == "hidden" and self.encryption == "lattice":
            raise ValueError(
                'scores = "hidden" is for encryption = "paillier": leave encryption out, or use '
                'scores = "guest"'
            )
        return self
