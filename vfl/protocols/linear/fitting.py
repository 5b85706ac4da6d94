"""Generalised linear models: one guest with the labels, any number of hosts with columns.

Yang et al., arXiv 1911.09824, with the exact residual and L-BFGS across parties (learn/glm.py) in place
of a Taylor series and gradient descent. All parties hold the same aligned rows in the same order and
have made their columns into a design matrix X_k; each holds its own coefficients, all zero at first.

 1. The guest fits its own columns alone, with which all begin. It sends its public key and which rows
    train. Each host says how many columns it has. Several hosts exchange keys through the guest, for
    masks that cancel in the sum of all. Over the lattice engine there is no key, but hints are made or
    used again.
For each iteration:
 2. The guest computes each row's residual r, the derivative of the loss by the row's score, rounds it to
    integers as coarsely as the fit allows (rounding.py), encrypts it and sends it to every host.
 3. Each host forms X_k^T r under encryption, adds masks uniform among all plaintexts, and sends it, so
    that nothing else can be told from it. The guest decrypts and sends back as many bits as the products
    can have, and the host takes the masks off. Both steps are in products.py, and for the lattice engine
    in lattice_products.py.
 4. Each host sends the inner products of its parts of L-BFGS's vectors and the square of its gradient's
    length, with several hosts behind masks (masked_numbers.py). The guest, who learns the sums, ends
    when the gradient is short enough for the label.
 5. The guest sends the weights with which the vectors combine into the next direction p. Each host sends
    X_k p_k and two products that the penalty needs, with several hosts behind masks.
 6. The guest, who knows the scores and now how each changes, finds the best step and intercept, and
    sends the step.
At the end the hosts send their part of the scores of rows held out, behind masks again.

The optimum is that of the pooled columns: nothing is approximated but for rounding (r so that a gradient
is right to 2^-20 of the last one; numbers in X to 2^-24 of a standard deviation, scores to 2^-40 of the
direction's length, of rows held out to 2^-40 of the way's). A fit ends by the gradient of rounded
residuals, which at the end are right to 2^-20 of the tolerance.

Learned by the guest: each iteration, the total change of each row's score by the hosts' columns. So in
the end the hosts' total partial score of each row (as when it scores), and as many combinations of the
hosts' columns as there were iterations: with as many iterations as the hosts have columns, everything
that is linear in them; and the inner products and the length of 4, of all hosts together. With one host
all of these are this host's: it has nobody to hide among. Also each host's number of columns.

Learned by a host: X_k^T r of each iteration, its own gradient, where r depends on the labels. These are
as many equations about the labels as it has columns, each iteration, so that a host with many columns
and few rows could solve for labels (arXiv 2205.04166): the guest refuses hosts with more columns than a
fifth of the rows. Also the weights of 5 and the steps.

Who goes on after a kill begins with 1, under a new key, and with what the hosts told in 4 of the last
gradient that all have kept (protocols/common/checkpoints.py): a step of the checkpoints is a gradient.

A host is trusted to follow the protocol: the guest decrypts for it what the guest cannot see into, so
that a host could send other sums of residuals than its columns', and read labels off them. However it
does so, it reads no more labels than it is given bits (Fit.readable), counted before they are given.

Masks are drawn from what a guest sends to all hosts alike (heard.py): one that tells hosts different
things learns nothing of sums. What it opens for a host is that host's alone, so that one that opens
something else than the products can make a direction of this host's columns.
"""

