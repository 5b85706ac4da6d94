"""What the package answers about alignment: both roles over memory."""

import numpy as np
from reference.data import data

from answered.engines import both_roles
from answered.given import Answers, Given, hexes, rows
from vfl.protocols.align import dh_oprf, star
from vfl.protocols.common.bits import pack_bits, unpack_bits

ANSWERS = Answers()


@ANSWERS.of("by exponents")
def _(given: Given) -> object:
    asked, own = ([value.encode() for value in given[side]] for side in ("asked", "own"))
    sent, of_guest, of_host = both_roles(dh_oprf, given, asked, own, "registry")
    return {
        "BlindedIds": sent["BlindedIds"].hex(),
        "EvaluatedIds": sent["EvaluatedIds"].hex(),
        "asked": of_guest,
        "own": of_host,
    }


@ANSWERS.of("shares of zero")
def _(given: Given) -> object:
    values = [value.encode() for value in given["ids"]]
    return {
        "shares": hexes(np.bitwise_xor.reduce([star._share(data(key), values) for key in given["keys"]]))
    }


@ANSWERS.of("seed of a store")
def _(given: Given) -> object:
    return {"seed": star._store_seed(given["host"], data(given["context"])).hex()}


@ANSWERS.of("common order")
def _(given: Given) -> object:
    count = given["rows"]
    outputs = [
        rows(data(f"shake256 32 {host} {row}") for row in range(count)) for host in given["hosts"]
    ]
    return {"rows": star._in_common_order(np.arange(count), outputs).tolist()}


@ANSWERS.of("bits of rows")
def _(given: Given) -> object:
    mask = np.array(given["mask"], np.bool_)
    packed = pack_bits(mask)
    assert np.array_equal(unpack_bits(packed, len(mask)), mask)
    return {"bytes": packed.hex()}
