"""Rows with the workers of a Dask cluster of the party's own company.

What workers hold is known to the party by how it came about: an array of the party's own, in memory
or in a file, or a kernel and what it was given. So a block that is lost with its worker, or all of
them with the scheduler, is made anew, and a worker that joins later gets its share. The party keeps
for itself what is not about rows in their number: keys, sessions, policy, ledger.

Dask's own messages are pickles: whoever may speak to the scheduler may run programs at the workers. A
peer's bytes go there as bytes and arrays alone.
"""

import math
import threading
import time
import weakref
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Generic, TypeVar, cast

import numpy as np

from vfl.arrays import Integers
from vfl.blocks.at_worker import run, run_column, run_in_parts, run_total, some
from vfl.blocks.cores import Begun
from vfl.blocks.engine import (
    Array,
    Embedded,
    Engine,
    Given,
    Held,
    Pieces,
    Rows,
    Shared,
    cuts,
    rows_of,
    told,
)
from vfl.blocks.held_columns import HeldColumns
from vfl.blocks.held_parts import HeldParts
from vfl.blocks.held_parts import Part as ReadPart
from vfl.blocks.scheduler import Connection, Lost, Task
from vfl.blocks.scratch import Scratch, release_pages
from vfl.errors import ClusterError

LEAST, MOST = 1 << 14, 1 << 20
"""Rows of a block: fewer are not worth a message, more are too many for a worker."""
_MANY = 1 << 18  # rows of a column from which on it is worth being sent to a worker
_UNIT = 1 << 12  # rows: encrypted vectors are cut at multiples of so many, or some are made twice
_BLOCKS = 2  # a thread, where rows are few
_AHEAD = 2  # tasks a thread that are under way
_INLINE = 1 << 20  # bytes that travel with a task
_LOOK = 1.0  # seconds between two looks at who is there
_TRIES = 8  # for a block
_GONE = ("cancelled", "lost", "error")

R = TypeVar("R")
T = TypeVar("T")


@dataclass(frozen=True)
class _Failed:
    """What a kernel has raised."""

    error: BaseException


class _Source(ABC):
    """How rows come about, and which blocks of them workers hold."""

    def __init__(self, rows: int) -> None:
        self.rows = rows
        self.tasks: dict[int, tuple[int, Task]] = {}

    def task(self, cluster: "Cluster", place: int) -> Task:
        """A block, made anew where no worker has it."""
        epoch, task = self.tasks.get(place, (-1, None))
        if task is None or cluster.is_gone(epoch, task) or not self.is_in_place(cluster, place):
            task = self.begin(cluster, place)
            self.tasks[place] = cluster.epoch, task
        return task

    def is_in_place(self, cluster: "Cluster", place: int) -> bool:
        """Whether a block that is there lies where it should."""
        return True

    @abstractmethod
    def begin(self, cluster: "Cluster", place: int) -> Task:
        """Have a worker get or make a block."""


class _Own(_Source):
    """Rows of an array of this process, which workers may have made before it had them."""

    def __init__(self, array: Array) -> None:
        super().__init__(array.shape[-1])
        self._array = array
        self._sent_to: dict[int, str] = {}  # the worker, by block

    def is_in_place(self, cluster: "Cluster", place: int) -> bool:
        worker = cluster.worker(self.rows, place)
        return self._sent_to.get(place, worker) == worker

    def begin(self, cluster: "Cluster", place: int) -> Task:
        worker = cluster.worker(self.rows, place)
        task = cluster.send(self._array[..., cluster.part(self.rows, place)], worker)
        self._sent_to[place] = worker
        release_pages(self._array)
        return task


class _Made(_Source):
    """Rows that a kernel makes."""

    def __init__(self, rows: int, kernel: Callable[..., Array], given: Sequence["Part"]) -> None:
        super().__init__(rows)
        self._kernel, self._given = kernel, given

    def begin(self, cluster: "Cluster", place: int) -> Task:
        return cluster.task_of(self._kernel, self._given, self.rows, place, run_in_parts)


Part = _Source | Array | Pieces[object]
"""What a kernel gets a block of, as it stays when other rows take the place of held ones."""


