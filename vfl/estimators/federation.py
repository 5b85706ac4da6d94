"""What all estimators share: the parties' tables, the fit, the scores."""

import numbers
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import ClassVar, Self, TypeVar, cast, get_args

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pydantic import BaseModel
from sklearn.base import BaseEstimator, clone
from sklearn.utils import Tags
from sklearn.utils.metadata_routing import UNUSED
from sklearn.utils.validation import check_is_fitted

from vfl.arrays import Floats
from vfl.crypto.workers import PAYS, Machine
from vfl.errors import ConfigError, DataError, InputError, ParameterError
from vfl.estimators.bar import watch
from vfl.estimators.hosts import Hosts, HostsParameter, as_hosts
from vfl.estimators.parameters import (
    check_names,
    check_share,
    check_steps,
    check_whole,
    choose_seed,
    plain_value,
    shown,
    validate,
)
from vfl.frames.features import (
    FrameTable,
    IdValues,
    RowIndices,
    digest_of,
    features_of,
    id_columns,
    only_counts,
    suggest_name,
)
from vfl.frames.tables import Frame, frame_of
from vfl.frames.warnings import warn
from vfl.learn.holdout import SplitColumns
from vfl.learn.levels import Levels, levels_of, tidy_levels
from vfl.learn.losses import Loss
from vfl.learn.suspects import LabelOrder, suspicions, tells_label
from vfl.models.kind import AnyGuestModel, AnyHostModel, AnyKind, ColumnRules, TrainingStep
from vfl.party.id_cells import IdReading
from vfl.party.ids import NormalisedIds
from vfl.party.ids import normalise as normalise_ids
from vfl.party.sections import DataSection
from vfl.party.sources.source import labels_in_words, row_labels
from vfl.protocols.common.rows import Training
from vfl.protocols.linear.plain import DesignTables
from vfl.protocols.trees.grower import BinnedTables
from vfl.simulate import (
    GUEST,
    SimulatedTask,
    SimulationEngine,
    StepProgress,
    TrainedLevels,
    score,
    tables_of,
    train,
)
from vfl.text import counted

P = TypeVar("P", bound=BaseModel)
Look = Callable[[BinnedTables | DesignTables], None]

IdColumns = str | int | Sequence[str | int] | None
NormaliseSteps = Sequence[str] | Sequence[Sequence[str]]

_READING = IdReading(merging="allow")  # two rows with one id are refused, whatever it is
STEPS: tuple[str, ...] = DataSection.model_fields["normalise"].default


@dataclass(frozen=True)
class Target:
    """What the guest's rows are to teach: arrays of shape (rows,)."""

    label: Floats
    weight: Floats
    loss: Loss
    offset: Floats | None = None
    split: SplitColumns = field(default_factory=SplitColumns)  # by which rows are kept back


@contextmanager
def translate_errors() -> Iterator[None]:
    """Turn errors of the parties into those that scikit-learn's tools know, in words of parameters."""
    try:
        yield
    except (ConfigError, DataError) as error:
        kind = ParameterError if isinstance(error, ConfigError) else InputError
        if isinstance(error, kind):
            raise
        raise kind(_of_parameters(str(error))) from None


_OF_FILES = {
    r"ignore it in \[data\]": "leave it out",
    r' = "lattice"': "='lattice'",
    r" (in|of) \[(secureboost|glm|data)\]| \(ignore\)|the job's ": "",
    r"name the exposure as weight": "give the exposure as sample_weight",
    r"; remove the line|: remove the line": ": leave it out",
}
"""What errors say of party files and job files, and what of it stays where there are none."""


def _of_parameters(text: str) -> str:
    for of_files, of_parameters in _OF_FILES.items():
        text = re.sub(of_files, of_parameters, text)
    return text


