"""The alignment job, guest and host side by side: which rows belong together, kept under a name.

An alignment is kept by each party with what finds its rows again in a table that has changed since
(party/keys.py: identities). It may be extended: what is matched stays, the rest is matched anew, under
another name, so that models of the earlier one stay of use. How rows are matched is written in
protocols/align/join.py, what that means for people in docs/alignment.md.
"""

import asyncio
import contextlib
import re
import secrets
import time
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime
from typing import Any

import numpy as np

from vfl.errors import ConfigError, DataError, ModelError, Refused
from vfl.jobs.account import Account
from vfl.jobs.agreement import accept_offer, check_offer, offer_to
from vfl.jobs.connect import Office, hosts_of
from vfl.jobs.diagnosis import Diagnosis, few, guest_diagnosis, host_diagnosis
from vfl.jobs.halves import Alignment, ids_digest, load_alignment, save_alignment
from vfl.jobs.names import JOB_LENGTH, resolve_model
from vfl.jobs.offer import Accept, Kept, Matching, Offer, new_run, stamp
from vfl.jobs.record import now
from vfl.jobs.resume import persevere
from vfl.jobs.show import Show
from vfl.jobs.storage import in_store
from vfl.learn.losses import Loss
from vfl.net.peer import Peer, together
from vfl.net.wire import decode
from vfl.party.config import JOB_NAME, DataSection, Engine, JoinKind, PolicySection
from vfl.party.id_report import unmended
from vfl.party.id_trials import OwnKey
from vfl.party.ids import disagreement
from vfl.party.keys import Stands, TableIds, all_keys, found, identities
from vfl.party.policy import (
    Usage,
    allowed_columns,
    check_age,
    check_align,
    check_intersection,
    check_join,
    check_repeats,
    last_day,
    today,
)
from vfl.party.store import Kind, Store
from vfl.party.table import Table, read_table
from vfl.protocols.align.join import (
    Integers,
    Matched,
    guest_drop,
    guest_inner,
    guest_left,
    guest_match,
    host_drop,
    host_inner,
    host_left,
    host_match,
    numbered,
)
from vfl.protocols.align.match_rates import MatchStart
from vfl.protocols.align.psi import AlignKey, AlignStart, PsiSettings
from vfl.protocols.common.participant import Participant
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
async def align(office: Office, plan: Plan, *, wait: float, show: Show) -> Aligned:
    """Match and join rows with all hosts, and keep it; all over again when a host was lost meanwhile.

    Raises, before anything is read or asked, ConfigError for a name that is none, DataError for a store
    that cannot be written, ModelError for an alignment that cannot be extended; DataError for ids that
    cannot be used or an empty intersection, and what sessions raise.
    """
    party, started = office.party, time.monotonic()
    _check_name(plan.name)
    settled = _settled(office, Store(party.party.store), plan)
    table, ids = read_guest(party.data, show=show)
    for note in (*ids.notes, *unmended(party.data, table.by_key(party.data))):
        show.say(f"note: {table.path.name}: {note}")
    work = _Guest(office, table, ids, settled, show, plan.diagnose)
    spent = Account.nothing()

    async def attempt(wait: float) -> Aligned:
        nonlocal spent
        async with hosts_of(office, wait, show) as hosts:
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
class _Settled:
    """A plan in which all is said."""

    base: str | None  # of the name
    join: JoinKind
    engine: Engine
    earlier: Alignment | None


def _settled(office: Office, store: Store, plan: Plan) -> _Settled:
    data, own = office.party.data, office.party.align
    earlier, base = None, plan.name
    join = plan.join or own.join
    if plan.extend is not None:
        earlier = _named(store, plan.extend or None)
        _check_parties(office, earlier)
        _check_keys(earlier, data)
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
        if set(earlier.parties) != {office.party.name, *office.party.partners}:
            raise ModelError(
                f"alignment {earlier.name} is with other hosts than [peers] has: run `vfl align` "
                "without --extend"
            )
        join, base = earlier.join, base or _base(earlier.name)
    return _Settled(base, join, plan.engine or own.engine, earlier)


def _base(name: str) -> str | None:
    """The name that was given to an alignment; None if it has its time alone."""
    base = name.rsplit("-", 3)[0] if name.count("-") >= 3 else ""
    return base or None


