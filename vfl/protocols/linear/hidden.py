"""Generalised linear models where nobody sees another's scores: a coordinator holds the key.

Hardy et al., arXiv 1711.10677, for any number of hosts, with L-BFGS (learn/glm.py) in place of gradient
descent. Beside guest and hosts, who hold the data, a coordinator makes the key, decrypts what was masked
and leads the optimisation; it sees no data, and each data party has a session with it. The guest speaks
to each host as well.

 1. The coordinator sends its public key to all. The guest says to the hosts which rows train. The
    intercept is a column of the guest's. All coefficients are zero at first, as the coordinator says.
To evaluate the gradient at beta + t p, when the coordinator asks for it, chunk of rows by chunk:
 2. logistic: each host encrypts its scores and sends them to the guest, who adds them up with its own
    and forms r = w (score / 4 + 1/2 - y), the derivative of the log loss's second-order Taylor series.
    poisson: the guest encrypts w e^(its score); each host in turn multiplies by e^(its score), which is
    exact, since the log link makes the mean a product; the guest takes w y off.
 3. The guest sends the encrypted r to the hosts.
 4. Each data party, the guest too, forms X_k^T r, adds masks uniform among all plaintexts, re-randomises
    and sends it to the coordinator, who decrypts and sends it back. The masks are taken off.
 5. Each tells the coordinator its part of the slope along p, behind masks that cancel in the sum of all
    data parties, the guest among them.
For each iteration:
 6. The coordinator adds the slopes up and settles on a step: for logistic, whose approximated loss is
    quadratic, from the slopes at 0 and 1 without another gradient; for poisson where the slope has
    fallen to half, by secants.
 7. Each data party takes the step and sends the inner products of its parts of L-BFGS's vectors and the
    square of its gradient's length, behind such masks; the coordinator sends the weights of the next
    direction p, or ends.
At the end the hosts send the guest their part of the scores of rows held out, behind masks that cancel.

Who goes on after a kill begins with 1, under a new key, and with what the data parties told in 7 of the
last step that all have kept (protocols/common/checkpoints.py). The coordinator keeps nothing.

Whoever multiplies or adds to another's ciphertexts conceals them anew, since their maker could divide
and find what was done. Against who lacks the key short exponents do; what goes to the coordinator is
re-randomised in full.

Learned by the coordinator: slopes, inner products and the gradient's length, of all data parties
together, and how many ciphertexts each needs for its columns. By the guest: of the rows that train,
nothing but its own gradient; of rows held out, the hosts' total part of each score (with one host, this
host's). By a host: its own gradient, as many equations about the labels as it has columns, each
iteration (arXiv 2205.04166), and the sum of weights relative to the largest.

Masks among the parties are drawn from what coordinator and guest send to all alike (transcript.py): who
tells parties different things is left with noise. What is opened for a party is not bound by that.

The coordinator colludes with nobody: with its key the guest could read the hosts' scores, and a host the
residuals, which tell the labels. All follow the protocol: the coordinator cannot see what it decrypts.
"""

import asyncio
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from typing import ClassVar

import numpy as np

from vfl.arrays import Floats, Mask
from vfl.crypto.paillier import InvalidCiphertext, PrivateKey
from vfl.crypto.randomness import Randomness
from vfl.crypto.sums import decrypt
from vfl.crypto.workers import Workers
from vfl.errors import DataError, ModelError
from vfl.learn.glm import PAIRS, Block, BlockReport, BlockState, combination
from vfl.learn.losses import LogisticLoss
from vfl.learn.matrix import Whole
from vfl.learn.params import GlmParams
from vfl.net.peer import Peer, together
from vfl.net.wire import KIB, MIB, Message
from vfl.protocols.common.course import GuestCourse, HostCourse
from vfl.protocols.common.fellows import Masks, relay_keys
from vfl.protocols.common.key import receive_key, send_key
from vfl.protocols.common.participant import Participant, Resources
from vfl.protocols.common.rows import Training
from vfl.protocols.common.transcript import Apart, Transcript
from vfl.protocols.linear.block_numbers import report_in_fixed_point, report_of, told_numbers
from vfl.protocols.linear.encrypted_product import EncryptedProduct
from vfl.protocols.linear.fit import HostFit
from vfl.protocols.linear.fitting_messages import FitKept
from vfl.protocols.linear.hidden_residuals import (
    GuestResiduals,
    HostResiduals,
    ScorePart,
    curvature_at,
)
from vfl.protocols.linear.masked_numbers import divergence, hidden, in_fixed_point, received, sums_of
from vfl.protocols.linear.masked_scores import HeldOutScores, receive_scores, send_scores, total_of
from vfl.protocols.linear.start import begin_host_fit, no_column, restore_block, start_hosts

