"""The oblivious pseudorandom function by silent vector OLE: 22 bytes an id, and fast.

Rindal, Schoppmann, "VOLE-PSI" (EUROCRYPT 2021) and Raghuraman, Rindal, "Blazing Fast PSI from Improved
OKVS and Subfield VOLE" (CCS 2022), the protocol against parties of any behaviour, over GF(2^128), with
the vectors of `vfl.crypto.vole.silent`, the store of `vfl.crypto.okvs` and the transfers of
`vfl.crypto.base_ot`. (+ is XOR.) It is worked through in chunks of so many slots of the guest's store;
what is one run there is a chunk here. Of steps 2 to 4 of `vfl.protocols.align.psi`:

  2. Once with each host: 128 base transfers, the host choosing by a secret D of 128 bits.
     For each chunk: silent vector OLE. The guest has vectors a and c, the host b, with c = a D + b. The
     host also commits to a coin. With several hosts a is the same, so that P + a is made once.
  3. The guest has made a store P of its ids, with <v(x), P> = h(x). It sends P + a, then a coin; the
     host opens its own. Both coins, the run and the host's name make the key of a hash.
  4. The host has k = b + (P + a) D, so that <v(x), k> + h(x) D = <v(x), c> + (<v(x), P> + h(x)) D.
     Hashed with x and the coins this is F_j(x). The host computes the left side for any id; for its
     own ids the guest has <v(x), c>, and for any other it lacks D.

What holds it up. The host sees P behind a, which looks random if LPN is hard for the code (see
`vfl.crypto.vole.code`); where the trees or transfers were not as they should be, the guest ends the run
before it has sent anything under a. To the guest F_j is random at every id whose h(x) does not fit P,
since it lacks D; an id that the guest does not have fits with 2^-128. The coins make F_j a function that
nobody knew before the guest's store was fixed. A guest that deviates may choose P as it likes, and so
have F_j at about as many ids as P has slots. A host that deviates computes wrong values, which makes it
lose ids. Assumptions: LPN, Diffie-Hellman for the base transfers, AES as random permutations, and hashes
that are random functions.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from hashlib import sha256
from typing import ClassVar

import numpy as np

from vfl.arrays import Bytes
from vfl.crypto import base_ot, group
from vfl.crypto.vole.bits import SECRET, SUMS, InconsistentBits, column_bytes
from vfl.crypto.vole.field import ELEMENT
from vfl.crypto.vole.silent import (
    CHALLENGE,
    PROOF,
    Deviates,
    SilentReceiver,
    SilentSender,
)
from vfl.net.peer import Peer, together
from vfl.net.wire import KIB, MIB, Message
from vfl.protocols.align.oprf import OprfRun, elements_in, parts, receive_rows
from vfl.protocols.common.fellows import keyed_hash

CHUNK = 1 << 20  # slots of the guest's store that are worked through at a time, or one bucket's
SLOTS = 32768  # slots a message
COIN = 32


class VoleKeys(Message, frozen=True):
    """guest -> host, an element for each base transfer. Reveals: nothing; they are random."""

    points: bytes


class VoleChoices(Message, frozen=True):
    """host -> guest, two elements for each base transfer. Reveals: nothing; they are random."""

    points: bytes


class VoleBits(Message, frozen=True):
    """guest -> host, random bits of a chunk, by columns. Reveals: nothing; they look random.

    The sums show the host that all columns are of the same bits, and are masked.
    """

    limit: ClassVar[int] = 2 * MIB
    columns: bytes
    sums: bytes


class VoleTrees(Message, frozen=True):
    """host -> guest, sums of trees, a commitment to a coin. Reveals: nothing; they are random."""

    limit: ClassVar[int] = MIB
    sums: bytes
    commitment: bytes


class VoleChallenge(Message, frozen=True):
    """guest -> host, how the trees are checked. Reveals: nothing; it is random."""

    challenge: bytes


class VoleProof(Message, frozen=True):
    """host -> guest, a hash of what the trees come to. Reveals: nothing that the guest does not know."""

    proof: bytes


class VoleSlots(Message, frozen=True):
    """guest -> host, slots of a store of its ids, masked. Reveals: nothing; they look random."""

    limit: ClassVar[int] = SLOTS * ELEMENT + KIB
    slots: bytes
    per_row = ("slots", 8 * ELEMENT)


class VoleCoin(Message, frozen=True):
    """guest -> host, random bytes. Reveals: nothing."""

    coin: bytes


class VoleOpening(Message, frozen=True):
    """host -> guest, the random bytes of its commitment. Reveals: nothing."""

    coin: bytes


class GuestVole:
    """The guest's end of the function with all hosts: a, and what is sent under it, is the same with
    each."""

    def __init__(self, hosts: Sequence[Peer], run: OprfRun) -> None:
        self._hosts, self._run = hosts, run
        self._coins = {host.name: run.randomness.at("coins", host.name) for host in hosts}

    async def begin(self) -> None:
        """2. Base transfers. Raises PeerError for a host that breaks the protocol."""
        keys, seen = zip(*await together([self._begin(host) for host in self._hosts]), strict=True)
        self._silent = SilentReceiver(keys, seen, self._run.randomness.at("vectors"))

    async def _begin(self, host: Peer) -> tuple[Bytes, bytes]:
        """Keys, and a hash of what both sides have seen."""
        run = self._run
        bound = _bound(run.context, host.name)
        drawn = run.randomness.at("base transfers", host.name)
        sender = await asyncio.to_thread(base_ot.Sender, SECRET, bound, drawn)
        await host.send(VoleKeys(sender.points.tobytes()))
        choices = (await host.recv(VoleChoices)).points
        elements = elements_in(host, VoleChoices, choices, 2 * SECRET)
        try:
            keys = await asyncio.to_thread(sender.keys, elements.reshape(SECRET, 2, group.POINT))
        except group.InvalidPoint:
            raise host.breach("VoleChoices with an invalid element") from None
        return keys, _transcript(bound, sender.points.tobytes(), choices)

    async def prepare(self, slots: int) -> None:
        """2. a and each host's c for so many slots. Raises PeerError for a host that breaks the
        protocol."""
        silent = self._silent
        size = silent.size(slots)

        async def grow(number: int, host: Peer, columns: bytes, sums: bytes) -> bytes:
            await host.send(VoleBits(columns, sums))
            trees = await host.recv(VoleTrees)
            if len(trees.sums) != size.sums or len(trees.commitment) != COIN:
                raise host.breach("VoleTrees of another size than due")
            await asyncio.to_thread(silent.grow, number, trees.sums)
            return trees.commitment

        async def check(number: int, host: Peer) -> None:
            await host.send(VoleChallenge(challenge))
            proof = (await host.recv(VoleProof)).proof
            if len(proof) != PROOF:
                raise host.breach("VoleProof of another size than due")
            try:
                silent.check(number, proof)
            except Deviates:
                raise host.breach("VoleTrees that fail the check") from None

        begun = await asyncio.to_thread(silent.begin, size)
        each = zip(self._hosts, begun, strict=True)
        grown = [grow(number, host, *sent) for number, (host, sent) in enumerate(each)]
        self._commitments = await together(grown)
        challenge = await asyncio.to_thread(silent.challenge)
        await together([check(number, host) for number, host in enumerate(self._hosts)])
        self._a, self._c = await asyncio.to_thread(silent.finish)

    async def evaluate(self, store: Bytes) -> list[tuple[Bytes, bytes]]:
        """3. and 4. By host, c of the slots of a store (m, 16), as many as were prepared, and a hash's
        key.

        All are good until more is prepared. Raises PeerError for a host that breaks the protocol.
        """
        hosts, a = self._hosts, self._a
        for start, stop in parts(len(store), SLOTS):
            masked = VoleSlots((store[start:stop] ^ a[start:stop]).tobytes())
            await together([host.send(masked) for host in hosts])
        each = zip(hosts, self._commitments, strict=True)
        keys = await together([self._key(*one) for one in each])
        return [(c[: len(store)], key) for c, key in zip(self._c, keys, strict=True)]

    async def _key(self, host: Peer, commitment: bytes) -> bytes:
        """The key of the hash with a host, of both coins."""
        coin = self._coins[host.name](COIN)
        await host.send(VoleCoin(coin))
        opening = (await host.recv(VoleOpening)).coin
        if len(opening) != COIN or _commitment(opening) != commitment:
            raise host.breach("VoleOpening of another coin than it committed to")
        return _output_key(self._run.context, host.name, coin, opening)


class HostVole:
    """A host's end of the function; `name` is its own."""

    def __init__(self, guest: Peer, name: str, run: OprfRun) -> None:
        self.guest, self._name, self._run = guest, name, run
        self._coins = run.randomness.at("coins", guest.name)

    async def begin(self) -> None:
        """2. Base transfers. Raises PeerError for a guest that breaks the protocol."""
        guest, run = self.guest, self._run
        bound = _bound(run.context, self._name)
        drawn = run.randomness.at("base transfers", guest.name)
        chosen = np.unpackbits(np.frombuffer(drawn(SECRET // 8), np.uint8))
        points = (await guest.recv(VoleKeys)).points
        elements = elements_in(guest, VoleKeys, points, SECRET)
        receiver = await asyncio.to_thread(base_ot.Receiver, chosen.tolist(), bound, drawn)
        try:
            keys = await asyncio.to_thread(receiver.keys, elements)
        except group.InvalidPoint:
            raise guest.breach("VoleKeys with an invalid element") from None
        choices = receiver.points.tobytes()
        await guest.send(VoleChoices(choices))
        seen = _transcript(bound, points, choices)
        self._silent = SilentSender(chosen, keys, seen, run.randomness.at("vectors"))

    async def serve(self, slots: int) -> tuple[Bytes, bytes]:
        """2. to 4. k of so many slots of the guest's store (m, 16), and the key of the hash.

        Raises PeerError for a guest that breaks the protocol.
        """
        guest, silent = self.guest, self._silent
        size = silent.size(slots)
        message = await guest.recv(VoleBits)
        if len(message.columns) != SECRET * column_bytes(size.bits) or len(message.sums) != SUMS:
            raise guest.breach("VoleBits of another size than due")
        try:
            sums = await asyncio.to_thread(silent.grow, size, message.columns, message.sums)
        except InconsistentBits:
            raise guest.breach("VoleBits that fail the check") from None
        coin = self._coins(COIN)
        await guest.send(VoleTrees(sums, _commitment(coin)))
        challenge = (await guest.recv(VoleChallenge)).challenge
        if len(challenge) != CHALLENGE:
            raise guest.breach("VoleChallenge of another size than due")
        await guest.send(VoleProof(await asyncio.to_thread(silent.answer, challenge)))
        k = (await asyncio.to_thread(silent.finish))[:slots]
        async for start, stop, part in self._slots(slots):
            await asyncio.to_thread(silent.multiples.add_to, k[start:stop], part)
        other = (await guest.recv(VoleCoin)).coin
        if len(other) != COIN:
            raise guest.breach("VoleCoin of another size than due")
        await guest.send(VoleOpening(coin))
        return k, _output_key(self._run.context, self._name, other, coin)

    def _slots(self, count: int) -> AsyncIterator[tuple[int, int, Bytes]]:
        return receive_rows(self.guest, VoleSlots, lambda m: m.slots, count, SLOTS, ELEMENT)

    def add_secret_times(self, hashed: Bytes, values: Bytes) -> None:
        """Add h(y) D to values (n, 16), in place."""
        self._silent.multiples.add_to(values, hashed)


def _bound(context: bytes, host: str) -> bytes:
    """What the base transfers with a host are bound to."""
    return keyed_hash(b"vfl vole base", context, host.encode()).digest()


def _transcript(bound: bytes, points: bytes, choices: bytes) -> bytes:
    """All that both sides have seen before the first chunk, hashed."""
    return sha256(bound + points + choices).digest()


def _commitment(coin: bytes) -> bytes:
    return sha256(b"vfl vole coin" + coin).digest()


def _output_key(context: bytes, host: str, of_guest: bytes, of_host: bytes) -> bytes:
    return keyed_hash(b"vfl vole func", context, host.encode(), of_guest, of_host).digest()
