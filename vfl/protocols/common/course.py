"""How the roles of a long protocol are followed, and where they go on from."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from vfl.arrays import Mask
from vfl.protocols.common.checkpoints import Checkpoints, State
from vfl.protocols.common.draw_memory import NO_MEMORY, DrawMemory
from vfl.protocols.common.label_count import LabelCount
from vfl.protocols.common.lattice_hints import (
    HintProgress,
    HostHint,
    HostHints,
    KeptHints,
    NoKeptHints,
)

D = TypeVar("D")  # what is told of a step
M = TypeVar("M")  # a host's half of a model
S = TypeVar("S", bound=State)


class SumsCount(Protocol):
    """Counts the sums that a host tells, before it tells any. Its methods are called in threads."""

    def begin_tree(self, drawn: Mask | None) -> None:
        """Count those of a tree's root; drawn: which rows it is of, None where nodes are not seen: then
        those of the whole tree. Raises Refused where they are more than the host gives."""

    @property
    def least(self) -> int:
        """The fewest rows of a node that a sum is about which follows from those of one column's
        candidates (trees/few_rows.py); 0 where any may be told."""

    def tell(self, pairs: Sequence[tuple[Mask, Mask]]) -> list[bool]:
        """Of each pair of children, whether the sums of both may be told, and count them if so; by which
        drawn rows each of the two has."""


class _Uncounted:
    """Whoever counts nothing."""

    least = 0

    def begin_tree(self, drawn: Mask | None) -> None:
        return

    def tell(self, pairs: Sequence[tuple[Mask, Mask]]) -> list[bool]:
        return [True for _ in pairs]


UNCOUNTED = _Uncounted()


class _NoHints:
    """Keeps nothing."""

    def known(self) -> HostHint | None:
        return None

    def keep(self, hint: HostHint) -> None:
        return

    def promise(self, name: bytes, vectors: int, life: int) -> bool:
        return False


NO_HINTS = _NoHints()


class StopTraining(Exception):
    """Raised by who follows a training of trees: it ends with those that are there, as with early
    stopping."""


def _quiet(done: int, of: int) -> None:
    return


@dataclass(frozen=True)
class GuestCourse(Generic[D, S]):
    """How the guest follows a training, and where it goes on from.

    With checkpoints every host goes on from as many steps as the guest.
    """

    progress: Callable[[D], None] = lambda _: None
    """Told of each tree or iteration; of trees it may raise StopTraining."""
    checkpoints: Checkpoints[S] = Checkpoints()
    hints: KeptHints = NoKeptHints()
    """Keeps hints for later jobs on the same rows and bins."""
    hint_progress: HintProgress = _quiet
    """Follows the parts of hints as they come in: how many, of how many."""
    fit_progress: Callable[[int, int], None] = _quiet
    """Follows the fits by which a penalty is chosen: how many are done, of how many."""
    inference_progress: Callable[[int, int], None] = _quiet
    """Follows the inference after a linear fit: how much is done, of how much."""
    labels: LabelCount | None = None
    """Counts labels that hosts could have read, over all attempts; without, those of one are counted."""


@dataclass(frozen=True)
class HostCourse(Generic[M, S]):
    """How a host follows a training, where it goes on from, and what keeps its half of the model."""

    keep: Callable[[M], None] = lambda _: None
    """Stores the half before the guest is told that it is safe."""
    progress: Callable[[int, int], None] = _quiet
    """The number of the tree or iteration that begins, and how many there are at most."""
    checkpoints: Checkpoints[S] = Checkpoints()
    hints: HostHints = NO_HINTS
    hint_progress: HintProgress = _quiet
    inference_progress: Callable[[int, int], None] = _quiet
    """As the guest's."""
    draws: DrawMemory = NO_MEMORY
    """Remembers the rows that trees are drawn from."""
    sums: SumsCount = UNCOUNTED
