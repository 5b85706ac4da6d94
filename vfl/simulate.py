"""All parties in one process, for notebooks and tests: DataFrames in, a model out.

The protocols are the real ones (alignment by private set intersection, Paillier, packing), over memory
instead of the network, so that a model trained here is the one that the parties would train apart. Only
what guards a party against others is left out: policies, certificates, a least size of intersection.

    model = vfl.SecureBoost(trees=30, depth=4)
    model.fit(insurer, y, hosts={"registry": registry, "bureau": bureau})
    model.predict_proba(new, hosts={"registry": registry, "bureau": bureau})[:, 1]

    model = vfl.SecureBoostRegressor(objective="poisson")
    model.fit(insurer, claims, hosts={"registry": registry, "bureau": bureau}, exposure=years)

    model = vfl.FederatedGLM(family="poisson")
    model.fit(insurer, claims, hosts={"registry": registry, "bureau": bureau}, exposure=years)
    model.relativities_["registry"]
"""

import asyncio
import datetime
import inspect
import numbers
import secrets
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Coroutine, Hashable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from decimal import Decimal
from functools import wraps
from typing import Any, ClassVar, Self, TypeVar, cast, get_args

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from pandas.api import types
from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import accuracy_score
from sklearn.utils.validation import check_is_fitted

from vfl.crypto.ciphertexts import PrivateKey
from vfl.crypto.workers import Machine
from vfl.errors import ConfigError, DataError
from vfl.learn.binning import Binned, Features, Monotone, bin_columns
from vfl.learn.design import Design, Matrix
from vfl.learn.losses import (
    FAMILIES,
    OBJECTIVES,
    BadLabel,
    Family,
    Floats,
    LogisticLoss,
    Loss,
    Objective,
    loss_of,
)
from vfl.learn.metrics import regression_metrics
from vfl.learn.params import BoostParams, GlmParams
from vfl.net.peer import MemoryPeer, Peer, together
from vfl.party.config import DataSection, GlmSection, did_you_mean
from vfl.party.id_cells import IdReading, whole_text
from vfl.party.ids import normalise as normalise_ids
from vfl.party.linear import COLUMNS, lines, own_scores, prepared
from vfl.party.table import MAX_CATEGORIES
from vfl.protocols.boost import guest_train, host_train
from vfl.protocols.glm import guest_fit, host_fit
from vfl.protocols.glm_scoring import (
    GuestGlm,
    HostGlm,
    LinearPart,
    guest_glm_score,
    host_glm_score,
)
from vfl.protocols.grower import GuestModel, HostModel, Training
from vfl.protocols.key import generate_key
from vfl.protocols.lattice_boost import lattice_guest_train, lattice_host_train
from vfl.protocols.psi import guest_align, host_align
from vfl.protocols.scoring import all_scores, guest_score, host_score

GUEST = "guest"  # the name of the party with the labels

Tables = Mapping[str, pd.DataFrame]
IdColumns = str | Sequence[str] | None
Rows = NDArray[np.int64]
Progress = Callable[[Any], None]  # told of each tree (TreeDone) or iteration (IterationDone)
T = TypeVar("T")
M = TypeVar("M", bound=BaseModel)

_NORMALISE: tuple[str, ...] = DataSection.model_fields["normalise"].default


