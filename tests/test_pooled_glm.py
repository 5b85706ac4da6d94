"""Linear models over the rows of several clients, beside those of the pooled rows."""

import asyncio
from dataclasses import replace
from functools import cache

import glum
import msgspec
import numpy as np
import pytest
from clients import in_plain, over_server, with_ends
from hypothesis import given, settings
from hypothesis import strategies as st

from vfl.errors import ConfigError, DataError, PeerError, PeerLost, PeerStopped
from vfl.jobs.resume import _array, _parts
from vfl.learn.design import MISSING, OTHER, Design, Rules
from vfl.learn.losses import loss_of
from vfl.learn.params import GlmParams
from vfl.protocols.common.checkpoints import Checkpoints
from vfl.protocols.common.course import GuestCourse
from vfl.protocols.common.rows import Training
from vfl.protocols.linear.fitting import guest_fit
from vfl.protocols.pooled.adding import Absences
from vfl.protocols.pooled.bins import Schema
from vfl.protocols.pooled.columns import pooled_design
from vfl.protocols.pooled.glm import PooledGlmState, fit_client

NAMES = ("ada", "bea", "cleo")
ROWS = 800
FAMILIES = ("poisson", "gaussian", "logistic", "gamma", "tweedie")
SCHEMA = Schema(("power", "value", "zone", "age"), {"zone": ["north", "south", "east"]})
RULES = Rules(missing="level", min_level_rows=5)
BINNED = replace(RULES, binned=("age",), bins=4)  # takes many totals more


@cache
def table():
    """Columns of all rows, with missing values and a level that was not agreed on."""
    rng = np.random.default_rng(0)
    power = rng.normal(5, 3, ROWS)
    power[rng.random(ROWS) < 0.1] = np.nan
    zone = rng.choice(["north", "south", "east", "west", "far"], ROWS).astype(object)
    zone[rng.random(ROWS) < 0.05] = None
    age = rng.integers(18, 80, ROWS).astype(float)
    features = {"power": power, "value": rng.gamma(2, 1000, ROWS), "zone": zone, "age": age}
    score = -1 + 0.1 * np.nan_to_num(power) + features["value"] / 4000
    score += (zone == "north") * 0.5 - (age < 30) * 0.4
    return features, score


@cache
def rows(family):
    """Labels, weights and offsets of all rows, an eighth of which do not train."""
    rng = np.random.default_rng(1)
    _, score = table()
    exposure = rng.uniform(0.1, 1, ROWS)
    mean = np.exp(score)
    label = {
        "poisson": lambda: rng.poisson(mean * exposure),
        "gaussian": lambda: score + rng.normal(0, 1, ROWS),
        "logistic": lambda: rng.random(ROWS) < 1 / (1 + np.exp(-score)),
        "gamma": lambda: mean * rng.gamma(2, 0.5, ROWS) + 1e-9,
        "tweedie": lambda: np.where(rng.random(ROWS) < 0.4, 0, mean * rng.gamma(2, 0.5, ROWS)),
    }[family]().astype(np.float64)
    weight = rng.uniform(0.5, 2, ROWS)
    weight[::50] = 0
    train = np.arange(ROWS) % 8 != 0
    offset = np.log(exposure) if family in ("poisson", "logistic") else None
    return Training(label, weight, train, ~train, loss_of(family), offset)


OWNER = np.searchsorted([0.2, 0.3], np.random.default_rng(2).random(ROWS))  # uneven parts


def part(whole, mask):
    """Some of a table's rows."""
    features, every = whole
    own = Training(
        every.label[mask],
        every.weight[mask],
        every.train[mask],
        every.validation[mask],
        every.loss,
        None if every.offset is None else every.offset[mask],
    )
    return {name: values[mask] for name, values in features.items()}, own


def scores(model, features):
    """Without offset."""
    return model.intercept + model.part.scores(features, len(features["value"]))


