"""Columns of all parties screened before a training: how strong each is by itself, how inflated.

Of the rows that train, by the job's own holdout: what is held out stays unseen. The guest knows figures
of its own columns and of hosts' as their policies allow; each host of its own. What a host's columns are
inflated by it alone knows (protocols/linear/inflation.py). Which columns are left out is up to the
owner of each: a host finds lines for its party file in its store, the guest is shown its own.
"""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
from msgspec import UNSET
from numpy.typing import NDArray

from vfl.crypto.workers import Operations
from vfl.errors import ConfigError, DataError
from vfl.jobs.account import Account
from vfl.jobs.admission import matching_of
from vfl.jobs.agreement import check_aligned, offer_to
from vfl.jobs.aligned_rows import GuestRows, read_guest_rows
from vfl.jobs.alignments import guest_alignment
from vfl.jobs.commitments import TableDigests, digest_table
from vfl.jobs.connect import Site, hosts_of
from vfl.jobs.evidence import Keeping, keeping
from vfl.jobs.offer import Kept, Offer, new_run
from vfl.jobs.own_table import say_uses
from vfl.jobs.screening_advice import Outcome, file_lines
from vfl.jobs.screening_host import AskedScreen, ScreenJob
from vfl.jobs.show import Show
from vfl.jobs.storage import in_store
from vfl.jobs.training import commits_to as commits_to_training
from vfl.learn.advice import Thresholds
from vfl.learn.association import Associated
from vfl.learn.binning import Features
from vfl.learn.cells import Factor, column_of, counts_of, factor_of, grouped_values
from vfl.learn.inference import Inference
from vfl.learn.inflation import InflationDesign
from vfl.learn.screening import Everything
from vfl.net.peer import Peer, together
from vfl.party.config import Job
from vfl.party.linear_rules import GlmSection
from vfl.protocols.common.participant import Resources
from vfl.protocols.linear.correlations import Told, guest_correlations
from vfl.protocols.linear.inflation import guest_inflation
from vfl.protocols.oneway.screening import (
    Numbers,
    Screened,
    ScreenedHost,
    Whole,
    guest_screen,
    screened_here,
)
from vfl.text import counted


@dataclass(frozen=True)
class Screening:
    """What the guest knows.

    own: of its own columns, with their tables. hosts: by name, what it knows of theirs. rows: that were
    screened. lines: for [data] of its party file.
    """

    job: str
    own: Outcome
    own_tables: list[Screened]
    hosts: dict[str, ScreenedHost]
    rows: int
    lines: list[str]
    inflation: bool  # whether it was found out
    alike: list[str]  # hosts with columns that may make up some of the guest's
    correlations: list[Told]
    alignment: str
    account: Account


@in_store
async def screen(
    site: Site, job: Job, *, alignment: str | None = None, wait: float, show: Show
) -> Screening:
    """Screen the columns of all parties of an alignment for a job.

    Raises ConfigError for a job that nothing can be screened for, DataError and ModelError for what the
    guest brings, and what sessions raise.
    """
    started, party, settings = time.monotonic(), site.party, job.screen
    _check(job)
    say_uses(show, party.data, job.uses(party.data))
    named = guest_alignment(site, site.store, alignment)
    names = [name for name in party.partners if name in named.parties]
    site.activity.tell(names, [named.name])
    own = await asyncio.to_thread(read_guest_rows, site, job, named, show)
    work = await asyncio.to_thread(GuestScreening.of, site, own)
    operations = Operations()
    asked = msgspec.to_builtins(AskedByGuest(job.model_dump(mode="json", exclude_unset=True)))
    async with hosts_of(site, wait, show, names) as hosts:
        with keeping(site, show, lambda: commits_to(own), asked) as kept:
            run = await _offer(site, hosts, own, job, show, kept)
            randomness = kept.randomness_of(run)
            resources = Resources(party.party.machine, operations, randomness, kept.say)
            screened = await work.screen(hosts, job, resources, show)
        account = Account.of(started, hosts, operations)
    thresholds = Thresholds(settings.min_iv, settings.max_vif)
    strengths = {one.name: one.strength for one in work.tables}
    inferred = screened.inferred
    outcome = Outcome.of(thresholds, strengths, screened.design, inferred, joint=False)
    return Screening(
        job.name,
        outcome,
        work.tables,
        dict(zip(names, screened.found, strict=True)),
        work.numbers.rows,
        file_lines(party.data, outcome.reasons),
        inferred is not None,
        sorted({name for alias in inferred.aliases for name in alias.parties}) if inferred else [],
        screened.correlated,
        own.aligned.name,
        account,
    )


def _check(job: Job) -> None:
    """Raises ConfigError for a job that nothing can be screened for."""
    if job.over_rows:
        raise ConfigError(
            'with partition = "rows" no party brings columns: `vfl screen` is for partition = "columns"'
        )
    if job.objective in ("quantile", "multiclass"):
        raise ConfigError(
            f"columns are screened for the mean of a label: name another objective than {job.objective}"
        )


class AskedByGuest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a person asks for, of which hosts are told a part: for the commitment, and the replay."""

    job: dict[str, Any]  # the job file


def commits_to(own: GuestRows) -> TableDigests:
    """What a screening has of the guest's table, for its commitment."""
    return {**commits_to_training(own), **digest_table({}, exposure=own.rows.exposure)}


