"""The parties of a training or a batch to score, side by side in one event loop."""

import asyncio
import secrets
from collections.abc import Callable, Coroutine, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar, cast

import numpy as np

from vfl.arrays import Floats
from vfl.crypto.workers import Machine
from vfl.errors import ConfigError, DataError
from vfl.frames.features import FrameTable, RowIndices
from vfl.learn.binning import Features
from vfl.learn.holdout import OneValue, SplitColumns, draw_split, split_by
from vfl.learn.levels import Levels, match_levels
from vfl.learn.losses import BadLabel
from vfl.models.kind import (
    AnyGuestModel,
    AnyHostModel,
    AnyKind,
    ColumnRules,
    CoordinatorRun,
    Fitted,
    GuestBatch,
    GuestRun,
    HostBatch,
    HostRun,
    PartyColumns,
    TrainingStep,
)
from vfl.models.kinds import kind_of_model
from vfl.net.peer import MemoryPeer, Peer, together
from vfl.party.unknown_levels import (
    beyond_chance,
    check_host_levels,
    check_own_levels,
    count_rows,
    describe_unknown,
)
from vfl.protocols.align.psi import guest_align, host_align
from vfl.protocols.common.batches import all_scores
from vfl.protocols.common.participant import Participant, Resources
from vfl.protocols.common.rows import Training
from vfl.protocols.linear.plain import DesignTables
from vfl.protocols.trees.grower import BinnedTables
from vfl.text import counted

T = TypeVar("T")
SimulationEngine = Literal["plain", "protocol"]
StepProgress = Callable[[TrainingStep], None]

GUEST = "guest"
"""The name of the party with the labels."""

_FitOf = tuple[Fitted[AnyGuestModel, AnyHostModel], dict[str, int] | None]
"""What was fitted, and the bytes between guest and host by the host's name."""

_ROUNDING = 1e-13  # relative: scores that differ by less are the same


@dataclass(frozen=True)
class SimulatedModel:
    """What comes of a training. `rows` are the guest's that all parties know, ascending.

    features: of these rows, by party. traffic: bytes between guest and host, both ways together, by
    host's name; None where nothing was sent. idle: why all rows have the same score, if they have.
    doubts: what else there is to say.
    """

    rows: RowIndices
    features: Mapping[str, Features]
    fitted: Fitted[AnyGuestModel, AnyHostModel]
    traffic: dict[str, int] | None
    idle: str | None
    doubts: str | None


@dataclass(frozen=True)
class SimulatedScores:
    """The score of each row of a batch, and how many of them each host knows, by name.

    unusual: what to say of levels that were not in training, more of them than chance makes.
    """

    scores: Floats
    known: dict[str, int]
    unusual: list[str]


@dataclass(frozen=True)
class TrainedLevels:
    """What a model was trained on: levels by party and column, and the share of a batch's rows with
    others above which it is not scored."""

    levels: Mapping[str, Mapping[str, Levels]]
    unknown_levels: float


@dataclass(frozen=True)
class SimulatedTask:
    """What is to be trained: the kind of model, each party's rules for its columns, and on what.

    `rows` are all the guest's. `progress` is told of each step. `split` has a group or a time of each
    row, by which rows are kept back; `holdout` is the share that trains nothing.
    """

    kind: AnyKind
    rules: Mapping[str, ColumnRules]
    rows: Training
    engine: SimulationEngine
    machine: Machine
    progress: StepProgress
    split: SplitColumns = field(default_factory=SplitColumns)
    holdout: float = 0.0


def train(guest: FrameTable, hosts: Sequence[FrameTable], task: SimulatedTask) -> SimulatedModel:
    """Align the rows and train on those that all parties know.

    Raises ConfigError and DataError as the protocols do, for no common row, and for shares that leave
    no row to train on or to stop by.
    """
    work = _train_plain if task.engine == "plain" else _train_apart
    return run(work(guest, hosts, task))


def tables_of(
    guest: FrameTable, hosts: Sequence[FrameTable], task: SimulatedTask
) -> BinnedTables | DesignTables:
    """What a training would be of: the columns of the rows that all parties know, the guest's first.

    Raises ConfigError and DataError as `train`.
    """
    tables = [guest, *hosts]
    aligned = Aligned.of(task, tables, common_rows(tables))
    return task.kind.tables(aligned.parties, aligned.training)


def score(
    guest: FrameTable,
    hosts: Sequence[FrameTable],
    engine: SimulationEngine,
    fitted: tuple[AnyGuestModel, Mapping[str, AnyHostModel]],
    known: TrainedLevels,
) -> SimulatedScores:
    """Score the guest's rows by all halves; a host's columns are missing in a row it does not know.

    Raises DataError as the protocols do, and for too many rows with levels that were not in training.
    """
    return run(_score(guest, hosts, engine, fitted, known))


