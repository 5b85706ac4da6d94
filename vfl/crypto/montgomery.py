"""Products modulo one large odd number, eight at a time, on processors with AVX-512 IFMA.

Montgomery, "Modular multiplication without trial division", Mathematics of Computation, 1985, with limbs
of 52 bits, which such a processor multiplies eight at a time (Gueron, Krasnov, "Accelerating big integer
arithmetic using Intel IFMA extensions", ARITH 2016). Not one product is shared by the eight: each number
has a lane of its own, limb under limb, so that no carry crosses lanes. With R = 2^(52 limbs) a product
of a and b comes out as a b / R; below 2 n go in and come out, as R is above 4 n.

Numbers come and go as uint8 arrays of shape (count, width), little-endian, below n; results are the
same integers as any other arithmetic has. What is done takes the same time whatever the numbers are,
but for `Montgomery.chosen`, which reads tables where digits tell it to.
"""

import ctypes
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import gmpy2
import numpy as np
from gmpy2 import mpz, xmpz
from numpy.typing import NDArray

from vfl.arrays import Bytes, Integers, Words
from vfl.kernels import features, instruction, kernel

LANES = 8
LIMB = 52  # bits
_MASK = np.uint64((1 << LIMB) - 1)
_RUN = 64  # numbers that are multiplied before the powers of R among them are taken out
_WINDOW = 5  # bits of an exponent that all numbers are raised to at a time

Digits = NDArray[np.int64]


@lru_cache(maxsize=1)
def usable() -> bool:
    """Whether kernels are compiled for a processor that multiplies limbs of 52 bits."""
    return {"+avx512f", "+avx512ifma"} <= features()


def montgomery(modulus: mpz, width: int) -> "Montgomery | None":
    """Products modulo an odd number, of numbers of `width` bytes; None where the processor has none."""
    return Montgomery(modulus, width) if usable() else None


class Table:
    """Powers of some bases, for products of one power of each (`Montgomery.chosen`)."""

    def __init__(self, window: int, limbs: Words) -> None:
        """`limbs`: shape (bases, 2^window, limbs), times R but for the first base's."""
        self.window, self.limbs = window, limbs


