"""Vector oblivious linear evaluation over GF(2^128): c = a D + b, shared by two sides.

The receiver gets random vectors a and c, the sender has D and gets b. With several senders, each of
which has a D and gets a b of its own, the receiver has a c of each and the same a.

Silent: many of it come from few transfers and short messages. Boyle, Couteau, Gilboa, Ishai (CCS 2018)
and others (CCS 2019); checked as in Weng, Yang, Katz, Wang, "Wolverine" (S&P 2021), after Yang, Weng,
Lan, Zhang, Wang, "Ferret" (CCS 2020). For n outputs:

  1. Correlated bits (`bits`) with the sender's secret D: for each of t trees one a level, which are
     transfers, and the first time t + 1 times 128 more, which as coefficients of x^0 to x^127 make
     products a_k D of random a_k as shares. Later the last outputs of the time before are these.
  2. The sender grows t trees (`trees`) of 2 n / t leaves, which are the vector w, and sends by level the
     sums of both sides, each under one key of a transfer; the receiver gets those that leave out a leaf
     of its choice. For each tree the sender also sends its share of a_k D plus the sum of all leaves. So
     the receiver has z = w + e D, where e has a_k at the leaf left out of tree k and is zero elsewhere.
  3. The check. The receiver sends h, drawn anew, and x' = x + the sum of e_i h^i, where x is the last
     a, and the sender answers a hash of the sum of w_i h^i + its share of x D + x' D, which the receiver
     can compute from z if and only if z = w + e D (but with 2 n / 2^128).
  4. Both compress (`code`): a = G e, c = G z, b = G w.

What holds it up. Step 1 is sound against parties of any behaviour. A sender that deviates in step 2 can
make the check depend on where the receiver's leaves lie: each bit that it asks for so is a guess, and a
wrong one ends the run before the receiver has sent anything under a. (LPN with such guesses right is no
easier than to guess the bits.) A receiver that deviates in step 3 gets a hash of what it could compute
only if it knew D. To the sender a looks random by LPN (so do the noise's elements from the second time
on), to the receiver D by the transfers and the trees.

Several senders. The receiver has the same a_k, places of noise, h and x' with all of them, and draws h
when the trees of all are there; keys of transfers, trees and the masks of the bits' check are each one's
own. So the senders together see a's noise hidden by several transfers of the same choices, one mask x'
of it, and nothing else that depends on it. What they ask by trees that deviate is about the same noise,
and a wrong guess of any of them ends the run with all. (With x' of a different h for each they would
have equations of the noise.) docs/protocols.md says the same of what is sent under a.

548 places of noise: `code` says how hard it is to find them, docs/protocols.md more.
"""

import hashlib
import hmac
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from vfl.arrays import Bytes, Integers
from vfl.crypto.digests import digests
from vfl.crypto.randomness import Entropy
from vfl.crypto.vole import bits, code, field, trees
from vfl.crypto.vole.bits import BitReceiver, BitSender
from vfl.crypto.vole.field import ELEMENT

TREES = 548  # places of noise
KEPT = TREES + 1  # products that each time takes
LEAST = 8192  # outputs, so that each tree has some leaves to choose from
PROOF = 32
CHALLENGE = 2 * ELEMENT


