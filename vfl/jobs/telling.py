"""Whatever ends a job, all its peers are told why, and a party that serves goes on."""

import asyncio
from collections.abc import AsyncIterator, Collection, Coroutine, Sequence
from contextlib import asynccontextmanager, suppress
from typing import TypeVar

from vfl.errors import PeerError, PeerLost, PeerStopped, Refused, VflError, fault
from vfl.jobs.journal import Journal
from vfl.jobs.offer import Kept
from vfl.jobs.show import Show
from vfl.models.findings import Finding
from vfl.net.peer import Peer, stop_all
from vfl.net.websocket import WebSocketPeer
from vfl.net.wire import Message
from vfl.news import Event, News, work_ended_by

T = TypeVar("T")
M = TypeVar("M", bound=Message)
_LOOK = 0.5  # seconds


@asynccontextmanager
async def telling(peers: Collection[Peer], interrupted: VflError) -> AsyncIterator[None]:
    """What ends the block ends the peers' sessions, which hear why.

    `interrupted`: what they hear where this party's part was cancelled.
    """
    try:
        yield
    except VflError as error:
        await stop_all(peers, error)
        raise
    except asyncio.CancelledError:
        await stop_all(peers, interrupted)
        raise
    except Exception:
        await stop_all(peers, VflError("", for_peer="it failed with an error of its own"))
        raise


@asynccontextmanager
async def attending(peer: Peer, journal: Journal, show: Show) -> AsyncIterator[None]:
    """A session of a party that serves, as `serving_on`; then it is closed and the ledger sealed."""
    try:
        async with serving_on([peer], show):
            yield
    finally:
        with suppress(PeerLost):
            await peer.close()
        journal.seal(show.say)


async def first_message(peer: Peer, kind: type[M], seconds: float) -> M | None:
    """What a session begins with; None where the peer has only looked whether this party is there, or
    asks for nothing so long, which it is told."""
    try:
        async with asyncio.timeout(seconds):
            return await peer.recv(kind)
    except PeerLost:
        return None
    except TimeoutError:
        text = f"{peer.name} asked for nothing within {seconds:.0f} s"
        await stop_all([peer], PeerLost(text, for_peer="no job came in time"))
        return None


@asynccontextmanager
async def serving_on(peers: Collection[Peer], show: Show) -> AsyncIterator[None]:
    """Like `telling`, at a party that serves: it says how the job ended; only a shutdown is raised."""
    try:
        yield
    except VflError as error:
        not_ours = isinstance(error, PeerError | PeerStopped | PeerLost | Refused)
        line = f"{'job ended' if not_ours else 'error'}: {error}"
        event: Event = "ended" if not_ours else "fault"
        show.say(News(line, event, _only(peers), work=work_ended_by(error)))
        await stop_all(peers, error)  # what it was told may have come from another party
    except asyncio.CancelledError:
        await stop_all(peers, VflError("", for_peer="it is shutting down", passing=True))
        raise
    except Exception as error:
        # A bug here must not end the service for the next job.
        line = f"error: {fault(error)}"
        show.say(News(line, "fault", _only(peers), work=work_ended_by(error)))
        await stop_all(peers, VflError(""))


def _only(peers: Collection[Peer]) -> str | None:
    """The name of the peer, where there is one alone."""
    names = [peer.name for peer in peers]
    return names[0] if len(names) == 1 else None


async def while_here(peers: Collection[Peer], work: Coroutine[object, None, T]) -> T:
    """The work's outcome; ends early when a peer is gone, who may have said why."""
    working = asyncio.create_task(work)
    try:
        while not working.done():
            await asyncio.wait([working], timeout=_LOOK)
            gone = [peer for peer in peers if isinstance(peer, WebSocketPeer) and peer.lost]
            if gone and not working.done():
                await asyncio.wait([working], timeout=_LOOK)  # it may be reading the last words
                if not working.done():
                    raise gone[0].last_words(PeerLost(f"{gone[0].name} is gone"))
        return working.result()
    finally:
        working.cancel()


async def tell_kept(party: Peer, found: Sequence[Finding]) -> None:
    """Tell a party of a training that the model is kept, and what was found of it."""
    # A host that is gone keeps its checkpoint until its next run of the job.
    with suppress(PeerLost, PeerStopped):
        await party.send(Kept(found=[one.word for one in found]))