class _Federation(BaseEstimator):  # type: ignore[misc]
    """Columns of a DataFrame: numbers and bools are numeric, text, objects and categories are
    categorical, dates are refused. None and NaN are missing. Ids are never features.

    Attributes after fit:

    - n_aligned_, aligned_: number and positions of the guest's rows that all parties know, int64
    - model_, halves_: the guest's half of the model, the hosts' by name
    - traffic_: bytes between guest and host during fit, both ways together, by host's name
    - train_log_: losses (mean) and seconds, after each tree (TreeDone) or iteration (IterationDone)

    Parameters:

    - id: column or columns that name a row, the same for all parties, or by party in a dict (the guest
      is "guest"); None takes the index
    - normalise: steps that make the same id equal at all parties (`vfl.party.ids`)
    - workers: processes of each party for encrypted arithmetic
    """

    aligned_: Rows
    model_: Any
    halves_: dict[str, Any]
    id: IdColumns | Mapping[str, IdColumns]
    normalise: Sequence[str] | Sequence[Sequence[str]]
    workers: int
    _SETTINGS: ClassVar[type[BaseModel]]  # of the kind of model, checked by fit
    _LEFT_OUT: ClassVar[frozenset[str]] = frozenset()  # settings without a meaning in one process
    _categorical: dict[str, dict[str, bool]]  # columns by party

    def __init__(
        self,
        *,
        id: IdColumns | Mapping[str, IdColumns] = None,  # noqa: A002
        normalise: Sequence[str] | Sequence[Sequence[str]] = _NORMALISE,
        workers: int = 1,
        **params: Any,
    ) -> None:
        """Raises TypeError for a parameter that does not exist; values are checked by fit."""
        settings = self._settings()
        for name in params:
            if name not in settings:
                known = [*inspect.signature(type(self).__init__).parameters][1:]
                raise TypeError(f"{type(self).__name__} has no parameter {name!r}; {_hint(name, known)}")
        self.id = id
        self.normalise = normalise
        self.workers = workers
        for name, field in settings.items():
            setattr(self, name, params.get(name, field.default))

    @classmethod
    def _settings(cls) -> dict[str, FieldInfo]:
        fields = cls._SETTINGS.model_fields
        return {name: field for name, field in fields.items() if name not in cls._LEFT_OUT}

    def _method(self, hosts: Iterable[str]) -> "_Method":
        """How the kind of model is trained and scored. Raises ConfigError for impossible settings."""
        raise NotImplementedError

    def _fitted(self, loss: Loss) -> None:
        """What a kind of model tells besides, once it is fitted."""

    def _fit(
        self,
        insurer: pd.DataFrame,
        hosts: Tables | None,
        label: Floats,
        loss: Loss,
        sample_weight: ArrayLike | None,
        offset: Floats | None,
        progress: Progress | None,
    ) -> None:
        workers = self.workers
        if not isinstance(workers, numbers.Integral) or isinstance(workers, bool) or workers < 1:
            raise ConfigError("workers must be a whole number of at least 1")
        hosts = _named(hosts)
        method = self._method(hosts)
        guest = self._table(GUEST, insurer, None, with_ids=bool(hosts))
        others = []
        for name, frame in hosts.items():
            others.append(self._table(name, frame, None))
        _same_columns_of_ids([guest, *others] if others else [])
        weight = _positive(sample_weight, insurer, "sample_weight")
        weight = np.ones(len(insurer)) if weight is None else weight
        every = np.ones(len(insurer), np.bool_)
        rows = Training(label, weight, every, ~every, loss, offset)
        log: list[Any] = []

        def done(step: Any) -> None:
            log.append(step)
            if progress:
                progress(step)

        trained = _run(_train(guest, others, rows, method, Machine(int(workers)), done))
        self.aligned_ = trained.rows
        self.n_aligned_ = len(trained.rows)
        self.model_ = trained.model
        self.halves_ = trained.halves
        self.traffic_ = trained.traffic
        self.train_log_ = log
        self._categorical = {
            table.name: {name: values.dtype == object for name, values in table.features.items()}
            for table in (guest, *others)
        }
        self._fitted(loss)

    def decision_function(self, insurer: pd.DataFrame, hosts: Tables | None = None) -> Floats:
        """The score of every row, shape (rows,), in the rows' order: log-odds, the logarithm of the
        mean or the mean, by the loss's link, without any offset.

        A row that a host does not know counts as one of missing values there. `hosts` must have
        every host of the training (an empty table of the same columns where it knows no row).

        Raises NotFittedError, ConfigError for other hosts than in training, DataError for tables that
        cannot be used or lack a column.
        """
        check_is_fitted(self, "model_")
        hosts = _named(hosts)
        names = self.model_.parties[1:]
        if set(hosts) != set(names):
            raise ConfigError(
                f"the model was trained with {_listed(names)}, but hosts= has {_listed(list(hosts))}: "
                "give each host's table (an empty one of the same columns where it knows no row)"
            )
        guest = self._table(GUEST, insurer, self._categorical[GUEST], with_ids=bool(hosts))
        others = [self._table(name, hosts[name], self._categorical[name]) for name in names]
        _same_columns_of_ids([guest, *others] if others else [])
        if not guest.rows:
            return np.empty(0)
        return _run(_score(guest, others, self._method(names), self.model_, self.halves_))

    def _params(self) -> Any:
        """The settings, checked. Raises ConfigError."""
        values = {name: getattr(self, name) for name in self._settings()}
        # A parameter search hands over NumPy's numbers.
        plain = {k: v.item() if isinstance(v, np.generic) else v for k, v in values.items()}
        return _validated(self._SETTINGS, plain)

    def _table(
        self, party: str, frame: pd.DataFrame, expect: Mapping[str, bool] | None, with_ids: bool = True
    ) -> "_Table":
        """A party's table; `expect` has the columns of the training and which are categorical."""
        if not isinstance(frame, pd.DataFrame):
            raise DataError(f"{party}: a table must be a pandas DataFrame, not {type(frame).__name__}")
        if isinstance(frame.columns, pd.MultiIndex) or not frame.columns.is_unique:
            raise DataError(f"{party}: column names must be plain and each must come once")
        names = self._id_of(party)
        id_columns = _id_columns(party, frame, names) if with_ids else []
        if expect is None and id_columns and names is None and _only_counts(frame.index):
            warnings.warn(
                f"{party}: its ids are the row numbers 0, 1, 2, ...; name the column with id= or "
                "set the index unless the row numbers are the ids",
                stacklevel=4,  # who calls fit
            )
        features = _features(party, frame.drop(columns=names or [], errors="ignore"), expect)
        if not features and party != GUEST:
            raise DataError(f"{party}: no column is left to use as a feature")
        ids = self._ids(party, id_columns) if id_columns else []
        return _Table(party, ids, len(id_columns), features, len(frame))

    def _id_of(self, party: str) -> list[str] | None:
        names: IdColumns | Mapping[str, IdColumns] = self.id
        if isinstance(names, Mapping):
            if party not in names:
                raise ConfigError(
                    f"id= says nothing of {party!r}; {_hint(party, names)} (None takes the index)"
                )
            names = names[party]
        return [names] if isinstance(names, str) else None if names is None else list(names)

    def _ids(self, party: str, columns: list[list[str | None]]) -> list[bytes]:
        reading = IdReading(merging="allow")  # two rows with one id are refused below, whatever it is
        found = normalise_ids(columns, self.normalise, "first", party, empties="drop", reading=reading)
        none = "no id (a number of which digits are lost is none)" if found.unread else "no id"
        for count, what in ((found.empties, none), (found.duplicates, "the id of an earlier row")):
            if count:
                left_out = np.setdiff1d(np.arange(len(columns[0])), found.rows)
                shown = ", ".join(map(str, left_out[:5].tolist()))
                raise DataError(
                    f"{party}: {count:,} row{'s have' if count > 1 else ' has'} {what} once normalised "
                    f"(among positions {shown}{', ...' if len(left_out) > 5 else ''}): drop or mend them"
                )
        return found.ids


