"""How many sums about a row a host has given each guest, and the most that it gives.

With enough of them a guest works the host's table out (docs/leakage.md). They are counted by the rows
that they are of (party/row_sums.py), tree by tree, by the most that a tree can give away and before it
gives any, over all alignments and jobs of a guest. A count never goes down: not for a job that ends
early, not for a tree that is grown again after a kill. A job that starts has the trees that it still
needs reserved, as long as it runs: one that runs beside it gets what is left.

Under a key a host sees which rows a tree is of. Over the lattice engine it does not: there each row is
counted as one of those that train, by the number that the guest says.
"""

import math
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple, cast

import numpy as np
from numpy.typing import NDArray

from vfl.arrays import Floats, Integers, Mask
from vfl.blocks.scratch import Scratch, in_pieces, most_of, release_pages
from vfl.errors import Refused
from vfl.jobs.alignments import Alignment, count_known_rows, origin_of
from vfl.jobs.offer import Offer
from vfl.leakage.estimate import Estimate, estimate
from vfl.learn.params import BoostParams
from vfl.learn.told_sums import drawn_share
from vfl.models.kinds import expected_share
from vfl.net.peer import Peer
from vfl.party.config import Job
from vfl.party.policy import rule_words
from vfl.party.policy_section import PolicySection
from vfl.party.row_sums import ALL, JobSums, Places, RowSums, RowSumsFile, numbers_within, share_out
from vfl.party.store import Store
from vfl.protocols.align.join import number_values
from vfl.text import counted

_A_NODE = 2.0  # sums of a node for each candidate
_LEAST = 2  # sums of a tree of one split
_ROUNDING = 1e-9  # of the limit: trees are added up one by one
_RESERVED: dict[Path, list["SumsBudget"]] = {}
"""Of jobs of this process, by the file of the guest."""


@dataclass(frozen=True)
class WeighedSums:
    """What a job of trees would give away on an alignment."""

    rows: int  # different ones of the host's table that train
    before: float  # sums a row of earlier jobs on them, and of those under way
    job: Estimate
    broken: str | None  # the rule that it breaks, in words


