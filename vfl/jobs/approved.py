"""What a guest sees of a host whose people decide on a job: it waits, and checks what they signed."""

import asyncio
import hashlib
import time
from collections.abc import Sequence
from dataclasses import dataclass

from vfl.errors import PeerError
from vfl.jobs.offer import Accept, Terms, Waiting
from vfl.jobs.show import Show
from vfl.net.peer import Peer, together
from vfl.party.documents import canonical_json
from vfl.text import in_words

_GRACE = 60.0  # seconds beyond a host's own limit after which a guest waits no longer


def approval_statement(terms: Terms, decided: str) -> bytes:
    """The bytes that a host signs when a person has approved a job of these terms."""
    said = {"terms": hashlib.sha256(terms.statement).hexdigest(), "decided": decided}
    return b"vfl approval\0" + hashlib.sha256(canonical_json(said)).digest()


@dataclass
class _Waits:
    """A host that waits for its people."""

    within: float
    since: float


async def answers_of(hosts: Sequence[Peer], show: Show) -> list[Accept]:
    """What hosts answer to an Offer; says while one of them waits for its people.

    Raises PeerError for a host that waits longer than it said, and what sessions raise.
    """
    waits: dict[str, _Waits] = {}
    telling = asyncio.create_task(_tell(waits, show))
    try:
        return await together([_answer(host, waits, show) for host in hosts])
    finally:
        telling.cancel()


async def _answer(host: Peer, waits: dict[str, _Waits], show: Show) -> Accept:
    answer = await host.recv(Accept, Waiting)
    if isinstance(answer, Accept):
        return answer
    show.say(
        f"waiting for approval by host {host.name}, {answer.within:,} s at most: a person there "
        "decides on the job; Ctrl-C cancels it"
    )
    waits[host.name] = _Waits(answer.within, time.monotonic())
    try:
        async with asyncio.timeout(answer.within + _GRACE):
            return await host.recv(Accept)
    except TimeoutError:
        raise PeerError(
            f"{host.name} said that it decides within {answer.within:,} s, and has not: ask its people",
            for_peer="a host did not decide in time",
        ) from None
    finally:
        del waits[host.name]


async def _tell(waits: dict[str, _Waits], show: Show) -> None:
    """Show how long hosts have been waited for."""
    while True:
        if waits:
            first = min(waits.values(), key=lambda one: one.since)
            show.progress(
                f"waiting for approval by host {in_words([*waits])}",
                int(time.monotonic() - first.since),
                int(max(one.within for one in waits.values())),
            )
        await asyncio.sleep(1.0)
