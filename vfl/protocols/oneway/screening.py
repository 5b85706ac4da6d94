"""Many columns of a host at once: the guest's sums by the levels of each, as of a table by one factor.

What each column is worth by itself is a figure of the sums by its levels (vfl/learn/screening.py). So
all of them are added up in one pass over the guest's encrypted numbers, as trees have it.

 1. The guest says of which aligned rows (TableRows). The host cuts its columns into levels of enough
    rows, and says how many columns and levels there are; of columns whose tables its policy allows also
    the levels and how many rows each has.
 2. The guest says how many vectors it has (TableVectors). The host counts what it is about to tell, once
    for all columns: of each of them a sum is one about the same rows, as in trees.
 3. The guest sends its vectors encrypted. The host adds up by level, all sums under masks of its own.
 4. The host tells the masks of columns whose tables the guest may have. Where the guest's job tells
    hosts, it sends all sums back as it reads them: the host takes its masks off, and tells the figures,
    of four digits, of the columns whose tables it does not give away. Else there are none of these.
 5. The guest tells the host the figures of all its columns.

So the host sees no sum of the guest's without the guest's consent, and the guest none without the
host's: of other columns it sees a figure, for which it takes the host's word.
"""

import asyncio
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from vfl.arrays import Floats, Integers, Mask
from vfl.learn.cells import Factor, counts_of
from vfl.learn.factor_tables import add_up
from vfl.learn.fixed_point import FixedPoint, joined
from vfl.learn.losses import Loss
from vfl.learn.screening import Bin, Everything, Strength, strength_of
from vfl.net.peer import Peer
from vfl.protocols.common.bits import pack_bits
from vfl.protocols.common.participant import Resources
from vfl.protocols.oneway.host_cells import CodedCells
from vfl.protocols.oneway.messages import (
    ScreenColumns,
    ScreenedColumn,
    ScreenFigure,
    ScreenFigures,
    ScreenMasks,
    ScreenSums,
    ScreenTold,
    TableEncryption,
    TableRows,
    TableVectors,
)
from vfl.protocols.oneway.sums import (
    Count,
    HostTerms,
    HostVectors,
    ask_for,
    read_sums,
    receive_rows,
    serve_sums,
    sums_a_row,
    uncover,
)

REST = "(no row)"
"""The rows that are in no level of a host's column, as it does not have them."""


@dataclass(frozen=True)
class Numbers:
    """What is added up: what happened and, where it is another thing than rows, exposure; of the rows
    that are screened, shape (rows,), weights being factors of both."""

    actual: FixedPoint
    exposure: FixedPoint | None

    @classmethod
    def of(cls, exposure: Floats, actual: Floats) -> "Numbers":
        """Raises ValueError for what is no finite number."""
        of_exposure = FixedPoint.of(exposure) if (exposure != 1).any() else None
        return cls(FixedPoint.of(actual), of_exposure)

    @property
    def measures(self) -> list[FixedPoint]:
        return [self.actual, *([] if self.exposure is None else [self.exposure])]

    @property
    def rows(self) -> int:
        return len(self.actual.numbers)

    @property
    def totals(self) -> list[int]:
        """Exactly."""
        return [sum(one.numbers.tolist()) for one in self.measures]


@dataclass(frozen=True)
class Screened:
    """A column that was screened; without levels, rows and bins where its table is not known here."""

    name: str
    cells: int
    strength: Strength
    levels: list[str] | None = None
    rows: list[int] | None = None
    bins: list[Bin] | None = None


@dataclass(frozen=True)
class ScreenedHost:
    """What a guest knows of a host's columns."""

    columns: list[Screened]
    least: int
    encryption: TableEncryption


