"""The package, and the slow reference, against the known answers that others are held to as well."""

import asyncio
import datetime
import hashlib
import importlib
import json
import pkgutil
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from numpy.typing import NDArray
from reference import agreements as slow_agreements
from reference import lattice as slow_lattice
from reference import okvs as slow_okvs
from reference import paillier as slow_paillier
from reference import transfers as slow_transfers
from reference.data import Stream, data, sha256
from reference.write import FOLDER, MODULES, document
from test_group import HASHED, INVALID, MULTIPLES

import vfl.protocols
from vfl.crypto import (
    base_ot,
    ciphertexts,
    group,
    linear_code,
    okamoto_uchiyama,
    okvs,
    paillier,
    ristretto,
)
from vfl.crypto.digests import digests
from vfl.crypto.lattice import answers, parameters, randomness, words
from vfl.crypto.lattice.hint import EncryptedHint, HintKey
from vfl.crypto.lattice.matrix import Column, Matrix, Outputs, Sums
from vfl.crypto.lattice.matrix import hint as hint_of
from vfl.crypto.lattice.vectors import Encryption, PublicRows, Secrets
from vfl.crypto.ot_extension import Chooser, Keeper
from vfl.crypto.packing import Layout
from vfl.jobs.offer import Matching, Terms
from vfl.net import hello, mark, wire
from vfl.net.peer import MemoryPeer, Peer, together
from vfl.party import ids, ledger
from vfl.party.config import canonical_settings
from vfl.party.identity import Certificate, create
from vfl.protocols.align import dh_oprf, match_rates, ot_oprf, psi
from vfl.protocols.common import fellows
from vfl.protocols.common.participant import Participant

Given = dict[str, Any]
MANY = 5000  # messages that the package leaves to kernels of its own

OURS: dict[tuple[str, str], Callable[[Given], object]] = {}


def ours(file: str, case: str) -> Callable[[Callable[[Given], object]], Callable[[Given], object]]:
    """What the package answers to a case."""

    def enter(answer: Callable[[Given], object]) -> Callable[[Given], object]:
        OURS[file, case] = answer
        return answer

    return enter


def cases() -> Iterator[Any]:
    for name in MODULES:
        for number, case in enumerate(json.loads((FOLDER / f"{name}.json").read_text())["cases"]):
            yield pytest.param(name, case, id=f"{name}-{number}-{case['case']}")


@pytest.mark.parametrize(("file", "case"), list(cases()))
def test_the_package_gives_the_known_answers(file: str, case: Given) -> None:
    assert OURS[file, case["case"]](case["given"]) == case["answer"]


@pytest.mark.parametrize("name", MODULES)
def test_the_reference_gives_the_known_answers(name: str) -> None:
    assert (FOLDER / f"{name}.json").read_text() == document(name)


def test_there_is_a_file_for_each_module_and_no_other() -> None:
    assert {path.stem for path in FOLDER.iterdir()} == set(MODULES)


def test_the_reference_knows_nothing_of_the_package() -> None:
    code = (
        "import sys, tests.reference.write; sys.exit(any(m.split('.')[0] == 'vfl' for m in sys.modules))"
    )
    root = Path(__file__).parent.parent
    subprocess.run([sys.executable, "-c", code], check=True, cwd=root)


# --- helpers of the cases -----------------------------------------------------------------------------


def rows(encoded: Iterable[bytes]) -> NDArray[np.uint8]:
    """Bytes of one length as an array."""
    listed = list(encoded)
    return np.frombuffer(bytearray().join(listed), np.uint8).reshape(len(listed), -1)


def hexes(array: NDArray[np.uint8]) -> list[str]:
    return [bytes(row).hex() for row in array]


def drawing(*numbers: int) -> Callable[[int], int]:
    """A generator of random bits that gives these numbers, one after the other."""
    left = list(numbers)

    def draw(bits: int) -> int:
        assert left[0] < 1 << bits
        return left.pop(0)

    return draw


