"""Linear models over the rows of several clients, beside those of the pooled rows."""

import asyncio
from dataclasses import replace

import numpy as np
import pytest
from clients import in_plain, over_server
from hypothesis import given, settings
from hypothesis import strategies as st
from row_parts import (
    BINNED,
    FAMILIES,
    NAMES,
    OWNER,
    ROWS,
    RULES,
    assert_as_glum,
    by_glum,
    changed,
    fitting,
    part,
    rows,
    same,
    scores,
    table,
    with_label,
)

from vfl.errors import DataError
from vfl.learn.losses import loss_of
from vfl.learn.newton import lasso_direction
from vfl.learn.params import GlmParams
from vfl.protocols.common.course import GuestCourse
from vfl.protocols.common.rows import Training
from vfl.protocols.linear.fitting import guest_fit
from vfl.protocols.pooled.bins import Schema


@pytest.mark.parametrize("intercept", [True, False])
@pytest.mark.parametrize("alpha", [0.0, 0.01])
@pytest.mark.parametrize("family", FAMILIES)
def test_coefficients_are_those_of_glum_on_the_pooled_rows(family, alpha, intercept):
    params = GlmParams(alpha=alpha, fit_intercept=intercept, tweedie_power=1.5)
    steps = []
    courses = {"bea": GuestCourse(steps.append)}
    model = same(in_plain(fitting(family, params, courses=courses)))
    fitted, matrix, own = by_glum(model, family, params)
    assert_as_glum(model, fitted)
    assert model.converged and model.gradient < 1e-9 and len(steps) <= 7
    assert [step.iteration for step in steps] == list(range(len(steps)))
    assert model.iterations == len(steps) and model.parties == NAMES
    # Deviance and what is explained of it, of the rows that train.
    score = scores(model, table()[0])[rows(family).train & (rows(family).weight > 0)]
    score += 0 if own.offset is None else own.offset
    assert model.deviance == pytest.approx(own.loss.deviance(score, own.label, own.weight), rel=1e-12)
    _, null = own.start() if intercept else (0, own.offset)
    null = np.zeros(len(own.label)) if null is None else null
    alone = own.loss.deviance(null, own.label, own.weight)
    assert model.explained == pytest.approx(1 - model.deviance / alone, abs=1e-9)
    if alpha:
        return
    # Standard errors are glum's, at the dispersion of R: by the number of rows, not by their weight.
    errors = fitted.std_errors(
        matrix,
        own.label,
        sample_weight=own.weight,
        offset=own.offset,
        dispersion=model.dispersion,
        robust=False,
        expected_information=True,
    )
    ours = np.array([*([model.intercept_error] if intercept else []), *model.errors])
    total = own.weight.sum()
    theirs = np.asarray(errors) * np.sqrt((total - len(ours)) / total)  # glum's correction taken back
    assert np.allclose(ours, theirs[-len(ours) :], rtol=1e-7)
    mean = own.loss.predict(score)
    if family in ("poisson", "logistic"):
        assert model.dispersion == 1
    else:
        pearson = own.weight * (own.label - mean) ** 2 / mean**own.loss.power
        assert model.dispersion == pytest.approx(
            pearson.sum() / ((own.weight > 0).sum() - len(ours)), rel=1e-9
        )


@pytest.mark.parametrize(("alpha", "l1_ratio"), [(0.02, 0.5), (0.1, 1.0)])
@pytest.mark.parametrize("family", FAMILIES)
def test_zeros_are_those_of_glum_on_the_pooled_rows(family, alpha, l1_ratio):
    params = GlmParams(alpha=alpha, l1_ratio=l1_ratio, tweedie_power=1.5)
    model = same(in_plain(fitting(family, params)))
    fitted, _, _ = by_glum(model, family, params)
    beta = np.array(model.part.coefficients)
    assert model.converged and model.gradient < 1e-9 and model.iterations <= 12
    assert model.errors is None and model.intercept_error is None
    assert ((beta == 0) == (fitted.coef_ == 0)).all()
    # glum ends at a gradient of 1e-10.
    assert beta == pytest.approx(fitted.coef_, abs=1e-6)
    assert model.intercept == pytest.approx(fitted.intercept_, abs=1e-6)


