"""Which of the shuffled candidates of one node are which of another.

The sums of a node are linear in a candidate's sides, which earlier nodes tell in part. So they can
be predicted, with a variance: the candidates of a node are assigned to those of before such that
the sums are likeliest (linear sum assignment of Mahalanobis distances). Each assignment teaches
more of the sides.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.linalg import solve_triangular
from scipy.optimize import linear_sum_assignment

from vfl.arrays import Floats, Integers
from vfl.leakage.shown import Mask, Shown, ShownNode, ShownTree
from vfl.leakage.subsets import keys_of

_NOISE = 1e-6  # beside equations of norm 1: rounding, and what a false link adds
_MOST_EQUATIONS = 600  # that candidates are followed by


@dataclass(frozen=True, eq=False)
class Equations:
    """What was shown, candidate by candidate: `coefficients` times sides are `sums`, where `known`.

    Rows are scaled to norm 1. Shapes: coefficients (equations, rows); sums, known (candidates,
    equations).
    """

    coefficients: Floats
    sums: Floats
    known: Mask


@dataclass(frozen=True, eq=False)
class Links:
    """The place of each candidate in every node, by (tree, node); -1 where it has none.

    Candidates are numbered as the places that were shown in the first node of all.
    """

    candidates: int
    place: dict[tuple[int, int], Integers]
    share: Floats  # of rows that go left, about


def link(shown: Shown) -> Links:
    """Follow candidates from node to node. Without any sums there are no candidates.

    Within a tree that has an order for each node, by `join`; from tree to tree by `_Follower`.
    """
    within = [join(tree) if shown.order == "node" else None for tree in shown.trees]
    trees = [
        tree if at is None else _reordered(tree, at)
        for tree, at in zip(shown.trees, within, strict=True)
    ]
    blocks = [(number, tree, _summed(tree)) for number, tree in enumerate(trees) if tree.nodes]
    if not blocks:
        return Links(0, {}, np.zeros(0))
    first = blocks[0][2][0]
    anchor = np.flatnonzero(first.known)
    whole = float(shown.trees[blocks[0][0]].h[first.rows].sum())
    share = np.clip(first.hessian[anchor] / max(whole, 1.0), 0.5 / shown.rows, 1 - 0.5 / shown.rows)
    follower = _Follower(shown.rows, share)
    place: dict[tuple[int, int], Integers] = {}
    for number, (tree, values, nodes) in enumerate(blocks):
        if shown.order == "fixed":
            at = anchor
        elif number == 0:
            at = anchor
            follower.begin(values, nodes, at)
        else:
            at = follower.find(values, nodes)
        place[tree, nodes[0].number] = at
    for number, whole_tree in enumerate(shown.trees):
        for node in whole_tree.nodes:
            at = place[number, whole_tree.nodes[0].number]
            by_node = within[number]
            if by_node is not None:
                at = np.where(at >= 0, by_node[node.number][at], -1)
            place[number, node.number] = at
    return Links(len(anchor), place, share)


def _summed(tree: ShownTree) -> list[ShownNode]:
    return [node for node in tree.nodes if not node.derived]


def _reordered(tree: ShownTree, within: dict[int, Integers]) -> ShownTree:
    """The tree with its root's order in every node."""
    nodes = []
    for node in tree.nodes:
        at = within[node.number]
        there = at >= 0
        gradient, hessian, known = (
            np.where(there, of[at], 0) for of in (node.gradient, node.hessian, node.known)
        )
        nodes.append(replace(node, gradient=gradient, hessian=hessian, known=known.astype(np.bool_)))
    return replace(tree, nodes=tuple(nodes))


def join(tree: ShownTree) -> dict[int, Integers]:
    """For each node of a tree with an order a node: the place there of each place of the root, or -1.

    The sums of two children add up to their parent's, exactly, both of them. Where several pairs
    do, as in a first tree, whose gradients have two values, none is taken.
    """
    nodes = {node.number: node for node in tree.nodes}
    found: dict[int, Integers] = {}
    for node in tree.nodes:
        if node.number == 0:
            found[0] = np.arange(len(node.known))
        if node.number in found and 2 * node.number + 1 in nodes:
            left, right = nodes[2 * node.number + 1], nodes[2 * node.number + 2]
            found[left.number], found[right.number] = _pairs(node, found[node.number], left, right)
    return found


