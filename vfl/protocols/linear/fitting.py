"""Generalised linear models: one guest with the labels, any number of hosts with columns.

Yang et al., arXiv 1911.09824, with the exact residual and L-BFGS across parties (learn/glm.py) in place
of a Taylor series and gradient descent. All parties hold the same aligned rows in the same order and
have made their columns into a design matrix X_k; each holds its own coefficients, all zero at first.

 1. The guest sends its public key and which rows train. Each host says how many columns it has. Several
    hosts exchange keys through the guest, for masks that cancel in the sum of all. Over the lattice
    engine there is no key, but hints are made or used again.
For each iteration:
 2. The guest computes each row's residual r, the derivative of the loss by the row's score, rounds it to
    integers, encrypts it and sends it to every host.
 3. Each host forms X_k^T r under encryption, adds masks uniform among all plaintexts, and sends it, so
    that nothing else can be told from it. The guest decrypts and sends it back, and the host takes the
    masks off. Both steps are in products.py, and for the lattice engine in lattice_products.py.
 4. Each host sends the inner products of its parts of L-BFGS's vectors and the greatest component of its
    gradient. The guest adds the products up, and ends when the greatest is small enough for the label.
 5. The guest sends the weights with which the vectors combine into the next direction p. Each host sends
    X_k p_k, with several hosts behind masks, and two products that the penalty needs.
 6. The guest, who knows the scores and now how each changes, finds the best step and intercept, and
    sends the step.
At the end the hosts send their part of the scores of rows held out, behind masks again.

The optimum is that of the pooled columns: nothing is approximated but for rounding (r to 2^-50 of its
largest, over the lattice engine to 2^-40; numbers in X to 2^-24 of a standard deviation, scores to 2^-40
of the direction's length, of rows held out to 2^-40 of the way's).

Learned by the guest: each iteration, the total change of each row's score by the hosts' columns. So in
the end the hosts' total partial score of each row (as when it scores), and as many combinations of the
hosts' columns as there were iterations: with as many iterations as the hosts have columns, everything
that is linear in them. With one host these are this host's. Also each host's number of columns, and the
inner products and greatest component of 4.

Learned by a host: X_k^T r of each iteration, its own gradient, where r depends on the labels. These are
as many equations about the labels as it has columns, each iteration, so that a host with many columns
and few rows could solve for labels (arXiv 2205.04166): the guest refuses hosts with more columns than a
fifth of the rows. Also the weights of 5 and the steps.

Who goes on after a kill begins with 1, under a new key, and with what the hosts told in 4 of the last
gradient that all have kept (protocols/common/checkpoints.py): a step of the checkpoints is a gradient.

A host is trusted to follow the protocol: the guest decrypts for it what the guest cannot see into, so
that a host could send the ciphertext of a single row and learn its residual, which tells the label.
Over the lattice engine it could learn those of more rows (lattice_products.py).
"""

import asyncio
import math
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass

import numpy as np

from vfl.arrays import Floats, Mask
from vfl.crypto.paillier import PrivateKey
from vfl.errors import DataError
from vfl.learn.design import Matrix
from vfl.learn.glm import PAIRS, Block, BlockReport, BlockState, Move, Scores, combination
from vfl.learn.params import GlmParams
from vfl.net.peer import Peer, together
from vfl.net.wire import Message
from vfl.protocols.common.checkpoints import Checkpoints
from vfl.protocols.common.clock import Clock
from vfl.protocols.common.course import GuestCourse, HostCourse
from vfl.protocols.common.fellows import relay_keys
from vfl.protocols.common.key import receive_key
from vfl.protocols.common.participant import Participant, Resources
from vfl.protocols.common.rows import Training
from vfl.protocols.linear.lattice_products import lattice_guest, lattice_host
from vfl.protocols.linear.masked_scores import (
    HeldOutScores,
    ScoreChange,
    receive_scores,
    send_scores,
    total_of,
)
from vfl.protocols.linear.products import (
    Gradient,
    GuestGradients,
    divergence,
    paillier_guest,
    paillier_host,
)
from vfl.protocols.linear.start import begin_host_fit, no_column, restore_block, start_hosts

WHOLE = "whole iteration"  # the phase that holds all others

