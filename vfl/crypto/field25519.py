"""Arithmetic modulo p = 2^255 - 19 in the lanes of vectors, on code of `vector_code`.

A `Field` stands for as many elements side by side as a vector has lanes, limb under limb. There are
three layouts:

    IFMA      8 lanes, 5 limbs of 51 bits. A product of limbs is two instructions that multiply 52
              bits by 52 and add the low or high half of the result (AVX-512 IFMA: vpmadd52luq,
              vpmadd52huq; as in Gueron and Krasnov, "Software implementation of modular
              exponentiation, using advanced vector instructions architectures", WAIFI 2012, and
              curve25519-dalek's backend of that name).
    WIDE      4 lanes, 10 limbs of 26 and 25 bits in turn, products of 32 bits by 32 (AVX2: vpmuludq;
              Bernstein and Schwabe, "NEON crypto", CHES 2012).
    WIDE_512  the same in 8 lanes (AVX-512 without IFMA).

Each may be twice as long, of which the compiler makes two vectors: where each step waits for the one
before, two at a time take less than twice as long.
"""

import functools
import operator
from collections.abc import Iterable, Sequence

from llvmlite.ir import Value

from vfl.crypto.vector_code import Lanes, Layout, Part, Writer, once

P = 2**255 - 19

IFMA = Layout("ifma", 8, (51,) * 5)
WIDE = Layout("wide", 4, (26, 25) * 5)
WIDE_512 = Layout("wide512", 8, (26, 25) * 5)


class Field(Part):
    """A field element in each lane. Between operations every limb is below 2^bits + 2^15, and not
    negative. Integers are taken as elements. Its own operators write products out where the code is hot
    and that is faster, and call them elsewhere."""

    fits = False  # whether a product's operands fit into registers, so that a call of it costs time

    @classmethod
    def of(cls, writer: Writer, values: Sequence[Value]) -> "Field":
        return _KINDS[writer.layout.bits](writer, values)

    @classmethod
    def size(cls, layout: Layout) -> int:
        """How many vectors it is."""
        return len(layout.bits)

    @property
    def limbs(self) -> list[Lanes]:
        return [Lanes(self.writer, [value]) for value in self.values]

    @property
    def _bits(self) -> tuple[int, ...]:
        return self.writer.layout.bits

    def _of(self, limbs: Iterable[Lanes]) -> "Field":
        return type(self)(self.writer, [limb.value for limb in limbs])

    def _element(self, other: "Field | int") -> "Field":
        return element(self.writer, other) if isinstance(other, int) else other

    def _carried(self, limbs: Sequence[Lanes]) -> "Field":
        """All carries at once; enough where none is over 2^10."""
        over = [limb >> bits for limb, bits in zip(limbs, self._bits, strict=True)]
        over = [over[-1] * 19, *over[:-1]]
        return self._of(
            limb.low(bits) + more for limb, bits, more in zip(limbs, self._bits, over, strict=True)
        )

    def __add__(self, other: "Field | int") -> "Field":
        both = zip(self.limbs, self._element(other).limbs, strict=True)
        return self._carried([a + b for a, b in both])

    def __sub__(self, other: "Field | int") -> "Field":
        # Twice p, limb by limb more than the other has.
        twice = [2 * limb for limb in self.writer.layout.limbs(P)]
        both = zip(self.limbs, self._element(other).limbs, twice, strict=True)
        return self._carried([a + more - b for a, b, more in both])

    def __mul__(self, other: "Field | int") -> "Field":
        if self.writer.is_hot and self.fits:
            return self.times(self._element(other))
        return _product(self.writer, self, self._element(other))

    def square(self) -> "Field":
        return self.squared() if self.writer.is_hot and self.fits else _square(self.writer, self)

    def __neg__(self) -> "Field":
        return element(self.writer, 0) - self

    def __radd__(self, other: int) -> "Field":
        return self + other

    def __rsub__(self, other: int) -> "Field":
        return self._element(other) - self

    def __rmul__(self, other: int) -> "Field":
        return self * other

    def times(self, other: "Field") -> "Field":
        """The product, written out."""
        raise NotImplementedError

    def squared(self) -> "Field":
        """The square, written out."""
        raise NotImplementedError

    def _frozen(self) -> list[Lanes]:
        return _reduced(self.writer, self).limbs

    def reduced(self) -> "Field":
        """The one representative below p, its limbs within their bits, written out."""
        a, bits = self.limbs, self._bits
        for _ in range(2):  # to exact limbs, and below 2^255 (then below 2 p)
            over = self._settle(a)
            a[0] = a[0] + over * 19
        # One more if a + 19 reaches 2^255: subtract p by adding 19 and dropping the bit on top.
        over = self.writer.lanes(19)
        for limb, size in zip(a, bits, strict=True):
            over = (limb + over) >> size
        a[0] = a[0] + over * 19
        self._settle(a)
        return self._of(a)

    def _settle(self, a: list[Lanes]) -> Lanes:
        """Carry from limb to limb; what is over at the end."""
        for k, bits in enumerate(self._bits[:-1]):
            a[k + 1] = a[k + 1] + (a[k] >> bits)
            a[k] = a[k].low(bits)
        over = a[-1] >> self._bits[-1]
        a[-1] = a[-1].low(self._bits[-1])
        return over

    def words(self) -> list[Lanes]:
        """The four 64-bit words of the representative below p, the lowest first."""
        words = [self.writer.lanes(0)] * 4
        for limb, at, bits in zip(self._frozen(), self.writer.layout.offsets, self._bits, strict=True):
            word, bit = divmod(at, 64)
            words[word] = words[word] | (limb << bit)
            if bit + bits > 64:
                words[word + 1] = words[word + 1] | (limb >> (64 - bit))
        return words

    def is_zero(self) -> Lanes:
        """A mask."""
        limbs = self._frozen()
        return (functools.reduce(operator.or_, limbs) - 1).mask()

    def is_odd(self) -> Lanes:
        """A mask of where the representative below p is."""
        return (self._frozen()[0] << 63).mask()


