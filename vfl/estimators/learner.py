"""What all estimators share, over the columns of several parties and over their rows."""

import numbers
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import ClassVar, Self, TypeVar, cast, get_args

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pydantic import BaseModel
from sklearn.base import BaseEstimator
from sklearn.utils import Tags
from sklearn.utils.metadata_routing import UNUSED
from sklearn.utils.validation import check_is_fitted

from vfl.arrays import Floats
from vfl.errors import ConfigError, DataError, InputError, ModelError, ParameterError
from vfl.estimators import saved
from vfl.estimators.bar import watch
from vfl.estimators.parameters import check_names, choose_seed, plain_parameters, shown, validate
from vfl.frames.features import FrameTable
from vfl.frames.tables import Frame, frame_of
from vfl.frames.warnings import warn
from vfl.learn.holdout import SplitColumns
from vfl.learn.levels import Levels
from vfl.learn.losses import Family, Loss, NegativeBinomialLoss, Objective
from vfl.models.kind import AnyGuestModel, AnyKind, TrainingStep
from vfl.models.kinds import kind_of_model
from vfl.party.sources.source import labels_in_words, row_labels
from vfl.simulate import GUEST, SimulationEngine, StepProgress
from vfl.version import __version__

P = TypeVar("P", bound=BaseModel)


@dataclass(frozen=True)
class Target:
    """What the rows are to teach: arrays of shape (rows,)."""

    label: Floats
    weight: Floats
    loss: Loss
    offset: Floats | None = None
    split: SplitColumns = field(default_factory=SplitColumns)  # by which rows are kept back
    exposure: Floats | None = None  # whose logarithm is in the offset


def check_split(kind: AnyKind, split: SplitColumns) -> None:
    """Raises ConfigError for groups or times where no row is kept back."""
    columns = {"groups": None if kind.has_folds else split.group, "time": split.time}
    given = [name for name, one in columns.items() if one is not None]
    if given and not kind.validation_share:
        raise ConfigError(
            f"{given[0]}= says which rows validation_share keeps back to stop by, and none are: set a "
            "validation_share (trees have one), or leave it out; folds have groups of their own"
        )


@contextmanager
def translate_errors() -> Iterator[None]:
    """Turn errors of the parties into those that scikit-learn's tools know, in words of parameters."""
    try:
        yield
    except (ConfigError, DataError) as error:
        kind = ParameterError if isinstance(error, ConfigError) else InputError
        if isinstance(error, kind):
            raise
        raise kind(of_parameters(str(error))) from None


_OF_FILES = {
    r"ignore it in \[data\]": "leave it out",
    r' = "lattice"': "='lattice'",
    r" (in|of) \[(secureboost|glm|data)\]| \(ignore\)|the job's ": "",
    r"name the exposure as weight": "give the exposure as sample_weight",
    r"\b(all|the) clients\b": r"\1 parties",
    r"; remove the line|: remove the line": ": leave it out",
}
"""What errors say of party files and job files, and what of it stays where there are none."""


def of_parameters(text: str) -> str:
    """A text of a party in the words of parameters."""
    for of_files, in_python in _OF_FILES.items():
        text = re.sub(of_files, in_python, text)
    return text


