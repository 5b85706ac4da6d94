"""Why few ids match: how many of a sample are common, for each of several ways to write ids.

One guest and one host at a time; a guest with several hosts runs this with each of them apart. Both
hold the same list of trials. A trial gives every row of a party's table an id, cleaned in its own way.
Written with exponents, as the papers are; the group is ristretto255, H_t a hash onto it that includes
the run's `context`, the host's name and the trial.

  1. The guest commits itself to 32 random bytes, the host sends 32 of its own. A host that takes no part
     says why instead, before it has been told anything.
  2. The guest opens its bytes. Each side says how many distinct ids it has in each trial, in which part
     of its rows, and which trials give it the same ids as an earlier one. Of trials that are the same on
     both sides one is run. The host counts how many ids the guest may ask about, and ends here if these
     are more than it answers.
  3. Both keep the ids whose hash, keyed with the bytes of both, is below a threshold that follows from
     the two numbers: a sample by content, so that an id which is in both tables is in both samples or
     in neither, and the common share of the samples is that of the tables.
  4. In each trial the guest draws a scalar a and sends H_t(x)^a of its sample, shuffled. The host draws
     a scalar b and returns their powers H_t(x)^(a b), shuffled once more, and the tags Hash(H_t(y)^b) of
     its own sample, shuffled.
  5. The guest takes a off, and counts how many of the tags are among those of its own ids.
  6. The guest tells the host the counts, for either side may have to change how it writes its ids.

Why neither chooses the sample. The host chooses its bytes before it has seen the guest's: a commitment
to 32 random bytes says nothing of them. The guest has chosen its own before it sees the host's, and
another opening is refused. So the key is random if one of the two is honest. The numbers of ids come
after it, but say only how far the threshold goes: of samples under one key the larger contains the
smaller, and the largest is had with no knowledge of the key. Who does not like a key can only break off,
and has an alignment less that day.

What each side learns. Both learn step 2's numbers, and of each trial that was run how many ids of the
samples are common. Neither learns which: the guest can not tell which of its ids an element that comes
back belongs to. Nobody else learns anything; a host learns nothing of other hosts.

A scalar serves for one sample of one host, and both orders are drawn anew for each: with one order for
two trials their answers could be laid side by side, and rows be told by both.

Against whom. Semi-honest parties, as in the paper. A guest that blinds each id with another scalar finds
out which of the ids that it asks about are in the host's sample, as an alignment tells it of all ids.
A sample's size is held against the number that its sender has announced; tables that leave fewer than
MIN_SAMPLE ids on either side are not compared. A guest may lie about its counts, and a host about its
tags: they are advice.

A sample of 2,000 puts a rate to within 2.2 points with a confidence of 95 %, enough to tell 0 % from
50 % from 97 %, and takes a tenth of a second or two a trial. When one table is much larger its sample
is bounded by MOST and the smaller one's shrinks; 200 to 1 is the most that can be compared.

Sources: Huberman, Franklin, Hogg, "Enhancing privacy and trust in electronic communities" (EC 1999); the
second shuffle, which leaves the cardinality alone, De Cristofaro, Gasti, Tsudik, "Fast and private
computation of cardinality of set intersection and union" (CANS 2012, figure 2). The interval: Wilson,
"Probable inference" (JASA 1927).
"""

import asyncio
import hashlib
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Annotated, ClassVar, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from vfl.arrays import Bytes
from vfl.crypto import group
from vfl.crypto.digests import digests
from vfl.crypto.group import Points
from vfl.crypto.randomness import Entropy, Randomness
from vfl.net.peer import Peer, together
from vfl.net.wire import KIB, Message
from vfl.protocols.align.oprf import OprfProgress
from vfl.protocols.common.fellows import keyed_hash

SAMPLE = 2_000  # ids that the smaller side's sample is to have
MOST = 20_000  # and that the larger one's may have, both on average
MIN_SAMPLE = 100  # fewer are no rate, and a question about single ids
SPREAD = 6  # standard deviations by which a sample may be off; once in a thousand million draws it is
MAX_IDS = 2**31
MAX_TRIALS = 512
TAG = 16
SHARE = 32  # bytes of the sample's key that each side contributes
WIDE = 1 << 64  # values of the hash that samples
_PART = 65_536  # rows that are hashed at a time