@dataclass
class _Guest:
    """The guest's part of an alignment, an attempt after another."""

    office: Office
    table: Table
    ids: TableIds
    plan: _Settled
    show: Show
    diagnose: bool = False

    async def run(self, hosts: Sequence[Peer]) -> Aligned:
        """Match, join and keep."""
        office, plan, data = self.office, self.plan, self.office.party.data
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
        )
        await offer_to(office, hosts, offer)
        channels = [list(hosts)] if plan.join == "inner" else [[host] for host in hosts]
        with contextlib.ExitStack() as stack:
            have = {host.name: stack.enter_context(_announced(host, AlignKey)) for host in hosts}
            asked = stack.enter_context(_announced(hosts[0], AlignStart))
            matched = await together([self._match(offer, one) for one in channels])
        poor = [
            host
            for channel, one in zip(channels, matched, strict=True)
            for host in channel
            if self.diagnose
            or few(one.ids, *(one.earlier + ids[0] for ids in (asked, *(have[h.name] for h in channel))))
        ]
        diagnoses = await self._diagnosed(offer, poor) if poor else {}
        if not any(one.ids for one in matched):
            what = (
                "see the advice above"
                if diagnoses
                else "check that normalise in [data] fits how each party writes its ids (`vfl align "
                "--dry-run` shows it), and that they are the same ids"
            )
            raise DataError(
                f"no id is common to all parties: {what}", for_peer="no id is common to all parties"
            )
        with_host = matched if plan.join == "left" else list(matched) * len(hosts)
        await together([host.send(Accept(one.ids)) for host, one in zip(hosts, with_host, strict=True)])
        if plan.join == "left":
            every = np.sort(np.concatenate([self.ids.rows, self.ids.without_id]))
            rows = await guest_left(hosts, matched, every, secrets.token_bytes)
        else:
            rows = await guest_inner(hosts, matched[0], many=many)
        kept = await together([host.recv(Kept) for host in hosts])
        days = [one.days for one in kept if one.days is not None]
        who = [host.name for host in hosts] if plan.join == "left" else [""]
        by = dict(zip(who, matched, strict=True))
        alignment = replace(
            await asyncio.to_thread(self._kept, offer, rows, by), days=min(days, default=None)
        )
        await asyncio.to_thread(save_alignment, Store(office.party.party.store), alignment)
        known = {
            host.name: int((one.of_row[rows] >= 0).sum())
            for host, one in zip(hosts, with_host, strict=True)
        }
        return Aligned(
            alignment,
            Account.nothing(),
            self.table.rows,
            known,
            asked,
            have,
            ambiguities(matched),
            diagnoses,
            {name: one.earlier for name, one in by.items()},
        )

    async def _diagnosed(self, offer: Offer, hosts: Sequence[Peer]) -> dict[str, list[Diagnosis]]:
        """Why few ids match, by host and key; the hosts' policies may not allow it."""
        data = self.office.party.data
        found: dict[str, list[Diagnosis]] = {}
        for number, key in enumerate(OwnKey.all_of(data, self.table.by_key(data))):
            context = diagnosis_context(offer, number)
            of_key = await guest_diagnosis(hosts, key, context=context, show=self.show)
            for name, diagnosis in of_key.items():
                if diagnosis is not None:
                    found.setdefault(name, []).append(diagnosis)
            hosts = [host for host in hosts if of_key[host.name] is not None]
            if not hosts:
                break
        return found

    async def _match(self, offer: Offer, hosts: Sequence[Peer]) -> Matched:
        """The rows matched with all hosts of a channel."""
        data, earlier, left = self.office.party.data, self.plan.earlier, self.plan.join == "left"
        apart = hosts[0].name.encode() if left else b""
        number = sorted(offer.hosts).index(hosts[0].name) if left else 0
        start = None
        if earlier is not None:
            start = await guest_drop(hosts, await asyncio.to_thread(_again, earlier, number, self.ids))
        return await guest_match(
            hosts,
            self.ids.keys,
            context=offer.run + apart,
            settings=psi_settings(self.office, offer, self.show),
            start=start,
            many=data.duplicates == "keep",
        )

    def _kept(self, offer: Offer, rows: Integers, by: dict[str, Matched]) -> Alignment:
        """The alignment as this party keeps it; `by` has what is matched with each host, or with all."""
        party, secret = self.office.party, secrets.token_bytes(32)
        known = self.office.fingerprints
        channels = [by[who] for who in sorted(by)]
        keys = np.array([one.key_of_row[rows] for one in channels])
        # The keys up to which a row's ids decide how it is matched with all.
        last = np.where((keys < 0).any(axis=0), len(self.ids.keys) - 1, keys.max(axis=0))
        return Alignment(
            offer.alignment or "",
            self.office.identity.certificate.fingerprint,
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
            by_key={who: one.by_key for who, one in by.items()},
            key=secret.hex(),
            digests=identities(self.ids, secret, rows, last),
            matched=np.array([one.of_row[rows] for one in channels]).astype(np.int32),
            keys=keys.astype(np.int8),
        )


