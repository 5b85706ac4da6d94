"""Pairs, two numbers of a row in one word: kernels against Python's integers, the whole scheme
at its bounds, what parties see, and parameters."""

import dataclasses
import hashlib
import itertools
import math
from collections import Counter
from fractions import Fraction
from functools import partial
from itertools import product as product_of

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from reference.polynomials import product
from test_lattice import (
    bins_matrix,
    chi_square,
    dense,
    entropy,
    integers_of,
    plaintext,
    primal_cost,
    small_polynomial,
    wide_of,
)
from test_lattice_blocks import Apart

from vfl.arrays import Integers, Words
from vfl.blocks.engine import ENGINE, Array
from vfl.crypto.lattice import answers, parameters, randomness, ring, wide, words
from vfl.crypto.lattice.hint import EncryptedHint, HintKey, Opened
from vfl.crypto.lattice.matrix import Accumulator, CellMatrix, CodedColumn, Outputs, make_hint
from vfl.crypto.lattice.parameters import DEGREE, PAIR, PAIR_WORD, Limbs, Parameters, choose
from vfl.crypto.lattice.vectors import PublicRows, Secrets, VectorEncryption, joined

SEED = bytes(range(32))
SECRET = b"k" * 32
Q = 1 << PAIR.bits
EDGES = [
    base + near
    for base in (0, 2**27, 2**40, 2**41, 2**64, 2**81, 2**82, 2**101, 2**102, 2**127)
    for near in (-1, 0, 1)
    if 0 <= base + near < 2**128
]
numbers = st.sampled_from(EDGES) | st.integers(0, 2**128 - 1)


def pairs_for(rows: int, value_bits: int, outputs: int, queries: int = 100) -> Parameters:
    return choose(rows, value_bits, outputs, queries, words=(PAIR_WORD,))


def public_for(matrix: CellMatrix, limbs: Limbs) -> PublicRows:
    return PublicRows(SEED, matrix.rows, limbs)


def public_row(block: int) -> list[int]:
    drawn = randomness.words(SEED, "rows of pairs", 2 * DEGREE, 2 * block * DEGREE).tolist()
    return [(low + (high << 64)) % Q for low, high in zip(drawn[::2], drawn[1::2], strict=True)]


def loaded(p: Parameters, key: HintKey, hint: Words) -> EncryptedHint:
    encrypted = EncryptedHint(p, SEED, key.header())
    for number, part in enumerate(key.encrypt(hint)):
        encrypted.load(number, part)
    return encrypted


def interleaved(first: Integers, second: Integers) -> Integers:
    return np.stack([first, second], axis=1).reshape(2 * len(first), -1)


# --- arithmetic -------------------------------------------------------------------------------------


@given(numbers, numbers, st.integers(0, 63))
@settings(max_examples=80)
def test_wide_words(x: int, y: int, bits: int) -> None:
    one, other, most = wide_of([x]), wide_of([y]), 2**128
    assert integers_of(wide.plus(one, other)) == [(x + y) % most]
    assert integers_of(wide.minus(one, other)) == [(x - y) % most]
    assert integers_of(wide.left(one, bits)) == [(x << bits) % most]
    assert integers_of(wide.right(one, bits)) == [x >> bits]
    for reduced in (64, 82, 96, 102, 128):
        assert integers_of(wide.reduced(one, reduced)) == [x % 2**reduced]
    for size in (64, 82):
        word, dropped = x % 2**size, max(bits, size - 64)
        exact = word - 2**size if word >= 2 ** (size - 1) else word
        assert wide.signed(one, size, dropped).tolist() == [exact >> dropped]
    assert integers_of(wide.from_bytes(wide.to_bytes(one, 11), 11, (1,))) == [x % 2**88]


def test_integers_as_wide_words() -> None:
    given_ = [-(2**63), -1, 0, 2**63 - 1]
    assert integers_of(wide.of(np.array(given_, np.int64))) == [x % 2**128 for x in given_]
    assert integers_of(wide.of(np.array([2**64 - 1], np.uint64))) == [2**64 - 1]


