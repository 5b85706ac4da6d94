"""All parties in one process, for notebooks and tests: DataFrames in, a model out.

The protocols are the real ones (alignment by private set intersection, Paillier, packing), over memory
instead of the network, so that a model trained here is the one that the parties would train apart. Only
what guards a party against others is left out: policies, certificates, a least size of intersection.

    model = vfl.SecureBoost(trees=30, depth=4)
    model.fit(insurer, y, hosts={"registry": registry, "bureau": bureau})
    model.predict_proba(new, hosts={"registry": registry, "bureau": bureau})[:, 1]
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
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.metrics import accuracy_score
from sklearn.utils.validation import check_is_fitted

from vfl.errors import ConfigError, DataError
from vfl.learn.binning import Features, bin_columns
from vfl.learn.losses import Floats, LogisticLoss
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
    generate_key,
    guest_train,
    host_train,
)
from vfl.protocols.psi import guest_align, host_align
from vfl.protocols.scoring import guest_score, host_score

GUEST = "guest"  # the name of the party with the labels

Tables = Mapping[str, pd.DataFrame]
IdColumns = str | Sequence[str] | None
Rows = NDArray[np.int64]
T = TypeVar("T")

_NORMALISE: tuple[str, ...] = DataSection.model_fields["normalise"].default


class SecureBoost(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """Gradient-boosted trees over the columns of several parties, for a label of 0 and 1.

    Source: SecureBoost, Cheng et al., arXiv 1901.08755 (`vfl.protocols.boost`).

    Columns of a DataFrame: numbers and bools are numeric, text, objects and categories are
    categorical, dates are refused. None and NaN are missing. Ids are never features.

    Attributes after fit:

    - classes_: array([0, 1])
    - n_aligned_, aligned_: number and positions of the guest's rows that all parties know, int64
    - model_, halves_: the guest's half (GuestModel), the hosts' by name (HostModel)
    - feature_importances_: DataFrame (party, column, splits, gain), most gain first
    - traffic_: bytes between guest and host during fit, both ways together, by host's name
    - train_log_: losses (mean) and seconds after each tree (TreeDone)

    Parameters:

    - id: column or columns that name a row, the same for all parties, or by party in a dict (the guest
      is "guest"); None takes the index
    - normalise: steps that make the same id equal at all parties (`vfl.party.ids`)
    """

    def __init__(
        self,
        *,
        id: IdColumns | Mapping[str, IdColumns] = None,  # noqa: A002
        normalise: Sequence[str] | Sequence[Sequence[str]] = _NORMALISE,
        **params: Any,
    ) -> None:
        """Raises TypeError for a parameter that does not exist; values are checked by fit."""
        for name in params:
            if name not in BoostParams.model_fields:
                raise TypeError(f"SecureBoost has no parameter {name!r}; {_hint(name, _PARAMETERS)}")
        self.id = id
        self.normalise = normalise
        for name, field in BoostParams.model_fields.items():
            setattr(self, name, params.get(name, field.default))

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
        params = self._params()
        hosts = _named(hosts)
        guest = self._table(GUEST, insurer, None, with_ids=bool(hosts))
        others = []
        for name, frame in hosts.items():
            others.append(self._table(name, frame, None))
        _same_columns_of_ids([guest, *others] if others else [])
        label = _label(y, insurer)
        weight = _weight(sample_weight, insurer)
        log: list[TreeDone] = []

        def done(tree: TreeDone) -> None:
            log.append(tree)
            if progress:
                progress(tree)

        trained = _run(_train(guest, others, label, weight, params, done))
        self.classes_ = np.array([0, 1])
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
        return self

    def decision_function(self, insurer: pd.DataFrame, hosts: Tables | None = None) -> Floats:
        """Log-odds of every row, shape (rows,), in the rows' order.

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

    def predict_proba(self, insurer: pd.DataFrame, hosts: Tables | None = None) -> Floats:
        """Probabilities of 0 and of 1, shape (rows, 2); rows and errors as in decision_function."""
        one = LogisticLoss.predict(self.decision_function(insurer, hosts))
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

    def _params(self) -> BoostParams:
        values = {name: getattr(self, name) for name in BoostParams.model_fields}
        # A parameter search hands over NumPy's numbers.
        plain = {k: v.item() if isinstance(v, np.generic) else v for k, v in values.items()}
        try:
            return BoostParams.model_validate(plain)
        except ValidationError as error:
            first = error.errors()[0]
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
                stacklevel=3,  # who calls fit
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


