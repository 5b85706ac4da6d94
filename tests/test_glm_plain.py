"""The fit with all columns in one place: bit for bit the one of the protocol."""

import asyncio

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from memory import over_memory
from paillier_key import KEY
from test_glm import Job, mixed

from vfl.errors import ConfigError, DataError
from vfl.learn.design import FRACTION_BITS, Matrix
from vfl.learn.losses import loss_of
from vfl.learn.params import GlmParams
from vfl.protocols.common.participant import Participant
from vfl.protocols.common.rows import Training
from vfl.protocols.linear import lattice_products
from vfl.protocols.linear import plain as glm_plain
from vfl.protocols.linear.fit import Fit
from vfl.protocols.linear.fitting import guest_fit
from vfl.protocols.linear.host_fitting import host_fit
from vfl.protocols.linear.plain import ExactProduct, plain_fit

pytestmark = pytest.mark.usefixtures("quick_key", "small_batches")


def job(family: str, hosts: int, rows: int = 300, **params) -> Job:
    rng = np.random.default_rng(7)
    tables = {name: mixed(rng, rows, i) for i, name in enumerate(["guest", "a", "b"][: hosts + 1])}
    effect = 0.3 * sum(table[f"x{i}"] for i, table in enumerate(tables.values()))
    offset = rng.normal(size=rows) / 4
    label = {
        "logistic": lambda: (rng.random(rows) < 1 / (1 + np.exp(-effect))).astype(float),
        "poisson": lambda: rng.poisson(np.exp(effect + offset)).astype(float),
        "gaussian": lambda: 1e3 * effect + rng.normal(size=rows),
    }[family]()
    train = rng.random(rows) < 0.8
    training = Training(label, rng.uniform(0.5, 2, rows), train, ~train, loss_of(family), offset)
    return Job(tables, training, GlmParams(**params))


def federated(job: Job) -> tuple[Fit, dict[str, np.ndarray]]:
    """The fit over memory, under the job's encryption."""

    guest, *hosts = job.tables
    key = None if job.params.encryption == "lattice" else KEY
    own = {guest: job.matrices[guest]}

    def host(name, peer):
        participant = Participant(name, hosts, b"job")
        return host_fit(peer, job.count, lambda train: job.matrix(name, train), job.params, participant)

    fit, *theirs = over_memory(
        hosts,
        lambda peers: guest_fit(peers, own, job.rows, job.params, key=key),
        host,
        guest=guest,
    )
    return fit, dict(zip(hosts, theirs, strict=True))


def plain(job: Job, progress=lambda _: None) -> tuple[Fit, dict[str, np.ndarray]]:
    guest, *hosts = job.tables
    theirs = {name: job.matrices[name] for name in hosts}
    own = {guest: job.matrices[guest]}
    return asyncio.run(plain_fit(own, theirs, job.rows, job.params, progress))


@pytest.mark.parametrize(
    ("family", "hosts", "params"),
    [
        ("poisson", 2, {"max_iterations": 4}),
        ("logistic", 1, {"alpha": 0.01, "max_iterations": 3}),
        ("poisson", 2, {"encryption": "lattice"}),
        ("gaussian", 1, {"encryption": "lattice", "fit_intercept": False}),
        ("logistic", 2, {"encryption": "lattice", "alpha": 0.1}),
    ],
)
def test_every_bit_is_that_of_the_protocol(family, hosts, params):
    apart, there = federated(job(family, hosts, **params))
    seen = []
    fit, here = plain(job(family, hosts, **params), seen.append)
    assert fit.intercept == apart.intercept
    assert (fit.iterations, fit.converged) == (apart.iterations, apart.converged)
    assert (fit.deviance, fit.explained, fit.gradient) == (
        apart.deviance,
        apart.explained,
        apart.gradient,
    )
    assert np.array_equal(fit.coefficients["guest"], apart.coefficients["guest"])
    assert here.keys() == there.keys()
    for name, coefficients in there.items():
        assert np.array_equal(here[name], coefficients)
    assert np.array_equal(fit.score, apart.score)  # of rows held out, too
    assert [step.iteration for step in seen] == list(range(fit.iterations + 1))


def test_it_is_the_pooled_fit_but_for_rounding():
    one = job("poisson", 2, tolerance=1e-9)
    pooled, coefficients = one.pooled()
    fit, theirs = plain(one)
    found = np.concatenate([fit.coefficients["guest"], *theirs.values()])
    # Two paths to one optimum, each within a gradient of 1e-9 of it.
    assert found == pytest.approx(coefficients, abs=1e-7)
    assert fit.score == pytest.approx(pooled.score, abs=1e-7)


def test_it_refuses_what_the_protocol_refuses(monkeypatch):
    with pytest.raises(DataError, match=r"a has 5 columns to fit \d+ rows with"):
        plain(job("poisson", 2, rows=20, alpha=1))

    def too_many(rows, params):
        raise ConfigError("not for so many rows")

    monkeypatch.setattr(lattice_products, "fit_shape", too_many)
    with pytest.raises(ConfigError, match="not for so many rows"):
        plain(job("poisson", 1, encryption="lattice"))


@settings(max_examples=60)
@given(st.integers(0, 2**32), st.integers(1, 200), st.integers(1, 62), st.integers(1, 50))
def test_products_are_exact(seed, rows, number_bits, residual_bits):
    rng = np.random.default_rng(seed)
    levels = (3, 1)
    codes = np.array([rng.integers(0, n + 1, rows) for n in levels], np.uint16)
    # 2^53 at most: what a float has room for, as in a design.
    integers = rng.integers(-(2**number_bits) + 1, 2**number_bits, (2, rows)) >> max(0, number_bits - 52)
    matrix = Matrix(codes, levels, integers / 2.0**FRACTION_BITS)
    r = rng.integers(-(2**residual_bits) + 1, 2**residual_bits, rows)
    expected = [
        sum(int(v) for v in r[codes[i] == k]) for i, n in enumerate(levels) for k in range(1, n + 1)
    ]
    expected = [float(value) / 8.0 for value in expected]
    expected += [
        float(sum(int(a) * int(b) for a, b in zip(x, r, strict=True))) / (8.0 * 2.0**FRACTION_BITS)
        for x in integers
    ]
    assert ExactProduct(matrix).times(r, 8.0).tolist() == expected


def test_products_over_more_rows_than_one_part(monkeypatch):
    monkeypatch.setattr(glm_plain, "_ROWS", 7)
    rng = np.random.default_rng(1)
    integers = rng.integers(-(2**30), 2**30, (1, 40))
    matrix = Matrix(np.zeros((0, 40), np.uint16), (), integers / 2.0**FRACTION_BITS)
    r = rng.integers(-(2**50), 2**50, 40)
    exact = sum(int(a) * int(b) for a, b in zip(integers[0], r, strict=True))
    assert ExactProduct(matrix).times(r, 1.0).tolist() == [float(exact) / 2.0**FRACTION_BITS]
