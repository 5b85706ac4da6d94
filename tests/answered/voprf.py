"""What the package answers about VOPRF: by all who take part."""

from datetime import UTC, datetime

import numpy as np
from reference.data import data

from answered.given import Answers, Given, fixed, hexes, rows
from vfl.crypto import voprf
from vfl.protocols.lookup import directory
from vfl.protocols.lookup.directory import Header

ANSWERS = Answers()


@ANSWERS.of("voprf")
def _(given: Given) -> object:
    secret = voprf.derive_key(data(given["seed"]), data(given["info"]))
    public = voprf.public_key(secret)
    inputs = [data(text) for text in given["inputs"]]
    # A scalar is drawn as 64 bytes modulo the order.
    blinded = voprf.blind(inputs, fixed(*(data(text) + bytes(32) for text in given["blinds"])))
    evaluated, proof = voprf.evaluate(
        secret, public, blinded.points, fixed(data(given["draw"]) + bytes(32))
    )
    found = voprf.finalize(inputs, blinded, evaluated, public, proof)
    assert hexes(found) == hexes(voprf.outputs(secret, inputs))
    return {
        "secret": secret.hex(),
        "public": public.hex(),
        "blinded": hexes(blinded.points),
        "evaluated": hexes(evaluated),
        "proof": proof.hex(),
        "outputs": hexes(found),
    }


@ANSWERS.of("entry")
def _(given: Given) -> object:
    header = Header(
        model=given["model"],
        host=given["host"],
        guest=given["guest"],
        version="20261129-120000-abcdef",
        made=datetime(2026, 11, 29, tzinfo=UTC),
        key=data(given["public"]),
        entries=0,
        rows=0,
        rules=[[]],
        columns=[1],
        bits=0,
        handle=0,
        missing=b"",
        same=[],
        shown=[],
        unknown_levels=0,
        table=bytes(32),
        catalogue=bytes(32),
    )
    handles = [data(one) for one in given["handles"]]
    which = {"alone": b"", "hint 3": directory.hint(3), "locked": directory.locked(handles[::-1])}
    text, salt = (rows([data(given[name])]) for name in ("text", "salt"))
    found = {}
    for name, mark in which.items():
        output = rows([data(given["output"])])
        tags, seeds = directory.tags_and_seeds(header.context, output, mark)
        sealed = text ^ directory.pads(seeds, salt, text.shape[1])
        found[name] = np.concatenate([tags, sealed], axis=1).tobytes().hex()
    part = bytes.fromhex("".join(found.values()))
    return {
        "context": header.context.hex(),
        "entries": found,
        "hints": [directory.hint_of(handle).hex() for handle in handles],
        "digest": directory.digest_of_part(part).hex(),
    }


@ANSWERS.of("input")
def _(given: Given) -> object:
    found = directory.inputs_of(given["key"], [data(one) for one in given["ids"]])
    return {"inputs": [one.hex() for one in found]}
