"""A table by factors, the guest and a host side by side: rows, the protocol, what each counts.

The guest's numbers are its label, its exposure and its weight, over all aligned rows; with a model, over
the rows that were held out of its training, with what the model expects of them, which the guest keeps
with the run. What is asked for is signed with the job's other terms, as canonical JSON.
"""

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import msgspec
import numpy as np
from msgspec import UNSET
from numpy.typing import NDArray

from vfl.arrays import Floats, Mask
from vfl.blocks.scratch import Scratch
from vfl.crypto.workers import Operations
from vfl.errors import ConfigError, DataError, ModelError
from vfl.jobs.account import Account
from vfl.jobs.admission import matching_of
from vfl.jobs.agreement import check_aligned, offer_to
from vfl.jobs.alignments import (
    Alignment,
    guest_alignment,
    refresh,
)
from vfl.jobs.commitments import TableDigests, digest_table
from vfl.jobs.connect import Site, hosts_of
from vfl.jobs.evidence import Keeping, keeping
from vfl.jobs.kept_tables import keep_table
from vfl.jobs.memory import release_memory
from vfl.jobs.names import resolve_model
from vfl.jobs.offer import Offer, new_run
from vfl.jobs.oneway_host import AskedTable, TableSection
from vfl.jobs.own_table import ids_of
from vfl.jobs.record import Evaluation, load_record
from vfl.jobs.show import Show
from vfl.jobs.storage import in_store
from vfl.learn.cells import Factor, column_of, counts_of, factor_of, grouped_values
from vfl.learn.factor_tables import CellSums, FactorTable, RowTotals, add_up
from vfl.learn.factor_tables import table_of as lines_of
from vfl.learn.fixed_point import FixedPoint
from vfl.learn.levels import tidy_levels
from vfl.learn.metrics import totals
from vfl.models.halves import GuestHalf, objective_of
from vfl.models.kinds import load_half
from vfl.models.tariff import expected_of
from vfl.net.peer import Peer, together
from vfl.party.store import Store
from vfl.party.table import Table, Wanted, feature_names, read_wanted
from vfl.protocols.common.participant import Resources
from vfl.protocols.oneway.messages import TableEncryption, TableShared
from vfl.protocols.oneway.pairs import guest_pair
from vfl.protocols.oneway.tables import guest_table
from vfl.report.evidence import TOGETHER
from vfl.text import counted, nearest_name

PURPOSE = "a table by factors"
"""Of a table, unless a person says another."""


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

    def of_party(self, name: str) -> list[str]:
        """The factors of a party."""
        return [column for party, column in self.by if party == name]

    def asked(self, hosts: Sequence[str]) -> AskedTable:
        """What these hosts are asked for."""
        factors = [column for name, column in self.by if name in hosts]
        of = [*hosts] if len(hosts) > 1 else UNSET
        return AskedTable(TableSection(self.purpose), factors, self.encryption, of)


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
class GuestTableRows:
    """The guest's part: the aligned rows that the table is of, and its numbers and factors of these."""

    alignment: Alignment
    aligned_ids: str  # the digest of the ids of its rows
    chosen: Mask | None  # of the aligned rows; None for all
    totals: RowTotals
    columns: dict[str, NDArray[np.generic]]
    rows_are: str
    model: str | None

    @property
    def commits_to(self) -> TableDigests:
        """What a table has of the guest's rows, for its commitment."""
        found = self.totals
        return digest_table(
            self.columns,
            ids=self.aligned_ids,
            exposure=found.exposure,
            label=found.actual,
            expected=found.expected,
            **{"rows of the table": self.chosen},
        )


