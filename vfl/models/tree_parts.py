"""Parts of trees: the directions of a host's splits, a bit each, and scores from them."""

from collections.abc import Mapping

import numpy as np

from vfl.arrays import Bytes
from vfl.learn.binning import Features
from vfl.learn.class_forest import RowClassForest
from vfl.learn.explain import Explainer
from vfl.learn.forest import Planes, distinct, missing_left
from vfl.learn.row_forest import RowExplainer, RowForest, RowSides
from vfl.learn.tree import Branch
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
from vfl.protocols.common.bits import pack_bits
from vfl.protocols.lookup.layout import PartLayout
from vfl.protocols.trees.model import GuestModel, HostModel
from vfl.protocols.trees.scoring import (
    Directions,
    MissingDirections,
    changed_column,
    check_explains,
    sides_of,
    used_records,
)


class TreesPacker(PartsPacker):
    """Packs which way each of a host's splits sends each row. Raises DataError as the batch does."""

    def __init__(self, half: HostModel, features: Features) -> None:
        splits, same = distinct(half.splits)
        self._splits, self._sides = len(splits), sides_of(splits, features)
        self._layout = PartLayout(pack_bits(missing_left(splits)), tuple(same.tolist()))

    @property
    def layout(self) -> PartLayout:
        return self._layout

    def pack(self, rows: slice) -> Bytes:
        count = rows.stop - rows.start
        return _across(self._sides.left(rows, count), count)


class TreesScorer(PartsScorer):
    """Walks the trees by the guest's columns and the hosts' parts.

    Raises ModelError for an explanation of a model without covers, PeerError naming a host whose layout
    is not one of its half.
    """

    def __init__(self, model: GuestModel, layouts: Mapping[str, PartLayout], explain: bool) -> None:
        own = used_records(model, 0)
        splits, same = distinct([model.splits[record] for record in own])
        self._sides = RowSides(splits)
        self._layouts = [(name, layouts[name]) for name in model.parties[1:]]
        place_of: list[Mapping[int, int]] = [dict(zip(own, same.tolist(), strict=True))]
        planes = [len(splits)]
        for party, (host, layout) in enumerate(self._layouts, start=1):
            planes.append(_count_bits(host, layout))
            place_of.append(dict(enumerate(layout.same)))
            if used_records(model, party)[-1:] > [len(layout.same) - 1]:
                raise broken_parts(host, "without all splits of the model")
        first: list[int] = np.cumsum([0, *planes]).tolist()

        def plane(branch: Branch) -> int:
            return first[branch.party] + place_of[branch.party][branch.record]

        self._bits = planes
        self._forest: RowForest | RowClassForest = RowForest(model.trees, model.start, plane)
        if model.class_starts:
            self._forest = RowClassForest(model.trees, model.class_starts, plane)
        self._explainer: RowExplainer | Explainer | None = None
        if explain:
            check_explains(model)
            explainer = Explainer(model, plane)
            self._explainer = RowExplainer(explainer) if explainer.fits_memory else explainer

    def score(self, own: OwnColumns, parts_by_host: Mapping[str, Parts]) -> ScoredPart:
        rows, every = own.rows, slice(0, own.rows)
        bits = np.empty((rows, sum(self._bits)), np.uint8)
        try:
            self._sides.fill(bits, own.features)
        except ValueError as error:
            raise changed_column(error) from None
        first = self._bits[0]
        for (host, layout), count in zip(self._layouts, self._bits[1:], strict=True):
            parts = packed(host, layout, parts_by_host[host])
            bits[:, first : first + count] = np.unpackbits(parts, axis=1, count=count)
            first += count
        scores = self._forest.scores(bits)
        if self._explainer is None:
            return ScoredPart(every, scores, None, 0.0)
        if isinstance(self._explainer, RowExplainer):
            contributions = self._explainer.contributions(bits)
        else:
            contributions = self._explainer.contributions(np.packbits(bits.T, axis=1), rows)
        return ScoredPart(every, scores, contributions, self._explainer.base)


class TreesAnswers(PartsAnswers):
    """Which way a host's splits send rows, by their parts."""

    def __init__(self, host: str, layout: PartLayout) -> None:
        self._host, self._layout, self._count = host, layout, _count_bits(host, layout)
        self._asked = np.empty(0, np.int64)  # the bits that the batch is about

    def begin(self, start: ScoreStart) -> MissingDirections:
        records = np.frombuffer(start.splits, "<u4").astype(np.int64)
        if (records >= len(self._layout.same)).any():
            raise broken_parts(self._host, "without all splits of the model")
        bits = np.array(self._layout.same, np.int64)[records]
        self._asked, same = np.unique(bits, return_inverse=True)
        missing = self._directions([None])[:, 0].astype(np.bool_)
        return MissingDirections(same.astype("<u4").tobytes(), pack_bits(missing))

    def answer(self, parts: Parts) -> Directions:
        return Directions(np.packbits(self._directions(parts), axis=1).tobytes())

    def _directions(self, parts: Parts) -> Bytes:
        """A bit a split and row, shape (splits, rows)."""
        bits = np.unpackbits(packed(self._host, self._layout, parts), axis=1, count=self._count)
        return bits[:, self._asked].T


def _count_bits(host: str, layout: PartLayout) -> int:
    """How many bits a part has that mean anything. Raises PeerError for a layout that is none."""
    bits = len(set(layout.same))
    if sorted(set(layout.same)) != list(range(bits)) or layout.size != -(-bits // 8):
        raise broken_parts(host, "of another size than its splits")
    return bits


def _across(planes: Planes, rows: int) -> Bytes:
    """Planes, a bit a row, as bits by row: shape (rows, bytes)."""
    return np.packbits(np.unpackbits(planes, axis=1, count=rows).T, axis=1)
