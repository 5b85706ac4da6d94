"""What is inferred from a fit at its end, by who has all columns; and what the guest knows of it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from vfl.arrays import Integers
from vfl.learn.glm import Block, Scores
from vfl.learn.inference import FitSummary, FittedRows, Inference, inferences, joint_information
from vfl.learn.params import GlmParams


@dataclass(frozen=True)
class Inferred:
    """What is known of the coefficients of parties, and of the fit as a whole; nothing where there are
    no more rows than parameters."""

    by_party: Mapping[str, Inference] = field(default_factory=dict)
    summary: FitSummary | None = None


NOTHING = Inferred()


@dataclass(frozen=True)
class FitEnded:
    """A fit at its end, as the guest knows it."""

    scores: Scores
    columns: int  # of all parties
    own: int  # of the guest
    null: float  # mean deviance of the constant
    alone: float | None  # and of the guest's own columns, where they were fitted first
    about: Sequence[Integers] = ()  # as `Training.about`, of the rows that train

    @property
    def rows(self) -> FittedRows:
        """The rows that train."""
        scores = self.scores
        return FittedRows(scores.loss, scores.label, scores.weight, scores.score)

    def summary(self, params: GlmParams) -> FitSummary | None:
        """What is known of the fit as a whole."""
        total, free = float(self.scores.weight.sum()), int(params.fit_intercept)
        smaller = [
            (self.null * total, free) if free else None,
            None if self.alone is None else (self.alone * total, free + self.own),
        ]
        return self.rows.summary(
            free + self.columns,
            smaller,
            params.alpha > 0 or params.credibility,
            quasi=params.dispersion == "pearson",
            profiled=params.profile,
        )


def pooled_inferences(blocks: Mapping[str, Block], ended: FitEnded, params: GlmParams) -> Inferred:
    """What each party is to know, from all blocks, the guest's first."""
    summary, free = ended.summary(params), int(params.fit_intercept)
    if summary is None:
        return NOTHING
    matrices = [block.matrix for block in blocks.values()]
    information = joint_information(matrices, ended.rows.information, bool(free))
    sizes = {name: block.matrix.columns for name, block in blocks.items()}
    guest = next(iter(sizes))
    sizes[guest] += free
    penalty = np.zeros_like(information)
    ends = np.cumsum([free, *(matrix.columns for matrix in matrices)]).tolist()
    for matrix, first, end in zip(matrices, ends, ends[1:], strict=False):
        matrix = matrix.under(params.alpha) if params.credibility else matrix
        own = params.penalty_unit * float(ended.scores.weight.sum()) * matrix.penalised()
        penalty[first:end, first:end] = own
    found = inferences(information, sizes, penalty, summary.dispersion, summary.residuals)
    return Inferred({**found, guest: replace(found[guest], constants=free)}, summary)
