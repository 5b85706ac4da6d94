"""Rows of a made-up table that lie at several clients, and linear models over them."""

from dataclasses import replace
from functools import cache

import glum
import numpy as np

from vfl.learn.design import Rules
from vfl.learn.losses import loss_of
from vfl.protocols.common.course import GuestCourse
from vfl.protocols.common.rows import Training
from vfl.protocols.pooled.bins import Schema
from vfl.protocols.pooled.glm import fit_client

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
    return model.intercept + model.part.scores(features, len(next(iter(features.values()))))


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
        l1_ratio=params.l1_ratio,
        fit_intercept=params.fit_intercept,
        gradient_tol=1e-10 if params.l1_ratio else 1e-13,
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


def changed(**columns):
    return {**table()[0], **columns}, rows("poisson")


def with_label(family, label):
    return table()[0], replace(rows(family), label=label)
