"""The code: what is known of BCH codes holds for it, and words are far apart."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vfl.crypto import linear_code
from vfl.crypto.linear_code import DIMENSION, DISTANCE, LENGTH, encode, generator_polynomial

FULL, ZEROS, FIELD = 511, 170, 0b1000010001


def messages(count, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, 16), dtype=np.uint8)


def as_bits(words):
    return np.unpackbits(words, axis=1, bitorder="little")


def divided(polynomial, by):
    """The remainder of polynomials over GF(2)."""
    while (shift := polynomial.bit_length() - by.bit_length()) >= 0:
        polynomial ^= by << shift
    return polynomial


def test_the_field_is_one():
    # x generates all 511 elements: its order divides 511 = 7 * 73, and is no smaller divisor.
    def power(exponent):
        return divided(1 << exponent, FIELD)

    assert power(511) == 1
    assert power(7) != 1
    assert power(73) != 1


def test_the_generator_has_the_zeros_that_the_bound_needs():
    generator = generator_polynomial()
    assert generator.bit_length() - 1 == FULL - DIMENSION
    # It divides x^511 - 1, so that its multiples are a cyclic code of dimension 76.
    assert divided(1 << FULL | 1, generator) == 0
    power = [divided(1 << e, FIELD) for e in range(FULL)]

    def value(exponent):
        """The generator at a^exponent."""
        out = 0
        for k in range(generator.bit_length()):
            if generator >> k & 1:
                out ^= power[exponent * k % FULL]
        return out

    assert all(value(e) == 0 for e in range(1, ZEROS + 1))
    # 170 zeros in a row: words of the whole code weigh 171 or more, and 43 places are left out.
    assert ZEROS + 1 - (FULL - LENGTH) == DISTANCE


def test_words_are_multiples_of_the_generator():
    generator = generator_polynomial()
    sent = messages(40)
    for message, word in zip(sent, encode(sent), strict=True):
        number = int.from_bytes(message.tobytes(), "little") & ((1 << DIMENSION) - 1)
        product = 0
        for k in range(DIMENSION):
            if number >> k & 1:
                product ^= generator << k
        assert int.from_bytes(word.tobytes(), "little") == product & ((1 << LENGTH) - 1)


@given(st.integers(1, (1 << DIMENSION) - 1))
@settings(max_examples=200)
def test_any_word_is_heavy(number):
    word = encode(np.frombuffer(number.to_bytes(16, "little"), np.uint8).reshape(1, 16))
    assert as_bits(word).sum() >= DISTANCE


def test_many_words_are_heavy():
    # Random ones, and of few coefficients: the lightest are found among neither by accident.
    sparse = np.zeros((DIMENSION * DIMENSION, 16), np.uint8)
    for i in range(DIMENSION):
        for j in range(DIMENSION):
            sparse[DIMENSION * i + j, i // 8] ^= 1 << i % 8
            if i != j:
                sparse[DIMENSION * i + j, j // 8] ^= 1 << j % 8
    for sent in (messages(100_000), sparse):
        weights = np.bitwise_count(encode(sent).view(np.uint64)).sum(axis=1)
        assert weights.min() >= DISTANCE
    assert abs(np.bitwise_count(encode(messages(20_000))).sum(axis=1).mean() - LENGTH / 2) < 1


def test_it_is_linear_and_only_76_bits_count():
    one, other = messages(500, 1), messages(500, 2)
    assert np.array_equal(encode(one) ^ encode(other), encode(one ^ other))
    changed = one.copy()
    changed[:, 9] ^= 0xF0
    changed[:, 10:] ^= 0xFF
    assert np.array_equal(encode(changed), encode(one))
    assert not as_bits(encode(one))[:, LENGTH:].any()


def test_rows_of_any_memory():
    wide = messages(20_000).reshape(-1, 32)
    wide.flags.writeable = False
    assert np.array_equal(encode(wide[:, 16:]), encode(np.array(wide[:, 16:])))
    assert encode(np.empty((0, 16), np.uint8)).shape == (0, linear_code.WORD)
    with pytest.raises(ValueError, match="messages"):
        encode(wide)
