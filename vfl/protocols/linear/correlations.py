"""How strongly single columns of two parties go together, to two decimals, for who may know.

What a figure is stands in vfl/learn/association.py. Each party turns each of its columns by itself.

 1. A host says what its columns are called and how many levels they have, and whether they may be held
    against other hosts' too. The guest tells each the sizes of all. Each host counts the figures that
    this will tell, and refuses more than it allows.
 2. A guest and a host share the products of their columns (turned_products.py). The guest adds noise to
    its shares that hides any single row of its own, and sends them.
 3. The host puts both together, adds noise that hides any single row of its own, with all that are
    joined to it, rounds to two decimals and tells the guest.
 4. Two hosts do the same through the guest, sealed: the earlier one in the guest's place. The later one
    tells both, where both allow it.

Learned by the guest: the figures, and about how large noise was. Learned by a host: of each two columns
the products, under noise, turned by the other's secret rotation; of two numbers r, under noise. Both are
held against columns of the other's choice; what these can tell of a row is in docs/security.md. Noise
has a place for each two parties: the same on two tables would go when they are subtracted.
"""

import asyncio
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Annotated, ClassVar

import msgspec
import numpy as np
from numpy.typing import NDArray

from vfl.arrays import Floats, Integers, Words
from vfl.errors import ConfigError
from vfl.learn.association import (
    HUNDREDTHS,
    Associated,
    associations,
    hundredths,
    longest_rows,
)
from vfl.learn.rotated import normal
from vfl.net.peer import Peer, together
from vfl.net.wire import MIB, Message
from vfl.protocols.common.fellows import exchange_keys, relay_keys
from vfl.protocols.common.participant import Participant, Resources
from vfl.protocols.linear.relayed import RelayedPeer, relay
from vfl.protocols.linear.turned_products import TurnedForm, share_products
from vfl.text import counted

MOST_WIDTH = 2000
"""Columns and levels of all parties together."""

_MOST_NOISE = 100.0  # standard deviations of an entry, which is 1 at most

_Sizes = list[Annotated[int, msgspec.Meta(ge=0, le=MOST_WIDTH)]]


class CorrelationColumns(Message, frozen=True):
    """host -> guest. Reveals: what the host's columns are called, as its policy shows them, which are
    numbers and how many levels the others have; whether they may be held against other hosts'."""

    names: Annotated[list[str], msgspec.Meta(max_length=MOST_WIDTH)]
    sizes: Annotated[_Sizes, msgspec.Meta(max_length=MOST_WIDTH)]  # 0 of a number, else levels less one
    between: bool
    limit: ClassVar[int] = MIB


class CorrelationStart(Message, frozen=True):
    """guest -> host. Reveals: of each party how many columns it has, which are numbers and how many
    levels the others have; which hosts are held against each other."""

    hosts: Annotated[list[Annotated[str, msgspec.Meta(max_length=64)]], msgspec.Meta(max_length=64)]
    sizes: Annotated[list[_Sizes], msgspec.Meta(max_length=65)]  # the guest's first
    between: Annotated[list[int], msgspec.Meta(max_length=64)]  # places of hosts, the first's 1
    limit: ClassVar[int] = MIB


class CorrelationShares(Message, frozen=True):
    """Either -> either, between hosts sealed. Reveals: with the receiver's shares, the products of both
    parties' columns under noise, the sender's turned so that only it knows; how large noise is, which is
    how far from the mean its columns' rows lie at most."""

    data: bytes  # uint64
    noise: bytes  # float64, of each column of the sender's
    limit: ClassVar[int] = 32 * MIB


class Correlations(Message, frozen=True):
    """Either -> either, between hosts sealed. Reveals: how strongly each two columns of two parties go
    together, in hundredths and with noise; about how large that is."""

    figures: bytes  # int16, a row a column of who gave shares
    errors: bytes
    limit: ClassVar[int] = 16 * MIB


