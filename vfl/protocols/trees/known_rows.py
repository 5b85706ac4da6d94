"""What a host has learnt of the rows of one tree: in which node each is, and whether it is drawn."""

from collections.abc import Mapping, Sequence
from functools import partial
from itertools import accumulate

import numpy as np
from numpy.typing import NDArray

from vfl.arrays import Integers, Mask
from vfl.blocks.engine import ENGINE, Rows
from vfl.learn.best_first import level_of
from vfl.learn.splits import Candidates, Side
from vfl.learn.tree import Nodes
from vfl.protocols.common.bits import check_bits
from vfl.protocols.trees.node_rows import count_codes, go_left, learn, move

_CODES = 1 << 8  # that a column can have


class KnownRows:
    """Of each row the deepest node that it is known to be in, -1 for none, and if it is in one whether
    it is drawn. Nodes above follow from it."""

    def __init__(self, rows: int, depth: int) -> None:
        self._node: Nodes = np.full(rows, -1, np.min_scalar_type(-(2 << depth)))
        self._drawn = np.zeros(rows, np.bool_)
        self._size = (4 << depth) + 1  # of tables by node, from -1 on
        self._level_of = np.array([0, *map(level_of, range(self._size - 1))], np.int64)

    def learn(self, nodes: Sequence[int], planes: bytes, drawn: bytes) -> Integers:
        """Learn which rows are in these nodes, as Asked has them. How many drawn ones each has.

        Raises ValueError, saying what they are, for rows that these nodes of a tree cannot have.
        """
        rows, depth = len(self._node), len(nodes).bit_length()
        size = -(-rows // 8)
        if len(planes) < depth * size:
            raise ValueError("a wrong number of bits")
        if len(planes) > depth * size:
            raise ValueError("rows of no node")
        told = np.frombuffer(planes, np.uint8).reshape(depth, size)
        anywhere = np.unpackbits(np.bitwise_or.reduce(told, axis=0), count=rows)
        inside = int(np.count_nonzero(anywhere))
        check_bits(drawn, inside)
        if 0 in nodes and inside < rows:
            raise ValueError("other rows of a node than it has")
        asked = np.zeros(self._size, np.bool_)
        asked[np.array(nodes) + 1] = True
        counts = np.zeros(len(nodes), np.int64)
        bits = np.frombuffer(drawn, np.uint8)
        given = np.array(nodes, np.int64), told, bits, self._level_of, asked
        wrong = learn(*given, self._node, self._drawn, counts)
        if wrong & 1:
            raise ValueError("rows of no node")
        if wrong & 2:
            raise ValueError("rows that are in another node")
        if wrong:
            raise ValueError("other rows of a node than it has")
        return counts

    def histograms(self, own: Candidates, codes: Rows, columns: Mapping[int, Integers]) -> Integers:
        """How many drawn rows each of these nodes has in each cell, shape (nodes, cells), of the
        columns that are named for it; 0 in others. `codes`: those that `own` is of, held."""
        most = max(map(len, columns.values()))
        named = np.full((len(columns), most), -1, np.int64)
        for place, of_node in enumerate(columns.values()):
            named[place, : len(of_node)] = of_node
        kernel = partial(_count, self._table(columns), named)
        counts = ENGINE.total(kernel, codes, self._node, self._drawn)
        cells = np.zeros((len(columns), own.cells), np.int64)
        for place, of_node in enumerate(columns.values()):
            for at, column in enumerate(of_node.tolist()):
                first, count = int(own.offsets[column]), own.columns[column].bins + 1
                cells[place, first : first + count] = counts[place, at, :count]
        return cells

    def split(self, codes: Rows, sides: Mapping[int, Side]) -> dict[int, Mask]:
        """Split these nodes so; which of its rows go left, by node."""
        if not sides:
            return {}
        table, nodes = self._table(sides), np.array([*sides], np.int64)
        columns = np.array([side.column for side in sides.values()], np.int64)
        goes = np.zeros((len(sides), _CODES), np.bool_)
        for place, side in enumerate(sides.values()):
            goes[place, : side.missing + 1] = side.goes_left(np.arange(side.missing + 1, dtype=np.uint8))
        found = [*ENGINE.results(partial(_go_left, table, columns, goes), codes, self._node)]
        sizes = np.sum([counts for _, counts in found], axis=0).tolist()
        starts = [0, *accumulate(sizes)]
        told, at = np.zeros(starts[-1], np.bool_), np.array(starts[:-1], np.int64)
        for some, (left, _) in zip(ENGINE.cuts(len(self._node)), found, strict=True):
            move(table, nodes, left, self._node[some], at, told)
        return {
            node: told[first : first + size]
            for node, first, size in zip(sides, starts, sizes, strict=False)
        }

    def _table(self, nodes: Mapping[int, object]) -> Integers:
        """By node, from -1 on, its place among these."""
        table = np.full(self._size, -1, np.int64)
        table[np.array([*nodes]) + 1] = np.arange(len(nodes))
        return table


def _count(
    table: Integers, columns: Integers, codes: NDArray[np.uint8], node: Nodes, drawn: Mask
) -> Integers:
    counts = np.zeros((*columns.shape, _CODES), np.int64)
    count_codes(table, columns, codes, node, drawn, counts)
    return counts


def _go_left(
    table: Integers,
    columns: Integers,
    goes: NDArray[np.bool_],
    codes: NDArray[np.uint8],
    node: Nodes,
) -> tuple[Mask, Integers]:
    """Which rows of a block go left, and how many it has in each node."""
    left, counts = np.zeros(len(node), np.bool_), np.zeros(len(columns), np.int64)
    go_left(table, columns, goes, codes, node, left, counts)
    return left, counts
