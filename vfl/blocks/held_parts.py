"""Columns that workers of a cluster have read and hold, in parts, and what is made of them there."""

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from functools import partial
from typing import Protocol, TypeVar, cast

import numpy as np
from numpy.typing import NDArray

from vfl.blocks.cores import Begun
from vfl.blocks.scheduler import Lost, Task

R = TypeVar("R")


class Part(Protocol):
    """What a worker has read: columns by their keys."""

    def column(self, key: Hashable) -> object:
        """One of them. Raises DataError where it could not be read."""


class Workers(Protocol):
    """What is used of the cluster, whose words these are."""

    epoch: int

    @property
    def workers(self) -> Mapping[str, int]: ...
    def submit(
        self,
        kernel: Callable[..., object],
        arguments: Sequence[object],
        worker: str | None,
        runner: Callable[..., object] = ...,
    ) -> Task: ...
    def each(self, begin: Callable[[int], Task], count: int) -> Iterator[object]: ...
    def begun(self, begin: Callable[[int], Task]) -> Begun[object]: ...
    def is_gone(self, epoch: int, task: Task) -> bool: ...
    def share(self, value: object) -> object: ...


class HeldParts:
    """Parts of a table that workers read, each by an argument that says which it is, and hold column by
    column. A part that is lost is read again, by a worker that is there."""

    def __init__(
        self,
        cluster: Workers,
        read: Callable[..., Part],
        of: Sequence[object],
        keys: Sequence[Hashable],
        check: Callable[[], None],
    ) -> None:
        """keys: of all columns. check: raises DataError where parts cannot be read again."""
        self.of, self.cluster = of, cluster
        self._read, self._keys, self._check = read, dict.fromkeys(keys), check
        self._begun = set[int]()
        self._tasks: dict[tuple[int, Hashable], tuple[int, Task]] = {}

    def __len__(self) -> int:
        return len(self.of)

    def each(self, key: Hashable) -> Iterator[object]:
        """A column of each part, in their order. Raises what reading raises."""
        # As what a task comes to: of a column that was there already, nobody may say that it is lost.
        return self.beside([key], _same)

    def beside(self, keys: Sequence[Hashable], kernel: Callable[..., R]) -> Iterator[R]:
        """What `kernel(*columns)` is of some columns of each part, in the parts' order.
        Raises what reading and the kernel raise."""

        def begin(place: int) -> Task:
            return self.cluster.submit(kernel, [self.task(place, key) for key in keys], None)

        return (cast(R, found) for found in self.cluster.each(begin, len(self.of)))

    def whole(
        self,
        key: Hashable,
        kernel: Callable[..., R],
        arguments: Sequence[object],
        runner: Callable[..., object],
        place: int,
    ) -> Begun[R]:
        """Have one worker run a kernel on a whole column: `runner` gets the arguments and, after them,
        the column's parts. place: columns of other places are other workers' as far as they can be."""

        def begin(_: int) -> Task:
            columns = [self.task(part, key) for part in range(len(self.of))]
            if not (workers := sorted(self.cluster.workers)):
                raise Lost
            worker = workers[place % len(workers)]
            return self.cluster.submit(kernel, [*arguments, *columns], worker, runner)

        return cast(Begun[R], self.cluster.begun(begin))

    def task(self, place: int, key: Hashable) -> Task:
        """A column of a part, read again where no worker has it."""
        epoch, task = self._tasks.get((place, key), (-1, None))
        if task is None or self.cluster.is_gone(epoch, task):
            self._begin(place)
            _, task = self._tasks[place, key]
        return task

    def forget(self, key: Hashable) -> None:
        """Let workers have the room of a column that nobody needs any more."""
        self._keys.pop(key, None)
        for place in range(len(self.of)):
            self._tasks.pop((place, key), None)

    def _begin(self, place: int) -> None:
        """Have a part read; its columns stay, which are gone one by one where memory is short."""
        if place in self._begun:
            self._check()
        self._begun.add(place)
        cluster, epoch = self.cluster, self.cluster.epoch
        part = cluster.submit(self._read, [self.of[place]], None)
        for key in self._keys:
            known, task = self._tasks.get((place, key), (-1, None))
            if task is None or cluster.is_gone(known, task):
                made = cluster.submit(partial(_column, key), [part], None)
                self._tasks[place, key] = epoch, made


def _same(column: R) -> R:
    return column


def _column(key: Hashable, part: Part) -> object:
    return part.column(key)


def run_on_whole(
    kernel: Callable[..., object], names: Sequence[str], before: int, *given: object
) -> object:
    """A kernel on a column at a worker: its name, the rows that are wanted of it, and its parts."""
    own = given[len(names) + before :]
    name, rows, *parts = own
    values = np.concatenate(cast(Sequence[NDArray[np.float64]], parts))
    if rows is not None:
        values = at_rows(values, cast(NDArray[np.integer], rows))
    named: Mapping[str, object] = dict(zip(names, given, strict=False))
    return partial(kernel, *given[len(names) :][:before], **named)(name, [values])


def at_rows(values: NDArray[np.float64], rows: NDArray[np.integer]) -> NDArray[np.float64]:
    """The values of some rows of a column of numbers; a row below 0 has none: NaN."""
    chosen: NDArray[np.float64] = values[rows]
    np.putmask(chosen, rows < 0, np.nan)
    return chosen
