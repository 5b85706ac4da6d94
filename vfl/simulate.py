"""All parties in one process, for notebooks and tests: DataFrames in, a model out.

The protocols are the real ones (alignment by private set intersection, Paillier, packing), over memory
instead of the network, so that a model trained here is the one that the parties would train apart. Only
what guards a party against others is left out: policies, certificates, a least size of intersection.

    model = vfl.SecureBoost(trees=30, depth=4)
    model.fit(insurer, y, hosts={"registry": registry, "bureau": bureau})
    model.predict_proba(new, hosts={"registry": registry, "bureau": bureau})[:, 1]

    model = vfl.SecureBoostRegressor(objective="poisson")
    model.fit(insurer, claims, hosts={"registry": registry, "bureau": bureau}, exposure=years)
"""

import asyncio
import datetime
import inspect
import numbers
import secrets
import warnings
from collections.abc import Callable, Coroutine, Hashable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Self, TypeVar, cast

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from pandas.api import types
from pydantic import ValidationError
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin
from sklearn.metrics import accuracy_score
from sklearn.utils.validation import check_is_fitted

from vfl.crypto.workers import Machine
from vfl.errors import ConfigError, DataError
from vfl.learn.binning import Features, bin_columns
from vfl.learn.losses import OBJECTIVES, BadLabel, Floats, LogisticLoss, Loss, Objective, loss_of
from vfl.learn.metrics import regression_metrics
from vfl.learn.params import BoostParams
from vfl.net.peer import MemoryPeer, Peer, together
from vfl.party.config import DataSection, did_you_mean
from vfl.party.ids import normalise as normalise_ids
from vfl.party.table import MAX_CATEGORIES
from vfl.protocols.boost import (
    GuestModel,
    HostModel,
    Training,
    TreeDone,
    guest_train,
    host_train,
)
from vfl.protocols.key import generate_key
from vfl.protocols.psi import guest_align, host_align
from vfl.protocols.scoring import guest_score, host_score

GUEST = "guest"  # the name of the party with the labels

Tables = Mapping[str, pd.DataFrame]
IdColumns = str | Sequence[str] | None
Rows = NDArray[np.int64]
T = TypeVar("T")

_NORMALISE: tuple[str, ...] = DataSection.model_fields["normalise"].default


