"""Trainings played again (rerun.py): by the guest, by a host, by a coordinator."""

import asyncio
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec

from vfl.blocks.scratch import Scratch
from vfl.errors import ModelError
from vfl.jobs.aligned_rows import read_guest_rows
from vfl.jobs.alignments import joined_rows, load_alignment, refresh
from vfl.jobs.answers import (
    AnsweredGuestHints,
    AnsweredHostHints,
    AnsweredLabels,
    AnsweredSums,
    answered_draw,
)
from vfl.jobs.audit_draw import HostDraw, commit
from vfl.jobs.audits import draw_all
from vfl.jobs.commitments import digest_of_half, digest_of_model
from vfl.jobs.evidence import HALF
from vfl.jobs.hints import PassingGuestHints, StoredGuestHints, lock_hints
from vfl.jobs.host_columns import HostColumns
from vfl.jobs.offer import Kept
from vfl.jobs.own_table import table_of
from vfl.jobs.project_rows import Outcome, read_project_rows
from vfl.jobs.rerun import EvidenceDiffers, Rerun
from vfl.jobs.telling import tell_kept
from vfl.jobs.training import commits_to as guest_commits_to
from vfl.jobs.training import guest_columns, lead
from vfl.jobs.training_host import HostWork, host_run
from vfl.jobs.training_host import commits_to as host_commits_to
from vfl.jobs.warm_start import guest_kind, kept_kind
from vfl.learn.claims import Part
from vfl.learn.levels import tidy_levels
from vfl.models.halves import AnyGuestHalf, AnyHostHalf, GuestHalf, HostHalf
from vfl.models.kind import AnyKind, CoordinatorRun, GuestRun, PartyColumns, TrainingStep
from vfl.models.kinds import kind_of_job, load_half, rules_of
from vfl.net.peer import Peer, together
from vfl.party.project_file import Project
from vfl.protocols.common.checkpoints import Checkpoints
from vfl.protocols.common.course import NO_HINTS, UNCOUNTED
from vfl.protocols.common.label_count import OneAttempt
from vfl.protocols.common.lattice_hints import KnownHint, NoKeptHints
from vfl.protocols.common.participant import Resources


async def replay_guest(run: Rerun) -> None:
    """The guest's part of a training."""
    site, show, job = run.site, run.show, run.job
    named = load_alignment(site.store, run.offer.alignment or "")
    outcome = None
    if job.job.project is not None:
        outcome = await asyncio.to_thread(_outcome, run)
    own = await asyncio.to_thread(read_guest_rows, site, job, named, show, outcome)
    run.takes_alignment(named)
    kind = guest_kind(site, job, own)
    commits = {**guest_commits_to(own), **begun_with(run, kind, GuestHalf)}
    run.check_table(commits, own.table.path.name)
    role = kind.guest(guest_columns(site, own), own.rows)
    curve: list[dict[str, float | None]] = []

    def follow(step: TrainingStep) -> None:
        role.check_step(step)
        report = role.report(step, curve)
        curve.append(dict(report.losses))
        show.progress(f"replaying {report.what}", report.step, report.of)

    with lock_hints(site.store, named.name):
        hints = GuestHints(run, f"{named.name} {kind.name}")
        try:
            given = GuestRun(
                Resources(site.party.party.machine, Counter(), run.randomness, run.say, run.looks_at),
                follow,
                Checkpoints(run.last, run.keep),
                hints,
                coordinator=run.peers.get(kind.coordinator or ""),
                labels=AnsweredLabels(OneAttempt(), run.answers),
            )
            model, _, found = await lead(role, kind, job, own, run.hosts, given)
            await draw_all(run.hosts, run.evidence.agreement, run.randomness)
        finally:
            hints.close()
    await together([tell_kept(peer, found) for peer in run.peers.values()])
    run.answers.leaves(HALF, digest_of_model(model))


def begun_with(
    run: Rerun, kind: AnyKind, role: type[GuestHalf[Any]] | type[HostHalf[Any]]
) -> dict[str, str]:
    """What a training has committed to of the model that it goes on from: this party's half of it."""
    if (name := kind.init_model) is None:
        return {}
    store = run.site.store
    half: AnyGuestHalf | AnyHostHalf = (
        load_half(store, name, HostHalf) if role is HostHalf else load_half(store, name, GuestHalf)
    )
    run.takes_half(name, half.model)
    if HALF not in run.opening.table:  # of an earlier version
        run.relies.append(f"on the half of {name}, to which the party has not committed")
        return {}
    return {HALF: digest_of_half(store, name)}


class _AskedModel(msgspec.Struct, frozen=True):
    """What `Outcome.asked` is."""

    project: dict[str, Any]
    part: Part


def _outcome(run: Rerun) -> Outcome:
    """What a project's model was to learn of each row."""
    asked = run.asked(_AskedModel)
    project = Project.model_validate(asked.project)
    return Outcome(
        asked.part, read_project_rows(run.site, project, run.site.party.data, run.show), project
    )