@dataclass(frozen=True)
class Size:
    """How many outputs are made at a time, and what that takes."""

    outputs: int
    """Beside those for the next time; a few more may be made."""
    first: bool = True
    """Whether nothing is left of a time before."""

    @property
    def leaves(self) -> int:
        """Leaves of a tree: an even number of them in all."""
        return -(-2 * max(self.outputs + KEPT, LEAST) // TREES)

    @property
    def levels(self) -> int:
        return trees.levels(self.leaves)

    @property
    def bits(self) -> int:
        """Correlated bits."""
        return TREES * self.levels + (8 * ELEMENT * KEPT if self.first else 0)

    @property
    def sums(self) -> int:
        """Bytes that the sender sends about its trees."""
        return ELEMENT * TREES * (2 * self.levels + 1)


class Deviates(ValueError):
    """The other side's trees are not what they should be."""


class SilentReceiver:
    """The side that gets a and, of each of several senders, c: its noise, a and h are the same with all.

    keys: by sender, both keys of 128 base transfers (128, 2, 16).
    """

    def __init__(self, keys: Sequence[Bytes], transcripts: Sequence[bytes], entropy: Entropy) -> None:
        """`transcripts`: what both sides have seen before, hashed, by sender."""
        self._senders = [
            _OneSender(BitReceiver(*each, entropy)) for each in zip(keys, transcripts, strict=True)
        ]
        self._entropy, self._rooms = entropy, _Rooms(1 + len(keys))
        self._factors = np.empty((0, ELEMENT), np.uint8)

    def size(self, outputs: int) -> Size:
        """Of so many outputs, this time."""
        return Size(outputs, not len(self._factors))

    def begin(self, size: Size) -> list[tuple[bytes, bytes]]:
        """1. Columns and sums, to be sent to each."""
        self._size = size
        self._missing = _below(size.leaves, self._entropy)
        # Of both sides of a level it is told the sum of the one where the missing leaf does not lie.
        self._told = (1 - (self._missing >> np.arange(size.levels)[:, np.newaxis] & 1)).astype(np.uint8)
        chosen = self._told.ravel()
        if size.first:
            drawn = np.frombuffer(bytearray(self._entropy(ELEMENT * KEPT)), np.uint8)
            self._factors = drawn.reshape(KEPT, ELEMENT)
            # Coefficients of x^0, x^1, ... are the highest bits first.
            chosen = np.concatenate([chosen, np.unpackbits(drawn)])
        (noise, *vectors), self._room = self._rooms.of(size)
        noise[:] = 0
        noise[self._missing, np.arange(TREES)] = self._factors[:TREES]
        self._noise, self._vectors = noise, vectors
        return [sender.begin(chosen, size) for sender in self._senders]

    def grow(self, number: int, told: bytes) -> None:
        """2. From what a sender said of its trees; different senders' may be done at the same time."""
        sender, size, vector = self._senders[number], self._size, self._vectors[number]
        said = np.frombuffer(told, np.uint8)
        masked = said[: -TREES * ELEMENT].reshape(size.levels, TREES, 2, ELEMENT)
        level, tree = np.ogrid[: size.levels, :TREES]
        bound = sender.bits.transcript
        sums = masked[level, tree, self._told] ^ _pads(sender.keys, bound)
        trees.grow_punctured(self._missing, sums, _tree_keys(bound, size), vector)
        last = said[-TREES * ELEMENT :].reshape(TREES, ELEMENT)
        vector[self._missing, np.arange(TREES)] = (
            np.bitwise_xor.reduce(vector.view(np.uint64), axis=0).view(np.uint8)
            ^ last
            ^ sender.shares[:TREES]
        )
        sender.said = told

    def challenge(self) -> bytes:
        """3. h and x', to be sent to each, once the trees of all are there."""
        key = self._entropy(ELEMENT)
        noise = self._noise.reshape(-1, ELEMENT)
        factor = field.added(self._factors[TREES].tobytes(), field.polynomial(noise, key))
        for sender, vector in zip(self._senders, self._vectors, strict=True):
            polynomial = field.polynomial(vector.reshape(-1, ELEMENT), key)
            expected = field.added(sender.shares[TREES].tobytes(), polynomial)
            sender.proof = _proof(expected, sender.bits.transcript, sender.said, key + factor)
        self._seed = _code_seed(key)
        return key + factor

    def check(self, number: int, proof: bytes) -> None:
        """3. Raises Deviates where a sender's proof is wrong."""
        if not hmac.compare_digest(proof, self._senders[number].proof):
            raise Deviates("the trees are not those of one seed each")

    def finish(self) -> tuple[Bytes, list[Bytes]]:
        """4. a and each sender's c, (n, 16) each, until the next time begins; proofs were checked."""
        vectors = [one.reshape(-1, ELEMENT) for one in (self._noise, *self._vectors)]
        a, *each = code.compress(vectors, self._seed, self._room)
        self._factors = a[-KEPT:].copy()
        for sender, c in zip(self._senders, each, strict=True):
            sender.shares = c[-KEPT:].copy()
        return a[:-KEPT], [c[:-KEPT] for c in each]


class _OneSender:
    """What the receiver has with one sender."""

    def __init__(self, bits: BitReceiver) -> None:
        self.bits = bits
        self.shares = np.empty((0, ELEMENT), np.uint8)
        self.said = self.proof = b""

    def begin(self, chosen: Bytes, size: Size) -> tuple[bytes, bytes]:
        """Columns and sums of these bits, to be sent."""
        rows, columns, sums = self.bits.extend(chosen)
        self.keys = _keys(rows, size)
        if size.first:
            self.shares = _shares(rows, size)
        return columns, sums


class SilentSender:
    """The side with D, that gets b. `chosen`: the bits of D (128,), and the key of each (128, 16)."""

    def __init__(self, chosen: Bytes, keys: Bytes, transcript: bytes, entropy: Entropy) -> None:
        self._bits = BitSender(chosen, keys, transcript)
        self._entropy, self._rooms = entropy, _Rooms(1)
        self.secret = self._bits.secret
        self.multiples = field.Multiples(self.secret)
        self._shares = np.empty((0, ELEMENT), np.uint8)

    def size(self, outputs: int) -> Size:
        """Of so many outputs, this time."""
        return Size(outputs, not len(self._shares))

    def grow(self, size: Size, columns: bytes, sums: bytes) -> bytes:
        """2. What is to be said of the trees. Raises InconsistentBits."""
        rows = self._bits.extend(size.bits, columns, sums)
        bound = self._bits.transcript
        keys = _keys(rows, size)
        if size.first:
            self._shares = _shares(rows, size)
        seeds = np.frombuffer(bytearray(self._entropy(ELEMENT * TREES)), np.uint8)
        (vector,), self._room = self._rooms.of(size)
        of_sides = trees.grow(seeds.reshape(TREES, ELEMENT), _tree_keys(bound, size), vector)
        other = keys ^ np.frombuffer(self.secret, np.uint8)
        pads = np.stack([_pads(keys, bound), _pads(other, bound)], axis=2)
        masked = of_sides.transpose(0, 2, 1, 3) ^ pads
        last = np.bitwise_xor.reduce(of_sides[-1], axis=0) ^ self._shares[:TREES]
        self._vector = vector.reshape(-1, ELEMENT)
        said: bytes = masked.tobytes() + last.tobytes()
        self._said = said
        return said

    def answer(self, challenge: bytes) -> bytes:
        """3. The hash that shows that all is as it should be."""
        key, factor = challenge[:ELEMENT], challenge[ELEMENT:]
        self._seed = _code_seed(key)
        value = field.added(
            field.polynomial(self._vector, key),
            field.added(self._shares[TREES].tobytes(), self.multiples.of(factor)),
        )
        return _proof(value, self._bits.transcript, self._said, challenge)

    def finish(self) -> Bytes:
        """4. b, (n, 16), until trees are grown again."""
        (b,) = code.compress([self._vector], self._seed, self._room)
        self._shares = b[-KEPT:].copy()
        return b[:-KEPT]


class _Rooms:
    """Large arrays, kept from one time to the next: memory that is new costs as much as what is done."""

    def __init__(self, vectors: int) -> None:
        self._vectors = vectors
        self._leaves = 0
        self._of: list[Bytes] = []

    def of(self, size: Size) -> tuple[list[Bytes], Bytes]:
        """Vectors (leaves, TREES, 16), and bytes for what is made of some of them; with any content."""
        if size.leaves > self._leaves:
            self._of.clear()  # before there are others
            shape = (size.leaves, TREES, ELEMENT)
            self._of = [np.empty(shape, np.uint8) for _ in range(self._vectors)]
            whole = sum(one.nbytes for one in self._of[: code.AT_ONCE]) // 2
            self._leaves, self._room = size.leaves, np.empty(whole, np.uint8)
        return [one[: size.leaves] for one in self._of], self._room


def _below(leaves: int, entropy: Entropy) -> Integers:
    """A random leaf of each tree: uniform to within 2^-64 leaves."""
    words = np.frombuffer(entropy(16 * TREES), np.uint64).reshape(TREES, 2).tolist()
    return np.array([(high << 64 | low) * leaves >> 128 for low, high in words], np.int64)


def _keys(rows: Bytes, size: Size) -> Bytes:
    """Rows of bits as keys of transfers (levels, TREES, 16)."""
    return rows[: TREES * size.levels].reshape(size.levels, TREES, bits.ROW)


def _shares(rows: Bytes, size: Size) -> Bytes:
    """Rows of bits as shares of a_k D (KEPT, 16)."""
    return field.combined(rows[TREES * size.levels :].reshape(KEPT, 8 * ELEMENT, ELEMENT))


def _pads(keys: Bytes, bound: bytes) -> Bytes:
    """What hides the sums of the trees, (levels, TREES, 16): a hash of a key and of its place."""
    rows = keys.reshape(-1, bits.ROW)
    places = np.arange(len(rows), dtype="<u4").view(np.uint8).reshape(-1, 4)
    pads = digests(
        rows=np.concatenate([places, rows], axis=1), domain=b"vfl vole pad", key=bound, size=ELEMENT
    )
    return pads.reshape(keys.shape)


def _tree_keys(bound: bytes, size: Size) -> list[tuple[bytes, bytes]]:
    """Two keys of AES-128 for each level, as both sides know."""
    whole = [
        hashlib.blake2b(bytes([level]), key=bound, person=b"vfl vole trees", digest_size=32).digest()
        for level in range(size.levels)
    ]
    return [(one[:16], one[16:]) for one in whole]


def _code_seed(key: bytes) -> bytes:
    """The code is drawn after the noise, and one for all senders."""
    return hashlib.blake2b(key=key, person=b"vfl vole code", digest_size=16).digest()


def _proof(value: bytes, bound: bytes, said: bytes, challenge: bytes) -> bytes:
    digest = hashlib.blake2b(key=bound, person=b"vfl vole proof", digest_size=PROOF)
    digest.update(value + challenge + said)
    return digest.digest()
