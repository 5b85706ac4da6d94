"""What a model is for: two classes, or counts, amounts and any numbers."""

from collections.abc import Callable, Mapping, Sequence
from typing import ClassVar, Self

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.base import ClassifierMixin, RegressorMixin
from sklearn.utils import Tags
from sklearn.utils.validation import check_is_fitted

from vfl.arrays import Floats
from vfl.errors import ConfigError
from vfl.estimators.federation import Federation
from vfl.estimators.learner import Learner, Target, translate_errors
from vfl.estimators.oneway import row_totals
from vfl.estimators.parameters import check_arguments, shown, validate
from vfl.frames.rows import (
    classes_of,
    drop_given,
    given_numbers,
    groups_of,
    label_of,
    labels_of,
    positive_numbers,
    times_of,
    weights_of,
)
from vfl.frames.tables import Frame, frame_of
from vfl.frames.warnings import warn
from vfl.learn.holdout import SplitColumns
from vfl.learn.losses import LogisticLoss, Loss, MulticlassLoss, loss_of
from vfl.simulate import GUEST, StepProgress


class Classes(ClassifierMixin, Learner):  # type: ignore[misc]
    """A model of two classes, or of several."""

    _MOST_CLASSES: ClassVar[int] = 2

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_class = self._MOST_CLASSES > 2
        return tags

    def _probabilities(self, scores: Floats) -> Floats:
        """Of all classes, in the order of classes_, shape (rows, classes)."""
        if len(self.classes_) > 2:
            return self._loss.predict(scores) if len(scores) else np.empty((0, len(self.classes_)))
        second = LogisticLoss().predict(scores)
        return np.column_stack([1 - second, second])

    def _likelier(self, scores: Floats) -> NDArray[np.generic]:
        """The likeliest class of each row, shape (rows,): the first among equal ones of several."""
        if len(self.classes_) > 2:
            return np.asarray(self.classes_[self._probabilities(scores).argmax(axis=1)])
        return np.asarray(self.classes_[(scores > 0).astype(np.int64)])

    def _labels(self, X: object, y: object, sample_weight: object) -> tuple[NDArray[np.generic], Floats]:
        """The classes and weights of rows to measure the model by. Raises DataError."""
        columns = self._frame_to_score(X).columns
        return labels_of(y, columns), weights_of(sample_weight, columns)


class Classifier(Classes, Federation):
    """A model of classes over the columns of several parties."""

    @check_arguments
    def fit(
        self,
        X: object,
        y: object,
        hosts: Mapping[str, object] | None = None,
        sample_weight: object = None,
        progress: StepProgress | bool | None = None,
        groups: object = None,
        time: object = None,
    ) -> Self:
        """Align the rows, train on those that all parties know, and keep every half.

        X: the guest's table of shape (rows, columns), of pandas, polars, pyarrow or whatever speaks
        Arrow, or an array. y: its label, classes of text, bools or numbers, shape (rows,). hosts:
        the other parties' tables by name, rows in any order, in place of those given to the constructor;
        {} trains the guest alone on all its rows. sample_weight: not negative, shape (rows,); a row of
        weight 0 does not train. progress: a function that is called after each tree or iteration, from
        another thread; or True or False in place of the parameter. groups, time: of each row, shape
        (rows,); the rows of validation_share are whole groups, the last times, or both, as
        vfl/learn/holdout.py says.

        Raises ConfigError for parameters that cannot be, DataError for tables that cannot be used.
        """
        with translate_errors():
            guest, others = self._guest_frame(X, hosts)
            name, most = type(self).__name__, self._MOST_CLASSES
            classes, label = classes_of(y, guest.columns, name, most)
            self._check_classes(classes)
            weight, split = weights_of(sample_weight, guest.columns), split_of(guest, groups, time)
            loss = LogisticLoss() if len(classes) == 2 else MulticlassLoss(len(classes))
            target = Target(label, weight, loss, split=split)
            guest = drop_given(guest, y=y, sample_weight=sample_weight, groups=groups, time=time)
            self._fit(guest, others, target, progress)
        self.classes_ = classes
        return self

    def predict_proba(self, X: object, hosts: Mapping[str, object] | None = None) -> Floats:
        """Probabilities of all classes, in the order of classes_, shape (rows, classes); rows and errors
        as in decision_function."""
        return self._probabilities(self.decision_function(X, hosts))

    def predict(self, X: object, hosts: Mapping[str, object] | None = None) -> NDArray[np.generic]:
        """The likeliest class, shape (rows,); rows and errors as in decision_function."""
        return self._likelier(self.decision_function(X, hosts))

    def score(
        self,
        X: object,
        y: object,
        hosts: Mapping[str, object] | None = None,
        sample_weight: object = None,
    ) -> float:
        """Accuracy, as of any classifier in scikit-learn; errors as in decision_function."""
        with translate_errors():
            label, weight = self._labels(X, y, sample_weight)
        return float(np.average(label == self.predict(X, hosts), weights=weight))

    def oneway(
        self,
        X: object,
        y: object,
        by: str | Sequence[str],
        hosts: Mapping[str, object] | None = None,
        sample_weight: object = None,
        min_cell_rows: int = 50,
        bins: int = 10,
    ) -> pd.DataFrame:
        """Rows and ones by the levels of a factor, "PARTY:COLUMN", or of two, as `vfl oneway` has them.

        Where the model is fitted, how many ones it expects as well, each with an interval of 95 %. A
        line a cell, the total last; missing where a cell of fewer than min_cell_rows rows is withheld.
        Of the rows that the guest and the host of the factors know; with engine="protocol" the sums are
        added up under encryption, and are the same. bins: of columns of numbers.

        Raises ConfigError, DataError, and Refused where too few rows are left to tell.
        """
        with translate_errors():
            columns = frame_of(X, GUEST).columns
            fitted = hasattr(self, "model_")
            if fitted and len(self.classes_) > 2:
                raise ConfigError("oneway is for two classes: a table has one number of each row")
            classes, label = classes_of(y, columns, type(self).__name__)
            expected = None
            if fitted:
                classes = self.classes_
                label = (labels_of(y, columns) == classes[1]).astype(np.float64)
                expected = self.predict_proba(X, hosts)[:, 1]
            found = row_totals(label, weights_of(sample_weight, columns), None, expected)
            return self._table_by_factors(X, by, found, hosts, (min_cell_rows, bins))


