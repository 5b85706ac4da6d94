"""How much a hint's answers leak over its whole life, and how long that is."""

import math
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vfl.crypto.lattice import parameters
from vfl.crypto.lattice.parameters import DEGREE, choose
from vfl.learn.params import BoostParams, GlmParams
from vfl.protocols.common.lattice_sums import Shape
from vfl.protocols.linear.lattice_products import fit_shape
from vfl.protocols.trees.quantisation import lattice_shape


def shape_of(job: str, rows: int) -> Shape:
    """What both sides know of the vectors of 100 trees, or of a linear model."""
    if job == "trees":
        return lattice_shape(rows, BoostParams(encryption="lattice", trees=100, depth=5))
    return fit_shape(rows, GlmParams(encryption="lattice"))[1]


def test_the_table_of_docs_is_what_jobs_use() -> None:
    page = (Path(__file__).parents[1] / "docs" / "lattice.md").read_text(encoding="utf-8")
    lines = re.findall(r"^\| (trees|linear) \| ([\d,]+) \| (.*) \|$", page, re.MULTILINE)
    assert len(lines) >= 10
    for job, rows, figures in lines:
        shape = shape_of(job, int(rows.replace(",", "")))
        p = shape.parameters(620, shape.word_bits([620]))
        found = [str(p.value_bits), str(p.word_bits), str(p.scale_bits)]
        found += [f"2^{math.log2(size):.1f}" for size in (p.noise, p.flood)]
        found += [f"{p.margin_bits:.1f}", f"{p.queries:,}"]
        found += [f"2^{math.log2(leak):.1f}" for leak in (p.sum_leak, p.key_leak)]
        assert figures == " | ".join(found), (job, rows)


@given(rows=st.integers(100, 10**7), outputs=st.integers(1, 1 << 16), trees=st.integers(1, 2000))
@settings(max_examples=60)
def test_a_hint_leaks_little_over_its_whole_life(rows: int, outputs: int, trees: int) -> None:
    """Which is bounded whatever a job needs, and holds the job."""
    params = BoostParams(encryption="lattice", trees=trees, depth=4)
    for shape in (shape_of("linear", rows), lattice_shape(rows, params)):
        try:
            word_bits = shape.word_bits([outputs, 7])
        except ValueError as error:
            assert outputs > DEGREE and str(error).startswith(f"{outputs:,} sums of each of ")
            continue
        p = shape.parameters(outputs, word_bits)
        served = shape.of(word_bits).served
        assert served <= p.queries <= max(1 << 16, served)
        assert p.sum_leak <= parameters.SUM_LEAK <= 2**-4 and p.key_leak <= parameters.KEY_LEAK
        # Vectors and sums of all hosts are alike, whatever their outputs are.
        assert p.serving(7, 1) == shape.parameters(7, word_bits).serving(7, 1)


@given(
    rows=st.integers(2, 40),
    outputs=st.integers(1, 8),
    seed=st.integers(0, 999),
    ratio=st.floats(0.01, 1),
)
def test_who_does_not_know_the_errors_learns_less_than_is_counted(
    rows: int, outputs: int, seed: int, ratio: float
) -> None:
    """Of Gaussian errors exactly: what tells answers of a matrix from the flooding alone."""
    p = choose(100_000, 6, outputs, 1, errors_known=False)
    assert p.word_bits == 48 and p.margin_bits < 14
    matrix = np.random.default_rng(seed).integers(0, 2, (outputs, rows))
    flood = math.sqrt(2 * outputs) / ratio  # beside noise of deviation 1, if all rows are in an output
    wider = matrix @ matrix.T / rows / flood**2
    exact = (np.trace(wider) - np.linalg.slogdet(np.eye(outputs) + wider)[1]) / 2
    counted = replace(p, flood=p.noise * flood).sum_leak
    assert exact <= counted
    assert math.isinf(replace(p, flood=p.noise * math.sqrt(outputs)).sum_leak)


def test_a_hint_lives_as_long_as_its_outputs_allow() -> None:
    strict = choose(100_000, 13, 620, 3200)
    assert strict.queries == 3200
    few, many = strict.serving(10, 1 << 30), strict.serving(1000, 1 << 30)
    assert few.queries // 100 == many.queries > 3200  # leaks add up over outputs
    assert few.sum_leak <= parameters.SUM_LEAK < (few.queries + 1) * few.sum_leak / few.queries
    with pytest.raises(ValueError, match="fewer sums or bits a value"):
        choose(100_000, 18, 620, 1 << 16)
    some = choose(100_000, 18, 620, 1 << 16, least=3200)
    assert 3200 <= some.queries < 1 << 16 and some.sum_leak <= parameters.SUM_LEAK
    with pytest.raises(ValueError, match="fewer sums or bits a value"):
        choose(100_000, 18, 620, 1 << 16, least=some.queries + 1)
