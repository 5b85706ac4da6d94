"""Levels drawn to their column's mean by the credibility that their owner gives them."""

import glum
import numpy as np
import pandas as pd
import pytest
from pydantic import ValidationError
from scipy.special import lambertw

import vfl
from vfl.errors import DataError
from vfl.learn.design import Design, Rules
from vfl.learn.inference import Inference
from vfl.learn.params import GlmParams
from vfl.learn.shrinkage import level_sizes, penalty_of
from vfl.models.linear_columns import prepare_columns
from vfl.models.own_penalties import said_credible
from vfl.party.linear_rules import GlmSection
from vfl.protocols.linear.scoring import HostGlm, LinearPart

ROWS = 1500
MODELS = [f"model {k:02}" for k in range(12)]


def tables(seed: int = 0) -> tuple[pd.DataFrame, pd.DataFrame, np.ndarray, np.ndarray]:
    """A guest's and a host's columns, claims and years. The last model has no claim."""
    rng = np.random.default_rng(seed)
    ids = [f"policy {k}" for k in range(ROWS)]
    shares = 0.72 ** np.arange(len(MODELS))
    model = rng.choice(len(MODELS), ROWS, p=shares / shares.sum())
    area = rng.choice(np.array(["city", "land", "moor"], object), ROWS)
    effects = rng.normal(0, 0.3, len(MODELS))
    years = rng.uniform(0.3, 1, ROWS)
    claims = rng.poisson(years * np.exp(-1.3 + effects[model] + 0.5 * (area == "moor"))).astype(float)
    claims[model == len(MODELS) - 1] = 0
    guest = pd.DataFrame({"area": area, "age": rng.normal(40, 10, ROWS)}, ids)
    brand = np.array([f"brand {k // 4}" for k in model], object)
    host = pd.DataFrame({"model": np.array(MODELS, object)[model], "brand": brand}, ids)
    return guest, host, claims, years


def fitted(
    guest=None, host=None, *, k: float = 5.0, base: str = MODELS[0], family="poisson", **settings
):
    own, theirs, claims, years = tables()
    rule = {"min_level_rows": 1, "credible": {"model": k}, "base": {"model": base}}
    model = vfl.FederatedGLM(
        family=family,
        hosts={"host": theirs if host is None else host},
        rules={"host": rule},
        **{"credibility": True, "tolerance": 1e-10, **settings},
    )
    exposure = years if family == "poisson" else None
    return model.fit(own if guest is None else guest, claims, exposure=exposure)


def deviations(model) -> np.ndarray:
    """How far each model lies from the plain mean of all."""
    of = model.coef_["host"]["model"]
    found = np.array([of.get(name, 0.0) for name in MODELS])
    return found - found.mean()


def by_level(host: pd.DataFrame, *columns: np.ndarray) -> list[np.ndarray]:
    place = host["model"].map(MODELS.index).to_numpy()
    return [np.bincount(place, column, len(MODELS)) for column in columns]


NOTHING = pd.DataFrame(index=[f"policy {k}" for k in range(ROWS)])


def test_a_single_factor_of_claims_is_the_closed_form() -> None:
    """C - E exp(mu + u) = k u for each level, which Lambert's function solves; sum of u = 0."""
    _, host, claims, years = tables()
    host = host[["model"]]
    for k in (2.0, 20.0):
        model = fitted(NOTHING, host, k=k)
        u = deviations(model)
        number, exposure = by_level(host, claims, years)
        of = model.coef_["host"]["model"]
        mean = model.intercept_ + np.mean([of.get(name, 0.0) for name in MODELS])
        expected = exposure * np.exp(mean)
        solved = number / k - lambertw(expected / k * np.exp(number / k)).real
        np.testing.assert_allclose(u, solved, atol=1e-8)
        assert number[-1] == 0 and expected[-1] > 0 and model.converged_
        # The classical form, E / (E + K) with K = k / frequency, is the first order of that.
        credibility = exposure / (exposure + k / np.exp(mean))
        linear = credibility * (number / expected - 1)
        rest = np.abs(u - linear)
        assert (rest <= np.square(number / expected - 1) + 1e-9).all()
        assert (np.sign(u) == np.sign(linear)).all()


def test_a_single_factor_of_amounts_is_buehlmann_and_straubs() -> None:
    _, host, claims, _ = tables()
    host = host[["model"]]
    model = fitted(NOTHING, host, k=15.0, family="gaussian")
    rows, total = by_level(host, np.ones(ROWS), claims)
    credibility = rows / (rows + 15.0)
    own = total / rows
    collective = (credibility * own).sum() / credibility.sum()
    premium = credibility * own + (1 - credibility) * collective
    of = model.coef_["host"]["model"]
    np.testing.assert_allclose(
        [model.intercept_ + of.get(name, 0.0) for name in MODELS], premium, atol=1e-9
    )