def fixed(*values: bytes) -> Callable[[int], bytes]:
    """Entropy that gives these bytes."""
    left = list(values)

    def draw(count: int) -> bytes:
        assert len(left[0]) == count
        return left.pop(0)

    return draw


def number(text: str) -> int:
    return int.from_bytes(data(text), "big")


# --- ristretto255 -------------------------------------------------------------------------------------


def test_the_known_answers_of_ristretto_are_those_of_the_rfc() -> None:
    cases_ = json.loads((FOLDER / "ristretto.json").read_text())["cases"]
    multiples, refused, mapped = (case["answer"] for case in cases_[:3])
    assert multiples["encodings"][: len(MULTIPLES)] == MULTIPLES
    published = {hashlib.sha512(text).hexdigest(): encoding for text, encoding in HASHED.items()}
    found = dict(zip(cases_[2]["given"]["uniform"], mapped["encodings"], strict=True))
    assert len(published.keys() & found.keys()) == 3
    assert all(found[uniform] == published[uniform] for uniform in published.keys() & found.keys())
    given = cases_[1]["given"]["encodings"]
    assert set(INVALID) <= set(given)
    assert refused["refused"] == [one in [*INVALID, "00" * 32] for one in given]


KERNELS = ristretto.fastest() or ristretto.Kernels(ristretto.WIDE)


def products(elements: Sequence[str], scalar: bytes) -> list[str]:
    """By libsodium, and the same by the kernels."""
    points = rows(map(bytes.fromhex, elements))
    made = group.multiply(points, scalar)
    again, valid = KERNELS.multiply(points, scalar)
    assert valid.all() and np.array_equal(again, made)
    return hexes(made)


@ours("ristretto", "multiples")
def _(given: Given) -> object:
    scalars = [k.to_bytes(32, "little") for k in range(1, given["count"] + 1)]
    return {"encodings": [products(MULTIPLES[:1], scalar)[0] for scalar in scalars]}


@ours("ristretto", "refused")
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


@ours("ristretto", "map")
def _(given: Given) -> object:
    uniform = rows(map(data, given["uniform"]))
    made = group.from_uniform(uniform)
    assert np.array_equal(KERNELS.from_uniform(uniform), made)
    return {"encodings": hexes(made)}


@ours("ristretto", "hash")
def _(given: Given) -> object:
    values = [data(one) for one in given["values"]]
    return {"encodings": hexes(group.hash_to_group(values, data(given["context"])))}


@ours("ristretto", "scalars")
def _(given: Given) -> object:
    scalars = [group.random_scalar(fixed(data(uniform))) for uniform in given["uniform"]]
    return {
        "scalars": [scalar.hex() for scalar in scalars],
        "inverses": [group.invert(scalar).hex() for scalar in scalars],
        "products": [products([given["element"]], scalar)[0] for scalar in scalars],
    }


# --- digests, ids -------------------------------------------------------------------------------------


@ours("digests", "digests")
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


@ours("digests", "hash of parts")
def _(given: Given) -> object:
    parts = [data(part) for part in given["parts"]]
    return {"hash": fellows.keyed_hash(given["domain"].encode(), *parts).hexdigest()}


@ours("digests", "match rates")
def _(given: Given) -> object:
    context, values = data(given["context"]), [value.encode() for value in given["ids"]]
    prefix = match_rates._prefix(context, given["host"], given["trial"])
    elements = group.hash_to_group(values, prefix)
    scalar = group.random_scalar(fixed(data(given["scalar"])))
    tags = match_rates._tags(group.multiply(elements, scalar))
    found = []
    for value, element, tag in zip(values, hexes(elements), hexes(tags), strict=True):
        # A row without an id is not drawn.
        drawn = digests(
            [value],
            domain=b"vfl match draw",
            prefix=fellows.keyed_hash(b"vfl match draw", context).digest(),
            size=8,
        )
        hashed = int(drawn.view("<u8")[0, 0])
        if value:
            trial = match_rates._draw(match_rates.Trial("", lambda: [value]), context)  # noqa: B023
            assert trial.hashes.tolist() == [hashed]
        found.append({"drawn by": hashed, "element": element, "tag": tag})
    return {"prefix": prefix.hex(), "ids": found}