class Federation(BaseEstimator):  # type: ignore[misc]
    """An estimator over the tables of a guest and its hosts."""

    hosts = HostsParameter()
    id: IdColumns | Mapping[str, IdColumns]
    normalise: NormaliseSteps
    unknown_levels: float
    engine: SimulationEngine
    workers: int
    progress: bool | None

    aligned_: RowIndices
    classes_: NDArray[np.generic]
    feature_names_in_: NDArray[np.object_]
    halves_: Mapping[str, AnyHostModel]
    model_: AnyGuestModel
    n_aligned_: int
    n_features_in_: int
    traffic_: dict[str, int] | None
    train_log_: list[TrainingStep]

    _SETTINGS: ClassVar[type[BaseModel]]
    """Settings of the kind of model, which fit checks."""
    _LEFT_OUT: ClassVar[frozenset[str]] = frozenset()
    """Settings without a meaning in one process."""

    _categorical: dict[str, dict[str, bool]]  # features by party, and which are categorical
    _columns: dict[str, list[str]]  # of the tables of the training, by party
    _named: dict[str, bool]  # whether these had names of their own
    _levels: dict[str, dict[str, Levels]]  # of the aligned rows, by party and categorical column
    _loss: Loss
    _look: Look | None = None

    # fit's progress is no metadata of rows. Groups are most often given for folds, not for fit.
    __metadata_request__fit: ClassVar[dict[str, object]] = {
        "progress": UNUSED,
        "groups": False,
        "time": False,
    }

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
        from vfl.estimators.saved import write

        check_is_fitted(self, "model_")
        write(self, path)

    @classmethod
    def load(cls, path: object) -> Self:
        """A model that was saved, which predicts bit for bit the same.

        Its hosts= are None: give the hosts' tables when it predicts, or set the parameter. Raises
        ModelError for a file that is missing, damaged or of another kind.
        """
        from vfl.estimators.saved import read

        return read(path, cls)

    def inspected(self, look: Look) -> Self:
        """A copy whose `fit` trains nothing and tells what it would train on: the columns of the common
        rows, as they train, and what these rows are to teach."""
        copy = cast(Self, clone(self))
        copy._look = look
        return copy

    # Fitting.

    def _kind(self) -> AnyKind:
        """The kind of model with its settings. Raises ConfigError for impossible ones."""
        raise NotImplementedError

    def _rules(self, parties: Sequence[str]) -> Mapping[str, ColumnRules]:
        """What parameters say of the parties' columns. Raises ConfigError."""
        raise NotImplementedError

    def _check_columns(self, tables: Sequence[FrameTable]) -> None:
        """Raises DataError for a parameter that does not fit the parties' columns."""

    def _publish(self) -> None:
        """Set the attributes that this kind of model has besides, once it is fitted."""

    def _params(self, settings: type[P]) -> P:
        """The settings, checked. Raises ConfigError."""
        values = {name: getattr(self, name) for name in self.settings()}
        if "seed" in values:
            default = settings.model_fields["seed"].default
            values["seed"] = choose_seed(getattr(self, "random_state", None), values["seed"], default)
        return validate(settings, values)

    def _engine(self) -> SimulationEngine:
        if isinstance(self.engine, str) and self.engine in get_args(SimulationEngine):
            return self.engine
        raise ConfigError(f'engine must be "plain" or "protocol", not {shown(self.engine)}')

    def _guest_frame(self, X: object, hosts: object) -> tuple[Frame, Hosts]:
        """The guest's table for a fit, and the hosts' as they were given."""
        others = self._hosts_to_fit(hosts)
        frame = frame_of(X, GUEST)
        rows, columns = frame.columns.shape
        if not columns and not others:
            raise DataError(
                f"{GUEST}: the table has 0 feature(s) (shape=({rows}, 0)) while a minimum of 1 is "
                "required."
            )
        if rows < 2:
            raise DataError(
                f"{GUEST}: the table has {rows} row{'' if rows else 's'} (n_samples={rows}), and a "
                "model needs 2 at the least"
            )
        return frame, others

    def _hosts_to_fit(self, given: object) -> Hosts:
        tables = self.hosts if given is None else given
        if tables is not None:
            return as_hosts(tables)
        named = (
            [str(party) for party in self.id if party != GUEST] if isinstance(self.id, Mapping) else []
        )
        raise ConfigError(
            f"no host's table was given{f', though id= names {_listed(named)}' if named else ''}: give "
            f"hosts={{name: table}} to {type(self).__name__} or to fit, or hosts={{}} for a model of "
            "the guest alone"
        )

    def _fit(
        self, guest: Frame, hosts: Hosts, target: Target, progress: StepProgress | bool | None
    ) -> None:
        machine = Machine(check_whole("workers", self.workers, 1), alone=PAYS)
        engine = self._engine()
        check_share("unknown_levels", self.unknown_levels)
        rules = self._rules([GUEST, *hosts])
        kind = self._kind()
        _check_split(kind, target.split)
        frames = {GUEST: guest} | {name: frame_of(table, name) for name, table in hosts.items()}
        tables = [
            self._table(name, one, None, hosts, rules[name].named if name in rules else ())
            for name, one in frames.items()
        ]
        _check_id_columns(tables)
        self._check_columns(tables)
        for table in tables:
            order = LabelOrder.of(target.label) if table.name == GUEST else None
            suspects = {name: suspicions(one, order) for name, one in table.features.items()}
            _warn_of_columns(table.name, suspects)
        own, *others = (replace(table, features=tidy_levels(table.features)) for table in tables)
        # A row of weight 0 is as good as none.
        weighing = np.flatnonzero(target.weight > 0)
        if len(weighing) < len(target.weight):
            own, target = _take_rows(own, target, weighing)
        every = np.ones(own.rows, np.bool_)
        rows = Training(target.label, target.weight, every, ~every, target.loss, target.offset)
        if self._look is not None:
            alone = SimulatedTask(kind, rules, rows, engine, machine, lambda step: None, target.split)
            self._look(tables_of(own, others, alone))
            return
        log: list[TrainingStep] = []
        with watch(progress, self.progress, type(self).__name__, type(kind)) as told:

            def done(step: TrainingStep) -> None:
                log.append(step)
                told(step)

            task = SimulatedTask(kind, rules, rows, engine, machine, done, target.split)
            trained = train(own, others, task)
        self.aligned_ = weighing[trained.rows]
        self.n_aligned_ = len(trained.rows)
        label = LabelOrder.of(target.label[trained.rows])
        for table in others:  # the rows of whose columns have labels once they are aligned
            aligned = trained.features[table.name]
            telling = {name: tells_label(one, label) for name, one in aligned.items()}
            _warn_of_columns(table.name, telling)
        self._levels = {name: levels_of(features) for name, features in trained.features.items()}
        self.model_, self.halves_ = trained.fitted.model, trained.fitted.halves
        self.traffic_ = trained.traffic
        self.train_log_ = log
        self._loss = target.loss
        self._categorical = {
            table.name: {name: values.dtype == object for name, values in table.features.items()}
            for table in (own, *others)
        }
        self._columns = {name: list(one.columns.columns) for name, one in frames.items()}
        self._named = {name: one.named for name, one in frames.items()}
        self.n_features_in_ = guest.columns.shape[1]
        self.__dict__.pop("feature_names_in_", None)
        if guest.named:
            self.feature_names_in_ = np.array(guest.columns.columns, dtype=object)
        self._publish()
        if trained.idle is not None:
            warn(f"all rows get the same score: {trained.idle}")
        if trained.doubts is not None:
            warn(_of_parameters(trained.doubts))

    # Scoring.

    def decision_function(self, X: object, hosts: object = None) -> Floats:
        """The score of every row, shape (rows,), in the rows' order: log-odds, the logarithm of the
        mean or the mean, by the loss's link, without any offset.

        A row that a host does not know counts as one of missing values there. `hosts` takes the place of
        the tables given to the constructor; a host's may be empty, of the same columns, where it knows
        no row.

        Raises NotFittedError, ConfigError for other hosts than in training, DataError for tables that
        cannot be used or lack a column.
        """
        check_is_fitted(self, "model_")
        with translate_errors():
            return self._score_rows(frame_of(X, GUEST), hosts)

    def _score_rows(self, guest: Frame, hosts: object) -> Floats:
        names = self.model_.parties[1:]
        tables = self._hosts_to_score(hosts, names)
        given = {GUEST: guest} | {name: frame_of(tables[name], name) for name in names}
        own, *others = (
            self._table(name, self._with_trained_names(name, one), self._categorical[name], tables)
            for name, one in given.items()
        )
        _check_id_columns([own, *others])
        if not own.rows:
            return np.empty(0)
        known = TrainedLevels(self._levels, check_share("unknown_levels", self.unknown_levels))
        scored = score(own, others, self._engine(), (self.model_, self.halves_), known)
        for text in scored.unusual:
            warn(text)
        for table in others:
            if table.rows and not scored.known[table.name]:
                warn(
                    f"{table.name} knows none of the {counted(own.rows, 'row')} to score, so that its "
                    "columns count as missing: check that its ids are the guest's"
                )
        return scored.scores

    def _hosts_to_score(self, given: object, names: Sequence[str]) -> Hosts:
        by_default = self.hosts if names and self.hosts is not None else {}
        tables = as_hosts(by_default if given is None else given)
        # The parameter may have more of them than a model of fewer hosts.
        known = [name for name in tables if given is not None or name in names]
        if set(known) != set(names):
            raise ConfigError(
                f"the model was trained with {_listed(names)}, but hosts= has {_listed(known)}: "
                "give each host's table (an empty one of the same columns where it knows no row)"
                + ("" if given is not None else f", here or once for all calls to {type(self).__name__}")
            )
        return tables

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

    # Tables.

    def _table(
        self,
        party: str,
        frame: Frame,
        expect: Mapping[str, bool] | None,
        hosts: Hosts,
        meant: Collection[str] = (),
    ) -> FrameTable:
        """A party's table; `expect` has the columns of the training and which are categorical.

        meant: columns of a training that are features, whatever their names.
        """
        columns, with_ids = frame.columns, bool(hosts)
        names = self._id_of(party, columns)
        if names is None and with_ids and not frame.indexed:
            raise DataError(
                f"{party}: the table has no index in which ids could be: name the column with id="
            )
        ids = id_columns(party, columns, names, frame.named) if with_ids or names else []
        if not with_ids:
            ids = []
        if expect is None and ids and names is None and only_counts(columns.index):
            warn(
                f"{party}: its ids are the row numbers 0, 1, 2, ...; name the column with id= or "
                "set the index unless the row numbers are the ids"
            )
        others = columns.drop(columns=names or [], errors="ignore")
        if expect is None:
            others = others.drop(columns=_row_labels(party, others, meant))
        features = features_of(party, others, expect)
        if not features and party != GUEST:
            raise DataError(f"{party}: no column is left to use as a feature")
        if not ids:
            return FrameTable(party, [], np.empty(0, np.int64), 0, features, len(columns))
        repeats = party == GUEST and expect is not None  # a batch may have rows of one id
        normalised = self._ids(party, ids, hosts)
        _refuse_ids(party, normalised, repeats)
        return FrameTable(party, normalised.ids, normalised.id_of_row, len(ids), features, len(columns))

    def _id_of(self, party: str, table: pd.DataFrame) -> list[str] | None:
        """The names of the id's columns; None is the index. Raises ConfigError."""
        names: object = self.id
        if isinstance(names, Mapping):
            if party not in names:
                raise ConfigError(
                    f"id= says nothing of {party!r}; {suggest_name(party, names)} (None takes the index)"
                )
            names = names[party]
        names = plain_value(names)
        if names is None:
            return None
        if isinstance(names, Sequence | np.ndarray) and not isinstance(names, str | bytes):
            listed = [*names]
        else:
            listed = [names]
        texts = [_as_text(name, table) for name in listed if isinstance(name, str | numbers.Integral)]
        if not listed or len(texts) < len(listed):
            raise ConfigError(
                f"id of {party} must be the name of a column, a list of names, or None for the index, "
                f"not {shown(names)}"
            )
        return texts

    def _ids(self, party: str, columns: Sequence[IdValues], hosts: Hosts) -> NormalisedIds:
        check_steps(self.normalise)

        def make() -> NormalisedIds:
            texts = [column.texts() for column in columns]
            return normalise_ids(texts, self.normalise, "first", party, empties="drop", reading=_READING)

        if party == GUEST:
            return make()
        return hosts.ids(party, digest_of(columns, self.normalise), make)


