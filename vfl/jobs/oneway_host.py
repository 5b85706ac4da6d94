"""A host's part of a table by factors (oneway.py): what it lets in, and what it remembers of it."""

import asyncio
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated, Literal

import msgspec
import numpy as np
from msgspec import UNSET, UnsetType
from numpy.typing import NDArray

from vfl.arrays import Integers, Mask
from vfl.blocks.scratch import Scratch
from vfl.crypto.workers import Operations
from vfl.errors import Refused
from vfl.jobs.admission import accept, check_request
from vfl.jobs.alignments import (
    Alignment,
    count_known_rows,
    host_alignment,
    most_joined,
)
from vfl.jobs.approval import approve
from vfl.jobs.approval_view import Brought
from vfl.jobs.commitments import digest_table
from vfl.jobs.connect import Site
from vfl.jobs.evidence import Answers, PassedOn, digests_if_kept, keeping
from vfl.jobs.kept_tables import keep_table
from vfl.jobs.offer import Offer, OfferedName
from vfl.jobs.own_table import table_of
from vfl.jobs.show import Show
from vfl.jobs.sums_given import SumsGiven, guest_of
from vfl.jobs.told_cells import Cut, ToldCells
from vfl.learn.binning import Column, Features
from vfl.learn.cells import Factor, column_of, counts_of, factor_of, grouped_values
from vfl.learn.factor_tables import AGAINST, SUMS
from vfl.learn.levels import tidy_levels
from vfl.net.peer import Peer
from vfl.party.documents import canonical_json
from vfl.party.policy import check_intersection, check_oneway, today
from vfl.party.policy_section import PolicySection
from vfl.party.table import Table, feature_names
from vfl.protocols.common.participant import Participant
from vfl.protocols.oneway.host_cells import HostCells, cells_of_factors
from vfl.protocols.oneway.messages import TableEncryption, TableShared
from vfl.protocols.oneway.pairs import host_pair
from vfl.protocols.oneway.sums import HostTerms
from vfl.protocols.oneway.tables import host_table
from vfl.text import counted

_FACTOR = Annotated[str, msgspec.Meta(min_length=1, max_length=1000)]


