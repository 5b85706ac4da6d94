"""Kernels run on blocks of rows where these lie, their results added in the order of the blocks.

Whatever is done to rows is a map over blocks of them and, as a rule, a sum: bins from counts of values,
codes, gradients, scores, encrypted vectors, hints and sums, which rows go left. A kernel is a function
of the blocks' arrays alone: one of a module, or `functools.partial` of one, so that it can be sent to
where the blocks are. Integers add up to the same in any blocks; of real numbers an engine is asked for
each row's alone, so that no result depends on how rows are cut.

`Embedded` has all rows in this process, in memory or in files that are mapped, and runs kernels in
threads. An engine whose blocks lie with other machines holds them in arrays of its own (`Held`), and
takes these and plain ones alike. All arrays of so many rows are cut at the same rows.
"""

import os
import queue
from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Generic, NoReturn, Protocol, TypeVar, cast

import numpy as np
from numpy.typing import NDArray

from vfl.arrays import Integers, Words
from vfl.blocks.cores import LEAST, Begun, begin, each
from vfl.blocks.scratch import Scratch, release_pages

if TYPE_CHECKING:
    from vfl.blocks.held_parts import HeldParts, Part

BLOCK = 1 << 17  # rows
_HELD = 16  # blocks of files whose pages stay in memory, about

Array = NDArray[np.generic]

R = TypeVar("R")
T = TypeVar("T")
P = TypeVar("P", covariant=True)


class Held(ABC):
    """An array whose last axis is the rows, in blocks that lie with an engine."""

    def __init__(self, rows: int) -> None:
        self.rows = rows

    @property
    @abstractmethod
    def shape(self) -> tuple[int, ...]:
        """As of the array of all blocks."""

    @property
    @abstractmethod
    def dtype(self) -> np.dtype[np.generic]:
        """As of the array of all blocks."""

    def __len__(self) -> int:
        return self.shape[0]

    def __array__(self, *_: object, **__: object) -> NoReturn:
        raise TypeError("rows that an engine holds are no array: `gather` brings some of them here")


Rows = Array | Held
"""An array of which the last axis is the rows."""


@dataclass(frozen=True)
class Pieces(Generic[P]):
    """What each block gets for itself beside its rows: an entry a block, as `results` has them."""

    of_blocks: Sequence[P]


@dataclass(frozen=True)
class Shared(Generic[T]):
    """An object that kernels need again and again, as an argument of `functools.partial`, which gets the
    object itself."""

    value: T

    @property
    def argument(self) -> T:
        """This, typed as what the kernel gets."""
        return cast(T, self)


Given = Rows | Pieces[object]
"""What a kernel gets a block of."""


class Adder(Protocol):
    """Adds up blocks where they lie, in any order."""

    def add(self, start: int, *blocks: Array) -> None:
        """Add a block, which begins with row `start`."""

    def total(self) -> Words:
        """What was added; of several adders these add up, modulo 2^64."""


