"""Shares of products of secret vectors and columns."""

import asyncio

import numpy as np
import pytest

from vfl.errors import PeerError, Refused
from vfl.learn.matrix import Matrix
from vfl.net.peer import MemoryPeer, together
from vfl.protocols.common.participant import Resources
from vfl.protocols.linear import shared_products
from vfl.protocols.linear.row_products import LIMB_BITS, Factor, RowProducts
from vfl.protocols.linear.shared_products import (
    ColumnsFollow,
    VectorsFollow,
    columns_of,
    share_columns,
    share_vectors,
)

ROWS = 300
EVERY = Matrix(np.ones((1, ROWS), np.uint16), (1,), np.zeros((0, ROWS), np.int32))
ONE = RowProducts(EVERY, [Factor.of(np.ones(ROWS, np.int64), 10)], [(0, 0)])


def limbs(numbers: list[int]) -> Factor:
    """Numbers of 75 bits, as a host has its part of the weights."""
    low = [[number >> (LIMB_BITS * k) & ((1 << LIMB_BITS) - 1) for number in numbers] for k in (0, 1)]
    parts = [*low, [number >> 2 * LIMB_BITS for number in numbers]]
    return Factor([np.array(part, np.int64) for part in parts], 3 * LIMB_BITS)


@pytest.mark.parametrize("entry_bits", [6, 11, 32])
def test_shares_add_up_to_the_product(monkeypatch, entry_bits):
    """Also of the largest numbers, and where digits are as short as those of millions of rows."""
    monkeypatch.setattr(shared_products, "_MOST_BITS", entry_bits)
    rng = np.random.default_rng(entry_bits)
    codes = np.array([rng.integers(0, 4, ROWS), rng.integers(0, 3, ROWS)], np.uint16)
    numbers = rng.integers(-(1 << 20), 1 << 20, (2, ROWS)).astype(np.int32)
    matrices = [Matrix(codes, (3, 2), numbers), Matrix(codes[1:], (2,), numbers[:1])]
    most = (1 << 75) - 1
    long = [most, -most, 0, *(int(x) * 7919**4 for x in rng.integers(-(1 << 20), 1 << 20, ROWS - 3))]
    short = rng.integers(-(1 << 25), 1 << 25, ROWS)
    theirs = Matrix(rng.integers(0, 3, (1, ROWS)).astype(np.uint16), (2,), -numbers[:1])
    terms = [(0, 0), (2, 0), (1, 1), (2, 1)]
    vectors = RowProducts(theirs, [limbs(long), Factor.of(short, 25)], terms)
    pairs = [MemoryPeer.pair("guest", name) for name in ("host1", "host2")]

    async def run():
        return await together(
            [
                share_vectors(
                    [one for one, _ in pairs],
                    vectors,
                    Resources(),
                    [(matrix.columns,) for matrix in matrices],
                ),
                *(
                    share_columns(other, matrix, Resources(), (len(terms),))
                    for (_, other), matrix in zip(pairs, matrices, strict=True)
                ),
            ]
        )

    shares, *of_hosts = asyncio.run(run())
    own = np.array([make() for _, make in columns_of(theirs)]).astype(object)
    factors = [np.array(long, object), short.astype(object)]
    expected = np.array([own[column] * factors[factor] for column, factor in terms])
    for mine, other, matrix in zip(shares, of_hosts, matrices, strict=True):
        columns = np.array([make() for _, make in columns_of(matrix)]).astype(object)
        check_shares(mine, other, expected @ columns.T)


def check_shares(mine, theirs, expected):
    # Unless both are below a quarter a sum has wrapped.
    neither = mine.low & theirs.low
    wrapped = shared_products.SharedSums(
        neither.astype(np.uint64), mine.bits, 0, mine.vectors, mine.outputs
    )
    found = mine.total + theirs.total + wrapped.total * (1 << mine.bits)
    assert (found == expected).all()
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
        await share_vectors([one], ONE, Resources(), [(3,)])

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
        await one.send(VectorsFollow(columns, shifts, 20))
        await share_columns(other, matrix, Resources(), (2,))

    with pytest.raises(PeerError, match=f"^guest .*VectorsFollow {what}"):
        asyncio.run(run())


def test_digits_that_the_noise_would_tell_of_are_refused_before_any_work():
    rows = 1 << 16
    matrix = Matrix(np.ones((1, rows), np.uint16), (1,), np.zeros((0, rows), np.int32))
    one, other = MemoryPeer.pair("guest", "host")

    async def run():
        await one.send(VectorsFollow([0], [0], 32))
        await share_columns(other, matrix, Resources(), (1,))

    with pytest.raises(PeerError, match="VectorsFollow of digits that are not safe"):
        asyncio.run(run())


def test_more_vectors_than_there_may_be_are_refused_before_the_other_hears_of_any():
    """As the products by twos of 200 numbers."""
    numbers = np.full((200, ROWS), (1 << 23) - 1, np.int32)
    matrix = Matrix(np.zeros((0, ROWS), np.uint16), (), numbers)
    factors = [Factor.of(row.astype(np.int64), 23) for row in numbers]
    vectors = RowProducts(matrix, factors, [(i, j) for j in range(200) for i in range(j + 1)])
    one, other = MemoryPeer.pair("host", "guest")

    async def run():
        await other.send(ColumnsFollow(1, []))
        with pytest.raises(Refused, match=r"^inference = true takes [0-9,]+ encrypted vectors "):
            await share_vectors([one], vectors, Resources(), [(1,)])
        await one.send(VectorsFollow([0], [0], 20))
        return await other.recv(VectorsFollow)

    assert asyncio.run(run()).columns == [0]
