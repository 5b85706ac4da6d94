"""Shares of products of secret vectors and columns."""

import asyncio

import numpy as np
import pytest

from vfl.errors import PeerError, Refused
from vfl.learn.matrix import Matrix
from vfl.net.peer import MemoryPeer, together
from vfl.protocols.common.participant import Resources
from vfl.protocols.linear import shared_products
from vfl.protocols.linear.shared_products import (
    ColumnsFollow,
    Piece,
    VectorsFollow,
    columns_of,
    share_columns,
    share_vectors,
)

ROWS = 300
PIECE = Piece(0, 0, 10, lambda: np.ones(ROWS, np.int64))


@pytest.mark.parametrize("entry_bits", [11, 40])
def test_shares_add_up_to_the_product(monkeypatch, entry_bits):
    """Also of the largest numbers, and where digits are as short as those of millions of rows."""
    monkeypatch.setattr(shared_products, "_MOST_BITS", entry_bits)
    rng = np.random.default_rng(entry_bits)
    codes = np.array([rng.integers(0, 4, ROWS), rng.integers(0, 3, ROWS)], np.uint16)
    numbers = rng.integers(-(1 << 20), 1 << 20, (2, ROWS)).astype(np.int32)
    matrix = Matrix(codes, (3, 2), numbers)
    most = (1 << 25) - 1
    vectors = [np.full(ROWS, most), rng.integers(-most, most + 1, ROWS), np.full(ROWS, -most - 1)]
    pieces = [Piece(k, 5 * k, 25, lambda own=own: own) for k, own in enumerate(vectors)]
    one, other = MemoryPeer.pair("guest", "host")

    async def run():
        return await together(
            [
                share_vectors(one, pieces, ROWS, Resources(), (matrix.columns,)),
                share_columns(other, matrix, Resources(), (len(pieces),)),
            ]
        )

    mine, theirs = asyncio.run(run())
    columns = np.array([make() for _, make in columns_of(matrix)]).astype(object)
    scaled = np.array([[1], [32], [1024]], object) * np.array(vectors).astype(object)
    # Unless both are below a quarter a sum has wrapped.
    neither = mine.low & theirs.low
    wrapped = shared_products.SharedSums(
        neither.astype(np.uint64), mine.bits, 0, mine.vectors, mine.outputs
    )
    found = mine.total + theirs.total + wrapped.total * (1 << mine.bits)
    assert (found == scaled @ columns.T).all()
    # Either share alone is uniform: of all sums about a quarter are below a quarter.
    assert abs(mine.low.mean() - 0.25) < 0.15 and abs(theirs.low.mean() - 0.25) < 0.15


@pytest.mark.parametrize(
    ("levels", "bits"),
    [(1 << 16, [63] * (1 << 16)), (2, []), (3, [1]), (0, [])],
)
def test_columns_that_the_other_did_not_say_are_refused_before_any_work(levels, bits):
    one, other = MemoryPeer.pair("guest", "host")

    async def run():
        await other.send(ColumnsFollow(levels, bits))
        await share_vectors(one, [PIECE], ROWS, Resources(), (3,))

    with pytest.raises(PeerError, match=r"^host .*ColumnsFollow of other columns than it said"):
        asyncio.run(run())


@pytest.mark.parametrize(
    ("columns", "shifts", "what"),
    [
        ([0, 2], [0, 0], "of other columns than it said"),  # one lacks
        ([0], [0], "of other columns than it said"),
        ([0, 1, 2], [0, 0, 0], "of other columns than it said"),
        ([], [], "of other columns than it said"),
        ([0, 1], [0], "of other shifts than vectors"),
        ([0, -1], [0, 0], "of columns or digits that cannot be"),
        ([0, 1], [0, 256], "of columns or digits that cannot be"),
        ([0, 1, 1], [0, 7, 7], "of more digits than its columns have"),
        ([0, 1] * 200, [place // 2 for place in range(400)], "of more digits than its columns have"),
    ],
)
def test_vectors_that_the_other_did_not_say_are_refused_before_any_work(columns, shifts, what):
    matrix = Matrix(np.ones((1, ROWS), np.uint16), (1,), np.zeros((0, ROWS), np.int32))
    one, other = MemoryPeer.pair("guest", "host")

    async def run():
        await one.send(VectorsFollow(columns, shifts))
        await share_columns(other, matrix, Resources(), (2,))

    with pytest.raises(PeerError, match=f"^guest .*VectorsFollow {what}"):
        asyncio.run(run())


def test_more_vectors_than_there_may_be_are_refused_before_the_other_hears_of_any():
    """As the products by twos of 150 numbers."""
    pieces = [Piece(k, 0, 46, PIECE.values) for k in range(150 * 151 // 2)]
    one, other = MemoryPeer.pair("host", "guest")

    async def run():
        with pytest.raises(Refused, match=r"^inference = true takes 33,975 encrypted vectors "):
            await share_vectors(one, pieces, ROWS, Resources(), (1,))
        await one.send(VectorsFollow([0], [0]))
        return await other.recv(VectorsFollow)

    assert asyncio.run(run()).columns == [0]
