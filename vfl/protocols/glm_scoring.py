"""Scoring with a generalised linear model: the hosts say what their columns add to each row's score.

The rows of a batch have been aligned with each host apart (protocols/psi.py), so that the guest knows
which rows each host knows. For each host:
 1. The guest starts a batch. The host answers with the score that its columns give a row it does not
    know: one of missing values alone.
 2. Chunk by chunk, the guest names rows by their place in the alignment with this host, and the host
    sends its columns' part of their scores.
The guest adds up intercept, its own part and those of the hosts.

Learned by the guest: each host's part of the score of each row of the batch, the host's own also where
there are several. Masks that cancel over all hosts, as in the fit, are no way out: each host knows other
rows. So the guest can read off much of what is linear in the host's columns: rows in the same levels
have the same part, the part of a row is a coefficient where all other columns are at their base levels
and means, and of a host with a single numeric column the parts are that column in another unit.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from vfl.learn.binning import Features
from vfl.learn.design import Design, Relativity
from vfl.learn.losses import Floats, Integers
from vfl.net.peer import Peer, together
from vfl.net.wire import MIB, Message
from vfl.protocols.glm import Fit
from vfl.protocols.scoring import ROWS, ScoreEnd, ScoreRows, ScoreStart, missing_values, requests


class MissingScore(Message, frozen=True):
    """host -> guest. Reveals: the part of the score that the host's columns give a row it does not know
    (one of missing values alone)."""

    score: float


class PartialScores(Message, frozen=True):
    """host -> guest. Reveals: the part of each of these rows' scores that the host's columns make, a
    linear combination of them; each host's own also where there are several."""

    scores: bytes  # float64 little-endian, one a row
    limit: ClassVar[int] = 1 * MIB


@dataclass(frozen=True)
class LinearPart:
    """One party's columns with their coefficients. Raises ValueError for another number of them."""

    design: Design
    coefficients: tuple[float, ...]  # in the order of the design's

    def __post_init__(self) -> None:
        if len(self.coefficients) != len(self.design.coefficients):
            raise ValueError("another number of coefficients than the design has")

    def scores(self, features: Features, rows: int) -> Floats:
        """What the columns add to each row's score, shape (rows,). Raises ValueError as the design."""
        return self.design.matrix(features, rows).times(np.array(self.coefficients, np.float64))

    def missing_score(self, features: Features) -> float:
        """What a row adds in which every one of these columns is missing: a number is filled as in
        training, a factor without a level of missing values is at its base level."""
        return float(self.scores(missing_values(features), 1)[0])

    def relativities(self) -> list[Relativity]:
        """The coefficients for their owner to read."""
        return self.design.relativities(np.array(self.coefficients, np.float64))


@dataclass(frozen=True)
class GuestGlm:
    """The guest's half of a linear model."""

    parties: tuple[str, ...]  # guest first
    intercept: float
    part: LinearPart
    iterations: int
    converged: bool
    deviance: float | None  # mean, weighted, of the rows that trained; None after hidden scores
    explained: float | None  # D-squared: the share of the null model's deviance that is gone
    gradient: float  # greatest component at the end

    @classmethod
    def of(cls, parties: tuple[str, ...], design: Design, coefficients: Floats, fit: Fit) -> "GuestGlm":
        """From a fit."""
        return cls(
            parties,
            fit.intercept,
            LinearPart(design, tuple(coefficients.tolist())),
            fit.iterations,
            fit.converged,
            fit.deviance,
            fit.explained,
            fit.gradient,
        )

    @property
    def ending(self) -> dict[str, float | None]:
        """How the fit ended, for a document."""
        names = ("iterations", "converged", "deviance", "explained", "gradient")
        return {name: getattr(self, name) for name in names}


@dataclass(frozen=True)
class HostGlm:
    """A host's half of a linear model."""

    part: LinearPart
    converged: bool


async def guest_glm_score(
    hosts: Sequence[Peer],
    own: Floats,
    places: Sequence[Integers],
    progress: Callable[[int, int], None] = lambda done, of: None,
) -> Floats:
    """The score of every row of a batch, shape (rows,), without any offset.

    `own` is the part that the guest knows itself: intercept and own columns, shape (rows,). `hosts` and
    `places` as in `guest_score`. Raises PeerError when a host breaks the protocol.
    """
    # 1. What a row adds that a host does not know.
    await together([host.send(ScoreStart()) for host in hosts])
    missing = await together([_missing_score(host) for host in hosts])

    # 2. What each row adds, chunk by chunk.
    rows, scores = len(own), own.copy()
    for first in range(0, rows, ROWS):
        part = slice(first, min(first + ROWS, rows))
        theirs = await together(
            [
                _ask(host, default, place[part])
                for host, default, place in zip(hosts, missing, places, strict=True)
            ]
        )
        for added in theirs:
            scores[part] += added
        progress(part.stop, rows)
    await together([host.send(ScoreEnd()) for host in hosts])
    return scores


async def host_glm_score(
    guest: Peer,
    missing: float,
    own: Floats,
    progress: Callable[[int, int], None] = lambda done, of: None,
) -> int:
    """Serve one batch: `own` is this host's part of the score of each aligned row, in the common order,
    shape (rows,), `missing` that of a row it does not know.

    Returns how many rows were scored. Raises PeerError when the guest breaks the protocol.
    """
    # 1. What a row adds that this host does not know.
    await guest.recv(ScoreStart)
    await guest.send(MissingScore(missing))

    # 2. What each row adds.
    done = 0
    async for places in requests(guest, len(own)):
        await guest.send(PartialScores(own[places].astype("<f8").tobytes()))
        done += len(places)
        progress(done, len(own))
    return done


async def _missing_score(host: Peer) -> float:
    message = await host.recv(MissingScore)
    if not np.isfinite(message.score):
        raise host.breach("MissingScore that is no number")
    return message.score


async def _ask(host: Peer, missing: float, places: Integers) -> Floats:
    """A host's part of the scores, shape (rows,)."""
    scores = np.full(len(places), missing)
    known = places >= 0
    count = int(known.sum())
    if count:
        await host.send(ScoreRows(places[known].astype("<u4").tobytes()))
        message = await host.recv(PartialScores)
        if len(message.scores) != 8 * count:
            raise host.breach("PartialScores of another number of rows than asked for")
        scores[known] = np.frombuffer(message.scores, "<f8")
        if not np.isfinite(scores).all():
            raise host.breach("PartialScores that are no numbers")
    return scores
