"""Base transfers without their exponents, for tests of what is built on them.

Both sides send elements of the group, as they should, and refuse what is none. But keys are digests of
what was sent, so that whoever has seen it knows them all.
"""

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from unittest import mock

import numpy as np

from vfl.arrays import Bytes
from vfl.crypto import base_ot, group
from vfl.crypto.randomness import Entropy

_MANY = 1024


@cache
def _elements() -> Bytes:
    return group.hash_to_group([i.to_bytes(2, "big") for i in range(_MANY)], b"tests")


def _drawn(count: int, entropy: Entropy) -> Bytes:
    """Elements, none of them twice."""
    drawn = np.random.default_rng(int.from_bytes(entropy(16), "little"))
    return _elements()[drawn.permutation(_MANY)[:count]]


def _key(context: bytes, number: int, choice: int, choices: Bytes, own: Bytes) -> bytes:
    named = b"%d %d " % (number, choice) + choices.tobytes() + own.tobytes() + context
    return hashlib.blake2b(named, digest_size=base_ot.KEY).digest()


def _joined(keys: Sequence[bytes]) -> Bytes:
    return np.frombuffer(bytearray().join(keys), np.uint8)


class Sender:
    """As `base_ot.Sender`."""

    def __init__(self, count: int, context: bytes, entropy: Entropy) -> None:
        self._context = context
        self.points = _drawn(count, entropy)

    def keys(self, choices: Bytes) -> Bytes:
        base_ot.check(choices.reshape(-1, group.POINT))
        pairs = list(enumerate(zip(choices, self.points, strict=True)))
        keys = [_key(self._context, i, j, sent, own) for i, (sent, own) in pairs for j in (0, 1)]
        return _joined(keys).reshape(-1, 2, base_ot.KEY)


class Receiver:
    """As `base_ot.Receiver`."""

    def __init__(self, chosen: Sequence[int], context: bytes, entropy: Entropy) -> None:
        self._context, self._chosen = context, list(chosen)
        self.points = _drawn(2 * len(self._chosen), entropy).reshape(-1, 2, group.POINT)

    def keys(self, points: Bytes) -> Bytes:
        base_ot.check(points)
        pairs = zip(self._chosen, self.points, points, strict=True)
        keys = [_key(self._context, i, c, sent, other) for i, (c, sent, other) in enumerate(pairs)]
        return _joined(keys).reshape(-1, base_ot.KEY)


@contextmanager
def dealt_transfers() -> Iterator[None]:
    """They take the place of those by exponents, nearly all of the work of an alignment of few ids."""
    with mock.patch.object(base_ot, "Sender", Sender), mock.patch.object(base_ot, "Receiver", Receiver):
        yield