_LARGEST = MOST + SPREAD * math.isqrt(MOST) + 2 * SPREAD


@dataclass(frozen=True)
class Trial:
    """A way to write ids. `values`: a pass over the rows, the id of each, b"" for a row without one."""

    name: str
    values: Callable[[], Iterable[bytes]]


@dataclass(frozen=True)
class MatchRate:
    """How well ids match in a trial. Pairs are (guest's, host's).

    ids: distinct ones. filled: per cent of the rows that have one. sample: the ids compared. common: how
    many of these are in both samples, None where nothing was compared.
    """

    trial: str
    ids: tuple[int, int]
    filled: tuple[int, int]
    sample: tuple[int, int] = (0, 0)
    common: int | None = None

    @property
    def share(self) -> float | None:
        """The share of the smaller sample's ids that are common, from 0 to 1."""
        return None if self.common is None else self.common / max(1, min(self.sample))

    @property
    def interval(self) -> tuple[float, float]:
        """Where the share of the whole tables lies, with a confidence of 95 %; all if unknown."""
        if self.common is None:
            return 0.0, 1.0
        n, z = max(1, min(self.sample)), 1.959964
        share = self.common / n
        middle = (share + z * z / (2 * n)) / (1 + z * z / n)
        half = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
        return max(0.0, middle - half), min(1.0, middle + half)


@dataclass(frozen=True)
class Comparison:
    """A rate for each trial, and how many ids of its samples each side asked about, in all trials that
    were run: (guest's, host's)."""

    rates: list[MatchRate]
    asked: tuple[int, int]


Numbers = Annotated[list[int], msgspec.Meta(max_length=MAX_TRIALS)]
# Why a host takes no part: its policy does not allow it; the alignment does not meet its policy; it
# tries other ways; they would be more ids than it answers in a day.
Refusal = Literal["policy", "intersection", "trials", "day"]


class MatchStart(Message, frozen=True):
    """guest -> host. Reveals: nothing; what the guest commits itself to is random."""

    trials: Annotated[bytes, msgspec.Meta(min_length=32, max_length=32)]  # digest of their names
    commitment: Annotated[bytes, msgspec.Meta(min_length=32, max_length=32)]


class MatchShare(Message, frozen=True):
    """host -> guest. Reveals: whether the host takes part, and if not, why; the share is random."""

    share: Annotated[bytes, msgspec.Meta(max_length=SHARE)]  # empty if the host takes no part
    refused: Refusal | None = None


class MatchIds(Message, frozen=True):
    """guest -> host. Reveals: of each way to write ids that is tried, how many distinct ids the guest
    has, what per cent of its rows has one, and which ways come to the same for it."""

    share: Annotated[bytes, msgspec.Meta(min_length=SHARE, max_length=SHARE)]
    ids: Numbers
    filled: Numbers
    same: Numbers  # the number of the first trial with the same ids


class MatchSizes(Message, frozen=True):
    """host -> guest. Reveals: of each way to write ids that is tried, how many distinct ids the host
    has, what per cent of its rows has one, and which ways come to the same for it. All are empty when
    these are more ids than the host answers in a day."""

    ids: Numbers
    filled: Numbers
    same: Numbers
    refused: Refusal | None = None


class MatchSample(Message, frozen=True):
    """guest -> host, H(x)^a of a sample. Reveals: nothing; to who lacks the guest's secret a they are
    random."""

    limit: ClassVar[int] = _LARGEST * group.POINT + KIB
    points: bytes


class MatchAnswer(Message, frozen=True):
    """host -> guest, H(x)^(a b) of the guest's sample in another order, and tags of H(y)^b of its own.
    Reveals: how many ids of the two samples are common, not which."""

    limit: ClassVar[int] = _LARGEST * (group.POINT + TAG) + KIB
    points: bytes
    tags: bytes