import asyncio
import math
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vfl.arrays import Floats, Mask
from vfl.crypto.paillier import PrivateKey
from vfl.learn.design import Matrix
from vfl.learn.glm import PAIRS, Block, BlockReport, Move, Scores, combination
from vfl.learn.params import GlmParams
from vfl.net.peer import Peer, together
from vfl.protocols.common.checkpoints import Checkpoints
from vfl.protocols.common.clock import Clock
from vfl.protocols.common.course import GuestCourse, HostCourse
from vfl.protocols.common.fellows import relay_keys
from vfl.protocols.common.key import receive_key
from vfl.protocols.common.label_count import LabelCount, OneAttempt
from vfl.protocols.common.participant import Participant, Resources
from vfl.protocols.common.rows import Training
from vfl.protocols.common.transcript import Transcript
from vfl.protocols.linear import lattice_products, products
from vfl.protocols.linear.block_numbers import (
    penalty_in_fixed_point,
    power_of_two,
    report_in_fixed_point,
    report_of,
    told_numbers,
    total_move,
)
from vfl.protocols.linear.fit import (
    Fit,
    GuestFitState,
    HostFit,
    HostFitState,
    IterationDone,
)
from vfl.protocols.linear.fitting_messages import (
    Combine,
    FitEnd,
    FitKept,
    FitNext,
    InnerProducts,
    PenaltyProducts,
    Step,
)
from vfl.protocols.linear.heard import APART
from vfl.protocols.linear.lattice_products import lattice_guest, lattice_host
from vfl.protocols.linear.masked_numbers import divergence, hidden, received, sums_of
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
    paillier_guest,
    paillier_host,
)
from vfl.protocols.linear.rounding import Rounded, Rounding
from vfl.protocols.linear.start import (
    begin_host_fit,
    no_column,
    restore_block,
    separable,
    start_hosts,
    too_many_labels,
)

WHOLE = "whole iteration"  # the phase that holds all others

_SETTLED = 1e-3  # at the end no score has changed by more in the last step, relative to all steps
_SEPARATED = 30.0  # a score so far from where it started tells of a label that is separated
ROW_BITS = {"paillier": products.ROW_BITS, "lattice": lattice_products.ROW_BITS}
"""Bits of a row's rounded residual at most, by encryption."""

_FIXED_BITS = 40  # scores are integers modulo 2^64: their precision, relative to a direction's length