def _pairs(
    parent: ShownNode, at: Integers, left: ShownNode, right: ShownNode
) -> tuple[Integers, Integers]:
    """Of each of the parent's places its children's."""
    ours = np.flatnonzero(at >= 0)
    ours = ours[parent.known[at[ours]]]
    lefts, rights = np.flatnonzero(left.known), np.flatnonzero(right.known)
    whole = keys_of(parent.gradient[at[ours]], parent.hessian[at[ours]])
    parts = [keys_of(n.gradient[p], n.hessian[p]) for n, p in ((left, lefts), (right, rights))]
    fits: list[tuple[int, int, int]] = []
    order = np.argsort(whole, kind="stable")
    for i, key in enumerate(parts[0]):
        sums = key + parts[1]
        first = np.searchsorted(whole[order], sums, side="left")
        last = np.searchsorted(whole[order], sums, side="right")
        for j in np.flatnonzero(last > first).tolist():
            fits += [(int(order[w]), i, j) for w in range(int(first[j]), int(last[j]))]
    answers = np.full(len(at), -1), np.full(len(at), -1)
    for w, i, j in _sure(fits):
        answers[0][ours[w]], answers[1][ours[w]] = lefts[i], rights[j]
    return answers


def _sure(fits: list[tuple[int, int, int]]) -> list[tuple[int, int, int]]:
    """Those that are the only one for each of their three, also once others have been taken away."""
    taken: list[tuple[int, int, int]] = []
    while True:
        often = [Counter(fit[part] for fit in fits) for part in range(3)]
        sure = [fit for fit in fits if all(often[part][fit[part]] == 1 for part in range(3))]
        if not sure:
            # One parent's only pair, which others could have too.
            sure = [fit for fit in fits if often[0][fit[0]] == 1]
            sure = [fit for fit in sure if all(sum(o[p] == fit[p] for o in sure) == 1 for p in (1, 2))]
        if not sure:
            return taken
        taken += sure
        used = [{fit[part] for fit in sure} for part in range(3)]
        fits = [fit for fit in fits if not any(fit[part] in used[part] for part in range(3))]


def rows_of(tree: ShownTree, nodes: Sequence[ShownNode]) -> tuple[Floats, Floats]:
    """Coefficients of these nodes' equations, of norm 1, and what they were divided by."""
    rows = [np.where(node.rows, values, 0) for node in nodes for values in (tree.g, tree.h)]
    found = np.array(rows, np.float64).reshape(2 * len(nodes), len(tree.g))
    scale = np.maximum(np.linalg.norm(found, axis=1), 1.0)
    return found / scale[:, None], scale


def sums_of(nodes: Sequence[ShownNode], scale: Floats) -> tuple[Floats, Mask]:
    """What was shown of these nodes, scaled, and which of it: shape (places, equations)."""
    sums = [values for node in nodes for values in (node.gradient, node.hessian)]
    known = [node.known for node in nodes for _ in range(2)]
    return np.array(sums, np.float64).T / scale, np.array(known).T


