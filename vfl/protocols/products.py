"""A host's X^T r under encryption: r lies encrypted row by row, X is the host's own.

The columns of X that are 0 or 1 for the levels of a factor need sums of r by level: a histogram, the
kernel of the trees. A numeric column's numbers are integers (multiples of 2^-FRACTION_BITS); written in
digits of w bits they are histograms as well, of 2^w cells, and the sum of d times cell d is a running
sum. So a number costs a product a row and digit, fewer where columns share joint cells
(learn/grouping.py), instead of a power a row.
"""

import secrets
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from vfl.crypto.ciphertexts import Ciphertexts, PublicKey
from vfl.crypto.sums import pack_and_mask, positional_sums
from vfl.crypto.workers import SharedRows, Workers
from vfl.learn.design import FRACTION_BITS, Matrix
from vfl.learn.losses import Floats
from vfl.protocols.histograms import JointSums

ROW_BITS = 50
"""Bits of a row's quantised residual, sign not counted."""

_WINDOWS = range(4, 17)  # bits of a digit; codes are uint16
_MOST_BITS = 62  # of a number's magnitude, so that the least can be subtracted from the greatest


@dataclass(frozen=True)
class _Number:
    """A numeric column: where its digits' histograms lie, and its least integer."""

    digits: range  # of the columns that are summed
    window: int
    least: int


class EncryptedProduct:
    """X^T r for one X and one r after the other."""

    def __init__(
        self, workers: Workers[PublicKey], store: SharedRows, matrix: Matrix, row_bits: int = ROW_BITS
    ) -> None:
        """`matrix` has a column at least. `row_bits`: of a row's residual, sign not counted.

        Raises ValueError, with the numbers, when a product would not fit in a plaintext.
        """
        self._workers, self._matrix = workers, matrix
        if max(matrix.bits, default=0) > _MOST_BITS:
            raise ValueError(f"a number of {max(matrix.bits)} bits, more than {_MOST_BITS}")
        integers = matrix.integers
        self._numbers: list[_Number] = []
        codes = list(matrix.codes)
        sizes = [levels + 1 for levels in matrix.levels]
        for own in integers:
            least = min(0, int(own.min(initial=0)))
            bits = max(1, int((own - least).max(initial=0)).bit_length())
            window = _window(bits, matrix.rows)
            digits = -(-bits // window)
            self._numbers.append(_Number(range(len(codes), len(codes) + digits), window, least))
            for k in range(digits):
                codes.append(((own - least) >> (k * window) & ((1 << window) - 1)).astype(np.uint16))
                sizes.append(1 << min(window, bits - k * window))
        self._offsets = np.cumsum([0, *sizes])
        self._codes = np.array(codes, np.uint16).reshape(len(codes), matrix.rows)
        self.sums = JointSums(workers, store, sizes, 1)
        self._slot_bits, self._slots = _slots(workers.key.bits, matrix, row_bits)

    def group(self) -> None:
        """Find the joint cells: once, before the first rows are added to `sums`."""
        self.sums.group(self._codes, np.zeros(self._matrix.rows, np.int64))

    async def masked(self) -> tuple[Ciphertexts, list[int]]:
        """The product of the rows added to `sums`, packed and masked; and the masks.

        Masks are uniform among all plaintexts, so that a decrypted ciphertext tells nothing.
        """
        histogram = (await self.sums.histograms())[0]
        parts = [
            histogram[start + 1 : start + 1 + levels]
            for start, levels in zip(self._offsets.tolist(), self._matrix.levels, strict=False)
        ]
        tasks = [
            ([histogram[self._offsets[k] : self._offsets[k + 1]] for k in n.digits], n.window, n.least)
            for n in self._numbers
        ]
        products = np.concatenate([*parts, await positional_sums(self._workers, tasks)])
        n = int(self._workers.key.n)
        masks = [secrets.randbelow(n) for _ in range(-(-len(products) // self._slots))]
        return (
            await pack_and_mask(self._workers, products, self._slot_bits, self._slots, masks),
            masks,
        )

    def unmask(self, decrypted: Sequence[int], masks: Sequence[int], scale: float) -> Floats:
        """X^T r, shape (columns,), from what the key's owner sent back; r was multiplied by `scale`.

        Raises ValueError for plaintexts that hold no such product.
        """
        n = int(self._workers.key.n)
        if len(decrypted) != len(masks):
            raise ValueError("a wrong number of plaintexts")
        values: list[int] = []
        for plaintext, mask in zip(decrypted, masks, strict=True):
            count = min(self._slots, self._matrix.columns - len(values))
            values += _unpack((plaintext - mask) % n, n, self._slot_bits, count)
        levels = sum(self._matrix.levels)
        unit = np.repeat([scale, scale * 2.0**FRACTION_BITS], [levels, len(self._numbers)])
        return np.asarray(np.array([float(value) for value in values]) / unit)


def most_ciphertexts(key_bits: int, columns: int, rows: int) -> int:
    """Of a product with residuals of ROW_BITS, whatever the numbers in these columns are."""
    slots = (key_bits - 2) // _slot_bits(_MOST_BITS, rows, ROW_BITS)
    return -(-columns // max(1, slots))


def _window(bits: int, rows: int) -> int:
    """Bits of a digit that make the least products: one a row and digit, two a cell."""
    return min(_WINDOWS, key=lambda w: -(-bits // w) * (rows + (2 << w)))


def _slots(key_bits: int, matrix: Matrix, row_bits: int) -> tuple[int, int]:
    """Bits of a product and its sign, and how many lie side by side in a plaintext."""
    number_bits = max([1, *matrix.bits])
    slot_bits = _slot_bits(number_bits, matrix.rows, row_bits)
    slots = (key_bits - 2) // slot_bits
    if slots < 1:
        raise ValueError(
            f"products of {matrix.rows:,} rows and numbers of {number_bits} bits take {slot_bits} bits, "
            f"a plaintext has {key_bits - 2}"
        )
    return slot_bits, slots


def _slot_bits(number_bits: int, rows: int, row_bits: int) -> int:
    return row_bits + number_bits + rows.bit_length() + 2


def _unpack(plaintext: int, n: int, slot_bits: int, count: int) -> Iterator[int]:
    """The signed numbers that lie side by side in a plaintext modulo n."""
    half = 1 << (slot_bits - 1)
    biased = (plaintext if plaintext <= n // 2 else plaintext - n) + sum(
        half << (slot_bits * i) for i in range(count)
    )
    if biased < 0 or biased >> (slot_bits * count):
        raise ValueError("a plaintext that is no masked product")
    mask = (1 << slot_bits) - 1
    for i in range(count):
        yield (biased >> (slot_bits * i) & mask) - half
