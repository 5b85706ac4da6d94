"""Eight products at a time against gmpy2, number by number, and keys with and without them."""

import os
import random
import subprocess
import sys
from collections.abc import Iterator

import gmpy2
import numpy as np
import pytest
from gmpy2 import mpz
from hypothesis import given, settings
from hypothesis import strategies as st

from vfl.crypto import montgomery
from vfl.crypto.montgomery import Montgomery, numbers_of
from vfl.crypto.paillier import PrivateKey

only_here = pytest.mark.skipif(not montgomery.usable(), reason="a processor without AVX-512 IFMA")
MODULI = [
    mpz(3),
    mpz((1 << 64) - 1),
    mpz((1 << 2048) - 1),  # above 4 n with two bits to spare
    mpz((1 << 2046) + 1),
    mpz(random.Random(1).getrandbits(4096) | 1 | 1 << 4095),
    mpz(random.Random(2).getrandbits(8192) | 1 | 1 << 8191),
]


def lanes(modulus: mpz) -> Montgomery:
    return Montgomery(modulus, -(-modulus.bit_length() // 64) * 8)


def some(modulus: mpz, count: int, seed: int) -> list[mpz]:
    """Numbers below the modulus, the extremes among them."""
    rng = random.Random(seed)
    drawn = [mpz(rng.randrange(int(modulus))) for _ in range(count - 3)]
    return [modulus - 1, mpz(0), mpz(1), *drawn]


@only_here
@settings(max_examples=15, deadline=None)
@given(
    modulus=st.sampled_from(MODULI),
    sizes=st.lists(st.integers(0, 140), max_size=20),
    seed=st.integers(0, 99),
)
def test_products_of_runs(modulus: mpz, sizes: list[int], seed: int) -> None:
    numbers, rng = some(modulus, 40, seed), random.Random(seed)
    index = np.array([rng.randrange(40) for _ in range(sum(sizes))], np.int64)
    ends = np.cumsum(sizes, dtype=np.int64)
    ours = lanes(modulus)
    expected = []
    for start, end in zip([0, *ends], ends, strict=False):
        product = mpz(1)
        for i in index[start:end]:
            product = product * numbers[i] % modulus
        expected.append(product)
    assert ours.numbers(ours.products(ours.rows(numbers), index, ends)) == expected


@only_here
@pytest.mark.parametrize("modulus", MODULI, ids=lambda modulus: f"{modulus.bit_length()} bits")
@pytest.mark.parametrize("count", [3, 8, 19])
def test_powers_and_element_wise_products(modulus: mpz, count: int) -> None:
    numbers, ours = some(modulus, count, count), lanes(modulus)
    rows = ours.rows(numbers)
    expected = [x * y % modulus for x, y in zip(numbers, numbers[::-1], strict=True)]
    assert ours.numbers(ours.times(rows, rows[::-1])) == expected
    for exponent in (mpz(1), mpz(31), mpz(32), mpz(random.Random(count).getrandbits(300))):
        powers = [gmpy2.powmod(x, exponent, modulus) for x in numbers]
        assert ours.numbers(ours.power(rows, exponent)) == powers
    digits = np.random.default_rng(count).integers(0, 16, (11, count))
    expected = []
    for row in digits.tolist():
        product = mpz(1)
        for x, digit in zip(numbers, row, strict=True):
            product = product * gmpy2.powmod(x, digit, modulus) % modulus
        expected.append(product)
    assert ours.numbers(ours.chosen(ours.tables(rows, 4), digits)) == expected


@only_here
@pytest.mark.parametrize("size", [1, 2, 5])
def test_positions(size: int) -> None:
    modulus = MODULI[-2]
    numbers, ours = some(modulus, 43, size), lanes(modulus)
    expected = []
    for start in range(0, 43, size):
        product = mpz(1)
        for place, x in enumerate(numbers[start : start + size]):
            product = product * gmpy2.powmod(x, mpz(1) << (37 * place), modulus) % modulus
        expected.append(product)
    assert ours.numbers(ours.horner(ours.rows(numbers), size, 37)) == expected


def test_a_modulus_that_does_not_fit_is_refused() -> None:
    for modulus, width in ((4, 8), (1, 8), ((1 << 65) - 1, 8), (5, 7)):
        with pytest.raises(ValueError, match="no odd number of at most"):
            Montgomery(mpz(modulus), width)
    ours = Montgomery(mpz(5), 8)
    with pytest.raises(ValueError, match="2 numbers times 1"):
        ours.times(ours.rows([mpz(1), mpz(2)]), ours.rows([mpz(1)]))


@pytest.mark.parametrize(("name", "value"), [("NUMBA_CPU_NAME", "generic"), ("NUMBA_DISABLE_JIT", "1")])
def test_whoever_tells_the_compiler_of_another_processor_is_believed(name: str, value: str) -> None:
    text = "from vfl.crypto import montgomery; print(montgomery.usable())"
    run = subprocess.run(
        [sys.executable, "-c", text], env=os.environ | {name: value}, capture_output=True, text=True
    )
    assert run.stdout == "False\n", run.stderr


@pytest.fixture(scope="module")
def both() -> Iterator[tuple[PrivateKey, PrivateKey]]:
    """The same key with the products of this machine, and with gmpy2's alone."""
    made = PrivateKey.generate(2048, random.Random(77).getrandbits)
    parts = made.parts()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("vfl.crypto.paillier.montgomery", lambda modulus, width: None)
        plain = PrivateKey.from_parts(*parts)
        assert plain.public._lanes is plain._at_p._lanes is plain._at_q._lanes is None
        yield PrivateKey.from_parts(*parts), plain


@only_here
def test_a_key_computes_the_same_with_and_without(both: tuple[PrivateKey, PrivateKey]) -> None:
    here, plain = both
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("vfl.crypto.paillier.montgomery", montgomery.montgomery)
        assert here.public._lanes is not None
        assert here._at_p._lanes is not None
        assert here._at_q._lanes is not None
    rng = np.random.default_rng(0)
    cells = [rng.integers(0, 9, 60) for _ in range(3)]
    found = []
    for key in (here, plain):
        drawn = random.Random(5)
        public = key.public
        rows = key.encrypt(range(-30, 30), key.obfuscators(60, drawn.randbytes))
        sums = public.sum_cells(rows, np.arange(60), cells, 11)
        powers = public.obfuscators(3, None, drawn.getrandbits)
        public.check(rows)
        found.append(
            [
                rows,
                sums,
                public.add(rows, rows[::-1]),
                public.sum_runs(rows, np.array([1, 20, 60])),
                public.pack(sums, 64, 4),
                powers,
                public.conceal(rows[:5], drawn.getrandbits),
                np.array(key.decrypt(sums)),
            ]
        )
    for ours, theirs in zip(*found, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert found[0][-1].tolist() == [
        sum(int(np.arange(-30, 30)[own == cell].sum()) for own in cells) for cell in range(11)
    ]


@only_here
def test_many_rows_are_summed_piece_by_piece(
    both: tuple[PrivateKey, PrivateKey], monkeypatch: pytest.MonkeyPatch
) -> None:
    here, plain = both
    monkeypatch.setattr("vfl.crypto.paillier._PAIRS", 16)
    cells = [np.arange(50) % 2, np.arange(50) // 30]
    rows = here.encrypt(range(50))
    sums = [key.public.sum_cells(rows, np.arange(50), cells, 2) for key in (here, plain)]
    np.testing.assert_array_equal(*sums)


def test_numbers_and_rows() -> None:
    numbers = [mpz(0), mpz(1), mpz((1 << 128) - 1), mpz(0)]
    rows = montgomery.rows_of(numbers, 16)
    assert rows.shape == (4, 16)
    assert numbers_of(rows) == numbers
    assert numbers_of(rows[:0]) == []
