"""The alignment job at the guest: which rows belong together, kept under a name. A host's side is in
alignment_host.py.

An alignment is kept by each party with what finds its rows again in a table that has changed since
(party/keys.py: identities). It may be extended: what is matched stays, the rest is matched anew, under
another name, so that models of the earlier one stay of use. How rows are matched is written in
protocols/align/join.py, what that means for people in docs/alignment.md.
"""

import asyncio
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from msgspec import UNSET

from vfl.arrays import Integers
from vfl.blocks.scratch import Scratch
from vfl.crypto.randomness import Randomness
from vfl.errors import ConfigError, DataError, ModelError
from vfl.jobs.account import Account
from vfl.jobs.admission import (
    matching_of,
    psi_settings,
)
from vfl.jobs.agreement import offer_to
from vfl.jobs.alignments import (
    Alignment,
    check_keys,
    check_parties,
    find_alignment,
    key_of_identities,
    save_alignment,
)
from vfl.jobs.answers_of_ids import AnswersAbout, with_answers
from vfl.jobs.commitments import TableDigests
from vfl.jobs.connect import Site, hosts_of
from vfl.jobs.diagnosis import (
    Diagnosis,
    are_few,
    diagnosis_context,
    guest_diagnosis,
)
from vfl.jobs.evidence import Answers, Keeping, keeping
from vfl.jobs.memory import release_memory
from vfl.jobs.names import JOB_LENGTH
from vfl.jobs.offer import Accept, Kept, Offer, new_run, stamp
from vfl.jobs.own_table import read_guest
from vfl.jobs.record import now
from vfl.jobs.resume import persevere
from vfl.jobs.show import Show
from vfl.jobs.storage import in_store
from vfl.net.peer import Peer, together
from vfl.party.config_values import Engine, JoinKind
from vfl.party.config_words import JOB_NAME
from vfl.party.id_report import find_unmended
from vfl.party.id_trials import OwnKey
from vfl.party.keys import TableIds, find_rows, identities
from vfl.party.store import Store
from vfl.party.table import Table
from vfl.protocols.align.join import (
    Matched,
    guest_drop,
    guest_inner,
    guest_left,
    guest_match,
    number_values,
)
from vfl.text import counted


@dataclass(frozen=True)
class Plan:
    """What a guest asks for: how rows are joined, under which name, in extension of which alignment."""

    name: str | None = None  # None: only its time
    join: JoinKind | None = None  # None: as [align] says, or as the alignment that is extended
    engine: Engine | None = None
    extend: str | None = None  # "" the latest
    diagnose: bool = False  # try other rules for ids even if most ids match


@dataclass(frozen=True)
class Aligned:
    """What an alignment came to at the guest.

    known: rows of the alignment that each host knows. asked, have: how many ids the guest and each host
    had of each key that no earlier one had matched. diagnoses: by host whose ids were compared under
    other rules, one a key. kept: ids of the alignment that is extended, as `by_key` of the alignment.
    """

    alignment: Alignment
    account: Account
    rows: int  # of the guest's table
    known: dict[str, int]
    asked: list[int]
    have: dict[str, list[int]]
    notes: list[str] = field(default_factory=list)
    diagnoses: dict[str, list[Diagnosis]] = field(default_factory=dict)
    kept: dict[str, int] = field(default_factory=dict)


@in_store
async def align(site: Site, plan: Plan, *, wait: float, show: Show) -> Aligned:
    """Match and join rows with all hosts, and keep it; all over again when a host was lost meanwhile.

    Raises, before anything is read or asked, ConfigError for a name that is none, DataError for a store
    that cannot be written, ModelError for an alignment that cannot be extended; DataError for ids that
    cannot be used or an empty intersection, and what sessions raise.
    """
    party, started = site.party, time.monotonic()
    if party.clients and not party.partners:
        raise ConfigError(
            f"{party.name} has no peer to align with: jobs over rows need no alignment, run `vfl serve` "
            "and have the server train"
        )
    _check_name(plan.name)
    settled = _settle(site, site.store, plan)
    if settled.earlier is not None:
        site.activity.tell(about=[settled.earlier.name])
    site.activity.tell(party.partners)
    table, ids = read_guest(party.data, show=show, scratch=Scratch(site.store.scratch(make=False)))
    for note in (*ids.notes, *find_unmended(party.data, table.by_key(party.data))):
        show.say(f"note: {table.path.name}: {note}")
    release_memory(table.rows)
    work = GuestAlignment(site, table, ids, settled, show, plan.diagnose)
    spent = Account.nothing()

    async def attempt(wait: float) -> Aligned:
        nonlocal spent
        async with hosts_of(site, wait, show) as hosts:
            try:
                return await work.run(hosts)
            finally:
                spent += Account.of(time.monotonic(), hosts)

    done = await persevere(attempt, wait=wait, reconnect=party.party.reconnect, show=show)
    say_matches(done, show)
    return replace(done, account=replace(spent, seconds=time.monotonic() - started))


