"""Attacks on words of pairs, and on hints and matrices, by parties that do not follow the protocol."""

import dataclasses
import hashlib
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from test_boost import make_job
from test_lattice import entropy
from test_lattice_boost import federated, kept_in, settings_of

from vfl.arrays import Integers
from vfl.crypto.lattice import answers, direct, wide
from vfl.crypto.lattice.hint import EncryptedHint, HintKey
from vfl.crypto.lattice.parameters import DEGREE, PAIR_WORD, Parameters, choose
from vfl.crypto.lattice.vectors import Secrets
from vfl.protocols.common import lattice_hints
from vfl.protocols.trees import lattice as lattice_boost
from vfl.protocols.trees import quantisation

SEED, SECRET = bytes(range(32)), b"k" * 32
KINDS = [pytest.param(PAIR_WORD, id="pairs"), pytest.param(48, id="single")]


# --- A hint that was tried under parameters of a wide step, and is used under ones of a short one. ---


def shifted(outputs: int, by: int, wide_words: bool) -> NDArray[np.uint64]:
    """A hint of no matrix: output i is off by coefficient i of a secret, times `by`."""
    hint = np.zeros((outputs, DEGREE, 2), np.uint64)
    hint[np.arange(outputs), np.arange(outputs), 0] = by
    return hint if wide_words else hint[..., 0]


def zeros_read(p: Parameters, encrypted: EncryptedHint, key: HintKey, drawn: Secrets) -> Integers:
    """What a guest reads of zeros, under fresh products."""
    count, outputs = len(drawn), p.outputs
    products, masks = encrypted.multiply(drawn, entropy(4))
    sums = np.zeros((count, outputs), np.uint64)
    total = wide.of(sums) if p.pairs else sums
    answer = answers.seal(p, total, key.open(products, count), entropy(5))
    return answers.unseal(p, answer, masks, hidden=True)


@pytest.mark.parametrize("word_bits", KINDS)
def test_a_kept_file_is_of_the_parameters_that_it_was_tried_with(tmp_path: Path, word_bits: int) -> None:
    """Shifts by a step of the second job are far within reach of the first one's: they pass its trial
    for certain, and would tell a coefficient of every secret by each output of the second."""
    before, after = (choose(600, bits, 64, 1 << 10, words=(word_bits,)) for bits in (6, 13))
    step = 1 << after.scale_bits
    assert before.scale_bits >= after.scale_bits + 3 and step <= before.reach // 2
    file = tmp_path / "hint"
    key = HintKey(before, SEED, SECRET, b"")
    encrypted = EncryptedHint(before, SEED, key.header(), file)
    for number, part in enumerate(key.encrypt(shifted(64, step, before.pairs))):
        encrypted.load(number, part)
    drawn = Secrets.draw(2, entropy(3))
    assert not zeros_read(before, encrypted, key, drawn).any()  # it passes
    assert EncryptedHint(before, SEED, key.header(), file).complete
    again = EncryptedHint(after, SEED, key.header(), file)
    if again.complete:
        told = zeros_read(after, again, HintKey(after, SEED, SECRET, b""), drawn)
        right = float((-told == drawn.values[:, :64]).mean())
        pytest.fail(f"{right:.0%} of the coefficients of secrets are read, where a guess has 33%")


@pytest.mark.parametrize("kind", ["pairs", "single", "matrix"])
def test_a_host_cannot_have_a_hint_taken_that_was_tried_otherwise(tmp_path, monkeypatch, kind):
    """It says that the hint is still the one of its matrix, whatever parameters the job has."""
    bits = 6

    def shape(rows, params, of=quantisation.lattice_shape):
        return dataclasses.replace(
            of(rows, params), pairs=kind == "pairs", direct=kind == "matrix", value_bits=bits
        )

    monkeypatch.setattr(direct, "_LEAST_SPARED", 0)
    for module in (lattice_boost, quantisation):
        monkeypatch.setattr(module, "lattice_shape", shape)
    monkeypatch.setattr(
        lattice_hints,
        "_matter",
        lambda matrix, parameters: hashlib.sha256(matrix.digest()).digest(),
    )
    job, made = make_job(600, 1, 6, settings_of(trees=1, depth=2)), list[int]()

    def is_made() -> bool:
        made.clear()
        federated(job, **kept_in(tmp_path, job, lambda done, of: made.append(of)))
        return bool(made)

    assert is_made() and not is_made()
    bits = 13
    assert is_made()
