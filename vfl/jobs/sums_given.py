"""How many sums about a row a host has given its guests, by alignment, and the most that it gives.

With enough of them a guest works the host's table out (docs/leakage.md). They are counted tree by tree,
by the most that a tree can give away and before it gives any, over all jobs on an alignment and on all
that extend one another, in a file of the store. A count never goes down: not for a job that ends early,
not for a tree that is grown again after a kill. A job that starts has the trees that it still needs
reserved, as long as it runs: one that runs beside it gets what is left.
"""

import math
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import msgspec

from vfl.errors import ModelError, Refused
from vfl.jobs.alignments import Alignment, count_known_rows, origin_of, origins
from vfl.jobs.names import began
from vfl.leakage.estimate import Estimate, estimate
from vfl.learn.params import BoostParams
from vfl.party.counts import ANEW, Counts
from vfl.party.policy import rule_words
from vfl.party.sections import PolicySection
from vfl.party.store import Store
from vfl.text import counted

_Given = dict[str, dict[str, float]]
"""By alignment, the first of those that extend one another, and model."""
_DECODER = msgspec.json.Decoder(_Given)

_ROUNDING = 1e-9  # of the limit: trees are added up one by one
_RESERVED: dict[tuple[Path, str], list["SumsBudget"]] = {}
"""Of jobs of this process, by file and origin of the alignment."""


@dataclass(frozen=True)
class WeighedSums:
    """What a job of trees would give away on an alignment."""

    rows: int  # different ones of the host's table
    before: float  # sums a row of earlier jobs, and of those under way
    job: Estimate
    broken: str | None  # the rule that it breaks, in words


