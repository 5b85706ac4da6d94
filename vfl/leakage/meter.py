"""What a job gives away, of any kind of model."""

from dataclasses import replace

from vfl.leakage.disclosure import Circumstances, Disclosure
from vfl.leakage.of_linear import of_linear
from vfl.leakage.of_trees import of_trees
from vfl.learn.params import BoostParams, GlmParams


def disclosures(
    of: Circumstances, params: BoostParams | GlmParams, two_labels: bool
) -> list[Disclosure]:
    """What each party could learn about each other. `two_labels`: they are 0 or 1."""
    if isinstance(params, BoostParams):
        found = of_trees(of, params)
    else:
        found = of_linear(of, params, two_labels)
    # What is no better than guessing cannot be made less.
    return [replace(one, lower=()) if one.advantage == 0 else one for one in found]