def fitting(family, params, owner=OWNER, courses=None, whole=None, rules=RULES, schema=SCHEMA):
    """A role for each client."""
    every = whole or (table()[0], rows(family))

    def role(k):
        features, own = part(every, owner == k)
        course = (courses or {}).get(NAMES[k], GuestCourse())

        async def fit(adder):
            model, score = await fit_client(adder, features, own, schema, rules, params, course=course)
            known = scores(model, features)
            assert np.array_equal(score, known if own.offset is None else own.offset + known)
            return model

        return fit

    return {NAMES[k]: role(k) for k in range(int(owner.max()) + 1)}


def same(ends):
    """The one model that all clients have."""
    models = [ends[name] for name in NAMES if name in ends]
    assert all(model == models[0] for model in models)
    return models[0]


def by_glum(model, family, params, mask=None, whole=None):
    """glum's fit of the pooled rows that train and weigh anything, the model's columns of them, and
    these."""
    features, every = whole or (table()[0], rows(family))
    used = every.train & (every.weight > 0)
    used = used if mask is None else used & mask
    own, own_rows = part((features, every), used)
    matrix = model.part.design.matrix(own).dense()
    distribution = {
        "logistic": "binomial",
        "gaussian": "normal",
        "tweedie": glum.TweedieDistribution(params.tweedie_power),
    }
    regression = glum.GeneralizedLinearRegressor(
        family=distribution.get(family, family),
        link="log" if family in ("poisson", "gamma", "tweedie") else "auto",
        alpha=params.alpha,
        l1_ratio=0,
        fit_intercept=params.fit_intercept,
        gradient_tol=1e-13,
        max_iter=1000,
    )
    given_rows = {"sample_weight": own_rows.weight, "offset": own_rows.offset}
    return regression.fit(matrix, own_rows.label, **given_rows), matrix, own_rows


def assert_as_glum(model, fitted):
    """Coefficients to 1e-8 of a standard error, and to 1e-8 on standardised columns."""
    ours = np.array([model.intercept, *model.part.coefficients])
    apart = np.abs(ours - np.array([fitted.intercept_, *fitted.coef_]))
    free = model.intercept_error is not None
    errors = np.array([*([model.intercept_error] if free else []), *model.errors])
    assert (apart[0 if free else 1 :] < 1e-8 * errors).all()
    assert (apart < 1e-8).all()


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


# Columns.


def as_other(features):
    """The columns as of a table with the agreed levels alone."""
    agreed = {*SCHEMA.levels["zone"], None}
    zone = [value if value in agreed else OTHER for value in features["zone"]]
    return {**features, "zone": np.array(zone, object)}


