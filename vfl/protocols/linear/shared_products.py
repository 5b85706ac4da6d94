"""Products of one party's secret vectors with another's secret columns, of which neither learns any.

By the lattice engine (common/lattice_sums.py): one encrypts vectors of whole numbers, cut into digits,
for one other or several; each adds them up by its columns, levels and bits of numbers, under masks that
are uniform among all values that a sum can be read as. So each sum is shared: what the one reads and the
mask add up to it modulo 2^B. The sums of a vector and a column are put together under Paillier's
encryption, where no modulus is in the way: with both shares in [0, 2^B), and a sum so small that it
takes a quarter of that,

    sum = a + b - 2^B (1 - A B) - bias,    A: whether a < 2^(B - 2), B: whether b is,

since both are small if nothing has wrapped, and never else. Who puts them together, and may not decrypt,
has one of the shares in the clear and gets the other's bits and what they come to encrypted.

Where all that is wanted of a vector's column and an output's is below 2^B itself, each party's numbers
put together modulo 2^B are shares of it (`joined`), and no encryption is needed.
"""

import asyncio
from collections.abc import Callable, Container, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, ClassVar

import gmpy2
import msgspec
import numpy as np
from numpy.typing import NDArray

from vfl.arrays import Integers, Mask
from vfl.blocks.engine import ENGINE
from vfl.crypto.lattice.parameters import MODULUS_BITS, widest
from vfl.crypto.paillier import PublicKey
from vfl.errors import Refused
from vfl.learn.matrix import Matrix
from vfl.net.peer import Peer, together
from vfl.net.wire import MIB, Message
from vfl.protocols.common.course import NO_HINTS
from vfl.protocols.common.lattice_hints import guest_meet, host_meet
from vfl.protocols.common.lattice_sums import BATCH, Query, Shape
from vfl.protocols.common.participant import Resources
from vfl.protocols.linear.lattice_products import BitMatrix, places_of
from vfl.protocols.linear.row_products import MOST_BASE_BITS, Digits, RowProducts

Table = NDArray[np.object_]
"""Whole numbers of any size, or ciphertexts."""

_MOST_VECTORS = 1 << 15
_FEWEST = 1 << 8  # vectors for which entries are as long as may be
_SPARE_BITS = 2  # of an entry, so that sums take a quarter of what they are shared modulo
_MOST_BITS = MOST_BASE_BITS + _SPARE_BITS  # of an entry
_MOST_SHIFT = 256  # bits of the numbers of vectors
_FEW_DIGITS, _WIDE_NUMBER = 8, 32  # of a number in standard deviations, of few bits below the point


class VectorsFollow(Message, frozen=True):
    """Either -> either. Reveals: how many encrypted vectors follow, of which column each is and of which
    digits: so how many columns its sender has, and how many bits their largest numbers."""

    columns: Annotated[list[int], msgspec.Meta(max_length=_MOST_VECTORS)]
    shifts: Annotated[list[int], msgspec.Meta(max_length=_MOST_VECTORS)]
    bits: Annotated[int, msgspec.Meta(gt=_SPARE_BITS, le=_MOST_BITS)]  # of an entry
    limit: ClassVar[int] = MIB


class ColumnsFollow(Message, frozen=True):
    """Either -> either. Reveals: how many levels and numbers its sender's columns are, and how many bits
    the largest of each."""

    levels: Annotated[int, msgspec.Meta(ge=0, le=1 << 16)]
    bits: Annotated[list[Annotated[int, msgspec.Meta(ge=1, le=63)]], msgspec.Meta(max_length=1 << 16)]
    limit: ClassVar[int] = MIB