def test_a_level_without_claims_needs_no_penalty_on_all_others() -> None:
    host = tables()[1]
    with pytest.raises(DataError, match="separable"):
        fitted(host=host[["model"]], credibility=False)
    with pytest.raises(DataError, match=r"column 'brand' .* linear combinations of other columns"):
        fitted(credibility=False)
    # Levels of one column may make up those of another, too.
    model = fitted()
    assert model.converged_ and np.abs(deviations(model)).max() < 1
    assert (model.coef_["host"]["brand"] != 0).all()


def test_no_base_level_moves_a_prediction() -> None:
    guest = tables()[0]
    one, other = fitted(base=MODELS[0]), fitted(base=MODELS[-1])
    np.testing.assert_allclose(one.predict(guest), other.predict(guest), rtol=1e-7)


@pytest.mark.parametrize(
    "settings",
    [
        {"alpha": 0.003},
        {"alpha": 0.003, "shrink_to": "mean"},
        {"alpha": 0.003, "l1_ratio": 0.5},
        {"alphas": (0.02, 0.003), "folds": 2},
    ],
)
def test_the_optimum_is_glums_with_the_same_penalty(settings) -> None:
    own, theirs, claims, years = tables()
    model = fitted(**settings)
    host_rules = Rules(min_level_rows=1, credible={"model": 5.0}, base={"model": MODELS[0]})
    dense, forms = [], []
    for name, features, rules in (("guest", own, Rules()), ("host", theirs, host_rules)):
        columns = {key: features[key].to_numpy() for key in features}
        exposure = years if name == "guest" else None
        design = Design.fit(columns, rules, exposure)
        matrix = design.matrix(columns)
        sizes = level_sizes(design, matrix, exposure) if "shrink_to" in settings else None
        matrix = matrix.shrunk_by(penalty_of(design, sizes, ROWS, by_steps=False))
        alpha = model.alpha_ * (1 - settings.get("l1_ratio", 0.0))
        dense.append(matrix.dense())
        forms.append(matrix.penalised_by(alpha))
    size = len(forms[0])
    whole = np.zeros((size + len(forms[1]),) * 2)
    whole[:size, :size], whole[size:, size:] = forms
    lasso = model.alpha_ * settings.get("l1_ratio", 0.0)
    ratio = 0.5 if lasso else 0.0
    credible = np.array([name == "model" for name, _ in model.coef_["host"].index])
    kinks = np.concatenate([np.ones(size), ~credible]).astype(float) * 2 * lasso
    by_glum = glum.GeneralizedLinearRegressor(
        family="poisson",
        alpha=1.0,
        l1_ratio=ratio,
        P1=kinks if lasso else "identity",
        P2=whole * (2 if lasso else 1),
        gradient_tol=1e-11,
        max_iter=1000,
    ).fit(np.hstack(dense), claims, offset=np.log(years))
    beta = np.concatenate([model.coef_["guest"], model.coef_["host"]])
    np.testing.assert_allclose(beta, by_glum.coef_, atol=1e-6)
    assert ((beta == 0) == (by_glum.coef_ == 0)).all()


@pytest.mark.usefixtures("quick_key")
@pytest.mark.parametrize(
    "settings",
    [{"inference": True}, {"alpha": 0.01, "shrink_to": "mean"}, {"alpha": 0.01, "l1_ratio": 0.9}],
)
def test_every_bit_is_that_of_the_protocol(settings) -> None:
    settings = {"encryption": "lattice", "tolerance": 1e-4, **settings}
    plain, apart = (fitted(engine=of, **settings) for of in ("plain", "protocol"))
    assert plain.intercept_ == apart.intercept_
    for name in plain.coef_:
        pd.testing.assert_series_equal(plain.coef_[name], apart.coef_[name], check_exact=True)
    if settings.get("inference"):
        for name in plain.coef_:
            np.testing.assert_allclose(apart.std_errors_[name], plain.std_errors_[name], rtol=1e-5)


def test_how_sure_a_single_factor_is() -> None:
    """The posterior variance of a difference from the base level is by the information and k alone."""
    _, host, claims, years = tables()
    model = fitted(NOTHING, host[["model"]], k=5.0, inference=True)
    _, exposure = by_level(host, claims, years)
    of = model.coef_["host"]["model"]
    weight = exposure * np.exp(model.intercept_ + np.array([of.get(name, 0.0) for name in MODELS]))
    # Unknowns: the constant and each level's deviation, with variance 1 / k; their sum is not known.
    information = np.block(
        [[np.array([[weight.sum()]]), weight[None]], [weight[:, None], np.diag(weight)]]
    )
    information[1:, 1:] += 5.0 * np.eye(len(MODELS))
    covariance = np.linalg.inv(information)[1:, 1:]
    differences = np.diag(covariance) + covariance[0, 0] - 2 * covariance[0]
    np.testing.assert_allclose(model.std_errors_["host"], np.sqrt(differences[1:]), rtol=1e-6)