class _Classifier(ClassifierMixin, _Federation):  # type: ignore[misc]
    """A model of a label of 0 and 1."""

    def fit(
        self,
        insurer: pd.DataFrame,
        y: ArrayLike,
        hosts: Tables | None = None,
        sample_weight: ArrayLike | None = None,
        progress: Progress | None = None,
    ) -> Self:
        """Align the rows, train on those that all parties know, and keep every half.

        insurer: the guest's columns, shape (rows, columns). y: its label, 0 or 1, shape (rows,).
        hosts: the other parties' tables by name, rows in any order; without them the guest trains
        alone on all its rows. sample_weight: positive, shape (rows,). progress: called after each
        tree or iteration, from another thread.

        Raises ConfigError for parameters out of range, DataError for tables that cannot be used.
        """
        loss = LogisticLoss()
        label = _label(y, insurer, loss)
        insurer = _without(insurer, y=y, sample_weight=sample_weight)
        self._fit(insurer, hosts, label, loss, sample_weight, None, progress)
        self.classes_ = np.array([0, 1])
        return self

    def predict_proba(self, insurer: pd.DataFrame, hosts: Tables | None = None) -> Floats:
        """Probabilities of 0 and of 1, shape (rows, 2); rows and errors as in decision_function."""
        one = LogisticLoss().predict(self.decision_function(insurer, hosts))
        return np.column_stack([1 - one, one])

    def predict(self, insurer: pd.DataFrame, hosts: Tables | None = None) -> Rows:
        """The likelier class, shape (rows,); rows and errors as in decision_function."""
        return np.asarray((self.decision_function(insurer, hosts) > 0).astype(np.int64))

    def score(
        self,
        insurer: pd.DataFrame,
        y: ArrayLike,
        hosts: Tables | None = None,
        sample_weight: ArrayLike | None = None,
    ) -> float:
        """Accuracy, as of any classifier in scikit-learn; errors as in decision_function."""
        return float(accuracy_score(y, self.predict(insurer, hosts), sample_weight=sample_weight))


class _Regressor(RegressorMixin, _Federation):  # type: ignore[misc]
    """A model of counts, amounts and any numbers."""

    _NAMED: ClassVar[str]  # the parameter that says what the label is
    _LOSSES: ClassVar[Mapping[str, type[Loss]]]

    def fit(
        self,
        insurer: pd.DataFrame,
        y: ArrayLike,
        hosts: Tables | None = None,
        sample_weight: ArrayLike | None = None,
        exposure: ArrayLike | None = None,
        offset: ArrayLike | None = None,
        progress: Progress | None = None,
    ) -> Self:
        """Align the rows, train on those that all parties know, and keep every half.

        insurer: the guest's columns, shape (rows, columns). y: its label, shape (rows,). hosts: the
        other parties' tables by name, rows in any order; without them the guest trains alone on all
        its rows. sample_weight: positive, shape (rows,). exposure: time at risk of each row, positive,
        for "poisson" alone. offset: added to each row's score, on the scale of the link.
        progress: called after each tree or iteration, from another thread.

        Raises ConfigError for parameters out of range, DataError for tables that cannot be used.
        """
        loss = self._loss()
        added = self._offset(insurer, exposure, offset)
        label = _label(y, insurer, loss)
        insurer = _without(insurer, y=y, sample_weight=sample_weight, exposure=exposure, offset=offset)
        self._fit(insurer, hosts, label, loss, sample_weight, added, progress)
        self.with_offset_ = offset is not None
        return self

    def predict(
        self, insurer: pd.DataFrame, hosts: Tables | None = None, offset: ArrayLike | None = None
    ) -> Floats:
        """The mean of the label, per unit of exposure, shape (rows,), at each row's offset.

        Rows and errors as in decision_function; ConfigError for an offset where the training had none,
        or none where it had one.
        """
        return self._loss().predict(self._scores(insurer, hosts, None, offset)[0])

    def score(
        self,
        insurer: pd.DataFrame,
        y: ArrayLike,
        hosts: Tables | None = None,
        sample_weight: ArrayLike | None = None,
        exposure: ArrayLike | None = None,
        offset: ArrayLike | None = None,
    ) -> float:
        """D^2, the share of deviance explained (`vfl.learn.metrics`); errors as in predict."""
        loss = self._loss()
        scores, added = self._scores(insurer, hosts, exposure, offset)
        weight = _positive(sample_weight, insurer, "sample_weight")
        weight = np.ones(len(insurer)) if weight is None else weight
        return regression_metrics(loss, _label(y, insurer, loss), scores, weight, added)["d2"]

    def _scores(
        self,
        insurer: pd.DataFrame,
        hosts: Tables | None,
        exposure: ArrayLike | None,
        offset: ArrayLike | None,
    ) -> tuple[Floats, Floats | None]:
        """Scores with what is added to them, and that alone."""
        check_is_fitted(self, "model_")
        if self.with_offset_ != (offset is not None):
            had = "an offset" if self.with_offset_ else "no offset"
            raise ConfigError(f"the model was trained with {had}: give predict and score the same")
        added = self._offset(insurer, exposure, offset)
        scores = self.decision_function(insurer, hosts)
        return scores if added is None else scores + added, added

    def _loss(self) -> Loss:
        name = getattr(self, self._NAMED)
        names = [known for known, kind in self._LOSSES.items() if kind is not LogisticLoss]
        if name not in names:
            raise ConfigError(f"{self._NAMED}={name!r}: there are {', '.join(names)}")
        return loss_of(name, self._params().tweedie_power)

    def _offset(
        self, insurer: pd.DataFrame, exposure: ArrayLike | None, offset: ArrayLike | None
    ) -> Floats | None:
        reason = self._loss().no_exposure
        if exposure is not None and reason is not None:
            raise ConfigError(f"exposure= {reason}")
        known = _positive(exposure, insurer, "exposure")
        added = None if offset is None else _given(offset, insurer, "offset")
        if known is None:
            return added
        return np.log(known) + (0.0 if added is None else added)