@pytest.mark.parametrize("seed", range(8))
def test_newtons_direction_with_kinks_is_the_least(seed):
    """By what makes it so: a slope of 0, or one that no kink is beyond. Columns all but depend."""
    rng = np.random.default_rng(seed)
    columns = rng.normal(size=(200, 12))
    columns[:, 6:] = columns[:, :6] + 0.05 * rng.normal(size=(200, 6))
    hessian, gradient = columns.T @ columns, 100 * rng.normal(size=12)
    at = np.where(rng.random(12) < 0.5, 0.0, rng.normal(size=12))
    kinks = np.where(np.arange(12) == 0, 0.0, 60.0)
    way = lasso_direction(hessian, gradient, at, kinks)
    end, slope = at + way, gradient + hessian @ way
    zero = (end == 0) & (kinks > 0)
    assert 0 < zero.sum() < 11
    assert (np.abs(slope[zero]) <= kinks[zero] + 1e-6).all()
    assert slope[~zero] + (kinks * np.sign(end))[~zero] == pytest.approx(0, abs=1e-6)


def test_errors_under_a_penalty():
    """Those of the estimate that it draws to 0, by its own formula."""
    model = same(in_plain(fitting("gaussian", params := GlmParams(alpha=0.05))))
    _, matrix, own = by_glum(model, "gaussian", params)
    x = np.hstack([np.ones((len(matrix), 1)), matrix])
    information = x.T * own.weight @ x
    penalty = np.diag([0.0] + [0.05 * own.weight.sum()] * matrix.shape[1])
    inverse = np.linalg.inv(information + penalty)
    errors = np.sqrt(model.dispersion * np.diag(inverse @ information @ inverse))
    assert [model.intercept_error, *model.errors] == pytest.approx(errors, rel=1e-9)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_fit_by_l_bfgs_comes_to_the_same(family):
    """The oracle of linear models over columns, with all of them in one place."""
    params = GlmParams(tolerance=1e-9)
    model = same(in_plain(fitting(family, params)))
    features, every = part((table()[0], rows(family)), rows(family).train)
    matrix = model.part.design.matrix(features)
    fit = asyncio.run(guest_fit([], {"all": matrix}, every, params))
    assert model.part.coefficients == pytest.approx(fit.coefficients["all"], abs=1e-6)
    assert model.deviance == pytest.approx(fit.deviance, rel=1e-10)
    assert model.explained == pytest.approx(fit.explained, abs=1e-8)


def test_over_a_server_the_model_is_the_same_to_the_last_bit():
    params = GlmParams()
    plain = same(in_plain(fitting("poisson", params, rules=BINNED)))
    ends = over_server(fitting("poisson", params, rules=BINNED))
    assert same(ends) == plain and ends["server"] == list(NAMES)
    assert_as_glum(plain, by_glum(plain, "poisson", params)[0])


@settings(max_examples=12)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=2), st.integers(0, 9))
def test_however_rows_are_parted_the_model_is_that_of_all(cuts, seed):
    """Also where a client has few rows, or none."""
    owner = np.searchsorted(np.sort(cuts), np.random.default_rng(seed).random(ROWS))
    owner = np.minimum(owner, len(cuts))
    owner[0] = len(cuts)
    params = GlmParams()
    model, whole = (
        same(in_plain(fitting("gamma", params, own))) for own in (owner, np.zeros(ROWS, int))
    )
    assert model.part.coefficients == pytest.approx(whole.part.coefficients, abs=1e-11)
    assert model.errors == pytest.approx(whole.errors, rel=1e-9)


# Labels.


def test_a_client_may_have_one_class_alone_or_no_claim():
    for family in ("logistic", "poisson", "tweedie"):
        label = np.where(OWNER == 1, 0.0, rows(family).label)
        whole = with_label(family, label)
        model = same(in_plain(fitting(family, params := GlmParams(), whole=whole)))
        assert_as_glum(model, by_glum(model, family, params, whole=whole)[0])


@pytest.mark.parametrize(
    ("family", "label", "words"),
    [
        ("logistic", np.zeros(ROWS), "the label of all clients has only one class"),
        ("logistic", np.ones(ROWS), "the label of all clients has only one class"),
        ("poisson", np.zeros(ROWS), "the label is 0 in every row of all clients"),
        ("poisson", np.where(np.arange(ROWS) == 5, -1.0, 1.0), "the label must not be negative"),
        ("logistic", np.where(np.arange(ROWS) == 5, 0.5, 1.0), "the label must be 0 or 1"),
        ("gamma", np.where(np.arange(ROWS) == 5, 0.0, 1.0), "the label must be above 0"),
        ("gaussian", np.where(np.arange(ROWS) == 5, np.nan, 1.0), "the label must be a finite"),
    ],
)
def test_labels_that_cannot_be_fitted(family, label, words):
    with pytest.raises(DataError, match=f"^{words}"):
        in_plain(fitting(family, GlmParams(), whole=with_label(family, label)))


