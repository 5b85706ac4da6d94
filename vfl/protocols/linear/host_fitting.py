"""A host's side of the fit of fitting.py."""

import asyncio
import math
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager

import numpy as np

from vfl.arrays import Floats, Mask
from vfl.crypto.paillier import PublicKey
from vfl.learn.across import PairOfParties
from vfl.learn.glm import Block
from vfl.learn.matrix import Matrix, Whole
from vfl.learn.params import GlmParams
from vfl.learn.sparse import DIRECTIONS, SparseBlock
from vfl.net.peer import Peer
from vfl.protocols.common.course import HostCourse
from vfl.protocols.common.key import receive_key
from vfl.protocols.common.participant import Participant
from vfl.protocols.common.transcript import Transcript
from vfl.protocols.linear.across import HostAcross
from vfl.protocols.linear.block_numbers import penalty_in_fixed_point, report_in_fixed_point
from vfl.protocols.linear.fit import HostFit, HostFitState
from vfl.protocols.linear.fitting_messages import (
    Combine,
    FitEnd,
    FitKept,
    FitNext,
    InnerProducts,
    NextPenalty,
    PenaltyProducts,
    Step,
)
from vfl.protocols.linear.heard import APART
from vfl.protocols.linear.inference_host import host_inference
from vfl.protocols.linear.lattice_products import lattice_host
from vfl.protocols.linear.masked_numbers import hidden
from vfl.protocols.linear.masked_scores import (
    HeldOutScores,
    ScoreChange,
    length_of,
    precision_of,
    send_scores,
)
from vfl.protocols.linear.products import Gradient, paillier_host
from vfl.protocols.linear.start import HostStart, begin_host_fit, restore_block


async def host_fit(
    guest: Peer,
    rows: int,
    prepare: Callable[[Mask], Whole],
    params: GlmParams,
    participant: Participant,
    course: HostCourse[HostFit, HostFitState] = HostCourse(),
    crossed: Callable[[], Sequence[PairOfParties]] = tuple,
) -> Floats:
    """A host's coefficients, shape (columns,), and behind them those of cells across parties.

    `prepare` makes the design matrix of all `rows` aligned rows, given which of them train: the
    participant's `minimum` at least. `crossed`: the job's pairs with this host's columns, asked for
    then. Raises PeerError when the guest breaks the protocol, Refused for few rows, what `prepare` does.
    """
    # 1. Key, rows, keys of the other hosts.
    heard = Transcript(APART)
    heard.listen(guest)
    drawn = participant.resources.randomness
    key = None if params.encryption == "lattice" else await receive_key(guest, params, drawn.at("base"))
    begun = await begin_host_fit(guest, rows, prepare, params, participant, heard)
    across = await _across(guest, crossed, params, participant)
    iteration, way, known = 0, 0.0, None
    if (last := course.checkpoints.last) is not None:
        if last.start != begun.digest:
            raise guest.breach("a FitStart of other rows than the fit began with")
        heard.add(last.heard)  # the state is of what was heard before
    levels = () if across is None else across.levels
    fixed = begun.block.matrix, key, params, participant, course, levels
    async with _gradients(guest, *fixed) as gradient:
        if across is not None:
            begun = await across.meet(gradient, begun, params, participant.resources)
        block = begun.block
        penalties = _Penalties(guest, params, block)
        if params.several:
            penalties.begin(await guest.recv(NextPenalty), way)
        if last is not None:
            iteration, way, known = last.done - 1, last.way, restore_block(block, last.block)
        while True:
            following = None if known else await guest.recv(FitNext, penalties.end)
            if isinstance(following, FitEnd):
                end = following
                break
            if isinstance(following, NextPenalty):
                iteration, way = penalties.begin(following, way)
                continue
            if iteration > params.max_iterations:
                raise guest.breach("a FitNext beyond the last iteration")
            course.progress(iteration, params.max_iterations)
            if known:
                report, known = known, None
            elif following:
                # 3. The gradient.
                product = await gradient(following.bits)
                if across is not None:
                    of_cells = await across.product(gradient, following.bits)
                    product = np.concatenate([product, of_cells])
                report = block.report(product)
                if penalties.chosen:
                    await course.checkpoints.keep(
                        HostFitState(iteration + 1, way, block.state, begun.digest, heard.digest)
                    )
            # 4. What it says to the others.
            told = report_in_fixed_point(report, begun.curvature, begun.deviance)
            await guest.send(InnerProducts(hidden(told, begun.masks)))
            # 5. and 6. The next direction and step.
            combine = await guest.recv(Combine, penalties.end)
            if isinstance(combine, FitEnd):
                end = combine
                break
            if isinstance(combine, NextPenalty):
                iteration, way = penalties.begin(combine, way)
                continue
            way += await _take_step(guest, begun, combine, len(report.products), params, across)
            iteration += 1
    held_out = begun.held_out.times(block.coefficients[: begun.matrix.columns])
    last_scores = held_out, block.coefficients, precision_of(way)
    await _send_scores(guest, begun, across, HeldOutScores, *last_scores)
    await _keep_fit(guest, begun, penalties.params, participant, course, across, end.converged)
    return block.coefficients


