"""A key for tests that are not about making one, which takes longer than many of them."""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from unittest import mock

from gmpy2 import mpz

from vfl.crypto.paillier import PrivateKey, PublicKey

_MADE = PrivateKey.generate(2048, random.Random(2050).getrandbits)
KEY = PrivateKey(int(_MADE._p), int(_MADE._q))  # what it draws is random

_by_others = PublicKey._nth_power


def _by_the_owner(key: PublicKey) -> mpz:
    return KEY._obfuscator() if key == KEY.public else _by_others(key)


@contextmanager
def quick_nth_powers() -> Iterator[None]:
    """Whoever lacks the key draws n-th powers as its owner does, in a hundredth of the time: for
    protocols, which do not depend on how they are drawn."""
    with mock.patch.object(PublicKey, "_nth_power", _by_the_owner):
        yield