class _Trees(_Federation):
    """Gradient-boosted trees over the columns of several parties.

    Source: SecureBoost, Cheng et al., arXiv 1901.08755 (`vfl.protocols.boost`). After fit,
    feature_importances_ is a DataFrame (party, column, splits, gain), most gain first.

    - monotone: by party, the guest being "guest", a dict of numeric columns that are "increasing" or
      "decreasing": how the score may change with a column's known values, all others being equal
    """

    _SETTINGS = BoostParams
    monotone: Mapping[str, Mapping[str, Monotone]] | None

    def __init__(
        self, *, monotone: Mapping[str, Mapping[str, Monotone]] | None = None, **params: Any
    ) -> None:
        """Raises TypeError for a parameter that does not exist; values are checked by fit."""
        super().__init__(**params)
        self.monotone = monotone

    def _method(self, hosts: Iterable[str]) -> "_Boosting":
        monotone = self.monotone or {}
        _check_parties("monotone", monotone, hosts)
        for party, columns in monotone.items():
            for column, way in columns.items():
                if way not in get_args(Monotone):
                    raise ConfigError(
                        f'monotone= of {party}: {column!r} must be "increasing" or "decreasing"'
                    )
        return _Boosting(self._params(), monotone)

    @property
    def feature_importances_(self) -> pd.DataFrame:
        check_is_fitted(self, "model_")
        return pd.DataFrame(self.model_.importance(), columns=["party", "column", "splits", "gain"])


class _Linear(_Federation):
    """A generalised linear model over the columns of several parties, at the optimum of all columns.

    Source: Yang et al., arXiv 1911.09824, with L-BFGS across parties (`vfl.protocols.glm`).

    After fit, by party's name where it is a dict:

    - intercept_, coef_: a number; a dict of Series by (column, level), the level of a slope is ""; a
      slope is per standard deviation of its column
    - relativities_: a dict of DataFrames (column, level, coefficient, per_unit, relativity, rows), the
      guest's with the intercept first
    - n_iter_, converged_: a fit that has not converged warns and is kept

    Also, `rules` has by party what its party file would say under [glm]: binned, bins, missing, base,
    min_level_rows.
    """

    _SETTINGS = GlmParams
    _LEFT_OUT = frozenset({"scores", "coordinator", "seed"})
    rules: Mapping[str, Mapping[str, Any]] | None

    def __init__(self, *, rules: Mapping[str, Mapping[str, Any]] | None = None, **params: Any) -> None:
        """Raises TypeError for a parameter that does not exist; values are checked by fit."""
        super().__init__(**params)
        self.rules = rules

    def _fitted(self, loss: Loss) -> None:
        self.intercept_, self.n_iter_ = self.model_.intercept, self.model_.iterations
        self.converged_ = self.model_.converged
        parties = {GUEST: self.model_, **self.halves_}
        self.coef_ = {name: _coefficients(half.part) for name, half in parties.items()}
        self.relativities_ = {
            name: pd.DataFrame([line.cells for line in lines(half, loss.link)], columns=list(COLUMNS))
            for name, half in parties.items()
        }
        if not self.converged_:
            warnings.warn(
                f"not converged within max_iterations={self.max_iterations}: raise it, or alpha",
                ConvergenceWarning,
                stacklevel=4,  # who calls fit
            )

    def _method(self, hosts: Iterable[str]) -> "_Fitting":
        sections, by_party = {}, self.rules or {}
        _check_parties("rules", by_party, hosts)
        for party, rules in by_party.items():
            plain = {k: list(v) if isinstance(v, tuple) else v for k, v in rules.items()}
            sections[party] = _validated(GlmSection, plain, f"rules of {party}: ")
        return _Fitting(self._params(), sections)


class SecureBoost(_Classifier, _Trees):
    """A classifier for a label of 0 and 1; after fit, classes_ is array([0, 1])."""


class SecureBoostRegressor(_Regressor, _Trees):
    """A regressor for counts, amounts and any numbers.

    - objective: "squared"; "poisson" for counts, such as claim frequency with an exposure; "gamma" for
      amounts above zero; "tweedie" for amounts of which many are zero
    - with_offset_: whether it was trained with an offset
    """

    _NAMED, _LOSSES = "objective", OBJECTIVES

    def __init__(self, *, objective: Objective = "squared", **others: Any) -> None:
        """Raises TypeError for a parameter that does not exist; values are checked by fit."""
        super().__init__(**others)
        self.objective = objective