@in_store
async def oneway(site: Site, request: TableRequest, *, wait: float, show: Show) -> OnewayTable:
    """A table of the guest's label, exposure and what a model expects by factors of the parties.

    Raises ConfigError for factors that no table can be by, DataError and ModelError for what the guest
    brings, and what sessions raise.
    """
    started, party = time.monotonic(), site.party
    hosts = _hosts_of(site, request)
    if request.share and (len(hosts) != 1 or {name for name, _ in request.by} != {*hosts}):
        raise ConfigError("--share is for a table by the factors of a host alone")
    own = request.of_party(party.name)
    find = partial(guest_alignment, site, site.store)
    rows = await asyncio.to_thread(read_table_rows, site, request, find)
    try:
        measures = rows.totals.measures
    except ValueError as error:
        raise DataError(f"{party.data.named.name}: label, exposure or weight: {error}") from None
    site.activity.tell(hosts, [rows.alignment.name, rows.model])
    for host in hosts:
        if host not in rows.alignment.parties:
            raise ConfigError(f"{host} is no party of alignment {rows.alignment.name}")
    if not hosts:
        factors = [await asyncio.to_thread(_own_factor, site, rows, column, 1) for column in own]
        found = _Found(add_up(factors, [*measures.values()]), None, None, [], Operations())
    else:
        async with hosts_of(site, wait, show, hosts) as peers:
            found = await _ask(site, peers, rows, request, show)
    names = [f"{name}:{column}" for name, column in request.by]
    rest = f"(no row at {hosts[0]})" if len(hosts) == 1 and not own else None
    table = lines_of(names, rows.totals, measures, found.told, rest)
    if rows.model is not None and hosts:
        keep_table(site.store, rows.model, table.by, table.heads, table.rows)
    return OnewayTable(
        table,
        rows.rows_are,
        rows.alignment.name,
        rows.model,
        found.least,
        found.encryption,
        Account.of(started, found.peers, found.operations),
    )


@dataclass(frozen=True)
class _Found:
    """The cells of a table, and how they were found."""

    told: CellSums
    least: int | None
    encryption: TableEncryption | None
    peers: Sequence[Peer]
    operations: Operations


class AskedByGuest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a person asks for that no host is told, for the commitment of a table and its replay."""

    by: list[tuple[str, str]]
    share: bool


async def _ask(
    site: Site, hosts: Sequence[Peer], rows: GuestTableRows, request: TableRequest, show: Show
) -> _Found:
    """A table with factors of hosts."""
    asked = AskedByGuest([*request.by], request.share)
    with keeping(site, show, lambda: rows.commits_to, msgspec.to_builtins(asked)) as kept:
        run = await _offer(site, hosts, rows, request, show, kept)
        resources = Resources(site.party.party.machine, Operations(), kept.randomness_of(run), kept.say)
        return await ask_hosts(site, hosts, rows, request, resources)


async def ask_hosts(
    site: Site,
    hosts: Sequence[Peer],
    rows: GuestTableRows,
    request: TableRequest,
    resources: Resources,
) -> _Found:
    """The guest's part after the agreement, in a job and in its replay."""
    if len(hosts) > 1:
        return await _of_two_hosts(hosts, rows, rows.totals.measures, resources)
    return await _of_a_host(site, hosts[0], rows, request, resources)


async def _of_a_host(
    site: Site,
    peer: Peer,
    rows: GuestTableRows,
    request: TableRequest,
    resources: Resources,
) -> _Found:
    """With factors of one host, and perhaps one of the guest's."""
    own, measures = request.of_party(site.party.name), rows.totals.measures

    def group(minimum: int) -> Factor:
        return _own_factor(site, rows, own[0], minimum)

    given = rows.chosen, [*measures.values()], group if own else None
    table = await guest_table(peer, *given, resources)
    names = [f"{name}:{column}" for name, column in request.by]
    shared = lines_of(names, rows.totals, measures, table.cell_sums, None).numbers
    await peer.send(TableShared(shared if request.share else []))
    told = table.cell_sums
    if own and request.by[0][0] == site.party.name:
        told = told.turned()
    return _Found(told, table.least, table.encryption, [peer], resources.operations or Operations())