@ours("digests", "ids")
def _(given: Given) -> object:
    return {"ids": [one.hex() for one in ids.normalise(given["columns"], given["rule"]).ids]}


@ours("digests", "rule")
def _(given: Given) -> object:
    return {"digest": ids.digest(ids.compose(given["rule"]))}


# --- alignment ----------------------------------------------------------------------------------------


def both_roles(
    engine: Any, given: Given, asked: Sequence[bytes], own: Sequence[bytes], host: str
) -> tuple[dict[str, bytes], list[str], list[str]]:
    """What both sides of an engine send by kind, the guest's outputs and the host's."""
    guests, hosts = Stream(given["guest entropy"]), Stream(given["host entropy"])
    sent: dict[str, bytes] = {}

    def see(way: str, kind: str, payload: bytes) -> None:
        fields = msgspec.msgpack.decode(payload)[1]
        sent[kind] = sent.get(kind, b"") + fields.get("points", b"")

    async def run() -> list[Any]:
        to_host, to_guest = MemoryPeer.pair("guest", host)
        to_host.observers.append(see)
        common = {"context": data(given["context"]), "report": lambda *step: None}
        return await together(
            [
                engine.guest_outputs([to_host], asked, entropy=guests, **common),
                engine.host_outputs(to_guest, own, len(asked), name=host, entropy=hosts, **common),
            ]
        )

    (of_guest,), of_host = asyncio.run(run())
    return sent, hexes(of_guest), hexes(of_host)


@ours("alignment", "by exponents")
def _(given: Given) -> object:
    asked, own = ([value.encode() for value in given[side]] for side in ("asked", "own"))
    sent, of_guest, of_host = both_roles(dh_oprf, given, asked, own, "registry")
    return {
        "BlindedIds": sent["BlindedIds"].hex(),
        "EvaluatedIds": sent["EvaluatedIds"].hex(),
        "asked": of_guest,
        "own": of_host,
    }


@ours("alignment", "shares of zero")
def _(given: Given) -> object:
    values = [value.encode() for value in given["ids"]]
    return {
        "shares": hexes(np.bitwise_xor.reduce([psi._share(data(key), values) for key in given["keys"]]))
    }


@ours("alignment", "seed of a store")
def _(given: Given) -> object:
    return {"seed": psi._store_seed(given["host"], data(given["context"])).hex()}


@ours("alignment", "common order")
def _(given: Given) -> object:
    count = given["rows"]
    outputs = [
        rows(data(f"shake256 32 {host} {row}") for row in range(count)) for host in given["hosts"]
    ]
    return {"rows": psi._ordered(np.arange(count), outputs).tolist()}


# --- oblivious key-value stores -----------------------------------------------------------------------


@ours("okvs", "store")
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


@ours("okvs", "wide slots")
def _(given: Given) -> object:
    n, width = given["keys"], given["width"]
    table = np.frombuffer(data(f"shake256 {okvs.slots(n) * width} {given['table']}"), np.uint8)
    keys = rows(map(data, given["at"]))
    return {"decoded": hexes(okvs.decode(table.reshape(-1, width), keys, n, data(given["seed"])))}


@ours("okvs", "sizes")
def _(given: Given) -> object:
    return {"slots": [okvs.slots(n) for n in given["keys"]]}


# --- oblivious transfers ------------------------------------------------------------------------------