def _row_labels(party: str, table: pd.DataFrame, meant: Collection[str]) -> list[str]:
    """The columns that were an index and that nobody means, each of which is warned of."""
    unmeant = row_labels(table.columns) - {*meant}
    for name in table.columns:
        if name in unmeant:
            warn(f"{party}: {labels_in_words(name)}; rename it where it is meant as a feature")
    return sorted(unmeant)


def _warn_of_columns(party: str, said: Mapping[str, Sequence[str]]) -> None:
    """Warn of what speaks against columns as features."""
    for name, texts in said.items():
        for text in texts:
            warn(_of_parameters(f"{party}: column '{name}' {text}"))


def _refuse_ids(party: str, found: NormalisedIds, repeats: bool) -> None:
    """Raises DataError for rows without an id, and for rows of one id where there may be none."""
    none = "no id (a number of which digits are lost is none)" if found.unread else "no id"
    complained = [(found.empties, none)]
    if not repeats:
        complained.append((found.duplicates, "the id of an earlier row"))
    for count, what in complained:
        if count:
            left_out = np.setdiff1d(np.arange(len(found.id_of_row)), found.rows)
            shown_rows = ", ".join(map(str, left_out[:5].tolist()))
            raise DataError(
                f"{party}: {count:,} row{'s have' if count > 1 else ' has'} {what} once normalised "
                f"(among positions {shown_rows}{', ...' if len(left_out) > 5 else ''}): drop or mend "
                "them"
            )