async def serve_align(office: Office, peer: Peer, offer: Offer, show: Show) -> str:
    """A host's part; what it came to, in words."""
    policy, matching = office.party.policy, offer.matching
    asked(office, peer, offer, show, f"extend {matching.extends}" if matching.extends else "align ids")
    check_align(policy, peer.name, today(), matching.engine, matching.join)
    table, ids = await table_of(office, offer)
    store = Store(office.party.party.store)
    name = fresh_name(store, "alignment", offer.alignment)
    earlier = None
    if matching.extends is not None:
        earlier = _made_with(office, store, peer, offer, matching.extends)
        check_age(policy, earlier.name, made_on(store, earlier), today())
    usage = Usage(office.party.party.store)
    usage.count(policy, peer.name, "alignments", 1, today())
    await accept(office, peer, offer)
    count_ids(peer, policy, usage)
    start = None
    if earlier is not None:
        start = await host_drop(peer, await asyncio.to_thread(_again, earlier, 0, ids))
    left = matching.join == "left"
    matched = await host_match(
        peer,
        ids.keys,
        alone(office, offer) if left else office.participant(offer.hosts, offer.run),
        settings=psi_settings(office, offer, show),
        start=start,
    )
    agreed = await _diagnosed(office, peer, offer, table, show)
    if agreed.rows != matched.ids:
        raise peer.breach("another number of common rows than this party has")
    check_intersection(policy, matched.ids)
    rows = await (host_left if left else host_inner)(peer, matched, many=matching.many)
    _, times = np.unique(rows[rows >= 0], return_counts=True)
    check_repeats(policy, int(times.max(initial=1)))
    alignment = await asyncio.to_thread(_host_kept, office, peer, offer, name, rows, matched, ids)
    await asyncio.to_thread(save_alignment, store, alignment)
    await peer.send(Kept(policy.alignment_days))
    written = await asyncio.to_thread(unmended, office.party.data, table.by_key(office.party.data))
    for note in (*ids.notes, *written, *ambiguities([matched])):
        show.say(f"note: {table.path.name}: {note}")
    joined = f" ({(rows >= 0).sum():,} joined)" if left or matching.many else ""
    rows_here = counted(len(ids.rows), "row")
    return f"aligned {matched.ids:,} of {rows_here}{joined} with {peer.name}"


async def _diagnosed(office: Office, peer: Peer, offer: Offer, table: Table, show: Show) -> Accept:
    """The guest's Accept, after it has asked why few ids match, once a key, or has not."""
    party = office.party
    for number, key in enumerate(OwnKey.all_of(party.data, table.by_key(party.data))):
        message = await peer.recv(Accept, MatchStart)
        if isinstance(message, Accept):
            return message
        await host_diagnosis(
            peer,
            message,
            key,
            name=party.name,
            context=diagnosis_context(offer, number),
            allowed=party.policy.diagnose,
            show=show,
        )
    return await peer.recv(Accept)


def diagnosis_context(offer: Offer, key: int) -> bytes:
    """What names the comparison of samples of a key's ids in a run."""
    return offer.run + b" match rates" + bytes([key])


def _host_kept(
    office: Office,
    peer: Peer,
    offer: Offer,
    name: str,
    rows: Integers,
    matched: Matched,
    ids: TableIds,
) -> Alignment:
    known, secret, matching = office.fingerprints, secrets.token_bytes(32), offer.matching
    _, first = numbered(rows)
    own = rows[first]
    keys = matched.key_of_row[own]
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
        office.party.policy.alignment_days,
        {office.party.name if matching.join == "left" else "": matched.by_key},
        secret.hex(),
        identities(ids, secret, own, keys),
        keys=keys[np.newaxis].astype(np.int8),
    )


