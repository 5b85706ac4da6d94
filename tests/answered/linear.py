"""What the package answers about what travels of linear models."""

import numpy as np

from answered.given import Answers, Given
from vfl.protocols.linear.lattice_products import Digits
from vfl.protocols.linear.masked_scores import fixed_point
from vfl.protocols.linear.products import most_ciphertexts

ANSWERS = Answers()


@ANSWERS.of("digits")
def _(given: Given) -> object:
    digits, residuals = Digits.of(given["rows"]), np.array(given["residuals"])
    cut = digits.cut(residuals)
    assert digits.join(cut) == given["residuals"]
    return {"count": digits.count, "value_bits": digits.value_bits, "digits": cut.T.tolist()}


@ANSWERS.of("most ciphertexts")
def _(given: Given) -> object:
    return {"ciphertexts": most_ciphertexts(given["key_bits"], given["columns"], given["rows"])}


@ANSWERS.of("scores")
def _(given: Given) -> object:
    words = fixed_point(np.array(given["scores"]), given["precision"])
    return {"words": [f"{word:016x}" for word in words.tolist()]}
