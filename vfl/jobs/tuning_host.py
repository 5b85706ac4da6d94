"""A search for settings, a host's side (tuning.py)."""

import asyncio
import contextlib
import hashlib
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from functools import partial

import msgspec

from vfl.arrays import Mask
from vfl.crypto.randomness import Randomness
from vfl.crypto.workers import Operations
from vfl.errors import ConfigError, Refused
from vfl.jobs.admission import accept, check_request
from vfl.jobs.alignments import Alignment, count_known_rows
from vfl.jobs.answers import AnsweredHostHints, AnsweredSums
from vfl.jobs.approval import approve
from vfl.jobs.commitments import TableDigests
from vfl.jobs.connect import Site
from vfl.jobs.drawn_rows import StoredDraws
from vfl.jobs.evidence import Keeping, keeping
from vfl.jobs.hints import StoredHostHints
from vfl.jobs.host_columns import HostColumns, read_host_columns
from vfl.jobs.memory import release_memory
from vfl.jobs.names import JOB_LENGTH
from vfl.jobs.offer import Offer, stamp
from vfl.jobs.show import Show
from vfl.jobs.sums_given import SumsBudget, SumsGiven, training_share
from vfl.jobs.training_host import commits_to
from vfl.learn.params import BoostParams
from vfl.models.kind import AnyHostModel, AnyKind, HostRun
from vfl.models.kinds import kind_of_job
from vfl.net.peer import Peer
from vfl.party.config import Job
from vfl.party.kept_query import KeptQuery
from vfl.party.policy import check_intersection, check_tune, today
from vfl.party.policy_section import PolicySection
from vfl.party.search import Search
from vfl.protocols.common.checkpoints import to_the_end
from vfl.protocols.common.course import UNCOUNTED, SumsCount
from vfl.protocols.tuning import hear_trial
from vfl.text import counted

Given = Callable[[HostRun[AnyHostModel], int, AnyKind], Awaitable[HostRun[AnyHostModel]]]
"""What a training works with beside, of which this is the number from 0 in the session, and its kind."""


async def serve_tune(site: Site, peer: Peer, offer: Offer, show: Show) -> str:
    """Train as often as the guest has trials, at most as many as agreed; drop every half."""
    party = site.party
    search = agreed_search(await asyncio.to_thread(Job.from_canonical, offer.job), offer)
    job, trials = search.job, search.tune.trials
    left = trials - offer.done
    what = f"search for settings of {job.name} ({job.job.purpose}): {counted(trials, 'trial')}"
    check_request(site, peer, offer, show, f"{what}, {left:,} to come" if offer.done else what)
    check_tune(party.policy, search.extremes, trials, peer.name, today())
    if left < 1:
        raise Refused("no trial of the search is left")
    # Of the trials so far nothing is known here: what is left is held against the rules.
    asked = msgspec.structs.replace(offer, done=0)
    own = await read_host_columns(site, peer, asked, search.tells_most)
    release_memory(own.table.rows)
    trainings = left * search.judges
    approved = await approve(site, peer, offer, show, own.brought(search.tells_most, trainings))
    commits: TableDigests = {}
    if party.party.tape != "none":
        commits = await asyncio.to_thread(commits_to, own)
    async with contextlib.AsyncExitStack() as ends:
        kept = ends.enter_context(keeping(site, show, lambda: commits))
        counts = _Counts(site, peer, offer, search, own, kept)
        await counts.reserve(trainings, ends)
        rows, query = len(own.alignment.rows), KeptQuery.of(party.data)
        agreement = await accept(site, peer, offer, rows, query, trainings, approved, kept.commitment)
        kept.agreed(agreement, offer.job, [peer])
        work = HostTrials(site, offer, search, own, show, kept.randomness_of(offer.run))
        done = await work.serve(peer, counts.given)
    return f"made {counted(done, 'trial')} of {job.name} with {peer.name}, none of which is kept"


def agreed_search(job: Job, offer: Offer) -> Search:
    """The search that the guest offers. Raises Refused for one that it has not written out, or that
    there is not."""
    try:
        search = Search.of(job)
    except ConfigError as error:
        raise Refused(str(error)) from None
    if search.job.searched != offer.job:
        raise Refused("the search offered has no space written out")
    return search


