"""What a coordinator that opens sums learns beside them, alone and together with a host."""

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from test_lattice import SECRET, SEED, bins_matrix, entropy, plaintext

from vfl.crypto.lattice import answers, parameters
from vfl.crypto.lattice.hint import EncryptedHint, HintKey
from vfl.crypto.lattice.matrix import Accumulator, make_hint
from vfl.crypto.lattice.parameters import Parameters, choose
from vfl.crypto.lattice.vectors import PublicRows, Secrets, VectorEncryption
from vfl.crypto.randomness import Stream

# So many guesses, half of each of two matrices.
GUESSES = 4000


@pytest.fixture(scope="module")
def words() -> tuple[Parameters, NDArray[np.uint64], NDArray[np.uint64], NDArray[np.int64]]:
    """Words as the guest reads them of some vectors; what a host and whoever gets the words make of them
    together, by subtraction of all that the host knows; the sums."""
    matrix, draw = bins_matrix(300, [5, 4]), entropy(3)
    values = np.random.default_rng(1).integers(-15, 16, (4, matrix.rows))
    p = choose(matrix.rows, 6, len(matrix.outputs.starts) - 1, 1 << 16, errors_known=False)
    public = PublicRows(SEED, matrix.rows)
    key, hint = HintKey(p, SEED, SECRET, matrix.digest()), make_hint(matrix, public)
    encrypted = EncryptedHint(p, SEED, key.header())
    for number, part in enumerate(key.encrypt(hint)):
        encrypted.load(number, part)
    drawn = Secrets.draw(len(values), draw)
    products, masks = encrypted.multiply(drawn, draw)
    sums = Accumulator(p, matrix, len(values))
    sums.add(0, VectorEncryption(p, public, drawn, draw).rows(0, values))
    opened = key.open(products, len(values))
    answer = answers.seal(p, sums.result(), opened, draw)
    read = answers.unsealed_words(p, answer, masks)
    # The host: word - answer is u, and what it has opened is hint s + u.
    known = opened.whole + answers.unsealed_words(p, answer, np.zeros_like(masks))
    exact = drawn.values.astype(np.int64).view(np.uint64) @ hint.T
    return p, read, known - exact, plaintext(matrix, values)


def test_a_host_and_the_coordinator_do_not_get_a_hint_times_a_secret(
    words: tuple[Parameters, NDArray[np.uint64], NDArray[np.uint64], NDArray[np.int64]],
) -> None:
    """Of words as they are read they would: 4,096 products to the last bit give the secret away."""
    p, read, expected, sums = words
    assert np.abs((read - expected).view(np.int64)).max() <= 1
    passed = [answers.blurred(p, read, Stream()) for _ in range(100)]
    off = np.array([(one - expected).view(np.int64) for one in passed])
    wide = 2.0 ** (p.scale_bits - 6)
    assert len(np.unique(off)) > 0.99 * off.size
    assert np.abs(off).max() <= wide / 2 + 1 and p.reach == 16 * wide
    assert abs(off.std() / wide - 12**-0.5) < 0.02 and abs(off.mean()) < 0.02 * wide
    for one in passed[:3]:
        assert np.array_equal(answers.rounded(p, one), sums)


@given(rows=st.integers(1, 10**6), value_bits=st.integers(1, 20), seed=st.integers(0, 99))
def test_blurred_words_are_within_a_thirtysecond_of_the_reach(
    rows: int, value_bits: int, seed: int
) -> None:
    p = choose(rows, value_bits, 60, 1000, errors_known=False)
    masked = np.random.default_rng(seed).integers(0, 2**64, (2, 60), np.uint64)
    off = (answers.blurred(p, masked, Stream()) - masked).view(np.int64)
    assert np.abs(off).max() <= p.reach // 32
    # Ten deviations less that are still improbable enough: below 2^-70.
    assert math.erfc((parameters.DEVIATIONS * (1 - 1 / 32)) / math.sqrt(2)) < 2**-70


def guessed_rightly(p: Parameters, matrix: NDArray[np.int64], other: NDArray[np.int64]) -> float:
    """How often who knows two matrices, and all answers of a hint's life but for the sums, says which it
    was; by the likelihood of all answers, which no other way surpasses.

    Answers are Gaussian here, of which their products' sums say all: those are drawn at once.
    """
    draw, size = np.random.default_rng(0), len(matrix)
    variance = (p.noise**2 / p.rows) / p.flood**2  # of an error, in the flooding's
    shapes = [np.eye(size) + variance * one @ one.T for one in (matrix, other)]
    inverses, logs = np.linalg.inv(shapes), np.linalg.slogdet(shapes)[1]
    right = 0
    for guess in range(GUESSES):
        root = np.tril(draw.standard_normal((size, size)), -1)
        np.fill_diagonal(root, np.sqrt(draw.chisquare(p.queries - np.arange(size))))
        root = np.linalg.cholesky(shapes[guess % 2]) @ root
        products = root @ root.T
        likelihood = -(inverses * products).sum(axis=(1, 2)) - p.queries * logs
        right += int(likelihood.argmax()) == guess % 2
    return right / GUESSES


def test_a_coordinator_hardly_sees_which_outputs_share_rows() -> None:
    """Over the whole life of a hint, at parameters that use up what may leak."""
    p = choose(100_000, 13, 16, 1 << 30, least=1, errors_known=False)
    assert p.word_bits < 64 and p.sum_leak > 0.9 * parameters.SUM_LEAK
    draw = np.random.default_rng(5)
    rows = 400  # each for p.rows / 400
    bins = draw.integers(0, 17, rows)
    column = (bins < np.arange(1, 17)[:, np.newaxis]).astype(np.int64)
    some = column[:, draw.permutation(rows)]
    scale = math.sqrt(p.rows / rows)
    mixed = np.concatenate([column[:8], some[8:]])
    every, none = np.ones((16, rows)), np.zeros((16, rows))
    margin = 3 / math.sqrt(GUESSES)  # three deviations of a rate, twice over
    # Two columns or one; a column or nothing; the worst: all rows in every output, or nothing.
    for matrix, other in ((column, mixed), (column, none), (every, none)):
        rate = guessed_rightly(p, scale * matrix, scale * other)
        # Pinsker's inequality for what may leak.
        assert rate < 1 / 2 + math.sqrt(parameters.SUM_LEAK / 2) / 2 + margin
    assert guessed_rightly(p, scale * column, scale * mixed) < 0.53 + margin
    # With a 32nd of the flooding it would.
    assert guessed_rightly(replace(p, flood=p.flood / 32), scale * column, scale * mixed) > 0.9