class Numbers(RegressorMixin, Learner):  # type: ignore[misc]
    """A model of counts, amounts and any numbers."""

    tweedie_power: float

    with_offset_: bool

    @property
    def named_by(self) -> str:
        """The parameter that says what the label is."""
        return self._NAMED

    _NAMED: ClassVar[str]
    """The parameter that says what the label is."""
    _LOSSES: ClassVar[Mapping[str, type[Loss]]]

    def _loss_to_fit(self) -> Loss:
        name = getattr(self, self._NAMED)
        names = [
            known for known, kind in self._LOSSES.items() if kind not in (LogisticLoss, MulticlassLoss)
        ]
        if not isinstance(name, str) or name not in names:
            raise ConfigError(f"{self._NAMED}={shown(name)}: there are {', '.join(names)}")
        settings = {"tweedie_power": self.tweedie_power}
        if "theta" in self.settings():
            settings["theta"] = getattr(self, "theta", 1.0)
        known = validate(self._SETTINGS, settings)
        theta, quantile = getattr(known, "theta", 1.0), self._quantile_to_fit(name)
        return loss_of(name, known.tweedie_power, theta, quantile)  # type: ignore[arg-type, attr-defined]

    def _quantile_to_fit(self, name: str) -> float | None:
        """Which quantile of the label is predicted; None where it is the mean. Raises ConfigError."""
        return None

    def _added_to_score(self, guest: Frame, exposure: object, offset: object) -> Floats | None:
        """What is added to the score of each row to predict. Raises ConfigError for an offset where the
        training had none, or none where it had one."""
        if self.with_offset_ != (offset is not None):
            had = "an offset" if self.with_offset_ else "no offset"
            raise ConfigError(f"the model was trained with {had}: give predict and score the same")
        return added_scores(self._loss, guest, exposure, offset)

    def _means(self, X: object, offset: object, scores: Callable[[Frame], Floats]) -> Floats:
        """The mean of the label of each row, at its offset, by what scores a table."""
        check_is_fitted(self, "model_")
        with translate_errors():
            frame = frame_of(X, self._OWN)
            added = self._added_to_score(frame, None, offset)
            return self._loss.predict(_with(scores(frame), added))

    def _explained(
        self,
        X: object,
        y: object,
        sample_weight: object,
        known: tuple[object, object],
        scores: Callable[[Frame], Floats],
    ) -> float:
        """D^2 on these rows, by what scores a table; `known` are exposure and offset."""
        check_is_fitted(self, "model_")
        with translate_errors():
            frame, loss = self._frame_to_score(X), self._loss
            label = label_of(y, frame.columns, loss, whole=False)
            weight = weights_of(sample_weight, frame.columns)
            offset = self._added_to_score(frame, *known)
            score = _with(scores(frame), offset)
        kept = weight > 0
        label, score, weight = label[kept], score[kept], weight[kept]
        added = np.zeros(len(label)) if offset is None else offset[kept]
        deviance = loss.deviance(score, label, weight)
        null = 0.0
        if loss.link == "identity" or label.any():
            null = loss.deviance(loss.start(label, weight, added) + added, label, weight)
        return 1 - deviance / null if null > 0 else float(deviance == 0)


