"""Linear models with hidden scores: the optimum, the search, what is on the wire, bad peers, kernels."""

import asyncio
import contextlib
import dataclasses
import math
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any
from unittest import mock

import arguments
import gmpy2
import numpy as np
import pytest
from scipy.optimize import brentq
from scipy.special import expit, logit
from scipy.stats import binomtest, kstest
from test_glm import (
    BAD_CIPHERTEXTS,
    INF,
    KEY,
    NAN,
    WIDTH,
    Job,
    Left,
    N,
    by_glum,
    make_job,
    mixed,
    replaced,
    telling,
    uniform_bytes,
)

from vfl.crypto.paillier import PrivateKey
from vfl.crypto.sums import conceal, times_and_conceal
from vfl.crypto.workers import ONE_PROCESS, Machine, Operations
from vfl.errors import ConfigError, DataError, PeerError, PeerLost, PeerStopped, Refused, VflError
from vfl.learn.glm import PAIRS
from vfl.net.peer import MemoryPeer, Peer, together
from vfl.net.wire import Message, decode
from vfl.protocols.common import fellows, key
from vfl.protocols.linear import fitting as glm
from vfl.protocols.linear import hidden as hidden_glm
from vfl.protocols.linear import hidden_residuals, masked_scores, start
from vfl.protocols.linear.hidden import HiddenFit, coordinator_fit, hidden_guest_fit, hidden_host_fit
from vfl.protocols.linear.masked_numbers import sums_of

pytestmark = pytest.mark.usefixtures("quick_key")

MODULUS = KEY.public.n_squared
LEAD = "coordinator"


@pytest.fixture(scope="module")
def public(quick_key):
    """The public key, the same object for all parties."""
    return key.PublicKey(N)


# A job, its parties and what they send each other.


Seen = tuple[str, str, Message]  # who sent it, to whom, what
KINDS = [
    *(
        kind
        for module in (hidden_glm, hidden_residuals)
        for kind in vars(module).values()
        if isinstance(kind, type) and issubclass(kind, Message) and kind.__module__ == module.__name__
    ),
    start.FitStart,
    start.FitReady,
    glm.FitKept,
    masked_scores.HeldOutScores,
    fellows.FellowKey,
    fellows.FellowKeys,
    key.Key,
]


def sessions(job: Job) -> dict[str, dict[str, MemoryPeer]]:
    """What each party holds to speak to each other one."""
    guest, *hosts = job.tables
    ends: dict[str, dict[str, MemoryPeer]] = {name: {} for name in (LEAD, *job.tables)}
    for a, b in [*((LEAD, name) for name in job.tables), *((guest, host) for host in hosts)]:
        ends[a][b], ends[b][a] = MemoryPeer.pair(a, b)
    return ends


def role(job: Job, name: str, peers: dict[str, MemoryPeer], **options: Any) -> Awaitable[Any]:
    """What a party does in the job."""
    family = job.rows.loss.link
    if name == LEAD:
        options = {"key": KEY, "resources": arguments.resources(options)} | options
        return coordinator_fit(list(peers.values()), job.params, family == "logit", **options)
    if name == next(iter(job.tables)):
        hosts = [peers[host] for host in list(job.tables)[1:]]
        own = job.matrices[name]
        lent, course = arguments.resources(options), arguments.guest_course(options)
        return hidden_guest_fit(peers[LEAD], hosts, own, job.rows, job.params, lent, course, **options)
    guest, *hosts = job.tables
    return hidden_host_fit(
        peers[guest],
        peers[LEAD],
        job.count,
        lambda train: job.matrix(name, train),
        job.params,
        "logistic" if family == "logit" else "poisson",
        arguments.participant(name, hosts, {"context": b"job 7"} | options),
        arguments.host_course(options),
    )


@dataclass
class Ran:
    """What all parties have in the end, and everything that was sent."""

    job: Job
    converged: bool  # as the coordinator says
    fits: dict[str, HiddenFit]
    score: np.ndarray
    messages: list[Seen]

    @property
    def coefficients(self) -> np.ndarray:
        """The intercept first, if there is one; then everybody's columns."""
        return np.concatenate([fit.coefficients for fit in self.fits.values()])

    def of(self, kind: type[Any], sender: str | None = None, to: str | None = None) -> list[Any]:
        return [
            m
            for a, b, m in self.messages
            if isinstance(m, kind) and sender in (None, a) and to in (None, b)
        ]

    def rows(self, kind: type[Any], sender: str, to: str) -> list[np.ndarray]:
        """The ciphertexts of each evaluation, as integers."""
        return [
            np.array(KEY.public.integers(KEY.public.parse(m.ciphertexts)), object)
            for m in self.of(kind, sender, to)
        ]


def run(job: Job, machine: Machine = ONE_PROCESS, **options: Any) -> Ran:
    """All parties over memory."""
    messages: list[Seen] = []

    async def all_of_them() -> list[Any]:
        ends = sessions(job)
        for name, peers in ends.items():
            for other, peer in peers.items():
                peer.observers.append(
                    lambda way, kind, payload, pair=(name, other): (
                        messages.append((*pair, decode(payload, KINDS))) if way == "sent" else None
                    )
                )
        return await together(role(job, n, ends[n], machine=machine, **options) for n in ends)

    converged, (fit, score), *others = asyncio.run(all_of_them())
    return Ran(job, converged, dict(zip(job.tables, [fit, *others], strict=True)), score, messages)


def hidden_job(family: str, parties: Any, *, weights: bool = True, **options: Any) -> Job:
    """A small job of numbers and factors, whose offset for poisson is an exposure's logarithm."""
    job = make_job(family, parties, **{"rows": 150, "seed": 2, "tolerance": 1e-8} | options)
    if weights:
        return job
    return dataclasses.replace(job, rows=dataclasses.replace(job.rows, weight=np.ones(job.count)))


def columns(job: Job) -> np.ndarray:
    """Everybody's of all rows, the constant's first."""
    constant = np.ones((job.count, int(job.params.fit_intercept)))
    return np.hstack([constant, job.dense])


def expansion(job: Job) -> tuple[float, float]:
    """The log odds of the mean label, to the next quarter, and the probability there."""
    rows, train = job.rows, job.rows.train
    at = round(4 * logit(np.average(rows.label[train], weights=rows.weight[train]))) / 4
    return at, expit(at)


