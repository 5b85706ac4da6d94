"""What a model is worth on rows that it was not trained on."""

import math

from vfl.arrays import Floats, Mask
from vfl.learn.class_metrics import class_metrics
from vfl.learn.losses import LogisticLoss
from vfl.learn.metrics import binary_metrics, quantile_metrics, regression_metrics
from vfl.protocols.common.rows import Training, each_of


def held_out_metrics(
    rows: Training,
    held_out: Mask,
    score: Floats,
    exposure: Floats | None,
) -> dict[str, float]:
    """Metrics of the rows held out, without those that are no number, which a document cannot hold."""
    loss, mask = rows.loss, held_out
    scratch = rows.scratch
    label, weight, own = (each_of(of, mask, scratch) for of in (rows.label, rows.weight, score))
    offset = None if rows.offset is None else each_of(rows.offset, mask, scratch)
    if isinstance(loss, LogisticLoss):
        metrics = binary_metrics(label, loss.predict(own), weight)
    elif loss.classes > 1:
        metrics = class_metrics(label, loss.predict(own), weight)
    elif loss.quantile is not None:
        metrics = quantile_metrics(loss, label, own, weight, offset)
    else:
        years = None if exposure is None else each_of(exposure, mask, scratch)
        metrics = regression_metrics(loss, label, own, weight, offset, years)
    return {name: value for name, value in metrics.items() if math.isfinite(value)}