@ours("transfers", "base transfers")
def _(given: Given) -> object:
    context, chosen = data(given["context"]), given["chosen"]
    sender = base_ot.Sender(len(chosen), context, Stream(given["sender"]))
    receiver = base_ot.Receiver(chosen, context, Stream(given["receiver"]))
    keys = sender.keys(receiver.points)
    return {
        "sent": hexes(sender.points),
        "choices": [hexes(pair) for pair in receiver.points],
        "keys": [hexes(keys[:, label]) for label in (0, 1)],
        "chosen keys": hexes(receiver.keys(sender.points)),
    }


@ours("transfers", "code")
def _(given: Given) -> object:
    return {
        "generator": f"{linear_code.generator_polynomial():x}",
        "words": hexes(linear_code.encode(rows(map(data, given["messages"])))),
    }


@ours("transfers", "extension")
def _(given: Given) -> object:
    keys = np.array(
        [[list(key) for key in pair] for pair in slow_transfers.given_keys(given["keys"])], np.uint8
    )
    chosen = np.array(slow_transfers.bits_of(data(given["secret"])), np.uint8)
    messages, transcript = rows(map(data, given["messages"])), data(given["transcript"])
    chooser = Chooser(keys, transcript, Stream(given["entropy"]))
    keeper = Keeper(chosen, keys[np.arange(len(keys)), chosen], transcript)
    own, sent, sums = chooser.extend(messages)
    kept = keeper.extend(len(messages), sent, sums)
    assert np.array_equal(kept, own ^ keeper.masked(messages))
    again, sent_again, sums_again = chooser.extend(messages[:1])
    assert np.array_equal(keeper.extend(1, sent_again, sums_again), again ^ keeper.masked(messages[:1]))
    size = len(sent) // linear_code.LENGTH
    return {
        "rows of the chooser": hexes(own),
        "rows of the keeper": hexes(kept),
        "columns": {"first": sent[:size].hex(), "sha256": sha256(sent)},
        "sums": {"first": sums[:32].hex(), "last": sums[-32:].hex(), "sha256": sha256(sums)},
        "next part": {
            "rows of the chooser": hexes(again),
            "columns": {"sha256": sha256(sent_again)},
            "sums": {"sha256": sha256(sums_again)},
        },
    }


@ours("transfers", "function")
def _(given: Given) -> object:
    values = [value.encode() for value in given["ids"]]
    sent, of_guest, of_host = both_roles(ot_oprf, given, values, values, given["host"])
    assert of_guest == of_host
    keys, choices = sent["TransferKeys"], sent["TransferChoices"]
    return {
        "TransferKeys": {"first": keys[:32].hex(), "sha256": sha256(keys)},
        "TransferChoices": {
            "first": [choices[:32].hex(), choices[32:64].hex()],
            "sha256": sha256(choices),
        },
        "outputs": of_guest,
    }


# --- Paillier, Okamoto-Uchiyama, packing ---------------------------------------------------------------


def private_key(given: Given, *drawn: int, full: bool = False) -> paillier.PrivateKey:
    p, q = int(given["p"], 16), int(given["q"], 16)
    return paillier.PrivateKey(p, q, drawing(*(drawn or (3,))), full)


def public_key(given: Given, *drawn: int) -> paillier.PublicKey:
    return paillier.PublicKey(int(given["p"], 16) * int(given["q"], 16), drawing(*drawn))


def textbook(given: Given) -> tuple[paillier.PrivateKey, ciphertexts.Ciphertexts]:
    """Ciphertexts with the obfuscators y^n."""
    key = private_key(given)
    n = int(key.public.n)
    obfuscators = [slow_paillier.power(number(y), n, n * n) for y in given["randomness"]]
    made = key.encrypt(given["plaintexts"], key.public.array(list(map(ciphertexts.mpz, obfuscators))))
    assert key.decrypt(made) == given["plaintexts"]
    return key, made


@ours("paillier", "key")
def _(given: Given) -> object:
    key = private_key(given)
    proof, width = key.proof(), key.public.bits // 8
    key.public.check_proof(proof)
    return {
        "modulus": int(key.public.n).to_bytes(width, "big").hex(),
        "first root": proof[:width].hex(),
        "proof": sha256(proof),
    }


