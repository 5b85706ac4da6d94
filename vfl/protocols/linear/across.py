"""Pairs of levels of two parties, a guest's column and a host's, in a fit (fitting.py).

The host owns a coefficient for each cell (a, b), its level b in a row with the guest's level a, as if it
had a column for it, and learns neither which rows are in a cell nor any row's level a. The guest learns
of each row how the row's own cell changes its score, with all else that the host's columns do, and
nothing of other cells. After step 1 of a fit:

 1. The guest says how many levels its columns have, and each host which columns of its matrix are the
    levels that it has pairs of; to these hosts the guest says how many rows that train each level has.
 2. Transfers (common/chosen_words.py): of each aligned row the guest chooses by its level a.
 3. The guest sends, of each level a, which rows have it, under encryption and as it sends residuals. So
    the host learns how many rows each cell has, and nobody else does.
 4. The host chooses cells that have enough rows and tell more than the others do, as within a party
    (learn/crossings.py), and says of which it is to be given sums.
In each iteration:
 5. After the residuals the guest sends, of each level a, those of the rows that have it, zeros
    elsewhere. A host adds them up by its levels under masks, and is given its cells' sums and no others:
    the part of its gradient that is of cells.
 6. With the change of scores by its own columns a host sends, of each level a, by how much the cells of
    this level change each row's, and the guest opens the word of the row's own level.
Rows held out come at the end in the same way, and the rows of a batch when they are scored (scoring.py).

Learned by the guest: as in fitting.py, as if the host had a column for each cell; with which of a
host's levels a level of its own has enough rows. Learned by a host: how many rows each cell has, also
the small ones; its own gradient, also of cells. What it is given more is counted with the labels that it
could read (Fit.readable). A cell with few rows would show it single residuals: so each has `across_rows`
at least.

A host that sends a wrong word for one level of a row sees by its next gradient whether the row has that
level: hosts are trusted to follow the protocol, as with what they have opened.

Messages by which the guest tells hosts different things are not among those that masks are drawn from
(heard.py): a guest that lies in them lies about its own levels.

Transfers are drawn by host and column; words and what covers them follow from the transfers' keys.
"""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from vfl.arrays import Bytes, Floats, Integers, Mask, Words
from vfl.blocks.engine import ENGINE
from vfl.errors import DataError
from vfl.learn.across import (
    Cells,
    CrossedMatrix,
    FittedCells,
    GuestLevels,
    PairOfParties,
    choose_cells,
)
from vfl.learn.params import GlmParams
from vfl.learn.sparse import block_of
from vfl.net.peer import Peer, one_line, together
from vfl.net.wire import KIB, Message
from vfl.protocols.common.chosen_words import MOST_LEVELS, Chosen, ChosenWords, OfferedWords
from vfl.protocols.common.fellows import Masks, keyed_hash
from vfl.protocols.common.participant import Resources
from vfl.protocols.linear.masked_numbers import divergence
from vfl.protocols.linear.masked_scores import HeldOutScores, ScoreChange, send_scores
from vfl.protocols.linear.products import Gradient, GuestGradients, LevelSums
from vfl.protocols.linear.rounding import Rounded, most_bits
from vfl.protocols.linear.start import HostStart, check_columns

_LARGEST = 2.0**56  # of a cell's part of a score as an integer
_MOST_NAME = 200


class AcrossStart(Message, frozen=True):
    """guest -> host. Reveals: how many levels, the base level left out, each of the guest's columns has
    that the job has pairs of."""

    levels: list[int]


class AcrossFactors(Message, frozen=True):
    """host -> guest. Reveals: of each of its columns that it has a pair of, how many levels it has, and
    which of its columns in the matrix these are."""

    firsts: list[int]
    levels: list[int]


class AcrossLevels(Message, frozen=True):
    """guest -> host, for each of the guest's columns that this host has a pair with. Reveals: how many
    of the rows that train each of its levels has; where the job says so, what they are called."""

    rows: list[int]  # the base level's first
    names: list[str]  # the same, or none
    limit: ClassVar[int] = 512 * KIB


class CellsChosen(Message, frozen=True):
    """host -> guest, for each of its pairs. Reveals: which of the guest's levels have enough rows
    together with which of the host's, whose names it does not say."""

    levels: list[int]  # of the guest's column, from 1 on
    columns: list[int]  # of the host's matrix
    limit: ClassVar[int] = 64 * KIB


# --------------------------------------------------------------------------------------- guest


@dataclass(frozen=True)
class _OnePair:
    """A pair of a host's, as the guest knows it."""

    column: int  # the guest's
    columns: range  # of the host's matrix
    cells: tuple[tuple[int, int], ...] = ()  # the guest's level, and the column of the host's matrix


