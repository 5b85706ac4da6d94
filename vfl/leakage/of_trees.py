"""What training and scoring with trees could give away."""

import math
from bisect import bisect_right
from collections.abc import Callable, Iterator
from dataclasses import replace

from vfl.leakage.disclosure import (
    AUC,
    COLUMNS,
    MISSED,
    Circumstances,
    Disclosure,
    common_rows,
    percent,
)
from vfl.leakage.estimate import (
    MAX_SUMS_A_ROW,
    Estimate,
    Sums,
    estimate,
    expected,
    told_by_model,
    told_by_nodes,
    told_by_scoring,
)
from vfl.learn.params import BoostParams
from vfl.learn.told_sums import drawn_share, equations_a_tree, most_splits
from vfl.protocols.trees.quantisation import quantisation_of
from vfl.text import counted

_HIDE = '[secureboost] sums = "hidden" with a coordinator'
_FEWER = "fewer trees or less depth ([policy] max_trees)"
_GUEST = "[secureboost] guest_trees: the guest alone grows the first trees"
_BINS = "[secureboost] max_bins: fewer bins, or more columns"
_TOLD = "nothing takes back what earlier jobs told: this job adds nothing to it"
_TRUSTED = "a coordinator that works with nobody"


def of_trees(of: Circumstances, params: BoostParams) -> list[Disclosure]:
    """What each party could learn, the guest about hosts first."""
    found = [common_rows(of)]
    for host in of.hosts:
        found += [_table_by_sums(of, params, host), *_by_splits(of, params, host)]
        if params.ordered_categories == "all":
            found.append(_column_groups(of, host))
    found.append(_few_rows(of, params))
    for host in of.hosts:
        found += [*_of_labels(of, params, host)]
    if params.coordinator is not None:
        found += [*_of_coordinator(of, params, params.coordinator)]
    return [*found, *_by_cheating(of, params)]


def sums_of(of: Circumstances, params: BoostParams, hidden: bool | None = None) -> Estimate:
    """Sums about a row that hosts give away, with those that were given before; of a run by as many
    joint trees as there were. `hidden`: by the job, if that is not said."""
    hides = params.sums == "hidden" if hidden is None else hidden
    if of.ran is None:
        sums: Sums = "hidden" if hides else "open"
        return estimate(of.rows, params, sums, of.given, known=_rows_of_sums(of, params))
    equations = 0 if hides else of.ran.joint * equations_a_tree(of.rows, params)
    a_row = equations / _rows_of_sums(of, params)
    return Estimate(equations, a_row, expected(of.given + a_row), of.ran.joint)


def _rows_of_sums(of: Circumstances, params: BoostParams) -> int:
    """Rows of a host that sums are about: over the lattice engine they may be the same in each tree."""
    share = drawn_share(params) if params.encryption == "lattice" else 1.0
    return max(1, round(share * of.training_rows))


def _after(of: Circumstances) -> str:
    """What earlier jobs gave, in words."""
    if of.given:
        return f", after {of.given:.3g} of earlier jobs"
    return "" if of.counts else ", without those of earlier jobs on the same rows, which hosts count"


def _joint(of: Circumstances, params: BoostParams) -> int:
    return params.most_trees - params.first_joint if of.ran is None else of.ran.joint