def _again(earlier: Alignment, channel: int, ids: TableIds) -> Matched:
    """What an alignment says of a table as it is now, for `guest_drop` and `host_drop`."""
    if earlier.digests is None or earlier.keys is None:
        raise ModelError(f"alignment {earlier.name} is damaged: it has no identities")
    place = found(ids, bytes.fromhex(earlier.key), earlier.digests)
    number = numbered(earlier.rows if earlier.matched is None else earlier.matched[channel])[0]
    count = int(number.max(initial=-1)) + 1
    at = place.first
    if earlier.matched is None or not earlier.many:  # a row that others are like now is told by no id
        at = np.full(len(ids.group), -1, np.int64)
        there = np.flatnonzero(place.rows >= 0)
        at[place.rows[there]] = there
    if earlier.matched is None:  # a host, which has an identity for each of its rows
        number = np.arange(count)
    of_row = np.append(number, -1)[at]
    key = np.append(earlier.keys[channel].astype(np.int64), -1)[at]
    return Matched(of_row, np.where(of_row < 0, -1, key), count)


# Finding an alignment again.


def guest_alignment(office: Office, store: Store, name: str | None) -> Alignment:
    """An alignment to train on, None for the latest.

    Raises ModelError when there is none, or it does not fit the table's keys or the parties any more.
    """
    alignment = _named(store, name)
    _check_keys(alignment, office.party.data)
    _check_parties(office, alignment)
    return alignment


def host_alignment(office: Office, store: Store, peer: Peer, offer: Offer, ids: TableIds) -> Alignment:
    """The alignment that the offer names, if it is with this guest, these hosts and this table's rows,
    with its rows in the table as it is now. Raises ModelError and Refused."""
    if offer.alignment is None:
        raise peer.breach("an Offer to train without an alignment")
    alignment = _made_with(office, store, peer, offer, offer.alignment)
    check_age(office.party.policy, alignment.name, made_on(store, alignment), today())
    check_join(office.party.policy, alignment.join)
    try:
        return refreshed(alignment, ids, office.party.data.path.name)
    except ModelError as error:
        raise ModelError(
            str(error),
            for_peer=f"its table changed since alignment {alignment.name}: run `vfl align --extend`"
            if alignment.key
            else f"its table changed since alignment {alignment.name}: run `vfl align` again",
        ) from None


def refreshed(alignment: Alignment, ids: TableIds, file: str) -> Alignment:
    """An alignment with its rows in the table as it is now.

    Raises ModelError when rows of it are gone, or one of them has become several.
    """
    if is_of(alignment, ids):
        return alignment
    if not alignment.key or alignment.digests is None:
        raise ModelError(
            f"{file} has other ids (or another order) than when alignment {alignment.name} was made: "
            "run `vfl align` again"
        )
    rows = found(ids, bytes.fromhex(alignment.key), alignment.digests).rows
    if gone := int((rows < 0).sum()):
        raise ModelError(
            f"{file} has {gone:,} of the rows of alignment {alignment.name} no more, or in another "
            f"number: run `vfl align --extend {alignment.name}`, which leaves them out"
        )
    if alignment.matched is None:  # a host's: an identity for each of its rows
        rows = np.append(rows, -1)[numbered(alignment.rows)[0]]
    return replace(alignment, rows=rows)


def is_of(alignment: Alignment, ids: TableIds) -> bool:
    """Whether the table has the same ids in the same rows as when it was aligned."""
    if alignment.key:
        return alignment.ids == ids.digest
    return not alignment.fallback and alignment.ids == ids_digest(ids.keys[0].ids)


def made_on(store: Store, alignment: Alignment) -> date:
    """The day (UTC) on which an alignment was made or extended."""
    if alignment.made:
        return datetime.fromisoformat(alignment.made).date()
    return datetime.fromtimestamp(store.path("alignment", alignment.name).stat().st_mtime, UTC).date()