_UNIT = 1.0  # of slopes and inner products, which are about as large as the loss
_SECRET = 32  # bytes
_DOMAIN = b"vfl blind masks"
_GUEST = ""  # its name among those who share secrets: no host's
_HELD_OUT = 2.0**30  # precision of scores of rows held out
_FLAT_ENOUGH = 0.5  # of the slope that is left where poisson's search ends
_EVALUATIONS = 20  # of a search at most
_STEPS = 4  # of log odds, to which the mean label is rounded, since hosts learn the curvature there


class Begin(Message, frozen=True):
    """coordinator -> party. Reveals: the model to begin with: what all coefficients are at first, and
    how many steps of an interrupted fit all parties have kept."""

    coefficients: float
    done: int = 0


class Evaluate(Message, frozen=True):
    """coordinator -> party. Reveals: how far along the direction the gradient is wanted."""

    size: float


class BlindGradient(Message, frozen=True):
    """party -> coordinator. Reveals: nothing but how many ciphertexts there are: under the encryption
    are sums plus masks uniform among all plaintexts."""

    ciphertexts: bytes
    limit: ClassVar[int] = 16 * MIB


class OpenedGradient(Message, frozen=True):
    """coordinator -> party. Reveals: with the masks that only this party knows, its own gradient: the
    product of its columns with the residuals, which depend on the labels."""

    plaintexts: bytes  # as wide as the key, big-endian
    limit: ClassVar[int] = 16 * MIB


class MaskSecret(Message, frozen=True):
    """guest -> host. Reveals: nothing; a fresh secret for masks that cancel where the coordinator adds
    up what guest and hosts tell it."""

    secret: bytes


_APART: Apart = {MaskSecret: None, ScorePart: None, OpenedGradient: None}
"""What an honest guest or coordinator does not send alike to all whom it leads."""


class Slope(Message, frozen=True):
    """party -> coordinator, behind masks that cancel in the sum of guest and hosts. Reveals: the slope
    along the direction, guest and hosts together."""

    slope: bytes


class Settle(Message, frozen=True):
    """coordinator -> party. Reveals: how far to go along the direction."""

    size: float


class PartyProducts(Message, frozen=True):
    """party -> coordinator, behind masks that cancel in the sum of guest and hosts. Reveals: the inner
    products of their parts of past steps, changes of the gradient and the gradient, and their
    gradient's length, guest and hosts together."""

    products: bytes  # of a square's upper triangle, row by row; the square of the length
    limit: ClassVar[int] = 16 * KIB


class NextDirection(Message, frozen=True):
    """coordinator -> party. Reveals: with which weights the vectors combine, and the length of all
    parties' gradient."""

    weights: list[float]
    length: float


class HiddenEnd(Message, frozen=True):
    """coordinator -> party. Reveals: that the fit has ended, whether it converged, and the length of
    all parties' gradient."""

    converged: bool
    length: float


@dataclass(frozen=True)
class HiddenFit:
    """What a data party has at the end."""

    coefficients: Floats  # the guest's begin with the intercept, if there is one
    iterations: int
    converged: bool
    gradient: float


@dataclass(frozen=True)
class BlindIteration:
    """What can be told of an iteration by who sees no scores."""

    iteration: int
    of: int  # at most
    gradient: float  # its length


@dataclass(frozen=True)
class HiddenState:
    """What a data party keeps of a fit; scores have shape (rows that train,)."""

    done: int  # steps settled, the first of size zero
    score: Floats  # its own part
    block: BlockState
    heard: bytes  # digest of what all data parties have heard alike
    start: str = ""  # at a host: digest of FitStart


# --------------------------------------------------------------------------------- coordinator


