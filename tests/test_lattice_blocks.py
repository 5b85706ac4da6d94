"""Encrypted sums over lattices are the same words wherever rows lie, and however they are cut."""

from functools import partial

import numpy as np
import pytest
from apart import Apart
from test_lattice import DEGREE, SEED, entropy, mixed_matrix

from vfl.arrays import Integers
from vfl.blocks.engine import ENGINE, Array, Embedded, Engine
from vfl.crypto.lattice.direct import entries_of
from vfl.crypto.lattice.matrix import Accumulator, CellMatrix, CodedColumn, Outputs, make_hint
from vfl.crypto.lattice.parameters import choose
from vfl.crypto.lattice.vectors import PublicRows, Secrets, VectorEncryption, joined
from vfl.crypto.randomness import Stream
from vfl.protocols.common.lattice_direct import vectors_of
from vfl.protocols.common.lattice_sums import Entries

ROWS = 2 * DEGREE + 1500
ENGINES = [Embedded(3000), Embedded(DEGREE), Apart(DEGREE), Apart(2999), Apart(7001)]


def entries(by: int, values: Array) -> Integers:
    return np.stack([values, by - values]).astype(np.int64)


def held(matrix: CellMatrix) -> CellMatrix:
    """The same with all codes where the engine has rows, those of one kind in one array."""
    kinds: dict[str, list[CodedColumn]] = {}
    for column in matrix.columns:
        kinds.setdefault(f"{column.codes.dtype} {column.bins > 0}", []).append(column)
    columns = []
    for column in matrix.columns:
        alike = kinds[f"{column.codes.dtype} {column.bins > 0}"]
        columns.append((alike, alike.index(column), column.bins))
    arrays = {id(alike): ENGINE.hold(np.stack([one.codes for one in alike])) for alike in kinds.values()}
    of = [CodedColumn(arrays[id(alike)], bins, row) for alike, row, bins in columns]
    return CellMatrix(of, matrix.outputs)


def scheme(matrix: CellMatrix, own: Array) -> list[object]:
    """All that guest and host make that depends on rows."""
    p = choose(matrix.rows, 8, len(matrix.outputs), 10)
    public, draw = PublicRows(SEED, matrix.rows), entropy(3)
    encryption = VectorEncryption(p, public, Secrets.draw(2, draw), draw)
    kernel = partial(entries, 5)
    pieces = []
    for start in range(0, matrix.rows, 2 * DEGREE):
        begun = encryption.begin(start, min(start + 2 * DEGREE, matrix.rows), kernel, ENGINE.hold(own))
        pieces.append((start, joined(p, (part for one in begun for part in one.result()))))
    sums = Accumulator(p, matrix, 2)
    for start, piece in reversed(pieces):
        sums.add(start, piece)
    seen: list[tuple[int, int]] = []
    hint = make_hint(matrix, public, lambda done, of: seen.append((done, of)))
    assert [done for done, _ in seen] == [*range(1, seen[-1][1] + 1)]
    bounds = [(column.bounds, column.size) for column in matrix.columns]
    return [pieces, sums.result().tobytes(), hint.tobytes(), matrix.digest(), matrix.weight, bounds]


@pytest.fixture(scope="module")
def expected() -> list[object]:
    return scheme(mixed_matrix(ROWS), own_values())


def own_values() -> Array:
    return np.random.default_rng(1).integers(-100, 100, ROWS).astype(np.int8)


@pytest.mark.parametrize("engine", ENGINES, ids=lambda one: f"{type(one).__name__} {vars(one)}")
def test_the_same_words(engine: Engine, expected: list[object]) -> None:
    with ENGINE.instead(engine):
        assert scheme(held(mixed_matrix(ROWS)), own_values()) == expected


def test_values_are_checked_where_they_are_made() -> None:
    p = choose(ROWS, 7, 5, 10)
    with ENGINE.instead(Apart(3000)):
        encryption = VectorEncryption(p, PublicRows(SEED, ROWS), Secrets.draw(2, entropy(0)), Stream())
        begun = encryption.begin(0, DEGREE, partial(entries, 5), own_values())
        with pytest.raises(ValueError, match="7 bits"):
            [one.result() for one in begun]
        with pytest.raises(ValueError, match="before"):
            encryption.begin(0, DEGREE, partial(entries, 5), own_values())


def test_columns_of_one_array() -> None:
    codes = np.random.default_rng(0).integers(0, 3, (2, 50)).astype(np.uint8)
    columns = CodedColumn.all_of(codes, [3, 4])
    assert [column.bounds for column in columns] == [(0, 2), (0, 2)]
    with pytest.raises(ValueError, match="bins"):
        CodedColumn.all_of(codes, [3, 2])
    one = Outputs(np.array([0, 1]), np.array([3]), np.array([1]))
    apart = CellMatrix([CodedColumn(row, bins) for row, bins in zip(codes, [3, 4], strict=True)], one)
    assert CellMatrix(columns, one).digest() == apart.digest()
    assert CodedColumn.all_of(codes[:0], []) == []


@pytest.mark.parametrize("engine", [Embedded(200), Apart(333)], ids=lambda one: type(one).__name__)
def test_matrices_and_vectors_are_brought_together(engine: Engine) -> None:
    matrix, values = mixed_matrix(700), np.arange(700) - 350
    whole = entries_of(matrix)
    with ENGINE.instead(engine):
        assert np.array_equal(entries_of(held(matrix)), whole)
        made = vectors_of(Entries(2, partial(entries, 5), (ENGINE.hold(values),)))
    assert np.array_equal(made, entries(5, values))
