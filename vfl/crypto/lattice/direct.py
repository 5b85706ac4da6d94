"""Sums over few rows: the host encrypts its matrix itself, and the guest multiplies it with its vectors.

A hint has 4096 columns however few the rows are. With fewer rows than that the matrix is the smaller one
of the two, and its products with a vector v are what is wanted:

    Once:  of each polynomial m of the matrix (`width` of its rows, which are columns of entries, beside
           `group` of its outputs): b = a z + e - 2^(32 + scale) m modulo 2^96, as hint.py encrypts a
           hint; and the public key b0 = a0 z + e0.
    For v: as hint.py multiplies with a secret,
               a' = sum of a_d v_d + a0 r + e'        r fresh ternary, e' fresh errors
               b' = sum of b_d v_d + b0 r + u         u uniform modulo 2^96
    Then   b' - a' z = -2^(32 + scale) M v + u + noise: what answers.py takes for products of a hint, so
           that it seals these less sums of zero.

v has a dozen bits where a secret has one and a half, too many for a floating product with 32-bit limbs:
it is cut into digits, each of which is multiplied by itself.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

import numpy as np
from numpy.typing import NDArray

from vfl.arrays import Integers, Words
from vfl.blocks.cores import each
from vfl.crypto.lattice import ring, wide, words
from vfl.crypto.lattice.hint import (
    LIMBS,
    EncryptedHint,
    Entries,
    HintKey,
    ends_of,
)
from vfl.crypto.lattice.matrix import CellMatrix
from vfl.crypto.lattice.parameters import (
    DEGREE,
    DEVIATIONS,
    ERROR_VARIANCE,
    HINT_BITS,
    KEY_LEAK,
    MODULUS_BITS,
    MOST_FLOOD,
    SENT_BITS,
    SINGLE,
    Parameters,
    drop_bits_of,
    key_shift,
    scale_bits_of,
)
from vfl.crypto.lattice.randomness import KEY, errors, ternary
from vfl.crypto.lattice.randomness import words as random_words
from vfl.crypto.randomness import Entropy

NO_WORDS = 0
"""Bits of an encrypted vector's words where there are none."""
_PRODUCT_BITS = 48  # of b' on the wire: what is cut off is far below the flooding
_DIGIT_BITS = 7  # of a vector's entry that is multiplied at once, with a sign
_ROWS_AT_ONCE = 128  # whose cells are mapped to outputs at once
_DIRECT_COST = 4  # a product with a matrix's polynomial, in products with a hint's
_LEAST_SPARED = 1 << 10  # polynomials, some 40 MB: a matrix is not encrypted itself to spare fewer