class MatchCounts(Message, frozen=True):
    """guest -> host. Reveals: of each way to write ids that was compared, how many ids of the two
    samples are common."""

    counts: Numbers


async def guest_match_rates(
    hosts: Sequence[Peer],
    trials: Sequence[Trial],
    *,
    context: bytes,
    randomness: Randomness,
    progress: OprfProgress | None = None,
) -> dict[str, Comparison | Refusal]:
    """The guest's role: by host, what was compared, or why the host takes no part.

    trials: the same at all parties, by name. context: names the run, the same at all parties.
    Raises PeerError for a host that breaks the protocol, PeerStopped, PeerLost.
    """
    report = progress or _quiet

    # 1. The bytes that the samples' key is made of.
    said = await together([_exchange(host, trials, context, randomness) for host in hosts])
    agreed = {host.name: one for host, one in zip(hosts, said, strict=True) if isinstance(one, tuple)}
    by_trial = await _draw_all(trials, [key for _, key in agreed.values()], report) if agreed else []
    drawn_for = dict(zip(agreed, zip(*by_trial, strict=True), strict=True))

    async def with_host(host: Peer) -> Comparison | Refusal:
        # 2. Sizes.
        drawn = drawn_for[host.name]
        start = MatchIds(agreed[host.name][0], *_sizes_of(drawn))
        await host.send(start)
        theirs = await host.recv(MatchSizes)
        if theirs.refused is not None:
            return theirs.refused
        _check_sizes(host, theirs, len(trials))
        plan = _plan(trials, start, theirs)

        # 4. Blind the samples, each trial's with a scalar of its own.
        inverses: asyncio.Queue[bytes] = asyncio.Queue()

        async def send() -> None:
            for number in plan.run:
                entropy = randomness.at("blinded sample", host.name, number)
                scalar = group.random_scalar(entropy)
                own = drawn[number].below(plan.thresholds[number])
                points = await asyncio.to_thread(
                    _blind, own, _prefix(context, host.name, trials[number].name), scalar, entropy
                )
                inverses.put_nowait(group.invert(scalar))
                await host.send(MatchSample(points.tobytes()))

        # 5. Count what comes back.
        rates: list[MatchRate] = []

        async def receive() -> None:
            for done, number in enumerate(plan.run, 1):
                inverse = await inverses.get()
                answer = await host.recv(MatchAnswer)
                own = len(drawn[number].below(plan.thresholds[number]))
                points = _elements(host, "MatchAnswer", answer.points, group.POINT, own, own)
                tags = _elements(
                    host, "MatchAnswer", answer.tags, TAG, *plan.bounds(number, theirs.ids[number])
                )
                try:
                    unblinded = await asyncio.to_thread(group.multiply, points, inverse)
                except group.InvalidPoint:
                    raise host.breach("MatchAnswer with an invalid element") from None
                common = len(_distinct(_tags(unblinded)) & _distinct(tags))
                rate = plan.rates[number]
                rates.append(replace(rate, sample=(own, len(tags)), common=common))
                report(f"comparing samples with {host.name}", done, len(plan.run))

        await together([send(), receive()])

        # 6. What it came to, for both.
        await host.send(MatchCounts([rate.common or 0 for rate in rates]))
        return plan.comparison(rates)

    taking = [host for host in hosts if host.name in agreed]
    compared = await together([with_host(host) for host in taking])
    found = {host.name: one for host, one in zip(hosts, said, strict=True) if isinstance(one, str)}
    return found | {host.name: one for host, one in zip(taking, compared, strict=True)}