@dataclass(frozen=True)
class SharedSums:
    """One party's shares of all sums."""

    shares: NDArray[np.uint64]  # shape (vectors, outputs), below 2^bits
    bits: int
    less: int  # what each share is too large by
    vectors: Sequence[tuple[int, int]]  # of each the column and the shift
    outputs: Sequence[tuple[int, int, int]]  # of each the column, the shift and the sign

    @property
    def columns(self) -> tuple[int, int]:
        """Of the vectors, and of the outputs."""
        return (
            1 + max((column for column, _ in self.vectors), default=-1),
            1 + max((column for column, _, _ in self.outputs), default=-1),
        )

    @property
    def low(self) -> Mask:
        """Which shares are below a quarter."""
        return np.asarray(self.shares < np.uint64(1 << (self.bits - 2)))

    @property
    def total(self) -> Table:
        """The shares of each vector's column and output's column put together."""
        found = np.zeros(self.columns, object)
        for (column, shift), own in zip(self.vectors, self.shares.tolist(), strict=True):
            for (other, power, sign), share in zip(self.outputs, own, strict=True):
                found[column, other] += sign * ((share - self.less) << (shift + power))
        return found

    @property
    def joined(self) -> NDArray[np.uint64]:
        """`total` modulo 2^bits."""
        with np.errstate(over="ignore"):
            shares = self.shares - np.uint64(self.less % (1 << self.bits))
            outputs = _weights((column, power, sign) for column, power, sign in self.outputs)
            vectors = _weights((column, shift, 1) for column, shift in self.vectors)
            return np.asarray(vectors.T @ shares @ outputs) & _below(self.bits)

    def encrypted_sums(self, key: PublicKey, totals: Table, bits: Table) -> Table:
        """All sums, encrypted, from the other party's `totals` and bits, shape of `shares`."""
        n, square = key.n, key.n_squared
        groups: dict[tuple[int, int], list[tuple[int, int, gmpy2.mpz]]] = {}
        low = self.low
        for i, (column, shift) in enumerate(self.vectors):
            for j in np.flatnonzero(low[i]).tolist():
                other, power, sign = self.outputs[j]
                groups.setdefault((column, other), []).append((shift + power, sign, bits[i, j]))
        found = np.empty(self.columns, object)
        for place, own in np.ndenumerate(self.total):
            wrapped, at = gmpy2.mpz(1), 0
            terms = sorted(groups.get((place[0], place[1]), []), key=lambda term: -term[0])
            for number, (shift, sign, bit) in enumerate(terms):
                if number:
                    wrapped = gmpy2.powmod(wrapped, gmpy2.mpz(1) << (at - shift), square)
                wrapped = wrapped * (bit if sign > 0 else gmpy2.invert(bit, square)) % square
                at = shift
            wrapped = gmpy2.powmod(wrapped, gmpy2.mpz(1) << (at + self.bits), square)
            found[place] = totals[place] * wrapped % square * (1 + own % n * n) % square
        return found


@dataclass(frozen=True)
class Cut:
    """How vectors of so many rows are cut: into signed digits to a base of a power of two."""

    rows: int
    vectors: int
    entry_bits: int

    @classmethod
    def of(cls, products: RowProducts, outputs: int) -> "Cut":
        """The longest digits that a matrix of so many outputs serves as many vectors with as it takes.

        Raises ValueError, with the numbers, where there are none; Refused for more vectors than there
        may be.
        """
        most = _FEWEST
        while True:
            served = Shape(products.rows, 1, most).served
            bits = min(widest(products.rows, max(outputs, 1), served, least=served), _MOST_BITS)
            cut = cls(products.rows, len(products.places(bits - _SPARE_BITS)), bits)
            if cut.vectors <= most:
                return cut
            if most == _MOST_VECTORS:
                raise Refused(
                    f"inference = true takes {cut.vectors:,} encrypted vectors of this party's columns, "
                    f"more than {_MOST_VECTORS:,}: leave it out of [glm], or have fewer columns of "
                    "numbers here"
                )
            most *= 2

    @classmethod
    def between(cls, rows: int, columns: int) -> "Cut":
        """The widest for products of parties that have so many columns together, of numbers of fewer
        bits than a row of so many has at most."""
        most = _FEW_DIGITS * columns
        widest_entry = Shape(rows, 1, most, lifetime=1).widest(_WIDE_NUMBER * columns, MODULUS_BITS)
        return cls(rows, most, min(widest_entry, _MOST_BITS))

    @property
    def shape(self) -> Shape:
        return Shape(self.rows, self.entry_bits, self.vectors, lifetime=1, exact=True)

    @property
    def base_bits(self) -> int:
        """Of a digit, which is at most half of 2^base_bits, whatever its sign."""
        return self.entry_bits - _SPARE_BITS

    @property
    def bias(self) -> int:
        """No sum of digits is larger."""
        return self.rows << (self.base_bits - 1)

    @property
    def modulus_bits(self) -> int:
        return MODULUS_BITS - self.shape.parameters(1).scale_bits


def columns_of(matrix: Matrix) -> list[tuple[int, Callable[[], Integers]]]:
    """The columns of a matrix of whole numbers: of each the bits by which it makes others longer, and
    what makes it."""
    codes = np.asarray(ENGINE.gather(matrix.codes))
    numbers = np.asarray(ENGINE.gather(matrix.numbers))

    def level(row: int, code: int) -> Callable[[], Integers]:
        return lambda: (codes[row] == code).astype(np.int64)

    def number(row: int) -> Callable[[], Integers]:
        return lambda: numbers[row].astype(np.int64)

    levels = [
        (0, level(row, code)) for row, size in enumerate(matrix.levels) for code in range(1, size + 1)
    ]
    return [*levels, *((max(bits, 1), number(row)) for row, bits in enumerate(matrix.bits))]


