"""Alignments by vector OLE over real sockets: lines that break, peers that are gone, in each phase."""

import asyncio
from collections.abc import Callable

import numpy as np
import pytest
from breaking import Broken, Parties, through_relay

from vfl.crypto.vole import silent
from vfl.errors import PeerLost
from vfl.net import session
from vfl.net.peer import Peer, together
from vfl.protocols.align import buckets
from vfl.protocols.align.psi import Intersection, PsiSettings, guest_align, host_align
from vfl.protocols.common.participant import Participant

OF_GUEST = [
    "VoleKeys",
    "VoleBits",
    "VoleChallenge",
    "VoleSlots",
    "VoleCoin",
    "BucketCounts",
    "BucketTags",
]
OF_HOST = ["VoleChoices", "VoleTrees", "VoleProof", "VoleOpening", "BucketStores"]
GUESTS, HOSTS = range(300), range(150, 450)


@pytest.fixture(scope="module")
def parties(tmp_path_factory: pytest.TempPathFactory) -> Parties:
    return Parties(tmp_path_factory.mktemp("keys"))


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several chunks of several buckets, and lines that are tried again at once."""
    monkeypatch.setattr(session, "BACKOFF", (0.01, 0.1))
    monkeypatch.setattr(silent, "LEAST", 1000)
    monkeypatch.setattr(buckets, "BUCKET", 80)
    monkeypatch.setattr(buckets, "CHUNK", 500)


def ids(numbers: range) -> list[bytes]:
    return [b"id %d" % number for number in numbers]


async def aligned(made: Broken) -> list[Intersection]:
    settings, own = PsiSettings("vole"), Participant("registry", context=b"run")
    guest = guest_align([made.here], ids(GUESTS), context=b"run", settings=settings)
    return await together([guest, host_align(made.there, ids(HOSTS), own, settings=settings)])


def on_sending(peer: Peer, kind: str, call: Callable[[], None]) -> None:
    """Call this whenever the other end is sent a message of this kind."""

    def note(way: str, sent: str, payload: bytes) -> None:
        if way == "sent" and sent == kind:
            call()

    peer.observers.append(note)


def test_a_line_that_breaks_in_each_phase_ends_no_alignment(parties: Parties) -> None:
    async def run() -> None:
        async with through_relay(parties) as made:
            cuts: list[str] = []

            def cut_at(kind: str) -> Callable[[], None]:
                def cut() -> None:
                    if kind not in cuts:
                        cuts.append(kind)
                        made.relay.cut()

                return cut

            for peer, kinds in ((made.here, OF_GUEST), (made.there, OF_HOST)):
                for kind in kinds:
                    on_sending(peer, kind, cut_at(kind))
            guest, host = await asyncio.wait_for(aligned(made), 100)
            assert sorted(cuts) == sorted(OF_GUEST + OF_HOST)
            assert made.relay.connections > 5
            assert np.array(GUESTS)[guest.rows].tolist() == np.array(HOSTS)[host.rows].tolist()
            assert sorted(guest.rows.tolist()) == list(range(150, 300))

    asyncio.run(run())


@pytest.mark.parametrize("kind", OF_GUEST + OF_HOST)
def test_nobody_waits_for_a_peer_that_is_gone(parties: Parties, kind: str) -> None:
    async def run() -> None:
        async with through_relay(parties, seconds=0.2) as made:
            dying, left = (made.here, made.there) if kind in OF_GUEST else (made.there, made.here)

            def die() -> None:
                made.relay.down = True
                made.relay.cut()

            on_sending(dying, kind, die)
            settings, own = PsiSettings("vole"), Participant("registry", context=b"run")
            guest = guest_align([made.here], ids(GUESTS), context=b"run", settings=settings)
            host = host_align(made.there, ids(HOSTS), own, settings=settings)
            ends = [asyncio.ensure_future(one) for one in (guest, host)]
            await asyncio.wait_for(asyncio.wait(ends), 100)
            survivor = ends[0] if left is made.here else ends[1]
            with pytest.raises(PeerLost, match="did not come back within"):
                await survivor
            ends[ends[0] is survivor].exception()

    asyncio.run(run())
