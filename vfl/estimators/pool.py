"""What estimators over the rows of several parties share: whose each row is, the fit, the scores."""

import numbers
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Self, TypeGuard

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.utils.validation import check_is_fitted

from vfl.arrays import Floats, Integers
from vfl.errors import ConfigError, DataError
from vfl.estimators.learner import (
    Learner,
    Target,
    check_split,
    column_named,
    of_parameters,
    translate_errors,
    unmeant_columns,
    warn_of_columns,
    warn_of_model,
)
from vfl.estimators.parameters import check_arguments, check_share, check_whole, plain_value, shown
from vfl.estimators.saved import AnySaved, Form
from vfl.estimators.tasks import Classes, Numbers, added_scores, split_of
from vfl.frames.features import FrameTable, RowIndices, category_text, features_of, suggest_name
from vfl.frames.rows import classes_of, drop_given, groups_of, label_of, positive_numbers, weights_of
from vfl.frames.tables import Frame, frame_of
from vfl.frames.warnings import warn
from vfl.learn.binning import Features, Monotone
from vfl.learn.holdout import SplitColumns, group_draws
from vfl.learn.levels import Levels, levels_of, spell_as_agreed, tidy, tidy_levels
from vfl.learn.losses import LogisticLoss
from vfl.learn.suspects import LabelOrder, suspicions
from vfl.models.held_out import held_out_metrics
from vfl.models.kind import AnyKind, ColumnRules
from vfl.protocols.common.rows import Training
from vfl.protocols.pooled.adding import MOST_CLIENTS
from vfl.protocols.pooled.bins import Schema
from vfl.protocols.pooled.trees import POOLED
from vfl.simulate import SimulationEngine, StepProgress, TrainedLevels, score
from vfl.simulate_rows import PooledTask, train_rows
from vfl.text import counted

ALONE = "all"
"""The name of the only party, where nobody says whose the rows are."""


@dataclass(frozen=True)
class _Rows:
    """The rows of all parties that weigh something; arrays have shape (rows,)."""

    features: Features
    training: Training
    parties: Mapping[str, RowIndices]
    schema: Schema
    rules: ColumnRules
    split: SplitColumns  # by which rows are kept back
    kept: RowIndices  # where they were in the table that was given

    def task(
        self,
        kind: AnyKind,
        engine: SimulationEngine,
        progress: StepProgress,
        train: NDArray[np.bool_] | None = None,
    ) -> PooledTask:
        """A training on these rows, or on some of them and by each party alone, too."""
        rows = self.training if train is None else replace(self.training, train=train)
        alone = train is not None
        columns = self.schema, self.rules, self.features
        return PooledTask(kind, *columns, rows, self.parties, engine, progress, self.split, alone)

    def folds(self, count: int, seed: int) -> Integers:
        """A fold of each row: each party's rows, of each class, are dealt out evenly; of groups whole
        ones, drawn by their names."""
        if self.split.group is not None:
            own = group_draws(self.split.group, np.arange(len(self.kept)), seed)
            return (own * count).astype(np.int64)
        draw = np.random.default_rng([seed, 2]).random(len(self.kept))
        party = np.zeros(len(self.kept), np.int64)
        for number, rows in enumerate(self.parties.values()):
            party[rows] = number
        label = self.training.label if isinstance(self.training.loss, LogisticLoss) else party
        folds = np.empty(len(self.kept), np.int64)
        folds[np.lexsort((draw, label, party))] = np.arange(len(self.kept)) % count
        return folds


def rows_by_party(counts: Mapping[str, int]) -> "pd.Series[int]":
    """How many rows each party has."""
    return pd.Series(dict(counts), dtype=np.int64, name="rows").rename_axis("party")