class Montgomery:
    """Arithmetic modulo one odd number n."""

    def __init__(self, modulus: mpz, width: int) -> None:
        """Raises ValueError for an even number, or one that does not fit in `width` bytes, all words."""
        if not modulus & 1 or modulus < 3 or modulus.bit_length() > 8 * width or width % 8:
            raise ValueError(f"no odd number of at most {width} bytes, whole words")
        self.modulus, self.width = modulus, width
        self._limbs = max(2, -(-(modulus.bit_length() + 2) // LIMB))  # kernels begin with two
        self._n = _limbs_of([modulus] * LANES, self._limbs).T.copy()
        self._inverse = np.uint64(int(-gmpy2.invert(modulus, 1 << LIMB) % (1 << LIMB)))
        radix = gmpy2.powmod(2, LIMB * self._limbs, modulus)
        powers = [mpz(1)]
        for _ in range(_RUN):
            powers.append(powers[-1] * radix % modulus)
        self._radix = _limbs_of(powers, self._limbs)  # R^k

    def _work(self, numbers: int) -> Words:
        """Room for so many times eight numbers, at the beginning of a cache line."""
        size = numbers * self._limbs * LANES
        room = np.empty(size + 8, np.uint64)
        start = -room.ctypes.data % 64 // 8
        return room[start : start + size].reshape(numbers, self._limbs, LANES)

    def _words(self, rows: Bytes) -> Words:
        return np.ascontiguousarray(rows).view(np.uint64)

    def products(self, rows: Bytes, index: Integers, ends: Integers) -> Bytes:
        """Products of rows[index] by runs, shape (runs, width): run i ends (exclusive) at ends[i] of the
        index, where the next one starts. A run of none is 1."""
        while True:
            sizes = np.diff(ends, prepend=0)
            pieces = np.maximum(1, -(-sizes // _RUN))
            whole = len(ends) == int(pieces.sum())
            if whole:
                cuts = np.asarray(ends, np.int64)
            else:
                # Equal pieces of a long run.
                run = np.repeat(np.arange(len(ends)), pieces)
                place = np.arange(len(run)) - np.repeat(np.cumsum(pieces) - pieces, pieces) + 1
                cuts = (ends - sizes)[run] + sizes[run] * place // pieces[run]
            out = np.empty((len(cuts), self.width // 8), np.uint64)
            _products(
                self._words(rows), index, cuts, self._n, self._inverse, self._radix, self._work(3), out
            )
            rows = out.view(np.uint8)
            if whole:
                return rows
            index, ends = np.arange(len(cuts)), np.cumsum(pieces)

    def times(self, a: Bytes, b: Bytes) -> Bytes:
        """Element-wise products. Raises ValueError unless there are as many of both."""
        if len(a) != len(b):
            raise ValueError(f"{len(a)} numbers times {len(b)}")
        index = np.arange(2 * len(a)).reshape(2, -1).T.ravel()
        return self.products(np.concatenate([a, b]), index, np.arange(2, 2 * len(a) + 1, 2))

    def tables(self, bases: Bytes, window: int) -> Table:
        """All powers of each base below 2^window."""
        made = np.empty((len(bases), 1 << window, self._limbs), np.uint64)
        arguments = self._n, self._inverse, self._radix[:3], self._work(3)
        _tables(self._words(bases), *arguments, made)
        return Table(window, made)

    def windows(self, base: mpz, count: int, window: int) -> Bytes:
        """base^(2^(window i)) for i < count: the bases of a fixed one's table. Shape (count, width)."""
        modulus, found = self.modulus, []
        power = base
        for _ in range(count):
            found.append(power)
            power = gmpy2.powmod(power, 1 << window, modulus)
        return self.rows(found)

    def chosen(self, table: Table, digits: Digits) -> Bytes:
        """Products of a power of each base, shape (count, width). digits: the exponents, shape (count,
        bases), from 0 and below 2^window."""
        out = np.empty((len(digits), self.width // 8), np.uint64)
        _chosen(table.limbs, digits, self._n, self._inverse, self._work(3), out)
        return out.view(np.uint8)

    def power(self, rows: Bytes, exponent: mpz) -> Bytes:
        """Each to the same power, above 0. The time taken tells of the exponent its length alone."""
        digits = np.array(gmpy2.unpack(mpz(exponent), _WINDOW)[::-1], np.int64)
        out = np.empty((len(rows), self.width // 8), np.uint64)
        work = self._work((1 << _WINDOW) + 3)
        _power(self._words(rows), digits, self._n, self._inverse, self._radix[:3], work, out)
        return out.view(np.uint8)

    def horner(self, rows: Bytes, size: int, bits: int) -> Bytes:
        """Of each `size` rows x_0, x_1, ... (the last group may have fewer) the product of x_i^(2^(bits
        i)). Shape (groups, width)."""
        out = np.empty((-(-len(rows) // size), self.width // 8), np.uint64)
        arguments = self._n, self._inverse, self._radix[:3], self._work(3)
        _horner(self._words(rows), size, bits, *arguments, out)
        return out.view(np.uint8)

    def numbers(self, rows: Bytes) -> list[mpz]:
        """An array's numbers."""
        return numbers_of(rows)

    def rows(self, numbers: Sequence[mpz]) -> Bytes:
        """Numbers as an array."""
        return rows_of(numbers, self.width)


def numbers_of(rows: Bytes) -> list[mpz]:
    """The numbers in the rows of an array of bytes, little-endian, whole words a row."""
    # All rows as one number, copied limb by limb, are cut up six times faster than each is read by
    # mpz.from_bytes, which goes byte by byte and would cost a quarter of a product.
    data, count = np.ascontiguousarray(rows), len(rows)
    limbs = data.nbytes * 8 // gmpy2.mp_limbsize()
    if not limbs:
        return []
    whole = xmpz()
    ctypes.memmove(whole.limbs_write(limbs), data.ctypes.data, data.nbytes)
    whole.limbs_finish(limbs)
    numbers: list[mpz] = gmpy2.unpack(whole, 8 * data.shape[1])
    return numbers + [mpz(0)] * (count - len(numbers))


def rows_of(numbers: Sequence[mpz], width: int) -> Bytes:
    """These numbers as an array of bytes, shape (numbers, width)."""
    data = b"".join([number.to_bytes(width, "little") for number in numbers])
    return np.frombuffer(data, np.uint8).reshape(len(numbers), width)


def _limbs_of(numbers: Sequence[mpz], limbs: int) -> Words:
    """Shape (numbers, limbs)."""
    mask = (1 << LIMB) - 1
    return np.array([[int(x >> (LIMB * i)) & mask for i in range(limbs)] for x in numbers], np.uint64)


# -------------------------------------------------------------------------------------- kernels


class _Writer:
    """Writes what is done limb by limb, in all lanes, as LLVM's code."""

    def __init__(self, builder: Any, limbs: Any) -> None:
        from llvmlite import ir

        self.builder, self.limbs = builder, limbs
        self._word = ir.IntType(64)
        self.lanes = ir.VectorType(self._word, LANES)
        self.zero, self.one = ir.Constant(self._word, 0), ir.Constant(self._word, 1)
        self.low, self.high = (self._function(f"llvm.x86.avx512.vpmadd52{x}.uq.512") for x in "lh")

    def _function(self, name: str) -> Any:
        from llvmlite import ir
        from numba.core import cgutils

        find: Any = cgutils.get_or_insert_function
        return find(self.builder.module, ir.FunctionType(self.lanes, [self.lanes] * 3), name)

    def array(self, address: Any) -> Any:
        return self.builder.inttoptr(address, self.lanes.as_pointer())

    def each(self, value: int) -> Any:
        """A number in every lane."""
        from llvmlite import ir

        return ir.Constant(self.lanes, [value] * LANES)

    def same(self, value: Any) -> Any:
        """A word in every lane."""
        from llvmlite import ir

        narrow = ir.IntType(32)
        undefined = ir.Constant(self.lanes, ir.Undefined)
        first = self.builder.insert_element(undefined, value, ir.Constant(narrow, 0))
        places = ir.Constant(ir.VectorType(narrow, LANES), [0] * LANES)
        return self.builder.shuffle_vector(first, undefined, places)

    def load(self, array: Any, at: Any) -> Any:
        return self.builder.load(self.builder.gep(array, [at]), align=8)

    def store(self, value: Any, array: Any, at: Any) -> None:
        self.builder.store(value, self.builder.gep(array, [at]), align=8)

    def add(self, function: Any, total: Any, x: Any, y: Any) -> Any:
        """The total plus the low or the high half of a product."""
        return self.builder.call(function, [total, x, y])

    def begin(self, name: str, start: Any, *carried: Any) -> tuple[Any, list[Any]]:
        """Begin a loop over limbs from `start` on: its counter, what it carries to the next limb."""
        builder, before = self.builder, self.builder.block
        body = builder.append_basic_block(name)
        builder.branch(body)
        builder.position_at_end(body)
        values = [builder.phi(self._word), *(builder.phi(self.lanes) for _ in carried)]
        for value, x in zip(values, (start, *carried), strict=True):
            value.add_incoming(x, before)
        return values[0], values[1:]

    def end(self, name: str, at: Any, carried: list[Any], following: list[Any]) -> None:
        """End it after the last limb, with what the next one is to find."""
        builder, body = self.builder, at.parent
        behind = builder.append_basic_block(name)
        further = builder.add(at, self.one)
        for value, x in zip([at, *carried], [further, *following], strict=True):
            value.add_incoming(x, builder.block)
        builder.cbranch(builder.icmp_signed("<", further, self.limbs), body, behind)
        builder.position_at_end(behind)


def _write_product(writer: _Writer, t: Any, a: Any, b: Any, n: Any, inverse: Any) -> None:
    """t = a b / R modulo n. A limb of t takes up four products of 52 bits for each limb of b, so that 64
    bits hold all of them and carries are settled once, at the end."""
    from numba.core.cgutils import for_range

    builder, load, store, add = writer.builder, writer.load, writer.store, writer.add
    low, high, one, nothing = writer.low, writer.high, writer.one, writer.each(0)
    inverses, last = writer.same(inverse), builder.sub(writer.limbs, one)
    with for_range(builder, writer.limbs) as clear:
        store(nothing, t, clear.index)
    a_0, n_0 = load(a, writer.zero), load(n, writer.zero)
    with for_range(builder, writer.limbs) as outer:
        b_i = load(b, outer.index)
        lowest = add(low, load(t, writer.zero), a_0, b_i)
        m = add(low, nothing, lowest, inverses)  # so that the lowest limb of t + a b_i + n m is 0
        carry = builder.lshr(add(low, lowest, n_0, m), writer.each(LIMB))
        j, (a_before, n_before, carried) = writer.begin("limb", one, a_0, n_0, carry)
        a_j, n_j = load(a, j), load(n, j)
        x = builder.add(load(t, j), carried)
        x = add(high, add(low, x, a_j, b_i), a_before, b_i)
        y = add(high, add(low, nothing, n_j, m), n_before, m)
        store(builder.add(x, y), t, builder.sub(j, one))
        writer.end("limbs", j, [a_before, n_before, carried], [a_j, n_j, nothing])
        store(add(high, add(high, nothing, a_j, b_i), n_j, m), t, last)
    j, (carried,) = writer.begin("carry", writer.zero, nothing)
    x = builder.add(load(t, j), carried)
    store(builder.and_(x, writer.each((1 << LIMB) - 1)), t, j)
    writer.end("carries", j, [carried], [builder.lshr(x, writer.each(LIMB))])


@instruction
def _multiplier() -> object:
    """numba's intrinsic `multiply(t, a, b, n, inverse, limbs)` on addresses of arrays (limbs, 8), of
    which t is neither a nor b. inverse: -1 / n modulo 2^52."""
    from numba import types
    from numba.extending import intrinsic

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        *addresses, inverse, limbs = arguments
        writer = _Writer(builder, limbs)
        t, a, b, n = map(writer.array, addresses)
        _write_product(writer, t, a, b, n, inverse)
        return context.get_dummy_value()

    @intrinsic
    def multiply(typing: Any, t: Any, a: Any, b: Any, n: Any, inverse: Any, limbs: Any) -> Any:
        address = types.uintp
        return types.void(address, address, address, address, types.uint64, types.intp), generate

    return multiply


@kernel
def _multiply(t: Words, a: Words, b: Words, n: Words, inverse: np.uint64) -> None:
    _multiplier(t.ctypes.data, a.ctypes.data, b.ctypes.data, n.ctypes.data, inverse, len(n))


@kernel
def _put(row: Words, lane: int, out: Words) -> None:
    """A number's words as a lane's limbs."""
    for j in range(len(out)):
        bit = 52 * j
        word, shift = bit >> 6, bit & 63
        value = np.uint64(0)
        if word < len(row):
            value = row[word] >> np.uint64(shift)
            if shift > 12 and word + 1 < len(row):
                value |= row[word + 1] << np.uint64(64 - shift)
        out[j, lane] = value & _MASK


@kernel
def _put_limbs(limbs: Words, lane: int, out: Words) -> None:
    for j in range(len(out)):
        out[j, lane] = limbs[j]


@kernel
def _settle(numbers: Words, n: Words) -> None:
    """Numbers below 2 n to below n, in every lane alike: n is taken off, and put back where it was not
    in there, without a branch."""
    borrow = np.zeros(8, np.uint64)
    one, top = np.uint64(1), np.uint64(63)
    for j in range(len(n)):
        for lane in range(8):
            x = numbers[j, lane] - n[j, lane] - borrow[lane]
            borrow[lane] = x >> top
            numbers[j, lane] = x & _MASK
    carry = np.zeros(8, np.uint64)
    for j in range(len(n)):
        for lane in range(8):
            x = numbers[j, lane] + (n[j, lane] & (np.uint64(0) - borrow[lane])) + carry[lane]
            carry[lane] = (x >> np.uint64(52)) & one
            numbers[j, lane] = x & _MASK


@kernel
def _take(numbers: Words, lane: int, row: Words) -> None:
    """A lane's limbs as a number's words."""
    limbs = len(numbers)
    for word in range(len(row)):
        bit = 64 * word
        j, shift = bit // 52, bit % 52
        value = np.uint64(0)
        if j < limbs:
            value = numbers[j, lane] >> np.uint64(shift)
        if j + 1 < limbs:
            value |= numbers[j + 1, lane] << np.uint64(52 - shift)
        if shift > 40 and j + 2 < limbs:
            value |= numbers[j + 2, lane] << np.uint64(104 - shift)
        row[word] = value


@kernel
def _settle_lane(numbers: Words, lane: int, n: Words) -> None:
    """As `_settle` a single lane, of a number that is no secret."""
    for j in range(len(n) - 1, -1, -1):
        if numbers[j, lane] != n[j, lane]:
            if numbers[j, lane] < n[j, lane]:
                return
            break
    borrow = np.uint64(0)
    for j in range(len(n)):
        x = numbers[j, lane] - n[j, lane] - borrow
        borrow = x >> np.uint64(63)
        numbers[j, lane] = x & _MASK


@kernel
def _clear(numbers: Words) -> None:
    for j in range(len(numbers)):
        for lane in range(8):
            numbers[j, lane] = np.uint64(0)


@kernel
def _put_all(limbs: Words, out: Words) -> None:
    """The same limbs in every lane."""
    for j in range(len(out)):
        for lane in range(8):
            out[j, lane] = limbs[j]


@kernel
def _products(
    rows: Words,
    index: Integers,
    ends: Integers,
    n: Words,
    inverse: np.uint64,
    radix: Words,
    work: Words,
    out: Words,
) -> None:
    """Each lane multiplies a run, then takes the next. As the last factor a run of k has R^k, as each of
    its k products has divided by R."""
    product, factor, done = work[0], work[1], work[2]
    _clear(product)
    _clear(factor)
    run, at = np.full(8, -1, np.int64), np.zeros(8, np.int64)
    following = 0
    while True:
        busy = 0
        for lane in range(8):
            while run[lane] < 0 and following < len(ends):
                start = ends[following - 1] if following else 0
                size = ends[following] - start
                if size < 2:
                    for word in range(out.shape[1]):
                        out[following, word] = rows[index[start], word] if size else np.uint64(word == 0)
                else:
                    run[lane], at[lane] = following, start + 1
                    _put(rows[index[start]], lane, product)
                following += 1
            if run[lane] < 0:
                continue
            busy += 1
            end = ends[run[lane]]
            if at[lane] < end:
                _put(rows[index[at[lane]]], lane, factor)
            else:
                start = ends[run[lane] - 1] if run[lane] else 0
                _put_limbs(radix[end - start], lane, factor)
        if not busy:
            return
        _multiply(done, product, factor, n, inverse)
        product, done = done, product
        for lane in range(8):
            if run[lane] >= 0 and at[lane] == ends[run[lane]]:
                _settle_lane(product, lane, n)
                _take(product, lane, out[run[lane]])
                run[lane] = -1
            at[lane] += 1


@kernel
def _tables(bases: Words, n: Words, inverse: np.uint64, radix: Words, work: Words, made: Words) -> None:
    """Powers times R, the first base's without it."""
    power, base, done = work[0], work[1], work[2]
    for first in range(0, len(bases), 8):
        count = min(8, len(bases) - first)
        _clear(power)
        for lane in range(count):
            _put(bases[first + lane], lane, power)
        _put_all(radix[2], done)
        _multiply(base, power, done, n, inverse)  # times R
        for lane in range(8):
            _put_limbs(radix[0 if first + lane == 0 else 1], lane, power)
        for digit in range(made.shape[1]):
            if digit:
                _multiply(done, power, base, n, inverse)
                power, done = done, power
            for lane in range(count):
                for j in range(len(n)):
                    made[first + lane, digit, j] = power[j, lane]


@kernel
def _chosen(
    table: Words, digits: Integers, n: Words, inverse: np.uint64, work: Words, out: Words
) -> None:
    product, factor, done = work[0], work[1], work[2]
    _clear(factor)
    for first in range(0, len(digits), 8):
        count = min(8, len(digits) - first)
        _clear(product)
        for lane in range(count):
            _put_limbs(table[0, digits[first + lane, 0]], lane, product)
        for place in range(1, digits.shape[1]):
            for lane in range(count):
                _put_limbs(table[place, digits[first + lane, place]], lane, factor)
            _multiply(done, product, factor, n, inverse)
            product, done = done, product
        _settle(product, n)
        for lane in range(count):
            _take(product, lane, out[first + lane])


@kernel
def _power(
    rows: Words,
    digits: Integers,
    n: Words,
    inverse: np.uint64,
    radix: Words,
    work: Words,
    out: Words,
) -> None:
    """Digits of five bits, the highest first. Every power is read to take one."""
    powers = work[:32]
    product, factor, done = work[32], work[33], work[34]
    for first in range(0, len(rows), 8):
        count = min(8, len(rows) - first)
        _clear(factor)
        for lane in range(count):
            _put(rows[first + lane], lane, factor)
        _put_all(radix[1], powers[0])
        _put_all(radix[1], product)
        _put_all(radix[2], done)
        _multiply(powers[1], factor, done, n, inverse)
        for digit in range(2, 32):
            _multiply(powers[digit], powers[digit - 1], powers[1], n, inverse)
        for place in range(len(digits)):
            for _ in range(5):
                _multiply(done, product, product, n, inverse)
                product, done = done, product
            _clear(factor)
            for digit in range(32):
                mask = np.uint64(0) - np.uint64(digit == digits[place])
                for j in range(len(n)):
                    for lane in range(8):
                        factor[j, lane] |= powers[digit, j, lane] & mask
            _multiply(done, product, factor, n, inverse)
            product, done = done, product
        _out_of_radix(product, done, factor, radix, n, inverse)
        for lane in range(count):
            _take(done, lane, out[first + lane])


@kernel
def _horner(
    rows: Words,
    size: int,
    bits: int,
    n: Words,
    inverse: np.uint64,
    radix: Words,
    work: Words,
    out: Words,
) -> None:
    """A lane a group, from its last row on. A group of fewer rows begins with ones."""
    product, factor, done = work[0], work[1], work[2]
    for first in range(0, len(out), 8):
        count = min(8, len(out) - first)
        _put_all(radix[1], product)
        for place in range(size - 1, -1, -1):
            if place < size - 1:
                for _ in range(bits):
                    _multiply(done, product, product, n, inverse)
                    product, done = done, product
            _put_all(radix[0], factor)
            for lane in range(count):
                at = (first + lane) * size + place
                if at < len(rows):
                    _put(rows[at], lane, factor)
            _multiply(done, product, factor, n, inverse)  # without R, which it gets back
            _put_all(radix[2], factor)
            _multiply(product, done, factor, n, inverse)
        _out_of_radix(product, done, factor, radix, n, inverse)
        for lane in range(count):
            _take(done, lane, out[first + lane])


@kernel
def _out_of_radix(
    product: Words, done: Words, factor: Words, radix: Words, n: Words, inverse: np.uint64
) -> None:
    """The product without its R, below n, in `done`."""
    _put_all(radix[0], factor)
    _multiply(done, product, factor, n, inverse)
    _settle(done, n)
