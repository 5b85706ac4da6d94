"""The prime-order group ristretto255 (RFC 9496), on many elements at a time.

Elements are their canonical 32-byte encodings, as rows of a uint8 array of shape (n, 32); scalars
are 32 bytes, little-endian, below the group's order. The arithmetic is constant time and spread over
the machine's cores by threads, without the interpreter's lock:

- many rows: our own kernels, a point in each lane of a vector (`ristretto`), where the processor's
  vectors allow: about ten times as fast as libsodium with AVX-512 IFMA, three times with AVX-512,
  one and a half times with AVX2. They are compiled once, in a few seconds; who has them loaded for
  good (`prepare`) gains by them from some dozen rows on, with eight lanes from two: a block of them
  takes as long as libsodium takes for one;
- few rows, and other processors: libsodium. `rbcl` ships it and checks and copies one element a
  call; we call the same library on slices of one buffer instead.

Both give the same bytes and refuse the same rows.
"""

import contextlib
import ctypes
import hashlib
import secrets
import threading
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from vfl.blocks.cores import spread
from vfl.crypto.sodium import rbcl

if TYPE_CHECKING:
    from vfl.crypto.ristretto import Kernels

POINT = 32  # bytes of an encoded element
SCALAR = 32
UNIFORM = 64  # bytes that the map onto the group takes

Points = NDArray[np.uint8]

# The group's order, 2^252 + 27742317777372353535851937790883648493 (RFC 9496, section 4).
ORDER = 2**252 + 27742317777372353535851937790883648493

_HASH_DOMAIN = b"vfl-v1 hash to ristretto255"
_SLICE = 64  # fewer rows than this are not worth a thread
_FEW = 16  # scalars that are checked one by one
_MANY = 4096  # fewer rows than this are not worth waiting for the compiler
_LANES = 8  # of kernels that are worth it for a few rows
_LANES_FILLED = 2  # rows from which on they are
_ONE = (1).to_bytes(SCALAR, "little")
_CHUNK = 1024  # rows that a kernel takes at a time, so that its copies of them stay small

_least = _MANY
"""As many rows go to the kernels: fewer once these are loaded."""
_side_by_side: "Kernels | None" = None
"""Kernels that are loaded, of so many lanes that sums of a few elements are theirs."""
_preparing = threading.Lock()

# rbcl unpacks libsodium into a temporary file at import and leaves it there. Once it is loaded
# the name is not needed (Windows refuses to remove it; then it stays).
with contextlib.suppress(OSError):
    Path(rbcl._sodium._name).unlink()

# Prototypes of our own, so that those which rbcl shares with its other users stay as they are.
_void_p = ctypes.c_void_p
_scalarmult = ctypes.CFUNCTYPE(ctypes.c_int, _void_p, _void_p, _void_p)(
    ("crypto_scalarmult_ristretto255", rbcl._sodium)
)
_base = ctypes.CFUNCTYPE(ctypes.c_int, _void_p, _void_p)(
    ("crypto_scalarmult_ristretto255_base", rbcl._sodium)
)
_add = ctypes.CFUNCTYPE(ctypes.c_int, _void_p, _void_p, _void_p)(
    ("crypto_core_ristretto255_add", rbcl._sodium)
)
_from_hash = ctypes.CFUNCTYPE(ctypes.c_int, _void_p, _void_p)(
    ("crypto_core_ristretto255_from_hash", rbcl._sodium)
)


class InvalidPoint(ValueError):
    """A row that is no element of the group, or is its identity. `index` is the row's number."""

    def __init__(self, index: int) -> None:
        super().__init__(f"row {index} is not an element of the group other than the identity")
        self.index = index

    def __reduce__(self) -> tuple[type["InvalidPoint"], tuple[int]]:
        return InvalidPoint, (self.index,)  # as a worker of a cluster has raised it