class FederatedGLM(_Regressor, _Linear):
    """A regressor for counts, amounts and any numbers.

    - family: "gaussian"; "poisson" for counts, such as claim frequency with an exposure; "gamma" for
      amounts above zero; "tweedie" for amounts of which many are zero. The link is the identity for
      gaussian, else the logarithm
    - with_offset_: whether it was trained with an offset
    """

    _NAMED, _LOSSES = "family", FAMILIES

    def __init__(self, *, family: Family = "gaussian", **others: Any) -> None:
        """Raises TypeError for a parameter that does not exist; values are checked by fit."""
        super().__init__(**others)
        self.family = family


class FederatedLogisticRegression(_Classifier, _Linear):
    """A classifier for a label of 0 and 1; after fit, classes_ is array([0, 1])."""


def _spell_out(estimator: type[_Federation]) -> None:
    """Give an estimator's __init__ the signature and its doc the words of all its parameters.

    scikit-learn reads parameters and defaults from signatures, help() and notebooks too.
    """
    kinds = [
        kind for kind in estimator.__mro__ if "__init__" in vars(kind) and issubclass(kind, _Federation)
    ]
    own = [
        parameter
        for kind in kinds
        for parameter in inspect.signature(vars(kind)["__init__"]).parameters.values()
        if parameter.kind is inspect.Parameter.KEYWORD_ONLY
    ]
    settings = [
        inspect.Parameter(
            name, inspect.Parameter.KEYWORD_ONLY, default=field.default, annotation=field.annotation
        )
        for name, field in estimator._settings().items()
    ]
    constructor = estimator.__init__

    @wraps(constructor)
    def spelt_out(self: Any, **named: Any) -> None:
        constructor(self, **named)

    first = inspect.Parameter("self", inspect.Parameter.POSITIONAL_OR_KEYWORD)
    spelt_out.__signature__ = inspect.Signature([first, *own, *settings])  # type: ignore[attr-defined]
    estimator.__init__ = spelt_out  # type: ignore[method-assign]
    kind = _Trees if issubclass(estimator, _Trees) else _Linear
    texts = [(part.__doc__ or "").strip() for part in (estimator, kind, _Federation)]
    words = "".join(f"\n    - {name}: {f.description}" for name, f in estimator._settings().items())
    estimator.__doc__ = "\n\n    ".join(texts) + words


for _estimator in (SecureBoost, SecureBoostRegressor, FederatedGLM, FederatedLogisticRegression):
    _spell_out(_estimator)


# The parties' roles.


@dataclass(frozen=True)
class _Table:
    """A party's rows: normalised ids (none where nobody is aligned with), features by column."""

    name: str
    ids: list[bytes]
    id_columns: int
    features: Features
    rows: int

    def take(self, rows: Rows) -> Features:
        return {name: values[rows] for name, values in self.features.items()}


@dataclass(frozen=True)
class _Trained:
    rows: Rows
    model: Any
    halves: dict[str, Any]
    traffic: dict[str, int]


@dataclass(frozen=True)
class _Session:
    """A host's session with the guest in a training."""

    guest: Peer
    name: str
    hosts: list[str]
    context: bytes


class _Method(ABC):
    """How one kind of model is trained and scored. Features are those of the rows at hand."""

    params: Any

    @abstractmethod
    async def guest(
        self,
        hosts: list[Peer],
        features: Features,
        rows: Training,
        key: PrivateKey | None,
        machine: Machine,
        done: Progress,
    ) -> Any:
        """The guest's half."""

    @abstractmethod
    async def host(self, session: _Session, features: Features, rows: int, machine: Machine) -> Any:
        """A host's half."""

    @abstractmethod
    async def guest_scores(
        self, hosts: list[Peer], model: Any, table: _Table, places: list[Rows]
    ) -> Floats:
        """The score of every row of the guest's table."""

    @abstractmethod
    async def host_scores(
        self, guest: Peer, half: Any, name: str, features: Features, rows: int
    ) -> None:
        """A host's part of these."""

    def drawn(self, whole: Training, rows: Rows) -> Training:
        """The aligned rows, of the guest's; all of them train unless the method keeps some back."""
        validation = np.zeros(len(rows), np.bool_)
        offset = None if whole.offset is None else whole.offset[rows]
        return Training(
            whole.label[rows], whole.weight[rows], ~validation, validation, whole.loss, offset
        )


@dataclass(frozen=True)
class _Boosting(_Method):
    params: BoostParams
    monotone: Mapping[str, Mapping[str, Monotone]]

    async def guest(
        self,
        hosts: list[Peer],
        features: Features,
        rows: Training,
        key: PrivateKey | None,
        machine: Machine,
        done: Progress,
    ) -> GuestModel:
        own = {GUEST: self._binned(GUEST, features)}
        if hosts and self.params.encryption == "lattice":
            model, _ = await lattice_guest_train(hosts, own, rows, self.params, progress=done)
            return model
        model, _ = await guest_train(
            hosts, own, rows, self.params, key=key, machine=machine, progress=done
        )
        return model

    async def host(
        self, session: _Session, features: Features, rows: int, machine: Machine
    ) -> HostModel:
        binned = self._binned(session.name, features)
        if self.params.encryption == "lattice":
            return await lattice_host_train(
                session.guest, binned, self.params, name=session.name, shown=str
            )
        return await host_train(
            session.guest, binned, self.params, name=session.name, shown=str, machine=machine
        )

    async def guest_scores(
        self, hosts: list[Peer], model: GuestModel, table: _Table, places: list[Rows]
    ) -> Floats:
        return await all_scores(guest_score(hosts, model, table.features, places, table.rows))

    async def host_scores(
        self, guest: Peer, half: HostModel, name: str, features: Features, rows: int
    ) -> None:
        await host_score(guest, half, features, rows)

    def drawn(self, whole: Training, rows: Rows) -> Training:
        """Those that decide when to stop are drawn by the seed as in a job."""
        draw = np.random.default_rng([self.params.seed, 1]).random(len(whole.label))[rows]
        validation = draw < self.params.validation_share
        return replace(super().drawn(whole, rows), train=~validation, validation=validation)

    def _binned(self, party: str, features: Features) -> Binned:
        monotone = self.monotone.get(party, {})
        for column in monotone:
            if column not in features:
                raise DataError(
                    f"{party}: monotone= names {column!r}, which is no column; {_hint(column, features)}"
                )
        try:
            return bin_columns(features, self.params.max_bins, self.params.min_bin_rows, monotone)
        except ValueError as error:
            raise DataError(f"{party}: monotone=: {error}") from None


