"""Variance inflation across parties: each learns of its own columns, and of no other's.

What a party's columns are inflated by follows from its own sums and from the block of its columns in the
inverse of all parties' X'X, X without its means (vfl/learn/inflation.py). No label and no weight is in
it, so that nothing needs the encryption of inference.py: each party makes its own part of X'X the
identity by itself, in a basis Q that it alone knows (vfl/learn/rotated.py), and only what two parties
have in common remains, which the guest may see in these bases.

 1. The guest says how many columns each party has. Each party makes Z of its columns: no means, lengths
    of one, right angles, turned by a secret Q; in whole multiples of 2^-s, where s is such that a sum
    over the rows of products of two is below half of what sums are read modulo.
 2. Of each two parties the one with fewer columns, the earlier of equals, encrypts its own over the
    lattice engine; the other adds them up by the bits of its columns, under masks
    (shared_products.py). Two hosts do so through the guest, sealed (relayed.py). What the one reads and
    the other's masks add up to sums by digits and bits. Each puts its numbers together by the powers of
    two that they count by, modulo 2^B: so these are shares of the sums of products, uniform each, from
    which no sum by a digit or a bit follows.
 3. Each host sends the guest its shares, with normal noise on them, of NOISE / root(n) an entry of
    Z'Z / n. The guest adds them up to Z'Z of all parties.
 4. The guest inverts, reads its own block, and sends each host that of its columns, in the host's
    basis. Each changes its own back.
 5. Each host says whether noise leaves some of its columns that others' may make up; those that have
    such columns are told of each other.

Learned by the guest: Z'Z under noise, that is of each two parties what their columns have in common, up
to turns that only hosts know. Of its own columns and one host's it is what follows from its own block;
of two hosts also their canonical correlations, and how its own columns lie to the directions that both
share. **A guest with columns that it has made up so has sums of a host's rows of its choice, turned.**
Programs leave out columns by which a row stands out (learn/leverage.py, learn/inflation.py), and a host
counts how many columns a guest was told of. Under noise each of them, if of length 1 as programs have
them, tells at most log2(1 + 1 / NOISE^2) / 2 = 2.04 bits of a host's column, whatever rows it is of;
what that leaves is in docs/security.md. A guest that has as many columns as all hosts has the same from
the blocks of its own columns of three jobs, with one host, with the other and with both. And how many
columns hosts have, and how many bits their largest numbers.

Learned by a host: the block of its own columns; how many columns others have, and how many bits their
largest numbers. Shares are uniform, and what it adds up is encrypted.

All follow the protocol. A guest and a host together know of another host what its columns have in common
with both's, up to its turn.
"""

import asyncio
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import combinations
from typing import Annotated, ClassVar

import numpy as np
from msgspec import Meta

from vfl.arrays import Floats, Mask, Words
from vfl.learn.inference import Alias, Inference, Noise
from vfl.learn.inflation import unbounded
from vfl.learn.matrix import Matrix, Whole
from vfl.learn.params import GlmParams
from vfl.learn.rotated import Rotated, normal
from vfl.net.peer import Peer, together
from vfl.net.wire import KIB, MIB, Message
from vfl.protocols.common.fellows import relay_keys
from vfl.protocols.common.participant import Participant, Resources
from vfl.protocols.common.transcript import Transcript
from vfl.protocols.linear.inference_messages import (
    MOST_COLUMNS,
    AliasFound,
    InferenceEnd,
    NoInference,
)
from vfl.protocols.linear.relayed import RelayedPeer, relay
from vfl.protocols.linear.start import begin_host_fit, start_hosts
from vfl.protocols.linear.turned_products import TurnedForm, share_products

PLAIN = GlmParams.model_validate({"inference": True})
"""Of columns without a model: no penalty, an intercept."""

Progress = Callable[[int, int], None]

NOISE = 0.25
"""The standard deviation of what a host adds to a product of two columns of length 1, by that of the
correlation of two columns that have nothing to do with each other, 1 / root(rows)."""

_UNSURE = 2  # standard deviations of noise, below which no direction is taken to be left


class InflationStart(Message, frozen=True):
    """guest -> host. Reveals: how many columns each party has."""

    hosts: Annotated[list[Annotated[str, Meta(max_length=64)]], Meta(max_length=64)]
    columns: Annotated[list[Annotated[int, Meta(ge=0)]], Meta(max_length=65)]  # the guest's first
    limit: ClassVar[int] = 16 * KIB


class InflationShares(Message, frozen=True):
    """host -> guest. Reveals: with the other party's shares of them, the products of its columns and the
    other party's under noise, each party's in a basis that only it knows; alone they are uniform."""

    data: bytes  # uint64
    limit: ClassVar[int] = 2 * MIB