class Regressor(Numbers, Federation):
    """A model of counts, amounts and any numbers over the columns of several parties."""

    @check_arguments
    def fit(
        self,
        X: object,
        y: object,
        hosts: Mapping[str, object] | None = None,
        sample_weight: object = None,
        exposure: object = None,
        offset: object = None,
        progress: StepProgress | bool | None = None,
        groups: object = None,
        time: object = None,
    ) -> Self:
        """Align the rows, train on those that all parties know, and keep every half.

        X: the guest's table of shape (rows, columns), of pandas, polars, pyarrow or whatever speaks
        Arrow, or an array. y: its label, numbers, shape (rows,). hosts: the other parties' tables by
        name, rows in any order, in place of those given to the constructor; {} trains the guest alone on
        all its rows. sample_weight: not negative, shape (rows,); a row of weight 0 does not train.
        exposure: time at risk of each row, positive, for counts alone. offset: added to each row's
        score, on the scale of the link. progress: a function that is called after each tree or
        iteration, from another thread; or True or False in place of the parameter. groups, time: of each
        row, shape (rows,); rows of validation_share, and of folds for alphas, are whole groups, those of
        validation_share the last times, or both, as vfl/learn/holdout.py says.

        Raises ConfigError for parameters that cannot be, DataError for tables that cannot be used.
        """
        with translate_errors():
            loss = self._loss_to_fit()
            guest, others = self._guest_frame(X, hosts)
            added = added_scores(loss, guest, exposure, offset)
            label = label_of(y, guest.columns, loss)
            weight, split = weights_of(sample_weight, guest.columns), split_of(guest, groups, time)
            years = None if exposure is None else positive_numbers(exposure, guest.columns, "exposure")
            target = Target(label, weight, loss, added, split, years)
            guest = drop_given(guest, y=y, sample_weight=sample_weight, exposure=exposure, offset=offset)
            guest = drop_given(guest, groups=groups, time=time)
            self._fit(guest, others, target, progress)
        self.with_offset_ = offset is not None
        return self

    def predict(
        self, X: object, hosts: Mapping[str, object] | None = None, offset: object = None
    ) -> Floats:
        """The mean of the label, per unit of exposure, shape (rows,), at each row's offset; with
        objective="quantile" its quantile.

        Rows and errors as in decision_function; ConfigError for an offset where the training had none,
        or none where it had one.
        """
        return self._means(X, offset, lambda frame: self._score_rows(frame, hosts))

    def score(
        self,
        X: object,
        y: object,
        hosts: Mapping[str, object] | None = None,
        sample_weight: object = None,
        exposure: object = None,
        offset: object = None,
    ) -> float:
        """D^2, the share of deviance explained; R^2 with squared errors, and with a quantile the share
        of pinball loss. Errors as in predict.

        Where y is the same in every row there is nothing to explain: 1 for predictions without error,
        else 0, as of R^2 in scikit-learn.
        """
        known = exposure, offset
        return self._explained(X, y, sample_weight, known, lambda frame: self._score_rows(frame, hosts))

    def oneway(
        self,
        X: object,
        y: object,
        by: str | Sequence[str],
        hosts: Mapping[str, object] | None = None,
        sample_weight: object = None,
        exposure: object = None,
        offset: object = None,
        min_cell_rows: int = 50,
        bins: int = 10,
    ) -> pd.DataFrame:
        """Rows, exposure and the label by the levels of a factor, "PARTY:COLUMN", or of two, as
        `vfl oneway` has them.

        Where the model is fitted, what it expects as well, each with an interval of 95 %. A line a cell,
        the total last; missing where a cell of fewer than min_cell_rows rows is withheld. Of the rows
        that the guest and the host of the factors know; with engine="protocol" the sums are added up
        under encryption, and are the same. bins: of columns of numbers.

        Raises ConfigError, DataError, and Refused where too few rows are left to tell.
        """
        with translate_errors():
            columns = frame_of(X, GUEST).columns
            label = given_numbers(y, columns, "y")
            years = None if exposure is None else positive_numbers(exposure, columns, "exposure")
            expected = None
            if hasattr(self, "model_") and self._loss.quantile is None:
                expected = self.predict(X, hosts, offset) * (1.0 if years is None else years)
            found = row_totals(label, weights_of(sample_weight, columns), years, expected)
            return self._table_by_factors(X, by, found, hosts, (min_cell_rows, bins))


_WIDE = 21.0  # of offsets: a factor of a billion on the mean


def added_scores(loss: Loss, guest: Frame, exposure: object, offset: object) -> Floats | None:
    """What is added to each row's score: the offset, and the exposure's logarithm."""
    if exposure is not None and loss.no_exposure is not None:
        raise ConfigError(f"exposure= {loss.no_exposure}")
    added = None if offset is None else given_numbers(offset, guest.columns, "offset")
    if added is not None and loss.link == "log" and np.ptp(added) > _WIDE:
        warn(
            "offset= is added to the mean's logarithm, and by it some means are over a billion times "
            "others: give exposure=, or its logarithm as offset="
        )
    if exposure is None:
        return added
    known = np.log(positive_numbers(exposure, guest.columns, "exposure"))
    return known if added is None else known + added


def _with(scores: Floats, added: Floats | None) -> Floats:
    """Scores with what is added to them."""
    return scores if added is None else scores + added


def split_of(guest: Frame, groups: object, time: object) -> SplitColumns:
    """The group and the time of each row, where they are given."""
    return SplitColumns(
        None if groups is None else groups_of(groups, guest.columns),
        None if time is None else times_of(time, guest.columns),
    )
