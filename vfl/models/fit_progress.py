"""Steps of a linear model's fit, for who looks on and for the record."""

import math
from collections.abc import Mapping, Sequence

from vfl.learn.losses import Family
from vfl.models.kind import StepReport, TrainingStep
from vfl.protocols.linear.fit import IterationDone
from vfl.protocols.linear.hidden import BlindIteration
from vfl.protocols.linear.scoring import GuestGlm, LinearPart
from vfl.text import counted, in_words


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


def said_choice(model: GuestGlm, family: Family) -> str:
    """What a fit found beside its coefficients, to follow on how it ended: which penalty of several, and
    the parameter of the variance."""
    said = ""
    if (choice := model.choice) is not None:
        left_out = f"deviance of rows left out {choice.deviance:.4f}"
        said += f", alpha {choice.alpha:g} of {len(choice.tried)} ({left_out})"
        ends = {choice.tried[0][0]: "greatest", choice.tried[-1][0]: "least"}
        if choice.alpha in ends and len(choice.tried) > 1:
            said += f", the {ends[choice.alpha]} of them: one beyond it may be better"
        if choice.unfinished:
            said += f", {counted(choice.unfinished, 'fit')} by which it was chosen did not converge"
    if (found := model.variance) is not None:
        if family == "negative_binomial":
            said += f", theta {found.value:.4g} by profile likelihood"
        else:
            said += f", tweedie_power {found.value:.4g} by profile likelihood"
            said += f" (dispersion {found.dispersion:.4g})"
        said += "" if found.settled else ", which had not come to stay"
    return said


def said_zeros(part: LinearPart) -> str | None:
    """What the owner of a half under an l1_ratio is told: how many of its coefficients are zero, and
    which columns have no other; None where none is zero. Bands that are fused are not among them."""
    fused = {factor.name for factor in part.design.factors if factor.fused}
    of = zip(part.design.coefficients, part.coefficients, strict=True)
    coefficients = [(name, value) for (name, _), value in of if name not in fused]
    zeros = sum(value == 0 for _, value in coefficients)
    if not zeros:
        return None
    names = [name for name, _ in coefficients]
    used = {name for name, value in coefficients if value != 0}
    unused = [name for name in dict.fromkeys(names) if name not in used]
    said = f"{zeros:,} of {counted(len(names), 'coefficient')} of this party's columns are exactly zero"
    return f"{said}, among them all of {in_words(unused)}" if unused else said
