"""Products in Z[X]/(X^4096 + 1) by floating FFT, exact after rounding.

A real polynomial p of degree 4096 is evaluated at 2048 of the roots of X^4096 + 1 (the others are their
conjugates) by one complex FFT of half the size: of (p[j] + i p[j + 2048]) w^j, w = exp(i pi / 4096).
Integers of 64 to 102 bits are cut into balanced limbs of 28 to 41, multiplied limb by limb with small
polynomials, rounded, and put together with carries.

How exact: in every product here one factor has limbs below 2^31 and the other a Euclidean norm of a few
hundred at most, and the error of a coefficient is some 2^-15 (of pairs, with limbs below 2^40 and a norm
below 2^6, some 2^-6); docs/lattice.md has the bound. Rounding checks itself: were errors near 1/2,
distances from the nearest integer would be anywhere in [0, 1/2], thousands of them, and so one beyond
1/4 raises ArithmeticError.
"""

import numpy as np
from numpy.typing import NDArray

from vfl.arrays import Integers, Words
from vfl.crypto.lattice.parameters import DEGREE, Limbs
from vfl.kernels import inlined, kernel

HALF = DEGREE // 2
Complexes = NDArray[np.complex128]

TWIST: Complexes = np.exp(1j * np.pi * np.arange(HALF) / DEGREE)
LARGEST_DISTANCE = 0.25

BACK: Complexes = np.asarray(np.conj(TWIST) / HALF, np.complex128)

_ROOTS: Complexes = np.exp(1j * np.pi * np.arange(2 * DEGREE) / DEGREE)


def forward(twisted: Complexes) -> Complexes:
    """The FFT of twisted coefficients, (..., HALF); the argument is overwritten."""
    from scipy import fft  # which takes as long to import as many a command

    return np.asarray(fft.fft(twisted, axis=-1, overwrite_x=True))


def backward(transformed: Complexes) -> Complexes:
    """The unscaled inverse, still twisted, which settling finishes; the argument is overwritten."""
    from scipy import fft

    return np.asarray(fft.ifft(transformed, axis=-1, overwrite_x=True, norm="forward"))


def small(polynomials: NDArray[np.int8] | NDArray[np.int32]) -> Complexes:
    """Transforms (..., HALF) of polynomials with small coefficients, (..., DEGREE)."""
    return forward((polynomials[..., :HALF] + 1j * polynomials[..., HALF:]) * TWIST)


def roots(first: int, last: int, powers: NDArray[np.int64]) -> Complexes:
    """The points first to last - 1 of a transform, to the given powers: (points, powers)."""
    return _ROOTS[np.outer(1 - 4 * np.arange(first, last), powers) % (2 * DEGREE)]


def words64(polynomials: NDArray[np.uint64]) -> Complexes:
    """Transforms (..., 2, HALF) of the two limbs of polynomials (..., DEGREE) of 64-bit words."""
    shape = polynomials.shape[:-1]
    twisted = np.empty((*shape, 2, HALF), np.complex128)
    _twist64(polynomials.reshape(-1, DEGREE), TWIST, twisted.reshape(-1, 2, HALF))
    return forward(twisted)


def wide_words(numbers: Words, limbs: Limbs) -> Complexes:
    """Transforms (..., limbs, HALF) of the limbs of polynomials (..., DEGREE, 2) of wide words."""
    shape = numbers.shape[:-2]
    twisted = np.empty((*shape, limbs.number, HALF), np.complex128)
    _twist(numbers.reshape(-1, DEGREE, 2), TWIST, limbs, twisted.reshape(-1, limbs.number, HALF))
    return forward(twisted)


def settle64(products: Complexes) -> NDArray[np.uint64]:
    """Words (..., DEGREE) of transforms (..., 2, HALF), which are overwritten."""
    shape = products.shape[:-2]
    out = np.empty((*shape, DEGREE), np.uint64)
    check(_settle64(backward(products).reshape(-1, 2, HALF), BACK, out.reshape(-1, DEGREE)))
    return out


def settle_wide(products: Complexes, limbs: Limbs) -> Words:
    """Wide words (..., DEGREE, 2) of transforms (..., limbs, HALF), which are overwritten."""
    shape = products.shape[:-2]
    out = np.empty((*shape, DEGREE, 2), np.uint64)
    back = backward(products).reshape(-1, limbs.number, HALF)
    check(_settle(back, BACK, limbs, out.reshape(-1, DEGREE, 2)))
    return out


def carried(limbs: Integers, cut: Limbs) -> Words:
    """Wide words (count, DEGREE, 2) of limbs (count, limbs, DEGREE), which may be as large as a word."""
    out = np.empty((len(limbs), DEGREE, 2), np.uint64)
    _carry(limbs, cut, out)
    return out


def check(distance: float) -> None:
    """Raises ArithmeticError when rounding distances show that a product's precision did not hold."""
    if not distance <= LARGEST_DISTANCE:
        raise ArithmeticError(
            f"a floating product was {distance:.3g} from the nearest integer, more than "
            f"{LARGEST_DISTANCE}: this machine's arithmetic is not as exact as it should be"
        )