# Training.


async def _train_plain(
    guest: FrameTable, hosts: Sequence[FrameTable], task: SimulatedTask
) -> SimulatedModel:
    aligned = Aligned.of(task, [guest, *hosts], common_rows([guest, *hosts]))
    return await aligned.outcome(*await fit_plain(aligned))


async def fit_plain(aligned: "Aligned") -> _FitOf:
    """All columns in one place."""
    task = aligned.task
    return await task.kind.train_pooled(aligned.parties, aligned.training, task.progress), None


async def _train_apart(
    guest: FrameTable, hosts: Sequence[FrameTable], task: SimulatedTask
) -> SimulatedModel:
    """Each party in its role, over memory."""
    sessions = Sessions.of([host.name for host in hosts], task.machine)
    rows = common_rows([guest])
    if hosts:
        aligning = [
            host_align(to_guest, table.ids, own, allow_empty=True)
            for (_, to_guest), table, own in zip(sessions.pairs, hosts, sessions.own, strict=True)
        ]
        asking = guest_align(sessions.peers, guest.ids, context=sessions.context, allow_empty=True)
        rows = _in_guest_order([common.rows for common in await together([asking, *aligning])])
    aligned = Aligned.of(task, [guest, *hosts], rows)
    return await aligned.outcome(*await fit_apart(aligned, sessions))


@dataclass(frozen=True)
class Sessions:
    """The guest's sessions with hosts, and all parties' with a coordinator if there is one, over
    memory."""

    context: bytes
    own: Sequence[Participant]
    pairs: Sequence[tuple[Peer, Peer]]  # to the host, to the guest
    led: Sequence[tuple[Peer, Peer]] = ()  # to the coordinator, to the party, the guest first

    @classmethod
    def of(cls, names: Sequence[str], machine: Machine, coordinator: str | None = None) -> "Sessions":
        context, resources = secrets.token_bytes(16), Resources(machine)
        own = [Participant(name, [*names], context, resources=resources) for name in names]
        pairs = [MemoryPeer.pair(GUEST, name) for name in names]
        parties = [] if coordinator is None else [GUEST, *names]
        led = [MemoryPeer.pair(name, coordinator) for name in parties if coordinator is not None]
        return cls(context, own, pairs, led)

    @property
    def peers(self) -> list[Peer]:
        return [to_host for to_host, _ in self.pairs]


async def fit_apart(aligned: "Aligned", sessions: Sessions | None = None) -> _FitOf:
    """Each party in its role, and the bytes that went to and fro."""
    task = aligned.task
    names = [party.party for party in aligned.parties[1:]]
    sessions = sessions or Sessions.of(names, task.machine)
    peers, resources = sessions.peers, Resources(task.machine)
    own_columns, *theirs = aligned.parties
    halves: dict[str, AnyHostModel] = {}

    to_lead: list[Peer | None] = [peer for peer, _ in sessions.led] or [None] * len(aligned.parties)

    async def of_guest() -> tuple[AnyGuestModel, Floats]:
        role = task.kind.guest(own_columns, aligned.training)
        return await role.train(peers, GuestRun(resources, task.progress, coordinator=to_lead[0]))

    async def of_host(
        own: Participant, to_guest: Peer, columns: PartyColumns, lead: Peer | None
    ) -> None:
        def keep(half: AnyHostModel) -> None:
            halves[own.name] = half

        run = HostRun(own, len(aligned.rows), keep, coordinator=lead)
        await task.kind.host(columns).train(to_guest, run)

    roles: list[Coroutine[object, None, Any]] = [
        of_guest(),
        *(
            of_host(own, to_guest, columns, lead)
            for own, (_, to_guest), columns, lead in zip(
                sessions.own, sessions.pairs, theirs, to_lead[1:], strict=True
            )
        ),
    ]
    if sessions.led:
        lead = task.kind.coordinator_role()
        roles.append(lead.train([to_party for _, to_party in sessions.led], CoordinatorRun(resources)))
    (model, score), *_ = await together(roles)
    traffic = {
        peer.name: peer.traffic.bytes_sent + peer.traffic.bytes_received for peer in peers
    } or None
    return Fitted(model, {name: halves[name] for name in names}, score), traffic


