"""Powers of a fixed base from tables that widen, and primes that are searched in haste."""

import random

import gmpy2
import pytest
from gmpy2 import mpz

from vfl.crypto import powers
from vfl.crypto.paillier import random_prime
from vfl.crypto.powers import FixedBase


@pytest.mark.parametrize("exponent_bits", [1, 7, 61, 256])
@pytest.mark.parametrize("memory", [1_100, 10_000_000])
def test_powers_of_a_fixed_base_whatever_the_windows(
    monkeypatch: pytest.MonkeyPatch, exponent_bits: int, memory: int
) -> None:
    """The modulus is small, so that all tables are made within a moment."""
    monkeypatch.setattr(powers, "_TABLE_BYTES", memory)
    rng = random.Random(exponent_bits)
    modulus, base = mpz(65_521), mpz(rng.randrange(2, 65_521))
    fixed = FixedBase(base, modulus, exponent_bits)
    ends = [0, 1, (1 << exponent_bits) - 1]
    windows = set()
    for exponent in [*ends, *(rng.getrandbits(exponent_bits) for _ in range(10_000)), *ends]:
        assert fixed.power(exponent) == gmpy2.powmod(base, exponent, modulus)
        windows.add(fixed._window)
    if exponent_bits > 12:
        assert windows == ({5, 7, 9, 11} if memory > 1_100 else {5} if exponent_bits == 61 else {2})


def test_primes_are_those_that_the_whole_test_lets_through() -> None:
    """Candidates in the order of the random bits: none is passed over."""
    drawn: list[int] = []

    def bits(count: int) -> int:
        drawn.append(rng.getrandbits(count))
        return drawn[-1]

    rng = random.Random(3)
    found = [random_prime(256, bits) for _ in range(5)]

    candidates = [(mpz(3) << 254) | one | 3 for one in drawn]
    small = gmpy2.primorial(1 << 16)
    assert found == [p for p in candidates if gmpy2.gcd(p * (p // 2), small) == 1 and p.is_prime(40)]
