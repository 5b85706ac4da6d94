"""What runs at the workers of a cluster: kernels, on blocks or parts of them."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import TypeVar, cast

import numpy as np

from vfl.arrays import Integers
from vfl.blocks.engine import BLOCK, Array, cuts

R = TypeVar("R")


def run(kernel: Callable[..., object], names: Sequence[str], before: int, *given: object) -> object:
    """A kernel at a worker: what it has by name, what it has before its blocks, these."""
    return _kernel(kernel, names, before, given)(*given[len(names) + before :])


def run_in_parts(
    kernel: Callable[..., Array], names: Sequence[str], before: int, *given: object
) -> Array:
    """A kernel that makes rows, on parts of the blocks that processors' caches have room for."""
    blocks = cast(Sequence[Array], given[len(names) + before :])
    part = _kernel(kernel, names, before, given)
    made = [part(*(block[..., cut] for block in blocks)) for cut in cuts(blocks[0].shape[-1], BLOCK)]
    return cast(Array, made[0] if len(made) == 1 else np.concatenate(made, axis=-1))


def run_total(
    kernel: Callable[..., Integers], names: Sequence[str], before: int, *given: object
) -> Integers:
    """A kernel whose results are added, on such parts."""
    blocks = cast(Sequence[Array], given[len(names) + before :])
    part = _kernel(kernel, names, before, given)
    first, *others = cuts(blocks[0].shape[-1], BLOCK)
    total = part(*(block[..., first] for block in blocks)).copy()
    for cut in others:
        total += part(*(block[..., cut] for block in blocks))
    return total


def run_column(
    kernel: Callable[..., object], names: Sequence[str], before: int, *given: object
) -> object:
    """A kernel on a column: its name, and its rows in parts."""
    name, *parts = given[len(names) + before :]
    return _kernel(kernel, names, before, given)(name, parts)


def _kernel(
    kernel: Callable[..., R], names: Sequence[str], before: int, given: Sequence[object]
) -> Callable[..., R]:
    named = dict(zip(names, given, strict=False))
    return partial(kernel, *given[len(names) :][:before], **named)


def some(start: int, stop: int, block: Array) -> Array:
    """Some rows of a block."""
    return block[..., start:stop]