class Engine(ABC):
    """Runs kernels on blocks of rows."""

    @abstractmethod
    def results(self, kernel: Callable[..., R], *arrays: Given) -> Iterator[R]:
        """What `kernel(*blocks)` is for each block of the arrays, in the order of the blocks."""

    @abstractmethod
    def make(self, kernel: Callable[..., Array], *arrays: Given) -> Rows:
        """Rows of which each block is `kernel(*blocks)`. What is given is not changed afterwards."""

    @abstractmethod
    def hold(self, rows: Array | Iterable[Array]) -> Rows:
        """An array, or what its blocks of whatever size are one after the other, where kernels run.

        It is not changed afterwards.
        """

    @abstractmethod
    def gather(self, rows: Rows, start: int = 0, stop: int | None = None) -> Array:
        """Some of the rows as an array: all of them are many."""

    @abstractmethod
    def keep(self, rows: Rows) -> Array:
        """All rows as an array of this process, in memory or in a file, which the engine may keep in
        place of how they were made. It is not changed afterwards."""

    @abstractmethod
    def share(self, value: T) -> Shared[T]:
        """Have an object at hand where kernels run."""

    @property
    def apart(self) -> bool:
        """Whether kernels run in other processes than this one."""
        return True

    @property
    def room(self) -> float:
        """Bytes that other processes may take for columns of a table that they hold."""
        return 0.0

    @property
    def width(self) -> int:
        """How many kernels run side by side."""
        return os.cpu_count() or 1

    @abstractmethod
    def cuts(self, rows: int) -> Sequence[slice]:
        """Where arrays of so many rows are cut into blocks."""

    @abstractmethod
    def begin(self, kernel: Callable[..., R], place: int, *arrays: Given) -> Begun[R]:
        """Begin `kernel(*blocks)` of one block, the `place`-th, beside all else."""

    @abstractmethod
    def do(self, kernel: Callable[..., R], *arguments: object) -> Begun[R]:
        """Begin `kernel(*arguments)`, which needs no rows, where there is room for it."""

    def sum_by(
        self,
        adder: Callable[[], Adder],
        *arrays: Rows,
        follow: Callable[[int, int], None] = lambda done, of: None,
    ) -> Words:
        """What adders come to that have added all blocks. `adder` makes one, for a block or for several.

        `follow(done, of)` is told of blocks.
        """
        cuts = self.cuts(rows_of(arrays))
        starts = Pieces([cut.start for cut in cuts])
        results = enumerate(self.results(partial(_add_block, adder), starts, *arrays), 1)
        total: Words | None = None
        for done, result in results:
            total = result.copy() if total is None else np.add(total, result, out=total)
            follow(done, len(cuts))
        assert total is not None  # noqa: S101 - there is a block at least
        return total

    def columns(
        self, kernel: Callable[[str, Sequence[Array]], R], columns: Mapping[str, Array]
    ) -> Iterator[R]:
        """What `kernel(name, parts)` is for each column, whose rows lie in `parts`, one after the other.
        Few columns are asked for at a time."""
        return (kernel(name, [values]) for name, values in columns.items())

    def read_parts(
        self,
        read: "Callable[..., Part]",
        of: Sequence[object],
        keys: Sequence[Hashable],
        check: Callable[[], None],
    ) -> "HeldParts | None":
        """Have workers read parts of a table, each by `read` of an argument, and hold their columns,
        which go by `keys`. check: raises DataError where they cannot be read again. None where this
        process has no workers."""
        return None

    def fill(self, out: Array, kernel: Callable[..., Array], *arrays: Given) -> None:
        """Have each block of `out` be `kernel(*blocks)`; `out` may be one of the arrays."""
        start = 0
        for block in self.results(kernel, *arrays):
            stop = start + block.shape[-1]
            out[..., start:stop] = block
            start = stop

    def total(self, kernel: Callable[..., Integers], *arrays: Given) -> Integers:
        """The sum of `kernel(*blocks)` over all blocks."""
        results = self.results(kernel, *arrays)
        total = next(results).copy()
        for result in results:
            total += result
        return total


