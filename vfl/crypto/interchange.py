"""To and from `phe`: the same keys and ciphertexts, for who keeps some of either.

The only module that imports `phe`, which is GPL-3; nothing else in the package needs it.
"""

from collections.abc import Sequence

import phe
from gmpy2 import mpz

from vfl.crypto.paillier import Ciphertexts, PrivateKey, PublicKey


def to_phe(key: PublicKey) -> phe.PaillierPublicKey:
    """The same public key."""
    return phe.PaillierPublicKey(int(key.n))


def from_phe(key: phe.PaillierPrivateKey) -> PrivateKey:
    """The same key pair. Raises ValueError for a modulus of a size that is not allowed here."""
    return PrivateKey(key.p, key.q)


def encrypted_numbers(key: PublicKey, ciphertexts: Ciphertexts) -> list[phe.EncryptedNumber]:
    """The ciphertexts as integers of exponent 0."""
    same = to_phe(key)
    return [phe.EncryptedNumber(same, int(c), 0) for c in key.integers(ciphertexts)]


def ciphertexts(key: PublicKey, numbers: Sequence[phe.EncryptedNumber]) -> Ciphertexts:
    """The raw ciphertexts; the exponents are the caller's business. Obfuscates those not yet secure."""
    return key.array([mpz(number.ciphertext(be_secure=True)) for number in numbers])