def _check_name(name: str | None) -> None:
    """Raises ConfigError for what cannot be the name of an alignment."""
    if name is not None and (len(name) > JOB_LENGTH or not re.fullmatch(JOB_NAME, name)):
        raise ConfigError(
            f"--name must be up to {JOB_LENGTH} lower-case letters, digits, dots, hyphens and "
            "underscores, starting with a letter or digit"
        )


def say_matches(done: Aligned, show: Show) -> None:
    """What was matched, for people."""
    alignment, of = done.alignment, f"of your {counted(done.rows, 'row')}"
    if alignment.join == "left":
        for host, known in done.known.items():
            show.say(f"{host} knows {known:,} {of}")
    else:
        common = len(alignment.rows)
        show.say(f"{common:,} {of} {'is' if common == 1 else 'are'} known to all parties")
    for who, by_key in alignment.by_key.items():
        with_whom = f" with {who}" if who else ""
        keys = ", ".join(f"{count:,} by key {number}" for number, count in enumerate(by_key, 1))
        if alignment.extends is not None:
            ids = counted(sum(by_key), "id") + (f" ({keys})" if len(by_key) > 1 else "")
            show.say(f"newly matched{with_whom}: {ids}; kept: {done.kept[who]:,}")
        elif len(by_key) > 1:
            show.say(f"matched{with_whom}: {keys}")
    for host, have in done.have.items():
        matched = alignment.by_key.get(host, alignment.by_key.get("", ()))
        for number, (count, of_host) in enumerate(zip(matched, have, strict=False), 1):
            key = f", key {number}" if len(matched) > 1 else ""
            further = number > 1 or alignment.extends is not None
            if of_host:
                late = f" that {'was' if of_host == 1 else 'were'} not matched before" if further else ""
                show.say(f"{host}{key}: {count:,} of its {counted(of_host, 'id')}{late}")
    for note in done.notes:
        show.say(f"note: {note}")


@dataclass(frozen=True)
class SettledPlan:
    """A plan that leaves nothing open."""

    base: str | None  # of the name
    join: JoinKind
    engine: Engine
    earlier: Alignment | None


def _settle(site: Site, store: Store, plan: Plan) -> SettledPlan:
    data, own = site.party.data, site.party.align
    earlier, base = None, plan.name
    join = plan.join or own.join
    if plan.extend is not None:
        earlier = find_alignment(store, plan.extend or None)
        check_parties(site, earlier)
        check_keys(earlier, data)
        if not earlier.key:
            raise ModelError(
                f"alignment {earlier.name} was made by an earlier version of vfl and cannot be "
                "extended: run `vfl align` without --extend"
            )
        if plan.join not in (None, earlier.join) or earlier.many != (data.duplicates == "keep"):
            raise ModelError(
                f"alignment {earlier.name} joins rows in another way, which extending it cannot change: "
                "run `vfl align` without --extend"
            )
        if set(earlier.parties) != {site.party.name, *site.party.partners}:
            raise ModelError(
                f"alignment {earlier.name} is with other hosts than [peers] has: run `vfl align` "
                "without --extend"
            )
        join, base = earlier.join, base or _base(earlier.name)
    return SettledPlan(base, join, plan.engine or own.engine, earlier)


def _base(name: str) -> str | None:
    """The name that was given to an alignment; None if it has its time alone."""
    base = name.rsplit("-", 3)[0] if name.count("-") >= 3 else ""
    return base or None


def commits_to(ids: TableIds) -> TableDigests:
    """What an alignment has of a party's table, for its commitment."""
    return {"ids": ids.digest}


@dataclass(frozen=True)
class Joined:
    """What was matched with the hosts, before it is kept."""

    matched: list[Matched]  # by channel
    with_host: list[Matched]
    rows: Integers
    have: dict[str, list[int]]
    asked: list[int]
    diagnoses: dict[str, list[Diagnosis]]
    days: int | None