class SumsGiven:
    """The count of a host about the rows of an alignment, which jobs and processes that share the store
    keep together."""

    def __init__(self, store: Store, alignment: Alignment) -> None:
        self.alignment = replace(alignment, counted_as=None)
        self.file = RowSumsFile(store, guest_of(alignment))
        scratch, what = Scratch(store.scratch(make=False)), "rows that sums are counted of"
        numbers, first = number_values(alignment.rows, scratch)
        counted_as = _counted_as(store, alignment, first, scratch, what)
        self._scratch = scratch
        self._rows = scratch.cast(counted_as, np.uint64, what)
        self._rows.sort()
        new = _first_ones(self._rows)
        if not new.all():
            self._rows = scratch.chosen(self._rows, new, what)
        del new  # rows are many
        kind = np.min_scalar_type(-len(first) - 1).type
        number = scratch.of_rows(len(first) + 1, kind, what)
        number[-1] = -1
        for part in in_pieces(len(first), number, counted_as):
            number[part] = np.searchsorted(self._rows, counted_as[part])
        self._of_aligned = scratch.taken(number, numbers, what)
        """Of each aligned row which of `_rows` it is, -1 for none that the host has."""
        for array in (self._rows, counted_as, alignment.rows):
            release_pages(array)
        self._found: tuple[NDArray[np.uint64], Places] | None = None

    @property
    def told(self) -> float:
        """The most sums that jobs may have told about a row. Raises ModelError when the file is
        damaged."""
        sums = self.file.read()
        return most_of(sums.of(self.places(sums)))

    def before(self, model: str) -> float:
        """Sums a row that were told before the job of a model. Raises ModelError when the file is
        damaged."""
        job = self.file.read().jobs.get(model)
        return self.told if job is None else job.before

    def weigh(
        self, policy: PolicySection, params: BoostParams, training: float, done: int = 0
    ) -> WeighedSums:
        """What a job comes to before it is done, or what is left of it after so many trees are `done`.

        training: the share of the aligned rows that train. Raises ModelError when the file is damaged.
        """
        return self._weigh(self.file.read(), policy, params, training, done)

    def check(
        self, policy: PolicySection, params: BoostParams, training: float, done: int = 0
    ) -> WeighedSums:
        """As `weigh`. Raises Refused for a job that would tell more than the policy allows."""
        return _checked(self.weigh(policy, params, training, done))

    def reserve(
        self,
        policy: PolicySection,
        model: str,
        params: BoostParams,
        training: float,
        done: int = 0,
    ) -> "SumsBudget":
        """Reserve what the trees of a job after the `done` ones may tell; nothing is counted yet.

        Raises as `check`, and DataError when the count cannot be locked.
        """
        with self.file.in_turn():
            sums = self.known(self.file.read())
            weighed = _checked(self._weigh(sums, policy, params, training, done))
            if model not in sums.jobs:
                sums = sums.with_job(model, JobSums(weighed.before, 0.0))
            self.file.write(sums)
            budget = SumsBudget(self, policy, model, params, weighed)
            self._reserved.append(budget)
        return budget

    def release(self, budget: "SumsBudget") -> None:
        """Reserve no more for a job, which has ended."""
        if budget in self._reserved:
            self._reserved.remove(budget)

    def tell(self, policy: PolicySection, rows: Mask, a_row: float) -> None:
        """Count so many sums about each of some aligned rows, of no tree, before they are told.

        Raises Refused where that is more than the policy allows beside what jobs that run have reserved,
        and then counts nothing; ModelError when the file is damaged, DataError when it cannot be
        written.
        """
        with self.file.in_turn():
            sums = self.known(self.file.read())
            places, own = self.places(sums), self.own(rows)
            before = most_of(_with_reserved(sums, self._reserved).of(places)[own])
            most = policy.max_sums_a_row
            if not isinstance(most, str) and _exceeds(before + a_row, most):
                earlier = _after(before)
                raise Refused(
                    f"a table that tells {a_row:.3g} sums about a row{earlier} would break "
                    f"{rule_words(policy, 'max_sums_a_row')}: more rows, fewer sums or levels, or the "
                    "host raises the rule",
                    rules=("max_sums_a_row",),
                )
            after = sums.of(places).copy()
            after[own] += a_row
            self.file.write(sums.with_told(places, after))

    @property
    def numbers(self) -> NDArray[np.uint64]:
        """The numbers by which the host's own rows are known in all alignments, ascending."""
        return self._rows

    @property
    def of_aligned(self) -> NDArray[np.signedinteger]:
        """Of each aligned row which of `numbers` it is, -1 for none that the host has."""
        return self._of_aligned

    def known(self, sums: RowSums) -> RowSums:
        """A count that has the rows of the alignment, too."""
        return sums.with_rows(self._rows) if sums.lacks(self.places(sums)) else sums

    def __len__(self) -> int:
        """How many different rows of the host there are."""
        return len(self._rows)

    @property
    def one_to_one(self) -> bool:
        """Whether each is joined to one row of the guest alone."""
        aligned = self._of_aligned
        pieces = in_pieces(len(aligned), aligned)
        return sum(int(np.count_nonzero(aligned[some] >= 0)) for some in pieces) == len(self._rows)

    def add(self, told: Floats, sums: float, even: bool) -> Floats:
        """What was told of rows, after further sums: of all of them evenly, where it is not known of
        which; else as is best."""
        if not even:
            return share_out(told, sums)
        each = sums / max(1, len(told))
        return self._scratch.each(lambda some: some + each, np.float64, "sums of rows", told)

    def own(self, rows: Mask | None) -> Integers | slice:
        """Which of the host's own rows some aligned ones are; each once. None: all."""
        if rows is None:
            return ALL
        own, chosen = self._of_aligned[rows], np.zeros(len(self._rows), np.bool_)
        chosen[own[own >= 0]] = True
        return np.flatnonzero(chosen)

    def places(self, sums: RowSums) -> Places:
        """Where the host's own rows are in the count, -1 for those that are not. Found once, as long as
        the count has the same rows."""
        if self._found is None or self._found[0] is not sums.rows:
            self._found = (sums.rows, sums.places(self._rows))
            release_pages(self._rows)
        return self._found[1]

    @property
    def _reserved(self) -> list["SumsBudget"]:
        return _RESERVED.setdefault(self.file.path.resolve(), [])

    def _weigh(
        self, sums: RowSums, policy: PolicySection, params: BoostParams, training: float, done: int
    ) -> WeighedSums:
        sums = _with_reserved(sums, self._reserved)
        rows = len(self.alignment.rows)
        if sees_no_rows(params):  # draws may be the same in each tree and job
            training *= drawn_share(params)
        known = max(1, round(training * count_known_rows(self.alignment.rows)))
        job = estimate(rows, params, params.sums, known=known, done=done)
        told = sums.of(self.places(sums))
        if job.equations:
            after = self.add(told, job.equations_a_row * len(told), even=sees_no_rows(params))
            before = max(0.0, _most(told, after) - job.equations_a_row)
        else:
            before = most_of(told)
        job = estimate(rows, params, params.sums, before, known=known, done=done)
        broken, most = None, policy.max_sums_a_row
        if job.equations and not isinstance(most, str) and _exceeds(before + job.equations_a_row, most):
            room = _room(told, most, even=sees_no_rows(params))
            broken = _too_many(_Excess(job, known, before, room), params, policy, done)
        return WeighedSums(known, before, job, broken)


