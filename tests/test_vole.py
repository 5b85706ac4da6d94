"""Silent VOLE: the correlation holds, its parts are what they should be, and who deviates is found."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vfl.crypto.vole import bits, code, convolution, field, silent, trees
from vfl.crypto.vole.bits import BitReceiver, BitSender, InconsistentBits
from vfl.crypto.vole.silent import Deviates, SilentReceiver, SilentSender, Size
from vfl.protocols.align.vole_oprf import CHUNK

TRANSCRIPT = b"seen before".ljust(32)
ELEMENTS = st.binary(min_size=16, max_size=16)
ONE = b"\x80" + bytes(15)


def base(seed=0):
    """Both keys of 128 base transfers, the choices, and the chosen keys."""
    draw = np.random.default_rng(seed)
    keys, chosen = draw.integers(0, 256, (128, 2, 16), np.uint8), draw.integers(0, 2, 128, np.uint8)
    return keys, chosen, keys[np.arange(128), chosen]


def rows(count, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, 16), np.uint8)


# The field.


def product(one, other):
    """By the definition, a polynomial's coefficients from the highest bit of the first byte on."""
    a, b = (int(bin(int.from_bytes(x, "big") | 1 << 128)[3:][::-1], 2) for x in (one, other))
    whole = 0
    for k in range(128):
        whole ^= (b << k) * (a >> k & 1)
    for k in range(254, 127, -1):
        whole ^= (0x100000000000000000000000000000087 << (k - 128)) * (whole >> k & 1)
    return int(bin(whole | 1 << 128)[3:][::-1], 2).to_bytes(16, "big")


@settings(max_examples=20)
@given(ELEMENTS, ELEMENTS, ELEMENTS)
def test_products_are_those_of_polynomials(one, other, third):
    assert field.times(one, other) == product(one, other)
    assert field.times(one, ONE) == one
    assert field.Multiples(one).of(other) == product(one, other)
    sums = np.frombuffer(bytearray(third * 2), np.uint8).reshape(2, 16)
    field.Multiples(one).add_to(sums, np.frombuffer(other + ONE, np.uint8).reshape(2, 16))
    assert sums[0].tobytes() == field.added(third, product(one, other))
    assert sums[1].tobytes() == field.added(third, one)


@pytest.mark.parametrize("count", [0, 1, 5])
def test_a_polynomial_is_the_sum_of_powers(count):
    coefficients, key = rows(count), b"0123456789abcdef"
    h = field.block_cipher(key).update(bytes(16))
    total = bytes(16)
    for row in coefficients:
        total = field.times(field.added(total, row.tobytes()), h)
    assert field.polynomial(coefficients, key) == field.times(total, h)


def test_coefficients_are_combined_from_the_highest_bit_of_the_first_byte_on():
    scaled = np.zeros((2, 128, 16), np.uint8)
    factor, chosen = rows(1, seed=3)[0], rows(2, seed=4)
    scaled[np.unpackbits(chosen, axis=1).astype(bool)] = factor
    expected = [product(row.tobytes(), factor.tobytes()) for row in chosen]
    assert [row.tobytes() for row in field.combined(scaled)] == expected


# Correlated bits.


@pytest.mark.parametrize("counts", [[1], [300, 5], [127, 128, 129]])
def test_rows_of_bits_are_shares_of_their_products(counts):
    keys, chosen, kept = base()
    draw = np.random.default_rng(5)
    receiver, sender = BitReceiver(keys, TRANSCRIPT, draw.bytes), BitSender(chosen, kept, TRANSCRIPT)
    secret = np.frombuffer(sender.secret, np.uint8)
    for count in counts:
        own = draw.integers(0, 2, count, np.uint8)
        held, columns, sums = receiver.extend(own)
        assert (sender.extend(count, columns, sums) ^ held == own[:, np.newaxis] * secret).all()
    assert receiver.transcript == sender.transcript != TRANSCRIPT


def extended(change_columns=lambda columns: None, change_sums=lambda sums: None):
    keys, chosen, kept = base()
    _, columns, sums = BitReceiver(keys, TRANSCRIPT, np.random.default_rng(5).bytes).extend(
        np.ones(200, np.uint8)
    )
    columns = np.frombuffer(bytearray(columns), np.uint8).reshape(128, -1)
    sums = np.frombuffer(bytearray(sums), np.uint8).reshape(129, -1)
    change_columns(columns)
    change_sums(sums)
    return chosen, BitSender(chosen, kept, TRANSCRIPT).extend(200, columns.tobytes(), sums.tobytes())