class Embedded(Engine):
    """All rows in this process; its cores share the blocks. Not to be used from within a kernel."""

    def __init__(self, block: int = BLOCK, scratch: Scratch = Scratch()) -> None:
        """`scratch`: where rows lie that are made."""
        self._block, self._scratch = block, scratch

    @property
    def apart(self) -> bool:
        return False

    def results(self, kernel: Callable[..., R], *arrays: Given) -> Iterator[R]:
        kernel = told(kernel)

        def run(part: tuple[int, slice]) -> R:
            return kernel(*(_cut(array, *part) for array in arrays))

        return self._map(run, rows_of(arrays), arrays)

    def make(self, kernel: Callable[..., Array], *arrays: Given) -> Rows:
        kernel, rows = told(kernel), rows_of(arrays)
        first = kernel(*(_cut(array, 0, slice(0, min(rows, self._block))) for array in arrays))
        if rows <= self._block:
            return first
        out = self._scratch.room((*first.shape[:-1], rows), first.dtype, "rows of a job")
        out[..., : self._block] = first

        def run(part: tuple[int, slice]) -> None:
            if part[0]:
                out[..., part[1]] = kernel(*(_cut(array, *part) for array in arrays))

        for _ in self._map(run, rows, [out, *arrays]):
            pass
        return out

    def fill(self, out: Array, kernel: Callable[..., Array], *arrays: Given) -> None:
        kernel = told(kernel)

        def run(part: tuple[int, slice]) -> None:
            out[..., part[1]] = kernel(*(_cut(array, *part) for array in arrays))

        for _ in self._map(run, rows_of([out, *arrays]), [out, *arrays]):
            pass

    def hold(self, rows: Array | Iterable[Array]) -> Rows:
        return rows if isinstance(rows, np.ndarray) else np.concatenate([*rows], axis=-1)

    def gather(self, rows: Rows, start: int = 0, stop: int | None = None) -> Array:
        if isinstance(rows, Held):
            raise TypeError("rows of another engine")
        return rows[..., start:stop]

    def keep(self, rows: Rows) -> Array:
        return self.gather(rows)

    def share(self, value: T) -> Shared[T]:
        return Shared(value)

    def cuts(self, rows: int) -> Sequence[slice]:
        return [*cuts(rows, self._block)]

    def begin(self, kernel: Callable[..., R], place: int, *arrays: Given) -> Begun[R]:
        start = place * self._block
        part = slice(start, min(start + self._block, rows_of(arrays)))
        return begin(told(kernel), *(_cut(array, place, part) for array in arrays))

    def do(self, kernel: Callable[..., R], *arguments: object) -> Begun[R]:
        return begin(told(kernel), *arguments)

    def sum_by(
        self,
        adder: Callable[[], Adder],
        *arrays: Rows,
        follow: Callable[[int, int], None] = lambda done, of: None,
    ) -> Words:
        """An adder for each thread; blocks small enough for all of these to have some."""
        adder, rows = told(adder), rows_of(arrays)
        share = max(1, rows // (2 * LEAST * self.width)) * LEAST
        parts = [*cuts(rows, min(self._block, share))]
        spare: queue.SimpleQueue[Adder] = queue.SimpleQueue()

        def run(part: slice) -> None:
            try:
                own = spare.get_nowait()
            except queue.Empty:
                own = adder()
            own.add(part.start, *(array[..., part] for array in map(_array, arrays)))
            spare.put(own)

        for done, _ in enumerate(each(run, parts), 1):
            follow(done, len(parts))
        total = spare.get_nowait().total()
        while not spare.empty():
            total += spare.get_nowait().total()
        return total

    def _map(
        self, run: Callable[[tuple[int, slice]], R], rows: int, arrays: Sequence[Given]
    ) -> Iterator[R]:
        """What comes of each block; pages of files that arrays lie in are released now and then."""
        parts = enumerate(cuts(rows, self._block))
        if rows <= self._block:
            return iter([run(next(parts))])
        return _releasing(each(run, parts), [array for array in arrays if isinstance(array, np.ndarray)])


class Chosen(Engine):
    """The engine that was chosen for what this process does."""

    def __init__(self, chosen: Engine) -> None:
        self.chosen = chosen

    def results(self, kernel: Callable[..., R], *arrays: Given) -> Iterator[R]:
        return self.chosen.results(kernel, *arrays)

    def make(self, kernel: Callable[..., Array], *arrays: Given) -> Rows:
        return self.chosen.make(kernel, *arrays)

    def hold(self, rows: Array | Iterable[Array]) -> Rows:
        return self.chosen.hold(rows)

    def gather(self, rows: Rows, start: int = 0, stop: int | None = None) -> Array:
        return self.chosen.gather(rows, start, stop)

    def keep(self, rows: Rows) -> Array:
        return self.chosen.keep(rows)

    def share(self, value: T) -> Shared[T]:
        return self.chosen.share(value)

    @property
    def apart(self) -> bool:
        return self.chosen.apart

    @property
    def room(self) -> float:
        return self.chosen.room

    @property
    def width(self) -> int:
        return self.chosen.width

    def cuts(self, rows: int) -> Sequence[slice]:
        return self.chosen.cuts(rows)

    def begin(self, kernel: Callable[..., R], place: int, *arrays: Given) -> Begun[R]:
        return self.chosen.begin(kernel, place, *arrays)

    def do(self, kernel: Callable[..., R], *arguments: object) -> Begun[R]:
        return self.chosen.do(kernel, *arguments)

    def sum_by(
        self,
        adder: Callable[[], Adder],
        *arrays: Rows,
        follow: Callable[[int, int], None] = lambda done, of: None,
    ) -> Words:
        return self.chosen.sum_by(adder, *arrays, follow=follow)

    def total(self, kernel: Callable[..., Integers], *arrays: Given) -> Integers:
        return self.chosen.total(kernel, *arrays)

    def columns(
        self, kernel: Callable[[str, Sequence[Array]], R], columns: Mapping[str, Array]
    ) -> Iterator[R]:
        return self.chosen.columns(kernel, columns)

    def read_parts(
        self,
        read: "Callable[..., Part]",
        of: Sequence[object],
        keys: Sequence[Hashable],
        check: Callable[[], None],
    ) -> "HeldParts | None":
        return self.chosen.read_parts(read, of, keys, check)

    def fill(self, out: Array, kernel: Callable[..., Array], *arrays: Given) -> None:
        self.chosen.fill(out, kernel, *arrays)

    @contextmanager
    def instead(self, engine: Engine) -> Iterator[None]:
        """Have another engine for a while, in all threads."""
        before, self.chosen = self.chosen, engine
        try:
            yield
        finally:
            self.chosen = before


def _releasing(results: Iterator[R], arrays: Sequence[Array]) -> Iterator[R]:
    for number, result in enumerate(results, 1):
        yield result
        if number % _HELD == 0:
            for array in arrays:
                release_pages(array)
    for array in arrays:
        release_pages(array)


def cuts(rows: int, block: int) -> Iterator[slice]:
    """Where rows are cut into blocks; no rows are one empty block."""
    return (slice(start, min(start + block, rows)) for start in range(0, max(rows, 1), block))


def rows_of(arrays: Sequence[Given]) -> int:
    """The number of rows of all of them. Raises ValueError where they differ."""
    given = (array for array in arrays if not isinstance(array, Pieces))
    (rows,) = {array.rows if isinstance(array, Held) else array.shape[-1] for array in given}
    return int(rows)


def told(kernel: Callable[..., R]) -> Callable[..., R]:
    """The kernel with what is shared in the place of its names."""
    if not isinstance(kernel, partial):
        return kernel
    named = {name: _value(value) for name, value in kernel.keywords.items()}
    return partial(kernel.func, *map(_value, kernel.args), **named)


def _value(argument: object) -> object:
    return argument.value if isinstance(argument, Shared) else argument


def _cut(array: Given, place: int, part: slice) -> object:
    if isinstance(array, Pieces):
        return array.of_blocks[place]
    return _array(array)[..., part]


def _array(rows: Rows) -> Array:
    if isinstance(rows, Held):
        raise TypeError("rows of another engine")
    return rows


def _add_block(adder: Callable[[], Adder], start: int, *blocks: Array) -> Words:
    """What an adder comes to that has added one block."""
    own = adder()
    own.add(start, *blocks)
    return own.total()


def overlaps(cuts: Sequence[slice], start: int, stop: int) -> Iterator[tuple[int, int, int]]:
    """The blocks that have rows from `start` to before `stop`, and which these are: place, low, high."""
    for place, cut in enumerate(cuts):
        low, high = max(start, cut.start), min(stop, cut.stop)
        if low < high:
            yield place, low, high


ENGINE = Chosen(Embedded())
"""The one that a party's process works with."""