async def host_match_rates(
    guest: Peer,
    trials: Sequence[Trial],
    *,
    name: str,
    context: bytes,
    start: MatchStart | None = None,
    admit: Callable[[int], bool] | None = None,
    randomness: Randomness,
    progress: OprfProgress | None = None,
) -> Comparison | Refusal:
    """A host's role: what was compared, as the guest has counted; or why it takes no part, where the
    guest tries other ways to write ids than this version of vfl, or too many ids.

    name: this host's, as the guest knows it. start: the guest's first message, where it has been
    received already. admit: is told the most ids that the guest may ask about, before any is answered,
    and says whether they are. Raises PeerError, PeerStopped, PeerLost.
    """
    report = progress or _quiet

    # 1. The bytes that the samples' key is made of.
    start = start or await guest.recv(MatchStart)
    if start.trials != _digest(trials):
        await guest.send(MatchShare(b"", "trials"))
        return "trials"
    share = randomness.at("share of the key", guest.name)(SHARE)
    await guest.send(MatchShare(share))

    # 2. Sizes.
    said = await guest.recv(MatchIds)
    if _commitment(context, name, said.share) != start.commitment:
        raise guest.breach("MatchIds with another share than it had committed itself to")
    _check_sizes(guest, said, len(trials))
    key = _sampling_key(context, name, said.share, share)
    drawn = [of_key for (of_key,) in await _draw_all(trials, [key], report)]
    sizes = MatchSizes(*_sizes_of(drawn))
    plan = _plan(trials, said, sizes)
    if admit is not None and not admit(sum(plan.bounds(k, said.ids[k])[1] for k in plan.run)):
        await guest.send(MatchSizes([], [], [], "day"))
        return "day"
    await guest.send(sizes)

    # 4. Evaluate the guest's samples and the own ones.
    rates = []
    for done, number in enumerate(plan.run, 1):
        sample = await guest.recv(MatchSample)
        points = _elements(
            guest, "MatchSample", sample.points, group.POINT, *plan.bounds(number, said.ids[number])
        )
        own = drawn[number].below(plan.thresholds[number])
        prefix = _prefix(context, name, trials[number].name)
        entropy = randomness.at("evaluated samples", guest.name, number)
        try:
            answer = await asyncio.to_thread(_answer, points, own, prefix, entropy)
        except group.InvalidPoint:
            raise guest.breach("MatchSample with an invalid element") from None
        await guest.send(answer)
        rates.append(replace(plan.rates[number], sample=(len(points), len(own))))
        report(f"comparing samples with {guest.name}", done, len(plan.run))

    # 6. What the guest has counted.
    counts = (await guest.recv(MatchCounts)).counts
    if len(counts) != len(rates) or not all(
        0 <= count <= min(rate.sample) for count, rate in zip(counts, rates, strict=True)
    ):
        raise guest.breach("MatchCounts with more common ids than the samples have")
    return plan.comparison([replace(r, common=c) for r, c in zip(rates, counts, strict=True)])


async def _exchange(
    host: Peer, trials: Sequence[Trial], context: bytes, randomness: Randomness
) -> tuple[bytes, bytes] | Refusal:
    """The guest's share and the key; or why the host takes no part."""
    share = randomness.at("share of the key", host.name)(SHARE)
    await host.send(MatchStart(_digest(trials), _commitment(context, host.name, share)))
    answer = await host.recv(MatchShare)
    if answer.refused is not None and not answer.share:
        return answer.refused
    if answer.refused is not None or len(answer.share) != SHARE:
        raise host.breach("MatchShare with a share of another size than is due")
    return share, _sampling_key(context, host.name, share, answer.share)


# What both sides do.


@dataclass(frozen=True)
class _Drawn:
    """A trial's ids at one party: how many, and those with the least hashes, enough for any sample."""

    ids: int
    filled: int
    hashes: NDArray[np.uint64]  # sorted
    values: list[bytes]
    mark: bytes  # the same for trials with the same ids

    def below(self, threshold: int) -> list[bytes]:
        """The ids whose hash is below it."""
        last = np.uint64(min(threshold, WIDE) - 1)
        return self.values[: int(np.searchsorted(self.hashes, last, "right"))]