@dataclass
class GuestAlignment:
    """The guest's part of an alignment, an attempt after another."""

    site: Site
    table: Table
    ids: TableIds
    plan: SettledPlan
    show: Show
    diagnose: bool = False
    replayed: bool = False  # whether nothing is asked of the store

    async def run(self, hosts: Sequence[Peer]) -> Aligned:
        """Match, join and keep."""
        with keeping(self.site, self.show, lambda: commits_to(self.ids)) as kept:
            return await self._run(hosts, kept)

    async def _run(self, hosts: Sequence[Peer], kept: Keeping) -> Aligned:
        site, plan, data = self.site, self.plan, self.site.party.data
        run = new_run()
        name = f"{plan.base}-{stamp(run)}" if plan.base else stamp(run)
        many = data.duplicates == "keep"
        offer = Offer(
            "align",
            run,
            [host.name for host in hosts],
            list(data.normalise),
            alignment=name,
            matching=matching_of(
                data,
                engine=plan.engine,
                join=plan.join,
                many=many,
                extends=None if plan.earlier is None else plan.earlier.name,
            ),
            commitment=kept.commitment or UNSET,
        )
        _, agreement = await offer_to(site, hosts, offer, self.show)
        kept.agreed(agreement, offer.job, hosts)
        randomness = kept.randomness_of(run)
        joined = await self.match(hosts, offer, randomness, kept.answers)
        alignment = await asyncio.to_thread(self.alignment, offer, hosts, joined, randomness)
        by = self._by_channel(hosts, joined)
        await asyncio.to_thread(save_alignment, site.store, alignment)
        known = {
            host.name: int((one.of_row[joined.rows] >= 0).sum())
            for host, one in zip(hosts, joined.with_host, strict=True)
        }
        return Aligned(
            alignment,
            Account.nothing(),
            self.table.rows,
            known,
            joined.asked,
            joined.have,
            ambiguities(joined.matched),
            joined.diagnoses,
            {name: one.earlier for name, one in by.items()},
        )

    async def match(
        self, hosts: Sequence[Peer], offer: Offer, randomness: Randomness, answers: Answers
    ) -> Joined:
        """The part after the agreement, in a job and in its replay: match and join."""
        plan, many = self.plan, self.site.party.data.duplicates == "keep"
        channels = [list(hosts)] if plan.join == "inner" else [[host] for host in hosts]
        matched = await together([self._match(offer, one, randomness, answers) for one in channels])
        have = {
            host.name: [asked_of[host.name] for asked_of in one.asked_of]
            for channel, one in zip(channels, matched, strict=True)
            for host in channel
        }
        asked = list(matched[0].asked)
        diagnose = answers.ask("whether to diagnose", bool, lambda: self.diagnose)
        poor = [
            host
            for channel, one in zip(channels, matched, strict=True)
            for host in channel
            if diagnose
            or are_few(
                one.ids, *(one.earlier + ids[0] for ids in (asked, *(have[h.name] for h in channel)))
            )
        ]
        diagnoses = await self._diagnose(offer, poor, randomness) if poor else {}
        if not any(one.ids for one in matched):
            raise DataError(
                "no id is common to all parties: check that normalise in [data] fits how each party "
                "writes its ids (`vfl align --dry-run` shows it), and that they are the same ids",
                for_peer="no id is common to all parties",
            )
        with_host = matched if plan.join == "left" else list(matched) * len(hosts)
        await together([host.send(Accept(one.ids)) for host, one in zip(hosts, with_host, strict=True)])
        if plan.join == "left":
            every = np.sort(np.concatenate([self.ids.rows, self.ids.without_id]))
            rows = await guest_left(hosts, matched, every, randomness.at("order of joined rows"))
        else:
            rows = await guest_inner(hosts, matched[0], many=many)
        kept = await together([host.recv(Kept) for host in hosts])
        days = [one.days for one in kept if one.days is not None]
        return Joined(matched, with_host, rows, have, asked, diagnoses, min(days, default=None))

    async def _diagnose(
        self, offer: Offer, hosts: Sequence[Peer], randomness: Randomness
    ) -> dict[str, list[Diagnosis]]:
        """Why few ids match, by host and key; the hosts' policies may not allow it."""
        data = self.site.party.data
        diagnoses: dict[str, list[Diagnosis]] = {}
        for number, key in enumerate(OwnKey.all_of(data, self.table.by_key(data))):
            of_key = await guest_diagnosis(
                hosts,
                key,
                context=diagnosis_context(offer.run, number),
                randomness=randomness.part("why few ids match", number),
                show=self.show,
            )
            for name, diagnosis in of_key.items():
                if diagnosis is not None:
                    diagnoses.setdefault(name, []).append(diagnosis)
            hosts = [host for host in hosts if of_key[host.name] is not None]
            if not hosts:
                break
        return diagnoses

    async def _match(
        self, offer: Offer, hosts: Sequence[Peer], randomness: Randomness, answers: Answers
    ) -> Matched:
        """The rows matched with all hosts of a channel."""
        data, earlier, left = self.site.party.data, self.plan.earlier, self.plan.join == "left"
        apart = hosts[0].name.encode() if left else b""
        number = sorted(offer.hosts).index(hosts[0].name) if left else 0
        start = None
        if earlier is not None:
            start = await guest_drop(
                hosts, await asyncio.to_thread(matched_before, earlier, number, self.ids)
            )
        part = randomness.part("matched ids", apart)
        settings = psi_settings(self.site, offer, self.show, hosts, part)
        about = AnswersAbout(answers, hosts[0].name) if left else answers
        return await guest_match(
            hosts,
            self.ids.keys,
            context=offer.run + apart,
            settings=with_answers(settings, about, replayed=self.replayed),
            start=start,
            many=data.duplicates == "keep",
        )

    def _by_channel(self, hosts: Sequence[Peer], joined: Joined) -> dict[str, Matched]:
        """What is matched with each host, or with all."""
        who = [host.name for host in hosts] if self.plan.join == "left" else [""]
        return dict(zip(who, joined.matched, strict=True))

    def alignment(
        self, offer: Offer, hosts: Sequence[Peer], joined: Joined, randomness: Randomness
    ) -> Alignment:
        """The alignment as this party keeps it."""
        by, rows = self._by_channel(hosts, joined), joined.rows
        party, secret = self.site.party, key_of_identities(randomness)
        known = self.site.fingerprints
        channels = [by[who] for who in sorted(by)]
        keys = np.array([one.key_of_row[rows] for one in channels])
        # The keys up to which a row's ids decide how it is matched with all.
        last = np.where((keys < 0).any(axis=0), np.int8(len(self.ids.keys) - 1), keys.max(axis=0))
        return Alignment(
            offer.alignment or "",
            self.site.identity.certificate.fingerprint,
            {name: known[name] for name in (party.name, *offer.hosts)},
            party.data.normalise,
            self.ids.digest,
            rows,
            now(),
            offer.matching.join,
            offer.matching.engine,
            tuple(map(tuple, offer.matching.fallback)),
            offer.matching.many,
            offer.matching.extends,
            joined.days,
            by_key={who: one.by_key for who, one in by.items()},
            key=secret.hex(),
            digests=identities(self.ids, secret, rows, last),
            matched=np.array([one.of_row[rows] for one in channels]),
            keys=keys,
        )


