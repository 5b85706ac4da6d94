"""The oblivious key-value store: what goes in comes out, for every n, and the table looks random."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vfl.crypto import okvs


def random_rows(rng, n, width=16):
    return rng.integers(0, 256, (n, width), dtype=np.uint8)


@given(st.integers(0, 300), st.sampled_from([16, 32]), st.integers(0, 2**32))
@settings(max_examples=60)
def test_values_come_back(n, width, seed):
    rng = np.random.default_rng(seed)
    keys, values = random_rows(rng, n, width), random_rows(rng, n)
    table = okvs.encode(keys, values, b"seed")
    assert table.shape == (okvs.slots(n), 16)
    assert np.array_equal(okvs.decode(table, keys, n, b"seed"), values)
    order = rng.permutation(n)
    assert np.array_equal(okvs.decode(table, keys[order], n, b"seed"), values[order])


@pytest.mark.parametrize("n", [1_000, 100_000])
def test_larger_tables(n):
    rng = np.random.default_rng(n)
    keys, values = random_rows(rng, n), random_rows(rng, n)
    table = okvs.encode(keys, values, b"seed")
    assert np.array_equal(okvs.decode(table, keys, n, b"seed"), values)
    other = okvs.decode(table, random_rows(rng, n), n, b"seed")
    assert not (other == values).all(axis=1).any()
    assert len(table) <= 1.3 * n + 3 * (okvs.SPARE + 1) + okvs.DENSE


def test_a_million():
    rng = np.random.default_rng(1)
    keys, values = random_rows(rng, 1_000_000), random_rows(rng, 1_000_000)
    table = okvs.encode(keys, values, b"seed")
    assert np.array_equal(okvs.decode(table, keys, 1_000_000, b"seed"), values)


def slots_of(key, n, seed):
    """The slots that a key picks, one integer after the other, as the module says."""
    low, block = 2**64 - 1, okvs._block(n, okvs.SHARE)
    words = []
    for salt in okvs._salts(seed).tolist():
        for lane in np.frombuffer(key.tobytes(), "<u8").tolist():
            salt ^= lane
            salt = (salt ^ salt >> 30) * 0xBF58476D1CE4E5B9 & low
            salt = (salt ^ salt >> 27) * 0x94D049BB133111EB & low
            salt ^= salt >> 31
        words.append(salt)
    sparse = [b * block + ((word >> 32) * block >> 32) for b, word in enumerate(words[:3])]
    return sparse + [3 * block + bit for bit in range(64) if words[3] >> bit & 1]


@given(
    st.integers(0, 60), st.sampled_from([8, 16, 64]), st.sampled_from([16, 32]), st.integers(0, 2**32)
)
@settings(max_examples=40)
def test_decoding_is_the_sum_of_slots_of_any_width(n, width, key_width, seed):
    rng = np.random.default_rng(seed)
    table, keys = random_rows(rng, okvs.slots(n), width), random_rows(rng, 9, key_width)
    expected = [np.bitwise_xor.reduce(table[slots_of(key, n, b"seed")]) for key in keys]
    assert np.array_equal(okvs.decode(table, keys, n, b"seed"), expected)


@pytest.mark.parametrize(("n", "tables"), [(1, 2), (70, 3), (10_000, 3), (10_000, 1)])
def test_several_tables_at_once(n, tables):
    """Those that `decode` reads one by one, of keys that the tables were not made for as well."""
    rng = np.random.default_rng(n)
    keys, more = (rng.integers(0, 256, (n, 16), dtype=np.uint8) for _ in range(2))
    of_all = [rng.integers(0, 256, (okvs.slots(n), 16), dtype=np.uint8) for _ in range(tables)]
    asked = np.concatenate([keys, more])
    found = okvs.decode_all(of_all, asked, n, b"seed")
    assert len(found) == tables
    for table, values in zip(of_all, found, strict=True):
        assert np.array_equal(values, okvs.decode(table, asked, n, b"seed"))
    with pytest.raises(ValueError, match="a table for"):
        okvs.decode_all([of_all[0], of_all[0][:-1]], asked, n, b"seed")


def test_more_keys_than_a_thread_takes():
    rng = np.random.default_rng(8)
    table, keys = random_rows(rng, okvs.slots(500), 64), random_rows(rng, 20_000)
    keys.flags.writeable = False
    together = okvs.decode(table, keys, 500, b"seed")
    apart = [okvs.decode(table, keys[i : i + 999], 500, b"seed") for i in range(0, 20_000, 999)]
    assert np.array_equal(together, np.concatenate(apart))


def test_core_is_solved_by_the_dense_part(monkeypatch):
    # Blocks far too small: next to nothing can be peeled, and 40 of the equations hold only dense
    # slots once the others are used up.
    monkeypatch.setattr(okvs, "_block", lambda n, share: 20)
    rng = np.random.default_rng(2)
    for n in (60, 90, 100):
        keys, values = random_rows(rng, n), random_rows(rng, n)
        table = okvs.encode(keys, values, b"seed")
        assert np.array_equal(okvs.decode(table, keys, n, b"seed"), values)


def test_keys_in_the_same_three_slots(monkeypatch):
    monkeypatch.setattr(okvs, "_block", lambda n, share: 1)
    rng = np.random.default_rng(3)
    keys, values = random_rows(rng, 40), random_rows(rng, 40)
    table = okvs.encode(keys, values, b"seed")
    assert np.array_equal(okvs.decode(table, keys, 40, b"seed"), values)


def test_a_key_twice_is_refused():
    rng = np.random.default_rng(4)
    keys, values = random_rows(rng, 50), random_rows(rng, 50)
    keys[31] = keys[7]
    with pytest.raises(okvs.Unsolvable):
        okvs.encode(keys, values, b"seed")


def test_wrong_shapes():
    rows = np.zeros((2, 16), np.uint8)
    with pytest.raises(ValueError, match="values"):
        okvs.encode(rows, rows[:1], b"")
    with pytest.raises(ValueError, match="keys"):
        okvs.encode(rows[:, :5], rows, b"")
    with pytest.raises(ValueError, match="a table for 2 keys"):
        okvs.decode(rows, rows, 2, b"")
    with pytest.raises(ValueError, match="a table for 2 keys"):
        okvs.decode(np.zeros((okvs.slots(2), 12), np.uint8), rows, 2, b"")


def test_seed_matters_and_entropy_fixes_the_table():
    rng = np.random.default_rng(5)
    keys, values = random_rows(rng, 30), random_rows(rng, 30)
    fixed = [okvs.encode(keys, values, b"a", lambda m: b"\7" * m) for _ in range(2)]
    assert np.array_equal(*fixed)
    assert not np.array_equal(okvs.decode(fixed[0], keys, 30, b"b"), values)


def test_table_of_random_values_is_uniform():
    """The bits of many tables for the same keys: fair, and pairwise independent.

    A test of the code, not a proof: it sees a slot left at zero, a pivot written twice, free slots
    that are not filled. Bounds are five standard deviations of fair bits.
    """
    rng = np.random.default_rng(6)
    keys, runs = random_rows(rng, 60), 400
    tables = [okvs.encode(keys, random_rows(rng, 60), b"seed") for _ in range(runs)]
    bits = np.unpackbits(np.stack([table[:, :1].ravel() for table in tables]), axis=1)
    sign = 2.0 * bits - 1
    means = sign.mean(axis=0)
    assert np.abs(means).max() < 5.5 / np.sqrt(runs)
    correlations = sign.T @ sign / runs
    np.fill_diagonal(correlations, 0)
    # About 1.3 million pairs: the largest of so many fair ones stays under 5.6 deviations.
    assert np.abs(correlations).max() < 6.5 / np.sqrt(runs)


def test_table_does_not_tell_its_keys():
    """A guesser who decodes a key of the table and another one sees no difference in the values.

    Values at both must be uniform; what is compared is every bit's mean over many tables.
    """
    rng = np.random.default_rng(7)
    runs, n = 1000, 20
    keys, others = random_rows(rng, n), random_rows(rng, n)
    inside, outside = np.zeros((n, 128)), np.zeros((n, 128))
    for _ in range(runs):
        table = okvs.encode(keys, random_rows(rng, n), b"seed")
        inside += np.unpackbits(okvs.decode(table, keys, n, b"seed"), axis=1)
        outside += np.unpackbits(okvs.decode(table, others, n, b"seed"), axis=1)
    for counts in (inside, outside):
        deviations = (counts - runs / 2) / np.sqrt(runs / 4)
        assert np.abs(deviations).max() < 5.5  # of 2,560 fair counts
        assert abs(deviations.std() - 1) < 0.07


@pytest.mark.parametrize("share", [1250, 1270, okvs.SHARE])
@pytest.mark.parametrize("n", [2, 10, 40, 100, 1000, 3000])
def test_sets_of_keys_whose_slots_cancel_are_rare(n, share):
    """The expected number of such sets, of which 64 dense slots then leave 2^-64: below 0.03."""
    block = okvs._block(n, share)
    odd = np.abs(1 - 2 * np.arange(block + 1) / block)
    ways = np.array([math.log(math.comb(block, j)) for j in range(block + 1)])
    expected = 0.0
    for size in range(2, n + 1, 2):
        with np.errstate(divide="ignore"):
            terms = ways + size * np.log(odd)
        all_even = terms.max() + math.log(np.exp(terms - terms.max()).sum()) - block * math.log(2)
        expected += math.exp(math.log(math.comb(n, size)) + 3 * all_even)
    assert expected < 0.03


@pytest.mark.parametrize("n", [0, 1, 50, 3000])
def test_a_table_with_room_and_another_share_of_slots(n):
    rng = np.random.default_rng(n)
    keys, values = random_rows(rng, n), random_rows(rng, n)
    table = okvs.encode(keys, values, b"seed", room=n + 500, share=1250)
    assert len(table) == okvs.slots(n + 500, 1250) < okvs.slots(n + 500)
    assert np.array_equal(okvs.decode(table, keys, n + 500, b"seed", 1250), values)
    with pytest.raises(ValueError, match="more keys than there is room for"):
        okvs.encode(random_rows(rng, 2), random_rows(rng, 2), b"", room=1)
