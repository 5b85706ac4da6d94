"""Residuals that nobody sees: formed under the coordinator's key from all parties' encrypted scores.

Steps 2 and 3 of hidden.py, guest and hosts side by side, chunk of rows by chunk:
 logistic: each host sends its encrypted scores; the guest adds them up with its own and the labels.
 poisson: the guest encrypts w e^(its score), each host in turn multiplies its e^(score) in, the guest
 takes w y off.
Then the guest sends the encrypted residuals to the hosts.

Whoever multiplies or adds to another's ciphertexts conceals them anew, since their maker could divide
and find what was done. What conceals them has a place for each gradient and chunk: of two ciphertexts
under one obfuscator anybody could tell the difference of what is in them.
"""

import math
from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from vfl.arrays import Floats
from vfl.crypto.paillier import Ciphertexts, InvalidCiphertext, PublicKey
from vfl.crypto.randomness import Randomness
from vfl.crypto.sums import conceal, times_and_conceal
from vfl.crypto.workers import SharedRows, Workers
from vfl.net.peer import Peer, together
from vfl.net.wire import CIPHERTEXT, MIB, Message
from vfl.protocols.common.histograms import CHUNK
from vfl.protocols.common.rows import Training
from vfl.protocols.linear.masked_numbers import divergence

_FIXED_BITS = 40  # precision of scores and of their exponentials
_FIXED = 2.0**_FIXED_BITS
_LARGEST_BITS = 22  # a score, or its exponential, is below 2^22
_WEIGHT_BITS = 16  # precision of weights relative to the largest


class ScorePart(Message, frozen=True):
    """Either -> either, guest and host. Reveals: nothing to who lacks the key; encrypted scores of
    rows that train (poisson: products of their exponentials)."""

    ciphertexts: bytes
    limit: ClassVar[int] = 4 * MIB
    per_row = ("ciphertexts", CIPHERTEXT)


class HiddenResiduals(Message, frozen=True):
    """guest -> host. Reveals: nothing of a row to who lacks the key; the sum of weights relative to
    the largest one."""

    ciphertexts: bytes
    scale: float
    limit: ClassVar[int] = 4 * MIB
    per_row = ("ciphertexts", CIPHERTEXT)


class _UnderKey:
    """What both sides know of the residuals."""

    def __init__(
        self,
        pool: Workers[PublicKey],
        store: SharedRows,
        quadratic: bool,
        hosts: int,
        randomness: Randomness,
    ) -> None:
        """`store`: where the ciphertexts of the rows that train go. `quadratic`: logistic, whose loss
        is approximated by a quadratic one; else poisson."""
        self.pool, self.store, self.quadratic, self._hosts = pool, store, quadratic, hosts
        self._randomness = randomness.part("residuals")
        self.of_products = randomness.part("products")
        """Of the products of the party's columns with these residuals."""
        self._formed = 0  # residuals of all rows, of which the coordinator leads one after the other

    @property
    def row_bits(self) -> int:
        """Bits of a residual in fixed point: the sum of all scores times a weight, or the product of
        all exponentials."""
        part = _FIXED_BITS + _LARGEST_BITS
        if self.quadratic:
            return part + (self._hosts + 1).bit_length() + _WEIGHT_BITS
        return (self._hosts + 1) * part

    def _secret(self, purpose: str, part: slice) -> bytes | None:
        """What obfuscators of a part of the rows are drawn from, in the present residuals."""
        return self._randomness.key_at(purpose, self._formed, part.start)

    def _parse(self, peer: Peer, message: ScorePart | HiddenResiduals, rows: int) -> Ciphertexts:
        """The ciphertexts of a message, which must be of so many rows."""
        try:
            ciphertexts = self.pool.key.parse(message.ciphertexts)
        except InvalidCiphertext as error:
            raise peer.breach(f"{type(message).__name__} with {error}") from None
        if len(ciphertexts) != rows:
            raise peer.breach(f"{type(message).__name__} of another number of rows")
        return ciphertexts


