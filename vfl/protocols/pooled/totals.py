"""What clients learn together from totals of integers: sums of real numbers, what any of them has, and
whether all have the same.

Each is a part of a total, some words modulo 2^64 of each client; several parts go in one total.

- *Sum of real numbers.* Every float64 is a whole multiple of 2^-1152, so their sum is a whole number of
  2240 bits, exact whatever the order: the same however rows lie at clients. It goes in digits of 32
  bits. What digits carry is blurred, so that the total tells the sum and hardly anything more: a carry
  shows once in some 2^20 / clients times.
- *What any has.* A client that has it adds a random word, one that has it not 0: the total is 0 if none
  has, else uniform, and tells nothing of how many have (but once in 2^64 times, when it is 0 by chance).
- *The same.* All add a digest; the total has to be the digest times the number of clients.

A total that cannot be is refused. What a server changes is found out before (adding.py); these checks
are for clients that have other settings than the others, or do not follow the protocol.
"""

import hashlib
import secrets
from collections.abc import Callable, Sequence

import numpy as np

from vfl.arrays import Floats, Integers, Mask
from vfl.errors import ConfigError, PeerError
from vfl.protocols.pooled.adding import Adder

Entropy = Callable[[int], bytes]

_DIGIT = 32  # bits
_DIGITS = 70
_UNIT = 1152  # the least float64 that frexp takes apart is a whole multiple of 2^-1126
_BLUR = 20  # bits of what is carried at random; 2^11 clients stay within a word
_MODULUS = 1 << _DIGIT * _DIGITS
SUM_WORDS = _DIGITS + 1
DIGEST_WORDS = 4


class Totals:
    """The totals of a job, made of parts."""

    def __init__(self, adder: Adder, entropy: Entropy = secrets.token_bytes) -> None:
        self._adder, self._entropy = adder, entropy

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
        words = np.frombuffer(self._entropy(8 * len(has)), "<i8")
        return np.where(has, words, 0)

    def number(self, exact: "ExactSum") -> Integers:
        """The part of a sum of real numbers, SUM_WORDS words."""
        digits = np.frombuffer((exact.units % _MODULUS).to_bytes(_DIGIT // 8 * _DIGITS, "little"), "<u4")
        words = digits.astype(np.int64)
        blur = np.frombuffer(self._entropy(8 * (_DIGITS - 1)), "<u8") >> np.uint64(64 - _BLUR)
        words[:-1] += blur.astype(np.int64) << _DIGIT
        words[1:] -= blur.astype(np.int64)
        return np.append(words, self.flags(np.array([not exact.finite])))

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


class ExactSum:
    """The exact sum of real numbers, as a whole number of units of 2^-1152."""

    def __init__(self, values: Floats) -> None:
        self.finite = bool(np.isfinite(values).all())
        """Whether all of them are; the sum is 0 otherwise."""
        self.units = _units(values) if self.finite else 0


def _units(values: Floats) -> int:
    mantissa, exponent = np.frexp(values)
    whole = (mantissa * 2.0**53).astype(np.int64)
    places = exponent.astype(np.int64) + (_UNIT - 53)
    # By place, in two halves: each sum stays within 63 bits for 2^31 numbers.
    halves = np.zeros((2, int(places.max(initial=0)) + 1), np.int64)
    np.add.at(halves[0], places, whole & 0xFFFFFFFF)
    np.add.at(halves[1], places, whole >> 32)
    used = np.flatnonzero(halves.any(axis=0)).tolist()
    return sum((int(halves[0, at]) + (int(halves[1, at]) << 32)) << at for at in used)


def number_of(total: Integers) -> float:
    """The float64 next to a sum, by the total of `Totals.number`; NaN where a number was not finite."""
    if total[-1]:
        return float("nan")
    units = sum(digit << _DIGIT * i for i, digit in enumerate(total[:-1].tolist())) % _MODULUS
    if units >= _MODULUS // 2:
        units -= _MODULUS
    try:
        return float(units / (1 << _UNIT))
    except OverflowError:
        return float("nan")


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
