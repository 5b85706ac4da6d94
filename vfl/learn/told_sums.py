"""How many rows a tree is drawn from, and how many sums it tells of each candidate, at most.

By the settings of a job and the number of aligned rows alone: what a host counts before it tells
anything, and what it holds a guest to.
"""

from vfl.learn.params import BoostParams


def takes_largest(params: BoostParams, tree: int) -> bool:
    """Whether a tree is drawn by the size of gradients (GOSS): as in LightGBM not in the first
    1 / learning_rate trees, or rounds of them, whose gradients say little yet."""
    return params.goss_top > 0 and tree // params.round + 1 > 1 / params.learning_rate


def most_drawn(rows: int, params: BoostParams, tree: int) -> int:
    """The most of so many aligned rows that a tree is drawn from, however many of them train."""
    if takes_largest(params, tree):
        shares = params.goss_top, params.goss_other
        return min(rows, sum(max(1, round(share * rows)) for share in shares))
    if params.subsample < 1:
        return max(1, round(params.subsample * rows))
    return rows


def drawn_share(params: BoostParams) -> float:
    """The least share of the rows that train which a tree is drawn from."""
    return params.goss_top + params.goss_other if params.goss_top else params.subsample


def equations_a_tree(rows: int, params: BoostParams) -> int:
    """The most that one tree gives away about a candidate.

    The root and a child of each split are summed. A node that is split has twice `min_child_rows` drawn
    rows, which bounds how many a level has.
    """
    drawn = most_drawn(rows, params, 0)  # GOSS draws from all rows in the first trees
    split = drawn // (2 * params.min_child_rows)
    summed = 1 if split or params.encryption == "lattice" else 0
    for level in range(1, params.depth):
        summed += min(1 << level - 1, split)
    return 2 * min(summed, most_summed(params))


def most_splits(params: BoostParams) -> int:
    """The most splits of one tree."""
    whole = (1 << params.depth) - 1
    return whole if params.max_leaves is None else min(whole, params.max_leaves - 1)


def most_summed(params: BoostParams) -> int:
    """The most nodes of one tree that are summed: the root and a child of each split, but of those that
    are the last."""
    whole = 1 << params.depth - 1
    return whole if params.max_leaves is None else min(whole, params.max_leaves - 1)
