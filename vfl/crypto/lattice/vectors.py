"""The guest's vectors under fresh secrets: c = a s + e + 2^scale v, a word a row, modulo 2^64.

Regev encryption over rings with public randomness a (Lyubashevsky, Peikert, Regev, EUROCRYPT 2010),
kept once for all vectors as SimplePIR keeps its matrix (Henzinger et al., USENIX Security 2023). Rows
are cut into blocks of 4096, a polynomial each; the secret s of a vector serves all its blocks.
"""

import secrets
import threading
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from vfl.crypto.cores import each
from vfl.crypto.entropy import Entropy
from vfl.crypto.lattice import ring, words
from vfl.crypto.lattice.parameters import DEGREE, Parameters
from vfl.crypto.lattice.randomness import KEY, error, ternary
from vfl.crypto.lattice.randomness import words as random_words
from vfl.kernels import kernel

_CHUNK = 16  # blocks that are made at a time
_TILE = 64  # rows that are transposed at a time


class PublicRows:
    """The public polynomials of a job's rows, expanded from the joint seed, in transform domain.

    16 bytes a row. Guest and host hold the same; threads may share one.
    """

    def __init__(self, seed: bytes, rows: int) -> None:
        """`seed`: 32 bytes to which every party contributed. Raises ValueError for another length."""
        if rows < 1:
            raise ValueError(f"{rows} rows have no polynomials")
        self.seed = seed
        self.rows = rows
        self.blocks = -(-rows // DEGREE)
        self.transforms = np.empty((self.blocks, 2, ring.HALF), np.complex128)

        def expand(first: int) -> None:
            last = min(first + _CHUNK, self.blocks)
            drawn = random_words(seed, "rows", (last - first) * DEGREE, first * DEGREE)
            self.transforms[first:last] = ring.words64(drawn.reshape(-1, DEGREE))

        for _ in each(expand, range(0, self.blocks, _CHUNK)):
            pass

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
    def draw(cls, count: int, entropy: Entropy = secrets.token_bytes) -> "Secrets":
        """`count` new secrets. `entropy(n)` returns n random bytes."""
        return cls(ternary(entropy(KEY), "secrets", count * DEGREE).reshape(count, DEGREE))

    def __len__(self) -> int:
        return len(self.values)


class VectorEncryption:
    """Encrypts one vector under each secret, piece by piece of rows; the same bytes serve every host."""

    def __init__(
        self,
        parameters: Parameters,
        public: PublicRows,
        drawn: Secrets,
        entropy: Entropy = secrets.token_bytes,
    ) -> None:
        self._parameters = parameters
        self._public = public
        self._secrets = ring.small(drawn.values)
        self._key = entropy(KEY)
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
        count, length = values.shape
        if count != len(self._secrets):
            raise ValueError(f"{count} vectors under {len(self._secrets)} secrets")
        blocks = self._public.within(start, length)
        bound = 1 << (self._parameters.value_bits - 1)
        if values.max() >= bound or values.min() <= -bound:
            raise ValueError(f"a value does not fit in {self._parameters.value_bits} bits")
        with self._lock:
            if self._done[blocks.start : blocks.stop].any():
                raise ValueError("rows were encrypted before under the same secrets")
            self._done[blocks.start : blocks.stop] = True
        products = np.empty((count, 2, ring.HALF), np.complex128)
        return b"".join(
            self._block(block, values[:, (block - blocks.start) * DEGREE :][:, :DEGREE], products)
            for block in blocks
        )

    def _block(self, block: int, values: NDArray[np.int64], products: ring.Complexes) -> bytes:
        count, length = values.shape
        _multiply(self._public.transforms[block], self._secrets, products)
        # An even number of words a block: streams are read from even words on.
        drawn = random_words(self._key, "errors", count * DEGREE, block * count * DEGREE)
        out = np.empty((length, count), np.uint64)
        ring.check(
            _settle_rows(
                ring.backward(products),
                ring.BACK,
                drawn.reshape(count, DEGREE),
                np.ascontiguousarray(values, np.int64),
                self._parameters.scale_bits,
                out,
            )
        )
        return words.pack(out, self._parameters.word_bits)


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
                worst = ring.further(worst, low.real - a)
                worst = ring.further(worst, high.real - b)
                worst = ring.further(worst, low.imag - c)
                worst = ring.further(worst, high.imag - d)
                if i < length:
                    word = np.int64(a) + (np.int64(b) << 32) + error(drawn[v, i])
                    out[i, v] = np.uint64(word + (values[v, i] << scale_bits))
                at = i + ring.HALF
                if at < length:
                    word = np.int64(c) + (np.int64(d) << 32) + error(drawn[v, at])
                    out[at, v] = np.uint64(word + (values[v, at] << scale_bits))
    return worst
