"""How a fit of a linear model begins, with hidden scores or without: step 1 of fitting.py.

The guest says which rows train and how the loss curves; each host says how many columns it has, which
must be few beside the rows.
"""

import asyncio
import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from vfl.arrays import Mask
from vfl.errors import ConfigError, DataError, ModelError, Refused
from vfl.learn.glm import Block, BlockReport, BlockState
from vfl.learn.matrix import Matrix, Whole
from vfl.learn.params import GlmParams
from vfl.learn.sparse import block_of
from vfl.net.peer import Peer, together
from vfl.net.wire import MIB, Message
from vfl.protocols.common.bits import pack_bits, unpack_bits
from vfl.protocols.common.fellows import Masks, exchange_keys
from vfl.protocols.common.participant import Participant
from vfl.protocols.common.transcript import Transcript
from vfl.text import counted

_ROWS_A_COLUMN = 5  # a host has at most a column for so many rows


class FitStart(Message, frozen=True):
    """guest -> host. Reveals: which aligned rows train (and so which are held out), and the orders of
    magnitude of the loss's curvature (for counts, of their mean; for hidden scores and a 0/1 label p,
    of p (1 - p) where p is the mean label, its log odds to the next quarter) and, where scores are not
    hidden, of its deviance without any column."""

    training: bytes  # a bit an aligned row
    curvature: float
    deviance: float = 1.0  # a power of two, the unit of inner products
    limit: ClassVar[int] = 16 * MIB
    per_row = ("training", 1)


class FitReady(Message, frozen=True):
    """host -> guest. Reveals: how many columns the host's design matrix has."""

    columns: int


async def start_hosts(
    hosts: Sequence[Peer],
    train: Mask,
    weighing: int,
    curvature: float,
    deviance: float = 1.0,
    apart: int | None = None,
) -> dict[str, int]:
    """Say which rows train, of which `weighing` have weight; returns how many columns each host has.
    Raises DataError for too many; `apart`: as of Training."""
    start = FitStart(pack_bits(train), curvature, deviance)
    await together([host.send(start) for host in hosts])
    answers = await together([host.recv(FitReady) for host in hosts])
    for host, ready in zip(hosts, answers, strict=True):
        if ready.columns < 0:
            raise host.breach("FitReady with a negative number of columns")
        check_columns(host.name, ready.columns, weighing, apart)
    return {host.name: ready.columns for host, ready in zip(hosts, answers, strict=True)}


def check_columns(host: str, columns: int, rows: int, apart: int | None = None) -> None:
    """Raises DataError for too many columns of a host; rows: those that train and have weight; apart: as
    of Training."""
    few = rows if apart is None else min(rows, apart)
    if columns * _ROWS_A_COLUMN > few:
        what, helps = f"to fit {counted(rows, 'row')} with", "fewer levels or more rows"
        if few < rows:
            what = f"for trainings that differ by {counted(few, 'row')}"
            helps = f"fewer folds, a larger validation_share, {helps}"
        raise DataError(
            f"{host} has {counted(columns, 'column')} {what}, and each iteration tells it as many "
            f"numbers that depend on the labels: it needs {_ROWS_A_COLUMN} rows a column ({helps})",
            # Not how many rows have weight, which a host does not know.
            for_peer=f"{host} has too many columns for the rows that train",
        )


def restore_block(block: Block, state: BlockState) -> BlockReport:
    """Give a block its state back; returns what it told when that was kept. Raises ModelError for a
    state of other columns."""
    try:
        return block.restore(state)
    except ValueError as error:
        raise ModelError(
            f"the checkpoint is {error}, other than this party's table makes now: start the job anew",
            for_peer="its table changed since the last checkpoint: start the job anew",
        ) from None


@dataclass(frozen=True)
class HostStart:
    """What a host has once a fit has begun."""

    matrix: Whole  # of all aligned rows
    training: Mask  # which of them train
    digest: str  # of FitStart
    block: Block  # of the rows that train
    fellows: Mapping[str, bytes]  # a secret with each other host
    masks: Masks  # of what the guest may know the sum of
    curvature: float
    deviance: float

    @property
    def held_out(self) -> Matrix:
        """The matrix of the rows held out."""
        return self.matrix.take(~self.training)


