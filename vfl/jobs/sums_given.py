"""How many sums about a row a host has given its guests, by alignment, and the most that it gives.

With enough of them a guest works the host's table out (docs/leakage.md). They are counted before a job,
by the most that its trees can give away, over all jobs on an alignment and on those that it extends, in
a file of the store.
"""

import math
from dataclasses import dataclass
from pathlib import Path

import msgspec

from vfl.errors import ModelError, Refused
from vfl.jobs.alignments import Alignment, load_alignment
from vfl.jobs.names import began
from vfl.leakage.estimate import Estimate, estimate
from vfl.learn.params import BoostParams
from vfl.party.files import make_folder, replacing
from vfl.party.locks import in_turn
from vfl.party.policy import rule_words
from vfl.party.sections import PolicySection
from vfl.party.store import Store
from vfl.text import counted

_Given = dict[str, dict[str, float]]
"""By alignment and model."""


@dataclass(frozen=True)
class WeighedSums:
    """What a job of trees would give away on an alignment."""

    rows: int
    before: float  # sums a row of earlier jobs
    job: Estimate
    broken: str | None  # the rule that it breaks, in words


class SumsGiven:
    """The count of a host, which jobs and processes that share the store keep together."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._path: Path = store.root / "sums.json"

    def on(self, alignment: Alignment, but: str | None = None) -> float:
        """Sums about a row that jobs on an alignment may have told so far, without those of a model."""
        given, names = self._read(), self._with_extended(alignment)
        return sum(
            a_row for name in names for model, a_row in given.get(name, {}).items() if model != but
        )

    def before(self, alignment: Alignment, model: str) -> float:
        """The same of jobs before that of a model: as they were counted, on other alignments by the
        times in their names."""
        given, total = self._read(), 0.0
        for name in self._with_extended(alignment):
            models = given.get(name, {})
            if model in models:
                earlier = [*models][: [*models].index(model)]
            else:
                earlier = [other for other in models if began(other) < began(model)]
            total += sum(models[other] for other in earlier)
        return total

    def weigh(
        self, policy: PolicySection, alignment: Alignment, params: BoostParams, but: str | None = None
    ) -> "WeighedSums":
        """What a job comes to before it is done. Raises ModelError when the file is damaged."""
        before, rows, most = self.on(alignment, but), len(alignment.rows), policy.max_sums_a_row
        job = estimate(rows, params, params.sums, before)
        broken = None
        if job.equations and not isinstance(most, str) and before + job.equations_a_row > most:
            broken = _too_many(job, params, rows, before, policy)
        return WeighedSums(rows, before, job, broken)

    def count(
        self, policy: PolicySection, alignment: Alignment, model: str, params: BoostParams
    ) -> Estimate:
        """Count a job, before it is done; one that goes on counts once.

        Raises Refused when it would be more than the policy allows, and then counts nothing; ModelError
        when the file is damaged, DataError when it cannot be written.
        """
        make_folder(self._path.parent)
        with in_turn(self._path.with_suffix(".lock")):
            weighed = self.weigh(policy, alignment, params, but=model)
            if weighed.broken is not None:
                raise Refused(weighed.broken)
            given = self._read()
            given.setdefault(alignment.name, {})[model] = weighed.job.equations_a_row
            with replacing(self._path) as file:
                file.write(msgspec.json.encode(given))
        return weighed.job

    def _with_extended(self, alignment: Alignment) -> list[str]:
        """The alignment, and those that it extends as far as they are kept."""
        names = [alignment.name]
        while (earlier := alignment.extends) is not None and earlier not in names:
            names.append(earlier)
            if earlier not in self._store.names("alignment"):
                break
            alignment = load_alignment(self._store, earlier)
        return names

    def _read(self) -> _Given:
        try:
            return msgspec.json.decode(self._path.read_bytes(), type=_Given)
        except FileNotFoundError:
            return {}
        except (OSError, msgspec.MsgspecError, UnicodeDecodeError):
            raise ModelError(
                f"{self._path} is damaged: bring it back from a copy, or remove it to count anew",
                for_peer="it cannot count the sums that it gives (its log has the details)",
            ) from None


def _too_many(
    job: Estimate, params: BoostParams, rows: int, before: float, policy: PolicySection
) -> str:
    """What breaks the rule, by how much, and what helps."""
    most = math.inf if isinstance(policy.max_sums_a_row, str) else policy.max_sums_a_row
    earlier = f", after {before:.3g} of earlier jobs on the alignment," if before else ""
    tree = "joint tree" if params.guest_trees else "tree"
    fit = job.joint_within(max(0.0, most - before))
    fewer = f"at most {counted(fit, tree)} of this depth, " if fit else ""
    return (
        f"{job.equations_a_row:.3g} sums a row of {counted(job.joint, tree)} over "
        f"{counted(rows, 'row')}{earlier} break {rule_words(policy, 'max_sums_a_row')}: "
        f'{fewer}less depth, more rows, sums = "hidden" with a coordinator, or the host raises the rule'
    )