def of_taylor(job: Job) -> np.ndarray:
    """What minimises the log loss's second-order Taylor series: weighted least squares."""
    rows, train = job.rows, job.rows.train
    x, share = columns(job)[train], rows.weight[train] / rows.weight[train].sum()
    at, p = expansion(job)
    curvature = p * (1 - p)
    penalty = np.full(x.shape[1], job.params.alpha)
    penalty[: int(job.params.fit_intercept)] = 0.0
    left = curvature * (x.T * share) @ x + np.diag(penalty)
    target = rows.label[train] - p + curvature * (at - job.offset[train])
    return np.linalg.solve(left, x.T @ (share * target))


def of_glum(job: Job) -> np.ndarray:
    found = by_glum(job, "poisson")
    return np.append([found.intercept] * job.params.fit_intercept, found.coefficients)


def assert_fits(ran: Ran, expected: np.ndarray, within: float) -> None:
    """All parties end alike, near these coefficients; scores of rows held out are the model's."""
    job, train = ran.job, ran.job.rows.train
    assert np.abs(ran.coefficients - expected).max() < within
    fits = list(ran.fits.values())
    assert {(f.iterations, f.converged, f.gradient) for f in fits} == {
        (fits[0].iterations, ran.converged, fits[0].gradient)
    }
    assert np.isnan(ran.score[train]).all()
    own = columns(job)[~train] @ ran.coefficients + job.offset[~train]
    assert ran.score[~train] == pytest.approx(own, abs=1e-8)


# The maths.


@pytest.mark.parametrize(
    ("hosts", "alpha", "weights"),
    [(1, 0.0, False), (2, 0.01, False), (3, 0.0, True), (1, 0.01, True)],
)
def test_logistic_is_the_least_of_the_taylor_series(hosts, alpha, weights):
    """Weights are rounded to 2^-16 of the largest."""
    job = hidden_job("logistic", hosts + 1, weights=weights, alpha=alpha)
    ran = run(job)
    assert ran.converged and ran.fits["guest"].iterations < 30
    assert_fits(ran, of_taylor(job), 1e-4 if weights else 1e-6)


@pytest.mark.parametrize(("hosts", "alpha"), [(1, 0.0), (2, 0.01), (3, 0.0)])
def test_poisson_is_glums(hosts, alpha):
    rng = np.random.default_rng(hosts)
    tables: dict[str, Any] = {"guest": mixed(rng, 110, 0, levels=2)}
    tables |= {f"host{k}": {f"x{k}": rng.normal(size=110)} for k in range(1, hosts)}
    tables[f"host{hosts}"] = mixed(rng, 110, hosts, levels=2)
    job = hidden_job("poisson", tables, seed=hosts, rows=110, alpha=alpha, tolerance=1e-7)
    assert len(np.unique(job.offset)) == len(np.unique(job.rows.weight)) == job.count
    ran = run(job)
    assert ran.converged and ran.fits["guest"].iterations < 30
    assert_fits(ran, of_glum(job), 1e-5)


def test_without_an_intercept():
    job = hidden_job("logistic", 2, weights=False, fit_intercept=False)
    assert_fits(run(job), of_taylor(job), 1e-6)
    job = hidden_job("poisson", 2, rows=150, fit_intercept=False, alpha=0.01, tolerance=1e-7)
    assert_fits(run(job), of_glum(job), 1e-5)


@pytest.mark.slow
def test_in_a_pool_of_processes():
    job = hidden_job("logistic", 2, rows=150)
    assert_fits(run(job, Machine(2)), of_taylor(job), 1e-4)


