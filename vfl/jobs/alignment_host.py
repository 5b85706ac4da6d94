"""The alignment job at a host: which of its rows belong to the others', kept under a name."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from vfl.arrays import Integers
from vfl.crypto.randomness import Randomness
from vfl.jobs.admission import (
    accept,
    check_request,
    fresh_name,
    host_psi_settings,
    id_counter,
    lone_participant,
)
from vfl.jobs.alignment import ambiguities, commits_to, matched_before
from vfl.jobs.alignments import (
    Alignment,
    key_of_identities,
    load_shared,
    made_on,
    most_joined,
    origin_of,
    save_alignment,
)
from vfl.jobs.answers_of_ids import admit_with_answers, with_answers
from vfl.jobs.approval import approve
from vfl.jobs.connect import Site
from vfl.jobs.diagnosis import (
    Answering,
    answer_diagnoses,
    why_undiagnosed,
)
from vfl.jobs.evidence import Answers, Keeping, keeping
from vfl.jobs.memory import release_memory
from vfl.jobs.offer import Kept, Offer
from vfl.jobs.own_table import table_of
from vfl.jobs.record import now
from vfl.jobs.show import Show
from vfl.net.peer import Peer
from vfl.party.id_report import find_unmended
from vfl.party.keys import TableIds, identities
from vfl.party.policy import (
    Usage,
    check_age,
    check_align,
    check_intersection,
    check_repeats,
    today,
)
from vfl.party.row_sums import RowSumsFile
from vfl.party.table import Table
from vfl.protocols.align.join import (
    Matched,
    host_drop,
    host_inner,
    host_left,
    host_match,
    number_values,
)
from vfl.protocols.align.psi import Admit
from vfl.text import counted


async def serve_align(site: Site, peer: Peer, offer: Offer, show: Show) -> str:
    """A host's part; what it came to, in words."""
    policy, matching = site.party.policy, offer.matching
    check_request(
        site, peer, offer, show, f"extend {matching.extends}" if matching.extends else "align ids"
    )
    check_align(policy, peer.name, today(), matching.engine, matching.join)
    table, ids = await table_of(site, offer)
    store = site.store
    name = fresh_name(store, "alignment", offer.alignment)
    with store.locked("alignment", name, f"alignment {name}"):
        fresh_name(store, "alignment", name)  # another one of the name may have ended meanwhile
        with keeping(site, show, lambda: commits_to(ids)) as kept:
            return await _serve_alignment(site, peer, offer, (name, kept), table, ids, show)


async def _serve_alignment(
    site: Site,
    peer: Peer,
    offer: Offer,
    named: tuple[str, Keeping],
    table: Table,
    ids: TableIds,
    show: Show,
) -> str:
    """The alignment of that name, which nobody else makes meanwhile."""
    policy, matching, store = site.party.policy, offer.matching, site.store
    name, kept = named
    earlier = None
    if matching.extends is not None:
        earlier = load_shared(site, store, peer, offer, matching.extends)
        check_age(policy, earlier.name, made_on(store, earlier), today())
    usage = Usage(store)
    usage.check_room(policy, peer.name, "alignments", 1, today())
    approved = await approve(site, peer, offer, show)
    usage.count(policy, peer.name, "alignments", 1, today())
    admit = id_counter(policy, usage)
    agreement = await accept(site, peer, offer, approved=approved, commitment=kept.commitment)
    kept.agreed(agreement, offer.job, [peer])
    randomness = kept.randomness_of(offer.run)
    work = HostAlignment(site, offer, table, ids, earlier, randomness, kept.answers, show)
    matched, rows = await work.match(peer, admit, kept.sign(site.identity.sign))
    site.activity.count(matched.ids)
    secret = key_of_identities(randomness)
    alignment = await asyncio.to_thread(
        alignment_of_host, site, peer, offer, name, rows, matched, ids, secret
    )
    if earlier is not None:
        alignment = replace(alignment, origin=origin_of(store, earlier))
    await asyncio.to_thread(save_alignment, store, alignment)
    del alignment
    release_memory(table.rows)
    written = await asyncio.to_thread(find_unmended, site.party.data, table.by_key(site.party.data))
    for note in (*ids.notes, *written, *ambiguities([matched])):
        show.say(f"note: {table.path.name}: {note}")
    await peer.send(Kept(policy.days_of_use))  # with it the guest is done, and may be gone
    left = matching.join == "left"
    joined = f" ({(rows >= 0).sum():,} joined)" if left or matching.many else ""
    rows_here = counted(len(ids.rows), "row")
    return f"aligned {matched.ids:,} of {rows_here}{joined} with {peer.name}"


@dataclass(frozen=True)
class HostAlignment:
    """A host's part of an alignment after the agreement, in a job and in its replay."""

    site: Site
    offer: Offer
    table: Table
    ids: TableIds
    earlier: Alignment | None
    randomness: Randomness
    answers: Answers
    show: Show
    replayed: bool = False  # whether nothing is asked of the store

    async def match(
        self, guest: Peer, admit: Admit, sign: Callable[[bytes], bytes]
    ) -> tuple[Matched, Integers]:
        """What is matched, and the rows of the alignment. `admit` counts the ids of the guest.

        Raises Refused for what the policy does not allow.
        """
        site, offer, matching = self.site, self.offer, self.offer.matching
        start = None
        if self.earlier is not None:
            before = await asyncio.to_thread(matched_before, self.earlier, 0, self.ids)
            start = await host_drop(guest, before)
        left, randomness = matching.join == "left", self.randomness
        admit = admit_with_answers(admit, self.answers)
        participant = lone_participant(site, offer) if left else site.participant(offer.hosts, offer.run)
        settings = host_psi_settings(
            site,
            offer,
            self.show,
            guest,
            admit,
            randomness.part("matched ids"),
            alone=left or len(offer.hosts) == 1,
        )
        matched = await host_match(
            guest,
            self.ids.keys,
            participant if participant.sign is None else replace(participant, sign=sign),
            settings=with_answers(settings, self.answers, replayed=self.replayed),
            start=start,
        )
        refused = why_undiagnosed(site.party.policy, matched)
        answering = Answering(guest, admit, refused, randomness, self.show)
        agreed = await answer_diagnoses(site, guest, offer, self.table, answering)
        if agreed.rows != matched.ids:
            raise guest.breach("another number of common rows than this party has")
        check_intersection(site.party.policy, matched.ids)
        rows = await (host_left if left else host_inner)(guest, matched, many=matching.many)
        check_repeats(site.party.policy, most_joined(rows))
        return matched, rows


def alignment_of_host(
    site: Site,
    peer: Peer,
    offer: Offer,
    name: str,
    rows: Integers,
    matched: Matched,
    ids: TableIds,
    secret: bytes,
) -> Alignment:
    known, matching = site.fingerprints, offer.matching
    repeats = matching.join == "left" or matching.many
    own_rows = rows[number_values(rows)[1]] if repeats else rows
    keys = matched.key_of_row[own_rows]
    return Alignment(
        name,
        known[peer.name],
        {name: known.get(name, "") for name in (peer.name, *offer.hosts)},
        tuple(offer.normalise),
        ids.digest,
        rows,
        now(),
        matching.join,
        matching.engine,
        tuple(map(tuple, matching.fallback)),
        matching.many,
        matching.extends,
        site.party.policy.days_of_use,
        {site.party.name if matching.join == "left" else "": matched.by_key},
        secret.hex(),
        identities(ids, secret, own_rows, keys),
        keys=keys[np.newaxis],
        counted_as=RowSumsFile(site.store, peer.name).identify(ids, own_rows),
    )