class TableSection(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the ledger shows of a table."""

    purpose: Annotated[str, msgspec.Meta(min_length=1, max_length=200)]
    name: Literal["oneway"] = "oneway"


class AskedTable(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a guest asks a host for; its canonical JSON is signed."""

    job: TableSection
    factors: Annotated[list[_FACTOR], msgspec.Meta(min_length=1, max_length=2)]
    """Of the host, by name or by number."""
    encryption: Literal["lattice", "paillier"] | None = None
    """None: lattice where the host's policy has it, else paillier."""
    of: Annotated[list[OfferedName], msgspec.Meta(min_length=2, max_length=2)] | UnsetType = UNSET
    """Of two hosts, whose factors they are."""

    def at(self, host: str, hosts: Sequence[str]) -> list[str]:
        """The factors that are of one of the hosts. Raises ValueError for what is no such table."""
        if isinstance(self.of, UnsetType):
            return self.factors
        if len(self.factors) != 2 or self.of != [*hosts] or self.of.count(host) != 1:
            raise ValueError("a table of other hosts than it is offered to")
        return [self.factors[self.of.index(host)]]

    @property
    def is_pair(self) -> bool:
        """Whether it is by factors of two hosts."""
        return not isinstance(self.of, UnsetType)

    @property
    def wanted(self) -> TableEncryption | None:
        """Under what the numbers are to be; None: as the host's policy has it."""
        return "paillier" if self.is_pair else self.encryption

    @property
    def canonical(self) -> bytes:
        return canonical_json(msgspec.to_builtins(self))


async def serve_oneway(site: Site, peer: Peer, offer: Offer, show: Show) -> str:
    """Add a guest's numbers up by factors of this party's."""
    policy, store = site.party.policy, site.store
    try:
        asked = msgspec.json.decode(offer.job, type=AskedTable)
        wanted = asked.at(site.party.name, offer.hosts)
    except (ValueError, RecursionError):
        raise peer.breach("an Offer of a table that is none") from None
    if not asked.job.purpose.isprintable():
        raise peer.breach("an Offer with a purpose that cannot be printed")
    several = "a factor" if len(asked.factors) == 1 else "two factors"
    is_pair = asked.is_pair
    if is_pair:
        several = f"a factor and one of {' and '.join({*offer.hosts} - {site.party.name})}"
    check_request(site, peer, offer, show, f"add up by {several} ({asked.job.purpose})")
    check_oneway(policy, asked.job.purpose, peer.name, today(), pair=is_pair)
    encryption_of(policy, asked.wanted)
    columns = await asyncio.to_thread(columns_of, site, wanted)
    table, ids = await table_of(site, offer, expect=columns)
    alignment = await asyncio.to_thread(host_alignment, site, store, peer, offer, ids)
    del ids
    ids_digest, alignment = alignment.digest_of_ids, alignment.without_ids
    check_intersection(policy, await asyncio.to_thread(count_known_rows, alignment.rows))
    if is_pair and (alignment.rows < 0).any():
        raise Refused(
            "a table by factors of two hosts is of rows that both know, and this alignment has others "
            "(a left join): run `vfl align --join inner`"
        )
    work, features = await asyncio.to_thread(table_work, site, table, alignment, columns)
    del table
    rows = len(alignment.rows)
    approved = await approve(site, peer, offer, show, Brought(columns, alignment=alignment))
    commits = await digests_if_kept(site, lambda: digest_table(features, ids=ids_digest))
    with keeping(site, show, lambda: commits) as kept:
        commitment = kept.commitment
        agreement = await accept(site, peer, offer, rows, approved=approved, commitment=commitment)
        kept.agreed(agreement, offer.job, [peer])
        work.answers = kept.answers
        randomness = kept.randomness_of(offer.run)
        participant = site.participant(offer.hosts, offer.run, 1, Operations(), randomness)
        participant = participant.asking(kept.sign(site.identity.sign), kept.say)
        shared = await tell_table(peer, work, asked, participant, show)
        if shared.lines:
            work.keep(peer, offer.model, shared.lines)
    by = " and ".join(columns)
    return f"told {peer.name} a table by {by}"


def table_work(
    site: Site, table: Table, alignment: Alignment, columns: Sequence[str]
) -> tuple["HostTable", Features]:
    """What tables by these columns are made of, and all columns of the aligned rows."""
    given, groups = SumsGiven(site.store, alignment), site.party.glm.group
    features = tidy_levels(table.take(alignment.rows))
    own = {name: grouped_values(features[name], groups.get(name, {})) for name in columns}
    return HostTable(site, given, alignment, [*columns], own), features


async def tell_table(
    guest: Peer, work: "HostTable", asked: AskedTable, participant: Participant, show: Show
) -> TableShared:
    """A host's part of a table after the agreement, in a job and in its replay; what the guest shares
    of it. Raises Refused."""
    policy, rows = work.site.party.policy, len(work.alignment.rows)
    is_pair = asked.is_pair
    terms = HostTerms(encryption_of(policy, asked.wanted), policy.key_bits)
    if is_pair:
        await host_pair(guest, rows, work.cells, terms, work.count, participant)
    else:
        await host_table(
            *(guest, rows, work.cells, terms, work.count, participant.resources),
            hint_progress=lambda done, of: show.progress("making a hint", done, of),
        )
    return await guest.recv(TableShared)


def encryption_of(policy: PolicySection, wanted: TableEncryption | None) -> TableEncryption:
    """The one that the guest wants, or the first of these that the policy has."""
    for one in ("lattice", "paillier") if wanted is None else (wanted,):
        if one in policy.encryptions:
            return one
    raise Refused(
        f'a table under encryption = "{wanted or "lattice"}" breaks rule encryptions of [policy]: '
        "use one of these, or the host adds it there"
    )


def columns_of(site: Site, factors: Sequence[str]) -> list[str]:
    """The columns that a guest means, by name where the policy shows names, else by number.

    Raises Refused alike for a column that is not there and for one that is not allowed.
    """
    policy, name = site.party.policy, site.party.name
    names = feature_names(site.party.data, "host", Scratch(site.store.scratch(make=False)))
    if policy.columns is not None:
        names = [one for one in names if one in policy.columns]
    of = {one: one for one in names}
    if not policy.show_names:
        of = {f"{number}": one for number, one in enumerate(names, 1)}
    if isinstance(policy.oneway, tuple):
        of = {key: one for key, one in of.items() if one in policy.oneway}
    found = []
    for factor in factors:
        if factor not in of:
            allowed = ", ".join(f"{name}:{key}" for key in list(of)[:20]) or "none"
            raise Refused(f"no table is by {name}:{factor}: the policy allows {allowed}")
        found.append(of[factor])
    return found


@dataclass
class HostTable:
    """The rows of a host that a table may be of."""

    site: Site
    given: SumsGiven
    alignment: Alignment
    columns: list[str]
    features: dict[str, NDArray[np.generic]]  # of the aligned rows
    chosen: Mask | None = None
    cuts: dict[str, Column] = field(default_factory=dict)
    levels: list[tuple[str, ...]] = field(default_factory=list)  # of each cell, the total last
    answers: Answers = field(default_factory=PassedOn)
    replayed: bool = False  # whether nothing is kept or counted

    def cells(self, chosen: Mask) -> HostCells:
        """What is told of some rows, kept before it is. Raises Refused."""
        policy, self.chosen = self.site.party.policy, chosen
        minimum, own = policy.min_cell_rows, self.given.of_aligned[chosen].astype(np.int64)
        factors = [self.factor(name, chosen, own, minimum) for name in self.columns]
        for factor, name in zip(factors, self.columns, strict=True):
            self.keep_cells([name], chosen, factor.codes, minimum)
        self.levels = [*itertools.product(*(factor.levels for factor in factors))]
        self.levels.append(("(total)",) + ("",) * (len(factors) - 1))
        repeats = most_joined(self.alignment.rows)
        # In the same order whichever comes first: other cells would be withheld, and those that are
        # withheld in one table follow from what the other one tells.
        names = sorted(self.columns)
        turned = names != self.columns
        cells = cells_of_factors(factors[::-1] if turned else factors, own, minimum, minimum * repeats)
        if len(factors) > 1:
            # Those that are withheld follow together from what is told of each factor.
            together = np.where((cells.codes < 0) & (own >= 0), cells.count, cells.codes)
            self.keep_cells(names, chosen, together, minimum)
        if turned:
            cells = cells.turned
        return replace(cells, levels=[self.shown(factor) for factor in factors])

    def keep(self, guest: Peer, model: str | None, lines: list[list[float | None]]) -> None:
        """Keep a table that the guest shares, if it is of a model that this party has a half of.

        Raises PeerError for one of other cells.
        """
        cells = [(*levels, *numbers) for levels, numbers in zip(self.levels, lines, strict=False)]
        size = len(SUMS) + len(AGAINST)
        if len(lines) != len(self.levels) or any(len(of) not in (len(SUMS), size) for of in lines):
            raise guest.breach("TableShared of other cells than it was told")
        if any(one is not None and not math.isfinite(one) for of in lines for one in of):
            raise guest.breach("TableShared with what is no number")
        store = self.site.store
        if model is not None and model in store.names("model") and len(lines[0]) == size:
            by = [f"{self.site.party.name}:{name}" for name in self.columns]
            keep_table(store, model, by, [*by, *SUMS, *AGAINST], cells)

    def count(self, sums: float) -> None:
        """Count what is about to be told. Raises Refused."""
        if self.chosen is None:
            raise ValueError("no rows were asked for")
        if not self.replayed:
            self.given.tell(self.site.party.policy, self.chosen, sums)

    def factor(self, name: str, chosen: Mask, own: Integers, minimum: int) -> Factor:
        """A column in levels of enough rows, cut as it was told before."""
        every = self.features[name]
        told = ToldCells(self.site.store, guest_of(self.alignment), [name])
        cut = self.answers.ask("how a column was cut before", Cut | None, told.cut)
        kept = None if cut is None else cut.column(name)
        rules, known = self.site.party.glm, every[self.alignment.rows >= 0]
        bands = rules.bands.get(name, ())
        if kept is None or bands or (kept.edges is None) != (every.dtype == object):
            kept = column_of(name, known, rules.bins, minimum, bands)
        self.cuts[name] = column = kept
        factor = factor_of(column, every[chosen])
        factor = replace(factor, codes=np.where(own < 0, -1, factor.codes))
        try:
            return factor.grouped(counts_of(factor.codes, len(factor.levels), own), minimum)
        except ValueError:
            raise Refused(
                f"the rows of the table that the host knows are fewer than {counted(minimum, 'row')} "
                "(min_cell_rows of [policy]): ask about more"
            ) from None

    def keep_cells(self, columns: Sequence[str], chosen: Mask, codes: Integers, minimum: int) -> None:
        """Have the cells of rows be known from now on."""
        if self.replayed:
            return
        of_own = np.full(len(self.given.numbers) + 1, -1)
        own = self.given.of_aligned[chosen]
        of_own[own[own >= 0]] = codes[own >= 0]
        told = ToldCells(self.site.store, guest_of(self.alignment), columns)
        column = self.cuts[columns[0]] if len(columns) == 1 else None
        told.tell(self.given.numbers, of_own[:-1], minimum, column)

    def shown(self, factor: Factor) -> list[str]:
        """The names of levels as the guest may see them."""
        if self.site.party.policy.show_names:
            return list(factor.levels)
        return [f"level {number}" for number in range(1, len(factor.levels) + 1)]
