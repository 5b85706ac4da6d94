"""Scoring with trees: the guest adds up leaf weights, hosts say which way their splits send each row.

The rows of a batch have been aligned with each host apart (protocols/align/psi.py), so that the guest
knows which rows each host knows. For each host:
 1. The guest starts a batch and names the splits that its trees use. The host answers which of them are
    the same, and where each sends a missing value.
 2. Chunk by chunk, the guest names rows by their place in the alignment with this host, and the host
    says for each of these splits, every one of equal ones once, which of the rows go left. The guest
    asks for the next chunk before it walks its trees with this one, so that all parties work at once.
A row that a host does not know follows that host's missing directions.

Explaining scores (learn/explain.py) needs nothing else: the directions, and how many rows of training
each node had, which the guest knows. Hosts do not learn whether it is done.

Linear models are scored with the same requests and other answers: protocols/linear/scoring.py.
"""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import numpy as np

from vfl.arrays import Floats, Integers, Mask
from vfl.blocks.cores import Begun
from vfl.blocks.engine import ENGINE
from vfl.errors import DataError, ModelError
from vfl.learn.binning import Features
from vfl.learn.class_forest import ClassForest
from vfl.learn.explain import Explainer, check_covers
from vfl.learn.forest import Forest, Planes, Sides, SideValues, distinct, missing_left
from vfl.learn.splits import Split
from vfl.learn.tree import Branch
from vfl.net.peer import Peer, together
from vfl.net.wire import MIB, Message, Rows
from vfl.protocols.common.batches import (
    ROWS,
    ScoredPart,
    ScoreEnd,
    ScoreStart,
    ScoringCourse,
    UnknownLevels,
    request,
    requests,
)
from vfl.protocols.common.bits import pack_bits, unpack_bits
from vfl.protocols.trees.model import GuestModel, HostModel


class MissingDirections(Message, frozen=True, omit_defaults=True):
    """host -> guest. Reveals: which of the splits asked about are the same, and which way each sends a
    missing value; how many of the aligned rows have a level that was not in training, if these are more
    than chance makes."""

    same: bytes  # uint32 little-endian for each split asked about: which of the distinct ones it is
    left: bytes  # a bit a distinct split
    unknown_levels: Rows = 0
    limit: ClassVar[int] = 24 * MIB


class Directions(Message, frozen=True):
    """host -> guest. Reveals: which way each distinct split asked about sends each of these rows."""

    left: bytes  # a bit a split and row, split by split, each filled up to whole bytes
    limit: ClassVar[int] = 8 * MIB


_BYTES = 4 * MIB  # of a message of directions at most


def guest_score(
    hosts: Sequence[Peer],
    model: GuestModel,
    features: Features,
    places: Sequence[Integers],
    rows: int,
    progress: Callable[[int, int], None] = lambda done, of: None,
    *,
    explain: bool = False,
    unknown_levels: UnknownLevels = lambda host, rows: None,
) -> AsyncGenerator[ScoredPart, None]:
    """The scores of a batch of `rows`, part by part in their order; with `explain` Shapley values, too.

    `hosts` are in the order of the model's parties, the guest left out; `places` has for each the
    place of every row in the alignment with it, shape (rows,), -1 where it does not know the row.
    Raises what `unknown_levels` does, DataError for columns that are not as they were in training,
    ModelError for an explanation of a model without covers or of several classes, PeerError when a host
    breaks the protocol.
    """
    batch = _Batch(features, places, rows, explain)
    return _score(hosts, model, batch, progress, unknown_levels)


def guest_score_from(
    hosts: Sequence[Peer], model: GuestModel, features: Features, before: Floats
) -> AsyncGenerator[ScoredPart, None]:
    """The same of rows that all parties have in one order: to each row's score `before`, in place of the
    model's start, its trees are added in turn."""
    every = np.arange(len(before))
    batch = _Batch(features, [every] * len(hosts), len(before), before=before)
    return _score(hosts, model, batch, lambda done, of: None, lambda host, rows: None)


@dataclass(frozen=True, eq=False)
class _Batch:
    """What is to be scored."""

    features: Features
    places: Sequence[Integers]
    rows: int
    explain: bool = False
    before: Floats | None = None  # each row's score without any tree; None: the model's start


