"""Tables by factors and screenings played again (rerun.py): by the guest, by a host."""

import asyncio

import msgspec

from vfl.crypto.workers import Operations
from vfl.jobs.aligned_rows import read_guest_rows
from vfl.jobs.alignments import Alignment, load_alignment, refresh
from vfl.jobs.commitments import digest_table
from vfl.jobs.offer import Kept
from vfl.jobs.oneway import AskedByGuest, TableRequest, ask_hosts, read_table_rows
from vfl.jobs.oneway_host import AskedTable, HostTable, columns_of, table_work, tell_table
from vfl.jobs.own_table import table_of
from vfl.jobs.rerun import EvidenceDiffers, Rerun
from vfl.jobs.screening import AskedByGuest as AskedScreening
from vfl.jobs.screening import GuestScreening, asked_of_hosts, commits_to
from vfl.jobs.screening_host import (
    AskedScreen,
    HostScreening,
    ScreenedColumns,
    screened_columns,
)
from vfl.learn.binning import Features
from vfl.net.peer import Peer
from vfl.party.config import Job
from vfl.protocols.common.participant import Participant, Resources


async def replay_table_guest(run: Rerun) -> None:
    """The guest's part of a table by factors."""
    site, offer, asked = run.site, run.offer, run.asked(AskedByGuest)
    signed = msgspec.json.decode(offer.job, type=AskedTable)
    of_hosts = signed.encryption, signed.job.purpose
    request = TableRequest(tuple(asked.by), offer.model, offer.alignment, *of_hosts, asked.share)
    _check_job(run, request.asked(offer.hosts).canonical)

    def find(name: str | None) -> Alignment:
        run.takes_alignment(found := load_alignment(site.store, name or ""))
        return found

    rows = await asyncio.to_thread(read_table_rows, site, request, find)
    run.check_table(rows.commits_to, site.party.data.named.name)
    if rows.model is not None:
        run.relies.append(f"on what {rows.model} expects of rows that were held out of its training")
    await ask_hosts(site, run.hosts, rows, request, _resources(run))


async def replay_table_host(run: Rerun) -> None:
    """A host's part of a table by factors."""
    site, offer = run.site, run.offer
    asked = msgspec.json.decode(offer.job, type=AskedTable)
    columns = await asyncio.to_thread(columns_of, site, asked.at(site.party.name, offer.hosts))
    work, _ = await _work(run, columns, columns)
    await tell_table(_guest(run), work, asked, _participant(run, 1), run.show)


async def replay_screening_guest(run: Rerun) -> None:
    """The guest's part of a screening."""
    site, offer, show = run.site, run.offer, run.show
    job = Job.model_validate(run.asked(AskedScreening).job)
    _check_job(run, asked_of_hosts(job).canonical)
    named = load_alignment(site.store, offer.alignment or "")
    run.takes_alignment(named)
    own = await asyncio.to_thread(read_guest_rows, site, job, named, show)
    run.check_table(commits_to(own), own.table.path.name)
    work = await asyncio.to_thread(GuestScreening.of, site, own)
    await work.screen(run.hosts, job, _resources(run), show)


async def replay_screening_host(run: Rerun) -> None:
    """A host's part of a screening."""
    site, asked = run.site, msgspec.json.decode(run.offer.job, type=AskedScreen)
    columns, tables = await asyncio.to_thread(screened_columns, site, asked.tell_hosts)
    work, features = await _work(run, [*columns], None)
    participant = _participant(run, site.party.policy.min_intersection)
    screened = ScreenedColumns(work, columns, tables)
    guest = _guest(run)
    await HostScreening(asked, screened, features, participant, run.show).screen(guest)
    await guest.send(Kept())


async def _work(run: Rerun, columns: list[str], expect: list[str] | None) -> tuple[HostTable, Features]:
    """The host's rows, held against the commitment; `expect`: columns that are read, None for all."""
    site, offer = run.site, run.offer
    table, ids = await table_of(site, offer, expect=expect)
    kept = await asyncio.to_thread(load_alignment, site.store, offer.alignment or "")
    run.takes_alignment(kept)
    alignment = await asyncio.to_thread(refresh, kept, ids, table.path.name)
    digest, alignment = alignment.digest_of_ids, alignment.without_ids
    work, features = await asyncio.to_thread(table_work, site, table, alignment, columns)
    run.check_table(digest_table(features, ids=digest), table.path.name)
    work.answers, work.replayed = run.answers, True
    return work, features


def _check_job(run: Rerun, canonical: bytes) -> None:
    """Raises EvidenceDiffers unless this is what all have signed."""
    if canonical != run.offer.job:
        raise EvidenceDiffers("what was asked for is not the job that was signed")


def _resources(run: Rerun) -> Resources:
    machine = run.site.party.party.machine
    return Resources(machine, Operations(), run.randomness, run.say)


def _participant(run: Rerun, minimum: int) -> Participant:
    offer = run.offer
    made = run.site.participant(offer.hosts, offer.run, minimum, Operations(), run.randomness)
    return made.asking(run.sign, run.say).uncounted


def _guest(run: Rerun) -> Peer:
    return run.peers[run.evidence.agreement.terms.guest]
