"""Linear models over the lattice engine: the same fit as pooled and under Paillier; hostile peers."""

import asyncio
import dataclasses
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
from federation import GLM_JOB, Federation
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from scipy.stats import binomtest, kstest
from test_glm import (
    Job,
    against,
    assert_same,
    make_job,
    mixed,
    odd_tables,
    replaced,
)
from test_glm_jobs import latest, parts
from test_resume import Ends, Role, Run, plain

from vfl.crypto import powers
from vfl.errors import ConfigError, DataError, PeerError
from vfl.jobs.alignments import load_alignment
from vfl.jobs.hints import StoredGuestHints, StoredHostHints
from vfl.jobs.labels_given import LabelsGiven
from vfl.learn.design import Matrix
from vfl.learn.params import GlmParams
from vfl.net.peer import MemoryPeer, together
from vfl.net.wire import Message, decode
from vfl.party.store import Store
from vfl.protocols.common.checkpoints import Checkpoints
from vfl.protocols.common.course import NO_HINTS, GuestCourse
from vfl.protocols.common.lattice_hints import HintOffered
from vfl.protocols.common.lattice_sums import BATCH, Query, Vectors, VectorSums
from vfl.protocols.common.participant import Resources
from vfl.protocols.linear import lattice_products, products
from vfl.protocols.linear.fit import Fit, GuestFitState, HostFitState
from vfl.protocols.linear.fitting import guest_fit
from vfl.protocols.linear.lattice_products import (
    BitMatrix,
    Digits,
    OpenedSums,
    _most_bits,
    cut_words,
    fit_shape,
)

pytestmark = pytest.mark.usefixtures("quick_key", "small_batches")


def lattice(job: Job) -> Job:
    return job.with_params(encryption="lattice")


# --- Digits. --------------------------------------------------------------------------------------


@given(
    rows=st.integers(1, 1 << 24),
    values=st.lists(st.integers(-(1 << 40), 1 << 40), min_size=1, max_size=20),
)
def test_digits_fit_and_join(rows: int, values: list[int]) -> None:
    digits = Digits.of(rows)
    cut = digits.cut(np.array([*values, 1 << 40, -(1 << 40)]))
    assert cut.shape == (digits.count, len(values) + 2)
    assert np.abs(cut).max() < 1 << (digits.value_bits - 1)
    assert digits.join(cut) == [*values, 1 << 40, -(1 << 40)]
    assert digits.count <= BATCH


def test_fewer_rows_take_fewer_digits() -> None:
    counts = [Digits.of(rows).count for rows in (100, 10_000, 1_000_000, 20_000_000)]
    assert counts == sorted(counts) and counts[0] == 2
    _, shape = fit_shape(1_000_000, GlmParams(max_iterations=10))
    assert shape.vectors == 11 * Digits.of(1_000_000).count


def test_too_many_rows_are_refused_before_anything_is_sent() -> None:
    with pytest.raises(
        ConfigError, match=r"^encryption = .lattice. of \[glm\] is not for so many rows: "
    ):
        Digits.of(1 << 30)


@settings(max_examples=60)
@given(seed=st.integers(0, 2**32), rows=st.integers(1, 60), levels=st.integers(0, 300))
def test_the_matrix_by_bits_is_the_design_matrix(seed: int, rows: int, levels: int) -> None:
    """On integers, at the bounds of what numbers of so many rows can be."""
    rng = np.random.default_rng(seed)
    far = int(math.sqrt(rows) * 2**24)
    integers = rng.integers(-far, far + 1, (2, rows))
    integers[0, 0], integers[1, -1] = -far, far
    codes = rng.integers(0, levels + 1, (1 if levels else 0, rows)).astype(np.uint16)
    own = Matrix(codes, (levels,) if levels else (), integers / 2**24)
    bits, r = BitMatrix.of(own), rng.integers(-(1 << 20), 1 << 20, rows)
    assert bits.matrix.weight == 1 and max(bits.bits) <= _most_bits(rows)
    # Of each column of the sums its cells, as the engine adds them up.
    cells = np.concatenate(
        [np.bincount(c.codes, r.astype(float), c.bins).astype(np.int64) for c in bits.matrix.columns]
    )
    sums = bits.matrix.map(cells.view(np.uint64)[:, None])[:, 0].view(np.int64)
    expected = [float(r[codes[0] == k].sum()) for k in range(1, levels + 1)] + [
        float(sum(int(x) * int(v) for x, v in zip(column, r, strict=True))) / 2**24
        for column in integers
    ]
    assert bits.product(sums.tolist(), 1.0, 40).tolist() == expected


