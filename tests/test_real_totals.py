"""Totals of real numbers over clients, exact in fixed point."""

import asyncio
import math
import secrets
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vfl.protocols.pooled.plain_adding import plain_adders
from vfl.protocols.pooled.real_totals import ANY, Window, around, in_words, of_words, real_totals

NAMES = [f"client{k}" for k in range(64)]
numbers = st.floats(allow_nan=False, allow_infinity=False)


def totals(parts, window):
    """Of one number of each client."""

    async def run():
        return await asyncio.gather(
            *(
                real_totals(adder, [(np.array([x]), window)], "a number")
                for adder, x in zip(plain_adders(NAMES[: len(parts)]), parts, strict=True)
            )
        )

    (first, *others) = [float(total[0][0]) for total in asyncio.run(run())]
    assert all(other == first for other in others)
    return first


@settings(max_examples=150)
@given(st.lists(numbers.filter(lambda x: x == 0 or abs(x) >= 2.0**-1050), min_size=1, max_size=64))
def test_a_total_is_the_exact_sum_rounded_once(parts):
    exact = sum(map(Fraction, parts))
    try:
        due = float(exact)
    except OverflowError:
        due = math.inf
    assert totals(parts, ANY) == due


@settings(max_examples=150)
@given(
    st.lists(st.floats(-(2.0**51), 2.0**51), min_size=1, max_size=64),
    st.integers(-800, 800),
)
def test_numbers_around_a_unit_are_right_to_2_84_of_it(parts, exponent):
    unit = 2.0**exponent
    window = around(unit)
    scaled = [part * unit for part in parts]
    exact = sum(map(Fraction, scaled))
    error = abs(Fraction(totals(scaled, window)) - exact)
    smallest = Fraction(2) ** (exponent + 1 - 84)
    assert error <= len(parts) * smallest / 2 + abs(exact) * Fraction(1, 2**53)
    # Numbers of full size lose nothing.
    kept = [part for part in scaled if part == 0 or abs(part) >= unit * 2.0**-30]
    assert not kept or totals(kept, window) == float(sum(map(Fraction, kept)))


@given(numbers, st.integers(-1000, 900), st.integers(1, 62))
def test_a_number_beyond_the_window_makes_its_total_infinite(x, lowest, digits):
    window = Window(lowest, digits)
    there = of_words(in_words(np.array([x]), window, secrets.token_bytes), window)[0]
    if abs(Fraction(x)) < Fraction(2) ** (lowest + 36 * digits - 8):
        assert abs(Fraction(float(there)) - Fraction(x)) <= Fraction(2) ** lowest / 2
    else:
        assert there == math.inf


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("clients", [1, 64])
def test_what_is_no_number_makes_its_total_infinite(bad, clients):
    assert totals([bad] * clients, ANY) == math.inf
    assert totals([bad] + [-(2.0**1000)] * (clients - 1), ANY) == math.inf


def test_the_largest_numbers_of_all_clients_do_not_wrap():
    most = float((1 << 53) - 1) * 2.0**-53
    for x in (most * 2.0**53, -most * 2.0**53, math.pi):
        assert totals([x] * 64, around(1.0)) == x * 64
    with pytest.raises(ValueError, match="different totals"):
        asyncio.run(_unlike())


async def _unlike():
    adders = plain_adders(NAMES[:2])
    await asyncio.gather(*(real_totals(adder, [(np.zeros(2), ANY)], adder.name) for adder in adders))


def test_what_is_carried_between_digits_is_hidden():
    """The words of a total are hardly others where the same sum comes of other numbers."""
    for parts in ([1.0, -1.0], [0.0, 0.0], [2.0**30, -(2.0**30)]):
        words = sum(in_words(np.full(4000, part), around(1.0), secrets.token_bytes) for part in parts)
        assert not of_words(words, around(1.0)).any()
        # Each digit lies where the sum of two blurs does, from 0 to 2^21 digits of the next.
        carried = words[:, :-2] >> 36
        assert (abs(carried.mean(axis=0) - 2**20) < 2**16).all() and (carried.std(axis=0) > 2**18).all()


def test_how_many_numbers_are_beyond_is_hidden():
    seen = [
        sum(in_words(np.full(500, x), ANY, secrets.token_bytes)[:, -1] for x in parts)
        for parts in ([math.inf, 0.0], [math.inf, math.inf])
    ]
    assert all(len(np.unique(further)) == 500 and further.all() for further in seen)


def test_there_is_a_window_around_anything():
    for unit in (0.0, math.inf, math.nan, 5e-324, 1.7e308):
        assert totals([0.0, 0.0], around(unit)) == 0.0
