"""Columns of parties screened side by side, under encryption or with all columns in one place."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import NamedTuple

import numpy as np

from vfl.arrays import Mask
from vfl.crypto.randomness import OF_SYSTEM
from vfl.errors import ConfigError, DataError, Refused
from vfl.frames.features import FrameTable
from vfl.learn.advice import Reason, Thresholds, advise
from vfl.learn.association import HUNDREDTHS, Associated, associations, hundredths
from vfl.learn.cells import Factor, column_of, counts_of, factor_of
from vfl.learn.inference import Inference, inferences, joint_information
from vfl.learn.inflation import InflationDesign
from vfl.learn.matrix import Matrix, Whole
from vfl.learn.screening import Everything
from vfl.models.kind import PartyColumns
from vfl.net.peer import MemoryPeer, Peer, together
from vfl.protocols.common.participant import Participant, Resources
from vfl.protocols.linear.inflation import guest_inflation, host_inflation
from vfl.protocols.oneway import screening as protocol
from vfl.protocols.oneway.screening import (
    HostColumn,
    Numbers,
    Screened,
    ScreenRules,
    guest_screen,
    host_screen,
    screened_here,
)
from vfl.protocols.oneway.sums import HostTerms
from vfl.simulate import GUEST, Aligned, SimulatedTask, common_rows, run

_CORRELATED_BITS = 20  # of numbers below the point


@dataclass(frozen=True)
class ScreenedBy:
    """How columns are screened. minimum: rows of a level of a host's. bins: of columns of numbers."""

    minimum: int
    bins: int
    thresholds: Thresholds
    inflation: bool
    correlations: bool = False


@dataclass(frozen=True)
class ScreenedParty:
    """What is known of a party's columns."""

    tables: list[Screened]
    inflation: Mapping[str, float | None]
    advice: Mapping[str, Reason]


class CorrelatedColumns(NamedTuple):
    """How strongly two columns of two parties go together, to two decimals."""

    party: str
    column: str
    other_party: str
    other_column: str
    correlation: float


@dataclass(frozen=True)
class ScreenedParties:
    """All of them, by name, of so many rows that all know and that train."""

    aligned: int
    rows: int
    parties: dict[str, ScreenedParty]
    correlations: list[CorrelatedColumns]


def screen_each(
    guest: FrameTable, hosts: Sequence[FrameTable], task: SimulatedTask, by: ScreenedBy
) -> ScreenedParties:
    """Screen the columns of all parties, on the rows that all know and that are not held out.

    Raises as vfl.simulate.train, Refused for too few rows of a host's level, DataError for a label that
    nothing tells apart.
    """
    tables = [guest, *hosts]
    aligned = Aligned.of(task, tables, common_rows(tables))
    rows = aligned.training
    if rows.loss.quantile is not None or rows.loss.classes > 1:
        raise ConfigError("columns are screened for the mean of a label: no quantile, no classes")
    train = rows.train
    exposure, actual = rows.sizes[train], (rows.weight * rows.label)[train]
    everything = Everything.of(rows.loss, exposure, actual)
    if not everything.deviance > 0:
        raise DataError("y is the same in all rows that train: no column could be of use")
    try:
        numbers = Numbers.of(exposure, actual)
    except ValueError as error:
        raise DataError(f"y, exposure or sample_weight: {error}") from None
    work = _Work(aligned, by, numbers, everything)
    apart = task.engine == "protocol" and len(aligned.parties) > 1
    strengths = run(work.apart()) if apart else work.in_one_place()
    known: Mapping[str, Inference] = {}
    if by.inflation:
        known = run(work.inflation_apart()) if apart else work.pooled()
    found = {}
    for party in aligned.parties:
        name = party.party
        design = work.designs[name][0] if by.inflation else None
        inferred, of_columns = known.get(name), {}
        if design is not None and inferred is not None:
            of_columns = design.inflations(inferred, [*party.features])
        named = {one.name: one.strength for one in strengths[name]}
        # Hosts' columns give way to the guest's, as in jobs; of two hosts, the later one's.
        others = {GUEST, *(one.party for one in aligned.parties[1:])}
        before = [one.party for one in aligned.parties]
        earlier = others & {*before[: before.index(name)]}
        aliases = () if inferred is None else inferred.aliases
        gives_way = any(earlier & {*alias.parties} for alias in aliases)
        own = None if name == GUEST else inferred
        advice = advise(named, by.thresholds, design, own, gives_way)
        found[name] = ScreenedParty(strengths[name], of_columns, advice)
    correlated = work.correlations() if by.correlations else []
    return ScreenedParties(len(aligned.rows), numbers.rows, found, correlated)