@dataclass(frozen=True)
class _Unit:
    """What gradients and scores are measured in."""

    gradient: float
    score: float


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
    guest.counted = course.labels or guest.counted
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
        self._deviance = power_of_two(self.scores.deviance())
        self._columns = sum(block.matrix.columns for block in self.own.values())  # of all parties
        self._last: BlockReport | None = None
        self.counted: LabelCount = OneAttempt()
        self._steps = 0
        self._way = 0.0  # the lengths of all steps

    async def fit(
        self, progress: Callable[[IterationDone], None], checkpoints: Checkpoints[GuestFitState]
    ) -> Fit:
        """Iterate to the end; returns what the fit came to."""
        params, scores, last = self.params, self.scores, checkpoints.last
        null, first = scores.deviance(), scores.score

        # 1. The guest's own fit; key, rows, the hosts' keys for each other.
        if self.joint and last is None:
            await self._fit_own()
        if self.hosts:
            await self._start()

        started = time.perf_counter()
        known = None if last is None else await self._restore_block(last)
        for iteration in range(max(0, checkpoints.done - 1), params.max_iterations + 1):
            deviance = scores.deviance()
            explained = 1 - deviance / null if null > 0 else 0.0

            # 2. and 3. Everybody's gradient, unless it could tell a host too many labels.
            residuals = scores.residuals()
            rounded = None if known or not self.joint else self._rounded(residuals)
            if rounded and not await self._admit(rounded, iteration):
                converged = False
                break
            report = known or await self.report(residuals, rounded)
            self._last = report

            # 4. Small enough?
            length = self._length(report)
            moved = self._moved(first)
            settled = scores.change <= _SETTLED * max(self._unit.score, moved)
            converged = length <= params.tolerance and settled
            if known is None:
                now = time.perf_counter()
                seconds = {**self.clock.seconds, WHOLE: now - started}
                started = now
                self.clock.seconds.clear()
                of = params.max_iterations
                progress(IterationDone(iteration, of, deviance, explained, length, seconds))
                with self.clock.timed("checkpoint"):
                    await checkpoints.keep(self._state())
            known = None
            if converged or iteration == params.max_iterations:
                break

            # 5. The direction, and 6. the best step along it.
            weights, precision = self._next(report)
            move = await self.direction(weights, precision)
            with self.clock.timed("step"):
                size = await asyncio.to_thread(scores.go, move, params.alpha, params.fit_intercept)
            await self.step(size, precision)
        return await self._end(iteration, converged, deviance, explained, length)

    @property
    def joint(self) -> bool:
        """Whether there are columns that the guest does not see."""
        return bool(self.hosts)

    async def _fit_own(self) -> None:
        """1. Fit the columns that the guest holds, alone: where the joint fit begins.

        So fewer iterations are joint, and residuals have many values where the guest's columns tell
        rows apart.
        """
        scores, params, first = self.scores, self.params, self.scores.score
        with self.clock.timed("own columns"):
            for _ in range(params.max_iterations):
                report = BlockReport.total(await self._own_reports(scores.residuals()))
                if self._length(report) <= params.tolerance:
                    break
                weights, _ = self._next(report)
                move = total_move(
                    [block.direction(weights) for block in self.own.values()], len(scores.score)
                )
                size = await asyncio.to_thread(scores.go, move, params.alpha, params.fit_intercept)
                for block in self.own.values():
                    block.step(size)
                self._moved(first)
        for block in self.own.values():
            block.begin_anew()
        scores.change = math.inf

    async def _own_reports(self, residuals: Floats) -> list[BlockReport]:
        return [await asyncio.to_thread(_own_report, block, residuals) for block in self.own.values()]

    async def _start(self) -> None:
        await self.gradients.greet()
        columns = await start_hosts(self.hosts, self.rows.train, self.curvature, self._deviance)
        self._columns += sum(columns.values())
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

    async def _restore_block(self, state: GuestFitState) -> BlockReport:
        """Go back to where the state was kept; returns what all blocks then told of their gradient."""
        scores = self.scores
        if state.score.shape != scores.score.shape or state.blocks.keys() != self.own.keys():
            raise ValueError("the state of a fit of other rows or blocks")
        scores.score, scores.intercept, scores.change = state.score, state.intercept, state.change
        self._steps, self._way = state.done - 1, state.way
        reports = [restore_block(block, state.blocks[name]) for name, block in self.own.items()]
        return BlockReport.total([*reports, *await self._receive_report()])

    async def report(self, residuals: Floats, rounded: Rounded | None) -> BlockReport:
        """What all blocks together tell of their gradient; `rounded`: for hosts, if there are any."""
        with self.clock.timed("own columns"):
            own = await self._own_reports(residuals)
        theirs = [] if rounded is None else await self.hosts_report(rounded)
        return BlockReport.total([*own, *theirs])

    async def hosts_report(self, rounded: Rounded) -> list[BlockReport]:
        """What hosts tell of their gradient, all of them together."""
        await together([host.send(FitNext(rounded.bits)) for host in self.hosts])
        await self.gradients.open(rounded)
        return await self._receive_report()

    def _rounded(self, residuals: Floats) -> Rounded:
        """Residuals as hosts have them."""
        least = self.params.tolerance * self._unit.gradient
        most_bits = ROW_BITS[self.params.encryption]
        rounding = Rounding(self._columns, self.curvature, least, most_bits)
        return rounding.of(residuals, self._last)

    def labels(self, rounded: Rounded) -> Mapping[str, int]:
        """How many labels each host could read at most of its products with these residuals."""
        return self.gradients.labels(rounded)

    async def _admit(self, rounded: Rounded, iteration: int) -> bool:
        """Count the labels that hosts could read of these residuals, before they can; whether there may
        be so many.

        Raises ConfigError where there may not be a single iteration.
        """
        labels, rows, share = self.labels(rounded), len(rounded.integers), self.params.max_labels
        most = math.inf if share is None else share * rows
        if await asyncio.to_thread(self.counted.add, labels, most):
            return True
        if iteration == 0:
            before = await asyncio.to_thread(self.counted.so_far)
            raise too_many_labels(labels, before, rows, share)
        return False

    async def _receive_report(self) -> list[BlockReport]:
        """4. What hosts tell of their gradient."""
        vectors = 2 * min(self._steps, PAIRS) + 1
        count = told_numbers(vectors)
        parts = await together([_receive(host, InnerProducts, count) for host in self.hosts])
        return [self.of_parts(parts, vectors)] if parts else []

    def of_parts(self, parts: Sequence[Sequence[int]], vectors: int) -> BlockReport:
        """What the hosts' parts come to."""
        numbers = sums_of(parts, self._deviance, "gradients")
        return report_of(numbers, vectors, self.curvature)

    async def direction(self, weights: Floats, precision: float) -> Move:
        """How the scores change along the direction, all parties together."""
        await together([host.send(Combine(weights.tolist(), precision)) for host in self.hosts])
        with self.clock.timed("own columns"):
            moves = [await asyncio.to_thread(block.direction, weights) for block in self.own.values()]
        with self.clock.timed("scores"):
            count = len(self.scores.score)
            shares = await together([receive_scores(host, ScoreChange, count) for host in self.hosts])
            parts = await together([_receive(host, PenaltyProducts, 2) for host in self.hosts])
        return total_move([*moves, *self.hosts_move(shares, parts, precision)], count)

    def hosts_move(
        self, shares: Sequence[NDArray[np.uint64]], parts: Sequence[Sequence[int]], precision: float
    ) -> list[Move]:
        """How the scores change by the columns of hosts, if there are any."""
        if not parts:
            return []
        linear, square = (sums_of(parts, self._deviance, "directions") / self.curvature).tolist()
        return [Move(total_of(shares, len(self.scores.score), precision), linear, square)]

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
            max(self.counted.so_far().values(), default=0),
        )

    async def end(self, converged: bool, held_out: int, precision: float) -> Floats:
        """The hosts' part of the scores of so many rows held out, shape (held_out,)."""
        await together([host.send(FitEnd(converged)) for host in self.hosts])
        shares = await together([receive_scores(host, HeldOutScores, held_out) for host in self.hosts])
        await together([host.recv(FitKept) for host in self.hosts])
        return total_of(shares, held_out, precision)

    def _length(self, report: BlockReport) -> float:
        """The gradient's length in the label's unit."""
        return math.sqrt(max(report.square, 0.0)) / self._unit.gradient

    def _moved(self, first: Floats) -> float:
        """How far any score is from where it was at first. Raises DataError where a finite optimum
        cannot be."""
        moved = float(np.abs(self.scores.score - first).max(initial=0.0))
        if not self._settles(moved):
            raise separable()
        return moved

    def _next(self, report: BlockReport) -> tuple[Floats, float]:
        """The weights of the vectors in the next direction, and the precision of its scores."""
        products = report.products
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