@dataclass(frozen=True)
class _Fitting(_Method):
    params: GlmParams
    rules: Mapping[str, GlmSection]

    async def guest(
        self,
        hosts: list[Peer],
        features: Features,
        rows: Training,
        key: PrivateKey | None,
        machine: Machine,
        done: Progress,
    ) -> GuestGlm:
        design, matrix = self._prepared(GUEST, features, len(rows.label))
        fit = await guest_fit(
            hosts, {GUEST: matrix}, rows, self.params, key=key, machine=machine, progress=done
        )
        parties = (GUEST, *(host.name for host in hosts))
        return GuestGlm.of(parties, design, fit.coefficients[GUEST], fit)

    async def host(self, session: _Session, features: Features, rows: int, machine: Machine) -> HostGlm:
        design, matrix = self._prepared(session.name, features, rows)
        ended: list[bool] = []
        coefficients = await host_fit(
            session.guest,
            rows,
            lambda training: matrix,
            self.params,
            name=session.name,
            hosts=session.hosts,
            context=session.context,
            machine=machine,
            keep=lambda _, converged: ended.append(converged),
        )
        return HostGlm(LinearPart(design, tuple(coefficients.tolist())), ended[0])

    async def guest_scores(
        self, hosts: list[Peer], model: GuestGlm, table: _Table, places: list[Rows]
    ) -> Floats:
        own = own_scores(GUEST, model.part, table.features, table.rows)
        return await all_scores(guest_glm_score(hosts, model, table.features, own.rows, places))

    async def host_scores(
        self, guest: Peer, half: HostGlm, name: str, features: Features, rows: int
    ) -> None:
        own = own_scores(name, half.part, features, rows)
        await host_glm_score(guest, half.part, features, own.rows, own.missing)

    def _prepared(self, name: str, features: Features, rows: int) -> tuple[Design, Matrix]:
        every = np.ones(rows, np.bool_)
        section = self.rules.get(name, GlmSection())
        return prepared(name, features, every, section, self.params.alpha)


async def _train(
    guest: _Table,
    hosts: list[_Table],
    whole: Training,
    method: _Method,
    machine: Machine,
    done: Progress,
) -> _Trained:
    """`whole` is of all the guest's rows, aligned or not."""
    names, context = [host.name for host in hosts], secrets.token_bytes(16)
    pairs = [MemoryPeer.pair(GUEST, name) for name in names]
    peers: list[Peer] = [to_host for to_host, _ in pairs]

    async def guest_role() -> tuple[Rows, Any]:
        rows, key = np.arange(guest.rows), None
        if hosts:
            rows = await guest_align(peers, guest.ids, context=context)
            if method.params.encryption != "lattice":
                key = await asyncio.to_thread(generate_key, method.params)
        drawn = _checked(method.drawn(whole, rows))
        return rows, await method.guest(peers, guest.take(rows), drawn, key, machine, done)

    async def host_role(to_guest: Peer, table: _Table) -> Any:
        rows = await host_align(to_guest, table.ids, context=context, name=table.name, hosts=names)
        session = _Session(to_guest, table.name, names, context)
        return await method.host(session, table.take(rows), len(rows), machine)

    roles = [host_role(to_guest, table) for (_, to_guest), table in zip(pairs, hosts, strict=True)]
    everyone: list[Coroutine[Any, Any, Any]] = [guest_role(), *roles]
    (rows, model), *halves = await together(everyone)
    return _Trained(
        rows,
        model,
        dict(zip(names, halves, strict=True)),
        {peer.name: peer.traffic.bytes_sent + peer.traffic.bytes_received for peer in peers},
    )


async def _score(
    guest: _Table, hosts: list[_Table], method: _Method, model: Any, halves: Mapping[str, Any]
) -> Floats:
    """As each host knows other rows, each is aligned with on its own."""
    context = secrets.token_bytes(16)
    pairs = [MemoryPeer.pair(GUEST, host.name) for host in hosts]
    peers: list[Peer] = [to_host for to_host, _ in pairs]

    async def places_at(to_host: Peer) -> Rows:
        common = await guest_align([to_host], guest.ids, context=context, allow_empty=True)
        places = np.full(guest.rows, -1, np.int64)
        places[common] = np.arange(len(common))
        return places

    async def guest_role() -> Floats:
        places = await together([places_at(to_host) for to_host in peers])
        return await method.guest_scores(peers, model, guest, places)

    async def host_role(to_guest: Peer, table: _Table) -> None:
        rows = await host_align(
            to_guest, table.ids, context=context, name=table.name, hosts=[table.name], allow_empty=True
        )
        half = halves[table.name]
        await method.host_scores(to_guest, half, table.name, table.take(rows), len(rows))

    roles = [host_role(to_guest, table) for (_, to_guest), table in zip(pairs, hosts, strict=True)]
    everyone: list[Coroutine[Any, Any, Any]] = [guest_role(), *roles]
    scores, *_ = await together(everyone)
    return cast(Floats, scores)


