"""What estimators over the columns of several parties share: the tables, the fit, the scores."""

import numbers
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from typing import ClassVar, Self, cast

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.base import clone
from sklearn.utils.validation import check_is_fitted

from vfl.arrays import Floats
from vfl.crypto.workers import PAYS, Machine
from vfl.errors import ConfigError, DataError
from vfl.estimators.hosts import Hosts, as_hosts, hold_hosts
from vfl.estimators.learner import (
    Learner,
    Target,
    check_split,
    column_named,
    translate_errors,
    unmeant_columns,
    warn_of_columns,
    warn_of_model,
)
from vfl.estimators.oneway import factors_of
from vfl.estimators.parameters import (
    check_above,
    check_share,
    check_steps,
    check_whole,
    plain_value,
    shown,
)
from vfl.estimators.saved import AnySaved
from vfl.estimators.shared import SharedParameter
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
from vfl.learn.advice import Thresholds
from vfl.learn.factor_tables import RowTotals
from vfl.learn.levels import levels_of, tidy_levels
from vfl.learn.suspects import LabelOrder, suspicions, tells_label
from vfl.models.kind import AnyHostModel, ColumnRules
from vfl.party.id_cells import IdReading
from vfl.party.ids import NormalisedIds
from vfl.party.ids import normalise as normalise_ids
from vfl.party.sections import DataSection
from vfl.protocols.common.rows import Training
from vfl.protocols.linear.plain import DesignTables
from vfl.protocols.trees.grower import BinnedTables
from vfl.simulate import (
    GUEST,
    SimulatedTask,
    StepProgress,
    TrainedLevels,
    score,
    tables_of,
    train,
)
from vfl.simulate_screening import ScreenedBy
from vfl.simulate_tables import SimulatedTable, oneway
from vfl.text import counted

Look = Callable[[BinnedTables | DesignTables], None]
Instead = Callable[[FrameTable, Sequence[FrameTable], SimulatedTask, RowIndices], None]
"""What is done with the tables in place of training; the last are the guest's rows that have weight."""

IdColumns = str | int | Sequence[str | int] | None
NormaliseSteps = Sequence[str] | Sequence[Sequence[str]]

_READING = IdReading(merging="allow")  # two rows with one id are refused, whatever it is
STEPS: tuple[str, ...] = DataSection.model_fields["normalise"].default