@dataclass(frozen=True)
class Aligned:
    """The rows that all parties know."""

    task: SimulatedTask
    rows: RowIndices  # the guest's
    parties: Sequence[PartyColumns]
    training: Training

    @classmethod
    def of(
        cls, task: SimulatedTask, tables: Sequence[FrameTable], rows: Sequence[RowIndices]
    ) -> "Aligned":
        """From rows of each table, the guest's first.

        Raises DataError for no common row or none with something to learn, ConfigError for shares.
        """
        if not len(rows[0]):
            raise DataError(
                "no id is common to all parties: check that id= names the ids, that normalise= fits how "
                "each party writes them (case, spaces, leading zeros, dates), and that they are the "
                "same ids"
            )
        training = _draw_training(task, rows[0])
        parties = [
            PartyColumns(
                table.name, table.name, table.take(own), task.rules.get(table.name, ColumnRules())
            )
            for table, own in zip(tables, rows, strict=True)
        ]
        return cls(task, rows[0], parties, training)

    async def outcome(
        self, fitted: Fitted[AnyGuestModel, AnyHostModel], traffic: dict[str, int] | None
    ) -> SimulatedModel:
        """What came of it, and what there is to say of the scores."""
        own = fitted.score if self.training.offset is None else fitted.score - self.training.offset
        return SimulatedModel(
            self.rows,
            {party.party: party.features for party in self.parties},
            fitted,
            traffic,
            await idle_of(self.task.kind, self.parties, self.training, (fitted.model, own)),
            self.task.kind.doubts(fitted.model, own, self.training, fitted.halves),
        )


async def idle_of(
    kind: AnyKind,
    parties: Sequence[PartyColumns],
    training: Training,
    trained: tuple[AnyGuestModel, Floats],
) -> str | None:
    """Why all rows have the same score, if they have, by a model and its scores without offset."""
    model, own = trained
    label = training.label[training.train]
    size = float(np.std(label)) if training.loss.link == "identity" else 1.0
    if float(np.ptp(own, axis=0).max()) > _ROUNDING * max(float(np.abs(own).max()), size):
        return None
    if len(label) == 1:
        return "there is one row to train on"
    if training.offset is None and (label == label[0]).all():
        return f"y is the same in all {counted(len(label), 'row')} to train on"
    return await kind.idle(parties, training, model)


def common_rows(tables: Sequence[FrameTable]) -> list[RowIndices]:
    """The rows whose id all tables have, of each table, in the order of the first one's."""
    if len(tables) == 1:
        return [np.arange(tables[0].rows)]
    first, *others = tables
    place_of = [{one: row for row, one in enumerate(table.ids)} for table in others]
    common = [
        (row, *(places[one] for places in place_of))
        for row, one in enumerate(first.ids)
        if all(one in places for places in place_of)
    ]
    return list(np.array(common, np.int64).reshape(len(common), len(tables)).T)


def _in_guest_order(rows: list[RowIndices]) -> list[RowIndices]:
    """Common rows in the order of the guest's table.

    An alignment has an order of its own, random in each: where all is in one process, the same tables
    and the same seed are to make the same model.
    """
    order = np.argsort(rows[0])
    return [own[order] for own in rows]


def _draw_training(task: SimulatedTask, rows: RowIndices) -> Training:
    """The aligned rows; those that decide when to stop are drawn by the seed, as in a job.

    Raises DataError where their label has nothing to teach, ConfigError for shares that leave no row.
    """
    kind, whole = task.kind, task.rows
    share = kind.validation_share
    draw, by = np.random.default_rng([kind.seed, 1]).random(len(whole.label)), task.split.take(rows)
    try:
        if not (share or task.holdout) or (by.group is None and by.time is None):
            split = draw_split(draw[rows], task.holdout, share)
        else:
            split = split_by(by, rows, draw, task.holdout, share)
    except OneValue as error:
        raise DataError(
            f"{'groups' if error.use == 'group' else 'time'} has the same value in all aligned rows, so "
            "that none can be kept back: leave it out"
        ) from None
    offset = None if whole.offset is None else whole.offset[rows]
    exposure = None if whole.exposure is None else whole.exposure[rows]
    drawn = Training(
        *(whole.label[rows], whole.weight[rows], split.train, split.validation, whole.loss),
        *(offset, exposure, None if by.group is None else by.group.place),
    )
    check_drawn(kind, drawn, "aligned row")
    return drawn


def check_drawn(kind: AnyKind, drawn: Training, row: str) -> None:
    """Raises DataError where the label of rows that train, or decide when to stop, has nothing to teach,
    ConfigError where there is no such row. `row`: what errors call one."""
    share, rows = kind.validation_share, int((drawn.train | drawn.validation).sum())
    if not drawn.train.any():
        raise ConfigError(
            f"validation_share={share} leaves none of the {counted(rows, row)} to train on: lower it"
        )
    if kind.stops_early and not drawn.validation.any():
        raise ConfigError(
            f"validation_share={share} keeps none of the {counted(rows, row)} for "
            "early_stopping_rounds to stop by: raise it"
        )
    loss = drawn.loss
    for mask, what, check in (
        (drawn.train, "train on", loss.check),
        (drawn.validation, "stop by", loss.check_held_out),
    ):
        if mask.any():
            try:
                check(drawn.label[mask])
            except BadLabel as error:
                said = f"in the {counted(int(mask.sum()), row)} to {what}, y {error}"
                if what == "stop by":
                    said += f" (validation_share={share} draws them: raise it)"
                raise DataError(said) from None