@dataclass(frozen=True)
class _Plan:
    """Which trials are run, and with what samples."""

    rates: list[MatchRate]  # of all trials, without what is to be found out
    thresholds: dict[int, int]  # of those that are run
    like: list[int]  # by trial, the one that stands for it

    @property
    def run(self) -> list[int]:
        return list(self.thresholds)

    def bounds(self, number: int, ids: int) -> tuple[int, int]:
        """The least and the most that a sample of so many ids can have."""
        threshold = self.thresholds[number]
        expected = ids * threshold / WIDE
        if threshold == WIDE:
            return ids, ids
        slack = SPREAD * math.sqrt(expected) + SPREAD
        return max(0, math.floor(expected - slack)), min(ids, math.ceil(expected + slack))

    def comparison(self, compared: Sequence[MatchRate]) -> Comparison:
        """A rate for each trial from those that were run."""
        known = dict(zip(self.run, compared, strict=True))
        rates = [
            replace(known[like], trial=rate.trial) if like in known else rate
            for rate, like in zip(self.rates, self.like, strict=True)
        ]
        asked = [sum(rate.sample[side] for rate in compared) for side in (0, 1)]
        return Comparison(rates, (asked[0], asked[1]))


def _plan(trials: Sequence[Trial], guest: MatchIds, host: MatchSizes) -> _Plan:
    rates = [
        MatchRate(trial.name, ids, filled)
        for trial, ids, filled in zip(
            trials,
            zip(guest.ids, host.ids, strict=True),
            zip(guest.filled, host.filled, strict=True),
            strict=True,
        )
    ]
    first: dict[tuple[int, int], int] = {}
    pairs = zip(guest.same, host.same, strict=True)
    like = [first.setdefault(pair, number) for number, pair in enumerate(pairs)]
    thresholds = {
        number: threshold
        for number, rate in enumerate(rates)
        if like[number] == number and (threshold := _threshold(*rate.ids))
    }
    return _Plan(rates, thresholds, like)


