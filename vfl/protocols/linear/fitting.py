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
Under an l1_ratio 4 is of the columns that are free, and 5 may be asked again for a shorter or longer
direction (directions.py).
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
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from vfl.arrays import Floats
from vfl.crypto.paillier import PrivateKey
from vfl.learn.across import GuestLevels
from vfl.learn.glm import PAIRS, Block, BlockReport, Move, Scores
from vfl.learn.likelihood import with_parameter
from vfl.learn.losses import Loss
from vfl.learn.matrix import Whole
from vfl.learn.params import GlmParams
from vfl.learn.sparse import block_of
from vfl.net.peer import Peer, together
from vfl.protocols.common.checkpoints import Checkpoints
from vfl.protocols.common.clock import Clock
from vfl.protocols.common.course import GuestCourse
from vfl.protocols.common.fellows import relay_keys
from vfl.protocols.common.label_count import LabelCount, OneAttempt
from vfl.protocols.common.participant import Resources
from vfl.protocols.common.rows import Training, chosen_rows
from vfl.protocols.linear import encrypted_product, lattice_products
from vfl.protocols.linear.across import GuestAcross
from vfl.protocols.linear.block_numbers import (
    Unit,
    power_of_two,
    report_of,
    told_numbers,
    total_move,
)
from vfl.protocols.linear.directions import Direct, next_move
from vfl.protocols.linear.fit import (
    Fit,
    GuestFitState,
    IterationDone,
    PenaltyChoice,
    VarianceProfile,
)
from vfl.protocols.linear.fitting_messages import (
    Combine,
    FitEnd,
    FitKept,
    FitNext,
    InnerProducts,
    NextPenalty,
    PenaltyProducts,
    Step,
    receive_numbers,
)
from vfl.protocols.linear.inference import guest_inference
from vfl.protocols.linear.inferred import NOTHING, FitEnded, Inferred, pooled_inferences
from vfl.protocols.linear.lattice_products import lattice_guest
from vfl.protocols.linear.masked_numbers import sums_of
from vfl.protocols.linear.masked_scores import (
    HeldOutScores,
    ScoreChange,
    length_of,
    precision_of,
    receive_scores,
    total_of,
)
from vfl.protocols.linear.penalty_path import choose_penalty
from vfl.protocols.linear.products import (
    GuestGradients,
    paillier_guest,
)
from vfl.protocols.linear.rounding import Rounded, Rounding
from vfl.protocols.linear.start import (
    no_column,
    restore_block,
    separable,
    start_hosts,
    too_many_labels,
)
from vfl.protocols.linear.variance_profile import check_profile, profile_variance

WHOLE = "whole iteration"  # the phase that holds all others

_SETTLED = 1e-3  # at the end no score has changed by more in the last step, relative to all steps
_SEPARATED = 30.0  # a score so far from where it started tells of a label that is separated
ROW_BITS = {"paillier": encrypted_product.ROW_BITS, "lattice": lattice_products.ROW_BITS}
"""Bits of a row's rounded residual at most, by encryption."""


# --------------------------------------------------------------------------------------- guest


async def guest_fit(
    hosts: Sequence[Peer],
    blocks: Mapping[str, Whole],
    rows: Training,
    params: GlmParams,
    *,
    key: PrivateKey | None = None,
    resources: Resources = Resources(),
    course: GuestCourse[IterationDone, GuestFitState] = GuestCourse(),
    across: Sequence[GuestLevels] = (),
) -> Fit:
    """Fit the model; `blocks` are the matrices of all aligned rows that the guest holds itself, `across`
    its columns that the job has pairs of with hosts'.

    With the blocks of all parties and no hosts this is the pooled fit. `key`: made for the job where it
    is not given. Raises PeerError when a host breaks the protocol, DataError for a label without a
    finite optimum, ConfigError for more rows than the lattice engine can sum over.
    """
    guest, count = FitLoop(list(hosts), blocks, rows, params), int(rows.train.sum())
    guest.counted = course.labels or guest.counted
    guest.fit_progress = course.fit_progress
    guest.inference_progress = course.inference_progress
    guest.resources, guest.key = resources, key
    if not hosts:
        return await guest.fit(course.progress, Checkpoints())
    if params.across:
        guest.across = GuestAcross(hosts, across, rows.train, params, resources)
    made: AbstractAsyncContextManager[GuestGradients]
    if params.encryption == "lattice":
        made = lattice_guest(
            *(hosts, count, params, resources, guest.clock, course.hints, course.hint_progress),
            levels=guest.across.levels,
        )
    else:
        made = paillier_guest(hosts, count, params, key, resources, guest.clock)
    async with made as guest.gradients:
        return await guest.fit(course.progress, course.checkpoints)