@inlined
def further(worst: float, distance: float) -> float:
    """The larger of the two in size; infinite once a distance is no number."""
    size = abs(distance)
    return size if size > worst else (worst if size == size else np.inf)


@inlined
def _low(word: np.int64) -> np.int64:
    """The balanced low 32 bits."""
    return ((word + (1 << 31)) & 0xFFFFFFFF) - (1 << 31)


@inlined
def _times(real: float, imaginary: float, by: complex) -> complex:
    """A product of complex numbers, which written as such takes longer to compile."""
    return complex(real * by.real - imaginary * by.imag, real * by.imag + imaginary * by.real)


@kernel
def _twist64(words: NDArray[np.uint64], twist: Complexes, out: Complexes) -> None:
    for p in range(words.shape[0]):
        for i in range(HALF):
            x, y = np.int64(words[p, i]), np.int64(words[p, i + HALF])
            lx, ly = _low(x), _low(y)
            # x - lx may wrap at the top: the high limb is only defined modulo 2^32.
            hx, hy = (x - lx) >> 32, (y - ly) >> 32
            out[p, 0, i] = _times(float(lx), float(ly), twist[i])
            out[p, 1, i] = _times(float(hx), float(hy), twist[i])


@kernel
def _twist(numbers: Words, twist: Complexes, limbs: Limbs, out: Complexes) -> None:
    for p in range(numbers.shape[0]):
        for i in range(HALF):
            j, carry, carried = i + HALF, np.int64(0), np.int64(0)
            for limb in range(limbs.number):
                first = limb * limbs.width
                width = limbs.width if limbs.width < limbs.bits - first else limbs.bits - first
                x = _digit(numbers[p, i, 0], numbers[p, i, 1], first, width) + carry
                y = _digit(numbers[p, j, 0], numbers[p, j, 1], first, width) + carried
                carry, carried = np.int64(x >= 1 << (width - 1)), np.int64(y >= 1 << (width - 1))
                x, y = x - (carry << width), y - (carried << width)
                out[p, limb, i] = _times(float(x), float(y), twist[i])


@inlined
def _digit(low: np.uint64, high: np.uint64, first: int, width: int) -> np.int64:
    """So many bits of a wide word, from bit `first` on."""
    if first >= 64:
        found = high >> np.uint64(first - 64)
    else:
        found = low >> np.uint64(first)
        if first:
            found |= high << np.uint64(64 - first)
    return np.int64(found & np.uint64((1 << width) - 1))


@kernel
def _settle64(products: Complexes, back: Complexes, out: NDArray[np.uint64]) -> float:
    worst = 0.0
    for p in range(products.shape[0]):
        for i in range(HALF):
            low = _times(products[p, 0, i].real, products[p, 0, i].imag, back[i])
            high = _times(products[p, 1, i].real, products[p, 1, i].imag, back[i])
            a, b, c, d = np.rint(low.real), np.rint(high.real), np.rint(low.imag), np.rint(high.imag)
            worst = further(worst, low.real - a)
            worst = further(worst, high.real - b)
            worst = further(worst, low.imag - c)
            worst = further(worst, high.imag - d)
            out[p, i] = np.uint64(np.int64(a) + (np.int64(b) << 32))
            out[p, i + HALF] = np.uint64(np.int64(c) + (np.int64(d) << 32))
    return worst


@inlined
def _added(low: np.uint64, high: np.uint64, number: np.int64, first: int) -> tuple[np.uint64, np.uint64]:
    """A wide word plus a number times 2^first."""
    if first >= 64:
        return low, high + (np.uint64(number) << np.uint64(first - 64))
    added = np.uint64(number) << np.uint64(first)
    above = np.uint64(number >> (64 - first) if first else number >> 63)
    return low + added, high + above + np.uint64(low + added < added)


@kernel
def _carry(limbs: Integers, cut: Limbs, out: Words) -> None:
    mask = np.uint64((1 << (cut.bits - 64)) - 1)
    for p in range(len(limbs)):
        for i in range(DEGREE):
            low, high = np.uint64(0), np.uint64(0)
            for limb in range(cut.number):
                low, high = _added(low, high, limbs[p, limb, i], limb * cut.width)
            out[p, i, 0], out[p, i, 1] = low, high & mask


@kernel
def _settle(products: Complexes, back: Complexes, limbs: Limbs, out: Words) -> float:
    worst = 0.0
    mask = np.uint64((1 << (limbs.bits - 64)) - 1)
    for p in range(products.shape[0]):
        for i in range(HALF):
            for part in range(2):
                low, high = np.uint64(0), np.uint64(0)
                for limb in range(limbs.number):
                    product = _times(products[p, limb, i].real, products[p, limb, i].imag, back[i])
                    exact = product.imag if part else product.real
                    rounded = np.rint(exact)
                    worst = further(worst, exact - rounded)
                    low, high = _added(low, high, np.int64(rounded), limb * limbs.width)
                at = i + HALF * part
                out[p, at, 0], out[p, at, 1] = low, high & mask
    return worst
