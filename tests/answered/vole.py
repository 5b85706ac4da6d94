"""What the package answers about vector OLE."""

import numpy as np
from reference import vole as slow_vole
from reference.data import Stream, data, sha256

from answered.given import Answers, Given, hexes, rows
from vfl.crypto import okvs
from vfl.crypto.randomness import OF_SYSTEM
from vfl.crypto.vole import code, field, trees
from vfl.crypto.vole.bits import BitReceiver, BitSender
from vfl.protocols.align import buckets
from vfl.protocols.align.oprf import OprfRun

ANSWERS = Answers()


@ANSWERS.of("field")
def _(given: Given) -> object:
    coefficients = [data(text) for text in given["coefficients"]]
    array = rows(coefficients) if coefficients else np.empty((0, 16), np.uint8)
    one, other = data(given["one"]), data(given["other"])
    assert field.Multiples(one).of(other) == field.times(one, other)
    return {
        "product": field.times(one, other).hex(),
        "polynomial": field.polynomial(array, data(given["key"])).hex(),
    }


@ANSWERS.of("bits")
def _(given: Given) -> object:
    keys = np.array(
        [[list(key) for key in pair] for pair in slow_vole.given_keys(given["keys"])], np.uint8
    )
    chosen = np.array(slow_vole.bits_of(data(given["secret"])), np.uint8)
    own = np.array(slow_vole.bits_of(data(given["bits"])), np.uint8)
    receiver = BitReceiver(keys, data(given["transcript"]), Stream(given["entropy"]))
    sender = BitSender(chosen, keys[np.arange(128), chosen], data(given["transcript"]))
    held, columns, sums = receiver.extend(own)
    return {
        "columns": sha256(columns),
        "sums": sha256(sums),
        "receiver's rows": hexes(held),
        "sender's rows": hexes(sender.extend(len(own), columns, sums)),
        "transcript": sender.transcript.hex(),
    }


@ANSWERS.of("trees")
def _(given: Given) -> object:
    keys = [(data(left), data(right)) for left, right in given["keys"]]
    seeds = rows(map(data, given["seeds"]))
    leaves = np.empty((given["leaves"], *seeds.shape), np.uint8)
    sums = trees.grow(seeds, keys, leaves)
    return {
        "leaves": [hexes(leaves[:, tree]) for tree in range(leaves.shape[1])],
        "sums": [[hexes(level[:, tree]) for level in sums] for tree in range(leaves.shape[1])],
    }


@ANSWERS.of("code")
def _(given: Given) -> object:
    vector = rows(data(f"shake256 16 {given['vector']} {i}") for i in range(2 * given["outputs"]))
    room = np.empty(vector.nbytes // 2, np.uint8)
    return {"compressed": hexes(code.compress([vector], data(given["seed"]), room)[0])}


@ANSWERS.of("buckets")
def _(given: Given) -> object:
    cut, ids = buckets.Buckets.of(given["of guest"]), [data(text) for text in given["ids"]]
    rooms = [cut.guest_room, buckets.room(given["of host"], cut.count)]
    run = OprfRun(data(given["context"]), OF_SYSTEM, lambda *step: None)
    held = buckets._Sorted(ids, cut.count, run)
    where = {
        int(row): {"digest": bytes(digest).hex(), "bucket": bucket}
        for bucket in range(cut.count)
        for row, digest in zip(held.rows(bucket), held.of(bucket), strict=True)
    }
    return {
        "buckets": cut.count,
        "rooms": rooms,
        "slots": [okvs.slots(room, buckets.PER_MILLE) for room in rooms],
        "ids": [where[row] for row in range(len(ids))],
    }
