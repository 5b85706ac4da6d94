"""The direction of an iteration of fitting.py: steps 5 and 6, before anybody goes.

Under an l1_ratio a party ends its part of a direction where coefficients become zero (learn/sparse.py).
So parts no longer fit together where columns of several parties are much alike: then the guest asks for
a shorter direction by the same gradient; or for a longer one, where the end is far from the best.
"""

import asyncio
import math
from collections.abc import Awaitable, Callable

import numpy as np

from vfl.arrays import Floats
from vfl.learn.glm import BlockReport, Move, Scores, combination
from vfl.learn.params import GlmParams
from vfl.learn.sparse import another_scale, sparse_combination
from vfl.protocols.linear.masked_numbers import divergence
from vfl.protocols.linear.masked_scores import precision_of

Direct = Callable[[Floats, float], Awaitable[Move]]
"""What has all parties combine their vectors with these weights, and their scores in this precision."""


async def next_move(
    report: BlockReport, direction: Direct, scores: Scores, params: GlmParams, curvature: float
) -> tuple[Move, float]:
    """The direction to go along, and the precision of its scores. Raises ConfigError for a fit that
    diverges."""
    weights = _weights(report, params)
    scales, scale = list[float](), 1.0
    while True:
        scaled = scale * weights if params.l1_ratio else weights
        precision = _precision(report, scaled, curvature)
        move = await direction(scaled, precision)
        if not params.l1_ratio:
            return move, precision
        scales.append(scale)
        best = await asyncio.to_thread(scores.best_size, move, params.penalty_unit, params.fit_intercept)
        further = another_scale(scales, best)
        if further is None:
            return move, precision
        scale = further


def _weights(report: BlockReport, params: GlmParams) -> Floats:
    """The weights of the vectors in the next direction."""
    combine = sparse_combination if params.l1_ratio else combination
    with np.errstate(over="ignore", invalid="ignore"):
        return combine(report.products)


def _precision(report: BlockReport, weights: Floats, curvature: float) -> float:
    """How precise the scores of the direction are."""
    with np.errstate(over="ignore", invalid="ignore"):
        square = float(weights @ report.products @ weights)
    if not np.isfinite([*weights, square]).all():
        raise divergence("gradients")
    # In the blocks' coordinates the loss curves as 1, in the scores' as `curvature`.
    return precision_of(math.sqrt(max(square, 0.0) / curvature))