def listed(store: Store, policy: PolicySection) -> list[dict[str, Any]]:
    """All alignments of a party that can be read, the oldest first, for `vfl alignments`."""
    rows: list[dict[str, Any]] = []
    for name in store.names("alignment"):
        try:
            alignment = load_alignment(store, name)
        except ModelError as error:
            rows.append({"name": name, "made": "", "error": str(error)})
            continue
        days = [d for d in (alignment.days, policy.alignment_days) if d is not None]
        last = last_day(made_on(store, alignment), min(days, default=None))
        rows.append(
            {
                "name": name,
                "made": alignment.made or made_on(store, alignment).isoformat(),
                "rows": len(alignment.rows),
                "known": int((alignment.rows >= 0).sum()),
                "parties": list(alignment.parties),
                "join": alignment.join,
                "engine": alignment.engine,
                "keys": [list(rule) for rule in alignment.rules],
                "many": alignment.many,
                "by_key": {who: list(counts) for who, counts in alignment.by_key.items()},
                "extends": alignment.extends,
                "expires": None if last is None else last.isoformat(),
                "expired": last is not None and last < today(),
            }
        )
    return sorted(rows, key=lambda row: (row["made"], row["name"]))


def _named(store: Store, name: str | None) -> Alignment:
    if name is None:
        if not store.names("alignment"):
            raise ModelError("there is no alignment yet: run `vfl align` first")
        name = store.latest("alignment")
    return load_alignment(store, resolve_model(store, name, "alignment"))


def _check_parties(office: Office, alignment: Alignment) -> None:
    changed = [n for n, print_ in alignment.parties.items() if not office.same_party(n, print_)]
    if changed:
        raise ModelError(
            f"alignment {alignment.name} was made with another certificate of {' and '.join(changed)}: "
            "align again"
        )


def _check_keys(alignment: Alignment, data: DataSection) -> None:
    if alignment.rules != [key.normalise for key in data.keys]:
        raise ModelError(
            f"alignment {alignment.name} was made by other keys, or other rules for ids, than [data] "
            "has: align again"
        )


def _made_with(office: Office, store: Store, peer: Peer, offer: Offer, name: str) -> Alignment:
    """The host's alignment of that name, if it is with this guest and these hosts."""
    if name not in store.names("alignment"):
        raise ModelError(
            f"there is no alignment {name} here",
            for_peer=f"it has no alignment {name}: run `vfl align` again",
        )
    alignment = load_alignment(store, name)
    if not office.same_party(peer.name, alignment.guest) or set(alignment.parties) != {
        peer.name,
        *offer.hosts,
    }:
        raise Refused(f"alignment {alignment.name} was made with other parties")
    rules = [tuple(offer.normalise), *map(tuple, offer.matching.fallback)]
    if offer.task == "align" and (
        (alignment.join, alignment.many) != (offer.matching.join, offer.matching.many)
        or alignment.rules != rules
        or not alignment.key
    ):
        raise Refused(f"alignment {alignment.name} joins rows in another way: align anew")
    return alignment


# What alignments, trainings and batches have in common.


def known_rows(rows: Integers) -> int:
    """How many rows of a party's own an alignment, or part of it, is of."""
    return len(np.unique(rows[rows >= 0]))


def read_guest(
    data: DataSection, *, show: Show, loss: Loss | None = None, unused: Collection[str] = ()
) -> tuple[Table, TableIds]:
    """The guest's table, with its label if there is a `loss` to check it, and its ids.

    unused: uses of columns that the job does without.
    """
    table = read_table(data, role="guest", need_label=loss is not None, loss=loss, unused=unused)
    for warning in table.warnings:
        show.say(f"note: {warning}")
    return table, ids_of(table, data)


def read_host(
    office: Office, expect: Sequence[str] | None = None, needed: Collection[str] | None = None
) -> tuple[Table, TableIds]:
    """A host's table, of which one row stands for all with the same id, and its ids.

    expect, needed: of `read_table`, the columns of a model alone and those that must be fine.
    """
    data = office.party.data
    table = read_table(data, role="host", need_label=False, expect=expect, needed=needed)
    if expect is None:
        features = allowed_columns(office.party.policy, table.features, table.path.name, table.faults)
        table = replace(table, features=features)
    ids = ids_of(table, data)
    if data.duplicates != "refuse" and data.duplicates != "keep":
        table = table.aggregated(ids.group, data.duplicates, data.aggregate)
    return table, ids


