"""The host's side: serve guests, job after job."""

import asyncio
import contextlib
import math
import time
from collections.abc import Awaitable, Callable, Coroutine

from vfl.errors import (
    ConfigError,
    ModelError,
    Refused,
    VflError,
)
from vfl.jobs.alignment_host import serve_align
from vfl.jobs.connect import Site, check_role, warn_daily
from vfl.jobs.lookups import ready_for_lookups, serve_lookup
from vfl.jobs.memory import release_memory
from vfl.jobs.offer import Offer
from vfl.jobs.oneway_host import serve_oneway
from vfl.jobs.own_table import read_guest, read_host
from vfl.jobs.pooled import serve_pooled
from vfl.jobs.presenting import serve_audit
from vfl.jobs.scoring_host import serve_score
from vfl.jobs.screening_host import serve_screen
from vfl.jobs.shared_table import without_features
from vfl.jobs.show import Once, Show
from vfl.jobs.storage import serving
from vfl.jobs.telling import attending, first_message, while_here
from vfl.jobs.training_host import serve_train
from vfl.jobs.tuning_host import serve_tune
from vfl.jobs.worth import serve_worth
from vfl.models.halves import HostHalf
from vfl.models.kinds import check_rules_of, kind_of_model, load_half
from vfl.net.open_sessions import A_PEER
from vfl.net.peer import Peer
from vfl.net.websocket import WebSocketPeer
from vfl.news import News
from vfl.party.id_report import find_unmended
from vfl.party.refusals import RefusalCounts
from vfl.party.table import Table
from vfl.text import counted

_PAUSE = 1.0  # seconds between two sessions with a guest that hangs up ...
_NEXT = 0.05  # ... and after a job, which another may follow
_OFFER = 600.0  # seconds for which a session may be without a job


async def serve(site: Site, show: Show) -> None:
    """Serve every guest of the party file until cancelled; no job's failure ends it.

    Raises DataError or ConfigError when the store, the table or an address cannot be used from the
    start, Refused when another process serves from this store.
    """
    party = site.party
    if party.role == "guest":
        await _serve_rows(site, show)
        return
    with serving(site):
        _check_table(site, show)
        release_memory()
        await ready_for_lookups(site)
        await _serve(site, show)


def _check_table(site: Site, show: Show) -> None:
    """Say what is served, and what is odd about it. Every job reads the table anew: none of it is kept.

    Raises DataError or ConfigError when it cannot be used.
    """
    party = site.party
    table, ids = read_host(site, needed=())
    found, rows = ids.notes, len(ids.rows)
    del ids  # of millions of rows they are worth less than the room that is needed next
    release_memory(table.rows)
    check_rules_of(party, {*table.features, *table.faults}, table.path.name)
    _check_faults(site, table, show)
    written = find_unmended(party.data, table.by_key(party.data))
    notes = [f"{table.path.name}: {note}" for note in (*found, *written)]
    for note in (*table.warnings, *notes):
        show.say(f"note: {note}")
    show.say(
        f"{party.name} serves {table.path.name}: {counted(rows, 'id')}, "
        f"{counted(len(table.features), 'column')}"
    )


async def _serve_rows(site: Site, show: Show) -> None:
    """Serve the servers of jobs over rows.

    Raises ConfigError for a party that has none, DataError for a table that cannot be used.
    """
    party = site.party
    if not party.coordinators:
        raise ConfigError(
            f"{party.name} is a guest, which serves jobs over rows alone: [peers] needs their server, "
            'with role = "coordinator"'
        )
    with serving(site):
        _check_rows(site, show)
        release_memory()
        await _serve(site, show)


def _check_rows(site: Site, show: Show) -> None:
    """As `_check_table`, of a party in jobs over rows."""
    party = site.party
    table, ids = read_guest(without_features(party.data), show=show)
    for note in ids.notes:
        show.say(f"note: {table.path.name}: {note}")
    rows = counted(len(ids.rows), "row")
    show.say(f"{party.name} serves {table.path.name}: {rows}, with the columns that a job names")


async def _serve(site: Site, show: Show) -> None:
    party = site.party
    async with asyncio.TaskGroup() as group:
        group.create_task(warn_daily(site, show))
        if party.role == "guest":
            for name in party.coordinators:
                server = party.peers[name].address or ""
                group.create_task(_dial_forever(site, name, server, show))
            return
        for name in party.partners:
            if (address := party.peers[name].address) is not None:
                group.create_task(_dial_forever(site, name, address, show))
            if (online := party.peers[name].online) is not None:
                group.create_task(_wait_for_lookups(site, name, online, show))
        if party.party.listen is not None:
            group.create_task(_listen_forever(site, party.party.listen, group, show))


