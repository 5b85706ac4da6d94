"""Bands that are drawn together: glum's optimum on a matrix of steps, and neighbours that are one."""

import glum
import numpy as np
import pandas as pd
import pytest
from pydantic import ValidationError

import vfl
from vfl.learn.design import MISSING, Design, Rules
from vfl.learn.params import GlmParams
from vfl.learn.shrinkage import penalty_of
from vfl.learn.sparse import SparseBlock, sparse_combination
from vfl.learn.steps import Steps, chains_of, squares_of_steps
from vfl.party.linear_rules import GlmSection

# glum's own, next to rounding.
pytestmark = pytest.mark.filterwarnings("ignore:Line search failed")

ROWS = 3000
STARTS = [21.0, 25.0, 30.0, 40.0, 50.0, 60.0, 70.0]
POWERS = [60.0, 80.0, 100.0, 150.0]
AREAS = ("city", "land", "moor")


def tables(seed: int = 0) -> tuple[pd.DataFrame, pd.DataFrame, np.ndarray, np.ndarray]:
    """A guest's and a host's columns, claims and years; claims go by age in three flat parts."""
    rng = np.random.default_rng(seed)
    ids = [f"policy {k}" for k in range(ROWS)]
    age = rng.uniform(18, 80, ROWS).round()
    area = rng.choice(np.array(AREAS, object), ROWS, p=[0.5, 0.3, 0.2])
    power = rng.uniform(40, 200, ROWS)
    years = rng.uniform(0.3, 1, ROWS)
    score = -1.2 + 0.8 * (age < 25) + 0.3 * (age >= 70) + 0.4 * (power >= 150) - 0.3 * (area == "moor")
    claims = rng.poisson(years * np.exp(score)).astype(float)
    power[rng.random(ROWS) < 0.1] = np.nan
    guest = pd.DataFrame({"age": age, "area": area}, ids)
    host = pd.DataFrame({"power": power, "weight": rng.normal(1200, 200, ROWS)}, ids)
    return guest, host, claims, years


def rules(age: str = "25-29", power: str = "100 to < 150") -> dict[str, dict[str, object]]:
    return {
        "guest": {"bands": {"age": STARTS}, "fuse": ["age"], "base": {"age": age}},
        "host": {"bands": {"power": POWERS}, "fuse": ["power"], "base": {"power": power}},
    }


def fitted(seed: int = 0, own: dict[str, dict[str, object]] | None = None, **settings):
    guest, host, claims, years = tables(seed)
    given = {"alpha": 0.004, "l1_ratio": 0.9, "l1_on": "steps", "tolerance": 1e-10, **settings}
    model = vfl.FederatedGLM(family="poisson", hosts={"host": host}, rules=own or rules(), **given)
    return model.fit(guest, claims, exposure=years)


def steps_of(column: np.ndarray, edges: list[float]) -> np.ndarray:
    """A column for each edge: 1 from there on, and 0 below and for missing values."""
    known = np.nan_to_num(column, nan=-np.inf)
    return np.array([known >= edge for edge in edges]).T.astype(float)


def step_matrix() -> tuple[np.ndarray, np.ndarray]:
    """All columns as glum gets them, and which of them are steps."""
    guest, host, *_ = tables()
    power = host["power"].to_numpy()
    missing = np.isnan(power)
    of_power = steps_of(power, POWERS)
    # Coded against the base band, to which a missing value is drawn.
    of_power -= of_power[(power >= 100) & (power < 150)][0]
    of_power[missing] = 0.0
    areas = [name for name in AREAS if name != "city"]
    weight = host["weight"].to_numpy()
    parts = [
        steps_of(guest["age"].to_numpy(), STARTS),
        np.array([guest["area"] == name for name in areas]).T.astype(float),
        of_power,
        missing[:, None].astype(float),
        ((weight - weight.mean()) / weight.std())[:, None],
    ]
    is_step = np.repeat([True, False, True, False, False], [part.shape[1] for part in parts])
    return np.hstack(parts), is_step


def by_glum(alpha: float, l1_ratio: float, on_all: bool):
    dense, is_step = step_matrix()
    *_, claims, years = tables()
    kinks = np.ones(len(is_step)) if on_all else is_step.astype(float)
    model = glum.GeneralizedLinearRegressor(
        family="poisson", alpha=alpha, l1_ratio=l1_ratio, P1=kinks, gradient_tol=1e-10, max_iter=1000
    )
    return dense, model.fit(dense, claims, offset=np.log(years))