class SumsBudget:
    """What a job that runs may still tell of the rows of an alignment; see SumsCount."""

    def __init__(
        self, given: SumsGiven, policy: PolicySection, model: str, params: BoostParams, job: WeighedSums
    ) -> None:
        self._given, self._policy, self._model, self._job = given, policy, model, job
        self._even, self._hidden = sees_no_rows(params), params.sums == "hidden"
        self._all_rows = params.subsample == 1 and not params.goss_top
        self._trees = job.job.joint
        self._a_tree = job.job.equations_a_row / max(1, job.job.joint)
        self._of_tree = np.zeros(0)
        """Of each row, its share of what the tree that grows has told, where a host sees its nodes."""

    @property
    def about(self) -> tuple[SumsGiven, bool]:
        """The rows that the trees are of, and whether sums are shared out evenly among them."""
        return self._given, self._even

    @property
    def left(self) -> float:
        """Sums a row of the trees that are still to come."""
        return self._trees * self._a_tree

    @property
    def least(self) -> int:
        """See SumsCount. A host that tells sums of nodes of fewer rows tells those of so few, too."""
        policy = self._policy
        return 0 if self._hidden else min(policy.min_child_rows, policy.min_summed_rows)

    def begin_tree(self, drawn: Mask | None) -> None:
        """See SumsCount.

        Raises Refused also for more trees than the job has; where it raises, nothing is counted.
        ModelError when the file is damaged, DataError when it cannot be written.
        """
        if self._hidden:
            return
        given, file = self._given, self._given.file
        with file.in_turn():
            sums = given.known(file.read())
            places, rows = given.places(sums), given.own(drawn)
            told = sums.of(places)
            if not isinstance(rows, slice) and len(rows) < self._policy.min_summed_rows:
                raise Refused(
                    f"a tree of {counted(len(rows), 'row')} breaks "
                    f"{rule_words(self._policy, 'min_summed_rows')}: more rows that train, a higher "
                    "subsample, or the host lowers the rule",
                    rules=("min_summed_rows",),
                )
            # Over the lattice engine all of a tree at once; else its root, and nodes as they are told.
            whole = self._a_tree * (len(told) if drawn is None else self._job.rows)
            added = given.add(told[rows], whole if self._even else _A_NODE, self._even)
            after = added
            if not isinstance(rows, slice):
                after = told.copy()
                after[rows] = added
            if self._trees < 1 or self._is_too_much(told, after):
                raise self._refused(told, 1, after)
            if self._all_rows:
                own = told[rows]
                all_of_them = given.add(own, self._trees * whole, self._even)
                if self._is_too_much(own, all_of_them):
                    raise self._refused(told, self._trees, all_of_them, self._fitting(own, whole))
            if not self._even:
                self._of_tree = after - told
            job = sums.jobs.get(self._model, JobSums(self._job.before, 0.0))
            job = JobSums(job.before, job.told + self._a_tree)
            file.write(sums.with_told(places, after).with_job(self._model, job))
            self._trees -= 1

    def tell(self, pairs: Sequence[tuple[Mask, Mask]]) -> list[bool]:
        """See SumsCount. What a parent's rows had as its sums, those of both children take the place of:
        these add up to it. Raises as `begin_tree`, but for Refused."""
        if self._hidden or not pairs:
            return [True for _ in pairs]
        given, file = self._given, self._given.file
        with file.in_turn():
            sums = file.read()
            places = given.places(sums)
            told, may = sums.of(places), []
            for masks in pairs:
                children = [cast(Integers, given.own(mask)) for mask in masks]
                parent = np.union1d(*children)
                before, after = told.copy(), told.copy()
                if given.one_to_one:  # else a row may be in both, or in other nodes
                    after[parent] -= self._of_tree[parent]
                for rows in children:
                    after[rows] = share_out(after[rows], _A_NODE)
                few = min(map(len, children)) < self._policy.min_summed_rows
                may.append(not few and not self._is_too_much(before, after))
                if may[-1]:
                    self._of_tree += after - before
                    told = after
            file.write(sums.with_told(places, told))
        return may

    def close(self) -> None:
        """Give back what was reserved and not used."""
        self._given.release(self)

    def _is_too_much(self, told: Floats, after: Floats) -> bool:
        most = self._policy.max_sums_a_row
        return not isinstance(most, str) and _exceeds(_most(told, after), most)

    def _fitting(self, told: Floats, a_tree: float) -> int:
        """How many further trees there is room for, fewer than there are to come."""

        def are_too_many(trees: int) -> bool:
            return self._is_too_much(told, self._given.add(told, trees * a_tree, self._even))

        return bisect_left(range(1, self._trees), True, key=are_too_many)

    def _refused(self, told: Floats, trees: int, after: Floats, fit: int = 0) -> Refused:
        """What breaks the rule, and what helps. after: sums a row with so many further trees. fit: how
        many of them there may be."""
        what = "a further tree breaks" if trees == 1 else f"{counted(trees, 'further tree')} would break"
        helps = [_raised(most_of(after))]
        if self._trees == self._job.job.joint:  # else the job has begun, and cannot be another one
            fewer = [f"at most {counted(fit, 'tree')} of this depth"] if fit else []
            helps = [*fewer, "less depth", "other rows", 'sums = "hidden" with a coordinator', *helps]
        return Refused(
            f"{what} {rule_words(self._policy, 'max_sums_a_row')}, after {most_of(told):.3g} sums a row "
            f"of this and earlier jobs of the guest (all add up): {_either(helps)}",
            rules=("max_sums_a_row",),
        )


