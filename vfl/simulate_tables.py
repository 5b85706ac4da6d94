"""Tables by factors of parties side by side, under encryption or with all columns in one place."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np

from vfl.crypto.workers import Machine
from vfl.errors import ConfigError, Refused
from vfl.frames.features import FrameTable, suggest_name
from vfl.learn.cells import Factor, column_of, counts_of, factor_of, withhold
from vfl.learn.factor_tables import CellSums, FactorTable, RowTotals, add_up, table_of
from vfl.learn.fixed_point import FixedPoint
from vfl.net.peer import MemoryPeer, together
from vfl.protocols.common.participant import Participant, Resources
from vfl.protocols.oneway.host_cells import HostCells, cells_of_factors, too_few_rows
from vfl.protocols.oneway.messages import TableEncryption
from vfl.protocols.oneway.pairs import guest_pair, host_pair
from vfl.protocols.oneway.sums import HostTerms
from vfl.protocols.oneway.tables import ToldTable, guest_table, host_table
from vfl.simulate import GUEST, SimulationEngine, common_rows, run


@dataclass(frozen=True)
class SimulatedTable:
    """What a table is to be: by one or two factors, party and column, of numbers of all the rows.

    minimum: rows of a level, or a cell, of a host's. bins: of columns of numbers.
    """

    by: Sequence[tuple[str, str]]
    totals: RowTotals
    minimum: int
    bins: int
    engine: SimulationEngine
    encryption: TableEncryption
    machine: Machine


def oneway(guest: FrameTable, hosts: Sequence[FrameTable], task: SimulatedTable) -> FactorTable:
    """A table by factors of the rows that the guest and the hosts of the factors know.

    Raises ConfigError for factors that no table can be by, Refused for too few rows.
    """
    tables = {table.name: table for table in (guest, *hosts)}
    for party, column in task.by:
        if column not in tables[party].features:
            hint = suggest_name(column, tables[party].features)
            raise ConfigError(f"{party}: no column '{column}' for a table: {hint}")
    others = list(dict.fromkeys(party for party, _ in task.by if party != guest.name))
    named = [guest, *(tables[name] for name in others)]
    rows = common_rows(named)
    features = {table.name: table.take(own) for table, own in zip(named, rows, strict=True)}
    totals = task.totals.take(rows[0])

    def factor(place: int, minimum: int) -> Factor:
        party, column = task.by[place]
        values = features[party][column]
        whole = factor_of(column_of(column, values, task.bins, minimum), values)
        try:
            return whole.grouped(counts_of(whole.codes, len(whole.levels)), minimum)
        except ValueError as error:
            raise Refused(f"{party}: column '{column}' has no level of enough rows: {error}") from None

    told = run(_told_table(task, totals, others, factor))
    names = [f"{party}:{column}" for party, column in task.by]
    return table_of(names, totals, totals.measures, told, None)


async def _told_table(
    task: SimulatedTable, totals: RowTotals, hosts: Sequence[str], factor: Callable[[int, int], Factor]
) -> CellSums:
    measures = [*totals.measures.values()]
    if not hosts:
        return add_up([factor(place, 1) for place in range(len(task.by))], measures)
    own = [place for place, (party, _) in enumerate(task.by) if party == GUEST]
    theirs = [factor(place, task.minimum) for place in range(len(task.by)) if place not in own]
    every = np.arange(len(totals.actual))
    if len(hosts) > 1 and task.engine == "protocol":
        return await _of_two_hosts(task, measures, (hosts[0], hosts[1]), theirs)
    cells = cells_of_factors(theirs, every, task.minimum, task.minimum)
    if task.engine == "plain":
        factors = [*theirs, *(factor(place, task.minimum) for place in own)]
        whole = add_up(factors, measures)
        if len(factors) == 1:
            return whole
        shape = [len(factor.levels) for factor in factors]
        withheld = withhold(np.array(whole.rows, np.int64).reshape(shape), task.minimum)
        if withheld is None:
            raise too_few_rows(task.minimum)
        left = whole.without(withheld.ravel())
        return left.turned() if own == [0] else left
    to_host, to_guest = MemoryPeer.pair(GUEST, hosts[0])
    resources = Resources(task.machine)
    group = (lambda minimum: factor(own[0], minimum)) if own else None
    terms = HostTerms(task.encryption, 2048)
    told, _ = await together(
        [
            guest_table(to_host, None, measures, group, resources),
            host_table(to_guest, len(every), lambda chosen: cells, terms, lambda sums: None, resources),
        ]
    )
    found = cast(ToldTable, told).cell_sums
    return found.turned() if own == [0] else found


async def _of_two_hosts(
    task: SimulatedTable,
    measures: Sequence[FixedPoint],
    hosts: tuple[str, str],
    factors: Sequence[Factor],
) -> CellSums:
    """With a factor of each."""
    pairs = [MemoryPeer.pair(GUEST, name) for name in hosts]
    resources, rows = Resources(task.machine), len(measures[0].numbers)
    terms = HostTerms("paillier", 2048)

    def cells(factor: Factor) -> HostCells:
        return cells_of_factors([factor], np.arange(rows), task.minimum, task.minimum)

    async def guest() -> CellSums | None:
        (one, _), (other, _) = pairs
        return (await guest_pair((one, other), None, measures, resources)).cells

    async def host(place: int) -> CellSums | None:
        own = Participant(hosts[place], hosts, b"table", resources=resources)
        found = cells(factors[place])
        await host_pair(pairs[place][1], rows, lambda chosen: found, terms, lambda sums: None, own)
        return None

    told, *_ = await together([guest(), host(0), host(1)])
    return cast(CellSums, told)
