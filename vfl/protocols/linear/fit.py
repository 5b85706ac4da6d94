"""What a fit of a linear model comes to, in each iteration and in the end, and what is kept of it."""

from dataclasses import dataclass

from vfl.arrays import Floats
from vfl.learn.glm import BlockState


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


@dataclass(frozen=True)
class GuestFitState:
    """What the guest keeps of a fit; scores have shape (rows that train,)."""

    done: int  # gradients
    way: float  # the lengths of all steps
    score: Floats
    intercept: float
    change: float
    blocks: dict[str, BlockState]


@dataclass(frozen=True)
class HostFit:
    """A host's half of a fit."""

    coefficients: Floats  # shape (columns,)
    converged: bool


@dataclass(frozen=True)
class HostFitState:
    """What a host keeps of a fit."""

    done: int  # gradients
    way: float
    block: BlockState
    start: str  # digest of FitStart
    heard: bytes  # digest of what all hosts have heard alike