def _fewer(of: Circumstances, params: BoostParams, told: Callable[[float], float]) -> str:
    """The line that halves what the model tells, and what it then tells: by the part of the joint trees
    that are left."""
    joint, of_round = _joint(of, params), params.round
    if joint < 2 * of_round:
        flatter = f"[secureboost] depth = {params.depth - 1}"
        return flatter if params.depth > 1 else _without_hosts(joint // of_round + params.guest_trees)
    # At least one tree is left, or one round, even if that tells more than half.
    fit = bisect_right(range(joint), told(1) / 2, key=lambda trees: told(trees / joint)) - 1
    left = max(1, fit // of_round)
    trees = (
        f"trees = {params.guest_trees + left} ({percent(told(left * of_round / joint))} by the curve)"
    )
    return f"[secureboost] {trees}, or less depth ([policy] max_trees)"


def _fewer_nodes(of: Circumstances, params: BoostParams, some_known: bool) -> str:
    """The line that lowers what nodes tell of labels: one joint tree tells nearly what many do."""
    joint, of_round = _joint(of, params), params.round
    trees = joint // of_round + params.guest_trees
    if joint < 2 * of_round:
        return _without_hosts(trees)
    left = f"{AUC} {told_by_nodes(of_round, some_known):.2f} by the curve"
    still = "tree" if of_round == 1 else "round"
    return (
        f"[secureboost] guest_trees = {trees - 1}: {left}, one joint {still}; fewer {still}s alone do "
        "little"
    )


def _without_hosts(trees: int) -> str:
    return f"[secureboost] guest_trees = {trees}: the model has no column of a host"


def _table_by_sums(of: Circumstances, params: BoostParams, host: str) -> Disclosure:
    """What the guest could learn of a host's table by sums."""
    by_sums = Disclosure(
        "table_from_sums",
        "worked_out",
        of.guest,
        host,
        "in which bin the values of each row are, beyond what the model tells",
        "",
        "curve",
        unit="equations a row",
        guessing=0.0,
        measure=MISSED,
    )
    if params.sums == "hidden":
        how = f"no sum of this job: {params.coordinator} opens them, the guest passes on numbers "
        how += "that look random"
        if of.given:
            how += f"; but {of.given:.3g} equations a row of earlier, open jobs on these rows"
        else:
            how += _after(of)
        return replace(
            by_sums,
            how=how,
            basis="curve" if of.given else "bound",
            amount=of.given,
            success=expected(of.given),
            lower=(_TOLD,) if of.given else (),
        )
    sums = sums_of(of, params)
    total = of.given + sums.equations_a_row
    each = sums.equations // max(1, sums.joint)
    limit = MAX_SUMS_A_ROW if of.allowed is None else of.allowed
    refused, fewer = "", []
    if total > limit:
        if of.ran is None:
            whose = "a host's default" if of.allowed is None else f"{host}'s"
            refused = f"; {whose} max_sums_a_row = {limit:g} refuses the job"
        fit = sums.joint_within(max(0.0, limit - of.given)) // params.round + params.guest_trees
        if fit > params.guest_trees:
            fewer = [f"[secureboost] trees = {fit}"]
            refused += f", of which trees = {fit} would pass" if refused else ""
    return replace(
        by_sums,
        how=f"{each:,} sums a candidate from each of {counted(sums.joint, 'joint tree')} over "
        f"{counted(of.training_rows, 'row')} that train, at most: {sums.equations_a_row:.3g} equations "
        f"a row{_after(of)}{refused}",
        amount=total,
        success=sums.beyond,
        lower=(_HIDE, *fewer, _FEWER, _GUEST, "more rows"),
    )


def _by_splits(of: Circumstances, params: BoostParams, host: str) -> Iterator[Disclosure]:
    """What the guest could learn of a host's table by the splits that it won."""
    candidates = of.candidates.get(host) or COLUMNS * (params.max_bins - 1)
    known = "" if host in of.candidates else f", taken for {COLUMNS} columns of {params.max_bins} bins"
    directions, splits, won = _won(of, params, host)
    by_model = directions / candidates
    yield Disclosure(
        "table_from_model",
        "worked_out",
        of.guest,
        host,
        "in which bin the values of each row that trained are, by the model alone",
        f"who goes left at {won}: {directions:.3g} directions a row, of "
        f"{counted(candidates, 'candidate')}{known}",
        "curve",
        by_model,
        "directions a row and candidate",
        told_by_model(by_model),
        0.0,
        MISSED,
        (_fewer(of, params, lambda part: told_by_model(part * by_model)), _GUEST, _BINS),
    )
    yield Disclosure(
        "scored_rows",
        "worked_out",
        of.guest,
        host,
        "in which bin the values of each row are that it scores, by all splits of the model",
        f"{splits / candidates:.3g} splits for each candidate",
        "curve",
        splits / candidates,
        "splits a candidate",
        told_by_scoring(splits / candidates),
        0.0,
        MISSED,
        ("[policy] max_scored_rows_a_day, min_scored_rows, scoring = false", _FEWER),
    )


def _column_groups(of: Circumstances, host: str) -> Disclosure:
    """What the guest is told of a host's categorical columns."""
    return Disclosure(
        "category_groups",
        "told",
        of.guest,
        host,
        "which of its sums belong to one column, of columns with more than four categories: how many "
        "categories each has, and how rows share out among them; no name",
        'ordered_categories = "all": the curve above is of sums that are not told apart by column',
        "told",
        lower=('[secureboost] ordered_categories = "guest"', "[policy] category_groups = false"),
    )


def _won(of: Circumstances, params: BoostParams, host: str) -> tuple[float, int, str]:
    """Directions that a host tells about a row, its splits, and the splits in words.

    Where they are not known each party is taken to win as many as any other.
    """
    joint, share = _joint(of, params), 1 / (1 + len(of.hosts))
    if of.ran is not None and host in of.ran.splits:
        splits = of.ran.splits[host]
        # A tree of depth d has 2^d - 1 splits at most, of which a row meets d, at most.
        about = splits * _met(params) / most_splits(params)
        words = f"the {counted(splits, 'split')} that it won"
        return of.ran.directions.get(host, about), splits, words
    splits = round(joint * most_splits(params) * share)
    words = f"some {counted(splits, 'split')}, if it wins as many as any other party"
    return joint * _met(params) * share, splits, words


def _met(params: BoostParams) -> int:
    """The most splits of one tree that a row meets."""
    return min(params.depth, most_splits(params))


def _few_rows(of: Circumstances, params: BoostParams) -> Disclosure:
    """Sums over sets that differ by few rows."""
    lower: tuple[str, ...] = (_HIDE,)
    safe = params.sums == "hidden" and not of.given
    if safe:
        how, lower = "no sums are seen", ()
    elif params.sums == "hidden":
        how = "no sums of this job are seen, but those of earlier jobs on these rows are known"
        lower = (_TOLD,)
    elif params.encryption == "lattice":
        how = "sums over groups of any size are shown: taken together they count as above"
        lower = (_HIDE, '[secureboost] encryption = "paillier", where groups have min_child_rows')
    else:
        how = (
            f"each node that is summed has the host's min_child_rows ({params.min_child_rows} in the "
            "job), and the rows drawn for two trees differ in as many or none; but neighbouring "
            "thresholds of a column, nodes of two trees or jobs, and more than two draws may differ in "
            "a single row: nothing bounds it, and all sums taken together count as above"
        )
        lower = (_HIDE, "[policy] min_child_rows: a higher one, at the host as in the job")
    return Disclosure(
        "single_rows_from_differences",
        "worked_out",
        of.guest,
        of.all_hosts,
        "the side of single rows from sums over nearly the same rows",
        how,
        "bound" if safe else "unknown",
        float(params.min_child_rows),
        "rows of the smallest node",
        0.0 if safe else None,
        0.0 if safe else None,
        "of the rows" if safe else "",
        lower,
    )


def _of_labels(of: Circumstances, params: BoostParams, host: str) -> Iterator[Disclosure]:
    """What a host could learn about labels."""
    joint = _joint(of, params)
    which = "which rows have a claim, or a label above the middle"
    if params.round > 1:
        which = "which rows are of a class, of the one that is told best from all others"
    for name, some, what in (
        ("labels_from_nodes", False, which),
        (
            "labels_from_nodes_some_known",
            True,
            "the same of all rows, if it has the labels of every twentieth row from elsewhere",
        ),
    ):
        auc = told_by_nodes(joint, some)
        yield Disclosure(
            name,
            "worked_out",
            host,
            of.guest,
            what,
            f"which rows share a node in {counted(joint, 'joint tree')}, given which way each of its "
            "own columns goes: nearly what the model itself gets on rows that trained, which is more "
            "than on rows held out",
            "curve",
            float(joint),
            "joint trees",
            auc,
            0.5,
            AUC,
            (_fewer_nodes(of, params, some),),
        )
    if params.goss_top:
        top = math.ceil(params.goss_top * of.rows)
        yield Disclosure(
            "large_gradients",
            "told",
            host,
            of.guest,
            f"which {counted(top, 'row')} have the largest gradients: where claims are rare, those that "
            "claimed",
            f"goss_top = {params.goss_top:g}, which rows a tree is of",
            "told",
            float(top),
            "rows",
            lower=("[secureboost] goss_top = 0, the default",),
        )


def _of_coordinator(of: Circumstances, params: BoostParams, name: str) -> Iterator[Disclosure]:
    yield Disclosure(
        "coordinator",
        "told",
        name,
        "all parties",
        "sums of candidates without a name in an order drawn at random, the totals of nodes, the "
        "guest's best gains: no row, no id, no column",
        "it opens the sums",
        "told",
        0.0,
        "rows",
        lower=("[secureboost] coordinator: one without an interest in the data",),
    )
    opened = sums_of(of, params, hidden=False)
    yield Disclosure(
        "coordinator_and_guest",
        "cheating",
        f"{name} with {of.guest}",
        of.all_hosts,
        "in which bin the values of each row are, as if sums were open",
        f"together they have the sums: {opened.equations_a_row:.3g} equations a row at most{_after(of)}",
        "curve",
        of.given + opened.equations_a_row,
        "equations a row",
        opened.beyond,
        0.0,
        MISSED,
        (f"[secureboost] coordinator: {_TRUSTED}", _FEWER),
    )
    yield Disclosure(
        "coordinator_and_host",
        "cheating",
        f"{name} with a host",
        of.guest,
        "sums of gradients, and so about how frequent claims are, in that host's own bins",
        "together they know which candidate a sum is of",
        "unknown",
        lower=(f"[secureboost] coordinator: {_TRUSTED}", "a higher min_child_rows"),
    )


def _by_cheating(of: Circumstances, params: BoostParams) -> Iterator[Disclosure]:
    """What takes a guest that encrypts numbers of its choice."""
    lower = ("[policy] max_trees, max_jobs_a_day", "contract, and the ledger of what was sent")
    if params.sums == "hidden":
        nodes = _joint(of, params) * most_splits(params)
        yield Disclosure(
            "cheating_guest",
            "cheating",
            of.guest,
            of.all_hosts,
            "the sides of the rows of a node at a candidate that it makes win; which of all would win, "
            "each moved by numbers of its choice",
            f"numbers that it adds to masked sums, in at most {counted(nodes, 'node')}",
            "unknown",
            float(nodes),
            "nodes",
            lower=lower,
        )
        return
    try:
        bits = quantisation_of(of.rows, params).bits
    except ValueError:  # too many rows for the encryption: the job will say so
        return
    read = min(of.rows, sums_of(of, params).equations * bits)
    yield Disclosure(
        "cheating_guest",
        "cheating",
        of.guest,
        of.all_hosts,
        "on which side of every candidate of a host rows of its choice are",
        f"encrypted numbers that each stand for a row, {bits} to a sum: of {read:,} of "
        f"{counted(of.rows, 'row')}; of the rest it guesses the side where more rows are",
        "bound",
        float(read),
        "rows",
        read / of.rows,
        0.0,
        MISSED,
        (_HIDE, *lower),
    )