async def coordinator_fit(
    parties: Sequence[Peer],
    params: GlmParams,
    quadratic: bool,
    key: PrivateKey,
    resources: Resources = Resources(),
    progress: Callable[[BlindIteration], None] = lambda _: None,
    done: int = 0,
) -> bool:
    """Lead a fit of these data parties; whether it converged.

    `quadratic`: whether the loss is, as logistic's approximation. `done`: the steps of an interrupted
    fit that all parties have kept. Raises PeerError for a party that breaks the protocol.
    """
    # 1. The key, and the model to begin with.
    await send_key(parties, key)
    await together([party.send(Begin(0.0, done)) for party in parties])
    async with Workers(key, resources.machine, resources.operations) as workers:
        opening = _Opening(workers)
        if not done:
            await _slope(parties, opening, 0.0)
            await together([party.send(Settle(0.0)) for party in parties])
        first = max(0, done - 1)
        report = await _report(parties, first)
        for iteration in range(first, params.max_iterations + 1):
            # 7. The next direction, or the end.
            length = math.sqrt(max(report.square, 0.0))
            progress(BlindIteration(iteration, params.max_iterations, length))
            converged = length <= params.tolerance
            if converged or iteration == params.max_iterations:
                break
            weights = combination(report.products)
            if not np.isfinite(weights).all():
                raise divergence("gradients")
            direction = NextDirection(weights.tolist(), length)
            await together([party.send(direction) for party in parties])
            # 6. How far.
            slope = float(weights @ report.products[-1])
            if quadratic:
                after = await _slope(parties, opening, 1.0)
                size = slope / (slope - after) if after > slope else 1.0
            else:
                way = math.sqrt(max(float(weights @ report.products @ weights), 0.0))
                size = await _search(parties, opening, slope, 1 / max(1.0, way))
            await together([party.send(Settle(size)) for party in parties])
            report = await _report(parties, iteration + 1)
    await together([party.send(HiddenEnd(converged, length)) for party in parties])
    return converged