def _take_rows(table: FrameTable, target: Target, rows: RowIndices) -> tuple[FrameTable, Target]:
    """Some rows of a training, in which no id comes twice."""
    ids = [table.ids[row] for row in rows.tolist()] if table.ids else []
    of_row = np.arange(len(ids))
    left = FrameTable(table.name, ids, of_row, table.id_columns, table.take(rows), len(rows))
    offset = None if target.offset is None else target.offset[rows]
    split = target.split.take(rows)
    return left, Target(target.label[rows], target.weight[rows], target.loss, offset, split)


def _check_split(kind: AnyKind, split: SplitColumns) -> None:
    """Raises ConfigError for groups or times where no row is kept back."""
    given = [name for name, one in (("groups", split.group), ("time", split.time)) if one is not None]
    if given and not kind.validation_share:
        raise ConfigError(
            f"{given[0]}= says which rows validation_share keeps back to stop by, and none are: set a "
            "validation_share (trees have one), or leave it out; folds have groups of their own"
        )


def _as_text(name: str | numbers.Integral, table: pd.DataFrame) -> str:
    """The name of a column, or of an array's column by its number."""
    text = str(name)
    return text if isinstance(name, str) or text in table.columns else f"x{text}"


def _check_id_columns(tables: Sequence[FrameTable]) -> None:
    if len({table.id_columns for table in tables}) > 1:
        counts = ", ".join(f"{table.name} has {table.id_columns}" for table in tables)
        raise ConfigError(f"an id must have as many columns at each party: {counts}")


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names) or "no hosts"