class Learner(BaseEstimator):  # type: ignore[misc]
    """An estimator over tables of several parties."""

    unknown_levels: float
    engine: SimulationEngine
    progress: bool | None

    classes_: NDArray[np.generic]
    feature_names_in_: NDArray[np.object_]
    model_: AnyGuestModel
    n_features_in_: int
    traffic_: dict[str, int] | None
    train_log_: list[TrainingStep]

    _SETTINGS: ClassVar[type[BaseModel]]
    """Settings of the kind of model, which fit checks."""
    _LEFT_OUT: ClassVar[frozenset[str]] = frozenset()
    """Settings without a meaning in one process."""
    _SAVED: ClassVar[type[saved.SavedTrees] | type[saved.SavedLinear]]
    """What of it is written to a file."""
    _OWN: ClassVar[str] = GUEST
    """Whose the table of fit and predict is, as errors name it."""

    _categorical: dict[str, dict[str, bool]]  # features by party, and which are categorical
    _columns: dict[str, list[str]]  # of the tables of the training, by party
    _named: dict[str, bool]  # whether these had names of their own
    _levels: dict[str, dict[str, Levels]]  # of the rows that train, by party and categorical column
    _loss: Loss

    # fit's progress is no metadata of rows.
    __metadata_request__fit: ClassVar[dict[str, object]] = {"progress": UNUSED}

    def __new__(cls, *positional: object, **parameters: object) -> Self:
        """Raises UnknownParameter for a parameter that does not exist; values are checked by fit."""
        check_names(cls, positional, parameters)
        return cast(Self, super().__new__(cls))

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        tags.input_tags.categorical = True
        tags.input_tags.string = True
        return tags

    @classmethod
    def settings(cls) -> list[str]:
        """The names of the parameters that a job file has as well."""
        return [name for name in cls._SETTINGS.model_fields if name not in cls._LEFT_OUT]

    def save(self, path: object) -> None:
        """Write the fitted model to a file of JSON, for `load`, without any table.

        Raises NotFittedError, DataError when the file cannot be written.
        """
        check_is_fitted(self, "model_")
        saved.write(self._to_save(), path)

    @classmethod
    def load(cls, path: object) -> Self:
        """A model that was saved, which predicts bit for bit the same.

        Of several parties' columns: its hosts= are None, give the hosts' tables when it predicts, or set
        the parameter. Raises ModelError for a file that is missing, damaged or of another kind.
        """

        def form_of(name: str) -> saved.Form | None:
            kind = _BY_NAME.get(name)
            if kind is not None and not issubclass(cls, kind) and not issubclass(kind, cls):
                raise ModelError(f"holds a {name}, where a {cls.__name__} is due")
            return kind._form() if kind is not None else None

        found, loss = saved.read(path, form_of)
        kind = _BY_NAME[found.estimator]
        estimator = cast(Self, (cls if issubclass(cls, kind) else kind)(**found.parameters))
        estimator._restore(found)
        estimator._loss = loss
        estimator._publish()
        return estimator

    @classmethod
    def _form(cls) -> saved.Form:
        """What a file of it holds."""
        return saved.Form(
            cls._SAVED,
            parameters={*cls().get_params(deep=False)} - {"hosts", "init_model"},
            guest=cls._OWN,
            over_rows=False,
            of_classes=hasattr(cls, "predict_proba"),
        )

    def _to_save(self) -> saved.AnySaved:
        loss, losses = self._loss, kind_of_model(self.model_).losses
        classes = getattr(self, "classes_", None)
        name = next(name for name, kind in _BY_NAME.items() if isinstance(self, kind))
        return saved.Saved(
            vfl=__version__,
            estimator=name,
            parameters=plain_parameters(self.get_params(deep=False)),
            objective=next(
                cast(Objective | Family, name) for name, of in losses.items() if of is type(loss)
            ),
            tweedie_power=getattr(loss, "power", None) or 1.5,
            theta=loss.theta if isinstance(loss, NegativeBinomialLoss) else 1.0,
            classes=None if classes is None else saved.Classes.of(classes),
            with_offset=getattr(self, "with_offset_", False),
            columns=self._columns,
            named=self._named,
            categorical=self._categorical,
            model=self.model_,
            halves={},
            aligned=0,
            traffic=self.traffic_,
            log=self.train_log_,
            levels=self._levels,
        )

    def _restore(self, found: saved.AnySaved) -> None:
        """Have what a fit leaves, from a file."""
        own = found.columns[self._OWN]
        self.model_ = found.model
        self.traffic_, self.train_log_ = found.traffic, [*found.log]
        self._columns, self._named = found.columns, found.named
        self._categorical, self._levels = found.categorical, found.levels
        self.n_features_in_ = len(own)
        if found.named[self._OWN]:
            self.feature_names_in_ = np.array(own, dtype=object)
        if found.classes is None:
            self.with_offset_ = found.with_offset
        else:
            self.classes_ = found.classes.array

    def _kind(self) -> AnyKind:
        """The kind of model with its settings. Raises ConfigError for impossible ones."""
        raise NotImplementedError

    def _publish(self) -> None:
        """Set the attributes that this kind of model has besides, once it is fitted."""

    def _params(self, settings: type[P]) -> P:
        """The settings, checked. Raises ConfigError."""
        values = {name: getattr(self, name) for name in self.settings()}
        if "seed" in values:
            default = settings.model_fields["seed"].default
            values["seed"] = choose_seed(getattr(self, "random_state", None), values["seed"], default)
        params = validate(settings, values)
        idle = getattr(params, "idle", None)
        if idle is not None:
            warn(of_parameters(idle))
        return params

    def _engine(self) -> SimulationEngine:
        if isinstance(self.engine, str) and self.engine in get_args(SimulationEngine):
            return self.engine
        raise ConfigError(f'engine must be "plain" or "protocol", not {shown(self.engine)}')

    # Tables.

    def _frame_to_fit(self, X: object, *, columns: bool = True) -> Frame:
        """The table of a fit. Raises DataError for one without rows, or, where they are needed,
        columns."""
        frame = frame_of(X, self._OWN)
        rows, count = frame.columns.shape
        if not count and columns:
            raise DataError(
                f"{self._OWN}: the table has 0 feature(s) (shape=({rows}, 0)) while a minimum of 1 is "
                "required."
            )
        if rows < 2:
            raise DataError(
                f"{self._OWN}: the table has {rows} row{'' if rows else 's'} (n_samples={rows}), and a "
                "model needs 2 at the least"
            )
        return frame

    def _frame_to_score(self, X: object) -> Frame:
        """A table with rows to measure the model by. Raises DataError."""
        frame = frame_of(X, self._OWN)
        if not len(frame.columns):
            raise DataError(f"{self._OWN}: the table has no row to score")
        return frame

    def _keep_columns(self, frames: Mapping[str, Frame], tables: Sequence[FrameTable]) -> None:
        """What is kept of the tables of a training, this one's first."""
        own = frames[self._OWN]
        self._categorical = {
            table.name: {name: values.dtype == object for name, values in table.features.items()}
            for table in tables
        }
        self._columns = {name: list(one.columns.columns) for name, one in frames.items()}
        self._named = {name: one.named for name, one in frames.items()}
        self.n_features_in_ = own.columns.shape[1]
        self.__dict__.pop("feature_names_in_", None)
        if own.named:
            self.feature_names_in_ = np.array(own.columns.columns, dtype=object)

    def _with_trained_names(self, party: str, frame: Frame) -> Frame:
        """The table with the columns' names of the training, where either of both had none."""
        now, then = list(frame.columns.columns), self._columns[party]
        if frame.named and (self._named[party] or set(then) <= set(now)):
            return frame
        if not frame.named and frame.indexed and set(then) <= set(now):  # labels that are no text
            return frame
        if len(now) != len(then):
            raise DataError(
                f"{party}: X has {len(now)} features, but {type(self).__name__} is expecting "
                f"{len(then)} features as input."
            )
        if frame.named:
            warn(
                f"{party}: X has feature names, but {type(self).__name__} was fitted without feature "
                "names: columns are taken by their position",
                UserWarning,
            )
        elif self._named[party]:
            warn(
                f"{party}: X does not have valid feature names, but {type(self).__name__} was fitted "
                "with feature names: columns are taken by their position",
                UserWarning,
            )
        return Frame(frame.columns.set_axis(then, axis=1), named=True, indexed=frame.indexed)

    # Training.

    @contextmanager
    def _followed(
        self, progress: StepProgress | bool | None, kind: AnyKind
    ) -> "Iterator[tuple[list[TrainingStep], StepProgress]]":
        """A log of a training's steps, and what to tell of each."""
        log: list[TrainingStep] = []
        with watch(progress, self.progress, type(self).__name__, type(kind)) as told:

            def done(step: TrainingStep) -> None:
                log.append(step)
                told(step)

            yield log, done