class Pool(Learner):
    """An estimator over a table whose rows are of several parties."""

    parties: str | int | None
    levels: Mapping[str, Sequence[object]] | None

    parties_: "pd.Series[int]"

    _OWN = POOLED

    # Whose a row is means nothing to anything but a fit.
    __metadata_request__fit: ClassVar[dict[str, object]] = {
        "parties": True,
        "groups": False,
        "time": False,
    }

    # Files.

    @classmethod
    def _form(cls) -> Form:
        return replace(super()._form(), over_rows=True)

    def _to_save(self) -> AnySaved:
        parties = {str(name): int(count) for name, count in self.parties_.items()}
        return replace(super()._to_save(), parties=parties, aligned=sum(parties.values()))

    def _restore(self, found: AnySaved) -> None:
        super()._restore(found)
        self.parties_ = rows_by_party(found.parties)

    # Fitting.

    def _rules(self) -> ColumnRules:
        """Rules for columns of the table. Raises ConfigError."""
        return ColumnRules()

    def _fit(
        self, frame: Frame, parties: object, target: Target, progress: StepProgress | bool | None
    ) -> None:
        engine, kind = self._engine(), self._kind()
        check_share("unknown_levels", self.unknown_levels)
        check_split(kind, target.split)
        rows = self._rows(frame, parties, target, quiet=False)
        with self._followed(progress, kind) as (log, done):
            trained = train_rows(rows.task(kind, engine, done))
        self.parties_ = rows_by_party({name: len(own) for name, own in rows.parties.items()})
        self.model_, self.traffic_, self.train_log_ = trained.model, trained.traffic, log
        self._loss = target.loss
        agreed = {name: rows.schema.levels[name] for name in self._given_levels(frame.columns)}
        given = {name: Levels.of(np.array(names, object)) for name, names in agreed.items()}
        self._levels = {POOLED: levels_of(rows.features) | given}
        count = len(rows.kept)
        table = FrameTable(POOLED, [], np.empty(0, np.int64), 0, rows.features, count)
        self._keep_columns({POOLED: frame}, [table])
        self._publish()
        warn_of_model(trained.idle, trained.doubts)

    def _rows(self, frame: Frame, parties: object, target: Target, *, quiet: bool) -> _Rows:
        """The rows to train on, and whose they are. quiet: whether columns are not warned of."""
        names, party, own_columns = self._names(frame, parties)
        columns = frame.columns.drop(columns=own_columns)
        rules, levels = self._rules(), self._given_levels(columns)
        columns = columns.drop(columns=unmeant_columns(POOLED, columns, {*rules.named, *levels}))
        features = features_of(POOLED, columns, None, levels)
        if not features:
            raise DataError(f"{POOLED}: no column is left to use as a feature")
        self._check_ways(rules.monotone, features)
        if not quiet:
            order = LabelOrder.of(target.label)
            doubts = {
                name: suspicions(one, order, agreed=name in levels) for name, one in features.items()
            }
            warn_of_columns(POOLED, doubts)
        # A row of weight 0 is as good as none.
        kept = np.flatnonzero(target.weight > 0)
        features = tidy_levels({name: values[kept] for name, values in features.items()})
        features, _ = spell_as_agreed(features, levels)
        agreed = {name: one.names for name, one in levels_of(features).items()} | levels
        ordered = {name: agreed[name] for name in features if name in agreed}
        offset = None if target.offset is None else target.offset[kept]
        every = np.ones(len(kept), np.bool_)
        label, weight = target.label[kept], target.weight[kept]
        training = Training(label, weight, every, ~every, target.loss, offset)
        found = {name: np.flatnonzero(party[kept] == place) for place, name in enumerate(names)}
        found = {name: own for name, own in found.items() if len(own)}
        schema = Schema(tuple(features), ordered, rules.monotone)
        if levels and not quiet:
            _warn_of_levels(schema.unknown_levels(features))
        return _Rows(features, training, found, schema, rules, target.split.take(kept), kept)

    def _names(self, frame: Frame, given: object) -> tuple[list[str], Integers, list[str]]:
        """The parties, sorted; which of them has each row, int64 (rows,); and the columns that say it.

        Raises ConfigError and DataError.
        """
        columns, named = frame.columns, [one for one in (self.parties, given) if _names_column(one)]
        known = {column_named(one, columns) for one in named}
        own_columns = sorted(known.intersection(columns))
        given = plain_value(self.parties if given is None else given)
        if given is None:
            return [ALONE], np.zeros(len(columns), np.int64), own_columns
        if isinstance(given, bool):
            raise ConfigError(
                f"parties must be the name of a column, or a name for each row, not {shown(given)}"
            )
        if isinstance(given, str | numbers.Integral):
            name = column_named(given, columns)
            if name in columns:
                given = columns[name]
            elif name in columns.index.names:
                given = columns.index.get_level_values(name)
            else:
                near = suggest_name(name, [*columns, *(n for n in columns.index.names if n is not None)])
                raise DataError(f"{POOLED}: no column '{name}' (named by parties); {near}")
        whose = groups_of(given, columns, "parties")
        words = [tidy(word) for word in whose.words]
        names = sorted({*words})
        if "" in names:
            raise DataError("parties has an empty name: say whose each row is")
        if len(names) > MOST_CLIENTS:
            raise DataError(
                f"parties= has {counted(len(names), 'name')}, over {MOST_CLIENTS}: give the column that "
                "says whose each row is"
            )
        place = {name: number for number, name in enumerate(names)}
        return names, np.array([place[word] for word in words], np.int64)[whose.place], own_columns

    def _given_levels(self, columns: pd.DataFrame) -> dict[str, tuple[str, ...]]:
        """The levels of the parameter. Raises ConfigError."""
        if self.levels is None:
            return {}
        if not isinstance(self.levels, Mapping):
            raise ConfigError(f"levels must be a dict by column, not {shown(self.levels)}")
        found = {}
        for key, given in self.levels.items():
            name = column_named(key, columns)
            if name not in columns:
                raise ConfigError(
                    f"levels= names {key!r}, which is no column to train on; "
                    f"{suggest_name(name, columns)}"
                )
            listed = isinstance(given, Sequence | np.ndarray) and not isinstance(given, str | bytes)
            texts = [tidy(category_text(plain_value(one))) for one in given] if listed else []
            if not texts or "" in texts or len({*texts}) < len(texts):
                raise ConfigError(
                    f"levels= of '{name}' must be a list of different levels, not {shown(given)}"
                )
            found[name] = tuple(texts)
        return found

    def _check_ways(self, ways: Mapping[str, Monotone], features: Features) -> None:
        """Raises DataError for a constraint on a column that is not there or has no order."""
        for column, way in ways.items():
            if column not in features:
                near = suggest_name(column, features)
                raise DataError(f"{POOLED}: monotone= names {column!r}, which is no column; {near}")
            if features[column].dtype == object:
                raise DataError(
                    f"{POOLED}: monotone=: column '{column}' is categorical: it cannot be {way}"
                )

    # Scoring.

    def decision_function(self, X: object) -> Floats:
        """The score of every row, shape (rows,): log-odds, the logarithm of the mean or the mean, by the
        loss's link, without any offset. Whose a row is does not count.

        Raises NotFittedError, DataError for a table that cannot be used or lacks a column.
        """
        check_is_fitted(self, "model_")
        with translate_errors():
            return self._score_rows(frame_of(X, POOLED))

    def _score_rows(self, frame: Frame) -> Floats:
        columns = self._with_trained_names(POOLED, frame).columns
        features = features_of(POOLED, columns, self._categorical[POOLED])
        table = FrameTable(POOLED, [], np.empty(0, np.int64), 0, features, len(columns))
        if not table.rows:
            return np.empty(0)
        known = TrainedLevels(self._levels, check_share("unknown_levels", self.unknown_levels))
        scored = score(table, [], self._engine(), (self.model_, {}), known)
        for text in scored.unusual:
            warn(text)
        return scored.scores

    # Comparing.

    def _compare(
        self, frame: Frame, parties: object, target: Target, exposure: Floats | None, cv: object
    ) -> pd.DataFrame:
        engine, kind = self._engine(), self._kind()
        rows = self._rows(frame, parties, target, quiet=True)
        if len(rows.parties) < 2:
            raise ConfigError(
                "there is one party, and nothing to compare: say whose each row is with parties="
            )
        folds = rows.folds(check_whole("cv", cv, 2), kind.seed)
        scores = {name: np.full(len(folds), np.nan) for name in ("alone", "federated")}
        without: dict[str, str] = {}
        for fold in np.unique(folds).tolist():
            held_out = folds == fold
            trained = train_rows(rows.task(kind, engine, lambda step: None, ~held_out))
            scores["alone"][held_out] = trained.alone[held_out]
            scores["federated"][held_out] = trained.score[held_out]
            without |= trained.not_alone
        for name, why in without.items():
            warn(f"no model of {name}'s rows alone to compare with: {of_parameters(why)}")
        years = None if exposure is None else exposure[rows.kept]
        table = {name: _worth(rows.training, own, scores, years) for name, own in rows.parties.items()}
        return pd.DataFrame.from_dict(table, orient="index").rename_axis("party")