# --- The fit. -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("family", "hosts", "alpha"),
    [
        ("logistic", 1, 0.01),
        ("poisson", 2, 0.0),
        ("gamma", 2, 0.0),
        ("tweedie", 3, 0.01),
        ("gaussian", 3, 0.0),
    ],
)
def test_federated_equals_pooled(family: str, hosts: int, alpha: float) -> None:
    job = lattice(make_job(family, hosts + 1, seed=hosts, alpha=alpha, tolerance=1e-6))
    assert_same(job, job.federated())


@pytest.mark.parametrize("family", ["poisson", "gaussian"])
def test_federated_equals_pooled_of_odd_tables(family: str) -> None:
    job = lattice(make_job(family, odd_tables(), spread=0.1))
    assert_same(job, job.federated())


def test_federated_equals_pooled_over_several_blocks_of_rows() -> None:
    job = lattice(make_job("poisson", 2, rows=9000, seed=4, tolerance=1e-6, fit_intercept=False))
    assert_same(job, job.federated())


@pytest.mark.parametrize("family", ["logistic", "gamma"])
def test_the_fit_is_that_under_paillier_bit_for_bit(family: str) -> None:
    """If residuals are rounded to as many bits: gradients under both encryptions are exact."""
    job = make_job(family, 3, rows=150, alpha=0.01, tolerance=1e-4)
    with (
        mock.patch.object(products, "ROW_BITS", lattice_products.ROW_BITS),
        mock.patch.object(powers, "_TABLE_BYTES", 4_000_000),
    ):
        fit, beta = job.federated()
    found, coefficients = lattice(job).federated()
    assert np.array_equal(coefficients, beta) and found.intercept == fit.intercept
    assert np.array_equal(found.score, fit.score)


def test_hidden_scores_are_under_paillier() -> None:
    hidden = {"scores": "hidden", "coordinator": "umpire"}
    with pytest.raises(ValidationError, match='scores = "hidden" is for encryption = "paillier"'):
        GlmParams(encryption="lattice", **hidden)
    with pytest.raises(ValidationError, match='max_labels is for scores = "guest"'):
        GlmParams(max_labels=0.5, **hidden)
    assert GlmParams(**hidden).encryption == "paillier"
    with pytest.raises(ValidationError, match=r"Input should be .paillier. or .lattice."):
        GlmParams(encryption="rsa")


# --- What is on the wire. -------------------------------------------------------------------------

KINDS: list[type[Message]] = [OpenedSums, HintOffered, Query, Vectors, VectorSums]


@dataclasses.dataclass
class Recorded:
    """Messages of these kinds, with the host's name; the names of all kinds that were sent; the words
    that the guest read."""

    messages: list[tuple[str, Message]]
    names: set[str]
    words: np.ndarray


def record(job: Job) -> Recorded:
    messages: list[tuple[str, Message]] = []
    names: set[str] = set()
    read: list[np.ndarray] = []

    def watch(host: str, way: str, kind: str, payload: bytes) -> None:
        names.add(kind)
        if kind in {known.__name__ for known in KINDS}:
            messages.append((host, decode(payload, KINDS)))

    def cut(words: np.ndarray, *how: Any) -> np.ndarray:
        read.append(words.ravel())
        return cut_words(words, *how)

    with mock.patch.object(lattice_products, "cut_words", cut):
        job.federated(watch=watch)
    return Recorded(messages, names, np.concatenate(read))


@pytest.fixture(scope="module")
def runs() -> list[Recorded]:
    """The same job of two hosts twice."""
    rng = np.random.default_rng(2)
    tables = {"guest": mixed(rng, 300, 0)} | {f"host{k}": mixed(rng, 300, k, levels=15) for k in (1, 2)}
    job = lattice(make_job("poisson", tables, 300, alpha=0.01, tolerance=1e-4))
    return [record(job), record(job)]


def test_what_the_guest_opens_is_uniform(runs: list[Recorded]) -> None:
    """Whole words under masks, as likely at the top of what a word holds as at its bottom."""
    words = np.concatenate([run.words for run in runs])
    assert len(words) > 2000
    assert kstest(words / 2.0**64, "uniform").pvalue > 1e-9
    # The noise and the flooding above it are masked as well.
    for bit in range(64):
        ones = int(np.sum(words >> np.uint64(bit) & np.uint64(1)))
        assert binomtest(ones, len(words)).pvalue > 1e-9 / 64
    # Two runs of the same job, and digits of the same sums, share none.
    assert len(np.unique(words)) == len(words)