def _checked(rows: Training) -> Training:
    """The rows, if there is something to learn from their label. Raises DataError."""
    for mask, what in ((rows.train, "train on"), (rows.validation, "stop by")):
        if mask.any() or what == "train on":
            said = f"in the {int(mask.sum()):,} aligned rows to {what}, y"
            _check_label(rows.label[mask], rows.loss, said)
    return rows


def _coefficients(part: LinearPart) -> "pd.Series[float]":
    """By column and level."""
    index = pd.MultiIndex.from_tuples(part.design.coefficients, names=["column", "level"])
    return pd.Series(part.coefficients, index, np.float64, name="coefficient")


def _validated(model: type[M], values: Mapping[str, Any], where: str = "") -> M:
    """Raises ConfigError naming the parameter."""
    try:
        return model.model_validate(dict(values))
    except ValidationError as error:
        first = error.errors()[0]
        if not first["loc"]:  # a rule over several parameters
            raise ConfigError(where + str(first["ctx"]["error"])) from None
        name = first["loc"][0]
        raise ConfigError(f"{where}{name}={values[str(name)]!r}: {first['msg']}") from None


def _run(work: Coroutine[Any, Any, T]) -> T:
    """Run in a thread with a loop of its own: a notebook's thread has one running already."""
    runner = asyncio.Runner(loop_factory=asyncio.new_event_loop)
    loop = runner.get_loop()

    def inside() -> T:
        with runner:
            return runner.run(work)

    def cancel() -> None:
        for task in asyncio.all_tasks(loop):
            task.cancel()

    with ThreadPoolExecutor(1, "vfl") as pool:
        result = pool.submit(inside)
        try:
            return result.result()
        except KeyboardInterrupt:
            with suppress(RuntimeError):  # it has ended meanwhile
                loop.call_soon_threadsafe(cancel)
            raise


# What DataFrames hold. Errors name party and column, never a value.


def _features(party: str, frame: pd.DataFrame, expect: Mapping[str, bool] | None) -> Features:
    columns: dict[str, pd.Series[Any]] = {str(name): frame[name] for name in frame.columns}
    if len(columns) < frame.shape[1]:
        raise DataError(f"{party}: two columns have the same name once written as text")
    if expect is None:
        expect = {name: _is_categorical(values.dtype) for name, values in columns.items()}
        for name, values in columns.items():
            if len(values) and values.isna().all():
                raise DataError(f"{party}: column '{name}' has no value in any row: drop it")
    for name in expect:
        if name not in columns:
            raise DataError(
                f"{party}: no column '{name}', which the model was trained on; {_hint(name, columns)}"
            )
    return {
        name: (_categories if categorical else _finite)(columns[name], f"{party}: column '{name}'")
        for name, categorical in expect.items()
    }


def _is_categorical(dtype: Any) -> bool:
    return isinstance(dtype, pd.CategoricalDtype) or bool(types.is_string_dtype(dtype))


def _categories(values: "pd.Series[Any]", what: str) -> NDArray[np.object_]:
    """Shared text objects, None where missing."""
    _no_dates(values, what)
    codes, distinct = pd.factorize(values)
    if len(distinct) > MAX_CATEGORIES:
        raise DataError(
            f"{what} has {len(distinct):,} categories, over {MAX_CATEGORIES:,}: it looks like an id, "
            "name it with id= or drop it"
        )
    # The last entry is None: a missing code of -1 finds it.
    texts: NDArray[np.object_] = np.array([*map(_category, distinct), None], dtype=object)
    return texts[codes]


def _category(value: object) -> str:
    # Whole numbers with gaps become floats in pandas: 3.0 is the category 3.
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def _finite(values: "pd.Series[Any]", what: str) -> Floats:
    found = _numbers(values, what)
    if np.isinf(found).any():
        raise DataError(f"{what} has {int(np.isinf(found).sum()):,} infinite numbers: correct them")
    return found


def _numbers(values: "pd.Series[Any]", what: str) -> Floats:
    """float64, NaN where missing, bools as 0 and 1."""
    _no_dates(values, what)
    if values.isna().all():
        return np.full(len(values), np.nan)
    plain = types.is_numeric_dtype(values.dtype) and not types.is_complex_dtype(values.dtype)
    if not plain or isinstance(values.dtype, pd.CategoricalDtype):
        raise DataError(f"{what} is of type {values.dtype}, not of numbers")
    return values.to_numpy(np.float64, na_value=np.nan)


def _no_dates(values: "pd.Series[Any]", what: str) -> None:
    dtype: Any = values.dtype
    distinct = dtype.categories if isinstance(dtype, pd.CategoricalDtype) else values
    seen = types.infer_dtype(distinct, skipna=True)
    if seen.startswith(("date", "time", "period")):
        raise DataError(
            f"{what} holds dates or times: turn it into a number, such as an age in years, or drop it"
        )


def _label(y: ArrayLike, insurer: pd.DataFrame, loss: Loss) -> Floats:
    values = _numbers(_aligned_with(insurer, y, "y"), "y")
    _no_gaps(values, "y")
    _check_label(values, loss, "y")
    return values