def _names_column(given: object) -> TypeGuard[str | numbers.Integral]:
    """Whether this is a column's name, or its number."""
    return isinstance(given, str | numbers.Integral) and not isinstance(given, bool)


def _warn_of_levels(rows: Mapping[str, int]) -> None:
    """Warn of levels that were not agreed on, by the rows that have one, by column."""
    for name, count in rows.items():
        if count:
            some = counted(count, "row has", "rows have")
            warn(f"{POOLED}: {some} a level of '{name}' that levels= does not name: they count as one")


def _worth(
    rows: Training, own: RowIndices, scores: Mapping[str, Floats], exposure: Floats | None
) -> dict[str, float]:
    """What two models are worth on a party's rows."""
    mask = np.zeros(len(rows.label), np.bool_)
    mask[own] = True
    logistic = isinstance(rows.loss, LogisticLoss)
    told = ("auc", "log_loss") if logistic else ("gini", "d2", "deviance")
    metrics = {}
    for name, one in scores.items():
        known = np.isfinite(one[own]).all()
        metrics[name] = held_out_metrics(rows, mask, one, exposure) if known else {}
    worth: dict[str, float] = {"rows": len(own)}
    for metric in told:
        worth |= {f"{metric}_{name}": of.get(metric, np.nan) for name, of in metrics.items()}
    label, weight = rows.label[own], rows.weight[own]
    losses = [rows.loss.losses(one[own], label, weight) for one in scores.values()]
    gain = (losses[0] - losses[1]) * (1 if logistic else 2)
    worth["gain"] = float(gain.sum() / weight.sum())
    residual = gain - worth["gain"] * weight
    worth["gain_error"] = float(np.sqrt(np.square(residual).sum()) / weight.sum())
    return worth


