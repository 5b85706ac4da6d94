"""The extension: rows are what the equation says, and columns of no words are found out."""

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from hypothesis import given, settings
from hypothesis import strategies as st

from vfl.crypto import linear_code, ot_extension
from vfl.crypto.linear_code import DIMENSION, LENGTH
from vfl.crypto.ot_extension import MASKING, SUM, SUMS, Chooser, Inconsistent, Keeper, column_bytes

RNG = np.random.default_rng(11)


def messages(count, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, 16), dtype=np.uint8)


def sides(seed=0, transcript=(b"seen", b"seen")):
    """(chooser, keeper, the keeper's secret) after base transfers."""
    rng = np.random.default_rng(seed)
    keys = rng.integers(0, 256, (LENGTH, 2, 16), dtype=np.uint8)
    secret = rng.integers(0, 2, LENGTH, dtype=np.uint8)
    chooser = Chooser(keys, transcript[0], rng.bytes)
    return chooser, Keeper(secret, keys[np.arange(LENGTH), secret], transcript[1]), secret


@given(st.lists(st.integers(0, 700), min_size=1, max_size=3), st.integers(0, 2**32))
@settings(max_examples=20)
def test_rows_are_those_of_the_equation(counts, seed):
    chooser, keeper, secret = sides(seed)
    seen = []
    for step, count in enumerate(counts):
        sent = messages(count, seed + step)
        rows, columns, sums = chooser.extend(sent)
        assert (len(columns), len(sums)) == (LENGTH * column_bytes(count), SUMS)
        own = keeper.extend(count, columns, sums)
        assert rows.shape == own.shape == (count, 64)
        # q_i = r_i + s & C(d_i), with the secret as bits.
        bits = np.unpackbits(linear_code.encode(sent), axis=1, bitorder="little")
        masked = np.packbits(bits[:, :LENGTH] & secret, axis=1, bitorder="little")
        assert np.array_equal((rows ^ own)[:, : masked.shape[1]], masked)
        assert not (rows | own)[:, masked.shape[1] :].any()
        assert np.array_equal(keeper.mask(sent), rows ^ own)
        seen.append(columns)
    assert len(set(seen)) == len(seen)


def test_columns_are_the_streams_of_the_keys():
    chooser, _, _ = sides(3)
    keys = np.random.default_rng(3).integers(0, 256, (LENGTH, 2, 16), dtype=np.uint8)
    rows, _, _ = chooser.extend(messages(100))
    size = column_bytes(100)
    stream = Cipher(algorithms.AES128(keys[5, 0].tobytes()), modes.CTR(bytes(16))).encryptor()
    bits = np.unpackbits(np.frombuffer(stream.update(bytes(size)), np.uint8), bitorder="little")
    assert np.array_equal(np.unpackbits(rows, axis=1, bitorder="little")[:, 5], bits[8 * size - 100 :])


@given(st.integers(1, 4), st.integers(1, 20), st.integers(0, 2**32))
@settings(max_examples=20)
def test_a_matrix_is_turned(rows, width, seed):
    bits = np.random.default_rng(seed).integers(0, 256, (64 * rows, 8 * width), dtype=np.uint8)
    turned = ot_extension.transposed(bits)
    both = [np.unpackbits(matrix, axis=1, bitorder="little") for matrix in (turned, bits)]
    assert np.array_equal(both[0], both[1].T)


def test_what_is_sent_hides_the_messages():
    """Fair bits, in the columns and in what the sums say of the messages, whatever these are."""
    ones, runs = np.zeros(8 * DIMENSION * SUM), 60
    for seed in range(runs):
        chooser, _, _ = sides(seed)
        _, columns, sums = chooser.extend(np.zeros((1, 16), np.uint8))
        share = np.unpackbits(np.frombuffer(columns, np.uint8)).mean()
        assert abs(share - 0.5) < 6 * 0.5 / np.sqrt(8 * len(columns))
        ones += np.unpackbits(np.frombuffer(sums[LENGTH * SUM :], np.uint8))
    assert np.abs(ones - runs / 2).max() < 6 * np.sqrt(runs / 4)
    assert abs(ones.mean() / runs - 0.5) < 6 * 0.5 / np.sqrt(ones.size * runs)


# A chooser that deviates.


def changed(data, at, by=1):
    out = bytearray(data)
    out[at] ^= by
    return bytes(out)


