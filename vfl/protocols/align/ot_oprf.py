"""The oblivious pseudorandom function by oblivious transfers: 76 bytes an id of the guest, and fast.

Pinkas, Rosulek, Trieu, Yanai, "PSI from PaXoS: Fast, Malicious Private Set Intersection" (EUROCRYPT
2020), with the store of `vfl.crypto.okvs`, the code C of `vfl.crypto.linear_code`, the transfers of
`vfl.crypto.base_ot` and their extension and check of `vfl.crypto.ot_extension`. All but the few hundred
base transfers is symmetric: AES, BLAKE2b, XOR. (+ is XOR, & is AND.) The steps are 2 to 4 of
`vfl.protocols.align.psi`.

  2. Of each id x both sides hash v(x), which picks slots of a store, and h(x), 76 bits. The guest
     makes a store D with <v(x), D> = h(x) for its ids, <v, D> being the XOR of the slots of D that v
     picks. With each host there are 468 base transfers, the host choosing by its secret s.
  3. The guest extends them with the slots of D as messages: it keeps a row r_i for each slot, host j
     has q_i = r_i + s & C(d_i). Nothing goes back.
  4. C is linear, so <v(x), Q> + s & C(h(x)) = <v(x), R> + s & C(<v(x), D> + h(x)). Hashed with x,
     this is F_j(x). The host computes the left side for any id; for its own ids the guest has
     <v(x), R>, and for any other it lacks the bits of s where a word of C is 1: 128 or more.

What holds it up. The host sees D behind columns of AES, however it behaves. To the guest F_j is random
at every id whose h(x) does not fit D, for hashes that are random functions (correlation robustness for
words of weight 128). An id that the guest does not have fits by chance with 2^-76: some id of 20
million, with 2^-51. The check keeps the guest from sending what is of no D. A guest that deviates may
choose D as it likes: it can make about as many ids fit as D has slots (1.3 for each id announced, and
114 more), and has to do so before it learns anything. A host that deviates computes wrong values, which
makes it lose ids. Assumptions: Diffie-Hellman for the base transfers, AES, and hashes that are random
functions. None on decoding random codes (LPN), with which other fast constructions send fewer bytes.

The code has 468 places for 76 bits at distance 128. A word of at least 128 bits of s is as hard to
guess as a key of 128 bits. 76 bits are 51 more than the logarithm of 20 million; 40 more would do, and
the same code shortened to 65 bits has 457 places, 2 % fewer bytes.
"""

import asyncio
from collections.abc import Sequence
from hashlib import sha256
from typing import ClassVar

import numpy as np

from vfl.arrays import Bytes
from vfl.crypto import base_ot, group, okvs
from vfl.crypto.digests import digests
from vfl.crypto.linear_code import LENGTH
from vfl.crypto.linear_code import WORD as ROW
from vfl.crypto.ot_extension import SUMS, Chooser, Inconsistent, Keeper, column_bytes
from vfl.net.peer import Peer, together
from vfl.net.wire import KIB, Message
from vfl.protocols.align.oprf import OUTPUT, OprfRun, elements_in, empty, parts
from vfl.protocols.common.fellows import keyed_hash

BLOCK = 65536  # slots a message
SLICE = 65536  # ids that are hashed at a time


class TransferKeys(Message, frozen=True):
    """guest -> host, an element for each base transfer. Reveals: nothing; they are random."""

    points: bytes


class TransferChoices(Message, frozen=True):
    """host -> guest, two elements for each base transfer. Reveals: nothing; they are random."""

    points: bytes


class ExtensionColumns(Message, frozen=True):
    """guest -> host, a bit of 468 for each slot, by columns. Reveals: nothing; they look random.

    The sums beside them show that they are what they should be, and nothing else.
    """

    limit: ClassVar[int] = LENGTH * column_bytes(BLOCK) + SUMS + KIB
    columns: bytes
    sums: bytes