@dataclass(frozen=True)
class Told:
    """Figures of two parties' columns, in hundredths: `of` is the party whose columns are the rows."""

    of: str
    other: str
    rows: list[str]
    columns: list[str]
    figures: list[list[int]]
    errors: list[list[int]]  # two standard deviations of the noise


# --------------------------------------------------------------------------------------- guest


async def guest_correlations(
    hosts: Sequence[Peer], name: str, own: Associated, rows: int, resources: Resources
) -> list[Told]:
    """The guest's side. own: its columns, of so many rows that count.

    Raises PeerError when a host breaks the protocol.
    """
    # 1. What there is.
    resources = resources.part("correlations")
    found = await together([host.recv(CorrelationColumns) for host in hosts])
    for host, one in zip(hosts, found, strict=True):
        if len(one.names) != len(one.sizes):
            raise host.breach("CorrelationColumns of other sizes than names")
    sizes = [own.sizes, *(one.sizes for one in found)]
    if (width := sum(map(_width, sizes))) > MOST_WIDTH:
        raise ConfigError(
            f"correlations = true in [screen] is about {counted(width, 'column')} and levels of all "
            f"parties, more than {MOST_WIDTH:,}: leave names with many levels out by ignore in [data]",
            for_peer="its job has too many columns and levels for correlations",
        )
    between = [place for place, one in enumerate(found, 1) if one.between and len(one.sizes)]
    between = between if len(between) > 1 else []
    names = [host.name for host in hosts]
    await together([host.send(CorrelationStart(names, sizes, between)) for host in hosts])
    await relay_keys(hosts)
    form = _form(rows, sizes)
    numbers = await asyncio.to_thread(own.numbers, form.bits) if own.columns else _none(rows)
    known: list[Told] = []
    for place, host in enumerate(hosts, 1):
        if own.sizes and sizes[place]:
            # 2. Shares, with noise. 3. Figures.
            pair = _Pair(form, sizes, 0, place)
            await _give(host, pair, numbers, resources)
            given = await host.recv(Correlations)
            tables = pair.read(host, given)
            columns = [one.name for one in own.columns]
            known.append(Told(name, host.name, columns, found[place - 1].names, *tables))
    # 4. Each two hosts.
    for first, second in combinations(between, 2):
        pair, last = _Pair(form, sizes, first, second), hosts[second - 1]
        await relay(hosts[first - 1], last)
        given = await last.recv(Correlations)
        tables = pair.read(last, given)
        of, beside = found[first - 1].names, found[second - 1].names
        known.append(Told(names[first - 1], last.name, of, beside, *tables))
    return known


# ---------------------------------------------------------------------------------------- host


@dataclass(frozen=True)
class HostColumns:
    """A host's columns as it tells of them. shown: what each is called; between: whether they may be
    held against other hosts'; joined: as of `longest_rows`."""

    own: Associated
    shown: Sequence[str]
    between: bool
    joined: Integers | None = None


async def host_correlations(
    guest: Peer,
    columns: HostColumns,
    rows: int,
    participant: Participant,
    count: Callable[[int], None],
) -> list[Told]:
    """A host's side, of so many rows that count; what it knows of its own columns. count: told of how
    many figures, before any is made; raises Refused for more than may be.

    Raises PeerError when the guest breaks the protocol.
    """
    participant = participant.part("correlations")
    own, resources = columns.own, participant.resources
    # 1. What there is.
    await guest.send(CorrelationColumns([*columns.shown], own.sizes, columns.between))
    start = await guest.recv(CorrelationStart)
    place = _check_start(guest, start, columns, participant)
    others = [0, *(one for one in start.between if place in start.between and one != place)]
    await asyncio.to_thread(count, len(own.sizes) * sum(len(start.sizes[one]) for one in others))
    fellows = await exchange_keys(guest, participant)
    form = _form(rows, start.sizes)
    numbers = await asyncio.to_thread(own.numbers, form.bits) if own.columns else _none(rows)
    known: list[Told] = []
    # 2. and 3. With the guest.
    if own.sizes and start.sizes[0]:
        known.append(
            await _tell(guest, _Pair(form, start.sizes, 0, place), numbers, columns, participant)
        )
    # 4. With each other host.
    for pair in combinations(start.between, 2):
        if place not in pair:
            continue
        both = _Pair(form, start.sizes, *pair)
        fellow = start.hosts[(pair[0] if place == pair[1] else pair[1]) - 1]
        conversation = f"correlations {pair[0]} {pair[1]}"
        peer = RelayedPeer(guest, participant.name, fellow, fellows[fellow], conversation)
        if place == pair[0]:
            await _give(peer, both, numbers, resources, columns.joined)
            given = await peer.recv(Correlations)
            tables = both.read(peer, given)
            await peer.close()
            theirs = _numbered(start.sizes[pair[1]])
            names = [one.name for one in own.columns]
            known.append(Told(participant.name, fellow, names, theirs, *tables))
        else:
            found = await _tell(peer, both, numbers, columns, participant)
            await peer.close()
            await guest.send(_correlations(_turned(found.figures), _turned(found.errors)))
            known.append(found)
    return known