def random_scalar(entropy: Callable[[int], bytes] = secrets.token_bytes) -> bytes:
    """A uniform scalar other than 0: 32 bytes. `entropy(n)` returns n random bytes."""
    # 512 bits modulo the order are uniform to within 2^-259.
    while not (scalar := int.from_bytes(entropy(UNIFORM), "little") % ORDER):
        pass
    return scalar.to_bytes(SCALAR, "little")


def invert(scalar: bytes) -> bytes:
    """1 / scalar modulo the group's order. Raises ValueError for 0."""
    inverse: bytes = rbcl.crypto_core_ristretto255_scalar_invert(_reduce(scalar))
    return inverse


def hash_to_group(ids: Sequence[bytes], context: bytes) -> Points:
    """Elements (n, 32) whose logarithms nobody knows, one for each id.

    SHA-512 over a domain name, `context` with its length, and the id; then the one-way map of
    RFC 9496, section 4.3.4. Ids of different contexts give unrelated elements.
    """
    prefix = hashlib.sha512(_HASH_DOMAIN + len(context).to_bytes(8, "big") + context)
    uniform = bytearray()
    for id_ in ids:
        digest = prefix.copy()
        digest.update(id_)
        uniform += digest.digest()
    return from_uniform(np.frombuffer(uniform, np.uint8).reshape(-1, UNIFORM))


def from_uniform(uniform: NDArray[np.uint8]) -> Points:
    """The one-way map of RFC 9496, section 4.3.4, on rows of 64 uniform bytes: (n, 64) to (n, 32).

    Both halves of each row count: the map is the sum of two Elligator maps.
    """
    rows = _rows(uniform, UNIFORM)
    return _from_uniform(rows, _kernels(len(rows)))


def multiply(points: Points, scalar: bytes) -> Points:
    """Each element times `scalar`, or to its power in the multiplicative notation: (n, 32).

    Raises InvalidPoint for the first row that is not a canonical encoding or is the identity, and
    ValueError for a scalar that is 0 or of the wrong size.
    """
    rows = _rows(points, POINT)
    return _multiply(rows, _reduce(scalar), _kernels(len(rows)))


def multiply_each(points: Points, scalars: Points) -> Points:
    """Each element times a scalar of its own, rows of `scalars`: (n, 32). Raises as `multiply`, also for
    as many scalars as are not elements."""
    rows, factors = _rows(points, POINT), _reduce_all(scalars, len(points))
    return _multiply_each(rows, factors, _kernels(len(rows)))


def multiply_base(scalar: bytes) -> bytes:
    """The generator times a scalar."""
    product = ctypes.create_string_buffer(POINT)
    factor = ctypes.create_string_buffer(_reduce(scalar), SCALAR)
    _base(ctypes.addressof(product), ctypes.addressof(factor))
    return product.raw


def add(one: bytes, other: bytes) -> bytes:
    """The sum of two elements, which may be the identity. Raises InvalidPoint for what is none."""
    total = ctypes.create_string_buffer(POINT)
    buffers = [ctypes.create_string_buffer(element, POINT) for element in (one, other)]
    if _add(ctypes.addressof(total), *map(ctypes.addressof, buffers)):
        raise InvalidPoint(0)
    return total.raw


def weighted_sum(points: Points, scalars: Points) -> bytes:
    """The sum of elements, each times a scalar of its own, rows of `scalars`; it may be the identity.

    Raises as `multiply_each`.
    """
    rows, factors = _rows(points, POINT), _reduce_all(scalars, len(points))
    return _weighted_sum(rows, factors, _kernels(len(rows)))


def weighted_sums(sums: Sequence[Sequence[tuple[bytes, bytes]]]) -> list[bytes]:
    """Several sums at once, each of a few elements, each of these times a scalar of its own: what one
    sum takes while a lane of the kernels is left for each. A sum may be the identity.

    Raises InvalidPoint with the number of a sum that has what is no element, and as `multiply_each`.
    """
    for terms in sums:
        for element, scalar in terms:
            _reduce(scalar)
            if len(element) != POINT:
                raise ValueError(f"an element is {POINT} bytes")
    kernels = _side_by_side
    if kernels is None:
        return [_sum_of(terms, number) for number, terms in enumerate(sums)]
    lanes = kernels.layout.lanes
    return [
        made
        for first in range(0, len(sums), lanes)
        for made in _sums_in_lanes(sums[first : first + lanes], first, kernels)
    ]


