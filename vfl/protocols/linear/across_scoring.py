"""Pairs of levels of two parties in scoring: steps 2 and 6 of across.py for the rows of a batch.

After ScoreStart (scoring.py), with each host that has pairs:
 1. The host says in which precision its parts are, and what its cells add to a row that it does not
    know.
 2. Base transfers, for each column of the guest's that it has pairs with.
Chunk by chunk, after ScoreRows:
 3. The guest chooses, of each row that it asks for, by its level: transfers are of rows of the batch.
 4. The host sends its part of each row in fixed point under covers, in place of PartialScores, and each
    level's part; the guest opens that of the row's own level.

Learned by the guest: each host's whole part of each row's score, cells with it, as without pairs.
Learned by a host: nothing of the guest's levels.

With each host, and of each column, transfers have random numbers of their own.

A guest that asked for a row once at each of its levels would have the cells of the row's level by
themselves: a host answers for each row once in a batch. Over several batches nothing stops it.
"""

import math
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from vfl.arrays import Bytes, Floats, Words
from vfl.crypto.randomness import Randomness
from vfl.errors import DataError
from vfl.learn.across import CrossedLevels
from vfl.learn.binning import Features
from vfl.learn.design import Design
from vfl.net.peer import Peer
from vfl.net.wire import KIB, MIB, Message
from vfl.protocols.common.batches import Places, missing_values
from vfl.protocols.common.chosen_words import Chosen, ChosenWords, OfferedWords
from vfl.protocols.linear.across import bound_of

_FIXED_BITS = 44  # of parts, relative to the size of all coefficients together
_LARGEST = 2.0**56  # of a part as an integer
_MOST_SIZE = 2.0**200

CodedTable = tuple[Words, NDArray[np.uint16]]
"""A pair's cells by both levels, and the own codes of rows."""


class AcrossScoring(Message, frozen=True):
    """host -> guest. Reveals: the order of magnitude of its coefficients; of each of the guest's columns
    that it has pairs with, what its cells add to a row that it does not know (one of missing values
    alone), level by level."""

    precision: float  # a power of two, of which parts are multiples of the inverse
    missing: list[list[float]]  # by column, of the base level first
    limit: ClassVar[int] = 256 * KIB


class CoveredScores(Message, frozen=True):
    """host -> guest. Reveals: with LevelWords and the guest's keys, the part of each of these rows'
    scores that the host's columns and the cells of the row's level make; by itself nothing, it looks
    random."""

    scores: bytes  # uint64 little-endian, fixed point modulo 2^64
    limit: ClassVar[int] = 9 * MIB
    per_row = ("scores", 64)


# --------------------------------------------------------------------------------------- guest


@dataclass
class GuestCells:
    """The guest's side with one host."""

    host: Peer
    codes: Sequence[NDArray[np.uint16]]  # by column that it has pairs with, of all rows of the batch
    said: AcrossScoring
    words: Sequence[ChosenWords]
    chosen: deque[list[Chosen]] = field(default_factory=deque)
    """Of the chunks that were asked for and not answered."""

    @classmethod
    async def meet(
        cls,
        host: Peer,
        columns: Mapping[int, str],
        design: Design,
        features: Features,
        randomness: Randomness,
    ) -> "GuestCells":
        """1. and 2. `columns`: those that it has pairs with, by their place among the job's. Raises
        PeerError."""
        factors = {factor.name: factor for factor in design.factors}
        own = [factors[name] for name in columns.values()]
        said = await host.recv(AcrossScoring)
        fits = len(said.missing) == len(own) and all(
            len(values) == len(factor.others) + 1 and all(map(math.isfinite, values))
            for values, factor in zip(said.missing, own, strict=False)
        )
        if not fits or not (0 < said.precision < math.inf and math.frexp(said.precision)[0] == 0.5):
            raise host.breach("AcrossScoring of other levels than the model has")
        words = [
            await ChosenWords.meet(
                host,
                len(factor.others),
                bound_of("", column),
                randomness.at("chosen words", host.name, column),
            )
            for column, factor in zip(columns, own, strict=True)
        ]
        codes = [factor.codes(features[factor.name]) for factor in own]
        return cls(host, codes, said, words)

    async def ask(self, rows: NDArray[np.bool_], part: slice) -> None:
        """3. For the rows of a part of the batch that the host knows."""
        chosen = [
            await words.choose(codes[part][rows])
            for words, codes in zip(self.words, self.codes, strict=True)
        ]
        self.chosen.append(chosen)

    def missing(self, part: slice) -> Floats:
        """What cells add to rows that the host does not know, shape (rows,)."""
        found = np.zeros(part.stop - part.start)
        for codes, values in zip(self.codes, self.said.missing, strict=True):
            found += np.array(values)[codes[part]]
        return found

    async def receive(self, count: int) -> Floats:
        """4. The host's part of so many rows, those that were asked for first. Raises PeerError."""
        message = await self.host.recv(CoveredScores)
        if len(message.scores) != 8 * count:
            raise self.host.breach("CoveredScores of another number of rows than asked for")
        total = np.frombuffer(message.scores, "<u8").astype(np.uint64)
        for words, chosen in zip(self.words, self.chosen.popleft(), strict=True):
            total = total + await words.receive(chosen, np.arange(count))
        return np.asarray(total.view(np.int64) / self.said.precision)


