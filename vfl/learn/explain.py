"""Why a score is what it is: Shapley values of trees, reasons in words, partial dependence.

Path-dependent TreeSHAP: Lundberg, Erion, Lee, arXiv 1802.03888 (Algorithm 2); Lundberg et al., Nature
Machine Intelligence 2 (2020). Its game: a player in the coalition sends the row as its splits say; at
the splits of any other, the row goes both ways, weighted by the rows that trained there. A player is a
column, or all columns of a party together.

Leaf by leaf, the game is a product over the players on the path, each 1 or 0 (all its splits on the path
are followed, or not) inside the coalition and the share of rows z that follow them outside. The Shapley
value of a product is an integral along the diagonal (Owen's multilinear extension, 1972):

    w (o_i - z_i) * integral over t in [0, 1] of the product over j != i of (t o_j + (1 - t) z_j)

a polynomial, which Gauss and Legendre's rule integrates exactly. As o is a pattern of bits, values are
tabulated by pattern, as in Fast TreeSHAP v2 (Yang, arXiv 2109.09847), here for whole pieces of a tree at
once: rows look up what all leaves of a piece give a player by the directions of its splits.
"""

import math
import re
from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from vfl.arrays import Floats, Integers
from vfl.errors import ModelError
from vfl.learn.forest import Planes, numbers
from vfl.learn.losses import Link
from vfl.learn.splits import Split
from vfl.learn.tree import Branch, Tree

_BITS = 10  # of directions that a piece of a tree is looked up by, where a single leaf has no more
_KEPT = 1 << 25  # numbers in tables that stay in memory from one block of rows to the next
_MOST = 999_999  # percent that are said; more are said as this


class TreeModel(Protocol):
    """The guest's half of a model of trees."""

    @property
    def parties(self) -> tuple[str, ...]: ...
    @property
    def start(self) -> float: ...
    @property
    def trees(self) -> tuple[Tree, ...]: ...
    @property
    def splits(self) -> tuple[Split, ...]: ...


def players(model: TreeModel) -> dict[tuple[int, str], str]:
    """The player that each column with a split belongs to, by (party, column as in the branches).

    A column of the guest is one by its name; a host is one by the party's name, unless it shows its
    columns' names: then each is one, as "party:column". A host that hides them numbers them, as
    "party:1"; a column that is really called so makes its host a block as well.
    """
    split_columns = sorted({(b.party, b.column) for tree in model.trees for b in tree.branches.values()})
    hidden = {
        party
        for party, column in split_columns
        if party and re.fullmatch(rf"{re.escape(model.parties[party])}:[0-9]+", column)
    }
    names = {
        (party, column): model.parties[party] + ("" if party in hidden else f":{column}")
        for party, column in split_columns
        if party
    }
    taken = {*names.values(), *model.parties}
    own = {
        (0, column): own_name(column, model.parties[0], taken)
        for party, column in split_columns
        if not party
    }
    return names | own


def own_name(column: str, guest: str, taken: Container[str]) -> str:
    """A column of the guest's as a player: with the guest's name before it if another is called so."""
    return f"{guest}:{column}" if column in taken else column


class Explainer:
    """What each player adds to the score of each row, for rows given as planes (learn/forest.py).

    `plane_of` says in which plane a branch's directions stand. Values and `base`, the mean score over
    the rows that trained, add up to the score. Raises ModelError for a model without covers.
    """

    def __init__(self, model: TreeModel, plane_of: Callable[[Branch], int]) -> None:
        check_covers(model.trees)
        self._player_of = players(model)
        self.players = list(dict.fromkeys(self._player_of.values()))
        self._place = {player: place for place, player in enumerate(self.players)}
        self._pieces: list[_Piece] = []
        self.base = model.start
        for tree in model.trees:
            paths = self._paths(tree, plane_of)
            self.base += sum(w * math.prod(s.share for s in paths[n]) for n, w in tree.leaves.items())
            self._pieces += _pieces(tree, paths)
        entries = sum(len(piece.players) << piece.bits for piece in self._pieces)
        self._keep = entries <= _KEPT
        self._tables: dict[int, Floats] = {}

    @property
    def pieces(self) -> Sequence["_Piece"]:
        """All trees in pieces, in the order in which what these give is added up."""
        return self._pieces

    @property
    def fits_memory(self) -> bool:
        """Whether the tables of all pieces stay in memory."""
        return self._keep

    def _paths(self, tree: Tree, plane_of: Callable[[Branch], int]) -> dict[int, tuple["_Step", ...]]:
        """The steps from the root to each node."""
        paths: dict[int, tuple[_Step, ...]] = {0: ()}
        for node in sorted(tree.branches):
            branch = tree.branches[node]
            player = self._place[self._player_of[branch.party, branch.column]]
            for child, left in ((2 * node + 1, True), (2 * node + 2, False)):
                step = _Step(player, plane_of(branch), node, left, _share(tree, child))
                paths[child] = (*paths[node], step)
        return paths

    def contributions(self, planes: Planes, rows: int) -> dict[str, Floats]:
        """Each player's part of the scores, shape (rows,)."""
        parts = np.zeros((len(self.players), rows))
        for number, piece in enumerate(self._pieces):
            table = self._tables.get(number)
            if table is None:
                table = piece.table()
                if self._keep:
                    self._tables[number] = table
            index = piece.index(planes, rows)
            for player, values in zip(piece.players, table, strict=True):
                parts[player] += values.take(index)
        return dict(zip(self.players, parts, strict=True))


