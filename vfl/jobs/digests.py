"""Digests of arrays, in which one cannot be taken for another, or for two."""

import hashlib

import msgspec
import numpy as np
from numpy.typing import NDArray

from vfl.blocks.scratch import in_pieces


def add_array(digest: "hashlib._Hash", name: str, values: NDArray[np.generic]) -> None:
    """Add an array and its name."""
    if values.dtype == object:
        content = msgspec.msgpack.encode(values.tolist())
        _add_parts(digest, name, values, len(content))
        digest.update(content)
        return
    _add_parts(digest, name, values, values.nbytes)
    for some in in_pieces(len(values), values):
        digest.update(np.ascontiguousarray(values[some]).reshape(-1).view(np.uint8).data)


def _add_parts(digest: "hashlib._Hash", name: str, values: NDArray[np.generic], size: int) -> None:
    """What comes before an array of so many bytes."""
    for part in (name.encode(), values.dtype.str.encode()):
        digest.update(len(part).to_bytes(8, "big"))
        digest.update(part)
    digest.update(size.to_bytes(8, "big"))