@pytest.mark.parametrize("limbs", [PAIR.vectors, PAIR.sums, PAIR.hints])
@given(seed=st.integers(0, 2**32), kind=st.integers(0, 2), edges=st.booleans())
@settings(max_examples=4)
def test_products_are_exact(limbs: Limbs, seed: int, kind: int, edges: bool) -> None:
    generator = np.random.default_rng(seed)
    if edges:
        a = [EDGES[k] % 2**limbs.bits for k in generator.integers(0, len(EDGES), DEGREE)]
    else:
        a = [int.from_bytes(generator.bytes(16), "little") % 2**limbs.bits for _ in range(DEGREE)]
    s = small_polynomial(kind, generator)
    made = ring.settle_wide(ring.wide_words(wide_of(a), limbs) * ring.small(s), limbs)
    assert integers_of(made) == product(a, s.tolist(), 1 << limbs.bits)


def test_limbs_are_carried() -> None:
    generator = np.random.default_rng(1)
    limbs = generator.integers(-(2**63), 2**63 - 1, (2, 3, DEGREE))
    expected = [
        sum(int(limbs[p, k, i]) << (28 * k) for k in range(3)) % Q
        for p in range(2)
        for i in range(DEGREE)
    ]
    assert integers_of(ring.carried(limbs, PAIR.sums).reshape(-1, 2)) == expected


@given(st.lists(numbers, min_size=1, max_size=9))
@settings(max_examples=40)
def test_words_on_the_wire(values: list[int]) -> None:
    hints = [x % 2**102 for x in values]
    data = words.pack_hint(wide_of(hints), PAIR)
    expected = [(x + 2**5) % 2**102 >> 6 for x in hints]
    assert len(data) == 12 * len(values)
    read = words.unpack_hint(memoryview(data), PAIR, (len(values),))
    assert integers_of(read) == [x << 6 for x in expected]
    halves = np.array([x % 2**40 for x in values], np.uint64)
    data = words.pack_halves(halves)
    assert words.unpack_halves(memoryview(data), halves.shape).tolist() == halves.tolist()
    for short in (data[1:], data + b"x"):
        with pytest.raises(ValueError, match="bytes"):
            words.unpack_halves(memoryview(short), halves.shape)
    sums = np.array([[x % 2**64 - 2**63, y % 2**64 - 2**63] for x in values for y in values[:2]])
    joined_ = words.joined_halves(sums)
    assert integers_of(joined_[:, 0]) == [4 * (low + (high << 40)) % Q for low, high in sums.tolist()]


# --- vectors, hints, sums ---------------------------------------------------------------------------


def halves_of(word: int) -> list[int]:
    """The top 80 of 82 bits, rounded, halves to even: the lower 40 and the upper."""
    kept, rest = divmod(word, 4)
    kept = (kept + (rest == 3 or (rest == 2 and kept % 2))) % 2**80
    return [kept % 2**40, kept >> 40]


@pytest.mark.parametrize("count", [1, 2, 3, 4, 8, 9])
def test_vectors_side_by_side(count: int) -> None:
    # As many polynomials as are encrypted together, two more, and a last one that is cut.
    blocks = 8 // count if count in (1, 2, 4) else 1
    rows, generator = (blocks + 2) * DEGREE + 7, np.random.default_rng(count)
    p = pairs_for(rows, 9, 4)
    values = generator.integers(-p.largest, p.largest + 1, (count, rows))
    values[:, :2] = -p.largest, p.largest
    draw, again = entropy(2), entropy(2)
    drawn = Secrets.draw(count, draw)
    encryption = VectorEncryption(p, PublicRows(SEED, rows, PAIR.vectors), drawn, draw)
    found = encryption.rows(0, values)
    again(32)
    errors = randomness.errors(again(32), "errors", (blocks + 3) * count * DEGREE)
    errors = errors.reshape(blocks + 3, count, DEGREE)
    expected = b""
    for block in range(blocks + 3):
        own = values[:, block * DEGREE :][:, :DEGREE].tolist()
        made = []
        for v in range(count):
            masked = product(public_row(block), drawn.values[v].tolist(), Q)
            each = zip(masked, errors[block, v].tolist(), own[v], strict=False)
            made.append([halves_of((a + e + (x << p.scale_bits)) % Q) for a, e, x in each])
        expected += words.pack_halves(np.array(made, np.uint64).transpose(1, 0, 2))
    assert found == expected and len(found) == p.rows_bytes(rows, count)


