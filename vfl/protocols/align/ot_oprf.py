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

import numpy as np

from vfl.arrays import Bytes
from vfl.crypto import okvs
from vfl.crypto.digests import digests
from vfl.crypto.linear_code import WORD as ROW
from vfl.crypto.ot_extension import Keeper
from vfl.net.peer import Peer, together
from vfl.protocols.align.oprf import OUTPUT, OprfRun, empty, parts
from vfl.protocols.common.fellows import keyed_hash
from vfl.protocols.common.transfers import BLOCK, GuestTransfers, HostTransfers

SLICE = 65536  # ids that are hashed at a time


async def guest_outputs(
    hosts: Sequence[Peer],
    ids: Sequence[bytes],
    run: OprfRun,
) -> list[Bytes]:
    """The guest's role: `GuestOutputs` of oprf.py."""
    # 2. A store of the ids, one for all hosts: each sees it behind columns of its own.
    hashed = await asyncio.to_thread(_hash_ids, ids, run.context)
    drawn = run.randomness.at("store of own ids")
    store = await asyncio.to_thread(
        okvs.encode, hashed[:, :16], hashed[:, 16:], _store_seed(run.context), drawn
    )

    async def evaluate(host: Peer) -> Bytes:
        # 2. Transfers whose keys the host chooses by its secret. 3. Extend them over the slots.
        rows = empty(len(store), ROW, run.scratch)

        bound = _bound(run.context, host.name)
        transfers = await GuestTransfers.meet(host, bound, run.randomness.at("transfers", host.name))
        for start, stop in parts(len(store), BLOCK):
            rows[start:stop] = await transfers.extend(store[start:stop])
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

    # 2. Transfers by a secret. 3. Extend them over the slots of the guest's store.
    rows = empty(okvs.slots(theirs), ROW, run.scratch)
    drawn = run.randomness.at("transfers", guest.name)
    transfers = await HostTransfers.meet(guest, _bound(run.context, name), drawn)
    for start, stop in parts(len(rows), BLOCK):
        rows[start:stop] = await transfers.extend(stop - start)
        run.report(f"matching ids with {guest.name}", theirs * stop // len(rows), theirs)

    # 4. The function at its own ids.
    key = _output_key(run.context, name)
    outputs = empty(len(ids), OUTPUT, run.scratch)
    for start, stop in parts(len(ids), SLICE):
        some = hashed[start:stop]
        outputs[start:stop] = await asyncio.to_thread(
            _outputs, rows, some, transfers.keeper, theirs, run.context, key
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