@pytest.mark.parametrize(("alpha", "l1_ratio"), [(0.004, 0.9), (0.001, 0.5), (0.004, 0.0)])
@pytest.mark.parametrize("on_all", [False, True])
def test_the_optimum_is_glums_on_a_matrix_of_steps(alpha, l1_ratio, on_all) -> None:
    l1_on = "all" if on_all or not l1_ratio else "steps"
    model = fitted(alpha=alpha, l1_ratio=l1_ratio, l1_on=l1_on)
    dense, expected = by_glum(alpha, l1_ratio, on_all)
    guest = tables()[0]
    score = np.log(model.predict(guest))
    np.testing.assert_allclose(score, dense @ expected.coef_ + expected.intercept_, rtol=0, atol=2e-6)
    assert model.converged_ and model.n_iter_ < 40
    ages = [0.0 if level == "25-29" else model.coef_["guest"]["age", level] for level in LEVELS]
    found = np.diff(ages)
    np.testing.assert_allclose(found, expected.coef_[: len(STARTS)], atol=2e-6)
    if l1_ratio:
        assert ((found == 0) == (expected.coef_[: len(STARTS)] == 0)).all() and (found == 0).any()
        coefficients = model.coef_["guest"]["area"]
        assert on_all or (coefficients != 0).all()


LEVELS = ["< 21", "21-24", "25-29", "30-39", "40-49", "50-59", "60-69", "70+"]


def test_no_change_of_a_step_gains_anything() -> None:
    """The conditions of an optimum, from the objective alone: the sum of residuals on one side of a step
    is no larger than alpha l1_ratio where the step is zero, and is that, against its sign, elsewhere."""
    alpha, ratio = 0.004, 0.9
    model = fitted(alpha=alpha, l1_ratio=ratio)
    guest, _, claims, years = tables()
    residual = (model.predict(guest) * years - claims) / ROWS
    assert abs(residual.sum()) < 1e-10
    ages = [0.0 if level == "25-29" else model.coef_["guest"]["age", level] for level in LEVELS]
    zeros = 0
    for edge, step in zip(STARTS, np.diff(ages), strict=True):
        gradient = residual[guest["age"].to_numpy() >= edge].sum() + alpha * (1 - ratio) * step
        if step == 0:
            zeros += 1
            assert abs(gradient) <= alpha * ratio + 1e-9
        else:
            assert gradient == pytest.approx(-np.sign(step) * alpha * ratio, abs=1e-8)
    assert 0 < zeros < len(STARTS)


def test_no_base_level_moves_a_prediction() -> None:
    one = fitted(own=rules("25-29"))
    guest = tables()[0]
    for age in ("< 21", "70+", "40-49"):
        other = fitted(own=rules(age))
        np.testing.assert_allclose(other.predict(guest), one.predict(guest), rtol=1e-7)


def test_no_base_level_moves_one_about_the_mean_either() -> None:
    """Missing values, and other columns, are then drawn to means."""
    guest = tables()[0]
    found = []
    for power, area in (("< 60", "city"), (">= 150", "moor"), ("80 to < 100", "land")):
        own = rules(power=power)
        own["guest"]["base"] = {"age": "70+", "area": area}
        found.append(fitted(own=own, shrink_to="mean", alpha=0.002).predict(guest))
    np.testing.assert_allclose(found[1], found[0], rtol=1e-7)
    np.testing.assert_allclose(found[2], found[0], rtol=1e-7)


@pytest.mark.usefixtures("quick_key")
@pytest.mark.parametrize(
    "settings",
    [
        {"encryption": "lattice", "alphas": (0.01, 0.001), "folds": 2},
        {"encryption": "lattice", "l1_ratio": 0.6, "shrink_to": "mean"},
        {"encryption": "lattice", "l1_ratio": 0.0, "l1_on": "all", "inference": True},
    ],
)
def test_every_bit_is_that_of_the_protocol(settings) -> None:
    if "alphas" in settings:
        settings = {**settings, "alpha": 0.0}
    plain, apart = (fitted(tolerance=1e-4, engine=of, **settings) for of in ("plain", "protocol"))
    assert plain.intercept_ == apart.intercept_
    for name in plain.coef_:
        pd.testing.assert_series_equal(plain.coef_[name], apart.coef_[name], check_exact=True)
    if settings.get("inference"):
        for name in plain.coef_:
            np.testing.assert_allclose(apart.std_errors_[name], plain.std_errors_[name], rtol=1e-5)


def test_without_a_penalty_bands_are_what_they_were() -> None:
    fused = fitted(alpha=0.0, l1_ratio=0.0, l1_on="all")
    own = {name: {**rule, "fuse": []} for name, rule in rules().items()}
    apart = fitted(alpha=0.0, l1_ratio=0.0, l1_on="all", own=own)
    for name in fused.coef_:
        pd.testing.assert_series_equal(fused.coef_[name], apart.coef_[name], check_exact=True)


