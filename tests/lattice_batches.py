"""Few products of a hint at a time, for tests of jobs that need few."""

from collections.abc import Iterator
from contextlib import contextmanager
from unittest import mock

from vfl.protocols.common import lattice_sums
from vfl.protocols.trees import lattice


@contextmanager
def small_batches(vectors: int = 8) -> Iterator[None]:
    """Batches of so many vectors, where parties make 32 whether they need them or not: which batch a
    product comes from makes no difference to it."""
    with (
        mock.patch.object(lattice_sums, "BATCH", vectors),
        mock.patch.object(lattice, "BATCH", vectors),
    ):
        yield