class There(Held):
    """Rows in blocks that workers hold."""

    def __init__(self, cluster: "Cluster", source: _Source) -> None:
        super().__init__(source.rows)
        self.source, self._cluster = source, cluster
        # Others may need to know how they came about after nobody needs the rows.
        weakref.finalize(self, source.tasks.clear)

    @property
    def shape(self) -> tuple[int, ...]:
        return (*self._like.shape[:-1], self.rows)

    @property
    def dtype(self) -> np.dtype[np.generic]:
        return self._like.dtype

    @cached_property
    def _like(self) -> Array:
        """No rows of these."""
        return self._cluster.gather(self, 0, 0)

    def is_now(self, array: Array) -> None:
        """Have the rows be those of an array that holds the same, whatever they were made of."""
        made, self.source = self.source, _Own(array)
        self.source.tasks.update(made.tasks)
        made.tasks.clear()
        weakref.finalize(self, self.source.tasks.clear)


@dataclass(frozen=True)
class SharedThere(Shared[T]):
    """An object that workers hold."""

    tasks: dict[int, Task] = field(default_factory=dict, compare=False)  # by epoch

    def task(self, cluster: "Cluster") -> Task:
        """The object, where a worker has it."""
        task = self.tasks.get(cluster.epoch)
        if task is None or cluster.is_gone(cluster.epoch, task):
            self.tasks.clear()
            task = self.tasks[cluster.epoch] = cluster.send(self.value, None)
        return task


