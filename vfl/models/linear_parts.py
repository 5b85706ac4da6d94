"""Parts of linear models: what a host's columns add to a row's score, and scores from them."""

from collections.abc import Mapping

import numpy as np

from vfl.arrays import Bytes, Floats
from vfl.learn.binning import Features
from vfl.learn.row_design import RowDesign
from vfl.models.kind import OwnScores
from vfl.models.linear_columns import changed_column
from vfl.models.parts import (
    OwnColumns,
    Parts,
    PartsAnswers,
    PartsPacker,
    PartsScorer,
    broken_parts,
    packed,
)
from vfl.protocols.common.batches import ScoredPart, ScoreStart
from vfl.protocols.linear.scoring import (
    GuestGlm,
    HostGlm,
    MissingScore,
    PartialScores,
    add_up,
    fault_of_parts,
    host_players,
    linear_terms,
)
from vfl.protocols.lookup.layout import NUMBER, PartLayout


class LinearPacker(PartsPacker):
    """Packs what a host's columns add to each row's score, of `own` all together, and with
    `shows_columns` what each adds."""

    def __init__(self, half: HostGlm, features: Features, own: OwnScores, shows_columns: bool) -> None:
        self._columns = half.part.by_column if shows_columns else {}
        self._features, self._own = features, own
        absent = [column.missing_score(column.taken_from(features)) for column in self._columns.values()]
        missing = np.array([own.missing, *absent], "<f8").tobytes()
        self._layout = PartLayout(missing, columns=tuple(self._columns))

    @property
    def layout(self) -> PartLayout:
        return self._layout

    def pack(self, rows: slice) -> Bytes:
        count = rows.stop - rows.start
        parts = np.empty((count, 1 + len(self._columns)), "<f8")
        parts[:, 0] = self._own.rows[rows]
        for place, column in enumerate(self._columns.values(), start=1):
            parts[:, place] = column.scores(column.taken_from(self._features, rows), count)
        return parts.view(np.uint8)


class LinearScorer(PartsScorer):
    """Adds up intercept, the guest's part and those of the hosts. Raises PeerError naming a host whose
    layout is none."""

    def __init__(self, model: GuestGlm, layouts: Mapping[str, PartLayout], explain: bool) -> None:
        self._model, self._explain = model, explain
        self._layouts = [(name, layouts[name]) for name in model.parties[1:]]
        for host, layout in self._layouts:
            _check_layout(host, layout)
        self._names = [host_players(host, layout.columns) for host, layout in self._layouts]
        self._own = RowDesign(model.part.design, model.part.coefficients)

    def score(self, own: OwnColumns, parts_by_host: Mapping[str, Parts]) -> ScoredPart:
        model, rows = self._model, own.rows
        try:
            mine = self._own.scores(own.features, rows)
        except ValueError as error:
            raise changed_column(own.table, error) from None
        theirs = [_numbers(host, layout, parts_by_host[host]) for host, layout in self._layouts]
        scores = add_up(model.intercept, mine, theirs)
        if not self._explain:
            return ScoredPart(slice(0, rows), scores, None, 0.0)
        terms = linear_terms(model, self._own.terms(own.features, rows), self._names, theirs)
        return ScoredPart(slice(0, rows), scores, terms, model.intercept)


class LinearAnswers(PartsAnswers):
    """What a host's columns add to rows' scores, by their parts."""

    def __init__(self, host: str, layout: PartLayout) -> None:
        _check_layout(host, layout)
        self._host, self._layout, self._explain = host, layout, False

    def begin(self, start: ScoreStart) -> MissingScore:
        self._explain = start.explain
        whole, *columns = np.frombuffer(self._layout.missing, "<f8").tolist()
        by_column = dict(zip(self._layout.columns, columns, strict=True)) if start.explain else {}
        return MissingScore(whole, by_column)

    def answer(self, parts: Parts) -> PartialScores:
        found = _numbers(self._host, self._layout, parts)
        columns = found[1:].astype("<f8").tobytes() if self._explain else b""
        return PartialScores(found[0].astype("<f8").tobytes(), columns)


def _check_layout(host: str, layout: PartLayout) -> None:
    """Raises PeerError for a layout that is none."""
    if layout.size != NUMBER * (1 + len(layout.columns)) or layout.same:
        raise broken_parts(host, "of another size than its numbers")


def _numbers(host: str, layout: PartLayout, parts: Parts) -> Floats:
    """A host's part of each row's score, and below it that of each column: shape (1 + columns, rows)."""
    found = np.ascontiguousarray(packed(host, layout, parts)).view("<f8").T
    if (why := fault_of_parts(found)) is not None:
        raise broken_parts(host, why)
    return found
