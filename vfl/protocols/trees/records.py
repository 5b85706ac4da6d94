"""A host's half of a model while its trees grow: the splits that it won, by record number."""

import asyncio
from collections.abc import Callable, Sequence

from vfl.arrays import Mask
from vfl.learn.params import BoostParams
from vfl.learn.splits import Split
from vfl.net.peer import Peer
from vfl.net.wire import Message
from vfl.protocols.common.bits import pack_bits
from vfl.protocols.common.clock import Say, ToldTime
from vfl.protocols.common.course import HostCourse
from vfl.protocols.trees.columns import Direction, SplitRows
from vfl.protocols.trees.grower import Finished, HostTrees, TreeKept
from vfl.protocols.trees.model import HostModel


class Records:
    """The splits of a job so far, beginning with those that an interrupted run of it has kept."""

    def __init__(
        self,
        guest: Peer,
        params: BoostParams,
        shown: Callable[[str], str],
        course: HostCourse[HostModel, HostTrees],
        say: Say,
    ) -> None:
        """`shown` gives the name under which the guest may see a column."""
        self._guest, self._params, self._shown, self._course = guest, params, shown, course
        self.time = ToldTime(guest.name, say)
        """How long this host took for its sums."""
        last = course.checkpoints.last
        self._splits: list[Split] = [] if last is None else [*last.splits]
        self._first: dict[int, int] = {} if last is None else {**last.first_record}  # by tree

    @property
    def least(self) -> int:
        """As of SumsCount."""
        return self._course.sums.least

    def begin(self, tree: int, message: type[Message]) -> None:
        """Begin the records of a tree. Raises PeerError, naming the message, for a tree out of turn, or
        that the job leaves to the guest alone."""
        before, trees = max(self._first, default=self._params.first_joint - 1), self._params.most_trees
        if not before < tree < trees:
            raise self._guest.breach(f"a {message.__name__} out of turn")
        self._first[tree] = len(self._splits)
        self._course.progress(tree + 1, trees)

    async def count(self, drawn: Mask | None = None) -> None:
        """Count what the tree that begins may tell, before it tells anything. drawn: its rows, as far as
        they are seen. Raises Refused where that is more than this host gives."""
        await asyncio.to_thread(self._course.sums.begin_tree, drawn)

    async def may_tell(self, pairs: Sequence[tuple[Mask, Mask]]) -> list[bool]:
        """Of each pair of children whether their sums may be told; they are counted if so."""
        return await asyncio.to_thread(self._course.sums.tell, pairs) if pairs else []

    def add(self, node: int, candidate: int, split: Split, left: Mask) -> Direction:
        """Keep a split that was won; returns what the guest hears of it. `left`: which rows of the node
        go."""
        self._splits.append(split)
        record = len(self._splits) - 1
        return Direction(node, candidate, record, self._shown(split.column), pack_bits(left))

    def add_hidden(self, node: int, split: Split, left: Mask, ordered: bool) -> SplitRows:
        """As `add`, where sums are hidden."""
        told = self.add(node, 0, split, left)
        return SplitRows(node, told.record, told.column, told.left, ordered)

    async def keep(self, drawn: Sequence[bytes] = ()) -> None:
        """End a tree: keep what goes on from here, and say so. `drawn`: as in HostTrees."""
        state = HostTrees(max(self._first) + 1, [*self._splits], {**self._first}, [*drawn])
        await self._course.checkpoints.keep(state)
        await self._guest.send(TreeKept())

    async def end(self, trees: int) -> HostModel:
        """End the job; returns the half of a model of so many trees, kept before the guest hears of
        it."""
        model = HostModel.of(self._splits, self._first, trees)
        self._course.keep(model)
        await self._guest.send(Finished())
        return model
