"""Standard errors, tests and aliases of linear models: against R's published figures and glum's."""

import glum
import numpy as np
import pandas as pd
import pytest
from scipy.stats import chi2, norm, t

from tests.test_glm import GLUM, Job, make_job
from vfl.estimators.linear import FederatedGLM
from vfl.learn.inference import FittedRows, Inference, inferences, joint_information
from vfl.learn.losses import FAMILIES, loss_of
from vfl.learn.matrix import Matrix


def fitted(job: Job, score: np.ndarray) -> FittedRows:
    rows, train = job.rows, job.rows.train
    return FittedRows(rows.loss, rows.label[train], rows.weight[train], score[train])


def of_job(job: Job, score: np.ndarray, dispersion: float = 1.0) -> dict[str, Inference]:
    rows, free = fitted(job, score), int(job.params.fit_intercept)
    matrices = [matrix.take(job.rows.train) for matrix in job.matrices.values()]
    sizes = {name: matrix.columns for name, matrix in job.matrices.items()}
    sizes["guest"] += free
    penalty = np.full(sum(sizes.values()), job.params.alpha * rows.weight.sum())
    penalty[:free] = 0
    information = joint_information(matrices, rows.information, bool(free))
    return inferences(information, sizes, np.diag(penalty), dispersion, None)


def test_the_figures_are_those_that_r_prints():
    """Dobson (1990), page 93, as the help of R's glm prints it."""
    counts = np.array([18, 17, 15, 20, 10, 20, 25, 13, 12.0])
    codes = np.array([np.tile([0, 1, 2], 3), np.repeat([0, 1, 2], 3)], np.uint16)
    matrix = Matrix(codes, (2, 2), np.zeros((0, 9)))
    dense = np.hstack([np.ones((9, 1)), matrix.dense()])
    beta = np.zeros(5)
    beta[0] = np.log(counts.mean())
    for _ in range(30):
        mean = np.exp(dense @ beta)
        beta += np.linalg.solve(dense.T @ (mean[:, None] * dense), dense.T @ (counts - mean))
    rows = FittedRows(loss_of("poisson"), counts, np.ones(9), dense @ beta)
    information = joint_information([matrix], rows.information, True)
    inference = inferences(information, {"all": 5}, np.zeros((5, 5)), 1.0, None)["all"]
    np.testing.assert_allclose(inference.errors, [0.1709, 0.2022, 0.1927, 0.2, 0.2], atol=5e-5)
    np.testing.assert_allclose(inference.p_values(beta)[:3], [5.43e-71, 0.0246, 0.1285], rtol=2e-3)
    summary = rows.summary(5, [(10.5814, 1), None], penalised=False)
    assert summary.deviance == pytest.approx(5.1291, abs=5e-5) and summary.freedom == 4
    assert summary.aic == pytest.approx(56.76, abs=5e-3)
    assert summary.bic == pytest.approx(57.74744, abs=5e-5)
    assert summary.log_likelihood == pytest.approx(-23.38066, abs=5e-6)
    # anova(glm.D93, test = "Chisq"): outcome 2 degrees of freedom, 5.4523, p 0.06547
    outcome = inference.together(beta, [1, 2])
    assert outcome.freedom == 2 and outcome.p_value == pytest.approx(chi2.sf(outcome.statistic, 2))
    assert summary.against_constant.statistic == pytest.approx(5.4523, abs=1e-4)


@pytest.mark.parametrize("parties", [1, 3])
@pytest.mark.parametrize("family", list(FAMILIES))
def test_errors_are_glums(family, parties):
    job = make_job(family, parties, rows=900, seed=parties, tolerance=1e-11)
    fit, _ = job.pooled()
    train, rows = job.rows.train, job.rows
    model = glum.GeneralizedLinearRegressor(
        family=GLUM[family],
        link="log" if rows.loss.link == "log" else "auto",
        alpha=0,
        gradient_tol=1e-12,
        max_iter=1000,
    )
    dense = job.dense[train]
    model.fit(dense, rows.label[train], rows.weight[train], offset=job.offset[train])
    told = model.covariance_matrix(
        dense,
        rows.label[train],
        sample_weight=rows.weight[train],
        offset=job.offset[train],
        robust=False,
        expected_information=True,
        dispersion=1.0,
    )
    # glum multiplies by the sum of weights over what is left of it beside the parameters.
    total = rows.weight[train].sum()
    expected = np.sqrt(np.diag(told) * (total - len(told)) / total)
    found = np.concatenate([one.errors for one in of_job(job, fit.score).values()])
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_a_penalty_makes_the_covariance_that_of_the_posterior():
    job = make_job("poisson", 2, alpha=0.05, tolerance=1e-11)
    fit, _ = job.pooled()
    rows, train = fitted(job, fit.score), job.rows.train
    dense = np.hstack([np.ones((train.sum(), 1)), job.dense[train]])
    prior = np.full(dense.shape[1], 0.05 * rows.weight.sum())
    prior[0] = 0
    whole = np.linalg.inv(dense.T @ (rows.information[:, None] * dense) + np.diag(prior))
    found = np.concatenate([one.errors for one in of_job(job, fit.score).values()])
    np.testing.assert_allclose(found, np.sqrt(np.diag(whole)), rtol=1e-9)


