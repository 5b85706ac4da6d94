"""Which rows train, which decide when to stop and which are held out.

By default each row is drawn by itself. With groups, whole groups are drawn: rows of one household go the
same way, as in scikit-learn's GroupShuffleSplit. With times the latest rows are held out, as in its
TimeSeriesSplit, and rows of one time go the same way. With both, a model is tried on the latest rows of
groups that it has not seen: held out are the rows that both rules hold out, and those train that neither
does. All others are left out, as they are of the same groups, or of the same times.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from vfl.arrays import Floats, Integers, Mask

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
    of times the earliest first.
    """

    name: str
    place: Integers
    words: Sequence[str]

    def take(self, rows: Integers) -> "SplitColumn":
        """The column of some rows, in the order given."""
        return SplitColumn(self.name, self.place[rows], self.words)


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
    kept, left = among.copy(), among.copy()
    for use, name, place in rules:
        last = _last_share(place[among], share)
        if last is None:
            raise OneValue(use, name)
        late = place >= last
        kept &= late
        left &= ~late
    return kept, left


def _last_share(place: Integers, share: float) -> int | None:
    """From which value on rows are the last share of all: whole values, at least the last and never the
    first, and of these the number whose rows come nearest to the share. None with one value alone."""
    values, counts = np.unique(place, return_counts=True)
    if len(values) < 2:
        return None
    late = np.cumsum(counts[::-1])[:-1]  # rows of the last value, of the last two, ...
    nearest = int(np.argmin(np.abs(late - share * len(place))))  # of two as near, the fewer rows
    return int(values[len(values) - 1 - nearest])
