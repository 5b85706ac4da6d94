"""Kernels of tests of engines, in a module that workers import in no time."""

import time
from pathlib import Path
from typing import Any

import numpy as np

from vfl.blocks.engine import Array
from vfl.errors import DataError


def add(table: Array, values: Array) -> Array:
    return table + values


def shape_and_values(table: Array, values: Array) -> tuple[tuple[int, ...], list[int]]:
    return table.shape, values.tolist()


def sums(table: Array, values: Array) -> Array:
    return (table * values).sum(axis=1)


def third(row: Array) -> Array:
    return row / 3


def scaled(by: int, more: Array, row: Array, piece: int) -> Array:
    return row * by + more[0] + piece


def exhaust(values: Array) -> Array:
    raise MemoryError


def fill_up(share: float, dask_worker: Any) -> None:
    """Have a worker count as full from this share of its memory on."""
    dask_worker.memory_manager.memory_pause_fraction = share


def refuse(values: Array) -> Array:
    raise DataError("rows.csv: no")


class Counting:
    """Adds rows up, and their numbers."""

    def __init__(self, by: int) -> None:
        self._by, self._sums = by, np.zeros(2, np.uint64)

    def add(self, start: int, *blocks: Array) -> None:
        (values,) = blocks
        places = np.arange(start, start + values.shape[-1])
        self._sums += np.array([values.sum() * self._by, places.sum()]).astype(np.uint64)

    def total(self) -> Array:
        return self._sums


def divided(by: int, values: Array) -> float:
    return float(len(values)) / by


def third_once_there(path: Path, block: Array) -> Array:
    """Where a worker is to be at work until a file is there."""
    while not path.exists():
        time.sleep(0.01)
    return third(block)
