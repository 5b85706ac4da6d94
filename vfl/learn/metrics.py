"""How good predicted probabilities are, on rows that trained nothing."""

import numpy as np
from sklearn.metrics import log_loss, roc_auc_score

from vfl.learn.losses import Floats


def binary_metrics(label: Floats, probability: Floats, weight: Floats | None = None) -> dict[str, float]:
    """AUC and mean log loss, weighted. AUC is NaN when only one class is present."""
    both = len(np.unique(label)) == 2
    return {
        "auc": float(roc_auc_score(label, probability, sample_weight=weight)) if both else float("nan"),
        "log_loss": float(log_loss(label, probability, sample_weight=weight, labels=[0, 1])),
    }
