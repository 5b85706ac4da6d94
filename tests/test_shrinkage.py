"""A penalty that draws levels to their factor's mean: the same model in any base, and glum's."""

import asyncio
from collections.abc import Mapping

import glum
import numpy as np
import pandas as pd
import pytest
from pydantic import ValidationError

import vfl
from vfl.learn.design import MISSING, Design, Rules
from vfl.learn.glm import Block
from vfl.learn.losses import loss_of
from vfl.learn.matrix import Penalty
from vfl.learn.params import GlmParams
from vfl.learn.shrinkage import level_sizes, stored_sizes, towards_means
from vfl.protocols.common.rows import Training
from vfl.protocols.linear.plain import plain_fit

ROWS = 600
AREAS, KINDS = ("city", "land", "moor", "port"), ("a", "b", "c")


def tables(seed: int = 0) -> dict[str, dict[str, np.ndarray]]:
    """A guest's and a host's, with levels of few rows and of many, and missing values that are one."""
    rng = np.random.default_rng(seed)

    def drawn(names: tuple[str | None, ...], shares: list[float]) -> np.ndarray:
        return rng.choice(np.array(names, object), ROWS, p=shares)

    age = rng.normal(40, 10, ROWS)
    return {
        "guest": {
            "area": drawn((*AREAS, None), [0.4, 0.3, 0.1, 0.1, 0.1]),
            "kind": drawn(KINDS, [0.5, 0.3, 0.2]),
            "age": age,
        },
        "host": {"fuel": drawn(("gas", "oil", "sun"), [0.6, 0.3, 0.1]), "power": rng.gamma(2, 5, ROWS)},
    }


def training(own: Mapping[str, Mapping[str, np.ndarray]], seed: int = 0) -> Training:
    rng = np.random.default_rng(seed + 100)
    exposure = rng.uniform(0.2, 1, ROWS)
    mean = exposure * np.exp(
        -1 + 0.8 * (own["guest"]["area"] == "moor") - (own["host"]["fuel"] == "sun")
    )
    nobody = np.zeros(ROWS, bool)
    label = rng.poisson(mean).astype(float)
    ones = np.ones(ROWS)
    return Training(label, ones, ~nobody, nobody, loss_of("poisson"), np.log(exposure), exposure)


def fitted(rules: Rules, alpha: float = 0.02):
    """Scores of all rows, and what went in: designs, matrices, penalties."""
    own = tables()
    rows = training(own)
    found = {}
    for name, features in own.items():
        of = rules if name == "guest" else Rules()
        exposure = rows.sizes if name == "guest" else None
        design = Design.fit(features, of, exposure)
        matrix = design.matrix(features, ROWS)
        form = towards_means(design, level_sizes(design, matrix, exposure))
        found[name] = design, matrix.shrunk_by(Penalty(form)), form
    params = GlmParams(alpha=alpha, shrink_to="mean", tolerance=1e-11)
    matrices = {name: matrix for name, (_, matrix, _) in found.items()}
    guest = {"guest": matrices.pop("guest")}
    fit, theirs = asyncio.run(plain_fit(guest, matrices, rows, params))
    assert fit.converged
    return fit, theirs, found, rows


@pytest.mark.parametrize("crossed", [False, True])
def test_no_base_level_moves_a_prediction(crossed: bool) -> None:
    crossing = (("area", "kind"),) if crossed else ()
    one, *_ = fitted(Rules(interactions=crossing, min_level_rows=1))
    for base in ({"area": "moor"}, {"area": "port", "kind": "c"}, {"area": MISSING}):
        other, *_ = fitted(Rules(interactions=crossing, base=base, min_level_rows=1))
        np.testing.assert_allclose(other.score, one.score, rtol=0, atol=1e-8)


@pytest.mark.parametrize("crossed", [False, True])
def test_the_optimum_is_glums_with_the_same_penalty(crossed: bool) -> None:
    crossing = (("area", "kind"),) if crossed else ()
    fit, theirs, found, rows = fitted(Rules(interactions=crossing, min_level_rows=1))
    dense = np.hstack([matrix.dense() for _, matrix, _ in found.values()])
    sizes = [len(form) for *_, form in found.values()]
    penalty = np.zeros((sum(sizes), sum(sizes)))
    penalty[: sizes[0], : sizes[0]] = found["guest"][2]
    penalty[sizes[0] :, sizes[0] :] = found["host"][2]
    model = glum.GeneralizedLinearRegressor(
        family="poisson", alpha=0.02, l1_ratio=0, P2=penalty, gradient_tol=1e-12, max_iter=1000
    ).fit(dense, rows.label, offset=rows.offset)
    beta = np.concatenate([fit.coefficients["guest"], theirs["host"]])
    np.testing.assert_allclose(beta, model.coef_, rtol=1e-6, atol=1e-8)
    assert fit.intercept == pytest.approx(model.intercept_, abs=1e-8)