def ids_of(table: Table, data: DataSection) -> TableIds:
    """The ids of a table by all keys of its party file."""
    rule = data.duplicates
    stands: Stands = "first"
    if rule == "refuse" or rule == "keep" or rule == "last":
        stands = rule
    rules = [key.normalise for key in data.keys]
    return all_keys(
        table.by_key(data),
        rules,
        stands,
        data.empty,
        table.path.name,
        data.id_readings,
        table.row_numbers,
    )


async def table_of(
    office: Office,
    offer: Offer,
    expect: Sequence[str] | None = None,
    needed: Collection[str] | None = None,
) -> tuple[Table, TableIds]:
    """The host's table as it is now, with ids by the rules both sides name; else as `read_host`."""
    keys = office.party.data.keys
    why = disagreement(
        office.party.name,
        [key.normalise for key in keys],
        [offer.normalise, *offer.matching.fallback],
        ([len(key.id) for key in keys], offer.matching.columns),
    )
    if why is not None:
        raise Refused(why)
    # In a thread: the guest would hold a host for dead that says nothing while it reads.
    return await asyncio.to_thread(read_host, office, expect, needed)


def matching_of(
    data: DataSection,
    *,
    engine: Engine = "ecdh",
    join: JoinKind = "inner",
    many: bool = False,
    extends: str | None = None,
) -> Matching:
    """What a guest's Offer says of its keys and of how rows are matched."""
    return Matching(
        [list(key.normalise) for key in data.fallback],
        [len(key.id) for key in data.keys],
        engine,
        join,
        many,
        extends,
    )


def psi_settings(office: Office, offer: Offer, show: Show) -> PsiSettings:
    """How ids are matched in a job."""
    return PsiSettings(offer.matching.engine, Store(office.party.party.store).scratch(), show.progress)


def alone(office: Office, offer: Offer) -> Participant:
    """This host in a matching with the guest alone, which asks each host apart."""
    name = office.party.name
    return Participant(name, [name], offer.run + name.encode())


def asked(office: Office, peer: Peer, offer: Offer, show: Show, what: str) -> None:
    """Say what is asked. Raises PeerError for an Offer that is not what it should be."""
    show.say(f"{peer.name} asks to {what}")
    check_offer(office, peer, offer)


async def accept(office: Office, peer: Peer, offer: Offer, rows: int | None = None) -> Any:
    """Count the job, which starts here, and tell the guest that this host takes part.

    A job that goes on counts again: each attempt may ask this party anew. Returns the agreement.
    """
    Usage(office.party.party.store).count(office.party.policy, peer.name, "jobs", 1, today())
    return await accept_offer(office, peer, offer, rows)


def fresh_name(store: Store, kind: Kind, name: str | None) -> str:
    """The name for a new document. Raises Refused when it is taken: nothing is overwritten."""
    if name is None or name in store.names(kind):
        raise Refused(f"the {kind} that the guest names exists already at the host")
    return name


def count_ids(peer: Peer, policy: PolicySection, usage: Usage) -> None:
    """Count ids as the guest announces them, before any is looked for."""

    def count(direction: str, kind: str, payload: bytes) -> None:
        if (direction, kind) == ("received", AlignStart.__name__):
            message = decode(payload, [AlignStart])
            many = message.ids if isinstance(message, AlignStart) else 0
            usage.count(policy, peer.name, "ids", max(0, many), today())

    peer.observers.append(count)


def ambiguities(matched: Sequence[Matched]) -> list[str]:
    """What there is to say of rows that a further key does not tell apart."""
    return [
        f"{most:,} row{'s share' if most > 1 else ' shares'} the id of key {number} with others that no "
        f"earlier key matched: not matched by it"
        for number, counts in enumerate(zip(*(one.ambiguous for one in matched), strict=False), 1)
        if (most := max(counts))
    ]


@contextlib.contextmanager
def _announced(host: Peer, kind: type[AlignKey] | type[AlignStart]) -> Iterator[list[int]]:
    """How many ids a message of that kind names, one number a key."""
    numbers: list[int] = []

    def note(direction: str, name: str, payload: bytes) -> None:
        if name == kind.__name__:
            message = decode(payload, [kind])
            if isinstance(message, kind):
                numbers.append(message.ids)

    host.observers.append(note)
    try:
        yield numbers
    finally:
        host.observers.remove(note)
