"""What a job could give away, before it: `vfl leakage`. No peer is asked."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace

import numpy as np

from vfl.arrays import Floats
from vfl.blocks.scratch import Scratch
from vfl.errors import ConfigError, ModelError, Refused
from vfl.jobs.alignments import Alignment, count_known_rows, find_alignment
from vfl.jobs.connect import store_of
from vfl.jobs.sums_given import SumsGiven
from vfl.jobs.table_sizes import blank_training, sizes_of
from vfl.leakage.disclosure import (
    AUC,
    COLUMNS,
    MISSED,
    Circumstances,
    Disclosure,
    merged,
    percent,
)
from vfl.leakage.measuring import ROWS, Measured, measure_tables
from vfl.leakage.meter import disclosures
from vfl.leakage.of_rows import of_rows
from vfl.learn.binning import Features
from vfl.learn.losses import Loss
from vfl.models.kind import PartyColumns
from vfl.models.kinds import expected_share, kind_of_job
from vfl.party.config import Job, Party
from vfl.party.policy import broken_by_job, broken_by_pool, check_guest, check_intersection, today
from vfl.party.policy_section import PolicySection
from vfl.party.store import Store
from vfl.party.table import Wanted, read_wanted
from vfl.text import counted

_LEAST = 50  # rows of simulated tables
_MOST_COLUMNS = 50  # of a host's
_TELLING = 0.6  # of a host's simulated columns, that the label depends on

_ATTACKS: Mapping[str, Sequence[str]] = {
    "table_from_sums": ("reconstruction", "sums of small nodes", "model alone"),
    "table_from_model": ("model alone",),
    "scored_rows": ("model alone, rows scored",),
    "single_rows_from_differences": ("differences of sums",),
    "labels_from_nodes": ("node membership",),
    "labels_from_nodes_some_known": ("node membership, some labels known",),
    "columns_from_scores": ("scores of known rows",),
    "labels_from_gradients": ("residues of a gradient",),
}
"""Of a disclosure, the attacks that measure it: the best of them counts. Who has sums has the splits,
too."""

_MEASURED: Mapping[str, str] = {
    "table_from_sums": "in which bin the values of each row are, by sums and splits together",
    "single_rows_from_differences": "single rows by which two nodes differ that are summed",
}
"""What is measured, where that is not what a curve is of."""

_UNITS: Mapping[str, str] = {
    "sides of (candidate, row) known": "(row, threshold) sides",
    "rows told by themselves": "rows",
}


@dataclass(frozen=True)
class Leakage:
    """What a job could give away, as a party sees it."""

    job: str
    party: str
    rows: int
    alignment: str | None  # whose rows they are
    found: tuple[Disclosure, ...]
    measured: Measured | None = None
    notes: tuple[str, ...] = ()  # why there would be no such run

    @property
    def document(self) -> dict[str, object]:
        """The same as JSON has it."""
        figures = ("advantage", "number", "chance")
        lines = [asdict(one) | {name: getattr(one, name) for name in figures} for one in self.found]
        simulated = None if self.measured is None else self.measured.document()
        told = {"job": self.job, "party": self.party, "rows": self.rows, "alignment": self.alignment}
        return {**told, "disclosures": lines, "simulated": simulated, "notes": [*self.notes]}


def foresee(
    party: Party,
    job: Job,
    *,
    rows: int | None = None,
    guest: str | None = None,
    simulate: bool = False,
    columns: Mapping[str, int] | None = None,
) -> Leakage:
    """What each party could learn about each other by a job over `rows` aligned rows, or those of the
    party's latest alignment.

    `guest` is who starts it, where a host's files do not say. With `simulate` the attacks are made on
    tables that are drawn at random, of as many columns of hosts as this party knows of. A host's table
    is read for the number of its columns; `columns` are others' as far as a guest knows them.

    Raises ConfigError for a coordinator's file, a guest that cannot be told, or no number of rows;
    ModelError for an alignment that is damaged, DataError for a table that cannot be used.
    """
    if job.over_rows:
        return _over_rows(party, job, rows, guest, simulate)
    if party.role == "coordinator":
        raise ConfigError(
            f"{party.name} is a coordinator, which learns no row: ask with the file of the guest or of "
            "a host"
        )
    store = store_of(party)
    alignment = _alignment(store, party, guest) if rows is None else None
    starts, hosts = _parties(party, alignment, guest)
    many = len(alignment.rows) if alignment else rows or 0
    counts = alignment is not None and party.role == "host"
    of = Circumstances(starts, hosts, many, counts=counts, training=expected_share(job))
    bins = getattr(job.params, "max_bins", 2)
    candidates = {name: count * (bins - 1) for name, count in (columns or {}).items()}
    of = replace(of, candidates=candidates, columns=dict(columns or {}))
    drawn, notes = COLUMNS, _refusals(party, job, of)
    if party.role == "host":
        wanted = Wanted("host", False, scratch=Scratch(store.scratch_at_hand))
        table = read_wanted(party.data, wanted)
        sizes = sizes_of(table, party, job)
        if alignment is None and many > table.rows:
            notes.append(
                f"{table.path.name} has {counted(table.rows, 'row')}: so many are not in common unless "
                "several of the guest's are joined to one"
            )
        drawn = sizes.columns
        given = _given(store, party, job, alignment) if alignment else 0.0
        most = party.policy.max_sums_a_row
        of = replace(
            of,
            candidates={party.name: sizes.candidates},
            columns={party.name: sizes.of_design},
            given=given,
            known=count_known_rows(alignment.rows) if alignment else 0,
            allowed=math.inf if isinstance(most, str) else most,
        )
    found = disclosures(of, job.params, job.loss.link == "logit")
    measured = None
    if simulate:
        measured = _simulate(party, job, of, drawn)
        found = [_measured(one, of, measured) for one in found]
    name = None if alignment is None else alignment.name
    return Leakage(job.name, party.name, of.rows, name, tuple(merged(found)), measured, tuple(notes))


def _over_rows(party: Party, job: Job, rows: int | None, server: str | None, simulate: bool) -> Leakage:
    """The same of a job over rows, which has no figure that depends on their number."""
    if simulate or rows is not None:
        raise ConfigError(
            f"{'--simulate' if simulate else '--rows'} is for jobs over columns: leave it out"
        )
    if party.role == "coordinator":
        parties, starts = party.partners, party.name
    elif not party.clients:
        raise ConfigError(
            f"{job.name} is a job over rows, and {party.name} takes part in none: [peers] needs the "
            'other parties, with role = "client", and their server'
        )
    else:
        parties, starts = [party.name, *party.clients], server or party.coordinators[0]
        check_guest(party, starts)
    broken = [] if party.role == "coordinator" else broken_by_job(party.policy, job, starts, today())
    if party.role == "guest":
        broken += broken_by_pool(party.policy, len(parties))
    notes = tuple(f"{party.name} refuses the job: {rule}" for rule in broken)
    found = of_rows(
        parties, starts, job.params, without=job.rows.without, times=job.job.time is not None
    )
    return Leakage(job.name, party.name, 0, None, tuple(found), notes=notes)


def _given(store: Store, party: Party, job: Job, alignment: Alignment) -> float:
    """Sums about a row of the alignment that a host's earlier jobs gave."""
    given = SumsGiven(store, alignment)
    if (told := kind_of_job(job).tells_sums) is None:
        return given.told
    return given.weigh(party.policy, told, expected_share(job)).before