def test_intervals_and_tests_are_students_where_the_dispersion_is_estimated():
    covariance = np.array([[0.04, 0.01], [0.01, 0.09]])
    beta = np.array([0.5, -0.3])
    for freedom, of in ((None, norm), (12, t(12))):
        own = Inference.of(covariance, freedom)
        np.testing.assert_allclose(own.matrix, covariance)
        np.testing.assert_allclose(own.p_values(beta), 2 * of.sf(np.array([2.5, 1.0])))
        low, high = own.intervals(beta)
        np.testing.assert_allclose(high - beta, of.isf(0.025) * np.array([0.2, 0.3]))
        np.testing.assert_allclose(high + low, 2 * beta)
        square = beta @ np.linalg.solve(covariance, beta)
        both = own.together(beta, [0, 1])
        assert both.statistic == pytest.approx(square if freedom is None else square / 2)
    # One coefficient's F is the square of its t.
    alone = own.together(beta, [0])
    assert alone.p_value == pytest.approx(own.p_values(beta)[0])


def test_the_same_column_at_two_parties_is_found_and_named_to_both():
    rng = np.random.default_rng(1)
    x = [rng.normal(size=500) for _ in range(5)]
    columns = {"guest": [x[0], x[1]], "bureau": [x[2], x[3]], "registry": [x[4], x[3], x[3] + x[0]]}
    matrices = [Matrix(np.zeros((0, 500), np.uint16), (), np.array(own)) for own in columns.values()]
    weight = rng.uniform(0.5, 2, 500)
    information = joint_information(matrices, weight, True)
    sizes = {"guest": 3, "bureau": 2, "registry": 3}
    found = inferences(information, sizes, np.zeros((8, 8)), 1.0, None)
    assert all(one.errors is None for one in found.values())
    # x3 of bureau and registry; and x3 + x0, of guest, bureau and registry: in any combination.
    places = {name: {at for one in own.aliases for at in one.places} for name, own in found.items()}
    assert places == {"guest": {1}, "bureau": {1}, "registry": {1, 2}}
    assert all(one.parties == ("bureau", "registry") for one in found["guest"].aliases)
    assert len(found["registry"].aliases) == 2
    # Nearly the same is not the same.
    close = [x[2], x[3] + 1e-3 * x[1] * x[0]]
    matrices[2] = Matrix(np.zeros((0, 500), np.uint16), (), np.array(close[1:]))
    information = joint_information(matrices, weight, True)
    found = inferences(information, {**sizes, "registry": 1}, np.zeros((6, 6)), 1.0, None)
    assert all(one.errors is not None for one in found.values())


@pytest.fixture(scope="module")
def tables():
    rng = np.random.default_rng(3)
    rows = 600
    keys = pd.Index([f"k{i}" for i in range(rows)])
    policies = pd.DataFrame({"power": rng.normal(size=rows)}, keys)
    bureau = pd.DataFrame(
        {"age": rng.normal(size=rows), "area": rng.choice(["a", "b", "c"], rows)}, keys
    )
    registry = pd.DataFrame({"weight": rng.normal(size=rows)}, keys)
    claims = rng.poisson(np.exp(0.3 * policies["power"] - 0.2 * bureau["age"]))
    return policies, {"bureau": bureau, "registry": registry}, claims


def test_an_estimator_publishes_what_is_inferred_by_party(tables):
    policies, hosts, claims = tables
    model = FederatedGLM(family="poisson", hosts=hosts, tolerance=1e-10, inference=True)
    model.fit(policies, claims)
    assert {name: len(errors) for name, errors in model.std_errors_.items()} == {
        "guest": 2,
        "bureau": 3,
        "registry": 1,
    }
    assert model.std_errors_["guest"].index[0] == ("(intercept)", "")
    age = ("age", "")
    z = model.coef_["bureau"][age] / model.std_errors_["bureau"][age]
    assert model.p_values_["bureau"][age] == pytest.approx(2 * norm.sf(abs(z)))
    low, high = model.confidence_intervals_["bureau"].loc[age]
    assert low < -0.2 < high and low + high == pytest.approx(2 * model.coef_["bureau"][age])
    assert model.type_iii_["bureau"].loc["area", "freedom"] == 2
    assert model.type_iii_["bureau"].loc["age", "statistic"] == pytest.approx(z**2)
    summary = model.fit_summary_
    assert summary.parameters == 6 and summary.against_own.freedom == 4
    # Beside each relativity: of a step for a number, of the level else; nothing beside a base level.
    table = model.relativities_["bureau"].set_index(["column", "level"])
    assert table.loc[("age", ""), "relativity_high"] == pytest.approx(np.exp(high))
    assert table["standard_error"].isna().sum() == 1
    # As with all columns at the guest.
    together = FederatedGLM(family="poisson", hosts={}, tolerance=1e-10, inference=True)
    together.fit(policies.join(list(hosts.values())), claims)
    pooled = together.std_errors_["guest"]
    for errors in model.std_errors_.values():
        np.testing.assert_allclose(errors, pooled[errors.index], rtol=1e-6)


def test_an_alias_is_a_warning_to_its_owners(tables):
    policies, hosts, claims = tables
    same = {**hosts, "registry": hosts["registry"].assign(years=hosts["bureau"]["age"])}
    model = FederatedGLM(family="poisson", hosts=same, inference=True)
    with pytest.warns(UserWarning, match="no standard errors") as warned:
        model.fit(policies, claims)
    said = sorted(str(one.message) for one in warned)
    assert len(said) == 2
    assert said[0].startswith("bureau: no standard errors: with columns of registry, column 'age' is")
    assert said[1].startswith("registry: no standard errors: with columns of bureau, column 'years' is")
    assert model.std_errors_["bureau"].isna().all()
