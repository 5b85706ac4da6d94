"""States of a training as MessagePack: their arrays, which may have millions of rows, are not copied."""

import secrets
from collections.abc import Iterator
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from vfl.blocks.scratch import release_pages
from vfl.text import counted

_MANY = 1 << 16  # bytes of an array that is not copied
_AT_ONCE = 1 << 20  # bytes of such an array
_MARK = 32  # random bytes that stand for one


class EncodedState:
    """A record in MessagePack as `msgspec` makes it, with arrays as their type, shape and bytes."""

    def __init__(self, record: object) -> None:
        self._marked: dict[bytes, NDArray[np.uint8]] = {}
        self._rest = msgspec.msgpack.encode(record, enc_hook=self._parts)
        self.size = len(self._rest)
        for mark, data in self._marked.items():
            self.size += len(_header(len(data))) + len(data) - len(_header(len(mark))) - len(mark)

    def pieces(self) -> Iterator[bytes]:
        """All bytes, few at a time."""
        rest = self._rest
        for mark, data in self._marked.items():  # in the order in which they were met
            before, _, rest = rest.partition(_header(len(mark)) + mark)
            yield before + _header(len(data))
            for start in range(0, len(data), _AT_ONCE):
                yield data[start : start + _AT_ONCE].tobytes()
                release_pages(data)
        yield rest

    def _parts(self, value: object) -> dict[str, object]:
        """An array in MessagePack."""
        if not isinstance(value, np.ndarray) or value.dtype.hasobject:
            raise TypeError("no array")
        parts = {"type": value.dtype.str, "shape": value.shape}
        if value.nbytes < _MANY or not value.flags.c_contiguous:
            return {**parts, "data": value.tobytes()}
        mark = secrets.token_bytes(_MARK)
        self._marked[mark] = value.reshape(-1).view(np.uint8)
        return {**parts, "data": mark}


def array_of(kind: type[object], value: Any) -> NDArray[np.generic]:
    """The array again, a hook of `msgspec`'s decoder."""
    return np.frombuffer(value["data"], np.dtype(value["type"])).reshape(value["shape"])


def _header(size: int) -> bytes:
    """What stands before so many bytes in MessagePack. Raises ValueError for more than it can hold."""
    for code, width in ((0xC4, 1), (0xC5, 2), (0xC6, 4)):
        if size < 1 << 8 * width:
            return bytes([code]) + size.to_bytes(width, "big")
    raise ValueError(f"one array of {counted(size, 'byte')}")
