"""Powers of a fixed base, random products, from tables; primes that are searched in haste."""

import random
from itertools import product

import gmpy2
import numpy as np
import pytest
from gmpy2 import mpz
from scipy.stats import chisquare

from vfl.crypto import powers
from vfl.crypto.paillier import random_prime
from vfl.crypto.powers import FixedBase, RandomProducts, elements_needed


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
        windows.add(fixed._made[0])
    if exponent_bits > 12:
        assert windows == ({5, 7, 9, 11} if memory > 1_100 else {5} if exponent_bits == 61 else {2})


def excess(order: float, cyclic: int, elements: int, bits: int) -> float:
    """The bound on |G| P - 1 that `RandomProducts` states, for exponents of so many bits."""
    all_ = 1 << bits
    total = order * 2.0 ** -(bits * elements)
    for c in range(2, all_):
        s = all_ % c
        total += 2.0 ** (
            (cyclic - elements) * np.log2(c) + elements * np.log2(1 + s * (c - s) / all_**2)
        )
    return total


@pytest.mark.parametrize("factors", [(2,), (2, 2), (3, 3), (6, 2), (2, 2, 2)])
@pytest.mark.parametrize(("elements", "bits"), [(2, 2), (4, 1), (3, 2)])
def test_the_distance_of_random_products_from_uniform(
    factors: tuple[int, ...], elements: int, bits: int
) -> None:
    """Of all choices of elements and exponents, in small groups that are products of cyclic ones."""
    order, moduli = int(np.prod(factors)), np.array(factors)
    group = np.array(list(product(*map(range, factors))))
    exponents = np.array(list(product(range(1 << bits), repeat=elements)))
    at = np.cumprod([1, *factors[:-1]])
    probability, distance, choices = 0.0, 0.0, list(product(range(order), repeat=elements))
    for chosen in choices:
        places = (exponents @ group[list(chosen)] % moduli) @ at
        shares = np.bincount(places, minlength=order) / len(exponents)
        probability += (shares**2).sum()
        distance += np.abs(shares - 1 / order).sum() / 2
    probability, distance = probability / len(choices), distance / len(choices)
    bound = excess(order, len(factors), elements, bits)
    assert order * probability - 1 <= bound + 1e-12
    assert distance <= (order * probability - 1) ** 0.5 / 2 + 1e-12 <= bound**0.5 / 2 + 2e-12


def test_a_pool_is_large_enough_for_any_modulus() -> None:
    for bits, needed in ((2048, 384), (3072, 555), (4096, 726)):
        cyclic = (bits - 1) // 16  # as many primes of 16 bits have a product of fewer bits
        assert elements_needed(bits, cyclic) == needed
        # The order as its logarithm, so that it fits into a float.
        assert bits - RandomProducts.DIGIT * needed <= -256
        assert 0 < excess(0.0, cyclic, needed, RandomProducts.DIGIT) < 2.0**-256
        assert excess(0.0, cyclic, needed - 1, RandomProducts.DIGIT) >= 2.0**-256 or bits > 2048


def test_random_products_are_products_of_powers() -> None:
    rng = random.Random(4)
    modulus = mpz(1_000_003)
    elements = [mpz(rng.randrange(1, 1_000_003)) for _ in range(9)]
    products = RandomProducts(elements, modulus)
    top = (1 << 54) - 1
    for drawn in [0, 1, 63, 1 << 53, top, *(rng.getrandbits(54) for _ in range(50))]:

        def given(bits: int, drawn: int = drawn) -> int:
            assert bits == 54
            return drawn

        expected = mpz(1)
        for i, element in enumerate(elements):
            expected = expected * gmpy2.powmod(element, drawn >> 6 * i & 63, modulus) % modulus
        assert products.draw(given) == expected


def test_random_products_are_uniform() -> None:
    """Among the 60 77th powers modulo 77^2, a product of cyclic groups of six and ten elements."""
    rng, n = random.Random(8), 77
    units = [u for u in range(n) if gmpy2.gcd(u, n) == 1]
    elements = [gmpy2.powmod(rng.choice(units), n, n * n) for _ in range(elements_needed(6, 2))]
    products = RandomProducts(elements, mpz(n * n))
    seen = [int(products.draw(rng.getrandbits)) for _ in range(3000)]
    powers = sorted({int(gmpy2.powmod(u, n, n * n)) for u in units})
    assert len(powers) == 60 and set(seen) == set(powers)
    assert chisquare([seen.count(p) for p in powers]).pvalue > 0.001


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


def test_powers_are_right_while_another_thread_widens_a_table(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    modulus = mpz((1 << 2203) - 1)
    base, exponents, made = FixedBase(mpz(3), modulus, 256), [1, 31, 127, (1 << 256) - 1], []
    table = FixedBase._table

    def watched(self: FixedBase, window: int) -> list[list[mpz]]:
        wider = table(self, window)
        for exponent in exponents:  # as another thread asks for them
            assert self.power(exponent) == pow(mpz(3), exponent, modulus)
        made.append(window)
        return wider

    monkeypatch.setattr(FixedBase, "_table", watched)
    for _ in range(200):
        assert base.power(exponents[-1]) == pow(mpz(3), exponents[-1], modulus)
    assert made == [7]
