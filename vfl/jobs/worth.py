"""What each partner's data is worth, the guest and a host side by side: several trainings, none kept.

The job is trained on one alignment with all hosts, with all but each and with each alone, one after the
other, as `vfl train` would; the guest also trains alone. What differs is what becomes of it: halves are
dropped, hints lie where the job works and go with it, and all parties get the same figures. A host
counts each training that it takes part in as a job, and its sums as those of any other.
"""

import asyncio
import contextlib
import hashlib
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from msgspec import UNSET

from vfl.arrays import Floats, Integers, Mask
from vfl.blocks.scratch import Scratch
from vfl.crypto.randomness import Randomness
from vfl.crypto.workers import Operations
from vfl.errors import ConfigError, DataError, ModelError, Refused
from vfl.jobs.account import Account
from vfl.jobs.admission import accept, check_request, matching_of
from vfl.jobs.agreement import check_aligned, offer_to
from vfl.jobs.aligned_rows import GuestRows, read_guest_rows
from vfl.jobs.alignments import Alignment, count_known_rows, guest_alignment
from vfl.jobs.answers import AnsweredLabels, AnsweredSums
from vfl.jobs.approval import approve
from vfl.jobs.commitments import TableDigests, digest_table
from vfl.jobs.connect import Site, hosts_of
from vfl.jobs.drawn_rows import StoredDraws
from vfl.jobs.evidence import Keeping, keeping
from vfl.jobs.hints import PassingGuestHints, PassingHostHints
from vfl.jobs.host_columns import HostColumns, read_host_columns
from vfl.jobs.labels_given import LabelsGiven
from vfl.jobs.memory import release_memory
from vfl.jobs.names import JOB_LENGTH
from vfl.jobs.offer import Kept, Offer, new_run, stamp
from vfl.jobs.own_table import ids_of, say_uses
from vfl.jobs.page_folder import check_folder, is_page, write_folder
from vfl.jobs.record import Evaluation, now
from vfl.jobs.report_columns import present_premium
from vfl.jobs.show import Show
from vfl.jobs.storage import in_store
from vfl.jobs.sums_given import training_share
from vfl.jobs.training import commits_to as guest_commits_to
from vfl.jobs.training import guest_columns
from vfl.jobs.training_host import commits_to as host_commits_to
from vfl.learn.losses import BadLabel
from vfl.learn.worth import Hosts, JudgedRows, WorthLine, subsets, worth_lines
from vfl.models.kind import (
    AnyGuestModel,
    AnyHostModel,
    AnyKind,
    GuestRole,
    GuestRun,
    HostRole,
    HostRun,
    TrainingStep,
)
from vfl.models.kinds import kind_of_job
from vfl.net.peer import Peer, together
from vfl.party.config import Job
from vfl.party.kept_query import KeptQuery
from vfl.party.output import OutputPlace
from vfl.party.policy import check_intersection, check_worth, today
from vfl.party.table import Wanted, read_wanted
from vfl.protocols.common.checkpoints import to_the_end
from vfl.protocols.common.course import UNCOUNTED, SumsCount
from vfl.protocols.common.label_count import LabelCount
from vfl.protocols.common.lattice_hints import KeptHints
from vfl.protocols.common.participant import Resources
from vfl.protocols.worth import WorthFigure, WorthFigures, hear_worth, tell_worth
from vfl.report.worth import WORTH_PAGE, WORTH_SHEET, WorthOf
from vfl.text import counted
from vfl.version import __version__

_SAMPLE = 3  # the stream of draws from which the rows of a sample come


@dataclass(frozen=True)
class Worth:
    """What came of it."""

    of: WorthOf
    alignment: str
    page: Path
    replaced: bool  # whether an earlier one was there
    no_premium: str  # why there is no loss ratio, in a sentence, if a present premium is named
    account: Account


class Beside(NamedTuple):
    """Of the rows held out: the policy each is of, and its present premium, if there is any."""

    policy: Integers
    premium: Floats | None
    no_premium: str