class _Follower:
    """The sides of each candidate as a normal distribution, which each block narrows.

    At first each row's side has the candidate's share as its mean and the variance of a coin.
    `factor` is the Cholesky factor of the candidate's equations, one times the other; `white` what
    they missed, whitened.
    """

    def __init__(self, rows: int, share: Floats) -> None:
        self._share = share
        self._variance = share * (1 - share)
        self._rows = np.zeros((0, rows))
        self._factor = [np.zeros((0, 0)) for _ in share]
        self._white = [np.zeros(0) for _ in share]
        self._known = [np.zeros(0, np.int64) for _ in share]

    def find(self, tree: ShownTree, nodes: Sequence[ShownNode]) -> Integers:
        """The likeliest place of each candidate; learns what the sums there say."""
        rows, scale = rows_of(tree, nodes)
        sums, known = sums_of(nodes, scale)
        shown = np.flatnonzero(known.any(axis=1))
        patterns, which = np.unique(known[shown], axis=0, return_inverse=True)
        members = [np.flatnonzero(which.reshape(-1) == i) for i in range(len(patterns))]
        before = self._before(rows)
        means = np.array([mean for mean, _, _ in before])
        covariances = np.array([covariance for _, covariance, _ in before])
        cost = np.zeros((len(self._share), len(shown)))
        for pattern, at in zip(patterns, members, strict=True):
            kept = np.flatnonzero(pattern)
            factor = np.linalg.cholesky(covariances[:, kept[:, None], kept])
            missed = sums[np.ix_(shown[at], kept)].T - means[:, kept, None]
            far = (np.linalg.solve(factor, missed) ** 2).sum(axis=1) / self._variance[:, None]
            spread = 2 * np.log(np.diagonal(factor, axis1=1, axis2=2)).sum(axis=1)
            cost[:, at] = far + (spread + len(kept) * np.log(self._variance))[:, None]
        chosen, columns = linear_sum_assignment(cost)
        place = np.full(len(self._share), -1)
        place[chosen] = shown[columns]
        self._learn(rows, sums, known, place, before)
        return place

    def begin(self, tree: ShownTree, nodes: Sequence[ShownNode], place: Integers) -> None:
        """Take in the sums of the first block, of which each candidate has this place."""
        rows, scale = rows_of(tree, nodes)
        self._learn(rows, *sums_of(nodes, scale), place, self._before(rows))

    def _before(self, rows: Floats) -> list[tuple[Floats, Floats, Floats]]:
        """For each candidate the mean and covariance (of variance 1) of a block's sums, and the cross
        covariance with its whitened equations."""
        own = rows @ rows.T + _NOISE**2 * np.eye(len(rows))
        cross = self._rows @ rows.T
        totals = rows.sum(axis=1)
        found = []
        for factor, white, known, share in zip(
            self._factor, self._white, self._known, self._share, strict=True
        ):
            along = solve_triangular(factor, cross[known], lower=True, check_finite=False)
            covariance = own - along.T @ along
            low = np.linalg.eigvalsh(covariance)[0]
            if low < _NOISE**2:
                covariance += (_NOISE**2 - low) * np.eye(len(rows))
            found.append((share * totals + along.T @ white, covariance, along))
        return found

    def _learn(
        self,
        rows: Floats,
        sums: Floats,
        known: Mask,
        place: Integers,
        before: list[tuple[Floats, Floats, Floats]],
    ) -> None:
        if len(self._rows) >= _MOST_EQUATIONS:
            return
        first = len(self._rows)
        self._rows = np.concatenate([self._rows, rows])
        for c, (mean, covariance, along) in enumerate(before):
            kept = np.flatnonzero(known[place[c]]) if place[c] >= 0 else np.zeros(0, np.int64)
            old, size = self._factor[c], len(self._known[c])
            corner = np.linalg.cholesky(covariance[np.ix_(kept, kept)])
            factor = np.zeros((size + len(kept),) * 2)
            factor[:size, :size], factor[size:, :size], factor[size:, size:] = old, along.T[kept], corner
            missed = sums[place[c], kept] - mean[kept]
            white = solve_triangular(corner, missed, lower=True, check_finite=False)
            self._factor[c] = factor
            self._white[c] = np.concatenate([self._white[c], white])
            self._known[c] = np.concatenate([self._known[c], first + kept])


def gather(shown: Shown, links: Links) -> Equations:
    """All equations about each candidate that do not follow from each other within their tree."""
    parts, sums, known = [], [], []
    for number, tree in enumerate(shown.trees):
        nodes = [node for node in tree.nodes if not node.derived]
        if not nodes:
            continue
        rows, scale = rows_of(tree, nodes)
        parts.append(rows)
        for i, node in enumerate(nodes):
            place = links.place[number, node.number]
            for values, by in ((node.gradient, scale[2 * i]), (node.hessian, scale[2 * i + 1])):
                sums.append(values[place] / by)
                known.append(node.known[place] & (place >= 0))
    if not parts:
        nothing = np.zeros((links.candidates, 0))
        return Equations(np.zeros((0, shown.rows)), nothing, nothing.astype(np.bool_))
    return Equations(np.concatenate(parts), np.array(sums).T, np.array(known).T)
