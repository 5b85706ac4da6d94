"""A table by factors, the guest and a host side by side: rows, the protocol, what each counts.

The guest's numbers are its label, its exposure and its weight, over all aligned rows; with a model, over
the rows that were held out of its training, with what the model expects of them, which the guest keeps
with the run. What is asked for is signed with the job's other terms, as canonical JSON.
"""

import asyncio
import itertools
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from vfl.arrays import Floats, Integers, Mask
from vfl.blocks.scratch import Scratch
from vfl.crypto.workers import Operations
from vfl.errors import ConfigError, DataError, ModelError, Refused
from vfl.jobs.account import Account
from vfl.jobs.admission import accept, check_request, matching_of
from vfl.jobs.agreement import check_aligned, offer_to
from vfl.jobs.alignments import (
    Alignment,
    count_known_rows,
    guest_alignment,
    host_alignment,
    most_joined,
    refresh,
)
from vfl.jobs.connect import Site, hosts_of
from vfl.jobs.kept_tables import keep_table
from vfl.jobs.memory import release_memory
from vfl.jobs.names import resolve_model
from vfl.jobs.offer import Offer, new_run
from vfl.jobs.own_table import ids_of, table_of
from vfl.jobs.record import Evaluation, load_record
from vfl.jobs.show import Show
from vfl.jobs.storage import in_store
from vfl.jobs.sums_given import SumsGiven, guest_of
from vfl.jobs.told_cells import ToldCells
from vfl.learn.binning import Column
from vfl.learn.cells import Factor, column_of, counts_of, factor_of, grouped_values
from vfl.learn.factor_tables import AGAINST, SUMS, FactorTable, RowTotals, add_up
from vfl.learn.factor_tables import table_of as lines_of
from vfl.learn.levels import tidy_levels
from vfl.learn.metrics import totals
from vfl.models.halves import GuestHalf, objective_of
from vfl.models.kinds import load_half
from vfl.models.tariff import expected_of
from vfl.net.peer import Peer
from vfl.party.documents import canonical_json
from vfl.party.policy import check_intersection, check_oneway, today
from vfl.party.sections import PolicySection
from vfl.party.store import Store
from vfl.party.table import Table, Wanted, feature_names, read_wanted
from vfl.protocols.common.participant import Resources
from vfl.protocols.oneway.host_cells import HostCells, cells_of_factors
from vfl.protocols.oneway.messages import TableEncryption, TableShared
from vfl.protocols.oneway.sums import HostTerms
from vfl.protocols.oneway.tables import guest_table, host_table
from vfl.report.evidence import TOGETHER
from vfl.text import counted, nearest_name

PURPOSE = "a table by factors"
"""Of a table, unless a person says another."""
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

    @property
    def canonical(self) -> bytes:
        return canonical_json(msgspec.to_builtins(self))


@dataclass(frozen=True)
class TableRequest:
    """What a person asks for: one or two factors, each as party and column."""

    by: tuple[tuple[str, str], ...]
    model: str | None = None
    alignment: str | None = None
    encryption: TableEncryption | None = None
    purpose: str = PURPOSE
    share: bool = False
    """Whether the host gets the table as well, of its own factors alone."""

    @classmethod
    def of(
        cls,
        by: Sequence[str],
        *,
        model: str | None = None,
        alignment: str | None = None,
        encryption: TableEncryption | None = None,
        purpose: str = PURPOSE,
        share: bool = False,
    ) -> "TableRequest":
        """From PARTY:COLUMN, once or twice. Raises ConfigError for what is none."""
        found = []
        for text in by:
            party, colon, column = text.partition(":")
            if not (party and colon and column):
                raise ConfigError(f"--by {text} is no factor: write PARTY:COLUMN, as in bureau:age_band")
            found.append((party, column))
        if not 1 <= len(found) <= 2:
            raise ConfigError("a table is by one factor or by two: give --by once or twice")
        if len(set(found)) < len(found):
            raise ConfigError(f"--by {by[0]} stands there twice: once will do")
        if not (purpose.isprintable() and 0 < len(purpose) <= 200):
            raise ConfigError("--purpose must be one line of printable text, of 200 characters at most")
        return cls(tuple(found), model, alignment, encryption, purpose, share)


@dataclass(frozen=True)
class OnewayTable:
    """What came of it."""

    table: FactorTable
    rows_are: str  # which rows it is of, in words
    alignment: str
    model: str | None
    least: int | None  # rows of a cell, by the host's policy; None of the guest's own factors alone
    encryption: TableEncryption | None
    account: Account


