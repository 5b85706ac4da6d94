"""Which bits of a word hold the sum, the noise and the flooding; sizes on the wire.

Vectors are encrypted in R_q, R = Z[X]/(X^4096 + 1), q = 2^64; hints in R_Q, Q = 2^96. Both stand below
the 109 bits that the Homomorphic Encryption Standard (Albrecht et al., 2018, table 1: ternary secret,
classical attacks, 128 bits of security) allows at degree 4096; q even below its 75 bits for 192. Pairs,
two numbers of a row in one entry, have words of their own: q = 2^82 and Q = 2^102.

A word of a sum over rows holds, from the top: a sign, the sum times 2^scale_bits, and below a quarter of
2^scale_bits the noise of the encryption and the host's flooding. Both are (sub-)Gaussian, and ten
standard deviations of the two together stay below that quarter: a word is beyond it, and refused, with
probability below 2^-70. docs/lattice.md derives every figure here.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import NamedTuple

DEGREE = 4096
MODULUS_BITS = 64  # q, of encrypted vectors
HINT_BITS = 96  # Q, of an encrypted hint: a message of 64 bits above 32 bits for noise
SENT_BITS = 80  # of the 96 on the wire, rounded


class Limbs(NamedTuple):
    """How integers modulo 2^bits are cut for floating products: balanced limbs of `width` bits, the last
    of what is left."""

    bits: int
    number: int
    width: int


@dataclass(frozen=True)
class Modulus:
    """The two moduli of a kind of words, and how their products are made."""

    vectors: Limbs  # q: a polynomial times a secret
    sums: Limbs  # q as well: a hint, sums of many polynomials, which takes shorter limbs
    hints: Limbs  # Q
    sent_bits: int  # of a word modulo Q on the wire, rounded

    @property
    def bits(self) -> int:
        """log2 of q."""
        return self.vectors.bits

    @property
    def fraction_bits(self) -> int:
        """Bits of a word modulo Q below the message, which is one modulo q."""
        return self.hints.bits - self.vectors.bits

    @property
    def is_wide(self) -> bool:
        """Whether words modulo q take two of 64 bits (wide.py)."""
        return self.bits > MODULUS_BITS


_TWO = Limbs(MODULUS_BITS, 2, 32)
SINGLE = Modulus(_TWO, _TWO, Limbs(HINT_BITS, 3, 32), SENT_BITS)
"""Of words with one number each."""
PAIR = Modulus(Limbs(82, 2, 41), Limbs(82, 3, 28), Limbs(102, 3, 34), 96)
"""Of words with two numbers each, g and h >= 0, as one: g S + h, where no sum of h reaches S."""

# Homomorphic Encryption Standard, table 1: log2 of the largest modulus by degree and security level.
STANDARD = {
    128: {1024: 27, 2048: 54, 4096: 109, 8192: 218, 16384: 438},
    192: {1024: 19, 2048: 37, 4096: 75, 8192: 152, 16384: 305},
    256: {1024: 14, 2048: 29, 4096: 58, 8192: 118, 16384: 237},
}

# A centred binomial error, the difference of two sums of 21 fair bits: variance 10.5, deviation 3.24.
ERROR_BITS = 21
ERROR_VARIANCE = ERROR_BITS / 2
# A uniform ternary secret has a variance of 2/3 a coefficient.
SECRET_VARIANCE = 2 / 3

DEVIATIONS = 10  # of noise and flooding below a quarter of a step; the tail beyond is below 2^-70
WORDS = (48, 56, 64)  # bits of a word of an encrypted vector on the wire
PAIR_WORD = 80  # and of one of a pair, of 82: two halves of five bytes
HALF_WORD = PAIR_WORD // 2
_MOST_HALVES = 1 << 23  # rows times weight whose halves add up to less than 2^63
MARGIN_BITS = (
    12.0  # flooding above noise at least, in bits of standard deviations, for who knows the errors
)
# Kullback-Leibler divergences (nats) at most, over all values that are answered by a hint:
SUM_LEAK = 2.0**-4  # about the errors' sums M e
KEY_LEAK = 2.0**-44  # about the host's key and the hint's errors
MOST_FLOOD = 2.0**44  # Box-Muller's doubles resolve it to below one
_MOST_ROWS = 1 << 30
_MOST_OUTPUTS = 1 << 20
_WIDEST = 32  # hint columns in one polynomial at most
_GROUP_COST = 128  # a group of outputs more costs about as much as that many polynomials
_PART = 32  # polynomials of a hint in one part on the wire: 1.3 MB


def security_bits(degree: int, modulus_bits: int) -> int:
    """The security level of the standard's table that a degree and modulus reach: 128, 192 or 256.

    Raises ValueError below 128 bits.
    """
    reached = [level for level, table in STANDARD.items() if modulus_bits <= table.get(degree, 0)]
    if not reached:
        most = STANDARD[128].get(degree, 0)
        raise ValueError(
            f"a modulus of {modulus_bits} bits at degree {degree} is below 128 bits of security: "
            f"the Homomorphic Encryption Standard allows {most} bits"
        )
    return max(reached)


@dataclass(frozen=True)
class Parameters:
    """What both parties agree on before a job; made by `choose`, alike on both sides."""

    rows: int
    value_bits: int  # of a vector's entries, of a pair's each: |v| < 2^(value_bits - 1)
    outputs: int
    queries: int  # vectors of a hint, over all jobs
    weight: int  # the largest |entry| of the host's matrix
    word_bits: int  # of a ciphertext's word on the wire, one of WORDS, or PAIR_WORD of pairs
    scale_bits: int  # a sum is multiplied by 2^scale_bits
    flood: float  # standard deviation of the host's flooding
    drop_bits: int  # low bits of an answer that are not sent
    errors_known: bool = True  # whether who reads sums has drawn the errors in them

    @property
    def modulus(self) -> Modulus:
        """What words are modulo."""
        return modulus_of(self.word_bits)

    @property
    def pairs(self) -> bool:
        """Whether an entry holds two numbers."""
        return self.word_bits == PAIR_WORD

    @property
    def base(self) -> int:
        """S, by which the first number of a pair is multiplied: more than any sum of the second."""
        return number_bound(self.rows, self.value_bits, self.weight) + 1

    @property
    def largest(self) -> int:
        """No entry is larger, whatever its sign."""
        most = (1 << (self.value_bits - 1)) - 1
        return most * self.base + most if self.pairs else most

    @property
    def noise(self) -> float:
        """Standard deviation of a sum's noise at most: encryption errors and rounded words."""
        return math.sqrt(_noise_variance(self.rows, self.weight, self.word_bits))

    @property
    def margin_bits(self) -> float:
        """log2 of the flooding over the noise (standard deviations)."""
        return math.log2(self.flood / self.noise)

    @property
    def sum_leak(self) -> float:
        """Divergence (nats) of a hint's answers from ones that are independent of the errors' sums M e.

        By the chain rule over queries. Who knows e: and over outputs, each value shifts a Gaussian by at
        most `noise` on average, shift^2 / (2 flood^2). Who does not sees a Gaussian that is wider, by
        M M' times an error's variance: docs/lattice.md. What would leak is M e.
        """
        return self.queries * self._leak_of(self.outputs)

    @property
    def key_leak(self) -> float:
        """Divergence (nats) of a hint's answers from ones that are independent of the host's key."""
        return self.queries * self.outputs * key_shift(self.modulus) / self.flood**2

    def _leak_of(self, outputs: int) -> float:
        """Of one vector's answers."""
        ratio = (self.noise / self.flood) ** 2
        if self.errors_known:
            return outputs * ratio / 2
        # Of eigenvalues of M M' variance / flood^2, which are no more than all together.
        most = outputs * ratio
        return 2 * most**2 / 3 if most <= 1 / 2 else math.inf

    def serving(self, outputs: int, most: int) -> "Parameters":
        """The same for another number of outputs, and as many vectors as SUM_LEAK and KEY_LEAK allow
        these, `most` at most."""
        outputs_ = max(outputs, 1)
        of_key = KEY_LEAK * self.flood**2 / (outputs_ * key_shift(self.modulus))
        allowed = math.floor(min(SUM_LEAK / self._leak_of(outputs_), of_key))
        return replace(self, outputs=outputs, queries=min(most, allowed))

    @property
    def read_bits(self) -> int:
        """Bits of a sum as it is read: of what is above the lowest `scale_bits`."""
        return self.modulus.bits - self.scale_bits

    @property
    def reach(self) -> int:
        """How near a word has to be to a multiple of 2^scale_bits: a quarter of that.

        Accepted words that are read as different sums are then farther apart than two that are read as
        one: a hint that can make a sum jump fails the trial of new hints.
        """
        return 1 << (self.scale_bits - 2)

    @property
    def bound(self) -> int:
        """No exact sum is larger than this; of pairs none of g S + h."""
        return _sum_bound(self.rows, self.value_bits, self.weight, self.word_bits)

    # How a hint lies in polynomials: `width` of its columns by `group` outputs in each.

    @property
    def groups(self) -> int:
        """How many groups outputs are answered in, each by one ciphertext."""
        return _shape(self.outputs)[0]

    @property
    def group(self) -> int:
        """Outputs of a group (the last may hold fewer)."""
        return -(-self.outputs // self.groups)

    @property
    def columns(self) -> int:
        """Columns of the hint."""
        return DEGREE

    @property
    def width(self) -> int:
        """Columns of the hint in one polynomial."""
        return min(_WIDEST, DEGREE // self.group)

    @property
    def depth(self) -> int:
        """Polynomials of a group: hint columns over width."""
        return -(-self.columns // self.width)

    # Sizes on the wire.

    def rows_bytes(self, rows: int, count: int) -> int:
        """Bytes of `rows` rows of `count` encrypted vectors (VectorEncryption.rows)."""
        return rows * count * self.word_bits // 8

    @property
    def hint_header_bytes(self) -> int:
        """Bytes of the hint's seed and public key (HintKey.header)."""
        return 32 + DEGREE * self.modulus.sent_bits // 8

    @property
    def hint_parts(self) -> int:
        """How many parts an encrypted hint travels in (HintKey.encrypt)."""
        return -(-self.groups * self.depth // _PART)

    def hint_part(self, part: int) -> range:
        """The polynomials of a part: polynomial p is number p % depth of group p // depth."""
        if not 0 <= part < self.hint_parts:
            raise ValueError(f"a hint of {self.hint_parts} parts has no part {part}")
        return range(part * _PART, min((part + 1) * _PART, self.groups * self.depth))

    def hint_part_bytes(self, part: int) -> int:
        """Bytes of one part: about 1.3 MB, the last one less."""
        return len(self.hint_part(part)) * DEGREE * self.modulus.sent_bits // 8

    @property
    def hint_bytes(self) -> int:
        """Bytes of an encrypted hint, with its header."""
        polynomials = self.groups * self.depth
        return self.hint_header_bytes + polynomials * DEGREE * self.modulus.sent_bits // 8

    def product_bytes(self, count: int) -> int:
        """Bytes of the hint's products with `count` secrets (EncryptedHint.multiply)."""
        return count * (self.groups * DEGREE + self.outputs) * self.modulus.sent_bits // 8

    @property
    def answer_size(self) -> int:
        """Bytes of one sum of an answer."""
        return (self.modulus.bits - self.drop_bits) // 8

    def answer_bytes(self, count: int) -> int:
        """Bytes of the host's answer to `count` vectors (answers.seal)."""
        return count * self.outputs * self.answer_size


def choose(
    rows: int,
    value_bits: int,
    outputs: int,
    queries: int,
    weight: int = 1,
    least: int | None = None,
    errors_known: bool = True,
    words: Sequence[int] = WORDS,
) -> Parameters:
    """Parameters for `queries` vectors of `rows` signed entries below 2^(value_bits - 1), over the life
    of a hint; with `least`, for fewer if SUM_LEAK allows no more, but so many at least.

    `weight` bounds the entries of the host's matrix (Matrix.weight), of `outputs` rows; `errors_known`
    says whether who reads the sums has drawn the errors in them, as a guest has and a coordinator has
    not. Words on the wire are the first of `words` that will do. Raises ValueError, with the numbers,
    when sums and noise do not fit in 64 bits, or the flooding would not hide what it has to.
    """
    for name, value, most in (
        ("rows", rows, _MOST_ROWS),
        ("outputs", outputs, _MOST_OUTPUTS),
        ("bits of a value", value_bits, MODULUS_BITS),
        ("weight", weight, 1 << 40),
        ("queries", queries, 1 << 40),
    ):
        if not 1 <= value <= most:
            raise ValueError(f"{name}: {value:,} is outside 1 to {most:,}")
    margin_bits = MARGIN_BITS if errors_known else 0.0  # else _leak_of alone says how much it takes
    for word_bits in words:
        modulus = modulus_of(word_bits)
        security_bits(DEGREE, modulus.vectors.bits)
        security_bits(DEGREE, modulus.hints.bits)
        scale_bits = scale_bits_of(rows, value_bits, weight, word_bits)
        noise = _noise_variance(rows, weight, word_bits)
        room = (2.0 ** (scale_bits - 2) / DEVIATIONS) ** 2 - noise
        flood = min(math.sqrt(max(room, 0.0)), MOST_FLOOD)
        drop_bits = drop_bits_of(modulus, flood)
        flood *= 1 - 2.0**-10
        if flood > 0 and math.log2(flood / math.sqrt(noise)) >= margin_bits:
            chosen = Parameters(
                rows,
                value_bits,
                outputs,
                queries,
                weight,
                word_bits,
                scale_bits,
                flood,
                drop_bits,
                errors_known,
            )
            served = chosen.serving(outputs, queries)
            enough = served.queries >= (queries if least is None else least)
            # A pair's flooding hides less of the key: its hints live shorter rather than be refused.
            if enough and (served if served.pairs else chosen).key_leak <= KEY_LEAK:
                return served
    raise ValueError(
        f"sums over {rows:,} rows of {value_bits}-bit values times {weight:,} leave {scale_bits} of "
        f"{modulus.bits} bits, too few for noise of 2^{math.log2(noise) / 2:.1f} under a flooding that "
        f"hides it, for {queries:,} queries of {outputs:,} sums: fewer sums or bits a value would fit"
    )


def modulus_of(word_bits: int) -> Modulus:
    """Of words that have so many bits on the wire."""
    return PAIR if word_bits == PAIR_WORD else SINGLE


def scale_bits_of(rows: int, value_bits: int, weight: int, word_bits: int) -> int:
    """Bits of a word below its sum. Raises ValueError where there are none."""
    modulus = modulus_of(word_bits)
    scale_bits = modulus.bits - 1 - _sum_bound(rows, value_bits, weight, word_bits).bit_length()
    if modulus.is_wide and rows * weight >= _MOST_HALVES:
        scale_bits = 0
    if scale_bits < 1:
        raise ValueError(
            f"sums over {rows:,} rows of {value_bits}-bit values times {weight:,} take all "
            f"{modulus.bits} bits"
        )
    # A pair's lowest bit lies in the lower limb.
    return min(scale_bits, modulus.vectors.width) if modulus.is_wide else scale_bits


def drop_bits_of(modulus: Modulus, flood: float) -> int:
    """Low bits of an answer that are cut off: they round it by far less than the flooding, 1/64 of its
    deviation, and leave whole bytes."""
    most, odd = int(math.log2(max(flood, 1.0)) - 6), modulus.bits % 8
    return max(0, (most - odd) // 8 * 8) + odd


def widest(
    rows: int,
    outputs: int,
    queries: int,
    weight: int = 1,
    least: int | None = None,
    errors_known: bool = True,
    words: Sequence[int] = WORDS,
) -> int:
    """The most value_bits that `choose` allows. Raises ValueError when it allows none."""
    bits = 1
    choose(rows, bits, outputs, queries, weight, least, errors_known, words)
    while bits < MODULUS_BITS:
        try:
            choose(rows, bits + 1, outputs, queries, weight, least, errors_known, words)
        except ValueError:
            break
        bits += 1
    return bits


def number_bound(rows: int, value_bits: int, weight: int) -> int:
    """No sum of single numbers is larger."""
    return rows * (1 << (value_bits - 1)) * weight


def _sum_bound(rows: int, value_bits: int, weight: int, word_bits: int) -> int:
    bound = number_bound(rows, value_bits, weight)
    return bound * (bound + 1) + bound if word_bits == PAIR_WORD else bound


def _noise_variance(rows: int, weight: int, word_bits: int) -> float:
    # Rounding a word to word_bits adds a uniform error as wide as its last bit, both ends half as often,
    # unless none is dropped.
    dropped = modulus_of(word_bits).bits - word_bits
    rounding = (4.0**dropped + 2) / 12 if dropped else 0.0
    return rows * float(weight) ** 2 * (ERROR_VARIANCE + rounding)


def key_shift(modulus: Modulus) -> float:
    """Mean square of what the host's key and the hint's errors add to an opened product.

    Three products of ternary secrets (hint times s, public key times r, the key times what the guest
    sent) with errors and roundings to `sent_bits`, below the fraction that is rounded away at random.
    """
    rounding = 4.0 ** (modulus.hints.bits - modulus.sent_bits) / 12
    return 3 * DEGREE * SECRET_VARIANCE * (ERROR_VARIANCE + rounding) / 4.0**modulus.fraction_bits


@lru_cache(maxsize=256)
def _shape(outputs: int) -> tuple[int, int]:
    """Groups and polynomials of each: the split of outputs that costs least."""

    def cost(groups: int) -> tuple[int, int]:
        size = -(-outputs // groups)
        return groups * (-(-DEGREE // min(_WIDEST, DEGREE // size)) + _GROUP_COST), groups

    fewest = -(-outputs // DEGREE)
    best, groups = min(cost(groups) for groups in range(fewest, fewest + 8))
    return groups, best // groups - _GROUP_COST