# Scoring.


async def _score(
    guest: FrameTable,
    hosts: Sequence[FrameTable],
    engine: SimulationEngine,
    fitted: tuple[AnyGuestModel, Mapping[str, AnyHostModel]],
    trained: TrainedLevels,
) -> SimulatedScores:
    """Score in one loop. Each host knows other rows, so each is aligned with on its own."""
    model, halves = fitted
    kind = kind_of_model(model)
    context = secrets.token_bytes(16)
    pairs = [MemoryPeer.pair(GUEST, host.name) for host in hosts]
    peers: list[Peer] = [to_host for to_host, _ in pairs]

    async def aligned(to_host: Peer, to_guest: Peer, table: FrameTable) -> list[RowIndices]:
        if engine == "plain":
            distinct = FrameTable(
                GUEST, guest.ids, guest.id_of_row, guest.id_columns, {}, len(guest.ids)
            )
            return common_rows([distinct, table])
        asking = guest_align([to_host], guest.ids, context=context, allow_empty=True)
        participant = Participant(table.name, [table.name], context)
        answering = host_align(to_guest, table.ids, participant, allow_empty=True)
        return [common.rows for common in await together([asking, answering])]

    rows = await together([aligned(*pair, table) for pair, table in zip(pairs, hosts, strict=True)])
    places = []
    for own, _ in rows:
        place_of_id = np.full(len(guest.ids), -1, np.int64)
        place_of_id[own] = np.arange(len(own))
        places.append(place_of_id[guest.id_of_row])
    # Levels as training had them, of the rows that each host is asked for.
    batch = {guest.name: guest.features} | {
        table.name: table.take(own) for table, (_, own) in zip(hosts, rows, strict=True)
    }
    batch, unusual = _match_levels(batch, guest.name, trained)
    own_scores = kind.own_scores(model, guest.name, batch[guest.name], guest.rows)
    of_guest = GuestBatch(batch[guest.name], guest.rows, own_scores, places)

    async def of_host(to_guest: Peer, name: str, rows: int) -> None:
        own = kind.own_scores(halves[name], name, batch[name], rows)
        await kind.host_parts(to_guest, halves[name], HostBatch(batch[name], rows, own))

    roles: list[Coroutine[object, None, Any]] = [
        all_scores(kind.guest_parts(peers, model, of_guest)),
        *(
            of_host(to_guest, host.name, len(own))
            for host, (_, to_guest), (_, own) in zip(hosts, pairs, rows, strict=True)
        ),
    ]
    scores, *_ = await together(roles)
    known = {table.name: int((place >= 0).sum()) for table, place in zip(hosts, places, strict=True)}
    return SimulatedScores(cast(Floats, scores), known, unusual)


def _match_levels(
    batch: Mapping[str, Features], guest: str, trained: TrainedLevels
) -> tuple[dict[str, Features], list[str]]:
    """The rows of all parties with the levels of training, and what to say of those that it had not.

    Raises DataError where these are too many, by the rules of a job.
    """
    matched, unusual = {}, []
    for party, features in batch.items():
        levels = trained.levels.get(party, {})
        matched[party], unknown = match_levels(features, levels)
        more, said = beyond_chance(unknown, levels), describe_unknown(unknown, levels)
        if party == guest:
            check_own_levels(party, unknown, levels, trained.unknown_levels)
        elif more:
            of = len(next(iter(more.values())))
            columns = ", ".join(f"'{name}'" for name in more)
            advice = f"write those of {columns} as in training, or raise unknown_levels"
            check_host_levels(party, count_rows(more), of, trained.unknown_levels, advice)
        unusual += [f"{party}: {said[column]}" for column in more]
    return matched, unusual


def run(work: Coroutine[object, None, T]) -> T:
    """Run in a thread with a loop of its own: a notebook's thread has one running already."""
    runner = asyncio.Runner(loop_factory=asyncio.new_event_loop)
    loop = runner.get_loop()

    def inside() -> T:
        with runner:
            return runner.run(work)

    def cancel() -> None:
        for task in asyncio.all_tasks(loop):
            task.cancel()

    with ThreadPoolExecutor(1, "vfl") as pool:
        result = pool.submit(inside)
        try:
            return result.result()
        except KeyboardInterrupt:
            with suppress(RuntimeError):  # it has ended meanwhile
                loop.call_soon_threadsafe(cancel)
            raise
