"""How a job ended, in a word of a fixed list."""

import asyncio

from vfl.errors import (
    PeerError,
    PeerLost,
    PeerStopped,
    PeerUnreachable,
    Refused,
    VflError,
)

_OUTCOMES: tuple[tuple[type[BaseException], str], ...] = (
    (Refused, "refused"),
    (PeerLost, "peer_lost"),
    (PeerUnreachable, "peer_lost"),
    (PeerStopped, "peer_stopped"),
    (PeerError, "peer_broke_protocol"),
    (VflError, "failed"),
    (asyncio.CancelledError, "interrupted"),
    (KeyboardInterrupt, "interrupted"),
)
OUTCOMES = ("done", *dict.fromkeys(word for _, word in _OUTCOMES), "fault")


def outcome_of(error: BaseException | None) -> str:
    """One of OUTCOMES: "failed" is an error that this party's people can mend, "fault" one of vfl."""
    if error is None:
        return "done"
    return next((word for kind, word in _OUTCOMES if isinstance(error, kind)), "fault")