@dataclass(frozen=True)
class _Step:
    """One split on the way to a leaf, and the side taken."""

    player: int
    plane: int
    node: int
    left: bool
    share: float  # of the rows of the node that train and go this way


@dataclass
class _Piece:
    """Some leaves of a tree, looked up together.

    The bits of the number looked up: for each player above the piece, whether all its splits there are
    followed; then for each split inside, whether the row goes left.
    """

    above: tuple[_Step, ...]
    inner: dict[int, int]  # plane by node
    leaves: list[tuple[float, tuple[_Step, ...]]]  # weight and whole path, from the root of the tree
    players: list[int] = field(init=False)
    upper: list[int] = field(init=False)  # those above the piece, in the order of their bits

    def __post_init__(self) -> None:
        self.upper = list(dict.fromkeys(step.player for step in self.above))
        self.players = list(dict.fromkeys(step.player for _, path in self.leaves for step in path))
        self.bits = len(self.upper) + len(self.inner)

    def index(self, planes: Planes, rows: int) -> Integers:
        """The number that each row looks up, shape (rows,)."""
        found = np.full((self.bits, planes.shape[1]), 0xFF, np.uint8)
        for step in self.above:
            plane = planes[step.plane]
            found[self.upper.index(step.player)] &= plane if step.left else ~plane
        found[len(self.upper) :] = planes[list(self.inner.values())]
        return numbers(found, rows)

    def table(self) -> Floats:
        """What its leaves give each player, shape (players, 2^bits)."""
        entries = np.arange(1 << self.bits)
        bit = [(entries >> place & 1).astype(np.bool_) for place in reversed(range(self.bits))]
        upper = dict(zip(self.upper, bit, strict=False))
        inner = dict(zip(self.inner, bit[len(self.upper) :], strict=True))
        table = np.zeros((len(self.players), len(entries)))
        for weight, path in self.leaves:
            share: dict[int, float] = {}
            follows: dict[int, NDArray[np.bool_]] = {}
            for step in path:
                share[step.player] = share.get(step.player, 1.0) * step.share
                said = upper[step.player] if step.node not in inner else inner[step.node]
                followed = said if step.left or step.node not in inner else ~said
                earlier = follows.get(step.player)
                follows[step.player] = followed if earlier is None else earlier & followed
            pattern = np.zeros_like(entries)
            for place, followed in enumerate(follows.values()):
                pattern |= followed.astype(np.int64) << place
            values = weight * _shapley(np.array(list(share.values())))
            for player, value in zip(share, values, strict=True):
                table[self.players.index(player)] += value[pattern]
        return table