def test_one_encryption_serves_all_hosts_and_no_key_is_sent(runs: list[Recorded]) -> None:
    for run in runs:
        messages, names = run.messages, run.names
        own = [
            [bytes(m.data) for host, m in messages if host == name and isinstance(m, Vectors)]
            for name in ("host1", "host2")
        ]
        assert own[0] == own[1] and len(set(own[0])) == len(own[0])
        assert not names & {"Key", "Residuals", "MaskedProducts", "OpenedProducts"}
        counts = [m.vectors for _, m in messages if isinstance(m, Query)]
        # The trial on zeros apart, as many as residuals of their precision need.
        assert min(counts) < max(counts) == Digits.of(240).count == 3
    assert not {bytes(m.data) for _, m in runs[0].messages if isinstance(m, Vectors)} & {
        bytes(m.data) for _, m in runs[1].messages if isinstance(m, Vectors)
    }


# --- Hostile peers. -------------------------------------------------------------------------------

SMALL = lattice(make_job("poisson", 2, rows=100, alpha=0.01, tolerance=1e-3))

LIES: list[tuple[str, type[Message], dict[str, Any], str]] = [
    ("guest", OpenedSums, {"sums": lambda s: s[:-8]}, "OpenedSums of another number"),
    ("guest", OpenedSums, {"sums": lambda s: s + bytes(8)}, "OpenedSums of another number"),
    ("guest", OpenedSums, {"sums": b""}, "OpenedSums of another number"),
    ("guest", OpenedSums, {"sums": lambda s: bytes(len(s))}, "OpenedSums with numbers that are no mas"),
    *(
        ("guest", OpenedSums, {"scale": scale}, "OpenedSums of another number")
        for scale in (0.0, -1.0, math.inf, math.nan)
    ),
    ("guest", Query, {"vectors": 1}, "a Query of another number of vectors than"),
    ("guest", Vectors, {"data": lambda d: d[:-1]}, "Vectors with"),
    ("host1", VectorSums, {"data": lambda d: d[:-1]}, "VectorSums with"),
    ("host1", VectorSums, {"data": lambda d: b"\x55" * len(d)}, "VectorSums with"),
]


@pytest.mark.usefixtures("hints_made_once")
@pytest.mark.parametrize(
    ("liar", "kind", "fields", "what"),
    LIES,
    ids=[f"{lie[1].__name__}-{k}" for k, lie in enumerate(LIES)],
)
def test_a_lie_is_refused_by_name(
    liar: str, kind: type[Message], fields: dict[str, Any], what: str
) -> None:
    with pytest.raises(PeerError, match=f"^{liar} broke the protocol: it sent {what}"):
        against(liar, kind, replaced(**fields), SMALL)


def test_vectors_are_no_more_than_residuals_have_digits() -> None:
    # The first query is of zeros.
    seen: list[Message] = []

    def change(query: Any) -> Message:
        seen.append(query)
        return query if len(seen) == 1 else Query(9)

    with pytest.raises(PeerError, match=r"^guest .* a Query of more vectors than residuals have digits"):
        against("guest", Query, change, SMALL)


def test_more_sums_than_its_columns_have_are_refused() -> None:
    """They would be opened for another purpose."""
    whole = BitMatrix.of

    def wide(own: Matrix) -> BitMatrix:
        bits = whole(own)
        more = dataclasses.replace(
            bits.matrix.outputs,
            starts=np.arange(1001),
            at=np.arange(1000) % bits.matrix.cells,
            weights=np.ones(1000, np.int64),
        )
        return dataclasses.replace(bits, matrix=dataclasses.replace(bits.matrix, outputs=more))

    with (
        mock.patch.object(lattice_products.BitMatrix, "of", wide),
        pytest.raises(PeerError, match=r"^host1 .* a HintOffered of other sums than its columns have$"),
    ):
        against("host1", job=SMALL)


def test_columns_of_too_many_sums_are_an_error_of_the_hosts_own_data() -> None:
    rows = 10
    own = Matrix(np.zeros((2, rows), np.uint16), (40_000, 40_000), np.zeros((0, rows)))
    far = Matrix(np.zeros((0, rows), np.uint16), (), np.full((1, rows), 1e6))
    for matrix, said in ((own, "80,000 sums, one a level"), (far, "a number of 44 bits, where 2")):
        with pytest.raises(DataError, match=f'^columns cannot be used under encryption = "l.*{said}'):
            asyncio.run(_serve(matrix))


async def _serve(matrix: Matrix) -> None:
    _, to_guest = MemoryPeer.pair("guest", "host1")
    made = lattice_products.lattice_host(
        to_guest, matrix, GlmParams(), Resources(), NO_HINTS, lambda done, of: None
    )
    async with made:
        pass