async def _keep_fit(
    guest: Peer,
    begun: HostStart,
    params: GlmParams,
    participant: Participant,
    course: HostCourse[HostFit, HostFitState],
    across: HostAcross | None,
    converged: bool,
) -> None:
    """The end of a fit: inference, and what the host keeps."""
    block = begun.block
    inference = await host_inference(
        guest, begun, params, participant, converged, course.inference_progress
    )
    alone = tuple(sorted(block.alone)) if isinstance(block, SparseBlock) else ()
    cells = () if across is None else tuple(across.found)
    course.keep(HostFit(block.coefficients, converged, inference, alone, cells))
    await guest.send(FitKept())


async def _across(
    guest: Peer,
    crossed: Callable[[], Sequence[PairOfParties]],
    params: GlmParams,
    participant: Participant,
) -> HostAcross | None:
    """The host's part in pairs of levels of two parties, if the job has any."""
    if not params.across:
        return None
    return await HostAcross.begin(guest, participant.name, crossed(), params)


async def _send_scores(
    guest: Peer,
    begun: HostStart,
    across: HostAcross | None,
    kind: type[ScoreChange] | type[HeldOutScores],
    scores: Floats,
    coefficients: Floats,
    precision: float,
) -> None:
    """How the own columns change scores; and cells with their part of these coefficients."""
    if across is None:
        await send_scores(guest, kind, scores, precision, begun.masks)
    else:
        of_cells = coefficients[begun.matrix.columns :]
        await across.send(kind, scores, of_cells, precision, begun.masks)


def _gradients(
    guest: Peer,
    matrix: Matrix,
    key: PublicKey | None,
    params: GlmParams,
    participant: Participant,
    course: HostCourse[HostFit, HostFitState],
    levels: Sequence[int],
) -> AbstractAsyncContextManager[Gradient]:
    """What computes a host's gradient; without a key over the lattice engine."""
    if key is None:
        return lattice_host(
            guest, matrix, params, participant.resources, course.hints, course.hint_progress, levels
        )
    return paillier_host(guest, matrix, key, participant.resources)


class _Penalties:
    """The penalties of a host's fits, as the guest says them one after another; without a choice
    there is the job's alone."""

    def __init__(self, guest: Peer, params: GlmParams, block: Block) -> None:
        self.params = params  # of the present fit
        self.chosen = not params.several  # whether the present fit is the one that is kept
        self._guest, self._block, self._count = guest, block, 0
        self._alphas = params.path or (params.alpha,)

    @property
    def end(self) -> type[FitEnd] | type[NextPenalty]:
        """What the guest says when it has no more of the present fit."""
        return FitEnd if self.chosen else NextPenalty

    def begin(self, said: NextPenalty, way: float) -> tuple[int, float]:
        """Begin the next fit; returns its first iteration, and how long the way is so far."""
        self._count += 1
        if said.alpha not in self._alphas:
            raise self._guest.breach("a NextPenalty that the job does not name")
        if self._count >= self.params.fits and not said.chosen:
            raise self._guest.breach("more fits than the job has")
        self.params = self.params.model_copy(update={"alpha": said.alpha})
        self.chosen = said.chosen
        self._block.begin_under(said.alpha, anew=said.anew)
        return 0, 0.0 if said.anew else way


def _weights_of(guest: Peer, combine: Combine, vectors: int) -> Floats:
    """The weights of so many vectors."""
    weights = np.array(combine.weights)
    if len(weights) != vectors or not np.isfinite(weights).all():
        raise guest.breach("Combine of another number of vectors, or none")
    if not (math.isfinite(combine.precision) and combine.precision > 0):
        raise guest.breach("Combine without a precision")
    return weights


async def _take_step(
    guest: Peer,
    begun: HostStart,
    combine: Combine,
    vectors: int,
    params: GlmParams,
    across: HostAcross | None,
) -> float:
    """5. and 6. The next direction, of so many vectors, and the step; returns how long it was."""
    block, again = begun.block, DIRECTIONS if params.l1_ratio else 1
    while True:
        weights = _weights_of(guest, combine, vectors)
        move = await asyncio.to_thread(block.direction, weights)
        way = block.beta if across is None else block.way  # of cells alone
        given = ScoreChange, move.scores, way, combine.precision
        await _send_scores(guest, begun, across, *given)
        penalty = penalty_in_fixed_point(move, begun.curvature, begun.deviance)
        await guest.send(PenaltyProducts(hidden(penalty, begun.masks)))
        again -= 1
        following = await (guest.recv(Step, Combine) if again else guest.recv(Step))
        if isinstance(following, Step):
            break
        combine = following
    step = following
    if not math.isfinite(step.size):
        raise guest.breach("a Step that is no number")
    if params.l1_ratio and not 0 <= step.size <= 1:
        raise guest.breach("a Step beyond the direction")
    block.step(step.size)
    return length_of(step.size, combine.precision)
