"""The penalty that is chosen by rows left out of fits: as by fits of each fold, over parties or not."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
import pytest
from glum import GeneralizedLinearRegressor
from memory import over_memory
from pydantic import ValidationError
from sklearn.metrics import mean_poisson_deviance
from test_glm import KEY, SMALL, against, make_job, replaced

import vfl
from vfl.errors import ConfigError, PeerError
from vfl.learn.params import GlmParams
from vfl.net.peer import MemoryPeer
from vfl.protocols.common.checkpoints import Checkpoints
from vfl.protocols.common.course import GuestCourse
from vfl.protocols.linear.fitting import guest_fit
from vfl.protocols.linear.fitting_messages import NextPenalty
from vfl.protocols.linear.penalty_path import chosen, folds_of

ROWS = 400
ALPHAS = (0.001, 0.02, 0.5)


def tables(seed: int = 0) -> tuple[pd.DataFrame, pd.DataFrame, np.ndarray]:
    """Many numbers of which few tell anything, so that a penalty is of use."""
    rng = np.random.default_rng(seed)
    ids = [f"policy {k}" for k in range(ROWS)]
    guest = pd.DataFrame(rng.normal(size=(ROWS, 4)), ids, [f"x{k}" for k in range(4)])
    host = pd.DataFrame(rng.normal(size=(ROWS, 6)), ids, [f"z{k}" for k in range(6)])
    label = rng.poisson(np.exp(-0.5 + 0.6 * guest["x0"] + 0.5 * host["z0"])).astype(float)
    return guest, host, label


def fitted(**settings):
    guest, host, label = tables()
    model = vfl.FederatedGLM(family="poisson", hosts={"host": host}, **{"tolerance": 1e-9, **settings})
    return model.fit(guest, label)


def test_it_is_the_one_that_fits_of_each_fold_favour() -> None:
    model = fitted(alphas=ALPHAS, folds=4)
    guest, host, label = tables()
    dense = np.hstack([guest, host])
    dense = (dense - dense.mean(axis=0)) / dense.std(axis=0)
    folds = folds_of(label, np.ones(ROWS), 4, 0)
    expected = {}
    for alpha in ALPHAS:
        found = []
        for fold in range(4):
            rest = folds != fold
            one = GeneralizedLinearRegressor(
                family="poisson", alpha=alpha, l1_ratio=0, gradient_tol=1e-10, max_iter=500
            ).fit(dense[rest], label[rest])
            found.append(mean_poisson_deviance(label[~rest], one.predict(dense[~rest])))
        expected[alpha] = np.mean(found), np.std(found, ddof=1) / 2
    tried = model.alphas_.set_index("alpha")
    assert [*tried.index] == sorted(ALPHAS, reverse=True)
    for alpha, (mean, error) in expected.items():
        assert tried.loc[alpha, "deviance"] == pytest.approx(mean, rel=1e-6)
        assert tried.loc[alpha, "standard_error"] == pytest.approx(error, rel=1e-4)
    assert model.alpha_ == min(expected, key=lambda alpha: expected[alpha][0]) == 0.02


@pytest.mark.parametrize("shrink_to", ["base", "mean"])
def test_the_model_is_that_of_a_job_with_this_penalty(shrink_to) -> None:
    model = fitted(alphas=ALPHAS, folds=3, shrink_to=shrink_to)
    alone = fitted(alpha=model.alpha_, shrink_to=shrink_to)
    assert model.intercept_ == alone.intercept_ and alone.alphas_ is None
    for name in model.coef_:
        pd.testing.assert_series_equal(model.coef_[name], alone.coef_[name], check_exact=True)


@pytest.mark.usefixtures("quick_key")
@pytest.mark.slow
def test_parties_apart_choose_and_fit_the_same() -> None:
    settings = {"alphas": ALPHAS[:2], "folds": 2, "tolerance": 1e-2}
    plain, protocol = (fitted(engine=engine, **settings) for engine in ("plain", "protocol"))
    pd.testing.assert_frame_equal(plain.alphas_, protocol.alphas_, check_exact=True)
    assert plain.intercept_ == protocol.intercept_
    for name in plain.coef_:
        pd.testing.assert_series_equal(plain.coef_[name], protocol.coef_[name], check_exact=True)


def test_the_greatest_within_a_standard_error() -> None:
    path = (1.0, 0.1, 0.01)
    deviances = np.array([[1.0, 0.9, 0.8], [1.0, 0.9, 1.0]])
    sizes = np.array([1.0, 1.0])
    assert chosen(path, deviances, sizes, False).alpha == 0.1  # of equal ones the greater
    assert chosen(path, deviances - [0, 0, 0.01], sizes, False).alpha == 0.01
    assert chosen(path, deviances - [0, 0, 0.01], sizes, True).alpha == 0.1
    far = np.array([[np.inf, 0.9, 0.8], [1.0, 0.9, 0.8]])
    assert chosen(path, far, sizes, True).alpha == 0.01


def test_folds_have_as_many_claims_each() -> None:
    label = (np.arange(100) < 10).astype(float)
    weight = np.where(np.arange(100) == 99, 0.0, 1.0)
    folds = folds_of(label, weight, 5, 1)
    assert folds[99] == -1
    assert np.bincount(folds[:99]).tolist() in ([20, 20, 20, 20, 19], [20] * 4 + [19])
    assert np.bincount(folds[:10]).tolist() == [2] * 5


def test_settings_that_do_not_go_together() -> None:
    for settings, said in (
        ({"alphas": [0.1], "alpha": 1.0}, "in place of alpha"),
        ({"alphas": [0.1], "scores": "hidden", "coordinator": "c"}, "write alpha"),
        ({"one_standard_error": True}, "name the penalties"),
        ({"alphas": [0.0, 0.1]}, "above 0"),
    ):
        with pytest.raises(ValidationError, match=said):
            GlmParams(**settings)


def test_folds_without_a_claim_are_refused() -> None:
    guest, host, _ = tables()
    label = np.zeros(ROWS)
    label[3] = 1
    model = vfl.FederatedGLM(family="poisson", hosts={"host": host}, alphas=ALPHAS)
    with pytest.raises(ConfigError, match="lower folds"):
        model.fit(guest, label)


# Over messages.

PATH = SMALL.with_params(alpha=0.0, alphas=(0.1, 0.01), folds=2)


@pytest.mark.usefixtures("quick_key")
@pytest.mark.parametrize("alpha", [0.3, np.nan, 0.0])
def test_a_penalty_that_the_job_does_not_name_is_refused(alpha: float) -> None:
    with pytest.raises(PeerError, match="a NextPenalty that the job does not name"):
        against("guest", NextPenalty, replaced(alpha=alpha), job=PATH)


@pytest.mark.usefixtures("quick_key")
def test_more_fits_than_the_job_has_are_refused() -> None:
    with pytest.raises(PeerError, match="more fits than the job has"):
        against("guest", job=PATH, guest_job=PATH.with_params(folds=3))


@pytest.mark.usefixtures("quick_key")
def test_nothing_follows_the_fit_that_is_kept() -> None:
    with pytest.raises(PeerError, match=r"it sent NextPenalty where (FitNext|Combine) or FitEnd"):
        against("guest", NextPenalty, replaced(chosen=True), job=PATH)
    with pytest.raises(PeerError, match="it sent NextPenalty where FitNext or FitEnd"):
        against("guest", job=SMALL, guest_job=PATH)


@pytest.mark.usefixtures("quick_key")
def test_who_goes_on_from_a_checkpoint_ends_with_the_same_model() -> None:
    """The choice is not made again: it is in the guest's state."""
    job = make_job("poisson", 2, rows=150, alphas=(0.1, 0.01), folds=2, tolerance=1e-4)
    states: dict[str, list[Any]] = {"guest": [], "host1": []}
    sent: list[str] = []

    def run(last: Mapping[str, Any]) -> tuple[Any, np.ndarray]:
        def kept(name: str) -> Checkpoints[Any]:
            return Checkpoints(last.get(name), states[name].append)

        def watched(to_host: MemoryPeer, _: MemoryPeer) -> None:
            to_host.observers.append(lambda way, kind, payload: sent.append(kind))

        fit, beta = over_memory(
            ["host1"],
            lambda peers: guest_fit(
                *(peers, {"guest": job.matrices["guest"]}, job.rows, job.params),
                key=KEY,
                course=GuestCourse(checkpoints=kept("guest")),
            ),
            lambda name, peer: job.host(peer, name, checkpoints=kept(name)),
            opened=watched,
        )
        return fit, beta

    whole, beta = run({})
    assert sent.count("NextPenalty") == 2 * 2 + 1
    half = len(states["guest"]) // 2
    again = {name: own[half] for name, own in states.items()}
    assert again["guest"].choice == whole.choice
    sent.clear()
    fit, found = run(again)
    assert sent.count("NextPenalty") == 1
    np.testing.assert_array_equal(found, beta)
    np.testing.assert_array_equal(fit.coefficients["guest"], whole.coefficients["guest"])
    assert fit.intercept == whole.intercept and fit.choice == whole.choice


def test_rows_of_one_group_are_left_out_together() -> None:
    rng = np.random.default_rng(7)
    together = rng.integers(0, 60, 500)
    label = (rng.random(500) < 0.1).astype(float)
    weight = np.where(np.arange(500) % 50 == 0, 0.0, 1.0)
    folds = folds_of(label, weight, 4, 0, together)
    assert (folds[weight == 0] == -1).all() and {*folds[weight > 0]} == {0, 1, 2, 3}
    for group in range(60):
        assert len({*folds[(together == group) & (weight > 0)]}) <= 1
    sizes = np.bincount(folds[weight > 0])
    assert sizes.min() > 0.7 * sizes.max()
    # By the estimator, too.
    guest, host, counts = tables()
    model = vfl.FederatedGLM(family="poisson", hosts={"host": host}, alphas=ALPHAS, folds=3)
    grouped = model.fit(guest, counts, groups=np.arange(ROWS) // 100).alphas_
    assert not grouped.equals(model.fit(guest, counts).alphas_)