def _sum_of(terms: Sequence[tuple[bytes, bytes]], number: int) -> bytes:
    rows = [
        np.frombuffer(b"".join(part), np.uint8).reshape(-1, POINT) for part in zip(*terms, strict=True)
    ]
    try:
        return _weighted_sum(rows[0], rows[1], None)
    except InvalidPoint:
        raise InvalidPoint(number) from None


def _sums_in_lanes(
    sums: Sequence[Sequence[tuple[bytes, bytes]]], first: int, kernels: "Kernels"
) -> list[bytes]:
    # A lane adds up what lies in it, block by block; those that are out of terms add nothing.
    lanes, blocks = kernels.layout.lanes, max(map(len, sums))
    points, scalars = [GENERATOR] * (lanes * blocks), [bytes(SCALAR)] * (lanes * blocks)
    for lane, terms in enumerate(sums):
        for block, (element, scalar) in enumerate(terms):
            points[block * lanes + lane], scalars[block * lanes + lane] = element, scalar
    rows = (np.frombuffer(b"".join(part), np.uint8).reshape(-1, POINT) for part in (points, scalars))
    made, valid = kernels.sums(*rows)
    if not valid.all():
        raise InvalidPoint(first + int(np.argmin(valid)) % lanes)
    return [row.tobytes() for row in made[: len(sums)]]


def _from_uniform(rows: NDArray[np.uint8], kernels: "Kernels | None") -> Points:
    points = np.empty((len(rows), POINT), np.uint8)
    source, target = rows.ctypes.data, points.ctypes.data

    def by_libsodium(start: int, stop: int) -> None:
        for i in range(start, stop):
            _from_hash(target + POINT * i, source + UNIFORM * i)

    if kernels is None:
        spread(by_libsodium, len(rows), _SLICE)
        return points

    def by_kernel(start: int, stop: int) -> None:
        for chunk in _chunks(start, stop):
            points[chunk] = kernels.from_uniform(rows[chunk])

    spread(by_kernel, len(rows), _SLICE)
    return points


def _multiply(rows: Points, scalar: bytes, kernels: "Kernels | None") -> Points:
    products = np.empty_like(rows)
    source, target = rows.ctypes.data, products.ctypes.data
    factor = ctypes.create_string_buffer(scalar, SCALAR)
    by = ctypes.addressof(factor)

    def by_libsodium(start: int, stop: int) -> None:
        for i in range(start, stop):
            # The scalar is not 0 and the order is prime, so that only a bad row can fail.
            if _scalarmult(target + POINT * i, by, source + POINT * i):
                raise InvalidPoint(i)

    if kernels is None:
        spread(by_libsodium, len(rows), _SLICE)
        return products

    def by_kernel(start: int, stop: int) -> None:
        for chunk in _chunks(start, stop):
            products[chunk], valid = kernels.multiply(rows[chunk], scalar)
            if not valid.all():
                raise InvalidPoint(chunk.start + int(np.argmin(valid)))

    spread(by_kernel, len(rows), _SLICE)
    return products


def _multiply_each(rows: Points, scalars: Points, kernels: "Kernels | None") -> Points:
    products = np.empty_like(rows)
    source, target, by = rows.ctypes.data, products.ctypes.data, scalars.ctypes.data

    def by_libsodium(start: int, stop: int) -> None:
        for i in range(start, stop):
            if _scalarmult(target + POINT * i, by + SCALAR * i, source + POINT * i):
                raise InvalidPoint(i)

    if kernels is None:
        spread(by_libsodium, len(rows), _SLICE)
        return products

    def by_kernel(start: int, stop: int) -> None:
        for chunk in _chunks(start, stop):
            products[chunk], valid = kernels.multiply_each(rows[chunk], scalars[chunk])
            if not valid.all():
                raise InvalidPoint(chunk.start + int(np.argmin(valid)))

    spread(by_kernel, len(rows), _SLICE)
    return products


