"""What is inferred of a linear model, for the owner of a half to read, beside its relativities."""

import numpy as np

from vfl.learn.design import listed, named
from vfl.learn.inference import FitSummary, JointTest
from vfl.learn.leverage import BROADER
from vfl.party.documents import Body
from vfl.protocols.linear.inference_messages import MOST_COLUMNS
from vfl.protocols.linear.scoring import GuestGlm, HostGlm
from vfl.text import counted


def column_tests(model: GuestGlm | HostGlm) -> dict[str, JointTest]:
    """Of each column the type III test, by Wald, that all its coefficients are zero."""
    own, names = model.inference, model.part.design.coefficients
    if own is None or own.errors is None:
        return {}
    first = own.constants
    coefficients = np.concatenate([np.zeros(first), model.part.coefficients])
    places: dict[str, list[int]] = {}
    for place, (column, _) in enumerate(names, start=first):
        places.setdefault(column, []).append(place)
    found = {column: own.together(coefficients, at) for column, at in places.items()}
    return {column: test for column, test in found.items() if test is not None}


def shorten(half: Body) -> None:
    """Leave out of a half's document what inference of earlier versions did not say."""
    inference = half.get("inference")
    if inference is not None and inference.get("standing_out") is None:
        inference.pop("standing_out", None)


def said_inference(model: GuestGlm | HostGlm) -> list[str]:
    """What is known of the fit beside its coefficients, in sentences for the half's owner: which of its
    columns others' make up as well, and at the guest all that is of the fit as a whole."""
    summary = model.summary if isinstance(model, GuestGlm) else None
    return [*said_aliases(model), *([] if summary is None else _said_summary(summary))]


def said_errors(model: GuestGlm) -> str:
    """What to add to how a fit ended that was to have standard errors, where the guest has none."""
    if model.inference is not None and model.inference.covariance is not None:
        return ""
    if model.summary is None:
        return "; no standard errors: there are no more rows than coefficients"
    if model.inference is None:
        return f"; no standard errors: there are more than {MOST_COLUMNS} coefficients"
    own = "; ".join(said_aliases(model))
    return f"; {own}" if own else "; no standard errors: some hosts' columns make up each other's"


def said_aliases(model: GuestGlm | HostGlm) -> list[str]:
    """In words for their owner, which of its columns others' columns make up as well, or by which
    rows stand out too far."""
    own = model.inference
    if own is None:
        return []
    first = own.constants
    names = model.part.design.coefficients
    said = []
    if own.standing_out is not None:
        column = named(names[own.standing_out.place])
        said.append(
            "no standard errors: as the fit weighs them, too many rows stand out beyond max_leverage, "
            f"most by {column} (a leverage of {own.standing_out.leverage:.2f}): {BROADER}, or raise "
            "max_leverage in [glm], where hosts allow it"
        )
    for one in own.aliases:
        mine = [names[place - first] for place in one.places if place >= first]
        whose = " and ".join(one.parties)
        what = listed(mine) if mine else "the constant is a linear combination"
        said.append(
            f"no standard errors: with columns of {whose}, {what} of other columns: leave out one of "
            "them"
        )
    return said


def _said_summary(summary: FitSummary) -> list[str]:
    """What the guest knows of a fit, in words."""
    said = [
        f"{counted(summary.rows, 'row')}, {counted(summary.parameters, 'parameter')}; "
        f"deviance {summary.deviance:,.4f}, "
        f"dispersion {summary.dispersion:.6g}"
        + ("" if summary.estimated else " (fixed)")
        + "".join(
            f", {by} {value:.6g}"
            for by, value in (
                ("by Pearson", summary.pearson_dispersion),
                ("by deviance", summary.deviance_dispersion),
            )
            if value is not None
        )
    ]
    if summary.aic is not None and summary.bic is not None:
        said.append(f"AIC {summary.aic:,.2f}, BIC {summary.bic:,.2f}")
    for of, test in (
        ("all columns", summary.against_constant),
        ("the hosts' columns beside the guest's", summary.against_own),
    ):
        if test is not None:
            said.append(
                f"likelihood ratio of {of}: {test.statistic:.2f} on {test.freedom}, p {test.p_value:.3g}"
            )
    return said