class InflationBlock(Message, frozen=True):
    """guest -> host. Reveals: the block of the host's own columns in the inverse of all parties' X'X, in
    the basis that the host alone knows."""

    data: bytes  # float64
    limit: ClassVar[int] = 2 * MIB


# --------------------------------------------------------------------------------------- guest


async def guest_inflation(
    hosts: Sequence[Peer],
    train: Mask,
    matrix: Matrix,
    resources: Resources,
    progress: Progress = lambda done, of: None,
) -> Inference | None:
    """The guest's side. train: the aligned rows that count, of which `matrix` has the guest's columns.

    Returns the block of the guest's columns; None where there are too many columns, or hosts have none.
    Raises PeerError when a host breaks the protocol, DataError for a host of too many columns.
    """
    resources = resources.part("inflation")
    columns = await start_hosts(hosts, train, int(train.sum()), 1.0)
    await relay_keys(hosts)
    able = [host for host in hosts if columns[host.name]]
    sizes = [matrix.columns, *(columns[host.name] for host in able)]
    if not able or sum(sizes) > MOST_COLUMNS:
        await together([host.send(NoInference()) for host in hosts])
        return None
    # 1. How many columns.
    await together([host.send(InflationStart([host.name for host in able], sizes)) for host in hosts])
    rotated = await asyncio.to_thread(Rotated.of, matrix, resources.randomness.at("turned columns"))
    form = TurnedForm(matrix.rows, sizes)
    numbers = await asyncio.to_thread(rotated.numbers, form.bits)
    # 2. and 3. With each host, and of each two.
    gram, follow = np.eye(sum(sizes)), _Followed(progress, form)
    for place, host in enumerate(able, 1):
        if sizes[0]:
            alone = resources.part("pair", 0, place)
            own = await share_products(host, numbers, (0, place), form, alone)
            form.put(gram, (0, place), own + await _receive(host, form.shape(0, place)))
        follow.done((0, place))
    for one, other in combinations(range(1, len(sizes)), 2):
        pair = able[one - 1], able[other - 1]
        await relay(*pair)
        shares = await together([_receive(host, form.shape(one, other)) for host in pair])
        form.put(gram, (one, other), shares[0] + shares[1])
        follow.done((one, other))
    # 4. The inverse.
    blocks = await asyncio.to_thread(_inverse_blocks, gram, sizes, form)
    for host, block in zip(able, blocks[1:], strict=True):
        await host.send(InflationBlock(block.astype("<f8").tobytes()))
    # 5. Whose columns others' make up as well.
    found = _inference(blocks[0], rotated, form)
    told = await together([host.recv(AliasFound) for host in able])
    aliased = [host.name for host, said in zip(able, told, strict=True) if said.found]
    everyone = [*([""] if found.aliases else []), *aliased]
    await together([host.send(InferenceEnd(everyone)) for host in able])
    return _named(found, aliased)


async def _receive(host: Peer, shape: tuple[int, int]) -> Words:
    data = (await host.recv(InflationShares)).data
    if len(data) != 8 * shape[0] * shape[1]:
        raise host.breach("InflationShares of other columns than there are")
    return np.frombuffer(data, "<u8").astype(np.uint64).reshape(shape)


def _inverse_blocks(gram: Floats, sizes: Sequence[int], form: TurnedForm) -> list[Floats]:
    """Each party's block of the inverse; directions of which nothing is left count as much as could be
    by noise. Noise alone takes its variance, times others' columns, of what these leave: it is added."""
    of_host, of_hosts = (_spread(form, hosts) ** 2 for hosts in (1, 2))
    others = [sum(sizes) - size for size in sizes]
    taken = [of_host * others[0]]
    taken += [of_host * sizes[0] + of_hosts * (other - sizes[0]) for other in others[1:]]
    values, vectors = np.linalg.eigh(gram + np.diag(np.repeat(taken, sizes)))
    inverse = (vectors / np.maximum(values, _UNSURE * _noise(form).spread)) @ vectors.T
    ends = np.cumsum(sizes).tolist()
    places = [slice(end - size, end) for end, size in zip(ends, sizes, strict=True)]
    return [np.ascontiguousarray(inverse[own, own]) for own in places]


# ---------------------------------------------------------------------------------------- host