def _weighted_sum(rows: Points, scalars: Points, kernels: "Kernels | None") -> bytes:
    if kernels is None:
        parts = _multiply_each(rows, scalars, None)
    else:
        found: list[Points] = []

        def by_kernel(start: int, stop: int) -> None:
            for chunk in _chunks(start, stop):
                sums, valid = kernels.sums(rows[chunk], scalars[chunk])
                if not valid.all():
                    raise InvalidPoint(chunk.start + int(np.argmin(valid)))
                found.append(sums)

        spread(by_kernel, len(rows), _SLICE)
        parts = np.concatenate(found)
    total: bytes = parts[0].tobytes()
    for part in parts[1:]:
        total = add(total, part.tobytes())
    return total


def _chunks(start: int, stop: int) -> Iterator[slice]:
    for i in range(start, stop, _CHUNK):
        yield slice(i, min(i + _CHUNK, stop))


def prepare() -> None:
    """Compile and load the kernels, once, so that from now on fewer rows than else go to them."""
    global _least, _side_by_side
    with _preparing:
        if _least < _MANY:
            return
        kernels = _fastest()
        if kernels is None:
            _least = _SLICE  # nothing more to be had
            return
        points = np.tile(np.frombuffer(multiply_base(_ONE), np.uint8), (_SLICE, 1))
        scalars = np.tile(np.frombuffer(_ONE, np.uint8), (_SLICE, 1))
        _from_uniform(np.tile(points, 2), kernels)
        _multiply(points, _ONE, kernels)
        _multiply_each(points, scalars, kernels)
        _weighted_sum(points, scalars, kernels)
        if kernels.layout.lanes >= _LANES:
            _least, _side_by_side = _LANES_FILLED, kernels
        else:
            _least = _SLICE


def would_gain(rows: int) -> bool:
    """Whether so many rows at a time, again and again, make `prepare` worth its seconds."""
    return _SLICE <= rows < _MANY and _least >= _MANY


def _kernels(rows: int) -> "Kernels | None":
    """What is to take so many rows; None for libsodium."""
    return _fastest() if rows >= min(_least, _MANY) else None


@cache
def _fastest() -> "Kernels | None":
    # The compiler takes long to import, and small jobs do without it.
    from vfl.crypto import ristretto

    return ristretto.fastest()


def _reduce(scalar: bytes) -> bytes:
    if len(scalar) != SCALAR or not 0 < int.from_bytes(scalar, "little") < ORDER:
        raise ValueError("a scalar must be 32 bytes, more than 0 and less than the group's order")
    return scalar


def _reduce_all(scalars: Points, count: int) -> Points:
    """Rows of scalars. Raises ValueError for one that is none, and for another number of them."""
    rows = _rows(scalars, SCALAR)
    if len(rows) != count:
        raise ValueError("there must be as many scalars as elements")
    if count <= _FEW:  # one by one, which takes a tenth of what arrays take
        for row in rows:
            _reduce(row.tobytes())
        return rows
    words = rows.view("<u8")
    below, equal = np.zeros(count, np.bool_), np.ones(count, np.bool_)
    for place in (3, 2, 1, 0):
        limit = np.uint64(ORDER >> 64 * place & (2**64 - 1))
        below |= equal & (words[:, place] < limit)
        equal &= words[:, place] == limit
    if not below.all() or not words.any(axis=1).all():
        raise ValueError("scalars must be more than 0 and less than the group's order")
    return rows


def _rows(array: NDArray[np.uint8], width: int) -> NDArray[np.uint8]:
    # libsodium reads raw memory: a wrong shape, type or stride must not get there.
    if array.dtype != np.uint8 or array.ndim != 2 or array.shape[1] != width:
        raise ValueError(f"rows of {width} bytes are due, in a uint8 array of shape (n, {width})")
    return np.ascontiguousarray(array)


GENERATOR = multiply_base(_ONE)