def matched_before(earlier: Alignment, channel: int, ids: TableIds) -> Matched:
    """What an alignment says of a table as it is now, for `guest_drop` and `host_drop`."""
    if earlier.digests is None or earlier.keys is None:
        raise ModelError(f"alignment {earlier.name} is damaged: it has no identities")
    place = find_rows(ids, bytes.fromhex(earlier.key), earlier.digests)
    number = number_values(earlier.rows if earlier.matched is None else earlier.matched[channel])[0]
    count = int(number.max(initial=-1)) + 1
    at = place.first
    if earlier.matched is None or not earlier.many:  # a row that others are like now is told by no id
        at = np.full(len(ids.group), -1, np.int64)
        there = np.flatnonzero(place.rows >= 0)
        at[place.rows[there]] = there
    if earlier.matched is None:  # a host, which has an identity for each of its rows
        number = np.arange(count)
    of_row = np.append(number, -1).astype(np.int32)[at]
    key = np.append(earlier.keys[channel], np.int8(-1))[at]
    return Matched(of_row, np.where(of_row < 0, np.int8(-1), key), count)


def ambiguities(matched: Sequence[Matched]) -> list[str]:
    """What there is to say of rows that a further key does not tell apart."""
    return [
        f"{most:,} row{'s share' if most > 1 else ' shares'} the id of key {number} with others that no "
        f"earlier key matched: not matched by it"
        for number, counts in enumerate(zip(*(one.ambiguous for one in matched), strict=False), 1)
        if (most := max(counts))
    ]
