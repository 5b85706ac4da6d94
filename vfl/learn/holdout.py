"""Which rows train, which decide when to stop and which are held out.

By default each row is drawn by itself. With groups, whole groups are drawn: rows of one household go the
same way, as in scikit-learn's GroupShuffleSplit. With times the latest rows are held out, as in its
TimeSeriesSplit, and rows of one time go the same way. With both, a model is tried on the latest rows of
groups that it has not seen: held out are the rows that both rules hold out, and those train that neither
does. All others are left out, as they are of the same groups, or of the same times.

Where parties have rows of their own, a group is drawn by its name, so that it goes the same way at all
of them, and the times from which on rows are held out are the same at all (protocols/pooled/times.py).
"""

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from vfl.arrays import Floats, Integers, Mask
from vfl.blocks.means import stretches
from vfl.blocks.scratch import Scratch, in_pieces

_FEW = 12  # groups that are named


class OneValue(ValueError):
    """A column by which rows cannot be split, as all of them have the same value."""

    def __init__(self, use: str, column: str) -> None:
        super().__init__(f"{use} '{column}' has the same value")
        self.use = use


@dataclass(frozen=True)
class SplitColumn:
    """A column by whose values rows are split.

    place: int64 (rows,), where each row's value is among `words`. words: the values as they are written,
    of times the earliest first. moments: of times, the number of each value, of dates the seconds since
    1970; `dated`: whether they are dates.
    """

    name: str
    place: Integers
    words: Sequence[str]
    moments: Floats | None = None
    dated: bool = False

    def take(self, rows: Integers) -> "SplitColumn":
        """The column of some rows, in the order given."""
        return replace(self, place=self.place[rows])

    @property
    def times(self) -> Floats:
        """The number of each row's time."""
        if self.moments is None:
            raise ValueError("a column without times")
        return np.asarray(self.moments[self.place])


@dataclass(frozen=True)
class SplitColumns:
    """The columns by which rows are split; None where there is none."""

    group: SplitColumn | None = None
    time: SplitColumn | None = None

    def take(self, rows: Integers) -> "SplitColumns":
        """The columns of some rows, in the order given."""
        group = None if self.group is None else self.group.take(rows)
        return SplitColumns(group, None if self.time is None else self.time.take(rows))


@dataclass(frozen=True)
class ColumnShare:
    """What of a column is in each part of the rows: "train", "validation" and "held out".

    values: how many different ones. words: of times the first and the last, of groups all, if they are
    few.
    """

    column: str
    values: dict[str, int]
    words: dict[str, list[str]]


@dataclass(frozen=True)
class RowSplit:
    """What becomes of each row, as masks of shape (rows,); in none of them are rows left out."""

    train: Mask
    validation: Mask
    held_out: Mask

    @property
    def left_out(self) -> Mask:
        """The rows that neither train nor are tried on."""
        return np.asarray(~(self.train | self.validation | self.held_out))


def draw_split(draw: Floats, holdout: float, validation_share: float) -> RowSplit:
    """By each row's draw from 0 to 1: the share that is held out, and a share of the rest to stop by."""
    held_out = draw < holdout
    validation = ~held_out & (draw < holdout + (1 - holdout) * validation_share)
    return RowSplit(~held_out & ~validation, validation, held_out)


def split_by_draws(
    seed: Sequence[int],
    rows: int,
    chosen: Integers,
    entities: Integers | None,
    shares: tuple[float, float],
    scratch: Scratch = Scratch(),
) -> RowSplit:
    """What becomes of the `chosen` of so many rows, by a draw of each row, or, with `entities`, of the
    row that it names; `shares` are those of `draw_split`. scratch: where masks lie of many rows."""
    what = "which rows train"
    generator, parts = np.random.default_rng([*seed]), scratch.of_rows(rows, np.uint8, what)
    for some in stretches(rows):
        split = draw_split(generator.random(len(parts[some])), *shares)
        parts[some] = split.validation + 2 * split.held_out
    masks = [scratch.of_rows(len(chosen), np.bool_, what) for _ in range(3)]
    for some in in_pieces(len(chosen), chosen, parts, *masks, *([] if entities is None else [entities])):
        own = chosen[some]
        part = parts[own if entities is None else entities[own]]
        for number, mask in enumerate(masks):
            mask[some] = part == number
    return RowSplit(*masks)


def split_by(
    columns: SplitColumns, entity: Integers, draw: Floats, holdout: float, validation_share: float
) -> RowSplit:
    """By a column of groups, of times, or both.

    entity: int64 (rows,), a number of what each row is about; groups keep rows about the same thing
    together. draw: a number from 0 to 1 for each entity number, by which groups are drawn. Raises
    OneValue where a rule has one value alone to share out.
    """
    rules: list[tuple[str, str, Integers]] = []
    if columns.group is not None:
        whole = join_groups(columns.group.place, entity)
        rules.append(("group", columns.group.name, _rank(-draw[whole], whole)))
    if columns.time is not None:
        rules.append(("time", columns.time.name, columns.time.place))
    held_out, rest = _keep_back(rules, np.ones(len(entity), np.bool_), holdout)
    validation, train = _keep_back(rules, rest, validation_share)
    return RowSplit(train, validation, held_out)


