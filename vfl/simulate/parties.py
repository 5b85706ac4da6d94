"""The parties of a training or a batch to score, side by side in one event loop."""

import asyncio
import secrets
from collections.abc import Coroutine, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, TypeVar, cast

import numpy as np

from vfl.crypto.workers import Machine
from vfl.errors import ConfigError, DataError
from vfl.frames.features import FrameTable, RowIndices
from vfl.learn.binning import Features
from vfl.learn.levels import Levels, respelled
from vfl.learn.losses import BadLabel, Floats
from vfl.net.peer import MemoryPeer, Peer, together
from vfl.party.unknown_levels import check_of_host, check_own, in_any, notes, strange
from vfl.protocols.align.psi import guest_align, host_align
from vfl.protocols.common.participant import Participant, Resources
from vfl.protocols.common.rows import Training
from vfl.simulate.method import GUEST, Engine, Fitted, Method, Progress
from vfl.text import counted

T = TypeVar("T")

_ROUNDING = 1e-13  # relative: scores that differ by less are the same


@dataclass(frozen=True)
class Trained:
    """What comes of a training. `rows` are the guest's that all parties know, ascending.

    features: of these rows, by party. traffic: bytes between guest and host, both ways together, by
    host's name; None where nothing was sent. idle: why all rows have the same score, if they have.
    doubts: what else there is to say.
    """

    rows: RowIndices
    features: Mapping[str, Features]
    fitted: Fitted
    traffic: dict[str, int] | None
    idle: str | None
    doubts: str | None


@dataclass(frozen=True)
class Scored:
    """The score of each row of a batch, and how many of them each host knows, by name.

    unusual: what to say of levels that were not in training, more of them than chance makes.
    """

    scores: Floats
    known: dict[str, int]
    unusual: list[str]


@dataclass(frozen=True)
class Known:
    """What a model was trained on: levels by party and column, and the share of a batch's rows with
    others above which it is not scored."""

    levels: Mapping[str, Mapping[str, Levels]]
    unknown_levels: float


def train(
    guest: FrameTable,
    hosts: Sequence[FrameTable],
    whole: Training,
    method: Method,
    engine: Engine,
    machine: Machine,
    done: Progress,
) -> Trained:
    """Align the rows and train on those that all parties know; `whole` is of all the guest's rows.

    Raises ConfigError and DataError as the protocols do, for no common row, and for shares that leave
    no row to train on or to stop by.
    """
    work = _plain if engine == "plain" else _apart
    return run(work(guest, hosts, whole, method, machine, done))


def score(
    guest: FrameTable,
    hosts: Sequence[FrameTable],
    method: Method,
    engine: Engine,
    fitted: tuple[Any, Mapping[str, Any]],
    known: Known,
) -> Scored:
    """Score the guest's rows by all halves; a host's columns are missing in a row it does not know.

    Raises DataError as the protocols do, and for too many rows with levels that were not in training.
    """
    return run(_score(guest, hosts, method, engine, fitted, known))


# Training.


async def _plain(
    guest: FrameTable,
    hosts: Sequence[FrameTable],
    whole: Training,
    method: Method,
    machine: Machine,
    done: Progress,
) -> Trained:
    rows = _checked(common_rows([guest, *hosts]))
    drawn = _checked_shares(method, whole, rows[0])
    features = {table.name: table.take(own) for table, own in zip((guest, *hosts), rows, strict=True)}
    fitted = await method.plain(features, drawn, done)
    idle, doubts = await _judged(method, features, drawn, fitted)
    return Trained(rows[0], features, fitted, None, idle, doubts)


