"""An engine that shares nothing with its kernels: all that they get and give goes through bytes."""

import pickle
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from functools import partial
from types import FunctionType, MethodType
from typing import Any

import gmpy2
import numpy as np

from vfl.blocks.cores import Begun
from vfl.blocks.engine import Array, Engine, Given, Held, Pieces, Rows, Shared, cuts, rows_of, told


class Blocks(Held):
    """Rows in blocks of bytes."""

    def __init__(self, blocks: list[Array]) -> None:
        super().__init__(sum(block.shape[-1] for block in blocks))
        self._like = blocks[0]
        check_plain(blocks)
        self.blocks = [pickle.dumps(block) for block in blocks]

    @property
    def shape(self) -> tuple[int, ...]:
        return (*self._like.shape[:-1], self.rows)

    @property
    def dtype(self) -> Any:
        return self._like.dtype


class Apart(Engine):
    """Blocks of so many rows; kernels run on copies, one at a time, as in a process of its own.

    Kernels are pickled by name, so that none is a closure; arrays are read-only, as workers' are.
    """

    def __init__(self, block: int) -> None:
        self.block = block
        self.calls = 0

    def results(self, kernel: Callable[..., Any], *arrays: Given) -> Iterator[Any]:
        kernel = told(kernel)
        check_plain(kernel)
        sent = pickle.dumps(kernel)
        for place, part in enumerate(cuts(rows_of(arrays), self.block)):
            self.calls += 1
            given = [_copy(self._block(array, place, part)) for array in arrays]
            yield _copy(pickle.loads(sent)(*given))  # noqa: S301

    def columns(
        self, kernel: Callable[[str, Sequence[Array]], Any], columns: Mapping[str, Array]
    ) -> Iterator[Any]:
        sent = pickle.dumps(kernel)
        for name, values in columns.items():
            if values.dtype == object:
                yield kernel(name, [values])
            else:
                parts = [_copy(values[part]) for part in cuts(len(values), self.block)]
                yield _copy(pickle.loads(sent)(name, parts))  # noqa: S301

    def make(self, kernel: Callable[..., Array], *arrays: Given) -> Rows:
        return Blocks([*self.results(kernel, *arrays)])

    def hold(self, rows: Array | Iterable[Array]) -> Rows:
        whole = rows if isinstance(rows, np.ndarray) else np.concatenate([*rows], axis=-1)
        return Blocks([whole[..., part] for part in cuts(whole.shape[-1], self.block)])

    def gather(self, rows: Rows, start: int = 0, stop: int | None = None) -> Array:
        if not isinstance(rows, Blocks):
            return rows[..., start:stop]
        blocks = [pickle.loads(block) for block in rows.blocks]  # noqa: S301
        return np.concatenate(blocks, axis=-1)[..., start:stop]

    def keep(self, rows: Rows) -> Array:
        return self.gather(rows)

    def share(self, value: Any) -> Shared[Any]:
        return Shared(_copy(value))

    def cuts(self, rows: int) -> list[slice]:
        return [*cuts(rows, self.block)]

    def begin(self, kernel: Callable[..., Any], place: int, *arrays: Given) -> "Begun[Any]":
        part = self.cuts(rows_of(arrays))[place]
        return self.do(kernel, *(self._block(array, place, part) for array in arrays))

    def do(self, kernel: Callable[..., Any], *arguments: object) -> Begun[Any]:
        self.calls += 1
        done: Future[Any] = Future()
        try:
            done.set_result(_copy(_copy(told(kernel))(*map(_copy, arguments))))
        except Exception as error:
            done.set_exception(error)
        return done

    def _block(self, array: Given, place: int, part: slice) -> object:
        if isinstance(array, Pieces):
            return array.of_blocks[place]
        if isinstance(array, Blocks):
            return pickle.loads(array.blocks[place])  # noqa: S301
        return array[..., part]


def _copy(value: object) -> Any:
    check_plain(value)
    copied = pickle.loads(pickle.dumps(value))  # noqa: S301
    if isinstance(copied, np.ndarray):
        copied.setflags(write=False)
    return copied


OWN = ("vfl.", "row_kernels", "test_")
PLAIN = (bool, int, float, str, bytes, range, slice, type(None), np.generic, np.dtype, gmpy2.mpz)


def check_plain(value: object) -> None:
    """What goes to kernels, and comes from them, is numbers, text, bytes and arrays of such, and records
    and functions of vfl: whatever a peer has sent can be no program there."""
    if isinstance(value, PLAIN):
        return
    if isinstance(value, np.ndarray):
        assert value.dtype != object
    elif isinstance(value, dict):
        check_plain([*value, *value.values()])
    elif isinstance(value, tuple | list | set | frozenset | deque):
        for one in value:
            check_plain(one)
    elif isinstance(value, partial):
        check_plain([value.func, *value.args, value.keywords])
    elif isinstance(value, MethodType):
        check_plain(value.__self__)
    elif isinstance(value, type | FunctionType):
        assert value.__module__.startswith(OWN), value
    elif value is not len:
        assert type(value).__module__.startswith(OWN), value
        check_plain(getattr(value, "__dict__", {}))