def _refusals(party: Party, job: Job, of: Circumstances) -> list[str]:
    """Why a host, or one with the default rules where a guest asks, would not take part; and whether
    there are too few rows for any split."""
    policy, whose = party.policy, party.name
    if party.role == "guest":
        policy, whose = PolicySection(), "a host with the default rules"
    broken = broken_by_job(policy, job, None if party.role == "guest" else of.guest, today())
    try:
        check_intersection(policy, of.rows)
    except Refused as refused:
        broken.append(str(refused))
    notes = [f"{whose} refuses the job: {rule}" for rule in broken]
    least = 2 * getattr(job.params, "min_child_rows", 0)
    if of.rows < least:
        notes.append(
            f"no tree has a split: of {counted(of.rows, 'row')} none leaves min_child_rows = "
            f"{least // 2} on both sides"
        )
    return notes


def _alignment(store: Store, party: Party, guest: str | None) -> Alignment:
    """The latest one."""
    if not store.names("alignment"):
        which = ""
        if party.role == "host" and guest is None and len(names := _could_start(party)) > 1:
            which = f", with --guest who starts the job ({' or '.join(names)})"
        raise ConfigError(
            "there is no alignment yet: give the number of rows that all parties know "
            f"(vfl leakage --rows N, vfl train --estimate N){which}, or run `vfl align` first"
        )
    alignment = find_alignment(store, None)
    if not len(alignment.rows):
        raise ModelError(
            f"alignment {alignment.name} has no row: give a number (vfl leakage --rows N, "
            "vfl train --estimate N)"
        )
    return alignment


def _parties(party: Party, alignment: Alignment | None, guest: str | None) -> tuple[str, Sequence[str]]:
    """The guest and the hosts."""
    if party.role == "guest":
        if guest not in (None, party.name):
            raise ConfigError(f"{party.name} is the guest itself: leave --guest out")
        known = party.partners if alignment is None else [*alignment.parties]
        return party.name, [name for name in party.partners if name in known]
    if guest is not None and guest not in party.partners:
        raise ConfigError(f"--guest {guest} is no peer of {party.name} that has data")
    if alignment is not None:
        named = [name for name, print_ in alignment.parties.items() if print_ == alignment.guest]
        if named and guest in (None, named[0]):
            others = [n for n in alignment.parties if n not in (named[0], party.name)]
            return named[0], [party.name, *others]
    candidates = [guest] if guest else _could_start(party)
    if len(candidates) > 1:
        raise ConfigError(
            f"{party.name} has {counted(len(candidates), 'peer')} that could start the job: say which "
            f"with --guest ({' or '.join(candidates)})"
        )
    if not candidates:
        raise ConfigError(f"{party.name} has no peer that could start a job: add one under [peers]")
    (starts,) = candidates
    return starts, [party.name, *(name for name in party.partners if name != starts)]


