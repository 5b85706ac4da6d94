"""Less work for the lattice engine's hints, for tests of jobs that need few of their products."""

import asyncio
import hashlib
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from unittest import mock
from weakref import WeakKeyDictionary

import numpy as np

from vfl.arrays import Words
from vfl.crypto.lattice.hint import HintKey
from vfl.protocols.common import lattice_hints, lattice_sums
from vfl.protocols.trees import lattice

_encrypt = HintKey.encrypt
_drawn: WeakKeyDictionary[asyncio.AbstractEventLoop, Counter[int]] = WeakKeyDictionary()


@contextmanager
def small_batches(vectors: int = 4) -> Iterator[None]:
    """Batches of so many vectors, where parties make 32 whether they need them or not: which batch a
    product comes from makes no difference to it."""
    with (
        mock.patch.object(lattice_sums, "BATCH", vectors),
        mock.patch.object(lattice, "BATCH", vectors),
    ):
        yield


@contextmanager
def hints_made_once() -> Iterator[None]:
    """What a host would encrypt in every run with the same matrix, it encrypts in the first one.

    For that the shares of the joint seed and the hosts' secrets are those of any run with as many draws
    before: their order is the same, as long as all parties are in one event loop.
    """
    with (
        mock.patch.object(lattice_hints, "_drawn", lambda randomness, what: _token(32)),
        mock.patch.object(HintKey, "encrypt", _encrypt_once),
    ):
        yield


def _token(size: int) -> bytes:
    """The next bytes of this run: no two draws are alike."""
    count = _drawn.setdefault(asyncio.get_running_loop(), Counter())
    count[size] += 1
    return hashlib.shake_256(b"%d" % count[size]).digest(size)


class _Hint:
    """A hint with its key, by which it is found again."""

    def __init__(self, key: HintKey, hint: Words) -> None:
        self.key, self.hint = key, hint
        self._name = key._key + hashlib.sha256(np.ascontiguousarray(hint)).digest()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Hint) and self._name == other._name

    def __hash__(self) -> int:
        return hash(self._name)


@lru_cache(maxsize=8)
def _parts(of: _Hint) -> tuple[bytes, ...]:
    return tuple(_encrypt(of.key, of.hint))


def _encrypt_once(key: HintKey, hint: Words) -> Iterator[bytes]:
    return iter(_parts(_Hint(key, hint)))