# ---------------------------------------------------------------------------------------- host


@dataclass
class HostCells:
    """A host's side."""

    guest: Peer
    precision: float
    tables: Mapping[int, Sequence[CodedTable]]
    """By the guest's column, of each pair the cells by both levels, and the own codes of all rows."""
    words: Mapping[int, OfferedWords]
    asked: NDArray[np.bool_]
    """Which of the aligned rows have been asked for in this batch."""

    @classmethod
    async def meet(
        cls,
        guest: Peer,
        cells: Sequence[CrossedLevels],
        design: Design,
        features: Features,
        coefficients: Sequence[float],
        randomness: Randomness,
    ) -> "HostCells":
        """1. and 2. `coefficients`: those of the own columns. Raises PeerError."""
        kept: dict[int, list[CrossedLevels]] = {}
        for one in cells:
            kept.setdefault(one.place, []).append(one)
        factors = {factor.name: factor for factor in design.factors}
        precision = _precision(coefficients, cells)
        absent = missing_values(features)
        tables: dict[int, list[CodedTable]] = {}
        missing = []
        for column, pairs in kept.items():
            added = np.zeros(len(pairs[0].levels))
            tables[column] = []
            for one in pairs:
                factor = factors[one.own]
                table = one.table(factor.others)
                added += table[:, int(factor.codes(absent[one.own])[0])]
                fixed = np.rint(table * precision).astype(np.int64).view(np.uint64)
                tables[column].append((fixed, factor.codes(features[one.own])))
            missing.append(added.tolist())
        await guest.send(AcrossScoring(precision, missing))
        words = {
            column: await OfferedWords.meet(
                guest,
                len(pairs[0].levels) - 1,
                bound_of("", column),
                randomness.at("offered words", guest.name, column),
            )
            for column, pairs in kept.items()
        }
        asked = np.zeros(len(tables[cells[0].place][0][1]), np.bool_)
        return cls(guest, precision, tables, words, asked)

    async def answer(self, places: Places, own: Floats) -> None:
        """3. and 4. for a chunk; `own`: what the own columns add to its rows. Raises PeerError,
        DataError for a row that the batch has had, or a number so far off that its part has no place."""
        self._ask_once(places)
        scaled = np.rint(own * self.precision)
        if not np.abs(scaled).max(initial=0.0) <= _LARGEST:
            raise DataError(
                "a number of this table is thousands of times as far off as those of training: correct "
                "it, or leave the row out",
                for_peer="a row of its table is too unlike those of training to be scored",
            )
        total, all_rows = scaled.astype(np.int64).view(np.uint64), np.arange(len(places))
        covers: dict[int, tuple[Bytes, Words]] = {}
        for column, words in self.words.items():
            rows = await words.await_choice(len(places))
            covers[column] = rows, await words.cover(rows, all_rows)
            total = total + covers[column][1]
        await self.guest.send(CoveredScores(total.astype("<u8").tobytes()))
        for column, words in self.words.items():
            pairs = [(table, codes[places]) for table, codes in self.tables[column]]

            def part(level: int, pairs: Sequence[CodedTable] = pairs) -> Words:
                found = np.zeros(len(places), np.uint64)
                for table, codes in pairs:
                    found += table[level][codes]
                return found

            rows, cover = covers[column]
            await words.send(rows, all_rows, cover, part)

    def _ask_once(self, places: Places) -> None:
        """A row at several of the guest's levels would tell its cells apart, and so its own level."""
        if self.asked[places].any() or len(np.unique(places)) < len(places):
            raise DataError(
                f"{self.guest.name} asks for a row of this table twice in a batch, which a model with "
                "pairs of levels of two parties (across in [glm]) does not answer: it has to score such "
                "rows in batches of their own",
                for_peer="two rows of the batch are one row of its table, which a model with pairs of "
                "levels of two parties (across in [glm]) does not answer: score them in batches of "
                "their own",
            )
        self.asked[places] = True


def _precision(coefficients: Sequence[float], kept: Sequence[CrossedLevels]) -> float:
    """What parts of scores are multiplied by and rounded: the same for any batch."""
    sizes = [*map(abs, coefficients), *(max(map(abs, one.coefficients)) for one in kept)]
    size = min(max(math.fsum(sizes), 1 / _MOST_SIZE), _MOST_SIZE)
    return 2.0 ** (_FIXED_BITS - math.frexp(size)[1])