_SETTLED = 1e-3  # at the end no score has changed by more in the last step, relative to all steps
_SEPARATED = 30.0  # a score so far from where it started tells of a label that is separated
_FIXED_BITS = 40  # scores are integers modulo 2^64: their precision, relative to a direction's length


class FitNext(Message, frozen=True):
    """guest -> host. Reveals: that another iteration follows."""


class InnerProducts(Message, frozen=True):
    """host -> guest. Reveals: the inner products of the host's parts of past steps, changes of the
    gradient and the gradient, and its gradient's greatest component."""

    products: list[float]  # of a square, row by row
    greatest: float


class Combine(Message, frozen=True):
    """guest -> host. Reveals: with which weights the vectors combine, and how long the direction is;
    both depend on the sums of all parties' inner products."""

    weights: list[float]
    precision: float  # scores travel as multiples of its inverse


class PenaltyProducts(Message, frozen=True):
    """host -> guest. Reveals: the products of the host's direction with its coefficients and with
    itself, which the penalty needs."""

    linear: float
    square: float


class Step(Message, frozen=True):
    """guest -> host. Reveals: how far to go along the direction."""

    size: float


class FitEnd(Message, frozen=True):
    """guest -> host. Reveals: that the fit has ended, and whether it converged."""

    converged: bool


class FitKept(Message, frozen=True):
    """host -> guest. Reveals: that the host has kept its half of the model."""


@dataclass(frozen=True)
class IterationDone:
    """What the guest can tell of each iteration, before its step."""

    iteration: int
    of: int
    deviance: float  # mean, weighted, of the rows that train
    explained: float  # D-squared: the share of the null model's deviance that is gone
    gradient: float  # greatest component, in the label's unit
    seconds: dict[str, float]  # by phase, of the step before and of this gradient


@dataclass(frozen=True)
class Fit:
    """What the guest has at the end."""

    intercept: float
    coefficients: dict[str, Floats]  # of each block that it holds itself
    score: Floats  # of every aligned row
    iterations: int
    converged: bool
    deviance: float | None  # None where nobody knows: with hidden scores
    explained: float | None
    gradient: float


@dataclass(frozen=True)
class _Unit:
    """What gradients and scores are measured in."""

    gradient: float
    score: float


@dataclass(frozen=True)
class GuestFitState:
    """What the guest keeps of a fit; scores have shape (rows that train,)."""

    done: int  # gradients
    way: float  # the lengths of all steps
    score: Floats
    intercept: float
    change: float
    blocks: dict[str, BlockState]


@dataclass(frozen=True)
class HostFit:
    """A host's half of a fit."""

    coefficients: Floats  # shape (columns,)
    converged: bool


@dataclass(frozen=True)
class HostFitState:
    """What a host keeps of a fit."""

    done: int  # gradients
    way: float
    block: BlockState
    start: str  # digest of FitStart


# --------------------------------------------------------------------------------------- guest


async def guest_fit(
    hosts: Sequence[Peer],
    blocks: Mapping[str, Matrix],
    rows: Training,
    params: GlmParams,
    *,
    key: PrivateKey | None = None,
    resources: Resources = Resources(),
    course: GuestCourse[IterationDone, GuestFitState] = GuestCourse(),
) -> Fit:
    """Fit the model; `blocks` are the matrices of all aligned rows that the guest holds itself.

    With the blocks of all parties and no hosts this is the pooled fit. `key`: made for the job where it
    is not given. Raises PeerError when a host breaks the protocol, DataError for a label without a
    finite optimum, ConfigError for more rows than the lattice engine can sum over.
    """
    guest, count = FitLoop(list(hosts), blocks, rows, params), int(rows.train.sum())
    if not hosts:
        return await guest.fit(course.progress, Checkpoints())
    made: AbstractAsyncContextManager[GuestGradients]
    if params.encryption == "lattice":
        made = lattice_guest(
            hosts, count, params, resources, guest.clock, course.hints, course.hint_progress
        )
    else:
        made = paillier_guest(hosts, count, params, key, resources, guest.clock)
    async with made as guest.gradients:
        return await guest.fit(course.progress, course.checkpoints)


