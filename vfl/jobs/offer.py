"""The first messages of a job: what the guest asks for, and the host's yes.

A host that says no sends Stop with the rule that forbids it.
"""

import secrets
from datetime import UTC, datetime
from typing import Annotated, ClassVar, Literal

import msgspec

from vfl.net.peer import Peer
from vfl.net.wire import KIB, Message
from vfl.party.config import JOB_NAME, PARTY_NAME

Name = Annotated[str, msgspec.Meta(pattern=JOB_NAME)]
Run = Annotated[bytes, msgspec.Meta(min_length=32, max_length=32)]


class Offer(Message, frozen=True):
    """guest -> host. Reveals: what the guest asks for: the task, for training the whole job file with
    its purpose, the names of the hosts, the rule for ids, which alignment or model it is about."""

    task: Literal["align", "train", "score"]
    run: Run  # random, names this run
    hosts: list[Annotated[str, msgspec.Meta(pattern=PARTY_NAME)]]
    normalise: list[str]
    alignment: Name | None = None
    model: Name | None = None
    job: bytes = b""  # canonical, for training
    limit: ClassVar[int] = 96 * KIB


class Accept(Message, frozen=True):
    """Either -> either. Reveals: that the host takes part; for training, the number of aligned rows.
    The guest's own, at the end of an alignment, repeats the number of common rows."""

    rows: int | None = None


class Kept(Message, frozen=True):
    """host -> guest. Reveals: that the host has stored the alignment."""


def bind(peer: Peer, offer: Offer) -> None:
    """Bind what follows to this run and this job; both ends call it after Accept."""
    peer.bind(b"job", offer.run, offer.task.encode(), offer.job)


def new_run() -> bytes:
    """A fresh name of a run."""
    return secrets.token_bytes(32)


def stamp(run: bytes) -> str:
    """A run's short name: when, and a few random letters."""
    return f"{datetime.now(UTC):%Y%m%d-%H%M%S}-{run[:3].hex()}"
