"""What guest and hosts say to each other to infer (inference.py), and what both compute alike."""

import math
from collections.abc import Iterator
from typing import Annotated, ClassVar

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms
from gmpy2 import mpz
from msgspec import Meta

from vfl.arrays import Floats, Integers
from vfl.blocks.engine import ENGINE
from vfl.crypto.paillier import Ciphertexts, InvalidCiphertext, PublicKey
from vfl.crypto.randomness import Randomness, Stream
from vfl.learn.inference import ALIASED
from vfl.learn.matrix import FRACTION_BITS, Matrix
from vfl.net.peer import Peer
from vfl.net.wire import KIB, MIB, Message
from vfl.protocols.linear.rotation import BASIS_BITS
from vfl.protocols.linear.row_products import LIMB_BITS
from vfl.protocols.linear.shared_products import Table

MOST_COLUMNS = 400
"""Coefficients of all parties: the work grows with their third power."""

WEIGHT_BITS, FEW_ROWS_BITS = 28, 24  # of the largest weight at most, and with few rows at least
LARGEST_BITS = 26  # of a number: as many below the point as no number of so many rows can go beyond
PART_BITS, PARTS = LIMB_BITS, 3  # of the uniform part of a weight
FINER_BITS = 80  # of noise below a unit
_DROWNED_BITS = 12  # by which noise after a change of basis is longer than what whole numbers step by
MOST_FRACTION = 1200  # bits below the point of a covariance: those of some ten hosts
_PIECE = 4096  # ciphertexts of a message
_LOADED = 1e-4  # of the largest share that a column has in an aliased direction, to be named
_RIGHT = 2.0**-40  # of the largest eigenvalue: smaller ones may be rounding
COVARIANCE_BITS = 100  # of a covariance above the point, its sign counted


class InferenceStart(Message, frozen=True):
    """guest -> host. Reveals: how many columns each party has; the sum of the rows' weights over the
    dispersion; the freedom of the residuals, where the dispersion was estimated; under a penalty what it
    comes to in units of the largest weight; about the size of the largest covariance."""

    hosts: Annotated[list[Annotated[str, Meta(max_length=64)]], Meta(max_length=64)]
    columns: Annotated[list[int], Meta(max_length=65)]  # the guest's first
    unit: float  # sum of weights over the dispersion
    penalty: float
    fraction: int  # bits below the point of covariances
    freedom: int | None = None
    limit: ClassVar[int] = 16 * KIB


class NoInference(Message, frozen=True):
    """guest -> host. Reveals: that there are no more rows than coefficients, too many of these or of
    hosts, or that by the guest's columns too many rows stand out further than `max_leverage`."""


class Encrypted(Message, frozen=True):
    """Either -> either, and between hosts sealed. Reveals: nothing to who lacks the guest's key:
    encrypted shares of sums, and sums in a basis that no party knows."""

    ciphertexts: bytes
    limit: ClassVar[int] = 16 * MIB


class WeightPart(Message, frozen=True):
    """guest -> host. Reveals: nothing; one of two parts of each row's weight, which alone is uniform, or
    the seed that the other one comes of."""

    data: bytes
    limit: ClassVar[int] = 16 * MIB


class RotatedInformation(Message, frozen=True):
    """host -> guest. Reveals: the information of all parties' columns, where those of the hosts are in a
    basis that no party knows: what follows from the guest's own columns and covariance."""

    ciphertexts: bytes
    limit: ClassVar[int] = 16 * MIB


class MaskedCovariance(Message, frozen=True):
    """host -> guest. Reveals: nothing; encrypted numbers under masks uniform among all plaintexts."""

    ciphertexts: bytes
    limit: ClassVar[int] = 16 * MIB


class OpenedCovariance(Message, frozen=True):
    """guest -> host. Reveals: with the masks that only this host knows, the covariance of its own
    coefficients, which tells about how many rows of which weight each of its columns has."""

    plaintexts: bytes
    limit: ClassVar[int] = 16 * MIB


class AliasFound(Message, frozen=True):
    """host -> guest. Reveals: whether some of the host's columns are made up by other parties' too."""

    found: bool


class InferenceEnd(Message, frozen=True):
    """guest -> host. Reveals: which parties have such columns."""

    aliased: list[str]
    limit: ClassVar[int] = 64 * KIB


def number_bits(rows: int) -> int:
    """Bits below the point of a number in standard deviations, of which none is beyond the root of the
    number of rows."""
    return min(FRACTION_BITS - 1, LARGEST_BITS - math.isqrt(rows).bit_length())


def coarse(matrix: Matrix, intercept: bool = False) -> Matrix:
    """The matrix of the same rows, its numbers whole."""
    own = matrix.with_intercept() if intercept else matrix
    shift = FRACTION_BITS - number_bits(matrix.rows)
    integers = np.asarray(ENGINE.gather(own.integers)).astype(np.int64)
    numbers = ((integers + (1 << (shift - 1))) >> shift).astype(np.int32)
    return Matrix(np.asarray(ENGINE.gather(own.codes)), own.levels, numbers, own.penalty)


