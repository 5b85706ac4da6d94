"""Steps of a linear model's fit, for who looks on and for the record."""

import math
from collections.abc import Mapping, Sequence

from vfl.models.kind import StepReport, TrainingStep
from vfl.protocols.linear.fit import IterationDone
from vfl.protocols.linear.hidden import BlindIteration
from vfl.text import counted


def report_fit(
    step: TrainingStep, curve: Sequence[Mapping[str, float | None]], tolerance: float
) -> StepReport:
    """A step in words; `curve` has the losses of those before."""
    if isinstance(step, BlindIteration):
        most = counted(step.of, "iteration")
        what = f"fitting, gradient {step.gradient:.1e}, at most {most}"
        return StepReport(what, step.iteration, None, {"gradient": step.gradient})
    done = iteration_done(step)
    what = (
        f"fitting, deviance {done.deviance:.4f}, D² {done.explained:.4f}, gradient {done.gradient:.1e}"
    )
    first = (curve[0]["gradient"] if curve else done.gradient) or 0.0
    expected = _expected_iterations(done, first, tolerance)
    losses = {"train": done.deviance, "gradient": done.gradient}
    return StepReport(what, done.iteration, expected, losses, done.seconds)


def iteration_done(step: TrainingStep) -> IterationDone:
    """A step of a fit whose deviance is known."""
    if not isinstance(step, IterationDone):
        raise TypeError("a step of another kind of model")
    return step


def _expected_iterations(done: IterationDone, first: float, tolerance: float) -> int | None:
    """How many iterations there will be if the gradient's logarithm goes on falling at the mean rate
    since `first`, its length before any step; None while it has not fallen."""
    if not 0 < done.gradient < first or done.iteration == 0:
        return None
    needed = done.iteration * math.log(first / tolerance) / math.log(first / done.gradient)
    return min(max(math.ceil(needed), done.iteration + 1), done.of)
