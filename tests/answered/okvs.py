"""What the package answers about oblivious key-value stores."""

import numpy as np
from reference import okvs as slow_okvs
from reference.data import Stream, data

from answered.given import Answers, Given, hexes, rows
from vfl.crypto import (
    okvs,
)

ANSWERS = Answers()


@ANSWERS.of("store")
def _(given: Given) -> object:
    seed, keys = data(given["seed"]), rows(map(data, given["keys"]))
    values, n, another = rows(map(data, given["values"])), len(keys), rows([data(given["another"])])
    drawn = Stream(given["entropy"])(16 * okvs.slots(n))
    # A table whose slot i has the bit i alone says which slots a key takes.
    width = -(-okvs.slots(n) // 64) * 8
    unit = rows((1 << i).to_bytes(width, "little") for i in range(okvs.slots(n)))
    dense_at = okvs.slots(n) - okvs.DENSE
    places = []
    for row in okvs.decode(unit, keys, n, seed):
        taken = int.from_bytes(row.tobytes(), "little")
        places.append(
            {
                "sparse": [i for i in range(dense_at) if taken >> i & 1],
                "dense": (taken >> dense_at).to_bytes(8, "little").hex(),
            }
        )
    # Equations have many solutions, and each side takes what it finds; both read either's table alike.
    table = rows(
        slow_okvs.encode([k.tobytes() for k in keys], [v.tobytes() for v in values], seed, drawn)
    )
    own = okvs.encode(keys, values, seed, lambda count: drawn[:count])
    assert np.array_equal(okvs.decode(own, keys, n, seed), values)
    listed = [slot.tobytes() for slot in own]
    assert [slow_okvs.decode(listed, key.tobytes(), n, seed) for key in keys] == [
        value.tobytes() for value in values
    ]
    return {
        "slots": okvs.slots(n),
        "places": places,
        "table": table.tobytes().hex(),
        "decoded": hexes(okvs.decode(table, keys, n, seed)),
        "of another key": hexes(okvs.decode(table, another, n, seed))[0],
    }


@ANSWERS.of("wide slots")
def _(given: Given) -> object:
    n, width = given["keys"], given["width"]
    table = np.frombuffer(data(f"shake256 {okvs.slots(n) * width} {given['table']}"), np.uint8)
    keys = rows(map(data, given["at"]))
    return {"decoded": hexes(okvs.decode(table.reshape(-1, width), keys, n, data(given["seed"])))}


@ANSWERS.of("sizes")
def _(given: Given) -> object:
    return {"slots": [okvs.slots(n) for n in given["keys"]]}
