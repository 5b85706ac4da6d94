"""The two halves of a model of trees: what the guest keeps of it, and what a host keeps."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from vfl.learn.splits import Split
from vfl.learn.tree import Tree

MOST_NODES = 2 << 10
"""Of a tree, for no job has deeper ones."""


@dataclass(frozen=True)
class GuestModel:
    """The guest's half: shapes, leaf weights, its own splits."""

    parties: tuple[str, ...]  # guest first
    start: float
    trees: tuple[Tree, ...]
    splits: tuple[Split, ...]
    class_starts: tuple[float, ...] = ()
    """Of several classes, what each one's score starts with. The trees are then in rounds, one of each
    class."""

    def importance(self) -> list[tuple[str, str, int, float]]:
        """(party, column as its owner shows it, number of splits, sum of gains), most gain first."""
        gains_of: dict[tuple[str, str], list[float]] = {}
        for tree in self.trees:
            for branch in tree.branches.values():
                gains_of.setdefault((self.parties[branch.party], branch.column), []).append(branch.gain)
        table = [(*column, len(parts), sum(parts)) for column, parts in gains_of.items()]
        return sorted(table, key=lambda row: -row[3])

    def check(self, records: Sequence[int] | None = None) -> None:
        """Raises ValueError for a tree that no training could have made.

        `records`: how many splits each host has, where that is known.
        """
        kept = [
            len(self.splits),
            *(records or [MOST_NODES * len(self.trees)] * (len(self.parties) - 1)),
        ]
        if self.class_starts and len(self.trees) % len(self.class_starts):
            raise ValueError("its last round of trees is not whole")
        for tree in self.trees:
            children = {2 * n + side for n in tree.branches for side in (1, 2)} | {0}
            whole = children == set(tree.branches) | set(tree.leaves)
            known = all(
                0 <= b.party < len(self.parties) and 0 <= b.record < kept[b.party]
                for b in tree.branches.values()
            )
            deep = max(children) >= MOST_NODES
            if not whole or not known or deep or set(tree.branches) & set(tree.leaves):
                raise ValueError("a tree is not whole")


@dataclass(frozen=True)
class HostModel:
    """A host's half: its splits by record number."""

    splits: tuple[Split, ...]

    @classmethod
    def of(cls, splits: Sequence[Split], first_record: Mapping[int, int], trees: int) -> "HostModel":
        """The half of so many trees, by each tree's first record."""
        kept = min((r for t, r in first_record.items() if t >= trees), default=len(splits))
        return cls(tuple(splits[:kept]))