class GuestAcross:
    """The guest's part, with all hosts."""

    def __init__(
        self,
        hosts: Sequence[Peer],
        columns: Sequence[GuestLevels],
        train: Mask,
        params: GlmParams,
        resources: Resources,
    ) -> None:
        """`columns`: those of the job's pairs, in their order; without pairs nothing is said."""
        self._hosts, self._columns, self._params = hosts, columns, params
        self._train, self._randomness = train, resources.randomness.part("pairs of parties")
        self._codes = [column.codes[train] for column in columns]
        self._pairs: dict[str, list[_OnePair]] = {}
        self._words: dict[tuple[str, int], tuple[ChosenWords, Chosen]] = {}

    @property
    def levels(self) -> list[int]:
        """Of each column, the base level left out."""
        return [len(column.levels) - 1 for column in self._columns]

    async def announce(self) -> None:
        """1. How many levels there are, before hints are made."""
        await together([host.send(AcrossStart(self.levels)) for host in self._hosts])

    async def meet(
        self,
        gradients: GuestGradients,
        columns: Mapping[str, int],
        weighing: int,
        apart: int | None = None,
    ) -> int:
        """1. to 4. `columns`: of each host's matrix; the rest as in `check_columns`. Returns how many
        cells there are. Raises PeerError, DataError for too many cells."""
        await together([self._meet(host, columns[host.name]) for host in self._hosts])
        ones = Rounded(np.ones(int(self._train.sum()), np.int64), 1.0)
        bits = most_bits(len(ones.integers), 0)
        for place, levels in enumerate(self.levels):
            every = {
                name: [[at for pair in pairs if pair.column == place for at in pair.columns]] * levels
                for name, pairs in self._pairs.items()
            }
            await gradients.open_levels(LevelSums(ones, bits, self._codes[place], every))
        found = await together([self._chosen(host) for host in self._hosts])
        for host, pairs in zip(self._hosts, found, strict=True):
            self._pairs[host.name] = pairs
            check_columns(host.name, columns[host.name] + self._cells(host.name), weighing, apart)
        return sum(self._cells(host.name) for host in self._hosts)

    async def _meet(self, host: Peer, columns: int) -> None:
        """1. and 2., with one host."""
        of = self._params.pairs.with_host(host.name)
        if not of:
            self._pairs[host.name] = []
            return
        said = await host.recv(AcrossFactors)
        if not len(said.firsts) == len(said.levels) == len(of):
            raise host.breach("AcrossFactors of another number of pairs than the job has")
        self._pairs[host.name] = pairs = [
            _OnePair(column, range(first, first + levels))
            for (column, _), first, levels in zip(of, said.firsts, said.levels, strict=True)
        ]
        for pair in pairs:
            if not 0 <= pair.columns.start < pair.columns.stop <= columns:
                raise host.breach("AcrossFactors of columns that it does not have")
        for column in dict.fromkeys(pair.column for pair in pairs):
            own = self._columns[column]
            rows = np.bincount(self._codes[column], minlength=len(own.levels)).tolist()
            await host.send(AcrossLevels(rows, [*own.levels] if self._params.across_names else []))
            stream = self._randomness.at("transfers", host.name, column)
            bound = bound_of(host.name, column)
            words = await ChosenWords.meet(host, len(own.levels) - 1, bound, stream)
            self._words[host.name, column] = words, await words.choose(own.codes)

    async def _chosen(self, host: Peer) -> list[_OnePair]:
        """4. The cells that a host has chosen."""
        pairs = []
        for pair in self._pairs[host.name]:
            said = await host.recv(CellsChosen)
            cells = tuple(zip(said.levels, said.columns, strict=False))
            if not cells or len(said.levels) != len(said.columns) or len({*cells}) < len(cells):
                raise host.breach("CellsChosen that are none, or not by pairs")
            levels = range(1, len(self._columns[pair.column].levels))
            if not all(level in levels and column in pair.columns for level, column in cells):
                raise host.breach("CellsChosen of levels that there are not")
            pairs.append(replace(pair, cells=cells))
        return pairs

    def _cells(self, host: str) -> int:
        return sum(len(pair.cells) for pair in self._pairs[host])

    def labels(self, gradients: GuestGradients, rounded: Rounded) -> dict[str, int]:
        """How many labels each host could read of its cells' sums at most."""
        return {name: gradients.cell_labels(self._cells(name), rounded) for name in self._pairs}

    async def open(self, gradients: GuestGradients, rounded: Rounded) -> None:
        """5. Let hosts have the sums of their cells. Raises PeerError."""
        for place, levels in enumerate(self.levels):
            wanted = {
                name: _by_level(
                    [cell for pair in pairs if pair.column == place for cell in pair.cells], levels
                )
                for name, pairs in self._pairs.items()
            }
            await gradients.open_levels(LevelSums(rounded, rounded.bits, self._codes[place], wanted))

    async def uncover(self, shares: Sequence[Words], *, held_out: bool = False) -> list[Words]:
        """6. What hosts have sent of rows, with the cells' part. Raises PeerError."""
        if not self._words:
            return [*shares]
        places = np.flatnonzero(~self._train if held_out else self._train)

        async def add(host: Peer, share: Words) -> Words:
            for (name, _), (words, chosen) in self._words.items():
                if name == host.name:
                    share = share + await words.receive(chosen, places)
            return share

        return await together([add(*one) for one in zip(self._hosts, shares, strict=True)])