def _own_report(block: Block, residuals: Floats) -> BlockReport:
    return block.report(block.matrix.transposed_times(residuals))


async def _receive(
    host: Peer, kind: type[InnerProducts] | type[PenaltyProducts], count: int
) -> list[int]:
    """So many numbers of a host, behind its masks."""
    message = await host.recv(kind)
    try:
        return received(message.products, count)
    except ValueError as error:
        raise host.breach(f"{kind.__name__} with {error}") from None


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
    heard = Transcript(APART)
    heard.listen(guest)
    key = None if params.encryption == "lattice" else await receive_key(guest, params)
    begun = await begin_host_fit(guest, rows, prepare, params, participant, heard)
    block = begun.block
    iteration, way, known = 0, 0.0, None
    if (last := course.checkpoints.last) is not None:
        if last.start != begun.digest:
            raise guest.breach("a FitStart of other rows than the fit began with")
        iteration, way, known = last.done - 1, last.way, restore_block(block, last.block)
        heard.add(last.heard)  # the state is of what was heard before

    made: AbstractAsyncContextManager[Gradient]
    if key is None:
        made = lattice_host(
            guest, block.matrix, params, participant.resources, course.hints, course.hint_progress
        )
    else:
        made = paillier_host(guest, block.matrix, key, participant.resources)
    async with made as gradient:
        while True:
            following = None if known else await guest.recv(FitNext, FitEnd)
            if isinstance(following, FitEnd):
                end = following
                break
            if iteration > params.max_iterations:
                raise guest.breach("a FitNext beyond the last iteration")
            course.progress(iteration, params.max_iterations)
            if known:
                report, known = known, None
            elif following:
                # 3. The gradient.
                report = block.report(await gradient(following.bits))
                await course.checkpoints.keep(
                    HostFitState(iteration + 1, way, block.state, begun.digest, heard.digest)
                )
            # 4. What it says to the others.
            told = report_in_fixed_point(report, begun.curvature, begun.deviance)
            await guest.send(InnerProducts(hidden(told, begun.masks)))
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
            penalty = penalty_in_fixed_point(move, begun.curvature, begun.deviance)
            await guest.send(PenaltyProducts(hidden(penalty, begun.masks)))
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