@pytest.mark.parametrize("missing", ["mean", "median", "level"])
def test_columns_are_prepared_as_those_of_the_pooled_rows(missing):
    rules = replace(BINNED, missing=missing, min_level_rows=30, base={"zone": "south"})
    features = table()[0]

    def role(k):
        own = {name: values[k == OWNER] for name, values in features.items()}
        return lambda adder: pooled_design(adder, own, SCHEMA, rules)

    ends = in_plain({NAMES[k]: role(k) for k in range(3)})
    made = ends["ada"]
    assert ends["bea"] == ends["cleo"] == made
    due = Design.fit(as_other(features), rules)
    zone, age = made.factors
    assert zone == due.factors[0]
    assert set(zone.levels) == {"north", "south", "east", OTHER, MISSING}
    for ours, theirs in zip(made.covariates, due.covariates, strict=True):
        for number in ("mean", "deviation"):
            assert getattr(ours, number) == pytest.approx(getattr(theirs, number), rel=1e-14)
        close = 2.0**-22 * ours.deviation if missing == "median" else 1e-12 * ours.deviation
        middle = np.sort(features[ours.name][~np.isnan(features[ours.name])])[(ours.rows - 1) // 2]
        assert abs(ours.fill - (middle if missing == "median" else theirs.fill)) < close
        assert (ours.indicator, ours.rows, ours.missing) == (
            theirs.indicator,
            theirs.rows,
            theirs.missing,
        )
    # Ages are whole: so are the edges between them, which are quantiles.
    assert all(edge.is_integer() for edge in age.edges) and len(age.edges) == 3
    counts = np.bincount(np.searchsorted(age.edges, features["age"]), minlength=4)
    assert sorted(age.rows) == sorted(counts.tolist())
    assert np.abs(counts / ROWS - 0.25).max() < 0.04  # an age is 1.6 % of the rows
    assert age.base == age.levels[int(np.argmax(age.rows))]
    assert np.array_equal(made.matrix(features).codes, made.matrix(as_other(features)).codes)


@settings(max_examples=25)
@given(
    st.lists(st.sampled_from([0.1, 0.25, 1 / 3, 2.0, 17.5, 1e-7, 3e9]), min_size=1), st.integers(2, 6)
)
def test_edges_are_short_and_part_rows_as_long_ones_do(values, bins):
    values = np.repeat([*values, -1.0], 40)
    rules = Rules(binned=("x",), bins=bins, min_level_rows=1)
    owner = np.arange(len(values)) % 2

    def role(k):
        return lambda adder: pooled_design(adder, {"x": values[owner == k]}, Schema(("x",)), rules)

    if len(set(values.tolist())) < 2:
        return
    made = same_design(in_plain({name: role(k) for k, name in enumerate(NAMES[:2])}))
    (factor,) = made.factors
    assert all(float(f"{edge:.2e}") == edge for edge in factor.edges)  # three digits
    due = Design.fit({"x": values}, rules)
    assert np.array_equal(made.matrix({"x": values}).codes, due.matrix({"x": values}).codes)


def same_design(ends):
    assert ends["ada"] == ends["bea"]
    return ends["ada"]


def test_levels_that_were_not_agreed_on_are_one():
    features = table()[0]
    model = same(in_plain(fitting("poisson", GlmParams())))
    factor = model.part.design.factors[0]
    assert factor.base == OTHER  # here it has the most rows
    used = rows("poisson").train
    assert factor.rows[0] == sum(value in ("west", "far") for value in features["zone"][used])
    # Later ones are as well, unless they are known and were joined.
    made = replace(factor, base="north", joined=("south",), levels=("north", "east", OTHER))
    new = np.array(["mars", "south", "east", "north", OTHER], object)
    assert made.codes(new).tolist() == [2, 0, 1, 0, 2]
    assert replace(made, levels=("north", "east")).codes(new).tolist() == [0, 0, 1, 0, 0]


def changed(**columns):
    return {**table()[0], **columns}, rows("poisson")


ONES = np.ones(ROWS)
ODD = np.where(OWNER == 0, np.inf, ONES)


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        ({"value": ONES}, "column 'value' holds one value only: leave it out"),
        ({"value": ONES * 0.1}, "column 'value' holds one value only: leave it out"),
        ({"value": ONES * np.nan}, "column 'value' holds no value: leave it out"),
        ({"value": ODD}, "column 'value' holds numbers beyond 1e.100: give it in another unit"),
        ({"age": ODD}, "column 'age' holds an infinite number"),
        ({"zone": np.array(["north"] * ROWS, object)}, "column 'zone' holds one value only"),
        ({"zone": np.array([None] * ROWS, object)}, "column 'zone' holds no value"),
        ({"age": ONES * 40}, "column 'age' cannot be cut into bins of 5 rows .min_level_rows.: do not"),
        ({"age": ONES * np.nan}, "column 'age' holds no value: leave it out"),
    ],
)
def test_columns_that_cannot_be_fitted(columns, words):
    with pytest.raises(DataError, match=f"^a linear model cannot use the columns: {words}") as raised:
        in_plain(fitting("poisson", GlmParams(), whole=changed(**columns), rules=BINNED))
    assert "column '" not in raised.value.for_peer


