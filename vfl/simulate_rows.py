"""The parties of a training over rows, side by side in one event loop.

Each has the label and all columns for rows of its own.
"""

import secrets
from collections.abc import Coroutine, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import cast

import numpy as np

from vfl.arrays import Floats
from vfl.errors import ConfigError, DataError, VflError
from vfl.frames.features import RowIndices
from vfl.learn.binning import Features
from vfl.learn.holdout import Cuts, RowSplit, SplitColumns, draw_split, group_draws, split_at
from vfl.learn.losses import BadLabel
from vfl.models.kind import (
    AnyGuestModel,
    AnyKind,
    ClientRole,
    ClientRun,
    ColumnRules,
    PartyColumns,
)
from vfl.net.peer import MemoryPeer, Peer, together
from vfl.protocols.common.participant import Participant
from vfl.protocols.common.rows import Training
from vfl.protocols.pooled.adding import Adder, MaskingAdder
from vfl.protocols.pooled.adding_server import serve_totals
from vfl.protocols.pooled.bins import Schema
from vfl.protocols.pooled.plain_adding import PlainAdder, plain_adders
from vfl.protocols.pooled.times import common_cuts
from vfl.protocols.pooled.totals import Totals
from vfl.protocols.pooled.trees import POOLED
from vfl.simulate import SimulationEngine, StepProgress, check_drawn, idle_of, run

SERVER = "server"
"""The name of the party that adds up and reads nothing."""


@dataclass(frozen=True)
class PooledTask:
    """What is to be trained over rows: the kind of model, the columns that all parties have, and the
    rules for them.

    features, rows: of all parties. `rows.train` are those that train, of which some are kept to decide
    when to stop; all others are held out. parties: which rows each one has, ascending. split: a group
    or a time of each row, by which rows are kept. alone: whether each also trains on its own rows alone.
    """

    kind: AnyKind
    schema: Schema
    rules: ColumnRules
    features: Features
    rows: Training
    parties: Mapping[str, RowIndices]
    engine: SimulationEngine
    progress: StepProgress
    split: SplitColumns = field(default_factory=SplitColumns)
    alone: bool = False


@dataclass(frozen=True)
class PooledModel:
    """What comes of it. Scores have shape (rows,).

    alone: by the model that each row's party makes of its own rows, NaN where there is none; why there
    is none is in `not_alone`, by party. traffic: bytes between server and party, both ways together;
    None where nothing was sent. idle: why all rows have the same score, if they have. doubts: what else
    there is to say.
    """

    model: AnyGuestModel
    score: Floats
    alone: Floats
    not_alone: Mapping[str, str]
    traffic: dict[str, int] | None
    idle: str | None
    doubts: str | None


def train_rows(task: PooledTask) -> PooledModel:
    """Train a model on the rows of all parties.

    Raises ConfigError and DataError as the protocols do, and for shares that leave no row to train on or
    to stop by.
    """
    if task.engine == "protocol" and len(task.parties) < 2:
        raise ConfigError(
            'engine="protocol" is for the rows of 2 parties at the least: say whose each row is with '
            "parties="
        )
    return run(_train(task))


async def _train(task: PooledTask) -> PooledModel:
    rows = await _drawn(task)
    rules = task.rules
    roles: dict[str, ClientRole[AnyGuestModel]] = {}
    for name, own in task.parties.items():
        features = {column: values[own] for column, values in task.features.items()}
        columns = PartyColumns(name, name, features, rules)
        roles[name] = task.kind.client(columns, _take(rows, own), task.schema)
    first = next(iter(roles))
    runs = {name: ClientRun(task.progress) if name == first else ClientRun() for name in roles}
    work = _added_plainly if task.engine == "plain" else _added_apart
    trained, traffic = await work(roles, runs)
    (model, _), *_ = trained
    model = replace(model, parties=(POOLED,))
    score = _in_order(task, [scores for _, scores in trained])
    alone, not_alone = await _alone(task, roles, rows)
    own_score = score if rows.offset is None else score - rows.offset
    pooled = [PartyColumns(POOLED, POOLED, task.features, rules)]
    idle = await idle_of(task.kind, pooled, rows, (model, own_score))
    doubts = task.kind.doubts(model, own_score, rows)
    return PooledModel(model, score, alone, not_alone, traffic, idle, doubts)