def _by_level(cells: Sequence[tuple[int, int]], levels: int) -> list[list[int]]:
    """The columns of cells by the guest's level, from 1 on."""
    return [[column for own, column in cells if own == level] for level in range(1, levels + 1)]


def bound_of(host: str, column: int) -> bytes:
    """What the transfers of a column with a host are bound to."""
    return keyed_hash(b"vfl across", host.encode(), column.to_bytes(4, "big")).digest()


# ---------------------------------------------------------------------------------------- host


class HostAcross:
    """A host's part. `pairs`: in the order of the job."""

    def __init__(
        self, guest: Peer, name: str, pairs: Sequence[PairOfParties], levels: Sequence[int]
    ) -> None:
        self._guest, self._name, self._pairs, self.levels = guest, name, pairs, levels
        self.found: list[FittedCells] = []
        self._words: dict[int, tuple[OfferedWords, Bytes]] = {}

    @classmethod
    async def begin(
        cls, guest: Peer, name: str, pairs: Sequence[PairOfParties], params: GlmParams
    ) -> "HostAcross":
        """1. How many levels there are. Raises PeerError."""
        levels = (await guest.recv(AcrossStart)).levels
        if len(levels) != len(params.pairs.columns):
            raise guest.breach("AcrossStart of another number of columns than the job has")
        if not all(1 <= count <= MOST_LEVELS for count in levels):
            raise guest.breach(f"AcrossStart of no levels, or more than {MOST_LEVELS}")
        return cls(guest, name, pairs, levels)

    async def meet(
        self,
        gradient: Gradient,
        begun: HostStart,
        params: GlmParams,
        resources: Resources,
    ) -> HostStart:
        """1. to 4.; returns the start of a fit of the cells, too. Raises PeerError, DataError for a pair
        without any cell."""
        guest, own = self._guest, begun.block.matrix
        randomness = resources.randomness.part("pairs of parties")
        said: dict[int, AcrossLevels] = {}
        if self._pairs:
            factors = [pair.factor for pair in self._pairs]
            firsts, levels = ([getattr(one, of) for one in factors] for of in ("first", "levels"))
            await guest.send(AcrossFactors(firsts, levels))
        for column in dict.fromkeys(pair.column for pair in self._pairs):
            said[column] = await self._levels(column, own.rows, params)
            stream = randomness.at("transfers", column)
            bound = bound_of(self._name, column)
            words = await OfferedWords.meet(guest, self.levels[column], bound, stream)
            self._words[column] = words, await words.await_choice(len(begun.training))
        counts = await self._counts(gradient, own.rows)
        for pair, inner in zip(self._pairs, counts, strict=True):
            levels_said = said[pair.column]
            sizes = np.bincount(
                ENGINE.gather(own.codes)[pair.factor.row], minlength=pair.factor.levels + 1
            )
            whole = _whole(inner, np.array(levels_said.rows), sizes)
            if (whole < 0).any():
                raise guest.breach("AcrossLevels of other rows than it has sent")
            try:
                cells = choose_cells(pair, whole)
            except ValueError as error:
                raise no_cells(error) from None
            self.found.append(FittedCells(cells, tuple(levels_said.names)))
            await guest.send(CellsChosen([level for level, _ in cells.cells], cells.columns))
        self._begun = begun
        crossed = CrossedMatrix.of(own, [one.cells for one in self.found])
        block = await asyncio.to_thread(block_of, crossed, params, begun.curvature)
        return replace(begun, block=block)

    async def _levels(self, column: int, rows: int, params: GlmParams) -> AcrossLevels:
        """1. What the guest says of a column's levels."""
        guest, count = self._guest, self.levels[column] + 1
        said = await guest.recv(AcrossLevels)
        if len(said.rows) != count or min(said.rows) < 0 or sum(said.rows) != rows:
            raise guest.breach("AcrossLevels of other rows than train")
        if len(said.names) != (count if params.across_names else 0):
            raise guest.breach("AcrossLevels of another number of names than the job says")
        return AcrossLevels(said.rows, [one_line(name, _MOST_NAME) for name in said.names])

    async def _counts(self, gradient: Gradient, rows: int) -> list[Integers]:
        """3. Rows of each pair by level of the guest's and of its own, base levels left out."""
        found = [np.zeros((self.levels[pair.column], pair.factor.levels)) for pair in self._pairs]
        for column, levels in enumerate(self.levels):
            places = [place for place, pair in enumerate(self._pairs) if pair.column == column]
            factors = [self._pairs[place].factor for place in places]
            every = [at for one in factors for at in range(one.first, one.first + one.levels)]
            sums = await gradient.of_levels([every] * levels, most_bits(rows, 0))
            for level, own in enumerate(sums):
                first = 0
                for place, factor in zip(places, factors, strict=True):
                    found[place][level] = own[first : first + factor.levels]
                    first += factor.levels
        return [counts.astype(np.int64) for counts in found]

    async def product(self, gradient: Gradient, bits: int) -> Floats:
        """5. The part of X^T r that is of cells, shape (cells,)."""
        cells = [(one.cells.pair.column, cell) for one in self.found for cell in _cells_of(one.cells)]
        found = np.zeros(len(cells))
        for column, levels in enumerate(self.levels):
            by_level: list[list[int]] = [[] for _ in range(levels)]
            for place, (own, (level, _)) in enumerate(cells):
                if own == column:
                    by_level[level - 1].append(place)
            wanted = [[cells[place][1][1] for place in places] for places in by_level]
            for places, sums in zip(by_level, await gradient.of_levels(wanted, bits), strict=True):
                found[places] = sums
        return found

    async def send(
        self,
        kind: type[ScoreChange] | type[HeldOutScores],
        scores: Floats,
        coefficients: Floats,
        precision: float,
        masks: Masks,
    ) -> None:
        """6. Scores by own columns, shape (rows,), and the part of the cells with these coefficients."""
        begun = self._begun
        held_out = kind is HeldOutScores
        places = np.flatnonzero(~begun.training if held_out else begun.training)
        matrix = begun.held_out if held_out else begun.block.matrix
        codes = ENGINE.gather(matrix.codes)
        covers = {
            column: await words.cover(rows, places) for column, (words, rows) in self._words.items()
        }
        await send_scores(self._guest, kind, scores, precision, masks, list(covers.values()))
        tables = self._tables(coefficients, precision)
        for column, (words, rows) in self._words.items():
            own = [
                (table, codes[one.cells.pair.factor.row])
                for one, table in zip(self.found, tables, strict=True)
                if one.cells.pair.column == column
            ]

            def part(level: int, own: Sequence[tuple[Words, NDArray[np.uint16]]] = own) -> Words:
                found = np.zeros(len(places), np.uint64)
                for table, of in own:
                    found += table[level][of]
                return found

            await words.send(rows, places, covers[column], part)

    def _tables(self, coefficients: Floats, precision: float) -> list[Words]:
        """Each pair's cells in fixed point, by the guest's level and the own one."""
        tables, first = [], 0
        for one in self.found:
            own = coefficients[first : first + len(one.cells.cells)]
            tables.append(cells_in_fixed_point(one.cells.table(own), precision))
            first += len(own)
        return tables


def no_cells(error: ValueError) -> DataError:
    """The error of a pair of which no cells can be fitted."""
    why = f"a pair of across in [glm] {error}"
    return DataError(why, for_peer=why)


def cells_in_fixed_point(coefficients: Floats, precision: float) -> Words:
    """Cells' coefficients as multiples of the precision's inverse, modulo 2^64. Raises ConfigError."""
    rounded = np.rint(coefficients * precision)
    if not np.abs(rounded).max() <= _LARGEST:
        raise divergence("scores")
    return rounded.astype(np.int64).view(np.uint64)


def _cells_of(cells: Cells) -> list[tuple[int, int]]:
    """The guest's level and the column of the own matrix of each cell."""
    return [(level, column) for (level, _), column in zip(cells.cells, cells.columns, strict=True)]


def _whole(inner: Integers, rows: Integers, sizes: Integers) -> Integers:
    """The table of both sides' levels, base levels first, from the inner part and the sums of each
    side."""
    beside = np.concatenate([(rows[1:] - inner.sum(axis=1))[:, np.newaxis], inner], axis=1)
    return np.concatenate([(sizes - beside.sum(axis=0))[np.newaxis], beside])
