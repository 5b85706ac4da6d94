"""What is computed on blocks of rows is the same for any size of block."""

from functools import partial

import numpy as np
import pytest
from apart import Apart
from hypothesis import given
from hypothesis import strategies as st
from row_kernels import Counting, add, divided, scaled, shape_and_values, sums, third
from test_boost import make_job
from test_lattice_boost import assert_same_model

from vfl.blocks.engine import ENGINE, Embedded, Engine, Pieces, overlaps
from vfl.learn.params import BoostParams


@given(st.integers(1, 40), st.integers(1, 50), st.integers(0, 2**32), st.booleans())
def test_blocks_in_their_order(rows: int, block: int, seed: int, apart: bool):
    engine: Engine = Apart(block) if apart else Embedded(block)
    rng = np.random.default_rng(seed)
    table, values = rng.integers(0, 9, (3, rows)), rng.integers(-9, 9, rows)
    held = engine.hold(iter(np.split(table, [rows // 3], axis=1)))
    assert held.shape == table.shape and held.dtype == table.dtype and len(held) == 3
    for one in (table, held):
        seen = list(engine.results(shape_and_values, one, values))
        assert [value for _, part in seen for value in part] == values.tolist()
        assert all(shape == (3, len(part)) for shape, part in seen)
        total = engine.total(sums, one, values)
        assert total.tolist() == (table * values).sum(axis=1).tolist()
        made = engine.make(add, one, values)
        assert engine.gather(made, 1, 7).tolist() == (table + values)[:, 1:7].tolist()
        assert engine.keep(made).tolist() == (table + values).tolist()
    pieces = Pieces(range(len(seen)))
    kernel = partial(scaled, 2, engine.share(np.array([7])))
    assert engine.gather(engine.make(kernel, held, pieces)).tolist() == [
        [cell * 2 + 7 + i // block for i, cell in enumerate(row)] for row in table.tolist()
    ]
    engine.fill(table, add, table, values)
    out = np.empty(rows)
    engine.fill(out, third, table[0])
    assert out.tolist() == (table[0] / 3).tolist()


def test_arrays_of_other_rows():
    for engine in (Embedded(4), Apart(4)):
        with pytest.raises(ValueError, match="too many values to unpack"):
            list(engine.results(len, np.zeros(5), np.zeros(6)))


def test_held_rows_are_not_taken_for_an_array():
    held = Apart(4).hold(np.zeros((2, 9)))
    with pytest.raises(TypeError, match="gather"):
        np.asarray(held)
    with pytest.raises(TypeError, match="another engine"):
        list(Embedded(4).results(len, held))


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"encryption": "lattice"},
        {"subsample": 0.5, "colsample": 0.5, "early_stopping_rounds": 1, "validation_share": 0.3},
        {"goss_top": 0.2, "goss_other": 0.2, "encryption": "lattice"},
    ],
)
@pytest.mark.parametrize(
    ("block", "objective"),
    [(7, "binary"), (64, "poisson"), (5, "tweedie"), (13, "gamma"), (199, "squared")],
)
def test_trees_are_the_same_for_any_block(
    settings: dict, block: int, objective: str, monkeypatch: pytest.MonkeyPatch
):
    params = BoostParams(trees=3, depth=3, max_bins=8, min_child_rows=5, **settings)
    job = make_job(200, 0, 6, params, objective=objective, with_offset=block % 2 == 1)
    model, score = job.oracle()
    for engine in (Embedded(block), Apart(block)):
        monkeypatch.setattr(ENGINE, "chosen", engine)
        again, scores = job.oracle()
        assert again == model
        np.testing.assert_array_equal(scores, score)


def test_parties_whose_rows_lie_apart(monkeypatch: pytest.MonkeyPatch):
    """Hosts' rows as well, of whom each says which rows of a node go left."""
    params = BoostParams(
        trees=3, depth=3, max_bins=8, min_child_rows=5, encryption="lattice", subsample=0.8
    )
    job = make_job(200, 2, 6, params)
    monkeypatch.setattr(ENGINE, "chosen", Apart(37))
    assert_same_model(job)


@pytest.mark.parametrize("engine", [Embedded(), Embedded(7), Apart(7), Apart(100)])
def test_adders_and_what_is_begun(engine: Engine) -> None:
    values, seen = np.arange(40) % 9, list[tuple[int, int]]()
    total = engine.sum_by(
        partial(Counting, 3), engine.hold(values), follow=lambda done, of: seen.append((done, of))
    )
    assert total.tolist() == [3 * values.sum(), sum(range(40))]
    assert [done for done, _ in seen] == [*range(1, seen[-1][1] + 1)]
    cuts = engine.cuts(40)
    kernel = partial(scaled, 2, engine.share(np.array([7])))
    for place, cut in enumerate(cuts):
        begun = engine.begin(kernel, place, engine.hold(values), Pieces(range(len(cuts))))
        assert begun.result().tolist() == [cell * 2 + 7 + place for cell in values[cut].tolist()]
    parts = [*overlaps(cuts, 5, 12)]
    assert parts[0][1] == 5 and parts[-1][2] == 12
    with pytest.raises(ZeroDivisionError):
        engine.begin(partial(divided, 0), 0, values).result()