def coarse_penalty(matrix: Matrix, penalty: float, free: int = 0) -> Table:
    """What a penalty adds to the information of a coarse matrix, in its units, of all but the first
    `free` columns; numbers have no part in that of levels."""
    units = np.where(np.arange(matrix.columns) < sum(matrix.levels), 0, number_bits(matrix.rows))
    form, found = matrix.penalised(free), np.zeros((matrix.columns, matrix.columns), object)
    for i, j in zip(*np.nonzero(form), strict=True):
        found[i, j] = int(math.ldexp(penalty * form[i, j], int(units[i] + units[j])))
    return found


def units_of(matrix: Matrix) -> Floats:
    """What each column of a coarse matrix is a multiple of."""
    unit = 2.0 ** -number_bits(matrix.rows)
    return np.repeat([1.0, unit], [sum(matrix.levels), matrix.numbers.shape[0]])


async def send_encrypted(
    peer: Peer,
    ciphertexts: Ciphertexts,
    kind: type[Encrypted] | type[RotatedInformation] = Encrypted,
) -> None:
    for first in range(0, len(ciphertexts), _PIECE):
        await peer.send(kind(ciphertexts[first : first + _PIECE].tobytes()))


async def receive_encrypted(
    peer: Peer,
    key: PublicKey,
    count: int,
    kind: type[Encrypted] | type[RotatedInformation] = Encrypted,
) -> list[mpz]:
    """So many ciphertexts. Raises PeerError."""
    found: list[mpz] = []
    while len(found) < count:
        message = await peer.recv(kind)
        try:
            some = key.integers(key.parse(message.ciphertexts))
        except InvalidCiphertext as error:
            raise peer.breach(f"{kind.__name__} with {error}") from None
        found += some
        if not some or len(found) > count:
            raise peer.breach(f"{kind.__name__} of another number of ciphertexts")
    return found


def information_bits(rows: int, hosts: int, columns: int, sides: int) -> int:
    """Bits of an entry of the information of which one side or both are in the hosts' basis, its sign
    counted."""
    numbers = 2 * (LARGEST_BITS + 1)
    growth = basis_changes(hosts) * sides * (BASIS_BITS + columns.bit_length())
    return WEIGHT_BITS + rows.bit_length() + numbers + FINER_BITS + growth + 4


def basis_changes(hosts: int) -> int:
    """How often the basis of a host's columns is changed: by the first host, by a later one before."""
    return 1 + (hosts > 1)


def noise(bits: int, stream: Stream) -> int:
    """Uniform, from -2^bits to below 2^bits."""
    return stream.below(2 << bits) - (1 << bits)


def keys_of(secret: bytes | None, count: int, size: int) -> Iterator[tuple[int, bytes | None]]:
    """Of so many numbers the places of every `size`-th, and what the obfuscators from there to the next
    are drawn from."""
    drawn = Randomness(secret)
    for first in range(0, count, size):
        yield first, drawn.key_at("obfuscators from", first)


def drowning_bits(columns: int, changes: int) -> int:
    """Of noise after changes of basis of so many columns, one side of a matrix or both."""
    return changes * (BASIS_BITS + columns.bit_length()) + _DROWNED_BITS


def uniform_parts(seed: bytes, rows: int) -> list[Integers]:
    """The uniform part of each row's weight, in limbs."""
    stream = Cipher(algorithms.ChaCha20(seed, bytes(16)), mode=None).encryptor()
    words = np.frombuffer(stream.update(bytes(4 * PARTS * rows)), "<u4").reshape(PARTS, rows)
    return [(part & ((1 << PART_BITS) - 1)).astype(np.int64) for part in words]


def aliased_places(covariance: Floats, root: Floats, alpha: float) -> tuple[int, ...]:
    """The places of a party's columns that others' make up as well: where they leave almost nothing of
    a direction's information. `root` @ its transpose is the party's own information."""
    if alpha > 0:
        return ()
    whitened = root.T @ covariance @ root
    values, vectors = np.linalg.eigh((whitened + whitened.T) / 2)
    found: set[int] = set()
    # Beside a direction of which nothing is left, others' are rounding: they are found without it.
    least = max(1 / ALIASED, _RIGHT * float(np.abs(values).max(initial=0.0)))
    for value, vector in zip(values, vectors.T, strict=True):
        if abs(value) < least:
            continue
        load = np.abs(np.linalg.solve(root.T, vector)) * np.sqrt(np.square(root).sum(axis=1))
        found |= set(np.flatnonzero(load > _LOADED * load.max()).tolist())
    return tuple(sorted(found))