async def _apart(
    guest: FrameTable,
    hosts: Sequence[FrameTable],
    whole: Training,
    method: Method,
    machine: Machine,
    done: Progress,
) -> Trained:
    """Each party in its role, over memory."""
    names, context = [host.name for host in hosts], secrets.token_bytes(16)
    own_of = [Participant(name, names, context, resources=Resources(machine)) for name in names]
    pairs = [MemoryPeer.pair(GUEST, name) for name in names]
    peers: list[Peer] = [to_host for to_host, _ in pairs]

    rows = common_rows([guest])
    if hosts:
        aligning = [
            host_align(to_guest, table.ids, own, allow_empty=True)
            for (_, to_guest), table, own in zip(pairs, hosts, own_of, strict=True)
        ]
        asking = guest_align(peers, guest.ids, context=context, allow_empty=True)
        rows = _in_order(await together([asking, *aligning]))
    rows = _checked(rows)
    drawn = _checked_shares(method, whole, rows[0])
    features = {table.name: table.take(own) for table, own in zip((guest, *hosts), rows, strict=True)}
    roles: list[Coroutine[Any, Any, Any]] = [
        method.guest(peers, features[GUEST], drawn, machine, done),
        *(
            method.host(to_guest, own, features[own.name], len(rows[0]))
            for own, (_, to_guest) in zip(own_of, pairs, strict=True)
        ),
    ]
    (model, score), *halves = await together(roles)
    fitted = Fitted(model, dict(zip(names, halves, strict=True)), score)
    traffic = {
        peer.name: peer.traffic.bytes_sent + peer.traffic.bytes_received for peer in peers
    } or None
    idle, doubts = await _judged(method, features, drawn, fitted)
    return Trained(rows[0], features, fitted, traffic, idle, doubts)


def common_rows(tables: Sequence[FrameTable]) -> list[RowIndices]:
    """The rows whose id all tables have, of each table, in the order of the first one's."""
    if len(tables) == 1:
        return [np.arange(tables[0].rows)]
    first, *others = tables
    place_of = [{one: row for row, one in enumerate(table.ids)} for table in others]
    found = [
        (row, *(places[one] for places in place_of))
        for row, one in enumerate(first.ids)
        if all(one in places for places in place_of)
    ]
    return list(np.array(found, np.int64).reshape(len(found), len(tables)).T)


def _in_order(rows: list[RowIndices]) -> list[RowIndices]:
    """Common rows in the order of the guest's table.

    An alignment has an order of its own, random in each: where all is in one process, the same tables
    and the same seed are to make the same model.
    """
    order = np.argsort(rows[0])
    return [own[order] for own in rows]


def _checked(rows: list[RowIndices]) -> list[RowIndices]:
    if not len(rows[0]):
        raise DataError(
            "no id is common to all parties: check that id= names the ids, that normalise= fits how "
            "each party writes them (case, spaces, leading zeros, dates), and that they are the same ids"
        )
    return rows


def _checked_shares(method: Method, whole: Training, rows: RowIndices) -> Training:
    """The aligned rows, if there is something to learn from their label. Raises DataError."""
    drawn = method.drawn(whole, rows)
    share = getattr(method.params, "validation_share", 0.0)
    if not drawn.train.any():
        raise ConfigError(
            f"validation_share={share} leaves none of the {counted(len(rows), 'aligned row')} to train "
            "on: lower it"
        )
    if getattr(method.params, "early_stopping_rounds", 0) and not drawn.validation.any():
        raise ConfigError(
            f"validation_share={share} keeps none of the {counted(len(rows), 'aligned row')} for "
            "early_stopping_rounds to stop by: raise it"
        )
    for mask, what in ((drawn.train, "train on"), (drawn.validation, "stop by")):
        if mask.any():
            try:
                drawn.loss.check(drawn.label[mask])
            except BadLabel as error:
                said = f"in the {counted(int(mask.sum()), 'aligned row')} to {what}, y {error}"
                if what == "stop by":
                    said += f" (validation_share={share} draws them: raise it)"
                raise DataError(said) from None
    return drawn


async def _judged(
    method: Method, features: Mapping[str, Any], drawn: Training, fitted: Fitted
) -> tuple[str | None, str | None]:
    """Why all rows have the same score, if they have, and what else there is to say of scores."""
    own = fitted.score if drawn.offset is None else fitted.score - drawn.offset
    return await _idle(method, features, drawn, fitted.model, own), method.doubts(own, drawn)


