"""Batches that are scored, whatever the kind of model: which rows the guest asks for, chunk by chunk."""

from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from vfl.arrays import Floats, Integers, Mask
from vfl.crypto.randomness import OF_SYSTEM, Randomness
from vfl.learn.binning import Features
from vfl.net.peer import Peer
from vfl.net.wire import MIB, Message

ROWS = 65_536  # of a chunk at most

Places = NDArray[np.uint32]

UnknownLevels = Callable[[Peer, int], None]
"""Told of each host how many of its rows have a level that was not in training; may end the scoring."""


class ScoreStart(Message, frozen=True):
    """guest -> host. Reveals: that a batch is scored, which of the host's splits the trees use, and of a
    linear model whether the scores are explained."""

    splits: bytes = b""  # uint32 little-endian, ascending; none of a linear model
    explain: bool = False  # of a linear model alone
    limit: ClassVar[int] = 24 * MIB


class ScoreRows(Message, frozen=True):
    """guest -> host. Reveals: which of the aligned rows are scored now."""

    places: bytes  # uint32 little-endian, the place of each row in the common order
    limit: ClassVar[int] = 1 * MIB
    per_row = ("places", 32)


class ScoreEnd(Message, frozen=True):
    """guest -> host. Reveals: that the batch is done."""


def _quiet(done: int, of: int) -> None:
    return


@dataclass(frozen=True)
class AskingCourse:
    """How a guest is followed while a batch is scored, and where its random numbers come from."""

    progress: Callable[[int, int], None] = _quiet
    """How many rows are done, of how many."""
    unknown_levels: UnknownLevels = lambda host, rows: None
    randomness: Randomness = OF_SYSTEM


@dataclass(frozen=True)
class ScoringCourse:
    """How a host is followed while it serves a batch, and where its random numbers come from."""

    progress: Callable[[int, int], None] = _quiet
    """How many rows are done, of how many aligned ones."""
    admit: Callable[[int], None] = lambda rows: None
    """Told how many rows the guest asks for, before any of them is answered; may end the batch."""
    randomness: Randomness = OF_SYSTEM


@dataclass(frozen=True)
class ScoredPart:
    """Some rows of a batch: their scores, and what each column or party adds to them if that was asked.

    A column of the guest goes by its name, a host by the party's; a host whose policy shows its columns'
    names by "party:column" for each of them. Contributions and `base` add up to the scores.
    """

    rows: slice  # of the batch
    scores: Floats  # shape (rows,); of several classes (rows, classes)
    contributions: Mapping[str, Floats] | None  # shape (rows,) each
    base: float  # 0 without contributions


async def all_scores(parts: AsyncIterator[ScoredPart]) -> Floats:
    """The scores of a whole batch, shape (rows,), or of several classes (rows, classes)."""
    found = [part.scores async for part in parts]
    return np.concatenate(found) if found else np.empty(0)


async def _nothing_more(host: int, known: Mask, part: slice) -> None:
    return


async def request(
    hosts: Sequence[Peer | None],
    places: Sequence[Integers],
    rows: int,
    chunk: int,
    asked: Callable[[int, Mask, slice], Awaitable[None]] = _nothing_more,
) -> AsyncGenerator[slice, None]:
    """Ask the hosts about the rows chunk by chunk; yields a chunk when the next one has been asked for.

    A host that is None, or knows no row of a chunk, is not asked. `asked` is told of each other one, by
    its place, which rows of the chunk it was asked for: it may say more.
    """
    chunks = [slice(first, min(first + chunk, rows)) for first in range(0, rows, chunk)]
    for ahead, part in zip_longest(chunks, [None, *chunks]):
        if ahead is not None:
            for number, (host, place) in enumerate(zip(hosts, places, strict=True)):
                known = place[ahead] >= 0
                if host is not None and known.any():
                    await host.send(ScoreRows(place[ahead][known].astype("<u4").tobytes()))
                    await asked(number, known, ahead)
        if part is not None:
            yield part


async def requests(guest: Peer, rows: int, course: ScoringCourse) -> AsyncIterator[Places]:
    """The places of the rows that the guest asks for, chunk by chunk, until the batch is done.

    `rows` is the number of aligned rows. Raises PeerError for a place beyond them, and what the course
    raises: it is told how many rows are asked for, and once a chunk is answered how many are done.
    """
    done = 0
    while isinstance(message := await guest.recv(ScoreRows, ScoreEnd), ScoreRows):
        course.admit(len(message.places) // 4)
        if len(message.places) % 4:
            raise guest.breach("ScoreRows cut short")
        places: Places = np.frombuffer(message.places, "<u4")
        if len(places) > ROWS or (places >= rows).any():
            raise guest.breach("ScoreRows with rows that are not in the alignment")
        yield places
        done += len(places)
        course.progress(done, rows)


def missing_values(features: Features) -> Features:
    """A row of these columns in which every value is missing."""
    return {
        name: np.array([None if column.dtype == object else np.nan], dtype=column.dtype)
        for name, column in features.items()
    }