class PooledClassifier(Classes, Pool):
    """A model of two classes over the rows of several parties."""

    @check_arguments
    def fit(
        self,
        X: object,
        y: object,
        parties: object = None,
        sample_weight: object = None,
        progress: StepProgress | bool | None = None,
        groups: object = None,
        time: object = None,
    ) -> Self:
        """Train on the rows of all parties.

        X: the table of shape (rows, columns), of pandas, polars, pyarrow or whatever speaks Arrow, or an
        array. y: its label, two classes of text, bools or numbers, shape (rows,). parties: whose each
        row is, shape (rows,), or the column that says it, in place of the constructor's; a column is no
        feature. sample_weight: not negative, shape (rows,); a row of weight 0 does not train.
        progress: a function that is called after each tree or iteration, from another thread; or True or
        False in place of the parameter. groups, time: of each row, shape (rows,); the rows of
        validation_share are whole groups, the last times of all parties, or both.

        Raises ConfigError for parameters that cannot be, DataError for tables that cannot be used.
        """
        with translate_errors():
            frame, target, classes = self._target(X, y, parties, sample_weight, (groups, time))
            self._fit(frame, parties, target, progress)
        self.classes_ = classes
        return self

    def predict_proba(self, X: object) -> Floats:
        """Probabilities of both classes, in the order of classes_, shape (rows, 2); errors as in
        decision_function."""
        return self._probabilities(self.decision_function(X))

    def predict(self, X: object) -> NDArray[np.generic]:
        """The likelier class, shape (rows,); errors as in decision_function."""
        return self._likelier(self.decision_function(X))

    def score(self, X: object, y: object, sample_weight: object = None) -> float:
        """Accuracy, as of any classifier in scikit-learn; errors as in decision_function."""
        with translate_errors():
            label, weight = self._labels(X, y, sample_weight)
        return float(np.average(label == self.predict(X), weights=weight))

    def compare(
        self,
        X: object,
        y: object,
        parties: object = None,
        sample_weight: object = None,
        cv: int = 5,
        groups: object = None,
    ) -> pd.DataFrame:
        """What the federation is worth to each party, beside a model of its own rows alone.

        Both are trained with these settings `cv` times, each time without one of as many parts of each
        party's rows, and score that part: of whole `groups`, where they are given. The estimator stays
        as it is; arguments are as of `fit`.

        By party: rows, auc_alone, auc_federated, log_loss_alone, log_loss_federated; gain, by how much
        the federation lowers the mean log loss of a row, and gain_error, its standard error. NaN, with a
        warning, where a party cannot train alone. Errors as of fit.
        """
        with translate_errors():
            frame, target, _ = self._target(X, y, parties, sample_weight, (groups, None))
            return self._compare(frame, parties, target, None, cv)

    def _target(
        self,
        X: object,
        y: object,
        parties: object,
        sample_weight: object,
        by: tuple[object, object],
    ) -> tuple[Frame, Target, NDArray[np.generic]]:
        """The table, what its rows are to teach, and the classes. `by`: groups and times."""
        frame, (groups, time) = self._frame_to_fit(X), by
        classes, label = classes_of(y, frame.columns, type(self).__name__)
        weight, split = weights_of(sample_weight, frame.columns), split_of(frame, groups, time)
        target = Target(label, weight, LogisticLoss(), split=split)
        given = {"parties": parties, "groups": groups, "time": time}
        return drop_given(frame, y=y, sample_weight=sample_weight, **given), target, classes