@in_store
async def worth(
    site: Site,
    job: Job,
    *,
    alignment: str | None = None,
    rows: int | None = None,
    out: Path | None = None,
    force: bool = False,
    wait: float,
    show: Show,
) -> Worth:
    """Find out what the data of each host of an alignment is worth to a job, and write the page.

    rows: of the aligned ones, drawn, if not all. Raises ConfigError for a job that has no such figures,
    DataError and ModelError for what the guest brings or a folder that cannot be written, and what
    sessions raise.
    """
    started, party = time.monotonic(), site.party
    job = _judged(job)
    folder = (out or Path(f"worth-{job.name}")).absolute()
    check_folder(folder, (WORTH_PAGE, WORTH_SHEET), "such a page")
    target = OutputPlace.of(
        folder, "worth", party=party, is_former=lambda path: is_page(path / WORTH_PAGE), force=force
    )
    say_uses(show, party.data, job.uses(party.data))
    named = guest_alignment(site, site.store, alignment)
    if named.join != "inner":
        raise ModelError(
            f"alignment {named.name} has rows that a partner does not know (a left join): `vfl worth` "
            "compares rows that all know, so run `vfl align --join inner`"
        )
    site.activity.tell(party.partners, [named.name])
    own = await asyncio.to_thread(read_guest_rows, site, job, named, show)
    own = sample_of(own, job, rows)
    _check_parts(own)
    beside = await asyncio.to_thread(read_beside, site, job, own)
    if beside.no_premium:
        show.say(f"note: {beside.no_premium}")
    names = [name for name in party.partners if name in own.aligned.parties]
    operations: Operations = Counter()
    async with hosts_of(site, wait, show, names) as hosts:
        work = await GuestWorth.of(site, job, own, beside, show)
        with (
            keeping(site, show, lambda: commits_to(own, beside)) as kept,
            contextlib.ExitStack() as ends,
        ):
            offer = await _offer(site, job, own, hosts, kept, show)
            kept.answers.ask("rows that are drawn", int | None, lambda: rows)
            resources = Resources(
                party.party.machine, operations, kept.randomness_of(offer.run), kept.say
            )
            hints = PassingGuestHints(site.store, offer.run.hex())
            ends.callback(hints.close)
            labels = AnsweredLabels(LabelsGiven.of(site.store, named.name, job), kept.answers)
            told = await work.find(hosts, resources, hints, labels)
        account = Account.of(started, hosts, operations)
    of = WorthOf(
        party=party.name,
        guest=party.name,
        hosts=names,
        job=job.name,
        purpose=job.job.purpose,
        kind=kind_of_job(job).title,
        ended=now(),
        version=__version__,
        told=told,
    )
    files = _files_of(of)
    replaced = target.check()
    target.note({name: hashlib.sha256(content).hexdigest() for name, content in files.items()})
    write_folder(target.place, files)
    return Worth(of, own.aligned.name, folder / WORTH_PAGE, replaced, beside.no_premium, account)


def commits_to(own: GuestRows, beside: Beside) -> TableDigests:
    """What the run has of the guest's table, for its commitment."""
    of_rows = dict(guest_commits_to(own))
    rows = np.array([own.table.rows])
    exposure = own.rows.exposure
    return of_rows | digest_table(
        {},
        exposure=exposure,
        policies=beside.policy,
        premium=beside.premium,
        **{"number of rows": rows},
    )


def _judged(job: Job) -> Job:
    """The job as it is trained here. Raises ConfigError for one that has no such figures."""
    why = None
    if job.over_rows:
        why = 'with partition = "rows" no party brings columns: `vfl worth` is for partition = "columns"'
    elif (name := kind_of_job(job).coordinator) is not None:
        why = (
            f"`vfl worth` trains without a coordinator: take coordinator = {name!r} out, with the "
            "hidden sums or scores that need it"
        )
    elif job.loss.classes > 1:
        why = "`vfl worth` compares one prediction of each row: it is not for multiclass"
    elif kind_of_job(job).init_model is not None:
        why = "`vfl worth` compares models that begin anew: take init_model out"
    elif job.glm.across:
        why = (
            "`vfl worth` trains with some of the hosts alone, where pairs with another have no meaning: "
            "take across out of [glm]"
        )
    elif not job.job.holdout:
        why = "`vfl worth` compares models on rows held out: set holdout above 0 in [job]"
    if why is not None:
        raise ConfigError(why)
    if not job.glm.inference:
        return job
    # Nobody reads coefficients here.
    return job.model_copy(update={"glm": job.glm.model_copy(update={"inference": False})})


def sample_of(own: GuestRows, job: Job, rows: int | None) -> GuestRows:
    """Without the rows that are not drawn, if not all are: these train nothing and are held out of
    nothing."""
    count = len(own.aligned.rows)
    if rows is None or rows >= count:
        return own
    rng = np.random.default_rng([kind_of_job(job).seed, _SAMPLE])
    chosen = np.zeros(count, np.bool_)
    chosen[rng.choice(count, rows, replace=False)] = True
    train, validation = own.rows.train & chosen, own.rows.validation & chosen
    parts = replace(own.rows, train=train, validation=validation)
    return replace(own, rows=parts, held_out=own.held_out & chosen)