def varied(seed: int, deviation: float, levels: int = 60) -> tuple[pd.DataFrame, np.ndarray]:
    """A host's column whose levels' relativities have this deviation, and claims."""
    rng = np.random.default_rng(seed)
    level = rng.integers(0, levels, 6000)
    effects = rng.normal(0, deviation, levels)
    claims = rng.poisson(np.exp(-0.7 + effects[level])).astype(float)
    names = np.array([f"level {k:02}" for k in range(levels)], object)
    return pd.DataFrame({"model": names[level]}, [f"policy {k}" for k in range(6000)]), claims


def by_fit(host: pd.DataFrame, claims: np.ndarray, k: float) -> float:
    model = vfl.FederatedGLM(
        family="poisson",
        hosts={"host": host},
        credibility=True,
        inference=True,
        tolerance=1e-9,
        rules={"host": {"credible": {"model": k}, "min_level_rows": 1}},
    )
    model.fit(pd.DataFrame(index=host.index), claims)
    return model.credible_["host"]["model"]


def test_the_fit_says_what_the_credibility_should_have_been() -> None:
    """Again and again it comes to where the marginal likelihood is greatest, and near to the moments of
    Buehlmann and Straub."""
    host, claims = varied(0, 0.4)
    k = 50.0
    for _ in range(8):
        k, before = by_fit(host, claims, k), k
    assert k == pytest.approx(before, rel=1e-3)
    number = claims[None] @ (host["model"].to_numpy()[:, None] == np.unique(host["model"]))
    rows = host["model"].value_counts().sort_index().to_numpy()
    expected = rows * claims.mean()
    # Var(claims) = expected + expected^2 variance, summed over levels.
    moments = (np.square(number[0] - expected) - expected).sum() / np.square(expected).sum()
    assert 1 / k == pytest.approx(moments, rel=0.25)
    likelihoods = {by: marginal(number[0], rows, by) for by in (k / 1.3, k, k * 1.3)}
    assert max(likelihoods, key=lambda by: likelihoods[by]) == k
    # Levels that do not vary ask for no credibility at all, or hardly any.
    assert by_fit(*varied(1, 0.0), 1000.0) > 500


def test_what_the_owner_is_told() -> None:
    features = {"area": np.repeat(np.array(["a", "b", "c"], object), [50, 40, 30])}
    design = Design.fit(features, Rules(credible={"area": 4.0}))
    part = LinearPart(design, (0.5, -0.4))
    half = HostGlm(part, True, Inference.of(0.05 * np.eye(2), None))
    # u is -0.033, 0.467, -0.433; of 2 free levels the rows tell 2 - 4 * 0.05 * 4 / 3.
    assert said_credible(half) == ["credible of column 'area' is 4; how its levels vary says 4.26"]
    wide = HostGlm(part, True, Inference.of(np.eye(2), None))
    assert said_credible(wide)[0].endswith("its levels vary no more than chance has it")
    # Where the dispersion is estimated, nothing is said.
    assert not said_credible(HostGlm(part, True, Inference.of(np.eye(2), 100)))


def marginal(number: np.ndarray, rows: np.ndarray, k: float) -> float:
    """The greatest log-likelihood over the constant, the levels' effects integrated out."""
    points, weights = np.polynomial.hermite_e.hermegauss(60)
    effects = points / np.sqrt(k)

    def at(constant: float) -> float:
        score = constant + effects
        logs = number[:, None] * score - rows[:, None] * np.exp(score)
        most = logs.max(axis=1, keepdims=True)
        return float((most[:, 0] + np.log(np.exp(logs - most) @ weights)).sum())

    start = np.log(number.sum() / rows.sum())
    return max(at(start + shift) for shift in np.linspace(-0.4, 0.2, 121))


def test_a_job_that_does_not_say_so_has_no_such_penalty() -> None:
    _, host, *_ = tables()
    features = {"model": host["model"].to_numpy()}
    section = GlmSection(min_level_rows=1, credible={"model": 5.0})
    train = np.ones(ROWS, bool)
    _, plain = prepare_columns("cars.csv", features, train, section, GlmParams())
    design, drawn = prepare_columns("cars.csv", features, train, section, GlmParams(credibility=True))
    assert plain.take(train).penalty.is_plain and design.factors[0].credible == 5.0
    assert not drawn.take(train).penalised().any() and drawn.take(train).penalised_by(0.0).any()


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"fit_intercept": False}, "credibility needs fit_intercept"),
        ({"scores": "hidden", "coordinator": "c"}, 'credibility is for scores = "guest"'),
    ],
)
def test_settings_that_do_not_fit(settings, said) -> None:
    with pytest.raises(ValidationError, match=said):
        GlmParams(credibility=True, **settings)


def test_a_column_without_levels() -> None:
    with pytest.raises(ValueError, match="'age' is numeric and has no levels, which credible is of"):
        Design.fit({"age": np.arange(100.0)}, Rules(credible={"age": 5.0}))