async def _score(
    hosts: Sequence[Peer],
    model: GuestModel,
    batch: _Batch,
    progress: Callable[[int, int], None],
    unknown_levels: UnknownLevels,
) -> AsyncGenerator[ScoredPart, None]:
    """The scores of a batch, as `guest_score` says."""
    places, rows, before = batch.places, batch.rows, batch.before
    if batch.explain:
        check_explains(model)

    # 1. Which splits are the same, and where missing values go.
    used = [used_records(model, party) for party in range(len(hosts) + 1)]
    splits, same = distinct([model.splits[record] for record in used[0]])
    own = await asyncio.to_thread(sides_of, splits, batch.features)
    for host, records in zip(hosts, used[1:], strict=True):
        await host.send(ScoreStart(np.array(records, "<u4").tobytes()))
    answers = await together(
        [_receive_missing(host, len(records)) for host, records in zip(hosts, used[1:], strict=True)]
    )
    missing = [left for _, left, _ in answers]
    for host, (_, _, strange) in zip(hosts, answers, strict=True):
        unknown_levels(host, strange)

    first: list[int] = np.cumsum([0, len(splits), *map(len, missing)]).tolist()  # plane of each party
    place_of: list[dict[int, int]] = [
        dict(zip(records, places.tolist(), strict=True))
        for records, places in zip(used, [same, *(which for which, _, _ in answers)], strict=True)
    ]

    def plane(branch: Branch) -> int:
        return first[branch.party] + place_of[branch.party][branch.record]

    forest: Forest | ClassForest = Forest(model.trees, model.start, plane)
    if model.class_starts:
        forest = ClassForest(model.trees, model.class_starts, plane)
    explainer = Explainer(model, plane) if batch.explain else None

    def walk(part: slice, theirs: Sequence[Planes]) -> ScoredPart:
        count = part.stop - part.start
        planes = np.concatenate([own.left(part, count), *theirs])
        scores = forest.scores(planes, count, None if before is None else before[part])
        if explainer is None:
            return ScoredPart(part, scores, None, 0.0)
        return ScoredPart(part, scores, explainer.contributions(planes, count), explainer.base)

    elsewhere = (
        _Elsewhere(forest, own) if ENGINE.apart and explainer is None and before is None else None
    )

    # 2. Which way each row goes, chunk by chunk.
    chunk = min(ROWS, 8 * max(1, _BYTES // max([1, *map(len, missing)])))
    asked = [host if len(default) else None for host, default in zip(hosts, missing, strict=True)]
    async with aclosing(request(asked, places, rows, chunk)) as parts:
        async for part in parts:
            theirs = await together(
                [
                    _receive(host, default, place[part])
                    for host, default, place in zip(hosts, missing, places, strict=True)
                ]
            )
            if elsewhere is None:
                scored = [await asyncio.to_thread(walk, part, theirs)]
            else:
                scored = await elsewhere.walk(part, theirs)
            for each in scored:
                progress(each.rows.stop, rows)
                yield each
    if elsewhere is not None:
        for each in await elsewhere.end():
            progress(each.rows.stop, rows)
            yield each
    await together([host.send(ScoreEnd()) for host in hosts])


class _Elsewhere:
    """Trees that are walked by an engine of other processes, with several chunks at a time."""

    def __init__(self, forest: Forest | ClassForest, own: Sides) -> None:
        self._own, self._rules, self._trees = own, ENGINE.share(own.of_no_rows()), ENGINE.share(forest)
        self._walking: deque[tuple[slice, Begun[Floats]]] = deque()

    async def walk(self, part: slice, theirs: Sequence[Planes]) -> list[ScoredPart]:
        """Begin with a chunk; what there is of an earlier one, where enough are under way."""
        self._walking.append((part, await asyncio.to_thread(self._begin, part, theirs)))
        return [await self._first()] if len(self._walking) > ENGINE.width else []

    async def end(self) -> list[ScoredPart]:
        """What there is of the last chunks."""
        return [await self._first() for _ in range(len(self._walking))]

    def _begin(self, part: slice, theirs: Sequence[Planes]) -> Begun[Floats]:
        count = part.stop - part.start
        kernel = partial(_walk, self._trees.argument, self._rules.argument, count)
        return ENGINE.do(kernel, self._own.values(part), *theirs)

    async def _first(self) -> ScoredPart:
        part, begun = self._walking.popleft()
        return ScoredPart(part, await asyncio.to_thread(begun.result), None, 0.0)


def _walk(
    forest: Forest | ClassForest, own: Sides, count: int, values: SideValues, *theirs: Planes
) -> Floats:
    """The scores of so many rows, by the guest's values and its hosts' directions."""
    return forest.scores(np.concatenate([own.left_of(values, count), *theirs]), count)


async def host_score(
    guest: Peer,
    model: HostModel,
    features: Features,
    rows: int,
    course: ScoringCourse = ScoringCourse(),
    *,
    unknown_levels: int = 0,
) -> int:
    """Serve one batch; `features` are those of the `rows` aligned rows, in the common order, of which
    `unknown_levels` have a level that was not in training.

    Returns how many rows were scored. Raises DataError for columns that are not as they were in
    training, PeerError when the guest breaks the protocol, and what the course raises.
    """
    # 1. Which splits are the same, and where missing values go.
    start = await guest.recv(ScoreStart)
    if len(start.splits) % 4:
        raise guest.breach("ScoreStart cut short")
    asked = np.frombuffer(start.splits, "<u4").astype(np.int64)
    if (np.diff(asked) <= 0).any() or (asked >= len(model.splits)).any():
        raise guest.breach("ScoreStart with splits that are not in the model")
    splits, same = distinct([model.splits[record] for record in asked.tolist()])
    missing = pack_bits(missing_left(splits))
    await guest.send(MissingDirections(same.astype("<u4").tobytes(), missing, unknown_levels))
    sides = await asyncio.to_thread(sides_of, splits, features)

    # 2. Which way each row goes.
    done = 0
    async for places in requests(guest, rows, course):
        if -(-len(places) // 8) * len(splits) > _BYTES + len(splits):
            raise guest.breach("ScoreRows of too many rows at once")
        left = await asyncio.to_thread(sides.left, places, len(places))
        await guest.send(Directions(left.tobytes()))
        done += len(places)
    return done


def check_explains(model: GuestModel) -> None:
    """Raises ModelError for a model whose scores cannot be explained."""
    if model.class_starts:
        raise ModelError(
            "a model of several classes cannot explain scores yet: leave the explanation out"
        )
    check_covers(model.trees)


def used_records(model: GuestModel, party: int) -> list[int]:
    """The records of a party's half that the trees use, ascending."""
    branches = (branch for tree in model.trees for branch in tree.branches.values())
    return sorted({branch.record for branch in branches if branch.party == party})


def sides_of(splits: Sequence[Split], features: Features) -> Sides:
    """Which way these splits send rows. Raises DataError for a column that is not as in training."""
    try:
        return Sides(splits, features)
    except ValueError as error:
        raise changed_column(error) from None


def changed_column(error: ValueError) -> DataError:
    """The error for a column that has become categorical or numeric since the splits were made."""
    return DataError(
        f"{error}: correct categorical in [data]",
        for_peer="one of its columns is not as it was in training (its log has the details)",
    )


async def _receive_missing(host: Peer, splits: int) -> tuple[Integers, Mask, int]:
    """Which of the host's distinct splits each one is, which way these send a missing value, and how
    many of its rows have a level that was not in training."""
    message = await host.recv(MissingDirections)
    if len(message.same) != 4 * splits:
        raise host.breach("MissingDirections about another number of splits than asked for")
    same = np.frombuffer(message.same, "<u4").astype(np.int64)
    count = len(np.unique(same))
    if count and same.max() >= count:
        raise host.breach("MissingDirections about splits that were not asked for")
    try:
        return same, unpack_bits(message.left, count), message.unknown_levels
    except ValueError as error:
        raise host.breach(f"MissingDirections with {error}") from None


async def _receive(host: Peer, default: Mask, places: Integers) -> Planes:
    """A host's directions of a chunk that it was asked for, shape (splits, bytes)."""
    known = places >= 0
    count = int(known.sum())
    if not count or not len(default):
        byte = np.where(default, 0xFF, 0).astype(np.uint8)
        return np.repeat(byte[:, np.newaxis], -(-len(places) // 8), axis=1)
    message = await host.recv(Directions)
    if len(message.left) != len(default) * -(-count // 8):
        raise host.breach("Directions with a wrong number of bits")
    left = np.frombuffer(message.left, np.uint8).reshape(len(default), -1)
    return left if count == len(places) else await asyncio.to_thread(_spread, left, default, known)


def _spread(left: Planes, default: Mask, known: Mask) -> Planes:
    """Directions of the known rows among all, where the others go by default."""
    count = int(known.sum())
    source = np.where(known, np.cumsum(known) - 1, count)
    planes = np.empty((len(left), -(-len(known) // 8)), np.uint8)
    for plane, sent, otherwise in zip(planes, left, default, strict=True):
        bits = np.append(np.unpackbits(sent, count=count), otherwise)
        plane[:] = np.packbits(bits[source])
    return planes