async def replay_host(run: Rerun) -> None:
    """A host's part of a training."""
    site, job, offer = run.site, run.job, run.offer
    own = await host_columns(run)
    kind = kept_kind(site, job)
    commits = {**host_commits_to(own), **begun_with(run, kind, HostHalf)}
    run.check_table(commits, own.table.path.name)
    role = await asyncio.to_thread(kind.host, own.columns)
    work = HostWork(site, job, kind, offer, own.table, len(own.alignment.rows))
    given = host_run(work, run.randomness, Counter(), run.show)
    hints = AnsweredHostHints(NO_HINTS, run.answers)
    given = replace(
        given,
        participant=run.participant(given.participant),
        keep=lambda model: run.answers.leaves(HALF, digest_of_model(model)),
        checkpoints=Checkpoints(run.last, run.keep),
        hints=hints,
        sums=AnsweredSums(UNCOUNTED, run.answers),
        coordinator=run.peers.get(kind.coordinator or ""),
    )
    guest = run.peers[run.evidence.agreement.terms.guest]
    await role.train(guest, given)
    await _draw(run, guest)
    await guest.recv(Kept)


async def _draw(run: Rerun, guest: Peer) -> None:
    """A host's part of the draw whether the run is audited, if it has demanded one."""
    name, agreement = run.site.party.name, run.evidence.agreement
    if (demand := agreement.audits.get(name)) is None:
        return
    brought = answered_draw(HostDraw(demand.probability, b""), run.answers)
    if commit(agreement.terms.run, name, brought.share) != demand.commitment:
        raise EvidenceDiffers("the number that was drawn with is not the one that was committed to")
    await brought.draw(guest, name, lambda drawing: None)


async def replay_coordinator(run: Rerun) -> None:
    """A coordinator's part of a training."""
    terms, show = run.evidence.agreement.terms, run.show
    parties = [run.peers[name] for name in terms.signers]
    resources = Resources(run.site.party.party.machine, Counter(), run.randomness, run.say)

    def follow(what: str, done: int, of: int | None) -> None:
        show.progress(f"replaying {what}", done, of)

    role = kind_of_job(run.job).coordinator_role()
    await role.train(parties, CoordinatorRun(resources, follow, terms.done))
    await parties[0].recv(Kept)


async def host_columns(run: Rerun) -> HostColumns:
    """The host's columns as the run had them, whatever its policy allows by now."""
    site, offer, job = run.site, run.offer, run.job
    table, ids = await table_of(site, offer)
    scratch = Scratch(site.store.scratch(make=False))
    kept = await asyncio.to_thread(load_alignment, site.store, offer.alignment or "")
    run.takes_alignment(kept)
    alignment = await asyncio.to_thread(refresh, kept, ids, table.path.name)
    features = tidy_levels(table.take(alignment.rows))
    columns = PartyColumns(site.party.name, table.path.name, features, rules_of(site.party), scratch)
    columns = replace(columns, about=joined_rows(alignment))
    kind_of_job(job).check_rules(columns.rules, table.features, table.path.name)
    return HostColumns(table, alignment.stored(scratch), kept.digest_of_ids, columns, None)


class GuestHints:
    """The hints of a replay: those that came in the run anew, or the ones that an earlier run has kept
    and that are still there, copied. `KeptHints`."""

    def __init__(self, run: Rerun, alignment: str) -> None:
        self._run, self._alignment = run, alignment
        self._new = PassingGuestHints(run.site.store, f"replay of {run.evidence.run}")
        self._stored = StoredGuestHints(run.site.store, alignment, run.site.fingerprints)
        self._earlier: dict[str, KnownHint] = {}  # those that an earlier run has kept
        self._asked = AnsweredGuestHints(NoKeptHints(), run.answers)

    def known(self, host: str) -> KnownHint | None:
        hint = self._asked.known(host)
        if hint is not None and hint != self._new.known(host):
            self._earlier[host] = hint
        return hint

    def file(self, host: str) -> Path | None:
        """Where a hint lies. Raises ModelError for one of an earlier run that is there no more."""
        file = self._new.file(host)
        if (hint := self._earlier.pop(host, None)) is None or file is None:
            return file
        there = self._stored.file(host) if self._stored.known(host) == hint else None
        if there is None:
            raise ModelError(
                f"the run goes on with a hint of {host} that an earlier run has kept and that is there "
                "no more: it cannot be replayed"
            )
        shutil.copy(there, file)
        relies = f"on a hint of {host} that came in an earlier run"
        if relies not in self._run.relies:  # the trials of a search share it
            self._run.relies.append(relies)
        return file

    def keep(self, host: str, hint: KnownHint) -> None:
        self._new.keep(host, hint)

    def clear(self, host: str, size: int) -> None:
        self._earlier.pop(host, None)
        self._new.clear(host, size)

    def close(self) -> None:
        """Remove the copies."""
        self._new.close()
        self._stored.close()