@pytest.mark.parametrize("rule", [{"fuse": ["age"]}, {"credible": {"age": 5.0}}])
def test_a_model_over_rows_has_neither(rule) -> None:
    guest, _, claims, _ = tables()
    model = vfl.PooledGLM(family="poisson", rules={"bands": {"age": STARTS}, **rule})
    (name,) = rule
    with pytest.raises(ValueError, match=f"{name} is not for a model over rows: leave it out"):
        model.fit(guest, claims, parties=np.arange(ROWS) % 2)


# The parts.


def test_steps_and_back() -> None:
    steps = Steps((chains_of(2, [0, 1, 2, 3]), chains_of(0, [5, 6]))[0] + chains_of(0, [5, 6]))
    assert steps.chains == ((1, 0), (2, 3), (5, 6))
    given = np.array([1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0])
    np.testing.assert_array_equal(steps.coefficients(given), [3, 2, 4, 12, 16, 32, 96])
    linear = np.array([steps.coefficients(row) for row in np.eye(7)]).T
    np.testing.assert_array_equal(steps.gradient(given), linear.T @ given)
    form = np.random.default_rng(0).normal(size=(7, 7))
    np.testing.assert_allclose(steps.form(form), linear.T @ form @ linear)
    squares = linear.T @ squares_of_steps(7, steps.chains) @ linear
    np.testing.assert_allclose(squares, np.diag([1.0, 1, 1, 1, 0, 1, 1]))
    assert steps.after(1).chains == ((2, 1), (3, 4), (6, 7))


def test_a_block_goes_on_from_where_it_was_kept() -> None:
    guest = tables()[0]
    features = {name: guest[name].to_numpy() for name in guest}
    design = Design.fit(features, Rules(bands={"age": tuple(STARTS)}, fuse=("age",)))
    matrix = design.matrix(features).shrunk_by(penalty_of(design, None, ROWS, by_steps=True))

    def made() -> SparseBlock:
        return SparseBlock(matrix, 0.01, True, 1.0, 0.8, steps_alone=True)

    rng = np.random.default_rng(2)
    block = made()
    for _ in range(3):
        report = block.report(rng.normal(size=matrix.columns))
        state = block.state
        block.direction(sparse_combination(report.products))
        block.step(1.0)
    again = made()
    np.testing.assert_array_equal(again.restore(state).products, report.products)
    again.direction(sparse_combination(report.products))
    again.step(1.0)
    np.testing.assert_array_equal(again.coefficients, block.coefficients)
    assert not np.array_equal(block.beta, block.coefficients)


def test_a_band_is_the_base_even_where_most_values_are_missing() -> None:
    values = np.repeat([np.nan, 20.0, 30.0, 50.0], [100, 30, 40, 30])
    rules = {"bands": {"age": (25.0, 40.0)}, "min_level_rows": 1}
    design = Design.fit({"age": values}, Rules(**rules, fuse=("age",)))
    assert design.factors[0].base == "25-39" and design.steps.chains == ((0,), (1,))
    assert Design.fit({"age": values}, Rules(**rules)).factors[0].base == MISSING
    with pytest.raises(ValueError, match=r"missing values as the base, .* \(fuse\): name a band"):
        Design.fit({"age": values}, Rules(**rules, fuse=("age",), base={"age": MISSING}))


@pytest.mark.parametrize(
    ("section", "said"),
    [
        ({"fuse": ("area",)}, "fuse has 'area', whose levels have no order"),
        (
            {"fuse": ("age",), "binned": ("age", "x"), "interactions": (("age", "x"),)},
            "fuse has 'age', which interactions has, too",
        ),
        (
            {"fuse": ("age",), "binned": ("age",), "credible": {"age": 5.0}},
            "credible has 'age', which fuse has, too",
        ),
    ],
)
def test_rules_that_do_not_fit(section, said) -> None:
    with pytest.raises(ValidationError, match=said):
        GlmSection(**section)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"l1_on": "steps"}, "l1_on = .* needs an l1_ratio above 0 and below 1"),
        ({"l1_on": "steps", "alpha": 1.0, "l1_ratio": 1.0}, "and below 1"),
        ({"alpha": 1.0, "l1_ratio": 0.5, "shrink_to": "mean"}, 'or set l1_on = "steps"'),
    ],
)
def test_settings_that_do_not_fit(settings, said) -> None:
    with pytest.raises(ValidationError, match=said):
        GlmParams(**settings)