@dataclass(frozen=True)
class Reached:
    """Where a fit ended."""

    iterations: int
    converged: bool
    deviance: float
    explained: float
    gradient: float


class FitLoop:
    """The guest's iterations, and what it keeps from one to the next.

    What is asked of hosts are methods of their own, which plain.py answers without any.
    """

    gradients: GuestGradients  # of hosts, if there are any
    resources = Resources()
    key: PrivateKey | None = None  # of the job, if it was given one

    def __init__(
        self,
        hosts: list[Peer],
        blocks: Mapping[str, Whole],
        rows: Training,
        params: GlmParams,
    ) -> None:
        self.hosts, self.rows, self.params = hosts, rows, params
        self.whole = dict(blocks)
        no_offset = np.broadcast_to(0.0, len(rows.label))
        self.offset = no_offset if rows.offset is None else rows.offset
        label, weight, offset = (
            chosen_rows(of, rows.train) for of in (rows.label, rows.weight, self.offset)
        )
        self.weight = weight
        self.scores = Scores.start(rows.loss, label, weight, offset, params.fit_intercept)
        self.curvature = self.scores.curvature()
        self.own = {
            name: block_of(matrix.take(rows.train), params, self.curvature)
            for name, matrix in blocks.items()
        }
        self.clock = Clock()
        self.across = GuestAcross([], (), rows.train, params, self.resources)
        self.fit_progress: Callable[[int, int], None] = lambda done, of: None
        self.inference_progress: Callable[[int, int], None] = lambda done, of: None
        self.choice: PenaltyChoice | None = None
        self.variance: VarianceProfile | None = None
        self._first = self.scores.score
        self._unit = self._label_unit()
        self._deviance = power_of_two(self.scores.deviance())
        self._columns = sum(block.matrix.columns for block in self.own.values())  # of all parties
        self._last: BlockReport | None = None
        self.counted: LabelCount = OneAttempt()
        self._steps = 0
        self._way = 0.0  # the lengths of all steps
        self._null = self.scores.deviance()
        self._alone: float | None = None  # deviance of the guest's own fit

    async def fit(
        self, progress: Callable[[IterationDone], None], checkpoints: Checkpoints[GuestFitState]
    ) -> Fit:
        """Iterate to the end; returns what the fit came to."""
        last = checkpoints.last
        # 1. The guest's own fit; key, rows, the hosts' keys for each other.
        if self.params.profile:
            check_profile(self.rows.loss)
        if self.joint and last is None and not self.params.several:
            await self._fit_own()
        if self.hosts:
            await self._start()
        if self.params.several:
            await self._choose(last)
        known = None if last is None else await self._restore_block(last)
        return await self._end(await self.iterate(progress, checkpoints, known))

    async def _choose(self, last: GuestFitState | None) -> None:
        """Find by further fits, or in the state that was kept, what the job leaves open; then begin the
        fit that is kept."""
        alpha = self.params.alpha
        if self.params.path:
            self.choice = await choose_penalty(self) if last is None else last.choice
            if self.choice is None:
                raise ValueError("the state of a fit without a choice of its penalty")
            alpha = self.choice.alpha
        if self.params.profile:
            self.variance = await profile_variance(self, alpha) if last is None else last.variance
            if self.variance is None:
                raise ValueError("the state of a fit without the parameter of its variance")
            self.take_loss(with_parameter(self.rows.loss, self.variance.value))
        chosen = NextPenalty(alpha, anew=True, chosen=True)
        await self.begin(chosen, self.weight, own_first=last is None)

    def take_loss(self, loss: Loss) -> None:
        """Go on with another parameter of the family's variance."""
        self.rows = replace(self.rows, loss=loss)

    async def begin(self, penalty: NextPenalty, weight: Floats, *, own_first: bool = True) -> None:
        """Begin a fit under another penalty, with other weights of the rows; `own_first`: with the
        guest's own fit, if it begins from nothing."""
        self.params = self.params.model_copy(update={"alpha": penalty.alpha})
        await self.tell_penalty(penalty)
        for block in self.own.values():
            await asyncio.to_thread(block.begin_under, penalty.alpha, anew=penalty.anew)
        self.scores = replace(self.scores, loss=self.rows.loss, weight=weight, change=math.inf)
        self._steps, self._last = 0, None
        if penalty.anew:
            offset = chosen_rows(self.offset, self.rows.train)
            given = self.rows.loss, self.scores.label, weight, offset, self.params.fit_intercept
            self.scores = Scores.start(*given)
            self._way, self._first = 0.0, self.scores.score
            if self.params.profile:  # by the present loss
                self._null, self._unit = self.scores.deviance(), self._label_unit()
            if self.joint and own_first:
                await self._fit_own()

    async def tell_penalty(self, penalty: NextPenalty) -> None:
        """Have hosts begin such a fit."""
        await together([host.send(penalty) for host in self.hosts])

    async def iterate(
        self,
        progress: Callable[[IterationDone], None] = lambda _: None,
        checkpoints: Checkpoints[GuestFitState] = Checkpoints(),
        known: BlockReport | None = None,
    ) -> Reached:
        """2. to 6. again and again; returns where they ended. `known`: what all blocks told of their
        gradient when the checkpoint was kept."""
        params, scores, null = self.params, self.scores, self._null
        started = time.perf_counter()
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
            del residuals, rounded  # rows are many

            # 4. Small enough?
            length = self._length(report)
            moved = self._moved(self._first)
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
            move, precision = await self._next(report, self.direction)
            with self.clock.timed("step"):
                size = await self._go(move)
            await self.step(size, precision)
        return Reached(iteration, converged, deviance, explained, length)

    @property
    def joint(self) -> bool:
        """Whether there are columns that the guest does not see."""
        return bool(self.hosts)

    async def _fit_own(self) -> None:
        """1. Fit the columns that the guest holds, alone: where the joint fit begins.

        So fewer iterations are joint, and residuals have many values where the guest's columns tell
        rows apart.
        """
        scores, params = self.scores, self.params
        with self.clock.timed("own columns"):
            for _ in range(params.max_iterations):
                report = BlockReport.total(await self._own_reports(scores.residuals()))
                if self._length(report) <= params.tolerance:
                    break
                move, _ = await self._next(report, self._own_direction)
                size = await self._go(move)
                for block in self.own.values():
                    block.step(size)
                self._moved(self._first)
        for block in self.own.values():
            block.begin_anew()
        scores.change, self._alone = math.inf, scores.deviance()

    async def _own_direction(self, weights: Floats, _: float) -> Move:
        """How the scores change along the direction of the guest's columns."""
        moves = [block.direction(weights) for block in self.own.values()]
        return total_move(moves, len(self.scores.score))

    async def _next(self, report: BlockReport, direction: Direct) -> tuple[Move, float]:
        """The next direction, and the precision of its scores."""
        return await next_move(report, direction, self.scores, self.params, self.curvature)

    async def _go(self, move: Move) -> float:
        """Take the best step along a direction; returns its size."""
        params = self.params
        given = move, params.penalty_unit, params.fit_intercept
        return await asyncio.to_thread(self.scores.go, *given, bounded=params.l1_ratio > 0)

    async def _own_reports(self, residuals: Floats) -> list[BlockReport]:
        return [await asyncio.to_thread(_own_report, block, residuals) for block in self.own.values()]

    async def _start(self) -> None:
        await self.gradients.greet()
        rows = self.rows
        self._theirs = columns = await start_hosts(
            self.hosts, rows.train, rows.weighing, self.curvature, self._deviance, rows.apart
        )
        self._columns += sum(columns.values())
        if not any(columns.values()) and not any(matrix.columns for matrix in self.whole.values()):
            raise no_column()
        await relay_keys(self.hosts)
        await self.across.announce()
        await self.gradients.meet(columns)
        self._columns += await self.across.meet(self.gradients, columns, rows.weighing, rows.apart)

    def _state(self) -> GuestFitState:
        return GuestFitState(
            self._steps + 1,
            self._way,
            self.scores.score,
            self.scores.intercept,
            self.scores.change,
            {name: block.state for name, block in self.own.items()},
            self.choice,
            self.variance,
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
        await self.across.open(self.gradients, rounded)
        return await self._receive_report()

    def _rounded(self, residuals: Floats) -> Rounded:
        """Residuals as hosts have them."""
        least = self.params.tolerance * self._unit.gradient
        most_bits = ROW_BITS[self.params.encryption]
        rounding = Rounding(self._columns, self.curvature, least, most_bits)
        return rounding.of(residuals, self._last)

    def labels(self, rounded: Rounded) -> Mapping[str, int]:
        """How many labels each host could read at most of its products with these residuals."""
        of_cells = self.across.labels(self.gradients, rounded)
        own = self.gradients.labels(rounded)
        return {name: labels + of_cells.get(name, 0) for name, labels in own.items()}

    async def _admit(self, rounded: Rounded, iteration: int) -> bool:
        """Count the labels that hosts could read of these residuals, before they can; whether there may
        be so many.

        Raises ConfigError where there may not be a single iteration.
        """
        labels, rows, share = self.labels(rounded), self.rows.weighing, self.params.max_labels
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
        parts = await together([receive_numbers(host, InnerProducts, count) for host in self.hosts])
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
            shares = await self.across.uncover(shares)
            parts = await together([receive_numbers(host, PenaltyProducts, 2) for host in self.hosts])
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
        self._way += length_of(size, precision)
        for block in self.own.values():
            block.step(size)
        await together([host.send(Step(size)) for host in self.hosts])

    async def _end(self, reached: Reached) -> Fit:
        held_out = ~self.rows.train
        theirs = await self.end(reached.converged, int(held_out.sum()), precision_of(self._way))
        found = await self.infer() if reached.converged and self.params.inference else NOTHING
        await self.kept()
        score = np.empty(len(self.rows.label))
        score[self.rows.train] = self.scores.score
        score[held_out] = self.offset[held_out] + self.scores.intercept + theirs
        for name, block in self.own.items():
            score[held_out] += self.whole[name].take(held_out).times(block.coefficients)
        return Fit(
            self.scores.intercept,
            {name: block.coefficients for name, block in self.own.items()},
            score,
            reached.iterations,
            reached.converged,
            reached.deviance,
            reached.explained,
            reached.gradient,
            max(self.counted.so_far().values(), default=0),
            found.by_party,
            found.summary,
            self.choice,
            self.variance,
        )

    async def infer(self) -> Inferred:
        """How sure the coefficients are of each block that is here."""
        if not self.hosts:
            return await asyncio.to_thread(pooled_inferences, self.own, self.ended, self.params)
        own, ended = self.own, self.ended
        parts = self.hosts, self._theirs, own, ended, self.params, self.resources, self.key
        return await guest_inference(*parts, self.inference_progress)

    @property
    def ended(self) -> FitEnded:
        """What is inferred from."""
        own = sum(block.matrix.columns for block in self.own.values())
        return FitEnded(self.scores, self._columns, own, self._null, self._alone, self.rows.joined)

    async def end(self, converged: bool, held_out: int, precision: float) -> Floats:
        """The hosts' part of the scores of so many rows held out, shape (held_out,)."""
        await together([host.send(FitEnd(converged)) for host in self.hosts])
        shares = await together([receive_scores(host, HeldOutScores, held_out) for host in self.hosts])
        shares = await self.across.uncover(shares, held_out=True)
        return total_of(shares, held_out, precision)

    async def kept(self) -> None:
        """All hosts have kept their halves."""
        await together([host.recv(FitKept) for host in self.hosts])

    def _length(self, report: BlockReport) -> float:
        """The gradient's length in the label's unit."""
        return math.sqrt(max(report.square, 0.0)) / self._unit.gradient

    def _moved(self, first: Floats) -> float:
        """How far any score is from where it was at first. Raises DataError where a finite optimum
        cannot be."""
        moved = self.scores.distance(first)
        if not self._settles(moved):
            raise separable()
        return moved

    def _label_unit(self) -> Unit:
        """What gradients and scores are measured in, so that a fit ends alike in any unit of the label.

        The square of a gradient over the curvature is twice what a step along it gains. So a gradient is
        small beside the root of the curvature times the null model's deviance: for an identity link the
        label's deviation, of which scores are multiples; under other links scores have no unit.
        """
        size = math.sqrt(self.curvature * self.scores.deviance()) or 1.0
        return Unit(size, size if self.rows.loss.link == "identity" else 1.0)

    def _settles(self, moved: float) -> bool:
        """Whether scores are where a finite optimum can be."""
        return moved <= _SEPARATED or self.params.alpha > 0 or self.rows.loss.link == "identity"


def _own_report(block: Block, residuals: Floats) -> BlockReport:
    return block.report(block.matrix.transposed_times(residuals))