def _with_reserved(sums: RowSums, reserved: Sequence[SumsBudget]) -> RowSums:
    """What will have been told once the trees have been grown that are still to come. Those about the
    same rows are added up first: a search reserves hundreds of trainings, one after the other."""
    left = defaultdict[tuple[SumsGiven, bool], float](float)
    for budget in reserved:
        left[budget.about] += budget.left
    for (given, even), a_row in left.items():
        places = given.places(sums)
        told = sums.of(places)
        sums = sums.with_told(places, given.add(told, a_row * len(told), even))
    return sums


def training_share(guest: Peer, offer: Offer, alignment: Alignment, job: Job) -> float:
    """The share of the aligned rows that train, as the guest says. Raises PeerError for more than there
    are."""
    if offer.training is None:
        return expected_share(job)
    if offer.training > len(alignment.rows):
        raise guest.breach("an Offer to train on more rows than are aligned")
    return offer.training / len(alignment.rows)


def guest_of(alignment: Alignment) -> str:
    """The name of the guest of an alignment."""
    named = [name for name, print_ in alignment.parties.items() if print_ == alignment.guest]
    return (named or [*alignment.parties])[0]


def sees_no_rows(params: BoostParams) -> bool:
    """Whether a host does not know which rows a tree is of."""
    return params.encryption == "lattice"


