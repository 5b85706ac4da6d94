"""A host's part of a screening (screening.py): what it lets in, and what its people are told of it."""

import asyncio
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import Annotated

import msgspec
import numpy as np

from vfl.arrays import Integers, Mask
from vfl.blocks.scratch import Scratch
from vfl.crypto.workers import Operations
from vfl.errors import Refused
from vfl.jobs.admission import accept, check_request
from vfl.jobs.alignments import count_known_rows, host_alignment, joined_rows
from vfl.jobs.approval import approve
from vfl.jobs.approval_view import Brought
from vfl.jobs.columns_given import ColumnsGiven
from vfl.jobs.commitments import digest_table
from vfl.jobs.connect import Site
from vfl.jobs.correlations_given import CorrelationsGiven
from vfl.jobs.evidence import digests_if_kept, keeping
from vfl.jobs.names import JOB_LENGTH
from vfl.jobs.offer import Kept, Name, Offer, stamp
from vfl.jobs.oneway_host import HostTable, encryption_of, table_work
from vfl.jobs.own_table import table_of
from vfl.jobs.screening_advice import (
    CORRELATED,
    Outcome,
    correlation_rows,
    keep_outcome,
    written,
)
from vfl.jobs.show import Show
from vfl.learn.advice import Thresholds
from vfl.learn.association import Associated
from vfl.learn.binning import Features
from vfl.learn.cells import counts_of
from vfl.learn.inference import Inference
from vfl.learn.inflation import InflationDesign
from vfl.learn.losses import Family, Objective, loss_of
from vfl.learn.matrix import Whole
from vfl.learn.params import MAX_LEVERAGE
from vfl.learn.screening import Strength
from vfl.net.peer import Peer
from vfl.party.documents import canonical_json
from vfl.party.policy import check_intersection, today
from vfl.party.table import feature_names
from vfl.party.told_rules import check_screen
from vfl.protocols.common.participant import Participant
from vfl.protocols.linear.correlations import HostColumns, Told, host_correlations
from vfl.protocols.linear.inflation import host_inflation
from vfl.protocols.oneway.messages import TableEncryption
from vfl.protocols.oneway.screening import HostColumn, HostScreen, ScreenRules, host_screen
from vfl.protocols.oneway.sums import HostTerms
from vfl.report.words import listed
from vfl.text import counted