@dataclass(frozen=True)
class _GuestRows:
    """The guest's part: the aligned rows that the table is of, and its numbers and factors of these."""

    alignment: Alignment
    chosen: Mask | None  # of the aligned rows; None for all
    totals: RowTotals
    columns: dict[str, NDArray[np.generic]]
    rows_are: str
    model: str | None


@in_store
async def oneway(site: Site, request: TableRequest, *, wait: float, show: Show) -> OnewayTable:
    """A table of the guest's label, exposure and what a model expects by factors of the parties.

    Raises ConfigError for factors that no table can be by, DataError and ModelError for what the guest
    brings, and what sessions raise.
    """
    started, party = time.monotonic(), site.party
    host = _host_of(site, request)
    if request.share and (host is None or {name for name, _ in request.by} != {host}):
        raise ConfigError("--share is for a table by the factors of a host alone")
    own = [column for name, column in request.by if name == party.name]
    rows = await asyncio.to_thread(_read_rows, site, request, own, show)
    try:
        measures = rows.totals.measures
    except ValueError as error:
        raise DataError(f"{party.data.named.name}: label, exposure or weight: {error}") from None
    names = [f"{name}:{column}" for name, column in request.by]
    site.activity.tell([] if host is None else [host], [rows.alignment.name, rows.model])
    operations = Operations()
    if host is None:
        factors = [await asyncio.to_thread(_own_factor, site, rows, column, 1) for column in own]
        told, least, encryption, peers = add_up(factors, [*measures.values()]), None, None, []
    else:
        if host not in rows.alignment.parties:
            raise ConfigError(f"{host} is no party of alignment {rows.alignment.name}")

        def group(minimum: int) -> Factor:
            return _own_factor(site, rows, own[0], minimum)

        resources = Resources(party.party.machine, operations)
        async with hosts_of(site, wait, show, [host]) as peers:
            peer = peers[0]
            await _offer(site, peer, rows, request)
            table = await guest_table(
                peer, rows.chosen, [*measures.values()], group if own else None, resources
            )
            shared = lines_of(names, rows.totals, measures, table.cell_sums, None).numbers
            await peer.send(TableShared(shared if request.share else []))
        told = table.cell_sums
        if own and request.by[0][0] == party.name:
            told = told.turned()
        least, encryption = table.least, table.encryption
    rest = None if host is None or own else f"(no row at {host})"
    found = lines_of(names, rows.totals, measures, told, rest)
    if rows.model is not None and host is not None:
        keep_table(site.store, rows.model, found.by, found.heads, found.rows)
    return OnewayTable(
        found,
        rows.rows_are,
        rows.alignment.name,
        rows.model,
        least,
        encryption,
        Account.of(started, peers, operations),
    )


def _host_of(site: Site, request: TableRequest) -> str | None:
    """The host whose factors they are, if any. Raises ConfigError."""
    party, hosts = site.party, []
    for name, column in request.by:
        if name == party.name:
            continue
        if name not in party.partners:
            near = nearest_name(name, [party.name, *party.partners])
            hint = f"did you mean {near}?" if near else f"it has {', '.join(party.partners)}"
            raise ConfigError(f"--by {name}:{column} is of no party of the party file: {hint}")
        if name not in hosts:
            hosts.append(name)
    if len(hosts) > 1:
        one, other = (f"{name}:{column}" for name, column in request.by)
        raise ConfigError(
            f"--by {one} and --by {other} are of two hosts, who would have to learn each other's rows: "
            f"ask for each of them with a factor of {party.name}, or alone"
        )
    return hosts[0] if hosts else None


async def _offer(site: Site, host: Peer, rows: _GuestRows, request: TableRequest) -> None:
    """Agree with the host on the table. Raises what sessions raise."""
    alignment, model = rows.alignment, rows.model
    factors = [column for name, column in request.by if name == host.name]
    asked = AskedTable(TableSection(request.purpose), factors, request.encryption)
    offer = Offer(
        "oneway",
        new_run(),
        [host.name],
        list(alignment.normalise),
        alignment=alignment.name,
        model=model,
        job=asked.canonical,
        matching=matching_of(site.party.data, join=alignment.join, many=alignment.many),
    )
    answers, _ = await offer_to(site, [host], offer)
    check_aligned([host], answers, alignment.name, len(alignment.rows))


