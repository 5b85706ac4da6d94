"""What fitting linear models, and scoring with them, could give away."""

from collections.abc import Iterator

from vfl.leakage.disclosure import COLUMNS, MISSED, Circumstances, Disclosure, common_rows
from vfl.leakage.estimate import told_by_gradient
from vfl.leakage.readable_labels import labels_readable
from vfl.learn.params import GlmParams
from vfl.learn.sparse import DIRECTIONS
from vfl.text import counted

_HIDE = '[glm] scores = "hidden" with a coordinator'
_FEW = "fewer columns and levels of that host, or more rows"


def of_linear(of: Circumstances, params: GlmParams, two_labels: bool) -> list[Disclosure]:
    """What each party could learn, the guest about hosts first. `two_labels`: they are 0 or 1."""
    found = [common_rows(of), *_of_columns(of, params)]
    for host in of.hosts:
        found += [*_of_pairs(of, params, host)]
        found += [*_of_labels(of, params, host, two_labels)]
    if params.coordinator is not None:
        found += [*_of_coordinator(of, params.coordinator)]
    return found


def _of_columns(of: Circumstances, params: GlmParams) -> Iterator[Disclosure]:
    """What the guest could learn about the hosts' columns."""
    if params.coordinator is None:
        alone = len(of.hosts) == 1
        ran = None if of.ran is None else of.ran.iterations
        directions = DIRECTIONS if params.l1_ratio else 1
        steps = (
            f"one in each of {counted(ran, 'iteration')}"
            if ran is not None
            else f"one in each iteration, of which there are {params.max_iterations} at most, mostly a "
            "dozen or two"
        )
        whose = "of its columns" if alone else "of all hosts' columns together"
        yield Disclosure(
            "columns_from_steps",
            "told",
            of.guest,
            of.all_hosts,
            f"combinations of the columns' values, row by row, {whose}: with as many as there are "
            "columns, all that is linear in them",
            f"how each row's score changes: {steps}{_in_fits(params)}{_of_zeros(params)}",
            "told",
            float((params.max_iterations if ran is None else ran) * params.fits * directions),
            "combinations a row",
            lower=(_HIDE, "[policy] max_iterations", *(["more than one host"] if alone else [])),
        )
    else:
        yield Disclosure(
            "scores_held_out",
            "told",
            of.guest,
            of.all_hosts,
            "how much their columns together move the score of each row that was held out",
            "the hosts' total part of these scores, at the end of the fit",
            "told",
            lower=("[job] holdout = 0: no row is held out",),
        )
    yield Disclosure(
        "columns_from_scores",
        "worked_out",
        of.guest,
        of.all_hosts,
        "the level of each scored row in a column that stands alone in a host's part of the score, once "
        "it knows the level of one row of each; of several columns the combination",
        "a host's part of each scored row's score, with explain that of each column",
        "unknown",
        lower=("[policy] explain = false", "[policy] scoring = false, max_scored_rows_a_day"),
    )


def _of_pairs(of: Circumstances, params: GlmParams, host: str) -> Iterator[Disclosure]:
    """What pairs of levels of two parties tell either side."""
    pairs = params.pairs.with_host(host)
    if not pairs:
        return
    named = ", ".join(f"{params.pairs.columns[column]} × {name}" for column, name in pairs)
    names = "by name" if params.across_names else "by number, not by name"
    yield Disclosure(
        "guest_levels",
        "told",
        host,
        of.guest,
        f"how many rows that train each level of the guest's column has, {names}, and how many of them "
        "each level of its own: of a level of its own whose rows all have the same, the level of each",
        f"counts by pairs of levels of {named}, also of few rows",
        "told",
        float(len(pairs)),
        "tables of counts",
        lower=("[glm] across: fewer pairs", "levels with more rows, joined by group or bands"),
    )
    yield Disclosure(
        "cells",
        "told",
        of.guest,
        host,
        "which of its levels have enough rows together with which of the host's, by number; and "
        "of the scores' changes as much as if the host had a column for each such pair of levels",
        f"cells of {named} of {counted(params.across_rows, 'row')} at least",
        "told",
        float(len(pairs)),
        "tables of cells",
        lower=("[glm] across: fewer pairs", "[policy] interactions_across = false, min_cell_rows"),
    )


def _of_labels(
    of: Circumstances, params: GlmParams, host: str, two_labels: bool
) -> Iterator[Disclosure]:
    columns = of.columns.get(host)
    known = "" if columns is not None else ", a number taken for want of the true one"
    count = COLUMNS if columns is None else columns
    share = count / of.rows
    over = f"{counted(count, 'column')} of its design matrix over {counted(of.rows, 'row')}{known}"
    yield Disclosure(
        "labels_from_gradients",
        "worked_out",
        host,
        of.guest,
        "single labels, by solving its gradient for them",
        f"{over}: {share:.3g} columns a row in the first iteration"
        + ("" if two_labels else "; no curve was measured for labels with more than two values"),
        "curve" if two_labels else "unknown",
        share,
        "columns a row",
        told_by_gradient(share) if two_labels else None,
        0.0 if two_labels else None,
        MISSED if two_labels else "",
        ("[glm] min_level_rows in the host's file: levels of few rows tell their residuals", _FEW),
    )
    ran = None if of.ran is None else of.ran.iterations
    iterations = params.max_iterations if ran is None else ran
    read, opener = labels_readable(of.rows, count, iterations, params), params.coordinator or of.guest
    yield Disclosure(
        "cheating_host",
        "cheating",
        host,
        of.guest,
        "labels, by having numbers of its choice opened in place of its gradient",
        f"what {opener} opens for {counted(count, 'column')} in {counted(iterations, 'iteration')}"
        f"{_in_fits(params)}: "
        f"{read:,} of {counted(of.rows, 'label')} at most"
        + ("" if params.max_labels is None else f", by max_labels = {params.max_labels:g}")
        + "; the rest it guesses, right as often as the most frequent label is",
        "bound",
        float(read),
        "labels",
        read / of.rows,
        0.0,
        MISSED,
        (*_limit(params), _FEW, "contract, and the ledger"),
    )


def _in_fits(params: GlmParams) -> str:
    """What to add to a number of iterations, where there are several fits."""
    return "" if params.fits == 1 else f", in each of {params.fits:,} fits at most"


def _of_zeros(params: GlmParams) -> str:
    """What to add where an iteration may have several directions."""
    if not params.l1_ratio:
        return ""
    return f", up to {DIRECTIONS} by each under l1_ratio, some of them of a single column"


def _limit(params: GlmParams) -> list[str]:
    """The line that limits the labels that a host could read, where the guest opens what it asks for."""
    if params.coordinator is not None:
        return []
    least = 0.05 if params.max_labels is None else params.max_labels / 2
    return [f"[glm] max_labels = {least:g}: the fit ends before a host could read more"]


def _of_coordinator(of: Circumstances, name: str) -> Iterator[Disclosure]:
    yield Disclosure(
        "coordinator",
        "told",
        name,
        "all parties",
        "inner products of gradients, behind masks gradients: no row, no id, no column",
        "it holds the key",
        "told",
        0.0,
        "rows",
        lower=("[glm] coordinator: one without an interest in the data",),
    )
    yield Disclosure(
        "coordinator_and_party",
        "cheating",
        f"{name} with another party",
        "the others",
        "with a host residuals, and so labels; with the guest the hosts' parts of scores, row by row",
        "together they have the key and what it opens",
        "unknown",
        lower=("[glm] coordinator: one that works with nobody",),
    )