class FitLoop:
    """The guest's iterations, and what it keeps from one to the next.

    What is asked of hosts are methods of their own, which plain.py answers without any.
    """

    gradients: GuestGradients  # of hosts, if there are any

    def __init__(
        self,
        hosts: list[Peer],
        blocks: Mapping[str, Matrix],
        rows: Training,
        params: GlmParams,
    ) -> None:
        self.hosts, self.rows, self.params = hosts, rows, params
        self.whole = dict(blocks)
        self.offset = np.zeros(len(rows.label)) if rows.offset is None else rows.offset
        self.scores = Scores.start(
            rows.loss,
            rows.label[rows.train],
            rows.weight[rows.train],
            self.offset[rows.train],
            params.fit_intercept,
        )
        self.curvature = self.scores.curvature()
        self.own = {
            name: Block(matrix.take(rows.train), params.alpha, params.fit_intercept, self.curvature)
            for name, matrix in blocks.items()
        }
        self.clock = Clock()
        self._unit = self._label_unit()
        self._steps = 0
        self._way = 0.0  # the lengths of all steps

    async def fit(
        self, progress: Callable[[IterationDone], None], checkpoints: Checkpoints[GuestFitState]
    ) -> Fit:
        """Iterate to the end; returns what the fit came to."""
        params, scores, last = self.params, self.scores, checkpoints.last
        null, first = scores.deviance(), scores.score

        # 1. Key, rows, the hosts' keys for each other.
        if self.hosts:
            await self._start()

        started = time.perf_counter()
        known = [] if last is None else await self._restore_block(last)
        for iteration in range(max(0, checkpoints.done - 1), params.max_iterations + 1):
            # 2. and 3. Everybody's gradient.
            reports = known or await self.reports(scores.residuals())

            # 4. Small enough?
            deviance = scores.deviance()
            explained = 1 - deviance / null if null > 0 else 0.0
            greatest = max((report.greatest for report in reports), default=0.0) / self._unit.gradient
            moved = float(np.abs(scores.score - first).max(initial=0.0))
            settled = scores.change <= _SETTLED * max(self._unit.score, moved)
            converged = greatest <= params.tolerance and settled
            if not self._settles(moved):
                raise _separable()
            if not known:
                now = time.perf_counter()
                seconds = {**self.clock.seconds, WHOLE: now - started}
                started = now
                self.clock.seconds.clear()
                of = params.max_iterations
                progress(IterationDone(iteration, of, deviance, explained, greatest, seconds))
                with self.clock.timed("checkpoint"):
                    await checkpoints.keep(self._state())
            known = []
            if converged or iteration == params.max_iterations:
                break

            # 5. The direction, and 6. the best step along it.
            weights, precision = self._next(reports)
            move = await self.direction(weights, precision)
            with self.clock.timed("step"):
                size = await asyncio.to_thread(scores.go, move, params.alpha, params.fit_intercept)
            await self.step(size, precision)
        return await self._end(iteration, converged, deviance, explained, greatest)

    async def _start(self) -> None:
        await self.gradients.greet()
        columns = await start_hosts(self.hosts, self.rows.train, self.curvature)
        if not any(columns.values()) and not any(matrix.columns for matrix in self.whole.values()):
            raise no_column()
        await relay_keys(self.hosts)
        await self.gradients.meet(columns)

    def _state(self) -> GuestFitState:
        return GuestFitState(
            self._steps + 1,
            self._way,
            self.scores.score,
            self.scores.intercept,
            self.scores.change,
            {name: block.state for name, block in self.own.items()},
        )

    async def _restore_block(self, state: GuestFitState) -> list[BlockReport]:
        """Go back to where the state was kept; returns what each block then told of its gradient."""
        scores = self.scores
        if state.score.shape != scores.score.shape or state.blocks.keys() != self.own.keys():
            raise ValueError("the state of a fit of other rows or blocks")
        scores.score, scores.intercept, scores.change = state.score, state.intercept, state.change
        self._steps, self._way = state.done - 1, state.way
        reports = [restore_block(block, state.blocks[name]) for name, block in self.own.items()]
        return reports + await together([self._receive_report(host) for host in self.hosts])

    async def reports(self, residuals: Floats) -> list[BlockReport]:
        """What each block tells of its gradient."""
        with self.clock.timed("own columns"):
            reports = [
                await asyncio.to_thread(_own_report, block, residuals) for block in self.own.values()
            ]
        if not self.hosts:
            return reports
        await together([host.send(FitNext()) for host in self.hosts])
        await self.gradients.open(residuals)
        return reports + await together([self._receive_report(host) for host in self.hosts])

    async def _receive_report(self, host: Peer) -> BlockReport:
        """4. What a host tells of its gradient."""
        told = await host.recv(InnerProducts)
        vectors = 2 * min(self._steps, PAIRS) + 1
        products = np.array(told.products)
        if len(products) != vectors**2 or not np.isfinite([*told.products, told.greatest]).all():
            raise host.breach("InnerProducts of another number of vectors, or none")
        return BlockReport(products.reshape(vectors, vectors), told.greatest)

    async def direction(self, weights: Floats, precision: float) -> Move:
        """How the scores change along the direction, all parties together."""
        await together([host.send(Combine(weights.tolist(), precision)) for host in self.hosts])
        with self.clock.timed("own columns"):
            moves = [await asyncio.to_thread(block.direction, weights) for block in self.own.values()]
        with self.clock.timed("scores"):
            count = len(self.scores.score)
            shares = await together([receive_scores(host, ScoreChange, count) for host in self.hosts])
            penalties = await together([host.recv(PenaltyProducts) for host in self.hosts])
        for host, penalty in zip(self.hosts, penalties, strict=True):
            if not np.isfinite([penalty.linear, penalty.square]).all():
                raise host.breach("PenaltyProducts that are no numbers")
        return Move(
            sum((move.scores for move in moves), start=total_of(shares, count, precision)),
            sum(m.linear for m in moves) + sum(p.linear for p in penalties),
            sum(m.square for m in moves) + sum(p.square for p in penalties),
        )

    async def step(self, size: float, precision: float) -> None:
        """Go so far along the direction, and tell the hosts."""
        self._steps += 1
        self._way += _length(size, precision)
        for block in self.own.values():
            block.step(size)
        await together([host.send(Step(size)) for host in self.hosts])

    async def _end(
        self, iterations: int, converged: bool, deviance: float, explained: float, gradient: float
    ) -> Fit:
        held_out = ~self.rows.train
        theirs = await self.end(converged, int(held_out.sum()), _precision(self._way))
        score = np.empty(len(self.rows.label))
        score[self.rows.train] = self.scores.score
        score[held_out] = self.offset[held_out] + self.scores.intercept + theirs
        for name, block in self.own.items():
            score[held_out] += self.whole[name].take(held_out).times(block.beta)
        return Fit(
            self.scores.intercept,
            {name: block.beta for name, block in self.own.items()},
            score,
            iterations,
            converged,
            deviance,
            explained,
            gradient,
        )

    async def end(self, converged: bool, held_out: int, precision: float) -> Floats:
        """The hosts' part of the scores of so many rows held out, shape (held_out,)."""
        await together([host.send(FitEnd(converged)) for host in self.hosts])
        shares = await together([receive_scores(host, HeldOutScores, held_out) for host in self.hosts])
        await together([host.recv(FitKept) for host in self.hosts])
        return total_of(shares, held_out, precision)

    def _next(self, reports: Sequence[BlockReport]) -> tuple[Floats, float]:
        """The weights of the vectors in the next direction, and the precision of its scores."""
        products = sum((report.products for report in reports), start=np.zeros((1, 1)))
        with np.errstate(over="ignore", invalid="ignore"):
            weights = combination(products)
            square = float(weights @ products @ weights)
        if not np.isfinite([*weights, square]).all():
            raise divergence("gradients")
        # In the blocks' coordinates the loss curves as 1, in the scores' as `curvature`.
        return weights, _precision(math.sqrt(max(square, 0.0) / self.curvature))

    def _label_unit(self) -> "_Unit":
        """What gradients and scores are measured in, so that a fit ends alike in any unit of the label.

        The square of a gradient over the curvature is twice what a step along it gains. So a gradient is
        small beside the root of the curvature times the null model's deviance: for an identity link the
        label's deviation, of which scores are multiples; under other links scores have no unit.
        """
        size = math.sqrt(self.curvature * self.scores.deviance()) or 1.0
        return _Unit(size, size if self.rows.loss.link == "identity" else 1.0)

    def _settles(self, moved: float) -> bool:
        """Whether scores are where a finite optimum can be."""
        return moved <= _SEPARATED or self.params.alpha > 0 or self.rows.loss.link == "identity"


