"""A tree walked node by node: slow, and obviously right."""

from collections.abc import Callable

import numpy as np

from vfl.learn.tree import Branch, Tree


def scores(tree: Tree, rows: int, goes_left: Callable[[Branch], np.ndarray]) -> np.ndarray:
    """What the tree adds to each row's score; `goes_left(branch)` has shape (rows,)."""
    node_of_row = np.zeros(rows, np.int64)
    for node in sorted(tree.branches):
        inside = node_of_row == node
        left = goes_left(tree.branches[node])[inside]
        node_of_row[inside] = 2 * node + np.where(left, 1, 2)
    return tree.weights()[node_of_row]
