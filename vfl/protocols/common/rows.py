"""The aligned rows that a model is trained on, as the guest has them."""

from dataclasses import dataclass, field

import numpy as np

from vfl.arrays import Floats, Mask
from vfl.learn.losses import LogisticLoss, Loss


@dataclass(frozen=True)
class Training:
    """The guest's rows: label, weight, which train the trees, which decide when to stop.

    `offset` is added to every row's score, on the scale of the loss's link; None adds nothing.
    """

    label: Floats
    weight: Floats
    train: Mask
    validation: Mask
    loss: Loss = field(default_factory=LogisticLoss)
    offset: Floats | None = None

    def start(self) -> tuple[float, Floats]:
        """The constant of least loss on the rows that train, and every row's score with it."""
        offset = np.zeros(len(self.label)) if self.offset is None else self.offset
        start = self.loss.start(self.label[self.train], self.weight[self.train], offset[self.train])
        return start, offset + start

    def mean_loss(self, score: Floats, mask: Mask) -> float | None:
        """Mean loss over some rows; None when there are none."""
        if not mask.any():
            return None
        return self.loss.mean(score[mask], self.label[mask], self.weight[mask])
