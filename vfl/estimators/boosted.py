"""What both models of gradient-boosted trees share."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.utils.validation import check_is_fitted

from vfl.arrays import Floats
from vfl.errors import ConfigError, DataError, ModelError
from vfl.estimators.federation import Federation
from vfl.estimators.hosts import Hosts
from vfl.estimators.init_model import BegunModel, hold_model
from vfl.estimators.learner import Target
from vfl.estimators.parameters import check_by_party, check_parties, shown
from vfl.estimators.saved import SavedTrees
from vfl.estimators.shared import SharedParameter
from vfl.frames.features import FrameTable, suggest_name
from vfl.frames.tables import Frame
from vfl.learn.binning import Monotone
from vfl.learn.params import BoostParams
from vfl.models.kind import ColumnRules
from vfl.models.kinds import kind_of_model
from vfl.models.shapes import SHAPE_HEADS, additive, shape_lines, shapes_of, splits_of
from vfl.models.trees import Trees
from vfl.models.uses import misfit
from vfl.protocols.trees.model import GuestModel, HostModel
from vfl.protocols.trees.warm_start import Initial
from vfl.simulate import GUEST, StepProgress


class BoostedTrees(Federation):
    """What both tree models share."""

    monotone: Mapping[str, Mapping[str, Monotone]] | None
    init_model = SharedParameter(hold_model)

    model_: GuestModel

    _SETTINGS = BoostParams
    _SAVED = SavedTrees
    _LEFT_OUT = frozenset({"sums", "coordinator", "init_model", "quantile", "classes"})

    def _kind(self) -> Trees:
        begun = self._begun()
        initial = None
        if begun is not None:
            halves = {n: half for n, half in begun.halves_.items() if isinstance(half, HostModel)}
            initial = Initial(begun.model_, halves)
        return Trees(self._params(BoostParams), initial)

    def _begun(self) -> "BoostedTrees | None":
        """The model that a fit begins with. Raises ConfigError for what cannot be one."""
        if (given := self.init_model) is None:
            return None
        begun = given.estimator if isinstance(given, BegunModel) else given
        trees = hasattr(self, "predict_proba")
        if not isinstance(begun, BoostedTrees) or hasattr(begun, "predict_proba") != trees:
            raise ConfigError(
                f"init_model= must be a fitted {type(self).__name__}, not {type(begun).__name__}"
            )
        if not hasattr(begun, "model_"):
            raise ConfigError("init_model= is not fitted: fit it first")
        return begun

    def _fit(
        self, guest: Frame, hosts: Hosts, target: Target, progress: StepProgress | bool | None
    ) -> None:
        if (begun := self._begun()) is not None:
            theirs = [*begun.model_.parties[1:]]
            if {*theirs} != {*hosts}:
                raise ConfigError(
                    f"init_model= was trained with the hosts {sorted(theirs)}, this fit has "
                    f"{sorted(hosts)}: give the same"
                )
            if begun._loss != target.loss:
                raise ConfigError("init_model= was trained with another objective: give the same")
        super()._fit(guest, hosts, target, progress)

    def _check_classes(self, classes: NDArray[np.generic]) -> None:
        known = getattr(self._begun(), "classes_", classes)
        if [*known] != [*classes]:
            raise ConfigError("init_model= was trained with other classes of y: give the same")

    def _rules(self, parties: Sequence[str]) -> dict[str, ColumnRules]:
        by_party = check_by_party("monotone", self.monotone)
        check_parties("monotone", by_party, parties)
        return {
            party: ColumnRules(ways_of(f"monotone= of {party}", columns))
            for party, columns in by_party.items()
        }

    def _check_columns(self, tables: Sequence[FrameTable]) -> None:
        """Raises DataError for a constraint on a column that is not there or has no order, or a column
        of init_model= that is missing or of another kind."""
        begun = self._begun()
        for table in tables:
            if begun is not None:
                half = begun.halves_.get(table.name, begun.model_)
                uses = kind_of_model(half).uses(half)
                if (missed := misfit(uses, table.features)) is not None:
                    raise DataError(
                        f"{table.name}: column '{missed}' of init_model= is missing or of another kind: "
                        "give the table as it was"
                    )
            for column, way in (self.monotone or {}).get(table.name, {}).items():
                if column not in table.features:
                    near = suggest_name(column, table.features)
                    raise DataError(
                        f"{table.name}: monotone= names {column!r}, which is no column; {near}"
                    )
                if table.features[column].dtype == object:
                    raise DataError(
                        f"{table.name}: monotone=: column '{column}' is categorical: it cannot be {way}"
                    )

    @property
    def importance_table_(self) -> pd.DataFrame:
        """All parties' columns that split: party, column, splits, gain; most gain first."""
        check_is_fitted(self, "model_")
        return pd.DataFrame(self.model_.importance(), columns=["party", "column", "splits", "gain"])

    @property
    def shapes_(self) -> pd.DataFrame:
        """What the columns of all parties add to the score, of trees of depth 1 or 2: party, column, the
        place (above, up_to, or level) and value, centred on the mean of the rows that trained.

        `attrs["centre"]` is the score of the mean row. What pairs of columns add is not in it, of which
        trees of depth 1 have none. Raises AttributeError for deeper trees, and for several classes.
        """
        check_is_fitted(self, "model_")
        try:
            found, lines = additive(self.model_), list[tuple[object, ...]]()
        except ModelError as error:  # so that who looks for attributes finds none
            raise AttributeError(f"shapes_: {error}") from None
        for place, party in enumerate(self.model_.parties):
            splits = splits_of(self.halves_[party]) if place else self.model_.splits
            for one in shapes_of(found.own(place), splits).shapes:
                lines += [(party, *line[:-1]) for line in shape_lines(one)]
        table = pd.DataFrame(lines, columns=["party", *SHAPE_HEADS[:-1]])
        table.attrs = {"centre": found.centre}
        return table

    @property
    def feature_importances_(self) -> Floats:
        """The share of the total gain of each column of the guest's table, shape (n_features_in_,).

        The shares of hosts' columns, which the table that fit was given does not have, are what is
        missing to 1: `importance_table_` has them all.
        """
        table = self.importance_table_
        own = table[table["party"] == GUEST]
        return shares_of(own, self._columns[GUEST], table["gain"].sum())


def shares_of(table: pd.DataFrame, columns: list[str], total: float) -> Floats:
    """The share of a total gain of each of these columns, shape (columns,)."""
    gains = table.set_index("column")["gain"].reindex(columns).fillna(0.0) / (total or 1.0)
    return gains.to_numpy(np.float64)


def ways_of(what: str, columns: Mapping[str, object]) -> dict[str, Monotone]:
    """A parameter's constraints by column; `what` errors call it. Raises ConfigError."""
    ways: dict[str, Monotone] = {}
    for column, way in columns.items():
        if way != "increasing" and way != "decreasing":
            raise ConfigError(
                f'{what}: {column!r} must be "increasing" or "decreasing", not {shown(way)}'
            )
        ways[column] = way
    return ways