async def guest_outputs(
    hosts: Sequence[Peer],
    ids: Sequence[bytes],
    run: OprfRun,
) -> list[Bytes]:
    """The guest's role: `GuestOutputs` of oprf.py."""
    # 2. A store of the ids, one for all hosts: each sees it behind columns of its own.
    hashed = await asyncio.to_thread(_hash_ids, ids, run.context)
    store = await asyncio.to_thread(
        okvs.encode, hashed[:, :16], hashed[:, 16:], _store_seed(run.context), run.entropy
    )

    async def evaluate(host: Peer) -> Bytes:
        # 2. Transfers whose keys the host chooses by its secret.
        sender = await asyncio.to_thread(
            base_ot.Sender, LENGTH, _bound(run.context, host.name), run.entropy
        )
        await host.send(TransferKeys(sender.points.tobytes()))
        choices = (await host.recv(TransferChoices)).points
        elements = elements_in(host, TransferChoices, choices, 2 * LENGTH)
        try:
            keys = await asyncio.to_thread(sender.keys, elements.reshape(LENGTH, 2, group.POINT))
        except group.InvalidPoint:
            raise host.breach("TransferChoices with an invalid element") from None

        # 3. Extend them over the slots.
        seen = _transcript(run.context, host.name, sender.points.tobytes(), choices)
        chooser = Chooser(keys, seen, run.entropy)
        rows = empty(len(store), ROW, run.scratch)
        for start, stop in parts(len(store), BLOCK):
            rows[start:stop], columns, sums = await asyncio.to_thread(chooser.extend, store[start:stop])
            await host.send(ExtensionColumns(columns, sums))
            run.report(f"matching ids with {host.name}", len(ids) * stop // len(store), len(ids))

        # 4. The host's function at the guest's ids.
        key = _output_key(run.context, host.name)
        outputs = empty(len(ids), OUTPUT, run.scratch)
        for start, stop in parts(len(ids), SLICE):
            some = hashed[start:stop]
            outputs[start:stop] = await asyncio.to_thread(
                _outputs, rows, some, None, len(ids), run.context, key
            )
        return outputs

    return await together([evaluate(host) for host in hosts])


async def host_outputs(
    guest: Peer,
    ids: Sequence[bytes],
    theirs: int,
    name: str,
    run: OprfRun,
) -> Bytes:
    """A host's role: `HostOutputs` of oprf.py."""
    hashed = await asyncio.to_thread(_hash_ids, ids, run.context)

    # 2. Choose the keys of the transfers by a secret.
    chosen = np.unpackbits(np.frombuffer(run.entropy(-(-LENGTH // 8)), np.uint8))[:LENGTH]
    points = (await guest.recv(TransferKeys)).points
    elements = elements_in(guest, TransferKeys, points, LENGTH)
    receiver = await asyncio.to_thread(
        base_ot.Receiver, chosen.tolist(), _bound(run.context, name), run.entropy
    )
    try:
        keys = await asyncio.to_thread(receiver.keys, elements)
    except group.InvalidPoint:
        raise guest.breach("TransferKeys with an invalid element") from None
    choices = receiver.points.tobytes()
    await guest.send(TransferChoices(choices))

    # 3. Extend them over the slots of the guest's store.
    keeper = Keeper(chosen, keys, _transcript(run.context, name, points, choices))
    rows = empty(okvs.slots(theirs), ROW, run.scratch)
    for start, stop in parts(len(rows), BLOCK):
        message = await guest.recv(ExtensionColumns)
        if len(message.columns) != LENGTH * column_bytes(stop - start) or len(message.sums) != SUMS:
            raise guest.breach("ExtensionColumns with another number of rows than announced")
        try:
            rows[start:stop] = await asyncio.to_thread(
                keeper.extend, stop - start, message.columns, message.sums
            )
        except Inconsistent:
            raise guest.breach("ExtensionColumns that fail the check") from None
        run.report(f"matching ids with {guest.name}", theirs * stop // len(rows), theirs)

    # 4. The function at its own ids.
    key = _output_key(run.context, name)
    outputs = empty(len(ids), OUTPUT, run.scratch)
    for start, stop in parts(len(ids), SLICE):
        some = hashed[start:stop]
        outputs[start:stop] = await asyncio.to_thread(
            _outputs, rows, some, keeper, theirs, run.context, key
        )
        run.report("evaluating own ids", stop, len(ids))
    return outputs


def _hash_ids(ids: Sequence[bytes], context: bytes) -> Bytes:
    """Hash each id to 32 bytes: 16 that v(x) is made of, and h(x)."""
    return digests(ids, domain=b"vfl ot id", key=keyed_hash(b"vfl ot run", context).digest())


def _outputs(
    rows: Bytes, hashed: Bytes, keeper: Keeper | None, count: int, context: bytes, key: bytes
) -> Bytes:
    """F at hashed ids, (n, 32): from R alone, or from Q and the host's secret."""
    values = okvs.decode(rows, hashed[:, :16], count, _store_seed(context))
    if keeper is not None:
        values ^= keeper.mask(hashed[:, 16:])
    return digests(rows=np.concatenate([hashed, values], axis=1), domain=b"vfl ot output", key=key)


def _store_seed(context: bytes) -> bytes:
    return keyed_hash(b"vfl ot store", context).digest()


def _output_key(context: bytes, host: str) -> bytes:
    return keyed_hash(b"vfl ot function", context, host.encode()).digest()


def _bound(context: bytes, host: str) -> bytes:
    """What the base transfers with a host are bound to."""
    return keyed_hash(b"vfl ot transfers", context, host.encode()).digest()


def _transcript(context: bytes, host: str, points: bytes, choices: bytes) -> bytes:
    """All that both sides have seen before the extension, hashed."""
    return sha256(_bound(context, host) + points + choices).digest()