def test_the_sums_are_checked():
    """A wrong sum of a message passes in columns where the secret is 0 only: never in all."""
    for at in range(0, SUMS, 701):
        chooser, keeper, _ = sides(at)
        _, columns, sums = chooser.extend(messages(20))
        with pytest.raises(Inconsistent):
            keeper.extend(20, columns, changed(sums, at))


def test_the_transcript_is_bound():
    chooser, keeper, _ = sides(0, (b"seen", b"other"))
    with pytest.raises(Inconsistent):
        keeper.extend(20, *chooser.extend(messages(20))[1:])
    chooser, keeper, _ = sides(0)
    chooser.extend(messages(20))
    with pytest.raises(Inconsistent):  # the second part in place of the first
        keeper.extend(20, *chooser.extend(messages(20))[1:])


class Cheat(Chooser):
    """Adds an error to the columns before the check's keys are drawn, and else does as it should."""

    def extend_with(self, sent, errors):
        original = ot_extension.challenge

        def challenge(transcript, columns):
            columns ^= errors
            return original(transcript, columns)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(ot_extension, "challenge", challenge)
            return self.extend(sent)


def passes(seed, errors, count=20):
    """Whether the check lets errors pass, and the secret."""
    rng = np.random.default_rng(seed)
    keys = rng.integers(0, 256, (LENGTH, 2, 16), dtype=np.uint8)
    secret = rng.integers(0, 2, LENGTH, dtype=np.uint8)
    cheat = Cheat(keys, b"seen", rng.bytes)
    keeper = Keeper(secret, keys[np.arange(LENGTH), secret], b"seen")
    _, columns, sums = cheat.extend_with(messages(count), errors)
    try:
        keeper.extend(count, columns, sums)
    except Inconsistent:
        return False, secret
    return True, secret


def test_an_error_in_a_column_costs_a_guess_of_its_bit():
    """The check cannot see an error where the secret is 0; there it says so, by passing."""
    for column in (0, 100, LENGTH - 1):
        errors = np.zeros((LENGTH, column_bytes(20)), np.uint8)
        errors[column, -1] = 0x80
        outcomes = [passes(seed, errors) for seed in range(24)]
        assert all(passed == (secret[column] == 0) for passed, secret in outcomes)
        assert len({passed for passed, _ in outcomes}) == 2


def test_errors_in_many_columns_never_pass():
    for seed in range(20):
        errors = np.zeros((LENGTH, column_bytes(20)), np.uint8)
        some = np.random.default_rng(seed).permutation(LENGTH)[:60]
        errors[some, MASKING // 8 + seed % 3] = 1 << seed % 8
        assert not passes(seed, errors)[0]


def test_another_word_is_no_error():
    # To add a word of the code in a row is to have another message there; the claim must follow.
    errors = np.zeros((LENGTH, column_bytes(20)), np.uint8)
    word = np.unpackbits(linear_code.encode(messages(1, 5)), bitorder="little")[:LENGTH]
    errors[:, -1] = word << 7
    assert not passes(0, errors)[0]


def test_sums_are_linear_and_depend_on_every_block():
    keys = (bytes(range(16)), bytes(range(16, 32)))
    one, other = (RNG.integers(0, 256, (3, 320), dtype=np.uint8) for _ in range(2))
    sums = ot_extension.linear_hashes
    assert np.array_equal(sums(one, keys) ^ sums(other, keys), sums(one ^ other, keys))
    assert not sums(np.zeros((1, 320), np.uint8), keys).any()
    single = np.zeros((20, 320), np.uint8)
    single[np.arange(20), 16 * np.arange(20)] = 1
    assert len({row.tobytes() for row in sums(single, keys)}) == 20


def test_the_masking_rows_make_any_sum():
    """The first 256 rows map onto the 256 bits of a sum one to one."""
    keys = (bytes(range(16)), bytes(range(16, 32)))
    basis = np.zeros((MASKING, 80), np.uint8)
    basis[np.arange(MASKING), np.arange(MASKING) // 8] = 1 << np.arange(MASKING) % 8
    images = [int.from_bytes(row.tobytes(), "little") for row in ot_extension.linear_hashes(basis, keys)]
    pivots: dict[int, int] = {}
    for image in images:
        while image and (top := image.bit_length()) in pivots:
            image ^= pivots[top]
        if image:
            pivots[image.bit_length()] = image
    assert len(pivots) == MASKING
