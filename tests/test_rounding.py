"""Rounded residuals: how right gradients are, and that no product has more bits than are given back."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vfl.errors import ConfigError
from vfl.learn.design import FRACTION_BITS
from vfl.learn.glm import BlockReport
from vfl.protocols.linear.rounding import (
    Rounding,
    are_standardised,
    bits_of_sums,
    most_bits,
    number_bits,
)


def standardised(draw: np.random.Generator, rows: int, spread: float) -> np.ndarray:
    """A column in units of its deviation, to 2^-24; some rows far off."""
    values = draw.normal(size=rows) * np.exp(spread * draw.normal(size=rows))
    scale = values.std() or 1.0
    return np.rint((values - values.mean()) / scale * 2.0**FRACTION_BITS) / 2.0**FRACTION_BITS


@settings(max_examples=200, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    rows=st.integers(1, 300),
    size=st.integers(0, 50),
    spread=st.floats(0, 6),
)
def test_products_have_no_more_bits_than_are_given_back(
    seed: int, rows: int, size: int, spread: float
) -> None:
    """Whatever a column, even one that is the residuals themselves; beside the sign a bit is spare."""
    draw = np.random.default_rng(seed)
    integers = draw.integers(-(1 << size), (1 << size) + 1, rows)
    bits = bits_of_sums(integers)
    likest = integers - integers.mean()
    likest = likest / (likest.std() or 1.0)
    numbers = np.array([standardised(draw, rows, spread), np.rint(likest * 2.0**24) / 2.0**24])
    assert are_standardised(numbers)
    for column in numbers:
        exact = sum(int(x * 2**24) * int(r) for x, r in zip(column, integers, strict=True))
        assert abs(exact) < 1 << (number_bits(bits) - 2)
    for level in (np.ones(rows, bool), integers > 0, draw.random(rows) < 0.1):
        assert abs(int(integers[level].sum())) < 1 << (bits - 2)
    assert bits <= most_bits(rows, size)


def test_numbers_that_are_further_off_are_none() -> None:
    column = np.ones((1, 50))
    assert are_standardised(column) and not are_standardised(1.001 * column)


@pytest.mark.parametrize("length", [1.0, 1e-3, 1e-6])
@pytest.mark.parametrize("unit", [1.0, 1e-9, 1e9])
def test_gradients_are_right_to_a_share_of_the_last(length: float, unit: float) -> None:
    """In the first iteration to 2^-20 of the length of residuals, later of the last gradient's, and no
    finer than the tolerance asks for."""
    draw, rows, columns = np.random.default_rng(1), 4000, 6
    matrix = np.array([standardised(draw, rows, 0.5) for _ in range(columns)])
    residuals = unit * draw.normal(size=rows) / rows
    least = 1e-6 * unit
    rounding = Rounding(columns, 1.0, least, 50)
    asked = max(length * unit, least)
    last = BlockReport(np.array([[(length * unit) ** 2]]), (length * unit) ** 2)
    for report, size in ((None, float(np.linalg.norm(residuals)) * math.sqrt(columns)), (last, asked)):
        rounded = rounding.of(residuals, report)
        off = matrix @ (rounded.integers / rounded.scale - residuals)
        # The step is a power of two, up to half of what is allowed.
        assert 2.0**-22.5 * size < np.linalg.norm(off) < 2.0**-19 * size


def test_residuals_are_no_finer_than_the_encryption_has_room_for() -> None:
    residuals = np.random.default_rng(2).normal(size=100)
    near_the_end = BlockReport(np.zeros((1, 1)), 0.0)
    rounded = Rounding(3, 1.0, 1e-300, 40).of(residuals, near_the_end)
    assert 1 << 38 < np.abs(rounded.integers).max() <= 1 << 40
    assert rounded.integers / rounded.scale == pytest.approx(residuals, abs=2.0**-38)


def test_residuals_that_are_nothing_or_infinite() -> None:
    rounding = Rounding(3, 1.0, 1e-6, 50)
    assert not rounding.of(np.zeros(5), None).integers.any()
    assert rounding.of(np.zeros(0), None).bits == 2
    with pytest.raises(ConfigError, match="the fit diverges, with residuals beyond all bounds"):
        rounding.of(np.array([1.0, math.inf]), None)