def _separable() -> DataError:
    return DataError(
        "the label is separable: some columns tell it apart without error (a level without any claim, "
        "say), so that their best coefficients are infinite: set alpha above 0 in [glm], or join levels",
        for_peer="some columns separate the label without error: the job needs alpha above 0",
    )


def _own_report(block: Block, residuals: Floats) -> BlockReport:
    return block.report(block.matrix.transposed_times(residuals))


# ---------------------------------------------------------------------------------------- host


async def host_fit(
    guest: Peer,
    rows: int,
    prepare: Callable[[Mask], Matrix],
    params: GlmParams,
    participant: Participant,
    course: HostCourse[HostFit, HostFitState] = HostCourse(),
) -> Floats:
    """A host's coefficients, shape (columns,).

    `prepare` makes the design matrix of all `rows` aligned rows, given which of them train: the
    participant's `minimum` at least. Raises PeerError when the guest breaks the protocol, Refused for
    too few rows, what `prepare` raises.
    """
    # 1. Key, rows, keys of the other hosts.
    key = None if params.encryption == "lattice" else await receive_key(guest, params)
    begun = await begin_host_fit(guest, rows, prepare, params, participant)
    block = begun.block
    iteration, way, known = 0, 0.0, None
    if (last := course.checkpoints.last) is not None:
        if last.start != begun.digest:
            raise guest.breach("a FitStart of other rows than the fit began with")
        iteration, way, known = last.done - 1, last.way, restore_block(block, last.block)

    made: AbstractAsyncContextManager[Gradient]
    if key is None:
        made = lattice_host(
            guest, block.matrix, params, participant.resources, course.hints, course.hint_progress
        )
    else:
        made = paillier_host(guest, block.matrix, key, participant.resources)
    async with made as gradient:
        while known or isinstance(end := await guest.recv(FitNext, FitEnd), FitNext):
            if iteration > params.max_iterations:
                raise guest.breach("a FitNext beyond the last iteration")
            course.progress(iteration, params.max_iterations)
            if known:
                report, known = known, None
            else:
                # 3. The gradient.
                report = block.report(await gradient())
                await course.checkpoints.keep(
                    HostFitState(iteration + 1, way, block.state, begun.digest)
                )
            # 4. What it says to the others.
            if not np.isfinite(report.products).all():
                raise divergence("gradients")
            told = InnerProducts(report.products.ravel().tolist(), report.greatest)
            await guest.send(told)
            # 5. and 6. The next direction and step.
            combine = await guest.recv(Combine, FitEnd)
            if isinstance(combine, FitEnd):
                end = combine
                break
            weights = np.array(combine.weights)
            if len(weights) != len(report.products) or not np.isfinite(weights).all():
                raise guest.breach("Combine of another number of vectors, or none")
            if not (math.isfinite(combine.precision) and combine.precision > 0):
                raise guest.breach("Combine without a precision")
            move = await asyncio.to_thread(block.direction, weights)
            await send_scores(guest, ScoreChange, move.scores, combine.precision, begun.masks)
            await guest.send(PenaltyProducts(move.linear, move.square))
            step = await guest.recv(Step)
            if not math.isfinite(step.size):
                raise guest.breach("a Step that is no number")
            block.step(step.size)
            way += _length(step.size, combine.precision)
            iteration += 1

    held_out = begun.held_out.times(block.beta)
    await send_scores(guest, HeldOutScores, held_out, _precision(way), begun.masks)
    course.keep(HostFit(block.beta, end.converged))
    await guest.send(FitKept())
    return block.beta


# ------------------------------------------------------------------------------- what both share


def _precision(length: float) -> float:
    """What scores are multiplied by and rounded that lie along a direction, or a way, of this length.

    In coordinates in which columns have unit variance: there it is about the spread of the scores.
    """
    return 2.0 ** (_FIXED_BITS - math.frexp(max(length, 2.0**-450))[1])


def _length(size: float, precision: float) -> float:
    """The length of a step, up to a factor of two, as all parties know it."""
    return abs(size) * 2.0**_FIXED_BITS / precision
