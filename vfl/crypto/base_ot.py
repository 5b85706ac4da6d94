"""Oblivious transfers of random keys: the sender has two of each, the receiver the one it chose.

Masny, Rindal, "Endemic Oblivious Transfer" (CCS 2019), the protocol from Diffie-Hellman, over
ristretto255 and written additively; P is the group's base point and H a hash onto the group.

    Sender:    b random; sends B = b P.
    Receiver:  for its choice c: R_(1-c) random, a random, R_c = a P - H(c, R_(1-c));
               sends R_0 and R_1. Its key is KDF(c, a B).
    Sender:    its keys are KDF(j, b (R_j + H(j, R_(1-j)))) for j = 0, 1.

Every transfer has scalars of its own. Against parties of any behaviour, if the computational
Diffie-Hellman problem is hard and H and KDF are random functions: R_0 and R_1 are uniform whatever the
choice, so that the sender learns nothing; the receiver cannot know the logarithms of both sums, since
each is hashed from the other's R. "Endemic": who deviates may influence the keys that it gets itself,
never those it does not get, which is all that an extension needs (`vfl.crypto.ot_extension`).

What the other side sends must be canonical encodings other than the identity; else InvalidPoint. The
hashes include `context`, so that nothing of one run means anything in another.
"""

import hashlib
from collections.abc import Callable, Sequence

import numpy as np

from vfl.arrays import Bytes
from vfl.crypto import group
from vfl.crypto.randomness import Entropy
from vfl.crypto.sodium import rbcl

KEY = 16  # bytes of a key


class Sender:
    """The side that has both keys of each of `count` transfers."""

    def __init__(self, count: int, context: bytes, entropy: Entropy) -> None:
        self._context = context
        self._scalars = [group.random_scalar(entropy) for _ in range(count)]
        self.points = _base_multiples(self._scalars)  # to be sent: (count, 32)

    def keys(self, choices: Bytes) -> Bytes:
        """Both keys of each transfer (count, 2, KEY), from what the receiver sent (count, 2, 32)."""
        check(choices.reshape(-1, group.POINT))
        keys = np.empty((len(self._scalars), 2, KEY), np.uint8)
        for j in (0, 1):
            hashed = _hashed(choices[:, 1 - j], [j] * len(choices), self._context)
            sums = _each(rbcl.crypto_core_ristretto255_add, choices[:, j], hashed)
            shared = _multiples(sums, self._scalars)
            keys[:, j] = _keys(shared, self.points, [j] * len(choices), self._context)
        return keys


class Receiver:
    """The side that gets the key it chose of each transfer. `chosen`: a 0 or 1 for each."""

    def __init__(self, chosen: Sequence[int], context: bytes, entropy: Entropy) -> None:
        count = len(chosen)
        self._context, self._chosen = context, list(chosen)
        self._scalars = [group.random_scalar(entropy) for _ in range(count)]
        uniform = np.frombuffer(bytearray(entropy(group.UNIFORM * count)), np.uint8)
        other = group.from_uniform(uniform.reshape(count, group.UNIFORM))
        known = _base_multiples(self._scalars)
        hashed = _hashed(other, self._chosen, context)
        of_choice = _each(rbcl.crypto_core_ristretto255_sub, known, hashed)
        self.points = np.empty((count, 2, group.POINT), np.uint8)  # to be sent
        for i, c in enumerate(chosen):
            self.points[i, c], self.points[i, 1 - c] = of_choice[i], other[i]

    def keys(self, points: Bytes) -> Bytes:
        """The chosen key of each transfer (count, KEY), from what the sender sent (count, 32)."""
        check(points)
        return _keys(_multiples(points, self._scalars), points, self._chosen, self._context)


def check(points: Bytes) -> None:
    """Raises InvalidPoint for the first row that is no element or is the identity."""
    for i, row in enumerate(points):
        encoded = row.tobytes()
        if not (any(encoded) and rbcl.crypto_core_ristretto255_is_valid_point(encoded)):
            raise group.InvalidPoint(i)


def _base_multiples(scalars: Sequence[bytes]) -> Bytes:
    """P times each scalar."""
    return _joined([rbcl.crypto_scalarmult_ristretto255_base(scalar) for scalar in scalars])


def _multiples(points: Bytes, scalars: Sequence[bytes]) -> Bytes:
    """Each element times its own scalar."""
    products = [group.multiply(points[i : i + 1], scalar) for i, scalar in enumerate(scalars)]
    return np.concatenate(products) if products else np.empty((0, group.POINT), np.uint8)


def _each(operation: Callable[[bytes, bytes], bytes], left: Bytes, right: Bytes) -> Bytes:
    return _joined([operation(a.tobytes(), b.tobytes()) for a, b in zip(left, right, strict=True)])


def _joined(points: Sequence[bytes]) -> Bytes:
    return np.frombuffer(bytearray().join(points), np.uint8).reshape(-1, group.POINT)


def _hashed(points: Bytes, labels: Sequence[int], context: bytes) -> Bytes:
    """H: an element for each transfer, its number, which of the two it is, and the other's R."""
    named = [
        i.to_bytes(4, "big") + bytes([label]) + row.tobytes()
        for i, (label, row) in enumerate(zip(labels, points, strict=True))
    ]
    return group.hash_to_group(named, b"vfl base transfer" + context)


def _keys(shared: Bytes, points: Bytes, labels: Sequence[int], context: bytes) -> Bytes:
    """KDF: a key for each shared element, with the sender's element, the transfer and the choice."""
    prefix = hashlib.blake2b(digest_size=KEY, person=b"vfl base key")
    prefix.update(len(context).to_bytes(8, "big") + context)
    out = bytearray()
    for i, label in enumerate(labels):
        digest = prefix.copy()
        digest.update(i.to_bytes(4, "big") + bytes([label]) + points[i].tobytes() + shared[i].tobytes())
        out += digest.digest()
    return np.frombuffer(out, np.uint8).reshape(-1, KEY)
