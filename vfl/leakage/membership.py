"""A host works labels out of which rows share nodes.

A training puts rows with like gradients together, and so, from the first tree on, rows with like labels.
Who is told the nodes can cluster rows by them (ID2Graph: Takahashi et al., arXiv 2307.10318), or extend
labels that it has of some rows to all others (Fu et al., USENIX Security 2022).

A host has more than the graph of shared nodes. It knows which nodes its own columns split, and where;
and who is in the business knows, without any label, which way a column goes: older drivers have fewer
claims, this region has more. So it adds its own splits up with these signs, which is its part of the
model but for the weights. Splits of the same column follow each other through the trees, so that the
leading vector of all others' splits has much of the rest. This part is ours, as far as we know.
"""

from collections.abc import Iterator, Set
from dataclasses import dataclass
from itertools import product

import numpy as np
from scipy.sparse import csr_array, vstack
from scipy.sparse.linalg import svds
from scipy.stats import rankdata

from vfl.arrays import Floats, Integers
from vfl.leakage.shown import Mask, Shown, Truth
from vfl.leakage.success import Success

_RIDGE = 0.1
_DENSE = 500  # nodes of a graph
_WHOLE = 0.25  # of a column's values, in the length of its splits
_VECTORS = 2  # of others' splits, each with a bit: which end is the claims
_NONE = 1e-6  # of a vector of length 1
_SETTLED = 5  # times over
_ORDERS = 10  # random ones of labels, that say what guessing gets


@dataclass(frozen=True, eq=False)
class Splits:
    """The splits that a host knows of. Sides are numbers of mean 0 over a node's rows, 0 elsewhere.

    own: shape (what goes one way, rows), the sum of the splits of each of its columns of numbers, and of
    each level of its factors. whole: the same with a part of the column's values themselves, of which
    few trees have split few. others: shape (splits, rows), those of other parties whose sides it is
    told. leading: shape (up to 2, rows), sums of all of others', each turned as a leading vector has it.
    """

    own: Floats
    whole: Floats
    others: csr_array
    leading: Floats


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
    often = np.sqrt(np.maximum((nodes >= 0).sum(axis=0), 1))
    if graph.shape[1] <= _DENSE:
        # A graph of few trees can fall apart: then more than the trivial vector have the greatest value.
        trivial = graph.T @ often
        trivial /= np.linalg.norm(trivial)
        _, vectors = np.linalg.eigh((graph.T @ graph).toarray() - np.outer(trivial, trivial))
        return np.asarray((graph @ vectors[:, -2:]).T / often)
    start = np.random.default_rng(seed).normal(size=min(graph.shape))
    vectors, values, _ = svds(graph, k=3, v0=start)
    return np.asarray(vectors[:, np.argsort(-values)[1:]].T / often)


def extend(nodes: Integers, labels: Floats, known: Mask) -> Floats:
    """A score of each row from the labels of those that are known: ridge regression on shared nodes."""
    graph = _shared(nodes)
    mine = graph[np.flatnonzero(known)]
    own = (mine @ mine.T).toarray()
    mean = float(labels[known].mean())
    weight = np.linalg.solve(own + _RIDGE * np.eye(len(own)), labels[known] - mean)
    return np.asarray(mean + graph @ (mine.T @ weight))


def known_splits(nodes: Integers, shown: Shown, truth: Truth) -> Splits:
    """What a host knows of splits: all of its own, of others' those whose sides it is told."""
    # What goes one way: a column of numbers, or a level of a factor, which has a number below 0.
    ways = np.where(truth.level, -1 - np.arange(len(truth.level)), truth.column)
    own: dict[int, Floats] = {}
    others = [csr_array((0, shown.rows))]
    for number, (deepest, tree) in enumerate(zip(nodes, shown.trees, strict=True)):
        for split in tree.splits:
            way = int(ways[truth.order[number, split.node][split.place]])
            sides = _sides(split.rows & split.left, split.rows & ~split.left)
            own[way] = own.get(way, 0.0) + sides
        won = {split.node for split in tree.splits}
        others += [csr_array(one[None]) for one in _of_others(deepest, won) if one.any()]
    whole = [
        of_way + _WHOLE * of_way.std() * _scaled(_centred(truth.sides[ways == way].sum(axis=0)))
        for way, of_way in own.items()
    ]
    theirs = csr_array(vstack(others))
    shape = -1, shown.rows
    return Splits(np.reshape([*own.values()], shape), np.reshape(whole, shape), theirs, _leading(theirs))


