"""What an owner is told of the penalties that its party file puts on its own columns."""

import math
from collections.abc import Sequence

import numpy as np

from vfl.learn.factors import Factor
from vfl.learn.params import GlmParams
from vfl.party.linear_rules import GlmSection
from vfl.protocols.linear.scoring import GuestGlm, HostGlm, LinearPart
from vfl.text import counted, in_words


def said_bands(part: LinearPart) -> list[str]:
    """Of each column whose bands are fused, which of them are one now; nothing where none are."""
    of = dict(zip(part.design.coefficients, part.coefficients, strict=True))
    said = [
        _said(factor, [of.get((factor.name, band), 0.0) for band in factor.bands])
        for factor in part.design.factors
        if factor.fused
    ]
    return [text for text in said if text]


def _said(factor: Factor, coefficients: Sequence[float]) -> str | None:
    groups: list[list[str]] = []
    before = None
    for band, coefficient in zip(factor.bands, coefficients, strict=True):
        if coefficient == before:
            groups[-1].append(band)
        else:
            groups.append([band])
        before = coefficient
    bands = counted(len(factor.bands), "band")
    if len(groups) == 1:
        return f"all {bands} of column '{factor.name}' are one: it tells nothing"
    if len(groups) == len(factor.bands):
        return None
    joined = [
        " and ".join(group) if len(group) == 2 else f"{group[0]} up to {group[-1]}"
        for group in groups
        if len(group) > 1
    ]
    return f"of {bands} of column '{factor.name}' {len(groups)} are left: {'; '.join(joined)} are one"


def credible_by_fit(model: GuestGlm | HostGlm) -> dict[str, float]:
    """By credible column the k that a fit says, in place of the one that it was given; infinite where
    its levels vary no more than chance has it. Of models with inference, by families whose dispersion
    is 1, alone.

    With deviations u of L levels from their mean, and their covariance V given the rows: of the L - 1
    free ones L - 1 - k tr(V) are told by the rows and not by the penalty, and the variance between
    levels is about sum(u^2) over that. Fitted again with what comes of it, until k stays, it is the
    restricted likelihood's, by Laplace's approximation.

    Source: Schall, Estimation in generalized linear models with random effects, Biometrika 78, 1991.
    """
    own = model.inference
    if own is None or own.matrix is None or own.freedom is not None:
        return {}
    names, found = model.part.design.coefficients, {}
    for factor in model.part.design.factors:
        if not factor.credible:
            continue
        places = [place for place, (name, _) in enumerate(names) if name == factor.name]
        count = len(places) + 1
        about = (np.eye(count) - 1 / count)[:, 1:]  # the base level's coefficient is 0
        u = about @ np.array(model.part.coefficients)[places]
        at = [own.constants + place for place in places]
        spread = float(np.trace(about @ own.matrix[np.ix_(at, at)] @ about.T))
        told, squares = count - 1 - factor.credible * spread, float(u @ u)
        found[factor.name] = told / squares if squares > 0 and told > 0 else math.inf
    return found


def said_credible(model: GuestGlm | HostGlm) -> list[str]:
    """What a fit says of each credible column's k, for its owner."""
    given = {factor.name: factor.credible for factor in model.part.design.factors}
    return [
        f"credible of column '{name}' is {given[name]:g}; "
        + (
            "its levels vary no more than chance has it"
            if math.isinf(k)
            else f"how its levels vary says {k:.3g}"
        )
        for name, k in credible_by_fit(model).items()
    ]


def said_alone(columns: Sequence[str], guest: str) -> str | None:
    """What a host is told of its columns that were alone in a direction; None where none were."""
    if not columns:
        return None
    names = in_words([f"'{column}'" for column in columns])
    what = "column" if len(columns) == 1 else "columns"
    return (
        f"note: {what} {names} moved alone in a step of the fit: {guest} could see the values, up to a "
        "factor, unless another host's columns moved as well; with more hosts, or a lower alpha or "
        "l1_ratio, more columns move together"
    )


def said_idle(section: GlmSection, params: GlmParams) -> list[str]:
    """Which rules of a party file the job leaves without effect, and how to change that."""
    said = []
    if section.fuse and not params.least_alpha:
        said.append("fuse in [glm] has no effect: the job's alpha is 0")
    elif section.fuse and not params.l1_ratio:
        said.append("fuse in [glm] makes no bands one: the job's l1_ratio is 0")
    if section.credible and not params.credibility:
        said.append("credible in [glm] has no effect: the job lacks credibility = true")
    return said
