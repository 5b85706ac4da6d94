"""Fitted estimators as files: JSON with a digest, as the halves of models that parties keep.

A file holds the parameters and all halves of the model, and no table: neither that of a host that was
given to the constructor nor positions of rows. Floats come back bit for bit.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Generic, Literal, TypeVar, cast

import msgspec
import numpy as np
from numpy.typing import NDArray

from vfl import __version__
from vfl.errors import DataError, InputError, ModelError
from vfl.estimators.federation import Federation
from vfl.estimators.learner import Learner
from vfl.estimators.linear import FederatedGLM, FederatedLogisticRegression
from vfl.estimators.parameters import plain_value
from vfl.estimators.pool import Pool, rows_by_party
from vfl.estimators.pooled_linear import PooledGLM, PooledLogisticRegression
from vfl.estimators.pooled_trees import PooledBoost, PooledBoostRegressor
from vfl.estimators.trees import SecureBoost, SecureBoostRegressor
from vfl.learn.levels import Levels
from vfl.learn.losses import Family, Objective, loss_of
from vfl.models.kind import AnyGuestModel, AnyHostModel, TrainingStep
from vfl.models.kinds import kind_of_model
from vfl.party.documents import Body, body_of, canonical_json, document, read_document
from vfl.party.files import replacing
from vfl.protocols.linear.fit import IterationDone
from vfl.protocols.linear.scoring import GuestGlm, HostGlm
from vfl.protocols.trees.grower import TreeDone
from vfl.protocols.trees.model import GuestModel, HostModel

G = TypeVar("G", bound=AnyGuestModel, covariant=True)
H = TypeVar("H", bound=AnyHostModel, covariant=True)
S = TypeVar("S", bound=TrainingStep, covariant=True)
E = TypeVar("E", bound=Learner)

FORMAT, VERSION = "vfl/estimator", 1


@dataclass(frozen=True)
class _Classes:
    """Two classes as NumPy has them: bools, whole numbers, numbers or text."""

    kind: Literal["bool", "int", "float", "text"]
    values: tuple[bool | int | float | str, bool | int | float | str]

    @classmethod
    def of(cls, classes: NDArray[np.generic]) -> "_Classes":
        kinds: Mapping[str, Literal["bool", "int", "float"]] = {
            "b": "bool",
            "i": "int",
            "u": "int",
            "f": "float",
        }
        first, second = classes.tolist()
        return cls(kinds.get(classes.dtype.kind, "text"), (first, second))

    @property
    def array(self) -> NDArray[np.generic]:
        dtype = {"bool": np.bool_, "int": np.int64, "float": np.float64, "text": object}[self.kind]
        return np.array(self.values, dtype)


@dataclass(frozen=True)
class _Saved(Generic[G, H, S]):
    """A fitted estimator."""

    vfl: str  # the version that wrote it
    estimator: str
    parameters: dict[str, object]
    objective: Objective | Family
    tweedie_power: float
    classes: _Classes | None
    with_offset: bool
    columns: dict[str, list[str]]  # by party, of the tables of the training
    named: dict[str, bool]
    categorical: dict[str, dict[str, bool]]
    model: G
    halves: Mapping[str, H]
    aligned: int
    traffic: dict[str, int] | None
    log: Sequence[S]
    levels: dict[str, dict[str, Levels]] = field(default_factory=dict)
    """Of the rows that trained, by party and categorical column; of no party in files before there were
    any."""
    parties: dict[str, int] = field(default_factory=dict)
    """Of a model over rows: how many of each party's trained it."""


_Trees = _Saved[GuestModel, HostModel, TreeDone]
_Linear = _Saved[GuestGlm, HostGlm, IterationDone]
_AnySaved = _Saved[AnyGuestModel, AnyHostModel, TrainingStep]
_KINDS: Mapping[type[Learner], type[_Trees] | type[_Linear]] = {
    SecureBoost: _Trees,
    SecureBoostRegressor: _Trees,
    FederatedGLM: _Linear,
    FederatedLogisticRegression: _Linear,
    PooledBoost: _Trees,
    PooledBoostRegressor: _Trees,
    PooledGLM: _Linear,
    PooledLogisticRegression: _Linear,
}


def write(estimator: Learner, path: object) -> None:
    """Write a fitted estimator. Raises DataError when the file cannot be written."""
    loss, losses = estimator._loss, kind_of_model(estimator.model_).losses
    classes = getattr(estimator, "classes_", None)
    halves: Mapping[str, AnyHostModel] = {}
    parties, rows = dict[str, int](), 0
    if isinstance(estimator, Federation):
        halves, rows = estimator.halves_, estimator.n_aligned_
    elif isinstance(estimator, Pool):
        parties = {str(name): int(count) for name, count in estimator.parties_.items()}
        rows = sum(parties.values())
    saved: _AnySaved = _Saved(
        vfl=__version__,
        estimator=_kind_of(estimator).__name__,
        parameters=_parameters_of(estimator),
        objective=cast(
            Objective | Family, next(name for name, of in losses.items() if of is type(loss))
        ),
        tweedie_power=getattr(loss, "power", None) or 1.5,
        classes=None if classes is None else _Classes.of(classes),
        with_offset=getattr(estimator, "with_offset_", False),
        columns=estimator._columns,
        named=estimator._named,
        categorical=estimator._categorical,
        model=estimator.model_,
        halves=halves,
        aligned=rows,
        traffic=estimator.traffic_,
        log=estimator.train_log_,
        levels=estimator._levels,
        parties=parties,
    )
    try:
        body = canonical_json(msgspec.to_builtins(saved, str_keys=True))
    except (TypeError, ValueError) as error:
        raise DataError(f"the model cannot be written: {error}") from None
    with replacing(_as_path(path)) as file:
        file.write(document(FORMAT, VERSION, body))