def screened(
    name: str,
    levels: Sequence[str],
    rows: Sequence[int],
    sums: Sequence[Sequence[int]],
    of: "Whole",
) -> Screened:
    """A column by its sums, of each measure by level; with a level for the rows that are in none."""
    names, counts = [*levels], [*rows]
    by_measure = [[*each] for each in sums]
    if (left := of.rows - sum(counts)) > 0:
        names.append(REST)
        counts.append(left)
        for each, total in zip(by_measure, of.totals, strict=True):
            each.append(total - sum(each))
    actual = [of.real(0, one) for one in by_measure[0]]
    exposure = [float(one) for one in counts]
    if len(by_measure) > 1:
        exposure = [of.real(1, one) for one in by_measure[1]]
    bins = [Bin(*one) for one in zip(exposure, actual, strict=True)]
    return Screened(name, len(names), strength_of(bins, of.everything), names, counts, bins)


def screened_here(name: str, factor: Factor, numbers: Numbers, of: "Whole") -> Screened:
    """A column that is in one place with the numbers."""
    counts = counts_of(factor.codes, len(factor.levels)).tolist()
    sums = add_up([factor], numbers.measures).sums
    return screened(name, factor.levels, counts, [[int(one or 0) for one in of] for of in sums], of)


@dataclass(frozen=True)
class Whole:
    """What both sides must know of all rows to make figures of sums."""

    everything: Everything
    rows: int
    totals: Sequence[int]  # of each measure
    decimals: Sequence[int]

    @classmethod
    def of(cls, everything: Everything, numbers: Numbers) -> "Whole":
        decimals = [one.decimals for one in numbers.measures]
        return cls(everything, numbers.rows, numbers.totals, decimals)

    def real(self, measure: int, total: int) -> float:
        """A sum of a measure as a number."""
        return FixedPoint(np.zeros(0, np.int64), self.decimals[measure]).real(total)


# --------------------------------------------------------------------------------------- guest


async def guest_screen(
    host: Peer,
    chosen: Mask | None,
    numbers: Numbers,
    everything: Everything,
    tells: bool,
    resources: Resources,
) -> ScreenedHost:
    """Play the guest. chosen: the aligned rows that are screened, None for all. tells: whether the host
    is to know the sums by its own levels.

    Raises PeerError when the host breaks the protocol, ConfigError for sums that are too long.
    """
    whole = Whole.of(everything, numbers)
    # 1. The rows, and what the host has of them.
    await host.send(TableRows(b"" if chosen is None else pack_bits(chosen)))
    found = await host.recv(ScreenColumns)
    _check_columns(host, found, numbers.rows, tells)
    # 2. The vectors.
    count = sum(column.cells for column in found.columns)
    terms = HostTerms(found.encryption, found.key_bits)
    asked, places = ask_for(numbers.measures, count, terms, hidden=True)
    await host.send(TableVectors(0, asked.value_bits, asked.filled))
    # 3. The sums, under masks.
    alone = resources.part("screened", host.name)
    read = await read_sums(host, asked, count, terms, alone)
    # 4. Those that are told, to either side.
    told = [bool(column.levels) for column in found.columns]
    shown = np.repeat(told, [column.cells for column in found.columns])
    data = (await host.recv(ScreenMasks)).masks
    if len(data) != 8 * asked.vectors * int(shown.sum()):
        raise host.breach("ScreenMasks of another number of cells")
    masks = np.frombuffer(data, "<u8").reshape(asked.vectors, -1)
    sums = np.zeros((asked.vectors, count), np.int64)
    sums[:, shown] = read.uncovered(read.masked[:, shown], masks)
    if np.abs(sums).max(initial=0) > asked.rows << asked.value_bits - 1:
        raise host.breach("ScreenMasks that leave more than rows can add up to")
    figures: list[ScreenFigure] = []
    if tells:
        await host.send(_returned(read.masked, places, whole))
        figures = (await host.recv(ScreenFigures)).figures
        if len(figures) != told.count(False) or not all(map(_is_finite, figures)):
            raise host.breach("ScreenFigures of other columns, or of what is no number")
    of_cells = _by_measure(sums, places, asked.value_bits - 1)
    columns, rest, first = [], iter(figures), 0
    for column, is_told in zip(found.columns, told, strict=True):
        own = slice(first, first := first + column.cells)
        if is_told:
            by_measure = [each[own] for each in of_cells]
            columns.append(screened(column.name, column.levels, column.rows, by_measure, whole))
        else:
            figure = next(rest)
            strength = Strength(None, figure.information, figure.share)
            columns.append(Screened(column.name, column.cells, strength))
    # 5. Figures of all.
    every = [ScreenFigure(one.strength.information, one.strength.share) for one in columns]
    await host.send(ScreenTold(every))
    return ScreenedHost(columns, found.least, found.encryption)


