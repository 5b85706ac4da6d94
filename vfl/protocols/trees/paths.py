"""Which parties' columns may split which nodes, by the interaction constraints of a job.

The columns that split the nodes on the way from the root to a leaf are of parties that one of the groups
has all of, as in LightGBM and XGBoost by columns. Guest and coordinator each follow who split what.
"""

from collections.abc import Iterable, Sequence


class Paths:
    """A tree under growth; parties go by number."""

    def __init__(self, groups: Sequence[frozenset[int]] | None = None) -> None:
        """`groups`: of parties that may meet on a path; None: all may."""
        self._groups = groups
        self._above: dict[int, frozenset[int]] = {0: frozenset()}  # parties of the splits above a node

    @classmethod
    def of(cls, constraints: Sequence[Sequence[str]] | None, names: Sequence[str]) -> "Paths":
        """From a job's constraints and the parties that grow the tree, by name in their order."""
        if constraints is None:
            return cls()
        number = {name: place for place, name in enumerate(names)}
        return cls([frozenset(number[n] for n in group if n in number) for group in constraints])

    def may_split(self, node: int, party: int) -> bool:
        """Whether a column of the party may split the node."""
        if self._groups is None:
            return True
        path = self._above[node] | {party}
        return any(path <= group for group in self._groups)

    def split(self, node: int, party: int) -> None:
        """Follow a split by a column of the party."""
        below = self._above[node] | {party}
        self._above[2 * node + 1] = self._above[2 * node + 2] = below


def strangers(constraints: Sequence[Sequence[str]], parties: Iterable[str]) -> str | None:
    """What is wrong with constraints among these parties; None if nothing is."""
    named, known = {name for group in constraints for name in group}, [*parties]
    for name in sorted(named - {*known}):
        return f"names {name!r}, which is no party of the training: there are {', '.join(known)}"
    for name in known:
        if name not in named:
            return f"leaves {name!r} out of all groups, so that none of its columns could split: add it"
    return None
