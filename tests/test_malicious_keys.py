"""Keys that a guest has made for the purpose of seeing which rows are in a host's sums.

They pass a host's checks. The guest puts a mark on each row's ciphertext, an n-th power, which changes
no plaintext, and looks for the marks in what comes back. How well it does is measured for powers of one
base as well, which suffice where n has two primes of the usual kind: there it reads everything.
"""

import random
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from functools import cache, reduce
from itertools import pairwise

import gmpy2
import numpy as np
import pytest
import roles
from gmpy2 import mpz
from hostile import play
from paillier_key import KEY

from vfl.arrays import Mask
from vfl.crypto.paillier import Ciphertexts, PrivateKey, PublicKey
from vfl.crypto.powers import FixedBase, RandomBits
from vfl.net.peer import MemoryPeer
from vfl.net.wire import Message

CALIBRATIONS, SUMS = 30, 16
Draw = Callable[[PublicKey, int], Ciphertexts]


def chinese(residues: list[mpz], moduli: list[mpz]) -> mpz:
    """The number with these residues."""
    whole = gmpy2.mpz(np.prod(np.array(moduli, object)))
    parts = [whole // m for m in moduli]
    return (
        sum(r * w * gmpy2.invert(w, m) for r, w, m in zip(residues, parts, moduli, strict=True)) % whole
    )


class Owner(ABC):
    """The maker of a key, who tells n-th powers from each other by their residues modulo its primes."""

    rows: int

    def __init__(self, primes: list[mpz]) -> None:
        self.primes = primes
        n = reduce(lambda a, b: a * b, primes, mpz(1))
        self.public = PublicKey(int(n))
        order = gmpy2.lcm(*(p - 1 for p in primes))
        root, width = gmpy2.invert(n, order), self.public.bits // 8
        roots = [gmpy2.powmod(c, root, n) for c in self.public.challenges()]
        self.public.check_proof(b"".join(int(r).to_bytes(width, "big") for r in roots))

    def mark(self, residues: list[mpz]) -> mpz:
        """An n-th power with these residues, each raised to n, modulo the primes."""
        return gmpy2.powmod(chinese(residues, self.primes), self.public.n, self.public.n_squared)

    @abstractmethod
    def calibrate(self, seen: list[mpz]) -> list[mpz]:
        """A mark for each row, given ciphertexts without marks."""

    @abstractmethod
    def rows_in(self, c: mpz) -> list[bool]:
        """Which rows' marks are in a ciphertext, as far as one can tell."""


class ManyPrimes(Owner):
    """n has 64 primes; a row's mark is no square modulo one of them."""

    def __init__(self) -> None:
        primes, p = [], mpz(2) ** 32 - 2**24
        while len(primes) < 64:
            p = gmpy2.next_prime(p)
            primes += [p] if p % 4 == 3 else []
        super().__init__(primes)
        self.rows = len(primes) - CALIBRATIONS

    def signs(self, c: mpz) -> int:
        """A bit for each prime modulo which c is no square."""
        return sum(1 << i for i, p in enumerate(self.primes) if gmpy2.legendre(c, p) == -1)

    def reduced(self, signs: int) -> int:
        for place, one in self.basis:
            if signs >> place & 1:
                signs ^= one
        return signs

    def calibrate(self, seen: list[mpz]) -> list[mpz]:
        self.basis: list[tuple[int, int]] = []
        for c in seen:
            if one := self.reduced(self.signs(c)):
                self.basis.append((one.bit_length() - 1, one))
        taken = {place for place, _ in self.basis}
        self.places = [i for i in range(len(self.primes)) if i not in taken][: self.rows]
        # -1 is no square modulo any of them.
        return [
            self.mark([p - 1 if i == place else mpz(1) for i, p in enumerate(self.primes)])
            for place in self.places
        ]

    def rows_in(self, c: mpz) -> list[bool]:
        # What is left when the calibrations' places are cleared, whatever the other ones are.
        signs = self.reduced(self.signs(c))
        return [bool(signs >> place & 1) for place in self.places]


class SharedFactors(Owner):
    """n has two primes; p - 1 and q - 1 have twenty factors in common, each the order of a mark."""

    def __init__(self) -> None:
        self.orders = [mpz(x) for x in range(150, 258) if gmpy2.is_prime(x)]
        self.common = reduce(lambda a, b: a * b, self.orders, mpz(1))
        self.rows = len(self.orders)
        primes = []
        for top, offset in ((13, 22), (15, 221)):
            cofactor = ((mpz(top) << 1020) // (2 * self.common) | 1) + 2 * offset
            primes.append(2 * self.common * cofactor + 1)
        assert all(p.is_prime() for p in primes)
        super().__init__(primes)
        self.generators = [self._generator(p) for p in primes]
        self.logarithms = [
            [
                {int(gmpy2.powmod(g, self.common // x * i, p)): i for i in range(x)}
                for p, g in zip(primes, self.generators, strict=True)
            ]
            for x in self.orders
        ]

    def _generator(self, p: mpz) -> mpz:
        """An element modulo p whose order is the product of all common factors."""
        candidates = (gmpy2.powmod(x, (p - 1) // self.common, p) for x in range(2, 1000))
        return next(
            g for g in candidates if all(gmpy2.powmod(g, self.common // x, p) != 1 for x in self.orders)
        )

    def pairs(self, c: mpz) -> list[tuple[int, int]]:
        """For each common factor the logarithms of c modulo p and q."""
        inside = [gmpy2.powmod(c, (p - 1) // self.common, p) for p in self.primes]
        return [
            tuple(
                table[int(gmpy2.powmod(y, self.common // x, p))]
                for y, p, table in zip(inside, self.primes, tables, strict=True)
            )
            for x, tables in zip(self.orders, self.logarithms, strict=True)
        ]

    def calibrate(self, seen: list[mpz]) -> list[mpz]:
        """Along some direction few different values are seen, if obfuscators have few generators."""
        listed = [self.pairs(c) for c in seen]
        self.looks = []
        marks = []
        for row, x in enumerate(self.orders):
            pairs = [one[row] for one in listed]
            directions = [(a[0] - b[0], a[1] - b[1]) for a, b in pairwise(pairs) if a != b]
            values = {d: {(a * d[1] - b * d[0]) % x for a, b in pairs} for d in directions}
            direction = min(values, key=lambda d: len(values[d]))
            self.looks.append((direction, values[direction]))
            # A mark modulo p alone that leads away from these values, if any does.
            away = max(
                range(1, int(x)),
                key=lambda t, d=direction, v=values[direction], x=x: len(
                    {(u + t * d[1]) % x for u in v} - v
                ),
            )
            element = gmpy2.powmod(self.generators[0], self._exponent(row, away), self.primes[0])
            marks.append(self.mark([element, mpz(1)]))
        return marks

    def _exponent(self, row: int, logarithm: int) -> mpz:
        """Of the generator, for an element of one order alone with this logarithm as `pairs` sees its
        n-th power."""
        x = self.orders[row]
        rest = self.common // x
        n, cofactor = self.public.n, (self.primes[0] - 1) // self.common
        return rest * (logarithm * gmpy2.invert(n * cofactor * rest, x) % x)

    def rows_in(self, c: mpz) -> list[bool]:
        found = []
        for (a, b), (d, values), x in zip(self.pairs(c), self.looks, self.orders, strict=True):
            found.append((a * d[1] - b * d[0]) % x not in values)
        return found


@cache
def owner(kind: type[Owner]) -> Owner:
    return kind()


def powers_of_one_base() -> Draw:
    """Powers of a random square by exponents longer than n, times n-th powers that are no squares."""
    rng = random.Random(11)

    @cache
    def generators(key: PublicKey) -> tuple[FixedBase, mpz]:
        base = gmpy2.powmod(rng.getrandbits(key.bits + 128), 2 * key.n, key.n_squared)
        while gmpy2.jacobi(root := mpz(rng.randrange(int(key.n))), key.n) != -1:
            pass
        fixed = FixedBase(base, key.n_squared, key.bits + 128)
        return fixed, gmpy2.powmod(root, key.n, key.n_squared)

    def draw(key: PublicKey, count: int) -> Ciphertexts:
        base, mixed = generators(key)
        drawn = [base.power(rng.getrandbits(key.bits + 128)) for _ in range(count)]
        signed = [(-1) ** rng.getrandbits(1) * mixed ** rng.getrandbits(1) for _ in range(count)]
        return key.array([c * s % key.n_squared for c, s in zip(drawn, signed, strict=True)])

    return draw


def products(key: PublicKey, count: int) -> Ciphertexts:
    """Products of a pool that is drawn by the primes, in a moment; a host draws it without them."""
    rng, primes = random.Random(7), owner(ManyPrimes).primes
    squares = [p * p for p in primes]
    # The powers of order p - 1 modulo p^2 are those by p.
    pool = [
        chinese([gmpy2.powmod(rng.randrange(1, int(p)), p, p * p) for p in primes], squares)
        for _ in range(key.pool_size)
    ]
    return key.obfuscators(count, key.array(pool), random.Random(5).getrandbits)


def told(guest: Owner, draw: Draw) -> float:
    """The share of (row, sum) that the guest tells right, rows being in or out by a coin."""
    key, rng = guest.public, np.random.default_rng(3)
    obfuscators = draw(key, CALIBRATIONS + SUMS)
    nothing = key.unsafe_encrypt([0] * CALIBRATIONS)
    marks = guest.calibrate(key.integers(key.rerandomise(nothing, obfuscators[:CALIBRATIONS])))
    plain = key.integers(key.unsafe_encrypt(range(guest.rows)))
    encrypted = key.array([c * m % key.n_squared for c, m in zip(plain, marks, strict=True)])
    truth: list[Mask] = [rng.random(guest.rows) < 0.5 for _ in range(SUMS)]
    sums = np.concatenate([key.running(encrypted[inside])[-1:] for inside in truth])
    back = key.integers(key.rerandomise(sums, obfuscators[CALIBRATIONS:]))
    found = np.array([guest.rows_in(c) for c in back])
    return float((found == np.array(truth)).mean())


@pytest.mark.parametrize("kind", [ManyPrimes, SharedFactors])
def test_powers_of_one_base_would_show_every_row(kind: type[Owner]) -> None:
    assert told(owner(kind), powers_of_one_base()) == 1


@pytest.mark.parametrize(
    ("kind", "draw"),
    [
        (ManyPrimes, PublicKey.obfuscators),
        (SharedFactors, PublicKey.obfuscators),
        (ManyPrimes, products),
    ],
)
def test_what_leaves_a_host_shows_none(kind: type[Owner], draw: Draw) -> None:
    """Right by chance are half, give or take five standard deviations."""
    guest = owner(kind)
    assert abs(told(guest, draw) - 0.5) < 2.5 / (SUMS * guest.rows) ** 0.5


SENT = {"CandidateSums", "MaskedCandidates", "MaskedProducts", "BlindGradient"}


@pytest.mark.parametrize(
    "scenario", ["boosting", "hidden boosting", "fitting", "hidden poisson fitting"]
)
def test_whatever_goes_to_the_owner_has_an_obfuscator_of_its_own(scenario: str) -> None:
    """All that comes to a party that lacks the key has none here, so that what it sends has its own."""
    drawn: list[mpz] = []
    sent: list[bytes] = []
    draw, send = PrivateKey._obfuscators, MemoryPeer.send

    def nth_powers(key: PublicKey, sources: Sequence[RandomBits]) -> list[mpz]:
        taken = [random_bits(8 * KEY.drawn).to_bytes(KEY.drawn, "little") for random_bits in sources]
        drawn.extend(powers := draw(KEY, taken))
        return powers

    async def watched(peer: MemoryPeer, message: Message) -> None:
        if type(message).__name__ in SENT:
            sent.append(message.ciphertexts)
        await send(peer, message)

    with roles.in_memory(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(PrivateKey, "_obfuscators", lambda key, drawn: [mpz(1)] * len(drawn))
        patch.setattr(PublicKey, "_nth_powers", nth_powers)
        patch.setattr(PublicKey, "conceal", lambda key, ciphertexts, random_bits=None: ciphertexts)
        patch.setattr(MemoryPeer, "send", watched)
        run = play(roles.SCENARIOS[scenario]())
    assert not any(isinstance(end, Exception) for end in run.ends.values())

    key = KEY.public
    ciphertexts = key.parse(b"".join(sent))
    plain = zip(key.integers(ciphertexts), KEY.decrypt(ciphertexts), strict=True)
    used = [c * (1 - m * key.n) % key.n_squared for c, m in plain]
    assert len(used) >= 4 and len(set(used)) == len(used)
    assert set(used) <= set(drawn) and len(set(drawn)) == len(drawn)
