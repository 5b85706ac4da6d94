"""The guest's vectors under fresh secrets: c = a s + e + 2^scale v, a word a row, modulo 2^64.

Regev encryption over rings with public randomness a (Lyubashevsky, Peikert, Regev, EUROCRYPT 2010),
kept once for all vectors as SimplePIR keeps its matrix (Henzinger et al., USENIX Security 2023). Rows
are cut into blocks of 4096, a polynomial each; the secret s of a vector serves all its blocks.
"""

import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial

import numpy as np
from numpy.typing import NDArray

from vfl.arrays import Integers, Words
from vfl.blocks.cores import Begun
from vfl.blocks.engine import ENGINE, Array, Rows, Shared, overlaps
from vfl.crypto.lattice import ring, words
from vfl.crypto.lattice.parameters import DEGREE, Parameters
from vfl.crypto.lattice.randomness import KEY, derive, error, ternary
from vfl.crypto.lattice.randomness import words as random_words
from vfl.crypto.lattice.ring import further
from vfl.crypto.randomness import Entropy
from vfl.kernels import kernel

_TILE = 64  # rows that are transposed at a time


class PublicRows:
    """The public polynomials of a job's rows, expanded from the joint seed, in transform domain.

    Guest and host have the same; threads may share one. Those that were wanted once are kept, 16 bytes a
    row; where an object is sent to, they are made anew.
    """

    def __init__(self, seed: bytes, rows: int) -> None:
        """`seed`: 32 bytes to which every party contributed. Raises ValueError for another length."""
        if rows < 1:
            raise ValueError(f"{rows} rows have no polynomials")
        derive(seed, "rows")
        self.seed = seed
        self.rows = rows
        self.blocks = -(-rows // DEGREE)
        self._kept = np.empty((self.blocks, 2, ring.HALF), np.complex128)  # of memory: what is made
        self._made = np.zeros(self.blocks, np.bool_)
        self._shared: Shared[PublicRows] | None = None

    def of(self, numbers: range) -> ring.Complexes:
        """These polynomials, shape (numbers, 2, HALF), which are not kept."""
        first, count = numbers.start, len(numbers)
        if self._made[first : first + count].all():
            return np.asarray(self._kept[first : first + count])
        drawn = random_words(self.seed, "rows", count * DEGREE, first * DEGREE)
        return ring.words64(drawn.reshape(-1, DEGREE))

    def one(self, number: int) -> ring.Complexes:
        """A polynomial, shape (2, HALF), which is kept."""
        if not self._made[number]:
            self._kept[number] = self.of(range(number, number + 1))[0]
            self._made[number] = True  # last: another thread may look
        return np.asarray(self._kept[number])

    @property
    def shared(self) -> Shared["PublicRows"]:
        """These polynomials where kernels run."""
        if self._shared is None:
            self._shared = ENGINE.share(self)
        return self._shared

    def __reduce__(self) -> tuple[type["PublicRows"], tuple[bytes, int]]:
        return PublicRows, (self.seed, self.rows)

    def within(self, start: int, rows: int) -> range:
        """The blocks of `rows` rows from `start` on. Raises ValueError unless they are whole blocks."""
        stop = start + rows
        cut = start % DEGREE or (stop % DEGREE and stop != self.rows)
        if cut or rows < 1 or not 0 <= start < stop <= self.rows:
            raise ValueError(
                f"a piece of rows {start:,} to {stop:,} of {self.rows:,} is not cut at multiples "
                f"of {DEGREE}"
            )
        return range(start // DEGREE, -(-stop // DEGREE))


@dataclass(frozen=True)
class Secrets:
    """Fresh ternary secrets, (count, DEGREE): each for one vector only, at all hosts."""

    values: NDArray[np.int8] = field(repr=False)

    @classmethod
    def draw(cls, count: int, entropy: Entropy) -> "Secrets":
        """`count` new secrets. `entropy(n)` returns n random bytes."""
        return cls(ternary(entropy(KEY), "secrets", count * DEGREE).reshape(count, DEGREE))

    def __len__(self) -> int:
        return len(self.values)


Part = bytes | Words
"""Encrypted rows of a polynomial: all of them, or words (rows, count) of some."""


@dataclass(frozen=True)
class _Key:
    """What vectors are encrypted under. Secret."""

    parameters: Parameters
    secrets: ring.Complexes = field(repr=False)  # transforms
    errors: bytes = field(repr=False)  # key of their stream


class VectorEncryption:
    """Encrypts one vector under each secret, piece by piece of rows; the same bytes serve every host."""

    def __init__(
        self,
        parameters: Parameters,
        public: PublicRows,
        drawn: Secrets,
        entropy: Entropy,
    ) -> None:
        self._public = public
        self._key = _Key(parameters, ring.small(drawn.values), entropy(KEY))
        self._shared: Shared[_Key] | None = None
        self._done = np.zeros(public.blocks, np.bool_)
        self._lock = threading.Lock()

    def rows(self, start: int, values: NDArray[np.int64]) -> bytes:
        """Rows from `start` on of all vectors, encrypted: values are int64 (count, rows of the piece).

        A piece starts at a multiple of DEGREE and ends at one, or at the last row. One core, without the
        interpreter's lock but for moments: threads may encrypt several pieces at once, of 16,384 to
        131,072 rows best. Raises ValueError for a piece cut elsewhere, for rows that were encrypted
        before (a second ciphertext under the same error would give away their difference) and for
        values that are not below 2^(value_bits - 1).
        """
        blocks = self._public.within(start, values.shape[1])
        _check(self._key, values)
        self._take(blocks)
        return joined(self._key.parameters, _encrypted(self._key, self._public, start, values))

    def begin(
        self, start: int, stop: int, values: Callable[..., Integers], *arrays: Rows
    ) -> list[Begun[list[Part]]]:
        """Begin with such a piece where the engine of blocks has the rows, for `joined`.

        `values(*blocks)` are the vectors' entries in the rows of these blocks.
        """
        self._take(self._public.within(start, stop - start))
        self._shared = self._shared or ENGINE.share(self._key)
        key, public = self._shared.argument, self._public.shared.argument
        begun = []
        cuts = ENGINE.cuts(self._public.rows)
        for place, low, high in overlaps(cuts, start, stop):
            rows = slice(low - cuts[place].start, high - cuts[place].start)
            kernel = partial(_encrypt, key, public, values, low, rows)
            begun.append(ENGINE.begin(kernel, place, *arrays))
        return begun

    def _take(self, blocks: range) -> None:
        with self._lock:
            if self._done[blocks.start : blocks.stop].any():
                raise ValueError("rows were encrypted before under the same secrets")
            self._done[blocks.start : blocks.stop] = True


def joined(parameters: Parameters, parts: Iterable[Part]) -> bytes:
    """The bytes of a piece, of its parts in order: where a polynomial is cut its words are packed."""
    out: list[bytes] = []
    cut: list[Words] = []
    for part in parts:
        if isinstance(part, bytes):
            out += [*_packed(parameters, cut), part]
            cut = []
        else:
            cut.append(part)
            if sum(map(len, cut)) == DEGREE:
                out += _packed(parameters, cut)
                cut = []
    return b"".join([*out, *_packed(parameters, cut)])


def _packed(parameters: Parameters, cut: list[Words]) -> list[bytes]:
    return [words.pack(np.concatenate(cut), parameters.word_bits)] if cut else []


def _encrypt(
    key: _Key,
    public: PublicRows,
    values: Callable[..., Integers],
    start: int,
    rows: slice,
    *blocks: Array,
) -> list[Part]:
    """Encrypt these rows of a block, the first of which is row `start` of all."""
    made = values(*(block[..., rows] for block in blocks))
    _check(key, made)
    return list(_encrypted(key, public, start, made))


def _check(key: _Key, values: Integers) -> None:
    """Raises ValueError for values that do not fit the key."""
    if len(values) != len(key.secrets):
        raise ValueError(f"{len(values)} vectors under {len(key.secrets)} secrets")
    bound = 1 << (key.parameters.value_bits - 1)
    if values.max() >= bound or values.min() <= -bound:
        raise ValueError(f"a value does not fit in {key.parameters.value_bits} bits")


def _encrypted(key: _Key, public: PublicRows, start: int, values: Integers) -> Iterator[Part]:
    """The rows from `start` on by polynomial, in bytes where all of one's are there."""
    products = np.empty((len(values), 2, ring.HALF), np.complex128)
    stop = start + values.shape[1]
    for number in range(start // DEGREE, -(-stop // DEGREE)):
        first, last = number * DEGREE, min((number + 1) * DEGREE, public.rows)
        low, high = max(first, start), min(last, stop)
        own = values[:, low - start : high - start]
        if low > first:
            own = np.pad(own, ((0, 0), (low - first, 0)))
        out = _encrypted_words(key, public.one(number), number, own, products)
        whole = (low, high) == (first, last)
        yield words.pack(out, key.parameters.word_bits) if whole else out[low - first :]


def _encrypted_words(
    key: _Key, public: ring.Complexes, number: int, values: Integers, products: ring.Complexes
) -> Words:
    """Words (rows, count) of the first rows of a polynomial."""
    count, length = values.shape
    _multiply(public, key.secrets, products)
    # An even number of words a polynomial: streams are read from even words on.
    drawn = random_words(key.errors, "errors", count * DEGREE, number * count * DEGREE)
    out = np.empty((length, count), np.uint64)
    ring.check(
        _settle_rows(
            ring.backward(products),
            ring.BACK,
            drawn.reshape(count, DEGREE),
            np.ascontiguousarray(values, np.int64),
            key.parameters.scale_bits,
            out,
        )
    )
    return out


@kernel
def _multiply(public: ring.Complexes, keys: ring.Complexes, out: ring.Complexes) -> None:
    for v in range(len(keys)):
        for limb in range(2):
            for i in range(ring.HALF):
                out[v, limb, i] = public[limb, i] * keys[v, i]


@kernel
def _settle_rows(
    products: ring.Complexes,
    back: ring.Complexes,
    drawn: NDArray[np.uint64],
    values: NDArray[np.int64],
    scale_bits: int,
    out: NDArray[np.uint64],
) -> float:
    """Words (rows, count) of a block: rounded products plus errors plus scaled values."""
    length, count = out.shape
    worst = 0.0
    for first in range(0, ring.HALF, _TILE):
        for v in range(count):
            for i in range(first, first + _TILE):
                low, high = products[v, 0, i] * back[i], products[v, 1, i] * back[i]
                a, b, c, d = np.rint(low.real), np.rint(high.real), np.rint(low.imag), np.rint(high.imag)
                worst = further(worst, low.real - a)
                worst = further(worst, high.real - b)
                worst = further(worst, low.imag - c)
                worst = further(worst, high.imag - d)
                if i < length:
                    word = np.int64(a) + (np.int64(b) << 32) + error(drawn[v, i])
                    out[i, v] = np.uint64(word + (values[v, i] << scale_bits))
                at = i + ring.HALF
                if at < length:
                    word = np.int64(c) + (np.int64(d) << 32) + error(drawn[v, at])
                    out[at, v] = np.uint64(word + (values[v, at] << scale_bits))
    return worst