async def _of_two_hosts(
    peers: Sequence[Peer],
    rows: GuestTableRows,
    measures: Mapping[str, FixedPoint],
    resources: Resources,
) -> _Found:
    """With a factor of each of two hosts."""
    one, other = peers
    table = await guest_pair((one, other), rows.chosen, [*measures.values()], resources)
    await together([peer.send(TableShared([])) for peer in peers])
    return _Found(table.cells, table.least, "paillier", peers, resources.operations or Operations())


def _hosts_of(site: Site, request: TableRequest) -> list[str]:
    """The hosts whose factors they are, in their order. Raises ConfigError."""
    party = site.party
    hosts: list[str] = []
    for name, column in request.by:
        if name == party.name:
            continue
        if name not in party.partners:
            near = nearest_name(name, [party.name, *party.partners])
            hint = f"did you mean {near}?" if near else f"it has {', '.join(party.partners)}"
            raise ConfigError(f"--by {name}:{column} is of no party of the party file: {hint}")
        if name not in hosts:
            hosts.append(name)
    if len(hosts) > 1 and request.encryption == "lattice":
        raise ConfigError(
            "a table by factors of two hosts is under paillier: numbers go from one host to the other, "
            "which the lattice engine has no way for; leave --encryption out"
        )
    return hosts


async def _offer(
    site: Site,
    hosts: Sequence[Peer],
    rows: GuestTableRows,
    request: TableRequest,
    show: Show,
    kept: Keeping,
) -> bytes:
    """Agree with the hosts on the table, and the run. Raises what sessions raise."""
    alignment, model = rows.alignment, rows.model
    names = [host.name for host in hosts]
    offer = Offer(
        "oneway",
        new_run(),
        names,
        list(alignment.normalise),
        alignment=alignment.name,
        model=model,
        job=request.asked(names).canonical,
        matching=matching_of(site.party.data, join=alignment.join, many=alignment.many),
        commitment=kept.commitment or UNSET,
    )
    answers, agreement = await offer_to(site, hosts, offer, show)
    kept.agreed(agreement, offer.job, hosts)
    check_aligned(hosts, answers, alignment.name, len(alignment.rows))
    return offer.run


def read_table_rows(
    site: Site, request: TableRequest, find: Callable[[str | None], Alignment]
) -> GuestTableRows:
    """The guest's rows, with its own factors; `find` gives an alignment, None for the latest. Raises
    ConfigError, DataError and ModelError."""
    data, store, own = site.party.data, site.store, request.of_party(site.party.name)
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
        if objective_of(record.job) == "multiclass":
            raise ConfigError(
                f"model {record.model} predicts several classes, where a table has one number of each "
                "row: leave --model out"
            )
    named = request.alignment or (None if record is None else record.alignment)
    alignment = find(named)
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
    return GuestTableRows(
        alignment.without_ids,
        alignment.digest_of_ids,
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


def _all_rows(table: Table, alignment: Alignment) -> GuestTableRows:
    if table.label is None:
        raise ValueError("a table without a label was read")
    rows = alignment.rows
    label = table.label[rows]
    weight = np.ones(len(rows)) if table.weight is None else table.weight[rows]
    exposure = None if table.exposure is None else table.exposure[rows]
    found = totals(label, np.zeros(len(rows)), weight, exposure)
    return GuestTableRows(
        alignment.without_ids,
        alignment.digest_of_ids,
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


def _own_factor(site: Site, rows: GuestTableRows, name: str, minimum: int) -> Factor:
    """A factor of the guest's, with levels of so many rows at least."""
    rules = site.party.glm
    values = grouped_values(rows.columns[name], rules.group.get(name, {}))
    column = column_of(name, values, rules.bins, minimum, rules.bands.get(name, ()))
    factor = factor_of(column, values)
    try:
        return factor.grouped(counts_of(factor.codes, len(factor.levels)), minimum)
    except ValueError as error:
        raise ConfigError(f"column '{name}' has no level of enough rows: {error}") from None
