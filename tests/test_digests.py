"""Digests of many messages: hashlib's, byte for byte, by whatever way they are computed."""

import hashlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vfl.crypto import blake2b
from vfl.crypto import digests as module
from vfl.crypto.digests import digests


def by_hashlib(ids, rows, count, **named):
    out = []
    for i in range(count):
        message = b"" if rows is None else rows[i].tobytes()
        message += b"" if ids is None else ids[i]
        named_as = {"digest_size": named["size"], "person": named["domain"], "key": named["key"]}
        out.append(hashlib.blake2b(named["prefix"] + message, **named_as).digest())
    return b"".join(out)


@given(
    st.lists(st.binary(max_size=300), min_size=1, max_size=12),
    st.integers(0, 200),
    st.sampled_from(["ids", "rows", "both"]),
    st.binary(max_size=16),
    st.binary(max_size=64),
    st.one_of(st.binary(max_size=300), st.sampled_from([bytes(128), bytes(256)])),
    st.integers(1, 64),
    st.booleans(),
)
@settings(max_examples=60)
def test_they_are_hashlibs(ids, width, what, domain, key, prefix, size, many):
    rows = np.random.default_rng(width).integers(0, 256, (len(ids), width), dtype=np.uint8)
    given_ids, given_rows = (ids if what != "rows" else None), (rows if what != "ids" else None)
    named = {"domain": domain, "key": key, "prefix": prefix, "size": size}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "FEW", 0 if many else 100)
        patch.setattr(module, "MANY", 0)
        found = digests(given_ids, given_rows, **named)
    assert found.shape == (len(ids), size)
    assert found.tobytes() == by_hashlib(given_ids, given_rows, len(ids), **named)


@given(
    st.lists(st.binary(max_size=48), min_size=1, max_size=20),
    st.sampled_from([0, 5, 8, 32, 48]),
    st.binary(max_size=64),
    st.sampled_from([b"", b"odd", bytes(8), bytes(128), bytes(136)]),
    st.integers(1, 64),
)
@settings(max_examples=60)
def test_messages_that_end_within_a_block(ids, width, key, prefix, size):
    """Eight at a time, where none is empty."""
    rows = np.random.default_rng(width).integers(0, 256, (len(ids), width), dtype=np.uint8)
    # A whole block, too: the longest that is taken so.
    ids = [*ids, bytes(128 - width - len(prefix) % 128)]
    rows = np.concatenate([rows, rows[:1]])
    named = {"domain": b"test", "key": key, "prefix": prefix, "size": size}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "FEW", 0)
        patch.setattr(module, "MANY", 0)
        found = digests(ids, rows, **named)
    assert found.tobytes() == by_hashlib(ids, rows, len(ids), **named)


def test_more_than_a_thread_takes(monkeypatch):
    monkeypatch.setattr(module, "MANY", 0)
    ids = [b"%d" % i * (i % 40) for i in range(20_000)]
    named = {"domain": b"test", "key": b"key", "prefix": b"prefix", "size": 32}
    assert digests(ids, **named).tobytes() == by_hashlib(ids, None, len(ids), **named)


def test_rows_of_any_memory():
    rows = np.random.default_rng(1).integers(0, 256, (5000, 64), dtype=np.uint8)
    rows.flags.writeable = False
    found = digests(rows=rows[:, 10:42], domain=b"test")
    assert (
        found[7].tobytes()
        == hashlib.blake2b(rows[7, 10:42].tobytes(), digest_size=32, person=b"test").digest()
    )


def test_none_and_wrong_counts():
    assert digests([], domain=b"test").shape == (0, 32)
    with pytest.raises(ValueError, match="one row for each id"):
        digests([b"a"], np.zeros((2, 3), np.uint8), domain=b"test")


@pytest.mark.parametrize("at_hand", [False, True])
def test_nothing_is_compiled_for_what_hashlib_has_done_sooner(monkeypatch, at_hand):
    called: list[int] = []
    monkeypatch.setattr(blake2b, "digest_last_blocks", lambda *given: called.append(len(given[-1])))
    monkeypatch.setattr(module, "is_at_hand", lambda kernel: at_hand)
    ids = [b"%d" % i for i in range(module.FEW)]
    named = {"domain": b"test", "key": b"", "prefix": b"", "size": 32}
    found = digests(ids, **named)
    if at_hand:
        assert sum(called) == len(ids)
    else:
        assert not called and found.tobytes() == by_hashlib(ids, None, len(ids), **named)


@pytest.mark.parametrize("other", [b"", bytes(129)], ids=["an empty one", "one beyond a block"])
def test_the_kernel_that_is_due_has_to_be_at_hand(monkeypatch, other):
    """One message of many may be what makes another kernel due, which takes seconds to compile."""
    monkeypatch.setattr(module, "is_at_hand", lambda kernel: kernel is blake2b.digest_blocks)
    monkeypatch.setattr(module, "_digests", lambda *given: pytest.fail("compiled"))
    ids = [other, *(b"%d" % i for i in range(module.FEW))]
    named = {"domain": b"test", "key": b"", "prefix": b"", "size": 32}
    assert digests(ids, **named).tobytes() == by_hashlib(ids, None, len(ids), **named)


def test_rows_that_cannot_be_written_to_need_no_kernel_of_their_own(monkeypatch):
    monkeypatch.setattr(module, "FEW", 0)
    monkeypatch.setattr(module, "MANY", 0)
    made = blake2b.digest_blocks.compiled()
    rows = np.arange(64, dtype=np.uint8).reshape(2, 32)
    found, kinds = digests(rows=rows, domain=b"test"), len(made.overloads)
    rows.flags.writeable = False
    assert np.array_equal(digests(rows=rows, domain=b"test"), found)
    assert len(made.overloads) == kinds