def _threshold(first: int, second: int) -> int:
    """Hashes below this are sampled, from tables of so many ids; 0 if they cannot be compared."""
    fewer, more = sorted((first, second))
    if not fewer:
        return 0
    threshold = min(WIDE, -(-WIDE * SAMPLE // fewer), -(-WIDE * MOST // more))
    return threshold if fewer * threshold >= MIN_SAMPLE * WIDE else 0


async def _draw_all(
    trials: Sequence[Trial], keys: Sequence[bytes], report: OprfProgress
) -> list[list[_Drawn]]:
    drawn = []
    for done, trial in enumerate(trials, 1):
        drawn.append(await asyncio.to_thread(_draw, trial, keys))
        report("trying ways to write ids", done, len(trials))
    return drawn


class _Least:
    """The ids with the least hashes under a key, of those that it has seen."""

    def __init__(self, key: bytes) -> None:
        self._key = key
        self._kept: dict[int, bytes] = {}
        self._last = np.uint64(WIDE - 1)  # the largest hash that a sample may need

    def see(self, given: Sequence[bytes]) -> NDArray[np.uint64]:
        """The hashes of these ids."""
        numbers = digests(given, domain=b"vfl match draw", prefix=self._key, size=8).view("<u8")[:, 0]
        for place in np.flatnonzero(numbers <= self._last).tolist():
            self._kept[int(numbers[place])] = given[place]
        if len(self._kept) > 2 * MOST:  # a sample needs MOST and a few
            least = sorted(self._kept)[: 2 * MOST]
            self._kept = {number: self._kept[number] for number in least}
            self._last = np.uint64(least[-1])
        return numbers

    def drawn(self, ids: int, filled: int, mark: bytes) -> _Drawn:
        least = sorted(self._kept)
        values = [self._kept[number] for number in least]
        return _Drawn(ids, filled, np.array(least, np.uint64), values, mark)


def _draw(trial: Trial, keys: Sequence[bytes]) -> list[_Drawn]:
    """Hash the ids of a trial under each key, in one pass over the rows; no more than a sample of them
    is held."""
    samples = [_Least(key) for key in keys]
    hashes, rows = [np.empty(0, np.uint64)], 0
    values = iter(trial.values())
    while part := list(islice(values, _PART)):
        rows += len(part)
        given = [value for value in part if value]
        under = [sample.see(given) for sample in samples]
        hashes.append(under[0])  # any key tells distinct ids
    every = np.concatenate(hashes)
    distinct = np.unique(every)
    mark = hashlib.sha256(distinct.tobytes()).digest()
    filled = 100 * len(every) // max(1, rows)
    return [sample.drawn(len(distinct), filled, mark) for sample in samples]


def _sizes_of(drawn: Sequence[_Drawn]) -> tuple[list[int], list[int], list[int]]:
    """What is announced of each trial: ids, per cent of rows, the first trial with the same ids."""
    first: dict[bytes, int] = {}
    same = [first.setdefault(trial.mark, number) for number, trial in enumerate(drawn)]
    return [trial.ids for trial in drawn], [trial.filled for trial in drawn], same


def _check_sizes(peer: Peer, said: MatchIds | MatchSizes, trials: int) -> None:
    kind = type(said).__name__
    if not len(said.ids) == len(said.filled) == len(said.same) == trials:
        raise peer.breach(f"{kind} with another number of trials than there are")
    if not all(0 <= ids <= MAX_IDS for ids in said.ids):
        raise peer.breach(f"{kind} with a number of ids that is not 0 to {MAX_IDS:,}")
    if not all(0 <= filled <= 100 for filled in said.filled):
        raise peer.breach(f"{kind} with a percentage that is none")
    for number, same in enumerate(said.same):
        if not 0 <= same <= number or said.same[same] != same or said.ids[same] != said.ids[number]:
            raise peer.breach(f"{kind} with trials that cannot be the same")


def _elements(peer: Peer, kind: str, data: bytes, width: int, least: int, most: int) -> Bytes:
    """The rows of a sample, (n, width). Raises PeerError unless their number can be and none comes
    twice."""
    if len(data) % width or not least <= len(data) // width <= most:
        raise peer.breach(f"{kind} with a sample of another size than is due")
    rows = np.frombuffer(data, np.uint8).reshape(-1, width)
    if len(_distinct(rows)) < len(rows):
        raise peer.breach(f"{kind} with an element twice")
    return rows


def _blind(sample: Sequence[bytes], prefix: bytes, scalar: bytes, entropy: Entropy) -> Points:
    return group.multiply(_shuffle(group.hash_to_group(sample, prefix), entropy), scalar)


def _answer(points: Points, sample: Sequence[bytes], prefix: bytes, entropy: Entropy) -> MatchAnswer:
    """Evaluate the guest's sample and the own one. Raises InvalidPoint."""
    scalar = group.random_scalar(entropy)
    evaluated = _shuffle(group.multiply(points, scalar), entropy)
    own = _tags(group.multiply(group.hash_to_group(sample, prefix), scalar))
    return MatchAnswer(evaluated.tobytes(), _shuffle(own, entropy).tobytes())


def _tags(points: Points) -> Bytes:
    prefix = hashlib.blake2b(digest_size=TAG, person=b"vfl match tag")
    out = bytearray()
    for point in points:
        digest = prefix.copy()
        digest.update(point.tobytes())
        out += digest.digest()
    return np.frombuffer(out, np.uint8).reshape(-1, TAG)


def _shuffle(rows: Bytes, entropy: Entropy) -> Bytes:
    keys = np.frombuffer(entropy(8 * len(rows)), np.uint64)
    return rows[np.argsort(keys, kind="stable")]


def _distinct(rows: Bytes) -> set[bytes]:
    data, width = rows.tobytes(), rows.shape[1]
    return {data[start : start + width] for start in range(0, len(data), width)}


def _commitment(context: bytes, host: str, share: bytes) -> bytes:
    return keyed_hash(b"vfl match commit", context, host.encode(), share).digest()


def _sampling_key(context: bytes, host: str, guests: bytes, hosts: bytes) -> bytes:
    """The key of the hash that samples, of the guest's share and the host's."""
    return keyed_hash(b"vfl match draw", context, host.encode(), guests, hosts).digest()


def _prefix(context: bytes, host: str, trial: str) -> bytes:
    return keyed_hash(b"vfl match", context, host.encode(), trial.encode()).digest()


def _digest(trials: Sequence[Trial]) -> bytes:
    return keyed_hash(b"vfl match trials", *(trial.name.encode() for trial in trials)).digest()


def _quiet(what: str, done: int, total: int) -> None:
    pass
