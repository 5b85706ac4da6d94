"""The prime-order group ristretto255 (RFC 9496), on many elements at a time.

Elements are their canonical 32-byte encodings, as rows of a uint8 array of shape (n, 32); scalars
are 32 bytes, little-endian, below the group's order. The arithmetic is constant time and spread over
the machine's cores by threads, without the interpreter's lock:

- many rows: our own kernels, a point in each lane of a vector (`ristretto`), where the processor's
  vectors allow: about ten times as fast as libsodium with AVX-512 IFMA, three times with AVX-512,
  one and a half times with AVX2. They are compiled once, in a few seconds;
- few rows, and other processors: libsodium. `rbcl` ships it and checks and copies one element a
  call; we call the same library on slices of one buffer instead.

Both give the same bytes and refuse the same rows.
"""

import contextlib
import ctypes
import hashlib
import secrets
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import rbcl
from numpy.typing import NDArray

from vfl.crypto.cores import spread

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
_MANY = 4096  # fewer rows than this are not worth waiting for the compiler
_CHUNK = 1024  # rows that a kernel takes at a time, so that its copies of them stay small

# rbcl unpacks libsodium into a temporary file at import and leaves it there. Once it is loaded
# the name is not needed (Windows refuses to remove it; then it stays).
with contextlib.suppress(OSError):
    Path(rbcl._sodium._name).unlink()

# Prototypes of our own, so that those which rbcl shares with its other users stay as they are.
_void_p = ctypes.c_void_p
_scalarmult = ctypes.CFUNCTYPE(ctypes.c_int, _void_p, _void_p, _void_p)(
    ("crypto_scalarmult_ristretto255", rbcl._sodium)
)
_from_hash = ctypes.CFUNCTYPE(ctypes.c_int, _void_p, _void_p)(
    ("crypto_core_ristretto255_from_hash", rbcl._sodium)
)


class InvalidPoint(ValueError):
    """A row that is no element of the group, or is its identity. `index` is the row's number."""

    def __init__(self, index: int) -> None:
        super().__init__(f"row {index} is not an element of the group other than the identity")
        self.index = index


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


def _chunks(start: int, stop: int) -> Iterator[slice]:
    for i in range(start, stop, _CHUNK):
        yield slice(i, min(i + _CHUNK, stop))


def _kernels(rows: int) -> "Kernels | None":
    """What is to take so many rows; None for libsodium."""
    return _fastest() if rows >= _MANY else None


@cache
def _fastest() -> "Kernels | None":
    # The compiler takes long to import, and small jobs do without it.
    from vfl.crypto import ristretto

    return ristretto.fastest()


def _reduce(scalar: bytes) -> bytes:
    if len(scalar) != SCALAR or not 0 < int.from_bytes(scalar, "little") < ORDER:
        raise ValueError("a scalar must be 32 bytes, more than 0 and less than the group's order")
    return scalar


def _rows(array: NDArray[np.uint8], width: int) -> NDArray[np.uint8]:
    # libsodium reads raw memory: a wrong shape, type or stride must not get there.
    if array.dtype != np.uint8 or array.ndim != 2 or array.shape[1] != width:
        raise ValueError(f"rows of {width} bytes are due, in a uint8 array of shape (n, {width})")
    return np.ascontiguousarray(array)
