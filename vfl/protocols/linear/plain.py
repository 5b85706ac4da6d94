"""The fit of fitting.py with all parties' columns in one place: no message, no key, the same numbers.

What fitting.py rounds is rounded here as well: residuals to integers, of as many bits as the encryption
of the job has room for, their products with a host's columns exact; the hosts' part of the scores in
fixed point. All is added up in the same order. So the model equals, bit for bit, the one that the
parties would fit apart: for who holds all tables anyway (vfl/simulate).
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from vfl.arrays import Floats, Integers
from vfl.blocks.engine import ENGINE
from vfl.errors import DataError
from vfl.learn.glm import PAIRS, Block, BlockReport, Move
from vfl.learn.matrix import FRACTION_BITS, Matrix, Whole
from vfl.learn.params import GlmParams
from vfl.learn.sparse import block_of
from vfl.protocols.common.checkpoints import Checkpoints
from vfl.protocols.common.rows import Training
from vfl.protocols.linear import lattice_products, products
from vfl.protocols.linear.block_numbers import (
    penalty_in_fixed_point,
    report_in_fixed_point,
    total_move,
)
from vfl.protocols.linear.fit import Fit, IterationDone
from vfl.protocols.linear.fitting import FitLoop
from vfl.protocols.linear.fitting_messages import NextPenalty
from vfl.protocols.linear.inferred import Inferred, pooled_inferences
from vfl.protocols.linear.masked_scores import fixed_point, total_of
from vfl.protocols.linear.rounding import Rounded
from vfl.protocols.linear.start import check_columns

# Sums of products of such parts over so many rows are whole numbers below 2^53, which floats hold.
_NUMBER_BITS, _RESIDUAL_BITS, _ROWS = 20, 17, 1 << 15
_HALF_BITS = 26  # of a residual: sums of halves over 2^26 rows are below 2^53


@dataclass(frozen=True, eq=False)
class DesignTables:
    """All that a linear fit is of: each party's design matrix of the aligned rows, the guest's first."""

    params: GlmParams
    matrices: Mapping[str, Whole]
    rows: Training


async def plain_fit(
    own: Mapping[str, Whole],
    hosts: Mapping[str, Whole],
    rows: Training,
    params: GlmParams,
    progress: Callable[[IterationDone], None] = lambda _: None,
) -> tuple[Fit, dict[str, Floats]]:
    """The guest's fit, and each host's coefficients. The matrices are of all aligned rows. What is
    inferred is of all parties.

    Raises DataError and ConfigError as `guest_fit` and `host_fit` do.
    """
    loop = _PlainLoop(own, hosts, rows, params)
    fit = await loop.fit(progress, Checkpoints())
    return fit, {name: block.coefficients for name, block in loop.theirs.items()}


class _PlainLoop(FitLoop):
    """The guest's iterations with the hosts' blocks at hand."""

    def __init__(
        self,
        own: Mapping[str, Whole],
        hosts: Mapping[str, Whole],
        rows: Training,
        params: GlmParams,
    ) -> None:
        super().__init__([], own, rows, params)
        count = int(rows.train.sum())
        if hosts and params.encryption == "lattice":
            lattice_products.fit_shape(count, params)  # refuses too many rows
        self._held_out = {name: matrix.take(~rows.train) for name, matrix in hosts.items()}
        self.theirs: dict[str, Block] = {}
        self._products: dict[str, ExactProduct] = {}
        for name, matrix in hosts.items():
            training = matrix.take(rows.train)
            check_columns(name, training.columns, rows.weighing, rows.apart)
            block = block_of(training, params, self.curvature)
            self.theirs[name], self._products[name] = block, ExactProduct(training)
            self._columns += training.columns

    @property
    def joint(self) -> bool:
        return bool(self.theirs)

    def labels(self, rounded: Rounded) -> Mapping[str, int]:
        if self.params.encryption == "lattice":
            return {n: lattice_products.labels_of(b.matrix, rounded) for n, b in self.theirs.items()}
        return {n: products.labels_of(b.matrix.columns, rounded) for n, b in self.theirs.items()}

    async def hosts_report(self, rounded: Rounded) -> list[BlockReport]:
        told = [await asyncio.to_thread(self._told, name, rounded) for name in self.theirs]
        return [self.of_parts(told, 2 * min(self._steps, PAIRS) + 1)]

    def _told(self, name: str, rounded: Rounded) -> list[int]:
        product = self._products[name].times(rounded.integers, rounded.scale)
        report = self.theirs[name].report(product)
        return report_in_fixed_point(report, self.curvature, self._deviance)

    async def direction(self, weights: Floats, precision: float) -> Move:
        own = [await asyncio.to_thread(block.direction, weights) for block in self.own.values()]
        moves = [await asyncio.to_thread(block.direction, weights) for block in self.theirs.values()]
        shares = [fixed_point(move.scores, precision) for move in moves]
        parts = [penalty_in_fixed_point(move, self.curvature, self._deviance) for move in moves]
        theirs = self.hosts_move(shares, parts, precision)
        return total_move([*own, *theirs], len(self.scores.score))

    async def tell_penalty(self, penalty: NextPenalty) -> None:
        for block in self.theirs.values():
            await asyncio.to_thread(block.begin_under, penalty.alpha, anew=penalty.anew)

    async def step(self, size: float, precision: float) -> None:
        await super().step(size, precision)
        for block in self.theirs.values():
            block.step(size)

    async def infer(self) -> Inferred:
        blocks = {**self.own, **self.theirs}
        return await asyncio.to_thread(pooled_inferences, blocks, self.ended, self.params)

    async def end(self, converged: bool, held_out: int, precision: float) -> Floats:
        shares = [
            fixed_point(self._held_out[name].times(block.coefficients), precision)
            for name, block in self.theirs.items()
        ]
        return total_of(shares, held_out, precision)


class ExactProduct:
    """X^T r for one X and any number of r of integers, with no rounding before the last step."""

    def __init__(self, matrix: Matrix) -> None:
        """Raises DataError for numbers too large."""
        self._matrix = matrix
        try:
            self._integers = ENGINE.gather(matrix.integers).astype(np.int64, copy=False)
        except ValueError as error:
            raise DataError(f"a numeric column cannot be used: {error}") from None

    def times(self, integers: Integers, scale: float) -> Floats:
        """X^T r, shape (columns,), where r times `scale` is `integers`, below 2^51."""
        levels = np.array([float(value) for value in self._of_levels(integers)]) / scale
        numbers = np.array([float(value) for value in self._of_numbers(integers)])
        return np.concatenate([levels, numbers / (scale * 2.0**FRACTION_BITS)])

    def _of_levels(self, integers: Integers) -> list[int]:
        low, high = integers & ((1 << _HALF_BITS) - 1), integers >> _HALF_BITS
        sums: list[int] = []
        all_codes = ENGINE.gather(self._matrix.codes)
        for codes, levels in zip(all_codes, self._matrix.levels, strict=True):
            parts = [np.bincount(codes, half, levels + 1)[1:].tolist() for half in (low, high)]
            sums += [int(a) + (int(b) << _HALF_BITS) for a, b in zip(*parts, strict=True)]
        return sums

    def _of_numbers(self, integers: Integers) -> list[int]:
        count = len(self._integers)
        sums = [0] * count
        widths = [self._matrix.bits, [int(np.abs(integers).max(initial=0)).bit_length()]]
        most, deep = (max(bits, default=0) for bits in widths)
        for first in range(0, len(integers), _ROWS):
            x = _limbs(self._integers[:, first : first + _ROWS], most, _NUMBER_BITS)
            r = _limbs(integers[first : first + _ROWS], deep, _RESIDUAL_BITS)
            for i, part in enumerate(x):
                for j, other in enumerate(r):
                    shift = i * _NUMBER_BITS + j * _RESIDUAL_BITS
                    for k, value in enumerate((part @ other).tolist()):
                        sums[k] += int(value) << shift
        return sums


def _limbs(integers: Integers, bits: int, width: int) -> Sequence[Floats]:
    """Integers below 2^bits in magnitude by parts of `width` bits, lowest first; the last is signed."""
    mask, parts = (1 << width) - 1, []
    while bits > width:
        parts.append((integers & mask).astype(np.float64))
        integers, bits = integers >> width, bits - width
    return [*parts, integers.astype(np.float64)]
