"""Random numbers by purpose and place: the same in whatever order, none twice, uniform."""

import hashlib
from collections import Counter

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from vfl.crypto.randomness import OF_SYSTEM, Randomness, Stream

SECRET = bytes(range(32))


def test_a_stream_is_that_of_its_purpose_and_place() -> None:
    """Against the definition, written out with the libraries' functions."""
    parts = (b"w", b"stream"), (b"s", b"masks"), (b"i", b"3"), (b"s", b"bureau"), (b"b", b"\x00\xff")
    text = b"".join(kind + len(part).to_bytes(8, "big") + part for kind, part in parts)
    key = hashlib.blake2b(text, key=SECRET, digest_size=32, person=b"vfl randomness").digest()
    cipher = Cipher(algorithms.AES(key), modes.CTR(bytes(16))).encryptor()
    stream = Randomness(SECRET).at("masks", 3, "bureau", b"\x00\xff")
    assert stream(5) + stream(100) == cipher.update(bytes(105))


def test_the_order_in_which_streams_are_asked_for_changes_nothing() -> None:
    places = [(tree, peer) for tree in range(5) for peer in ("bureau", "registry")]
    one, other = Randomness(SECRET), Randomness(SECRET)
    drawn = {place: one.at("shuffle", *place)(32) for place in places}
    assert {place: other.at("shuffle", *place)(32) for place in reversed(places)} == drawn
    assert len({*drawn.values()}) == len(places)


def test_what_is_written_alike_is_another_place() -> None:
    of_run = Randomness(SECRET)
    keys = [
        of_run.key_at("masks", 1, 23),
        of_run.key_at("masks", 12, 3),
        of_run.key_at("masks", "12", 3),
        of_run.key_at("masks", b"12", 3),
        of_run.key_at("masks1", 23),
        of_run.key_at("masks"),
        of_run.part("masks", 1).key_at("masks", 23),
        Randomness(SECRET[::-1]).key_at("masks", 1, 23),
    ]
    assert len({*keys}) == len(keys)


def test_no_stream_serves_twice() -> None:
    of_run = Randomness(SECRET)
    of_run.at("masks", 7, "bureau")
    with pytest.raises(AssertionError, match=r"^random numbers for masks at 7, bureau that were drawn"):
        of_run.at("masks", 7, "bureau")
    of_run.part("linear", 1)
    with pytest.raises(AssertionError, match="linear"):
        of_run.part("linear", 1)
    OF_SYSTEM.at("masks")
    assert OF_SYSTEM.at("masks")(16) != OF_SYSTEM.at("masks")(16)


def test_numbers_are_uniform() -> None:
    """Counts within five deviations; the streams are the same in every run."""
    stream, draws = Randomness(SECRET).at("numbers"), 6000
    for bound in (1, 2, 3, 6):
        counts = Counter(stream.below(bound) for _ in range(draws))
        assert {*counts} == {*range(bound)}
        deviation = (draws * (bound - 1)) ** 0.5 / bound
        assert all(abs(count - draws / bound) <= 5 * deviation for count in counts.values())
    orders: Counter[tuple[int, ...]] = Counter()
    for _ in range(draws):
        items = [0, 1, 2]
        stream.shuffle(items)
        orders[(*items,)] += 1
    assert len(orders) == 6
    assert all(abs(count - draws / 6) <= 5 * (draws * 5) ** 0.5 / 6 for count in orders.values())
    ones = np.unpackbits(stream.words((draws // 64, 1)).view(np.uint8)).sum()
    assert abs(int(ones) - draws // 64 * 32) <= 5 * (draws // 64 * 16) ** 0.5


def test_the_size_of_numbers() -> None:
    stream = Stream(SECRET)
    assert all(stream.bits(count) < 1 << count for count in (0, 1, 7, 8, 9, 64, 1000))
    assert max(stream.bits(3) for _ in range(200)) == 7
    with pytest.raises(ValueError, match="below 0"):
        stream.below(0)
    with pytest.raises(ValueError, match="31 bytes"):
        Randomness(bytes(31))