def _check_label(label: Floats, loss: Loss, what: str) -> None:
    try:
        loss.check(label)
    except BadLabel as error:
        raise DataError(f"{what} {error}") from None


def _without(insurer: pd.DataFrame, **given: ArrayLike | None) -> pd.DataFrame:
    """The table without the columns that are given apart: label, weight, exposure and offset are no
    features."""
    for what, values in given.items():
        if isinstance(values, pd.Series) and values.name in insurer.columns:
            column = insurer[values.name]
            if isinstance(column, pd.Series) and np.array_equal(column.to_numpy(), values.to_numpy()):
                warnings.warn(
                    f"column {values.name!r} is given as {what}: it is no feature",
                    stacklevel=3,  # who calls fit
                )
                insurer = insurer.drop(columns=[values.name])
    return insurer


def _given(values: ArrayLike, insurer: pd.DataFrame, what: str) -> Floats:
    """A finite number for every row."""
    found = _finite(_aligned_with(insurer, values, what), what)
    _no_gaps(found, what)
    return found


def _positive(values: ArrayLike | None, insurer: pd.DataFrame, what: str) -> Floats | None:
    if values is None:
        return None
    found = _given(values, insurer, what)
    if (found <= 0).any():
        raise DataError(f"{what} must be positive but is not in {int((found <= 0).sum()):,} rows")
    return found


def _aligned_with(insurer: pd.DataFrame, given: ArrayLike, what: str) -> "pd.Series[Any]":
    """One value a row, by position; a Series whose index has the rows in another order is refused."""
    if isinstance(given, pd.Series):
        values, index = given, given.index
        if not index.equals(insurer.index) and index.sort_values().equals(insurer.index.sort_values()):
            raise DataError(f"{what} has the rows in another order than the table, by its index")
    elif np.ndim(cast(Any, given)) != 1:
        raise DataError(f"{what} must have one value a row, not {np.ndim(cast(Any, given))} dimensions")
    else:
        values = pd.Series(cast(Any, given))
    if len(values) != len(insurer):
        raise DataError(f"{what} has {len(values):,} values for {len(insurer):,} rows")
    return values


def _no_gaps(values: Floats, what: str) -> None:
    gaps = int(np.isnan(values).sum())
    if gaps:
        raise DataError(f"{what} is missing in {gaps:,} row{'s' if gaps > 1 else ''}")


def _id_columns(party: str, frame: pd.DataFrame, names: list[str] | None) -> list[list[str | None]]:
    """The columns of the id as text: those named (or levels of the index), else the whole index."""
    index = frame.index
    if names is None:
        columns: list[Any] = [index.get_level_values(level) for level in range(index.nlevels)]
        return [_id_texts(column, f"{party}: the index") for column in columns]
    found = []
    for name in names:
        if name not in frame.columns and name not in index.names:
            raise DataError(f"{party}: no column '{name}' (named by id); {_hint(name, frame.columns)}")
        values: Any = frame[name] if name in frame.columns else index.get_level_values(name)
        found.append(_id_texts(values, f"{party}: id column '{name}'"))
    return found


def _id_texts(values: Any, what: str) -> list[str | None]:
    # Python's own float says no more of how few digits one of single precision had.
    single = str(values.dtype).lower() in ("float16", "float32")
    return [_id_text(value, what) for value in (values.to_numpy() if single else values.tolist())]


def _id_text(value: object, what: str) -> str | None:
    if value is None or value is pd.NA or value is pd.NaT or value != value:  # NaN
        return None
    if isinstance(value, str):
        return value
    if isinstance(value, numbers.Integral) and not isinstance(value, bool):
        return str(int(value))
    if isinstance(value, datetime.date):  # datetime and pandas' Timestamp too
        return str(value)
    if isinstance(value, float | np.floating | Decimal):  # in pandas, whole numbers with gaps are floats
        if (text := whole_text(value)) is None:
            raise DataError(
                f"{what} holds a number that is not whole, or of which a float has lost digits: write "
                "ids as text or whole numbers"
            )
        return text
    raise DataError(f"{what} holds {type(value).__name__} values: write ids as text or whole numbers")


def _only_counts(index: "pd.Index[Any]") -> bool:
    """Whether nobody chose this index."""
    return isinstance(index, pd.RangeIndex) and index.name is None and index.start == 0


def _same_columns_of_ids(tables: Sequence[_Table]) -> None:
    if len({table.id_columns for table in tables}) > 1:
        counts = ", ".join(f"{table.name} has {table.id_columns}" for table in tables)
        raise ConfigError(f"an id must have as many columns at each party: {counts}")


def _named(hosts: Tables | None) -> dict[str, pd.DataFrame]:
    hosts = dict(hosts or {})
    for name in hosts:
        if not isinstance(name, str) or not name or name == GUEST:
            raise ConfigError(f"a host needs a name, other than {GUEST!r}, which the insurer has")
    return hosts


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names) or "no hosts"


def _check_parties(what: str, by_party: Iterable[str], hosts: Iterable[str]) -> None:
    parties = [GUEST, *hosts]
    for party in by_party:
        if party not in parties:
            raise ConfigError(f"{what}= names {party!r}, which is no party; {_hint(party, parties)}")


def _hint(name: str, known: Iterable[Hashable]) -> str:
    names = [str(k) for k in known]
    near = did_you_mean(name, names)
    if near:
        return f"did you mean {near!r}?"
    return f"there {'is' if len(names) == 1 else 'are'} {', '.join(names[:20]) or 'none'}"