class _Work:
    """The rows that train, and what is made of them."""

    def __init__(
        self, aligned: Aligned, by: ScreenedBy, numbers: Numbers, everything: Everything
    ) -> None:
        self._aligned, self._by, self._numbers, self._everything = aligned, by, numbers, everything
        self._train = aligned.training.train
        self.designs: dict[str, tuple[InflationDesign, Matrix]] = {}
        if by.inflation:
            self.designs = {one.party: self._design(one) for one in aligned.parties}

    def in_one_place(self) -> dict[str, list[Screened]]:
        """All tables of all parties."""
        whole = protocol.Whole.of(self._everything, self._numbers)
        return {
            party.party: [
                screened_here(name, factor, self._numbers, whole)
                for name, factor in self._factors(party).items()
            ]
            for party in self._aligned.parties
        }

    async def apart(self) -> dict[str, list[Screened]]:
        """The same, those of hosts by their protocol."""
        guest, *hosts = self._aligned.parties
        own = replace(self._aligned, parties=[guest])
        found = _Work(own, replace(self._by, inflation=False), self._numbers, self._everything)
        tables = found.in_one_place()
        for host in hosts:
            tables[host.party] = await self._of_host(host)
        return tables

    async def _of_host(self, host: PartyColumns) -> list[Screened]:
        to_host, to_guest = MemoryPeer.pair(GUEST, host.party)
        train, resources = self._train, Resources(self._aligned.task.machine)
        rules = ScreenRules(HostTerms("lattice", 2048), self._by.minimum, False, self._everything.loss)

        def columns(chosen: Mask) -> list[HostColumn]:
            return [
                HostColumn(
                    name,
                    factor.levels,
                    factor.levels,
                    factor.codes,
                    counts_of(factor.codes, len(factor.levels)),
                )
                for name, factor in self._factors(host).items()
            ]

        async def guest() -> list[Screened]:
            given = self._numbers, self._everything, False, resources
            return (await guest_screen(to_host, train, *given)).columns

        async def answering() -> list[Screened]:
            await host_screen(to_guest, len(train), columns, rules, lambda sums: None, resources)
            return []

        return (await together([guest(), answering()]))[0]

    def pooled(self) -> dict[str, Inference]:
        """What each party is to know of the inverse of all parties' X'X."""
        matrices = [matrix for _, matrix in self.designs.values()]
        information = joint_information(matrices, np.ones(self._numbers.rows), True)
        sizes = {name: matrix.columns for name, (_, matrix) in self.designs.items()}
        sizes[GUEST] += 1
        found = inferences(information, sizes, np.zeros_like(information), 1.0, None)
        return {**found, GUEST: replace(found[GUEST], constants=1)}

    async def inflation_apart(self) -> dict[str, Inference]:
        """The same by the protocol."""
        names = [one.party for one in self._aligned.parties[1:]]
        pairs = [MemoryPeer.pair(GUEST, name) for name in names]
        resources, train = Resources(self._aligned.task.machine), self._train

        async def host(name: str, peer: Peer) -> Inference | None:
            own = Participant(name, names, b"screening", resources=resources)

            def prepare(training: Mask) -> Whole:
                return self._whole(name)

            return await host_inflation(peer, len(train), prepare, own)

        matrix = self.designs[GUEST][1]
        found = await together(
            [
                guest_inflation([to_host for to_host, _ in pairs], train, matrix, resources),
                *(host(name, peer) for name, (_, peer) in zip(names, pairs, strict=True)),
            ]
        )
        known = zip([GUEST, *names], found, strict=True)
        return {name: one for name, one in known if one is not None}

    def correlations(self) -> list[CorrelatedColumns]:
        """Of each two parties' columns; without the noise that hosts add."""
        known, rows = {}, self._numbers.rows
        for party in self._aligned.parties:
            features = {name: values[self._train] for name, values in party.features.items()}
            own = Associated.of(features, _least(party), OF_SYSTEM.at("turned columns"))
            if own.columns:
                known[party.party] = own, own.numbers(_CORRELATED_BITS) / 2.0**_CORRELATED_BITS
        found = []
        for (one, (of, numbers)), (other, (beside, others)) in combinations(known.items(), 2):
            figures = associations(numbers @ others.T / rows, of.sizes, beside.sizes)
            for row, values in zip(of.columns, hundredths(figures, of.sizes, beside.sizes), strict=True):
                for column, value in zip(beside.columns, values, strict=True):
                    at = value / HUNDREDTHS
                    found.append(CorrelatedColumns(one, row.name, other, column.name, at))
        return found

    def _whole(self, name: str) -> Whole:
        party = next(one for one in self._aligned.parties if one.party == name)
        return InflationDesign.of(party.features, self._train, _least(party))[1]

    def _design(self, party: PartyColumns) -> tuple[InflationDesign, Matrix]:
        design, whole = InflationDesign.of(party.features, self._train, _least(party))
        return design, whole.take(self._train)

    def _factors(self, party: PartyColumns) -> dict[str, Factor]:
        """The columns by levels; of a host's with rows enough. Raises Refused."""
        minimum, found = 1 if party.party == GUEST else self._by.minimum, {}
        for name, values in party.features.items():
            own = values[self._train]
            factor = factor_of(column_of(name, own, self._by.bins, minimum), own)
            try:
                found[name] = factor.grouped(counts_of(factor.codes, len(factor.levels)), minimum)
            except ValueError as error:
                raise Refused(
                    f"{party.party}: column '{name}' has no level of enough rows: {error}"
                ) from None
        return found


def _least(party: PartyColumns) -> int:
    return party.rules.glm.min_level_rows