class PooledRegressor(Numbers, Pool):
    """A model of counts, amounts and any numbers over the rows of several parties."""

    @check_arguments
    def fit(
        self,
        X: object,
        y: object,
        parties: object = None,
        sample_weight: object = None,
        exposure: object = None,
        offset: object = None,
        progress: StepProgress | bool | None = None,
        groups: object = None,
        time: object = None,
    ) -> Self:
        """Train on the rows of all parties.

        X: the table of shape (rows, columns), of pandas, polars, pyarrow or whatever speaks Arrow, or an
        array. y: its label, numbers, shape (rows,). parties: whose each row is, shape (rows,), or the
        column that says it, in place of the constructor's; a column is no feature. sample_weight: not
        negative, shape (rows,); a row of weight 0 does not train. exposure: time at risk of each row,
        positive, for "poisson" alone. offset: added to each row's score, on the scale of the link.
        progress: a function that is called after each tree or iteration, from another thread; or True or
        False in place of the parameter. groups, time: of each row, shape (rows,); the rows of
        validation_share are whole groups, the last times of all parties, or both.

        Raises ConfigError for parameters that cannot be, DataError for tables that cannot be used.
        """
        with translate_errors():
            given = {"exposure": exposure, "offset": offset}
            frame, target = self._target(X, y, parties, sample_weight, given, (groups, time))
            self._fit(frame, parties, target, progress)
        self.with_offset_ = offset is not None
        return self

    def predict(self, X: object, offset: object = None) -> Floats:
        """The mean of the label, per unit of exposure, shape (rows,), at each row's offset.

        Errors as in decision_function; ConfigError for an offset where the training had none, or none
        where it had one.
        """
        return self._means(X, offset, self._score_rows)

    def score(
        self,
        X: object,
        y: object,
        sample_weight: object = None,
        exposure: object = None,
        offset: object = None,
    ) -> float:
        """D^2, the share of deviance explained; R^2 with squared errors. Errors as in predict.

        Where y is the same in every row there is nothing to explain: 1 for predictions without error,
        else 0, as of R^2 in scikit-learn.
        """
        return self._explained(X, y, sample_weight, (exposure, offset), self._score_rows)

    def compare(
        self,
        X: object,
        y: object,
        parties: object = None,
        sample_weight: object = None,
        exposure: object = None,
        offset: object = None,
        cv: int = 5,
        groups: object = None,
    ) -> pd.DataFrame:
        """What the federation is worth to each party, beside a model of its own rows alone.

        Both are trained with these settings `cv` times, each time without one of as many parts of each
        party's rows, and score that part: of whole `groups`, where they are given. The estimator stays
        as it is; arguments are as of `fit`.

        By party: rows, gini_alone, gini_federated, d2_alone, d2_federated, deviance_alone,
        deviance_federated; gain, by how much the federation lowers the mean deviance of a row, and
        gain_error, its standard error. NaN, with a warning, where a party cannot train alone. Errors as
        of fit.
        """
        with translate_errors():
            given = {"exposure": exposure, "offset": offset}
            frame, target = self._target(X, y, parties, sample_weight, given, (groups, None))
            years = None
            if exposure is not None:
                years = positive_numbers(exposure, frame.columns, "exposure")
            return self._compare(frame, parties, target, years, cv)

    def _target(
        self,
        X: object,
        y: object,
        parties: object,
        sample_weight: object,
        added: Mapping[str, object],
        by: tuple[object, object],
    ) -> tuple[Frame, Target]:
        """The table, and what its rows are to teach. `added`: exposure and offset; `by`: groups and
        times."""
        loss, frame, (groups, time) = self._loss_to_fit(), self._frame_to_fit(X), by
        offset = added_scores(loss, frame, added["exposure"], added["offset"])
        label = label_of(y, frame.columns, loss)
        weight, split = weights_of(sample_weight, frame.columns), split_of(frame, groups, time)
        target = Target(label, weight, loss, offset, split)
        given = {**added, "parties": parties, "groups": groups, "time": time}
        return drop_given(frame, y=y, sample_weight=sample_weight, **given), target