def _check_parts(own: GuestRows) -> None:
    """Raises DataError for rows that train or are held out which cannot."""
    rows = own.rows
    validation = rows.validation if rows.validation.any() else None
    for mask, what in ((rows.train, "train on"), (validation, "stop by"), (own.held_out, "compare on")):
        if mask is None:
            continue
        why = None
        try:
            if mask.any():
                rows.loss.check(rows.label[mask])
            else:
                why = "there is none"
        except BadLabel as error:
            why = f"the label {error}"
        if why is not None:
            raise DataError(
                f"{own.table.path.name}: of the {counted(int(mask.sum()), 'aligned row')} to {what}, "
                f"{why}: take more --rows, or another holdout in [job]",
                for_peer="too few aligned rows, or all with the same label",
            )


def read_beside(site: Site, job: Job, own: GuestRows) -> Beside:
    """Policies and present premiums of the rows held out. Raises DataError and ConfigError."""
    party, data = site.party, site.party.data
    scratch = Scratch(site.store.scratch(make=False))
    unread: dict[str, object] = dict.fromkeys(("label", "weight", "exposure", "offset"))
    further = [name for name in (data.current_premium,) if name is not None]
    if further and data.premium_per_exposure and data.exposure is not None:
        further.append(data.exposure)
    wanted = Wanted("guest", False, expect=further, needed=(), scratch=scratch)
    table = read_wanted(data.model_copy(update=unread), wanted)
    ids = ids_of(table, data, scratch)
    if ids.digest != own.ids:
        raise DataError(f"{table.path.name} was changed while it was read: run the command again")
    rows = own.aligned.rows[own.held_out]
    policy = np.asarray(ids.entities[rows], np.int64)
    del ids
    release_memory(table.rows)
    label, weight = own.rows.label[own.held_out], own.rows.weight[own.held_out]
    held = Evaluation(rows, label, weight, _held(own.rows.exposure, own.held_out), {})
    model = tuple(own.table.features), job.objective
    premium, why = present_premium(party, model, table, table.take(rows), held)
    return Beside(policy, premium, why)


def _held(values: Floats | None, held_out: Mask) -> Floats | None:
    return None if values is None else values[held_out]


def _figures(
    own: GuestRows, beside: Beside, scores: Mapping[Hosts, Floats], hosts: Sequence[str]
) -> WorthFigures:
    """What the page says."""
    rows, held_out = own.rows, own.held_out
    judged = JudgedRows(
        rows.label[held_out],
        np.asarray(rows.weight[held_out]),
        _held(rows.offset, held_out),
        _held(rows.exposure, held_out),
        beside.premium,
        beside.policy,
    )
    lines, resamples = worth_lines(rows.loss, judged, scores, hosts)
    return WorthFigures(
        own.table.rows,
        len(own.aligned.rows),
        int(rows.train.sum()),
        int(held_out.sum()),
        resamples.policies,
        resamples.draws,
        [figure for line in lines for figure in _wire(line, hosts)],
    )


def _wire(line: WorthLine, hosts: Sequence[str]) -> list[WorthFigure]:
    places = [hosts.index(name) for name in line.hosts]
    return [
        WorthFigure(
            line.sense, places, name, *((one.value, one.low, one.high) if one.known else one[:1])
        )
        for name, one in line.figures.items()
    ]