class SumsGiven:
    """The count of a host, which jobs and processes that share the store keep together."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._counts = Counts(store, "sums", _DECODER, ANEW, "the sums that it gives")

    def on(self, alignment: Alignment, but: str | None = None) -> float:
        """Sums about a row that jobs on an alignment may have told so far, without those of a model."""
        given = self._read()
        return sum(
            a_row
            for name in self._counted_with(alignment, given)
            for model, a_row in given[name].items()
            if model != but
        )

    def before(self, alignment: Alignment, model: str) -> float:
        """The same of jobs before that of a model: in the order in which they were counted, or by the
        times in their names where that one was not counted with them."""
        given, total = self._read(), 0.0
        for name in self._counted_with(alignment, given):
            models = given[name]
            if model in models:
                earlier = [*models][: [*models].index(model)]
            else:
                earlier = [other for other in models if began(other) < began(model)]
            total += sum(models[other] for other in earlier)
        return total

    def weigh(
        self, policy: PolicySection, alignment: Alignment, params: BoostParams, done: int = 0
    ) -> WeighedSums:
        """What a job comes to before it is done, or what is left of it after so many trees are `done`.
        Raises ModelError when the file is damaged."""
        before = self.on(alignment) + sum(one.left for one in self._reserved(alignment))
        known, most = count_known_rows(alignment.rows), policy.max_sums_a_row
        rows = len(alignment.rows)
        job = estimate(rows, params, params.sums, before, known=known, done=done)
        broken = None
        if job.equations and not isinstance(most, str) and _exceeds(before + job.equations_a_row, most):
            broken = _too_many(job, params, known, before, policy, done)
        return WeighedSums(known, before, job, broken)

    def check(
        self, policy: PolicySection, alignment: Alignment, params: BoostParams, done: int = 0
    ) -> WeighedSums:
        """As `weigh`. Raises Refused for a job that would tell more than the policy allows."""
        weighed = self.weigh(policy, alignment, params, done)
        if weighed.broken is not None:
            raise Refused(weighed.broken)
        return weighed

    def reserve(
        self,
        policy: PolicySection,
        alignment: Alignment,
        model: str,
        params: BoostParams,
        done: int = 0,
    ) -> "SumsBudget":
        """Reserve what the trees of a job after the `done` ones may tell; nothing is counted yet.

        Raises as `check`, and DataError when the count cannot be locked.
        """
        with self.in_turn():
            job = self.check(policy, alignment, params, done).job
            hidden = params.sums == "hidden"
            budget = SumsBudget(self, policy, alignment, model, job, hidden)
            _RESERVED.setdefault(self._place(alignment), []).append(budget)
        return budget

    def in_turn(self) -> AbstractContextManager[None]:
        """Change the count in turn with others."""
        return self._counts.in_turn()

    def add(self, alignment: Alignment, model: str, a_row: float) -> None:
        """Add to what a model has told; the lock is held. Raises DataError when the file cannot be
        written."""
        given, origin = self._read(), origin_of(self._store, alignment)
        of_models = given.setdefault(origin, {})
        of_models[model] = of_models.get(model, 0.0) + a_row
        self._counts.write(given)

    def release(self, alignment: Alignment, budget: "SumsBudget") -> None:
        """Reserve no more for a job, which has ended."""
        reserved = _RESERVED.get(self._place(alignment), [])
        if budget in reserved:
            reserved.remove(budget)

    def _reserved(self, alignment: Alignment) -> list["SumsBudget"]:
        return list(_RESERVED.get(self._place(alignment), ()))

    def _place(self, alignment: Alignment) -> tuple[Path, str]:
        return self._counts.path.resolve(), origin_of(self._store, alignment)

    def _counted_with(self, alignment: Alignment, given: _Given) -> list[str]:
        """The names under which sums on the alignment, and on those that extend it or that it extends,
        were counted: now the origin's, before each alignment's own."""
        line = origins(self._store, alignment)

        def belongs(name: str) -> bool:
            try:
                return name in line or origin_of(self._store, name) == line[-1]
            except ModelError:  # said when that one is used
                return False

        return [name for name in given if belongs(name)]

    def _read(self) -> _Given:
        return self._counts.read() or {}


class SumsBudget:
    """What a job that runs may still tell of the rows of an alignment."""

    def __init__(
        self,
        given: SumsGiven,
        policy: PolicySection,
        alignment: Alignment,
        model: str,
        job: Estimate,
        hidden: bool,
    ) -> None:
        self._given, self._policy, self._alignment, self._model = given, policy, alignment, model
        self._hidden, self._trees = hidden, job.joint
        self._a_tree = job.equations_a_row / max(1, job.joint)

    @property
    def left(self) -> float:
        """Sums a row of the trees that are still to come."""
        return self._a_tree * self._trees

    def count_tree(self) -> None:
        """Count a tree that begins, before it tells anything.

        Raises Refused when it would be more than the policy allows, or than the job has, and then counts
        nothing; ModelError when the file is damaged, DataError when it cannot be written.
        """
        if self._hidden:
            return
        with self._given.in_turn():
            most = self._policy.max_sums_a_row
            before = self._given.on(self._alignment)
            if self._trees < 1 or (not isinstance(most, str) and _exceeds(before + self._a_tree, most)):
                raise Refused(
                    f"a further tree breaks {rule_words(self._policy, 'max_sums_a_row')}, after "
                    f"{before:.3g} sums a row of all jobs on the alignment: fewer trees or less depth, "
                    "or the host raises the rule"
                )
            self._given.add(self._alignment, self._model, self._a_tree)
            self._trees -= 1

    def close(self) -> None:
        """Give back what was reserved and not used."""
        self._given.release(self._alignment, self)


def _exceeds(a_row: float, most: float) -> bool:
    return a_row > most * (1 + _ROUNDING)


def _too_many(
    job: Estimate, params: BoostParams, rows: int, before: float, policy: PolicySection, done: int
) -> str:
    """What breaks the rule, by how much, and what helps."""
    most = math.inf if isinstance(policy.max_sums_a_row, str) else policy.max_sums_a_row
    tree = "joint tree" if params.guest_trees else "tree"
    told = (
        f"{job.equations_a_row:.3g} sums a row of {counted(job.joint, tree)} over {counted(rows, 'row')}"
    )
    rule = f"break {rule_words(policy, 'max_sums_a_row')}"
    if done:  # the job cannot be another one
        return (
            f"{told}, which this job still needs, {rule}, after {before:.3g} of it so far, with trees "
            "that were begun and not kept, and of earlier jobs on the alignment: the host raises the "
            "rule, and the job goes on"
        )
    earlier = f", after {before:.3g} of earlier jobs on the alignment," if before else ""
    fit = job.joint_within(max(0.0, most - before))
    fewer = f"at most {counted(fit, tree)} of this depth, " if fit else ""
    return (
        f"{told}{earlier} {rule}: "
        f'{fewer}less depth, more rows, sums = "hidden" with a coordinator, or the host raises the rule'
    )