def group_draws(groups: SplitColumn, entity: Integers, seed: int) -> Floats:
    """A draw from 0 to 1 of each row's group, float64 (rows,), by its name: the same wherever rows of
    the group are, so that parties that do not know each other's rows hold the same groups out.

    Rows about the same thing go together, with the least draw of their groups.
    """
    key = seed.to_bytes(8, "big")
    drawn = np.array([_draw_of(word, key) for word in groups.words])[groups.place]
    _, whole = np.unique(join_groups(groups.place, entity), return_inverse=True)
    least = np.ones(int(whole.max(initial=-1)) + 1)
    np.minimum.at(least, whole, drawn)
    return np.asarray(least[whole])


def _draw_of(word: str, key: bytes) -> float:
    digest = hashlib.blake2b(word.encode(), digest_size=8, key=key, person=b"vfl groups").digest()
    return (int.from_bytes(digest, "big") >> 11) / 2**53


@dataclass(frozen=True)
class Cuts:
    """The times from which on rows are held out, and from which on those of the rest decide when to
    stop."""

    held_out: float = math.inf
    validation: float = math.inf


def split_at(
    draw: Floats | None, moments: Floats | None, cuts: Cuts, holdout: float, validation_share: float
) -> RowSplit:
    """By each row's draw, its time, or both, where the cuts are known; as `split_by` and `draw_split`.

    draw, moments: float64 (rows,), or None where rows are not split by it.
    """
    rows = len(draw if draw is not None else moments if moments is not None else ())
    every = np.ones(rows, np.bool_)

    def late(first: float, share: float, cut: float) -> list[Mask]:
        by_draw = [] if draw is None else [(first <= draw) & (draw < first + share)]
        return [*by_draw, *([] if moments is None else [moments >= cut])]

    held_out, rest = _parted(every, late(0.0, holdout, cuts.held_out) if holdout else None)
    share = (1 - holdout) * validation_share
    validation, train = _parted(rest, late(holdout, share, cuts.validation) if share else None)
    return RowSplit(train, validation, held_out)


def _parted(among: Mask, late: Sequence[Mask] | None) -> tuple[Mask, Mask]:
    """Of these rows those that all masks have, and those that none has; without masks, all are left."""
    if late is None:
        return np.zeros(len(among), np.bool_), among
    both, neither = np.logical_and.reduce(late), ~np.logical_or.reduce(late)
    return np.asarray(among & both), np.asarray(among & neither)


def column_shares(columns: SplitColumns, parts: Mapping[str, Mask]) -> dict[str, ColumnShare]:
    """What of each column by which rows are split is in each of these parts, by use."""
    shares = {}
    for use, column in (("group", columns.group), ("time", columns.time)):
        if column is None:
            continue
        values, words = {}, {}
        for part, rows in parts.items():
            places = np.unique(column.place[rows]).tolist()
            values[part] = len(places)
            if use == "time":
                words[part] = [column.words[place] for place in (*places[:1], *places[1:][-1:])]
            elif len(places) <= _FEW:
                words[part] = [column.words[place] for place in places]
        shares[use] = ColumnShare(column.name, values, words)
    return shares


def join_groups(place: Integers, entity: Integers) -> Integers:
    """The least entity of each row's group, int64 (rows,): rows of one group or about one thing are
    joined, and so are those that a third joins."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    groups, of_group = np.unique(place, return_inverse=True)
    entities, of_entity = np.unique(entity, return_inverse=True)
    nodes = len(groups) + len(entities)
    ends = (of_group, len(groups) + of_entity)
    # As floats, whose sums do not come round to zero where a pair is there often.
    edges = coo_array((np.ones(len(place)), ends), shape=(nodes, nodes))
    _, part = connected_components(edges, directed=False)
    least = np.full(int(part.max(initial=0)) + 1, np.iinfo(np.int64).max)
    np.minimum.at(least, part[len(groups) :], entities)
    return np.asarray(least[part[: len(groups)]][of_group])


def _rank(order: Floats, whole: Integers) -> Integers:
    """The place of each row's group in the order of its draw; groups drawn first come last."""
    group, first, of_row = np.unique(whole, return_index=True, return_inverse=True)
    place = np.empty(len(group), np.int64)
    place[np.lexsort((group, order[first]))] = np.arange(len(group))
    return np.asarray(place[of_row])


def _keep_back(
    rules: Sequence[tuple[str, str, Integers]], among: Mask, share: float
) -> tuple[Mask, Mask]:
    """The rows that all rules keep back, and those that none does."""
    if not share:
        return np.zeros(len(among), np.bool_), among
    late = []
    for use, name, place in rules:
        last = _last_share(place[among], share)
        if last is None:
            raise OneValue(use, name)
        late.append(place >= last)
    return _parted(among, late)


def _last_share(place: Integers, share: float) -> int | None:
    """From which value on rows are the last share of all: whole values, at least the last and never the
    first, and of these the number whose rows come nearest to the share. None with one value alone."""
    values, counts = np.unique(place, return_counts=True)
    if len(values) < 2:
        return None
    late = np.cumsum(counts[::-1])[:-1]  # rows of the last value, of the last two, ...
    nearest = int(np.argmin(np.abs(late - share * len(place))))  # of two as near, the fewer rows
    return int(values[len(values) - 1 - nearest])