@dataclass(frozen=True)
class GuestWorth:
    """The guest's part after the agreement, in a job and in its replay."""

    job: Job
    own: GuestRows
    beside: Beside
    role: GuestRole[AnyGuestModel]
    show: Show

    @classmethod
    async def of(cls, site: Site, job: Job, own: GuestRows, beside: Beside, show: Show) -> "GuestWorth":
        """Raises NothingTrained for rows that can teach nothing."""
        role = await asyncio.to_thread(kind_of_job(job).guest, guest_columns(site, own), own.rows)
        release_memory(own.table.rows)
        role.check_rows()
        return cls(job, own, beside, role, show)

    async def find(
        self,
        hosts: Sequence[Peer],
        resources: Resources,
        hints: KeptHints,
        labels: LabelCount,
    ) -> WorthFigures:
        """Train with all sets of hosts; what that comes to, of which all of them hear."""
        names = [host.name for host in hosts]
        sets, held_out = subsets(names), self.own.held_out
        scores: dict[Hosts, Floats] = {(): (await self.role.train_alone())[held_out]}
        for number, some in enumerate(sets, 1):
            members = [host for host in hosts if host.name in some]
            run = GuestRun(
                resources.part("training", *some),
                partial(self._follow, f"model {number} of {len(sets)}: "),
                hints=hints,
                hint_progress=lambda done, of: self.show.progress("receiving hints", done, of),
                labels=labels,
            )
            _, score = await self.role.train(members, run)
            scores[some] = score[held_out]
        told = await asyncio.to_thread(_figures, self.own, self.beside, scores, names)
        await tell_worth(hosts, told)
        await together([host.recv(Kept) for host in hosts])
        return told

    def _follow(self, which: str, step: TrainingStep) -> None:
        what, done, of = kind_of_job(self.job).news(step)
        self.show.progress(which + what, done, of)


async def _offer(
    site: Site, job: Job, own: GuestRows, hosts: Sequence[Peer], kept: Keeping, show: Show
) -> Offer:
    """Agree with the hosts. Raises PeerError for another alignment, and what sessions raise."""
    aligned, query = own.aligned, KeptQuery.of(site.party.data)
    offer = Offer(
        "worth",
        new_run(),
        [host.name for host in hosts],
        list(aligned.normalise),
        alignment=aligned.name,
        job=job.canonical,
        training=int(own.rows.train.sum()),
        matching=matching_of(site.party.data, join=aligned.join, many=aligned.many),
        query=UNSET if query is None else query.digest,
        commitment=kept.commitment or UNSET,
    )
    answers, agreement = await offer_to(site, hosts, offer, show)
    kept.agreed(agreement, offer.job, hosts)
    check_aligned(hosts, answers, aligned.name, len(aligned.rows))
    return offer


# ---------------------------------------------------------------------------------------- host

Given = Callable[[HostRun[AnyHostModel], int], HostRun[AnyHostModel]]
"""What a training works with beside, of which this is the number from 0."""


async def serve_worth(site: Site, peer: Peer, offer: Offer, show: Show) -> str:
    """Train with all sets of hosts that this one is in, drop its halves, keep the page."""
    party = site.party
    job = await asyncio.to_thread(Job.from_canonical, offer.job)
    what = f"find out what data is worth to {job.name} ({job.job.purpose})"
    check_request(site, peer, offer, show, what)
    check_worth(party.policy, job, peer.name, today())
    _check_judged(job)
    own = await read_host_columns(site, peer, offer, job)
    if (own.alignment.rows < 0).any():
        raise Refused(f"alignment {own.alignment.name} has rows that a host does not know")
    release_memory(own.table.rows)
    commits: TableDigests = {}
    if party.party.tape != "none":
        commits = await asyncio.to_thread(host_commits_to, own)
    work = await HostWorth.of(site, job, offer, own, show)
    own = replace(own, columns=replace(own.columns, features={}))  # the role has what it needs of them
    trainings, rows = len(work.sets), len(own.alignment.rows)
    approved = await approve(site, peer, offer, show, own.brought(job, trainings))
    async with contextlib.AsyncExitStack() as ends:
        kept = ends.enter_context(keeping(site, show, lambda: commits))
        budgets = await _reserve_sums(site, peer, offer, job, own, trainings, ends)
        agreement = await accept(
            site, peer, offer, rows, KeptQuery.of(party.data), trainings, approved, kept.commitment
        )
        kept.agreed(agreement, offer.job, [peer])
        randomness = kept.randomness_of(offer.run)

        def given(run: HostRun[AnyHostModel], number: int) -> HostRun[AnyHostModel]:
            return replace(
                run,
                participant=run.participant.asking(kept.sign(site.identity.sign), kept.say),
                draws=StoredDraws(site.store, own.alignment.name),
                sums=AnsweredSums(budgets[number], kept.answers),
                admit=partial(_admit, site, own.alignment),
            )

        await work.train(peer, randomness, given)
        told = await hear_worth(peer, offer.hosts, rows)
        await _tell_kept(site, peer, offer, job, told, show)
    return f"told by {peer.name} what data is worth to {job.name}"


