"""What the package answers about digests, hashes of parts and ids."""

import numpy as np
from reference.data import data

from answered.given import Answers, Given, fixed, hexes, rows
from vfl.crypto import (
    group,
)
from vfl.crypto.digests import digests
from vfl.party import ids
from vfl.protocols.align import match_rates
from vfl.protocols.common import fellows

MANY = 5000  # messages that the package leaves to kernels of its own

ANSWERS = Answers()


@ANSWERS.of("digests")
def _(given: Given) -> object:
    values = [data(one) for one in given["ids"]]
    before = rows(map(data, given["rows"])) if given["rows"] else None
    options = {name: data(given[name]) for name in ("key", "prefix")}
    made = digests(values, before, domain=given["domain"].encode(), size=given["size"], **options)
    order = np.arange(MANY) % len(values)
    again = digests(
        [values[i] for i in order],
        None if before is None else before[order],
        domain=given["domain"].encode(),
        size=given["size"],
        **options,
    )
    assert np.array_equal(again, made[order])
    return {"digests": hexes(made)}


@ANSWERS.of("hash of parts")
def _(given: Given) -> object:
    parts = [data(part) for part in given["parts"]]
    return {"hash": fellows.keyed_hash(given["domain"].encode(), *parts).hexdigest()}


@ANSWERS.of("match rates")
def _(given: Given) -> object:
    context, values = data(given["context"]), [value.encode() for value in given["ids"]]
    prefix = match_rates._prefix(context, given["host"], given["trial"])
    shares = [data(given[side]) for side in ("guest's share", "host's share")]
    key = match_rates._sampling_key(context, given["host"], *shares)
    commitment = match_rates._commitment(context, given["host"], shares[0])
    elements = group.hash_to_group(values, prefix)
    scalar = group.random_scalar(fixed(data(given["scalar"])))
    tags = match_rates._tags(group.multiply(elements, scalar))
    found = []
    for value, element, tag in zip(values, hexes(elements), hexes(tags), strict=True):
        # A row without an id is not drawn.
        drawn = digests(
            [value],
            domain=b"vfl match draw",
            prefix=key,
            size=8,
        )
        hashed = int(drawn.view("<u8")[0, 0])
        if value:
            (trial,) = match_rates._draw(match_rates.Trial("", lambda: [value]), [key])  # noqa: B023
            assert trial.hashes.tolist() == [hashed]
        found.append({"drawn by": hashed, "element": element, "tag": tag})
    return {"commitment": commitment.hex(), "prefix": prefix.hex(), "ids": found}


@ANSWERS.of("ids")
def _(given: Given) -> object:
    return {"ids": [one.hex() for one in ids.normalise(given["columns"], given["rule"]).ids]}


@ANSWERS.of("rule")
def _(given: Given) -> object:
    return {"digest": ids.digest(ids.compose(given["rule"]))}