async def share_vectors(
    others: Sequence[Peer],
    vectors: RowProducts,
    resources: Resources,
    theirs: Sequence[Container[int]],
    known: Cut | None = None,
) -> list[SharedSums]:
    """The side with vectors, the same for all others. resources: with random numbers for these products
    alone; theirs: how many columns each of these may have; known: how long digits are, where both sides
    know it beforehand.

    Raises PeerError when one breaks the protocol, Refused for more vectors than there may be.
    """
    follow = await together([other.recv(ColumnsFollow) for other in others])
    for other, said, allowed in zip(others, follow, theirs, strict=True):
        if said.levels + len(said.bits) not in allowed:
            raise other.breach("ColumnsFollow of other columns than it said")
    outputs = {
        other.name: places_of(said.levels, said.bits) for other, said in zip(others, follow, strict=True)
    }
    if known is None:
        known = Cut.of(vectors, max(map(len, outputs.values()), default=0))
    places = vectors.places(known.base_bits)
    cut = replace(known, vectors=len(places))
    columns, shifts = [column for column, _ in places], [shift for _, shift in places]
    message = VectorsFollow(columns, shifts, cut.entry_bits)
    await together([other.send(message) for other in others])

    def accept(peer: Peer, count: int) -> None:
        if count != len(outputs[peer.name]):
            raise peer.breach("HintSums of other sums than its columns have")

    products, _ = await guest_meet(others, cut.shape, resources=resources, accept=accept)
    shares = {other.name: [np.zeros((0, len(outputs[other.name])), np.uint64)] for other in others}
    try:
        digits = await asyncio.to_thread(Digits, vectors, cut.base_bits)
        for first in range(0, len(places), BATCH):
            entries = digits.entries(first, min(first + BATCH, len(places)))
            found = await products.query(entries, hidden=True)
            for other, sums in zip(products.hosts, found, strict=True):
                shares[other.name].append(sums.view(np.uint64))
    finally:
        products.end()

    def own(name: str) -> SharedSums:
        sums = (np.concatenate(shares[name]) + np.uint64(cut.bias)) & _below(cut.modulus_bits)
        return SharedSums(sums, cut.modulus_bits, cut.bias, places, outputs[name])

    return [own(other.name) for other in others]


async def share_columns(
    other: Peer,
    matrix: Matrix,
    resources: Resources,
    theirs: Container[int],
    known: Cut | None = None,
) -> SharedSums:
    """The side with columns of whole numbers. theirs: of how many columns the other party's vectors may
    be; resources, known: as of `share_vectors`. Raises PeerError when the other breaks the protocol."""
    bits_of = await asyncio.to_thread(lambda: BitMatrix.of(matrix.held()))
    await other.send(ColumnsFollow(bits_of.levels, list(bits_of.bits)))
    follow = await other.recv(VectorsFollow)
    if len(follow.columns) != len(follow.shifts):
        raise other.breach("VectorsFollow of other shifts than vectors")
    places = list(zip(follow.columns, follow.shifts, strict=True))
    if any(not (0 <= column < _MOST_VECTORS and 0 <= shift < _MOST_SHIFT) for column, shift in places):
        raise other.breach("VectorsFollow of columns or digits that cannot be")
    columns = 1 + max(follow.columns, default=-1)
    if columns not in theirs or len({*follow.columns}) < columns:
        raise other.breach("VectorsFollow of other columns than it said")
    if known is not None and follow.bits != known.entry_bits:
        raise other.breach("VectorsFollow of digits of another length than is known")
    cut, outputs = Cut(matrix.rows, len(places), follow.bits), len(bits_of.matrix.outputs)
    if len({*places}) < len(places) or len(places) > columns * -(-_MOST_SHIFT // cut.base_bits):
        raise other.breach("VectorsFollow of more digits than its columns have")
    try:
        cut.shape.parameters(outputs)
    except ValueError as error:
        raise other.breach(f"VectorsFollow of digits that are not safe: {error}") from None
    products = await host_meet(
        other,
        lambda secret: bits_of.matrix,
        outputs,
        cut.shape,
        resources=resources,
        hints=NO_HINTS,
    )
    masks = [np.zeros((0, len(bits_of.places)), np.uint64)]
    left = len(places)
    try:
        while left > 0:
            query = await other.recv(Query)
            if query.vectors > left:
                raise other.breach("a Query of more vectors than it said")
            masks.append(await products.serve(query, hidden=True))
            left -= query.vectors
    finally:
        products.end()
    own = (np.uint64(0) - np.concatenate(masks)) & _below(cut.modulus_bits)
    return SharedSums(own, cut.modulus_bits, 1 << cut.modulus_bits, places, bits_of.places)


def _weights(terms: Iterable[tuple[int, int, int]]) -> NDArray[np.uint64]:
    """What each term counts in its column, modulo 2^64: shape (terms, columns)."""
    given = [*terms]
    found = np.zeros((len(given), 1 + max((column for column, _, _ in given), default=-1)), np.uint64)
    for at, (column, shift, sign) in enumerate(given):
        found[at, column] = sign * (1 << shift) % (1 << 64)
    return found


def _below(bits: int) -> np.uint64:
    return np.uint64((1 << bits) - 1)