def _pieces(tree: Tree, paths: Mapping[int, tuple[_Step, ...]]) -> list[_Piece]:
    """A tree cut into pieces of few enough bits: each is a node with all below it, or a leaf."""
    below = dict.fromkeys(tree.leaves, 0)  # splits under each node, its own counted
    for node in sorted(tree.branches, reverse=True):
        below[node] = 1 + below[2 * node + 1] + below[2 * node + 2]
    root_of: dict[int, int] = {}
    for node in sorted(paths):
        bits = len({step.player for step in paths[node]}) + below[node]
        if node and (node - 1) // 2 in root_of:
            root_of[node] = root_of[(node - 1) // 2]
        elif node in tree.leaves or bits <= _BITS:
            root_of[node] = node
    inner: dict[int, dict[int, int]] = {root: {} for root in root_of.values()}
    for path in paths.values():
        for step in path:
            if step.node in root_of:
                inner[root_of[step.node]][step.node] = step.plane
    leaves: dict[int, list[tuple[float, tuple[_Step, ...]]]] = {root: [] for root in inner}
    for node, weight in tree.leaves.items():
        leaves[root_of[node]].append((weight, paths[node]))
    return [_Piece(paths[root], inner[root], leaves[root]) for root in inner]


def _shapley(z: Floats) -> Floats:
    """The Shapley values of a leaf of weight 1, shape (players, 2^players), by which players follow.

    `z` has shape (players,); bit k of a pattern is player k.
    """
    o, t, weight = _patterns(len(z))
    factors = t * o[:, np.newaxis] + (1 - t) * z[:, np.newaxis, np.newaxis]
    # The products of all factors but one, without dividing.
    others = np.ones_like(factors)
    np.cumprod(factors[:-1], axis=0, out=others[1:])
    others[:-1] *= np.cumprod(factors[:0:-1], axis=0)[::-1]
    integral: Floats = np.einsum("q,pqk->pk", weight, others)
    return (o - z[:, np.newaxis]) * integral


@cache
def _patterns(players: int) -> tuple[Floats, Floats, Floats]:
    """All patterns, shape (players, 2^players), and a rule on [0, 1] that is exact for the integral:
    places, shape (places, 1), and weights."""
    o = np.arange(1 << players) >> np.arange(players)[:, np.newaxis] & 1
    at, weight = np.polynomial.legendre.leggauss(max(1, -(-players // 2)))
    return o.astype(np.float64), (at[:, np.newaxis] + 1) / 2, weight / 2


def check_covers(trees: Sequence[Tree]) -> None:
    """Raises ModelError for trees that do not say how many rows each node had in training."""
    for tree in trees:
        covers = tree.covers
        if any(node not in covers for node in (*tree.branches, *tree.leaves)):
            raise ModelError(
                "an earlier version of vfl trained the model and did not keep how many rows each node "
                "had, which explanations need: train it again"
            )
        if any(
            covers[node] <= 0 or covers[2 * node + 1] + covers[2 * node + 2] != covers[node]
            for node in tree.branches
        ):
            raise ModelError("the model is damaged: the rows of a node are not those of its children")


def _share(tree: Tree, child: int) -> float:
    """The part of the rows of a node's parent that trained and went to the node."""
    return tree.covers[child] / tree.covers[(child - 1) // 2]


def partial_dependence(model: TreeModel, column: str, grid: NDArray[np.generic]) -> Floats:
    """The mean score by the value of a column of the guest's, shape (len(grid),).

    Friedman, Annals of Statistics 29 (2001), section 8.2; scikit-learn's method "recursion": at splits
    of other columns a row goes both ways, weighted by the rows that trained there. `grid` has values as
    in a table: float64 with NaN, or objects with None. The score is on the scale of the link; a column
    that no tree uses gives a constant. Raises ModelError for a model without covers, ValueError for a
    grid of numbers for a categorical column and the other way round.
    """
    of_column = [split for split in model.splits if split.column == column]
    if any(split.categorical != (grid.dtype == object) for split in of_column):
        raise ValueError(f"column '{column}' and the grid are not of the same kind")
    check_covers(model.trees)
    scores = np.full(len(grid), model.start)
    for tree in model.trees:
        reached = {0: np.ones(len(grid))}
        for node in sorted(tree.branches):
            branch, here = tree.branches[node], reached.pop(node)
            left = np.full(len(grid), _share(tree, 2 * node + 1))
            if branch.party == 0 and model.splits[branch.record].column == column:
                left = model.splits[branch.record].goes_left({column: grid}).astype(np.float64)
            reached[2 * node + 1] = here * left
            reached[2 * node + 2] = here * (1 - left)
        for node, weight in tree.leaves.items():
            scores += weight * reached[node]
    return scores


def reasons(contributions: Mapping[str, Floats], link: Link, top: int = 3) -> list[str]:
    """What moved each row's score most, in words: up to `top` players, the strongest first.

    Under a log link "BonusMalus +31 %; registry -12 %": by what the contribution multiplies the
    prediction; under a logit link "BonusMalus +31 % odds": the odds; under an identity link "BonusMalus
    +0.31": what it adds. What rounds to nothing is left out, so that the text may be empty.
    `contributions` have shape (rows,) each.
    """
    names = list(contributions)
    values = np.array(list(contributions.values()), np.float64)
    if not names:
        raise ValueError("there is nothing to give reasons of")
    first = np.argsort(-np.abs(values), axis=0, kind="stable")[:top]
    texts, said = _in_words(np.take_along_axis(values, first, axis=0), link)
    # Each pair of a name and a text once, however many rows have it.
    pairs, where = np.unique(first * len(texts) + said, return_inverse=True)
    words = [(names[pair // len(texts)], texts[pair % len(texts)]) for pair in pairs.tolist()]
    whole = np.array([f"{name} {text}" if text else "" for name, text in words], object)
    return ["; ".join(filter(None, row)) for row in whole[where.reshape(first.shape)].T.tolist()]


def _in_words(values: Floats, link: Link) -> tuple[list[str], Integers]:
    """Some texts, and which of them says each value; "" for one that rounds to nothing."""
    if link == "identity":
        with np.errstate(divide="ignore"):
            digits = 2 - np.floor(np.log10(np.abs(values)))
        scale = 10.0 ** np.where(np.isfinite(digits), digits, 0)
        rounded, said = np.unique(np.rint(values * scale) / scale, return_inverse=True)
        return [f"{v:+,.12g}" if v else "" for v in rounded.tolist()], said.reshape(values.shape)
    percent = np.minimum(np.rint(100 * np.expm1(np.minimum(values, 100.0))), _MOST)
    rounded, said = np.unique(percent, return_inverse=True)
    odds = " odds" if link == "logit" else ""
    return [f"{v:+,.0f} %{odds}" if v else "" for v in rounded.tolist()], said.reshape(values.shape)
