"""Scoring with trees: the guest adds up leaf weights, hosts say which way their splits send each row.

The rows of a batch have been aligned with each host apart (protocols/psi.py), so that the guest knows
which rows each host knows. For each host:
 1. The guest starts a batch. The host answers, for each of its splits, where a missing value goes.
 2. Chunk by chunk, the guest names rows by their place in the alignment with this host, and the host
    says for each of its splits which of them go left.
The guest walks its trees. A row that a host does not know follows that host's missing directions.

Linear models are scored with the same requests and other answers: protocols/glm_scoring.py.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from vfl.learn.binning import Features
from vfl.learn.losses import Floats, Integers
from vfl.learn.tree import Branch
from vfl.net.peer import Peer, together
from vfl.net.wire import KIB, MIB, Message
from vfl.protocols.bits import Mask, pack_bits, unpack_bits
from vfl.protocols.boost import GuestModel, HostModel


class ScoreStart(Message, frozen=True):
    """guest -> host. Reveals: that a batch is scored."""


class MissingDirections(Message, frozen=True):
    """host -> guest. Reveals: which way each of the host's splits sends a missing value, and how many
    splits its half of the model has."""

    splits: int
    left: bytes  # a bit a split
    limit: ClassVar[int] = 256 * KIB


class ScoreRows(Message, frozen=True):
    """guest -> host. Reveals: which of the aligned rows are scored now."""

    places: bytes  # uint32 little-endian, the place of each row in the common order
    limit: ClassVar[int] = 1 * MIB


class Directions(Message, frozen=True):
    """host -> guest. Reveals: which way each of the host's splits sends each of these rows."""

    left: bytes  # a bit a split and row, split by split
    limit: ClassVar[int] = 8 * MIB


class ScoreEnd(Message, frozen=True):
    """guest -> host. Reveals: that the batch is done."""


ROWS = 65_536  # of a chunk at most
_BITS = 32 * MIB  # of a message of directions at most

Places = NDArray[np.uint32]


async def guest_score(
    hosts: Sequence[Peer],
    model: GuestModel,
    features: Features,
    places: Sequence[Integers],
    rows: int,
    progress: Callable[[int, int], None] = lambda done, of: None,
) -> Floats:
    """The score of every row of a batch of `rows`, shape (rows,).

    `hosts` are in the order of the model's parties, the guest left out; `places` has for each the
    place of every row in the alignment with it, shape (rows,), -1 where it does not know the row.
    Raises PeerError when a host breaks the protocol.
    """
    # 1. Where missing values go.
    await together([host.send(ScoreStart()) for host in hosts])
    missing = await together(
        [_missing_directions(host, model, party) for party, host in enumerate(hosts, 1)]
    )

    # 2. Which way each row goes, chunk by chunk.
    chunk = max(1, min(ROWS, _BITS // max([1, *map(len, missing)])))
    scores = np.empty(rows)
    for first in range(0, rows, chunk):
        part = slice(first, min(first + chunk, rows))
        own = {name: column[part] for name, column in features.items()}
        theirs = await together(
            [
                _ask(host, default, place[part])
                for host, default, place in zip(hosts, missing, places, strict=True)
            ]
        )
        scores[part] = await asyncio.to_thread(_walk, model, own, theirs, part.stop - first)
        progress(part.stop, rows)
    await together([host.send(ScoreEnd()) for host in hosts])
    return scores


async def host_score(
    guest: Peer,
    model: HostModel,
    features: Features,
    rows: int,
    progress: Callable[[int, int], None] = lambda done, of: None,
) -> int:
    """Serve one batch; `features` are those of the `rows` aligned rows, in the common order.

    Returns how many rows were scored. Raises PeerError when the guest breaks the protocol.
    """
    # 1. Where missing values go.
    await guest.recv(ScoreStart)
    absent = missing_values(features)
    default = [bool(split.goes_left(absent)[0]) for split in model.splits]
    await guest.send(MissingDirections(len(default), pack_bits(np.array(default, np.bool_))))

    # 2. Which way each row goes.
    done = 0
    async for places in requests(guest, rows):
        if len(places) * len(model.splits) > _BITS + len(model.splits):
            raise guest.breach("ScoreRows of too many rows at once")
        part = {name: column[places] for name, column in features.items()}
        await guest.send(Directions(await asyncio.to_thread(_directions, model, part, len(places))))
        done += len(places)
        progress(done, rows)
    return done


async def requests(guest: Peer, rows: int) -> AsyncIterator[Places]:
    """The places of the rows that the guest asks for, chunk by chunk, until the batch is done.

    `rows` is the number of aligned rows. Raises PeerError for a place beyond them.
    """
    while isinstance(message := await guest.recv(ScoreRows, ScoreEnd), ScoreRows):
        if len(message.places) % 4:
            raise guest.breach("ScoreRows cut short")
        places: Places = np.frombuffer(message.places, "<u4")
        if len(places) > ROWS or (places >= rows).any():
            raise guest.breach("ScoreRows with rows that are not in the alignment")
        yield places


def missing_values(features: Features) -> Features:
    """A row of these columns in which every value is missing."""
    return {
        name: np.array([None if column.dtype == object else np.nan], dtype=column.dtype)
        for name, column in features.items()
    }


async def _missing_directions(host: Peer, model: GuestModel, party: int) -> Mask:
    message = await host.recv(MissingDirections)
    records = (b.record for tree in model.trees for b in tree.branches.values() if b.party == party)
    if message.splits <= max(records, default=-1):
        raise host.breach("MissingDirections with fewer splits than its half of the model")
    try:
        return unpack_bits(message.left, message.splits)
    except ValueError as error:
        raise host.breach(f"MissingDirections with {error}") from None


async def _ask(host: Peer, default: Mask, places: Integers) -> Mask:
    """A host's directions, shape (splits, rows)."""
    left = np.repeat(default[:, np.newaxis], len(places), axis=1)
    known = places >= 0
    if known.any() and len(default):
        await host.send(ScoreRows(places[known].astype("<u4").tobytes()))
        message = await host.recv(Directions)
        count = int(known.sum())
        try:
            left[:, known] = unpack_bits(message.left, len(default) * count).reshape(-1, count)
        except ValueError as error:
            raise host.breach(f"Directions with {error}") from None
    return left


def _directions(model: HostModel, features: Features, rows: int) -> bytes:
    left = np.empty((len(model.splits), rows), np.bool_)
    for i, split in enumerate(model.splits):
        left[i] = split.goes_left(features)
    return pack_bits(left.ravel())


def _walk(model: GuestModel, own: Features, theirs: Sequence[Mask], rows: int) -> Floats:
    def goes_left(branch: Branch) -> Mask:
        if branch.party == 0:
            return model.splits[branch.record].goes_left(own)
        return np.asarray(theirs[branch.party - 1][branch.record])

    scores = np.full(rows, model.start)
    for tree in model.trees:
        scores += tree.scores(rows, goes_left)
    return scores