def test_words_are_rounded_without_a_bias() -> None:
    # All rows in one output, nothing but errors and what is cut off in its sum.
    rows, count = 60 * DEGREE, 8
    matrix = CellMatrix(
        [CodedColumn(np.zeros(rows, np.uint8), 1)],
        Outputs(np.array([0, 1]), np.zeros(1, int), np.ones(1, int)),
    )
    p, draw = pairs_for(rows, 6, 1), entropy(5)
    drawn = Secrets.draw(count, draw)
    encryption = VectorEncryption(p, public_for(matrix, PAIR.vectors), drawn, draw)
    sums = Accumulator(p, matrix, count)
    sums.add(0, encryption.rows(0, np.zeros((count, rows), np.int64)))
    hint = integers_of(make_hint(matrix, public_for(matrix, PAIR.sums))[0])
    noise = []
    for v, total in enumerate(integers_of(sums.result()[:, 0])):
        hinted = sum(h * s for h, s in zip(hint, drawn.values[v].tolist(), strict=True))
        own = (total - hinted) % Q
        noise.append(own - Q if own > Q // 2 else own)
    # A bias of half a last bit a row would be 490,000 here.
    assert np.abs(noise).max() < 5 * p.noise < 20_000


def test_hint_and_sums() -> None:
    matrix = bins_matrix(2 * DEGREE + 7, [3, 9])
    entries = dense(matrix)
    found = make_hint(matrix, public_for(matrix, PAIR.sums))
    for row, own in zip(found, entries.tolist(), strict=True):
        expected = [0] * DEGREE
        for block in range(3):
            part = own[block * DEGREE :][:DEGREE]
            inverse = [0] * DEGREE
            for i, entry in enumerate(part):
                inverse[-i % DEGREE] = -entry if i else entry  # X^-i = -X^(4096 - i)
            made = product(public_row(block), inverse, Q)
            expected = [
                x + y for x, y in zip(expected, [made[0], *(-c for c in made[:0:-1])], strict=True)
            ]
        assert integers_of(row) == [x % Q for x in expected]
    p = pairs_for(matrix.rows, 6, len(matrix.outputs))
    halves = np.random.default_rng(2).integers(0, 2**40, (matrix.rows, 3, 2), dtype=np.uint64)
    sums = Accumulator(p, matrix, 3)
    for start in (2 * DEGREE, 0, DEGREE):
        sums.add(start, words.pack_halves(halves[start : start + DEGREE]))
    exact = entries.astype(object) @ (
        4 * (halves[..., 0].astype(object) + (halves[..., 1].astype(object) << 40))
    )
    assert [integers_of(row) for row in sums.result()] == (exact.T % Q).tolist()


def test_values_have_no_hint() -> None:
    column = CodedColumn(np.zeros(10, np.int8), 0)
    matrix = CellMatrix([column], Outputs(np.array([0, 1]), np.zeros(1, int), np.ones(1, int)))
    with pytest.raises(ValueError, match="columns of bins"):
        make_hint(matrix, public_for(matrix, PAIR.sums))


def entries(base: int, values: NDArray[np.int8]) -> Integers:
    own = values.astype(np.int64)
    return np.stack([own * base + (own & 31), -own * base + 5])


def scheme(matrix: CellMatrix, own: Array) -> list[object]:
    p, draw = pairs_for(matrix.rows, 8, len(matrix.outputs)), entropy(3)
    encryption = VectorEncryption(p, public_for(matrix, PAIR.vectors), Secrets.draw(2, draw), draw)
    kernel, sums, pieces = partial(entries, p.base), Accumulator(p, matrix, 2), []
    for start in range(0, matrix.rows, 2 * DEGREE):
        begun = encryption.begin(start, min(start + 2 * DEGREE, matrix.rows), kernel, ENGINE.hold(own))
        pieces.append(joined(p, (part for one in begun for part in one.result())))
        sums.add(start, pieces[-1])
    hint = make_hint(matrix, public_for(matrix, PAIR.sums))
    return [pieces, sums.result().tobytes(), hint.tobytes()]


@pytest.mark.parametrize("size", [1000, 5000])
def test_the_same_words_for_any_blocks_of_rows(size: int) -> None:
    matrix = bins_matrix(3 * DEGREE + 100, [5, 7])
    own = np.random.default_rng(1).integers(-100, 100, matrix.rows).astype(np.int8)
    expected = scheme(matrix, own)
    with ENGINE.instead(Apart(size)):
        codes = ENGINE.hold(np.stack([column.codes for column in matrix.columns]))
        columns = CodedColumn.all_of(codes, [column.bins for column in matrix.columns])
        assert scheme(CellMatrix(columns, matrix.outputs), own) == expected


def test_what_does_not_fit_is_refused() -> None:
    p = pairs_for(DEGREE, 6, 4)
    drawn = Secrets.draw(1, entropy(0))
    with pytest.raises(ValueError, match="another modulus"):
        VectorEncryption(p, PublicRows(SEED, DEGREE), drawn, entropy(0))
    encryption = VectorEncryption(p, PublicRows(SEED, DEGREE, PAIR.vectors), drawn, entropy(0))
    with pytest.raises(ValueError, match="6 bits"):
        encryption.rows(0, np.full((1, DEGREE), p.largest + 1))
    with pytest.raises(ValueError, match="6 bits"):
        encryption.rows(0, np.full((1, DEGREE), -p.largest - 1))
    assert len(encryption.rows(0, np.full((1, DEGREE), p.largest))) == 10 * DEGREE


@pytest.mark.parametrize("distance", [0.26, math.nan])
def test_an_imprecise_product_is_refused(distance: float) -> None:
    public = PublicRows(SEED, DEGREE, PAIR.vectors)
    public.flat(range(1))[5] += distance * DEGREE * DEGREE  # a real part, which is kept
    p = pairs_for(DEGREE, 7, 4)
    encryption = VectorEncryption(p, public, Secrets.draw(1, entropy(0)), entropy(0))
    with pytest.raises(ArithmeticError, match="nearest integer"):
        encryption.rows(0, np.zeros((1, DEGREE), np.int64))


def test_products_are_far_from_a_half(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[float] = []
    monkeypatch.setattr(ring, "check", seen.append)
    matrix = bins_matrix(40 * DEGREE, [1, 32])  # of one bin with all rows: no longer ones in a hint
    p, draw = pairs_for(matrix.rows, 6, len(matrix.outputs)), entropy(1)
    hint = make_hint(matrix, public_for(matrix, PAIR.sums))
    assert max(seen) < 2**-9
    seen.clear()
    encryption = VectorEncryption(p, public_for(matrix, PAIR.vectors), Secrets.draw(8, draw), draw)
    encryption.rows(0, np.zeros((8, matrix.rows), np.int64))
    assert max(seen) < 2**-2.5  # 1.3 million coefficients of each limb; 1/4 is what raises
    seen.clear()
    key = HintKey(p, SEED, SECRET, b"")
    loaded(p, key, hint).multiply(Secrets.draw(16, draw), draw)
    assert max(seen) < 2**-6


# --- the whole scheme -------------------------------------------------------------------------------


def federated(
    p: Parameters, matrix: CellMatrix, first: Integers, second: Integers, seed: int = 0
) -> Integers:
    """What the guest gets."""
    draw, count = entropy(seed), len(first)
    key = HintKey(p, SEED, SECRET, matrix.digest())
    encrypted = loaded(p, key, make_hint(matrix, public_for(matrix, PAIR.sums)))
    drawn = Secrets.draw(count, draw)
    products, masks = encrypted.multiply(drawn, draw)
    encryption = VectorEncryption(p, public_for(matrix, PAIR.vectors), drawn, draw)
    sums = Accumulator(p, matrix, count)
    sums.add(0, encryption.rows(0, first * p.base + second))
    answer = answers.seal(p, sums.result(), key.open(products, count), draw)
    assert len(answer) == p.answer_bytes(count)
    return answers.unseal(p, answer, masks)


@given(
    rows=st.sampled_from([1, 500, DEGREE, 3 * DEGREE + 17]),
    bins=st.lists(st.integers(2, 20), min_size=1, max_size=3),
    count=st.integers(1, 5),
    kind=st.sampled_from(["random", "most", "least", "one row", "none"]),
    value_bits=st.sampled_from([6, 13]),
)
@settings(max_examples=12)
def test_sums_are_exact(rows: int, bins: list[int], count: int, kind: str, value_bits: int) -> None:
    matrix = bins_matrix(rows, bins, seed=rows, running=True)
    p = pairs_for(rows, value_bits, len(matrix.outputs))
    most, generator = (1 << (value_bits - 1)) - 1, np.random.default_rng(count)
    first = generator.integers(-most, most + 1, (count, rows))
    second = generator.integers(0, most + 1, (count, rows))
    if kind in ("most", "least"):
        first[:], second[:] = (most, most) if kind == "most" else (-most, 0)
    if kind in ("one row", "none"):
        first[:, 1:] = second[:, 1:] = 0
    if kind == "none":
        first[:, 0] = second[:, 0] = 0
    found = federated(p, matrix, first, second)
    assert np.array_equal(found, interleaved(plaintext(matrix, first), plaintext(matrix, second)))


def test_a_product_and_its_parts() -> None:
    """What the host opens is the hint times the secret, plus the mask, but for a small part of a bit."""
    matrix = bins_matrix(DEGREE, [6, 5])
    p = pairs_for(matrix.rows, 6, len(matrix.outputs))
    hint = make_hint(matrix, public_for(matrix, PAIR.sums))
    key, drawn = HintKey(p, SEED, SECRET, b""), Secrets.draw(3, entropy(1))
    products, masks = loaded(p, key, hint).multiply(drawn, entropy(2))
    assert len(products) == p.product_bytes(3)
    opened = key.open(products, 3)
    below = randomness.words(entropy(2)(32), "fractions", 3 * p.outputs // 2 + 1).view(np.uint32)
    for v in range(3):
        for o in range(p.outputs):
            hinted = sum(
                h * s for h, s in zip(integers_of(hint[o]), drawn.values[v].tolist(), strict=True)
            )
            mask = integers_of(masks[v, o : o + 1])[0] + Fraction(
                int(below[v * p.outputs + o]) >> 12, 2**20
            )
            found = integers_of(opened.whole[v, o : o + 1])[0] + Fraction(
                int(opened.fraction[v, o]), 2**20
            )
            off = (found - mask - hinted) % Q
            assert min(off, Q - off) < 2**-6


def test_what_is_sent_stays_what_it_is() -> None:
    """Who changes it raises the protocol's number."""
    rows, places = DEGREE + 9, itertools.count()
    columns = [CodedColumn((np.arange(rows) * 7 // 3 % bins).astype(np.uint8), bins) for bins in (6, 5)]
    outputs = np.arange(9)
    matrix = CellMatrix(columns, Outputs(np.arange(10), outputs, np.ones(9, np.int64), running=True))

    def draw(size: int) -> bytes:
        return hashlib.shake_256(bytes([next(places)])).digest(size)

    p = pairs_for(matrix.rows, 6, len(matrix.outputs))
    hint = make_hint(matrix, public_for(matrix, PAIR.sums))
    key, drawn = HintKey(p, SEED, SECRET, matrix.digest()), Secrets.draw(2, draw)
    parts = list(key.encrypt(hint))
    products, _ = loaded(p, key, hint).multiply(drawn, draw)
    encryption = VectorEncryption(p, public_for(matrix, PAIR.vectors), drawn, draw)
    encrypted = encryption.rows(0, np.resize([p.largest, -3, 0, -p.largest], (2, rows)))
    sums = Accumulator(p, matrix, 2)
    sums.add(0, encrypted)
    answer = answers.seal(p, sums.result(), key.open(products, 2), draw)
    sent = [key.header(), b"".join(parts), products, encrypted, answer]
    assert [hashlib.sha256(data).hexdigest()[:16] for data in sent] == [
        "e947e37313930516",
        "2a8f672b777ef33c",
        "b5c18079effb9ce5",
        "c0c401ed7571b27b",
        "f5b6bcc80d0fe0c3",
    ]


def test_answers_that_are_no_sums_are_refused() -> None:
    p = pairs_for(1000, 6, 20)
    masks = np.zeros((2, 20, 2), np.uint64)
    with pytest.raises(ValueError, match="are due"):
        answers.unseal(p, bytes(p.answer_bytes(2) - 1), masks)
    with pytest.raises(ValueError, match="can be"):
        answers.unseal(p, entropy(1)(p.answer_bytes(2)), masks)

    def answer(value: int) -> bytes:
        word = ((value << p.scale_bits) % Q) >> p.drop_bits
        return word.to_bytes(p.answer_size, "little") * 40

    most = p.base - 1
    for first, second in ((most, most), (-most, 0), (-1, 5), (0, 0)):
        found = answers.unseal(p, answer(first * p.base + second), masks)
        assert found[0::2].tolist() == [[first] * 20] * 2 and found[1::2].tolist() == [[second] * 20] * 2
    for beyond in (p.bound + 1, -most * p.base - 1, -p.bound):
        with pytest.raises(ValueError, match="can be"):
            answers.unseal(p, answer(beyond), masks)


def test_a_hint_is_of_one_kind() -> None:
    """Keys and files of the same matrix in both modes have nothing in common."""
    pair, single = pairs_for(1000, 6, 20), choose(1000, 6, 20, 100)
    headers = [HintKey(p, SEED, SECRET, b"same").header() for p in (pair, single)]
    assert headers[0][:32] != headers[1][:32]
    for p, header in zip((single, pair), headers, strict=True):
        with pytest.raises(ValueError, match="header"):
            EncryptedHint(p, SEED, header)


# --- what parties see -------------------------------------------------------------------------------


@pytest.mark.parametrize("value_bits", [6, 13])
def test_noise_and_flooding_are_what_parameters_say(value_bits: int) -> None:
    rows, count = DEGREE, 64
    matrix = CellMatrix(
        [CodedColumn(np.zeros(rows, np.uint8), 1)],
        Outputs(np.arange(41), np.zeros(40, np.int64), np.ones(40, np.int64)),
    )
    p, draw = pairs_for(rows, value_bits, 40, 1000), entropy(value_bits)
    drawn, sums = Secrets.draw(count, draw), Accumulator(p, matrix, count)
    encryption = VectorEncryption(p, public_for(matrix, PAIR.vectors), drawn, draw)
    sums.add(0, encryption.rows(0, np.zeros((count, rows), np.int64)))
    hint = integers_of(make_hint(matrix, public_for(matrix, PAIR.sums))[0])
    products = [
        sum(h * s for h, s in zip(hint, secret, strict=True)) % Q for secret in drawn.values.tolist()
    ]
    hinted = np.repeat(wide_of(products)[:, np.newaxis], 40, axis=1)
    noise = wide.signed(wide.minus(sums.result(), hinted), PAIR.bits, 18) * 2.0**18
    exact = wide.minus(sums.result(), hinted)[:, 0, 0].view(np.int64)
    assert (np.abs(noise) <= 2**18).all()  # 64 samples of a variance: within 40 in the hundred
    assert 0.5 < exact.std() / p.noise < 1.5
    zero = Opened(hinted, np.zeros(hinted.shape[:2], np.uint32))
    read = answers.unsealed_words(p, answers.seal(p, sums.result(), zero, draw), np.zeros_like(hinted))
    flooded = wide.signed(read, PAIR.bits, 18) * 2.0**18
    assert 0.9 < flooded.std() / p.flood < 1.1 and abs(flooded.mean()) < 0.1 * p.flood


def test_what_the_key_adds_is_what_parameters_say() -> None:
    p = pairs_for(1000, 8, 128, 10)
    key, fixed = HintKey(p, SEED, SECRET, b""), b"e" * 32
    encrypted = loaded(p, key, np.zeros((128, DEGREE, 2), np.uint64))
    products, masks = encrypted.multiply(Secrets.draw(16, entropy(0)), lambda n: fixed)
    opened = key.open(products, 16)
    below = randomness.words(fixed, "fractions", 16 * 64).view(np.uint32).reshape(16, 128) >> 12
    whole = wide.minus(opened.whole, masks)[..., 0].view(np.int64)
    shift = whole + (opened.fraction / 2.0**20 - below / 2.0**20)
    # Masks at the top wrap modulo q: whole numbers apart, which is not what the key adds.
    assert 0.8 < float((shift**2).mean()) / parameters.key_shift(PAIR) < 1.2


def test_products_look_alike_whatever_the_secret() -> None:
    # A secret of zeros, and a hint of which the host knows everything: a' and b' are uniform still.
    p = pairs_for(1000, 8, 64, 10)
    encrypted = EncryptedHint(p, SEED, HintKey(p, SEED, SECRET, b"").header())
    for number in range(p.hint_parts):
        encrypted.load(number, bytes(p.hint_part_bytes(number)))
    products, _ = encrypted.multiply(Secrets(np.zeros((8, DEGREE), np.int8)), entropy(1))
    cut = 8 * DEGREE * 12
    for data in (products[:cut], products[cut:]):
        counts = np.bincount(np.frombuffer(data, np.uint8), minlength=256)
        assert chi_square(counts, np.full(256, 1 / 256)) < 5


def test_encrypted_rows_look_alike_whatever_the_values() -> None:
    p = pairs_for(8 * DEGREE, 6, 8)
    for value in (0, p.largest, -p.largest):
        draw = entropy(4)
        encryption = VectorEncryption(
            p, PublicRows(SEED, 8 * DEGREE, PAIR.vectors), Secrets.draw(2, draw), draw
        )
        data = np.frombuffer(encryption.rows(0, np.full((2, 8 * DEGREE), value)), np.uint8)
        # Of the upper 32 bits of halves: halves to even make the last bit of all a zero more often.
        planes = data.reshape(8, -1)[:, : 16 * DEGREE].reshape(-1)
        assert chi_square(np.bincount(planes, minlength=256), np.full(256, 1 / 256)) < 5


# --- hints of no matrix -----------------------------------------------------------------------------

P = pairs_for(1000, 6, 64, 1 << 10)
STEP, REACH = 1 << P.scale_bits, P.reach


def read(word: int) -> int | None:
    """How the guest reads a word of zeros' sums; None if it refuses."""
    try:
        return int(answers.rounded(P, wide_of([word % Q])[np.newaxis])[0, 0])
    except ValueError:
        return None


shifts = st.one_of(
    st.integers(0, Q - 1),
    st.sampled_from(
        [
            base + near
            for base in (
                REACH,
                2 * REACH,
                3 * REACH,
                STEP,
                P.base * STEP,
                Q // 3,
                Q // 2,
                Q // 2 + REACH,
            )
            for near in (-1, 0, 1)
        ]
    ),
    st.integers(-2 * STEP, 2 * STEP),
)


@given(st.lists(shifts, min_size=1, max_size=3))
@settings(max_examples=30)
def test_what_passes_the_trial_tells_nothing_in_later_sums(row: list[int]) -> None:
    """An output off by so much for each of a few coefficients, and every constant that may be added."""
    drawn = {
        tuple(secret): sum(d * s for d, s in zip(row, secret, strict=True)) % Q
        for secret in product_of((-1, 0, 1), repeat=len(row))
    }
    edges = [m + e for m in (0, STEP) for e in (-REACH, 1 - REACH, REACH - 1, REACH)]
    constants = {(edge - word) % Q for word in drawn.values() for edge in edges} | {0}
    outcomes = [[read(c + word) for word in drawn.values()] for c in constants]
    passing = max(one.count(0) for one in outcomes)
    for one in outcomes:
        known = Counter(reading for reading in one if reading is not None)
        assert max(known.values(), default=0) + one.count(None) >= passing
        if len(known) > 1 and len(row) == 1:
            assert passing <= 2


@pytest.mark.parametrize("share", [0.2, 0.25, 1.0])
def test_a_hint_of_small_shifts_is_found_or_tells_nothing(share: float) -> None:
    """One that is off, in each output, by a part of a step for one coefficient of the secret."""
    key = HintKey(P, SEED, SECRET, b"")
    crooked = np.zeros((64, DEGREE, 2), np.uint64)
    crooked[np.arange(64), np.arange(64), 0] = int(share * STEP)
    encrypted, calm = loaded(P, key, crooked), dataclasses.replace(P, flood=0.0)

    def sums(offset: float) -> Integers:
        drawn = Secrets.draw(2, entropy(3))
        products, masks = encrypted.multiply(drawn, entropy(4))
        total = wide.of(np.full((2, 64), int(offset * STEP), np.int64))
        answer = answers.seal(calm, total, key.open(products, 2), entropy(5))
        return answers.unseal(calm, answer, masks, hidden=True)

    passes = 0
    for offset in (0, 0.1, 0.2, 0.24):
        try:
            passes += not sums(offset).any()
        except ValueError:
            continue
    assert bool(passes) == (share < 0.25)
    if passes:
        for offset in (0.3, 0.5, 0.65):
            with pytest.raises(ValueError, match="can be"):
                sums(offset)


# --- parameters -------------------------------------------------------------------------------------


def test_parameters_of_a_large_job() -> None:
    p = pairs_for(1_000_000, 6, 620, 3200)
    assert (p.scale_bits, p.answer_size, p.rows_bytes(1, 1), p.drop_bits) == (31, 8, 10, 18)
    assert p.margin_bits > 13.8 and p.sum_leak < 2**-7 and p.key_leak < 2**-48
    assert 10 * math.hypot(p.noise, p.flood) <= p.reach == 2**29
    assert math.log2(parameters.key_shift(PAIR)) / 2 == pytest.approx(-9.27, abs=0.01)


@given(rows=st.integers(1, 2 * 10**6), outputs=st.integers(1, 10**5), queries=st.integers(1, 10**5))
@settings(max_examples=60)
def test_chosen_parameters_keep_their_promises(rows: int, outputs: int, queries: int) -> None:
    for value_bits in (2, 6, 9, 13):
        try:
            p = pairs_for(rows, value_bits, outputs, queries)
        except ValueError:
            continue
        assert p.pairs and p.modulus == PAIR
        assert p.margin_bits >= parameters.MARGIN_BITS
        assert p.key_leak <= parameters.KEY_LEAK and p.sum_leak <= parameters.SUM_LEAK
        assert 10 * math.hypot(p.noise, p.flood, 2.0**p.drop_bits / math.sqrt(12)) <= p.reach
        assert 4 * p.reach == 1 << p.scale_bits <= 1 << PAIR.vectors.width
        assert (p.bound << p.scale_bits) + (1 << (p.scale_bits - 1)) <= Q // 2
        assert 8 * p.answer_size + p.drop_bits == PAIR.bits
        # Halves of rows, and sums and trial masks as words of 64 bits.
        assert rows << 40 < 2**63 and p.bound < 2**62 and PAIR.bits - p.scale_bits <= 64


@pytest.mark.parametrize(
    ("arguments", "message"),
    [((2_000_000, 7, 600, 3200), "of 82 bits, too few"), ((1 << 23, 6, 600, 10), "take all 82 bits")],
)
def test_unsafe_parameters_are_refused_with_the_numbers(
    arguments: tuple[int, int, int, int], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        pairs_for(*arguments)


def test_security_levels() -> None:
    assert primal_cost(DEGREE, PAIR.bits) > 170
    assert primal_cost(DEGREE, PAIR.hints.bits) > 137
    # A secret of which all but so many coefficients are known hides a vector still.
    assert primal_cost(3100, PAIR.bits) > 128
    assert parameters.security_bits(DEGREE, PAIR.bits) == 128
    assert parameters.security_bits(DEGREE, PAIR.hints.bits) == 128