async def host_inflation(
    guest: Peer,
    rows: int,
    prepare: Callable[[Mask], Whole],
    participant: Participant,
    progress: Progress = lambda done, of: None,
) -> Inference | None:
    """A host's side, of so many aligned rows; `prepare` as of `begin_host_fit`, which says what may be
    raised.

    Returns the block of the host's own columns; None where the guest finds out nothing.
    """
    participant = participant.part("inflation")
    begun = await begin_host_fit(guest, rows, prepare, PLAIN, participant, Transcript())
    start = await guest.recv(InflationStart, NoInference)
    if isinstance(start, NoInference):
        return None
    matrix, name = begun.block.matrix, participant.name
    if not matrix.columns:
        return Inference.of(np.zeros((0, 0)), None)
    _check_start(guest, start, matrix.columns, participant)
    await asyncio.to_thread(participant.count_columns, guest.name, start.columns[0])
    place, resources = 1 + start.hosts.index(name), participant.resources
    # 1. Its columns in a basis of its own.
    rotated = await asyncio.to_thread(Rotated.of, matrix, resources.randomness.at("turned columns"))
    form = TurnedForm(matrix.rows, start.columns)
    numbers = await asyncio.to_thread(rotated.numbers, form.bits)
    follow = _Followed(progress, form)
    # 2. and 3. With the guest, and with each other host.
    if start.columns[0]:
        alone = resources.part("pair", 0, place)
        own = await share_products(guest, numbers, (place, 0), form, alone)
        await _send_noisy(guest, own, form, alone)
    follow.done((0, place))
    for pair in combinations(range(1, len(start.columns)), 2):
        if place in pair:
            (other,) = {*pair} - {place}
            fellow = start.hosts[other - 1]
            conversation = f"inflation {pair[0]} {pair[1]}"
            peer = RelayedPeer(guest, name, fellow, begun.fellows[fellow], conversation)
            alone = resources.part("pair", *pair)
            own = await share_products(peer, numbers, (place, other), form, alone)
            await peer.close()
            await _send_noisy(guest, own, form, alone)
        follow.done(pair)
    # 4. Its block.
    size = matrix.columns
    data = (await guest.recv(InflationBlock)).data
    if len(data) != 8 * size * size:
        raise guest.breach("an InflationBlock of other columns than this host's")
    block = np.frombuffer(data, "<f8").reshape(size, size)
    if not np.isfinite(block).all() or not np.allclose(block, block.T, rtol=1e-6, atol=1e-6):
        raise guest.breach("an InflationBlock that is no inverse")
    # 5. Whether others' columns make up some of them.
    found = _inference(block, rotated, form)
    await guest.send(AliasFound(bool(found.aliases)))
    end = await guest.recv(InferenceEnd)
    return _named(found, [other or guest.name for other in end.aliased if other != name])


async def _send_noisy(guest: Peer, shares: Words, form: TurnedForm, resources: Resources) -> None:
    """3. Both hosts' shares of a pair have noise: of one host alone, the other and the guest would know
    the products without it."""
    drawn = normal(resources.randomness.at("noise on shares"), *shares.shape)
    noisy = form.noisy(shares, NOISE / math.sqrt(form.rows) * drawn)
    await guest.send(InflationShares(noisy.astype("<u8").tobytes()))


def _check_start(guest: Peer, start: InflationStart, own: int, participant: Participant) -> None:
    named = dict(zip(start.hosts, start.columns[1:], strict=False))
    if len(start.columns) != len(start.hosts) + 1 or named.get(participant.name) != own:
        raise guest.breach("an InflationStart of other columns than this host's")
    if len(named) != len(start.hosts) or not set(named) <= {*participant.hosts, participant.name}:
        raise guest.breach("an InflationStart of other hosts than the job's")
    if sum(start.columns) > MOST_COLUMNS:
        raise guest.breach("an InflationStart of more columns than there may be")


# ------------------------------------------------------------------------------- what both share


class _Followed:
    """How far it is, in hundredths, by the columns of each two parties."""

    def __init__(self, progress: Progress, form: TurnedForm) -> None:
        pairs = combinations(range(len(form.sizes)), 2)
        self._weights = {pair: sum(form.shape(*pair)) for pair in pairs}
        self._progress, self._done = progress, 0
        progress(0, 100)

    def done(self, pair: tuple[int, int]) -> None:
        self._done += self._weights[pair]
        self._progress(100 * self._done // max(1, sum(self._weights.values())), 100)


def _spread(form: TurnedForm, hosts: int) -> float:
    """The standard deviation of a product of two parties, so many of them hosts."""
    return math.hypot(math.sqrt(hosts) * NOISE / math.sqrt(form.rows), form.error)


def _noise(form: TurnedForm) -> Noise:
    others = len(form.sizes) - 1
    return Noise(_spread(form, min(others, 2)), others)


def _inference(block: Floats, rotated: Rotated, form: TurnedForm) -> Inference:
    """What a party knows by its block; of its aliases not whose columns they are of."""
    root = np.asarray(np.linalg.inv(rotated.change), np.float64)
    covariance, noise = rotated.covariance(block), _noise(form)
    places = unbounded(covariance, form.rows * root.T @ root, noise)
    aliases = (Alias(places, ()),) if places else ()
    return replace(Inference.of(covariance, None), aliases=aliases, noise=noise)


def _named(found: Inference, parties: Sequence[str]) -> Inference:
    """With the other parties whose columns are aliased, too."""
    return replace(found, aliases=tuple(replace(one, parties=tuple(parties)) for one in found.aliases))