async def _tell_kept(
    site: Site, peer: Peer, offer: Offer, job: Job, told: WorthFigures, show: Show
) -> None:
    """Keep the page, and tell the guest that it is kept."""
    page = f"{job.name[:JOB_LENGTH]}-{stamp(offer.run)}"
    of = WorthOf(
        party=site.party.name,
        guest=peer.name,
        hosts=offer.hosts,
        job=job.name,
        purpose=job.job.purpose,
        kind=kind_of_job(job).title,
        ended=now(),
        version=__version__,
        told=told,
        sheet=f"{page}.csv",
    )
    path = await asyncio.to_thread(_keep_page, site, page, of)
    await peer.send(Kept())
    show.say(f"what data is worth to {job.name} is in {path}")


@dataclass(frozen=True)
class HostWorth:
    """The trainings of a host, in a job and in its replay."""

    site: Site
    kind: AnyKind
    offer: Offer
    job: str  # its name
    role: HostRole[AnyHostModel]
    rows: int  # aligned
    shown: Mapping[str, str]  # by column, the name under which the guest sees it
    show: Show

    @classmethod
    async def of(cls, site: Site, job: Job, offer: Offer, own: HostColumns, show: Show) -> "HostWorth":
        kind, name = kind_of_job(job), site.party.name
        role = await asyncio.to_thread(kind.host, own.columns)
        shown = {column: f"{name}:{place}" for place, column in enumerate(own.table.features, 1)}
        return cls(site, kind, offer, job.name, role, len(own.alignment.rows), shown, show)

    @property
    def sets(self) -> list[Hosts]:
        """The hosts of each training of which this one is."""
        return [some for some in subsets(self.offer.hosts) if self.site.party.name in some]

    async def train(self, guest: Peer, randomness: Randomness, given: Given) -> None:
        """All of them, one after the other."""
        site, sets, operations = self.site, self.sets, Counter[str]()
        minimum, hints = self.kind.least_rows(site.party.policy), PassingHostHints()
        for number, some in enumerate(sets):
            # Secrets among hosts are of one training.
            context = hashlib.sha256(b"worth" + self.offer.run + "\n".join(some).encode()).digest()
            own = site.participant(some, context, minimum, operations, randomness)
            run = HostRun[AnyHostModel](
                own.part("training", *some),
                self.rows,
                _drop,
                job=f"model {number + 1} of {len(sets)} of {self.job}",
                progress=self.show.progress,
                hints=hints,
                hint_progress=lambda done, of: self.show.progress("making a hint", done, of),
                shown=self.shown.__getitem__,
            )
            await self.role.train(guest, given(run, number))


def _drop(half: AnyHostModel) -> None:
    """Nothing is kept of a training that finds out what data is worth."""


def _check_judged(job: Job) -> None:
    """Raises Refused for a job that has no such figures here, or tells more than they need."""
    try:
        judged = _judged(job)
    except ConfigError as error:
        raise Refused(str(error)) from None
    if judged is not job:
        raise Refused("inference = true in [glm] is about coefficients, of which none is kept")


def _admit(site: Site, alignment: Alignment, training: Mask) -> None:
    known = count_known_rows(alignment.rows[training])
    check_intersection(site.party.policy, known, most=False)


async def _reserve_sums(
    site: Site,
    peer: Peer,
    offer: Offer,
    job: Job,
    own: HostColumns,
    trainings: int,
    ends: contextlib.AsyncExitStack,
) -> list[SumsCount]:
    """Reserve what all trainings may tell, before the first, until `ends`. Raises Refused."""
    told, given = kind_of_job(job).tells_sums, own.given
    if told is None or given is None:
        return [UNCOUNTED] * trainings
    share = training_share(peer, offer, own.alignment, job)
    names = [f"{job.name[:JOB_LENGTH]}-{stamp(offer.run)}-{n}" for n in range(1, trainings + 1)]
    budgets: list[SumsCount] = []

    def reserve() -> None:
        for name in names:
            budget = given.reserve(site.party.policy, name, told, share)
            ends.callback(budget.close)
            budgets.append(budget)

    await to_the_end(reserve)
    return budgets


def _keep_page(site: Site, name: str, of: WorthOf) -> Path:
    """Write the page into the store, for this party's people."""
    files = _files_of(of)
    site.store.write_beside("worth", name, "csv", files[of.sheet])
    return site.store.write_beside("worth", name, "html", files[WORTH_PAGE])


def _files_of(of: WorthOf) -> dict[str, bytes]:
    from vfl.report.worth_page import worth_files  # its figures take a second to import

    return worth_files(of)