def _check_start(
    guest: Peer, start: CorrelationStart, columns: HostColumns, participant: Participant
) -> int:
    """The host's place among all parties. Raises PeerError."""
    name = participant.name
    if [*start.hosts] != [*participant.hosts] or len(start.sizes) != len(start.hosts) + 1:
        raise guest.breach("a CorrelationStart of other hosts than the job's")
    place = 1 + start.hosts.index(name)
    if [*start.sizes[place]] != columns.own.sizes:
        raise guest.breach("a CorrelationStart of other columns than this host's")
    if sorted({*start.between}) != [*start.between] or not {*start.between} <= {
        *range(1, len(start.sizes))
    }:
        raise guest.breach("a CorrelationStart of hosts that there are not")
    if place in start.between and not columns.between:
        raise guest.breach("a CorrelationStart of pairs of hosts that this one does not allow")
    if sum(map(_width, start.sizes)) > MOST_WIDTH:
        raise guest.breach("a CorrelationStart of more columns than there may be")
    return place


# ------------------------------------------------------------------------------- what both share


@dataclass(frozen=True)
class _Pair:
    """Two parties, by their places: the one whose shares are given, and the one that tells."""

    form: TurnedForm
    sizes: Sequence[_Sizes]
    giver: int
    teller: int

    @property
    def shape(self) -> tuple[int, int]:
        return _width(self.sizes[self.giver]), _width(self.sizes[self.teller])

    @property
    def encrypts(self) -> bool:
        """Whether the giver encrypts."""
        return self.form.encrypts(self.giver, self.teller)

    def turned(self, shares: Words) -> Words:
        """Shares with the giver's columns as rows."""
        return shares if self.encrypts else np.ascontiguousarray(shares.T)

    def read(self, peer: Peer, given: Correlations) -> tuple[list[list[int]], list[list[int]]]:
        """Figures and how far noise goes, a row a column of the giver's. Raises PeerError."""
        shape = len(self.sizes[self.giver]), len(self.sizes[self.teller])
        if not len(given.figures) == len(given.errors) == 2 * shape[0] * shape[1]:
            raise peer.breach("Correlations of other columns than there are")
        figures, errors = (
            np.frombuffer(data, "<i2").reshape(shape) for data in (given.figures, given.errors)
        )
        if (np.abs(figures.astype(np.int64)) > HUNDREDTHS).any() or (errors < 0).any():
            raise peer.breach("Correlations that cannot be")
        return figures.tolist(), errors.tolist()