def test_tables_that_are_not_of_the_schema():
    for columns, words in (
        (
            {"value": np.array(["a"] * ROWS, object)},
            "column 'value' holds categories, the job has it as",
        ),
        ({"zone": ONES}, "column 'zone' holds numbers, the job has it as categories"),
    ):
        with pytest.raises(ConfigError, match=words):
            in_plain(fitting("poisson", GlmParams(), whole=changed(**columns)))
    with pytest.raises(ConfigError, match="names no column to train on"):
        in_plain(fitting("poisson", GlmParams(), schema=Schema(())))


def test_rules_that_do_not_fit_the_columns():
    for rules, words in (
        (replace(RULES, binned=("zone",)), "'zone' is categorical: only numbers are cut into bins"),
        (replace(RULES, binned=("valu",)), "there is no column 'valu'"),
        (replace(RULES, base={"value": "x"}), "'value' is numeric and not binned"),
        (replace(RULES, base={"zone": "mars"}), "'zone' has no level 'mars' to be the base"),
    ):
        with pytest.raises(DataError, match=words):
            in_plain(fitting("poisson", GlmParams(), rules=rules))


def test_a_column_that_is_a_combination_of_others_is_named():
    features = table()[0]
    power = np.nan_to_num(features["power"])
    whole = changed(power=power, value=3 * power - 7)
    with pytest.raises(
        DataError, match=r"^over the rows of all clients column 'value' is a linear comb"
    ):
        in_plain(fitting("poisson", GlmParams(), whole=whole))
    # A penalty makes it one; and what is a combination at one client alone is none.
    assert same(in_plain(fitting("poisson", GlmParams(alpha=0.01), whole=whole))).converged
    own = np.where(OWNER == 0, 3 * power - 7, features["value"])
    model = same(
        in_plain(fitting("poisson", params := GlmParams(), whole=changed(power=power, value=own)))
    )
    assert_as_glum(model, by_glum(model, "poisson", params, whole=changed(power=power, value=own))[0])


# Labels.


def with_label(family, label):
    return table()[0], replace(rows(family), label=label)


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


# Going on after a kill.


def kept():
    """Courses that keep all states, by client."""
    states = {name: [] for name in NAMES}
    courses = {
        name: GuestCourse(checkpoints=Checkpoints(None, own.append)) for name, own in states.items()
    }
    return states, courses


def test_a_fit_goes_on_from_any_step_to_the_same_model():
    params = GlmParams()
    states, courses = kept()
    whole = same(in_plain(fitting("tweedie", params, courses=courses)))
    assert [state.done for state in states["ada"]] == list(range(1, whole.iterations + 1))
    for step in range(len(states["ada"])):
        # As they are read again from the store.
        again = {
            name: GuestCourse(
                checkpoints=Checkpoints(
                    msgspec.msgpack.decode(
                        msgspec.msgpack.encode(own[step], enc_hook=_parts),
                        type=PooledGlmState,
                        dec_hook=_array,
                    )
                )
            )
            for name, own in states.items()
        }
        assert same(in_plain(fitting("tweedie", params, courses=again))) == whole


def test_clients_that_go_on_from_different_steps_are_named():
    params = GlmParams()
    states, courses = kept()
    in_plain(fitting("poisson", params, courses=courses))
    again = {
        name: GuestCourse(checkpoints=Checkpoints(own[1 if name == "bea" else 2]))
        for name, own in states.items()
    }
    with pytest.raises(PeerError, match=r"^bea broke the protocol: it sent a part of another total"):
        over_server(fitting("poisson", params, courses=again))
    with pytest.raises(ValueError, match="the state of a fit of other columns"):
        in_plain(fitting("poisson", GlmParams(fit_intercept=False), courses=again))


# Clients that are gone.

FRAMES = with_ends(fitting("poisson", GlmParams()), Absences(True))["frames"]["bea"]


