"""How good predictions are, on rows that trained nothing."""

import numpy as np
from sklearn.metrics import log_loss, roc_auc_score

from vfl.learn.losses import Floats, Loss


def binary_metrics(label: Floats, probability: Floats, weight: Floats | None = None) -> dict[str, float]:
    """AUC and mean log loss, weighted. AUC is NaN when only one class is present."""
    both = len(np.unique(label)) == 2
    return {
        "auc": float(roc_auc_score(label, probability, sample_weight=weight)) if both else float("nan"),
        "log_loss": float(log_loss(label, probability, sample_weight=weight, labels=[0, 1])),
    }


def regression_metrics(
    loss: Loss, label: Floats, score: Floats, weight: Floats, offset: Floats | None = None
) -> dict[str, float]:
    """Mean unit deviance, share of it explained (D^2), mean absolute error; weighted.

    `score` includes `offset` (None is zero). D^2 is 1 - deviance / deviance of the best constant added
    to the offset (scikit-learn's d2_tweedie_score where there is none), NaN where that is zero.
    """
    offset = np.zeros(len(label)) if offset is None else offset
    deviance = loss.deviance(score, label, weight)
    constant = loss.deviance(loss.start(label, weight, offset) + offset, label, weight)
    return {
        "deviance": deviance,
        "d2": 1 - deviance / constant if constant > 0 else float("nan"),
        "mae": float(np.average(np.abs(label - loss.predict(score)), weights=weight)),
    }
