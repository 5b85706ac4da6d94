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
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from msgspec import UNSET

from vfl.arrays import Floats, Integers, Mask
from vfl.blocks.scratch import Scratch
from vfl.crypto.workers import Operations
from vfl.errors import ConfigError, DataError, ModelError, Refused
from vfl.jobs.account import Account
from vfl.jobs.admission import accept, check_request, matching_of
from vfl.jobs.agreement import check_aligned, offer_to
from vfl.jobs.aligned_rows import GuestRows, read_guest_rows
from vfl.jobs.alignments import Alignment, count_known_rows, guest_alignment
from vfl.jobs.approval import approve
from vfl.jobs.connect import Site, hosts_of
from vfl.jobs.drawn_rows import StoredDraws
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
from vfl.learn.losses import BadLabel
from vfl.learn.worth import Hosts, JudgedRows, WorthLine, subsets, worth_lines
from vfl.models.kind import AnyHostModel, GuestRun, HostRun, PartyColumns, TrainingStep
from vfl.models.kinds import kind_of_job, rules_of
from vfl.net.peer import Peer, together
from vfl.party.config import Job
from vfl.party.kept_query import KeptQuery
from vfl.party.output import OutputPlace
from vfl.party.policy import check_intersection, check_worth, today
from vfl.party.table import Wanted, read_wanted
from vfl.protocols.common.checkpoints import to_the_end
from vfl.protocols.common.course import UNCOUNTED, SumsCount
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


class _Beside(NamedTuple):
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
    if rows is not None:
        own = _sample(own, job, rows)
    _check_parts(own)
    beside = await asyncio.to_thread(_read_beside, site, job, own)
    if beside.no_premium:
        show.say(f"note: {beside.no_premium}")
    work = _GuestWork(site, job, own, show)
    names = [name for name in party.partners if name in own.aligned.parties]
    operations: Operations = Counter()
    async with hosts_of(site, wait, show, names) as hosts:
        scores = await work.train(hosts, operations)
        told = await asyncio.to_thread(_figures, own, beside, scores, names)
        await tell_worth(hosts, told)
        await together([host.recv(Kept) for host in hosts])
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


def _sample(own: GuestRows, job: Job, rows: int) -> GuestRows:
    """Without the rows that are not drawn: these train nothing and are held out of nothing."""
    count = len(own.aligned.rows)
    if rows >= count:
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


def _read_beside(site: Site, job: Job, own: GuestRows) -> _Beside:
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
    return _Beside(policy, premium, why)


def _held(values: Floats | None, held_out: Mask) -> Floats | None:
    return None if values is None else values[held_out]


def _figures(
    own: GuestRows, beside: _Beside, scores: Mapping[Hosts, Floats], hosts: Sequence[str]
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
class _GuestWork:
    """The trainings of the guest."""

    site: Site
    job: Job
    own: GuestRows
    show: Show

    async def train(self, hosts: Sequence[Peer], operations: Operations) -> dict[Hosts, Floats]:
        """The scores of the rows held out, by the hosts of each model."""
        site, own, kind = self.site, self.own, kind_of_job(self.job)
        columns = PartyColumns(
            site.party.name, own.table.path.name, own.features, rules_of(site.party), own.scratch
        )
        role = await asyncio.to_thread(kind.guest, columns, own.rows)
        release_memory(own.table.rows)
        role.check_rows()
        offer = await self._offer(hosts)
        sets = subsets([host.name for host in hosts])
        scores: dict[Hosts, Floats] = {(): (await role.train_alone())[own.held_out]}
        randomness = site.randomness_of(offer.run)
        resources = Resources(site.party.party.machine, operations, randomness)
        hints = PassingGuestHints(site.store, offer.run.hex())
        with contextlib.closing(hints):
            for number, some in enumerate(sets, 1):
                members = [host for host in hosts if host.name in some]
                run = GuestRun(
                    resources.part("training", *some),
                    partial(self._follow, f"model {number} of {len(sets)}: "),
                    hints=hints,
                    hint_progress=lambda done, of: self.show.progress("receiving hints", done, of),
                    labels=LabelsGiven.of(site.store, own.aligned.name, self.job),
                )
                _, score = await role.train(members, run)
                scores[some] = score[own.held_out]
        return scores

    def _follow(self, which: str, step: TrainingStep) -> None:
        what, done, of = kind_of_job(self.job).news(step)
        self.show.progress(which + what, done, of)

    async def _offer(self, hosts: Sequence[Peer]) -> Offer:
        """Agree with the hosts. Raises PeerError for another alignment, and what sessions raise."""
        site, aligned = self.site, self.own.aligned
        query = KeptQuery.of(site.party.data)
        offer = Offer(
            "worth",
            new_run(),
            [host.name for host in hosts],
            list(aligned.normalise),
            alignment=aligned.name,
            job=self.job.canonical,
            training=int(self.own.rows.train.sum()),
            matching=matching_of(site.party.data, join=aligned.join, many=aligned.many),
            query=UNSET if query is None else query.digest,
        )
        answers, _ = await offer_to(site, hosts, offer, self.show)
        check_aligned(hosts, answers, aligned.name, len(aligned.rows))
        return offer


# ---------------------------------------------------------------------------------------- host


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
    kind, name = kind_of_job(job), party.name
    role = await asyncio.to_thread(kind.host, own.columns)
    own = replace(own, columns=replace(own.columns, features={}))  # the role has what it needs of them
    mine = [some for some in subsets(offer.hosts) if name in some]
    rows, minimum = len(own.alignment.rows), kind.least_rows(party.policy)
    numbers = {column: f"{name}:{place}" for place, column in enumerate(own.table.features, 1)}
    operations: Operations = Counter()
    query = KeptQuery.of(party.data)
    hints = PassingHostHints()
    approved = await approve(site, peer, offer, show, own.brought(job, len(mine)))
    randomness = site.randomness_of(offer.run)
    async with contextlib.AsyncExitStack() as ends:
        budgets = await _reserve_sums(site, peer, offer, job, own, len(mine), ends)
        await accept(site, peer, offer, rows, query, jobs=len(mine), approved=approved)
        for number, (some, sums) in enumerate(zip(mine, budgets, strict=True), 1):
            # Secrets among hosts are of one training.
            context = hashlib.sha256(b"worth" + offer.run + "\n".join(some).encode()).digest()
            run = HostRun[AnyHostModel](
                site.participant(some, context, minimum, operations, randomness).part("training", *some),
                rows,
                _drop,
                job=f"model {number} of {len(mine)} of {job.name}",
                progress=show.progress,
                hints=hints,
                draws=StoredDraws(site.store, own.alignment.name),
                sums=sums,
                hint_progress=lambda done, of: show.progress("making a hint", done, of),
                shown=numbers.__getitem__,
                admit=partial(_admit, site, own.alignment),
            )
            await role.train(peer, run)
    told = await hear_worth(peer, offer.hosts, rows)
    page = f"{job.name[:JOB_LENGTH]}-{stamp(offer.run)}"
    of = WorthOf(
        party=name,
        guest=peer.name,
        hosts=offer.hosts,
        job=job.name,
        purpose=job.job.purpose,
        kind=kind.title,
        ended=now(),
        version=__version__,
        told=told,
        sheet=f"{page}.csv",
    )
    path = await asyncio.to_thread(_keep_page, site, page, of)
    await peer.send(Kept())
    show.say(f"what data is worth to {job.name} is in {path}")
    return f"told by {peer.name} what data is worth to {job.name}"


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