class _Opening:
    """What decrypts for the parties, no more for each at a time than for its first gradient."""

    def __init__(self, workers: Workers[PrivateKey]) -> None:
        self._workers = workers
        self._counts: dict[str, int] = {}  # ciphertexts of a gradient, by party

    async def open(self, party: Peer, message: BlindGradient) -> list[bytes]:
        """The plaintexts, as wide as the key. Raises PeerError."""
        key = self._workers.key.public
        try:
            ciphertexts = key.parse(message.ciphertexts)
            # A party's columns do not change: more would be opened for another purpose.
            if len(ciphertexts) != self._counts.setdefault(party.name, len(ciphertexts)):
                raise party.breach("BlindGradient of another number of ciphertexts than the first")
            opened = await decrypt(self._workers, ciphertexts)
        except ValueError as error:
            raise party.breach(f"BlindGradient with {error}") from None
        return [(value % int(key.n)).to_bytes(key.bits // 8, "big") for value in opened]


async def _search(parties: Sequence[Peer], opening: _Opening, slope: float, size: float) -> float:
    """Where along the direction half of the slope is gone: towards its zero, by secants."""
    if slope > 0:
        raise divergence("slopes")
    low, high = (0.0, slope), (math.inf, math.inf)
    for _ in range(_EVALUATIONS):
        at = await _slope(parties, opening, size)
        if abs(at) <= _FLAT_ENOUGH * abs(slope):
            return size
        low, high = ((size, at), high) if at < 0 else (low, (size, at))
        if high[0] == math.inf:
            grown = size * slope / (slope - at) if at > slope else math.inf
            size = min(max(grown, 1.5 * size), 8 * size)
        else:
            width = high[0] - low[0]
            zero = low[0] - low[1] * width / (high[1] - low[1])
            size = min(max(zero, low[0] + width / 10), high[0] - width / 10)
    raise divergence("slopes")


async def _slope(parties: Sequence[Peer], opening: _Opening, size: float) -> float:
    """The slope so far along the direction, all parties together; everybody's gradient is opened."""
    await together([party.send(Evaluate(size)) for party in parties])
    parts = await together([_open(party, opening) for party in parties])
    return float(sums_of(parts, _UNIT, "slopes")[0])


async def _open(party: Peer, opening: _Opening) -> list[int]:
    """4. Decrypt what a party has masked; 5. its part of the slope, behind masks."""
    plaintexts = await opening.open(party, await party.recv(BlindGradient))
    await party.send(OpenedGradient(b"".join(plaintexts)))
    told = await party.recv(Slope)
    try:
        return received(told.slope, 1)
    except ValueError as error:
        raise party.breach(f"a Slope with {error}") from None


async def _report(parties: Sequence[Peer], steps: int) -> BlockReport:
    """What all parties together tell of their gradient after so many steps."""
    vectors = 2 * min(steps, PAIRS) + 1
    parts = []
    told = await together([party.recv(PartyProducts) for party in parties])
    for party, message in zip(parties, told, strict=True):
        try:
            parts.append(received(message.products, told_numbers(vectors)))
        except ValueError as error:
            raise party.breach(f"PartyProducts with {error}") from None
    return report_of(sums_of(parts, _UNIT, "gradients"), vectors, 1.0)


# ------------------------------------------------------------------------------------- parties


class _Party:
    """What guest and hosts have in common: a block, encrypted residuals, the coordinator's lead."""

    def __init__(
        self,
        coordinator: Peer,
        block: Block,
        residuals: GuestResiduals | HostResiduals,
        masks: Masks,
        heard: Transcript,
        params: GlmParams,
        course: GuestCourse[BlindIteration, HiddenState],
        start: str | None = None,
    ) -> None:
        """`masks`: of what the coordinator may know the sum of, which cancel where all parties have
        `heard` the same. `start`: a host's digest of FitStart;
        None at the guest, whose checkpoints count the steps."""
        self.coordinator, self.block, self._residuals = coordinator, block, residuals
        self._masks, self._heard = masks, heard
        self._pool, self._quadratic = residuals.pool, residuals.quadratic
        self._params, self._progress, self._checkpoints = params, course.progress, course.checkpoints
        self._start, self._leads = start or "", start is None
        try:
            self._product = EncryptedProduct(
                residuals.pool, residuals.store, block.matrix, residuals.of_products, residuals.row_bits
            )
        except ValueError as error:
            raise DataError(f"a numeric column cannot be used under this key: {error}") from None
        self._score = np.zeros(block.matrix.rows)  # X beta
        self._change = np.zeros(block.matrix.rows)  # X p

    async def follow(self) -> HiddenFit:
        """Do as the coordinator says, to the end."""
        begin = await self.coordinator.recv(Begin)
        if begin.coefficients != 0.0:
            raise self.coordinator.breach("a Begin with coefficients other than zero")
        if begin.done != self._checkpoints.done:
            raise self.coordinator.breach(
                "a Begin of another number of steps than this party goes on from"
            )
        await asyncio.to_thread(self._product.group)
        iterations, known = 0, None
        if (last := self._checkpoints.last) is not None:
            if last.score.shape != self._score.shape or last.start != self._start:
                raise ModelError(
                    "the checkpoint is of other rows than the guest says now: start the job anew",
                    for_peer="it began the fit with other rows: start the job anew",
                )
            iterations, known = last.done - 1, restore_block(self.block, last.block)
            self._score = last.score
            self._heard.add(last.heard)  # the state is of what was heard before
        while True:
            report = known or await self._settle()
            heard, kept = self._heard.digest, self.block.state
            state = HiddenState(iterations + 1, self._score, kept, heard, self._start)
            if not known and not self._leads:
                await self._checkpoints.keep(state)
            told = report_in_fixed_point(report, 1.0, _UNIT)
            await self.coordinator.send(PartyProducts(hidden(told, self._masks)))
            message = await self.coordinator.recv(NextDirection, HiddenEnd)
            if not math.isfinite(message.length):
                raise self.coordinator.breach(f"{type(message).__name__} of no number")
            if not known:
                most = self._params.max_iterations
                self._progress(BlindIteration(iterations, most, message.length))
                if self._leads:  # all hosts have kept this step, or nobody could know what comes next
                    await self._checkpoints.keep(state)
            known = None
            if isinstance(message, HiddenEnd):
                return HiddenFit(self.block.beta, iterations, message.converged, message.length)
            weights = np.array(message.weights)
            if len(weights) != 2 * min(iterations, PAIRS) + 1 or not np.isfinite(weights).all():
                raise self.coordinator.breach("NextDirection of another number of vectors, or none")
            self._change = (await asyncio.to_thread(self.block.direction, weights)).scores
            iterations += 1
            if iterations > self._params.max_iterations:
                raise self.coordinator.breach("NextDirection beyond the last iteration")

    async def _settle(self) -> BlockReport:
        """Gradients along the direction as they are asked for, until the step is settled; what there is
        to tell of the last."""
        at: dict[float, Floats] = {}
        most = 1 if self._quadratic else _EVALUATIONS
        for evaluations in count():
            message = await self.coordinator.recv(Evaluate, Settle)
            if not math.isfinite(message.size):
                raise self.coordinator.breach(f"{type(message).__name__} of no number")
            if isinstance(message, Settle):
                break
            if evaluations == most:
                raise self.coordinator.breach("Evaluate too often")
            at[message.size] = await self._gradient(message.size)
        if message.size in at:
            gradient = at[message.size]
        elif self._quadratic and any(at):
            # A quadratic loss has a linear gradient.
            (size, there), known = at.popitem(), self.block.known
            gradient = known + message.size / size * (there - known)
        else:
            raise self.coordinator.breach("Settle where no gradient was asked for")
        self._score = self._score + message.size * self._change
        self.block.step(message.size)
        return self.block.take(gradient)

    async def _gradient(self, size: float) -> Floats:
        """2. to 5. The gradient so far along the direction."""
        # 2. and 3. The residuals, in the store.
        scale = await self._residuals.form(self._score + size * self._change)
        # 4. Masked, opened by the coordinator, unmasked.
        try:
            await self._product.add_all()
        except InvalidCiphertext as error:
            raise self.coordinator.breach(f"residuals with {error}") from None
        ciphertexts, masks = await self._product.mask()
        await self.coordinator.send(BlindGradient(ciphertexts.tobytes()))
        opened = (await self.coordinator.recv(OpenedGradient)).plaintexts
        width = self._pool.key.bits // 8
        if len(opened) != width * len(masks):
            raise self.coordinator.breach("OpenedGradient of another number than asked for")
        plaintexts = [int.from_bytes(opened[i : i + width], "big") for i in range(0, len(opened), width)]
        try:
            product = self._product.unmask(plaintexts, masks, scale)
        except ValueError as error:
            raise self.coordinator.breach(f"OpenedGradient with {error}") from None
        # 5. Its part of the slope.
        gradient = self.block.gradient(size, product)
        slope = in_fixed_point([self.block.slope(gradient)], _UNIT, "slopes")
        await self.coordinator.send(Slope(hidden(slope, self._masks)))
        return gradient


async def hidden_guest_fit(
    coordinator: Peer,
    hosts: Sequence[Peer],
    matrix: Whole,
    rows: Training,
    params: GlmParams,
    resources: Resources = Resources(),
    course: GuestCourse[BlindIteration, HiddenState] = GuestCourse(),
) -> tuple[HiddenFit, Floats]:
    """The guest's coefficients, and the score of every aligned row, NaN where it trained.

    matrix: the guest's columns of all aligned rows. Raises PeerError when another party breaks the
    protocol.
    """
    heard = Transcript(_APART)
    heard.listen(coordinator)
    if hosts:
        heard.repeat(hosts[0])  # all hosts are sent the same
    key = await receive_key(coordinator, params, resources.randomness.at("base"))
    family = "logistic" if isinstance(rows.loss, LogisticLoss) else "poisson"
    mean = _mean(rows)
    log_odds = None
    if family == "logistic":
        log_odds = round(_STEPS * math.log(mean / (1 - mean))) / _STEPS
    # Of the Taylor series; of the mean count, about.
    curvature = 2.0 ** round(math.log2(mean)) if log_odds is None else curvature_at(log_odds)
    columns = await start_hosts(hosts, rows.train, rows.weighing, curvature)
    if not matrix.columns and not any(columns.values()):
        raise no_column()
    await relay_keys(hosts)
    masks = await _share_secrets(hosts, heard, resources.randomness)
    whole = matrix.with_intercept() if params.fit_intercept else matrix
    if not whole.columns:
        raise DataError(
            "the guest has neither a column nor a constant: set fit_intercept in [glm]",
            for_peer="it has no column of its own",
        )
    own = whole.take(rows.train)
    offset = np.zeros(len(rows.label)) if rows.offset is None else rows.offset
    block = await asyncio.to_thread(
        Block, own, params.alpha, False, curvature, int(params.fit_intercept)
    )
    async with Workers(key, resources.machine, resources.operations, here=True) as pool:
        store = pool.rows(own.rows, key.width)
        try:
            residuals = GuestResiduals(pool, store, hosts, rows, log_odds, resources.randomness)
            fit = await _Party(coordinator, block, residuals, masks, heard, params, course).follow()
        finally:
            store.close()
    held_out = ~rows.train
    rest = int(held_out.sum())
    shares = await together([receive_scores(host, HeldOutScores, rest) for host in hosts])
    await together([host.recv(FitKept) for host in hosts])
    score = np.full(len(rows.label), np.nan)
    score[held_out] = offset[held_out] + whole.take(held_out).times(fit.coefficients)
    score[held_out] += total_of(shares, rest, _HELD_OUT)
    return fit, score


async def hidden_host_fit(
    guest: Peer,
    coordinator: Peer,
    rows: int,
    prepare: Callable[[Mask], Whole],
    params: GlmParams,
    family: str,
    participant: Participant,
    course: HostCourse[HostFit, HiddenState] = HostCourse(),
) -> HiddenFit:
    """A host's coefficients; arguments as in `host_fit`, which the coordinator's session joins.

    Raises PeerError when another party breaks the protocol, Refused for too few rows, and what
    `prepare` raises.
    """
    heard = Transcript(_APART)
    heard.listen(coordinator)
    heard.listen(guest)
    resources = participant.resources
    key = await receive_key(coordinator, params, resources.randomness.at("base"))
    begun = await begin_host_fit(guest, rows, prepare, params, participant, heard)
    masks = await _receive_secret(guest, participant.name, begun.fellows, heard)
    async with Workers(key, resources.machine, resources.operations, here=True) as pool:
        store = pool.rows(begun.block.matrix.rows, key.width)
        try:
            followed = GuestCourse[BlindIteration, HiddenState](
                lambda done: course.progress(done.iteration, done.of), course.checkpoints
            )
            quadratic, fellows = family == "logistic", len(participant.hosts)
            own = resources.randomness
            residuals = HostResiduals(pool, store, guest, quadratic, fellows, own)
            block, start = begun.block, begun.digest
            party = _Party(coordinator, block, residuals, masks, heard, params, followed, start)
            fit = await party.follow()
        finally:
            store.close()
    held_out = begun.held_out.times(fit.coefficients)
    await send_scores(guest, HeldOutScores, held_out, _HELD_OUT, begun.masks)
    course.keep(HostFit(fit.coefficients, fit.converged))
    await guest.send(FitKept())
    return fit


async def _share_secrets(hosts: Sequence[Peer], heard: Transcript, randomness: Randomness) -> Masks:
    """The guest's masks against the coordinator, by fresh secrets with the hosts."""
    fresh = {host.name: randomness.at("secret with a host", host.name)(_SECRET) for host in hosts}
    await together([host.send(MaskSecret(fresh[host.name])) for host in hosts])
    return Masks(_GUEST, fresh, heard, _DOMAIN)


async def _receive_secret(
    guest: Peer, name: str, fellows: Mapping[str, bytes], heard: Transcript
) -> Masks:
    """A host's masks against the coordinator: its secrets with the other hosts are known."""
    secret = (await guest.recv(MaskSecret)).secret
    if len(secret) != _SECRET:
        raise guest.breach("a MaskSecret of another size")
    return Masks(name, {**fellows, _GUEST: secret}, heard, _DOMAIN)


def _mean(rows: Training) -> float:
    """The mean label. Raises DataError where there is nothing to learn."""
    mean = float(np.average(rows.label[rows.train], weights=rows.weight[rows.train]))
    if not mean > 0:
        raise DataError(
            "all labels of the rows that train are zero, so that there is nothing to learn",
            for_peer="its rows that train have one label only",
        )
    if isinstance(rows.loss, LogisticLoss) and mean == 1:
        raise DataError(
            "all labels of the rows that train are one, so that there is nothing to learn",
            for_peer="its rows that train have one label only",
        )
    return mean
