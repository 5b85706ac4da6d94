"""What the package answers about ristretto255: by libsodium and by its own kernels."""

from collections.abc import Sequence

import numpy as np
from reference.data import data

from answered.given import Answers, Given, fixed, hexes, rows
from vfl.crypto import (
    group,
    ristretto,
)

GENERATOR = "e2f2ae0a6abc4e71a884a961c500515f58e30b6aa582dd8db6a65945e08d2d76"

ANSWERS = Answers()


KERNELS = ristretto.fastest() or ristretto.Kernels(ristretto.WIDE)


def products(elements: Sequence[str], scalar: bytes) -> list[str]:
    """By libsodium, and the same by the kernels."""
    points = rows(map(bytes.fromhex, elements))
    made = group.multiply(points, scalar)
    again, valid = KERNELS.multiply(points, scalar)
    assert valid.all() and np.array_equal(again, made)
    return hexes(made)


@ANSWERS.of("multiples")
def _(given: Given) -> object:
    scalars = [k.to_bytes(32, "little") for k in range(1, given["count"] + 1)]
    return {"encodings": [products([GENERATOR], scalar)[0] for scalar in scalars]}


@ANSWERS.of("refused")
def _(given: Given) -> object:
    one, found = (1).to_bytes(32, "little"), []
    for encoding in given["encodings"]:
        try:
            group.multiply(rows([data(encoding)]), one)
            found.append(False)
        except group.InvalidPoint:
            found.append(True)
    _, valid = KERNELS.multiply(rows(map(data, given["encodings"])), one)
    assert [not good for good in valid.tolist()] == found
    return {"refused": found}


@ANSWERS.of("map")
def _(given: Given) -> object:
    uniform = rows(map(data, given["uniform"]))
    made = group.from_uniform(uniform)
    assert np.array_equal(KERNELS.from_uniform(uniform), made)
    return {"encodings": hexes(made)}


@ANSWERS.of("hash")
def _(given: Given) -> object:
    values = [data(one) for one in given["values"]]
    return {"encodings": hexes(group.hash_to_group(values, data(given["context"])))}


@ANSWERS.of("scalars")
def _(given: Given) -> object:
    scalars = [group.random_scalar(fixed(data(uniform))) for uniform in given["uniform"]]
    return {
        "scalars": [scalar.hex() for scalar in scalars],
        "inverses": [group.invert(scalar).hex() for scalar in scalars],
        "products": [products([given["element"]], scalar)[0] for scalar in scalars],
    }