def load(path: object) -> Learner:
    """A model that `save` wrote, of whichever estimator; it predicts bit for bit the same.

    Of several parties' columns: its hosts= are None, give the hosts' tables when it predicts, or set the
    parameter. Raises ModelError for a file that is missing, damaged or of another kind.
    """
    return read(path, Learner)


def read(path: object, kind: type[E]) -> E:
    """`load` for an estimator of this kind."""
    where = _as_path(path)
    body = _body_of(where)
    known = {one.__name__: one for one in _KINDS}
    recorded = known.get(str(body.get("estimator")))
    if recorded is None:
        raise ModelError(
            f"{where} is of an estimator that this version of vfl does not know: update vfl"
        )
    if not issubclass(kind, recorded) and not issubclass(recorded, kind):
        raise ModelError(f"{where} holds a {recorded.__name__}, where a {kind.__name__} is due")
    try:
        saved: _AnySaved = msgspec.convert(body, _KINDS[recorded], str_keys=True)
        _check(saved, recorded)
        loss = loss_of(saved.objective, saved.tweedie_power)
    except (msgspec.ValidationError, ValueError, KeyError) as error:
        raise ModelError(f"{where} is damaged: {error}") from None
    estimator = (kind if issubclass(kind, recorded) else recorded)(**saved.parameters)
    _restore(estimator, saved)
    estimator._loss = loss
    estimator._publish()
    return cast(E, estimator)


def _restore(estimator: Learner, saved: _AnySaved) -> None:
    own = saved.columns[estimator._OWN]
    estimator.model_ = saved.model
    if isinstance(estimator, Federation):
        estimator.halves_ = {name: saved.halves[name] for name in saved.model.parties[1:]}
        estimator.n_aligned_ = saved.aligned
    elif isinstance(estimator, Pool):
        estimator.parties_ = rows_by_party(saved.parties)
    estimator.traffic_, estimator.train_log_ = saved.traffic, [*saved.log]
    estimator._columns, estimator._named = saved.columns, saved.named
    estimator._categorical, estimator._levels = saved.categorical, saved.levels
    estimator.n_features_in_ = len(own)
    if saved.named[estimator._OWN]:
        estimator.feature_names_in_ = np.array(own, dtype=object)
    if saved.classes is None:
        estimator.with_offset_ = saved.with_offset
    else:
        estimator.classes_ = saved.classes.array


def _kind_of(estimator: Learner) -> type[Learner]:
    return next(kind for kind in _KINDS if isinstance(estimator, kind))


# Parameters.


def _parameters_of(estimator: Learner) -> dict[str, object]:
    """All but the hosts' tables, and generators, which have no value to keep."""
    parameters = {}
    for name, value in estimator.get_params(deep=False).items():
        if name != "hosts":
            generator = isinstance(value, np.random.RandomState | np.random.Generator)
            parameters[name] = None if generator else _of_json(value)
    return parameters


def _of_json(value: object) -> object:
    value = plain_value(value)
    if isinstance(value, Mapping):
        return {str(key): _of_json(one) for key, one in value.items()}
    if isinstance(value, list | tuple | np.ndarray):
        return [_of_json(one) for one in value]
    return value


# Checks.


def _check(saved: _AnySaved, kind: type[Learner]) -> None:
    """Raises ValueError or KeyError for what no fit could have made."""
    model, halves = saved.model, saved.halves
    parameters, known = saved.parameters, {*kind().get_params(deep=False)} - {"hosts"}
    if "guest_trees" in known and "first_tree" in parameters:  # as versions before guest_trees wrote
        parameters["guest_trees"] = int(parameters.pop("first_tree") == "guest")
    if not set(saved.parameters) <= known:
        raise ValueError("it has parameters that the estimator lacks")
    if "normalise" in parameters and isinstance(parameters["normalise"], list):
        steps = parameters["normalise"]
        parameters["normalise"] = tuple(tuple(s) if isinstance(s, list) else s for s in steps)
    parties = list(model.parties)
    by_party: list[Mapping[str, object]] = [saved.columns, saved.named, saved.categorical]
    if saved.levels:
        by_party.append(saved.levels)
    if parties[:1] != [kind._OWN] or set(halves) != set(parties[1:]):
        raise ValueError("it lacks the half of a party")
    if issubclass(kind, Pool) and (halves or not saved.parties or min(saved.parties.values()) < 1):
        raise ValueError("it does not have the rows of every party")
    if any(set(one) != set(parties) for one in by_party):
        raise ValueError("it does not have the columns of every party")
    if (saved.classes is None) == hasattr(kind, "predict_proba"):
        raise ValueError("its classes are not those of its kind")
    if saved.objective not in kind_of_model(model).losses:
        raise ValueError("it has no objective of its kind")
    for party, levels in saved.levels.items():
        if not all(saved.categorical[party][column] for column in levels):
            raise ValueError("it has levels of a numeric column")
    others = [halves[name] for name in parties[1:]]
    kind_of_model(model).check_half(model, others)
    for party, half in zip(parties, [model, *others], strict=True):
        for column, categorical in kind_of_model(half).uses(half):
            if saved.categorical[party][column] != categorical:
                raise ValueError("a column is categorical in one place and numeric in another")


# Files.


def _as_path(path: object) -> Path:
    if not isinstance(path, str | os.PathLike):
        raise InputError(f"a path is due, not {type(path).__name__}")
    return Path(path)


def _body_of(path: Path) -> Body:
    try:
        read = read_document(path)
    except FileNotFoundError:
        raise ModelError(f"no file {path}") from None
    if not isinstance(read, dict) or read.get("format") != FORMAT:
        raise ModelError(f"{path} was not written by save")
    return body_of(read, VERSION, path)
