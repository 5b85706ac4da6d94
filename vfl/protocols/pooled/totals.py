"""What clients learn together from totals of integers: sums of real numbers, what any of them has, and
whether all have the same.

Each is a part of a total, some words modulo 2^64 of each client; several parts go in one total.

- *Sum of real numbers*, over the rows of all, exact (real_totals.py).
- *What any has.* A client that has it adds a random word, one that has it not 0: the total is 0 if none
  has, else uniform, and tells nothing of how many have (but once in 2^64 times, when it is 0 by chance).
- *The same.* All add a digest; the total has to be the digest times the number of clients.

A total that cannot be is refused. What a server changes is found out before (adding.py); these checks
are for clients that have other settings than the others, or do not follow the protocol.
"""

import hashlib
from collections.abc import Sequence

import numpy as np

from vfl.arrays import Integers, Mask
from vfl.errors import ConfigError, PeerError
from vfl.protocols.pooled.adding import Adder
from vfl.protocols.pooled.real_totals import ExactSum

DIGEST_WORDS = 4


class Totals:
    """The totals of a job, made of parts."""

    def __init__(self, adder: Adder) -> None:
        self._adder = adder

    @property
    def clients(self) -> tuple[str, ...]:
        """Those that the last total is over."""
        return tuple(self._adder.clients)

    async def of(self, parts: Sequence[Integers], what: str) -> list[Integers]:
        """The totals of all parts, each of shape (words,). Raises PeerError for one that cannot be."""
        own = np.concatenate(parts)
        total = await self._adder.total(own, what)
        if total.shape != own.shape or total.dtype != np.int64:
            raise unfit(what, "it has another length than what was added")
        return np.split(total, np.cumsum([len(part) for part in parts])[:-1])

    def flags(self, has: Mask) -> Integers:
        """The part of what this client has, a word an entry."""
        words = np.frombuffer(self._adder.entropy(8 * len(has)), "<i8")
        return np.where(has, words, 0)

    def number(self, exact: ExactSum) -> Integers:
        """The part of a sum of real numbers, SUM_WORDS words."""
        return exact.in_words(self._adder.entropy)

    def same(self, digest: bytes) -> Integers:
        """The part of a digest that all have to have alike, DIGEST_WORDS words."""
        return np.frombuffer(digest_of(digest), "<i8").copy()

    def is_same(self, total: Integers, digest: bytes) -> bool:
        """Whether all have that digest, by the total of `same`."""
        with np.errstate(over="ignore"):
            return np.array_equal(total, self.same(digest) * np.int64(len(self._adder.clients)))


async def check_same(totals: Totals, settings: bytes) -> None:
    """Raises ConfigError where clients have other columns or settings of the model than others."""
    (same,) = await totals.of([totals.same(settings)], "columns and settings")
    if not totals.is_same(same, settings):
        raise ConfigError(
            "the clients' columns, levels or settings of the model differ: compare the job of each",
            for_peer="the clients' columns, levels or settings of the model differ",
        )


def digest_of(*parts: bytes) -> bytes:
    """A digest of 32 bytes."""
    digest = hashlib.blake2b(digest_size=8 * DIGEST_WORDS, person=b"vfl same")
    for part in parts:
        digest.update(len(part).to_bytes(8, "big") + part)
    return digest.digest()


def unfit(what: str, why: str) -> PeerError:
    """The error for a total that cannot be; nobody can know who made it so."""
    return PeerError(
        f"the server or another client broke the protocol: the total of {what} cannot be, {why}",
        for_peer="the server or a client broke the protocol with a total that cannot be",
    )
