"""The parameter of a family's variance, found by profile likelihood over the columns of all parties.

The power of Tweedie's variance, or theta of the negative binomial's, is the one under which the labels
are likeliest, given the means that the fit under it has. Fits and the search for the likeliest parameter
at their means follow each other (as in glm.nb of R's MASS), each fit from where the one before ended,
until the parameter stays: without a penalty that is the greatest likelihood of all coefficients and the
parameter together. Few are needed, as the mean's coefficients and the variance's parameter are
orthogonal (Jorgensen, The Theory of Dispersion Models, 1997). The search is the guest's alone, who knows
labels and scores; hosts hear that fits begin.
"""

from typing import Protocol

from vfl.arrays import Floats
from vfl.errors import ConfigError
from vfl.learn.glm import Scores
from vfl.learn.likelihood import has_parameter, likeliest, parameter_of
from vfl.learn.losses import Loss
from vfl.learn.params import PROFILE_FITS, GlmParams
from vfl.protocols.linear.fit import VarianceProfile
from vfl.protocols.linear.fitting_messages import NextPenalty

_SAME = 1e-6  # relative: a parameter that moves by less stays


class Fits(Protocol):
    """What makes one fit after another (fitting.py)."""

    params: GlmParams
    scores: Scores
    weight: Floats  # of all rows that train

    def take_loss(self, loss: Loss) -> None: ...

    async def begin(self, penalty: NextPenalty, weight: Floats) -> None: ...

    async def iterate(self) -> object: ...


def check_profile(loss: Loss) -> None:
    """Raises ConfigError for a family whose variance has no parameter."""
    if not has_parameter(loss):
        raise ConfigError(
            'profile of [glm] is for family = "tweedie" and "negative_binomial", whose variance has a '
            "parameter: remove the line"
        )


async def profile_variance(fits: Fits, alpha: float) -> VarianceProfile:
    """Make fits under this penalty until the parameter stays; the last of them is still to come."""
    loss = fits.scores.loss
    check_profile(loss)
    for number in range(PROFILE_FITS):
        await fits.begin(NextPenalty(alpha, anew=number == 0, chosen=False), fits.weight)
        await fits.iterate()
        scores, before = fits.scores, parameter_of(loss)
        found = likeliest(loss, scores.label, scores.weight, scores.score)
        loss = found.loss
        fits.take_loss(loss)
        settled = abs(parameter_of(loss) - before) <= _SAME * before
        if settled:
            break
    return VarianceProfile(parameter_of(loss), found.dispersion, found.log_likelihood, settled)
