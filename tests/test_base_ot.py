"""Base transfers: the receiver gets the key it chose, and nobody else's message passes."""

import hashlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vfl.crypto import base_ot, group

CONTEXT = b"run and host"


def entropy(seed):
    """Random bytes that a seed fixes."""
    drawn = np.random.default_rng(seed)
    return drawn.bytes


def run(chosen, context=(CONTEXT, CONTEXT), seed=0):
    sender = base_ot.Sender(len(chosen), context[0], entropy(seed))
    receiver = base_ot.Receiver(chosen, context[1], entropy(seed + 1))
    return sender.keys(receiver.points), receiver.keys(sender.points)


@given(st.lists(st.integers(0, 1), max_size=8), st.integers(0, 2**32))
@settings(max_examples=25)
def test_the_receiver_has_the_key_it_chose(chosen, seed):
    both, own = run(chosen, seed=seed)
    assert both.shape == (len(chosen), 2, base_ot.KEY)
    for i, c in enumerate(chosen):
        assert np.array_equal(own[i], both[i, c])
        assert not np.array_equal(own[i], both[i, 1 - c])
    assert len({key.tobytes() for key in both.reshape(-1, base_ot.KEY)}) == 2 * len(chosen)


def test_runs_of_different_contexts_share_no_key():
    both, own = run([0, 1], context=(b"a", b"b"))
    assert not (both == own[:, np.newaxis]).all(axis=2).any()


def test_what_is_sent_does_not_tell_the_choice():
    # Both elements of either choice are valid, distinct, and of fair bits over many transfers.
    ones = np.zeros((2, 2, 256))
    runs = 500
    for c in (0, 1):
        points = base_ot.Receiver([c] * runs, CONTEXT, entropy(c)).points
        base_ot.check(points.reshape(-1, 32))
        assert len({row.tobytes() for row in points.reshape(-1, 32)}) == 2 * runs
        ones[c] = np.unpackbits(points, axis=2, bitorder="little").sum(axis=0)
    free = np.r_[1:255]  # an encoding is even and below 2^255
    assert np.abs(ones[:, :, free] - runs / 2).max() < 5.5 * np.sqrt(runs / 4)


INVALID = [bytes(32), b"\xff" * 32, b"\1" + bytes(31)]  # the identity, not canonical, negative


@pytest.mark.parametrize("bad", INVALID)
def test_invalid_elements_are_refused(bad):
    sender = base_ot.Sender(3, CONTEXT, entropy(1))
    receiver = base_ot.Receiver([0, 1, 1], CONTEXT, entropy(2))
    for side in (0, 1):
        points = receiver.points.copy()
        points[1, side] = np.frombuffer(bad, np.uint8)
        with pytest.raises(group.InvalidPoint):
            sender.keys(points)
    points = sender.points.copy()
    points[2] = np.frombuffer(bad, np.uint8)
    with pytest.raises(group.InvalidPoint) as failed:
        receiver.keys(points)
    assert failed.value.index == 2


def test_a_sum_that_is_the_identity_is_refused():
    # R_0 = -H(0, R_1): the sender's key of that choice would be known to all.
    sender = base_ot.Sender(1, CONTEXT, entropy(1))
    other = group.hash_to_group([b"any"], CONTEXT)
    hashed = base_ot._hashed(other, [0], CONTEXT)
    minus_one = (group.ORDER - 1).to_bytes(32, "little")
    points = np.stack([group.multiply(hashed, minus_one), other], axis=1)
    with pytest.raises(group.InvalidPoint):
        sender.keys(points)


def test_keys_are_of_the_paper():
    """Masny and Rindal's equations, one transfer after the other."""
    chosen = [0, 1, 1, 0]
    sender = base_ot.Sender(4, CONTEXT, entropy(5))
    receiver = base_ot.Receiver(chosen, CONTEXT, entropy(6))
    both = sender.keys(receiver.points)
    for i in range(4):
        for j in (0, 1):
            other = receiver.points[i, 1 - j]
            named = i.to_bytes(4, "big") + bytes([j]) + other.tobytes()
            hashed = group.hash_to_group([named], b"vfl base transfer" + CONTEXT)
            scalar = sender._scalars[i]
            shared = base_ot._each(
                base_ot.rbcl.crypto_core_ristretto255_add,
                group.multiply(receiver.points[i, j : j + 1], scalar),
                group.multiply(hashed, scalar),
            )
            digest = hashlib.blake2b(digest_size=16, person=b"vfl base key")
            digest.update(len(CONTEXT).to_bytes(8, "big") + CONTEXT + i.to_bytes(4, "big") + bytes([j]))
            digest.update(sender.points[i].tobytes() + shared.tobytes())
            assert digest.digest() == both[i, j].tobytes()