async def _give(
    other: Peer,
    pair: _Pair,
    numbers: NDArray[np.int32],
    resources: Resources,
    joined: Integers | None = None,
) -> None:
    """2. The giver's part."""
    sizes, form = pair.sizes[pair.giver], pair.form
    resources = resources.part("pair", pair.giver, pair.teller)
    shares = await share_products(other, numbers, (pair.giver, pair.teller), form, resources)
    longest = longest_rows(numbers, sizes, form.bits, joined)
    noise = [_sent(one / math.sqrt(form.rows)) for one in longest]
    spread = np.repeat(noise, [max(size, 1) for size in sizes])[:, np.newaxis]
    drawn = normal(resources.randomness.at("noise on shares"), *pair.shape)
    noisy = form.noisy(pair.turned(shares), spread * drawn)
    sent = np.array(noise, "<f8").tobytes()
    await other.send(CorrelationShares(noisy.astype("<u8").tobytes(), sent))


async def _tell(
    other: Peer,
    pair: _Pair,
    numbers: NDArray[np.int32],
    columns: HostColumns,
    participant: Participant,
) -> Told:
    """3. The teller's part."""
    theirs, mine, form = pair.sizes[pair.giver], pair.sizes[pair.teller], pair.form
    resources = participant.resources.part("pair", pair.giver, pair.teller)
    shares = await share_products(other, numbers, (pair.teller, pair.giver), form, resources)
    given = await other.recv(CorrelationShares)
    if len(given.data) != 8 * math.prod(pair.shape) or len(given.noise) != 8 * len(theirs):
        raise other.breach("CorrelationShares of other columns than there are")
    noise = np.frombuffer(given.noise, "<f8").astype(np.float64)
    if not ((noise >= 0) & (noise <= _MOST_NOISE)).all():
        raise other.breach("CorrelationShares with noise that cannot be")
    both = np.frombuffer(given.data, "<u8").astype(np.uint64).reshape(pair.shape)
    products = form.products(both + pair.turned(shares))
    exact = associations(products, theirs, mine, noise.tolist())
    longest = longest_rows(numbers, mine, form.bits, columns.joined)
    own = np.array(longest) / math.sqrt(form.rows)
    widths = [np.maximum(of, 1) for of in (theirs, mine)]
    hidden = own / np.sqrt(np.minimum.outer(*widths))
    drawn = normal(resources.randomness.at("noise on figures"), *hidden.shape)
    figures = hundredths(exact + hidden * drawn, theirs, mine)
    spread = np.hypot(reach(*widths) * noise[:, np.newaxis], 2 * hidden)
    errors = [[int(one) for one in row] for row in np.ceil(HUNDREDTHS * spread)]
    await other.send(_correlations(figures, errors))
    names = [one.name for one in columns.own.columns]
    turned = _turned(figures), _turned(errors)
    return Told(participant.name, other.name, names, _numbered(theirs), *turned)


def reach(theirs: Integers, mine: Integers) -> Floats:
    """By how many deviations of an entry's noise a figure is off at most, 95 times in a hundred: that of
    columns that take p and q numbers is the root of the squares of p q entries over the smaller of p and
    q, so that its square has p q degrees of freedom."""
    entries, least = np.multiply.outer(theirs, mine), np.minimum.outer(theirs, mine)
    return np.asarray(np.maximum(2, np.sqrt(2 * np.sqrt(2 * entries) / least)))


def _correlations(figures: list[list[int]], errors: list[list[int]]) -> Correlations:
    sent = (np.array(table, "<i2").tobytes() for table in (figures, errors))
    return Correlations(*sent)


def _form(rows: int, sizes: Sequence[_Sizes]) -> TurnedForm:
    return TurnedForm(rows, [_width(one) for one in sizes])


def _width(sizes: _Sizes) -> int:
    return sum(max(size, 1) for size in sizes)


def _none(rows: int) -> NDArray[np.int32]:
    return np.zeros((0, rows), np.int32)


def _sent(value: float) -> float:
    """Of so few digits that it names no row: three, rounded up."""
    if value <= 0:
        return 0.0
    unit = 10.0 ** (math.floor(math.log10(value)) - 2)
    return math.ceil(value / unit) * unit


def _numbered(sizes: _Sizes) -> list[str]:
    return [str(number) for number in range(1, len(sizes) + 1)]


def _turned(table: list[list[int]]) -> list[list[int]]:
    return [list(row) for row in zip(*table, strict=True)]