def asked_of_hosts(job: Job) -> AskedScreen:
    """What hosts are asked for by a job."""
    settings = job.screen
    return AskedScreen(
        ScreenJob(job.job.purpose, job.name),
        job.objective,
        job.params.tweedie_power,
        job.linear.theta,
        settings.min_iv,
        settings.max_vif,
        settings.vif,
        settings.tell_hosts,
        settings.encryption,
        settings.correlations,
        settings.max_leverage,
    )


async def _offer(
    site: Site, hosts: Sequence[Peer], own: GuestRows, job: Job, show: Show, kept: Keeping
) -> bytes:
    """Agree with the hosts on a run. Raises PeerError for another alignment, and what sessions raise."""
    aligned = own.aligned
    offer = Offer(
        "screen",
        new_run(),
        [host.name for host in hosts],
        list(aligned.normalise),
        alignment=aligned.name,
        job=asked_of_hosts(job).canonical,
        matching=matching_of(site.party.data, join=aligned.join, many=aligned.many),
        commitment=kept.commitment or UNSET,
    )
    answers, agreement = await offer_to(site, hosts, offer, show)
    kept.agreed(agreement, offer.job, hosts)
    check_aligned(hosts, answers, aligned.name, len(aligned.rows))
    return offer.run


@dataclass(frozen=True)
class _Found:
    """What the guest has learnt from hosts and with them. found: by host."""

    found: list[ScreenedHost]
    design: InflationDesign | None
    inferred: Inference | None
    correlated: list[Told]


@dataclass(frozen=True)
class GuestScreening:
    """The guest's rows that train: its numbers, and its own columns by itself."""

    site: Site
    own: GuestRows
    features: Features  # of all aligned rows
    rules: GlmSection
    numbers: Numbers
    everything: Everything
    tables: list[Screened]

    @classmethod
    def of(cls, site: Site, own: GuestRows) -> "GuestScreening":
        """Raises DataError for numbers that nothing can be told apart by."""
        rows, train, table = own.rows, own.rows.train, own.table.path.name
        weight, label = np.asarray(rows.weight[train]), rows.label[train]
        exposure = weight if rows.exposure is None else weight * rows.exposure[train]
        actual = weight * label
        everything = Everything.of(rows.loss, exposure, actual)
        if not everything.deviance > 0:
            raise DataError(
                f"{table}: in the {counted(int(train.sum()), 'row')} that train all labels are the "
                "same: no column could be of use",
                for_peer="all labels of the rows that train are the same",
            )
        try:
            numbers = Numbers.of(exposure, actual)
        except ValueError as error:
            raise DataError(f"{table}: label, exposure or weight: {error}") from None
        features, whole = own.features, Whole.of(everything, numbers)
        rules, tables = site.party.glm, []
        for name, values in features.items():
            factor = _levels_of(name, values[train], rules)
            tables.append(screened_here(name, factor, numbers, whole))
        return cls(site, own, features, rules, numbers, everything, tables)

    async def screen(self, hosts: Sequence[Peer], job: Job, resources: Resources, show: Show) -> _Found:
        """The part after the agreement, in a job and in its replay."""
        settings, train = job.screen, self.own.rows.train
        chosen = None if train.all() else train
        given = self.numbers, self.everything, settings.tell_hosts, resources
        found = await together([guest_screen(host, chosen, *given) for host in hosts])
        design, inferred = None, None
        if settings.vif:
            design, inferred = await self.inflation(hosts, settings.max_leverage, resources, show)
        correlated: list[Told] = []
        if settings.correlations:
            correlated = await self.correlations(hosts, resources, show)
        await together([host.recv(Kept) for host in hosts])
        return _Found(found, design, inferred, correlated)

    async def inflation(
        self, hosts: Sequence[Peer], most: float, resources: Resources, show: Show
    ) -> tuple[InflationDesign, Inference | None]:
        """The guest's part of variance inflation."""
        train, least = self.own.rows.train, self.rules.min_level_rows
        given = self.features, train, least, most, self.own.rows.about
        design, whole = await asyncio.to_thread(InflationDesign.of, *given)
        found = await guest_inflation(
            hosts,
            train,
            whole.take(train),
            resources,
            lambda done, of: show.progress("variance inflation, %", done, of),
        )
        if found is None:
            show.say("note: no variance inflation: hosts have no columns for it, or all have too many")
        return design, found

    async def correlations(self, hosts: Sequence[Peer], resources: Resources, show: Show) -> list[Told]:
        """The guest's part of correlations."""
        train = self.own.rows.train
        of_rows = {name: values[train] for name, values in self.features.items()}
        turn = resources.randomness.at("turned columns")
        own = await asyncio.to_thread(Associated.of, of_rows, self.rules.min_level_rows, turn)
        for why in own.left_out.values():
            show.say(f"note: no correlations: {why}")
        name = self.site.party.name
        return await guest_correlations(hosts, name, own, int(train.sum()), resources)


def _levels_of(name: str, values: NDArray[np.generic], rules: GlmSection) -> Factor:
    """A column of the guest's as the levels by which it is screened, of any number of rows."""
    grouped = grouped_values(values, rules.group.get(name, {}))
    factor = factor_of(column_of(name, grouped, rules.bins, 1, rules.bands.get(name, ())), grouped)
    return factor.grouped(counts_of(factor.codes, len(factor.levels)), 1)