class GuestResiduals(_UnderKey):
    """The guest forms the residuals from everybody's encrypted scores."""

    def __init__(
        self,
        pool: Workers[PublicKey],
        store: SharedRows,
        hosts: Sequence[Peer],
        rows: Training,
        log_odds: float | None,
        randomness: Randomness,
    ) -> None:
        """`log_odds`: where the log loss's Taylor series is; None for poisson."""
        super().__init__(pool, store, log_odds is not None, len(hosts), randomness)
        self._peers = hosts
        train = rows.train
        self._offset = np.zeros(train.sum()) if rows.offset is None else rows.offset[train]
        share = rows.weight[train] / rows.weight[train].max()
        self._label, self._share = rows.label[train], share
        if log_odds is not None:
            # Of a score of zero, over the curvature.
            self._curvature = curvature_at(log_odds)
            self._residual = (_probability(log_odds) - self._label) / self._curvature - log_odds
        # Equal weights need no multiplication.
        self._weights = (
            np.rint(share * 2.0**_WEIGHT_BITS).astype(np.int64) if (share != 1).any() else None
        )

    async def form(self, score: Floats) -> float:
        """The residuals, at this own part of the scores, go into the store; returns what scales them."""
        self._formed += 1
        score = score + self._offset
        form = self._logistic if self.quadratic else self._poisson
        if self.quadratic:
            total = len(score) if self._weights is None else int(self._weights.sum())
            scale = _FIXED * total / self._curvature
        else:
            scale = _FIXED ** (self._hosts + 1) * float(self._share.sum())
        for first in range(0, len(score), CHUNK):
            part = slice(first, min(first + CHUNK, len(score)))
            ciphertexts = await form(part, score[part])
            self.store.array[part] = ciphertexts
            message = HiddenResiduals(ciphertexts.tobytes(), scale)
            await together([host.send(message) for host in self._peers])
        return scale

    async def _logistic(self, part: slice, score: Floats) -> Ciphertexts:
        """w (score - s + (p - y) / (p (1 - p))) in fixed point: r over the curvature."""
        rows = len(score)
        parts = await together([host.recv(ScorePart) for host in self._peers])
        total = self._parse(self._peers[0], parts[0], rows)
        for host, more in zip(self._peers[1:], parts[1:], strict=True):
            total = self.pool.key.add(total, self._parse(host, more, rows))
        own, secret = _fixed_point(score + self._residual[part]), self._secret("residuals", part)
        if self._weights is None:
            return await times_and_conceal(self.pool, total, None, own, secret)
        weights = self._weights[part].tolist()
        return await times_and_conceal(
            self.pool, total, weights, [w * s for w, s in zip(weights, own, strict=True)], secret
        )

    async def _poisson(self, part: slice, score: Floats) -> Ciphertexts:
        """w (e^score - y) in fixed point; each host multiplies its part in."""
        share, label = self._share[part], self._label[part]
        secret = self._secret("own scores", part)
        ciphertexts = await conceal(self.pool, _fixed_point(share * np.exp(score)), secret)
        for host in self._peers:
            await host.send(ScorePart(ciphertexts.tobytes()))
            ciphertexts = self._parse(host, await host.recv(ScorePart), len(score))
        scale = 1 << _FIXED_BITS * self._hosts
        paid = [-scale * y for y in _fixed_point(share * label)]
        secret = self._secret("residuals", part)
        return await times_and_conceal(self.pool, ciphertexts, None, paid, secret)


class HostResiduals(_UnderKey):
    """A host encrypts its scores, or multiplies their exponentials in."""

    def __init__(
        self,
        pool: Workers[PublicKey],
        store: SharedRows,
        guest: Peer,
        quadratic: bool,
        hosts: int,
        randomness: Randomness,
    ) -> None:
        super().__init__(pool, store, quadratic, hosts, randomness)
        self._guest = guest

    async def form(self, score: Floats) -> float:
        """The residuals that the guest has formed go into the store; returns what scales them."""
        self._formed += 1
        scale = None
        for first in range(0, len(score), CHUNK):
            part = slice(first, min(first + CHUNK, len(score)))
            rows, secret = part.stop - first, self._secret("own scores", part)
            if self.quadratic:
                ciphertexts = await conceal(self.pool, _fixed_point(score[part]), secret)
            else:
                came = self._parse(self._guest, await self._guest.recv(ScorePart), rows)
                factors = _fixed_point(np.exp(score[part]))
                ciphertexts = await times_and_conceal(self.pool, came, factors, [0] * rows, secret)
            await self._guest.send(ScorePart(ciphertexts.tobytes()))
            message = await self._guest.recv(HiddenResiduals)
            self.store.array[part] = self._parse(self._guest, message, rows)
            if not (math.isfinite(message.scale) and message.scale > 0) or scale not in (
                None,
                message.scale,
            ):
                raise self._guest.breach("HiddenResiduals without a scale")
            scale = message.scale
        return scale or 1.0


def _probability(log_odds: float) -> float:
    """Probability of a one, at these log odds."""
    return 1 / (1 + math.exp(-log_odds))


def curvature_at(log_odds: float) -> float:
    """The log loss's second derivative there: p (1 - p), where p is the probability of a one."""
    return _probability(log_odds) * _probability(-log_odds)


def _fixed_point(values: Floats) -> list[int]:
    """Numbers in fixed point. Raises ConfigError for those that are too large."""
    if not np.abs(values).max(initial=0.0) < 2.0**_LARGEST_BITS:
        raise divergence("scores")
    integers: list[int] = np.rint(values * _FIXED).astype(np.int64).tolist()
    return integers