def _check_faults(site: Site, table: Table, show: Show) -> None:
    """Say which columns cannot be used, and which models need them.

    Raises DataError if no model does without them: then there is nothing to serve.
    """
    if not table.faults:
        return
    store, needed = site.store, {}
    for name in store.names("model"):
        with contextlib.suppress(ModelError):  # another party's half, or a damaged one
            half = load_half(store, name, HostHalf)
            needed[name] = kind_of_model(half.model).needed(half.model) & table.faults.keys()
    if all(needed.values()):
        raise next(iter(table.faults.values()))
    for column, error in table.faults.items():
        models = sorted(name for name, columns in needed.items() if column in columns)
        who = "no model needs"
        if models:
            who = f"model {models[0]} needs" if len(models) == 1 else f"models {', '.join(models)} need"
        show.say(f"note: {error} ({who} it; no alignment and no training until it is mended)")


async def _dial_forever(site: Site, name: str, address: str, show: Show) -> None:
    """Keep one session with a guest that runs one job at a time."""
    show.say(News(f"dialling {name} at {address}", "dialling", name))
    await _dial_in_turn(site, name, address, show, Once(show.say), contextlib.nullcontext())


async def _wait_for_lookups(site: Site, name: str, address: str, show: Show) -> None:
    """Keep a session waiting where a guest's `vfl online` listens, beside those that have a job: as many
    as the guest lets one party have."""
    show.say(News(f"dialling {name} at {address} for lookups", "dialling", name))
    once, turn = Once(show.say), asyncio.Lock()
    async with asyncio.TaskGroup() as group:
        for _ in range(A_PEER):
            group.create_task(_dial_in_turn(site, name, address, show, once, turn))


async def _dial_in_turn(
    site: Site,
    name: str,
    address: str,
    show: Show,
    once: Once,
    turn: contextlib.AbstractAsyncContextManager[None],
) -> None:
    """Serve one session after the other. It is somebody else's turn to dial once a session has a job."""

    def waits(why: str) -> None:
        once(f"waiting for {why}")

    while True:
        served = False
        async with contextlib.AsyncExitStack() as dialling:
            await dialling.enter_async_context(turn)
            try:
                peer = await site.dial(name, address, math.inf, show, waits)
            except VflError as error:
                # The other side may be mended while this one waits.
                once(f"error: {error}")
            else:
                served = await serve_session(site, peer, show, dialling.aclose)
            pause = _NEXT if served else _PAUSE
            await asyncio.sleep(pause)  # before the turn is over, or others dialled at once


async def _listen_forever(site: Site, address: str, group: asyncio.TaskGroup, show: Show) -> None:
    async with site.listen(address, show) as listener:
        show.say(News(site.where(listener), "listening"))
        while True:
            peer = await listener.accept()
            group.create_task(serve_session(site, peer, show))


async def _go_on() -> None:
    """Nobody waits for a session's job."""


async def serve_session(
    site: Site, peer: WebSocketPeer, show: Show, asked: Callable[[], Awaitable[None]] = _go_on
) -> bool:
    """One session: a guest's job, or its wish to leave. Says how it ended and tells the guest; whether a
    job was done. `asked` hears that the guest has asked for a job."""
    served = False
    async with attending(peer, site.journal, show):
        try:
            served = await _attend(site, peer, show, asked)
        except Refused as refused:
            if refused.rules:
                await asyncio.to_thread(RefusalCounts(site.store).count, refused.rules, peer.name)
            raise
    release_memory()
    return served


async def _attend(
    site: Site, peer: WebSocketPeer, show: Show, asked: Callable[[], Awaitable[None]]
) -> bool:
    check_role(peer, "coordinator" if site.party.role == "guest" else "guest")
    offer = await first_message(peer, Offer, _OFFER)
    if offer is None:
        return False
    await asked()
    try:
        await _play(site, peer, offer, show)
    except asyncio.CancelledError:
        line = "job ended: stopped here; a training or a batch goes on when it is started again"
        show.say(News(line, "ended", peer.name))
        raise
    return True


async def _play(site: Site, peer: WebSocketPeer, offer: Offer, show: Show) -> None:
    """The job that a guest asks for."""
    over_rows = site.party.role == "guest"
    site.check_not_revoked([peer.name])
    started = time.monotonic()
    async with site.while_not_revoked([peer.name, *offer.hosts]):
        if over_rows and offer.task != "train":
            raise Refused(f"{site.party.name} takes part in trainings over rows alone")
        task = serve_pooled if over_rows else _TASKS[offer.task]
        others = [name for name in offer.hosts if name != site.party.name]
        with site.activity.job(
            offer.task, show, [peer.name, *others], [offer.model, offer.alignment]
        ) as following:
            site.activity.tell(sessions=[peer])
            site.activity.offered(offer.run, leads=False)
            async with site.activity.until_cancelled():
                done = await while_here([peer], task(site, peer, offer, following))
            traffic = peer.traffic
            line = f"{done} in {time.monotonic() - started:.1f} s; "
            line += f"sent {counted(traffic.bytes_sent, 'byte')}, received {traffic.bytes_received:,}"
            show.say(News(line, "done", peer.name))


_TASKS: dict[str, Callable[[Site, Peer, Offer, Show], Coroutine[object, None, str]]] = {
    "align": serve_align,
    "train": serve_train,
    "score": serve_score,
    "lookup": serve_lookup,
    "oneway": serve_oneway,
    "worth": serve_worth,
    "tune": serve_tune,
    "screen": serve_screen,
    "audit": serve_audit,
}