@ours("paillier", "textbook")
def _(given: Given) -> object:
    return {"ciphertexts": hexes(textbook(given)[1])}


@ours("paillier", "by the owner")
def _(given: Given) -> object:
    key = private_key(given, number(given["root"]), *map(number, given["exponents"]))
    made = key.encrypt(given["plaintexts"])
    assert key.decrypt(made) == given["plaintexts"]
    return {"ciphertexts": hexes(made)}


@ours("paillier", "by the owner, full exponents")
def _(given: Given) -> object:
    drawn = (number(given[name]) for name in ("root", "alpha", "beta"))
    return {"ciphertexts": hexes(private_key(given, *drawn, full=True).encrypt([given["plaintext"]]))}


@ours("paillier", "by others")
def _(given: Given) -> object:
    first, *others = zip(map(number, given["exponents"]), given["signs"], strict=True)
    mixed = number(given["root"])  # drawn once, after the first signs
    drawn = [number(given["base"]), *first, mixed, *(x for pair in others for x in pair)]
    return {"ciphertexts": hexes(public_key(given, *drawn).encrypt(given["plaintexts"]))}


@ours("paillier", "concealed")
def _(given: Given) -> object:
    key = public_key(given, number(given["base"]), number(given["exponent"]))
    return {"ciphertexts": hexes(key.conceal(key.unsafe_encrypt([given["plaintext"]])))}


@ours("paillier", "arithmetic")
def _(given: Given) -> object:
    owner, made = textbook(given)
    key, count = owner.public, len(made)
    total = key.sum_runs(made, np.array([count]))
    assert np.array_equal(total[0], key.running(made)[-1])
    assert np.array_equal(total, key.sum_cells(made, np.arange(count), [np.zeros(count, np.int64)], 1))
    # Sums of integers times plaintexts are made of histograms by their digits.
    window, integers = 4, np.array(given["integers"])
    least = min(0, int(integers.min()))
    digits = [
        (integers - least) >> shift & (1 << window) - 1
        for shift in range(0, int((integers - least).max()).bit_length(), window)
    ]
    histograms = [key.sum_cells(made, np.arange(count), [digit], 1 << window) for digit in digits]
    products = key.times(made, given["factors"])
    found = {
        "sum": total,
        "packed": key.pack(made, given["slot bits"], count),
        "sum of integers times plaintexts": key.positional_sum(histograms, window, least),
    }
    texts = {name: f"{owner.decrypt(array)[0]:x}" for name, array in found.items()}
    return {
        **{name: hexes(array)[0] for name, array in found.items()},
        "products": hexes(products),
        "plaintexts": {**texts, "products": [f"{m:x}" for m in owner.decrypt(products)]},
    }