def _could_start(party: Party) -> Sequence[str]:
    """The peers that could be a host's guest."""
    return [*(party.policy.guests or party.partners)]


# Attacks on simulated tables.


def _simulate(party: Party, job: Job, of: Circumstances, columns: int) -> Measured:
    """Attack a training on tables drawn at random; the party's own number of columns at each host."""
    if of.rows < _LEAST:
        raise ConfigError(
            f"--simulate needs {_LEAST} rows at the least, and there are {of.rows:,}: give another "
            "number with --rows"
        )
    rows, draw = min(of.rows, ROWS), np.random.default_rng(job.params.seed)
    drawn = min(columns, _MOST_COLUMNS)
    guest = PartyColumns(of.guest, "simulated", drawn_columns(of.guest, rows, COLUMNS, draw))
    hosts = [
        PartyColumns(name, "simulated", drawn_columns(name, rows, drawn, draw)) for name in of.hosts
    ]
    score = np.zeros(rows)
    for own in (guest, *hosts):
        values = [*own.features.values()]
        for number in values[: max(1, round(_TELLING * len(values)))]:
            score += draw.normal() * np.asarray(number, np.float64)
    label = drawn_label(job.loss, score / max(float(score.std()), 1e-9), draw)
    tables = kind_of_job(job).tables([guest, *hosts], blank_training(label, job.loss))
    policy = PolicySection() if party.role == "guest" else party.policy
    found = measure_tables(
        tables, min_summed_rows=_least_summed(policy), seed=job.params.seed, of_rows=of.rows
    )
    if drawn == columns:
        return found
    fewer = (
        f"{counted(drawn, 'column')} of each host, not {columns:,}: of more columns a model tells less"
    )
    return replace(found, notes=(*found.notes, fewer))


def _least_summed(policy: PolicySection) -> int:
    """The least rows of a node whose sums a host with these rules tells, whatever it told before."""
    most = policy.max_sums_a_row
    alone = 1 if isinstance(most, str) else math.ceil(2 / most)
    return max(policy.min_summed_rows, alone)


def drawn_columns(party: str, rows: int, columns: int, draw: np.random.Generator) -> Features:
    """Columns of normal numbers."""
    return {f"{party}{i}": draw.normal(size=rows) for i in range(columns)}


def drawn_label(loss: Loss, score: Floats, draw: np.random.Generator) -> Floats:
    """A label of the loss's kind: of two values one in five, classes, counts, or amounts."""
    if loss.classes > 1:
        ranks = np.argsort(np.argsort(score + draw.logistic(size=len(score))))
        return np.floor(ranks * loss.classes / len(ranks))
    if loss.link == "logit":
        risk = score + draw.logistic(size=len(score))
        return (risk > np.quantile(risk, 0.8)).astype(np.float64)
    if loss.link == "identity":
        return score + draw.normal(size=len(score))
    mean = np.exp(0.5 * score)
    label = draw.poisson(mean).astype(np.float64)
    try:
        loss.check(label)
    except ValueError:  # no zeros: amounts
        label = draw.gamma(2.0, mean / 2)
    return label


def _measured(one: Disclosure, of: Circumstances, measured: Measured) -> Disclosure:
    """With the figures of the best attack in place of a curve's."""
    attacks = _ATTACKS.get(one.name, ())
    found = [
        success
        for success in measured.successes
        if success.attack in attacks
        and one.who == success.who
        and one.about in (success.about, of.all_hosts)
    ]
    if not found:
        return one
    best = max(found, key=lambda success: success.advantage)
    rank = best.unit.startswith(AUC)
    part = "" if measured.rows >= measured.of_rows else f" of {measured.of_rows:,}"
    how = f"attacks on simulated tables of {measured.rows:,}{part} rows"
    if not rank:
        unit = _UNITS.get(best.unit, best.unit)
        how += f": {percent(best.success)} of {unit}, of which guessing gets {percent(best.guessing)}"
    # In the unit of curves, so that both can be compared.
    return replace(
        one,
        what=_MEASURED.get(one.name, one.what),
        how=f"{how}; in the job {one.how}",
        basis="measured",
        success=best.success if rank else max(0.0, best.advantage),
        guessing=best.guessing if rank else 0.0,
        measure=AUC if rank else MISSED,
    )