async def _drawn(task: PooledTask) -> Training:
    """The rows, those to stop by drawn by each party among its own, or by groups and times, as in a
    job."""
    given, share = task.rows.train, task.kind.validation_share
    if share and (task.split.group is not None or task.split.time is not None):
        split = await _split_by_columns(task)
        train, validation = given & split.train, given & split.validation
    else:
        train, validation = given.copy(), np.zeros(len(given), np.bool_)
        for own in task.parties.values():
            draw = np.random.default_rng([task.kind.seed, 1]).random(len(own))
            split = draw_split(draw, 0.0, share)
            train[own] &= split.train
            validation[own] = given[own] & split.validation
    drawn = replace(task.rows, train=train, validation=validation)
    check_drawn(task.kind, drawn, "row")
    return drawn


async def _split_by_columns(task: PooledTask) -> RowSplit:
    """By groups and times. Raises DataError for a column of one value alone."""
    group, time, share = task.split.group, task.split.time, task.kind.validation_share
    for what, column in (("groups", group), ("time", time)):
        if column is not None and len(np.unique(column.place[task.rows.train])) < 2:
            raise DataError(
                f"{what} has the same value in all rows, so that none can be kept back: leave it out"
            )
    draw = None if group is None else group_draws(group, np.arange(len(group.place)), task.kind.seed)
    if time is None:
        return split_at(draw, None, Cuts(), 0.0, share)
    moments, train = time.times, task.rows.train
    names = list(task.parties)

    def searched(adder: PlainAdder) -> Coroutine[object, None, Cuts]:
        own = task.parties[adder.name][train[task.parties[adder.name]]]
        drawn = None if draw is None else draw[own]
        return common_cuts(Totals(adder), (moments[own], time.dated), drawn, (0.0, share))

    cuts, *_ = await together([searched(one) for one in plain_adders(names)])
    return split_at(draw, moments, cuts, 0.0, share)


def _take(rows: Training, own: RowIndices) -> Training:
    """A party's rows."""
    offset = None if rows.offset is None else rows.offset[own]
    train, validation = rows.train[own], rows.validation[own]
    return Training(rows.label[own], rows.weight[own], train, validation, rows.loss, offset)


def _in_order(task: PooledTask, scores: Sequence[Floats]) -> Floats:
    """Scores of each party's rows in the order of the table."""
    all_scores = np.full(len(task.rows.label), np.nan)
    for own, of_party in zip(task.parties.values(), scores, strict=True):
        all_scores[own] = of_party
    return all_scores


_Trained = Sequence[tuple[AnyGuestModel, Floats]]
_Roles = Mapping[str, ClientRole[AnyGuestModel]]


async def _added_plainly(roles: _Roles, runs: Mapping[str, ClientRun]) -> tuple[_Trained, None]:
    """Totals in the clear: the same, to the last bit."""
    adders = plain_adders(list(roles))
    return await together([roles[one.name].add_up(one, runs[one.name]) for one in adders]), None


async def _added_apart(roles: _Roles, runs: Mapping[str, ClientRun]) -> tuple[_Trained, dict[str, int]]:
    """Each party and the server in its role, over memory."""
    names, context = list(roles), secrets.token_bytes(16)
    pairs = [MemoryPeer.pair(SERVER, name) for name in names]
    to_clients: list[Peer] = [to_client for to_client, _ in pairs]
    trained: dict[str, tuple[AnyGuestModel, Floats]] = {}

    async def of_server() -> None:
        await serve_totals(to_clients)

    async def of_client(name: str, to_server: Peer) -> None:
        adder = MaskingAdder(to_server, Participant(name, names, context))
        trained[name] = await roles[name].add_up(cast(Adder, adder), runs[name])
        await adder.end()

    work: list[Coroutine[object, None, None]] = [
        of_server(),
        *(of_client(name, to_server) for name, (_, to_server) in zip(names, pairs, strict=True)),
    ]
    await together(work)
    traffic = {peer.name: peer.traffic.bytes_sent + peer.traffic.bytes_received for peer in to_clients}
    return [trained[name] for name in names], traffic


async def _alone(task: PooledTask, roles: _Roles, rows: Training) -> tuple[Floats, dict[str, str]]:
    """The scores of each party's rows by a model of its own, and why there is none."""
    scores, failed = [], dict[str, str]()
    for name, own in task.parties.items():
        found = np.full(len(own), np.nan)
        if task.alone:
            mine = _take(rows, own)
            try:
                mine.loss.check(mine.label[mine.train])
                found = await roles[name].train_alone()
            except BadLabel as bad:
                failed[name] = f"y {bad}"
            except VflError as error:
                failed[name] = str(error)
        scores.append(found)
    return _in_order(task, scores), failed