async def begin_host_fit(
    guest: Peer,
    rows: int,
    prepare: Callable[[Mask], Whole],
    params: GlmParams,
    participant: Participant,
    heard: Transcript,
) -> HostStart:
    """A host's part. `prepare` makes the design matrix of all `rows` aligned rows, given which of them
    train: the participant's `minimum` at least. `heard`: what all hosts hear alike, of this guest.

    Raises PeerError when the guest breaks the protocol, Refused for too few rows, what `prepare` raises.
    """
    start, training, digest = await _receive_training(guest, rows, participant.minimum)
    matrix = await asyncio.to_thread(prepare, training)
    await guest.send(FitReady(matrix.columns))
    fellows = await exchange_keys(guest, participant)
    masks = Masks(participant.name, fellows, heard)
    own = matrix.take(training)
    block = await asyncio.to_thread(block_of, own, params, start.curvature)
    return HostStart(matrix, training, digest, block, fellows, masks, start.curvature, start.deviance)


async def _receive_training(guest: Peer, rows: int, minimum: int) -> tuple[FitStart, Mask, str]:
    """How the fit begins, which of the aligned rows train, and a digest of what was said.

    Raises Refused for fewer rows than `minimum`.
    """
    start = await guest.recv(FitStart)
    try:
        training = unpack_bits(start.training, rows)
    except ValueError as error:
        raise guest.breach(f"a FitStart with {error}") from None
    if (count := int(training.sum())) < minimum:
        few = f"{counted(count, 'row')} to train on {'is' if count == 1 else 'are'}"
        raise Refused(
            f"{few} below rule min_intersection = {minimum} of [policy]: bring more rows that all "
            "parties have, lower holdout, or the host lowers the rule"
        )
    if not (math.isfinite(start.curvature) and start.curvature > 0):
        raise guest.breach("a FitStart without a curvature")
    if not (start.deviance > 0 and math.frexp(start.deviance)[0] == 0.5):
        raise guest.breach("a FitStart whose deviance is no power of two")
    digest = hashlib.sha256(repr(start.curvature).encode() + start.training).hexdigest()
    return start, training, digest


def no_column() -> DataError:
    """The error of a fit to which no party brings a column."""
    told = "nothing was trained: no party has a column to fit"
    return DataError(f"{told}, only the constant: see columns and ignore in [data]", for_peer=told)


class SeparableLabel(DataError):
    """A fit without a finite optimum."""


def separable() -> SeparableLabel:
    """The error of a fit without a finite optimum."""
    return SeparableLabel(
        "the label is separable: some columns tell it apart without error (a level without any claim, "
        "say), so that their best coefficients are infinite: set alpha above 0 in [glm], or join levels",
        for_peer="some columns separate the label without error: the job needs alpha above 0",
    )


def too_many_labels(
    labels: Mapping[str, int], before: Mapping[str, int], rows: int, share: float | None
) -> ConfigError:
    """The error of a fit whose first iteration could tell a host too many labels. `labels` of it, and
    those of earlier attempts `before` it, by host."""
    host = max(labels, key=lambda name: labels[name] + before.get(name, 0))
    if before.get(host):
        could = (
            f"{host} could have read {before[host]:,} of {rows:,} labels in earlier attempts at this "
            f"job on the alignment, and {labels[host]:,} in a further first iteration, if it cheated"
        )
        helps = "raise it, once you know why those attempts ended"
    else:
        could = (
            f"{host} could read {labels[host]:,} of {rows:,} labels in the first iteration alone, if it "
            "cheated"
        )
        helps = "raise it, or train on more rows or fewer columns"
    return ConfigError(
        f"{could}, more than max_labels = {share:g} of [glm] admits: {helps}",
        for_peer="its job admits fewer labels to be read than an iteration needs",
    )
