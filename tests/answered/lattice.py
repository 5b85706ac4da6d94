"""What the package answers about encrypted sums over lattices."""

from unittest import mock

import numpy as np
from reference import lattice as slow_lattice
from reference.data import data, sha256

from answered.given import Answers, Given, fixed
from vfl.crypto.lattice import answers, parameters, randomness
from vfl.crypto.lattice.hint import EncryptedHint, HintKey
from vfl.crypto.lattice.matrix import Accumulator, CellMatrix, CodedColumn, Outputs, make_hint
from vfl.crypto.lattice.vectors import PublicRows, Secrets, VectorEncryption
from vfl.protocols.common import lattice_hints

ANSWERS = Answers()


@ANSWERS.of("streams")
def _(given: Given) -> object:
    key, label, count = data(given["key"]), given["label"], given["count"]
    return {
        "derived": randomness.derive(key, label).hex(),
        "words": [
            f"{word:016x}" for word in randomness.words(key, label, count, given["start"]).tolist()
        ],
        "ternary": randomness.ternary(key, label, count).tolist(),
        "errors": randomness.errors(key, label, count).tolist(),
        "gaussian": randomness.gaussian(key, label, count, given["deviation"]).tolist(),
    }


@ANSWERS.of("uniform words of 96 bits")
def _(given: Given) -> object:
    from vfl.crypto.lattice import hint

    found = hint._uniform(parameters.SINGLE, data(given["key"]), given["label"], given["number"])
    drawn = [f"{low + (high << 64):024x}" for low, high in found.tolist()]
    return {"first": drawn[:3], "last": drawn[-1]}


@ANSWERS.of("parameters")
def _(given: Given) -> object:
    p = parameters.choose(**given)
    return {
        "word_bits": p.word_bits,
        "scale_bits": p.scale_bits,
        "flood": f"{p.flood:.9e}",
        "drop_bits": p.drop_bits,
        "groups": p.groups,
        "group": p.group,
        "width": p.width,
        "depth": p.depth,
        "bytes": {
            "vectors": p.rows_bytes(p.rows, 1),
            "header": p.hint_header_bytes,
            "parts": p.hint_parts,
            "last part": p.hint_part_bytes(p.hint_parts - 1),
            "products": p.product_bytes(1),
            "answer": p.answer_bytes(1),
        },
    }


def matrix_of(given: Given) -> CellMatrix:
    columns = []
    for column in given["columns"]:
        codes = np.array(slow_lattice.rule(column["rule"], given["rows"]))
        columns.append(
            CodedColumn(codes.astype(np.uint8 if column["bins"] else np.int8), column["bins"])
        )
    starts = np.cumsum([0, *map(len, given["outputs"])])
    entries = np.array([entry for output in given["outputs"] for entry in output])
    matrix = CellMatrix(columns, Outputs(starts, entries[:, 0], entries[:, 1], given["running"]))
    assert matrix.weight == given["weight"]
    return matrix


@ANSWERS.of("several groups")
def _(given: Given) -> object:
    outputs, seed = given["outputs"], data(given["seed"])
    with mock.patch.object(parameters, "_shape", lambda _: (given["groups"], 0)):
        p = parameters.choose(1, 1, outputs, 1)
        found = randomness.words(data(given["hint"]), "hint", outputs * parameters.DEGREE)
        key = HintKey(p, seed, data(given["secret"]), data(given["context"]))
        parts = list(key.encrypt(found.reshape(outputs, -1)))
        encrypted = EncryptedHint(p, seed, key.header())
        for part, content in enumerate(parts):
            encrypted.load(part, content)
        drawn = Secrets.draw(1, fixed(data(given["secrets"])))
        products, masks = encrypted.multiply(drawn, fixed(data(given["products"])))
        opened = key.open(products, 1)
    return {
        "group": -(-outputs // given["groups"]),
        "width": p.width,
        "depth": p.depth,
        "parts": [sha256(part) for part in parts],
        "HintProducts": {"last": products[-10 * outputs :].hex(), "sha256": sha256(products)},
        "masks": [f"{word:016x}" for word in masks[0].tolist()],
        "opened": [
            f"{w:016x}{f:08x}"
            for w, f in zip(opened.whole[0].tolist(), opened.fraction[0].tolist(), strict=True)
        ],
    }


@ANSWERS.of("scheme")
def _(given: Given) -> object:
    seed, matrix, count = data(given["seed"]), matrix_of(given), len(given["vectors"])
    sets = [
        parameters.choose(given["rows"], bits, len(matrix.outputs), given["queries"], matrix.weight)
        for bits in given["value_bits"]
    ]
    public = PublicRows(seed, given["rows"])
    found = make_hint(matrix, public)
    key = HintKey(sets[0], seed, data(given["secret"]), data(given["context"]))
    parts, header = list(key.encrypt(found)), key.header()
    encrypted = EncryptedHint(sets[0], seed, header)
    for part, content in enumerate(parts):
        encrypted.load(part, content)
    drawn = Secrets.draw(count, fixed(data(given["secrets"])))
    products, masks = encrypted.multiply(drawn, fixed(data(given["products"])))
    opened = key.open(products, count)
    by_length = []
    for p in sets:
        most = 2 ** (p.value_bits - 1) - 1
        values = np.array([slow_lattice.rule(one, given["rows"]) for one in given["vectors"]])
        encryption = VectorEncryption(p, public, drawn, fixed(data(given["errors"])))
        sent = encryption.rows(0, values.clip(-most, most))
        sums = Accumulator(p, matrix, count)
        sums.add(0, sent)
        total = sums.result()
        answer = answers.seal(p, total, opened, fixed(data(given["answers"])))
        by_length.append(
            {
                "word_bits": p.word_bits,
                "scale_bits": p.scale_bits,
                "drop_bits": p.drop_bits,
                "Vectors": {
                    "first": sent[:16].hex(),
                    "last": sent[-16:].hex(),
                    "sha256": sha256(sent),
                },
                "sums": [[f"{word:016x}" for word in one] for one in total.tolist()],
                "VectorSums": answer.hex(),
                "exact sums": answers.unseal(p, answer, masks).tolist(),
            }
        )
    return {
        "hint": {
            "first": [f"{word:016x}" for word in found[:, 0].tolist()],
            "sha256": sha256(found.astype("<u8").tobytes()),
        },
        "header": {"seed of the hint": header[:32].hex(), "sha256": sha256(header)},
        "parts": [sha256(part) for part in parts],
        "HintProducts": {
            "first": products[:16].hex(),
            "last": products[-16:].hex(),
            "sha256": sha256(products),
        },
        "masks": [[f"{word:016x}" for word in one] for one in masks.tolist()],
        "opened": [
            [f"{w:016x}{f:08x}" for w, f in zip(whole, fraction, strict=True)]
            for whole, fraction in zip(opened.whole.tolist(), opened.fraction.tolist(), strict=True)
        ],
        "by length of words": by_length,
    }


@ANSWERS.of("joint seed")
def _(given: Given) -> object:
    return {"seed": lattice_hints._seed([data(share) for share in given["shares"]]).hex()}


@ANSWERS.of("trial of zeros")
def _(given: Given) -> object:
    p = parameters.choose(4099, 5, 3, 1000, 21)
    assert p.scale_bits == given["scale_bits"]
    masks = np.array([int(mask, 16) for mask in given["masks"]], np.uint64)
    digest = lattice_hints._digest(p, masks)
    commitment = lattice_hints._commitment(data(given["nonce"]), digest)
    return {"digest": digest.hex(), "commitment": commitment.hex()}
