"""A key for tests that are not about making one, which takes longer than many of them."""

import random

from vfl.crypto.paillier import PrivateKey

_MADE = PrivateKey.generate(2048, random.Random(2050).getrandbits)
KEY = PrivateKey(int(_MADE._p), int(_MADE._q))  # what it draws is random