def _check_columns(host: Peer, found: ScreenColumns, rows: int, tells: bool) -> None:
    for column in found.columns:
        told = len(column.levels) == len(column.rows) == column.cells
        if not told and (column.levels or column.rows or not tells):
            raise host.breach("ScreenColumns of other levels than it says")
        if told and (sum(column.rows) > rows or min(column.rows) < found.least):
            raise host.breach("ScreenColumns of more rows than there are, or of a level of too few")


def _returned(masked: Integers, places: Sequence[Sequence[int]], whole: Whole) -> ScreenSums:
    everything = whole.everything
    return ScreenSums(
        masked.astype("<i8").tobytes(),
        [len(own) for own in places],
        [*whole.decimals],
        [str(total) for total in whole.totals],
        everything.half_actual,
        everything.half_other,
        everything.deviance,
    )


def _by_measure(sums: Integers, places: Sequence[Sequence[int]], bits: int) -> list[list[int]]:
    """Of each measure its sums by cell, from those of its digits."""
    cells = range(sums.shape[1])
    return [[joined([int(sums[at, cell]) for at in own], bits) for cell in cells] for own in places]


def _is_finite(figure: ScreenFigure) -> bool:
    return all(one is None or math.isfinite(one) for one in (figure.information, figure.share))


# ---------------------------------------------------------------------------------------- host


@dataclass(frozen=True)
class HostColumn:
    """A column as a host has it, of the rows that are screened.

    name: as the guest may see it. levels: as their owner knows them; shown: as the guest may see them,
    None where it gets no table. codes: of each row, -1 for none. rows: of each level.
    """

    name: str
    levels: Sequence[str]
    shown: Sequence[str] | None
    codes: Integers
    rows: Integers


@dataclass(frozen=True)
class HostScreen:
    """What a host knows of its columns: figures, and tables where the guest told it."""

    figures: list[ScreenFigure]
    tables: list[Screened]


@dataclass(frozen=True)
class ScreenRules:
    """What a host holds a screening to: how it adds up, the fewest rows of a level, whether the guest's
    job tells it sums, and the loss of that job."""

    terms: HostTerms
    least: int
    tells: bool
    loss: Loss


