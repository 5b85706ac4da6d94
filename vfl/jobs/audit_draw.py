"""Which trees of a model are audited: drawn by its guest and a host together, once the model is done.

A host whose policy audits a share p of trees says so before a training begins, and neither party can
choose what comes of it or know it before the last message of the protocol is there:

1. The host draws s of 32 bytes and sends p and C = SHA-256("vfl audit commitment\0" || run || s || its
   name) in its Accept, signed with the terms of the job.
2. Guest and hosts train. When the model is done the guest sends r, 32 bytes of its own (AuditShare).
3. The host finds for each tree k whether SHA-256("vfl audit draw\0" || its run || k || r || s || host),
   read as a number, is below p * 2^256, writes that down, and sends s (AuditDraw), by which the guest
   finds the same. A linear model counts as one tree.

The guest sends r without knowing s, of which C tells nothing, and a host that has seen r can open C in
one way alone: each of r and s makes the outcome of each tree uniform and independent of those of others,
whatever the other is. All of the training has been sent by then, and is in the ledgers. A guest that
sends no r, or hangs up, gains nothing: all trees of such a model count as drawn (audits.py). A host that
does not like the outcome can refuse the model's use, as it can anyway, and cannot make it look drawn
otherwise.
"""

import hashlib
import secrets
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Annotated

import msgspec
from msgspec import UNSET, UnsetType

from vfl.crypto.randomness import Entropy
from vfl.jobs.offer import Accept, AuditDemand, Terms
from vfl.net.peer import Peer
from vfl.net.wire import MIB, Message
from vfl.party.documents import canonical_json
from vfl.party.identity import Certificate, Identity
from vfl.protocols.trees.lattice import NextTree
from vfl.protocols.trees.paillier_messages import TreeStart

SHARE = 32  # bytes
TREES = (TreeStart.__name__, NextTree.__name__)  # messages that begin one at a host
_Share = Annotated[bytes, msgspec.Meta(min_length=SHARE, max_length=SHARE)]


class AuditShare(Message, frozen=True):
    """guest -> host. Reveals: nothing; it is random. With the host's own number it decides which trees
    have to be replayed."""

    share: _Share


class AuditDraw(Message, frozen=True):
    """host -> guest. Reveals: the random number that the host's Accept commits to, and so which trees
    have to be replayed."""

    share: _Share


class Presented(Message, frozen=True):
    """guest -> host. Reveals: that a run of the model has been replayed by the guest, or by an auditor,
    whose certificate this is: when, by which version, what was held against the guest's commitments and
    on what the outcome relies; of each message that the host got in the run what it knows already."""

    certificate: bytes  # the file's content, packed by zlib
    more: bool  # whether another follows
    limit = 16 * MIB


class Settled(Message, frozen=True):
    """host -> guest. Reveals: that the certificates hold, and of how many runs of the model one is
    missing still."""

    missing: Annotated[int, msgspec.Meta(ge=0, le=1_000_000)]


@dataclass(frozen=True)
class Drawing:
    """What decides which steps of a model's runs are audited."""

    host: str
    guests: bytes
    hosts: bytes
    probability: float

    def has_drawn(self, run: bytes, step: int) -> bool:
        """Whether a step of a run is audited, counted from 0."""
        of = run + step.to_bytes(8, "big") + self.guests + self.hosts + self.host.encode()
        digest = hashlib.sha256(b"vfl audit draw\0" + of).digest()
        return int.from_bytes(digest, "big") < int(self.probability * 2.0**64) << 192

    def steps(self, run: bytes, many: int) -> list[int]:
        """Those of a run of so many steps."""
        return [step for step in range(many) if self.has_drawn(run, step)]


@dataclass(frozen=True)
class HostDraw:
    """What a host brings to a draw."""

    probability: float
    share: bytes
    auditor: str = ""  # fingerprint of who has to sign; empty: the guest

    @classmethod
    def new(cls, probability: float, auditor: str = "") -> "HostDraw":
        """With a fresh number of the operating system's: it is committed to before the run's secret is
        of use, and a replay takes it from what the run has answered."""
        return cls(probability, secrets.token_bytes(SHARE), auditor)

    def demand(self, terms: Terms, identity: Identity) -> AuditDemand:
        """What the host says before the run, signed."""
        commitment = commit(terms.run, identity.name, self.share)
        asked = AuditDemand(self.probability, commitment, b"", self.auditor or UNSET)
        return msgspec.structs.replace(asked, signature=identity.sign(demand_statement(terms, asked)))

    async def draw(self, guest: Peer, name: str, keep: Callable[[Drawing], None]) -> None:
        """The host's part once the model is done; `keep` writes the drawing down before the guest can
        know it. Raises what sessions raise."""
        theirs = await guest.recv(AuditShare)
        keep(Drawing(name, theirs.share, self.share, self.probability))
        await guest.send(AuditDraw(self.share))


async def draw_with(host: Peer, run: bytes, demand: AuditDemand, entropy: Entropy) -> Drawing:
    """The guest's part with a host. Raises PeerError where the host shows another number than it has
    committed to."""
    share = entropy(SHARE)
    await host.send(AuditShare(share))
    answer = await host.recv(AuditDraw)
    if commit(run, host.name, answer.share) != demand.commitment:
        raise host.breach("AuditDraw with another number than its Accept has committed to")
    return Drawing(host.name, share, answer.share, demand.probability)


def commit(run: bytes, host: str, share: bytes) -> bytes:
    """What a host's Accept says of its number."""
    return hashlib.sha256(b"vfl audit commitment\0" + run + share + host.encode()).digest()


def steps_of(kinds: Iterable[str]) -> int:
    """How many steps a run has that may be drawn, by the types of messages to a host: its trees; one
    of a linear model."""
    return max(1, sum(kind in TREES for kind in kinds))


def demand_statement(terms: Terms, demand: AuditDemand) -> bytes:
    """The bytes that a host signs when it demands that a run of these terms may be audited."""
    said = {
        "terms": hashlib.sha256(terms.statement).hexdigest(),
        "probability": demand.probability,
        "commitment": demand.commitment.hex(),
        "auditor": demand.auditor or "",
    }
    return b"vfl audit demand\0" + hashlib.sha256(canonical_json(said)).digest()


def check_demand(host: Peer, certificate: Certificate, terms: Terms, answer: Accept) -> None:
    """Raises PeerError for a demand that the host has not signed, or of a job that trains no model."""
    said = answer.audit
    if isinstance(said, UnsetType):
        return
    if terms.task != "train":
        raise host.breach("Accept with an audit of a job that keeps no model")
    if not certificate.verify(said.signature, demand_statement(terms, said)):
        raise host.breach("Accept with a signature of an audit that does not hold")