@dataclass(frozen=True)
class DirectParameters(Parameters):
    """Of a matrix that is encrypted itself; made by `choose_direct`, alike on both sides."""

    @property
    def noise(self) -> float:
        """Standard deviation of a sum's noise at most, in the word's last bit."""
        return math.sqrt(_noise_variance(self.rows, self.value_bits))

    @property
    def sum_leak(self) -> float:
        """Nothing: vectors are not encrypted, so that there are no sums of their errors."""
        return 0.0

    @property
    def key_leak(self) -> float:
        """Divergence (nats) of a matrix's answers from ones that are independent of the host's key and
        its errors, over all vectors."""
        return self.queries * self.outputs * (self.noise / self.flood) ** 2

    @property
    def columns(self) -> int:
        return self.rows

    @property
    def digits(self) -> int:
        """Into how many digits an entry of a vector is cut."""
        return -(-self.value_bits // _DIGIT_BITS)

    def product_bytes(self, count: int) -> int:
        a, b = self.groups * DEGREE * SENT_BITS, self.outputs * _PRODUCT_BITS
        return count * (a + b) // 8

    def serving(self, outputs: int, most: int) -> "DirectParameters":
        """The same for another number of outputs, and as many vectors as KEY_LEAK allows, `most` at
        most."""
        leak = max(outputs, 1) * (self.noise / self.flood) ** 2
        return replace(self, outputs=outputs, queries=min(most, math.floor(KEY_LEAK / leak)))


def choose_direct(
    rows: int, value_bits: int, outputs: int, queries: int, weight: int = 1, least: int | None = None
) -> DirectParameters:
    """Parameters as those of parameters.choose, for a matrix of fewer rows than DEGREE.

    Raises ValueError, with the numbers, for more rows, where sums do not fit in 64 bits, or where the
    flooding does not hide for `least` vectors what it has to.
    """
    if not 1 <= rows < DEGREE:
        raise ValueError(
            f"{rows:,} rows are not fewer than {DEGREE:,}: a hint is smaller than the matrix"
        )
    scale_bits = scale_bits_of(rows, value_bits, weight, NO_WORDS)
    flood = min(2.0 ** (scale_bits - 2) / DEVIATIONS, MOST_FLOOD) * (1 - 2.0**-10)
    # As those of an answer, the bits of b' that are not sent round it by far less than the flooding.
    drop_bits = drop_bits_of(SINGLE, flood)
    least = queries if least is None else least
    if flood >= 2.0 ** (MODULUS_BITS - _PRODUCT_BITS + 4):
        made = DirectParameters(
            rows, value_bits, outputs, queries, weight, NO_WORDS, scale_bits, flood, drop_bits
        ).serving(outputs, queries)
        if made.queries >= least:
            return made
    raise ValueError(
        f"sums over {rows:,} rows of {value_bits}-bit values times {weight:,} leave {scale_bits} of 64 "
        f"bits, too few for a flooding that hides a matrix's noise, for {least:,} queries of "
        f"{outputs:,} sums"
    )


def is_cheaper(matrices: Sequence[DirectParameters], hints: Sequence[Parameters]) -> bool:
    """Whether matrices that are encrypted themselves cost less than hints, whatever is asked of them: so
    that jobs of more and of fewer vectors can use the same ones.

    A vector's products with a matrix's polynomial take four times as long as with a hint's, as they are
    made in two digits and of the few vectors of a query.
    """
    made, spared = (sum(own.groups * own.depth for own in every) for every in (matrices, hints))
    return made * _DIRECT_COST <= spared and spared - made >= _LEAST_SPARED


class MatrixKey(HintKey):
    """The host's key of one encrypted matrix. Its context names matrix and parameters, as of a hint."""

    def _message(self, block: Words | Entries) -> Words:
        scale = np.uint64(self._parameters.scale_bits)
        return (-block.astype(np.int64)).view(np.uint64) << scale

    def _unpacked(self, data: memoryview, count: int) -> Words:
        whole = words.unpack(data, _PRODUCT_BITS, (count, self._parameters.outputs))
        return wide.left(wide.of(whole), SINGLE.fraction_bits)


class EncryptedMatrix(EncryptedHint):
    """A host's encrypted matrix at the guest, as EncryptedHint: 48 bytes an entry."""

    def __init__(
        self, parameters: DirectParameters, seed: bytes, header: bytes, file: Path | None = None
    ) -> None:
        super().__init__(parameters, seed, header, file)
        self._digits = parameters.digits

    def multiply_vectors(self, values: Integers, entropy: Entropy) -> tuple[bytes, Words]:
        """The masked products with vectors, (count, rows), for the host, and the masks, uint64 (count,
        outputs), to open its answers.

        All cores; the matrix is read once for all. Raises ValueError while parts are missing, and for
        values that are not below 2^(value_bits - 1).
        """
        p, count = self._parameters, len(values)
        self._check_complete()
        if values.shape[1] != p.rows or np.abs(values).max(initial=0) >= 1 << (p.value_bits - 1):
            raise ValueError(f"vectors that are not of {p.rows:,} values of {p.value_bits} bits")
        digits = _cut(values, self._digits)
        shape = self._digits, count, p.groups, 2, LIMBS, ring.HALF
        products = self._products(digits.reshape(-1, p.rows)).reshape(shape)
        key = entropy(KEY)
        again = ternary(key, "again", count * p.groups * DEGREE).reshape(count, p.groups, DEGREE)
        noise = errors(key, "noise", count * p.groups * DEGREE).reshape(count, p.groups, DEGREE)
        masks = random_words(key, "masks", count * p.outputs).reshape(count, p.outputs)

        def finish(v: int) -> tuple[Words, Words]:
            fresh = ring.small(again[v])[:, np.newaxis]
            products[0, v, :, 0] += self._key_a * fresh
            products[0, v, :, 1] += self._key_b * fresh
            a = wide.plus(_put_together(products[:, v, :, 0]), wide.of(noise[v]))
            b = ends_of(p, _put_together(products[:, v, :, 1]))
            return a, wide.right(b, SINGLE.fraction_bits)[..., 0] + masks[v]

        a_words, b_words = (np.stack(part) for part in zip(*each(finish, range(count)), strict=True))
        return words.pack_hint(a_words, SINGLE) + words.pack(b_words, _PRODUCT_BITS), masks


def entries_of(matrix: CellMatrix) -> Entries:
    """All entries of a matrix, (outputs, rows)."""
    codes = [column.codes.astype(np.int64) for column in matrix.columns]
    out: list[Entries] = []
    for first in range(0, matrix.rows, _ROWS_AT_ONCE):
        last = min(first + _ROWS_AT_ONCE, matrix.rows)
        cells = np.zeros((matrix.cells, last - first), np.uint64)
        at = np.arange(last - first)
        for column, coded, cell in zip(matrix.columns, codes, matrix.offsets.tolist(), strict=False):
            if column.bins:
                cells[cell + coded[first:last], at] = 1
            else:
                cells[cell] = coded[first:last].view(np.uint64)
        own = matrix.map(cells).view(np.int64)
        out.append(own.astype(np.int8) if np.abs(own).max() < 128 else own)
    return cast(Entries, np.concatenate(out, axis=1))


def _noise_variance(rows: int, value_bits: int) -> float:
    """Of what the matrix's errors, the key's and roundings to 80 bits add to an opened product: the
    former times a vector, and as for a hint the public key's times r and z times what was sent."""
    rounding = 4.0 ** (HINT_BITS - SENT_BITS) / 12
    of_matrix = rows * 4.0 ** (value_bits - 1) * (ERROR_VARIANCE + rounding)
    return of_matrix / 4.0 ** (HINT_BITS - MODULUS_BITS) + key_shift(SINGLE) * 2 / 3


def _cut(values: Integers, digits: int) -> NDArray[np.int16]:
    """Balanced digits (digits, count, rows) of values, the lowest first."""
    out, left, half = [], values.astype(np.int64), 1 << _DIGIT_BITS - 1
    for _ in range(digits - 1):
        low = ((left + half) & (2 * half - 1)) - half
        out.append(low)
        left = (left - low) >> _DIGIT_BITS
    return np.stack([*out, left]).astype(np.int16)


def _put_together(products: ring.Complexes) -> Words:
    """Wide words, modulo 2^96, of the products of all digits, (digits, ..., LIMBS, HALF), in transform
    domain; these are overwritten."""
    total = ring.settle_wide(products[-1], SINGLE.hints)
    for lower in products[-2::-1]:
        total = wide.plus(wide.left(total, _DIGIT_BITS), ring.settle_wide(lower, SINGLE.hints))
    return total