# --- Hints, and going on after a kill. ------------------------------------------------------------


def run_of(job: Job, folder: Path, made: Callable[[int, int], None] = lambda done, of: None) -> Run:
    """The fit with all that its parties keep."""
    name, *hosts = job.tables
    shelf = StoredGuestHints(Store(folder / "hints"), "aligned-1 glm", {host: host for host in hosts})
    labels = LabelsGiven(Store(folder / name), "aligned-1", "digest")

    def guest(ends: Ends, kept: Any, done: int) -> Any:
        return guest_fit(
            [ends[host] for host in hosts],
            {name: job.matrices[name]},
            job.rows,
            job.params,
            course=GuestCourse(checkpoints=kept, hints=shelf, hint_progress=made, labels=labels),
        )

    def host(own: str) -> Role:
        hints = StoredHostHints(Store(folder / f"hints of {own}"), "aligned-1 glm", name)
        return lambda ends, kept, done: job.host(ends[name], own, hints=hints, checkpoints=kept)

    roles: dict[str, Role] = {name: guest, **{own: host(own) for own in hosts}}
    return Run(roles, {name: GuestFitState, **dict.fromkeys(hosts, HostFitState)}, folder)


def test_a_fit_goes_on_after_kills_at_any_message(tmp_path: Path) -> None:
    job = lattice(make_job("poisson", 3, rows=120, tolerance=1e-4))
    undisturbed = run_of(job, tmp_path / "whole").attempt()
    killed = run_of(job, tmp_path / "killed")
    survived = killed.survive(seed=1, kills=5, messages=45)
    assert undisturbed is not None
    for party, outcome in undisturbed.items():
        (one,), (other,) = survived[party], outcome
        if isinstance(other, Fit):  # what was opened twice counts twice
            assert one.readable >= other.readable > 0
            one = dataclasses.replace(one, readable=other.readable)
        assert plain(one) == plain(other), party
    assert len(set(killed.begun)) > 1


def test_hints_are_used_again_for_the_same_rows_and_columns(tmp_path: Path) -> None:
    job, made = lattice(make_job("gamma", 2, rows=120, tolerance=1e-3)), []

    async def fit(job: Job) -> int:
        made.clear()
        run = run_of(job, tmp_path, lambda done, of: made.append(of))
        to_host, to_guest = MemoryPeer.pair("guest", "host1")
        await together(
            [
                run.roles["guest"]({"host1": to_host}, Checkpoints(), 0),
                run.roles["host1"]({"guest": to_guest}, Checkpoints(), 0),
            ]
        )
        return len(made)

    assert asyncio.run(fit(job)) > 0
    assert asyncio.run(fit(job.with_params(alpha=0.1, tolerance=1e-2))) == 0
    train = np.roll(job.rows.train, 1)
    other = dataclasses.replace(job, rows=dataclasses.replace(job.rows, train=train))
    assert asyncio.run(fit(other)) > 0


# --- A job of three processes. --------------------------------------------------------------------


@pytest.mark.slow
def test_a_job_of_three_processes(keys: Path, tmp_path: Path) -> None:
    made = Federation(tmp_path, keys)
    hosts = ("registry", "bureau")
    for host in hosts:
        made.parties[host].settings["policy"]["encryptions"] = ["lattice"]
    job = {**GLM_JOB, "glm": {**GLM_JOB["glm"], "encryption": "lattice"}}
    try:
        insurer = made.serve().guest
        insurer.align().ok()
        first, again = (insurer.train(job).ok().json for _ in range(2))
        halves, matrices, found = zip(*parts(made, insurer, first["model"]), strict=True)
        for (_, _, one), other in zip(parts(made, insurer, again["model"]), found, strict=True):
            assert np.array_equal(one, other)
    finally:
        made.close()
    # The second time the hints are there.
    for host in hosts:
        assert first["bytes_received"][host] > 1_000_000 > 2 * again["bytes_received"][host]
    # It is the optimum: the gradient of the pooled columns is next to 0.
    rows = load_alignment(Store(insurer.store), latest(insurer)).rows
    train = np.random.default_rng([0, 1]).random(len(made.tables["insurer"]["claim"]))[rows] >= 0.25
    label = np.array(made.tables["insurer"]["claim"], float)[rows][train]
    columns = np.hstack(matrices)[train]
    score = columns @ np.concatenate(found) + halves[0].model.intercept
    residual = 1 / (1 + np.exp(-score)) - label
    assert first["converged"] and len(label) == first["rows"]["train"]
    assert np.abs(columns.T @ residual).max() / len(label) < 1.1 * GLM_JOB["glm"]["tolerance"]