def test_the_penalty_is_the_sum_of_squares_about_the_mean() -> None:
    own = tables()["guest"]
    exposure = np.random.default_rng(4).uniform(0.1, 1, ROWS)
    design = Design.fit({name: own[name] for name in ("area", "age")}, Rules())
    matrix = design.matrix(own, ROWS)
    form = towards_means(design, level_sizes(design, matrix, exposure))
    beta = np.random.default_rng(5).normal(size=matrix.columns)
    effects = dict(zip(design.factors[0].others, beta, strict=False))
    levels = pd.Series(own["area"]).fillna(MISSING)
    values = levels.map(lambda level: effects.get(level, 0.0))
    mean = np.average(values, weights=exposure)
    each = np.array([effects.get(level, 0.0) for level in design.factors[0].levels])
    assert beta @ form @ beta == pytest.approx(np.square(each - mean).sum() + beta[-1] ** 2, rel=1e-12)
    rows = level_sizes(design, matrix, None)
    np.testing.assert_array_equal(rows["area"], stored_sizes(design)["area"])
    assert (np.linalg.eigvalsh(form) > 0).all()


@pytest.mark.usefixtures("quick_key")
def test_both_engines_fit_the_same_model() -> None:
    """And what inference says with messages has the penalty as well."""
    plain, protocol = (estimator("moor", inference=True, engine=of) for of in ("plain", "protocol"))
    assert plain.intercept_ == protocol.intercept_
    for name in plain.coef_:
        pd.testing.assert_series_equal(plain.coef_[name], protocol.coef_[name], check_exact=True)
        np.testing.assert_allclose(protocol.std_errors_[name], plain.std_errors_[name], rtol=1e-5)


def estimator(base: str | None = None, **settings):
    own = tables()
    rows = training(own)
    ids = [f"policy {k}" for k in range(ROWS)]
    guest, host = (pd.DataFrame(own[name], ids) for name in ("guest", "host"))
    rules = {} if base is None else {"guest": {"base": {"area": base}}}
    model = vfl.FederatedGLM(
        family="poisson",
        hosts={"host": host},
        **{"alpha": 0.02, "shrink_to": "mean", "rules": rules, "tolerance": 1e-3, **settings},
    )
    return model.fit(guest, rows.label, exposure=rows.sizes)


def test_what_is_inferred_does_not_depend_on_the_base() -> None:
    """The error of a difference of two levels is the same, whichever the base is."""
    one, other = (estimator(base, inference=True, tolerance=1e-10) for base in ("moor", "city"))
    assert one.std_errors_["guest"]["area", "city"] == pytest.approx(
        other.std_errors_["guest"]["area", "moor"], rel=1e-6
    )
    np.testing.assert_allclose(one.std_errors_["host"], other.std_errors_["host"], rtol=1e-6)


def test_a_constant_in_the_block_is_not_penalised() -> None:
    """As where scores are hidden."""
    own = tables()["guest"]
    design = Design.fit(own, Rules())
    matrix = design.matrix(own, ROWS)
    form = towards_means(design, stored_sizes(design))
    block = Block(matrix.shrunk_by(Penalty(form)).with_intercept(), 0.5, centred=False, free=1)
    block.beta = np.arange(1.0, matrix.columns + 2)
    found = block.gradient(0.0, np.zeros(matrix.columns + 1))
    np.testing.assert_allclose(found, [0.0, *(0.5 * form @ block.beta[1:])])


def test_a_model_over_rows_does_not_depend_on_the_base_either() -> None:
    own = tables()
    rows = training(own)
    table = pd.DataFrame({**own["guest"], "fuel": own["host"]["fuel"]})
    clients = np.where(np.arange(ROWS) % 3 == 0, "north", "south")
    found = []
    for base in ("moor", "land"):
        model = vfl.PooledGLM(
            family="poisson",
            alpha=0.02,
            shrink_to="mean",
            rules={"base": {"area": base}},
            tolerance=1e-9,
        )
        model.fit(table, rows.label, parties=clients, exposure=rows.sizes)
        found.append(model.predict(table))
    np.testing.assert_allclose(*found, rtol=1e-8)
    kept = vfl.PooledGLM(family="poisson", alpha=0.02, rules={"base": {"area": "moor"}})
    kept.fit(table, rows.label, parties=clients, exposure=rows.sizes)
    assert not np.allclose(kept.predict(table), found[0], rtol=1e-3)


def test_without_a_constant_there_is_no_mean_to_draw_to() -> None:
    with pytest.raises(ValidationError, match="needs fit_intercept"):
        GlmParams(shrink_to="mean", fit_intercept=False)
