"""Fitted estimators as files: JSON with a digest, as the halves of models that parties keep.

A file holds the parameters and all halves of the model, and no table: neither that of a host that was
given to the constructor nor positions of rows. Floats come back bit for bit.
"""

import os
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass, field
from pathlib import Path
from typing import Generic, Literal, TypeVar

import msgspec
import numpy as np
from numpy.typing import NDArray

from vfl.errors import DataError, InputError, ModelError
from vfl.learn.levels import Levels
from vfl.learn.losses import Family, Loss, Objective, loss_of
from vfl.models.inference import shorten
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

FORMAT, VERSION = "vfl/estimator", 1


@dataclass(frozen=True)
class Classes:
    """Classes as NumPy has them: bools, whole numbers, numbers or text."""

    kind: Literal["bool", "int", "float", "text"]
    values: tuple[bool | int | float | str, ...]

    @classmethod
    def of(cls, classes: NDArray[np.generic]) -> "Classes":
        kinds: Mapping[str, Literal["bool", "int", "float"]] = {
            "b": "bool",
            "i": "int",
            "u": "int",
            "f": "float",
        }
        return cls(kinds.get(classes.dtype.kind, "text"), tuple(classes.tolist()))

    @property
    def array(self) -> NDArray[np.generic]:
        dtype = {"bool": np.bool_, "int": np.int64, "float": np.float64, "text": object}[self.kind]
        return np.array(self.values, dtype)


@dataclass(frozen=True)
class Saved(Generic[G, H, S]):
    """A fitted estimator."""

    vfl: str  # the version that wrote it
    estimator: str
    parameters: dict[str, object]
    objective: Objective | Family
    tweedie_power: float
    classes: Classes | None
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
    theta: float = 1.0  # of a negative binomial model
    parties: dict[str, int] = field(default_factory=dict)
    """Of a model over rows: how many of each party's trained it."""


SavedTrees = Saved[GuestModel, HostModel, TreeDone]
SavedLinear = Saved[GuestGlm, HostGlm, IterationDone]
AnySaved = Saved[AnyGuestModel, AnyHostModel, TrainingStep]


@dataclass(frozen=True)
class Form:
    """What a file of one estimator holds."""

    holds: type[SavedTrees] | type[SavedLinear]
    parameters: Set[str]
    guest: str  # whose model the first half is
    over_rows: bool
    of_classes: bool


def write(saved: AnySaved, path: object) -> None:
    """Write a fitted estimator. Raises DataError when it cannot be written."""
    try:
        found = msgspec.to_builtins(saved, str_keys=True)
        if isinstance(saved.model, GuestModel):
            kind_of_model(saved.model).shorten_document(found["model"])
        for half in (found["model"], *found["halves"].values()):
            shorten(half)
        body = canonical_json(found)
    except (TypeError, ValueError) as error:
        raise DataError(f"the model cannot be written: {error}") from None
    with replacing(_as_path(path)) as file:
        file.write(document(FORMAT, VERSION, body))


def read(path: object, form_of: Callable[[str], Form | None]) -> tuple[AnySaved, Loss]:
    """What `write` wrote, and the loss of the model.

    form_of: the form of an estimator's name, None for an unknown one; may raise VflError for one that
    is not due, in words that follow the path.

    Raises ModelError for a file that is missing, damaged or of another kind.
    """
    where = _as_path(path)
    body = _body_of(where)
    try:
        form = form_of(str(body.get("estimator")))
    except ModelError as error:
        raise ModelError(f"{where} {error}") from None
    if form is None:
        raise ModelError(
            f"{where} is of an estimator that this version of vfl does not know: update vfl"
        )
    try:
        saved: AnySaved = msgspec.convert(body, form.holds, str_keys=True)
        _check(saved, form)
        quantile = saved.parameters.get("quantile")
        known = quantile if isinstance(quantile, float) else None
        classes = _classes_in(saved) or None
        return saved, loss_of(saved.objective, saved.tweedie_power, saved.theta, known, classes)
    except (msgspec.ValidationError, ValueError, KeyError) as error:
        raise ModelError(f"{where} is damaged: {error}") from None


# Checks.


def _check(saved: AnySaved, form: Form) -> None:
    """Raises ValueError or KeyError for what no fit could have made."""
    model, halves, parameters = saved.model, saved.halves, saved.parameters
    if (
        "guest_trees" in form.parameters and "first_tree" in parameters
    ):  # as versions before guest_trees wrote
        parameters["guest_trees"] = int(parameters.pop("first_tree") == "guest")
    if not set(parameters) <= form.parameters:
        raise ValueError("it has parameters that the estimator lacks")
    if "normalise" in parameters and isinstance(parameters["normalise"], list):
        steps = parameters["normalise"]
        parameters["normalise"] = tuple(tuple(s) if isinstance(s, list) else s for s in steps)
    alphas = parameters.get("alphas")
    if isinstance(alphas, list):
        parameters["alphas"] = tuple(alphas)
    parties = list(model.parties)
    by_party: list[Mapping[str, object]] = [saved.columns, saved.named, saved.categorical]
    if saved.levels:
        by_party.append(saved.levels)
    if parties[:1] != [form.guest] or set(halves) != set(parties[1:]):
        raise ValueError("it lacks the half of a party")
    if form.over_rows and (halves or not saved.parties or min(saved.parties.values()) < 1):
        raise ValueError("it does not have the rows of every party")
    if any(set(one) != set(parties) for one in by_party):
        raise ValueError("it does not have the columns of every party")
    if (saved.classes is None) == form.of_classes:
        raise ValueError("its classes are not those of its kind")
    many = _classes_in(saved)
    if (saved.objective == "multiclass") != (many > 2):
        raise ValueError("its objective is not that of its classes")
    if saved.classes is not None and len(saved.classes.values) != (many or 2):
        raise ValueError("it has another number of classes than its model")
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


def _classes_in(saved: AnySaved) -> int:
    """How many classes the model of a file tells apart, if they are several; else 0."""
    return len(saved.model.class_starts) if isinstance(saved.model, GuestModel) else 0


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