def test_a_receiver_with_other_bits_in_some_columns_is_found_where_they_matter():
    chosen = extended()[0]
    one = int(np.flatnonzero(chosen)[0])

    def flip_one(columns):
        columns[one, 7] ^= 4

    def flip_most(columns):
        columns[:100, -1] ^= 128

    for change in flip_one, flip_most, lambda columns: columns.fill(0):
        with pytest.raises(InconsistentBits):
            extended(change_columns=change)
    for place in (0, 128):
        with pytest.raises(InconsistentBits):
            extended(change_sums=lambda sums, at=place: sums[at].__ixor__(1))


# Trees.


def grown_of(seeds, leaves, keys):
    """The leaves of trees, and the sums of sides."""
    nodes = np.empty((leaves, len(seeds), 16), np.uint8)
    return nodes, trees.grow(seeds, keys, nodes)


@pytest.mark.parametrize("leaves", [1, 2, 3, 5, 8, 13, 64, 100])
def test_whoever_misses_a_leaf_has_all_others(leaves):
    count = 6
    keys = [(bytes([level]) * 16, bytes([level, 255]) * 8) for level in range(trees.levels(leaves))]
    grown, sums = grown_of(rows(count), leaves, keys)
    assert len(np.unique(grown.reshape(-1, 16), axis=0)) == leaves * count
    for missing in {0, leaves // 2, leaves - 1}:
        at = np.full(count, missing)
        at[0] = 0
        side = at >> np.arange(len(keys))[:, np.newaxis] & 1
        told = np.take_along_axis(sums, (1 - side)[:, np.newaxis, :, np.newaxis], axis=1)[:, 0]
        seen = np.empty_like(grown)
        trees.grow_punctured(at, told, keys, seen)
        expected = grown.copy()
        expected[at, np.arange(count)] = 0
        assert np.array_equal(seen, expected)


def test_children_are_those_of_the_definition():
    keys = [(b"a" * 16, b"b" * 16), (b"c" * 16, b"d" * 16)]
    root = rows(1)
    grown, _ = grown_of(root, 4, keys)

    def child(seed, level, side):
        return field.added(field.block_cipher(keys[level][side]).update(seed), seed)

    expected = [child(child(root.tobytes(), 0, i & 1), 1, i >> 1) for i in range(4)]
    assert [leaf.tobytes() for leaf in grown[:, 0]] == expected


def test_leaves_have_as_many_ones_as_zeros():
    keys = [(bytes([level]) * 16, bytes([level, 255]) * 8) for level in range(8)]
    grown, _ = grown_of(rows(64), 256, keys)
    ones = np.unpackbits(grown.reshape(-1, 16), axis=1)
    each, expected = ones.sum(axis=0), len(ones) / 2
    assert np.abs(each - expected).max() < 6 * np.sqrt(expected / 2)
    # And any two bits are equal as often as not.
    alike = (ones[:, :, np.newaxis] == ones[:, np.newaxis, ::16]).sum(axis=0)
    alike = alike[~(np.arange(128)[:, np.newaxis] == np.arange(0, 128, 16))]
    assert np.abs(alike - expected).max() < 6 * np.sqrt(expected / 2)


# The code.

SEED = b"public, 16 bytes"


def compressed(*vectors):
    """G e of each vector, which stay as they are."""
    copies = [vector.copy() for vector in vectors]
    room = np.empty(sum(one.nbytes for one in copies) // 2, np.uint8)
    return code.compress(copies, SEED, room)


def matrix(n):
    """G, a column for each place of a vector, with its bits in the elements' first bit."""
    columns = []
    for place in range(2 * n):
        vector = np.zeros((2 * n, 16), np.uint8)
        vector[place, 0] = 1
        columns.append(compressed(vector)[0][:, 0])
    return np.array(columns).T


def rank(bits_of):
    left, count = [int("".join(map(str, row)), 2) for row in bits_of.tolist()], 0
    while left:
        pivot = max(left)
        left = [row ^ pivot if row ^ pivot < row else row for row in left if row != pivot]
        left = [row for row in left if row]
        count += bool(pivot)
    return count


def test_the_code_is_linear_and_its_words_are_heavy():
    n = 96
    generator = matrix(n)
    assert np.array_equal(generator[:, :n], np.eye(n, dtype=np.uint8))  # systematic
    vectors = rows(2 * n, seed=8)
    expected = np.zeros((n, 16), np.uint8)
    for place in range(2 * n):
        expected ^= generator[:, place, np.newaxis] * vectors[place]
    assert np.array_equal(compressed(vectors)[0], expected)
    other = rows(2 * n, seed=9)
    both = compressed(vectors, other)
    for count in range(3, 8):
        many = compressed(*([vectors, other] * 4)[:count])
        assert all(np.array_equal(one, both[k % 2]) for k, one in enumerate(many))
    assert np.array_equal(both[0], expected)
    assert np.array_equal(both[1], compressed(other)[0])
    # Single rows and their sums by twos: of words of random halves, none of 4,656 weighs below 0.15.
    first, second = np.triu_indices(n, 1)
    weights = np.concatenate([generator.sum(1), (generator[first] ^ generator[second]).sum(1)])
    assert weights.min() > 0.15 * 2 * n
    assert 0.2 < weights.mean() / (2 * n) < 0.3
    assert rank(generator[:, n:]) > 0.9 * n


@pytest.mark.parametrize("size", [1, 3, 25, 26, 200])
def test_the_convolution_is_the_one_of_the_definition(size):
    n = size
    state, chosen = rows(n, seed=9), np.random.default_rng(1).integers(0, 2**32, n, np.uint32)
    for backwards in (False, True):
        order = range(n)[::-1] if backwards else range(n)
        expected = state.copy()
        step = -1 if backwards else 1
        for at in order:
            for back in range(1, convolution.STATE + 2):
                source = at - step * back
                if 0 <= source < n and (back == 1 or chosen[source] >> (back - 2) & 1):
                    expected[at] ^= expected[source]
        convolved, wide = state.copy(), np.zeros((n, 4), np.uint64)
        convolution.convolve(state.view(np.uint64), wide, 2, chosen, backwards)
        assert np.array_equal(wide[:, 2:].copy().view(np.uint8), expected)
        assert not wide[:, :2].any()
        words = convolved.view(np.uint64)
        convolution.convolve(words, words, 0, chosen, backwards)
        assert np.array_equal(convolved, expected)


def test_the_code_does_not_depend_on_how_its_places_are_cut(monkeypatch):
    vector = rows(2 * 3000)
    (whole,) = compressed(vector)
    monkeypatch.setattr(code, "_STEP", 7)
    assert np.array_equal(compressed(vector)[0], whole)


def test_noise_at_which_linear_tests_fail():
    """What docs/protocols.md says: 2^-227 for words of relative weight 1/4, and 2^-128 for 0.15."""
    assert (1 - 0.25) ** silent.TREES < 2**-227
    assert (1 - 0.15) ** silent.TREES < 2**-128
    # And 2^-136 for the lightest words of a whole chunk that stretches without a place lead to.
    outputs = Size(CHUNK).leaves * silent.TREES // 2
    assert (1 - ((2 * STATES + 1) / outputs) ** (1 / code.WEIGHT) / 4) ** silent.TREES < 2**-135


STATES = 2 * (
    convolution.STATE + 1
)  # bits to be zero where a stretch of two convolutions begins or ends


def word_without_stretches(n, weight):
    """A light word of the code, found by outputs that pick no place at either end and about the middle.

    Returns its relative weight, the outputs whose sum it is and the places of these stretches.
    """
    picked = code._stream(SEED, 2, 4 * weight * n).view(np.uint32).reshape(n, weight).astype(np.uint64)
    part = n // code.REGULAR
    places = (picked * np.uint64(n) >> np.uint64(32)).astype(np.int64)
    for k in range(code.REGULAR):
        places[:, k] = (picked[:, k] * np.uint64(part) >> np.uint64(32)) + np.uint64(k * part)

    def stretches(x):
        return np.concatenate([np.arange(x), np.arange(n // 2 - x, n // 2 + x), np.arange(n - x, n)])

    def apart(x):
        silent_there = np.zeros(n, bool)
        silent_there[stretches(x)] = True
        return np.flatnonzero(~silent_there[places].any(axis=1))

    # The longest stretches that leave enough outputs: one more than there are bits to be zero.
    x = next(x for x in range(n // 4, 0, -n // 256) if len(apart(x)) > 2 * STATES)
    outputs = apart(x)[: 2 * STATES + 1]
    # Bit r of a place: what output r alone has there. For rows of G all goes the other way round: each
    # place takes from those to which it would give.
    word = [0] * (n + convolution.STATE + 1)
    for r, output in enumerate(outputs):
        for place in places[output].tolist():
            word[place] ^= 1 << r
    ends = n // 2 - x, n - x, x, n // 2 + x
    zero = []
    for turn in (1, 0):
        bits_of = code._stream(SEED, turn, 4 * n).view(np.uint32).tolist()
        step = -1 if turn else 1
        for at in range(n)[::-step]:
            taken, picks = word[at + step], bits_of[at]
            for k in range(convolution.STATE):
                if picks >> k & 1:
                    taken ^= word[at + step * (k + 2)]
            word[at] ^= taken
        for end in ends[:2] if turn else ends[2:]:
            first = end - convolution.STATE - 1 if turn else end
            zero += word[first : first + convolution.STATE + 1]
    # A sum of outputs for which all of these are zero.
    solved = []
    for row in zero:
        for pivot, other in solved:
            row ^= other if row >> pivot & 1 else 0
        if row:
            pivot = row.bit_length() - 1
            solved = [(p, o ^ row if o >> pivot & 1 else o) for p, o in solved] + [(pivot, row)]
    free = min(set(range(2 * STATES + 1)) - {pivot for pivot, _ in solved})
    chosen = 1 << free | sum(1 << pivot for pivot, other in solved if other >> free & 1)
    ones = sum((at & chosen).bit_count() & 1 for at in word[:n]) + chosen.bit_count()
    return ones / (2 * n), outputs[[chosen >> r & 1 == 1 for r in range(len(outputs))]], stretches(x)


def test_words_that_are_zero_in_long_stretches_are_heavy_enough():
    n = Size(1).leaves * silent.TREES // 2
    light, _, _ = word_without_stretches(n, 7)
    assert light < 0.14  # what an expander of weight 7 would come to: (1 - 0.14)^548 is 2^-119
    weight, outputs, zero = word_without_stretches(n, code.WEIGHT)
    assert weight > 0.19
    # It is a word of the code: noise in the stretches does not show in the sum of the outputs.
    vector = np.zeros((2 * n, 16), np.uint8)
    vector[n + zero] = rows(len(zero), seed=3)
    made = compressed(vector)[0]
    assert made.any()
    assert not np.bitwise_xor.reduce(made[outputs]).any()


def test_words_that_elimination_finds_weigh_a_quarter():
    """Rows of a generator in other systematic forms have about half of their other places."""
    n = 160
    generator, draw = matrix(n), np.random.default_rng(3)
    for _ in range(3):
        words = [
            int("".join(map(str, row)), 2) for row in generator[:, draw.permutation(2 * n)].tolist()
        ]
        for i in range(n):
            pivot = words[i].bit_length() - 1
            words = [w ^ words[i] if k != i and w >> pivot & 1 else w for k, w in enumerate(words)]
        weights = [word.bit_count() / (2 * n) for word in words]
        assert min(weights) > 0.25 - 6 * 0.5 / np.sqrt(2 * n) / np.sqrt(2)
        assert abs(np.mean(weights) - 0.25) < 0.02


# All of it.


def sides(seed=1):
    keys, chosen, kept = base(seed)
    draw = np.random.default_rng(seed)
    return (
        SilentReceiver([keys], [TRANSCRIPT], draw.bytes),
        SilentSender(chosen, kept, TRANSCRIPT, draw.bytes),
    )


@pytest.mark.parametrize("outputs", [[1], [silent.LEAST + 1, 9000]])
def test_the_correlation_holds(outputs):
    receiver, sender = sides()
    seen = []
    for number, wanted in enumerate(outputs):
        size = receiver.size(wanted)
        assert size == sender.size(wanted) == Size(wanted, first=not number)
        [(columns, sums)] = receiver.begin(size)
        assert len(columns) == bits.column_bytes(size.bits) * 128
        said = sender.grow(size, columns, sums)
        assert len(said) == size.sums
        receiver.grow(0, said)
        challenge = receiver.challenge()
        proof = sender.answer(challenge)
        assert (len(challenge), len(proof)) == (silent.CHALLENGE, silent.PROOF)
        receiver.check(0, proof)
        a, [c] = receiver.finish()
        b = sender.finish()
        assert len(a) == len(b) == len(c) >= wanted
        for i in (0, len(a) // 2, len(a) - 1):
            assert field.added(product(a[i].tobytes(), sender.secret), b[i].tobytes()) == c[i].tobytes()
        sender.multiples.add_to(b, a)
        assert np.array_equal(b, c)
        seen += [a.copy(), b.copy(), c.copy()]
    for vector in seen:  # all look random
        assert len(np.unique(vector, axis=0)) == len(vector)
        ones = np.unpackbits(vector).mean()
        assert abs(ones - 0.5) < 6 * 0.5 / np.sqrt(8 * vector.size)


def test_several_senders_share_noise_and_nothing_else():
    """Each has products of a secret of its own; all see the same challenge, and that depends on all."""
    bases = [base(seed) for seed in (1, 2, 3, 4)]
    draw = np.random.default_rng(1)
    seen = [bytes([number]) * 32 for number in range(4)]
    receiver = SilentReceiver([one[0] for one in bases], seen, draw.bytes)
    senders = [
        SilentSender(chosen, kept, one, draw.bytes)
        for (_, chosen, kept), one in zip(bases, seen, strict=True)
    ]
    for _ in range(2):
        size = receiver.size(1)
        sent = receiver.begin(size)
        assert len({columns for columns, _ in sent}) == len({sums for _, sums in sent}) == 4
        for number, (sender, one) in enumerate(zip(senders, sent, strict=True)):
            receiver.grow(number, sender.grow(size, *one))
        challenge = receiver.challenge()
        proofs = [sender.answer(challenge) for sender in senders]
        assert len(set(proofs)) == 4
        for number, proof in enumerate(proofs):
            receiver.check(number, proof)
            with pytest.raises(Deviates):
                receiver.check(number, proofs[number - 1])
        a, each = receiver.finish()
        for sender, c in zip(senders, each, strict=True):
            b = sender.finish()
            sender.multiples.add_to(b, a)
            assert np.array_equal(b, c)


def test_noise_is_one_place_a_tree_and_a_leaf_of_any():
    receiver, _ = sides()
    size = Size(1)
    receiver.begin(size)
    assert len(receiver._missing) == silent.TREES
    drawn = np.concatenate([silent._below(5, np.random.default_rng(s).bytes) for s in range(40)])
    assert np.abs(np.bincount(drawn, minlength=5) - len(drawn) / 5).max() < 6 * np.sqrt(len(drawn) / 5)
    assert drawn.min() >= 0


@pytest.fixture(scope="module")
def begun():
    """A run up to what the sender says of its trees, to be spoilt."""
    receiver, sender = sides()
    size = Size(1)
    [sent] = receiver.begin(size)
    return size, receiver, sender, sender.grow(size, *sent)


def finished(begun, change):
    """The run of `begun` after what the sender said was changed: whether the receiver is content."""
    _, receiver, sender, said = begun
    changed = np.frombuffer(bytearray(said), np.uint8)
    change(changed)
    # A sender that deviates may well know what it sent.
    sender._said = changed.tobytes()
    receiver.grow(0, changed.tobytes())
    proof = sender.answer(receiver.challenge())
    return proof == receiver._senders[0].proof


def test_a_sender_whose_trees_are_inconsistent_is_found(begun):
    size, receiver, _, _ = begun

    def at(level, tree, side):
        def change(said):
            masked = said[: -silent.TREES * 16].reshape(size.levels, silent.TREES, 2, 16)
            masked[level, tree, side, 3] ^= 1

        return change

    def last(said):
        said[-1] ^= 1

    assert finished(begun, lambda said: None)
    for level, tree in ((0, 0), (size.levels // 2, 17), (size.levels - 1, silent.TREES - 1)):
        side = int(receiver._told[level, tree])
        assert not finished(begun, at(level, tree, side))
        # The sum of the other side is not read: a sender that has guessed the side goes on.
        assert finished(begun, at(level, tree, 1 - side))
    assert not finished(begun, last)
    assert not finished(begun, lambda said: said.fill(0))


def test_a_wrong_proof_ends_the_run(begun):
    _, receiver, sender, said = begun
    sender._said = said
    receiver.grow(0, said)
    challenge = receiver.challenge()
    proof = sender.answer(challenge)
    for wrong in (bytes(32), proof[:-1], proof[::-1], b""):
        with pytest.raises(Deviates):
            receiver.check(0, wrong)
    # One that answers another question is as wrong.
    with pytest.raises(Deviates):
        receiver.check(0, sender.answer(challenge[:-1] + bytes([challenge[-1] ^ 1])))
