"""What clients learn together from totals of integers."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from plain_totals import with_totals

from vfl.errors import PeerError
from vfl.protocols.pooled.real_totals import SUM_WORDS, ExactSum, sum_of_words
from vfl.protocols.pooled.totals import Totals

CLIENTS = ["a", "b", "c"]
NUMBERS = st.lists(st.floats(-1e300, 1e300, allow_nan=False), max_size=8)


@given(st.tuples(NUMBERS, NUMBERS, NUMBERS))
def test_a_sum_of_numbers_is_exact_however_they_lie_at_clients(numbers):
    async def add(adder):
        totals = Totals(adder)
        own = ExactSum(np.array(numbers[CLIENTS.index(adder.name)], np.float64))
        (total,) = await totals.of([totals.number(own)], "numbers")
        return sum_of_words(total)

    everything = [x for own in numbers for x in own]
    assert with_totals(CLIENTS, add)[0] == [math.fsum(everything)] * 3


def test_a_sum_is_not_a_number_where_any_number_is_not():
    async def add(adder):
        totals = Totals(adder)
        values = np.array([1.0, np.inf if adder.name == "b" else 2.0])
        parts = [totals.number(ExactSum(values)), totals.number(ExactSum(np.full(2, 1e308)))]
        return [sum_of_words(total) for total in await totals.of(parts, "numbers")]

    assert all(np.isnan(both).all() for both in with_totals(CLIENTS, add)[0])  # the second is too large


def test_digits_tell_nothing_of_what_they_carry():
    totals = []
    for numbers in ([2.0**35, 2.0**35, 0.0], [2.0**36, 0.0, 0.0]):  # 2^36, carried in one of them

        async def add(adder, numbers=numbers):
            own = ExactSum(numbers[CLIENTS.index(adder.name)] * np.ones(1))
            (total,) = await Totals(adder).of([Totals(adder).number(own)], "numbers")
            return total

        totals.append(with_totals(CLIENTS, add)[0][0])
        assert sum_of_words(totals[-1]) == 2.0**36
    assert all(len(total) == SUM_WORDS for total in totals)
    assert all(np.count_nonzero(total) > 60 for total in totals)  # all digits but the last are blurred


def test_what_any_client_has_is_told_without_how_many_have_it():
    has = {"a": [1, 0, 1, 0], "b": [1, 0, 0, 0], "c": [1, 0, 0, 1]}

    async def add(adder):
        totals = Totals(adder)
        (total,) = await totals.of([totals.flags(np.array(has[adder.name], np.bool_))], "flags")
        return total

    told = with_totals(CLIENTS, add)[0][0]
    assert (told != 0).tolist() == [True, False, True, True]
    assert all(abs(int(word)) > 2**30 for word in told[[0, 2, 3]])  # uniform, no count


def test_a_digest_has_to_be_the_same_at_all():
    async def add(adder, other):
        totals = Totals(adder)
        digest = b"x" if adder.name == other else b"y"
        (total,) = await totals.of([totals.same(digest)], "settings")
        return totals.is_same(total, digest)

    assert with_totals(CLIENTS, lambda adder: add(adder, "nobody"))[0] == [True] * 3
    assert with_totals(CLIENTS, lambda adder: add(adder, "b"))[0] == [False] * 3


@pytest.mark.parametrize("change", [lambda total: total[:-1], lambda total: total.astype(float)])
def test_a_total_of_another_shape_is_refused(change):
    async def add(adder):
        await Totals(adder).of([np.ones(2, np.int64)], "rows")

    with pytest.raises(
        PeerError, match="broke the protocol: the total of rows cannot be, it has another"
    ):
        with_totals(CLIENTS, add, lambda what, total: change(total))