@dataclass
class HostTrials:
    """The trainings of a host, in a search and in its replay."""

    site: Site
    offer: Offer
    search: Search
    own: HostColumns
    show: Show
    randomness: Randomness
    _operations: Operations = field(default_factory=Counter)

    async def serve(self, guest: Peer, given: Given) -> int:
        """Make the trials that the guest asks for; how many."""
        left, done = self.search.tune.trials - self.offer.done, 0
        while True:
            settings = await hear_trial(guest, self.offer.done + done + 1, self.search.has)
            if settings is None:
                return done
            done += 1
            if done > left:
                raise guest.breach("a NextTrial beyond those that were agreed on")
            await self._trial(guest, done, self.search.trial(settings), given)

    async def _trial(self, guest: Peer, number: int, job: Job, given: Given) -> None:
        """The trainings of one trial, the `number`-th of this session."""
        site, own, kind = self.site, self.own, kind_of_job(job)
        role = await asyncio.to_thread(kind.host, own.columns)
        judges, trials = self.search.judges, self.search.tune.trials
        numbers = {c: f"{site.party.name}:{place}" for place, c in enumerate(own.table.features, 1)}
        for judge in range(judges):
            # Secrets among hosts are of one training.
            which = f"tune {self.offer.done + number} {judge}".encode()
            participant = site.participant(
                self.offer.hosts,
                hashlib.sha256(which + self.offer.run).digest(),
                kind.least_rows(site.party.policy),
                self._operations,
                self.randomness,
            )
            run = HostRun[AnyHostModel](
                participant.part("training", self.offer.done + number, judge),
                len(own.alignment.rows),
                _drop,
                job=f"trial {self.offer.done + number} of {trials} of {job.name}",
                progress=self.show.progress,
                hint_progress=lambda done, of: self.show.progress("making a hint", done, of),
                shown=numbers.__getitem__,
            )
            await role.train(guest, await given(run, (number - 1) * judges + judge, kind))


@dataclass
class _Counts:
    """What a host's trainings go by beside, and what they count."""

    site: Site
    peer: Peer
    offer: Offer
    search: Search
    own: HostColumns
    kept: Keeping

    def __post_init__(self) -> None:
        self._budgets: list[_Reserved] = []

    async def given(
        self, run: HostRun[AnyHostModel], training: int, kind: AnyKind
    ) -> HostRun[AnyHostModel]:
        """See `Given`. Raises Refused where the training may tell too much."""
        site, kept, alignment = self.site, self.kept, self.own.alignment
        about, this = f"{alignment.name} {kind.name}", self.offer.run.hex()
        hints = StoredHostHints(site.store, about, alignment.guest, this)
        return replace(
            run,
            participant=run.participant.asking(kept.sign(site.identity.sign), kept.say),
            hints=AnsweredHostHints(hints, kept.answers),
            draws=StoredDraws(site.store, alignment.name),
            sums=AnsweredSums(await self._budget(training, kind), kept.answers),
            admit=partial(_admit, site, alignment),
        )

    async def reserve(self, trainings: int, ends: contextlib.AsyncExitStack) -> None:
        """Reserve what all trainings may tell, as if each told the most of any of the space, before the
        first, until `ends`. Raises Refused."""
        told, given = kind_of_job(self.search.tells_most).tells_sums, self.own.given
        if told is None or given is None:
            return
        share = training_share(self.peer, self.offer, self.own.alignment, self.search.job)
        job, policy = self.search.job.name[:JOB_LENGTH], self.site.party.policy
        names = [f"{job}-{stamp(self.offer.run)}-{n}" for n in range(1, trainings + 1)]

        def reserve() -> None:
            for number, name in enumerate(names):
                try:
                    budget = _Reserved(given, name, share, given.reserve(policy, name, told, share))
                except Refused as error:
                    trials = counted(trainings // self.search.judges, "trial")
                    fit = counted(number // self.search.judges, "trial")
                    raise Refused(
                        f"{trials} may tell too much, if each tells the most of its space ({fit} would "
                        f"not): {error}"
                    ) from None
                ends.callback(budget.close)
                self._budgets.append(budget)

        await to_the_end(reserve)

    async def _budget(self, training: int, kind: AnyKind) -> SumsCount:
        """What counts the sums of a training: by its own settings, in place of the most of any."""
        told = kind.tells_sums
        if told is None or not self._budgets:
            return UNCOUNTED
        reserved = self._budgets[training]
        await to_the_end(reserved.renew, self.site.party.policy, told)
        return reserved.budget


@dataclass
class _Reserved:
    """What a training may tell."""

    given: SumsGiven
    name: str
    share: float  # of the aligned rows that train
    budget: SumsBudget

    def renew(self, policy: PolicySection, told: BoostParams) -> None:
        """Reserve for other settings in its place. Raises Refused."""
        self.close()
        self.budget = self.given.reserve(policy, self.name, told, self.share)

    def close(self) -> None:
        self.budget.close()


def _drop(half: AnyHostModel) -> None:
    """Nothing is kept of a trial."""


def _admit(site: Site, alignment: Alignment, training: Mask) -> None:
    known = count_known_rows(alignment.rows, training)
    check_intersection(site.party.policy, known, most=False)
