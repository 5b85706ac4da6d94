"""A host works labels out of which rows share nodes.

A training puts rows with like gradients together, and so, from the first tree on, rows with like labels.
Who is told the nodes can cluster rows by them (ID2Graph: Takahashi et al., arXiv 2307.10318), or extend
labels that it has of some rows to all others (Fu et al., USENIX Security 2022).
"""

import numpy as np
from scipy.sparse import csr_array
from scipy.sparse.linalg import svds
from scipy.stats import rankdata

from vfl.arrays import Floats, Integers
from vfl.leakage.shown import Mask, Shown
from vfl.leakage.success import Success

_RIDGE = 0.1


def told(leaves: Integers, depth: int, shown: Shown) -> Integers:
    """The node of each row, shape (trees, rows), as a host under a key knows it.

    It is told all but the last splits, of which it knows its own, and nothing of a tree of the guest
    alone.
    """
    nodes = np.where(leaves >= (1 << depth) - 1, (leaves - 1) // 2, leaves)
    joint = np.array([bool(tree.nodes) for tree in shown.trees], np.bool_)
    # Of two nodes on a row's path the lower has the higher number.
    return np.where(joint[:, None], np.maximum(nodes, asked(shown)), -1)


def asked(shown: Shown) -> Integers:
    """The same over the lattice engine, which tells a host the nodes that it may win: where it won, the
    side of each row; -1 for rows of no such node."""
    nodes = np.full((len(shown.trees), shown.rows), -1, np.int64)
    for own, tree in zip(nodes, shown.trees, strict=True):
        for split in tree.splits:
            own[split.rows] = 2 * split.node + np.where(split.left[split.rows], 1, 2)
    return nodes


def _shared(nodes: Integers) -> csr_array:
    """One row a row, one column a node of any tree, scaled such that rows times rows is the normalised
    graph of shared nodes. Nodes below 0 are not known."""
    trees, rows = nodes.shape
    labels = nodes + np.arange(trees)[:, None] * (int(nodes.max(initial=0)) + 1)
    known = nodes >= 0
    names, column = np.unique(labels[known], return_inverse=True)
    row = np.broadcast_to(np.arange(rows), nodes.shape)[known]
    size = np.bincount(column, minlength=len(names)).astype(np.float64)
    often = np.maximum(np.bincount(row, minlength=rows), 1).astype(np.float64)
    values = 1 / np.sqrt(size[column] * often[row])
    return csr_array((values, (row, column)), shape=(rows, len(names)))


def cluster(nodes: Integers, seed: int = 0) -> Floats:
    """Two scores of each row, shape (2, rows): along each, rows that share nodes are near.

    The first two vectors beside the trivial one that cut the graph of shared nodes (Shi, Malik,
    "Normalized cuts and image segmentation", 2000). Which end is which they do not say.
    """
    graph = _shared(nodes)
    if min(graph.shape) < 4:
        return np.zeros((2, nodes.shape[1]))
    start = np.random.default_rng(seed).normal(size=min(graph.shape))
    vectors, values, _ = svds(graph, k=3, v0=start)
    often = np.maximum((nodes >= 0).sum(axis=0), 1)
    return np.asarray(vectors[:, np.argsort(-values)[1:]].T / np.sqrt(often))


def extend(nodes: Integers, labels: Floats, known: Mask) -> Floats:
    """A score of each row from the labels of those that are known: ridge regression on shared nodes."""
    graph = _shared(nodes)
    mine = graph[np.flatnonzero(known)]
    own = (mine @ mine.T).toarray()
    mean = float(labels[known].mean())
    weight = np.linalg.solve(own + _RIDGE * np.eye(len(own)), labels[known] - mean)
    return np.asarray(mean + graph @ (mine.T @ weight))


def success(
    nodes: Integers, label: Floats, known: Mask | None = None, who: str = "host", about: str = "guest"
) -> Success:
    """How well rows with and without claims are told apart (AUC), of those whose label the host lacks.

    `known`: rows whose label the host has from elsewhere. Without them the host is given which of the
    four ends of `cluster` is the claims, as who knows the business can tell; guessing then is as much
    above a half as the best of the four would be of random scores.
    """
    positive = (label > np.median(label)) if len(np.unique(label)) > 2 else label > label.min()
    others = np.ones(len(label), np.bool_) if known is None else ~known
    attack = "node membership" if known is None else "node membership, some labels known"
    unit = "AUC of labels"
    ones, rest = int(positive[others].sum()), int((~positive[others]).sum())
    if not len(nodes) or not ones or not rest:
        return Success(attack, who, about, 0.5, 0.5, unit)
    if known is not None:
        score = extend(nodes, positive.astype(np.float64), known)
        return Success(attack, who, about, _auc(positive[others], score[others]), 0.5, unit)
    found = [_auc(positive, score) for score in cluster(nodes)]
    deviation = np.sqrt((ones + rest + 1) / (12 * ones * rest))
    guessing = 0.5 + float(2 / np.sqrt(np.pi) * deviation)  # of the larger of two half-normals
    return Success(attack, who, about, max(*found, *(1 - auc for auc in found)), guessing, unit)


def _auc(positive: Mask, score: Floats) -> float:
    """How often a row of the one kind scores above one of the other."""
    ones = int(positive.sum())
    above = float(rankdata(score)[positive].sum()) - ones * (ones + 1) / 2
    return above / (ones * (len(positive) - ones))
