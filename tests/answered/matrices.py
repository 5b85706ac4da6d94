"""What the package answers about sums over few rows by encrypted matrices."""

import numpy as np
from reference import lattice as slow_lattice
from reference.data import data, sha256

from answered.given import Answers, Given, fixed
from answered.lattice import matrix_of
from vfl.crypto.lattice import answers
from vfl.crypto.lattice.direct import EncryptedMatrix, MatrixKey, choose_direct, entries_of

ANSWERS = Answers()


@ANSWERS.of("parameters")
def _(given: Given) -> object:
    p = choose_direct(**given, least=1)
    return {
        "scale_bits": p.scale_bits,
        "flood": f"{p.flood:.9e}",
        "drop_bits": p.drop_bits,
        "vectors": p.queries,
        "groups": p.groups,
        "group": p.group,
        "width": p.width,
        "depth": p.depth,
        "bytes": {
            "parts": p.hint_parts,
            "last part": p.hint_part_bytes(p.hint_parts - 1),
            "products": p.product_bytes(1),
            "answer": p.answer_bytes(1),
        },
    }


@ANSWERS.of("scheme")
def _(given: Given) -> object:
    seed, matrix, count = data(given["seed"]), matrix_of(given), len(given["vectors"])
    p = choose_direct(
        given["rows"], given["value_bits"], len(matrix.outputs), given["queries"], matrix.weight
    )
    key = MatrixKey(p, seed, data(given["secret"]), data(given["context"]))
    parts = list(key.encrypt(entries_of(matrix)))
    encrypted = EncryptedMatrix(p, seed, key.header())
    for part, content in enumerate(parts):
        encrypted.load(part, content)
    values = np.array([slow_lattice.rule(one, given["rows"]) for one in given["vectors"]])
    products, masks = encrypted.multiply_vectors(values, fixed(data(given["products"])))
    opened = key.open(products, count)
    sums = np.zeros(opened.whole.shape, np.uint64)
    answer = answers.seal(p, sums, opened, fixed(data(given["answers"])))
    return {
        "scale_bits": p.scale_bits,
        "drop_bits": p.drop_bits,
        "parts": [sha256(part) for part in parts],
        "Vectors": {
            "first": products[:16].hex(),
            "last": products[-16:].hex(),
            "sha256": sha256(products),
        },
        "opened": [
            [f"{w:016x}{f:08x}" for w, f in zip(whole, fraction, strict=True)]
            for whole, fraction in zip(opened.whole.tolist(), opened.fraction.tolist(), strict=True)
        ],
        "VectorSums": answer.hex(),
        "exact sums": answers.unseal(p, answer, masks).tolist(),
    }
