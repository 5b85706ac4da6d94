"""What the package answers about Paillier and packing."""

import numpy as np
from reference import paillier as slow_paillier
from reference.data import sha256

from answered.given import Answers, Given, drawing, fixed, hexes, number
from vfl.crypto import paillier
from vfl.crypto.packing import SumPacking
from vfl.crypto.powers import RandomProducts

ANSWERS = Answers()


def private_key(given: Given, *drawn: int, full: bool = False) -> paillier.PrivateKey:
    p, q = int(given["p"], 16), int(given["q"], 16)
    return paillier.PrivateKey(p, q, drawing(*(drawn or (3,))), full)


def public_key(given: Given, *drawn: int) -> paillier.PublicKey:
    return paillier.PublicKey(int(given["p"], 16) * int(given["q"], 16), drawing(*(drawn or (3,))))


def textbook(given: Given) -> tuple[paillier.PrivateKey, paillier.Ciphertexts]:
    """Ciphertexts with the obfuscators y^n."""
    key = private_key(given)
    n = int(key.public.n)
    obfuscators = [slow_paillier.power(number(y), n, n * n) for y in given["randomness"]]
    made = key.encrypt(given["plaintexts"], key.public.array(list(map(paillier.mpz, obfuscators))))
    assert key.decrypt(made) == given["plaintexts"]
    return key, made


@ANSWERS.of("key")
def _(given: Given) -> object:
    key = private_key(given)
    proof, width = key.proof(), key.public.bits // 8
    key.public.check_proof(proof)
    return {
        "modulus": int(key.public.n).to_bytes(width, "big").hex(),
        "first root": proof[:width].hex(),
        "proof": sha256(proof),
    }


@ANSWERS.of("textbook")
def _(given: Given) -> object:
    return {"ciphertexts": hexes(textbook(given)[1])}


@ANSWERS.of("by the owner")
def _(given: Given) -> object:
    key = private_key(given, number(given["root"]))
    plaintexts, exponents = given["plaintexts"], map(number, given["exponents"])
    drawn = b"".join(exponent.to_bytes(key.drawn, "little") for exponent in exponents)
    made = key.encrypt(plaintexts, key.obfuscators(len(plaintexts), fixed(drawn)))
    assert key.decrypt(made) == given["plaintexts"]
    return {"ciphertexts": hexes(made)}


@ANSWERS.of("by the owner, full exponents")
def _(given: Given) -> object:
    key = private_key(given, number(given["root"]), full=True)
    exponents = (number(given[name]) for name in ("alpha", "beta"))
    drawn = b"".join(exponent.to_bytes(key.drawn // 2, "little") for exponent in exponents)
    return {"ciphertexts": hexes(key.encrypt([given["plaintext"]], key.obfuscators(1, fixed(drawn))))}


@ANSWERS.of("by others")
def _(given: Given) -> object:
    key, plaintexts = public_key(given), given["plaintexts"]
    drawn = key.obfuscators(len(plaintexts), None, drawing(*map(number, given["units"])))
    return {"ciphertexts": hexes(key.rerandomise(key.unsafe_encrypt(plaintexts), drawn))}


@ANSWERS.of("a product of n-th powers")
def _(given: Given) -> object:
    key, units = public_key(given), [*map(number, given["units"])]
    powers = key.integers(key.obfuscators(len(units), None, drawing(*units)))
    product = RandomProducts(powers, key.n_squared).draw(drawing(number(given["exponents"])))
    return {"obfuscator": hexes(key.array([product]))[0]}


@ANSWERS.of("concealed")
def _(given: Given) -> object:
    key, exponent = public_key(given, number(given["base"])), number(given["exponent"])
    concealed = key.conceal(key.unsafe_encrypt([given["plaintext"]]), drawing(exponent))
    return {"ciphertexts": hexes(concealed)}


@ANSWERS.of("arithmetic")
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


@ANSWERS.of("layout")
def _(given: Given) -> object:
    layout = SumPacking.for_rows(given["rows"], given["plaintext bits"])
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