class _Federation(BaseEstimator):  # type: ignore[misc]
    """Gradient-boosted trees over the columns of several parties.

    Source: SecureBoost, Cheng et al., arXiv 1901.08755 (`vfl.protocols.boost`).

    Columns of a DataFrame: numbers and bools are numeric, text, objects and categories are
    categorical, dates are refused. None and NaN are missing. Ids are never features.

    Attributes after fit:

    - n_aligned_, aligned_: number and positions of the guest's rows that all parties know, int64
    - model_, halves_: the guest's half (GuestModel), the hosts' by name (HostModel)
    - feature_importances_: DataFrame (party, column, splits, gain), most gain first
    - traffic_: bytes between guest and host during fit, both ways together, by host's name
    - train_log_: losses (mean) and seconds after each tree (TreeDone)

    Parameters:

    - id: column or columns that name a row, the same for all parties, or by party in a dict (the guest
      is "guest"); None takes the index
    - normalise: steps that make the same id equal at all parties (`vfl.party.ids`)
    - workers: processes of each party for encrypted arithmetic
    """

    aligned_: Rows
    model_: GuestModel
    halves_: dict[str, HostModel]
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
        for name in params:
            if name not in BoostParams.model_fields:
                known = [*inspect.signature(type(self).__init__).parameters][1:]
                raise TypeError(f"{type(self).__name__} has no parameter {name!r}; {_hint(name, known)}")
        self.id = id
        self.normalise = normalise
        self.workers = workers
        for name, field in BoostParams.model_fields.items():
            setattr(self, name, params.get(name, field.default))

    def _fit(
        self,
        insurer: pd.DataFrame,
        hosts: Tables | None,
        label: Floats,
        loss: Loss,
        sample_weight: ArrayLike | None,
        offset: Floats | None,
        progress: Callable[[TreeDone], None] | None,
    ) -> None:
        params = self._params()
        workers = self.workers
        if not isinstance(workers, numbers.Integral) or isinstance(workers, bool) or workers < 1:
            raise ConfigError("workers must be a whole number of at least 1")
        hosts = _named(hosts)
        guest = self._table(GUEST, insurer, None, with_ids=bool(hosts))
        others = []
        for name, frame in hosts.items():
            others.append(self._table(name, frame, None))
        _same_columns_of_ids([guest, *others] if others else [])
        weight = _positive(sample_weight, insurer, "sample_weight")
        weight = np.ones(len(insurer)) if weight is None else weight
        every = np.ones(len(insurer), np.bool_)
        rows = Training(label, weight, every, ~every, loss, offset)
        log: list[TreeDone] = []

        def done(tree: TreeDone) -> None:
            log.append(tree)
            if progress:
                progress(tree)

        trained = _run(_train(guest, others, rows, params, int(workers), done))
        self.aligned_ = trained.rows
        self.n_aligned_ = len(trained.rows)
        self.model_ = trained.model
        self.halves_ = trained.halves
        self.feature_importances_ = pd.DataFrame(
            trained.model.importance(), columns=["party", "column", "splits", "gain"]
        )
        self.traffic_ = trained.traffic
        self.train_log_ = log
        self._categorical = {
            table.name: {name: values.dtype == object for name, values in table.features.items()}
            for table in (guest, *others)
        }

    def decision_function(self, insurer: pd.DataFrame, hosts: Tables | None = None) -> Floats:
        """The score of every row, shape (rows,), in the rows' order: log-odds, the logarithm of the
        mean or the mean, by the loss's link, without any offset.

        A row that a host does not know goes where that host's missing values go. `hosts` must have
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
        return _run(_score(guest, others, self.model_, self.halves_))

    def _params(self) -> BoostParams:
        values = {name: getattr(self, name) for name in BoostParams.model_fields}
        # A parameter search hands over NumPy's numbers.
        plain = {k: v.item() if isinstance(v, np.generic) else v for k, v in values.items()}
        try:
            return BoostParams.model_validate(plain)
        except ValidationError as error:
            first = error.errors()[0]
            if not first["loc"]:  # a rule over several parameters
                raise ConfigError(str(first["ctx"]["error"])) from None
            name = first["loc"][0]
            raise ConfigError(f"{name}={plain[str(name)]!r}: {first['msg']}") from None

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
        found = normalise_ids(columns, self.normalise, "first", party, empties="drop")
        for count, what in ((found.empties, "no id"), (found.duplicates, "the id of an earlier row")):
            if count:
                left_out = np.setdiff1d(np.arange(len(columns[0])), found.rows)
                shown = ", ".join(map(str, left_out[:5].tolist()))
                raise DataError(
                    f"{party}: {count:,} row{'s have' if count > 1 else ' has'} {what} once normalised "
                    f"(among positions {shown}{', ...' if len(left_out) > 5 else ''}): drop or mend them"
                )
        return found.ids


class SecureBoost(ClassifierMixin, _Federation):  # type: ignore[misc]
    """A classifier for a label of 0 and 1; after fit, classes_ is array([0, 1])."""

    def fit(
        self,
        insurer: pd.DataFrame,
        y: ArrayLike,
        hosts: Tables | None = None,
        sample_weight: ArrayLike | None = None,
        progress: Callable[[TreeDone], None] | None = None,
    ) -> Self:
        """Align the rows, train on those that all parties know, and keep every half.

        insurer: the guest's columns, shape (rows, columns). y: its label, 0 or 1, shape (rows,).
        hosts: the other parties' tables by name, rows in any order; without them the guest trains
        alone on all its rows. sample_weight: positive, shape (rows,). progress: called after each
        tree, from another thread.

        Raises ConfigError for parameters out of range, DataError for tables that cannot be used.
        """
        loss = LogisticLoss()
        self._fit(insurer, hosts, _label(y, insurer, loss), loss, sample_weight, None, progress)
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


class SecureBoostRegressor(RegressorMixin, _Federation):  # type: ignore[misc]
    """A regressor for counts, amounts and any numbers.

    - objective: "squared"; "poisson" for counts, such as claim frequency with an exposure; "gamma" for
      amounts above zero; "tweedie" for amounts of which many are zero
    - with_offset_: whether it was trained with an offset
    """

    def __init__(self, *, objective: Objective = "squared", **others: Any) -> None:
        """Raises TypeError for a parameter that does not exist; values are checked by fit."""
        super().__init__(**others)
        self.objective = objective

    def fit(
        self,
        insurer: pd.DataFrame,
        y: ArrayLike,
        hosts: Tables | None = None,
        sample_weight: ArrayLike | None = None,
        exposure: ArrayLike | None = None,
        offset: ArrayLike | None = None,
        progress: Callable[[TreeDone], None] | None = None,
    ) -> Self:
        """Align the rows, train on those that all parties know, and keep every half.

        insurer: the guest's columns, shape (rows, columns). y: its label, shape (rows,). hosts: the
        other parties' tables by name, rows in any order; without them the guest trains alone on all
        its rows. sample_weight: positive, shape (rows,). exposure: time at risk of each row, positive,
        for objective "poisson" alone. offset: added to each row's score, on the scale of the link.
        progress: called after each tree, from another thread.

        Raises ConfigError for parameters out of range, DataError for tables that cannot be used.
        """
        loss = self._loss()
        added = self._offset(insurer, exposure, offset)
        self._fit(insurer, hosts, _label(y, insurer, loss), loss, sample_weight, added, progress)
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
        if self.objective not in OBJECTIVES or self.objective == "binary":
            names = ", ".join(name for name in OBJECTIVES if name != "binary")
            raise ConfigError(f"objective={self.objective!r}: there are {names}")
        return loss_of(self.objective, self._params().tweedie_power)

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


def _completed(
    constructor: Callable[..., None], others: Iterable[inspect.Parameter]
) -> inspect.Signature:
    """The signature of an __init__ with the `others` spelt out in place of its last parameter."""
    own = list(inspect.signature(constructor).parameters.values())[:-1]
    return inspect.Signature([*own, *others])


# scikit-learn reads parameters and defaults from signatures, help() and notebooks too.
_Federation.__init__.__signature__ = _completed(  # type: ignore[attr-defined]
    _Federation.__init__,
    (
        inspect.Parameter(
            name, inspect.Parameter.KEYWORD_ONLY, default=field.default, annotation=field.annotation
        )
        for name, field in BoostParams.model_fields.items()
    ),
)
SecureBoostRegressor.__init__.__signature__ = _completed(  # type: ignore[attr-defined]
    SecureBoostRegressor.__init__,
    list(inspect.signature(_Federation.__init__).parameters.values())[1:],
)
_PARAMETERS = "".join(f"\n    - {name}: {f.description}" for name, f in BoostParams.model_fields.items())
for _estimator in (SecureBoost, SecureBoostRegressor):
    _texts = (_estimator.__doc__ or "", _Federation.__doc__ or "")
    _estimator.__doc__ = "\n\n    ".join(text.strip() for text in _texts) + _PARAMETERS


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
    model: GuestModel
    halves: dict[str, HostModel]
    traffic: dict[str, int]


async def _train(
    guest: _Table,
    hosts: list[_Table],
    whole: Training,
    params: BoostParams,
    workers: int,
    done: Callable[[TreeDone], None],
) -> _Trained:
    """`whole` is of all the guest's rows, aligned or not."""
    names, context = [host.name for host in hosts], secrets.token_bytes(16)
    pairs = [MemoryPeer.pair(GUEST, name) for name in names]
    peers: list[Peer] = [to_host for to_host, _ in pairs]

    async def guest_role() -> tuple[Rows, GuestModel]:
        rows, key = np.arange(guest.rows), None
        if hosts:
            rows = await guest_align(peers, guest.ids, context=context)
            key = await asyncio.to_thread(generate_key, params)
        binned = bin_columns(guest.take(rows), params.max_bins, params.min_bin_rows)
        drawn = _training(whole, rows, params)
        model, _ = await guest_train(
            peers, {GUEST: binned}, drawn, params, key=key, machine=Machine(workers), progress=done
        )
        return rows, model

    async def host_role(to_guest: Peer, table: _Table) -> HostModel:
        rows = await host_align(to_guest, table.ids, context=context, name=table.name, hosts=names)
        binned = bin_columns(table.take(rows), params.max_bins, params.min_bin_rows)
        return await host_train(
            to_guest, binned, params, name=table.name, shown=str, machine=Machine(workers)
        )

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
    guest: _Table, hosts: list[_Table], model: GuestModel, halves: Mapping[str, HostModel]
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
        return await guest_score(peers, model, guest.features, places, guest.rows)

    async def host_role(to_guest: Peer, table: _Table) -> None:
        rows = await host_align(
            to_guest, table.ids, context=context, name=table.name, hosts=[table.name], allow_empty=True
        )
        await host_score(to_guest, halves[table.name], table.take(rows), len(rows))

    roles = [host_role(to_guest, table) for (_, to_guest), table in zip(pairs, hosts, strict=True)]
    everyone: list[Coroutine[Any, Any, Any]] = [guest_role(), *roles]
    scores, *_ = await together(everyone)
    return cast(Floats, scores)


