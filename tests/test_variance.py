"""Families with a parameter of the variance: negative binomial, Tweedie, and what is estimated of it."""

import dataclasses

import glum
import numpy as np
import pandas as pd
import pytest
from pydantic import ValidationError
from scipy.optimize import minimize, minimize_scalar
from scipy.stats import nbinom

import vfl
from vfl.errors import ConfigError
from vfl.learn.likelihood import likeliest, tweedie_likelihood
from vfl.learn.losses import NegativeBinomialLoss, PoissonLoss, TweedieLoss
from vfl.learn.params import GlmParams
from vfl.learn.residuals import quantile_residuals

ROWS = 1200


def tables(family: str, seed: int = 0) -> tuple[pd.DataFrame, pd.DataFrame, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    ids = [f"policy {k}" for k in range(ROWS)]
    guest = pd.DataFrame({"age": rng.normal(size=ROWS)}, ids)
    host = pd.DataFrame({"power": rng.normal(size=ROWS), "x": rng.normal(size=ROWS)}, ids)
    mean = np.exp(0.3 + 0.4 * guest["age"] - 0.3 * host["power"]).to_numpy()
    if family in ("negative_binomial", "poisson"):
        label = rng.poisson(mean * rng.gamma(2, 1 / 2, ROWS)).astype(float)
    else:
        power, phi = 1.4, 1.2
        claims = rng.poisson(mean ** (2 - power) / (phi * (2 - power)))
        size, shape = phi * (power - 1) * mean ** (power - 1), (2 - power) / (power - 1)
        label = np.array([s * rng.gamma(shape, 1, n).sum() for n, s in zip(claims, size, strict=True)])
    dense = np.column_stack([np.ones(ROWS), guest, host])
    return guest, host, label, dense


def fitted(family: str, **settings):
    guest, host, label, _ = tables(family)
    model = vfl.FederatedGLM(family=family, hosts={"host": host}, **{"tolerance": 1e-9, **settings})
    return model.fit(guest, label)


# The loss.


@pytest.mark.parametrize("theta", [1e-6, 0.3, 5.0])
def test_the_loss_is_the_negative_binomial_deviance(theta: float) -> None:
    loss, rng = NegativeBinomialLoss(theta), np.random.default_rng(1)
    label, score = rng.poisson(3, 50).astype(float), rng.normal(size=50)
    mean, size = np.exp(score), 1 / theta

    def log_chance(of: np.ndarray) -> np.ndarray:
        return nbinom.logpmf(label, size, size / (size + of))

    saturated = log_chance(np.where(label > 0, label, 1e-300))
    np.testing.assert_allclose(
        loss.half_deviance(score, label), saturated - log_chance(mean), rtol=1e-5, atol=1e-8
    )
    weight, step = rng.uniform(0.5, 2, 50), 1e-5
    slope, curvature = loss.gradients(score, label, weight)
    ends = [loss.losses(score + way, label, weight) for way in (-step, step)]
    np.testing.assert_allclose(slope, (ends[1] - ends[0]) / (2 * step), rtol=1e-4, atol=1e-7)
    slopes = [loss.gradients(score + way, label, weight)[0] for way in (-step, step)]
    np.testing.assert_allclose(curvature, (slopes[1] - slopes[0]) / (2 * step), rtol=1e-4, atol=1e-7)
    np.testing.assert_allclose(loss.information(score, weight), weight * mean / (1 + theta * mean))
    far = loss.gradients(np.array([-800.0, 800.0]), np.array([2.0, 2.0]), np.ones(2))
    assert np.isfinite(far).all()


def test_its_constant_is_the_best_with_offsets() -> None:
    loss, rng = NegativeBinomialLoss(0.8), np.random.default_rng(2)
    offset, weight = rng.normal(size=200), rng.uniform(0.1, 2, 200)
    label = rng.poisson(2, 200).astype(float)
    at = loss.start(label, weight, offset)
    best = minimize_scalar(lambda c: loss.mean(offset + c, label, weight), bracket=(-1, 1), tol=1e-12)
    assert at == pytest.approx(best.x, abs=1e-6)
    assert abs(loss.gradients(offset + at, label, weight)[0].sum()) < 1e-9


def test_small_theta_is_poisson() -> None:
    rng = np.random.default_rng(3)
    label, score = rng.poisson(1, 100).astype(float), rng.normal(size=100)
    near, poisson = NegativeBinomialLoss(1e-7), PoissonLoss()
    np.testing.assert_allclose(
        near.half_deviance(score, label), poisson.half_deviance(score, label), rtol=1e-4, atol=1e-6
    )


# The fit.


def test_the_optimum_is_glums() -> None:
    model = fitted("negative_binomial", theta=0.7, alpha=0.01)
    guest, host, label, _ = tables("negative_binomial")
    columns = np.column_stack([guest, host])
    columns = (columns - columns.mean(axis=0)) / columns.std(axis=0)
    other = glum.GeneralizedLinearRegressor(
        family=glum.NegativeBinomialDistribution(0.7), alpha=0.01, l1_ratio=0, gradient_tol=1e-12
    ).fit(columns, label)
    beta = np.concatenate([model.coef_["guest"], model.coef_["host"]])
    np.testing.assert_allclose(beta, other.coef_, rtol=1e-5)
    assert model.intercept_ == pytest.approx(other.intercept_, rel=1e-6)


def test_theta_is_of_the_greatest_likelihood_of_all() -> None:
    model = fitted("negative_binomial", profile=True, inference=True)
    *_, label, dense = tables("negative_binomial")

    def minus(at: np.ndarray) -> float:
        mean, size = np.exp(dense @ at[:-1]), np.exp(-at[-1])
        return -nbinom.logpmf(label, size, size / (size + mean)).sum()

    best = minimize(minus, np.zeros(dense.shape[1] + 1), method="BFGS", options={"gtol": 1e-6})
    assert model.variance_parameter_ == pytest.approx(np.exp(best.x[-1]), rel=1e-4)
    assert model.model_.variance.log_likelihood == pytest.approx(-best.fun, rel=1e-9)
    assert model.model_.variance.settled
    assert model.fit_summary_.log_likelihood == pytest.approx(-best.fun, rel=1e-8)
    assert model.fit_summary_.likelihood_parameters == dense.shape[1] + 1
    # Other starts end there.
    again = fitted("negative_binomial", profile=True, theta=10.0)
    assert again.variance_parameter_ == pytest.approx(model.variance_parameter_, rel=1e-5)


def test_the_power_is_of_the_greatest_likelihood_of_all() -> None:
    model = fitted("tweedie", profile=True)
    *_, label, dense = tables("tweedie")

    def minus(at: np.ndarray) -> float:
        mean = np.exp(np.clip(dense @ at[:-2], -20, 20))
        power = 1 + 1 / (1 + np.exp(-at[-2]))
        return -tweedie_likelihood(label, mean, np.full(ROWS, np.exp(at[-1])), power)

    start = np.array([0.3, 0.4, -0.3, 0.0, 0.0, 0.0])
    best = minimize(minus, start, method="BFGS", options={"gtol": 1e-5})
    power = 1 + 1 / (1 + np.exp(-best.x[-2]))
    assert model.variance_parameter_ == pytest.approx(power, abs=1e-4)
    assert model.model_.variance.dispersion == pytest.approx(np.exp(best.x[-1]), rel=1e-3)
    assert model.model_.variance.log_likelihood == pytest.approx(-best.fun, rel=1e-8)
    assert model.model_.variance.settled
    # That it was made with.
    assert model.variance_parameter_ == pytest.approx(1.4, abs=0.06)


def test_the_density_is_a_sum_over_numbers_of_claims() -> None:
    """A Poisson number of gamma amounts, added up by their densities."""
    from scipy.stats import gamma, poisson

    for power, phi, mean in ((1.2, 0.5, 3.0), (1.5, 2.0, 1.0), (1.8, 0.05, 2.0)):
        rate = mean ** (2 - power) / (phi * (2 - power))
        shape, size = (2 - power) / (power - 1), phi * (power - 1) * mean ** (power - 1)
        label = np.array([0.0, 0.01, 0.7, mean, 4 * mean])
        numbers = np.arange(1, 400)
        positive = [
            np.log((poisson.pmf(numbers, rate) * gamma.pdf(y, numbers * shape, scale=size)).sum())
            for y in label[1:]
        ]
        for y, expected in zip(label, [-rate, *positive], strict=True):
            found = tweedie_likelihood(np.array([y]), np.array([mean]), np.array([phi]), power)
            assert found == pytest.approx(expected, rel=1e-9, abs=1e-9)


def test_the_likeliest_of_other_losses_is_refused() -> None:
    with pytest.raises(TypeError):
        likeliest(PoissonLoss(), np.ones(3), np.ones(3), np.zeros(3))
    with pytest.raises(ConfigError, match="profile"):
        fitted("poisson", profile=True)


@pytest.mark.usefixtures("quick_key")
def test_parties_apart_find_the_same() -> None:
    settings = {"profile": True, "tolerance": 1e-2}
    plain, protocol = (
        fitted("negative_binomial", engine=engine, **settings) for engine in ("plain", "protocol")
    )
    assert plain.variance_parameter_ == protocol.variance_parameter_
    assert plain.intercept_ == protocol.intercept_
    for name in plain.coef_:
        pd.testing.assert_series_equal(plain.coef_[name], protocol.coef_[name], check_exact=True)


def test_quasi_poisson_has_pearsons_dispersion() -> None:
    """Errors are those of Poisson times the root of Pearson's statistic over the freedom, as in R."""
    plain, quasi = (fitted("poisson", inference=True, dispersion=of) for of in ("family", "pearson"))
    guest, _, label, _ = tables("poisson")
    mean = plain.predict(guest)
    pearson = ((label - mean) ** 2 / mean).sum() / (ROWS - 4)
    assert quasi.fit_summary_.dispersion == pytest.approx(pearson, rel=1e-4)
    assert quasi.fit_summary_.estimated and quasi.fit_summary_.log_likelihood is None
    for name in plain.std_errors_:
        np.testing.assert_allclose(
            quasi.std_errors_[name], plain.std_errors_[name] * np.sqrt(pearson), rtol=1e-4
        )


def test_a_saved_model_has_its_theta(tmp_path) -> None:
    model = fitted("negative_binomial", theta=0.7, alpha=0.01)
    model.save(tmp_path / "model")
    guest, host, *_ = tables("negative_binomial")
    again = vfl.FederatedGLM.load(tmp_path / "model").set_params(hosts={"host": host})
    np.testing.assert_array_equal(again.predict(guest), model.predict(guest))
    assert again._loss == NegativeBinomialLoss(0.7)


def test_residuals_are_normal_where_the_model_is_right() -> None:
    rng = np.random.default_rng(4)
    mean = np.exp(rng.normal(size=4000) / 2)
    label = rng.poisson(mean * rng.gamma(2, 1 / 2, 4000)).astype(float)
    found = quantile_residuals(NegativeBinomialLoss(0.5), label, mean, np.ones(4000))
    assert abs(found.mean()) < 0.06 and found.std() == pytest.approx(1, abs=0.04)
    poisson = quantile_residuals(PoissonLoss(), label, mean, np.ones(4000))
    assert poisson.std() > 1.1


def test_settings_and_losses_that_cannot_be() -> None:
    for theta in (0.0, np.inf, -1.0):
        with pytest.raises(ValueError, match="theta"):
            NegativeBinomialLoss(theta)
    with pytest.raises(ValidationError, match="greater than 0"):
        GlmParams(theta=0)
    with pytest.raises(ValidationError, match="who knows the likelihood"):
        GlmParams(profile=True, scores="hidden", coordinator="c")
    assert dataclasses.replace(TweedieLoss(1.2), power=1.3).power == 1.3
