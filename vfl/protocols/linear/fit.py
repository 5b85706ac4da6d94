"""What a fit of a linear model comes to, in each iteration and in the end, and what is kept of it."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from vfl.arrays import Floats
from vfl.learn.across import FittedCells
from vfl.learn.glm import BlockState
from vfl.learn.inference import FitSummary, Inference


@dataclass(frozen=True)
class IterationDone:
    """What the guest can tell of each iteration, before its step."""

    iteration: int
    of: int
    deviance: float  # mean, weighted, of the rows that train
    explained: float  # D-squared: the share of the null model's deviance that is gone
    gradient: float  # its length, in the label's unit
    seconds: dict[str, float]  # by phase, of the step before and of this gradient


@dataclass(frozen=True)
class PenaltyChoice:
    """Which penalty was chosen, and by what."""

    alpha: float
    tried: tuple[tuple[float, float, float], ...]
    """Penalties, the greatest first, each with the mean deviance of rows left out of fits, and its
    standard error over folds."""
    unfinished: int = 0  # fits that did not converge

    @property
    def deviance(self) -> float:
        """The mean deviance of rows left out, under the penalty that was chosen."""
        return next(deviance for alpha, deviance, _ in self.tried if alpha == self.alpha)


@dataclass(frozen=True)
class VarianceProfile:
    """The parameter of the family's variance that was found by profile likelihood."""

    value: float  # tweedie_power, or theta
    dispersion: float  # the likeliest as well; 1 of the negative binomial
    log_likelihood: float
    settled: bool  # whether it had come to stay


@dataclass(frozen=True)
class Fit:
    """What the guest has at the end."""

    intercept: float
    coefficients: dict[str, Floats]  # of each block that it holds itself
    score: Floats  # of every aligned row
    iterations: int
    converged: bool
    deviance: float | None  # None where nobody knows: with hidden scores
    explained: float | None
    gradient: float
    readable: int = 0  # labels that any one host could have read at most, over all attempts
    inferences: Mapping[str, Inference] = field(default_factory=dict)  # of each block that it sees
    summary: FitSummary | None = None
    choice: PenaltyChoice | None = None
    variance: VarianceProfile | None = None
    cells: Mapping[str, tuple[FittedCells, ...]] = field(default_factory=dict)
    """Of hosts' pairs with the guest's columns, where all columns are in one place."""


@dataclass(frozen=True)
class GuestFitState:
    """What the guest keeps of a fit; scores have shape (rows that train,)."""

    done: int  # gradients
    way: float  # the lengths of all steps
    score: Floats
    intercept: float
    change: float
    blocks: dict[str, BlockState]
    choice: PenaltyChoice | None = None
    variance: VarianceProfile | None = None


@dataclass(frozen=True)
class HostFit:
    """A host's half of a fit."""

    coefficients: Floats  # shape (columns,)
    converged: bool
    inference: Inference | None = None
    alone: tuple[int, ...] = ()
    """Places of columns that were alone in a direction, whose values the guest has so seen, if no other
    host's columns moved."""
    across: tuple[FittedCells, ...] = ()
    """Cells of pairs with the guest's columns, whose coefficients come last."""


@dataclass(frozen=True)
class HostFitState:
    """What a host keeps of a fit."""

    done: int  # gradients
    way: float
    block: BlockState
    start: str  # digest of FitStart
    heard: bytes  # digest of what all hosts have heard alike