@pytest.mark.parametrize("after", range(1, FRAMES, 5))
def test_the_others_end_at_the_optimum_of_their_own_rows(after):
    params = GlmParams()
    fits = fitting("poisson", params)
    ends = with_ends(fits, Absences(without=True), cut={"bea": after})
    model = ends["ada"]
    assert ends["cleo"] == model
    left = model.parties == ("ada", "cleo")
    # Whoever is gone once the last total is on its way has its rows in it.
    assert left or (model.parties == NAMES and after >= FRAMES - 4)
    mask = OWNER != 1 if left and after < FRAMES - 6 else None
    if mask is None and left:
        return  # the steps were over the rows of all, the standard errors over those of the others
    assert model.converged
    assert_as_glum(model, by_glum(model, "poisson", params, mask)[0])


def test_or_it_ends_for_all():
    fits = fitting("poisson", GlmParams())
    ends = with_ends(fits, Absences(), cut={"bea": FRAMES // 2})
    assert isinstance(ends["server"], PeerLost)
    assert str(ends["ada"]) == str(ends["cleo"]) == "server stopped the job: the connection to bea broke"


def test_an_error_of_one_clients_own_rows_ends_it_for_the_others():
    whole = with_label("poisson", np.where((OWNER == 2) & (np.arange(ROWS) > 700), -1.0, 1.0))
    ends = with_ends(fitting("poisson", GlmParams(), whole=whole), Absences())
    assert isinstance(ends["cleo"], DataError) and "in" in str(ends["cleo"])
    assert isinstance(ends["ada"], PeerStopped) and "-1" not in str(ends["ada"])


@pytest.mark.parametrize(
    "odd",
    [
        fitting("poisson", GlmParams(alpha=1.0)),
        fitting("gamma", GlmParams()),
        fitting("poisson", GlmParams(), rules=replace(BINNED, bins=5)),
        fitting("poisson", GlmParams(), schema=replace(SCHEMA, levels={"zone": ["north", "south"]})),
    ],
)
def test_clients_with_other_settings_are_told(odd):
    with pytest.raises(
        ConfigError, match=r"^the clients' columns, levels or settings of the model differ"
    ):
        over_server({**fitting("poisson", GlmParams()), "cleo": odd["cleo"]})


def test_offsets_that_are_too_far_apart():
    offset = np.where(OWNER == 1, 2000.0, 0.0)
    whole = table()[0], replace(rows("poisson"), offset=offset)
    with pytest.raises(DataError, match="too far apart to be summed"):
        in_plain(fitting("poisson", GlmParams(), whole=whole))


# Clients that cheat.


class Lying:
    """An adder of a client that adds other numbers to totals of some kind."""

    def __init__(self, adder, kind, change):
        self._adder, self._kind, self._change = adder, kind, change
        self.name, self.clients = adder.name, adder.clients

    async def total(self, values, what):
        return await self._adder.total(
            self._change(values) if what.startswith(self._kind) else values, what
        )


@pytest.mark.parametrize(
    "kind", ["rows of levels", "sums of squares", "rows that train", "the constant", "step 2", "end"]
)
def test_totals_that_cannot_be_are_refused(kind):
    """Here a client takes away more than the others add."""
    honest = fitting("poisson", GlmParams())
    liar = {"bea": lambda adder: honest["bea"](Lying(adder, kind, lambda values: -9 * values))}
    with pytest.raises((PeerError, DataError)) as raised:
        in_plain(honest | liar)
    assert isinstance(raised.value, PeerError) or kind == "rows that train"


@pytest.mark.parametrize("kind", ["sums of numbers", "sums of squares", "the constant", "step", "sizes"])
def test_any_numbers_of_one_client_end_in_an_error_or_a_model(kind):
    honest = fitting("poisson", GlmParams(max_iterations=8))
    draw = np.random.default_rng(0)

    def random(values):
        return draw.integers(-(2**62), 2**62, values.shape)

    liar = {"bea": lambda adder: honest["bea"](Lying(adder, kind, random))}
    try:
        model = same(in_plain(honest | liar))
    except (PeerError, DataError, ConfigError):
        return
    assert np.isfinite([model.intercept, *model.part.coefficients]).all()