class Federation(Learner):
    """An estimator over the tables of a guest and its hosts."""

    hosts = SharedParameter(hold_hosts)
    id: IdColumns | Mapping[str, IdColumns]
    normalise: NormaliseSteps
    workers: int

    aligned_: RowIndices
    halves_: Mapping[str, AnyHostModel]
    n_aligned_: int

    keeps_rows_without_weight = False
    """Whether rows of weight 0 take part in a fit, with gradients of 0, as rows do whose weights hosts
    must not know."""
    _instead: Instead | None = None
    _holdout: float = 0.0

    # Groups are most often given for folds, not for fit.
    __metadata_request__fit: ClassVar[dict[str, object]] = {"groups": False, "time": False}

    def _to_save(self) -> AnySaved:
        return replace(super()._to_save(), halves=self.halves_, aligned=self.n_aligned_)

    def _restore(self, found: AnySaved) -> None:
        super()._restore(found)
        self.halves_ = {name: found.halves[name] for name in found.model.parties[1:]}
        self.n_aligned_ = found.aligned

    def inspected(self, look: Look) -> Self:
        """A copy whose `fit` trains nothing and tells what it would train on: the columns of the common
        rows, as they train, and what these rows are to teach."""
        copy = cast(Self, clone(self))
        copy._instead = lambda own, others, task, rows: look(tables_of(own, others, task))
        return copy

    def worth(
        self,
        X: object,
        y: object,
        hosts: Mapping[str, object] | None = None,
        *,
        holdout: float = 0.25,
        premium: object = None,
        **fit_params: object,
    ) -> pd.DataFrame:
        """What each host's columns add to this model, as `vfl worth` finds it; nothing is kept.

        Models of the guest alone, with each host, with all but each and with all are trained on the same
        rows, those that all parties know, and compared on the share `holdout` of them, drawn by the seed
        (with groups or time by these). premium: by the present tariff, of each row in all, for the loss
        ratio. fit_params: what else fit takes, but progress. A line a figure with an interval of 95 %
        over rows, under the heads of `vfl worth --json`; `attrs` has the numbers of rows.

        Raises ConfigError and DataError as fit, and where no row is held out or could be compared on.
        """
        from vfl.estimators.worth import Compared, judged

        with translate_errors():
            copy = cast(Self, clone(self))
            compared = Compared(X, premium)
            copy._holdout, copy._instead = judged(copy, holdout), compared.train
            copy.fit(X, y, hosts=hosts, **fit_params)
            return compared.table

    def screen(
        self,
        X: object,
        y: object,
        hosts: Mapping[str, object] | None = None,
        *,
        min_iv: float = 0.02,
        max_vif: float = 10.0,
        vif: bool = True,
        bins: int = 10,
        min_cell_rows: int = 50,
        correlations: bool = False,
        **fit_params: object,
    ) -> pd.DataFrame:
        """How strong each party's columns are by themselves, and how inflated, as `vfl screen` finds it
        before a training; nothing is kept.

        A line a column: information value, share of the deviance that its levels explain, variance
        inflation over the columns of all parties (infinite where others make it up, in which case there
        is none of the rest; with engine="protocol" under hosts' noise instead), and why to leave it
        out, if so: "weak" below min_iv, "inflated" beyond max_vif. bins: of columns of numbers.
        min_cell_rows: least rows of a host's level. fit_params: what else fit takes, but progress. Of
        the rows that all parties know; `attrs` has their number and, as "woe", a line a level; as
        "correlations", where they are asked for, a line each two columns of two parties, to two
        decimals and without the noise of a federation. With engine="protocol" sums are
        added up under encryption.

        Raises ConfigError and DataError as fit, and Refused where a host's rows are too few.
        """
        from vfl.estimators.screening import ColumnScreen

        with translate_errors():
            thresholds = Thresholds(
                check_above("min_iv", min_iv, 0.0, equal=True), check_above("max_vif", max_vif, 1.0)
            )
            least = check_whole("min_cell_rows", min_cell_rows, 1)
            by = ScreenedBy(
                least, check_whole("bins", bins, 2), thresholds, bool(vif), bool(correlations)
            )
            screening = ColumnScreen(by)
            copy = cast(Self, clone(self))
            copy._instead = screening.train
            copy.fit(X, y, hosts=hosts, **fit_params)
            return screening.table

    # Fitting.

    def _rules(self, parties: Sequence[str]) -> Mapping[str, ColumnRules]:
        """What parameters say of the parties' columns. Raises ConfigError."""
        raise NotImplementedError

    def _check_columns(self, tables: Sequence[FrameTable]) -> None:
        """Raises DataError for a parameter that does not fit the parties' columns."""

    def _check_classes(self, classes: NDArray[np.generic]) -> None:
        """Raises ConfigError for classes of a fit that a parameter does not allow."""

    def _guest_frame(self, X: object, hosts: object) -> tuple[Frame, Hosts]:
        """The guest's table for a fit, and the hosts' as they were given."""
        others = self._hosts_to_fit(hosts)
        return self._frame_to_fit(X, columns=not others), others

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
        kind = self._kind().with_classes(target.loss.classes)
        if not self._holdout:
            check_split(kind, target.split)
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
            warn_of_columns(table.name, suspects)
        own, *others = (replace(table, features=tidy_levels(table.features)) for table in tables)
        # A row of weight 0 is as good as none.
        weighing = np.flatnonzero(target.weight > 0)
        if self.keeps_rows_without_weight:
            weighing = np.arange(len(target.weight))
        if len(weighing) < len(target.weight):
            own, target = _take_rows(own, target, weighing)
        every = np.ones(own.rows, np.bool_)
        rows = Training(
            *(target.label, target.weight, every, ~every, target.loss, target.offset, target.exposure)
        )
        if self._instead is not None:
            alone = SimulatedTask(
                *(kind, rules, rows, engine, machine, lambda step: None, target.split, self._holdout)
            )
            self._instead(own, others, alone, weighing)
            return
        with self._followed(progress, kind) as (log, done):
            task = SimulatedTask(kind, rules, rows, engine, machine, done, target.split)
            trained = train(own, others, task)
        self.aligned_ = weighing[trained.rows]
        self.n_aligned_ = len(trained.rows)
        label = LabelOrder.of(target.label[trained.rows])
        for table in others:  # the rows of whose columns have labels once they are aligned
            aligned = trained.features[table.name]
            telling = {name: tells_label(one, label) for name, one in aligned.items()}
            warn_of_columns(table.name, telling)
        self._levels = {name: levels_of(features) for name, features in trained.features.items()}
        self.model_, self.halves_ = trained.fitted.model, trained.fitted.halves
        self.traffic_ = trained.traffic
        self.train_log_ = log
        self._loss = target.loss
        self._keep_columns(frames, [own, *others])
        self._publish()
        warn_of_model(trained.idle, trained.doubts)

    # Tables by factors.

    def _table_by_factors(
        self,
        X: object,
        by: str | Sequence[str],
        totals: RowTotals,
        hosts: object,
        least: tuple[int, int],
    ) -> pd.DataFrame:
        """A line a cell, the total last, of the rows that the guest and the host of the factors know.

        least: rows of a cell, and bins. Raises ConfigError, DataError and Refused.
        """
        others = self._hosts_to_fit(hosts)
        factors = factors_of(by, [GUEST, *others])
        wanted = [GUEST, *(name for name in others if name in dict(factors))]
        among = others if len(wanted) > 1 else Hosts({})
        frames = {name: frame_of(X if name == GUEST else others[name], name) for name in wanted}
        tables = [self._table(name, frame, None, among) for name, frame in frames.items()]
        _check_id_columns(tables)
        own, *theirs = (replace(table, features=tidy_levels(table.features)) for table in tables)
        task = SimulatedTable(
            factors,
            totals,
            check_whole("min_cell_rows", least[0], 1),
            check_whole("bins", least[1], 2),
            self._engine(),
            "lattice",
            Machine(check_whole("workers", self.workers, 1), alone=PAYS),
        )
        table = oneway(own, theirs, task)
        return pd.DataFrame(table.rows, columns=table.heads)

    # Scoring.

    def decision_function(self, X: object, hosts: object = None) -> Floats:
        """The score of every row, shape (rows,), in the rows' order: log-odds, the logarithm of the
        mean or the mean, by the loss's link, without any offset; of three classes or more the score of
        each, shape (rows, classes), whose softmax is their probabilities.

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
            known_to = scored.known[table.name]
            if table.rows and 2 * known_to < own.rows:
                few, others_too = (f"{known_to:,}", " in all others") if known_to else ("none", "")
                warn(
                    f"{table.name} knows {few} of the {counted(own.rows, 'row')} to score, so that its "
                    f"columns count as missing{others_too}: check that its ids are the guest's"
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
            others = others.drop(columns=unmeant_columns(party, others, meant))
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
        known = [name for name in listed if isinstance(name, str | numbers.Integral)]
        texts = [column_named(name, table) for name in known]
        if not listed or len(texts) < len(listed):
            raise ConfigError(
                f"id of {party} must be the name of a column, a list of names, or None for the index, "
                f"not {shown(names)}"
            )
        return texts

    def rows_of(self, guest: pd.DataFrame, other: pd.DataFrame) -> RowIndices:
        """The guest's row with the id of each row of another table of its own, whose id columns have the
        same names; -1 where there is none. Raises ConfigError and DataError."""
        names = self._id_of(GUEST, guest)
        if names is None:
            raise ConfigError("id= names no column of the guest's, by which claims could be found")
        for name in names:
            if name not in other:
                raise DataError(f"claims has no column {name!r}, which id= names")
        check_steps(self.normalise)

        def normalised(table: pd.DataFrame, party: str) -> NormalisedIds:
            texts = [one.texts() for one in id_columns(party, table, names, True)]
            return normalise_ids(texts, self.normalise, "first", party, empties="drop", reading=_READING)

        own, theirs = normalised(guest, GUEST), normalised(other, "claims")
        _refuse_ids(GUEST, own, repeats=False)
        place = {own.ids[of]: row for row, of in enumerate(own.id_of_row.tolist()) if of >= 0}
        row = [place.get(theirs.ids[i], -1) for i in range(len(theirs.ids))]
        return np.array([*row, -1], np.int64)[theirs.id_of_row]

    def _ids(self, party: str, columns: Sequence[IdValues], hosts: Hosts) -> NormalisedIds:
        check_steps(self.normalise)

        def make() -> NormalisedIds:
            texts = [column.texts() for column in columns]
            return normalise_ids(texts, self.normalise, "first", party, empties="drop", reading=_READING)

        if party == GUEST:
            return make()
        return hosts.ids(party, digest_of(columns, self.normalise), make)


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
    exposure = None if target.exposure is None else target.exposure[rows]
    return left, Target(target.label[rows], target.weight[rows], target.loss, offset, split, exposure)


def _check_id_columns(tables: Sequence[FrameTable]) -> None:
    if len({table.id_columns for table in tables}) > 1:
        counts = ", ".join(f"{table.name} has {table.id_columns}" for table in tables)
        raise ConfigError(f"an id must have as many columns at each party: {counts}")


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names) or "no hosts"