async def _idle(
    method: Method, features: Mapping[str, Any], drawn: Training, model: Any, own: Floats
) -> str | None:
    """Why all rows have the same score, if they have; `own` are the scores without offset."""
    label = drawn.label[drawn.train]
    size = float(np.std(label)) if drawn.loss.link == "identity" else 1.0
    if float(np.ptp(own)) > _ROUNDING * max(float(np.abs(own).max()), size):
        return None
    if len(label) == 1:
        return "there is one row to train on"
    if drawn.offset is None and (label == label[0]).all():
        return f"y is the same in all {counted(len(label), 'row')} to train on"
    return await method.idle(features, drawn, model)


# Scoring.


async def _score(
    guest: FrameTable,
    hosts: Sequence[FrameTable],
    method: Method,
    engine: Engine,
    fitted: tuple[Any, Mapping[str, Any]],
    trained: Known,
) -> Scored:
    """As each host knows other rows, each is aligned with on its own."""
    model, halves = fitted
    context = secrets.token_bytes(16)
    pairs = [MemoryPeer.pair(GUEST, host.name) for host in hosts]
    peers: list[Peer] = [to_host for to_host, _ in pairs]

    async def aligned(to_host: Peer, to_guest: Peer, table: FrameTable) -> list[RowIndices]:
        if engine == "plain":
            distinct = FrameTable(
                GUEST, guest.ids, guest.id_of_row, guest.id_columns, {}, len(guest.ids)
            )
            return common_rows([distinct, table])
        own = guest_align([to_host], guest.ids, context=context, allow_empty=True)
        apart = Participant(table.name, [table.name], context)
        theirs = host_align(to_guest, table.ids, apart, allow_empty=True)
        return await together([own, theirs])

    rows = await together([aligned(*pair, table) for pair, table in zip(pairs, hosts, strict=True)])
    places = []
    for own, _ in rows:
        place_of_id = np.full(len(guest.ids), -1, np.int64)
        place_of_id[own] = np.arange(len(own))
        places.append(place_of_id[guest.id_of_row])
    # Levels as training had them, of the rows that each host is asked for.
    batch = {GUEST: guest.features} | {
        table.name: table.take(own) for table, (_, own) in zip(hosts, rows, strict=True)
    }
    batch, unusual = _respelled(batch, trained)
    roles: list[Coroutine[Any, Any, Any]] = [
        method.guest_scores(peers, model, replace(guest, features=batch[GUEST]), places),
        *(
            method.host_scores(to_guest, halves[host.name], host.name, batch[host.name], len(own))
            for host, (_, to_guest), (_, own) in zip(hosts, pairs, rows, strict=True)
        ),
    ]
    scores, *_ = await together(roles)
    known = {table.name: int((place >= 0).sum()) for table, place in zip(hosts, places, strict=True)}
    return Scored(cast(Floats, scores), known, unusual)


def _respelled(batch: Mapping[str, Features], trained: Known) -> tuple[dict[str, Features], list[str]]:
    """The rows of all parties with the levels of training, and what to say of those that it had not.

    Raises DataError where these are too many, by the rules of a job.
    """
    found, unusual = {}, []
    for party, features in batch.items():
        levels = trained.levels.get(party, {})
        found[party], unknown = respelled(features, levels)
        more, said = strange(unknown, levels), notes(unknown, levels)
        if party == GUEST:
            check_own(party, unknown, levels, trained.unknown_levels)
        elif more:
            of = len(next(iter(more.values())))
            columns = ", ".join(f"'{name}'" for name in more)
            advice = f"write those of {columns} as in training, or raise unknown_levels"
            check_of_host(party, in_any(more), of, trained.unknown_levels, advice)
        unusual += [f"{party}: {said[column]}" for column in more]
    return found, unusual


def run(work: Coroutine[Any, Any, T]) -> T:
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