@ours("paillier", "Okamoto-Uchiyama")
def _(given: Given) -> object:
    p, q, g = (int(given[name], 16) for name in ("p", "q", "g"))
    plaintexts = given["plaintexts"]
    owner = okamoto_uchiyama.PrivateKey(
        p, q, g, drawing(number(given["root"]), *map(number, given["owner's exponents"]))
    )
    n = p * p * q
    drawn = drawing(number(given["base"]), *map(number, given["others' exponents"]))
    key = okamoto_uchiyama.PublicKey(n, drawn, g)
    by_owner, by_others = owner.encrypt(plaintexts), key.encrypt(plaintexts)
    total = key.add(by_owner[:1], by_others[1:2])
    assert owner.decrypt(by_owner) == owner.decrypt(by_others) == plaintexts
    assert owner.decrypt(total) == [sum(plaintexts[:2])]
    return {
        "modulus": n.to_bytes(key.bits // 8, "big").hex(),
        "by the owner": hexes(by_owner),
        "by others": hexes(by_others),
        "sum of the owner's first and others' second": hexes(total)[0],
    }


@ours("paillier", "layout")
def _(given: Given) -> object:
    layout = Layout.for_rows(given["rows"], given["plaintext bits"])
    gradients, hessians = np.array(given["sums"]).T
    # Of single rows: those of sums beyond one row's bounds are not paired.
    single = (np.abs(gradients) <= 1 << layout.row_bits) & (hessians <= 1 << layout.row_bits)
    plaintexts = [(g << layout.sum_bits) + h for g, h in given["sums"]]
    paired = layout.pair(gradients[single], hessians[single])
    assert paired == [v for v, one in zip(plaintexts, single, strict=True) if one]
    packed = [
        sum(v << layout.slot_bits * i for i, v in enumerate(plaintexts[at : at + layout.slots]))
        for at in range(0, len(plaintexts), layout.slots)
    ]
    again = layout.unpack(packed, len(plaintexts))
    assert np.array_equal(again[0], gradients) and np.array_equal(again[1], hessians)
    return {
        **{name: getattr(layout, name) for name in ("row_bits", "sum_bits", "slot_bits", "slots")},
        "plaintexts": [f"{v:x}" for v in plaintexts],
        "packed": [f"{v:x}" for v in packed],
    }


def test_the_keys_of_the_known_answers_are_of_the_kind_that_is_generated() -> None:
    primes = {name: slow_paillier.prime(name) for name in slow_paillier.OFFSETS}
    for p in primes.values():
        assert p % 4 == 3 and ciphertexts.mpz(p).is_prime(40)
        assert ciphertexts.gmpy2.gcd(p * (p >> 1), ciphertexts.gmpy2.primorial(1 << 16)) == 1
    pairs = list(primes.values())
    assert all(ciphertexts.fit_together(*map(ciphertexts.mpz, pairs[i : i + 2])) for i in (0, 2, 4, 6))


# --- lattice ------------------------------------------------------------------------------------------


@ours("lattice", "streams")
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


@ours("lattice", "uniform words of 96 bits")
def _(given: Given) -> object:
    from vfl.crypto.lattice import hint

    whole, fraction = hint._uniform(data(given["key"]), given["label"], given["number"])
    drawn = [f"{w:016x}{f:08x}" for w, f in zip(whole.tolist(), fraction.tolist(), strict=True)]
    return {"first": drawn[:3], "last": drawn[-1]}


@ours("lattice", "parameters")
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


def matrix_of(given: Given) -> Matrix:
    columns = []
    for column in given["columns"]:
        codes = np.array(slow_lattice.rule(column["rule"], given["rows"]))
        columns.append(Column(codes.astype(np.uint8 if column["bins"] else np.int8), column["bins"]))
    starts = np.cumsum([0, *map(len, given["outputs"])])
    entries = np.array([entry for output in given["outputs"] for entry in output])
    matrix = Matrix(columns, Outputs(starts, entries[:, 0], entries[:, 1], given["running"]))
    assert matrix.weight == given["weight"]
    return matrix


@ours("lattice", "scheme")
def _(given: Given) -> object:
    seed, matrix, count = data(given["seed"]), matrix_of(given), len(given["vectors"])
    sets = [
        parameters.choose(given["rows"], bits, len(matrix.outputs), given["queries"], matrix.weight)
        for bits in given["value_bits"]
    ]
    public = PublicRows(seed, given["rows"])
    found = hint_of(matrix, public)
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
        encryption = Encryption(p, public, drawn, fixed(data(given["errors"])))
        sent = encryption.rows(0, values.clip(-most, most))
        sums = Sums(p, matrix, count)
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


def test_the_known_answers_have_words_of_every_length() -> None:
    *_, scheme = json.loads((FOLDER / "lattice.json").read_text())["cases"]
    lengths = [one["word_bits"] for one in scheme["answer"]["by length of words"]]
    assert lengths == list(words._PLANES)


# --- secrets among hosts ------------------------------------------------------------------------------


@ours("masks", "pairs of hosts")
def _(given: Given) -> object:
    context, hosts = data(given["context"]), list(given["keys"])
    private = {
        host: fellows.X25519PrivateKey.from_private_bytes(data(key))
        for host, key in given["keys"].items()
    }
    public = {host: key.public_key().public_bytes_raw() for host, key in private.items()}
    found = {}
    for host in hosts:
        own = Participant(host, hosts, context)
        keys = list(public.values())
        for other, secret in fellows.secrets_with_fellows(private[host], keys, [b""] * 3, own).items():
            name = " and ".join(sorted((host, other)))
            assert found.setdefault(name, secret.hex()) == secret.hex()
    return {
        "public keys": {host: key.hex() for host, key in public.items()},
        "signed": {host: fellows.signed(context, hosts, host, public[host]).hex() for host in hosts},
        "secrets": found,
    }


@ours("masks", "masks")
def _(given: Given) -> object:
    found = {}
    for name in given["hosts"]:
        secrets = {
            other: data(f"shake256 32 {min(name, other)} and {max(name, other)}")
            for other in given["hosts"]
            if other != name
        }
        masks = fellows.Masks(name, secrets)
        found[name] = [[f"{word:016x}" for word in masks.draw(n).tolist()] for n in given["draws"]]
    return {"masks": found}


# --- agreements, ledger -------------------------------------------------------------------------------


def certificate_of(public: ec.EllipticCurvePublicKey) -> Certificate:
    now = datetime.datetime.now(datetime.UTC)
    return Certificate("insurer", b"", b"", now, now, public)


@ours("agreements", "canonical JSON")
def _(given: Given) -> object:
    text = canonical_settings(given["value"])
    return {"utf-8": text.hex(), "sha256": sha256(text)}


@ours("agreements", "statement of an agreement")
def _(given: Given) -> object:
    fields = dict(given["terms"])
    fields.update({name: bytes.fromhex(fields[name]) for name in ("run", "job")})
    fields["matching"] = Matching(**fields.get("matching", {}))
    return {"statement": Terms(**fields).statement.hex()}


@ours("agreements", "signature")
def _(given: Given) -> object:
    """Signatures have a random part, so that the package makes others; it takes these."""
    private = ec.derive_private_key(int(given["private"], 16), ec.SECP256R1())
    message, answer = data(given["message"]), slow_agreements.ANSWERS["signature"](given)
    certificate = certificate_of(private.public_key())
    assert certificate.verify(bytes.fromhex(answer["signature"]), message)
    assert not certificate.verify(bytes.fromhex(answer["signature"]), message + b"\0")
    numbers = private.public_key().public_numbers()
    point = b"\4" + numbers.x.to_bytes(32, "big") + numbers.y.to_bytes(32, "big")
    return {"public": point.hex(), "signature": answer["signature"]}


def test_the_reference_signs_as_rfc_6979_and_takes_signatures_of_the_package(tmp_path: Path) -> None:
    # RFC 6979, A.2.5: P-256 with SHA-256, "sample".
    case = json.loads((FOLDER / "agreements.json").read_text())["cases"][4]
    assert slow_agreements.read_der(bytes.fromhex(case["answer"]["signature"])) == (
        0xEFD48B2AACB6A8FD1140DD9CD45E81D69D2C877B56AAF991C34D0EA84EAF3716,
        0xF7CB1C942D657C41D436C7A1B6E29F65F3E900DBB9AFF4064DC4AB2F843ACDA8,
    )
    identity = create(tmp_path / "insurer", "insurer")
    numbers = identity.certificate._public.public_numbers()
    signature = slow_agreements.read_der(identity.sign(b"terms"))
    assert slow_agreements.holds((numbers.x, numbers.y), *signature, b"terms")
    assert not slow_agreements.holds((numbers.x, numbers.y), *signature, b"other terms")


def placeless(line: bytes) -> bytes:
    """A line's text, without its hash."""
    return line[: line.rindex(b',"hash":')] + b"}"


@ours("agreements", "chain of a ledger")
def _(given: Given) -> object:
    before, lines = ledger.ORIGIN, []
    for text in given["texts"]:
        entry = msgspec.json.decode(text.encode(), type=ledger.AnyEntry)
        line, before = ledger.encode(entry, before)
        read = ledger.decode(line[:-1])
        assert read.entry == entry and read.hash == before
        lines.append(line[:-1].decode())
    return {"lines": lines}


@ours("agreements", "seal of a ledger")
def _(given: Given) -> object:
    signed = ledger.statement(given["party"], given["n"], given["before"], given["time"])
    answer = slow_agreements.ANSWERS["seal of a ledger"](given)
    entry = ledger.decode(answer["line"].encode()).entry
    assert isinstance(entry, ledger.Seal)
    private = ec.derive_private_key(int(given["private"], 16), ec.SECP256R1())
    assert certificate_of(private.public_key()).verify(entry.signed, signed)
    line, _ = ledger.encode(entry, given["before"])
    return {"signed": signed.hex(), "line": line[:-1].decode()}


# --- sessions -----------------------------------------------------------------------------------------


def kinds() -> dict[str, type[wire.Message]]:
    """All messages of protocols, by name."""
    for module in pkgutil.walk_packages(vfl.protocols.__path__, "vfl.protocols."):
        importlib.import_module(module.name)
    found: dict[str, type[wire.Message]] = {}
    left = wire.Message.__subclasses__()
    while left:
        kind = left.pop()
        found[kind.__name__] = kind
        left += kind.__subclasses__()
    return found


def message_of(given: Given) -> wire.Message:
    def value(field: Any) -> Any:
        if isinstance(field, dict):
            return data(field["bytes"])
        return [value(one) for one in field] if isinstance(field, list) else field

    return kinds()[given["kind"]](**{name: value(field) for name, field in given["fields"].items()})


class Kept(Peer):
    """Keeps what is sent."""

    def __init__(self) -> None:
        super().__init__("peer")
        self.frames: list[bytes] = []

    async def _put(self, frame: bytes) -> None:
        self.frames.append(frame)

    async def _get(self) -> bytes:
        raise NotImplementedError

    async def close(self) -> None:
        raise NotImplementedError


@ours("sessions", "message")
def _(given: Given) -> object:
    message = message_of(given)
    payload = wire.encode(message)
    assert wire.decode(payload, [type(message)]) == message
    return {"payload": payload.hex()}


@ours("sessions", "frames")
def _(given: Given) -> object:
    peer, message = Kept(), message_of(given)

    async def run() -> None:
        await peer.send(message)
        for parts in given["bindings"]:
            peer.bind(*map(data, parts))
            await peer.send(message)

    asyncio.run(run())
    return {"frames": [frame.hex() for frame in peer.frames]}


@ours("sessions", "greeting")
def _(given: Given) -> object:
    ends = [(data(end["certificate"]), data(end["nonce"])) for end in given["ends"]]

    async def run() -> list[bytes]:
        pair = MemoryPeer.pair("one", "other")
        await together(
            [
                hello.greet(
                    peer, own=own, other=other, role="host", answers=answers_, entropy=fixed(nonce)
                )
                for peer, (own, nonce), (other, _), answers_ in zip(
                    pair, ends, ends[::-1], (False, True), strict=True
                )
            ]
        )
        return [peer._session for peer in pair]

    first, second = asyncio.run(run())
    assert first == second
    return {"session": first.hex(), "resume key": hello.resume_key(first).hex()}


@ours("sessions", "mark")
def _(given: Given) -> object:
    dials, listens, nonce = (data(given[name]) for name in ("dials", "listens", "nonce"))
    key = mark.key_of(dials.hex(), listens.hex())
    made = mark.new_mark(key, fixed(nonce))
    assert mark.is_made_with(bytes.fromhex(made), key)
    return {"mark": made}