def _signature() -> inspect.Signature:
    """What `SecureBoost(...)` takes, with the defaults of BoostParams."""
    own = list(inspect.signature(SecureBoost.__init__).parameters.values())[:-1]
    return inspect.Signature(
        own
        + [
            inspect.Parameter(
                name, inspect.Parameter.KEYWORD_ONLY, default=field.default, annotation=field.annotation
            )
            for name, field in BoostParams.model_fields.items()
        ]
    )


_PARAMETERS = ("id", "normalise", *BoostParams.model_fields)
# scikit-learn reads parameters and defaults from here, help() and notebooks too.
SecureBoost.__init__.__signature__ = _signature()  # type: ignore[attr-defined]
SecureBoost.__doc__ = (SecureBoost.__doc__ or "").rstrip() + "".join(
    f"\n    - {name}: {field.description}" for name, field in BoostParams.model_fields.items()
)


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
    label: Floats,
    weight: Floats,
    params: BoostParams,
    done: Callable[[TreeDone], None],
) -> _Trained:
    names, context = [host.name for host in hosts], secrets.token_bytes(16)
    pairs = [MemoryPeer.pair(GUEST, name) for name in names]
    peers: list[Peer] = [to_host for to_host, _ in pairs]

    async def guest_role() -> tuple[Rows, GuestModel]:
        rows, key = np.arange(guest.rows), None
        if hosts:
            rows = await guest_align(peers, guest.ids, context=context)
            key = await asyncio.to_thread(generate_key, params)
        binned = bin_columns(guest.take(rows), params.max_bins, params.min_bin_rows)
        drawn = _training(label, weight, rows, params)
        model, _ = await guest_train(peers, {GUEST: binned}, drawn, params, key=key, progress=done)
        return rows, model

    async def host_role(to_guest: Peer, table: _Table) -> HostModel:
        rows = await host_align(to_guest, table.ids, context=context, name=table.name, hosts=names)
        binned = bin_columns(table.take(rows), params.max_bins, params.min_bin_rows)
        return await host_train(to_guest, binned, params, name=table.name, shown=str)

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


def _training(label: Floats, weight: Floats, rows: Rows, params: BoostParams) -> Training:
    """The aligned rows, those that decide when to stop drawn by the seed as in a job."""
    draw = np.random.default_rng([params.seed, 1]).random(len(label))[rows]
    validation = draw < params.validation_share
    for mask, what in ((~validation, "train on"), (validation, "stop by")):
        if (mask.any() or what == "train on") and len(np.unique(label[rows][mask])) < 2:
            raise DataError(
                f"the {int(mask.sum()):,} aligned rows to {what} have one class of the label only"
            )
    return Training(label[rows], weight[rows], ~validation, validation)


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


def _label(y: ArrayLike, insurer: pd.DataFrame) -> Floats:
    values = _aligned_with(insurer, y, "y")
    found = _numbers(values, "y")
    _no_gaps(found, "y")
    if not np.isin(found, (0, 1)).all():
        raise DataError(f"y must be 0 or 1 but has {len(np.unique(found))} distinct values")
    if len(np.unique(found)) < 2:
        raise DataError("y has only one class: a model needs rows of both")
    return found


def _weight(weight: ArrayLike | None, insurer: pd.DataFrame) -> Floats:
    if weight is None:
        return np.ones(len(insurer))
    found = _finite(_aligned_with(insurer, weight, "sample_weight"), "sample_weight")
    _no_gaps(found, "sample_weight")
    if (found <= 0).any():
        raise DataError(f"sample_weight must be positive but is not in {int((found <= 0).sum()):,} rows")
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