class Cluster(Engine):
    """Blocks with workers. Rows that it does not hold are worked on in this process."""

    def __init__(
        self, connection: Connection, scratch: Scratch = Scratch(), block: int | None = None
    ) -> None:
        """`scratch`: where rows go that are kept here. `block`: rows of all blocks, in place of a number
        by rows and workers."""
        self.epoch = 0  # all that workers held in earlier ones is gone
        self._connection, self._scratch, self._block = connection, scratch, block
        self._sizes: dict[int, int] = {}  # of blocks, by the number of rows
        self._places: dict[int, tuple[str, ...]] = {}  # the worker of each block, by the number of rows
        self._spread: dict[str, int] = {}  # workers for which the places are
        self._lock = threading.RLock()
        self._looked = -_LOOK
        self._stranded = connection.stranded

    # ------------------------------------------------------------------------------- as an engine

    def results(self, kernel: Callable[..., R], *arrays: Given) -> Iterator[R]:
        if not any(isinstance(array, There) for array in arrays):
            return self._here(arrays).results(kernel, *arrays)
        rows = rows_of(arrays)
        begin = partial(self.task_of, kernel, _parts(arrays), rows)
        return (cast(R, result) for result in self.each(begin, self._blocks(rows)))

    def total(self, kernel: Callable[..., Integers], *arrays: Given) -> Integers:
        if not any(isinstance(array, There) for array in arrays):
            return self._here(arrays).total(kernel, *arrays)
        rows, parts = rows_of(arrays), _parts(arrays)
        begin = partial(self.task_of, kernel, parts, rows, runner=run_total)
        first, *others = (cast(Integers, part) for part in self.each(begin, self._blocks(rows)))
        return sum(others, first)

    def make(self, kernel: Callable[..., Array], *arrays: Given) -> Rows:
        if not any(isinstance(array, There) for array in arrays):
            return self._here(arrays).make(kernel, *arrays)
        made = _Made(rows_of(arrays), kernel, _parts(arrays))
        for place in range(self._blocks(made.rows)):
            self.attempt(partial(made.task, self), place)  # whoever needs them waits for them
        return There(self, made)

    def columns(
        self, kernel: Callable[[str, Sequence[Array]], R], columns: Mapping[str, Array]
    ) -> Iterator[R]:
        """Columns of many numbers are worked on by a worker each, to whom they go in pieces; others
        here."""
        ahead = deque[R | _Begun[R]]()
        for place, name in enumerate(columns):
            if isinstance(columns, HeldColumns) and name not in columns.categorical:
                ahead.append(cast(_Begun[R], columns.begin(kernel, name, place)))
                if len(ahead) > len(self.workers):
                    yield _result(ahead.popleft())
                continue
            values = columns[name]
            if values.dtype == object or len(values) < (self._block or _MANY):
                ahead.append(told(kernel)(name, [values]))
            else:
                ahead.append(_Begun(self, _ColumnTask(self, kernel, columns, (place, name), values)))
            del values  # rows are many
            if len(ahead) > len(self._connection.workers):
                yield _result(ahead.popleft())
        while ahead:
            yield _result(ahead.popleft())

    def begin_column(self, kernel: Callable[..., object], name: str, values: Array, place: int) -> Task:
        """Have a worker run a kernel on a column, which is sent there."""
        if not (workers := sorted(self._connection.workers)):
            raise Lost
        worker = workers[place % len(workers)]
        parts = []
        for part in cuts(len(values), self._block or MOST):
            parts.append(self.send(values[part], worker))
            release_pages(values)
        return self.submit(kernel, [name, *parts], worker, run_column)

    @property
    def room(self) -> float:
        return self._connection.room

    def read_parts(
        self,
        read: Callable[..., ReadPart],
        of: Sequence[object],
        keys: Sequence[Hashable],
        check: Callable[[], None],
    ) -> HeldParts:
        return HeldParts(self, read, of, keys, check)

    def hold(self, rows: Array | Iterable[Array]) -> Rows:
        array = rows if isinstance(rows, np.ndarray) else np.concatenate([*rows], axis=-1)
        own = _Own(array)
        for _ in self.each(partial(own.task, self), self._blocks(own.rows), fetch=False):
            pass
        return There(self, own)

    def gather(self, rows: Rows, start: int = 0, stop: int | None = None) -> Array:
        if not isinstance(rows, There):
            return Embedded().gather(rows, start, stop)
        return np.concatenate([*self._gather(rows, *slice(start, stop).indices(rows.rows)[:2])], axis=-1)

    def keep(self, rows: Rows) -> Array:
        if not isinstance(rows, There):
            return Embedded().keep(rows)
        size = math.prod(rows.shape)
        out: Array = self._scratch.of_rows(size, rows.dtype.type, "rows of a cluster")
        out = out.reshape(rows.shape)
        at = 0
        for block in self._gather(rows, 0, rows.rows):
            out[..., at : at + block.shape[-1]] = block
            at += block.shape[-1]
            release_pages(out)
        rows.is_now(out)
        return out

    def share(self, value: T) -> Shared[T]:
        return SharedThere(value)

    @property
    def threads(self) -> int:
        """Those of all workers."""
        return sum(self._connection.workers.values())

    @property
    def width(self) -> int:
        return _AHEAD * max(1, self.threads)

    def cuts(self, rows: int) -> Sequence[slice]:
        return [self.part(rows, place) for place in range(self._blocks(rows))]

    def begin(self, kernel: Callable[..., R], place: int, *arrays: Given) -> Begun[R]:
        parts, rows = _parts(arrays), rows_of(arrays)
        return _Begun(self, lambda _: self.task_of(kernel, parts, rows, place))

    def do(self, kernel: Callable[..., R], *arguments: object) -> Begun[R]:
        return _Begun(self, lambda _: self.submit(kernel, arguments, None))

    def close(self) -> None:
        """End the connection. What is held is gone."""
        self._connection.close()

    # --------------------------------------------------------------------------- blocks and tasks

    def task_of(
        self,
        kernel: Callable[..., object],
        parts: Sequence[Part],
        rows: int,
        place: int,
        runner: Callable[..., object] | None = None,
    ) -> Task:
        """Have a worker run a kernel on a block; `runner` does, on parts of it where there can be."""
        if runner is None or any(isinstance(part, Pieces) for part in parts):
            runner = run
        worker = self.worker(rows, place)
        blocks = [self._block_of(part, place, worker) for part in parts]
        return self.submit(kernel, blocks, worker, runner)

    def send(self, value: object, worker: str | None) -> Task:
        """Have a worker, any of them if None, hold an object."""
        return self._connection.send(value, worker)

    @property
    def workers(self) -> Mapping[str, int]:
        """Threads of those that are there, by address."""
        return self._connection.workers

    def begun(self, begin: Callable[[int], Task]) -> Begun[R]:
        """What a task comes to, which is begun now, and again where it is lost."""
        return _Begun(self, begin)

    def is_gone(self, epoch: int, task: Task) -> bool:
        """Whether no worker has, or makes, what a task of then was to be."""
        return epoch != self.epoch or task.status in _GONE

    def part(self, rows: int, place: int) -> slice:
        """The rows of a block."""
        size = self._size(rows)
        return slice(place * size, min((place + 1) * size, rows))

    def worker(self, rows: int, place: int) -> str:
        """The worker that a block of so many rows belongs to: each has its share by its threads, and
        blocks stay where they are as long as they can."""
        with self._lock:
            workers = self._connection.workers
            if not workers:
                raise Lost
            if self._spread != workers:
                self._spread = dict(workers)
                self._places = {of: _spread(places, workers) for of, places in self._places.items()}
            if rows not in self._places:
                self._places[rows] = _spread([""] * self._blocks(rows), workers)
            return self._places[rows][place]

    def _size(self, rows: int) -> int:
        with self._lock:
            if rows not in self._sizes:
                threads = self.threads or 1
                fair = -(-rows // (threads * _BLOCKS))
                whole = -(-fair // _UNIT) * _UNIT
                self._sizes[rows] = self._block or min(max(whole, LEAST), MOST)
            return self._sizes[rows]

    def _blocks(self, rows: int) -> int:
        return max(1, -(-rows // self._size(rows)))

    def _block_of(self, part: Part, place: int, worker: str) -> object:
        if isinstance(part, _Source):
            return part.task(self, place)
        if isinstance(part, Pieces):
            return part.of_blocks[place]
        block = part[..., self.part(part.shape[-1], place)]
        return block if block.nbytes <= _INLINE else self.send(block, worker)

    def submit(
        self,
        kernel: Callable[..., object],
        arguments: Sequence[object],
        worker: str | None,
        runner: Callable[..., object] = run,
    ) -> Task:
        """Have a worker, any of them if None, run a kernel; `runner` does."""
        whole = kernel if isinstance(kernel, partial) else partial(kernel)
        named = (*whole.keywords.values(), *whole.args)
        given = [self._shared(value, worker) for value in (*named, *arguments)]
        about = whole.func, tuple(whole.keywords), len(whole.args)
        return self._connection.submit(runner, *about, *given, worker=worker)

    def _here(self, arrays: Sequence[Given]) -> Embedded:
        """What works on rows of this process, in the same blocks."""
        return Embedded(self._size(rows_of(arrays)))

    def _shared(self, value: object, worker: str | None) -> object:
        """What a task gets in the place of an object: itself where it is small."""
        if isinstance(value, np.ndarray) and value.nbytes > _INLINE:
            return self.send(value, worker)
        return value.task(self) if isinstance(value, SharedThere) else value

    def _gather(self, rows: There, start: int, stop: int) -> Iterator[Array]:
        """Rows from `start` to `stop`, in one part or more."""
        source, size = rows.source, self._size(rows.rows)
        first = min(start // size, self._blocks(rows.rows) - 1)

        def begin(block: int) -> Task:
            low = (first + block) * size
            kernel = partial(some, max(0, start - low), max(0, stop - low))
            return self.task_of(kernel, [source], source.rows, first + block)

        found = self.each(begin, max(1, -(-stop // size) - first))
        return (cast(Array, part) for part in found)

    # ------------------------------------------------------------------- waiting, and losses made good

    def each(self, begin: Callable[[int], Task], count: int, *, fetch: bool = True) -> Iterator[object]:
        """What the tasks of so many blocks come to, in their order; few are under way at a time."""
        ahead: deque[tuple[int, Task | None]] = deque()
        for place in range(count):
            ahead.append((place, self.attempt(begin, place)))
            # Some together, as each wait is a message or two.
            some = self.width
            if len(ahead) >= 2 * some:
                yield from self.ends(begin, dict(ahead.popleft() for _ in range(some)), fetch)
        yield from self.ends(begin, dict(ahead), fetch)

    def attempt(self, begin: Callable[[int], Task], place: int) -> Task | None:
        """A task of which it is not known whether it began, if it is None."""
        try:
            self._look()
            return begin(place)
        except Lost:
            return None

    def ends(
        self, begin: Callable[[int], Task], tasks: Mapping[int, Task | None], fetch: bool
    ) -> Iterator[object]:
        """What tasks come to, which are begun anew where they were lost. Raises what a kernel raises."""
        found = dict[int, object]()
        for _ in range(_TRIES):
            try:
                due = {place: task for place, task in tasks.items() if place not in found}
                begun = {place: begin(place) if task is None else task for place, task in due.items()}
                found.update(self._outcomes(begun, fetch))
            except Lost:
                pass  # those that are not found are lost
            if len(found) == len(tasks):
                break
            tasks = dict.fromkeys(tasks)
            self._recover()
        else:
            raise ClusterError(
                f"workers of the cluster at {self._connection.access.address} ended {_TRIES} times over "
                "the same rows: they may have too little memory (`vfl doctor` says how much is needed)"
            )
        for place in tasks:
            if isinstance(result := found[place], _Failed):
                raise self._told(result.error)
            yield result

    def _told(self, error: BaseException) -> BaseException:
        """What a kernel has raised, as it is raised here."""
        if isinstance(error, MemoryError):
            return ClusterError(
                f"a worker of the cluster at {self._connection.access.address} has too little memory "
                "for its part of the rows: start more workers, or larger ones (`vfl doctor` says how "
                "much is needed); the same command goes on then"
            )
        return error

    def _outcomes(self, tasks: Mapping[int, Task], fetch: bool) -> dict[int, object]:
        """What those come to that are not lost."""
        epoch = self.epoch
        while not self._connection.wait([*tasks.values()], _LOOK):
            self._look()
            there = self._connection.running and self._connection.workers
            if not there or any(self.is_gone(epoch, task) for task in tasks.values()):
                break
        done = {place: task for place, task in tasks.items() if task.status == "finished"}
        values = self._connection.fetch([*done.values()]) if fetch else [None] * len(done)
        found: dict[int, object] = dict(zip(done, values, strict=True))
        for place, task in tasks.items():
            if task.status == "error":
                error = task.exception()
                # Dask's own errors are of workers that were killed.
                if error is not None and type(error).__module__.partition(".")[0] != "distributed":
                    found[place] = _Failed(error)
        return found

    def _look(self) -> None:
        """See now and then which workers are there."""
        with self._lock:
            if time.monotonic() - self._looked >= _LOOK:
                self._looked = time.monotonic()
                self._connection.look()
                self._note_stranded()
                self._connection.check_room()

    def _recover(self) -> None:
        """Go on after a loss, with who is there. Raises ClusterError where nobody comes back."""
        with self._lock:
            if self._connection.recover():
                self.epoch += 1
            self._note_stranded()

    def _note_stranded(self) -> None:
        """Wait for no task any more that may wait for workers alone that are gone."""
        if self._connection.stranded != self._stranded:
            self._stranded = self._connection.stranded
            self.epoch += 1


class _Begun(Generic[R]):
    """What a worker was asked for."""

    def __init__(self, cluster: Cluster, begin: Callable[[int], Task]) -> None:
        self._cluster, self._begin = cluster, begin
        self._task = cluster.attempt(begin, 0)

    def result(self) -> R:
        """Wait for it. Raises what the kernel raises, and ClusterError."""
        (found,) = self._cluster.ends(self._begin, {0: self._task}, fetch=True)
        return cast(R, found)

    def cancel(self) -> None:
        """Let it be."""
        self._task = None


class _ColumnTask:
    """How a column gets to a worker, again if need be."""

    def __init__(
        self,
        cluster: Cluster,
        kernel: Callable[..., object],
        columns: Mapping[str, Array],
        which: tuple[int, str],
        values: Array,
    ) -> None:
        self._cluster, self._kernel, self._columns = cluster, kernel, columns
        self._place, self._name = which
        self._values: Array | None = values  # once read

    def __call__(self, _: int) -> Task:
        values, self._values = self._values, None
        if values is None:
            values = self._columns[self._name]
        return self._cluster.begin_column(self._kernel, self._name, values, self._place)


def _result(one: R | _Begun[R]) -> R:
    return cast(_Begun[R], one).result() if isinstance(one, _Begun) else one


def _parts(arrays: Sequence[Given]) -> list[Part]:
    parts = list[Part]()
    for array in arrays:
        if isinstance(array, There):
            parts.append(array.source)
        elif isinstance(array, Held):
            raise TypeError("rows of another engine")
        else:
            parts.append(array)
    return parts


def _spread(places: Sequence[str], workers: Mapping[str, int]) -> tuple[str, ...]:
    """Blocks over workers by their threads, those that can stay where they are."""
    threads, spread = sum(workers.values()), list(places)
    room = {worker: -(-len(places) * own // threads) for worker, own in workers.items()}
    homeless = list[int]()
    for place, worker in enumerate(places):
        if room.get(worker, 0):
            room[worker] -= 1
        else:
            homeless.append(place)
    for place in homeless:
        spread[place] = max(room, key=room.__getitem__)
        room[spread[place]] -= 1
    return tuple(spread)
