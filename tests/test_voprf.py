"""VOPRF(ristretto255, SHA-512): vectors of RFC 9497, many rows at once as one by one, lies."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from reference.data import Stream

from vfl.crypto import group, ristretto, voprf
from vfl.crypto.ristretto import Kernels
from vfl.crypto.voprf import InvalidProof

# RFC 9497, appendix A.1.2: what the known answers, which the reference computes, must be as well.
OF_SEED = "e6f73f344b79b379f1a0dd37e07ff62e38d9f71345ce62ae3a9bc60b04ccd909"
PUBLIC = "c803e2cc6b05fc15064549b5920659ca4a77b2cca6f04f6b357009335476ad4e"
OUTPUTS = (
    "b58cfbe118e0cb94d79b5fd6a6dafb98764dff49c14e1770b566e42402da1a7d"
    "a4d8527693914139caee5bd03903af43a491351d23b430948dd50cde10d32b3c",
    "8a9a2f3c7f085b65933594309041fc1898d42d0858e59f90814ae90571a6df60"
    "356f4610bf816f27afdd84f47719e480906d27ecd994985890e5f539e7ea74b6",
)
VECTORS = [
    {
        "blinded": ["863f330cc1a1259ed5a5998a23acfd37fb4351a793a5b3c090b642ddc439b945"],
        "evaluated": ["aa8fa048764d5623868679402ff6108d2521884fa138cd7f9c7669a9a014267e"],
        "proof": "ddef93772692e535d1a53903db24367355cc2cc78de93b3be5a8ffcc6985dd06"
        "6d4346421d17bf5117a2a1ff0fcb2a759f58a539dfbe857a40bce4cf49ec600d",
        "outputs": [OUTPUTS[0]],
    },
    {
        "blinded": ["cc0b2a350101881d8a4cba4c80241d74fb7dcbfde4a61fde2f91443c2bf9ef0c"],
        "evaluated": ["60a59a57208d48aca71e9e850d22674b611f752bed48b36f7a91b372bd7ad468"],
        "proof": "401a0da6264f8cf45bb2f5264bc31e109155600babb3cd4e5af7d181a2c9dc0a"
        "67154fabf031fd936051dec80b0b6ae29c9503493dde7393b722eafdf5a50b02",
        "outputs": [OUTPUTS[1]],
    },
    {
        "blinded": [
            "863f330cc1a1259ed5a5998a23acfd37fb4351a793a5b3c090b642ddc439b945",
            "90a0145ea9da29254c3a56be4fe185465ebb3bf2a1801f7124bbbadac751e654",
        ],
        "evaluated": [
            "aa8fa048764d5623868679402ff6108d2521884fa138cd7f9c7669a9a014267e",
            "cc5ac221950a49ceaa73c8db41b82c20372a4c8d63e5dded2db920b7eee36a2a",
        ],
        "proof": "cc203910175d786927eeb44ea847328047892ddf8590e723c37205cb74600b0a"
        "5ab5337c8eb4ceae0494c2cf89529dcf94572ed267473d567aeed6ab873dee08",
        "outputs": [*OUTPUTS],
    },
]

KEY = voprf.derive_key(bytes(32), b"tests")
PUBLIC_KEY = voprf.public_key(KEY)


def test_the_answers_are_those_of_the_rfc() -> None:
    file = Path(__file__).parent / "known_answers" / "voprf.json"
    cases = json.loads(file.read_text())["cases"]
    for case, vector in zip(cases, VECTORS, strict=False):
        assert case["answer"] == {"secret": OF_SEED, "public": PUBLIC} | vector


@pytest.mark.parametrize("kernels", [None, ristretto.fastest()])
@settings(max_examples=10, deadline=None)
@given(count=st.integers(1, 5) | st.integers(6, 40), seed=st.integers(0, 2**32))
def test_many_at_once_are_as_one_by_one(kernels: Kernels | None, count: int, seed: int) -> None:
    inputs = [b"%d" % (seed + i // 2) for i in range(count)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(group, "_MANY", 1 if kernels else 10**9)  # by our kernels, or by libsodium
        patch.setattr(group, "_side_by_side", kernels)
        blinded = voprf.blind(inputs, Stream(f"{seed}"))
        evaluated, proof = voprf.evaluate(KEY, PUBLIC_KEY, blinded.points, Stream("proof"))
        found = voprf.finalize(inputs, blinded, evaluated, PUBLIC_KEY, proof)
        assert np.array_equal(found, voprf.outputs(KEY, inputs))
    one_by_one = Stream(f"{seed}")
    for value, point, back, output in zip(inputs, blinded.points, evaluated, found, strict=True):
        alone = voprf.blind([value], one_by_one)
        assert np.array_equal(alone.points[0], point)
        again, own_proof = voprf.evaluate(KEY, PUBLIC_KEY, alone.points)
        assert np.array_equal(again[0], back)
        assert np.array_equal(voprf.finalize([value], alone, again, PUBLIC_KEY, own_proof)[0], output)


def test_a_blinded_input_is_another_one_each_time() -> None:
    points = voprf.blind([b"AB-123"] * 20).points
    assert len({point.tobytes() for point in points}) == 20


INPUTS = [b"%d" % i for i in range(5)]
BLINDED = voprf.blind(INPUTS, Stream("blinds"))
EVALUATED, PROOF = voprf.evaluate(KEY, PUBLIC_KEY, BLINDED.points)
OTHER = voprf.derive_key(bytes(32), b"another key")


def changed(rows: np.ndarray, place: int, row: np.ndarray) -> np.ndarray:
    made = rows.copy()
    made[place] = row
    return made


ONE_BLINDED = voprf.blind(INPUTS[:1], Stream("one blind"))
ONE_EVALUATED, ONE_PROOF = voprf.evaluate(KEY, PUBLIC_KEY, ONE_BLINDED.points)
SCALAR = (group.ORDER - 1).to_bytes(32, "little")
LIES = {
    "another key for one row": (changed(EVALUATED, 3, group.multiply(BLINDED.points, OTHER)[3]), PROOF),
    "another key for all": voprf.evaluate(OTHER, voprf.public_key(OTHER), BLINDED.points),
    "another key with a proof for the public key": voprf.evaluate(OTHER, PUBLIC_KEY, BLINDED.points),
    "rows in another order": (EVALUATED[::-1], PROOF),
    "a proof of other rows": (EVALUATED, voprf.evaluate(KEY, PUBLIC_KEY, BLINDED.points[::-1])[1]),
    "a proof that is cut": (EVALUATED, PROOF[:-1]),
    "a proof that is extended": (EVALUATED, PROOF + b"\0"),
    "a proof of zeros": (EVALUATED, bytes(64)),
    "a number beyond the order": (EVALUATED, PROOF[:32] + group.ORDER.to_bytes(32, "little")),
    "another challenge": (EVALUATED, SCALAR + PROOF[32:]),
    "another response": (EVALUATED, PROOF[:32] + SCALAR),
}


ONE_LIES = {
    "another key": voprf.evaluate(OTHER, voprf.public_key(OTHER), ONE_BLINDED.points),
    "another key with a proof for the public key": voprf.evaluate(OTHER, PUBLIC_KEY, ONE_BLINDED.points),
    "a proof of another element": (ONE_EVALUATED, PROOF),
    "another challenge": (ONE_EVALUATED, SCALAR + ONE_PROOF[32:]),
    "another response": (ONE_EVALUATED, ONE_PROOF[:32] + SCALAR),
}
"""Told of one element, which is checked side by side with what is made of it."""


@pytest.mark.parametrize("lie", LIES)
def test_a_lie_is_found(lie: str) -> None:
    evaluated, proof = LIES[lie]
    with pytest.raises(InvalidProof):
        voprf.finalize(INPUTS, BLINDED, np.ascontiguousarray(evaluated), PUBLIC_KEY, proof)


@pytest.mark.parametrize("kernels", [None, ristretto.fastest()])
@pytest.mark.parametrize("lie", ONE_LIES)
def test_a_lie_about_one_element_is_found(
    lie: str, kernels: Kernels | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(group, "_side_by_side", kernels)
    evaluated, proof = ONE_LIES[lie]
    with pytest.raises(InvalidProof):
        voprf.finalize(INPUTS[:1], ONE_BLINDED, evaluated, PUBLIC_KEY, proof)
    voprf.finalize(INPUTS[:1], ONE_BLINDED, ONE_EVALUATED, PUBLIC_KEY, ONE_PROOF)
    for bad in (bytes(32), b"\xff" * 32):
        row = np.frombuffer(bad, np.uint8).reshape(1, 32)
        with pytest.raises(group.InvalidPoint):
            voprf.finalize(INPUTS[:1], ONE_BLINDED, row, PUBLIC_KEY, ONE_PROOF)
        with pytest.raises(group.InvalidPoint):
            voprf.evaluate(KEY, PUBLIC_KEY, row)


def test_rows_that_are_no_elements_are_refused_on_both_sides() -> None:
    for bad in (np.zeros(32, np.uint8), np.full(32, 255, np.uint8)):
        with pytest.raises(group.InvalidPoint) as refused:
            voprf.evaluate(KEY, PUBLIC_KEY, changed(BLINDED.points, 2, bad))
        assert refused.value.index == 2
        with pytest.raises(group.InvalidPoint):
            voprf.finalize(INPUTS, BLINDED, changed(EVALUATED, 2, bad), PUBLIC_KEY, PROOF)
    with pytest.raises(group.InvalidPoint):
        voprf.finalize(INPUTS, BLINDED, EVALUATED, bytes(32), PROOF)


def test_what_the_rfc_has_no_room_for_is_refused() -> None:
    with pytest.raises(ValueError, match="as many elements"):
        voprf.finalize(INPUTS, BLINDED, EVALUATED[:-1], PUBLIC_KEY, PROOF)
    with pytest.raises(ValueError, match="1 to 65,535 elements"):
        voprf.evaluate(KEY, PUBLIC_KEY, np.empty((0, 32), np.uint8))
    with pytest.raises(ValueError, match="more than 65,535 bytes"):
        voprf.outputs(KEY, [bytes(65_536)])
    with pytest.raises(ValueError, match="32 bytes"):
        voprf.derive_key(b"short", b"")
    with pytest.raises(ValueError, match="scalar"):
        voprf.public_key(bytes(32))
    assert "scalars" not in repr(BLINDED)
