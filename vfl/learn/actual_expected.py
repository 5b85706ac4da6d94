"""Intervals of what happened, by chance alone: of counts and of amounts.

Claims of a group come as a Poisson process, be they ever so large: a total S of amounts has the variance
V = sum of squared amounts, by expectation. Garwood (Biometrika 28, 1936) has the exact interval of a
count, by quantiles of gamma distributions; Fay and Feuer (Statistics in Medicine 16, 1997) carry it over
to weighted sums by those of mean S and variance V. The upper end is that of one further claim; theirs is
the greatest there is, here it is V / S, as Tiwari, Clegg and Zou (Statistical Methods in Medical
Research 15, 2006) have it with a mean, since no party knows the greatest of a cell. Of counts V = S, and
this is Garwood's interval.
"""

import math

LEVEL = 0.95
"""Share of intervals that hold what was to be expected, if the model is right."""


def total_interval(total: float, squares: float, level: float = LEVEL) -> tuple[float, float]:
    """Between which expected totals one of `total`, of amounts whose squares add up to `squares`, is no
    surprise. Of a count `squares` is the count.

    NaN where nothing happened and no amount says how much might have, or for negative totals.
    """
    tail = (1 - level) / 2
    if total == 0 and squares == 0:
        return 0.0, math.nan
    if total <= 0 or squares <= 0:
        return math.nan, math.nan
    from scipy.special import gammaincinv

    size = squares / total  # of a claim, weighted by itself
    claims = total / size
    return (
        size * float(gammaincinv(claims, tail)),
        size * float(gammaincinv(claims + 1, 1 - tail)),
    )


def count_interval(count: float, level: float = LEVEL) -> tuple[float, float]:
    """Garwood's exact interval of a Poisson count's mean."""
    if count == 0:
        return 0.0, -math.log((1 - level) / 2)
    return total_interval(count, count, level)