def test_no_row_has_a_weight():
    whole = table()[0], replace(rows("poisson"), weight=np.zeros(ROWS))
    with pytest.raises(DataError, match="no client has a row that trains, or all of them weigh nothing"):
        in_plain(fitting("poisson", GlmParams(), whole=whole))


def test_a_label_that_columns_tell_without_error():
    zone = table()[0]["zone"]
    label = np.where(zone == "north", 0.0, rows("poisson").label + 1)
    with pytest.raises(DataError, match=r"^the label is separable"):
        in_plain(
            fitting("logistic", GlmParams(), whole=with_label("logistic", (label > 0).astype(float)))
        )
    model = same(in_plain(fitting("poisson", GlmParams(alpha=1e-4), whole=with_label("poisson", label))))
    assert model.converged


@pytest.mark.parametrize("unit", [1e-40, 1.0, 1e40])
@pytest.mark.parametrize("family", ["gaussian", "gamma", "tweedie"])
def test_the_unit_of_the_label_does_not_matter(family, unit):
    due = same(in_plain(fitting(family, GlmParams())))
    model = same(
        in_plain(fitting(family, GlmParams(), whole=with_label(family, rows(family).label * unit)))
    )
    scale = unit if family == "gaussian" else 1.0
    assert np.array(model.part.coefficients) / scale == pytest.approx(due.part.coefficients, rel=1e-9)
    assert np.array(model.errors) / scale == pytest.approx(due.errors, rel=1e-7)
    assert model.converged and model.iterations <= due.iterations + 1


def test_labels_without_noise_end_the_fit():
    features = changed(power=np.nan_to_num(table()[0]["power"]))[0]
    whole = features, replace(rows("gaussian"), label=2 + features["value"] / 500)
    model = same(in_plain(fitting("gaussian", GlmParams(), whole=whole)))
    assert model.converged and model.iterations <= 3
    assert model.explained == pytest.approx(1)


def test_more_columns_than_rows():
    few = np.arange(ROWS) < 6
    whole = part((table()[0], replace(rows("gaussian"), weight=np.ones(ROWS))), few)
    owner = OWNER[few] % 2
    rules = replace(RULES, min_level_rows=1)
    with pytest.raises(DataError, match="linear combination"):
        in_plain(fitting("gaussian", GlmParams(), owner, whole=whole, rules=rules))
    model = same(in_plain(fitting("gaussian", GlmParams(alpha=0.1), owner, whole=whole, rules=rules)))
    assert model.dispersion is None and model.errors is None and model.converged


def test_a_fit_that_may_not_go_on():
    model = same(in_plain(fitting("poisson", GlmParams(max_iterations=2))))
    assert not model.converged and model.iterations == 2 and model.gradient > 1e-6


@pytest.mark.parametrize("family", ["gamma", "tweedie"])
@pytest.mark.parametrize("seed", [0, 1])
def test_numbers_far_from_all_others_do_not_lead_astray(family, seed):
    """Newton's direction is far too long at first, or leads where scores are infinite."""
    draw, size = np.random.default_rng(seed), 200
    heavy = draw.pareto(1.6, size)
    features = {"heavy": heavy, "even": draw.normal(size=size)}
    score = np.clip(draw.normal() + heavy / 20 - features["even"], -12, 12)
    label = np.exp(score) * draw.gamma(0.7, 1 / 0.7, size) + 1e-9
    every = np.ones(size, np.bool_)
    own = Training(label, draw.lognormal(0, 2, size), every, ~every, loss_of(family))
    fits = fitting(
        family,
        params := GlmParams(),
        np.arange(size) % 3,
        whole=(features, own),
        schema=Schema(("heavy", "even")),
    )
    model = same(in_plain(fits))
    assert model.converged and model.iterations <= 15
    fitted, matrix, _ = by_glum(model, family, params, whole=(features, own))
    scores_of = [model.intercept + matrix @ model.part.coefficients, fitted.linear_predictor(matrix)]
    losses = [own.loss.mean(score, own.label, own.weight) for score in scores_of]
    assert losses[0] <= losses[1] * (1 + 1e-12)
