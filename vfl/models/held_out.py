"""What a model is worth on rows that it was not trained on."""

import math

from vfl.arrays import Floats, Mask
from vfl.learn.losses import LogisticLoss
from vfl.learn.metrics import binary_metrics, quantile_metrics, regression_metrics
from vfl.protocols.common.rows import Training


def held_out_metrics(
    rows: Training,
    held_out: Mask,
    score: Floats,
    exposure: Floats | None,
) -> dict[str, float]:
    """Metrics of the rows held out, without those that are no number, which a document cannot hold."""
    label, weight, loss = rows.label[held_out], rows.weight[held_out], rows.loss
    if isinstance(loss, LogisticLoss):
        metrics = binary_metrics(label, loss.predict(score[held_out]), weight)
    elif loss.quantile is not None:
        offset = None if rows.offset is None else rows.offset[held_out]
        metrics = quantile_metrics(loss, label, score[held_out], weight, offset)
    else:
        offset = None if rows.offset is None else rows.offset[held_out]
        years = None if exposure is None else exposure[held_out]
        metrics = regression_metrics(loss, label, score[held_out], weight, offset, years)
    return {name: value for name, value in metrics.items() if math.isfinite(value)}