async def host_screen(
    guest: Peer,
    rows: int,
    columns_of: Callable[[Mask], list[HostColumn]],
    rules: ScreenRules,
    count: Count,
    resources: Resources,
    *,
    hint_progress: Callable[[int, int], None] = lambda done, of: None,
) -> HostScreen:
    """Play a host with so many aligned rows. columns_of: what it has of some of them, raises Refused.

    Raises PeerError when the guest breaks the protocol.
    """
    # 1. The rows, and what there is of them.
    chosen, terms = await receive_rows(guest, rows), rules.terms
    columns = await asyncio.to_thread(columns_of, chosen)
    shown = [_shown(column) for column in columns]
    await guest.send(ScreenColumns(terms.encryption, terms.key_bits, rules.least, shown))
    # 2. The vectors.
    vectors, number = await guest.recv(TableVectors), int(chosen.sum())
    if vectors.groups:
        raise guest.breach("TableVectors of a factor of its own")
    await asyncio.to_thread(count, sums_a_row(guest, vectors, number))
    # 3. The sums, under masks.
    told = HostVectors(number, vectors.value_bits, len(vectors.filled), 0, True)
    cells = CodedCells([(column.codes, len(column.levels)) for column in columns])
    masks, scale = await serve_sums(guest, told, cells, terms, resources, hint_progress)
    # 4. Those that are told, to either side.
    allowed = np.repeat(
        [column.shown is not None for column in columns], [len(column.levels) for column in columns]
    )
    await guest.send(ScreenMasks(masks[:, allowed].astype("<u8").tobytes()))
    tables: list[Screened] = []
    if rules.tells:
        back = await guest.recv(ScreenSums)
        whole = _whole(guest, back, number, rules.loss, told.count)
        if len(back.sums) != masks.size * 8:
            raise guest.breach("ScreenSums of another number of cells")
        read = np.frombuffer(back.sums, "<i8").astype(np.int64).reshape(masks.shape)
        sums = uncover(read, masks, scale)
        tables = _tables(guest, columns, sums, back, vectors.value_bits - 1, whole)
        own = [one for one, column in zip(tables, columns, strict=True) if column.shown is None]
        figures = [
            ScreenFigure(_short(one.strength.information), _short(one.strength.share)) for one in own
        ]
        await guest.send(ScreenFigures(figures))
    # 5. Figures of all.
    every = (await guest.recv(ScreenTold)).figures
    if len(every) != len(columns) or not all(map(_is_finite, every)):
        raise guest.breach("ScreenTold of other columns, or of what is no number")
    return HostScreen(every, tables)


def _shown(column: HostColumn) -> ScreenedColumn:
    count = len(column.levels)
    if column.shown is None:
        return ScreenedColumn(column.name, count, [], [])
    return ScreenedColumn(column.name, count, [*column.shown], column.rows.tolist())


def _short(figure: float | None) -> float | None:
    """Of so few digits that it names no row."""
    return None if figure is None else float(f"{figure:.4g}")


def _whole(guest: Peer, back: ScreenSums, rows: int, loss: Loss, vectors: int) -> Whole:
    """What the guest says of all rows. Raises PeerError."""
    measures = len(back.digits)
    numbers = (back.half_actual, back.half_other, back.deviance)
    if (
        not 1 <= measures == len(back.decimals) == len(back.totals)
        or sum(back.digits) != vectors
        or not all(math.isfinite(one) and one >= 0 for one in numbers)
        or not all(len(one) < 40 and one.removeprefix("-").isdecimal() for one in back.totals)
    ):
        raise guest.breach("ScreenSums of other vectors than it sent, or of what is no number")
    totals = [int(one) for one in back.totals]
    reals = [
        FixedPoint(np.zeros(0, np.int64), decimals).real(total)
        for decimals, total in zip(back.decimals, totals, strict=True)
    ]
    exposure = reals[1] if measures > 1 else float(rows)
    everything = Everything(loss, exposure, reals[0], *numbers)
    return Whole(everything, rows, totals, back.decimals)


def _tables(
    guest: Peer,
    columns: Sequence[HostColumn],
    sums: Integers,
    back: ScreenSums,
    bits: int,
    whole: Whole,
) -> list[Screened]:
    """Raises PeerError for sums that cannot be: the levels of a column that all rows have one of add up
    to what there is in all."""
    ends = np.cumsum([0, *back.digits]).tolist()
    places = [[*range(a, b)] for a, b in pairwise(ends)]
    of_cells, found, first = _by_measure(sums, places, bits), [], 0
    for column in columns:
        own = slice(first, first := first + len(column.levels))
        by_measure = [each[own] for each in of_cells]
        if column.rows.sum() == whole.rows and [sum(each) for each in by_measure] != [*whole.totals]:
            raise guest.breach("ScreenSums that do not add up to what there is in all")
        found.append(screened(column.name, column.levels, column.rows.tolist(), by_measure, whole))
    return found
