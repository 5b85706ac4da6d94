"""Which bits of a 64-bit word hold the sum, the noise and the flooding; sizes on the wire.

Vectors are encrypted in R_q, R = Z[X]/(X^4096 + 1), q = 2^64; hints in R_Q, Q = 2^96. Both stand below
the 109 bits that the Homomorphic Encryption Standard (Albrecht et al., 2018, table 1: ternary secret,
classical attacks, 128 bits of security) allows at degree 4096; q even below its 75 bits for 192.

A word of a sum over rows holds, from the top: a sign, the sum times 2^scale_bits, and below a quarter of
2^scale_bits the noise of the encryption and the host's flooding. Both are (sub-)Gaussian, and ten
standard deviations of the two together stay below that quarter: a word is beyond it, and refused, with
probability below 2^-70. docs/lattice.md derives every figure here.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

DEGREE = 4096
MODULUS_BITS = 64  # q, of encrypted vectors
HINT_BITS = 96  # Q, of an encrypted hint: a message of 64 bits above 32 bits for noise
SENT_BITS = 80  # of the 96 on the wire, rounded

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
    value_bits: int  # of a vector's entries: |v| < 2^(value_bits - 1)
    outputs: int
    queries: int  # vectors of a hint, over all jobs
    weight: int  # the largest |entry| of the host's matrix
    word_bits: int  # of a ciphertext's word on the wire, one of WORDS
    scale_bits: int  # a sum is multiplied by 2^scale_bits
    flood: float  # standard deviation of the host's flooding
    drop_bits: int  # low bits of an answer that are not sent
    errors_known: bool = True  # whether who reads sums has drawn the errors in them

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
        return self.queries * self.outputs * key_shift() / self.flood**2

    def _leak_of(self, outputs: int) -> float:
        """Of one vector's answers."""
        ratio = (self.noise / self.flood) ** 2
        if self.errors_known:
            return outputs * ratio / 2
        # Of eigenvalues of M M' variance / flood^2, which are no more than all together.
        most = outputs * ratio
        return 2 * most**2 / 3 if most <= 1 / 2 else math.inf

    def serving(self, outputs: int, most: int) -> "Parameters":
        """The same for another number of outputs, and as many vectors as SUM_LEAK allows these, `most`
        at most."""
        allowed = math.floor(SUM_LEAK / self._leak_of(max(outputs, 1)))
        return replace(self, outputs=outputs, queries=min(most, allowed))

    @property
    def reach(self) -> int:
        """How near a word has to be to a multiple of 2^scale_bits: a quarter of that.

        Accepted words that are read as different sums are then farther apart than two that are read as
        one: a hint that can make a sum jump fails the trial of new hints.
        """
        return 1 << (self.scale_bits - 2)

    @property
    def bound(self) -> int:
        """No exact sum is larger than this."""
        return sum_bound(self.rows, self.value_bits, self.weight)

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
        return 32 + DEGREE * SENT_BITS // 8

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
        return len(self.hint_part(part)) * DEGREE * SENT_BITS // 8

    @property
    def hint_bytes(self) -> int:
        """Bytes of an encrypted hint, with its header."""
        return self.hint_header_bytes + self.groups * self.depth * DEGREE * SENT_BITS // 8

    def product_bytes(self, count: int) -> int:
        """Bytes of the hint's products with `count` secrets (EncryptedHint.multiply)."""
        return count * (self.groups * DEGREE + self.outputs) * SENT_BITS // 8

    def answer_bytes(self, count: int) -> int:
        """Bytes of the host's answer to `count` vectors (answers.seal)."""
        return count * self.outputs * (MODULUS_BITS - self.drop_bits) // 8


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
    security_bits(DEGREE, MODULUS_BITS)
    security_bits(DEGREE, HINT_BITS)
    for name, value, most in (
        ("rows", rows, _MOST_ROWS),
        ("outputs", outputs, _MOST_OUTPUTS),
        ("bits of a value", value_bits, MODULUS_BITS),
        ("weight", weight, 1 << 40),
        ("queries", queries, 1 << 40),
    ):
        if not 1 <= value <= most:
            raise ValueError(f"{name}: {value:,} is outside 1 to {most:,}")
    scale_bits = MODULUS_BITS - 1 - sum_bound(rows, value_bits, weight).bit_length()
    if scale_bits < 1:
        raise ValueError(
            f"sums over {rows:,} rows of {value_bits}-bit values times {weight:,} take all 64 bits"
        )
    reach = 2.0 ** (scale_bits - 2)
    margin_bits = MARGIN_BITS if errors_known else 0.0  # else _leak_of alone says how much it takes
    for word_bits in words:
        noise = _noise_variance(rows, weight, word_bits)
        room = (reach / DEVIATIONS) ** 2 - noise
        flood = min(math.sqrt(max(room, 0.0)), MOST_FLOOD)
        # Dropped bits round an answer by far less than the flooding: 1/64 of its deviation.
        drop_bits = max(0, int(math.log2(max(flood, 1.0)) - 6) // 8 * 8)
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
            if enough and chosen.key_leak <= KEY_LEAK:
                return served
    raise ValueError(
        f"sums over {rows:,} rows of {value_bits}-bit values times {weight:,} leave {scale_bits} of 64 "
        f"bits, too few for noise of 2^{math.log2(noise) / 2:.1f} under a flooding that hides it, for "
        f"{queries:,} queries of {outputs:,} sums: fewer sums or bits a value would fit"
    )


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


def sum_bound(rows: int, value_bits: int, weight: int) -> int:
    """No sum of so many rows is larger."""
    return rows * (1 << (value_bits - 1)) * weight


def _noise_variance(rows: int, weight: int, word_bits: int) -> float:
    # Rounding a word to word_bits adds a uniform error as wide as its last bit, both ends half as often,
    # unless none is dropped.
    dropped = MODULUS_BITS - word_bits
    rounding = (4.0**dropped + 2) / 12 if dropped else 0.0
    return rows * float(weight) ** 2 * (ERROR_VARIANCE + rounding)


def key_shift() -> float:
    """Mean square of what the host's key and the hint's errors add to an opened product.

    Three products of ternary secrets (hint times s, public key times r, the key times what the guest
    sent) with errors and roundings to 80 bits, below the 32 bits that are rounded away at random.
    """
    rounding = 4.0 ** (HINT_BITS - SENT_BITS) / 12
    return 3 * DEGREE * SECRET_VARIANCE * (ERROR_VARIANCE + rounding) / 4.0 ** (HINT_BITS - MODULUS_BITS)


@lru_cache(maxsize=256)
def _shape(outputs: int) -> tuple[int, int]:
    """Groups and polynomials of each: the split of outputs that costs least."""

    def cost(groups: int) -> tuple[int, int]:
        size = -(-outputs // groups)
        return groups * (-(-DEGREE // min(_WIDEST, DEGREE // size)) + _GROUP_COST), groups

    fewest = -(-outputs // DEGREE)
    best, groups = min(cost(groups) for groups in range(fewest, fewest + 8))
    return groups, best // groups - _GROUP_COST
