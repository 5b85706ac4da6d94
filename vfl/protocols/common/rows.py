"""The aligned rows that a model is trained on, as the guest has them."""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np

from vfl.arrays import Floats, Integers, Mask
from vfl.blocks.engine import ENGINE
from vfl.blocks.means import weighted_mean
from vfl.blocks.scratch import Scratch, in_pieces, release_pages
from vfl.learn.losses import LogisticLoss, Loss


@dataclass(frozen=True)
class Training:
    """The guest's rows: label, weight, which train the trees, which decide when to stop.

    `offset` is added to every row's score, on the scale of the loss's link; None adds nothing. The
    logarithm of the time at risk, `exposure`, is in it already.
    """

    label: Floats
    weight: Floats
    train: Mask
    validation: Mask
    loss: Loss = field(default_factory=LogisticLoss)
    offset: Floats | None = None
    exposure: Floats | None = None
    together: Integers | None = None  # which rows are of one group, or about one thing, by number
    about: tuple[Integers, ...] = ()
    """By whom rows are joined with, the same number for rows that are joined to one of theirs; nothing
    where none is joined to several."""
    constant: float | None = None
    """What scores start with; None: the constant of least loss."""
    scratch: Scratch = Scratch()
    """Where numbers of rows lie that are many."""
    apart: int | None = None
    """The fewest rows with weight by which those that train differ from the rows of another training,
    where hosts are told of several: what they are told of these by subtraction."""

    @property
    def sizes(self) -> Floats:
        """How much each row counts in what is said of a level: its weight, times its time at risk."""
        return self.weight if self.exposure is None else self.weight * self.exposure

    @property
    def weighing(self) -> int:
        """How many of the rows that train have weight: labels that a model learns from."""
        return int(np.count_nonzero(self.train & (self.weight > 0)))

    @property
    def joined(self) -> list[Integers]:
        """`about` of the rows that train."""
        return [numbers[self.train] for numbers in self.about]

    def class_starts(self) -> tuple[float, ...]:
        """What each class's score starts with, by the rows that train; nothing without classes."""
        each = self.label, self.weight
        return self.loss.class_starts(
            *(chosen_rows(values, self.train, self.scratch) for values in each)
        )

    def start(self) -> tuple[float, Floats]:
        """The constant with which scores start, and every row's score with it: of least loss on the rows
        that train, where none is given. Of several classes, shape (rows, classes), with theirs."""
        if self.loss.classes > 1:
            starts = np.array(self.class_starts())
            return 0.0, np.broadcast_to(starts, (len(self.label), len(starts)))
        offset = np.broadcast_to(0.0, len(self.label)) if self.offset is None else self.offset
        if self.constant is None:
            each = self.label, self.weight, offset
            given = (chosen_rows(values, self.train, self.scratch) for values in each)
            start = self.loss.start(*given)
        else:
            start = self.constant
        if self.offset is None:
            return start, np.broadcast_to(0.0 + start, len(self.label))
        scores = self.scratch.of_rows(len(offset), np.float64, "scores")
        for some in in_pieces(len(offset), offset, scores):
            scores[some] = offset[some] + start
        return start, scores

    def mean_loss(self, score: Floats, mask: Mask) -> float | None:
        """Mean loss over some rows; None when there are none. `score`: the rows last."""
        if not mask.any():
            return None
        kernel = partial(_half_deviance, self.loss)
        found = ENGINE.results(kernel, score, self.label, self.weight, mask)
        return weighted_mean(self._released(found, score), int(mask.sum()))

    def _released(
        self, found: Iterator[tuple[Floats, Floats]], score: Floats
    ) -> Iterator[tuple[Floats, Floats]]:
        """The same; pages that were read for each leave this process's memory."""
        for one in found:
            yield one
            self.release_pages()
            release_pages(score)

    def stored(self, scratch: Scratch) -> "Training":
        """The same, of many rows in files. Raises DataError where the disk has no room for them."""
        label, weight = scratch.stored(self.label, "labels"), scratch.stored(self.weight, "weights")
        offset = None if self.offset is None else scratch.stored(self.offset, "offsets")
        return replace(self, label=label, weight=weight, offset=offset, scratch=scratch)

    def release_pages(self) -> None:
        """Let what lies in files leave this process's memory until it is needed."""
        for values in (self.label, self.weight, self.offset, self.train, self.validation):
            if values is not None:
                release_pages(values)


def chosen_rows(values: Floats, mask: Mask, scratch: Scratch = Scratch()) -> Floats:
    """Those of the mask; what is the same for all rows takes no room."""
    if values.ndim > 1:
        return np.ascontiguousarray(values[mask])
    if values.strides == (0,):
        count = int(np.count_nonzero(mask))
        return np.broadcast_to(values[:1], (count,)) if len(values) else values
    return scratch.chosen(values, mask, "numbers of rows")


def each_of(values: Floats, mask: Mask, scratch: Scratch = Scratch()) -> Floats:
    """`values[mask]`, with no more of a file in memory than is needed at a time."""
    return np.ascontiguousarray(chosen_rows(values, mask, scratch))


def _half_deviance(
    loss: Loss, score: Floats, label: Floats, weight: Floats, mask: Mask
) -> tuple[Floats, Floats]:
    """The loss of each row of the mask, and its weight."""
    return loss.half_deviance(score.T[mask], label[mask]), weight[mask]