def _read_rows(site: Site, request: TableRequest, own: Sequence[str], show: Show) -> _GuestRows:
    """The guest's rows, with the columns `own`. Raises ConfigError, DataError and ModelError."""
    data, store = site.party.data, site.store
    scratch = Scratch(store.scratch(make=False))
    record = evaluation = None
    if request.model is not None:
        record, evaluation = load_record(store, resolve_model(store, request.model, "run"))
        if record.over_rows:
            raise ConfigError(f"model {record.model} is over rows: its server has no aligned rows")
        if evaluation is None:
            raise ModelError(
                f"of model {record.model} no row was held out, on which a table could compare: train "
                "with holdout in [job], or leave --model out"
            )
        if objective_of(record.job) == "quantile":
            raise ConfigError(
                f"model {record.model} predicts a quantile, which adds up to no total: leave --model out"
            )
    named = request.alignment or (None if record is None else record.alignment)
    alignment = guest_alignment(site, store, named)
    if record is not None and alignment.name != record.alignment:
        raise ConfigError(
            f"model {record.model} is of alignment {record.alignment}: leave --alignment out"
        )
    _check_own(site, own, scratch)
    wanted = Wanted("guest", evaluation is None, expect=own, scratch=scratch, unused=("offset",))
    table = read_wanted(data, wanted)
    ids = ids_of(table, data, scratch)
    alignment = refresh(alignment, ids, table.path.name)
    digest = ids.digest
    del ids
    release_memory(table.rows)
    if record is None or evaluation is None:
        return _all_rows(table, alignment)
    chosen = np.isin(alignment.rows, evaluation.rows)
    if record.ids != digest or not np.array_equal(alignment.rows[chosen], evaluation.rows):
        raise ModelError(
            f"{table.path.name} has other ids (or another order) than when model {record.model} was "
            "trained: train again, or leave --model out"
        )
    found = totals(
        evaluation.label,
        _expected(store, record.model, evaluation),
        evaluation.weight,
        evaluation.exposure,
    )
    rows = alignment.rows[chosen]
    return _GuestRows(
        alignment.without_ids,
        chosen,
        RowTotals(found.exposure, found.actual, found.expected),
        {name: values[rows] for name, values in tidy_levels(table.features).items()},
        f"{counted(len(rows), 'row')} that were held out of the training of {record.model}",
        record.model,
    )


def _expected(store: Store, model: str, evaluation: Evaluation) -> Floats:
    """What a model expects of the rows held out; of a tariff of premiums these, brought to what
    happened."""
    predicted = evaluation.predictions[TOGETHER]
    if model not in store.names("model"):
        return predicted
    half = load_half(store, model, GuestHalf)
    if not half.premiums:
        return predicted
    expected = expected_of(half.loss.link, predicted, evaluation.weight, evaluation.label)
    return predicted if expected is None else expected


def _all_rows(table: Table, alignment: Alignment) -> _GuestRows:
    if table.label is None:
        raise ValueError("a table without a label was read")
    rows = alignment.rows
    label = table.label[rows]
    weight = np.ones(len(rows)) if table.weight is None else table.weight[rows]
    exposure = None if table.exposure is None else table.exposure[rows]
    found = totals(label, np.zeros(len(rows)), weight, exposure)
    return _GuestRows(
        alignment.without_ids,
        None,
        RowTotals(found.exposure, found.actual),
        {name: values[rows] for name, values in tidy_levels(table.features).items()},
        f"all {counted(len(rows), 'row')} of alignment {alignment.name}",
        None,
    )


def _check_own(site: Site, own: Sequence[str], scratch: Scratch) -> None:
    """Raises ConfigError for a column that is no feature of the guest's."""
    data = site.party.data
    if not own:
        return
    names = feature_names(data, "guest", scratch)
    for column in own:
        if column not in names:
            near = nearest_name(column, names)
            hint = f"did you mean {near}?" if near else f"it has {', '.join(names[:20])}"
            raise ConfigError(f"{data.named.name} has no feature '{column}' for --by: {hint}")


def _own_factor(site: Site, rows: _GuestRows, name: str, minimum: int) -> Factor:
    """A factor of the guest's, with levels of so many rows at least."""
    rules = site.party.glm
    values = grouped_values(rows.columns[name], rules.group.get(name, {}))
    column = column_of(name, values, rules.bins, minimum, rules.bands.get(name, ()))
    factor = factor_of(column, values)
    try:
        return factor.grouped(counts_of(factor.codes, len(factor.levels)), minimum)
    except ValueError as error:
        raise ConfigError(f"column '{name}' has no level of enough rows: {error}") from None


# ---------------------------------------------------------------------------------------- host