class ScreenJob(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the ledger shows of a screening."""

    purpose: Annotated[str, msgspec.Meta(min_length=1, max_length=200)]
    name: Name


class AskedScreen(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a guest asks hosts for; its canonical JSON is signed."""

    job: ScreenJob
    label: Objective | Family
    tweedie_power: Annotated[float, msgspec.Meta(gt=1, lt=2)]
    theta: Annotated[float, msgspec.Meta(gt=0, le=1e6)]
    min_iv: Annotated[float, msgspec.Meta(ge=0)]
    max_vif: Annotated[float, msgspec.Meta(gt=1)]
    vif: bool
    tell_hosts: bool
    encryption: TableEncryption | None = None
    correlations: bool = False
    max_leverage: Annotated[float, msgspec.Meta(gt=0, le=1)] = MAX_LEVERAGE

    @property
    def canonical(self) -> bytes:
        fields = msgspec.to_builtins(self)
        if not self.correlations:
            del fields["correlations"]  # as it was before there were any
        if self.max_leverage == MAX_LEVERAGE:
            del fields["max_leverage"]
        return canonical_json(fields)


async def serve_screen(site: Site, peer: Peer, offer: Offer, show: Show) -> str:
    """Have this party's columns screened, and write down for its people what came of it."""
    policy, store = site.party.policy, site.store
    asked = _asked(peer, offer)
    check_request(site, peer, offer, show, f"screen columns for {asked.job.name} ({asked.job.purpose})")
    check_screen(
        *(policy, asked.job.purpose, peer.name, today()),
        tells=asked.tell_hosts,
        inflation=asked.max_leverage if asked.vif else None,
        correlations=asked.correlations,
    )
    if asked.vif:
        await asyncio.to_thread(ColumnsGiven(store).check_room, policy, peer.name)
    encryption_of(policy, asked.encryption)
    columns, tables = await asyncio.to_thread(screened_columns, site, asked.tell_hosts)
    table, ids = await table_of(site, offer)
    alignment = await asyncio.to_thread(host_alignment, site, store, peer, offer, ids)
    del ids
    ids_digest, alignment = alignment.digest_of_ids, alignment.without_ids
    check_intersection(policy, await asyncio.to_thread(count_known_rows, alignment.rows))
    work, features = await asyncio.to_thread(table_work, site, table, alignment, [*columns])
    del table
    rows = len(alignment.rows)
    approved = await approve(site, peer, offer, show, Brought([*columns], alignment=alignment))
    commits = await digests_if_kept(site, lambda: digest_table(features, ids=ids_digest))
    with keeping(site, show, lambda: commits) as kept:
        commitment = kept.commitment
        agreement = await accept(site, peer, offer, rows, approved=approved, commitment=commitment)
        kept.agreed(agreement, offer.job, [peer])
        work.answers = kept.answers
        operations, randomness = Operations(), kept.randomness_of(offer.run)
        minimum = policy.min_intersection
        participant = site.participant(offer.hosts, offer.run, minimum, operations, randomness)
        participant = participant.asking(kept.sign(site.identity.sign), kept.say)
        columns_here = ScreenedColumns(work, columns, tables)
        screened = await HostScreening(asked, columns_here, features, participant, show).screen(peer)
        await _keep(site, peer, offer, asked, columns_here, screened, show)
    return f"had {counted(len(columns), 'column')} screened for {peer.name}"


@dataclass(frozen=True)
class _Screened:
    """What a host knows of its columns."""

    found: HostScreen
    design: InflationDesign | None
    inferred: Inference | None
    correlated: list[Told]


@dataclass(frozen=True)
class HostScreening:
    """A host's part of a screening after the agreement, in a job and in its replay."""

    asked: AskedScreen
    work: "ScreenedColumns"
    features: Features  # of the aligned rows
    participant: Participant
    show: Show

    async def screen(self, guest: Peer) -> _Screened:
        """All that is asked for. Raises Refused."""
        asked, work, show, policy = self.asked, self.work, self.show, self.work.site.party.policy
        terms = HostTerms(encryption_of(policy, asked.encryption), policy.key_bits)
        loss = loss_of(asked.label, asked.tweedie_power, asked.theta)
        found = await host_screen(
            guest,
            len(work.table.alignment.rows),
            work.of_rows,
            ScreenRules(terms, policy.min_cell_rows, asked.tell_hosts, loss),
            work.table.count,
            self.participant.resources,
            hint_progress=lambda done, of: show.progress("making a hint", done, of),
        )
        design, inferred = None, None
        if asked.vif:
            most, about = asked.max_leverage, joined_rows(work.table.alignment)
            given = self.participant, self.features, most, about, show
            design, inferred = await _inflation(work.site, guest, *given)
        correlated: list[Told] = []
        if asked.correlations:
            correlated = await _correlations(guest, self.participant, work, self.features)
        return _Screened(found, design, inferred, correlated)


async def _keep(
    site: Site,
    peer: Peer,
    offer: Offer,
    asked: AskedScreen,
    columns: "ScreenedColumns",
    screened: _Screened,
    show: Show,
) -> None:
    """Write down what was found for this party's people, and tell the guest that it is kept."""
    found, inferred, names = screened.found, screened.inferred, columns.shown
    strengths = {
        name: Strength(None, figure.information, figure.share)
        for name, figure in zip(names, found.figures, strict=True)
    }
    # Of two parties that have the same, the guest keeps it, or the first host.
    first = {peer.name, *offer.hosts[: offer.hosts.index(site.party.name)]}
    made_up = () if inferred is None else inferred.aliases
    gives_way = any(first & {*alias.parties} for alias in made_up)
    thresholds = Thresholds(asked.min_iv, asked.max_vif)
    outcome = Outcome.of(thresholds, strengths, screened.design, inferred, gives_way=gives_way)
    named = [replace(one, name=name) for name, one in zip(names, found.tables, strict=False)]
    name = f"{asked.job.name[:JOB_LENGTH]}-{stamp(offer.run)}"
    title = f"the screening for {asked.job.name} by {peer.name}"
    path = await asyncio.to_thread(keep_outcome, site, name, title, outcome, named)
    if screened.correlated:
        content = written([CORRELATED, *correlation_rows(screened.correlated)])
        await asyncio.to_thread(
            site.store.write_beside, "screen", f"{name}-correlations", "csv", content
        )
    await peer.send(Kept())
    show.say(f"{title} advises to leave out {counted(len(outcome.reasons), 'column')}: see {path}")


def _asked(peer: Peer, offer: Offer) -> AskedScreen:
    """What the guest asks for. Raises PeerError."""
    try:
        asked = msgspec.json.decode(offer.job, type=AskedScreen)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        raise peer.breach("an Offer of a screening that is none") from None
    if not asked.job.purpose.isprintable() or asked.label in ("quantile", "multiclass"):
        raise peer.breach("an Offer of a screening that cannot be")
    return asked


def screened_columns(site: Site, tells: bool) -> tuple[dict[str, str], frozenset[str]]:
    """The columns that may be screened, with what the guest may call them; and those of them whose
    tables it may have. Raises Refused where there are none."""
    policy = site.party.policy
    names = feature_names(site.party.data, "host", Scratch(site.store.scratch(make=False)))
    if policy.columns is not None:
        names = [one for one in names if one in policy.columns]
    shown = {one: one if policy.show_names else f"{number}" for number, one in enumerate(names, 1)}
    tables = {name for name in names if _allows(policy.oneway, name)}
    allowed = {name for name in names if name in tables or (tells and _allows(policy.screen, name))}
    if not allowed:
        raise Refused(
            "none of its columns may be screened, by oneway and screen of [policy]: the host names "
            "others there"
        )
    return {name: shown[name] for name in names if name in allowed}, frozenset(tables)


def _allows(rule: bool | Collection[str], name: str) -> bool:
    return rule if isinstance(rule, bool) else name in rule


@dataclass(frozen=True)
class ScreenedColumns:
    """The columns of a host that are screened, of the rows that a guest asks about."""

    table: HostTable
    shown: dict[str, str]
    tables: Collection[str]

    @property
    def site(self) -> Site:
        return self.table.site

    @property
    def chosen(self) -> Mask:
        """The aligned rows that the guest has asked about."""
        if self.table.chosen is None:
            raise ValueError("no rows were asked about yet")
        return self.table.chosen

    def of_rows(self, chosen: Mask) -> list[HostColumn]:
        """What there is of some rows; of what is told as a table it is kept before it is. Raises
        Refused."""
        work, minimum = self.table, self.table.site.party.policy.min_cell_rows
        work.chosen = chosen
        own = work.given.of_aligned[chosen].astype(np.int64)
        factors = {name: work.factor(name, chosen, own, minimum) for name in self.shown}
        found = []
        for name, factor in factors.items():
            is_told = name in self.tables
            if is_told:
                work.keep_cells([name], chosen, factor.codes, minimum)
            rows = counts_of(factor.codes, len(factor.levels))
            shown = work.shown(factor) if is_told else None
            found.append(HostColumn(self.shown[name], factor.levels, shown, factor.codes, rows))
        return found


async def _correlations(
    peer: Peer, participant: Participant, work: "ScreenedColumns", features: Features
) -> list[Told]:
    """The party's part of correlations, over all its columns that may enter a model."""
    site, policy, chosen = work.site, work.site.party.policy, work.chosen
    rows, data = int(chosen.sum()), site.party.data
    names = feature_names(data, "host", Scratch(site.store.scratch(make=False)))
    if policy.columns is not None:
        names = [one for one in names if one in policy.columns]
    places = {name: name if policy.show_names else f"{at}" for at, name in enumerate(names, 1)}
    of_rows = {name: features[name][chosen] for name in names}
    turn = participant.resources.randomness.at("turned columns")
    own = await asyncio.to_thread(Associated.of, of_rows, site.party.glm.min_level_rows, turn)
    given, between = CorrelationsGiven(site.store, peer.name), policy.correlations_between_hosts
    shown = [places[one.name] for one in own.columns]
    joined = None
    for numbers in joined_rows(work.table.alignment):
        _, place, counts = np.unique(numbers[chosen], return_inverse=True, return_counts=True)
        joined = counts[place]
    return await host_correlations(
        peer,
        HostColumns(own, shown, between, joined),
        rows,
        participant,
        lambda many: None if work.table.replayed else given.count(policy, rows, many),
    )


async def _inflation(
    site: Site,
    peer: Peer,
    participant: Participant,
    features: Features,
    most: float,
    about: Sequence[Integers],
    show: Show,
) -> tuple[InflationDesign, Inference | None]:
    """The party's part of variance inflation, over all its columns that may enter a model."""
    made: list[InflationDesign] = []

    def prepare(training: Mask) -> Whole:
        design, whole = InflationDesign.of(features, training, least, most, about)
        made.append(design)
        return whole

    rows, least = len(next(iter(features.values()))), site.party.glm.min_level_rows
    found = await host_inflation(
        peer,
        rows,
        prepare,
        participant,
        lambda done, of: show.progress("variance inflation, %", done, of),
    )
    for why in made[-1].left_out.values():
        show.say(f"note: no variance inflation: {why}")
    if found is not None and found.aliases:
        own = ", ".join(f"'{column}'" for column in made[-1].aliased(found))
        others = listed(found.aliases[0].parties or ["other parties"])
        show.say(f"note: columns of {others} may make up {own}, as far as noise lets that be seen")
    return made[-1], found
