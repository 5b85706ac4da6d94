"""A host's side of a batch that is scored."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, replace

from vfl.arrays import Integers
from vfl.crypto.randomness import Randomness
from vfl.errors import (
    DataError,
    Refused,
)
from vfl.jobs.activity import Activity
from vfl.jobs.admission import (
    accept,
    check_request,
    host_psi_settings,
    id_counter,
    lone_participant,
)
from vfl.jobs.answers_of_ids import admit_with_answers, count_with_answers, with_answers
from vfl.jobs.approval import approve
from vfl.jobs.approval_view import Brought
from vfl.jobs.audits import check_audited
from vfl.jobs.commitments import TableDigests, digest_of_half, digest_table
from vfl.jobs.connect import Site
from vfl.jobs.evidence import HALF, Answers, keeping
from vfl.jobs.memory import release_memory
from vfl.jobs.offer import Offer
from vfl.jobs.own_table import table_of
from vfl.jobs.queries import with_query_of
from vfl.jobs.show import Show, drift_of_columns, say_unknown_levels, say_unseen
from vfl.learn.levels import match_levels
from vfl.models.halves import AnyHostHalf, HostHalf
from vfl.models.kind import HostBatch
from vfl.models.kinds import kind_of_model, load_half
from vfl.net.peer import Peer
from vfl.party.keys import TableIds
from vfl.party.policy import (
    Usage,
    check_batch,
    check_columns,
    check_score,
    today,
)
from vfl.party.table import Table
from vfl.protocols.align.join import host_match
from vfl.protocols.align.psi import Admit
from vfl.protocols.common.batches import ScoringCourse
from vfl.text import counted

_NOT_AS_IN_TRAINING = "one of its columns is not as it was in training (its log has the details)"


async def serve_score(site: Site, peer: Peer, offer: Offer, show: Show) -> str:
    """A host's part; what it came to, in words."""
    policy, usage = site.party.policy, Usage(site.store)
    check_request(site, peer, offer, show, f"score a batch with {offer.model}")
    check_score(policy, peer.name, today(), offer.matching.engine)
    half = load_half(site.store, offer.model or "", HostHalf)
    kind = kind_of_model(half.model)
    if not site.same_party(peer.name, half.guest):
        raise Refused(f"model {half.name} was not trained with this {peer.name}")
    check_columns(policy, half.name, half.columns)
    await asyncio.to_thread(check_audited, site, half.name, show)
    try:
        data = with_query_of(site.party.data, half, show)
        table, ids = await table_of(site, offer, half.columns, kind.needed(half.model), data)
    except DataError as error:
        raise DataError(f"{error} (for model {half.name})", for_peer=_NOT_AS_IN_TRAINING) from None
    for column in table.faults:
        show.say(f"note: {table.path.name}: column '{column}' cannot be used; {half.name} needs it not")
    approved = await approve(site, peer, offer, show, Brought(half.columns))
    commits: TableDigests = {}
    if site.party.party.tape != "none":
        commits = await asyncio.to_thread(commits_to, site, half.name, table, ids)
    with keeping(site, show, lambda: commits) as kept:
        agreement = await accept(site, peer, offer, approved=approved, commitment=kept.commitment)
        kept.agreed(agreement, offer.job, [peer])
        randomness = kept.randomness_of(offer.run)
        work = HostScoring(site, offer, half, table, ids, randomness, kept.answers, show)
        del table, ids

        def admit(many: int) -> None:
            usage.count(policy, peer.name, "scored_rows", many, today())

        scored = await work.score(peer, id_counter(policy, usage), admit, site.activity)
    return f"scored {counted(scored, 'row')} for {peer.name}"


def commits_to(site: Site, model: str, table: Table, ids: TableIds) -> TableDigests:
    """What a batch has of a host's table and of its half of the model, for its commitment."""
    half = digest_of_half(site.store, model)
    return digest_table(table.features, ids=ids.digest, **{HALF: half})


@dataclass
class HostScoring:
    """A host's part of a batch after the agreement, in a job and in its replay."""

    site: Site
    offer: Offer
    half: AnyHostHalf
    table: Table
    ids: TableIds | None  # until they are matched: of millions of rows they take as much as some columns
    randomness: Randomness
    answers: Answers
    show: Show
    replayed: bool = False  # whether nothing is asked of the store

    async def score(
        self, guest: Peer, admit: Admit, count: Callable[[int], None], activity: Activity | None = None
    ) -> int:
        """How many rows were scored. `admit` counts ids of the guest, `count` rows that it asks for.

        Raises Refused for what the policy does not allow.
        """
        half, show, policy = self.half, self.show, self.site.party.policy
        kind = kind_of_model(half.model)
        rows = await self._match(guest, admit)
        table = self.table = replace(self.table, ids=[])
        release_memory(table.rows)
        check_batch(policy, len(rows))
        # These are the rows that it will be asked for.
        features, unknown = await asyncio.to_thread(match_levels, table.take(rows), half.levels)
        strange = say_unknown_levels(show, unknown, half.levels)
        moved = await asyncio.to_thread(drift_of_columns, show, half.profiles, table.path.name, features)
        if activity is not None:
            activity.count(len(rows))
            activity.drifted(half.name, moved.values())

        def follow(done: int, of: int) -> None:
            show.progress("scoring", done, of)

        admit_rows = count_with_answers(count, self.answers, "room for rows")
        own_scores = await asyncio.to_thread(
            kind.own_scores, half.model, table.path.name, features, len(rows)
        )
        say_unseen(show, own_scores.unseen, half.levels)
        batch = HostBatch(
            features,
            len(rows),
            own_scores,
            ScoringCourse(follow, admit_rows, self.randomness.part("batch")),
            shows_columns=policy.show_names and policy.explain,
            unknown_levels=strange,
        )
        return await kind.host_parts(guest, half.model, batch)

    async def _match(self, guest: Peer, admit: Admit) -> Integers:
        """The rows that the guest asks about."""
        site, offer, ids = self.site, self.offer, self.ids
        if ids is None:
            raise AssertionError("a batch that is matched twice")
        self.ids = None
        admit, part = admit_with_answers(admit, self.answers), self.randomness.part("matched ids")
        settings = host_psi_settings(site, offer, self.show, guest, admit, part, alone=True)
        settings = with_answers(settings, self.answers, replayed=self.replayed)
        matched = await host_match(guest, ids.keys, lone_participant(site, offer), settings=settings)
        return await asyncio.to_thread(matched.rows_in, ids.scratch)