async def serve_oneway(site: Site, peer: Peer, offer: Offer, show: Show) -> str:
    """Add a guest's numbers up by factors of this party's."""
    policy, store = site.party.policy, site.store
    try:
        asked = msgspec.json.decode(offer.job, type=AskedTable)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        raise peer.breach("an Offer of a table that is none") from None
    if not asked.job.purpose.isprintable():
        raise peer.breach("an Offer with a purpose that cannot be printed")
    several = "a factor" if len(asked.factors) == 1 else "two factors"
    check_request(site, peer, offer, show, f"add up by {several} ({asked.job.purpose})")
    check_oneway(policy, asked.job.purpose, peer.name, today())
    encryption = _encryption(policy, asked.encryption)
    columns = await asyncio.to_thread(_columns_of, site, asked.factors)
    table, ids = await table_of(site, offer, expect=columns)
    alignment = await asyncio.to_thread(host_alignment, site, store, peer, offer, ids)
    del ids
    alignment = alignment.without_ids
    check_intersection(policy, await asyncio.to_thread(count_known_rows, alignment.rows))
    given = await asyncio.to_thread(SumsGiven, store, alignment)
    features = tidy_levels(table.take(alignment.rows))
    del table
    groups = site.party.glm.group
    own = {name: grouped_values(features[name], groups.get(name, {})) for name in columns}
    work = _HostTable(site, given, alignment, columns, own)
    rows = len(alignment.rows)
    await accept(site, peer, offer, rows)
    operations = Operations()
    await host_table(
        peer,
        rows,
        work.cells,
        HostTerms(encryption, policy.key_bits),
        work.count,
        Resources(site.party.party.machine, operations),
        hint_progress=lambda done, of: show.progress("making a hint", done, of),
    )
    shared = await peer.recv(TableShared)
    if shared.lines:
        work.keep(peer, offer.model, shared.lines)
    by = " and ".join(columns)
    return f"told {peer.name} a table by {by}"


def _encryption(policy: PolicySection, wanted: TableEncryption | None) -> TableEncryption:
    """The one that the guest wants, or the first of these that the policy has."""
    for one in ("lattice", "paillier") if wanted is None else (wanted,):
        if one in policy.encryptions:
            return one
    raise Refused(
        f'a table under encryption = "{wanted or "lattice"}" breaks rule encryptions of [policy]: '
        "use one of these, or the host adds it there"
    )


def _columns_of(site: Site, factors: Sequence[str]) -> list[str]:
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
class _HostTable:
    """The rows of a host that a table may be of."""

    site: Site
    given: SumsGiven
    alignment: Alignment
    columns: list[str]
    features: dict[str, NDArray[np.generic]]  # of the aligned rows
    chosen: Mask | None = None
    cuts: dict[str, Column] = field(default_factory=dict)
    levels: list[tuple[str, ...]] = field(default_factory=list)  # of each cell, the total last

    def cells(self, chosen: Mask) -> HostCells:
        """What is told of some rows, kept before it is. Raises Refused."""
        policy, self.chosen = self.site.party.policy, chosen
        minimum, own = policy.min_cell_rows, self.given.of_aligned[chosen].astype(np.int64)
        factors = [self._factor(name, chosen, own, minimum) for name in self.columns]
        for factor, name in zip(factors, self.columns, strict=True):
            self._keep([name], chosen, factor.codes, minimum)
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
            self._keep(names, chosen, together, minimum)
        if turned:
            cells = cells.turned
        return replace(cells, levels=[self._shown(factor) for factor in factors])

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
        self.given.tell(self.site.party.policy, self.chosen, sums)

    def _factor(self, name: str, chosen: Mask, own: Integers, minimum: int) -> Factor:
        """A column in levels of enough rows, cut as it was told before."""
        every = self.features[name]
        kept = ToldCells(self.site.store, guest_of(self.alignment), [name]).column()
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

    def _keep(self, columns: Sequence[str], chosen: Mask, codes: Integers, minimum: int) -> None:
        """Have the cells of rows be known from now on."""
        of_own = np.full(len(self.given.numbers) + 1, -1)
        own = self.given.of_aligned[chosen]
        of_own[own[own >= 0]] = codes[own >= 0]
        told = ToldCells(self.site.store, guest_of(self.alignment), columns)
        column = self.cuts[columns[0]] if len(columns) == 1 else None
        told.tell(self.given.numbers, of_own[:-1], minimum, column)

    def _shown(self, factor: Factor) -> list[str]:
        """The names of levels as the guest may see them."""
        if self.site.party.policy.show_names:
            return list(factor.levels)
        return [f"level {number}" for number in range(1, len(factor.levels) + 1)]