_BY_NAME: dict[str, type[Learner]] = {}
"""The estimators that files are of, by their names in files."""

L = TypeVar("L", bound=Learner)


def saved_by_name(kind: type[L]) -> type[L]:
    """Write and read files of this estimator by its name."""
    _BY_NAME[kind.__name__] = kind
    return kind


def load(path: object) -> Learner:
    """A model that `save` wrote, of whichever estimator; it predicts bit for bit the same.

    Of several parties' columns: its hosts= are None, give the hosts' tables when it predicts, or set the
    parameter. Raises ModelError for a file that is missing, damaged or of another kind.
    """
    return Learner.load(path)


def unmeant_columns(party: str, table: pd.DataFrame, meant: Collection[str]) -> list[str]:
    """The columns that were an index and that nobody means, each of which is warned of."""
    unmeant = row_labels(table.columns) - {*meant}
    for name in table.columns:
        if name in unmeant:
            warn(f"{party}: {labels_in_words(name)}; rename it where it is meant as a feature")
    return sorted(unmeant)


def column_named(name: str | numbers.Integral, table: pd.DataFrame) -> str:
    """The name of a column, or of an array's column by its number."""
    text = str(name)
    return text if isinstance(name, str) or text in table.columns else f"x{text}"


def warn_of_columns(party: str, said: Mapping[str, Sequence[str]]) -> None:
    """Warn of what speaks against columns as features."""
    for name, texts in said.items():
        for text in texts:
            warn(of_parameters(f"{party}: column '{name}' {text}"))


def warn_of_model(idle: str | None, doubts: str | None) -> None:
    """Warn of a model that says the same of all rows, and of what else there is to say."""
    if idle is not None:
        warn(f"all rows get the same score: {idle}")
    if doubts is not None:
        warn(of_parameters(doubts))