def _counted_as(
    store: Store, alignment: Alignment, first: Integers, scratch: Scratch, what: str
) -> NDArray[np.uint64]:
    """The numbers under which the host's rows are counted, in the order in which they come `first`."""
    if alignment.counted_as is not None:
        return alignment.counted_as
    name = origin_of(store, alignment)
    rows = scratch.taken(alignment.rows, first, what)
    return scratch.each(lambda some: numbers_within(name, some), np.uint64, what, rows)


def _first_ones(ordered: NDArray[np.uint64]) -> Mask:
    """Which numbers are not the one before."""
    first = np.ones(len(ordered), np.bool_)
    for some in in_pieces(len(ordered) - 1, ordered):
        first[1:][some] = ordered[1:][some] != ordered[:-1][some]
    return first


def _most(told: Floats, after: Floats) -> float:
    """The most of the rows about which there were more."""
    pieces = in_pieces(len(told), told, after)
    given = ((told[some], after[some]) for some in pieces)
    return max((float(np.max(b, where=b > a, initial=0.0)) for a, b in given), default=0.0)


def _room(told: Floats, most: float, even: bool) -> float:
    """How many further sums a row there may be of rows."""
    if even:
        return min(most, max(0.0, most - most_of(told)))
    return float(np.maximum(0.0, most - told).sum() / max(1, len(told)))


def _exceeds(a_row: float, most: float) -> bool:
    return a_row > most * (1 + _ROUNDING)


def _checked(weighed: WeighedSums) -> WeighedSums:
    """Raises Refused for a job that breaks the rule."""
    if weighed.broken is not None:
        raise Refused(weighed.broken, rules=("max_sums_a_row",))
    return weighed


class _Excess(NamedTuple):
    """What a job would tell of rows that train, after how much, and for how much there is room: in sums
    a row."""

    job: Estimate
    rows: int
    before: float
    room: float


def _either(helps: Sequence[str]) -> str:
    *others, last = helps
    return ", ".join([*others, f"or {last}"]) if others else last


def _raised(sums: float) -> str:
    """What the rule would have to be for so many sums a row."""
    rule = math.ceil(1000 * sums * (1 - _ROUNDING)) / 1000
    return f"the host raises the rule to {rule:.10g}, knowing what that tells (docs/leakage.md)"


def _after(before: float) -> str:
    """What earlier jobs have told, in words."""
    return f", after {before:.3g} of earlier jobs on these rows (all add up)," if before else ""


def _too_many(excess: _Excess, params: BoostParams, policy: PolicySection, done: int) -> str:
    """What breaks the rule, by how much, and what helps."""
    job, rows, before, room = excess
    tree = "joint tree" if params.guest_trees else "tree"
    told = (
        f"{job.equations_a_row:.3g} sums a row of {counted(job.joint, tree)} over "
        f"{counted(rows, 'row')} that train"
    )
    rule = f"break {rule_words(policy, 'max_sums_a_row')}"
    if done:  # the job cannot be another one
        return (
            f"{told}, which this job still needs, {rule}, after {before:.3g} of it so far, with trees "
            "that were begun and not kept, and of earlier jobs on these rows: the host raises the "
            "rule, and the job goes on"
        )
    earlier = _after(before)
    helps = ['sums = "hidden" with a coordinator', _raised(before + job.equations_a_row)]
    if room * rows >= _LEAST:  # else no tree fits, be it ever so flat
        fit = job.joint_within(room * (1 + _ROUNDING)) // params.round * params.round
        fewer = [f"at most {counted(fit, tree)} of this depth"] if fit else []
        helps = [*fewer, *(["less depth"] if params.depth > 1 else []), "more rows", *helps]
    elif before:
        helps.insert(0, "rows that no earlier job was about")
    else:
        helps.insert(0, "more rows")
    return f"{told}{earlier} {rule}: {_either(helps)}"
