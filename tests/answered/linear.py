"""What the package answers about what travels of linear models."""

import numpy as np
from reference.data import data

from answered.given import Answers, Given
from vfl.protocols.common.fellows import Masks
from vfl.protocols.common.transcript import Transcript
from vfl.protocols.linear.encrypted_product import Layout
from vfl.protocols.linear.lattice_products import Digits
from vfl.protocols.linear.masked_numbers import hidden, in_fixed_point, received
from vfl.protocols.linear.masked_scores import fixed_point
from vfl.protocols.linear.rounding import number_bits

ANSWERS = Answers()


@ANSWERS.of("digits")
def _(given: Given) -> object:
    digits, residuals = Digits.of(given["rows"]), np.array(given["residuals"])
    cut = digits.cut(residuals)
    assert digits.join(cut) == given["residuals"]
    return {"count": digits.count, "value_bits": digits.value_bits, "digits": cut.T.tolist()}


@ANSWERS.of("opened products")
def _(given: Given) -> object:
    layout = Layout(given["key_bits"], given["columns"], number_bits(given["bits"]))
    plaintexts = [int.from_bytes(data(plaintext), "big") for plaintext in given["plaintexts"]]
    opened = layout.cut(plaintexts)
    assert len(opened) == layout.size
    return {"bits": sum(layout.lengths), "opened": opened.hex()}


@ANSWERS.of("numbers")
def _(given: Given) -> object:
    integers = in_fixed_point(given["numbers"], given["unit"], "numbers")
    sent = hidden(integers, Masks("host", {}, Transcript()))
    assert received(sent, len(integers)) == [integer % 2**256 for integer in integers]
    return {"bytes": sent.hex()}


@ANSWERS.of("scores")
def _(given: Given) -> object:
    words = fixed_point(np.array(given["scores"]), given["precision"])
    return {"words": [f"{word:016x}" for word in words.tolist()]}