def _training(whole: Training, rows: Rows, params: BoostParams) -> Training:
    """The aligned rows, those that decide when to stop drawn by the seed as in a job."""
    label, weight = whole.label[rows], whole.weight[rows]
    offset = None if whole.offset is None else whole.offset[rows]
    draw = np.random.default_rng([params.seed, 1]).random(len(whole.label))[rows]
    validation = draw < params.validation_share
    for mask, what in ((~validation, "train on"), (validation, "stop by")):
        if mask.any() or what == "train on":
            _check_label(
                label[mask], whole.loss, f"in the {int(mask.sum()):,} aligned rows to {what}, y"
            )
    return Training(label, weight, ~validation, validation, whole.loss, offset)


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
    return [_id_text(value, what) for value in values.tolist()]


def _id_text(value: object, what: str) -> str | None:
    if value is None or value is pd.NA or value is pd.NaT or value != value:  # NaN
        return None
    if isinstance(value, str):
        return value
    if isinstance(value, numbers.Integral) and not isinstance(value, bool):
        return str(int(value))
    if isinstance(value, datetime.date):  # datetime and pandas' Timestamp too
        return str(value)
    raise DataError(
        f"{what} holds {type(value).__name__} values: leading zeros and exact digits may be lost, so "
        "write ids as text or whole numbers"
    )


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


def _hint(name: str, known: Iterable[Hashable]) -> str:
    names = [str(k) for k in known]
    near = did_you_mean(name, names)
    if near:
        return f"did you mean {near!r}?"
    return f"there {'is' if len(names) == 1 else 'are'} {', '.join(names[:20]) or 'none'}"