@pytest.mark.parametrize("family", ["logistic", "poisson"])
def test_rows_in_several_messages_and_none_held_out(family):
    """Each evaluation takes three messages; the guest has no column but the constant."""
    rng = np.random.default_rng(1)
    tables = {"guest": {}, "host1": mixed(rng, 150, 1)}
    job = hidden_job(family, tables, seed=1, rows=150, held_out=0.0, tolerance=1e-7)
    with mock.patch.object(hidden_residuals, "CHUNK", 64):
        ran = run(job)
    assert_fits(ran, of_taylor(job) if family == "logistic" else of_glum(job), 1e-4)
    width = KEY.public.width
    parts = [len(m.ciphertexts) // width for m in ran.of(hidden_residuals.ScorePart, "host1", "guest")]
    assert parts == [64, 64, 22] * (len(parts) // 3)


@pytest.mark.parametrize("family", ["logistic", "poisson"])
def test_the_model_of_the_last_iteration_is_kept(family):
    job = hidden_job(family, 3, rows=150, max_iterations=2, tolerance=1e-12)
    told: list[tuple[int, int]] = []

    def follow(done: Any, of: int | None = None) -> None:  # a host is told numbers alone
        told.append((done.iteration, done.of) if of is None else (done, of))

    ran = run(job, progress=follow)
    assert ran.converged is False
    assert [(fit.iterations, fit.converged) for fit in ran.fits.values()] == [(2, False)] * 3
    assert sorted(told) == [(k, 2) for k in (0, 1, 2) for _ in range(4)]
    assert_fits(ran, ran.coefficients, 1e-12)
    # Half of the way, and not where it began.
    assert np.abs(ran.coefficients).max() > 0.01


def test_more_steps_than_are_remembered():
    job = hidden_job("logistic", 2, rows=150, tolerance=1e-18, max_iterations=PAIRS + 3)
    ran = run(job)
    assert ran.fits["guest"].iterations == PAIRS + 3
    # Of a square's upper triangle, and one more.
    counts = [len(m.products) // 32 - 1 for m in ran.of(hidden_glm.PartyProducts, "host1")]
    vectors = [(math.isqrt(8 * count + 1) - 1) // 2 for count in counts]
    assert vectors == [2 * min(k, PAIRS) + 1 for k in range(PAIRS + 4)]
    assert_fits(ran, of_taylor(job), 1e-4)


@pytest.mark.parametrize("weights", [True, False])
def test_a_quadratic_loss_takes_one_gradient_a_step(weights):
    ran = run(hidden_job("logistic", 2, rows=150, weights=weights, tolerance=1e-3))
    asked = ran.of(hidden_glm.Evaluate, LEAD, "host1")
    assert [m.size for m in asked] == [0.0] + [1.0] * ran.fits["guest"].iterations
    steps = [m.size for m in ran.of(hidden_glm.Settle, LEAD, "host1")]
    assert steps[0] == 0.0 and len({*steps[1:]} - {1.0}) == len(steps) - 1


# The search.


def wall(height: float, at: float) -> Callable[[float], float]:
    """A slope that is flat and then rises within a tenth of the way."""
    return lambda t: -1.0 + height * math.exp(min(10 / at * (t - at), 600.0))


def counts(seed: int) -> Callable[[float], float]:
    """Poisson's slope along a random direction, in which one row can be far off."""
    rng = np.random.default_rng(seed)
    way, mean = rng.normal(size=50), rng.gamma(1, 1, 50)
    way[0] *= rng.choice([1.0, 20.0, 60.0])
    label = rng.poisson(mean * np.exp(0.5 * rng.normal(size=50)))
    label[:2] = 1
    way[1] = -way[0]

    def slope(t: float) -> float:
        return float((mean * np.exp(np.minimum(t * way, 600.0)) - label) @ way)

    return slope if slope(0.0) < 0 else lambda t: -slope(-t)


SLOPES: dict[str, Callable[[float], float]] = {
    "a line": lambda t: t - 1,
    "a flat line": lambda t: 1e-6 * t - 1e-3,
    "a steep line": lambda t: 1e6 * t - 10,
    "a root": lambda t: math.sqrt(t) - 3,
    "a power": lambda t: t**5 - 2,
    "an exponential": lambda t: math.exp(min(t, 600.0)) - 1000,
    "a late wall": wall(1.0, 20.0),
    "an early wall": wall(1.0, 0.01),
    "a high wall": wall(1e4, 1.0),
    "one with a kink": lambda t: max(t - 3, 50 * (t - 2.9)),
    **{f"counts {seed}": counts(seed) for seed in range(20)},
}


def search(slope: Callable[[float], float], first: float) -> tuple[float, list[float]]:
    """Where the search ends, and where it asked."""
    asked: list[float] = []

    async def at(parties: Sequence[Peer], opening: Any, size: float) -> float:
        asked.append(size)
        return slope(size)

    with mock.patch.object(hidden_glm, "_slope", at):
        return asyncio.run(hidden_glm._search([], None, slope(0.0), first)), asked  # type: ignore[arg-type]


@pytest.mark.parametrize("first", [1e-3, 0.1, 1.0])
@pytest.mark.parametrize("name", list(SLOPES))
def test_the_search_ends_where_half_of_the_slope_is_gone(name, first):
    """Slopes of convex functions rise: the step lies between the points where the slope is half of the
    first one and where it is as much above zero, which brentq finds, and the zero lies between too."""
    slope = SLOPES[name]
    half, far = abs(slope(0.0)) / 2, 1e-3
    while slope(far) <= 1.01 * half:
        far *= 1.5
    least, zero, most = (brentq(lambda t, s=s: slope(t) - s, 0.0, far) for s in (-half, 0.0, half))
    assert least < zero < most
    size, asked = search(slope, first)
    assert least * (1 - 1e-9) <= size <= most * (1 + 1e-9)
    assert size == asked[-1] and asked[0] == first
    assert len(asked) <= 14 and len(set(asked)) == len(asked)


def test_the_search_keeps_within_what_it_knows():
    """Each point lies beyond the last known slope below zero and before the first above."""
    slope = SLOPES["a high wall"]
    _, asked = search(slope, 1e-3)
    for k in range(1, len(asked)):
        low = max([0.0, *(t for t in asked[:k] if slope(t) < 0)])
        high = min([math.inf, *(t for t in asked[:k] if slope(t) >= 0)])
        assert low < asked[k] < high
        if high == math.inf:
            assert 1.5 <= asked[k] / asked[k - 1] <= 8


def test_a_direction_that_leads_up_ends_the_search():
    """Only made-up products give one."""
    with pytest.raises(ConfigError, match="the fit diverges, with slopes beyond all bounds"):
        search(lambda t: 1.0, 1.0)


@pytest.mark.parametrize("slope", [lambda t: -1.0, lambda t: -1.0 - t, lambda t: -math.exp(-1e-30 * t)])
def test_a_slope_that_never_rises_ends_the_search(slope):
    with pytest.raises(ConfigError, match="the fit diverges, with slopes beyond all bounds"):
        search(slope, 1.0)


# What is on the wire.


@pytest.fixture(scope="module")
def poisson_run():
    """Two hosts, one of many columns, so that there are many plaintexts to look at."""
    rng = np.random.default_rng(2)
    tables = {"guest": mixed(rng, 140, 0), "host1": mixed(rng, 140, 1, 18), "host2": mixed(rng, 140, 2)}
    return run(make_job("poisson", tables, 140, alpha=0.01, tolerance=1e-4))


@pytest.fixture(scope="module")
def logistic_run():
    return run(hidden_job("logistic", 3, tolerance=1e-6))


@pytest.fixture(params=["logistic_run", "poisson_run"])
def recorded(request) -> Ran:
    return request.getfixturevalue(request.param)


@pytest.fixture(scope="module", params=["logistic", "poisson"])
def standing(request) -> Ran:
    """The direction is none at all: the second evaluation is of the same scores as the first."""
    with mock.patch.object(hidden_glm, "combination", lambda products: np.zeros(len(products))):
        return run(hidden_job(request.param, 2, rows=100, max_iterations=1))


def test_what_the_coordinator_opens_is_uniform(logistic_run, poisson_run):
    """Every plaintext is a sum under a mask uniform below n: as likely at the top as at the bottom."""
    data = b"".join(
        m.plaintexts for ran in (logistic_run, poisson_run) for m in ran.of(hidden_glm.OpenedGradient)
    )
    values = [int.from_bytes(data[i : i + 256], "big") for i in range(0, len(data), 256)]
    assert len(values) >= 60 and len(set(values)) == len(values)
    assert kstest([value / N for value in values], "uniform").pvalue > 1e-9
    # Sums alone would lie near 0 or n: two masks in 2^40 do, of hundreds one with less than 1e-9.
    assert all(N >> 40 < value < N - (N >> 40) for value in values)
    # And their lowest bits, which a mask of multiples would leave alone, are a fair coin's: as far from
    # the half as these come by chance with less than 1e-9.
    assert binomtest(sum(value % 2 for value in values), len(values)).pvalue > 1e-9


def test_the_coordinator_opens_what_columns_need_and_no_more(recorded):
    for name, matrix in recorded.job.matrices.items():
        sizes = {len(m.ciphertexts) for m in recorded.of(hidden_glm.BlindGradient, name)}
        assert len(sizes) == 1 and WIDTH <= sizes.pop() <= WIDTH * (1 + matrix.columns // 6)


def test_numbers_of_a_party_are_hidden_and_their_sum_is_not(recorded):
    """The guest's too: the coordinator knows what they come to, all parties together."""
    for kind, field in ((hidden_glm.Slope, "slope"), (hidden_glm.PartyProducts, "products")):
        shares = []
        for name in ("guest", "host1", "host2"):
            parts = [getattr(m, field) for m in recorded.of(kind, name)]
            numbers = [part[i : i + 32] for part in parts for i in range(0, len(part), 32)]
            assert uniform_bytes(b"".join(numbers)) > 1e-9
            assert len(set(numbers)) == len(numbers)
            shares.append([int.from_bytes(number, "little") for number in numbers])
        sums = sums_of(shares, 1.0, "numbers")
        assert np.abs(sums).max() < 2.0**20
    # The last is the square of the gradient's length.
    assert math.sqrt(sums[-1]) == recorded.fits["guest"].gradient


def test_held_out_scores_of_a_host_are_hidden_and_their_sum_is_not(recorded):
    job = recorded.job
    shares = []
    for host in ("host1", "host2"):
        (message,) = recorded.of(masked_scores.HeldOutScores, host, "guest")
        assert uniform_bytes(message.scores) > 1e-9
        shares.append(np.frombuffer(message.scores, "<u8"))
        assert len(np.unique(shares[-1])) == len(shares[-1]) == (~job.rows.train).sum()
    guest, *hosts = job.matrices.values()
    beta = recorded.coefficients[1 + guest.columns :]
    expected = np.hstack([m.dense() for m in hosts])[~job.rows.train] @ beta
    assert (shares[0] + shares[1]).view(np.int64) / 2.0**30 == pytest.approx(expected, abs=1e-8)


def test_held_out_scores_of_a_single_host_are_not_hidden(standing):
    """The control of the test above."""
    (message,) = standing.of(masked_scores.HeldOutScores, "host1")
    assert uniform_bytes(message.scores) < 1e-12


def test_the_same_scores_are_never_the_same_ciphertexts(standing):
    """Of a party, a row's score is twice the same."""
    count = int(standing.job.rows.train.sum())
    ways = [
        ("host1", "guest", hidden_residuals.ScorePart),
        ("guest", "host1", hidden_residuals.HiddenResiduals),
    ]
    if standing.job.rows.loss.link == "log":
        ways.append(("guest", "host1", hidden_residuals.ScorePart))
    for sender, to, kind in ways:
        first, second = standing.rows(kind, sender, to)
        assert KEY.decrypt(KEY.public.array(first[:20])) == KEY.decrypt(KEY.public.array(second[:20]))
        assert len({*first, *second}) == 2 * count == len(first) + len(second)


def test_no_row_is_sent_twice(recorded):
    """But the residuals, which all hosts get alike, and what is only passed on to the next host."""
    rows: dict[type[Message], list[int]] = {}
    for sender, to, m in recorded.messages:
        if isinstance(m, hidden_residuals.ScorePart | hidden_glm.BlindGradient) and (sender, to) != (
            "guest",
            "host2",
        ):
            rows.setdefault(type(m), []).extend(KEY.public.integers(KEY.public.parse(m.ciphertexts)))
    for own in rows.values():
        assert len(set(own)) == len(own)
        # A ciphertext without an obfuscator is 1 modulo n.
        assert all(c % N != 1 for c in own)
    received = [
        recorded.of(hidden_residuals.HiddenResiduals, "guest", host) for host in ("host1", "host2")
    ]
    assert received[0] == received[1]


def quotient(a: int, b: int) -> int:
    """a / b modulo n: 1 when they differ by a constant that nothing conceals."""
    return int(gmpy2.divm(a, b, N))


def test_what_a_host_multiplies_by_is_concealed(poisson_run):
    """The guest knows what it sent and what came back; neither a small power nor the true one fits."""
    sent = poisson_run.rows(hidden_residuals.ScorePart, "guest", "host1")
    back = poisson_run.rows(hidden_residuals.ScorePart, "host1", "guest")
    onward = poisson_run.rows(hidden_residuals.ScorePart, "guest", "host2")
    for evaluation, (a, b, c) in enumerate(zip(sent, back, onward, strict=True)):
        assert list(b) == list(c)
        plain = KEY.decrypt(KEY.public.array(a[:4])), KEY.decrypt(KEY.public.array(b[:4]))
        for x, y, m, product in zip(a[:4], b[:4], *plain, strict=True):
            factor, rest = divmod(product, m)
            assert rest == 0 and (evaluation > 0 or factor == 1 << 40)
            for power in (*range(40), factor, -factor):
                assert quotient(y, gmpy2.powmod(x, power, MODULUS)) != 1
    # All scores are zero at first.
    first = KEY.decrypt(KEY.public.array(back[0])), KEY.decrypt(KEY.public.array(sent[0]))
    assert all(y == x << 40 for y, x in zip(*first, strict=True))


def test_what_the_guest_adds_is_concealed_of_poisson(poisson_run):
    """Every host could take the labels out of the difference to what it sent."""
    sent = poisson_run.rows(hidden_residuals.ScorePart, "host2", "guest")
    residuals = poisson_run.rows(hidden_residuals.HiddenResiduals, "guest", "host2")
    rows = poisson_run.job.rows
    for a, b in zip(sent, residuals, strict=True):
        assert all(quotient(y, x) != 1 for x, y in zip(a, b, strict=True))
    plain = [KEY.decrypt(KEY.public.array(x)) for x in (sent[0], residuals[0])]
    paid = np.array([(x - y) / 2.0**120 for x, y in zip(*plain, strict=True)])
    share = rows.weight[rows.train] / rows.weight[rows.train].max()
    assert paid == pytest.approx(share * rows.label[rows.train], abs=1e-9)


@pytest.mark.parametrize("weights", [True, False])
def test_what_the_guest_adds_and_multiplies_by_is_concealed_of_logistic(weights):
    job = hidden_job("logistic", 2, rows=100, weights=weights, max_iterations=1)
    ran, share = run(job), job.rows.weight[job.rows.train]
    integers = (
        np.rint(share / share.max() * 2.0**16).astype(int).tolist() if weights else [1] * len(share)
    )
    (_, sent), (first, residuals) = (
        ran.rows(hidden_residuals.ScorePart, "host1", "guest"),
        ran.rows(hidden_residuals.HiddenResiduals, "guest", "host1"),
    )
    for x, y, weight in zip(sent, residuals, integers, strict=True):
        assert quotient(y, gmpy2.powmod(x, weight, MODULUS)) != 1
        assert quotient(y, x) != 1
    # The control: at first all scores of the host are zero.
    plain = np.array(KEY.decrypt(KEY.public.array(first))) / (np.array(integers) * 2.0**40)
    at, p = expansion(job)
    own = job.offset - at + (p - job.rows.label) / (p * (1 - p))
    assert plain.astype(float) == pytest.approx(own[job.rows.train], abs=1e-9)


def test_gradients_leave_under_full_obfuscators():
    """The coordinator has the key, against which short exponents do not hide."""
    operations = {name: Operations() for name in (LEAD, "guest", "host1")}
    job = hidden_job("logistic", 2, rows=100, max_iterations=1)

    async def all_of_them() -> None:
        ends = sessions(job)
        await together(role(job, n, ends[n], operations=operations[n]) for n in ends)

    asyncio.run(all_of_them())
    for name in ("guest", "host1"):
        assert operations[name]["rerandomise"] == 2
    assert operations[LEAD] == {"decrypt": 4}
    count = int(job.rows.train.sum())
    assert operations["host1"]["encrypt"] == operations["guest"]["conceal"] == 2 * count


def test_messages_say_what_they_reveal(logistic_run, poisson_run):
    seen = {type(m) for ran in (logistic_run, poisson_run) for _, _, m in ran.messages}
    assert seen == set(KINDS)
    assert all("Reveals:" in str(kind.__doc__) for kind in KINDS)
    for a, b, m in (*logistic_run.messages, *poisson_run.messages):
        if LEAD in (a, b):
            way = "coordinator -> party" if a == LEAD else "party -> coordinator"
            assert isinstance(m, key.Key) or str(m.__doc__).startswith(way)


# Hostile and faulty peers.

FAMILIES = {
    "logistic": hidden_job("logistic", 2, rows=40, tolerance=1e-9, max_iterations=2),
    "poisson": hidden_job("poisson", 2, rows=40, tolerance=1e-9, max_iterations=2),
}

Change = Callable[[Any], Message | list[Message]]


def against(
    liar: str, kind: type[Message], change: Change, job: Job, skip: int = 0, **options: Any
) -> dict[str, Any]:
    """What each party returns or raises when the liar sends `change` of its messages of a kind.

    The first `skip` of these are as they should be, and so is all else. As in a job, a party that fails
    tells the others why.
    """

    async def ending(name: str, peers: dict[str, MemoryPeer]) -> Any:
        seen = 0
        for peer in peers.values() if name == liar else ():

            async def lie(message: Message, send: Any = peer.send) -> None:
                nonlocal seen
                made: Message | list[Message] = message
                if isinstance(message, kind):
                    seen += 1
                    made = change(message) if seen > skip else message
                for one in made if isinstance(made, list) else [made]:
                    await send(one)

            peer.send = lie  # type: ignore[method-assign]
        result: list[Any] = []

        async def told() -> None:
            result.append(await role(job, name, peers, **options.get(name, {})))

        try:
            await telling(told(), list(peers.values()))
        except VflError as error:
            return error
        return result[0]

    async def all_of_them() -> dict[str, Any]:
        ends = sessions(job)
        found = await together(ending(name, peers) for name, peers in ends.items())
        return dict(zip(ends, found, strict=True))

    return asyncio.run(all_of_them())


def another_key() -> dict[str, bytes]:
    other = PrivateKey.generate(2048)
    return {"modulus": int(other.public.n).to_bytes(256, "big"), "proof": other.proof()}


class Once:
    """A field that is another one each time it is asked for."""

    def __init__(self) -> None:
        self.times = 0

    def __call__(self, value: float) -> float:
        self.times += 1
        return value * self.times


H = hidden_glm
LIES: list[tuple[str, str, type[Message], dict[str, Any], int, str, str]] = [
    # family, liar, message, fields, how many are right first, who refuses it, what it says
    ("logistic", LEAD, key.Key, {"encryption": "ou"}, 0, "guest", "a Key of another scheme"),
    (
        "logistic",
        LEAD,
        key.Key,
        {"modulus": lambda n: n[:-1]},
        0,
        "guest",
        "a Key with a modulus of 2040",
    ),
    ("logistic", LEAD, key.Key, {"modulus": bytes(256)}, 1, "host1", "a Key with a modulus of 0 bits"),
    (
        "logistic",
        LEAD,
        H.Begin,
        {"coefficients": 0.5},
        0,
        "guest",
        "a Begin with coefficients other than",
    ),
    (
        "poisson",
        LEAD,
        H.Begin,
        {"coefficients": NAN},
        1,
        "host1",
        "a Begin with coefficients other than",
    ),
    *(
        ("poisson", LEAD, H.Evaluate, {"size": bad}, 2, "guest", "Evaluate of no number")
        for bad in (INF, -INF, NAN)
    ),
    ("logistic", LEAD, H.Settle, {"size": INF}, 3, "host1", "Settle of no number"),
    ("poisson", LEAD, H.Settle, {"size": 0.123}, 2, "guest", "Settle where no gradient was asked for"),
    ("poisson", LEAD, H.Settle, {"size": 0.123}, 3, "host1", "Settle where no gradient was asked for"),
    ("logistic", LEAD, H.Settle, {"size": 1.0}, 0, "guest", "Settle where no gradient was asked for"),
    *(
        (family, LEAD, H.OpenedGradient, {"plaintexts": bad}, 0, "", "OpenedGradient of another number")
        for family in FAMILIES
        for bad in (b"", lambda p: p[:-1], lambda p: p + p)
    ),
    (
        "logistic",
        LEAD,
        H.OpenedGradient,
        {"plaintexts": lambda p: bytes(len(p))},
        0,
        "",
        "OpenedGradient with a plaintext that is no masked product",
    ),
    *(
        (
            "logistic",
            LEAD,
            H.NextDirection,
            {"weights": bad},
            1,
            "host1",
            "NextDirection of another number",
        )
        for bad in ([], [NAN], [INF], lambda w: [*w, 0.0])
    ),
    ("logistic", LEAD, H.NextDirection, {"length": NAN}, 1, "host1", "NextDirection of no number"),
    ("logistic", LEAD, H.HiddenEnd, {"length": INF}, 1, "host1", "HiddenEnd of no number"),
    *(
        (family, liar, hidden_residuals.ScorePart, {"ciphertexts": bad}, 0, victim, f"ScorePart {what}")
        for family, liar, victim in (
            ("logistic", "host1", "guest"),
            ("poisson", "host1", "guest"),
            ("poisson", "guest", "host1"),
        )
        for bad, what in (
            (lambda c: c[:-1], "with ciphertexts cut short"),
            (lambda c: c[:-WIDTH], "of another number of rows"),
            (lambda c: c + c[:WIDTH], "of another number of rows"),
            (b"", "of another number of rows"),
            *((lambda c, bad=bad: c[:-WIDTH] + bad, "with a cip") for bad in BAD_CIPHERTEXTS.values()),
        )
    ),
    *(
        (
            "logistic",
            "guest",
            hidden_residuals.HiddenResiduals,
            {"ciphertexts": bad},
            0,
            "host1",
            f"HiddenResiduals {what}",
        )
        for bad, what in (
            (lambda c: c[:-1], "with ciphertexts cut short"),
            (lambda c: c[:-WIDTH], "of another number of rows"),
            *((lambda c, bad=bad: c[:-WIDTH] + bad, "with a cip") for bad in BAD_CIPHERTEXTS.values()),
        )
    ),
    *(
        (
            family,
            "guest",
            hidden_residuals.HiddenResiduals,
            {"scale": bad},
            0,
            "host1",
            "HiddenResiduals without a scale",
        )
        for family in FAMILIES
        for bad in (0.0, -1.0, INF, NAN)
    ),
    *(
        ("logistic", liar, H.BlindGradient, {"ciphertexts": bad}, 0, LEAD, f"BlindGradient with {what}")
        for liar in ("guest", "host1")
        for bad, what in (
            (lambda c: c[:-1], "ciphertexts cut short"),
            *((bad, "a ciphertext") for bad in BAD_CIPHERTEXTS.values()),
        )
    ),
    *(
        (
            "logistic",
            liar,
            H.BlindGradient,
            {"ciphertexts": bad},
            1,
            LEAD,
            "BlindGradient of another number of ciphertexts than the first",
        )
        for liar in ("guest", "host1")
        for bad in (lambda c: c * 2, b"")
    ),
    *(
        (family, liar, H.Slope, {"slope": bad}, 1, LEAD, "a Slope with another number of bytes")
        for family, liar in (("logistic", "host1"), ("poisson", "guest"))
        for bad in (b"", bytes(31), bytes(64))
    ),
    *(
        ("logistic", "guest", H.MaskSecret, {"secret": bad}, 0, "host1", "a MaskSecret of another size")
        for bad in (b"", bytes(31), bytes(33))
    ),
    *(
        (
            "logistic",
            liar,
            H.PartyProducts,
            fields,
            1,
            LEAD,
            "PartyProducts with another number of bytes",
        )
        for liar in ("guest", "host1")
        for fields in (
            {"products": b""},
            {"products": lambda p: p[:-1]},
            {"products": lambda p: p + bytes(32)},
        )
    ),
    (
        "logistic",
        "host1",
        start.FitReady,
        {"columns": -1},
        0,
        "guest",
        "FitReady with a negative number",
    ),
    (
        "logistic",
        "guest",
        start.FitStart,
        {"curvature": NAN},
        0,
        "host1",
        "a FitStart without a curvature",
    ),
    (
        "logistic",
        "host1",
        masked_scores.HeldOutScores,
        {"scores": lambda s: s[:-1]},
        0,
        "guest",
        "HeldOutScores of another number of rows",
    ),
]


def assert_refused(ends: dict[str, Any], liar: str, victim: str, text: str) -> None:
    """One honest party at least says who lied, with which message, and the others know why they end.

    Without a victim it is any party.
    """
    named = {n: str(end) for n, end in ends.items() if type(end) is PeerError and n != liar}
    assert named, ends
    assert all(said.startswith(f"{liar} broke the protocol: it sent {text}") for said in named.values())
    assert not victim or victim in named
    for name, end in ends.items():
        # Whoever was done before has its result.
        assert (
            name in named or not isinstance(end, VflError) or isinstance(end, PeerStopped | PeerLost)
        ), end


@pytest.mark.parametrize(
    ("family", "liar", "kind", "fields", "skip", "victim", "text"),
    LIES,
    ids=[f"{family}-{liar}-{kind.__name__}-{k}" for k, (family, liar, kind, *_) in enumerate(LIES)],
)
def test_a_lie_is_refused_by_name(family, liar, kind, fields, skip, victim, text):
    ends = against(liar, kind, replaced(**fields), FAMILIES[family], skip)
    assert_refused(ends, liar, victim, text)


@pytest.mark.parametrize("family", list(FAMILIES))
def test_another_scale_in_the_next_message_is_refused(family):
    with mock.patch.object(hidden_residuals, "CHUNK", 32):
        ends = against(
            "guest", hidden_residuals.HiddenResiduals, replaced(scale=Once()), FAMILIES[family]
        )
    assert_refused(ends, "guest", "host1", "HiddenResiduals without a scale")


def test_a_key_that_is_not_the_coordinators_opens_to_nothing():
    """Nobody can tell such a key; what is opened with another one is no masked product."""
    ends = against(LEAD, key.Key, replaced(**another_key()), FAMILIES["logistic"])
    wrong = {str(end) for end in ends.values() if type(end) is PeerError}
    assert wrong and all("broke the protocol: it sent" in text for text in wrong)
    assert all(isinstance(end, VflError) for end in ends.values())


@pytest.mark.parametrize(("family", "most"), [("logistic", 1), ("poisson", 20)])
def test_a_coordinator_that_asks_for_too_many_gradients_is_refused(family, most):
    """Each is as many equations about the labels as a party has columns."""
    job, seen = FAMILIES[family], []

    async def ask() -> dict[str, Any]:
        ends = sessions(job)
        for name in job.tables:
            ends[name][LEAD].observers.append(
                lambda way, kind, payload: seen.append(kind) if kind == "BlindGradient" else None
            )
        peers = list(ends.pop(LEAD).values())

        async def lead() -> None:
            await key.send_key(peers, KEY)
            await together(peer.send(H.Begin(0.0)) for peer in peers)
            for k in range(most + 1):
                await together(peer.send(H.Evaluate(k / 100)) for peer in peers)
                if k < most:
                    blind = await together(peer.recv(H.BlindGradient) for peer in peers)
                    for peer, message in zip(peers, blind, strict=True):
                        opened = KEY.decrypt(KEY.public.parse(message.ciphertexts))
                        data = [(value % N).to_bytes(256, "big") for value in opened]
                        await peer.send(H.OpenedGradient(b"".join(data)))
                    await together(peer.recv(H.Slope) for peer in peers)

        async def ending(name: str) -> Any:
            with contextlib.suppress(PeerLost, PeerStopped):
                try:
                    await telling(role(job, name, ends[name]), list(ends[name].values()))
                except PeerError as error:
                    return error
            return None

        found = await together([*(ending(name) for name in ends), lead()])
        return dict(zip(ends, found, strict=False))

    ends = asyncio.run(ask())
    assert_refused(ends, LEAD, "", "Evaluate too often")
    assert len(seen) == 2 * most


def test_more_iterations_than_the_job_says_are_refused():
    few, many = (FAMILIES["logistic"].with_params(max_iterations=most) for most in (1, 6))

    async def all_of_them() -> list[Any]:
        ends = sessions(few)
        jobs = {LEAD: many, "guest": many, "host1": few}
        works = [telling(role(jobs[n], n, ends[n]), list(ends[n].values())) for n in ends]
        return await asyncio.gather(*works, return_exceptions=True)

    *_, end = asyncio.run(all_of_them())
    assert str(end) == f"{LEAD} broke the protocol: it sent NextDirection beyond the last iteration"


@pytest.mark.parametrize(
    ("family", "liar", "kind", "other", "due"),
    [
        ("logistic", LEAD, key.Key, H.Begin(0.0), "Key"),
        ("logistic", LEAD, H.Begin, H.Evaluate(0.0), "Begin"),
        ("logistic", LEAD, H.Evaluate, H.HiddenEnd(True, 0.0), "Evaluate or Settle"),
        ("logistic", LEAD, H.OpenedGradient, H.Settle(0.0), "OpenedGradient"),
        ("logistic", LEAD, H.Settle, H.NextDirection([], 0.0), "Evaluate or Settle"),
        ("logistic", LEAD, H.NextDirection, H.Evaluate(1.0), "NextDirection or HiddenEnd"),
        (
            "logistic",
            "guest",
            hidden_residuals.HiddenResiduals,
            hidden_residuals.ScorePart(b""),
            "HiddenResiduals",
        ),
        (
            "poisson",
            "guest",
            hidden_residuals.ScorePart,
            hidden_residuals.HiddenResiduals(b"", 1.0),
            "ScorePart",
        ),
        ("logistic", "host1", hidden_residuals.ScorePart, glm.FitKept(), "ScorePart"),
        ("logistic", "host1", H.BlindGradient, H.Slope(b""), "BlindGradient"),
        ("logistic", "guest", H.Slope, H.PartyProducts(b""), "Slope"),
        ("logistic", "host1", H.PartyProducts, H.Slope(b""), "PartyProducts"),
        ("logistic", "host1", masked_scores.HeldOutScores, glm.FitKept(), "HeldOutScores"),
        ("logistic", "host1", glm.FitKept, start.FitReady(1), "FitKept"),
    ],
)
def test_a_message_out_of_turn_is_refused(family, liar, kind, other, due):
    ends = against(liar, kind, lambda message: other, FAMILIES[family])
    assert_refused(ends, liar, "", f"{type(other).__name__} where {due} or Stop was due")


@pytest.mark.parametrize(
    ("family", "kind", "fields"),
    [
        ("logistic", H.Slope, {"slope": b"\x7f" * 32}),
        ("poisson", H.Slope, {"slope": bytes(32)}),
        ("logistic", H.PartyProducts, {"products": lambda p: b"\x80" * len(p)}),
        ("poisson", H.PartyProducts, {"products": lambda p: bytes(len(p))}),
        ("logistic", H.BlindGradient, {"ciphertexts": b""}),
    ],
)
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_made_up_numbers_end_the_job_or_harm_the_model_alone(family, kind, fields):
    """Nobody hangs or fails in another way than with an error for the user."""
    job = FAMILIES[family]
    ends = against("host1", kind, replaced(**fields), job)
    for end in ends.values():
        assert isinstance(end, VflError | bool | HiddenFit | tuple)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("family", list(FAMILIES))
@pytest.mark.parametrize(("kind", "size"), [(H.Evaluate, 1e300), (H.Settle, 1e300)])
def test_a_coordinator_that_goes_too_far_ends_the_job(family, kind, size):
    ends = against(LEAD, kind, replaced(size=size), FAMILIES[family], skip=2)
    assert all(isinstance(end, VflError) for end in ends.values())


def test_steps_of_no_length_are_refused():
    """From a gradient at no distance there is no telling those at others."""
    ends = against(LEAD, H.Evaluate, replaced(size=0.0), FAMILIES["logistic"], skip=2)
    assert_refused(ends, LEAD, "", "Settle where no gradient was asked for")


@pytest.mark.parametrize("name", ["guest", "host1"])
def test_a_number_too_large_for_the_key_is_an_error_of_the_partys_own_data(name, monkeypatch):
    job, matrix = hidden_job("poisson", 2, rows=100), Job.matrix

    def far(self: Job, party: str, train: np.ndarray) -> Any:
        own = matrix(self, party, train)
        return dataclasses.replace(own, numbers=own.numbers * 2.0**50) if party == name else own

    monkeypatch.setattr(Job, "matrix", far)
    with pytest.raises(DataError, match="a numeric column cannot be used under this key: a number of"):
        run(dataclasses.replace(job))


def test_counts_that_are_all_zero_are_refused():
    job = FAMILIES["poisson"]
    none = dataclasses.replace(job, rows=dataclasses.replace(job.rows, label=np.zeros(job.count)))
    with pytest.raises(DataError, match=r"^all labels of the rows that train are zero"):
        run(none)


def test_a_guest_without_a_column_needs_the_constant():
    tables = {"guest": {}, "host1": mixed(np.random.default_rng(0), 60, 1)}
    with pytest.raises(DataError, match=r"^the guest has neither a column nor a constant"):
        run(hidden_job("logistic", tables, rows=60, fit_intercept=False))


def test_a_host_refuses_fewer_rows_than_its_policy():
    job = FAMILIES["logistic"]
    train = int(job.rows.train.sum())
    ends = against("", Message, lambda m: m, job, host1={"minimum": train + 1})
    assert isinstance(ends["host1"], Refused)
    rule = f"rule min_intersection = {train + 1} of [policy]: bring more rows"
    assert str(ends["host1"]).startswith(f"{train} rows to train on are below {rule}")
    assert all(isinstance(end, PeerStopped) for name, end in ends.items() if name != "host1")
    ends = against("", Message, lambda m: m, job, host1={"minimum": train})
    assert isinstance(ends["host1"], HiddenFit)


def test_the_model_is_kept_before_the_guest_is_told():
    job, kept = FAMILIES["logistic"], []

    def told(message: Message) -> Message:
        assert kept
        return message

    ends = against("host1", glm.FitKept, told, job, host1={"keep": kept.append})
    assert len(kept) == 1 and kept[0].coefficients.tolist() == ends["host1"].coefficients.tolist()
    assert isinstance(ends["guest"], tuple)


def test_errors_hold_no_values():
    for family, liar, kind, fields, skip, *_ in LIES[::9]:
        ends = against(liar, kind, replaced(**fields), FAMILIES[family], skip)
        for end in ends.values():
            if type(end) is PeerError:
                text = str(end).replace("host1", "").replace("2040", "")
                assert not set("0123456789") & set(text)
                assert end.for_peer.startswith("a peer broke the protocol with")


# Peers that leave.

SMALL_OF_THREE = {
    family: hidden_job(family, 3, rows=80, alpha=0.01, tolerance=1e-9, max_iterations=1)
    for family in FAMILIES
}
LEAVES = [
    *((LEAD, k) for k in (key.Key, H.Begin, H.Evaluate, H.OpenedGradient)),
    *((LEAD, k) for k in (H.Settle, H.NextDirection, H.HiddenEnd)),
    *(
        (n, k)
        for n in ("guest", "host1")
        for k in (hidden_residuals.ScorePart, H.BlindGradient, H.Slope, H.PartyProducts)
    ),
    *(
        ("guest", k)
        for k in (start.FitStart, fellows.FellowKeys, H.MaskSecret, hidden_residuals.HiddenResiduals)
    ),
    *(
        ("host1", k)
        for k in (start.FitReady, fellows.FellowKey, masked_scores.HeldOutScores, glm.FitKept)
    ),
]


@pytest.mark.parametrize(
    ("who", "kind"), LEAVES, ids=[f"{who} before {kind.__name__}" for who, kind in LEAVES]
)
def test_who_is_left_alone_ends(who, kind):
    """One party's connections break just before it sends its first message of a kind. As in a job, a
    party that ends tells the others why."""
    # Only poisson's guest sends parts of scores.
    job = SMALL_OF_THREE["poisson" if kind is hidden_residuals.ScorePart else "logistic"]
    ends: dict[str, VflError | None] = {}

    async def party(name: str, peers: dict[str, MemoryPeer]) -> None:
        def leave(way: str, message: str, payload: bytes) -> None:
            if name == who and way == "sent" and message == kind.__name__:
                raise Left

        for peer in peers.values():
            peer.observers.append(leave)
        ends[name] = None
        try:
            await telling(role(job, name, peers), list(peers.values()))
        except Left:
            for peer in peers.values():
                await peer.close()
        except VflError as error:
            ends[name] = error

    async def all_of_them() -> None:
        await together(party(name, peers) for name, peers in sessions(job).items())

    asyncio.run(all_of_them())
    left = {name: end for name, end in ends.items() if name != who}
    assert any(isinstance(end, PeerLost) for end in left.values())
    # Whoever has nothing to wait for any more is done.
    done = {masked_scores.HeldOutScores: {LEAD, "host2"}, glm.FitKept: {LEAD, "host2"}}.get(kind, set())
    for name, end in left.items():
        assert isinstance(end, PeerLost | PeerStopped) or (name in done and end is None)


# Kernels.


VALUES = [0, 1, -1, 12345, -(2**200), 2**200, N // 2, -(N // 2)]


def test_concealing_changes_bytes_and_not_the_plaintext(public):
    for before in (KEY.encrypt(VALUES), public.unsafe_encrypt(VALUES), public.encrypt(VALUES)):
        once, twice = public.conceal(before), public.conceal(before)
        assert KEY.decrypt(once) == KEY.decrypt(twice) == VALUES
        rows = [row.tobytes() for part in (before, once, twice) for row in part]
        assert len(set(rows)) == 3 * len(VALUES)
    assert public.conceal(public.encrypt([])).shape == (0, WIDTH)


def test_times_is_the_product_of_integers(public):
    rng = np.random.default_rng(4)
    plain = [0, 1, -1, *(int(x) for x in rng.integers(-(2**62), 2**62, 12))]
    factors = [-7, 0, -1, *(int(x) for x in rng.integers(-(2**62), 2**62, 12))]
    found = public.times(KEY.encrypt(plain), factors)
    assert KEY.decrypt(found) == [a * b for a, b in zip(plain, factors, strict=True)]
    # Beyond half of the plaintexts they wrap.
    assert KEY.decrypt(public.times(KEY.encrypt([N // 2]), [2])) == [-1]
    with pytest.raises(ValueError, match="zip"):
        public.times(KEY.encrypt([1, 2]), [3])


@pytest.mark.parametrize("count", [0, 1, 150])
@pytest.mark.parametrize("with_factors", [True, False])
def test_products_and_sums_of_many(public, count, with_factors):
    """In tasks of 128."""
    rng = np.random.default_rng([count, with_factors])
    plain, factors, summands = ([int(x) for x in rng.integers(-(2**40), 2**40, count)] for _ in range(3))
    operations = Operations()

    async def work() -> Any:
        async with hidden_glm.Workers(public, ONE_PROCESS, operations) as pool:
            encrypted = await conceal(pool, plain, None)
            other = factors if with_factors else None
            return encrypted, await times_and_conceal(pool, encrypted, other, summands, None)

    encrypted, found = asyncio.run(work())
    assert KEY.decrypt(encrypted) == plain
    expected = [
        p * (f if with_factors else 1) + s for p, f, s in zip(plain, factors, summands, strict=True)
    ]
    assert KEY.decrypt(found) == expected
    assert operations["encrypt"] == operations["conceal"] == count
    assert operations["multiply"] == count * with_factors
    # Neither a ciphertext nor a sum is without an obfuscator.
    units = [c % N for part in (encrypted, found) for c in KEY.public.integers(part)]
    assert 1 not in units and len(set(units)) == len(units)
    assert all(a != b for a, b in pairwise(units))