class _Ifma(Field):
    """Low halves of 52 bits go to the column of their product, high halves to the next one.

    High halves count twice, as the limbs have 51 bits.
    """

    fits = True

    def _columns(self) -> tuple[list[Lanes], list[Lanes]]:
        return [self.writer.lanes(0)] * 10, [self.writer.lanes(0)] * 10

    def times(self, other: Field) -> Field:
        low, high = self._columns()
        for i, a in enumerate(self.limbs):
            for j, b in enumerate(other.limbs):
                low[i + j] = _plus_low(low[i + j], a, b)
                high[i + j + 1] = _plus_high(high[i + j + 1], a, b)
        return self._folded([x + (y << 1) for x, y in zip(low, high, strict=True)])

    def squared(self) -> Field:
        a = self.limbs
        low, high = self._columns()
        # Each product of two different limbs once, to be doubled.
        for i in range(5):
            for j in range(i):
                low[i + j] = _plus_low(low[i + j], a[i], a[j])
                high[i + j + 1] = _plus_high(high[i + j + 1], a[i], a[j])
        whole = []
        for k in range(10):
            # The high half of a limb's square counts twice too, its low half does not.
            i, odd = divmod(k, 2)
            if odd:
                whole.append((_plus_high(low[k], a[i], a[i]) + (high[k] << 1)) << 1)
            else:
                whole.append(_plus_low((low[k] + (high[k] << 1)) << 1, a[i], a[i]))
        return self._folded(whole)

    def _folded(self, whole: list[Lanes]) -> Field:
        """Columns of 2^255 and more come back at the bottom, 19 times: below 2^60 each."""
        return self._carried([x + y * 19 for x, y in zip(whole[:5], whole[5:], strict=True)])


def _plus_low(total: Lanes, a: Lanes, b: Lanes) -> Lanes:
    """Plus the low half of a product of the lowest 52 bits."""
    return total.call("llvm.x86.avx512.vpmadd52l.uq.512", 8, a, b)


def _plus_high(total: Lanes, a: Lanes, b: Lanes) -> Lanes:
    return total.call("llvm.x86.avx512.vpmadd52h.uq.512", 8, a, b)


class _Wide(Field):
    """Only the low 32 bits of a limb take part in a product, as in vpmuludq: the masks tell LLVM so."""

    def times(self, other: Field) -> Field:
        a, b = self.limbs, other.limbs
        # Where two limbs of 25 bits meet, their product is due one bit higher.
        twice = [(x << 1).low(32) for x in a]
        b19 = [x.low(27) * 19 for x in b]
        a, b = [x.low(32) for x in a], [x.low(32) for x in b]
        columns = [self.writer.lanes(0)] * 10
        for j in range(10):
            for i in range(10):
                x = twice[i] if i % 2 and j % 2 else a[i]
                columns[(i + j) % 10] += x * (b[j] if i + j < 10 else b19[j])
        return self._chained(columns)

    def squared(self) -> Field:
        a = self.limbs
        twice, times4 = ([(x << bits).low(32) for x in a] for bits in (1, 2))
        a19 = [x.low(27) * 19 for x in a]
        a = [x.low(32) for x in a]
        columns = [self.writer.lanes(0)] * 10
        for j in range(10):
            for i in range(j + 1):
                x = (a, twice, times4)[(i < j) + (i % 2 and j % 2)][i]
                columns[(i + j) % 10] += x * (a[j] if i + j < 10 else a19[j])
        return self._chained(columns)

    def _chained(self, r: list[Lanes]) -> Field:
        # Two chains side by side; the second time round at 0 and 5 the carries are small.
        for k in (0, 5, 1, 6, 2, 7, 3, 8, 4, 9, 5, 0):
            bits = self._bits[k]
            over, to = r[k] >> bits, (k + 1) % 10
            r[k] = r[k].low(bits)
            r[to] = r[to] + (over * 19 if k == 9 else over)
        return self._of(r)


_KINDS: dict[tuple[int, ...], type[Field]] = {IFMA.bits: _Ifma, WIDE.bits: _Wide}


def element(w: Writer, number: int) -> Field:
    """An integer as an element in every lane."""
    return Field.of(w, [w.lanes(limb).value for limb in w.layout.limbs(number % P)])


def from_words(w: Writer, words: Sequence[Lanes]) -> Field:
    """The element of the four 64-bit words of a little-endian number; its top bit is dropped."""
    limbs = []
    for at, bits in zip(w.layout.offsets, w.layout.bits, strict=True):
        word, bit = divmod(at, 64)
        limb = words[word] >> bit
        if bit + bits > 64:
            limb = limb | (words[word + 1] << (64 - bit))
        limbs.append(limb.low(bits).value)
    return Field.of(w, limbs)


@once(Field, is_hot=True)
def _product(w: Writer, a: Field, b: Field) -> Field:
    return a.times(b)


@once(Field, is_hot=True)
def _square(w: Writer, a: Field) -> Field:
    return a.squared()


@once(Field)
def _reduced(w: Writer, a: Field) -> Field:
    return a.reduced()
