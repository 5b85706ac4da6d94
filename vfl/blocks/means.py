"""Sums and means over many rows of which few are at hand at a time, bit for bit those that NumPy has of
all."""

from collections.abc import Callable, Iterable, Iterator

import numpy as np

from vfl.arrays import Floats

_AT_ONCE = 1 << 17  # numbers that NumPy adds by itself


def blocks_of(*arrays: Floats) -> Iterator[tuple[Floats, ...]]:
    """Arrays of as many rows, some rows at a time."""
    for some in stretches(len(arrays[0])):
        yield tuple(array[some] for array in arrays)


def stretches(rows: int) -> Iterator[slice]:
    """So many rows, some at a time."""
    return (slice(start, start + _AT_ONCE) for start in range(0, rows, _AT_ONCE))


def weighted_mean(parts: Iterable[tuple[Floats, Floats]], count: int) -> float:
    """What `np.average` has for so many values and weights, which come piece by piece. Raises
    ZeroDivisionError as it does."""
    with np.errstate(over="ignore", invalid="ignore"):
        products = ((values * weights, weights) for values, weights in parts)
        values, weights = ordered_sums(products, count)
        if weights == 0:
            raise ZeroDivisionError("weights that add up to zero")
        return float(np.float64(values) / np.float64(weights))


def ordered_sums(parts: Iterable[tuple[Floats, ...]], count: int) -> list[float]:
    """What `np.sum` has for each of some arrays of so many numbers, which come piece by piece.

    A float's sum depends on its order. NumPy halves what it adds until little is left, and so it is done
    here with pieces of which each is added by NumPy.
    """
    return _sums(_Pieces(iter(parts)).take, count).tolist() if count else [0.0]


class _Pieces:
    """Numbers one after the other, as many at a time as are asked for."""

    def __init__(self, parts: Iterator[tuple[Floats, ...]]) -> None:
        self._parts, self._left = parts, list[Floats]()

    def take(self, count: int) -> Floats:
        """The next, shape (arrays, count)."""
        have = sum(part.shape[1] for part in self._left)
        while have < count:
            self._left.append(np.stack(next(self._parts)))
            have += self._left[-1].shape[1]
        joined = self._left[0] if len(self._left) == 1 else np.concatenate(self._left, axis=1)
        self._left = [joined[:, count:]]
        return joined[:, :count]


def _sums(take: Callable[[int], Floats], count: int) -> Floats:
    """The sums of so many of the next."""
    if count <= _AT_ONCE:
        return np.array([np.add.reduce(row) for row in take(count)])
    first = count // 2
    first -= first % 8
    left = _sums(take, first)
    return np.asarray(left + _sums(take, count - first))