def _of_others(deepest: Integers, own: Set[int]) -> Iterator[Floats]:
    """The sides of a tree's splits that are not the host's own.

    `deepest`: of each row the deepest node that the host knows it to be in, -1 for none.
    """
    known = {0: np.ones(len(deepest), np.bool_)}
    at, nodes = deepest, set(np.unique(deepest[deepest > 0]).tolist())
    while nodes:
        for node in nodes:
            known[node] = known.get(node, False) | (at == node)
        at = np.where(at > 0, (at - 1) // 2, at)
        nodes = set(np.unique(at[at > 0]).tolist())
    for node in sorted({(child - 1) // 2 for child in known if child} - own):
        sides = [known[child] for child in (2 * node + 1, 2 * node + 2) if child in known]
        around = node
        while len(sides) < 2:
            # Over the lattice engine it may know one side only: held against the rows around it.
            rest = known.get(around, sides[0]) & ~sides[0]
            if rest.any() or not around:
                sides.append(rest)
            around = (around - 1) // 2
        yield _sides(*sides)


def _sides(left: Mask, right: Mask) -> Floats:
    """A number of each row that tells the two sides apart, of mean 0 and variance 1 over both."""
    ones, rest = float(left.sum()), float(right.sum())
    if not ones or not rest:
        return np.zeros(len(left))
    return np.asarray((left * rest - right * ones) / np.sqrt(ones * rest))


def _leading(others: csr_array) -> Floats:
    """Sums of all splits, each one way or the other as the leading singular vectors have it, or left out
    where they have neither, as of other nodes of a single tree."""
    few = min(others.shape)
    if not few:
        return np.zeros((0, others.shape[1]))
    if few <= _VECTORS + 1:
        vectors, values, _ = np.linalg.svd(others.toarray(), full_matrices=False)
    else:
        start = np.random.default_rng(0).normal(size=few)
        vectors, values, _ = svds(others, k=_VECTORS, v0=start)
    chosen = vectors[:, np.argsort(-values)[:_VECTORS]]
    ways = np.where(np.abs(chosen) > _NONE, np.sign(chosen), 0.0)
    return np.asarray((others.T @ ways).T)


def directed(known: Splits, graph: csr_array, positive: Mask) -> Iterator[Floats]:
    """Scores of a host that is given which way its columns, their levels and the leading vectors go.

    Its own splits, without and with its columns' values, and those of others, by one vector or by two;
    the same once each of others' splits is turned such that it agrees with the sum; each of these by
    itself, and with the mean of rows that share nodes.
    """
    for of_own, many in product((known.own, known.whole), range(1, _VECTORS + 1)):
        own = _claims_up(of_own, positive)
        score = own + _claims_up(known.leading[:many], positive)
        settled = score
        for _ in range(_SETTLED):
            settled = own + known.others.T @ np.sign(known.others @ settled)
        for one in (score, settled):
            yield one
            yield _scaled(one) + _scaled(graph @ (graph.T @ one))


def _claims_up(scores: Floats, positive: Mask) -> Floats:
    """The sum of scores, each such that rows with claims are above others."""
    ways = [1 if _auc(positive, score) > 0.5 else -1 for score in scores]
    return np.asarray(np.array(ways, np.float64) @ scores)


def _centred(values: Integers) -> Floats:
    return np.asarray(values - values.mean())


def _scaled(score: Floats) -> Floats:
    deviation = float(score.std())
    return score / deviation if deviation > 0 else score


def success(
    nodes: Integers,
    label: Floats,
    known: Mask | None = None,
    splits: Splits | None = None,
    who: str = "host",
    about: str = "guest",
) -> Success:
    """How well rows with and without claims are told apart (AUC), of those whose label the host lacks.

    `known`: rows whose label the host has from elsewhere. `splits`: what it knows of splits, None to go
    by nodes alone. The best of all scores counts. The host is given which end of each vector of
    `cluster` is the claims, and which way each of its columns goes, as who knows the business can tell.
    Guessing is what the same gets, with as much given, of labels in random order.
    """
    positive = (label > np.median(label)) if len(np.unique(label)) > 2 else label > label.min()
    others = np.ones(len(label), np.bool_) if known is None else ~known
    attack = "node membership" if known is None else "node membership, some labels known"
    unit = "AUC of labels"
    ones, rest = int(positive[others].sum()), int((~positive[others]).sum())
    if not (nodes >= 0).any() or not ones or not rest:
        return Success(attack, who, about, 0.5, 0.5, unit)
    graph = _shared(nodes)
    clusters = np.zeros((0, len(label))) if known is not None else cluster(nodes)

    def best(positive: Mask) -> float:
        """Of labels in this order."""
        scores = [*clusters, *(-clusters)]
        if splits is not None:
            scores += directed(splits, graph, positive)
        if known is not None:
            extended = extend(nodes, positive.astype(np.float64), known)
            scores += [extended, *(_scaled(score) + _scaled(extended) for score in scores)]
        return max(_auc(positive[others], score[others]) for score in scores)

    draw, guessed = np.random.default_rng(0), []
    for _ in range(_ORDERS):
        order = positive.copy()
        for part in (others, ~others):
            order[part] = draw.permutation(positive[part])
        guessed.append(best(order))
    return Success(attack, who, about, best(positive), float(np.mean(guessed)), unit)


def _auc(positive: Mask, score: Floats) -> float:
    """How often a row of the one kind scores above one of the other."""
    ones = int(positive.sum())
    above = float(rankdata(score)[positive].sum()) - ones * (ones + 1) / 2
    return above / (ones * (len(positive) - ones))
