"""A key for tests that are not about making one, which takes longer than many of them."""

import random
import secrets
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import cache, lru_cache
from unittest import mock

from gmpy2 import mpz

from vfl.crypto import paillier
from vfl.crypto.paillier import SHORT_EXPONENT, PrivateKey, PublicKey
from vfl.crypto.powers import FixedBase, RandomBits
from vfl.protocols.common import key as key_messages

_MADE = PrivateKey.generate(2048, random.Random(2050).getrandbits)
KEY = PrivateKey(int(_MADE._p), int(_MADE._q))  # what it draws is random

_by_others = PublicKey._nth_powers
_prove, _check = PrivateKey.proof, PublicKey.check_proof
_proof_of = cache(_prove)
_generate = PrivateKey.generate
_until_the_end = ExitStack()
_SHORT = 64  # bits
_held: set[tuple[PublicKey, bytes]] = set()


def _by_the_owner(key: PublicKey, sources: Sequence[RandomBits]) -> list[mpz]:
    if key != KEY.public:
        return _by_others(key, sources)
    drawn = [random_bits(8 * KEY.drawn).to_bytes(KEY.drawn, "little") for random_bits in sources]
    return KEY._obfuscators(drawn)


def _proof(key: PrivateKey) -> bytes:
    return _proof_of(key) if key is KEY else _prove(key)


def _check_once(key: PublicKey, proof: bytes) -> None:
    if (key, proof) not in _held:
        _check(key, proof)
        _held.add((key, proof))


@lru_cache(maxsize=4)
def _powers_of_one(key: PublicKey) -> FixedBase:
    return FixedBase(_by_others(key, [secrets.randbits])[0], key.n_squared, _SHORT)


def _powers_of_one_base(key: PublicKey, sources: Sequence[RandomBits]) -> list[mpz]:
    return _powers_of_one(key).powers([random_bits(_SHORT) for random_bits in sources])


_public_key = lru_cache(maxsize=8)(PublicKey)


def _one_object(n: int, random_bits: RandomBits = secrets.randbits) -> PublicKey:
    return _public_key(n)


def draw_quickly() -> None:
    """From now on in this process: `one_key`, and under any key n-th powers that are powers of one. For
    parties whose own messages are looked at by nobody who could tell."""
    _until_the_end.enter_context(one_key())
    PublicKey._nth_powers = _powers_of_one_base  # type: ignore[method-assign]
    # What is forked from this process has the tables, and knows that the proof holds.
    KEY.warm()
    public = key_messages.PublicKey(int(KEY.public.n))
    public.check_proof(KEY.proof())
    public.conceal(public.encrypt([1]))


@contextmanager
def one_key() -> Iterator[None]:
    """`quick_key`, which is then the key of every job that draws one of its size."""
    with quick_key(), mock.patch.object(PrivateKey, "generate", staticmethod(_made_before)):
        yield


def _made_before(
    bits: int, random_bits: RandomBits = secrets.randbits, full_exponents: bool = False
) -> PrivateKey:
    if bits != KEY.public.bits or full_exponents:
        return _generate(bits, random_bits, full_exponents)
    return KEY


@contextmanager
def quick_key() -> Iterator[None]:
    """Whatever is done with `KEY` is done in less time: for protocols, which do not depend on how their
    numbers come about.

    Obfuscators have exponents of 64 bits, which still makes each another one.
    Its proof is made once, and each proof that holds is checked once. All parties take the same object
    for the public key, so that its tables of powers are made once. Whoever lacks the key draws n-th
    powers as its owner does, in a hundredth of the time.
    """
    with (
        mock.patch.object(PublicKey, "_nth_powers", _by_the_owner),
        mock.patch.object(PrivateKey, "proof", _proof),
        mock.patch.object(PublicKey, "check_proof", _check_once),
        mock.patch.object(key_messages, "PublicKey", _one_object),
        mock.patch.object(paillier, "SHORT_EXPONENT", SHORT_EXPONENT | {2048: _SHORT}),
        # Their tables are for exponents of the usual length.
        mock.patch.object(KEY._at_p, "_base", None),
        mock.patch.object(KEY._at_q, "_base", None),
        mock.patch.object(KEY.public, "_short", None),
    ):
        yield
